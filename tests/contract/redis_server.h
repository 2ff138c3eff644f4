/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_CONTRACT_REDIS_SERVER_H
#define TESTS_CONTRACT_REDIS_SERVER_H
/*
 * A real redis-server on a socket in a folder of its own, which ends with the thread that began it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/remove_tree.h"

struct redis_server {
    char dir[64], path[96];
    pid_t pid;
};

/* The folder; no server runs. */
static inline void redis_server_init(struct redis_server *s)
{
    snprintf(s->dir, sizeof s->dir, "/tmp/ray-redis-XXXXXX");
    if (mkdtemp(s->dir) == NULL)
        abort();
    snprintf(s->path, sizeof s->path, "%s/redis.sock", s->dir);
    s->pid = 0;
}

/* With what the folder holds. Each answered change is in its file. */
static inline void redis_server_start(struct redis_server *s)
{
    s->pid = fork();
    if (s->pid != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (freopen("/dev/null", "w", stdout) == NULL || freopen("/dev/null", "w", stderr) == NULL)
        _exit(126);
    execlp("redis-server",
           "redis-server",
           "--port",
           "0",
           "--unixsocket",
           s->path,
           "--dir",
           s->dir,
           "--save",
           "",
           "--appendonly",
           "yes",
           "--appendfsync",
           "always",
           "--logfile",
           "redis.log",
           (char *)NULL);
    _exit(127);
}

static inline void redis_server_kill(struct redis_server *s)
{
    if (s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

static inline void redis_server_fini(struct redis_server *s)
{
    redis_server_kill(s);
    remove_tree(s->dir);
}

#endif /* TESTS_CONTRACT_REDIS_SERVER_H */
