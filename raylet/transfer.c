/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A pull asks a holder how large the object is, waits for its turn and for memory
 * of the store, and then has READs of its chunks on the connections to its holders, a few at once;
 * what the mover has brought is marked chunk by chunk, and when all are there the object is sealed.
 * A connection that breaks gives back its READs with the bytes that came: the rest is asked for
 * again, wherever a holder can be reached.
 *
 * Everything that the mover or a peer still has to answer is a request with an id of its own. What
 * it points to may end before: then the pointer is NULL, and the answer only gives memory back.
 */
#include "raylet/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/net/loop.h"
#include "raylet/transfer_private.h"

#define HELLO_MS       5000
#define GIVE_UP_MS     30000
#define IDLE_MS        30000
#define ARGUMENT_TENTH 7
#define LATE_MS        500 /* the timer fires so much too late: we were stopped */

/* --- what the parts share --- */

uint64_t transfer_next_id(struct transfer *t)
{
    return ++t->last_id;
}

int transfer_need_mover(struct transfer *t, struct err *err)
{
    if (t->mover == NULL)
        t->mover = mover_create(t->event_fd, err);
    return t->mover != NULL ? 0 : -1;
}

int transfer_need_arena(struct transfer *t, struct err *err)
{
    if (t->arena != NULL)
        return 0;
    void *p = mmap(NULL,
                   t->config.capacity,
                   PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_NORESERVE,
                   t->config.arena_fd,
                   0);
    if (p == MAP_FAILED)
        return err_sys(err, "map the object store for transfers");
    (void)madvise(p, t->config.capacity, MADV_DONTFORK);
    (void)madvise(p, t->config.capacity, MADV_DONTDUMP);
    t->arena = p;
    return 0;
}

struct request *transfer_add_request(struct transfer *t, enum request_kind kind, struct conn *c)
{
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = kind;
    r->id = transfer_next_id(t);
    if (c != NULL) {
        r->conn = c->id;
        c->n_open++;
    }
    word_map_set(&t->by_id, r->id, (uintptr_t)r);
    return r;
}

void transfer_record(struct transfer *t, enum store_record_kind kind, uint64_t place)
{
    store_on_record(t->config.store,
                    t->config.slot,
                    &(struct store_record){.kind = (uint8_t)kind, .place = place},
                    loop_now_ms(),
                    t->config.store_actions);
}

uint64_t transfer_hash_of(const struct transfer_what *what)
{
    uint64_t w[3], h = 0;

    memcpy(w, what, sizeof w);
    for (int i = 0; i < 3; i++) {
        h = (h ^ w[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h | 1;
}

bool transfer_is_same(const struct transfer_what *a, const struct transfer_what *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

struct transfer_what transfer_what_of(const struct transfer_key *key)
{
    return (struct transfer_what){.kind = TRANSFER_OBJECT,
                                  .attempt = key->attempt,
                                  .owner = key->owner,
                                  .counter = key->counter,
                                  .index = key->index};
}

struct store_key transfer_key_of(const struct transfer_what *what)
{
    return (struct store_key){.counter = what->counter,
                              .owner = what->owner,
                              .index = what->index,
                              .attempt = what->attempt};
}

/* --- who asked --- */

struct asker *transfer_add_asker(struct transfer *t, struct pull *p, void *arg)
{
    struct asker *a = xcalloc(1, sizeof *a);

    a->ticket = transfer_next_id(t);
    a->pull = p;
    a->arg = arg;
    a->fd = -1;
    list_init(&a->node);
    if (p != NULL)
        list_append(&p->askers, &a->node);
    word_map_set(&t->by_ticket, a->ticket, (uintptr_t)a);
    return a;
}

static void kick(struct transfer *t)
{
    (void)!write(t->event_fd, &(uint64_t){1}, sizeof(uint64_t));
}

void transfer_answer(struct transfer *t,
                     struct asker *a,
                     const struct err *err,
                     const struct transfer_object *at,
                     int fd)
{
    list_remove(&a->node);
    a->pull = NULL;
    if (err != NULL)
        a->err = *err;
    if (at != NULL)
        a->at = *at;
    a->fd = fd;
    if (list_empty(&t->answered) && !t->is_in_events)
        kick(t);
    list_append(&t->answered, &a->node);
}

void transfer_admit_later(struct transfer *t)
{
    if (!t->wants_admit && !t->is_in_events)
        kick(t);
    t->wants_admit = true;
}

static void free_asker(struct transfer *t, struct asker *a)
{
    list_remove(&a->node);
    word_map_set(&t->by_ticket, a->ticket, 0);
    free(a);
}

static void call_back(struct transfer *t)
{
    while (!list_empty(&t->answered)) {
        struct asker a = *list_entry(t->answered.next, struct asker, node);
        const struct err *err = a.err.code != ERR_NONE ? &a.err : NULL;
        free_asker(t, list_entry(t->answered.next, struct asker, node));
        if (a.done != NULL)
            a.done(a.arg, err, err == NULL ? &a.at : NULL);
        else if (a.fetched != NULL)
            a.fetched(a.arg, err, a.fd);
        else
            a.hashed(a.arg, err, err == NULL ? &a.hash : NULL);
    }
}

void transfer_cancel(struct transfer *t, uint64_t ticket)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct asker *a =
        ticket == 0 ? NULL : (struct asker *)(uintptr_t)word_map_get(&t->by_ticket, ticket);

    if (a == NULL)
        return;
    if (a->fd >= 0)
        close(a->fd);
    for (size_t i = 0; a->hashed != NULL && i < t->by_id.room; i++) {
        struct request *r =
            t->by_id.keys[i] == 0 ? NULL : (struct request *)(uintptr_t)t->by_id.values[i];
        if (r != NULL && r->asker == a)
            r->asker = NULL;
    }
    if (a->pull != NULL)
        transfer_pull_drop_asker(a);
    free_asker(t, a);
}

/* --- events --- */

static void on_hashed(struct transfer *t, struct request *r, const struct mover_event *e)
{
    struct err err;

    if (r->asker == NULL)
        return;
    memcpy(r->asker->hash.bytes, e->hash, sizeof e->hash);
    errno = e->error;
    if (!e->is_whole)
        err_sys(&err, "read the file");
    transfer_answer(t, r->asker, e->is_whole ? NULL : &err, NULL, -1);
}

static void on_event(struct transfer *t, const struct mover_event *e)
{
    struct conn *c = transfer_find_conn(t, e->link);
    uint64_t id = e->kind == MOVER_FRAME ? e->frame.id : e->ticket;
    struct request *r = id == 0 ? NULL : (struct request *)(uintptr_t)word_map_get(&t->by_id, id);

    switch (e->kind) {
    case MOVER_FRAME:
        if (c == NULL || c->cut)
            return;
        c->used_ms = loop_now_ms();
        if (conn_asks(c))
            transfer_pull_on_frame(t, c, &e->frame);
        else
            transfer_serve_on_frame(t, c, &e->frame);
        return;
    case MOVER_ENDED:
        if (c != NULL)
            transfer_conn_ended(c, e->error, e->why);
        return;
    case MOVER_MOVED:
        if (c != NULL) {
            c->used_ms = loop_now_ms();
            c->n_open--;
        }
        if (r->kind == REQUEST_READ)
            transfer_pull_on_moved(r, e->n, e->is_whole);
        else
            transfer_serve_on_moved(r, e->n, t);
        break;
    case MOVER_HASHED:
        if (r->kind == REQUEST_HASH)
            on_hashed(t, r, e);
        else
            transfer_pull_on_hashed(r, e);
        transfer_due(t, loop_now_ms() + TRANSFER_GRACE_MS);
        break;
    }
    word_map_set(&t->by_id, id, 0);
    free(r);
}

static void on_event_fd(void *arg, bool readable, bool writable)
{
    struct transfer *t = arg;
    struct mover_event e;

    CHECK_MAGIC(t, TRANSFER_MAGIC);
    (void)readable;
    (void)writable;
    (void)!read(t->event_fd, &(uint64_t){0}, sizeof(uint64_t));
    t->is_in_events = true;
    while (t->mover != NULL && mover_next(t->mover, &e))
        on_event(t, &e);
    if (t->wants_admit)
        transfer_pull_admit(t);
    call_back(t);
    t->is_in_events = false;
    if (t->wants_admit)
        kick(t); /* callbacks may take long: the loop first */
}

/* --- time --- */

/* This process stood still, and answers may lie unread: that time is not the others'. */
static void forgive(struct transfer *t, uint64_t late_ms)
{
    list_for_each(n, &t->conns)
    {
        struct conn *c = list_entry(n, struct conn, node);
        c->due_ms += late_ms;
        c->used_ms += late_ms;
    }
    list_for_each(n, &t->pulls) list_entry(n, struct pull, node)->progress_ms += late_ms;
}

static void on_timer(void *arg)
{
    struct transfer *t = arg;
    uint64_t now_ms = loop_now_ms(), at_ms;

    CHECK_MAGIC(t, TRANSFER_MAGIC);
    if (now_ms > t->due_ms + LATE_MS)
        forgive(t, now_ms - t->due_ms + LATE_MS);
    t->due_ms = UINT64_MAX;
    at_ms = transfer_conns_on_time(t, now_ms);
    transfer_due(t, at_ms);
    transfer_due(t, transfer_pulls_on_time(t, now_ms));
    if (t->mover == NULL)
        return;
    if (!list_empty(&t->conns) || t->by_id.n > 0) {
        t->quiet_ms = now_ms;
        return; /* whoever ends last makes us look again */
    }
    if (now_ms - t->quiet_ms >= TRANSFER_GRACE_MS) {
        mover_destroy(t->mover);
        t->mover = NULL;
        return;
    }
    transfer_due(t, t->quiet_ms + TRANSFER_GRACE_MS);
}

void transfer_due(struct transfer *t, uint64_t at_ms)
{
    uint64_t now_ms = loop_now_ms();

    if (at_ms >= t->due_ms)
        return;
    t->due_ms = at_ms;
    uint32_t ms = at_ms <= now_ms ? 0 : (uint32_t)(at_ms - now_ms);
    if (t->timer == NULL)
        t->timer = loop_after(t->config.loop, ms, on_timer, t);
    else
        loop_timer_again(t->timer, ms);
}

/* --- public --- */

struct transfer *transfer_create(const struct transfer_config *config, struct err *err)
{
    struct transfer *t = xcalloc(1, sizeof *t);

    t->magic = TRANSFER_MAGIC;
    t->config = *config;
    t->token = *config->token;
    t->config.token = &t->token;
    if (t->config.hello_ms == 0)
        t->config.hello_ms = HELLO_MS;
    if (t->config.give_up_ms == 0)
        t->config.give_up_ms = GIVE_UP_MS;
    if (t->config.idle_ms == 0)
        t->config.idle_ms = IDLE_MS;
    if (t->config.argument_tenth == 0)
        t->config.argument_tenth = ARGUMENT_TENTH;
    t->listen_fd = t->spare_fd = -1;
    t->due_ms = UINT64_MAX;
    list_init(&t->conns);
    list_init(&t->peers);
    list_init(&t->pulls);
    list_init(&t->admit);
    list_init(&t->files);
    list_init(&t->answered);
    t->share = xcalloc(1, sizeof *t->share);
    store_add_process(config->store, config->slot, config->node, t->share);
    t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->event_fd < 0) {
        err_sys(err, "make the data port's events");
        goto fail;
    }
    t->event_watch = loop_watch_fd(config->loop, t->event_fd, on_event_fd, t);
    if (t->event_watch == NULL) {
        err_set(err, ERR_NO_MEMORY, "no memory to watch the data port's events");
        goto fail;
    }
    if (!config->is_closed && transfer_listen(t, err) != 0)
        goto fail;
    return t;
fail:
    transfer_destroy(t);
    return NULL;
}

void transfer_destroy(struct transfer *t)
{
    if (t == NULL)
        return;
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    t->is_destroying = true;
    mover_destroy(t->mover);
    t->mover = NULL;
    for (size_t i = 0; i < t->by_id.room; i++) {
        struct request *r =
            t->by_id.keys[i] == 0 ? NULL : (struct request *)(uintptr_t)t->by_id.values[i];
        if (r != NULL && r->asker != NULL)
            transfer_answer(t,
                            r->asker,
                            &(struct err){.code = ERR_CANCELED, .text = "the raylet ends"},
                            NULL,
                            -1);
        free(r);
    }
    transfer_pull_end_all(t);
    call_back(t);
    while (!list_empty(&t->conns))
        transfer_free_conn(list_entry(t->conns.next, struct conn, node));
    while (!list_empty(&t->peers)) {
        struct peer *p = list_entry(t->peers.next, struct peer, node);
        p->is_known = false;
        p->conn = NULL;
        transfer_drop_peer(p);
    }
    transfer_file_end(t);
    transfer_serve_end(t);
    store_remove_process(t->config.store, t->config.slot, loop_now_ms(), t->config.store_actions);
    if (t->arena != NULL)
        munmap(t->arena, t->config.capacity);
    loop_timer_end(t->timer);
    loop_unwatch(t->listen_watch);
    loop_unwatch(t->event_watch);
    if (t->listen_fd >= 0)
        close(t->listen_fd);
    if (t->spare_fd >= 0)
        close(t->spare_fd);
    if (t->event_fd >= 0)
        close(t->event_fd);
    word_map_fini(&t->by_id);
    word_map_fini(&t->by_ticket);
    word_map_fini(&t->by_what);
    word_map_fini(&t->by_lend);
    free(t->share);
    t->magic = 0;
    free(t);
}

uint16_t transfer_port(const struct transfer *t)
{
    return t->port;
}

void transfer_set_self(struct transfer *t, const struct unique_id *cluster, uint32_t node)
{
    t->config.cluster = *cluster;
    t->config.node = node;
}

void transfer_on_store(struct transfer *t, const struct store_action *action, const char *refusal)
{
    struct store_action a = *action; /* what we do may move the list it is in */

    CHECK_MAGIC(t, TRANSFER_MAGIC);
    switch (a.kind) {
    case STORE_LENT:
    case STORE_REFUSED:
        transfer_pull_on_store(t, &a, refusal);
        break;
    case STORE_FREED:
        transfer_serve_on_freed(t, a.places[0]);
        break;
    case STORE_RECALL: /* what we were lent is being filled */
        break;
    }
}

void transfer_free(struct transfer *t, const struct transfer_key *key)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct transfer_what what = transfer_what_of(key);
    struct pull *p = transfer_find_pull(t, &what);
    struct store_key k = transfer_key_of(&what);
    struct store_object o;

    transfer_serve_free(t, &what);
    if (p != NULL)
        transfer_pull_fail(p, ERR_NOT_FOUND, "its owner has freed it");
    if (store_find(t->config.store, &k, &o, loop_now_ms(), t->config.store_actions))
        store_free(t->config.store, o.place, loop_now_ms(), t->config.store_actions);
}

void transfer_owner_gone(struct transfer *t, uint32_t owner)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    list_for_each_safe(n, &t->pulls)
    {
        struct pull *p = list_entry(n, struct pull, node);
        if (p->what.kind == TRANSFER_OBJECT && p->what.owner == owner)
            transfer_pull_fail(p, ERR_DIED, "its owner is gone");
    }
    transfer_serve_owner_gone(t, owner);
}

void transfer_get_stats(const struct transfer *t, struct transfer_stats *out)
{
    *out = t->stats;
    list_for_each(n, &t->conns)
    {
        const struct conn *c = list_entry(n, struct conn, node);
        out->n_links += c->state == CONN_PROVEN;
        out->n_unproven += c->state != CONN_PROVEN && !c->is_dialer;
    }
    list_for_each(n, &t->pulls)
    {
        const struct pull *p = list_entry(n, struct pull, node);
        out->n_pulls += p->what.kind == TRANSFER_OBJECT && p->state != PULL_ENDING;
        out->n_fetches += p->what.kind == TRANSFER_FILE && p->state != PULL_ENDING;
    }
}
