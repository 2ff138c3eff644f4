/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define FLUSH_TASKS 32

/* The records of task number core.task_counter, linked; NULL when memory is out. */
static struct record *make_returns(unsigned n, uint64_t *refs_out)
{
    struct record *first = NULL, *last = NULL;

    for (unsigned i = 0; i < (n > 0 ? n : 1); i++) {
        struct record *r = ref_table_new(core.refs);
        if (r != NULL)
            r->site = core_call_site;
        if (r == NULL) {
            for (uint32_t slot = first != NULL ? first->slot : 0; slot != 0;) {
                struct record *x = ref_table_at(core.refs, slot);
                slot = x->next_return;
                ref_table_set(core.refs, x, 0, NULL, 0);
                ref_table_drop(core.refs, x);
            }
            return NULL;
        }
        if (first == NULL)
            first = r;
        else
            last->next_return = r->slot;
        r->first = first->slot;
        r->counter = core.task_counter;
        r->n_returns = (uint16_t)(i + 1);
        last = r;
        if (n > 0)
            refs_out[i] = record_word(r);
    }
    if (n == 0) {
        first->flags |= REF_HIDDEN;
        first->count = 0;
    }
    first->n_returns = (uint16_t)n;
    return first;
}

bool core_are_refs(const uint64_t *refs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ref_table_find(core.refs, refs[i]) == NULL)
            return false;
    return true;
}

/* n, and the slots of the refs, each held once more: inside an argument they are not waited for. */
static uint8_t *pack_refs(uint8_t *at, const uint64_t *refs, uint32_t n)
{
    memcpy(at, &n, sizeof n);
    at += sizeof n;
    for (uint32_t i = 0; i < n; i++) {
        struct record *r = ref_table_find(core.refs, refs[i]);
        r->held++;
        memcpy(at, &r->slot, sizeof r->slot);
        at += sizeof r->slot;
    }
    return at;
}

void core_await_argument(struct record *task, struct record *r)
{
    struct task *t = &task->u.task;

    if (!record_is_missing(r)) {
        t->ref_bytes += r->size;
        if (r->meta == WIRE_META_ERROR && t->error == 0)
            t->error = r->slot;
        return;
    }
    struct ref_waiter *w = ref_table_alloc(core.refs, sizeof *w);
    if (w == NULL)
        abort();
    w->kind = REF_WAITER_TASK;
    w->u.task = task;
    owner_ref_add_waiter(r, w);
    t->n_deps++;
}

/* Pack args into t's spec; counts the refs. A code. */
static int pack(struct task *t, struct record *task, const struct core_arg *args, unsigned n_args)
{
    size_t size = 0, inline_bytes = 0;

    for (unsigned i = 0; i < n_args; i++) {
        size += sizeof(struct wire_arg) + (args[i].ref != 0 ? sizeof(uint32_t) : args[i].size);
        if (args[i].ref != 0) {
            if (ref_table_find(core.refs, args[i].ref) == NULL)
                return CORE_ESTALE;
        } else if (args[i].n_refs > 0) {
            if (!core_are_refs(args[i].refs, args[i].n_refs))
                return CORE_ESTALE;
            size += sizeof args[i].n_refs + args[i].n_refs * sizeof(uint32_t);
            inline_bytes += args[i].size + args[i].n_refs * sizeof(struct wire_ref);
        } else {
            inline_bytes += args[i].size;
        }
    }
    if (inline_bytes > CORE_ARGS_MAX)
        return CORE_EFULL;
    uint8_t *spec = ref_table_alloc(core.refs, size > 0 ? size : 1);
    if (spec == NULL)
        return CORE_ENOMEM;
    uint8_t *at = spec;
    for (unsigned i = 0; i < n_args; i++) {
        struct wire_arg a = {.size = args[i].size, .meta = args[i].meta};
        if (args[i].ref != 0)
            a.size = REF_SPEC_IS_REF;
        else if (args[i].n_refs > 0)
            a.meta |= WIRE_VALUE_REFS;
        memcpy(at, &a, sizeof a);
        at += sizeof a;
        if (args[i].ref == 0) {
            if (args[i].n_refs > 0) {
                at = pack_refs(at, args[i].refs, args[i].n_refs);
                t->n_ref_args++;
            }
            if (a.size > 0)
                memcpy(at, args[i].bytes, a.size);
            at += a.size;
            continue;
        }
        struct record *r = ref_table_find(core.refs, args[i].ref);
        memcpy(at, &r->slot, sizeof r->slot);
        at += sizeof r->slot;
        r->held++; /* INV-8: before the caller can drop its own */
        t->n_ref_args++;
        core_await_argument(task, r);
    }
    t->spec = spec;
    t->spec_size = (uint32_t)size;
    return CORE_OK;
}

int core_submit(int template, const struct core_arg *args, unsigned n_args, uint64_t *refs_out)
{
    if (core_is_forked())
        return CORE_EFORKED;
    if (n_args > UINT16_MAX)
        return CORE_EARG;
    core_lock();
    if (!core.connected || template <0 || (unsigned)template >= core.n_templates) {
        core_unlock();
        return CORE_EARG;
    }
    const struct template *t = core.templates[template];
    core.task_counter++;
    struct record *first = make_returns(t->n_returns, refs_out);
    int code = first != NULL ? CORE_OK : CORE_ENOMEM;
    if (code == CORE_OK) {
        struct task *task = &first->u.task;
        task->retries_left = t->max_retries;
        task->n_args = (uint16_t)n_args;
        first->template = (uint16_t) template;
        first->class = (uint32_t)t->class;
        code = pack(task, first, args, n_args);
        if (code != CORE_OK) {
            for (uint32_t slot = first->slot; slot != 0;) {
                struct record *r = ref_table_at(core.refs, slot);
                slot = r->next_return;
                if (ref_table_set(core.refs, r, 0, NULL, 0))
                    ref_table_drop(core.refs, r);
            }
        }
    }
    if (code == CORE_OK) {
        if (core.n_pending++ == 0 && first->u.task.n_deps > 0)
            core.lately_ns = clock_now_ns();
        first->since = ref_since(core.lately_ns);
        core.counters.tasks_submitted++;
        if (core.raylet->link == NULL) {
            submit_task(core.submit, first, 0, &core.actions);
            submit_on_raylet_lost(core.submit, &core.actions);
            owner_act();
        } else if (first->u.task.n_deps == 0) {
            core.pushed = NULL;
            owner_locate(&first->u.task);
            bool only_queues =
                first->u.task.node == 0 && submit_only_queues(core.submit, first->class);
            uint64_t now = only_queues ? 0 : clock_now_ns();
            if (!only_queues)
                core.lately_ns = now;
            submit_task(core.submit, first, now, &core.actions);
            owner_act();
            struct peer *p = core.pushed;
            /* Write at once when nothing else is in flight there, else in batches. */
            if (p != NULL && p->link != NULL && (p->in_flight == 1 || p->n_unsent >= FLUSH_TASKS))
                peer_flush(p);
            if (core.raylet->dirty)
                peer_flush(core.raylet);
        }
        poller_need_helper();
    }
    core_unlock();
    return code;
}
