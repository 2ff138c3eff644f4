/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_MEMORY_VIEW_H
#define RAYLET_MEMORY_VIEW_H
/*
 * What the processes of a session and its raylet say about objects, joined: who refers to what and
 * why, and where two of them disagree. Pure: frames' bodies in (foreign input), rows and sentences
 * out. It lives in the `ray` command, whose memory it fills.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"
#include "lib/net/wire.h"

enum memory_answer {
    MEMORY_SILENT,   /* did not answer (in time, or at all) */
    MEMORY_ANSWERED, /* told all it has */
    MEMORY_GONE,     /* has ended meanwhile */
};
struct memory_process {
    uint32_t number, job;
    int32_t pid;
    bool is_driver, is_whole; /* whole: its table came in one page, so of one moment */
    enum memory_answer answer;
};

/* Why a ref is there: Ray's words; the first that fits. */
enum memory_kind {
    MEMORY_PINNED,   /* its value in the store is being read */
    MEMORY_USED,     /* by a task that has no result yet */
    MEMORY_LOCAL,    /* the program has it */
    MEMORY_CAPTURED, /* only inside another object, or a result on its way */
    MEMORY_BORROWED, /* only other processes have it */
    MEMORY_UNKNOWN,
    MEMORY_N_KINDS,
};

/* A ref of a process. */
struct memory_ref {
    const struct memory_process *process; /* that has it */
    const struct memory_process *owner;   /* NULL: it does not live */
    uint32_t owner_number;
    struct wire_refs_row row; /* word 0: the process did not answer, the store names it the owner */
    enum memory_kind kind;
    uint64_t size;    /* UINT64_MAX: not known yet */
    const char *site; /* "" */
    const char *status;
    struct object_id id;
    uint32_t n_captured, n_tasks, n_replies,
        n_body;                       /* holds: by values, tasks, results, the body */
    uint32_t n_borrowers, n_leaving;  /* by processes, and dead ones */
    uint32_t n_pins, n_holds;         /* of this process in the store */
    const struct memory_entry *entry; /* or NULL */
};

struct memory_entry {
    struct wire_books_entry row;
    uint32_t n_pins, n_holds; /* by all processes */
    uint32_t ref;             /* its owner's, counted from 1; 0: none */
};

struct memory_view;

struct memory_view *memory_view_create(void);
void memory_view_destroy(struct memory_view *v);
/* The raylet's books: first. rows: the memfd's bytes. -1: malformed. */
int memory_view_set_books(struct memory_view *v,
                          const struct wire_books *books,
                          const void *rows,
                          size_t size);
const struct wire_books *memory_view_books(const struct memory_view *v);
size_t memory_view_n_processes(const struct memory_view *v);
struct memory_process *memory_view_process(const struct memory_view *v, size_t i);
/* Pages of a process in order (the body of REFS): *next is the cursor of what follows. -1:
 * malformed, the process counts as silent. */
int memory_view_add_page(struct memory_view *v,
                         struct memory_process *p,
                         const void *body,
                         size_t size,
                         uint64_t *next);
/* All is there: join it. Nothing is added after. */
void memory_view_join(struct memory_view *v);
/* The refs, those of tasks without returns not among them. */
size_t memory_view_n_refs(const struct memory_view *v);
const struct memory_ref *memory_view_ref(const struct memory_view *v, size_t i);
/* Of the store; NULL: there are no more. */
const struct memory_entry *memory_view_entry(const struct memory_view *v, size_t i);
/* The processes that borrow it: the next one's number after *at (0 begins); 0: no more. */
uint32_t memory_view_next_borrower(const struct memory_view *v,
                                   const struct memory_ref *r,
                                   size_t *at);

/* --- where they disagree (memory_check.c) --- */
/* What identifies a disagreement in several looks, since processes move while they are asked; and
 * the sentence, which names both sides. */
struct memory_complaint {
    uint64_t key[3];
    char *text;
};
struct memory_complaints {
    struct memory_complaint *v;
    size_t n, room;
};
/* After the join. Appends. Of processes that did not answer nothing is said. */
void memory_check(const struct memory_view *v, struct memory_complaints *out);
/* Keep of `all` what `now`, which gets another order, says too. */
void memory_complaints_keep(struct memory_complaints *all, struct memory_complaints *now);
void memory_complaints_fini(struct memory_complaints *c);

#endif /* RAYLET_MEMORY_VIEW_H */
