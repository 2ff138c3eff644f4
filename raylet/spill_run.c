/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A unit of a request is sent to another node when the policy says so: as it comes
 * (spill_run_divide), or later out of lease_queue.c (spill_run). It goes in its owner's name, and
 * that node grants it to the owner itself, or rejects it to us; then it waits here again. spill.c
 * knows what is out, and whose each unit is to answer. Owners are known there by process number.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define REQUEST_MAX                                                                                \
    (sizeof(struct wire_lease_request) + RES_AMOUNTS_MAX * sizeof(struct wire_resource) + 48)

/* Of a LEASE_REQUEST. */
static void set_units(void *request, uint64_t ticket, uint32_t count)
{
    struct wire_lease_request r;

    memcpy(&r, request, sizeof r);
    r.ticket = ticket;
    r.count = count;
    memcpy(request, &r, sizeof r);
}

/* --- to another node --- */

/* A node that is to have work of this job cannot dial a driver's: that is to dial it. */
static void call_home(const struct job *j, uint32_t at)
{
    struct peer *home = j->home > 0 ? peers_find(j->of->peers, j->home) : NULL;
    struct peer_header h = {.type = PEER_CALL};
    struct peer_call w = {.node = at};

    if (home != NULL && peer_only_dials(home))
        peers_send(home, FRAME_CONTROL, &h, &w, sizeof w);
}

void spill_run_on_call(struct node *n, const uint8_t *body, size_t size)
{
    struct peer_call w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.node > 0 && w.node != n->number)
        peers_call(n->peers, w.node);
}

static bool send(struct process *owner,
                 uint32_t at,
                 uint32_t count,
                 uint64_t asked_ms,
                 enum peer_when when,
                 const uint8_t *request,
                 size_t size)
{
    struct node *n = owner->node;
    struct peer *peer = peers_find(n->peers, at);
    struct peer_header h = {.from = owner->number, .type = PEER_SPILL, .job = owner->job->number};
    uint8_t buf[sizeof(struct peer_spill) + REQUEST_MAX];
    struct peer_spill w = {.job = owner->job->number,
                           .home = owner->job->home > 0 ? owner->job->home : n->number,
                           .pid = owner->pid,
                           .owner = owner->id,
                           .when = (uint8_t)when};
    struct wire_lease_request r;

    if (peer == NULL || size > REQUEST_MAX)
        return false;
    if (guest_run_will_tell(owner, at))
        call_home(owner->job, at);
    memcpy(&r, request, sizeof r);
    spill_sent(n->spill,
               &(struct spill_units){.owner = owner->number,
                                     .node = at,
                                     .count = count,
                                     .ticket = r.ticket,
                                     .asked_ms = asked_ms,
                                     .sent_ms = loop_now_ms()},
               request,
               size);
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, request, size);
    set_units(buf + sizeof w, r.ticket, count);
    peers_send(peer, FRAME_CONTROL, &h, buf, sizeof w + size);
    return true;
}

static unsigned read_need(const uint8_t *request,
                          struct wire_resource *names,
                          struct res_amount *out)
{
    struct wire_lease_request r;

    memcpy(&r, request, sizeof r);
    memcpy(names, request + sizeof r, r.n_resources * sizeof *names);
    for (uint32_t i = 0; i < r.n_resources; i++) {
        names[i].name[sizeof names[i].name - 1] = '\0';
        out[i] = (struct res_amount){.name = names[i].name, .units = names[i].units};
    }
    return r.n_resources;
}

/* Picks for up to count units: as many as go the same way. */
static enum view_pick pick(struct node *n,
                           const struct res_amount *need,
                           unsigned n_need,
                           uint32_t count,
                           uint32_t *at,
                           uint32_t *k)
{
    uint64_t now = loop_now_ms();
    enum view_pick way = VIEW_NOWHERE;
    uint32_t number = 0;

    *k = 0;
    *at = 0;
    while (*k < count) {
        enum view_pick next = cluster_view_pick(n->view, need, n_need, now, &number);
        if (*k > 0 && (next != way || number != *at))
            break;
        way = next;
        *at = number;
        if (way == VIEW_HERE || way == VIEW_THERE)
            cluster_view_debit(n->view, number, need, n_need, 1, now);
        else if (way == VIEW_WAIT_THERE)
            cluster_view_add_waiting(n->view, number, 1, now);
        else {
            *k = count; /* nor will it be another for the rest */
            break;
        }
        ++*k;
    }
    return way;
}

/* Nodes that could take something of this one's. */
static bool has_others(const struct node *n)
{
    return n->peers != NULL && cluster_view_count(n->view) > (node_is_drivers(n) ? 0u : 1u);
}

/* A driver's node has no row among those that may be picked. */
static void look_at_self(struct node *n)
{
    if (!node_is_drivers(n))
        cluster_view_set_self(n->view, &n->resources);
}

static bool is_elsewhere(enum view_pick way)
{
    return way == VIEW_THERE || way == VIEW_WAIT_THERE;
}

static enum peer_when when_of(enum view_pick way)
{
    return way == VIEW_THERE ? PEER_NOW : PEER_WAIT;
}

/* All of a request's units go to the node that it names; what comes back goes by the policy, as do
 * those of others at once. */
uint32_t spill_run_divide(struct process *owner, const uint8_t *request, size_t size)
{
    struct node *n = owner->node;
    struct wire_lease_request r;
    struct wire_resource names[RES_AMOUNTS_MAX];
    struct res_amount need[RES_AMOUNTS_MAX];
    uint32_t here = 0, at, k;

    memcpy(&r, request, sizeof r);
    if (!has_others(n))
        return r.count;
    unsigned n_need = read_need(request, names, need);
    if (cluster_view_may_ask(n->view, r.node, need, n_need, loop_now_ms())
        && send(owner, r.node, r.count, loop_now_ms(), PEER_SOON, request, size)) {
        cluster_view_debit(n->view, r.node, need, n_need, r.count, loop_now_ms());
        return 0;
    }
    look_at_self(n);
    for (uint32_t done = 0; done < r.count; done += k) {
        enum view_pick way = pick(n, need, n_need, r.count - done, &at, &k);
        if (!is_elsewhere(way) || !send(owner, at, k, loop_now_ms(), when_of(way), request, size))
            here += k;
    }
    return here;
}

/* A class of units that wait in lease_queue.c, as a request. */
static size_t write_request(const struct lease_class *c, uint8_t *out)
{
    struct wire_lease_request r = {.n_resources = c->n_need};
    uint8_t *at = out + sizeof r;

    for (unsigned i = 0; i < c->n_need; i++) {
        struct wire_resource w = {.units = c->need[i].units};
        memcpy(w.name, c->need[i].name, strnlen(c->need[i].name, sizeof w.name - 1));
        memcpy(at, &w, sizeof w);
        at += sizeof w;
    }
    size_t len = strnlen(c->name, 47);
    memcpy(at, c->name, len);
    memcpy(out, &r, sizeof r);
    return (size_t)(at - out) + len;
}

/* Units for another node, of whichever owners' turn it is. */
static void take(struct node *n,
                 const struct lease_class *c,
                 uint32_t at,
                 uint32_t k,
                 enum peer_when when)
{
    struct lease_unit units[64];
    uint8_t request[REQUEST_MAX];
    size_t size = write_request(c, request);

    while (k > 0) {
        uint32_t some = k < 64 ? k : 64;
        size_t n_units = lease_take(n->leases, c, some, units, 64);
        if (n_units == 0)
            return;
        for (size_t i = 0; i < n_units; i++) {
            struct process *owner = node_at(n, units[i].owner);
            set_units(request, units[i].ticket, units[i].count);
            k -= units[i].count < k ? units[i].count : k;
            if (owner == NULL)
                continue;
            if (owner->is_guest)
                spill_run_reject(owner, request, size);
            else if (!send(owner, at, units[i].count, units[i].asked_ms, when, request, size))
                lease_run_ask_again(owner, request, size, units[i].asked_ms);
        }
    }
}

void spill_run(struct node *n)
{
    struct lease_class c;
    uint32_t at, k;

    if (!n->spill_due)
        return;
    n->spill_due = false;
    if (n->peers == NULL)
        return;
    look_at_self(n);
    for (bool more = lease_first_waiting(n->leases, &c); more;
         more = lease_next_waiting(n->leases, &c))
        for (uint32_t left = c.is_feasible && !has_others(n) ? 0 : c.count; left > 0; left -= k) {
            enum view_pick way = pick(n, c.need, c.n_need, left, &at, &k);
            lease_looked(&c, way != VIEW_NOWHERE, loop_now_ms(), &n->lease_actions);
            if (!is_elsewhere(way))
                break;
            take(n, &c, at, k, when_of(way));
        }
}

/* --- what comes back --- */

static void carry_out(struct node *n, const struct spill_action *a)
{
    struct process *owner = guest_run_find(n, a->owner);
    struct peer *peer = a->node > 0 ? peers_find(n->peers, a->node) : NULL;
    struct peer_header h = {.from = a->owner, .job = owner != NULL ? owner->job->number : 0};

    switch (a->kind) {
    case SPILL_BACK:
        set_units(a->request, a->ticket, a->count);
        if (owner != NULL && !owner->is_guest && owner->job->state < JOB_ENDING)
            lease_run_ask_again(owner, a->request, a->size, a->asked_ms);
        break;
    case SPILL_CANCELED: {
        struct wire_lease_canceled w = {.ticket = a->ticket, .count = a->count};
        node_send(owner, WIRE_LEASE_CANCELED, &w, sizeof w);
        break;
    }
    case SPILL_CANCEL: {
        struct wire_lease_cancel w = {.ticket = a->ticket};
        h.type = WIRE_LEASE_CANCEL;
        if (peer != NULL)
            peers_send(peer, FRAME_CONTROL, &h, &w, sizeof w);
        break;
    }
    case SPILL_GONE: {
        struct wire_process_dead w = {.process = a->owner};
        h = (struct peer_header){.type = PEER_PROCESS_DEAD};
        if (peer != NULL) /* behind the requests it is to end */
            peers_send(peer, FRAME_CONTROL, &h, &w, sizeof w);
        break;
    }
    }
}

static void act(struct node *n)
{
    for (size_t i = 0; i < n->spill_actions.n; i++)
        carry_out(n, &n->spill_actions.v[i]);
    spill_actions_clear(&n->spill_actions);
}

void spill_run_on_rejected(struct node *n, struct peer *from, const uint8_t *body, size_t size)
{
    struct peer_rejected w;
    struct wire_info_resource said[RESOURCES_MAX];
    struct res_amount amounts[RESOURCES_MAX], need[RES_AMOUNTS_MAX];
    struct wire_resource names[RES_AMOUNTS_MAX];

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.n_resources > RESOURCES_MAX || size < sizeof w + w.n_resources * sizeof said[0])
        return;
    memcpy(said, body + sizeof w, w.n_resources * sizeof said[0]);
    for (uint32_t i = 0; i < w.n_resources; i++) {
        said[i].name[sizeof said[i].name - 1] = '\0';
        amounts[i] = (struct res_amount){.name = said[i].name, .units = said[i].available};
    }
    spill_rejected(n->spill, w.owner, w.ticket, peer_number(from), w.count, &n->spill_actions);
    if (n->spill_actions.n > 0 && n->spill_actions.v[0].request != NULL) {
        unsigned n_need = read_need(n->spill_actions.v[0].request, names, need);
        cluster_view_rejected(n->view,
                              peer_number(from),
                              need,
                              n_need,
                              amounts,
                              w.n_resources,
                              loop_now_ms());
    }
    act(n);
}

bool spill_run_on_grant(struct process *owner, struct peer *from, const uint8_t *body, size_t size)
{
    struct node *n = owner->node;
    struct wire_lease_grant w;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    bool is_its_own = w.lease >> LEASE_NODE_SHIFT == peer_number(from);
    struct process *g = is_its_own ? guest_run_get(n, from, w.process) : NULL;
    bool is_good = g != NULL && (g->job == NULL || g->job == owner->job);
    if (is_good && spill_answered(n->spill, owner->number, w.ticket, peer_number(from), 1) > 0) {
        g->id = w.worker;
        g->pid = w.pid;
        g->job = owner->job;
        g->lease = w.lease;
        g->lease_owner = owner->slot;
        node_talk(owner, g);
        return true;
    }
    log_warn("spill", "wrong_grant", "node=%u process=%u", peer_number(from), w.process);
    if (!is_good) { /* the unit waits here again */
        spill_rejected(n->spill, owner->number, w.ticket, peer_number(from), 1, &n->spill_actions);
        act(n);
    }
    if (is_its_own)
        spill_run_on_return(owner, w.lease);
    return false;
}

void spill_run_on_answer(struct process *owner,
                         struct peer *from,
                         uint8_t type,
                         const uint8_t *body,
                         size_t size)
{
    struct wire_lease_canceled w; /* REFUSED begins alike */

    if (size < (type == WIRE_LEASE_REFUSED ? sizeof(struct wire_lease_refused) : sizeof w))
        return;
    memcpy(&w, body, sizeof w);
    w.count =
        spill_answered(owner->node->spill, owner->number, w.ticket, peer_number(from), w.count);
    if (w.count == 0) /* it owes none */
        return;
    uint8_t *frame = xmalloc(size);
    memcpy(frame, body, size);
    memcpy(frame, &w, sizeof w);
    node_send(owner, type, frame, size);
    free(frame);
}

void spill_run_on_cancel(struct process *owner, uint64_t ticket)
{
    struct node *n = owner->node;

    lease_cancel(n->leases, owner->slot, ticket, loop_now_ms(), &n->lease_actions);
    if (n->spill == NULL || owner->is_guest)
        return;
    spill_canceled(n->spill, owner->number, ticket, &n->spill_actions);
    act(n);
}

void spill_run_on_return(struct process *owner, uint64_t lease)
{
    struct node *n = owner->node;
    struct peer_header h = {.from = owner->number,
                            .type = WIRE_LEASE_RETURN,
                            .job = owner->job->number};
    struct wire_lease_return w = {.lease = lease};
    uint32_t at = (uint32_t)(lease >> LEASE_NODE_SHIFT);
    struct peer *peer = at != n->number && n->peers != NULL ? peers_find(n->peers, at) : NULL;

    if (peer != NULL)
        peers_send(peer, FRAME_CONTROL, &h, &w, sizeof w);
    else
        lease_return(n->leases, owner->slot, lease, loop_now_ms(), &n->lease_actions);
}

void spill_run_on_gone(const struct process *owner)
{
    struct node *n = owner->node;

    if (n->spill == NULL || owner->number == 0)
        return;
    spill_owner_died(n->spill, owner->number, &n->spill_actions);
    act(n);
}

void spill_run_on_node_lost(struct node *n, uint32_t at, const char *why)
{
    spill_node_died(n->spill, at, &n->spill_actions);
    act(n);
    for (uint32_t i = 0; i < n->n_guests; i++) {
        const struct process *g = n->guests[i];
        struct process *owner = g != NULL && g->lease > 0 ? node_at(n, g->lease_owner) : NULL;
        if (owner == NULL || g->at == NULL || peer_number(g->at) != at)
            continue;
        if ((g->talked[owner->slot / 64] >> owner->slot % 64 & 1) == 0)
            continue; /* the owner is dead, another one has its slot */
        uint8_t buf[sizeof(struct wire_worker_dead) + 400];
        struct wire_worker_dead w = {.lease = g->lease,
                                     .mask_lease = WIRE_MASK_UNKNOWN,
                                     .pid = g->pid,
                                     .node = *peer_node(g->at)};
        memcpy(buf, &w, sizeof w);
        int len = snprintf((char *)buf + sizeof w,
                           sizeof buf - sizeof w,
                           "worker pid=%d is lost with its node: %s",
                           g->pid,
                           why);
        node_send(owner, WIRE_WORKER_DEAD, buf, sizeof w + (size_t)len);
    }
}

void spill_run_init(struct node *n)
{
    n->spill = spill_create();
}

void spill_run_fini(struct node *n)
{
    spill_destroy(n->spill);
    n->spill = NULL;
    free(n->spill_actions.v);
}

/* --- for an owner elsewhere --- */

void spill_run_reject_units(struct process *owner, uint64_t ticket, uint32_t count)
{
    const struct node *n = owner->node;
    struct peer_header h = {.type = PEER_REJECTED};
    uint8_t buf[sizeof(struct peer_rejected) + RESOURCES_MAX * sizeof(struct wire_info_resource)];
    struct peer_rejected w = {.owner = owner->number, .ticket = ticket, .count = count};
    uint8_t *at = buf + sizeof w;
    int64_t room[RESOURCES_MAX];

    lease_get_room(n->leases, loop_now_ms(), room);
    for (unsigned i = 0; i < n->resources.n; i++) {
        struct wire_info_resource r = {.total = n->resources.total[i],
                                       .available = room[i] > 0 ? room[i] : 0};
        memcpy(r.name, n->resources.names[i], sizeof r.name);
        memcpy(at, &r, sizeof r);
        at += sizeof r;
        w.n_resources++;
    }
    memcpy(buf, &w, sizeof w);
    if (owner->at != NULL)
        peers_send(owner->at, FRAME_CONTROL, &h, buf, (size_t)(at - buf));
}

void spill_run_reject(struct process *owner, const uint8_t *request, size_t size)
{
    struct wire_lease_request r;

    if (size < sizeof r)
        return;
    memcpy(&r, request, sizeof r);
    spill_run_reject_units(owner, r.ticket, r.count);
}

void spill_run_on_spill(struct process *owner, const uint8_t *body, size_t size)
{
    struct node *n = owner->node;
    struct peer_spill w;

    if (size < sizeof w + sizeof(struct wire_lease_request))
        return;
    memcpy(&w, body, sizeof w);
    /* nothing runs on a driver's */
    struct job *j = !node_is_drivers(n) ? job_elsewhere(n, w.job, w.home, owner->at) : NULL;
    if (owner->job == NULL)
        owner->job = j;
    owner->id = w.owner;
    owner->pid = w.pid;
    if (j == NULL || j != owner->job || j->state >= JOB_ENDING)
        spill_run_reject(owner, body + sizeof w, size - sizeof w);
    else if (!job_elsewhere_hold(owner, body, size))
        lease_run_ask(owner, body + sizeof w, size - sizeof w, w.when);
}
