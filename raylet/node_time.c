/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One timer for all that becomes due by itself, armed for the nearest deadline; without a deadline
 * there is none, and the raylet sleeps until somebody speaks to it. A deadline that moves away, but
 * not the last that goes, is noticed when the timer fires: in most turns there is nothing to do.
 */
#include "raylet/node_private.h"

static void on_due(void *arg)
{
    struct node *n = arg;
    unsigned n_workers = job_count_workers(n), n_cpus = (unsigned)n->config.num_cpus;
    uint64_t now = loop_now_ms();

    n->due_ms = UINT64_MAX; /* armed anew at the turn's end */
    if (now >= lease_next_deadline(n->leases, n_workers, n_cpus))
        lease_on_time(n->leases, n_workers, n_cpus, now, &n->lease_actions);
    list_for_each(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (now >= worker_pool_next_deadline(j->pool))
            worker_pool_on_time(j->pool, now, &j->pool_actions);
    }
    if (now >= command_run_next_deadline(n))
        command_run_on_time(n, now);
    if (now >= store_next_deadline(n->store))
        store_on_time(n->store, now, &n->store_actions);
    if (now >= seek_run_next_deadline(n))
        seek_run_on_time(n, now);
}

void node_time_arm(struct node *n)
{
    uint64_t at =
        lease_next_deadline(n->leases, job_count_workers(n), (unsigned)n->config.num_cpus);
    uint64_t coming = command_run_next_deadline(n), store = store_next_deadline(n->store);
    uint64_t seek = seek_run_next_deadline(n), now;

    list_for_each(m, &n->jobs)
    {
        uint64_t pool = worker_pool_next_deadline(list_entry(m, struct job, node)->pool);
        if (pool < at)
            at = pool;
    }
    if (coming < at)
        at = coming;
    if (store < at)
        at = store;
    if (seek < at)
        at = seek;
    if (at == UINT64_MAX && n->due != NULL) {
        loop_timer_end(n->due);
        n->due = NULL;
        n->due_ms = UINT64_MAX;
    }
    if (at >= n->due_ms)
        return;
    now = loop_now_ms();
    uint32_t ms = at > now ? (uint32_t)(at - now) : 1;
    if (n->due == NULL)
        n->due = loop_after(n->loop, ms, on_due, n);
    else
        loop_timer_again(n->due, ms);
    if (n->due != NULL)
        n->due_ms = at;
}
