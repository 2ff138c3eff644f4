/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where arena, index, pins, holds and the tables of owners and borrowers disagree. Each rule names
 * what its two sides say; the key of a complaint holds what identifies both, and no count, so that
 * the same disagreement is known again in a later look.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "raylet/memory_view_private.h"

#define TEXT_MAX 512
#define NAME_MAX 64

enum rule {
    RULE_ENTRY_OWNER = 1,
    RULE_ENTRY_RECORD,
    RULE_ENTRY_FITS,
    RULE_ENTRY_TWICE,
    RULE_ENTRY_STUCK,
    RULE_ENTRY_HOLDS,
    RULE_RECORD_ENTRY,
    RULE_USE_PROCESS,
    RULE_USE_PLACE,
    RULE_USE_SAID,
    RULE_BORROWER_DEAD,
    RULE_BORROWER,
    RULE_BORROWS,
    RULE_EXTENT,
    RULE_OVERLAP,
    RULE_SUMS,
    RULE_COUNT,
    RULE_LENT,
};

/* An object that its owner expects of a task. */
struct expected {
    uint32_t owner, index;
    uint64_t counter;
};

struct check {
    const struct memory_view *v;
    struct memory_complaints *out;
    struct memory_table expected; /* sorted */
};

__attribute__((format(printf, 5, 6))) static void complain(const struct check *c,
                                                           enum rule rule,
                                                           uint64_t a,
                                                           uint64_t b,
                                                           const char *fmt,
                                                           ...)
{
    struct memory_complaints *out = c->out;
    char text[TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = (struct memory_complaint){.key = {rule, a, b}, .text = xstrdup(text)};
}

static const char *name_process(const struct memory_view *v, uint32_t number, char out[NAME_MAX])
{
    const struct memory_process *p = memory_find_process(v, number);

    if (p == NULL)
        snprintf(out, NAME_MAX, "process %u, which does not live,", number);
    else
        snprintf(out,
                 NAME_MAX,
                 "%s %u (pid %d)",
                 p->is_driver ? "driver" : "worker",
                 number,
                 p->pid);
    return out;
}

static const char *name_id(const struct object_id *id, char out[ID_HEX_MAX])
{
    return id_hex(id->bytes, sizeof id->bytes, out);
}

static const char *name_entry(const struct check *c,
                              const struct memory_entry *e,
                              char out[ID_HEX_MAX])
{
    const struct memory_process *p = memory_find_process(c->v, e->row.owner);
    struct task_id task =
        task_id_make((struct job_id){p != NULL ? p->job : 0}, e->row.owner, e->row.counter);
    struct object_id id = object_id_make(&task, e->row.index);

    return name_id(&id, out);
}

static bool has_answered(const struct memory_view *v, uint32_t number)
{
    const struct memory_process *p = memory_find_process(v, number);

    return p != NULL && p->answer == MEMORY_ANSWERED;
}

static uint64_t who_key(const struct memory_ref *r)
{
    return (uint64_t)r->process->number << 32;
}

/* --- index and owners --- */

static int compare_expected(const void *a, const void *b)
{
    const struct expected *x = a, *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    if (x->counter != y->counter)
        return x->counter < y->counter ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void collect_expected(struct check *c)
{
    for (size_t i = 0; i < c->v->refs.n; i++) {
        const struct memory_ref *r = memory_ref_at(c->v, i);
        if (r->row.status >= WIRE_ROW_READY
            || (r->row.flags & (WIRE_ROW_BORROWED | WIRE_ROW_HIDDEN)) != 0)
            continue;
        struct expected *e = memory_add(&c->expected, sizeof *e);
        *e = (struct expected){.owner = r->owner_number,
                               .index = r->row.index,
                               .counter = r->row.counter};
    }
    if (c->expected.n > 0)
        qsort(c->expected.v, c->expected.n, sizeof(struct expected), compare_expected);
}

/* Its worker has sealed it, and the word of that is on its way, or the worker is stopped. */
static bool is_expected(const struct check *c, const struct wire_books_entry *x)
{
    struct expected key = {.owner = x->owner, .index = x->index, .counter = x->counter};

    return c->expected.n > 0
           && bsearch(&key, c->expected.v, c->expected.n, sizeof key, compare_expected) != NULL;
}

static void check_fit(const struct check *c, const struct memory_entry *e)
{
    const struct memory_ref *r = memory_ref_at(c->v, e->ref - 1);
    const struct wire_books_entry *x = &e->row;
    char id[ID_HEX_MAX], who[NAME_MAX];

    if (r->row.size == x->size && r->row.offset == x->offset && r->row.n_refs == x->n_refs
        && r->row.counter == x->counter && r->row.index == x->index
        && r->process->number == x->owner)
        return;
    complain(c,
             RULE_ENTRY_FITS,
             x->place,
             0,
             "object %s: the store has %" PRIu64 " bytes and %u refs at %" PRIu64
             ", %s says %" PRIu64 " bytes and %u refs at %" PRIu64,
             name_entry(c, e, id),
             x->size,
             x->n_refs,
             x->offset,
             name_process(c->v, r->process->number, who),
             r->row.size,
             r->row.n_refs,
             r->row.offset);
}

static void check_sealed(const struct check *c, const struct memory_entry *e)
{
    const struct wire_books_entry *x = &e->row;
    char id[ID_HEX_MAX], who[NAME_MAX];

    if (memory_find_process(c->v, x->owner) == NULL)
        complain(c,
                 RULE_ENTRY_OWNER,
                 x->place,
                 0,
                 "object %s: the store keeps %" PRIu64 " bytes at %" PRIu64 " for %s and nobody "
                 "will free them",
                 name_entry(c, e, id),
                 x->size,
                 x->offset,
                 name_process(c->v, x->owner, who));
    else if (e->ref > 0)
        check_fit(c, e);
    else if (x->is_copy == 0 && has_answered(c->v, x->owner) && !is_expected(c, x))
        complain(c,
                 RULE_ENTRY_RECORD,
                 x->place,
                 0,
                 "object %s: the store keeps %" PRIu64 " bytes at %" PRIu64 " for %s, which has no "
                 "record of it",
                 name_entry(c, e, id),
                 x->size,
                 x->offset,
                 name_process(c->v, x->owner, who));
    if (x->n_blocks * (uint64_t)STORE_BLOCK < x->size)
        complain(c,
                 RULE_EXTENT,
                 x->place,
                 1,
                 "object %s: %" PRIu64 " bytes in %u blocks of the store",
                 name_entry(c, e, id),
                 x->size,
                 x->n_blocks);
}

static void check_entries(const struct check *c)
{
    char id[ID_HEX_MAX], who[NAME_MAX];

    for (size_t i = 0; i < c->v->entries.n; i++) {
        const struct memory_entry *e = memory_entry_at(c->v, i);
        const struct wire_books_entry *x = &e->row;
        if (x->state == STORE_ENTRY_SEALED)
            check_sealed(c, e);
        else if (x->state == STORE_ENTRY_LENT && memory_find_process(c->v, x->owner) == NULL)
            complain(c,
                     RULE_LENT,
                     x->place,
                     0,
                     "the store's entry %u is lent to %s and nobody will return it",
                     store_place_entry(x->place),
                     name_process(c->v, x->owner, who));
        else if (x->state == STORE_ENTRY_FREEING && e->n_pins + x->n_holds == 0)
            complain(c,
                     RULE_ENTRY_STUCK,
                     x->place,
                     0,
                     "the store waits for readers of its entry %u before it frees it, and nobody "
                     "reads it",
                     store_place_entry(x->place));
        if (e->n_holds != x->n_holds)
            complain(c,
                     RULE_ENTRY_HOLDS,
                     x->place,
                     0,
                     "object %s: the store counts %u holds in all and %u by process",
                     name_entry(c, e, id),
                     x->n_holds,
                     e->n_holds);
    }
}

static const char *state_name(const struct memory_entry *e)
{
    switch (e != NULL ? (enum store_state)e->row.state : STORE_ENTRY_FREE) {
    case STORE_ENTRY_LENT:
        return "only lent for writing";
    case STORE_ENTRY_SEALED:
        return "another one";
    case STORE_ENTRY_FREEING:
        return "being freed";
    case STORE_ENTRY_FREE:
        break;
    }
    return "none";
}

/* --- records and the index --- */

static void check_stored(const struct check *c, const struct memory_ref *r, uint32_t number)
{
    const struct memory_entry *e = r->entry;
    char id[ID_HEX_MAX], who[NAME_MAX];

    name_id(&r->id, id);
    name_process(c->v, r->process->number, who);
    if (e == NULL || e->row.state != STORE_ENTRY_SEALED)
        complain(c,
                 RULE_RECORD_ENTRY,
                 r->row.place,
                 who_key(r),
                 "object %s: %s owns it in the store at %" PRIu64
                 ", where the store's object is %s",
                 id,
                 who,
                 r->row.offset,
                 state_name(e));
    else if (e->ref != number)
        complain(c,
                 RULE_ENTRY_TWICE,
                 r->row.place,
                 who_key(r),
                 "object %s: two records of %s are of the same place in the store",
                 id,
                 who);
}

/* What was named of holds may not be more than there are. Rows of one moment only. */
static void check_count(const struct check *c, const struct memory_ref *r)
{
    uint64_t named = (uint64_t)r->n_captured + r->n_tasks + r->n_replies + r->n_body
                     + r->n_borrowers + r->n_leaving + r->row.n_views;
    char id[ID_HEX_MAX], who[NAME_MAX];

    if (!r->process->is_whole || named <= r->row.held)
        return;
    complain(c,
             RULE_COUNT,
             who_key(r),
             r->row.word,
             "object %s: %s counts %u holds and names %" PRIu64
             " (%u objects, %u tasks, %u results, %u of the body, %u borrowers, %u views)",
             name_id(&r->id, id),
             name_process(c->v, r->process->number, who),
             r->row.held,
             named,
             r->n_captured,
             r->n_tasks,
             r->n_replies,
             r->n_body,
             r->n_borrowers + r->n_leaving,
             r->row.n_views);
}

/* --- borrowers --- */

/* What a process borrows, to be found by owner and word. */
struct borrow_key {
    uint32_t process, owner;
    uint64_t word;
    bool is_registered;
};

static int compare_keys(const void *a, const void *b)
{
    const struct borrow_key *x = a, *y = b;

    if (x->process != y->process)
        return x->process < y->process ? -1 : 1;
    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->word < y->word ? -1 : x->word > y->word;
}

static struct borrow_key *collect_borrowed(const struct memory_view *v, size_t *n)
{
    struct memory_table t = {0};

    for (size_t i = 0; i < v->refs.n; i++) {
        const struct memory_ref *r = memory_ref_at(v, i);
        if ((r->row.flags & WIRE_ROW_BORROWED) == 0)
            continue;
        struct borrow_key *k = memory_add(&t, sizeof *k);
        *k = (struct borrow_key){.process = r->process->number,
                                 .owner = r->owner_number,
                                 .word = r->row.owner_word,
                                 .is_registered = (r->row.flags & WIRE_ROW_REGISTERED) != 0};
    }
    if (t.n > 0)
        qsort(t.v, t.n, sizeof(struct borrow_key), compare_keys);
    *n = t.n;
    return t.v;
}

/* An owner names a borrower: does that one borrow it? */
static void check_borrower(const struct check *c,
                           const struct memory_item *m,
                           const struct borrow_key *keys,
                           size_t n)
{
    const struct memory_ref *r = memory_ref_at(c->v, m->ref - 1);
    const struct memory_process *p = memory_find_process(c->v, m->number);
    struct borrow_key key = {.process = m->number,
                             .owner = r->process->number,
                             .word = r->row.word};
    char id[ID_HEX_MAX], who[NAME_MAX], borrower[NAME_MAX];

    if (r->process->answer != MEMORY_ANSWERED || (p == NULL && m->kind == WIRE_ITEM_LEAVING)
        || (p != NULL && p->answer != MEMORY_ANSWERED))
        return;
    name_id(&r->id, id);
    name_process(c->v, r->process->number, who);
    name_process(c->v, m->number, borrower);
    if (p == NULL) {
        complain(c,
                 RULE_BORROWER_DEAD,
                 who_key(r) | m->number,
                 r->row.word,
                 "object %s: %s keeps it for %s without an end",
                 id,
                 who,
                 borrower);
        return;
    }
    const struct borrow_key *k = n > 0 ? bsearch(&key, keys, n, sizeof key, compare_keys) : NULL;
    if (k == NULL || !k->is_registered)
        complain(c,
                 RULE_BORROWER,
                 who_key(r) | m->number,
                 r->row.word,
                 "object %s: %s keeps it for %s, which %s",
                 id,
                 who,
                 borrower,
                 k == NULL ? "does not have it" : "has not asked for that");
}

/* A process borrows: does the owner name it? */
static void check_borrowed(const struct check *c, const struct memory_ref *r)
{
    const struct memory_ref *o =
        memory_find_ref(c->v, r->owner_number, (uint32_t)r->row.owner_word);
    char id[ID_HEX_MAX], who[NAME_MAX], owner[NAME_MAX];
    bool is_there =
        o != NULL && o->row.word == r->row.owner_word && (o->row.flags & WIRE_ROW_BORROWED) == 0;

    if ((r->row.flags & WIRE_ROW_REGISTERED) == 0 || r->row.status == WIRE_ROW_FAILED
        || !has_answered(c->v, r->owner_number))
        return;
    for (size_t at = 0; is_there;) {
        uint32_t b = memory_view_next_borrower(c->v, o, &at);
        if (b == r->process->number)
            return;
        if (b == 0)
            break;
    }
    complain(c,
             RULE_BORROWS,
             who_key(r) | r->owner_number,
             r->row.owner_word,
             "object %s: %s borrows it of %s, which %s",
             name_id(&r->id, id),
             name_process(c->v, r->process->number, who),
             name_process(c->v, r->owner_number, owner),
             is_there ? "does not keep it for that one" : "does not have it");
}

static void check_refs(const struct check *c)
{
    const struct memory_item *items = c->v->borrowers.v;
    size_t n = 0;
    struct borrow_key *keys = collect_borrowed(c->v, &n);

    for (size_t i = 0; i < c->v->borrowers.n; i++)
        check_borrower(c, &items[i], keys, n);
    free(keys);
    for (size_t i = 0; i < c->v->refs.n; i++) {
        const struct memory_ref *r = memory_ref_at(c->v, i);
        if (r->process->answer != MEMORY_ANSWERED || r->row.word == 0)
            continue;
        check_count(c, r);
        if ((r->row.flags & WIRE_ROW_BORROWED) != 0)
            check_borrowed(c, r);
        else if ((r->row.flags & WIRE_ROW_STORED) != 0)
            check_stored(c, r, (uint32_t)i + 1);
    }
}

/* --- pins and holds --- */

static void check_uses(const struct check *c)
{
    const struct memory_use *uses = c->v->uses.v;
    char id[ID_HEX_MAX], who[NAME_MAX];

    for (size_t i = 0; i < c->v->uses.n; i++) {
        const struct memory_use *u = &uses[i];
        const struct memory_entry *e = memory_find_entry(c->v, u->place);
        uint64_t key = (uint64_t)u->process << 32;
        if (e != NULL)
            name_entry(c, e, id);
        name_process(c->v, u->process, who);
        if (u->n_pins + u->n_holds > 0 && memory_find_process(c->v, u->process) == NULL)
            complain(c,
                     RULE_USE_PROCESS,
                     u->place,
                     key,
                     "the store has %u pins and %u holds of %s",
                     u->n_pins,
                     u->n_holds,
                     who);
        else if (e == NULL)
            complain(c,
                     RULE_USE_PLACE,
                     u->place,
                     key,
                     "%s has %u pins and %u holds of entry %u of the store, generation %u, which "
                     "is not there",
                     who,
                     u->n_pins > 0 ? u->n_pins : u->said_pins,
                     u->n_holds > 0 ? u->n_holds : u->said_holds,
                     store_place_entry(u->place),
                     store_place_generation(u->place));
        else if (has_answered(c->v, u->process)
                 && (u->n_pins != u->said_pins || u->n_holds != u->said_holds))
            complain(c,
                     RULE_USE_SAID,
                     u->place,
                     key,
                     "object %s: the store sees %u pins and %u holds of %s, which knows of %u and "
                     "%u",
                     id,
                     u->n_pins,
                     u->n_holds,
                     who,
                     u->said_pins,
                     u->said_holds);
    }
}

/* --- the arena --- */

static int compare_extents(const void *a, const void *b)
{
    const struct memory_extent *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static const char *name_extent(const struct check *c, const struct memory_extent *x, char *out)
{
    char who[NAME_MAX];

    if (x->place != 0)
        snprintf(out,
                 2 * NAME_MAX,
                 "%" PRIu64 " bytes at %" PRIu64 " of entry %u",
                 x->size,
                 x->offset,
                 store_place_entry(x->place));
    else
        snprintf(out,
                 2 * NAME_MAX,
                 "%" PRIu64 " bytes at %" PRIu64 " lent to %s",
                 x->size,
                 x->offset,
                 name_process(c->v, x->process, who));
    return out;
}

static void check_arena(const struct check *c)
{
    const struct wire_books *b = &c->v->books;
    struct memory_extent *x = c->v->extents.v;
    uint64_t used = 0, lent = b->buried;
    char one[2 * NAME_MAX], other[2 * NAME_MAX];

    if (c->v->extents.n > 0)
        qsort(x, c->v->extents.n, sizeof *x, compare_extents);
    for (size_t i = 0; i < c->v->extents.n; i++) {
        used += x[i].place != 0 ? x[i].size : 0;
        lent += x[i].place == 0 ? x[i].size : 0;
        if (!x[i].is_allocated || x[i].size > b->capacity || x[i].offset > b->capacity - x[i].size)
            complain(c,
                     RULE_EXTENT,
                     x[i].offset,
                     x[i].place,
                     "%s are %s",
                     name_extent(c, &x[i], one),
                     x[i].is_allocated ? "beyond the arena's end" : "free in the arena's books");
        if (x[i].place == 0 && memory_find_process(c->v, x[i].process) == NULL)
            complain(c,
                     RULE_LENT,
                     x[i].offset,
                     x[i].process,
                     "%s will never come back",
                     name_extent(c, &x[i], one));
        if (i > 0 && x[i - 1].offset + x[i - 1].size > x[i].offset)
            complain(c,
                     RULE_OVERLAP,
                     x[i].offset,
                     x[i].place,
                     "%s overlap %s",
                     name_extent(c, &x[i], one),
                     name_extent(c, &x[i - 1], other));
    }
    if (used != b->used || lent != b->lent || b->used + b->lent + b->free != b->capacity)
        complain(c,
                 RULE_SUMS,
                 0,
                 0,
                 "the store counts %" PRIu64 " bytes used, %" PRIu64 " lent and %" PRIu64
                 " free of %" PRIu64 "; its objects have %" PRIu64 ", what is lent is %" PRIu64,
                 b->used,
                 b->lent,
                 b->free,
                 b->capacity,
                 used,
                 lent);
}

void memory_check(const struct memory_view *v, struct memory_complaints *out)
{
    struct check c = {.v = v, .out = out};

    collect_expected(&c);
    check_entries(&c);
    free(c.expected.v);
    check_refs(&c);
    check_uses(&c);
    check_arena(&c);
}

/* --- several looks --- */

static int compare_complaints(const void *a, const void *b)
{
    const struct memory_complaint *x = a, *y = b;

    return memcmp(x->key, y->key, sizeof x->key);
}

void memory_complaints_keep(struct memory_complaints *all, struct memory_complaints *now)
{
    size_t n = 0;

    if (now->n > 0)
        qsort(now->v, now->n, sizeof *now->v, compare_complaints);
    for (size_t i = 0; i < all->n; i++) {
        if (now->n > 0
            && bsearch(&all->v[i], now->v, now->n, sizeof *now->v, compare_complaints) != NULL)
            all->v[n++] = all->v[i];
        else
            free(all->v[i].text);
    }
    all->n = n;
}

void memory_complaints_fini(struct memory_complaints *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->v[i].text);
    free(c->v);
    *c = (struct memory_complaints){0};
}
