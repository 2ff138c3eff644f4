/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call in a worker: its arguments are made readable, its body runs, its returns go out with
 * DONE. One body runs at a time.
 */
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

struct given {
    uint64_t offset, size; /* in reply.bytes */
    uint32_t refs, n_refs; /* in reply.slots */
    uint8_t meta;
    bool is_given, is_stored;
    struct store_extent extent;
};

/* What the running body has returned so far; one body at a time. */
static struct {
    uint8_t *bytes;
    size_t size, room;
    uint32_t *slots; /* of the refs inside, held */
    size_t n_slots, slots_room;
    struct given returns[CORE_RETURNS_MAX];
    bool failed;
    size_t failure_size;
    uint8_t failure[2048];
    /* arguments that nobody has any more: the task is to run elsewhere, or later */
    struct wire_lost *lost;
    unsigned n_lost, lost_room;
    char why_lost[sizeof((struct err *)0)->text];
} reply;

/* The arguments of the running body. */
static struct {
    struct core_arg *v;
    struct wire_value *parsed; /* as they came */
    unsigned room;
    uint64_t *words; /* of the refs inside */
    uint32_t *slots; /* the same refs, each once; held, and with a handle, while the body runs */
    size_t n_words, n_slots, refs_room;
    struct pinned {
        uint64_t place;
        int32_t pin;
    } * pins;
    unsigned n_pins, pins_room;
    uint32_t caller; /* process */
} args;

/* Does a return go with DONE? Not a large one, nor many that are too large together. */
static bool fits_inline(uint64_t size, uint64_t n_refs)
{
    return size <= CORE_INLINE_MAX
           && reply.size + size + (reply.n_slots + n_refs) * sizeof(struct wire_ref)
                  <= CORE_ARGS_MAX;
}

/* Room for size more bytes in the reply. */
static bool make_room(size_t size)
{
    if (reply.size + size > reply.room) {
        size_t room = 2 * (reply.size + size) + 4096;
        uint8_t *p = try_alloc(reply.bytes, room);
        if (p == NULL)
            return false;
        reply.bytes = p;
        reply.room = room;
    }
    return true;
}

/* And for n more slots, with the lock held: others look at them. */
static bool make_slots(uint32_t n)
{
    if (reply.n_slots + n > reply.slots_room) {
        size_t room = 2 * (reply.n_slots + n) + 64;
        uint32_t *p = try_alloc(reply.slots, room * sizeof *p);
        if (p == NULL)
            return false;
        reply.slots = p;
        reply.slots_room = room;
    }
    return true;
}

/* Return i with the refs inside, which are held from now on. NULL and *code. The lock is held if
 * there are refs. */
static struct given *give(unsigned i,
                          uint8_t meta,
                          uint64_t size,
                          const uint64_t *refs,
                          uint32_t n_refs,
                          int *code)
{
    struct given *g = &reply.returns[i];

    for (uint32_t k = 0; k < n_refs; k++)
        if (ref_table_find(core.refs, refs[k]) == NULL) {
            *code = CORE_ESTALE;
            return NULL;
        }
    *g = (struct given){.offset = reply.size,
                        .size = size,
                        .meta = meta,
                        .is_given = true,
                        .refs = (uint32_t)reply.n_slots,
                        .n_refs = n_refs};
    for (uint32_t k = 0; k < n_refs; k++) {
        struct record *r = ref_table_find(core.refs, refs[k]);
        r->held++;
        reply.slots[reply.n_slots++] = r->slot;
    }
    *code = CORE_OK;
    return g;
}

/* Its refs go behind the data. */
static void give_extent(struct given *g, const struct store_extent *e)
{
    g->is_stored = true;
    g->extent = *e;
    if (g->n_refs > 0)
        refs_put(reply.slots + g->refs,
                 g->n_refs,
                 (uint8_t *)store_client_write(core.store, e) + refs_trailer(g->size));
}

int core_call_return(struct core_call *call,
                     unsigned i,
                     uint8_t meta,
                     const void *bytes,
                     size_t size,
                     const uint64_t *refs,
                     uint32_t n_refs,
                     struct err *err)
{
    bool is_stored = size > 0 && !fits_inline(size, n_refs);
    struct store_extent e;
    int code = CORE_OK;

    if (i >= call->n_returns || reply.returns[i].is_given)
        return CORE_EARG;
    if (!make_room(is_stored ? 0 : size))
        return CORE_ENOMEM;
    if (!is_stored && n_refs == 0) {
        give(i, meta, size, NULL, 0, &code);
        if (size > 0)
            memcpy(reply.bytes + reply.size, bytes, size);
        reply.size += size;
        return CORE_OK;
    }
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    if (!make_slots(n_refs)) {
        core_unlock();
        return CORE_ENOMEM;
    }
    if (is_stored)
        code = objects_alloc(size, n_refs, &e, err);
    if (code == CORE_OK && is_stored) {
        core_unlock();
        code = objects_fill(&e, bytes, size, err);
        core_lock();
        if (code != CORE_OK)
            objects_abort(&e);
    }
    struct given *g = code == CORE_OK ? give(i, meta, size, refs, n_refs, &code) : NULL;
    if (g != NULL && is_stored) {
        give_extent(g, &e);
    } else if (g != NULL) {
        memcpy(reply.bytes + reply.size, bytes, size);
        reply.size += size;
    } else if (is_stored && code == CORE_ESTALE) {
        objects_abort(&e);
    }
    core_unlock();
    return code;
}

int core_call_return_buffer(struct core_call *call,
                            unsigned i,
                            uint8_t meta,
                            struct core_buffer *buffer,
                            const uint64_t *refs,
                            uint32_t n_refs,
                            struct err *err)
{
    uint64_t size = buffer->size;
    struct given *g = NULL;
    struct open_buffer b;
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    if (!put_take_buffer(buffer, &b)) {
        core_unlock();
        err_set(err, ERR_INVALID, "the buffer was sealed, returned or given up before");
        return CORE_EARG;
    }
    if (i >= call->n_returns || reply.returns[i].is_given) {
        code = CORE_EARG;
    } else if (!put_fits(&b, size, n_refs)) {
        code = CORE_EARG;
        err_set(err,
                ERR_INVALID,
                "a buffer of %llu bytes cannot be returned as one of %llu",
                (unsigned long long)b.size,
                (unsigned long long)size);
    } else if (b.place == 0) {
        core_unlock();
        code = core_call_return(call, i, meta, b.data, size, refs, n_refs, err);
        free(b.data);
        return code;
    } else if (!make_slots(n_refs)) {
        code = CORE_ENOMEM;
    } else {
        g = give(i, meta, size, refs, n_refs, &code);
    }
    if (g != NULL) {
        struct store_extent e = put_extent_of(&b);
        give_extent(g, &e);
    } else {
        put_abort(&b);
    }
    core_unlock();
    return code;
}

void core_call_fail(struct core_call *call, enum core_code code, const char *text, const char *file)
{
    char log[sizeof core.log_path + 8];

    snprintf(log, sizeof log, "%s.err", core.log_path);
    reply.failed = true;
    reply.failure_size = owner_failure(reply.failure,
                                       sizeof reply.failure,
                                       code,
                                       getpid(),
                                       0,
                                       text,
                                       call->name,
                                       file,
                                       log);
}

/* --- arguments --- */

/* at points to a pointer, to room for n of that size from now on; false: no memory. */
static bool grow(void *at, size_t n, size_t size)
{
    void *v;

    memcpy(&v, at, sizeof v);
    v = try_alloc(v, n * size);
    if (v != NULL)
        memcpy(at, &v, sizeof v);
    return v != NULL;
}

/* Read the headers of the arguments and make room for what they hold. false: malformed, or there
 * is no room. */
static bool parse_args(const uint8_t *p, size_t size, unsigned n)
{
    const uint8_t *end = p + size;
    size_t n_refs = 0;
    unsigned n_pins = 0;

    if (n > size / sizeof(struct wire_arg))
        return false;
    if (n > args.room) {
        if (!grow(&args.v, n, sizeof *args.v) || !grow(&args.parsed, n, sizeof *args.parsed))
            return false;
        args.room = n;
    }
    for (unsigned i = 0; i < n; i++) {
        struct wire_value *v = &args.parsed[i];
        if (!refs_parse(&p, end, v))
            return false;
        n_refs += v->n_refs;
        n_pins += v->is_stored;
    }
    if (n_refs > args.refs_room) {
        if (!grow(&args.words, n_refs, sizeof *args.words)
            || !grow(&args.slots, n_refs, sizeof *args.slots))
            return false;
        args.refs_room = n_refs;
    }
    if (n_pins > args.pins_room) {
        if (!grow(&args.pins, n_pins, sizeof *args.pins))
            return false;
        args.pins_room = n_pins;
    }
    args.n_words = args.n_slots = args.n_pins = 0;
    return true;
}

/* The refs inside an argument: each has a handle while the body runs. */
static bool take_refs(const struct wire_value *v, struct core_arg *out)
{
    uint32_t *slots = args.slots + args.n_slots;
    uint64_t *words = args.words + args.n_words;

    if (!refs_learn(v->refs, v->n_refs, slots))
        return false;
    for (uint32_t i = 0; i < v->n_refs; i++) {
        struct record *r = ref_table_at(core.refs, slots[i]);
        words[i] = record_word(r);
        if ((r->flags & REF_ARGUMENT) != 0) { /* it is in the list */
            ref_table_unhold(core.refs, r);
            continue;
        }
        r->flags |= REF_ARGUMENT;
        r->count++;
        args.slots[args.n_slots++] = r->slot;
    }
    args.n_words += v->n_refs;
    out->refs = words;
    out->n_refs = v->n_refs;
    return true;
}

/* The caller holds the running body's arguments no more; the body may keep or hand them on. */
void call_on_process_dead(uint32_t process)
{
    if (core.in_body && args.caller == process && args.n_slots > 0)
        borrow_guard(core.borrow,
                     BORROW_GUARD_REPLY, /* nobody is to hear of it */
                     process,
                     0,
                     0,
                     args.slots,
                     (uint32_t)args.n_slots,
                     &core.borrow_actions);
}

static void fail_argument(struct core_call *call, unsigned i, enum core_code code, const char *why)
{
    char text[sizeof((struct err *)0)->text + 64];

    snprintf(text, sizeof text, "argument %u %s", i, why);
    core_call_fail(call, code, text, "");
}

/* The error of an argument is the task's. */
static void take_error(struct core_call *call, unsigned i, const void *bytes, size_t size)
{
    if (reply.failed)
        return;
    if (size > sizeof reply.failure) {
        fail_argument(call, i, CORE_ETASK, "is an error longer than errors are");
        return;
    }
    reply.failed = true;
    reply.failure_size = size;
    memcpy(reply.failure, bytes, size); /* the argument is let go before the answer */
}

/* An argument that came as a ref becomes its value, which its owner has; its record keeps it. */
static void fetch(struct core_call *call, unsigned i)
{
    struct core_arg *a = &args.v[i];
    struct waiter w = {.n_missing = 1};
    struct ref_waiter rw = {.kind = REF_WAITER_THREAD, .u.thread = &w};
    struct record *r = ref_table_at(core.refs, (uint32_t)a->refs[0]);

    list_init(&w.node);
    if (r->state == REF_PENDING) {
        owner_ref_add_waiter(r, &rw);
        while (w.n_missing > 0)
            poller_wait(&w, UINT64_MAX, NULL, 0);
        owner_ref_remove_waiter(&rw);
        poller_leave();
    }
    if ((r->flags & REF_STORED) != 0) { /* then it would have come as such */
        core_call_fail(call, CORE_ELOST, "an argument came from its owner in another form", "");
        return;
    }
    *a = (struct core_arg){.bytes = record_value(r), .size = r->size, .meta = r->meta};
    if (r->meta == WIRE_META_ERROR)
        take_error(call, i, a->bytes, a->size);
}

/* false: no memory. */
static bool add_lost(unsigned i, const struct wire_stored *s, const struct err *why)
{
    if (reply.n_lost == reply.lost_room) {
        if (!grow(&reply.lost, 2 * reply.lost_room + 16, sizeof *reply.lost))
            return false;
        reply.lost_room = 2 * reply.lost_room + 16;
    }
    reply.lost[reply.n_lost++] =
        (struct wire_lost){.argument = (uint16_t)i, .attempt = s->key.attempt, .node = s->node};
    snprintf(reply.why_lost, sizeof reply.why_lost, "%s", why->text);
    return true;
}

/* So does one that lies in another node's store; k is its pin. Mostly it has been asked for when
 * the task came. */
static void bring(struct core_call *call, unsigned i, struct pinned *k)
{
    const struct wire_stored *s = &args.parsed[i].stored;
    struct err why;

    if (reply.failed)
        return;
    int code = pull_bring(s,
                          0,
                          WIRE_PULL_ARGUMENT,
                          &k->place,
                          &k->pin,
                          UINT64_MAX,
                          &args.v[i].bytes,
                          &why);
    poller_leave();
    args.v[i].size = s->size;
    if (code == CORE_OK || (code == CORE_ELOST && remake_is_loss(&why) && add_lost(i, s, &why)))
        return;
    char text[sizeof why.text + 32];
    snprintf(text, sizeof text, "cannot be read here: %s", why.text);
    fail_argument(call, i, code, text);
}

/* Those that are still to come, when all others are there. */
static void wait_for_args(struct core_call *call)
{
    unsigned n_pins = 0;

    for (unsigned i = 0; i < call->n_args; i++) {
        const struct wire_value *v = &args.parsed[i];
        if (v->is_by_ref)
            fetch(call, i);
        else if (v->is_elsewhere)
            bring(call, i, &args.pins[n_pins]);
        n_pins += v->is_stored;
    }
}

/* Make the arguments of a PUSH body readable; what cannot be fails the call. false: malformed. */
static bool take_args(struct core_call *call, const uint8_t *p, size_t size, unsigned n)
{
    unsigned n_to_come = 0;

    if (!parse_args(p, size, n))
        return false;
    for (unsigned i = 0; i < n; i++) {
        const struct wire_value v = args.parsed[i];
        struct core_arg *a = &args.v[i];
        *a = (struct core_arg){.bytes = v.bytes, .size = v.size, .meta = v.meta};
        if (v.is_by_ref) {
            if (!take_refs(&v, a)) {
                fail_argument(call, i, CORE_ENOMEM, "has no memory");
                return true;
            }
            refs_want(ref_table_at(core.refs, (uint32_t)a->refs[0]));
            n_to_come++;
            continue;
        }
        if (v.meta == WIRE_META_ERROR)
            take_error(call, i, v.bytes, v.size); /* freed since the task was submitted */
        if (v.is_elsewhere) {
            args.pins[args.n_pins++] = (struct pinned){.place = v.stored.copy, .pin = REF_NO_PIN};
            n_to_come++;
        } else if (v.is_stored) {
            struct pinned *k = &args.pins[args.n_pins];
            k->place = v.stored.place;
            if (!objects_pin(k->place, &k->pin)) {
                fail_argument(call, i, CORE_ELOST, "is gone: its owner freed it, or died");
                return true;
            }
            args.n_pins++;
            a->bytes = objects_read(v.stored.offset, v.stored.size);
            a->size = v.stored.size;
        }
        if (v.n_refs > 0 && !take_refs(&v, a)) {
            fail_argument(call, i, CORE_ENOMEM, "holds more refs than there is memory for");
            return true;
        }
    }
    call->args = args.v;
    call->n_args = n;
    if (n_to_come > 0)
        wait_for_args(call);
    return true;
}

/* The body is over: what it keeps of the refs inside its arguments, or gives on, is registered with
 * the owners before DONE lets the caller forget them. */
static void let_args_go(const struct wire_push *w)
{
    struct waiter waiter = {.n_missing = 1};
    uint32_t n_kept = 0;

    for (unsigned i = 0; i < args.n_pins; i++)
        objects_unpin(args.pins[i].place, &args.pins[i].pin);
    args.n_pins = 0;
    if (args.n_slots == 0)
        return;
    for (size_t i = 0; i < args.n_slots; i++) {
        struct record *r = ref_table_at(core.refs, args.slots[i]);
        r->flags &= (uint16_t)~REF_ARGUMENT;
        ref_table_drop(core.refs, r);
        if (r->count == 0 && r->held == 1)
            ref_table_unhold(core.refs, r);
        else
            args.slots[n_kept++] = r->slot;
    }
    core.task_free = false;
    borrow_guard(core.borrow,
                 BORROW_GUARD_TASK,
                 args.caller,
                 w->counter,
                 0,
                 args.slots,
                 n_kept,
                 &core.borrow_actions);
    ref_table_unhold_all(core.refs, args.slots, n_kept);
    args.n_slots = 0;
    refs_flush();
    list_init(&waiter.node);
    while (!core.task_free)
        poller_wait(&waiter, UINT64_MAX, NULL, 0);
    poller_leave();
}

void call_for_each_hold(void (*f)(void *arg, uint32_t slot), void *arg)
{
    for (size_t i = 0; i < args.n_slots; i++)
        f(arg, args.slots[i]);
    for (size_t i = 0; i < reply.n_slots; i++)
        f(arg, reply.slots[i]);
}

bool call_next_pin(unsigned i, uint64_t *place, int32_t *pin)
{
    if (i >= args.n_pins)
        return false;
    *place = args.pins[i].place;
    *pin = args.pins[i].pin;
    return true;
}

/* Lines of a task are told apart by a marker in the log, written when the function changes (Ray's
 * way). */
static void mark_logs(const char *name)
{
    char line[80];

    if (strcmp(core.marked, name) == 0)
        return;
    snprintf(core.marked, sizeof core.marked, "%s", name);
    fflush(stdout);
    int n = snprintf(line, sizeof line, ":task_name:%s\n", name);
    for (int fd = 1; fd <= 2; fd++) {
        ssize_t r = write(fd, line, (size_t)n);
        (void)r;
    }
}

struct task_id core_call_task(const struct core_call *call)
{
    return task_id_make((struct job_id){core.welcome.job}, call->owner, call->counter);
}

/* --- answers --- */

static bool goes_out(const struct given *g)
{
    return g->is_given && !reply.failed;
}

/* Its refs go with it: those of a stored one only if the caller cannot look behind its data. */
static bool has_refs(const struct given *g)
{
    return g->n_refs > 0
           && (!g->is_stored || core.lease_peer->node_number != core.welcome.node_number);
}

/* Of a return on the wire: everything before its bytes, or before wire_stored. */
static size_t head_size(const struct given *g)
{
    return sizeof(struct wire_arg)
           + (has_refs(g) ? sizeof g->n_refs + g->n_refs * sizeof(struct wire_ref) : 0);
}

static size_t size_of(const struct given *g)
{
    if (!goes_out(g))
        return sizeof(struct wire_arg) + reply.failure_size;
    return head_size(g) + (g->is_stored ? sizeof(struct wire_stored) : g->size);
}

static uint8_t *put_return(const struct given *g, const struct wire_key *key, uint8_t *at)
{
    struct wire_arg a = {.size = (uint32_t)g->size, .meta = g->meta};
    const void *bytes = g->size > 0 ? reply.bytes + g->offset : NULL;
    struct wire_stored stored;

    if (!goes_out(g)) {
        a = (struct wire_arg){.size = (uint32_t)reply.failure_size, .meta = WIRE_META_ERROR};
        bytes = reply.failure;
    } else if (g->is_stored) {
        stored = (struct wire_stored){.place = g->extent.place,
                                      .offset = g->extent.offset,
                                      .size = g->size,
                                      .n_refs = g->n_refs,
                                      .node = core.welcome.node_number,
                                      .key = *key};
        a = (struct wire_arg){.size = sizeof stored, .meta = g->meta | WIRE_VALUE_STORED};
        bytes = &stored;
    }
    bool is_with_refs = goes_out(g) && has_refs(g);
    if (is_with_refs)
        a.meta |= g->is_stored ? WIRE_VALUE_INNER : WIRE_VALUE_REFS;
    memcpy(at, &a, sizeof a);
    at += sizeof a;
    if (is_with_refs) {
        memcpy(at, &g->n_refs, sizeof g->n_refs);
        at += sizeof g->n_refs;
        refs_put(reply.slots + g->refs, g->n_refs, at);
        at += g->n_refs * sizeof(struct wire_ref);
    }
    if (a.size > 0)
        memcpy(at, bytes, a.size);
    return at + a.size;
}

/* Results in the store become the owner's, or memory again if nobody will hear of them. */
static void settle_extents(const struct wire_push *w, const struct core_call *call, bool heard)
{
    struct object_name name = {.counter = w->counter, .attempt = w->attempt};

    for (unsigned i = 0; i < call->n_returns; i++) {
        const struct given *g = &reply.returns[i];
        if (!g->is_given || !g->is_stored)
            continue;
        if (!heard || reply.failed) {
            objects_abort(&g->extent);
            continue;
        }
        name.owner = core.lease_peer->process;
        name.index = i + 1;
        objects_seal(&g->extent, g->size, g->meta, g->n_refs, &name);
    }
}

/* The caller has them when it says so; until then they are held here. */
static void settle_refs(const struct wire_push *w, bool heard)
{
    if (reply.n_slots == 0)
        return;
    if (heard && !reply.failed)
        borrow_hold_reply(core.borrow,
                          core.lease_peer->process,
                          w->counter,
                          reply.slots,
                          (uint32_t)reply.n_slots);
    else
        ref_table_unhold_all(core.refs, reply.slots, (uint32_t)reply.n_slots);
    reply.n_slots = 0;
}

/* The caller makes them again, or knows why not. */
static void answer_lost(const struct wire_push *w)
{
    struct peer *p = core.lease_peer;
    struct wire_done d = {.lease = w->lease,
                          .slot = w->slot,
                          .failed = WIRE_DONE_LOST,
                          .n_returns = (uint16_t)reply.n_lost};
    size_t lost = reply.n_lost * sizeof *reply.lost, text = strlen(reply.why_lost);
    uint8_t *out = core_scratch(sizeof d + lost + text);

    if (p == NULL || p->link == NULL)
        return;
    if (out == NULL) {
        peer_end(p, &(struct err){.code = ERR_FULL});
        return;
    }
    memcpy(out, &d, sizeof d);
    memcpy(out + sizeof d, reply.lost, lost);
    memcpy(out + sizeof d + lost, reply.why_lost, text);
    peer_send(p, WIRE_DONE, out, sizeof d + lost + text);
}

static void answer(const struct wire_push *w, const struct core_call *call, uint64_t run_ns)
{
    struct peer *p = core.lease_peer;
    bool heard = p != NULL && p->link != NULL;
    struct wire_done d = {.lease = w->lease,
                          .slot = w->slot,
                          .failed = reply.failed ? WIRE_DONE_FAILED : 0,
                          .n_returns = (uint16_t)call->n_returns,
                          .run_ns = run_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)run_ns};
    size_t size = sizeof d;

    for (unsigned i = 0; heard && i < call->n_returns; i++)
        size += size_of(&reply.returns[i]);
    settle_extents(w, call, heard); /* before: it may write to the same link */
    uint8_t *out = !heard                   ? NULL
                   : size <= FRAME_BODY_MAX ? peer_reserve(p, WIRE_DONE, size)
                                            : core_scratch(size);
    if (heard && out == NULL) {
        peer_end(p, &(struct err){.code = ERR_FULL});
        heard = false;
    }
    if (heard) {
        memcpy(out, &d, sizeof d);
        uint8_t *at = out + sizeof d;
        struct wire_key key = {.counter = w->counter, .owner = p->process, .attempt = w->attempt};
        for (unsigned i = 0; i < call->n_returns; i++) {
            key.index = i + 1;
            at = put_return(&reply.returns[i], &key, at);
        }
        if (size <= FRAME_BODY_MAX)
            peer_commit(p, size);
        else
            peer_send(p, WIRE_DONE, out, size);
    }
    settle_refs(w, heard);
}

static void run(struct core_call *call, bool parsed, const struct known_template *k)
{
    char text[192];

    if (reply.failed || reply.n_lost > 0)
        return; /* by an argument */
    if (k == NULL || !parsed) {
        core_call_fail(call, CORE_EARG, "malformed task", "");
        return;
    }
    if (call->body == NULL) {
        snprintf(text,
                 sizeof text,
                 "function %s is not in the worker's executable: register it with RAY_REMOTE in "
                 "the program, or link its library",
                 call->function);
        core_call_fail(call, CORE_EARG, text, "");
        return;
    }
    core.face.execute(call);
    if (atomic_load(&core.forked))
        _exit(0); /* a child that the body forked and that came back here */
    if (__fpending(stdout) > 0)
        fflush(stdout); /* a line without an end: the process may be killed any time now */
    for (unsigned i = 0; !reply.failed && i < call->n_returns; i++)
        if (!reply.returns[i].is_given) {
            snprintf(text,
                     sizeof text,
                     "ended without ray_return(call, %u, ...); it has num_returns = %u",
                     i,
                     call->n_returns);
            core_call_fail(call, CORE_ETASK, text, "");
        }
}

uint64_t call_run(const struct inbox_task *t, uint64_t start_ns)
{
    struct wire_push w;
    struct peer *p = core.lease_peer;
    const struct known_template *k = NULL;

    memcpy(&w, t->push, sizeof w);
    if (p != NULL && w.template <p->n_known)
        k = p->known[w.template];
    struct core_call call = {.function = k != NULL ? k->function : "?",
                             .name = k != NULL ? k->name : "?",
                             .body = k != NULL ? k->body : NULL,
                             .n_returns = k != NULL ? k->n_returns : 1,
                             .counter = w.counter,
                             .owner = p != NULL ? p->process : 0,
                             .attempt = w.attempt};
    for (unsigned i = 0; i < call.n_returns; i++)
        reply.returns[i].is_given = false;
    reply.size = reply.n_slots = 0;
    reply.failed = false;
    reply.n_lost = 0;
    core.in_body = true;
    args.caller = p != NULL ? p->process : 0;
    bool parsed = take_args(&call, t->push + sizeof w, t->size - sizeof w, w.n_args);
    pull_end_tasks(w.lease, 1ull << w.slot);
    core.counters.tasks_executed++;
    poller_need_helper();
    core_unlock();
    mark_logs(call.name);
    run(&call, parsed, k);
    core_lock();
    core.in_body = false;
    uint64_t now = clock_now_ns();
    if (args.n_pins + args.n_slots > 0)
        let_args_go(&w);
    if (reply.n_lost > 0 && !reply.failed)
        answer_lost(&w);
    else
        answer(&w, &call, now - start_ns);
    if (core.oldest_reply_ns == 0)
        core.oldest_reply_ns = now;
    inbox_finish(core.inbox, now, &core.inbox_actions);
    if (k != NULL && (k->flags & WIRE_TEMPLATE_NO_RETRY) != 0 && core.lease_peer != NULL)
        peer_flush(core.lease_peer);
    worker_act();
    return now;
}
