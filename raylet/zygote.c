/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. There is one zygote or, in the pause after a failed start, none; forks asked for
 * in the pause wait in a queue. A zygote that dies before its HELLO could not be a worker at all:
 * what it printed last is the best reason there is. The pause doubles with each failed start; that
 * the starts end is the worker pool's business.
 */
#include "raylet/zygote.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/process_stat.h"
#include "lib/net/unix_link.h"
#include "raylet/worker_log.h"

#define OUT_MAX      (16u << 20)
#define PAUSE_MS     10 /* after the first failed start; doubles */
#define PAUSE_SHIFTS 6
#define MODE         "RAY_WORKER_MODE="

struct queued {
    uint64_t token;
    uint32_t slot;
    int fds[ZYGOTE_PARTS];
};

struct zygote {
    unsigned magic;
    struct loop *loop;
    struct zygote_config config;
    const struct zygote_ops *ops;
    void *arg;
    pid_t pid; /* 0: none runs */
    struct unix_link *link;
    struct loop_watch *watch;
    struct worker_log log;
    off_t log_start; /* where this one's output begins */
    bool is_ready;   /* said HELLO */
    bool is_stopped; /* told to end */
    struct loop_timer *stopping;
    unsigned n_failed;
    struct loop_timer *pause;
    struct queued *queue;
    size_t n_queued;
    char why[400], said[240]; /* said: its own last ERROR */
};
#define ZYGOTE_MAGIC 0x5a59474fu

struct zygote *zygote_create(struct loop *loop,
                             const struct zygote_config *config,
                             const struct zygote_ops *ops,
                             void *arg,
                             struct err *err)
{
    struct zygote *z = xcalloc(1, sizeof *z);

    z->magic = ZYGOTE_MAGIC;
    z->loop = loop;
    z->config = *config;
    z->ops = ops;
    z->arg = arg;
    if (worker_log_create(&z->log, config->log_path, 2, err) != 0) {
        zygote_destroy(z);
        return NULL;
    }
    return z;
}

const char *zygote_why(const struct zygote *z)
{
    return z->why;
}

/* --- starting --- */

/* The job's environment with the mode variable; the array alone is to be freed. */
static char **make_env(const struct zygote_config *c, char *mode)
{
    size_t n = 0, k = 0;
    const char *end = c->environment != NULL ? c->environment + c->environment_size : NULL;

    if (c->environment == NULL)
        while (environ[n] != NULL)
            n++;
    for (const char *at = c->environment; at < end; at += strlen(at) + 1)
        n++;
    char **env = xcalloc(n + 2, sizeof *env);
    const char *at = c->environment;
    for (size_t i = 0; i < n; i++) {
        char *line = c->environment == NULL ? environ[i] : (char *)(uintptr_t)at;
        if (c->environment != NULL)
            at += strlen(at) + 1;
        if (strncmp(line, MODE, sizeof MODE - 1) != 0)
            env[k++] = line;
    }
    env[k] = mode;
    return env;
}

/* dup2 of a descriptor onto itself clears close-on-exec, in the child alone. */
static int spawn(struct zygote *z, int link_fd)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char path[64], mode[256];
    char *argv[] = {(char *)"ray::zygote", NULL};
    const int keep[] = {link_fd,
                        z->config.board_fd,
                        z->config.index_fd,
                        z->config.arena_fd,
                        z->config.executable_fd};

    snprintf(mode,
             sizeof mode,
             MODE "zygote:%d:%d:%d:%d:%s",
             link_fd,
             z->config.board_fd,
             z->config.index_fd,
             z->config.arena_fd,
             z->config.session_dir);
    snprintf(path, sizeof path, "/proc/self/fd/%d", z->config.executable_fd);
    char **env = make_env(&z->config, mode);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    for (size_t i = 0; i < sizeof keep / sizeof keep[0]; i++)
        posix_spawn_file_actions_adddup2(&fa, keep[i], keep[i]);
    if (z->config.folder_fd >= 0)
        posix_spawn_file_actions_addfchdir_np(&fa, z->config.folder_fd);
    posix_spawn_file_actions_adddup2(&fa, z->log.fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&fa, z->log.fd, STDERR_FILENO);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int rc = posix_spawn(&z->pid, path, &fa, &attr, argv, env);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    free(env);
    if (rc != 0)
        z->pid = 0;
    return rc;
}

static void on_link(void *arg, bool readable, bool writable);

static void send_spawn(struct zygote *z, const struct queued *q)
{
    for (uint32_t i = 0; i < ZYGOTE_PARTS; i++) {
        struct wire_spawn w = {.token = q->token, .part = i, .slot = q->slot};
        void *out = unix_link_reserve(z->link, FRAME_CONTROL, WIRE_SPAWN, 0, sizeof w);
        if (out == NULL) {
            close(q->fds[i]); /* it has stopped reading: the worker's start times out */
            continue;
        }
        memcpy(out, &w, sizeof w);
        unix_link_commit(z->link, sizeof w, q->fds[i]);
        if (unix_link_pending(z->link) > 32 * (16 + sizeof w))
            zygote_flush(z); /* few descriptors may wait in a link */
    }
}

static void drop_queue(struct zygote *z)
{
    for (size_t i = 0; i < z->n_queued; i++)
        for (int k = 0; k < ZYGOTE_PARTS; k++)
            close(z->queue[i].fds[k]);
    free(z->queue);
    z->queue = NULL;
    z->n_queued = 0;
}

static int start_now(struct zygote *z, struct err *err)
{
    struct stat st;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, "make a socket for the zygote");
    z->log_start = fstat(z->log.fd, &st) == 0 ? st.st_size : 0;
    int rc = spawn(z, pair[1]);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        errno = rc;
        if (rc == EACCES || rc == ENOEXEC)
            return err_sys(
                err,
                "run the program's file as a worker: make it executable again (chmod +x)");
        return err_sys(err, "run the program's file as a worker");
    }
    z->is_ready = false;
    z->said[0] = '\0';
    z->link = unix_link_create(pair[0], OUT_MAX);
    if (z->link == NULL)
        close(pair[0]);
    z->watch = z->link != NULL ? loop_watch_fd(z->loop, pair[0], on_link, z) : NULL;
    if (z->watch == NULL) {
        unix_link_destroy(z->link);
        z->link = NULL;
        kill(z->pid, SIGKILL);
        waitpid(z->pid, NULL, 0);
        z->pid = 0;
        return err_set(err, ERR_NO_MEMORY, "no memory for the zygote's link");
    }
    for (size_t i = 0; i < z->n_queued; i++)
        send_spawn(z, &z->queue[i]);
    free(z->queue);
    z->queue = NULL;
    z->n_queued = 0;
    return 0;
}

static void on_pause_over(void *arg)
{
    struct zygote *z = arg;
    struct err err;

    CHECK_MAGIC(z, ZYGOTE_MAGIC);
    loop_timer_end(z->pause);
    z->pause = NULL;
    if (z->n_queued == 0)
        return; /* nobody wants one: the next spawn starts it */
    if (start_now(z, &err) == 0) {
        zygote_flush(z);
        return;
    }
    snprintf(z->why, sizeof z->why, "%s", err.text);
    drop_queue(z);
    z->ops->died(z->arg);
}

int zygote_start(struct zygote *z, struct err *err)
{
    struct err own;

    if (err == NULL)
        err = &own;
    if (z->is_stopped)
        return err_set(err, ERR_CANCELED, "the job has ended");
    if (z->pid > 0 || z->pause != NULL)
        return 0;
    if (start_now(z, err) == 0)
        return 0;
    snprintf(z->why, sizeof z->why, "%s", err->text);
    return -1;
}

int zygote_spawn(struct zygote *z,
                 uint64_t token,
                 uint32_t slot,
                 const int fds[ZYGOTE_PARTS],
                 struct err *err)
{
    struct queued q = {.token = token, .slot = slot};

    memcpy(q.fds, fds, sizeof q.fds);
    if (zygote_start(z, err) != 0) {
        for (int i = 0; i < ZYGOTE_PARTS; i++)
            close(fds[i]);
        return -1;
    }
    if (z->link != NULL) {
        send_spawn(z, &q);
        return 0;
    }
    z->queue = xrealloc(z->queue, (z->n_queued + 1) * sizeof *z->queue);
    z->queue[z->n_queued++] = q;
    return 0;
}

void zygote_flush(struct zygote *z)
{
    if (z->link != NULL && unix_link_pending(z->link) > 0)
        loop_want_write(z->watch, unix_link_flush(z->link, NULL) == 0);
}

/* --- ending --- */

static void close_link(struct zygote *z)
{
    loop_unwatch(z->watch);
    unix_link_destroy(z->link);
    z->watch = NULL;
    z->link = NULL;
}

/* It never served: the reason as a sentence. */
static void explain(struct zygote *z, int status)
{
    char last[200] = "", how[80];
    const char *load = NULL;
    struct stat st;

    if (z->said[0] != '\0') {
        snprintf(z->why, sizeof z->why, "%s", z->said);
        return;
    }
    if (fstat(z->log.fd, &st) == 0 && st.st_size > z->log_start)
        worker_log_tail(&z->log, last, sizeof last);
    if (strncmp(last, "ray: ", 5) == 0) { /* libray's own words say what to do */
        snprintf(z->why, sizeof z->why, "%s", last);
        return;
    }
    load = strstr(last, "error while loading shared libraries");
    if (load != NULL) {
        snprintf(z->why, sizeof z->why, "install the library or set LD_LIBRARY_PATH: %s", load);
        return;
    }
    if (WIFSIGNALED(status))
        snprintf(how,
                 sizeof how,
                 "is killed by signal %d (%s)",
                 WTERMSIG(status),
                 err_signal_name(WTERMSIG(status)));
    else
        snprintf(how, sizeof how, "exits with status %d", WEXITSTATUS(status));
    /* the fix first: a long last line may be cut */
    snprintf(z->why,
             sizeof z->why,
             "the program %s before main; what runs before main must let workers live; it says: %s",
             how,
             last[0] != '\0' ? last : "nothing");
}

static void on_dead(struct zygote *z, const char *how)
{
    int status = 0;
    pid_t pid = z->pid;

    close_link(z);
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    z->pid = 0;
    if (z->is_stopped) {
        loop_timer_end(z->stopping);
        z->stopping = NULL;
        z->ops->died(z->arg);
        return;
    }
    log_warn("zygote",
             "ended",
             "pid=%d status=0x%x ready=%d why=\"%s\"",
             pid,
             status,
             z->is_ready,
             how);
    if (!z->is_ready || z->said[0] != '\0') {
        explain(z, status);
        unsigned shift = z->n_failed < PAUSE_SHIFTS ? z->n_failed : PAUSE_SHIFTS;
        z->n_failed++;
        z->pause = loop_after(z->loop, PAUSE_MS << shift, on_pause_over, z);
    }
    z->ops->died(z->arg);
}

/* true: the frame's descriptor has been taken. */
static bool on_frame(struct zygote *z, const struct frame *f)
{
    struct wire_spawned spawned;
    struct wire_exited exited;

    if (f->h.type == WIRE_HELLO) {
        z->is_ready = true;
    } else if (f->h.type == WIRE_SPAWNED && f->body_size >= sizeof spawned) {
        memcpy(&spawned, f->body, sizeof spawned);
        if (spawned.pid > 0)
            z->n_failed = 0;
        z->ops->spawned(z->arg, &spawned, f->fd);
        return true;
    } else if (f->h.type == WIRE_EXITED && f->body_size >= sizeof exited) {
        memcpy(&exited, f->body, sizeof exited);
        z->ops->exited(z->arg, exited.pid, exited.status);
    } else if (f->h.type == WIRE_ERROR && f->body_size > sizeof(struct wire_error)) {
        size_t n = f->body_size - sizeof(struct wire_error);
        snprintf(z->said,
                 sizeof z->said,
                 "%.*s",
                 (int)n,
                 (const char *)f->body + sizeof(struct wire_error));
    }
    return false;
}

static void on_link(void *arg, bool readable, bool writable)
{
    struct zygote *z = arg;
    struct frame f;
    struct err err = {0};
    int rc;

    CHECK_MAGIC(z, ZYGOTE_MAGIC);
    if (writable)
        zygote_flush(z);
    if (!readable)
        return;
    long n = unix_link_read(z->link, &err);
    while ((rc = unix_link_next(z->link, &f, &err)) == 1) {
        if (!on_frame(z, &f) && f.fd >= 0)
            close(f.fd);
    }
    if (n < 0 || rc < 0)
        on_dead(z, err.text);
}

static void on_late(void *arg)
{
    struct zygote *z = arg;

    CHECK_MAGIC(z, ZYGOTE_MAGIC);
    kill(z->pid, SIGKILL); /* its link ends with it */
}

bool zygote_stop(struct zygote *z, uint32_t end_ms)
{
    if (z->is_stopped)
        return z->pid > 0;
    z->is_stopped = true;
    loop_timer_end(z->pause);
    z->pause = NULL;
    drop_queue(z);
    if (z->pid <= 0)
        return false;
    kill(z->pid, SIGTERM);
    z->stopping = loop_after(z->loop, end_ms, on_late, z);
    if (z->stopping == NULL)
        kill(z->pid, SIGKILL);
    return true;
}

bool zygote_end(struct zygote *z, int end_ms)
{
    if (z->pid <= 0)
        return true;
    int fd = (int)syscall(SYS_pidfd_open, z->pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int rc = -1;

    kill(z->pid, SIGTERM);
    if (fd >= 0) {
        do
            rc = poll(&p, 1, end_ms);
        while (rc < 0 && errno == EINTR);
        close(fd);
    }
    if (rc <= 0)
        kill(z->pid, SIGKILL);
    while (waitpid(z->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    z->pid = 0;
    close_link(z);
    return rc > 0;
}

void zygote_destroy(struct zygote *z)
{
    if (z == NULL)
        return;
    CHECK_MAGIC(z, ZYGOTE_MAGIC);
    zygote_end(z, 0);
    loop_timer_end(z->pause);
    loop_timer_end(z->stopping);
    drop_queue(z);
    worker_log_close(&z->log);
    z->magic = 0;
    free(z);
}

/* --- what is left --- */

bool zygote_is_parent(const struct zygote *z, int32_t pid)
{
    pid_t parent = process_parent(pid, NULL);

    return parent == getpid() || (z != NULL && parent > 0 && parent == z->pid);
}

int32_t zygote_pid(const struct zygote *z)
{
    return z->pid;
}

/* What is our child keeps its number until we reap it. How many there were. */
static unsigned kill_children(const int32_t *spared, size_t n_spared)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    pid_t self = getpid();
    unsigned n = 0;

    if (d == NULL)
        return 0;
    while ((e = readdir(d)) != NULL) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        size_t i = 0;
        while (i < n_spared && spared[i] != pid)
            i++;
        if (pid <= 0 || i < n_spared || process_parent(pid, NULL) != self)
            continue;
        n++;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, WNOHANG);
    }
    closedir(d);
    return n;
}

void zygote_sweep(const int32_t *spared, size_t n_spared)
{
    uint64_t end_ms = loop_now_ms() + 500; /* one that does not die hangs in the kernel */

    /* the end of one makes its own children ours: again until there is none */
    while (kill_children(spared, n_spared) > 0 && loop_now_ms() < end_ms)
        poll(NULL, 0, 1);
}
