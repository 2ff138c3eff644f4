/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_SERVER_H
#define GCS_SERVER_H
/*
 * The GCS as a server: the store, the tables' services and their port, which lets calls in when all
 * rows are loaded (INV-4). Loop thread.
 */
#include "gcs/store_redis.h"
#include "lib/base/auth_token.h"
#include "lib/net/loop.h"

#define GCS_PROTOCOL 1 /* of proto/gcs_link.proto */

struct gcs_server;

struct gcs_server_config {
    struct loop *loop;   /* borrowed */
    const char *address; /* IP:PORT, port 0 for any */
    const char *redis;   /* HOST:PORT or a path; NULL: rows in memory, which end with the process */
    const char *redis_username, *redis_password; /* NULL: none */
    const char *ns;                              /* the cluster's part of Redis */
    const struct auth_token *token;
    size_t held_bytes;              /* changes that wait for Redis, at most */
    uint64_t patience_ms;           /* node_sync_set_patience */
    size_t subscriber_bytes;        /* news that wait for one subscriber, at most; 0: 16 MiB */
    uint64_t subscriber_timeout_ms; /* without a poll it is forgotten; 0: 300000, as Ray's */
    size_t dead_nodes;              /* rows of so many are kept */
    uint64_t driver_silence_ms;     /* of a driver's node until it is dead; 0: 30,000 */
    /* It serves: port, cluster id in hex, incarnation. */
    void (*on_ready)(void *arg, int port, const char *cluster, uint64_t incarnation);
    /* It never will, or another GCS took over: a sentence. */
    void (*on_end)(void *arg, const char *why);
    void *arg;
};

struct gcs_server *gcs_server_create(const struct gcs_server_config *config, struct err *err);
/* At each turn's end. */
void gcs_server_run(struct gcs_server *g);
/* Open calls fail; what was answered is durable. NULL is fine. */
void gcs_server_destroy(struct gcs_server *g);

#endif /* GCS_SERVER_H */
