/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process as worker, and what runs in it. A program submits tasks, gets and drops their refs; a
 * body that waits is blocked. Results are held back and written together, as worker.c in lib/core
 * does, so a death takes some of them along.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "tests/sim/sim.h"

/* Carried out, and empty again, before anything else happens. */
static struct inbox_actions actions;

/* --- the worker's word --- */

static struct sim_event to_owner(const struct process *p,
                                 enum sim_kind kind,
                                 uint32_t owner,
                                 uint64_t serial)
{
    return (struct sim_event){.kind = kind,
                              .node = p->node->number,
                              .slot = owner,
                              .serial = serial,
                              .peer = p->slot,
                              .peer_serial = p->serial};
}

static void tell_raylet(struct process *p, enum sim_kind kind, uint64_t lease)
{
    sim_send(&p->to_raylet,
             (struct sim_event){.kind = kind,
                                .node = p->node->number,
                                .slot = p->slot,
                                .serial = p->serial,
                                .id = lease});
}

static void flush(struct process *p)
{
    for (unsigned i = 0; i < p->n_unsent; i++) {
        const struct sim_event *e = &p->unsent[i];
        p->node->tasks[e->task].result_is_out = true;
        if (sim.fault != FAULT_RESULT_LOST || !sim_one_in(64))
            sim_send(&p->to[e->slot], *e);
    }
    p->n_unsent = 0;
}

/* For the owner that asked, or for the lease's. */
static void act(struct process *p, uint32_t owner, uint64_t serial)
{
    for (size_t i = 0; i < actions.n; i++) {
        const struct inbox_action a = actions.v[i];
        struct sim_event e = to_owner(p, RETURNED, owner, serial);
        e.id = a.lease;
        flush(p);
        switch (a.kind) {
        case INBOX_RETURNED:
            e.mask = a.mask;
            e.count = a.asked;
            break;
        case INBOX_BOUNCED:
            e.kind = BOUNCED;
            e.place = (uint8_t)a.asked;
            break;
        case INBOX_ENDED:
            if (p->pushed_lease != a.lease && sim.now < p->not_before)
                sim_caught(p->node, "a lease ended before its first task could come");
            e = to_owner(p, OWNER_ENDED, p->lease_owner, p->lease_owner_serial);
            e.id = a.lease;
            if (sim.fault != FAULT_END_LOST || !sim_one_in(4))
                tell_raylet(p, ENDED, a.lease);
            p->lease_owner = NOBODY;
            break;
        }
        if (e.slot != NOBODY)
            sim_send(&p->to[e.slot], e);
    }
    actions.n = 0;
}

static void act_for_lease(struct process *p)
{
    act(p, p->lease_owner, p->lease_owner_serial);
}

/* --- programs --- */

void program_begin(struct process *p, uint64_t task, unsigned n_to_submit, unsigned depth)
{
    p->program = (struct program){.running = true,
                                  .task = task,
                                  .n_to_submit = n_to_submit,
                                  .depth = depth,
                                  .started_at = sim.now};
}

static void step_in(const struct process *p, uint64_t ns)
{
    sim_post((struct sim_event){.kind = STEP,
                                .node = p->node->number,
                                .slot = p->slot,
                                .serial = p->serial,
                                .at = sim.now + ns});
}

static void keep(struct program *g, uint64_t word, uint64_t task)
{
    g->words[g->n_words] = word;
    g->tasks[g->n_words++] = task;
}

/* Tasks that wait for each other; as many as there are CPUs must all run. */
static void submit_meeting(struct process *p)
{
    struct node *n = p->node;
    struct program *g = &p->program;

    n->meeting++;
    n->meeting_of = p->serial;
    n->n_missing = 2 + (unsigned)sim_below(n->temper.n_cpus - 1);
    for (unsigned i = 0; i < n->n_missing; i++) {
        uint64_t word = process_submit(p, CLASS_SHORT, g->depth, NULL, 0);
        n->tasks[n->n_tasks - 1].meeting = n->meeting;
        keep(g, word, n->n_tasks - 1);
    }
}

static void submit_one(struct process *p)
{
    struct program *g = &p->program;
    const struct temper *m = &p->node->temper;
    enum sim_class class = (enum sim_class)sim_below(N_CLASSES - (g->depth >= m->max_depth));
    uint64_t args[SIM_ARGS];
    unsigned n_args = 0;

    if ((class == CLASS_NESTED && !sim_one_in(m->nested_one))
        || (class == CLASS_WIDE && m->n_cpus < 2))
        class = CLASS_SHORT;
    for (; n_args < SIM_ARGS && g->n_words > 0 && sim_one_in(4); n_args++)
        args[n_args] = g->words[sim_below(g->n_words)];
    uint64_t word = process_submit(p, class, g->depth, args, n_args);
    g->n_to_submit--;
    if (sim_one_in(16)) { /* nobody will ask for it */
        process_drop(p, word);
        return;
    }
    keep(g, word, p->node->n_tasks - 1);
}

static void forget(struct process *p, unsigned i)
{
    struct program *g = &p->program;

    process_drop(p, g->words[i]);
    g->words[i] = g->words[--g->n_words];
    g->tasks[i] = g->tasks[g->n_words];
}

/* INV-20: the word may come twice. */
static void toggle(struct process *p, enum sim_kind kind)
{
    uint64_t lease = inbox_lease(p->inbox);

    tell_raylet(p, kind, lease);
    if (sim_one_in(8))
        tell_raylet(p, kind, lease);
    p->program.blocked = kind == BLOCKED;
}

/* Waits for the word last in the list, or forgets it. */
static void get_one(struct process *p)
{
    struct program *g = &p->program;
    unsigned i = g->n_words - 1;

    if (process_get(p, g->words[i], g->tasks[i])) {
        forget(p, i);
        step_in(p, sim_below(2000));
        return;
    }
    g->awaited = g->words[i];
    if (p->slot == SIM_DRIVER)
        return;
    inbox_block(p->inbox, &actions);
    act_for_lease(p);
    flush(p);
    toggle(p, BLOCKED);
}

void program_wake(struct process *p)
{
    step_in(p, 1000 + sim_below(20000));
}

static void got_it(struct process *p)
{
    struct program *g = &p->program;
    unsigned i = g->n_words - 1;

    ASSERT(g->words[i] == g->awaited);
    if (!process_get(p, g->awaited, g->tasks[i]))
        sim_caught(p->node, "a getter was woken without a value");
    g->awaited = 0;
    forget(p, i);
    if (g->blocked) {
        inbox_unblock(p->inbox);
        toggle(p, UNBLOCKED);
    }
}

static bool is_waiting_for_others(const struct process *p)
{
    const struct node *n = p->node;

    return p->slot != SIM_DRIVER && n->n_missing > 0
           && n->tasks[p->program.task].meeting == n->meeting;
}

static void finish(struct process *p)
{
    struct program *g = &p->program;
    struct sim_event e = to_owner(p, DONE, p->lease_owner, p->lease_owner_serial);

    g->running = false;
    if (p->slot == SIM_DRIVER)
        return;
    e.id = inbox_lease(p->inbox);
    e.place = g->place;
    e.task = g->task;
    e.count = (uint32_t)(sim.now - g->started_at);
    if (p->n_unsent == INBOX_SLOTS)
        flush(p);
    if (e.slot != NOBODY)
        p->unsent[p->n_unsent++] = e;
    inbox_finish(p->inbox, sim.now, &actions);
    act_for_lease(p);
}

/* Bursts; a driver rests now and then, once in a while until workers are a surplus. */
static uint64_t pause_of(const struct process *p)
{
    if (p->slot == SIM_DRIVER && sim_one_in(100))
        return sim_below(1500 * MS);
    if (p->slot == SIM_DRIVER && sim_one_in(8))
        return sim_below(4 * MS);
    return sim_below(2000);
}

void program_step(struct process *p)
{
    struct program *g = &p->program;

    if (g->awaited != 0)
        got_it(p);
    if (g->n_to_submit > 0 && g->n_words + SIM_CPUS < SIM_WORDS) {
        if (p->node->n_missing == 0 && p->node->temper.n_cpus > 1 && sim_one_in(20))
            submit_meeting(p);
        submit_one(p);
        if (g->n_words > 0 && sim_one_in(8))
            forget(p, (unsigned)sim_below(g->n_words));
        step_in(p, pause_of(p));
    } else if (g->n_words > 0) {
        if (p->slot != SIM_DRIVER && sim_one_in(8)) { /* goes without waiting */
            forget(p, g->n_words - 1);
            step_in(p, 1000);
            return;
        }
        get_one(p);
    } else if (is_waiting_for_others(p)) {
        step_in(p, MS);
    } else {
        finish(p);
    }
}

/* --- bodies --- */

static uint64_t run_time(const struct sim_task *t)
{
    if (sim_one_in(t->depth > 0 ? 100 : 400))
        return 1 + sim_below(1200 * MS); /* longer than a lease's turn */
    switch (t->class) {
    case CLASS_SHORT:
        return 1 + (sim_one_in(16) ? sim_below(20 * MS) : sim_below(20000));
    case CLASS_HALF:
        return 1 + sim_below(400000);
    case CLASS_WIDE:
        return 1 + sim_below(3 * MS);
    case CLASS_ACCEL:
        return 1 + sim_below(MS);
    case CLASS_NESTED:
    case N_CLASSES:
        break;
    }
    return 1 + sim_below(100000);
}

static void post_later(const struct process *p, enum sim_kind kind, uint64_t ns)
{
    sim_post((struct sim_event){.kind = kind,
                                .node = p->node->number,
                                .slot = p->slot,
                                .serial = p->serial,
                                .at = sim.now + ns});
}

static void claim(struct process *p)
{
    uint64_t started, number;
    const struct inbox_task *t = inbox_claim(p->inbox, 0, &started);

    if (t == NULL)
        return;
    memcpy(&number, t->push, sizeof number);
    struct sim_task *known = &p->node->tasks[number];
    if (known->n_started++ == 0)
        process_met(p->node, known);
    if (known->result_is_out)
        sim_caught(p->node, "a task whose result was out ran again");
    if (sim.fault != FAULT_NO_STARTED_BIT)
        p->started = started;
    uint64_t run = run_time(known);
    program_begin(
        p,
        number,
        known->class == CLASS_NESTED ? 1 + (unsigned)sim_below(p->node->temper.max_children) : 0,
        known->depth + 1);
    p->program.place = t->slot;
    if (known->always_dies)
        post_later(p, KILL, sim_below(run));
    else if (sim_one_in(p->node->temper.kill_one))
        post_later(p, KILL, sim_below(2 * run + 100000));
    if (sim_one_in(p->node->temper.stop_one))
        post_later(p, STOP, sim_below(run));
    step_in(p, run);
}

void worker_turn(struct process *p)
{
    inbox_on_time(p->inbox, sim.now, &actions);
    act_for_lease(p);
    if (p->slot == SIM_DRIVER || p->program.running)
        return;
    claim(p);
    if (!p->program.running || sim_one_in(4))
        flush(p);
}

/* --- events --- */

/* The first counts from then on, a later one can only shorten it. */
static void note_revocation(struct process *p, uint64_t deadline)
{
    if (p->not_before == UINT64_MAX)
        p->not_before = sim.now + INBOX_FIRST_NS;
    if (p->not_before > deadline)
        p->not_before = deadline;
}

void worker_on_event(struct process *p, const struct sim_event *e)
{
    ASSERT(actions.n == 0);
    switch (e->kind) {
    case BEGIN:
        p->lease_owner = e->peer;
        p->lease_owner_serial = e->peer_serial;
        p->started = 0;
        p->mask_lease = e->id;
        p->not_before = UINT64_MAX;
        inbox_lease_begin(p->inbox, e->id);
        break;
    case REVOKE:
        if (e->id == p->mask_lease)
            note_revocation(p, sim.now + e->count * MS);
        inbox_revoke(p->inbox, e->id, sim.now + e->count * MS, sim.now, &actions);
        act_for_lease(p);
        break;
    case PUSH:
        if (p->pushed_lease < e->id)
            p->pushed_lease = e->id;
        if (!inbox_push(p->inbox, e->id, e->place, e->phase, &e->task, sizeof e->task, &actions))
            sim_caught(p->node, "a push to a slot that is taken");
        act(p, e->peer, e->peer_serial);
        break;
    case TAKE_BACK:
        inbox_take_back(p->inbox, e->id, e->count, &actions);
        act(p, e->peer, e->peer_serial);
        break;
    case OWNER_GONE:
        if (p->lease_owner == e->peer && p->lease_owner_serial == e->peer_serial)
            inbox_owner_gone(p->inbox);
        break;
    default:
        ASSERT(e->kind == EXIT);
        process_die(p);
        break;
    }
}
