/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_policy.h"

#include <check.h>
#include <stdlib.h>

static const struct worker_pool_config config = {.start_limit = 2, .keep = 3, .max = 8};

static const struct {
    const char *why;
    struct worker_view view;
    unsigned n_to_start, n_surplus;
} cases[] = {
    {"nobody asks, nothing starts", {0}, 0, 0},
    {"one is wanted", {.n_wanted = 1}, 1, 0},
    {"the start limit holds", {.n_wanted = 100}, 2, 0},
    {"those that start count against the limit", {.n_wanted = 100, .n_starting = 1}, 1, 0},
    {"the limit is reached", {.n_wanted = 100, .n_starting = 2}, 0, 0},
    {"one that starts serves one that is wanted", {.n_wanted = 1, .n_starting = 1}, 0, 0},
    {"more start than are wanted after a cancel", {.n_wanted = 1, .n_starting = 2}, 0, 0},
    {"prestart alone", {.n_prestart = 2}, 2, 0},
    {"prestart and wanted are the same workers", {.n_prestart = 1, .n_wanted = 1}, 1, 0},
    {"one place is left", {.n_wanted = 5, .n_leased = 7}, 1, 0},
    {"no place is left", {.n_wanted = 5, .n_leased = 8}, 0, 0},
    {"one that ends is still a process", {.n_wanted = 5, .n_leased = 7, .n_exiting = 1}, 0, 0},
    {"idle ones that are kept", {.n_idle = 3}, 0, 0},
    {"idle ones beyond", {.n_idle = 5}, 0, 2},
    {"leased ones count among the kept", {.n_idle = 2, .n_leased = 2}, 0, 1},
    {"only idle ones can be retired", {.n_idle = 1, .n_leased = 7}, 0, 1},
    {"those that start are not counted", {.n_idle = 3, .n_starting = 2}, 0, 0},
};

START_TEST(each_view_of_the_pool_has_its_answer)
{
    ck_assert_msg(worker_policy_n_to_start(&config, &cases[_i].view) == cases[_i].n_to_start,
                  "%s",
                  cases[_i].why);
    ck_assert_msg(worker_policy_n_surplus(&config, &cases[_i].view) == cases[_i].n_surplus,
                  "%s",
                  cases[_i].why);
}
END_TEST

START_TEST(a_time_is_over_when_its_limit_is_reached_and_not_before)
{
    ck_assert(!worker_policy_is_over(100, 109, 10));
    ck_assert(worker_policy_is_over(100, 110, 10));
    ck_assert(!worker_policy_is_over(100, 50, 10)); /* never by going back */
}
END_TEST

START_TEST(five_failed_starts_in_a_row_are_enough)
{
    ck_assert(!worker_policy_gives_up(0));
    ck_assert(!worker_policy_gives_up(4));
    ck_assert(worker_policy_gives_up(5));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("worker_policy");
    TCase *c = tcase_create("worker_policy");

    tcase_add_loop_test(c,
                        each_view_of_the_pool_has_its_answer,
                        0,
                        (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(c, a_time_is_over_when_its_limit_is_reached_and_not_before);
    tcase_add_test(c, five_failed_starts_in_a_row_are_enough);
    suite_add_tcase(s, c);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
