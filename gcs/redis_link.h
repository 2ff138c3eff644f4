/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_REDIS_LINK_H
#define GCS_REDIS_LINK_H
/*
 * One connection to a Redis server: commands out, replies in, in order. It never blocks, believes
 * nothing of what it reads and ends with a sentence. Loop thread.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/host_port.h"
#include "lib/net/loop.h"

struct redis_link;
struct redisReply;

/* A path (it begins with '/') or host:port. */
struct redis_address {
    char path[108]; /* "" if host and port */
    struct host_port at;
};

/* One for each command, in order; the reply is the link's. */
typedef void (*redis_reply_f)(void *arg, const struct redisReply *reply);
/* The connection is over, or never was: destroy the link. Never during redis_link_create. */
typedef void (*redis_end_f)(void *arg, const char *why);

int redis_address_parse(const char *text, struct redis_address *out, struct err *err);

struct redis_link *redis_link_create(struct loop *loop,
                                     const struct redis_address *address,
                                     redis_reply_f reply,
                                     redis_end_f end,
                                     void *arg);
/* No callback comes any more; also from a callback. NULL is fine. */
void redis_link_destroy(struct redis_link *l);

/* Queue a command of n parts; copies. */
void redis_link_command(struct redis_link *l,
                        size_t n,
                        const void *const parts[],
                        const size_t sizes[]);
/* Write what is queued. */
void redis_link_flush(struct redis_link *l);
/* Loop time of the last byte from the server, of the connect before. */
uint64_t redis_link_heard_ms(const struct redis_link *l);

#endif /* GCS_REDIS_LINK_H */
