/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's raylet: what node.c and its parts do with frames, news and the modules' actions. A
 * unit is sent where the view says, as it comes or later out of the lease table's queue; a unit
 * that waits here for an owner elsewhere is rejected when there is room for it.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "raylet/peer_frames.h"
#include "tests/sim/machines/machines.h"

#define SYNC_MS 1000 /* at most between two calls of the GCS */

static const struct {
    const char *name;
    struct res_amount need[2];
} classes[CLASSES] = {
    {"short", {{"CPU", RESOURCE_UNIT}}},
    {"half", {{"CPU", RESOURCE_UNIT / 2}}},
    {"wide", {{"CPU", 4 * RESOURCE_UNIT}}},
    {"gpu", {{"CPU", RESOURCE_UNIT}, {"GPU", RESOURCE_UNIT}}},
    {"odd", {{"odd", RESOURCE_UNIT}}},
};

/* What the request of a spilled unit is made of. */
struct asked {
    uint32_t class;
};

static unsigned list_need(unsigned class, struct res_amount *need)
{
    unsigned n = 0;

    for (; n < 2 && classes[class].need[n].name != NULL; n++)
        need[n] = classes[class].need[n];
    return n;
}

void set_need(const struct machine *m, unsigned class, struct res_set *set)
{
    memset(set, 0, sizeof *set);
    for (unsigned i = 0; i < 2 && classes[class].need[i].name != NULL; i++)
        ASSERT(res_set_add(set,
                           &m->resources,
                           classes[class].need[i].name,
                           classes[class].need[i].units,
                           NULL)
               == 0);
}

static struct owner *living(uint32_t number)
{
    struct owner *o = cluster->owners[number];

    return o != NULL && o->alive ? o : NULL;
}

static void answer(const struct machine *m,
                   enum machines_kind kind,
                   uint32_t owner,
                   uint64_t ticket,
                   uint32_t count)
{
    send_event(m->number,
               (struct sim_event){.kind = (enum sim_kind)kind,
                                  .node = cluster->owners[owner]->machine,
                                  .slot = owner,
                                  .id = ticket,
                                  .count = count});
}

/* --- to other machines, and back --- */

static void send_units(struct machine *m,
                       struct owner *o,
                       uint64_t ticket,
                       unsigned class,
                       uint32_t count,
                       uint32_t to,
                       enum peer_when when)
{
    struct asked asked = {.class = class};

    cluster->n_moves += count;
    if (now_ms() < m->not_before[class][to])
        says("machine %u asks %u again for what it has just rejected", m->number, to);
    spill_sent(
        m->spill,
        &(struct spill_units){.owner = o->number, .node = to, .count = count, .ticket = ticket},
        &asked,
        sizeof asked);
    o->talked[to] = 1;
    send_event(m->number,
               (struct sim_event){.kind = (enum sim_kind)M_SPILL,
                                  .node = to,
                                  .peer = o->number,
                                  .id = ticket,
                                  .count = count,
                                  .place = (uint8_t) class,
                                  .phase = when});
}

static void reject(struct machine *m,
                   uint32_t owner,
                   uint64_t ticket,
                   unsigned class,
                   uint32_t count)
{
    int64_t room[RESOURCES_MAX];
    struct sim_event e = {.kind = (enum sim_kind)M_REJECTED,
                          .node = cluster->owners[owner]->machine,
                          .peer = owner,
                          .id = ticket,
                          .count = count,
                          .place = (uint8_t) class};

    cluster->n_rejected += count;
    lease_get_room(m->leases, now_ms(), room);
    e.mask = (uint64_t)room[0];
    e.task = m->resources.n > 1 ? (uint64_t)room[1] : 0;
    send_event(m->number, e);
}

/* Where the next units go: how many of them the same way. */
static enum view_pick pick(struct machine *m,
                           unsigned class,
                           uint32_t count,
                           uint32_t *to,
                           uint32_t *k)
{
    struct res_amount need[2];
    unsigned n = list_need(class, need);
    enum view_pick way = VIEW_NOWHERE;
    uint32_t number;

    for (*k = 0; *k < count; ++*k) {
        enum view_pick next = cluster_view_pick(m->view, need, n, now_ms(), &number);
        if (*k > 0 && (next != way || number != *to))
            break;
        way = next;
        *to = number;
        if (way == VIEW_HERE || way == VIEW_THERE) {
            cluster_view_debit(m->view, number, need, n, 1, now_ms());
        } else if (way == VIEW_WAIT_THERE) {
            cluster_view_add_waiting(m->view, number, 1, now_ms());
        } else {
            *k = count;
            break;
        }
    }
    return way;
}

static bool is_elsewhere(enum view_pick way)
{
    return way == VIEW_THERE || way == VIEW_WAIT_THERE;
}

static void request(struct machine *m, const struct sim_event *e)
{
    struct owner *o = living(e->peer);
    struct res_set need;
    uint32_t here = 0, k, to;

    if (o == NULL)
        return;
    struct res_amount rather[2];
    unsigned n = list_need(e->place, rather);
    if (cluster_view_may_ask(m->view, (uint32_t)e->task, rather, n, now_ms())) {
        cluster_view_debit(m->view, (uint32_t)e->task, rather, n, e->count, now_ms());
        send_units(m, o, e->id, e->place, e->count, (uint32_t)e->task, PEER_SOON);
        return;
    }
    cluster_view_set_self(m->view, &m->resources);
    for (uint32_t done = 0; done < e->count; done += k) {
        enum view_pick way = pick(m, e->place, e->count - done, &to, &k);
        if (is_elsewhere(way))
            send_units(m, o, e->id, e->place, k, to, way == VIEW_THERE ? PEER_NOW : PEER_WAIT);
        else
            here += k;
    }
    set_need(m, e->place, &need);
    struct lease_ask ask = {.job = o->number,
                            .owner = o->number,
                            .ticket = e->id,
                            .count = here,
                            .need = &need,
                            .name = classes[e->place].name};
    lease_request(m->leases, &ask, now_ms(), &m->la);
}

static void move(struct machine *m,
                 const struct lease_class *c,
                 unsigned class,
                 uint32_t k,
                 uint32_t to,
                 enum peer_when when)
{
    struct lease_unit units[16];
    size_t n;

    while (k > 0 && (n = lease_take(m->leases, c, k, units, 16)) > 0)
        for (size_t i = 0; i < n; i++) {
            struct owner *o = living(units[i].owner);
            k -= units[i].count;
            if (o == NULL)
                continue; /* its end is on its way */
            if (o->machine == m->number)
                send_units(m, o, units[i].ticket, class, units[i].count, to, when);
            else
                reject(m, o->number, units[i].ticket, class, units[i].count);
        }
}

static unsigned class_of(const char *name)
{
    unsigned k = 0;

    while (strcmp(classes[k].name, name) != 0)
        k++;
    return k;
}

/* Those that wait here though there is room elsewhere. */
static void spill(struct machine *m)
{
    struct lease_class c;
    uint32_t to, k;

    m->spill_due = false;
    cluster_view_set_self(m->view, &m->resources);
    for (bool more = lease_first_waiting(m->leases, &c); more;
         more = lease_next_waiting(m->leases, &c)) {
        unsigned class = class_of(c.name);
        for (uint32_t left = c.count; left > 0; left -= k) {
            enum view_pick way = pick(m, class, left, &to, &k);
            if (!is_elsewhere(way))
                break;
            move(m, &c, class, k, to, way == VIEW_THERE ? PEER_NOW : PEER_WAIT);
        }
    }
}

static void run_spill(struct machine *m)
{
    for (size_t i = 0; i < m->sa.n; i++) {
        const struct spill_action *a = &m->sa.v[i];
        struct asked asked;
        struct res_set need;
        switch (a->kind) {
        case SPILL_BACK:
            memcpy(&asked, a->request, sizeof asked);
            set_need(m, asked.class, &need);
            lease_put_back(m->leases,
                           &(struct lease_ask){.job = a->owner,
                                               .owner = a->owner,
                                               .ticket = a->ticket,
                                               .count = a->count,
                                               .need = &need,
                                               .name = classes[asked.class].name},
                           now_ms(),
                           &m->la);
            m->spill_due = true;
            break;
        case SPILL_CANCELED:
            answer(m, M_CANCELED, a->owner, a->ticket, a->count);
            break;
        case SPILL_CANCEL:
            send_event(m->number,
                       (struct sim_event){.kind = (enum sim_kind)M_SPILL_CANCEL,
                                          .node = a->node,
                                          .peer = a->owner,
                                          .id = a->ticket});
            break;
        case SPILL_GONE:
            if (!cluster->owners[a->owner]->talked[a->node])
                says("a unit was at a machine that nobody has talked to");
            break;
        }
    }
    spill_actions_clear(&m->sa);
}

static void on_spill(struct machine *m, const struct sim_event *e)
{
    struct res_set need;
    struct lease_ask ask = {.job = e->peer,
                            .owner = e->peer,
                            .ticket = e->id,
                            .count = e->count,
                            .need = &need,
                            .name = classes[e->place].name};

    set_need(m, e->place, &need);
    if (m->draining)
        reject(m, e->peer, e->id, e->place, e->count);
    else
        (e->phase == PEER_NOW    ? lease_request_now
         : e->phase == PEER_SOON ? lease_request_soon
                                 : lease_request)(m->leases, &ask, now_ms(), &m->la);
    m->spill_due |= e->phase == PEER_WAIT;
}

static void on_rejected(struct machine *m, const struct sim_event *e)
{
    struct res_amount need[2], said[2] = {{"CPU", (int64_t)e->mask}, {"GPU", (int64_t)e->task}};
    uint32_t from = (uint32_t)e->peer_serial;

    cluster_view_rejected(m->view, from, need, list_need(e->place, need), said, 2, now_ms());
    for (unsigned class = 0; class < CLASSES; class ++) /* it has spoken anew */
        m->not_before[class][from] = class == e->place ? now_ms() + VIEW_DEBIT_MS : 0;
    spill_rejected(m->spill, e->peer, e->id, from, e->count, &m->sa);
}

bool machine_passes(struct machine *m, const struct sim_event *e)
{
    enum machines_kind kind = (enum machines_kind)e->kind;
    const struct worker *w = cluster->workers[e->slot];
    uint32_t from = (uint32_t)e->peer_serial;

    if (living(e->slot) == NULL)
        return w != NULL && w->alive;
    if (kind == M_GRANT && spill_answered(m->spill, e->slot, e->mask, from, 1) != 1)
        says("a grant that nobody asked for");
    if ((kind == M_CANCELED || kind == M_REFUSED)
        && spill_answered(m->spill, e->slot, e->id, from, e->count) != e->count)
        says("an answer that nobody waited for");
    spill_selfcheck(m->spill);
    return true;
}

/* --- actions of the lease table --- */

static void grant(struct machine *m, const struct lease_action *a)
{
    struct worker *w = cluster->workers[a->worker];
    struct owner *o = living(a->owner);

    if (w->lease != 0)
        says("a worker has two leases"); /* INV-10 */
    if (o == NULL && cluster->owners[a->owner]->machine == m->number)
        return; /* its end is on its way */
    uint32_t home = cluster->owners[a->owner]->machine;
    send_event(m->number,
               (struct sim_event){.kind = (enum sim_kind)M_BEGIN,
                                  .node = m->number,
                                  .slot = w->number,
                                  .id = a->lease,
                                  .peer = a->owner,
                                  .count = home});
    send_event(m->number,
               (struct sim_event){.kind = (enum sim_kind)M_GRANT,
                                  .node = home,
                                  .slot = a->owner,
                                  .id = a->lease,
                                  .mask = a->ticket,
                                  .peer = w->number});
}

static void carry_out(struct machine *m, const struct lease_action *a)
{
    struct worker *w = a->worker > 0 ? cluster->workers[a->worker] : NULL;

    switch (a->kind) {
    case LEASE_START:
        post_event(sim_one_in(300) ? M_FAIL : M_READY,
                   m->number,
                   0,
                   a->job,
                   100000 + sim_below(2 * MS));
        break;
    case LEASE_UNSTART:
    case LEASE_WARN:
        break;
    case LEASE_GRANT:
        grant(m, a);
        break;
    case LEASE_CANCELED:
        answer(m, M_CANCELED, a->owner, a->ticket, a->count);
        break;
    case LEASE_REFUSED:
        answer(m, M_REFUSED, a->owner, a->ticket, a->count);
        break;
    case LEASE_REJECTED:
        if (living(a->owner) != NULL)
            reject(m, a->owner, a->ticket, living(a->owner)->tickets[a->ticket].class, a->count);
        break;
    case LEASE_REVOKE:
        send_event(m->number,
                   (struct sim_event){.kind = (enum sim_kind)M_REVOKE,
                                      .node = m->number,
                                      .slot = a->worker,
                                      .id = a->lease,
                                      .count = a->grace_ms});
        break;
    case LEASE_RELEASE:
        if (m->n_idle == m->idle_room) {
            m->idle_room = 2 * m->idle_room + 8;
            m->idle = xrealloc(m->idle, m->idle_room * sizeof *m->idle);
        }
        m->idle[m->n_idle++] = a->worker;
        break;
    case LEASE_KILL:
        executor_die(w);
        break;
    case LEASE_DEAD:
        answer(m, M_DEAD, a->owner, a->lease, 0);
        break;
    }
}

static void turn_end(struct machine *m)
{
    do {
        run_spill(m);
        for (size_t i = 0; i < m->la.n; i++) {
            struct lease_action a = m->la.v[i];
            carry_out(m, &a);
        }
        m->la.n = 0;
        if (m->spill_due)
            spill(m);
    } while (m->la.n > 0 || m->sa.n > 0);
    uint64_t at = lease_next_deadline(m->leases, 0, UINT32_MAX);
    if (at == UINT64_MAX)
        return;
    at = at > now_ms() ? at * MS : sim.now + MS;
    if (at >= m->due)
        return;
    m->due = at;
    post_event(M_DUE, m->number, 0, at, at - sim.now);
}

/* --- workers --- */

static void ready(struct machine *m, uint32_t job)
{
    uint32_t number = 0;

    for (size_t i = m->n_idle; i-- > 0 && number == 0;) {
        const struct worker *w = cluster->workers[m->idle[i]];
        if (w->job != job && w->alive)
            continue;
        if (w->alive)
            number = w->number;
        m->idle[i] = m->idle[--m->n_idle];
    }
    if (number == 0) {
        struct worker *w = xcalloc(1, sizeof *w);
        number = new_process();
        *w = (struct worker){.number = number, .machine = m->number, .job = job, .alive = true};
        cluster->workers[number] = w;
    }
    lease_worker_ready(m->leases, job, number, now_ms(), &m->la);
}

static void on_exited(struct machine *m, uint32_t process)
{
    const struct owner *o = cluster->owners[process];

    if (o == NULL) {
        lease_worker_died(m->leases, process, now_ms(), &m->la);
        return;
    }
    spill_owner_died(m->spill, process, &m->sa);
    lease_owner_died(m->leases, process, now_ms(), &m->la);
    for (uint32_t k = 1; k <= cluster->n_machines; k++)
        if (o->talked[k] && !m->knows_dead[k])
            send_event(m->number,
                       (struct sim_event){.kind = (enum sim_kind)M_OWNER_GONE,
                                          .node = k,
                                          .peer = process});
}

/* --- the GCS --- */

static void fill(const struct machine *m, struct node_view *v)
{
    int64_t room[RESOURCES_MAX];

    memset(v, 0, sizeof *v);
    v->number = m->number;
    v->is_alive = true;
    v->is_draining = m->draining;
    lease_get_room(m->leases, now_ms(), room);
    for (unsigned i = 0; i < m->resources.n; i++) {
        struct node_view_resource *r = &v->resources[v->n_resources++];
        memcpy(r->name, m->resources.names[i], sizeof r->name);
        r->total = m->resources.total[i];
        r->available = room[i];
    }
    struct lease_class c;
    for (bool more = lease_first_waiting(m->leases, &c); more;
         more = lease_next_waiting(m->leases, &c))
        v->n_waiting += c.count;
}

static void on_machine_dead(struct machine *m, uint32_t k)
{
    m->knows_dead[k] = 1;
    cluster_view_remove(m->view, k);
    spill_node_died(m->spill, k, &m->sa);
    for (size_t i = 0; i < cluster->n_owners; i++) {
        const struct owner *o = cluster->owners[cluster->owner_numbers[i]];
        if (o->machine == k)
            lease_owner_died(m->leases, o->number, now_ms(), &m->la);
        else if (o->machine == m->number && o->alive)
            send_event(m->number,
                       (struct sim_event){.kind = (enum sim_kind)M_NODE_LOST,
                                          .node = m->number,
                                          .slot = o->number,
                                          .id = k});
    }
}

void machine_report(struct machine *m)
{
    struct node_view v;

    if (!m->alive || !cluster->board[m->number].is_alive)
        return;
    gcs_hear(m);
    fill(m, &v);
    if (memcmp(&v, &m->told, sizeof v) != 0) {
        m->told = v;
        post_event(M_REPORT, m->number, 0, 0, MS + sim_below(sim_one_in(16) ? 1500 * MS : 50 * MS));
    }
}

void machine_take_news(struct machine *m)
{
    uint64_t version = m->seen_version;

    if (!cluster->board[m->number].is_alive) {
        machine_die(m); /* it hears that it is dead */
        return;
    }
    for (uint32_t k = 1; k <= cluster->n_machines; k++) {
        const struct node_view *n = &cluster->board[k];
        if (n->version <= m->seen_version || k == m->number)
            continue;
        version = n->version > version ? n->version : version;
        m->spill_due = true;
        for (unsigned class = 0; class < CLASSES; class ++)
            m->not_before[class][k] = 0;
        if (n->is_alive)
            cluster_view_set(m->view, n);
        else if (!m->knows_dead[k])
            on_machine_dead(m, k);
    }
    m->seen_version = version;
}

void machine_sync(struct machine *m)
{
    machine_report(m);
    way_on_answer(m);
    machine_take_news(m);
}

static void on_sync(struct machine *m)
{
    if (m->n_cuts == 0)
        machine_sync(m);
    if (!m->alive)
        return;
    post_event(M_SYNC, m->number, 0, 0, (SYNC_MS / 5 + sim_below(SYNC_MS * 4 / 5)) * MS);
}

static void on_report(struct machine *m)
{
    struct node_view *at = &cluster->board[m->number];

    if (!at->is_alive)
        return;
    *at = m->told;
    at->version = ++cluster->version;
}

/* --- life --- */

void machine_begin(uint32_t number)
{
    struct machine *m = &cluster->machines[number];

    m->number = number;
    m->knows_dead = xcalloc(cluster->n_machines + 1, 1);
    for (unsigned class = 0; class < CLASSES; class ++)
        m->not_before[class] = xcalloc(cluster->n_machines + 1, sizeof(uint64_t));
    if (number == 1) /* has all there is, and stays; but it comes late */
        post_event(M_JOIN, number, 0, 0, 5000 * MS);
    else if (number > 2 && sim_one_in(10))
        post_event(M_JOIN, number, 0, 0, sim_below(8000 * MS));
    else
        machine_join(m);
}

void machine_join(struct machine *m)
{
    uint32_t k = m->number;

    resources_init(&m->resources, (k == 1 ? 8 : 2 + (int64_t)sim_below(7)) * RESOURCE_UNIT);
    if (k % 5 == 0 || k == 1)
        ASSERT(resources_add(&m->resources, "GPU", (1 + k % 2) * RESOURCE_UNIT, NULL) == 0);
    if (k % 31 == 0 || k == 1)
        ASSERT(resources_add(&m->resources, "odd", 2 * RESOURCE_UNIT, NULL) == 0);
    m->leases = lease_table_create(&m->resources);
    lease_table_number(m->leases, (uint64_t)k << 36);
    m->view = cluster_view_create(k, sim_random());
    m->spill = spill_create();
    m->due = UINT64_MAX;
    m->alive = m->joined = true;
    fill(m, &m->told);
    cluster->board[k].is_alive = true;
    on_report(m);
    gcs_add(m);
    way_begin(m);
    post_event(M_SYNC, k, 0, 0, sim_below(100 * MS));
}

void machine_die(struct machine *m)
{
    if (!m->alive)
        return;
    m->alive = false;
    cluster->n_deaths++;
    for (uint32_t k = 1; k < cluster->n_processes; k++) {
        struct owner *o = cluster->owners[k];
        struct worker *w = cluster->workers[k];
        if (o != NULL && o->machine == m->number)
            owner_die(o);
        if (w != NULL && w->machine == m->number)
            w->alive = false;
    }
    m->died_ms = now_ms();
    if (sim_one_in(2)) /* its supervisor says so; else its silence does */
        post_event(M_DECLARE_DEAD, m->number, 0, 0, 100 * MS);
    post_event(M_OVERDUE, m->number, 0, 0, 0);
}

static void drain(struct machine *m)
{
    struct node_view v = {.number = m->number, .is_alive = true, .is_draining = true};

    m->draining = true;
    cluster_view_set(m->view, &v);
    m->spill_due = true;
}

void machine_on_event(struct machine *m, const struct sim_event *e)
{
    switch ((enum machines_kind)e->kind) {
    case M_REQUEST:
        request(m, e);
        break;
    case M_CANCEL:
        lease_cancel(m->leases, e->peer, e->id, now_ms(), &m->la);
        spill_canceled(m->spill, e->peer, e->id, &m->sa);
        break;
    case M_SPILL_CANCEL:
        lease_cancel(m->leases, e->peer, e->id, now_ms(), &m->la);
        break;
    case M_RETURN:
        if (e->id >> 36 == m->number)
            lease_return(m->leases, e->peer, e->id, now_ms(), &m->la);
        else if (!m->knows_dead[e->id >> 36])
            send_event(m->number,
                       (struct sim_event){.kind = (enum sim_kind)M_SPILL_RETURN,
                                          .node = (uint32_t)(e->id >> 36),
                                          .peer = e->peer,
                                          .id = e->id});
        break;
    case M_SPILL_RETURN:
        lease_return(m->leases, e->peer, e->id, now_ms(), &m->la);
        break;
    case M_ENDED:
        lease_ended(m->leases, e->peer, e->id, now_ms(), &m->la);
        break;
    case M_EXITED:
        on_exited(m, e->peer);
        break;
    case M_SPILL:
        on_spill(m, e);
        break;
    case M_REJECTED:
        on_rejected(m, e);
        break;
    case M_OWNER_GONE:
        lease_owner_died(m->leases, e->peer, now_ms(), &m->la);
        break;
    case M_READY:
        ready(m, (uint32_t)e->id);
        break;
    case M_FAIL:
        lease_worker_failed(m->leases, (uint32_t)e->id, "it does not start", now_ms(), &m->la);
        break;
    case M_DUE:
        if (e->id != m->due)
            return;
        m->due = UINT64_MAX;
        lease_on_time(m->leases, 0, UINT32_MAX, now_ms(), &m->la);
        break;
    case M_SYNC:
        on_sync(m);
        break;
    case M_SYNC_ASK:
        way_on_ask(m, (uint32_t)e->peer_serial);
        break;
    case M_SYNC_HELD:
        way_on_held(m, (uint32_t)e->id);
        break;
    case M_SYNC_ANSWER:
        way_on_passed(m, (uint32_t)e->peer_serial);
        break;
    case M_WAY:
        way_on_time(m, e->id);
        break;
    case M_REPORT:
        on_report(m);
        break;
    case M_DRAIN:
        drain(m);
        break;
    case M_KILL_MACHINE:
        machine_die(m);
        break;
    case M_KILL: {
        struct worker *w = cluster->workers[e->slot];
        if (w != NULL && w->alive)
            executor_die(w);
        else if (living(e->slot) != NULL)
            owner_die(living(e->slot));
        break;
    }
    default:
        says("an event for nobody: %d", (int)e->kind);
    }
    if (!m->alive)
        return;
    turn_end(m);
    if (e->order % 64 == 0) {
        lease_selfcheck(m->leases);
        cluster_view_selfcheck(m->view);
        spill_selfcheck(m->spill);
    }
}

void machine_check_end(const struct machine *m)
{
    struct lease_stats stats;

    if (!m->alive)
        return;
    lease_selfcheck(m->leases);
    lease_get_stats(m->leases, 0, &stats);
    if (stats.n_queued + stats.n_starting > 0)
        says("machine %u: %u units still wait", m->number, stats.n_queued + stats.n_starting);
    if (stats.n_leased > 0)
        says("machine %u: %u leases never ended", m->number, stats.n_leased);
    if (spill_count(m->spill, 0) > 0)
        says("machine %u: units never came back", m->number);
    for (unsigned i = 0; i < m->resources.n; i++)
        if (m->resources.available[i] != m->resources.total[i])
            says("machine %u: resources are not back", m->number);
}

void machine_end(struct machine *m)
{
    lease_table_destroy(m->leases);
    cluster_view_destroy(m->view);
    spill_destroy(m->spill);
    spill_actions_clear(&m->sa);
    free(m->sa.v);
    free(m->la.v);
    free(m->idle);
    free(m->knows_dead);
    for (unsigned class = 0; class < CLASSES; class ++)
        free(m->not_before[class]);
}
