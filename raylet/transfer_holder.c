/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may have what a pull wants, and what they say. One holder is asked at a time: whoever
 * answered that it has the object tells us of its end, so others are asked only if no holder that
 * has it can be reached, or if a holder says that they better be read from.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/net/loop.h"
#include "lib/net/wire.h"
#include "raylet/transfer_private.h"

#define SIZE_MAX_FOREIGN (1ull << 48) /* of any object, so that sums do not overflow */

struct holder *transfer_find_holder(const struct pull *p, uint32_t number)
{
    list_for_each(n, &p->holders)
    {
        struct holder *h = list_entry(n, struct holder, node);
        if (h->peer->number == number)
            return h;
    }
    return NULL;
}

void transfer_drop_holder(struct holder *h)
{
    struct peer *peer = h->peer;

    if (h->ask != NULL)
        h->ask->holder = NULL;
    list_remove(&h->node);
    list_remove(&h->of_peer);
    list_remove(&h->hungry);
    free(h);
    transfer_drop_peer(peer);
}

/* --- asking --- */

static void send_ask(struct holder *h, struct conn *c)
{
    struct transfer *t = h->pull->of;
    struct request *r = transfer_add_request(t, REQUEST_ASK, c);
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_ASK, .id = r->id};

    f.what = h->pull->what;
    r->holder = h;
    h->ask = r;
    h->state = HOLDER_ASKED;
    h->n_asked++;
    mover_send(t->mover, c->id, &f, NULL, 0);
}

/* Ask the next holder, if no answer is open; one of the better alone. */
void transfer_ask(struct pull *p, bool better)
{
    uint64_t now_ms = loop_now_ms();

    list_for_each(n, &p->holders) if (list_entry(n, struct holder, node)->state
                                      == HOLDER_ASKED) return;
    list_for_each(n, &p->holders)
    {
        struct holder *h = list_entry(n, struct holder, node);
        if (h->state != HOLDER_NEW || (better && !h->is_better))
            continue;
        if (h->ask_ms > now_ms) {
            transfer_due(p->of, h->ask_ms);
            continue;
        }
        struct conn *c = transfer_conn_to(p->of, h->peer);
        if (c == NULL)
            continue;
        send_ask(h, c);
        return;
    }
}

/* The reason of the last holder, if all are gone. */
const struct err *transfer_why_hopeless(const struct pull *p)
{
    const struct err *err = NULL;

    list_for_each(n, &p->holders)
    {
        const struct holder *h = list_entry(n, struct holder, node);
        if (h->state != HOLDER_GONE)
            return NULL;
        err = &h->err;
    }
    return err;
}

/* --- what holders say --- */

static bool has_others(const struct holder *h)
{
    list_for_each(n, &h->pull->holders)
    {
        const struct holder *o = list_entry(n, struct holder, node);
        if (o != h && o->state != HOLDER_GONE)
            return true;
    }
    return false;
}

static void on_gone(struct holder *h)
{
    struct pull *p = h->pull;
    bool held_back = h->state == HOLDER_HAS; /* it may do so again */

    list_remove(&h->hungry);
    if (!h->is_better
        && h->n_asked < TRANSFER_TRIES) { /* its news of the object may be on their way */
        h->state = HOLDER_NEW;
        h->ask_ms =
            loop_now_ms() + (held_back && has_others(h) ? TRANSFER_PARKED_MS : TRANSFER_AGAIN_MS);
    } else {
        h->state = HOLDER_GONE;
        h->is_better = false;
        err_set(&h->err, ERR_NOT_FOUND, "node %u does not have it", h->peer->number);
    }
    transfer_pull_step(p);
}

struct holder *transfer_add_holder(struct pull *p, uint32_t number)
{
    struct transfer *t = p->of;
    struct holder *h = transfer_find_holder(p, number);

    if (h == NULL) {
        h = xcalloc(1, sizeof *h);
        h->pull = p;
        h->peer = transfer_have_peer(t, number);
        list_init(&h->hungry);
        list_append(&p->holders, &h->node);
        list_append(&h->peer->holders, &h->of_peer);
    } else if (h->state == HOLDER_GONE) {
        h->state = HOLDER_NEW;
        h->n_asked = 0;
    }
    if (number == t->config.node) {
        h->state = HOLDER_GONE;
        err_set(&h->err, ERR_NOT_FOUND, "this node does not have it");
    } else if (transfer_is_dead(t, h->peer)) {
        h->state = HOLDER_GONE;
        err_set(&h->err, ERR_DIED, "node %u is dead", number);
    }
    return h;
}

/* Where the holder sends us; what it says is no more than a hint. */
static void add_better(struct pull *p, const struct transfer_frame *f)
{
    struct transfer *t = p->of;

    for (int i = 0; i < f->n_holders && i < TRANSFER_HOLDERS_MAX; i++) {
        const struct peer *peer = transfer_find_peer(t, f->holders[i]);
        if (peer != NULL && peer->is_known && !peer->is_away && peer->number != t->config.node
            && transfer_find_holder(p, peer->number) == NULL)
            transfer_add_holder(p, peer->number)->is_better = true;
    }
    p->better_ms = loop_now_ms() + TRANSFER_REFER_MS;
    transfer_pull_step(p);
}

static bool is_good_size(const struct pull *p, const struct transfer_frame *f)
{
    uint64_t refs =
        f->n_refs == 0 ? 0 : (8 - f->size % 8) % 8 + (uint64_t)f->n_refs * sizeof(struct wire_ref);

    if (p->what.kind == TRANSFER_FILE)
        return f->length == f->size && f->n_refs == 0 && f->size <= TRANSFER_FILE_MAX;
    return f->size > 0 && f->size <= SIZE_MAX_FOREIGN && f->length == f->size + refs;
}

static void on_is(struct holder *h, struct conn *c, const struct transfer_frame *f)
{
    struct pull *p = h->pull;

    if (!is_good_size(p, f)) {
        h->state = HOLDER_GONE;
        err_set(&h->err, ERR_PROTOCOL, "node %u says that it has an impossible size", c->number);
        transfer_misbehaved(c, "an impossible size");
    } else if (p->state != PULL_ASKING
               && (f->length != p->length || f->size != p->size || f->n_refs != p->n_refs)) {
        h->state = HOLDER_GONE;
        err_set(&h->err, ERR_PROTOCOL, "node %u has another one of that name", c->number);
    } else {
        h->state = HOLDER_HAS;
        if (p->state == PULL_ASKING)
            transfer_pull_progress(p, NULL);
    }
    if (p->state != PULL_ASKING || h->state != HOLDER_HAS) {
        transfer_pull_step(p);
        return;
    }
    transfer_pull_sized(p, f);
    if (f->n_holders > 0)
        add_better(p, f);
}

void transfer_pull_on_frame(struct transfer *t, struct conn *c, const struct transfer_frame *f)
{
    struct request *r =
        f->id == 0 ? NULL : (struct request *)(uintptr_t)word_map_get(&t->by_id, f->id);

    if (r == NULL || r->conn != c->id || (r->kind != REQUEST_ASK && r->kind != REQUEST_READ)
        || (r->kind == REQUEST_READ && f->type != TRANSFER_GONE)) {
        transfer_misbehaved(c, "an answer that nobody asked for");
        return;
    }
    struct request was = *r;
    word_map_set(&t->by_id, r->id, 0);
    free(r);
    c->n_open--;
    if (was.kind == REQUEST_READ) {
        struct pull *p = was.pull;
        c->n_reads--;
        p->n_moving--;
        if (p->state == PULL_ENDING) {
            transfer_pull_unuse(p);
        } else {
            struct holder *h = transfer_find_holder(p, c->number);
            t->stats.n_resumed++;
            transfer_pull_read_again(p, was.chunk);
            if (h != NULL && h->state == HOLDER_HAS)
                on_gone(h);
            else
                transfer_pull_step(p);
        }
        transfer_pull_feed(t, c->number);
        return;
    }
    struct holder *h = was.holder;
    if (h == NULL)
        return;
    h->ask = NULL;
    if (f->type == TRANSFER_IS)
        on_is(h, c, f);
    else
        on_gone(h);
}

/* --- nodes come and go --- */

static void step_all_of(struct transfer *t, const struct peer *peer)
{
    uint32_t number = peer->number;

    list_for_each_safe(n, &t->pulls)
    {
        struct pull *p = list_entry(n, struct pull, node);
        if (p->state != PULL_ENDING && transfer_find_holder(p, number) != NULL)
            transfer_pull_step(p);
    }
}

void transfer_pull_on_conn(struct transfer *t, struct peer *peer)
{
    step_all_of(t, peer);
}

void transfer_pull_on_conn_lost(struct transfer *t, uint64_t conn)
{
    for (size_t i = 0; i < t->by_id.room;) {
        struct request *r =
            t->by_id.keys[i] == 0 ? NULL : (struct request *)(uintptr_t)t->by_id.values[i];
        if (r == NULL || r->conn != conn || r->kind != REQUEST_ASK) {
            i++;
            continue;
        }
        if (r->holder != NULL) {
            r->holder->ask = NULL;
            r->holder->state = HOLDER_NEW;
        }
        word_map_set(&t->by_id, r->id, 0); /* which moves others */
        free(r);
        i = 0;
    }
}

void transfer_pull_on_unreachable(struct transfer *t, struct peer *peer, const struct err *refused)
{
    list_for_each(n, &peer->holders)
    {
        struct holder *h = list_entry(n, struct holder, of_peer);
        list_remove(&h->hungry);
        if (refused == NULL)
            continue;
        if (h->ask != NULL)
            h->ask->holder = NULL;
        h->ask = NULL;
        h->state = HOLDER_GONE;
        h->err = *refused;
        if (refused->code != ERR_DIED)
            err_prefix(&h->err, "node %u at %s", peer->number, peer->name);
    }
    step_all_of(t, peer);
}
