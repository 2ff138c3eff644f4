/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_ASK_H
#define CMD_RAY_ASK_H
/*
 * A command's way to the GCS of a cluster: which cluster, with which token, and calls that are
 * waited for. A GCS that is being started again is waited for too, within the call's time. One
 * thread besides gRPC's.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/config.h"

struct ask;

/* The cluster that --address or RAY_ADDRESS names; else, and for "auto", that of this user's newest
 * node on this machine. NULL: err says why not. */
struct ask *ask_open(const struct config *c, int timeout_ms, struct err *err);
void ask_close(struct ask *a); /* NULL is fine */
const char *ask_address(const struct ask *a);
int ask_timeout(const struct ask *a);

/* *reply is the caller's to free. -1: err names the address and what to do. */
int ask_call(struct ask *a,
             const char *path,
             const void *bytes,
             size_t size,
             void **reply,
             size_t *reply_size,
             struct err *err);
/* The same for an answer that may take its time: ERR_TIMEOUT after ms, ERR_AWAY at once if the
 * connection breaks. */
int ask_call_within(struct ask *a,
                    int ms,
                    const char *path,
                    const void *bytes,
                    size_t size,
                    void **reply,
                    size_t *reply_size,
                    struct err *err);

/* Calls to servers of the cluster's nodes, all at once. All is borrowed. */
struct ask_target {
    const char *host; /* an IP address or a name; NULL: the GCS, which asks the node */
    int port;
    const char *path;
    const void *bytes; /* of the request; NULL: none */
    size_t size;
};
struct ask_reply {
    struct err err; /* ERR_NONE, or why there are no bytes */
    void *bytes;    /* to be freed; may be NULL */
    size_t size;
};
void ask_nodes(struct ask *a,
               const struct ask_target *targets,
               size_t n,
               int timeout_ms,
               struct ask_reply *replies);

#endif /* CMD_RAY_ASK_H */
