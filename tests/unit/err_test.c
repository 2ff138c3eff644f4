/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/err.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/assert.h"

START_TEST(set_fills_and_gives_minus_one)
{
    struct err err;

    ck_assert_int_eq(err_set(&err, ERR_NOT_FOUND, "no lease %d", 42), -1);
    ck_assert_int_eq(err.code, ERR_NOT_FOUND);
    ck_assert_str_eq(err.text, "no lease 42");
}
END_TEST

START_TEST(no_err_is_fine)
{
    errno = EMFILE;
    ck_assert_int_eq(err_set(NULL, ERR_FULL, "%s", "x"), -1);
    ck_assert_int_eq(err_sys(NULL, "%s", "x"), -1);
    ck_assert_int_eq(err_prefix(NULL, "%s", "x"), -1);
}
END_TEST

START_TEST(sys_names_errno_and_tells_a_bound_from_the_rest)
{
    static const struct {
        int e;
        enum err_code code;
        const char *remedy;
    } cases[] = {
        {EMFILE, ERR_FULL, "; raise the limit of open files (ulimit -n)"},
        {ENFILE, ERR_FULL, "; raise the system's limit of open files (sysctl fs.file-max)"},
        {ENOSPC, ERR_FULL, ""},
        {EAGAIN, ERR_FULL, "; raise the limit of processes (ulimit -u)"},
        {ENOMEM, ERR_FULL, "; free memory or raise its limit (ulimit -v)"},
        {EBADF, ERR_SYSTEM, ""},
        {EACCES, ERR_SYSTEM, ""},
        {EIO, ERR_SYSTEM, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err err;
        char expected[160];
        snprintf(expected,
                 sizeof expected,
                 "open file 7: %s%s",
                 strerror(cases[i].e),
                 cases[i].remedy);
        errno = cases[i].e;
        ck_assert_int_eq(err_sys(&err, "open %s %d", "file", 7), -1);
        ck_assert_str_eq(err.text, expected);
        ck_assert_int_eq(err.code, cases[i].code);
    }
}
END_TEST

START_TEST(sys_cuts_what_was_tried_and_not_the_reason)
{
    struct err err;
    char path[2 * sizeof err.text];

    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    errno = EMFILE;
    err_sys(&err, "open %s", path);
    ck_assert_uint_eq(strlen(err.text), sizeof err.text - 1);
    ck_assert_ptr_nonnull(strstr(err.text, "xxx: Too many open files; raise the limit"));
    ck_assert_ptr_nonnull(strstr(err.text, "(ulimit -n)"));
}
END_TEST

START_TEST(prefix_gives_context_and_keeps_the_code)
{
    struct err err;

    err_set(&err, ERR_DIED, "killed by signal 9");
    ck_assert_int_eq(err_prefix(&err, "worker %d", 3), -1);
    ck_assert_int_eq(err_prefix(&err, "lease %d", 42), -1);
    ck_assert_int_eq(err.code, ERR_DIED);
    ck_assert_str_eq(err.text, "lease 42: worker 3: killed by signal 9");
}
END_TEST

START_TEST(long_texts_are_cut)
{
    struct {
        struct err err;
        char guard[16];
    } m;
    char word[400];

    memset(m.guard, 0x5a, sizeof m.guard);
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    err_set(&m.err, ERR_INVALID, "%s", word);
    ck_assert_uint_eq(strlen(m.err.text), sizeof m.err.text - 1);
    errno = EIO;
    err_sys(&m.err, "%s", word);
    ck_assert_uint_eq(strlen(m.err.text), sizeof m.err.text - 1);
    err_prefix(&m.err, "short");
    ck_assert_int_eq(strncmp(m.err.text, "short: xxx", 10), 0);
    ck_assert_uint_eq(strlen(m.err.text), sizeof m.err.text - 1);
    err_prefix(&m.err, "%s", word);
    ck_assert_uint_eq(strlen(m.err.text), sizeof m.err.text - 1);
    for (size_t i = 0; i < sizeof m.guard; i++)
        ck_assert_int_eq(m.guard[i], 0x5a);
}
END_TEST

/* Codes travel in frames. */
START_TEST(numbers_are_pinned_and_each_has_a_name)
{
    static const int codes[] = {ERR_NONE,
                                ERR_INVALID,
                                ERR_PROTOCOL,
                                ERR_VERSION,
                                ERR_NOT_FOUND,
                                ERR_EXISTS,
                                ERR_FULL,
                                ERR_NO_MEMORY,
                                ERR_TIMEOUT,
                                ERR_CANCELED,
                                ERR_INFEASIBLE,
                                ERR_START_FAILED,
                                ERR_DIED,
                                ERR_SYSTEM,
                                ERR_AWAY,
                                ERR_DENIED};
    const int n = sizeof codes / sizeof codes[0];

    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(codes[i], i);
        ck_assert_str_ne(err_code_name(codes[i]), "unknown error");
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(err_code_name(codes[i]), err_code_name(codes[k]));
    }
    ck_assert_str_eq(err_code_name((enum err_code)n), "unknown error"); /* a peer's number */
    ck_assert_str_eq(err_code_name((enum err_code)0xffffffff), "unknown error");
}
END_TEST

START_TEST(numbers_that_others_say_have_names)
{
    ck_assert_str_eq(err_signal_name(SIGKILL), "Killed");
    ck_assert_str_eq(err_signal_name(126), "one without a name");
    ck_assert_str_eq(err_errno_name(ENOENT), "No such file or directory");
    ck_assert_str_eq(err_errno_name(-77777), "unknown error");
}
END_TEST

START_TEST(assert_lets_truth_pass)
{
    struct {
        unsigned magic;
    } s = {.magic = 7};

    ASSERT(s.magic == 7);
    CHECK_MAGIC(&s, 7);
}
END_TEST

START_TEST(assert_aborts)
{
    ASSERT(errno == -1);
}
END_TEST

START_TEST(foreign_magic_aborts)
{
    struct {
        unsigned magic;
    } s = {.magic = 7};

    CHECK_MAGIC(&s, 8);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("err");
    TCase *t = tcase_create("err");

    tcase_add_test(t, set_fills_and_gives_minus_one);
    tcase_add_test(t, no_err_is_fine);
    tcase_add_test(t, sys_names_errno_and_tells_a_bound_from_the_rest);
    tcase_add_test(t, sys_cuts_what_was_tried_and_not_the_reason);
    tcase_add_test(t, prefix_gives_context_and_keeps_the_code);
    tcase_add_test(t, long_texts_are_cut);
    tcase_add_test(t, numbers_are_pinned_and_each_has_a_name);
    tcase_add_test(t, numbers_that_others_say_have_names);
    tcase_add_test(t, assert_lets_truth_pass);
    tcase_add_test_raise_signal(t, assert_aborts, SIGABRT);
    tcase_add_test_raise_signal(t, foreign_magic_aborts, SIGABRT);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
