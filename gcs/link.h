/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_LINK_H
#define GCS_LINK_H
/*
 * A daemon's link to the GCS: the first message to each incarnation of it, which tells what this
 * daemon holds, and calls that wait for it and outlive its restarts. Loop thread.
 */
#include "gcs/link_codec.h"
#include "lib/net/loop.h"
#include "lib/net/rpc_client.h"

struct gcs_link;

struct gcs_link_config {
    struct loop *loop;              /* borrowed */
    struct rpc_bridge *bridge;      /* borrowed */
    const char *address;            /* as rpc_client has it; borrowed */
    const struct auth_token *token; /* copied */
    struct unique_id cluster;       /* nil: the first that answers */
    struct unique_id node;
    uint64_t incarnation; /* of this daemon */
    /* What it holds now, borrowed until the next call; *out is zero. May be NULL. */
    void (*held)(void *arg, struct held *out);
    /* The GCS, or a new incarnation of it, knows us. May be NULL. */
    void (*on_greeted)(void *arg, const struct hello_reply *reply);
    /* It never will: another cluster or version, a wrong token. May be NULL. */
    void (*on_refused)(void *arg, const struct err *err);
    void *arg;
};

struct gcs_link *gcs_link_create(const struct gcs_link_config *config);
/* Open calls complete with ERR_CANCELED before it returns. NULL is fine. */
void gcs_link_destroy(struct gcs_link *l);

/* As rpc_client_call, but it is sent when the GCS has been greeted, and again when it went away in
 * mid-call: only what may be said twice. ERR_TIMEOUT or ERR_AWAY: the time is over. path is
 * borrowed, bytes are copied. */
void gcs_link_call(struct gcs_link *l,
                   const char *path,
                   const void *bytes,
                   size_t size,
                   uint32_t timeout_ms,
                   rpc_reply_f reply,
                   void *arg);

/* The connection may be stuck: a fresh one is dialled, and what is under way is sent again there.
 */
void gcs_link_redial(struct gcs_link *l);

#endif /* GCS_LINK_H */
