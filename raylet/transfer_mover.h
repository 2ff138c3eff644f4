/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_TRANSFER_MOVER_H
#define RAYLET_TRANSFER_MOVER_H
/*
 * The thread of the data port: it moves frames and bytes between proven connections and memory, and
 * hashes files. It knows no object, node or store. All functions are called on the loop thread;
 * events are collected there when the eventfd says so.
 */
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "raylet/transfer_wire.h"

#define MOVER_REQUESTS_MAX 64 /* unanswered ones of one dialer; then it is not read on */

struct mover;

enum mover_kind {
    MOVER_FRAME,  /* frame: a request, or IS, GONE */
    MOVER_MOVED,  /* the memory of ticket is not used any more; n bytes of it were moved */
    MOVER_ENDED,  /* the link has: after its last MOVED. why: "" if it was cut */
    MOVER_HASHED, /* ticket; is_whole, or the file cannot be read: error */
};
struct mover_event {
    enum mover_kind kind;
    uint64_t link, ticket, n;
    bool is_whole;
    int error; /* errno, 0: none */
    const char *why;
    uint8_t hash[16];
    struct transfer_frame frame;
};

/* event_fd, borrowed, is written when there are events. NULL with err: no thread can be had. */
struct mover *mover_create(int event_fd, struct err *err);
/* Ends the thread and all links: no memory is touched after. Events are lost. NULL is fine. */
void mover_destroy(struct mover *m);
/* The next event; false: none for now. */
bool mover_next(struct mover *m, struct mover_event *out);

/* A connection on which the token is proven; link: any number that was none before. The fd,
 * nonblocking, is the mover's. asks: requests go out there, else they come in. */
void mover_add(struct mover *m, uint64_t link, int fd, bool asks);
/* An ASK, or an answer; DATA with frame->length bytes at `bytes`, which stay until MOVED for
 * ticket. For other frames bytes is NULL and there is no MOVED. */
void mover_send(struct mover *m,
                uint64_t link,
                const struct transfer_frame *frame,
                const void *bytes,
                uint64_t ticket);
/* Send this READ; the bytes of its answer go to `bytes`. MOVED for its id, or the FRAME GONE. If it
 * was not whole, n bytes of it came. */
void mover_read(struct mover *m, uint64_t link, const struct transfer_frame *frame, void *bytes);
/* What is on its way ends as if it broke. */
void mover_cut(struct mover *m, uint64_t link);
/* The hash of the file's bytes, at most max, else error EFBIG; the fd is the mover's. */
void mover_hash(struct mover *m, uint64_t ticket, int fd, uint64_t max);

#endif /* RAYLET_TRANSFER_MOVER_H */
