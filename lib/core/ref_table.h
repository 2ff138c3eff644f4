/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_REF_TABLE_H
#define LIB_CORE_REF_TABLE_H
/*
 * The refs of this process, its own and those it borrows: one 128-byte record each (DESIGN D1). A
 * ref's word is generation << 32 | slot; a slot that is used again has another generation, so a
 * stale word is found out. The first return of a task is also the task's record while it is
 * pending; value and task share their bytes, since one follows the other. Records never move. Pure:
 * under the caller's lock; freed records, specs and values are kept in free lists, so warm work
 * allocates nothing.
 *
 * A value may contain refs: its record holds each once, so that they live as long as it does. A
 * record ends when it is ready and has neither handles nor holds; then what it held is let go, one
 * after the other (no recursion: chains may be long), and the owner of the table is told of what it
 * must undo outside (free store memory, end a borrow).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REF_INLINE_MAX 56 /* longest value that stays in its record */

enum ref_state {
    REF_FREE,
    REF_PENDING, /* a task will make it */
    REF_READY,   /* has its value; an error is a value too */
    REF_EMPTY,   /* nobody has it any more; what others need it for may have to be made again */
};

struct submit_lease;

#define REF_SPEC_IS_REF UINT32_MAX /* size of an argument in a spec that is a slot */

/* A task while it is pending; of the first return's record. */
struct task {
    struct record *next;        /* in its class's queue */
    uint8_t *spec;              /* packed arguments: pool block of spec_size bytes */
    struct submit_lease *lease; /* pushed there, or NULL */
    uint32_t spec_size;
    uint32_t n_deps;      /* arguments that are refs not yet ready */
    int32_t retries_left; /* -1: for ever */
    uint16_t n_args, attempt;
    uint16_t n_ref_args;
    uint8_t window_slot;
    uint8_t near_log2;  /* of the bytes of its arguments there */
    uint32_t error;     /* slot of the first argument that is an error; 0: none */
    uint32_t ref_bytes; /* of the values of arguments that are refs */
    uint32_t node;      /* another one, which has most bytes of its arguments in its store; or 0 */
};

enum ref_flag {
    REF_HIDDEN = 1,    /* the record of a task without returns: no ref */
    REF_STORED = 2,    /* the value is in the object store: u.stored */
    REF_BORROWED = 4,  /* owned by another process: extra->owner */
    REF_SHOWN = 8,     /* its place or word went to another process */
    REF_FREED = 16,    /* by the program, before its time: the value is an error */
    REF_DYING = 32,    /* on its way to the free list */
    REF_ARGUMENT = 64, /* inside an argument of the body that runs here */
    REF_MARKED = 128,  /* seen by whoever looks through many of them, under one lock */
    REF_CAME = 256, /* a copy of it has come here, or cannot: not asked for again while waiting */
    REF_LOST = 512, /* READY, but nobody has the bytes any more: pending when its last view ends */
    REF_SOUGHT =
        1024, /* LOST, but maybe another node has them: held and viewed until that is known */
};

/* Of a value in a store: can it be made again? */
enum ref_origin {
    REF_FROM_PUT,   /* no: the program wrote it */
    REF_FROM_TASK,  /* by running its task: extra->lineage */
    REF_NO_RETRIES, /* no: its task may not run again */
    REF_RETRIED,    /* no: nor may this one, it has */
    REF_EVICTED,    /* no: there was no room for what its task needs */
    REF_LET_GO,     /* no: it was borrowed, or inline with refs inside; and EMPTY */
};

/* A value in the object store of this node or another. */
struct ref_stored {
    uint64_t place, offset, size;
    uint32_t n_refs;
    int32_t pin;      /* of this process: slot, REF_PIN_HELD at the raylet, or REF_NO_PIN */
    uint32_t n_views; /* values got of it that are still read */
    uint32_t node;    /* number of the one whose store has it */
    uint64_t copy; /* of another's: place of a copy in ours, which may be gone unless pinned; 0 */
    uint16_t attempt; /* of the task, that made it */
    uint8_t origin;   /* enum ref_origin */
};
_Static_assert(sizeof(struct ref_stored) <= REF_INLINE_MAX, "it grows no record");
#define REF_NO_PIN   (-1)
#define REF_PIN_HELD (-2)

struct ref_borrower {
    uint32_t process;
};

struct lineage;

/* What few records need. A pool block. */
struct ref_extra {
    uint32_t *inner; /* slots of the refs inside the value, each held once; a pool block */
    uint32_t n_inner;
    /* owned: who borrows it, each with one hold; a pool block */
    uint32_t n_borrowers, borrower_room;
    uint32_t n_lineage; /* tasks that would need it to run again (lineage.h) */
    struct ref_borrower *borrowers;
    struct lineage *lineage; /* of a task's return: what makes it again; of a run's record: its */
    /* borrowed */
    uint32_t owner;     /* process number */
    uint8_t registered; /* the owner was told of us */
    uint8_t wanted;     /* and asked for the value */
    uint8_t gone;       /* it has answered that it does not count us */
    uint64_t owner_word;
    uint32_t next; /* slot: in the hash of borrowed records */
};

struct record {
    uint32_t generation;
    uint32_t count; /* handles of the program; at 0 its words are stale */
    uint32_t held;  /* pending tasks, getters, views, values that contain it, borrowers */
    uint32_t class; /* of the task */
    uint32_t slot;
    uint32_t next_return; /* slot of the task's next return, or 0 */
    uint32_t first;       /* slot of the task's first return: itself for most */
    union {
        uint32_t size;  /* of an inline value */
        uint32_t since; /* of a task: ref_since of when it was submitted, or had its arguments */
    };
    uint8_t state;      /* enum ref_state */
    uint8_t meta;       /* enum wire_meta of the value */
    uint16_t n_returns; /* of the task, 0 for one without; in others than the first, and in
                           borrowed ones: this one's place, from 1 */
    uint16_t template;
    uint16_t flags;          /* enum ref_flag */
    void *waiters;           /* the core's: whom to tell when it is ready */
    uint64_t counter;        /* ObjectID = (process, counter, index) */
    const char *site;        /* "file.c:12" that made it, or NULL; not ours */
    struct ref_extra *extra; /* or NULL */
    union {
        struct task task;
        struct ref_stored stored;      /* value, REF_STORED */
        uint8_t bytes[REF_INLINE_MAX]; /* value, size <= REF_INLINE_MAX */
        uint8_t *block;                /* else: a pool block */
    } u;
};
_Static_assert(sizeof(struct record) == 128, "one record is two cache lines");

/* A time that fits into a record, in 8 ms; it wraps after a year. */
static inline uint32_t ref_since(uint64_t now_ns)
{
    return (uint32_t)(now_ns >> 23);
}

static inline uint64_t ref_since_ms(uint32_t since, uint64_t now_ns)
{
    return ((uint64_t)(ref_since(now_ns) - since) << 23) / 1000000u;
}

/* The index of ObjectID. */
static inline uint32_t record_index(const struct record *r)
{
    return r->first != r->slot || (r->flags & REF_BORROWED) != 0 ? r->n_returns : 1;
}

/* Its value is still to come. */
static inline bool record_is_missing(const struct record *r)
{
    return r->state == REF_PENDING || (r->flags & REF_LOST) != 0;
}

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
/* Told of each record that ends with REF_STORED, REF_BORROWED or lineage, while it is still whole;
 * one that becomes EMPTY ends twice, the second time without a value. It may unhold others. */
typedef void (*ref_table_end_f)(void *arg, struct record *r);
void ref_table_on_end(struct ref_table *t, ref_table_end_f f, void *arg);
/* NULL: stale, or never a ref. */
struct record *ref_table_find(const struct ref_table *t, uint64_t word);
/* As another process names it: also one whose handles are all gone, but that still lives. NULL:
 * stale, or foreign nonsense. */
struct record *ref_table_find_shown(const struct ref_table *t, uint64_t word);
struct record *ref_table_at(const struct ref_table *t, uint32_t slot);
/* Slots are 1 .. ref_table_end - 1; some are free. */
uint32_t ref_table_end(const struct ref_table *t);
/* Its extra, made if it has none; NULL: no memory. */
struct ref_extra *ref_table_extra(struct ref_table *t, struct record *r);
/* The value of r contains these refs, whose holds (one each) become r's. false: no memory, nothing
 * was taken. */
bool ref_table_set_inner(struct ref_table *t, struct record *r, const uint32_t *slots, uint32_t n);
/* One handle (drop) or one hold (unhold) less; with neither left a ready record is freed with its
 * value. A pending one stays until it is ready. */
void ref_table_drop(struct ref_table *t, struct record *r);
void ref_table_unhold(struct ref_table *t, struct record *r);
void ref_table_unhold_all(struct ref_table *t, const uint32_t *slots, uint32_t n);
/* Lineage: somebody would need it to make something again. A value in a store, or with refs inside,
 * goes all the same when nobody holds it: its record is EMPTY then; an inline one stays. false: no
 * memory. */
bool ref_table_keep(struct ref_table *t, struct record *r);
void ref_table_unkeep(struct ref_table *t, struct record *r);
/* A value in a store that is not viewed is lost, or an EMPTY record is needed: pending from now on,
 * and no task's. What had to be undone outside is. */
void ref_table_lose(struct ref_table *t, struct record *r);
/* Each record that the spec of a task holds: as an argument itself, or inside one. */
typedef void (*ref_held_f)(void *arg, struct record *r, bool is_inside);
void ref_table_for_each_held(const struct ref_table *t,
                             const struct task *task,
                             ref_held_f f,
                             void *arg);
/* Pending -> ready with this value, copied; frees it at once if nobody holds it (then false). On no
 * memory the value becomes an error that says so. The task part must have been let go before. */
bool ref_table_set(struct ref_table *t,
                   struct record *r,
                   uint8_t meta,
                   const void *bytes,
                   uint32_t size);
/* The same with a value in the object store. */
bool ref_table_set_stored(struct ref_table *t,
                          struct record *r,
                          uint8_t meta,
                          const struct ref_stored *stored);
/* A ready value is replaced by this one (an error): what it contained is let go. */
void ref_table_replace(struct ref_table *t,
                       struct record *r,
                       uint8_t meta,
                       const void *bytes,
                       uint32_t size);
/* Of an inline value. */
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
