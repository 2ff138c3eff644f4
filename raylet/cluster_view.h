/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_CLUSTER_VIEW_H
#define RAYLET_CLUSTER_VIEW_H
/*
 * What this raylet believes of the cluster's nodes, its own among them, and which of them should
 * take a unit of a request: the hybrid policy. A hint (INV-37): the node that is asked decides.
 * What was sent to a node counts as taken there until the node's next report, or for VIEW_DEBIT_MS.
 * Pure: the same calls with the same seed give the same picks.
 */
#include <stdbool.h>
#include <stdint.h>

#include "gcs/node_view.h"
#include "raylet/resources.h"

#define VIEW_DEBIT_MS 3000

struct cluster_view;

enum view_pick {
    VIEW_HERE,       /* it fits on this node */
    VIEW_THERE,      /* it fits on that one, as far as is known: it is to start there now or not */
    VIEW_WAIT_HERE,  /* it fits nowhere just now: on this node it can, or no other is to be asked */
    VIEW_WAIT_THERE, /* nor here, where it never will; on that one it can: it is to wait there */
    VIEW_NOWHERE,    /* no node could ever take it */
};

/* self: this node's number. */
struct cluster_view *cluster_view_create(uint32_t self, uint64_t seed);
void cluster_view_destroy(struct cluster_view *v);

/* News of a node; ends what was debited and said by it. A dead one is forgotten. Of this node only
 * is_draining counts: its resources are told by cluster_view_set_self. */
void cluster_view_set(struct cluster_view *v, const struct node_view *n);
/* The same for this node's ledger: before picks, when it changed. */
void cluster_view_set_self(struct cluster_view *v, const struct resources *from);
void cluster_view_remove(struct cluster_view *v, uint32_t number);

/* The node for one unit that needs n amounts, none of them twice; *number gets it (NOWHERE: this
 * one's). This node is preferred unless another is better: without a GPU for what wants none, or
 * less used, if this one's CPU or memory is half used. */
enum view_pick cluster_view_pick(struct cluster_view *v,
                                 const struct res_amount *need,
                                 unsigned n,
                                 uint64_t now_ms,
                                 uint32_t *number);
/* Whether that other node, which units would rather run on, is to be asked for them: it could take
 * one, and has not refused any since its last report. */
bool cluster_view_may_ask(struct cluster_view *v,
                          uint32_t number,
                          const struct res_amount *need,
                          unsigned n,
                          uint64_t now_ms);
/* k such units are going there, or stay here, to start now. An unknown number is ignored, in the
 * next three, too. */
void cluster_view_debit(struct cluster_view *v,
                        uint32_t number,
                        const struct res_amount *need,
                        unsigned n,
                        uint32_t k,
                        uint64_t now_ms);
/* k units are going there to wait. */
void cluster_view_add_waiting(struct cluster_view *v, uint32_t number, uint32_t k, uint64_t now_ms);
/* The node does not take such a unit and says what it has (n_said 0: nothing). Until its next
 * report nothing is sent there to wait; and nothing at all if that should have been enough. */
void cluster_view_rejected(struct cluster_view *v,
                           uint32_t number,
                           const struct res_amount *need,
                           unsigned n,
                           const struct res_amount *said,
                           unsigned n_said,
                           uint64_t now_ms);

/* Nodes known, this one included. */
unsigned cluster_view_count(const struct cluster_view *v);
/* What is believed to be available; 0 if the node or the name is unknown. */
int64_t cluster_view_available(const struct cluster_view *v, uint32_t number, const char *name);
/* Of all nodes, for i from 0 until it returns false: name borrowed until the next change. */
bool cluster_view_sum(const struct cluster_view *v,
                      unsigned i,
                      const char **name,
                      int64_t *total,
                      int64_t *available);
/* Asserts. */
void cluster_view_selfcheck(const struct cluster_view *v);

#endif /* RAYLET_CLUSTER_VIEW_H */
