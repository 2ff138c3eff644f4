/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values whose primary copy was on a node that is dead. Nobody looks for them: whoever reads one
 * finds out, a thread here, a worker that was to run a task with it, a borrower. A copy that is in
 * our own store becomes the primary one then; else the raylet asks the other nodes for one, and
 * meanwhile the record is as it was, but LOST: nobody reads it, all wait.
 *
 * If nobody has any, the record is pending again, and its task runs once more (lineage.c keeps what
 * that needs) as the next attempt: a hidden record stands for the task, as for one without returns,
 * and what it gives back goes to those of its returns that wait, nothing to the others. Arguments
 * that nobody has any more are made first, in the same way. A value that was borrowed is asked of
 * its owner again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

bool remake_is_loss(const struct err *why)
{
    return why->code == ERR_DIED || why->code == ERR_NOT_FOUND;
}

struct record *remake_task_of(const struct record *r)
{
    const struct lineage *l = r->extra != NULL ? r->extra->lineage : NULL;

    return ref_table_at(core.refs, l != NULL && l->run != 0 ? l->run : r->first);
}

/* --- what cannot be made again --- */

static const char *reason(enum ref_origin origin)
{
    switch (origin) {
    case REF_FROM_PUT:
        return "it was put, and only what a task returns can be made again";
    case REF_NO_RETRIES:
        return "its task may not run again: max_retries is 0";
    case REF_RETRIED:
        return "its task has used up its max_retries";
    case REF_EVICTED:
        return "what its task needs to run again was dropped: RAY_max_lineage_bytes";
    case REF_LET_GO:
        return "it was borrowed, or a value with refs inside, and let go here";
    case REF_FROM_TASK:
        break;
    }
    return "there is no memory to run its task again";
}

/* A pending one becomes an error. node: its last one; 0: nobody had it any more. */
static void give_up(struct record *r, enum ref_origin origin, uint32_t node)
{
    struct task_id task =
        task_id_make((struct job_id){core.welcome.job}, core.welcome.process, r->counter);
    struct object_id id = object_id_make(&task, record_index(r));
    char hex[2 * sizeof id + 1], at[64], text[320];
    uint8_t value[512];

    snprintf(at, sizeof at, "its only copy, on node %u, is gone", node);
    snprintf(text,
             sizeof text,
             "object %s is lost: %s, and %s",
             id_hex(&id, sizeof id, hex),
             node != 0 ? at : "it was released, is needed to make another one again",
             reason(origin));
    size_t n = owner_failure(value,
                             sizeof value,
                             origin == REF_FROM_TASK ? CORE_ENOMEM : CORE_ELOST,
                             0,
                             0,
                             text,
                             "",
                             r->site != NULL ? r->site : "",
                             "");
    if (ref_table_set(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n))
        owner_tell(r);
}

/* --- what can --- */

/* Somebody needs the value of this record, which is lost or EMPTY. todo: runs that have begun. */
static void need(struct record *r, uint32_t node, struct lineage **todo)
{
    enum ref_origin origin = (enum ref_origin)r->u.stored.origin;
    struct lineage *l = r->extra != NULL ? r->extra->lineage : NULL;

    ref_table_lose(core.refs, r);
    if (l != NULL && l->run != 0)
        return; /* it comes */
    if (l == NULL || lineage_run(core.lineages, l) == NULL) {
        if (l != NULL)
            lineage_remove(core.lineages, r);
        give_up(r, origin, node);
        return;
    }
    l->next = *todo;
    *todo = l;
}

static void need_argument(void *arg, struct record *r, bool is_inside)
{
    (void)is_inside;
    if (r->state == REF_EMPTY)
        need(r, 0, arg);
}

static void make_again(struct record *r, uint32_t node)
{
    struct lineage *todo = NULL;

    need(r, node, &todo);
    while (todo != NULL) { /* chains may be long */
        const struct lineage *l = todo;
        struct record *run = ref_table_at(core.refs, l->run);
        todo = todo->next;
        ref_table_for_each_held(core.refs, &run->u.task, need_argument, &todo);
        core.n_pending++;
        remake_await_arguments(run);
    }
}

static void await_argument(void *arg, struct record *r, bool is_inside)
{
    if (!is_inside)
        core_await_argument(arg, r);
}

void remake_await_arguments(struct record *task)
{
    struct task *t = &task->u.task;

    t->n_deps = t->error = t->ref_bytes = 0;
    t->node = 0;
    ref_table_for_each_held(core.refs, t, await_argument, task);
    if (t->n_deps == 0) {
        owner_locate(t);
        submit_task(core.submit, task, clock_now_ns(), &core.actions);
    }
    poller_need_helper();
}

static void look_for_missing(void *arg, struct record *r, bool is_inside)
{
    bool *found = arg;

    *found |= !is_inside && record_is_missing(r);
}

bool remake_must_wait(const struct task *t)
{
    bool found = false;

    if (core.has_lost)
        ref_table_for_each_held(core.refs, t, look_for_missing, &found);
    return found;
}

void remake_fail_run(struct record *run, uint8_t meta, const void *bytes, uint32_t size)
{
    const struct lineage *l = lineage_of_run(run);

    for (unsigned i = 0; i < l->of.n_returns; i++) { /* the run keeps l */
        struct record *r = l->returns[i] != 0 ? ref_table_at(core.refs, l->returns[i]) : NULL;
        if (r == NULL || r->state != REF_PENDING)
            continue;
        lineage_remove(core.lineages, r);
        if (ref_table_set(core.refs, r, meta, bytes, size))
            owner_tell(r);
    }
    remake_end_run(run);
}

void remake_end_run(struct record *run)
{
    core.n_pending--;
    lineage_end_run(core.lineages, run);
    ref_table_set(core.refs, run, 0, NULL, 0);
}

/* --- losses --- */

/* The copy in our own store, if it is still there, is the primary one from now on. */
static bool promote(struct record *r)
{
    struct ref_stored *s = &r->u.stored;
    const struct index_entry *e = NULL;

    if (s->pin == REF_NO_PIN && s->copy == 0)
        return false;
    s->n_views++; /* the pin may wait without the lock */
    if (s->pin != REF_NO_PIN || objects_pin(s->copy, &s->pin)) {
        const struct wire_stored w = refs_stored(r, NODE_UNKNOWN);
        e = pull_look(&w, s->copy);
        if (e != NULL && objects_keep(s->copy)) {
            pull_end_record(&w.key, record_word(r));
            s->node = core.welcome.node_number;
            s->place = s->copy;
            s->offset = e->offset;
            s->copy = 0;
        } else {
            e = NULL;
        }
    }
    get_end_view(r);
    if (e == NULL)
        return false;
    r->flags &= (uint16_t)~REF_LOST;
    if (r->waiters != NULL)
        owner_tell(r);
    return true;
}

/* Other nodes may have copies: the raylet asks them. What may happen to the record meanwhile, that
 * it is freed or released, happens when it has answered, and so to the copy that was found. */
static void seek(struct record *r)
{
    struct wire_store_seek w = {.ticket = record_word(r),
                                .key = refs_stored(r, NODE_UNKNOWN).key,
                                .node = r->u.stored.node};

    r->flags |= REF_SOUGHT;
    r->held++;
    r->u.stored.n_views++;
    peer_send(core.raylet, WIRE_STORE_SEEK, &w, sizeof w);
    peer_flush(core.raylet); /* who has the role may be asleep */
}

/* f NULL: nobody will say it any more. */
static void end_seek(struct record *r, const struct wire_store_found *f)
{
    struct ref_stored *s = &r->u.stored;
    uint32_t node = f != NULL ? f->node : 0;
    bool is_found = node != 0;

    r->flags &= (uint16_t)~REF_SOUGHT;
    if (node == core.welcome.node_number) {
        if (s->pin == REF_NO_PIN)
            s->copy = f->place;
        is_found = promote(r);
    } else if (is_found) {
        s->node = node;
        s->place = f->place;
        s->offset = f->offset;
        r->flags &= (uint16_t) ~(REF_LOST | REF_CAME);
        if (r->waiters != NULL)
            owner_tell(r);
    }
    if (!is_found && r->count == 0 && r->held == 1)
        r->flags &= (uint16_t)~REF_LOST; /* nobody wants it any more */
    get_end_view(r);
    ref_table_unhold(core.refs, r);
}

void remake_on_found(const uint8_t *body, size_t size)
{
    struct wire_store_found w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    uint32_t slot = (uint32_t)w.ticket;
    struct record *r =
        slot != 0 && slot < ref_table_end(core.refs) ? ref_table_at(core.refs, slot) : NULL;
    if (r != NULL && record_word(r) == w.ticket && (r->flags & REF_SOUGHT) != 0)
        end_seek(r, &w);
}

void remake_on_raylet_lost(void)
{
    for (uint32_t slot = 1; core.has_lost && slot < ref_table_end(core.refs); slot++) {
        struct record *r = ref_table_at(core.refs, slot);
        if ((r->flags & REF_SOUGHT) != 0)
            end_seek(r, NULL);
    }
}

/* Its owner knows better, or will. */
static void ask_owner(struct record *r, const struct wire_stored *s)
{
    struct ref_extra *x = r->extra;
    struct wire_want w = {.word = x->owner_word,
                          .node = s->node,
                          .attempt = s->key.attempt,
                          .is_lost = 1};

    r->held++;
    ref_table_lose(core.refs, r);
    x->wanted = 1;
    if (borrow_is_dead(core.borrow, x->owner))
        refs_set_lost(r->slot, CORE_EOWNER);
    else
        refs_send(x->owner, WIRE_WANT, &w, sizeof w);
    ref_table_unhold(core.refs, r);
}

void remake_end_lost(struct record *r)
{
    struct wire_stored s = refs_stored(r, NODE_UNKNOWN);

    ASSERT(r->u.stored.n_views == 0 && r->u.stored.pin == REF_NO_PIN);
    pull_end_record(&s.key, record_word(r));
    if ((r->flags & REF_BORROWED) != 0) {
        ask_owner(r, &s);
        return;
    }
    objects_free(&s);
    make_again(r, s.node);
}

/* As remake_lost, of r alone. */
static bool lose(struct record *r, uint16_t attempt, uint32_t node)
{
    const struct ref_stored *s = &r->u.stored;

    if (r->state != REF_READY || (r->flags & (REF_STORED | REF_FREED | REF_LOST)) != REF_STORED
        || s->attempt != attempt || s->node != node)
        return true;
    if (!refs_is_elsewhere(s) || ((r->flags & REF_BORROWED) != 0 && s->pin != REF_NO_PIN))
        return false;
    if ((r->flags & REF_BORROWED) == 0 && promote(r))
        return true;
    if (r->state != REF_READY || (r->flags & (REF_STORED | REF_FREED | REF_LOST)) != REF_STORED)
        return true; /* while it waited */
    r->flags |= REF_LOST;
    core.has_lost = true;
    if ((r->flags & REF_BORROWED) == 0 && core.raylet->link != NULL)
        seek(r);
    else if (s->n_views == 0)
        remake_end_lost(r);
    return true;
}

bool remake_lost(struct record *r, uint16_t attempt, uint32_t node)
{
    const bool was_sought = (r->flags & REF_SOUGHT) != 0;

    if (!lose(r, attempt, node))
        return false;
    /* the same node had the task's other returns: one run is to make all that nobody has */
    for (unsigned i = 0; !was_sought && (r->flags & REF_SOUGHT) != 0; i++) {
        const struct lineage *l = r->extra != NULL ? r->extra->lineage : NULL;
        if (l == NULL || i >= l->of.n_returns)
            break;
        if (l->returns[i] != 0 && l->returns[i] != r->slot)
            lose(ref_table_at(core.refs, l->returns[i]), attempt, node);
    }
    return true;
}
