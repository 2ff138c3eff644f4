/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/dead_workers.h"

#include <check.h>
#include <stdlib.h>

static void add(struct dead_workers *d, int32_t pid)
{
    dead_workers_add(d, &(struct why_dead){.pid = pid, .how = "exited with status 0"});
}

START_TEST(the_oldest_go_first_when_there_are_too_many)
{
    for (size_t max = 1; max < 40; max++) {
        struct dead_workers *d = dead_workers_create(max);
        for (size_t n = 0; n < 3 * max; n++) {
            size_t kept = n < max ? n : max;
            ck_assert_uint_eq(dead_workers_count(d), kept);
            for (size_t i = 0; i < kept; i++)
                ck_assert_int_eq(dead_workers_at(d, i)->pid, (int32_t)(n - kept + i));
            add(d, (int32_t)n);
        }
        dead_workers_destroy(d);
    }
}
END_TEST

START_TEST(none_is_remembered_if_there_is_room_for_none)
{
    struct dead_workers *d = dead_workers_create(0);

    add(d, 1);
    ck_assert_uint_eq(dead_workers_count(d), 0);
    dead_workers_destroy(d);
    dead_workers_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dead_workers");
    TCase *c = tcase_create("dead_workers");

    tcase_add_test(c, the_oldest_go_first_when_there_are_too_many);
    tcase_add_test(c, none_is_remembered_if_there_is_room_for_none);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
