/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_SUPERVISE_PRIVATE_H
#define CMD_RAY_SUPERVISE_PRIVATE_H
/*
 * A supervisor and the parts of its node, for the files that make it up.
 *
 *   supervise.c          the parts: their order, their ends
 *   supervise_command.c  what they are started with: words and environment
 *   supervise_report.c   what the user is told of the start
 */
#include "cmd/ray/daemon.h"
#include "cmd/ray/redis.h"
#include "cmd/ray/supervise.h"
#include "lib/net/loop.h"
#include "raylet/node_file.h"
#include "raylet/session.h"

enum part_id { REDIS, GCS, RAYLET, N_PARTS };
enum phase { STARTING, RUNNING, ENDING };

struct part {
    struct supervisor *s;
    enum part_id id;
    struct daemon *daemon; /* NULL: this node has none */
    bool is_ready;
    uint64_t started_ms;
    uint32_t delay_ms; /* before it is started again; 0: it ended not yet, or long ago */
    struct loop_timer *again;
};

struct supervisor {
    const struct start_options *o;
    struct report *report;
    struct loop *loop;
    enum phase phase;
    bool has_reported;
    int status;
    struct session session;
    struct node_file file;
    struct part parts[N_PARTS];
    struct daemon *teller; /* tells the GCS that the raylet was killed; or NULL */
    struct redis_watch *redis;
    char redis_password[REDIS_PASSWORD_SIZE];
    int gcs_port; /* 0: none yet */
    uint64_t began_ms;
    struct loop_timer *slow, *timeout, *grace;
    struct loop_watch *term, *interrupt, *hangup, *listener;
};

extern const char *const part_names[N_PARTS];

/* --- supervise_command.c --- */
int supervisor_start_part(struct part *p, struct err *err);
/* The command that tells the GCS what became of the raylet. */
int supervisor_start_teller(struct supervisor *s, const char *what, struct err *err);

/* --- supervise_report.c --- */
/* Once; then nobody listens. */
void supervisor_end_report(struct supervisor *s, bool is_ready, const char *text);
void supervisor_say_ready(struct supervisor *s);
/* What has failed before there were parts; to be freed. NULL: no memory. */
char *supervisor_explain(const struct supervisor *s, const char *what);
/* What is to be said of this part, and the ends of its logs; to be freed. NULL: no memory. */
char *supervisor_describe(struct supervisor *s, enum part_id id, const char *what);

#endif /* CMD_RAY_SUPERVISE_PRIVATE_H */
