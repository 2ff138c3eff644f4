/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_NODE_FILE_H
#define RAYLET_NODE_FILE_H
/*
 * A node that `ray start` started, as other commands of its user find it: its session folder has
 * supervisor.pid, locked as long as its supervisor lives, node.json, and the cluster's token. Any
 * thread.
 */
#include <stdbool.h>
#include <stddef.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "raylet/session.h"

#define NODE_FILE_PATH SESSION_PATH

struct node_file {
    char gcs_address[300]; /* HOST:PORT; empty: not known yet */
    char cluster_id[64], node_id[64], node_name[64], node_ip_address[64];
    char session_dir[NODE_FILE_PATH];
    int node_manager_port, object_manager_port; /* 0: not known */
    int supervisor_pid;
    bool is_head, is_ready;
};

/* As node.json in its session_dir, as a whole or not at all. */
int node_file_write(const struct node_file *f, struct err *err);
/* ERR_NOT_FOUND: there is none. */
int node_file_read(const char *dir, struct node_file *out, struct err *err);

/* This head's cluster is the one that `ray_current_cluster`, beside the sessions, names: as in Ray.
 * If it cannot be written, another user's stays. */
void node_file_set_current(const struct node_file *f);

/* Nodes of this user below temp whose supervisor lives, the newest first, in memory of the
 * caller's; *n of them. NULL: there are none. One that cannot be read yet has its folder and pid
 * alone. */
struct node_file *node_file_list(const char *temp, size_t *n);

/* The token of that node's cluster, in its folder. */
int node_file_save_token(const char *dir, const struct auth_token *t, struct err *err);
int node_file_load_token(const char *dir, struct auth_token *t, struct err *err);

/* What an ended node need not leave: all but its logs and the lock file; ray_current_cluster too,
 * if it was the one. */
void node_file_tidy(const char *dir);
/* The folders of ended nodes of this user below temp, but for the newest few; what is left of the
 * others is tidied. */
void node_file_sweep(const char *temp, size_t kept);

#endif /* RAYLET_NODE_FILE_H */
