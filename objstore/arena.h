/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_ARENA_H
#define OBJSTORE_ARENA_H
/*
 * Which blocks of an address range are free. It never touches the range itself: its books are
 * apart, since whoever writes into the range could spoil them. Extents are in units of blocks. Any
 * part of what was allocated may be freed, in any pieces. Neighbouring free extents are merged at
 * once. Allocation is good fit by two-level size classes (TLSF: M. Masmano et al., "TLSF: a new
 * dynamic memory allocator for real-time systems", ECRTS 2004), last in first out within a class,
 * so that warm memory is used again: constant time.
 */
#include <stdbool.h>
#include <stdint.h>

struct arena;

/* n_blocks > 0, at most 2^31 - 2; the books are reserved sparse. NULL: no memory for them. */
struct arena *arena_create(uint32_t n_blocks);
void arena_destroy(struct arena *a);

/* n > 0 blocks in one extent: 0 and *first, or -1: no free extent is as long. */
int arena_alloc(struct arena *a, uint32_t n, uint32_t *first);
/* [first, first + n) was allocated and is free now. Freeing what is free asserts. */
void arena_free(struct arena *a, uint32_t first, uint32_t n);
/* Is all of [first, first + n) allocated? */
bool arena_is_allocated(const struct arena *a, uint32_t first, uint32_t n);

uint64_t arena_n_free(const struct arena *a);
/* Length of the longest free extent; 0: full. */
uint32_t arena_largest(const struct arena *a);
/* Books against themselves; asserts. */
void arena_selfcheck(const struct arena *a);

#endif /* OBJSTORE_ARENA_H */
