/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A class has one queue and a ring of leases; those that may take a task are on its
 * second ring too, `open`, idle ones first. A task goes to an idle lease, else in turn to open ones
 * until each holds as many as run in a millisecond by the measured mean, one while nothing is
 * known. A queue is not empty only while no window has room for it, so a submission behind others
 * is an append, and a DONE touches one lease.
 *
 * A task whose large arguments lie on another node is near that one: it queues apart, leases are
 * asked for there first, and a lease takes what is near it before others. All of them run on any
 * lease of the class; but an idle worker elsewhere gets a near task only when its own node had as
 * long a time as its bytes would need to move.
 *
 * Demand is what waits: queued tasks and those in windows behind the first. While it exceeds the
 * units asked for, more are asked for. Tickets are canceled when a class has no task at all, not
 * sooner: a burst would cost a request and a cancel each time. A refused request is made again only
 * after a pause.
 *
 * An idle lease is kept, since its raylet takes it back when others want it; but in a cluster of
 * several nodes only for a while (submit_set_linger): what others ask of other nodes waits until
 * they see room there.
 *
 * Nothing waits behind a running task while a worker could be had: when a lease is idle, nothing is
 * queued, and another lease has given no answer for a while, half of what waits there is taken
 * back. The queue keeps the order of submission: what comes back is put in front, oldest first.
 */
#include "lib/core/submit.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/core.h"
#include "lib/net/wire.h"

#define ACTIONS_ROOM   2048 /* what one read can cause at 32 full windows */
#define MAX_TICKETS    16
#define MAX_ENDED      4096 /* leases that end before they are granted; more is a worker gone mad */
#define LEASES_A_BLOCK 16
#define MAX_NEAR       16       /* nodes that a class tells apart */
#define NEAR_TURN      8        /* so many near tasks pass an older one that may run anywhere */
#define HUNGRY_NS      5000000u /* an idle lease is kept, while tasks of another class wait */

struct ticket {
    uint64_t number;
    uint32_t remaining;
    uint32_t node; /* near which; 0: none */
};

/* Tasks in order. */
struct queue {
    struct record *head, *tail;
    uint64_t n;
    uint64_t since_ns; /* near: nothing has left it since */
    uint32_t node;     /* near which they should run; 0: anywhere */
};

struct class
{
    struct list active; /* of those with tasks or unanswered units */
    uint32_t number;
    struct queue anywhere;
    struct queue *near; /* NULL until there is such a task */
    unsigned n_near, near_turn;
    uint64_t n_queued; /* in all of them */
    struct list leases, open;
    uint32_t n_leases, n_open;
    uint32_t limit; /* tasks in a window */
    uint64_t n_in_windows;
    uint64_t n_waiting; /* of these behind the first */
    uint32_t n_units;   /* asked for, not answered */
    struct ticket tickets[MAX_TICKETS];
    uint64_t run_ns; /* mean, 0 unknown */
    uint64_t pause_ns, pause_until_ns;
    uint64_t idle_ns; /* no idle lease has been so for longer; UINT64_MAX: there is none */
    bool canceling;
    bool refused;       /* some of the unanswered units were */
    bool pause_pending; /* begins with the next time that is told */
};

struct submit {
    struct class **classes;
    struct list active;
    struct list spare; /* leases that ended; a warm grant allocates nothing */
    struct submit_lease **blocks;
    uint32_t n_classes, max_units, n_blocks;
    uint64_t linger_ns; /* 0: for ever */
    uint64_t last_ticket;
    uint64_t last_lease; /* granted; a raylet counts its leases and grants come in their order */
    uint64_t *ended;     /* before they were granted */
    size_t n_ended, ended_room;
    bool lost;
};

static void add(struct submit_actions *out, struct submit_action a)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? ACTIONS_ROOM : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = a;
}

static void add_block(struct submit *s)
{
    struct submit_lease *block = xcalloc(LEASES_A_BLOCK, sizeof *block);

    s->blocks = xrealloc(s->blocks, (s->n_blocks + 1) * sizeof *s->blocks);
    s->blocks[s->n_blocks++] = block;
    for (int i = 0; i < LEASES_A_BLOCK; i++)
        list_append(&s->spare, &block[i].node);
}

struct submit *submit_create(uint32_t max_units)
{
    struct submit *s = xcalloc(1, sizeof *s);

    s->max_units = max_units;
    list_init(&s->active);
    list_init(&s->spare);
    add_block(s);
    return s;
}

void submit_destroy(struct submit *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->n_classes; i++) {
        free(s->classes[i]->near);
        free(s->classes[i]);
    }
    for (uint32_t i = 0; i < s->n_blocks; i++)
        free(s->blocks[i]);
    free(s->blocks);
    free(s->classes);
    free(s->ended);
    free(s);
}

void submit_set_linger(struct submit *s, uint64_t ns)
{
    s->linger_ns = ns;
}

uint32_t submit_add_class(struct submit *s)
{
    struct class *c = xcalloc(1, sizeof *c);

    list_init(&c->leases);
    list_init(&c->open);
    list_init(&c->active);
    c->limit = 1;
    c->idle_ns = UINT64_MAX;
    c->number = s->n_classes;
    s->classes = xrealloc(s->classes, (s->n_classes + 1) * sizeof *s->classes);
    s->classes[s->n_classes] = c;
    return s->n_classes++;
}

static uint64_t units_near(const struct class *c, uint32_t node)
{
    uint64_t n = 0;

    for (int k = 0; k < MAX_TICKETS; k++)
        n += c->tickets[k].node == node ? c->tickets[k].remaining : 0;
    return n;
}

static struct queue *queue_of(struct class *c, uint32_t node)
{
    struct queue *unused = NULL;

    if (node == 0)
        return &c->anywhere;
    for (unsigned i = 0; i < c->n_near; i++) {
        if (c->near[i].node == node)
            return &c->near[i];
        if (c->near[i].n == 0)
            unused = &c->near[i];
    }
    if (unused == NULL && c->n_near == MAX_NEAR)
        return &c->anywhere;
    if (c->near == NULL)
        c->near = xcalloc(MAX_NEAR, sizeof *c->near);
    if (unused == NULL)
        unused = &c->near[c->n_near++];
    *unused = (struct queue){.node = node};
    return unused;
}

static void enqueue(struct class *c, struct record *r, bool in_front, uint64_t now_ns)
{
    struct queue *q = queue_of(c, r->u.task.node);

    r->u.task.lease = NULL;
    r->u.task.next = in_front ? q->head : NULL;
    if (q->n == 0) {
        q->head = q->tail = r;
        q->since_ns = now_ns;
    } else if (in_front) {
        q->head = r;
    } else {
        q->tail->u.task.next = r;
        q->tail = r;
    }
    q->n++;
    c->n_queued++;
}

static struct record *dequeue(struct class *c, struct queue *q)
{
    struct record *r = q->head;

    q->head = r->u.task.next;
    if (q->head == NULL)
        q->tail = NULL;
    q->n--;
    c->n_queued--;
    return r;
}

/* NULL: nothing is queued. */
static struct record *dequeue_any(struct class *c)
{
    if (c->anywhere.n > 0)
        return dequeue(c, &c->anywhere);
    for (unsigned i = 0; i < c->n_near; i++)
        if (c->near[i].n > 0)
            return dequeue(c, &c->near[i]);
    return NULL;
}

static uint32_t window_limit(const struct class *c)
{
    if (c->run_ns == 0)
        return 1;
    uint64_t n = 1 + SUBMIT_AHEAD_NS / c->run_ns;
    return n > SUBMIT_WINDOW ? SUBMIT_WINDOW : (uint32_t)n;
}

static uint32_t weight(const struct record *r)
{
    return r->u.task.spec_size + r->u.task.ref_bytes;
}

static bool is_open(const struct submit_lease *l)
{
    return !list_empty(&l->open);
}

static bool may_open(const struct class *c, const struct submit_lease *l)
{
    return !l->ending && !l->taking_back && !l->blocked && l->n_in_window < c->limit;
}

/* Put the lease where it belongs on the open ring; called after each change of it. */
static void place(struct class *c, struct submit_lease *l)
{
    if (is_open(l)) {
        list_remove(&l->open);
        c->n_open--;
    }
    if (!may_open(c, l))
        return;
    if (l->n_in_window == 0)
        list_push(&c->open, &l->open);
    else
        list_append(&c->open, &l->open);
    c->n_open++;
}

static bool has_room(const struct class *c, const struct submit_lease *l, const struct record *r)
{
    return l->n_in_window == 0
           || (l->n_in_window < c->limit
               && l->bytes_in_window + (uint64_t)weight(r) <= SUBMIT_WINDOW_BYTES);
}

/* The head of the queue goes into the window; place() is the caller's. */
static void push(struct class *c,
                 struct queue *q,
                 struct submit_lease *l,
                 uint64_t now_ns,
                 struct submit_actions *out)
{
    struct record *r = dequeue(c, q);
    unsigned slot = (unsigned)__builtin_ctzll(~l->busy);

    q->since_ns = now_ns;
    l->busy |= 1ull << slot;
    l->window[slot] = r;
    if (l->n_in_window++ == 0)
        l->progress_ns = now_ns;
    else
        c->n_waiting++;
    c->n_in_windows++;
    l->bytes_in_window += weight(r);
    r->u.task.lease = l;
    r->u.task.window_slot = (uint8_t)slot;
    add(out,
        (struct submit_action){.kind = SUBMIT_PUSH,
                               .lease = l,
                               .task = r,
                               .count = (uint32_t)(l->phases >> slot) & 1});
}

static struct record *take_out(struct class *c, struct submit_lease *l, unsigned slot)
{
    struct record *r = l->window[slot];

    l->busy &= ~(1ull << slot);
    l->window[slot] = NULL;
    if (--l->n_in_window > 0)
        c->n_waiting--;
    c->n_in_windows--;
    l->bytes_in_window -= weight(r);
    r->u.task.lease = NULL;
    return r;
}

static struct submit_lease *first_open(const struct class *c)
{
    return list_entry(c->open.next, struct submit_lease, open);
}

/* --- near the arguments --- */

/* Longer than this the first task of a near queue does not wait for its own node while a worker
 * elsewhere is idle: as long as its bytes would take to get there (a byte a nanosecond), so that at
 * worst it is twice as late as it had to be. */
static uint64_t patient_until(const struct queue *q)
{
    return q->since_ns + (1ull << q->head->u.task.near_log2);
}

static bool has_lease_at(const struct class *c, uint32_t node)
{
    list_for_each(n, &c->leases)
    {
        const struct submit_lease *l = list_entry(n, struct submit_lease, node);
        if (l->at == node && !l->ending)
            return true;
    }
    return false;
}

/* Whose turn it is at this lease: those near it; then those that may run anywhere, but for older
 * ones that have lost patience and have no worker near; then, if it is idle, any that have lost
 * patience. NULL: nobody's. */
static struct queue *pick(struct class *c, const struct submit_lease *l, uint64_t now_ns)
{
    struct queue *any = c->anywhere.n > 0 ? &c->anywhere : NULL, *best = any;

    for (unsigned i = 0; i < c->n_near; i++) {
        struct queue *q = &c->near[i];
        bool is_older = best == NULL || (q->n > 0 && q->head->counter < best->head->counter);
        if (q->n == 0)
            continue;
        if (q->node == l->at) {
            if (any == NULL || q->head->counter < any->head->counter
                || ++c->near_turn % NEAR_TURN != 0)
                return q;
            continue;
        }
        if (l->n_in_window == 0 && is_older && now_ns >= patient_until(q)
            && (any == NULL || !has_lease_at(c, q->node)))
            best = q;
    }
    return best;
}

/* The same as fill, while some tasks would rather run on this node than on that. */
static void fill_near(struct class *c, uint64_t now_ns, struct submit_actions *out)
{
    for (int idle = 1; idle >= 0; idle--)
        for (bool moved = true; moved;) {
            moved = false;
            list_for_each(n, &c->leases)
            {
                struct submit_lease *l = list_entry(n, struct submit_lease, node);
                struct queue *q = NULL;
                if (may_open(c, l) && (!idle || l->n_in_window == 0))
                    q = pick(c, l, now_ns);
                if (q == NULL || !has_room(c, l, q->head))
                    continue;
                push(c, q, l, now_ns, out);
                place(c, l);
                moved = true;
            }
        }
}

/* When a task that waits for its own node will take an idle worker elsewhere. */
static uint64_t gives_up_at(const struct class *c)
{
    uint64_t at = UINT64_MAX;

    if (c->n_queued == c->anywhere.n || c->n_open == 0 || first_open(c)->n_in_window > 0)
        return at;
    for (unsigned i = 0; i < c->n_near; i++)
        if (c->near[i].n > 0 && patient_until(&c->near[i]) < at)
            at = patient_until(&c->near[i]);
    return at;
}

static void fill(struct class *c, uint64_t now_ns, struct submit_actions *out)
{
    struct queue *q = &c->anywhere;

    if (c->n_queued > q->n) {
        fill_near(c, now_ns, out);
        return;
    }
    /* one for each idle worker */
    while (q->n > 0 && c->n_open > 0 && first_open(c)->n_in_window == 0) {
        struct submit_lease *l = first_open(c);
        push(c, q, l, now_ns, out);
        place(c, l);
    }
    /* the rest in equal shares, as far as there is room */
    for (bool moved = true; moved && q->n > 0 && c->n_open > 0;) {
        uint64_t share = (q->n + c->n_open - 1) / c->n_open;
        moved = false;
        for (uint32_t n = c->n_open; n > 0 && q->n > 0; n--) {
            struct submit_lease *l = first_open(c);
            for (uint64_t k = 0; k < share && q->n > 0 && has_room(c, l, q->head); k++) {
                push(c, q, l, now_ns, out);
                moved = true;
            }
            place(c, l);
        }
    }
}

static bool has_usable_lease(const struct class *c)
{
    list_for_each(n, &c->leases) if (!list_entry(n, struct submit_lease, node)->ending) return true;
    return false;
}

static void begin_pause(struct class *c, uint64_t now_ns)
{
    c->pause_pending = false;
    if (c->pause_ns == 0)
        c->pause_ns = SUBMIT_PAUSE_NS;
    else if (c->pause_ns < 64ull * SUBMIT_PAUSE_NS)
        c->pause_ns *= 2;
    c->pause_until_ns = now_ns + c->pause_ns;
}

static bool wants_more(const struct submit *s, const struct class *c)
{
    if (c->n_queued + c->n_waiting <= c->n_units || c->n_units >= s->max_units || c->canceling)
        return false;
    /* once a unit was refused the others decide whether the tasks fail */
    return !c->refused || c->n_units == 0 || has_usable_lease(c);
}

static void return_lease(struct class *c, struct submit_lease *l, struct submit_actions *out)
{
    l->ending = true; /* the raylet ends it through the worker */
    place(c, l);
    add(out, (struct submit_action){.kind = SUBMIT_RETURN, .ticket = l->id});
}

/* Up to k leases at this node that other classes do not use go back: what is asked for next may
 * have their room. */
static void make_room(const struct submit *s,
                      const struct class *wants,
                      uint32_t node,
                      uint64_t k,
                      struct submit_actions *out)
{
    for (uint32_t i = 0; i < s->n_classes && s->linger_ns > 0; i++) {
        struct class *c = s->classes[i];
        if (c == wants || c->n_queued > 0)
            continue;
        list_for_each(n, &c->leases)
        {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            if (k == 0)
                return;
            if (l->at != node || l->n_in_window > 0 || !may_open(c, l))
                continue;
            return_lease(c, l, out);
            k--;
        }
    }
}

static void ask(struct submit *s,
                struct class *c,
                uint32_t node,
                uint64_t n,
                struct submit_actions *out)
{
    for (int i = 0; i < MAX_TICKETS; i++) {
        struct ticket *t = &c->tickets[i];
        if (t->remaining > 0)
            continue;
        *t = (struct ticket){.number = ++s->last_ticket, .remaining = (uint32_t)n, .node = node};
        c->n_units += (uint32_t)n;
        add(out,
            (struct submit_action){.kind = SUBMIT_REQUEST,
                                   .class = c->number,
                                   .ticket = t->number,
                                   .count = (uint32_t)n,
                                   .node = node});
        return;
    }
}

static void request(struct submit *s, struct class *c, uint64_t now_ns, struct submit_actions *out)
{
    if (c->pause_pending)
        begin_pause(c, now_ns);
    if (now_ns >= c->pause_until_ns)
        c->pause_until_ns = 0;
    if (!wants_more(s, c) || c->pause_until_ns > 0)
        return;
    uint64_t n = c->n_queued + c->n_waiting - c->n_units;
    if (n > s->max_units - c->n_units)
        n = s->max_units - c->n_units;
    for (unsigned i = 0; i < c->n_near && n > 0; i++) {
        const struct queue *q = &c->near[i];
        uint64_t asked = q->n > 0 ? units_near(c, q->node) : 0;
        uint64_t k = q->n > asked ? q->n - asked : 0;
        k = k < n ? k : n;
        if (k == 0)
            continue;
        make_room(s, c, q->node, k, out);
        ask(s, c, q->node, k, out);
        n -= k;
    }
    if (n > 0)
        ask(s, c, 0, n, out);
}

static void fail(struct record *task, uint32_t code, uint32_t cause, struct submit_actions *out)
{
    add(out,
        (struct submit_action){.kind = SUBMIT_FAIL, .task = task, .class = code, .cause = cause});
}

void submit_task(struct submit *s, struct record *task, uint64_t now_ns, struct submit_actions *out)
{
    struct class *c = s->classes[task->class];

    if (task->u.task.error != 0 || s->lost) {
        uint32_t cause = task->u.task.error;
        fail(task, cause != 0 ? CORE_ETASK : CORE_ELINK, cause, out);
        return;
    }
    if (list_empty(&c->active))
        list_append(&s->active, &c->active);
    bool is_first = c->n_queued == 0;
    if (now_ns > 0)
        task->since = ref_since(now_ns);
    enqueue(c, task, false, now_ns);
    if (is_first || c->n_queued > c->anywhere.n)
        fill(c, now_ns, out);
    if (c->n_units == 0 || task->u.task.node != 0)
        request(s, c, now_ns, out);
}

bool submit_only_queues(const struct submit *s, uint32_t class)
{
    const struct class *c = s->classes[class];

    return c->n_queued > 0 && c->n_queued == c->anywhere.n && c->n_units > 0;
}

void submit_on_argument(struct submit *s,
                        struct record *task,
                        const struct record *argument,
                        uint64_t now_ns,
                        struct submit_actions *out)
{
    struct task *t = &task->u.task;

    ASSERT(t->n_deps > 0 && argument->state == REF_READY);
    if (argument->meta == WIRE_META_ERROR && t->error == 0)
        t->error = argument->slot;
    t->ref_bytes += argument->size;
    if (--t->n_deps == 0)
        submit_task(s, task, now_ns, out);
}

/* While a lease is idle and nothing is queued: the fullest window, and how much of it to take. */
static struct submit_lease *fullest(const struct class *c, uint32_t *count)
{
    struct submit_lease *found = NULL;
    uint32_t n_idle = 0;

    list_for_each(n, &c->leases)
    {
        struct submit_lease *l = list_entry(n, struct submit_lease, node);
        if (l->n_in_window == 0)
            n_idle += !l->ending && !l->blocked && !l->taking_back;
        else if (l->n_in_window > 1 && !l->taking_back && !l->blocked && !l->ending
                 && (found == NULL || l->n_in_window > found->n_in_window))
            found = l;
    }
    if (n_idle == 0 || found == NULL)
        return NULL;
    *count = found->n_in_window / 2;
    if (*count < n_idle)
        *count = n_idle < found->n_in_window ? n_idle : found->n_in_window - 1;
    return found;
}

static uint64_t stalls_at(const struct class *c, const struct submit_lease *l)
{
    uint64_t patience = 2 * c->run_ns > SUBMIT_STALL_NS ? 2 * c->run_ns : SUBMIT_STALL_NS;

    return l->progress_ns + patience;
}

/* The lease has nothing to do from now on, unless it gets something at once. */
static void lingers(const struct submit *s, struct class *c, uint64_t now_ns)
{
    if (s->linger_ns > 0 && c->idle_ns > now_ns)
        c->idle_ns = now_ns;
}

/* Does a class wait for leases? */
static bool is_hungry(const struct submit *s)
{
    list_for_each(n, &s->active)
    {
        const struct class *c = list_entry(n, struct class, active);
        if (c->n_queued > 0 && c->n_units > 0)
            return true;
    }
    return false;
}

/* When the first idle lease of the class is to go back: soon, if another class waits. */
static uint64_t lingers_until(const struct submit *s, const struct class *c, bool hungry)
{
    if (c->idle_ns == UINT64_MAX)
        return UINT64_MAX;
    return c->idle_ns
           + (hungry && c->n_queued == 0 && HUNGRY_NS < s->linger_ns ? HUNGRY_NS : s->linger_ns);
}

/* Leases that have been idle for so long go back. */
static void end_linger(const struct submit *s,
                       struct class *c,
                       bool hungry,
                       uint64_t now_ns,
                       struct submit_actions *out)
{
    uint64_t until_ns = lingers_until(s, c, hungry), linger_ns = until_ns - c->idle_ns;

    if (now_ns < until_ns)
        return;
    c->idle_ns = UINT64_MAX;
    list_for_each(n, &c->leases)
    {
        struct submit_lease *l = list_entry(n, struct submit_lease, node);
        if (l->n_in_window > 0 || l->ending)
            continue;
        if (now_ns >= l->progress_ns + linger_ns)
            return_lease(c, l, out);
        else if (l->progress_ns < c->idle_ns)
            c->idle_ns = l->progress_ns;
    }
}

static void settle(struct submit *s,
                   struct class *c,
                   bool hungry,
                   uint64_t now_ns,
                   struct submit_actions *out)
{
    uint32_t count;

    fill(c, now_ns, out);
    request(s, c, now_ns, out);
    if (c->n_waiting > 0 && c->n_queued == 0) {
        struct submit_lease *l = fullest(c, &count);
        if (l != NULL && now_ns >= stalls_at(c, l)) {
            l->taking_back = true;
            place(c, l);
            add(out, (struct submit_action){.kind = SUBMIT_TAKE_BACK, .lease = l, .count = count});
        }
    }
    end_linger(s, c, hungry, now_ns, out);
    if (c->n_queued + c->n_in_windows > 0)
        return;
    if (c->n_units == 0) {
        if (c->idle_ns == UINT64_MAX)
            list_remove(&c->active);
        return;
    }
    if (c->canceling)
        return;
    c->canceling = true;
    for (int k = 0; k < MAX_TICKETS; k++)
        if (c->tickets[k].remaining > 0)
            add(out, (struct submit_action){.kind = SUBMIT_CANCEL, .ticket = c->tickets[k].number});
}

void submit_settle(struct submit *s, uint64_t now_ns, struct submit_actions *out)
{
    bool hungry = s->linger_ns > 0 && is_hungry(s);

    list_for_each_safe(n, &s->active)
        settle(s, list_entry(n, struct class, active), hungry, now_ns, out);
}

uint64_t submit_next_deadline(const struct submit *s)
{
    uint64_t at = UINT64_MAX;
    uint32_t count;
    bool hungry = s->linger_ns > 0 && is_hungry(s);

    list_for_each(n, &s->active)
    {
        const struct class *c = list_entry(n, struct class, active);
        if (lingers_until(s, c, hungry) < at)
            at = lingers_until(s, c, hungry);
        if (gives_up_at(c) < at)
            at = gives_up_at(c);
        if (wants_more(s, c) && (c->pause_pending || c->pause_until_ns > 0)) {
            uint64_t t = c->pause_pending ? 0 : c->pause_until_ns;
            at = t < at ? t : at;
        }
        if (c->n_waiting == 0 || c->n_queued > 0)
            continue;
        const struct submit_lease *l = fullest(c, &count);
        if (l != NULL && stalls_at(c, l) < at)
            at = stalls_at(c, l);
    }
    return at;
}

/* Count units of a ticket as answered; its class, or NULL when there is no such ticket. canceling
 * (or NULL): whether a cancel was on its way. */
static struct class *answer(struct submit *s, uint64_t ticket, uint32_t count, bool *canceling)
{
    list_for_each(n, &s->active)
    {
        struct class *c = list_entry(n, struct class, active);
        for (int k = 0; k < MAX_TICKETS; k++) {
            struct ticket *t = &c->tickets[k];
            if (t->remaining == 0 || t->number != ticket)
                continue;
            if (count > t->remaining)
                count = t->remaining;
            t->remaining -= count;
            c->n_units -= count;
            if (canceling != NULL)
                *canceling = c->canceling;
            if (c->n_units == 0)
                c->canceling = false;
            return c;
        }
    }
    return NULL;
}

/* Has this lease, granted now, ended before? Forget that, and what was to be granted before it. */
static bool take_ended(struct submit *s, uint64_t lease)
{
    bool found = false;
    size_t n = 0;

    s->last_lease = lease;
    for (size_t i = 0; i < s->n_ended; i++) {
        found |= s->ended[i] == lease;
        if (s->ended[i] > lease)
            s->ended[n++] = s->ended[i];
    }
    s->n_ended = n;
    return found;
}

struct submit_lease *submit_on_grant(struct submit *s,
                                     uint64_t ticket,
                                     uint64_t lease,
                                     void *peer,
                                     uint32_t node,
                                     uint64_t now_ns,
                                     struct submit_actions *out)
{
    struct class *c = answer(s, ticket, 1, NULL);
    bool ended = take_ended(s, lease);

    if (c == NULL) {
        add(out, (struct submit_action){.kind = SUBMIT_RETURN, .ticket = lease});
        return NULL;
    }
    c->refused = c->pause_pending = false;
    c->pause_ns = c->pause_until_ns = 0;
    if (ended) {
        request(s, c, now_ns, out);
        return NULL;
    }
    if (list_empty(&s->spare))
        add_block(s);
    struct submit_lease *l = list_entry(s->spare.next, struct submit_lease, node);
    list_remove(&l->node);
    *l = (struct submit_lease){.id = lease,
                               .peer = peer,
                               .at = node,
                               .class = c->number,
                               .phases = UINT64_MAX,
                               .progress_ns = now_ns};
    list_init(&l->open);
    list_append(&c->leases, &l->node);
    c->n_leases++;
    if (c->n_queued + c->n_in_windows == 0) {
        /* granted while the cancel was on its way: the raylet ends it through the worker */
        l->ending = true;
        add(out, (struct submit_action){.kind = SUBMIT_RETURN, .ticket = lease});
        return l;
    }
    place(c, l);
    fill(c, now_ns, out);
    if (l->n_in_window == 0)
        lingers(s, c, now_ns);
    return l;
}

void submit_on_canceled(struct submit *s,
                        uint64_t ticket,
                        uint32_t count,
                        uint64_t now_ns,
                        struct submit_actions *out)
{
    bool asked;
    struct class *c = answer(s, ticket, count, &asked);

    if (c == NULL)
        return;
    if (!asked) /* the raylet's own wish: not again at once */
        begin_pause(c, now_ns);
    request(s, c, now_ns, out);
}

size_t submit_on_refused(struct submit *s,
                         uint64_t ticket,
                         uint32_t count,
                         struct submit_actions *out)
{
    struct class *c = answer(s, ticket, count, NULL);
    size_t n = 0;

    if (c == NULL)
        return 0;
    c->refused = true;
    if (has_usable_lease(c)) {
        c->pause_pending = true;
        return 0;
    }
    if (c->n_units > 0)
        return 0;
    c->refused = false;
    for (struct record *r; (r = dequeue_any(c)) != NULL; n++)
        fail(r, CORE_ECRASH, 0, out);
    return n;
}

void submit_on_busy(struct submit *s,
                    uint64_t ticket,
                    uint32_t count,
                    uint64_t now_ns,
                    struct submit_actions *out)
{
    struct class *c = answer(s, ticket, count, NULL);

    if (c == NULL)
        return;
    begin_pause(c, now_ns);
    request(s, c, now_ns, out);
}

void submit_forget(struct submit *s, struct submit_lease *l)
{
    ASSERT(l->ending && l->n_in_window == 0);
    list_push(&s->spare, &l->node);
}

struct submit_lease *submit_find(const struct submit *s, uint64_t lease)
{
    for (uint32_t i = 0; i < s->n_classes; i++)
        list_for_each(n, &s->classes[i]->leases)
        {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            if (l->id == lease)
                return l;
        }
    return NULL;
}

struct submit_lease *submit_find_of(const struct submit *s, const void *peer)
{
    for (uint32_t i = 0; i < s->n_classes; i++)
        list_for_each(n, &s->classes[i]->leases)
        {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            if (l->peer == peer)
                return l;
        }
    return NULL;
}

/* The mean rises at once, so that a window of long tasks shrinks; it falls by an eighth. */
static void measure(struct class *c, uint32_t run_ns)
{
    uint64_t run = run_ns == 0 ? 1 : run_ns;

    if (c->run_ns == 0)
        c->run_ns = run;
    else if (run > 8 * c->run_ns)
        c->run_ns = run / 4;
    else
        c->run_ns = (7 * c->run_ns + run) / 8;
    if (c->run_ns == 0)
        c->run_ns = 1;
    uint32_t old = c->limit;
    c->limit = window_limit(c);
    if (c->limit == old)
        return;
    /* idle ones stay in front: place puts others behind them */
    list_for_each(n, &c->leases) place(c, list_entry(n, struct submit_lease, node));
}

struct record *submit_on_done(struct submit *s,
                              struct submit_lease *l,
                              unsigned slot,
                              uint32_t run_ns,
                              uint64_t now_ns)
{
    struct class *c = s->classes[l->class];

    if (slot >= SUBMIT_WINDOW || (l->busy & 1ull << slot) == 0)
        return NULL;
    struct record *r = take_out(c, l, slot);
    l->phases ^= 1ull << slot;
    l->blocked = false;
    l->progress_ns = now_ns;
    measure(c, run_ns);
    place(c, l);
    if (l->n_in_window == 0)
        lingers(s, c, now_ns);
    return r;
}

struct record *submit_withdraw(struct submit *s,
                               struct submit_lease *l,
                               unsigned slot,
                               bool claimed,
                               uint64_t now_ns)
{
    struct class *c = s->classes[l->class];

    if (slot >= SUBMIT_WINDOW || (l->busy & 1ull << slot) == 0)
        return NULL;
    struct record *r = take_out(c, l, slot);
    if (claimed) {
        l->phases ^= 1ull << slot;
        l->blocked = false;
        l->progress_ns = now_ns;
    }
    place(c, l);
    if (l->n_in_window == 0)
        lingers(s, c, now_ns);
    return r;
}

void submit_refill(struct submit *s, uint32_t class, uint64_t now_ns, struct submit_actions *out)
{
    fill(s->classes[class], now_ns, out);
}

/* Put these slots of the window back in front of the queue, oldest first. */
static void back_to_queue(struct class *c, struct submit_lease *l, uint64_t mask, uint64_t now_ns)
{
    struct record *v[SUBMIT_WINDOW];
    int n = 0;

    for (mask &= l->busy; mask != 0; mask &= mask - 1) {
        struct record *r = take_out(c, l, (unsigned)__builtin_ctzll(mask));
        int k = n++;
        for (; k > 0 && v[k - 1]->counter > r->counter; k--)
            v[k] = v[k - 1];
        v[k] = r;
    }
    while (n > 0)
        enqueue(c, v[--n], true, now_ns);
    place(c, l);
}

void submit_on_returned(struct submit *s,
                        struct submit_lease *l,
                        uint64_t mask,
                        bool asked,
                        uint64_t now_ns,
                        struct submit_actions *out)
{
    struct class *c = s->classes[l->class];

    if (!asked)
        l->blocked = true;
    back_to_queue(c, l, mask, now_ns);
    l->progress_ns = now_ns;
    if (asked) {
        fill(c, now_ns, out); /* first to others: taking_back is still set */
        l->taking_back = false;
        place(c, l);
    }
    fill(c, now_ns, out);
    request(s, c, now_ns, out);
    if (l->n_in_window == 0)
        lingers(s, c, now_ns);
}

void submit_on_bounced(struct submit *s,
                       struct submit_lease *l,
                       unsigned slot,
                       bool over,
                       uint64_t now_ns,
                       struct submit_actions *out)
{
    struct class *c = s->classes[l->class];

    if (slot >= SUBMIT_WINDOW)
        return;
    l->ending |= over;
    back_to_queue(c, l, 1ull << slot, now_ns);
    fill(c, now_ns, out);
    request(s, c, now_ns, out);
    if (l->n_in_window == 0)
        lingers(s, c, now_ns);
}

static void end_lease(struct class *c, struct submit_lease *l, struct submit_actions *out)
{
    ASSERT(l->n_in_window == 0);
    l->ending = true;
    place(c, l);
    list_remove(&l->node);
    c->n_leases--;
    add(out, (struct submit_action){.kind = SUBMIT_END, .lease = l});
}

void submit_on_lease_ended(struct submit *s,
                           struct submit_lease *l,
                           uint64_t now_ns,
                           struct submit_actions *out)
{
    struct class *c = s->classes[l->class];

    back_to_queue(c, l, l->busy, now_ns);
    end_lease(c, l, out);
    fill(c, now_ns, out);
    request(s, c, now_ns, out);
}

void submit_on_unknown_lease_ended(struct submit *s, uint64_t lease)
{
    if (lease <= s->last_lease || s->lost || s->n_ended == MAX_ENDED)
        return; /* it is over already */
    if (s->n_ended == s->ended_room) {
        s->ended_room = 2 * s->ended_room + 16;
        s->ended = xrealloc(s->ended, s->ended_room * sizeof *s->ended);
    }
    s->ended[s->n_ended++] = lease;
}

uint64_t submit_ran(const struct submit_lease *l, uint64_t started)
{
    return ~(started ^ l->phases) & l->busy;
}

void submit_on_worker_dead(struct submit *s,
                           struct submit_lease *l,
                           uint64_t started,
                           uint64_t now_ns,
                           struct submit_actions *out)
{
    struct class *c = s->classes[l->class];

    for (uint64_t m = submit_ran(l, started); m != 0; m &= m - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(m);
        struct task *t = &l->window[slot]->u.task;
        if (t->retries_left == 0) {
            fail(take_out(c, l, slot), CORE_ECRASH, 0, out);
            continue;
        }
        if (t->retries_left > 0)
            t->retries_left--;
        t->attempt++;
    }
    submit_on_lease_ended(s, l, now_ns, out);
}

void submit_on_raylet_lost(struct submit *s, struct submit_actions *out)
{
    s->lost = true;
    for (uint32_t i = 0; i < s->n_classes; i++) {
        struct class *c = s->classes[i];
        list_for_each_safe(n, &c->leases)
        {
            struct submit_lease *l = list_entry(n, struct submit_lease, node);
            back_to_queue(c, l, l->busy, 0);
            end_lease(c, l, out);
        }
        for (struct record *r; (r = dequeue_any(c)) != NULL;)
            fail(r, CORE_ELINK, 0, out);
        memset(c->tickets, 0, sizeof c->tickets);
        c->n_units = 0;
        c->canceling = c->refused = c->pause_pending = false;
        c->idle_ns = UINT64_MAX;
        list_remove(&c->active);
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
        list_for_each(n, &c->leases)
        {
            out->n_leases++;
            out->n_in_windows += list_entry(n, struct submit_lease, node)->n_in_window;
        }
    }
}

static uint64_t check_queue(const struct queue *q)
{
    uint64_t n = 0;

    for (const struct record *r = q->head; r != NULL; r = r->u.task.next) {
        n++;
        ASSERT(r->u.task.lease == NULL);
        ASSERT(r->u.task.next != NULL || r == q->tail);
        ASSERT(q->node == 0 || r->u.task.node == q->node);
    }
    ASSERT(n == q->n);
    return n;
}

void submit_selfcheck(const struct submit *s)
{
    for (uint32_t i = 0; i < s->n_classes; i++) {
        const struct class *c = s->classes[i];
        uint64_t queued = check_queue(&c->anywhere), waiting = 0, in_windows = 0;
        uint32_t units = 0, leases = 0, open = 0;
        bool past_idle = false;
        for (unsigned k = 0; k < c->n_near; k++) {
            queued += check_queue(&c->near[k]);
            for (unsigned m = 0; m < k; m++)
                ASSERT(c->near[m].node != c->near[k].node);
        }
        list_for_each(n, &c->leases)
        {
            const struct submit_lease *l = list_entry(n, struct submit_lease, node);
            ASSERT((uint32_t)__builtin_popcountll(l->busy) == l->n_in_window);
            uint32_t bytes = 0;
            for (uint64_t m = l->busy; m != 0; m &= m - 1) {
                const struct record *r = l->window[__builtin_ctzll(m)];
                ASSERT(r->u.task.lease == l);
                bytes += weight(r);
            }
            ASSERT(bytes == l->bytes_in_window);
            waiting += l->n_in_window > 0 ? l->n_in_window - 1 : 0;
            in_windows += l->n_in_window;
            leases++;
            ASSERT(l->n_in_window <= SUBMIT_WINDOW);
            ASSERT(bytes <= SUBMIT_WINDOW_BYTES || l->n_in_window == 1);
            ASSERT(is_open(l) == may_open(c, l));
        }
        list_for_each(n, &c->open)
        {
            const struct submit_lease *l = list_entry(n, struct submit_lease, open);
            ASSERT(l->n_in_window > 0 || !past_idle);
            past_idle |= l->n_in_window > 0;
            open++;
        }
        for (int k = 0; k < MAX_TICKETS; k++)
            units += c->tickets[k].remaining;
        ASSERT(queued == c->n_queued && waiting == c->n_waiting);
        ASSERT(units == c->n_units && leases == c->n_leases && open == c->n_open);
        ASSERT(in_windows == c->n_in_windows && c->limit == window_limit(c));
        ASSERT(units <= s->max_units);
        ASSERT(queued + in_windows + units == 0 || !list_empty(&c->active));
        ASSERT(c->idle_ns == UINT64_MAX || !list_empty(&c->active));
    }
}
