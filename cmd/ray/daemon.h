/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_DAEMON_H
#define CMD_RAY_DAEMON_H
/*
 * One program that a supervisor runs: started with a death signal, so that it ends when the
 * supervisor does; its output in a file; says that it is ready on a pipe; watched by a pidfd.
 * Loop thread of a process that has no other thread.
 */
#include <stdbool.h>
#include <sys/types.h>

#include "lib/base/err.h"
#include "lib/net/loop.h"

#define DAEMON_READY_FD 3 /* in the program; "--ready-fd=3" */

struct daemon;

struct daemon_config {
    struct loop *loop; /* borrowed */
    const char *name;  /* borrowed; its output goes to <dir>/logs/<name>.out and .err */
    const char *dir;   /* borrowed; its working folder */
    bool has_ready_fd; /* it says there when it is ready */
    /* A line that it said on the pipe, without the newline. */
    void (*on_line)(void *arg, const char *line);
    /* It ended, as waitpid has it. */
    void (*on_end)(void *arg, int status);
    void *arg;
};

struct daemon *daemon_create(const struct daemon_config *config);
/* Kills it. NULL is fine. */
void daemon_destroy(struct daemon *d);

/* path with these arguments (argv[0] too) in this environment. -1: it cannot be started, nothing
 * runs. Only while it does not run. */
int daemon_start(struct daemon *d,
                 const char *path,
                 char *const *argv,
                 char *const *environment,
                 struct err *err);
void daemon_signal(struct daemon *d, int signo); /* nothing if it does not run */
bool daemon_is_running(const struct daemon *d);
pid_t daemon_pid(const struct daemon *d); /* 0: it does not run */

/* "exited with status 1", "was killed by signal 9 (Killed)". */
void daemon_say_status(int status, char *out, size_t size);

#endif /* CMD_RAY_DAEMON_H */
