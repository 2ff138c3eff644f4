/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raylet of a node: frames go to the lease table and the pool, and what they decide becomes
 * frames and processes, in the order of node.c and its parts.
 */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "tests/sim/sim.h"

#define TICK_NS       (100 * MS)
#define LEAVING_TICKS 4 /* before the raylet would kill for a lease that does not end */

static uint64_t now_ms(void)
{
    return sim.now / MS;
}

static struct sim_event to_process(const struct node *n,
                                   enum sim_kind kind,
                                   const struct process *p,
                                   uint64_t id)
{
    return (struct sim_event){.kind = kind,
                              .node = n->number,
                              .slot = p->slot,
                              .serial = p->serial,
                              .id = id};
}

static void name_peer(struct sim_event *e, const struct process *p)
{
    e->peer = p->slot;
    e->peer_serial = p->serial;
}

static unsigned count_workers(const struct node *n)
{
    struct worker_pool_stats stats;

    worker_pool_get_stats(n->pool, &stats);
    return stats.n_leased + stats.n_idle;
}

/* --- actions of the lease table --- */

static void grant(struct node *n,
                  const struct lease_action *a,
                  struct process *o,
                  struct process *w)
{
    struct sim_event begin = to_process(n, BEGIN, w, a->lease);
    struct sim_event e = to_process(n, GRANT, o, a->lease);

    if (n->lease_of[w->slot] != 0)
        sim_caught(n, "a worker has two leases"); /* INV-10 */
    n->lease_of[w->slot] = a->lease;
    name_peer(&begin, o);
    name_peer(&e, w);
    e.mask = a->ticket;
    sim_send(&w->from_raylet, begin);
    sim_send(&o->from_raylet, e);
}

static void tell_dead(struct node *n, const struct lease_action *a, struct process *o)
{
    const struct process *w = n->processes[a->worker];
    struct sim_event e = to_process(n, DEAD, o, a->lease);

    name_peer(&e, w);
    e.phase = w->mask_lease == a->lease;
    e.mask = w->started;
    if (sim.fault != FAULT_DEATH_OVERTAKES && o->from_raylet < w->to[o->slot])
        o->from_raylet = w->to[o->slot]; /* the owner reads the channel dry first */
    sim_send(&o->from_raylet, e);
}

/* Then a refusal is a shortage: the owner asks again. */
static bool some_serve(const struct node *n)
{
    return count_workers(n) > 0;
}

static void carry_out(struct node *n, const struct lease_action *a)
{
    struct process *o = n->processes[a->owner], *w = n->processes[a->worker];
    struct sim_event e;

    switch (a->kind) {
    case LEASE_START:
        worker_pool_request(n->pool, now_ms(), &n->pa);
        break;
    case LEASE_UNSTART:
        worker_pool_cancel(n->pool);
        break;
    case LEASE_GRANT:
        if (o == NULL || w == NULL)
            sim_caught(n, "a grant names a process that is gone"); /* INV-12 */
        else
            grant(n, a, o, w);
        break;
    case LEASE_CANCELED:
    case LEASE_REFUSED:
    case LEASE_REJECTED:
        if (o == NULL) {
            sim_caught(n, "an answer to a process that is gone");
            break;
        }
        e = to_process(n, a->kind == LEASE_CANCELED ? CANCELED : REFUSED, o, a->ticket);
        e.count = a->count;
        e.phase = some_serve(n);
        sim_send(&o->from_raylet, e);
        break;
    case LEASE_REVOKE:
        e = to_process(n, REVOKE, w, a->lease);
        e.count = a->grace_ms;
        sim_send(&w->from_raylet, e);
        break;
    case LEASE_RELEASE:
        n->lease_of[a->worker] = 0;
        worker_pool_release(n->pool, w->serial, now_ms(), &n->pa);
        break;
    case LEASE_KILL:
        if (n->leaving)
            sim_caught(n, "a lease did not end");
        else if (w->alive)
            process_die(w);
        break;
    case LEASE_DEAD:
        if (o == NULL)
            sim_caught(n, "a death notice for a process that is gone");
        else
            tell_dead(n, a, o);
        break;
    case LEASE_WARN:
        sim_caught(n, "a class is said to be infeasible");
        break;
    }
}

static void run_leases(struct node *n)
{
    for (size_t i = 0; i < n->la.n; i++) {
        struct lease_action a = n->la.v[i];
        carry_out(n, &a);
    }
    n->la.n = 0;
}

/* --- actions of the pool --- */

static struct process *by_token(const struct node *n, uint64_t token)
{
    for (uint32_t s = 0; s < SIM_SLOTS; s++)
        if (n->processes[s] != NULL && s != SIM_DRIVER && n->processes[s]->serial == token)
            return n->processes[s];
    return NULL;
}

static void spawn(struct node *n, uint64_t token)
{
    uint32_t s = SIM_DRIVER + 1;

    while (n->processes[s] != NULL)
        s++;
    ASSERT(s < SIM_SLOTS);
    struct process *p = n->processes[s] = process_create(n, s, token);
    struct sim_event e = {.kind = HELLO,
                          .node = n->number,
                          .slot = s,
                          .serial = token,
                          .at = sim.now + 100000 + sim_below(MS)};
    if (sim_one_in(256)) /* it never says anything */
        return;
    if (sim_one_in(100))
        n->bad_until = sim.now + sim_below(100 * MS);
    if (sim.now < n->bad_until || sim_one_in(64)) { /* it ends before it can serve */
        e.kind = EXITED;
        p->alive = false;
    }
    sim_post(e);
    p->to_raylet = e.at;
}

static void run_pool(struct node *n)
{
    for (size_t i = 0; i < n->pa.n; i++) { /* grows meanwhile */
        struct worker_pool_action a = n->pa.v[i];
        struct process *p = by_token(n, a.token);
        switch (a.kind) {
        case WORKER_POOL_SPAWN:
            spawn(n, a.token);
            break;
        case WORKER_POOL_GRANT:
            if (p != NULL)
                lease_worker_ready(n->leases, 1, p->slot, now_ms(), &n->la);
            else
                worker_pool_request(n->pool, now_ms(), &n->pa);
            break;
        case WORKER_POOL_EXIT:
            sim_send(&p->from_raylet, to_process(n, EXIT, p, 0));
            break;
        case WORKER_POOL_KILL:
            if (p != NULL && p->alive)
                process_die(p);
            break;
        case WORKER_POOL_FAIL:
            lease_worker_failed(n->leases, 1, "no worker", now_ms(), &n->la);
            break;
        }
    }
    n->pa.n = 0;
}

static void turn_end(struct node *n)
{
    while (n->la.n > 0 || n->pa.n > 0) {
        run_leases(n);
        run_pool(n);
    }
}

/* --- events --- */

static void gone(struct node *n, struct process *p)
{
    uint64_t token = p->serial;

    if (n->meeting_of == token && n->n_missing > 0)
        n->n_missing = 0; /* of the rest nobody will start */
    lease_worker_died(n->leases, p->slot, now_ms(), &n->la);
    run_leases(n); /* the notices need the control block */
    lease_owner_died(n->leases, p->slot, now_ms(), &n->la);
    n->lease_of[p->slot] = 0;
    n->processes[p->slot] = NULL;
    process_destroy(p);
    worker_pool_on_exit(n->pool, token, now_ms(), &n->pa);
}

static void request(struct node *n, const struct sim_event *e)
{
    static const char *const names[N_CLASSES] = {"short", "half", "wide", "accel", "nested"};
    static const int64_t cpus[N_CLASSES] = {RESOURCE_UNIT,
                                            RESOURCE_UNIT / 2,
                                            2 * RESOURCE_UNIT,
                                            0,
                                            RESOURCE_UNIT};
    struct res_set need = {.units = {cpus[e->task]}};

    if (e->task == CLASS_ACCEL)
        need.units[1] = RESOURCE_UNIT;
    struct lease_ask ask = {.job = 1,
                            .owner = e->slot,
                            .ticket = e->id,
                            .count = e->count,
                            .need = &need,
                            .name = names[e->task]};
    lease_request(n->leases, &ask, now_ms(), &n->la);
}

/* No frame is under way, no task pending, no program running. */
static bool is_quiet(const struct node *n)
{
    if (n->n_frames > 0 || n->n_deferred > 0)
        return false;
    for (uint32_t s = 0; s < SIM_SLOTS; s++) {
        const struct process *p = n->processes[s];
        if (p != NULL && (p->n_pending > 0 || p->program.running))
            return false;
    }
    return true;
}

static void check_agreement(const struct node *n)
{
    struct lease_stats raylet;
    uint64_t n_leases = 0;

    lease_get_stats(n->leases, 0, &raylet);
    for (uint32_t s = 0; s < SIM_SLOTS; s++) {
        const struct process *p = n->processes[s];
        struct submit_stats owner;
        if (p == NULL)
            continue;
        submit_get_stats(p->submit, &owner);
        n_leases += owner.n_leases;
        for (size_t t = 0; t < p->n_owed; t++)
            if (p->owed[t] > 0)
                sim_caught(n, "a request was never answered"); /* INV-18 */
        if (owner.n_units > 0 || owner.n_queued + owner.n_in_windows > 0)
            sim_caught(n, "an owner without tasks still asks");
    }
    if (raylet.n_leased != n_leases || raylet.n_queued + raylet.n_starting > 0)
        sim_caught(n, "raylet and owners disagree about leases");
    if (raylet.n_blocked > 0)
        sim_caught(n, "a worker is blocked though nothing runs");
}

static void check_tasks(const struct node *n)
{
    for (size_t i = 0; i < n->n_tasks; i++) {
        const struct sim_task *t = &n->tasks[i];
        if (process_find(n, t->owner, t->owner_serial) == NULL)
            continue;
        if (t->n_ended != 1)
            sim_caught(n, "a task did not end");
        else if (t->by_argument || t->by_refusal ? t->n_started != t->attempt
                                                 : t->n_started != t->attempt + 1)
            sim_caught(n, "attempts spent are not the attempts started");
        else if (t->failed && !t->by_argument && !t->by_refusal && t->attempt < 3)
            sim_caught(n, "a task failed before its last attempt");
    }
}

/* Nothing is owned any more: the ledger is full, no lease and no ref is left. */
static void check_end(const struct node *n)
{
    struct lease_stats raylet;
    struct worker_pool_stats pool;

    lease_get_stats(n->leases, 0, &raylet);
    worker_pool_get_stats(n->pool, &pool);
    for (unsigned i = 0; i < n->resources.n; i++)
        if (n->resources.available[i] != n->resources.total[i])
            sim_caught(n, "resources are not back");
    if (raylet.n_leased > 0 || pool.n_leased > 0 || pool.n_wanted > 0)
        sim_caught(n, "a lease never ended");
    for (uint32_t s = 0; s < SIM_SLOTS; s++) {
        const struct process *p = n->processes[s];
        struct submit_stats owner;
        if (p == NULL)
            continue;
        submit_get_stats(p->submit, &owner);
        if (owner.n_leases > 0)
            sim_caught(n, "an owner still has a lease");
        if (ref_table_live(p->refs) > 0)
            sim_caught(n, "a record is left over");
    }
}

static void leave(struct node *n)
{
    check_agreement(n);
    check_tasks(n);
    n->leaving = true;
    for (uint32_t s = 0; s < SIM_SLOTS; s++)
        if (n->processes[s] != NULL)
            lease_owner_died(n->leases, s, now_ms(), &n->la);
}

/* As node_time.c: without a deadline the raylet sleeps until somebody speaks to it. */
static void arm(struct node *n)
{
    uint64_t at = lease_next_deadline(n->leases, count_workers(n), n->temper.n_cpus);
    uint64_t pool = worker_pool_next_deadline(n->pool);

    if (pool < at)
        at = pool;
    if (at == UINT64_MAX)
        return;
    at = at > now_ms() ? at * MS : sim.now + MS;
    if (at >= n->due)
        return;
    n->due = at;
    sim_post((struct sim_event){.kind = DUE, .node = n->number, .at = at});
}

static void on_due(struct node *n)
{
    unsigned n_workers = count_workers(n), n_cpus = n->temper.n_cpus;

    n->due = UINT64_MAX;
    if (now_ms() >= lease_next_deadline(n->leases, n_workers, n_cpus))
        lease_on_time(n->leases, n_workers, n_cpus, now_ms(), &n->la);
    if (now_ms() >= worker_pool_next_deadline(n->pool))
        worker_pool_on_time(n->pool, now_ms(), &n->pa);
}

static void on_tick(struct node *n)
{
    if (!n->leaving && is_quiet(n)) {
        leave(n);
    } else if (n->leaving && n->n_ticks_leaving++ == LEAVING_TICKS) {
        check_end(n);
        n->over = true;
        return;
    }
    if (!n->leaving && sim_one_in(n->temper.raylet_stop_one))
        sim_post((struct sim_event){.kind = RAYLET_STOP,
                                    .node = n->number,
                                    .at = sim.now + sim_below(TICK_NS)});
    sim_post((struct sim_event){.kind = TICK, .node = n->number, .at = sim.now + TICK_NS});
}

static void handle(struct node *n, const struct sim_event *e)
{
    struct process *p = process_find(n, e->slot, e->serial);

    if (e->kind == TICK)
        on_tick(n);
    else if (p == NULL || (e->kind == DUE && e->at != n->due))
        return;
    else if (e->kind == DUE)
        on_due(n);
    else if (e->kind == REQUEST)
        request(n, e);
    else if (e->kind == CANCEL)
        lease_cancel(n->leases, e->slot, e->id, now_ms(), &n->la);
    else if (e->kind == RETURN)
        lease_return(n->leases, e->slot, e->id, now_ms(), &n->la);
    else if (e->kind == ENDED)
        lease_ended(n->leases, e->slot, e->id, now_ms(), &n->la);
    else if (e->kind == BLOCKED)
        lease_blocked(n->leases, e->slot, e->id, now_ms(), &n->la);
    else if (e->kind == UNBLOCKED)
        lease_unblocked(n->leases, e->slot, e->id);
    else if (e->kind == EXITED)
        gone(n, p);
    else if (!worker_pool_on_registered(n->pool, e->serial, now_ms(), &n->pa))
        sim_caught(n, "a start-up token was refused");
    turn_end(n);
    arm(n);
    if (e->order % 16 == 0) {
        lease_selfcheck(n->leases);
        worker_pool_selfcheck(n->pool);
    }
}

static void stop(struct node *n)
{
    if (n->stopped)
        return;
    n->stopped = true;
    sim_post((struct sim_event){.kind = RAYLET_GO_ON,
                                .node = n->number,
                                .at = sim.now + sim_below(sim_one_in(16) ? 4000 * MS : 20 * MS)});
}

static void defer(struct node *n, const struct sim_event *e)
{
    if (n->n_deferred == n->deferred_room) {
        n->deferred_room = 2 * n->deferred_room + 16;
        n->deferred = xrealloc(n->deferred, n->deferred_room * sizeof *n->deferred);
    }
    n->deferred[n->n_deferred++] = *e;
}

void raylet_on_event(struct node *n, const struct sim_event *e)
{
    if (e->kind == RAYLET_STOP) {
        stop(n);
    } else if (e->kind == RAYLET_GO_ON) {
        n->stopped = false;
        for (size_t i = 0; i < n->n_deferred; i++)
            handle(n, &n->deferred[i]);
        n->n_deferred = 0;
    } else if (n->stopped) {
        defer(n, e);
    } else {
        handle(n, e);
    }
}

static struct temper some_temper(void)
{
    static const unsigned cpus[] = {SIM_CPUS, SIM_CPUS, 3, 2, 1}, kills[] = {60, 60, 400, 12, 0},
                          stops[] = {80, 80, 10, 0}, raylet_stops[] = {0, 0, 20, 2};
    struct temper t = {.n_cpus = cpus[sim_below(5)],
                       .kill_one = kills[sim_below(5)],
                       .stop_one = stops[sim_below(4)],
                       .raylet_stop_one = raylet_stops[sim_below(4)],
                       .nested_one = 3,
                       .max_depth = 3,
                       .max_children = 4};

    if (sim_one_in(4)) { /* fewer calls, but long chains of them */
        t.nested_one = 16;
        t.max_depth = 12;
        t.max_children = 1;
    }
    return t;
}

void raylet_begin(struct node *n)
{
    n->temper = some_temper();
    n->due = UINT64_MAX;
    unsigned n_cpus = n->temper.n_cpus;
    struct worker_pool_config config = {.start_limit = n_cpus,
                                        .keep = n_cpus,
                                        .max = SIM_SLOTS - 1};

    resources_init(&n->resources, n_cpus * RESOURCE_UNIT);
    ASSERT(resources_add(&n->resources, "accel", SIM_ACCELS * RESOURCE_UNIT, NULL) == 0);
    n->leases = lease_table_create(&n->resources);
    n->pool = worker_pool_create(&config);
    n->processes[SIM_DRIVER] = process_create(n, SIM_DRIVER, 0);
    worker_pool_prestart(n->pool, n_cpus, 0, &n->pa);
    turn_end(n);
    arm(n);
    sim_post((struct sim_event){.kind = TICK, .node = n->number, .at = sim_below(TICK_NS)});
}

void raylet_end(struct node *n)
{
    for (uint32_t s = 0; s < SIM_SLOTS; s++)
        process_destroy(n->processes[s]);
    lease_table_destroy(n->leases);
    worker_pool_destroy(n->pool);
    free(n->deferred);
    free(n->la.v);
    free(n->pa.v);
    free(n->tasks);
}
