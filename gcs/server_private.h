/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_SERVER_PRIVATE_H
#define GCS_SERVER_PRIVATE_H
/*
 * What the services (*_rpc.c) share: for them and server.c only.
 */
#include "gcs/server.h"
#include "lib/net/rpc_server.h"

struct gcs_server {
    unsigned magic;
    struct gcs_server_config config;
    struct rpc_bridge *bridge;
    struct rpc_server *rpc;
    struct store *store;
    bool is_ready, is_redis;
    struct unique_id cluster;
    uint64_t incarnation;
};

/* A call that waits for the store. */
struct asking {
    struct gcs_server *server;
    struct rpc_call *call;
};

extern const struct rpc_method gcs_node_methods[], gcs_job_methods[], gcs_kv_methods[],
    gcs_link_methods[];

struct asking *asking(struct gcs_server *g, struct rpc_call *call);
/* Fail the call as the store said, with its reason; what names the thing in the sentence. */
void gcs_fail(struct gcs_server *g, struct rpc_call *call, enum err_code code, const char *what);
uint64_t gcs_wall_ms(void);

#endif /* GCS_SERVER_PRIVATE_H */
