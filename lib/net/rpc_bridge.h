/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_BRIDGE_H
#define LIB_NET_RPC_BRIDGE_H
/*
 * gRPC beside the loop (DESIGN D9). gRPC moves only while a thread waits on its completion queue:
 * the bridge is that one thread; it pops what is completed and hands it to the loop thread,
 * touching nothing else. All servers and clients of a daemon share one bridge, and all their
 * functions and callbacks belong to the loop thread. No fork without exec once a bridge was made.
 */
#include "lib/base/err.h"
#include "lib/net/loop.h"

struct rpc_bridge;

/* A token is at least "Bearer " and this many bytes; a reply or request at most these by default.
 */
#define RPC_MESSAGE_MAX (64u << 20)

struct rpc_bridge *rpc_bridge_create(struct loop *loop, struct err *err);
/* After all servers and clients. NULL is fine. */
void rpc_bridge_destroy(struct rpc_bridge *b);

#endif /* LIB_NET_RPC_BRIDGE_H */
