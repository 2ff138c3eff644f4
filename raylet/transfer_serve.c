/* SPDX-License-Identifier: Apache-2.0 */
/* What other nodes read here, also of what is still coming; and who has copies from us, to be told
 * when their owner frees them. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/net/loop.h"
#include "lib/net/wire.h"
#include "raylet/transfer_private.h"

/* --- who has copies --- */

static struct served *first_of(const struct transfer *t, uint64_t hash)
{
    return (struct served *)(uintptr_t)word_map_get(&t->served, hash);
}

static struct served *find_served(const struct transfer *t, const struct transfer_what *what)
{
    struct served *s = first_of(t, transfer_hash_of(what));

    while (s != NULL && !transfer_is_same(&s->what, what))
        s = s->next;
    return s;
}

static void free_served(struct transfer *t, struct served *s)
{
    uint64_t hash = transfer_hash_of(&s->what);
    struct served *at = first_of(t, hash);

    if (at == s) {
        word_map_set(&t->served, hash, (uintptr_t)s->next);
    } else {
        while (at->next != s)
            at = at->next;
        at->next = s->next;
    }
    if (s->place != 0)
        word_map_set(&t->by_place, s->place, 0);
    t->stats.n_served--;
    free(s->nodes);
    free(s);
}

static void set_place(struct transfer *t, struct served *s, uint64_t place)
{
    if (place == s->place || !store_watch(t->config.store, place))
        return;
    if (s->place != 0)
        word_map_set(&t->by_place, s->place, 0);
    s->place = place;
    word_map_set(&t->by_place, place, (uintptr_t)s);
}

/* place: where it is here; 0: it is still coming. Returns which of those who read it here that node
 * is, from 0 on. */
static uint32_t note_served(struct transfer *t,
                            const struct transfer_what *what,
                            uint64_t place,
                            uint32_t node)
{
    uint64_t hash = transfer_hash_of(what);
    struct served *s = find_served(t, what);

    if (s == NULL) {
        s = xcalloc(1, sizeof *s);
        s->what = *what;
        s->next = first_of(t, hash);
        word_map_set(&t->served, hash, (uintptr_t)s);
        t->stats.n_served++;
    }
    if (place != 0)
        set_place(t, s, place);
    for (uint32_t i = 0; i < s->n; i++)
        if (s->nodes[i] == node)
            return i;
    if (s->n == s->room) {
        s->room = s->room == 0 ? 4 : s->room * 2;
        s->nodes = xrealloc(s->nodes, s->room * sizeof *s->nodes);
    }
    s->nodes[s->n] = node;
    return s->n++;
}

/* Many who read one large object form a tree: the first read it here, each later one from one that
 * came before it, also while that is still reading. */
static void refer(const struct transfer *t,
                  const struct transfer_what *what,
                  uint32_t rank,
                  struct transfer_frame *is)
{
    const struct served *s = find_served(t, what);

    if (is->length <= TRANSFER_CHUNK || rank < TRANSFER_CHILDREN)
        return;
    is->holders[0] = s->nodes[(rank - TRANSFER_CHILDREN) / TRANSFER_CHILDREN];
    is->n_holders = 1;
}

static void tell_and_free(struct transfer *t, struct served *s)
{
    struct transfer_key key = {.counter = s->what.counter,
                               .owner = s->what.owner,
                               .index = s->what.index,
                               .attempt = s->what.attempt};

    for (uint32_t i = 0; i < s->n; i++)
        t->config.send_free(t->config.arg, s->nodes[i], &key);
    free_served(t, s);
}

void transfer_serve_sealed(struct transfer *t, const struct transfer_what *what, uint64_t place)
{
    struct served *s = find_served(t, what);

    if (s != NULL)
        set_place(t, s, place);
}

void transfer_serve_on_freed(struct transfer *t, uint64_t place)
{
    struct served *s = (struct served *)(uintptr_t)word_map_get(&t->by_place, place);

    if (s != NULL)
        tell_and_free(t, s);
}

void transfer_serve_free(struct transfer *t, const struct transfer_what *what)
{
    struct served *s = find_served(t, what);

    if (s != NULL)
        tell_and_free(t, s);
}

/* Those of this owner, or all. */
static void free_served_of(struct transfer *t, bool all, uint32_t owner)
{
    for (size_t i = 0; i < t->served.room;) {
        struct served *s =
            t->served.keys[i] == 0 ? NULL : (struct served *)(uintptr_t)t->served.values[i];
        while (s != NULL && !all && s->what.owner != owner)
            s = s->next;
        if (s == NULL) {
            i++;
            continue;
        }
        size_t room = t->served.room;
        free_served(t, s); /* which may move another one here, or all */
        if (t->served.room != room)
            i = 0;
    }
}

void transfer_serve_owner_gone(struct transfer *t, uint32_t owner)
{
    free_served_of(t, false, owner);
}

void transfer_serve_end(struct transfer *t)
{
    free_served_of(t, true, 0);
    word_map_fini(&t->served);
    word_map_fini(&t->by_place);
}

/* --- answers --- */

static void answer_gone(struct transfer *t, const struct conn *c, const struct transfer_frame *f)
{
    mover_send(t->mover,
               c->id,
               &(struct transfer_frame){.word = TRANSFER_WORD, .type = TRANSFER_GONE, .id = f->id},
               NULL,
               0);
}

/* A source of bytes: an object here, one on its way here, or a file. */
struct source {
    struct pull *pull;
    struct file *file;
    uint64_t place; /* to be held while it is sent; 0: a file */
    const uint8_t *bytes;
    uint64_t length, size;
    uint32_t n_refs;
    uint8_t meta;
};

static bool find_object(struct transfer *t, const struct transfer_what *what, struct source *out)
{
    struct store_key key = transfer_key_of(what);
    struct store_object o;

    if (!store_find(t->config.store, &key, &o, loop_now_ms(), t->config.store_actions)
        || transfer_need_arena(t, NULL) != 0)
        return false;
    *out = (struct source){.place = o.place,
                           .bytes = t->arena + o.offset,
                           .length = o.size,
                           .size = o.size,
                           .n_refs = o.n_refs,
                           .meta = o.meta};
    if (o.n_refs > 0)
        out->length += (8 - o.size % 8) % 8 + (uint64_t)o.n_refs * sizeof(struct wire_ref);
    return out->length <= o.room; /* what its creator said of its refs may be wrong */
}

bool transfer_find(struct transfer *t,
                   const struct transfer_key *key,
                   bool keep,
                   struct transfer_object *at)
{
    const struct transfer_what what = transfer_what_of(key);
    struct source s;

    if (!find_object(t, &what, &s) || (keep && !store_keep(t->config.store, s.place)))
        return false;
    *at = (struct transfer_object){.place = s.place,
                                   .offset = (uint64_t)(s.bytes - t->arena),
                                   .size = s.size,
                                   .n_refs = s.n_refs,
                                   .meta = s.meta};
    return true;
}

static bool find_source(struct transfer *t, const struct transfer_what *what, struct source *out)
{
    if (what->kind == TRANSFER_FILE) {
        struct file *file = transfer_find_file(t, what->hash);
        if (file != NULL)
            *out = (struct source){.file = file,
                                   .bytes = file->bytes,
                                   .length = file->size,
                                   .size = file->size};
        return file != NULL;
    }
    if (find_object(t, what, out))
        return true;
    struct pull *p = transfer_find_pull(t, what);
    if (p == NULL || p->state != PULL_MOVING)
        return false;
    *out = (struct source){.pull = p,
                           .place = p->place,
                           .bytes = p->bytes,
                           .length = p->length,
                           .size = p->size,
                           .n_refs = p->n_refs,
                           .meta = p->meta};
    return true;
}

static void answer_is(struct transfer *t,
                      const struct conn *c,
                      const struct transfer_frame *f,
                      const struct transfer_what *what,
                      const struct source *s,
                      uint32_t rank)
{
    struct transfer_frame is = {.word = TRANSFER_WORD, .type = TRANSFER_IS, .id = f->id};

    is.meta = s->meta;
    is.length = s->length;
    is.size = s->size;
    is.n_refs = s->n_refs;
    refer(t, what, rank, &is);
    mover_send(t->mover, c->id, &is, NULL, 0);
}

static void send_range(struct transfer *t,
                       struct conn *c,
                       const struct transfer_frame *f,
                       const struct source *s)
{
    struct request *r = transfer_add_request(t, REQUEST_SEND, c);
    struct transfer_frame data = {.word = TRANSFER_WORD, .type = TRANSFER_DATA, .id = f->id};

    data.offset = f->offset;
    data.length = f->length;
    r->pull = s->pull;
    r->file = s->file;
    r->place = s->place;
    if (s->place != 0)
        transfer_record(t, STORE_HOLD, s->place);
    if (s->pull != NULL)
        s->pull->n_sending++;
    if (s->file != NULL)
        s->file->n_sending++;
    mover_send(t->mover, c->id, &data, s->bytes + f->offset, r->id);
}

void transfer_serve_on_moved(struct request *r, uint64_t n, struct transfer *t)
{
    t->stats.bytes_out += n;
    if (r->place != 0)
        transfer_record(t, STORE_UNHOLD, r->place);
    if (r->pull != NULL) {
        r->pull->n_sending--;
        transfer_pull_unuse(r->pull);
    }
    if (r->file != NULL) {
        r->file->n_sending--;
        transfer_file_unuse(r->file);
    }
}

static void park(struct pull *p, const struct conn *c, const struct transfer_frame *f)
{
    struct parked *k = xcalloc(1, sizeof *k);

    k->conn = c->id;
    k->due_ms = loop_now_ms() + TRANSFER_PARKED_MS;
    k->frame = *f;
    list_append(&p->parked, &k->node);
    p->of->stats.n_parked++;
    transfer_due(p->of, k->due_ms);
}

void transfer_serve_parked(struct pull *p, uint64_t now_ms, bool at_end)
{
    struct transfer *t = p->of;

    list_for_each_safe(n, &p->parked)
    {
        struct parked *k = list_entry(n, struct parked, node);
        struct conn *c = transfer_find_conn(t, k->conn);
        struct source s = {.pull = p, .place = p->place, .bytes = p->bytes};
        bool is_live = c != NULL && !c->cut && t->mover != NULL;
        if (is_live && !at_end && transfer_pull_has(p, k->frame.offset, k->frame.length))
            send_range(t, c, &k->frame, &s);
        else if (is_live && (at_end || k->due_ms <= now_ms))
            answer_gone(t, c, &k->frame);
        else if (is_live) {
            transfer_due(t, k->due_ms);
            continue;
        }
        list_remove(&k->node);
        free(k);
        t->stats.n_parked--;
    }
}

/* Whatever the peer wrote where nothing belongs does not count. */
static bool read_what(const struct transfer_frame *f, struct transfer_what *out)
{
    *out = (struct transfer_what){.kind = f->what.kind};
    if (f->what.kind == TRANSFER_FILE) {
        memcpy(out->hash, f->what.hash, sizeof out->hash);
        return true;
    }
    out->attempt = f->what.attempt;
    out->owner = f->what.owner;
    out->counter = f->what.counter;
    out->index = f->what.index;
    return f->what.kind == TRANSFER_OBJECT;
}

void transfer_serve_on_frame(struct transfer *t, struct conn *c, const struct transfer_frame *f)
{
    struct transfer_what what;
    struct source s;

    if (!read_what(f, &what)) {
        transfer_misbehaved(c, "it asks for nothing that there can be");
        return;
    }
    if (!find_source(t, &what, &s)) {
        answer_gone(t, c, f);
        return;
    }
    if (f->type == TRANSFER_READ
        && (f->length == 0 || f->length > TRANSFER_READ_MAX || f->length > s.length
            || f->offset > s.length - f->length)) {
        transfer_misbehaved(c, "an impossible range");
        return;
    }
    uint32_t rank =
        s.file != NULL ? 0 : note_served(t, &what, s.pull == NULL ? s.place : 0, c->number);
    if (f->type == TRANSFER_ASK)
        answer_is(t, c, f, &what, &s, rank);
    else if (s.pull != NULL && !transfer_pull_has(s.pull, f->offset, f->length))
        park(s.pull, c, f);
    else
        send_range(t, c, f, &s);
}
