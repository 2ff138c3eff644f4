/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual clock: a heap of events in the order of time, then of posting; the only randomness;
 * and the digest of all that happened. */
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "tests/sim/sim.h"

struct sim sim;

static struct {
    struct sim_event *heap;
    size_t n, room;
    uint64_t order, random, digest;
} queue;

void clock_begin(uint64_t seed)
{
    queue.random = seed * 2654435761u + 88172645463325252u;
    queue.digest = 1469598103934665603u;
    queue.n = 0;
    queue.order = 0;
}

void clock_end(void)
{
    free(queue.heap);
    queue.heap = NULL;
    queue.n = queue.room = 0;
}

uint64_t sim_random(void)
{
    queue.random ^= queue.random << 13;
    queue.random ^= queue.random >> 7;
    queue.random ^= queue.random << 17;
    return queue.random;
}

uint64_t sim_below(uint64_t n)
{
    return (sim_random() >> 16) % n;
}

bool sim_one_in(unsigned n)
{
    return n != 0 && sim_below(n) == 0;
}

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static bool is_work(enum sim_kind k)
{
    return k != TICK && k != DUE && k != TIMER;
}

void sim_post(struct sim_event e)
{
    if (queue.n == queue.room) {
        queue.room = queue.room == 0 ? 1024 : 2 * queue.room;
        queue.heap = xrealloc(queue.heap, queue.room * sizeof *queue.heap);
    }
    e.order = ++queue.order;
    sim.nodes[e.node].n_frames += is_work(e.kind);
    size_t i = queue.n++;
    for (; i > 0 && before(&e, &queue.heap[(i - 1) / 2]); i = (i - 1) / 2)
        queue.heap[i] = queue.heap[(i - 1) / 2];
    queue.heap[i] = e;
}

bool sim_next(struct sim_event *e)
{
    if (queue.n == 0)
        return false;
    *e = queue.heap[0];
    struct sim_event last = queue.heap[--queue.n];
    size_t i = 0;
    for (size_t k = 1; k < queue.n; k = 2 * i + 1) {
        if (k + 1 < queue.n && before(&queue.heap[k + 1], &queue.heap[k]))
            k++;
        if (!before(&queue.heap[k], &last))
            break;
        queue.heap[i] = queue.heap[k];
        i = k;
    }
    queue.heap[i] = last;
    sim.now = e->at;
    sim.nodes[e->node].n_frames -= is_work(e->kind);
    const uint64_t words[] = {e->at,
                              e->kind,
                              e->node,
                              e->slot,
                              e->serial,
                              e->peer,
                              e->id,
                              e->mask,
                              e->task,
                              e->count,
                              e->place,
                              e->phase};
    for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
        queue.digest = (queue.digest ^ words[k]) * 1099511628211u;
    return true;
}

void sim_send(uint64_t *link, struct sim_event e)
{
    uint64_t usual = sim_one_in(8) ? MS : 30000;
    uint64_t at = sim.now + 1000 + sim_below(sim_one_in(256) ? 8 * MS : usual);

    *link = at > *link ? at : *link + 1;
    e.at = *link;
    sim_post(e);
}

uint64_t sim_digest(void)
{
    return queue.digest;
}

void sim_caught(const struct node *n, const char *why)
{
    if (!sim.caught)
        snprintf(sim.why, sizeof sim.why, "node %u: %s", n->number, why);
    sim.caught = true;
}
