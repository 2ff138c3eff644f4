/* SPDX-License-Identifier: Apache-2.0 */
/* The store in Redis when Redis, or a former GCS, does not do what it should. */
#include "gcs/store_redis.h"

#include <check.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/base/log.h"
#include "tests/contract/redis_server.h"

static const char *const tables[] = {"NODE", "JOB", STORE_COUNTERS, NULL};

static struct redis_server server;
static struct loop *loop;
static struct store *s;
static unsigned n_done, n_failed, n_ready;
static enum err_code last_code;
static char text[2048], why[400];
static uint64_t number;
static const char *password;

static void on_state(void *arg, enum store_redis_state state, const char *sentence)
{
    (void)arg;
    n_ready += state == STORE_REDIS_READY;
    if (state != STORE_REDIS_READY && sentence[0] != '\0')
        snprintf(why, sizeof why, "%s", sentence);
}

static struct store *open_store(void)
{
    struct err err;
    struct store *opened =
        store_redis_create(&(struct store_redis_config){.loop = loop,
                                                        .address = server.path,
                                                        .password = password,
                                                        .ns = "x",
                                                        .tables = tables,
                                                        .limits = {20000, 1u << 20},
                                                        .beat_ms = 10,
                                                        .slow_ms = 50,
                                                        .give_up_ms = 300,
                                                        .on_state = on_state},
                           &err);

    ck_assert_msg(opened != NULL, "%s", err.text);
    return opened;
}

static void setup(void)
{
    struct err err;

    log_threshold = LOG_LEVEL_BROKEN;
    redis_server_init(&server);
    redis_server_start(&server);
    loop = loop_create(&err);
    s = open_store();
    n_done = n_failed = 0;
    text[0] = why[0] = '\0';
}

static void teardown(void)
{
    if (s != NULL)
        s->ops->destroy(s);
    loop_destroy(loop);
    redis_server_fini(&server);
}

/* --- waiting --- */

typedef bool (*condition_f)(const struct store_redis_info *info);
static condition_f condition;

static void until_true(void *arg)
{
    struct store_redis_info info;

    (void)arg;
    store_redis_run(s);
    store_redis_info(s, &info);
    if (condition(&info))
        loop_stop(loop);
}

/* check's time limit ends a wait for nothing. */
static void wait_for(condition_f c)
{
    condition = c;
    until_true(NULL);
    loop_run(loop, until_true, NULL);
}

static bool is_idle(const struct store_redis_info *i)
{
    return i->state == STORE_REDIS_READY && i->stats.n_open == 0;
}
static bool is_away(const struct store_redis_info *i)
{
    return i->state == STORE_REDIS_AWAY;
}
static bool is_refused(const struct store_redis_info *i)
{
    return i->state == STORE_REDIS_REFUSED;
}
static bool is_fenced(const struct store_redis_info *i)
{
    return i->state == STORE_REDIS_FENCED;
}
static bool has_a_reason(const struct store_redis_info *i)
{
    return i->state != STORE_REDIS_READY && why[0] != '\0';
}
static bool is_restored(const struct store_redis_info *i)
{
    return is_idle(i) && i->n_restores > 0;
}
static bool has_answered(const struct store_redis_info *i)
{
    (void)i;
    return n_done > 0;
}
static bool has_connected_again(const struct store_redis_info *i)
{
    return i->n_connects >= 3;
}

static uint64_t n_connects;
static bool has_come_twice(const struct store_redis_info *i)
{
    return i->n_connects >= n_connects + 2;
}

/* --- calls --- */

static void done(void *arg, enum err_code code)
{
    (void)arg;
    n_done++;
    n_failed += code != ERR_NONE;
    last_code = code;
}

static void counted(void *arg, enum err_code code, uint64_t before)
{
    done(arg, code);
    number = before;
}

static void row(void *arg, enum err_code code, const char *key, const void *bytes, size_t size)
{
    size_t n = strlen(text);

    if (key == NULL)
        done(arg, code);
    else
        snprintf(text + n, sizeof text - n, "%s=%.*s ", key, (int)size, (const char *)bytes);
}

static void put(const char *key, const char *v)
{
    store_put(s, "NODE", key, v, strlen(v), STORE_PUT_ANY, done, NULL);
}

static void scan(void)
{
    text[0] = '\0';
    store_scan(s, "NODE", "", row, NULL);
}

static void expect_rows(const char *rows)
{
    wait_for(is_idle);
    scan();
    wait_for(is_idle);
    ck_assert_str_eq(text, rows);
}

/* A GCS that was killed: nothing is said good-bye to. */
static void restart_store(void)
{
    s->ops->destroy(s);
    n_done = n_failed = 0;
    s = open_store();
}

/* Another client's command; what it was answered. */
static const char *raw(const char *fmt, ...)
{
    static char answer[512];
    redisContext *c = redisConnectUnix(server.path);
    va_list ap;

    ck_assert_msg(c != NULL && c->err == 0, "%s", c != NULL ? c->errstr : "memory");
    va_start(ap, fmt);
    redisReply *reply = redisvCommand(c, fmt, ap);
    va_end(ap);
    ck_assert_ptr_nonnull(reply);
    if (reply->str != NULL)
        snprintf(answer, sizeof answer, "%s", reply->str);
    else
        snprintf(answer, sizeof answer, "%lld", reply->integer);
    freeReplyObject(reply);
    redisFree(c);
    return answer;
}

/* --- killed and restarted --- */

START_TEST(test_rows_are_back_after_both_were_killed)
{
    struct store_redis_info before, after;

    wait_for(is_idle);
    put("b", "2");
    put("a", "1");
    store_count(s, "job", 3, counted, NULL);
    store_remove(s, "NODE", "b", done, NULL);
    wait_for(is_idle);
    store_redis_info(s, &before);
    redis_server_kill(&server);
    redis_server_start(&server);
    restart_store();
    expect_rows("a=1 ");
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    ck_assert_uint_eq(number, 3);
    store_redis_info(s, &after);
    ck_assert(unique_id_eq(&before.cluster, &after.cluster));
    ck_assert_uint_eq(after.epoch, before.epoch + 1);
    ck_assert_uint_gt(after.commit, before.commit);
}
END_TEST

START_TEST(test_a_killed_redis_holds_changes_up)
{
    wait_for(is_idle);
    put("a", "1");
    wait_for(is_idle);
    redis_server_kill(&server);
    wait_for(is_away);
    ck_assert_ptr_nonnull(strstr(s->ops->why(s), server.path));
    n_done = 0;
    put("a", "2");
    scan();
    wait_for(has_answered);
    ck_assert_str_eq(text, "a=1 "); /* what was committed */
    ck_assert_uint_eq(n_done, 1);
    redis_server_start(&server);
    expect_rows("a=2 ");
    ck_assert_uint_eq(n_failed, 0);
    ck_assert_str_eq(s->ops->why(s), "");
}
END_TEST

START_TEST(test_held_changes_are_bounded)
{
    char big[1000];

    memset(big, 'x', sizeof big);
    wait_for(is_idle);
    redis_server_kill(&server);
    wait_for(is_away);
    for (int i = 0; i < 30; i++)
        store_put(s, "NODE", "k", big, sizeof big, STORE_PUT_ANY, done, NULL);
    wait_for(has_answered);
    ck_assert_uint_ge(n_done, 10);
    ck_assert_uint_eq(n_failed, n_done);
    ck_assert_int_eq(last_code, ERR_FULL);
    unsigned n_refused = n_failed;
    redis_server_start(&server);
    wait_for(is_idle);
    ck_assert_uint_eq(n_done, 30);
    ck_assert_uint_eq(n_failed, n_refused);
}
END_TEST

/* A stopped Redis gets the round, and the store hangs up before it is answered. */
START_TEST(test_a_round_whose_reply_was_lost_is_done_once)
{
    wait_for(is_idle);
    kill(server.pid, SIGSTOP);
    store_put(s, "NODE", "a", "1", 1, STORE_PUT_NEW, done, NULL);
    store_count(s, "job", 1, counted, NULL);
    wait_for(has_connected_again);
    ck_assert_uint_eq(n_done, 0);
    kill(server.pid, SIGCONT);
    wait_for(is_idle);
    ck_assert_uint_eq(n_done, 2);
    ck_assert_uint_eq(n_failed, 0);
    struct store_redis_info info;
    store_redis_info(s, &info);
    ck_assert_uint_eq(info.n_restores, 0);
    ck_assert_uint_eq(info.commit, 1);
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    ck_assert_uint_eq(number, 1);
    ck_assert_str_eq(raw("HGET RAYx@COUNTER job"), "2");
    restart_store();
    expect_rows("a=1 ");
}
END_TEST

START_TEST(test_reads_go_on_while_redis_is_slow)
{
    wait_for(is_idle);
    put("a", "1");
    wait_for(is_idle);
    kill(server.pid, SIGSTOP);
    n_done = 0;
    put("a", "2");
    scan();
    wait_for(has_answered);
    ck_assert_str_eq(text, "a=1 ");
    kill(server.pid, SIGCONT);
    expect_rows("a=2 ");
}
END_TEST

/* Every prefix loads: whatever moment Redis is killed at, and the GCS after it. */
START_TEST(test_what_was_answered_survives_kills_at_any_time)
{
    unsigned seed = 11, n_asked = 0, n_told_before = 0;
    char value[16];

    for (int round = 0; round < 12; round++) {
        unsigned n = 1 + (unsigned)rand_r(&seed) % 40;
        wait_for(is_idle);
        n_done = 0;
        for (unsigned i = 0; i < n; i++) {
            snprintf(value, sizeof value, "%u", ++n_asked);
            store_put(s, "NODE", "first", value, strlen(value), STORE_PUT_ANY, done, NULL);
            store_put(s, "NODE", "second", value, strlen(value), STORE_PUT_ANY, NULL, NULL);
            if (i % 7 == 0)
                store_redis_run(s);
        }
        for (int turns = rand_r(&seed) % 3; turns > 0; turns--)
            if (n_done == 0)
                wait_for(has_answered);
        unsigned told = n_told_before + n_done;
        redis_server_kill(&server);
        if (round % 2 == 0)
            restart_store();
        redis_server_start(&server);
        wait_for(is_idle);
        unsigned first = 0, second = 0;
        scan();
        wait_for(is_idle);
        sscanf(text, "first=%u second=%u", &first, &second);
        ck_assert_uint_ge(first, told);
        ck_assert_uint_le(first, n_asked);
        ck_assert_uint_eq(first, second); /* they were called in one turn */
        n_asked = n_told_before = first;
    }
}
END_TEST

/* --- gone back in time --- */

START_TEST(test_an_emptied_redis_is_filled_again)
{
    wait_for(is_idle);
    put("a", "1");
    store_count(s, "job", 5, counted, NULL);
    wait_for(is_idle);
    raw("FLUSHALL");
    wait_for(is_restored);
    restart_store();
    expect_rows("a=1 ");
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    ck_assert_uint_eq(number, 5);
}
END_TEST

START_TEST(test_an_older_file_is_overtaken)
{
    char command[600];

    wait_for(is_idle);
    put("a", "1");
    put("b", "1");
    wait_for(is_idle);
    redis_server_kill(&server);
    snprintf(command, sizeof command, "%s/appendonlydir", server.dir);
    char saved[600];
    snprintf(saved, sizeof saved, "%s/saved", server.dir);
    pid_t copier = fork();
    if (copier == 0) {
        execlp("cp", "cp", "-a", command, saved, (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(copier, &status, 0);
    ck_assert_int_eq(status, 0);
    redis_server_start(&server);
    wait_for(is_idle);
    put("a", "2");
    store_remove(s, "NODE", "b", done, NULL);
    store_count(s, "job", 9, counted, NULL);
    wait_for(is_idle);
    redis_server_kill(&server);
    remove_tree(command);
    ck_assert_int_eq(rename(saved, command), 0);
    redis_server_start(&server);
    wait_for(is_restored);
    restart_store();
    expect_rows("a=2 ");
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    ck_assert_uint_eq(number, 9);
}
END_TEST

/* --- another's --- */

START_TEST(test_a_former_gcs_is_shut_out)
{
    wait_for(is_idle);
    put("a", "1");
    wait_for(is_idle);
    struct store *former = s;
    s = open_store();
    expect_rows("a=1 ");
    put("a", "2");
    wait_for(is_idle);
    struct store *later = s;
    s = former;
    n_done = 0;
    put("a", "of the past"); /* before it has heard of it */
    wait_for(is_fenced);
    ck_assert_uint_eq(n_done, 0);
    s->ops->destroy(s);
    s = later;
    ck_assert_int_eq(last_code, ERR_CANCELED);
    restart_store();
    expect_rows("a=2 ");
}
END_TEST

static void expect_refused(const char *part)
{
    why[0] = '\0';
    restart_store();
    wait_for(is_refused);
    ck_assert_msg(strstr(why, part) != NULL, "%s", why);
}

START_TEST(test_foreign_keys_are_refused_with_a_sentence)
{
    wait_for(is_idle);
    put("a", "1");
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    raw("HSET RAYx@META schema 2");
    expect_refused("schema 2");
    raw("HSET RAYx@META schema x");
    expect_refused("schema of RAYx@META");
    raw("HSET RAYx@META schema 1");
    raw("HDEL RAYx@META cluster");
    expect_refused("cluster of RAYx@META");
    raw("DEL RAYx@META");
    expect_refused("without a META");
    raw("SET RAYx@META hello");
    expect_refused("WRONGTYPE");
    raw("FLUSHALL");
    raw("SET RAYx@JOB hello");
    expect_refused("RAYx@JOB");
    ck_assert_str_eq(raw("GET RAYx@JOB"), "hello"); /* nothing was cleared */
    raw("DEL RAYx@JOB");
    wait_for(is_idle); /* it went on trying */
    store_count(s, "job", 1, counted, NULL);
    wait_for(is_idle);
    raw("HSET RAYx@COUNTER job 12x");
    expect_refused("counter job");
    raw("HSET RAYx@COUNTER job 99999999999999999999999");
    expect_refused("counter job");
    raw("HSET RAYx@COUNTER job 12");
    wait_for(is_idle);
}
END_TEST

START_TEST(test_foreign_rows_are_passed_over)
{
    struct store_redis_info info;
    char *big = calloc(1, STORE_VALUE_MAX + 1);

    wait_for(is_idle);
    put("a", "1");
    wait_for(is_idle);
    raw("HSET RAYx@NODE big %b", big, (size_t)STORE_VALUE_MAX + 1);
    raw("HSET RAYx@NODE %b 1", "nul\0key", (size_t)7);
    raw("HSET RAYx@NODE %b 1", big, (size_t)STORE_KEY_MAX + 1);
    free(big);
    raw("SET RAYx@OTHER foreign");
    raw("SET unrelated foreign");
    restart_store();
    expect_rows("a=1 ");
    store_redis_info(s, &info);
    ck_assert_uint_eq(info.n_skipped, 3);
}
END_TEST

START_TEST(test_a_table_damaged_while_it_runs)
{
    wait_for(is_idle);
    put("a", "1");
    wait_for(is_idle);
    raw("SET RAYx@NODE hello");
    n_done = 0;
    put("b", "2");
    wait_for(is_refused);
    ck_assert_uint_eq(n_done, 0);
    ck_assert_str_eq(raw("GET RAYx@NODE"), "hello");
    raw("DEL RAYx@NODE");
    expect_rows("a=1 b=2 ");
    restart_store();
    expect_rows("a=1 b=2 ");
}
END_TEST

START_TEST(test_a_redis_without_memory_is_waited_for)
{
    wait_for(is_idle);
    raw("CONFIG SET maxmemory 1");
    put("a", "1");
    wait_for(is_away);
    ck_assert_msg(strstr(why, "OOM") != NULL, "%s", why);
    ck_assert_uint_eq(n_done, 0);
    raw("CONFIG SET maxmemory 0");
    expect_rows("a=1 ");
}
END_TEST

START_TEST(test_a_redis_that_takes_no_changes_is_waited_for)
{
    struct store_redis_info info;

    wait_for(is_idle);
    raw("CONFIG SET min-replicas-to-write 1");
    put("a", "1");
    wait_for(is_away);
    ck_assert_msg(strstr(why, "NOREPLICAS") != NULL, "%s", why);
    store_redis_info(s, &info);
    n_connects = info.n_connects;
    n_ready = 0;
    wait_for(has_come_twice);
    ck_assert_uint_eq(n_ready, 0); /* that it can be reached is not said each time */
    ck_assert_uint_eq(n_done, 0);
    raw("CONFIG SET min-replicas-to-write 0");
    expect_rows("a=1 ");
    ck_assert_uint_eq(n_ready, 1);
}
END_TEST

START_TEST(test_a_password)
{
    wait_for(is_idle);
    raw("CONFIG SET requirepass secret");
    expect_refused("NOAUTH");
    password = "wrong";
    expect_refused("WRONGPASS");
    password = "secret";
    restart_store();
    wait_for(is_idle);
    put("a", "1");
    expect_rows("a=1 ");
}
END_TEST

/* --- no Redis at all --- */

static struct loop_watch *listening;
static int listener, peer = -1;
static const char *garbage;

static void on_connect(void *arg, bool readable, bool writable)
{
    (void)arg;
    (void)readable;
    (void)writable;
    if (peer >= 0)
        close(peer);
    peer = accept(listener, NULL, NULL);
    ssize_t n = write(peer, garbage, strlen(garbage));
    (void)n;
}

START_TEST(test_who_does_not_speak_redis_is_told_so)
{
    static const char *const said[] = {
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        "*2000000000\r\n$5\r\n",
        "$-7\r\n",
        "*-2\r\n",
        ":1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        "-ERR go away\r\n",
        "*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n",
    };
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    redis_server_kill(&server);
    unlink(server.path);
    snprintf(to.sun_path, sizeof to.sun_path, "%s", server.path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&to, sizeof to), 0);
    ck_assert_int_eq(listen(listener, 5), 0);
    listening = loop_watch_fd(loop, listener, on_connect, NULL);
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        garbage = said[i];
        s->ops->destroy(s);
        s = open_store();
        why[0] = '\0';
        wait_for(has_a_reason);
        ck_assert_msg(strstr(why, server.path) != NULL, "%s: %s", garbage, why);
    }
    loop_unwatch(listening);
    close(listener);
    close(peer);
}
END_TEST

START_TEST(test_addresses)
{
    static const char *const bad[] = {"", "host", "host:", ":1", "host:0", "host:65536", "host:1x"};
    struct store_redis_config config = {.loop = loop, .ns = "x", .tables = tables, .beat_ms = 10};
    struct err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        config.address = bad[i];
        ck_assert_ptr_null(store_redis_create(&config, &err));
        ck_assert_int_eq(err.code, ERR_INVALID);
    }
    config.address = server.path;
    config.ns = "a@b";
    ck_assert_ptr_null(store_redis_create(&config, &err));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_redis");
    TCase *t = tcase_create("store_redis");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_rows_are_back_after_both_were_killed);
    tcase_add_test(t, test_a_killed_redis_holds_changes_up);
    tcase_add_test(t, test_held_changes_are_bounded);
    tcase_add_test(t, test_a_round_whose_reply_was_lost_is_done_once);
    tcase_add_test(t, test_reads_go_on_while_redis_is_slow);
    tcase_add_test(t, test_what_was_answered_survives_kills_at_any_time);
    tcase_add_test(t, test_an_emptied_redis_is_filled_again);
    tcase_add_test(t, test_an_older_file_is_overtaken);
    tcase_add_test(t, test_a_former_gcs_is_shut_out);
    tcase_add_test(t, test_foreign_keys_are_refused_with_a_sentence);
    tcase_add_test(t, test_foreign_rows_are_passed_over);
    tcase_add_test(t, test_a_table_damaged_while_it_runs);
    tcase_add_test(t, test_a_redis_without_memory_is_waited_for);
    tcase_add_test(t, test_a_redis_that_takes_no_changes_is_waited_for);
    tcase_add_test(t, test_a_password);
    tcase_add_test(t, test_who_does_not_speak_redis_is_told_so);
    tcase_add_test(t, test_addresses);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
