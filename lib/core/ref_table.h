/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_REF_TABLE_H
#define LIB_CORE_REF_TABLE_H
/*
 * The refs this process owns: one 128-byte record each (DESIGN D1). A ref's word is generation <<
 * 32 | slot; a slot that is used again has another generation, so a stale word is found out. The
 * first return of a task is also the task's record while it is pending; value and task share their
 * bytes, since one follows the other. Records never move. Pure: under the caller's lock; freed
 * records, specs and values are kept in free lists, so warm work allocates nothing.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REF_INLINE_MAX 80 /* longest value that stays in its record */

enum ref_state {
    REF_FREE,
    REF_PENDING, /* a task will make it */
    REF_READY,   /* has its value; an error is a value too */
};

struct submit_lease;

/* A task while it is pending; of the first return's record. */
struct task {
    struct record *next;        /* in its class's queue */
    uint8_t *spec;              /* packed arguments: pool block of spec_size bytes */
    struct submit_lease *lease; /* pushed there, or NULL */
    uint64_t counter;           /* TaskID = (process, counter) */
    uint32_t spec_size;
    uint32_t n_deps;      /* arguments that are refs not yet ready */
    int32_t retries_left; /* -1: for ever */
    uint16_t n_args, attempt;
    uint16_t n_ref_args;
    uint8_t window_slot;
    uint8_t spare;
    uint32_t error;     /* slot of the first argument that is an error; 0: none */
    uint32_t ref_bytes; /* of the values of arguments that are refs */
};

struct record {
    uint32_t generation;
    uint32_t count; /* handles of the program; at 0 its words are stale */
    uint32_t held;  /* pending tasks that take it as argument, getters that look at it */
    uint32_t class; /* of the task */
    uint32_t slot;
    uint32_t next_return; /* slot of the task's next return, or 0 */
    uint32_t first;       /* slot of the task's first return: itself for most */
    uint32_t size;        /* of the value */
    uint8_t state;        /* enum ref_state */
    uint8_t meta;         /* enum wire_meta of the value */
    uint16_t n_returns;   /* of the task, 0 for one without; in the first record */
    uint16_t template;
    uint16_t hidden; /* 1: the record of a task without returns */
    void *waiters;   /* the core's: whom to tell when it is ready */
    union {
        struct task task;
        uint8_t bytes[REF_INLINE_MAX]; /* value, size <= REF_INLINE_MAX */
        uint8_t *block;                /* else: a pool block */
    } u;
};
_Static_assert(sizeof(struct record) == 128, "one record is two cache lines");

struct ref_table;

/* NULL when memory is out. */
struct ref_table *ref_table_create(void);
void ref_table_destroy(struct ref_table *t);

static inline uint64_t record_word(const struct record *r)
{
    return (uint64_t)r->generation << 32 | r->slot;
}

/* A pending record with count 1, everything else zero; NULL when memory is out. */
struct record *ref_table_new(struct ref_table *t);
/* NULL: stale, or never a ref. */
struct record *ref_table_find(const struct ref_table *t, uint64_t word);
struct record *ref_table_at(const struct ref_table *t, uint32_t slot);
/* One handle (drop) or one hold (unhold) less; with neither left a ready record is freed with its
 * value. A pending one stays until it is ready. */
void ref_table_drop(struct ref_table *t, struct record *r);
void ref_table_unhold(struct ref_table *t, struct record *r);
/* Pending -> ready with this value, copied; frees it at once if nobody holds it (then false). On no
 * memory the value becomes an error that says so. The task part must have been let go before. */
bool ref_table_set(struct ref_table *t,
                   struct record *r,
                   uint8_t meta,
                   const void *bytes,
                   uint32_t size);
const void *record_value(const struct record *r);

/* Blocks from free lists of powers of two; size must be given back. NULL when memory is out. */
void *ref_table_alloc(struct ref_table *t, size_t size);
void ref_table_free(struct ref_table *t, void *block, size_t size);

struct ref_table_stats {
    size_t n_live;         /* records that are not free */
    size_t value_bytes;    /* of ready values, those in records included */
    size_t block_bytes;    /* handed out as blocks, rounded up to their size class */
    size_t reserved_bytes; /* taken from malloc and kept */
};

size_t ref_table_live(const struct ref_table *t);
void ref_table_get_stats(const struct ref_table *t, struct ref_table_stats *out);
/* Counts the records by state against the table's own count; asserts. */
void ref_table_selfcheck(const struct ref_table *t);

#endif /* LIB_CORE_REF_TABLE_H */
