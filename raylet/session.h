/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_SESSION_H
#define RAYLET_SESSION_H
/*
 * The session folder as Ray lays it out: <temp>/session_<Y-m-d_H-M-S_us>_<pid>/{logs,sockets},
 * private to the user, with a locked raylet.pid inside; <temp>/session_latest points to the newest.
 * A folder whose lock is free is stale. Of a node that `ray start` started the supervisor makes it,
 * with a supervisor.pid too (raylet/node_file.h), and looks after it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "lib/base/err.h"

#define SESSION_RAYLET     "raylet.pid"
#define SESSION_SUPERVISOR "supervisor.pid"

#define SESSION_PATH 256

/* A folder that is one's, by its name. */
struct session_folder {
    char dir[SESSION_PATH];
    time_t changed;
};

struct session {
    char temp[100], dir[180], logs[200];
    int lock_fd;
    bool is_ours; /* the folder: it is removed with the session */
};

/* temp NULL: RAY_TMPDIR, else /tmp/ray. -1 leaves nothing behind. */
int session_create(struct session *s, const char *temp, struct err *err);
/* The same, with this file for the lock. */
int session_create_locked(struct session *s, const char *temp, const char *file, struct err *err);
/* The same in this folder, which is made if it is not there; one that is must be this user's own,
 * and no live raylet's. */
int session_open(struct session *s, const char *dir, struct err *err);
/* From now on programs may come by its socket: the pid file says so, in a second line, and in a
 * third whose node it is (HOST:PORT, NULL: no cluster's), and if the head's. */
int session_open_to_programs(const struct session *s,
                             const char *gcs,
                             bool is_head,
                             struct err *err);
/* The pid in this file of a folder, SESSION_RAYLET or SESSION_SUPERVISOR; 0: who locked it is gone,
 * or has not written it yet. */
int session_pid(const char *dir, const char *file);
/* What was made: the folder and all in it, and session_latest if it points there. */
void session_remove(struct session *s);
/* Any such folder. */
void session_remove_folder(const char *temp, const char *dir);
/* This user's folders in temp, the newest first: a name begins with the time. To be freed. */
struct session_folder *session_list(const char *temp, size_t *n);
/* Remove stale folders of this user: of raylets that were killed; not those of supervisors. */
void session_sweep(const struct session *s);

#endif /* RAYLET_SESSION_H */
