/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. An entry is on one list at a time: LENT on its process's, SEALED on its owner's,
 * FREEING in the batch (to be looked at) or on `used` (somebody reads it: a doorbell, the last
 * UNHOLD or a death puts it into the batch again). A LENT entry that its process returns is given
 * up without a look at pins: it has told nobody. If it died instead, it may have told somebody
 * whose pin guards bytes for which there will be no SEAL: what was lent to it lies in a grave until
 * all its entries are unused.
 */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/pin.h"
#include "objstore/store_private.h"

static void set_word(struct store *s, uint32_t entry, uint32_t generation, enum store_state state)
{
    atomic_store_explicit(&s->config.index[entry].word,
                          (uint64_t)generation << 32 | state,
                          memory_order_release);
}

static uint32_t take_entry(struct store *s)
{
    uint32_t entry = s->free_entry;

    ASSERT(s->n_free_entries > 0);
    s->n_free_entries--;
    if (entry == 0)
        return s->n_fresh++;
    s->free_entry = s->entries[entry].next_free;
    return entry;
}

/* One that has had all generations is never lent again. */
static void drop_entry(struct store *s, uint32_t entry)
{
    uint32_t generation = generation_of(s, entry);
    bool is_last = generation == UINT32_MAX;

    set_word(s, entry, is_last ? generation : generation + 1, STORE_ENTRY_FREE);
    s->entries[entry] = (struct entry){.next_free = s->free_entry};
    if (is_last)
        return;
    s->free_entry = entry;
    s->n_free_entries++;
    s->has_more = true;
}

uint64_t store_entry_lend(struct store *s, uint32_t slot)
{
    uint32_t entry = take_entry(s), generation = generation_of(s, entry);

    s->entries[entry] = (struct entry){.slot = slot};
    list_append(&s->processes[slot].entries, &s->entries[entry].node);
    set_word(s, entry, generation, STORE_ENTRY_LENT);
    s->n_lent++;
    return store_place(generation, entry);
}

/* --- owners --- */

static struct owner *find_owner(const struct store *s, uint32_t number)
{
    return (struct owner *)(uintptr_t)word_map_get(&s->owners, (uint64_t)number + 1);
}

static struct owner *have_owner(struct store *s, uint32_t number)
{
    struct owner *o = find_owner(s, number);

    if (o != NULL)
        return o;
    o = xcalloc(1, sizeof *o);
    o->number = number;
    list_init(&o->sealed);
    word_map_set(&s->owners, (uint64_t)number + 1, (uintptr_t)o);
    return o;
}

static void recent_fini(struct recent *r)
{
    word_map_fini(&r->latest);
    word_map_fini(&r->before);
}

static void recent_add(struct recent *r, uint64_t word)
{
    if (r->latest.n == STORE_ABORTS && word_map_get(&r->latest, word) == 0) {
        word_map_fini(&r->before);
        r->before = r->latest;
        r->latest = (struct word_map){0};
    }
    word_map_set(&r->latest, word, 1);
}

static void recent_remove(struct recent *r, uint64_t word)
{
    word_map_set(&r->latest, word, 0);
    word_map_set(&r->before, word, 0);
}

static void destroy_owner(struct owner *o)
{
    word_map_fini(&o->results);
    recent_fini(&o->aborted);
    recent_fini(&o->early);
    free(o);
}

static void drop_owner(struct store *s, struct owner *o)
{
    word_map_set(&s->owners, (uint64_t)o->number + 1, 0);
    destroy_owner(o);
}

static void drop_owner_if_idle(struct store *s, struct owner *o)
{
    if (list_empty(&o->sealed) && recent_n(&o->aborted) + recent_n(&o->early) == 0)
        drop_owner(s, o);
}

static void set_gone(struct store *s, uint32_t number)
{
    uint64_t key = number / 64 + 1;

    word_map_set(&s->gone, key, word_map_get(&s->gone, key) | 1ull << number % 64);
}

static void add_result(struct store *s, struct owner *o, uint32_t entry)
{
    const struct index_entry *x = &s->config.index[entry];
    struct entry *e = &s->entries[entry];
    uint64_t key = attempt_key(x->counter, x->attempt);

    list_init(&e->same);
    if (key == 0)
        return;
    e->is_result = true;
    uint32_t other = (uint32_t)word_map_get(&o->results, key);
    if (other == 0)
        word_map_set(&o->results, key, entry);
    else
        list_append(&s->entries[other].same, &e->same);
}

static void remove_result(struct store *s, struct owner *o, uint32_t entry)
{
    const struct index_entry *x = &s->config.index[entry];
    struct entry *e = &s->entries[entry];
    uint64_t key = attempt_key(x->counter, x->attempt);

    e->is_result = false;
    if (word_map_get(&o->results, key) == entry) {
        const struct entry *other = list_entry(e->same.next, struct entry, same);
        word_map_set(&o->results, key, other == e ? 0 : number_of(s, other));
    }
    list_remove(&e->same);
}

/* --- freeing --- */

/* Nobody can pin it from here on. Off its list, into the batch. */
static void begin_free(struct store *s, uint32_t entry)
{
    struct entry *e = &s->entries[entry];

    list_remove(&e->node);
    pin_begin_free(&s->config.index[entry].word, store_place(generation_of(s, entry), entry));
    list_append(&s->batch, &e->node);
    s->n_freeing++;
}

static void note_freed(struct store *s, uint64_t place)
{
    if (s->n_freed == s->freed_room) {
        s->freed_room = s->freed_room == 0 ? 16 : s->freed_room * 2;
        s->freed = xrealloc(s->freed, s->freed_room * sizeof *s->freed);
    }
    s->freed[s->n_freed++] = place;
}

static void begin_free_sealed(struct store *s, struct owner *o, uint32_t entry)
{
    struct entry *e = &s->entries[entry];

    if (e->is_result)
        remove_result(s, o, entry);
    store_end_copy(s, entry);
    if (e->is_watched) {
        e->is_watched = false;
        note_freed(s, store_place(generation_of(s, entry), entry));
    }
    store_key_remove(s, entry);
    s->n_sealed--;
    begin_free(s, entry);
}

void store_entry_free(struct store *s, uint32_t entry)
{
    struct owner *o = find_owner(s, s->config.index[entry].owner);

    begin_free_sealed(s, o, entry);
    drop_owner_if_idle(s, o);
}

static void open_grave(struct store *s, struct grave *g)
{
    for (size_t i = 0; i < g->n_lent; i++)
        store_take_back(s, g->lent[i].first, g->lent[i].n);
    list_remove(&g->node);
    free(g->lent);
    free(g);
}

void store_entry_bury(struct store *s, struct process *p)
{
    struct grave *g = xcalloc(1, sizeof *g);

    g->lent = p->lent;
    g->n_lent = p->n_lent;
    p->lent = NULL;
    p->n_lent = 0;
    list_append(&s->graves, &g->node);
    while (!list_empty(&p->entries)) {
        struct entry *e = list_entry(p->entries.next, struct entry, node);
        e->grave = g;
        g->n_entries++;
        s->n_lent--;
        begin_free(s, number_of(s, e));
    }
    if (g->n_entries == 0)
        open_grave(s, g);
}

void store_entry_end_free(struct store *s, uint32_t entry)
{
    const struct entry *e = &s->entries[entry];

    list_remove(&s->entries[entry].node);
    if (e->n_blocks > 0) {
        arena_free(s->arena, e->first, e->n_blocks);
        s->used_blocks -= e->n_blocks;
        s->data_bytes -= s->config.index[entry].size;
        s->n_freed_ever++;
        s->has_more = true;
    }
    if (e->grave != NULL && --e->grave->n_entries == 0)
        open_grave(s, e->grave);
    s->n_freeing--;
    drop_entry(s, entry);
}

void store_entry_seal(struct store *s,
                      uint32_t entry,
                      const struct store_record *r,
                      uint32_t first,
                      uint32_t n)
{
    struct entry *e = &s->entries[entry];
    struct index_entry *x = &s->config.index[entry];
    x->offset = r->offset;
    x->size = r->size;
    x->owner = r->owner;
    x->index = r->index;
    x->counter = r->counter;
    x->n_refs = r->n_refs;
    x->attempt = r->attempt;
    x->meta = r->meta;
    set_word(s, entry, generation_of(s, entry), STORE_ENTRY_SEALED);

    struct owner *o = have_owner(s, r->owner);
    e->first = first;
    e->n_blocks = n;
    list_remove(&e->node);
    list_append(&o->sealed, &e->node);
    s->n_lent--;
    s->n_sealed++;
    s->n_sealed_ever++;
    s->lent_blocks -= n;
    s->used_blocks += n;
    s->data_bytes += r->size;
    store_key_add(s, entry);
    bool is_own = s->processes[e->slot].number == r->owner;
    if (!is_own)
        add_result(s, o, entry);
    uint64_t key = attempt_key(r->counter, r->attempt);
    bool is_early = recent_has(&o->early, r->place);
    if (is_early)
        recent_remove(&o->early, r->place);
    if (is_early || is_gone(s, r->owner) || (!is_own && key != 0 && recent_has(&o->aborted, key)))
        store_entry_free(s, entry);
}

void store_entry_give_up(struct store *s, uint32_t entry)
{
    s->n_lent--;
    if (s->entries[entry].n_holds > 0) {
        begin_free(s, entry);
        return;
    }
    list_remove(&s->entries[entry].node);
    drop_entry(s, entry);
}

void store_entry_free_early(struct store *s, uint32_t number, uint64_t place)
{
    recent_add(&have_owner(s, number)->early, place);
}

void store_entry_drop_holds(struct store *s, uint32_t entry, uint32_t n)
{
    struct entry *e = &s->entries[entry];

    e->n_holds -= n;
    if (e->n_holds > 0 || state_of(s, entry) != STORE_ENTRY_FREEING)
        return;
    list_remove(&e->node);
    list_append(&s->batch, &e->node);
}

void store_entry_look_at_used(struct store *s)
{
    list_for_each_safe(n, &s->used)
    {
        list_remove(n);
        list_append(&s->batch, n);
    }
}

void store_entry_free_all(struct store *s, uint32_t number)
{
    struct owner *o = find_owner(s, number);

    set_gone(s, number);
    if (o == NULL)
        return;
    while (!list_empty(&o->sealed))
        begin_free_sealed(s, o, number_of(s, list_entry(o->sealed.next, struct entry, node)));
    drop_owner(s, o);
}

bool store_entry_abort(struct store *s, uint32_t owner, uint64_t counter, uint16_t attempt)
{
    uint64_t key = attempt_key(counter, attempt);

    if (key == 0)
        return false;
    struct owner *o = have_owner(s, owner);
    recent_add(&o->aborted, key);
    for (uint32_t entry; (entry = (uint32_t)word_map_get(&o->results, key)) != 0;)
        store_entry_free(s, entry);
    return true;
}

void store_entry_fini(struct store *s)
{
    list_for_each_safe(n, &s->graves)
    {
        struct grave *g = list_entry(n, struct grave, node);
        free(g->lent);
        free(g);
    }
    for (size_t i = 0; i < s->owners.room; i++)
        if (s->owners.keys[i] != 0)
            destroy_owner((struct owner *)(uintptr_t)s->owners.values[i]);
    word_map_fini(&s->gone);
    word_map_fini(&s->owners);
    free(s->freed);
    free(s->entries);
}
