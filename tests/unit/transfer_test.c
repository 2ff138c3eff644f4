/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three machines in one process, each with a store and its data port on loopback, on one loop. What
 * goes wrong between them is done by a proxy in the middle, or by a hand-written peer.
 */
#include "raylet/transfer.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
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

#define N_MACHINES 3
#define N_ENTRIES  4096
#define CAPACITY   (128ull << 20)
#define USER       0 /* slots of each store */
#define READER     1
#define PORT       2
#define N_SLOTS    3
#define OWNER      500u /* a process somewhere else */
#define MIB        (1ull << 20)
#define WAIT_S     60

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
                                                   .wait_ms = 300});
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
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
