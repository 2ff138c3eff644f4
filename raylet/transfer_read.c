/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holders with missing chunks wait in lines of their node, one for each priority; feed() serves
 * these as long as the connection takes READs.
 */
#include "lib/net/loop.h"
#include "raylet/transfer_private.h"

static uint64_t length_of(const struct pull *p, uint32_t chunk)
{
    uint64_t at = (uint64_t)chunk * TRANSFER_CHUNK;

    return p->length - at < TRANSFER_CHUNK ? p->length - at : TRANSFER_CHUNK;
}

static bool is_missing(const struct pull *p, uint32_t chunk)
{
    return !p->chunks[chunk].is_asked && p->chunks[chunk].got < length_of(p, chunk);
}

/* The next missing chunk; n_chunks: none is. */
static uint32_t next_missing(struct pull *p)
{
    while (p->first_missing < p->n_chunks && !is_missing(p, p->first_missing))
        p->first_missing++;
    return p->first_missing;
}

bool transfer_pull_has(const struct pull *p, uint64_t offset, uint64_t length)
{
    for (uint64_t at = offset; at < offset + length;) {
        uint32_t i = (uint32_t)(at / TRANSFER_CHUNK);
        uint64_t begin = (uint64_t)i * TRANSFER_CHUNK, end_at = begin + length_of(p, i);
        uint64_t need = offset + length < end_at ? offset + length : end_at;
        if (begin + p->chunks[i].got < need)
            return false;
        at = end_at;
    }
    return true;
}

static void send_read(struct pull *p, struct conn *c, uint32_t chunk)
{
    struct transfer *t = p->of;
    struct request *r = transfer_add_request(t, REQUEST_READ, c);
    uint32_t got = p->chunks[chunk].got;
    uint64_t offset = (uint64_t)chunk * TRANSFER_CHUNK + got;
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_READ, .id = r->id};

    f.offset = offset;
    f.length = length_of(p, chunk) - got;
    f.what = p->what;
    r->pull = p;
    r->chunk = chunk;
    c->n_reads++;
    p->n_moving++;
    p->chunks[chunk].is_asked = true;
    mover_read(t->mover, c->id, &f, p->bytes + offset);
}

static void feed(struct transfer *t, struct peer *peer)
{
    for (int i = 0; i <= TRANSFER_ARGUMENT; i++) {
        while (!list_empty(&peer->hungry[i])) {
            struct holder *h = list_entry(peer->hungry[i].next, struct holder, hungry);
            struct conn *c = transfer_conn_to(t, peer);
            if (c == NULL || c->n_reads >= TRANSFER_READS)
                return;
            uint32_t chunk = next_missing(h->pull);
            if (chunk < h->pull->n_chunks)
                send_read(h->pull, c, chunk);
            else
                list_remove(&h->hungry);
        }
    }
}

/* Is there a better holder, or will there be in a moment? */
static bool has_better(struct pull *p)
{
    bool is_waiting = loop_now_ms() < p->better_ms;

    list_for_each(n, &p->holders)
    {
        const struct holder *h = list_entry(n, struct holder, node);
        if (!h->is_better)
            continue;
        if (h->state == HOLDER_HAS && transfer_conn_to(p->of, h->peer) != NULL)
            return true;
        if (is_waiting
            && (h->state == HOLDER_ASKED || (h->state == HOLDER_NEW && h->peer->conn != NULL))) {
            transfer_due(p->of, p->better_ms);
            return true;
        }
    }
    return false;
}

bool transfer_read(struct pull *p)
{
    bool is_better = has_better(p), ok = is_better;

    list_for_each(n, &p->holders)
    {
        struct holder *h = list_entry(n, struct holder, node);
        list_remove(&h->hungry);
        if (h->state != HOLDER_HAS || (is_better && !h->is_better))
            continue;
        list_append(&h->peer->hungry[p->priority], &h->hungry);
        feed(p->of, h->peer);
        ok |= transfer_conn_to(p->of, h->peer) != NULL;
    }
    return ok;
}

void transfer_pull_feed(struct transfer *t, uint32_t number)
{
    struct peer *peer = transfer_find_peer(t, number);

    if (peer != NULL)
        feed(t, peer);
}

void transfer_pull_read_again(struct pull *p, uint32_t chunk)
{
    p->chunks[chunk].is_asked = false;
    if (chunk < p->first_missing)
        p->first_missing = chunk;
}

void transfer_pull_on_moved(struct request *r, uint64_t n, bool is_whole)
{
    struct pull *p = r->pull;
    struct transfer *t = p->of;
    struct conn *c = transfer_find_conn(t, r->conn);

    p->n_moving--;
    t->stats.bytes_in += n;
    p->chunks[r->chunk].got += (uint32_t)n;
    if (c != NULL)
        c->n_reads--;
    if (n > 0)
        transfer_pull_progress(p, c == NULL ? NULL : transfer_find_holder(p, c->number));
    if (p->state == PULL_ENDING) {
        transfer_pull_unuse(p);
    } else {
        if (is_whole) {
            p->chunks[r->chunk].is_asked = false;
            p->n_whole++;
            transfer_serve_parked(p, 0, false);
        } else {
            t->stats.n_resumed++;
            transfer_pull_read_again(p, r->chunk);
        }
        if (!is_whole || p->n_whole == p->n_chunks)
            transfer_pull_step(p);
    }
    if (c != NULL)
        transfer_pull_feed(t, c->number);
}
