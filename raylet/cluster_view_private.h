/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_CLUSTER_VIEW_PRIVATE_H
#define RAYLET_CLUSTER_VIEW_PRIVATE_H
/*
 * How the view lies in memory. Nodes are rows, in the order of their numbers; what they have of one
 * resource is a column: arrays by cell, of those rows that have any of it, in their order.
 *
 *   cluster_view.c         rows: news, debits, ranks
 *   cluster_view_column.c  columns, found by name
 *   cluster_view_pick.c    which row takes a unit: the hybrid policy
 *
 * rank: 0 while less than half of its critical resource is used, else 1 + the 62nds of the other
 * half; + GPU if it has one. HELD or NONE: it is to take nothing.
 */
#include "raylet/cluster_view.h"

#define GPU   64
#define HELD  128 /* for the moment: it has refused what it should have taken */
#define NONE  255 /* it is draining; as a key: has too little */
#define BLOCK 128 /* keys that are counted at once: as many as a byte can count */

struct column {
    char name[RESOURCE_NAME_MAX];
    struct column *next; /* of the same hash */
    unsigned at;         /* in columns */
    unsigned n, room;    /* cells */
    uint32_t *row;
    int64_t *total, *available; /* available: reported less what was debited since */
    int64_t *reported;
};

struct row {
    uint32_t number;
    bool is_draining;
    bool is_held, has_rejected; /* rejected: nothing is to wait there */
    uint64_t due_ms;            /* then debits and hold end; 0: there are none */
    uint32_t n_waiting, n_sent;
    struct column **has; /* NODE_RESOURCES_MAX of them; apart, for a walk over the rows */
    unsigned n_has;
};

struct cluster_view {
    uint32_t self;
    uint64_t random;
    struct row *rows;
    uint8_t *rank; /* by row */
    uint8_t *keys; /* by cell, of one pick; then NONE up to a whole block */
    unsigned n_rows, room;
    uint64_t next_due_ms; /* the first of the rows' */
    struct column **columns, **buckets;
    unsigned n_columns, columns_room, n_buckets; /* buckets: a power of two */
};

/* --- cluster_view_column.c --- */
/* NULL: nobody has any of it. */
struct column *view_find_column(const struct cluster_view *v, const char *name);
struct column *view_make_column(struct cluster_view *v, const char *name);
void view_free_column(struct column *c);
/* The first cell of this row or a later one. */
unsigned view_cell_at(const struct column *c, uint32_t row);
/* The row's cell, or c->n. */
unsigned view_find_cell(const struct column *c, uint32_t row);
/* Its amounts are to be filled in. */
unsigned view_insert_cell(struct column *c, uint32_t row);
/* The column goes with its last cell. */
void view_remove_cell(struct cluster_view *v, struct column *c, unsigned i);

/* --- cluster_view.c --- */
/* The node's row, or v->n_rows. */
uint32_t view_find_row(const struct cluster_view *v, uint32_t number);
/* Debits that are due end. */
void view_expire(struct cluster_view *v, uint64_t now_ms);

#endif /* RAYLET_CLUSTER_VIEW_PRIVATE_H */
