/* SPDX-License-Identifier: Apache-2.0 */
/* Who lives, and in which order that changed. */
#include "gcs/node_sync.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct node_sync *s;
static uint64_t now;

static struct node_view view(uint8_t mark)
{
    struct node_view v = {.id = {.bytes = {mark}}, .number = mark, .is_alive = true};

    v.n_resources = 1;
    snprintf(v.resources[0].name, sizeof v.resources[0].name, "CPU");
    v.resources[0].total = v.resources[0].available = 4 * NODE_RESOURCE_UNIT;
    return v;
}

static struct node_sync_row *add(uint8_t mark)
{
    struct node_view v = view(mark);

    return node_sync_add(s, &v);
}

/* Punctual ticks. */
static void pass(uint64_t ms)
{
    for (uint64_t end = now + ms; now < end;) {
        now += NODE_SYNC_TICK_MS;
        node_sync_on_time(s, now);
    }
}

static void report(struct node_sync_row *row, int64_t available, uint64_t number)
{
    struct node_view v = view((uint8_t)row->number);

    v.resources[0].available = available;
    node_sync_report(s, row, &v, number);
}

/* The marks of what changed after that version. */
static const char *changed_after(uint64_t version)
{
    static char text[100];
    size_t n = 0;

    text[0] = '\0';
    for (const struct node_sync_row *r = node_sync_after(s, version); r != NULL;
         r = node_sync_next(s, r))
        n += (size_t)snprintf(text + n, sizeof text - n, "%u ", r->number);
    return text;
}

static void setup(void)
{
    s = node_sync_create(0);
    now = 1000;
    node_sync_on_time(s, now);
}

static void teardown(void)
{
    node_sync_destroy(s);
}

START_TEST(test_changes_are_told_in_their_order_each_once)
{
    struct node_sync_row *a = add(1), *b = add(2);
    uint64_t before = node_sync_version(s);

    add(3);
    ck_assert_str_eq(changed_after(0), "1 2 3 ");
    ck_assert_str_eq(changed_after(before), "3 ");
    report(a, 1, 1);
    report(b, 2, 1);
    report(a, 3, 2);
    ck_assert_str_eq(changed_after(before), "3 2 1 ");
    ck_assert_uint_eq(a->view->version, node_sync_version(s));
    ck_assert_str_eq(changed_after(node_sync_version(s)), "");
    ck_assert_ptr_eq(add(1), a); /* again: no news */
    ck_assert_str_eq(changed_after(a->version), "");
}
END_TEST

/* INV-37: the newest report wins. */
START_TEST(test_inv_37_a_late_report_is_a_heartbeat_alone)
{
    struct node_sync_row *a = add(1);

    report(a, 10, 5);
    uint64_t version = node_sync_version(s);
    report(a, 20, 4);
    ck_assert_int_eq(a->view->resources[0].available, 10);
    ck_assert_uint_eq(node_sync_version(s), version);
    report(a, 10, 6); /* nothing new is no news */
    ck_assert_uint_eq(node_sync_version(s), version);
}
END_TEST

START_TEST(test_silence_is_found_the_most_silent_first)
{
    struct node_sync_row *a = add(1), *b = add(2);

    pass(NODE_SYNC_SILENCE_MS - NODE_SYNC_TICK_MS);
    ck_assert_ptr_null(node_sync_find_silent(s));
    report(a, 1, 1);
    pass(NODE_SYNC_TICK_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), b);
    ck_assert(node_sync_set_dying(b));
    ck_assert(!node_sync_set_dying(b));
    ck_assert_ptr_null(node_sync_find_silent(s));
    pass(NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), a);
}
END_TEST

START_TEST(test_a_driver_may_be_silent_for_longer)
{
    struct node_view v = view(1);

    v.is_driver = true;
    struct node_sync_row *driver = node_sync_add(s, &v), *node = add(2);
    pass(NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), node);
    ck_assert(node_sync_set_dying(node));
    pass(NODE_SYNC_DRIVER_MS - NODE_SYNC_SILENCE_MS - NODE_SYNC_TICK_MS);
    ck_assert_ptr_null(node_sync_find_silent(s));
    pass(NODE_SYNC_TICK_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), driver);
    ck_assert_uint_eq(node_sync_silence_ms(s, driver), NODE_SYNC_DRIVER_MS);
}
END_TEST

START_TEST(test_time_in_which_nobody_listened_is_no_silence)
{
    add(1);
    for (int i = 0; i < 11; i++) {
        now += 3600000;
        node_sync_on_time(s, now);
    }
    ck_assert_ptr_null(node_sync_find_silent(s));
    now += 3600000;
    node_sync_on_time(s, now);
    ck_assert_ptr_nonnull(node_sync_find_silent(s));
}
END_TEST

static struct node_sync_row *add_head(uint8_t mark)
{
    struct node_view v = view(mark);

    v.is_head = true;
    return node_sync_add(s, &v);
}

/* The head's own node is heard of by whatever way, the others are not. */
static void pass_with(struct node_sync_row *head, uint64_t ms)
{
    for (uint64_t end = now + ms; now < end;) {
        pass(NODE_SYNC_TICK_MS);
        report(head, 1, 0);
    }
}

START_TEST(test_the_silence_of_all_others_is_waited_for)
{
    struct node_sync_row *head = add_head(1), *a = add(2), *b = add(3);

    node_sync_set_patience(s, 30000);
    pass_with(head, 1000);
    report(a, 1, 1); /* so the two are not silent since the same tick */
    pass_with(head, 15000);
    ck_assert(node_sync_is_waiting(s));
    ck_assert_ptr_null(node_sync_find_silent(s));
    report(a, 1, 2);
    pass_with(head, NODE_SYNC_TICK_MS);
    ck_assert(!node_sync_is_waiting(s));
    for (int i = 0; i < 5; i++) { /* b has as much time as ever */
        ck_assert_ptr_null(node_sync_find_silent(s));
        pass_with(head, 1000);
        report(a, 1, 3);
    }
    pass_with(head, 1500);
    ck_assert(!node_sync_is_waiting(s));
    ck_assert_ptr_eq(node_sync_find_silent(s), b);
}
END_TEST

START_TEST(test_the_silence_of_all_others_is_not_waited_for_without_end)
{
    struct node_sync_row *head = add_head(1);

    add(2);
    add(3);
    node_sync_set_patience(s, 30000);
    pass_with(head, 30000 + NODE_SYNC_SILENCE_MS - NODE_SYNC_TICK_MS);
    ck_assert_ptr_null(node_sync_find_silent(s));
    pass_with(head, NODE_SYNC_TICK_MS);
    ck_assert_ptr_nonnull(node_sync_find_silent(s));
    ck_assert(!node_sync_is_waiting(s));
}
END_TEST

START_TEST(test_one_of_two_machines_is_not_waited_for)
{
    struct node_sync_row *head = add_head(1), *a = add(2);

    node_sync_set_patience(s, 30000);
    pass_with(head, NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), a);
}
END_TEST

/* One after the other: while the second was heard of, the GCS was not cut off. */
START_TEST(test_machines_that_fall_silent_one_by_one_are_not_waited_for)
{
    struct node_sync_row *head = add_head(1), *a = add(2), *b = add(3);

    node_sync_set_patience(s, 30000);
    pass_with(head, NODE_SYNC_ALONE_MS);
    report(b, 1, 1);
    pass_with(head, NODE_SYNC_SILENCE_MS - NODE_SYNC_ALONE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), a);
    node_sync_set_dying(a);
    pass_with(head, NODE_SYNC_ALONE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), b);
}
END_TEST

/* INV-6: death is final. */
START_TEST(test_inv_6_the_dead_stay_dead)
{
    struct node_sync_row *a = add(1);
    uint64_t version = node_sync_version(s);

    node_sync_set_dying(a);
    report(a, 1, 1);
    ck_assert_uint_eq(node_sync_version(s), version);
    node_sync_set_dead(s, a, "why");
    ck_assert_str_eq(changed_after(version), "1 ");
    ck_assert_str_eq(a->view->death, "why");
    ck_assert(!a->view->is_alive);
    version = node_sync_version(s);
    node_sync_set_dead(s, a, "another");
    node_sync_revive(s, a);
    report(a, 1, 2);
    add(1);
    ck_assert_int_eq(a->state, NODE_SYNC_DEAD);
    ck_assert_str_eq(a->death, "why");
    ck_assert_uint_eq(node_sync_version(s), version);
    node_sync_shrink(a); /* not packed yet */
    ck_assert_ptr_nonnull(a->view);
    a->packed = strdup("x");
    node_sync_shrink(a);
    ck_assert_ptr_null(a->view);
    pass(2 * NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_null(node_sync_find_silent(s));
}
END_TEST

START_TEST(test_a_death_that_was_not_written_is_none)
{
    struct node_sync_row *a = add(1);

    pass(NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), a);
    node_sync_set_dying(a);
    node_sync_revive(s, a);
    ck_assert_ptr_null(node_sync_find_silent(s));
    pass(NODE_SYNC_SILENCE_MS);
    ck_assert_ptr_eq(node_sync_find_silent(s), a);
}
END_TEST

START_TEST(test_many_nodes_are_found)
{
    for (unsigned i = 1; i <= 3000; i++) {
        struct node_view v = view(0);
        v.id.bytes[3] = (uint8_t)i;
        v.id.bytes[20] = (uint8_t)(i >> 8);
        v.number = i;
        v.is_alive = i % 3 != 0;
        snprintf(v.death, sizeof v.death, "long ago");
        node_sync_add(s, &v);
    }
    for (unsigned i = 1; i <= 3000; i++) {
        struct unique_id id = {.bytes = {[3] = (uint8_t)i, [20] = (uint8_t)(i >> 8)}};
        const struct node_sync_row *row = node_sync_find(s, &id);
        ck_assert_uint_eq(row->number, i);
        ck_assert_int_eq(row->state, i % 3 != 0 ? NODE_SYNC_ALIVE : NODE_SYNC_DEAD);
        if (i % 100 == 0)
            ck_assert_ptr_eq(node_sync_find_number(s, i), row);
    }
    ck_assert_ptr_null(node_sync_find(s, &(struct unique_id){.bytes = {9}}));
    ck_assert_ptr_null(node_sync_find_number(s, 3001));
}
END_TEST

/* The number of the one to be forgotten; 0: none. */
static uint32_t surplus(size_t keep)
{
    const struct node_sync_row *row = node_sync_find_surplus(s, keep);

    return row != NULL ? row->number : 0;
}

START_TEST(test_the_oldest_dead_is_forgotten_when_all_know)
{
    struct node_sync_row *row[6];

    for (uint8_t i = 1; i < 6; i++)
        row[i] = add(i);
    for (int i = 3; i < 6; i++) {
        node_sync_set_dead(s, row[i], "");
        row[i]->died_ms = 100 - (uint64_t)i; /* the last of them died first */
    }
    ck_assert_uint_eq(surplus(3), 0);
    ck_assert_uint_eq(surplus(2), 0); /* nobody knows yet */
    row[1]->knows = node_sync_version(s);
    row[2]->knows = row[5]->version - 1;
    ck_assert_uint_eq(surplus(2), 0);
    ck_assert(node_sync_set_dying(row[2])); /* it may come back */
    ck_assert_uint_eq(surplus(2), 0);
    row[2]->knows = row[5]->version;
    ck_assert_uint_eq(surplus(2), 5);
    node_sync_forget(s, row[5]);
    ck_assert_uint_eq(surplus(2), 0);
    ck_assert_uint_eq(surplus(0), 4);
    ck_assert_ptr_null(node_sync_find_number(s, 5));
    struct unique_id id = {.bytes = {5}};
    ck_assert_ptr_null(node_sync_find(s, &id));
    ck_assert_str_eq(changed_after(0), "1 2 3 4 ");
    node_sync_set_dead(s, row[2], "");
    node_sync_set_dead(s, row[1], "");
    ck_assert_uint_eq(surplus(5), 0);
    ck_assert_uint_eq(surplus(0), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("node_sync");
    TCase *t = tcase_create("node_sync");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_changes_are_told_in_their_order_each_once);
    tcase_add_test(t, test_inv_37_a_late_report_is_a_heartbeat_alone);
    tcase_add_test(t, test_silence_is_found_the_most_silent_first);
    tcase_add_test(t, test_a_driver_may_be_silent_for_longer);
    tcase_add_test(t, test_time_in_which_nobody_listened_is_no_silence);
    tcase_add_test(t, test_the_silence_of_all_others_is_waited_for);
    tcase_add_test(t, test_the_silence_of_all_others_is_not_waited_for_without_end);
    tcase_add_test(t, test_one_of_two_machines_is_not_waited_for);
    tcase_add_test(t, test_machines_that_fall_silent_one_by_one_are_not_waited_for);
    tcase_add_test(t, test_inv_6_the_dead_stay_dead);
    tcase_add_test(t, test_a_death_that_was_not_written_is_none);
    tcase_add_test(t, test_many_nodes_are_found);
    tcase_add_test(t, test_the_oldest_dead_is_forgotten_when_all_know);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
