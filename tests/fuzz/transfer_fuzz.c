/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what a peer says to a data port: to its listener before and after the token, or as
 * the holder of what it pulls. The port is the real one with its thread, on loopback. Whatever is
 * said, the connection ends, a pull is answered once, and all memory of the store comes back.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/net/loop.h"
#include "lib/net/wire.h"
#include "raylet/transfer.h"
#include "raylet/transfer_wire.h"
#include "tests/fuzz/fuzz.h"

#define CAPACITY  (1u << 20)
#define N_ENTRIES 32
#define USER      0
#define PORT      1
#define SIZE      5000u
#define PEER      66
#define TURNS_MAX 20 /* of one input, between what it says */
#define HANG_NS   20000000000ull

static struct {
    struct loop *loop;
    struct store *store;
    struct store_actions actions;
    struct index_entry index[N_ENTRIES];
    struct store_share share;
    int arena_fd, fd;
    struct transfer *t;
    struct store_action lent;
    unsigned n_answers;
    uint64_t last_id; /* that it asked us with */
} x;
static const struct auth_token token = {"token"};

static void nothing(void *arg)
{
    (void)arg;
}

static void no_free(void *arg, uint32_t node, const struct transfer_key *key)
{
    (void)arg;
    ASSERT(node == PEER && key->counter == 7);
}

static void on_turn_end(void *arg)
{
    (void)arg;
    if (store_next_deadline(x.store) <= loop_now_ms())
        store_on_time(x.store, loop_now_ms(), &x.actions);
    for (size_t i = 0; i < x.actions.n; i++) {
        struct store_action a = x.actions.v[i];
        if (a.slot == PORT || a.kind == STORE_FREED)
            transfer_on_store(x.t, &a, a.kind == STORE_REFUSED ? "full" : NULL);
        else
            x.lent = a;
    }
    x.actions.n = 0;
    loop_stop(x.loop);
}

/* What the port says is read, and forgotten but for the id. */
static void turn(void)
{
    struct transfer_frame f[64];

    loop_run(x.loop, on_turn_end, NULL);
    if (x.fd < 0)
        return;
    ssize_t n = recv(x.fd, f, sizeof f, MSG_DONTWAIT);
    for (ssize_t i = 0; i + (ssize_t)sizeof f[0] <= n; i += (ssize_t)sizeof f[0])
        if (f[i / (ssize_t)sizeof f[0]].word == TRANSFER_WORD)
            x.last_id = f[i / (ssize_t)sizeof f[0]].id;
}

#define TURN_UNTIL(condition)                                                                      \
    do {                                                                                           \
        for (uint64_t end_ns = clock_now_ns() + HANG_NS; !(condition); turn())                     \
            ASSERT(clock_now_ns() < end_ns);                                                       \
    } while (0)

static void on_done(void *arg, const struct err *err, const struct transfer_object *at)
{
    (void)arg;
    ASSERT((err == NULL) == (at != NULL));
    x.n_answers++;
}

static void begin(void)
{
    static bool is_quiet;
    struct err err;

    if (!is_quiet)
        log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC));
    is_quiet = true;
    memset(&x, 0, sizeof x);
    x.fd = -1;
    x.loop = loop_create(NULL);
    x.store = store_create(&(struct store_config){.capacity = CAPACITY,
                                                  .n_entries = N_ENTRIES,
                                                  .index = x.index,
                                                  .n_slots = 2,
                                                  .wait_ms = 5});
    x.arena_fd = memfd_create("fuzz-arena", MFD_CLOEXEC);
    ASSERT(x.loop != NULL && x.store != NULL && ftruncate(x.arena_fd, CAPACITY) == 0);
    store_add_process(x.store, USER, 100, &x.share);
    x.t = transfer_create(&(struct transfer_config){.loop = x.loop,
                                                    .store = x.store,
                                                    .store_actions = &x.actions,
                                                    .slot = PORT,
                                                    .arena_fd = x.arena_fd,
                                                    .capacity = CAPACITY,
                                                    .token = &token,
                                                    .node = 1,
                                                    .address = "127.0.0.1",
                                                    .send_free = no_free},
                          &err);
    ASSERT(x.t != NULL);
    store_lend(x.store, USER, 1, SIZE, SIZE, 1, 0, &x.actions);
    on_turn_end(NULL);
    struct store_record r = {.kind = STORE_SEAL,
                             .attempt = 1,
                             .owner = 500,
                             .counter = 7,
                             .index = 1,
                             .place = x.lent.places[0],
                             .offset = x.lent.offset,
                             .size = SIZE};
    store_on_record(x.store, USER, &r, loop_now_ms(), &x.actions);
}

static void end(void)
{
    struct store_stats s;

    transfer_destroy(x.t);
    store_selfcheck(x.store);
    store_get_stats(x.store, &s);
    ASSERT(s.n_bad_records == 0 && s.n_lent == 0 && s.lent == 0 && s.buried == 0);
    store_destroy(x.store);
    loop_destroy(x.loop);
    close(x.arena_fd);
    free(x.actions.v);
}

static void say(const void *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = send(x.fd, (const uint8_t *)bytes + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno != EAGAIN)
            return; /* cut off */
        at += k > 0 ? (size_t)k : 0;
        turn();
    }
}

static void say_hello(struct input *in)
{
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_HELLO};
    uint8_t spoil = input_u8(in);

    f.protocol = TRANSFER_PROTOCOL;
    f.node = PEER;
    f.token_size = (uint32_t)strlen(token.text);
    if (spoil > 0 && spoil < sizeof f)
        ((uint8_t *)&f)[spoil] ^= input_u8(in);
    say(&f, sizeof f);
    say(token.text, strlen(token.text));
}

static uint64_t number(struct input *in)
{
    static const uint64_t some[] =
        {0, 1, SIZE, SIZE - 1, SIZE + 1, TRANSFER_READ_MAX, UINT32_MAX, UINT64_MAX, 1ull << 47};
    uint8_t b = input_u8(in);

    return b < 9 ? some[b] : b * 64ull;
}

/* A frame that is right but for what the input says. */
static void say_frame(struct input *in)
{
    uint8_t type = input_u8(in), what = input_u8(in);
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = type % 10};

    f.id = x.last_id + (what >> 6);
    f.offset = number(in);
    f.length = number(in);
    f.size = (what & 8) != 0 ? number(in) : f.length;
    f.n_refs = (what & 16) != 0 ? input_u8(in) : 0;
    f.what = (struct transfer_what){.kind = what & 3,
                                    .attempt = 1,
                                    .owner = 500,
                                    .counter = 7,
                                    .index = what >> 2 & 1};
    say(&f, sizeof f);
    if ((what & 32) == 0 || f.type != TRANSFER_DATA)
        return;
    uint8_t *bytes = xcalloc(1, f.length < CAPACITY ? f.length + 1 : 1);
    say(bytes, f.length < CAPACITY ? f.length : 0);
    free(bytes);
}

static void play(struct input *in)
{
    for (int n_turns = 0; in->left > 0;) {
        uint8_t op = input_u8(in);
        size_t n;
        if (op < 128) {
            say_frame(in);
        } else if (op < 192) {
            const uint8_t *bytes = input_bytes(in, 255, &n);
            say(bytes, n);
        } else {
            for (int i = 0; i < (op - 192) / 8 && n_turns < TURNS_MAX; i++, n_turns++)
                turn();
        }
    }
}

static struct transfer_stats stats(void)
{
    struct transfer_stats s;

    transfer_get_stats(x.t, &s);
    return s;
}

/* It is spoken to. */
static void listener(struct input *in, bool is_proven)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(transfer_port(x.t)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    x.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(connect(x.fd, (struct sockaddr *)&a, sizeof a) == 0);
    if (is_proven)
        say_hello(in);
    play(in);
    shutdown(x.fd, SHUT_WR);
    TURN_UNTIL(stats().n_links + stats().n_unproven == 0);
    close(x.fd);
    x.fd = -1;
}

/* It speaks, and is answered. */
static void holder(struct input *in)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct transfer_key key = {.counter = 7, .owner = 500, .index = 2, .attempt = 1};
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_WELCOME};

    ASSERT(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 1) == 0);
    ASSERT(getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    ASSERT(transfer_add_node(x.t, PEER, "127.0.0.1", ntohs(a.sin_port), NULL) == 0);
    transfer_pull(x.t, &key, PEER, TRANSFER_GET, on_done, NULL);
    TURN_UNTIL((x.fd = accept(fd, NULL, NULL)) >= 0);
    close(fd);
    f.protocol = TRANSFER_PROTOCOL;
    f.node = PEER;
    if (input_u8(in) < 250)
        say(&f, sizeof f);
    play(in);
    close(x.fd);
    x.fd = -1;
    transfer_remove_node(x.t, PEER);
    TURN_UNTIL(x.n_answers > 0 && stats().n_links == 0);
    on_turn_end(NULL);
    ASSERT(x.n_answers == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t mode = input_u8(&in);

    begin();
    struct loop_timer *heartbeat = loop_every(x.loop, 1, nothing, NULL);
    if (mode % 4 == 0)
        listener(&in, false);
    else if (mode % 4 < 3)
        listener(&in, true);
    else
        holder(&in);
    loop_timer_end(heartbeat);
    end();
    return 0;
}
