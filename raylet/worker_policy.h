/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WORKER_POLICY_H
#define RAYLET_WORKER_POLICY_H
/*
 * The pool's pure choices, functions over const data: how many to start, how many to retire, whose
 * time is over, when to give up. Which idle worker is taken (the one used last) and retired (the
 * one idle longest) is the idle list's order.
 */
#include <stdbool.h>
#include <stdint.h>

#define WORKER_POOL_TRIES       5
#define WORKER_POOL_REGISTER_MS 10000
#define WORKER_POOL_IDLE_MS     1000 /* a surplus worker idle this long is retired */
#define WORKER_POOL_EXIT_MS     2000 /* one that was told to end and did not is killed */
/* One that may answer that it stays is killed after this: with it goes what it owns, and CPUs may
 * be so busy that it has not heard yet. */
#define WORKER_POOL_ANSWER_MS 60000

struct worker_pool_config {
    unsigned start_limit; /* starting at once */
    unsigned keep;        /* idle and leased workers kept */
    unsigned max;         /* processes in all */
};

struct worker_view {
    unsigned n_starting, n_idle, n_leased, n_exiting;
    unsigned n_wanted, n_prestart;
};

unsigned worker_policy_n_to_start(const struct worker_pool_config *c, const struct worker_view *v);
/* Idle ones beyond what is kept. */
unsigned worker_policy_n_surplus(const struct worker_pool_config *c, const struct worker_view *v);
bool worker_policy_is_over(uint64_t since_ms, uint64_t now_ms, uint64_t limit_ms);
bool worker_policy_gives_up(unsigned n_failed);

#endif /* RAYLET_WORKER_POLICY_H */
