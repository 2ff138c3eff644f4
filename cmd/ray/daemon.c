/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define DAEMON_MAGIC 0x4441454du

struct daemon {
    unsigned magic;
    struct daemon_config config;
    pid_t pid; /* 0: it does not run */
    int pidfd, ready_fd;
    struct loop_watch *end, *ready;
    char line[512];
    size_t n_line;
};

struct daemon *daemon_create(const struct daemon_config *config)
{
    struct daemon *d = xcalloc(1, sizeof *d);

    d->magic = DAEMON_MAGIC;
    d->config = *config;
    d->pidfd = d->ready_fd = -1;
    return d;
}

static void close_ready(struct daemon *d)
{
    loop_unwatch(d->ready);
    d->ready = NULL;
    if (d->ready_fd >= 0)
        close(d->ready_fd);
    d->ready_fd = -1;
}

/* What is there; lines may come in pieces, and one that is too long is the last. */
static void on_ready(void *arg, bool readable, bool writable)
{
    struct daemon *d = arg;
    char *end;

    (void)readable;
    (void)writable;
    CHECK_MAGIC(d, DAEMON_MAGIC);
    ssize_t n = read(d->ready_fd, d->line + d->n_line, sizeof d->line - 1 - d->n_line);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    d->n_line += n > 0 ? (size_t)n : 0;
    d->line[d->n_line] = '\0';
    while ((end = strchr(d->line, '\n')) != NULL) {
        *end = '\0';
        d->config.on_line(d->config.arg, d->line);
        d->n_line -= (size_t)(end + 1 - d->line);
        memmove(d->line, end + 1, d->n_line + 1);
    }
    if (n <= 0 || d->n_line == sizeof d->line - 1)
        close_ready(d);
}

static void on_end(void *arg, bool readable, bool writable)
{
    struct daemon *d = arg;
    int status = 0;

    (void)readable;
    (void)writable;
    CHECK_MAGIC(d, DAEMON_MAGIC);
    while (waitpid(d->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    d->pid = 0;
    close_ready(d);
    loop_unwatch(d->end);
    d->end = NULL;
    close(d->pidfd);
    d->pidfd = -1;
    d->config.on_end(d->config.arg, status);
}

static int open_log(const struct daemon *d, const char *ending, struct err *err)
{
    char path[512];

    snprintf(path, sizeof path, "%s/logs/%s.%s", d->config.dir, d->config.name, ending);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        err_sys(err, "open %s", path);
    return fd;
}

struct spawn {
    const char *path, *dir;
    char *const *argv, *const *environment;
    int out, error, ready, failed; /* ready -1: none; failed: the number of an error goes there */
    pid_t parent;
};

/* In the child: system calls alone. The death signal comes also if the parent ended before it was
 * asked for. A group of its own: ^C at the terminal reaches the supervisor, which ends it in turn.
 */
static _Noreturn void become(const struct spawn *s)
{
    struct sigaction fresh = {.sa_handler = SIG_DFL};
    sigset_t none;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    sigemptyset(&none);
    setpgid(0, 0);
    sigaction(SIGPIPE, &fresh, NULL); /* ignored signals stay so in a new program, others do not */
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == s->parent && chdir(s->dir) == 0
        && null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(s->out, STDOUT_FILENO) >= 0
        && dup2(s->error, STDERR_FILENO) >= 0
        && (s->ready < 0 || dup2(s->ready, DAEMON_READY_FD) >= 0))
        execve(s->path, s->argv, s->environment);
    int number = errno;
    ssize_t n = write(s->failed, &number, sizeof number);
    _exit(n == sizeof number ? 127 : 126);
}

/* Above the descriptors that the child will have, so that no dup2 closes one too early. Takes fd.
 */
static int raise_fd(int fd, struct err *err)
{
    int high = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 10) : -1;

    if (fd >= 0 && high < 0)
        err_sys(err, "start a program");
    if (fd >= 0)
        close(fd);
    return high;
}

static int raised_pipe(int ends[2], struct err *err)
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, "make a pipe");
    ends[1] = raise_fd(ends[1], err);
    if (ends[1] >= 0)
        return 0;
    close(ends[0]);
    ends[0] = -1;
    return -1;
}

static pid_t fork_program(struct spawn *s, int failed, struct err *err)
{
    int number = 0;
    pid_t pid = fork();

    if (pid == 0)
        become(s);
    close(s->failed);
    if (pid < 0) {
        err_sys(err, "start %s", s->path);
    } else if (read(failed, &number, sizeof number) == sizeof number) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        errno = number;
        err_sys(err, "start %s", s->path);
        pid = -1;
    }
    close(failed);
    return pid;
}

static int watch(struct daemon *d, pid_t pid, struct err *err)
{
    d->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (d->pidfd < 0)
        err_sys(err, "watch %s", d->config.name);
    else if ((d->end = loop_watch_fd(d->config.loop, d->pidfd, on_end, d)) == NULL
             || (d->ready_fd >= 0
                 && (d->ready = loop_watch_fd(d->config.loop, d->ready_fd, on_ready, d)) == NULL))
        err_set(err, ERR_NO_MEMORY, "no memory to watch %s", d->config.name);
    else
        return 0;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    loop_unwatch(d->end);
    d->end = NULL;
    if (d->pidfd >= 0)
        close(d->pidfd);
    d->pidfd = -1;
    return -1;
}

int daemon_start(struct daemon *d,
                 const char *path,
                 char *const *argv,
                 char *const *environment,
                 struct err *err)
{
    struct spawn s = {.path = path,
                      .dir = d->config.dir,
                      .argv = argv,
                      .environment = environment,
                      .ready = -1,
                      .parent = getpid()};
    int ready[2] = {-1, -1}, failed[2];
    pid_t pid = -1;

    ASSERT(d->pid == 0);
    d->n_line = 0;
    s.out = raise_fd(open_log(d, "out", err), err);
    s.error = s.out >= 0 ? raise_fd(open_log(d, "err", err), err) : -1;
    if (s.error >= 0 && (!d->config.has_ready_fd || raised_pipe(ready, err) == 0)
        && raised_pipe(failed, err) == 0) {
        s.ready = ready[1];
        s.failed = failed[1];
        pid = fork_program(&s, failed[0], err);
    }
    if (s.out >= 0)
        close(s.out);
    if (s.error >= 0)
        close(s.error);
    if (ready[1] >= 0)
        close(ready[1]);
    d->ready_fd = ready[0];
    if (pid > 0 && watch(d, pid, err) == 0) {
        d->pid = pid;
        return 0;
    }
    close_ready(d);
    return -1;
}

void daemon_signal(struct daemon *d, int signo)
{
    if (d->pid != 0)
        syscall(SYS_pidfd_send_signal, d->pidfd, signo, NULL, 0);
}

bool daemon_is_running(const struct daemon *d)
{
    return d->pid != 0;
}

pid_t daemon_pid(const struct daemon *d)
{
    return d->pid;
}

void daemon_destroy(struct daemon *d)
{
    if (d == NULL)
        return;
    if (d->pid != 0) {
        daemon_signal(d, SIGKILL);
        while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        loop_unwatch(d->end);
        close(d->pidfd);
    }
    close_ready(d);
    d->magic = 0;
    free(d);
}

void daemon_say_status(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(out,
                 size,
                 "was killed by signal %d (%s)",
                 WTERMSIG(status),
                 err_signal_name(WTERMSIG(status)));
    else
        snprintf(out, size, "exited with status %d", WEXITSTATUS(status));
}
