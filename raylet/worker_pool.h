/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WORKER_POOL_H
#define RAYLET_WORKER_POOL_H
/*
 * The set of worker processes of this node and nothing else: start them within a limit, wait for
 * each to register with its start-up token, keep idle ones, hand them out, take them back, retire
 * surplus ones, notice death. It does not decide which task runs, count resources, or touch
 * processes. Its choices are worker_policy's. Pure.
 *
 *     STARTING -> IDLE <-> LEASED      each of them -> gone, when its process is
 *        |         |
 *        +---------+-> EXITING         told to end or killed: not to be had any more (INV-5)
 *
 * A surplus worker may answer that it STAYS, since others need what it owns; then it is IDLE again.
 * A start that fails (exit or timeout before HELLO) is tried again; WORKER_POOL_TRIES in a row are
 * a FAIL.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "raylet/worker_policy.h"

enum worker_state {
    WORKER_STARTING,
    WORKER_IDLE,
    WORKER_LEASED,
    WORKER_EXITING,
};

enum worker_pool_kind {
    WORKER_POOL_SPAWN, /* token: start a process */
    WORKER_POOL_GRANT, /* token: it answers one request; if it has died since, request again */
    WORKER_POOL_EXIT,  /* token: ask it to end; it may_stay, if it says so */
    WORKER_POOL_KILL,  /* token: it did not register, or not end, in time; may come again */
    WORKER_POOL_FAIL, /* every waiting request; its text is the caller's, who saw the starts fail */
};

struct worker_pool_action {
    enum worker_pool_kind kind;
    bool may_stay;
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
/* Its lease has ended. Ignored unless it is LEASED. */
void worker_pool_release(struct worker_pool *p,
                         uint64_t token,
                         uint64_t now_ms,
                         struct worker_pool_actions *out);
/* Asked to end, it said that it stays. Ignored unless it was allowed to. */
void worker_pool_on_stays(struct worker_pool *p,
                          uint64_t token,
                          uint64_t now_ms,
                          struct worker_pool_actions *out);
void worker_pool_on_time(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out);
/* Take no work any more: requests fail, idle workers are told to end, starting ones are killed,
 * leased ones end when released. Drained when no worker is left in the stats. */
void worker_pool_drain(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out);

/* From now on as many idle and leased workers are kept. */
void worker_pool_set_keep(struct worker_pool *p, unsigned keep);

/* When worker_pool_on_time has something to do; UINT64_MAX: never. */
uint64_t worker_pool_next_deadline(const struct worker_pool *p);
void worker_pool_get_stats(const struct worker_pool *p, struct worker_pool_stats *out);
void worker_pool_selfcheck(const struct worker_pool *p);

#endif /* RAYLET_WORKER_POOL_H */
