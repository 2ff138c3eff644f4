/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum log_level log_threshold = LOG_LEVEL_INFO;
static int log_fd = -1;

void log_set_fd(int fd)
{
    log_fd = fd;
}

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
    (void)r; /* a log on a full disk: nothing better can be done */
}
