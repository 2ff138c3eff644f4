/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects that this process makes: puts, and buffers that are filled in place.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/core/core_private.h"

#define ALIGNMENT 64 /* of buffers, as in the store */

/* The slots of these refs, held once more each, in a block from malloc; a code. */
static int hold_refs(const uint64_t *refs, uint32_t n, uint32_t **slots)
{
    *slots = NULL;
    if (n == 0)
        return CORE_OK;
    if (!core_are_refs(refs, n))
        return CORE_ESTALE;
    *slots = try_alloc(NULL, n * sizeof **slots);
    if (*slots == NULL)
        return CORE_ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        struct record *r = ref_table_find(core.refs, refs[i]);
        r->held++;
        (*slots)[i] = r->slot;
    }
    return CORE_OK;
}

/* A ready object of ours, named and with one handle: inline, or in e if that is given. Takes over
 * the slots' holds. NULL: no memory, nothing was taken. */
static struct record *make_object(uint8_t meta,
                                  const void *bytes,
                                  uint64_t size,
                                  const struct store_extent *e,
                                  const uint32_t *slots,
                                  uint32_t n_refs)
{
    struct record *r = ref_table_new(core.refs);

    if (r == NULL)
        return NULL;
    r->site = core_call_site;
    r->counter = ++core.task_counter;
    if (!ref_table_set_inner(core.refs, r, slots, n_refs)) {
        ref_table_set(core.refs, r, 0, NULL, 0);
        ref_table_drop(core.refs, r);
        return NULL;
    }
    if (e == NULL) {
        ref_table_set(core.refs, r, meta, bytes, (uint32_t)size);
        return r;
    }
    struct object_name name = {.owner = core.welcome.process,
                               .index = record_index(r),
                               .counter = r->counter};
    struct ref_stored stored = {.place = e->place,
                                .offset = e->offset,
                                .size = size,
                                .n_refs = n_refs,
                                .pin = REF_NO_PIN,
                                .node = core.welcome.node_number};
    if (n_refs > 0)
        refs_put(slots, n_refs, (uint8_t *)store_client_write(core.store, e) + refs_trailer(size));
    objects_seal(e, size, meta, n_refs, &name);
    ref_table_set_stored(core.refs, r, meta, &stored);
    return r;
}

uint64_t core_put(uint8_t meta,
                  const void *bytes,
                  size_t size,
                  const uint64_t *refs,
                  uint32_t n_refs,
                  int *code,
                  struct err *err)
{
    struct store_extent e;
    struct record *r = NULL;
    uint32_t *slots;

    if (core_is_forked()) {
        *code = CORE_EFORKED;
        return 0;
    }
    core_lock();
    core_enter();
    *code = core.connected ? hold_refs(refs, n_refs, &slots) : CORE_EARG;
    if (*code == CORE_OK) {
        if (size <= CORE_INLINE_MAX) {
            r = make_object(meta, size > 0 ? bytes : NULL, size, NULL, slots, n_refs);
        } else {
            *code = objects_alloc(size, n_refs, &e, err);
            if (*code == CORE_OK) {
                core_unlock();
                *code = objects_fill(&e, bytes, size, err);
                core_lock();
                if (*code == CORE_OK)
                    r = make_object(meta, NULL, size, &e, slots, n_refs);
                if (r == NULL)
                    objects_abort(&e);
            }
        }
        if (r == NULL) {
            ref_table_unhold_all(core.refs, slots, n_refs);
            if (*code == CORE_OK)
                *code = CORE_ENOMEM;
        }
        free(slots);
    }
    uint64_t word = r != NULL ? record_word(r) : 0;
    core_leave();
    core_unlock();
    return word;
}

uint64_t core_put_error(enum core_code code, const char *text)
{
    uint8_t value[1024];
    int rc;
    size_t n = owner_failure(value, sizeof value, code, 0, 0, text, "", "", "");

    return core_put(WIRE_META_ERROR, value, n, NULL, 0, &rc, &(struct err){0});
}

/* --- buffers --- */

/* Those that are open; a buffer's block holds its slot here with a generation, and the life. */
static struct open_buffer *open_buffers;
static uint32_t n_open, open_room, free_open; /* slots count from 1 */

static bool add_open(const struct open_buffer *b, struct core_buffer *out)
{
    uint32_t slot = free_open;

    if (slot == 0) {
        if (n_open == open_room) {
            uint32_t room = open_room == 0 ? 16 : 2 * open_room;
            struct open_buffer *v = try_alloc(open_buffers, room * sizeof *v);
            if (v == NULL)
                return false;
            open_buffers = v;
            open_room = room;
        }
        slot = ++n_open;
        open_buffers[slot - 1].generation = 0;
    } else {
        free_open = open_buffers[slot - 1].next;
    }
    uint32_t generation = open_buffers[slot - 1].generation + 1;
    open_buffers[slot - 1] = *b;
    open_buffers[slot - 1].generation = generation;
    *out = (struct core_buffer){.data = b->data,
                                .size = b->size,
                                .block = {(uint64_t)generation << 32 | slot, core.life + 1u}};
    return true;
}

bool put_take_buffer(struct core_buffer *buffer, struct open_buffer *out)
{
    uint32_t slot = (uint32_t)buffer->block[0];
    bool is_open = core.connected && buffer->block[1] == core.life + 1u && slot > 0
                   && slot <= n_open && open_buffers[slot - 1].data == buffer->data
                   && buffer->data != NULL
                   && open_buffers[slot - 1].generation == buffer->block[0] >> 32;

    *buffer = (struct core_buffer){0};
    if (!is_open)
        return false;
    struct open_buffer *b = &open_buffers[slot - 1];
    *out = *b;
    b->data = NULL;
    b->next = free_open;
    free_open = slot;
    return true;
}

bool put_fits(const struct open_buffer *b, uint64_t size, uint32_t n_refs)
{
    return size > 0 && size <= b->size && (b->place == 0 || n_refs <= b->n_refs);
}

struct store_extent put_extent_of(const struct open_buffer *b)
{
    return (struct store_extent){.place = b->place,
                                 .offset = b->offset,
                                 .size = refs_stored_size(b->size, b->n_refs)};
}

void put_abort(const struct open_buffer *b)
{
    if (b->place == 0) {
        free(b->data);
        return;
    }
    struct store_extent e = put_extent_of(b);
    objects_abort(&e);
}

void put_forget_buffers(void)
{
    for (uint32_t i = 0; i < n_open; i++)
        if (open_buffers[i].data != NULL && open_buffers[i].place == 0)
            free(open_buffers[i].data);
    free(open_buffers);
    open_buffers = NULL;
    n_open = open_room = free_open = 0;
}

int core_create(uint64_t size, uint32_t n_refs, struct core_buffer *out, struct err *err)
{
    struct open_buffer b = {.size = size, .n_refs = n_refs};
    struct store_extent e;
    int code = CORE_OK;

    *out = (struct core_buffer){0};
    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    if (!core.connected) {
        core_unlock();
        err_set(err, ERR_INVALID, "call ray_init first");
        return CORE_EARG;
    }
    core_enter();
    if (size > CORE_INLINE_MAX) {
        code = objects_alloc(size, n_refs, &e, err);
        if (code == CORE_OK) {
            core_unlock();
            code = objects_fill(&e, NULL, 0, err);
            core_lock();
            if (code != CORE_OK)
                objects_abort(&e);
        }
        if (code == CORE_OK) {
            b.data = store_client_write(core.store, &e);
            b.place = e.place;
            b.offset = e.offset;
        }
    } else if (posix_memalign(&b.data, ALIGNMENT, size > 0 ? size : 1) != 0) {
        code = CORE_ENOMEM;
    }
    if (code == CORE_OK && !add_open(&b, out)) {
        put_abort(&b);
        code = CORE_ENOMEM;
    }
    core_leave();
    core_unlock();
    return code;
}

uint64_t core_seal(struct core_buffer *buffer,
                   uint64_t size,
                   uint8_t meta,
                   const uint64_t *refs,
                   uint32_t n_refs,
                   int *code)
{
    struct record *r = NULL;
    struct open_buffer b;
    uint32_t *slots;

    if (core_is_forked()) {
        *code = CORE_EFORKED;
        return 0;
    }
    core_lock();
    if (!put_take_buffer(buffer, &b)) {
        core_unlock();
        *code = CORE_EARG;
        return 0;
    }
    *code = put_fits(&b, size, n_refs) ? hold_refs(refs, n_refs, &slots) : CORE_EARG;
    if (*code == CORE_OK) {
        struct store_extent e = put_extent_of(&b);
        r = make_object(meta, b.data, size, b.place != 0 ? &e : NULL, slots, n_refs);
        if (r == NULL) {
            ref_table_unhold_all(core.refs, slots, n_refs);
            *code = CORE_ENOMEM;
        }
        free(slots);
    }
    if (r == NULL || b.place == 0)
        put_abort(&b);
    uint64_t word = r != NULL ? record_word(r) : 0;
    core_unlock();
    return word;
}

void core_abort(struct core_buffer *buffer)
{
    struct open_buffer b;

    if (core_is_forked())
        return;
    core_lock();
    if (put_take_buffer(buffer, &b))
        put_abort(&b);
    core_unlock();
}
