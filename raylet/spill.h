/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_SPILL_H
#define RAYLET_SPILL_H
/*
 * Units of requests that this raylet has sent to other nodes in their owners' names, so that each
 * is answered once (INV-18): by what that node says to the owner and passes here, or by this
 * raylet, which has it back when the node rejects it or is lost. Pure. Frames of one node come in
 * order.
 *
 *   sent -> answered (granted, canceled, refused there)
 *        -> rejected, or the node died -> back: it waits here again or goes elsewhere;
 *                                         canceled, if its owner has canceled meanwhile
 */
#include <stddef.h>
#include <stdint.h>

struct spill;

enum spill_kind {
    SPILL_BACK,     /* owner, ticket, count, asked_ms, request: the caller's to place anew */
    SPILL_CANCELED, /* owner, ticket, count: to be answered so */
    SPILL_CANCEL,   /* owner, ticket, node: to be told there */
    SPILL_GONE,     /* owner, node: to be told there; once a node */
};

struct spill_action {
    enum spill_kind kind;
    uint32_t owner, node, count;
    uint64_t ticket, asked_ms;
    void *request; /* the actions' own */
    size_t size;
};

struct spill_actions { /* the caller's, zeroed; it clears them when it has carried them out */
    struct spill_action *v;
    size_t n, room;
};

struct spill *spill_create(void);
void spill_destroy(struct spill *s);
/* For the next event; free(v) ends it. */
void spill_actions_clear(struct spill_actions *out);

struct spill_units {
    uint32_t owner, node, count;
    uint64_t ticket;
    uint64_t asked_ms, sent_ms; /* by the owner, the oldest; to the node, the newest */
};
/* They are added to what this ticket has there. request is copied: what it takes to ask anew. An
 * owner's handle must not serve another before spill_owner_died. */
void spill_sent(struct spill *s, const struct spill_units *units, const void *request, size_t size);
/* The node answers so many to the owner: how many of them are its to answer. */
uint32_t spill_answered(struct spill *s,
                        uint32_t owner,
                        uint64_t ticket,
                        uint32_t node,
                        uint32_t count);
/* The node does not take so many; what is not its to answer is ignored. */
void spill_rejected(struct spill *s,
                    uint32_t owner,
                    uint64_t ticket,
                    uint32_t node,
                    uint32_t count,
                    struct spill_actions *out);
/* The owner wants no more of what it asked for so far. */
void spill_canceled(struct spill *s, uint32_t owner, uint64_t ticket, struct spill_actions *out);
/* Nothing is answered to it any more (INV-12). */
void spill_owner_died(struct spill *s, uint32_t owner, struct spill_actions *out);
/* It will answer nothing more. */
void spill_node_died(struct spill *s, uint32_t node, struct spill_actions *out);

/* All that are out and not canceled, in no order. */
typedef void (*spill_each_f)(void *arg,
                             const struct spill_units *units,
                             const void *request,
                             size_t size);
void spill_each(const struct spill *s, spill_each_f each, void *arg);
/* Units that are at this node; 0: at any. */
uint64_t spill_count(const struct spill *s, uint32_t node);
/* Asserts. */
void spill_selfcheck(const struct spill *s);

#endif /* RAYLET_SPILL_H */
