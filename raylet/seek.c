/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/seek.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/list.h"
#include "objstore/word_map.h"

enum holder_state { HOLDER_ASKED, HOLDER_HAS, HOLDER_KEEPING, HOLDER_NONE };

struct holder {
    uint32_t node;
    enum holder_state state;
};

/* A question of an owner. */
struct seek {
    struct list node; /* the oldest first */
    struct transfer_key key;
    uint64_t id, ticket;
    uint32_t had;    /* the node of the primary copy */
    uint64_t due_ms; /* UINT64_MAX: nobody is waited for who has not said anything */
    size_t n;
    struct holder holders[];
};

struct seeks {
    struct list all;
    struct word_map by_id, by_owner; /* how many, by its number */
    uint64_t last_id;
    size_t n;
};

struct seeks *seeks_create(void)
{
    struct seeks *s = xcalloc(1, sizeof *s);

    list_init(&s->all);
    return s;
}

static void end(struct seeks *s, struct seek *k)
{
    s->n--;
    word_map_set(&s->by_id, k->id, 0);
    word_map_set(&s->by_owner, k->key.owner, word_map_get(&s->by_owner, k->key.owner) - 1);
    list_remove(&k->node);
    free(k);
}

void seeks_destroy(struct seeks *s)
{
    if (s == NULL)
        return;
    while (!list_empty(&s->all))
        end(s, list_entry(s->all.next, struct seek, node));
    word_map_fini(&s->by_id);
    word_map_fini(&s->by_owner);
    free(s);
}

static struct seek_action *add(struct seek_actions *out,
                               enum seek_kind kind,
                               const struct seek *k,
                               uint32_t node)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 8 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n] = (struct seek_action){.kind = kind,
                                          .owner = k->key.owner,
                                          .node = node,
                                          .id = k->id,
                                          .ticket = k->ticket,
                                          .key = k->key};
    return &out->v[out->n++];
}

static struct holder *find(struct seek *k, enum holder_state state)
{
    for (size_t i = 0; i < k->n; i++)
        if (k->holders[i].state == state)
            return &k->holders[i];
    return NULL;
}

static struct holder *find_node(struct seek *k, uint32_t node)
{
    for (size_t i = 0; i < k->n; i++)
        if (k->holders[i].node == node)
            return &k->holders[i];
    return NULL;
}

/* A holder has changed. k may be gone after. */
static void step(struct seeks *s, struct seek *k, struct seek_actions *out)
{
    struct holder *h = find_node(k, k->had);

    if (find(k, HOLDER_KEEPING) != NULL || (h != NULL && h->state == HOLDER_ASKED))
        return;
    if (h == NULL || h->state != HOLDER_HAS)
        h = find(k, HOLDER_HAS);
    if (h != NULL) {
        h->state = HOLDER_KEEPING;
        add(out, SEEK_KEEP, k, h->node);
    } else if (find(k, HOLDER_ASKED) == NULL) {
        add(out, SEEK_ANSWER, k, 0);
        end(s, k);
    }
}

void seek_begin(struct seeks *s,
                const struct transfer_key *key,
                uint64_t ticket,
                uint32_t had,
                const uint32_t *nodes,
                size_t n,
                uint64_t now_ms,
                struct seek_actions *out)
{
    uint64_t n_open = word_map_get(&s->by_owner, key->owner);
    size_t n_asked = n_open < SEEK_MAX ? n : 0;
    struct seek *k = xcalloc(1, sizeof *k + n_asked * sizeof k->holders[0]);

    k->key = *key;
    k->id = ++s->last_id;
    k->ticket = ticket;
    k->had = had;
    k->due_ms = now_ms + SEEK_MS;
    k->n = n_asked;
    list_append(&s->all, &k->node);
    word_map_set(&s->by_id, k->id, (uintptr_t)k);
    word_map_set(&s->by_owner, key->owner, n_open + 1);
    s->n++;
    for (size_t i = 0; i < n_asked; i++) {
        k->holders[i].node = nodes[i];
        add(out, SEEK_ASK, k, nodes[i]);
    }
    step(s, k, out);
}

void seek_on_answer(struct seeks *s,
                    uint64_t id,
                    uint32_t node,
                    bool kept,
                    uint64_t place,
                    uint64_t offset,
                    struct seek_actions *out)
{
    struct seek *k = id == 0 ? NULL : (struct seek *)(uintptr_t)word_map_get(&s->by_id, id);
    struct holder *h = k == NULL ? NULL : find_node(k, node);

    if (h == NULL || h->state != (kept ? HOLDER_KEEPING : HOLDER_ASKED))
        return; /* too late, or foreign nonsense */
    if (kept && place != 0) {
        struct seek_action *a = add(out, SEEK_ANSWER, k, node);
        a->place = place;
        a->offset = offset;
        end(s, k);
        return;
    }
    h->state = place != 0 ? HOLDER_HAS : HOLDER_NONE;
    step(s, k, out);
}

void seek_on_node_lost(struct seeks *s, uint32_t node, struct seek_actions *out)
{
    list_for_each_safe(n, &s->all)
    {
        struct seek *k = list_entry(n, struct seek, node);
        struct holder *h = find_node(k, node);
        if (h == NULL)
            continue;
        h->state = HOLDER_NONE;
        step(s, k, out);
    }
}

void seek_on_owner_gone(struct seeks *s, uint32_t owner)
{
    if (word_map_get(&s->by_owner, owner) == 0)
        return;
    list_for_each_safe(n, &s->all)
    {
        struct seek *k = list_entry(n, struct seek, node);
        if (k->key.owner == owner)
            end(s, k);
    }
}

void seek_on_time(struct seeks *s, uint64_t now_ms, struct seek_actions *out)
{
    list_for_each_safe(n, &s->all)
    {
        struct seek *k = list_entry(n, struct seek, node);
        if (k->due_ms > now_ms)
            continue;
        k->due_ms = UINT64_MAX;
        for (size_t i = 0; i < k->n; i++)
            if (k->holders[i].state == HOLDER_ASKED)
                k->holders[i].state = HOLDER_NONE;
        step(s, k, out);
    }
}

uint64_t seek_next_deadline(const struct seeks *s)
{
    uint64_t due_ms = UINT64_MAX;

    list_for_each(n, &s->all)
    {
        due_ms = list_entry(n, struct seek, node)->due_ms;
        if (due_ms != UINT64_MAX)
            break; /* who came later is due later */
    }
    return due_ms;
}

size_t seek_count(const struct seeks *s)
{
    return s->n;
}
