/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Tasks lie in a ring in order of arrival: first those of the lease, then held
 * ones, whose lease the raylet has not named yet (n_now and n_held). An entry keeps its buffer when
 * its task is gone, so warm work allocates nothing; a buffer that grew long is let go. The claimed
 * task is swapped out of the ring.
 */
#include "lib/core/inbox.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define RING     128         /* slots of the lease and of the next one */
#define KEEP_MAX (64u << 10) /* longer buffers are not kept */

struct inbox {
    uint64_t lease; /* 0: none yet */
    bool ended;     /* nothing more of it */
    bool revoked, blocked, claimed;
    bool pushed;  /* it had a PUSH */
    bool closing; /* the deadline has passed: what still arrives goes back */
    uint64_t deadline_ns;
    uint64_t first_by_ns; /* of revoked: not to be waited for any longer */
    uint64_t started;
    uint64_t next_lease; /* named before this one ended; 0: none */
    uint64_t slots;      /* unclaimed tasks of the lease */
    struct inbox_task ring[RING];
    unsigned head, n_now, n_held;
    struct inbox_task current;
};

static void add(struct inbox_actions *out, struct inbox_action a)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = a;
}

struct inbox *inbox_create(void)
{
    struct inbox *b = xcalloc(1, sizeof *b);

    b->ended = true; /* no lease yet */
    return b;
}

void inbox_destroy(struct inbox *b)
{
    if (b == NULL)
        return;
    for (int i = 0; i < RING; i++)
        free(b->ring[i].push);
    free(b->current.push);
    free(b);
}

static struct inbox_task *at(struct inbox *b, unsigned i)
{
    return &b->ring[(b->head + i) % RING];
}

static void swap(struct inbox_task *a, struct inbox_task *c)
{
    struct inbox_task t = *a;

    *a = *c;
    *c = t;
}

static void let_go(struct inbox_task *t)
{
    t->size = 0;
    if (t->room <= KEEP_MAX)
        return;
    free(t->push);
    t->push = NULL;
    t->room = 0;
}

/* Take the last count tasks of the lease out, last pushed first; their slots. */
static uint64_t pop(struct inbox *b, unsigned count)
{
    uint64_t mask = 0;

    if (count > b->n_now)
        count = b->n_now;
    for (unsigned i = 0; i < count; i++) {
        struct inbox_task *t = at(b, b->n_now - 1 - i);
        mask |= 1ull << t->slot;
        let_go(t);
    }
    b->n_now -= count;
    b->slots &= ~mask;
    for (unsigned i = 0; i < b->n_held && count > 0; i++) /* close the gap before held ones */
        swap(at(b, b->n_now + i), at(b, b->n_now + count + i));
    return mask;
}

static void returned(struct inbox *b, uint64_t mask, bool asked, struct inbox_actions *out)
{
    add(out,
        (struct inbox_action){.kind = INBOX_RETURNED,
                              .lease = b->lease,
                              .mask = mask,
                              .asked = asked});
}

/* Held tasks of leases that will never begin here. */
static void bounce_stale(struct inbox *b, struct inbox_actions *out)
{
    unsigned n = 0;

    for (unsigned i = 0; i < b->n_held; i++) {
        struct inbox_task *t = at(b, b->n_now + i);
        if (t->lease > b->lease) {
            swap(at(b, b->n_now + n++), t);
            continue;
        }
        add(out, (struct inbox_action){.kind = INBOX_BOUNCED, .lease = t->lease, .asked = t->slot});
        let_go(t);
    }
    b->n_held = n;
}

static void begin(struct inbox *b, uint64_t lease)
{
    b->lease = lease;
    b->next_lease = 0;
    b->ended = b->revoked = b->blocked = b->pushed = b->closing = false;
    b->started = 0;
    /* its held tasks move to the front, in order: the ring is stable under this selection */
    for (unsigned i = 0, n = b->n_held; i < n; i++) {
        if (at(b, i)->lease != lease)
            continue;
        for (unsigned k = i; k > b->n_now; k--)
            swap(at(b, k), at(b, k - 1));
        b->slots |= 1ull << at(b, b->n_now)->slot;
        b->n_now++;
        b->n_held--;
        b->pushed = true;
    }
}

bool inbox_lease_begin(struct inbox *b, uint64_t lease)
{
    if (lease <= b->lease)
        return false; /* the raylet never uses a number again */
    if (!b->ended) {
        b->next_lease = lease;
        return false;
    }
    begin(b, lease);
    return true;
}

/* When a revoked lease ends though nothing came. */
static uint64_t ends_at(const struct inbox *b)
{
    return b->pushed || b->deadline_ns < b->first_by_ns ? b->deadline_ns : b->first_by_ns;
}

static void end_if_due(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    if (!b->revoked || b->ended)
        return;
    if (now_ns >= b->deadline_ns) {
        b->closing = true;
        if (b->n_now > 0)
            returned(b, pop(b, b->n_now), false, out);
    }
    if (b->claimed || b->n_now > 0 || (!b->pushed && now_ns < ends_at(b)))
        return;
    b->ended = true;
    add(out, (struct inbox_action){.kind = INBOX_ENDED, .lease = b->lease});
    if (b->next_lease != 0)
        begin(b, b->next_lease);
}

static bool is_taken(struct inbox *b, uint64_t lease, uint8_t slot)
{
    if (b->n_now + b->n_held == RING)
        return true;
    if (lease == b->lease)
        return (b->slots & 1ull << slot) != 0 || (b->claimed && b->current.slot == slot);
    for (unsigned i = 0; i < b->n_held; i++) {
        const struct inbox_task *t = at(b, b->n_now + i);
        if (t->lease == lease && t->slot == slot)
            return true;
    }
    return false;
}

bool inbox_push(struct inbox *b,
                uint64_t lease,
                uint8_t slot,
                uint8_t phase,
                const void *body,
                uint32_t size,
                struct inbox_actions *out)
{
    bounce_stale(b, out);
    if (slot >= INBOX_SLOTS)
        return false;
    if (lease < b->lease || (lease == b->lease && b->ended)) {
        add(out, (struct inbox_action){.kind = INBOX_BOUNCED, .lease = lease, .asked = slot});
        return true;
    }
    if (is_taken(b, lease, slot))
        return false;
    if (lease == b->lease && (b->blocked || b->closing)) {
        returned(b, 1ull << slot, false, out);
        return true;
    }
    struct inbox_task *t = at(b, b->n_now + b->n_held);
    if (t->room < size) {
        uint32_t room = size < 256 ? 256 : size + size / 2;
        uint8_t *p = try_alloc(t->push, room);
        if (p == NULL)
            return false;
        t->push = p;
        t->room = room;
    }
    if (size > 0)
        memcpy(t->push, body, size);
    t->size = size;
    t->lease = lease;
    t->slot = slot;
    t->phase = phase & 1;
    if (lease != b->lease) {
        b->n_held++;
        return true;
    }
    for (unsigned k = b->n_now + b->n_held; k > b->n_now; k--)
        swap(at(b, k), at(b, k - 1));
    b->n_now++;
    b->slots |= 1ull << slot;
    b->pushed = true;
    return true;
}

const struct inbox_task *inbox_claim(struct inbox *b, uint64_t waiting, uint64_t *started)
{
    unsigned i = 0;

    if (b->n_now == 0 || b->claimed)
        return NULL;
    if ((b->slots & ~waiting) != 0)
        while ((waiting >> at(b, i)->slot & 1) != 0)
            i++;
    for (; i > 0; i--)
        swap(at(b, i), at(b, i - 1));
    swap(&b->current, at(b, 0));
    b->head = (b->head + 1) % RING;
    b->n_now--;
    b->claimed = true;
    uint64_t bit = 1ull << b->current.slot;
    b->slots &= ~bit;
    b->started = b->current.phase ? b->started | bit : b->started & ~bit;
    *started = b->started;
    return &b->current;
}

void inbox_finish(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    ASSERT(b->claimed);
    b->claimed = false;
    b->blocked = false;
    let_go(&b->current);
    end_if_due(b, now_ns, out);
}

void inbox_take_back(struct inbox *b, uint64_t lease, uint32_t count, struct inbox_actions *out)
{
    uint64_t mask = lease == b->lease && !b->ended ? pop(b, count) : 0;

    add(out,
        (struct inbox_action){.kind = INBOX_RETURNED, .lease = lease, .mask = mask, .asked = 1});
}

void inbox_block(struct inbox *b, struct inbox_actions *out)
{
    b->blocked = true;
    returned(b, pop(b, b->n_now), false, out);
}

void inbox_unblock(struct inbox *b)
{
    b->blocked = false;
}

void inbox_revoke(struct inbox *b,
                  uint64_t lease,
                  uint64_t deadline_ns,
                  uint64_t now_ns,
                  struct inbox_actions *out)
{
    if (lease != b->lease || b->ended)
        return;
    if (!b->revoked || deadline_ns < b->deadline_ns)
        b->deadline_ns = deadline_ns;
    if (!b->revoked)
        b->first_by_ns = now_ns + INBOX_FIRST_NS;
    b->revoked = true;
    end_if_due(b, now_ns, out);
}

void inbox_owner_gone(struct inbox *b)
{
    pop(b, b->n_now);
}

void inbox_on_time(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    bounce_stale(b, out);
    end_if_due(b, now_ns, out);
}

uint64_t inbox_next_deadline(const struct inbox *b)
{
    return b->revoked && !b->ended && !b->closing ? ends_at(b) : UINT64_MAX;
}

uint64_t inbox_lease(const struct inbox *b)
{
    return b->ended ? 0 : b->lease;
}

bool inbox_is_empty(const struct inbox *b)
{
    return b->n_now == 0;
}

void inbox_selfcheck(const struct inbox *b)
{
    uint64_t slots = 0;

    ASSERT(b->n_now + b->n_held <= RING);
    for (unsigned i = 0; i < b->n_now + b->n_held; i++) {
        const struct inbox_task *t = &b->ring[(b->head + i) % RING];
        ASSERT(t->slot < INBOX_SLOTS && t->phase <= 1 && t->size <= t->room);
        if (i >= b->n_now)
            continue;
        ASSERT(t->lease == b->lease && (slots & 1ull << t->slot) == 0);
        slots |= 1ull << t->slot;
    }
    ASSERT(slots == b->slots);
    ASSERT(!b->ended || (!b->claimed && b->n_now == 0));
    ASSERT(!b->claimed || b->current.lease == b->lease);
}
