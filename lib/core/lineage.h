/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_LINEAGE_H
#define LIB_CORE_LINEAGE_H
/*
 * How the results of finished tasks can be made again: of each task with a return in a store, and
 * retries left, what it needs to run once more, its *lineage*. It lives as long as one of those
 * returns, and is a task again while it runs. Its arguments are not held but kept (ref_table_keep).
 * Over a bound of bytes the oldest go, down to half of it. Pure: under the caller's lock; blocks
 * are the table's, so warm work allocates nothing.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/list.h"
#include "lib/core/ref_table.h"

/* A task that is done, or one that runs again. */
struct lineage_task {
    struct task task;
    uint64_t counter;
    uint32_t class;
    uint16_t template, n_returns;
};

/* Owned by its lineages; gone when it has neither returns nor a run. */
struct lineage {
    struct list node; /* by age */
    struct lineage_task of;
    size_t bytes;
    uint32_t n_users;     /* returns, and 1 while it runs */
    uint32_t run;         /* slot of the record of the task that runs; 0: none does */
    struct lineage *next; /* the caller's */
    uint32_t returns[];   /* slot of each that it can make again, or 0 */
};

struct lineages;

struct lineages *lineages_create(struct ref_table *refs, uint64_t max_bytes);
/* Before the table. NULL is fine. */
void lineages_destroy(struct lineages *ls);

/* Return i of this task, ready and in a store, can be made again. *l is NULL for the first of them.
 * false: no memory, and nothing has changed. */
bool lineage_add(struct lineages *ls,
                 struct lineage **l,
                 const struct lineage_task *of,
                 unsigned i,
                 struct record *r);
/* All its returns are added: the task's spec is its own from here on, and what the spec held is
 * kept instead. May end lineages, this one too. */
void lineage_keep(struct lineages *ls, struct lineage *l);
/* That return ends, or is in no store any more; l may be gone. */
void lineage_remove(struct lineages *ls, struct record *r);
/* Begins another attempt, which costs a retry: a hidden pending record like a task's that waits,
 * whose arguments are held; those that are EMPTY are the caller's to make again. NULL: no memory.
 * l->run is 0 before. */
struct record *lineage_run(struct lineages *ls, struct lineage *l);
/* The lineage that this record is a run of, or NULL. */
static inline struct lineage *lineage_of_run(const struct record *r)
{
    return (r->flags & REF_HIDDEN) != 0 && r->extra != NULL ? r->extra->lineage : NULL;
}
/* That run is over, and its returns are set: lets go its arguments; l may be gone. The record is no
 * task any more: pending, for the caller to end. */
void lineage_end_run(struct lineages *ls, struct record *run);

struct lineage_stats {
    size_t n;
    uint64_t bytes, n_evicted;
};
void lineages_get_stats(const struct lineages *ls, struct lineage_stats *out);
void lineages_selfcheck(const struct lineages *ls);

#endif /* LIB_CORE_LINEAGE_H */
