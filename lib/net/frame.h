/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_FRAME_H
#define LIB_NET_FRAME_H
/*
 * The one frame of every carrier (DESIGN D3): a 16-byte header, then a body. All numbers are
 * little endian, like every machine we run on (asserted at compile time). Frames are at most 64
 * KiB; a longer message travels as several frames of one type, all but the last flagged FRAME_MORE,
 * which the receiver joins per route (frame_join). Parsing never trusts: a malformed header is an
 * error of the link, said in a sentence.
 *
 *     0        4      5       6       8        12         16
 *     | length | type | flags | spare | route  | sequence | body ...
 *
 * length counts header and body. Route 0 is the peer of the link itself; others were bound by a
 * ROUTE frame. sequence numbers the frames of a (route, direction) by serial arithmetic.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

#define FRAME_HEADER_SIZE 16
#define FRAME_SIZE_MAX    65536
#define FRAME_BODY_MAX    (FRAME_SIZE_MAX - FRAME_HEADER_SIZE)
#define FRAME_MESSAGE_MAX (16u << 20) /* joined parts; a task's inline arguments are <= 10 MiB */

enum frame_flag {
    FRAME_HAS_FD = 1, /* takes one fd from the link's fifo */
    FRAME_MORE = 2,   /* the next frame of this route and type goes on with this message */
};

/* A link serves its classes in turn, so that control never waits behind bodies. */
enum frame_class {
    FRAME_CONTROL,
    FRAME_CALLS,
    FRAME_BODIES,
    FRAME_N_CLASSES,
};

struct frame_header {
    uint32_t length;
    uint8_t type;
    uint8_t flags;
    uint16_t spare; /* 0 when sent, ignored when received */
    uint32_t route;
    uint32_t sequence;
};
_Static_assert(sizeof(struct frame_header) == FRAME_HEADER_SIZE, "wire layout");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little endian");

/* A parsed frame: body points into the link's buffer and is good until the next read. */
struct frame {
    struct frame_header h;
    const uint8_t *body;
    uint32_t body_size;
    int fd; /* -1, or owned by whoever handles the frame: close or keep */
};

/* Look at the first n bytes of a stream. 1: *out is a whole frame (fd = -1). 0: more bytes are
 * needed (*need says how many in all, when known). -1: never a frame; err names the field. */
int frame_parse(const void *bytes, size_t n, struct frame *out, size_t *need, struct err *err);

/* Write a header for a body of body_size (<= FRAME_BODY_MAX) to out. */
void frame_write_header(void *out,
                        uint8_t type,
                        uint8_t flags,
                        uint32_t route,
                        uint32_t sequence,
                        size_t body_size);

/* Joins the parts of one route. Embedded; zeroed is empty. */
struct frame_join {
    uint8_t *bytes;
    size_t size, capacity;
    uint8_t type;
    bool open;
};

/* Feed a frame. 1: message complete: *body / *size (points into the frame if it was a single part,
 * else into the join's buffer; good until the next call). 0: more parts follow. -1: a type change
 * in mid-message, FRAME_MESSAGE_MAX exceeded, or no memory; the join is empty again. */
int frame_join_feed(struct frame_join *join,
                    const struct frame *f,
                    const uint8_t **body,
                    size_t *size,
                    struct err *err);
void frame_join_fini(struct frame_join *join);

#endif /* LIB_NET_FRAME_H */
