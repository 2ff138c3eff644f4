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

static void give(uint32_t slot, uint64_t offset, uint64_t size)
{
    post(slot, (struct store_record){.kind = STORE_RETURN, .offset = offset, .size = size});
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

    if ((uint32_t)at >= shares[slot].ring.n_pins)
        pin_use_slots(&shares[slot].ring, (uint32_t)at + 1);
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

START_TEST(neighbours_lent_to_one_process_are_one_region)
{
    struct store_action a = borrow(1, 10, 1), b = borrow(1, 10, 1), c = borrow(1, 10, 1);

    ck_assert_uint_eq(b.offset, a.offset + a.size);
    ck_assert_uint_eq(c.offset, b.offset + b.size);
    give(1, a.offset, BLOCKS(25));
    struct store_record r = seal_of(&c, 0, BLOCKS(5));
    r.offset = c.offset + BLOCKS(5);
    post(1, r);
    drain(1);
    ck_assert_uint_eq(stats().n_bad_records + stats().lent, 0);
    /* what fills a gap joins both sides */
    a = borrow(1, 5, 1), b = borrow(1, 5, 1), c = borrow(1, 5, 1);
    give(1, b.offset, b.size);
    drain(1);
    b = borrow(1, 5, 1);
    give(1, a.offset, BLOCKS(15));
    drain(1);
    ck_assert_uint_eq(stats().n_bad_records + stats().lent, 0);
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

START_TEST(a_process_that_denies_its_pins_hurts_itself_alone)
{
    uint64_t place = sealed_by(1), other = sealed_by(1);

    ck_assert(pin(2, 5, place) && pin(1, 5, other));
    shares[2].ring.n_pins = 5;
    shares[1].ring.n_pins = UINT32_MAX;
    post(0, word(STORE_FREE, place));
    post(0, word(STORE_FREE, other));
    drain(0);
    ck_assert(is_gone(place));
    ck_assert_int_eq(state(other), STORE_ENTRY_FREEING);
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

START_TEST(a_free_that_came_early_from_somebody_else_frees_nothing)
{
    struct store_action a = borrow(1, 1, 1);

    post(0, word(STORE_FREE, a.places[0]));
    drain(0);
    post(2, word(STORE_FREE, a.places[0]));
    drain(2);
    struct store_record r = seal_of(&a, 0, 100);
    store_on_record(s, 1, &r, now, &out);
    ck_assert(is_gone(a.places[0]));

    a = borrow(1, 1, 1);
    post(2, word(STORE_FREE, a.places[0]));
    drain(2);
    post(1, seal_of(&a, 0, 100));
    drain(1);
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_SEALED);
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

START_TEST(what_was_read_before_its_seal_came_stays_until_it_is_not)
{
    struct store_action a = borrow(1, 10, 4);

    /* they were told before the seal, which its creator's death keeps from coming */
    ck_assert(pin(2, 5, a.places[2]));
    post(0, word(STORE_HOLD, a.places[1]));
    drain(0);
    store_remove_process(s, 1, now, &out);
    ck_assert(is_gone(a.places[0]) && is_gone(a.places[3]));
    ck_assert_uint_eq(stats().lent, BLOCKS(10));
    ck_assert_uint_eq(stats().n_freeing, 2);
    ck_assert(!pin(2, 6, a.places[1]));
    ck_assert(unpin(2, 5, a.places[2]));
    store_on_doorbell(s, now, &out);
    ck_assert(is_gone(a.places[2]));
    ck_assert_uint_eq(stats().lent, BLOCKS(10));
    post(0, word(STORE_UNHOLD, a.places[1]));
    drain(0);
    ck_assert_uint_eq(stats().free, CAPACITY);
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

/* --- requests that wait --- */

/* All the store's memory but n_free blocks is lent to slot 2. */
static struct store_action take_all_but(uint64_t n_free)
{
    return borrow(2, CAPACITY / STORE_BLOCK - n_free, 1);
}

START_TEST(what_the_store_can_never_hold_is_refused_at_once)
{
    request(1, 5, CAPACITY + 1, 0, 1);
    struct store_action a = only(STORE_REFUSED);
    ck_assert(a.too_large);
    ck_assert_uint_eq(a.size, CAPACITY + 1);
    ck_assert_uint_eq(a.ticket, 5);
    request(1, 6, UINT64_MAX, UINT64_MAX, UINT32_MAX);
    ck_assert(only(STORE_REFUSED).too_large);
    request(1, 7, 0, UINT64_MAX, 0);
    a = only(STORE_LENT);
    ck_assert_uint_eq(a.size, CAPACITY);
    ck_assert_uint_eq(a.n_places, 1);
    ck_assert_uint_eq(store_next_deadline(s), UINT64_MAX);
}
END_TEST

START_TEST(who_cannot_have_what_it_wants_gets_what_it_needs)
{
    take_all_but(10);
    request(1, 5, BLOCKS(3), BLOCKS(11), 1);
    ck_assert_uint_eq(only(STORE_LENT).size, BLOCKS(3));
}
END_TEST

START_TEST(a_request_waits_until_memory_is_free)
{
    struct store_action all = take_all_but(0);

    now += STORE_SETTLE_MS;
    request(1, 5, BLOCKS(4), BLOCKS(9), 2);
    struct store_action a = only(STORE_RECALL);
    ck_assert_uint_eq(a.slot, 2);
    ck_assert_uint_eq(stats().n_waiting, 1);
    give(2, all.offset, BLOCKS(3));
    drain(2);
    nothing();
    give(2, all.offset + BLOCKS(3), BLOCKS(2));
    drain(2);
    a = only(STORE_LENT);
    ck_assert_uint_eq(a.slot, 1);
    ck_assert_uint_eq(a.ticket, 5);
    ck_assert_uint_eq(a.size, BLOCKS(4));
    ck_assert_uint_eq(a.n_places, 2);
    ck_assert_uint_eq(stats().n_waiting, 0);
}
END_TEST

START_TEST(memory_that_came_back_without_a_word_is_found)
{
    struct store_action all = take_all_but(0);

    /* in the ring before the request, */
    give(2, all.offset, BLOCKS(4));
    request(1, 5, BLOCKS(4), BLOCKS(4), 1);
    ck_assert_uint_eq(only(STORE_LENT).ticket, 5);
    /* and after it */
    request(1, 6, BLOCKS(4), BLOCKS(4), 1);
    nothing();
    give(2, all.offset + BLOCKS(4), BLOCKS(4));
    ck_assert_uint_eq(store_next_deadline(s), now + STORE_POLL_MS);
    now = store_next_deadline(s);
    store_on_time(s, now, &out);
    ck_assert_uint_eq(only(STORE_LENT).ticket, 6);
    ck_assert_uint_eq(store_next_deadline(s), UINT64_MAX);
}
END_TEST

START_TEST(a_request_that_waited_too_long_is_refused_once)
{
    take_all_but(0);
    request(1, 5, BLOCKS(4), BLOCKS(4), 1);
    request(0, 6, BLOCKS(1), BLOCKS(1), 1);
    nothing();
    now += 999;
    store_on_time(s, now, &out);
    ck_assert_uint_eq(only(STORE_RECALL).slot, 2);
    now = store_next_deadline(s);
    ck_assert_uint_eq(now, 6000);
    store_on_time(s, now, &out);
    ck_assert_uint_eq(out.n, 2);
    ck_assert_int_eq(out.v[0].kind, STORE_REFUSED);
    ck_assert(!out.v[0].too_large);
    ck_assert_uint_eq(out.v[0].ticket, 5);
    ck_assert_uint_eq(out.v[0].size, BLOCKS(4));
    ck_assert_uint_eq(out.v[1].ticket, 6);
    out.n = 0;
    store_on_time(s, now + 5000, &out);
    nothing();
    ck_assert_uint_eq(stats().n_refused, 2);
}
END_TEST

START_TEST(idle_regions_are_recalled_once_and_not_what_was_just_lent)
{
    take_all_but(0);
    request(1, 5, BLOCKS(4), BLOCKS(4), 1);
    nothing();
    now += STORE_SETTLE_MS - 1;
    store_on_time(s, now, &out);
    nothing();
    now++;
    store_on_time(s, now, &out);
    ck_assert_uint_eq(only(STORE_RECALL).slot, 2);
    for (int i = 0; i < 20; i++)
        store_on_time(s, ++now, &out);
    nothing();
}
END_TEST

START_TEST(requests_of_the_dead_are_forgotten)
{
    struct store_action all = take_all_but(0);

    request(1, 5, BLOCKS(4), BLOCKS(4), 1);
    request(0, 6, BLOCKS(2), BLOCKS(2), 1);
    store_remove_process(s, 1, now, &out);
    ck_assert_uint_eq(stats().n_waiting, 1);
    give(2, all.offset, BLOCKS(2));
    drain(2);
    ck_assert_uint_eq(only(STORE_LENT).ticket, 6);
}
END_TEST

START_TEST(a_process_has_so_many_requests_and_no_more)
{
    take_all_but(0);
    for (uint64_t i = 0; i < STORE_REQUESTS_MAX; i++)
        request(1, i, BLOCKS(1), BLOCKS(1), 1);
    nothing();
    request(1, 999, BLOCKS(1), BLOCKS(1), 1);
    struct store_action a = only(STORE_REFUSED);
    ck_assert_uint_eq(a.ticket, 999);
    ck_assert(!a.too_large);
    request(0, 1000, BLOCKS(1), BLOCKS(1), 1);
    nothing();
}
END_TEST

START_TEST(a_request_waits_for_entries_too)
{
    make(CAPACITY, 4, 2);
    struct store_action a = borrow(1, 1, 2);

    request(0, 5, BLOCKS(1), BLOCKS(1), 2);
    nothing();
    request(0, 6, BLOCKS(1), BLOCKS(1), 99); /* all there are */
    nothing();
    post(1, word(STORE_RETURN, a.places[0]));
    drain(1);
    struct store_action b = only(STORE_LENT);
    ck_assert_uint_eq(b.ticket, 5);
    post(1, word(STORE_RETURN, a.places[1]));
    drain(1);
    nothing();
    post(0, word(STORE_RETURN, b.places[0]));
    post(0, word(STORE_RETURN, b.places[1]));
    drain(0);
    b = only(STORE_LENT);
    ck_assert_uint_eq(b.ticket, 6);
    ck_assert_uint_eq(b.n_places, 3);
}
END_TEST

START_TEST(pit_25_small_requests_pass_a_large_one_but_do_not_starve_it)
{
    struct store_action all = take_all_but(300);
    uint64_t n_passed = 0;

    request(0, 1, BLOCKS(500), BLOCKS(500), 1);
    nothing();
    for (uint64_t i = 0; i < 100; i++) { /* each is used and freed before the next */
        request(1, 100 + i, BLOCKS(30), BLOCKS(30), 1);
        if (out.n == 0)
            continue;
        struct store_action a = only(STORE_LENT);
        ck_assert_uint_eq(a.ticket, 100 + i);
        n_passed++;
        give(1, a.offset, a.size);
        post(1, word(STORE_RETURN, a.places[0]));
        drain(1);
    }
    ck_assert_uint_eq(n_passed, 500 / 30);
    ck_assert_uint_eq(stats().n_waiting, 101 - 500 / 30);
    give(2, all.offset + BLOCKS(500), BLOCKS(200)); /* beside what is free */
    drain(2);
    ck_assert_uint_eq(only(STORE_LENT).ticket, 1);
    give(2, all.offset, BLOCKS(100));
    drain(2);
    ck_assert_uint_eq(out.n, 3);
    ck_assert_uint_eq(out.v[0].ticket, 100 + 500 / 30);
    out.n = 0;
}
END_TEST

START_TEST(two_that_could_pass_together_do_not_if_that_is_too_much)
{
    struct store_action all = take_all_but(0);

    request(0, 1, BLOCKS(20), BLOCKS(20), 1);
    request(1, 2, BLOCKS(15), BLOCKS(15), 1);
    request(1, 3, BLOCKS(15), BLOCKS(15), 1);
    give(2, all.offset, BLOCKS(15));
    give(2, all.offset + BLOCKS(100), BLOCKS(15));
    drain(2);
    ck_assert_uint_eq(only(STORE_LENT).ticket, 2);
}
END_TEST

START_TEST(who_was_kept_from_passing_passes_when_the_large_one_is_gone)
{
    for (int i = 0; i < 2; i++) {
        take_all_but(10);
        request(0, 1, BLOCKS(15), BLOCKS(15), 1);
        now += STORE_SETTLE_MS - 1; /* too early for a recall */
        struct store_action a = borrow(1, 10, 1);
        give(1, a.offset, a.size);
        drain(1);
        request(1, 3, BLOCKS(10), BLOCKS(10), 1);
        nothing();
        if (i == 0) {
            store_remove_process(s, 0, now, &out);
            add_process(0);
        } else {
            now += 1000 - (STORE_SETTLE_MS - 1);
            store_on_time(s, now, &out);
            ck_assert_int_eq(out.v[0].kind, STORE_REFUSED);
            out.v[0] = out.v[1];
            out.n--;
        }
        ck_assert_uint_eq(only(STORE_LENT).ticket, 3);
        setup();
    }
}
END_TEST

/* --- what cannot be --- */

START_TEST(records_that_do_not_fit_what_was_lent_change_nothing)
{
    struct store_action a = borrow(1, 10, 2), other = borrow(2, 10, 1);
    uint64_t sealed = sealed_by(2);
    struct store_record good = seal_of(&a, 0, 100);
    struct store_record bad[40];
    size_t n = 0;

#define BAD(...) (bad[n] = good, __VA_ARGS__, n++)
    BAD(bad[n].kind = 0);
    BAD(bad[n].kind = STORE_ABORT + 1);
    BAD(bad[n].kind = 255);
    BAD(bad[n].place = 0);
    BAD(bad[n].place = other.places[0]);
    BAD(bad[n].place = sealed);
    BAD(bad[n].place += 1ull << 32);
    BAD(bad[n].place = N_ENTRIES);
    BAD(bad[n].place = UINT64_MAX);
    BAD(bad[n].place = N_ENTRIES - 1); /* never lent */
    BAD(bad[n].size = 0);
    BAD(bad[n].size = BLOCKS(10) + 1);
    BAD(bad[n].size = UINT64_MAX);
    BAD(bad[n].size = UINT64_MAX - bad[n].offset + 1);
    BAD(bad[n].offset += 1);
    BAD(bad[n].offset = other.offset);
    BAD(bad[n].offset = CAPACITY);
    BAD(bad[n].offset = UINT64_MAX - STORE_BLOCK + 1);
    BAD(bad[n].extra = BLOCKS(10));
    BAD(bad[n].extra = UINT64_MAX - 99);
    BAD(bad[n].n_refs = 1);
    BAD(bad[n].kind = STORE_FREE, bad[n].place = sealed); /* another's */
    BAD(bad[n].kind = STORE_FREE, bad[n].place = 0);
    BAD(bad[n].kind = STORE_HOLD, bad[n].place = 7ull << 32 | 1);
    BAD(bad[n].kind = STORE_UNHOLD, bad[n].place = sealed);
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = other.places[0]);
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = sealed);
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = 0, bad[n].size = 100);
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = 0, bad[n].size = BLOCKS(11));
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = 0, bad[n].size = 0);
    BAD(bad[n].kind = STORE_RETURN, bad[n].place = 0, bad[n].size = 0 - BLOCKS(1));
    BAD(bad[n].kind = STORE_RETURN,
        bad[n].place = 0,
        bad[n].offset = other.offset,
        bad[n].size = BLOCKS(1));
    BAD(bad[n].kind = STORE_ABORT, bad[n].owner = NUMBER(0));
#undef BAD
    struct store_stats before = stats();
    for (size_t i = 0; i < n; i++) {
        if (i % 2 == 0) {
            post(1, bad[i]);
            drain(1);
        } else {
            store_on_record(s, 1, &bad[i], now, &out);
        }
        ck_assert_msg(stats().n_bad_records == i + 1, "record %zu was taken", i);
    }
    struct store_stats after = stats();
    before.n_bad_records = after.n_bad_records;
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_int_eq(state(sealed), STORE_ENTRY_SEALED);
    post(1, good);
    drain(1);
    ck_assert_int_eq(state(good.place), STORE_ENTRY_SEALED);
    nothing();
}
END_TEST

START_TEST(a_ring_whose_head_cannot_be_is_never_read_again)
{
    struct store_action a = borrow(1, 1, 1);

    post(1, seal_of(&a, 0, 1));
    atomic_store(&shares[1].ring.head, STORE_RING + 1);
    drain(1);
    ck_assert_uint_eq(stats().n_bad_records, 1);
    atomic_store(&shares[1].ring.head, 1);
    drain(1);
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_LENT);
    ck_assert_uint_eq(stats().n_bad_records, 1);
    store_remove_process(s, 1, now, &out);
    ck_assert_uint_eq(stats().free, CAPACITY);
}
END_TEST

START_TEST(what_a_process_writes_on_the_raylets_side_of_its_ring_hurts_nobody)
{
    struct store_action a = borrow(1, 1, 1);

    atomic_store(&shares[1].ring.tail, 12345);
    shares[1].ring.records[0] = seal_of(&a, 0, 1);
    atomic_store(&shares[1].ring.head, 1);
    drain(1);
    ck_assert_int_eq(state(a.places[0]), STORE_ENTRY_SEALED);
    ck_assert_uint_eq(atomic_load(&shares[1].ring.tail), 1);
}
END_TEST

START_TEST(an_entry_that_had_all_generations_is_not_used_again)
{
    make(CAPACITY, 3, 2);
    atomic_store(&index_[1].word, (uint64_t)UINT32_MAX << 32);
    struct store_action a = borrow(1, 1, 2);

    ck_assert_uint_eq(a.places[0], store_place(UINT32_MAX, 1));
    post(1, word(STORE_RETURN, a.places[0]));
    post(1, word(STORE_RETURN, a.places[1]));
    post(1, word(STORE_RETURN, a.places[0]));
    give(1, a.offset, a.size);
    drain(1);
    ck_assert_uint_eq(stats().n_bad_records, 1);
    a = borrow(1, 1, 1);
    ck_assert_uint_eq(store_place_entry(a.places[0]), 2);
    request(1, 5, 1, 1, 1);
    nothing();
}
END_TEST

START_TEST(a_walk_shows_who_uses_what)
{
    uint64_t one = sealed_by(1), two = sealed_by(1);
    struct store_use use;

    ck_assert(pin(1, 3, one) && pin(2, 4, one) && pin(2, 5, one));
    post(2, word(STORE_HOLD, two));
    drain(2);
    uint32_t at = store_next(s, 0, &use);
    ck_assert_uint_eq(at, store_place_entry(one));
    ck_assert_uint_eq(use.n_pins, 3);
    ck_assert_uint_eq(use.n_holds, 0);
    at = store_next(s, at, &use);
    ck_assert_uint_eq(at, store_place_entry(two));
    ck_assert_uint_eq(use.n_pins, 0);
    ck_assert_uint_eq(use.n_holds, 1);
    ck_assert_uint_eq(store_next(s, at, NULL), 0);
    unpin(2, 4, one);
    store_next(s, 0, &use);
    ck_assert_uint_eq(use.n_pins, 2);
    ck_assert_uint_eq(use.n_blocks, 1);
    ck_assert(use.is_allocated);
}
END_TEST

/* What the process in that slot has, one after the other: at most 4. */
static unsigned holdings_of(uint32_t slot, struct store_holding h[4])
{
    unsigned n = 0;

    for (uint64_t at = 0; n < 4 && store_next_holding(s, slot, &at, &h[n]);)
        n++;
    return n;
}

START_TEST(each_process_shows_what_it_has)
{
    struct store_holding h[4];
    struct store_use use;
    uint64_t one = sealed_by(1);

    ck_assert_uint_eq(holdings_of(2, h), 0);
    struct store_action a = borrow(2, 5, 1);
    ck_assert(pin(2, 0, one) && pin(2, 9, one));
    post(2, word(STORE_HOLD, one));
    post(2, word(STORE_HOLD, one));
    drain(2);
    ck_assert_uint_eq(holdings_of(2, h), 4);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(h[i].kind, STORE_HOLDING_PIN);
        ck_assert_uint_eq(h[i].place, one);
    }
    ck_assert_int_eq(h[2].kind, STORE_HOLDING_HOLD);
    ck_assert_uint_eq(h[2].place, one);
    ck_assert_uint_eq(h[2].n, 2);
    ck_assert_int_eq(h[3].kind, STORE_HOLDING_LENT);
    ck_assert_uint_eq(h[3].offset, a.offset);
    ck_assert_uint_eq(h[3].size, BLOCKS(5));
    ck_assert(h[3].is_allocated);
    store_next(s, store_next(s, 0, NULL), &use);
    ck_assert_uint_eq(use.slot, 2);
    ck_assert_uint_eq(use.n_blocks, 0);
    /* of a dead process that told of an entry, which somebody pins: memory of nobody */
    ck_assert(pin(1, 0, a.places[0]));
    ck_assert_uint_eq(stats().buried, 0);
    store_remove_process(s, 2, now, &out);
    ck_assert_uint_eq(stats().buried, BLOCKS(5));
    ck_assert_uint_eq(stats().lent, BLOCKS(5));
    unpin(1, 0, a.places[0]);
    store_on_doorbell(s, now, &out);
    ck_assert_uint_eq(stats().buried, 0);
}
END_TEST

/* --- objects of other machines --- */

static bool find(uint32_t owner, uint64_t counter, uint32_t i, struct store_object *o)
{
    struct store_key key = {.counter = counter, .owner = owner, .index = i, .attempt = 2};

    return store_find(s, &key, o, now, &out);
}

START_TEST(a_sealed_object_is_found_by_its_key_until_it_is_freed)
{
    struct store_action a = borrow(1, 4, 3);
    struct store_object o;

    ck_assert(!find(NUMBER(0), 55, 0, &o));
    struct store_record r = seal_of(&a, 0, BLOCKS(1) + 5); /* before keys are kept, and after */
    r.extra = 20;
    r.n_refs = 1;
    post(1, r);
    ck_assert(find(NUMBER(0), 55, 0, &o)); /* nobody has drained its ring */
    ck_assert_uint_eq(o.place, a.places[0]);
    ck_assert_uint_eq(o.offset, a.offset);
    ck_assert_uint_eq(o.size, BLOCKS(1) + 5);
    ck_assert_uint_eq(o.room, BLOCKS(2));
    ck_assert_uint_eq(o.n_refs, 1);
    ck_assert_uint_eq(o.meta, 3);
    ck_assert(!find(NUMBER(1), 55, 0, &o));
    ck_assert(!find(NUMBER(0), 54, 0, &o));
    ck_assert(!find(NUMBER(0), 55, 1, &o));
    for (uint32_t i = 1; i < 3; i++) { /* two with one key */
        r = seal_of(&a, i, 100);
        r.offset += BLOCKS(1);
        r.index = 9;
        post(1, r);
    }
    drain(1);
    (void)stats();
    ck_assert(find(NUMBER(0), 55, 9, &o));
    ck_assert_uint_eq(o.place, a.places[1]);
    ck_assert(store_free(s, a.places[1], now, &out));
    ck_assert(!store_free(s, a.places[1], now, &out));
    ck_assert(find(NUMBER(0), 55, 9, &o));
    ck_assert_uint_eq(o.place, a.places[2]);
    ck_assert(store_free(s, a.places[2], now, &out));
    ck_assert(!find(NUMBER(0), 55, 9, &o));
    ck_assert(find(NUMBER(0), 55, 0, &o));
    store_owner_gone(s, NUMBER(0), now, &out);
    ck_assert(!find(NUMBER(0), 55, 0, &o));
    nothing();
}
END_TEST

/* Most of the store is a copy that process 1 brought for 0. */
static uint64_t make_copy(uint64_t n_blocks)
{
    struct store_action a = borrow(1, n_blocks, 1);

    post(1, seal_of(&a, 0, BLOCKS(n_blocks)));
    drain(1);
    ck_assert(store_set_copy(s, a.places[0], now));
    return a.places[0];
}

START_TEST(a_copy_is_evicted_for_who_wants_its_memory)
{
    uint64_t a = make_copy(400);

    ck_assert(store_watch(s, a));
    now += 10;
    uint64_t b = make_copy(400);
    ck_assert_uint_eq(stats().n_copies, 2);
    now += STORE_COPY_MS;
    request(2, 1, BLOCKS(300), BLOCKS(300), 1);
    only(STORE_LENT); /* and nobody is told of a free */
    ck_assert_uint_eq(stats().n_copies, 1);
    ck_assert_uint_eq(stats().n_evicted_ever, 1);
    ck_assert(!pin(0, 0, a)); /* it was the older one */
    ck_assert(pin(0, 0, b));
    ck_assert(!store_set_copy(s, a, now));
}
END_TEST

START_TEST(a_copy_in_use_and_one_just_used_stay)
{
    uint64_t pinned = make_copy(300), held = make_copy(300), found = make_copy(300);
    struct store_object o;

    ck_assert(pin(0, 0, pinned));
    post(2, word(STORE_HOLD, held));
    now += STORE_COPY_MS;
    ck_assert(find(NUMBER(0), 55, 0, &o)); /* the first of three equal ones */
    ck_assert_uint_eq(o.place, pinned);
    ck_assert(store_set_copy(s, found, now));
    request(2, 1, BLOCKS(300), BLOCKS(300), 1);
    nothing();
    ck_assert_uint_eq(stats().n_copies, 3);
    now += STORE_COPY_MS - 1;
    store_on_time(s, now, &out);
    nothing();
    now += 1;
    store_on_time(s, now, &out);
    only(STORE_LENT);
    ck_assert_uint_eq(stats().n_copies, 2);
    ck_assert(!pin(0, 1, found));
    ck_assert(pin(0, 1, held));
}
END_TEST

START_TEST(a_copy_that_its_owner_keeps_is_not_evicted)
{
    uint64_t kept = make_copy(400);

    post(1, word(STORE_KEEP, kept)); /* another's: nothing happens */
    drain(1);
    ck_assert_uint_eq(stats().n_copies, 1);
    if (_i == 0)
        post(0, word(STORE_KEEP, kept));
    else
        ck_assert(store_keep(s, kept)); /* so says an owner elsewhere */
    now += STORE_COPY_MS;
    request(2, 1, BLOCKS(900), BLOCKS(900), 1);
    nothing();
    ck_assert_uint_eq(stats().n_copies, 0);
    ck_assert(pin(1, 0, kept));
    unpin(1, 0, kept);
    post(0, word(STORE_FREE, kept));
    drain(0);
    ck_assert(!pin(1, 0, kept));
    ck_assert(!store_keep(s, kept));
    out.n = 0;
}
END_TEST

START_TEST(a_watched_object_says_when_it_was_freed)
{
    struct store_action a = borrow(0, 3, 3);

    for (uint32_t i = 0; i < 3; i++)
        post(0, seal_of(&a, i, 100));
    ck_assert(!store_watch(s, a.places[0])); /* its seal has not been read */
    drain(0);
    ck_assert(store_watch(s, a.places[0]) && store_watch(s, a.places[0]));
    ck_assert(store_watch(s, a.places[2]));
    ck_assert(pin(1, 0, a.places[0]));
    post(0, word(STORE_FREE, a.places[1]));
    drain(0);
    nothing();
    post(0, word(STORE_FREE, a.places[0]));
    drain(0);
    struct store_action freed = only(STORE_FREED);
    ck_assert_uint_eq(freed.n_places, 1);
    ck_assert_uint_eq(freed.places[0], a.places[0]);
    ck_assert(!store_watch(s, a.places[0]));
    store_remove_process(s, 0, now, &out);
    ck_assert_uint_eq(only(STORE_FREED).places[0], a.places[2]);
    unpin(1, 0, a.places[0]);
    store_on_doorbell(s, now, &out);
    nothing();
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
    tcase_add_test(tc, neighbours_lent_to_one_process_are_one_region);
    tcase_add_test(tc, what_nobody_reads_is_free_at_once);
    tcase_add_test(tc, a_pin_keeps_the_memory_until_its_doorbell);
    tcase_add_test(tc, a_process_that_denies_its_pins_hurts_itself_alone);
    tcase_add_test(tc, a_hold_keeps_the_memory_until_it_ends);
    tcase_add_test(tc, a_free_waits_for_the_seal);
    tcase_add_test(tc, what_a_dead_creator_was_lent_is_free);
    tcase_add_test(tc, what_was_read_before_its_seal_came_stays_until_it_is_not);
    tcase_add_test(tc, a_dead_reader_reads_no_more);
    tcase_add_test(tc, objects_of_a_dead_owner_are_freed_those_sealed_for_it_later_too);
    tcase_add_test(tc, results_that_their_owner_never_heard_of_are_freed_by_attempt);
    tcase_add_test(tc, a_result_of_an_aborted_attempt_that_comes_late_is_freed);
    tcase_add_test(tc, a_pinned_result_of_an_aborted_attempt_waits_for_its_reader);
    tcase_add_test(tc, only_an_owner_aborts_and_not_what_it_made_itself);
    tcase_add_test(tc, the_latest_aborts_are_remembered_and_no_more_than_twice_as_many);
    tcase_add_test(tc, a_free_that_came_early_from_somebody_else_frees_nothing);
    tcase_add_test(tc, what_the_store_can_never_hold_is_refused_at_once);
    tcase_add_test(tc, who_cannot_have_what_it_wants_gets_what_it_needs);
    tcase_add_test(tc, a_request_waits_until_memory_is_free);
    tcase_add_test(tc, memory_that_came_back_without_a_word_is_found);
    tcase_add_test(tc, a_request_that_waited_too_long_is_refused_once);
    tcase_add_test(tc, idle_regions_are_recalled_once_and_not_what_was_just_lent);
    tcase_add_test(tc, requests_of_the_dead_are_forgotten);
    tcase_add_test(tc, a_process_has_so_many_requests_and_no_more);
    tcase_add_test(tc, a_request_waits_for_entries_too);
    tcase_add_test(tc, pit_25_small_requests_pass_a_large_one_but_do_not_starve_it);
    tcase_add_test(tc, two_that_could_pass_together_do_not_if_that_is_too_much);
    tcase_add_test(tc, who_was_kept_from_passing_passes_when_the_large_one_is_gone);
    tcase_add_test(tc, records_that_do_not_fit_what_was_lent_change_nothing);
    tcase_add_test(tc, a_ring_whose_head_cannot_be_is_never_read_again);
    tcase_add_test(tc, what_a_process_writes_on_the_raylets_side_of_its_ring_hurts_nobody);
    tcase_add_test(tc, an_entry_that_had_all_generations_is_not_used_again);
    tcase_add_test(tc, a_walk_shows_who_uses_what);
    tcase_add_test(tc, each_process_shows_what_it_has);
    tcase_add_test(tc, a_sealed_object_is_found_by_its_key_until_it_is_freed);
    tcase_add_test(tc, a_copy_is_evicted_for_who_wants_its_memory);
    tcase_add_test(tc, a_copy_in_use_and_one_just_used_stay);
    tcase_add_loop_test(tc, a_copy_that_its_owner_keeps_is_not_evicted, 0, 2);
    tcase_add_test(tc, a_watched_object_says_when_it_was_freed);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
