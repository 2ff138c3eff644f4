/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refs and values as other processes see them, and the hands of borrow.c.
 *
 * A ref travels as (owner's process number, word of the owner's table). A value travels by itself,
 * or as the place where it lies in the object store; the refs inside go before it, or lie behind it
 * in the store. Whoever receives one learns its refs, has borrow.c register what must outlive the
 * message, and then tells those who wait.
 *
 * Two processes talk on the channel between them if there is one, else by way of the raylet; frames
 * whose order matters are numbered, or go where their DONE goes.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/core/core_private.h"

/* --- values --- */

bool refs_parse(const uint8_t **at, const uint8_t *end, struct wire_value *out)
{
    const uint8_t *p = *at;
    struct wire_arg a;

    if ((size_t)(end - p) < sizeof a)
        return false;
    memcpy(&a, p, sizeof a);
    p += sizeof a;
    out->n_refs = 0;
    out->meta = a.meta & WIRE_META_MASK;
    out->is_by_ref = (a.meta & WIRE_VALUE_BY_REF) == WIRE_VALUE_BY_REF;
    out->is_stored = !out->is_by_ref && (a.meta & WIRE_VALUE_STORED) != 0;
    out->has_inner = out->is_stored && (a.meta & WIRE_VALUE_INNER) != 0;
    out->is_elsewhere = false;
    if (out->has_inner || (!out->is_by_ref && (a.meta & WIRE_VALUE_REFS) != 0)) {
        if ((size_t)(end - p) < sizeof out->n_refs)
            return false;
        memcpy(&out->n_refs, p, sizeof out->n_refs);
        p += sizeof out->n_refs;
        if ((size_t)(end - p) / sizeof(struct wire_ref) < out->n_refs)
            return false;
        out->refs = p;
        p += out->n_refs * sizeof(struct wire_ref);
    }
    if (a.size > (size_t)(end - p))
        return false;
    out->bytes = p;
    out->size = a.size;
    *at = p + a.size;
    if (out->is_by_ref) {
        out->refs = p;
        out->n_refs = 1;
        return a.size == sizeof(struct wire_ref);
    }
    if (!out->is_stored)
        return true;
    if (a.size != sizeof out->stored)
        return false;
    memcpy(&out->stored, p, sizeof out->stored);
    const struct wire_stored *s = &out->stored;
    out->is_elsewhere = s->node != core.welcome.node_number;
    if (s->size > CORE_OBJECT_MAX || (out->has_inner && out->n_refs != s->n_refs))
        return false;
    if (out->is_elsewhere)
        return out->n_refs == s->n_refs;
    if (s->offset % STORE_BLOCK != 0
        || objects_read(s->offset, refs_stored_size(s->size, s->n_refs)) == NULL)
        return false;
    if (out->has_inner)
        return true;
    out->n_refs = s->n_refs;
    out->refs = objects_read(s->offset + refs_trailer(s->size), 0);
    return true;
}

void refs_put(const uint32_t *slots, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i++, out += sizeof(struct wire_ref)) {
        struct record *r = ref_table_at(core.refs, slots[i]);
        struct wire_ref w = {.word = record_word(r),
                             .counter = r->counter,
                             .owner = core.welcome.process,
                             .index = record_index(r)};
        if ((r->flags & REF_BORROWED) != 0) {
            w.owner = r->extra->owner;
            w.word = r->extra->owner_word;
        } else {
            r->flags |= REF_SHOWN;
        }
        memcpy(out, &w, sizeof w);
    }
}

static size_t owner_gone(void *out, size_t max)
{
    return owner_failure(out,
                         max,
                         CORE_EOWNER,
                         0,
                         0,
                         "the object's owner, the process that made it, is gone",
                         "",
                         "",
                         "");
}

struct wire_stored refs_stored(const struct record *r, uint32_t node)
{
    const struct ref_stored *s = &r->u.stored;
    bool is_borrowed = (r->flags & REF_BORROWED) != 0, is_ours = node == core.welcome.node_number;

    return (struct wire_stored){
        .place = s->place,
        .offset = s->offset,
        .size = s->size,
        .n_refs = s->n_refs,
        .node = s->node,
        .key = {.counter = r->counter,
                .owner = is_borrowed ? r->extra->owner : core.welcome.process,
                .index = record_index(r),
                .attempt = s->attempt},
        .copy = is_ours && s->node != node ? s->copy : 0};
}

size_t refs_put_value(const struct record *r, uint32_t node, uint8_t *out)
{
    uint8_t error[128];
    struct wire_arg a = {.size = r->size, .meta = r->meta};
    const void *bytes = NULL;
    uint32_t n_refs = 0;
    struct wire_stored stored;

    bool is_stored = (r->flags & REF_STORED) != 0;
    bool is_orphan =
        is_stored && (r->flags & REF_BORROWED) != 0 && borrow_is_dead(core.borrow, r->extra->owner);
    if ((r->flags & REF_FREED) != 0 || is_orphan) {
        a.meta = WIRE_META_ERROR;
        a.size = (uint32_t)(is_orphan ? owner_gone(error, sizeof error)
                                      : owner_freed(error, sizeof error));
        bytes = error;
    } else if (is_stored) {
        stored = refs_stored(r, node);
        a = (struct wire_arg){.size = sizeof stored, .meta = r->meta | WIRE_VALUE_STORED};
        bytes = &stored;
        if (stored.n_refs > 0 && stored.node != node) {
            n_refs = stored.n_refs;
            a.meta |= WIRE_VALUE_INNER;
        }
    } else {
        bytes = record_value(r);
        n_refs = r->extra != NULL ? r->extra->n_inner : 0;
        a.meta |= n_refs > 0 ? WIRE_VALUE_REFS : 0;
    }
    size_t size =
        sizeof a + a.size + (n_refs > 0 ? sizeof n_refs + n_refs * sizeof(struct wire_ref) : 0);
    if (out == NULL)
        return size;
    memcpy(out, &a, sizeof a);
    out += sizeof a;
    if (n_refs > 0) {
        memcpy(out, &n_refs, sizeof n_refs);
        refs_put(r->extra->inner, n_refs, out + sizeof n_refs);
        out += sizeof n_refs + n_refs * sizeof(struct wire_ref);
    }
    if (a.size > 0)
        memcpy(out, bytes, a.size);
    return size;
}

/* A ref that nothing leads to any more: an error of our own. */
struct record *refs_learn_lost(void)
{
    uint8_t value[160];
    struct record *r = ref_table_new(core.refs);

    if (r == NULL)
        return NULL;
    r->held = 1;
    r->count = 0;
    size_t n = owner_failure(value,
                             sizeof value,
                             CORE_ELOST,
                             0,
                             0,
                             "the object this ref named is gone",
                             "",
                             "",
                             "");
    ref_table_set(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n);
    return r;
}

bool refs_learn(const uint8_t *refs, uint32_t n, uint32_t *slots)
{
    for (uint32_t i = 0; i < n; i++) {
        struct wire_ref w;
        memcpy(&w, refs + i * sizeof w, sizeof w);
        struct record *r = borrow_learn(core.borrow, w.owner, w.word);
        if (r == NULL)
            r = refs_learn_lost();
        if (r == NULL) {
            ref_table_unhold_all(core.refs, slots, i);
            return false;
        }
        if ((r->flags & REF_BORROWED) != 0) {
            r->counter = w.counter;
            r->n_returns = (uint16_t)w.index;
        }
        slots[i] = r->slot;
    }
    return true;
}

void refs_set_value(struct record *r, const struct wire_value *v, const uint32_t *slots)
{
    bool wanted;

    if (!ref_table_set_inner(core.refs, r, slots, v->n_refs)) {
        uint8_t value[128];
        size_t n = owner_failure(value, sizeof value, CORE_ENOMEM, 0, 0, "no memory", "", "", "");
        wanted = ref_table_set(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n);
        ref_table_unhold_all(core.refs, slots, v->n_refs);
        if (v->is_stored && (r->flags & REF_BORROWED) == 0)
            objects_free(&v->stored);
    } else if (v->is_stored) {
        struct ref_stored s = {.place = v->stored.place,
                               .offset = v->stored.offset,
                               .size = v->stored.size,
                               .n_refs = v->stored.n_refs,
                               .pin = REF_NO_PIN,
                               .node = v->stored.node,
                               .copy = v->is_elsewhere ? v->stored.copy : 0,
                               .attempt = v->stored.key.attempt};
        wanted = ref_table_set_stored(core.refs, r, v->meta, &s);
    } else {
        wanted = ref_table_set(core.refs, r, v->meta, v->bytes, v->size);
    }
    if (wanted)
        owner_tell(r);
}

/* --- whom to say it --- */

struct peer *refs_peer(uint32_t process)
{
    struct peer *routed = NULL;

    if (process > WIRE_ROUTE_NUMBER)
        return NULL; /* foreign nonsense */
    if (core.lease_peer != NULL && core.lease_peer->process == process
        && core.lease_peer->link != NULL)
        return core.lease_peer; /* DONE goes there */
    list_for_each(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->process != process || p->link == NULL || p->is_raylet || p->said_goodbye)
            continue;
        if (p->route == 0)
            return p;
        if (p->route == (WIRE_ROUTE_PROCESS | process))
            routed = p;
    }
    if (routed == NULL && core.raylet->link != NULL)
        routed = peer_create_routed(WIRE_ROUTE_PROCESS | process);
    return routed;
}

void refs_send(uint32_t process, uint8_t type, const void *body, size_t size)
{
    struct peer *p = refs_peer(process);

    if (p != NULL)
        peer_send(p, type, body, size);
}

/* --- borrow.c's hands --- */

/* The words behind that head. */
static void send_words(const struct borrow_action *a, uint8_t type, const void *head, size_t n)
{
    size_t size = n + a->n * sizeof a->words[0];
    uint8_t *body = xmalloc(size);

    memcpy(body, head, n);
    if (a->n > 0)
        memcpy(body + n, a->words, a->n * sizeof a->words[0]);
    refs_send(a->process, type, body, size);
    free(body);
    free(a->words);
}

static void send_ops(const struct borrow_action *a, uint8_t type)
{
    struct wire_borrow w = {.sequence = a->sequence, .n = a->n};

    send_words(a, type, &w, sizeof w);
}

static void send_list(const struct borrow_action *a)
{
    const struct borrow_range *r = &a->u.range;
    struct wire_borrow_list w = {.sequence = a->sequence,
                                 .n = a->n,
                                 .low = r->low,
                                 .high = r->high,
                                 .is_first = r->is_first};

    send_words(a, WIRE_BORROW_LIST, &w, sizeof w);
}

static void send_digest(const struct borrow_action *a)
{
    const struct borrow_digest *d = &a->u.digest;
    struct wire_borrow_digest w = {.sequence = d->sequence,
                                   .acked = d->acked,
                                   .n = d->n,
                                   .sum = d->sum,
                                   .is_overdue = d->is_overdue};

    core.counters.digests++;
    refs_send(a->process, WIRE_BORROW_DIGEST, &w, sizeof w);
}

static void send_compared(const struct borrow_action *a)
{
    struct wire_borrow_compared w = {.sequence = a->sequence, .differs = a->code != 0};

    refs_send(a->process, WIRE_BORROW_COMPARED, &w, sizeof w);
}

/* Frames do not get lost (D3), so this is a bug of ours. */
static void on_repaired(const struct borrow_action *a)
{
    core.counters.repairs++;
    log_broken("core",
               "borrows_repaired",
               "process=%u borrower=%u added=%llu dropped=%llu missed_frames=%u "
               "msg=\"the count of what that process borrows was wrong and is corrected\"",
               core.welcome.process,
               a->process,
               (unsigned long long)a->u.repair.n_added,
               (unsigned long long)a->u.repair.n_dropped,
               a->u.repair.n_missed);
}

void refs_set_lost(uint32_t slot, int code)
{
    uint8_t value[256];
    struct record *r = ref_table_at(core.refs, slot);
    const char *text = code == CORE_ELINK    ? "the raylet is gone"
                       : code == CORE_ENOMEM ? "no memory for the refs of an object"
                                             : "the object is gone: its owner has freed it";

    if (r->state != REF_PENDING)
        return;
    size_t n = code == CORE_EOWNER
                   ? owner_gone(value, sizeof value)
                   : owner_failure(value, sizeof value, code, 0, 0, text, "", "", "");
    if (ref_table_set(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n))
        owner_tell(r);
}

void refs_act(void)
{
    struct borrow_actions *acts = &core.borrow_actions;

    for (size_t i = 0; i < acts->n; i++) {
        struct borrow_action a = acts->v[i]; /* telling may add more */
        switch (a.kind) {
        case BORROW_SEND_OPS:
            send_ops(&a, WIRE_BORROW);
            break;
        case BORROW_SEND_ACK:
            send_ops(&a, WIRE_BORROW_ACK);
            break;
        case BORROW_SEND_SEEN: {
            struct wire_seen w = {.counter = a.counter};
            refs_send(a.process, WIRE_SEEN, &w, sizeof w);
            break;
        }
        case BORROW_TASK_FREE:
            core.task_free = true; /* one body runs at a time */
            poller_wake_all();
            break;
        case BORROW_LOST:
            if (record_word(ref_table_at(core.refs, a.slot)) == a.counter)
                refs_set_lost(a.slot, a.code);
            break;
        case BORROW_SEND_DIGEST:
            send_digest(&a);
            break;
        case BORROW_SEND_COMPARED:
            send_compared(&a);
            break;
        case BORROW_SEND_LIST:
            send_list(&a);
            break;
        case BORROW_REPAIRED:
            on_repaired(&a);
            break;
        }
    }
    acts->n = 0;
}

void refs_flush(void)
{
    if (core.borrow == NULL)
        return;
    uint64_t due = borrow_next_deadline(core.borrow);
    if (due != UINT64_MAX) {
        uint64_t now = clock_now_ns();
        if (now >= due)
            borrow_on_time(core.borrow, now);
    }
    if (borrow_has_news(core.borrow))
        borrow_flush(core.borrow, clock_now_ns(), &core.borrow_actions);
    if (core.borrow_actions.n > 0)
        refs_act();
}

/* --- frames --- */

/* n of them, from malloc; NULL: there are not so many, or there is no memory. */
static uint64_t *copy_words(const uint8_t *at, size_t size, uint32_t n)
{
    if (size / sizeof(uint64_t) < n)
        return NULL;
    uint64_t *words = try_alloc(NULL, n * sizeof *words + 1);
    if (words != NULL)
        memcpy(words, at, n * sizeof *words);
    return words;
}

static bool on_words(uint32_t from, uint8_t type, const uint8_t *body, size_t size)
{
    struct wire_borrow w;
    bool ok = true;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    uint64_t *words = copy_words(body + sizeof w, size - sizeof w, w.n);
    if (words == NULL)
        return false;
    if (type == WIRE_BORROW)
        ok = borrow_on_ops(core.borrow, from, w.sequence, words, w.n);
    else
        borrow_on_ack(core.borrow, from, w.sequence, words, w.n, &core.borrow_actions);
    free(words);
    return ok;
}

static bool on_list(uint32_t from, const uint8_t *body, size_t size)
{
    struct wire_borrow_list w;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    uint64_t *words = copy_words(body + sizeof w, size - sizeof w, w.n);
    if (words == NULL)
        return false;
    struct borrow_range r = {.low = w.low, .high = w.high, .is_first = w.is_first != 0};
    bool ok = borrow_on_list(core.borrow, from, w.sequence, &r, words, w.n);
    free(words);
    return ok;
}

static bool on_digest(uint32_t from, const uint8_t *body, size_t size)
{
    struct wire_borrow_digest w;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    struct borrow_digest d = {.sequence = w.sequence,
                              .acked = w.acked,
                              .n = w.n,
                              .sum = w.sum,
                              .is_overdue = w.is_overdue != 0};
    borrow_on_digest(core.borrow, from, &d);
    return true;
}

static bool on_compared(uint32_t from, const uint8_t *body, size_t size)
{
    struct wire_borrow_compared w;

    if (size < sizeof w)
        return false;
    memcpy(&w, body, sizeof w);
    borrow_on_compared(core.borrow, from, w.sequence, w.differs != 0, &core.borrow_actions);
    return true;
}

static void on_dead(const uint8_t *body, size_t size)
{
    struct wire_process_dead w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    list_for_each_safe(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->process != w.process || p->is_raylet)
            continue;
        while (p->route == 0 && p->link != NULL && peer_read(p))
            continue; /* what it said before it died counts */
    }
    borrow_on_process_dead(core.borrow, w.process, core.read_ns, &core.borrow_actions);
    call_on_process_dead(w.process);
    want_on_process_dead(w.process);
    list_for_each_safe(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if ((p->route & WIRE_ROUTE_PROCESS) != 0 && p->process == w.process)
            peer_end(p, &(struct err){.code = ERR_DIED, .text = "the process is gone"});
    }
}

void refs_on_frame(struct peer *p, uint8_t type, const uint8_t *body, size_t size)
{
    bool ok = true;

    if (core.borrow == NULL || (type != WIRE_PROCESS_DEAD && p->process == 0))
        return;
    switch (type) {
    case WIRE_PROCESS_DEAD:
        on_dead(body, size);
        break;
    case WIRE_BORROW:
    case WIRE_BORROW_ACK:
        ok = on_words(p->process, type, body, size);
        break;
    case WIRE_BORROW_DIGEST:
        ok = on_digest(p->process, body, size);
        break;
    case WIRE_BORROW_COMPARED:
        ok = on_compared(p->process, body, size);
        break;
    case WIRE_BORROW_LIST:
        ok = on_list(p->process, body, size);
        break;
    case WIRE_SEEN: {
        struct wire_seen w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        borrow_on_seen(core.borrow, p->process, w.counter);
        break;
    }
    case WIRE_WANT:
    case WIRE_OBJECT:
    case WIRE_OBJECT_ACK:
        ok = want_on_frame(p->process, type, body, size);
        break;
    default:
        break;
    }
    if (core.borrow_actions.n > 0)
        refs_act();
    if (!ok)
        peer_end(p, &(struct err){.code = ERR_PROTOCOL, .text = "malformed frame about refs"});
}

void refs_on_raylet_lost(void)
{
    for (uint32_t slot = 1; core.refs != NULL && slot < ref_table_end(core.refs); slot++) {
        const struct record *r = ref_table_at(core.refs, slot);
        if (r->state == REF_PENDING && (r->flags & REF_BORROWED) != 0)
            refs_set_lost(slot, CORE_ELINK);
    }
}
