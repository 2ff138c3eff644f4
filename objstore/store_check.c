/* SPDX-License-Identifier: Apache-2.0 */
/* What the object store can say of itself: figures, a walk, and whether its books agree. */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/pin.h"
#include "objstore/store_private.h"

/* --- queries --- */

static uint64_t n_buried(const struct store *s)
{
    uint64_t n = 0;

    list_for_each(m, &s->graves)
    {
        const struct grave *g = list_entry(m, struct grave, node);
        for (size_t i = 0; i < g->n_lent; i++)
            n += g->lent[i].n;
    }
    return n;
}

void store_get_stats(const struct store *s, struct store_stats *out)
{
    *out = (struct store_stats){
        .capacity = s->config.capacity,
        .used = s->used_blocks * STORE_BLOCK,
        .lent = s->lent_blocks * STORE_BLOCK,
        .buried = n_buried(s) * STORE_BLOCK,
        .free = arena_n_free(s->arena) * STORE_BLOCK,
        .largest_free = (uint64_t)arena_largest(s->arena) * STORE_BLOCK,
        .data_bytes = s->data_bytes,
        .peak = s->peak_blocks * STORE_BLOCK,
        .touched = s->touched_blocks * STORE_BLOCK,
        .n_sealed = s->n_sealed,
        .n_lent = s->n_lent,
        .n_freeing = s->n_freeing,
        .n_waiting = s->n_waiting,
        .n_sealed_ever = s->n_sealed_ever,
        .n_freed_ever = s->n_freed_ever,
        .n_bad_records = s->n_bad,
        .n_refused = s->n_refused,
        .n_copies = s->n_copies,
        .n_evicted_ever = s->n_evicted_ever,
    };
}

uint32_t store_next(const struct store *s, uint32_t entry, struct store_use *use)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    ASSERT(entry < s->config.n_entries);
    if (entry == 0) { /* a walk is not an event: what a settle has seen is not mixed with it */
        for (uint32_t i = 1; i < s->n_fresh; i++)
            s->entries[i].looked = 0;
        store_look_at_pins(s, UINT64_MAX);
    }
    for (entry++; entry < s->n_fresh; entry++) {
        const struct entry *e = &s->entries[entry];
        if (state_of(s, entry) == STORE_ENTRY_FREE)
            continue;
        if (use != NULL)
            *use = (struct store_use){.n_pins = e->looked == UINT64_MAX ? e->n_pins : 0,
                                      .n_holds = e->n_holds,
                                      .n_blocks = e->n_blocks,
                                      .slot = e->slot,
                                      .is_copy = e->is_copy,
                                      .is_allocated =
                                          e->n_blocks == 0
                                          || arena_is_allocated(s->arena, e->first, e->n_blocks)};
        return entry;
    }
    return 0;
}

bool store_next_holding(const struct store *s,
                        uint32_t slot,
                        uint64_t *at,
                        struct store_holding *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    ASSERT(slot < s->config.n_slots && s->processes[slot].share != NULL);
    const struct process *p = &s->processes[slot];

    for (uint32_t n = pin_n_slots(&p->share->ring); *at < STORE_PINS; ++*at) {
        uint64_t place = *at < n ? pin_look(&p->share->pins[*at]) : 0;
        if (place == 0)
            continue;
        *out = (struct store_holding){.kind = STORE_HOLDING_PIN, .place = place, .n = 1};
        ++*at;
        return true;
    }
    for (; *at - STORE_PINS < p->holds.room; ++*at) {
        size_t i = (size_t)(*at - STORE_PINS);
        uint32_t entry = (uint32_t)p->holds.keys[i];
        if (entry == 0)
            continue;
        *out = (struct store_holding){.kind = STORE_HOLDING_HOLD,
                                      .place = store_place(generation_of(s, entry), entry),
                                      .n = (uint32_t)p->holds.values[i]};
        ++*at;
        return true;
    }
    size_t i = (size_t)(*at - STORE_PINS - p->holds.room);
    if (i >= p->n_lent)
        return false;
    const struct extent *x = &p->lent[i];
    *out = (struct store_holding){.kind = STORE_HOLDING_LENT,
                                  .offset = (uint64_t)x->first * STORE_BLOCK,
                                  .size = (uint64_t)x->n * STORE_BLOCK,
                                  .is_allocated = arena_is_allocated(s->arena, x->first, x->n)};
    ++*at;
    return true;
}

/* --- selfcheck --- */

/* What an extent or an object has is allocated, and nobody else's. */
static void claim(const struct store *s, uint8_t *claimed, uint32_t first, uint32_t n)
{
    ASSERT(n > 0 && arena_is_allocated(s->arena, first, n));
    for (uint32_t i = first; i < first + n; i++) {
        ASSERT(claimed[i] == 0);
        claimed[i] = 1;
    }
}

/* How many of that state the list holds; each entry is counted once in *n_seen. */
static uint32_t check_list(const struct store *s,
                           const struct list *list,
                           enum store_state state,
                           uint8_t *claimed,
                           uint32_t *n_seen)
{
    uint32_t n = 0;

    list_for_each(m, list)
    {
        const struct entry *e = list_entry(m, struct entry, node);
        const struct index_entry *x = &s->config.index[number_of(s, e)];
        ASSERT(number_of(s, e) >= 1 && number_of(s, e) < s->n_fresh);
        ASSERT(state_of(s, number_of(s, e)) == state);
        ASSERT(state != STORE_ENTRY_LENT || e->n_blocks == 0);
        ASSERT(state != STORE_ENTRY_SEALED || e->n_blocks > 0);
        if (e->n_blocks > 0) {
            claim(s, claimed, e->first, e->n_blocks);
            ASSERT(x->offset == (uint64_t)e->first * STORE_BLOCK && x->size > 0);
            ASSERT(x->size <= (uint64_t)e->n_blocks * STORE_BLOCK);
        }
        n++;
    }
    *n_seen += n;
    return n;
}

static uint64_t claim_all(const struct store *s,
                          uint8_t *claimed,
                          const struct extent *lent,
                          size_t n)
{
    uint64_t n_blocks = 0;

    for (size_t i = 0; i < n; i++) {
        claim(s, claimed, lent[i].first, lent[i].n);
        ASSERT(i == 0 || lent[i - 1].first + lent[i - 1].n < lent[i].first);
        n_blocks += lent[i].n;
    }
    return n_blocks;
}

static void check_processes(const struct store *s, uint8_t *claimed, uint32_t *n_seen)
{
    uint64_t lent_blocks = 0;
    uint32_t n_lent = 0, n_buried = 0;

    for (uint32_t i = 0; i < s->n_live; i++) {
        const struct process *p = &s->processes[s->live[i]];
        ASSERT(p->share != NULL && p->live_at == i);
        lent_blocks += claim_all(s, claimed, p->lent, p->n_lent);
        n_lent += check_list(s, &p->entries, STORE_ENTRY_LENT, claimed, n_seen);
        list_for_each(m, &p->entries) ASSERT(list_entry(m, struct entry, node)->slot == s->live[i]);
    }
    list_for_each(m, &s->graves)
    {
        const struct grave *g = list_entry(m, struct grave, node);
        ASSERT(g->n_entries > 0);
        n_buried += g->n_entries;
        lent_blocks += claim_all(s, claimed, g->lent, g->n_lent);
    }
    list_for_each(m, &s->batch) n_buried -= list_entry(m, struct entry, node)->grave != NULL;
    list_for_each(m, &s->used) n_buried -= list_entry(m, struct entry, node)->grave != NULL;
    ASSERT(lent_blocks == s->lent_blocks && n_lent == s->n_lent && n_buried == 0);
}

static void check_results(const struct store *s, const struct owner *o)
{
    uint32_t n_results = 0;

    list_for_each(m, &o->sealed)
    {
        const struct entry *e = list_entry(m, struct entry, node);
        ASSERT(s->config.index[number_of(s, e)].owner == o->number);
        n_results += e->is_result;
    }
    for (size_t i = 0; i < o->results.room; i++) {
        if (o->results.keys[i] == 0)
            continue;
        ASSERT(!recent_has(&o->aborted, o->results.keys[i]));
        uint32_t first = (uint32_t)o->results.values[i], entry = first;
        do {
            const struct index_entry *x = &s->config.index[entry];
            const struct entry *e = &s->entries[entry];
            ASSERT(e->is_result && x->owner == o->number);
            ASSERT(attempt_key(x->counter, x->attempt) == o->results.keys[i]);
            ASSERT(n_results-- > 0);
            entry = number_of(s, list_entry(e->same.next, struct entry, same));
        } while (entry != first);
    }
    ASSERT(n_results == 0);
}

static void check_holds(const struct store *s)
{
    uint64_t *sums = xcalloc(s->config.n_entries, sizeof *sums);

    for (uint32_t i = 0; i < s->n_live; i++) {
        const struct word_map *m = &s->processes[s->live[i]].holds;
        for (size_t k = 0; k < m->room; k++)
            if (m->keys[k] != 0)
                sums[m->keys[k]] += m->values[k];
    }
    for (uint32_t i = 1; i < s->n_fresh; i++) {
        ASSERT(s->entries[i].n_holds == sums[i]);
        ASSERT(sums[i] == 0 || state_of(s, i) != STORE_ENTRY_FREE);
    }
    free(sums);
}

/* Copies are sealed and in order; if keys are kept, each sealed entry is found by its own. */
static void check_copies_and_keys(const struct store *s)
{
    uint32_t n_copies = 0, n_keys = 0;
    uint64_t used_ms = 0;

    list_for_each(m, &s->copies)
    {
        const struct entry *e = list_entry(m, struct entry, copy);
        ASSERT(e->is_copy && state_of(s, number_of(s, e)) == STORE_ENTRY_SEALED);
        ASSERT(e->used_ms >= used_ms);
        used_ms = e->used_ms;
        n_copies++;
    }
    ASSERT(n_copies == s->n_copies && (s->has_keys || s->keys.n == 0) && s->n_freed == 0);
    for (size_t i = 0; i < s->keys.room; i++)
        for (uint32_t k = s->keys.keys[i] == 0 ? 0 : (uint32_t)s->keys.values[i]; k != 0;
             k = s->entries[k].next_key, n_keys++)
            ASSERT(state_of(s, k) == STORE_ENTRY_SEALED && n_keys < s->n_sealed);
    ASSERT(!s->has_keys || n_keys == s->n_sealed);
}

void store_selfcheck(const struct store *s)
{
    uint32_t n_blocks = blocks(s->config.capacity), n_seen = 0, n_sealed = 0, n_free = 0;
    uint32_t n_retired = 0, n_waiting = 0;

    CHECK_MAGIC(s, STORE_MAGIC);
    arena_selfcheck(s->arena);
    uint8_t *claimed = xcalloc(n_blocks, 1);
    check_processes(s, claimed, &n_seen);
    for (size_t i = 0; i < s->owners.room; i++) {
        if (s->owners.keys[i] == 0)
            continue;
        const struct owner *o = (const struct owner *)(uintptr_t)s->owners.values[i];
        uint32_t n = check_list(s, &o->sealed, STORE_ENTRY_SEALED, claimed, &n_seen);
        ASSERT(o->number + 1ull == s->owners.keys[i] && !is_gone(s, o->number));
        ASSERT(n + recent_n(&o->aborted) + recent_n(&o->early) > 0);
        check_results(s, o);
        n_sealed += n;
    }
    ASSERT(n_sealed == s->n_sealed);
    ASSERT(check_list(s, &s->batch, STORE_ENTRY_FREEING, claimed, &n_seen)
               + check_list(s, &s->used, STORE_ENTRY_FREEING, claimed, &n_seen)
           == s->n_freeing);
    uint64_t n_claimed = 0;
    for (uint32_t i = 0; i < n_blocks; i++)
        n_claimed += claimed[i];
    free(claimed);
    ASSERT(n_claimed == s->used_blocks + s->lent_blocks);
    ASSERT(n_claimed + arena_n_free(s->arena) == n_blocks);
    check_holds(s);
    check_copies_and_keys(s);

    for (uint32_t i = s->free_entry; i != 0; i = s->entries[i].next_free, n_free++)
        ASSERT(state_of(s, i) == STORE_ENTRY_FREE && n_free < s->n_fresh);
    for (uint32_t i = 1; i < s->n_fresh; i++)
        n_retired += word_of(s, i) == ((uint64_t)UINT32_MAX << 32 | STORE_ENTRY_FREE);
    ASSERT(n_free + s->config.n_entries - s->n_fresh == s->n_free_entries);
    ASSERT(n_seen + n_free + n_retired + 1 == s->n_fresh);
    list_for_each(m, &s->queue)
    {
        const struct request *q = list_entry(m, struct request, node);
        ASSERT(q->passed <= q->need && s->processes[q->slot].n_requests > 0);
        n_waiting++;
    }
    ASSERT(n_waiting == s->n_waiting);
}
