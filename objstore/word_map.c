/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/word_map.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define ROOM_MIN 16 /* a power of two, as every room is */

static size_t home(const struct word_map *m, uint64_t key)
{
    return (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & (m->room - 1);
}

/* Where key is, or where it would be put. */
static size_t find(const struct word_map *m, uint64_t key)
{
    size_t i = home(m, key);

    while (m->keys[i] != 0 && m->keys[i] != key)
        i = (i + 1) & (m->room - 1);
    return i;
}

static void resize(struct word_map *m, size_t room)
{
    struct word_map old = *m;

    m->room = room;
    m->keys = xcalloc(room, sizeof *m->keys);
    m->values = xcalloc(room, sizeof *m->values);
    for (size_t i = 0; i < old.room; i++) {
        if (old.keys[i] == 0)
            continue;
        size_t to = find(m, old.keys[i]);
        m->keys[to] = old.keys[i];
        m->values[to] = old.values[i];
    }
    free(old.keys);
    free(old.values);
}

/* Closes the gap at i, so that no search stops short. */
static void remove_at(struct word_map *m, size_t i)
{
    size_t mask = m->room - 1;

    for (size_t k = (i + 1) & mask; m->keys[k] != 0; k = (k + 1) & mask) {
        if (((k - home(m, m->keys[k])) & mask) < ((k - i) & mask))
            continue; /* its home lies behind the gap */
        m->keys[i] = m->keys[k];
        m->values[i] = m->values[k];
        i = k;
    }
    m->keys[i] = 0;
    m->n--;
    if (m->room > ROOM_MIN && m->n < m->room / 8)
        resize(m, m->room / 2);
}

void word_map_fini(struct word_map *m)
{
    free(m->keys);
    free(m->values);
    *m = (struct word_map){0};
}

uint64_t word_map_get(const struct word_map *m, uint64_t key)
{
    ASSERT(key != 0);
    if (m->n == 0)
        return 0;
    size_t i = find(m, key);
    return m->keys[i] == key ? m->values[i] : 0;
}

void word_map_set(struct word_map *m, uint64_t key, uint64_t value)
{
    ASSERT(key != 0);
    if (value != 0 && (m->n + 1) * 4 > m->room * 3)
        resize(m, m->room == 0 ? ROOM_MIN : m->room * 2);
    if (m->room == 0)
        return;
    size_t i = find(m, key);
    if (value != 0) {
        m->n += m->keys[i] == 0;
        m->keys[i] = key;
        m->values[i] = value;
    } else if (m->keys[i] == key) {
        remove_at(m, i);
    }
}
