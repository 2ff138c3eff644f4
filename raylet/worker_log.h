/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WORKER_LOG_H
#define RAYLET_WORKER_LOG_H
/*
 * One log file of a worker: made by the raylet, written by the worker, read here line by line for
 * the driver's terminal. A line ":task_name:NAME" (Ray's marker) names the task that the following
 * lines are of.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

struct worker_log {
    int fd;          /* -1: none */
    uint64_t offset; /* read up to here */
    uint32_t stream; /* 1 stdout, 2 stderr */
    char name[64];   /* of the task */
    char path[320];
};

/* text: whole lines (each with its newline) of one task. */
typedef void (*worker_log_f)(void *arg,
                             const struct worker_log *log,
                             const char *text,
                             size_t size);

/* Create the file; on a full disk /dev/null takes its place. -1 with err: log->fd is -1. */
int worker_log_create(struct worker_log *log, const char *path, uint32_t stream, struct err *err);
int worker_log_rename(struct worker_log *log, const char *path);
/* Give new lines to cb; with last, a line without an end too. true: there may be more (64 KiB a
 * call). */
bool worker_log_read(struct worker_log *log, bool last, worker_log_f cb, void *arg);
/* The last non-empty line, for a sentence about a start that failed. */
void worker_log_tail(const struct worker_log *log, char *out, size_t size);
/* Removes the file if nothing was ever written to it. */
void worker_log_remove_empty(const struct worker_log *log);
void worker_log_close(struct worker_log *log);

#endif /* RAYLET_WORKER_LOG_H */
