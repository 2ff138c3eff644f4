/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_SERVER_H
#define LIB_NET_RPC_SERVER_H
/*
 * A port that answers unary gRPC calls and takes streams (rpc_stream.h). Each is let in at one
 * place, where its token, and the cluster it names, are checked before its request is read. Loop
 * thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "lib/net/rpc_bridge.h"

struct rpc_server;
struct rpc_call;
struct rpc_stream;

/* A call to answer exactly once, now or later, by rpc_call_reply or rpc_call_fail. */
typedef void (*rpc_handler_f)(void *arg, struct rpc_call *call);
typedef void (*rpc_gone_f)(void *arg, struct rpc_call *call);
/* A stream to use now (rpc_stream_use), and to close some time. */
typedef void (*rpc_accept_f)(void *arg, struct rpc_stream *stream);

/* A table of them ends with path NULL; it outlives the server. */
struct rpc_method {
    const char *path; /* "/package.Service/Method" */
    rpc_handler_f handler;
};

struct rpc_server_config {
    struct rpc_bridge *bridge;      /* borrowed */
    const char *address;            /* as gRPC writes it: "ipv4:0.0.0.0:6379", "unix:/path" */
    const struct auth_token *token; /* copied */
    size_t max_message_bytes;       /* of a request or a reply; 0: RPC_MESSAGE_MAX */
    size_t max_memory_bytes;        /* all gRPC may hold for the port; 0: 512 MiB */
    unsigned max_calls;             /* at once; more wait; 0: 4096 */
    uint32_t keepalive_ms;          /* a peer that is silent this long twice is cut; 0: 10000 */
};

struct rpc_server_stats {
    unsigned n_open;
    uint64_t n_calls, n_denied, n_unknown;
};

/* It listens but answers nothing before rpc_server_start. ERR_EXISTS: the port is taken. */
struct rpc_server *rpc_server_create(const struct rpc_server_config *config, struct err *err);
int rpc_server_port(const struct rpc_server *s);
/* Of several services: in any order, before rpc_server_start. */
void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, void *arg);
/* One method, whose calls are streams; path outlives the server. */
void rpc_server_add_stream(struct rpc_server *s, const char *path, rpc_accept_f accept, void *arg);
/* From now on calls are let in. A call that names another cluster in `ray_cluster_id` is denied;
 * each answer says stamp (copied), the incarnation of who answers, in `ray-incarnation`. */
void rpc_server_start(struct rpc_server *s, const char *cluster_hex, const char *stamp);
/* All calls were answered by their handlers, all streams closed. Waits for their ends, running
 * other completions of the bridge meanwhile. NULL is fine. */
void rpc_server_destroy(struct rpc_server *s);
void rpc_server_stats(const struct rpc_server *s, struct rpc_server_stats *out);

/* The request, until the handler returns. */
const uint8_t *rpc_call_request(const struct rpc_call *call, size_t *size);
/* Tell when the caller has gone before it was answered (it died, canceled, its deadline passed):
 * the call is to be answered all the same. */
void rpc_call_on_gone(struct rpc_call *call, rpc_gone_f gone, void *arg);
/* Copies. */
void rpc_call_reply(struct rpc_call *call, const void *bytes, size_t size);
void rpc_call_fail(struct rpc_call *call, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif /* LIB_NET_RPC_SERVER_H */
