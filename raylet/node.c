/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A process is a driver or worker with a link; its slot on the board is its handle
 * in lease.c, a worker's token its handle in worker_pool.c. Handlers feed one event to a deciding
 * module and leave its actions in the list; node_turn_end carries out all actions, then flushes
 * each link once. A worker's life: SPAWN sent to the zygote -> SPAWNED (pid, logs get their names)
 * -> HELLO (registered) -> leases -> EXITED (reaped by the zygote, its orphans killed).
 */
#include "raylet/node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/net/control_block.h"
#include "lib/net/unix_link.h"
#include "lib/net/wire.h"
#include "raylet/lease.h"
#include "raylet/session.h"
#include "raylet/worker_log.h"
#include "raylet/worker_pool.h"

extern char **environ;

#define TICK_MS      100
#define OUT_MAX      (16u << 20)  /* a peer that does not read is cut off beyond this */
#define LOG_PENDING  (256u << 10) /* a driver that does not read stops its logs, not the tasks */
#define ZYGOTE_TRIES 5
#define WORKERS_MAX  (BOARD_SLOTS - 1)
#define END_MS       1000
#define NO_PROCESS   UINT32_MAX

struct process {
    unsigned magic;
    struct node *node;
    uint32_t slot;
    enum wire_kind kind;
    bool registered, exited, cut;
    int32_t pid; /* 0 until SPAWNED */
    uint64_t token;
    struct unique_id id;
    struct unix_link *link;
    struct loop_watch *watch;
    struct control_block *control;
    struct worker_log logs[2];
    int log_wd[2];
    uint64_t channels[BOARD_SLOTS / 64]; /* of a worker: owners it has a channel to */
    char log_base[300];
};
#define PROCESS_MAGIC 0x50524f43u

struct node {
    struct loop *loop;
    struct node_config config;
    struct resources resources;
    struct session session;
    struct lease_table *leases;
    struct lease_actions lease_actions;
    struct worker_pool *pool;
    struct worker_pool_actions pool_actions;
    struct process *processes[BOARD_SLOTS];
    struct process *driver;
    struct unique_id cluster, id;
    uint32_t last_process;
    int board_fd, pidfd, inotify_fd;
    struct loop_watch *pidfd_watch, *inotify_watch, *signals[3];
    struct loop_timer *tick;
    /* zygote */
    pid_t zygote_pid;
    struct unix_link *zygote;
    struct loop_watch *zygote_watch;
    struct worker_log zygote_log;
    unsigned zygote_failures;
    bool zygote_ready;
    bool logs_stalled, swept;
    uint64_t start_ms;
};

static void end_zygote(struct node *n, const char *why);

static void say_error(struct process *p, enum err_code code, const char *text)
{
    uint8_t buf[sizeof(struct wire_error) + 256];
    struct wire_error w = {.code = code};
    size_t len = strnlen(text, 255);

    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, text, len);
    if (p->link != NULL
        && unix_link_send(p->link, FRAME_CONTROL, WIRE_ERROR, 0, buf, sizeof w + len) == 0)
        unix_link_flush(p->link, NULL);
}

static void send_to(struct process *p, uint8_t type, const void *body, size_t size)
{
    if (p == NULL || p->link == NULL)
        return;
    if (unix_link_send(p->link,
                       type == WIRE_LOG ? FRAME_BODIES : FRAME_CONTROL,
                       type,
                       0,
                       body,
                       size)
            != 0
        && !p->cut) {
        log_err("node",
                "peer_does_not_read",
                "pid=%d pending=%zu",
                p->pid,
                unix_link_pending(p->link));
        p->cut = true;
    }
}

static void send_fd(struct process *p, uint8_t type, const void *body, size_t size, int fd)
{
    void *out = p->link != NULL ? unix_link_reserve(p->link, FRAME_CONTROL, type, 0, size) : NULL;

    if (out == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    memcpy(out, body, size);
    unix_link_commit(p->link, size, fd);
}

/* --- processes --- */

static void on_readable(void *arg, bool readable, bool writable);

static struct process *add_process(struct node *n, enum wire_kind kind, int fd)
{
    uint32_t slot = 0;

    while (slot < BOARD_SLOTS && n->processes[slot] != NULL)
        slot++;
    if (slot == BOARD_SLOTS)
        return NULL;
    struct process *p = xcalloc(1, sizeof *p);
    p->magic = PROCESS_MAGIC;
    p->node = n;
    p->slot = slot;
    p->kind = kind;
    p->logs[0].fd = p->logs[1].fd = -1;
    p->log_wd[0] = p->log_wd[1] = -1;
    p->link = unix_link_create(fd, OUT_MAX);
    if (p->link == NULL || unique_id_random(&p->id) != 0
        || (p->watch = loop_watch_fd(n->loop, fd, on_readable, p)) == NULL) {
        unix_link_destroy(p->link);
        free(p);
        return NULL;
    }
    n->processes[slot] = p;
    return p;
}

static void close_link(struct process *p)
{
    loop_unwatch(p->watch);
    p->watch = NULL;
    unix_link_destroy(p->link);
    p->link = NULL;
}

static void free_process(struct process *p)
{
    struct node *n = p->node;

    close_link(p);
    for (int i = 0; i < 2; i++) {
        if (p->log_wd[i] >= 0)
            inotify_rm_watch(n->inotify_fd, p->log_wd[i]);
        worker_log_close(&p->logs[i]);
    }
    if (p->control != NULL)
        munmap(p->control, sizeof *p->control);
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL)
            n->processes[s]->channels[p->slot / 64] &= ~(1ull << p->slot % 64);
    n->processes[p->slot] = NULL;
    if (n->driver == p)
        n->driver = NULL;
    p->magic = 0;
    free(p);
}

static struct process *by_token(struct node *n, uint64_t token)
{
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL && n->processes[s]->kind == WIRE_WORKER
            && n->processes[s]->token == token)
            return n->processes[s];
    return NULL;
}

static struct process *by_pid(struct node *n, int32_t pid)
{
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL && n->processes[s]->kind == WIRE_WORKER
            && n->processes[s]->pid == pid)
            return n->processes[s];
    return NULL;
}

/* --- logs --- */

static void on_lines(void *arg, const struct worker_log *log, const char *text, size_t size)
{
    static uint8_t buf[FRAME_SIZE_MAX + 256];
    struct process *p = arg;
    struct wire_log w = {.pid = p->pid, .stream = log->stream};
    size_t n = strlen(log->name) + 1;

    if (log->name[0] == '\0')
        return; /* before the first task: of no interest at the terminal */
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, log->name, n);
    memcpy(buf + sizeof w + n, text, size);
    send_to(p->node->driver, WIRE_LOG, buf, sizeof w + n + size);
}

static bool driver_reads(const struct node *n)
{
    return n->driver != NULL && n->driver->link != NULL
           && unix_link_pending(n->driver->link) < LOG_PENDING;
}

static void read_logs(struct process *p, bool last)
{
    struct node *n = p->node;

    if (!n->config.log_to_driver)
        return;
    for (int i = 0; i < 2; i++)
        while (driver_reads(n) || last) {
            if (!worker_log_read(&p->logs[i], last, on_lines, p))
                break;
            if (last && !driver_reads(n))
                break; /* the rest is in the file */
        }
    if (!driver_reads(n))
        n->logs_stalled = true;
}

static void on_inotify(void *arg, bool readable, bool writable)
{
    struct node *n = arg;
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(n->inotify_fd, buf, sizeof buf);

    (void)readable;
    (void)writable;
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *e = (const void *)(buf + at);
        at += (ssize_t)(sizeof *e + e->len);
        for (uint32_t s = 0; s < BOARD_SLOTS; s++) {
            struct process *p = n->processes[s];
            if (p != NULL && (p->log_wd[0] == e->wd || p->log_wd[1] == e->wd))
                read_logs(p, false);
        }
    }
}

/* --- the zygote --- */

static void on_zygote(void *arg, bool readable, bool writable);

static int start_zygote(struct node *n, struct err *err)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int pair[2], rc;
    char path[64], mode[256];
    size_t n_env = 0, k = 0;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, "make a socket for the zygote");
    while (environ[n_env] != NULL)
        n_env++;
    char **env = xcalloc(n_env + 2, sizeof *env);
    for (size_t i = 0; i < n_env; i++)
        if (strncmp(environ[i], "RAY_WORKER_MODE=", 16) != 0)
            env[k++] = environ[i];
    snprintf(mode,
             sizeof mode,
             "RAY_WORKER_MODE=zygote:%d:%d:%s",
             pair[1],
             n->board_fd,
             n->session.dir);
    env[k] = mode;
    snprintf(path, sizeof path, "/proc/self/fd/%d", n->config.executable_fd);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_adddup2(&fa, pair[1], pair[1]);
    posix_spawn_file_actions_adddup2(&fa, n->board_fd, n->board_fd);
    posix_spawn_file_actions_adddup2(&fa, n->config.executable_fd, n->config.executable_fd);
    posix_spawn_file_actions_adddup2(&fa, n->zygote_log.fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&fa, n->zygote_log.fd, STDERR_FILENO);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    char *argv[] = {(char *)"ray::zygote", NULL};
    rc = posix_spawn(&n->zygote_pid, path, &fa, &attr, argv, env);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    free(env);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        n->zygote_pid = 0;
        errno = rc;
        return err_sys(err,
                       "run the program's executable as a worker: it must still be executable");
    }
    n->zygote = unix_link_create(pair[0], OUT_MAX);
    n->zygote_ready = false;
    n->zygote_watch = n->zygote != NULL ? loop_watch_fd(n->loop, pair[0], on_zygote, n) : NULL;
    if (n->zygote_watch == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the zygote's link");
    return 0;
}

/* Hand a new worker's four descriptors to the zygote. */
static int spawn_worker(struct node *n, uint64_t token, struct err *err)
{
    int pair[2], control = -1;
    char path[320];

    if (n->zygote == NULL && start_zygote(n, err) != 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, "make a socket for a worker");
    struct process *p = add_process(n, WIRE_WORKER, pair[0]);
    if (p == NULL) {
        close(pair[1]);
        return err_set(err, ERR_FULL, "a node has at most %d processes", BOARD_SLOTS);
    }
    p->token = token;
    for (int i = 0; i < 2; i++) {
        snprintf(path,
                 sizeof path,
                 "%s/.starting-%llu.%s",
                 n->session.logs,
                 (unsigned long long)token,
                 i == 0 ? "out" : "err");
        if (worker_log_create(&p->logs[i], path, (uint32_t)i + 1, err) != 0)
            goto fail;
    }
    control = memfd_create("ray-control", MFD_CLOEXEC);
    if (control < 0 || ftruncate(control, sizeof *p->control) != 0) {
        err_sys(err, "make a control block");
        goto fail;
    }
    p->control = mmap(NULL, sizeof *p->control, PROT_READ | PROT_WRITE, MAP_SHARED, control, 0);
    if (p->control == MAP_FAILED) {
        p->control = NULL;
        err_sys(err, "map a control block");
        goto fail;
    }
    int fds[4] = {pair[1], dup(p->logs[0].fd), dup(p->logs[1].fd), control};
    for (uint32_t i = 0; i < 4; i++) {
        struct wire_spawn w = {.token = token, .part = i, .slot = p->slot};
        void *out = unix_link_reserve(n->zygote, FRAME_CONTROL, WIRE_SPAWN, 0, sizeof w);
        if (out == NULL) {
            close(fds[i]);
            continue;
        }
        memcpy(out, &w, sizeof w);
        unix_link_commit(n->zygote, sizeof w, fds[i]);
    }
    return 0;
fail:
    if (control >= 0)
        close(control);
    close(pair[1]);
    free_process(p);
    return -1;
}

static void describe_death(const struct process *p, int status, char *out, size_t size)
{
    int n;

    if (WIFSIGNALED(status))
        n = snprintf(out,
                     size,
                     "worker pid=%d was killed by signal %d (%s)",
                     p->pid,
                     WTERMSIG(status),
                     strsignal(WTERMSIG(status)));
    else
        n = snprintf(out, size, "worker pid=%d exited with status %d", p->pid, WEXITSTATUS(status));
    /* its log behind the sentence */
    if (n > 0 && (size_t)n + 1 < size)
        snprintf(out + n + 1, size - (size_t)n - 1, "%s.err", p->log_base);
}

static void run_lease_actions(struct node *n, int status, const struct process *dead);

/* Its process has been reaped: tell owners, forget it. */
static void worker_gone(struct process *p, int status)
{
    struct node *n = p->node;
    uint64_t now = loop_now_ms(), token = p->token;

    p->exited = true;
    read_logs(p, true);
    log_info("node", "worker_exited", "pid=%d status=0x%x", p->pid, status);
    lease_worker_died(n->leases, p->slot, now, &n->lease_actions);
    run_lease_actions(n, status, p); /* the notices need the control block */
    lease_owner_died(n->leases, p->slot, now, &n->lease_actions);
    free_process(p);
    worker_pool_on_exit(n->pool, token, now, &n->pool_actions);
}

static void on_spawned(struct node *n, const struct wire_spawned *w)
{
    struct process *p = by_token(n, w->token);
    char id[ID_HEX_MAX], path[320];

    if (p == NULL)
        return;
    if (w->pid <= 0) {
        log_err("node", "fork_failed", "errno=%d msg=\"%s\"", w->error, strerror(w->error));
        worker_gone(p, 0);
        return;
    }
    p->pid = w->pid;
    id_hex(p->id.bytes, sizeof p->id.bytes, id);
    snprintf(p->log_base,
             sizeof p->log_base,
             "%s/worker-%s-01000000-%d",
             n->session.logs,
             id,
             w->pid);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s.%s", p->log_base, i == 0 ? "out" : "err");
        worker_log_rename(&p->logs[i], path);
        if (n->config.log_to_driver)
            p->log_wd[i] = inotify_add_watch(n->inotify_fd, path, IN_MODIFY);
    }
}

static void on_zygote(void *arg, bool readable, bool writable)
{
    struct node *n = arg;
    struct frame f;
    struct err err = {0};

    if (writable)
        loop_want_write(n->zygote_watch, unix_link_flush(n->zygote, &err) == 0);
    if (!readable)
        return;
    long got = unix_link_read(n->zygote, &err);
    while (n->zygote != NULL && unix_link_next(n->zygote, &f, &err) == 1) {
        if (f.h.type == WIRE_HELLO) {
            n->zygote_ready = true;
            n->zygote_failures = 0;
        } else if (f.h.type == WIRE_SPAWNED && f.body_size >= sizeof(struct wire_spawned)) {
            struct wire_spawned w;
            memcpy(&w, f.body, sizeof w);
            on_spawned(n, &w);
        } else if (f.h.type == WIRE_EXITED && f.body_size >= sizeof(struct wire_exited)) {
            struct wire_exited w;
            memcpy(&w, f.body, sizeof w);
            struct process *p = by_pid(n, w.pid);
            if (p != NULL)
                worker_gone(p, w.status);
        }
        if (f.fd >= 0)
            close(f.fd);
    }
    if (got < 0)
        end_zygote(n, err.text);
}

/* Kill what was reparented to us: children that are not the zygote. */
static int sweep_children(pid_t except)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    pid_t self = getpid();
    int k = 0;

    if (d == NULL)
        return 0;
    while ((e = readdir(d)) != NULL) {
        char path[300], line[512], state = 0;
        int pid = (int)strtol(e->d_name, NULL, 10), ppid = 0;
        if (pid <= 0 || pid == except)
            continue;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t len = read(fd, line, sizeof line - 1);
        close(fd);
        line[len > 0 ? len : 0] = '\0';
        const char *p = strrchr(line, ')');
        if (p == NULL || sscanf(p + 1, " %c %d", &state, &ppid) != 2 || ppid != self
            || state == 'Z')
            continue;
        kill(pid, SIGKILL);
        k++;
    }
    closedir(d);
    return k;
}

/* The zygote is gone: its workers die with it (their parent-death signal) and become ours to reap.
 */
static void end_zygote(struct node *n, const char *why)
{
    int status = 0;
    char tail[128];

    log_warn("node", "zygote_ended", "pid=%d why=\"%s\"", n->zygote_pid, why);
    loop_unwatch(n->zygote_watch);
    unix_link_destroy(n->zygote);
    n->zygote_watch = NULL;
    n->zygote = NULL;
    kill(n->zygote_pid, SIGKILL);
    waitpid(n->zygote_pid, &status, 0);
    n->zygote_pid = 0;
    for (uint32_t s = 0; s < BOARD_SLOTS; s++) {
        struct process *p = n->processes[s];
        if (p == NULL || p->kind != WIRE_WORKER)
            continue;
        int st = SIGKILL;
        if (p->pid > 0) {
            kill(p->pid, SIGKILL);
            if (waitpid(p->pid, &st, 0) != p->pid)
                st = SIGKILL;
        }
        worker_gone(p, st);
    }
    for (int i = 0; i < 100 && sweep_children(0) > 0; i++)
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    if (n->zygote_ready || ++n->zygote_failures < ZYGOTE_TRIES)
        return;
    n->zygote_failures = 0;
    worker_log_tail(&n->zygote_log, tail, sizeof tail);
    log_err("node", "zygote_does_not_start", "status=0x%x tail=\"%s\"", status, tail);
}

/* --- links --- */

static void welcome(struct process *p)
{
    struct node *n = p->node;
    uint8_t buf[sizeof(struct wire_welcome) + 1024];
    struct wire_welcome w = {.protocol = WIRE_PROTOCOL,
                             .job = 1,
                             .process = ++n->last_process,
                             .n_cpus = (uint32_t)n->config.num_cpus,
                             .cluster = n->cluster,
                             .node = n->id,
                             .worker = p->id,
                             .slot = p->slot};
    size_t size = sizeof w;
    const char *strings[] = {n->session.dir, "head", p->log_base};

    snprintf(w.build, sizeof w.build, "ray-c 0.1");
    memcpy(buf, &w, sizeof w);
    for (int i = 0; i < 3; i++) {
        size_t k = strlen(strings[i]) + 1;
        memcpy(buf + size, strings[i], k);
        size += k;
    }
    send_fd(p, WIRE_WELCOME, buf, size, p->kind == WIRE_DRIVER ? dup(n->board_fd) : -1);
}

static void on_hello(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_hello h;

    if (size < sizeof h || p->registered) {
        say_error(p, ERR_PROTOCOL, "malformed HELLO");
        p->cut = true;
        return;
    }
    memcpy(&h, body, sizeof h);
    if (h.protocol != WIRE_PROTOCOL) {
        say_error(p,
                  ERR_VERSION,
                  "libray and raylet are of different versions: install one of them again");
        p->cut = true;
        return;
    }
    if (p->kind == WIRE_WORKER
        && (h.token != p->token
            || !worker_pool_on_registered(n->pool, h.token, loop_now_ms(), &n->pool_actions))) {
        say_error(p, ERR_PROTOCOL, "unknown start-up token");
        p->cut = true;
        return;
    }
    if (p->kind == WIRE_DRIVER)
        p->pid = h.pid;
    p->registered = true;
    welcome(p);
}

static void on_request(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_lease_request w;
    struct res_set need;
    struct err err;
    char name[48];

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.n_resources > RESOURCES_MAX
        || size < sizeof w + w.n_resources * sizeof(struct wire_resource) || w.count > 4096) {
        say_error(p, ERR_PROTOCOL, "malformed LEASE_REQUEST");
        p->cut = true;
        return;
    }
    memset(&need, 0, sizeof need);
    for (uint32_t i = 0; i < w.n_resources; i++) {
        struct wire_resource r;
        memcpy(&r, body + sizeof w + i * sizeof r, sizeof r);
        r.name[sizeof r.name - 1] = '\0';
        if (res_set_add(&need, &n->resources, r.name, r.units, &err) != 0) {
            uint8_t buf[sizeof(struct wire_lease_refused) + 200];
            struct wire_lease_refused refused = {.ticket = w.ticket,
                                                 .count = w.count,
                                                 .code = err.code};
            memcpy(buf, &refused, sizeof refused);
            size_t len = strlen(err.text);
            memcpy(buf + sizeof refused, err.text, len);
            send_to(p, WIRE_LEASE_REFUSED, buf, sizeof refused + len);
            return;
        }
    }
    size_t at = sizeof w + w.n_resources * sizeof(struct wire_resource);
    snprintf(name, sizeof name, "%.*s", (int)(size - at), (const char *)body + at);
    lease_request(n->leases,
                  p->slot,
                  w.ticket,
                  w.count,
                  &need,
                  name,
                  loop_now_ms(),
                  &n->lease_actions);
}

static void on_info(struct process *p)
{
    struct node *n = p->node;
    uint8_t buf[sizeof(struct wire_info_reply) + RESOURCES_MAX * sizeof(struct wire_info_resource)];
    struct worker_pool_stats stats;
    size_t size = sizeof(struct wire_info_reply);

    worker_pool_get_stats(n->pool, &stats);
    struct wire_info_reply w = {.n_nodes = 1,
                                .n_workers = stats.n_idle + stats.n_leased,
                                .n_resources = n->resources.n,
                                .start_ms = n->start_ms};
    memcpy(buf, &w, sizeof w);
    for (unsigned i = 0; i < n->resources.n; i++) {
        struct wire_info_resource r = {.total = n->resources.total[i],
                                       .available = n->resources.available[i]};
        memcpy(r.name, n->resources.names[i], sizeof r.name);
        if (r.available < 0)
            r.available = 0;
        memcpy(buf + size, &r, sizeof r);
        size += sizeof r;
    }
    send_to(p, WIRE_INFO_REPLY, buf, size);
}

static void handle(struct process *p, const struct frame *f)
{
    struct node *n = p->node;
    uint64_t now = loop_now_ms(), lease = 0;

    if (!p->registered && f->h.type != WIRE_HELLO) {
        say_error(p, ERR_PROTOCOL, "the first frame must be HELLO");
        p->cut = true;
        return;
    }
    if (f->body_size >= sizeof lease)
        memcpy(&lease, f->body, sizeof lease);
    switch (f->h.type) {
    case WIRE_HELLO:
        on_hello(p, f->body, f->body_size);
        break;
    case WIRE_LEASE_REQUEST:
        on_request(p, f->body, f->body_size);
        break;
    case WIRE_LEASE_CANCEL:
        lease_cancel(n->leases, p->slot, lease, now, &n->lease_actions);
        break;
    case WIRE_LEASE_RETURN:
        lease_return(n->leases, p->slot, lease, &n->lease_actions);
        break;
    case WIRE_LEASE_ENDED:
        lease_ended(n->leases, p->slot, lease, now, &n->lease_actions);
        break;
    case WIRE_BLOCKED:
        lease_blocked(n->leases, p->slot, lease, now, &n->lease_actions);
        break;
    case WIRE_UNBLOCKED:
        lease_unblocked(n->leases, p->slot, lease);
        break;
    case WIRE_INFO:
        on_info(p);
        break;
    case WIRE_LEAVE:
        if (p->kind == WIRE_DRIVER)
            loop_stop(n->loop);
        break;
    default:
        break; /* of a newer peer: not for us */
    }
}

static void link_lost(struct process *p)
{
    if (p->kind == WIRE_DRIVER) {
        loop_stop(p->node->loop);
        return;
    }
    /* EOF is no death yet (DESIGN D6): kill, and wait for the zygote's word. */
    close_link(p);
    if (p->pid > 0 && !p->exited)
        kill(p->pid, SIGKILL);
}

static void on_readable(void *arg, bool readable, bool writable)
{
    struct process *p = arg;
    struct frame f;
    struct err err = {0};
    int rc = 0;

    CHECK_MAGIC(p, PROCESS_MAGIC);
    if (writable && p->link != NULL)
        loop_want_write(p->watch, unix_link_flush(p->link, &err) == 0);
    if (!readable || p->link == NULL)
        return;
    long got = unix_link_read(p->link, &err);
    while (p->link != NULL && !p->cut && (rc = unix_link_next(p->link, &f, &err)) == 1) {
        if (f.fd >= 0)
            close(f.fd); /* nobody sends us descriptors */
        if ((f.h.flags & FRAME_MORE) == 0)
            handle(p, &f);
    }
    if (rc < 0) {
        log_warn("node", "malformed_frame", "pid=%d msg=\"%s\"", p->pid, err.text);
        say_error(p, ERR_PROTOCOL, err.text);
    }
    if (got < 0 || rc < 0 || p->cut)
        link_lost(p);
}

/* --- carrying out --- */

static void grant(struct node *n, const struct lease_action *a)
{
    struct process *o = n->processes[a->owner], *w = n->processes[a->worker];
    int pair[2] = {-1, -1};

    ASSERT(o != NULL && w != NULL);
    if ((w->channels[o->slot / 64] & 1ull << o->slot % 64) == 0) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
            log_err("node", "no_channel", "errno=%d msg=\"%s\"", errno, strerror(errno));
        else
            w->channels[o->slot / 64] |= 1ull << o->slot % 64;
    }
    struct wire_lease_begin b = {.lease = a->lease,
                                 .owner_process = o->slot,
                                 .owner_slot = o->slot,
                                 .owner_pid = o->pid,
                                 .owner = o->id};
    struct wire_lease_grant g = {.ticket = a->ticket,
                                 .lease = a->lease,
                                 .pid = w->pid,
                                 .process = w->slot,
                                 .worker = w->id,
                                 .slot = w->slot};
    send_fd(w, WIRE_LEASE_BEGIN, &b, sizeof b, pair[0]);
    send_fd(o, WIRE_LEASE_GRANT, &g, sizeof g, pair[1]);
}

static void send_dead(struct node *n,
                      const struct lease_action *a,
                      int status,
                      const struct process *dead)
{
    uint8_t buf[sizeof(struct wire_worker_dead) + 512];
    struct wire_worker_dead w = {.lease = a->lease, .pid = dead->pid, .wait_status = status};
    char *text = (char *)buf + sizeof w;

    if (dead->control != NULL) {
        w.mask_lease = atomic_load(&dead->control->lease);
        w.started = atomic_load(&dead->control->started);
    }
    memset(buf, 0, sizeof buf);
    describe_death(dead, status, text, sizeof buf - sizeof w);
    memcpy(buf, &w, sizeof w);
    send_to(n->processes[a->owner],
            WIRE_WORKER_DEAD,
            buf,
            sizeof w + strlen(text) + 1 + strlen(text + strlen(text) + 1));
}

static void send_count(struct node *n, const struct lease_action *a)
{
    uint8_t buf[sizeof(struct wire_lease_refused) + 256];

    if (a->kind == LEASE_CANCELED) {
        struct wire_lease_canceled w = {.ticket = a->ticket, .count = a->count};
        send_to(n->processes[a->owner], WIRE_LEASE_CANCELED, &w, sizeof w);
        return;
    }
    struct wire_lease_refused w = {.ticket = a->ticket,
                                   .count = a->count,
                                   .code = ERR_START_FAILED};
    size_t len = strnlen(a->text, 255);
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, a->text, len);
    send_to(n->processes[a->owner], WIRE_LEASE_REFUSED, buf, sizeof w + len);
}

static void run_lease_actions(struct node *n, int status, const struct process *dead)
{
    for (size_t i = 0; i < n->lease_actions.n; i++) {
        struct lease_action a = n->lease_actions.v[i];
        struct process *w = a.worker < BOARD_SLOTS ? n->processes[a.worker] : NULL;
        switch (a.kind) {
        case LEASE_START:
            worker_pool_request(n->pool, loop_now_ms(), &n->pool_actions);
            break;
        case LEASE_UNSTART:
            worker_pool_cancel(n->pool);
            break;
        case LEASE_GRANT:
            grant(n, &a);
            break;
        case LEASE_CANCELED:
        case LEASE_REFUSED:
            send_count(n, &a);
            break;
        case LEASE_REVOKE: {
            struct wire_lease_revoke r = {.lease = a.lease, .grace_ms = a.grace_ms};
            send_to(w, WIRE_LEASE_REVOKE, &r, sizeof r);
            break;
        }
        case LEASE_RELEASE:
            if (w != NULL)
                worker_pool_release(n->pool, w->token, loop_now_ms(), &n->pool_actions);
            break;
        case LEASE_KILL:
            if (w != NULL && w->pid > 0)
                kill(w->pid, SIGKILL);
            break;
        case LEASE_DEAD:
            if (dead != NULL)
                send_dead(n, &a, status, dead);
            break;
        case LEASE_WARN:
            log_warn("lease", "infeasible", "msg=\"%s\"", a.text);
            break;
        }
    }
    n->lease_actions.n = 0;
}

static void fail_starts(struct node *n, const char *why)
{
    char text[256], tail[160];

    worker_log_tail(&n->zygote_log, tail, sizeof tail);
    if (tail[0] != '\0')
        snprintf(text, sizeof text, "no worker can be started: %.160s", tail);
    else
        snprintf(text,
                 sizeof text,
                 "no worker can be started: %.160s",
                 why[0] != '\0' ? why : "the program ends before it can serve as a worker");
    log_err("node", "workers_do_not_start", "msg=\"%s\"", text);
    lease_worker_failed(n->leases, text, loop_now_ms(), &n->lease_actions);
    run_lease_actions(n, 0, NULL);
}

static void run_pool_actions(struct node *n)
{
    char why[192] = "";

    for (size_t i = 0; i < n->pool_actions.n; i++) {
        struct worker_pool_action a = n->pool_actions.v[i];
        struct process *p = by_token(n, a.token);
        struct err err;
        switch (a.kind) {
        case WORKER_POOL_SPAWN:
            if (spawn_worker(n, a.token, &err) != 0) {
                log_err("node", "spawn_failed", "msg=\"%s\"", err.text);
                memcpy(why, err.text, sizeof why);
                worker_pool_on_exit(n->pool, a.token, loop_now_ms(), &n->pool_actions);
            }
            break;
        case WORKER_POOL_GRANT:
            if (p != NULL)
                lease_worker_ready(n->leases, p->slot, loop_now_ms(), &n->lease_actions);
            break;
        case WORKER_POOL_EXIT:
            send_to(p, WIRE_EXIT, NULL, 0);
            break;
        case WORKER_POOL_KILL:
            if (p != NULL && p->pid > 0)
                kill(p->pid, SIGKILL);
            break;
        case WORKER_POOL_FAIL:
            fail_starts(n, why);
            break;
        }
    }
    n->pool_actions.n = 0;
}

void node_turn_end(void *arg)
{
    struct node *n = arg;

    while (n->lease_actions.n > 0 || n->pool_actions.n > 0) {
        run_lease_actions(n, 0, NULL);
        run_pool_actions(n);
    }
    if (n->zygote != NULL && unix_link_pending(n->zygote) > 0)
        loop_want_write(n->zygote_watch, unix_link_flush(n->zygote, NULL) == 0);
    for (uint32_t s = 0; s < BOARD_SLOTS; s++) {
        struct process *p = n->processes[s];
        if (p == NULL || p->link == NULL || unix_link_pending(p->link) == 0)
            continue;
        loop_want_write(p->watch, unix_link_flush(p->link, NULL) == 0);
        if (p->cut)
            link_lost(p);
    }
}

static void on_tick(void *arg)
{
    struct node *n = arg;
    uint64_t now = loop_now_ms();
    struct worker_pool_stats stats;

    worker_pool_get_stats(n->pool, &stats);
    lease_on_time(n->leases,
                  stats.n_leased + stats.n_idle,
                  (unsigned)n->config.num_cpus,
                  now,
                  &n->lease_actions);
    worker_pool_on_time(n->pool, now, &n->pool_actions);
    if (n->logs_stalled && driver_reads(n)) {
        n->logs_stalled = false;
        for (uint32_t s = 0; s < BOARD_SLOTS; s++)
            if (n->processes[s] != NULL)
                read_logs(n->processes[s], false);
    }
    if (!n->swept)
        session_sweep(&n->session);
    n->swept = true;
}

static void on_driver_gone(void *arg, bool readable, bool writable)
{
    struct node *n = arg;

    (void)readable;
    (void)writable;
    loop_stop(n->loop);
}

struct node *node_create(struct loop *loop, const struct node_config *config, struct err *err)
{
    struct node *n = xcalloc(1, sizeof *n);
    struct timespec t;

    n->loop = loop;
    n->config = *config;
    n->board_fd = n->inotify_fd = n->pidfd = -1;
    n->zygote_log.fd = -1;
    n->session.lock_fd = -1;
    clock_gettime(CLOCK_REALTIME, &t);
    n->start_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    n->resources = config->custom;
    n->resources.total[0] = n->resources.available[0] = (int64_t)config->num_cpus * RESOURCE_UNIT;
    n->leases = lease_table_create(&n->resources);
    n->pool = worker_pool_create(&(struct worker_pool_config){
        .start_limit = (unsigned)config->num_cpus < 2 ? 2 : (unsigned)config->num_cpus,
        .keep = (unsigned)config->num_cpus,
        .max = WORKERS_MAX});
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    n->driver = add_process(n, WIRE_DRIVER, config->driver_fd);
    if (n->driver == NULL) {
        err_set(err, ERR_NO_MEMORY, "no memory for the driver's link");
        goto fail;
    }
    if (unique_id_random(&n->cluster) != 0 || unique_id_random(&n->id) != 0) {
        err_sys(err, "read random bytes");
        goto fail;
    }
    if (session_create(&n->session, config->temp_dir, err) != 0)
        goto fail;
    char path[320];
    snprintf(path, sizeof path, "%s/raylet.err", n->session.logs);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log >= 0)
        log_set_fd(log);
    snprintf(path, sizeof path, "%s/zygote.err", n->session.logs);
    if (worker_log_create(&n->zygote_log, path, 2, err) != 0)
        goto fail;
    n->board_fd = memfd_create("ray-board", MFD_CLOEXEC);
    if (n->board_fd < 0 || ftruncate(n->board_fd, BOARD_SLOTS * sizeof(struct board_line)) != 0) {
        err_sys(err, "make the board");
        goto fail;
    }
    n->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    n->pidfd = (int)syscall(SYS_pidfd_open, config->driver_pid, 0);
    if (n->inotify_fd < 0 || n->pidfd < 0) {
        err_sys(err,
                n->pidfd < 0 ? "watch the driver (pid %d)"
                             : "watch logs of %d's tasks (fs.inotify.max_user_instances)",
                config->driver_pid);
        goto fail;
    }
    fcntl(n->pidfd, F_SETFD, FD_CLOEXEC);
    n->pidfd_watch = loop_watch_fd(loop, n->pidfd, on_driver_gone, n);
    n->inotify_watch = loop_watch_fd(loop, n->inotify_fd, on_inotify, n);
    n->signals[0] = loop_on_signal(loop, SIGTERM, on_driver_gone, n);
    n->signals[1] = loop_on_signal(loop, SIGINT, on_driver_gone, n);
    n->tick = loop_every(loop, TICK_MS, on_tick, n);
    if (n->pidfd_watch == NULL || n->inotify_watch == NULL || n->tick == NULL) {
        err_sys(err, "watch the driver");
        goto fail;
    }
    worker_pool_prestart(n->pool, (unsigned)config->num_cpus, loop_now_ms(), &n->pool_actions);
    node_turn_end(n);
    return n;
fail:
    if (n->driver != NULL)
        say_error(n->driver, err->code, err->text);
    node_destroy(n);
    return NULL;
}

static void wait_for_zygote(struct node *n)
{
    int fd = (int)syscall(SYS_pidfd_open, n->zygote_pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};

    kill(n->zygote_pid, SIGTERM);
    if (fd < 0 || poll(&p, 1, END_MS) <= 0) {
        for (uint32_t s = 0; s < BOARD_SLOTS; s++)
            if (n->processes[s] != NULL && n->processes[s]->kind == WIRE_WORKER
                && n->processes[s]->pid > 0)
                kill(n->processes[s]->pid, SIGKILL);
        kill(n->zygote_pid, SIGKILL);
    }
    waitpid(n->zygote_pid, NULL, 0);
    if (fd >= 0)
        close(fd);
}

void node_destroy(struct node *n)
{
    if (n == NULL)
        return;
    if (n->zygote_pid > 0)
        wait_for_zygote(n);
    for (int i = 0; i < 1000 && sweep_children(0) > 0; i++)
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    /* what tasks printed last */
    for (uint32_t s = 1; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL)
            read_logs(n->processes[s], true);
    if (n->driver != NULL && n->driver->link != NULL)
        unix_link_flush(n->driver->link, NULL);
    log_set_fd(-1);
    if (n->session.dir[0] != '\0')
        session_remove(&n->session);
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL)
            free_process(n->processes[s]);
    loop_unwatch(n->zygote_watch);
    unix_link_destroy(n->zygote);
    worker_log_close(&n->zygote_log);
    loop_unwatch(n->pidfd_watch);
    loop_unwatch(n->inotify_watch);
    loop_unwatch(n->signals[0]);
    loop_unwatch(n->signals[1]);
    loop_timer_end(n->tick);
    if (n->pidfd >= 0)
        close(n->pidfd);
    if (n->inotify_fd >= 0)
        close(n->inotify_fd);
    if (n->board_fd >= 0)
        close(n->board_fd);
    close(n->config.executable_fd);
    lease_table_destroy(n->leases);
    worker_pool_destroy(n->pool);
    free(n->lease_actions.v);
    free(n->pool_actions.v);
    free(n);
}
