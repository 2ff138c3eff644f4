/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the raylet what refs this process has, for `ray memory`: its table page by page, one frame
 * each, so that the lock is never held for long and nothing is kept between pages. A cursor is
 * slot << 32 | how many of its items have been told; slot 0 stands for what the process holds
 * beside its records.
 */
#include <string.h>

#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define SITE_MAX 200
#define TEXT_MAX 200
#define TAIL_MAX (SITE_MAX + TEXT_MAX) /* behind a row's items */
#define ROOM_MIN (sizeof(struct wire_refs_row) + TAIL_MAX + sizeof(struct wire_refs_item))

struct page {
    uint64_t now_ns;
    uint8_t *at, *end;
    uint32_t n_rows;
    uint32_t skip, seen, n_items; /* of the row that is being written */
    bool is_cut;                  /* it has more items than fit */
};

static void add_item(struct page *p, enum wire_refs_item_kind kind, uint32_t number)
{
    struct wire_refs_item item = {.kind = kind, .number = number};

    if (p->seen++ < p->skip)
        return;
    if ((size_t)(p->end - p->at) < TAIL_MAX + sizeof item) {
        p->is_cut = true;
        return;
    }
    memcpy(p->at, &item, sizeof item);
    p->at += sizeof item;
    p->n_items++;
}

static bool has_room(const struct page *p)
{
    return (size_t)(p->end - p->at) >= ROOM_MIN;
}

/* A row's place; its items follow. */
static uint8_t *begin_row(struct page *p, uint32_t skip)
{
    uint8_t *row = p->at;

    p->at += sizeof(struct wire_refs_row);
    p->skip = skip;
    p->seen = p->n_items = 0;
    p->is_cut = false;
    return row;
}

static uint16_t add_text(struct page *p, const char *text, size_t max)
{
    size_t n = text != NULL && p->skip == 0 ? strnlen(text, max) : 0;

    if (n > 0)
        memcpy(p->at, text, n);
    p->at += n;
    return (uint16_t)n;
}

static void end_row(struct page *p,
                    uint8_t *row,
                    struct wire_refs_row *w,
                    const char *site,
                    const char *text,
                    size_t max)
{
    w->first_item = p->skip;
    w->n_items = p->n_items;
    w->site_size = add_text(p, site, SITE_MAX);
    w->text_size = add_text(p, text, max);
    memcpy(row, w, sizeof *w);
    p->n_rows++;
}

/* --- what is held beside the records --- */

static void add_reply(void *arg, uint32_t process, const uint32_t *slots, uint32_t n)
{
    (void)process;
    for (uint32_t i = 0; i < n; i++)
        add_item(arg, WIRE_ITEM_REPLY, slots[i]);
}

static void add_body(void *arg, uint32_t slot)
{
    add_item(arg, WIRE_ITEM_BODY, slot);
}

/* false: the page is full. */
static bool add_pin(struct page *p, uint32_t skip, uint64_t place, int32_t pin)
{
    struct wire_refs_row w = {.place = place, .pin = pin};

    if (p->seen < skip) {
        p->seen++;
        return true;
    }
    if (!has_room(p))
        return false;
    uint32_t seen = p->seen;
    end_row(p, begin_row(p, 0), &w, NULL, NULL, 0);
    p->seen = seen + 1;
    return true;
}

/* The number of the first item that did not fit; 0: all did. */
static uint32_t report_process(struct page *p, uint32_t skip)
{
    struct wire_refs_row w = {.pin = REF_NO_PIN};
    uint64_t place;
    int32_t pin;

    uint8_t *row = begin_row(p, skip);
    if (core.borrow != NULL)
        borrow_for_each_reply(core.borrow, add_reply, p);
    call_for_each_hold(add_body, p);
    bool is_cut = p->is_cut;
    uint32_t told = skip + p->n_items;
    end_row(p, row, &w, NULL, NULL, 0);
    if (is_cut)
        return told;
    for (int i = 0; i < STORE_PINS; i++)
        if (objects_pinned(i, &place) && !add_pin(p, skip, place, i))
            return p->seen;
    for (unsigned i = 0; call_next_pin(i, &place, &pin); i++)
        if (pin == REF_PIN_HELD && !add_pin(p, skip, place, pin))
            return p->seen;
    return 0;
}

/* --- records --- */

static enum wire_row_status status_of(const struct record *r)
{
    if (r->state == REF_READY)
        return (r->flags & REF_FREED) != 0  ? WIRE_ROW_FREED
               : r->meta == WIRE_META_ERROR ? WIRE_ROW_FAILED
                                            : WIRE_ROW_READY;
    const struct record *first = remake_task_of(r);
    if ((r->flags & REF_BORROWED) != 0 || first->state != REF_PENDING)
        return WIRE_ROW_PENDING;
    return first->u.task.n_deps > 0      ? WIRE_ROW_ARGS
           : first->u.task.lease != NULL ? WIRE_ROW_PUSHED
                                         : WIRE_ROW_QUEUED;
}

/* Of a task its function; of an error what it says: at most *max bytes. NULL: neither. */
static const char *text_of(const struct record *r, size_t *max)
{
    uint16_t template = ref_table_at(core.refs, r->first)->template;

    *max = TEXT_MAX;
    if (r->state == REF_READY && r->meta == WIRE_META_ERROR && (r->flags & REF_STORED) == 0
        && r->size > sizeof(struct wire_failure)) {
        size_t size = r->size - sizeof(struct wire_failure);
        *max = size < TEXT_MAX ? size : TEXT_MAX;
        return (const char *)record_value(r) + sizeof(struct wire_failure);
    }
    bool is_task =
        (r->flags & REF_BORROWED) == 0 && (r->n_returns > 0 || (r->flags & REF_HIDDEN) != 0);
    return is_task && template <core.n_templates ? core.templates[template]->function : NULL;
}

/* The process of the worker that has the task. */
static uint32_t worker_of(const struct record *r)
{
    const struct record *first = remake_task_of(r);
    const struct submit_lease *lease = first->u.task.lease;

    return lease != NULL ? ((const struct peer *)lease->peer)->process : 0;
}

/* Of a place that is pinned. */
static uint64_t offset_of(uint64_t place)
{
    const struct index_entry *e = core.store != NULL ? store_client_entry(core.store, place) : NULL;

    return e != NULL ? e->offset : 0;
}

static struct wire_refs_row row_of(const struct record *r, uint64_t now_ns)
{
    bool is_borrowed = (r->flags & REF_BORROWED) != 0;
    bool is_stored = r->state == REF_READY && (r->flags & REF_STORED) != 0;
    struct wire_refs_row w = {.word = record_word(r),
                              .counter = r->counter,
                              .owner = core.welcome.process,
                              .index = record_index(r),
                              .count = r->count,
                              .held = r->held,
                              .pin = REF_NO_PIN,
                              .status = (uint8_t)status_of(r)};

    if (w.status == WIRE_ROW_ARGS || w.status == WIRE_ROW_QUEUED || w.status == WIRE_ROW_PUSHED) {
        const struct record *task = ref_table_at(core.refs, r->first);
        uint64_t ms = ref_since_ms(task->since, now_ns);
        w.waits_ms = ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
        w.window_slot = task->u.task.window_slot;
    }
    if (w.status == WIRE_ROW_PUSHED)
        w.worker = worker_of(r);
    if ((r->flags & REF_HIDDEN) != 0)
        w.flags |= WIRE_ROW_HIDDEN;
    if ((r->flags & REF_ARGUMENT) != 0)
        w.flags |= WIRE_ROW_ARGUMENT;
    if (!is_borrowed && (r->n_returns > 0 || (r->flags & REF_HIDDEN) != 0))
        w.flags |= WIRE_ROW_TASK;
    if (is_borrowed) {
        w.owner = r->extra->owner;
        w.owner_word = r->extra->owner_word;
        w.flags |= WIRE_ROW_BORROWED | (r->extra->registered ? WIRE_ROW_REGISTERED : 0);
    }
    if (is_stored) {
        const struct ref_stored *s = &r->u.stored;
        bool is_elsewhere = refs_is_elsewhere(s);
        w.flags |= is_elsewhere ? WIRE_ROW_ELSEWHERE : WIRE_ROW_STORED;
        w.size = s->size;
        w.n_refs = s->n_refs;
        w.n_views = s->n_views;
        w.pin = s->pin;
        if (!is_elsewhere || s->pin != REF_NO_PIN) {
            w.flags |= WIRE_ROW_STORED;
            w.place = refs_place_here(s);
            w.offset = is_elsewhere ? offset_of(w.place) : s->offset;
        }
    } else if (r->state == REF_READY) {
        w.size = r->size;
    }
    return w;
}

static void add_argument(void *arg, struct record *r, bool is_inside)
{
    (void)is_inside;
    add_item(arg, WIRE_ITEM_ARGUMENT, r->slot);
}

/* As report_process. */
static uint32_t report_record(struct page *p, const struct record *r, uint32_t skip)
{
    struct wire_refs_row w = row_of(r, p->now_ns);
    const struct ref_extra *x = r->extra;
    uint8_t *row = begin_row(p, skip);
    size_t max;

    for (uint32_t i = 0; x != NULL && i < x->n_inner; i++)
        add_item(p, WIRE_ITEM_INSIDE, x->inner[i]);
    for (uint32_t i = 0; x != NULL && i < x->n_borrowers; i++)
        add_item(p,
                 borrow_is_kept_for_dead(core.borrow, x->borrowers[i].process) ? WIRE_ITEM_LEAVING
                                                                               : WIRE_ITEM_BORROWER,
                 x->borrowers[i].process);
    if (r->state == REF_PENDING && (r->flags & REF_BORROWED) == 0)
        ref_table_for_each_held(core.refs, &r->u.task, add_argument, p);
    bool is_cut = p->is_cut;
    uint32_t told = skip + p->n_items;
    const char *text = text_of(r, &max);
    end_row(p, row, &w, r->site, text, max);
    return is_cut ? told : 0;
}

/* The cursor of what follows; 0: nothing does. */
static uint64_t report(struct page *p, uint64_t from)
{
    uint32_t slot = (uint32_t)(from >> 32), skip = (uint32_t)from, next;

    if (core.refs == NULL)
        return 0;
    if (slot == 0) {
        next = report_process(p, skip);
        if (next > 0)
            return next;
        slot = 1;
        skip = 0;
    }
    for (uint32_t end = ref_table_end(core.refs); slot < end; slot++, skip = 0) {
        const struct record *r = ref_table_at(core.refs, slot);
        if (r->state == REF_FREE || r->state == REF_EMPTY)
            continue;
        if (!has_room(p))
            return (uint64_t)slot << 32 | skip;
        next = report_record(p, r, skip);
        if (next > 0)
            return (uint64_t)slot << 32 | next;
    }
    return 0;
}

void ref_report_on_ask(const uint8_t *body, size_t size)
{
    struct wire_refs_ask ask;

    if (size < sizeof ask)
        return;
    memcpy(&ask, body, sizeof ask);
    struct wire_refs w = {.ticket = ask.ticket, .process = core.welcome.process};
    uint8_t *out = peer_reserve(core.raylet, WIRE_REFS, FRAME_BODY_MAX);
    if (out == NULL)
        return;
    struct page p = {.now_ns = clock_now_ns(), .at = out + sizeof w, .end = out + FRAME_BODY_MAX};
    w.next = report(&p, ask.from);
    w.n = p.n_rows;
    memcpy(out, &w, sizeof w);
    peer_commit(core.raylet, (size_t)(p.at - out));
}
