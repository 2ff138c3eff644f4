/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A call is one batch with one tag, which ends with the server's status. One that
 * is refused here is canceled before it is started, so that it ends by the same way.
 */
#include "lib/net/rpc_client.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/net/rpc_private.h"

struct rpc_client {
    unsigned magic;
    struct rpc_client_config config;
    struct rpc_bridge *bridge;
    grpc_channel *channel;
    char *address;
    char bearer[AUTH_TOKEN_MAX + 16], cluster[64], incarnation[64];
    struct list calls;
    unsigned n_open;
    size_t open_bytes;
    bool is_ending;
};
#define RPC_CLIENT_MAGIC 0x52504354u

struct rpc_request {
    struct list node;
    struct rpc_client *client;
    struct rpc_tag tag;
    grpc_call *call;
    grpc_metadata sent[2];
    size_t n_sent;
    grpc_metadata_array first, last;
    grpc_byte_buffer *message;
    grpc_status_code status;
    grpc_slice details;
    const char *path;
    size_t size;
    bool is_too_much; /* never sent */
    bool is_given_up; /* with its connection */
    rpc_reply_f reply;
    void *arg;
};

static grpc_arg number(const char *key, long value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER,
                      .key = (char *)(uintptr_t)key,
                      .value.integer = (int)value};
}

grpc_channel *rpc_channel_create(const char *address,
                                 size_t max_message_bytes,
                                 uint32_t keepalive_ms)
{
    grpc_arg args[] = {
        number(GRPC_ARG_ENABLE_HTTP_PROXY, 0), /* even for 127.0.0.1 it would be taken */
        number(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        number(GRPC_ARG_ENABLE_RETRIES, 0), /* who calls knows what may be said twice */
        number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (long)max_message_bytes),
        number(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (long)max_message_bytes),
        number(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50),
        number(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000), /* the time a dial may take */
        number(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000),
        number(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000),
        number(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_ms),
        number(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive_ms),
        number(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        number(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
    };
    const grpc_channel_args list = {.num_args = sizeof args / sizeof args[0], .args = args};
    grpc_channel_credentials *plain = grpc.insecure_credentials_create();
    grpc_channel *channel = grpc.channel_create(address, plain, &list);
    grpc.channel_credentials_release(plain);
    return channel;
}

static void connect_client(struct rpc_client *c)
{
    c->channel =
        rpc_channel_create(c->address, c->config.max_message_bytes, c->config.keepalive_ms);
}

void rpc_target(const char *host, int port, char *out, size_t size)
{
    struct in6_addr ip;

    if (inet_pton(AF_INET, host, &ip) == 1)
        snprintf(out, size, "ipv4:%s:%d", host, port);
    else if (inet_pton(AF_INET6, host, &ip) == 1)
        snprintf(out, size, "ipv6:[%s]:%d", host, port);
    else
        snprintf(out, size, "dns:///%s:%d", host, port);
}

struct rpc_client *rpc_client_create(const struct rpc_client_config *config)
{
    struct rpc_client *c = xcalloc(1, sizeof *c);

    c->magic = RPC_CLIENT_MAGIC;
    c->config = *config;
    c->bridge = config->bridge;
    list_init(&c->calls);
    snprintf(c->bearer, sizeof c->bearer, "Bearer %s", config->token->text);
    if (c->config.max_message_bytes == 0)
        c->config.max_message_bytes = RPC_MESSAGE_MAX;
    if (c->config.max_open_bytes == 0)
        c->config.max_open_bytes = 2 * c->config.max_message_bytes;
    if (c->config.keepalive_ms == 0)
        c->config.keepalive_ms = 5000;
    c->address = xstrdup(config->address);
    connect_client(c);
    return c;
}

void rpc_client_redial(struct rpc_client *c)
{
    CHECK_MAGIC(c, RPC_CLIENT_MAGIC);
    list_for_each(at, &c->calls)
    {
        struct rpc_request *r = list_entry(at, struct rpc_request, node);
        r->is_given_up = true;
        grpc.call_cancel(r->call, NULL);
    }
    grpc.channel_destroy(c->channel);
    connect_client(c);
}

void rpc_client_set_cluster(struct rpc_client *c, const char *cluster_hex)
{
    ASSERT(strlen(cluster_hex) < sizeof c->cluster);
    snprintf(c->cluster, sizeof c->cluster, "%s", cluster_hex);
}

/* --- a call's end --- */

static void see_incarnation(struct rpc_client *c, const grpc_metadata_array *first)
{
    for (size_t i = 0; i < first->count; i++) {
        const grpc_metadata *m = &first->metadata[i];
        size_t n = GRPC_SLICE_LENGTH(m->value);
        if (grpc.slice_str_cmp(m->key, "ray-incarnation") != 0 || n >= sizeof c->incarnation
            || grpc.slice_str_cmp(m->value, c->incarnation) == 0)
            continue;
        memcpy(c->incarnation, GRPC_SLICE_START_PTR(m->value), n);
        c->incarnation[n] = '\0';
        if (c->config.on_incarnation != NULL)
            c->config.on_incarnation(c->config.arg, c->incarnation);
    }
}

static int outcome(const struct rpc_request *r, uint8_t **bytes, size_t *size, struct err *err)
{
    if (r->client->is_ending)
        return err_set(err, ERR_CANCELED, "%s: canceled", r->path);
    if (r->is_too_much)
        return err_set(err,
                       ERR_FULL,
                       "%s: more than %zu bytes would be under way",
                       r->path,
                       r->client->config.max_open_bytes);
    if (r->status != GRPC_STATUS_OK && r->is_given_up)
        return err_set(err, ERR_AWAY, "%s: the connection was given up", r->path);
    if (r->status != GRPC_STATUS_OK)
        return err_set(
            err,
            rpc_code_of(r->status),
            "%s: %.*s",
            r->path,
            (int)(GRPC_SLICE_LENGTH(r->details) < 300 ? GRPC_SLICE_LENGTH(r->details) : 300),
            (const char *)GRPC_SLICE_START_PTR(r->details));
    if (r->message == NULL)
        return err_set(err, ERR_PROTOCOL, "%s: a reply without a message", r->path);
    *bytes = rpc_flatten(r->message, size);
    return *bytes != NULL ? 0 : err_set(err, ERR_NO_MEMORY, "%s: no memory for a reply", r->path);
}

static void on_end(struct rpc_tag *tag, bool ok)
{
    struct rpc_request *r =
        (struct rpc_request *)(void *)((char *)tag - offsetof(struct rpc_request, tag));
    struct rpc_client *c = r->client;
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct err err;

    (void)ok; /* the status says it */
    CHECK_MAGIC(c, RPC_CLIENT_MAGIC);
    list_remove(&r->node);
    c->n_open--;
    c->open_bytes -= r->is_too_much ? 0 : r->size;
    if (!c->is_ending)
        see_incarnation(c, &r->first);
    int rc = outcome(r, &bytes, &size, &err);
    r->reply(r->arg, rc == 0 ? NULL : &err, bytes, size);
    free(bytes);
    grpc.metadata_array_destroy(&r->first);
    grpc.metadata_array_destroy(&r->last);
    for (size_t i = 0; i < r->n_sent; i++)
        grpc.slice_unref(r->sent[i].value);
    grpc.slice_unref(r->details);
    if (r->message != NULL)
        grpc.byte_buffer_destroy(r->message);
    grpc.call_unref(r->call);
    free(r);
}

/* --- a call's start --- */

grpc_metadata rpc_metadata(const char *key, const char *value)
{
    return (grpc_metadata){.key = grpc.slice_from_static_string(key),
                           .value = grpc.slice_from_copied_string(value)};
}

static void start(struct rpc_request *r, const void *bytes, bool wait)
{
    struct rpc_client *c = r->client;
    grpc_byte_buffer *message = rpc_message(bytes, r->is_too_much ? 0 : r->size);
    grpc_op ops[6];

    r->sent[r->n_sent++] = rpc_metadata("authorization", c->bearer);
    if (c->cluster[0] != '\0')
        r->sent[r->n_sent++] = rpc_metadata("ray_cluster_id", c->cluster);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].flags = wait ? GRPC_INITIAL_METADATA_WAIT_FOR_READY : 0;
    ops[0].data.send_initial_metadata.metadata = r->sent;
    ops[0].data.send_initial_metadata.count = r->n_sent;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = message;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &r->first;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &r->message;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &r->last;
    ops[5].data.recv_status_on_client.status = &r->status;
    ops[5].data.recv_status_on_client.status_details = &r->details;
    rpc_start(r->call, ops, 6, &r->tag, on_end);
    grpc.byte_buffer_destroy(message);
}

void rpc_client_call(struct rpc_client *c,
                     const char *path,
                     const void *bytes,
                     size_t size,
                     uint32_t timeout_ms,
                     bool wait,
                     rpc_reply_f reply,
                     void *arg)
{
    struct rpc_request *r = xcalloc(1, sizeof *r);

    CHECK_MAGIC(c, RPC_CLIENT_MAGIC);
    *r = (struct rpc_request){.client = c,
                              .path = path,
                              .size = size,
                              .reply = reply,
                              .arg = arg,
                              .is_too_much = size > c->config.max_open_bytes - c->open_bytes};
    grpc.metadata_array_init(&r->first);
    grpc.metadata_array_init(&r->last);
    r->details = grpc.empty_slice();
    list_append(&c->calls, &r->node);
    c->n_open++;
    c->open_bytes += r->is_too_much ? 0 : size;
    r->call =
        grpc.channel_create_call(c->channel,
                                 NULL,
                                 GRPC_PROPAGATE_DEFAULTS,
                                 rpc_bridge_queue(c->bridge),
                                 grpc.slice_from_static_string(path),
                                 NULL,
                                 grpc.time_add(grpc.now(GPR_CLOCK_MONOTONIC),
                                               grpc.time_from_millis(timeout_ms, GPR_TIMESPAN)),
                                 NULL);
    if (r->is_too_much) /* its end comes by the same way */
        grpc.call_cancel(r->call, NULL);
    start(r, bytes, wait);
}

void rpc_client_destroy(struct rpc_client *c)
{
    if (c == NULL)
        return;
    CHECK_MAGIC(c, RPC_CLIENT_MAGIC);
    c->is_ending = true;
    list_for_each(at, &c->calls)
        grpc.call_cancel(list_entry(at, struct rpc_request, node)->call, NULL);
    while (c->n_open > 0)
        rpc_bridge_pump(c->bridge);
    grpc.channel_destroy(c->channel);
    free(c->address);
    c->magic = 0;
    free(c);
}

unsigned rpc_client_n_open(const struct rpc_client *c)
{
    return c->n_open;
}
