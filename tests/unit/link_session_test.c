/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends of a session and the streams between them, which break at any step. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/net/link_session.h"

/* --- an end, and what is on its way from it --- */

#define BATCHES 64

struct end {
    struct link_session *session;
    uint64_t n_sent[FRAME_N_CLASSES], n_got[FRAME_N_CLASSES];
    size_t n_all;
    char order[64]; /* of what came: a letter for each class */
    size_t end_after;
    struct {
        uint8_t *bytes;
        size_t size;
    } batches[BATCHES];
    size_t first, n;
};

static struct end a, b;
static uint64_t seed;

static uint64_t random_below(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

/* Each message says its number in its class and its size, then bytes that follow from these. */
struct stamp {
    uint64_t number;
    uint32_t size;
} __attribute__((packed));

static uint8_t pattern(uint64_t number, size_t i)
{
    return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static void on_message(void *arg, enum frame_class class, const uint8_t *bytes, size_t size)
{
    struct end *e = arg;
    struct stamp s;

    ck_assert_uint_ge(size, sizeof s);
    memcpy(&s, bytes, sizeof s);
    ck_assert_uint_eq(s.number, e->n_got[class]);
    ck_assert_uint_eq(s.size, size);
    for (size_t i = sizeof s; i < size; i++)
        if (bytes[i] != pattern(s.number, i))
            ck_abort_msg("byte %zu of message %lu is wrong", i, (unsigned long)s.number);
    e->n_got[class]++;
    if (e->n_all < sizeof e->order - 1)
        e->order[e->n_all] = "kcb"[class];
    e->n_all++;
    if (e->n_all == e->end_after)
        link_session_end(e->session);
}

static void send(struct end *e, enum frame_class class, size_t size)
{
    static uint8_t bytes[LINK_SESSION_MESSAGE_MAX];
    struct stamp s = {.number = e->n_sent[class]++, .size = (uint32_t)size};
    size_t head = random_below(2) != 0 ? sizeof s : random_below(size + 1);

    memcpy(bytes, &s, sizeof s);
    for (size_t i = sizeof s; i < size; i++)
        bytes[i] = pattern(s.number, i);
    link_session_send(e->session, class, bytes, head, bytes + head, size - head);
}

static bool gather(struct end *e, bool acknowledge)
{
    struct iovec pieces[LINK_SESSION_PIECES_MAX];

    if (e->n == BATCHES)
        return false;
    int n = link_session_gather(e->session, pieces, acknowledge);
    if (n == 0)
        return false;
    size_t at = (e->first + e->n++) % BATCHES, size = 0;
    for (int i = 0; i < n; i++)
        size += pieces[i].iov_len;
    ck_assert_uint_le(size, LINK_SESSION_BATCH_MAX);
    e->batches[at].bytes = xmalloc(size);
    e->batches[at].size = size;
    size = 0;
    for (int i = 0; i < n; i++) {
        memcpy(e->batches[at].bytes + size, pieces[i].iov_base, pieces[i].iov_len);
        size += pieces[i].iov_len;
    }
    return true;
}

static void drop(struct end *e)
{
    free(e->batches[e->first].bytes);
    e->first = (e->first + 1) % BATCHES;
    e->n--;
}

static void deliver(struct end *from, struct end *to)
{
    struct err err;

    if (link_session_take(to->session,
                          from->batches[from->first].bytes,
                          from->batches[from->first].size,
                          &err)
        != 0)
        ck_abort_msg("%s", err.text);
    drop(from);
}

static void lose_all(void)
{
    while (a.n > 0)
        drop(&a);
    while (b.n > 0)
        drop(&b);
}

static void resume(void)
{
    const uint64_t for_a = link_session_expects(b.session), for_b = link_session_expects(a.session);

    lose_all();
    ck_assert_int_eq(link_session_resume(a.session, for_a, NULL), 0);
    ck_assert_int_eq(link_session_resume(b.session, for_b, NULL), 0);
}

/* Until all that was sent has arrived and both know it. */
static void settle(void)
{
    for (bool moved = true; moved;) {
        moved = gather(&a, true);
        moved = gather(&b, true) || moved;
        while (a.n > 0)
            deliver(&a, &b);
        while (b.n > 0)
            deliver(&b, &a);
    }
}

static void setup(void)
{
    a = b = (struct end){0};
    seed = 88172645463325252u;
    a.session = link_session_create(on_message, &a);
    b.session = link_session_create(on_message, &b);
}

static void teardown(void)
{
    lose_all();
    link_session_destroy(a.session);
    link_session_destroy(b.session);
}

/* --- */

START_TEST(test_messages_of_all_sizes_arrive)
{
    static const size_t sizes[] = {12, 13, 500, 65500, 65512, 65536, 131072, 1000000};
    size_t n = sizeof sizes / sizeof sizes[0];

    resume();
    for (size_t i = 0; i < n; i++)
        send(&a, FRAME_BODIES, sizes[i]);
    send(&b, FRAME_CALLS, LINK_SESSION_MESSAGE_MAX);
    settle();
    ck_assert_uint_eq(b.n_got[FRAME_BODIES], n);
    ck_assert_uint_eq(a.n_got[FRAME_CALLS], 1);
    ck_assert_uint_eq(link_session_backlog(a.session) + link_session_backlog(b.session), 0);
}
END_TEST

static void count_empty(void *arg, enum frame_class class, const uint8_t *bytes, size_t size)
{
    (void)class;
    (void)bytes;
    ck_assert_uint_eq(size, 0);
    ++*(unsigned *)arg;
}

START_TEST(test_a_message_of_no_bytes_is_one)
{
    unsigned n = 0;

    link_session_destroy(b.session);
    b.session = link_session_create(count_empty, &n);
    resume();
    link_session_send(a.session, FRAME_CALLS, NULL, 0, NULL, 0);
    link_session_send(a.session, FRAME_CALLS, "", 0, NULL, 0);
    settle();
    ck_assert_uint_eq(n, 2);
}
END_TEST

START_TEST(test_small_messages_share_a_batch)
{
    resume();
    for (int i = 0; i < 1000; i++)
        send(&a, FRAME_CALLS, 64);
    ck_assert(gather(&a, false));
    ck_assert(!gather(&a, false));
    ck_assert_uint_lt(a.batches[0].size, 70000);
    settle();
    ck_assert_uint_eq(b.n_got[FRAME_CALLS], 1000);
}
END_TEST

START_TEST(test_control_waits_for_two_blocks_at_most)
{
    resume();
    send(&a, FRAME_BODIES, 10u << 20);
    send(&a, FRAME_CALLS, 10u << 20);
    ck_assert(gather(&a, false)); /* in flight */
    send(&a, FRAME_CONTROL, 100);
    ck_assert(gather(&a, false));
    deliver(&a, &b);
    ck_assert_uint_eq(b.n_got[FRAME_CONTROL], 0);
    deliver(&a, &b);
    ck_assert_uint_eq(b.n_got[FRAME_CONTROL], 1);
    settle();
    ck_assert_str_eq(b.order, "kcb");
}
END_TEST

START_TEST(test_nothing_is_said_without_need)
{
    resume();
    ck_assert(!gather(&a, true));
    send(&a, FRAME_CALLS, 100);
    ck_assert(link_session_has_news(a.session));
    ck_assert(gather(&a, false));
    ck_assert(!link_session_has_news(a.session));
    deliver(&a, &b);
    ck_assert_uint_gt(link_session_owes(b.session), 100);
    ck_assert(!gather(&b, false));
    ck_assert(gather(&b, true));
    ck_assert_uint_eq(link_session_owes(b.session), 0);
    ck_assert(!gather(&b, true));
    ck_assert_uint_gt(link_session_backlog(a.session), 100);
    deliver(&b, &a);
    ck_assert_uint_eq(link_session_backlog(a.session), 0);
    link_session_break(a.session);
    send(&a, FRAME_CALLS, 100);
    ck_assert(!link_session_has_news(a.session));
    ck_assert(!gather(&a, true));
}
END_TEST

START_TEST(test_what_was_lost_is_sent_again)
{
    resume();
    for (int i = 0; i < 10; i++) {
        send(&a, FRAME_CALLS, 100000);
        ck_assert(gather(&a, false));
    }
    for (int i = 0; i < 4; i++)
        deliver(&a, &b); /* their acknowledgements never come */
    resume();
    settle();
    ck_assert_uint_eq(b.n_got[FRAME_CALLS], 10);
}
END_TEST

/* Anything may be lost at any step, and either end may see it first. */
START_TEST(test_model)
{
    struct end *ends[] = {&a, &b};

    seed = 1000003u * (uint64_t)(_i + 1);
    resume();
    for (int step = 0; step < 3000; step++) {
        struct end *e = ends[random_below(2)], *other = e == &a ? &b : &a;
        switch (random_below(8)) {
        case 0:
        case 1:
        case 2: {
            const size_t most[] = {50, 50, 50, 50, 2000, 2000, 70000, 400000};
            send(e, (enum frame_class)random_below(3), 12 + random_below(most[random_below(8)]));
            break;
        }
        case 3:
        case 4:
            gather(e, random_below(2) != 0);
            break;
        case 5:
        case 6:
            if (e->n > 0)
                deliver(e, other);
            break;
        case 7:
            switch (random_below(8)) {
            case 0:
                resume();
                break;
            case 1: /* only one end knows; the other gathers into nothing */
                link_session_break(e->session);
                lose_all();
                while (random_below(3) != 0 && gather(other, true))
                    ;
                lose_all();
                resume();
                break;
            }
            break;
        }
    }
    resume();
    settle();
    for (int c = 0; c < FRAME_N_CLASSES; c++) {
        ck_assert_uint_eq(b.n_got[c], a.n_sent[c]);
        ck_assert_uint_eq(a.n_got[c], b.n_sent[c]);
    }
    ck_assert_uint_eq(link_session_backlog(a.session) + link_session_backlog(b.session), 0);
}
END_TEST

START_TEST(test_an_end_in_a_callback_is_the_last)
{
    resume();
    b.end_after = 2;
    for (int i = 0; i < 5; i++)
        send(&a, FRAME_CALLS, 100);
    gather(&a, false);
    deliver(&a, &b);
    ck_assert_uint_eq(b.n_all, 2);
    ck_assert(!gather(&b, true));
}
END_TEST

/* --- what never should come --- */

static void refused(const void *bytes, size_t size, const char *why)
{
    struct err err;
    const uint64_t n = b.n_all;

    ck_assert_int_eq(link_session_take(b.session, bytes, size, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    if (strstr(err.text, why) == NULL)
        ck_abort_msg("\"%s\" does not say \"%s\"", err.text, why);
    ck_assert_uint_eq(b.n_all, n);
}

START_TEST(test_gaps_and_doubles_are_refused)
{
    resume();
    for (int i = 0; i < 3; i++) {
        send(&a, FRAME_CALLS, 100);
        gather(&a, false);
    }
    refused(a.batches[1].bytes, a.batches[1].size, "block 1 came instead of 0");
    ck_assert_int_eq(link_session_take(b.session, a.batches[0].bytes, a.batches[0].size, NULL), 0);
    refused(a.batches[0].bytes, a.batches[0].size, "block 0 came instead of 1");
    refused(a.batches[2].bytes, a.batches[2].size, "block 2 came instead of 1");
    resume(); /* and with the next stream all is well */
    settle();
    ck_assert_uint_eq(b.n_got[FRAME_CALLS], 3);
}
END_TEST

struct batch {
    uint64_t expects;
    struct {
        uint32_t size;
        uint8_t class, spare[3];
        uint64_t number;
    } block;
    uint32_t part;
    uint8_t bytes[64];
} __attribute__((packed));

static struct batch small(uint32_t part)
{
    struct batch m = {.block = {.size = 68}, .part = part};
    struct stamp s = {.size = 64};

    memcpy(m.bytes, &s, sizeof s);
    for (size_t i = sizeof s; i < sizeof m.bytes; i++)
        m.bytes[i] = pattern(0, i);
    return m;
}

START_TEST(test_malformed_batches_are_refused)
{
    struct batch m = small(64);
    const size_t whole = 8 + 16 + 4 + 64;

    resume();
    for (size_t n = 0; n < whole; n++)
        if (n != 8) /* an acknowledgement alone */
            refused(&m, n, "cut off");
    m.block.class = FRAME_N_CLASSES;
    refused(&m, whole, "class");
    m = small(65);
    refused(&m, whole, "a part is cut off");
    m = small(63);
    refused(&m, whole, "a part is cut off");
    m = small(0x80000000u);
    refused(&m, whole, "empty");
    m = small(64);
    m.expects = 1; /* we have sent nothing */
    refused(&m, whole, "block 1 is expected");
    m = small(64);
    m.block.size = 0;
    refused(&m, 8 + 16, "empty");
    m = small(64);
    ck_assert_int_eq(link_session_take(b.session, (const uint8_t *)&m, whole, NULL), 0);
    ck_assert_uint_eq(b.n_all, 1);
}
END_TEST

START_TEST(test_a_message_without_end_is_refused)
{
    const size_t n = 60000;
    uint8_t *bytes = xcalloc(1, sizeof(struct batch) + n);
    struct batch *m = (struct batch *)(void *)bytes;
    struct err err;
    size_t all = 0;

    resume();
    *m = (struct batch){.block = {.size = (uint32_t)n + 4, .class = FRAME_BODIES},
                        .part = 0x80000000u | (uint32_t)n};
    while (link_session_take(b.session, bytes, 8 + 16 + 4 + n, &err) == 0) {
        all += n;
        m->block.number++;
        ck_assert_uint_le(all, LINK_SESSION_MESSAGE_MAX);
    }
    ck_assert_uint_gt(all + n, LINK_SESSION_MESSAGE_MAX);
    ck_assert_ptr_nonnull(strstr(err.text, "more than"));
    free(bytes);
}
END_TEST

START_TEST(test_without_memory_nothing_is_lost)
{
    struct err err;

    resume();
    send(&a, FRAME_CALLS, 100);
    send(&a, FRAME_CALLS, 100000);
    gather(&a, false);
    alloc_test_fail_at(1);
    ck_assert_int_eq(link_session_take(b.session, a.batches[0].bytes, a.batches[0].size, &err), -1);
    ck_assert_int_eq(err.code, ERR_NO_MEMORY);
    alloc_test_fail_at(0);
    resume();
    settle();
    ck_assert_uint_eq(b.n_got[FRAME_CALLS], 2);
}
END_TEST

START_TEST(test_another_sessions_stream_is_refused)
{
    struct err err;

    resume();
    for (int i = 0; i < 3; i++) {
        send(&a, FRAME_CALLS, 100);
        settle();
    }
    ck_assert_int_eq(link_session_resume(a.session, 2, &err), -1); /* it had acknowledged them */
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    ck_assert_int_eq(link_session_resume(a.session, 4, &err), -1); /* never sent */
    ck_assert_int_eq(link_session_resume(a.session, 3, &err), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("link_session");
    TCase *c = tcase_create("session");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_messages_of_all_sizes_arrive);
    tcase_add_test(c, test_a_message_of_no_bytes_is_one);
    tcase_add_test(c, test_small_messages_share_a_batch);
    tcase_add_test(c, test_control_waits_for_two_blocks_at_most);
    tcase_add_test(c, test_nothing_is_said_without_need);
    tcase_add_test(c, test_what_was_lost_is_sent_again);
    tcase_add_loop_test(c, test_model, 0, 12);
    tcase_add_test(c, test_an_end_in_a_callback_is_the_last);
    tcase_add_test(c, test_gaps_and_doubles_are_refused);
    tcase_add_test(c, test_malformed_batches_are_refused);
    tcase_add_test(c, test_a_message_without_end_is_refused);
    tcase_add_test(c, test_without_memory_nothing_is_lost);
    tcase_add_test(c, test_another_sessions_stream_is_refused);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
