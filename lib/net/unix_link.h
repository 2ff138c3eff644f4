/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_UNIX_LINK_H
#define LIB_NET_UNIX_LINK_H
/*
 * A duplex link of frames over a connected unix stream socket, with fd passing. It knows no loop:
 * its owner calls read when the fd is readable and flush when it is writable, at a turn's end or
 * as the writing rules of D13 say. Not thread safe: the owner's lock or loop guards it.
 *
 * Sending: reserve room in a class, write the body in place, commit; nothing goes out before
 * flush. Flush writes control, then calls, then bodies (a frame cut by a short write is finished
 * first); fds ride with the first byte of their frame. Receiving: read fills the buffer with one
 * recvmsg of up to 64 KiB (more if more was buffered); next walks whole frames in place. fds that
 * arrive wait in a fifo for the frames that are flagged with one. An fd the kernel dropped at this
 * process's fd limit (MSG_CTRUNC) makes the frame arrive with fd = -1 and FRAME_HAS_FD set: the
 * handler says so. A peer that sends fds no frame asks for has its link ended (ERR_PROTOCOL).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/net/frame.h"

struct unix_link;

struct unix_link_stats {
    uint64_t reads, writes, frames_in, frames_out, bytes_in, bytes_out;
};

/* Takes the connected stream socket fd (closed by destroy), makes it nonblocking and close-on-exec.
 * out_max bounds the bytes waiting to be sent (0: 64 MiB). NULL only when memory is out: fd stays
 * the caller's. */
struct unix_link *unix_link_create(int fd, size_t out_max);
/* Closes the socket, all unread and unsent fds. NULL is fine. */
void unix_link_destroy(struct unix_link *link);
int unix_link_fd(const struct unix_link *link);
/* From now on this bounds the bytes waiting to be sent. */
void unix_link_set_max(struct unix_link *link, size_t out_max);

/* Room for a frame with a body of exactly size (<= FRAME_BODY_MAX) bytes; NULL when out_max would
 * be crossed or memory is out. The pointer is good until the next call on the link. Either commit
 * or forget it: a second reserve without commit replaces the first. */
void *unix_link_reserve(struct unix_link *link,
                        enum frame_class class,
                        uint8_t type,
                        uint32_t route,
                        size_t size);
/* The reserved frame is to be sent, its body cut to size (<= reserved). fd: -1, or passed along:
 * the link owns it from here and closes it once sent. */
void unix_link_commit(struct unix_link *link, size_t size, int fd);
/* Copy a message of any size <= FRAME_MESSAGE_MAX, in parts if longer than a frame. 0 or -1 (bound
 * or memory; nothing queued). */
int unix_link_send(struct unix_link *link,
                   enum frame_class class,
                   uint8_t type,
                   uint32_t route,
                   const void *body,
                   size_t size);

/* Bytes not yet given to the kernel: of all classes, of one. */
size_t unix_link_pending(const struct unix_link *link);
size_t unix_link_pending_of(const struct unix_link *link, enum frame_class class);
/* Write until empty or EAGAIN. 1: all sent. 0: the socket is full, call again when writable. -1:
 * the peer is gone or the fd is not ours any more (EBADF, ENOTSOCK); err says. */
int unix_link_flush(struct unix_link *link, struct err *err);

/* One recvmsg. >0: bytes read. 0: nothing there (EAGAIN). -1 with err->code ERR_DIED: end of file
 * or reset; other codes: an error. Frames already buffered stay readable by next. */
long unix_link_read(struct unix_link *link, struct err *err);
/* The next whole frame. 1: *out (its body is good until the next read). 0: none. -1: malformed; the
 * link is unusable. */
int unix_link_next(struct unix_link *link, struct frame *out, struct err *err);

void unix_link_get_stats(const struct unix_link *link, struct unix_link_stats *out);

#endif /* LIB_NET_UNIX_LINK_H */
