/* SPDX-License-Identifier: Apache-2.0 */
/* What a call means while its round is open, durable, or the store away. */
#include "gcs/commit.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct commit *c;
static char told[512];

/* A name as a callback's argument. */
static void *as(const char *name)
{
    return (void *)(uintptr_t)name;
}

static void setup(void)
{
    c = commit_create(&(struct commit_limits){.held_bytes = 1000, .total_bytes = 2000});
    commit_start(c);
    told[0] = '\0';
}

static void teardown(void)
{
    commit_destroy(c);
}

static void note(const char *what, enum err_code code, const char *bytes, size_t size)
{
    size_t n = strlen(told);

    snprintf(told + n, sizeof told - n, "%s:%d:%.*s ", what, (int)code, (int)size, bytes);
}

static void done(void *arg, enum err_code code)
{
    note(arg, code, "", 0);
}

static void value(void *arg, enum err_code code, const void *bytes, size_t size)
{
    note(arg, code, bytes != NULL ? bytes : "", size);
}

static void row(void *arg, enum err_code code, const char *key, const void *bytes, size_t size)
{
    note(key != NULL ? key : arg, code, bytes != NULL ? bytes : "", size);
}

static void number(void *arg, enum err_code code, uint64_t before)
{
    char text[24];

    note(arg, code, text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)before));
}

static void put(const char *key, const char *v, const char *tag)
{
    commit_put(c, "t", key, v, strlen(v), STORE_PUT_ANY, done, as(tag));
}

static void get(const char *key, const char *tag)
{
    commit_get(c, "t", key, value, as(tag));
}

/* What was told since the last look. */
static const char *look(void)
{
    static char last[sizeof told];

    commit_run(c);
    memcpy(last, told, sizeof last);
    told[0] = '\0';
    return last;
}

/* INV-36: nothing is told, a read's answer neither, before what it shows is durable. */
START_TEST(test_a_read_waits_for_what_it_shows)
{
    put("a", "1", "put");
    get("a", "get");
    ck_assert_str_eq(look(), "");
    ck_assert(commit_begin_round(c));
    put("a", "2", "late");
    ck_assert_str_eq(look(), "");
    commit_end_round(c);
    ck_assert_str_eq(look(), "put:0: get:0:1 ");
}
END_TEST

START_TEST(test_what_is_called_during_a_round_is_in_the_next)
{
    struct commit_change change;
    const void *at = NULL;

    put("a", "1", "a");
    ck_assert(commit_begin_round(c));
    put("b", "2", "b");
    ck_assert(commit_begin_round(c)); /* the same one */
    ck_assert(commit_round_next(c, &at, &change));
    ck_assert_str_eq(change.key, "a");
    ck_assert(!commit_round_next(c, &at, &change));
    commit_end_round(c);
    ck_assert(!commit_has_round(c));
    ck_assert_str_eq(look(), "a:0: ");
    ck_assert(commit_begin_round(c));
    commit_end_round(c);
    ck_assert_str_eq(look(), "b:0: ");
    ck_assert(!commit_begin_round(c));
}
END_TEST

START_TEST(test_away_reads_show_what_is_durable)
{
    put("a", "1", "x");
    commit_begin_round(c);
    commit_end_round(c);
    look();
    put("a", "2", "held");
    put("b", "3", "held");
    get("a", "a");
    get("b", "b");
    commit_scan(c, "t", "", row, as("end"));
    ck_assert_str_eq(look(), "");
    commit_set_away(c, true);
    char expected[64];
    snprintf(expected, sizeof expected, "a:0:1 b:%d: a:0:1 end:0: ", ERR_NOT_FOUND);
    ck_assert_str_eq(look(), expected);
    commit_begin_round(c);
    commit_end_round(c);
    ck_assert_str_eq(look(), "held:0: held:0: ");
}
END_TEST

START_TEST(test_away_refusals_that_hang_on_nothing_are_told)
{
    char expected[64];

    commit_set_away(c, true);
    commit_remove(c, "t", "none", done, as("none"));
    commit_put(c, "t", "a", "1", 1, STORE_PUT_NEW, done, as("first"));
    commit_put(c, "t", "a", "1", 1, STORE_PUT_NEW, done, as("second")); /* hangs on the first */
    snprintf(expected, sizeof expected, "none:%d: ", ERR_NOT_FOUND);
    ck_assert_str_eq(look(), expected);
    commit_begin_round(c);
    commit_end_round(c);
    snprintf(expected, sizeof expected, "first:0: second:%d: ", ERR_EXISTS);
    ck_assert_str_eq(look(), expected);
}
END_TEST

START_TEST(test_held_changes_are_bounded)
{
    struct commit_stats stats;
    char big[600] = "";

    memset(big, 'x', sizeof big - 1);
    commit_set_away(c, true);
    put("a", big, "a");
    put("b", big, "b");
    char expected[32];
    snprintf(expected, sizeof expected, "b:%d: ", ERR_FULL);
    ck_assert_str_eq(look(), expected);
    commit_begin_round(c);
    commit_end_round(c);
    ck_assert_str_eq(look(), "a:0: ");
    put("b", big, "b");
    commit_begin_round(c);
    commit_end_round(c);
    ck_assert_str_eq(look(), "b:0: ");
    put("c", big, "c"); /* no room for a third row */
    snprintf(expected, sizeof expected, "c:%d: ", ERR_FULL);
    ck_assert_str_eq(look(), expected);
    commit_remove(c, "t", "a", done, as("remove"));
    put("c", big, "c");
    commit_begin_round(c);
    commit_end_round(c);
    ck_assert_str_eq(look(), "remove:0: c:0: ");
    commit_stats(c, &stats);
    ck_assert_uint_eq(stats.held_bytes, 0);
    ck_assert_uint_eq(stats.n_open, 0);
}
END_TEST

START_TEST(test_nothing_is_served_before_the_rows_are_loaded)
{
    struct commit *fresh =
        commit_create(&(struct commit_limits){.held_bytes = 1000, .total_bytes = 2000});
    char expected[64];

    commit_put(fresh, "t", "a", "1", 1, STORE_PUT_ANY, done, as("put"));
    commit_get(fresh, "t", "a", value, as("get"));
    commit_count(fresh, "n", 1, number, as("count"));
    commit_run(fresh);
    snprintf(expected,
             sizeof expected,
             "put:%d: get:%d: count:%d:0 ",
             ERR_AWAY,
             ERR_AWAY,
             ERR_AWAY);
    ck_assert_str_eq(told, expected);
    told[0] = '\0';
    commit_load(fresh, "t", "a", "7", 1);
    commit_load(fresh, "t", "a", "8", 1); /* a scan may show a row twice */
    commit_load(fresh, STORE_COUNTERS, "n", "41", 2);
    commit_start(fresh);
    commit_get(fresh, "t", "a", value, as("get"));
    commit_count(fresh, "n", 1, number, as("count"));
    commit_begin_round(fresh);
    commit_end_round(fresh);
    commit_run(fresh);
    ck_assert_str_eq(told, "get:0:8 count:0:41 ");
    commit_destroy(fresh);
}
END_TEST

/* Against a model: rounds that end when they like, a store that is away when it likes. */
START_TEST(test_random_calls)
{
    enum { KEYS = 5 };
    int latest[KEYS] = {0}, shown;
    unsigned seed = 7;

    for (unsigned step = 0; step < 20000; step++) {
        unsigned dice = (unsigned)rand_r(&seed), k = dice / 16 % KEYS;
        char key[2] = {(char)('a' + k), '\0'}, text[16];
        switch (dice % 8) {
        case 0:
        case 1:
            latest[k] = (int)step + 1;
            snprintf(text, sizeof text, "%u", step + 1);
            put(key, text, "p");
            break;
        case 2:
            latest[k] = 0;
            commit_remove(c, "t", key, done, as("r"));
            break;
        case 3:
            commit_begin_round(c);
            break;
        case 4:
            commit_set_away(c, (dice & 0x1000) != 0);
            look();
            break;
        default:
            commit_begin_round(c);
            commit_end_round(c);
            commit_begin_round(c);
            commit_end_round(c);
            look();
            get(key, "g");
            commit_set_away(c, (dice & 0x1000) != 0);
            shown = 0;
            sscanf(look(), "g:0:%d", &shown);
            ck_assert_int_eq(shown, latest[k]);
            break;
        }
        commit_begin_round(c);
        if ((dice & 0x300) == 0)
            commit_end_round(c);
        struct commit_stats stats;
        commit_stats(c, &stats);
        if (stats.held_bytes > 500) {
            commit_end_round(c);
            commit_begin_round(c);
            commit_end_round(c);
            look();
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("commit");
    TCase *t = tcase_create("commit");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_a_read_waits_for_what_it_shows);
    tcase_add_test(t, test_what_is_called_during_a_round_is_in_the_next);
    tcase_add_test(t, test_away_reads_show_what_is_durable);
    tcase_add_test(t, test_away_refusals_that_hang_on_nothing_are_told);
    tcase_add_test(t, test_held_changes_are_bounded);
    tcase_add_test(t, test_nothing_is_served_before_the_rows_are_loaded);
    tcase_add_test(t, test_random_calls);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
