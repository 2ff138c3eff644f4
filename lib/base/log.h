/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_LOG_H
#define LIB_BASE_LOG_H
/*
 * logfmt lines of daemons: `ts=.. level=.. component=.. event=.. key=value ... msg="..."`. The
 * event is a short fixed word; fmt writes the key=value part. Level `broken` means a bug of ours:
 * tests fail on any they did not announce. Any thread; one write(2) a line. A file that grows too
 * large is set aside and a new one begun, as logrotate names them: FILE.1 is the newest.
 */
#include <stdint.h>

#include "lib/base/err.h"

enum log_level {
    LOG_LEVEL_BROKEN,
    LOG_LEVEL_ERR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

extern enum log_level log_threshold; /* set once at start; read by the macros */

/* Where lines go; -1 (the start) is standard error. */
void log_set_fd(int fd);
/* Lines are appended to this file. When it has max_bytes (0: however many) it becomes path.1, a
 * former path.1 path.2 and so on up to n_backups, the last is dropped; a longer line is not cut.
 * Standard error goes along if it is the same file. Others may append to it and rotate it too. On a
 * full disk, or without a descriptor, it just grows until there is room. Once, before other
 * threads; path is copied. -1: lines go where they went. */
int log_open(const char *path, uint64_t max_bytes, unsigned n_backups, struct err *err);
/* To standard error again. */
void log_close(void);
void log_line(enum log_level level, const char *component, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define LOG_AT(level, component, event, ...)                                                       \
    do {                                                                                           \
        if ((level) <= log_threshold)                                                              \
            log_line((level), (component), (event), __VA_ARGS__);                                  \
    } while (0)
#define log_broken(component, event, ...) LOG_AT(LOG_LEVEL_BROKEN, component, event, __VA_ARGS__)
#define log_err(component, event, ...)    LOG_AT(LOG_LEVEL_ERR, component, event, __VA_ARGS__)
#define log_warn(component, event, ...)   LOG_AT(LOG_LEVEL_WARN, component, event, __VA_ARGS__)
#define log_info(component, event, ...)   LOG_AT(LOG_LEVEL_INFO, component, event, __VA_ARGS__)
#define log_debug(component, event, ...)  LOG_AT(LOG_LEVEL_DEBUG, component, event, __VA_ARGS__)

#endif /* LIB_BASE_LOG_H */
