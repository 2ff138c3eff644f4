/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WORKER_POOL_H
#define RAYLET_WORKER_POOL_H
/*
 * The set of worker processes of this node and nothing else: start them within a limit, wait for
 * each to register with its start-up token, keep idle ones, hand them out, take them back, retire
 * surplus ones, notice death. It does not decide which task runs, count resources, or touch
 * processes. Pure.
 *
 *     STARTING -> IDLE <-> LEASED -> (EXITING) -> gone
 *        |  no HELLO in time, or exit before it: started again, at most WORKER_POOL_TRIES in a row,
 * then FAIL
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORKER_POOL_TRIES       5
#define WORKER_POOL_REGISTER_MS 10000
#define WORKER_POOL_IDLE_MS     1000 /* a surplus worker idle this long is retired */

enum worker_state {
    WORKER_STARTING,
    WORKER_IDLE,
    WORKER_LEASED,
    WORKER_EXITING,
};

struct worker_pool_config {
    unsigned start_limit; /* starting at once */
    unsigned keep;        /* idle workers kept */
    unsigned max;         /* processes in all */
};

enum worker_pool_kind {
    WORKER_POOL_SPAWN, /* token: start a process */
    WORKER_POOL_GRANT, /* token: this worker answers one request */
    WORKER_POOL_EXIT,  /* token: ask it to end */
    WORKER_POOL_KILL,  /* token: it never registered */
    WORKER_POOL_FAIL,  /* every waiting request, with text */
};

struct worker_pool_action {
    enum worker_pool_kind kind;
    uint64_t token;
};

struct worker_pool_actions {
    struct worker_pool_action *v;
    size_t n, room;
};

struct worker_pool_stats {
    unsigned n_starting, n_idle, n_leased, n_exiting, n_wanted;
};

struct worker_pool;

struct worker_pool *worker_pool_create(const struct worker_pool_config *config);
void worker_pool_destroy(struct worker_pool *p);

/* One worker is wanted; answered by one GRANT or by FAIL. */
void worker_pool_request(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out);
/* One less. */
void worker_pool_cancel(struct worker_pool *p);
/* Have n workers ready before anybody asks. */
void worker_pool_prestart(struct worker_pool *p,
                          unsigned n,
                          uint64_t now_ms,
                          struct worker_pool_actions *out);
/* Said HELLO. false: the token is unknown or used: not one of ours. */
bool worker_pool_on_registered(struct worker_pool *p,
                               uint64_t token,
                               uint64_t now_ms,
                               struct worker_pool_actions *out);
/* Its process is gone, or was never made. */
void worker_pool_on_exit(struct worker_pool *p,
                         uint64_t token,
                         uint64_t now_ms,
                         struct worker_pool_actions *out);
void worker_pool_release(struct worker_pool *p,
                         uint64_t token,
                         uint64_t now_ms,
                         struct worker_pool_actions *out);
void worker_pool_on_time(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out);

void worker_pool_get_stats(const struct worker_pool *p, struct worker_pool_stats *out);
void worker_pool_selfcheck(const struct worker_pool *p);

#endif /* RAYLET_WORKER_POOL_H */
