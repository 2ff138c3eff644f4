/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/inbox.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define HELD_MAX 128 /* slots of the lease and of the next one */

struct inbox {
    uint64_t lease; /* 0: none */
    bool ended;     /* nothing more of it */
    bool revoked, blocked, claimed;
    uint64_t deadline_ns;
    uint64_t started;
    /* a ring of tasks in order of arrival; buffers are kept */
    struct inbox_task v[HELD_MAX];
    unsigned head, n;
    struct inbox_task current; /* claimed; its buffer was swapped out of the ring */
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
    return xcalloc(1, sizeof(struct inbox));
}

void inbox_destroy(struct inbox *b)
{
    if (b == NULL)
        return;
    for (int i = 0; i < HELD_MAX; i++)
        free(b->v[i].push);
    free(b->current.push);
    free(b);
}

static struct inbox_task *at(const struct inbox *b, unsigned i)
{
    return (struct inbox_task *)&b->v[(b->head + i) % HELD_MAX];
}

static void swap(struct inbox_task *a, struct inbox_task *c)
{
    struct inbox_task t = *a;

    *a = *c;
    *c = t;
}

static bool is_idle(const struct inbox *b)
{
    return !b->claimed && b->n == 0;
}

static void end_if_due(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    if (!b->revoked || b->ended || b->lease == 0)
        return;
    if (!is_idle(b) && now_ns >= b->deadline_ns) {
        uint64_t mask = 0;
        for (; b->n > 0; b->n--)
            mask |= 1ull << at(b, b->n - 1)->slot;
        if (mask != 0)
            add(out, (struct inbox_action){.kind = INBOX_RETURNED, .lease = b->lease, .mask = mask, .asked = 1});
    }
    if (!is_idle(b))
        return;
    b->ended = true;
    add(out, (struct inbox_action){.kind = INBOX_ENDED, .lease = b->lease});
}

void inbox_lease_begin(struct inbox *b, uint64_t lease)
{
    b->lease = lease;
    b->ended = b->revoked = b->blocked = false;
    b->started = 0;
}

bool inbox_push(struct inbox *b, uint64_t lease, uint8_t slot, uint8_t phase, const void *body, uint32_t size, struct inbox_actions *out)
{
    if (slot >= INBOX_SLOTS || b->n == HELD_MAX)
        return false;
    if (lease < b->lease || (lease == b->lease && b->ended)) {
        add(out, (struct inbox_action){.kind = INBOX_BOUNCED, .lease = lease, .asked = slot});
        return true;
    }
    if (lease == b->lease && b->blocked) {
        add(out, (struct inbox_action){.kind = INBOX_RETURNED, .lease = lease, .mask = 1ull << slot});
        return true;
    }
    struct inbox_task *t = at(b, b->n);
    if (t->room < size) {
        uint32_t room = size < 256 ? 256 : size + size / 2;
        uint8_t *p = try_alloc(t->push, room);
        if (p == NULL)
            return false;
        t->push = p;
        t->room = room;
    }
    memcpy(t->push, body, size);
    t->size = size;
    t->lease = lease;
    t->slot = slot;
    t->phase = phase & 1;
    b->n++;
    return true;
}

const struct inbox_task *inbox_claim(struct inbox *b, uint64_t *started)
{
    if (b->n == 0 || b->claimed || b->ended || at(b, 0)->lease != b->lease)
        return NULL;
    swap(&b->current, at(b, 0));
    b->head = (b->head + 1) % HELD_MAX;
    b->n--;
    b->claimed = true;
    uint64_t bit = 1ull << b->current.slot;
    b->started = b->current.phase ? b->started | bit : b->started & ~bit;
    *started = b->started;
    return &b->current;
}

void inbox_finish(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    ASSERT(b->claimed);
    b->claimed = false;
    b->blocked = false;
    if (b->revoked)
        end_if_due(b, now_ns, out);
}

void inbox_take_back(struct inbox *b, uint64_t lease, uint32_t count, struct inbox_actions *out)
{
    uint64_t mask = 0;

    if (lease == b->lease && !b->ended)
        for (; count > 0 && b->n > 0; count--, b->n--)
            mask |= 1ull << at(b, b->n - 1)->slot;
    add(out, (struct inbox_action){.kind = INBOX_RETURNED, .lease = lease, .mask = mask, .asked = 1});
}

void inbox_block(struct inbox *b, struct inbox_actions *out)
{
    uint64_t mask = 0;

    b->blocked = true;
    for (; b->n > 0; b->n--)
        mask |= 1ull << at(b, b->n - 1)->slot;
    add(out, (struct inbox_action){.kind = INBOX_RETURNED, .lease = b->lease, .mask = mask});
}

void inbox_unblock(struct inbox *b)
{
    b->blocked = false;
}

void inbox_revoke(struct inbox *b, uint64_t lease, uint64_t deadline_ns, uint64_t now_ns, struct inbox_actions *out)
{
    if (lease != b->lease || b->ended)
        return;
    if (!b->revoked || deadline_ns < b->deadline_ns)
        b->deadline_ns = deadline_ns;
    b->revoked = true;
    end_if_due(b, now_ns, out);
}

void inbox_owner_gone(struct inbox *b)
{
    b->n = 0;
}

void inbox_on_time(struct inbox *b, uint64_t now_ns, struct inbox_actions *out)
{
    end_if_due(b, now_ns, out);
}

uint64_t inbox_lease(const struct inbox *b)
{
    return b->ended ? 0 : b->lease;
}

bool inbox_is_empty(const struct inbox *b)
{
    return b->n == 0 || b->ended || at(b, 0)->lease != b->lease;
}

void inbox_selfcheck(const struct inbox *b)
{
    uint64_t seen = 0;

    ASSERT(b->n <= HELD_MAX);
    for (unsigned i = 0; i < b->n; i++) {
        const struct inbox_task *t = at(b, i);
        ASSERT(t->lease >= b->lease && t->slot < INBOX_SLOTS);
        if (t->lease != b->lease)
            continue;
        ASSERT((seen & 1ull << t->slot) == 0);
        seen |= 1ull << t->slot;
    }
    ASSERT(!b->ended || (!b->claimed && b->n == 0) || at(b, 0)->lease > b->lease);
}
