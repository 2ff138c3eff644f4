/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. The books are one private sparse mapping: a bit per block (set: allocated), and
 * per block a struct run, used only at the first and last block of a maximal free extent. Both ends
 * hold its length, so a neighbour that is freed finds it; the first block links it in its class.
 * What other blocks hold there is stale and never read, since the bits say where extents end.
 *
 * Classes: lengths below 32 blocks have one each, longer ones 32 for each power of two. All extents
 * of a class above that of n are long enough; of n's own class the last freed is tried first (equal
 * requests come again), and the others only before the allocation fails, so that it fails only when
 * no extent is as long.
 */
#include "objstore/arena.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define ARENA_MAGIC 0x4152454eu
#define SUB_BITS    5
#define SUB         (1u << SUB_BITS)
#define N_LEVELS    (32 - SUB_BITS)
#define N_CLASSES   (N_LEVELS * SUB)
#define NONE        UINT32_MAX
#define BLOCKS_MAX  0x7ffffffeu

struct run {
    uint32_t length, prev, next;
};

struct arena {
    unsigned magic;
    uint32_t n_blocks;
    uint64_t n_free;
    uint64_t *bits;   /* the mapping begins here */
    struct run *runs; /* behind the bits */
    size_t mapped;
    uint32_t levels; /* those with a class that is not empty */
    uint32_t subs[N_LEVELS];
    uint32_t heads[N_CLASSES]; /* first blocks */
};

/* --- bits --- */

/* The bits of [first, last] that lie in word w. */
static uint64_t part(uint32_t first, uint32_t last, uint32_t w)
{
    uint64_t mask = UINT64_MAX;

    if (w == first / 64)
        mask &= UINT64_MAX << first % 64;
    if (w == last / 64)
        mask &= UINT64_MAX >> (63 - last % 64);
    return mask;
}

static void mark(struct arena *a, uint32_t first, uint32_t n, bool allocated)
{
    uint32_t last = first + n - 1;

    for (uint32_t w = first / 64; w <= last / 64; w++) {
        if (allocated)
            a->bits[w] |= part(first, last, w);
        else
            a->bits[w] &= ~part(first, last, w);
    }
}

static bool is_free(const struct arena *a, uint32_t block)
{
    return (a->bits[block / 64] >> block % 64 & 1) == 0;
}

/* --- classes --- */

static unsigned class_of(uint32_t n)
{
    if (n < SUB)
        return n;
    unsigned top = 31 - (unsigned)__builtin_clz(n);
    return (top - SUB_BITS + 1) * SUB + (n >> (top - SUB_BITS)) - SUB;
}

static void link_run(struct arena *a, uint32_t first, uint32_t n)
{
    unsigned c = class_of(n);
    uint32_t next = a->heads[c];

    a->runs[first + n - 1].length = n;
    a->runs[first] = (struct run){.length = n, .prev = NONE, .next = next};
    if (next != NONE)
        a->runs[next].prev = first;
    a->heads[c] = first;
    a->subs[c / SUB] |= 1u << c % SUB;
    a->levels |= 1u << c / SUB;
    a->n_free += n;
}

static void unlink_run(struct arena *a, uint32_t first)
{
    const struct run *r = &a->runs[first];
    unsigned c = class_of(r->length);

    a->n_free -= r->length;
    if (r->next != NONE)
        a->runs[r->next].prev = r->prev;
    if (r->prev != NONE) {
        a->runs[r->prev].next = r->next;
        return;
    }
    a->heads[c] = r->next;
    if (r->next != NONE)
        return;
    a->subs[c / SUB] &= ~(1u << c % SUB);
    if (a->subs[c / SUB] == 0)
        a->levels &= ~(1u << c / SUB);
}

/* The last freed of the lowest class from c on. */
static uint32_t first_from(const struct arena *a, unsigned c)
{
    unsigned level = c / SUB;

    if (c >= N_CLASSES)
        return NONE;
    uint32_t subs = a->subs[level] & UINT32_MAX << c % SUB;
    if (subs == 0) {
        uint32_t levels = a->levels & ~((2u << level) - 1);
        if (levels == 0)
            return NONE;
        level = (unsigned)__builtin_ctz(levels);
        subs = a->subs[level];
    }
    return a->heads[level * SUB + (unsigned)__builtin_ctz(subs)];
}

static uint32_t find(const struct arena *a, uint32_t n)
{
    unsigned c = class_of(n);
    uint32_t at = a->heads[c];

    if (at != NONE && a->runs[at].length >= n)
        return at;
    at = first_from(a, c + 1);
    if (at != NONE)
        return at;
    for (at = a->heads[c]; at != NONE && a->runs[at].length < n;)
        at = a->runs[at].next;
    return at;
}

/* --- public --- */

struct arena *arena_create(uint32_t n_blocks)
{
    ASSERT(n_blocks > 0 && n_blocks <= BLOCKS_MAX);
    struct arena *a = xcalloc(1, sizeof *a);
    size_t n_bytes = ((size_t)n_blocks + 63) / 64 * sizeof *a->bits;

    a->magic = ARENA_MAGIC;
    a->n_blocks = n_blocks;
    a->mapped = n_bytes + n_blocks * sizeof *a->runs;
    void *books = mmap(NULL,
                       a->mapped,
                       PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1,
                       0);
    if (books == MAP_FAILED) {
        free(a);
        return NULL;
    }
    a->bits = books;
    a->runs = (struct run *)((char *)books + n_bytes);
    for (unsigned c = 0; c < N_CLASSES; c++)
        a->heads[c] = NONE;
    link_run(a, 0, n_blocks);
    return a;
}

void arena_destroy(struct arena *a)
{
    if (a == NULL)
        return;
    CHECK_MAGIC(a, ARENA_MAGIC);
    munmap(a->bits, a->mapped);
    a->magic = 0;
    free(a);
}

int arena_alloc(struct arena *a, uint32_t n, uint32_t *first)
{
    ASSERT(n > 0);
    if (n > a->n_free)
        return -1;
    uint32_t at = find(a, n);
    if (at == NONE)
        return -1;
    uint32_t length = a->runs[at].length;
    unlink_run(a, at);
    if (length > n)
        link_run(a, at + n, length - n);
    mark(a, at, n, true);
    *first = at;
    return 0;
}

void arena_free(struct arena *a, uint32_t first, uint32_t n)
{
    ASSERT(arena_is_allocated(a, first, n));
    mark(a, first, n, false);
    if (first + n < a->n_blocks && is_free(a, first + n)) {
        uint32_t right = first + n;
        n += a->runs[right].length;
        unlink_run(a, right);
    }
    if (first > 0 && is_free(a, first - 1)) {
        uint32_t length = a->runs[first - 1].length;
        first -= length;
        n += length;
        unlink_run(a, first);
    }
    link_run(a, first, n);
}

bool arena_is_allocated(const struct arena *a, uint32_t first, uint32_t n)
{
    if (n == 0 || n > a->n_blocks || first > a->n_blocks - n)
        return false;
    uint32_t last = first + n - 1;
    for (uint32_t w = first / 64; w <= last / 64; w++)
        if (~a->bits[w] & part(first, last, w))
            return false;
    return true;
}

uint64_t arena_n_free(const struct arena *a)
{
    return a->n_free;
}

uint32_t arena_largest(const struct arena *a)
{
    uint32_t largest = 0;

    if (a->levels == 0)
        return 0;
    unsigned level = 31 - (unsigned)__builtin_clz(a->levels);
    unsigned sub = 31 - (unsigned)__builtin_clz(a->subs[level]);
    for (uint32_t at = a->heads[level * SUB + sub]; at != NONE; at = a->runs[at].next)
        if (a->runs[at].length > largest)
            largest = a->runs[at].length;
    return largest;
}

void arena_selfcheck(const struct arena *a)
{
    uint64_t n_free = 0;
    uint32_t n_runs = 0, n_linked = 0;

    CHECK_MAGIC(a, ARENA_MAGIC);
    for (uint32_t at = 0; at < a->n_blocks;) {
        uint32_t n = 0;
        while (at + n < a->n_blocks && is_free(a, at + n))
            n++;
        if (n > 0) { /* maximal: the loop came from an allocated block or the beginning */
            ASSERT(a->runs[at].length == n && a->runs[at + n - 1].length == n);
            n_runs++;
        }
        n_free += n;
        at += n > 0 ? n : 1;
    }
    ASSERT(n_free == a->n_free);
    for (unsigned c = 0; c < N_CLASSES; c++) {
        bool is_on = (a->subs[c / SUB] >> c % SUB & 1) != 0;
        ASSERT(is_on == (a->heads[c] != NONE));
        ASSERT(!is_on || (a->levels >> c / SUB & 1) != 0);
        uint32_t prev = NONE;
        for (uint32_t at = a->heads[c]; at != NONE; prev = at, at = a->runs[at].next) {
            ASSERT(at < a->n_blocks && is_free(a, at) && (at == 0 || !is_free(a, at - 1)));
            ASSERT(class_of(a->runs[at].length) == c && a->runs[at].prev == prev);
            ASSERT(++n_linked <= n_runs);
        }
    }
    ASSERT(n_linked == n_runs);
    for (unsigned level = 0; level < N_LEVELS; level++)
        ASSERT((a->levels >> level & 1) == (a->subs[level] != 0));
}
