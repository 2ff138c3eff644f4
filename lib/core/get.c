/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting, waiting and releasing: what a program does with the refs it has.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

/* Who answers for this ref, and how long its body is expected to run. */
static struct peer *answerer(const struct record *r, uint64_t *run_ns)
{
    const struct record *first = remake_task_of(r);

    *run_ns = UINT64_MAX;
    if (r->state != REF_PENDING || first->state != REF_PENDING || first->u.task.lease == NULL)
        return NULL;
    *run_ns = submit_run_ns(core.submit, first->class);
    return first->u.task.lease->peer;
}

/* Sleep one round towards deadline; false: it has passed. r (or NULL) is what the caller waits for
 * most. */
static bool wait_round(struct waiter *w, uint64_t deadline, const struct record *r)
{
    uint64_t run_ns = UINT64_MAX;
    struct peer *p = r != NULL ? answerer(r, &run_ns) : NULL;

    owner_settle();
    worker_block();
    poller_wait(w, deadline, p, run_ns);
    return deadline == UINT64_MAX || clock_now_ns() < deadline;
}

/* held of a value: the record's slot, the cluster it belongs to, and whether the end waits for it.
 */
#define HELD_KEPT (1ull << 63)

static uint64_t held_of(const struct record *r)
{
    return (uint64_t)(core.life & INT32_MAX) << 32 | r->slot;
}

static void fill_error(struct core_value *out, enum core_code code, const char *text)
{
    *out = (struct core_value){.bytes = out->store, .meta = WIRE_META_ERROR};
    out->size = owner_failure(out->store, sizeof out->store, code, 0, 0, text, "", "", "");
}

/* The program freed it, and nobody reads it any more. */
static void end_freed(struct record *r)
{
    uint8_t value[128];
    size_t n = owner_freed(value, sizeof value);

    if ((r->flags & REF_STORED) != 0) {
        struct wire_stored s = refs_stored(r, NODE_UNKNOWN);
        if (refs_is_elsewhere(&r->u.stored))
            pull_end_record(&s.key, record_word(r));
        objects_free(&s);
    }
    r->flags &= (uint16_t) ~(REF_FREED | REF_LOST);
    ref_table_replace(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n);
    if (r->waiters != NULL)
        owner_tell(r);
}

void get_end_view(struct record *r)
{
    struct ref_stored *s = &r->u.stored;

    if ((r->flags & REF_STORED) == 0 || --s->n_views > 0)
        return;
    objects_unpin(refs_place_here(s), &s->pin);
    if ((r->flags & REF_FREED) != 0)
        end_freed(r);
    else if ((r->flags & REF_LOST) != 0)
        remake_end_lost(r);
}

/* An error whose sentence has no room in out: a record of its own has it. */
static void fill_long_error(struct core_value *out, enum core_code code, const char *text)
{
    uint8_t value[640];
    struct record *e = ref_table_new(core.refs);

    if (e == NULL) {
        fill_error(out, code, text);
        return;
    }
    size_t n = owner_failure(value, sizeof value, code, 0, 0, text, "", "", "");
    e->held = 1;
    e->count = 0;
    ref_table_set(core.refs, e, WIRE_META_ERROR, value, (uint32_t)n);
    *out = (struct core_value){.bytes = record_value(e),
                               .size = e->size,
                               .meta = WIRE_META_ERROR,
                               .held = held_of(e)};
    core_enter();
}

static void fill_freed(struct core_value *out)
{
    *out = (struct core_value){.bytes = out->store, .meta = WIRE_META_ERROR};
    out->size = owner_freed(out->store, sizeof out->store);
}

#define LOST (-1) /* as a code: its bytes are, it is worth waiting again */

/* A value in another node's store: as fill, which waits. */
static __attribute__((noinline)) int fill_elsewhere(struct core_value *out,
                                                    struct record *r,
                                                    uint64_t deadline)
{
    struct ref_stored *s = &r->u.stored;
    const struct wire_stored w = refs_stored(r, NODE_UNKNOWN);
    struct err why;

    s->n_views++; /* its value stays while we wait */
    int code = pull_bring(&w,
                          record_word(r),
                          WIRE_PULL_GET,
                          &s->copy,
                          &s->pin,
                          deadline,
                          &out->bytes,
                          &why);
    worker_unblock();
    if (code == CORE_OK && (r->flags & REF_FREED) == 0) {
        out->size = s->size;
        out->held = held_of(r);
        r->held++;
        core_enter();
        return CORE_OK;
    }
    bool is_freed = (r->flags & REF_FREED) != 0;
    bool is_lost = code == CORE_ELOST && !is_freed && remake_is_loss(&why)
                   && remake_lost(r, w.key.attempt, w.node);
    get_end_view(r);
    if (is_lost)
        owner_act();
    core_have_news();
    if (is_lost)
        return LOST;
    if (is_freed)
        fill_freed(out);
    else if (code == CORE_ETIMEOUT)
        return code;
    else if ((r->flags & REF_BORROWED) != 0 && borrow_is_dead(core.borrow, r->extra->owner))
        fill_error(out, CORE_EOWNER, "the object's owner is gone");
    else
        fill_long_error(out, code, why.text);
    return CORE_OK;
}

static void fill_stored(struct core_value *out, struct record *r)
{
    struct ref_stored *s = &r->u.stored;

    s->n_views++; /* the pin may wait without the lock */
    if ((r->flags & REF_BORROWED) != 0 && s->pin == REF_NO_PIN && !objects_pin(s->place, &s->pin)) {
        s->n_views--;
        if (core.raylet->link == NULL)
            fill_error(out, CORE_ELINK, "the raylet is gone");
        else if (borrow_is_dead(core.borrow, r->extra->owner))
            fill_error(out, CORE_EOWNER, "the object's owner is gone");
        else
            fill_error(out, CORE_ELOST, "the object was freed by its owner");
        core_have_news(); /* the raylet may wait for what we looked at */
        return;
    }
    out->bytes = objects_read(s->offset, s->size);
    out->size = s->size;
    out->held = held_of(r);
    r->held++;
    core_enter();
}

/* The value of a ready record; one that is elsewhere is brought here by the deadline, which if 0
 * follows from the timeout. CORE_OK, CORE_ETIMEOUT or LOST. */
static int fill(struct core_value *out, struct record *r, uint64_t deadline, int64_t timeout_ms)
{
    out->meta = r->meta;
    out->held = 0;
    out->n_refs = r->extra != NULL ? r->extra->n_inner : 0;
    if ((r->flags & REF_FREED) != 0) {
        fill_freed(out);
    } else if ((r->flags & REF_STORED) != 0) {
        if (refs_is_elsewhere(&r->u.stored))
            return fill_elsewhere(out,
                                  r,
                                  deadline > 0 || timeout_ms == 0 ? deadline
                                                                  : core_deadline(timeout_ms));
        fill_stored(out, r);
    } else if (r->size <= sizeof out->store && out->n_refs == 0) {
        memcpy(out->store, record_value(r), r->size);
        out->bytes = out->store;
        out->size = r->size;
    } else {
        out->bytes = record_value(r);
        out->size = r->size;
        out->held = held_of(r);
        r->held++;
        core_enter();
    }
    return CORE_OK;
}

/* Handles that the program may let go; one of a ref inside an argument is the running body's. */
static uint32_t n_handles(const struct record *r)
{
    return r->count - ((r->flags & REF_ARGUMENT) != 0 ? 1 : 0);
}

static int get(uint64_t ref, int64_t timeout_ms, bool take, struct core_value *out)
{
    struct waiter w = {.n_missing = 1};
    struct ref_waiter rw = {.kind = REF_WAITER_THREAD, .u.thread = &w};
    uint64_t deadline = 0; /* the clock is not looked at for what is there */
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL || (take && n_handles(r) == 0)) {
        core_unlock();
        return CORE_ESTALE;
    }
    core_enter();
    r->held++;
    do {
        if (record_is_missing(r) && timeout_ms == 0) {
            refs_want(r);
            poller_poll();
        }
        if (record_is_missing(r) && timeout_ms != 0) {
            deadline = deadline > 0 ? deadline : core_deadline(timeout_ms);
            w.n_missing = 1;
            owner_ref_add_waiter(r, &rw);
            while (w.n_missing > 0 && wait_round(&w, deadline, r))
                continue;
            owner_ref_remove_waiter(&rw);
            worker_unblock();
        }
        if (record_is_missing(r))
            code = CORE_ETIMEOUT;
        else if (r->count == 0)
            code = CORE_ESTALE; /* another thread released it meanwhile */
        else
            code = fill(out, r, deadline, timeout_ms);
    } while (code == LOST);
    if (take && code == CORE_OK && n_handles(r) > 0)
        ref_table_drop(core.refs, r);
    ref_table_unhold(core.refs, r);
    poller_leave();
    core_leave();
    core_unlock();
    return code;
}

int core_get(uint64_t ref, int64_t timeout_ms, struct core_value *out)
{
    return get(ref, timeout_ms, false, out);
}

int core_take(uint64_t ref, int64_t timeout_ms, struct core_value *out)
{
    return get(ref, timeout_ms, true, out);
}

/* The record that a value holds; NULL: of a cluster that has ended. */
static struct record *holder_of(const struct core_value *value)
{
    uint64_t cluster = (value->held & ~HELD_KEPT) >> 32;

    if (core.refs == NULL || cluster != (core.life & INT32_MAX))
        return NULL;
    return ref_table_at(core.refs, (uint32_t)value->held);
}

void core_value_keep(struct core_value *value)
{
    if (value->held == 0 || (value->held & HELD_KEPT) != 0 || core_is_forked())
        return;
    core_lock();
    value->held |= HELD_KEPT;
    core_leave();
    core_unlock();
}

void core_value_drop(struct core_value *value)
{
    if (value->held == 0 || core_is_forked())
        return;
    core_lock();
    struct record *r = holder_of(value);
    if (r != NULL) {
        get_end_view(r);
        ref_table_unhold(core.refs, r);
        if ((value->held & HELD_KEPT) == 0)
            core_leave();
        core_have_news();
    }
    core_unlock();
    value->held = 0;
}

uint64_t core_value_ref(const struct core_value *value, uint32_t i)
{
    uint64_t word = 0;

    if (value->held == 0 || core_is_forked())
        return 0;
    core_lock();
    const struct record *r = holder_of(value);
    if (r != NULL && r->extra != NULL && i < r->extra->n_inner) {
        struct record *inner = ref_table_at(core.refs, r->extra->inner[i]);
        inner->count++;
        word = record_word(inner);
    }
    core_unlock();
    return word;
}

int core_free(uint64_t ref)
{
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL)
        code = CORE_ESTALE;
    else if ((r->flags & REF_BORROWED) != 0)
        code = CORE_EOWNER;
    else if (r->state != REF_READY)
        code = CORE_EARG;
    else if ((r->flags & REF_FREED) == 0 && r->meta != WIRE_META_ERROR) {
        bool is_read = (r->flags & REF_STORED) != 0 ? r->u.stored.n_views > 0 : r->held > 0;
        r->flags |= REF_FREED;
        if (!is_read)
            end_freed(r);
        core_have_news();
    }
    core_unlock();
    return code;
}

int core_get_object(uint64_t ref, struct core_object *out)
{
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    const struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r != NULL) {
        bool is_borrowed = (r->flags & REF_BORROWED) != 0;
        uint32_t owner = is_borrowed ? r->extra->owner : core.welcome.process;
        *out = (struct core_object){
            .is_ready = r->state == REF_READY,
            .is_error = r->state == REF_READY
                        && (r->meta == WIRE_META_ERROR || (r->flags & REF_FREED) != 0),
            .is_owned = !is_borrowed,
            .in_store = r->state == REF_READY && (r->flags & REF_STORED) != 0,
            .n_refs = r->extra != NULL ? r->extra->n_inner : 0};
        if (out->is_ready)
            out->size = out->in_store ? r->u.stored.size : r->size;
        struct task_id task = task_id_make((struct job_id){core.welcome.job}, owner, r->counter);
        out->id = object_id_make(&task, record_index(r));
    }
    core_unlock();
    return r != NULL ? CORE_OK : CORE_ESTALE;
}

/* Of a READY one. Most are not in a store. */
static bool is_here(const struct record *r)
{
    return (r->flags & REF_STORED) == 0 || pull_is_here(r);
}

/* What a wait sees first. With num_returns of them here, and none to be brought, it has its answer:
 * *n_ready are marked in ready. Else *n_ready is 0, and each is held. A code: all must live, and be
 * different. */
static int look_first(const uint64_t *refs,
                      size_t n,
                      size_t num_returns,
                      bool *ready,
                      size_t *n_ready)
{
    size_t n_marked = 0, n_here = 0, n_elsewhere = 0;
    int code = CORE_OK;

    for (; n_marked < n; n_marked++) {
        struct record *r = ref_table_find(core.refs, refs[n_marked]);
        if (r == NULL || (r->flags & REF_MARKED) != 0) {
            code = r == NULL ? CORE_ESTALE : CORE_EARG;
            break;
        }
        r->flags = (uint16_t)((r->flags & ~REF_CAME) | REF_MARKED);
        if (r->state != REF_READY)
            continue;
        if (is_here(r))
            n_here++;
        else
            n_elsewhere++;
    }
    bool is_enough = code == CORE_OK && n_here >= num_returns && n_elsewhere == 0;
    *n_ready = 0;
    for (size_t i = 0; i < n_marked; i++) {
        struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        r->flags &= (uint16_t)~REF_MARKED;
        r->held += code == CORE_OK && !is_enough;
        if (is_enough) {
            ready[i] = *n_ready < num_returns && r->state == REF_READY;
            *n_ready += ready[i];
        }
    }
    return code;
}

/* How many are ready and on this machine; and ready elsewhere. */
static size_t count_here(const uint64_t *refs, size_t n, size_t *n_elsewhere)
{
    size_t n_here = 0;

    *n_elsewhere = 0;
    for (size_t i = 0; i < n; i++) {
        const struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        if (r->state != REF_READY)
            continue;
        if (is_here(r))
            n_here++;
        else
            ++*n_elsewhere;
    }
    return n_here;
}

#define SPARE_MAX 16384
#define LOOKS     64 /* at all refs, of one wait for them */

/* What waiting for many needs, kept for the next time: a warm program does not allocate. */
static struct ref_waiter *spare;
static size_t spare_n;

static struct ref_waiter *take_waiters(size_t *n)
{
    struct ref_waiter *v = spare;

    if (v == NULL || spare_n < *n)
        return try_alloc(NULL, *n * sizeof *v);
    *n = spare_n;
    spare = NULL;
    return v;
}

static void give_waiters(struct ref_waiter *v, size_t n)
{
    if (n > SPARE_MAX || (spare != NULL && spare_n >= n)) {
        free(v);
        return;
    }
    free(spare);
    spare = v;
    spare_n = n;
}

/* Until n_missing more of them, which the caller holds, are ready, or one that carries an error;
 * or, with fetch, for those that are ready something has come. CORE_OK or CORE_ETIMEOUT. */
static int await_some(const uint64_t *refs,
                      size_t n,
                      size_t n_missing,
                      bool ends_at_error,
                      bool fetch,
                      uint64_t deadline)
{
    struct waiter w = {.ends_at_error = ends_at_error};
    size_t n_rws = n;
    struct ref_waiter *rws = take_waiters(&n_rws);
    const struct record *last = NULL;
    bool is_late = false, is_coming = false;

    if (rws == NULL)
        return CORE_ENOMEM;
    list_init(&w.node);
    for (size_t i = 0; i < n; i++) {
        struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        rws[i] = (struct ref_waiter){.kind = REF_WAITER_THREAD, .u.thread = &w};
        if (r->state != REF_PENDING && (!fetch || pull_is_here(r)))
            continue;
        owner_ref_add_waiter(r, &rws[i]);
        if (r->state == REF_PENDING)
            last = r;
        else
            is_coming = true;
        w.n_missing++;
    }
    if (w.n_missing > n_missing)
        w.n_missing = (unsigned)n_missing;
    if (deadline == 0)
        poller_poll();
    while (w.n_missing > 0 && !is_late && (!is_coming || core.raylet->link != NULL))
        is_late = deadline == 0 || !wait_round(&w, deadline, last);
    worker_unblock();
    for (size_t i = 0; i < n; i++)
        owner_ref_remove_waiter(&rws[i]);
    give_waiters(rws, n_rws);
    return is_late ? CORE_ETIMEOUT : CORE_OK;
}

static void end_await(const uint64_t *refs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ref_table_unhold(core.refs, ref_table_at(core.refs, (uint32_t)refs[i]));
    poller_leave();
}

/* The first of them that carries an error, or n; or CORE_ESTALE. */
static int find_error(const uint64_t *refs,
                      size_t n,
                      size_t *n_pending,
                      size_t *n_elsewhere,
                      size_t *error)
{
    *n_pending = *n_elsewhere = 0;
    *error = n;
    for (size_t i = 0; i < n; i++) {
        const struct record *r = ref_table_find(core.refs, refs[i]);
        if (r == NULL)
            return CORE_ESTALE;
        *n_pending += r->state != REF_READY;
        *n_elsewhere += r->state == REF_READY && (r->flags & REF_STORED) != 0
                        && refs_is_elsewhere(&r->u.stored);
        if (*error == n && r->state == REF_READY
            && (r->meta == WIRE_META_ERROR || (r->flags & REF_FREED) != 0))
            *error = i;
    }
    return CORE_OK;
}

int core_await_all(const uint64_t *refs, size_t n, int64_t timeout_ms, size_t *error)
{
    size_t n_pending, n_elsewhere;

    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    core_enter();
    int code = core.connected ? find_error(refs, n, &n_pending, &n_elsewhere, error) : CORE_ESTALE;
    if (code == CORE_OK && n_pending > 0 && *error == n) {
        for (size_t i = 0; i < n; i++)
            ref_table_at(core.refs, (uint32_t)refs[i])->held++;
        uint64_t deadline = timeout_ms != 0 ? core_deadline(timeout_ms) : 0;
        code = await_some(refs, n, n_pending, true, false, deadline);
        if (code != CORE_ENOMEM)
            code = find_error(refs, n, &n_pending, &n_elsewhere, error);
        end_await(refs, n);
    }
    if (code == CORE_OK && n_elsewhere > 0 && *error == n)
        pull_ahead(refs, n);
    core_leave();
    core_unlock();
    return code;
}

/* After how many more events who misses so many looks again: what became ready elsewhere is to be
 * asked for then, while others are waited for; but a look at all of them takes its time. */
static size_t next_look(size_t n_missing, bool all_asked)
{
    if (!core.welcome.in_cluster)
        return n_missing;
    return all_asked ? (n_missing - 1) / LOOKS + 1 : 1;
}

int core_wait(const uint64_t *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready)
{
    uint64_t deadline = 0; /* the clock is not looked at for what is there */
    size_t n_ready = 0, n_elsewhere;

    if (core_is_forked())
        return CORE_EFORKED;
    if (n == 0)
        return CORE_OK;
    if (num_returns == 0 || num_returns > n)
        return CORE_EARG;
    core_lock();
    int code = core.connected ? look_first(refs, n, num_returns, ready, &n_ready) : CORE_ESTALE;
    if (code != CORE_OK || n_ready > 0) {
        core_unlock();
        return code;
    }
    core_enter();
    while (code == CORE_OK) {
        bool all_asked = true;
        n_ready = count_here(refs, n, &n_elsewhere);
        if (n_elsewhere > 0) {
            all_asked = pull_for_wait(refs, n);
            peer_flush(core.raylet); /* who has the role may be asleep */
            n_ready = count_here(refs, n, &n_elsewhere);
        }
        if (n_ready >= num_returns)
            break;
        if (deadline == 0 && timeout_ms != 0)
            deadline = core_deadline(timeout_ms);
        size_t n_events = next_look(num_returns - n_ready, all_asked);
        code = await_some(refs, n, n_events, false, true, deadline);
    }
    n_ready = 0;
    for (size_t i = 0; i < n && code != CORE_ENOMEM; i++) {
        const struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        ready[i] = n_ready < num_returns && r->state == REF_READY && is_here(r);
        n_ready += ready[i];
    }
    end_await(refs, n);
    core_leave();
    core_unlock();
    return code == CORE_ETIMEOUT && n_ready >= num_returns ? CORE_OK : code;
}

int core_retain(uint64_t ref)
{
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r != NULL)
        r->count++;
    core_unlock();
    return r != NULL ? CORE_OK : CORE_ESTALE;
}

int core_release(uint64_t ref)
{
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    bool can = r != NULL && n_handles(r) > 0;
    if (can) {
        ref_table_drop(core.refs, r);
        core_have_news();
    }
    core_unlock();
    return can ? CORE_OK : CORE_ESTALE;
}

int core_watch(uint64_t ref, void *tag)
{
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL) {
        core_unlock();
        return CORE_ESTALE;
    }
    struct ref_waiter *w = ref_table_alloc(core.refs, sizeof *w);
    if (w == NULL) {
        core_unlock();
        return CORE_ENOMEM;
    }
    w->kind = REF_WAITER_WATCH;
    w->u.watch.tag = tag;
    w->u.watch.ref = ref;
    r->held++; /* until the event has been taken: its ref must not be another's by then */
    owner_ref_add_waiter(r, w);
    if (r->state == REF_READY)
        owner_tell(r);
    core_unlock();
    return CORE_OK;
}

int core_poll_fd(void)
{
    if (core_is_forked())
        return -1;
    core_lock();
    int fd = core.connected ? core.event_fd : -1;
    core_unlock();
    return fd;
}

int core_poll(struct core_event *events, size_t max, int64_t timeout_ms)
{
    struct waiter w = {.n_missing = 1};
    uint64_t deadline = core_deadline(timeout_ms), count;
    size_t n = 0;

    if (core_is_forked())
        return -CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    if (!core.connected) {
        core_unlock();
        return -CORE_EARG;
    }
    core_enter();
    if (core.events == NULL && timeout_ms == 0)
        poller_poll();
    while (core.events == NULL && timeout_ms != 0 && core.raylet->link != NULL
           && wait_round(&w, deadline, NULL))
        continue;
    bool is_over = core.events == NULL && core.raylet->link == NULL;
    worker_unblock();
    while (core.events != NULL && n < max) {
        struct ready_event *e = core.events;
        core.events = e->next;
        events[n++] = e->event;
        ref_table_unhold(core.refs, ref_table_at(core.refs, (uint32_t)e->event.ref));
        ref_table_free(core.refs, e, sizeof(struct ref_waiter));
    }
    if (core.events == NULL) {
        core.events_tail = &core.events;
        ssize_t r = read(core.event_fd, &count, sizeof count);
        (void)r;
    }
    poller_leave();
    core_leave();
    core_unlock();
    return is_over ? -CORE_ELINK : (int)n;
}
