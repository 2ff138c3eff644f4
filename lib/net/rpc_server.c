/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A few requests for "any next call" stand at gRPC; each that is filled is replaced
 * by a fresh one, unless max_calls are open: then further calls wait in gRPC, and each end lets one
 * in. A call has up to four operations under way, each a tag in its struct: `arrived`, `received`
 * (its message), `closed` (the caller got all, or is gone) and `sent`. It is freed when it was
 * answered and no tag is out.
 */
#include "lib/net/rpc_server.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/net/rpc_private.h"

#define N_WAITING 32 /* requests for a next call */

struct service {
    const struct rpc_method *methods; /* or one stream: */
    const char *path;
    rpc_accept_f accept;
    void *arg;
    struct service *next;
};

struct rpc_server {
    unsigned magic;
    struct rpc_server_config config;
    struct auth_token token;
    struct rpc_bridge *bridge;
    grpc_server *server;
    grpc_resource_quota *quota;
    int port;
    struct service *services;
    char cluster[64], stamp[64];
    bool is_started, is_ending, has_ended;
    unsigned n_waiting, n_open, n_held; /* held: by handlers */
    uint64_t n_calls, n_denied, n_unknown;
    struct rpc_tag ended;
};
#define RPC_SERVER_MAGIC 0x52505353u

struct rpc_call {
    unsigned magic;
    struct rpc_server *server;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    const struct rpc_method *method;
    rpc_accept_f accept;
    void *arg;
    grpc_byte_buffer *message;
    uint8_t *request;
    size_t request_size;
    int canceled;
    bool is_held, has_begun, is_answered, is_gone;
    rpc_gone_f gone;
    void *gone_arg;
    unsigned n_out; /* tags */
    struct rpc_tag arrived, received, closed, sent;
    grpc_metadata stamp;
    grpc_slice text; /* of the status */
};
#define RPC_CALL_MAGIC 0x52504343u

static void wait_for_calls(struct rpc_server *s);

static struct rpc_call *call_of(struct rpc_tag *tag, size_t offset)
{
    struct rpc_call *c = (struct rpc_call *)(void *)((char *)tag - offset);

    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    return c;
}

/* --- the end of a call --- */

static void free_call(struct rpc_call *c)
{
    grpc.metadata_array_destroy(&c->metadata);
    grpc.call_details_destroy(&c->details);
    if (c->message != NULL)
        grpc.byte_buffer_destroy(c->message);
    grpc.slice_unref(c->text);
    if (c->call != NULL)
        grpc.call_unref(c->call);
    free(c->request);
    c->magic = 0;
    free(c);
}

static void release(struct rpc_call *c)
{
    struct rpc_server *s = c->server;

    if (c->n_out > 0 || !c->is_answered)
        return;
    free_call(c);
    s->n_open--;
    wait_for_calls(s);
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *c = call_of(tag, offsetof(struct rpc_call, sent));

    (void)ok; /* if not, the caller is gone */
    c->n_out--;
    release(c);
}

void rpc_call_hold(struct rpc_call *c, int n)
{
    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    c->n_out += (unsigned)n;
    release(c);
}

static void on_closed(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *c = call_of(tag, offsetof(struct rpc_call, closed));

    (void)ok;
    c->n_out--;
    c->is_gone = true;
    if (c->is_held && c->gone != NULL) {
        rpc_gone_f gone = c->gone;
        c->gone = NULL;
        gone(c->gone_arg, c); /* it may answer */
        return;
    }
    release(c);
}

/* --- answers --- */

static grpc_op begin(struct rpc_call *c)
{
    grpc_op op;

    memset(&op, 0, sizeof op);
    c->stamp.key = grpc.slice_from_static_string("ray-incarnation");
    c->stamp.value = grpc.slice_from_static_string(c->server->stamp);
    op.op = GRPC_OP_SEND_INITIAL_METADATA;
    op.data.send_initial_metadata.metadata = &c->stamp;
    op.data.send_initial_metadata.count = 1;
    c->has_begun = true;
    return op;
}

static void send_answer(struct rpc_call *c, grpc_status_code status, const void *bytes, size_t size)
{
    grpc_op ops[3];
    grpc_byte_buffer *message = NULL;
    size_t n = 0;

    ASSERT(!c->is_answered);
    c->is_answered = true;
    if (c->is_held) {
        c->is_held = false;
        c->server->n_held--;
    }
    memset(ops, 0, sizeof ops);
    if (!c->has_begun)
        ops[n++] = begin(c);
    if (status == GRPC_STATUS_OK && c->accept == NULL) {
        message = rpc_message(bytes, size);
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n++].data.send_message.send_message = message;
    }
    ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[n].data.send_status_from_server.status = status;
    ops[n++].data.send_status_from_server.status_details = &c->text;
    c->n_out++;
    rpc_start(c->call, ops, n, &c->sent, on_sent);
    if (message != NULL)
        grpc.byte_buffer_destroy(message);
}

void rpc_call_reply(struct rpc_call *c, const void *bytes, size_t size)
{
    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    if (size > c->server->config.max_message_bytes)
        rpc_call_fail(c,
                      ERR_FULL,
                      "the answer has %zu bytes, more than %zu: ask for less at once",
                      size,
                      c->server->config.max_message_bytes);
    else
        send_answer(c, GRPC_STATUS_OK, bytes, size);
}

static void refuse(struct rpc_call *c, grpc_status_code status, const char *text)
{
    grpc.slice_unref(c->text);
    c->text = grpc.slice_from_copied_string(text);
    send_answer(c, status, NULL, 0);
}

void rpc_call_fail(struct rpc_call *c, enum err_code code, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    refuse(c, rpc_status_of(code), text);
}

void rpc_call_close(struct rpc_call *c, enum err_code code, const char *text, bool abrupt)
{
    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    if (abrupt)
        grpc.call_cancel(c->call, NULL); /* or the status would wait for the message */
    refuse(c, rpc_status_of(code), text);
}

/* --- calls come --- */

static void on_begun(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *c = call_of(tag, offsetof(struct rpc_call, received));

    (void)ok; /* if not, the caller is gone */
    c->n_out--;
    release(c);
}

static void accept_stream(struct rpc_call *c)
{
    grpc_op op = begin(c);

    c->n_out++;
    rpc_start(c->call, &op, 1, &c->received, on_begun);
    c->is_held = true;
    c->server->n_held++;
    c->accept(c->arg, rpc_stream_create(c->server->bridge, c, c->call));
}

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *c = call_of(tag, offsetof(struct rpc_call, received));

    c->n_out--;
    if (c->is_gone || c->server->is_ending) {
        refuse(c, GRPC_STATUS_UNAVAILABLE, "the server ends");
        return;
    }
    if (!ok || c->message == NULL) {
        refuse(c, GRPC_STATUS_INVALID_ARGUMENT, "a call without a message");
        return;
    }
    c->request = rpc_flatten(c->message, &c->request_size);
    grpc.byte_buffer_destroy(c->message);
    c->message = NULL;
    if (c->request == NULL) {
        refuse(c, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the request");
        return;
    }
    c->is_held = true;
    c->server->n_held++;
    c->method->handler(c->arg, c);
    free(c->request); /* many may wait for long; its tags are out still, so it is there */
    c->request = NULL;
}

/* The value of a key that is there once; NULL if not. Keys come in lower case. */
static const grpc_slice *find_metadata(const struct rpc_call *c, const char *key)
{
    const grpc_slice *found = NULL;

    for (size_t i = 0; i < c->metadata.count; i++) {
        const grpc_metadata *m = &c->metadata.metadata[i];
        if (grpc.slice_str_cmp(m->key, key) != 0)
            continue;
        if (found != NULL)
            return NULL;
        found = &m->value;
    }
    return found;
}

static bool is_token(const struct rpc_call *c, const grpc_slice *value)
{
    static const char scheme[] = "Bearer ";
    const size_t n = sizeof scheme - 1;

    return value != NULL && GRPC_SLICE_LENGTH(*value) > n
           && memcmp(GRPC_SLICE_START_PTR(*value), scheme, n) == 0
           && auth_token_is(&c->server->token,
                            GRPC_SLICE_START_PTR(*value) + n,
                            GRPC_SLICE_LENGTH(*value) - n);
}

/* The one door (DESIGN D12). */
static bool let_in(struct rpc_call *c)
{
    struct rpc_server *s = c->server;
    const grpc_slice *cluster = find_metadata(c, "ray_cluster_id");
    const grpc_slice *token = find_metadata(c, "authorization");

    if (!is_token(c, token)) {
        s->n_denied++;
        if ((s->n_denied & (s->n_denied - 1)) == 0) { /* the 1st, 2nd, 4th, 8th ... */
            char *peer = grpc.call_get_peer(c->call);
            log_warn("rpc", "denied", "peer=%s n=%" PRIu64, peer, s->n_denied);
            grpc.free(peer);
        }
        refuse(c,
               GRPC_STATUS_UNAUTHENTICATED,
               token != NULL
                   ? "the token that was sent is not this cluster's: `ray get-auth-token` on the "
                     "head prints that; RAY_AUTH_TOKEN counts before RAY_AUTH_TOKEN_PATH and "
                     "~/.ray/auth_token"
                   : "this cluster wants its token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or "
                     "write it to ~/.ray/auth_token (`ray get-auth-token` on the head prints it)");
        return false;
    }
    if (cluster != NULL && s->cluster[0] != '\0' && grpc.slice_str_cmp(*cluster, s->cluster) != 0) {
        s->n_denied++;
        refuse(c, GRPC_STATUS_UNAUTHENTICATED, "this is another cluster than the caller's");
        return false;
    }
    return true;
}

static bool find_method(struct rpc_call *c)
{
    for (const struct service *v = c->server->services; v != NULL; v = v->next) {
        c->arg = v->arg;
        if (v->path != NULL && grpc.slice_str_cmp(c->details.method, v->path) == 0) {
            c->accept = v->accept;
            return true;
        }
        for (const struct rpc_method *m = v->methods; m != NULL && m->path != NULL; m++)
            if (grpc.slice_str_cmp(c->details.method, m->path) == 0) {
                c->method = m;
                return true;
            }
    }
    return false;
}

static void on_arrived(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *c = call_of(tag, offsetof(struct rpc_call, arrived));
    struct rpc_server *s = c->server;
    grpc_op op;

    s->n_waiting--;
    c->n_out--;
    if (!ok) { /* the server ends */
        free_call(c);
        return;
    }
    s->n_calls++;
    s->n_open++;
    wait_for_calls(s);
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &c->canceled;
    c->n_out++;
    rpc_start(c->call, &op, 1, &c->closed, on_closed);
    if (s->is_ending)
        refuse(c, GRPC_STATUS_UNAVAILABLE, "the server ends");
    if (s->is_ending || !let_in(c))
        return;
    if (!find_method(c)) {
        s->n_unknown++;
        refuse(c, GRPC_STATUS_UNIMPLEMENTED, "there is no such method here");
        return;
    }
    if (c->accept != NULL) {
        accept_stream(c);
        return;
    }
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &c->message;
    c->n_out++;
    rpc_start(c->call, &op, 1, &c->received, on_received);
}

static void wait_for_calls(struct rpc_server *s)
{
    grpc_completion_queue *q = rpc_bridge_queue(s->bridge);

    while (s->is_started && !s->is_ending && s->n_waiting < N_WAITING
           && s->n_open + s->n_waiting < s->config.max_calls) {
        struct rpc_call *c = xcalloc(1, sizeof *c);
        c->magic = RPC_CALL_MAGIC;
        c->server = s;
        c->text = grpc.slice_from_static_string("");
        grpc.call_details_init(&c->details);
        grpc.metadata_array_init(&c->metadata);
        c->n_out++;
        s->n_waiting++;
        grpc_call_error rc = grpc.server_request_call(s->server,
                                                      &c->call,
                                                      &c->details,
                                                      &c->metadata,
                                                      q,
                                                      q,
                                                      rpc_tag_start(&c->arrived, on_arrived));
        ASSERT(rc == GRPC_CALL_OK);
    }
}

const uint8_t *rpc_call_request(const struct rpc_call *c, size_t *size)
{
    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    *size = c->request_size;
    return c->request;
}

void rpc_call_on_gone(struct rpc_call *c, rpc_gone_f gone, void *arg)
{
    CHECK_MAGIC(c, RPC_CALL_MAGIC);
    c->gone = gone;
    c->gone_arg = arg;
}

/* --- the server --- */

static grpc_arg number(const char *key, long value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER,
                      .key = (char *)(uintptr_t)key,
                      .value.integer = (int)value};
}

static grpc_server *create_server(struct rpc_server *s)
{
    const struct rpc_server_config *k = &s->config;
    grpc_arg args[] = {
        number(GRPC_ARG_ALLOW_REUSEPORT, 0), /* or two would share the port unseen */
        number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (long)k->max_message_bytes),
        number(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (long)k->max_message_bytes),
        number(GRPC_ARG_MAX_METADATA_SIZE, 16384),
        number(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000),
        number(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5000),
        number(GRPC_ARG_KEEPALIVE_TIME_MS, k->keepalive_ms),
        number(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, k->keepalive_ms),
        number(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        number(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        number(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0), /* clients may ping as they like */
        number(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500),
        number(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1), /* none */
        {.type = GRPC_ARG_POINTER,
         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {.p = s->quota, .vtable = grpc.resource_quota_arg_vtable()}},
    };
    const grpc_channel_args list = {.num_args = sizeof args / sizeof args[0], .args = args};

    return grpc.server_create(&list, NULL);
}

struct rpc_server *rpc_server_create(const struct rpc_server_config *config, struct err *err)
{
    struct rpc_server *s = xcalloc(1, sizeof *s);

    ASSERT(config->token->text[0] != '\0');
    s->magic = RPC_SERVER_MAGIC;
    s->config = *config;
    s->token = *config->token;
    s->bridge = config->bridge;
    if (s->config.max_message_bytes == 0)
        s->config.max_message_bytes = RPC_MESSAGE_MAX;
    if (s->config.max_memory_bytes == 0)
        s->config.max_memory_bytes = 512u << 20;
    if (s->config.max_calls == 0)
        s->config.max_calls = 4096;
    if (s->config.keepalive_ms == 0)
        s->config.keepalive_ms = 10000;
    s->quota = grpc.resource_quota_create("rpc_server");
    grpc.resource_quota_resize(s->quota, s->config.max_memory_bytes);
    s->server = create_server(s);
    grpc.server_register_completion_queue(s->server, rpc_bridge_queue(s->bridge), NULL);
    grpc_server_credentials *plain = grpc.insecure_server_credentials_create();
    const char *at = config->address; /* servers do not know the word ipv4 */
    s->port =
        grpc.server_add_http2_port(s->server, strncmp(at, "ipv4:", 5) == 0 ? at + 5 : at, plain);
    grpc.server_credentials_release(plain);
    if (s->port == 0) {
        err_set(err,
                ERR_EXISTS,
                "cannot listen on %.200s: is the port taken, or the address another machine's?",
                config->address);
        rpc_server_destroy(s);
        return NULL;
    }
    return s;
}

int rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, void *arg)
{
    struct service *v = xcalloc(1, sizeof *v);

    ASSERT(!s->is_started);
    *v = (struct service){.methods = methods, .arg = arg, .next = s->services};
    s->services = v;
}

void rpc_server_add_stream(struct rpc_server *s, const char *path, rpc_accept_f accept, void *arg)
{
    struct service *v = xcalloc(1, sizeof *v);

    ASSERT(!s->is_started);
    *v = (struct service){.path = path, .accept = accept, .arg = arg, .next = s->services};
    s->services = v;
}

void rpc_server_start(struct rpc_server *s, const char *cluster_hex, const char *stamp)
{
    CHECK_MAGIC(s, RPC_SERVER_MAGIC);
    snprintf(s->cluster, sizeof s->cluster, "%s", cluster_hex);
    snprintf(s->stamp, sizeof s->stamp, "%s", stamp);
    grpc.server_start(s->server);
    s->is_started = true;
    wait_for_calls(s);
}

static void on_ended(struct rpc_tag *tag, bool ok)
{
    struct rpc_server *s =
        (struct rpc_server *)(void *)((char *)tag - offsetof(struct rpc_server, ended));

    (void)ok;
    CHECK_MAGIC(s, RPC_SERVER_MAGIC);
    s->has_ended = true;
}

void rpc_server_destroy(struct rpc_server *s)
{
    if (s == NULL)
        return;
    CHECK_MAGIC(s, RPC_SERVER_MAGIC);
    ASSERT(s->n_held == 0);
    s->is_ending = true;
    grpc.server_shutdown_and_notify(s->server,
                                    rpc_bridge_queue(s->bridge),
                                    rpc_tag_start(&s->ended, on_ended));
    grpc.server_cancel_all_calls(s->server);
    while (!s->has_ended || s->n_open > 0 || s->n_waiting > 0)
        rpc_bridge_pump(s->bridge);
    grpc.server_destroy(s->server);
    grpc.resource_quota_unref(s->quota);
    while (s->services != NULL) {
        struct service *v = s->services;
        s->services = v->next;
        free(v);
    }
    s->magic = 0;
    free(s);
}

void rpc_server_stats(const struct rpc_server *s, struct rpc_server_stats *out)
{
    *out = (struct rpc_server_stats){.n_open = s->n_open,
                                     .n_calls = s->n_calls,
                                     .n_denied = s->n_denied,
                                     .n_unknown = s->n_unknown};
}
