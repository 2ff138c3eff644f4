/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values in the stores of other nodes: brought into ours before they are read. The raylet is asked
 * once for each object, whoever here wants it: threads that wait, a record whose program asked and
 * did not stay, and the tasks that are to run here, whose arguments are asked for when they arrive.
 *
 * What has come is not pinned before it is read, so it may be gone again, and is asked for again;
 * tasks in the window may want more than the store can hold at once. For the same reason no more is
 * asked for ahead than a part of the store.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define N_BUCKETS   256u
#define TIMES_MAX   8  /* that something comes and is gone before it could be pinned */
#define AHEAD_SHARE 8u /* of the store: asked for ahead of those who need it */

/* A thread that waits, on its own stack. */
struct pull_waiter {
    struct list node;
    struct waiter w;
    uint64_t place; /* it has come; else why not: */
    struct err why;
};

/* An object that somebody here wants. */
struct pull {
    struct list node; /* in its bucket */
    struct wire_key key;
    uint64_t ticket;  /* of the unanswered request, or 0 */
    uint8_t priority; /* of it */
    uint32_t from;    /* the node that it named */
    uint64_t place;   /* where it came to, or 0 */
    uint64_t word;    /* of the record that is to know that, or 0 */
    unsigned n_tasks; /* waiting in the window */
    struct list waiters;
};

/* A task in the window whose arguments are elsewhere. */
struct pull_task {
    struct list node;
    uint64_t lease, bytes;
    uint8_t slot;
    bool is_asked;
    unsigned n;
    struct wire_stored v[];
};

static struct list buckets[N_BUCKETS];
static struct list tasks = {&tasks, &tasks}; /* in order of arrival */
static unsigned n_pulls, n_tasks;
static uint64_t last_ticket, bytes_ahead;

/* --- which there are --- */

static uint32_t bucket_of(const struct wire_key *k)
{
    uint64_t h = k->counter * 0x9e3779b97f4a7c15u;

    h ^= ((uint64_t)k->owner << 32 | k->index) * 0xc2b2ae3d27d4eb4fu;
    return (uint32_t)(h >> 40) % N_BUCKETS;
}

static struct list *bucket(uint32_t i)
{
    if (buckets[i].next == NULL)
        list_init(&buckets[i]);
    return &buckets[i];
}

static struct pull *find(const struct wire_key *key)
{
    list_for_each(n, bucket(bucket_of(key)))
    {
        struct pull *p = list_entry(n, struct pull, node);
        if (memcmp(&p->key, key, sizeof *key) == 0)
            return p;
    }
    return NULL;
}

/* The bucket is a part of the ticket. */
static struct pull *find_ticket(uint64_t ticket)
{
    list_for_each(n, bucket((uint32_t)(ticket % N_BUCKETS)))
    {
        struct pull *p = list_entry(n, struct pull, node);
        if (ticket != 0 && p->ticket == ticket)
            return p;
    }
    return NULL;
}

static struct pull *find_or_make(const struct wire_key *key)
{
    struct pull *p = find(key);

    if (p != NULL)
        return p;
    p = try_alloc(NULL, sizeof *p);
    if (p == NULL)
        return NULL;
    *p = (struct pull){.key = *key};
    list_init(&p->waiters);
    list_append(bucket(bucket_of(key)), &p->node);
    n_pulls++;
    return p;
}

static void cancel(uint64_t ticket)
{
    struct wire_store_pull_cancel w = {.ticket = ticket};

    if (ticket != 0)
        peer_send(core.raylet, WIRE_STORE_PULL_CANCEL, &w, sizeof w);
}

/* Nobody wants it any more? */
static void end_if_unused(struct pull *p)
{
    if (p->n_tasks > 0 || p->word != 0 || !list_empty(&p->waiters))
        return;
    cancel(p->ticket);
    list_remove(&p->node);
    n_pulls--;
    free(p);
}

static void request(struct pull *p, const struct wire_stored *s, enum wire_pull priority)
{
    struct wire_store_pull w = {.key = s->key,
                                .node = s->node,
                                .size = s->size,
                                .n_refs = s->n_refs,
                                .priority = (uint8_t)priority};
    uint64_t before = p->ticket;

    w.ticket = ++last_ticket * N_BUCKETS + bucket_of(&p->key);
    p->ticket = w.ticket;
    p->priority = w.priority;
    p->from = w.node;
    p->place = 0;
    peer_send(core.raylet, WIRE_STORE_PULL, &w, sizeof w);
    cancel(before); /* behind it: what has come of it so far is not lost */
}

/* --- answers --- */

/* What the record's program wanted is there, or cannot be had. */
static void came(struct record *r, uint64_t place)
{
    if (place != 0 && r->u.stored.pin == REF_NO_PIN)
        r->u.stored.copy = place;
    r->flags |= REF_CAME;
    if (r->waiters != NULL)
        owner_tell(r);
}

static void tell(struct pull *p, const struct err *why)
{
    while (!list_empty(&p->waiters)) {
        struct pull_waiter *w = list_entry(p->waiters.next, struct pull_waiter, node);
        list_remove(&w->node);
        w->place = p->place;
        if (why != NULL)
            w->why = *why;
        w->w.n_missing = 0;
        if (!list_empty(&w->w.node))
            poller_wake(&w->w);
    }
}

static void on_pulled(const uint8_t *body, size_t size)
{
    struct wire_store_pulled w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct pull *p = find_ticket(w.ticket);
    if (p == NULL)
        return; /* it was canceled */
    p->ticket = 0;
    p->place = w.place;
    uint64_t word = p->word;
    p->word = 0;
    if (word != 0) /* it is there: its end would have been told */
        came(ref_table_at(core.refs, (uint32_t)word), w.place);
    tell(p, NULL);
    end_if_unused(p);
}

static void on_failed(const uint8_t *body, size_t size)
{
    struct wire_store_pull_failed w;
    struct err why;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct pull *p = find_ticket(w.ticket);
    if (p == NULL)
        return;
    err_set(&why,
            w.code != ERR_NONE ? (enum err_code)w.code : ERR_NOT_FOUND,
            "%.*s",
            (int)(size - sizeof w),
            (const char *)body + sizeof w);
    uint64_t word = p->word;
    p->ticket = p->word = 0;
    struct record *r = word != 0 ? ref_table_at(core.refs, (uint32_t)word) : NULL;
    bool is_lost = remake_is_loss(&why);
    if (r != NULL && (!is_lost || !remake_lost(r, p->key.attempt, p->from)))
        came(r, 0);
    tell(p, &why); /* who has not begun to wait asks once more, and is told then */
    end_if_unused(p);
}

void pull_on_frame(uint8_t type, const uint8_t *body, size_t size)
{
    if (type == WIRE_STORE_PULLED)
        on_pulled(body, size);
    else
        on_failed(body, size);
}

/* Bytes. */
static uint64_t most_ahead(void)
{
    return core.store != NULL ? store_client_capacity(core.store) / AHEAD_SHARE : 0;
}

/* --- a value that is to be read --- */

const struct index_entry *pull_look(const struct wire_stored *s, uint64_t place)
{
    const struct index_entry *e = store_client_entry(core.store, place);

    if (e == NULL || e->counter != s->key.counter || e->owner != s->key.owner
        || e->index != s->key.index || e->attempt != s->key.attempt || e->size != s->size
        || e->n_refs != s->n_refs)
        return NULL;
    return e;
}

/* The place we know, if any, is no good. */
static void forget_place(const struct wire_stored *s, uint64_t place, uint64_t *copy)
{
    struct pull *p = find(&s->key);

    if (*copy == place)
        *copy = 0;
    if (p != NULL && p->place == place)
        p->place = 0;
}

static int code_of(const struct err *why)
{
    return why->code == ERR_FULL        ? CORE_EFULL
           : why->code == ERR_NO_MEMORY ? CORE_ENOMEM
                                        : CORE_ELOST;
}

/* Until it has come, into *copy. */
static int wait_for(const struct wire_stored *s,
                    uint64_t word,
                    enum wire_pull priority,
                    uint64_t *copy,
                    const int32_t *pin,
                    uint64_t deadline,
                    struct err *why)
{
    struct pull_waiter w = {.w.n_missing = 1};
    struct pull *p = find_or_make(&s->key);

    if (p == NULL) {
        err_set(why, ERR_NO_MEMORY, "no memory to bring an object here");
        return CORE_ENOMEM;
    }
    if (p->place != 0) { /* for a task that waits */
        *copy = p->place;
        return CORE_OK;
    }
    if (p->ticket == 0 || priority < p->priority) {
        request(p, s, priority);
        peer_flush(core.raylet); /* who has the role may be asleep */
    }
    if (word != 0)
        p->word = word;
    list_init(&w.w.node);
    list_append(&p->waiters, &w.node);
    if (deadline == 0)
        poller_poll();
    while (w.w.n_missing > 0 && core.raylet->link != NULL
           && (deadline == UINT64_MAX || clock_now_ns() < deadline)) {
        owner_settle();
        if (priority != WIRE_PULL_ARGUMENT)
            worker_block();
        poller_wait(&w.w, deadline, NULL, 0);
    }
    if (w.w.n_missing > 0) {
        list_remove(&w.node);
        p = find(&s->key); /* it is there, as long as this one waited */
        if (word == 0 && p != NULL)
            end_if_unused(p);
        return core.raylet->link == NULL ? CORE_ELINK : CORE_ETIMEOUT;
    }
    if (w.place == 0) {
        *why = w.why;
        return code_of(why);
    }
    if (*pin == REF_NO_PIN) /* else another thread has it, maybe at another place */
        *copy = w.place;
    return CORE_OK;
}

int pull_bring(const struct wire_stored *s,
               uint64_t word,
               enum wire_pull priority,
               uint64_t *copy,
               int32_t *pin,
               uint64_t deadline,
               const void **bytes,
               struct err *why)
{
    int code = CORE_OK;

    for (int i = 0; code == CORE_OK; i++) {
        uint64_t place = *copy;
        if (core.raylet->link == NULL || core.store == NULL) {
            code = CORE_ELINK;
            break;
        }
        if (*pin != REF_NO_PIN || (place != 0 && objects_pin(place, pin))) {
            const struct index_entry *e = pull_look(s, *copy);
            if (e != NULL) {
                *bytes = objects_read(e->offset, e->size);
                return CORE_OK;
            }
            objects_unpin(*copy, pin);
            place = *copy;
        }
        if (place != 0)
            forget_place(s, place, copy);
        if (*copy != 0)
            continue; /* another thread's */
        if (i >= TIMES_MAX) {
            err_set(why,
                    ERR_FULL,
                    "it came to this machine's object store %d times and was evicted before it "
                    "could be read: the store is short of memory",
                    TIMES_MAX);
            return CORE_ELOST;
        }
        code = wait_for(s, word, priority, copy, pin, deadline, why);
    }
    if (code == CORE_ELINK)
        err_set(why, ERR_DIED, "the raylet is gone");
    return code;
}

/* Nothing to be asked ahead for: it has its bytes here, or may have. */
static bool may_be_here(const struct ref_stored *s)
{
    return !refs_is_elsewhere(s) || s->pin != REF_NO_PIN
           || (s->copy != 0 && store_client_is_there(core.store, s->copy));
}

void pull_ahead(const uint64_t *refs, size_t n)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < n && core.store != NULL; i++) {
        struct record *r = ref_table_find(core.refs, refs[i]);
        if (r == NULL || r->state != REF_READY
            || (r->flags & (REF_STORED | REF_FREED | REF_LOST)) != REF_STORED
            || may_be_here(&r->u.stored))
            continue;
        const struct wire_stored s = refs_stored(r, NODE_UNKNOWN);
        bytes += s.size;
        struct pull *p = bytes <= most_ahead() ? find_or_make(&s.key) : NULL;
        if (p == NULL)
            return;
        if (p->ticket == 0 && p->place == 0)
            request(p, &s, WIRE_PULL_GET);
        if (p->ticket != 0)
            p->word = refs[i];
    }
}

bool pull_is_here(const struct record *r)
{
    return (r->flags & REF_STORED) == 0 || (r->flags & (REF_FREED | REF_CAME)) != 0
           || core.store == NULL || core.raylet->link == NULL || may_be_here(&r->u.stored);
}

bool pull_for_wait(const uint64_t *refs, size_t n)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        if (r->state != REF_READY || record_is_missing(r) || pull_is_here(r))
            continue;
        const struct wire_stored s = refs_stored(r, NODE_UNKNOWN);
        bytes += s.size;
        if (bytes > s.size && bytes > most_ahead())
            return false;
        struct pull *p = find_or_make(&s.key);
        if (p == NULL || p->place != 0) { /* a get says so; it came for a task */
            came(r, p != NULL ? p->place : 0);
            continue;
        }
        if (p->ticket == 0 || p->priority > WIRE_PULL_WAIT)
            request(p, &s, WIRE_PULL_WAIT);
        p->word = refs[i];
    }
    return true;
}

void pull_end_record(const struct wire_key *key, uint64_t word)
{
    struct pull *p = n_pulls > 0 ? find(key) : NULL;

    if (p == NULL || p->word != word)
        return;
    p->word = 0;
    end_if_unused(p);
}

/* --- arguments of tasks that are to run here --- */

static void ask_for(struct pull_task *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->n; i++) {
        const struct wire_stored *s = &t->v[i];
        struct pull *p = find_or_make(&s->key);
        if (p == NULL)
            continue; /* asked for when it starts */
        if (p->ticket == 0 && p->place == 0)
            request(p, s, WIRE_PULL_ARGUMENT);
        p->n_tasks++;
        t->v[n++] = *s;
    }
    t->n = n;
    t->is_asked = true;
    bytes_ahead += t->bytes;
}

/* In order, as much as may be on its way. */
static void ask_ahead(void)
{
    list_for_each(n, &tasks)
    {
        struct pull_task *t = list_entry(n, struct pull_task, node);
        if (t->is_asked)
            continue;
        if (bytes_ahead > 0 && bytes_ahead + t->bytes > most_ahead())
            return;
        ask_for(t);
    }
}

static void end_task(struct pull_task *t)
{
    for (unsigned i = 0; t->is_asked && i < t->n; i++) {
        struct pull *p = find(&t->v[i].key);
        ASSERT(p != NULL && p->n_tasks > 0);
        p->n_tasks--;
        end_if_unused(p);
    }
    if (t->is_asked)
        bytes_ahead -= t->bytes;
    list_remove(&t->node);
    n_tasks--;
    free(t);
}

void pull_on_push(uint64_t lease, uint8_t slot, const uint8_t *at, size_t size, unsigned n_args)
{
    const uint8_t *end = at + size;
    struct wire_value v;
    unsigned n = 0;

    for (unsigned i = 0; i < n_args && refs_parse(&at, end, &v); i++)
        n += v.is_elsewhere;
    struct pull_task *t = n > 0 ? try_alloc(NULL, sizeof *t + n * sizeof t->v[0]) : NULL;
    if (t == NULL)
        return;
    *t = (struct pull_task){.lease = lease, .slot = slot};
    at = end - size;
    for (unsigned i = 0; i < n_args && t->n < n && refs_parse(&at, end, &v); i++) {
        bool is_here = v.stored.copy != 0 && core.store != NULL
                       && store_client_is_there(core.store, v.stored.copy);
        if (!v.is_elsewhere || is_here)
            continue;
        t->v[t->n++] = v.stored;
        t->bytes += v.stored.size;
    }
    list_append(&tasks, &t->node);
    n_tasks++;
    ask_ahead();
}

static bool is_waiting(const struct pull_task *t)
{
    for (unsigned i = 0; t->is_asked && i < t->n; i++) {
        const struct pull *p = find(&t->v[i].key);
        if (p != NULL && p->ticket != 0)
            return true;
    }
    return !t->is_asked;
}

uint64_t pull_waiting(uint64_t lease)
{
    uint64_t mask = 0;

    if (n_tasks == 0)
        return 0;
    list_for_each(n, &tasks)
    {
        const struct pull_task *t = list_entry(n, struct pull_task, node);
        if (t->lease == lease && is_waiting(t))
            mask |= 1ull << t->slot;
    }
    return mask;
}

void pull_end_tasks(uint64_t lease, uint64_t mask)
{
    if (n_tasks == 0)
        return;
    list_for_each_safe(n, &tasks)
    {
        struct pull_task *t = list_entry(n, struct pull_task, node);
        if (t->lease == lease && (mask >> t->slot & 1) != 0)
            end_task(t);
    }
    ask_ahead();
}

void pull_forget(void)
{
    list_for_each_safe(n, &tasks) free(list_entry(n, struct pull_task, node));
    list_init(&tasks);
    for (uint32_t i = 0; n_pulls > 0 && i < N_BUCKETS; i++) {
        list_for_each_safe(n, bucket(i)) free(list_entry(n, struct pull, node));
        list_init(&buckets[i]);
    }
    n_pulls = n_tasks = 0;
    bytes_ahead = 0;
}
