/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Do an owner's count of a borrower and that borrower's own agree (borrow.h)? Both keep the number
 * and the sum of the words as they add and drop, so a digest costs the same for one borrow and for
 * a million.
 *
 * A digest has no number: it is compared when exactly the numbers up to its own have been handled,
 * is kept if it comes before them, and means nothing after them (whoever said more since then will
 * send another). What the owner has answered as gone, and the borrower may not know yet, is left
 * out by not answering: unanswered digests are repeated. So are those that came to nothing because
 * a frame was lost; such a one says that it is overdue, which makes the owner ask for the list if
 * it misses something, and acknowledge again if it does not.
 */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/borrow_private.h"

/* --- as borrower --- */

void borrow_count(struct other *o, const struct ref_extra *x)
{
    o->n_counted++;
    o->sum += borrow_mix(x->owner_word);
}

void borrow_uncount(struct other *o, const struct ref_extra *x)
{
    if (o == NULL || x->gone)
        return;
    o->n_counted--;
    o->sum -= borrow_mix(x->owner_word);
}

void borrow_digest_arm(struct other *o, uint64_t now_ns)
{
    o->exchanged = true;
    if (o->digest_ns != UINT64_MAX || (o->says & SAY_DIGEST) != 0)
        return;
    o->n_tries = 0;
    o->watched = o->sent;
    o->digest_ns = now_ns + BORROW_DIGEST_NS;
}

void borrow_digest_on_time(struct borrow *b, uint64_t now_ns)
{
    list_for_each(n, &b->others)
    {
        struct other *o = list_entry(n, struct other, node);
        if (now_ns < o->digest_ns)
            continue;
        o->digest_ns = UINT64_MAX; /* until it is sent */
        if (!o->exchanged && o->n_tries == BORROW_TRIES_MAX)
            continue; /* that owner is stopped, or broken: no use in talking to it for ever */
        borrow_will_say(b, o);
        o->says |= SAY_DIGEST;
    }
}

static void send_digest(struct other *o, uint64_t now_ns, struct borrow_actions *out)
{
    struct borrow_action *a = borrow_add_action(out, BORROW_SEND_DIGEST);

    a->process = o->process;
    a->u.digest = (struct borrow_digest){.sequence = o->sent,
                                         .acked = o->acked,
                                         .n = o->n_counted,
                                         .sum = o->sum,
                                         .is_overdue = (int32_t)(o->acked - o->watched) < 0};
    o->digest_number = o->watched = o->sent;
    o->unanswered = true;
    o->exchanged = false;
    o->digest_ns = now_ns + ((uint64_t)BORROW_DIGEST_NS << o->n_tries);
    if (o->n_tries < BORROW_TRIES_MAX)
        o->n_tries++;
}

static uint64_t key_of(uint64_t word)
{
    return word << 32 | word >> 32;
}

static int compare_keys(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* The keys of all that o was told of and has. */
static uint64_t *gather(const struct borrow *b, const struct other *o)
{
    uint64_t *keys = xmalloc(o->n_counted * sizeof *keys + 1), n = 0;

    for (uint32_t k = 0; k < b->n_buckets; k++)
        for (uint32_t slot = b->buckets[k]; slot != 0;) {
            const struct ref_extra *x = ref_table_at(b->refs, slot)->extra;
            if (x->owner == o->process && x->registered && !x->gone)
                keys[n++] = key_of(x->owner_word);
            slot = x->next;
        }
    ASSERT(n == o->n_counted);
    if (n > 0)
        qsort(keys, n, sizeof *keys, compare_keys);
    return keys;
}

static void send_list(struct borrow *b,
                      struct other *o,
                      uint64_t now_ns,
                      struct borrow_actions *out)
{
    uint64_t *keys = gather(b, o), n_sent = 0, low = 0;

    do {
        uint64_t n = o->n_counted - n_sent;
        struct borrow_action *a = borrow_add_action(out, BORROW_SEND_LIST);
        a->process = o->process;
        a->sequence = ++o->sent;
        a->n = n < BORROW_WORDS_MAX ? (uint32_t)n : BORROW_WORDS_MAX;
        a->words = xmalloc(a->n * sizeof *a->words + 1);
        for (uint32_t i = 0; i < a->n; i++)
            a->words[i] = key_of(keys[n_sent + i]);
        a->u.range = (struct borrow_range){.low = low, .high = UINT64_MAX, .is_first = low == 0};
        n_sent += a->n;
        if (n_sent < o->n_counted) {
            a->u.range.high = keys[n_sent - 1];
            low = keys[n_sent - 1] + 1;
        }
    } while (n_sent < o->n_counted);
    free(keys);
    o->watched = o->sent;
    if (o->digest_ns == UINT64_MAX && (o->says & SAY_DIGEST) == 0)
        o->digest_ns = now_ns + ((uint64_t)BORROW_DIGEST_NS << o->n_tries);
}

void borrow_on_compared(struct borrow *b,
                        uint32_t from,
                        uint32_t sequence,
                        bool differs,
                        struct borrow_actions *out)
{
    struct other *o = borrow_find_other(b, from);

    if (o == NULL || o->is_dead || !o->unanswered || sequence != o->digest_number)
        return;
    o->unanswered = false;
    if (differs) {
        borrow_will_say(b, o);
        o->says |= SAY_LIST;
        return;
    }
    o->n_tries = 0;
    if (!o->exchanged)
        o->digest_ns = UINT64_MAX;
    borrow_on_ack(b, from, sequence, NULL, 0, out); /* its own may be lost */
}

/* --- as owner --- */

static void answer(struct borrow *b, struct other *o, uint32_t sequence, bool differs)
{
    borrow_will_say(b, o);
    o->says |= SAY_COMPARED;
    o->compared_number = sequence;
    o->differs = differs;
}

static void compare(struct borrow *b, struct other *o, const struct borrow_digest *d)
{
    if (o->gone_unseen && (int32_t)(d->acked - o->gone_number) < 0 && !d->is_overdue)
        return;
    o->gone_unseen = false;
    answer(b, o, d->sequence, d->n != o->n_borrows || d->sum != o->borrow_sum);
}

void borrow_digest_on_received(struct borrow *b, struct other *o)
{
    if (!o->has_digest || (int32_t)(o->received - o->digest.sequence) < 0)
        return;
    o->has_digest = false;
    if (o->received == o->digest.sequence)
        compare(b, o, &o->digest);
}

void borrow_on_digest(struct borrow *b, uint32_t from, const struct borrow_digest *digest)
{
    struct other *o = borrow_get_other(b, from);

    if (o == NULL || o->is_dead)
        return;
    int32_t ahead = (int32_t)(digest->sequence - o->received);
    if (ahead == 0) {
        compare(b, o, digest);
    } else if (ahead > 0 && digest->is_overdue) {
        answer(b, o, digest->sequence, true);
    } else if (ahead > 0) {
        o->has_digest = true;
        o->digest = *digest;
    }
}

bool borrow_on_list(struct borrow *b,
                    uint32_t from,
                    uint32_t sequence,
                    const struct borrow_range *range,
                    const uint64_t *words,
                    uint32_t n)
{
    uint64_t low = range->low;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t key = key_of(words[i]);
        if (key < low || key > range->high || key == UINT64_MAX)
            return false;
        low = key + 1;
    }
    return borrow_take(b, from, sequence, range, words, n);
}

static void add_those(struct borrow *b, struct other *o, const uint64_t *words, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct record *r = ref_table_find_shown(b->refs, words[i]);
        bool is_ours = r != NULL && (r->flags & REF_BORROWED) == 0;
        if (is_ours && borrow_find_borrower(r->extra, o->process) != NULL)
            continue;
        if (is_ours && borrow_add_borrower(b, r, o))
            o->repair.n_added++;
        else
            borrow_is_gone(o, words[i]);
    }
}

/* Both the words and the table are in the order of slots. */
static void drop_others(struct borrow *b,
                        struct other *o,
                        const struct borrow_range *list,
                        const uint64_t *words,
                        uint32_t n)
{
    uint32_t i = 0;

    for (uint64_t slot = list->low >> 32;
         o->n_borrows > 0 && slot <= list->high >> 32 && slot < ref_table_end(b->refs);
         slot++) {
        struct record *r = slot > 0 ? ref_table_at(b->refs, (uint32_t)slot) : NULL;
        if (r == NULL || r->state == REF_FREE || borrow_find_borrower(r->extra, o->process) == NULL)
            continue;
        uint64_t key = key_of(record_word(r));
        while (i < n && key_of(words[i]) < key)
            i++;
        if (key < list->low || key > list->high || (i < n && key_of(words[i]) == key))
            continue;
        borrow_remove_borrower(b, r, o);
        o->repair.n_dropped++;
    }
}

void borrow_apply_list(struct borrow *b,
                       struct other *o,
                       const struct borrow_range *list,
                       const uint64_t *words,
                       uint32_t n)
{
    add_those(b, o, words, n);
    drop_others(b, o, list, words, n);
    if (list->high == UINT64_MAX)
        o->says |= SAY_REPAIR; /* it owes an acknowledgement too */
}

/* --- both --- */

void borrow_digest_flush(struct borrow *b,
                         struct other *o,
                         uint64_t now_ns,
                         struct borrow_actions *out)
{
    struct borrow_action *a;

    if ((o->says & SAY_LIST) != 0)
        send_list(b, o, now_ns, out);
    if ((o->says & SAY_DIGEST) != 0)
        send_digest(o, now_ns, out);
    if ((o->says & SAY_COMPARED) != 0) {
        a = borrow_add_action(out, BORROW_SEND_COMPARED);
        a->process = o->process;
        a->sequence = o->compared_number;
        a->code = o->differs;
    }
    if ((o->says & SAY_REPAIR) != 0) {
        if (o->repair.n_added + o->repair.n_dropped + o->repair.n_missed > 0) {
            a = borrow_add_action(out, BORROW_REPAIRED);
            a->process = o->process;
            a->u.repair = o->repair;
        }
        o->repair = (struct borrow_repair){0};
    }
    o->says = 0;
}

void borrow_digest_selfcheck(const struct borrow *b, const struct other *o)
{
    uint64_t n_counted = 0, sum = 0, n_borrows = 0, borrow_sum = 0;

    for (uint32_t slot = 1; slot < ref_table_end(b->refs); slot++) {
        const struct record *r = ref_table_at(b->refs, slot);
        const struct ref_extra *x = r->extra;
        if (r->state == REF_FREE || x == NULL)
            continue;
        if ((r->flags & REF_BORROWED) != 0 && x->owner == o->process && x->registered && !x->gone) {
            n_counted++;
            sum += borrow_mix(x->owner_word);
        }
        if (borrow_find_borrower(x, o->process) != NULL) {
            n_borrows++;
            borrow_sum += borrow_mix(record_word(r));
        }
    }
    ASSERT(n_counted == o->n_counted && sum == o->sum);
    ASSERT(n_borrows == o->n_borrows && borrow_sum == o->borrow_sum);
}
