/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_STREAM_H
#define LIB_NET_RPC_STREAM_H
/*
 * One gRPC call on which both ends send messages as they like: what carries a session. One end
 * dials it, the other's rpc_server lets it in (rpc_server_add_stream). A break is its end. Loop
 * thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "lib/net/rpc_bridge.h"

struct rpc_stream;

/* Any of them may close the stream. */
struct rpc_stream_ops {
    /* bytes are good until it returns; the next message is read only then. */
    void (*on_message)(void *arg, const uint8_t *bytes, size_t size);
    void (*on_room)(void *arg); /* the message is written for which there was no room left */
    /* The last call: the other end closed it for this reason (ERR_NONE: without one), or it broke
     * (ERR_AWAY ...). It is still to be closed. */
    void (*on_end)(void *arg, const struct err *why);
};

struct rpc_dial {
    struct rpc_bridge *bridge;      /* borrowed */
    const char *address;            /* as of rpc_client */
    const char *path;               /* "/package.Service/Method"; outlives the stream */
    const struct auth_token *token; /* copied */
    const char *cluster_hex;        /* copied */
    size_t max_message_bytes;       /* of one that comes; 0: RPC_MESSAGE_MAX */
    uint32_t keepalive_ms;          /* an end that is silent this long twice is gone; 0: 5000 */
};

/* Has room at once; nobody there is an end with ERR_AWAY, within a second or so. */
struct rpc_stream *rpc_stream_dial(const struct rpc_dial *config,
                                   const struct rpc_stream_ops *ops,
                                   void *arg);
/* From now on these are called. ops outlives the stream. */
void rpc_stream_use(struct rpc_stream *s, const struct rpc_stream_ops *ops, void *arg);
/* The address of the other end, as gRPC writes it; "?" if it is not known. */
void rpc_stream_peer(const struct rpc_stream *s, char *out, size_t size);
/* One message is under way at a time; mostly it is written at once, and there is room again. */
bool rpc_stream_has_room(const struct rpc_stream *s);
/* One message, of these pieces; copied. Only with room. */
void rpc_stream_write(struct rpc_stream *s, const struct iovec *pieces, int n);
/* It is nobody's any more, and nothing is called. The end that was dialled gives the code and the
 * text to the other one, as far as it is still there. Its memory goes when gRPC has let go of it;
 * the bridge waits for that. NULL is fine. */
void rpc_stream_close(struct rpc_stream *s, enum err_code code, const char *text);

#endif /* LIB_NET_RPC_STREAM_H */
