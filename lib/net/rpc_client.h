/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_CLIENT_H
#define LIB_NET_RPC_CLIENT_H
/*
 * Unary gRPC calls to one server. It is dialled on the first call and again after each break, with
 * a pause that grows to a second; the server's address is resolved each time. Loop thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "lib/net/rpc_bridge.h"

struct rpc_client;

/* err NULL: the reply, for the callback. Else why not: ERR_AWAY nobody answers there, or it broke
 * off; ERR_TIMEOUT; ERR_DENIED; ERR_CANCELED; or what the server said. */
typedef void (*rpc_reply_f)(void *arg, const struct err *err, const uint8_t *bytes, size_t size);

struct rpc_client_config {
    struct rpc_bridge *bridge; /* borrowed */
    const char *address;       /* copied: "ipv4:127.0.0.1:6379", "dns:///name:6379", "unix:/path" */
    const struct auth_token *token; /* copied */
    size_t max_message_bytes;       /* of a request or a reply; 0: RPC_MESSAGE_MAX */
    size_t max_open_bytes;          /* of requests under way; 0: twice max_message_bytes */
    uint32_t keepalive_ms;          /* a server that is silent this long twice is away; 0: 5000 */
    /* May be NULL. The server's incarnation is not the one of the reply before, or the first:
     * called before that reply is given. */
    void (*on_incarnation)(void *arg, const char *incarnation);
    void *arg;
};

/* How gRPC names a port: host is an IP address or a name, cut to size. */
void rpc_target(const char *host, int port, char *out, size_t size);

struct rpc_client *rpc_client_create(const struct rpc_client_config *config);
/* Open calls complete with ERR_CANCELED before it returns; runs other completions of the bridge
 * meanwhile. NULL is fine. */
void rpc_client_destroy(struct rpc_client *c);
/* The connection is given up, whatever it is doing, and the next call dials at once: open calls
 * complete with ERR_AWAY. */
void rpc_client_redial(struct rpc_client *c);
/* From now on calls name the cluster, 56 hex digits; a server of another one denies them. */
void rpc_client_set_cluster(struct rpc_client *c, const char *cluster_hex);

/* Completes once, never before it returns. bytes are copied, path is not. With wait the call waits
 * for a server that is away until its time is over. */
void rpc_client_call(struct rpc_client *c,
                     const char *path,
                     const void *bytes,
                     size_t size,
                     uint32_t timeout_ms,
                     bool wait,
                     rpc_reply_f reply,
                     void *arg);
unsigned rpc_client_n_open(const struct rpc_client *c);

#endif /* LIB_NET_RPC_CLIENT_H */
