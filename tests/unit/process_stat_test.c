/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/process_stat.h"

#include <check.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

START_TEST(test_a_parent_whatever_the_name_is)
{
    char state = '?';

    ck_assert_int_eq(prctl(PR_SET_NAME, ") Z 1 ("), 0);
    ck_assert_int_eq(process_parent(getpid(), &state), getppid());
    ck_assert_int_eq(state, 'R');
    ck_assert_int_eq(process_parent(getpid(), NULL), getppid());
}
END_TEST

START_TEST(test_the_dead_have_a_parent_until_they_are_reaped)
{
    siginfo_t info;
    char state = '?';
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    ck_assert_int_eq(process_parent(pid, &state), getpid());
    ck_assert_int_eq(state, 'Z');
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_int_eq(process_parent(pid, &state), 0);
    ck_assert_int_eq(state, 'Z');
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("process_stat");
    TCase *t = tcase_create("process_stat");

    tcase_add_test(t, test_a_parent_whatever_the_name_is);
    tcase_add_test(t, test_the_dead_have_a_parent_until_they_are_reaped);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
