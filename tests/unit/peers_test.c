/* SPDX-License-Identifier: Apache-2.0 */
/* Raylets' sessions over real gRPC on loopback: several `peers` in one process, and proxies between
 * them that cut connections. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "lib/net/rpc_server.h"
#include "lib/net/rpc_stream.h"
#include "raylet/peer.h"
#include "raylet/peer_hello.h"

#define N_NODES 3

static const struct auth_token token = {"right-token"};
static struct loop *loop;
static struct rpc_bridge *bridge;

/* --- a proxy: a thread that copies bytes, until it is told to cut --- */

#define PAIRS 64

struct way {
    int from, to; /* -1: none */
    bool is_held; /* nothing moves, and nobody is told */
    char bytes[65536];
    size_t first, n;
};

struct proxy {
    pthread_t thread;
    int listener, port, target, command[2];
    struct way ways[2 * PAIRS]; /* there and back */
};

static int tcp(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static void cut_pair(struct proxy *x, int i)
{
    const struct linger reset = {1, 0};
    struct way *w = &x->ways[i & ~1];

    if (w->from < 0)
        return;
    setsockopt(w->from, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(w->to, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(w->from);
    close(w->to);
    w[0].from = w[0].to = w[1].from = w[1].to = -1;
    w[0].n = w[1].n = 0;
    w[0].is_held = w[1].is_held = false;
}

static void let_pair_in(struct proxy *x)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)x->target),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int from = accept4(x->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), i = 0;
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    while (i < 2 * PAIRS && x->ways[i].from >= 0)
        i += 2;
    if (from < 0 || i == 2 * PAIRS || connect(to, (struct sockaddr *)&at, sizeof at) != 0) {
        close(from);
        close(to);
        return;
    }
    fcntl(to, F_SETFL, O_NONBLOCK);
    x->ways[i].from = x->ways[i + 1].to = from;
    x->ways[i].to = x->ways[i + 1].from = to;
}

/* false: an end is gone. */
static bool copy(struct way *w, short readable, short writable)
{
    ssize_t n;

    if (readable != 0 && w->n == 0) {
        n = read(w->from, w->bytes, sizeof w->bytes);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        w->first = 0;
        w->n = n > 0 ? (size_t)n : 0;
        writable = 1;
    }
    if (writable != 0 && w->n > 0) {
        n = send(w->to, w->bytes + w->first, w->n, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return false;
        w->first += n > 0 ? (size_t)n : 0;
        w->n -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void *run_proxy(void *arg)
{
    struct proxy *x = arg;
    struct pollfd p[2 + 4 * PAIRS];

    for (;;) {
        p[0] = (struct pollfd){.fd = x->command[0], .events = POLLIN};
        p[1] = (struct pollfd){.fd = x->listener, .events = POLLIN};
        for (int i = 0; i < 2 * PAIRS; i++) {
            struct way *w = &x->ways[i];
            p[2 + 2 * i] =
                (struct pollfd){.fd = w->n == 0 && !w->is_held ? w->from : -1, .events = POLLIN};
            p[3 + 2 * i] =
                (struct pollfd){.fd = w->n > 0 && !w->is_held ? w->to : -1, .events = POLLOUT};
        }
        if (poll(p, 2 + 4 * PAIRS, -1) < 0)
            continue;
        for (int i = 0; i < 2 * PAIRS; i++)
            if (x->ways[i].from >= 0 && !x->ways[i].is_held
                && !copy(&x->ways[i], p[2 + 2 * i].revents, p[3 + 2 * i].revents))
                cut_pair(x, i);
        if (p[1].revents != 0)
            let_pair_in(x);
        char c;
        if (p[0].revents == 0 || read(x->command[0], &c, 1) != 1)
            continue;
        for (int i = 0; i < 2 * PAIRS; i++)
            if (c == 'h')
                x->ways[i].is_held = x->ways[i].from >= 0;
            else
                cut_pair(x, i);
        if (c == 'e')
            return NULL;
    }
}

static struct proxy *open_proxy(int target)
{
    struct proxy *x = xcalloc(1, sizeof *x);

    for (int i = 0; i < 2 * PAIRS; i++)
        x->ways[i].from = x->ways[i].to = -1;
    x->target = target;
    x->listener = tcp(&x->port);
    ck_assert_int_eq(listen(x->listener, 64), 0);
    ck_assert_int_eq(pipe2(x->command, O_CLOEXEC), 0);
    ck_assert_int_eq(pthread_create(&x->thread, NULL, run_proxy, x), 0);
    return x;
}

static void cut_all(struct proxy *x)
{
    ck_assert_int_eq(write(x->command[1], "c", 1), 1);
}

static void hold_all(struct proxy *x)
{
    ck_assert_int_eq(write(x->command[1], "h", 1), 1);
}

static void close_proxy(struct proxy *x)
{
    ck_assert_int_eq(write(x->command[1], "e", 1), 1);
    pthread_join(x->thread, NULL);
    close(x->listener);
    close(x->command[0]);
    close(x->command[1]);
    free(x);
}

/* --- a node --- */

struct node {
    struct rpc_server *server;
    struct proxy *proxy; /* in front of it */
    struct peers *peers;
    struct unique_id id;
    uint32_t number;
    uint64_t n_sent[N_NODES][FRAME_N_CLASSES], n_got[N_NODES][FRAME_N_CLASSES];
    uint64_t n_all;
    unsigned n_came, n_rooms, n_refusals, n_dead;
    struct err refusal;
    bool removes_sender;
};

static struct node nodes[N_NODES];

static uint32_t number_of(unsigned i)
{
    return 100 + i;
}

struct body {
    uint64_t number;
    uint32_t size;
} __attribute__((packed));

static uint8_t pattern(uint64_t number, size_t i)
{
    return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static void send_to(unsigned from, unsigned to, enum frame_class class, size_t size)
{
    static uint8_t bytes[FRAME_MESSAGE_MAX];
    struct node *n = &nodes[from];
    struct body b = {.number = n->n_sent[to][class]++, .size = (uint32_t)size};
    struct peer_header h = {.to = to + 7, .from = from + 9, .type = (uint8_t) class, .route = 77};

    memcpy(bytes, &b, sizeof b);
    for (size_t i = sizeof b; i < size; i++)
        bytes[i] = pattern(b.number, i);
    peers_send(peers_find(n->peers, number_of(to)), class, &h, bytes, size);
}

static void on_message(void *arg,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size)
{
    struct node *n = arg;
    unsigned other = peer_number(from) - number_of(0);
    struct body b;

    ck_assert_uint_lt(other, N_NODES);
    ck_assert_uint_eq(h->to, (unsigned)(n - nodes) + 7);
    ck_assert_uint_eq(h->from, other + 9);
    ck_assert_uint_eq(h->route, 77);
    ck_assert_uint_ge(size, sizeof b);
    memcpy(&b, body, sizeof b);
    ck_assert_uint_eq(b.number, n->n_got[other][h->type]);
    ck_assert_uint_eq(b.size, size);
    for (size_t i = sizeof b; i < size; i++)
        if (body[i] != pattern(b.number, i))
            ck_abort_msg("byte %zu is wrong", i);
    n->n_got[other][h->type]++;
    n->n_all++;
    if (n->removes_sender)
        peers_remove(n->peers, from);
}

static void on_peer(void *arg, struct peer *p)
{
    struct node *n = arg;

    n->n_came++;
    peer_set_data(p, n);
}

static void on_room(void *arg, struct peer *p)
{
    struct node *n = arg;

    ck_assert(peer_has_room(p));
    n->n_rooms++;
}

static void on_refused(void *arg, const struct unique_id *id, const struct err *why)
{
    struct node *n = arg;

    (void)id;
    n->n_refusals++;
    n->refusal = *why;
}

static void on_dead(void *arg, struct peer *by)
{
    struct node *n = arg;

    (void)by;
    n->n_dead++;
}

static struct unique_id id_of(uint8_t first)
{
    struct unique_id id = {{first, 1, 2, 3}};

    return id;
}

static uint32_t idle_ms, short_ms; /* 0: as in life */
static bool is_portless;           /* the next one that is opened: nobody can dial it */

static void open_node(unsigned i, const char *with, uint8_t cluster)
{
    struct node *n = &nodes[i];
    struct unique_id c = id_of(cluster);
    char hex[ID_HEX_MAX];
    struct auth_token t;
    struct err err;

    *n = (struct node){.id = id_of((uint8_t)(10 + i)), .number = number_of(i)};
    snprintf(t.text, sizeof t.text, "%s", with);
    if (!is_portless) {
        n->server = rpc_server_create(&(struct rpc_server_config){.bridge = bridge,
                                                                  .address = "ipv4:127.0.0.1:0",
                                                                  .token = &t},
                                      &err);
        if (n->server == NULL)
            ck_abort_msg("%s", err.text);
        n->proxy = open_proxy(rpc_server_port(n->server));
    }
    n->peers = peers_create(&(struct peers_config){.loop = loop,
                                                   .bridge = bridge,
                                                   .server = n->server,
                                                   .token = &t,
                                                   .cluster = c,
                                                   .node = n->id,
                                                   .number = n->number,
                                                   .build = "test",
                                                   .idle_ms = idle_ms,
                                                   .hello_ms = short_ms,
                                                   .keepalive_ms = short_ms,
                                                   .on_message = on_message,
                                                   .on_peer = on_peer,
                                                   .on_room = on_room,
                                                   .on_refused = on_refused,
                                                   .on_dead = on_dead,
                                                   .arg = n});
    if (n->server != NULL)
        rpc_server_start(n->server, id_hex(c.bytes, sizeof c.bytes, hex), "1");
}

static void close_node(unsigned i)
{
    struct node *n = &nodes[i];

    peers_destroy(n->peers);
    rpc_server_destroy(n->server);
    if (n->proxy != NULL)
        close_proxy(n->proxy);
    n->peers = NULL;
    n->server = NULL;
    n->proxy = NULL;
}

static void know(unsigned i, unsigned other)
{
    ck_assert_ptr_nonnull(peers_add(nodes[i].peers,
                                    &nodes[other].id,
                                    nodes[other].number,
                                    "127.0.0.1",
                                    nodes[other].proxy != NULL ? nodes[other].proxy->port : 0));
}

static void setup(void)
{
    struct err err;

    log_threshold = LOG_LEVEL_BROKEN;
    loop = loop_create(&err);
    bridge = rpc_bridge_create(loop, &err);
    ck_assert_ptr_nonnull(bridge);
    for (unsigned i = 0; i < 2; i++)
        open_node(i, token.text, 1);
}

/* With little patience. */
static void reopen_quick(void)
{
    short_ms = 300;
    for (unsigned i = 0; i < 2; i++) {
        close_node(i);
        open_node(i, token.text, 1);
    }
}

static void teardown(void)
{
    for (unsigned i = 0; i < N_NODES; i++)
        close_node(i);
    rpc_bridge_destroy(bridge);
    loop_destroy(loop);
}

/* --- waiting --- */

static bool (*condition)(void);

static void turn_end(void *arg)
{
    (void)arg;
    if (condition())
        loop_stop(loop);
    for (unsigned i = 0; i < N_NODES; i++)
        if (nodes[i].peers != NULL)
            peers_flush(nodes[i].peers);
}

/* check's time limit ends a wait for nothing. */
static void wait_for(bool (*c)(void))
{
    condition = c;
    turn_end(NULL);
    loop_run(loop, turn_end, NULL);
}

/* All that was sent has come, and its senders know it. */
static bool is_settled(void)
{
    for (unsigned i = 0; i < N_NODES; i++)
        for (unsigned k = 0; k < N_NODES; k++)
            for (int c = 0; c < FRAME_N_CLASSES; c++) {
                if (nodes[i].n_sent[k][c] == 0)
                    continue;
                if (nodes[k].n_got[i][c] != nodes[i].n_sent[k][c]
                    || peer_backlog(peers_find(nodes[i].peers, number_of(k))) > 0)
                    return false;
            }
    return true;
}

static struct peers_stats stats_of(unsigned i)
{
    struct peers_stats s;

    peers_stats(nodes[i].peers, &s);
    return s;
}

static unsigned refused_one, wanted;
static bool is_refused(void)
{
    return nodes[refused_one].n_refusals >= wanted;
}
static bool is_detached(void)
{
    return stats_of(0).n_attached == 0 && stats_of(1).n_attached == 0;
}
static bool is_attached(void)
{
    return stats_of(0).n_attached == 1 && stats_of(1).n_attached == 1;
}
static bool has_dialled(void)
{
    return stats_of(0).n_dials >= wanted;
}

/* --- */

START_TEST(test_messages_arrive_both_ways_on_one_stream)
{
    know(0, 1);
    ck_assert_uint_eq(stats_of(0).n_dials, 0); /* not before there is something to say */
    send_to(0, 1, FRAME_CALLS, 100);
    send_to(0, 1, FRAME_CONTROL, 12);
    wait_for(is_settled);
    ck_assert_uint_eq(nodes[1].n_came, 1); /* it did not know node 0 */
    ck_assert_ptr_eq(peer_data(peers_find(nodes[1].peers, number_of(0))), &nodes[1]);
    for (int i = 0; i < 1000; i++) {
        send_to(0, 1, FRAME_CALLS, 64);
        send_to(1, 0, FRAME_CALLS, 64);
        send_to(1, 0, FRAME_BODIES, 1000);
    }
    wait_for(is_settled);
    ck_assert_uint_eq(stats_of(0).n_dials, 1);
    ck_assert_uint_eq(stats_of(1).n_dials, 0);
    ck_assert_uint_eq(stats_of(0).n_attached + stats_of(1).n_attached, 2);
    ck_assert(unique_id_eq(peer_node(peers_find(nodes[1].peers, number_of(0))), &nodes[0].id));
}
END_TEST

START_TEST(test_a_message_may_have_16_mib)
{
    know(0, 1);
    send_to(0, 1, FRAME_BODIES, FRAME_MESSAGE_MAX);
    send_to(0, 1, FRAME_CONTROL, 100);
    wait_for(is_settled);
    send_to(1, 0, FRAME_CALLS, FRAME_MESSAGE_MAX);
    wait_for(is_settled);
    ck_assert_uint_eq(stats_of(0).n_breaks + stats_of(1).n_breaks, 0);
}
END_TEST

START_TEST(test_three_nodes_talk_to_each_other)
{
    open_node(2, token.text, 1);
    for (unsigned i = 0; i < 3; i++)
        for (unsigned k = 0; k < 3; k++)
            if (i != k)
                know(i, k);
    for (int n = 0; n < 500; n++)
        for (unsigned i = 0; i < 3; i++)
            for (unsigned k = 0; k < 3; k++)
                if (i != k)
                    send_to(i, k, (enum frame_class)(n % 3), 50 + (size_t)n);
    wait_for(is_settled);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_eq(stats_of(i).n_attached, 2);
}
END_TEST

/* --- breaks --- */

START_TEST(test_a_break_loses_nothing)
{
    know(0, 1);
    know(1, 0);
    for (int round = 0; round < 5; round++) {
        send_to(0, 1, FRAME_CALLS, 100000);
        wait_for(is_settled);
        cut_all(nodes[0].proxy);
        cut_all(nodes[1].proxy);
        wait_for(is_detached);
        ck_assert_uint_eq(stats_of(0).n_breaks, (unsigned)round + 1);
        send_to(1, 0, FRAME_CALLS, 100000); /* now the other one dials */
        send_to(1, 0, FRAME_CONTROL, 12);
    }
    wait_for(is_settled);
}
END_TEST

/* Neither knows of the other's dial when it dials. */
START_TEST(test_dials_that_cross)
{
    know(0, 1);
    know(1, 0);
    for (int round = 0; round < 30; round++) {
        send_to(0, 1, FRAME_CALLS, 1000);
        send_to(1, 0, FRAME_CALLS, 1000);
        wait_for(is_settled);
        ck_assert(is_attached());
        cut_all(nodes[0].proxy);
        cut_all(nodes[1].proxy);
        wait_for(is_detached);
    }
    ck_assert_uint_eq(nodes[0].n_refusals + nodes[1].n_refusals, 0);
}
END_TEST

/* The connection is there, but nothing comes through: only silence tells. */
START_TEST(test_a_cable_that_is_drawn)
{
    reopen_quick();
    know(0, 1);
    send_to(0, 1, FRAME_CALLS, 100);
    wait_for(is_settled);
    hold_all(nodes[1].proxy);
    for (int i = 0; i < 100; i++)
        send_to(0, 1, FRAME_CALLS, 100);
    send_to(1, 0, FRAME_CONTROL, 100);
    wait_for(is_settled); /* over another connection */
    ck_assert_uint_ge(stats_of(0).n_breaks, 1);
    ck_assert_uint_ge(stats_of(0).n_dials, 2);
    ck_assert_uint_eq(nodes[0].n_refusals + nodes[1].n_refusals, 0);
}
END_TEST

static uint64_t goal, next_cut;
static unsigned n_cuts;

/* Some at a time, so that there is always something on its way. */
static bool has_sent_all(void)
{
    bool has_all = true;

    for (unsigned i = 0; i < 2; i++) {
        uint64_t *sent = nodes[i].n_sent[!i];
        uint64_t n = sent[0] + sent[1] + sent[2];
        for (int k = 0; k < 200 && n < goal
                        && peer_backlog(peers_find(nodes[i].peers, number_of(!i))) < 200000;
             k++, n++)
            send_to(i, !i, (enum frame_class)(n % 3), 20 + n % 97);
        if (n < goal)
            has_all = false;
    }
    uint64_t got = nodes[0].n_all + nodes[1].n_all;
    if (got >= next_cut) { /* in full flow */
        next_cut = got + 3000;
        n_cuts++;
        cut_all(nodes[0].proxy);
        cut_all(nodes[1].proxy);
    }
    return has_all && is_settled();
}

START_TEST(test_each_of_100000_arrives_once_over_resets)
{
    goal = 100000;
    know(0, 1);
    know(1, 0);
    wait_for(has_sent_all);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_uint_eq(nodes[i].n_all, goal);
    ck_assert_uint_gt(n_cuts, 40);
    ck_assert_uint_gt(stats_of(0).n_breaks, 20);
    ck_assert_uint_eq(nodes[0].n_refusals + nodes[1].n_refusals, 0);
}
END_TEST

static bool is_settled_over_cuts(void)
{
    size_t backlog = peer_backlog(peers_find(nodes[0].peers, number_of(1)));

    if (next_cut - backlog >= 5u << 20) {
        next_cut = backlog;
        n_cuts++;
        cut_all(nodes[1].proxy);
    }
    return is_settled();
}

START_TEST(test_long_messages_survive_resets)
{
    know(0, 1);
    for (int i = 0; i < 3; i++)
        send_to(0, 1, FRAME_BODIES, FRAME_MESSAGE_MAX);
    for (int i = 0; i < 100; i++)
        send_to(0, 1, FRAME_CONTROL, 100);
    next_cut = peer_backlog(peers_find(nodes[0].peers, number_of(1)));
    wait_for(is_settled_over_cuts);
    ck_assert_uint_eq(nodes[1].n_all, 103);
    ck_assert_uint_gt(n_cuts, 5);
}
END_TEST

/* --- nobody there, idle, full --- */

START_TEST(test_a_node_that_is_not_there_yet_is_dialled_on)
{
    int port, fd = tcp(&port);

    peers_add(nodes[0].peers, &nodes[1].id, nodes[1].number, "127.0.0.1", port);
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = 3;
    wait_for(has_dialled);
    close(fd);
    know(0, 1); /* its address is another one */
    wait_for(is_settled);
    ck_assert_uint_eq(nodes[0].n_refusals, 0);
}
END_TEST

START_TEST(test_an_idle_stream_is_closed_and_the_session_stays)
{
    close_node(0);
    idle_ms = 60;
    open_node(0, token.text, 1);
    know(0, 1);
    for (int i = 0; i < 3; i++) {
        send_to(0, 1, FRAME_CALLS, 100);
        wait_for(is_settled);
        send_to(1, 0, FRAME_CALLS, 100);
        wait_for(is_settled);
        wait_for(is_detached);
    }
    ck_assert_uint_eq(nodes[1].n_all, 3);
    ck_assert_uint_eq(nodes[0].n_refusals + nodes[1].n_refusals, 0);
}
END_TEST

static bool has_passed;

static void on_passed(void *arg)
{
    (void)arg;
    has_passed = true;
}

static bool is_passed(void)
{
    return has_passed;
}

/* It dials, once it has something to do with the other, and again; neither side thinks it idle. */
START_TEST(test_one_that_nobody_can_dial_holds_its_stream)
{
    for (unsigned i = 0; i < 2; i++) {
        close_node(i);
        idle_ms = 60;
        is_portless = i == 0;
        open_node(i, token.text, 1);
    }
    know(1, 0);
    send_to(1, 0, FRAME_CALLS, 100);
    ck_assert(peer_only_dials(peers_find(nodes[1].peers, number_of(0))));
    peers_call(nodes[0].peers, number_of(1)); /* before it is known */
    know(0, 1);
    ck_assert(!peer_only_dials(peers_find(nodes[0].peers, number_of(1))));
    wait_for(is_settled);
    ck_assert_uint_eq(stats_of(1).n_dials, 0);

    struct loop_timer *passed = loop_after(loop, 5 * idle_ms, on_passed, NULL);
    wait_for(is_passed);
    loop_timer_end(passed);
    ck_assert(is_attached());
    ck_assert_uint_eq(stats_of(0).n_dials, 1);

    for (unsigned i = 1; i <= 3; i++) {
        cut_all(nodes[1].proxy);
        send_to(1, 0, FRAME_CALLS, 100);
        wait_for(is_settled);
    }
    ck_assert_uint_eq(nodes[0].n_all, 4);
    ck_assert_uint_eq(stats_of(1).n_dials, 0);
    ck_assert_uint_ge(stats_of(0).n_dials, 2);
}
END_TEST

static bool has_room_again(void)
{
    return nodes[0].n_rooms == 1 && is_settled();
}

START_TEST(test_a_backlog_has_marks)
{
    int port, fd = tcp(&port), n = 0;
    struct peer *p = peers_add(nodes[0].peers, &nodes[1].id, nodes[1].number, "127.0.0.1", port);

    while (peer_has_room(p)) {
        send_to(0, 1, FRAME_CALLS, 10000);
        n++;
    }
    ck_assert_uint_ge(peer_backlog(p), PEER_BACKLOG_HIGH);
    ck_assert_uint_lt(peer_backlog(p), PEER_BACKLOG_HIGH + 20000);
    ck_assert_int_gt(n, 400);
    close(fd);
    know(0, 1);
    wait_for(has_room_again);
    ck_assert_uint_eq(peer_backlog(p), 0);
}
END_TEST

/* --- who may not come --- */

START_TEST(test_a_wrong_token_is_refused)
{
    close_node(0);
    open_node(0, "wrong-token", 1);
    know(0, 1);
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = 1;
    wait_for(is_refused);
    ck_assert_int_eq(nodes[0].refusal.code, ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(nodes[0].refusal.text, "RAY_AUTH_TOKEN"));
    wanted = 4;
    wait_for(has_dialled); /* it goes on, but says so once */
    ck_assert_uint_eq(nodes[0].n_refusals, 1);
    ck_assert_uint_eq(nodes[1].n_came, 0);
    nodes[0].n_sent[1][FRAME_CALLS] = 0;
}
END_TEST

START_TEST(test_another_cluster_is_refused)
{
    close_node(0);
    open_node(0, token.text, 2);
    know(0, 1);
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = 1;
    wait_for(is_refused);
    ck_assert_int_eq(nodes[0].refusal.code, ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(nodes[0].refusal.text, "another cluster"));
    ck_assert_uint_eq(nodes[1].n_came, 0);
}
END_TEST

START_TEST(test_another_node_at_the_address_is_refused)
{
    struct unique_id former = id_of(99);

    peers_add(nodes[0].peers, &former, number_of(1), "127.0.0.1", nodes[1].proxy->port);
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = 1;
    wait_for(is_refused);
    ck_assert_int_eq(nodes[0].refusal.code, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(nodes[0].refusal.text, "not the one that was meant"));
    ck_assert_uint_eq(nodes[1].n_refusals, 1);
    ck_assert_uint_eq(stats_of(1).n_refused, 1);
    ck_assert_ptr_null(peers_find(nodes[1].peers, number_of(0)));
}
END_TEST

START_TEST(test_a_dead_node_cannot_come_again)
{
    know(0, 1);
    know(1, 0);
    send_to(0, 1, FRAME_CALLS, 100);
    wait_for(is_settled);
    peers_remove(nodes[1].peers, peers_find(nodes[1].peers, number_of(0)));
    wanted = 1;
    wait_for(is_refused); /* its stream says so */
    ck_assert_int_eq(nodes[0].refusal.code, ERR_DIED);
    ck_assert_str_eq(nodes[0].refusal.text, "this node was declared dead");
    ck_assert_uint_eq(nodes[0].n_dead, 1);
    ck_assert_uint_eq(nodes[1].n_dead, 0);
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = (unsigned)stats_of(0).n_dials + 2;
    wait_for(has_dialled); /* nor does the door let it in */
    ck_assert_uint_gt(stats_of(1).n_refused, 0);
    ck_assert_uint_eq(nodes[1].n_all, 1);
    ck_assert_ptr_null(peers_find(nodes[1].peers, number_of(0)));
    ck_assert_ptr_null(peers_add(nodes[1].peers, &nodes[0].id, number_of(0), "127.0.0.1", 1));
    ck_assert_uint_eq(nodes[0].n_refusals, 1);
}
END_TEST

START_TEST(test_a_peer_may_be_removed_by_its_own_message)
{
    know(0, 1);
    nodes[1].removes_sender = true;
    for (int i = 0; i < 3; i++)
        send_to(0, 1, FRAME_CALLS, 100);
    wanted = 1;
    wait_for(is_refused);
    ck_assert_uint_eq(nodes[1].n_all, 1);
    ck_assert_uint_eq(stats_of(1).n_peers, 0);
}
END_TEST

START_TEST(test_a_number_has_one_node)
{
    struct unique_id other = id_of(99);

    know(0, 1);
    ck_assert_ptr_null(peers_add(nodes[0].peers, &other, number_of(1), "127.0.0.1", 1));
}
END_TEST

/* --- what no raylet says: a stream by hand --- */

static struct rpc_stream *stream;
static bool has_ended;
static unsigned n_answers;
static struct err end;

static void forged_on_message(void *arg, const uint8_t *bytes, size_t size)
{
    (void)arg;
    (void)bytes;
    (void)size;
    n_answers++;
}

static void forged_on_room(void *arg)
{
    (void)arg;
}

static void forged_on_end(void *arg, const struct err *why)
{
    (void)arg;
    end = *why;
    has_ended = true;
}

static bool forged_has_ended(void)
{
    return has_ended;
}
static bool forged_is_answered(void)
{
    return n_answers > 0 && rpc_stream_has_room(stream);
}

static struct peer_hello right(void)
{
    return (struct peer_hello){.magic = PEER_HELLO_MAGIC,
                               .protocol = PEER_PROTOCOL,
                               .cluster = id_of(1),
                               .from = id_of(50),
                               .to = nodes[1].id,
                               .number = number_of(2),
                               .dial = 1};
}

static void say(const void *bytes, size_t size)
{
    const struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};

    rpc_stream_write(stream, &piece, 1);
}

static void forge(const void *hello, size_t size)
{
    static const struct rpc_stream_ops ops = {forged_on_message, forged_on_room, forged_on_end};
    struct unique_id c = id_of(1);
    char hex[ID_HEX_MAX], address[64];

    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", nodes[1].proxy->port);
    has_ended = false;
    n_answers = 0;
    stream =
        rpc_stream_dial(&(struct rpc_dial){.bridge = bridge,
                                           .address = address,
                                           .path = "/ray.c.Node/Session",
                                           .token = &token,
                                           .cluster_hex = id_hex(c.bytes, sizeof c.bytes, hex)},
                        &ops,
                        NULL);
    if (hello != NULL)
        say(hello, size);
}

static void ends_with(enum err_code code, const char *why)
{
    wait_for(forged_has_ended);
    rpc_stream_close(stream, ERR_NONE, "");
    ck_assert_int_eq(end.code, code);
    if (strstr(end.text, why) == NULL)
        ck_abort_msg("\"%s\" does not say \"%s\"", end.text, why);
}

START_TEST(test_forged_hellos_are_refused)
{
    struct peer_hello h = right();
    static uint8_t zeros[10000];

    forge("", 0);
    ends_with(ERR_PROTOCOL, "no hello");
    forge(zeros, sizeof zeros);
    ends_with(ERR_PROTOCOL, "no hello");
    forge(zeros, 100);
    ends_with(ERR_PROTOCOL, "no hello");
    forge(&h, sizeof h - 1);
    ends_with(ERR_PROTOCOL, "cut off");
    h.protocol++;
    forge(&h, sizeof h);
    ends_with(ERR_VERSION, "protocol 1, this one 2");
    h = right();
    h.cluster = id_of(77);
    forge(&h, sizeof h);
    ends_with(ERR_DENIED, "another cluster");
    h = right();
    h.from = nodes[1].id;
    forge(&h, sizeof h);
    ends_with(ERR_INVALID, "number");
    h = right();
    h.number = nodes[1].number;
    forge(&h, sizeof h);
    ends_with(ERR_INVALID, "number");
    ck_assert_uint_eq(stats_of(1).n_refused, 8);
    ck_assert_uint_eq(stats_of(1).n_peers, 0);
    h = right();
    h.expects = 5;
    forge(&h, sizeof h);
    ends_with(ERR_PROTOCOL, "cannot go on");
}
END_TEST

START_TEST(test_garbage_in_a_session_cuts_its_stream)
{
    static uint8_t zeros[10000];
    struct peer_hello h = right();
    const uint64_t too_much = 3;

    forge(&h, sizeof h);
    wait_for(forged_is_answered);
    say(zeros, sizeof zeros);
    ends_with(ERR_PROTOCOL, "block");
    forge(&h, sizeof h);
    ends_with(ERR_EXISTS, "crossed"); /* that dial is known */
    h.dial++;
    forge(&h, sizeof h);
    wait_for(forged_is_answered);
    say(&too_much, sizeof too_much);
    ends_with(ERR_PROTOCOL, "block 3 is expected");
    h.dial++;
    forge(&h, sizeof h);
    wait_for(forged_is_answered);
    h.dial++;
    struct rpc_stream *former = stream;
    forge(&h, sizeof h); /* takes the place of the former */
    wait_for(forged_has_ended);
    ck_assert_int_eq(end.code, ERR_EXISTS);
    rpc_stream_close(former, ERR_NONE, "");
    wait_for(forged_is_answered);
    rpc_stream_close(stream, ERR_NONE, "");
    ck_assert_uint_eq(stats_of(1).n_peers, 1);
}
END_TEST

START_TEST(test_who_says_nothing_is_cut)
{
    reopen_quick();
    forge(NULL, 0);
    ends_with(ERR_TIMEOUT, "no hello");
}
END_TEST

static struct rpc_stream *accepted[8];
static unsigned n_accepted;

static void on_accept(void *arg, struct rpc_stream *s)
{
    static const struct rpc_stream_ops mute = {forged_on_message, forged_on_room, forged_on_end};

    (void)arg;
    accepted[n_accepted++ % 8] = s;
    rpc_stream_use(s, &mute, NULL);
}

START_TEST(test_a_hello_that_is_not_answered_is_said_again)
{
    struct unique_id c = id_of(1), other = id_of(60);
    char hex[ID_HEX_MAX];
    struct rpc_server *server =
        rpc_server_create(&(struct rpc_server_config){.bridge = bridge,
                                                      .address = "ipv4:127.0.0.1:0",
                                                      .token = &token},
                          NULL);

    reopen_quick();
    rpc_server_add_stream(server, "/ray.c.Node/Session", on_accept, NULL);
    rpc_server_start(server, id_hex(c.bytes, sizeof c.bytes, hex), "1");
    peers_add(nodes[0].peers, &other, number_of(1), "127.0.0.1", rpc_server_port(server));
    send_to(0, 1, FRAME_CALLS, 100);
    wanted = 3;
    wait_for(has_dialled);
    ck_assert_uint_ge(n_answers, 2); /* its hellos */
    ck_assert_uint_eq(stats_of(0).n_attached, 0);
    ck_assert_uint_eq(nodes[0].n_refusals, 0);
    for (unsigned i = 0; i < n_accepted; i++)
        rpc_stream_close(accepted[i], ERR_NONE, "");
    rpc_server_destroy(server);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("peers");
    TCase *c = tcase_create("sessions"), *d = tcase_create("refusals");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_messages_arrive_both_ways_on_one_stream);
    tcase_add_test(c, test_a_message_may_have_16_mib);
    tcase_add_test(c, test_three_nodes_talk_to_each_other);
    tcase_add_test(c, test_a_break_loses_nothing);
    tcase_add_test(c, test_dials_that_cross);
    tcase_add_test(c, test_a_cable_that_is_drawn);
    tcase_add_test(c, test_each_of_100000_arrives_once_over_resets);
    tcase_add_test(c, test_long_messages_survive_resets);
    tcase_add_test(c, test_a_node_that_is_not_there_yet_is_dialled_on);
    tcase_add_test(c, test_an_idle_stream_is_closed_and_the_session_stays);
    tcase_add_test(c, test_one_that_nobody_can_dial_holds_its_stream);
    tcase_add_test(c, test_a_backlog_has_marks);
    suite_add_tcase(s, c);
    tcase_add_checked_fixture(d, setup, teardown);
    tcase_set_timeout(d, 60);
    tcase_add_test(d, test_a_wrong_token_is_refused);
    tcase_add_test(d, test_another_cluster_is_refused);
    tcase_add_test(d, test_another_node_at_the_address_is_refused);
    tcase_add_test(d, test_a_dead_node_cannot_come_again);
    tcase_add_test(d, test_a_peer_may_be_removed_by_its_own_message);
    tcase_add_test(d, test_a_number_has_one_node);
    tcase_add_test(d, test_forged_hellos_are_refused);
    tcase_add_test(d, test_who_says_nothing_is_cut);
    tcase_add_test(d, test_a_hello_that_is_not_answered_is_said_again);
    tcase_add_test(d, test_garbage_in_a_session_cuts_its_stream);
    suite_add_tcase(s, d);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
