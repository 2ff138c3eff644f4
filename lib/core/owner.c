/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The owner's hands: carries out what submit.c decides and feeds it what frames say. The order at a
 * task's end matters: values are stored, then waiters are told (INV-14, INV-33), then the
 * arguments' holds are dropped (INV-13).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define NEAR_LOG2_MAX 30         /* a gibibyte, and a second of patience */
#define LOG_MAX       (1u << 20) /* text waiting for the terminal */
#define LOG_HEAD      128        /* bytes beside the name and the line */

uint8_t *core_scratch(size_t size)
{
    if (core.scratch_size < size) {
        uint8_t *p = try_alloc(core.scratch, size);
        if (p == NULL)
            return NULL;
        core.scratch = p;
        core.scratch_size = size;
    }
    return core.scratch;
}

void owner_ref_add_waiter(struct record *r, struct ref_waiter *w)
{
    refs_want(r);
    w->next = r->waiters;
    w->link = (struct ref_waiter **)&r->waiters;
    if (w->next != NULL)
        w->next->link = &w->next;
    r->waiters = w;
}

void owner_ref_remove_waiter(struct ref_waiter *w)
{
    if (w->link == NULL)
        return;
    *w->link = w->next;
    if (w->next != NULL)
        w->next->link = w->link;
    w->link = NULL;
}

size_t owner_failure(void *out,
                     size_t max,
                     enum core_code code,
                     int pid,
                     int sig,
                     const char *text,
                     const char *function,
                     const char *file,
                     const char *log)
{
    struct wire_failure f = {.code = code, .pid = pid, .signal = sig, .node = core.welcome.node};
    char *p = (char *)out + sizeof f;
    const char *strings[] = {text, function, file, log};
    size_t left = max - sizeof f;

    memcpy(out, &f, sizeof f);
    for (int i = 0; i < 4; i++) {
        size_t room = left - (size_t)(3 - i);
        size_t n = strnlen(strings[i], room - 1);
        memcpy(p, strings[i], n);
        p[n] = '\0';
        p += n + 1;
        left -= n + 1;
    }
    return (size_t)(p - (char *)out);
}

size_t owner_freed(void *out, size_t max)
{
    return owner_failure(out, max, CORE_ELOST, 0, 0, "freed by ray_free_object", "", "", "");
}

void owner_tell(struct record *r)
{
    struct ref_waiter *w = r->waiters;

    r->waiters = NULL;
    /* in the order they came: the list was built by pushing in front */
    struct ref_waiter *reversed = NULL;
    while (w != NULL) {
        struct ref_waiter *next = w->next;
        w->next = reversed;
        reversed = w;
        w = next;
    }
    for (w = reversed; w != NULL;) {
        struct ref_waiter *next = w->next;
        w->link = NULL;
        switch (w->kind) {
        case REF_WAITER_THREAD:
            if (w->u.thread->n_missing > 0 && w->u.thread->ends_at_error
                && r->meta == WIRE_META_ERROR)
                w->u.thread->n_missing = 1;
            if (w->u.thread->n_missing > 0 && --w->u.thread->n_missing == 0) {
                core.counters.thread_hops += !list_empty(&w->u.thread->node);
                poller_wake(w->u.thread);
            }
            break;
        case REF_WAITER_WATCH: {
            struct ready_event *e = (void *)w; /* the same block: a watch becomes its event */
            struct core_event event = {.ref = w->u.watch.ref, .tag = w->u.watch.tag};
            uint64_t one = 1;
            bool was_empty = core.events == NULL;
            e->event = event;
            e->next = NULL;
            *core.events_tail = e;
            core.events_tail = &e->next;
            if (was_empty) {
                ssize_t n = write(core.event_fd, &one, sizeof one);
                (void)n;
            }
            poller_wake_all();
            break;
        }
        case REF_WAITER_TASK: {
            struct record *task = w->u.task;
            ref_table_free(core.refs, w, sizeof *w);
            if (task->u.task.n_deps == 1)
                owner_locate(&task->u.task);
            submit_on_argument(core.submit, task, r, clock_now_ns(), &core.actions);
            break;
        }
        case REF_WAITER_PEER: {
            uint32_t process = w->u.peer.process;
            ref_table_free(core.refs, w, sizeof *w);
            want_tell_peer(r, process);
            ref_table_unhold(core.refs, r);
            break;
        }
        }
        w = next;
    }
}

/* --- where arguments lie --- */

#define NODES_MAX 8 /* others count as none */

struct located {
    struct {
        uint32_t node;
        uint64_t bytes;
    } v[NODES_MAX];
    unsigned n;
    uint64_t here; /* bytes */
};

static void locate(void *arg, struct record *r, bool is_inside)
{
    const struct ref_stored *s = &r->u.stored;
    struct located *l = arg;
    unsigned i = 0;

    if (is_inside || r->state != REF_READY || (r->flags & REF_STORED) == 0)
        return;
    bool is_copied =
        s->copy != 0 && core.store != NULL && store_client_is_there(core.store, s->copy);
    if (!refs_is_elsewhere(s) || is_copied) {
        l->here += s->size;
        return;
    }
    while (i < l->n && l->v[i].node != s->node)
        i++;
    if (i == NODES_MAX)
        return;
    if (i == l->n)
        l->v[l->n++].node = s->node;
    l->v[i].bytes += s->size;
}

void owner_locate(struct task *t)
{
    struct located l = {.n = 0};
    uint64_t most = 0;

    t->node = 0;
    if (t->n_ref_args == 0 || !core.welcome.in_cluster)
        return;
    ref_table_for_each_held(core.refs, t, locate, &l);
    for (unsigned i = 0; i < l.n; i++)
        if (l.v[i].bytes > most) {
            most = l.v[i].bytes;
            t->node = l.v[i].node;
        }
    if (most <= l.here) {
        t->node = 0;
        return;
    }
    unsigned log2 = 63 - (unsigned)__builtin_clzll(most - l.here);
    t->near_log2 = (uint8_t)(log2 < NEAR_LOG2_MAX ? log2 : NEAR_LOG2_MAX);
}

static struct record *take_slot(const uint8_t **at)
{
    uint32_t slot;

    memcpy(&slot, *at, sizeof slot);
    *at += sizeof slot;
    return ref_table_at(core.refs, slot);
}

static void unhold(void *arg, struct record *r, bool is_inside)
{
    (void)arg;
    (void)is_inside;
    ref_table_unhold(core.refs, r);
}

/* Drop what the spec holds; t is a copy of the task part. */
static void let_go(const struct task *t)
{
    ref_table_for_each_held(core.refs, t, unhold, NULL);
    ref_table_free(core.refs, t->spec, t->spec_size);
}

/* What the worker got a ref of: of an argument itself it got the value only. */
static void collect(void *arg, struct record *r, bool is_inside)
{
    (void)arg;
    if (!is_inside && (r->extra == NULL || r->extra->n_inner == 0))
        return;
    core.slots = xrealloc(core.slots, (core.n_slots + 1) * sizeof *core.slots);
    core.slots[core.n_slots++] = r->slot;
    r->held++;
}

/* A dead worker may have handed on what it was given, retried or not: that is held as long as what
 * the worker itself had borrowed. */
static void hold_for_dead(const struct task *t, uint32_t process)
{
    core.n_slots = 0;
    ref_table_for_each_held(core.refs, t, collect, NULL);
    borrow_hold_reply(core.borrow, process, 0, core.slots, (uint32_t)core.n_slots);
    free(core.slots);
    core.slots = NULL;
}

/* Give every return of the task the same value. */
static void complete_with(struct record *first, uint8_t meta, const void *bytes, uint32_t size)
{
    struct task t = first->u.task;
    uint32_t slot = first->slot;

    if (lineage_of_run(first) != NULL) {
        remake_fail_run(first, meta, bytes, size);
        return;
    }
    core.n_pending--;
    while (slot != 0) {
        struct record *r = ref_table_at(core.refs, slot);
        slot = r->next_return;
        if (ref_table_set(core.refs, r, meta, bytes, size))
            owner_tell(r);
    }
    let_go(&t);
}

static void complete_one(struct record *r, enum core_code code, const char *text)
{
    uint8_t value[256];
    size_t n = owner_failure(value, sizeof value, code, 0, 0, text, "", "", "");

    if (ref_table_set(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n))
        owner_tell(r);
}

static void fail(struct record *task, enum core_code code, const char *text, int pid, int sig)
{
    uint8_t value[1024];
    const struct template *t = core.templates[task->template];
    size_t n =
        owner_failure(value, sizeof value, code, pid, sig, text, t->name, "", core.death_log);

    if (core.death_node != NULL)
        memcpy(value + offsetof(struct wire_failure, node),
               core.death_node,
               sizeof *core.death_node);
    complete_with(task, WIRE_META_ERROR, value, (uint32_t)n);
}

static void fail_lost(struct record *task)
{
    char text[512];

    snprintf(text,
             sizeof text,
             "%s%s",
             core.lost.code == ERR_NO_MEMORY ? "" : "the raylet is gone: ",
             core.lost.text);
    fail(task, CORE_ELINK, text, 0, 0);
}

/* The error of an argument is the task's: its body never runs. */
static void fail_by_argument(struct record *task, uint32_t cause)
{
    const struct record *r = ref_table_at(core.refs, cause);
    uint8_t *copy = core_scratch(r->size);
    uint32_t size = r->size;

    if (copy == NULL) {
        fail(task, CORE_ENOMEM, "no memory to pass an argument's error on", 0, 0);
        return;
    }
    memcpy(copy, record_value(r), size);
    complete_with(task, WIRE_META_ERROR, copy, size);
}

static int send_template(struct peer *p, unsigned number)
{
    const struct template *t = core.templates[number];
    uint8_t buf[sizeof(struct wire_template) + sizeof t->function + sizeof t->name];
    struct wire_template w = {.template = (uint16_t)number,
                              .n_returns = t->n_returns,
                              .flags = t->max_retries == 0 ? WIRE_TEMPLATE_NO_RETRY : 0};
    size_t nf = strlen(t->function) + 1, nn = strlen(t->name) + 1;

    if (number >= p->n_templates) {
        unsigned n = number + 32;
        p->templates = xrealloc(p->templates, n);
        memset(p->templates + p->n_templates, 0, n - p->n_templates);
        p->n_templates = n;
    }
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, t->function, nf);
    memcpy(buf + sizeof w + nf, t->name, nn);
    p->templates[number] = 1;
    return peer_send(p, WIRE_TEMPLATE, buf, sizeof w + nf + nn);
}

/* An argument that has no room beside the others: the executor asks for its value. */
static size_t put_by_ref(const struct record *r, uint8_t *out)
{
    struct wire_arg a = {.size = sizeof(struct wire_ref), .meta = WIRE_VALUE_BY_REF};

    if (out != NULL) {
        memcpy(out, &a, sizeof a);
        refs_put(&r->slot, 1, out + sizeof a);
    }
    return sizeof a + a.size;
}

/* The record of argument i, which is a ref; NULL: it is none. */
static struct record *argument_at(const struct task *t, unsigned i)
{
    const uint8_t *p = t->spec;

    for (unsigned k = 0; t->n_ref_args > 0 && k < t->n_args; k++) {
        struct wire_arg a;
        memcpy(&a, p, sizeof a);
        p += sizeof a;
        if (a.size == REF_SPEC_IS_REF) {
            struct record *r = take_slot(&p);
            if (k == i)
                return r;
            continue;
        }
        if ((a.meta & WIRE_VALUE_REFS) != 0) {
            uint32_t n_refs;
            memcpy(&n_refs, p, sizeof n_refs);
            p += sizeof n_refs + n_refs * sizeof(uint32_t);
        }
        p += a.size;
    }
    return NULL;
}

/* Write the arguments with the refs' values in place, for a worker on that node; returns the size,
 * out may be NULL to ask for it. *is_elsewhere: some are in other nodes' stores. */
static size_t expand(const struct task *t, uint32_t node, uint8_t *out, bool *is_elsewhere)
{
    const uint8_t *p = t->spec;
    size_t n = 0;

    for (unsigned i = 0; i < t->n_args; i++) {
        struct wire_arg a;
        memcpy(&a, p, sizeof a);
        p += sizeof a;
        if (a.size == REF_SPEC_IS_REF) {
            struct record *r = take_slot(&p);
            bool has_room = n < CORE_ARGS_MAX || r->size <= sizeof(struct wire_ref)
                            || (r->extra != NULL && r->extra->n_inner > 0);
            *is_elsewhere |= (r->flags & REF_STORED) != 0 && r->u.stored.node != node;
            n += has_room ? refs_put_value(r, node, out != NULL ? out + n : NULL)
                          : put_by_ref(r, out != NULL ? out + n : NULL);
            continue;
        }
        if (out != NULL)
            memcpy(out + n, &a, sizeof a);
        n += sizeof a;
        if ((a.meta & WIRE_VALUE_REFS) != 0) {
            uint32_t n_refs;
            memcpy(&n_refs, p, sizeof n_refs);
            if (out != NULL)
                memcpy(out + n, &n_refs, sizeof n_refs);
            p += sizeof n_refs;
            n += sizeof n_refs;
            for (; n_refs > 0; n_refs--, n += sizeof(struct wire_ref)) {
                uint32_t slot = take_slot(&p)->slot;
                if (out != NULL)
                    refs_put(&slot, 1, out + n);
            }
        }
        if (out != NULL && a.size > 0)
            memcpy(out + n, p, a.size);
        p += a.size;
        n += a.size;
    }
    return n;
}

static void push(const struct submit_action *a)
{
    struct peer *p = a->lease->peer;
    const struct record *r = a->task;
    const struct task *t = &r->u.task;

    if (p->link == NULL)
        return; /* its death is on the way, and with it this task comes back */
    if (t->n_ref_args > 0 && remake_must_wait(t)) {
        uint64_t now = clock_now_ns();
        remake_await_arguments(submit_withdraw(core.submit, a->lease, t->window_slot, false, now));
        submit_refill(core.submit, a->lease->class, now, &core.actions);
        return;
    }
    if ((r->template >= p->n_templates || !p->templates[r->template])
        && send_template(p, r->template) != 0)
        return;
    struct wire_push w = {.lease = a->lease->id,
                          .counter = r->counter,
                          .template = r->template,
                          .slot = t->window_slot,
                          .phase = (uint8_t)a->count,
                          .n_args = t->n_args,
                          .attempt = t->attempt};
    bool is_elsewhere = false;
    size_t size =
        sizeof w
        + (t->n_ref_args == 0 ? t->spec_size : expand(t, p->node_number, NULL, &is_elsewhere));
    w.phase |= is_elsewhere ? WIRE_PUSH_ELSEWHERE : 0;
    uint8_t *body = size <= FRAME_BODY_MAX ? peer_reserve(p, WIRE_PUSH, size) : core_scratch(size);
    if (body == NULL)
        return;
    memcpy(body, &w, sizeof w);
    if (t->n_ref_args == 0)
        memcpy(body + sizeof w, t->spec, t->spec_size);
    else
        expand(t, p->node_number, body + sizeof w, &is_elsewhere);
    if (size <= FRAME_BODY_MAX)
        peer_commit(p, size);
    else
        peer_send(p, WIRE_PUSH, body, size);
    p->in_flight++;
    p->n_unsent++;
    core.pushed = p;
}

static void request(const struct submit_action *a);

void owner_settle(void)
{
    if (core.submit == NULL)
        return;
    submit_settle(core.submit, clock_now_ns(), &core.actions);
    owner_act();
}

void owner_act(void)
{
    struct submit_actions *acts = &core.actions;

    if (core.submit == NULL)
        return;
    for (size_t i = 0; i < acts->n; i++) {
        struct submit_action a = acts->v[i];
        switch (a.kind) {
        case SUBMIT_PUSH:
            push(&a);
            break;
        case SUBMIT_REQUEST:
            request(&a);
            break;
        case SUBMIT_CANCEL:
            peer_send(core.raylet,
                      WIRE_LEASE_CANCEL,
                      &(struct wire_lease_cancel){a.ticket},
                      sizeof(struct wire_lease_cancel));
            break;
        case SUBMIT_TAKE_BACK: {
            struct wire_take_back w = {.lease = a.lease->id, .count = a.count};
            peer_send(a.lease->peer, WIRE_TAKE_BACK, &w, sizeof w);
            break;
        }
        case SUBMIT_RETURN:
            peer_send(core.raylet,
                      WIRE_LEASE_RETURN,
                      &(struct wire_lease_return){a.ticket},
                      sizeof(struct wire_lease_return));
            break;
        case SUBMIT_FAIL:
            if (a.cause != 0)
                fail_by_argument(a.task, a.cause);
            else if (a.class == CORE_ELINK)
                fail_lost(a.task);
            else
                fail(a.task,
                     a.class,
                     core.death_text != NULL ? core.death_text : "its worker died",
                     core.death_pid,
                     core.death_signal);
            break;
        case SUBMIT_END: {
            struct peer *p = a.lease->peer;
            if (p->lease == a.lease)
                p->lease = NULL;
            p->n_leases--;
            submit_forget(core.submit, a.lease);
            if (p->leaving)
                peer_leave(p);
            core.peers_ended |= p->link == NULL;
            break;
        }
        }
    }
    acts->n = 0;
}

static void request(const struct submit_action *a)
{
    size_t size;
    uint8_t *frame = core_class_frame(a->class, &size);
    struct wire_lease_request w;

    memcpy(&w, frame, sizeof w);
    w.ticket = a->ticket;
    w.count = a->count;
    w.node = a->node;
    memcpy(frame, &w, sizeof w);
    peer_send(core.raylet, WIRE_LEASE_REQUEST, frame, size);
    w.node = 0; /* of the class it is no part */
    memcpy(frame, &w, sizeof w);
}

/* The raylet relays for us and that process; the GRANT or BEGIN that follows says which way. */
static void on_route(const uint8_t *body, size_t size)
{
    struct wire_route w;

    if (size < sizeof w || core.raylet == NULL || core.raylet->link == NULL)
        return;
    memcpy(&w, body, sizeof w);
    if (w.route == 0)
        return; /* that is the raylet itself */
    bool is_number = (w.route & WIRE_ROUTE_PROCESS) != 0;
    struct peer *p = is_number ? peer_on_route(w.route) : peer_create_routed(w.route);
    p->id = w.peer;
    if (!is_number)
        p->process = w.peer_process;
}

static void on_grant(const uint8_t *body, size_t size, int fd)
{
    struct wire_lease_grant g;
    struct err err;

    if (size < sizeof g)
        return;
    memcpy(&g, body, sizeof g);
    struct peer *p = NULL;
    if (fd >= 0) {
        p = peer_create(fd, &err);
        if (p != NULL)
            p->as_owner = true;
    } else if (g.node != core.welcome.node_number) {
        p = peer_on_route(WIRE_ROUTE_PROCESS | WIRE_ROUTE_OWNER | g.process);
    } else if (fd == -1) {
        p = peer_find(&g.worker, true);
        if (p != NULL && p->route > 0)
            p->as_owner = true;
    }
    if (p == NULL) {
        /* no descriptor left: from the next lease on the pair talks over a route */
        struct wire_route lost = {.lease = g.lease};
        peer_send(core.raylet, WIRE_ROUTE, &lost, sizeof lost);
        peer_send(core.raylet,
                  WIRE_LEASE_RETURN,
                  &(struct wire_lease_return){g.lease},
                  sizeof(struct wire_lease_return));
        submit_on_busy(core.submit, g.ticket, 1, core.read_ns, &core.actions);
        owner_act();
        return;
    }
    p->id = g.worker;
    p->pid = g.pid;
    p->process = g.process;
    p->board_slot = g.slot;
    p->node_number = g.node;
    struct submit_lease *l =
        submit_on_grant(core.submit, g.ticket, g.lease, p, g.node, core.read_ns, &core.actions);
    if (l != NULL)
        p->n_leases++;
}

/* Of this peer; a worker may have ended leases that we have not heard of yet, so the frames say
 * which they mean. */
static struct submit_lease *find_lease(struct peer *p, uint64_t id)
{
    if (p->lease == NULL || p->lease->id != id) {
        struct submit_lease *l = submit_find(core.submit, id);
        p->lease = l != NULL && l->peer == p ? l : NULL;
    }
    return p->lease;
}

/* A return is there. The refs inside stay in core.slots, held once more, for guard_reply. */
static void set_return(struct record *r, struct wire_value *v)
{
    uint32_t *slots = NULL;

    if (v->n_refs > 0) {
        size_t room = core.n_slots + v->n_refs;
        slots = try_alloc(core.slots, room * sizeof *slots);
        core.slots = slots != NULL ? slots : core.slots;
        if (slots == NULL || !refs_learn(v->refs, v->n_refs, slots + core.n_slots)) {
            complete_one(r, CORE_ENOMEM, "no memory for the refs of a result");
            if (v->is_stored)
                objects_free(&v->stored);
            return;
        }
        slots += core.n_slots;
        for (uint32_t i = 0; i < v->n_refs; i++)
            ref_table_at(core.refs, slots[i])->held++;
        core.n_slots = room;
    }
    refs_set_value(r, v, slots);
}

/* What came inside the results is registered with its owners; then the worker may let it go. */
static void guard_reply(uint32_t process, uint64_t counter)
{
    borrow_guard(core.borrow,
                 BORROW_GUARD_REPLY,
                 process,
                 counter,
                 0,
                 core.slots,
                 (uint32_t)core.n_slots,
                 &core.borrow_actions);
    ref_table_unhold_all(core.refs, core.slots, (uint32_t)core.n_slots);
    free(core.slots);
    core.slots = NULL;
    refs_act();
}

/* Can that be return i of this attempt? */
static bool is_result(struct wire_value *v, uint64_t counter, uint32_t index, uint16_t attempt)
{
    struct wire_key key = {.counter = counter,
                           .owner = core.welcome.process,
                           .index = index,
                           .attempt = attempt};

    if (memcmp(&v->stored.key, &key, sizeof key) != 0)
        return false;
    v->stored.copy = 0; /* nobody has one yet */
    return v->is_elsewhere || objects_is_ours(&v->stored);
}

/* The answer of a task that ran, as it is read. */
struct answer {
    const uint8_t *at, *end;
    uint64_t counter;
    unsigned i, n; /* the next return; so many are there */
    uint16_t attempt;
    bool with_refs, is_malformed;
};

/* The next return, for this record; NULL: nobody waits for it. */
static void take_return(struct answer *a, struct record *r)
{
    struct wire_value v = {.size = 0};
    uint32_t index = ++a->i;

    a->is_malformed |= index > a->n || !refs_parse(&a->at, a->end, &v) || v.is_by_ref
                       || (v.is_stored && !is_result(&v, a->counter, index, a->attempt));
    if (a->is_malformed) {
        if (r != NULL)
            complete_one(r, CORE_ELOST, "its worker sent a malformed answer");
        return;
    }
    a->with_refs |= v.n_refs > 0;
    if (r != NULL)
        set_return(r, &v);
    else if (v.is_stored)
        objects_free(&v.stored);
}

/* A return that was just set is in a store: how it can be made again, or why not. */
static void keep_lineage(struct lineage **l,
                         const struct lineage_task *of,
                         unsigned i,
                         struct record *r)
{
    const struct template *t = core.templates[of->template];

    r->template = of->template;
    if (of->task.retries_left == 0)
        r->u.stored.origin = t->max_retries == 0 ? REF_NO_RETRIES : REF_RETRIED;
    else if (!lineage_add(core.lineages, l, of, i, r))
        r->u.stored.origin = REF_EVICTED;
}

static bool is_in_store(const struct record *r)
{
    return r->state == REF_READY && (r->flags & (REF_STORED | REF_DYING)) == REF_STORED;
}

static void take_first_answer(struct answer *a, struct record *first, uint16_t n_returns)
{
    struct lineage_task of = {.task = first->u.task,
                              .counter = first->counter,
                              .class = first->class,
                              .template = first->template,
                              .n_returns = n_returns};
    uint32_t slot = (first->flags & REF_HIDDEN) != 0 ? 0 : first->slot;
    struct lineage *l = NULL;

    core.n_pending--;
    if (slot == 0)
        ref_table_set(core.refs, first, 0, NULL, 0);
    for (unsigned i = 0; slot != 0; i++) {
        struct record *r = ref_table_at(core.refs, slot);
        slot = r->next_return;
        take_return(a, r);
        if (core.welcome.in_cluster && is_in_store(r))
            keep_lineage(&l, &of, i, r);
    }
    if (l != NULL)
        lineage_keep(core.lineages, l);
    else
        let_go(&of.task);
}

/* Of a task that ran again: to those of its returns that wait. */
static void take_answer_again(struct answer *a, struct record *run)
{
    const struct lineage *l = lineage_of_run(run);

    for (unsigned i = 0; i < l->of.n_returns; i++) { /* the run keeps l */
        struct record *r = l->returns[i] != 0 ? ref_table_at(core.refs, l->returns[i]) : NULL;
        bool is_awaited = r != NULL && r->state == REF_PENDING;
        take_return(a, is_awaited ? r : NULL);
        if (!is_awaited || l->returns[i] == 0)
            continue;
        if (is_in_store(r))
            r->u.stored.origin = REF_FROM_TASK;
        else
            lineage_remove(core.lineages, r);
    }
    remake_end_run(run);
}

/* It could not read an argument: what it says is lost is made again, and it waits. */
static void on_unread(struct peer *p,
                      struct submit_lease *l,
                      const struct wire_done *d,
                      const uint8_t *at,
                      size_t size)
{
    uint32_t class = l->class;
    struct record *task = submit_withdraw(core.submit, l, d->slot, true, core.read_ns);
    char why[256] = "its worker sent a malformed answer";
    bool is_good = size >= d->n_returns * sizeof(struct wire_lost) && d->n_returns > 0;

    if (task == NULL)
        return;
    if (p->in_flight > 0)
        p->in_flight--;
    for (unsigned i = 0; is_good && i < d->n_returns; i++) {
        struct wire_lost w;
        memcpy(&w, at + i * sizeof w, sizeof w);
        struct record *r = argument_at(&task->u.task, w.argument);
        is_good = r != NULL && remake_lost(r, w.attempt, w.node);
        if (r != NULL && !is_good) {
            size_t head = d->n_returns * sizeof w;
            snprintf(why, sizeof why, "%.*s", (int)(size - head), (const char *)at + head);
        }
    }
    if (is_good)
        remake_await_arguments(task);
    else
        fail(task, CORE_ELOST, why, 0, 0);
    submit_refill(core.submit, class, core.read_ns, &core.actions);
}

static void on_done(struct peer *p, const uint8_t *body, size_t size)
{
    struct wire_done d;

    if (size < sizeof d)
        return;
    memcpy(&d, body, sizeof d);
    struct submit_lease *l = find_lease(p, d.lease);
    if (l == NULL)
        return;
    if (d.failed == WIRE_DONE_LOST) {
        on_unread(p, l, &d, body + sizeof d, size - sizeof d);
        return;
    }
    struct record *first = submit_on_done(core.submit, l, d.slot, d.run_ns, core.read_ns);
    if (first == NULL)
        return;
    if (p->in_flight > 0)
        p->in_flight--;
    struct answer a = {.at = body + sizeof d,
                       .end = body + size,
                       .counter = first->counter,
                       .n = d.n_returns,
                       .attempt = first->u.task.attempt};
    core.n_slots = 0;
    if (lineage_of_run(first) != NULL)
        take_answer_again(&a, first);
    else
        take_first_answer(&a, first, core.templates[first->template]->n_returns);
    if (a.with_refs || a.is_malformed) /* it may hold some for what it tried to say */
        guard_reply(p->process, a.counter);
    submit_refill(core.submit, l->class, core.read_ns, &core.actions);
}

/* Nothing more will be heard of its tasks. core.death_* say why. */
static void lose_lease(struct submit_lease *l, uint64_t started)
{
    const struct peer *p = l->peer;

    for (uint64_t left = submit_ran(l, started); left != 0; left &= left - 1) {
        /* of the others nothing is there, and they run again as the same attempt */
        const struct record *task = l->window[__builtin_ctzll(left)];
        objects_disown(task->counter, task->u.task.attempt, p->node_number);
        hold_for_dead(&task->u.task, p->process);
    }
    submit_on_worker_dead(core.submit, l, started, core.read_ns, &core.actions);
    owner_act();
}

static void on_worker_dead(const uint8_t *body, size_t size)
{
    struct wire_worker_dead d;
    char text[512];

    if (size < sizeof d)
        return;
    memcpy(&d, body, sizeof d);
    struct submit_lease *l = submit_find(core.submit, d.lease);
    if (l == NULL)
        return;
    struct peer *p = l->peer;
    while (p->route == 0 && p->link != NULL && peer_read(p))
        continue; /* what it wrote before it died counts; by a route it came before this */
    if (submit_find(core.submit, d.lease) != l)
        return;
    owner_act();
    snprintf(text, sizeof text, "%.*s", (int)(size - sizeof d), (const char *)body + sizeof d);
    size_t n = strlen(text) + 1;
    snprintf(core.death_log,
             sizeof core.death_log,
             "%.*s",
             n < size - sizeof d ? (int)(size - sizeof d - n) : 0,
             (const char *)body + sizeof d + n);
    core.death_text = text;
    core.death_pid = d.pid;
    core.death_signal = WIFSIGNALED(d.wait_status) ? WTERMSIG(d.wait_status) : 0;
    core.death_node = &d.node;
    if (p->link != NULL)
        peer_end(p, &(struct err){.code = ERR_DIED});
    p->in_flight = 0;
    lose_lease(l,
               d.mask_lease == WIRE_MASK_UNKNOWN ? l->phases
               : d.mask_lease == d.lease         ? d.started
                                                 : ~l->phases);
    core.death_text = NULL;
    core.death_node = NULL;
    core.death_pid = core.death_signal = 0;
    core.death_log[0] = '\0';
}

static void on_refused(const uint8_t *body, size_t size)
{
    struct wire_lease_refused r;
    char text[512];

    if (size < sizeof r)
        return;
    memcpy(&r, body, sizeof r);
    snprintf(text, sizeof text, "%.*s", (int)(size - sizeof r), (const char *)body + sizeof r);
    core.death_text = text;
    core.death_node = &r.node;
    if (r.code == ERR_FULL || r.code == ERR_TIMEOUT)
        submit_on_busy(core.submit, r.ticket, r.count, core.read_ns, &core.actions);
    else
        submit_on_refused(core.submit, r.ticket, r.count, &core.actions);
    owner_act();
    core.death_text = NULL;
    core.death_node = NULL;
}

static void on_log(const uint8_t *body, size_t size)
{
    struct wire_log w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    w.ip[sizeof w.ip - 1] = '\0';
    const char *name = (const char *)body + sizeof w;
    size_t n = strnlen(name, size - sizeof w);
    if (n + sizeof w >= size)
        return;
    const char *at = name + n + 1, *end = (const char *)body + size;
    int i = w.stream == 2;
    while (at < end) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        size_t len = nl != NULL ? (size_t)(nl - at) : (size_t)(end - at);
        size_t room = core.log_size[i] + n + len + LOG_HEAD;
        char *text = room > LOG_MAX ? NULL : try_alloc(core.log_text[i], room);
        if (text == NULL)
            return;
        core.log_text[i] = text;
        int head = snprintf(text + core.log_size[i],
                            n + LOG_HEAD,
                            "(%s pid=%d%s%s) ",
                            name,
                            w.pid,
                            w.ip[0] != '\0' ? ", ip=" : "",
                            w.ip);
        core.log_size[i] += (size_t)head;
        memcpy(text + core.log_size[i], at, len);
        core.log_size[i] += len;
        text[core.log_size[i]++] = '\n';
        at += len + (nl != NULL);
    }
}

static void on_info(const uint8_t *body, size_t size)
{
    struct wire_info_reply r;

    if (size < sizeof r)
        return;
    memcpy(&r, body, sizeof r);
    core.info.n_nodes = r.n_nodes;
    core.info.n_workers = r.n_workers;
    core.info.n_resources = 0;
    for (unsigned i = 0; i < r.n_resources && i <= CORE_N_RESOURCES; i++) {
        struct wire_info_resource w;
        if (size < sizeof r + (i + 1) * sizeof w)
            break;
        memcpy(&w, body + sizeof r + i * sizeof w, sizeof w);
        w.name[sizeof w.name - 1] = '\0';
        memcpy(core.info.resources[i].name, w.name, sizeof w.name);
        core.info.resources[i].total = w.total;
        core.info.resources[i].available = w.available;
        core.info.n_resources++;
    }
    core.info_ready = true;
    poller_wake_all();
}

void owner_on_frame(struct peer *p, uint8_t type, const uint8_t *body, size_t size, int fd)
{
    uint64_t now = core.read_ns;

    switch (type) {
    case WIRE_DONE:
        on_done(p, body, size);
        break;
    case WIRE_RETURNED: {
        struct wire_returned w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        if (find_lease(p, w.lease) != NULL) {
            unsigned n = (unsigned)__builtin_popcountll(w.mask & p->lease->busy);
            p->in_flight -= n < p->in_flight ? n : p->in_flight;
            submit_on_returned(core.submit, p->lease, w.mask, w.asked != 0, now, &core.actions);
        }
        break;
    }
    case WIRE_BOUNCED: {
        struct wire_bounced w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        if (w.slot < SUBMIT_WINDOW && find_lease(p, w.lease) != NULL) {
            if (w.reason == WIRE_BOUNCE_TEMPLATE)
                memset(p->templates, 0, p->n_templates);
            submit_on_bounced(core.submit,
                              p->lease,
                              w.slot,
                              w.reason == WIRE_BOUNCE_OLD_LEASE,
                              now,
                              &core.actions);
        }
        break;
    }
    case WIRE_OWNER_LEASE_ENDED: {
        struct wire_lease_ended w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        if (find_lease(p, w.lease) != NULL) {
            p->in_flight = 0;
            submit_on_lease_ended(core.submit, p->lease, now, &core.actions);
            owner_act();
        } else {
            submit_on_unknown_lease_ended(core.submit, w.lease);
        }
        break;
    }
    case WIRE_ROUTE:
        on_route(body, size);
        break;
    case WIRE_LEASE_GRANT:
        on_grant(body, size, fd);
        return; /* the fd is the peer's now */
    case WIRE_LEASE_CANCELED: {
        struct wire_lease_canceled w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        submit_on_canceled(core.submit, w.ticket, w.count, now, &core.actions);
        break;
    }
    case WIRE_LEASE_REFUSED:
        on_refused(body, size);
        break;
    case WIRE_WORKER_DEAD:
        on_worker_dead(body, size);
        break;
    case WIRE_CHANNEL_END: {
        struct wire_channel_end w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        struct peer *end = peer_find(&w.worker, true);
        if (end != NULL && end->as_owner && end->route == 0)
            peer_leave(end);
        break;
    }
    case WIRE_WELCOME:
        core_on_welcome(body, size, fd);
        return;
    case WIRE_ERROR: {
        struct err why = {.code = ERR_PROTOCOL};
        if (size > sizeof(struct wire_error))
            snprintf(why.text,
                     sizeof why.text,
                     "%.*s",
                     (int)(size - sizeof(struct wire_error)),
                     (const char *)body + sizeof(struct wire_error));
        peer_end(p, &why);
        break;
    }
    case WIRE_STORE_FD: {
        struct wire_store_fd w = {.part = UINT32_MAX};
        if (size >= sizeof w && !core.connected) {
            memcpy(&w, body, sizeof w);
            objects_on_fd(w.part, fd);
            return;
        }
        break;
    }
    case WIRE_STORE_LENT:
    case WIRE_STORE_REFUSED:
    case WIRE_STORE_RECALL:
        objects_on_frame(type, body, size);
        break;
    case WIRE_STORE_PULLED:
    case WIRE_STORE_PULL_FAILED:
        pull_on_frame(type, body, size);
        break;
    case WIRE_STORE_FOUND:
        remake_on_found(body, size);
        break;
    case WIRE_REFS_ASK:
        ref_report_on_ask(body, size);
        break;
    case WIRE_PROCESS_DEAD:
    case WIRE_BORROW:
    case WIRE_BORROW_ACK:
    case WIRE_BORROW_DIGEST:
    case WIRE_BORROW_COMPARED:
    case WIRE_BORROW_LIST:
    case WIRE_SEEN:
    case WIRE_WANT:
    case WIRE_OBJECT:
    case WIRE_OBJECT_ACK:
        refs_on_frame(p, type, body, size);
        break;
    case WIRE_LOG:
        on_log(body, size);
        break;
    case WIRE_INFO_REPLY:
        on_info(body, size);
        break;
    default:
        break; /* of a newer peer: not for us */
    }
    if (fd >= 0)
        close(fd);
}

void owner_on_channel_lost(struct peer *p, const struct err *why)
{
    struct submit_lease *l;

    p->in_flight = 0;
    if (why->code == ERR_DIED || core.submit == NULL)
        return; /* the raylet's notice says which tasks had started */
    core.death_text = why->text;
    core.death_pid = p->pid;
    while ((l = submit_find_of(core.submit, p)) != NULL) {
        peer_send(core.raylet,
                  WIRE_LEASE_RETURN,
                  &(struct wire_lease_return){l->id},
                  sizeof(struct wire_lease_return));
        lose_lease(l, l->phases); /* any of them may have */
    }
    core.death_text = NULL;
    core.death_pid = 0;
}

void owner_on_raylet_lost(void)
{
    if (core.submit == NULL)
        return;
    remake_on_raylet_lost(); /* which may submit tasks */
    submit_on_raylet_lost(core.submit, &core.actions);
    owner_act();
    refs_on_raylet_lost();
    core.info_ready = true;
    poller_wake_all();
}
