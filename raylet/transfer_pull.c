/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. transfer_pull_step() looks at one pull and does what can be done: ask a holder,
 * dial one, read missing chunks, or give up when no holder is left. It is called when something
 * changed for the better or the worse, and by the timer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/net/loop.h"
#include "raylet/transfer_private.h"

/* --- finding --- */

static struct pull *first_of(const struct transfer *t, uint64_t hash)
{
    return (struct pull *)(uintptr_t)word_map_get(&t->by_what, hash);
}

struct pull *transfer_find_pull(struct transfer *t, const struct transfer_what *what)
{
    struct pull *p = first_of(t, transfer_hash_of(what));

    while (p != NULL && !transfer_is_same(&p->what, what))
        p = p->next;
    return p;
}

static void forget_what(struct pull *p)
{
    struct transfer *t = p->of;
    uint64_t hash = transfer_hash_of(&p->what);
    struct pull *at = first_of(t, hash);

    if (at == p) {
        word_map_set(&t->by_what, hash, (uintptr_t)p->next);
        return;
    }
    while (at->next != p)
        at = at->next;
    at->next = p->next;
}

/* --- ends --- */

/* Of ENDING: when nobody uses its memory. */
static void release(struct pull *p)
{
    if (p->n_moving + p->n_sending > 0 || p->ticket != 0)
        return;
    transfer_give_back(p);
    list_remove(&p->node);
    free(p->chunks);
    p->magic = 0;
    free(p);
}

void transfer_pull_end(struct pull *p)
{
    struct transfer *t = p->of;

    ASSERT(p->state != PULL_ENDING && list_empty(&p->askers));
    p->state = PULL_ENDING;
    forget_what(p);
    transfer_leave_admission(p);
    transfer_serve_parked(p, 0, true);
    while (!list_empty(&p->holders))
        transfer_drop_holder(list_entry(p->holders.next, struct holder, node));
    p->progress_ms = loop_now_ms();
    transfer_due(t, p->progress_ms + t->config.give_up_ms);
    release(p);
    transfer_admit_later(t);
}

void transfer_pull_unuse(struct pull *p)
{
    if (p->state == PULL_ENDING)
        release(p);
}

static void describe(const struct pull *p, char *out, size_t room)
{
    const struct transfer_what *w = &p->what;

    if (p->what.kind == TRANSFER_OBJECT)
        snprintf(out,
                 room,
                 "object %llu.%u of process %u (attempt %u)",
                 (unsigned long long)w->counter,
                 w->index,
                 w->owner,
                 w->attempt);
    else
        snprintf(out,
                 room,
                 "file with hash %02x%02x%02x%02x...",
                 w->hash[0],
                 w->hash[1],
                 w->hash[2],
                 w->hash[3]);
}

void transfer_pull_fail(struct pull *p, enum err_code code, const char *why)
{
    struct err err;
    char name[80];

    if (p->state == PULL_ENDING)
        return;
    describe(p, name, sizeof name);
    err_set(&err, code, "%s cannot be brought here: %s", name, why);
    while (!list_empty(&p->askers))
        transfer_answer(p->of, list_entry(p->askers.next, struct asker, node), &err, NULL, -1);
    transfer_pull_end(p);
}

void transfer_pull_drop_asker(struct asker *a)
{
    struct pull *p = a->pull;

    list_remove(&a->node);
    if (list_empty(&p->askers))
        transfer_pull_end(p);
}

/* --- what is next --- */

void transfer_pull_progress(struct pull *p, struct holder *h)
{
    p->progress_ms = loop_now_ms();
    p->was_cut = false;
    if (h == NULL)
        return;
    h->n_asked = 0;
    h->peer->backoff_ms = 0;
    h->peer->why[0] = '\0';
}

void transfer_pull_step(struct pull *p)
{
    switch (p->state) {
    case PULL_ASKING:
    case PULL_MOVING: {
        if (p->state == PULL_MOVING && p->n_whole == p->n_chunks && p->n_moving == 0) {
            transfer_finish(p);
            return;
        }
        const struct err *hopeless = p->n_moving > 0 ? NULL : transfer_why_hopeless(p);
        if (hopeless != NULL) {
            struct err err = *hopeless;
            transfer_pull_fail(p, err.code, err.text);
            return;
        }
        transfer_ask(p, p->state == PULL_MOVING && transfer_read(p));
        return;
    }
    case PULL_ADMIT:
    case PULL_LENDING:
        transfer_ask(p, true);
        return;
    case PULL_CHECKING:
    case PULL_ENDING:
        return;
    }
}

/* --- time --- */

/* End the connections that have bytes of it on the way. */
static bool cut_all_of(const struct pull *p)
{
    struct transfer *t = p->of;
    bool any = false;

    for (size_t i = 0; i < t->by_id.room; i++) {
        const struct request *r =
            t->by_id.keys[i] == 0 ? NULL : (const struct request *)(uintptr_t)t->by_id.values[i];
        struct conn *c = r == NULL || r->pull != p ? NULL : transfer_find_conn(t, r->conn);
        if (c == NULL || c->cut)
            continue;
        transfer_cut(c);
        any = true;
    }
    return any;
}

static void give_up(struct pull *p)
{
    const struct holder *h = list_entry(p->holders.next, struct holder, node);
    char why[320];

    snprintf(why,
             sizeof why,
             h->peer->is_known ? "node %u at %s has sent nothing for %u ms%s%s"
                               : "node %u is not known here%.0s after %u ms%s%s",
             h->peer->number,
             h->peer->name,
             p->of->config.give_up_ms,
             h->peer->why[0] != '\0' ? ": " : "",
             h->peer->why);
    transfer_pull_fail(p, h->peer->is_known ? ERR_TIMEOUT : ERR_DIED, why);
}

/* What is due of it; returns when to look again. It may be gone after. */
static uint64_t pull_on_time(struct pull *p, uint64_t now_ms)
{
    struct transfer *t = p->of;
    uint64_t due_ms = p->progress_ms + t->config.give_up_ms;

    switch (p->state) {
    case PULL_ADMIT:
    case PULL_LENDING:
    case PULL_CHECKING:
        return UINT64_MAX;
    case PULL_ENDING: /* its memory is with somebody who neither reads nor writes */
        if (due_ms > now_ms)
            return due_ms;
        p->progress_ms = now_ms;
        cut_all_of(p);
        return now_ms + t->config.give_up_ms;
    case PULL_ASKING:
    case PULL_MOVING:
        break;
    }
    transfer_serve_parked(p, now_ms, false);
    if (due_ms > now_ms) {
        transfer_pull_step(p);
        return due_ms;
    }
    /* what has come in part counts: on a slow line a READ may take longer */
    if (p->state == PULL_MOVING && !p->was_cut && cut_all_of(p)) {
        p->was_cut = true;
        p->progress_ms = now_ms;
        return now_ms + t->config.give_up_ms;
    }
    give_up(p);
    return UINT64_MAX;
}

uint64_t transfer_pulls_on_time(struct transfer *t, uint64_t now_ms)
{
    uint64_t at_ms = UINT64_MAX;

    list_for_each_safe(n, &t->pulls)
    {
        uint64_t due = pull_on_time(list_entry(n, struct pull, node), now_ms);
        at_ms = due < at_ms ? due : at_ms;
    }
    return at_ms;
}

void transfer_pull_end_all(struct transfer *t)
{
    while (!list_empty(&t->pulls)) {
        struct pull *p = list_entry(t->pulls.next, struct pull, node);
        list_for_each(n, &p->holders) list_entry(n, struct holder, node)->ask = NULL;
        transfer_pull_fail(p, ERR_CANCELED, "the raylet ends");
        if (list_empty(&t->pulls) || list_entry(t->pulls.next, struct pull, node) != p)
            continue;
        p->n_moving = p->n_sending = 0; /* the mover is gone */
        p->ticket = 0;                  /* and nobody will be lent anything */
        release(p);
    }
}

/* --- public --- */

static struct pull *have_pull(struct transfer *t, const struct transfer_what *what)
{
    struct pull *p = transfer_find_pull(t, what);
    uint64_t hash = transfer_hash_of(what);

    if (p != NULL)
        return p;
    p = xcalloc(1, sizeof *p);
    p->magic = TRANSFER_PULL_MAGIC;
    p->of = t;
    p->what = *what;
    p->priority = TRANSFER_ARGUMENT;
    p->fd = -1;
    p->progress_ms = loop_now_ms();
    list_init(&p->wait);
    list_init(&p->askers);
    list_init(&p->holders);
    list_init(&p->parked);
    list_append(&t->pulls, &p->node);
    p->next = first_of(t, hash);
    word_map_set(&t->by_what, hash, (uintptr_t)p);
    transfer_due(t, p->progress_ms + t->config.give_up_ms);
    return p;
}

static uint64_t pull(struct transfer *t,
                     const struct transfer_what *what,
                     uint32_t node,
                     enum transfer_priority priority,
                     transfer_done_f done,
                     transfer_fetched_f fetched,
                     void *arg)
{
    struct pull *p = have_pull(t, what);
    struct asker *a = transfer_add_asker(t, p, arg);
    uint64_t ticket = a->ticket;
    struct err err;

    a->done = done;
    a->fetched = fetched;
    a->priority = priority;
    if (transfer_need_mover(t, &err) != 0) {
        transfer_pull_fail(p, err.code, err.text);
        return ticket;
    }
    transfer_add_holder(p, node);
    if (priority < p->priority) {
        p->priority = priority;
        transfer_admit_later(t);
    }
    transfer_pull_step(p);
    return ticket;
}

uint64_t transfer_pull(struct transfer *t,
                       const struct transfer_key *key,
                       uint32_t node,
                       enum transfer_priority priority,
                       transfer_done_f done,
                       void *arg)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct transfer_what what = transfer_what_of(key);
    struct store_key k = transfer_key_of(&what);
    struct store_object o;

    if (!store_find(t->config.store, &k, &o, loop_now_ms(), t->config.store_actions))
        return pull(t, &what, node, priority, done, NULL, arg);
    struct asker *a = transfer_add_asker(t, NULL, arg);
    uint64_t ticket = a->ticket;
    a->done = done;
    transfer_answer(t,
                    a,
                    NULL,
                    &(struct transfer_object){.place = o.place,
                                              .offset = o.offset,
                                              .size = o.size,
                                              .n_refs = o.n_refs,
                                              .meta = o.meta},
                    -1);
    return ticket;
}

uint64_t transfer_fetch_file(struct transfer *t,
                             uint32_t node,
                             const struct transfer_hash *hash,
                             transfer_fetched_f done,
                             void *arg)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct transfer_what what = {.kind = TRANSFER_FILE};

    memcpy(what.hash, hash->bytes, sizeof what.hash);
    return pull(t, &what, node, TRANSFER_GET, NULL, done, arg);
}

/* --- who asks why --- */

/* The one it comes from, or is to come from. */
static const struct holder *first_holder(const struct pull *p)
{
    const struct holder *first = NULL;

    list_for_each(n, &p->holders)
    {
        const struct holder *h = list_entry(n, struct holder, node);
        if (h->state == HOLDER_HAS)
            return h;
        if (first == NULL || (first->state == HOLDER_GONE && h->state != HOLDER_GONE))
            first = h;
    }
    return first;
}

static enum transfer_stage stage_of(const struct pull *p)
{
    switch (p->state) {
    case PULL_ASKING:
        return TRANSFER_ASKS;
    case PULL_ADMIT:
        return TRANSFER_TURN;
    case PULL_LENDING:
        return TRANSFER_MEMORY;
    case PULL_MOVING:
    case PULL_CHECKING:
    case PULL_ENDING:
        break;
    }
    return TRANSFER_MOVES;
}

size_t transfer_list_waits(const struct transfer *t, struct transfer_wait *out, size_t max)
{
    size_t n = 0, i;

    list_for_each(m, &t->pulls)
    {
        const struct pull *p = list_entry(m, struct pull, node);
        const struct holder *h = first_holder(p);
        struct transfer_wait w = {.stage = stage_of(p),
                                  .is_file = p->what.kind == TRANSFER_FILE,
                                  .node = h != NULL ? h->peer->number : 0,
                                  .since_ms = p->progress_ms};
        if (p->state == PULL_ENDING)
            continue;
        for (i = 0; i < n; i++)
            if (out[i].stage == w.stage && out[i].node == w.node && out[i].is_file == w.is_file)
                break;
        if (i == max)
            continue;
        if (i == n) {
            if (h != NULL)
                memcpy(w.why, h->peer->why, sizeof w.why);
            out[n++] = w;
        }
        out[i].n++;
        out[i].bytes += p->size;
        if (w.since_ms < out[i].since_ms)
            out[i].since_ms = w.since_ms;
    }
    return n;
}
