/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim [--seed N] [--nodes N] [--bug N]: many nodes, each a driver, a raylet and its workers, on a
 * virtual clock, made of the deciding modules themselves (submit, inbox, ref_table, lease,
 * resources, worker_pool). Messages of a pair arrive in order after seeded delays; workers are
 * killed at any moment. Checked: every task ends once, an attempt is spent by those tasks that had
 * started and by no others, ledgers balance, nothing is stuck, and the same seed gives the same log
 * bit by bit.
 *
 * Without --bug it runs twice, compares the logs, then plants each bug and expects to see it
 * caught: 1 the death notice overtakes results        2 a body starts without its started bit 3 a
 * lease's end never reaches the raylet    4 a started task is handed back 5 a result is lost 6 the
 * slots' phases are forgotten at a death
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/inbox.h"
#include "lib/core/submit.h"
#include "raylet/lease.h"
#include "raylet/worker_pool.h"

#define CPUS     4
#define WORKERS  512 /* ever, per node */
#define TASKS    200 /* per driver */
#define CLASSES  1
#define OWNER    0
#define RETRIES  3
#define N_BUGS   6
#define MS       1000000ull
#define STUCK_MS 60000
#define KILL_ONE 40 /* a body in so many ends by a kill */

enum kind {
    REQUEST,
    CANCEL,
    RETURN,
    GRANT,
    CANCELED,
    DEAD,
    BEGIN,
    REVOKE,
    ENDED,
    PUSH,
    TAKE_BACK,
    DONE,
    RETURNED,
    BOUNCED,
    OWNER_ENDED,
    REGISTER,
    FINISH,
    DIE,
    TICK,
    SUBMIT,
};

struct event {
    uint64_t at, order;
    enum kind kind;
    uint32_t node, worker, count;
    uint64_t id, mask;
    uint8_t slot, phase;
    uint64_t task;
};

struct worker {
    bool made, alive, running;
    uint64_t token, lease, started, mask_lease;
    struct inbox *inbox;
    uint64_t task;                           /* running */
    uint64_t to_owner, to_worker, to_raylet; /* last delivery on each link */
};

struct node {
    struct resources resources;
    struct lease_table *leases;
    struct worker_pool *pool;
    struct ref_table *refs;
    struct submit *submit;
    struct lease_actions la;
    struct worker_pool_actions pa;
    struct submit_actions sa;
    struct inbox_actions ia;
    struct worker workers[WORKERS];
    uint64_t owner_raylet, raylet_owner;
    unsigned finished[TASKS], started[TASKS], ended[TASKS], failed[TASKS], spent[TASKS];
    unsigned n_left, settling;
};

static struct {
    struct event *heap;
    size_t n, room;
    uint64_t now, order, random, hash;
    struct node *nodes;
    uint32_t n_nodes;
    int bug;
    bool caught;
    char why[128];
} sim;

static uint64_t next_random(void)
{
    sim.random ^= sim.random << 13;
    sim.random ^= sim.random >> 7;
    sim.random ^= sim.random << 17;
    return sim.random;
}

static void caught(const char *why)
{
    if (!sim.caught)
        snprintf(sim.why, sizeof sim.why, "%s", why);
    sim.caught = true;
}

static bool before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void post(struct event e)
{
    if (sim.n == sim.room) {
        sim.room = sim.room == 0 ? 1024 : 2 * sim.room;
        sim.heap = xrealloc(sim.heap, sim.room * sizeof *sim.heap);
    }
    e.order = ++sim.order;
    size_t i = sim.n++;
    for (; i > 0 && before(&e, &sim.heap[(i - 1) / 2]); i = (i - 1) / 2)
        sim.heap[i] = sim.heap[(i - 1) / 2];
    sim.heap[i] = e;
}

static struct event pop(void)
{
    struct event top = sim.heap[0], last = sim.heap[--sim.n];
    size_t i = 0;

    for (size_t k = 1; k < sim.n; k = 2 * i + 1) {
        if (k + 1 < sim.n && before(&sim.heap[k + 1], &sim.heap[k]))
            k++;
        if (!before(&sim.heap[k], &last))
            break;
        sim.heap[i] = sim.heap[k];
        i = k;
    }
    sim.heap[i] = last;
    return top;
}

/* Send on a link: in order, after a delay of 1 us to 1 ms. */
static void send(uint64_t *link, struct event e)
{
    uint64_t at = sim.now + 1000 + next_random() % (next_random() % 8 == 0 ? MS : 30000);

    *link = at > *link ? at : *link + 1;
    e.at = *link;
    post(e);
}

static uint32_t index_of(const struct node *n)
{
    return (uint32_t)(n - sim.nodes);
}

static void run_submit(struct node *n);
static void run_raylet(struct node *n);

static void task_ended(struct node *n, struct record *r, bool failed)
{
    uint64_t i = r->counter;

    n->spent[i] = r->u.task.attempt;
    if (n->ended[i]++ > 0)
        caught("a task ended twice");
    n->failed[i] = failed;
    n->n_left--;
    ref_table_set(n->refs, r, 0, NULL, 0);
}

static void run_submit(struct node *n)
{
    for (size_t i = 0; i < n->sa.n; i++) {
        struct submit_action a = n->sa.v[i];
        struct event e = {.node = index_of(n), .count = a.count, .id = a.ticket};
        struct worker *w = a.lease != NULL ? a.lease->peer : NULL;
        e.worker = w != NULL ? (uint32_t)(w - n->workers) : 0;
        switch (a.kind) {
        case SUBMIT_PUSH:
            e.kind = PUSH;
            e.id = a.lease->id;
            e.slot = a.task->u.task.window_slot;
            e.phase = (uint8_t)a.count;
            e.task = a.task->counter;
            send(&w->to_worker, e);
            break;
        case SUBMIT_TAKE_BACK:
            e.kind = TAKE_BACK;
            e.id = a.lease->id;
            send(&w->to_worker, e);
            break;
        case SUBMIT_REQUEST:
            e.kind = REQUEST;
            e.worker = a.class;
            send(&n->owner_raylet, e);
            break;
        case SUBMIT_CANCEL:
            e.kind = CANCEL;
            send(&n->owner_raylet, e);
            break;
        case SUBMIT_RETURN:
            e.kind = RETURN;
            send(&n->owner_raylet, e);
            break;
        case SUBMIT_FAIL:
            task_ended(n, a.task, true);
            break;
        case SUBMIT_END:
            free(a.lease);
            break;
        }
    }
    n->sa.n = 0;
}

static void run_inbox(struct node *n, struct worker *w)
{
    struct event e = {.node = index_of(n), .worker = (uint32_t)(w - n->workers)};

    for (size_t i = 0; i < n->ia.n; i++) {
        const struct inbox_action *a = &n->ia.v[i];
        e.id = a->lease;
        e.mask = a->mask;
        e.count = a->asked;
        e.slot = (uint8_t)a->asked;
        if (a->kind == INBOX_RETURNED) {
            if (sim.bug == 4 && w->running && e.mask != 0)
                e.mask = UINT64_MAX;
            e.kind = RETURNED;
            send(&w->to_owner, e);
        } else if (a->kind == INBOX_BOUNCED) {
            e.kind = BOUNCED;
            send(&w->to_owner, e);
        } else {
            e.kind = OWNER_ENDED;
            send(&w->to_owner, e);
            e.kind = ENDED;
            if (sim.bug != 3 || next_random() % 4 != 0)
                send(&w->to_raylet, e);
        }
    }
    n->ia.n = 0;
    const struct inbox_task *t = w->running ? NULL : inbox_claim(w->inbox, &e.mask);
    if (t == NULL)
        return;
    memcpy(&w->task, t->push, sizeof w->task);
    if (sim.bug != 2)
        w->started = e.mask;
    w->running = true;
    n->started[w->task]++;
    e.kind = FINISH;
    e.id = w->token;
    e.slot = t->slot;
    uint64_t run = next_random() % 16 == 0 ? next_random() % (20 * MS) : next_random() % 20000;
    e.at = sim.now + run;
    if (next_random() % KILL_ONE == 0)
        e.kind = DIE;
    post(e);
}

static void run_raylet(struct node *n)
{
    while (n->la.n + n->pa.n > 0) {
        for (size_t i = 0; i < n->la.n; i++) {
            struct lease_action a = n->la.v[i];
            struct event e = {.node = index_of(n),
                              .worker = a.worker,
                              .id = a.lease,
                              .count = a.count};
            struct worker *w = &n->workers[a.worker % WORKERS];
            switch (a.kind) {
            case LEASE_START:
                worker_pool_request(n->pool, sim.now / MS, &n->pa);
                break;
            case LEASE_UNSTART:
                worker_pool_cancel(n->pool);
                break;
            case LEASE_GRANT:
                e.kind = BEGIN;
                send(&w->to_worker, e);
                e.kind = GRANT;
                e.mask = a.ticket;
                send(&n->raylet_owner, e);
                break;
            case LEASE_CANCELED:
                e.kind = CANCELED;
                e.id = a.ticket;
                send(&n->raylet_owner, e);
                break;
            case LEASE_REVOKE:
                e.kind = REVOKE;
                e.count = a.grace_ms;
                send(&w->to_worker, e);
                break;
            case LEASE_RELEASE:
                worker_pool_release(n->pool, w->token, sim.now / MS, &n->pa);
                break;
            case LEASE_DEAD:
                e.kind = DEAD;
                e.mask = w->mask_lease == a.lease ? w->started : 0;
                e.slot = w->mask_lease == a.lease;
                if (sim.bug != 1 && n->raylet_owner < w->to_owner)
                    n->raylet_owner = w->to_owner; /* the owner reads the channel dry first */
                send(&n->raylet_owner, e);
                break;
            case LEASE_REFUSED:
            case LEASE_KILL:
            case LEASE_WARN:
                caught("an action nobody asked for");
                break;
            }
        }
        n->la.n = 0;
        for (size_t i = 0; i < n->pa.n; i++) {
            struct worker_pool_action a = n->pa.v[i];
            uint32_t k = (uint32_t)(a.token % WORKERS);
            struct worker *w = &n->workers[k];
            if (a.kind == WORKER_POOL_SPAWN) {
                inbox_destroy(w->inbox);
                *w = (struct worker){.made = true, .token = a.token, .inbox = inbox_create()};
                post((struct event){.at = sim.now + 100000 + next_random() % MS,
                                    .kind = REGISTER,
                                    .node = index_of(n),
                                    .worker = k,
                                    .id = a.token});
            } else if (a.kind == WORKER_POOL_GRANT) {
                lease_worker_ready(n->leases, k, sim.now / MS, &n->la);
            } else if (a.kind == WORKER_POOL_EXIT) {
                post((struct event){.at = sim.now + 1,
                                    .kind = DIE,
                                    .node = index_of(n),
                                    .worker = k,
                                    .id = a.token});
            }
        }
        n->pa.n = 0;
    }
}

static void die(struct node *n, struct worker *w)
{
    if (!w->alive)
        return;
    w->alive = w->running = false;
    uint64_t ms = sim.now / MS;
    lease_worker_died(n->leases, (uint32_t)(w - n->workers), ms, &n->la);
    run_raylet(n);
    worker_pool_on_exit(n->pool, w->token, ms, &n->pa);
    run_raylet(n);
}

static void submit_one(struct node *n, uint64_t i)
{
    struct record *r = ref_table_new(n->refs);

    r->u.task.retries_left = RETRIES;
    r->counter = i;
    r->class = i % CLASSES;
    submit_task(n->submit, r, sim.now, &n->sa);
}

static void to_worker(struct node *n, struct worker *w, const struct event *e)
{
    if (!w->alive)
        return;
    if (e->kind == BEGIN) {
        w->started = 0;
        w->mask_lease = e->id;
        inbox_lease_begin(w->inbox, e->id);
    } else if (e->kind == REVOKE) {
        inbox_revoke(w->inbox, e->id, sim.now + e->count * MS, sim.now, &n->ia);
    } else if (e->kind == PUSH) {
        if (!inbox_push(w->inbox, e->id, e->slot, e->phase, &e->task, sizeof e->task, &n->ia))
            caught("a push to a slot that is taken");
    } else {
        inbox_take_back(w->inbox, e->id, e->count, &n->ia);
    }
    run_inbox(n, w);
}

static void to_owner(struct node *n, struct worker *w, const struct event *e)
{
    struct submit_lease *l = submit_find(n->submit, e->id);

    if (l == NULL)
        return;
    switch (e->kind) {
    case DONE: {
        struct record *r = submit_on_done(n->submit, l, e->slot, e->count, sim.now);
        if (r != NULL)
            task_ended(n, r, false);
        submit_refill(n->submit, l->class, sim.now, &n->sa);
        break;
    }
    case RETURNED:
        submit_on_returned(n->submit, l, e->mask, e->count != 0, sim.now, &n->sa);
        break;
    case BOUNCED:
        submit_on_bounced(n->submit, l, e->slot, true, sim.now, &n->sa);
        break;
    case OWNER_ENDED:
        submit_on_lease_ended(n->submit, l, sim.now, &n->sa);
        break;
    default:
        submit_on_worker_dead(n->submit,
                              l,
                              sim.bug == 6 ? 0
                              : e->slot    ? e->mask
                                           : ~l->phases,
                              sim.now,
                              &n->sa);
        break;
    }
    (void)w;
}

static void handle(const struct event *e)
{
    struct node *n = &sim.nodes[e->node];
    struct worker *w = &n->workers[e->worker];
    static const char *const names[CLASSES] = {"f"};
    struct res_set one = {.units = {RESOURCE_UNIT}};
    uint64_t ms = sim.now / MS;

    switch (e->kind) {
    case REQUEST:
        lease_request(n->leases,
                      OWNER + WORKERS,
                      e->id,
                      e->count,
                      &one,
                      names[e->worker % CLASSES],
                      ms,
                      &n->la);
        break;
    case CANCEL:
        lease_cancel(n->leases, OWNER + WORKERS, e->id, ms, &n->la);
        break;
    case RETURN:
        lease_return(n->leases, OWNER + WORKERS, e->id, &n->la);
        break;
    case ENDED:
        lease_ended(n->leases, e->worker, e->id, ms, &n->la);
        break;
    case GRANT:
        submit_on_grant(n->submit, e->mask, e->id, w, sim.now, &n->sa);
        break;
    case CANCELED:
        submit_on_canceled(n->submit, e->id, e->count, sim.now, &n->sa);
        break;
    case BEGIN:
    case REVOKE:
    case PUSH:
    case TAKE_BACK:
        to_worker(n, w, e);
        break;
    case DONE:
    case RETURNED:
    case BOUNCED:
    case OWNER_ENDED:
    case DEAD:
        to_owner(n, w, e);
        break;
    case REGISTER:
        w->alive = true;
        if (!worker_pool_on_registered(n->pool, e->id, ms, &n->pa))
            caught("a start-up token was refused");
        break;
    case FINISH:
        if (!w->alive || w->token != e->id)
            break;
        w->running = false;
        if (n->finished[w->task]++ > 0)
            caught("a task whose result was out ran again");
        if (sim.bug != 5 || next_random() % 64 != 0)
            send(&w->to_owner,
                 (struct event){.kind = DONE,
                                .node = e->node,
                                .worker = e->worker,
                                .id = inbox_lease(w->inbox),
                                .slot = e->slot,
                                .count = 10000});
        inbox_finish(w->inbox, sim.now, &n->ia);
        run_inbox(n, w);
        break;
    case DIE:
        if (w->token == e->id)
            die(n, w);
        break;
    case TICK:
        for (uint32_t k = 0; k < WORKERS; k++)
            if (n->workers[k].alive) {
                inbox_on_time(n->workers[k].inbox, sim.now, &n->ia);
                run_inbox(n, &n->workers[k]);
            }
        submit_settle(n->submit, sim.now, &n->sa);
        lease_on_time(n->leases, CPUS, CPUS, ms, &n->la);
        if (n->n_left > 0 || n->settling++ < 100)
            post((struct event){.at = sim.now + 5 * MS, .kind = TICK, .node = e->node});
        break;
    case SUBMIT:
        submit_one(n, e->task);
        break;
    }
    run_submit(n);
    run_raylet(n);
    if (e->order % 16 == 0) {
        submit_selfcheck(n->submit);
        lease_selfcheck(n->leases);
    }
}

static void begin(uint64_t seed, uint32_t n_nodes, int bug)
{
    memset(&sim, 0, sizeof sim);
    sim.random = seed * 2654435761u + 88172645463325252u;
    sim.hash = 1469598103934665603u;
    sim.bug = bug;
    sim.n_nodes = n_nodes;
    sim.nodes = xcalloc(n_nodes, sizeof *sim.nodes);
    for (uint32_t k = 0; k < n_nodes; k++) {
        struct node *n = &sim.nodes[k];
        resources_init(&n->resources, CPUS * RESOURCE_UNIT);
        n->leases = lease_table_create(&n->resources);
        n->pool = worker_pool_create(
            &(struct worker_pool_config){.start_limit = CPUS, .keep = CPUS, .max = WORKERS});
        n->refs = ref_table_create();
        n->submit = submit_create(10);
        for (int c = 0; c < CLASSES; c++)
            submit_add_class(n->submit);
        n->n_left = TASKS;
        for (uint64_t i = 0; i < TASKS; i++)
            post((struct event){.at = i < TASKS / 2 ? 1 : next_random() % (50 * MS),
                                .kind = SUBMIT,
                                .node = k,
                                .task = i});
        post((struct event){.at = MS, .kind = TICK, .node = k});
    }
}

static void check_end(void)
{
    for (uint32_t k = 0; k < sim.n_nodes; k++) {
        struct node *n = &sim.nodes[k];
        struct lease_stats raylet;
        struct submit_stats owner;
        lease_get_stats(n->leases, &raylet);
        submit_get_stats(n->submit, &owner);
        if (raylet.n_leased != owner.n_leases
            || raylet.n_queued + raylet.n_starting != owner.n_units)
            caught("raylet and owner disagree about leases");
        for (int i = 0; i < TASKS; i++) {
            if (n->ended[i] != 1)
                caught("a task is stuck");
            else if (n->started[i] != n->spent[i] + 1)
                caught("attempts spent are not the attempts started");
        }
    }
}

static void end(void)
{
    for (uint32_t k = 0; k < sim.n_nodes; k++) {
        struct node *n = &sim.nodes[k];
        for (uint32_t i = 0; i < WORKERS; i++)
            inbox_destroy(n->workers[i].inbox);
        submit_destroy(n->submit);
        ref_table_destroy(n->refs);
        lease_table_destroy(n->leases);
        worker_pool_destroy(n->pool);
        free(n->la.v);
        free(n->pa.v);
        free(n->sa.v);
        free(n->ia.v);
    }
    free(sim.nodes);
    free(sim.heap);
}

/* true: everything held. */
static bool run(uint64_t seed, uint32_t n_nodes, int bug, uint64_t *hash)
{
    begin(seed, n_nodes, bug);
    while (sim.n > 0 && sim.now < STUCK_MS * MS && !sim.caught) {
        struct event e = pop();
        sim.now = e.at;
        const uint64_t words[] = {e.at, e.kind, e.node, e.worker, e.id, e.mask, e.slot, e.task};
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            sim.hash = (sim.hash ^ words[i]) * 1099511628211u;
        handle(&e);
    }
    if (!sim.caught)
        check_end();
    bool ok = !sim.caught;
    *hash = sim.hash;
    printf("seed %llu, %u nodes, bug %d: %s after %llu ms, log %016llx%s%s\n",
           (unsigned long long)seed,
           n_nodes,
           bug,
           ok ? "all held" : "caught",
           (unsigned long long)(sim.now / MS),
           (unsigned long long)sim.hash,
           ok ? "" : ": ",
           sim.why);
    end();
    return ok;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, a, b;
    uint32_t n_nodes = 200;
    int bug = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long long v = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0)
            seed = v;
        else if (strcmp(argv[i], "--nodes") == 0)
            n_nodes = (uint32_t)v;
        else if (strcmp(argv[i], "--bug") == 0)
            bug = (int)v;
    }
    if (bug != 0)
        return run(seed, n_nodes, bug, &a) ? 1 : 0;
    if (!run(seed, n_nodes, 0, &a) || !run(seed, n_nodes, 0, &b) || a != b)
        return 1;
    for (bug = 1; bug <= N_BUGS; bug++)
        if (run(seed, 20, bug, &a))
            return 1;
    return 0;
}
