/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/log.h"

#include <check.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/remove_tree.h"

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

/* --- rotation --- */

#define LIMIT 2000

static char dir[64], path[80];

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/log_test_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/log", dir);
}

static void remove_dir(void)
{
    log_close();
    remove_tree(dir);
}

/* Of backup k, 0 being the file itself; -1: there is none. */
static off_t size_of(unsigned k)
{
    char name[sizeof path + 16];
    struct stat st;

    snprintf(name, sizeof name, k == 0 ? "%s" : "%s.%u", path, k);
    return stat(name, &st) == 0 ? st.st_size : -1;
}

/* The number in each line, oldest first; how many. */
static size_t read_numbers(unsigned n_backups, int *out, size_t max)
{
    size_t n = 0;

    for (unsigned k = n_backups + 1; k-- > 0;) {
        char name[sizeof path + 16], line[2048];
        snprintf(name, sizeof name, k == 0 ? "%s" : "%s.%u", path, k);
        FILE *f = fopen(name, "re");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            const char *at = strstr(line, " n=");
            ck_assert_msg(at != NULL && line[strlen(line) - 1] == '\n', "a whole line: %s", line);
            ck_assert_uint_lt(n, max);
            out[n++] = (int)strtol(at + 3, NULL, 10);
        }
        if (f != NULL)
            fclose(f);
    }
    return n;
}

START_TEST(a_file_that_is_full_is_set_aside_and_the_oldest_dropped)
{
    int numbers[400];
    size_t n;

    ck_assert_int_eq(log_open(path, LIMIT, 2, NULL), 0);
    for (int i = 0; i < 300; i++)
        log_info("c", "e", "n=%d", i);
    for (unsigned k = 0; k <= 2; k++)
        ck_assert_int_lt(size_of(k), LIMIT + 100);
    ck_assert_int_ge(size_of(1), LIMIT);
    ck_assert_int_ge(size_of(2), LIMIT);
    ck_assert_int_eq(size_of(3), -1);
    n = read_numbers(2, numbers, 400);
    ck_assert_uint_gt(n, 2 * LIMIT / 100);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(numbers[i], 300 - (int)n + (int)i);
}
END_TEST

START_TEST(what_stood_in_it_counts)
{
    char filler[LIMIT];

    memset(filler, 'x', sizeof filler);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(write(fd, filler, sizeof filler), (ssize_t)sizeof filler);
    close(fd);
    ck_assert_int_eq(log_open(path, LIMIT, 1, NULL), 0);
    log_info("c", "e", "n=%d", 1);
    ck_assert_int_gt(size_of(1), LIMIT);
    ck_assert_int_eq(size_of(0), 0);
}
END_TEST

START_TEST(without_backups_it_begins_anew_and_without_a_limit_never)
{
    for (uint64_t limit = 0; limit <= LIMIT; limit += LIMIT) {
        ck_assert_int_eq(log_open(path, limit, 0, NULL), 0);
        for (int i = 0; i < 300; i++)
            log_info("c", "e", "n=%d", i);
        if (limit == 0)
            ck_assert_int_gt(size_of(0), 300 * 50);
        else
            ck_assert_int_lt(size_of(0), LIMIT + 100);
        ck_assert_int_eq(size_of(1), -1);
        log_close();
    }
}
END_TEST

START_TEST(standard_error_goes_along)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat there, error;

    dup2(fd, STDERR_FILENO);
    close(fd);
    ck_assert_int_eq(log_open(path, LIMIT, 1, NULL), 0);
    for (int i = 0; i < 300; i++)
        log_info("c", "e", "n=%d", i);
    ck_assert_int_eq(stat(path, &there), 0);
    ck_assert_int_eq(fstat(STDERR_FILENO, &error), 0);
    ck_assert_uint_eq(there.st_ino, error.st_ino);
}
END_TEST

START_TEST(several_processes_rotate_one_file_and_lose_no_line)
{
    enum { N = 4, LINES = 200, BACKUPS = 200 };
    static int numbers[N * LINES + 1];
    bool seen[N * LINES] = {false};

    for (int k = 0; k < N; k++) {
        if (fork() != 0)
            continue;
        if (log_open(path, LIMIT, BACKUPS, NULL) != 0)
            _exit(1);
        for (int i = 0; i < LINES; i++)
            log_info("c", "e", "n=%d", k * LINES + i);
        _exit(0);
    }
    for (int k = 0, status; k < N; k++) {
        ck_assert_int_gt(wait(&status), 0);
        ck_assert_int_eq(status, 0);
    }
    ck_assert_int_ge(size_of(1), 0);
    ck_assert_uint_eq(read_numbers(BACKUPS, numbers, N * LINES + 1), N * LINES);
    for (int i = 0; i < N * LINES; i++) {
        ck_assert(!seen[numbers[i]]);
        seen[numbers[i]] = true;
    }
}
END_TEST

/* As on a full disk: no new file can be made. */
START_TEST(what_cannot_be_rotated_goes_on_and_is_later)
{
    struct rlimit old, none;
    int numbers[700];

    ck_assert_int_eq(log_open(path, LIMIT, 1, NULL), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (int i = 0; i < 300; i++)
        log_info("c", "e", "n=%d", i);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    ck_assert_int_eq(size_of(1), -1);
    ck_assert_uint_eq(read_numbers(0, numbers, 700), 300);
    log_info("c", "e", "n=%d", 300);
    ck_assert_uint_eq(read_numbers(1, numbers, 700), 301);
    ck_assert_int_ge(size_of(1), LIMIT);
}
END_TEST

START_TEST(a_file_that_was_removed_is_made_again)
{
    int numbers[4];

    ck_assert_int_eq(log_open(path, LIMIT, 1, NULL), 0);
    log_info("c", "e", "n=%d", 0);
    ck_assert_int_eq(unlink(path), 0);
    log_info("c", "e", "n=%d", 1); /* into what has no name any more */
    log_info("c", "e", "n=%d", 2);
    ck_assert_uint_eq(read_numbers(0, numbers, 4), 1);
    ck_assert_int_eq(numbers[0], 2);
}
END_TEST

START_TEST(a_file_that_cannot_be_opened_is_an_error)
{
    struct err err;

    ck_assert_int_eq(log_open(dir, LIMIT, 1, &err), -1);
    ck_assert_ptr_nonnull(strstr(err.text, dir));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    TCase *c = tcase_create("rotation");

    tcase_add_checked_fixture(c, make_dir, remove_dir);
    tcase_add_test(c, a_file_that_is_full_is_set_aside_and_the_oldest_dropped);
    tcase_add_test(c, what_stood_in_it_counts);
    tcase_add_test(c, without_backups_it_begins_anew_and_without_a_limit_never);
    tcase_add_test(c, standard_error_goes_along);
    tcase_add_test(c, several_processes_rotate_one_file_and_lose_no_line);
    tcase_add_test(c, what_cannot_be_rotated_goes_on_and_is_later);
    tcase_add_test(c, a_file_that_was_removed_is_made_again);
    tcase_add_test(c, a_file_that_cannot_be_opened_is_an_error);
    suite_add_tcase(s, c);

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
