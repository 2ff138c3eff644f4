/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_log.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct worker_log log_file;
static char seen[400000]; /* "name>text" of each piece */
static size_t n_seen;
static char folder[] = "/tmp/worker_log_testXXXXXX";

static void on_lines(void *arg, const struct worker_log *l, const char *text, size_t size)
{
    (void)arg;
    n_seen +=
        (size_t)snprintf(seen + n_seen, sizeof seen - n_seen, "%s>%.*s", l->name, (int)size, text);
}

static void setup(void)
{
    char path[64];
    struct err err;

    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
    ck_assert_int_eq(worker_log_create(&log_file, path, 1, &err), 0);
    n_seen = 0;
    seen[0] = '\0';
}

static void teardown(void)
{
    worker_log_close(&log_file);
    unlink(log_file.path);
    rmdir(folder);
}

static void say(const char *text)
{
    ck_assert_int_eq(write(log_file.fd, text, strlen(text)), (ssize_t)strlen(text));
}

static bool look(bool last)
{
    return worker_log_read(&log_file, last, on_lines, NULL);
}

START_TEST(test_gives_whole_lines)
{
    say("one\ntw");
    ck_assert(!look(false));
    ck_assert_str_eq(seen, ">one\n");
    say("o\n");
    look(false);
    ck_assert_str_eq(seen, ">one\n>two\n");
    say("end");
    look(false);
    look(true);
    ck_assert_str_eq(seen, ">one\n>two\n>end");
}
END_TEST

/* The disk was full in the middle of a marker. */
START_TEST(test_leaves_a_cut_marker_out)
{
    say("line\n:tas");
    look(true);
    ck_assert_str_eq(seen, ">line\n");
}
END_TEST

START_TEST(test_names_the_task)
{
    say("early\n:task_name:f\n1\n2\nhalf:task_name:g\n3\n");
    look(false);
    ck_assert_str_eq(seen, ">early\nf>1\n2\nhalfg>3\n");
}
END_TEST

/* A line that the end of a read cuts is one line still. */
START_TEST(test_does_not_cut_lines_at_a_chunk)
{
    char line[8] = "1234567", *text = calloc(1, 160001);
    unsigned n = 0;

    line[7] = '\n';
    for (int i = 0; i < 20000; i++)
        memcpy(text + 8 * (size_t)i, i % 3 == 0 ? "123456\n\n" : line, 8);
    say("abc\n"); /* so that no chunk ends with a line */
    say(text);
    while (look(true))
        n++;
    ck_assert_uint_eq(n, 2);
    for (const char *p = strchr(seen, '>'); p != NULL; p = strchr(p + 1, '>'))
        ck_assert(p == seen || p[-1] == '\n');
    ck_assert_uint_eq(log_file.offset, 160004);
    free(text);
}
END_TEST

START_TEST(test_a_line_longer_than_a_chunk_goes_on)
{
    char *text = malloc(100001);

    memset(text, 'x', 100000);
    text[100000] = '\0';
    say(text);
    say("\n");
    while (look(false))
        continue;
    ck_assert_uint_eq(n_seen, 100003);
    free(text);
}
END_TEST

START_TEST(test_tail_is_the_last_line_with_text)
{
    char tail[16];

    worker_log_tail(&log_file, tail, sizeof tail);
    ck_assert_str_eq(tail, "");
    say("one\nthe reason\n\n\n");
    worker_log_tail(&log_file, tail, sizeof tail);
    ck_assert_str_eq(tail, "the reason");
}
END_TEST

START_TEST(test_only_an_empty_file_is_removed)
{
    char other[sizeof log_file.path + 8];

    snprintf(other, sizeof other, "%s.other", log_file.path);
    ck_assert_int_eq(rename(log_file.path, other), 0);
    ck_assert_int_eq(fclose(fopen(log_file.path, "w")), 0);
    worker_log_remove_empty(&log_file);
    ck_assert_int_eq(access(log_file.path, F_OK), 0); /* not the one that is open */
    ck_assert_int_eq(rename(other, log_file.path), 0);
    say("a word");
    worker_log_remove_empty(&log_file);
    ck_assert_int_eq(access(log_file.path, F_OK), 0);
    ck_assert_int_eq(ftruncate(log_file.fd, 0), 0);
    worker_log_remove_empty(&log_file);
    ck_assert_int_ne(access(log_file.path, F_OK), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("worker_log");
    TCase *t = tcase_create("worker_log");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_gives_whole_lines);
    tcase_add_test(t, test_leaves_a_cut_marker_out);
    tcase_add_test(t, test_names_the_task);
    tcase_add_test(t, test_does_not_cut_lines_at_a_chunk);
    tcase_add_test(t, test_a_line_longer_than_a_chunk_goes_on);
    tcase_add_test(t, test_tail_is_the_last_line_with_text);
    tcase_add_test(t, test_only_an_empty_file_is_removed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
