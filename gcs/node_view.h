/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_NODE_VIEW_H
#define GCS_NODE_VIEW_H
/*
 * What the GCS tells raylets of a node, and what a raylet tells of itself: a hint (INV-37), never
 * older than about a second while all live.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"

#define NODE_RESOURCES_MAX 64
#define NODE_RESOURCE_UNIT 10000

struct node_view_resource {
    char name[48];
    int64_t total, available; /* 1/10000 */
};

struct node_view {
    struct unique_id id; /* of one incarnation of a raylet */
    uint32_t number;     /* a process number of its own */
    bool is_alive, is_head, is_draining;
    bool is_driver; /* of a driver on a machine without a node: no task runs there */
    char name[64], address[64], hostname[64];
    int32_t node_port, object_port;
    char death[160];    /* of a dead one: why */
    uint64_t version;   /* at the GCS: grows with each change of any node */
    uint32_t n_waiting; /* units queued there that fit nowhere just now */
    uint32_t n_resources;
    struct node_view_resource resources[NODE_RESOURCES_MAX];
};

/* What a command asks this node through the GCS; borrowed. */
struct node_question {
    uint64_t number;
    const char *method; /* as the node's port has it */
    const void *request;
    size_t size;
};

#endif /* GCS_NODE_VIEW_H */
