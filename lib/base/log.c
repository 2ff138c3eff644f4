/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How rotation works. Each MAX/64 bytes the file is looked at. Who holds its lock sets it aside, so
 * that of several processes one does; the others find another file at its path and follow. The new
 * file is there before the old one is moved, and takes the place of its descriptor: other threads
 * write to the one or the other.
 */
#include "lib/base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum log_level log_threshold = LOG_LEVEL_INFO;
static int log_fd = -1;

static struct {
    char path[512];
    uint64_t max_bytes; /* 0: it is not rotated */
    unsigned n_backups;
    _Atomic uint64_t n_unseen; /* bytes since it was looked at */
    atomic_flag is_busy;       /* a thread looks */
} rotation = {.is_busy = ATOMIC_FLAG_INIT};

void log_set_fd(int fd)
{
    log_fd = fd;
}

/* --- rotation --- */

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

/* Takes fd: where `old` was written to it is, from now on. */
static void follow(int fd, const struct stat *old)
{
    struct stat error;

    if (fstat(STDERR_FILENO, &error) == 0 && is_same(&error, old))
        dup2(fd, STDERR_FILENO);
    dup3(fd, log_fd, O_CLOEXEC);
    close(fd);
}

static void name_backup(unsigned k, char *out, size_t size)
{
    if (k == 0)
        snprintf(out, size, "%s", rotation.path);
    else
        snprintf(out, size, "%s.%u", rotation.path, k);
}

static void set_aside(const struct stat *old)
{
    char from[sizeof rotation.path + 16], to[sizeof from], next[sizeof from];

    snprintf(next, sizeof next, "%s.new", rotation.path);
    int fd = open_file(next);
    if (fd < 0)
        return;
    for (unsigned k = rotation.n_backups; k > 0; k--) {
        name_backup(k - 1, from, sizeof from);
        name_backup(k, to, sizeof to);
        if (k > 1 || link(from, to) != 0) /* whoever opens the path meanwhile finds a file */
            rename(from, to);
    }
    if (rename(next, rotation.path) == 0)
        follow(fd, old);
    else
        close(fd);
}

static void look(void)
{
    struct stat mine, there;

    if (atomic_flag_test_and_set(&rotation.is_busy))
        return;
    atomic_store(&rotation.n_unseen, 0);
    if (fstat(log_fd, &mine) == 0 && flock(log_fd, LOCK_EX | LOCK_NB) == 0) {
        bool is_there = stat(rotation.path, &there) == 0 && is_same(&mine, &there);
        int old = fcntl(log_fd, F_DUPFD_CLOEXEC, 0), fd = is_there ? -1 : open_file(rotation.path);
        if (fd >= 0)
            follow(fd, &mine);
        else if (is_there && (uint64_t)mine.st_size >= rotation.max_bytes)
            set_aside(&mine);
        flock(old >= 0 ? old : log_fd, LOCK_UN);
        if (old >= 0)
            close(old);
    }
    atomic_flag_clear(&rotation.is_busy);
}

int log_open(const char *path, uint64_t max_bytes, unsigned n_backups, struct err *err)
{
    int fd = strlen(path) < sizeof rotation.path ? open_file(path) : -1;

    if (fd < 0)
        return err_sys(err, "open the log %s", path);
    snprintf(rotation.path, sizeof rotation.path, "%s", path);
    rotation.max_bytes = max_bytes;
    rotation.n_backups = n_backups;
    rotation.n_unseen = max_bytes; /* it may be long already */
    log_fd = fd;
    return 0;
}

void log_close(void)
{
    int fd = log_fd;

    rotation.max_bytes = 0;
    log_fd = -1;
    if (fd >= 0)
        close(fd);
}

/* --- lines --- */

void log_line(enum log_level level, const char *component, const char *event, const char *fmt, ...)
{
    static const char *const names[] = {"broken", "err", "warn", "info", "debug"};
    char line[1024];
    struct timespec t;
    struct tm tm;
    va_list ap;

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n,
                          sizeof line - n,
                          ".%03ldZ level=%s component=%s event=%s ",
                          t.tv_nsec / 1000000,
                          names[level],
                          component,
                          event);
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    n = strlen(line);
    for (size_t i = 0; i < n; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[n++] = '\n';
    ssize_t r = write(log_fd >= 0 ? log_fd : STDERR_FILENO, line, n);
    if (r < 0 || rotation.max_bytes == 0)
        return; /* a log on a full disk: nothing better can be done */
    if (atomic_fetch_add(&rotation.n_unseen, (uint64_t)r) + (uint64_t)r >= rotation.max_bytes / 64)
        look();
}
