/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/seek.h"

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { OWNER = 5, OTHER = 6, TICKET = 77, PLACE = 9, HAD = 4 };

static const struct transfer_key key = {.counter = 1, .owner = OWNER, .index = 2, .attempt = 3};
static struct seeks *s;
static struct seek_actions out;

static void setup(void)
{
    s = seeks_create();
}

static void teardown(void)
{
    seeks_destroy(s);
    free(out.v);
    out = (struct seek_actions){0};
}

/* What came out since the last look, as text. */
static const char *seen(void)
{
    static const char *const words[] = {"ask", "keep", "answer"};
    static char text[4096];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < out.n; i++) {
        const struct seek_action *a = &out.v[i];
        ck_assert_uint_eq(a->key.counter, key.counter);
        ck_assert_uint_eq(a->key.attempt, key.attempt);
        ck_assert_uint_eq(a->owner, a->key.owner);
        n += (size_t)snprintf(text + n,
                              sizeof text - n,
                              "%s%s %u",
                              i == 0 ? "" : ", ",
                              words[a->kind],
                              a->node);
        if (a->kind == SEEK_ANSWER)
            n += (size_t)snprintf(text + n,
                                  sizeof text - n,
                                  " at %d/%d for %d",
                                  (int)a->place,
                                  (int)a->offset,
                                  (int)a->ticket);
    }
    out.n = 0;
    return text;
}

/* Returns its id. */
static uint64_t begin(uint32_t n, uint64_t now_ms)
{
    static const uint32_t nodes[] = {1, 2, 3};

    seek_begin(s, &key, TICKET, HAD, nodes, n, now_ms, &out);
    return out.v[0].id;
}

static void has(uint64_t id, uint32_t node, uint64_t place)
{
    seek_on_answer(s, id, node, false, place, 0, &out);
}

static void kept(uint64_t id, uint32_t node, uint64_t place)
{
    seek_on_answer(s, id, node, true, place, 8, &out);
}

START_TEST(the_first_that_has_one_keeps_it)
{
    uint64_t id = begin(3, 0);

    ck_assert_str_eq(seen(), "ask 1, ask 2, ask 3");
    has(id, 1, 0);
    ck_assert_str_eq(seen(), "");
    has(id, 3, PLACE);
    ck_assert_str_eq(seen(), "keep 3");
    has(id, 2, PLACE); /* one is enough */
    ck_assert_str_eq(seen(), "");
    kept(id, 3, PLACE);
    ck_assert_str_eq(seen(), "answer 3 at 9/8 for 77");
    ck_assert_uint_eq(seek_count(s), 0);
    kept(id, 3, PLACE);
    has(id, 2, PLACE);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(it_may_be_evicted_before_it_is_kept)
{
    uint64_t id = begin(3, 0);

    seen();
    has(id, 1, PLACE);
    has(id, 2, PLACE);
    ck_assert_str_eq(seen(), "keep 1");
    kept(id, 1, 0);
    ck_assert_str_eq(seen(), "keep 2");
    kept(id, 2, 0);
    ck_assert_str_eq(seen(), ""); /* one has not said */
    has(id, 3, 0);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
}
END_TEST

START_TEST(nodes_may_die)
{
    uint64_t id = begin(3, 0);

    seen();
    has(id, 1, PLACE);
    has(id, 2, PLACE);
    ck_assert_str_eq(seen(), "keep 1");
    seek_on_node_lost(s, 2, &out);
    ck_assert_str_eq(seen(), "");
    seek_on_node_lost(s, 9, &out); /* that was not asked */
    seek_on_node_lost(s, 1, &out); /* while it was to keep it */
    ck_assert_str_eq(seen(), "");
    kept(id, 1, PLACE); /* its last word came late */
    ck_assert_str_eq(seen(), "");
    seek_on_node_lost(s, 3, &out);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
    ck_assert_uint_eq(seek_count(s), 0);
}
END_TEST

START_TEST(there_are_never_two_primary_copies)
{
    const uint32_t nodes[] = {1, HAD, 2};

    for (int i = 0; i < 3; i++) {
        seek_begin(s, &key, TICKET, HAD, nodes, 3, 0, &out);
        uint64_t id = out.v[0].id;
        ck_assert_str_eq(seen(), "ask 1, ask 4, ask 2");
        has(id, 1, PLACE);
        ck_assert_str_eq(seen(), ""); /* the one that had it may have it still */
        if (i == 0)
            has(id, HAD, PLACE);
        else if (i == 1)
            has(id, HAD, 0);
        else
            seek_on_node_lost(s, HAD, &out);
        ck_assert_str_eq(seen(), i == 0 ? "keep 4" : "keep 1");
        kept(id, i == 0 ? HAD : 1, PLACE);
        ck_assert_uint_eq(seek_count(s), 0);
        seen();
    }
    seek_begin(s, &key, TICKET, HAD, nodes, 3, 0, &out);
    has(out.v[0].id, 1, PLACE);
    seen();
    seek_on_time(s, SEEK_MS, &out);
    ck_assert_str_eq(seen(), "keep 1");
}
END_TEST

START_TEST(a_silent_node_is_waited_for_only_so_long)
{
    uint64_t id = begin(2, 1000);

    begin(2, 2000);
    seen();
    has(id, 1, 0);
    ck_assert_uint_eq(seek_next_deadline(s), 1000 + SEEK_MS);
    seek_on_time(s, 999 + SEEK_MS, &out);
    ck_assert_str_eq(seen(), "");
    seek_on_time(s, 1000 + SEEK_MS, &out);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
    ck_assert_uint_eq(seek_next_deadline(s), 2000 + SEEK_MS);
    ck_assert_uint_eq(seek_count(s), 1);
}
END_TEST

START_TEST(who_is_to_keep_it_is_waited_for)
{
    uint64_t id = begin(2, 0);

    seen();
    has(id, 1, PLACE);
    seek_on_time(s, SEEK_MS, &out);
    ck_assert_str_eq(seen(), "keep 1");
    ck_assert_uint_eq(seek_next_deadline(s), UINT64_MAX);
    has(id, 2, PLACE); /* too late */
    kept(id, 1, 0);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
}
END_TEST

START_TEST(nobody_to_be_asked_is_an_answer)
{
    begin(0, 0);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
    ck_assert_uint_eq(seek_count(s), 0);
    ck_assert_uint_eq(seek_next_deadline(s), UINT64_MAX);
}
END_TEST

START_TEST(an_owner_that_is_gone_is_not_answered)
{
    struct transfer_key other = key;
    uint64_t id = begin(1, 0);
    const uint32_t node = 1;

    other.owner = OTHER;
    seek_begin(s, &other, TICKET + 1, HAD, &node, 1, 0, &out);
    seek_on_owner_gone(s, OWNER);
    seen();
    ck_assert_uint_eq(seek_count(s), 1);
    has(id, 1, PLACE);
    ck_assert_str_eq(seen(), "");
    has(id + 1, 1, 0);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 78");
}
END_TEST

START_TEST(what_nobody_was_asked_is_no_answer)
{
    uint64_t id = begin(2, 0);

    seen();
    kept(id, 1, PLACE); /* it was not to keep it */
    has(id, 3, PLACE);
    has(0, 1, PLACE);
    has(id + 1, 1, PLACE);
    has(id, 1, 0);
    has(id, 1, PLACE); /* twice */
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(an_owner_cannot_ask_without_end)
{
    for (int i = 0; i < SEEK_MAX; i++)
        begin(1, 0);
    out.n = 0;
    begin(1, 0);
    ck_assert_str_eq(seen(), "answer 0 at 0/0 for 77");
    ck_assert_uint_eq(seek_count(s), SEEK_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("seek");
    TCase *t = tcase_create("seek");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, the_first_that_has_one_keeps_it);
    tcase_add_test(t, it_may_be_evicted_before_it_is_kept);
    tcase_add_test(t, nodes_may_die);
    tcase_add_test(t, there_are_never_two_primary_copies);
    tcase_add_test(t, a_silent_node_is_waited_for_only_so_long);
    tcase_add_test(t, who_is_to_keep_it_is_waited_for);
    tcase_add_test(t, nobody_to_be_asked_is_an_answer);
    tcase_add_test(t, an_owner_that_is_gone_is_not_answered);
    tcase_add_test(t, what_nobody_was_asked_is_no_answer);
    tcase_add_test(t, an_owner_cannot_ask_without_end);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
