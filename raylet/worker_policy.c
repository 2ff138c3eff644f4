/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_policy.h"

static unsigned at_most(unsigned n, unsigned limit)
{
    return n < limit ? n : limit;
}

unsigned worker_policy_n_to_start(const struct worker_pool_config *c, const struct worker_view *v)
{
    unsigned n_processes = v->n_starting + v->n_idle + v->n_leased + v->n_exiting;
    unsigned target = v->n_wanted > v->n_prestart ? v->n_wanted : v->n_prestart;

    target = at_most(target, c->start_limit);
    if (target <= v->n_starting || n_processes >= c->max)
        return 0;
    return at_most(target - v->n_starting, c->max - n_processes);
}

unsigned worker_policy_n_surplus(const struct worker_pool_config *c, const struct worker_view *v)
{
    unsigned n = v->n_idle + v->n_leased;

    return n > c->keep ? at_most(n - c->keep, v->n_idle) : 0;
}

bool worker_policy_is_over(uint64_t since_ms, uint64_t now_ms, uint64_t limit_ms)
{
    return now_ms >= since_ms && now_ms - since_ms >= limit_ms;
}

bool worker_policy_gives_up(unsigned n_failed)
{
    return n_failed >= WORKER_POOL_TRIES;
}
