/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/log.h"

#define CHUNK  65536
#define MARKER ":task_name:"

/* A full disk stops no worker; told at powers of two. */
static int open_nowhere(const char *path)
{
    static uint64_t n;

    n++;
    if ((n & (n - 1)) == 0)
        log_warn("log",
                 "no_room",
                 "n=%" PRIu64
                 " path=%s msg=\"no room for the log of a worker, what it prints is lost; "
                 "free some there\"",
                 n,
                 path);
    return open("/dev/null", O_RDWR | O_APPEND | O_CLOEXEC);
}

int worker_log_create(struct worker_log *log, const char *path, uint32_t stream, struct err *err)
{
    memset(log, 0, sizeof *log);
    log->stream = stream;
    snprintf(log->path, sizeof log->path, "%s", path);
    log->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log->fd < 0 && (errno == ENOSPC || errno == EDQUOT))
        log->fd = open_nowhere(path);
    if (log->fd < 0)
        return err_sys(err, "make the log file %s", path);
    return 0;
}

int worker_log_rename(struct worker_log *log, const char *path)
{
    if (rename(log->path, path) != 0)
        return -1;
    snprintf(log->path, sizeof log->path, "%s", path);
    return 0;
}

/* The beginning of a marker, and no more: the disk was full, or the process died in the write. */
static bool is_cut_marker(const char *text, size_t n)
{
    return n >= 2 && memcmp(text, MARKER, n < sizeof MARKER - 1 ? n : sizeof MARKER - 1) == 0;
}

bool worker_log_read(struct worker_log *log, bool last, worker_log_f cb, void *arg)
{
    static char buf[CHUNK];
    ssize_t n = log->fd < 0 ? 0 : pread(log->fd, buf, sizeof buf, (off_t)log->offset);

    if (n <= 0)
        return false;
    size_t size = (size_t)n, from = 0, at = 0;
    while (at < size) {
        const char *nl = memchr(buf + at, '\n', size - at);
        size_t end = nl != NULL ? (size_t)(nl - buf) + 1 : size;
        /* half a line waits for its end, unless it fills the buffer or there is no more */
        if (nl == NULL && (at > 0 || size < sizeof buf) && (!last || size == sizeof buf))
            break;
        /* a marker may stand behind a line without an end */
        char *marker = memmem(buf + at, end - at, MARKER, sizeof MARKER - 1);
        if (marker != NULL && marker > buf + at && nl != NULL) {
            cb(arg, log, buf + from, (size_t)(marker - buf) - from);
            at = from = (size_t)(marker - buf);
            continue;
        }
        if (end - at > sizeof MARKER - 1 && memcmp(buf + at, MARKER, sizeof MARKER - 1) == 0
            && nl != NULL) {
            if (at > from)
                cb(arg, log, buf + from, at - from);
            snprintf(log->name,
                     sizeof log->name,
                     "%.*s",
                     (int)(end - at - sizeof MARKER),
                     buf + at + sizeof MARKER - 1);
            from = end;
        }
        if (nl == NULL && last && is_cut_marker(buf + at, end - at)) {
            if (at > from)
                cb(arg, log, buf + from, at - from);
            from = end;
        }
        at = end;
    }
    if (at > from)
        cb(arg, log, buf + from, at - from);
    log->offset += at;
    return size == sizeof buf;
}

void worker_log_tail(const struct worker_log *log, char *out, size_t size)
{
    char buf[1024];
    off_t end = log->fd < 0 ? 0 : lseek(log->fd, 0, SEEK_END);
    off_t start = end > (off_t)sizeof buf - 1 ? end - (off_t)sizeof buf + 1 : 0;
    ssize_t n = end > 0 ? pread(log->fd, buf, (size_t)(end - start), start) : 0;

    out[0] = '\0';
    while (n > 0 && buf[n - 1] == '\n')
        n--;
    if (n <= 0)
        return;
    buf[n] = '\0';
    const char *line = strrchr(buf, '\n');
    snprintf(out, size, "%s", line != NULL ? line + 1 : buf);
}

void worker_log_remove_empty(const struct worker_log *log)
{
    struct stat at, open_one;

    if (log->fd >= 0 && stat(log->path, &at) == 0 && fstat(log->fd, &open_one) == 0
        && at.st_ino == open_one.st_ino && at.st_dev == open_one.st_dev && at.st_size == 0)
        unlink(log->path);
}

void worker_log_close(struct worker_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    log->fd = -1;
}
