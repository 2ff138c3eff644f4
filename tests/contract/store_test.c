/* SPDX-License-Identifier: Apache-2.0 */
/* What each store of the GCS must do, and the tables that stand on it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/job_table.h"
#include "gcs/node_table.h"
#include "gcs/process_table.h"
#include "gcs/store_memory.h"
#include "gcs/store_redis.h"
#include "lib/base/log.h"
#include "tests/contract/redis_server.h"

/* --- a store in Redis: each test its own namespace of one server --- */

static struct redis_server server;
static struct loop *loop;

static void until_all_told(void *arg)
{
    struct store_redis_info info;

    store_redis_run(arg);
    store_redis_info(arg, &info);
    if (info.state == STORE_REDIS_READY && info.stats.n_open == 0)
        loop_stop(loop);
}

static void run_redis(struct store *store)
{
    until_all_told(store);
    loop_run(loop, until_all_told, store);
}

static struct store *create_redis(void)
{
    static const char *const tables[] = {"t", "s", "u", "NODE", "JOB", STORE_COUNTERS, NULL};
    static unsigned n;
    char ns[32];
    struct err err;

    snprintf(ns, sizeof ns, "test-%d-%u", getpid(), n++);
    loop = loop_create(&err);
    struct store *store =
        store_redis_create(&(struct store_redis_config){.loop = loop,
                                                        .address = server.path,
                                                        .ns = ns,
                                                        .tables = tables,
                                                        .limits = {16u << 20, 64u << 20},
                                                        .beat_ms = 100,
                                                        .slow_ms = 10000,
                                                        .give_up_ms = 10000},
                           &err);
    ck_assert_msg(store != NULL, "%s", err.text);
    loop_run(loop, until_all_told, store);
    return store;
}

/* The implementations: how to make one, and to let its calls complete. */
static const struct {
    const char *name;
    struct store *(*create)(void);
    void (*run)(struct store *s);
} kinds[] = {
    {"memory", store_memory_create, store_memory_run},
    {"redis", create_redis, run_redis},
};

static int kind;
static struct store *s;

/* What the last completions said. */
static unsigned n_done;
static enum err_code codes[16];
static char text[256];
static uint64_t number;

static void setup(void)
{
    s = kinds[kind].create();
    n_done = 0;
    text[0] = '\0';
    number = UINT64_MAX;
}

static void teardown(void)
{
    if (s != NULL)
        s->ops->destroy(s);
    loop_destroy(loop);
}

static void run(void)
{
    kinds[kind].run(s);
}

static void done(void *arg, enum err_code code)
{
    (void)arg;
    codes[n_done++ % 16] = code;
}

static void value(void *arg, enum err_code code, const void *bytes, size_t size)
{
    done(arg, code);
    ck_assert((bytes == NULL) == (code != ERR_NONE));
    snprintf(text, sizeof text, "%.*s", (int)size, bytes != NULL ? (const char *)bytes : "");
}

static void row(void *arg, enum err_code code, const char *key, const void *bytes, size_t size)
{
    size_t n = strlen(text);

    if (key == NULL)
        done(arg, code);
    else
        snprintf(text + n, sizeof text - n, "%s=%.*s ", key, (int)size, (const char *)bytes);
}

static void counted(void *arg, enum err_code code, uint64_t before)
{
    done(arg, code);
    number = before;
}

static void put(const char *table, const char *key, const char *v)
{
    store_put(s, table, key, v, strlen(v), STORE_PUT_ANY, done, NULL);
}

/* INV-30 stands on this: the answer to a call is given once, and never from inside the call. */
START_TEST(test_completes_once_and_later)
{
    put("t", "a", "1");
    ck_assert_uint_eq(n_done, 0);
    run();
    ck_assert_uint_eq(n_done, 1);
    ck_assert_int_eq(codes[0], ERR_NONE);
    run();
    ck_assert_uint_eq(n_done, 1);
}
END_TEST

START_TEST(test_gets_what_was_put_before)
{
    put("t", "a", "1");
    store_get(s, "t", "a", value, NULL);
    put("t", "a", "2"); /* too late for it */
    run();
    ck_assert_uint_eq(n_done, 3);
    ck_assert_str_eq(text, "1");
    store_get(s, "t", "a", value, NULL);
    run();
    ck_assert_str_eq(text, "2");
    store_get(s, "u", "a", value, NULL);
    run();
    ck_assert_int_eq(codes[4], ERR_NOT_FOUND);
}
END_TEST

START_TEST(test_a_new_row_replaces_none)
{
    store_put(s, "t", "a", "1", 1, STORE_PUT_NEW, done, NULL);
    store_put(s, "t", "a", "2", 1, STORE_PUT_NEW, done, NULL);
    store_get(s, "t", "a", value, NULL);
    run();
    ck_assert_int_eq(codes[0], ERR_NONE);
    ck_assert_int_eq(codes[1], ERR_EXISTS);
    ck_assert_str_eq(text, "1");
}
END_TEST

START_TEST(test_removes)
{
    put("t", "a", "1");
    store_remove(s, "t", "a", done, NULL);
    store_remove(s, "t", "a", done, NULL);
    store_get(s, "t", "a", value, NULL);
    run();
    ck_assert_int_eq(codes[1], ERR_NONE);
    ck_assert_int_eq(codes[2], ERR_NOT_FOUND);
    ck_assert_int_eq(codes[3], ERR_NOT_FOUND);
}
END_TEST

START_TEST(test_scans_one_table_in_order)
{
    put("t", "b", "2");
    put("t", "a", "1");
    put("s", "x", "-");
    put("u", "x", "-");
    store_scan(s, "t", "", row, NULL);
    put("t", "c", "3"); /* too late for it */
    run();
    ck_assert_str_eq(text, "a=1 b=2 ");
    ck_assert_uint_eq(n_done, 6);
    text[0] = '\0';
    store_scan(s, "none", "", row, NULL);
    run();
    ck_assert_str_eq(text, "");
    ck_assert_uint_eq(n_done, 7);
}
END_TEST

START_TEST(test_counters_only_grow)
{
    store_count(s, "n", 3, counted, NULL);
    run();
    ck_assert_uint_eq(number, 0);
    store_count(s, "n", UINT64_MAX - 3, counted, NULL);
    run();
    ck_assert_uint_eq(number, 3);
    store_count(s, "n", 1, counted, NULL); /* would begin again */
    run();
    ck_assert_int_eq(codes[2], ERR_FULL);
    store_count(s, "n", 0, counted, NULL);
    run();
    ck_assert_uint_eq(number, UINT64_MAX);
}
END_TEST

START_TEST(test_counters_are_raised)
{
    store_raise(s, "n", 7, done, NULL);
    store_count(s, "n", 1, counted, NULL);
    run();
    ck_assert_uint_eq(number, 7);
    store_raise(s, "n", 7, done, NULL); /* it is beyond */
    store_count(s, "n", 0, counted, NULL);
    run();
    ck_assert_uint_eq(number, 8);
    ck_assert_uint_eq(n_done, 4);
}
END_TEST

START_TEST(test_scans_by_prefix)
{
    put("t", "a", "0");
    put("t", "ab", "1");
    put("t", "abc", "2");
    put("t", "ac", "3");
    store_scan(s, "t", "ab", row, NULL);
    run();
    ck_assert_str_eq(text, "ab=1 abc=2 ");
}
END_TEST

START_TEST(test_keys_and_values_are_any_text_and_bytes)
{
    store_put(s, "t", "a \r\n*$%\x01\xff", "\0\r\n$5", 5, STORE_PUT_ANY, done, NULL);
    store_put(s, "t", "", "", 0, STORE_PUT_ANY, done, NULL);
    store_scan(s, "t", "a ", row, NULL);
    store_get(s, "t", "", value, NULL);
    run();
    for (unsigned i = 0; i < 4; i++)
        ck_assert_int_eq(codes[i], ERR_NONE);
}
END_TEST

/* What a completion calls is completed as well. */
static void put_next(void *arg, enum err_code code)
{
    done(arg, code);
    if (n_done < 10)
        store_put(s, "t", "a", "1", 1, STORE_PUT_ANY, put_next, NULL);
}

START_TEST(test_completions_call_on)
{
    store_put(s, "t", "a", "1", 1, STORE_PUT_ANY, put_next, NULL);
    run();
    ck_assert_uint_eq(n_done, 10);
}
END_TEST

START_TEST(test_bounds)
{
    char long_key[STORE_KEY_MAX + 2];
    char *big = calloc(1, STORE_VALUE_MAX + 1);

    memset(long_key, 'k', sizeof long_key - 1);
    long_key[sizeof long_key - 1] = '\0';
    put("t", long_key, "1");
    store_put(s, "t", "a", big, STORE_VALUE_MAX + 1, STORE_PUT_ANY, done, NULL);
    store_put(s, "t", "a", big, STORE_VALUE_MAX, STORE_PUT_ANY, done, NULL);
    store_count(s, long_key, 1, counted, NULL);
    run();
    ck_assert_int_eq(codes[0], ERR_INVALID);
    ck_assert_int_eq(codes[1], ERR_INVALID);
    ck_assert_int_eq(codes[2], ERR_NONE);
    ck_assert_int_eq(codes[3], ERR_INVALID);
    free(big);
}
END_TEST

START_TEST(test_destroy_cancels_what_is_open)
{
    put("t", "a", "1");
    store_get(s, "t", "a", value, NULL);
    store_scan(s, "t", "", row, NULL);
    store_count(s, "n", 1, counted, NULL);
    s->ops->destroy(s);
    s = NULL;
    ck_assert_uint_eq(n_done, 4);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(codes[i], ERR_CANCELED);
    ck_assert_str_eq(text, "");
}
END_TEST

/* --- the tables --- */

static uint32_t job, first, n_given;

static void on_job(void *arg, enum err_code code, uint32_t given)
{
    done(arg, code);
    job = given;
}

static void on_block(void *arg, enum err_code code, uint32_t from, uint32_t n)
{
    done(arg, code);
    first = from;
    n_given = n;
}

START_TEST(test_job_numbers_are_never_given_twice)
{
    struct job_row a = {.start_ms = 1, .driver_pid = 7, .entry = "program"};

    job_table_add(s, &a, on_job, NULL);
    run();
    ck_assert_uint_eq(job, 1);
    a.end_ms = 2;
    job_table_end(s, 1, &a, done, NULL);
    job_table_add(s, &a, on_job, NULL);
    run();
    ck_assert_uint_eq(job, 2);
    store_count(s, "job", UINT32_MAX - 4, counted, NULL);
    job_table_add(s, &a, on_job, NULL);
    run();
    ck_assert_uint_eq(job, UINT32_MAX - 1); /* the last is nil */
    job_table_add(s, &a, on_job, NULL);
    run();
    ck_assert_int_eq(codes[5], ERR_FULL);
}
END_TEST

START_TEST(test_process_numbers_come_in_blocks)
{
    job_table_take_processes(s, 1, 256, on_block, NULL);
    run();
    ck_assert_uint_eq(first, 1); /* 0 is none */
    ck_assert_uint_eq(n_given, 256);
    job_table_take_processes(s, 1, 256, on_block, NULL);
    run();
    ck_assert_uint_eq(first, 257);
    job_table_take_processes(s, 2, 1, on_block, NULL); /* each job has its own */
    run();
    ck_assert_uint_eq(first, 1);
    job_table_take_processes(s, 1, JOB_PROCESSES_MAX - 513, on_block, NULL);
    run();
    ck_assert_uint_eq(first + n_given, JOB_PROCESSES_MAX);
    job_table_take_processes(s, 1, 1, on_block, NULL);
    run();
    ck_assert_int_eq(codes[4], ERR_FULL);
}
END_TEST

static struct process_block at;

static void on_located(void *arg, enum err_code code, const struct process_block *block)
{
    done(arg, code);
    at = block != NULL ? *block : (struct process_block){.n = 0};
}

static enum err_code locate(uint32_t process)
{
    process_table_locate(s, process, on_located, NULL);
    run();
    return codes[(n_done - 1) % 16];
}

static enum err_code hold(const struct unique_id *node, uint32_t from, uint32_t n)
{
    struct process_block b = {.first = from, .n = n, .node = *node, .node_number = 9};

    process_table_hold(s, &b, done, NULL);
    run();
    return codes[(n_done - 1) % 16];
}

/* One that was given and is nobody's any more is told from one that nobody had. */
START_TEST(test_blocks_of_dead_nodes_are_removed)
{
    struct unique_id a = {{1}}, b = {{2}};

    process_table_take(s, &a, 0, 1, on_block, NULL);
    process_table_take(s, &a, 1, 256, on_block, NULL);
    process_table_take(s, &b, 0, 1, on_block, NULL);
    process_table_take(s, &a, 1, 65536, on_block, NULL);
    run();
    ck_assert_int_eq(locate(65794), ERR_NONE);
    ck_assert(unique_id_eq(&at.node, &a));
    process_table_remove(s, &a, done, NULL);
    run();
    ck_assert_int_eq(codes[(n_done - 1) % 16], ERR_NONE);
    ck_assert_int_eq(locate(1), ERR_DIED);
    ck_assert_int_eq(locate(257), ERR_DIED);
    ck_assert_int_eq(locate(65794), ERR_DIED);
    ck_assert_int_eq(locate(65795), ERR_NOT_FOUND);
    ck_assert_int_eq(locate(258), ERR_NONE);
    ck_assert(unique_id_eq(&at.node, &b));
    process_table_remove(s, &a, done, NULL); /* it has none */
    run();
    ck_assert_int_eq(codes[(n_done - 1) % 16], ERR_NONE);
}
END_TEST

START_TEST(test_blocks_whose_rows_were_lost_are_held)
{
    struct unique_id a = {{1}}, b = {{2}};

    ck_assert_int_eq(locate(300), ERR_NOT_FOUND);
    ck_assert_int_eq(hold(&a, 257, 256), ERR_NONE);
    ck_assert_int_eq(hold(&a, 257, 256), ERR_NONE);
    ck_assert_int_eq(locate(512), ERR_NONE);
    ck_assert(unique_id_eq(&at.node, &a));
    ck_assert_uint_eq(at.node_number, 9);
    ck_assert_int_eq(hold(&b, 257, 256), ERR_EXISTS);
    ck_assert_int_eq(hold(&b, 512, 256), ERR_EXISTS);
    ck_assert_int_eq(hold(&b, 2, 256), ERR_EXISTS);
    ck_assert_int_eq(hold(&b, 1, 256), ERR_NONE);
    ck_assert_int_eq(locate(256), ERR_NONE);
    ck_assert(unique_id_eq(&at.node, &b));
}
END_TEST

static struct node_row found;

static void on_node(void *arg, enum err_code code, const struct node_row *given)
{
    done(arg, code);
    if (given != NULL)
        found = *given;
}

static struct job_row found_job;
static unsigned n_rows;

static void on_job_row(void *arg,
                       enum err_code code,
                       uint32_t number_of,
                       const struct job_row *given)
{
    (void)number_of;
    done(arg, code);
    if (given != NULL)
        found_job = *given;
}

static void count_node(void *arg, enum err_code code, const struct node_row *given)
{
    if (given != NULL)
        n_rows++;
    else
        done(arg, code);
}

static void count_job(void *arg,
                      enum err_code code,
                      uint32_t number_of,
                      const struct job_row *given)
{
    (void)number_of;
    if (given != NULL)
        n_rows++;
    else
        done(arg, code);
}

/* INV-6: death is final. */
START_TEST(test_a_dead_node_does_not_register_again)
{
    struct node_row n = {.state = NODE_ALIVE, .pid = 7, .n_cpus = 2, .name = "head"};

    node_table_register(s, &n, done, NULL);
    node_table_get(s, &n.id, on_node, NULL);
    run();
    ck_assert_str_eq(found.name, "head");
    ck_assert_uint_eq(found.state, NODE_ALIVE);
    node_table_set_dead(s, &n, done, NULL);
    node_table_register(s, &n, done, NULL);
    node_table_get(s, &n.id, on_node, NULL);
    run();
    ck_assert_int_eq(codes[3], ERR_EXISTS);
    ck_assert_uint_eq(found.state, NODE_DEAD);
}
END_TEST

/* What a table's row holds comes back; what is none of ours is an error or passed over. */
START_TEST(test_rows_of_nodes_and_jobs)
{
    struct node_row n = {.id.bytes = {1},
                         .state = NODE_ALIVE,
                         .pid = 7,
                         .start_ms = 5,
                         .n_cpus = 4,
                         .name = "a",
                         .address = "10.0.0.1",
                         .hostname = "host",
                         .socket = "/tmp/s",
                         .node_port = 1,
                         .object_port = 65535,
                         .is_head = 1,
                         .is_driver = 1,
                         .n_resources = 2,
                         .resources = {{"CPU", 4}, {"GPU", 0.5}}};
    struct job_row j = {.start_ms = 1, .driver_pid = 7, .entry = "program"};
    char hex[ID_HEX_MAX];

    node_table_register(s, &n, done, NULL);
    node_table_get(s, &n.id, on_node, NULL);
    run();
    ck_assert_mem_eq(&found, &n, sizeof n);
    struct unique_id foreign = {.bytes = {2}};
    id_hex(foreign.bytes, sizeof foreign.bytes, hex);
    put("NODE", hex, "no row at all \xff");
    put("JOB", "00000001", "no row at all \xff");
    node_table_get(s, &foreign, on_node, NULL);
    run();
    ck_assert_int_eq(codes[4], ERR_PROTOCOL);
    job_table_put(s, 2, &j, done, NULL);
    job_table_get(s, 1, on_job_row, NULL);
    job_table_get(s, 2, on_job_row, NULL);
    run();
    ck_assert_int_eq(codes[6], ERR_PROTOCOL);
    ck_assert_int_eq(codes[7], ERR_NONE);
    ck_assert_mem_eq(&found_job, &j, sizeof j);
    log_threshold = LOG_LEVEL_BROKEN;
    n_rows = 0;
    node_table_scan(s, count_node, NULL);
    job_table_scan(s, count_job, NULL);
    run();
    ck_assert_uint_eq(n_rows, 2);
    ck_assert_uint_eq(n_done, 10);
}
END_TEST

START_TEST(test_what_somebody_holds_is_not_given_again)
{
    job_table_hold(s, 41, 1000, done, NULL);
    job_table_hold(s, 40, 10, done, NULL);
    job_table_next(s, on_job, NULL);
    run();
    ck_assert_uint_eq(job, 42);
    job_table_take_processes(s, 41, 1, on_block, NULL);
    run();
    ck_assert_uint_eq(first, 1001);
    ck_assert_uint_eq(n_done, 4);
}
END_TEST

int main(void)
{
    int failed = 0;

    signal(SIGPIPE, SIG_IGN);
    redis_server_init(&server);
    redis_server_start(&server);
    for (kind = 0; kind < (int)(sizeof kinds / sizeof kinds[0]); kind++) {
        Suite *suite = suite_create(kinds[kind].name);
        TCase *t = tcase_create("store");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, test_completes_once_and_later);
        tcase_add_test(t, test_gets_what_was_put_before);
        tcase_add_test(t, test_a_new_row_replaces_none);
        tcase_add_test(t, test_removes);
        tcase_add_test(t, test_scans_one_table_in_order);
        tcase_add_test(t, test_counters_only_grow);
        tcase_add_test(t, test_counters_are_raised);
        tcase_add_test(t, test_scans_by_prefix);
        tcase_add_test(t, test_keys_and_values_are_any_text_and_bytes);
        tcase_add_test(t, test_completions_call_on);
        tcase_add_test(t, test_bounds);
        tcase_add_test(t, test_destroy_cancels_what_is_open);
        tcase_add_test(t, test_job_numbers_are_never_given_twice);
        tcase_add_test(t, test_process_numbers_come_in_blocks);
        tcase_add_test(t, test_blocks_of_dead_nodes_are_removed);
        tcase_add_test(t, test_blocks_whose_rows_were_lost_are_held);
        tcase_add_test(t, test_a_dead_node_does_not_register_again);
        tcase_add_test(t, test_rows_of_nodes_and_jobs);
        tcase_add_test(t, test_what_somebody_holds_is_not_given_again);
        suite_add_tcase(suite, t);
        SRunner *r = srunner_create(suite);
        srunner_run_all(r, CK_NORMAL);
        failed += srunner_ntests_failed(r);
        srunner_free(r);
    }
    redis_server_fini(&server);
    return failed == 0 ? 0 : 1;
}
