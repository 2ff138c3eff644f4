/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lease.c and lease_queue.c decide becomes frames. A pair of owner and worker gets one
 * channel, a socketpair whose ends travel with its first GRANT and BEGIN, and keeps it for its next
 * leases. When an end cannot be made or was lost at a descriptor limit, or all channels of one of
 * the two are in use (channel_table.h), the pair gets a route instead.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

/* why NULL: the worker is dead. Else it lives, and has started nothing of this lease. */
static void send_dead(struct node *n,
                      uint32_t owner,
                      uint64_t lease,
                      const struct process *worker,
                      int status,
                      const char *why)
{
    uint8_t buf[sizeof(struct wire_worker_dead) + 512] = {0};
    struct wire_worker_dead w = {.lease = lease,
                                 .pid = worker->pid,
                                 .wait_status = status,
                                 .node = n->id};
    char *text = (char *)buf + sizeof w;
    size_t size;

    if (why == NULL && worker->control != NULL) {
        w.mask_lease = atomic_load(&worker->control->lease);
        w.started = atomic_load(&worker->control->started);
    }
    memcpy(buf, &w, sizeof w);
    if (why == NULL)
        size = pool_run_describe_death(worker, status, text, sizeof buf - sizeof w);
    else
        size = (size_t)snprintf(text, sizeof buf - sizeof w, "%s", why);
    node_send(node_at(n, owner), WIRE_WORKER_DEAD, buf, sizeof w + size);
}

void lease_run_on_channel_lost(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_route w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    for (uint32_t s = 0; s < n->n_slots; s++) {
        struct process *worker = n->processes[s];
        if (worker == NULL || w.lease == 0 || worker->lease != w.lease)
            continue;
        struct process *owner = node_at(n, worker->lease_owner);
        if (owner == NULL || (p != owner && p != worker))
            return;
        log_warn("node", "channel_lost", "pid=%d lease=%llu", p->pid, (unsigned long long)w.lease);
        channel_table_lost(n->channels, owner->slot, worker->slot);
        if (p == worker)
            send_dead(n,
                      owner->slot,
                      w.lease,
                      worker,
                      0,
                      "the worker had no descriptor left for a channel");
        return;
    }
}

static void send_route(const struct process *to,
                       const struct process *peer,
                       uint32_t route,
                       uint64_t lease)
{
    struct wire_route w = {.route = route,
                           .peer_process = peer->number,
                           .lease = lease,
                           .peer = peer->id};

    node_send(node_at(to->node, to->slot), WIRE_ROUTE, &w, sizeof w);
}

/* How these two talk from this lease on: over a new channel, its ends in pair, or as they have been
 * told, now or before. */
static void connect_pair(struct node *n, struct process *o, struct process *w, int *pair)
{
    struct channel_pair ended[2];
    unsigned n_ended;

    node_talk(o, w);
    if (o->is_guest) { /* they are told each time: it may have forgotten the other */
        send_route(w, o, WIRE_ROUTE_PROCESS | WIRE_ROUTE_WORKER | o->number, w->lease);
        send_route(o, w, WIRE_ROUTE_PROCESS | WIRE_ROUTE_OWNER | w->number, w->lease);
        return;
    }
    enum channel_way way = channel_table_begin(n->channels, o->slot, w->slot, ended, &n_ended);
    for (unsigned i = 0; i < n_ended; i++) {
        struct wire_channel_end e = {.worker = n->processes[ended[i].worker]->id};
        node_send(n->processes[ended[i].owner], WIRE_CHANNEL_END, &e, sizeof e);
        if (n->n_channels_ended++ == 0)
            log_info("node", "channel_ended", "pid=%d msg=\"to make room; said once\"", o->pid);
    }
    if (way == CHANNEL_ROUTE && n->n_routes++ == 0)
        log_info("node", "route", "pid=%d msg=\"no channel for a pair; said once\"", o->pid);
    if (way == CHANNEL_NEW && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        log_warn("node",
                 "no_channel",
                 "errno=%d msg=\"%s; the pair gets a route\"",
                 errno,
                 strerror(errno));
        channel_table_lost(n->channels, o->slot, w->slot);
        way = channel_table_begin(n->channels, o->slot, w->slot, ended, &n_ended);
    }
    if (way == CHANNEL_ROUTE) {
        uint32_t route = router_bind(n->router, o->slot, w->slot);
        send_route(w, o, route, w->lease);
        send_route(o, w, route, w->lease);
    }
}

/* Both get the lease. */
static void grant(struct node *n, const struct lease_action *a)
{
    struct process *o = node_at(n, a->owner), *w = n->processes[a->worker];
    int pair[2] = {-1, -1};

    ASSERT(o != NULL && w != NULL);
    w->lease = a->lease;
    w->lease_owner = o->slot;
    connect_pair(n, o, w, pair);
    struct wire_lease_begin b = {.lease = a->lease,
                                 .owner_process = o->number,
                                 .owner_slot = o->is_guest ? WIRE_SLOT_NONE : o->slot,
                                 .owner_pid = o->pid,
                                 .owner = o->id,
                                 .node = o->at != NULL ? peer_number(o->at) : n->number};
    struct wire_lease_grant g = {.ticket = a->ticket,
                                 .lease = a->lease,
                                 .pid = w->pid,
                                 .process = w->number,
                                 .worker = w->id,
                                 .slot = o->is_guest ? WIRE_SLOT_NONE : w->slot,
                                 .node = n->number};
    node_send_fd(w, WIRE_LEASE_BEGIN, &b, sizeof b, pair[0]);
    if (o->is_guest)
        node_send(o, WIRE_LEASE_GRANT, &g, sizeof g);
    else
        node_send_fd(o, WIRE_LEASE_GRANT, &g, sizeof g, pair[1]);
}

static void refuse(struct process *p, uint64_t ticket, uint32_t count, const struct err *why)
{
    uint8_t buf[sizeof(struct wire_lease_refused) + sizeof why->text];
    struct wire_lease_refused w = {.ticket = ticket,
                                   .count = count,
                                   .code = why->code,
                                   .node = p->node->id};
    size_t len = strlen(why->text);

    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, why->text, len);
    node_send(p, WIRE_LEASE_REFUSED, buf, sizeof w + len);
}

static void send_count(struct node *n, const struct lease_action *a)
{
    struct process *o = node_at(n, a->owner);
    struct err err;

    if (o == NULL)
        return;
    if (a->kind == LEASE_CANCELED) {
        struct wire_lease_canceled w = {.ticket = a->ticket, .count = a->count};
        node_send(o, WIRE_LEASE_CANCELED, &w, sizeof w);
        return;
    }
    err_set(&err, o->job->start_code, "%s", a->text);
    refuse(o, a->ticket, a->count, &err);
}

static bool is_request(const uint8_t *body, size_t size)
{
    struct wire_lease_request w;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    return w.n_resources <= RES_AMOUNTS_MAX
           && size >= sizeof w + w.n_resources * sizeof(struct wire_resource) && w.count <= 4096;
}

typedef void (*ask_f)(struct lease_table *t,
                      const struct lease_ask *a,
                      uint64_t now_ms,
                      struct lease_actions *out);

/* Of a LEASE_REQUEST. */
static void ask(struct process *p, const uint8_t *body, size_t size, ask_f f)
{
    struct node *n = p->node;
    struct wire_lease_request w;
    struct res_set need;
    struct err err;
    char name[48];

    if (!is_request(body, size))
        return;
    memcpy(&w, body, sizeof w);
    memset(&need, 0, sizeof need);
    for (uint32_t i = 0; i < w.n_resources; i++) {
        struct wire_resource r;
        memcpy(&r, body + sizeof w + i * sizeof r, sizeof r);
        r.name[sizeof r.name - 1] = '\0';
        if (res_set_add(&need, &n->resources, r.name, r.units, &err) != 0) {
            refuse(p, w.ticket, w.count, &err);
            return;
        }
    }
    size_t at = sizeof w + w.n_resources * sizeof(struct wire_resource);
    snprintf(name, sizeof name, "%.*s", (int)(size - at), (const char *)body + at);
    if (p->job->state >= JOB_ENDING)
        return; /* so will it */
    struct lease_ask a = {.job = p->job->id,
                          .owner = p->slot,
                          .ticket = w.ticket,
                          .count = w.count,
                          .need = &need,
                          .name = name};
    f(n->leases, &a, loop_now_ms(), &n->lease_actions);
    n->spill_due = n->view != NULL;
}

void lease_run_ask(struct process *p, const uint8_t *request, size_t size, unsigned when)
{
    ask(p,
        request,
        size,
        when == PEER_WAIT   ? lease_request
        : when == PEER_SOON ? lease_request_soon
                            : lease_request_now);
}

void lease_run_ask_again(struct process *p, const uint8_t *request, size_t size, uint64_t asked_ms)
{
    struct wire_lease_request w = {.ticket = 0};

    ask(p, request, size, lease_put_back);
    memcpy(&w, request, size < sizeof w ? 0 : sizeof w);
    lease_asked_at(p->node->leases, p->slot, w.ticket, asked_ms);
}

void lease_run_on_request(struct process *p, const uint8_t *body, size_t size)
{
    uint8_t part[FRAME_SIZE_MAX];
    struct wire_lease_request w;

    if (!is_request(body, size) || size > sizeof part) {
        node_refuse(p, "malformed LEASE_REQUEST");
        return;
    }
    memcpy(&w, body, sizeof w);
    uint32_t here = p->node->view != NULL ? spill_run_divide(p, body, size) : w.count;
    if (here < w.count) {
        w.count = here;
        memcpy(part, body, size);
        memcpy(part, &w, sizeof w);
        body = part;
    }
    if (here > 0)
        lease_run_ask(p, body, size, PEER_WAIT);
}

static struct job *find_job(const struct node *n, uint32_t id)
{
    list_for_each(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (j->id == id)
            return j;
    }
    ASSERT(false); /* it is known to lease.c for as long as it is here */
}

static void carry_out(struct node *n,
                      const struct lease_action *a,
                      int status,
                      const struct process *dead)
{
    struct process *w = a->worker < BOARD_SLOTS ? n->processes[a->worker] : NULL;
    struct job *j = a->job > 0 ? find_job(n, a->job) : NULL;

    switch (a->kind) {
    case LEASE_START:
        worker_pool_request(j->pool, loop_now_ms(), &j->pool_actions);
        break;
    case LEASE_UNSTART:
        worker_pool_cancel(j->pool);
        break;
    case LEASE_GRANT:
        grant(n, a);
        break;
    case LEASE_REJECTED:
        if (node_at(n, a->owner) != NULL)
            spill_run_reject_units(node_at(n, a->owner), a->ticket, a->count);
        break;
    case LEASE_CANCELED:
    case LEASE_REFUSED:
        send_count(n, a);
        break;
    case LEASE_REVOKE: {
        struct wire_lease_revoke r = {.lease = a->lease, .grace_ms = a->grace_ms};
        node_send(w, WIRE_LEASE_REVOKE, &r, sizeof r);
        break;
    }
    case LEASE_RELEASE:
        channel_table_idle(n->channels, a->worker);
        if (w != NULL)
            worker_pool_release(w->job->pool, w->token, loop_now_ms(), &w->job->pool_actions);
        break;
    case LEASE_KILL:
        if (w != NULL)
            pool_run_kill(w, "the process whose task it ran has ended");
        break;
    case LEASE_DEAD:
        if (dead != NULL)
            send_dead(n, a->owner, a->lease, dead, status, NULL);
        break;
    case LEASE_WARN:
        log_warn("lease", "infeasible", "msg=\"%s\"", a->text);
        if (node_at(n, a->owner) != NULL)
            log_forward_say(node_at(n, a->owner)->job, a->text);
        break;
    }
}

void lease_run(struct node *n, int status, const struct process *dead)
{
    for (size_t i = 0; i < n->lease_actions.n; i++) {
        struct lease_action a = n->lease_actions.v[i];
        carry_out(n, &a, status, dead);
    }
    n->lease_actions.n = 0;
}
