/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process as owner: its refs, the tasks it submits, and what frames from the raylet and from
 * workers do to them. The order is owner.c's: at a task's end values are stored, waiters are told,
 * then what the task held is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/core.h"
#include "lib/net/wire.h"
#include "tests/sim/sim.h"

#define RETRIES   3
#define MAX_UNITS 10
#define LONG_SIZE 200 /* of a value that needs a block */

/* Of a record; in a block of its ref_table. */
struct ref_waiter {
    struct ref_waiter *next;
    struct record *task; /* NULL: the program */
};

/* Carried out, and empty again, before anything else happens. */
static struct submit_actions actions;

struct process *process_create(struct node *n, uint32_t slot, uint64_t serial)
{
    struct process *p = xcalloc(1, sizeof *p);

    p->node = n;
    p->slot = slot;
    p->serial = serial;
    p->alive = true;
    p->timer_at = UINT64_MAX;
    p->refs = ref_table_create();
    p->submit = submit_create(MAX_UNITS);
    for (int c = 0; c < N_CLASSES; c++)
        submit_add_class(p->submit);
    p->inbox = inbox_create();
    p->lease_owner = NOBODY;
    return p;
}

void process_destroy(struct process *p)
{
    if (p == NULL)
        return;
    submit_destroy(p->submit);
    ref_table_destroy(p->refs);
    inbox_destroy(p->inbox);
    free(p->owed);
    free(p->deferred);
    free(p);
}

struct process *process_find(const struct node *n, uint32_t slot, uint64_t serial)
{
    struct process *p = slot < SIM_SLOTS ? n->processes[slot] : NULL;

    return p != NULL && p->serial == serial ? p : NULL;
}

static struct sim_event to_raylet(const struct process *p, enum sim_kind kind, uint64_t id)
{
    return (struct sim_event){.kind = kind,
                              .node = p->node->number,
                              .slot = p->slot,
                              .serial = p->serial,
                              .id = id};
}

void process_met(struct node *n, const struct sim_task *t)
{
    if (t->meeting == n->meeting && n->n_missing > 0)
        n->n_missing--;
}

/* --- refs --- */

static uint32_t value_size(uint64_t task)
{
    return task % 8 == 0 ? LONG_SIZE : sizeof task;
}

static bool has_value(const struct record *r, uint64_t task)
{
    uint64_t got;

    if (r->state != REF_READY)
        return false;
    if (r->meta == WIRE_META_ERROR)
        return true;
    if (r->size != value_size(task))
        return false;
    memcpy(&got, record_value(r), sizeof got);
    return got == task;
}

static void add_waiter(struct process *p, struct record *r, struct record *task)
{
    struct ref_waiter *w = ref_table_alloc(p->refs, sizeof *w);

    *w = (struct ref_waiter){.next = r->waiters, .task = task};
    r->waiters = w;
}

static void tell(struct process *p, struct record *r)
{
    struct ref_waiter *w = r->waiters;

    r->waiters = NULL;
    while (w != NULL) {
        struct ref_waiter *next = w->next;
        struct record *task = w->task;
        ref_table_free(p->refs, w, sizeof *w);
        if (task != NULL) {
            submit_on_argument(p->submit, task, r, sim.now, &actions);
        } else {
            ref_table_unhold(p->refs, r);
            program_wake(p);
        }
        w = next;
    }
}

/* The spec is the slots of its arguments. */
static void let_go(struct process *p, const struct task *t)
{
    for (unsigned i = 0; i < t->n_args; i++) {
        uint32_t slot;
        memcpy(&slot, t->spec + i * sizeof slot, sizeof slot);
        ref_table_unhold(p->refs, ref_table_at(p->refs, slot));
    }
    ref_table_free(p->refs, t->spec, t->spec_size);
}

static void complete(struct process *p, struct record *r, bool failed, bool by_argument)
{
    struct task t = r->u.task;
    uint64_t number = r->counter;
    struct sim_task *known = &p->node->tasks[number];
    uint8_t value[LONG_SIZE] = {0};

    known->attempt = t.attempt;
    known->failed = failed;
    known->by_argument = by_argument;
    known->by_refusal = failed && !by_argument && p->refused;
    if (known->n_started == 0)
        process_met(p->node, known);
    if (known->n_ended++ > 0)
        sim_caught(p->node, "a task ended twice");
    p->n_pending--;
    memcpy(value, &number, sizeof number);
    if (ref_table_set(p->refs, r, failed ? WIRE_META_ERROR : 0, value, value_size(number)))
        tell(p, r);
    let_go(p, &t);
}

uint64_t process_submit(struct process *p,
                        enum sim_class class,
                        unsigned depth,
                        const uint64_t *args,
                        unsigned n_args)
{
    struct node *n = p->node;
    struct record *r = ref_table_new(p->refs);
    struct task *t = &r->u.task;

    if (n->n_tasks == n->tasks_room) {
        n->tasks_room = n->tasks_room == 0 ? 256 : 2 * n->tasks_room;
        n->tasks = xrealloc(n->tasks, n->tasks_room * sizeof *n->tasks);
    }
    struct sim_task *known = &n->tasks[n->n_tasks];
    *known = (struct sim_task){.owner = p->slot,
                               .owner_serial = p->serial,
                               .class = class,
                               .depth = depth,
                               .n_args = n_args,
                               .always_dies = n->temper.kill_one != 0 && sim_one_in(100)};
    r->class = class;
    r->counter = n->n_tasks++;
    t->retries_left = RETRIES;
    t->n_args = t->n_ref_args = (uint16_t)n_args;
    t->spec_size = (uint32_t)(sizeof(uint32_t) * (n_args + 1));
    t->spec = ref_table_alloc(p->refs, t->spec_size);
    for (unsigned i = 0; i < n_args; i++) {
        struct record *a = ref_table_find(p->refs, args[i]);
        if (a == NULL) {
            sim_caught(n, "a ref that is held was freed");
            t->n_args = (uint16_t)i;
            break;
        }
        memcpy(t->spec + i * sizeof a->slot, &a->slot, sizeof a->slot);
        a->held++;
        if (a->state == REF_PENDING) {
            known->args[i] = (uint32_t)a->counter;
            t->n_deps++;
            add_waiter(p, a, r);
            continue;
        }
        uint64_t number;
        memcpy(&number, record_value(a), sizeof number);
        known->args[i] = (uint32_t)number;
        t->ref_bytes += a->size;
        if (a->meta == WIRE_META_ERROR && t->error == 0)
            t->error = a->slot;
    }
    p->n_pending++;
    if (t->n_deps == 0)
        submit_task(p->submit, r, sim.now, &actions);
    return record_word(r);
}

void process_drop(struct process *p, uint64_t word)
{
    struct record *r = ref_table_find(p->refs, word);

    if (r == NULL)
        sim_caught(p->node, "a ref that is held was freed");
    else
        ref_table_drop(p->refs, r);
}

bool process_get(struct process *p, uint64_t word, uint64_t task)
{
    struct record *r = ref_table_find(p->refs, word);

    if (r == NULL) {
        sim_caught(p->node, "a ref that is held was freed");
        return true;
    }
    if (r->state == REF_PENDING) {
        r->held++;
        add_waiter(p, r, NULL);
        return false;
    }
    if (!has_value(r, task))
        sim_caught(p->node, "a get returns another value");
    return true;
}

/* --- actions --- */

static void owe(struct process *p, uint64_t ticket, uint32_t count)
{
    if (ticket >= p->n_owed) {
        size_t n = 2 * ticket + 16;
        p->owed = xrealloc(p->owed, n * sizeof *p->owed);
        memset(p->owed + p->n_owed, 0, (n - p->n_owed) * sizeof *p->owed);
        p->n_owed = n;
    }
    p->owed[ticket] += count;
}

/* INV-18 */
static void answered(struct process *p, uint64_t ticket, uint32_t count)
{
    if (ticket >= p->n_owed || p->owed[ticket] < count)
        sim_caught(p->node, "a request was answered twice");
    else
        p->owed[ticket] -= count;
}

static void *peer_of(uint32_t slot, uint64_t serial)
{
    return (void *)(uintptr_t)(serial * SIM_SLOTS + slot);
}

static void check_arguments(struct process *p, const struct record *r)
{
    const struct task *t = &r->u.task;

    for (unsigned i = 0; i < t->n_args; i++) {
        uint32_t slot;
        memcpy(&slot, t->spec + i * sizeof slot, sizeof slot);
        const struct record *a = ref_table_at(p->refs, slot);
        if (a->held == 0 || !has_value(a, p->node->tasks[r->counter].args[i])
            || a->meta == WIRE_META_ERROR)
            sim_caught(p->node, "a task was sent without the value of its argument");
    }
}

static void to_worker(struct process *p, const struct submit_action *a)
{
    uint64_t peer = (uintptr_t)a->lease->peer;
    struct sim_event e = {.kind = a->kind == SUBMIT_PUSH ? PUSH : TAKE_BACK,
                          .node = p->node->number,
                          .slot = (uint32_t)(peer % SIM_SLOTS),
                          .serial = peer / SIM_SLOTS,
                          .peer = p->slot,
                          .peer_serial = p->serial,
                          .id = a->lease->id,
                          .count = a->count};

    if (a->kind == SUBMIT_PUSH) {
        check_arguments(p, a->task);
        e.place = a->task->u.task.window_slot;
        e.phase = (uint8_t)a->count;
        e.task = a->task->counter;
    }
    sim_send(&p->to[e.slot], e);
}

static void act(struct process *p)
{
    for (size_t i = 0; i < actions.n; i++) {
        struct submit_action a = actions.v[i];
        struct sim_event e;
        switch (a.kind) {
        case SUBMIT_PUSH:
        case SUBMIT_TAKE_BACK:
            to_worker(p, &a);
            break;
        case SUBMIT_REQUEST:
            owe(p, a.ticket, a.count);
            e = to_raylet(p, REQUEST, a.ticket);
            e.count = a.count;
            e.task = a.class;
            sim_send(&p->to_raylet, e);
            break;
        case SUBMIT_CANCEL:
            sim_send(&p->to_raylet, to_raylet(p, CANCEL, a.ticket));
            break;
        case SUBMIT_RETURN:
            sim_send(&p->to_raylet, to_raylet(p, RETURN, a.ticket));
            break;
        case SUBMIT_FAIL:
            complete(p, a.task, true, a.cause != 0);
            break;
        case SUBMIT_END:
            submit_forget(p->submit, a.lease);
            break;
        }
    }
    actions.n = 0;
}

/* --- events --- */

static void on_dead(struct process *p, struct submit_lease *l, const struct sim_event *e)
{
    submit_on_worker_dead(p->submit, l, e->phase != 0 ? e->mask : ~l->phases, sim.now, &actions);
}

static void on_worker_word(struct process *p, const struct sim_event *e)
{
    struct submit_lease *l = submit_find(p->submit, e->id);

    if (l == NULL && e->kind == OWNER_ENDED)
        submit_on_unknown_lease_ended(p->submit, e->id);
    if (l == NULL || l->peer != peer_of(e->peer, e->peer_serial))
        return;
    switch (e->kind) {
    case DONE: {
        struct record *r = submit_on_done(p->submit, l, e->place, e->count, sim.now);
        if (r == NULL)
            break;
        if (r->counter != e->task)
            sim_caught(p->node, "a result is another task's");
        complete(p, r, false, false);
        submit_refill(p->submit, l->class, sim.now, &actions);
        break;
    }
    case RETURNED:
        submit_on_returned(p->submit, l, e->mask, e->count != 0, sim.now, &actions);
        break;
    case BOUNCED:
        submit_on_bounced(p->submit, l, e->place, true, sim.now, &actions);
        break;
    case OWNER_ENDED:
        submit_on_lease_ended(p->submit, l, sim.now, &actions);
        break;
    default:
        on_dead(p, l, e);
        break;
    }
}

static void set_timer(struct process *p)
{
    uint64_t at = submit_next_deadline(p->submit), b = inbox_next_deadline(p->inbox);

    if (b < at)
        at = b;
    if (at <= sim.now)
        at = sim.now + 1000; /* a turn takes its time */
    if (at >= p->timer_at || at > sim.now + 1000000 * MS)
        return;
    p->timer_at = at;
    sim_post((struct sim_event){.kind = TIMER,
                                .node = p->node->number,
                                .slot = p->slot,
                                .serial = p->serial,
                                .at = at});
}

static void handle(struct process *p, const struct sim_event *e)
{
    switch (e->kind) {
    case GRANT:
        answered(p, e->mask, 1);
        submit_on_grant(p->submit,
                        e->mask,
                        e->id,
                        peer_of(e->peer, e->peer_serial),
                        0,
                        sim.now,
                        &actions);
        break;
    case CANCELED:
        answered(p, e->id, e->count);
        submit_on_canceled(p->submit, e->id, e->count, sim.now, &actions);
        break;
    case REFUSED:
        answered(p, e->id, e->count);
        if (e->phase != 0) {
            submit_on_busy(p->submit, e->id, e->count, sim.now, &actions);
            break;
        }
        p->refused = true;
        submit_on_refused(p->submit, e->id, e->count, &actions);
        act(p);
        p->refused = false;
        break;
    case DEAD:
    case DONE:
    case RETURNED:
    case BOUNCED:
    case OWNER_ENDED:
        on_worker_word(p, e);
        break;
    case STEP:
        program_step(p);
        break;
    case TIMER:
        if (p->timer_at <= sim.now)
            p->timer_at = UINT64_MAX;
        break;
    default:
        worker_on_event(p, e);
        break;
    }
    if (!p->alive)
        return;
    act(p);
    submit_settle(p->submit, sim.now, &actions);
    act(p);
    worker_turn(p);
    act(p);
    set_timer(p);
    if (e->order % 16 == 0) {
        submit_selfcheck(p->submit);
        inbox_selfcheck(p->inbox);
        ref_table_selfcheck(p->refs);
    }
}

static void defer(struct process *p, const struct sim_event *e)
{
    if (p->n_deferred == p->deferred_room) {
        p->deferred_room = 2 * p->deferred_room + 16;
        p->deferred = xrealloc(p->deferred, p->deferred_room * sizeof *p->deferred);
    }
    p->deferred[p->n_deferred++] = *e;
}

void process_on_event(struct process *p, const struct sim_event *e)
{
    ASSERT(actions.n == 0);
    if (!p->alive)
        return;
    if (e->kind == KILL) {
        process_die(p);
    } else if (e->kind == STOP) {
        if (p->stopped)
            return;
        p->stopped = true;
        sim_post(
            (struct sim_event){.kind = GO_ON,
                               .node = p->node->number,
                               .slot = p->slot,
                               .serial = p->serial,
                               .at = sim.now + sim_below(sim_one_in(64) ? 4000 * MS : 20 * MS)});
    } else if (e->kind == GO_ON) {
        p->stopped = false;
        for (size_t i = 0; i < p->n_deferred && p->alive; i++) {
            struct sim_event d = p->deferred[i];
            handle(p, &d);
        }
        p->n_deferred = 0;
    } else if (p->stopped) {
        defer(p, e);
    } else {
        handle(p, e);
    }
}

void process_die(struct process *p)
{
    struct node *n = p->node;

    p->alive = false;
    p->n_unsent = 0; /* what it had not written is lost */
    actions.n = 0;
    for (uint32_t s = 0; s < SIM_SLOTS; s++) {
        const struct process *q = n->processes[s];
        if (q == NULL || q == p || p->to[s] == 0)
            continue;
        sim_send(&p->to[s],
                 (struct sim_event){.kind = OWNER_GONE,
                                    .node = n->number,
                                    .slot = s,
                                    .serial = q->serial,
                                    .peer = p->slot,
                                    .peer_serial = p->serial});
    }
    struct sim_event e = to_raylet(p, EXITED, 0);
    e.at = sim.now + 10000 + sim_below(MS);
    sim_post(e);
}
