/* SPDX-License-Identifier: Apache-2.0 */
/* A raylet's NodeSync against a GCS, a link and a clock of this file. */
#include "gcs/client_sync.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"

/* --- a loop with two timers, and time that stands still --- */

struct loop_timer {
    loop_f cb;
    void *arg;
    uint64_t at; /* 0: not armed */
};

static struct loop_timer timers[2];
static unsigned n_timers;
static uint64_t now;

uint64_t loop_now_ms(void)
{
    return now;
}

struct loop_timer *loop_after(struct loop *l, uint32_t ms, loop_f cb, void *arg)
{
    struct loop_timer *t = &timers[n_timers++ % 2];

    (void)l;
    *t = (struct loop_timer){.cb = cb, .arg = arg, .at = now + ms};
    return t;
}

void loop_timer_again(struct loop_timer *t, uint32_t ms)
{
    t->at = now + ms;
}

void loop_timer_end(struct loop_timer *t)
{
    t->at = 0;
}

static void pass(uint64_t ms)
{
    uint64_t end = now + ms;

    for (;;) {
        struct loop_timer *t = &timers[0];
        if (t->at == 0 || (timers[1].at != 0 && timers[1].at < t->at))
            t = &timers[1];
        if (t->at == 0 || t->at > end)
            break;
        if (t->at > now)
            now = t->at;
        t->at = 0;
        t->cb(t->arg);
    }
    now = end;
}

/* --- a link --- */

static struct {
    rpc_reply_f reply;
    void *arg;
} calls[10]; /* under way, the oldest first */
static unsigned n_calls, n_sent;
static struct { /* the newest question that is to be answered at once */
    rpc_reply_f reply;
    void *arg;
} asked;
static unsigned n_asked, n_dials, n_passed;

void gcs_link_redial(struct gcs_link *l)
{
    (void)l;
    n_dials++;
}

void gcs_link_call(struct gcs_link *l,
                   const char *path,
                   const void *bytes,
                   size_t size,
                   uint32_t timeout_ms,
                   rpc_reply_f reply,
                   void *arg)
{
    (void)l;
    (void)bytes;
    (void)size;
    ck_assert_str_eq(path, "/ray.c.GcsLink/NodeSync");
    if (timeout_ms < 5000) {
        asked.reply = reply;
        asked.arg = arg;
        n_asked++;
        return;
    }
    ck_assert_uint_lt(n_calls, 10);
    calls[n_calls].reply = reply;
    calls[n_calls++].arg = arg;
    n_sent++;
}

/* A reply as it is on the wire: small numbers, short strings. */
struct bytes {
    uint8_t v[600];
    size_t n;
};

static void put_number(struct bytes *b, unsigned field, unsigned value)
{
    b->v[b->n++] = (uint8_t)(field << 3);
    if (value >= 128)
        b->v[b->n++] = (uint8_t)(value | 128);
    b->v[b->n++] = (uint8_t)(value >= 128 ? value >> 7 : value);
}

static void put_bytes(struct bytes *b, unsigned field, const void *v, size_t n)
{
    ck_assert_uint_lt(n, 128);
    b->v[b->n++] = (uint8_t)(field << 3 | 2);
    b->v[b->n++] = (uint8_t)n;
    memcpy(b->v + b->n, v, n);
    b->n += n;
}

static struct bytes reply_of(unsigned incarnation, unsigned version)
{
    struct bytes b = {.n = 0};

    put_number(&b, 1, incarnation);
    put_number(&b, 2, version);
    return b;
}

static void put_view(struct bytes *b, unsigned number, unsigned version, bool is_alive)
{
    struct bytes v = {.n = 0};
    uint8_t id[ID_UNIQUE_SIZE] = {(uint8_t)number};

    put_bytes(&v, 1, id, sizeof id);
    put_number(&v, 2, number);
    put_number(&v, 3, version);
    if (!is_alive) {
        put_number(&v, 4, 1);
        put_bytes(&v, 12, "why", 3);
    }
    put_bytes(b, 3, v.v, v.n);
}

/* The i-th of those under way. */
static void end_call(unsigned i, const struct err *err, const struct bytes *b)
{
    rpc_reply_f reply = calls[i].reply;
    void *arg = calls[i].arg;

    ck_assert_uint_lt(i, n_calls);
    n_calls--;
    memmove(&calls[i], &calls[i + 1], (n_calls - i) * sizeof calls[0]);
    reply(arg, err, b != NULL ? b->v : NULL, b != NULL ? b->n : 0);
}

static void answer(unsigned i, struct bytes b)
{
    end_call(i, NULL, &b);
}

static void lose(enum err_code code)
{
    struct err err;

    err_set(&err, code, "it failed");
    end_call(0, &err, NULL);
}

/* --- who listens --- */

static struct client_sync *s;
static char news[200]; /* "+4 -4 " */
static unsigned n_unknown, n_dead, n_filled;

static void on_node(void *arg, const struct node_view *v)
{
    size_t n = strlen(news);

    (void)arg;
    ck_assert(v->is_alive || v->death[0] != '\0');
    ck_assert_uint_eq(v->id.bytes[0], v->number);
    snprintf(news + n, sizeof news - n, "%c%u ", v->is_alive ? '+' : '-', v->number);
}

static void fill_self(void *arg, struct node_view *self)
{
    (void)arg;
    ck_assert_uint_eq(self->number, 7);
    n_filled++;
}

static void on_unknown(void *arg)
{
    (void)arg;
    n_unknown++;
}

static void on_dead(void *arg, const char *why)
{
    (void)arg;
    ck_assert_str_eq(why, "why");
    n_dead++;
}

static void pass_on(void *arg, const void *bytes, size_t size)
{
    (void)arg;
    ck_assert_ptr_nonnull(bytes);
    ck_assert_uint_gt(size, ID_UNIQUE_SIZE);
    n_passed++;
}

static void on_question(void *arg, const struct node_question *q)
{
    size_t n = strlen(news);

    (void)arg;
    ck_assert_uint_eq(q->size, 3);
    snprintf(news + n,
             sizeof news - n,
             "%s?%u(%.3s) ",
             q->method,
             (unsigned)q->number,
             (const char *)q->request);
}

static void put_question(struct bytes *b, unsigned number, const char *method)
{
    struct bytes q = {.n = 0};

    put_number(&q, 1, number);
    put_bytes(&q, 2, method, strlen(method));
    put_bytes(&q, 3, "ask", 3);
    put_bytes(b, 7, q.v, q.n);
}

static void expect_news(const char *expected)
{
    ck_assert_str_eq(news, expected);
    news[0] = '\0';
}

static void setup(void)
{
    log_threshold = LOG_LEVEL_BROKEN;
    now = 5000;
    s = client_sync_create(&(struct client_sync_config){.node = {.bytes = {7}},
                                                        .number = 7,
                                                        .on_node = on_node,
                                                        .fill_self = fill_self,
                                                        .on_question = on_question,
                                                        .on_unknown = on_unknown,
                                                        .on_dead = on_dead,
                                                        .pass_on = pass_on});
    pass(0);
    ck_assert_uint_eq(n_calls, 1);
}

static void teardown(void)
{
    client_sync_destroy(s);
}

START_TEST(test_one_call_after_the_other)
{
    pass(60000);
    ck_assert_uint_eq(n_sent, 1);
    answer(0, reply_of(1, 3));
    pass(0);
    ck_assert_uint_eq(n_sent, 2);
    answer(0, reply_of(1, 4)); /* at once: the next waits */
    pass(99);
    ck_assert_uint_eq(n_sent, 2);
    pass(1);
    ck_assert_uint_eq(n_sent, 3);
    ck_assert_uint_eq(n_filled, n_sent + n_asked + n_passed);
}
END_TEST

START_TEST(test_a_change_is_told_beside_the_call_that_is_held)
{
    client_sync_changed(s);
    client_sync_changed(s);
    pass(99);
    ck_assert_uint_eq(n_sent, 1);
    pass(1);
    ck_assert_uint_eq(n_sent, 2);
    client_sync_changed(s); /* two are enough */
    pass(60000);
    ck_assert_uint_eq(n_sent, 2);
    answer(0, reply_of(1, 1));
    pass(0);
    ck_assert_uint_eq(n_sent, 3);
    answer(0, reply_of(1, 1));
    pass(60000);
    ck_assert_uint_eq(n_sent, 3); /* nothing changed, and one is held */
}
END_TEST

START_TEST(test_nodes_come_and_go_once)
{
    struct bytes b = reply_of(1, 9);

    put_view(&b, 9, 1, true);
    put_view(&b, 7, 2, true); /* ourselves */
    put_view(&b, 4, 3, true);
    put_view(&b, 5, 4, false); /* was never told of */
    put_view(&b, 4, 5, true);
    answer(0, b);
    expect_news("+9 +4 +4 ");
    pass(100);
    b = reply_of(1, 20);
    put_view(&b, 4, 12, false);
    put_view(&b, 4, 13, false);
    answer(0, b);
    expect_news("-4 ");
}
END_TEST

/* INV-6: death is final, though an answer from before it comes behind. */
START_TEST(test_inv_6_a_late_answer_wakes_no_dead)
{
    struct bytes late = reply_of(1, 5), b = reply_of(1, 8);

    put_view(&late, 4, 5, true);
    put_view(&b, 4, 5, true);
    put_view(&b, 4, 8, false);
    client_sync_changed(s);
    pass(100);
    ck_assert_uint_eq(n_calls, 2);
    answer(1, b);
    expect_news("+4 -4 ");
    answer(0, late);
    expect_news("");
}
END_TEST

/* Answered once a second for so long. */
static void live(unsigned incarnation, unsigned version, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        answer(0, reply_of(incarnation, version));
        pass(1000);
    }
}

START_TEST(test_what_a_new_gcs_does_not_name_is_dead_after_a_while)
{
    struct bytes b = reply_of(1, 9);

    put_view(&b, 3, 1, true);
    put_view(&b, 4, 2, true);
    put_view(&b, 5, 3, true);
    answer(0, b);
    expect_news("+3 +4 +5 ");
    pass(1000);
    live(1, 9, 60);
    b = reply_of(2, 2); /* its versions begin again */
    put_view(&b, 4, 1, true);
    put_view(&b, 5, 2, true);
    answer(0, b);
    expect_news("+4 +5 ");
    pass(100);
    live(2, 2, 10);
    lose(ERR_AWAY);
    pass(3600000); /* it is away: nobody can register again */
    live(2, 2, 3);
    expect_news("");
    b = reply_of(2, 4);
    put_view(&b, 6, 4, true);
    answer(0, b);
    pass(1000);
    live(2, 4, 3);
    expect_news("+6 -3 ");
    live(2, 4, 60);
    expect_news("");
    answer(0, reply_of(1, 100)); /* of the former one */
    pass(1000);
    live(2, 4, 60);
    expect_news("");
}
END_TEST

START_TEST(test_a_node_that_is_not_known_waits_until_it_is)
{
    struct bytes b = {.n = 0};

    put_number(&b, 6, 1);
    client_sync_changed(s);
    pass(100);
    answer(0, b);
    answer(0, b);
    ck_assert_uint_eq(n_unknown, 1);
    client_sync_changed(s);
    pass(60000);
    ck_assert_uint_eq(n_sent, 2);
    client_sync_resume(s);
    pass(0);
    ck_assert_uint_eq(n_sent, 3);
}
END_TEST

START_TEST(test_a_dead_node_says_nothing_more)
{
    struct bytes b = {.n = 0};

    put_bytes(&b, 5, "why", 3);
    client_sync_changed(s);
    pass(100);
    answer(0, b);
    answer(0, b);
    client_sync_changed(s);
    pass(60000);
    ck_assert_uint_eq(n_dead, 1);
    ck_assert_uint_eq(n_sent, 2);
}
END_TEST

START_TEST(test_failures_are_followed_by_growing_pauses)
{
    const struct bytes garbage = {.v = {0xff, 0xff}, .n = 2};
    unsigned pauses[] = {200, 400, 800, 1000};

    pass(5000);
    for (unsigned i = 0; i < 4; i++) {
        unsigned before = n_sent;
        if (i == 2)
            answer(0, garbage);
        else
            lose(i == 1 ? ERR_FULL : ERR_AWAY);
        pass(i > 0 ? pauses[i] - 1 : 0);
        ck_assert_uint_eq(n_sent, before + (i == 0));
        pass(i > 0 ? 1 : 0);
        ck_assert_uint_eq(n_sent, before + 1);
    }
    pass(5000);
    answer(0, reply_of(1, 1));
    pass(0);
    answer(0, reply_of(1, 1));
    pass(100);
    ck_assert_uint_eq(n_sent, 7);
}
END_TEST

START_TEST(test_who_is_not_answered_asks_dials_and_is_passed_on)
{
    struct bytes b = reply_of(1, 3);

    pass(1499);
    ck_assert(client_sync_is_answered(s));
    ck_assert_uint_eq(n_asked, 0);
    pass(1);
    ck_assert(!client_sync_is_answered(s));
    ck_assert_uint_eq(n_asked, 1);
    ck_assert_uint_eq(n_dials + n_passed, 0);
    pass(1000);
    ck_assert_uint_gt(n_dials, 0);
    ck_assert_uint_eq(n_asked, n_dials + 1);
    ck_assert_uint_gt(n_passed, 0);
    put_view(&b, 4, 3, true);
    client_sync_take_passed(s, b.v, b.n);
    expect_news("+4 ");
    ck_assert(!client_sync_is_answered(s)); /* but for others */
    ck_assert_uint_eq(n_sent, 1);
    asked.reply(asked.arg, NULL, reply_of(1, 3).v, reply_of(1, 3).n);
    ck_assert(client_sync_is_answered(s));
    unsigned before = n_dials;
    for (int i = 0; i < 10; i++) {
        answer(0, reply_of(1, 3));
        pass(1400);
    }
    ck_assert_uint_eq(n_dials, before);
    ck_assert(client_sync_is_answered(s));
}
END_TEST

START_TEST(test_garbage_from_others_is_no_answer)
{
    pass(3000);
    unsigned before = n_passed;
    for (int i = 0; i < 10; i++) {
        client_sync_take_passed(s, "\xff\xff", 2);
        pass(10);
    }
    ck_assert_uint_le(n_passed, before + 1);
    expect_news("");
}
END_TEST

/* Whatever else the answer says: one that is late too, or came by another node. */
START_TEST(test_questions_are_given)
{
    struct bytes b = reply_of(1, 3), late = reply_of(1, 2);

    put_question(&b, 5, "f");
    put_question(&b, 6, "g");
    put_view(&b, 4, 3, true);
    answer(0, b);
    expect_news("+4 f?5(ask) g?6(ask) ");
    put_question(&late, 7, "f");
    client_sync_take_passed(s, late.v, late.n);
    expect_news("f?7(ask) ");
    pass(100);
    ck_assert_uint_eq(n_calls, 1); /* the next one is under way */
}
END_TEST

/* INV-6: whatever way it hears that. */
START_TEST(test_inv_6_a_node_hears_of_its_death_by_others)
{
    struct bytes b = {.n = 0};

    put_bytes(&b, 5, "why", 3);
    pass(3000);
    client_sync_take_passed(s, b.v, b.n);
    unsigned before = n_asked + n_passed + n_sent;
    pass(60000);
    ck_assert_uint_eq(n_dead, 1);
    ck_assert_uint_eq(n_asked + n_passed + n_sent, before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_sync");
    TCase *t = tcase_create("client_sync");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_one_call_after_the_other);
    tcase_add_test(t, test_a_change_is_told_beside_the_call_that_is_held);
    tcase_add_test(t, test_nodes_come_and_go_once);
    tcase_add_test(t, test_inv_6_a_late_answer_wakes_no_dead);
    tcase_add_test(t, test_what_a_new_gcs_does_not_name_is_dead_after_a_while);
    tcase_add_test(t, test_a_node_that_is_not_known_waits_until_it_is);
    tcase_add_test(t, test_a_dead_node_says_nothing_more);
    tcase_add_test(t, test_failures_are_followed_by_growing_pauses);
    tcase_add_test(t, test_who_is_not_answered_asks_dials_and_is_passed_on);
    tcase_add_test(t, test_garbage_from_others_is_no_answer);
    tcase_add_test(t, test_questions_are_given);
    tcase_add_test(t, test_inv_6_a_node_hears_of_its_death_by_others);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
