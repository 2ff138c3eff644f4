/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_PRIVATE_H
#define LIB_NET_RPC_PRIVATE_H
/*
 * What rpc_bridge, rpc_server, rpc_client and rpc_stream share; for them only.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/net/rpc_bridge.h"
#include "lib/net/rpc_library.h"

struct rpc_tag;
/* On the loop thread; ok as gRPC's event says. */
typedef void (*rpc_tag_f)(struct rpc_tag *tag, bool ok);

/* One operation under way, a part of what it belongs to. */
struct rpc_tag {
    struct rpc_tag *next;
    rpc_tag_f done;
    bool ok;
    atomic_bool is_started; /* orders what we wrote before the start with what the bridge reads */
};

grpc_completion_queue *rpc_bridge_queue(struct rpc_bridge *b);
/* To be called before the operation is started: returns gRPC's form of the tag. */
void *rpc_tag_start(struct rpc_tag *tag, rpc_tag_f done);
/* Start a batch whose end is this tag. What gRPC refuses is our bug. */
void rpc_start(grpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *tag, rpc_tag_f done);
/* The same; true: it ended well, within this call, and done is not called. That spares the two
 * wakes by which the bridge would hand it over. */
bool rpc_start_now(struct rpc_bridge *b,
                   grpc_call *call,
                   const grpc_op *ops,
                   size_t n,
                   struct rpc_tag *tag,
                   rpc_tag_f done);
/* Wait for completions and run them: for those who end. */
void rpc_bridge_pump(struct rpc_bridge *b);

/* The bridge does not end while it is held. n: 1, or -1 to let go. */
void rpc_bridge_hold(struct rpc_bridge *b, int n);

/* rpc_client: a channel of its own connection, and what a call shows at the door. */
grpc_channel *rpc_channel_create(const char *address,
                                 size_t max_message_bytes,
                                 uint32_t keepalive_ms);
grpc_metadata rpc_metadata(const char *key, const char *value);

/* rpc_server: a call that is a stream. It is there until it was closed and nobody holds it. */
struct rpc_call;
void rpc_call_hold(struct rpc_call *call, int n);
/* Its status; abrupt: there may be a message under way. */
void rpc_call_close(struct rpc_call *call, enum err_code code, const char *text, bool abrupt);
/* rpc_stream: the stream of a call that was let in. */
struct rpc_stream;
struct rpc_stream *rpc_stream_create(struct rpc_bridge *b, struct rpc_call *call, grpc_call *raw);

/* Codes and their texts on the wire. */
grpc_status_code rpc_status_of(enum err_code code);
enum err_code rpc_code_of(grpc_status_code status);

/* The bytes of a buffer in one piece, which is the caller's; *size is set. NULL: no memory, or they
 * cannot be read. A message of no bytes gives a piece too. */
uint8_t *rpc_flatten(grpc_byte_buffer *buffer, size_t *size);
/* A message, copied. */
grpc_byte_buffer *rpc_message(const void *bytes, size_t size);

#endif /* LIB_NET_RPC_PRIVATE_H */
