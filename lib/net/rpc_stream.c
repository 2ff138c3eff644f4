/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A dialled stream is a gRPC call on a channel of its own, one that was accepted is
 * an rpc_call, which the server keeps as long as the stream holds it. Either has one read and at
 * most one write under way, each a tag in its struct; a dialled one also waits for its beginning
 * and its status. It is freed when its owner has closed it and no tag is out.
 */
#include "lib/net/rpc_stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/net/rpc_private.h"
#include "lib/net/rpc_server.h"

struct rpc_stream {
    unsigned magic;
    const struct rpc_stream_ops *ops;
    void *arg;
    struct rpc_bridge *bridge;
    struct rpc_call *served; /* accepted: the call, held; dialled: NULL, and all of the following */
    grpc_channel *channel;
    grpc_metadata shown[2];
    grpc_metadata_array first, last;
    grpc_status_code status;
    grpc_slice details;
    struct rpc_tag begun, ended;

    grpc_call *call;
    struct rpc_tag received, sent;
    grpc_byte_buffer *message;
    unsigned n_out, n_in; /* tags; callbacks that run */
    bool is_writing, is_over, is_closed;
};
#define RPC_STREAM_MAGIC 0x5250434du

static struct rpc_stream *stream_of(struct rpc_tag *tag, size_t offset)
{
    struct rpc_stream *s = (struct rpc_stream *)(void *)((char *)tag - offset);

    CHECK_MAGIC(s, RPC_STREAM_MAGIC);
    return s;
}

/* --- its end --- */

static void release(struct rpc_stream *s)
{
    if (s->n_out > 0 || s->n_in > 0 || !s->is_closed)
        return;
    if (s->served != NULL) {
        rpc_call_hold(s->served, -1);
    } else {
        grpc.metadata_array_destroy(&s->first);
        grpc.metadata_array_destroy(&s->last);
        for (size_t i = 0; i < sizeof s->shown / sizeof s->shown[0]; i++)
            grpc.slice_unref(s->shown[i].value);
        grpc.slice_unref(s->details);
        grpc.call_unref(s->call);
        grpc.channel_destroy(s->channel);
        rpc_bridge_hold(s->bridge, -1);
    }
    s->magic = 0;
    free(s);
}

static void tell_end(struct rpc_stream *s, const struct err *why)
{
    if (s->is_over)
        return;
    s->is_over = true;
    if (!s->is_closed)
        s->ops->on_end(s->arg, why);
}

/* Of one that was dialled: the status is there. */
static void on_ended(struct rpc_tag *tag, bool ok)
{
    struct rpc_stream *s = stream_of(tag, offsetof(struct rpc_stream, ended));
    struct err err = {0};

    (void)ok;
    if (s->status != GRPC_STATUS_OK)
        err_set(&err,
                rpc_code_of(s->status),
                "%.*s",
                (int)(GRPC_SLICE_LENGTH(s->details) < 300 ? GRPC_SLICE_LENGTH(s->details) : 300),
                (const char *)GRPC_SLICE_START_PTR(s->details));
    s->n_out--;
    s->n_in++;
    tell_end(s, &err);
    s->n_in--;
    release(s);
}

/* Of one that was accepted. */
static void on_gone(void *arg, struct rpc_call *call)
{
    struct rpc_stream *s = arg;
    struct err err;

    (void)call;
    CHECK_MAGIC(s, RPC_STREAM_MAGIC);
    err_set(&err, ERR_AWAY, "the other end closed it, or is gone");
    s->n_in++;
    tell_end(s, &err);
    s->n_in--;
    release(s);
}

void rpc_stream_close(struct rpc_stream *s, enum err_code code, const char *text)
{
    if (s == NULL)
        return;
    CHECK_MAGIC(s, RPC_STREAM_MAGIC);
    ASSERT(!s->is_closed);
    s->is_closed = true;
    if (s->served == NULL)
        grpc.call_cancel(s->call, NULL);
    else
        rpc_call_close(s->served, code, text, s->is_writing);
    release(s);
}

/* --- messages --- */

static void read_next(struct rpc_stream *s);

static void deliver(struct rpc_stream *s)
{
    struct err err;
    size_t size;
    uint8_t *bytes = rpc_flatten(s->message, &size);

    if (bytes != NULL) {
        s->ops->on_message(s->arg, bytes, size);
    } else {
        err_set(&err, ERR_NO_MEMORY, "no memory for a message");
        tell_end(s, &err);
    }
    free(bytes);
}

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct rpc_stream *s = stream_of(tag, offsetof(struct rpc_stream, received));
    struct err err;

    (void)ok; /* if not, there is no message */
    s->n_out--;
    s->n_in++;
    if (s->message != NULL) {
        if (!s->is_closed)
            deliver(s);
        grpc.byte_buffer_destroy(s->message);
        s->message = NULL;
        if (!s->is_closed && !s->is_over)
            read_next(s);
    } else if (s->served != NULL) { /* of a dialled one the status is on its way */
        err_set(&err, ERR_AWAY, "the other end closed it");
        tell_end(s, &err);
    }
    s->n_in--;
    release(s);
}

static void read_next(struct rpc_stream *s)
{
    grpc_op op;

    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->message;
    s->n_out++;
    rpc_start(s->call, &op, 1, &s->received, on_received);
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct rpc_stream *s = stream_of(tag, offsetof(struct rpc_stream, sent));

    s->n_out--;
    s->is_writing = false;
    s->n_in++;
    if (ok && rpc_stream_has_room(s)) /* else its end is on its way */
        s->ops->on_room(s->arg);
    s->n_in--;
    release(s);
}

void rpc_stream_peer(const struct rpc_stream *s, char *out, size_t size)
{
    char *peer = grpc.call_get_peer(s->call);

    snprintf(out, size, "%s", peer != NULL ? peer : "?");
    grpc.free(peer);
}

bool rpc_stream_has_room(const struct rpc_stream *s)
{
    return !s->is_writing && !s->is_over && !s->is_closed;
}

void rpc_stream_write(struct rpc_stream *s, const struct iovec *pieces, int n)
{
    size_t size = 0;
    grpc_op op;

    CHECK_MAGIC(s, RPC_STREAM_MAGIC);
    ASSERT(rpc_stream_has_room(s));
    for (int i = 0; i < n; i++)
        size += pieces[i].iov_len;
    grpc_slice slice = grpc.slice_malloc(size);
    uint8_t *at = GRPC_SLICE_START_PTR(slice);
    for (int i = 0; i < n; i++) {
        memcpy(at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    grpc_byte_buffer *message = grpc.raw_byte_buffer_create(&slice, 1);
    grpc.slice_unref(slice);
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = message;
    s->is_writing = !rpc_start_now(s->bridge, s->call, &op, 1, &s->sent, on_sent);
    s->n_out += s->is_writing;
    grpc.byte_buffer_destroy(message);
}

/* --- its beginning --- */

void rpc_stream_use(struct rpc_stream *s, const struct rpc_stream_ops *ops, void *arg)
{
    CHECK_MAGIC(s, RPC_STREAM_MAGIC);
    s->ops = ops;
    s->arg = arg;
}

struct rpc_stream *rpc_stream_create(struct rpc_bridge *b, struct rpc_call *call, grpc_call *raw)
{
    struct rpc_stream *s = xcalloc(1, sizeof *s);

    s->magic = RPC_STREAM_MAGIC;
    s->bridge = b;
    s->served = call;
    s->call = raw;
    rpc_call_hold(call, 1);
    rpc_call_on_gone(call, on_gone, s);
    read_next(s);
    return s;
}

static void on_begun(struct rpc_tag *tag, bool ok)
{
    struct rpc_stream *s = stream_of(tag, offsetof(struct rpc_stream, begun));

    (void)ok; /* if not, its end is on its way */
    s->n_out--;
    release(s);
}

/* Beginning and status, each to be waited for alone. */
static void start(struct rpc_stream *s, size_t n_shown)
{
    grpc_op ops[2];

    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &s->last;
    ops[0].data.recv_status_on_client.status = &s->status;
    ops[0].data.recv_status_on_client.status_details = &s->details;
    s->n_out++;
    rpc_start(s->call, ops, 1, &s->ended, on_ended);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.metadata = s->shown;
    ops[0].data.send_initial_metadata.count = n_shown;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->first;
    s->n_out++;
    rpc_start(s->call, ops, 2, &s->begun, on_begun);
    read_next(s);
}

struct rpc_stream *rpc_stream_dial(const struct rpc_dial *config,
                                   const struct rpc_stream_ops *ops,
                                   void *arg)
{
    struct rpc_stream *s = xcalloc(1, sizeof *s);
    char bearer[AUTH_TOKEN_MAX + 16];

    s->magic = RPC_STREAM_MAGIC;
    s->bridge = config->bridge;
    rpc_bridge_hold(s->bridge, 1);
    rpc_stream_use(s, ops, arg);
    s->channel = rpc_channel_create(config->address,
                                    config->max_message_bytes != 0 ? config->max_message_bytes
                                                                   : RPC_MESSAGE_MAX,
                                    config->keepalive_ms != 0 ? config->keepalive_ms : 5000);
    snprintf(bearer, sizeof bearer, "Bearer %s", config->token->text);
    s->shown[0] = rpc_metadata("authorization", bearer);
    s->shown[1] = rpc_metadata("ray_cluster_id", config->cluster_hex);
    grpc.metadata_array_init(&s->first);
    grpc.metadata_array_init(&s->last);
    s->details = grpc.empty_slice();
    s->call = grpc.channel_create_call(s->channel,
                                       NULL,
                                       GRPC_PROPAGATE_DEFAULTS,
                                       rpc_bridge_queue(s->bridge),
                                       grpc.slice_from_static_string(config->path),
                                       NULL,
                                       grpc.inf_future(GPR_CLOCK_MONOTONIC),
                                       NULL);
    start(s, sizeof s->shown / sizeof s->shown[0]);
    return s;
}
