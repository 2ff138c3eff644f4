/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_PEER_H
#define RAYLET_PEER_H
/*
 * The other raylets of the cluster and the sessions with them (docs/design/several-machines.md).
 * Between two live raylets a message arrives exactly once, and in the order of its class: a stream
 * that breaks is dialled again, and what was not acknowledged is sent again. Streams are dialled
 * when there is something to send, and closed when idle. All of it on the loop thread; callbacks
 * may call anything here but peers_destroy.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "lib/base/id.h"
#include "lib/net/frame.h"
#include "lib/net/loop.h"
#include "lib/net/rpc_bridge.h"
#include "lib/net/rpc_server.h"

/* Bytes. More than the allotments of all pairs of processes that talk over a session make while
 * the other node is away: whoever makes more is not to be read ... */
#define PEER_BACKLOG_HIGH (64u << 20)
#define PEER_BACKLOG_LOW  (32u << 20) /* ... until it is below this again */

struct peers;
struct peer; /* a node, one incarnation; from peers_add or its own coming to peers_remove */

/* What every message begins with. to, from: process numbers; 0: the raylet itself. job: number of
 * that of the processes; 0: both are raylets. */
struct peer_header {
    uint32_t to, from;
    uint8_t type, spare[3];
    uint32_t route;
    uint32_t job;
} __attribute__((packed));
_Static_assert(sizeof(struct peer_header) == 20, "wire layout");

struct peers_config {
    struct loop *loop;         /* borrowed */
    struct rpc_bridge *bridge; /* borrowed */
    /* Borrowed, not started yet: sessions come to its port. NULL: nobody can dial this node, so it
     * holds a stream to each that it has ever exchanged a message with, or was called by. */
    struct rpc_server *server;
    const struct auth_token *token; /* copied */
    struct unique_id cluster, node; /* node names one incarnation of a raylet */
    uint32_t number;                /* of this node */
    const char *build;              /* copied: for logs of the other side; may be NULL */
    uint32_t idle_ms;               /* a stream without messages is closed; 0: 60,000 */
    uint32_t hello_ms;              /* a stream without the other's hello is cut; 0: 5,000 */
    uint32_t keepalive_ms;          /* a node that is silent this long twice is away; 0: 5,000 */

    /* A whole message; body is good until it returns. */
    void (*on_message)(void *arg,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size);
    /* A node that nobody has added came by itself, with the right token and cluster: it is a peer
     * from now on, before its first message; peers_remove here refuses it. May be NULL. */
    void (*on_peer)(void *arg, struct peer *p);
    /* Its backlog was above the high mark and is below the low one. May be NULL. */
    void (*on_room)(void *arg, struct peer *to);
    /* No session with that node (nil: one that did not say), for a reason that does not go away by
     * waiting: we refuse it, or it us. Once for each reason in turn; it is dialled on all the same.
     * May be NULL. */
    void (*on_refused)(void *arg, const struct unique_id *node, const struct err *why);
    /* That node was told that this one is dead: it takes nothing more of it. May be NULL. */
    void (*on_dead)(void *arg, struct peer *by);
    void *arg;
};

/* Its method is added to the server, if there is one. */
struct peers *peers_create(const struct peers_config *config);
/* Before the server and the bridge, which wait for what is left of its streams. The other sides
 * dial on until they hear that this node is dead. NULL is fine. */
void peers_destroy(struct peers *ps);

/* That node is there; nothing is dialled yet. Known already: its address is this one now. address:
 * an IP address or a host's name; port 0: it is not dialled, it dials. NULL: it was removed before,
 * or the number is another node's. */
struct peer *peers_add(struct peers *ps,
                       const struct unique_id *node,
                       uint32_t number,
                       const char *address,
                       int port);
/* That node is dead: nothing is delivered of it any more, what it did not get is dropped, and its
 * number is free; it cannot come again. p is freed. */
void peers_remove(struct peers *ps, struct peer *p);
/* That node, which may not be known yet, may have something for this one, which nobody can dial: it
 * is dialled. */
void peers_call(struct peers *ps, uint32_t number);
/* It dials, and is not dialled. */
bool peer_only_dials(const struct peer *p);
/* By node number; NULL: there is none. */
struct peer *peers_find(const struct peers *ps, uint32_t number);

/* Kept until it was acknowledged; sent by the next peers_flush. Copies; size <= FRAME_MESSAGE_MAX.
 * Never refused: who would send more than there is room for asks peer_has_room before. */
void peers_send(struct peer *p,
                enum frame_class class,
                const struct peer_header *h,
                const void *body,
                size_t size);
/* At each turn's end. */
void peers_flush(struct peers *ps);
/* Bytes that were not acknowledged yet. */
size_t peer_backlog(const struct peer *p);
/* False from the high mark on until on_room. */
bool peer_has_room(const struct peer *p);

/* All of them in turn: the one behind p, NULL or the last: the first. NULL: there is none. */
struct peer *peers_next(const struct peers *ps, const struct peer *p);
uint32_t peer_number(const struct peer *p);
const struct unique_id *peer_node(const struct peer *p);
void peer_set_data(struct peer *p, void *data);
void *peer_data(const struct peer *p);

struct peers_stats {
    unsigned n_peers, n_attached; /* attached: with a stream */
    uint64_t n_dials, n_breaks, n_refused;
};
void peers_stats(const struct peers *ps, struct peers_stats *out);

#endif /* RAYLET_PEER_H */
