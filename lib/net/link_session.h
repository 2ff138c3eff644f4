/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_LINK_SESSION_H
#define LIB_NET_LINK_SESSION_H
/*
 * One end of a session between two incarnations (DESIGN D3): messages arrive exactly once and in
 * the order of their class, over one stream after another. Pure: who has a stream gathers what is
 * to be written, hands in what was read, and says when a stream ends and another begins.
 *
 * What a stream carries is batches, all little endian:
 *
 *   batch = { u64 expects } block ...           expects: all blocks below it have arrived
 *   block = { u32 size, u8 class, u8 0 [3], u64 number } part ...        size: of its parts
 *   part  = { u32 size, bit 31: the message goes on in the class's next part } bytes
 *
 * Messages are packed into blocks of their class; a block gets its number when it is gathered, the
 * classes in turn, so control waits behind two blocks at most. It is kept until it is acknowledged.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "lib/base/err.h"
#include "lib/net/frame.h"

#define LINK_SESSION_BLOCK_MAX   65536                      /* of a block, header included */
#define LINK_SESSION_MESSAGE_MAX (FRAME_MESSAGE_MAX + 1024) /* a message and its heads */
#define LINK_SESSION_BATCH_MAX   (2u * LINK_SESSION_BLOCK_MAX + 8)
#define LINK_SESSION_PIECES_MAX  64 /* of a batch: its header and its blocks */

struct link_session;
/* A whole message; bytes are good until it returns. It may send, and end the session. */
typedef void (*link_session_message_f)(void *arg,
                                       enum frame_class class,
                                       const uint8_t *bytes,
                                       size_t size);

/* Without a stream. */
struct link_session *link_session_create(link_session_message_f on_message, void *arg);
/* Not from its own callback. NULL is fine. */
void link_session_destroy(struct link_session *s);
/* Nothing is delivered any more: for callbacks, until it can be destroyed. */
void link_session_end(struct link_session *s);

/* Copies head and body, one message; together <= LINK_SESSION_MESSAGE_MAX. */
void link_session_send(struct link_session *s,
                       enum frame_class class,
                       const void *head,
                       size_t head_size,
                       const void *body,
                       size_t body_size);
/* Bytes of all that was not acknowledged. */
size_t link_session_backlog(const struct link_session *s);

/* What a new stream has to tell the other end: the number of the next block we want. */
uint64_t link_session_expects(const struct link_session *s);
/* A stream is there, and this is what the other end expects: what it has is dropped, the rest is
 * gathered again. -1, ERR_PROTOCOL: it cannot be, this is not the session it means. */
int link_session_resume(struct link_session *s, uint64_t expects, struct err *err);
/* The stream is gone: nothing is gathered until the next one. */
void link_session_break(struct link_session *s);

/* The next batch of at most LINK_SESSION_BATCH_MAX bytes: its pieces, good until the session is
 * called again; returns how many. 0: there is nothing to say. An acknowledgement alone is worth a
 * batch if `acknowledge`. */
int link_session_gather(struct link_session *s,
                        struct iovec pieces[LINK_SESSION_PIECES_MAX],
                        bool acknowledge);
/* Would gather give anything? */
bool link_session_has_news(const struct link_session *s);
/* Bytes that arrived since the other end was told. */
size_t link_session_owes(const struct link_session *s);

/* A batch arrived. -1: ERR_PROTOCOL (a gap, a double, no batch at all) or ERR_NO_MEMORY: the stream
 * is to be cut, and the session goes on with the next one. */
int link_session_take(struct link_session *s, const uint8_t *bytes, size_t size, struct err *err);

#endif /* LIB_NET_LINK_SESSION_H */
