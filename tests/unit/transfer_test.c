/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four machines in one process, each with a store and its data port on loopback, on one loop. What
 * goes wrong between them is done by a proxy in the middle, or by a hand-written peer.
 */
#include "raylet/transfer.h"

#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/net/loop.h"
#include "lib/net/wire.h"
#include "objstore/pin.h"
#include "raylet/transfer_wire.h"

#define N_MACHINES 4
#define N_ENTRIES  4096
#define CAPACITY   (128ull << 20)
#define USER       0 /* slots of each store */
#define READER     1
#define PORT       2
#define N_SLOTS    3
#define OWNER      500u /* a process somewhere else */
#define MIB        (1ull << 20)
#define WAIT_S     25

struct machine {
    struct store *store;
    struct store_actions actions;
    struct index_entry *index;
    struct store_share *shares; /* of USER and READER */
    int arena_fd;
    uint8_t *arena;
    struct transfer *t;
    struct store_action lent; /* the last one of USER */
    unsigned n_lent;
    struct { /* what send_free said */
        uint32_t node;
        struct transfer_key key;
    } frees[64];
    unsigned n_frees;
    unsigned n_calls; /* of send_call */
};

static struct loop *l;
static struct loop_timer *heartbeat;
static struct machine m[N_MACHINES];
static struct auth_token token;

/* --- machines --- */

static uint32_t node_of(unsigned i)
{
    return 10 + i;
}

static void nothing(void *arg)
{
    (void)arg;
}

static void on_send_free(void *arg, uint32_t node, const struct transfer_key *key)
{
    struct machine *x = arg;

    ck_assert_uint_lt(x->n_frees, 64);
    x->frees[x->n_frees].node = node;
    x->frees[x->n_frees++].key = *key;
}

static void on_send_call(void *arg, uint32_t node)
{
    struct machine *x = arg;

    x->n_calls++;
    transfer_call(m[node - node_of(0)].t, node_of((unsigned)(x - m)));
}

static void carry_out(struct machine *x)
{
    for (size_t i = 0; i < x->actions.n; i++) {
        struct store_action a = x->actions.v[i];
        if (a.kind == STORE_FREED || a.slot == PORT) {
            transfer_on_store(x->t, &a, a.kind == STORE_REFUSED ? "the store is full" : NULL);
        } else if (a.kind == STORE_LENT) {
            x->lent = a;
            x->n_lent++;
        }
    }
    x->actions.n = 0;
}

static void on_turn_end(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < N_MACHINES; i++) {
        if (m[i].store == NULL)
            continue;
        if (store_next_deadline(m[i].store) <= loop_now_ms())
            store_on_time(m[i].store, loop_now_ms(), &m[i].actions);
        carry_out(&m[i]);
    }
    loop_stop(l);
}

static void turn(void)
{
    loop_run(l, on_turn_end, NULL);
}

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        for (uint64_t end_ns = clock_now_ns() + WAIT_S * 1000000000ull; !(condition); turn())      \
            ck_assert_msg(clock_now_ns() < end_ns, "%s", #condition);                              \
    } while (0)

static void begin_port(unsigned i, const struct transfer_config *more)
{
    struct transfer_config config = more != NULL ? *more : (struct transfer_config){0};
    struct err err;

    config.loop = l;
    config.store = m[i].store;
    config.store_actions = &m[i].actions;
    config.slot = PORT;
    config.arena_fd = m[i].arena_fd;
    config.capacity = CAPACITY;
    if (config.token == NULL)
        config.token = &token;
    memset(config.cluster.bytes, 7, sizeof config.cluster.bytes);
    config.node = node_of(i);
    config.address = "127.0.0.1";
    config.send_free = on_send_free;
    config.send_call = on_send_call;
    config.arg = &m[i];
    m[i].t = transfer_create(&config, &err);
    ck_assert_msg(m[i].t != NULL, "%s", err.text);
}

static void end_port(unsigned i)
{
    transfer_destroy(m[i].t);
    m[i].t = NULL;
}

static void connect_ports(unsigned from, unsigned to)
{
    ck_assert_int_eq(
        transfer_add_node(m[from].t, node_of(to), "127.0.0.1", transfer_port(m[to].t), NULL),
        0);
}

static void begin_machine(unsigned i)
{
    struct machine *x = &m[i];

    *x = (struct machine){0};
    x->index = xcalloc(N_ENTRIES, sizeof *x->index);
    x->shares = xcalloc(2, sizeof *x->shares);
    x->store = store_create(&(struct store_config){.capacity = CAPACITY,
                                                   .n_entries = N_ENTRIES,
                                                   .index = x->index,
                                                   .n_slots = N_SLOTS,
                                                   .wait_ms = STORE_COPY_MS + 300});
    ck_assert_ptr_nonnull(x->store);
    store_add_process(x->store, USER, 100 + i, &x->shares[0]);
    store_add_process(x->store, READER, 200 + i, &x->shares[1]);
    x->arena_fd = memfd_create("test-arena", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(x->arena_fd, CAPACITY), 0);
    x->arena = mmap(NULL, CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, x->arena_fd, 0);
    ck_assert_ptr_ne(x->arena, MAP_FAILED);
}

static void setup(void)
{
    struct err err;

    ck_assert_int_eq(auth_token_make(&token, &err), 0);
    l = loop_create(&err);
    heartbeat = loop_every(l, 10, nothing, NULL);
    for (unsigned i = 0; i < N_MACHINES; i++) {
        begin_machine(i);
        begin_port(i, NULL);
    }
    for (unsigned i = 0; i < N_MACHINES; i++)
        for (unsigned k = 0; k < N_MACHINES; k++)
            if (i != k)
                connect_ports(i, k);
}

static void teardown(void)
{
    for (unsigned i = 0; i < N_MACHINES; i++) {
        struct store_stats s;
        end_port(i);
        store_drain(m[i].store, USER, loop_now_ms(), &m[i].actions);
        store_on_doorbell(m[i].store, loop_now_ms(), &m[i].actions);
        store_selfcheck(m[i].store);
        store_get_stats(m[i].store, &s);
        ck_assert_uint_eq(s.n_bad_records, 0);
        ck_assert_uint_eq(s.buried, 0);
        ck_assert_uint_eq(s.n_lent, 0);
        ck_assert_uint_eq(s.lent, 0);
        store_destroy(m[i].store);
        m[i].store = NULL;
        munmap(m[i].arena, CAPACITY);
        close(m[i].arena_fd);
        free(m[i].index);
        free(m[i].shares);
        free(m[i].actions.v);
    }
    loop_timer_end(heartbeat);
    loop_destroy(l);
}

static struct store_stats stats_of(unsigned i)
{
    struct store_stats s;

    store_selfcheck(m[i].store);
    store_get_stats(m[i].store, &s);
    return s;
}

static struct transfer_stats port_of(unsigned i)
{
    struct transfer_stats s;

    transfer_get_stats(m[i].t, &s);
    return s;
}

/* --- objects --- */

static struct transfer_key key_of(uint32_t index)
{
    return (struct transfer_key){.counter = 77, .owner = OWNER, .index = index, .attempt = 1};
}

static uint8_t byte_at(uint32_t index, uint64_t at)
{
    return (uint8_t)(at * 31 + (at >> 12) * 7 + index * 13);
}

/* On that machine, sealed by a process for OWNER; with refs behind the data, if any. */
static uint64_t make_object(unsigned i, uint32_t index, uint64_t size, uint32_t n_refs)
{
    struct machine *x = &m[i];
    uint64_t extra =
        n_refs == 0 ? 0 : (8 - size % 8) % 8 + (uint64_t)n_refs * sizeof(struct wire_ref);
    unsigned n_lent = x->n_lent;

    store_lend(x->store, USER, 1, size + extra, size + extra, 1, loop_now_ms(), &x->actions);
    WAIT_FOR(x->n_lent > n_lent);
    for (uint64_t at = 0; at < size + extra; at++)
        x->arena[x->lent.offset + at] = byte_at(index, at);
    struct store_record r = {.kind = STORE_SEAL,
                             .meta = 3,
                             .attempt = 1,
                             .owner = OWNER,
                             .place = x->lent.places[0],
                             .offset = x->lent.offset,
                             .size = size,
                             .counter = 77,
                             .index = index,
                             .n_refs = n_refs,
                             .extra = extra};
    ck_assert(ring_post(&x->shares[0].ring, &r, NULL));
    return x->lent.places[0];
}

struct answer {
    unsigned n;
    struct err err;
    struct transfer_object at;
    int fd;
    struct transfer_hash hash;
};

static void take(struct answer *a, const struct err *err)
{
    a->n++;
    a->err = err != NULL ? *err : (struct err){0};
}

static void on_done(void *arg, const struct err *err, const struct transfer_object *at)
{
    struct answer *a = arg;

    take(a, err);
    ck_assert((err == NULL) == (at != NULL));
    if (at != NULL)
        a->at = *at;
}

static uint64_t pull_from(unsigned i, unsigned from, uint32_t index, struct answer *a)
{
    struct transfer_key key = key_of(index);

    *a = (struct answer){0};
    uint64_t ticket = transfer_pull(m[i].t, &key, node_of(from), TRANSFER_GET, on_done, a);
    ck_assert_uint_ne(ticket, 0);
    ck_assert_uint_eq(a->n, 0); /* never before it returns */
    return ticket;
}

/* It is there, all of it, and found by its key. */
static void check_object(unsigned i,
                         const struct answer *a,
                         uint32_t index,
                         uint64_t size,
                         uint32_t n_refs)
{
    uint64_t all = n_refs == 0 ? size : (size + 7) / 8 * 8 + n_refs * sizeof(struct wire_ref);
    struct store_key key = {.counter = 77, .owner = OWNER, .index = index, .attempt = 1};
    struct store_object o;

    ck_assert_uint_eq(a->n, 1);
    ck_assert_msg(a->err.code == ERR_NONE, "%s", a->err.text);
    ck_assert_uint_eq(a->at.size, size);
    ck_assert_uint_eq(a->at.n_refs, n_refs);
    ck_assert_uint_eq(a->at.meta, 3);
    for (uint64_t at = 0; at < all; at++)
        if (m[i].arena[a->at.offset + at] != byte_at(index, at))
            ck_abort_msg("byte %llu of %llu", (unsigned long long)at, (unsigned long long)all);
    ck_assert(store_find(m[i].store, &key, &o, loop_now_ms(), &m[i].actions));
    ck_assert_uint_eq(o.place, a->at.place);
    ck_assert_uint_eq(o.offset, a->at.offset);
}

static void bring(unsigned i, unsigned from, uint32_t index, uint64_t size, uint32_t n_refs)
{
    struct answer a;

    pull_from(i, from, index, &a);
    WAIT_FOR(a.n > 0);
    check_object(i, &a, index, size, n_refs);
}

START_TEST(an_object_comes_with_its_refs)
{
    static const struct {
        uint64_t size;
        uint32_t n_refs;
    } cases[] = {{1, 0}, {100001, 0}, {100001, 3}, {MIB, 1}, {4 * MIB, 0}, {4 * MIB - 3, 700}};

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        make_object(0, i, cases[i].size, cases[i].n_refs);
        bring(1, 0, i, cases[i].size, cases[i].n_refs);
    }
    ck_assert_uint_eq(stats_of(1).n_copies, 6);
    ck_assert_uint_eq(stats_of(0).n_copies, 0);
    WAIT_FOR(port_of(0).n_served == 6);
}
END_TEST

START_TEST(a_large_object_comes_once)
{
    make_object(0, 1, 64 * MIB, 5);
    bring(1, 0, 1, 64 * MIB, 5);
    ck_assert_uint_eq(port_of(1).bytes_in, 64 * MIB + 5 * sizeof(struct wire_ref));
    ck_assert_uint_eq(port_of(1).n_resumed, 0);
    WAIT_FOR(port_of(0).bytes_out == port_of(1).bytes_in);
    ck_assert_uint_eq(port_of(1).n_pulls, 0);
    /* it is here now: no byte moves */
    bring(1, 0, 1, 64 * MIB, 5);
    bring(1, 2, 1, 64 * MIB, 5);
    ck_assert_uint_eq(port_of(1).bytes_in, 64 * MIB + 5 * sizeof(struct wire_ref));
}
END_TEST

START_TEST(all_who_ask_for_one_object_share_a_pull)
{
    struct answer a[20];

    make_object(0, 1, 8 * MIB, 0);
    for (int i = 0; i < 20; i++)
        pull_from(1, 0, 1, &a[i]);
    ck_assert_uint_eq(port_of(1).n_pulls, 1);
    WAIT_FOR(a[19].n > 0);
    for (int i = 0; i < 20; i++)
        check_object(1, &a[i], 1, 8 * MIB, 0);
    ck_assert_uint_eq(port_of(1).bytes_in, 8 * MIB);
}
END_TEST

START_TEST(many_objects_come_at_once_both_ways)
{
    struct answer a[2][60];

    for (unsigned i = 0; i < 60; i++) {
        make_object(0, i, 100000 + i * 7001, i % 3);
        make_object(1, 100 + i, 100000 + i * 6007, i % 4);
    }
    for (unsigned i = 0; i < 60; i++) {
        pull_from(1, 0, i, &a[1][i]);
        pull_from(0, 1, 100 + i, &a[0][i]);
    }
    for (unsigned i = 0; i < 60; i++) {
        WAIT_FOR(a[1][i].n > 0 && a[0][i].n > 0);
        check_object(1, &a[1][i], i, 100000 + i * 7001, i % 3);
        check_object(0, &a[0][i], 100 + i, 100000 + i * 6007, i % 4);
    }
    ck_assert_uint_le(port_of(0).n_links, 2);
}
END_TEST

/* --- what goes wrong --- */

/* Between a dialer and a port: ends each connection when so many bytes of answers went through, and
 * holds all back when so many bytes have gone through altogether. */
struct proxy {
    int listen_fd;
    uint16_t port, to;
    uint64_t cut_after;
    pthread_t thread;
    _Atomic unsigned n_conns;
    _Atomic bool stopping;
    _Atomic uint64_t n_bytes, hold_at;
};

static int listen_any(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(fd, 100), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* false: the connection has ended. */
static bool forward(int from, int to, uint64_t *n_left, struct proxy *x)
{
    static uint8_t buf[65536];
    size_t most = *n_left < sizeof buf ? (size_t)*n_left : sizeof buf;
    ssize_t n = read(from, buf, most);

    if (n <= 0)
        return false;
    for (ssize_t at = 0, k; at < n; at += k)
        if ((k = send(to, buf + at, (size_t)(n - at), MSG_NOSIGNAL)) <= 0)
            return false;
    *n_left -= (uint64_t)n;
    atomic_fetch_add(&x->n_bytes, (uint64_t)n);
    return *n_left > 0;
}

static void *proxy_main(void *arg)
{
    struct proxy *x = arg;
    struct pollfd p[3] = {{.fd = x->listen_fd, .events = POLLIN}, {.fd = -1}, {.fd = -1}};
    uint64_t left = 0, all = UINT64_MAX;

    while (!atomic_load(&x->stopping)) {
        bool is_held = atomic_load(&x->n_bytes) >= atomic_load(&x->hold_at);
        p[2].events = is_held ? 0 : POLLIN;
        poll(p, 3, 10);
        bool ok = true;
        if ((p[0].revents & POLLIN) != 0 && p[1].fd < 0) {
            p[1] = (struct pollfd){.fd = accept(x->listen_fd, NULL, NULL), .events = POLLIN};
            p[2] = (struct pollfd){.fd = connect_to(x->to), .events = POLLIN};
            left = x->cut_after;
            atomic_fetch_add(&x->n_conns, 1);
            continue;
        }
        if (p[1].fd >= 0 && p[1].revents != 0)
            ok = forward(p[1].fd, p[2].fd, &all, x);
        if (ok && !is_held && p[2].fd >= 0 && p[2].revents != 0)
            ok = forward(p[2].fd, p[1].fd, &left, x);
        if (ok)
            continue;
        close(p[2].fd);
        shutdown(p[1].fd, SHUT_WR); /* what was forwarded arrives */
        for (char c[4096]; read(p[1].fd, c, sizeof c) > 0;)
            ;
        close(p[1].fd);
        p[1].fd = p[2].fd = -1;
    }
    if (p[1].fd >= 0) {
        close(p[1].fd);
        close(p[2].fd);
    }
    return NULL;
}

static void begin_proxy(struct proxy *x, unsigned from, unsigned to, uint64_t cut_after)
{
    *x =
        (struct proxy){.to = transfer_port(m[to].t), .cut_after = cut_after, .hold_at = UINT64_MAX};
    x->listen_fd = listen_any(&x->port);
    ck_assert_int_eq(pthread_create(&x->thread, NULL, proxy_main, x), 0);
    ck_assert_int_eq(transfer_add_node(m[from].t, node_of(to), "127.0.0.1", x->port, NULL), 0);
}

static void end_proxy(struct proxy *x)
{
    atomic_store(&x->stopping, true);
    pthread_join(x->thread, NULL);
    close(x->listen_fd);
}

START_TEST(broken_connections_lose_nothing_and_repeat_nothing)
{
    struct proxy x;
    struct answer a;

    make_object(0, 1, 64 * MIB, 1);
    begin_proxy(&x, 1, 0, 8 * MIB - 4000); /* never two whole READs */
    pull_from(1, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, 64 * MIB, 1);
    ck_assert_uint_eq(port_of(1).bytes_in, 64 * MIB + sizeof(struct wire_ref));
    ck_assert_uint_eq(atomic_load(&x.n_conns), 9); /* what came in part is not read again */
    ck_assert_uint_ge(port_of(1).n_resumed, 8);
    end_proxy(&x);
}
END_TEST

/* The sentence says it. */
static void check_failed(const struct answer *a, enum err_code code, const char *word)
{
    ck_assert_uint_eq(a->n, 1);
    ck_assert_msg(a->err.code == code, "%d: %s", a->err.code, a->err.text);
    ck_assert_msg(strstr(a->err.text, word) != NULL, "%s", a->err.text);
}

START_TEST(a_node_that_does_not_have_it_says_so)
{
    struct answer a;
    char name[64];

    pull_from(1, 0, 4711, &a);
    WAIT_FOR(a.n > 0);
    snprintf(name, sizeof name, "node %u does not have it", node_of(0));
    check_failed(&a, ERR_NOT_FOUND, name);
    check_failed(&a, ERR_NOT_FOUND, "object 77.4711 of process 500");
    pull_from(1, 1, 4711, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_NOT_FOUND, "this node does not have it");
}
END_TEST

START_TEST(another_holder_is_asked)
{
    struct answer a, b;

    make_object(2, 1, 3 * MIB, 0);
    pull_from(1, 0, 1, &a); /* has it not */
    pull_from(1, 2, 1, &b);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, 3 * MIB, 0);
    check_object(1, &b, 1, 3 * MIB, 0);
}
END_TEST

START_TEST(another_holder_goes_on_when_one_dies)
{
    struct answer a, b;
    struct proxy x;

    make_object(0, 1, 48 * MIB, 0);
    make_object(2, 1, 48 * MIB, 0);
    begin_proxy(&x, 1, 0, 20 * MIB);
    pull_from(1, 0, 1, &a);
    WAIT_FOR(port_of(1).bytes_in >= 8 * MIB);
    pull_from(1, 2, 1, &b);
    transfer_remove_node(m[1].t, node_of(0));
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, 48 * MIB, 0);
    ck_assert_uint_eq(port_of(1).bytes_in, 48 * MIB);
    WAIT_FOR(port_of(2).bytes_out > 0); /* its part, and not all of it */
    ck_assert_uint_le(port_of(2).bytes_out, 40 * MIB);
    end_proxy(&x);
}
END_TEST

START_TEST(a_dead_node_fails_what_only_it_had)
{
    struct answer a, b;
    struct proxy x;

    make_object(0, 1, 48 * MIB, 0);
    begin_proxy(&x, 1, 0, UINT64_MAX);
    pull_from(1, 0, 1, &a);
    pull_from(1, 99, 2, &b); /* nobody knows it */
    WAIT_FOR(port_of(1).bytes_in >= 4 * MIB);
    transfer_remove_node(m[1].t, node_of(0));
    transfer_remove_node(m[1].t, node_of(99));
    WAIT_FOR(a.n > 0 && b.n > 0);
    check_failed(&a, ERR_DIED, "node 10 is dead");
    check_failed(&b, ERR_DIED, "node 109 is dead");
    WAIT_FOR(stats_of(1).lent == 0);
    end_proxy(&x);
}
END_TEST

START_TEST(a_node_that_is_not_known_yet_is_waited_for)
{
    struct answer a;

    make_object(0, 1, MIB, 0);
    end_port(1);
    begin_port(1, &(struct transfer_config){.give_up_ms = 0});
    pull_from(1, 0, 1, &a);
    for (int i = 0; i < 3; i++)
        turn();
    ck_assert_uint_eq(a.n, 0);
    connect_ports(1, 0);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, MIB, 0);
}
END_TEST

START_TEST(a_node_that_is_dead_is_not_waited_for)
{
    struct answer a;

    make_object(0, 1, MIB, 0);
    transfer_remove_node(m[1].t, node_of(0));
    pull_from(1, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_DIED, "node 10 is dead");
}
END_TEST

START_TEST(who_sends_nothing_is_given_up)
{
    struct answer a, b;
    uint16_t port;
    int fd = listen_any(&port);

    end_port(1);
    begin_port(1, &(struct transfer_config){.give_up_ms = 150, .hello_ms = 60});
    ck_assert_int_eq(transfer_add_node(m[1].t, node_of(0), "127.0.0.1", port, NULL), 0);
    pull_from(1, 0, 1, &a);
    pull_from(1, 2, 2, &b); /* its address has not come */
    WAIT_FOR(a.n > 0 && b.n > 0);
    check_failed(&a, ERR_TIMEOUT, "node 10 at 127.0.0.1:");
    check_failed(&a, ERR_TIMEOUT, "it does not answer");
    check_failed(&b, ERR_DIED, "node 12 is not known here");
    close(fd);
}
END_TEST

START_TEST(a_slow_line_is_not_given_up)
{
    struct proxy x;
    struct answer a;

    make_object(0, 1, 3 * MIB, 0); /* one READ, which takes much longer than that: */
    end_port(1);
    begin_port(1, &(struct transfer_config){.give_up_ms = 200});
    begin_proxy(&x, 1, 0, UINT64_MAX);
    atomic_store(&x.hold_at, MIB);
    pull_from(1, 0, 1, &a);
    for (unsigned n = 1; a.n == 0; n++) {
        WAIT_FOR(a.n > 0 || atomic_load(&x.n_conns) > n);
        atomic_fetch_add(&x.hold_at, MIB);
    }
    check_object(1, &a, 1, 3 * MIB, 0);
    ck_assert_uint_ge(atomic_load(&x.n_conns), 3);
    ck_assert_uint_eq(port_of(1).bytes_in, 3 * MIB);
    end_proxy(&x);
}
END_TEST

START_TEST(a_raylet_that_stood_still_does_not_blame_others)
{
    struct answer a;

    make_object(0, 1, MIB, 0);
    end_port(1);
    begin_port(1, &(struct transfer_config){.give_up_ms = 300, .hello_ms = 300});
    connect_ports(1, 0);
    pull_from(1, 0, 1, &a);
    poll(NULL, 0, 1000); /* as if by SIGSTOP */
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, MIB, 0);
    ck_assert_uint_eq(port_of(0).n_refused, 0);
}
END_TEST

START_TEST(a_wrong_token_is_refused_on_both_sides)
{
    struct auth_token other;
    struct answer a;

    ck_assert_int_eq(auth_token_make(&other, NULL), 0);
    make_object(0, 1, MIB, 0);
    end_port(1);
    begin_port(1, &(struct transfer_config){.token = &other});
    connect_ports(1, 0);
    pull_from(1, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_DENIED, "wrong token");
    ck_assert_uint_eq(port_of(0).n_refused, 1);
    ck_assert_uint_eq(port_of(0).n_links, 0);
}
END_TEST

/* --- hand-written peers --- */

/* What comes on that socket; fewer: it has ended. */
static size_t get_bytes(int fd, void *to, size_t n)
{
    size_t have = 0;
    ssize_t k = 1;

    while (have < n && k != 0) {
        WAIT_FOR((k = recv(fd, (uint8_t *)to + have, n - have, MSG_DONTWAIT)) >= 0
                 || errno != EAGAIN);
        if (k < 0)
            break;
        have += (size_t)k;
    }
    return have;
}

static void check_refused(int fd, enum err_code code)
{
    struct transfer_frame f;

    ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), sizeof f);
    ck_assert_uint_eq(f.word, TRANSFER_WORD);
    ck_assert_uint_eq(f.type, TRANSFER_REFUSED);
    ck_assert_uint_eq(f.code, code);
    ck_assert_uint_eq(get_bytes(fd, &f, 1), 0);
    close(fd);
}

static struct transfer_frame hello(void)
{
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_HELLO};

    f.protocol = TRANSFER_PROTOCOL;
    f.node = 66;
    f.token_size = (uint32_t)strlen(token.text);
    memset(f.cluster, 7, sizeof f.cluster);
    return f;
}

static int say_hello(const struct transfer_frame *f)
{
    int fd = connect_to(transfer_port(m[0].t));

    ck_assert_int_eq(send(fd, f, sizeof *f, 0), sizeof *f);
    ck_assert_int_eq(send(fd, token.text, f->token_size, MSG_NOSIGNAL), f->token_size);
    return fd;
}

static int join(void)
{
    struct transfer_frame f = hello();
    int fd = say_hello(&f);

    ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), sizeof f);
    ck_assert_uint_eq(f.type, TRANSFER_WELCOME);
    ck_assert_uint_eq(f.node, node_of(0));
    return fd;
}

START_TEST(garbage_ends_its_connection_alone)
{
    struct transfer_frame f = hello();
    struct answer a;
    uint8_t junk[128];

    make_object(0, 1, MIB, 0);
    pull_from(1, 0, 1, &a);
    int fd = connect_to(transfer_port(m[0].t));
    memset(junk, 'x', sizeof junk);
    ck_assert_int_eq(send(fd, junk, sizeof junk, 0), sizeof junk);
    check_refused(fd, ERR_PROTOCOL);
    f.token_size = AUTH_TOKEN_MAX + 1;
    fd = connect_to(transfer_port(m[0].t));
    ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
    check_refused(fd, ERR_PROTOCOL);
    f = hello();
    f.protocol++;
    check_refused(say_hello(&f), ERR_VERSION);
    f = hello();
    f.cluster[5]++;
    check_refused(say_hello(&f), ERR_DENIED);
    f = hello();
    f.token_size--;
    check_refused(say_hello(&f), ERR_DENIED);
    f = hello();
    f.token_size = 0;
    check_refused(say_hello(&f), ERR_DENIED);
    ck_assert_uint_eq(port_of(0).n_refused, 6);
    close(connect_to(transfer_port(m[0].t)));
    WAIT_FOR(port_of(0).n_refused == 7);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, MIB, 0);
}
END_TEST

START_TEST(unproven_connections_are_few_and_short)
{
    int fds[66];
    struct answer a;

    make_object(0, 1, MIB, 0);
    end_port(0);
    begin_port(0, &(struct transfer_config){.hello_ms = 400});
    connect_ports(1, 0);
    for (int i = 0; i < 66; i++) {
        fds[i] = connect_to(transfer_port(m[0].t));
        turn();
    }
    check_refused(fds[64], ERR_FULL);
    check_refused(fds[65], ERR_FULL);
    ck_assert_uint_eq(port_of(0).n_unproven, 64);
    for (int i = 0; i < 64; i++)
        check_refused(fds[i], ERR_TIMEOUT);
    ck_assert_uint_eq(port_of(0).n_unproven, 0);
    ck_assert_uint_eq(port_of(0).n_refused, 66);
    pull_from(1, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, MIB, 0);
}
END_TEST

static struct transfer_frame request(enum transfer_frame_type type, uint32_t index)
{
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = (uint8_t)type, .id = 5};

    f.what = (struct transfer_what){.kind = TRANSFER_OBJECT,
                                    .attempt = 1,
                                    .owner = OWNER,
                                    .counter = 77,
                                    .index = index};
    return f;
}

START_TEST(a_proven_peer_that_asks_nonsense_is_cut_off)
{
    static const struct {
        uint8_t type;
        uint32_t word;
        uint8_t kind;
        uint64_t offset, length;
    } bad[] = {
        {TRANSFER_READ, TRANSFER_WORD, TRANSFER_OBJECT, 0, 0},
        {TRANSFER_READ, TRANSFER_WORD, TRANSFER_OBJECT, 0, 100001},
        {TRANSFER_READ, TRANSFER_WORD, TRANSFER_OBJECT, 1, 100000},
        {TRANSFER_READ, TRANSFER_WORD, TRANSFER_OBJECT, UINT64_MAX, 2},
        {TRANSFER_READ, TRANSFER_WORD, TRANSFER_OBJECT, 2, UINT64_MAX},
        {TRANSFER_READ, TRANSFER_WORD, 3, 0, 1},
        {TRANSFER_ASK, TRANSFER_WORD, 0, 0, 1},
        {TRANSFER_ASK, 1, TRANSFER_OBJECT, 0, 1},
        {TRANSFER_IS, TRANSFER_WORD, TRANSFER_OBJECT, 0, 1},
        {TRANSFER_DATA, TRANSFER_WORD, TRANSFER_OBJECT, 0, 1},
        {TRANSFER_HELLO, TRANSFER_WORD, TRANSFER_OBJECT, 0, 1},
        {99, TRANSFER_WORD, TRANSFER_OBJECT, 0, 1},
    };

    make_object(0, 1, 100000, 0);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = join();
        struct transfer_frame f = request(bad[i].type, 1);
        f.word = bad[i].word;
        f.what.kind = bad[i].kind;
        f.offset = bad[i].offset;
        f.length = bad[i].length;
        ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
        ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), 0);
        WAIT_FOR(port_of(0).n_refused == i + 1);
        close(fd);
    }
    int fd = join(); /* what is right is answered, also to what is long */
    uint8_t bytes[10];
    struct transfer_frame f = request(TRANSFER_READ, 1);
    f.offset = 99990;
    f.length = 10;
    ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
    ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), sizeof f);
    ck_assert_uint_eq(f.type, TRANSFER_DATA);
    ck_assert_uint_eq(f.id, 5);
    ck_assert_uint_eq(get_bytes(fd, bytes, 10), 10);
    for (unsigned i = 0; i < 10; i++)
        ck_assert_uint_eq(bytes[i], byte_at(1, 99990 + i));
    close(fd);
    WAIT_FOR(port_of(0).n_links == 0);
}
END_TEST

/* A holder of our own: machine 1 dials it, it says WELCOME. */
static int hold_out(struct answer *a)
{
    struct transfer_frame f;
    uint8_t secret[AUTH_TOKEN_MAX];
    uint16_t port;
    int listen_fd = listen_any(&port), fd = -1;

    fcntl(listen_fd, F_SETFL, O_NONBLOCK);
    ck_assert_int_eq(transfer_add_node(m[1].t, 66, "127.0.0.1", port, NULL), 0);
    struct transfer_key key = key_of(1);
    *a = (struct answer){0};
    transfer_pull(m[1].t, &key, 66, TRANSFER_GET, on_done, a);
    WAIT_FOR((fd = accept(listen_fd, NULL, NULL)) >= 0);
    close(listen_fd);
    ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), sizeof f);
    ck_assert_uint_eq(f.type, TRANSFER_HELLO);
    ck_assert_uint_eq(get_bytes(fd, secret, f.token_size), f.token_size);
    ck_assert(auth_token_is(&token, secret, f.token_size));
    f = (struct transfer_frame){.word = TRANSFER_WORD, .type = TRANSFER_WELCOME};
    f.protocol = TRANSFER_PROTOCOL;
    f.node = 66;
    ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
    return fd;
}

static struct transfer_frame get_request(int fd, enum transfer_frame_type type)
{
    struct transfer_frame f;

    ck_assert_uint_eq(get_bytes(fd, &f, sizeof f), sizeof f);
    ck_assert_uint_eq(f.type, type);
    return f;
}

START_TEST(a_holder_that_lies_is_cut_off)
{
    static const struct {
        uint64_t length, size;
        uint32_t n_refs;
    } lies[] = {{0, 0, 0}, {11, 10, 0}, {10, 10, 1}, {UINT64_MAX, UINT64_MAX, 0}, {9, 10, 0}};
    struct answer a;

    for (unsigned i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        int fd = hold_out(&a);
        struct transfer_frame f = get_request(fd, TRANSFER_ASK);
        f.type = TRANSFER_IS;
        f.length = lies[i].length;
        f.size = lies[i].size;
        f.n_refs = lies[i].n_refs;
        ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
        WAIT_FOR(a.n > 0);
        check_failed(&a, ERR_PROTOCOL, "impossible size");
        ck_assert_uint_eq(get_bytes(fd, &f, 1), 0);
        close(fd);
        transfer_remove_node(m[1].t, 66);
    }
    for (int i = 0; i < 5; i++) { /* answers that nobody asked for */
        int fd = hold_out(&a);
        struct transfer_frame f = get_request(fd, TRANSFER_ASK), g = f;
        if (i > 1) {
            f.type = TRANSFER_IS;
            f.length = f.size = 1000;
            ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
            g = get_request(fd, TRANSFER_READ);
        }
        g.type = i == 0 || i == 2 ? TRANSFER_GONE : TRANSFER_DATA;
        g.length = i == 3 ? 999 : 1000;
        g.id += i == 0 || i == 2 || i == 4;
        uint64_t n = port_of(1).n_refused;
        ck_assert_int_eq(send(fd, &g, sizeof g, 0), sizeof g);
        WAIT_FOR(port_of(1).n_refused == n + 1);
        ck_assert_uint_eq(get_bytes(fd, &f, 1), 0);
        close(fd);
        ck_assert_uint_eq(a.n, 0); /* it may still say something better */
        transfer_remove_node(m[1].t, 66);
        WAIT_FOR(a.n > 0);
        check_failed(&a, ERR_DIED, "node 66 is dead");
    }
    WAIT_FOR(stats_of(1).lent == 0);
}
END_TEST

START_TEST(an_object_that_is_gone_between_two_reads_fails_its_pull)
{
    struct answer a;
    int fd = hold_out(&a);
    struct transfer_frame f = get_request(fd, TRANSFER_ASK);

    f.type = TRANSFER_IS;
    f.length = f.size = 1000;
    ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
    f = get_request(fd, TRANSFER_READ);
    for (int i = 0; i < 3; i++) {
        f.type = TRANSFER_GONE;
        ck_assert_int_eq(send(fd, &f, sizeof f, 0), sizeof f);
        if (i < 2)
            f = get_request(fd, TRANSFER_ASK);
    }
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_NOT_FOUND, "node 66 does not have it");
    WAIT_FOR(stats_of(1).lent == 0);
    close(fd);
}
END_TEST

/* --- memory --- */

START_TEST(a_full_store_refuses_with_its_own_sentence)
{
    struct answer a;

    make_object(0, 1, 60 * MIB, 0);
    make_object(1, 2, 100 * MIB, 0);
    pull_from(1, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_FULL, "the store is full");
    ck_assert_uint_eq(port_of(1).bytes_in, 0);
    ck_assert_uint_eq(port_of(1).n_pulls, 0);
}
END_TEST

START_TEST(copies_make_room_for_others)
{
    for (uint32_t i = 0; i < 5; i++)
        make_object(0, i, 20 * MIB, 0);
    for (uint32_t i = 0; i < 5; i++)
        bring(1, 0, i, 20 * MIB, 0);
    make_object(2, 9, 90 * MIB, 0);
    bring(1, 2, 9, 90 * MIB, 0); /* waits until they are old enough */
    ck_assert_uint_eq(stats_of(1).n_evicted_ever, 5);
    ck_assert_uint_eq(stats_of(1).n_copies, 1);
}
END_TEST

static uint64_t pull_argument(unsigned i, unsigned from, uint32_t index, struct answer *a)
{
    struct transfer_key key = key_of(index);

    *a = (struct answer){0};
    return transfer_pull(m[i].t, &key, node_of(from), TRANSFER_ARGUMENT, on_done, a);
}

static bool arguments_fit(const struct answer *a, int n)
{
    ck_assert_uint_le(port_of(1).argument_bytes, CAPACITY / 10 * 5);
    for (int i = 0; i < n; i++)
        if (a[i].n == 0)
            return false;
    return true;
}

START_TEST(arguments_take_a_part_of_the_store_at_once)
{
    struct answer a[5], big;

    end_port(1);
    begin_port(1, &(struct transfer_config){.argument_tenth = 5});
    connect_ports(1, 0);
    for (int i = 0; i < 5; i++) {
        make_object(0, i, 22 * MIB, 0);
        pull_argument(1, 0, i, &a[i]);
    }
    WAIT_FOR(arguments_fit(a, 5));
    for (int i = 0; i < 5; i++)
        check_object(1, &a[i], i, 22 * MIB, 0);
    ck_assert_uint_eq(port_of(1).argument_bytes, 0);
    make_object(2, 9, 80 * MIB, 0); /* more than all of them may have: it goes alone */
    connect_ports(1, 2);
    pull_argument(1, 2, 9, &big);
    WAIT_FOR(big.n > 0);
    check_object(1, &big, 9, 80 * MIB, 0);
}
END_TEST

START_TEST(who_waits_for_bytes_passes_arguments)
{
    struct answer a, b;

    make_object(0, 1, 80 * MIB, 0);
    make_object(0, 2, MIB, 0);
    pull_argument(1, 0, 1, &a);
    WAIT_FOR(port_of(1).bytes_in > 0);
    pull_from(1, 0, 2, &b);
    WAIT_FOR(b.n > 0);
    check_object(1, &b, 2, MIB, 0);
    ck_assert_uint_eq(a.n, 0);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, 80 * MIB, 0);
}
END_TEST

/* --- ends --- */

START_TEST(frees_follow_the_copies)
{
    struct transfer_key key = key_of(1);
    struct store_key k = {.counter = 77, .owner = OWNER, .index = 1, .attempt = 1};
    struct store_object o;

    make_object(0, 1, MIB, 0);
    make_object(0, 2, MIB, 0);
    bring(1, 0, 1, MIB, 0);
    bring(2, 1, 1, MIB, 0);
    bring(2, 0, 2, MIB, 0);
    WAIT_FOR(port_of(0).n_served == 2 && port_of(1).n_served == 1);
    transfer_free(m[0].t, &key);
    ck_assert_uint_eq(m[0].n_frees, 1);
    ck_assert_uint_eq(m[0].frees[0].node, node_of(1));
    ck_assert_uint_eq(m[0].frees[0].key.index, 1);
    ck_assert_uint_eq(m[0].frees[0].key.owner, OWNER);
    ck_assert_uint_eq(port_of(0).n_served, 1);
    transfer_free(m[1].t, &m[0].frees[0].key);
    ck_assert_uint_eq(m[1].n_frees, 1);
    ck_assert_uint_eq(m[1].frees[0].node, node_of(2));
    transfer_free(m[2].t, &m[1].frees[0].key);
    ck_assert_uint_eq(m[2].n_frees, 0);
    for (unsigned i = 0; i < N_MACHINES; i++) {
        ck_assert(!store_find(m[i].store, &k, &o, loop_now_ms(), &m[i].actions));
        turn();
        ck_assert_uint_eq(m[i].n_frees, i < 2); /* once */
    }
    k.index = 2;
    ck_assert(store_find(m[2].store, &k, &o, loop_now_ms(), &m[2].actions));
    transfer_owner_gone(m[0].t, OWNER + 1);
    ck_assert_uint_eq(port_of(0).n_served, 1);
    transfer_owner_gone(m[0].t, OWNER);
    ck_assert_uint_eq(port_of(0).n_served, 0);
    ck_assert_uint_eq(m[0].n_frees, 1);
}
END_TEST

/* The node that made it is gone. */
START_TEST(a_copy_that_is_kept_is_the_primary_one)
{
    struct transfer_key key = key_of(1), other = key_of(2);
    struct transfer_object at, again;

    make_object(0, 1, MIB, 3);
    bring(1, 0, 1, MIB, 3);
    ck_assert(!transfer_find(m[1].t, &other, true, &at));
    ck_assert(transfer_find(m[1].t, &key, false, &at));
    ck_assert_uint_eq(stats_of(1).n_copies, 1);
    ck_assert(transfer_find(m[1].t, &key, true, &again));
    ck_assert_uint_eq(stats_of(1).n_copies, 0);
    ck_assert_uint_eq(again.place, at.place);
    ck_assert_uint_eq(again.offset, at.offset);
    ck_assert_uint_eq(again.size, MIB);
    ck_assert_uint_eq(again.n_refs, 3);
    transfer_remove_node(m[2].t, node_of(0));
    bring(2, 1, 1, MIB, 3);
    ck_assert_uint_eq(stats_of(2).n_copies, 1);
    transfer_free(m[1].t, &key);
    ck_assert_uint_eq(m[1].n_frees, 1);
    ck_assert_uint_eq(m[1].frees[0].node, node_of(2));
    ck_assert(!transfer_find(m[1].t, &key, true, &at));
}
END_TEST

START_TEST(a_free_by_the_owners_ring_follows_too)
{
    struct machine *x = &m[0];
    struct transfer_key key = {.counter = 5, .owner = 100, .attempt = 2};
    struct answer a = {0};
    unsigned n_lent = x->n_lent;

    store_lend(x->store, USER, 1, MIB, MIB, 1, loop_now_ms(), &x->actions);
    WAIT_FOR(x->n_lent > n_lent);
    struct store_record r = {.kind = STORE_SEAL,
                             .attempt = 2,
                             .owner = 100,
                             .place = x->lent.places[0],
                             .offset = x->lent.offset,
                             .size = MIB,
                             .counter = 5};
    ck_assert(ring_post(&x->shares[0].ring, &r, NULL));
    transfer_pull(m[1].t, &key, node_of(0), TRANSFER_WAIT, on_done, &a);
    WAIT_FOR(a.n > 0);
    ck_assert_int_eq(a.err.code, ERR_NONE);
    /* evicted and brought again, it is one copy */
    r = (struct store_record){.kind = STORE_FREE, .place = x->lent.places[0]};
    ck_assert(ring_post(&x->shares[0].ring, &r, NULL));
    store_drain(x->store, USER, loop_now_ms(), &x->actions);
    WAIT_FOR(x->n_frees > 0);
    ck_assert_uint_eq(x->n_frees, 1);
    ck_assert_uint_eq(x->frees[0].node, node_of(1));
    ck_assert_uint_eq(x->frees[0].key.counter, 5);
    ck_assert_uint_eq(x->frees[0].key.owner, 100);
    ck_assert_uint_eq(x->frees[0].key.attempt, 2);
}
END_TEST

START_TEST(what_is_freed_or_not_wanted_any_more_gives_its_memory_back)
{
    struct transfer_key key = key_of(1);
    struct answer a, b, c;

    make_object(0, 1, 60 * MIB, 0);
    make_object(0, 2, 60 * MIB, 0);
    pull_from(1, 0, 1, &a);
    uint64_t second = pull_from(1, 0, 1, &b);
    uint64_t other = pull_from(1, 0, 2, &c);
    WAIT_FOR(port_of(1).bytes_in >= 4 * MIB);
    transfer_cancel(m[1].t, second);
    transfer_cancel(m[1].t, second);
    transfer_cancel(m[1].t, other);
    ck_assert_uint_eq(port_of(1).n_pulls, 1);
    transfer_free(m[1].t, &key);
    ck_assert_uint_eq(a.n, 0);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_NOT_FOUND, "its owner has freed it");
    WAIT_FOR(stats_of(1).lent == 0);
    ck_assert_uint_eq(stats_of(1).n_lent, 0);
    ck_assert_uint_eq(b.n + c.n, 0);
    bring(1, 0, 1, 60 * MIB, 0); /* the key is not spent */
}
END_TEST

START_TEST(the_end_of_an_owner_ends_its_pulls)
{
    struct answer a;

    make_object(0, 1, 60 * MIB, 0);
    pull_from(1, 0, 1, &a);
    WAIT_FOR(port_of(1).bytes_in >= 4 * MIB);
    store_owner_gone(m[1].store, OWNER, loop_now_ms(), &m[1].actions);
    transfer_owner_gone(m[1].t, OWNER);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_DIED, "its owner is gone");
    pull_from(1, 0, 1, &a); /* nor can it begin again */
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_DIED, "its owner is gone");
    WAIT_FOR(stats_of(1).lent == 0 && stats_of(1).used == 0);
}
END_TEST

START_TEST(the_end_answers_everybody)
{
    struct answer a, b;

    make_object(0, 1, 60 * MIB, 0);
    pull_from(1, 0, 1, &a);
    pull_from(1, 99, 2, &b);
    WAIT_FOR(port_of(1).bytes_in >= 4 * MIB);
    end_port(1);
    check_failed(&a, ERR_CANCELED, "the raylet ends");
    check_failed(&b, ERR_CANCELED, "the raylet ends");
    ck_assert_uint_eq(stats_of(1).lent, 0);
    begin_port(1, NULL);
}
END_TEST

/* Threads of data ports. */
static unsigned n_threads(void)
{
    char path[300], name[32];
    unsigned n = 0;
    DIR *d = opendir("/proc/self/task");

    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        n += f != NULL && fgets(name, sizeof name, f) != NULL && strcmp(name, "transfer\n") == 0;
        if (f != NULL)
            fclose(f);
    }
    closedir(d);
    return n;
}

START_TEST(an_idle_port_has_neither_connections_nor_a_thread)
{
    ck_assert_uint_eq(n_threads(), 0);
    end_port(1);
    begin_port(1, &(struct transfer_config){.idle_ms = 50});
    connect_ports(1, 0);
    make_object(0, 1, MIB, 0);
    make_object(0, 2, MIB, 0);
    for (uint32_t i = 1; i <= 2; i++) {
        bring(1, 0, i, MIB, 0);
        WAIT_FOR(n_threads() == 2);
        ck_assert_uint_eq(port_of(1).n_links, 1);
        WAIT_FOR(n_threads() == 0);
        ck_assert_uint_eq(port_of(0).n_links + port_of(1).n_links, 0);
    }
}
END_TEST

/* Machine 1 has no port: nobody can dial it. */
START_TEST(who_has_no_port_is_called_and_asked)
{
    end_port(1);
    begin_port(1, &(struct transfer_config){.is_closed = true});
    ck_assert_uint_eq(transfer_port(m[1].t), 0);
    for (unsigned i = 0; i < N_MACHINES; i++)
        if (i != 1) {
            connect_ports(1, i);
            connect_ports(i, 1);
        }
    make_object(1, 1, 20 * MIB, 3);
    make_object(1, 2, MIB, 0);
    make_object(0, 3, MIB, 0);
    bring(0, 1, 1, 20 * MIB, 3);
    bring(0, 1, 2, MIB, 0); /* by the same connection */
    ck_assert_uint_eq(m[0].n_calls, 1);
    bring(1, 0, 3, MIB, 0); /* by one of its own */
    bring(2, 1, 1, 20 * MIB, 3);
    bring(3, 1, 1, 20 * MIB, 3);
    ck_assert_uint_eq(m[1].n_calls, 0);

    transfer_remove_node(m[0].t, node_of(1)); /* which ends it */
    WAIT_FOR(port_of(0).n_links == 1);
    transfer_call(m[1].t, node_of(0));
    WAIT_FOR(port_of(0).n_refused == 1); /* nobody called it */
    connect_ports(0, 1);
    make_object(1, 4, MIB, 0);
    bring(0, 1, 4, MIB, 0);
    ck_assert_uint_eq(m[0].n_calls, 2);
}
END_TEST

/* --- many readers --- */

/* Machine 1 reads from 0, and stops after so many MiB until hold_at is raised; 2 reads from 1 and
 * waits for the rest. */
static void read_in_line(struct proxy *x, uint64_t mib, struct answer *a, struct answer *b)
{
    make_object(0, 1, 64 * MIB, 2);
    begin_proxy(x, 1, 0, UINT64_MAX);
    atomic_store(&x->hold_at, mib * MIB);
    pull_from(1, 0, 1, a);
    WAIT_FOR(port_of(1).bytes_in >= mib * MIB / 2);
    pull_from(2, 1, 1, b);
    WAIT_FOR(port_of(2).bytes_in == port_of(1).bytes_in && port_of(1).n_parked > 0);
    ck_assert_uint_eq(a->n + b->n, 0);
}

START_TEST(what_is_still_coming_is_passed_on)
{
    uint64_t all = 64 * MIB + 2 * sizeof(struct wire_ref);
    struct proxy x;
    struct answer a, b;

    read_in_line(&x, 13, &a, &b);
    atomic_store(&x.hold_at, UINT64_MAX);
    WAIT_FOR(a.n > 0 && b.n > 0);
    check_object(1, &a, 1, 64 * MIB, 2);
    check_object(2, &b, 1, 64 * MIB, 2);
    ck_assert_uint_eq(port_of(1).bytes_in, all);
    ck_assert_uint_eq(port_of(2).bytes_in, all);
    ck_assert_uint_eq(port_of(2).n_resumed, 0);
    WAIT_FOR(port_of(1).bytes_out == all);
    ck_assert_uint_eq(port_of(0).bytes_out, all);
    end_proxy(&x);
    /* it is known who has it, though it was not sealed then */
    ck_assert(store_free(m[1].store, a.at.place, loop_now_ms(), &m[1].actions));
    WAIT_FOR(m[1].n_frees > 0);
    ck_assert_uint_eq(m[1].frees[0].node, node_of(2));
}
END_TEST

START_TEST(what_comes_no_more_is_not_waited_for)
{
    struct transfer_key key = key_of(1);
    struct proxy x;
    struct answer a, b;

    read_in_line(&x, 13, &a, &b);
    transfer_free(m[1].t, &key);
    ck_assert_uint_eq(port_of(1).n_parked, 0);
    WAIT_FOR(a.n > 0 && b.n > 0);
    check_failed(&a, ERR_NOT_FOUND, "its owner has freed it");
    check_failed(&b, ERR_NOT_FOUND, "node 11 does not have it");
    ck_assert_uint_eq(m[1].frees[0].node, node_of(2));
    atomic_store(&x.hold_at, UINT64_MAX);
    WAIT_FOR(stats_of(1).lent == 0 && stats_of(2).lent == 0);
    end_proxy(&x);
}
END_TEST

START_TEST(who_holds_back_too_long_is_passed_over)
{
    struct proxy x;
    struct answer a, b, c;

    read_in_line(&x, 13, &a, &b);
    pull_from(2, 0, 1, &c); /* it has it too */
    WAIT_FOR(b.n > 0);      /* after a while */
    check_object(2, &b, 1, 64 * MIB, 2);
    check_object(2, &c, 1, 64 * MIB, 2);
    ck_assert_msg(a.n == 0, "%s", a.err.text);
    ck_assert_uint_eq(port_of(2).bytes_in, 64 * MIB + 2 * sizeof(struct wire_ref));
    atomic_store(&x.hold_at, UINT64_MAX);
    WAIT_FOR(a.n > 0);
    check_object(1, &a, 1, 64 * MIB, 2);
    end_proxy(&x);
}
END_TEST

START_TEST(later_readers_are_sent_to_earlier_ones)
{
    struct answer a;

    make_object(0, 1, 20 * MIB, 0);
    make_object(0, 2, 100000, 0);
    for (unsigned i = 1; i < 4; i++) {
        bring(i, 0, 1, 20 * MIB, 0);
        bring(i, 0, 2, 100000, 0);
    }
    WAIT_FOR(port_of(0).bytes_out == 40 * MIB + 300000);
    WAIT_FOR(port_of(1).bytes_out == 20 * MIB);
    ck_assert_uint_eq(port_of(2).bytes_out + port_of(3).bytes_out, 0);
    /* one that does not have it any more, and one that is dead, hold nobody up */
    struct transfer_key key = key_of(1);
    transfer_free(m[3].t, &key);
    transfer_free(m[1].t, &key);
    pull_from(3, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_object(3, &a, 1, 20 * MIB, 0);
    transfer_free(m[3].t, &key);
    end_port(1);
    pull_from(3, 0, 1, &a);
    WAIT_FOR(a.n > 0);
    check_object(3, &a, 1, 20 * MIB, 0);
    WAIT_FOR(port_of(0).bytes_out == 80 * MIB + 300000);
    begin_port(1, NULL);
}
END_TEST

/* --- files --- */

static void on_hash(void *arg, const struct err *err, const struct transfer_hash *hash)
{
    struct answer *a = arg;

    take(a, err);
    if (hash != NULL)
        a->hash = *hash;
}

static void on_file(void *arg, const struct err *err, int fd)
{
    struct answer *a = arg;

    take(a, err);
    ck_assert((err == NULL) == (fd >= 0));
    a->fd = fd;
}

static int make_file(uint32_t index, uint64_t size)
{
    int fd = memfd_create("test-file", MFD_CLOEXEC);
    uint8_t buf[4096];

    for (uint64_t at = 0; at < size; at += sizeof buf) {
        size_t n = size - at < sizeof buf ? (size_t)(size - at) : sizeof buf;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(index, at + i);
        ck_assert_int_eq(write(fd, buf, n), n);
    }
    return fd;
}

static struct transfer_hash hash_of(unsigned i, int fd)
{
    struct answer a = {0};

    ck_assert_uint_ne(transfer_hash_file(m[i].t, fd, on_hash, &a), 0);
    WAIT_FOR(a.n > 0);
    ck_assert_msg(a.err.code == ERR_NONE, "%s", a.err.text);
    return a.hash;
}

static void fetch(unsigned i, unsigned from, const struct transfer_hash *hash, struct answer *a)
{
    *a = (struct answer){.fd = -1};
    transfer_fetch_file(m[i].t, node_of(from), hash, on_file, a);
}

START_TEST(a_file_comes_by_its_hash)
{
    static const uint64_t sizes[] = {0, 1, 300000, 9 * MIB + 5};
    struct answer a, b;

    for (uint32_t i = 0; i < 4; i++) {
        int fd = make_file(i, sizes[i]);
        struct transfer_hash hash = hash_of(0, fd);
        ck_assert_int_eq(transfer_offer_file(m[0].t, &hash, fd, NULL), 0);
        ck_assert_int_eq(transfer_offer_file(m[0].t, &hash, fd, NULL), 0);
        close(fd);
        fetch(1, 0, &hash, &a);
        fetch(1, 0, &hash, &b);
        transfer_withdraw_file(m[0].t, &hash);
        ck_assert_uint_eq(port_of(1).n_fetches, 1);
        WAIT_FOR(a.n > 0 && b.n > 0);
        ck_assert_msg(a.err.code == ERR_NONE, "%s", a.err.text);
        ck_assert_int_eq(lseek(a.fd, 0, SEEK_END), (off_t)sizes[i]);
        uint8_t c;
        for (uint64_t at = 0; at < sizes[i]; at += at < 1000 ? 1 : 997) {
            ck_assert_int_eq(pread(a.fd, &c, 1, (off_t)at), 1);
            ck_assert_uint_eq(c, byte_at(i, at));
        }
        ck_assert_int_lt(pwrite(a.fd, "x", 1, 0), 0); /* nobody changes what was checked */
        struct transfer_hash again = hash_of(1, b.fd);
        ck_assert_int_eq(memcmp(&again, &hash, sizeof hash), 0);
        close(a.fd);
        close(b.fd);
        transfer_withdraw_file(m[0].t, &hash);
        fetch(1, 0, &hash, &a);
        WAIT_FOR(a.n > 0);
        check_failed(&a, ERR_NOT_FOUND, "node 10 does not have it");
    }
}
END_TEST

START_TEST(a_file_with_another_content_is_not_handed_over)
{
    struct transfer_hash hash = {{1, 2, 3}};
    struct answer a, b;
    int fd = make_file(1, MIB), pipes[2];

    ck_assert_int_eq(transfer_offer_file(m[0].t, &hash, fd, NULL), 0);
    fetch(1, 0, &hash, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_PROTOCOL, "another hash");
    check_failed(&a, ERR_PROTOCOL, "file with hash 01020300");
    transfer_cancel(m[1].t, transfer_hash_file(m[1].t, fd, on_hash, &b));
    ck_assert_int_eq(pipe(pipes), 0);
    struct err err;
    ck_assert_int_ne(transfer_offer_file(m[0].t, &(struct transfer_hash){{9}}, pipes[0], &err), 0);
    a = (struct answer){0};
    b = (struct answer){0};
    transfer_hash_file(m[0].t, pipes[0], on_hash, &a);
    WAIT_FOR(a.n > 0);
    check_failed(&a, ERR_INVALID, "no regular file");
    ck_assert_uint_eq(b.n, 0);
    close(pipes[0]);
    close(pipes[1]);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transfer");
    TCase *tc = tcase_create("transfer");

    log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC));
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, an_object_comes_with_its_refs);
    tcase_add_test(tc, a_large_object_comes_once);
    tcase_add_test(tc, all_who_ask_for_one_object_share_a_pull);
    tcase_add_test(tc, many_objects_come_at_once_both_ways);
    tcase_add_test(tc, broken_connections_lose_nothing_and_repeat_nothing);
    tcase_add_test(tc, a_node_that_does_not_have_it_says_so);
    tcase_add_test(tc, another_holder_is_asked);
    tcase_add_test(tc, another_holder_goes_on_when_one_dies);
    tcase_add_test(tc, a_dead_node_fails_what_only_it_had);
    tcase_add_test(tc, a_node_that_is_not_known_yet_is_waited_for);
    tcase_add_test(tc, a_node_that_is_dead_is_not_waited_for);
    tcase_add_test(tc, who_sends_nothing_is_given_up);
    tcase_add_test(tc, a_slow_line_is_not_given_up);
    tcase_add_test(tc, a_raylet_that_stood_still_does_not_blame_others);
    tcase_add_test(tc, a_wrong_token_is_refused_on_both_sides);
    tcase_add_test(tc, garbage_ends_its_connection_alone);
    tcase_add_test(tc, unproven_connections_are_few_and_short);
    tcase_add_test(tc, a_proven_peer_that_asks_nonsense_is_cut_off);
    tcase_add_test(tc, a_holder_that_lies_is_cut_off);
    tcase_add_test(tc, an_object_that_is_gone_between_two_reads_fails_its_pull);
    tcase_add_test(tc, a_full_store_refuses_with_its_own_sentence);
    tcase_add_test(tc, copies_make_room_for_others);
    tcase_add_test(tc, arguments_take_a_part_of_the_store_at_once);
    tcase_add_test(tc, who_waits_for_bytes_passes_arguments);
    tcase_add_test(tc, frees_follow_the_copies);
    tcase_add_test(tc, a_copy_that_is_kept_is_the_primary_one);
    tcase_add_test(tc, a_free_by_the_owners_ring_follows_too);
    tcase_add_test(tc, what_is_freed_or_not_wanted_any_more_gives_its_memory_back);
    tcase_add_test(tc, the_end_of_an_owner_ends_its_pulls);
    tcase_add_test(tc, the_end_answers_everybody);
    tcase_add_test(tc, an_idle_port_has_neither_connections_nor_a_thread);
    tcase_add_test(tc, what_is_still_coming_is_passed_on);
    tcase_add_test(tc, what_comes_no_more_is_not_waited_for);
    tcase_add_test(tc, who_holds_back_too_long_is_passed_over);
    tcase_add_test(tc, later_readers_are_sent_to_earlier_ones);
    tcase_add_test(tc, who_has_no_port_is_called_and_asked);
    tcase_add_test(tc, a_file_comes_by_its_hash);
    tcase_add_test(tc, a_file_with_another_content_is_not_handed_over);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
