/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each event changes one fact and ends with lease_pump(), the only place that takes
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
#include "raylet/lease_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

/* --- finding --- */

struct job *lease_find_job(const struct lease_table *t, uint32_t id)
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
    c->feasible = !t->is_closed && resources_is_feasible(t->resources, need);
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

struct owner *lease_find_owner(const struct lease_table *t, uint32_t id)
{
    list_for_each(j, &t->jobs) list_for_each(n, &list_entry(j, struct job, node)->owners)
    {
        struct owner *o = list_entry(n, struct owner, node);
        if (o->id == id)
            return o;
    }
    return NULL;
}

/* --- units --- */

void lease_leave_queue(struct lease_table *t, struct request *q, uint32_t k, uint32_t n_promised)
{
    struct owner *o = q->owner;

    q->n_queued -= k;
    q->n_promised -= n_promised;
    q->class->n_queued -= k;
    q->class->n_promised -= n_promised;
    if (q->class->feasible)
        t->n_waiting -= k;
    if (q->class->n_queued == 0)
        q->class->is_lost = false;
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
    lease_add_action(out, (struct lease_action){.kind = LEASE_START, .job = j->id});
    list_remove(&q->owner->node); /* its turn is over, and its job's */
    list_append(&j->owners, &q->owner->node);
    list_remove(&j->node);
    list_append(&t->jobs, &j->node);
    lease_leave_queue(t, q, 1, q->n_promised > 0);
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

void lease_revoke(const struct lease_table *t,
                  struct lease *l,
                  uint32_t grace_ms,
                  struct lease_actions *out)
{
    l->revoked = true;
    l->grace_ms = grace_ms;
    l->due_ms = t->now_ms + grace_ms;
    lease_add_action(out,
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
        lease_revoke(t, l, age < LEASE_TURN_MS ? (uint32_t)(LEASE_TURN_MS - age) : 0, out);
    }
    if (fits(t, &q->class->need, more)) {
        memcpy(room, more, sizeof more);
        return true;
    }
    while (out->n > n_before)
        lease_find(t, out->v[--out->n].lease)->revoked = false;
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

void lease_pump(struct lease_table *t, uint64_t now_ms, struct lease_actions *out)
{
    t->now_ms = now_ms;
    if (t->n_waiting == 0)
        return;
    serve(t, now_ms, out);
    if (t->n_waiting > 0)
        make_room(t, now_ms, out);
    t->quiet_since_ms = now_ms;
}

/* --- requests --- */

static struct request *add_request(struct lease_table *t,
                                   const struct lease_ask *a,
                                   uint64_t now_ms)
{
    struct job *j = lease_find_job(t, a->job);
    if (j == NULL) {
        j = xcalloc(1, sizeof *j);
        j->id = a->job;
        list_init(&j->classes);
        list_init(&j->owners);
        list_push(&t->jobs, &j->node); /* it was never served */
    }
    struct owner *o = lease_find_owner(t, a->owner);
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

static void warn(struct task_class *c, uint32_t owner, struct lease_actions *out)
{
    if (c->feasible || c->warned)
        return;
    c->warned = true;
    lease_add_action(out,
                     (struct lease_action){.kind = LEASE_WARN, .owner = owner, .text = c->text});
}

/* One that comes, or comes again. */
static void warn_of(const struct lease_table *t, struct request *q, struct lease_actions *out)
{
    if (!t->is_shared)
        warn(q->class, q->owner->id, out);
}

void lease_looked(const struct lease_class *c,
                  bool is_found,
                  uint64_t now_ms,
                  struct lease_actions *out)
{
    struct task_class *class = c->class;

    if (class->feasible || class->warned)
        return;
    if (!class->is_lost)
        class->lost_ms = now_ms;
    class->is_lost = !is_found;
    if (is_found || now_ms - class->lost_ms < LEASE_WARN_MS)
        return;
    list_for_each(n, &class->job->owners)
    {
        const struct owner *o = list_entry(n, struct owner, node);
        list_for_each(m, &o->requests) if (list_entry(m, struct request, node)->class == class)
            warn(class, o->id, out);
    }
}

void lease_request(struct lease_table *t,
                   const struct lease_ask *a,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    if (a->count == 0)
        return;
    warn_of(t, add_request(t, a, now_ms), out);
    lease_pump(t, now_ms, out);
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
    struct owner *o = lease_find_owner(t, id); /* it goes with its last unit */
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
        lease_add_action(out,
                         (struct lease_action){.kind = LEASE_REJECTED,
                                               .owner = id,
                                               .ticket = ticket,
                                               .count = n_rejected});
        lease_leave_queue(t, q, n_rejected, 0);
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
            lease_leave_queue(t, q, some, 0);
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
            o = lease_find_owner(t, id);
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
    warn_of(t, q, out);
    lease_pump(t, now_ms, out);
}

void lease_asked_at(struct lease_table *t, uint32_t owner, uint64_t ticket, uint64_t asked_ms)
{
    struct owner *o = lease_find_owner(t, owner);

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
