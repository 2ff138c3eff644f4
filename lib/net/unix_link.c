/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each class has one contiguous buffer of whole frames; head..tail waits to be
 * sent. A flush is one sendmsg over the three buffers. A short write may cut a frame: what is left
 * of it goes first next time, then control again, so that control waits behind one frame at most.
 * An fd must arrive with the first byte of its frame, so a flush stops before each frame that
 * carries one and sends from there.
 *
 * Sequence numbers are given at commit. Those of route 0 count by one; the other routes share a
 * counter, so theirs grow with gaps.
 *
 * The receiver pairs fds with frames by order alone, so both ends keep the two fifos in step: a
 * sender that has no room to remember an fd refuses the frame, a receiver that the kernel denied
 * one puts -1 in its place, and an fd that no frame asks for is an error of the link.
 */
#include "lib/net/unix_link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define READ_ROOM   (2 * FRAME_SIZE_MAX)
#define OUT_DEFAULT (64u << 20)
#define OUT_ROOM    FRAME_SIZE_MAX /* at least: a burst does not grow it */
#define OUT_KEEP    (1u << 20)     /* beyond this it shrinks when it is empty */
#define IN_FDS_MAX  64             /* arrived, not yet taken by a frame */
#define IOV_MAX_N   (FRAME_N_CLASSES + 1)

struct out_class {
    uint8_t *bytes;
    size_t head, tail, room;
    size_t reserved; /* of the body; SIZE_MAX: nothing reserved */
    size_t cut;      /* bytes of the frame at head that are still to go; 0: head is at a boundary */
};

struct out_fd {
    int fd;
    unsigned class;
    size_t at; /* offset of its frame in the class's buffer */
};

struct unix_link {
    unsigned magic;
    int fd;
    size_t out_max;
    struct out_class out[FRAME_N_CLASSES];
    unsigned reserved_class;
    uint32_t sequence[2]; /* next: of route 0, of the others */
    struct out_fd *out_fds;
    unsigned n_out_fds, out_fds_room;
    uint8_t *in;
    size_t in_head, in_tail;
    int in_fds[IN_FDS_MAX];
    unsigned n_in_fds;
    struct unix_link_stats stats;
};
#define UNIX_LINK_MAGIC 0x554c4e4bu

struct unix_link *unix_link_create(int fd, size_t out_max)
{
    struct unix_link *l = try_alloc(NULL, sizeof *l);

    if (l == NULL)
        return NULL;
    memset(l, 0, sizeof *l);
    l->in = try_alloc(NULL, READ_ROOM);
    if (l->in == NULL) {
        free(l);
        return NULL;
    }
    l->magic = UNIX_LINK_MAGIC;
    l->fd = fd;
    l->out_max = out_max > 0 ? out_max : OUT_DEFAULT;
    l->reserved_class = FRAME_N_CLASSES;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return l;
}

void unix_link_destroy(struct unix_link *l)
{
    if (l == NULL)
        return;
    CHECK_MAGIC(l, UNIX_LINK_MAGIC);
    for (unsigned i = 0; i < l->n_out_fds; i++)
        close(l->out_fds[i].fd);
    for (unsigned i = 0; i < l->n_in_fds; i++)
        close(l->in_fds[i]);
    for (int i = 0; i < FRAME_N_CLASSES; i++)
        free(l->out[i].bytes);
    free(l->out_fds);
    free(l->in);
    close(l->fd);
    l->magic = 0;
    free(l);
}

int unix_link_fd(const struct unix_link *l)
{
    return l->fd;
}

void unix_link_set_max(struct unix_link *l, size_t out_max)
{
    l->out_max = out_max;
}

size_t unix_link_pending_of(const struct unix_link *l, enum frame_class class)
{
    return l->out[class].tail - l->out[class].head;
}

size_t unix_link_pending(const struct unix_link *l)
{
    size_t n = 0;

    for (int i = 0; i < FRAME_N_CLASSES; i++)
        n += unix_link_pending_of(l, i);
    return n;
}

/* Room for n bytes at the tail: move to the front what waits, then grow. */
static bool make_room(struct unix_link *l, unsigned class, size_t n)
{
    struct out_class *o = &l->out[class];

    if (o->tail + n <= o->room)
        return true;
    if (o->head > 0) {
        memmove(o->bytes, o->bytes + o->head, o->tail - o->head);
        for (unsigned i = 0; i < l->n_out_fds; i++)
            if (l->out_fds[i].class == class)
                l->out_fds[i].at -= o->head;
        o->tail -= o->head;
        o->head = 0;
        if (o->tail + n <= o->room / 2)
            return true;
    }
    size_t room = 2 * (o->tail + n);
    if (room < OUT_ROOM)
        room = OUT_ROOM;
    uint8_t *p = try_alloc(o->bytes, room);
    if (p == NULL)
        return o->tail + n <= o->room;
    o->bytes = p;
    o->room = room;
    return true;
}

/* Room for one more fd, so that commit cannot fail. */
static bool make_fd_room(struct unix_link *l)
{
    if (l->n_out_fds < l->out_fds_room)
        return true;
    unsigned room = l->out_fds_room > 0 ? 2 * l->out_fds_room : 8;
    struct out_fd *p = try_alloc(l->out_fds, room * sizeof *p);
    if (p == NULL)
        return false;
    l->out_fds = p;
    l->out_fds_room = room;
    return true;
}

void *unix_link_reserve(struct unix_link *l,
                        enum frame_class class,
                        uint8_t type,
                        uint32_t route,
                        size_t size)
{
    struct out_class *o = &l->out[class];

    if (size > FRAME_BODY_MAX || unix_link_pending(l) + size + FRAME_HEADER_SIZE > l->out_max)
        return NULL;
    if (!make_room(l, class, FRAME_HEADER_SIZE + size) || !make_fd_room(l))
        return NULL;
    frame_write_header(o->bytes + o->tail, type, 0, route, 0, size);
    o->reserved = size;
    l->reserved_class = class;
    return o->bytes + o->tail + FRAME_HEADER_SIZE;
}

static void commit(struct unix_link *l, size_t size, int fd, uint8_t flags)
{
    ASSERT(l->reserved_class < FRAME_N_CLASSES);
    struct out_class *o = &l->out[l->reserved_class];
    struct frame_header h;

    ASSERT(size <= o->reserved);
    memcpy(&h, o->bytes + o->tail, sizeof h);
    h.length = (uint32_t)(FRAME_HEADER_SIZE + size);
    h.sequence = l->sequence[h.route != 0]++;
    h.flags = flags;
    if (fd >= 0) {
        h.flags |= FRAME_HAS_FD;
        l->out_fds[l->n_out_fds++] =
            (struct out_fd){.fd = fd, .class = l->reserved_class, .at = o->tail};
    }
    memcpy(o->bytes + o->tail, &h, sizeof h);
    o->tail += h.length;
    l->reserved_class = FRAME_N_CLASSES;
    l->stats.frames_out++;
}

void unix_link_commit(struct unix_link *l, size_t size, int fd)
{
    commit(l, size, fd, 0);
}

int unix_link_send(struct unix_link *l,
                   enum frame_class class,
                   uint8_t type,
                   uint32_t route,
                   const void *body,
                   size_t size)
{
    size_t n_frames = size / FRAME_BODY_MAX + 1;
    const uint8_t *p = body;

    if (size > FRAME_MESSAGE_MAX
        || unix_link_pending(l) + size + n_frames * FRAME_HEADER_SIZE > l->out_max
        || !make_room(l, class, size + n_frames * FRAME_HEADER_SIZE) || !make_fd_room(l))
        return -1;
    do {
        size_t n = size < FRAME_BODY_MAX ? size : FRAME_BODY_MAX;
        void *out = unix_link_reserve(l, class, type, route, n);
        ASSERT(out != NULL);
        if (n > 0) { /* p may be NULL */
            memcpy(out, p, n);
            p += n;
        }
        commit(l, n, -1, n < size ? FRAME_MORE : 0);
        size -= n;
    } while (size > 0);
    return 0;
}

/* All of it has gone out. What a peer that did not read for long has made it grow to is not kept.
 */
static void empty(struct out_class *o)
{
    o->head = o->tail = o->cut = 0;
    if (o->room <= OUT_KEEP)
        return;
    free(o->bytes);
    o->bytes = NULL;
    o->room = 0;
}

/* n bytes of the class have gone out: remember where in a frame that is. */
static void consume(struct out_class *o, size_t n)
{
    while (n > 0) {
        size_t left = o->cut;
        if (left == 0) {
            struct frame_header h;
            memcpy(&h, o->bytes + o->head, sizeof h);
            left = h.length;
        }
        size_t k = n < left ? n : left;
        o->head += k;
        o->cut = left - k;
        n -= k;
    }
    if (o->head == o->tail)
        empty(o);
}

/* The earliest waiting fd of a class. */
static struct out_fd *first_fd(struct unix_link *l, unsigned class)
{
    for (unsigned i = 0; i < l->n_out_fds; i++)
        if (l->out_fds[i].class == class)
            return &l->out_fds[i];
    return NULL;
}

/* What goes into the next sendmsg; *fd gets the one that rides with its first byte. */
static int plan(struct unix_link *l, struct iovec *iov, unsigned *classes, struct out_fd **fd)
{
    int n = 0;

    *fd = NULL;
    for (unsigned c = 0; c < FRAME_N_CLASSES; c++)
        if (l->out[c].cut > 0) {
            iov[n] = (struct iovec){l->out[c].bytes + l->out[c].head, l->out[c].cut};
            classes[n++] = c;
        }
    for (unsigned c = 0; c < FRAME_N_CLASSES; c++) {
        struct out_class *o = &l->out[c];
        size_t start = o->head + o->cut, end = o->tail;
        if (start == end)
            continue;
        struct out_fd *f = l->n_out_fds > 0 ? first_fd(l, c) : NULL;
        if (f != NULL && f->at == start) {
            struct frame_header h;
            if (n > 0)
                return n;
            memcpy(&h, o->bytes + start, sizeof h);
            *fd = f;
            end = start + h.length;
        } else if (f != NULL) {
            end = f->at;
        }
        iov[n] = (struct iovec){o->bytes + start, end - start};
        classes[n++] = c;
        if (f != NULL)
            return n;
    }
    return n;
}

int unix_link_flush(struct unix_link *l, struct err *err)
{
    for (;;) {
        struct iovec iov[IOV_MAX_N];
        unsigned classes[IOV_MAX_N];
        struct out_fd *fd;
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        int n = plan(l, iov, classes, &fd);
        if (n == 0)
            return 1;
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        if (fd != NULL) {
            m.msg_control = control.bytes;
            m.msg_controllen = sizeof control.bytes;
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(c), &fd->fd, sizeof(int));
        }
        ssize_t sent = sendmsg(l->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            int e = errno;
            if (e == EINTR)
                continue;
            if (e == EAGAIN || e == ENOBUFS || e == ENOMEM || e == ETOOMANYREFS)
                return 0;
            err_sys(err, "write to the peer");
            if (err != NULL && (e == EPIPE || e == ECONNRESET))
                err->code = ERR_DIED;
            return -1;
        }
        l->stats.writes++;
        l->stats.bytes_out += (uint64_t)sent;
        if (fd != NULL) {
            close(fd->fd);
            memmove(fd, fd + 1, (size_t)(l->out_fds + l->n_out_fds - fd - 1) * sizeof *fd);
            l->n_out_fds--;
        }
        size_t left = (size_t)sent;
        for (int i = 0; i < n && left > 0; i++) {
            size_t k = left < iov[i].iov_len ? left : iov[i].iov_len;
            struct out_class *o = &l->out[classes[i]];
            if (k == o->tail - o->head) {
                empty(o);
            } else {
                consume(o, k);
            }
            left -= k;
        }
    }
}

/* One read brings at most one message's fds: IN_FDS_MAX is checked before it. */
static void take_fds(struct unix_link *l, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (l->n_in_fds < IN_FDS_MAX)
                l->in_fds[l->n_in_fds++] = fd;
            else
                close(fd); /* several in one message: not sent by a link; next says so */
        }
    }
    if ((m->msg_flags & MSG_CTRUNC) != 0 && l->n_in_fds < IN_FDS_MAX)
        l->in_fds[l->n_in_fds++] = -1; /* denied by the kernel at our fd limit */
}

static int refuse_fds(struct err *err)
{
    return err_set(err, ERR_PROTOCOL, "the peer sent a descriptor that no frame asks for");
}

long unix_link_read(struct unix_link *l, struct err *err)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control;

    if (l->in_head == l->in_tail) {
        l->in_head = l->in_tail = 0;
    } else if (l->in_head > 0 && READ_ROOM - l->in_tail < FRAME_SIZE_MAX) {
        memmove(l->in, l->in + l->in_head, l->in_tail - l->in_head);
        l->in_tail -= l->in_head;
        l->in_head = 0;
    }
    if (l->in_tail == READ_ROOM)
        return 0; /* whole frames wait to be taken */
    if (l->n_in_fds == IN_FDS_MAX) {
        struct frame f;
        size_t need;
        if (frame_parse(l->in + l->in_head, l->in_tail - l->in_head, &f, &need, NULL) != 0)
            return 0; /* the same, or next will say what is wrong */
        return refuse_fds(err);
    }
    struct iovec iov = {.iov_base = l->in + l->in_tail, .iov_len = READ_ROOM - l->in_tail};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do
        n = recvmsg(l->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0) {
        bool reset = errno == ECONNRESET;
        err_sys(err, "read from the peer");
        if (err != NULL && reset)
            err->code = ERR_DIED;
        return -1;
    }
    l->stats.reads++;
    if (n == 0)
        return err_set(err, ERR_DIED, "the peer closed its link");
    take_fds(l, &m);
    l->in_tail += (size_t)n;
    l->stats.bytes_in += (uint64_t)n;
    return n;
}

int unix_link_next(struct unix_link *l, struct frame *out, struct err *err)
{
    size_t need = 0;
    int rc = frame_parse(l->in + l->in_head, l->in_tail - l->in_head, out, &need, err);

    if (rc == 0 && l->in_head == l->in_tail && l->n_in_fds > 0)
        return refuse_fds(err); /* it came with the first byte of its frame, and all are taken */
    if (rc != 1)
        return rc;
    l->in_head += out->h.length;
    l->stats.frames_in++;
    if ((out->h.flags & FRAME_HAS_FD) != 0 && l->n_in_fds > 0) {
        out->fd = l->in_fds[0];
        memmove(l->in_fds, l->in_fds + 1, --l->n_in_fds * sizeof l->in_fds[0]);
    }
    return 1;
}

void unix_link_get_stats(const struct unix_link *l, struct unix_link_stats *out)
{
    *out = l->stats;
}
