/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/client.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "objstore/copy.h"
#include "objstore/pin.h"

#define N_ENTRIES 1024u
#define N_BLOCKS  8192u
#define CAPACITY  ((uint64_t)N_BLOCKS * STORE_BLOCK)

/* The raylet's part is played by the test, on memfds as the raylet makes them. */
static struct index_entry *entries;
static uint8_t *arena;
static struct store_share *share;
static struct store_client *c;
static uint64_t tail;
static int index_fd, arena_fd;

static void *make(int *fd, const char *name, size_t size)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    ck_assert_int_ge(*fd, 0);
    ck_assert_int_eq(ftruncate(*fd, (off_t)size), 0);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    ck_assert(p != MAP_FAILED);
    return p;
}

static void setup(void)
{
    struct err err;
    int fd;

    entries = make(&index_fd, "index", N_ENTRIES * sizeof *entries);
    arena = make(&arena_fd, "arena", CAPACITY);
    share = make(&fd, "control", sizeof *share);
    close(fd);
    c = store_client_create(index_fd, arena_fd, share, &err);
    ck_assert_msg(c != NULL, "%s", err.text);
    tail = 0;
}

static void teardown(void)
{
    store_client_destroy(c);
    munmap(entries, N_ENTRIES * sizeof *entries);
    munmap(arena, CAPACITY);
    munmap(share, sizeof *share);
    close(index_fd);
    close(arena_fd);
}

/* Lends a region and entries first, first + 1, ... of generation 1. */
static void lend(uint64_t offset, uint64_t size, uint32_t first, uint32_t n, uint64_t now_ms)
{
    uint64_t places[STORE_LENT_MAX];

    for (uint32_t i = 0; i < n; i++) {
        places[i] = store_place(1, first + i);
        entries[first + i].word = pin_word(places[i], STORE_ENTRY_LENT);
    }
    ck_assert_int_eq(store_client_on_lent(c, offset, size, places, n, now_ms, NULL), 0);
}

static bool take(struct store_record *r)
{
    return ring_take(&share->ring, &tail, r);
}

static uint64_t want_of(uint64_t size, uint64_t now_ms)
{
    uint64_t need, want;
    uint32_t n_places;

    store_client_request(c, size, now_ms, &need, &want, &n_places);
    ck_assert_uint_ge(need, size);
    ck_assert_uint_ge(want, need);
    ck_assert(n_places >= 1 && n_places <= STORE_LENT_MAX);
    return want;
}

START_TEST(test_carves_objects_out_of_what_was_lent)
{
    struct store_extent a, b, z;

    ck_assert(!store_client_alloc(c, 1, &a));
    lend(8 * STORE_BLOCK, 4 * STORE_BLOCK, 1, 3, 0);
    ck_assert(!store_client_alloc(c, 0, &a));
    ck_assert(!store_client_alloc(c, 4 * STORE_BLOCK + 1, &a));
    ck_assert(!store_client_alloc(c, UINT64_MAX, &a));
    ck_assert(store_client_alloc(c, STORE_BLOCK + 1, &a));
    ck_assert(store_client_alloc(c, STORE_BLOCK, &b));
    ck_assert(a.offset == 8 * STORE_BLOCK && b.offset == 10 * STORE_BLOCK);
    ck_assert(a.size == STORE_BLOCK + 1 && a.place != b.place);
    ck_assert(!store_client_alloc(c, STORE_BLOCK + 1, &z));
    memset(store_client_write(c, &a), 7, a.size);
    ck_assert(arena[a.offset] == 7 && arena[a.offset + a.size - 1] == 7);
    ck_assert(arena[a.offset + a.size] == 0);
    ck_assert_int_eq(memcmp(store_client_read(c, a.offset, a.size), arena + a.offset, a.size), 0);
    /* the last block, then the last entry */
    ck_assert(store_client_alloc(c, 1, &z));
    lend(16 * STORE_BLOCK, 4 * STORE_BLOCK, 9, 1, 0);
    ck_assert(store_client_alloc(c, 1, &z));
    ck_assert(z.offset == 16 * STORE_BLOCK && z.place == store_place(1, 9));
    ck_assert_msg(!store_client_alloc(c, 1, &z), "memory without an entry");
}
END_TEST

START_TEST(test_an_aborted_extent_is_used_again_or_returned)
{
    struct store_extent a, b, z;
    struct store_record r;

    lend(0, 4 * STORE_BLOCK, 1, 2, 0);
    ck_assert(store_client_alloc(c, STORE_BLOCK, &a) && store_client_alloc(c, STORE_BLOCK, &b));
    store_client_abort(c, &b);
    ck_assert(store_client_alloc(c, 3 * STORE_BLOCK, &z));
    ck_assert(z.offset == b.offset && z.place == b.place);
    ck_assert(!take(&r));
    store_client_abort(c, &a); /* not at the end of the rest */
    ck_assert(take(&r) && r.kind == STORE_RETURN && r.place == 0);
    ck_assert(r.offset == 0 && r.size == STORE_BLOCK);
    ck_assert(!take(&r));
}
END_TEST

START_TEST(test_a_trimmed_extent_gives_back_its_end)
{
    struct store_extent a, b, z;
    struct store_record r;

    lend(0, 8 * STORE_BLOCK, 1, 3, 0);
    ck_assert(store_client_alloc(c, 3 * STORE_BLOCK, &a));
    ck_assert(store_client_alloc(c, 3 * STORE_BLOCK, &b));
    store_client_trim(c, &a, 2 * STORE_BLOCK + 1);
    ck_assert_uint_eq(a.size, 2 * STORE_BLOCK + 1);
    ck_assert_msg(!take(&r), "no whole block is left over");
    store_client_trim(c, &a, STORE_BLOCK);
    ck_assert(take(&r) && r.kind == STORE_RETURN && r.place == 0);
    ck_assert(r.offset == STORE_BLOCK && r.size == 2 * STORE_BLOCK);
    store_client_trim(c, &b, 1); /* in front of the region's rest */
    ck_assert(!take(&r));
    ck_assert(store_client_alloc(c, 4 * STORE_BLOCK, &z));
    ck_assert_uint_eq(z.offset, 4 * STORE_BLOCK);
    store_client_trim(c, &z, z.size);
    ck_assert(!take(&r) && !store_client_alloc(c, 1, &z));
}
END_TEST

START_TEST(test_a_rest_stays_in_use_beside_the_next_region)
{
    struct store_extent e;
    struct store_record r;

    lend(0, 4 * STORE_BLOCK, 1, 8, 0);
    ck_assert(store_client_alloc(c, 3 * STORE_BLOCK, &e));
    lend(100 * STORE_BLOCK, 8 * STORE_BLOCK, 20, 8, 0);
    ck_assert(store_client_alloc(c, 2 * STORE_BLOCK, &e));
    ck_assert_uint_eq(e.offset, 100 * STORE_BLOCK);
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    ck_assert_uint_eq(e.offset, 3 * STORE_BLOCK);
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    ck_assert_uint_eq(e.offset, 102 * STORE_BLOCK);
    ck_assert(!take(&r));
    /* a third region: the smaller rest goes back */
    lend(200 * STORE_BLOCK, STORE_BLOCK, 40, 1, 0);
    lend(300 * STORE_BLOCK, 2 * STORE_BLOCK, 50, 1, 0);
    ck_assert(take(&r) && r.kind == STORE_RETURN);
    ck_assert(r.offset == 200 * STORE_BLOCK && r.size == STORE_BLOCK);
    ck_assert(!take(&r));
}
END_TEST

START_TEST(test_asks_for_more_while_it_goes_fast)
{
    struct store_extent e;
    uint64_t most = CAPACITY / 64, now = 5, want, last = 0;

    for (int i = 0; i < 8; i++) { /* 1 MiB is more than this store's share: start small */
        want = want_of(STORE_BLOCK, now);
        ck_assert_uint_ge(want, last);
        ck_assert_uint_le(want, most);
        last = want;
        lend(0, want, 1, STORE_LENT_MAX, now);
        for (uint64_t used = 0; used < want; used += STORE_BLOCK)
            if (!store_client_alloc(c, STORE_BLOCK, &e))
                break;
        now += 10;
    }
    ck_assert_uint_eq(last, STORE_LENT_MAX * STORE_BLOCK);
    /* large objects: all of the share */
    ck_assert_uint_eq(want_of(most / 3, now), most);
    /* and an object larger than it: just itself */
    ck_assert_uint_eq(want_of(most * 3, now), most * 3);
    /* slowly: less each time, down to what is needed */
    for (int i = 0; i < 12; i++) {
        lend(0, most, 1, 1, now);
        now += 60000;
        want_of(STORE_BLOCK, now);
    }
    ck_assert_uint_eq(want_of(STORE_BLOCK, now), STORE_BLOCK);
    /* and faster again, once for each region however often it asks */
    lend(0, most, 1, 1, now);
    ck_assert_uint_eq(want_of(STORE_BLOCK, now), 2 * STORE_BLOCK);
    ck_assert_uint_eq(want_of(STORE_BLOCK, now), 2 * STORE_BLOCK);
    store_client_on_recall(c);
    ck_assert_uint_eq(want_of(STORE_BLOCK, now), STORE_BLOCK);
}
END_TEST

START_TEST(test_asks_ahead_once_half_is_used)
{
    struct store_extent e;
    uint64_t need, want;
    uint32_t n_places;

    lend(0, 8 * STORE_BLOCK, 1, 8, 0);
    for (int i = 0; i < 3; i++)
        ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    ck_assert(!store_client_wants_more(c));
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    ck_assert(store_client_wants_more(c));
    ck_assert(!store_client_wants_more(c));
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    ck_assert_msg(!store_client_wants_more(c), "asked already");
    store_client_request(c, 0, 0, &need, &want, &n_places);
    ck_assert_uint_eq(need, STORE_BLOCK);
    lend(64 * STORE_BLOCK, 8 * STORE_BLOCK, 20, 8, 0);
    ck_assert(!store_client_wants_more(c));
    /* nothing is asked for behind one large object */
    lend(1024 * STORE_BLOCK, 1024 * STORE_BLOCK, 40, 8, 0);
    ck_assert(store_client_alloc(c, 1024 * STORE_BLOCK, &e));
    ck_assert(!store_client_wants_more(c));
}
END_TEST

START_TEST(test_refuses_what_cannot_be_lent)
{
    static const struct {
        uint64_t offset, size;
        uint32_t entry, n;
    } bad[] = {{0, 0, 1, 1},
               {1, STORE_BLOCK, 1, 1},
               {0, 1, 1, 1},
               {CAPACITY, STORE_BLOCK, 1, 1},
               {STORE_BLOCK, CAPACITY, 1, 1},
               {UINT64_MAX - STORE_BLOCK + 1, 2 * STORE_BLOCK, 1, 1},
               {0, STORE_BLOCK, N_ENTRIES, 1},
               {0, STORE_BLOCK, 1, STORE_LENT_MAX + 1}};
    uint64_t places[STORE_LENT_MAX + 1];
    struct store_extent e;
    struct err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (uint32_t k = 0; k < bad[i].n; k++)
            places[k] = store_place(1, bad[i].entry);
        ck_assert_int_eq(
            store_client_on_lent(c, bad[i].offset, bad[i].size, places, bad[i].n, 0, &err),
            -1);
        ck_assert_int_eq(err.code, ERR_PROTOCOL);
        ck_assert(!store_client_alloc(c, 1, &e));
    }
    ck_assert(store_client_read(c, 0, CAPACITY) != NULL);
    ck_assert(store_client_read(c, 1, CAPACITY) == NULL);
    ck_assert(store_client_read(c, CAPACITY + 1, 0) == NULL);
    ck_assert(store_client_read(c, UINT64_MAX, 2) == NULL);
}
END_TEST

START_TEST(test_a_recall_returns_all_that_is_not_carved)
{
    uint64_t bytes = 0, places = 0, starts = 0;
    struct store_extent e;
    struct store_record r;

    lend(0, 8 * STORE_BLOCK, 1, 5, 0);
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    lend(64 * STORE_BLOCK, 16 * STORE_BLOCK, 10, 6, 0);
    while (store_client_post(c, &(struct store_record){.kind = STORE_FREE, .place = 9}, NULL))
        continue; /* the ring is full: all must go by frame */
    store_client_on_recall(c);
    while (store_client_unsent(c, &r)) {
        ck_assert_int_eq(r.kind, STORE_RETURN);
        bytes += r.size;
        starts += r.size > 0 ? r.offset / STORE_BLOCK : 0;
        places |= r.place != 0 ? 1ull << store_place_entry(r.place) : 0;
    }
    ck_assert_uint_eq(bytes, 23 * STORE_BLOCK);
    ck_assert_uint_eq(starts, 1 + 64);
    ck_assert_uint_eq(places | 1ull << store_place_entry(e.place), 0x3eull | 0x3full << 10);
    ck_assert(!store_client_alloc(c, 1, &e));
    for (int i = 0; take(&r); i++)
        ck_assert_msg(r.kind == STORE_FREE, "record %d", i);
    store_client_on_recall(c);
    ck_assert(!take(&r) && !store_client_unsent(c, &r));
}
END_TEST

START_TEST(test_pins_what_is_there)
{
    uint64_t place = store_place(3, 7);
    bool bell;
    int slot;

    ck_assert_int_eq(store_client_pin(c, place, &bell), -1);
    ck_assert_int_eq(store_client_pin(c, store_place(3, N_ENTRIES), &bell), -1);
    ck_assert_int_eq(store_client_pin(c, store_place(0, 0), &bell), -1);
    for (enum store_state s = STORE_ENTRY_FREE; s <= STORE_ENTRY_FREEING; s++) {
        bool readable = s == STORE_ENTRY_LENT || s == STORE_ENTRY_SEALED;
        entries[7].word = pin_word(place, s);
        ck_assert(store_client_is_there(c, place) == readable);
        ck_assert_int_eq(store_client_pin(c, store_place(2, 7), &bell), -1);
        ck_assert_int_eq(store_client_pin(c, store_place(4, 7), &bell), -1);
        slot = store_client_pin(c, place, &bell);
        ck_assert(readable == (slot >= 0) && !bell);
        if (slot < 0)
            continue;
        ck_assert(share->pins[slot] == place && store_client_pinned(c, slot) == place);
        ck_assert(!store_client_unpin(c, slot));
        ck_assert(share->pins[slot] == 0);
    }
    entries[7].word = pin_word(place, STORE_ENTRY_SEALED);
    slot = store_client_pin(c, place, &bell);
    entries[7].word = pin_word(place, STORE_ENTRY_FREEING);
    ck_assert_msg(store_client_unpin(c, slot), "the raylet waits for it");
    for (int i = 0; i < STORE_PINS; i++)
        ck_assert_msg(share->pins[i] == 0, "slot %d", i);
}
END_TEST

START_TEST(test_pins_run_out_and_move_to_holds)
{
    uint64_t place = store_place(1, 5);
    bool used[STORE_PINS] = {false}, bell;
    struct store_record r;
    int slot;

    entries[5].word = pin_word(place, STORE_ENTRY_SEALED);
    for (int i = 0; i < STORE_PINS; i++) {
        slot = store_client_pin(c, place, &bell);
        ck_assert(slot >= 0 && slot < STORE_PINS && !used[slot]);
        used[slot] = true;
    }
    ck_assert_int_eq(store_client_pin(c, place, &bell), -2);
    ck_assert_msg(store_client_pin(c, store_place(2, 5), &bell) == -1, "gone, slots or not");
    ck_assert(store_client_hold(c, 17, &bell) && !bell);
    ck_assert(take(&r) && r.kind == STORE_HOLD && r.place == place && share->pins[17] == 0);
    ck_assert_int_eq(store_client_pin(c, place, &bell), 17);
    ck_assert(store_client_unhold(c, place, &bell) && !bell);
    ck_assert(take(&r) && r.kind == STORE_UNHOLD && r.place == place);
    entries[5].word = pin_word(place, STORE_ENTRY_FREEING);
    ck_assert(store_client_hold(c, 3, &bell) && bell);
    ck_assert(store_client_unhold(c, place, &bell) && bell);
    while (store_client_post(c, &r, NULL))
        continue;
    ck_assert(!store_client_hold(c, 4, &bell) && share->pins[4] == place);
    ck_assert(!store_client_unhold(c, place, &bell));
}
END_TEST

START_TEST(test_the_ring_says_when_it_is_full)
{
    struct store_record r = {.kind = STORE_FREE};
    bool half;

    for (uint64_t lap = 0; lap < 3; lap++) {
        for (uint64_t i = 0; i < STORE_RING; i++) {
            r.place = lap << 32 | i;
            ck_assert(store_client_post(c, &r, &half));
            ck_assert(half == (i + 1 >= STORE_RING / 2));
        }
        ck_assert(!store_client_post(c, &r, &half));
        for (uint64_t i = 0; i < STORE_RING; i++)
            ck_assert(take(&r) && r.place == (lap << 32 | i));
        ck_assert(!take(&r));
    }
    share->ring.head = tail + STORE_RING + 1; /* the process's mischief: no records, no crash */
    ck_assert(!take(&r));
}
END_TEST

static uint64_t n_pages(void)
{
    struct stat st;

    ck_assert_int_eq(fstat(arena_fd, &st), 0);
    return (uint64_t)st.st_blocks * 512 / STORE_BLOCK;
}

static long n_faults(void)
{
    struct rusage usage;

    ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_minflt;
}

START_TEST(test_touches_each_page_once)
{
    struct store_extent a, b, all = {.offset = 0, .size = 4096 * (uint64_t)STORE_BLOCK};
    long before, after;

    lend(0, 4096 * STORE_BLOCK, 1, 4, 0);
    ck_assert(store_client_alloc(c, 70 * STORE_BLOCK + 1, &a));
    ck_assert(store_client_alloc(c, 1000 * STORE_BLOCK, &b));
    ck_assert_int_eq(store_client_touch(c, &b, NULL), 0);
    ck_assert_uint_eq(n_pages(), 1000);
    ck_assert_int_eq(store_client_touch(c, &a, NULL), 0);
    ck_assert_uint_eq(n_pages(), 1071);
    /* written by the kernel: a sanitizer's own memory would fault */
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    before = n_faults();
    ck_assert_int_eq(syscall(SYS_read, zero, store_client_write(c, &b), b.size), (long)b.size);
    after = n_faults();
    ck_assert_int_lt(after - before, 100);
    close(zero);
    ck_assert_int_eq(store_client_touch(c, &all, NULL), 0);
    ck_assert_uint_eq(n_pages(), 4096);
    /* what was touched before is not asked for again */
    ck_assert_int_eq(
        fallocate(arena_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)all.size),
        0);
    ck_assert_int_eq(store_client_touch(c, &all, NULL), 0);
    ck_assert_uint_eq(n_pages(), 0);
}
END_TEST

START_TEST(test_finds_what_can_be_touched_ahead)
{
    const uint64_t most = 100 * STORE_BLOCK;
    struct store_extent a, e;

    ck_assert(!store_client_untouched(c, most, &e));
    lend(0, 300 * STORE_BLOCK, 1, 4, 0);
    ck_assert(store_client_alloc(c, 30 * STORE_BLOCK, &a)); /* its writer's affair */
    for (uint64_t at = 30; at < 300; at += e.size / STORE_BLOCK) {
        uint64_t left = 300 - at;
        ck_assert(store_client_untouched(c, most, &e));
        ck_assert_uint_eq(e.offset, at * STORE_BLOCK);
        ck_assert_uint_eq(e.size, (left < 100 ? left : 100) * STORE_BLOCK);
        ck_assert_int_eq(store_client_touch(c, &e, NULL), 0);
    }
    ck_assert(!store_client_untouched(c, most, &e));
    ck_assert_uint_eq(n_pages(), 270);
    /* a gap in what was touched before */
    lend(400 * STORE_BLOCK, 10 * STORE_BLOCK, 5, 4, 0);
    e = (struct store_extent){.offset = 402 * STORE_BLOCK, .size = STORE_BLOCK};
    ck_assert_int_eq(store_client_touch(c, &e, NULL), 0);
    ck_assert(store_client_untouched(c, most, &e));
    ck_assert_uint_eq(e.offset, 400 * STORE_BLOCK);
    ck_assert_uint_eq(e.size, 2 * STORE_BLOCK);
    store_client_on_recall(c);
    ck_assert(!store_client_untouched(c, most, &e));
}
END_TEST

START_TEST(test_says_when_the_machine_has_no_memory)
{
    struct store_extent a, b;
    struct err err;

    lend(0, 64 * STORE_BLOCK, 1, 2, 0);
    ck_assert(store_client_alloc(c, 8 * STORE_BLOCK, &a));
    ck_assert(store_client_alloc(c, 8 * STORE_BLOCK, &b));
    ck_assert_int_eq(ftruncate(arena_fd, 12 * STORE_BLOCK), 0); /* a write beyond is SIGBUS too */
    ck_assert_int_eq(store_client_touch(c, &a, &err), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(store_client_touch(c, &b, &err), -1);
        ck_assert_int_eq(err.code, ERR_NO_MEMORY);
    }
    ck_assert_int_eq(ftruncate(arena_fd, CAPACITY), 0);
    ck_assert_int_eq(store_client_touch(c, &b, &err), 0);
}
END_TEST

START_TEST(test_a_child_cannot_write)
{
    struct store_extent e;
    int status;

    lend(0, STORE_BLOCK, 1, 1, 0);
    ck_assert(store_client_alloc(c, STORE_BLOCK, &e));
    void *p = store_client_write(c, &e);
    ck_assert_int_eq(msync(p, STORE_BLOCK, MS_ASYNC), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(msync(p, STORE_BLOCK, MS_ASYNC) == -1 && errno == ENOMEM ? 0 : 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status == 0, "the writable mapping is in the child");
}
END_TEST

START_TEST(test_another_process_reads_what_was_sealed)
{
    struct store_record r;
    struct store_extent e;
    int status;
    bool bell;

    pid_t pid = fork();
    if (pid == 0) { /* the creator, with its own mappings */
        struct store_client *mine = store_client_create(index_fd, arena_fd, share, NULL);
        uint64_t place = store_place(1, 1);
        if (mine == NULL || store_client_on_lent(mine, 0, 64 * STORE_BLOCK, &place, 1, 0, NULL) != 0
            || !store_client_alloc(mine, 50 * STORE_BLOCK, &e))
            _exit(1);
        memset(store_client_write(mine, &e), 0x5a, e.size);
        r = (struct store_record){.kind = STORE_SEAL,
                                  .place = e.place,
                                  .offset = e.offset,
                                  .size = e.size};
        _exit(store_client_post(mine, &r, NULL) ? 0 : 2);
    }
    ck_assert(waitpid(pid, &status, 0) == pid && status == 0);
    ck_assert(take(&r) && r.kind == STORE_SEAL && r.size == 50 * STORE_BLOCK);
    entries[1].word = pin_word(r.place, STORE_ENTRY_SEALED);
    int slot = store_client_pin(c, r.place, &bell);
    ck_assert_int_ge(slot, 0);
    const uint8_t *data = store_client_read(c, r.offset, r.size);
    for (uint64_t i = 0; i < r.size; i++)
        ck_assert_uint_eq(data[i], 0x5a);
    ck_assert(!store_client_unpin(c, slot));
}
END_TEST

/* --- threads: also what the thread sanitizer looks at --- */

#define N_POSTS 20000u

static void *post_all(void *arg)
{
    struct store_record r = {.kind = STORE_FREE};

    (void)arg;
    for (uint64_t i = 0; i < N_POSTS; i++) {
        r.place = r.offset = r.size = r.counter = i;
        r.index = r.n_refs = (uint32_t)i;
        while (!store_client_post(c, &r, NULL))
            sched_yield();
    }
    return NULL;
}

START_TEST(test_records_arrive_whole_and_in_order)
{
    struct store_record r;
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, post_all, NULL), 0);
    for (uint64_t i = 0; i < N_POSTS; i++) {
        while (!take(&r))
            sched_yield();
        ck_assert(r.place == i && r.offset == i && r.size == i && r.counter == i);
        ck_assert(r.index == (uint32_t)i && r.n_refs == (uint32_t)i);
    }
    pthread_join(thread, NULL);
    ck_assert(!take(&r));
}
END_TEST

#define N_READERS 2
#define N_FREES   3000u
#define N_WORDS   64

/* One object that is freed and made anew. By the steps of pin.h and outside the mapped memory,
 * which a process has at other addresses: the thread sanitizer would not know them as the same. */
static uint64_t data[N_WORDS];
static _Atomic uint64_t object_word;
static struct store_share shares[N_READERS];
static _Atomic uint64_t bells, n_reads;
static _Atomic bool stop;

static void *read_all(void *arg)
{
    _Atomic uint64_t *slot = &((struct store_share *)arg)->pins[0];
    bool bell;

    while (!stop) {
        uint64_t now = atomic_load_explicit(&object_word, memory_order_relaxed);
        uint64_t place = store_place((uint32_t)(now >> 32), 1);
        if (pin_set(slot, &object_word, place, &bell)) {
            for (int i = 0; i < N_WORDS; i++)
                if (data[i] != place)
                    abort();
            n_reads++;
            bell = pin_clear(slot, &object_word, place);
        }
        if (bell)
            bells++;
    }
    return NULL;
}

static bool is_pinned(uint64_t place)
{
    for (int r = 0; r < N_READERS; r++)
        for (int i = 0; i < STORE_PINS; i++)
            if (pin_look(&shares[r].pins[i]) == place)
                return true;
    return false;
}

START_TEST(test_memory_is_used_again_only_when_nobody_reads)
{
    pthread_t threads[N_READERS];

    for (int i = 0; i < N_READERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_all, &shares[i]), 0);
    for (uint32_t g = 1; g <= N_FREES; g++) {
        uint64_t place = store_place(g, 1), heard = 0, before = n_reads;
        for (int i = 0; i < N_WORDS; i++)
            data[i] = place;
        atomic_store_explicit(&object_word,
                              pin_word(place, STORE_ENTRY_SEALED),
                              memory_order_release);
        while (g % 64 == 0 && n_reads == before)
            sched_yield(); /* that some are read for sure */
        heard = bells;
        pin_begin_free(&object_word, place);
        pin_end_batch();
        while (is_pinned(place)) { /* looks again only after a bell */
            while (bells == heard)
                sched_yield();
            heard = bells;
        }
        atomic_store_explicit(&object_word,
                              pin_word(place, STORE_ENTRY_FREE),
                              memory_order_relaxed);
    }
    stop = true;
    for (int i = 0; i < N_READERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_ge(n_reads, N_FREES / 64);
}
END_TEST

/* --- copies --- */

START_TEST(test_every_plan_copies_every_byte)
{
    static const size_t sizes[] = {0,
                                   1,
                                   4095,
                                   32768,
                                   65551,
                                   262144,
                                   262145,
                                   (1u << 20) + 3,
                                   (4u << 20) + 4097,
                                   (17u << 20) + 1};
    size_t most = (17u << 20) + 128;
    uint8_t *from = malloc(most), *to = malloc(most);

    ck_assert(from != NULL && to != NULL);
    for (size_t i = 0; i < most; i++)
        from[i] = (uint8_t)(i * 2654435761u >> 13);
    static const store_copy_plan plans[] =
        {0, 0x4141414141, 0x8181818181, 0x0202020202, 0x4383438343, UINT64_MAX, 0x8840884088};
    for (size_t p = 0; p < sizeof plans / sizeof plans[0]; p++)
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            size_t skew = (p * 7 + s * 5) % 32;
            memset(to, 0xee, sizes[s] + 64);
            store_copy(plans[p], to + skew, from + (skew ^ 3), sizes[s]);
            ck_assert_int_eq(memcmp(to + skew, from + (skew ^ 3), sizes[s]), 0);
            ck_assert(skew == 0 || to[skew - 1] == 0xee);
            ck_assert_uint_eq(to[skew + sizes[s]], 0xee);
        }
    free(from);
    free(to);
}
END_TEST

START_TEST(test_a_plan_says_what_each_size_gets)
{
    store_copy_plan plan = 0x82ffull << 24 | 0x010040;

    ck_assert_uint_eq(store_copy_class(1), 0);
    for (unsigned k = 0; k < STORE_COPY_CLASSES - 1; k++) {
        ck_assert_uint_eq(store_copy_class(store_copy_class_limit(k)), k);
        ck_assert_uint_eq(store_copy_class(store_copy_class_limit(k) + 1), k + 1);
    }
    ck_assert_uint_eq(store_copy_class(SIZE_MAX), STORE_COPY_CLASSES - 1);
    ck_assert(store_copy_routine_of(plan, 0) == STORE_COPY_STREAM);
    ck_assert_uint_eq(store_copy_threads_of(plan, 0), 1);
    ck_assert(store_copy_routine_of(plan, 1) == STORE_COPY_PLAIN);
    ck_assert_uint_eq(store_copy_threads_of(plan, 2), 1);
    ck_assert_uint_eq(store_copy_threads_of(plan, 3), STORE_COPY_MAX_THREADS);
    ck_assert(store_copy_routine_of(plan, 3) == STORE_COPY_PLAIN);
    ck_assert(store_copy_routine_of(plan, 4) == STORE_COPY_STRING);
    ck_assert_uint_eq(store_copy_threads_of(plan, 4), 2);
}
END_TEST

START_TEST(test_measures_this_machine)
{
    struct store_copy_facts f;
    struct err err;

    ck_assert_msg(store_copy_measure(&f, 2, &err) == 0, "%s", err.text);
    for (unsigned k = 0; k < STORE_COPY_CLASSES; k++) {
        enum store_copy_routine r = store_copy_routine_of(f.plan, k);
        unsigned n = store_copy_threads_of(f.plan, k);
        ck_assert_uint_gt(f.mb_per_s[k][STORE_COPY_PLAIN][0], 0);
        ck_assert_uint_gt(f.mb_per_s[k][STORE_COPY_PLAIN][1], 0);
        ck_assert_uint_eq(f.mb_per_s[k][STORE_COPY_PLAIN][2], 0);
        ck_assert(n == 1 || n == 2);
        ck_assert_msg(n == 1 || f.mb_per_s[k][r][1] > f.mb_per_s[k][r][0], "class %u", k);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store_client");
    TCase *t = tcase_create("client");
    SRunner *r = srunner_create(s);

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_carves_objects_out_of_what_was_lent);
    tcase_add_test(t, test_an_aborted_extent_is_used_again_or_returned);
    tcase_add_test(t, test_a_trimmed_extent_gives_back_its_end);
    tcase_add_test(t, test_a_rest_stays_in_use_beside_the_next_region);
    tcase_add_test(t, test_asks_for_more_while_it_goes_fast);
    tcase_add_test(t, test_asks_ahead_once_half_is_used);
    tcase_add_test(t, test_refuses_what_cannot_be_lent);
    tcase_add_test(t, test_a_recall_returns_all_that_is_not_carved);
    tcase_add_test(t, test_pins_what_is_there);
    tcase_add_test(t, test_pins_run_out_and_move_to_holds);
    tcase_add_test(t, test_the_ring_says_when_it_is_full);
    tcase_add_test(t, test_touches_each_page_once);
    tcase_add_test(t, test_finds_what_can_be_touched_ahead);
    tcase_add_test(t, test_says_when_the_machine_has_no_memory);
    tcase_add_test(t, test_a_child_cannot_write);
    tcase_add_test(t, test_another_process_reads_what_was_sealed);
    tcase_add_test(t, test_records_arrive_whole_and_in_order);
    tcase_add_test(t, test_memory_is_used_again_only_when_nobody_reads);
    tcase_add_test(t, test_every_plan_copies_every_byte);
    tcase_add_test(t, test_a_plan_says_what_each_size_gets);
    tcase_add_test(t, test_measures_this_machine);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
