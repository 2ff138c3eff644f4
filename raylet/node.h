/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_NODE_H
#define RAYLET_NODE_H
/*
 * The node: wires the parts that decide (lease, worker_pool, resources) to links, the zygote, logs
 * and time. Runs on the loop thread. In a private cluster it lives exactly as long as its driver;
 * so does a driver's node, which joins a cluster for a driver on a machine without a node: it runs
 * no task, and nobody dials it. Else until SIGTERM, and it serves the programs that come by the
 * session's socket.
 */
#include "lib/base/err.h"
#include "lib/net/loop.h"
#include "raylet/resources.h"

#define NODE_MAX_CHANNELS 128

#define NODE_STATUS_FAILED 1 /* it could not start, or not join: the same again will not help */
#define NODE_STATUS_DEAD   3 /* the GCS declared it dead, or its cluster is gone: start a new one */

struct node_config {
    int driver_fd, executable_fd, driver_pid; /* driver_fd -1: not private */
    int ready_fd;                             /* told the session's folder when programs may come */
    const char *session_dir;                  /* NULL: a new one in temp_dir */
    int num_cpus;
    int max_channels; /* direct ones of one process; 0: NODE_MAX_CHANNELS */
    bool log_to_driver;
    int gcs_timeout_ms;           /* of a private one: it ends unless it has joined by then */
    uint64_t object_store_memory; /* bytes; 0: 30 % of what is available */
    const char *temp_dir;
    const char *gcs_address; /* HOST:PORT; NULL: its tables are in this raylet, no other joins */
    const char *node_ip;     /* where others reach this machine; NULL: as the GCS does */
    const char *node_name;   /* NULL: node_ip */
    const char *labels;      /* "key=value,key=value"; NULL: none */
    int node_port;           /* of the node service; 0: any */
    int object_port;         /* of the data port; 0: any */
    uint64_t log_max_bytes;  /* 0: its log is not rotated */
    unsigned log_backups;
    size_t dead_workers; /* so many that have ended are remembered */
    bool is_head;
    struct resources custom; /* names and amounts from 1 on */
};

struct node;

/* Takes the fds. NULL with err; a private one's driver has been told by an ERROR frame. */
struct node *node_create(struct loop *loop, const struct node_config *config, struct err *err);
/* Everything that ended or became ready in this turn is carried out and sent. */
void node_turn_end(void *arg);
/* The exit status, NODE_STATUS_x; *why (unless 0): a sentence, good as long as the node. */
int node_status(const struct node *node, const char **why);
/* Ends zygotes, workers and what they left, removes the session. */
void node_destroy(struct node *node);

#endif /* RAYLET_NODE_H */
