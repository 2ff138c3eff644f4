/* SPDX-License-Identifier: Apache-2.0 */
/* A link to a real GCS on a real Redis, over loopback. */
#include "gcs/link.h"

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/server.h"
#include "lib/base/log.h"
#include "tests/contract/redis_server.h"

static const struct auth_token token = {"right-token"}, wrong_token = {"wrong-token"};
static struct redis_server redis;
static struct loop *loop;
static struct rpc_bridge *bridge;
static struct gcs_server *gcs;
static struct gcs_link *l;
static char at[64], address[80];
static struct unique_id cluster;

static unsigned n_greeted, n_refused, n_replies;
static uint64_t incarnation;
static enum err_code refusal, last_code;
static int last_job;
static struct held_job held[] = {{.job = 50, .processes = 300}};

/* --- the GCS --- */

static void on_ready(void *arg, int port, const char *hex, uint64_t number)
{
    (void)arg;
    (void)number;
    id_parse(hex, cluster.bytes, sizeof cluster.bytes);
    snprintf(at, sizeof at, "127.0.0.1:%d", port);
    snprintf(address, sizeof address, "ipv4:%s", at);
}

static void on_end(void *arg, const char *why)
{
    (void)arg;
    ck_abort_msg("%s", why);
}

static void start_gcs(void)
{
    struct err err;

    gcs = gcs_server_create(&(struct gcs_server_config){.loop = loop,
                                                        .address = at,
                                                        .redis = redis.path,
                                                        .ns = "x",
                                                        .token = &token,
                                                        .held_bytes = 1u << 20,
                                                        .on_ready = on_ready,
                                                        .on_end = on_end},
                            &err);
    ck_assert_msg(gcs != NULL, "%s", err.text);
}

/* --- the link --- */

static void what_is_held(void *arg, struct held *out)
{
    (void)arg;
    out->jobs = held;
    out->n_jobs = 1;
}

static void on_greeted(void *arg, const struct hello_reply *reply)
{
    (void)arg;
    n_greeted++;
    incarnation = reply->incarnation;
}

static void on_refused(void *arg, const struct err *err)
{
    (void)arg;
    n_refused++;
    refusal = err->code;
}

static void open_link(const struct auth_token *with, struct unique_id to)
{
    l = gcs_link_create(&(struct gcs_link_config){.loop = loop,
                                                  .bridge = bridge,
                                                  .address = address,
                                                  .token = with,
                                                  .cluster = to,
                                                  .node = {.bytes = {1}},
                                                  .incarnation = 1,
                                                  .held = what_is_held,
                                                  .on_greeted = on_greeted,
                                                  .on_refused = on_refused});
}

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    (void)arg;
    n_replies++;
    last_code = err != NULL ? err->code : ERR_NONE;
    if (err == NULL && size > 0)
        last_job = bytes[size - 1]; /* the last field, and small */
}

static int late_job;
static void on_late_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    on_reply(arg, err, bytes, size);
    late_job = last_job;
}

static void next_job(uint32_t timeout_ms)
{
    gcs_link_call(l,
                  "/ray.rpc.JobInfoGcsService/GetNextJobID",
                  NULL,
                  0,
                  timeout_ms,
                  on_reply,
                  NULL);
}

/* --- waiting --- */

static bool (*condition)(void);

static void turn_end(void *arg)
{
    (void)arg;
    if (gcs != NULL)
        gcs_server_run(gcs);
    if (condition())
        loop_stop(loop);
}

/* check's time limit ends a wait for nothing. */
static void wait_for(bool (*c)(void))
{
    condition = c;
    if (!c())
        loop_run(loop, turn_end, NULL);
}

static unsigned wanted;
static bool is_ready(void)
{
    return address[0] != '\0';
}
static bool has_greeted(void)
{
    return n_greeted >= wanted;
}
static bool has_replies(void)
{
    return n_replies >= wanted;
}
static bool is_refused(void)
{
    return n_refused >= wanted;
}

static void setup(void)
{
    struct err err;

    log_threshold = LOG_LEVEL_BROKEN;
    redis_server_init(&redis);
    redis_server_start(&redis);
    loop = loop_create(&err);
    bridge = rpc_bridge_create(loop, &err);
    snprintf(at, sizeof at, "127.0.0.1:0");
    start_gcs();
    wait_for(is_ready);
}

static void teardown(void)
{
    gcs_link_destroy(l);
    gcs_server_destroy(gcs);
    rpc_bridge_destroy(bridge);
    loop_destroy(loop);
    redis_server_fini(&redis);
}

START_TEST(test_calls_wait_for_the_greeting)
{
    open_link(&token, unique_id_nil());
    next_job(20000);
    ck_assert_uint_eq(n_replies, 0);
    wanted = 1;
    wait_for(has_replies);
    ck_assert_uint_eq(n_greeted, 1);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert_int_eq(last_job, 51); /* above what the link holds */
}
END_TEST

START_TEST(test_calls_outlive_a_restart)
{
    open_link(&token, cluster);
    wanted = 1;
    next_job(20000);
    wait_for(has_replies);
    uint64_t before = incarnation;
    for (int i = 0; i < 5; i++)
        next_job(30000);
    gcs_server_destroy(gcs); /* some are there, some are not */
    gcs = NULL;
    gcs_link_call(l,
                  "/ray.rpc.JobInfoGcsService/GetNextJobID",
                  NULL,
                  0,
                  30000,
                  on_late_reply,
                  NULL);
    held[0].job = 100;
    start_gcs();
    wanted = 7;
    wait_for(has_replies);
    ck_assert_int_eq(last_code, ERR_NONE);
    ck_assert_int_ge(late_job, 101); /* not by one that does not know yet what is held */
    wanted = 2;
    wait_for(has_greeted);
    ck_assert_uint_eq(incarnation, before + 1);
    wanted = 8;
    next_job(20000);
    wait_for(has_replies);
    ck_assert_int_ge(last_job, 101);
    ck_assert_uint_eq(n_refused, 0);
}
END_TEST

static void expect_refused(enum err_code code)
{
    next_job(20000);
    wanted = 1;
    wait_for(is_refused);
    ck_assert_int_eq(refusal, code);
    wait_for(has_replies);
    ck_assert_int_eq(last_code, code);
    next_job(20000); /* a late one too */
    ck_assert_uint_eq(n_replies, 1);
    wanted = 2;
    wait_for(has_replies);
    ck_assert_int_eq(last_code, code);
    ck_assert_uint_eq(n_refused, 1);
}

START_TEST(test_another_cluster_is_refused)
{
    open_link(&token, (struct unique_id){.bytes = {9}});
    expect_refused(ERR_DENIED);
}
END_TEST

START_TEST(test_a_wrong_token_is_refused)
{
    open_link(&wrong_token, unique_id_nil());
    expect_refused(ERR_DENIED);
}
END_TEST

START_TEST(test_a_gcs_that_is_away_times_out)
{
    gcs_server_destroy(gcs);
    gcs = NULL;
    open_link(&token, cluster);
    next_job(100);
    wanted = 1;
    wait_for(has_replies);
    ck_assert_int_eq(last_code, ERR_TIMEOUT);
    next_job(20000);
    gcs_link_destroy(l);
    l = NULL;
    ck_assert_uint_eq(n_replies, 2);
    ck_assert_int_eq(last_code, ERR_CANCELED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gcs_link");
    TCase *t = tcase_create("gcs_link");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_calls_wait_for_the_greeting);
    tcase_add_test(t, test_calls_outlive_a_restart);
    tcase_add_test(t, test_another_cluster_is_refused);
    tcase_add_test(t, test_a_wrong_token_is_refused);
    tcase_add_test(t, test_a_gcs_that_is_away_times_out);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
