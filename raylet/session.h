/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_SESSION_H
#define RAYLET_SESSION_H
/*
 * The session folder as Ray lays it out: <temp>/session_<Y-m-d_H-M-S_us>_<pid>/{logs,sockets},
 * private to the user, with a locked raylet.pid inside; <temp>/session_latest points to the newest.
 * A folder whose lock is free is stale.
 */
#include "lib/base/err.h"

struct session {
    char temp[100], dir[180], logs[200];
    int lock_fd;
};

/* temp NULL: RAY_TMPDIR, else /tmp/ray. -1 leaves nothing behind. */
int session_create(struct session *s, const char *temp, struct err *err);
/* Remove the folder and all in it, and session_latest if it points there. */
void session_remove(struct session *s);
/* Remove stale folders of this user: of raylets that were killed. */
void session_sweep(const struct session *s);

#endif /* RAYLET_SESSION_H */
