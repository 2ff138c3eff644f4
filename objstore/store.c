/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Records change one fact each; whatever is to be freed is put in a batch, with its
 * word FREEING. Each event ends with store_finish(): settle() ends the frees of the batch, with one
 * full fence, one look at all pins and then one at all rings for the whole batch (objstore/layout.h
 * says why in this order), and store_pump() serves requests if there is more to give than before.
 *
 * The index is written by store_entry.c alone (the seals of its memfd see to that), so states and
 * generations are read back from it; the rest of an entry's truth is in private memory.
 */
#include "objstore/store.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/pin.h"
#include "objstore/store_private.h"

#define SETTLE_ROUNDS 8 /* of one event: who frees for ever does not keep the loop for ever */

void store_act(struct store_actions *out, const struct store_action *action)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : out->room * 2;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = *action;
}

/* --- the end of each event --- */

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
    store_read_rings(s); /* a pin that has gone may be a hold by now */
    list_for_each_safe(n, &batch)
    {
        struct entry *e = list_entry(n, struct entry, node);
        if (e->n_holds == 0 && e->looked != s->n_looks) {
            store_entry_end_free(s, number_of(s, e));
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
            store_read_rings(s);
        else
            settle_batch(s);
    }
}

void store_finish(struct store *s, struct store_actions *out)
{
    settle(s);
    if (s->has_more && s->n_waiting > 0)
        store_pump(s, out);
    while (s->n_waiting > 0 && store_evict(s)) {
        settle(s);
        store_pump(s, out);
    }
    for (size_t i = 0; i < s->n_freed; i++)
        store_act(
            out,
            &(struct store_action){.kind = STORE_FREED, .n_places = 1, .places = {s->freed[i]}});
    s->n_freed = 0;
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
    s->processes = xcalloc_sparse(config->n_slots, sizeof *s->processes);
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
        store_drop_request(s, list_entry(s->queue.next, struct request, node));
    for (uint32_t i = 0; i < s->n_live; i++) {
        free(s->processes[s->live[i]].lent);
        word_map_fini(&s->processes[s->live[i]].holds);
    }
    store_entry_fini(s);
    word_map_fini(&s->keys);
    arena_destroy(s->arena);
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

void store_remove_process(struct store *s,
                          uint32_t slot,
                          uint64_t now_ms,
                          struct store_actions *out)
{
    struct process *p = process_of(s, slot);

    s->now_ms = now_ms;
    store_read_ring(s, slot);
    uint32_t last = s->live[--s->n_live];
    s->live[p->live_at] = last;
    s->processes[last].live_at = p->live_at;
    store_entry_bury(s, p);
    for (size_t i = 0; i < p->holds.room; i++)
        if (p->holds.keys[i] != 0)
            store_entry_drop_holds(s, (uint32_t)p->holds.keys[i], (uint32_t)p->holds.values[i]);
    list_for_each_safe(n, &s->queue)
    {
        struct request *q = list_entry(n, struct request, node);
        if (q->slot == slot)
            store_drop_request(s, q);
    }
    store_entry_free_all(s, p->number);
    store_entry_look_at_used(s);
    word_map_fini(&p->holds);
    *p = (struct process){0};
    store_finish(s, out);
}

void store_owner_gone(struct store *s, uint32_t number, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    store_entry_free_all(s, number);
    store_finish(s, out);
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
        store_entry_abort(s, owner, counter, attempt);
    store_finish(s, out);
}

void store_drain(struct store *s, uint32_t slot, uint64_t now_ms, struct store_actions *out)
{
    (void)process_of(s, slot);
    s->now_ms = now_ms;
    store_read_ring(s, slot);
    store_finish(s, out);
}

void store_on_record(struct store *s,
                     uint32_t slot,
                     const struct store_record *record,
                     uint64_t now_ms,
                     struct store_actions *out)
{
    (void)process_of(s, slot);
    s->now_ms = now_ms;
    store_read_ring(s, slot);
    store_read_record(s, slot, record);
    store_finish(s, out);
}

void store_on_doorbell(struct store *s, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    store_entry_look_at_used(s);
    store_finish(s, out);
}

void store_on_time(struct store *s, uint64_t now_ms, struct store_actions *out)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    s->now_ms = now_ms;
    s->wants_drain |= s->n_waiting > 0;
    store_finish(s, out);
    store_refuse_late(s, out);
    store_finish(s, out);
    store_recall(s, out);
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
