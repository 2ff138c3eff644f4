/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Books and pages become tables as they come; items name slots whose rows may come
 * later, so they are looked up in join(), which counts for each ref who holds it, finds its owner's
 * ref and its entry in the store, and says why it is there. Rows that were told in several pieces
 * become one; a slot that was used again between two pages is what the later page says.
 */
#include "raylet/memory_view.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "raylet/memory_view_private.h"
#include "raylet/refs_page.h"

void *memory_add(struct memory_table *t, size_t size)
{
    if (t->n == t->room) {
        t->room = t->room == 0 ? 64 : 2 * t->room;
        t->v = xrealloc(t->v, t->room * size);
    }
    void *at = (char *)t->v + t->n++ * size;
    memset(at, 0, size);
    return at;
}

struct memory_view *memory_view_create(void)
{
    struct memory_view *v = xcalloc(1, sizeof *v);

    return v;
}

void memory_view_destroy(struct memory_view *v)
{
    if (v == NULL)
        return;
    for (size_t i = 0; i < v->sites.n; i++)
        free(((char **)v->sites.v)[i]);
    free(v->processes);
    free(v->refs.v);
    free(v->entries.v);
    free(v->items.v);
    free(v->uses.v);
    free(v->extents.v);
    free(v->sites.v);
    free(v->borrowers.v);
    free(v->shown.v);
    word_map_fini(&v->by_slot);
    word_map_fini(&v->by_place);
    free(v);
}

/* --- books --- */

static int compare_processes(const void *a, const void *b)
{
    const struct memory_process *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

struct memory_process *memory_find_process(const struct memory_view *v, uint32_t number)
{
    struct memory_process key = {.number = number};

    if (v->n_processes == 0)
        return NULL;
    return bsearch(&key, v->processes, v->n_processes, sizeof key, compare_processes);
}

static void add_processes(struct memory_view *v, const uint8_t *at, uint32_t n)
{
    v->processes = xcalloc(n > 0 ? n : 1, sizeof *v->processes);
    v->n_processes = n;
    for (uint32_t i = 0; i < n; i++) {
        struct wire_books_process w;
        memcpy(&w, at + i * sizeof w, sizeof w);
        v->processes[i] = (struct memory_process){.number = w.process,
                                                  .job = w.job,
                                                  .pid = w.pid,
                                                  .is_driver = w.kind == WIRE_DRIVER,
                                                  .is_whole = true};
    }
    qsort(v->processes, n, sizeof *v->processes, compare_processes);
}

static void add_extent(struct memory_view *v,
                       uint64_t offset,
                       uint64_t size,
                       uint64_t place,
                       uint32_t process,
                       bool is_allocated)
{
    struct memory_extent *x = memory_add(&v->extents, sizeof *x);

    *x = (struct memory_extent){offset, size, place, process, is_allocated};
}

static void add_entries(struct memory_view *v, const uint8_t *at, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct memory_entry *e = memory_add(&v->entries, sizeof *e);
        memcpy(&e->row, at + i * sizeof e->row, sizeof e->row);
        if (e->row.place != 0)
            word_map_set(&v->by_place, e->row.place, v->entries.n);
        if (e->row.n_blocks > 0)
            add_extent(v,
                       e->row.offset,
                       (uint64_t)e->row.n_blocks * STORE_BLOCK,
                       e->row.place,
                       0,
                       e->row.is_allocated);
    }
}

struct memory_entry *memory_find_entry(const struct memory_view *v, uint64_t place)
{
    size_t i = place != 0 ? word_map_get(&v->by_place, place) : 0;

    return i > 0 ? memory_entry_at(v, i - 1) : NULL;
}

static void add_uses(struct memory_view *v, const uint8_t *at, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct wire_books_use w;
        memcpy(&w, at + i * sizeof w, sizeof w);
        if (w.kind == WIRE_USE_LENT) {
            add_extent(v, w.offset, w.size, 0, w.process, w.is_allocated);
            continue;
        }
        struct memory_use *u = memory_add(&v->uses, sizeof *u);
        *u = (struct memory_use){.process = w.process, .place = w.place};
        if (w.kind == WIRE_USE_PIN)
            u->n_pins = w.n;
        else
            u->n_holds = w.n;
    }
}

int memory_view_set_books(struct memory_view *v,
                          const struct wire_books *books,
                          const void *rows,
                          size_t size)
{
    const uint8_t *at = rows;
    const uint64_t sizes[] = {
        (uint64_t)books->n_processes * sizeof(struct wire_books_process),
        (uint64_t)books->n_entries * sizeof(struct wire_books_entry),
        (uint64_t)books->n_uses * sizeof(struct wire_books_use),
    };

    if (size != sizes[0] + sizes[1] + sizes[2] || v->n_processes > 0)
        return -1;
    v->books = *books;
    add_processes(v, at, books->n_processes);
    add_entries(v, at + sizes[0], books->n_entries);
    add_uses(v, at + sizes[0] + sizes[1], books->n_uses);
    return 0;
}

const struct wire_books *memory_view_books(const struct memory_view *v)
{
    return &v->books;
}

size_t memory_view_n_processes(const struct memory_view *v)
{
    return v->n_processes;
}

struct memory_process *memory_view_process(const struct memory_view *v, size_t i)
{
    return &v->processes[i];
}

/* --- pages --- */

static uint64_t slot_key(uint32_t process, uint32_t slot)
{
    return (uint64_t)process << 32 | slot;
}

struct memory_ref *memory_find_ref(const struct memory_view *v, uint32_t process, uint32_t slot)
{
    uint64_t key = slot_key(process, slot);
    size_t i = key != 0 ? word_map_get(&v->by_slot, key) : 0;

    return i > 0 ? memory_ref_at(v, i - 1) : NULL;
}

static void set_site(struct memory_view *v, struct memory_ref *r, const uint8_t *at, size_t n)
{
    char *site = xcalloc(1, n + 1);

    for (size_t i = 0; i < n; i++)
        site[i] = at[i] >= ' ' && at[i] < 127 ? (char)at[i] : '?';
    *(char **)memory_add(&v->sites, sizeof site) = site;
    r->site = site;
}

/* Numbered from 1; 0: a row of what a process has besides. */
static size_t add_row(struct memory_view *v,
                      const struct memory_process *p,
                      const struct wire_refs_row *w)
{
    if (w->word == 0) {
        if (w->place != 0) {
            struct memory_use *u = memory_add(&v->uses, sizeof *u);
            *u = (struct memory_use){.process = p->number, .place = w->place};
            u->said_pins = w->pin >= 0;
            u->said_holds = w->pin == -2;
        }
        return 0;
    }
    uint64_t key = slot_key(p->number, (uint32_t)w->word);
    size_t i = key != 0 ? word_map_get(&v->by_slot, key) : 0;
    if (key == 0)
        return 0; /* nobody has that slot */
    if (i > 0 && memory_ref_at(v, i - 1)->row.word == w->word)
        return i;
    struct memory_ref *r = memory_add(&v->refs, sizeof *r);
    r->process = p;
    r->row = *w;
    r->owner_number = w->owner;
    r->site = "";
    word_map_set(&v->by_slot, key, v->refs.n);
    if ((w->flags & WIRE_ROW_STORED) != 0 && w->pin == -2) {
        struct memory_use *u = memory_add(&v->uses, sizeof *u);
        *u = (struct memory_use){.process = p->number, .place = w->place, .said_holds = 1};
    }
    return v->refs.n;
}

int memory_view_add_page(struct memory_view *v,
                         struct memory_process *p,
                         const void *body,
                         size_t size,
                         uint64_t *next)
{
    struct refs_page page;
    struct refs_page_row from;
    int more;

    if (refs_page_open(&page, body, size) != 0)
        return -1;
    while ((more = refs_page_next(&page, &from)) == 1) {
        size_t ref = add_row(v, p, &from.row);
        for (uint32_t k = 0; k < from.row.n_items; k++) {
            struct memory_item *m = memory_add(&v->items, sizeof *m);
            struct wire_refs_item item = refs_page_item(&from, k);
            *m = (struct memory_item){item.kind, item.number, (uint32_t)ref, p->number};
        }
        if (from.row.site_size > 0 && ref > 0 && memory_ref_at(v, ref - 1)->site[0] == '\0')
            set_site(v, memory_ref_at(v, ref - 1), from.site, from.row.site_size);
    }
    if (more != 0)
        return -1;
    *next = page.head.next;
    if (*next != 0)
        p->is_whole = false;
    else
        p->answer = MEMORY_ANSWERED;
    return 0;
}

/* --- the join --- */

static void count_items(struct memory_view *v)
{
    const struct memory_item *items = v->items.v;

    for (size_t i = 0; i < v->items.n; i++) {
        const struct memory_item *m = &items[i];
        if (m->kind == WIRE_ITEM_BORROWER || m->kind == WIRE_ITEM_LEAVING) {
            if (m->ref == 0)
                continue;
            struct memory_ref *r = memory_ref_at(v, m->ref - 1);
            r->n_borrowers += m->kind == WIRE_ITEM_BORROWER;
            r->n_leaving += m->kind == WIRE_ITEM_LEAVING;
            *(struct memory_item *)memory_add(&v->borrowers, sizeof *m) = *m;
            continue;
        }
        struct memory_ref *r = memory_find_ref(v, m->process, m->number);
        if (r == NULL)
            continue; /* it has ended between two pages */
        r->n_captured += m->kind == WIRE_ITEM_INSIDE;
        r->n_tasks += m->kind == WIRE_ITEM_ARGUMENT;
        r->n_replies += m->kind == WIRE_ITEM_REPLY;
        r->n_body += m->kind == WIRE_ITEM_BODY;
    }
}

static int compare_borrowers(const void *a, const void *b)
{
    const struct memory_item *x = a, *y = b;

    if (x->ref != y->ref)
        return x->ref < y->ref ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int compare_uses(const void *a, const void *b)
{
    const struct memory_use *x = a, *y = b;

    if (x->process != y->process)
        return x->process < y->process ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* One for each process and place. */
static void fold_uses(struct memory_view *v)
{
    struct memory_use *u = v->uses.v;
    size_t n = 0;

    if (v->uses.n == 0)
        return;
    qsort(u, v->uses.n, sizeof *u, compare_uses);
    for (size_t i = 0; i < v->uses.n; i++) {
        if (n == 0 || compare_uses(&u[n - 1], &u[i]) != 0) {
            u[n++] = u[i];
            continue;
        }
        u[n - 1].n_pins += u[i].n_pins;
        u[n - 1].n_holds += u[i].n_holds;
        u[n - 1].said_pins += u[i].said_pins;
        u[n - 1].said_holds += u[i].said_holds;
    }
    v->uses.n = n;
    for (size_t i = 0; i < n; i++) {
        struct memory_entry *e = memory_find_entry(v, u[i].place);
        if (e == NULL)
            continue;
        e->n_pins += u[i].n_pins;
        e->n_holds += u[i].n_holds;
    }
}

static const struct memory_use *find_use(const struct memory_view *v,
                                         uint32_t process,
                                         uint64_t place)
{
    struct memory_use key = {.process = process, .place = place};

    if (v->uses.n == 0)
        return NULL;
    return bsearch(&key, v->uses.v, v->uses.n, sizeof key, compare_uses);
}

static bool is_borrowed(const struct memory_ref *r)
{
    return (r->row.flags & WIRE_ROW_BORROWED) != 0;
}

/* The owner's ref of what r borrows; NULL: it does not live, did not answer, or has none. */
static const struct memory_ref *owner_ref(const struct memory_view *v, const struct memory_ref *r)
{
    const struct memory_ref *o = memory_find_ref(v, r->owner_number, (uint32_t)r->row.owner_word);

    return o != NULL && o->row.word == r->row.owner_word && !is_borrowed(o) ? o : NULL;
}

static enum memory_kind kind_of(const struct memory_ref *r)
{
    if (r->row.n_views > 0 || r->n_pins + r->n_holds > 0)
        return MEMORY_PINNED;
    if (r->n_tasks > 0)
        return MEMORY_USED;
    if (r->row.count > 0 || r->n_body > 0)
        return MEMORY_LOCAL;
    if (r->n_captured + r->n_replies > 0)
        return MEMORY_CAPTURED;
    if (r->n_borrowers + r->n_leaving > 0)
        return MEMORY_BORROWED;
    return MEMORY_UNKNOWN;
}

static const char *status_of(const struct memory_ref *r, const struct memory_ref *owner)
{
    const struct wire_refs_row *w = owner != NULL ? &owner->row : &r->row;

    if (r->owner == NULL)
        return "OWNER_DIED";
    switch ((enum wire_row_status)r->row.status) {
    case WIRE_ROW_FAILED:
        return "FAILED";
    case WIRE_ROW_FREED:
        return "FREED";
    default:
        break;
    }
    switch ((enum wire_row_status)w->status) {
    case WIRE_ROW_PENDING:
        return "-";
    case WIRE_ROW_ARGS:
        return "PENDING_ARGS_AVAIL";
    case WIRE_ROW_QUEUED:
        return "PENDING_NODE_ASSIGNMENT";
    case WIRE_ROW_PUSHED:
        return "SUBMITTED_TO_WORKER";
    case WIRE_ROW_READY:
        return (w->flags & WIRE_ROW_TASK) != 0 ? "FINISHED" : "-";
    case WIRE_ROW_FAILED:
        return "FAILED";
    case WIRE_ROW_FREED:
        return "FREED";
    }
    return "-";
}

static void join_ref(struct memory_view *v, struct memory_ref *r)
{
    const struct memory_ref *owner = is_borrowed(r) ? owner_ref(v, r) : NULL;
    bool is_stored = (r->row.flags & WIRE_ROW_STORED) != 0;
    const struct memory_use *use = is_stored ? find_use(v, r->process->number, r->row.place) : NULL;
    struct task_id task =
        task_id_make((struct job_id){r->process->job}, r->owner_number, r->row.counter);

    r->id = object_id_make(&task, r->row.index);
    r->owner = memory_find_process(v, r->owner_number);
    if (use != NULL) {
        r->n_pins = use->n_pins;
        r->n_holds = use->n_holds;
    }
    r->entry = is_stored ? memory_find_entry(v, r->row.place) : NULL;
    r->kind = kind_of(r);
    r->status = status_of(r, owner);
    if (owner != NULL && r->site[0] == '\0')
        r->site = owner->site;
    const struct wire_refs_row *w =
        owner != NULL && r->row.status == WIRE_ROW_PENDING ? &owner->row : &r->row;
    r->size = w->status >= WIRE_ROW_READY ? w->size : UINT64_MAX;
}

/* Objects of those who did not answer: the store knows them. */
static void add_unanswered(struct memory_view *v)
{
    for (size_t i = 0; i < v->entries.n; i++) {
        struct memory_entry *e = memory_entry_at(v, i);
        const struct memory_process *p = memory_find_process(v, e->row.owner);
        if (e->row.state != STORE_ENTRY_SEALED || p == NULL || p->answer != MEMORY_SILENT
            || e->ref != 0)
            continue;
        struct memory_ref *r = memory_add(&v->refs, sizeof *r);
        struct task_id task = task_id_make((struct job_id){p->job}, e->row.owner, e->row.counter);
        *r = (struct memory_ref){.process = p,
                                 .owner = p,
                                 .owner_number = p->number,
                                 .row = {.counter = e->row.counter,
                                         .size = e->row.size,
                                         .place = e->row.place,
                                         .offset = e->row.offset,
                                         .owner = p->number,
                                         .index = e->row.index,
                                         .n_refs = e->row.n_refs,
                                         .pin = -1,
                                         .flags = WIRE_ROW_STORED,
                                         .status = WIRE_ROW_PENDING},
                                 .kind = MEMORY_UNKNOWN,
                                 .size = e->row.size,
                                 .site = "",
                                 .status = "-",
                                 .id = object_id_make(&task, e->row.index),
                                 .entry = e};
    }
}

void memory_view_join(struct memory_view *v)
{
    count_items(v);
    if (v->borrowers.n > 0)
        qsort(v->borrowers.v, v->borrowers.n, sizeof(struct memory_item), compare_borrowers);
    fold_uses(v);
    for (size_t i = 0; i < v->refs.n; i++)
        join_ref(v, memory_ref_at(v, i));
    for (size_t i = 0; i < v->refs.n; i++) {
        const struct memory_ref *r = memory_ref_at(v, i);
        if (r->entry != NULL && !is_borrowed(r))
            ((struct memory_entry *)v->entries.v)[r->entry - memory_entry_at(v, 0)].ref =
                (uint32_t)i + 1;
    }
    add_unanswered(v);
    for (size_t i = 0; i < v->refs.n; i++) {
        const struct memory_ref *r = memory_ref_at(v, i);
        if ((r->row.flags & WIRE_ROW_HIDDEN) == 0 && r->process->answer != MEMORY_GONE)
            *(uint32_t *)memory_add(&v->shown, sizeof(uint32_t)) = (uint32_t)i;
    }
}

size_t memory_view_n_refs(const struct memory_view *v)
{
    return v->shown.n;
}

const struct memory_ref *memory_view_ref(const struct memory_view *v, size_t i)
{
    return memory_ref_at(v, ((const uint32_t *)v->shown.v)[i]);
}

const struct memory_entry *memory_view_entry(const struct memory_view *v, size_t i)
{
    return i < v->entries.n ? memory_entry_at(v, i) : NULL;
}

size_t memory_first_borrower(const struct memory_view *v, uint32_t ref)
{
    const struct memory_item *items = v->borrowers.v;
    size_t low = 0, high = v->borrowers.n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (items[middle].ref < ref)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t memory_view_next_borrower(const struct memory_view *v,
                                   const struct memory_ref *r,
                                   size_t *at)
{
    const struct memory_item *items = v->borrowers.v;
    uint32_t ref = (uint32_t)(r - memory_ref_at(v, 0)) + 1;
    size_t i = memory_first_borrower(v, ref) + *at;

    ++*at;
    return i < v->borrowers.n && items[i].ref == ref ? items[i].number : 0;
}
