/* SPDX-License-Identifier: Apache-2.0 */
/* Whom a raylet asks when the GCS does not answer, and what it does for others. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define N_PEERS_MAX 8

/* --- peers, the client of the GCS and a clock of this file --- */

struct peer {
    uint32_t number; /* 0: none */
    size_t backlog;
    bool only_dials;
};

static struct peer others[N_PEERS_MAX];
static unsigned n_others;
static uint64_t now;
static char said[400]; /* "ask 3 " "answer 4 " */

uint64_t loop_now_ms(void)
{
    return now;
}

struct peer *peers_find(const struct peers *ps, uint32_t number)
{
    (void)ps;
    for (unsigned i = 0; i < n_others; i++)
        if (others[i].number == number)
            return &others[i];
    return NULL;
}

struct peer *peers_next(const struct peers *ps, const struct peer *p)
{
    (void)ps;
    if (n_others == 0)
        return NULL;
    return p == NULL ? &others[0] : &others[((unsigned)(p - others) + 1) % n_others];
}

void peers_stats(const struct peers *ps, struct peers_stats *out)
{
    (void)ps;
    *out = (struct peers_stats){.n_peers = n_others};
}

uint32_t peer_number(const struct peer *p)
{
    return p->number;
}

static struct unique_id ids[N_PEERS_MAX];

const struct unique_id *peer_node(const struct peer *p)
{
    return &ids[p - others];
}

size_t peer_backlog(const struct peer *p)
{
    return p->backlog;
}

bool peer_only_dials(const struct peer *p)
{
    return p->only_dials;
}

void peers_send(struct peer *p,
                enum frame_class class,
                const struct peer_header *h,
                const void *body,
                size_t size)
{
    size_t n = strlen(said);

    ck_assert_int_eq(class, FRAME_CONTROL);
    ck_assert_uint_eq(h->to + h->from, 0);
    ck_assert(h->type == PEER_SYNC_ASK || h->type == PEER_SYNC_ANSWER);
    ck_assert_uint_eq(size, 4);
    ck_assert_int_eq(memcmp(body, h->type == PEER_SYNC_ASK ? "word" : "news", 4), 0);
    snprintf(said + n,
             sizeof said - n,
             "%s %u ",
             h->type == PEER_SYNC_ASK ? "ask" : "answer",
             p->number);
}

static gcs_passed_f passed;
static void *passed_arg;
static unsigned n_for_others, n_taken;
static bool is_answered;

int gcs_client_send_for(struct gcs_client *c,
                        const void *bytes,
                        size_t size,
                        gcs_passed_f done,
                        void *arg)
{
    (void)c;
    (void)bytes;
    (void)size;
    if (!is_answered)
        return -1;
    n_for_others++;
    passed = done;
    passed_arg = arg;
    return 0;
}

void gcs_client_take_passed(struct gcs_client *c, const void *bytes, size_t size)
{
    (void)c;
    (void)bytes;
    (void)size;
    n_taken++;
}

/* --- */

static struct node *n;

static void setup(void)
{
    n = calloc(1, sizeof *n);
    n->number = 7;
    n->peers = (struct peers *)(void *)others; /* nobody looks into it */
    now = 100000;
    n_others = 5;
    for (unsigned i = 0; i < n_others; i++) {
        others[i] = (struct peer){.number = 10 + i};
        ids[i].bytes[0] = (uint8_t)(1 + i);
    }
    gcs_relay_init(n);
}

static void teardown(void)
{
    gcs_relay_fini(n);
    free(n);
}

static void set_head(uint32_t number)
{
    const struct node_view v = {.number = number, .is_alive = true, .is_head = true};

    gcs_relay_on_node(n, &v);
}

/* Whom it asks, in their order. */
static const char *pass_on(void)
{
    said[0] = '\0';
    gcs_relay_pass_on(n, "word", 4);
    return said;
}

static void hear(unsigned i, uint8_t type, size_t size)
{
    static const uint8_t bytes[100000];

    gcs_relay_on_message(n, &others[i], type, bytes, size);
}

START_TEST(test_the_head_and_others_in_turn_are_asked)
{
    ck_assert_str_eq(pass_on(), "ask 12 ask 13 "); /* 7 % 5: not all nodes begin with the same */
    ck_assert_str_eq(pass_on(), "ask 14 ask 10 ");
    set_head(12);
    ck_assert_str_eq(pass_on(), "ask 12 ask 11 "); /* it is asked once */
    ck_assert_str_eq(pass_on(), "ask 12 ask 13 ask 14 ");
    others[2].backlog = 1u << 20; /* nor is it to be reached */
    ck_assert_str_eq(pass_on(), "ask 10 ask 11 ");
    others[3].only_dials = true; /* a driver's: it may be far away */
    ck_assert_str_eq(pass_on(), "ask 14 ask 10 ");
}
END_TEST

START_TEST(test_few_others_are_asked_once_each)
{
    n_others = 1;
    ck_assert_str_eq(pass_on(), "ask 10 ");
    set_head(10);
    ck_assert_str_eq(pass_on(), "ask 10 ");
    n_others = 0;
    ck_assert_str_eq(pass_on(), "");
}
END_TEST

START_TEST(test_who_answers_is_asked_alone_until_it_does_not)
{
    pass_on();
    hear(3, PEER_SYNC_ANSWER, 4);
    ck_assert_uint_eq(n_taken, 1);
    ck_assert_str_eq(pass_on(), "ask 13 ");
    hear(3, PEER_SYNC_ANSWER, 4);
    ck_assert_str_eq(pass_on(), "ask 13 ");
    ck_assert_str_eq(pass_on(), "ask 14 ask 10 ");
    hear(0, PEER_SYNC_ANSWER, 4);
    others[0].number = 99; /* that one has died */
    ck_assert_str_eq(pass_on(), "ask 99 ask 11 ");
}
END_TEST

START_TEST(test_an_answer_that_nobody_asked_for_is_none)
{
    hear(1, PEER_SYNC_ANSWER, 4);
    pass_on();
    now += 60000;
    hear(1, PEER_SYNC_ANSWER, 4);
    ck_assert_uint_eq(n_taken, 0);
}
END_TEST

START_TEST(test_words_of_others_are_passed_on)
{
    said[0] = '\0';
    hear(1, PEER_SYNC_ASK, 4);
    ck_assert_uint_eq(n_for_others, 0); /* the GCS does not answer here either */
    is_answered = true;
    hear(1, PEER_SYNC_ASK, 100000); /* too long for a report */
    ck_assert_uint_eq(n_for_others, 0);
    hear(1, PEER_SYNC_ASK, 4);
    passed(passed_arg, "news", 4);
    ck_assert_str_eq(said, "answer 11 ");
    hear(1, PEER_SYNC_ASK, 4);
    passed(passed_arg, NULL, 0); /* no answer */
    hear(1, PEER_SYNC_ASK, 4);
    ids[1].bytes[0] = 200; /* another node has its number now */
    passed(passed_arg, "news", 4);
    hear(2, PEER_SYNC_ASK, 4);
    n_others = 2; /* it has died */
    passed(passed_arg, "news", 4);
    ck_assert_str_eq(said, "answer 11 ");
    ck_assert_uint_eq(n_for_others, 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gcs_relay");
    TCase *t = tcase_create("gcs_relay");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_the_head_and_others_in_turn_are_asked);
    tcase_add_test(t, test_few_others_are_asked_once_each);
    tcase_add_test(t, test_who_answers_is_asked_alone_until_it_does_not);
    tcase_add_test(t, test_an_answer_that_nobody_asked_for_is_none);
    tcase_add_test(t, test_words_of_others_are_passed_on);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
