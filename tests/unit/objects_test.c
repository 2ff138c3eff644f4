/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process's use of the object store when the raylet is slow, gone, or told nonsense by others:
 * the real core as a driver, with the store's memory and the raylet's end of the link here.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"
#include "objstore/pin.h"
#include "tests/fuzz/played_raylet.h"

#define N_ENTRIES 1024u
#define CAPACITY  (64u * STORE_BLOCK)

static struct index_entry *entries;
static struct store_share *share;

/* --- a driver with a store --- */

static uint64_t place_of(uint32_t entry)
{
    return store_place(1, entry);
}

static void set_state(uint32_t entry, enum store_state state)
{
    atomic_store(&entries[entry].word, pin_word(place_of(entry), state));
}

static void join(void)
{
    static const struct core_face face = {0};
    struct err err;
    int index = memfd_create("index", MFD_CLOEXEC), arena = memfd_create("arena", MFD_CLOEXEC);

    core_set_face(&face);
    ck_assert_int_eq(core_init(NULL, &err), CORE_OK);
    ck_assert_int_eq(ftruncate(index, N_ENTRIES * sizeof *entries), 0);
    ck_assert_int_eq(ftruncate(arena, CAPACITY), 0);
    entries = mmap(NULL, N_ENTRIES * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, index, 0);
    ck_assert(entries != MAP_FAILED);
    core_lock();
    core.control =
        mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(core.control != MAP_FAILED);
    share = (void *)((char *)core.control + STORE_SHARE_OFFSET);
    ck_assert_int_eq(objects_open(index, arena, core.control, &err), 0);
    core_unlock();
    for (uint32_t i = 1; i < N_ENTRIES; i++)
        set_state(i, STORE_ENTRY_SEALED);
}

static void fill_ring(void)
{
    const struct store_record r = {.kind = STORE_FREE, .place = place_of(N_ENTRIES - 1)};

    core_lock();
    while (store_client_post(core.store, &r, NULL))
        continue;
    core_unlock();
}

static void drain_ring(void)
{
    atomic_store(&share->ring.tail, atomic_load(&share->ring.head));
}

/* --- what goes by frame --- */

static bool is_written;

static void *seal(void *arg)
{
    const struct store_extent e = {.place = place_of(1), .size = 8};
    const struct object_name name = {.owner = 2, .counter = 1};

    (void)arg;
    core_lock();
    objects_seal(&e, 8, WIRE_META_RAW, 0, &name);
    is_written = unix_link_pending(core.raylet->link) == 0;
    core_unlock();
    return NULL;
}

/* Whoever is told of an object reads it although its creator has died meanwhile (INV-9): a SEAL
 * must not lie in the creator's own memory then. */
START_TEST(a_seal_is_with_the_raylet_before_anybody_hears_of_it)
{
    static const uint8_t junk[60000];
    struct pollfd fd = {.events = POLLIN};
    unsigned n_records = 0;
    struct frame f;
    pthread_t t;

    join();
    fd.fd = unix_link_fd(raylet);
    fill_ring();
    core_lock();
    while (unix_link_pending(core.raylet->link) == 0) {
        ck_assert_int_eq(peer_send(core.raylet, WIRE_INFO, junk, sizeof junk), 0);
        peer_flush(core.raylet);
    }
    core_unlock();
    ck_assert_int_eq(pthread_create(&t, NULL, seal, NULL), 0);
    while (n_records == 0 && poll(&fd, 1, -1) == 1) {
        unix_link_read(raylet, NULL);
        while (unix_link_next(raylet, &f, NULL) == 1)
            n_records += f.h.type == WIRE_STORE_RECORD;
    }
    pthread_join(t, NULL);
    ck_assert(is_written);
}
END_TEST

/* --- pins --- */

static int32_t homes[N_ENTRIES];

/* All slots are taken, and the raylet does not read. */
static void pin_all(void)
{
    fill_ring();
    core_lock();
    for (uint32_t i = 0; i < STORE_PINS; i++)
        ck_assert(objects_pin(place_of(i + 1), &homes[i]));
    core_unlock();
}

START_TEST(who_wants_a_pin_is_told_that_the_raylet_is_gone)
{
    join();
    pin_all();
    unix_link_destroy(raylet);
    core_lock();
    ck_assert(!objects_pin(place_of(STORE_PINS + 1), &homes[STORE_PINS]));
    ck_assert_int_eq(homes[STORE_PINS], REF_NO_PIN);
    core_unlock();
}
END_TEST

#define BORROWED (N_ENTRIES / 2) /* entry of it */

static struct record *borrowed;

static void *view(void *arg)
{
    ck_assert_int_eq(core_get(record_word(borrowed), -1, arg), CORE_OK);
    return NULL;
}

static unsigned n_slots_with(uint64_t place)
{
    unsigned n = 0;

    for (int i = 0; i < STORE_PINS; i++)
        n += atomic_load(&share->pins[i]) == place;
    return n;
}

START_TEST(two_threads_that_wait_for_a_pin_share_one)
{
    const struct ref_stored s = {.place = place_of(BORROWED), .size = 8, .pin = REF_NO_PIN};
    struct core_value v[2];
    pthread_t t[2];
    unsigned n = 0;

    join();
    pin_all();
    core_lock();
    borrowed = borrow_learn(core.borrow, 2, 1ull << 32 | 5);
    borrowed->count++;
    ref_table_set_stored(core.refs, borrowed, WIRE_META_RAW, &s);
    core_unlock();
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, view, &v[i]), 0);
    while (n < 2) {
        core_lock();
        n = borrowed->u.stored.n_views;
        core_unlock();
    }
    drain_ring();
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_eq(n_slots_with(s.place), 1);
    core_value_drop(&v[0]);
    ck_assert_uint_eq(n_slots_with(s.place), 1);
    core_value_drop(&v[1]);
    ck_assert_uint_eq(n_slots_with(s.place), 0);
}
END_TEST

/* --- results --- */

#define N_INNER 20000u /* too many for a block of the pool */

static bool is_last_freed(uint64_t place)
{
    const struct store_record *r =
        &share->ring.records[(atomic_load(&share->ring.head) - 1) % STORE_RING];

    return r->kind == STORE_FREE && r->place == place;
}

/* Its owner has no memory for the refs inside: nobody else will ever free the object. */
START_TEST(a_result_that_cannot_be_kept_is_freed)
{
    static uint32_t slots[N_INNER];
    const struct wire_value v = {.is_stored = true,
                                 .n_refs = N_INNER,
                                 .stored = {.place = place_of(7), .size = 8, .n_refs = N_INNER}};
    bool is_error = false;

    join();
    core_lock();
    struct record *inner = ref_table_new(core.refs);
    for (uint32_t i = 0; i < N_INNER; i++)
        slots[i] = inner->slot;
    for (unsigned long k = 1; k < 5 && !is_error; k++) {
        struct record *r = ref_table_new(core.refs);
        inner->held = N_INNER;
        alloc_test_fail_at(k);
        refs_set_value(r, &v, slots);
        alloc_test_fail_at(0);
        is_error = r->meta == WIRE_META_ERROR;
        ck_assert_int_eq(is_error, is_last_freed(v.stored.place));
        ck_assert_uint_eq(inner->held, is_error ? 0 : N_INNER);
    }
    ck_assert(is_error);
    core_unlock();
}
END_TEST

/* A broken worker names another's object, or another part of the store, as its result. */
START_TEST(a_result_is_an_object_that_was_sealed_for_us)
{
    struct wire_stored s = {.place = place_of(9), .offset = STORE_BLOCK, .size = 100};
    struct index_entry *e;

    join();
    e = &entries[9];
    e->owner = core.welcome.process;
    e->offset = s.offset;
    e->size = s.size;
    ck_assert(objects_is_ours(&s));
    e->owner++;
    ck_assert(!objects_is_ours(&s));
    e->owner--;
    s.n_refs = 1;
    ck_assert(!objects_is_ours(&s));
    s.n_refs = 0;
    s.size++;
    ck_assert(!objects_is_ours(&s));
    s.size--;
    s.offset += STORE_BLOCK;
    ck_assert(!objects_is_ours(&s));
    set_state(9, STORE_ENTRY_LENT); /* the raylet has not read its SEAL yet */
    ck_assert(objects_is_ours(&s));
    set_state(9, STORE_ENTRY_FREEING);
    ck_assert(!objects_is_ours(&s));
    s.place = store_place(2, 9);
    ck_assert(!objects_is_ours(&s));
    s.place = place_of(N_ENTRIES);
    ck_assert(!objects_is_ours(&s));
    s.place = 0;
    ck_assert(!objects_is_ours(&s));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("objects");
    TCase *t = tcase_create("objects");

    tcase_add_test(t, a_seal_is_with_the_raylet_before_anybody_hears_of_it);
    tcase_add_test(t, who_wants_a_pin_is_told_that_the_raylet_is_gone);
    tcase_add_test(t, two_threads_that_wait_for_a_pin_share_one);
    tcase_add_test(t, a_result_that_cannot_be_kept_is_freed);
    tcase_add_test(t, a_result_is_an_object_that_was_sealed_for_us);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
