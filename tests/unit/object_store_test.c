/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/store.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "objstore/pin.h"

#define N_ENTRIES 300
#define N_SLOTS   8
#define BLOCKS(n) ((uint64_t)(n)*STORE_BLOCK)
#define CAPACITY  BLOCKS(1000)
#define NUMBER(i) (100u + (i)) /* of the process in slot i */

static struct store *s;
static struct store_actions out;
static struct index_entry index_[N_ENTRIES];
static struct store_share shares[N_SLOTS];
static uint64_t now;

static void add_process(uint32_t slot)
{
    memset(&shares[slot], 0, sizeof shares[slot]);
    store_add_process(s, slot, NUMBER(slot), &shares[slot]);
}

static void make(uint64_t capacity, uint32_t n_entries, uint32_t n_processes)
{
    store_destroy(s);
    memset(index_, 0, sizeof index_);
    s = store_create(&(struct store_config){.capacity = capacity,
                                            .n_entries = n_entries,
                                            .index = index_,
                                            .n_slots = N_SLOTS,
                                            .wait_ms = 1000});
    ck_assert_ptr_nonnull(s);
    for (uint32_t i = 0; i < n_processes; i++)
        add_process(i);
}

static void setup(void)
{
    now = 5000;
    make(CAPACITY, N_ENTRIES, 3);
}

static void teardown(void)
{
    store_selfcheck(s);
    store_destroy(s);
    s = NULL;
    free(out.v);
    out = (struct store_actions){0};
}

static struct store_stats stats(void)
{
    struct store_stats t;

    store_selfcheck(s);
    store_get_stats(s, &t);
    return t;
}

/* The only action since the last look. */
static struct store_action only(enum store_kind kind)
{
    ck_assert_uint_eq(out.n, 1);
    struct store_action a = out.v[0];
    ck_assert_int_eq(a.kind, kind);
    out.n = 0;
    return a;
}

static void nothing(void)
{
    ck_assert_uint_eq(out.n, 0);
}

static void request(uint32_t slot, uint64_t ticket, uint64_t need, uint64_t want, uint32_t n_places)
{
    store_lend(s, slot, ticket, need, want, n_places, now, &out);
}

static struct store_action borrow(uint32_t slot, uint64_t n_blocks, uint32_t n_places)
{
    request(slot, 77, BLOCKS(n_blocks), BLOCKS(n_blocks), n_places);
    return only(STORE_LENT);
}

static void post(uint32_t slot, struct store_record r)
{
    ck_assert(ring_post(&shares[slot].ring, &r, NULL));
}

static void drain(uint32_t slot)
{
    store_drain(s, slot, now, &out);
}

static struct store_record seal_of(const struct store_action *a, uint32_t i, uint64_t size)
{
    return (struct store_record){.kind = STORE_SEAL,
                                 .meta = 3,
                                 .attempt = 2,
                                 .owner = NUMBER(0),
                                 .place = a->places[i],
                                 .offset = a->offset + i * BLOCKS(1),
                                 .size = size,
                                 .counter = 55,
                                 .index = i};
}

/* An object of one block of slot's own making for the process in slot 0. */
static uint64_t sealed_by(uint32_t slot)
{
    struct store_action a = borrow(slot, 1, 1);

    post(slot, seal_of(&a, 0, 1000));
    drain(slot);
    return a.places[0];
}

static struct store_record word(enum store_record_kind kind, uint64_t place)
{
    return (struct store_record){.kind = (uint8_t)kind, .place = place};
}

static _Atomic uint64_t *word_at(uint64_t place)
{
    return &index_[store_place_entry(place)].word;
}

static bool pin(uint32_t slot, int at, uint64_t place)
{
    bool bell;

    return pin_set(&shares[slot].pins[at], word_at(place), place, &bell);
}

static bool unpin(uint32_t slot, int at, uint64_t place)
{
    return pin_clear(&shares[slot].pins[at], word_at(place), place);
}

static enum store_state state(uint64_t place)
{
    uint64_t w = atomic_load(word_at(place));

    ck_assert_uint_eq(w >> 32, store_place_generation(place));
    return (enum store_state)(uint32_t)w;
}

static bool is_gone(uint64_t place)
{
    uint64_t w = atomic_load(word_at(place));

    return w >> 32 == store_place_generation(place) + 1ull;
}

/* --- regions and seals --- */

START_TEST(what_is_lent_has_memory_and_places)
{
    request(1, 9, BLOCKS(2) - 1, BLOCKS(10), 3);
    struct store_action a = only(STORE_LENT);

    ck_assert_uint_eq(a.slot, 1);
    ck_assert_uint_eq(a.ticket, 9);
    ck_assert_uint_eq(a.size, BLOCKS(10));
    ck_assert_uint_eq(a.offset % STORE_BLOCK, 0);
    ck_assert_uint_eq(a.n_places, 3);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_uint_ne(store_place_entry(a.places[i]), 0);
        ck_assert_int_eq(state(a.places[i]), STORE_ENTRY_LENT);
        ck_assert(i == 0 || a.places[i] != a.places[i - 1]);
    }
    ck_assert_uint_eq(stats().lent, BLOCKS(10));
    ck_assert_uint_eq(stats().n_lent, 3);
    ck_assert_uint_eq(stats().free, CAPACITY - BLOCKS(10));
    ck_assert_uint_eq(stats().touched, BLOCKS(10));
}
END_TEST

START_TEST(a_seal_makes_an_entry_that_anybody_can_read)
{
    struct store_action a = borrow(1, 10, 2);
    struct store_record r = seal_of(&a, 0, BLOCKS(2) + 1);

    r.extra = 16;
    r.n_refs = 1;
    post(1, r);
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_LENT);
    drain(1);
    nothing();
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_SEALED);
    const struct index_entry *e = &index_[store_place_entry(a.places[0])];
    ck_assert_uint_eq(e->offset, a.offset);
    ck_assert_uint_eq(e->size, BLOCKS(2) + 1);
    ck_assert_uint_eq(e->owner, NUMBER(0));
    ck_assert_uint_eq(e->counter, 55);
    ck_assert_uint_eq(e->index, 0);
    ck_assert_uint_eq(e->n_refs, 1);
    ck_assert_uint_eq(e->attempt, 2);
    ck_assert_uint_eq(e->meta, 3);
    struct store_stats t = stats();
    ck_assert_uint_eq(t.used, BLOCKS(3));
    ck_assert_uint_eq(t.lent, BLOCKS(7));
    ck_assert_uint_eq(t.data_bytes, BLOCKS(2) + 1);
    ck_assert_uint_eq(t.n_sealed + t.n_lent, 2);
    ck_assert_uint_eq(t.n_bad_records, 0);
}
END_TEST

START_TEST(the_rest_of_a_region_can_be_returned_in_pieces)
{
    struct store_action a = borrow(1, 10, 2);

    post(1,
         (struct store_record){.kind = STORE_RETURN,
                               .offset = a.offset + BLOCKS(3),
                               .size = BLOCKS(2)});
    post(1,
         (struct store_record){.kind = STORE_RETURN,
                               .offset = a.offset + BLOCKS(9),
                               .size = BLOCKS(1)});
    post(1, (struct store_record){.kind = STORE_RETURN, .offset = a.offset, .size = BLOCKS(3)});
    post(1, word(STORE_RETURN, a.places[1]));
    drain(1);
    ck_assert_uint_eq(stats().lent, BLOCKS(4));
    ck_assert_uint_eq(stats().n_lent, 1);
    ck_assert(is_gone(a.places[1]));
    ck_assert_uint_eq(stats().n_bad_records, 0);
    struct store_record r = seal_of(&a, 0, BLOCKS(4));
    r.offset = a.offset + BLOCKS(5);
    post(1, r);
    drain(1);
    ck_assert_uint_eq(stats().used, BLOCKS(4));
    ck_assert_uint_eq(stats().lent, 0);
}
END_TEST

/* --- freeing --- */

START_TEST(what_nobody_reads_is_free_at_once)
{
    uint64_t place = sealed_by(1);

    post(0, word(STORE_FREE, place));
    drain(0);
    ck_assert(is_gone(place));
    ck_assert_uint_eq(stats().free, CAPACITY);
    ck_assert_uint_eq(stats().n_freed_ever, 1);
    post(0, word(STORE_FREE, place));
    drain(0);
    ck_assert_uint_eq(stats().n_bad_records, 1);
}
END_TEST

START_TEST(a_pin_keeps_the_memory_until_its_doorbell)
{
    uint64_t place = sealed_by(1);

    ck_assert(pin(2, 5, place));
    post(0, word(STORE_FREE, place));
    drain(0);
    ck_assert_int_eq(state(place), STORE_ENTRY_FREEING);
    ck_assert(!pin(1, 0, place));
    ck_assert_uint_eq(stats().used, BLOCKS(1));
    ck_assert_uint_eq(stats().n_freeing, 1);
    store_on_doorbell(s, now, &out);
    ck_assert_int_eq(state(place), STORE_ENTRY_FREEING);
    ck_assert(unpin(2, 5, place));
    store_on_doorbell(s, now, &out);
    ck_assert(is_gone(place));
    ck_assert_uint_eq(stats().free, CAPACITY);
}
END_TEST

START_TEST(a_hold_keeps_the_memory_until_it_ends)
{
    uint64_t place = sealed_by(1);
    struct store_record hold = word(STORE_HOLD, place), unhold = word(STORE_UNHOLD, place);
    bool bell;

    ck_assert(pin(2, 5, place));
    ck_assert(pin_hold(&shares[2].pins[5], word_at(place), &shares[2].ring, &hold, &bell));
    post(2, hold);
    post(0, word(STORE_FREE, place));
    drain(0);
    ck_assert_int_eq(state(place), STORE_ENTRY_FREEING);
    ck_assert(pin_unhold(word_at(place), &shares[2].ring, &unhold, &bell));
    ck_assert(bell);
    drain(2);
    ck_assert_int_eq(state(place), STORE_ENTRY_FREEING);
    post(2, unhold);
    drain(2);
    ck_assert(is_gone(place));
    ck_assert_uint_eq(stats().free, CAPACITY);
    ck_assert_uint_eq(stats().n_bad_records, 0);
}
END_TEST

START_TEST(a_free_waits_for_the_seal)
{
    struct store_action a = borrow(1, 2, 2);
    struct store_record r = seal_of(&a, 0, 100);

    /* the seal lies in its creator's ring, which nobody has read yet */
    post(1, r);
    post(0, word(STORE_FREE, a.places[0]));
    drain(0);
    ck_assert(is_gone(a.places[0]));
    /* and this one comes by frame */
    post(0, word(STORE_FREE, a.places[1]));
    drain(0);
    ck_assert_int_eq(state(a.places[1]), STORE_ENTRY_LENT);
    r = seal_of(&a, 1, 100);
    store_on_record(s, 1, &r, now, &out);
    ck_assert(is_gone(a.places[1]));
    ck_assert_uint_eq(stats().free, CAPACITY);
    ck_assert_uint_eq(stats().n_bad_records, 0);
}
END_TEST

/* --- deaths --- */

START_TEST(what_a_dead_creator_was_lent_is_free)
{
    struct store_action a = borrow(1, 10, 4);

    post(1, seal_of(&a, 0, 100)); /* its last words */
    store_remove_process(s, 1, now, &out);
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_SEALED);
    ck_assert(is_gone(a.places[1]) && is_gone(a.places[2]) && is_gone(a.places[3]));
    ck_assert_uint_eq(stats().used, BLOCKS(1));
    ck_assert_uint_eq(stats().lent, 0);
}
END_TEST

START_TEST(a_dead_reader_reads_no_more)
{
    uint64_t pinned = sealed_by(1), held = sealed_by(1);

    ck_assert(pin(2, 255, pinned));
    post(2, word(STORE_HOLD, held));
    post(0, word(STORE_FREE, pinned));
    post(0, word(STORE_FREE, held));
    drain(0);
    ck_assert_uint_eq(stats().n_freeing, 2);
    store_remove_process(s, 2, now, &out);
    ck_assert(is_gone(pinned) && is_gone(held));
    ck_assert_uint_eq(stats().free, CAPACITY);
}
END_TEST

START_TEST(objects_of_a_dead_owner_are_freed_those_sealed_for_it_later_too)
{
    uint64_t place = sealed_by(1);
    struct store_action a = borrow(1, 1, 1);

    store_remove_process(s, 0, now, &out);
    ck_assert(is_gone(place));
    post(1, seal_of(&a, 0, 1));
    drain(1);
    ck_assert(is_gone(a.places[0]));
    ck_assert_uint_eq(stats().free, CAPACITY);

    a = borrow(1, 2, 2);
    struct store_record r = seal_of(&a, 0, 1);
    r.owner = 4711;
    post(1, r);
    drain(1);
    store_owner_gone(s, 4711, now, &out);
    ck_assert(is_gone(a.places[0]));
    r = seal_of(&a, 1, 1);
    r.owner = 4711;
    post(1, r);
    drain(1);
    ck_assert(is_gone(a.places[1]));
    ck_assert_uint_eq(stats().free, CAPACITY);
}
END_TEST

/* --- aborts --- */

static struct store_record abort_of(uint32_t owner, uint64_t counter, uint16_t attempt)
{
    return (struct store_record){.kind = STORE_ABORT,
                                 .owner = owner,
                                 .counter = counter,
                                 .attempt = attempt};
}

/* A result of slot 1 for the process in slot 0, sealed or as good as. */
static struct store_record result_of(uint64_t counter, uint16_t attempt, uint32_t index)
{
    struct store_action a = borrow(1, 1, 1);
    struct store_record r = seal_of(&a, 0, 9);

    r.counter = counter;
    r.attempt = attempt;
    r.index = index;
    return r;
}

START_TEST(results_that_their_owner_never_heard_of_are_freed_by_attempt)
{
    static const struct {
        uint64_t counter;
        uint16_t attempt;
        uint32_t index;
    } all[] =
        {{7, 1, 0}, {7, 1, 1}, {7, 1, 2}, {7, 0, 0}, {7, 2, 0}, {8, 1, 0}, {1ull << 50, 1, 0}};
    uint64_t places[7];

    for (int i = 0; i < 7; i++) {
        struct store_record r = result_of(all[i].counter, all[i].attempt, all[i].index);
        places[i] = r.place;
        post(1, r);
    }
    store_remove_process(s, 1, now, &out);
    ck_assert_uint_eq(stats().n_sealed, 7);
    post(0, word(STORE_FREE, places[1])); /* out of the middle of its attempt's */
    post(0, abort_of(NUMBER(0), 7, 1));
    drain(0);
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(is_gone(places[i]), i < 3);
    ck_assert_uint_eq(stats().n_sealed, 4);
    ck_assert_uint_eq(stats().n_bad_records, 0);
}
END_TEST

START_TEST(a_result_of_an_aborted_attempt_that_comes_late_is_freed)
{
    struct store_record r = result_of(7, 1, 0), other = result_of(7, 2, 0);

    post(0, abort_of(NUMBER(0), 7, 1));
    drain(0);
    post(1, r);
    post(1, other);
    drain(1);
    ck_assert(is_gone(r.place));
    ck_assert_int_eq(state(other.place), STORE_ENTRY_SEALED);
    ck_assert_uint_eq(stats().used, BLOCKS(1));
}
END_TEST

START_TEST(a_pinned_result_of_an_aborted_attempt_waits_for_its_reader)
{
    struct store_record r = result_of(7, 1, 0);

    post(1, r);
    ck_assert(pin(2, 0, r.place));
    drain(1);
    post(0, abort_of(NUMBER(0), 7, 1));
    drain(0);
    ck_assert_int_eq(state(r.place), STORE_ENTRY_FREEING);
    ck_assert(unpin(2, 0, r.place));
    store_on_doorbell(s, now, &out);
    ck_assert_uint_eq(stats().free, CAPACITY);
}
END_TEST

START_TEST(only_an_owner_aborts_and_not_what_it_made_itself)
{
    struct store_record r = result_of(7, 1, 0);
    struct store_action a = borrow(0, 1, 1);
    struct store_record own = seal_of(&a, 0, 9);

    own.counter = 7;
    own.attempt = 1;
    post(0, own);
    post(0, abort_of(NUMBER(1), 7, 1));
    post(0, abort_of(NUMBER(0), 1ull << 47, 1));
    post(1, r);
    drain(0);
    drain(1);
    ck_assert_uint_eq(stats().n_bad_records, 2);
    ck_assert_uint_eq(stats().n_sealed, 2);
    post(0, abort_of(NUMBER(0), 7, 1));
    drain(0);
    ck_assert(is_gone(r.place));
    ck_assert_int_eq(state(own.place), STORE_ENTRY_SEALED);
}
END_TEST

START_TEST(the_latest_aborts_are_remembered_and_no_more_than_twice_as_many)
{
    for (uint32_t i = 0; i < 3 * STORE_ABORTS; i++) {
        post(0, abort_of(NUMBER(0), i, 0));
        drain(0);
    }
    struct store_record newest = result_of(3 * STORE_ABORTS - 1, 0, 0);
    struct store_record kept = result_of(STORE_ABORTS, 0, 0);
    struct store_record forgotten = result_of(STORE_ABORTS - 1, 0, 0);
    post(1, newest);
    post(1, kept);
    post(1, forgotten);
    drain(1);
    ck_assert(is_gone(newest.place));
    ck_assert(is_gone(kept.place));
    ck_assert_int_eq(state(forgotten.place), STORE_ENTRY_SEALED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("object_store");
    TCase *tc = tcase_create("object_store");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, what_is_lent_has_memory_and_places);
    tcase_add_test(tc, a_seal_makes_an_entry_that_anybody_can_read);
    tcase_add_test(tc, the_rest_of_a_region_can_be_returned_in_pieces);
    tcase_add_test(tc, what_nobody_reads_is_free_at_once);
    tcase_add_test(tc, a_pin_keeps_the_memory_until_its_doorbell);
    tcase_add_test(tc, a_hold_keeps_the_memory_until_it_ends);
    tcase_add_test(tc, a_free_waits_for_the_seal);
    tcase_add_test(tc, what_a_dead_creator_was_lent_is_free);
    tcase_add_test(tc, a_dead_reader_reads_no_more);
    tcase_add_test(tc, objects_of_a_dead_owner_are_freed_those_sealed_for_it_later_too);
    tcase_add_test(tc, results_that_their_owner_never_heard_of_are_freed_by_attempt);
    tcase_add_test(tc, a_result_of_an_aborted_attempt_that_comes_late_is_freed);
    tcase_add_test(tc, a_pinned_result_of_an_aborted_attempt_waits_for_its_reader);
    tcase_add_test(tc, only_an_owner_aborts_and_not_what_it_made_itself);
    tcase_add_test(tc, the_latest_aborts_are_remembered_and_no_more_than_twice_as_many);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
