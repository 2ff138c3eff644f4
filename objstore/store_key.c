/* SPDX-License-Identifier: Apache-2.0 */
/* Which sealed entry has which key: kept from the first look-up on, for the traffic with other
 * machines. Entries whose keys have one hash are a chain, in the order of their seals. */
#include "objstore/store_private.h"

static struct store_key key_of(const struct store *s, uint32_t entry)
{
    const struct index_entry *x = &s->config.index[entry];

    return (struct store_key){.counter = x->counter,
                              .owner = x->owner,
                              .index = x->index,
                              .attempt = x->attempt};
}

/* Never 0. */
static uint64_t hash_of(const struct store_key *k)
{
    uint64_t h = k->counter * 0x9e3779b97f4a7c15u;

    h = (h ^ h >> 29 ^ ((uint64_t)k->owner << 32 | k->index)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 32 ^ k->attempt) * 0x94d049bb133111ebu;
    return (h ^ h >> 31) | 1;
}

static bool is_key(const struct store_key *a, const struct store_key *b)
{
    return a->counter == b->counter && a->owner == b->owner && a->index == b->index
           && a->attempt == b->attempt;
}

static void append(struct store *s, uint32_t entry)
{
    struct store_key key = key_of(s, entry);
    uint64_t hash = hash_of(&key);
    uint32_t at = (uint32_t)word_map_get(&s->keys, hash);

    s->entries[entry].next_key = 0;
    if (at == 0) {
        word_map_set(&s->keys, hash, entry);
        return;
    }
    while (s->entries[at].next_key != 0)
        at = s->entries[at].next_key;
    s->entries[at].next_key = entry;
}

void store_key_add(struct store *s, uint32_t entry)
{
    if (s->has_keys)
        append(s, entry);
}

void store_key_remove(struct store *s, uint32_t entry)
{
    if (!s->has_keys)
        return;
    struct store_key key = key_of(s, entry);
    uint64_t hash = hash_of(&key);
    uint32_t at = (uint32_t)word_map_get(&s->keys, hash);

    if (at == entry) {
        word_map_set(&s->keys, hash, s->entries[entry].next_key);
        return;
    }
    while (s->entries[at].next_key != entry)
        at = s->entries[at].next_key;
    s->entries[at].next_key = s->entries[entry].next_key;
}

uint32_t store_key_find(struct store *s, const struct store_key *key)
{
    if (!s->has_keys) {
        s->has_keys = true;
        for (uint32_t i = 1; i < s->n_fresh; i++)
            if (state_of(s, i) == STORE_ENTRY_SEALED)
                append(s, i);
    }
    uint32_t at = (uint32_t)word_map_get(&s->keys, hash_of(key));
    for (; at != 0; at = s->entries[at].next_key) {
        struct store_key k = key_of(s, at);
        if (is_key(&k, key))
            return at;
    }
    return 0;
}
