/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/router.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/net/wire.h"

#define OWNER  3u
#define WORKER 7u

static struct router *r;

/* What was sent last, and how many. */
static struct {
    uint32_t slot, route;
    enum frame_class class;
    uint8_t type;
    char body[64];
    size_t size;
    unsigned n;
} sent;

static void on_send(void *arg,
                    uint32_t slot,
                    enum frame_class class,
                    uint8_t type,
                    uint32_t route,
                    const void *body,
                    size_t size)
{
    (void)arg;
    sent.slot = slot;
    sent.class = class;
    sent.type = type;
    sent.route = route;
    sent.size = size;
    memset(sent.body, 0, sizeof sent.body);
    if (size > 0)
        memcpy(sent.body, body, size < sizeof sent.body - 1 ? size : sizeof sent.body - 1);
    sent.n++;
}

static void setup(void)
{
    memset(&sent, 0, sizeof sent);
    r = router_create(on_send, NULL);
}

static void teardown(void)
{
    router_destroy(r);
}

static int feed(uint32_t from, uint32_t route, uint8_t type, uint8_t flags, const char *body)
{
    struct frame f = {.h = {.type = type, .route = route, .flags = flags},
                      .body = (const uint8_t *)body,
                      .body_size = (uint32_t)strlen(body),
                      .fd = -1};
    struct err err;

    return router_on_frame(r, from, &f, &err);
}

START_TEST(test_a_pair_has_one_route)
{
    uint32_t a = router_bind(r, OWNER, WORKER);

    ck_assert_uint_ne(a, 0); /* 0 is the raylet itself */
    ck_assert_uint_eq(router_bind(r, OWNER, WORKER), a);
    ck_assert_uint_eq(router_find(r, OWNER, WORKER), a);
    ck_assert_uint_ne(router_bind(r, WORKER, OWNER), a); /* the other way round is another */
    ck_assert_uint_eq(router_find(r, OWNER, 8), 0);
}
END_TEST

START_TEST(test_relays_both_ways)
{
    uint32_t a = router_bind(r, OWNER, WORKER);

    ck_assert_int_eq(feed(OWNER, a, WIRE_PUSH, 0, "task"), 0);
    ck_assert_uint_eq(sent.slot, WORKER);
    ck_assert_uint_eq(sent.route, a);
    ck_assert_int_eq(sent.class, FRAME_CALLS);
    ck_assert_str_eq(sent.body, "task");
    ck_assert_int_eq(feed(WORKER, a, WIRE_DONE, 0, "value"), 0);
    ck_assert_uint_eq(sent.slot, OWNER);
    ck_assert_str_eq(sent.body, "value");
    ck_assert_int_eq(feed(OWNER, a, WIRE_TAKE_BACK, 0, "x"), 0);
    ck_assert_int_eq(sent.class, FRAME_CONTROL);
}
END_TEST

/* Control may come between the parts of a call. */
START_TEST(test_joins_a_long_message)
{
    uint32_t a = router_bind(r, OWNER, WORKER);

    feed(OWNER, a, WIRE_PUSH, FRAME_MORE, "one ");
    ck_assert_uint_eq(sent.n, 0);
    feed(OWNER, a, WIRE_TAKE_BACK, 0, "x");
    ck_assert_uint_eq(sent.n, 1);
    feed(WORKER, a, WIRE_DONE, 0, "y");
    feed(OWNER, a, WIRE_PUSH, 0, "two");
    ck_assert_uint_eq(sent.n, 3);
    ck_assert_str_eq(sent.body, "one two");
}
END_TEST

START_TEST(test_a_type_change_in_mid_message_is_malformed)
{
    uint32_t a = router_bind(r, OWNER, WORKER);

    feed(OWNER, a, WIRE_PUSH, FRAME_MORE, "one ");
    ck_assert_int_eq(feed(OWNER, a, WIRE_TEMPLATE, 0, "t"), -1);
    ck_assert_uint_eq(sent.n, 0);
}
END_TEST

START_TEST(test_others_cannot_use_a_route)
{
    uint32_t a = router_bind(r, OWNER, WORKER);

    ck_assert_int_eq(feed(9, a, WIRE_PUSH, 0, "task"), 0);
    ck_assert_int_eq(feed(OWNER, a + 1, WIRE_PUSH, 0, "task"), 0);
    ck_assert_uint_eq(sent.n, 0);
}
END_TEST

/* A process's death is an event to each that talked to it; its routes are never used again. */
START_TEST(test_the_end_of_a_process_is_told)
{
    uint32_t a = router_bind(r, OWNER, WORKER), b = router_bind(r, 9, WORKER);

    router_unbind_process(r, OWNER);
    ck_assert_uint_eq(sent.n, 1);
    ck_assert_uint_eq(sent.slot, WORKER);
    ck_assert_uint_eq(sent.type, WIRE_GOODBYE);
    ck_assert_uint_eq(sent.route, a);
    ck_assert_int_eq(feed(WORKER, a, WIRE_DONE, 0, "late"), 0);
    ck_assert_uint_eq(sent.n, 1);
    ck_assert_uint_eq(router_find(r, 9, WORKER), b);
    ck_assert_uint_gt(router_bind(r, OWNER, WORKER), b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("router");
    TCase *t = tcase_create("router");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_a_pair_has_one_route);
    tcase_add_test(t, test_relays_both_ways);
    tcase_add_test(t, test_joins_a_long_message);
    tcase_add_test(t, test_a_type_change_in_mid_message_is_malformed);
    tcase_add_test(t, test_others_cannot_use_a_route);
    tcase_add_test(t, test_the_end_of_a_process_is_told);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
