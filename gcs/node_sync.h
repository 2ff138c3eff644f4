/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_NODE_SYNC_H
#define GCS_NODE_SYNC_H
/*
 * Which nodes live, what each said of itself last, and in which order that changed. Silence is
 * counted in time during which the GCS listened: that it was stopped or slow kills no node, nor,
 * for a while, that its machine was cut off from all others. Pure: memory only, the clock comes in.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gcs/node_view.h"
#include "lib/base/list.h"

#define NODE_SYNC_TICK_MS    250   /* node_sync_on_time is called this often */
#define NODE_SYNC_SILENCE_MS 6000  /* a node that says nothing so long is dead */
#define NODE_SYNC_DRIVER_MS  30000 /* a driver's node */
#define NODE_SYNC_ALONE_MS   3000  /* nobody is heard for so long: the GCS may be cut off */
/* In so much time that counts, from the start, a node whose row was lost has come, and said what it
 * has; who comes later is not known. As long as other nodes wait for it (gcs/client_sync.c). */
#define NODE_SYNC_RETURN_MS 15000

struct node_sync;

enum node_sync_state {
    NODE_SYNC_ALIVE,
    NODE_SYNC_DYING, /* its death is decided and will be told once it is durable */
    NODE_SYNC_DEAD,
};

/* A node; read only, but packed is the caller's to fill: bytes of the view, freed when that
 * changes. */
struct node_sync_row {
    struct list by_version, by_heard; /* by_heard: of living ones */
    struct node_sync_row *next;       /* of the same bucket */
    struct unique_id id;
    uint32_t number;
    enum node_sync_state state;
    bool is_driver;
    uint64_t version, heard_ms, report;
    uint64_t knows;         /* it has been told of all changes up to this version */
    uint64_t died_ms;       /* the caller's: of a dead one, by which the oldest is found */
    struct node_view *view; /* a dead one's too, until it is packed */
    char *death;            /* why; NULL: it lives */
    void *packed;
    size_t packed_size;
    void *arg; /* the caller's */
};

/* driver_ms: how long a driver's node may be silent; 0: NODE_SYNC_DRIVER_MS. */
struct node_sync *node_sync_create(uint64_t driver_ms);
void node_sync_destroy(struct node_sync *s); /* NULL is fine */
/* For how long it may take the silence of all nodes of other machines, two at least that fell
 * silent together, for its own; 0, as at first: not at all. */
void node_sync_set_patience(struct node_sync *s, uint64_t ms);

/* Registered, heard of now; death is that of v unless it is alive. One that is known stays as it
 * is. */
struct node_sync_row *node_sync_add(struct node_sync *s, const struct node_view *v);
/* NULL: not known. */
struct node_sync_row *node_sync_find(const struct node_sync *s, const struct unique_id *id);
struct node_sync_row *node_sync_find_number(const struct node_sync *s, uint32_t number);
/* A living node's word of itself: amounts, n_waiting, is_draining. A report that is not newer than
 * the last counts as a heartbeat alone. */
void node_sync_report(struct node_sync *s,
                      struct node_sync_row *row,
                      const struct node_view *said,
                      uint64_t report);
/* Its death is being written; true: it lived. */
bool node_sync_set_dying(struct node_sync_row *row);
/* It could not be written: alive, heard of now. */
void node_sync_revive(struct node_sync *s, struct node_sync_row *row);
/* For good; again is fine. */
void node_sync_set_dead(struct node_sync *s, struct node_sync_row *row, const char *why);
/* What packed was made of is not needed any more: of a dead row. */
void node_sync_shrink(struct node_sync_row *row);
/* The one that died first, if there are more than keep dead ones and all that live have been told
 * of its death; NULL: there is none to be forgotten now. */
struct node_sync_row *node_sync_find_surplus(const struct node_sync *s, size_t keep);
/* A dead one, as if it had never been; its arg is NULL. */
void node_sync_forget(struct node_sync *s, struct node_sync_row *row);

/* Each NODE_SYNC_TICK_MS; one that comes late adds no more than two of them to any silence. */
void node_sync_on_time(struct node_sync *s, uint64_t now_ms);
/* It seems to be cut off: no silence grows. When somebody is heard again all silence begins anew.
 */
bool node_sync_is_waiting(const struct node_sync *s);
/* Time that counted, from the start. */
uint64_t node_sync_listened_ms(const struct node_sync *s);
/* A living node that is silent for too long; NULL: there is none. */
struct node_sync_row *node_sync_find_silent(const struct node_sync *s);
/* How long this one may be. */
uint64_t node_sync_silence_ms(const struct node_sync *s, const struct node_sync_row *row);

/* Of the last change. */
uint64_t node_sync_version(const struct node_sync *s);
/* The first row that changed after that version, then the next of each; NULL: no more. */
struct node_sync_row *node_sync_after(const struct node_sync *s, uint64_t version);
struct node_sync_row *node_sync_next(const struct node_sync *s, const struct node_sync_row *row);

#endif /* GCS_NODE_SYNC_H */
