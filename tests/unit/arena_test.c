/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/arena.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed;

static uint32_t below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

START_TEST(all_of_it_can_be_had_at_once_and_again)
{
    struct arena *a = arena_create(1000);
    uint32_t first = 7;

    for (int i = 0; i < 3; i++) {
        ck_assert_uint_eq(arena_largest(a), 1000);
        ck_assert_int_eq(arena_alloc(a, 1001, &first), -1);
        ck_assert_int_eq(arena_alloc(a, 1000, &first), 0);
        ck_assert_uint_eq(first, 0);
        ck_assert_uint_eq(arena_n_free(a) + arena_largest(a), 0);
        ck_assert_int_eq(arena_alloc(a, 1, &first), -1);
        arena_free(a, 0, 1000);
        arena_selfcheck(a);
    }
    arena_destroy(a);
}
END_TEST

START_TEST(a_request_for_all_but_nothing_overflows_no_class)
{
    /* the longest there can be; its books are sparse */
    struct arena *a = arena_create(0x7ffffffe);
    uint32_t first;

    ck_assert_int_eq(arena_alloc(a, UINT32_MAX, &first), -1);
    ck_assert_int_eq(arena_alloc(a, 0x7ffffffe, &first), 0);
    arena_free(a, 0x7ffffffe - 100, 100);
    ck_assert_uint_eq(arena_largest(a), 100);
    ck_assert_int_eq(arena_alloc(a, 100, &first), 0);
    ck_assert_uint_eq(first, 0x7ffffffe - 100);
    ck_assert(!arena_is_allocated(a, 0x7ffffffe - 1, 2));
    ck_assert(!arena_is_allocated(a, UINT32_MAX, UINT32_MAX));
    arena_destroy(a);
}
END_TEST

START_TEST(what_was_freed_last_is_given_first)
{
    struct arena *a = arena_create(4096);
    uint32_t at[8], first;

    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(arena_alloc(a, 100, &at[i]), 0);
    arena_free(a, at[1], 100);
    arena_free(a, at[5], 100);
    arena_free(a, at[3], 100);
    for (int i = 3; i != 9; i = i == 3 ? 5 : i == 5 ? 1 : 9) {
        ck_assert_int_eq(arena_alloc(a, 100, &first), 0);
        ck_assert_uint_eq(first, at[i]);
    }
    arena_destroy(a);
}
END_TEST

START_TEST(pieces_freed_in_any_order_are_one_again)
{
    struct arena *a = arena_create(640);
    uint32_t first, order[64];

    ck_assert_int_eq(arena_alloc(a, 640, &first), 0);
    for (uint32_t i = 0; i < 64; i++)
        order[i] = i;
    for (uint32_t i = 63; i > 0; i--) {
        uint32_t k = below(i + 1), o = order[i];
        order[i] = order[k];
        order[k] = o;
    }
    for (int i = 0; i < 64; i++) {
        arena_free(a, order[i] * 10, 10);
        ck_assert(!arena_is_allocated(a, order[i] * 10, 1));
        arena_selfcheck(a);
    }
    ck_assert_uint_eq(arena_largest(a), 640);
    arena_destroy(a);
}
END_TEST

/* --- against a plain model: one byte per block --- */

#define MODEL_BLOCKS 2000

static uint8_t model[MODEL_BLOCKS];

static uint32_t model_largest(uint32_t *n_free)
{
    uint32_t largest = 0, run = 0;

    *n_free = 0;
    for (uint32_t i = 0; i < MODEL_BLOCKS; i++) {
        run = model[i] ? 0 : run + 1;
        *n_free += !model[i];
        largest = run > largest ? run : largest;
    }
    return largest;
}

/* Any part of what is allocated. */
static void free_some(struct arena *a)
{
    uint32_t first = below(MODEL_BLOCKS), n = 0, most = 1 + below(below(8) == 0 ? 500 : 20);

    while (first + n < MODEL_BLOCKS && n < most && model[first + n])
        n++;
    if (n == 0)
        return;
    arena_free(a, first, n);
    memset(&model[first], 0, n);
}

static void allocate_some(struct arena *a)
{
    uint32_t n_free, first = UINT32_MAX, largest = model_largest(&n_free);
    uint32_t n = below(16) == 0 ? largest + below(2) : 1 + below(below(4) == 0 ? 300 : 40);

    if (n == 0)
        return;
    if (arena_alloc(a, n, &first) != 0) {
        ck_assert_msg(n > largest, "%u blocks not found, %u are in one piece", n, largest);
        return;
    }
    ck_assert_uint_le(n, largest);
    ck_assert_uint_le(first + n, MODEL_BLOCKS);
    for (uint32_t i = first; i < first + n; i++) {
        ck_assert_uint_eq(model[i], 0);
        model[i] = 1;
    }
}

START_TEST(it_does_what_a_plain_model_does)
{
    struct arena *a = arena_create(MODEL_BLOCKS);
    uint32_t n_free;

    seed = (uint64_t)_i;
    memset(model, 0, sizeof model);
    for (int step = 0; step < 3000; step++) {
        if (below(100) < (step / 500 % 2 ? 70u : 40u))
            free_some(a);
        else
            allocate_some(a);
        ck_assert_uint_eq(arena_largest(a), model_largest(&n_free));
        ck_assert_uint_eq(arena_n_free(a), n_free);
        uint32_t first = below(MODEL_BLOCKS), n = 1 + below(70);
        bool is_allocated = first + n <= MODEL_BLOCKS;
        for (uint32_t i = first; i < first + n && is_allocated; i++)
            is_allocated = model[i] != 0;
        ck_assert_int_eq(arena_is_allocated(a, first, n), is_allocated);
        arena_selfcheck(a);
    }
    arena_destroy(a);
}
END_TEST

/* --- waste --- */

struct load {
    const char *name;
    uint32_t least, most;
    enum { BETWEEN, POWERS, MOSTLY_LEAST } how;
    uint32_t bound; /* of worst_waste() */
};
#define WASTE_BLOCKS 65536u /* 256 MiB; the longest request is 1/64 of it */
#define WASTE_STEPS  40000
/* In blocks; what has a place in the store by itself is longer than 100 KiB, 25 blocks. In 150
 * seeds at most 0, 208, 397, 305, 347 and 366 thousandths were free when a request failed. Somebody
 * who knows where objects lie can do worse to any allocator that moves nothing: if every second
 * block stays, half is free and no two together. */
static const struct load loads[] = {
    {"equal", 256, 256, BETWEEN, 0},
    {"25 .. 256", 25, 256, BETWEEN, 250},
    {"25 .. 1024", 25, 1024, BETWEEN, 450},
    {"powers of two", 32, 1024, POWERS, 350},
    {"mostly 25, some 1024", 25, 1024, MOSTLY_LEAST, 400},
    {"1 .. 1024", 1, 1024, BETWEEN, 400},
};

static uint32_t length_for(const struct load *l)
{
    switch (l->how) {
    case BETWEEN:
        return l->least + below(l->most - l->least + 1);
    case POWERS:
        return l->least << below(6);
    case MOSTLY_LEAST:
        return below(20) == 0 ? l->most : l->least + below(8);
    }
    return 0;
}

/* The most that is free, in 1/1000 of all, when a request fails, while memory is kept as full as it
 * can be by objects of random lives. */
static uint32_t worst_waste(const struct load *l, uint64_t s)
{
    static struct {
        uint32_t first, n;
    } live[WASTE_BLOCKS];
    struct arena *a = arena_create(WASTE_BLOCKS);
    uint32_t n_live = 0;
    uint64_t worst = 0;

    seed = s;
    for (int i = 0; i < WASTE_STEPS; i++) {
        uint32_t n = length_for(l), first;
        while (arena_alloc(a, n, &first) != 0) {
            if (arena_n_free(a) > worst)
                worst = arena_n_free(a);
            uint32_t victim = below(n_live);
            arena_free(a, live[victim].first, live[victim].n);
            live[victim] = live[--n_live];
        }
        live[n_live].first = first;
        live[n_live++].n = n;
    }
    arena_selfcheck(a);
    arena_destroy(a);
    return (uint32_t)(worst * 1000 / WASTE_BLOCKS);
}

START_TEST(waste_is_bounded)
{
    const char *given = getenv("SEEDS");
    uint64_t n_seeds = given != NULL ? strtoull(given, NULL, 0) : 4;

    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        uint32_t worst = 0;
        for (uint64_t s = 0; s < n_seeds; s++) {
            uint32_t w = worst_waste(&loads[i], s);
            worst = w > worst ? w : worst;
        }
        printf("%s: at most %u/1000 free when a request fails\n", loads[i].name, worst);
        ck_assert_uint_le(worst, loads[i].bound);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("arena");
    TCase *tc = tcase_create("arena");

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, all_of_it_can_be_had_at_once_and_again);
    tcase_add_test(tc, a_request_for_all_but_nothing_overflows_no_class);
    tcase_add_test(tc, what_was_freed_last_is_given_first);
    tcase_add_test(tc, pieces_freed_in_any_order_are_one_again);
    tcase_add_loop_test(tc, it_does_what_a_plain_model_does, 0, 8);
    tcase_add_test(tc, waste_is_bounded);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
