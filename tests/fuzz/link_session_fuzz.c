/* SPDX-License-Identifier: Apache-2.0 */
/* The input is what the other end of a session says, raw or nearly right, between what ours sends
 * and streams that break. What ours sends goes to an honest end too, which must like all of it. */
#include "lib/net/link_session.h"

#include "lib/base/assert.h"
#include "tests/fuzz/fuzz.h"

#define BLOCK_HEADER 16

static struct link_session *ours, *honest;
static size_t n_fed, n_got;        /* bytes to ours, and of messages from it */
static uint64_t n_sent, n_arrived; /* bytes of ours that the honest end has to get */

static void on_message(void *arg, enum frame_class class, const uint8_t *bytes, size_t size)
{
    ASSERT(class < FRAME_N_CLASSES && size <= LINK_SESSION_MESSAGE_MAX);
    if (arg != NULL) {
        for (size_t i = 0; i < size; i++)
            ASSERT(bytes[i] == (uint8_t)size);
        n_arrived += size;
        return;
    }
    n_got += size;
    ASSERT(n_got <= n_fed);
    if (size == 77)
        link_session_end(ours);
    else if (size > 0 && bytes[0] == 'a') /* an answer from inside */
        link_session_send(ours, class, NULL, 0, NULL, 0);
}

static void take(const uint8_t *bytes, size_t size)
{
    struct err err = {0};
    uint64_t expected = link_session_expects(ours);

    n_fed += size;
    int rc = link_session_take(ours, bytes, size, &err);
    ASSERT(rc == 0 || (rc == -1 && err.code == ERR_PROTOCOL && err.text[0] != '\0'));
    ASSERT(link_session_expects(ours) >= expected);
    ASSERT(link_session_owes(ours) <= n_fed);
    if (rc != 0)
        link_session_break(ours);
}

/* A batch whose headers are right but for what the script wants to be wrong. */
static void take_block(struct input *in, uint8_t how)
{
    uint8_t batch[8 + BLOCK_HEADER + 3 * (4 + UINT8_MAX)];
    size_t at = 8 + BLOCK_HEADER, n;
    uint64_t expects = how & 1 ? input_u8(in) : 0;
    uint64_t number = link_session_expects(ours) + (how & 2 ? input_u8(in) : 0);

    for (unsigned i = 0; i <= (how >> 2) % 3u; i++) {
        const uint8_t *bytes = input_bytes(in, UINT8_MAX, &n);
        uint32_t part = (uint32_t)n | (how & 16 ? 0x80000000u : 0) | (how & 8 ? 1 : 0);
        memcpy(batch + at, &part, sizeof part);
        memcpy(batch + at + 4, bytes, n);
        at += 4 + n;
    }
    uint32_t size = (uint32_t)(at - 8 - BLOCK_HEADER) - (how & 32 ? 1 : 0);
    memset(batch, 0, 8 + BLOCK_HEADER);
    memcpy(batch, &expects, 8);
    memcpy(batch + 8, &size, 4);
    batch[12] = input_u8(in) % 4;
    memcpy(batch + 16, &number, 8);
    take(batch, at);
}

static void send(uint8_t how, size_t size)
{
    static uint8_t bytes[65536 + 256];

    memset(bytes, (uint8_t)size, size);
    link_session_send(ours,
                      (enum frame_class)(how % FRAME_N_CLASSES),
                      bytes,
                      size / 3,
                      bytes + size / 3,
                      size - size / 3);
    n_sent += size;
}

/* `gather` is what a stream would carry. */
static void gather(bool acknowledge, bool is_lost)
{
    static uint8_t batch[LINK_SESSION_BATCH_MAX];
    struct iovec pieces[LINK_SESSION_PIECES_MAX];
    size_t size = 0;
    int n = link_session_gather(ours, pieces, acknowledge);

    for (int i = 0; i < n; i++) {
        ASSERT(size + pieces[i].iov_len <= sizeof batch);
        memcpy(batch + size, pieces[i].iov_base, pieces[i].iov_len);
        size += pieces[i].iov_len;
    }
    if (n == 0 || is_lost)
        return;
    memset(batch, 0, 8);                                   /* the honest one has sent nothing */
    if (link_session_take(honest, batch, size, NULL) != 0) /* a gap, what was lost */
        link_session_break(ours);
}

static void resume(void)
{
    /* What it has of ours may be more than was acknowledged, or what the script said it has. */
    if (link_session_resume(ours, link_session_expects(honest), NULL) != 0)
        link_session_break(ours);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    bool lied = false;
    size_t n;

    ours = link_session_create(on_message, NULL);
    honest = link_session_create(on_message, &n);
    ASSERT(link_session_resume(ours, 0, NULL) == 0 && link_session_resume(honest, 0, NULL) == 0);
    n_fed = n_got = 0;
    n_sent = n_arrived = 0;
    while (in.left > 0) {
        uint8_t op = input_u8(&in);
        switch (op & 7) {
        case 0: {
            const uint8_t *bytes = input_bytes(&in, UINT8_MAX, &n);
            take(bytes, n);
            lied = true;
            break;
        }
        case 1:
        case 2:
            lied = true;
            take_block(&in, input_u8(&in));
            break;
        case 3:
            send(op >> 3, input_u8(&in));
            break;
        case 4:
            send(op >> 3, 257u * input_u8(&in));
            break;
        case 5:
            gather((op & 8) != 0, (op & 16) != 0);
            break;
        case 6:
            link_session_break(ours);
            break;
        case 7:
            resume();
            break;
        }
    }
    if (!lied) { /* then all of it gets there */
        resume();
        while (link_session_has_news(ours))
            gather(false, false);
        ASSERT(n_arrived == n_sent);
        resume();
        ASSERT(link_session_backlog(ours) == 0);
    }
    link_session_destroy(ours);
    link_session_destroy(honest);
    return 0;
}
