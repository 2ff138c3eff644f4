/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/ref_table.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/core.h"

static struct ref_table *t;

static void setup(void)
{
    t = ref_table_create();
    ck_assert_ptr_nonnull(t);
}

static void teardown(void)
{
    ref_table_selfcheck(t);
    ref_table_destroy(t);
}

static struct record *ready(const void *bytes, uint32_t size)
{
    struct record *r = ref_table_new(t);

    ck_assert_ptr_nonnull(r);
    ck_assert(ref_table_set(t, r, WIRE_META_RAW, bytes, size));
    return r;
}

START_TEST(a_new_ref_is_pending_and_found_by_its_word)
{
    struct record *r = ref_table_new(t);

    ck_assert_int_eq(r->state, REF_PENDING);
    ck_assert_uint_eq(r->count, 1);
    ck_assert_uint_ne(record_word(r), 0);
    ck_assert_ptr_eq(ref_table_find(t, record_word(r)), r);
    ck_assert_ptr_eq(ref_table_at(t, r->slot), r);
}
END_TEST

START_TEST(words_that_were_never_given_are_stale)
{
    struct record *r = ref_table_new(t);

    ck_assert_ptr_null(ref_table_find(t, 0));
    ck_assert_ptr_null(ref_table_find(t, 1ull << 32));
    ck_assert_ptr_null(ref_table_find(t, UINT64_MAX));
    ck_assert_ptr_null(ref_table_find(t, record_word(r) + 1));
    ck_assert_ptr_null(ref_table_find(t, record_word(r) + (1ull << 32)));
}
END_TEST

START_TEST(a_released_word_is_stale_also_after_its_slot_is_used_again)
{
    struct record *r = ready("x", 1);
    uint64_t old = record_word(r);

    ref_table_drop(t, r);
    ck_assert_ptr_null(ref_table_find(t, old));
    struct record *again = ref_table_new(t);
    ck_assert_uint_eq(again->slot, (uint32_t)old);
    ck_assert_ptr_null(ref_table_find(t, old));
    ck_assert_ptr_eq(ref_table_find(t, record_word(again)), again);
}
END_TEST

START_TEST(values_of_each_length_come_back_as_they_were)
{
    static const uint32_t sizes[] =
        {0, 1, 48, 79, 80, 81, 128, 4096, 65536, 65537, 100 << 10, 3 << 20};
    uint8_t *bytes = malloc(3 << 20);
    struct ref_table_stats s;

    for (uint32_t i = 0; i < 3u << 20; i++)
        bytes[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct record *r = ready(bytes, sizes[i]);
        ck_assert_uint_eq(r->size, sizes[i]);
        ck_assert_int_eq(memcmp(record_value(r), bytes, sizes[i]), 0);
        ref_table_get_stats(t, &s);
        ck_assert_uint_eq(s.value_bytes, sizes[i]);
        ck_assert_uint_ge(s.block_bytes, sizes[i] > REF_INLINE_MAX ? sizes[i] : 0);
        ref_table_drop(t, r);
    }
    ref_table_get_stats(t, &s);
    ck_assert_uint_eq(s.n_live + s.value_bytes + s.block_bytes, 0);
    free(bytes);
}
END_TEST

START_TEST(the_last_of_handles_and_holds_frees_the_value)
{
    struct record *r = ready("abc", 3);

    r->count++;
    r->held++;
    ref_table_drop(t, r);
    ref_table_drop(t, r);
    ck_assert_uint_eq(ref_table_live(t), 1);
    ck_assert_int_eq(memcmp(record_value(r), "abc", 3), 0);
    ref_table_unhold(t, r);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(inv_8_an_argument_outlives_the_callers_own_handle)
{
    struct record *r = ref_table_new(t);
    uint64_t word = record_word(r);

    r->held++; /* a submitted task takes it */
    ref_table_drop(t, r);
    ck_assert_ptr_null(ref_table_find(t, word));
    ck_assert(ref_table_set(t, r, WIRE_META_RAW, "v", 1));
    ck_assert_int_eq(*(const char *)record_value(r), 'v');
    ref_table_unhold(t, r);
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(a_result_nobody_holds_is_dropped_when_it_comes)
{
    struct record *r = ref_table_new(t);

    ref_table_drop(t, r);
    ck_assert_uint_eq(ref_table_live(t), 1); /* its task still runs */
    ck_assert(!ref_table_set(t, r, WIRE_META_RAW, "v", 1));
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(the_hidden_record_of_a_task_without_returns_is_no_ref)
{
    struct record *r = ref_table_new(t);

    r->flags |= REF_HIDDEN;
    ck_assert_ptr_null(ref_table_find(t, record_word(r)));
    r->count = 0;
    ck_assert(!ref_table_set(t, r, 0, NULL, 0));
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(inv_9_the_returns_of_a_task_exist_before_it_ends_and_are_set_along_their_list)
{
    struct record *first = ref_table_new(t), *last = first;

    for (int i = 1; i < 100; i++) {
        struct record *r = ref_table_new(t);
        r->first = first->slot;
        last->next_return = r->slot;
        last = r;
    }
    for (uint32_t slot = first->slot, n = 0; slot != 0; n++) {
        struct record *r = ref_table_at(t, slot);
        ck_assert_ptr_eq(ref_table_find(t, record_word(r)), r);
        ck_assert_int_eq(r->state, REF_PENDING);
        slot = r->next_return;
        ck_assert(ref_table_set(t, r, WIRE_META_RAW, &n, sizeof n));
        ck_assert_uint_eq(r->next_return, 0);
        ref_table_drop(t, r);
    }
    ck_assert_uint_eq(ref_table_live(t), 0);
}
END_TEST

START_TEST(records_do_not_move_while_the_table_grows)
{
    struct record *r = ready("stays", 5);
    uint64_t word = record_word(r);

    for (int i = 0; i < 50000; i++)
        ref_table_new(t);
    ck_assert_ptr_eq(ref_table_find(t, word), r);
    ck_assert_int_eq(memcmp(record_value(r), "stays", 5), 0);
}
END_TEST

START_TEST(inv_15_a_value_that_finds_no_memory_becomes_an_error)
{
    static uint8_t bytes[200000];
    struct record *r = ref_table_new(t);
    struct wire_failure f;

    alloc_test_fail_at(1);
    ck_assert(ref_table_set(t, r, WIRE_META_RAW, bytes, sizeof bytes));
    alloc_test_fail_at(0);
    ck_assert_int_eq(r->meta, WIRE_META_ERROR);
    memcpy(&f, record_value(r), sizeof f);
    ck_assert_uint_eq(f.code, CORE_ENOMEM);
    ck_assert_str_eq((const char *)record_value(r) + sizeof f, "no memory");
}
END_TEST

START_TEST(no_memory_gives_null_and_changes_nothing)
{
    for (unsigned long k = 1; k <= 2; k++) {
        struct ref_table *small = ref_table_create();
        alloc_test_fail_at(k);
        ck_assert_ptr_null(ref_table_new(small));
        alloc_test_fail_at(k);
        ck_assert_ptr_null(ref_table_alloc(small, 100));
        alloc_test_fail_at(0);
        ref_table_selfcheck(small);
        ck_assert_ptr_nonnull(ref_table_new(small));
        ref_table_destroy(small);
    }
}
END_TEST

START_TEST(warm_work_allocates_nothing)
{
    static uint8_t bytes[5000];

    for (int round = 0; round < 2; round++) {
        unsigned long before = alloc_count();
        for (int i = 0; i < 10000; i++) {
            void *spec = ref_table_alloc(t, 40 + (size_t)i % 300);
            struct record *r = ready(bytes, (uint32_t)i % 5000);
            ref_table_free(t, spec, 40 + (size_t)i % 300);
            ref_table_drop(t, r);
        }
        if (round == 1)
            ck_assert_uint_eq(alloc_count(), before);
    }
}
END_TEST

/* A model: what each ref must be, after any legal step. */
#define N 200
START_TEST(ten_thousand_random_steps_agree_with_a_model)
{
    struct {
        struct record *r;
        uint64_t word;
        unsigned count, held;
        int size; /* -1: pending */
        uint8_t fill;
    } m[N] = {0};
    const char *given = getenv("SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 0) : 20251121;
    static uint8_t bytes[70000];
    size_t live = 0;

    printf("ref_table_test: SEED=%u\n", seed);
    srandom(seed);
    for (int step = 0; step < 10000; step++) {
        int i = (int)(random() % N);
        switch (random() % 5) {
        case 0:
            if (m[i].r != NULL)
                break;
            m[i].r = ref_table_new(t);
            m[i].word = record_word(m[i].r);
            m[i].count = 1;
            m[i].held = 0;
            m[i].size = -1;
            live++;
            break;
        case 1:
            if (m[i].r == NULL || m[i].size >= 0)
                break;
            m[i].size = (int)(random() % (random() % 8 == 0 ? 70000 : 120));
            m[i].fill = (uint8_t)random();
            memset(bytes, m[i].fill, (size_t)m[i].size);
            ck_assert_int_eq(ref_table_set(t, m[i].r, WIRE_META_RAW, bytes, (uint32_t)m[i].size),
                             m[i].count + m[i].held > 0);
            break;
        case 2:
            if (m[i].r == NULL || m[i].count == 0)
                break;
            m[i].count--;
            ref_table_drop(t, m[i].r);
            break;
        case 3:
            if (m[i].r == NULL || m[i].held == 0)
                break;
            m[i].held--;
            ref_table_unhold(t, m[i].r);
            break;
        case 4:
            if (m[i].r == NULL || m[i].count == 0)
                break;
            if (random() % 2) {
                m[i].r->held++;
                m[i].held++;
            } else {
                m[i].r->count++;
                m[i].count++;
            }
            break;
        }
        if (m[i].r != NULL && m[i].size >= 0 && m[i].count + m[i].held == 0) {
            m[i].r = NULL;
            live--;
        }
        ck_assert_ptr_eq(ref_table_find(t, m[i].word),
                         m[i].r != NULL && m[i].count > 0 ? m[i].r : NULL);
        if (m[i].r != NULL && m[i].size >= 0) {
            memset(bytes, m[i].fill, (size_t)m[i].size);
            ck_assert_int_eq(memcmp(record_value(m[i].r), bytes, (size_t)m[i].size), 0);
        }
        ck_assert_uint_eq(ref_table_live(t), live);
        ref_table_selfcheck(t);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ref_table");
    TCase *c = tcase_create("ref_table");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_new_ref_is_pending_and_found_by_its_word);
    tcase_add_test(c, words_that_were_never_given_are_stale);
    tcase_add_test(c, a_released_word_is_stale_also_after_its_slot_is_used_again);
    tcase_add_test(c, values_of_each_length_come_back_as_they_were);
    tcase_add_test(c, the_last_of_handles_and_holds_frees_the_value);
    tcase_add_test(c, inv_8_an_argument_outlives_the_callers_own_handle);
    tcase_add_test(c, a_result_nobody_holds_is_dropped_when_it_comes);
    tcase_add_test(c, the_hidden_record_of_a_task_without_returns_is_no_ref);
    tcase_add_test(c,
                   inv_9_the_returns_of_a_task_exist_before_it_ends_and_are_set_along_their_list);
    tcase_add_test(c, records_do_not_move_while_the_table_grows);
    tcase_add_test(c, inv_15_a_value_that_finds_no_memory_becomes_an_error);
    tcase_add_test(c, no_memory_gives_null_and_changes_nothing);
    tcase_add_test(c, warm_work_allocates_nothing);
    tcase_add_test(c, ten_thousand_random_steps_agree_with_a_model);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
