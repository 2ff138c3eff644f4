/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of borrowed refs: a borrower asks the owner once (WANT), who answers when the value is
 * there (OBJECT). An owner sends one process no more than WINDOW bytes before that has acknowledged
 * some (OBJECT_ACK), so that a burst of answers stays with their owner and not in the raylet.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/core_private.h"

#define WINDOW   (1u << 20)
#define ACK_EACH (WINDOW / 4)

/* An answer that waits; its record is held. */
struct answer {
    struct list node;
    uint32_t slot;
    uint64_t word;
};

/* Between this process and another. */
struct exchange {
    struct list node;
    uint32_t process;
    uint64_t unacked; /* bytes sent to it */
    uint64_t owed;    /* bytes that came from it, not yet acknowledged */
    struct list answers;
};

static struct list exchanges = {&exchanges, &exchanges};

static struct exchange *exchange_with(uint32_t process)
{
    list_for_each(n, &exchanges)
    {
        struct exchange *e = list_entry(n, struct exchange, node);
        if (e->process == process)
            return e;
    }
    struct exchange *e = xcalloc(1, sizeof *e);
    e->process = process;
    list_init(&e->answers);
    list_push(&exchanges, &e->node);
    return e;
}

static void end_answer(struct answer *a)
{
    list_remove(&a->node);
    ref_table_unhold(core.refs, ref_table_at(core.refs, a->slot));
    free(a);
}

static void end_exchange(struct exchange *e)
{
    while (!list_empty(&e->answers))
        end_answer(list_entry(e->answers.next, struct answer, node));
    list_remove(&e->node);
    free(e);
}

void want_on_process_dead(uint32_t process)
{
    end_exchange(exchange_with(process));
}

void want_forget(void)
{
    while (!list_empty(&exchanges))
        end_exchange(list_entry(exchanges.next, struct exchange, node));
}

/* --- the borrower --- */

void refs_want(struct record *r)
{
    struct ref_extra *x = r->extra;

    if (r->state != REF_PENDING || (r->flags & REF_BORROWED) == 0 || x->wanted)
        return;
    x->wanted = 1;
    struct wire_want w = {.word = x->owner_word};
    struct peer *p = refs_peer(x->owner);
    if (p != NULL && peer_send(p, WIRE_WANT, &w, sizeof w) == 0)
        peer_flush(p);
}

static void acknowledge(uint32_t owner, size_t size)
{
    struct exchange *e = exchange_with(owner);

    e->owed += size;
    if (e->owed < ACK_EACH)
        return;
    struct wire_object_ack w = {.bytes = e->owed};
    e->owed = 0;
    refs_send(owner, WIRE_OBJECT_ACK, &w, sizeof w);
}

static bool on_object(uint32_t from, const uint8_t *body, size_t size)
{
    struct wire_object w;
    const uint8_t *at = body + sizeof w;
    struct wire_value v = {0};
    int32_t pin = REF_NO_PIN;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    struct record *r = borrow_find(core.borrow, from, w.word);
    if (r == NULL || r->state != REF_PENDING)
        return true; /* nobody wants it any more */
    if (!refs_parse(&at, body + size, &v) || v.is_by_ref) {
        refs_set_lost(r->slot, CORE_ELOST);
        return false;
    }
    r->held++; /* a pin may wait without the lock */
    bool is_in_arena = v.is_stored && v.n_refs > 0 && !v.has_inner;
    if (is_in_arena && !objects_pin(v.stored.place, &pin))
        refs_set_lost(r->slot, CORE_ELOST);
    if (r->state != REF_PENDING) {
        objects_unpin(v.stored.place, &pin);
        ref_table_unhold(core.refs, r);
        return true;
    }
    uint32_t *slots = v.n_refs > 0 ? try_alloc(NULL, v.n_refs * sizeof *slots) : NULL;
    if (v.n_refs > 0 && (slots == NULL || !refs_learn(v.refs, v.n_refs, slots))) {
        refs_set_lost(r->slot, CORE_ENOMEM);
    } else {
        if (v.n_refs > 0)
            borrow_guard(core.borrow,
                         BORROW_GUARD_VALUE,
                         0,
                         0,
                         r->slot,
                         slots,
                         v.n_refs,
                         &core.borrow_actions);
        refs_set_value(r, &v, slots);
    }
    free(slots);
    objects_unpin(v.stored.place, &pin);
    ref_table_unhold(core.refs, r);
    return true;
}

/* --- the owner --- */

static void send_object(struct exchange *e, uint64_t word, const struct record *r)
{
    struct wire_object w = {.word = word};
    const struct peer *p = refs_peer(e->process);
    uint32_t node = p != NULL ? p->node_number : NODE_UNKNOWN;
    size_t size = sizeof w + refs_put_value(r, node, NULL);
    uint8_t *body = xmalloc(size);

    memcpy(body, &w, sizeof w);
    refs_put_value(r, node, body + sizeof w);
    refs_send(e->process, WIRE_OBJECT, body, size);
    free(body);
    e->unacked += size;
}

/* Its value is still to come: answered then. */
static void answer_later(uint32_t process, struct record *r)
{
    struct ref_waiter *rw = ref_table_alloc(core.refs, sizeof *rw);

    if (rw == NULL)
        return;
    rw->kind = REF_WAITER_PEER;
    rw->u.peer.process = process;
    r->held++;
    owner_ref_add_waiter(r, rw);
}

static void answer(uint32_t process, uint64_t word, struct record *r)
{
    struct exchange *e = exchange_with(process);

    if (list_empty(&e->answers) && e->unacked < WINDOW) {
        send_object(e, word, r);
        return;
    }
    struct answer *a = xcalloc(1, sizeof *a);
    a->slot = r->slot;
    a->word = word;
    r->held++;
    list_append(&e->answers, &a->node);
}

void want_tell_peer(struct record *r, uint32_t process)
{
    answer(process, record_word(r), r);
}

static void on_want(uint32_t from, const struct wire_want *w)
{
    struct record *r = ref_table_find_shown(core.refs, w->word);
    bool is_ours = r != NULL && (r->flags & REF_BORROWED) == 0;

    if (!is_ours || (w->is_lost && !remake_lost(r, w->attempt, w->node))) {
        struct record *lost = refs_learn_lost();
        if (lost != NULL) {
            answer(from, w->word, lost);
            ref_table_unhold(core.refs, lost);
        }
    } else if (record_is_missing(r)) {
        answer_later(from, r);
    } else {
        answer(from, w->word, r);
    }
}

static void on_ack(uint32_t from, const struct wire_object_ack *w)
{
    struct exchange *e = exchange_with(from);

    e->unacked -= w->bytes < e->unacked ? w->bytes : e->unacked;
    while (!list_empty(&e->answers) && e->unacked < WINDOW) {
        struct answer *a = list_entry(e->answers.next, struct answer, node);
        struct record *r = ref_table_at(core.refs, a->slot);
        if (record_is_missing(r)) /* lost since */
            answer_later(from, r);
        else
            send_object(e, a->word, r);
        end_answer(a);
    }
}

bool want_on_frame(uint32_t from, uint8_t type, const uint8_t *body, size_t size)
{
    struct wire_want want;
    struct wire_object_ack ack;

    switch (type) {
    case WIRE_WANT:
        if (size < sizeof want)
            return false;
        memcpy(&want, body, sizeof want);
        on_want(from, &want);
        return true;
    case WIRE_OBJECT_ACK:
        if (size < sizeof ack)
            return false;
        memcpy(&ack, body, sizeof ack);
        on_ack(from, &ack);
        return true;
    default:
        acknowledge(from, size);
        return on_object(from, body, size);
    }
}
