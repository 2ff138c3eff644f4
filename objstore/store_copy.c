/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/assert.h"
#include "objstore/store_private.h"

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

/* What is read or held has been used just now. A pin that comes after the look finds the entry
 * FREEING, or is found by settle(). */
bool store_evict(struct store *s)
{
    uint64_t need = list_entry(s->queue.next, struct request, node)->need, n = 0;

    if (!has_old_copy(s))
        return false;
    store_read_rings(s); /* holds; and what it frees is no copy any more */
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
        store_entry_free(s, number_of(s, e));
    }
    return n > 0;
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
        store_read_rings(s);
        store_finish(s, out);
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

void store_end_copy(struct store *s, uint32_t entry)
{
    struct entry *e = &s->entries[entry];

    if (!e->is_copy)
        return;
    e->is_copy = false;
    list_remove(&e->copy);
    s->n_copies--;
}

bool store_keep(struct store *s, uint64_t place)
{
    uint32_t entry = sealed_at(s, place);

    if (entry != 0)
        store_end_copy(s, entry);
    return entry != 0;
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
    store_entry_free(s, entry);
    store_finish(s, out);
    return true;
}
