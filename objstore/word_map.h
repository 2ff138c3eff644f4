/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_WORD_MAP_H
#define OBJSTORE_WORD_MAP_H
/*
 * A map from words to words. 0 is no key, and the value 0 means absent. Open addressing with linear
 * probing; memory follows the number of keys up and down.
 */
#include <stddef.h>
#include <stdint.h>

/* Embedded, zeroed is empty. For a walk: keys[i] != 0, i < room, have values[i]; no _set meanwhile.
 */
struct word_map {
    uint64_t *keys, *values;
    size_t n, room;
};

void word_map_fini(struct word_map *m);
/* key != 0. 0: absent. */
uint64_t word_map_get(const struct word_map *m, uint64_t key);
/* key != 0. value 0 removes it. */
void word_map_set(struct word_map *m, uint64_t key, uint64_t value);

#endif /* OBJSTORE_WORD_MAP_H */
