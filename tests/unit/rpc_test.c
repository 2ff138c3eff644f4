/* SPDX-License-Identifier: Apache-2.0 */
/* Servers and clients over real sockets on loopback, in one process or two. */
#include <arpa/inet.h>
#include <check.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/net/rpc_client.h"
#include "lib/net/rpc_server.h"

#define CLUSTER "0123456789abcdef0123456789abcdef0123456789abcdef01234567"

static const struct auth_token token = {"right-token"};
static struct loop *loop;
static struct rpc_bridge *bridge;
static struct rpc_server *server;
static struct rpc_client *client;
static char address[64];

/* --- a server --- */

#define HELD_MAX 2048
static struct rpc_call *held[HELD_MAX];
static unsigned n_held, n_gone, n_handled;

static void on_echo(void *arg, struct rpc_call *call)
{
    size_t size;
    const uint8_t *bytes = rpc_call_request(call, &size);

    (void)arg;
    n_handled++;
    rpc_call_reply(call, bytes, size);
}

static void on_hold(void *arg, struct rpc_call *call)
{
    (void)arg;
    n_handled++;
    held[n_held++] = call;
}

static void gone(void *arg, struct rpc_call *call)
{
    (void)arg;
    n_gone++;
    rpc_call_fail(call, ERR_CANCELED, "too late");
}

static void on_wait(void *arg, struct rpc_call *call)
{
    (void)arg;
    n_handled++;
    rpc_call_on_gone(call, gone, NULL);
}

static void on_fail(void *arg, struct rpc_call *call)
{
    (void)arg;
    rpc_call_fail(call, ERR_EXISTS, "%s is there", "it");
}

static void on_big(void *arg, struct rpc_call *call)
{
    static const char zeros[5000];

    (void)arg;
    rpc_call_reply(call, zeros, sizeof zeros);
}

static const struct rpc_method methods[] = {
    {"/test.T/Echo", on_echo},
    {"/test.T/Hold", on_hold},
    {"/test.T/Wait", on_wait},
    {"/test.T/Fail", on_fail},
    {"/test.T/Big", on_big},
    {NULL, NULL},
};

static struct rpc_server *open_server(const char *at, unsigned max_calls, const char *stamp)
{
    struct err err;
    struct rpc_server *s = rpc_server_create(&(struct rpc_server_config){.bridge = bridge,
                                                                         .address = at,
                                                                         .token = &token,
                                                                         .max_message_bytes = 4096,
                                                                         .max_calls = max_calls},
                                             &err);

    if (s == NULL) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    rpc_server_add(s, methods, NULL);
    rpc_server_start(s, CLUSTER, stamp);
    return s;
}

/* --- a client --- */

static unsigned n_replies, n_too_much;
static enum err_code codes[HELD_MAX];
static char text[512], incarnations[128];

static void on_incarnation(void *arg, const char *incarnation)
{
    size_t n = strlen(incarnations);

    (void)arg;
    snprintf(incarnations + n, sizeof incarnations - n, "%s ", incarnation);
}

static struct rpc_client *open_client(const char *with)
{
    struct auth_token t;

    snprintf(t.text, sizeof t.text, "%s", with);
    return rpc_client_create(&(struct rpc_client_config){.bridge = bridge,
                                                         .address = address,
                                                         .token = &t,
                                                         .max_message_bytes = 8192,
                                                         .max_open_bytes = 20000,
                                                         .on_incarnation = on_incarnation});
}

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    (void)arg;
    codes[n_replies++ % HELD_MAX] = err != NULL ? err->code : ERR_NONE;
    if (err != NULL) {
        snprintf(text, sizeof text, "%s", err->text);
        n_too_much += strstr(text, "under way") != NULL;
    } else
        snprintf(text, sizeof text, "%.*s", (int)(size < 100 ? size : 100), (const char *)bytes);
}

static void call(const char *path, const char *request)
{
    rpc_client_call(client, path, request, strlen(request), 20000, false, on_reply, NULL);
}

/* --- waiting --- */

static bool (*condition)(void);

static void turn_end(void *arg)
{
    (void)arg;
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
static bool has_replies(void)
{
    return n_replies >= wanted;
}
static bool has_held(void)
{
    return n_held >= wanted;
}
static bool has_handled(void)
{
    return n_handled >= wanted;
}
static bool has_gone(void)
{
    struct rpc_server_stats stats;

    rpc_server_stats(server, &stats);
    return n_gone >= wanted && stats.n_open == 0;
}

static enum err_code result(const char *path, const char *request)
{
    wanted = n_replies + 1;
    call(path, request);
    ck_assert_uint_eq(n_replies, wanted - 1); /* never before the call returns */
    wait_for(has_replies);
    return codes[(wanted - 1) % HELD_MAX];
}

static void setup(void)
{
    struct err err;

    log_threshold = LOG_LEVEL_BROKEN;
    loop = loop_create(&err);
    bridge = rpc_bridge_create(loop, &err);
    ck_assert_ptr_nonnull(bridge);
    server = open_server("ipv4:127.0.0.1:0", 0, "7");
    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", rpc_server_port(server));
    client = open_client("right-token");
}

static void teardown(void)
{
    rpc_client_destroy(client);
    rpc_server_destroy(server);
    rpc_bridge_destroy(bridge);
    loop_destroy(loop);
}

/* --- */

START_TEST(test_calls_are_answered)
{
    ck_assert_int_eq(result("/test.T/Echo", "hello"), ERR_NONE);
    ck_assert_str_eq(text, "hello");
    ck_assert_int_eq(result("/test.T/Echo", ""), ERR_NONE);
    ck_assert_str_eq(text, "");
    ck_assert_str_eq(incarnations, "7 ");
    ck_assert_int_eq(result("/test.T/Fail", "x"), ERR_EXISTS);
    ck_assert_str_eq(text, "/test.T/Fail: it is there");
    ck_assert_int_eq(result("/test.T/None", "x"), ERR_NOT_FOUND);
    ck_assert_int_eq(result("/test.T", "x"), ERR_NOT_FOUND);
}
END_TEST

START_TEST(test_a_call_without_the_token_is_denied)
{
    static const char *const wrong[] =
        {"wrong-token", "right-toke", "right-token1", "Right-token", "right-tokenright-token", "r"};
    struct rpc_server_stats stats;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        rpc_client_destroy(client);
        client = open_client(wrong[i]);
        ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_DENIED);
        ck_assert_ptr_nonnull(strstr(text, "RAY_AUTH_TOKEN"));
        ck_assert_int_eq(result("/test.T/None", "x"), ERR_DENIED); /* nor what there is */
    }
    ck_assert_uint_eq(n_handled, 0);
    rpc_server_stats(server, &stats);
    ck_assert_uint_eq(stats.n_denied, 2 * sizeof wrong / sizeof wrong[0]);
    ck_assert_uint_eq(stats.n_unknown, 0);
}
END_TEST

START_TEST(test_two_clusters_do_not_mix)
{
    rpc_client_set_cluster(client, CLUSTER);
    ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_NONE);
    rpc_client_set_cluster(client, "ff23456789abcdef0123456789abcdef0123456789abcdef01234567");
    ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(text, "another cluster"));
}
END_TEST

START_TEST(test_calls_are_answered_later_in_any_order)
{
    for (int i = 0; i < 1500; i++)
        call(i % 2 == 0 ? "/test.T/Hold" : "/test.T/Echo", "x");
    wanted = 750;
    wait_for(has_held);
    wait_for(has_replies);
    ck_assert_uint_eq(n_replies, 750);
    while (n_held > 0)
        rpc_call_reply(held[--n_held], "y", 1);
    wanted = 1500;
    wait_for(has_replies);
    ck_assert_uint_eq(rpc_client_n_open(client), 0);
    for (int i = 0; i < 1500; i++)
        ck_assert_int_eq(codes[i], ERR_NONE);
}
END_TEST

/* INV-18: each is answered once, also those that had to wait at the door. */
START_TEST(test_calls_beyond_the_bound_wait)
{
    struct rpc_server_stats stats;
    unsigned n_answered = 0;

    rpc_server_destroy(server);
    server = open_server(address, 3, "7");
    for (int i = 0; i < 40; i++)
        rpc_client_call(client, "/test.T/Hold", "x", 1, 20000, true, on_reply, NULL);
    while (n_answered < 40) {
        wanted = 1;
        wait_for(has_held);
        rpc_server_stats(server, &stats);
        ck_assert_uint_le(stats.n_open, 3);
        rpc_call_reply(held[--n_held], "y", 1);
        n_answered++;
    }
    wanted = 40;
    wait_for(has_replies);
    for (int i = 0; i < 40; i++)
        ck_assert_int_eq(codes[i], ERR_NONE);
}
END_TEST

START_TEST(test_a_deadline_ends_both_sides)
{
    wanted = 1;
    rpc_client_call(client, "/test.T/Wait", "x", 1, 100, false, on_reply, NULL);
    wait_for(has_replies);
    ck_assert_int_eq(codes[0], ERR_TIMEOUT);
    wait_for(has_gone);
}
END_TEST

START_TEST(test_a_client_that_goes_in_mid_call)
{
    for (int i = 0; i < 10; i++)
        call(i % 2 == 0 ? "/test.T/Wait" : "/test.T/Hold", "x");
    wanted = 10;
    wait_for(has_handled);
    rpc_client_destroy(client);
    client = NULL;
    ck_assert_uint_eq(n_replies, 10);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(codes[i], ERR_CANCELED);
    while (n_held > 0)
        rpc_call_reply(held[--n_held], "y", 1);
    wanted = 5;
    wait_for(has_gone);
}
END_TEST

/* As of a connection that is stuck. */
START_TEST(test_a_connection_that_is_given_up)
{
    for (int i = 0; i < 4; i++)
        call(i % 2 == 0 ? "/test.T/Wait" : "/test.T/Hold", "x");
    wanted = 4;
    wait_for(has_handled);
    rpc_client_redial(client);
    ck_assert_uint_eq(n_replies, 0); /* not before it returns */
    rpc_client_redial(client);
    call("/test.T/Echo", "y");
    wanted = 5;
    wait_for(has_replies);
    ck_assert_int_eq(codes[4], ERR_NONE);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(codes[i], ERR_AWAY);
    while (n_held > 0)
        rpc_call_reply(held[--n_held], "y", 1);
    wanted = 2;
    wait_for(has_gone);
}
END_TEST

START_TEST(test_messages_are_bounded)
{
    char big[8001];

    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    big[4096] = '\0';
    ck_assert_int_eq(result("/test.T/Echo", big), ERR_NONE);
    big[4096] = 'x';
    big[4097] = '\0';
    ck_assert_int_eq(result("/test.T/Echo", big), ERR_FULL);
    ck_assert_int_eq(result("/test.T/Big", "x"), ERR_FULL);
    ck_assert_ptr_nonnull(strstr(text, "5000"));
    for (int i = 0; i < 5; i++) /* 5 * 4097 */
        call("/test.T/Hold", big);
    wanted = n_replies + 5;
    wait_for(has_replies);
    ck_assert_uint_eq(n_too_much, 1);
    ck_assert_uint_eq(n_held, 0);
    ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_NONE);
}
END_TEST

static int raw_fd = -1;
static bool is_cut;
static void on_raw(void *arg, bool readable, bool writable)
{
    char buf[4096];

    (void)arg;
    (void)writable;
    if (readable && recv(raw_fd, buf, sizeof buf, 0) <= 0)
        is_cut = true;
}
static bool has_been_cut(void)
{
    return is_cut;
}

START_TEST(test_garbage_on_the_port)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)rpc_server_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    unsigned seed = 5;
    char junk[3000];

    for (int round = 0; round < 20; round++) {
        size_t n = 0;
        if (round % 2 == 1) { /* well begun */
            memcpy(junk, preface, sizeof preface - 1);
            n = sizeof preface - 1;
        }
        while (n < sizeof junk)
            junk[n++] = (char)rand_r(&seed);
        if (round == 0)
            n = (size_t)snprintf(junk, sizeof junk, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        raw_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int rc = connect(raw_fd, (struct sockaddr *)&to, sizeof to);
        (void)rc;
        struct timeval none = {.tv_sec = 5};
        fd_set writable;
        FD_ZERO(&writable);
        FD_SET(raw_fd, &writable);
        ck_assert_int_eq(select(raw_fd + 1, NULL, &writable, NULL, &none), 1);
        ck_assert_int_eq((int)send(raw_fd, junk, n, MSG_NOSIGNAL), (int)n);
        is_cut = false;
        struct loop_watch *w = loop_watch_fd(loop, raw_fd, on_raw, NULL);
        wait_for(has_been_cut);
        loop_unwatch(w);
        close(raw_fd);
    }
    ck_assert_uint_eq(n_handled, 0);
    ck_assert_int_eq(result("/test.T/Echo", "still here"), ERR_NONE);
}
END_TEST

START_TEST(test_a_taken_port_is_an_error)
{
    struct err err;
    struct rpc_server *second = rpc_server_create(
        &(struct rpc_server_config){.bridge = bridge, .address = address, .token = &token},
        &err);

    ck_assert_ptr_null(second);
    ck_assert_int_eq(err.code, ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(err.text, address));
}
END_TEST

START_TEST(test_a_server_that_ends_answers_what_is_open)
{
    for (int i = 0; i < 100; i++)
        call(i % 3 == 0 ? "/test.T/Hold" : "/test.T/Echo", "x");
    wanted = 10;
    wait_for(has_held);
    while (n_held > 0)
        rpc_call_fail(held[--n_held], ERR_CANCELED, "the server ends");
    rpc_server_destroy(server);
    server = NULL;
    wanted = 100;
    wait_for(has_replies);
    ck_assert_uint_eq(n_replies, 100);
}
END_TEST

/* --- a server in a process of its own --- */

static bool never(void)
{
    return false;
}

/* Its port; forked before there is any gRPC in this process. */
static pid_t spawn_server(int *port, const char *stamp)
{
    int fds[2];
    struct err err;

    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char at[64];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        loop = loop_create(&err);
        bridge = rpc_bridge_create(loop, &err);
        snprintf(at, sizeof at, "ipv4:127.0.0.1:%d", *port);
        server = open_server(at, 0, stamp);
        *port = rpc_server_port(server);
        if (write(fds[1], port, sizeof *port) != sizeof *port)
            _exit(1);
        wait_for(never);
        _exit(0);
    }
    close(fds[1]);
    ck_assert_int_eq((int)read(fds[0], port, sizeof *port), (int)sizeof *port);
    close(fds[0]);
    return pid;
}

/* gRPC and fork do not mix, so a process of one thread forks the servers when it is told to. */
START_TEST(test_a_server_killed_and_started_again)
{
    int port = 0, orders[2], ports[2];
    struct err err;

    ck_assert_int_eq(pipe(orders), 0);
    ck_assert_int_eq(pipe(ports), 0);
    pid_t keeper = fork();
    if (keeper == 0) {
        char order;
        pid_t pid = 0;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (read(orders[0], &order, 1) == 1) {
            if (order == 'k') {
                kill(pid, SIGKILL);
                waitpid(pid, NULL, 0);
            } else {
                char stamp[2] = {order, '\0'};
                pid = spawn_server(&port, stamp);
            }
            if (write(ports[1], &port, sizeof port) != sizeof port)
                _exit(1);
        }
        _exit(0);
    }
#define ORDER(what)                                                                                \
    do {                                                                                           \
        ck_assert_int_eq((int)write(orders[1], what, 1), 1);                                       \
        ck_assert_int_eq((int)read(ports[0], &port, sizeof port), (int)sizeof port);               \
    } while (0)
    ORDER("1");
    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", port);
    log_threshold = LOG_LEVEL_BROKEN;
    loop = loop_create(&err);
    bridge = rpc_bridge_create(loop, &err);
    client = open_client("right-token");
    ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_NONE);
    call("/test.T/Wait", "x");
    wanted = n_replies + 1;
    ORDER("k");
    wait_for(has_replies);
    ck_assert_int_eq(codes[wanted - 1], ERR_AWAY); /* in mid-call */
    ck_assert_int_eq(result("/test.T/Echo", "x"), ERR_AWAY);
    wanted = n_replies + 1;
    rpc_client_call(client, "/test.T/Echo", "waits", 5, 20000, true, on_reply, NULL);
    ORDER("2");
    wait_for(has_replies);
    ck_assert_int_eq(codes[wanted - 1], ERR_NONE);
    ck_assert_str_eq(text, "waits");
    ck_assert_str_eq(incarnations, "1 2 ");
    ORDER("k");
    kill(keeper, SIGKILL);
    waitpid(keeper, NULL, 0);
    rpc_client_destroy(client);
    rpc_bridge_destroy(bridge);
    loop_destroy(loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rpc");
    TCase *t = tcase_create("rpc"), *alone = tcase_create("processes");

    signal(SIGPIPE, SIG_IGN);
    tcase_set_timeout(t, 60);
    tcase_set_timeout(alone, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_calls_are_answered);
    tcase_add_test(t, test_a_call_without_the_token_is_denied);
    tcase_add_test(t, test_two_clusters_do_not_mix);
    tcase_add_test(t, test_calls_are_answered_later_in_any_order);
    tcase_add_test(t, test_calls_beyond_the_bound_wait);
    tcase_add_test(t, test_a_deadline_ends_both_sides);
    tcase_add_test(t, test_a_client_that_goes_in_mid_call);
    tcase_add_test(t, test_a_connection_that_is_given_up);
    tcase_add_test(t, test_messages_are_bounded);
    tcase_add_test(t, test_garbage_on_the_port);
    tcase_add_test(t, test_a_taken_port_is_an_error);
    tcase_add_test(t, test_a_server_that_ends_answers_what_is_open);
    tcase_add_test(alone, test_a_server_killed_and_started_again);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, alone);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
