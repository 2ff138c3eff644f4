/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_CLIENT_H
#define RAYLET_CLIENT_H
/*
 * A `ray` command's way to a raylet of this machine: which sessions of this user live, and a link
 * to one over its socket (raylet/command_run.c). Every wait is bounded. One thread.
 */
#include <stddef.h>

#include "lib/base/err.h"
#include "lib/net/frame.h"
#include "lib/net/wire.h"
#include "raylet/session.h"

#define RAYLET_CLIENT_PATH SESSION_PATH

/* The folder of this user's newest session below temp whose raylet lives; *n_live (or NULL): how
 * many there are. -1 with ERR_NOT_FOUND: none, the sentence says where it was looked for. */
int raylet_client_find(const char *temp,
                       char dir[RAYLET_CLIENT_PATH],
                       unsigned *n_live,
                       struct err *err);

struct raylet_client;

/* Connect to the raylet of that session and be welcomed. NULL: err says why not. */
struct raylet_client *raylet_client_open(const char *session_dir, int timeout_ms, struct err *err);
void raylet_client_close(struct raylet_client *c); /* NULL is fine */
const struct wire_welcome *raylet_client_welcome(const struct raylet_client *c);
/* Queue a frame, sent by the next call of _next. 0 or -1. */
int raylet_client_send(struct raylet_client *c,
                       uint8_t type,
                       const void *body,
                       size_t size,
                       struct err *err);
/* The next frame within timeout_ms (0: what is there). 1: *f, its body good until the next call,
 * its fd the caller's. 0: none. -1: the link is over, err says why. */
int raylet_client_next(struct raylet_client *c, int timeout_ms, struct frame *f, struct err *err);

#endif /* RAYLET_CLIENT_H */
