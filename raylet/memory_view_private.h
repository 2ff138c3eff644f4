/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_MEMORY_VIEW_PRIVATE_H
#define RAYLET_MEMORY_VIEW_PRIVATE_H
/*
 * The view's tables, for memory_view.c and for memory_check.c, which only reads them.
 */
#include "objstore/layout.h"
#include "objstore/word_map.h"
#include "raylet/memory_view.h"

/* What a row was followed by. */
struct memory_item {
    uint32_t kind;   /* enum wire_refs_item_kind */
    uint32_t number; /* slot, or process */
    uint32_t ref;    /* that said so, counted from 1; 0: the process itself */
    uint32_t process;
};
/* What a process has of a place, and what it says that it has: of pins and holds. */
struct memory_use {
    uint32_t process, n_pins, n_holds, said_pins, said_holds;
    uint64_t place;
};
/* Blocks of the arena. */
struct memory_extent {
    uint64_t offset, size, place; /* place 0: lent */
    uint32_t process;             /* lent to */
    bool is_allocated;
};
struct memory_table { /* of any of these */
    void *v;
    size_t n, room;
};

struct memory_view {
    struct wire_books books;
    struct memory_process *processes; /* by number */
    size_t n_processes;
    struct memory_table refs, entries, items, uses, extents, sites; /* sites: char * */
    struct memory_table borrowers;     /* items of those that borrow, by ref */
    struct word_map by_slot, by_place; /* process << 32 | slot, place -> number from 1 */
    struct memory_table shown;         /* uint32_t: refs without those of hidden tasks */
};

static inline struct memory_ref *memory_ref_at(const struct memory_view *v, size_t i)
{
    return (struct memory_ref *)v->refs.v + i;
}
static inline struct memory_entry *memory_entry_at(const struct memory_view *v, size_t i)
{
    return (struct memory_entry *)v->entries.v + i;
}
struct memory_process *memory_find_process(const struct memory_view *v, uint32_t number);
/* The record of that process's table: NULL: there is none. */
struct memory_ref *memory_find_ref(const struct memory_view *v, uint32_t process, uint32_t slot);
struct memory_entry *memory_find_entry(const struct memory_view *v, uint64_t place);
/* In v->borrowers, where those of this ref (from 1) begin. */
size_t memory_first_borrower(const struct memory_view *v, uint32_t ref);
/* Room for one more of size bytes. */
void *memory_add(struct memory_table *t, size_t size);

#endif /* RAYLET_MEMORY_VIEW_PRIVATE_H */
