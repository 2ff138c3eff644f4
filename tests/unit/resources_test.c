/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/resources.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct resources r;

static void setup(void)
{
    resources_init(&r, 4 * RESOURCE_UNIT);
    ck_assert_int_eq(resources_add(&r, "GPU", 2 * RESOURCE_UNIT, NULL), 0);
}

static void teardown(void)
{
    resources_selfcheck(&r);
}

static struct res_set set_of(int64_t cpu, int64_t gpu)
{
    struct res_set s = {0};

    ck_assert_int_eq(res_set_add(&s, &r, "CPU", cpu, NULL), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "GPU", gpu, NULL), 0);
    return s;
}

START_TEST(inv_19_what_is_acquired_and_what_is_left_add_up)
{
    struct res_set s = set_of(15000, 5000);

    ck_assert(resources_acquire(&r, &s));
    ck_assert_int_eq(r.available[0], 25000);
    ck_assert_int_eq(r.available[1], 15000);
    resources_release(&r, &s);
    ck_assert_int_eq(r.available[0], r.total[0]);
    ck_assert_int_eq(r.available[1], r.total[1]);
}
END_TEST

START_TEST(all_or_nothing_is_taken)
{
    struct res_set one_cpu = set_of(10000, 0), too_many = set_of(10000, 20001);

    ck_assert(!resources_acquire(&r, &too_many));
    ck_assert_int_eq(r.available[0], 40000);
    ck_assert_int_eq(r.available[1], 20000);
    for (int i = 0; i < 4; i++)
        ck_assert(resources_acquire(&r, &one_cpu));
    ck_assert(!resources_acquire(&r, &one_cpu));
    ck_assert_int_eq(r.available[0], 0);
}
END_TEST

START_TEST(ten_tenths_of_a_cpu_are_exactly_one)
{
    struct res_set tenth = set_of(1000, 0);

    for (int i = 0; i < 40; i++)
        ck_assert(resources_acquire(&r, &tenth));
    ck_assert(!resources_acquire(&r, &tenth));
}
END_TEST

START_TEST(inv_19_cpu_alone_goes_below_zero_by_unblocking)
{
    struct res_set all = set_of(40000, 20000), one = set_of(1, 0), gpu = set_of(0, 1);

    ck_assert(resources_acquire(&r, &all));
    resources_release_cpu(&r, &all);
    ck_assert_int_eq(r.available[0], 40000);
    ck_assert_int_eq(r.available[1], 0);
    ck_assert(resources_acquire(&r, &one));
    resources_retake_cpu(&r, &all);
    ck_assert_int_eq(r.available[0], -1);
    ck_assert(!resources_acquire(&r, &one));
    ck_assert(!resources_acquire(&r, &gpu));
}
END_TEST

static const struct {
    const char *name;
    int64_t units;
    const char *text;
} bad[] = {
    {"", 1, "a resource's name has 1 to 47 bytes"},
    {"a_name_of_forty_eight_bytes_is_one_too_many_here", 1, "a resource's name has 1 to 47 bytes"},
    {"x", -1, "resource x: the amount must be 0 or more"},
    {"x", RESOURCE_UNITS_MAX + 1, "resource x: the amount must be 0 or more"},
    {"GPU", 1, "resource GPU is given twice"},
    {"CPU", 1, "resource CPU is given twice"},
};

START_TEST(a_bad_resource_is_refused_with_a_sentence_and_changes_nothing)
{
    struct err err;

    ck_assert_int_eq(resources_add(&r, bad[_i].name, bad[_i].units, &err), -1);
    ck_assert_str_eq(err.text, bad[_i].text);
    ck_assert_uint_eq(r.n, 2);
}
END_TEST

START_TEST(a_node_has_sixty_four_resources_and_no_more)
{
    struct err err;
    char name[16];

    for (unsigned i = r.n; i < RESOURCES_MAX; i++) {
        snprintf(name, sizeof name, "r%u", i);
        ck_assert_int_eq(resources_add(&r, name, i, &err), 0);
    }
    ck_assert_int_eq(resources_add(&r, "one_more", 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_FULL);
    struct res_set s = {0};
    ck_assert_int_eq(res_set_add(&s, &r, "r63", 63, &err), 0);
    ck_assert(resources_acquire(&r, &s));
    ck_assert_int_eq(r.available[63], 0);
}
END_TEST

START_TEST(a_set_takes_no_negative_and_no_overflowing_amount)
{
    struct res_set s = {0};
    struct err err;

    ck_assert_int_eq(res_set_add(&s, &r, "CPU", -1, &err), -1);
    ck_assert_int_eq(res_set_add(&s, &r, "CPU", INT64_MIN, &err), -1);
    ck_assert_int_eq(res_set_add(&s, &r, "CPU", INT64_MAX, &err), -1);
    ck_assert_int_eq(s.units[0], 0);
    ck_assert_int_eq(res_set_add(&s, &r, "CPU", RESOURCE_UNITS_MAX, &err), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "CPU", 1, &err), -1);
    ck_assert_str_eq(err.text, "resource CPU: the amount is too large");
    ck_assert_int_eq(s.units[0], RESOURCE_UNITS_MAX);
}
END_TEST

START_TEST(equal_sets_are_equal_whatever_way_they_were_made)
{
    struct res_set a = set_of(10000, 1), b = set_of(10000, 0);

    ck_assert(!res_set_eq(&a, &b));
    ck_assert_int_eq(res_set_add(&b, &r, "GPU", 1, NULL), 0);
    ck_assert(res_set_eq(&a, &b));
    ck_assert_int_eq(res_set_add(&a, &r, "a_long_missing_name", 1, NULL), 0);
    ck_assert(!res_set_eq(&a, &b));
    ck_assert_int_eq(res_set_add(&a, &r, "TPU", 1, NULL), 0);
    ck_assert_int_eq(res_set_add(&b, &r, "TPU", 1, NULL), 0);
    ck_assert(!res_set_eq(&a, &b));
    ck_assert_int_eq(res_set_add(&b, &r, "a_long_missing_name", 1, NULL), 0);
    ck_assert(res_set_eq(&a, &b));
    ck_assert_int_eq(res_set_add(&b, &r, "TPU", 1, NULL), 0);
    ck_assert(!res_set_eq(&a, &b));
}
END_TEST

START_TEST(what_a_node_can_never_give_is_named)
{
    char text[128];
    struct res_set fits = set_of(40000, 20000), eight = set_of(80000, 0), tpu = set_of(0, 0),
                   none = set_of(0, 0);

    ck_assert(resources_is_feasible(&r, &fits));
    resources_say_missing(&r, &fits, text, sizeof text);
    ck_assert_str_eq(text, "");
    ck_assert(!resources_is_feasible(&r, &eight));
    resources_say_missing(&r, &eight, text, sizeof text);
    ck_assert_str_eq(text, "8 CPU, this one has 4");
    ck_assert_int_eq(res_set_add(&tpu, &r, "TPU", 1, NULL), 0);
    ck_assert(!resources_is_feasible(&r, &tpu));
    ck_assert(!resources_acquire(&r, &tpu));
    resources_say_missing(&r, &tpu, text, sizeof text);
    ck_assert_str_eq(text, "0.0001 TPU, this one has none");
    ck_assert_int_eq(res_set_add(&none, &r, "TPU", 0, NULL), 0);
    ck_assert(resources_is_feasible(&r, &none)); /* nothing of it is wanted */
}
END_TEST

START_TEST(names_of_any_length_do_no_harm)
{
    static char name[65536 + 1];
    struct res_set s = {0};
    struct err err;

    memset(name, 'n', sizeof name - 1);
    ck_assert_int_eq(resources_add(&r, name, 1, &err), -1);
    ck_assert_int_eq(res_set_add(&s, &r, name, -1, &err), -1);
    ck_assert_int_eq(res_set_add(&s, &r, name, 1, &err), 0);
    ck_assert_uint_eq(strlen(s.foreign[0].name), RESOURCE_NAME_MAX - 1);
    ck_assert_int_eq(res_set_add(&s, &r, name, RESOURCE_UNITS_MAX, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(s.foreign[0].units, 1);
}
END_TEST

START_TEST(what_the_node_lacks_can_still_be_told_to_another)
{
    struct res_set s = set_of(20000, 0);
    struct res_amount amounts[RES_AMOUNTS_MAX];
    struct err err;
    char name[16];

    ck_assert_int_eq(res_set_add(&s, &r, "TPU", 5, NULL), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "FPGA", 7, NULL), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "NPU", 0, NULL), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "TPU", 1, NULL), 0);
    ck_assert_uint_eq(res_set_list(&s, &r, amounts), 3);
    ck_assert_str_eq(amounts[0].name, "CPU");
    ck_assert_int_eq(amounts[0].units, 20000);
    ck_assert_str_eq(amounts[1].name, "FPGA");
    ck_assert_int_eq(amounts[1].units, 7);
    ck_assert_str_eq(amounts[2].name, "TPU");
    ck_assert_int_eq(amounts[2].units, 6);
    for (unsigned i = s.n_foreign; i < RES_FOREIGN_MAX; i++) {
        snprintf(name, sizeof name, "r%u", i);
        ck_assert_int_eq(res_set_add(&s, &r, name, 1, &err), 0);
    }
    ck_assert_int_eq(res_set_add(&s, &r, "one_more", 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_FULL);
    ck_assert_int_eq(res_set_add(&s, &r, "TPU", 1, &err), 0);
    ck_assert_uint_eq(res_set_list(&s, &r, amounts), 1 + RES_FOREIGN_MAX);
}
END_TEST

START_TEST(inv_19_holds_through_ten_thousand_random_steps)
{
    enum { N = 32 };
    struct res_set held[N];
    int state[N] = {0}; /* 0 free, 1 held, 2 held and blocked */
    unsigned seed = 20261121;

    printf("seed %u\n", seed);
    for (int step = 0; step < 10000; step++) {
        int i = rand_r(&seed) % N;
        if (state[i] == 0) {
            held[i] = set_of(rand_r(&seed) % 15000, rand_r(&seed) % 8000);
            state[i] = resources_acquire(&r, &held[i]);
        } else if (state[i] == 2) {
            resources_retake_cpu(&r, &held[i]);
            state[i] = 1;
        } else if (rand_r(&seed) % 3 == 0) {
            resources_release_cpu(&r, &held[i]);
            state[i] = 2;
        } else {
            resources_release(&r, &held[i]);
            state[i] = 0;
        }
        int64_t used[2] = {0};
        for (int k = 0; k < N; k++) {
            used[0] += state[k] == 1 ? held[k].units[0] : 0;
            used[1] += state[k] != 0 ? held[k].units[1] : 0;
        }
        for (int k = 0; k < 2; k++)
            ck_assert_int_eq(r.available[k] + used[k], r.total[k]);
        resources_selfcheck(&r);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("resources");
    TCase *c = tcase_create("resources");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, inv_19_what_is_acquired_and_what_is_left_add_up);
    tcase_add_test(c, all_or_nothing_is_taken);
    tcase_add_test(c, ten_tenths_of_a_cpu_are_exactly_one);
    tcase_add_test(c, inv_19_cpu_alone_goes_below_zero_by_unblocking);
    tcase_add_loop_test(c,
                        a_bad_resource_is_refused_with_a_sentence_and_changes_nothing,
                        0,
                        (int)(sizeof bad / sizeof bad[0]));
    tcase_add_test(c, a_node_has_sixty_four_resources_and_no_more);
    tcase_add_test(c, a_set_takes_no_negative_and_no_overflowing_amount);
    tcase_add_test(c, equal_sets_are_equal_whatever_way_they_were_made);
    tcase_add_test(c, what_a_node_can_never_give_is_named);
    tcase_add_test(c, names_of_any_length_do_no_harm);
    tcase_add_test(c, what_the_node_lacks_can_still_be_told_to_another);
    tcase_add_test(c, inv_19_holds_through_ten_thousand_random_steps);
    suite_add_tcase(s, c);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
