/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_REDIS_H
#define CMD_RAY_REDIS_H
/*
 * The private redis-server of a head: its configuration in the session folder, which it is started
 * in, and the moment when its socket is there. Loop thread.
 */
#include "lib/base/err.h"
#include "lib/net/loop.h"

#define REDIS_PASSWORD_SIZE 65
#define REDIS_SOCKET        "./sockets/redis" /* from the session's folder: no path is too long */

/* A configuration of mode 0600 with a new random password: it listens on its socket alone, and
 * keeps what it answered. */
int redis_configure(const char *dir, char password[REDIS_PASSWORD_SIZE], struct err *err);

struct redis_watch;

/* on_there each time that its socket was made; never before this returns. */
struct redis_watch *redis_watch_create(struct loop *loop,
                                       const char *dir,
                                       loop_f on_there,
                                       void *arg,
                                       struct err *err);
void redis_watch_destroy(struct redis_watch *w); /* NULL is fine */

#endif /* CMD_RAY_REDIS_H */
