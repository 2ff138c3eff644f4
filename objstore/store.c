/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Records change one fact each; whatever is to be freed is put in a batch, with its
 * word FREEING. Each event ends with finish(): settle() ends the frees of the batch, with one full
 * fence, one look at all pins and then one at all rings for the whole batch (objstore/layout.h says
 * why in this order), and pump() serves requests if there is more to give than before.
 *
 * An entry is on one list at a time: LENT on its process's, SEALED on its owner's, FREEING in the
 * batch (to be looked at) or on `used` (somebody reads it: a doorbell, the last UNHOLD or a death
 * puts it into the batch again). A LENT entry that its process returns is given up without a look
 * at pins: it has told nobody. If it died instead, it may have told somebody whose pin guards bytes
 * for which there will be no SEAL: what was lent to it lies in a grave until all its entries are
 * unused.
 *
 * The index is written here alone (the seals of its memfd see to that), so states and generations
 * are read back from it; the rest of an entry's truth is in private memory. Of a process's share
 * nothing is trusted and nothing is read twice.
 */
#include "objstore/store.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/pin.h"
#include "objstore/store_private.h"

#define SETTLE_ROUNDS 8 /* of one event: who frees for ever does not keep the loop for ever */

static void add(struct store_actions *out, const struct store_action *action)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : out->room * 2;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = *action;
}

static struct process *process_of(struct store *s, uint32_t slot)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    ASSERT(slot < s->config.n_slots && s->processes[slot].share != NULL);
    return &s->processes[slot];
}

/* --- entries --- */

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
    if (e->is_copy) {
        e->is_copy = false;
        list_remove(&e->copy);
        s->n_copies--;
    }
    if (e->is_watched) {
        e->is_watched = false;
        note_freed(s, store_place(generation_of(s, entry), entry));
    }
    store_key_remove(s, entry);
    s->n_sealed--;
    begin_free(s, entry);
}

static void free_sealed(struct store *s, uint32_t entry)
{
    struct owner *o = find_owner(s, s->config.index[entry].owner);

    begin_free_sealed(s, o, entry);
    drop_owner_if_idle(s, o);
}

static void take_back(struct store *s, uint32_t first, uint32_t n)
{
    arena_free(s->arena, first, n);
    s->lent_blocks -= n;
    s->has_more = true;
}

static void open_grave(struct store *s, struct grave *g)
{
    for (size_t i = 0; i < g->n_lent; i++)
        take_back(s, g->lent[i].first, g->lent[i].n);
    list_remove(&g->node);
    free(g->lent);
    free(g);
}

/* Takes over what was lent to p. */
static void bury(struct store *s, struct process *p)
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

static void end_free(struct store *s, uint32_t entry)
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

static void give_up_lent(struct store *s, uint32_t entry)
{
    s->n_lent--;
    if (s->entries[entry].n_holds > 0) {
        begin_free(s, entry);
        return;
    }
    list_remove(&s->entries[entry].node);
    drop_entry(s, entry);
}

static void drop_holds(struct store *s, uint32_t entry, uint32_t n)
{
    struct entry *e = &s->entries[entry];

    e->n_holds -= n;
    if (e->n_holds > 0 || state_of(s, entry) != STORE_ENTRY_FREEING)
        return;
    list_remove(&e->node);
    list_append(&s->batch, &e->node);
}

static void look_at_all_used(struct store *s)
{
    list_for_each_safe(n, &s->used)
    {
        list_remove(n);
        list_append(&s->batch, n);
    }
}

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
static bool carve(struct process *p, uint32_t first, uint32_t n)
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

/* Foreign numbers: is [offset, offset + size) a range of the arena that begins with a block? */
static bool is_range(const struct store *s, uint64_t offset, uint64_t size)
{
    return size > 0 && size <= s->config.capacity && offset <= s->config.capacity - size
           && offset % STORE_BLOCK == 0;
}

/* --- records; false: a bad one --- */

static bool on_seal(struct store *s, uint32_t slot, const struct store_record *r)
{
    struct process *p = &s->processes[slot];
    uint32_t entry = entry_at(s, r->place);
    struct entry *e = &s->entries[entry];

    if (entry == 0 || state_of(s, entry) != STORE_ENTRY_LENT || e->slot != slot)
        return false;
    if (r->size == 0 || r->size > s->config.capacity || r->extra > s->config.capacity
        || !is_range(s, r->offset, r->size + r->extra) || (r->n_refs > 0 && r->extra == 0))
        return false;
    uint32_t first = (uint32_t)(r->offset / STORE_BLOCK), n = blocks(r->size + r->extra);
    if (!carve(p, first, n))
        return false;

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
    bool is_own = p->number == r->owner;
    if (!is_own)
        add_result(s, o, entry);
    uint64_t key = attempt_key(r->counter, r->attempt);
    bool is_early = recent_has(&o->early, r->place);
    if (is_early)
        recent_remove(&o->early, r->place);
    if (is_early || is_gone(s, r->owner) || (!is_own && key != 0 && recent_has(&o->aborted, key)))
        free_sealed(s, entry);
    return true;
}

static bool on_free(struct store *s, uint32_t slot, const struct store_record *r)
{
    uint32_t number = s->processes[slot].number, entry = entry_at(s, r->place);

    if (entry == 0)
        return false;
    switch (state_of(s, entry)) {
    case STORE_ENTRY_SEALED:
        if (s->config.index[entry].owner != number)
            return false;
        free_sealed(s, entry);
        return true;
    case STORE_ENTRY_LENT: /* the SEAL is in its creator's ring, or a frame on its way */
        recent_add(&have_owner(s, number)->early, r->place);
        s->wants_drain = true;
        return true;
    case STORE_ENTRY_FREEING:
    case STORE_ENTRY_FREE:
        return false;
    }
    return false;
}

static bool on_hold(struct store *s, uint32_t slot, const struct store_record *r)
{
    struct process *p = &s->processes[slot];
    uint32_t entry = entry_at(s, r->place);

    if (entry == 0 || s->entries[entry].n_holds == UINT32_MAX)
        return false;
    word_map_set(&p->holds, entry, word_map_get(&p->holds, entry) + 1);
    s->entries[entry].n_holds++;
    return true;
}

static bool on_unhold(struct store *s, uint32_t slot, const struct store_record *r)
{
    struct process *p = &s->processes[slot];
    uint32_t entry = entry_at(s, r->place);
    uint64_t n = entry == 0 ? 0 : word_map_get(&p->holds, entry);

    if (n == 0)
        return false;
    word_map_set(&p->holds, entry, n - 1);
    drop_holds(s, entry, 1);
    return true;
}

static bool on_return(struct store *s, uint32_t slot, const struct store_record *r)
{
    if (r->place != 0) {
        uint32_t entry = entry_at(s, r->place);
        if (entry == 0 || state_of(s, entry) != STORE_ENTRY_LENT || s->entries[entry].slot != slot)
            return false;
        give_up_lent(s, entry);
        return true;
    }
    if (!is_range(s, r->offset, r->size) || r->size % STORE_BLOCK != 0)
        return false;
    uint32_t first = (uint32_t)(r->offset / STORE_BLOCK), n = blocks(r->size);
    if (!carve(&s->processes[slot], first, n))
        return false;
    take_back(s, first, n);
    return true;
}

static bool abort_attempt(struct store *s, uint32_t owner, uint64_t counter, uint16_t attempt)
{
    uint64_t key = attempt_key(counter, attempt);

    if (key == 0)
        return false;
    struct owner *o = have_owner(s, owner);
    recent_add(&o->aborted, key);
    for (uint32_t entry; (entry = (uint32_t)word_map_get(&o->results, key)) != 0;)
        free_sealed(s, entry);
    return true;
}

static bool on_abort(struct store *s, uint32_t slot, const struct store_record *r)
{
    return r->owner == s->processes[slot].number
           && abort_attempt(s, r->owner, r->counter, r->attempt);
}

static void on_record(struct store *s, uint32_t slot, const struct store_record *r)
{
    bool is_good = false;

    switch ((enum store_record_kind)r->kind) {
    case STORE_SEAL:
        is_good = on_seal(s, slot, r);
        break;
    case STORE_FREE:
        is_good = on_free(s, slot, r);
        break;
    case STORE_HOLD:
        is_good = on_hold(s, slot, r);
        break;
    case STORE_UNHOLD:
        is_good = on_unhold(s, slot, r);
        break;
    case STORE_RETURN:
        is_good = on_return(s, slot, r);
        break;
    case STORE_ABORT:
        is_good = on_abort(s, slot, r);
        break;
    }
    s->n_bad += !is_good;
}

/* What is in the ring now, not what is added meanwhile. */
static void drain(struct store *s, uint32_t slot)
{
    struct process *p = &s->processes[slot];
    struct store_ring *ring = &p->share->ring;

    if (p->is_deaf)
        return;
    uint64_t n = PIN_LOAD(&ring->head) - p->tail;
    if (n > STORE_RING) {
        p->is_deaf = true;
        s->n_bad++;
        return;
    }
    struct store_record r;
    while (n-- > 0 && ring_take(ring, &p->tail, &r)) {
        atomic_signal_fence(memory_order_seq_cst); /* it is the copy that is checked and used */
        on_record(s, slot, &r);
    }
}

static void drain_all(struct store *s)
{
    s->wants_drain = false;
    s->drained_ms = s->now_ms;
    for (uint32_t i = 0; i < s->n_live; i++)
        drain(s, s->live[i]);
}

/* --- settling --- */

void store_look_at_pins(const struct store *s, uint64_t look)
{
    for (uint32_t i = 0; i < s->n_live; i++) {
        struct store_share *share = s->processes[s->live[i]].share;
        for (uint32_t k = 0, n = pin_n_slots(&share->ring); k < n; k++) {
            uint64_t place = pin_look(&share->pins[k]);
            if (place == 0)
                continue;
            uint32_t entry = entry_at(s, place);
            if (entry == 0)
                continue;
            struct entry *e = &s->entries[entry];
            if (e->looked != look)
                e->n_pins = 0;
            e->looked = look;
            e->n_pins++;
        }
    }
}

static void settle_batch(struct store *s)
{
    struct list batch;

    list_init(&batch);
    list_for_each_safe(n, &s->batch)
    {
        list_remove(n);
        list_append(&batch, n);
    }
    pin_end_batch();
    store_look_at_pins(s, ++s->n_looks);
    drain_all(s); /* a pin that has gone may be a hold by now */
    list_for_each_safe(n, &batch)
    {
        struct entry *e = list_entry(n, struct entry, node);
        if (e->n_holds == 0 && e->looked != s->n_looks) {
            end_free(s, number_of(s, e));
        } else {
            list_remove(n);
            list_append(&s->used, n);
        }
    }
}

static void settle(struct store *s)
{
    for (int i = 0; i < SETTLE_ROUNDS && (s->wants_drain || !list_empty(&s->batch)); i++) {
        if (list_empty(&s->batch))
            drain_all(s);
        else
            settle_batch(s);
    }
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
    for (uint32_t i = 0; i < n_places; i++) {
        uint32_t entry = take_entry(s);
        s->entries[entry] = (struct entry){.slot = slot};
        list_append(&p->entries, &s->entries[entry].node);
        set_word(s, entry, generation_of(s, entry), STORE_ENTRY_LENT);
        action.places[i] = store_place(generation_of(s, entry), entry);
    }
    p->is_recallable = true;
    p->lent_ms = s->now_ms;
    s->n_lent += n_places;
    s->lent_blocks += x.n;
    if (x.first + x.n > s->touched_blocks)
        s->touched_blocks = x.first + x.n;
    if (s->used_blocks + s->lent_blocks > s->peak_blocks)
        s->peak_blocks = s->used_blocks + s->lent_blocks;
    add(out, &action);
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
    add(out,
        &(struct store_action){.kind = STORE_REFUSED,
                               .slot = slot,
                               .ticket = ticket,
                               .size = size,
                               .too_large = size > s->config.capacity});
    s->n_refused++;
}

static void drop_request(struct store *s, struct request *q)
{
    list_remove(&q->node);
    s->processes[q->slot].n_requests--;
    s->n_waiting--;
    s->has_more = true; /* whom it kept from passing may pass */
    free(q);
}

/* Serve who fits, the oldest first. slack: the blocks by which all that wait in front may still be
 * passed. */
static void pump(struct store *s, struct store_actions *out)
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
                drop_request(s, q);
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

static void use_copy(struct store *s, struct entry *e)
{
    e->used_ms = s->now_ms;
    list_remove(&e->copy);
    list_append(&s->copies, &e->copy);
}

static bool has_old_copy(const struct store *s)
{
    return !list_empty(&s->copies)
           && s->now_ms - list_entry(s->copies.next, struct entry, copy)->used_ms >= STORE_COPY_MS;
}

/* Copies whose blocks are as many as the oldest request needs begin to be freed. What is read or
 * held has been used just now. A pin that comes after the look finds the entry FREEING, or is found
 * by settle(). false: none can. */
static bool evict(struct store *s)
{
    uint64_t need = list_entry(s->queue.next, struct request, node)->need, n = 0;

    if (!has_old_copy(s))
        return false;
    drain_all(s); /* holds; and what it frees is no copy any more */
    store_look_at_pins(s, ++s->n_looks);
    while (n < need && has_old_copy(s)) {
        struct entry *e = list_entry(s->copies.next, struct entry, copy);
        if (e->n_holds > 0 || e->looked == s->n_looks) {
            use_copy(s, e);
            continue;
        }
        e->is_watched = false; /* its owner has not freed it */
        n += e->n_blocks;
        s->n_evicted_ever++;
        free_sealed(s, number_of(s, e));
    }
    return n > 0;
}

static void finish(struct store *s, struct store_actions *out)
{
    settle(s);
    if (s->has_more && s->n_waiting > 0)
        pump(s, out);
    while (s->n_waiting > 0 && evict(s)) {
        settle(s);
        pump(s, out);
    }
    for (size_t i = 0; i < s->n_freed; i++)
        add(out,
            &(struct store_action){.kind = STORE_FREED, .n_places = 1, .places = {s->freed[i]}});
    s->n_freed = 0;
}

/* Not from who was lent something a moment ago: two that need all there is would take it from each
 * other for ever, and neither would ever use it. */
static void recall(struct store *s, struct store_actions *out)
{
    for (uint32_t i = 0; i < s->n_live && s->n_waiting > 0; i++) {
        struct process *p = &s->processes[s->live[i]];
        if (!p->is_recallable || s->now_ms - p->lent_ms < STORE_SETTLE_MS
            || (p->n_lent == 0 && list_empty(&p->entries)))
            continue;
        p->is_recallable = false;
        add(out, &(struct store_action){.kind = STORE_RECALL, .slot = s->live[i]});
    }
}

/* --- public --- */

struct store *store_create(const struct store_config *config)
{
    ASSERT(config->capacity > 0 && config->capacity % STORE_BLOCK == 0);
    ASSERT(config->capacity / STORE_BLOCK < INT32_MAX && config->n_entries > 1);
    struct arena *arena = arena_create((uint32_t)(config->capacity / STORE_BLOCK));

    if (arena == NULL)
        return NULL;
    struct store *s = xcalloc(1, sizeof *s);
    s->magic = STORE_MAGIC;
    s->config = *config;
    s->arena = arena;
    s->entries = xcalloc(config->n_entries, sizeof *s->entries);
    s->n_fresh = 1;
    s->n_free_entries = config->n_entries - 1;
    s->processes = xcalloc(config->n_slots, sizeof *s->processes);
    s->live = xcalloc(config->n_slots, sizeof *s->live);
    list_init(&s->batch);
    list_init(&s->used);
    list_init(&s->queue);
    list_init(&s->graves);
    list_init(&s->copies);
    return s;
}

void store_destroy(struct store *s)
{
    if (s == NULL)
        return;
    CHECK_MAGIC(s, STORE_MAGIC);
    while (!list_empty(&s->queue))
        drop_request(s, list_entry(s->queue.next, struct request, node));
    list_for_each_safe(n, &s->graves)
    {
        struct grave *g = list_entry(n, struct grave, node);
        free(g->lent);
        free(g);
    }
    for (uint32_t i = 0; i < s->n_live; i++) {
        free(s->processes[s->live[i]].lent);
        word_map_fini(&s->processes[s->live[i]].holds);
    }
    for (size_t i = 0; i < s->owners.room; i++)
        if (s->owners.keys[i] != 0)
            destroy_owner((struct owner *)(uintptr_t)s->owners.values[i]);
    word_map_fini(&s->gone);
    word_map_fini(&s->owners);
    word_map_fini(&s->keys);
    free(s->freed);
    arena_destroy(s->arena);
    free(s->entries);
    free(s->processes);
    free(s->live);
    s->magic = 0;
    free(s);
}

void store_add_process(struct store *s, uint32_t slot, uint32_t number, struct store_share *share)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    ASSERT(slot < s->config.n_slots && share != NULL && s->processes[slot].share == NULL);
    struct process *p = &s->processes[slot];

    *p = (struct process){.share = share, .number = number, .live_at = s->n_live};
    list_init(&p->entries);
    s->live[s->n_live++] = slot;
}

static void free_all_of(struct store *s, uint32_t number)
{
    struct owner *o = find_owner(s, number);

    set_gone(s, number);
    if (o == NULL)
        return;
    while (!list_empty(&o->sealed))
        begin_free_sealed(s, o, number_of(s, list_entry(o->sealed.next, struct entry, node)));
    drop_owner(s, o);
}

void store_remove_process(struct store *s,
                          uint32_t slot,
                          uint64_t now_ms,
                          struct store_actions *out)
{
    struct process *p = process_of(s, slot);

    s->now_ms = now_ms;
    drain(s, slot);
    uint32_t last = s->live[--s->n_live];
    s->live[p->live_at] = last;
    s->processes[last].live_at = p->live_at;
    bury(s, p);
    for (size_t i = 0; i < p->holds.room; i++)
        if (p->holds.keys[i] != 0)
            drop_holds(s, (uint32_t)p->holds.keys[i], (uint32_t)p->holds.values[i]);
    list_for_each_safe(n, &s->queue)
    {
        struct request *q = list_entry(n, struct request, node);
        if (q->slot == slot)
            drop_request(s, q);
    }
    free_all_of(s, p->number);
    look_at_all_used(s);
    word_map_fini(&p->holds);
    *p = (struct process){0};
    finish(s, out);
}

void store_owner_gone(struct store *s, uint32_t number, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    free_all_of(s, number);
    finish(s, out);
}

void store_abort(struct store *s,
                 uint32_t owner,
                 uint64_t counter,
                 uint16_t attempt,
                 uint64_t now_ms,
                 struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    if (!is_gone(s, owner))
        abort_attempt(s, owner, counter, attempt);
    finish(s, out);
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
    finish(s, out);
    recall(s, out);
}

void store_drain(struct store *s, uint32_t slot, uint64_t now_ms, struct store_actions *out)
{
    (void)process_of(s, slot);
    s->now_ms = now_ms;
    drain(s, slot);
    finish(s, out);
}

void store_on_record(struct store *s,
                     uint32_t slot,
                     const struct store_record *record,
                     uint64_t now_ms,
                     struct store_actions *out)
{
    (void)process_of(s, slot);
    s->now_ms = now_ms;
    drain(s, slot);
    on_record(s, slot, record);
    finish(s, out);
}

void store_on_doorbell(struct store *s, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    look_at_all_used(s);
    finish(s, out);
}

void store_on_time(struct store *s, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    s->wants_drain |= s->n_waiting > 0;
    finish(s, out);
    while (!list_empty(&s->queue)) { /* the oldest is due first: all wait equally long */
        struct request *q = list_entry(s->queue.next, struct request, node);
        if (q->deadline_ms > now_ms)
            break;
        refuse(s, q->slot, q->ticket, (uint64_t)q->need * STORE_BLOCK, out);
        drop_request(s, q);
    }
    finish(s, out);
    recall(s, out);
}

bool store_find(struct store *s,
                const struct store_key *key,
                struct store_object *object,
                uint64_t now_ms,
                struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    uint32_t entry = store_key_find(s, key);
    if (entry == 0) {
        drain_all(s);
        finish(s, out);
        entry = store_key_find(s, key);
    }
    if (entry == 0)
        return false;
    const struct index_entry *x = &s->config.index[entry];
    *object = (struct store_object){.place = store_place(generation_of(s, entry), entry),
                                    .offset = x->offset,
                                    .size = x->size,
                                    .room = (uint64_t)s->entries[entry].n_blocks * STORE_BLOCK,
                                    .n_refs = x->n_refs,
                                    .meta = x->meta};
    if (s->entries[entry].is_copy)
        use_copy(s, &s->entries[entry]);
    return true;
}

/* The sealed entry there, or 0. */
static uint32_t sealed_at(const struct store *s, uint64_t place)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    uint32_t entry = entry_at(s, place);

    return entry != 0 && state_of(s, entry) == STORE_ENTRY_SEALED ? entry : 0;
}

bool store_set_copy(struct store *s, uint64_t place, uint64_t now_ms)
{
    uint32_t entry = sealed_at(s, place);
    struct entry *e = &s->entries[entry];

    if (entry == 0)
        return false;
    s->now_ms = now_ms;
    if (!e->is_copy) {
        e->is_copy = true;
        list_init(&e->copy);
        s->n_copies++;
    }
    use_copy(s, e);
    return true;
}

bool store_watch(struct store *s, uint64_t place)
{
    uint32_t entry = sealed_at(s, place);

    if (entry != 0)
        s->entries[entry].is_watched = true;
    return entry != 0;
}

bool store_free(struct store *s, uint64_t place, uint64_t now_ms, struct store_actions *out)
{
    uint32_t entry = sealed_at(s, place);

    if (entry == 0)
        return false;
    s->now_ms = now_ms;
    free_sealed(s, entry);
    finish(s, out);
    return true;
}

uint64_t store_next_deadline(const struct store *s)
{
    if (s->wants_drain || !list_empty(&s->batch))
        return s->now_ms;
    if (s->n_waiting == 0)
        return UINT64_MAX;
    uint64_t deadline_ms = list_entry(s->queue.next, struct request, node)->deadline_ms;
    uint64_t poll_ms = s->drained_ms + STORE_POLL_MS;
    return poll_ms < deadline_ms ? poll_ms : deadline_ms;
}
