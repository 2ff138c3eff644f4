/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

#define NAME_MAX_BYTES 48

struct unit {
    struct list node;
    uint32_t owner;
    uint64_t ticket;
    struct res_set need;
    char name[NAME_MAX_BYTES];
    bool starting, warned, asked_others;
};

struct lease {
    struct list node; /* oldest first */
    uint64_t id, granted_ms;
    uint32_t owner, worker;
    struct res_set need;
    char name[NAME_MAX_BYTES];
    bool blocked, owner_gone;
    bool revoked; /* must make way */
    bool asked;   /* may end when idle: a surplus */
    uint64_t kill_ms;
};

struct lease_table {
    struct resources *resources;
    struct list units, leases;
    uint64_t last_id, idle_since_ms;
    char text[192];
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
    list_init(&t->units);
    list_init(&t->leases);
    return t;
}

void lease_table_destroy(struct lease_table *t)
{
    if (t == NULL)
        return;
    list_for_each_safe(n, &t->units) free(list_entry(n, struct unit, node));
    list_for_each_safe(m, &t->leases) free(list_entry(m, struct lease, node));
    free(t);
}

static bool is_same_class(const struct unit *u, const struct lease *l)
{
    return u->owner == l->owner && strcmp(u->name, l->name) == 0
           && memcmp(&u->need, &l->need, sizeof u->need) == 0;
}

static void revoke(struct lease *l, uint32_t grace_ms, struct lease_actions *out)
{
    l->revoked = true;
    add(out,
        (struct lease_action){.kind = LEASE_REVOKE,
                              .worker = l->worker,
                              .lease = l->id,
                              .grace_ms = grace_ms});
}

/* A unit that would fit if others made way asks one lease of another class, the oldest, to do so.
 */
static void ask_others(struct lease_table *t,
                       struct unit *u,
                       uint64_t now_ms,
                       struct lease_actions *out)
{
    if (u->asked_others)
        return;
    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->revoked || l->blocked || is_same_class(u, l))
            continue;
        uint64_t age = now_ms - l->granted_ms;
        revoke(l, age < LEASE_TURN_MS ? (uint32_t)(LEASE_TURN_MS - age) : 0, out);
        u->asked_others = true;
        return;
    }
}

/* The one place that turns waiting units into starts. */
static void pump(struct lease_table *t, uint64_t now_ms, struct lease_actions *out)
{
    list_for_each(n, &t->units)
    {
        struct unit *u = list_entry(n, struct unit, node);
        if (u->starting)
            continue;
        if (resources_acquire(t->resources, &u->need)) {
            u->starting = true;
            add(out, (struct lease_action){.kind = LEASE_START});
        } else if (resources_is_feasible(t->resources, &u->need)) {
            ask_others(t, u, now_ms, out);
        } else if (!u->warned) {
            u->warned = true;
            snprintf(t->text,
                     sizeof t->text,
                     "task %s waits: no node has %s%s; it stays queued until one does",
                     u->name,
                     u->need.missing[0] != '\0' ? "the resource " : "as many resources as it needs",
                     u->need.missing);
            add(out, (struct lease_action){.kind = LEASE_WARN, .owner = u->owner, .text = t->text});
        }
    }
}

void lease_request(struct lease_table *t,
                   uint32_t owner,
                   uint64_t ticket,
                   uint32_t count,
                   const struct res_set *need,
                   const char *name,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    for (uint32_t i = 0; i < count; i++) {
        struct unit *u = xcalloc(1, sizeof *u);
        u->owner = owner;
        u->ticket = ticket;
        u->need = *need;
        u->warned = i > 0;
        snprintf(u->name, sizeof u->name, "%s", name);
        list_append(&t->units, &u->node);
    }
    pump(t, now_ms, out);
}

static void drop_unit(struct lease_table *t, struct unit *u, struct lease_actions *out)
{
    if (u->starting) {
        resources_release(t->resources, &u->need);
        add(out, (struct lease_action){.kind = LEASE_UNSTART});
    }
    list_remove(&u->node);
    free(u);
}

void lease_cancel(struct lease_table *t,
                  uint32_t owner,
                  uint64_t ticket,
                  uint64_t now_ms,
                  struct lease_actions *out)
{
    uint32_t count = 0;

    list_for_each_safe(n, &t->units)
    {
        struct unit *u = list_entry(n, struct unit, node);
        if (u->owner != owner || u->ticket != ticket)
            continue;
        drop_unit(t, u, out);
        count++;
    }
    /* 0: everything was granted on the way; no answer is owed */
    if (count > 0)
        add(out,
            (struct lease_action){.kind = LEASE_CANCELED,
                                  .owner = owner,
                                  .ticket = ticket,
                                  .count = count});
    pump(t, now_ms, out);
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

void lease_return(struct lease_table *t, uint32_t owner, uint64_t lease, struct lease_actions *out)
{
    struct lease *l = find(t, lease);

    if (l != NULL && l->owner == owner)
        revoke(l, 0, out);
}

void lease_worker_ready(struct lease_table *t,
                        uint32_t worker,
                        uint64_t now_ms,
                        struct lease_actions *out)
{
    list_for_each(n, &t->units)
    {
        struct unit *u = list_entry(n, struct unit, node);
        if (!u->starting)
            continue;
        struct lease *l = xcalloc(1, sizeof *l);
        l->id = ++t->last_id;
        l->granted_ms = now_ms;
        l->owner = u->owner;
        l->worker = worker;
        l->need = u->need;
        memcpy(l->name, u->name, sizeof l->name);
        list_append(&t->leases, &l->node);
        add(out,
            (struct lease_action){.kind = LEASE_GRANT,
                                  .owner = u->owner,
                                  .ticket = u->ticket,
                                  .lease = l->id,
                                  .worker = worker});
        list_remove(&u->node);
        free(u);
        return;
    }
    add(out,
        (struct lease_action){.kind = LEASE_RELEASE, .worker = worker}); /* canceled meanwhile */
}

void lease_worker_failed(struct lease_table *t,
                         const char *text,
                         uint64_t now_ms,
                         struct lease_actions *out)
{
    list_for_each_safe(n, &t->units)
    {
        struct unit *u = list_entry(n, struct unit, node);
        if (!u->starting)
            continue;
        resources_release(t->resources, &u->need);
        add(out,
            (struct lease_action){.kind = LEASE_REFUSED,
                                  .owner = u->owner,
                                  .ticket = u->ticket,
                                  .count = 1,
                                  .text = text});
        list_remove(&u->node);
        free(u);
    }
    pump(t, now_ms, out);
}

static void end(struct lease_table *t, struct lease *l)
{
    if (l->blocked) /* treated as unblocked first, then freed */
        resources_retake_cpu(t->resources, &l->need);
    resources_release(t->resources, &l->need);
    list_remove(&l->node);
    free(l);
    list_for_each(n, &t->units) list_entry(n, struct unit, node)->asked_others = false;
}

void lease_ended(struct lease_table *t,
                 uint32_t worker,
                 uint64_t lease,
                 uint64_t now_ms,
                 struct lease_actions *out)
{
    struct lease *l = find(t, lease);

    if (l == NULL || l->worker != worker)
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
    struct lease *l = find(t, lease);

    if (l == NULL || l->worker != worker || l->blocked)
        return;
    l->blocked = true;
    resources_release_cpu(t->resources, &l->need);
    pump(t, now_ms, out);
}

void lease_unblocked(struct lease_table *t, uint32_t worker, uint64_t lease)
{
    struct lease *l = find(t, lease);

    if (l == NULL || l->worker != worker || !l->blocked)
        return;
    l->blocked = false;
    resources_retake_cpu(t->resources, &l->need);
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
    list_for_each_safe(n, &t->units)
    {
        struct unit *u = list_entry(n, struct unit, node);
        if (u->owner == owner)
            drop_unit(t, u, out);
    }
    list_for_each(m, &t->leases)
    {
        struct lease *l = list_entry(m, struct lease, node);
        if (l->owner != owner || l->owner_gone)
            continue;
        l->owner_gone = true;
        l->kill_ms = now_ms + LEASE_TURN_MS;
        revoke(l, 0, out);
    }
    pump(t, now_ms, out);
}

void lease_on_time(struct lease_table *t,
                   unsigned n_workers,
                   unsigned n_cpus,
                   uint64_t now_ms,
                   struct lease_actions *out)
{
    unsigned surplus = n_workers > n_cpus ? n_workers - n_cpus : 0;

    list_for_each(n, &t->leases)
    {
        struct lease *l = list_entry(n, struct lease, node);
        if (l->owner_gone && now_ms >= l->kill_ms) {
            l->kill_ms = UINT64_MAX; /* INV-7; once */
            add(out,
                (struct lease_action){.kind = LEASE_KILL, .worker = l->worker, .lease = l->id});
        }
    }
    if (!list_empty(&t->units)) {
        t->idle_since_ms = now_ms;
        return;
    }
    if (now_ms - t->idle_since_ms < LEASE_SURPLUS_MS)
        return;
    list_for_each(m, &t->leases)
    {
        struct lease *l = list_entry(m, struct lease, node);
        if (surplus == 0)
            return;
        if (l->revoked || l->asked || l->blocked)
            continue;
        /* a long grace: it ends when idle, and goes on while it has work */
        revoke(l, UINT32_MAX, out);
        l->revoked = false;
        l->asked = true;
        surplus--;
    }
}

void lease_get_stats(const struct lease_table *t, struct lease_stats *out)
{
    *out = (struct lease_stats){0};
    list_for_each(n, &t->units)
    {
        if (list_entry(n, struct unit, node)->starting)
            out->n_starting++;
        else
            out->n_queued++;
    }
    list_for_each(m, &t->leases)
    {
        out->n_leased++;
        out->n_blocked += list_entry(m, struct lease, node)->blocked;
    }
}

void lease_selfcheck(const struct lease_table *t)
{
    const struct resources *r = t->resources;
    int64_t used[RESOURCES_MAX] = {0};

    list_for_each(n, &t->units)
    {
        const struct unit *u = list_entry(n, struct unit, node);
        for (unsigned i = 0; u->starting && i < r->n; i++)
            used[i] += u->need.units[i];
    }
    list_for_each(m, &t->leases)
    {
        const struct lease *l = list_entry(m, struct lease, node);
        for (unsigned i = 0; i < r->n; i++)
            used[i] += i == 0 && l->blocked ? 0 : l->need.units[i];
    }
    for (unsigned i = 0; i < r->n; i++)
        ASSERT(r->available[i] + used[i] == r->total[i]); /* INV-19 */
}
