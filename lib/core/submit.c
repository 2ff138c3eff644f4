/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A class has one queue and a ring of leases. Tasks go first to leases with an empty window, then
 * windows are filled to their limit: as many tasks as run in a millisecond by the measured mean, one while nothing is
 * known. Demand is what waits: queued tasks and those in windows behind the first. While demand exceeds the
 * units asked for, more are asked for; when a class has no task at all its tickets are canceled (not sooner: a
 * burst would cost a request and a cancel each time).
 *
 * Nothing waits behind a running task while a worker could be had: when a lease is empty, nothing is queued, and
 * another lease has given no answer for a while, half of what waits there is taken back. The queue keeps the order of
 * submission: what comes back is put in front, oldest first.
 */
#include "lib/core/submit.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/core.h"

#define MAX_TICKETS 16

struct ticket {
    uint64_t number;
    uint32_t remaining;
};

struct class {
    struct record *head, *tail;
    uint64_t n_queued;
    struct list leases;
    uint32_t n_leases;
    uint64_t n_waiting; /* in windows behind the first */
    uint32_t n_units;   /* asked for, not answered */
    struct ticket tickets[MAX_TICKETS];
    uint64_t run_ns;    /* mean, 0 unknown */
    bool canceling;
};

struct submit {
    struct class **classes;
    uint32_t n_classes, max_units;
    uint64_t last_ticket;
};

static void add(struct submit_actions *out, struct submit_action a)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 128 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = a;
}

struct submit *submit_create(uint32_t max_units)
{
    struct submit *s = xcalloc(1, sizeof *s);

    s->max_units = max_units;
    return s;
}

void submit_destroy(struct submit *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->n_classes; i++) {
        list_for_each_safe(n, &s->classes[i]->leases)
            free(list_entry(n, struct submit_lease, node));
        free(s->classes[i]);
    }
    free(s->classes);
    free(s);
}

uint32_t submit_add_class(struct submit *s)
{
    struct class *c = xcalloc(1, sizeof *c);

    list_init(&c->leases);
    s->classes = xrealloc(s->classes, (s->n_classes + 1) * sizeof *s->classes);
    s->classes[s->n_classes] = c;
    return s->n_classes++;
}

static void queue_back(struct class *c, struct record *r)
{
    r->u.task.next = NULL;
    r->u.task.lease = NULL;
    if (c->tail == NULL)
        c->head = r;
    else
        c->tail->u.task.next = r;
    c->tail = r;
    c->n_queued++;
}

static void queue_front(struct class *c, struct record *r)
{
    r->u.task.next = c->head;
    r->u.task.lease = NULL;
    c->head = r;
    if (c->tail == NULL)
        c->tail = r;
    c->n_queued++;
}

static struct record *queue_pop(struct class *c)
{
    struct record *r = c->head;

    c->head = r->u.task.next;
    if (c->head == NULL)
        c->tail = NULL;
    c->n_queued--;
    return r;
}

static uint32_t window_limit(const struct class *c)
{
    if (c->run_ns == 0)
        return 1;
    uint64_t n = 1 + SUBMIT_AHEAD_NS / c->run_ns;
    return n > SUBMIT_WINDOW ? SUBMIT_WINDOW : (uint32_t)n;
}

static bool has_room(const struct submit_lease *l, uint32_t limit, const struct record *r)
{
    if (l->ending || l->taking_back || l->blocked || l->n_in_window >= limit)
        return false;
    return l->n_in_window == 0 || l->bytes_in_window + r->u.task.spec_size <= SUBMIT_WINDOW_BYTES;
}

static void push(struct class *c, struct submit_lease *l, struct record *r, uint64_t now_ns, struct submit_actions *out)
{
    unsigned slot = (unsigned)__builtin_ctzll(~l->busy);

    l->busy |= 1ull << slot;
    l->window[slot] = r;
    if (l->n_in_window++ == 0)
        l->progress_ns = now_ns;
    else
        c->n_waiting++;
    l->bytes_in_window += r->u.task.spec_size;
    r->u.task.lease = l;
    r->u.task.window_slot = (uint8_t)slot;
    add(out,
        (struct submit_action){
            .kind = SUBMIT_PUSH, .lease = l, .task = r, .count = (uint32_t)(l->phases >> slot) & 1});
}

static struct record *take_out(struct class *c, struct submit_lease *l, unsigned slot)
{
    struct record *r = l->window[slot];

    l->busy &= ~(1ull << slot);
    l->window[slot] = NULL;
    if (--l->n_in_window > 0)
        c->n_waiting--;
    l->bytes_in_window -= r->u.task.spec_size;
    r->u.task.lease = NULL;
    return r;
}

static void fill(struct class *c, uint64_t now_ns, struct submit_actions *out)
{
    uint32_t limit = window_limit(c);

    if (c->head == NULL)
        return;
    list_for_each(n, &c->leases) {
        struct submit_lease *l = list_entry(n, struct submit_lease, node);
        if (c->head == NULL)
            return;
        if (l->n_in_window == 0 && has_room(l, 1, c->head))
            push(c, l, queue_pop(c), now_ns, out);
    }
    list_for_each(n, &c->leases) {
        struct submit_lease *l = list_entry(n, struct submit_lease, node);
        while (c->head != NULL && has_room(l, limit, c->head))
            push(c, l, queue_pop(c), now_ns, out);
    }
}

static void request(struct submit *s, uint32_t class, struct submit_actions *out)
{
    struct class *c = s->classes[class];
    uint64_t demand = c->n_queued + c->n_waiting;

    if (demand <= c->n_units || c->n_units >= s->max_units || c->canceling)
        return;
    uint64_t n = demand - c->n_units;
    if (n > s->max_units - c->n_units)
        n = s->max_units - c->n_units;
    for (int i = 0; i < MAX_TICKETS; i++) {
        struct ticket *t = &c->tickets[i];
        if (t->remaining > 0)
            continue;
        t->number = ++s->last_ticket;
        t->remaining = (uint32_t)n;
        c->n_units += (uint32_t)n;
        add(out,
            (struct submit_action){
                .kind = SUBMIT_REQUEST, .class = class, .ticket = t->number, .count = (uint32_t)n});
        return;
    }
}

void submit_task(struct submit *s, struct record *task, uint64_t now_ns, struct submit_actions *out)
{
    struct class *c = s->classes[task->class];

    queue_back(c, task);
    fill(c, now_ns, out);
    if (c->n_units == 0)
        request(s, task->class, out);
}

/* Of a class with an idle lease and an empty queue: the fullest window whose worker has gone silent. */
static struct submit_lease *stalled(const struct class *c)
{
    struct submit_lease *found = NULL;
    bool idle = false;

    list_for_each(n, &c->leases) {
        struct submit_lease *l = list_entry(n, struct submit_lease, node);
        if (l->n_in_window == 0 && !l->ending)
            idle = true;
        else if (l->n_in_window > 1 && !l->taking_back && (found == NULL || l->n_in_window > found->n_in_window))
            found = l;
    }
    return idle ? found : NULL;
}

static uint64_t stall_ns(const struct class *c)
{
    return 4 * c->run_ns > SUBMIT_STALL_NS ? 4 * c->run_ns : SUBMIT_STALL_NS;
}

void submit_settle(struct submit *s, uint64_t now_ns, struct submit_actions *out)
{
    for (uint32_t i = 0; i < s->n_classes; i++) {
        struct class *c = s->classes[i];
        fill(c, now_ns, out);
        request(s, i, out);
        if (c->n_waiting > 0 && c->n_queued == 0) {
            struct submit_lease *l = stalled(c);
            if (l != NULL && now_ns - l->progress_ns >= stall_ns(c)) {
                l->taking_back = true;
                add(out, (struct submit_action){.kind = SUBMIT_TAKE_BACK, .lease = l, .count = l->n_in_window / 2});
            }
        }
        if (c->n_units > 0 && c->n_queued + c->n_waiting == 0 && !c->canceling) {
            bool busy = false;
            list_for_each(n, &c->leases)
                busy |= list_entry(n, struct submit_lease, node)->n_in_window > 0;
            if (busy)
                continue;
            c->canceling = true;
            for (int k = 0; k < MAX_TICKETS; k++)
                if (c->tickets[k].remaining > 0)
                    add(out, (struct submit_action){.kind = SUBMIT_CANCEL, .ticket = c->tickets[k].number});
        }
    }
}

uint64_t submit_next_deadline(const struct submit *s)
{
    uint64_t at = UINT64_MAX;

    for (uint32_t i = 0; i < s->n_classes; i++) {
        const struct class *c = s->classes[i];
        if (c->n_waiting == 0 || c->n_queued > 0)
            continue;
        const struct submit_lease *l = stalled(c);
        if (l != NULL && l->progress_ns + stall_ns(c) < at)
            at = l->progress_ns + stall_ns(c);
    }
    return at;
}

/* Count units of a ticket as answered; the class, or -1 when there is no such ticket. */
static int answer(struct submit *s, uint64_t ticket, uint32_t count)
{
    for (uint32_t i = 0; i < s->n_classes; i++) {
        struct class *c = s->classes[i];
        for (int k = 0; k < MAX_TICKETS; k++) {
            struct ticket *t = &c->tickets[k];
            if (t->remaining == 0 || t->number != ticket)
                continue;
            if (count > t->remaining)
                count = t->remaining;
            t->remaining -= count;
            c->n_units -= count;
            if (c->n_units == 0)
                c->canceling = false;
            return (int)i;
        }
    }
    return -1;
}

struct submit_lease *submit_on_grant(struct submit *s, uint64_t ticket, uint64_t lease, void *peer, uint64_t now_ns, struct submit_actions *out)
{
    int class = answer(s, ticket, 1);

    if (class < 0) {
        add(out, (struct submit_action){.kind = SUBMIT_RETURN, .ticket = lease});
        return NULL;
    }
    struct class *c = s->classes[class];
    struct submit_lease *l = xcalloc(1, sizeof *l);
    l->id = lease;
    l->peer = peer;
    l->class = (uint32_t)class;
    l->phases = UINT64_MAX;
    l->progress_ns = now_ns;
    list_append(&c->leases, &l->node);
    c->n_leases++;
    if (c->n_queued + c->n_waiting == 0) {
        /* granted while the cancel was on its way: the raylet ends it through the worker */
        l->ending = true;
        add(out, (struct submit_action){.kind = SUBMIT_RETURN, .ticket = lease});
        return l;
    }
    fill(c, now_ns, out);
    return l;
}

void submit_on_canceled(struct submit *s, uint64_t ticket, uint32_t count, uint64_t now_ns, struct submit_actions *out)
{
    int class = answer(s, ticket, count);

    if (class >= 0) {
        fill(s->classes[class], now_ns, out);
        request(s, (uint32_t)class, out);
    }
}

size_t submit_on_refused(struct submit *s, uint64_t ticket, uint32_t count, struct submit_actions *out)
{
    int class = answer(s, ticket, count);
    size_t n = 0;

    if (class < 0)
        return 0;
    struct class *c = s->classes[class];
    if (c->n_leases > 0)
        return 0;
    while (c->head != NULL) {
        add(out, (struct submit_action){.kind = SUBMIT_FAIL, .task = queue_pop(c), .class = CORE_ECRASH});
        n++;
    }
    return n;
}

struct submit_lease *submit_find(const struct submit *s, uint64_t lease)
{
    for (uint32_t i = 0; i < s->n_classes; i++)
        list_for_each(n, &s->classes[i]->leases) {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            if (l->id == lease)
                return l;
        }
    return NULL;
}

struct record *submit_on_done(struct submit *s, struct submit_lease *l, unsigned slot, uint32_t run_ns, uint64_t now_ns)
{
    struct class *c = s->classes[l->class];

    if (slot >= SUBMIT_WINDOW || (l->busy & 1ull << slot) == 0)
        return NULL;
    l->phases ^= 1ull << slot;
    l->blocked = false;
    l->progress_ns = now_ns;
    uint64_t run = run_ns == 0 ? 1 : run_ns;
    /* rises at once, so that a window of long tasks shrinks; falls by an eighth */
    if (c->run_ns == 0)
        c->run_ns = run;
    else if (run > 8 * c->run_ns)
        c->run_ns = run / 4;
    else
        c->run_ns = (7 * c->run_ns + run + 7) / 8;
    return take_out(c, l, slot);
}

void submit_refill(struct submit *s, uint32_t class, uint64_t now_ns, struct submit_actions *out)
{
    fill(s->classes[class], now_ns, out);
}

/* Put these slots of the window back in front of the queue, oldest first. */
static void back_to_queue(struct class *c, struct submit_lease *l, uint64_t mask)
{
    struct record *v[SUBMIT_WINDOW];
    int n = 0;

    for (mask &= l->busy; mask != 0; mask &= mask - 1) {
        struct record *r = take_out(c, l, (unsigned)__builtin_ctzll(mask));
        int k = n++;
        for (; k > 0 && v[k - 1]->u.task.counter > r->u.task.counter; k--)
            v[k] = v[k - 1];
        v[k] = r;
    }
    while (n > 0)
        queue_front(c, v[--n]);
}

void submit_on_returned(struct submit *s, struct submit_lease *l, uint64_t mask, bool asked, uint64_t now_ns, struct submit_actions *out)
{
    struct class *c = s->classes[l->class];

    back_to_queue(c, l, mask);
    if (!asked)
        l->blocked = true;
    l->progress_ns = now_ns;
    fill(c, now_ns, out); /* not back into this window: taking_back or blocked is still set */
    if (asked)
        l->taking_back = false;
    request(s, l->class, out);
}

static void end_lease(struct class *c, struct submit_lease *l, struct submit_actions *out)
{
    ASSERT(l->n_in_window == 0);
    list_remove(&l->node);
    c->n_leases--;
    add(out, (struct submit_action){.kind = SUBMIT_END, .lease = l});
}

void submit_on_lease_ended(struct submit *s, struct submit_lease *l, uint64_t now_ns, struct submit_actions *out)
{
    struct class *c = s->classes[l->class];
    uint32_t class = l->class;

    back_to_queue(c, l, l->busy);
    end_lease(c, l, out);
    fill(c, now_ns, out);
    request(s, class, out);
}

void submit_on_worker_dead(struct submit *s, struct submit_lease *l, uint64_t started, uint64_t now_ns, struct submit_actions *out)
{
    struct class *c = s->classes[l->class];
    uint32_t class = l->class;
    uint64_t ran = ~(started ^ l->phases) & l->busy;

    for (uint64_t m = ran; m != 0; m &= m - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(m);
        struct record *r = l->window[slot];
        if (r->u.task.retries_left == 0) {
            add(out, (struct submit_action){.kind = SUBMIT_FAIL, .task = take_out(c, l, slot), .class = CORE_ECRASH});
            continue;
        }
        if (r->u.task.retries_left > 0)
            r->u.task.retries_left--;
        r->u.task.attempt++;
    }
    back_to_queue(c, l, l->busy);
    end_lease(c, l, out);
    fill(c, now_ns, out);
    request(s, class, out);
}

void submit_on_raylet_lost(struct submit *s, struct submit_actions *out)
{
    for (uint32_t i = 0; i < s->n_classes; i++) {
        struct class *c = s->classes[i];
        list_for_each_safe(n, &c->leases) {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            back_to_queue(c, l, l->busy);
            end_lease(c, l, out);
        }
        while (c->head != NULL)
            add(out, (struct submit_action){.kind = SUBMIT_FAIL, .task = queue_pop(c), .class = CORE_ELINK});
        memset(c->tickets, 0, sizeof c->tickets);
        c->n_units = 0;
    }
}

uint64_t submit_run_ns(const struct submit *s, uint32_t class)
{
    return s->classes[class]->run_ns;
}

void submit_get_stats(const struct submit *s, struct submit_stats *out)
{
    *out = (struct submit_stats){0};
    for (uint32_t i = 0; i < s->n_classes; i++) {
        const struct class *c = s->classes[i];
        out->n_queued += c->n_queued;
        out->n_units += c->n_units;
        list_for_each(n, &c->leases) {
            out->n_leases++;
            out->n_in_windows += list_entry(n, struct submit_lease, node)->n_in_window;
        }
    }
}

void submit_selfcheck(const struct submit *s)
{
    for (uint32_t i = 0; i < s->n_classes; i++) {
        const struct class *c = s->classes[i];
        uint64_t queued = 0, waiting = 0;
        uint32_t units = 0, leases = 0;
        for (const struct record *r = c->head; r != NULL; r = r->u.task.next) {
            queued++;
            ASSERT(r->u.task.lease == NULL);
            ASSERT(r->u.task.next != NULL || r == c->tail);
        }
        list_for_each(n, &c->leases) {
            const struct submit_lease *l = list_entry(n, struct submit_lease, node);
            ASSERT((uint32_t)__builtin_popcountll(l->busy) == l->n_in_window);
            uint32_t bytes = 0;
            for (uint64_t m = l->busy; m != 0; m &= m - 1) {
                const struct record *r = l->window[__builtin_ctzll(m)];
                ASSERT(r->u.task.lease == l);
                bytes += r->u.task.spec_size;
            }
            ASSERT(bytes == l->bytes_in_window);
            waiting += l->n_in_window > 0 ? l->n_in_window - 1 : 0;
            leases++;
        }
        for (int k = 0; k < MAX_TICKETS; k++)
            units += c->tickets[k].remaining;
        ASSERT(queued == c->n_queued && waiting == c->n_waiting);
        ASSERT(units == c->n_units && leases == c->n_leases);
    }
}
