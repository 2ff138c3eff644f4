/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each event changes one fact and ends with pump(), the only place that takes
 * resources for waiting units and that has leases revoked for them. serve() starts what fits now;
 * make_room() then looks at the ledger as it will be when all leases that were told to end have
 * ended, and for a unit that does not fit there either it revokes more.
 *
 * Freed resources would go to whoever is first in line, which is not whom they were freed for, and
 * small units would take them from under a large one for ever. So a unit that had leases revoked is
 * promised: it is served before all others, and others get only what its promise leaves. The latter
 * stops a body that polls for its child without ever blocking, should the child wait behind the
 * promise: so it holds in every other LEASE_PROMISE_MS only.
 */
#include "raylet/lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

#define CLASS_NAME_MAX 48

/* One that has asked for leases; the one served longest ago is first. Until lease_job_ended. */
struct job {
    struct list node;
    uint32_t id;
    struct list classes, owners;
};

/* Interned: as long as the job. */
struct task_class {
    struct list node;
    struct job *job;
    struct res_set need;
    char name[CLASS_NAME_MAX];
    bool feasible, warned;
    uint32_t n_queued, n_promised; /* of its requests */
    uint64_t no_fit_pass;          /* it does not fit in this pass of serve() */
    char text[256];                /* what is missing */
    size_t use;                    /* in lease_list_uses: its row, from 1 */
};

/* One that has requests; in its job the one served longest ago is first. Freed with its last
 * request. */
struct owner {
    struct list node;
    struct job *job;
    struct list requests;
    uint32_t id;
};

/* The queued units of a lease_request. */
struct request {
    struct list node;
    struct owner *owner;
    struct task_class *class;
    uint64_t ticket;
    uint32_t n_queued, n_promised; /* promised ones are among the queued */
    bool is_now;                   /* of lease_request_now or _soon, which has not returned yet */
    uint64_t promised_ms;          /* the first of them */
    uint64_t asked_ms;
};

/* A unit that holds resources and waits for its worker. */
struct start {
    struct list node;
    struct task_class *class;
    uint32_t owner;
    uint64_t ticket, since_ms;
};

struct lease {
    struct list node;
    struct task_class *class;
    uint64_t id, granted_ms;
    uint32_t owner, worker;
    bool blocked, owner_gone;
    bool revoked; /* told to make way, with grace_ms */
    uint32_t grace_ms;
    uint64_t due_ms;   /* of revoked: grace is over */
    uint64_t asked_ms; /* told to end when idle, last at this time; 0: never */
    uint64_t kill_ms;  /* of owner_gone; UINT64_MAX: done */
};

struct lease_table {
    struct resources *resources;
    struct list jobs, starts;
    struct list leases; /* oldest first */
    uint64_t first_id, last_id, pass, quiet_since_ms;
    uint64_t surplus_ms; /* when leases were last asked to end for there being too many workers */
    uint64_t now_ms;     /* of the last event */
    unsigned n_waiting;  /* queued units that are feasible */
    char failure[192];
};

static void add(struct lease_actions *out, struct lease_action a)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 32 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = a;
}

struct lease_table *lease_table_create(struct resources *resources)
{
    struct lease_table *t = xcalloc(1, sizeof *t);

    t->resources = resources;
    list_init(&t->jobs);
    list_init(&t->starts);
    list_init(&t->leases);
    return t;
}

void lease_table_number(struct lease_table *t, uint64_t first)
{
    ASSERT(t->last_id == 0);
    t->first_id = t->last_id = first;
}

static void free_job(struct job *j)
{
    list_for_each_safe(o, &j->owners)
    {
        struct owner *owner = list_entry(o, struct owner, node);
        list_for_each_safe(q, &owner->requests) free(list_entry(q, struct request, node));
        free(owner);
    }
    list_for_each_safe(c, &j->classes) free(list_entry(c, struct task_class, node));
    list_remove(&j->node);
    free(j);
}

void lease_table_destroy(struct lease_table *t)
{
    if (t == NULL)
        return;
    list_for_each_safe(s, &t->starts) free(list_entry(s, struct start, node));
    list_for_each_safe(m, &t->leases) free(list_entry(m, struct lease, node));
    list_for_each_safe(j, &t->jobs) free_job(list_entry(j, struct job, node));
    free(t);
}

/* --- finding --- */

static struct job *find_job(const struct lease_table *t, uint32_t id)
{
    list_for_each(n, &t->jobs)
    {
        struct job *j = list_entry(n, struct job, node);
        if (j->id == id)
            return j;
    }
    return NULL;
}

static struct task_class *intern(const struct lease_table *t,
                                 struct job *job,
                                 const struct res_set *need,
                                 const char *name)
{
    char why[128];

    list_for_each(n, &job->classes)
    {
        struct task_class *c = list_entry(n, struct task_class, node);
        if (strncmp(c->name, name, CLASS_NAME_MAX - 1) == 0 && res_set_eq(&c->need, need))
            return c;
    }
    struct task_class *c = xcalloc(1, sizeof *c);
    c->job = job;
    c->need = *need;
    snprintf(c->name, sizeof c->name, "%s", name);
    c->feasible = resources_is_feasible(t->resources, need);
    resources_say_missing(t->resources, need, why, sizeof why);
    if (!c->feasible)
        snprintf(c->text,
                 sizeof c->text,
                 "task %s waits for a node with %s; it stays queued until one comes",
                 c->name,
                 why);
    list_append(&job->classes, &c->node);
    return c;
}

static struct owner *find_owner(const struct lease_table *t, uint32_t id)
{
    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        struct owner *o = list_entry(n, struct owner, node);
        if (o->id == id)
            return o;
    }
    return NULL;
}

static struct lease *find(const struct lease_table *t, uint64_t id)
{
    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->id == id)
            return l;
    }
    return NULL;
}

static struct lease *find_of_worker(const struct lease_table *t, uint32_t worker, uint64_t id)
{
    struct lease *l = find(t, id);

    return l != NULL && l->worker == worker ? l : NULL;
}

/* --- units --- */

/* k queued units leave the request, n_promised of them promised ones; it and its owner may go. */
static void leave_queue(struct lease_table *t, struct request *q, uint32_t k, uint32_t n_promised)
{
    struct owner *o = q->owner;

    q->n_queued -= k;
    q->n_promised -= n_promised;
    q->class->n_queued -= k;
    q->class->n_promised -= n_promised;
    if (q->class->feasible)
        t->n_waiting -= k;
    if (q->n_queued > 0)
        return;
    list_remove(&q->node);
    free(q);
    if (!list_empty(&o->requests))
        return;
    list_remove(&o->node);
    free(o);
}

static void start(struct lease_table *t, struct request *q, struct lease_actions *out)
{
    struct start *s = xcalloc(1, sizeof *s);

    s->since_ms = t->now_ms;
    s->class = q->class;
    s->owner = q->owner->id;
    s->ticket = q->ticket;
    list_append(&t->starts, &s->node);
    struct job *j = q->owner->job;
    add(out, (struct lease_action){.kind = LEASE_START, .job = j->id});
    list_remove(&q->owner->node); /* its turn is over, and its job's */
    list_append(&j->owners, &q->owner->node);
    list_remove(&j->node);
    list_append(&t->jobs, &j->node);
    leave_queue(t, q, 1, q->n_promised > 0);
}

/* --- the pump --- */

static bool keeps_promise(const struct request *q, uint64_t now_ms)
{
    return q->n_promised > 0 && (now_ms - q->promised_ms) / LEASE_PROMISE_MS % 2 == 0;
}

static bool fits(const struct lease_table *t, const struct res_set *need, const int64_t *room)
{
    for (unsigned i = 0; i < t->resources->n; i++)
        if (need->units[i] > 0 && need->units[i] > room[i])
            return false;
    return true;
}

static void add_lease(const struct lease_table *t, const struct lease *l, int64_t *room)
{
    for (unsigned i = 0; i < t->resources->n; i++)
        room[i] += i == 0 && l->blocked ? 0 : l->class->need.units[i];
}

static void subtract(const struct lease_table *t,
                     const struct res_set *need,
                     uint32_t k,
                     int64_t *room)
{
    for (unsigned i = 0; i < t->resources->n; i++)
        room[i] -= need->units[i] * k;
}

/* What is available once all that were told to make way have ended, but for bodies that go on and
 * on. */
static void foresee(const struct lease_table *t, int64_t *room)
{
    memcpy(room, t->resources->available, sizeof t->resources->available);
    list_for_each(n, &t->leases)
    {
        const struct lease *l = list_entry(n, struct lease, node);
        if (l->revoked && t->now_ms < l->due_ms + LEASE_TURN_MS)
            add_lease(t, l, room);
    }
}

/* What others than the promised may take of it: less, by what is kept for promises. */
static void reserve(const struct lease_table *t, uint64_t now_ms, int64_t *room)
{
    foresee(t, room);
    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        const struct owner *o = list_entry(n, struct owner, node);
        list_for_each(m, &o->requests)
        {
            const struct request *q = list_entry(m, struct request, node);
            if (keeps_promise(q, now_ms))
                subtract(t, &q->class->need, q->n_promised, room);
        }
    }
}

/* The next unit to start, its resources taken; NULL: none. room is NULL for the promised ones'
 * turn. */
static struct request *take_next(struct lease_table *t, int64_t *room)
{
    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        struct owner *o = list_entry(n, struct owner, node);
        list_for_each(m, &o->requests)
        {
            struct request *q = list_entry(m, struct request, node);
            if (!q->class->feasible || q->class->no_fit_pass == t->pass
                || (room == NULL && q->n_promised == 0))
                continue;
            if ((room == NULL || fits(t, &q->class->need, room))
                && resources_acquire(t->resources, &q->class->need)) {
                if (room != NULL)
                    subtract(t, &q->class->need, 1, room);
                return q;
            }
            q->class->no_fit_pass = t->pass;
        }
    }
    return NULL;
}

static void serve(struct lease_table *t, uint64_t now_ms, struct lease_actions *out)
{
    int64_t room[RESOURCES_MAX];
    struct request *q;

    t->pass++;
    while ((q = take_next(t, NULL)) != NULL)
        start(t, q, out);
    t->pass++;
    reserve(t, now_ms, room);
    while ((q = take_next(t, room)) != NULL)
        start(t, q, out);
}

static void revoke(const struct lease_table *t,
                   struct lease *l,
                   uint32_t grace_ms,
                   struct lease_actions *out)
{
    l->revoked = true;
    l->grace_ms = grace_ms;
    l->due_ms = t->now_ms + grace_ms;
    add(out,
        (struct lease_action){.kind = LEASE_REVOKE,
                              .worker = l->worker,
                              .lease = l->id,
                              .grace_ms = grace_ms});
}

/* Would it bring the request's unit nearer? One of the same owner and class would only get the same
 * thing back. */
static bool is_of_use(const struct lease_table *t,
                      const struct lease *l,
                      const struct request *q,
                      const int64_t *room)
{
    if (l->revoked || l->blocked || (l->owner == q->owner->id && l->class == q->class))
        return false;
    for (unsigned i = 0; i < t->resources->n; i++)
        if (q->class->need.units[i] > 0 && q->class->need.units[i] > room[i]
            && l->class->need.units[i] > 0)
            return true;
    return false;
}

/* Revoke the oldest leases that make one unit of the request fit into room, or, if there are not
 * enough, none. */
static bool make_room_for(struct lease_table *t,
                          const struct request *q,
                          int64_t *room,
                          uint64_t now_ms,
                          struct lease_actions *out)
{
    int64_t more[RESOURCES_MAX];
    size_t n_before = out->n;

    memcpy(more, room, sizeof more);
    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (fits(t, &q->class->need, more))
            break;
        if (!is_of_use(t, l, q, more))
            continue;
        uint64_t age = now_ms - l->granted_ms;
        add_lease(t, l, more);
        revoke(t, l, age < LEASE_TURN_MS ? (uint32_t)(LEASE_TURN_MS - age) : 0, out);
    }
    if (fits(t, &q->class->need, more)) {
        memcpy(room, more, sizeof more);
        return true;
    }
    while (out->n > n_before)
        find(t, out->v[--out->n].lease)->revoked = false;
    return false;
}

/* First those who have a promise, so that others do not count on the same leases. */
static void make_room(struct lease_table *t, uint64_t now_ms, struct lease_actions *out)
{
    int64_t room[RESOURCES_MAX];

    foresee(t, room);
    for (int promised = 1; promised >= 0; promised--)
        list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
        {
            const struct owner *o = list_entry(n, struct owner, node);
            list_for_each(m, &o->requests)
            {
                struct request *q = list_entry(m, struct request, node);
                uint32_t k = promised ? 0 : q->n_promised,
                         end = promised ? q->n_promised : q->n_queued;
                for (; q->class->feasible && k < end; k++) {
                    if (!fits(t, &q->class->need, room)) {
                        if (!make_room_for(t, q, room, now_ms, out))
                            break;
                        if (!promised) {
                            q->class->n_promised++;
                            if (q->n_promised++ == 0)
                                q->promised_ms = now_ms;
                        }
                    }
                    subtract(t, &q->class->need, 1, room);
                }
            }
        }
}

static void pump(struct lease_table *t, uint64_t now_ms, struct lease_actions *out)
{
    t->now_ms = now_ms;
    if (t->n_waiting == 0)
        return;
    serve(t, now_ms, out);
    if (t->n_waiting > 0)
        make_room(t, now_ms, out);
    t->quiet_since_ms = now_ms;
}

/* --- events --- */

static struct request *add_request(struct lease_table *t,
                                   const struct lease_ask *a,
                                   uint64_t now_ms)
{
    struct job *j = find_job(t, a->job);
    if (j == NULL) {
        j = xcalloc(1, sizeof *j);
        j->id = a->job;
        list_init(&j->classes);
        list_init(&j->owners);
        list_push(&t->jobs, &j->node); /* it was never served */
    }
    struct owner *o = find_owner(t, a->owner);
    if (o == NULL) {
        o = xcalloc(1, sizeof *o);
        o->id = a->owner;
        o->job = j;
        list_init(&o->requests);
        list_append(&j->owners, &o->node);
    }
    ASSERT(o->job == j);
    struct request *q = xcalloc(1, sizeof *q);
    q->owner = o;
    q->class = intern(t, j, a->need, a->name);
    q->ticket = a->ticket;
    q->n_queued = a->count;
    q->asked_ms = now_ms;
    list_append(&o->requests, &q->node);
    q->class->n_queued += a->count;
    if (q->class->feasible)
        t->n_waiting += a->count;
    return q;
}

static void warn(struct request *q, struct lease_actions *out)
{
    if (q->class->feasible || q->class->warned)
        return;
    q->class->warned = true;
    add(out,
        (struct lease_action){.kind = LEASE_WARN, .owner = q->owner->id, .text = q->class->text});
}

void lease_request(struct lease_table *t,
                   const struct lease_ask *a,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    if (a->count == 0)
        return;
    warn(add_request(t, a, now_ms), out);
    pump(t, now_ms, out);
}

/* How many of the request's units fit into what will be free once all that were told to make way
 * have ended, and all others that wait have theirs. */
static uint32_t count_soon(const struct lease_table *t, const struct request *of, uint64_t now_ms)
{
    int64_t room[RESOURCES_MAX];
    uint32_t k = 0;

    reserve(t, now_ms, room);
    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        const struct owner *o = list_entry(n, struct owner, node);
        list_for_each(m, &o->requests)
        {
            const struct request *q = list_entry(m, struct request, node);
            uint32_t kept = keeps_promise(q, now_ms) ? q->n_promised : 0;
            if (q != of && q->class->feasible)
                subtract(t, &q->class->need, q->n_queued - kept, room);
        }
    }
    for (; k < of->n_queued && fits(t, &of->class->need, room); k++)
        subtract(t, &of->class->need, 1, room);
    return k;
}

/* What does not start in this event, nor by a promise soon, is rejected. */
static void start_or_reject(struct lease_table *t,
                            struct request *q,
                            bool soon,
                            uint64_t now_ms,
                            struct lease_actions *out)
{
    uint32_t id = q->owner->id;
    uint64_t ticket = q->ticket;

    q->is_now = true;
    t->now_ms = now_ms;
    serve(t, now_ms, out);
    struct owner *o = find_owner(t, id); /* it goes with its last unit */
    if (o == NULL)
        return;
    list_for_each_safe(n, &o->requests)
    {
        q = list_entry(n, struct request, node);
        if (!q->is_now)
            continue;
        q->is_now = false;
        uint32_t n_soon = soon ? count_soon(t, q, now_ms) : 0, n_rejected = q->n_queued - n_soon;
        q->class->n_promised += n_soon;
        q->n_promised = n_soon;
        q->promised_ms = now_ms;
        if (n_rejected == 0)
            return;
        add(out,
            (struct lease_action){.kind = LEASE_REJECTED,
                                  .owner = id,
                                  .ticket = ticket,
                                  .count = n_rejected});
        leave_queue(t, q, n_rejected, 0);
        return;
    }
}

void lease_request_now(struct lease_table *t,
                       const struct lease_ask *a,
                       uint64_t now_ms,
                       struct lease_actions *out)
{
    if (a->count > 0)
        start_or_reject(t, add_request(t, a, now_ms), false, now_ms, out);
}

void lease_request_soon(struct lease_table *t,
                        const struct lease_ask *a,
                        uint64_t now_ms,
                        struct lease_actions *out)
{
    if (a->count > 0)
        start_or_reject(t, add_request(t, a, now_ms), true, now_ms, out);
}

/* --- units for elsewhere --- */

/* The class at c of the job at j, or the first after it that has units to give. */
static bool show_waiting(const struct lease_table *t,
                         const struct list *j,
                         const struct list *c,
                         struct lease_class *out)
{
    for (; j != &t->jobs; j = j->next, c = NULL) {
        const struct job *job = list_entry(j, struct job, node);
        for (c = c != NULL ? c : job->classes.next; c != &job->classes; c = c->next) {
            struct task_class *class = list_entry(c, struct task_class, node);
            if (class->n_queued == class->n_promised)
                continue;
            out->class = class;
            out->job = job->id;
            out->count = class->n_queued - class->n_promised;
            out->is_feasible = class->feasible;
            out->name = class->name;
            out->n_need = res_set_list(&class->need, t->resources, out->need);
            return true;
        }
    }
    return false;
}

bool lease_first_waiting(const struct lease_table *t, struct lease_class *c)
{
    return show_waiting(t, t->jobs.next, NULL, c);
}

bool lease_next_waiting(const struct lease_table *t, struct lease_class *c)
{
    return show_waiting(t, &c->class->job->node, c->class->node.next, c);
}

struct taking {
    uint32_t k;
    struct lease_unit *out;
    size_t n, max;
};

static bool add_part(struct taking *taking, uint32_t owner, const struct request *q, uint32_t count)
{
    uint64_t ticket = q->ticket;
    size_t i = 0;

    while (i < taking->n && (taking->out[i].owner != owner || taking->out[i].ticket != ticket))
        i++;
    if (i == taking->max)
        return false;
    if (i == taking->n)
        taking->out[taking->n++] =
            (struct lease_unit){.owner = owner, .ticket = ticket, .asked_ms = q->asked_ms};
    taking->out[i].count += count;
    if (q->asked_ms < taking->out[i].asked_ms)
        taking->out[i].asked_ms = q->asked_ms;
    return true;
}

/* Up to k units of this owner, who may go with them; how many. */
static uint32_t take_from(struct lease_table *t,
                          struct owner *o,
                          const struct task_class *class,
                          uint32_t k,
                          struct taking *taking)
{
    uint32_t id = o->id, n_taken = 0;

    for (struct list *m = o->requests.next, *end = &o->requests, *next; m != end; m = next) {
        struct request *q = list_entry(m, struct request, node);
        uint32_t some = q->class == class ? q->n_queued - q->n_promised : 0;
        bool is_last = m->next == end;
        next = m->next;
        if (some > k - n_taken)
            some = k - n_taken;
        if (some > 0 && add_part(taking, id, q, some)) {
            leave_queue(t, q, some, 0);
            n_taken += some;
        }
        if (is_last)
            break;
    }
    taking->k -= n_taken;
    return n_taken;
}

size_t lease_take(struct lease_table *t,
                  const struct lease_class *c,
                  uint32_t k,
                  struct lease_unit *out,
                  size_t max)
{
    struct task_class *class = c->class;
    struct taking taking = {.k = k, .out = out, .max = max};

    for (uint64_t before = (uint64_t)k + 1; taking.k > 0 && taking.k < before;) {
        struct list *owners = &class->job->owners, *next;
        uint32_t n_left = 0;
        before = taking.k;
        list_for_each(p, owners) n_left++;
        for (struct list *p = owners->next; n_left > 0 && taking.k > 0; p = next, n_left--) {
            struct owner *o = list_entry(p, struct owner, node);
            uint32_t id = o->id;
            next = p->next;
            if (take_from(t, o, class, (taking.k - 1) / n_left + 1, &taking) == 0)
                continue;
            o = find_owner(t, id);
            if (o != NULL) { /* its turn is over */
                list_remove(&o->node);
                list_append(owners, &o->node);
            }
        }
    }
    return taking.n;
}

void lease_put_back(struct lease_table *t,
                    const struct lease_ask *a,
                    uint64_t now_ms,
                    struct lease_actions *out)
{
    if (a->count == 0)
        return;
    struct request *q = add_request(t, a, now_ms);
    list_remove(&q->node);
    list_push(&q->owner->requests, &q->node);
    warn(q, out);
    pump(t, now_ms, out);
}

void lease_asked_at(struct lease_table *t, uint32_t owner, uint64_t ticket, uint64_t asked_ms)
{
    struct owner *o = find_owner(t, owner);

    if (o == NULL) /* all have started */
        return;
    list_for_each(n, &o->requests)
    {
        struct request *q = list_entry(n, struct request, node);
        if (q->ticket == ticket && asked_ms < q->asked_ms)
            q->asked_ms = asked_ms;
    }
}

void lease_get_room(const struct lease_table *t, uint64_t now_ms, int64_t room[RESOURCES_MAX])
{
    reserve(t, now_ms, room);
    for (unsigned i = 0; i < t->resources->n; i++)
        if (room[i] > t->resources->available[i])
            room[i] = t->resources->available[i];
}

/* --- other events --- */

static void drop_start(struct lease_table *t, struct start *s)
{
    resources_release(t->resources, &s->class->need);
    list_remove(&s->node);
    free(s);
}

/* All units of the owner that are not granted, of one ticket or of all; how many. */
static uint32_t drop_units(struct lease_table *t,
                           uint32_t owner,
                           const uint64_t *ticket,
                           struct lease_actions *out)
{
    struct owner *o = find_owner(t, owner);
    uint32_t count = 0;

    list_for_each_safe(n, &t->starts)
    {
        struct start *s = list_entry(n, struct start, node);
        if (s->owner != owner || (ticket != NULL && s->ticket != *ticket))
            continue;
        add(out, (struct lease_action){.kind = LEASE_UNSTART, .job = s->class->job->id});
        drop_start(t, s);
        count++;
    }
    if (o == NULL)
        return count;
    for (struct list *n = o->requests.next, *end = &o->requests; n != end;) {
        struct request *q = list_entry(n, struct request, node);
        bool last = n->next == end; /* with it the owner may go */
        n = n->next;
        if (ticket == NULL || q->ticket == *ticket) {
            count += q->n_queued;
            leave_queue(t, q, q->n_queued, q->n_promised);
        }
        if (last)
            break;
    }
    return count;
}

void lease_cancel(struct lease_table *t,
                  uint32_t owner,
                  uint64_t ticket,
                  uint64_t now_ms,
                  struct lease_actions *out)
{
    uint32_t count = drop_units(t, owner, &ticket, out);

    if (count > 0) /* 0: everything was granted on the way; no answer is owed */
        add(out,
            (struct lease_action){.kind = LEASE_CANCELED,
                                  .owner = owner,
                                  .ticket = ticket,
                                  .count = count});
    pump(t, now_ms, out);
}

void lease_return(struct lease_table *t, uint32_t owner, uint64_t lease, struct lease_actions *out)
{
    struct lease *l = find(t, lease);

    if (l != NULL && l->owner == owner && !(l->revoked && l->grace_ms == 0))
        revoke(t, l, 0, out);
}

static struct start *first_start(const struct lease_table *t, uint32_t job)
{
    list_for_each(n, &t->starts)
    {
        struct start *s = list_entry(n, struct start, node);
        if (s->class->job->id == job)
            return s;
    }
    return NULL;
}

void lease_worker_ready(struct lease_table *t,
                        uint32_t job,
                        uint32_t worker,
                        uint64_t now_ms,
                        struct lease_actions *out)
{
    struct start *s = first_start(t, job);

    if (s == NULL) { /* canceled meanwhile */
        add(out, (struct lease_action){.kind = LEASE_RELEASE, .worker = worker});
        return;
    }
    struct lease *l = xcalloc(1, sizeof *l);
    l->id = ++t->last_id;
    l->granted_ms = now_ms;
    l->class = s->class;
    l->owner = s->owner;
    l->worker = worker;
    list_append(&t->leases, &l->node);
    add(out,
        (struct lease_action){.kind = LEASE_GRANT,
                              .owner = s->owner,
                              .ticket = s->ticket,
                              .lease = l->id,
                              .worker = worker});
    list_remove(&s->node);
    free(s);
    t->quiet_since_ms = now_ms;
    pump(t, now_ms, out); /* there is one more lease that could make way */
}

void lease_worker_failed(struct lease_table *t,
                         uint32_t job,
                         const char *text,
                         uint64_t now_ms,
                         struct lease_actions *out)
{
    snprintf(t->failure, sizeof t->failure, "%s", text);
    list_for_each_safe(n, &t->starts)
    {
        struct start *s = list_entry(n, struct start, node);
        if (s->class->job->id != job)
            continue;
        add(out,
            (struct lease_action){.kind = LEASE_REFUSED,
                                  .owner = s->owner,
                                  .ticket = s->ticket,
                                  .count = 1,
                                  .text = t->failure});
        drop_start(t, s);
    }
    pump(t, now_ms, out);
}

static void end(struct lease_table *t, struct lease *l)
{
    if (l->blocked) /* treated as unblocked first, then freed */
        resources_retake_cpu(t->resources, &l->class->need);
    resources_release(t->resources, &l->class->need);
    list_remove(&l->node);
    free(l);
}

void lease_ended(struct lease_table *t,
                 uint32_t worker,
                 uint64_t lease,
                 uint64_t now_ms,
                 struct lease_actions *out)
{
    struct lease *l = find_of_worker(t, worker, lease);

    if (l == NULL)
        return;
    end(t, l);
    add(out, (struct lease_action){.kind = LEASE_RELEASE, .worker = worker});
    pump(t, now_ms, out);
}

void lease_blocked(struct lease_table *t,
                   uint32_t worker,
                   uint64_t lease,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    struct lease *l = find_of_worker(t, worker, lease);

    if (l == NULL || l->blocked)
        return;
    l->blocked = true;
    resources_release_cpu(t->resources, &l->class->need);
    pump(t, now_ms, out);
}

void lease_unblocked(struct lease_table *t, uint32_t worker, uint64_t lease)
{
    struct lease *l = find_of_worker(t, worker, lease);

    if (l == NULL || !l->blocked)
        return;
    l->blocked = false;
    resources_retake_cpu(t->resources, &l->class->need);
}

void lease_worker_died(struct lease_table *t,
                       uint32_t worker,
                       uint64_t now_ms,
                       struct lease_actions *out)
{
    list_for_each_safe(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->worker != worker)
            continue;
        if (!l->owner_gone)
            add(out,
                (struct lease_action){.kind = LEASE_DEAD,
                                      .owner = l->owner,
                                      .lease = l->id,
                                      .worker = worker});
        end(t, l);
    }
    pump(t, now_ms, out);
}

void lease_owner_died(struct lease_table *t,
                      uint32_t owner,
                      uint64_t now_ms,
                      struct lease_actions *out)
{
    t->now_ms = now_ms;
    drop_units(t, owner, NULL, out);
    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->owner != owner || l->owner_gone)
            continue;
        l->owner_gone = true;
        l->kill_ms = now_ms + LEASE_TURN_MS;
        if (!(l->revoked && l->grace_ms == 0))
            revoke(t, l, 0, out);
    }
    pump(t, now_ms, out);
}

void lease_job_ended(struct lease_table *t, uint32_t job)
{
    struct job *j = find_job(t, job);

    if (j == NULL)
        return; /* it never asked for anything */
    ASSERT(list_empty(&j->owners) && first_start(t, job) == NULL);
    list_for_each(n, &t->leases) ASSERT(list_entry(n, struct lease, node)->class->job != j);
    free_job(j);
}

/* --- time --- */

/* Of the leases that could be idle the one asked longest ago, if that was long enough ago. */
static struct lease *next_to_ask(const struct lease_table *t, uint64_t now_ms)
{
    struct lease *best = NULL;

    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->revoked || l->blocked
            || (l->asked_ms != 0 && now_ms - l->asked_ms < LEASE_SURPLUS_MS))
            continue;
        if (best == NULL || l->asked_ms < best->asked_ms)
            best = l;
    }
    return best;
}

static void ask_surplus(struct lease_table *t,
                        unsigned surplus,
                        uint64_t now_ms,
                        struct lease_actions *out)
{
    list_for_each(n, &t->leases)
    {
        const struct lease *l = list_entry(n, struct lease, node);
        bool going = l->revoked || (l->asked_ms != 0 && now_ms - l->asked_ms < LEASE_SURPLUS_MS);
        if (surplus > 0 && (going || l->blocked))
            surplus--; /* on its way, or holds no CPU */
    }
    for (struct lease *l; surplus > 0 && (l = next_to_ask(t, now_ms)) != NULL; surplus--) {
        l->asked_ms = now_ms;
        add(out,
            (struct lease_action){.kind = LEASE_REVOKE,
                                  .worker = l->worker,
                                  .lease = l->id,
                                  .grace_ms = LEASE_WHEN_IDLE});
    }
}

void lease_on_time(struct lease_table *t,
                   unsigned n_workers,
                   unsigned n_cpus,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->owner_gone && now_ms >= l->kill_ms) {
            l->kill_ms = UINT64_MAX; /* INV-7; once */
            add(out,
                (struct lease_action){.kind = LEASE_KILL, .worker = l->worker, .lease = l->id});
        }
    }
    pump(t, now_ms, out); /* a promise may have ceased to be kept */
    if (t->n_waiting == 0 && list_empty(&t->starts)
        && now_ms - t->quiet_since_ms >= LEASE_SURPLUS_MS && n_workers > n_cpus) {
        t->surplus_ms = now_ms;
        ask_surplus(t, n_workers - n_cpus, now_ms, out);
    }
}

/* Some lease may be asked to end: not all workers beyond n_cpus are on their way out or blocked. */
static bool has_surplus(const struct lease_table *t, unsigned n_workers, unsigned n_cpus)
{
    unsigned n_going = 0, n_leases = 0;

    list_for_each(n, &t->leases)
    {
        const struct lease *l = list_entry(n, struct lease, node);
        n_going += l->revoked || l->blocked;
        n_leases++;
    }
    return n_going < n_leases && n_workers > n_cpus + n_going;
}

uint64_t lease_next_deadline(const struct lease_table *t, unsigned n_workers, unsigned n_cpus)
{
    uint64_t at = UINT64_MAX;

    list_for_each(n, &t->leases)
    {
        const struct lease *l = list_entry(n, struct lease, node);
        if (l->owner_gone && l->kill_ms < at)
            at = l->kill_ms;
    }
    if (t->n_waiting > 0) { /* a promise lapses, a body is late */
        if (t->now_ms + LEASE_TURN_MS < at)
            at = t->now_ms + LEASE_TURN_MS;
    } else if (list_empty(&t->starts) && has_surplus(t, n_workers, n_cpus)) {
        uint64_t since = t->surplus_ms > t->quiet_since_ms ? t->surplus_ms : t->quiet_since_ms;
        if (since + LEASE_SURPLUS_MS < at)
            at = since + LEASE_SURPLUS_MS;
    }
    return at;
}

/* --- queries --- */

void lease_get_stats(const struct lease_table *t, uint32_t job, struct lease_stats *out)
{
    *out = (struct lease_stats){0};
    list_for_each(n, &t->jobs)
    {
        const struct job *j = list_entry(n, struct job, node);
        if (job > 0 && j->id != job)
            continue;
        list_for_each(o, &j->owners) list_for_each(q, &list_entry(o, struct owner, node)->requests)
            out->n_queued += list_entry(q, struct request, node)->n_queued;
    }
    list_for_each(s, &t->starts) out->n_starting +=
        job == 0 || list_entry(s, struct start, node)->class->job->id == job;
    list_for_each(m, &t->leases)
    {
        const struct lease *l = list_entry(m, struct lease, node);
        if (job > 0 && l->class->job->id != job)
            continue;
        out->n_leased++;
        out->n_blocked += l->blocked;
    }
}

/* The first resource that the class needs more of than that. */
static const char *find_lacking(const struct lease_table *t,
                                const struct res_set *need,
                                const int64_t *have)
{
    if (need->n_foreign > 0)
        return need->foreign[0].name;
    for (unsigned i = 0; i < t->resources->n; i++)
        if (need->units[i] > 0 && need->units[i] > have[i])
            return t->resources->names[i];
    return NULL;
}

struct listing {
    struct lease_use *v;
    size_t n, room;
};

static struct lease_use *use_of(const struct lease_table *t,
                                struct listing *l,
                                struct task_class *class)
{
    if (class->use > 0)
        return &l->v[class->use - 1];
    if (l->n == l->room) {
        l->room = l->room == 0 ? 16 : 2 * l->room;
        l->v = xrealloc(l->v, l->room * sizeof *l->v);
    }
    struct lease_use *u = &l->v[l->n++];
    class->use = l->n;
    *u = (struct lease_use){.job = class->job->id, .name = class->name};
    u->n_need = res_set_list(&class->need, t->resources, u->need);
    if (class->n_queued == 0)
        return u;
    u->lacking = find_lacking(t, &class->need, t->resources->total);
    u->wait = LEASE_WAIT_NEVER;
    if (u->lacking != NULL)
        return u;
    u->lacking = find_lacking(t, &class->need, t->resources->available);
    u->wait = u->lacking != NULL ? LEASE_WAIT_TAKEN : LEASE_WAIT_PROMISED;
    return u;
}

size_t lease_list_uses(struct lease_table *t, struct lease_use **out)
{
    struct listing l = {0};

    list_for_each(j, &t->jobs) list_for_each(c, &list_entry(j, struct job, node)->classes)
        list_entry(c, struct task_class, node)
            ->use = 0;
    list_for_each(j, &t->jobs) list_for_each(o, &list_entry(j, struct job, node)->owners)
        list_for_each(m, &list_entry(o, struct owner, node)->requests)
    {
        const struct request *q = list_entry(m, struct request, node);
        struct lease_use *u = use_of(t, &l, q->class);
        u->asked_ms = u->n_queued == 0 || q->asked_ms < u->asked_ms ? q->asked_ms : u->asked_ms;
        u->n_queued += q->n_queued;
    }
    list_for_each(m, &t->starts)
    {
        const struct start *s = list_entry(m, struct start, node);
        struct lease_use *u = use_of(t, &l, s->class);
        u->start_ms = u->n_starting == 0 ? s->since_ms : u->start_ms; /* in their order */
        u->n_starting++;
    }
    list_for_each(m, &t->leases)
    {
        const struct lease *lease = list_entry(m, struct lease, node);
        struct lease_use *u = use_of(t, &l, lease->class);
        u->n_leased++;
        u->n_blocked += lease->blocked;
    }
    *out = l.v;
    return l.n;
}

bool lease_look_at(const struct lease_table *t, uint32_t worker, struct lease_held *out)
{
    list_for_each(n, &t->leases)
    {
        const struct lease *l = list_entry(n, struct lease, node);
        if (l->worker != worker)
            continue;
        *out = (struct lease_held){.name = l->class->name,
                                   .owner = l->owner,
                                   .is_blocked = l->blocked,
                                   .granted_ms = l->granted_ms};
        return true;
    }
    return false;
}

static void check_classes(const struct job *j)
{
    list_for_each(n, &j->classes)
    {
        const struct task_class *class = list_entry(n, struct task_class, node);
        uint32_t n_queued = 0, n_promised = 0;
        list_for_each(o, &j->owners) list_for_each(k, &list_entry(o, struct owner, node)->requests)
        {
            const struct request *q = list_entry(k, struct request, node);
            n_queued += q->class == class ? q->n_queued : 0;
            n_promised += q->class == class ? q->n_promised : 0;
        }
        ASSERT(class->n_queued == n_queued && class->n_promised == n_promised);
    }
}

void lease_selfcheck(const struct lease_table *t)
{
    const struct resources *r = t->resources;
    int64_t used[RESOURCES_MAX] = {0};
    unsigned n_waiting = 0;

    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        const struct owner *o = list_entry(n, struct owner, node);
        ASSERT(!list_empty(&o->requests) && find_owner(t, o->id) == o && &o->job->node == j);
        list_for_each(k, &o->requests)
        {
            const struct request *q = list_entry(k, struct request, node);
            ASSERT(q->owner == o && q->class->job == o->job && q->n_queued > 0
                   && q->n_promised <= q->n_queued && !q->is_now);
            ASSERT(q->class->feasible || (q->class->warned && q->n_promised == 0));
            n_waiting += q->class->feasible ? q->n_queued : 0;
        }
    }
    ASSERT(n_waiting == t->n_waiting);
    list_for_each(j, &t->jobs) check_classes(list_entry(j, struct job, node));
    list_for_each(s, &t->starts) for (unsigned i = 0; i < r->n; i++) used[i] +=
        list_entry(s, struct start, node)->class->need.units[i]; /* INV-16 */
    list_for_each(m, &t->leases)
    {
        const struct lease *l = list_entry(m, struct lease, node);
        for (unsigned i = 0; i < r->n; i++)
            used[i] += i == 0 && l->blocked ? 0 : l->class->need.units[i];
        ASSERT(l->id > t->first_id && l->id <= t->last_id && find(t, l->id) == l);
        for (const struct list *p = m->next; p != &t->leases; p = p->next)
            ASSERT(list_entry(p, struct lease, node)->worker != l->worker); /* INV-10 */
    }
    for (unsigned i = 0; i < r->n; i++)
        ASSERT(r->available[i] + used[i] == r->total[i]); /* INV-19 */
    resources_selfcheck(r);
}
