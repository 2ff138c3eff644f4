/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Everything about one other process is in its `other`: what we have not yet told
 * it (ops), which number it has acknowledged, which guardians wait for which number, and, as owner,
 * what we have handled of its ops, what came early, and the replies it has not seen. Records of
 * borrowed refs are found by (owner, word) in a hash whose chains run through ref_extra.next.
 */
#include "lib/core/borrow.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/core/core.h"

#define EARLY_MAX 4096 /* numbers an op frame may be ahead: two carriers differ by little */

struct words {
    uint64_t *v;
    uint32_t n, room;
};

struct guardian {
    enum borrow_guardian kind;
    uint32_t process, slot, n_waits;
    uint64_t counter;
};

struct waiting {
    struct list node; /* other.waiting, by number */
    uint32_t sequence;
    struct guardian *guardian;
};

struct early {
    struct list node; /* other.early */
    uint32_t sequence, n;
    uint64_t words[];
};

struct reply {
    struct list node; /* other.replies */
    uint64_t counter;
    uint32_t n, slots[];
};

struct other {
    struct list node; /* borrow.others */
    uint32_t process;
    bool is_dead;
    uint64_t release_ns; /* dead: when its borrows end; 0: they did */
    /* we borrow from it */
    struct words ops; /* not yet sent; they will be number sent + 1 */
    uint32_t sent, acked;
    struct list waiting;
    /* it borrows from us */
    uint32_t received;
    bool owes_ack;
    struct words gone;
    struct list early, replies;
};

struct borrow {
    struct ref_table *refs;
    uint32_t process;
    struct list others;
    uint32_t *buckets; /* slots */
    uint32_t n_buckets, n_borrowed;
    uint64_t n_borrowers, n_replies, n_guardians;
    unsigned n_news; /* others with something to send */
};

static struct borrow_action *add_action(struct borrow_actions *out, enum borrow_kind kind)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n] = (struct borrow_action){.kind = kind};
    return &out->v[out->n++];
}

static void add_word(struct words *w, uint64_t word)
{
    if (w->n == w->room) {
        w->room = w->room == 0 ? 8 : 2 * w->room;
        w->v = xrealloc(w->v, w->room * sizeof *w->v);
    }
    w->v[w->n++] = word;
}

static bool has_news(const struct other *o)
{
    return o->ops.n > 0 || o->owes_ack;
}

struct borrow *borrow_create(struct ref_table *refs, uint32_t process)
{
    struct borrow *b = xcalloc(1, sizeof *b);

    b->refs = refs;
    b->process = process;
    list_init(&b->others);
    b->n_buckets = 64;
    b->buckets = xcalloc(b->n_buckets, sizeof *b->buckets);
    return b;
}

static void forget_lists(struct other *o)
{
    list_for_each_safe(n, &o->waiting)
    {
        struct waiting *w = list_entry(n, struct waiting, node);
        if (--w->guardian->n_waits == 0)
            free(w->guardian);
        free(w);
    }
    list_for_each_safe(n, &o->early) free(list_entry(n, struct early, node));
    list_for_each_safe(n, &o->replies) free(list_entry(n, struct reply, node));
}

void borrow_destroy(struct borrow *b)
{
    if (b == NULL)
        return;
    list_for_each_safe(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        forget_lists(o);
        free(o->ops.v);
        free(o->gone.v);
        free(o);
    }
    free(b->buckets);
    free(b);
}

/* Few processes talk to one another, and mostly the same: a list, the last one asked for first. */
static struct other *find_other(struct borrow *b, uint32_t process)
{
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        if (o->process == process) {
            list_remove(&o->node);
            list_push(&b->others, &o->node);
            return o;
        }
    }
    return NULL;
}

static struct other *get_other(struct borrow *b, uint32_t process)
{
    struct other *o = find_other(b, process);

    if (o != NULL)
        return o;
    o = xcalloc(1, sizeof *o);
    o->process = process;
    list_init(&o->waiting);
    list_init(&o->early);
    list_init(&o->replies);
    list_push(&b->others, &o->node);
    return o;
}

/* --- borrowed records --- */

static uint32_t bucket_of(const struct borrow *b, uint32_t owner, uint64_t word)
{
    uint64_t h = (word ^ (uint64_t)owner << 32) * 0x9e3779b97f4a7c15u;

    return (uint32_t)(h >> 32) & (b->n_buckets - 1);
}

static void rehash(struct borrow *b)
{
    uint32_t *old = b->buckets, n = b->n_buckets;

    b->n_buckets *= 2;
    b->buckets = xcalloc(b->n_buckets, sizeof *b->buckets);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t slot = old[i]; slot != 0;) {
            struct ref_extra *x = ref_table_at(b->refs, slot)->extra;
            uint32_t next = x->next, k = bucket_of(b, x->owner, x->owner_word);
            x->next = b->buckets[k];
            b->buckets[k] = slot;
            slot = next;
        }
    free(old);
}

struct record *borrow_learn(struct borrow *b, uint32_t owner, uint64_t word)
{
    struct record *r;

    if (owner == b->process) {
        r = ref_table_find_shown(b->refs, word);
        if (r != NULL)
            r->held++;
        return r;
    }
    uint32_t k = bucket_of(b, owner, word);
    for (uint32_t slot = b->buckets[k]; slot != 0;) {
        r = ref_table_at(b->refs, slot);
        if (r->extra->owner == owner && r->extra->owner_word == word) {
            r->held++;
            return r;
        }
        slot = r->extra->next;
    }
    r = ref_table_new(b->refs);
    if (r == NULL)
        return NULL;
    r->flags |= REF_BORROWED;
    r->held = 1;
    r->count = 0;
    struct ref_extra *x = ref_table_extra(b->refs, r);
    if (x == NULL) {
        r->flags = 0;
        r->count = 1;
        r->held = 0;
        ref_table_set(b->refs, r, 0, NULL, 0);
        ref_table_drop(b->refs, r);
        return NULL;
    }
    x->owner = owner;
    x->owner_word = word;
    x->next = b->buckets[k];
    b->buckets[k] = r->slot;
    if (++b->n_borrowed > b->n_buckets)
        rehash(b);
    return r;
}

static void add_op(struct borrow *b, struct other *o, uint64_t op)
{
    if (o->is_dead)
        return;
    if (!has_news(o))
        b->n_news++;
    add_word(&o->ops, op);
}

void borrow_end(struct borrow *b, struct record *r)
{
    struct ref_extra *x = r->extra;
    uint32_t *at = &b->buckets[bucket_of(b, x->owner, x->owner_word)];

    while (*at != r->slot)
        at = &ref_table_at(b->refs, *at)->extra->next;
    *at = x->next;
    b->n_borrowed--;
    if (x->registered)
        add_op(b, get_other(b, x->owner), x->owner_word | BORROW_DROP);
}

/* --- guardians --- */

static void release(struct borrow *b, struct guardian *g, struct borrow_actions *out)
{
    switch (g->kind) {
    case BORROW_GUARD_TASK:
        add_action(out, BORROW_TASK_FREE);
        break;
    case BORROW_GUARD_REPLY: {
        struct borrow_action *a = add_action(out, BORROW_SEND_SEEN);
        a->process = g->process;
        a->counter = g->counter;
        break;
    }
    case BORROW_GUARD_VALUE:
        ref_table_unhold(b->refs, ref_table_at(b->refs, g->slot));
        break;
    }
}

/* The number that covers all that was, and is about to be, said to that owner. */
static uint32_t last_number(const struct other *o)
{
    return o->sent + (o->ops.n > 0);
}

/* Must that owner acknowledge first? A task's DONE travels behind our ops if they go to the same
 * process and nothing older, which may have taken another way, is unanswered. */
static bool must_wait(const struct guardian *g, const struct other *o)
{
    if (o->is_dead || last_number(o) == o->acked)
        return false;
    return g->kind != BORROW_GUARD_TASK || g->process != o->process || o->sent != o->acked;
}

static void wait_for(struct borrow *b, struct guardian *g, struct other *o)
{
    uint32_t sequence = last_number(o);
    struct waiting *last =
        list_empty(&o->waiting) ? NULL : list_entry(o->waiting.prev, struct waiting, node);

    if (last != NULL && last->guardian == g && last->sequence == sequence)
        return;
    struct waiting *w = xcalloc(1, sizeof *w);
    w->sequence = sequence;
    w->guardian = g;
    list_append(&o->waiting, &w->node);
    if (g->n_waits++ == 0)
        b->n_guardians++;
}

void borrow_guard(struct borrow *b,
                  enum borrow_guardian kind,
                  uint32_t process,
                  uint64_t counter,
                  uint32_t slot,
                  const uint32_t *slots,
                  uint32_t n,
                  struct borrow_actions *out)
{
    struct guardian g = {.kind = kind, .process = process, .counter = counter, .slot = slot};
    struct guardian *kept = NULL;

    if (kind == BORROW_GUARD_VALUE)
        ref_table_at(b->refs, slot)->held++;
    for (uint32_t i = 0; i < n; i++) {
        const struct record *r = ref_table_at(b->refs, slots[i]);
        if ((r->flags & REF_BORROWED) == 0)
            continue;
        struct other *o = get_other(b, r->extra->owner);
        if (!r->extra->registered && !o->is_dead) {
            r->extra->registered = 1;
            add_op(b, o, r->extra->owner_word);
        }
        if (!must_wait(&g, o))
            continue;
        if (kept == NULL) {
            kept = xcalloc(1, sizeof *kept);
            *kept = g;
        }
        wait_for(b, kept, o);
    }
    if (kept == NULL)
        release(b, &g, out);
}

/* What waited for numbers up to this one of that owner. */
static void released_by(struct borrow *b, struct other *o, bool all, struct borrow_actions *out)
{
    while (!list_empty(&o->waiting)) {
        struct waiting *w = list_entry(o->waiting.next, struct waiting, node);
        struct guardian *g = w->guardian;
        if (!all && (int32_t)(o->acked - w->sequence) < 0)
            break;
        list_remove(&w->node);
        free(w);
        if (--g->n_waits == 0) {
            b->n_guardians--;
            release(b, g, out);
            free(g);
        }
    }
}

/* --- sending --- */

bool borrow_has_news(const struct borrow *b)
{
    return b->n_news > 0;
}

void borrow_flush(struct borrow *b, struct borrow_actions *out)
{
    if (b->n_news == 0)
        return;
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        if (o->ops.n > 0) {
            struct borrow_action *a = add_action(out, BORROW_SEND_OPS);
            a->process = o->process;
            a->sequence = ++o->sent;
            a->words = o->ops.v;
            a->n = o->ops.n;
            o->ops = (struct words){0};
        }
        if (o->owes_ack) {
            struct borrow_action *a = add_action(out, BORROW_SEND_ACK);
            a->process = o->process;
            a->sequence = o->received;
            a->words = o->gone.v;
            a->n = o->gone.n;
            o->gone = (struct words){0};
            o->owes_ack = false;
        }
    }
    b->n_news = 0;
}

/* --- as owner --- */

static struct ref_borrower *find_borrower(const struct ref_extra *x, uint32_t process)
{
    for (uint32_t i = 0; x != NULL && i < x->n_borrowers; i++)
        if (x->borrowers[i].process == process)
            return &x->borrowers[i];
    return NULL;
}

static bool add_borrower(struct borrow *b, struct record *r, uint32_t process)
{
    struct ref_extra *x = ref_table_extra(b->refs, r);

    if (x == NULL)
        return false;
    if (find_borrower(x, process) != NULL)
        return true;
    if (x->n_borrowers == x->borrower_room) {
        uint32_t room = x->borrower_room == 0 ? 16 : 2 * x->borrower_room;
        struct ref_borrower *v = ref_table_alloc(b->refs, room * sizeof *v);
        if (v == NULL)
            return false;
        if (x->n_borrowers > 0)
            memcpy(v, x->borrowers, x->n_borrowers * sizeof *v);
        ref_table_free(b->refs, x->borrowers, x->borrower_room * sizeof *v);
        x->borrowers = v;
        x->borrower_room = room;
    }
    x->borrowers[x->n_borrowers++].process = process;
    b->n_borrowers++;
    r->held++;
    return true;
}

static void remove_borrower(struct borrow *b, struct record *r, uint32_t process)
{
    struct ref_borrower *at = find_borrower(r->extra, process);

    if (at == NULL)
        return;
    *at = r->extra->borrowers[--r->extra->n_borrowers];
    b->n_borrowers--;
    ref_table_unhold(b->refs, r);
}

static void apply(struct borrow *b, struct other *o, const uint64_t *words, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t word = words[i] & ~(uint64_t)BORROW_DROP;
        struct record *r = ref_table_find_shown(b->refs, word);
        bool is_ours = r != NULL && (r->flags & REF_BORROWED) == 0;
        if ((words[i] & BORROW_DROP) != 0) {
            if (is_ours)
                remove_borrower(b, r, o->process);
        } else if (!is_ours || !add_borrower(b, r, o->process)) {
            add_word(&o->gone, word);
        }
    }
    o->received++;
}

/* What came early and is next now. */
static void apply_early(struct borrow *b, struct other *o)
{
    for (bool found = true; found;) {
        found = false;
        list_for_each_safe(n, &o->early)
        {
            struct early *e = list_entry(n, struct early, node);
            if (e->sequence != o->received + 1)
                continue;
            list_remove(&e->node);
            apply(b, o, e->words, e->n);
            free(e);
            found = true;
        }
    }
}

bool borrow_on_ops(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *words,
                   uint32_t n)
{
    struct other *o = get_other(b, from);
    uint32_t ahead = sequence - o->received;

    if (o->is_dead || (int32_t)ahead <= 0)
        return true; /* a duplicate */
    if (ahead > EARLY_MAX)
        return false;
    if (ahead > 1) {
        struct early *e = xcalloc(1, sizeof *e + n * sizeof *words);
        e->sequence = sequence;
        e->n = n;
        memcpy(e->words, words, n * sizeof *words);
        list_append(&o->early, &e->node);
        return true;
    }
    if (!has_news(o))
        b->n_news++;
    o->owes_ack = true;
    apply(b, o, words, n);
    apply_early(b, o);
    return true;
}

void borrow_hold_reply(struct borrow *b,
                       uint32_t process,
                       uint64_t counter,
                       const uint32_t *slots,
                       uint32_t n)
{
    struct other *o = get_other(b, process);

    if (o->is_dead) {
        for (uint32_t i = 0; i < n; i++)
            ref_table_unhold(b->refs, ref_table_at(b->refs, slots[i]));
        return;
    }
    struct reply *r = xcalloc(1, sizeof *r + n * sizeof *slots);
    r->counter = counter;
    r->n = n;
    memcpy(r->slots, slots, n * sizeof *slots);
    list_append(&o->replies, &r->node);
    b->n_replies++;
}

static void end_reply(struct borrow *b, struct reply *r)
{
    list_remove(&r->node);
    b->n_replies--;
    for (uint32_t i = 0; i < r->n; i++)
        ref_table_unhold(b->refs, ref_table_at(b->refs, r->slots[i]));
    free(r);
}

void borrow_on_seen(struct borrow *b, uint32_t from, uint64_t counter)
{
    struct other *o = find_other(b, from);

    if (o == NULL)
        return;
    list_for_each(n, &o->replies)
    {
        struct reply *r = list_entry(n, struct reply, node);
        if (r->counter == counter) {
            end_reply(b, r);
            return;
        }
    }
}

/* --- acknowledgements and deaths --- */

static void lost(struct borrow *b, uint32_t slot, int code, struct borrow_actions *out)
{
    if (ref_table_at(b->refs, slot)->state != REF_PENDING)
        return; /* it has its value */
    struct borrow_action *a = add_action(out, BORROW_LOST);
    a->slot = slot;
    a->code = code;
}

static uint32_t find_borrowed(const struct borrow *b, uint32_t owner, uint64_t word)
{
    uint32_t slot = b->buckets[bucket_of(b, owner, word)];

    while (slot != 0) {
        const struct ref_extra *x = ref_table_at(b->refs, slot)->extra;
        if (x->owner == owner && x->owner_word == word)
            return slot;
        slot = x->next;
    }
    return 0;
}

void borrow_on_ack(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *gone,
                   uint32_t n,
                   struct borrow_actions *out)
{
    struct other *o = find_other(b, from);

    if (o == NULL || (int32_t)(sequence - o->sent) > 0)
        return; /* of what was never sent */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = find_borrowed(b, from, gone[i]);
        if (slot != 0)
            lost(b, slot, CORE_ELOST, out);
    }
    if ((int32_t)(sequence - o->acked) <= 0)
        return;
    o->acked = sequence;
    released_by(b, o, false, out);
}

void borrow_on_process_dead(struct borrow *b,
                            uint32_t process,
                            uint64_t now_ns,
                            struct borrow_actions *out)
{
    struct other *o = get_other(b, process);

    if (o->is_dead || process == b->process)
        return;
    if (has_news(o))
        b->n_news--;
    o->is_dead = true;
    o->release_ns = now_ns + BORROW_GRACE_NS;
    o->ops.n = o->gone.n = 0;
    o->owes_ack = false;
    for (uint32_t k = 0; k < b->n_buckets; k++)
        for (uint32_t slot = b->buckets[k]; slot != 0;) {
            struct ref_extra *x = ref_table_at(b->refs, slot)->extra;
            if (x->owner == process)
                lost(b, slot, CORE_EOWNER, out);
            slot = x->next;
        }
    list_for_each_safe(n, &o->early)
    {
        struct early *e = list_entry(n, struct early, node);
        list_remove(&e->node);
        free(e);
    }
    while (!list_empty(&o->replies))
        end_reply(b, list_entry(o->replies.next, struct reply, node));
    released_by(b, o, true, out);
}

static struct other *find_due(const struct borrow *b, uint64_t now_ns)
{
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        if (o->is_dead && o->release_ns != 0 && now_ns >= o->release_ns)
            return o;
    }
    return NULL;
}

void borrow_on_time(struct borrow *b, uint64_t now_ns)
{
    struct other *o;

    while ((o = find_due(b, now_ns)) != NULL) {
        o->release_ns = 0;
        for (uint32_t slot = 1; slot < ref_table_end(b->refs); slot++) {
            struct record *r = ref_table_at(b->refs, slot);
            if (r->state != REF_FREE && r->extra != NULL && r->extra->n_borrowers > 0)
                remove_borrower(b, r, o->process);
        }
    }
}

uint64_t borrow_next_deadline(const struct borrow *b)
{
    uint64_t first = UINT64_MAX;

    list_for_each(n, &b->others)
    {
        const struct other *o = list_entry(n, struct other, node);
        if (o->is_dead && o->release_ns != 0 && o->release_ns < first)
            first = o->release_ns;
    }
    return first;
}

void borrow_get_stats(const struct borrow *b, struct borrow_stats *out)
{
    *out = (struct borrow_stats){.n_borrowed = b->n_borrowed,
                                 .n_borrowers = b->n_borrowers,
                                 .n_replies = b->n_replies,
                                 .n_waiting = b->n_guardians};
}

void borrow_selfcheck(const struct borrow *b)
{
    uint32_t n_borrowed = 0;
    uint64_t n_borrowers = 0, n_replies = 0;
    unsigned n_news = 0;

    for (uint32_t k = 0; k < b->n_buckets; k++)
        for (uint32_t slot = b->buckets[k]; slot != 0; n_borrowed++) {
            const struct record *r = ref_table_at(b->refs, slot);
            ASSERT(r->state != REF_FREE && (r->flags & REF_BORROWED) != 0);
            ASSERT(bucket_of(b, r->extra->owner, r->extra->owner_word) == k);
            ASSERT(r->count + r->held > 0);
            slot = r->extra->next;
        }
    for (uint32_t slot = 1; slot < ref_table_end(b->refs); slot++) {
        const struct record *r = ref_table_at(b->refs, slot);
        if (r->state == REF_FREE || r->extra == NULL)
            continue;
        n_borrowers += r->extra->n_borrowers;
        ASSERT(r->held >= r->extra->n_borrowers);
    }
    list_for_each(n, &b->others)
    {
        const struct other *o = list_entry(n, struct other, node);
        list_for_each(m, &o->replies) n_replies++;
        n_news += has_news(o);
        ASSERT((int32_t)(o->sent - o->acked) >= 0);
    }
    ASSERT(n_borrowed == b->n_borrowed && n_borrowers == b->n_borrowers);
    ASSERT(n_replies == b->n_replies && n_news == b->n_news);
}
