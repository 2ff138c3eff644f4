/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/copy.h"
#include "objstore/pin.h"

#define MAGIC       0x5253434cu /* "RSCL" */
#define FIRST_WANT  (1u << 20)
#define MOST_WANTED (16u << 20)
#define QUICK_MS    1000
#define SLOW_MS     10000
#define N_SPARES    (2 * STORE_LENT_MAX)

/* Lent and not yet carved: [at, end). */
struct region {
    uint64_t at, end;
};

struct store_client {
    unsigned magic;
    uint32_t n_entries;
    const struct index_entry *index;
    uint8_t *read_map, *write_map; /* the arena twice */
    _Atomic uint64_t *touched;     /* a bit per block of write_map: it has its page */
    uint64_t index_bytes, capacity;
    struct store_share *share;

    /* Lent: [0] is carved first; a request may be answered while it still has a rest. */
    struct region regions[2];
    uint64_t spares[N_SPARES]; /* places */
    uint32_t n_spares;
    /* How fast it goes. */
    uint64_t want, last_size, lent_bytes, lent_ms;
    uint32_t lent_places;
    bool asked, wants_more;
    /* RETURNs the ring had no room for. */
    struct store_record unsent[N_SPARES + 4];
    uint32_t n_unsent;

    uint64_t pinned[STORE_PINS]; /* 0: slot is free */
    uint8_t free_slots[STORE_PINS];
    uint32_t n_free_slots, n_used_slots;
};

static _Atomic store_copy_plan copy_plan;

static uint64_t whole_blocks(uint64_t size)
{
    return (size + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
}

static uint64_t room(const struct region *r)
{
    return r->end - r->at;
}

/* --- create, destroy --- */

static void *map(int fd, uint64_t size, int prot, struct err *err)
{
    void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        err_sys(err,
                "map %llu bytes of the object store (a smaller object_store_memory?)",
                (unsigned long long)size);
        return NULL;
    }
    madvise(p, size, MADV_DONTDUMP);
    return p;
}

static int map_all(struct store_client *c, int index_fd, int arena_fd, struct err *err)
{
    struct stat index, arena;

    if (fstat(index_fd, &index) != 0 || fstat(arena_fd, &arena) != 0)
        return err_sys(err, "size of the object store");
    if (index.st_size < (off_t)sizeof(struct index_entry) || arena.st_size < STORE_BLOCK
        || index.st_size / (off_t)sizeof(struct index_entry) > UINT32_MAX)
        return err_set(err, ERR_PROTOCOL, "the raylet's object store has an impossible size");
    c->n_entries = (uint32_t)((uint64_t)index.st_size / sizeof(struct index_entry));
    c->index_bytes = (uint64_t)index.st_size;
    c->capacity = (uint64_t)arena.st_size / STORE_BLOCK * STORE_BLOCK;
    if ((c->index = map(index_fd, c->index_bytes, PROT_READ, err)) == NULL
        || (c->read_map = map(arena_fd, c->capacity, PROT_READ, err)) == NULL
        || (c->write_map = map(arena_fd, c->capacity, PROT_READ | PROT_WRITE, err)) == NULL)
        return -1;
    if (madvise(c->write_map, c->capacity, MADV_DONTFORK) != 0)
        return err_sys(err, "keep the object store from children");
    c->touched = xcalloc(c->capacity / STORE_BLOCK / 64 + 1, sizeof *c->touched);
    return 0;
}

struct store_client *store_client_create(int index_fd,
                                         int arena_fd,
                                         struct store_share *share,
                                         struct err *err)
{
    struct store_client *c = xcalloc(1, sizeof *c);

    c->magic = MAGIC;
    c->share = share;
    for (uint32_t i = 0; i < STORE_PINS; i++)
        c->free_slots[i] = (uint8_t)(STORE_PINS - 1 - i);
    c->n_free_slots = STORE_PINS;
    if (map_all(c, index_fd, arena_fd, err) != 0) {
        store_client_destroy(c);
        return NULL;
    }
    c->want = FIRST_WANT;
    return c;
}

void store_client_destroy(struct store_client *c)
{
    if (c == NULL)
        return;
    CHECK_MAGIC(c, MAGIC);
    if (c->index != NULL)
        munmap((void *)(uintptr_t)c->index, c->index_bytes);
    if (c->read_map != NULL)
        munmap(c->read_map, c->capacity);
    if (c->write_map != NULL)
        munmap(c->write_map, c->capacity);
    free(c->touched);
    c->magic = 0;
    free(c);
}

uint64_t store_client_capacity(const struct store_client *c)
{
    return c->capacity;
}

/* --- the ring --- */

static bool post_returned(struct store_client *c, const struct store_record *r)
{
    return ring_post(&c->share->ring, r, NULL);
}

bool store_client_post(struct store_client *c, const struct store_record *record, bool *half)
{
    uint64_t n_waiting = 0;

    if (!ring_post(&c->share->ring, record, &n_waiting))
        return false;
    if (half != NULL)
        *half = n_waiting >= STORE_RING / 2;
    return true;
}

static void give_back(struct store_client *c, const struct store_record *r)
{
    if (post_returned(c, r))
        return;
    ASSERT(c->n_unsent < sizeof c->unsent / sizeof c->unsent[0]);
    c->unsent[c->n_unsent++] = *r;
}

bool store_client_unsent(struct store_client *c, struct store_record *out)
{
    if (c->n_unsent == 0)
        return false;
    *out = c->unsent[--c->n_unsent];
    return true;
}

static void return_region(struct store_client *c, struct region *r)
{
    if (room(r) > 0)
        give_back(c,
                  &(struct store_record){.kind = STORE_RETURN, .offset = r->at, .size = room(r)});
    *r = (struct region){0};
}

static void return_place(struct store_client *c, uint64_t place)
{
    give_back(c, &(struct store_record){.kind = STORE_RETURN, .place = place});
}

/* --- creating --- */

/* Some milliseconds of writing: the more is lent ahead, the longer freed memory, which is warm,
 * lies idle while memory that nobody has used yet is written to. */
static uint64_t most_wanted(const struct store_client *c)
{
    uint64_t most = c->capacity / 64 / STORE_BLOCK * STORE_BLOCK;

    return most > MOST_WANTED ? MOST_WANTED : most > STORE_BLOCK ? most : STORE_BLOCK;
}

/* A region for one large object alone is not asked for ahead. */
static void look_ahead(struct store_client *c)
{
    uint64_t left = room(&c->regions[0]) + room(&c->regions[1]);

    if (c->asked || c->lent_bytes > most_wanted(c))
        return;
    if (left <= c->lent_bytes / 2 || c->n_spares <= c->lent_places / 2)
        c->asked = c->wants_more = true;
}

bool store_client_alloc(struct store_client *c, uint64_t size, struct store_extent *out)
{
    if (size == 0 || size > c->capacity)
        return false;
    uint64_t bytes = whole_blocks(size);
    struct region *r = room(&c->regions[0]) >= bytes ? &c->regions[0] : &c->regions[1];
    c->last_size = size;
    if (room(r) < bytes || c->n_spares == 0)
        return false;
    *out = (struct store_extent){.place = c->spares[--c->n_spares], .offset = r->at, .size = size};
    r->at += bytes;
    if (room(&c->regions[0]) == 0) {
        c->regions[0] = c->regions[1];
        c->regions[1] = (struct region){0};
    }
    look_ahead(c);
    return true;
}

/* Carved memory: free again in front of a region's rest, else the raylet's. */
static void take_back(struct store_client *c, struct region back)
{
    for (int i = 0; i < 2; i++)
        if (room(&c->regions[i]) > 0 && c->regions[i].at == back.end) {
            c->regions[i].at = back.at;
            back.end = back.at;
        }
    return_region(c, &back);
}

void store_client_trim(struct store_client *c, struct store_extent *e, uint64_t size)
{
    ASSERT(size > 0 && size <= e->size);
    take_back(c,
              (struct region){.at = e->offset + whole_blocks(size),
                              .end = e->offset + whole_blocks(e->size)});
    e->size = size;
}

void store_client_abort(struct store_client *c, const struct store_extent *e)
{
    take_back(c, (struct region){.at = e->offset, .end = e->offset + whole_blocks(e->size)});
    if (c->n_spares < N_SPARES)
        c->spares[c->n_spares++] = e->place;
    else
        return_place(c, e->place);
}

void store_client_request(struct store_client *c,
                          uint64_t size,
                          uint64_t now_ms,
                          uint64_t *need,
                          uint64_t *want,
                          uint32_t *n_places)
{
    uint64_t bytes = whole_blocks(size > 0 ? size : c->last_size > 0 ? c->last_size : STORE_BLOCK);
    uint64_t most = most_wanted(c);

    if (c->lent_bytes > 0 && now_ms - c->lent_ms < QUICK_MS)
        c->want *= 2;
    else if (c->lent_bytes > 0 && now_ms - c->lent_ms > SLOW_MS)
        c->want /= 2;
    c->lent_bytes = 0; /* counts once, however often we ask */
    c->asked = true;
    c->want = c->want > most ? most : c->want < STORE_BLOCK ? STORE_BLOCK : c->want;
    uint64_t fits = c->want / bytes;
    *need = bytes;
    *want = fits <= 1 ? bytes : fits > STORE_LENT_MAX ? STORE_LENT_MAX * bytes : c->want;
    *want = *want / STORE_BLOCK * STORE_BLOCK;
    uint64_t places = *want / bytes + 1;
    *n_places = places <= c->n_spares                   ? 1
                : places - c->n_spares > STORE_LENT_MAX ? STORE_LENT_MAX
                                                        : (uint32_t)(places - c->n_spares);
}

bool store_client_wants_more(struct store_client *c)
{
    bool wants = c->wants_more;

    c->wants_more = false;
    return wants;
}

int store_client_on_lent(struct store_client *c,
                         uint64_t offset,
                         uint64_t size,
                         const uint64_t *places,
                         uint32_t n_places,
                         uint64_t now_ms,
                         struct err *err)
{
    if (size == 0 || size > c->capacity || offset > c->capacity - size || size % STORE_BLOCK != 0
        || offset % STORE_BLOCK != 0 || n_places > STORE_LENT_MAX)
        return err_set(err, ERR_PROTOCOL, "the raylet lent memory that is not in the store");
    for (uint32_t i = 0; i < n_places; i++)
        if (store_place_entry(places[i]) >= c->n_entries)
            return err_set(err, ERR_PROTOCOL, "the raylet lent an entry that is not in the store");

    if (room(&c->regions[0]) > 0 && room(&c->regions[1]) > 0) {
        bool first = room(&c->regions[0]) < room(&c->regions[1]);
        return_region(c, &c->regions[first ? 0 : 1]);
    }
    unsigned to = room(&c->regions[0]) == 0 ? 0 : 1;
    c->regions[to] = (struct region){.at = offset, .end = offset + size};
    for (uint32_t i = 0; i < n_places; i++)
        if (c->n_spares < N_SPARES)
            c->spares[c->n_spares++] = places[i];
        else
            return_place(c, places[i]);
    c->lent_bytes = size;
    c->lent_places = n_places;
    c->lent_ms = now_ms;
    c->asked = c->wants_more = false;
    return 0;
}

void store_client_on_recall(struct store_client *c)
{
    for (int i = 0; i < 2; i++)
        return_region(c, &c->regions[i]);
    while (c->n_spares > 0)
        return_place(c, c->spares[--c->n_spares]);
    c->want /= 2;
    c->lent_bytes = 0;
    c->asked = c->wants_more = false;
}

void *store_client_write(const struct store_client *c, const struct store_extent *e)
{
    return c->write_map + e->offset;
}

static bool is_touched(const struct store_client *c, uint64_t block)
{
    return atomic_load_explicit(&c->touched[block / 64], memory_order_relaxed) >> block % 64 & 1;
}

/* Blocks [first, end) get their pages. Asked for as if to read: those that exist, since another
 * process has used them, then come sixteen at a time and not one by one, four times as fast, and
 * may be written all the same, for memory of this kind is never written back. */
static int touch(struct store_client *c, uint64_t first, uint64_t end, struct err *err)
{
    uint64_t bytes = (end - first) * STORE_BLOCK;

    /* an older kernel knows no such call: the faults come one by one */
    if (madvise(c->write_map + first * STORE_BLOCK, bytes, MADV_POPULATE_READ) != 0
        && errno != EINVAL && errno != EINTR)
        return err_set(err,
                       ERR_NO_MEMORY,
                       "this machine has no memory left for %llu bytes of the object store",
                       (unsigned long long)bytes);
    for (uint64_t b = first; b < end; b++)
        atomic_fetch_or_explicit(&c->touched[b / 64], 1ull << b % 64, memory_order_relaxed);
    return 0;
}

int store_client_touch(struct store_client *c, const struct store_extent *e, struct err *err)
{
    uint64_t at = e->offset / STORE_BLOCK, end = at + whole_blocks(e->size) / STORE_BLOCK;

    while (at < end) {
        uint64_t first = at;
        while (at < end && !is_touched(c, at))
            at++;
        if (at > first && touch(c, first, at, err) != 0)
            return -1;
        while (at < end && is_touched(c, at))
            at++;
    }
    return 0;
}

bool store_client_untouched(const struct store_client *c, uint64_t most, struct store_extent *out)
{
    for (int i = 0; i < 2; i++) {
        uint64_t at = c->regions[i].at / STORE_BLOCK, end = c->regions[i].end / STORE_BLOCK;
        while (at < end && is_touched(c, at))
            at++;
        if (at == end)
            continue;
        uint64_t first = at, last = first + most / STORE_BLOCK;
        while (at < end && at < last && !is_touched(c, at))
            at++;
        *out = (struct store_extent){.offset = first * STORE_BLOCK,
                                     .size = (at - first) * STORE_BLOCK};
        return true;
    }
    return false;
}

void store_client_copy(void *to, const void *from, size_t size)
{
    store_copy(atomic_load_explicit(&copy_plan, memory_order_relaxed), to, from, size);
}

void store_client_set_copy_plan(uint64_t plan)
{
    atomic_store_explicit(&copy_plan, plan, memory_order_relaxed);
}

/* --- reading --- */

/* NULL: no such entry. */
static const _Atomic uint64_t *word_of(const struct store_client *c, uint64_t place)
{
    uint32_t entry = store_place_entry(place);

    return entry > 0 && entry < c->n_entries ? &c->index[entry].word : NULL;
}

int store_client_pin(struct store_client *c, uint64_t place, bool *bell)
{
    const _Atomic uint64_t *word = word_of(c, place);

    *bell = false;
    if (word == NULL || !store_client_is_there(c, place))
        return -1;
    if (c->n_free_slots == 0)
        return -2;
    int slot = c->free_slots[c->n_free_slots - 1];
    if ((uint32_t)slot >= c->n_used_slots) {
        c->n_used_slots = (uint32_t)slot + 1;
        pin_use_slots(&c->share->ring, c->n_used_slots);
    }
    if (!pin_set(&c->share->pins[slot], word, place, bell))
        return -1;
    c->pinned[slot] = place;
    c->n_free_slots--;
    return slot;
}

static void forget_slot(struct store_client *c, int slot)
{
    c->pinned[slot] = 0;
    c->free_slots[c->n_free_slots++] = (uint8_t)slot;
}

bool store_client_unpin(struct store_client *c, int slot)
{
    uint64_t place = store_client_pinned(c, slot);

    forget_slot(c, slot);
    return pin_clear(&c->share->pins[slot], word_of(c, place), place);
}

bool store_client_hold(struct store_client *c, int slot, bool *bell)
{
    uint64_t place = store_client_pinned(c, slot);
    struct store_record r = {.kind = STORE_HOLD, .place = place};

    if (!pin_hold(&c->share->pins[slot], word_of(c, place), &c->share->ring, &r, bell))
        return false;
    forget_slot(c, slot);
    return true;
}

bool store_client_unhold(struct store_client *c, uint64_t place, bool *bell)
{
    const _Atomic uint64_t *word = word_of(c, place);
    struct store_record r = {.kind = STORE_UNHOLD, .place = place};

    *bell = false;
    return word == NULL || pin_unhold(word, &c->share->ring, &r, bell);
}

uint64_t store_client_pinned(const struct store_client *c, int slot)
{
    ASSERT(slot >= 0 && slot < STORE_PINS && c->pinned[slot] != 0);
    return c->pinned[slot];
}

const void *store_client_read(const struct store_client *c, uint64_t offset, uint64_t size)
{
    return offset > c->capacity || size > c->capacity - offset ? NULL : c->read_map + offset;
}

bool store_client_is_there(const struct store_client *c, uint64_t place)
{
    const _Atomic uint64_t *word = word_of(c, place);

    if (word == NULL)
        return false;
    uint64_t now = PIN_LOAD(word);
    return now == pin_word(place, STORE_ENTRY_SEALED) || now == pin_word(place, STORE_ENTRY_LENT);
}

const struct index_entry *store_client_entry(const struct store_client *c, uint64_t place)
{
    const _Atomic uint64_t *word = word_of(c, place);
    uint64_t now = word != NULL ? PIN_LOAD(word) : 0;

    if (word == NULL
        || (now != pin_word(place, STORE_ENTRY_SEALED)
            && now != pin_word(place, STORE_ENTRY_FREEING)))
        return NULL;
    return &c->index[store_place_entry(place)];
}

bool store_client_is_owned(const struct store_client *c,
                           uint64_t place,
                           uint64_t offset,
                           uint64_t size,
                           uint32_t n_refs,
                           uint32_t owner)
{
    const _Atomic uint64_t *word = word_of(c, place);
    uint64_t now = word != NULL ? PIN_LOAD(word) : 0;

    if (word == NULL || now != pin_word(place, STORE_ENTRY_SEALED))
        return word != NULL && now == pin_word(place, STORE_ENTRY_LENT);
    const struct index_entry *e = &c->index[store_place_entry(place)];
    return e->owner == owner && e->offset == offset && e->size == size && e->n_refs == n_refs;
}
