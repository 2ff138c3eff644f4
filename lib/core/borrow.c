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
#include "lib/core/borrow_private.h"
#include "lib/core/core.h"

#define EARLY_MAX       4096       /* numbers an op frame may be ahead: carriers differ by little */
#define EARLY_WORDS_MAX (4u << 20) /* and words in all such frames of one sender */

struct borrow_action *borrow_add_action(struct borrow_actions *out, enum borrow_kind kind)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 16 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n] = (struct borrow_action){.kind = kind};
    return &out->v[out->n++];
}

void borrow_add_word(struct words *w, uint64_t word)
{
    if (w->n == w->room) {
        w->room = w->room == 0 ? 8 : 2 * w->room;
        w->v = xrealloc(w->v, w->room * sizeof *w->v);
    }
    w->v[w->n++] = word;
}

static bool has_news(const struct other *o)
{
    return o->ops.n > 0 || o->owes_ack || o->says != 0;
}

void borrow_will_say(struct borrow *b, const struct other *o)
{
    if (!has_news(o))
        b->n_news++;
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

void borrow_test_start(struct borrow *b, uint32_t number)
{
    ASSERT(list_empty(&b->others));
    b->first_number = number;
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
    free(b->lost.v);
    free(b->dead);
    free(b->buckets);
    free(b);
}

/* Few processes talk to one another, and mostly the same: a list, the last one asked for first. */
struct other *borrow_find_other(struct borrow *b, uint32_t process)
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

/* Where it is, or would be, in the numbers of the dead. */
static size_t find_dead(const struct borrow *b, uint32_t process)
{
    size_t low = 0, high = b->n_dead;

    while (low < high) {
        size_t k = low + (high - low) / 2;
        if (b->dead[k] < process)
            low = k + 1;
        else
            high = k;
    }
    return low;
}

/* NULL: it is long dead. */
struct other *borrow_get_other(struct borrow *b, uint32_t process)
{
    struct other *o = borrow_find_other(b, process);

    if (o != NULL)
        return o;
    size_t at = find_dead(b, process);
    if (at < b->n_dead && b->dead[at] == process)
        return NULL;
    o = xcalloc(1, sizeof *o);
    o->process = process;
    o->sent = o->acked = o->received = b->first_number;
    o->digest_ns = UINT64_MAX;
    list_init(&o->waiting);
    list_init(&o->early);
    list_init(&o->replies);
    list_push(&b->others, &o->node);
    return o;
}

static bool is_dead(const struct other *o)
{
    return o == NULL || o->is_dead;
}

/* Nothing is left to do about a dead process: only its number is kept. */
static void forget(struct borrow *b, struct other *o)
{
    size_t at = find_dead(b, o->process);

    ASSERT(list_empty(&o->waiting) && list_empty(&o->early) && list_empty(&o->replies));
    if (b->n_dead == b->dead_room) {
        b->dead_room = b->dead_room == 0 ? 16 : 2 * b->dead_room;
        b->dead = xrealloc(b->dead, b->dead_room * sizeof *b->dead);
    }
    memmove(b->dead + at + 1, b->dead + at, (b->n_dead - at) * sizeof *b->dead);
    b->dead[at] = o->process;
    b->n_dead++;
    list_remove(&o->node);
    free(o->ops.v);
    free(o->gone.v);
    free(o);
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
        if (r == NULL || (r->flags & REF_BORROWED) != 0)
            return NULL;
        r->held++;
        return r;
    }
    if ((uint32_t)word == 0 || (word & BORROW_DROP) != 0)
        return NULL; /* no slot; and it must not become a DROP */
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
    if (is_dead(borrow_get_other(b, owner)))
        borrow_add_word(&b->lost, record_word(r)); /* INV-33: whoever gets it will be told */
    return r;
}

static void add_op(struct borrow *b, struct other *o, uint64_t op)
{
    if (is_dead(o))
        return;
    borrow_will_say(b, o);
    borrow_add_word(&o->ops, op);
}

void borrow_end(struct borrow *b, struct record *r)
{
    struct ref_extra *x = r->extra;
    uint32_t *at = &b->buckets[bucket_of(b, x->owner, x->owner_word)];

    while (*at != r->slot)
        at = &ref_table_at(b->refs, *at)->extra->next;
    *at = x->next;
    b->n_borrowed--;
    if (x->registered) {
        struct other *o = borrow_get_other(b, x->owner);
        borrow_uncount(o, x);
        add_op(b, o, x->owner_word | BORROW_DROP);
    }
}

/* --- guardians --- */

static void release(struct borrow *b, struct guardian *g, struct borrow_actions *out)
{
    switch (g->kind) {
    case BORROW_GUARD_TASK:
    case BORROW_GUARD_REPLY: {
        bool is_task = g->kind == BORROW_GUARD_TASK;
        if (!is_task && is_dead(borrow_get_other(b, g->process)))
            break;
        struct borrow_action *a =
            borrow_add_action(out, is_task ? BORROW_TASK_FREE : BORROW_SEND_SEEN);
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
    return o->sent + (o->ops.n + BORROW_WORDS_MAX - 1) / BORROW_WORDS_MAX;
}

/* Need that owner not acknowledge anything? */
static bool is_told(const struct other *o)
{
    return is_dead(o) || last_number(o) == o->acked;
}

/* A task's DONE travels behind our ops, and need not wait for their acknowledgement, if it leaves
 * at once to the same process and nothing older, which may have taken another way, is unanswered.
 */
static bool follows(const struct guardian *g, const struct other *o)
{
    return g->kind == BORROW_GUARD_TASK && g->process == o->process && o->sent == o->acked;
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
    bool at_once = true;

    if (kind == BORROW_GUARD_VALUE)
        ref_table_at(b->refs, slot)->held++;
    for (uint32_t i = 0; i < n; i++) {
        const struct record *r = ref_table_at(b->refs, slots[i]);
        if ((r->flags & REF_BORROWED) == 0)
            continue;
        struct other *o = borrow_get_other(b, r->extra->owner);
        if (!r->extra->registered && !is_dead(o)) {
            r->extra->registered = 1;
            borrow_count(o, r->extra);
            add_op(b, o, r->extra->owner_word);
        }
        at_once = at_once && (is_told(o) || follows(&g, o));
    }
    if (at_once) {
        release(b, &g, out);
        return;
    }
    struct guardian *kept = xmalloc(sizeof *kept);
    *kept = g;
    for (uint32_t i = 0; i < n; i++) {
        const struct record *r = ref_table_at(b->refs, slots[i]);
        struct other *o =
            (r->flags & REF_BORROWED) != 0 ? borrow_get_other(b, r->extra->owner) : NULL;
        if (!is_told(o))
            wait_for(b, kept, o);
    }
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
    return b->n_news > 0 || b->lost.n > 0;
}

static void lost(struct borrow *b, uint32_t slot, int code, struct borrow_actions *out)
{
    const struct record *r = ref_table_at(b->refs, slot);

    if (r->state != REF_PENDING)
        return; /* it has its value */
    struct borrow_action *a = borrow_add_action(out, BORROW_LOST);
    a->slot = slot;
    a->counter = record_word(r);
    a->code = code;
}

static void flush_lost(struct borrow *b, struct borrow_actions *out)
{
    for (uint32_t i = 0; i < b->lost.n; i++) {
        uint32_t slot = (uint32_t)b->lost.v[i];
        if (record_word(ref_table_at(b->refs, slot)) == b->lost.v[i])
            lost(b, slot, CORE_EOWNER, out);
    }
    b->lost.n = 0;
}

/* The first words of those, at most what fits a frame. */
static void flush_words(struct borrow_action *a, struct words *w)
{
    a->n = w->n;
    a->words = w->v;
    if (w->n <= BORROW_WORDS_MAX) {
        *w = (struct words){0};
        return;
    }
    a->n = BORROW_WORDS_MAX;
    a->words = xmalloc(a->n * sizeof *a->words);
    memcpy(a->words, w->v, a->n * sizeof *a->words);
    w->n -= a->n;
    memmove(w->v, w->v + a->n, w->n * sizeof *w->v);
}

void borrow_flush(struct borrow *b, uint64_t now_ns, struct borrow_actions *out)
{
    flush_lost(b, out);
    if (b->n_news == 0)
        return;
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        bool has_ops = o->ops.n > 0;
        while (o->ops.n > 0) {
            struct borrow_action *a = borrow_add_action(out, BORROW_SEND_OPS);
            a->process = o->process;
            a->sequence = ++o->sent;
            flush_words(a, &o->ops);
        }
        for (bool more = o->owes_ack; more; more = o->gone.n > 0) {
            struct borrow_action *a = borrow_add_action(out, BORROW_SEND_ACK);
            a->process = o->process;
            a->sequence = o->received;
            flush_words(a, &o->gone);
        }
        o->owes_ack = false;
        if (has_ops)
            borrow_digest_arm(o, now_ns);
        if (o->says != 0)
            borrow_digest_flush(b, o, now_ns, out);
    }
    b->n_news = 0;
}

/* --- as owner --- */

struct ref_borrower *borrow_find_borrower(const struct ref_extra *x, uint32_t process)
{
    for (uint32_t i = 0; x != NULL && i < x->n_borrowers; i++)
        if (x->borrowers[i].process == process)
            return &x->borrowers[i];
    return NULL;
}

bool borrow_add_borrower(struct borrow *b, struct record *r, struct other *o)
{
    struct ref_extra *x = ref_table_extra(b->refs, r);

    if (x == NULL)
        return false;
    if (borrow_find_borrower(x, o->process) != NULL)
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
    x->borrowers[x->n_borrowers++].process = o->process;
    b->n_borrowers++;
    o->n_borrows++;
    o->borrow_sum += borrow_mix(record_word(r));
    r->held++;
    return true;
}

void borrow_remove_borrower(struct borrow *b, struct record *r, struct other *o)
{
    struct ref_borrower *at = borrow_find_borrower(r->extra, o->process);

    if (at == NULL)
        return;
    *at = r->extra->borrowers[--r->extra->n_borrowers];
    b->n_borrowers--;
    o->n_borrows--;
    o->borrow_sum -= borrow_mix(record_word(r));
    ref_table_unhold(b->refs, r);
}

void borrow_is_gone(struct other *o, uint64_t word)
{
    borrow_add_word(&o->gone, word);
    o->gone_unseen = true;
    o->gone_number = o->received + 1;
}

static void apply(struct borrow *b, struct other *o, const uint64_t *words, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t word = words[i] & ~(uint64_t)BORROW_DROP;
        struct record *r = ref_table_find_shown(b->refs, word);
        bool is_ours = r != NULL && (r->flags & REF_BORROWED) == 0;
        if ((words[i] & BORROW_DROP) != 0) {
            if (is_ours)
                borrow_remove_borrower(b, r, o);
        } else if (!is_ours || !borrow_add_borrower(b, r, o)) {
            borrow_is_gone(o, word);
        }
    }
}

/* Number received + 1. */
static void receive(struct borrow *b,
                    struct other *o,
                    const struct borrow_range *list,
                    const uint64_t *words,
                    uint32_t n)
{
    if (list == NULL)
        apply(b, o, words, n);
    else
        borrow_apply_list(b, o, list, words, n);
    o->received++;
    borrow_digest_on_received(b, o);
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
            o->n_early_words -= e->n;
            receive(b, o, e->is_list ? &e->list : NULL, e->words, e->n);
            free(e);
            found = true;
        }
    }
}

static bool keep_early(struct other *o,
                       uint32_t sequence,
                       const struct borrow_range *list,
                       const uint64_t *words,
                       uint32_t n)
{
    list_for_each(m, &o->early)
    {
        if (list_entry(m, struct early, node)->sequence == sequence)
            return true;
    }
    if (n > EARLY_WORDS_MAX - o->n_early_words)
        return false;
    struct early *e = xcalloc(1, sizeof *e + n * sizeof *words);
    e->sequence = sequence;
    e->n = n;
    e->is_list = list != NULL;
    if (list != NULL)
        e->list = *list;
    if (n > 0)
        memcpy(e->words, words, n * sizeof *words);
    list_append(&o->early, &e->node);
    o->n_early_words += n;
    return true;
}

/* What has not come up to that number need not come any more: a list says it all. */
static void skip_to(struct other *o, uint32_t number)
{
    o->repair.n_missed += number - o->received;
    list_for_each_safe(n, &o->early)
    {
        struct early *e = list_entry(n, struct early, node);
        if ((int32_t)(e->sequence - number) > 0)
            continue;
        list_remove(&e->node);
        o->n_early_words -= e->n;
        o->repair.n_missed--;
        free(e);
    }
    o->received = number;
}

bool borrow_take(struct borrow *b,
                 uint32_t from,
                 uint32_t sequence,
                 const struct borrow_range *list,
                 const uint64_t *words,
                 uint32_t n)
{
    struct other *o = borrow_get_other(b, from);

    if (is_dead(o))
        return true;
    if ((int32_t)(sequence - o->received) <= 0)
        return true; /* a duplicate */
    if (list != NULL && list->is_first)
        skip_to(o, sequence - 1);
    uint32_t ahead = sequence - o->received;
    if (ahead > EARLY_MAX)
        return false;
    if (ahead > 1)
        return keep_early(o, sequence, list, words, n);
    borrow_will_say(b, o);
    o->owes_ack = true;
    receive(b, o, list, words, n);
    apply_early(b, o);
    return true;
}

bool borrow_on_ops(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *words,
                   uint32_t n)
{
    return borrow_take(b, from, sequence, NULL, words, n);
}

void borrow_hold_reply(struct borrow *b,
                       uint32_t process,
                       uint64_t counter,
                       const uint32_t *slots,
                       uint32_t n)
{
    if (n == 0)
        return;
    struct other *o = borrow_get_other(b, process);
    if (o == NULL) {
        ref_table_unhold_all(b->refs, slots, n);
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
    ref_table_unhold_all(b->refs, r->slots, r->n);
    free(r);
}

void borrow_on_seen(struct borrow *b, uint32_t from, uint64_t counter)
{
    struct other *o = borrow_find_other(b, from);

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

struct record *borrow_find(const struct borrow *b, uint32_t owner, uint64_t word)
{
    uint32_t slot = b->buckets[bucket_of(b, owner, word)];

    while (slot != 0) {
        struct record *r = ref_table_at(b->refs, slot);
        if (r->extra->owner == owner && r->extra->owner_word == word)
            return r;
        slot = r->extra->next;
    }
    return NULL;
}

bool borrow_is_dead(struct borrow *b, uint32_t process)
{
    return is_dead(borrow_get_other(b, process));
}

void borrow_on_ack(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *gone,
                   uint32_t n,
                   struct borrow_actions *out)
{
    struct other *o = borrow_find_other(b, from);

    if (o == NULL || (int32_t)(sequence - o->sent) > 0)
        return; /* of what was never sent */
    if ((int32_t)(sequence - o->acked) > 0) {
        o->acked = sequence;
        released_by(b, o, false, out); /* first: it may end what is gone */
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct record *r = borrow_find(b, from, gone[i]);
        if (r == NULL)
            continue;
        if (r->extra->registered) {
            borrow_uncount(o, r->extra);
            r->extra->gone = 1;
        }
        lost(b, r->slot, CORE_ELOST, out);
    }
}

void borrow_on_process_dead(struct borrow *b,
                            uint32_t process,
                            uint64_t now_ns,
                            struct borrow_actions *out)
{
    struct other *o = process != b->process ? borrow_get_other(b, process) : NULL;

    if (is_dead(o))
        return;
    if (has_news(o))
        b->n_news--;
    o->is_dead = true;
    o->release_ns = now_ns + BORROW_GRACE_NS;
    o->ops.n = o->gone.n = 0;
    o->owes_ack = o->has_digest = false;
    o->says = 0;
    o->digest_ns = UINT64_MAX;
    list_for_each_safe(n, &o->early)
    {
        struct early *e = list_entry(n, struct early, node);
        list_remove(&e->node);
        free(e);
    }
    released_by(b, o, true, out); /* first: it may end what is lost */
    for (uint32_t k = 0; k < b->n_buckets; k++)
        for (uint32_t slot = b->buckets[k]; slot != 0;) {
            struct ref_extra *x = ref_table_at(b->refs, slot)->extra;
            if (x->owner == process)
                lost(b, slot, CORE_EOWNER, out);
            slot = x->next;
        }
}

static struct other *find_due(const struct borrow *b, uint64_t now_ns)
{
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        if (o->is_dead && now_ns >= o->release_ns)
            return o;
    }
    return NULL;
}

void borrow_on_time(struct borrow *b, uint64_t now_ns)
{
    struct other *o;

    borrow_digest_on_time(b, now_ns);
    while ((o = find_due(b, now_ns)) != NULL) {
        while (!list_empty(&o->replies))
            end_reply(b, list_entry(o->replies.next, struct reply, node));
        for (uint32_t slot = 1; o->n_borrows > 0 && slot < ref_table_end(b->refs); slot++) {
            struct record *r = ref_table_at(b->refs, slot);
            if (r->state != REF_FREE && r->extra != NULL && r->extra->n_borrowers > 0)
                borrow_remove_borrower(b, r, o);
        }
        forget(b, o);
    }
}

uint64_t borrow_next_deadline(const struct borrow *b)
{
    uint64_t first = UINT64_MAX;

    list_for_each(n, &b->others)
    {
        const struct other *o = list_entry(n, struct other, node);
        uint64_t due = o->is_dead ? o->release_ns : o->digest_ns;
        first = due < first ? due : first;
    }
    return first;
}

bool borrow_is_kept_for_dead(const struct borrow *b, uint32_t process)
{
    list_for_each(n, &b->others)
    {
        const struct other *o = list_entry(n, struct other, node);
        if (o->process == process)
            return o->is_dead;
    }
    return false;
}

void borrow_for_each_reply(const struct borrow *b, borrow_reply_f f, void *arg)
{
    list_for_each(n, &b->others)
    {
        const struct other *o = list_entry(n, struct other, node);
        list_for_each(m, &o->replies)
        {
            const struct reply *r = list_entry(m, struct reply, node);
            f(arg, o->process, r->slots, r->n);
        }
    }
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
    uint64_t n_borrowers = 0, n_replies = 0, n_borrows = 0;
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
        n_borrows += o->n_borrows;
        ASSERT((int32_t)(o->sent - o->acked) >= 0);
        borrow_digest_selfcheck(b, o);
    }
    ASSERT(n_borrowed == b->n_borrowed && n_borrowers == b->n_borrowers);
    ASSERT(n_replies == b->n_replies && n_news == b->n_news && n_borrows == b->n_borrowers);
}
