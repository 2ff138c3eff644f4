/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_ZYGOTE_H
#define RAYLET_ZYGOTE_H
/*
 * The raylet's end of the zygote: the one process of the job's executable that forks workers. It
 * starts one, asks for forks, tells what came of them, and starts another, more slowly each time,
 * when one dies. Loop thread; the ops run on frames and deaths, never from within a call.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/net/loop.h"
#include "lib/net/wire.h"

#define ZYGOTE_PARTS 4

struct zygote;

struct zygote_config {
    int executable_fd, board_fd, index_fd, arena_fd; /* borrowed */
    int folder_fd;                                   /* where it begins; -1: where we are */
    const char *environment; /* strings, each with its end, environment_size bytes; NULL: ours */
    size_t environment_size;
    const char *log_path;    /* its stdout and stderr */
    const char *session_dir; /* borrowed; removed by a zygote that outlives us; "": is not */
};

struct zygote_ops {
    /* pidfd is the callee's; -1: the fork failed, or no descriptor was left. */
    void (*spawned)(void *arg, const struct wire_spawned *w, int pidfd);
    void (*exited)(void *arg, int32_t pid, int status);
    /* It is gone and has been reaped; its workers are children of this process now, if they live,
     * and forks that were asked for will not be made. */
    void (*died)(void *arg);
};

/* NULL with err: its log file cannot be made. */
struct zygote *zygote_create(struct loop *loop,
                             const struct zygote_config *config,
                             const struct zygote_ops *ops,
                             void *arg,
                             struct err *err);
/* Forks asked for are not made; it is told to end its workers and itself, and killed if it has not
 * within end_ms: then it died. false: there is none, and died will not be called. */
bool zygote_stop(struct zygote *z, uint32_t end_ms);
/* The same, waiting for it; true: it has, false: it was killed. */
bool zygote_end(struct zygote *z, int end_ms);
void zygote_destroy(struct zygote *z);

/* One, now or as soon as the pause after a failure is over. -1: the executable cannot be run. */
int zygote_start(struct zygote *z, struct err *err);
/* Ask for a worker with these descriptors (link, stdout, stderr, control block), which are closed
 * in any case. Answered by spawned or died. -1 as zygote_start: no answer. */
int zygote_spawn(struct zygote *z,
                 uint64_t token,
                 uint32_t slot,
                 const int fds[ZYGOTE_PARTS],
                 struct err *err);
/* At the turn's end. */
void zygote_flush(struct zygote *z);
/* Why the last one could not serve, with what can be done about it; empty: nothing is known. */
const char *zygote_why(const struct zygote *z);

/* A child of the zygote or of this process, dead or alive, not reaped. */
bool zygote_is_parent(const struct zygote *z, int32_t pid);
/* Its pid; 0: none runs. */
int32_t zygote_pid(const struct zygote *z);
/* SIGKILL and reap all children of this process but those spared: what dead ones left behind came
 * to us, a subreaper. */
void zygote_sweep(const int32_t *spared, size_t n_spared);

#endif /* RAYLET_ZYGOTE_H */
