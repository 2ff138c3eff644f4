/* SPDX-License-Identifier: Apache-2.0 */
/* The input is a stream of frames: parse it, check each length, join the parts by type. */
#include "lib/net/frame.h"

#include <string.h>

#include "lib/base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted must be told from each shorter piece, and say what it says when written again.
 */
static void check(const uint8_t *p, size_t left, const struct frame *f)
{
    uint8_t header[FRAME_HEADER_SIZE], again[FRAME_HEADER_SIZE];
    struct frame other;
    size_t need = 0;

    ASSERT(f->h.length >= FRAME_HEADER_SIZE && f->h.length <= FRAME_SIZE_MAX);
    ASSERT(f->h.length <= left && f->h.type != 0 && f->fd == -1);
    ASSERT(f->body == p + FRAME_HEADER_SIZE);
    ASSERT(f->body_size == f->h.length - FRAME_HEADER_SIZE);
    ASSERT(frame_parse(p, f->h.length - 1, &other, &need, NULL) == 0);
    ASSERT(need == (f->body_size > 0 ? f->h.length : FRAME_HEADER_SIZE));
    frame_write_header(again, f->h.type, f->h.flags, f->h.route, f->h.sequence, f->body_size);
    memcpy(header, p, sizeof header);
    memset(header + offsetof(struct frame_header, spare), 0, sizeof f->h.spare);
    ASSERT(memcmp(header, again, sizeof header) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_join joins[4] = {{0}};
    size_t sums[4] = {0};
    struct frame f;
    struct err err = {0};
    size_t at = 0, need = 0;
    int rc;

    while ((rc = frame_parse(data + at, size - at, &f, &need, &err)) == 1) {
        unsigned i = f.h.route & 3;
        const uint8_t *body = NULL;
        size_t n = 0;
        check(data + at, size - at, &f);
        int joined = frame_join_feed(&joins[i], &f, &body, &n, &err);
        ASSERT(joined != 0 || (f.h.flags & FRAME_MORE) != 0);
        ASSERT(joined != 1 || (f.h.flags & FRAME_MORE) == 0);
        ASSERT(joined != -1 || err.code == ERR_PROTOCOL);
        sums[i] += f.body_size;
        if (joined == 1) {
            ASSERT(n == sums[i] && n <= FRAME_MESSAGE_MAX);
            ASSERT(f.body_size == 0 || memcmp(body + n - f.body_size, f.body, f.body_size) == 0);
        }
        if (joined != 0)
            sums[i] = 0;
        at += f.h.length;
    }
    ASSERT(rc != 0 || (need > size - at && need <= FRAME_SIZE_MAX));
    ASSERT(rc != -1 || (err.code == ERR_PROTOCOL && err.text[0] != '\0'));
    for (int i = 0; i < 4; i++)
        frame_join_fini(&joins[i]);
    return 0;
}
