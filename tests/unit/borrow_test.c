/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/borrow.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/core.h"

enum { ME = 7, A = 11, B = 12, C = 13 };

static struct ref_table *t;
static struct borrow *b;
static struct borrow_actions out;
static uint64_t now;

static void on_end(void *arg, struct record *r)
{
    (void)arg;
    if ((r->flags & REF_BORROWED) != 0)
        borrow_end(b, r);
}

static void setup(void)
{
    now = 0;
    t = ref_table_create();
    b = borrow_create(t, ME);
    ref_table_on_end(t, on_end, NULL);
}

static void clear(void)
{
    for (size_t i = 0; i < out.n; i++)
        free(out.v[i].words);
    out.n = 0;
}

static void teardown(void)
{
    borrow_selfcheck(b);
    ref_table_selfcheck(t);
    clear();
    free(out.v);
    out = (struct borrow_actions){0};
    borrow_destroy(b);
    ref_table_destroy(t);
}

/* --- what the tests say --- */

static const char value[80] = "longer than what fits a record";

/* An object of ours, with one handle, that others have heard of. */
static struct record *own(void)
{
    struct record *r = ref_table_new(t);

    r->flags |= REF_SHOWN;
    ck_assert(ref_table_set(t, r, WIRE_META_RAW, value, sizeof value));
    return r;
}

static bool lives(uint64_t word)
{
    return ref_table_find_shown(t, word) != NULL;
}

static uint64_t word_of(uint32_t slot)
{
    return 3ull << 32 | slot;
}

static struct record *learn(uint32_t owner, uint64_t word)
{
    struct record *r = borrow_learn(b, owner, word);

    ck_assert_ptr_nonnull(r);
    return r;
}

static void guard(enum borrow_guardian kind,
                  uint32_t process,
                  uint64_t counter,
                  const struct record *r)
{
    borrow_guard(b, kind, process, counter, 0, &r->slot, 1, &out);
}

static void guard_value(const struct record *value_of, const struct record *r)
{
    borrow_guard(b, BORROW_GUARD_VALUE, 0, 0, value_of->slot, &r->slot, 1, &out);
}

static void ack(uint32_t from, uint32_t sequence)
{
    borrow_on_ack(b, from, sequence, NULL, 0, &out);
}

static bool op(uint32_t from, uint32_t sequence, uint64_t word)
{
    return borrow_on_ops(b, from, sequence, &word, 1);
}

static unsigned count(enum borrow_kind kind)
{
    unsigned n = 0;

    for (size_t i = 0; i < out.n; i++)
        n += out.v[i].kind == kind;
    return n;
}

static const struct borrow_action *only(enum borrow_kind kind)
{
    const struct borrow_action *found = NULL;

    ck_assert_uint_eq(count(kind), 1);
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == kind)
            found = &out.v[i];
    return found;
}

static void flush(void)
{
    clear();
    borrow_flush(b, now, &out);
    ck_assert(!borrow_has_news(b));
}

/* flush sends exactly these words to that process. */
static void expect_ops(uint32_t process, uint32_t sequence, uint32_t n, const uint64_t *words)
{
    flush();
    const struct borrow_action *a = only(BORROW_SEND_OPS);
    ck_assert_uint_eq(a->process, process);
    ck_assert_uint_eq(a->sequence, sequence);
    ck_assert_uint_eq(a->n, n);
    ck_assert_mem_eq(a->words, words, n * sizeof *words);
    clear();
}

static void expect_op(uint32_t process, uint32_t sequence, uint64_t word)
{
    expect_ops(process, sequence, 1, &word);
}

static void expect_ack(uint32_t process, uint32_t sequence, uint32_t n_gone)
{
    flush();
    ck_assert_uint_eq(count(BORROW_REPAIRED), 0);
    const struct borrow_action *a = only(BORROW_SEND_ACK);
    ck_assert_uint_eq(a->process, process);
    ck_assert_uint_eq(a->sequence, sequence);
    ck_assert_uint_eq(a->n, n_gone);
    clear();
}

/* Learned and registered with its owner, which has acknowledged: what it needed is up to number. */
static struct record *borrowed(uint32_t owner, uint64_t word, uint32_t number)
{
    struct record *r = learn(owner, word);

    guard(BORROW_GUARD_REPLY, C, 0, r);
    expect_op(owner, number, word);
    ack(owner, number);
    clear();
    return r;
}

static struct borrow_stats stats(void)
{
    struct borrow_stats s;

    borrow_selfcheck(b);
    borrow_get_stats(b, &s);
    return s;
}

/* --- as owner --- */

START_TEST(inv_29_an_object_lives_until_its_last_borrower_drops_it)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    ck_assert(op(A, 1, w));
    ck_assert(op(B, 1, w));
    ck_assert_uint_eq(stats().n_borrowers, 2);
    ref_table_drop(t, r);
    ck_assert(op(A, 2, w | BORROW_DROP));
    ck_assert(lives(w));
    ck_assert(op(B, 2, w | BORROW_DROP));
    ck_assert(!lives(w));
    ck_assert_uint_eq(stats().n_borrowers, 0);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(inv_30_adding_or_dropping_twice_does_nothing)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    ck_assert(op(A, 1, w));
    ck_assert(op(A, 1, w));
    ck_assert(op(A, 2, w));
    ck_assert_uint_eq(r->held, 1);
    ck_assert(op(A, 3, w | BORROW_DROP));
    ck_assert(op(A, 4, w | BORROW_DROP));
    ck_assert(op(B, 1, w | BORROW_DROP));
    ck_assert(op(A, 1, w));
    ck_assert_uint_eq(r->held, 0);
    ref_table_drop(t, r);
}
END_TEST

START_TEST(a_pending_result_is_borrowed_too)
{
    struct record *r = ref_table_new(t);
    uint64_t w = record_word(r);

    r->flags |= REF_SHOWN;
    ck_assert(op(A, 1, w));
    ref_table_drop(t, r);
    ck_assert(ref_table_set(t, r, WIRE_META_RAW, value, sizeof value));
    ck_assert(op(A, 2, w | BORROW_DROP));
    ck_assert(!lives(w));
}
END_TEST

START_TEST(words_that_name_nothing_are_answered_as_gone)
{
    struct record *r = own(), *secret = own(), *hidden = own(), *ended = own();
    const struct record *others = learn(A, word_of(9));
    uint64_t words[] = {0,
                        record_word(r),
                        UINT64_MAX & ~(uint64_t)BORROW_DROP,
                        record_word(r) + (1ull << 32),
                        record_word(r) + 100000,
                        record_word(secret),
                        record_word(hidden),
                        record_word(ended),
                        record_word(others)};
    uint32_t n = sizeof words / sizeof words[0];

    secret->flags = 0;
    hidden->flags |= REF_HIDDEN;
    ref_table_drop(t, ended);
    ck_assert(borrow_on_ops(b, B, 1, words, n));
    flush();
    const struct borrow_action *a = only(BORROW_SEND_ACK);
    ck_assert_uint_eq(a->n, n - 1);
    ck_assert_uint_eq(a->words[0], words[0]);
    ck_assert_mem_eq(a->words + 1, words + 2, (n - 2) * sizeof *words);
    ck_assert_uint_eq(stats().n_borrowers, 1);
    for (uint32_t i = 0; i < n; i++)
        words[i] |= BORROW_DROP;
    ck_assert(borrow_on_ops(b, B, 2, words, n));
    expect_ack(B, 2, 0);
    ck_assert_uint_eq(stats().n_borrowers, 0);
    ck_assert_uint_eq(ref_table_live(t), 4);
}
END_TEST

START_TEST(ops_are_handled_in_order_whatever_carrier_brings_them)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    ck_assert(op(A, 3, w));
    ck_assert(op(A, 2, w | BORROW_DROP));
    ck_assert(!borrow_has_news(b));
    ck_assert_uint_eq(r->held, 0);
    ck_assert(op(A, 1, w));
    expect_ack(A, 3, 0);
    ck_assert_uint_eq(r->held, 1);
    ck_assert(op(A, 5, w));
    ck_assert(op(A, 4, w | BORROW_DROP));
    expect_ack(A, 5, 0);
    ck_assert_uint_eq(r->held, 1);
}
END_TEST

START_TEST(inv_30_an_early_frame_that_comes_twice_is_kept_once)
{
    uint64_t w = record_word(own());
    unsigned long before = 0;

    for (int i = 0; i < 100; i++) {
        ck_assert(op(A, 2, w));
        if (i == 0)
            before = alloc_count();
    }
    ck_assert_uint_eq(alloc_count(), before);
    ck_assert(op(A, 1, w));
    expect_ack(A, 2, 0);
}
END_TEST

START_TEST(frames_far_ahead_are_malformed)
{
    uint64_t w = record_word(own());
    uint64_t *many = calloc(1 << 20, sizeof *many);

    for (uint32_t i = 0; i < 1 << 20; i++)
        many[i] = BORROW_DROP;
    ck_assert(!op(A, 4097, w));
    ck_assert(!op(A, 1u << 30, w));
    ck_assert(op(A, 4096, w));
    for (uint32_t i = 0; i < 3; i++)
        ck_assert(borrow_on_ops(b, A, 2 + i, many, 1 << 20));
    ck_assert(!borrow_on_ops(b, A, 5, many, 1 << 20));
    ck_assert(borrow_on_ops(b, A, 1, NULL, 0));
    ck_assert(borrow_on_ops(b, A, 5, many, 1 << 20));
    ck_assert(op(A, UINT32_MAX, w));
    ck_assert(op(A, 0, w));
    expect_ack(A, 5, 0);
    free(many);
}
END_TEST

START_TEST(an_empty_frame_is_acknowledged)
{
    ck_assert(borrow_on_ops(b, A, 2, NULL, 0));
    ck_assert(borrow_on_ops(b, A, 1, NULL, 0));
    expect_ack(A, 2, 0);
    flush();
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(hundred_processes_borrow_one_object)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    for (uint32_t p = 100; p < 200; p++)
        ck_assert(op(p, 1, w));
    ck_assert_uint_eq(stats().n_borrowers, 100);
    ref_table_drop(t, r);
    for (uint32_t p = 0; p < 100; p++) {
        ck_assert(lives(w));
        ck_assert(op(100 + p * 37 % 100, 2, w | BORROW_DROP));
    }
    ck_assert(!lives(w));
    flush();
    ck_assert_uint_eq(count(BORROW_SEND_ACK), 100);
}
END_TEST

START_TEST(a_borrow_without_memory_is_answered_as_gone)
{
    struct record *r = own();
    uint32_t n = 0;

    for (uint32_t p = 100; p < 200; p++) {
        alloc_test_fail_at(p % 2 == 0); /* fails if it needs a slab */
        ck_assert(op(p, 1, record_word(r)));
        alloc_test_fail_at(0);
        flush();
        n += only(BORROW_SEND_ACK)->n;
        ck_assert_uint_eq(stats().n_borrowers, p + 1 - 100 - n);
    }
    ck_assert_uint_gt(n, 0);
    ck_assert_uint_lt(n, 100);
}
END_TEST

START_TEST(borrows_of_the_dead_live_five_seconds_more)
{
    struct record *r = own(), *also = own();
    uint64_t w = record_word(r);

    ck_assert(op(A, 1, w));
    ck_assert(op(B, 1, w));
    ck_assert(op(B, 2, record_word(also)));
    ref_table_drop(t, r);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
    borrow_on_process_dead(b, B, 1000, &out);
    borrow_on_process_dead(b, B, 2000, &out);
    borrow_on_process_dead(b, A, 1500, &out);
    ck_assert(op(B, 3, w | BORROW_DROP));
    ck_assert_uint_eq(borrow_next_deadline(b), 1000 + BORROW_GRACE_NS);
    borrow_on_time(b, 999 + BORROW_GRACE_NS);
    ck_assert_uint_eq(stats().n_borrowers, 3);
    borrow_on_time(b, 1000 + BORROW_GRACE_NS);
    ck_assert_uint_eq(stats().n_borrowers, 1);
    ck_assert(lives(w));
    ck_assert_uint_eq(borrow_next_deadline(b), 1500 + BORROW_GRACE_NS);
    borrow_on_time(b, 1500 + BORROW_GRACE_NS);
    ck_assert(!lives(w));
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
    ck_assert_uint_eq(count(BORROW_LOST), 0);
    flush();
    ck_assert_uint_eq(out.n, 0); /* nor are the dead answered */
}
END_TEST

START_TEST(what_ends_with_a_borrow_ends_what_it_contains)
{
    struct record *outer = own(), *inner = learn(A, word_of(5));
    uint64_t w = record_word(outer);

    guard(BORROW_GUARD_REPLY, C, 1, inner);
    expect_op(A, 1, word_of(5));
    ck_assert(ref_table_set_inner(t, outer, &inner->slot, 1));
    ck_assert(op(B, 1, w));
    ref_table_drop(t, outer);
    borrow_on_process_dead(b, B, 0, &out);
    borrow_on_time(b, BORROW_GRACE_NS);
    expect_op(A, 2, word_of(5) | BORROW_DROP);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

/* --- as giver --- */

START_TEST(inv_28_what_went_out_in_a_reply_is_held_until_it_was_seen)
{
    struct record *r = own(), *s = own();
    uint32_t slots[] = {r->slot, s->slot};
    uint64_t w = record_word(r);

    r->held++, s->held++;
    borrow_hold_reply(b, A, 40, slots, 2);
    borrow_hold_reply(b, A, 41, NULL, 0);
    ref_table_drop(t, r);
    ref_table_drop(t, s);
    borrow_on_seen(b, A, 41);
    borrow_on_seen(b, B, 40);
    ck_assert_uint_eq(stats().n_replies, 1);
    ck_assert(lives(w));
    borrow_on_seen(b, A, 40);
    borrow_on_seen(b, A, 40);
    ck_assert(!lives(w));
    ck_assert_uint_eq(stats().n_replies, 0);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

static void add_slots(void *arg, uint32_t process, const uint32_t *slots, uint32_t n)
{
    uint64_t *sum = arg;

    while (n-- > 0)
        *sum += process * 1000u + slots[n];
}

START_TEST(what_is_held_for_others_can_be_listed)
{
    struct record *r = own(), *s = own();
    uint32_t slots[] = {r->slot, s->slot};
    uint64_t sum = 0;

    borrow_for_each_reply(b, add_slots, &sum);
    ck_assert_uint_eq(sum, 0);
    r->held += 2, s->held++;
    borrow_hold_reply(b, A, 40, slots, 2);
    borrow_hold_reply(b, B, 41, slots, 1);
    borrow_for_each_reply(b, add_slots, &sum);
    ck_assert_uint_eq(sum, 2 * A * 1000 + B * 1000 + 2 * r->slot + s->slot);
    ck_assert(!borrow_is_kept_for_dead(b, A) && !borrow_is_kept_for_dead(b, C));
    borrow_on_process_dead(b, A, 0, &out);
    ck_assert(borrow_is_kept_for_dead(b, A) && !borrow_is_kept_for_dead(b, B));
    borrow_on_time(b, BORROW_GRACE_NS);
    ck_assert(!borrow_is_kept_for_dead(b, A)); /* nothing of it is kept */
    sum = 0;
    borrow_for_each_reply(b, add_slots, &sum);
    ck_assert_uint_eq(sum, B * 1000 + r->slot);
    borrow_on_seen(b, B, 41);
}
END_TEST

/* The dead may have handed it on before it was registered. */
START_TEST(what_was_given_to_the_dead_is_held_five_seconds_more)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    for (uint64_t k = 0; k < 2; k++) {
        r->held++;
        borrow_hold_reply(b, A, k, &r->slot, 1);
        borrow_on_process_dead(b, A, 0, &out); /* the second goes to one that is dead */
    }
    ref_table_drop(t, r);
    borrow_on_time(b, BORROW_GRACE_NS - 1);
    ck_assert(lives(w));
    ck_assert_uint_eq(stats().n_replies, 2);
    borrow_on_time(b, BORROW_GRACE_NS);
    ck_assert(!lives(w));
    ck_assert_uint_eq(stats().n_replies, 0);

    r = own();
    w = record_word(r);
    borrow_hold_reply(b, A, 2, &r->slot, (r->held++, 1));
    ref_table_drop(t, r);
    ck_assert(!lives(w)); /* long dead */
}
END_TEST

/* --- as borrower --- */

START_TEST(a_ref_that_comes_again_is_the_same_record)
{
    struct record *r = learn(A, word_of(1)), *again = learn(A, word_of(1));

    ck_assert_ptr_eq(r, again);
    ck_assert_uint_eq(r->held, 2);
    ck_assert_uint_eq(r->count, 0);
    ck_assert_int_eq(r->state, REF_PENDING);
    ck_assert_ptr_ne(learn(B, word_of(1)), r);
    ck_assert_ptr_ne(learn(A, word_of(1) + (1ull << 32)), r);
    ck_assert_uint_eq(stats().n_borrowed, 3);
}
END_TEST

START_TEST(a_thousand_refs_are_found_again)
{
    static struct record *r[1000];

    for (uint32_t i = 0; i < 1000; i++)
        r[i] = learn(A + i % 3, word_of(i + 1));
    for (uint32_t i = 0; i < 1000; i++)
        ck_assert_ptr_eq(learn(A + i % 3, word_of(i + 1)), r[i]);
    ck_assert_uint_eq(stats().n_borrowed, 1000);
    for (uint32_t i = 0; i < 1000; i++) {
        ref_table_unhold(t, r[i]);
        ref_table_unhold(t, r[i]);
    }
    ck_assert_uint_eq(stats().n_borrowed, 0);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(our_own_ref_comes_home)
{
    struct record *r = own(), *secret = own();
    const struct record *others = learn(A, word_of(1));

    secret->flags = 0;
    ck_assert_ptr_eq(learn(ME, record_word(r)), r);
    ck_assert_uint_eq(r->held, 1);
    ck_assert_ptr_null(borrow_learn(b, ME, record_word(secret)));
    ck_assert_ptr_null(borrow_learn(b, ME, record_word(r) + (1ull << 32)));
    ref_table_at(t, others->slot)->flags |= REF_SHOWN;
    ck_assert_ptr_null(borrow_learn(b, ME, record_word(others)));
    uint64_t w = record_word(r);
    ref_table_drop(t, r);
    ref_table_unhold(t, r);
    ck_assert_ptr_null(borrow_learn(b, ME, w));
}
END_TEST

START_TEST(a_word_without_a_slot_or_with_the_mark_of_drops_is_no_ref)
{
    ck_assert_ptr_null(borrow_learn(b, A, 0));
    ck_assert_ptr_null(borrow_learn(b, A, 5ull << 32));
    ck_assert_ptr_null(borrow_learn(b, A, word_of(1) | BORROW_DROP));
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(learning_without_memory_changes_nothing)
{
    alloc_test_fail_at(1);
    ck_assert_ptr_null(borrow_learn(b, A, word_of(1)));
    alloc_test_fail_at(0);
    ref_table_unhold(t, learn(A, word_of(1)));
    ck_assert_uint_eq(stats().n_borrowed, 0);
    uint32_t n = 0;
    for (; n < 5000; n++) { /* until its extra, or its record, needs a new slab */
        alloc_test_fail_at(1);
        const struct record *r = borrow_learn(b, A, word_of(n + 1));
        alloc_test_fail_at(0);
        if (r == NULL)
            break;
    }
    ck_assert_uint_lt(n, 5000);
    ck_assert_uint_eq(stats().n_borrowed, n);
    ck_assert_uint_eq(ref_table_live(t), n);
    learn(A, word_of(n + 1));
}
END_TEST

START_TEST(what_was_not_registered_ends_in_silence)
{
    ref_table_unhold(t, learn(A, word_of(1)));
    ck_assert(!borrow_has_news(b));
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(a_borrow_is_registered_once_and_dropped_once)
{
    struct record *r = learn(A, word_of(1));

    guard(BORROW_GUARD_REPLY, B, 1, r);
    guard(BORROW_GUARD_REPLY, C, 2, r);
    expect_op(A, 1, word_of(1));
    guard(BORROW_GUARD_REPLY, C, 3, r);
    ck_assert(!borrow_has_news(b));
    ck_assert_uint_eq(stats().n_waiting, 3);
    ref_table_unhold(t, r);
    expect_op(A, 2, word_of(1) | BORROW_DROP);
}
END_TEST

START_TEST(a_ref_that_ends_and_comes_back_is_told_in_order)
{
    struct record *r = learn(A, word_of(1));
    const uint64_t words[] = {word_of(1), word_of(1) | BORROW_DROP, word_of(1)};

    guard(BORROW_GUARD_REPLY, B, 1, r);
    ref_table_unhold(t, r);
    guard(BORROW_GUARD_REPLY, B, 2, learn(A, word_of(1)));
    expect_ops(A, 1, 3, words);
    ack(A, 1);
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 2);
}
END_TEST

START_TEST(inv_28_a_reply_is_seen_when_the_owner_has_acknowledged)
{
    guard(BORROW_GUARD_REPLY, B, 77, learn(A, word_of(1)));
    expect_op(A, 1, word_of(1));
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 0);
    ack(A, 2); /* of what was never sent */
    ack(B, 1);
    ack(A, 0);
    ack(A, 0x80000001u);
    ck_assert_uint_eq(out.n, 0);
    ack(A, 1);
    const struct borrow_action *a = only(BORROW_SEND_SEEN);
    ck_assert_uint_eq(a->process, B);
    ck_assert_uint_eq(a->counter, 77);
    ck_assert_uint_eq(stats().n_waiting, 0);
    ack(A, 1);
    ck_assert_uint_eq(out.n, 1);
}
END_TEST

START_TEST(what_needs_nothing_is_released_at_once)
{
    struct record *r = own();

    borrow_guard(b, BORROW_GUARD_REPLY, B, 1, 0, NULL, 0, &out);
    guard(BORROW_GUARD_REPLY, B, 2, r);
    guard(BORROW_GUARD_TASK, B, 3, r);
    guard(BORROW_GUARD_REPLY, B, 4, r);
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 3);
    ck_assert_uint_eq(only(BORROW_TASK_FREE)->counter, 3);
    guard_value(r, r);
    ck_assert_uint_eq(r->held, 0);
    struct record *known = borrowed(A, word_of(1), 1);
    guard(BORROW_GUARD_REPLY, B, 5, known);
    ck_assert_uint_eq(only(BORROW_SEND_SEEN)->counter, 5);
}
END_TEST

START_TEST(the_record_of_a_value_is_held_until_what_it_contains_is_registered)
{
    struct record *outer = borrowed(A, word_of(1), 1), *inner = learn(B, word_of(2));

    guard_value(outer, inner);
    ck_assert(ref_table_set_inner(t, outer, &inner->slot, 1));
    ck_assert_uint_eq(outer->held, 2);
    ref_table_unhold(t, outer); /* the program's */
    ck_assert_uint_eq(stats().n_borrowed, 2);
    expect_op(B, 1, word_of(2));
    ack(B, 1);
    ck_assert_uint_eq(out.n, 0);
    ck_assert_uint_eq(stats().n_borrowed, 0);
    borrow_flush(b, now, &out);
    ck_assert_uint_eq(count(BORROW_SEND_OPS), 2); /* two DROPs */
}
END_TEST

/* The borrow is in the count before the caller lets its argument go. */
START_TEST(inv_13_a_task_is_free_when_the_owners_of_what_it_keeps_know)
{
    struct record *r = learn(A, word_of(1));

    guard(BORROW_GUARD_TASK, C, 9, r);
    ck_assert_uint_eq(out.n, 0);
    expect_op(A, 1, word_of(1));
    ack(A, 1);
    ck_assert_uint_eq(only(BORROW_TASK_FREE)->counter, 9);
    ck_assert_uint_eq(only(BORROW_TASK_FREE)->process, C);
}
END_TEST

START_TEST(inv_13_done_follows_the_ops_to_the_caller_that_is_the_owner)
{
    guard(BORROW_GUARD_TASK, A, 1, learn(A, word_of(1)));
    ck_assert_uint_eq(only(BORROW_TASK_FREE)->counter, 1);
    expect_op(A, 1, word_of(1));
    /* the number before is unanswered, and may come by another way */
    guard(BORROW_GUARD_TASK, A, 2, learn(A, word_of(2)));
    expect_op(A, 2, word_of(2));
    ack(A, 1);
    ck_assert_uint_eq(out.n, 0);
    ack(A, 2);
    ck_assert_uint_eq(only(BORROW_TASK_FREE)->counter, 2);
}
END_TEST

START_TEST(inv_13_done_that_waits_for_one_owner_waits_for_its_caller_too)
{
    uint32_t slots[] = {learn(A, word_of(1))->slot, learn(B, word_of(1))->slot};

    borrow_guard(b, BORROW_GUARD_TASK, A, 1, 0, slots, 2, &out);
    flush();
    ack(B, 1);
    ck_assert_uint_eq(count(BORROW_TASK_FREE), 0);
    ack(A, 1);
    ck_assert_uint_eq(count(BORROW_TASK_FREE), 1);
}
END_TEST

START_TEST(a_guardian_waits_for_each_owner)
{
    const struct record *r[] = {learn(A, word_of(1)),
                                learn(B, word_of(1)),
                                learn(A, word_of(2)),
                                own(),
                                learn(C, word_of(1))};
    uint32_t slots[5];

    for (int i = 0; i < 5; i++)
        slots[i] = r[i]->slot;
    borrow_guard(b, BORROW_GUARD_REPLY, 50, 6, 0, slots, 5, &out);
    flush();
    ck_assert_uint_eq(count(BORROW_SEND_OPS), 3);
    clear();
    ack(A, 1);
    borrow_on_process_dead(b, B, 0, &out); /* it needs no acknowledgement any more */
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 0);
    ck_assert_uint_eq(stats().n_waiting, 1);
    ack(C, 1);
    ck_assert_uint_eq(only(BORROW_SEND_SEEN)->counter, 6);
}
END_TEST

START_TEST(more_words_than_fit_a_frame_go_in_several)
{
    uint32_t n = 2 * BORROW_WORDS_MAX + 1, *slots = calloc(n, sizeof *slots);

    for (uint32_t i = 0; i < n; i++)
        slots[i] = learn(A, word_of(i + 1))->slot;
    borrow_guard(b, BORROW_GUARD_REPLY, B, 1, 0, slots, n, &out);
    flush();
    ck_assert_uint_eq(count(BORROW_SEND_OPS), 3);
    for (uint32_t i = 0, at = 0; i < 3; i++) {
        ck_assert_uint_eq(out.v[i].sequence, i + 1);
        ck_assert_uint_le(out.v[i].n, BORROW_WORDS_MAX);
        for (uint32_t k = 0; k < out.v[i].n; k++)
            ck_assert_uint_eq(out.v[i].words[k], word_of(++at));
    }
    clear();
    ack(A, 2);
    ck_assert_uint_eq(out.n, 0);
    ack(A, 3);
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 1);
    free(slots);
}
END_TEST

START_TEST(many_words_that_are_gone_are_told_in_several_frames)
{
    uint64_t *words = calloc(BORROW_WORDS_MAX + 1, sizeof *words);

    ck_assert(borrow_on_ops(b, A, 1, words, BORROW_WORDS_MAX + 1));
    flush();
    ck_assert_uint_eq(count(BORROW_SEND_ACK), 2);
    ck_assert_uint_eq(out.v[0].n + out.v[1].n, BORROW_WORDS_MAX + 1);
    ck_assert_uint_eq(out.v[1].sequence, 1);
    free(words);
}
END_TEST

/* --- what is lost --- */

START_TEST(inv_33_what_the_owner_does_not_have_any_more_is_lost)
{
    struct record *r = learn(A, word_of(1)), *ready = learn(A, word_of(2));
    uint64_t gone[] = {word_of(1), word_of(2), word_of(3), 0, UINT64_MAX};

    ck_assert(ref_table_set(t, ready, WIRE_META_RAW, "x", 1));
    learn(B, word_of(1));
    guard(BORROW_GUARD_REPLY, B, 1, r);
    expect_op(A, 1, word_of(1));
    borrow_on_ack(b, A, 1, gone, 5, &out);
    ck_assert_uint_eq(only(BORROW_LOST)->slot, r->slot);
    ck_assert_uint_eq(only(BORROW_LOST)->counter, record_word(r));
    ck_assert_int_eq(only(BORROW_LOST)->code, CORE_ELOST);
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 1);
}
END_TEST

START_TEST(what_ends_with_its_guardian_is_not_lost)
{
    struct record *outer = learn(A, word_of(1)), *inner = learn(B, word_of(2));
    uint64_t gone = word_of(2);

    guard_value(outer, inner);
    ck_assert(ref_table_set_inner(t, outer, &inner->slot, 1));
    ref_table_unhold(t, outer);
    flush();
    clear();
    borrow_on_ack(b, B, 1, &gone, 1, &out);
    ck_assert_uint_eq(count(BORROW_LOST), 0);
    ck_assert_uint_eq(ref_table_live(t), 0);

    outer = learn(A, word_of(1)), inner = learn(B, word_of(2));
    guard_value(outer, inner);
    ck_assert(ref_table_set_inner(t, outer, &inner->slot, 1));
    ref_table_unhold(t, outer);
    borrow_on_process_dead(b, B, 0, &out);
    ck_assert_uint_eq(count(BORROW_LOST), 0);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(inv_33_each_borrower_of_a_dead_owner_learns_it)
{
    struct record *r = borrowed(A, word_of(1), 1), *unregistered = learn(A, word_of(2)),
                  *ready = learn(A, word_of(3)), *unsent = learn(A, word_of(4));

    learn(B, word_of(1));
    guard(BORROW_GUARD_REPLY, C, 8, unsent);
    ck_assert(ref_table_set(t, ready, WIRE_META_RAW, "x", 1));
    borrow_on_process_dead(b, A, 0, &out);
    borrow_on_process_dead(b, A, 0, &out);
    ck_assert_uint_eq(only(BORROW_SEND_SEEN)->counter, 8);
    ck_assert_uint_eq(count(BORROW_LOST), 3);
    uint32_t sum = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == BORROW_LOST) {
            ck_assert_int_eq(out.v[i].code, CORE_EOWNER);
            sum += out.v[i].slot;
        }
    ck_assert_uint_eq(sum, r->slot + unregistered->slot + unsent->slot);
    ref_table_unhold(t, r);
    ck_assert(!borrow_has_news(b)); /* nobody to tell */
}
END_TEST

START_TEST(inv_33_a_ref_learned_after_its_owners_death_is_lost)
{
    for (int round = 0; round < 2; round++) { /* just dead, long dead */
        borrow_on_process_dead(b, A, 0, &out);
        borrow_on_time(b, round * BORROW_GRACE_NS);
        struct record *r = learn(A, word_of(1)), *ends = learn(A, word_of(2));
        ref_table_unhold(t, ends);
        ck_assert(borrow_has_news(b));
        guard(BORROW_GUARD_TASK, A, 1, r);
        ck_assert_uint_eq(count(BORROW_TASK_FREE), 1);
        flush();
        ck_assert_uint_eq(out.n, 1);
        ck_assert_uint_eq(only(BORROW_LOST)->slot, r->slot);
        ck_assert_int_eq(only(BORROW_LOST)->code, CORE_EOWNER);
        ref_table_unhold(t, r);
        ck_assert(!borrow_has_news(b));
        clear();
    }
}
END_TEST

START_TEST(the_dead_stay_dead_and_cost_four_bytes)
{
    const uint32_t n = 10000;
    unsigned long before = alloc_count();

    for (uint32_t i = 0; i < n; i++) {
        borrow_on_process_dead(b, 100 + i * 7919 % n, i, &out);
        borrow_on_time(b, i + BORROW_GRACE_NS);
        borrow_on_process_dead(b, 100 + i * 7919 % n, i, &out);
    }
    ck_assert_uint_eq(out.n, 0);
    ck_assert_uint_lt(alloc_count() - before, n + 20);
    uint64_t w = record_word(own());
    for (uint32_t p = 100; p < 100 + n; p++) {
        ck_assert(op(p, 1, w));
        learn(p, word_of(1));
    }
    learn(A, word_of(1));
    ck_assert(op(A, 1, w));
    ck_assert_uint_eq(stats().n_borrowers, 1);
    flush();
    ck_assert_uint_eq(count(BORROW_LOST), n);
    ck_assert_uint_eq(count(BORROW_SEND_ACK), 1);
}
END_TEST

START_TEST(the_dead_are_not_told_that_a_reply_was_seen)
{
    struct record *r = learn(A, word_of(1));

    guard(BORROW_GUARD_REPLY, B, 1, r);
    expect_op(A, 1, word_of(1));
    borrow_on_process_dead(b, B, 0, &out);
    ack(A, 1);
    guard(BORROW_GUARD_REPLY, B, 2, r);
    ck_assert_uint_eq(out.n, 0);
    ck_assert_uint_eq(stats().n_waiting, 0);
}
END_TEST

START_TEST(our_own_death_is_no_news)
{
    borrow_on_process_dead(b, ME, 0, &out);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
}
END_TEST

START_TEST(ops_that_wait_for_a_dead_owner_are_forgotten)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    guard(BORROW_GUARD_REPLY, C, 1, learn(A, word_of(1)));
    ck_assert(op(A, 1, w));
    ck_assert(op(A, 3, w | BORROW_DROP));
    borrow_on_process_dead(b, A, 0, &out);
    ck_assert_uint_eq(count(BORROW_SEND_SEEN), 1);
    ck_assert_uint_eq(count(BORROW_LOST), 1);
    ck_assert(!borrow_has_news(b));
    ack(A, 1);
    borrow_on_seen(b, A, 1);
    ck_assert_uint_eq(r->held, 1);
}
END_TEST

/* --- digests --- */

static void compared(uint32_t from, uint32_t sequence, bool differs)
{
    borrow_on_compared(b, from, sequence, differs, &out);
}

static void wait_until(uint64_t ns)
{
    now = ns;
    borrow_on_time(b, now);
    flush();
}

/* The one that is sent when the next is due. */
static struct borrow_digest digest(uint32_t process)
{
    wait_until(borrow_next_deadline(b));
    const struct borrow_action *a = only(BORROW_SEND_DIGEST);
    ck_assert_uint_eq(a->process, process);
    ck_assert_uint_eq(out.n, 1);
    return a->u.digest;
}

/* As owner we answer so to the last digest of that process. */
static void expect_compared(uint32_t process, uint32_t sequence, bool differs)
{
    flush();
    const struct borrow_action *a = only(BORROW_SEND_COMPARED);
    ck_assert_uint_eq(a->process, process);
    ck_assert_uint_eq(a->sequence, sequence);
    ck_assert_int_eq(a->code, differs);
}

static void expect_silence(void)
{
    flush();
    ck_assert_uint_eq(out.n, 0);
}

START_TEST(who_borrows_nothing_sends_no_digest)
{
    uint64_t w = record_word(own());

    ck_assert(op(A, 1, w));
    guard(BORROW_GUARD_REPLY, C, 1, own());
    learn(A, word_of(1));
    expect_ack(A, 1, 0);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
    wait_until(1ull << 40);
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(a_digest_follows_what_was_said_and_then_there_is_silence)
{
    now = 100;
    struct record *r = borrowed(A, word_of(1), 1);
    now = 1500;
    borrowed(A, word_of(2), 2);
    ck_assert_uint_eq(borrow_next_deadline(b), 100 + BORROW_DIGEST_NS);
    wait_until(99 + BORROW_DIGEST_NS);
    ck_assert_uint_eq(out.n, 0);
    struct borrow_digest d = digest(A);
    ck_assert_uint_eq(d.sequence, 2);
    ck_assert_uint_eq(d.acked, 2);
    ck_assert_uint_eq(d.n, 2);
    ck_assert(!d.is_overdue);
    compared(A, 2, false);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);

    ref_table_unhold(t, r);
    expect_op(A, 3, word_of(1) | BORROW_DROP);
    ack(A, 3);
    struct borrow_digest e = digest(A);
    ck_assert_uint_eq(e.n, 1);
    ck_assert_uint_ne(e.sum, d.sum);
    compared(A, 2, false); /* of another */
    ck_assert_uint_ne(borrow_next_deadline(b), UINT64_MAX);
    compared(A, 3, false);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
}
END_TEST

START_TEST(what_is_said_behind_a_digest_has_one_of_its_own)
{
    borrowed(A, word_of(1), 1);
    ck_assert_uint_eq(digest(A).n, 1);
    borrowed(A, word_of(2), 2);
    compared(A, 1, false);
    ck_assert_uint_eq(borrow_next_deadline(b), now + BORROW_DIGEST_NS);
    ck_assert_uint_eq(digest(A).n, 2);
}
END_TEST

START_TEST(a_digest_without_an_answer_is_repeated_later_and_later_but_not_for_ever)
{
    borrowed(A, word_of(1), 1);
    uint64_t span = BORROW_DIGEST_NS;
    for (int i = 0; i < BORROW_TRIES_MAX; i++, span *= 2) {
        digest(A);
        ck_assert_uint_eq(borrow_next_deadline(b), now + span);
    }
    wait_until(borrow_next_deadline(b));
    ck_assert_uint_eq(out.n, 0);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
    borrowed(A, word_of(2), 2);
    ck_assert_uint_eq(borrow_next_deadline(b), now + BORROW_DIGEST_NS);
    digest(A);
    digest(A);
    borrowed(A, word_of(3), 3);
    compared(A, 2, false);
    digest(A);
    ck_assert_uint_eq(borrow_next_deadline(b), now + BORROW_DIGEST_NS);
    compared(A, 3, false);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
}
END_TEST

START_TEST(an_owner_that_was_given_up_is_asked_soon_when_there_is_something_new)
{
    borrowed(A, word_of(1), 1);
    while (borrow_next_deadline(b) != UINT64_MAX)
        wait_until(borrow_next_deadline(b));
    borrowed(A, word_of(2), 2);
    digest(A);
    ck_assert_uint_eq(borrow_next_deadline(b), now + BORROW_DIGEST_NS);
}
END_TEST

START_TEST(a_digest_says_that_an_acknowledgement_is_overdue)
{
    guard(BORROW_GUARD_REPLY, C, 9, learn(A, word_of(1)));
    expect_op(A, 1, word_of(1));
    now = BORROW_DIGEST_NS / 2;
    guard(BORROW_GUARD_REPLY, C, 10, learn(A, word_of(2)));
    expect_op(A, 2, word_of(2));
    ack(A, 1);
    clear();
    struct borrow_digest d = digest(A);
    ck_assert(!d.is_overdue); /* number 2 was sent a moment ago */
    ck_assert_uint_eq(d.sequence, 2);
    ck_assert_uint_eq(d.acked, 1);
    d = digest(A);
    ck_assert(d.is_overdue);
    clear();
    compared(A, 2, false); /* stands for the one that was lost */
    ck_assert_uint_eq(only(BORROW_SEND_SEEN)->counter, 10);
    ck_assert_uint_eq(stats().n_waiting, 0);
}
END_TEST

/* We borrow from A what A borrows from us: our digest is what A's should be. */
static struct record *both(uint32_t number)
{
    struct record *r = own();

    borrowed(A, record_word(r), number);
    ck_assert(op(A, number, record_word(r)));
    expect_ack(A, number, 0);
    return r;
}

START_TEST(an_owner_compares_at_the_number_of_the_digest)
{
    both(1);
    struct record *s = both(2);
    uint64_t w = record_word(s);
    struct borrow_digest d = digest(A);

    borrow_on_digest(b, A, &d);
    expect_compared(A, 2, false);
    d.sequence = 4;
    borrow_on_digest(b, A, &d);
    expect_silence();
    ck_assert(op(A, 3, w | BORROW_DROP));
    expect_ack(A, 3, 0);
    ck_assert(op(A, 4, w));
    expect_compared(A, 4, false);
    ck_assert(op(A, 6, w | BORROW_DROP));
    d.sequence = 5;
    borrow_on_digest(b, A, &d);
    ck_assert(op(A, 5, w));
    expect_compared(A, 5, false); /* though it handled number 6 in the same turn */
    borrow_on_digest(b, A, &d);
    expect_silence(); /* too late */
    d.sequence = 6;
    borrow_on_digest(b, A, &d);
    expect_compared(A, 6, true);
    ref_table_unhold(t, borrow_find(b, A, w));
    expect_op(A, 3, w | BORROW_DROP);
    d = digest(A);
    d.sequence = 6;
    borrow_on_digest(b, A, &d);
    expect_compared(A, 6, false);
    d.sum++;
    borrow_on_digest(b, A, &d);
    expect_compared(A, 6, true);
}
END_TEST

START_TEST(what_was_answered_as_gone_is_compared_when_the_borrower_knows)
{
    struct borrow_digest d = {.sequence = 2, .acked = 0, .n = 1};

    ck_assert(op(A, 1, word_of(77)));
    ck_assert(op(A, 2, word_of(78) | BORROW_DROP));
    expect_ack(A, 2, 1);
    borrow_on_digest(b, A, &d);
    expect_silence();
    d.is_overdue = true;
    borrow_on_digest(b, A, &d);
    expect_compared(A, 2, true);
    ck_assert(op(A, 3, word_of(79)));
    d = (struct borrow_digest){.sequence = 3, .acked = 3};
    borrow_on_digest(b, A, &d);
    expect_compared(A, 3, false);

    borrowed(B, word_of(5), 1);
    borrow_on_ack(b, B, 1, &(uint64_t){word_of(5)}, 1, &out);
    ck_assert_uint_eq(digest(B).n, 0);
}
END_TEST

START_TEST(a_list_is_sent_for_a_digest_that_differs)
{
    borrowed(A, word_of(2), 1);
    borrowed(A, word_of(1), 2);
    borrowed(B, word_of(3), 1);
    wait_until(BORROW_DIGEST_NS);
    ck_assert_uint_eq(count(BORROW_SEND_DIGEST), 2);
    compared(B, 1, false);
    compared(A, 2, true);
    compared(A, 2, true);
    flush();
    ck_assert_uint_eq(out.n, 1);
    const struct borrow_action *a = only(BORROW_SEND_LIST);
    ck_assert_uint_eq(a->process, A);
    ck_assert_uint_eq(a->sequence, 3);
    ck_assert_uint_eq(a->n, 2);
    ck_assert_uint_eq(a->words[0], word_of(1));
    ck_assert_uint_eq(a->words[1], word_of(2));
    ck_assert(a->u.range.is_first && a->u.range.low == 0 && a->u.range.high == UINT64_MAX);
    compared(A, 2, true);
    expect_silence();
    struct borrow_digest d = digest(A); /* did it help? */
    ck_assert_uint_eq(d.sequence, 3);
    ck_assert(d.is_overdue);
    compared(A, 3, false);
    ck_assert_uint_eq(borrow_next_deadline(b), UINT64_MAX);
}
END_TEST

static bool list(uint32_t sequence, uint32_t n, const uint64_t *words)
{
    struct borrow_range all = {.low = 0, .high = UINT64_MAX, .is_first = true};

    return borrow_on_list(b, A, sequence, &all, words, n);
}

START_TEST(a_list_repairs_what_the_owner_counts)
{
    struct record *r[4];
    uint64_t w[4];

    for (int i = 0; i < 4; i++)
        r[i] = own(), w[i] = record_word(r[i]);
    ck_assert(op(A, 1, w[0]));
    ck_assert(op(A, 2, w[1]));
    ck_assert(op(B, 1, w[0]));
    ck_assert(op(A, 5, w[3])); /* number 3 and 4 are lost */
    flush();
    struct borrow_digest d = {.sequence = 5, .acked = 2, .n = 3};
    borrow_on_digest(b, A, &d);
    expect_silence(); /* they may still come */
    d.is_overdue = true;
    borrow_on_digest(b, A, &d);
    expect_compared(A, 5, true);

    struct record *others = learn(C, word_of(1));
    others->flags |= REF_SHOWN;
    uint64_t words[] = {w[1], w[2], record_word(others), word_of(4000)};
    ck_assert(list(6, 4, words));
    flush();
    ck_assert_uint_eq(count(BORROW_SEND_COMPARED), 0); /* the digest is none of this number */
    ck_assert_uint_eq(only(BORROW_SEND_ACK)->sequence, 6);
    ck_assert_uint_eq(only(BORROW_SEND_ACK)->n, 2);
    const struct borrow_action *a = only(BORROW_REPAIRED);
    ck_assert_uint_eq(a->process, A);
    ck_assert_uint_eq(a->u.repair.n_added, 1);
    ck_assert_uint_eq(a->u.repair.n_dropped, 1);
    ck_assert_uint_eq(a->u.repair.n_missed, 2);
    ck_assert_uint_eq(r[0]->held, 1); /* B's */
    ck_assert_uint_eq(r[1]->held, 1);
    ck_assert_uint_eq(r[2]->held, 1);
    ck_assert_uint_eq(r[3]->held, 0);
    ck_assert(op(A, 3, w[0])); /* they do come */
    ck_assert(op(A, 4, w[1] | BORROW_DROP));
    ck_assert(list(6, 0, NULL));
    expect_silence();
    ck_assert_uint_eq(stats().n_borrowers, 3);
    ck_assert(op(A, 8, w[1] | BORROW_DROP));
    ck_assert(list(7, 2, words)); /* changes nothing */
    expect_ack(A, 8, 0);
    ck_assert_uint_eq(stats().n_borrowers, 2);
}
END_TEST

START_TEST(a_long_list_goes_in_parts)
{
    enum { N = 20000 };
    static uint64_t w[N];
    struct borrow_action part[3];
    struct record *more = own();

    for (uint32_t i = 0; i < N; i++) {
        w[i] = record_word(own());
        guard(BORROW_GUARD_REPLY, C, i, learn(A, w[i]));
    }
    flush();
    clear();
    ack(A, 3);
    ck_assert(op(A, 1, record_word(more)));
    ck_assert(op(A, 2, w[N - 1]));
    flush();
    digest(A);
    compared(A, 3, true);
    flush();
    ck_assert_uint_eq(out.n, 3);
    for (uint32_t i = 0; i < 3; i++) {
        part[i] = out.v[i];
        ck_assert_int_eq(part[i].kind, BORROW_SEND_LIST);
        ck_assert_uint_eq(part[i].sequence, 4 + i);
        ck_assert_uint_eq(part[i].n, i < 2 ? BORROW_WORDS_MAX : N - 2 * BORROW_WORDS_MAX);
        ck_assert_int_eq(part[i].u.range.is_first, i == 0);
        ck_assert_uint_eq(part[i].u.range.low, i == 0 ? 0 : part[i - 1].u.range.high + 1);
    }
    ck_assert_uint_eq(part[2].u.range.high, UINT64_MAX);
    out.n = 0;
    for (uint32_t i = 3; i-- > 0;) { /* the first last */
        ck_assert(borrow_on_list(b, A, 4 + i, &part[i].u.range, part[i].words, part[i].n));
        free(part[i].words);
    }
    flush();
    const struct borrow_action *a = only(BORROW_REPAIRED);
    ck_assert_uint_eq(a->u.repair.n_added, N - 1);
    ck_assert_uint_eq(a->u.repair.n_dropped, 1);
    ck_assert_uint_eq(a->u.repair.n_missed, 1);
    ck_assert_uint_eq(only(BORROW_SEND_ACK)->sequence, 6);
    ck_assert_uint_eq(stats().n_borrowers, N);
    ck_assert_uint_eq(more->held, 0);
}
END_TEST

START_TEST(a_repair_is_said_once_when_all_parts_are_there)
{
    uint64_t w = record_word(own()), end = w << 32 | w >> 32;
    struct borrow_range low = {.low = 0, .high = end, .is_first = true};
    struct borrow_range high = {.low = end + 1, .high = UINT64_MAX};

    borrow_on_digest(b, A, &(struct borrow_digest){.sequence = 1, .acked = 1});
    ck_assert(borrow_on_list(b, A, 2, &low, &w, 1));
    flush();
    ck_assert_uint_eq(out.n, 1); /* nor is a digest answered whose number was skipped */
    ck_assert_uint_eq(only(BORROW_SEND_ACK)->sequence, 2);
    ck_assert(borrow_on_list(b, A, 3, &high, NULL, 0));
    flush();
    ck_assert_uint_eq(only(BORROW_REPAIRED)->u.repair.n_added, 1);
    ck_assert_uint_eq(only(BORROW_REPAIRED)->u.repair.n_missed, 1);
    ck_assert(borrow_on_list(b, A, 4, &high, NULL, 0));
    flush();
    ck_assert_uint_eq(count(BORROW_REPAIRED), 0);
}
END_TEST

START_TEST(a_list_out_of_order_is_malformed)
{
    uint64_t w[] = {word_of(3), word_of(2)}, twice[] = {word_of(2), word_of(2)};
    struct borrow_range range = {.low = 5ull << 32, .high = 7ull << 32};

    ck_assert(!list(1, 2, w));
    ck_assert(!list(1, 2, twice));
    ck_assert(!list(1, 1, &(uint64_t){UINT64_MAX}));
    ck_assert(!borrow_on_list(b, A, 1, &range, w, 1));
    w[0] = word_of(7);
    ck_assert(!borrow_on_list(b, A, 1, &range, w, 1));
    w[0] = word_of(5);
    ck_assert(borrow_on_list(b, A, 1, &range, w, 1));
    range = (struct borrow_range){.low = UINT64_MAX, .high = 0, .is_first = true};
    ck_assert(borrow_on_list(b, A, 0x70000000, &range, NULL, 0));
    expect_ack(A, 0x70000000, 1);
}
END_TEST

START_TEST(there_are_no_digests_for_the_dead)
{
    struct borrow_digest d = {.sequence = 1, .is_overdue = true};

    borrowed(A, word_of(1), 1);
    digest(A);
    borrowed(B, word_of(1), 1);
    borrow_on_process_dead(b, B, now, &out);
    borrow_on_time(b, borrow_next_deadline(b));
    stats(); /* A has something to say */
    borrow_on_process_dead(b, A, now, &out);
    stats();
    borrow_on_digest(b, A, &d);
    compared(A, 1, true);
    ck_assert(list(9, 0, NULL));
    stats();
    ck_assert(!borrow_has_news(b));
    ck_assert_uint_eq(borrow_next_deadline(b), now + BORROW_GRACE_NS);
    wait_until(now + BORROW_GRACE_NS);
    ck_assert_uint_eq(out.n, 0);
    borrow_on_digest(b, A, &d);
    compared(A, 1, true);
    ck_assert(!borrow_has_news(b));
}
END_TEST

START_TEST(numbers_go_on_after_the_last_one)
{
    struct record *r = own();
    uint64_t w = record_word(r);

    borrow_test_start(b, UINT32_MAX - 1);
    struct record *s = borrowed(A, word_of(1), UINT32_MAX);
    borrowed(A, word_of(2), 0);
    ck_assert(op(A, 0, w | BORROW_DROP));
    ck_assert(op(A, UINT32_MAX, w));
    expect_ack(A, 0, 0);
    ck_assert_uint_eq(r->held, 0);
    ck_assert(op(A, UINT32_MAX, w));
    ck_assert_uint_eq(r->held, 0);
    ref_table_unhold(t, s);
    expect_op(A, 1, word_of(1) | BORROW_DROP);
    struct borrow_digest d = digest(A);
    ck_assert_uint_eq(d.sequence, 1);
    ck_assert_uint_eq(d.n, 1);
    ck_assert(!d.is_overdue);
    ck_assert(digest(A).is_overdue);
    ck_assert(list(3, 1, &w));
    flush();
    ck_assert_uint_eq(only(BORROW_REPAIRED)->u.repair.n_missed, 2);
    ck_assert_uint_eq(r->held, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("borrow");
    TCase *cases = tcase_create("borrow");

    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, inv_29_an_object_lives_until_its_last_borrower_drops_it);
    tcase_add_test(cases, inv_30_adding_or_dropping_twice_does_nothing);
    tcase_add_test(cases, a_pending_result_is_borrowed_too);
    tcase_add_test(cases, words_that_name_nothing_are_answered_as_gone);
    tcase_add_test(cases, ops_are_handled_in_order_whatever_carrier_brings_them);
    tcase_add_test(cases, inv_30_an_early_frame_that_comes_twice_is_kept_once);
    tcase_add_test(cases, frames_far_ahead_are_malformed);
    tcase_add_test(cases, an_empty_frame_is_acknowledged);
    tcase_add_test(cases, hundred_processes_borrow_one_object);
    tcase_add_test(cases, a_borrow_without_memory_is_answered_as_gone);
    tcase_add_test(cases, borrows_of_the_dead_live_five_seconds_more);
    tcase_add_test(cases, what_ends_with_a_borrow_ends_what_it_contains);
    tcase_add_test(cases, inv_28_what_went_out_in_a_reply_is_held_until_it_was_seen);
    tcase_add_test(cases, what_is_held_for_others_can_be_listed);
    tcase_add_test(cases, what_was_given_to_the_dead_is_held_five_seconds_more);
    tcase_add_test(cases, a_ref_that_comes_again_is_the_same_record);
    tcase_add_test(cases, a_thousand_refs_are_found_again);
    tcase_add_test(cases, our_own_ref_comes_home);
    tcase_add_test(cases, a_word_without_a_slot_or_with_the_mark_of_drops_is_no_ref);
    tcase_add_test(cases, learning_without_memory_changes_nothing);
    tcase_add_test(cases, what_was_not_registered_ends_in_silence);
    tcase_add_test(cases, a_borrow_is_registered_once_and_dropped_once);
    tcase_add_test(cases, a_ref_that_ends_and_comes_back_is_told_in_order);
    tcase_add_test(cases, inv_28_a_reply_is_seen_when_the_owner_has_acknowledged);
    tcase_add_test(cases, what_needs_nothing_is_released_at_once);
    tcase_add_test(cases, the_record_of_a_value_is_held_until_what_it_contains_is_registered);
    tcase_add_test(cases, inv_13_a_task_is_free_when_the_owners_of_what_it_keeps_know);
    tcase_add_test(cases, inv_13_done_follows_the_ops_to_the_caller_that_is_the_owner);
    tcase_add_test(cases, inv_13_done_that_waits_for_one_owner_waits_for_its_caller_too);
    tcase_add_test(cases, a_guardian_waits_for_each_owner);
    tcase_add_test(cases, more_words_than_fit_a_frame_go_in_several);
    tcase_add_test(cases, many_words_that_are_gone_are_told_in_several_frames);
    tcase_add_test(cases, inv_33_what_the_owner_does_not_have_any_more_is_lost);
    tcase_add_test(cases, what_ends_with_its_guardian_is_not_lost);
    tcase_add_test(cases, inv_33_each_borrower_of_a_dead_owner_learns_it);
    tcase_add_test(cases, inv_33_a_ref_learned_after_its_owners_death_is_lost);
    tcase_add_test(cases, the_dead_stay_dead_and_cost_four_bytes);
    tcase_add_test(cases, the_dead_are_not_told_that_a_reply_was_seen);
    tcase_add_test(cases, our_own_death_is_no_news);
    tcase_add_test(cases, ops_that_wait_for_a_dead_owner_are_forgotten);
    tcase_add_test(cases, who_borrows_nothing_sends_no_digest);
    tcase_add_test(cases, a_digest_follows_what_was_said_and_then_there_is_silence);
    tcase_add_test(cases, what_is_said_behind_a_digest_has_one_of_its_own);
    tcase_add_test(cases, a_digest_without_an_answer_is_repeated_later_and_later_but_not_for_ever);
    tcase_add_test(cases, an_owner_that_was_given_up_is_asked_soon_when_there_is_something_new);
    tcase_add_test(cases, a_digest_says_that_an_acknowledgement_is_overdue);
    tcase_add_test(cases, an_owner_compares_at_the_number_of_the_digest);
    tcase_add_test(cases, what_was_answered_as_gone_is_compared_when_the_borrower_knows);
    tcase_add_test(cases, a_list_is_sent_for_a_digest_that_differs);
    tcase_add_test(cases, a_list_repairs_what_the_owner_counts);
    tcase_add_test(cases, a_long_list_goes_in_parts);
    tcase_add_test(cases, a_repair_is_said_once_when_all_parts_are_there);
    tcase_add_test(cases, a_list_out_of_order_is_malformed);
    tcase_add_test(cases, there_are_no_digests_for_the_dead);
    tcase_add_test(cases, numbers_go_on_after_the_last_one);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
