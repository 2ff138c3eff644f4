/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/net/loop.h"
#include "raylet/transfer_private.h"

/* --- its turn --- */

void transfer_leave_admission(struct pull *p)
{
    struct transfer *t = p->of;

    list_remove(&p->wait);
    if (!p->is_admitted)
        return;
    p->is_admitted = false;
    t->n_arguments--;
    t->stats.argument_bytes -= p->length;
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
            transfer_pull_unuse(p);
        else
            transfer_pull_fail(p, ERR_FULL, refusal != NULL ? refusal : "the store is full");
        return;
    }
    p->place = action->places[0];
    p->offset = action->offset;
    if (p->state == PULL_ENDING) {
        transfer_pull_unuse(p);
    } else if (transfer_need_arena(t, &err) != 0) {
        transfer_pull_fail(p, err.code, err.text);
    } else {
        p->bytes = t->arena + p->offset;
        begin_moving(p);
    }
}

void transfer_give_back(struct pull *p)
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
    transfer_pull_end(p);
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
        transfer_pull_unuse(p);
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
    transfer_pull_end(p);
}

void transfer_finish(struct pull *p)
{
    if (p->what.kind == TRANSFER_FILE)
        check_file(p);
    else
        finish_object(p);
}
