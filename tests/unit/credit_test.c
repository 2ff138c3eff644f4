/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/credit.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

static struct credit c;
static int way_there, other_way;

static void setup(void)
{
    credit_init(&c);
}

static void teardown(void)
{
    credit_fini(&c);
}

/* A message that has to wait, with this number in it. */
static void keep(struct credit *to, uint32_t number, size_t size)
{
    uint8_t *body = credit_reserve(to, &way_there, (uint8_t)(number % 100), size);

    ck_assert_ptr_nonnull(body);
    memcpy(body, &number, sizeof number);
    credit_keep(to, size);
}

START_TEST(one_message_may_go_beyond_the_allotment)
{
    ck_assert(!credit_waits(&c));
    credit_spend(&c, CREDIT_LEAST - CREDIT_COST - 1);
    ck_assert(!credit_waits(&c)); /* one byte is left */
    credit_spend(&c, 10 << 20);
    ck_assert(credit_waits(&c));
    credit_on_given(&c, CREDIT_LEAST, CREDIT_LEAST);
    ck_assert(credit_waits(&c));
    credit_on_given(&c, 10 << 20, CREDIT_LEAST);
    ck_assert(!credit_waits(&c));
}
END_TEST

START_TEST(what_waits_keeps_its_order)
{
    const struct credit_message *m;

    credit_spend(&c, CREDIT_LEAST);
    for (uint32_t i = 0; i < 10; i++)
        keep(&c, i, 1000);
    ck_assert_ptr_null(credit_next(&c));
    credit_on_given(&c, CREDIT_LEAST, CREDIT_LEAST);
    ck_assert(credit_waits(&c)); /* behind those ten */
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t number;
        ck_assert_ptr_nonnull(m = credit_next(&c));
        memcpy(&number, m->body, sizeof number);
        ck_assert(number == i && m->type == i && m->size == 1000);
        credit_sent_next(&c);
    }
    ck_assert_ptr_null(credit_next(&c));
    ck_assert(!credit_waits(&c));
    ck_assert_uint_eq(c.unread, CREDIT_COST + 10 * (1000 + CREDIT_COST));
}
END_TEST

START_TEST(a_message_is_cut_and_forgotten)
{
    credit_spend(&c, CREDIT_LEAST);
    ck_assert_ptr_nonnull(credit_reserve(&c, &way_there, 7, 5000));
    keep(&c, 8, 100); /* instead of it */
    ck_assert_ptr_nonnull(credit_reserve(&c, &way_there, 9, 5000));
    credit_keep(&c, 10);
    credit_on_given(&c, UINT32_MAX, UINT32_MAX);
    ck_assert_uint_eq(credit_next(&c)->type, 8);
    credit_sent_next(&c);
    ck_assert_uint_eq(credit_next(&c)->size, 10);
    ck_assert_ptr_nonnull(
        credit_reserve(&c, &way_there, 10, 10)); /* and what is left goes with it */
}
END_TEST

START_TEST(what_waits_for_a_route_that_ends_is_dropped)
{
    credit_spend(&c, CREDIT_LEAST);
    for (uint32_t i = 0; i < 9; i++) {
        ck_assert_ptr_nonnull(
            credit_reserve(&c, i % 3 == 0 ? &way_there : &other_way, (uint8_t)i, 1));
        credit_keep(&c, 1);
    }
    credit_forget(&c, &other_way);
    keep(&c, 9, 100);
    credit_on_given(&c, UINT32_MAX, UINT32_MAX);
    for (uint8_t i = 0; i <= 9; i += 3) {
        ck_assert_uint_eq(credit_next(&c)->type, i);
        ck_assert_ptr_eq(credit_next(&c)->to, &way_there);
        credit_sent_next(&c);
    }
    ck_assert(!credit_waits(&c));
    credit_spend(&c, CREDIT_LEAST);
    keep(&c, 1, 100);
    credit_forget(&c, &way_there);
    ck_assert_ptr_null(c.first);
    keep(&c, 2, 100);
    ck_assert_uint_eq(c.first->type, 2);
}
END_TEST

START_TEST(without_memory_nothing_changes)
{
    credit_spend(&c, CREDIT_LEAST);
    alloc_test_fail_at(1);
    ck_assert_ptr_null(credit_reserve(&c, &way_there, 1, 10));
    alloc_test_fail_at(0);
    ck_assert_ptr_null(c.first);
    keep(&c, 1, 10);
    ck_assert_ptr_nonnull(c.first);
}
END_TEST

START_TEST(foreign_numbers_are_bounded)
{
    credit_on_given(&c, UINT32_MAX, 0);
    ck_assert(c.unread == 0 && c.allotment == CREDIT_LEAST);
    credit_on_given(&c, 0, UINT32_MAX);
    ck_assert_uint_eq(c.allotment, CREDIT_MOST);
}
END_TEST

START_TEST(sources_share_a_sum)
{
    static const struct {
        unsigned n_sources;
        uint32_t allotment;
    } rows[] = {
        {0, CREDIT_MOST},
        {1, CREDIT_MOST},
        {CREDIT_SUM / CREDIT_MOST, CREDIT_MOST},
        {64, CREDIT_SUM / 64},
        {CREDIT_SUM / CREDIT_LEAST, CREDIT_LEAST},
        {100000, CREDIT_LEAST},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_uint_eq(credit_give(&c, rows[i].n_sources).allotment, rows[i].allotment);
}
END_TEST

START_TEST(half_of_what_was_told_is_worth_a_word)
{
    ck_assert(!credit_on_read(&c, CREDIT_LEAST / 2 - CREDIT_COST - 1, true));
    ck_assert(credit_on_read(&c, 1, false)); /* a part counts when it comes */
    struct credit_given g = credit_give(&c, 1);
    ck_assert_uint_eq(g.bytes, CREDIT_LEAST / 2);
    ck_assert(!credit_on_read(&c, CREDIT_LEAST / 2, true)); /* it was told more by now */
    ck_assert(credit_on_read(&c, CREDIT_MOST / 2, true));
}
END_TEST

/* --- many sources and a reader that stops: what comes is what was said, and never too much of it
 * is on its way --- */

#define N_SOURCES   40
#define MESSAGE_MAX 100000
#define N_MESSAGES  1500

static uint64_t random_state;

static uint32_t below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

struct sent {
    uint32_t number;
    size_t size;
};
static struct source {
    struct credit out, in; /* the source's, and the reader's of it */
    struct sent way[N_MESSAGES];
    unsigned first, last; /* of way: on their way */
    uint32_t said, heard;
    struct credit_given words[64];
    unsigned n_words;
    size_t unread;
} sources[N_SOURCES];

static void put_on_way(struct source *s, uint32_t number, size_t size)
{
    s->way[s->last++] = (struct sent){number, size};
    s->unread += size + CREDIT_COST;
    ck_assert_uint_le(s->unread, CREDIT_MOST + MESSAGE_MAX + CREDIT_COST);
}

static void say(struct source *s)
{
    size_t size = sizeof(uint32_t) + (below(8) == 0 ? below(MESSAGE_MAX) : below(300));

    size = size < MESSAGE_MAX ? size : MESSAGE_MAX;
    if (credit_waits(&s->out)) {
        keep(&s->out, s->said, size);
    } else {
        credit_spend(&s->out, size);
        put_on_way(s, s->said, size);
    }
    s->said++;
}

static void take_word(struct source *s)
{
    const struct credit_message *m;

    credit_on_given(&s->out, s->words[0].bytes, s->words[0].allotment);
    memmove(s->words, s->words + 1, --s->n_words * sizeof s->words[0]);
    while ((m = credit_next(&s->out)) != NULL) {
        uint32_t number;
        memcpy(&number, m->body, sizeof number);
        put_on_way(s, number, m->size);
        credit_sent_next(&s->out);
    }
}

/* In parts, if it is long. */
static void hear(struct source *s)
{
    const struct sent *m = &s->way[s->first++];
    size_t left = m->size;

    ck_assert_uint_eq(m->number, s->heard++);
    s->unread -= m->size + CREDIT_COST;
    do {
        size_t n = left < 65520 ? left : 65520;
        left -= n;
        if (credit_on_read(&s->in, n, left == 0)) {
            ck_assert_uint_lt(s->n_words, 64);
            s->words[s->n_words++] = credit_give(&s->in, N_SOURCES);
        }
    } while (left > 0);
}

START_TEST(a_reader_that_stops_costs_its_allotments)
{
    const char *named = getenv("SEED");
    unsigned seed = named != NULL ? (unsigned)strtoul(named, NULL, 10) : 4711u + (unsigned)_i;
    uint64_t n_heard = 0, most = 0;

    printf("seed %u\n", seed);
    random_state = seed;
    memset(sources, 0, sizeof sources);
    for (unsigned i = 0; i < N_SOURCES; i++) {
        credit_init(&sources[i].out);
        credit_init(&sources[i].in);
    }
    for (unsigned step = 0; n_heard < (uint64_t)N_SOURCES * N_MESSAGES; step++) {
        struct source *s = &sources[below(N_SOURCES)];
        bool is_stopped = step % 40000 < 20000 && step < 400000;
        uint64_t unread = 0;
        if (s->said < N_MESSAGES && below(2) == 0)
            say(s);
        if (s->n_words > 0 && below(2) == 0)
            take_word(s);
        if (!is_stopped && s->first < s->last) {
            hear(s);
            n_heard++;
        }
        for (unsigned i = 0; step % 1000 == 0 && i < N_SOURCES; i++)
            unread += sources[i].unread;
        most = unread > most ? unread : most;
        ck_assert_msg(step < 40000000, "it stalls: %lu were heard", (unsigned long)n_heard);
    }
    ck_assert_uint_gt(most, CREDIT_SUM / 4); /* it was stopped for long enough */
    ck_assert_uint_le(most, CREDIT_SUM + (uint64_t)N_SOURCES * (MESSAGE_MAX + CREDIT_COST));
    for (unsigned i = 0; i < N_SOURCES; i++) {
        ck_assert(sources[i].heard == N_MESSAGES && sources[i].unread == 0);
        credit_fini(&sources[i].out);
        credit_fini(&sources[i].in);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("credit");
    TCase *t = tcase_create("one"), *m = tcase_create("many");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, one_message_may_go_beyond_the_allotment);
    tcase_add_test(t, what_waits_keeps_its_order);
    tcase_add_test(t, a_message_is_cut_and_forgotten);
    tcase_add_test(t, what_waits_for_a_route_that_ends_is_dropped);
    tcase_add_test(t, without_memory_nothing_changes);
    tcase_add_test(t, foreign_numbers_are_bounded);
    tcase_add_test(t, sources_share_a_sum);
    tcase_add_test(t, half_of_what_was_told_is_worth_a_word);
    suite_add_tcase(s, t);
    tcase_add_loop_test(m, a_reader_that_stops_costs_its_allotments, 0, 3);
    tcase_set_timeout(m, 60);
    suite_add_tcase(s, m);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
