/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GCS and the ways to it. It is on the head's machine. Some machines do not reach it for a
 * while, and do what gcs/sync_way says: other nodes pass their word on, which is held by the GCS
 * for up to a second. Or the head's cable is out: nobody else reaches it, nor the head's raylet,
 * and some do not even for a while after that.
 *
 * Checked: no machine that lives is declared dead for its silence; one that died is, in time.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "tests/sim/machines/machines.h"

#define IN_TURN     2
#define SLACK_MS    3000 /* a last word on its way, a last turn at another node */
#define PATIENCE_MS 60000

static struct unique_id id_of(uint32_t k)
{
    struct unique_id id = {.bytes = {1, (uint8_t)k, (uint8_t)(k >> 8)}};

    return id;
}

static struct node_sync_row *row_of(uint32_t k)
{
    struct unique_id id = id_of(k);
    struct node_sync_row *row = node_sync_find(cluster->gcs, &id);

    ASSERT(row != NULL);
    return row;
}

void gcs_begin(void)
{
    cluster->gcs = node_sync_create(0);
    node_sync_set_patience(cluster->gcs, PATIENCE_MS);
    post_event(M_GCS_TICK, HEAD, 0, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t at = sim_below(15000 * MS), last = (1000 + sim_below(20000)) * MS;
        bool is_head = sim_one_in(4);
        uint64_t part = 1 + sim_below(7);
        if (is_head)
            post_event(M_ALONE, HEAD, 0, at + last, at);
        for (uint32_t k = 1; k <= cluster->n_machines; k++) {
            if (k == HEAD || !(is_head || sim_below(8) < part))
                continue;
            post_event(M_CUT, k, 0, 0, at);
            uint64_t more = is_head && sim_one_in(2) ? sim_below(15000 * MS) : 0;
            post_event(M_CUT, k, 0, 1, at + last + more);
        }
    }
}

void gcs_add(const struct machine *m)
{
    struct node_view v = {.id = id_of(m->number),
                          .number = m->number,
                          .is_alive = true,
                          .is_head = m->number == HEAD};

    node_sync_add(cluster->gcs, &v);
}

void gcs_hear(const struct machine *m)
{
    const struct node_view nothing = {.number = m->number};

    node_sync_report(cluster->gcs, row_of(m->number), &nothing, 0);
}

void gcs_set_dead(uint32_t k)
{
    struct node_view *v = &cluster->board[k];

    if (!v->is_alive)
        return;
    v->is_alive = false;
    v->version = ++cluster->version;
    node_sync_set_dead(cluster->gcs, row_of(k), "");
}

static void on_tick(void)
{
    const struct node_sync_row *row;
    uint64_t now = now_ms();

    node_sync_on_time(cluster->gcs, now);
    if (node_sync_is_waiting(cluster->gcs))
        cluster->waited_ms = now;
    while ((row = node_sync_find_silent(cluster->gcs)) != NULL) {
        const struct machine *m = &cluster->machines[row->number];
        if (m->alive)
            says("machine %u lives and is declared dead for its silence", m->number);
        cluster->n_silent++;
        gcs_set_dead(m->number);
    }
    uint64_t late = sim_one_in(200) ? sim_below(4000) : 0; /* it was stopped */
    cluster->stopped_ms = late > 0 ? now + late : cluster->stopped_ms;
    post_event(M_GCS_TICK, HEAD, 0, 0, (NODE_SYNC_TICK_MS + late) * MS);
}

/* So long after its death, and after what stood in the way of seeing it. */
static void on_overdue(const struct sim_event *e)
{
    uint64_t from = cluster->machines[e->node].died_ms, due;

    if (!cluster->board[e->node].is_alive)
        return;
    from = cluster->waited_ms > from ? cluster->waited_ms : from;
    from = cluster->stopped_ms > from ? cluster->stopped_ms : from;
    due = from + NODE_SYNC_SILENCE_MS + SLACK_MS;
    if (now_ms() < due)
        post_event(M_OVERDUE, e->node, 0, 0, (due - now_ms()) * MS);
    else
        says("machine %u died and is not declared dead", e->node);
}

static void arm(struct machine *m);

bool gcs_on_event(const struct sim_event *e)
{
    switch ((enum machines_kind)e->kind) {
    case M_GCS_TICK:
        on_tick();
        return true;
    case M_DECLARE_DEAD:
        gcs_set_dead(e->node);
        return true;
    case M_OVERDUE:
        on_overdue(e);
        return true;
    case M_ALONE: /* until e->id, ns */
        for (uint32_t k = 1; k <= cluster->n_machines; k++)
            pause_links(HEAD, k, e->id);
        return true;
    case M_CUT: /* 1: it ends */
        cluster->machines[e->node].n_cuts += e->id == 1 ? -1 : 1;
        if (e->id == 0 && cluster->machines[e->node].alive)
            arm(&cluster->machines[e->node]);
        return true;
    default:
        return false;
    }
}

/* --- a machine's way there --- */

static void arm(struct machine *m)
{
    uint64_t now = now_ms();

    if (m->n_cuts == 0 && sync_way_is_open(&m->way))
        return; /* its calls are enough */
    m->way_due = sync_way_due(&m->way, cluster->n_machines);
    post_event(M_WAY, m->number, 0, m->way_due, m->way_due > now ? (m->way_due - now) * MS : 0);
}

static void ask(const struct machine *m, uint32_t k)
{
    if (k != m->number && cluster->machines[k].joined && !m->knows_dead[k])
        send_event(m->number, (struct sim_event){.kind = (enum sim_kind)M_SYNC_ASK, .node = k});
}

/* As raylet/gcs_relay.c. */
static void pass_on(struct machine *m)
{
    if (m->good > 0 && !m->knows_dead[m->good]) {
        ask(m, m->good);
        m->good = 0;
        return;
    }
    ask(m, HEAD);
    for (unsigned i = 0; i < IN_TURN; i++) {
        m->turn = m->turn % cluster->n_machines + 1;
        if (m->turn != HEAD)
            ask(m, m->turn);
    }
}

void way_begin(struct machine *m)
{
    m->turn = m->number;
    sync_way_heard(&m->way, now_ms());
    arm(m);
}

void way_on_answer(struct machine *m)
{
    sync_way_heard(&m->way, now_ms());
}

void way_on_time(struct machine *m, uint64_t due)
{
    if (due != m->way_due)
        return;
    unsigned steps = sync_way_on_time(&m->way, now_ms(), cluster->n_machines);
    if ((steps & SYNC_WAY_ASK) != 0 && m->n_cuts == 0)
        machine_sync(m);
    else if ((steps & SYNC_WAY_OTHERS) != 0)
        pass_on(m);
    if (m->alive)
        arm(m);
}

void way_on_ask(struct machine *m, uint32_t from)
{
    if (m->n_cuts > 0 || !sync_way_is_open(&m->way))
        return;
    machine_report(&cluster->machines[from]);
    post_event(M_SYNC_HELD, m->number, 0, from, sim_below(1000 * MS));
}

void way_on_held(const struct machine *m, uint32_t from)
{
    send_event(m->number, (struct sim_event){.kind = (enum sim_kind)M_SYNC_ANSWER, .node = from});
}

void way_on_passed(struct machine *m, uint32_t by)
{
    m->good = by;
    sync_way_heard_by_others(&m->way, now_ms());
    machine_take_news(m);
    if (m->alive)
        arm(m);
}
