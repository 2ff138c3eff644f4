/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_ROUTER_H
#define RAYLET_ROUTER_H
/*
 * Frames between two processes over the raylet's links, with the same bodies as on a channel of
 * their own: on routes of pairs whose channel could not be made (a descriptor limit), and from any
 * process to any other by its number. A process is named by its slot. Pure
 * but for the send callback; loop thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/net/frame.h"

struct router;

/* Put a message into the link of that process. */
typedef void (*router_send_f)(void *arg,
                              uint32_t slot,
                              enum frame_class class,
                              uint8_t type,
                              uint32_t route,
                              const void *body,
                              size_t size);

struct router *router_create(router_send_f send, void *arg);
void router_destroy(struct router *r);
/* The route of this pair, a new one if it has none. Numbers are never used again. */
uint32_t router_bind(struct router *r, uint32_t owner, uint32_t worker);
/* 0: none. */
uint32_t router_find(const struct router *r, uint32_t owner, uint32_t worker);
/* A frame with a route came from this process. -1: malformed. One for a process that is gone is
 * dropped: its end was told by GOODBYE. */
int router_on_frame(struct router *r, uint32_t from, const struct frame *f, struct err *err);
/* A frame for a process by its number: sent on to slot `to` with this route, in one piece. -1:
 * malformed. */
int router_forward(struct router *r,
                   uint32_t from,
                   uint32_t to,
                   uint32_t route,
                   const struct frame *f,
                   struct err *err);
/* This process is gone: those at the other ends get GOODBYE. */
void router_unbind_process(struct router *r, uint32_t slot);

#endif /* RAYLET_ROUTER_H */
