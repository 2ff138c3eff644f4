/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The row of bulk transfer: an object from the store of another process over the data port, beside
 * a plain loop of write and read on the same loopback between memory that is as warm. The two take
 * turns, since a shared machine changes from second to second.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/net/loop.h"
#include "raylet/transfer.h"
#include "tests/bench/bench.h"

#define MIB       ((uint64_t)1 << 20)
#define SIZE      (256 * MIB)
#define CAPACITY  (SIZE + 64 * MIB)
#define N_ENTRIES 64
#define USER      0
#define PORT      1
#define PIECE     MIB /* of the plain loop */
#define ROUNDS    7

static const struct transfer_key key = {.counter = 1, .owner = 9};

/* A store and its data port. */
struct side {
    struct loop *loop;
    struct store *store;
    struct store_actions actions;
    struct index_entry index[N_ENTRIES];
    struct store_share share;
    int arena_fd;
    struct transfer *port;
    struct store_action lent;
    bool is_done;
};

static void no_free(void *arg, uint32_t node, const struct transfer_key *freed)
{
    (void)arg;
    (void)node;
    (void)freed;
}

static void on_turn_end(void *arg)
{
    struct side *s = arg;

    for (size_t i = 0; i < s->actions.n; i++) {
        struct store_action a = s->actions.v[i];
        if (a.slot == PORT || a.kind == STORE_FREED)
            transfer_on_store(s->port, &a, NULL);
        else
            s->lent = a;
    }
    s->actions.n = 0;
    loop_stop(s->loop);
}

static struct side *begin(uint32_t node)
{
    struct side *s = xcalloc(1, sizeof *s);
    static const struct auth_token token = {"a-token-of-the-bench"};
    struct err err;

    s->loop = loop_create(NULL);
    s->store = store_create(&(struct store_config){.capacity = CAPACITY,
                                                   .n_entries = N_ENTRIES,
                                                   .index = s->index,
                                                   .n_slots = 2,
                                                   .wait_ms = 1000});
    s->arena_fd = memfd_create("bench-arena", MFD_CLOEXEC);
    ASSERT(s->loop != NULL && s->store != NULL && ftruncate(s->arena_fd, CAPACITY) == 0);
    store_add_process(s->store, USER, 100 + node, &s->share);
    s->port = transfer_create(&(struct transfer_config){.loop = s->loop,
                                                        .store = s->store,
                                                        .store_actions = &s->actions,
                                                        .slot = PORT,
                                                        .arena_fd = s->arena_fd,
                                                        .capacity = CAPACITY,
                                                        .token = &token,
                                                        .node = node,
                                                        .address = "127.0.0.1",
                                                        .send_free = no_free},
                              &err);
    ASSERT(s->port != NULL);
    return s;
}

static void end(struct side *s)
{
    transfer_destroy(s->port);
    store_destroy(s->store);
    loop_destroy(s->loop);
    close(s->arena_fd);
    free(s->actions.v);
    free(s);
}

/* The process that has the object, until nobody holds the other end of the socket. */
static void serve(int fd)
{
    struct side *s = begin(1);
    uint16_t port = transfer_port(s->port);

    store_lend(s->store, USER, 1, SIZE, SIZE, 1, 0, &s->actions);
    on_turn_end(s);
    void *p = mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, s->arena_fd, (off_t)s->lent.offset);
    ASSERT(p != MAP_FAILED);
    memset(p, 1, SIZE);
    munmap(p, SIZE);
    struct store_record r = {.kind = STORE_SEAL,
                             .owner = key.owner,
                             .counter = key.counter,
                             .place = s->lent.places[0],
                             .offset = s->lent.offset,
                             .size = SIZE};
    store_on_record(s->store, USER, &r, 0, &s->actions);
    struct loop_timer *look = loop_every(s->loop, 20, on_turn_end, s);
    ASSERT(write(fd, &port, sizeof port) == sizeof port);
    for (char c; recv(fd, &c, 1, MSG_DONTWAIT) != 0;)
        loop_run(s->loop, on_turn_end, s);
    loop_timer_end(look);
    end(s);
}

static void on_done(void *arg, const struct err *err, const struct transfer_object *at)
{
    struct side *s = arg;

    (void)at;
    ASSERT(err == NULL);
    s->is_done = true;
}

/* GB/s */
static double pull(struct side *s)
{
    uint64_t t = clock_now_ns();

    s->is_done = false;
    transfer_pull(s->port, &key, 1, TRANSFER_GET, on_done, s);
    while (!s->is_done)
        loop_run(s->loop, on_turn_end, s);
    double rate = (double)SIZE / (double)(clock_now_ns() - t);
    transfer_free(s->port, &key);
    on_turn_end(s);
    return rate;
}

/* A process that sends SIZE bytes for each byte that it gets. */
static void send_all(int fd)
{
    uint8_t *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    ASSERT(p != MAP_FAILED);
    memset(p, 1, SIZE);
    for (char c; read(fd, &c, 1) == 1;)
        for (uint64_t at = 0; at < SIZE;) {
            ssize_t n = write(fd, p + at, SIZE - at < PIECE ? SIZE - at : PIECE);
            ASSERT(n > 0);
            at += (uint64_t)n;
        }
}

static double plain(int fd, uint8_t *to)
{
    uint64_t t = clock_now_ns();

    ASSERT(write(fd, "", 1) == 1);
    for (uint64_t at = 0; at < SIZE;) {
        ssize_t n = read(fd, to + at, SIZE - at < PIECE ? SIZE - at : PIECE);
        ASSERT(n > 0);
        at += (uint64_t)n;
    }
    return (double)SIZE / (double)(clock_now_ns() - t);
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 1) == 0);
    ASSERT(getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    ASSERT(connect(fds[0], (struct sockaddr *)&a, size) == 0);
    fds[1] = accept(fd, NULL, NULL);
    close(fd);
}

void bench_transfer(bool quick)
{
    int holder[2], plain_fds[2], n = quick ? 3 : ROUNDS;
    double rates[ROUNDS], limits[ROUNDS];
    uint16_t port;

    ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, holder) == 0);
    tcp_pair(plain_fds);
    pid_t sender = fork();
    if (sender == 0) {
        close(plain_fds[0]);
        close(holder[0]);
        close(holder[1]);
        send_all(plain_fds[1]);
        _exit(0);
    }
    pid_t server = fork();
    if (server == 0) {
        close(holder[0]);
        close(plain_fds[0]);
        close(plain_fds[1]);
        serve(holder[1]);
        _exit(0);
    }
    close(holder[1]);
    close(plain_fds[1]);
    ASSERT(read(holder[0], &port, sizeof port) == sizeof port);
    struct side *s = begin(2);
    ASSERT(transfer_add_node(s->port, 1, "127.0.0.1", port, NULL) == 0);
    uint8_t *to = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT(to != MAP_FAILED);
    pull(s); /* memory that was used before, on both sides */
    plain(plain_fds[0], to);
    for (int i = 0; i < n; i++) {
        limits[i] = plain(plain_fds[0], to);
        rates[i] = pull(s);
    }
    bench_add((struct row){"256 MiB from another store, loopback",
                           bench_quantile(rates, (size_t)n, 0.5),
                           "GB/s",
                           bench_quantile(limits, (size_t)n, 0.5),
                           "write and read on the same loopback",
                           0.85,
                           true});
    munmap(to, SIZE);
    end(s);
    close(holder[0]);
    close(plain_fds[0]);
    waitpid(server, NULL, 0);
    waitpid(sender, NULL, 0);
}
