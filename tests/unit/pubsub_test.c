/* SPDX-License-Identifier: Apache-2.0 */
/* Subscribers, queues and their bounds; answers are written down as text. */
#include "gcs/pubsub.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES 4
#define JOBS  3

static struct pubsub *p;
static const struct unique_id publisher = {{'p'}};
static char said[4096]; /* "poll: channel/key=message#sequence ... ;" */
static struct err err;
static unsigned n_answers;

static void on_answer(void *arg, void *poll, const struct pubsub_answer *a)
{
    size_t n = strlen(said);

    ck_assert_ptr_eq(arg, said);
    n_answers++;
    n += (size_t)snprintf(said + n, sizeof said - n, "%d:", (int)(intptr_t)poll);
    for (size_t i = 0; a != NULL && i < a->n && n < sizeof said; i++)
        n += (size_t)snprintf(said + n,
                              sizeof said - n,
                              " %u/%.*s=%.*s#%" PRIu64,
                              a->messages[i].channel,
                              (int)a->messages[i].key_size,
                              (const char *)a->messages[i].key,
                              (int)(a->messages[i].size < 8 ? a->messages[i].size : 8),
                              (const char *)a->messages[i].bytes,
                              a->messages[i].sequence);
    if (a != NULL && a->n_dropped > 0 && n < sizeof said)
        n += (size_t)snprintf(said + n, sizeof said - n, " dropped %" PRIu64, a->n_dropped);
    if (n < sizeof said)
        snprintf(said + n, sizeof said - n, "%s", a != NULL ? ";" : " end;");
}

static void create(const struct pubsub_limits *limits)
{
    pubsub_destroy(p);
    p = pubsub_create(limits, &publisher, on_answer, said);
    said[0] = '\0';
    n_answers = 0;
}

static const struct pubsub_limits wide = {.n_subscribers = 100,
                                          .n_subscriptions = 100,
                                          .queue_bytes = 1 << 20,
                                          .total_bytes = 4 << 20,
                                          .reply_messages = 1000,
                                          .reply_bytes = 1 << 20,
                                          .timeout_ms = 1000};

static void setup(void)
{
    create(&wide);
}

static void teardown(void)
{
    pubsub_destroy(p);
    p = NULL;
}

static struct unique_id id(int n)
{
    struct unique_id i = {{0}};

    memcpy(i.bytes, &n, sizeof n);
    return i;
}

static void subscribe(int who, unsigned channel, const char *key)
{
    struct unique_id i = id(who);

    ck_assert_int_eq(pubsub_subscribe(p, &i, channel, key, strlen(key), &err), 0);
}

static int poll_as(int who, const char *of, int64_t heard, int poll)
{
    struct unique_id other = {{'o'}};
    struct pubsub_poll q = {.subscriber = id(who),
                            .publisher = of[0] == 'p' ? &publisher : &other,
                            .publisher_size = of[0] == '\0' ? 0 : sizeof other,
                            .heard = heard,
                            .poll = (void *)(intptr_t)poll};
    int rc = pubsub_poll(p, &q, &err);

    pubsub_selfcheck(p);
    return rc;
}

static void publish(unsigned channel, const char *key, const char *text)
{
    ck_assert_int_eq(pubsub_publish(p, channel, key, strlen(key), text, strlen(text), &err), 0);
    pubsub_selfcheck(p);
}

/* What was answered by now. */
static void hears(const char *expected)
{
    pubsub_flush(p);
    pubsub_selfcheck(p);
    ck_assert_str_eq(said, expected);
    said[0] = '\0';
}

static struct pubsub_stats stats(void)
{
    struct pubsub_stats s;

    pubsub_stats(p, &s);
    return s;
}

START_TEST(test_a_poll_is_held_until_there_is_something)
{
    subscribe(1, NODES, "");
    ck_assert_int_eq(poll_as(1, "", 0, 10), 0);
    hears("");
    publish(JOBS, "j", "not wanted");
    hears("");
    publish(NODES, "a", "here");
    publish(NODES, "b", "here");
    publish(NODES, "a", "gone");
    hears("10: 4/a=here#1 4/b=here#2 4/a=gone#3;");
    hears("");
}
END_TEST

START_TEST(test_what_came_before_a_subscription_is_not_told)
{
    subscribe(2, NODES, "");
    publish(NODES, "a", "one");
    subscribe(1, NODES, "");
    publish(NODES, "a", "two");
    ck_assert_int_eq(poll_as(1, "", 0, 10), 0);
    hears("10: 4/a=two#2;");
}
END_TEST

START_TEST(test_keys_and_channels)
{
    subscribe(1, NODES, "a");
    subscribe(1, NODES, "a");
    subscribe(2, NODES, "a");
    subscribe(2, NODES, "");
    subscribe(3, JOBS, "a");
    ck_assert_uint_eq(stats().n_subscriptions, 4);
    poll_as(1, "", 0, 10);
    poll_as(2, "", 0, 20);
    poll_as(3, "", 0, 30);
    publish(NODES, "a", "x"); /* once, though 2 wants it twice */
    publish(NODES, "b", "y");
    publish(NODES, "", "z");
    hears("20: 4/a=x#1 4/b=y#2 4/=z#3;10: 4/a=x#1;");
    pubsub_unsubscribe(p, &(struct unique_id){{2}}, NODES, "", 0);
    pubsub_unsubscribe(p, &(struct unique_id){{2}}, NODES, "none", 4);
    pubsub_unsubscribe(p, &(struct unique_id){{9}}, NODES, "", 0);
    poll_as(2, "p", 3, 21);
    publish(NODES, "b", "y");
    publish(NODES, "a", "x");
    hears("21: 4/a=x#4;");
}
END_TEST

START_TEST(test_what_is_not_acknowledged_is_told_again)
{
    subscribe(1, NODES, "");
    publish(NODES, "a", "1");
    publish(NODES, "a", "2");
    poll_as(1, "", 0, 10);
    hears("10: 4/a=1#1 4/a=2#2;");
    poll_as(1, "p", 0, 11); /* the answer was lost */
    hears("11: 4/a=1#1 4/a=2#2;");
    publish(NODES, "a", "3");
    poll_as(1, "p", 1, 12);
    hears("12: 4/a=2#2 4/a=3#3;");
    poll_as(1, "p", 3, 13);
    hears("");
    ck_assert_uint_eq(stats().total_bytes, 0);
    publish(NODES, "a", "4");
    hears("13: 4/a=4#4;");
    ck_assert_int_eq(poll_as(1, "p", 5, 14), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, "message 5 was never published"));
    ck_assert_int_eq(poll_as(1, "p", -1, 14), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    hears("");
}
END_TEST

START_TEST(test_a_second_poll_replaces_the_first)
{
    subscribe(1, NODES, "");
    poll_as(1, "", 0, 10);
    hears("");
    poll_as(1, "p", 0, 11);
    ck_assert_str_eq(said, "10:;"); /* at once */
    publish(NODES, "a", "x");
    hears("10:;11: 4/a=x#1;");
    poll_as(1, "p", 1, 12);
    publish(NODES, "a", "y");
    poll_as(1, "p", 1, 13); /* before the flush */
    hears("12:;13: 4/a=y#2;");
}
END_TEST

START_TEST(test_who_hangs_up_hears_it_later)
{
    struct unique_id one = id(1);

    subscribe(1, NODES, "");
    poll_as(1, "", 0, 10);
    publish(NODES, "a", "x");
    pubsub_hang_up(p, &one, (void *)(intptr_t)10);
    pubsub_hang_up(p, &one, (void *)(intptr_t)10);
    hears("10:;");
    poll_as(1, "", 0, 11);
    pubsub_hang_up(p, &one, (void *)(intptr_t)10); /* not this one */
    hears("11: 4/a=x#1;");
}
END_TEST

/* INV-36: what a new GCS says is no continuation of what the former said. */
START_TEST(test_inv_36_another_publisher_is_told_at_once)
{
    ck_assert_int_eq(poll_as(1, "other", 700, 10), 0);
    hears("10:;");
    subscribe(1, NODES, "");
    publish(NODES, "a", "x");
    poll_as(1, "other", 700, 11); /* acknowledges nothing here */
    hears("11: 4/a=x#1;");
    poll_as(1, "p", 1, 12);
    hears("");
}
END_TEST

START_TEST(test_a_slow_subscriber_loses_its_oldest)
{
    struct pubsub_limits narrow = wide;
    char text[2000], expected[200];

    memset(text, 'x', sizeof text);
    narrow.queue_bytes = 5000;
    create(&narrow);
    subscribe(1, NODES, "");
    subscribe(2, NODES, "");
    for (int i = 1; i <= 7; i++) {
        snprintf(text, sizeof text, "m%d", i);
        text[2] = ' ';
        ck_assert_int_eq(pubsub_publish(p, NODES, "k", 1, text, sizeof text, &err), 0);
        pubsub_selfcheck(p);
        poll_as(2, i == 1 ? "" : "p", i - 1, 100 + i); /* keeps up */
        snprintf(expected, sizeof expected, "%d: 4/k=m%d xxxxx#%d;", 100 + i, i, i);
        text[3] = 'x';
        pubsub_flush(p);
        ck_assert_int_eq(strncmp(said, expected, 12), 0);
        ck_assert_ptr_null(strstr(said, "dropped"));
        said[0] = '\0';
    }
    poll_as(1, "", 0, 10);
    pubsub_flush(p);
    ck_assert_ptr_null(strstr(said, "#5"));
    ck_assert_ptr_nonnull(strstr(said, "#6 4/k=m7"));
    ck_assert_ptr_nonnull(strstr(said, "#7 dropped 5;"));
    ck_assert_uint_eq(stats().n_dropped, 5);
    said[0] = '\0';
    ck_assert_int_eq(pubsub_publish(p, NODES, "k", 1, "s", 1, &err), 0);
    pubsub_selfcheck(p);
    char *large = calloc(1, PUBSUB_MESSAGE_MAX + 1); /* one always fits */
    ck_assert_int_eq(pubsub_publish(p, NODES, "k", 1, large, PUBSUB_MESSAGE_MAX, &err), 0);
    pubsub_selfcheck(p);
    poll_as(1, "p", 7, 11);
    pubsub_flush(p);
    ck_assert_ptr_nonnull(strstr(said, "#9 dropped 8;"));
    ck_assert_int_eq(pubsub_publish(p, NODES, "k", 1, large, PUBSUB_MESSAGE_MAX + 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_int_eq(pubsub_publish(p, NODES, large, PUBSUB_KEY_MAX + 1, "", 0, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    free(large);
}
END_TEST

START_TEST(test_all_queues_have_a_bound)
{
    struct pubsub_limits narrow = wide;
    char text[1000] = "x", key[16];

    narrow.total_bytes = 20000;
    create(&narrow);
    for (int i = 1; i <= 10; i++) {
        snprintf(key, sizeof key, "k%d", i);
        subscribe(i, NODES, key);
    }
    subscribe(11, JOBS, "");
    publish(JOBS, "j", "small");
    for (int i = 1; i <= 10; i++)
        for (int n = 0; n < 4; n++) {
            snprintf(key, sizeof key, "k%d", i);
            ck_assert_int_eq(pubsub_publish(p, NODES, key, strlen(key), text, sizeof text, &err),
                             0);
            pubsub_selfcheck(p); /* at most total_bytes */
        }
    ck_assert_uint_ge(stats().n_dropped, 20);
    ck_assert_uint_gt(stats().total_bytes, 10000);
    poll_as(11, "", 0, 10); /* who has little loses nothing */
    hears("10: 3/j=small#1;");
}
END_TEST

START_TEST(test_an_answer_has_a_bound)
{
    struct pubsub_limits narrow = wide;

    narrow.reply_messages = 2;
    narrow.reply_bytes = 1000;
    create(&narrow);
    subscribe(1, NODES, "");
    char text[900] = "large";
    for (int i = 1; i <= 3; i++)
        publish(NODES, "k", "s");
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pubsub_publish(p, NODES, "k", 1, text, sizeof text, &err), 0);
    poll_as(1, "", 0, 10);
    hears("10: 4/k=s#1 4/k=s#2;");
    poll_as(1, "p", 2, 11);
    pubsub_flush(p);
    ck_assert_ptr_nonnull(strstr(said, "#4;"));
    said[0] = '\0';
    poll_as(1, "p", 4, 12);
    pubsub_flush(p);
    ck_assert_ptr_nonnull(strstr(said, "#5;"));
}
END_TEST

START_TEST(test_who_does_not_poll_is_forgotten)
{
    subscribe(1, NODES, "");
    subscribe(2, NODES, "");
    poll_as(2, "", 0, 20);
    pubsub_on_time(p, 5000);
    publish(NODES, "a", "x");
    hears("20: 4/a=x#1;");
    for (uint64_t t = 5100; t < 6000; t += 100) {
        pubsub_on_time(p, t);
        pubsub_selfcheck(p);
    }
    ck_assert_uint_eq(stats().n_subscribers, 2);
    poll_as(2, "p", 1, 21);
    pubsub_on_time(p, 6000);
    ck_assert_uint_eq(stats().n_subscribers, 1);
    ck_assert_uint_eq(stats().n_forgotten, 1);
    ck_assert_uint_eq(stats().n_subscriptions, 1);
    ck_assert_uint_eq(stats().total_bytes, 0);
    ck_assert_int_eq(poll_as(1, "p", 1, 10), -1);
    ck_assert_int_eq(err.code, ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "subscribe again"));
    hears("");
    for (uint64_t t = 6100; t < 6900; t += 100)
        pubsub_on_time(p, t);
    hears(""); /* held, not forgotten */
    pubsub_on_time(p, 6900);
    hears("21:;");
    ck_assert_uint_eq(stats().n_subscribers, 1);
}
END_TEST

START_TEST(test_the_sleep_of_a_gcs_forgets_nobody)
{
    subscribe(1, NODES, "");
    pubsub_on_time(p, 1000);
    pubsub_on_time(p, 1000000);
    pubsub_on_time(p, 500); /* nor a clock that is none */
    pubsub_on_time(p, 2000000);
    ck_assert_uint_eq(stats().n_subscribers, 1);
}
END_TEST

START_TEST(test_who_wants_nothing_any_more_is_forgotten)
{
    struct unique_id one = id(1);

    subscribe(1, NODES, "a");
    subscribe(1, NODES, "b");
    publish(NODES, "a", "x");
    pubsub_unsubscribe(p, &one, NODES, "a", 1);
    ck_assert_uint_eq(stats().n_subscribers, 1);
    pubsub_unsubscribe(p, &one, NODES, "b", 1);
    ck_assert_uint_eq(stats().n_subscribers, 0);
    ck_assert_uint_eq(stats().total_bytes, 0);
    subscribe(1, NODES, "a");
    poll_as(1, "", 0, 10);
    pubsub_unsubscribe(p, &one, NODES, "a", 1);
    ck_assert_uint_eq(stats().n_subscribers, 1); /* it polls */
}
END_TEST

START_TEST(test_subscribers_and_subscriptions_have_bounds)
{
    struct pubsub_limits narrow = wide;
    struct unique_id third = id(3), one = id(1);

    narrow.n_subscribers = 2;
    narrow.n_subscriptions = 3;
    create(&narrow);
    subscribe(1, NODES, "a");
    subscribe(2, NODES, "a");
    ck_assert_int_eq(pubsub_subscribe(p, &third, NODES, "a", 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_FULL);
    ck_assert_int_eq(poll_as(3, "", 0, 10), -1);
    ck_assert_int_eq(err.code, ERR_FULL);
    subscribe(1, NODES, "b");
    ck_assert_int_eq(pubsub_subscribe(p, &one, NODES, "c", 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_FULL);
    subscribe(1, NODES, "b"); /* it has that one */
    ck_assert_int_eq(pubsub_subscribe(p, &one, NODES, said, PUBSUB_KEY_MAX + 1, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_uint_eq(stats().n_subscriptions, 3);
    pubsub_selfcheck(p);
}
END_TEST

START_TEST(test_the_end_answers_all)
{
    subscribe(1, NODES, "");
    poll_as(1, "", 0, 10);
    poll_as(2, "", 0, 20);
    publish(NODES, "a", "x");
    pubsub_destroy(p);
    p = NULL;
    ck_assert_str_eq(said, "10: end;20: end;");
}
END_TEST

/* Each subscriber hears each message that it wants once and in order, whatever is lost. */
START_TEST(test_any_order_of_calls)
{
    enum { N = 6 };
    struct pubsub_limits narrow = wide;
    unsigned seed = 11, n_polls = 0;
    char key[2] = "a";

    narrow.queue_bytes = 1500;
    narrow.total_bytes = 5000;
    create(&narrow);
    for (int i = 0; i < 20000; i++) {
        int who = 1 + rand_r(&seed) % N;
        struct unique_id one = id(who);
        key[0] = (char)('a' + rand_r(&seed) % 4);
        switch (rand_r(&seed) % 8) {
        case 0:
            pubsub_subscribe(p, &one, NODES, key, (size_t)rand_r(&seed) % 2, &err);
            break;
        case 1:
            if (rand_r(&seed) % 4 == 0)
                pubsub_unsubscribe(p, &one, NODES, key, (size_t)rand_r(&seed) % 2);
            break;
        case 2:
        case 3:
            n_polls += poll_as(who, rand_r(&seed) % 2 ? "" : "p", rand_r(&seed) % 3, i) == 0;
            break;
        case 4:
            pubsub_on_time(p, (uint64_t)i);
            break;
        case 5:
            pubsub_flush(p);
            break;
        default:
            publish(NODES, key, "some text that takes a little room");
        }
        pubsub_selfcheck(p);
        said[0] = '\0';
    }
    struct pubsub_stats s = stats();
    ck_assert_uint_gt(s.n_dropped, 100);
    ck_assert_uint_eq(n_polls, n_answers + s.n_polls);
    pubsub_destroy(p);
    p = NULL;
    ck_assert_uint_eq(n_polls, n_answers);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pubsub");
    TCase *t = tcase_create("pubsub");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_a_poll_is_held_until_there_is_something);
    tcase_add_test(t, test_what_came_before_a_subscription_is_not_told);
    tcase_add_test(t, test_keys_and_channels);
    tcase_add_test(t, test_what_is_not_acknowledged_is_told_again);
    tcase_add_test(t, test_a_second_poll_replaces_the_first);
    tcase_add_test(t, test_who_hangs_up_hears_it_later);
    tcase_add_test(t, test_inv_36_another_publisher_is_told_at_once);
    tcase_add_test(t, test_a_slow_subscriber_loses_its_oldest);
    tcase_add_test(t, test_all_queues_have_a_bound);
    tcase_add_test(t, test_an_answer_has_a_bound);
    tcase_add_test(t, test_who_does_not_poll_is_forgotten);
    tcase_add_test(t, test_the_sleep_of_a_gcs_forgets_nobody);
    tcase_add_test(t, test_who_wants_nothing_any_more_is_forgotten);
    tcase_add_test(t, test_subscribers_and_subscriptions_have_bounds);
    tcase_add_test(t, test_the_end_answers_all);
    tcase_add_test(t, test_any_order_of_calls);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
