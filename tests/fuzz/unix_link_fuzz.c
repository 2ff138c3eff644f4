/* SPDX-License-Identifier: Apache-2.0 */
/* The input is what a peer writes to its end of a link, in pieces with descriptors or without, and
 * when the link reads. Its frames must be those of the bytes alone. */
#include "lib/net/unix_link.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "tests/fuzz/fuzz.h"

#define FDS_MAX 12 /* of a piece: more than a link takes in one message */

static uint8_t *sent; /* all that was written, to be parsed again */
static size_t n_sent, n_taken;

/* The number that the next descriptor will have. */
static int lowest_free(void)
{
    int fd = dup(0);

    ASSERT(fd >= 0);
    close(fd);
    return fd;
}

static void write_piece(int to, const uint8_t *bytes, size_t size, unsigned n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec iov = {(void *)bytes, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[FDS_MAX] = {0};

    if (size == 0)
        return;
    if (n_fds > 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    ssize_t n = sendmsg(to, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0)
        return; /* full */
    sent = xrealloc(sent, n_sent + (size_t)n);
    memcpy(sent + n_sent, bytes, (size_t)n);
    n_sent += (size_t)n;
}

/* false: the link is over. */
static bool take(struct unix_link *l, unsigned max)
{
    struct frame f, again;
    struct err err = {0};
    size_t need;
    int rc = 1;

    while (max-- > 0 && (rc = unix_link_next(l, &f, &err)) == 1) {
        ASSERT(frame_parse(sent + n_taken, n_sent - n_taken, &again, &need, NULL) == 1);
        ASSERT(memcmp(&f.h, &again.h, sizeof f.h) == 0 && f.body_size == again.body_size);
        ASSERT(memcmp(f.body, again.body, f.body_size) == 0);
        n_taken += f.h.length;
        ASSERT(f.fd < 0 || (f.h.flags & FRAME_HAS_FD) != 0);
        if (f.fd >= 0) {
            ASSERT((fcntl(f.fd, F_GETFD) & FD_CLOEXEC) != 0);
            close(f.fd);
        }
    }
    ASSERT(rc >= 0 || (err.code == ERR_PROTOCOL && err.text[0] != '\0'));
    ASSERT(rc >= 0 || unix_link_next(l, &f, NULL) == -1); /* and it stays so */
    return rc >= 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t filler[20000];
    struct input in = {data, size};
    struct err err = {0};
    int fds[2], lowest = lowest_free();
    bool open = true;

    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    struct unix_link *l = unix_link_create(fds[0], 0);
    ASSERT(l != NULL);
    n_sent = n_taken = 0;
    while (open && in.left > 0) {
        uint8_t op = input_u8(&in);
        size_t n;
        switch (op & 3) {
        case 0: {
            const uint8_t *bytes = input_bytes(&in, UINT8_MAX, &n);
            write_piece(fds[1], bytes, n, op >> 2 > FDS_MAX ? 0 : op >> 2);
            break;
        }
        case 1:
            write_piece(fds[1], filler, (size_t)(op >> 2) * 317, 0); /* bodies */
            break;
        case 2:
            open = unix_link_read(l, &err) >= 0;
            break;
        case 3:
            open = take(l, op >> 2);
            break;
        }
    }
    close(fds[1]);
    /* whatever is there comes to an end */
    for (unsigned i = 0; open; i++) {
        ASSERT(i < 1000);
        open = unix_link_read(l, &err) >= 0;
        open = take(l, UINT32_MAX) && open;
    }
    ASSERT(n_taken <= n_sent);
    unix_link_destroy(l);
    ASSERT(lowest_free() == lowest);
    return 0;
}
