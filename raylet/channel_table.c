/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/channel_table.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/net/control_block.h"

enum role {
    OWNER,
    WORKER,
    N_ROLES,
};

/* A pair that was told how it talks, or that lost its channel. */
struct channel {
    struct list node[N_ROLES]; /* of process.channels */
    uint32_t slot[N_ROLES];
    bool routed, lost; /* lost: the route is still to be told */
    uint64_t used;     /* when a lease last began or ended */
};

struct process {
    struct list channels[N_ROLES]; /* by the role it has in them */
    struct channel *in_use;        /* as worker */
    unsigned n;                    /* without routes */
};

struct channel_table {
    unsigned max;
    uint64_t clock;
    struct process processes[BOARD_SLOTS];
};

struct channel_table *channel_table_create(unsigned max)
{
    struct channel_table *t = xcalloc_sparse(1, sizeof *t);

    t->max = max;
    return t;
}

/* Begun when first asked for: a table for few processes takes little memory. */
static struct process *at(struct channel_table *t, uint32_t slot)
{
    struct process *p = &t->processes[slot];

    for (int role = 0; role < N_ROLES; role++)
        if (p->channels[role].next == NULL)
            list_init(&p->channels[role]);
    return p;
}

static void count(struct channel_table *t, const struct channel *c, int change)
{
    for (int role = 0; role < N_ROLES; role++)
        t->processes[c->slot[role]].n += (unsigned)change;
}

static void drop(struct channel_table *t, struct channel *c)
{
    struct process *worker = &t->processes[c->slot[WORKER]];

    if (!c->routed)
        count(t, c, -1);
    if (worker->in_use == c)
        worker->in_use = NULL;
    for (int role = 0; role < N_ROLES; role++)
        list_remove(&c->node[role]);
    free(c);
}

void channel_table_remove(struct channel_table *t, uint32_t slot)
{
    for (int role = 0; role < N_ROLES; role++)
        list_for_each_safe(n, &at(t, slot)->channels[role])
            drop(t, list_entry(n, struct channel, node[role]));
}

void channel_table_destroy(struct channel_table *t)
{
    if (t == NULL)
        return;
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (t->processes[s].channels[OWNER].next != NULL)
            channel_table_remove(t, s);
    free(t);
}

static struct channel *find(struct channel_table *t, uint32_t owner, uint32_t worker)
{
    list_for_each(n, &at(t, worker)->channels[WORKER])
    {
        struct channel *c = list_entry(n, struct channel, node[WORKER]);
        if (c->slot[OWNER] == owner)
            return c;
    }
    return NULL;
}

/* Of the process, which has its number of channels: the one to end, or NULL. */
static struct channel *find_idle(struct channel_table *t, uint32_t slot)
{
    struct channel *oldest = NULL;

    for (int role = 0; role < N_ROLES; role++)
        list_for_each(n, &at(t, slot)->channels[role])
        {
            struct channel *c = list_entry(n, struct channel, node[role]);
            if (!c->routed && t->processes[c->slot[WORKER]].in_use != c
                && (oldest == NULL || c->used < oldest->used))
                oldest = c;
        }
    return oldest;
}

/* Both have room for one more channel; false: one has not, and nothing has ended. */
static bool make_room(struct channel_table *t,
                      const uint32_t *slot,
                      struct channel_pair *ended,
                      unsigned *n_ended)
{
    struct channel *idle[N_ROLES] = {NULL, NULL};

    for (int role = 0; role < N_ROLES; role++)
        if (t->processes[slot[role]].n >= t->max && (idle[role] = find_idle(t, slot[role])) == NULL)
            return false;
    if (idle[OWNER] == idle[WORKER])
        idle[WORKER] = NULL; /* they talk the other way round */
    for (int role = 0; role < N_ROLES; role++)
        if (idle[role] != NULL) {
            ended[(*n_ended)++] =
                (struct channel_pair){idle[role]->slot[OWNER], idle[role]->slot[WORKER]};
            drop(t, idle[role]);
        }
    return true;
}

enum channel_way channel_table_begin(struct channel_table *t,
                                     uint32_t owner,
                                     uint32_t worker,
                                     struct channel_pair ended[2],
                                     unsigned *n_ended)
{
    const uint32_t slot[N_ROLES] = {owner, worker};
    struct channel *c = find(t, owner, worker);
    enum channel_way way = CHANNEL_KNOWN;

    ASSERT(owner < BOARD_SLOTS && worker < BOARD_SLOTS);
    *n_ended = 0;
    t->processes[worker].in_use = c; /* what it had is not, any more */
    if (c == NULL) {
        bool routed = !make_room(t, slot, ended, n_ended);
        way = routed ? CHANNEL_ROUTE : CHANNEL_NEW;
        c = xcalloc(1, sizeof *c);
        c->routed = routed;
        for (int role = 0; role < N_ROLES; role++) {
            c->slot[role] = slot[role];
            list_append(&at(t, slot[role])->channels[role], &c->node[role]);
        }
        if (!routed)
            count(t, c, 1);
        t->processes[worker].in_use = c;
    } else if (c->lost) {
        c->lost = false;
        way = CHANNEL_ROUTE;
    }
    c->used = ++t->clock;
    return way;
}

void channel_table_idle(struct channel_table *t, uint32_t worker)
{
    struct process *p = &t->processes[worker];

    if (p->in_use != NULL)
        p->in_use->used = ++t->clock;
    p->in_use = NULL;
}

void channel_table_lost(struct channel_table *t, uint32_t owner, uint32_t worker)
{
    struct channel *c = find(t, owner, worker);

    if (c == NULL || c->routed)
        return;
    count(t, c, -1);
    c->routed = c->lost = true;
}

unsigned channel_table_count(const struct channel_table *t, uint32_t slot)
{
    return t->processes[slot].n;
}
