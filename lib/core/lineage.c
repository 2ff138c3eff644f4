/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/lineage.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

struct lineages {
    struct ref_table *refs;
    struct list by_age; /* those that are kept */
    uint64_t bytes, max_bytes, n_evicted;
    size_t n;
};

struct lineages *lineages_create(struct ref_table *refs, uint64_t max_bytes)
{
    struct lineages *ls = xcalloc(1, sizeof *ls);

    ls->refs = refs;
    ls->max_bytes = max_bytes;
    list_init(&ls->by_age);
    return ls;
}

static size_t block_size(const struct lineage *l)
{
    return sizeof *l + l->of.n_returns * sizeof l->returns[0];
}

static void free_block(struct lineages *ls, struct lineage *l)
{
    ref_table_free(ls->refs, l->of.task.spec, l->of.task.spec_size);
    ref_table_free(ls->refs, l, block_size(l));
}

void lineages_destroy(struct lineages *ls)
{
    if (ls == NULL)
        return;
    list_for_each_safe(n, &ls->by_age)
    {
        struct lineage *l = list_entry(n, struct lineage, node);
        if (l->run != 0)
            ref_table_at(ls->refs, l->run)->u.task.spec = NULL;
        free_block(ls, l);
    }
    free(ls);
}

/* --- what it needs --- */

struct walk {
    struct ref_table *refs;
    uint32_t n, n_left; /* of them that are kept; to undo */
    size_t bytes;
    bool has_no_memory;
};

static void keep(void *arg, struct record *r, bool is_inside)
{
    struct walk *w = arg;

    (void)is_inside;
    w->has_no_memory |= !w->has_no_memory && !ref_table_keep(w->refs, r);
    w->n += !w->has_no_memory;
    w->bytes += r->state == REF_READY ? r->size : 0;
}

static void unkeep(void *arg, struct record *r, bool is_inside)
{
    struct walk *w = arg;

    (void)is_inside;
    if (w->n_left == 0)
        return;
    w->n_left--;
    ref_table_unkeep(w->refs, r);
}

static void hold(void *arg, struct record *r, bool is_inside)
{
    (void)arg;
    (void)is_inside;
    r->held++;
}

static void unhold(void *arg, struct record *r, bool is_inside)
{
    (void)is_inside;
    ref_table_unhold(arg, r);
}

/* --- its life --- */

/* Nothing needs it any more. */
static void end(struct lineages *ls, struct lineage *l)
{
    struct walk w = {.refs = ls->refs, .n_left = UINT32_MAX};

    ls->bytes -= l->bytes;
    ls->n--;
    list_remove(&l->node);
    ref_table_for_each_held(ls->refs, &l->of.task, unkeep, &w); /* which may end others */
    free_block(ls, l);
}

static void drop_user(struct lineages *ls, struct lineage *l)
{
    ASSERT(l->n_users > 0);
    if (--l->n_users == 0 && !list_empty(&l->node))
        end(ls, l);
}

/* Nothing will be made by it again, for that reason. Its last user may go. */
static void retire(struct lineages *ls, struct lineage *l, enum ref_origin why)
{
    l->n_users++;
    for (unsigned i = 0; i < l->of.n_returns; i++) {
        if (l->returns[i] == 0)
            continue;
        struct record *r = ref_table_at(ls->refs, l->returns[i]);
        r->u.stored.origin = (uint8_t)why;
        lineage_remove(ls, r);
    }
    drop_user(ls, l);
}

bool lineage_add(struct lineages *ls,
                 struct lineage **l,
                 const struct lineage_task *of,
                 unsigned i,
                 struct record *r)
{
    struct ref_extra *x = ref_table_extra(ls->refs, r);

    ASSERT(i < of->n_returns && r->state == REF_READY && (r->flags & REF_STORED) != 0);
    if (x == NULL)
        return false;
    if (*l == NULL) {
        size_t size = sizeof **l + of->n_returns * sizeof(uint32_t);
        *l = ref_table_alloc(ls->refs, size);
        if (*l == NULL)
            return false;
        memset(*l, 0, size);
        (*l)->of = *of;
        list_init(&(*l)->node);
    }
    x->lineage = *l;
    (*l)->returns[i] = r->slot;
    (*l)->n_users++;
    r->u.stored.origin = REF_FROM_TASK;
    return true;
}

/* The oldest that does not run. */
static struct lineage *oldest(const struct lineages *ls)
{
    list_for_each(n, &ls->by_age)
    {
        struct lineage *l = list_entry(n, struct lineage, node);
        if (l->run == 0)
            return l;
    }
    return NULL;
}

static void evict(struct lineages *ls)
{
    struct lineage *l;

    if (ls->bytes <= ls->max_bytes)
        return;
    while (ls->bytes > ls->max_bytes / 2 && (l = oldest(ls)) != NULL) {
        ls->n_evicted++;
        retire(ls, l, REF_EVICTED);
    }
}

void lineage_keep(struct lineages *ls, struct lineage *l)
{
    struct walk w = {.refs = ls->refs};

    list_append(&ls->by_age, &l->node);
    ls->n++;
    l->n_users++;
    ref_table_for_each_held(ls->refs, &l->of.task, keep, &w);
    w.n_left = w.has_no_memory ? w.n : 0;
    ref_table_for_each_held(ls->refs, &l->of.task, unkeep, &w);
    ref_table_for_each_held(ls->refs, &l->of.task, unhold, ls->refs);
    /* a return's record may outlive its value for the sake of others */
    l->bytes = block_size(l) + l->of.task.spec_size + w.bytes
               + l->of.n_returns * (sizeof(struct record) + sizeof(struct ref_extra));
    ls->bytes += l->bytes;
    if (w.has_no_memory) {
        l->of.task.n_ref_args = 0; /* what they were is forgotten */
        retire(ls, l, REF_EVICTED);
    }
    drop_user(ls, l);
    evict(ls);
}

void lineage_remove(struct lineages *ls, struct record *r)
{
    struct lineage *l = r->extra->lineage;
    unsigned i = 0;

    while (l->returns[i] != r->slot)
        i++;
    l->returns[i] = 0;
    r->extra->lineage = NULL;
    drop_user(ls, l);
}

struct record *lineage_run(struct lineages *ls, struct lineage *l)
{
    struct record *r = ref_table_new(ls->refs);
    struct task *t = &l->of.task;

    ASSERT(l->run == 0 && t->retries_left != 0);
    if (r == NULL)
        return NULL;
    r->flags = REF_HIDDEN;
    r->count = 0;
    if (ref_table_extra(ls->refs, r) == NULL) {
        ref_table_set(ls->refs, r, 0, NULL, 0);
        return NULL;
    }
    t->retries_left -= t->retries_left > 0;
    t->attempt++;
    r->extra->lineage = l;
    r->counter = l->of.counter;
    r->class = l->of.class;
    r->template = l->of.template;
    r->u.task = (struct task){.spec = t->spec,
                              .spec_size = t->spec_size,
                              .retries_left = t->retries_left,
                              .n_args = t->n_args,
                              .attempt = t->attempt,
                              .n_ref_args = t->n_ref_args};
    l->run = r->slot;
    l->n_users++;
    ref_table_for_each_held(ls->refs, t, hold, NULL);
    return r;
}

void lineage_end_run(struct lineages *ls, struct record *run)
{
    struct lineage *l = run->extra->lineage;
    struct task *t = &l->of.task;

    t->retries_left = run->u.task.retries_left;
    t->attempt = run->u.task.attempt;
    run->u.task = (struct task){.spec = NULL};
    run->extra->lineage = NULL;
    l->run = 0;
    ref_table_for_each_held(ls->refs, t, unhold, ls->refs);
    if (t->retries_left == 0)
        retire(ls, l, REF_RETRIED);
    drop_user(ls, l);
    evict(ls);
}

void lineages_get_stats(const struct lineages *ls, struct lineage_stats *out)
{
    *out = (struct lineage_stats){.n = ls->n, .bytes = ls->bytes, .n_evicted = ls->n_evicted};
}

static void check_kept(void *arg, struct record *r, bool is_inside)
{
    (void)arg;
    (void)is_inside;
    ASSERT(r->state != REF_FREE && r->extra != NULL && r->extra->n_lineage > 0);
}

void lineages_selfcheck(const struct lineages *ls)
{
    uint64_t bytes = 0;
    size_t n = 0;

    list_for_each(m, &ls->by_age)
    {
        const struct lineage *l = list_entry(m, struct lineage, node);
        uint32_t n_users = l->run != 0;
        for (unsigned i = 0; i < l->of.n_returns; i++) {
            if (l->returns[i] == 0)
                continue;
            const struct record *r = ref_table_at(ls->refs, l->returns[i]);
            ASSERT(r->state != REF_FREE && r->extra->lineage == l);
            n_users++;
        }
        if (l->run != 0)
            ASSERT(lineage_of_run(ref_table_at(ls->refs, l->run)) == l);
        ASSERT(n_users == l->n_users && n_users > 0);
        ref_table_for_each_held(ls->refs, &l->of.task, check_kept, NULL);
        bytes += l->bytes;
        n++;
    }
    ASSERT(bytes == ls->bytes && n == ls->n);
}
