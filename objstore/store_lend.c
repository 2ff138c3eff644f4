/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "objstore/store_private.h"

/* --- regions --- */

/* How many of p's extents begin at or before first. */
static size_t n_before(const struct process *p, uint32_t first)
{
    size_t low = 0, high = p->n_lent;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->lent[middle].first <= first)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void insert_extent(struct process *p, size_t at, struct extent x)
{
    if (p->n_lent == p->lent_room) {
        p->lent_room = p->lent_room == 0 ? 8 : p->lent_room * 2;
        p->lent = xrealloc(p->lent, p->lent_room * sizeof *p->lent);
    }
    memmove(&p->lent[at + 1], &p->lent[at], (p->n_lent - at) * sizeof *p->lent);
    p->lent[at] = x;
    p->n_lent++;
}

static void remove_extent(struct process *p, size_t at)
{
    p->n_lent--;
    memmove(&p->lent[at], &p->lent[at + 1], (p->n_lent - at) * sizeof *p->lent);
}

/* A process that gets what follows what it has uses both as one. */
static void add_extent(struct process *p, struct extent x)
{
    size_t at = n_before(p, x.first);

    if (at > 0 && p->lent[at - 1].first + p->lent[at - 1].n == x.first)
        p->lent[--at].n += x.n;
    else
        insert_extent(p, at, x);
    if (at + 1 < p->n_lent && p->lent[at].first + p->lent[at].n == p->lent[at + 1].first) {
        p->lent[at].n += p->lent[at + 1].n;
        remove_extent(p, at + 1);
    }
}

/* Take [first, first + n) out of what is lent to p. false: it is not in one extent of p's. */
bool store_carve(struct process *p, uint32_t first, uint32_t n)
{
    size_t at = n_before(p, first);

    if (at == 0)
        return false;
    struct extent *x = &p->lent[--at];
    uint32_t before = first - x->first;
    if (before >= x->n || n > x->n - before)
        return false;
    struct extent rest = {first + n, x->n - before - n};
    x->n = before;
    if (before > 0 && rest.n > 0) {
        insert_extent(p, at + 1, rest);
    } else if (rest.n > 0) {
        *x = rest;
    } else if (before == 0) {
        remove_extent(p, at);
    }
    return true;
}

void store_take_back(struct store *s, uint32_t first, uint32_t n)
{
    arena_free(s->arena, first, n);
    s->lent_blocks -= n;
    s->has_more = true;
}

/* --- requests --- */

static void lend(struct store *s,
                 uint32_t slot,
                 uint64_t ticket,
                 struct extent x,
                 uint32_t n_places,
                 struct store_actions *out)
{
    struct process *p = &s->processes[slot];
    struct store_action action = {.kind = STORE_LENT,
                                  .slot = slot,
                                  .ticket = ticket,
                                  .offset = (uint64_t)x.first * STORE_BLOCK,
                                  .size = (uint64_t)x.n * STORE_BLOCK,
                                  .n_places = n_places};

    add_extent(p, x);
    for (uint32_t i = 0; i < n_places; i++)
        action.places[i] = store_entry_lend(s, slot);
    p->is_recallable = true;
    p->lent_ms = s->now_ms;
    s->lent_blocks += x.n;
    if (x.first + x.n > s->touched_blocks)
        s->touched_blocks = x.first + x.n;
    if (s->used_blocks + s->lent_blocks > s->peak_blocks)
        s->peak_blocks = s->used_blocks + s->lent_blocks;
    store_act(out, &action);
}

static bool try_lend(struct store *s,
                     uint32_t slot,
                     uint64_t ticket,
                     uint32_t n,
                     uint32_t n_places,
                     struct store_actions *out)
{
    struct extent x = {.n = n};

    if (n_places > s->n_free_entries || arena_alloc(s->arena, n, &x.first) != 0)
        return false;
    lend(s, slot, ticket, x, n_places, out);
    return true;
}

static void refuse(struct store *s,
                   uint32_t slot,
                   uint64_t ticket,
                   uint64_t size,
                   struct store_actions *out)
{
    store_act(out,
              &(struct store_action){.kind = STORE_REFUSED,
                                     .slot = slot,
                                     .ticket = ticket,
                                     .size = size,
                                     .too_large = size > s->config.capacity});
    s->n_refused++;
}

void store_drop_request(struct store *s, struct request *q)
{
    list_remove(&q->node);
    s->processes[q->slot].n_requests--;
    s->n_waiting--;
    s->has_more = true; /* whom it kept from passing may pass */
    free(q);
}

/* Serve who fits, the oldest first. slack: the blocks by which all that wait in front may still be
 * passed. */
void store_pump(struct store *s, struct store_actions *out)
{
    uint64_t slack = UINT64_MAX;
    uint32_t too_long = UINT32_MAX; /* no extent is as long */

    s->has_more = false;
    list_for_each_safe(n, &s->queue)
    {
        struct request *q = list_entry(n, struct request, node);
        if (slack == 0)
            break;
        if (q->need <= slack && q->need < too_long) {
            if (try_lend(s, q->slot, q->ticket, q->need, q->n_places, out)) {
                for (struct list *o = s->queue.next; o != n; o = o->next)
                    list_entry(o, struct request, node)->passed += q->need;
                slack -= slack == UINT64_MAX ? 0 : q->need;
                store_drop_request(s, q);
                continue;
            }
            if (q->n_places <= s->n_free_entries)
                too_long = q->need;
        }
        if (q->need - q->passed < slack)
            slack = q->need - q->passed;
    }
    s->has_more = false; /* who was served in this pass kept nobody from anything */
}

void store_refuse_late(struct store *s, struct store_actions *out)
{
    while (!list_empty(&s->queue)) { /* the oldest is due first: all wait equally long */
        struct request *q = list_entry(s->queue.next, struct request, node);
        if (q->deadline_ms > s->now_ms)
            return;
        refuse(s, q->slot, q->ticket, (uint64_t)q->need * STORE_BLOCK, out);
        store_drop_request(s, q);
    }
}

/* Not from who was lent something a moment ago: two that need all there is would take it from each
 * other for ever, and neither would ever use it. */
void store_recall(struct store *s, struct store_actions *out)
{
    for (uint32_t i = 0; i < s->n_live && s->n_waiting > 0; i++) {
        struct process *p = &s->processes[s->live[i]];
        if (!p->is_recallable || s->now_ms - p->lent_ms < STORE_SETTLE_MS
            || (p->n_lent == 0 && list_empty(&p->entries)))
            continue;
        p->is_recallable = false;
        store_act(out, &(struct store_action){.kind = STORE_RECALL, .slot = s->live[i]});
    }
}

void store_lend(struct store *s,
                uint32_t slot,
                uint64_t ticket,
                uint64_t need,
                uint64_t want,
                uint32_t n_places,
                uint64_t now_ms,
                struct store_actions *out)
{
    struct process *p = process_of(s, slot);

    s->now_ms = now_ms;
    need = need == 0 ? 1 : need;
    want = want < need ? need : want > s->config.capacity ? s->config.capacity : want;
    n_places = n_places == 0 ? 1 : n_places > STORE_LENT_MAX ? STORE_LENT_MAX : n_places;
    if (n_places >= s->config.n_entries)
        n_places = s->config.n_entries - 1;
    if (need > s->config.capacity || p->n_requests == STORE_REQUESTS_MAX) {
        refuse(s, slot, ticket, need, out);
        return;
    }
    if (s->n_waiting == 0
        && (try_lend(s, slot, ticket, blocks(want), n_places, out)
            || try_lend(s, slot, ticket, blocks(need), n_places, out)))
        return;

    struct request *q = xcalloc(1, sizeof *q);
    q->slot = slot;
    q->ticket = ticket;
    q->need = blocks(need);
    q->n_places = n_places;
    q->deadline_ms = now_ms + s->config.wait_ms;
    list_append(&s->queue, &q->node);
    p->n_requests++;
    s->n_waiting++;
    s->has_more = true;
    s->wants_drain = true;
    store_finish(s, out);
    store_recall(s, out);
}
