/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must hold. An object is freed by its owner only when no live process has a record of it and
 * no frame brings one (INV-29). At rest: what cannot be reached from a handle is freed; each
 * registered borrow, and nothing else, is in its owner's count; nobody waits for the value of a
 * dead owner's object (INV-33), nor for any value that was asked for; nothing is held for anybody.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "tests/sim/refs/refs.h"

void oracle_says(const char *format, ...)
{
    char why[128];
    va_list ap;

    va_start(ap, format);
    vsnprintf(why, sizeof why, format, ap);
    va_end(ap);
    sim_caught(sim.nodes, why);
}

size_t oracle_new(uint32_t owner)
{
    if (world->n_objects == world->objects_room) {
        world->objects_room = world->objects_room == 0 ? 1024 : 2 * world->objects_room;
        world->objects = xrealloc(world->objects, world->objects_room * sizeof *world->objects);
    }
    world->objects[world->n_objects] = (struct object){.owner = owner};
    return world->n_objects++;
}

static bool reaches(size_t from, size_t to)
{
    struct object *o = &world->objects[from];

    if (from == to)
        return true;
    if (o->visit == world->visit)
        return false;
    o->visit = world->visit;
    for (uint32_t i = 0; i < o->n_inner; i++)
        if (reaches(o->inner[i], to))
            return true;
    return false;
}

bool oracle_reaches(size_t from, size_t to)
{
    world->visit++;
    return reaches(from, to);
}

/* Will the receiver learn what it contains? */
static bool is_awaited(const struct message *f, const struct refs_process *to)
{
    if (f->kind == FRAME_VALUE) {
        const struct record *r = ref_table_at(to->refs, (uint32_t)f->local);
        return record_word(r) == f->local && r->state == REF_PENDING;
    }
    for (size_t i = 0; f->kind == FRAME_DONE && i < to->n_tasks; i++) {
        const struct record *r = ref_table_at(to->refs, to->tasks[i].result);
        if (to->tasks[i].counter == f->counter)
            return r->count + r->held > 0;
    }
    return f->kind == FRAME_PUSH;
}

void oracle_freed(size_t object)
{
    struct object *o = &world->objects[object];

    world->n_freed++;
    if (o->is_freed)
        oracle_says("object %zu is freed twice", object);
    o->is_freed = true;
    if (o->n_records > 0)
        oracle_says("object %zu is freed, but %u live borrowers have it", object, o->n_records);
    for (size_t k = 0; k < world->n_messages; k++) {
        const struct message *f = &world->messages[k];
        const struct refs_process *to = f->is_used && !f->is_lost ? world_find(f->to) : NULL;
        for (uint32_t i = 0; to != NULL && i < f->n_refs; i++)
            if (f->refs[i].object == object && is_awaited(f, to))
                oracle_says("object %zu is freed, but on its way to %u", object, f->to);
    }
}

/* --- at rest --- */

struct place {
    const struct refs_process *p;
    uint32_t slot;
};

static struct {
    struct place *v;
    size_t n, room;
} stack;
static uint8_t *reached[PROCESSES];

static void reach(const struct refs_process *p, uint32_t slot)
{
    if (p == NULL || reached[p->number][slot])
        return;
    reached[p->number][slot] = 1;
    if (stack.n == stack.room) {
        stack.room = stack.room == 0 ? 256 : 2 * stack.room;
        stack.v = xrealloc(stack.v, stack.room * sizeof *stack.v);
    }
    stack.v[stack.n++] = (struct place){p, slot};
}

static void follow(struct place at)
{
    const struct record *r = ref_table_at(at.p->refs, at.slot);
    const struct ref_extra *x = r->extra;

    if (x == NULL)
        return;
    for (uint32_t i = 0; i < x->n_inner; i++)
        reach(at.p, x->inner[i]);
    const struct refs_process *owner = (r->flags & REF_BORROWED) != 0 ? world_find(x->owner) : NULL;
    if (owner == NULL)
        return;
    if (ref_table_find_shown(owner->refs, x->owner_word) == NULL)
        oracle_says("process %u has a ref to nothing at %u", at.p->number, x->owner);
    else
        reach(owner, (uint32_t)x->owner_word);
}

static void check_record(const struct refs_process *p, const struct record *r)
{
    const struct ref_extra *x = r->extra;

    if (!reached[p->number][r->slot])
        oracle_says("object %zu is kept by %u, but nobody can reach it",
                    (size_t)r->counter,
                    p->number);
    if ((r->flags & REF_BORROWED) == 0 || r->state != REF_PENDING)
        return;
    if (world_find(x->owner) == NULL)
        oracle_says("process %u waits for its dead owner %u", p->number, x->owner);
    else if (x->wanted)
        oracle_says("process %u asked %u in vain", p->number, x->owner);
}

static void check_process(const struct refs_process *p)
{
    struct borrow_stats s;

    borrow_selfcheck(p->borrow);
    ref_table_selfcheck(p->refs);
    borrow_get_stats(p->borrow, &s);
    if (s.n_replies + s.n_waiting > 0)
        oracle_says("process %u holds replies or guardians", p->number);
    if (p->n_tasks + p->n_jobs + p->n_dones > 0)
        oracle_says("a task of or in %u never ended", p->number);
    if (borrow_has_news(p->borrow) || borrow_next_deadline(p->borrow) != UINT64_MAX)
        oracle_says("process %u has something to do", p->number);
    if (world->phase == CLOSING && ref_table_live(p->refs) > 0)
        oracle_says("the table of %u is not empty", p->number);
}

void oracle_at_rest(void)
{
    uint64_t n_registered = 0, n_borrowers = 0;

    for (uint32_t k = 0; k < world->n_processes; k++) {
        const struct refs_process *p = world_find(k);
        if (p == NULL)
            continue;
        check_process(p);
        reached[k] = xcalloc(ref_table_end(p->refs), 1);
    }
    for (uint32_t k = 0; k < world->n_processes; k++) {
        const struct refs_process *p = world_find(k);
        for (uint32_t i = 0; p != NULL && i < p->n_handles; i++)
            reach(p, p->handles[i]);
    }
    while (stack.n > 0)
        follow(stack.v[--stack.n]);
    for (uint32_t k = 0; k < world->n_processes; k++) {
        const struct refs_process *p = world_find(k);
        for (uint32_t slot = 1; p != NULL && slot < ref_table_end(p->refs); slot++) {
            const struct record *r = ref_table_at(p->refs, slot);
            if (r->state == REF_FREE)
                continue;
            check_record(p, r);
            if (r->extra != NULL) {
                n_borrowers += r->extra->n_borrowers;
                n_registered +=
                    r->extra->registered && !r->extra->gone && world_find(r->extra->owner) != NULL;
            }
        }
        free(reached[k]);
        reached[k] = NULL;
    }
    if (n_borrowers != n_registered)
        oracle_says("owners count %llu borrowers, there are %llu",
                    (unsigned long long)n_borrowers,
                    (unsigned long long)n_registered);
    free(stack.v);
    stack.v = NULL;
    stack.room = 0;
}
