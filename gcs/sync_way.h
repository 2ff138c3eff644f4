/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_SYNC_WAY_H
#define GCS_SYNC_WAY_H
/*
 * Which way a raylet's word goes to a GCS that does not answer: a question on the connection that
 * there is, then on fresh ones, since what TCP has once lost it tries ever more seldom, then
 * through other nodes. Pure: times come in, milliseconds.
 */
#include <stdbool.h>
#include <stdint.h>

#define SYNC_WAY_QUIET_MS 1500 /* an answer is due each second or so */

/* What is to be done, bits. */
enum sync_way_step {
    SYNC_WAY_ASK = 1,    /* a question that is answered at once */
    SYNC_WAY_DIAL = 2,   /* on a fresh connection, the former one is given up */
    SYNC_WAY_OTHERS = 4, /* a report through other nodes */
};

struct sync_way {
    uint64_t heard_ms, tried_ms; /* of the GCS, by its connection */
    uint64_t passed_ms, back_ms; /* through others: sent, answered */
    unsigned n_tried, n_passed;  /* since heard_ms */
    unsigned n_unanswered;       /* of n_passed, the last ones */
};

/* It is as if the GCS had answered now. */
void sync_way_heard(struct sync_way *w, uint64_t now_ms);
/* It has answered through another node. */
void sync_way_heard_by_others(struct sync_way *w, uint64_t now_ms);
/* When sync_way_on_time is to be called. n_nodes: as many may be in the same position, and together
 * they do not bury a GCS that is merely slow. */
uint64_t sync_way_due(const struct sync_way *w, unsigned n_nodes);
/* The steps that are due; they are taken for done. */
unsigned sync_way_on_time(struct sync_way *w, uint64_t now_ms, unsigned n_nodes);
/* The GCS answers by its connection, as far as is known. */
bool sync_way_is_open(const struct sync_way *w);

#endif /* GCS_SYNC_WAY_H */
