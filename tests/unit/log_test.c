/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/log.h"

#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int file;
static char text[8192];

static void setup(void)
{
    file = memfd_create("log", MFD_CLOEXEC);
    ck_assert_int_ge(file, 0);
    log_set_fd(file);
    log_threshold = LOG_LEVEL_INFO;
}

static void teardown(void)
{
    log_set_fd(-1);
    close(file);
}

static const char *written(void)
{
    ssize_t n = pread(file, text, sizeof text - 1, 0);

    ck_assert_int_ge(n, 0);
    text[n] = '\0';
    return text;
}

START_TEST(line_is_logfmt)
{
    int year, month, day, hour, minute, second, ms, end = 0;

    log_warn("pool", "spawn", "token=%d msg=\"%s\"", 7, "two words");
    sscanf(written(),
           "ts=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n",
           &year,
           &month,
           &day,
           &hour,
           &minute,
           &second,
           &ms,
           &end);
    ck_assert_int_eq(end, 28);
    ck_assert_str_eq(text + end,
                     "level=warn component=pool event=spawn token=7 msg=\"two words\"\n");
}
END_TEST

START_TEST(levels_below_the_threshold_cost_no_evaluation)
{
    int evaluated = 0;

    log_debug("c", "e", "n=%d", ++evaluated);
    ck_assert_int_eq(evaluated, 0);
    ck_assert_str_eq(written(), "");
    log_threshold = LOG_LEVEL_DEBUG;
    log_debug("c", "e", "n=%d", ++evaluated);
    ck_assert_int_eq(evaluated, 1);
    ck_assert_ptr_nonnull(strstr(written(), "level=debug"));
    log_threshold = LOG_LEVEL_BROKEN;
    log_err("c", "e", "n=%d", ++evaluated);
    ck_assert_int_eq(evaluated, 1);
    log_broken("c", "bug", "n=%d", 1);
    ck_assert_ptr_nonnull(strstr(written(), "level=broken component=c event=bug n=1\n"));
}
END_TEST

START_TEST(one_call_is_one_line)
{
    char word[5000];

    log_err("c", "e", "msg=\"%s\"", "forged\nts=now level=broken\n");
    ck_assert_ptr_eq(strchr(written(), '\n'), text + strlen(text) - 1);
    ck_assert_int_eq(ftruncate(file, 0), 0);
    ck_assert_int_eq(lseek(file, 0, SEEK_SET), 0);
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    log_err("c", "e", "msg=%s", word); /* cut, still a line */
    ck_assert_ptr_eq(strchr(written(), '\n'), text + strlen(text) - 1);
    ck_assert_uint_gt(strlen(text), 500);
    ck_assert_uint_lt(strlen(text), 4096);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, line_is_logfmt);
    tcase_add_test(t, levels_below_the_threshold_cost_no_evaluation);
    tcase_add_test(t, one_call_is_one_line);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
