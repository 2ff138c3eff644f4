/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The primary copy of an object is gone, with its node: its owner has its raylet ask all others for
 * a copy, and the first that can makes it the primary one (seek.c decides; docs/design/objects.md).
 *
 * Who keeps one learns of the owner by that: the request is the owner's, a guest there, whose death
 * it is told, so that what was kept goes with its owner as well as by its FREE.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

void seek_run_init(struct node *n)
{
    n->seeks = seeks_create();
}

void seek_run_fini(struct node *n)
{
    seeks_destroy(n->seeks);
    n->seeks = NULL;
    free(n->seek_actions.v);
    n->seek_actions = (struct seek_actions){0};
}

/* --- for an owner here --- */

static void answer(struct process *p,
                   uint64_t ticket,
                   uint32_t node,
                   uint64_t place,
                   uint64_t offset)
{
    struct wire_store_found w = {.ticket = ticket, .place = place, .offset = offset, .node = node};

    node_send(p, WIRE_STORE_FOUND, &w, sizeof w);
}

static void ask(struct node *n, const struct seek_action *a, struct process *owner)
{
    struct peer *p = peers_find(n->peers, a->node);
    struct peer_header h = {.type = PEER_SEEK};
    struct peer_seek w = {.id = a->id,
                          .counter = a->key.counter,
                          .owner = a->key.owner,
                          .index = a->key.index,
                          .attempt = a->key.attempt,
                          .keep = a->kind == SEEK_KEEP};

    if (a->kind == SEEK_KEEP) {
        guest_run_will_tell(owner, a->node);
        h.from = owner->number;
        h.job = owner->job->number;
    }
    peers_send(p, FRAME_CONTROL, &h, &w, sizeof w);
}

static void act(struct node *n)
{
    for (size_t i = 0; i < n->seek_actions.n; i++) {
        const struct seek_action *a = &n->seek_actions.v[i];
        struct process *owner = guest_run_find(n, a->owner);
        if (a->kind == SEEK_ANSWER)
            answer(owner, a->ticket, a->node, a->place, a->offset);
        else
            ask(n, a, owner);
    }
    n->seek_actions.n = 0;
}

/* All other nodes; of drivers' nodes, which nobody can dial, only that of this job, which has
 * dialled whoever has work of it. In memory to be freed. */
static uint32_t *list_nodes(const struct process *p, size_t *n)
{
    const struct peers *ps = p->node->peers;
    const struct peer *first = peers_next(ps, NULL), *q = first;
    uint32_t *nodes = NULL;
    size_t room = 0;

    *n = 0;
    for (bool more = q != NULL; more; more = q != first) {
        if (*n == room) {
            room = room == 0 ? 16 : 2 * room;
            nodes = xrealloc(nodes, room * sizeof *nodes);
        }
        if (!peer_only_dials(q) || peer_number(q) == p->job->home)
            nodes[(*n)++] = peer_number(q);
        q = peers_next(ps, q);
    }
    return nodes;
}

void seek_run_on_seek(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct transfer_object at;
    struct wire_store_seek w;
    size_t n_nodes;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct transfer_key key = pull_run_key(&w.key);
    if (!p->welcomed || key.owner != p->number) {
        node_refuse(p, "STORE_SEEK for what another owns");
        return;
    }
    if (n->seeks == NULL) {
        answer(p, w.ticket, 0, 0, 0);
        return;
    }
    if (transfer_find(n->transfer, &key, true, &at)) {
        answer(p, w.ticket, n->number, at.place, at.offset);
        return;
    }
    uint32_t *nodes = list_nodes(p, &n_nodes);
    seek_begin(n->seeks, &key, w.ticket, w.node, nodes, n_nodes, loop_now_ms(), &n->seek_actions);
    free(nodes);
    act(n);
}

void seek_run_on_gone(const struct process *p)
{
    if (p->node->seeks != NULL && p->number > 0)
        seek_on_owner_gone(p->node->seeks, p->number);
}

void seek_run_on_node_lost(struct node *n, uint32_t node)
{
    seek_on_node_lost(n->seeks, node, &n->seek_actions);
    act(n);
}

void seek_run_on_time(struct node *n, uint64_t now_ms)
{
    seek_on_time(n->seeks, now_ms, &n->seek_actions);
    act(n);
}

uint64_t seek_run_next_deadline(const struct node *n)
{
    return n->seeks != NULL ? seek_next_deadline(n->seeks) : UINT64_MAX;
}

/* --- what raylets say --- */

/* The owner, elsewhere, will be told of as long as it lives. */
static bool has_owner(struct node *n, struct peer *from, const struct peer_header *h)
{
    const struct process *g = h->from > 0 ? guest_run_get(n, from, h->from) : NULL;

    return g != NULL && (g->job == NULL || g->job->number == h->job);
}

void seek_run_on_asked(struct node *n,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size)
{
    struct peer_header back = {.type = PEER_FOUND};
    struct transfer_object at;
    struct peer_seek w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct transfer_key key = {.counter = w.counter,
                               .owner = w.owner,
                               .index = w.index,
                               .attempt = w.attempt};
    struct peer_found found = {.id = w.id, .keep = w.keep};
    bool may = w.keep == 0 || (h->from == w.owner && has_owner(n, from, h));
    if (may && transfer_find(n->transfer, &key, w.keep != 0, &at)) {
        found.place = at.place;
        found.offset = at.offset;
    }
    peers_send(from, FRAME_CONTROL, &back, &found, sizeof found);
}

void seek_run_on_found(struct node *n, const struct peer *from, const uint8_t *body, size_t size)
{
    struct peer_found w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    seek_on_answer(n->seeks,
                   w.id,
                   peer_number(from),
                   w.keep != 0,
                   w.place,
                   w.offset,
                   &n->seek_actions);
    act(n);
}
