/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `ray why` and `ray list workers` ask of this node: its queues, leases, jobs, processes and
 * pulls, of one moment. They come by the session's socket or by the port of the node service.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/why_state.h"

#define PULLS_TOLD 256 /* kinds of waits of pulls */

static uint64_t age(uint64_t since_ms)
{
    uint64_t now_ms = loop_now_ms();

    return since_ms < now_ms ? now_ms - since_ms : 0;
}

static void *add(void **v, size_t *n, size_t size)
{
    if ((*n & (*n - 1)) == 0) /* 0 or a power of two: full */
        *v = xrealloc(*v, (*n == 0 ? 1 : 2 * *n) * size);
    uint8_t *row = (uint8_t *)*v + (*n)++ * size;
    return memset(row, 0, size);
}
#define ADD(s, field) add((void **)&(s)->field, &(s)->n_##field, sizeof *(s)->field)

static void set_amount(struct why_amount *a, const char *name, int64_t units)
{
    memcpy(a->name, name, strnlen(name, sizeof a->name - 1));
    a->units = units;
}

/* --- queues and leases --- */

static uint32_t number_of(const struct node *n, uint32_t job)
{
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->id == job)
            return j->number;
    }
    return 0;
}

static void add_use(const struct node *n, const struct lease_use *from, struct why_state *s)
{
    struct why_use *u = ADD(s, uses);

    u->of.job = number_of(n, from->job);
    memcpy(u->of.name, from->name, strnlen(from->name, sizeof u->of.name - 1));
    u->of.n_need = from->n_need;
    u->of.need = xcalloc(from->n_need + 1, sizeof *u->of.need);
    for (unsigned i = 0; i < from->n_need; i++)
        set_amount(&u->of.need[i], from->need[i].name, from->need[i].units);
    u->n_queued = from->n_queued;
    u->n_starting = from->n_starting;
    u->n_leased = from->n_leased;
    u->n_blocked = from->n_blocked;
    u->queued_ms = from->n_queued > 0 ? age(from->asked_ms) : 0;
    u->starting_ms = from->n_starting > 0 ? age(from->start_ms) : 0;
    u->wait = from->wait;
    if (from->lacking != NULL)
        memcpy(u->lacking, from->lacking, strnlen(from->lacking, sizeof u->lacking - 1));
}

static void add_uses(const struct node *n, struct why_state *s)
{
    struct lease_use *uses;
    size_t count = lease_list_uses(n->leases, &uses);

    for (int waits = 1; waits >= 0; waits--)
        for (size_t i = 0; i < count; i++) {
            if ((uses[i].n_queued + uses[i].n_starting > 0) != waits)
                continue;
            if (s->n_uses < WHY_CLASSES_MAX)
                add_use(n, &uses[i], s);
            else
                s->n_more++;
        }
    free(uses);
}

/* A LEASE_REQUEST's class, as spill_run wrote it. */
static void read_class(const uint8_t *request, size_t size, struct why_class *out)
{
    struct wire_lease_request r;
    struct wire_resource w;

    memcpy(&r, request, sizeof r);
    size_t at = sizeof r + r.n_resources * sizeof w, len = size - at;
    out->n_need = r.n_resources;
    out->need = xcalloc(r.n_resources + 1, sizeof *out->need);
    for (uint32_t i = 0; i < r.n_resources; i++) {
        memcpy(&w, request + sizeof r + i * sizeof w, sizeof w);
        w.name[sizeof w.name - 1] = '\0';
        set_amount(&out->need[i], w.name, w.units);
    }
    memcpy(out->name, request + at, len < sizeof out->name ? len : sizeof out->name - 1);
}

static bool is_same(const struct why_class *a, const struct why_class *b)
{
    return a->job == b->job && strcmp(a->name, b->name) == 0 && a->n_need == b->n_need
           && memcmp(a->need, b->need, a->n_need * sizeof *a->need) == 0;
}

struct sending {
    const struct node *node;
    struct why_state *state;
};

static void add_sent(void *arg, const struct spill_units *u, const void *request, size_t size)
{
    struct sending *to = arg;
    struct why_state *s = to->state;
    const struct process *owner = guest_run_find(to->node, u->owner);
    struct why_class class = {.job = owner != NULL && owner->job != NULL ? owner->job->number : 0};
    size_t i = 0;

    read_class(request, size, &class);
    while (i < s->n_sent && (s->sent[i].node != u->node || !is_same(&s->sent[i].of, &class)))
        i++;
    if (i == s->n_sent && i == WHY_CLASSES_MAX) {
        s->n_more++;
        free(class.need);
        return;
    }
    if (i == s->n_sent) {
        struct why_sent *w = ADD(s, sent);
        w->of = class;
        w->node = u->node;
    } else {
        free(class.need);
    }
    struct why_sent *w = &s->sent[i];
    w->n += u->count;
    w->asked_ms = age(u->asked_ms) > w->asked_ms ? age(u->asked_ms) : w->asked_ms;
    w->sent_ms = age(u->sent_ms) > w->sent_ms ? age(u->sent_ms) : w->sent_ms;
}

/* --- jobs, processes, pulls --- */

static void add_jobs(const struct node *n, struct why_state *s)
{
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        uint64_t since_ms = j->home == 0 ? j->made_ms : loop_now_ms();
        if (j->state != JOB_NEW)
            continue;
        struct why_job *w = ADD(s, jobs);
        w->number = j->number;
        w->home = j->home;
        w->driver_pid = j->driver_pid;
        w->n_held = job_elsewhere_count_held(j, &since_ms);
        w->held_ms = age(since_ms);
        w->is_fetching = j->home > 0 && j->transfer_ticket > 0;
    }
}

/* Foreign input. */
static void add_body(const struct process *p, struct why_process *w)
{
    uint64_t now_ns = clock_now_ns(),
             since_ns = p->control != NULL ? atomic_load(&p->control->running) : 0;

    if (since_ns == 0)
        return;
    w->running_slot = since_ns % CONTROL_BLOCK_SLOTS + 1;
    w->running_ms = since_ns < now_ns ? (now_ns - since_ns) / 1000000 : 0;
}

static void add_processes(const struct node *n, struct why_state *s)
{
    for (uint32_t i = 0; i < n->n_slots; i++) {
        const struct process *p = n->processes[i], *owner;
        struct lease_held held;
        if (p == NULL || p->kind == WIRE_ZYGOTE || p->job == NULL)
            continue;
        struct why_process *w = ADD(s, processes);
        w->number = p->number;
        w->pid = p->pid;
        w->id = p->id;
        w->job = p->job->number;
        w->kind = p->kind;
        w->state = p->kind == WIRE_DRIVER ? WHY_PROCESS_DRIVER
                   : p->welcomed          ? WHY_PROCESS_IDLE
                                          : WHY_PROCESS_STARTING;
        if (p->kind == WIRE_DRIVER || !lease_look_at(n->leases, i, &held))
            continue;
        owner = node_at(n, held.owner);
        w->state = held.is_blocked ? WHY_PROCESS_BLOCKED : WHY_PROCESS_LEASED;
        w->owner = owner != NULL ? owner->number : 0;
        w->leased_ms = age(held.granted_ms);
        add_body(p, w);
        memcpy(w->name, held.name, strnlen(held.name, sizeof w->name - 1));
    }
}

static void add_dead(const struct node *n, struct why_state *s)
{
    size_t count = dead_workers_count(n->dead_workers);

    for (size_t i = 0; i < count; i++) {
        struct why_dead *w = ADD(s, dead);
        *w = *dead_workers_at(n->dead_workers, i);
        w->ended_ms = age(w->ended_ms);
    }
}

static void add_pulls(const struct node *n, struct why_state *s)
{
    struct transfer_wait *waits = xcalloc(PULLS_TOLD, sizeof *waits);
    size_t count = n->transfer != NULL ? transfer_list_waits(n->transfer, waits, PULLS_TOLD) : 0;

    for (size_t i = 0; i < count; i++) {
        struct why_pull *w = ADD(s, pulls);
        *w = (struct why_pull){.stage = waits[i].stage,
                               .is_file = waits[i].is_file,
                               .node = waits[i].node,
                               .n = waits[i].n,
                               .bytes = waits[i].bytes,
                               .quiet_ms = age(waits[i].since_ms)};
        memcpy(w->why, waits[i].why, sizeof w->why);
        w->why[sizeof w->why - 1] = '\0';
    }
    free(waits);
}

void *why_run_tell(struct node *n, size_t *size)
{
    struct why_state s = {.node = n->id, .number = n->number};
    struct store_stats store;

    for (unsigned i = 0; i < n->resources.n; i++) {
        struct why_amount *a = ADD(&s, resources);
        set_amount(a, n->resources.names[i], n->resources.total[i]);
        a->available = n->resources.available[i];
    }
    add_uses(n, &s);
    if (n->spill != NULL)
        spill_each(n->spill, add_sent, &(struct sending){.node = n, .state = &s});
    add_jobs(n, &s);
    add_processes(n, &s);
    add_dead(n, &s);
    add_pulls(n, &s);
    store_get_stats(n->store, &store);
    s.store_capacity = store.capacity;
    s.store_used = store.used;
    s.store_waiting = store.n_waiting;
    void *bytes = why_state_pack(&s, size);
    why_state_fini(&s);
    return bytes;
}

/* --- by the session's socket --- */

static int write_all(int fd, const uint8_t *at, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n <= 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

bool why_run_on_command(struct command *c, uint8_t type)
{
    struct wire_why w = {0};
    size_t size;

    if (type != WIRE_WHY_ASK || c->n_books++ >= COMMAND_BOOKS_MAX)
        return false;
    void *bytes = why_run_tell(c->node, &size);
    int fd = memfd_create("ray-why", MFD_CLOEXEC);
    w.size = size;
    w.is_whole = fd >= 0 && write_all(fd, bytes, size) == 0;
    free(bytes);
    if (w.is_whole == 0) {
        log_warn("why", "not_told", "size=%zu", size);
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    command_run_send(c, WIRE_WHY, &w, sizeof w, fd);
    return true;
}
