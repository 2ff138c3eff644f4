/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/frame.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

int frame_parse(const void *bytes, size_t n, struct frame *out, size_t *need, struct err *err)
{
    struct frame_header h;

    if (n < FRAME_HEADER_SIZE) {
        *need = FRAME_HEADER_SIZE;
        return 0;
    }
    memcpy(&h, bytes, sizeof h);
    if (h.length < FRAME_HEADER_SIZE || h.length > FRAME_SIZE_MAX)
        return err_set(
            err,
            ERR_PROTOCOL,
            "frame length %u is not within %d..%d: the peer does not speak this protocol",
            h.length,
            FRAME_HEADER_SIZE,
            FRAME_SIZE_MAX);
    if (h.type == 0)
        return err_set(err, ERR_PROTOCOL, "frame type 0 is never used");
    if ((h.flags & ~(FRAME_HAS_FD | FRAME_MORE)) != 0)
        return err_set(err,
                       ERR_PROTOCOL,
                       "frame flags 0x%x are unknown: the peer is of a newer version",
                       h.flags);
    if (n < h.length) {
        *need = h.length;
        return 0;
    }
    out->h = h;
    out->body = (const uint8_t *)bytes + FRAME_HEADER_SIZE;
    out->body_size = h.length - FRAME_HEADER_SIZE;
    out->fd = -1;
    return 1;
}

void frame_write_header(void *out,
                        uint8_t type,
                        uint8_t flags,
                        uint32_t route,
                        uint32_t sequence,
                        size_t body_size)
{
    struct frame_header h = {.length = (uint32_t)(FRAME_HEADER_SIZE + body_size),
                             .type = type,
                             .flags = flags,
                             .route = route,
                             .sequence = sequence};

    memcpy(out, &h, sizeof h);
}

static void reset(struct frame_join *join)
{
    join->open = false;
    join->size = 0;
}

int frame_join_feed(struct frame_join *join,
                    const struct frame *f,
                    const uint8_t **body,
                    size_t *size,
                    struct err *err)
{
    bool more = (f->h.flags & FRAME_MORE) != 0;

    if (!join->open && !more) {
        *body = f->body;
        *size = f->body_size;
        return 1;
    }
    if (join->open && join->type != f->h.type) {
        reset(join);
        return err_set(err,
                       ERR_PROTOCOL,
                       "frame of type %u inside a message of type %u",
                       f->h.type,
                       join->type);
    }
    if (join->size + f->body_size > FRAME_MESSAGE_MAX) {
        reset(join);
        return err_set(err,
                       ERR_PROTOCOL,
                       "message of type %u is longer than %u bytes",
                       f->h.type,
                       FRAME_MESSAGE_MAX);
    }
    if (join->size + f->body_size > join->capacity) {
        size_t capacity = 2 * (join->size + f->body_size);
        uint8_t *p = try_alloc(join->bytes, capacity);
        if (p == NULL) {
            reset(join);
            return err_set(err,
                           ERR_NO_MEMORY,
                           "no memory for a message of %zu bytes",
                           capacity / 2);
        }
        join->bytes = p;
        join->capacity = capacity;
    }
    if (f->body_size > 0)
        memcpy(join->bytes + join->size, f->body, f->body_size);
    join->size += f->body_size;
    join->type = f->h.type;
    join->open = more;
    if (more)
        return 0;
    *body = join->bytes;
    *size = join->size;
    join->size = 0;
    return 1;
}

void frame_join_fini(struct frame_join *join)
{
    free(join->bytes);
    *join = (struct frame_join){0};
}
