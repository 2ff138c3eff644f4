/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_SUPERVISE_H
#define CMD_RAY_SUPERVISE_H
/*
 * The supervisor of a node (DESIGN §2): starts its daemons in order, starts redis-server and
 * gcs_server again when they end, and ends the node when it is told to or the raylet has ended.
 */
#include "cmd/ray/start.h"

/* How the start goes: sentences for the user on steps, on what takes long, and one on its end. From
 * a supervisor in the background they go over a pipe (start.c). */
struct report {
    int fd;         /* -1: it was told its end, or nobody listens */
    bool is_direct; /* to the user: stdout, stderr */
    bool is_verbose;
};
void report_step(struct report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void report_wait(struct report *r, const char *text);
/* Once: it is ready, or it failed. */
void report_end(struct report *r, bool is_ready, const char *text);

/* Until the node has ended; the exit status. */
int supervise(const struct start_options *o, struct report *r);

#endif /* CMD_RAY_SUPERVISE_H */
