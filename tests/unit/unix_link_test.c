/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The link over real sockets of this process. Carried messages describe themselves: message i of a
 * class has a size, bytes and perhaps an fd that follow from (seed, class, i), so the receiver
 * checks order, content and fds without a list of what was sent.
 */
#include "lib/net/unix_link.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"

static struct unix_link *a, *b; /* two ends */
static struct err err;

static void connect_links(int sndbuf, size_t out_max)
{
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    if (sndbuf > 0)
        for (int i = 0; i < 2; i++)
            ck_assert_int_eq(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf), 0);
    a = unix_link_create(fds[0], out_max);
    b = unix_link_create(fds[1], out_max);
    ck_assert(a != NULL && b != NULL);
}

static void setup(void)
{
    connect_links(0, 0);
}

static void teardown(void)
{
    unix_link_destroy(a);
    unix_link_destroy(b);
    a = b = NULL;
}

static unsigned n_open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* A descriptor that can be recognised on the other side: a file of this size. */
static int numbered_fd(unsigned number)
{
    int fd = memfd_create("numbered", MFD_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, number), 0);
    return fd;
}

static unsigned take_number(int fd)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    close(fd);
    return (unsigned)st.st_size;
}

static void put(enum frame_class class, uint8_t type, const char *text, int fd)
{
    size_t n = strlen(text);
    char *p = unix_link_reserve(a, class, type, 0, n);

    ck_assert_ptr_nonnull(p);
    memcpy(p, text, n);
    unix_link_commit(a, n, fd);
}

static struct frame take(uint8_t type)
{
    struct frame f;

    ck_assert_int_eq(unix_link_next(b, &f, &err), 1);
    ck_assert_uint_eq(f.h.type, type);
    return f;
}

static void flush(void)
{
    ck_assert_int_eq(unix_link_flush(a, &err), 1);
    ck_assert_uint_eq(unix_link_pending(a), 0);
}

START_TEST(control_goes_first_and_all_goes_in_one_write)
{
    struct frame f;
    struct unix_link_stats out, in;

    put(FRAME_BODIES, 3, "bodies", -1);
    put(FRAME_CALLS, 2, "calls", -1);
    put(FRAME_CONTROL, 1, "control", -1);
    put(FRAME_BODIES, 4, "", -1);
    ck_assert_uint_eq(unix_link_pending(a), 4 * FRAME_HEADER_SIZE + 18);
    flush();
    ck_assert_int_eq(unix_link_read(b, &err), 4 * FRAME_HEADER_SIZE + 18);
    f = take(1);
    ck_assert_mem_eq(f.body, "control", 7);
    f = take(2);
    ck_assert_mem_eq(f.body, "calls", 5);
    f = take(3);
    ck_assert_mem_eq(f.body, "bodies", 6);
    ck_assert_uint_eq(take(4).body_size, 0);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
    ck_assert_int_eq(unix_link_read(b, &err), 0);
    unix_link_get_stats(a, &out);
    unix_link_get_stats(b, &in);
    ck_assert_uint_eq(out.writes, 1);
    ck_assert_uint_eq(in.reads, 1);
    ck_assert_uint_eq(out.frames_out, 4);
    ck_assert_uint_eq(in.frames_in, 4);
    ck_assert_uint_eq(out.bytes_out, in.bytes_in);
}
END_TEST

START_TEST(an_empty_flush_writes_nothing)
{
    struct unix_link_stats out;

    flush();
    unix_link_get_stats(a, &out);
    ck_assert_uint_eq(out.writes, 0);
}
END_TEST

START_TEST(a_body_may_be_cut_and_a_reservation_replaced)
{
    struct frame f;

    ck_assert_ptr_nonnull(unix_link_reserve(a, FRAME_CALLS, 7, 0, 5000));
    char *p = unix_link_reserve(a, FRAME_CONTROL, 8, 0, 100);
    memcpy(p, "kept", 4);
    unix_link_commit(a, 4, -1);
    ck_assert_uint_eq(unix_link_pending(a), FRAME_HEADER_SIZE + 4);
    flush();
    unix_link_read(b, &err);
    f = take(8);
    ck_assert_uint_eq(f.body_size, 4);
    ck_assert_mem_eq(f.body, "kept", 4);
}
END_TEST

START_TEST(sequence_of_route_0_counts_by_one_others_grow)
{
    uint32_t next = 0, last[4] = {0};
    struct frame f;

    for (uint32_t i = 0; i < 60; i++) {
        ck_assert_ptr_nonnull(unix_link_reserve(a, FRAME_CALLS, 1, i % 4, 0));
        unix_link_commit(a, 0, -1);
    }
    flush();
    unix_link_read(b, &err);
    while (unix_link_next(b, &f, &err) == 1) {
        uint32_t r = f.h.route;
        if (r == 0)
            ck_assert_uint_eq(f.h.sequence, next++);
        else if (last[r] > 0)
            ck_assert_int_gt((int32_t)(f.h.sequence + 1 - last[r]), 0);
        last[r] = f.h.sequence + 1;
    }
    ck_assert_uint_eq(next, 15);
}
END_TEST

/* Send everything while the other end reads, and join what arrives there. */
static void carry(struct frame_join *join, const uint8_t **body, size_t *size)
{
    struct frame f;
    int rc = 0;

    for (int turns = 0; rc == 0; turns++) {
        ck_assert_int_lt(turns, 100000);
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        ck_assert_int_ge(unix_link_read(b, &err), 0);
        while (rc == 0 && unix_link_next(b, &f, &err) == 1)
            rc = frame_join_feed(join, &f, body, size, &err);
    }
    ck_assert_int_eq(rc, 1);
}

START_TEST(messages_of_every_size_arrive)
{
    static const size_t sizes[] = {0,
                                   1,
                                   FRAME_BODY_MAX - 1,
                                   FRAME_BODY_MAX,
                                   FRAME_BODY_MAX + 1,
                                   2 * FRAME_BODY_MAX,
                                   (1u << 20) + 3,
                                   FRAME_MESSAGE_MAX};
    struct frame_join join = {0};
    uint8_t *bytes = xmalloc(FRAME_MESSAGE_MAX + 1);

    for (size_t i = 0; i < FRAME_MESSAGE_MAX; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 4099);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const uint8_t *body = NULL;
        size_t size = 0;
        ck_assert_int_eq(unix_link_send(a, FRAME_BODIES, 9, 0, bytes, sizes[i]), 0);
        carry(&join, &body, &size);
        ck_assert_uint_eq(size, sizes[i]);
        ck_assert(size == 0 || memcmp(body, bytes, size) == 0);
        ck_assert_uint_eq(unix_link_pending(a), 0);
    }
    ck_assert_int_eq(unix_link_send(a, FRAME_BODIES, 9, 0, bytes, FRAME_MESSAGE_MAX + 1), -1);
    ck_assert_ptr_null(unix_link_reserve(a, FRAME_CALLS, 9, 0, FRAME_BODY_MAX + 1));
    ck_assert_uint_eq(unix_link_pending(a), 0);
    frame_join_fini(&join);
    free(bytes);
}
END_TEST

START_TEST(what_waits_is_bounded)
{
    static uint8_t bytes[200000];

    teardown();
    connect_links(0, 100000);
    ck_assert_ptr_null(unix_link_reserve(a, FRAME_CALLS, 1, 0, 100000)); /* a frame's own bound */
    ck_assert_int_eq(unix_link_send(a, FRAME_CALLS, 1, 0, bytes, 100000), -1);
    ck_assert_int_eq(unix_link_send(a, FRAME_BODIES, 1, 0, bytes, 99000), 0);
    size_t pending = unix_link_pending(a);
    ck_assert_ptr_null(unix_link_reserve(a, FRAME_CONTROL, 1, 0, 1000)); /* over all classes */
    ck_assert_int_eq(unix_link_send(a, FRAME_CONTROL, 1, 0, bytes, 1000), -1);
    ck_assert_uint_eq(unix_link_pending(a), pending);
    while (unix_link_flush(a, &err) == 0)
        unix_link_read(b, &err);
    ck_assert_ptr_nonnull(unix_link_reserve(a, FRAME_CONTROL, 1, 0, 1000));
}
END_TEST

START_TEST(control_waits_behind_one_body_frame_at_most)
{
    enum {
        BODY = 3000,
        FRAME = BODY + FRAME_HEADER_SIZE,
    };
    struct unix_link_stats out;
    struct frame f;
    unsigned n_before = 0, n_bodies = 0;
    bool seen = false;

    teardown();
    connect_links(8192, 0);
    for (int i = 0; i < 100; i++) {
        uint8_t *p = unix_link_reserve(a, FRAME_BODIES, 3, 0, BODY);
        memset(p, i, BODY);
        unix_link_commit(a, BODY, -1);
    }
    ck_assert_int_eq(unix_link_flush(a, &err), 0);
    unix_link_get_stats(a, &out);
    ck_assert_uint_ne(out.bytes_out % FRAME, 0); /* a frame is cut */
    unsigned begun = (unsigned)(out.bytes_out / FRAME) + 1;
    ck_assert_uint_lt(begun, 50);
    put(FRAME_CONTROL, 1, "now", -1);
    for (int turns = 0; n_bodies < 100; turns++) {
        ck_assert_int_lt(turns, 10000);
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        ck_assert_int_ge(unix_link_read(b, &err), 0);
        while (unix_link_next(b, &f, &err) == 1) {
            if (f.h.type == 1) {
                seen = true;
                n_before = n_bodies;
                continue;
            }
            ck_assert_uint_eq(f.body_size, BODY);
            ck_assert_uint_eq(f.body[0], n_bodies);
            ck_assert_uint_eq(f.body[BODY - 1], n_bodies);
            n_bodies++;
        }
    }
    ck_assert(seen);
    ck_assert_uint_eq(n_before, begun);
}
END_TEST

/* --- a seeded carrier --- */

static uint64_t rng;

static uint32_t draw(uint32_t below)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 20) % below);
}

static uint32_t hash(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x45d9f3bu;
    x = (x ^ (x >> 16)) * 0x45d9f3bu;
    return x ^ (x >> 16);
}

struct plan {
    uint32_t seed, n_each; /* messages of each class */
    uint32_t piece_max;
    size_t body_max;
};

struct message {
    uint32_t key;
    size_t size;
    unsigned fd_number; /* 0: carries none */
};

static struct message message_of(const struct plan *p, unsigned class, uint32_t i)
{
    struct message m = {.key = hash(p->seed * 31 + class * 7919 + i)};

    m.size = hash(m.key) % 16 == 0 ? hash(m.key + 1) % p->body_max : hash(m.key + 1) % 60;
    if (hash(m.key + 2) % 5 == 0 && m.size <= FRAME_BODY_MAX)
        m.fd_number = m.key % 1000000 + 1;
    return m;
}

static void fill(uint8_t *out, const struct message *m)
{
    for (size_t i = 0; i < m->size; i++)
        out[i] = (uint8_t)(m->key + i * 13);
}

/* False: the link has no memory; nothing was queued. */
static bool send_message(const struct plan *p, unsigned class, uint32_t i)
{
    struct message m = message_of(p, class, i);
    uint8_t type = (uint8_t)(40 + class);

    if (m.fd_number > 0 || (m.size <= FRAME_BODY_MAX && m.key % 2 == 0)) {
        uint8_t *out = unix_link_reserve(a, class, type, 0, m.size);
        if (out == NULL)
            return false;
        fill(out, &m);
        unix_link_commit(a, m.size, m.fd_number > 0 ? numbered_fd(m.fd_number) : -1);
        return true;
    }
    uint8_t *body = xmalloc(m.size);
    fill(body, &m);
    int rc = unix_link_send(a, class, type, 0, body, m.size);
    free(body);
    return rc == 0;
}

struct receiver {
    struct frame_join joins[FRAME_N_CLASSES];
    uint32_t n[FRAME_N_CLASSES];
    struct frame_header last[FRAME_N_CLASSES];
    bool any[FRAME_N_CLASSES];
};

static void receive(const struct plan *p, struct receiver *r, const struct frame *f)
{
    unsigned class = f->h.type - 40u;
    const uint8_t *body;
    size_t size;

    ck_assert_uint_lt(class, FRAME_N_CLASSES);
    if (r->any[class])
        ck_assert_int_gt((int32_t)(f->h.sequence - r->last[class].sequence), 0);
    r->any[class] = true;
    r->last[class] = f->h;
    int rc = frame_join_feed(&r->joins[class], f, &body, &size, &err);
    ck_assert_int_ge(rc, 0);
    if (rc == 0)
        return;
    struct message m = message_of(p, class, r->n[class]++);
    ck_assert_uint_eq(size, m.size);
    for (size_t i = 0; i < size; i++)
        if (body[i] != (uint8_t)(m.key + i * 13))
            ck_abort_msg("byte %zu of message %u of class %u", i, r->n[class] - 1, class);
    ck_assert_int_eq((f->h.flags & FRAME_HAS_FD) != 0, m.fd_number > 0);
    if (m.fd_number > 0)
        ck_assert_uint_eq(take_number(f->fd), m.fd_number);
    else
        ck_assert_int_eq(f->fd, -1);
}

/* Bring at most max bytes, and the fd that comes with them, over. Only when nothing is under way
 * behind it, so that a piece never splits again with its fd in the wrong half. */
static bool relay(int from, int to, size_t max)
{
    static uint8_t bytes[1u << 16];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {bytes, max};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    int waiting = 0, fd = -1;

    ck_assert_int_eq(ioctl(to, TIOCOUTQ, &waiting), 0);
    if (waiting > 0)
        return false;
    ssize_t n = recvmsg(from, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return false;
    ck_assert_int_gt(n, 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c != NULL)
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    iov.iov_len = (size_t)n;
    m.msg_controllen = c != NULL ? sizeof control.bytes : 0;
    m.msg_control = c != NULL ? control.bytes : NULL;
    ck_assert_int_eq(sendmsg(to, &m, MSG_DONTWAIT | MSG_NOSIGNAL), n);
    if (fd >= 0)
        close(fd);
    return true;
}

static void carry_all(const struct plan *p)
{
    int first[2], second[2], small = 4096;
    struct receiver r = {.joins = {{0}}};
    uint32_t n_sent[FRAME_N_CLASSES] = {0};
    unsigned before = n_open_fds();
    unsigned n_full = 0;

    rng = 0x9e3779b97f4a7c15u + p->seed;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, first), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, second), 0);
    ck_assert_int_eq(setsockopt(first[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    a = unix_link_create(first[0], 0);
    b = unix_link_create(second[1], 0);
    for (uint64_t turn = 0;; turn++) {
        struct frame f;
        bool done = true;
        int rc = 0;
        ck_assert_uint_lt(turn, 20000000);
        unsigned class = draw(FRAME_N_CLASSES);
        if (n_sent[class] < p->n_each && draw(8) == 0)
            ck_assert(send_message(p, class, n_sent[class]++));
        if (draw(4) == 0) {
            int flushed = unix_link_flush(a, &err);
            ck_assert_int_ge(flushed, 0);
            n_full += flushed == 0;
        }
        if (draw(8) != 0)
            relay(first[1], second[0], 1 + draw(p->piece_max));
        if (draw(4) != 0)
            ck_assert_int_ge(unix_link_read(b, &err), 0);
        while (draw(8) != 0 && (rc = unix_link_next(b, &f, &err)) == 1)
            receive(p, &r, &f);
        ck_assert_int_ge(rc, 0);
        for (int c = 0; c < FRAME_N_CLASSES; c++)
            done = done && r.n[c] == p->n_each;
        if (done)
            break;
    }
    ck_assert_uint_gt(n_full, 0); /* the sender met a full socket */
    for (int c = 0; c < FRAME_N_CLASSES; c++)
        frame_join_fini(&r.joins[c]);
    teardown();
    close(first[1]);
    close(second[0]);
    ck_assert_uint_eq(n_open_fds(), before);
}

START_TEST(any_cutting_of_the_stream_gives_the_same_frames)
{
    static const struct plan plans[] = {
        {.seed = 1, .n_each = 60, .piece_max = 1, .body_max = 3000},
        {.seed = 2, .n_each = 100, .piece_max = 7, .body_max = 20000},
        {.seed = 3, .n_each = 300, .piece_max = 100, .body_max = 70000},
        {.seed = 4, .n_each = 300, .piece_max = 5000, .body_max = 200000},
        {.seed = 5, .n_each = 500, .piece_max = 65536, .body_max = 300000},
        {.seed = 6, .n_each = 1000, .piece_max = 20, .body_max = 100},
    };

    teardown();
    carry_all(&plans[_i]);
}
END_TEST

/* The same without a relay: what the kernel itself does at a full socket. */
START_TEST(a_full_socket_loses_nothing)
{
    struct plan p = {.seed = 11u + (uint32_t)_i, .n_each = 400, .body_max = 100000};
    struct receiver r = {.joins = {{0}}};
    uint32_t n_sent[FRAME_N_CLASSES] = {0};

    teardown();
    connect_links(_i == 0 ? 4096 : 0, 0);
    rng = 77 + (uint64_t)_i;
    while (r.n[0] < p.n_each || r.n[1] < p.n_each || r.n[2] < p.n_each) {
        unsigned class = draw(FRAME_N_CLASSES);
        struct frame f;
        int rc;
        for (uint32_t k = draw(30); k > 0 && n_sent[class] < p.n_each; k--)
            ck_assert(send_message(&p, class, n_sent[class]++));
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        for (uint32_t k = draw(4); k > 0; k--)
            ck_assert_int_ge(unix_link_read(b, &err), 0);
        while ((rc = unix_link_next(b, &f, &err)) == 1)
            receive(&p, &r, &f);
        ck_assert_int_eq(rc, 0);
    }
    for (int c = 0; c < FRAME_N_CLASSES; c++)
        frame_join_fini(&r.joins[c]);
}
END_TEST

/* --- memory --- */

/* A number of sends with the k-th allocation failing; refused ones are tried again. Returns how
 * many were refused. */
static unsigned send_with_failure(unsigned long k)
{
    struct plan p = {.seed = 5, .n_each = 25, .body_max = 300000};
    struct receiver r = {.joins = {{0}}};
    unsigned n_refused = 0;
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    alloc_test_fail_at(k);
    struct unix_link **ends[] = {&a, &b};
    for (int i = 0; i < 2; i++)
        while ((*ends[i] = unix_link_create(fds[i], 0)) == NULL) {
            n_refused++;
            ck_assert_int_ne(fcntl(fds[i], F_GETFD), -1); /* still the caller's */
        }
    for (uint32_t i = 0; i < p.n_each; i++)
        for (unsigned c = 0; c < FRAME_N_CLASSES; c++)
            for (;;) {
                size_t pending = unix_link_pending(a);
                if (send_message(&p, c, i))
                    break;
                ck_assert_uint_eq(unix_link_pending(a), pending);
                n_refused++;
            }
    alloc_test_fail_at(0);
    while (r.n[0] < p.n_each || r.n[1] < p.n_each || r.n[2] < p.n_each) {
        struct frame f;
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        ck_assert_int_ge(unix_link_read(b, &err), 0);
        while (unix_link_next(b, &f, &err) == 1)
            receive(&p, &r, &f);
    }
    for (int c = 0; c < FRAME_N_CLASSES; c++)
        frame_join_fini(&r.joins[c]);
    teardown();
    return n_refused;
}

START_TEST(any_allocation_may_fail_and_nothing_is_lost)
{
    unsigned long k = 1;
    unsigned n_refusing = 0;

    teardown();
    for (bool failed = true; failed; k++) {
        /* an xmalloc of this test does not count down: only try_alloc does */
        unsigned n = send_with_failure(k);
        ck_assert_uint_le(n, 1);
        n_refusing += n;
        failed = k < 40;
    }
    ck_assert_uint_ge(n_refusing, 8); /* links, buffers, three classes, fds and their growth */
    ck_assert_uint_eq(send_with_failure(0), 0);
}
END_TEST

START_TEST(a_warm_link_allocates_nothing)
{
    struct unix_link_stats before, after;
    unsigned long n_allocs = 0;
    struct frame f;

    unix_link_get_stats(a, &before);
    for (int round = 0; round < 2000; round++) {
        if (round == 100) {
            n_allocs = alloc_count();
            unix_link_get_stats(a, &before);
        }
        for (unsigned i = 0; i < 64; i++) {
            memset(unix_link_reserve(a, i % FRAME_N_CLASSES, 1, 0, 100), 1, 100);
            unix_link_commit(a, 100, -1);
        }
        flush();
        ck_assert_int_eq(unix_link_read(b, &err), 64 * (FRAME_HEADER_SIZE + 100));
        for (unsigned i = 0; i < 64; i++)
            ck_assert_int_eq(unix_link_next(b, &f, &err), 1);
    }
    unix_link_get_stats(a, &after);
    ck_assert_uint_eq(alloc_count(), n_allocs);
    ck_assert_uint_eq(after.writes - before.writes, 1900);
}
END_TEST

/* --- descriptors --- */

START_TEST(more_fds_than_fit_wait_in_order)
{
    enum {
        N = 200,
    };
    unsigned next = 1;
    struct frame f;
    int rc;

    for (unsigned i = 1; i <= N; i++)
        put(FRAME_CONTROL, 1, "fd", numbered_fd(i));
    while (next <= N) {
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        while (unix_link_read(b, &err) > 0) /* as many reads as there is room for, then frames */
            ;
        while ((rc = unix_link_next(b, &f, &err)) == 1)
            ck_assert_uint_eq(take_number(f.fd), next++);
        ck_assert_int_eq(rc, 0);
    }
}
END_TEST

START_TEST(fd_comes_with_its_own_frame_among_others)
{
    put(FRAME_CALLS, 2, "plain", -1);
    put(FRAME_CONTROL, 1, "plain", -1);
    put(FRAME_CONTROL, 1, "first", numbered_fd(11));
    put(FRAME_CONTROL, 1, "plain", -1);
    put(FRAME_CALLS, 2, "second", numbered_fd(22));
    flush();
    while (unix_link_read(b, &err) > 0)
        ;
    ck_assert_int_eq(take(1).fd, -1);
    ck_assert_uint_eq(take_number(take(1).fd), 11);
    ck_assert_int_eq(take(1).fd, -1);
    ck_assert_int_eq(take(2).fd, -1);
    ck_assert_uint_eq(take_number(take(2).fd), 22);
}
END_TEST

/* Longer than a frame or as long as one, cut by a small socket, each beside a descriptor. */
START_TEST(names_of_64_kib_and_fds_keep_their_frames)
{
    enum {
        N = 12,
    };
    static const size_t sizes[] = {FRAME_BODY_MAX, 65536, FRAME_SIZE_MAX + 1};
    static char names[N][FRAME_SIZE_MAX + 1];
    struct frame_join join = {0};
    unsigned n_names = 0, n_fds = 0;
    const uint8_t *body;
    struct frame f;
    size_t size;

    teardown();
    connect_links(4096, 0);
    for (unsigned i = 0; i < N; i++) {
        memset(names[i], 'a' + (int)i, sizes[i % 3]);
        ck_assert_int_eq(unix_link_send(a, FRAME_CALLS, 9, 0, names[i], sizes[i % 3]), 0);
        put(i % 2 == 0 ? FRAME_CONTROL : FRAME_CALLS, 1, "fd", numbered_fd(i + 1));
    }
    for (int turns = 0; n_names < N || n_fds < N; turns++) {
        ck_assert_int_lt(turns, 100000);
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        ck_assert_int_ge(unix_link_read(b, &err), 0);
        while (unix_link_next(b, &f, &err) == 1) {
            if (f.h.type == 1) { /* those of control came first */
                unsigned k = n_fds++;
                ck_assert_uint_eq(take_number(f.fd), 1 + (k < N / 2 ? 2 * k : 2 * k - N + 1));
                continue;
            }
            ck_assert_int_eq(f.fd, -1);
            if (frame_join_feed(&join, &f, &body, &size, &err) == 0)
                continue;
            ck_assert_uint_eq(size, sizes[n_names % 3]);
            ck_assert(memcmp(body, names[n_names], size) == 0);
            n_names++;
        }
    }
    frame_join_fini(&join);
}
END_TEST

START_TEST(fd_denied_at_the_limit_is_said_and_the_next_is_right)
{
    struct rlimit old, low;
    struct frame f;

    for (unsigned i = 1; i <= 3; i++)
        put(FRAME_CONTROL, 1, "fd", numbered_fd(i));
    flush();
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest = dup(0);
    ck_assert_int_ge(lowest, 0);
    close(lowest);
    low = (struct rlimit){.rlim_cur = (rlim_t)lowest, .rlim_max = old.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    while (unix_link_read(b, &err) > 0)
        ;
    f = take(1);
    ck_assert_int_eq(f.fd, -1);
    ck_assert_uint_ne(f.h.flags & FRAME_HAS_FD, 0);
    ck_assert_uint_eq(take_number(take(1).fd), 2);
    ck_assert_uint_eq(take_number(take(1).fd), 3);
}
END_TEST

/* As no link would: n descriptors in one message. */
static void send_bytes(int to, const uint8_t *bytes, size_t size, unsigned n)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(100 * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec iov = {(void *)bytes, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[100];

    for (unsigned i = 0; i < n; i++)
        fds[i] = STDIN_FILENO;
    if (n > 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    ck_assert_int_eq(sendmsg(to, &m, MSG_NOSIGNAL), size);
}

/* A frame with these flags and n descriptors. */
static void send_raw(uint8_t flags, unsigned n)
{
    uint8_t bytes[FRAME_HEADER_SIZE];

    frame_write_header(bytes, 1, flags, 0, 0, 0);
    send_bytes(unix_link_fd(a), bytes, sizeof bytes, n);
}

START_TEST(fd_that_no_frame_asks_for_ends_the_link)
{
    struct frame f;
    unsigned before = n_open_fds();

    send_raw(0, (unsigned)_i);
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    ck_assert_int_eq(take(1).fd, -1);
    ck_assert_int_eq(unix_link_next(b, &f, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(err.text, "descriptor"));
    unix_link_destroy(b);
    b = NULL;
    ck_assert_uint_eq(n_open_fds(), before - 1);
}
END_TEST

START_TEST(frames_that_hoard_fds_end_the_link)
{
    struct frame f;
    unsigned before = n_open_fds();
    int rc = 0;

    for (int i = 0; i < 100 && rc >= 0; i++) {
        send_raw(0, 7);
        rc = unix_link_read(b, &err) < 0 ? -1 : 0;
    }
    while ((rc = unix_link_next(b, &f, &err)) == 1)
        ck_assert_int_eq(f.fd, -1);
    ck_assert_int_eq(rc, -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    unix_link_destroy(b);
    b = NULL;
    ck_assert_uint_eq(n_open_fds(), before - 1);
}
END_TEST

START_TEST(frame_flagged_without_an_fd_has_none)
{
    send_raw(FRAME_HAS_FD, 0);
    put(FRAME_CONTROL, 2, "", -1);
    flush();
    unix_link_read(b, &err);
    struct frame f = take(1);
    ck_assert_int_eq(f.fd, -1);
    ck_assert_uint_ne(f.h.flags & FRAME_HAS_FD, 0);
    ck_assert_int_eq(take(2).fd, -1);
}
END_TEST

START_TEST(fd_of_a_frame_that_never_ends_is_closed)
{
    unsigned before = n_open_fds();
    uint8_t bytes[FRAME_HEADER_SIZE + 100] = {0};
    struct frame f;
    int half[2];

    /* as flush would: the descriptor rides with the first byte, and there it ends */
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, half), 0);
    unix_link_destroy(b);
    b = unix_link_create(half[1], 0);
    frame_write_header(bytes, 1, FRAME_HAS_FD, 0, 0, 100);
    send_bytes(half[0], bytes, sizeof bytes - 1, 1);
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
    ck_assert_uint_eq(n_open_fds(), before + 2); /* the other half, and what came */
    close(half[0]);
    ck_assert_int_eq(unix_link_read(b, &err), -1);
    ck_assert_int_eq(err.code, ERR_DIED);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
    teardown();
    ck_assert_uint_eq(n_open_fds(), before - 2);
}
END_TEST

START_TEST(destroy_closes_unsent_and_unread_fds)
{
    unsigned before = n_open_fds(); /* with both links */

    for (unsigned i = 1; i <= 3; i++)
        put(FRAME_CONTROL, 1, "sent", numbered_fd(i));
    flush();
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    for (unsigned i = 1; i <= 20; i++)
        put(FRAME_BODIES, 1, "unsent", numbered_fd(i));
    ck_assert_uint_eq(n_open_fds(), before + 2 + 20);
    teardown();
    ck_assert_uint_eq(n_open_fds(), before - 2);
    unix_link_destroy(NULL);
}
END_TEST

START_TEST(the_socket_is_nonblocking_and_not_inherited)
{
    ck_assert_int_ne(fcntl(unix_link_fd(a), F_GETFL) & O_NONBLOCK, 0);
    ck_assert_int_ne(fcntl(unix_link_fd(a), F_GETFD) & FD_CLOEXEC, 0);
}
END_TEST

/* --- ends --- */

START_TEST(frames_of_a_peer_that_left_are_still_read)
{
    struct frame f;

    put(FRAME_CONTROL, 1, "last words", -1);
    put(FRAME_CONTROL, 2, "more", -1);
    flush();
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    unix_link_destroy(a);
    a = NULL;
    ck_assert_int_eq(unix_link_read(b, &err), -1);
    ck_assert_int_eq(err.code, ERR_DIED);
    f = take(1);
    ck_assert_mem_eq(f.body, "last words", 10);
    take(2);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
    ck_assert_int_eq(unix_link_read(b, NULL), -1);
}
END_TEST

START_TEST(writing_to_a_peer_that_left_is_said_without_a_signal)
{
    put(FRAME_CONTROL, 1, "unread", numbered_fd(1));
    flush();
    unix_link_destroy(b);
    b = NULL;
    put(FRAME_CONTROL, 1, "more", numbered_fd(2));
    ck_assert_int_eq(unix_link_flush(a, &err), -1);
    ck_assert_int_eq(err.code, ERR_DIED);
    ck_assert_ptr_nonnull(strstr(err.text, "write to the peer"));
    ck_assert_int_eq(unix_link_flush(a, NULL), -1);
    /* it left data unread: the kernel calls that a reset */
    ck_assert_int_eq(unix_link_read(a, &err), -1);
    ck_assert_int_eq(err.code, ERR_DIED);
}
END_TEST

START_TEST(socket_that_user_code_closed_or_replaced_is_an_error)
{
    int file = memfd_create("not a socket", MFD_CLOEXEC);

    put(FRAME_CONTROL, 1, "x", -1);
    ck_assert_int_eq(dup2(file, unix_link_fd(a)), unix_link_fd(a));
    close(file);
    ck_assert_int_eq(unix_link_flush(a, &err), -1);
    ck_assert_int_eq(err.code, ERR_SYSTEM);
    ck_assert_int_eq(unix_link_read(a, &err), -1);
    ck_assert_int_eq(err.code, ERR_SYSTEM);
    close(unix_link_fd(b));
    put(FRAME_CONTROL, 1, "x", -1);
    ck_assert_int_eq(unix_link_read(b, &err), -1);
    ck_assert_int_eq(err.code, ERR_SYSTEM);
}
END_TEST

START_TEST(malformed_bytes_stay_malformed)
{
    static const char bytes[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct frame f;

    put(FRAME_CONTROL, 1, "good", -1);
    flush();
    ck_assert_int_eq(write(unix_link_fd(a), bytes, sizeof bytes), sizeof bytes);
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    take(1);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(unix_link_next(b, &f, &err), -1);
        ck_assert_int_eq(err.code, ERR_PROTOCOL);
    }
}
END_TEST

START_TEST(truncated_frame_is_never_given)
{
    uint8_t bytes[100];
    struct frame f;

    frame_write_header(bytes, 1, 0, 0, 0, sizeof bytes - FRAME_HEADER_SIZE);
    ck_assert_int_eq(write(unix_link_fd(a), bytes, sizeof bytes - 1), sizeof bytes - 1);
    unix_link_destroy(a);
    a = NULL;
    ck_assert_int_gt(unix_link_read(b, &err), 0);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
    ck_assert_int_eq(unix_link_read(b, &err), -1);
    ck_assert_int_eq(unix_link_next(b, &f, &err), 0);
}
END_TEST

START_TEST(reading_without_taking_stops_at_a_full_buffer)
{
    uint8_t *body = xcalloc(1, 10000);
    struct frame f;
    unsigned n = 0;

    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(unix_link_send(a, FRAME_BODIES, 1, 0, body, 10000), 0);
    free(body);
    while (n < 50) {
        long got, total = 0;
        ck_assert_int_ge(unix_link_flush(a, &err), 0);
        while ((got = unix_link_read(b, &err)) > 0)
            total += got;
        ck_assert_int_eq(got, 0);
        ck_assert_int_le(total, 2 * FRAME_SIZE_MAX);
        for (int k = 0; k < 3 && unix_link_next(b, &f, &err) == 1; k++, n++)
            ck_assert_uint_eq(f.body_size, 10000);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("unix_link");
    TCase *t = tcase_create("unix_link");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, control_goes_first_and_all_goes_in_one_write);
    tcase_add_test(t, an_empty_flush_writes_nothing);
    tcase_add_test(t, a_body_may_be_cut_and_a_reservation_replaced);
    tcase_add_test(t, sequence_of_route_0_counts_by_one_others_grow);
    tcase_add_test(t, messages_of_every_size_arrive);
    tcase_add_test(t, what_waits_is_bounded);
    tcase_add_test(t, control_waits_behind_one_body_frame_at_most);
    tcase_add_loop_test(t, any_cutting_of_the_stream_gives_the_same_frames, 0, 6);
    tcase_add_loop_test(t, a_full_socket_loses_nothing, 0, 2);
    tcase_add_test(t, any_allocation_may_fail_and_nothing_is_lost);
    tcase_add_test(t, a_warm_link_allocates_nothing);
    tcase_add_test(t, more_fds_than_fit_wait_in_order);
    tcase_add_test(t, fd_comes_with_its_own_frame_among_others);
    tcase_add_test(t, names_of_64_kib_and_fds_keep_their_frames);
    tcase_add_test(t, fd_denied_at_the_limit_is_said_and_the_next_is_right);
    tcase_add_loop_test(t, fd_that_no_frame_asks_for_ends_the_link, 1, 3);
    tcase_add_test(t, frames_that_hoard_fds_end_the_link);
    tcase_add_test(t, frame_flagged_without_an_fd_has_none);
    tcase_add_test(t, fd_of_a_frame_that_never_ends_is_closed);
    tcase_add_test(t, destroy_closes_unsent_and_unread_fds);
    tcase_add_test(t, the_socket_is_nonblocking_and_not_inherited);
    tcase_add_test(t, frames_of_a_peer_that_left_are_still_read);
    tcase_add_test(t, writing_to_a_peer_that_left_is_said_without_a_signal);
    tcase_add_test(t, socket_that_user_code_closed_or_replaced_is_an_error);
    tcase_add_test(t, malformed_bytes_stay_malformed);
    tcase_add_test(t, truncated_frame_is_never_given);
    tcase_add_test(t, reading_without_taking_stops_at_a_full_buffer);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
