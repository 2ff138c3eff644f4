/* SPDX-License-Identifier: Apache-2.0 */
/* A driver with tasks, which runs one at a time on each of its leases; and workers. */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "tests/sim/machines/machines.h"

#define ASKED_MAX 64 /* units of a class at a time */
#define QUEUE_MAX (sizeof((struct owner *)0)->queue[0] / sizeof(uint32_t))

/* --- owners --- */

static struct sim_event to_raylet(const struct owner *o, enum machines_kind kind, uint64_t id)
{
    return (struct sim_event){.kind = (enum sim_kind)kind,
                              .node = o->machine,
                              .peer = o->number,
                              .id = id};
}

static void put_back(struct owner *o, unsigned class, uint32_t task)
{
    if (task > 0)
        o->queue[class][o->n_queued[class]++] = task;
}

static void ask(struct owner *o, unsigned class)
{
    unsigned want = o->n_queued[class] < ASKED_MAX ? o->n_queued[class] : ASKED_MAX;
    struct ticket *t = &o->tickets[o->n_tickets];
    struct sim_event e = to_raylet(o, M_REQUEST, o->n_tickets);

    if (want <= o->n_owed[class] || o->n_tickets == TICKETS_MAX)
        return;
    e.count = want - o->n_owed[class];
    if (sim_one_in(2)) /* near arguments; that machine may be dead or not have come */
        e.task = sim_one_in(2) ? 1 + sim_below(cluster->n_machines) : o->makes_room;
    e.place = (uint8_t) class;
    *t = (struct ticket){.owed = e.count, .class = class};
    o->n_owed[class] += e.count;
    o->n_tickets++;
    send_event(o->machine, e);
}

static void cancel(struct owner *o, unsigned class)
{
    for (uint32_t i = 0; i < o->n_tickets; i++) {
        struct ticket *t = &o->tickets[i];
        if (t->class != class || t->owed == 0 || t->canceled)
            continue;
        t->canceled = true;
        send_event(o->machine, to_raylet(o, M_CANCEL, i));
    }
}

static void turn(struct owner *o)
{
    for (unsigned class = 0; class < CLASSES; class ++) {
        if (o->n_queued[class] == 0 && o->n_owed[class] > 0)
            cancel(o, class);
        else if (!o->asks)
            ask(o, class);
    }
}

/* The next task, or the lease goes back. */
static void use(struct owner *o, struct held *h)
{
    if (o->n_queued[h->class] == 0) {
        o->makes_room = h->machine;
        send_event(o->machine, to_raylet(o, M_RETURN, h->lease));
        return;
    }
    h->task = o->queue[h->class][--o->n_queued[h->class]];
    send_event(o->machine,
               (struct sim_event){.kind = (enum sim_kind)M_PUSH,
                                  .node = h->machine,
                                  .slot = h->worker,
                                  .id = h->lease,
                                  .peer = o->number,
                                  .task = h->task});
}

static struct held *find(const struct owner *o, uint64_t lease)
{
    for (size_t i = 0; i < o->n_held; i++)
        if (o->held[i].lease == lease)
            return &o->held[i];
    return NULL;
}

static void lose(struct owner *o, struct held *h)
{
    put_back(o, h->class, h->task);
    *h = o->held[--o->n_held];
}

static void answered(struct owner *o, uint64_t ticket, uint32_t count)
{
    struct ticket *t = &o->tickets[ticket];

    if (ticket >= o->n_tickets || t->owed < count) {
        says("owner %u: a unit is answered twice", o->number); /* INV-18 */
        return;
    }
    t->owed -= count;
    o->n_owed[t->class] -= count;
}

static void on_grant(struct owner *o, const struct sim_event *e)
{
    answered(o, e->mask, 1);
    if (e->id >> 36 != e->peer_serial)
        says("a lease does not name its machine");
    if (find(o, e->id) != NULL)
        says("a lease is granted twice");
    if (o->n_held == o->held_room) {
        o->held_room = 2 * o->held_room + 16;
        o->held = xrealloc(o->held, o->held_room * sizeof *o->held);
    }
    o->held[o->n_held] = (struct held){.lease = e->id,
                                       .worker = e->peer,
                                       .machine = (uint32_t)e->peer_serial,
                                       .class = o->tickets[e->mask].class};
    use(o, &o->held[o->n_held++]);
}

static void on_done(struct owner *o, const struct sim_event *e)
{
    struct held *h = find(o, e->id);

    if (h == NULL || h->task != e->task || o->n_done[e->task]++ > 0) {
        says("owner %u: a task ended twice", o->number);
        return;
    }
    h->task = 0;
    o->n_left--;
    cluster->n_left--;
    use(o, h);
}

void owner_on_event(struct owner *o, const struct sim_event *e)
{
    struct held *h = find(o, e->id);

    switch ((enum machines_kind)e->kind) {
    case M_GRANT:
        on_grant(o, e);
        break;
    case M_REFUSED:
        o->asks = true;
        post_event(M_ASK, o->machine, o->number, 0, 50 * MS);
        answered(o, e->id, e->count);
        break;
    case M_CANCELED:
        answered(o, e->id, e->count);
        break;
    case M_DONE:
        on_done(o, e);
        break;
    case M_BOUNCED:
        if (h != NULL && h->task == e->task) {
            put_back(o, h->class, h->task);
            h->task = 0;
        }
        break;
    case M_LEASE_ENDED:
    case M_DEAD:
        if (h != NULL)
            lose(o, h);
        break;
    case M_NODE_LOST:
        for (size_t i = 0; i < o->n_held;)
            if (o->held[i].machine == e->id)
                lose(o, &o->held[i]);
            else
                i++;
        break;
    case M_ASK:
        o->asks = false;
        break;
    default:
        says("an owner got an event of kind %d", (int)e->kind);
    }
    turn(o);
}

void owner_begin(struct machine *m, unsigned n_tasks)
{
    static const unsigned weight[] = {0, 0, 0, 0, 0, 1, 1, 2, 3, 4};

    if (!m->joined)
        return;
    struct owner *o = xcalloc(1, sizeof *o);
    o->number = new_process();
    o->machine = m->number;
    o->alive = o->asks = true;
    o->talked = xcalloc(cluster->n_machines + 1, 1);
    for (uint32_t task = 1; task <= n_tasks; task++) {
        unsigned class = weight[sim_below(sizeof weight / sizeof weight[0])];
        if (o->n_queued[class] == QUEUE_MAX)
            continue;
        put_back(o, class, task);
        o->n_left++;
    }
    cluster->owners[o->number] = o;
    cluster->owner_numbers =
        xrealloc(cluster->owner_numbers, (cluster->n_owners + 1) * sizeof(uint32_t));
    cluster->owner_numbers[cluster->n_owners++] = o->number;
    cluster->n_left += o->n_left;
    cluster->n_tasks += o->n_left;
    post_event(M_ASK, m->number, o->number, 0, sim_below(3000 * MS));
    if (m->number > 2 && sim_one_in(4))
        post_event(M_KILL, m->number, o->number, 0, sim_below(6000 * MS));
}

/* Its raylet hears of it a little later. */
static void exited(uint32_t machine, uint32_t process)
{
    send_event(
        machine,
        (struct sim_event){.kind = (enum sim_kind)M_EXITED, .node = machine, .peer = process});
}

void owner_die(struct owner *o)
{
    if (!o->alive)
        return;
    o->alive = false;
    cluster->n_left -= o->n_left;
    exited(o->machine, o->number);
}

void owner_check_end(const struct owner *o)
{
    if (!o->alive)
        return;
    for (uint32_t i = 0; i < o->n_tickets; i++)
        if (o->tickets[i].owed > 0)
            says("owner %u: a unit was never answered", o->number); /* INV-18 */
    if (o->n_held > 0)
        says("owner %u: it still has a lease", o->number);
}

/* --- workers --- */

static void to_owner(const struct worker *w,
                     enum machines_kind kind,
                     uint32_t owner,
                     uint64_t lease,
                     uint64_t task)
{
    send_event(w->machine,
               (struct sim_event){.kind = (enum sim_kind)kind,
                                  .node = cluster->owners[owner]->machine,
                                  .slot = owner,
                                  .peer = w->number,
                                  .id = lease,
                                  .task = task});
}

static void end_lease(struct worker *w)
{
    send_event(w->machine,
               (struct sim_event){.kind = (enum sim_kind)M_ENDED,
                                  .node = w->machine,
                                  .peer = w->number,
                                  .id = w->lease});
    to_owner(w, M_LEASE_ENDED, w->owner, w->lease, 0);
    w->lease = 0;
    w->revoked = false;
}

static uint64_t some_duration(void)
{
    return MS / 2 + sim_below(sim_one_in(40) ? 3000 * MS : 600 * MS);
}

void executor_on_event(struct worker *w, const struct sim_event *e)
{
    switch ((enum machines_kind)e->kind) {
    case M_BEGIN:
        if (w->lease != 0)
            says("a worker has two leases"); /* INV-10 */
        w->lease = e->id;
        w->owner = e->peer;
        w->has_run = false;
        break;
    case M_PUSH:
        if (w->lease != e->id) {
            to_owner(w, M_BOUNCED, e->peer, e->id, e->task);
            break;
        }
        w->task = (uint32_t)e->task;
        w->has_run = true;
        post_event(M_FINISH, w->machine, w->number, e->id, some_duration());
        if (sim_one_in(150))
            post_event(M_KILL, w->machine, w->number, 0, sim_below(100 * MS));
        break;
    case M_FINISH:
        to_owner(w, M_DONE, w->owner, w->lease, w->task);
        w->task = 0;
        if (w->revoked)
            end_lease(w);
        break;
    case M_REVOKE:
        if (w->lease != e->id)
            break;
        w->revoked = true;
        if (w->task == 0 && (w->has_run || e->count == 0))
            end_lease(w);
        else if (w->task == 0) /* the first push may be on its way */
            post_event(M_REVOKE, w->machine, w->number, w->lease, e->count * MS);
        break;
    default:
        says("a worker got an event of kind %d", (int)e->kind);
    }
}

void executor_die(struct worker *w)
{
    if (!w->alive)
        return;
    w->alive = false;
    exited(w->machine, w->number);
}
