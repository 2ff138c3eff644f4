/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. The table, and the leases in it from their grant to their end; who waits for one,
 * and whose turn it is, is lease_queue.c's. Each event changes one fact and ends with lease_pump()
 * there. A lease's resources are taken when its unit starts, and freed on every way out.
 */
#include "raylet/lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "raylet/lease_private.h"

void lease_add_action(struct lease_actions *out, struct lease_action a)
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

void lease_table_share(struct lease_table *t)
{
    t->is_shared = true;
}

void lease_table_close(struct lease_table *t)
{
    t->is_closed = t->is_shared = true;
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

struct lease *lease_find(const struct lease_table *t, uint64_t id)
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
    struct lease *l = lease_find(t, id);

    return l != NULL && l->worker == worker ? l : NULL;
}

/* --- events --- */

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
    struct owner *o = lease_find_owner(t, owner);
    uint32_t count = 0;

    list_for_each_safe(n, &t->starts)
    {
        struct start *s = list_entry(n, struct start, node);
        if (s->owner != owner || (ticket != NULL && s->ticket != *ticket))
            continue;
        lease_add_action(out,
                         (struct lease_action){.kind = LEASE_UNSTART, .job = s->class->job->id});
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
            lease_leave_queue(t, q, q->n_queued, q->n_promised);
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
        lease_add_action(out,
                         (struct lease_action){.kind = LEASE_CANCELED,
                                               .owner = owner,
                                               .ticket = ticket,
                                               .count = count});
    lease_pump(t, now_ms, out);
}

void lease_return(struct lease_table *t,
                  uint32_t owner,
                  uint64_t lease,
                  uint64_t now_ms,
                  struct lease_actions *out)
{
    struct lease *l = lease_find(t, lease);

    t->now_ms = now_ms;
    if (l != NULL && l->owner == owner && !(l->revoked && l->grace_ms == 0))
        lease_revoke(t, l, 0, out);
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
        lease_add_action(out, (struct lease_action){.kind = LEASE_RELEASE, .worker = worker});
        return;
    }
    struct lease *l = xcalloc(1, sizeof *l);
    l->id = ++t->last_id;
    l->granted_ms = now_ms;
    l->class = s->class;
    l->owner = s->owner;
    l->worker = worker;
    list_append(&t->leases, &l->node);
    lease_add_action(out,
                     (struct lease_action){.kind = LEASE_GRANT,
                                           .owner = s->owner,
                                           .ticket = s->ticket,
                                           .lease = l->id,
                                           .worker = worker});
    list_remove(&s->node);
    free(s);
    t->quiet_since_ms = now_ms;
    lease_pump(t, now_ms, out); /* there is one more lease that could make way */
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
        lease_add_action(out,
                         (struct lease_action){.kind = LEASE_REFUSED,
                                               .owner = s->owner,
                                               .ticket = s->ticket,
                                               .count = 1,
                                               .text = t->failure});
        drop_start(t, s);
    }
    lease_pump(t, now_ms, out);
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
    lease_add_action(out, (struct lease_action){.kind = LEASE_RELEASE, .worker = worker});
    lease_pump(t, now_ms, out);
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
    lease_pump(t, now_ms, out);
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
            lease_add_action(out,
                             (struct lease_action){.kind = LEASE_DEAD,
                                                   .owner = l->owner,
                                                   .lease = l->id,
                                                   .worker = worker});
        end(t, l);
    }
    lease_pump(t, now_ms, out);
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
            lease_revoke(t, l, 0, out);
    }
    lease_pump(t, now_ms, out);
}

void lease_job_ended(struct lease_table *t, uint32_t job)
{
    struct job *j = lease_find_job(t, job);

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
        lease_add_action(out,
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
            lease_add_action(
                out,
                (struct lease_action){.kind = LEASE_KILL, .worker = l->worker, .lease = l->id});
        }
    }
    lease_pump(t, now_ms, out); /* a promise may have ceased to be kept */
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
        ASSERT(!list_empty(&o->requests) && lease_find_owner(t, o->id) == o && &o->job->node == j);
        list_for_each(k, &o->requests)
        {
            const struct request *q = list_entry(k, struct request, node);
            ASSERT(q->owner == o && q->class->job == o->job && q->n_queued > 0
                   && q->n_promised <= q->n_queued && !q->is_now);
            ASSERT(q->class->feasible
                   || ((q->class->warned || t->is_shared) && q->n_promised == 0));
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
        ASSERT(l->id > t->first_id && l->id <= t->last_id && lease_find(t, l->id) == l);
        for (const struct list *p = m->next; p != &t->leases; p = p->next)
            ASSERT(list_entry(p, struct lease, node)->worker != l->worker); /* INV-10 */
    }
    for (unsigned i = 0; i < r->n; i++)
        ASSERT(r->available[i] + used[i] == r->total[i]); /* INV-19 */
    resources_selfcheck(r);
}
