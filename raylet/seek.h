/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_SEEK_H
#define RAYLET_SEEK_H
/*
 * Who else has an object whose primary copy is gone? All nodes are asked at once; of those that
 * have a copy one is asked to keep it as the primary one, the next if it cannot any more; each
 * question of an owner is answered once (INV-18). Pure: events and the time come in, actions go
 * out.
 *
 *   node:  asked -> has -> keeping -> kept: the answer
 *            │       └────────┴─────> none: does not have it (any more), died, or was silent
 *            └──────────────────────> none                                for SEEK_MS
 *
 * Nobody is asked to keep one before the node that had the primary copy has answered, which is
 * mostly dead: else there might be two. Who said that it has one is waited for, until it answers or
 * is dead: it may have kept it.
 */
#include <stddef.h>
#include <stdint.h>

#include "raylet/transfer.h"

#define SEEK_MS  10000 /* for nodes to say whether they have a copy */
#define SEEK_MAX 65536 /* of one owner at once; beyond, nobody is asked */

struct seeks;

enum seek_kind {
    SEEK_ASK,    /* node: does it have it? */
    SEEK_KEEP,   /* node: is it to keep it, for the owner */
    SEEK_ANSWER, /* the owner: ticket; node has it, at this place of its store; 0: nobody */
};
struct seek_action {
    enum seek_kind kind;
    uint32_t owner, node; /* process number; node number */
    uint64_t id, ticket;  /* of ours; of the owner */
    struct transfer_key key;
    uint64_t place, offset;
};
struct seek_actions { /* the caller's, zeroed; it sets n = 0 when it has carried them out */
    struct seek_action *v;
    size_t n, room;
};

struct seeks *seeks_create(void);
void seeks_destroy(struct seeks *s);

/* The owner (key.owner) wants to know; had: which had it; nodes: all others that live. */
void seek_begin(struct seeks *s,
                const struct transfer_key *key,
                uint64_t ticket,
                uint32_t had,
                const uint32_t *nodes,
                size_t n,
                uint64_t now_ms,
                struct seek_actions *out);
/* Foreign input. place 0: it does not have it. kept: says who was asked to keep it. */
void seek_on_answer(struct seeks *s,
                    uint64_t id,
                    uint32_t node,
                    bool kept,
                    uint64_t place,
                    uint64_t offset,
                    struct seek_actions *out);
void seek_on_node_lost(struct seeks *s, uint32_t node, struct seek_actions *out);
/* Nothing is answered to it any more. What was kept for it goes with it. */
void seek_on_owner_gone(struct seeks *s, uint32_t owner);
void seek_on_time(struct seeks *s, uint64_t now_ms, struct seek_actions *out);
/* UINT64_MAX: never. */
uint64_t seek_next_deadline(const struct seeks *s);
size_t seek_count(const struct seeks *s);

#endif /* RAYLET_SEEK_H */
