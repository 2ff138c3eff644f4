/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A warm process of the job's executable that forks workers (DESIGN D7). One thread, one poll loop
 * over the raylet's link and a signalfd. SPAWN comes in four parts, each with one fd; the last one
 * forks. When a worker dies, what it left behind was reparented to us (we are a subreaper, and so
 * was it): every child that is no worker is killed before EXITED is sent. When the raylet goes
 * (SIGTERM by the parent-death signal, or the link's end), everything is killed and we end.
 *
 * Forking is safe only while this thread is the only one: a lock that another thread holds
 * (malloc's, stdio's) would stay locked in the child for ever. Threads that the program's
 * constructors start are therefore counted before each fork.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/err.h"
#include "lib/base/process_stat.h"
#include "lib/base/remove_tree.h"
#include "lib/core/core.h"
#include "lib/net/unix_link.h"

#define HIGH_FD     200 /* where our descriptors hide from programs that count from 3 */
#define WORKER_NICE 10
#define PARTS       4
#define KILL_MS                                                                                    \
    2000 /* a killed process that is not gone then hangs in the kernel: not ours to wait for */
#define RAYLET_GONE_MS 60000 /* its inotify descriptor alone has taken the kernel 2 s to close */

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define OWN_THREADS 2 /* the sanitizer's background thread survives fork by its own means */
#else
#define OWN_THREADS 1
#endif

struct spawn {
    uint64_t token;
    uint32_t slot;
    int fds[PARTS]; /* link, stdout, stderr, control block; -1: not here */
};

static struct unix_link *raylet;
static int signal_fd = -1, board = -1, store_index = -1, store_arena = -1;
static struct spawn next_spawn = {.fds = {-1, -1, -1, -1}};
static pid_t *workers;
static size_t n_workers;

/* --- talking to the raylet --- */

/* The link's end is noticed by the next read. */
static void flush(void)
{
    struct pollfd p = {.fd = unix_link_fd(raylet), .events = POLLOUT};

    while (unix_link_flush(raylet, NULL) == 0)
        poll(&p, 1, -1);
}

static void send_now(uint8_t type, const void *body, size_t size)
{
    if (unix_link_send(raylet, FRAME_CONTROL, type, 0, body, size) == 0)
        flush();
}

/* With a descriptor, which is closed in any case; -1: none. */
static void send_spawned(const struct wire_spawned *w, int pidfd)
{
    void *out = unix_link_reserve(raylet, FRAME_CONTROL, WIRE_SPAWNED, 0, sizeof *w);

    if (out == NULL) {
        if (pidfd >= 0)
            close(pidfd);
        return;
    }
    memcpy(out, w, sizeof *w);
    unix_link_commit(raylet, sizeof *w, pidfd);
    flush();
}

static void send_error(enum err_code code, const char *text)
{
    struct {
        struct wire_error w;
        char text[240];
    } m = {.w.code = code};
    size_t n = strnlen(text, sizeof m.text);

    memcpy(m.text, text, n);
    send_now(WIRE_ERROR, &m, sizeof m.w + n);
}

/* --- the dead and what they leave --- */

static bool is_worker(pid_t pid)
{
    for (size_t i = 0; i < n_workers; i++)
        if (workers[i] == pid)
            return true;
    return false;
}

static bool forget(pid_t pid)
{
    for (size_t i = 0; i < n_workers; i++)
        if (workers[i] == pid) {
            workers[i] = workers[--n_workers];
            return true;
        }
    return false;
}

/* Kill each child that is no worker, and reap it if it is dead by now. The number found. */
static int kill_orphans(void)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    pid_t self = getpid();
    int n = 0;

    if (d == NULL)
        return 0;
    while ((e = readdir(d)) != NULL) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid <= 0 || process_parent(pid, NULL) != self || is_worker(pid))
            continue;
        n++;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, WNOHANG);
    }
    closedir(d);
    return n;
}

/* The end of an orphan makes its own children ours: again until there is none. */
static void sweep(void)
{
    uint64_t deadline_ns = clock_now_ns() + KILL_MS * UINT64_C(1000000);

    while (kill_orphans() > 0 && clock_now_ns() < deadline_ns)
        poll(NULL, 0, 1);
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (!forget(pid))
            continue;
        sweep();
        struct wire_exited w = {.pid = pid, .status = status};
        send_now(WIRE_EXITED, &w, sizeof w);
    }
}

static pid_t raylet_pid;
static const char *session;
static bool link_ended;

/* Its death signal comes when its first thread has ended; while another has not, it is still our
 * parent, and its end of the link open. */
static bool raylet_dies(void)
{
    char state = 'X'; /* of none: it is gone */

    process_parent(raylet_pid, &state);
    return link_ended || state == 'Z' || state == 'X';
}

_Noreturn static void end(void)
{
    while (n_workers > 0)
        kill(workers[--n_workers], SIGKILL); /* no worker any more: the sweep waits for it */
    sweep();
    /* a process that is killed closes its files first and stops being our parent a little later */
    for (int i = 0; i < RAYLET_GONE_MS && getppid() == raylet_pid && raylet_dies(); i++)
        poll(NULL, 0, 1);
    if (getppid() != raylet_pid) { /* it was killed: nobody else is left to remove its session */
        const char *slash = strrchr(session, '/');
        char latest[300];
        snprintf(latest,
                 sizeof latest,
                 "%.*s/session_latest",
                 slash != NULL ? (int)(slash - session) : 0,
                 session);
        remove_link_to(session, latest);
        remove_tree(session);
    }
    _exit(0);
}

/* --- forking --- */

static int move_high(int fd)
{
    int up = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

    if (up < 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        return fd;
    }
    close(fd);
    return up;
}

static void best_effort_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    ssize_t n = write(fd, text, strlen(text));
    (void)n;
    close(fd);
}

/* What the driver's parent made it ignore (nohup, a shell's background job) is no wish about tasks.
 * Handlers stay: a constructor installed them on purpose, a sanitizer's for example. */
static void reset_signals(void)
{
    struct sigaction now;
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        if (sigaction(i, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0
            && now.sa_handler == SIG_IGN)
            signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn static void become_worker(const struct spawn *s, pid_t zygote)
{
    struct core_worker_setup setup = {.token = s->token,
                                      .slot = s->slot,
                                      .board_fd = board,
                                      .index_fd = store_index,
                                      .arena_fd = store_arena};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != zygote)
        _exit(1); /* it died before the signal was set */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "ray::IDLE");
    dup2(s->fds[1], STDOUT_FILENO);
    dup2(s->fds[2], STDERR_FILENO);
    close(s->fds[1]);
    close(s->fds[2]);
    close(signal_fd);
    unix_link_destroy(raylet);
    setup.link_fd = move_high(s->fds[0]);
    setup.control_fd = move_high(s->fds[3]);
    reset_signals();
    setvbuf(stdout, NULL, _IOLBF, 0);
    errno = nice(WORKER_NICE) == -1 ? errno : 0;
    best_effort_write("/proc/self/oom_score_adj", "1000");
    core_worker_main(&setup);
}

static int count_threads(void)
{
    DIR *d = opendir("/proc/self/task");
    const struct dirent *e;
    int n = 0;

    if (d == NULL)
        return 0; /* no fd left or no /proc: fork says more */
    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void refuse_threads(int n)
{
    char text[240];

    snprintf(text,
             sizeof text,
             "workers cannot be forked: the program runs %d more thread(s) before main; start them "
             "in the first task that needs them, not in a constructor",
             n - OWN_THREADS);
    fprintf(stderr, "ray: %s\n", text);
    send_error(ERR_START_FAILED, text);
    end();
}

static void close_spawn(struct spawn *s)
{
    for (int i = 0; i < PARTS; i++) {
        if (s->fds[i] >= 0)
            close(s->fds[i]);
        s->fds[i] = -1;
    }
}

static bool is_whole(const struct spawn *s)
{
    for (int i = 0; i < PARTS; i++)
        if (s->fds[i] < 0)
            return false;
    return true;
}

static void do_spawn(const struct spawn *s)
{
    struct wire_spawned reply = {.token = s->token, .pid = -1, .error = EMFILE};
    pid_t self = getpid();
    int pidfd = -1, n_threads = count_threads();

    if (n_threads > OWN_THREADS)
        refuse_threads(n_threads);
    if (is_whole(s)) { /* else the kernel dropped an fd at our limit */
        workers = xrealloc(workers, (n_workers + 1) * sizeof *workers);
        fflush(NULL); /* what constructors printed is printed once */
        pid_t pid = fork();
        reply.error = pid < 0 ? errno : 0;
        reply.pid = pid;
        if (pid == 0)
            become_worker(s, self);
        if (pid > 0) { /* while it is not reaped its number is its own */
            workers[n_workers++] = pid;
            pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        }
    }
    send_spawned(&reply, pidfd);
}

/* --- the loop --- */

static void on_frame(const struct frame *f)
{
    struct spawn *s = &next_spawn;
    struct wire_spawn w;

    if (f->h.type == WIRE_SPAWN && f->body_size >= sizeof w) {
        memcpy(&w, f->body, sizeof w);
        if (w.part == 0) {
            close_spawn(s);
            s->token = w.token;
            s->slot = w.slot;
        }
        if (w.part < PARTS && w.token == s->token && s->fds[w.part] < 0) {
            s->fds[w.part] = f->fd;
            if (w.part == PARTS - 1) {
                do_spawn(s);
                close_spawn(s);
            }
            return;
        }
    }
    if (f->fd >= 0)
        close(f->fd);
}

static void read_signals(void)
{
    struct signalfd_siginfo si;

    while (read(signal_fd, &si, sizeof si) == (ssize_t)sizeof si)
        if (si.ssi_signo == SIGTERM)
            end();
    reap();
}

static void read_raylet(void)
{
    struct err err;
    struct frame f;
    int rc;
    long n = unix_link_read(raylet, &err);

    while ((rc = unix_link_next(raylet, &f, &err)) == 1)
        on_frame(&f);
    link_ended = n < 0;
    if (n < 0 || rc < 0)
        end();
}

static int open_signals(void)
{
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would reap our children behind us */
    sigprocmask(SIG_BLOCK, &mask, NULL);
    return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

_Noreturn void core_zygote_main(const struct core_zygote_setup *setup)
{
    struct wire_hello hello = {.protocol = WIRE_PROTOCOL, .kind = WIRE_ZYGOTE, .pid = getpid()};
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    raylet_pid = getppid();
    session = setup->session_dir;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "ray::zygote");
    if (null > STDIN_FILENO) {
        dup2(null, STDIN_FILENO);
        close(null);
    } else if (null == STDIN_FILENO) {
        fcntl(null, F_SETFD, 0);
    }
    signal_fd = open_signals();
    if (signal_fd >= 0)
        raylet = unix_link_create(move_high(setup->link_fd), 0);
    if (raylet == NULL) {
        fprintf(stderr, "ray: the zygote cannot start: %s\n", strerror(errno));
        _exit(1);
    }
    signal_fd = move_high(signal_fd);
    board = move_high(setup->board_fd);
    store_index = move_high(setup->index_fd);
    store_arena = move_high(setup->arena_fd);
    send_now(WIRE_HELLO, &hello, sizeof hello);
    for (;;) {
        struct pollfd p[2] = {{.fd = unix_link_fd(raylet), .events = POLLIN},
                              {.fd = signal_fd, .events = POLLIN}};
        if (poll(p, 2, -1) < 0)
            continue;
        if (p[1].revents != 0)
            read_signals();
        if (p[0].revents != 0)
            read_raylet();
    }
}
