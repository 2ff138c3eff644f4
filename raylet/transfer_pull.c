/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. transfer_pull_step() looks at one pull and does what can be done: ask a holder,
 * dial one, read missing chunks, or give up when no holder is left. It is called when something
 * changed for the better or the worse, and by the timer. Holders with missing chunks wait in lines
 * of their node, one for each priority; feed() serves these as long as the connection takes READs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

static void leave_admission(struct pull *p)
{
    struct transfer *t = p->of;

    list_remove(&p->wait);
    if (!p->is_admitted)
        return;
    p->is_admitted = false;
    t->n_arguments--;
    t->stats.argument_bytes -= p->length;
}

static void give_back(struct pull *p)
{
    struct transfer *t = p->of;

    if (p->what.kind == TRANSFER_FILE && p->bytes != NULL)
        munmap(p->bytes, p->length);
    if (p->fd >= 0)
        close(p->fd);
    if (p->place == 0)
        return;
    transfer_record(t, STORE_RETURN, p->place);
    uint64_t size = (p->length + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
    store_on_record(t->config.store,
                    t->config.slot,
                    &(struct store_record){.kind = STORE_RETURN, .offset = p->offset, .size = size},
                    loop_now_ms(),
                    t->config.store_actions);
}

/* Of ENDING: when nobody uses its memory. */
static void release(struct pull *p)
{
    if (p->n_moving + p->n_sending > 0 || p->ticket != 0)
        return;
    give_back(p);
    list_remove(&p->node);
    free(p->chunks);
    p->magic = 0;
    free(p);
}

static void end(struct pull *p)
{
    struct transfer *t = p->of;

    ASSERT(p->state != PULL_ENDING && list_empty(&p->askers));
    p->state = PULL_ENDING;
    forget_what(p);
    leave_admission(p);
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
    end(p);
}

void transfer_pull_drop_asker(struct asker *a)
{
    struct pull *p = a->pull;

    list_remove(&a->node);
    if (list_empty(&p->askers))
        end(p);
}

/* --- reading --- */

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

/* Its missing chunks are read wherever they can be. false: nowhere just now. */
static bool hunger(struct pull *p)
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

/* --- memory --- */

static void begin_moving(struct pull *p)
{
    p->state = PULL_MOVING;
    p->progress_ms = loop_now_ms();
    p->n_chunks = (uint32_t)((p->length + TRANSFER_CHUNK - 1) / TRANSFER_CHUNK);
    p->chunks = try_alloc(NULL, (p->n_chunks + 1) * sizeof *p->chunks);
    if (p->chunks == NULL) {
        transfer_pull_fail(p, ERR_NO_MEMORY, "no memory for its books");
        return;
    }
    memset(p->chunks, 0, p->n_chunks * sizeof *p->chunks);
    transfer_due(p->of, p->progress_ms + p->of->config.give_up_ms);
    transfer_pull_step(p);
}

static void make_file(struct pull *p)
{
    struct err err;

    p->fd = memfd_create("ray-file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (p->fd >= 0 && ftruncate(p->fd, (off_t)p->length) == 0) {
        void *map = p->length == 0
                        ? NULL
                        : mmap(NULL, p->length, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
        if (map != MAP_FAILED) {
            p->bytes = map;
            begin_moving(p);
            return;
        }
    }
    err_sys(&err, "make memory for it");
    transfer_pull_fail(p, err.code, err.text);
}

static void begin_lend(struct pull *p)
{
    struct transfer *t = p->of;

    list_remove(&p->wait);
    if (p->what.kind == TRANSFER_FILE) {
        make_file(p);
        return;
    }
    p->state = PULL_LENDING;
    p->ticket = transfer_next_id(t);
    word_map_set(&t->by_lend, p->ticket, (uintptr_t)p);
    store_lend(t->config.store,
               t->config.slot,
               p->ticket,
               p->length,
               p->length,
               1,
               loop_now_ms(),
               t->config.store_actions);
}

void transfer_pull_sized(struct pull *p, const struct transfer_frame *is)
{
    p->length = is->length;
    p->size = is->size;
    p->n_refs = is->n_refs;
    p->meta = is->meta;
    p->state = PULL_ADMIT;
    list_append(&p->of->admit, &p->wait);
    transfer_admit_later(p->of);
}

/* Arguments in their order, and not too many bytes. */
void transfer_pull_admit(struct transfer *t)
{
    uint64_t most = t->config.capacity / 10 * t->config.argument_tenth;
    bool is_blocked = false;

    t->wants_admit = false;
    list_for_each_safe(n, &t->admit)
    {
        struct pull *p = list_entry(n, struct pull, wait);
        if (p->priority == TRANSFER_ARGUMENT) {
            is_blocked |= t->n_arguments > 0 && t->stats.argument_bytes + p->length > most;
            if (is_blocked)
                continue;
            p->is_admitted = true;
            t->n_arguments++;
            t->stats.argument_bytes += p->length;
        }
        begin_lend(p);
    }
}

void transfer_pull_on_store(struct transfer *t,
                            const struct store_action *action,
                            const char *refusal)
{
    struct pull *p = (struct pull *)(uintptr_t)word_map_get(&t->by_lend, action->ticket);
    struct err err;

    if (p == NULL)
        return;
    word_map_set(&t->by_lend, action->ticket, 0);
    p->ticket = 0;
    if (action->kind == STORE_REFUSED) {
        if (p->state == PULL_ENDING)
            release(p);
        else
            transfer_pull_fail(p, ERR_FULL, refusal != NULL ? refusal : "the store is full");
        return;
    }
    p->place = action->places[0];
    p->offset = action->offset;
    if (p->state == PULL_ENDING) {
        release(p);
    } else if (transfer_need_arena(t, &err) != 0) {
        transfer_pull_fail(p, err.code, err.text);
    } else {
        p->bytes = t->arena + p->offset;
        begin_moving(p);
    }
}

/* --- all is here --- */

static void finish_object(struct pull *p)
{
    struct transfer *t = p->of;
    struct store_record r = {.kind = STORE_SEAL,
                             .meta = p->meta,
                             .attempt = p->what.attempt,
                             .owner = p->what.owner,
                             .place = p->place,
                             .offset = p->offset,
                             .size = p->size,
                             .counter = p->what.counter,
                             .index = p->what.index,
                             .n_refs = p->n_refs,
                             .extra = p->length - p->size};
    struct transfer_object at = {.place = p->place,
                                 .offset = p->offset,
                                 .size = p->size,
                                 .n_refs = p->n_refs,
                                 .meta = p->meta};
    uint64_t now_ms = loop_now_ms();

    store_on_record(t->config.store, t->config.slot, &r, now_ms, t->config.store_actions);
    p->place = 0; /* the store's from here on */
    if (!store_set_copy(t->config.store, at.place, now_ms)) {
        transfer_pull_fail(p, ERR_DIED, "its owner is gone");
        return;
    }
    transfer_serve_sealed(t, &p->what, at.place);
    while (!list_empty(&p->askers))
        transfer_answer(t, list_entry(p->askers.next, struct asker, node), NULL, &at, -1);
    end(p);
}

/* Nobody can change it any more; then its bytes are looked at. */
static void check_file(struct pull *p)
{
    struct transfer *t = p->of;
    struct err err;

    if (p->bytes != NULL)
        munmap(p->bytes, p->length);
    p->bytes = NULL;
    int fd =
        fcntl(p->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0
            ? fcntl(p->fd, F_DUPFD_CLOEXEC, 0)
            : -1;
    if (fd < 0) {
        err_sys(&err, "seal it");
        transfer_pull_fail(p, err.code, err.text);
        return;
    }
    struct request *r = transfer_add_request(t, REQUEST_CHECK, NULL);
    r->pull = p;
    p->ticket = r->id;
    p->state = PULL_CHECKING;
    mover_hash(t->mover, r->id, fd, TRANSFER_FILE_MAX);
}

void transfer_pull_on_hashed(struct request *r, const struct mover_event *e)
{
    struct pull *p = r->pull;

    p->ticket = 0;
    if (p->state == PULL_ENDING) {
        release(p);
        return;
    }
    if (!e->is_whole || memcmp(e->hash, p->what.hash, sizeof e->hash) != 0) {
        transfer_pull_fail(p,
                           ERR_PROTOCOL,
                           e->is_whole ? "what came has another hash" : strerror(e->error));
        return;
    }
    while (!list_empty(&p->askers)) {
        struct asker *a = list_entry(p->askers.next, struct asker, node);
        struct err err;
        int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            err_sys(&err, "hand over the file");
        transfer_answer(p->of, a, fd < 0 ? &err : NULL, NULL, fd);
    }
    end(p);
}

/* h: thanks to this one, or NULL. */
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
        release(p);
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

/* --- what is next --- */

void transfer_pull_step(struct pull *p)
{
    switch (p->state) {
    case PULL_ASKING:
    case PULL_MOVING: {
        if (p->state == PULL_MOVING && p->n_whole == p->n_chunks && p->n_moving == 0) {
            if (p->what.kind == TRANSFER_FILE)
                check_file(p);
            else
                finish_object(p);
            return;
        }
        const struct err *hopeless = p->n_moving > 0 ? NULL : transfer_why_hopeless(p);
        if (hopeless != NULL) {
            struct err err = *hopeless;
            transfer_pull_fail(p, err.code, err.text);
            return;
        }
        transfer_ask(p, p->state == PULL_MOVING && hunger(p));
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
    transfer_pull_fail(p, ERR_TIMEOUT, why);
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
