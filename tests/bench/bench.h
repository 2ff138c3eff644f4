/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H
/*
 * One row of figures: what was measured, the physical limit measured in the same run, and the
 * budget as a ratio to it. Rows are collected and printed at the end as a table or as one JSON
 * array.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct row {
    const char *name;
    double value;
    const char *unit;
    double limit;           /* 0: none */
    const char *limit_name; /* "" when none */
    double budget;          /* of the ratio value / limit; 0: none */
    bool higher_is_better;
};

void bench_add(struct row row);
/* Sorts v; the q-quantile (0..1). */
double bench_quantile(double *v, size_t n, double q);
/* Resident memory of this process. */
long bench_rss_kb(void);

/* objects.c: the rows of objects, in a process that has not used Ray. */
void bench_objects(bool quick);
/* transfer.c: the row of bulk transfer between two stores; memory is fresh. */
void bench_transfer(bool quick);

/* Frames of 64 B on a bare gRPC stream, per second; 0 until bench_sessions has run. */
extern double bench_stream_frames;
/* nodes.c: the rows of nodes; needs redis-server. */
void bench_nodes(bool quick);
/* sessions.c: the rows of sessions between raylets, in a process without gRPC. */
void bench_sessions(bool quick);

/* sync.c: what news of nodes cost, in a process without gRPC. */
void bench_sync(bool quick);

/* view.c: who could take a request, of a thousand nodes. */
void bench_view(void);

/* limits.c: what the machine can do, each measured now */

/* Round trips over a unix socket pair between two processes that wait by the rule of D13;
 * microseconds. */
void limit_ping_pong(double *p50_us, double *p99_us);
/* Packed frames out and answers back through n_workers unix sockets, window 64; frames per second.
 */
double limit_frames_per_s(int n_workers, size_t n_frames);
/* fork of a small process until the child's first byte arrives; microseconds. */
double limit_fork_us(void);
/* posix_spawn of /bin/true until reaped; milliseconds. */
double limit_spawn_ms(void);
/* Busy user code: n processes at nice +10, ended by hogs_stop. */
void hogs_start(int n);
void hogs_stop(void);

#endif /* TESTS_BENCH_BENCH_H */
