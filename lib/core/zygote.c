/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A warm process of the job's executable that forks workers (DESIGN D7). One thread, one poll loop over the raylet's link and a
 * signalfd. SPAWN comes in four parts, each with one fd; the last one forks. When a worker dies, what it left behind was
 * reparented to us (we are a subreaper, and so was it): every child that is no worker is killed before EXITED is sent.
 * When the raylet goes (SIGTERM by the parent-death signal, or the link's end), everything is killed and we end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/core/core.h"
#include "lib/net/unix_link.h"

#define HIGH_FD       200 /* where our descriptors hide from programs that count from 3 */
#define WORKER_NICE   10
#define PARTS         4

struct spawn {
    uint64_t token;
    uint32_t slot;
    int fds[PARTS];
};

static struct unix_link *raylet;
static int signal_fd, board;
static pid_t *workers;
static size_t n_workers;

static void send_now(uint8_t type, const void *body, size_t size)
{
    struct err err;
    struct pollfd p = {.fd = unix_link_fd(raylet), .events = POLLOUT};

    if (unix_link_send(raylet, FRAME_CONTROL, type, 0, body, size) != 0)
        return;
    while (unix_link_flush(raylet, &err) == 0)
        poll(&p, 1, -1);
}

static int high(int fd)
{
    int up = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

    if (up < 0)
        return fd;
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

_Noreturn static void become_worker(const struct spawn *s, pid_t zygote)
{
    struct core_worker_setup setup = {.token = s->token, .slot = s->slot};
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != zygote)
        _exit(1);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "ray::IDLE");
    dup2(s->fds[1], STDOUT_FILENO);
    dup2(s->fds[2], STDERR_FILENO);
    close(s->fds[1]);
    close(s->fds[2]);
    close(signal_fd);
    unix_link_destroy(raylet);
    setup.link_fd = high(s->fds[0]);
    setup.control_fd = high(s->fds[3]);
    setup.board_fd = board;
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setpriority(PRIO_PROCESS, 0, WORKER_NICE);
    best_effort_write("/proc/self/oom_score_adj", "1000");
    core_worker_main(&setup);
}

static void do_spawn(const struct spawn *s)
{
    pid_t self = getpid();
    struct wire_spawned reply = {.token = s->token};

    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        become_worker(s, self);
    reply.pid = pid;
    reply.error = pid < 0 ? errno : 0;
    for (int i = 0; i < PARTS; i++)
        close(s->fds[i]);
    if (pid > 0) {
        workers = xrealloc(workers, (n_workers + 1) * sizeof *workers);
        workers[n_workers++] = pid;
    }
    send_now(WIRE_SPAWNED, &reply, sizeof reply);
}

static bool is_worker(pid_t pid)
{
    for (size_t i = 0; i < n_workers; i++)
        if (workers[i] == pid)
            return true;
    return false;
}

/* Kill each child that is not a worker; the number found. /proc is searched by parent: children files may be missing. */
static int kill_orphans(void)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    pid_t self = getpid();
    int n = 0;

    if (d == NULL)
        return 0;
    while ((e = readdir(d)) != NULL) {
        char path[300], line[512];
        int pid = (int)strtol(e->d_name, NULL, 10), ppid = 0;
        if (pid <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t len = read(fd, line, sizeof line - 1);
        close(fd);
        if (len <= 0)
            continue;
        line[len] = '\0';
        const char *p = strrchr(line, ')'); /* the name may hold anything */
        char state = 0;
        if (p == NULL || sscanf(p + 1, " %c %d", &state, &ppid) != 2 || ppid != self || is_worker(pid) || state == 'Z')
            continue;
        kill(pid, SIGKILL);
        n++;
    }
    closedir(d);
    return n;
}

static void forget(pid_t pid)
{
    for (size_t i = 0; i < n_workers; i++)
        if (workers[i] == pid) {
            workers[i] = workers[--n_workers];
            return;
        }
}

static void reap(bool report)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (!is_worker(pid))
            continue;
        forget(pid);
        /* Its children are ours now. A kill may hand us grandchildren: again until none is left. */
        for (int i = 0; i < 100 && kill_orphans() > 0; i++)
            sched_yield();
        if (report) {
            struct wire_exited w = {.pid = pid, .status = status};
            send_now(WIRE_EXITED, &w, sizeof w);
        }
    }
}

_Noreturn static void end(void)
{
    for (size_t i = 0; i < n_workers; i++)
        kill(workers[i], SIGKILL);
    while (n_workers > 0) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid < 0 && errno == ECHILD)
            break;
        if (pid > 0)
            forget(pid);
    }
    for (int i = 0; i < 1000 && kill_orphans() > 0; i++)
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
    _exit(0);
}

static void on_frame(const struct frame *f)
{
    static struct spawn s;
    struct wire_spawn w;

    if (f->h.type != WIRE_SPAWN || f->body_size < sizeof w) {
        if (f->fd >= 0)
            close(f->fd);
        return;
    }
    memcpy(&w, f->body, sizeof w);
    if (w.part >= PARTS) {
        if (f->fd >= 0)
            close(f->fd);
        return;
    }
    if (w.part == 0)
        s = (struct spawn){.token = w.token, .slot = w.slot, .fds = {-1, -1, -1, -1}};
    s.fds[w.part] = f->fd;
    if (w.part == PARTS - 1)
        do_spawn(&s);
}

_Noreturn void core_zygote_main(int link_fd, int board_fd)
{
    sigset_t mask;
    struct err err;

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "ray::zygote");
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal_fd = high(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    board = high(board_fd);
    raylet = unix_link_create(high(link_fd), 0);
    if (raylet == NULL || signal_fd < 0) {
        fprintf(stderr, "ray: zygote cannot start: %s\n", strerror(errno));
        _exit(1);
    }
    struct wire_hello hello = {.protocol = WIRE_PROTOCOL, .kind = WIRE_ZYGOTE, .pid = getpid()};
    send_now(WIRE_HELLO, &hello, sizeof hello);
    for (;;) {
        struct pollfd p[2] = {{.fd = unix_link_fd(raylet), .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
        poll(p, 2, -1);
        struct signalfd_siginfo si;
        while (read(signal_fd, &si, sizeof si) == (ssize_t)sizeof si)
            if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT)
                end();
        reap(true);
        struct frame f;
        long n = unix_link_read(raylet, &err);
        while (unix_link_next(raylet, &f, &err) == 1)
            on_frame(&f);
        if (n < 0)
            end();
    }
}
