/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/spill.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

/* Units of one ticket at one node. In its bucket, older ones of its ticket before it. */
struct out {
    struct list node;
    uint32_t owner, at, count;
    uint64_t ticket, asked_ms, sent_ms;
    bool is_canceled; /* and its node told; what is sent later begins anew behind it */
    size_t size;
    uint8_t request[];
};

struct spill {
    struct list *buckets; /* by owner and ticket */
    size_t n_buckets, n;  /* a power of two; of them all */
    uint64_t n_units;
};

static struct list *make_buckets(size_t n)
{
    struct list *buckets = xcalloc(n, sizeof *buckets);

    for (size_t i = 0; i < n; i++)
        list_init(&buckets[i]);
    return buckets;
}

struct spill *spill_create(void)
{
    struct spill *s = xcalloc(1, sizeof *s);

    s->n_buckets = 16;
    s->buckets = make_buckets(s->n_buckets);
    return s;
}

void spill_destroy(struct spill *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each_safe(p, &s->buckets[i]) free(list_entry(p, struct out, node));
    free(s->buckets);
    free(s);
}

/* --- actions --- */

static struct spill_action *add(struct spill_actions *out, struct spill_action a)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 8 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n] = a;
    return &out->v[out->n++];
}

void spill_actions_clear(struct spill_actions *out)
{
    for (size_t i = 0; i < out->n; i++)
        free(out->v[i].request);
    out->n = 0;
}

/* count of them are here again. */
static void come_back(const struct out *o, uint32_t count, struct spill_actions *out)
{
    struct spill_action a = {.kind = o->is_canceled ? SPILL_CANCELED : SPILL_BACK,
                             .owner = o->owner,
                             .node = o->at,
                             .ticket = o->ticket,
                             .asked_ms = o->asked_ms,
                             .count = count};

    if (count == 0)
        return;
    if (!o->is_canceled) {
        a.size = o->size;
        a.request = xmalloc(o->size + 1);
        memcpy(a.request, o->request, o->size);
    }
    add(out, a);
}

/* --- what is out --- */

static struct list *bucket_of(const struct spill *s, uint32_t owner, uint64_t ticket)
{
    uint64_t hash = (ticket * 0x9e3779b97f4a7c15u) ^ ((uint64_t)owner * 0xc2b2ae3d27d4eb4fu);

    return &s->buckets[(hash ^ hash >> 32) & (s->n_buckets - 1)];
}

static bool is_of(const struct out *o, uint32_t owner, uint64_t ticket)
{
    return o->owner == owner && o->ticket == ticket;
}

/* The oldest. */
static struct out *find(const struct spill *s, uint32_t owner, uint64_t ticket, uint32_t node)
{
    list_for_each(p, bucket_of(s, owner, ticket))
    {
        struct out *o = list_entry(p, struct out, node);
        if (is_of(o, owner, ticket) && o->at == node)
            return o;
    }
    return NULL;
}

static void drop(struct spill *s, struct out *o)
{
    s->n--;
    s->n_units -= o->count;
    list_remove(&o->node);
    free(o);
}

static void grow(struct spill *s)
{
    struct list *old = s->buckets;
    size_t n_old = s->n_buckets;

    s->n_buckets *= 2;
    s->buckets = make_buckets(s->n_buckets);
    for (size_t i = 0; i < n_old; i++)
        list_for_each_safe(p, &old[i])
        {
            struct out *o = list_entry(p, struct out, node);
            list_remove(&o->node);
            list_append(bucket_of(s, o->owner, o->ticket), &o->node);
        }
    free(old);
}

void spill_sent(struct spill *s, const struct spill_units *u, const void *request, size_t size)
{
    struct out *o = NULL;

    if (u->count == 0)
        return;
    list_for_each(p, bucket_of(s, u->owner, u->ticket))
    {
        struct out *it = list_entry(p, struct out, node);
        if (is_of(it, u->owner, u->ticket) && it->at == u->node && !it->is_canceled
            && it->count <= UINT32_MAX - u->count)
            o = it;
    }
    if (o == NULL) {
        if (s->n == s->n_buckets)
            grow(s);
        o = xcalloc(1, sizeof *o + size);
        *o = (struct out){.owner = u->owner,
                          .ticket = u->ticket,
                          .at = u->node,
                          .asked_ms = u->asked_ms,
                          .size = size};
        memcpy(o->request, request, size);
        list_append(bucket_of(s, u->owner, u->ticket), &o->node);
        s->n++;
    }
    o->asked_ms = u->asked_ms < o->asked_ms ? u->asked_ms : o->asked_ms;
    o->sent_ms = u->sent_ms;
    o->count += u->count;
    s->n_units += u->count;
}

/* Up to count units leave, the oldest first, and come back if out is given; how many. */
static uint32_t leave(struct spill *s,
                      uint32_t owner,
                      uint64_t ticket,
                      uint32_t node,
                      uint32_t count,
                      struct spill_actions *out)
{
    uint32_t left = count;
    struct out *o;

    while (left > 0 && (o = find(s, owner, ticket, node)) != NULL) {
        uint32_t some = left < o->count ? left : o->count;
        if (out != NULL)
            come_back(o, some, out);
        o->count -= some;
        s->n_units -= some;
        left -= some;
        if (o->count == 0)
            drop(s, o);
    }
    return count - left;
}

uint32_t spill_answered(struct spill *s,
                        uint32_t owner,
                        uint64_t ticket,
                        uint32_t node,
                        uint32_t count)
{
    return leave(s, owner, ticket, node, count, NULL);
}

void spill_rejected(struct spill *s,
                    uint32_t owner,
                    uint64_t ticket,
                    uint32_t node,
                    uint32_t count,
                    struct spill_actions *out)
{
    leave(s, owner, ticket, node, count, out);
}

void spill_canceled(struct spill *s, uint32_t owner, uint64_t ticket, struct spill_actions *out)
{
    list_for_each(p, bucket_of(s, owner, ticket))
    {
        struct out *o = list_entry(p, struct out, node);
        if (!is_of(o, owner, ticket) || o->is_canceled)
            continue;
        o->is_canceled = true;
        add(out,
            (struct spill_action){.kind = SPILL_CANCEL,
                                  .owner = owner,
                                  .node = o->at,
                                  .ticket = ticket});
    }
}

void spill_owner_died(struct spill *s, uint32_t owner, struct spill_actions *out)
{
    size_t first = out->n;

    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each_safe(p, &s->buckets[i])
        {
            struct out *o = list_entry(p, struct out, node);
            size_t k = first;
            if (o->owner != owner)
                continue;
            while (k < out->n && out->v[k].node != o->at)
                k++;
            if (k == out->n)
                add(out, (struct spill_action){.kind = SPILL_GONE, .owner = owner, .node = o->at});
            drop(s, o);
        }
}

void spill_node_died(struct spill *s, uint32_t node, struct spill_actions *out)
{
    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each_safe(p, &s->buckets[i])
        {
            struct out *o = list_entry(p, struct out, node);
            if (o->at != node)
                continue;
            come_back(o, o->count, out);
            drop(s, o);
        }
}

/* --- queries --- */

void spill_each(const struct spill *s, spill_each_f each, void *arg)
{
    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each(p, &s->buckets[i])
        {
            const struct out *o = list_entry(p, struct out, node);
            if (o->is_canceled)
                continue;
            each(arg,
                 &(struct spill_units){.owner = o->owner,
                                       .node = o->at,
                                       .count = o->count,
                                       .ticket = o->ticket,
                                       .asked_ms = o->asked_ms,
                                       .sent_ms = o->sent_ms},
                 o->request,
                 o->size);
        }
}

uint64_t spill_count(const struct spill *s, uint32_t node)
{
    uint64_t n = 0;

    if (node == 0)
        return s->n_units;
    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each(p, &s->buckets[i])
        {
            const struct out *o = list_entry(p, struct out, node);
            n += o->at == node ? o->count : 0;
        }
    return n;
}

void spill_selfcheck(const struct spill *s)
{
    uint64_t n_units = 0;
    size_t n = 0;

    for (size_t i = 0; i < s->n_buckets; i++)
        list_for_each(p, &s->buckets[i])
        {
            const struct out *o = list_entry(p, struct out, node);
            ASSERT(o->count > 0 && bucket_of(s, o->owner, o->ticket) == &s->buckets[i]);
            for (const struct list *q = p->next; q != &s->buckets[i]; q = q->next) {
                const struct out *later = list_entry(q, struct out, node);
                if (is_of(later, o->owner, o->ticket) && later->at == o->at)
                    ASSERT(o->is_canceled || o->count > UINT32_MAX - later->count);
            }
            n_units += o->count;
            n++;
        }
    ASSERT(n == s->n && n_units == s->n_units);
}
