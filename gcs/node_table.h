/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_NODE_TABLE_H
#define GCS_NODE_TABLE_H
/*
 * The nodes of the cluster, one row each. A node id names one incarnation: a raylet that starts
 * again is a new node, and a dead one never comes back (INV-6). Completions as in store.h.
 */
#include "gcs/node_view.h"
#include "gcs/store.h"

enum node_state {
    NODE_ALIVE = 1,
    NODE_DEAD = 2,
};

#define NODE_LABELS_MAX 512

struct node_resource {
    char name[48];
    double amount;
};

struct node_row {
    struct unique_id id;
    uint32_t number; /* a process number of its own; 0: not yet */
    uint32_t state;  /* enum node_state */
    int32_t pid;
    uint64_t start_ms, end_ms; /* wall clock; end 0: alive */
    uint32_t n_cpus;
    char name[64];
    char address[64], hostname[64]; /* where its node service is */
    char socket[108];               /* of its raylet, for drivers on its machine */
    int32_t node_port, object_port;
    uint32_t is_head;
    uint32_t is_driver;           /* no task runs there: node_view.h */
    char death[160];              /* why it died, a sentence */
    char labels[NODE_LABELS_MAX]; /* "key=value,key=value" */
    uint32_t n_resources;
    struct node_resource resources[NODE_RESOURCES_MAX]; /* in total, CPU too */
};

typedef void (*node_row_f)(void *arg, enum err_code code, const struct node_row *row);

/* ERR_EXISTS: this id was registered before, dead or alive. */
void node_table_register(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg);
/* For good. */
void node_table_set_dead(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg);
/* ERR_NOT_FOUND: there is none. */
void node_table_remove(struct store *store,
                       const struct unique_id *id,
                       store_done_f done,
                       void *arg);
/* row NULL unless ERR_NONE. ERR_PROTOCOL: what stands there is no row of ours. */
void node_table_get(struct store *store, const struct unique_id *id, node_row_f done, void *arg);
/* Each that can be read, in the order of their ids, then row NULL with the code of the end. */
void node_table_scan(struct store *store, node_row_f row, void *arg);

#endif /* GCS_NODE_TABLE_H */
