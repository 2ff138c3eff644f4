/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/ref_table.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/core.h"
#include "lib/net/wire.h"

#define CHUNK_BITS 12
#define CHUNK_SIZE (1u << CHUNK_BITS)
#define CLASS_MIN  6  /* 64 bytes */
#define CLASS_MAX  16 /* 64 KiB; larger blocks go back to malloc */
#define SLAB_BYTES 65536

struct free_block {
    struct free_block *next;
};

struct ref_table {
    struct record **chunks;
    uint32_t n_chunks, chunk_room;
    uint32_t n_used;    /* slots ever handed out; slot 0 is never a ref */
    uint32_t free_head; /* slot, linked by next_return; 0: none */
    size_t n_live;
    struct free_block *blocks[CLASS_MAX + 1];
    void **slabs;
    size_t n_slabs, slab_room;
    size_t value_bytes, block_bytes, slab_bytes;
    ref_table_end_f on_end;
    void *on_end_arg;
    uint32_t dying; /* slot, linked by next_return: to be ended by whoever is at it */
    bool ending;
};

struct ref_table *ref_table_create(void)
{
    struct ref_table *t = try_alloc(NULL, sizeof *t);

    if (t == NULL)
        return NULL;
    memset(t, 0, sizeof *t);
    t->n_used = 1;
    return t;
}

static unsigned class_of(size_t size)
{
    return size <= (size_t)1 << CLASS_MIN ? CLASS_MIN : 64 - (unsigned)__builtin_clzll(size - 1);
}

static size_t block_size(size_t size)
{
    unsigned c = class_of(size);

    return c > CLASS_MAX ? size : (size_t)1 << c;
}

/* Fill an empty free list with a slab cut in blocks. */
static bool add_slab(struct ref_table *t, unsigned c)
{
    size_t one = (size_t)1 << c;
    size_t n = SLAB_BYTES / one;

    if (t->n_slabs == t->slab_room) {
        size_t room = t->slab_room == 0 ? 64 : 2 * t->slab_room;
        void **slabs = try_alloc(t->slabs, room * sizeof *slabs);
        if (slabs == NULL)
            return false;
        t->slabs = slabs;
        t->slab_room = room;
    }
    char *slab = try_alloc(NULL, n * one);
    if (slab == NULL)
        return false;
    t->slabs[t->n_slabs++] = slab;
    t->slab_bytes += n * one;
    for (size_t i = n; i-- > 0;) {
        struct free_block *b = (void *)(slab + i * one);
        b->next = t->blocks[c];
        t->blocks[c] = b;
    }
    return true;
}

void *ref_table_alloc(struct ref_table *t, size_t size)
{
    unsigned c = class_of(size);

    if (c > CLASS_MAX) {
        void *p = try_alloc(NULL, size);
        if (p != NULL)
            t->block_bytes += size;
        return p;
    }
    if (t->blocks[c] == NULL && !add_slab(t, c))
        return NULL;
    struct free_block *b = t->blocks[c];
    t->blocks[c] = b->next;
    t->block_bytes += (size_t)1 << c;
    return b;
}

void ref_table_free(struct ref_table *t, void *block, size_t size)
{
    if (block == NULL)
        return;
    unsigned c = class_of(size);
    t->block_bytes -= block_size(size);
    if (c > CLASS_MAX) {
        free(block);
        return;
    }
    struct free_block *b = block;
    b->next = t->blocks[c];
    t->blocks[c] = b;
}

struct record *ref_table_at(const struct ref_table *t, uint32_t slot)
{
    return &t->chunks[slot >> CHUNK_BITS][slot & (CHUNK_SIZE - 1)];
}

void ref_table_destroy(struct ref_table *t)
{
    if (t == NULL)
        return;
    for (uint32_t s = 1; s < t->n_used; s++) {
        struct record *r = ref_table_at(t, s);
        if (r->state == REF_READY && r->size > REF_INLINE_MAX && class_of(r->size) > CLASS_MAX)
            free(r->u.block);
        if (r->state != REF_FREE && r->extra != NULL) {
            const struct ref_extra *x = r->extra;
            if (class_of(x->n_inner * sizeof *x->inner) > CLASS_MAX)
                free(x->inner);
            if (class_of(x->borrower_room * sizeof *x->borrowers) > CLASS_MAX)
                free(x->borrowers);
        }
        if (r->state == REF_PENDING && r->u.task.spec != NULL
            && class_of(r->u.task.spec_size) > CLASS_MAX)
            free(r->u.task.spec);
    }
    for (size_t i = 0; i < t->n_slabs; i++)
        free(t->slabs[i]);
    for (uint32_t i = 0; i < t->n_chunks; i++)
        free(t->chunks[i]);
    free(t->slabs);
    free(t->chunks);
    free(t);
}

static bool grow(struct ref_table *t)
{
    if (t->n_chunks == t->chunk_room) {
        uint32_t room = t->chunk_room == 0 ? 16 : 2 * t->chunk_room;
        struct record **chunks = try_alloc(t->chunks, room * sizeof *chunks);
        if (chunks == NULL)
            return false;
        t->chunks = chunks;
        t->chunk_room = room;
    }
    struct record *chunk = try_alloc(NULL, CHUNK_SIZE * sizeof *chunk);
    if (chunk == NULL)
        return false;
    memset(chunk, 0, CHUNK_SIZE * sizeof *chunk);
    t->chunks[t->n_chunks++] = chunk;
    return true;
}

struct record *ref_table_new(struct ref_table *t)
{
    struct record *r;
    uint32_t slot = t->free_head;

    if (slot != 0) {
        r = ref_table_at(t, slot);
        t->free_head = r->next_return;
    } else {
        slot = t->n_used;
        if (slot >> CHUNK_BITS >= t->n_chunks && !grow(t))
            return NULL;
        t->n_used++;
        r = ref_table_at(t, slot);
    }
    uint32_t generation = r->generation + 1;
    memset(r, 0, sizeof *r);
    r->generation = generation == 0 ? 1 : generation;
    r->slot = slot;
    r->first = slot;
    r->count = 1;
    r->state = REF_PENDING;
    t->n_live++;
    return r;
}

struct record *ref_table_find(const struct ref_table *t, uint64_t word)
{
    uint32_t slot = (uint32_t)word;

    if (slot == 0 || slot >= t->n_used)
        return NULL;
    struct record *r = ref_table_at(t, slot);
    if (r->generation != (uint32_t)(word >> 32) || r->state == REF_FREE || r->count == 0
        || (r->flags & REF_HIDDEN) != 0)
        return NULL;
    return r;
}

struct record *ref_table_find_shown(const struct ref_table *t, uint64_t word)
{
    uint32_t slot = (uint32_t)word;

    if (slot == 0 || slot >= t->n_used)
        return NULL;
    struct record *r = ref_table_at(t, slot);
    if (r->generation != (uint32_t)(word >> 32) || r->state == REF_FREE
        || (r->flags & (REF_HIDDEN | REF_DYING | REF_SHOWN)) != REF_SHOWN)
        return NULL;
    return r;
}

uint32_t ref_table_end(const struct ref_table *t)
{
    return t->n_used;
}

void ref_table_on_end(struct ref_table *t, ref_table_end_f f, void *arg)
{
    t->on_end = f;
    t->on_end_arg = arg;
}

struct ref_extra *ref_table_extra(struct ref_table *t, struct record *r)
{
    if (r->extra == NULL) {
        r->extra = ref_table_alloc(t, sizeof *r->extra);
        if (r->extra != NULL)
            memset(r->extra, 0, sizeof *r->extra);
    }
    return r->extra;
}

bool ref_table_set_inner(struct ref_table *t, struct record *r, const uint32_t *slots, uint32_t n)
{
    if (n == 0)
        return true;
    struct ref_extra *x = ref_table_extra(t, r);
    uint32_t *inner = x != NULL ? ref_table_alloc(t, n * sizeof *inner) : NULL;
    if (inner == NULL)
        return false;
    ASSERT(x->n_inner == 0);
    memcpy(inner, slots, n * sizeof *inner);
    x->inner = inner;
    x->n_inner = n;
    return true;
}

static void let_inner_go(struct ref_table *t, struct record *r)
{
    struct ref_extra *x = r->extra;

    if (x == NULL || x->n_inner == 0)
        return;
    uint32_t *inner = x->inner, n = x->n_inner;
    x->inner = NULL;
    x->n_inner = 0;
    ref_table_unhold_all(t, inner, n);
    ref_table_free(t, inner, n * sizeof *inner);
}

static void drop_value(struct ref_table *t, struct record *r)
{
    if (r->size > REF_INLINE_MAX)
        ref_table_free(t, r->u.block, r->size);
    t->value_bytes -= r->size;
    r->size = 0;
}

static uint32_t n_lineage(const struct record *r)
{
    return r->extra != NULL ? r->extra->n_lineage : 0;
}

static bool is_tied(const struct record *r)
{
    return (r->flags & (REF_STORED | REF_BORROWED)) != 0
           || (r->extra != NULL && r->extra->lineage != NULL && r->extra->n_lineage == 0);
}

/* Its value is gone. */
static void make_empty(struct ref_table *t, struct record *r)
{
    bool can_tell = (r->flags & (REF_STORED | REF_BORROWED)) == REF_STORED;

    drop_value(t, r);
    if (!can_tell)
        r->u.stored = (struct ref_stored){.origin = REF_LET_GO};
    r->state = REF_EMPTY;
    r->flags = 0;
}

/* Neither handles nor holds are left. */
static void end_record(struct ref_table *t, struct record *r)
{
    if (is_tied(r) && t->on_end != NULL)
        t->on_end(t->on_end_arg, r);
    let_inner_go(t, r);
    if (n_lineage(r) > 0) {
        make_empty(t, r);
        return;
    }
    if (r->extra != NULL) {
        ASSERT(r->extra->n_borrowers == 0); /* each has a hold */
        ref_table_free(t,
                       r->extra->borrowers,
                       r->extra->borrower_room * sizeof *r->extra->borrowers);
        ref_table_free(t, r->extra, sizeof *r->extra);
        r->extra = NULL;
    }
    drop_value(t, r);
    r->state = REF_FREE;
    r->flags = 0;
    r->next_return = t->free_head;
    t->free_head = r->slot;
    t->n_live--;
}

/* Ending one record may leave others without holds: they wait in a list for whoever is at it. */
static void free_record(struct ref_table *t, struct record *r)
{
    if (r->flags == 0 && r->extra == NULL && !t->ending) {
        end_record(t, r);
        return;
    }
    r->flags |= REF_DYING;
    r->next_return = t->dying;
    t->dying = r->slot;
    if (t->ending)
        return;
    t->ending = true;
    while (t->dying != 0) {
        struct record *next = ref_table_at(t, t->dying);
        t->dying = next->next_return;
        end_record(t, next);
    }
    t->ending = false;
}

/* A task's result is still to come; a borrowed value need not come any more. What lineage needs
 * stays if it is small. */
static bool may_end(const struct record *r)
{
    if (r->count > 0 || r->held > 0)
        return false;
    if (r->state == REF_PENDING)
        return (r->flags & REF_BORROWED) != 0;
    return n_lineage(r) == 0
           || (r->state == REF_READY
               && ((r->flags & (REF_STORED | REF_BORROWED)) != 0 || r->extra->n_inner > 0));
}

void ref_table_drop(struct ref_table *t, struct record *r)
{
    ASSERT(r->count > 0);
    r->count--;
    if (may_end(r))
        free_record(t, r);
}

void ref_table_unhold(struct ref_table *t, struct record *r)
{
    ASSERT(r->held > 0);
    r->held--;
    if (may_end(r))
        free_record(t, r);
}

void ref_table_unhold_all(struct ref_table *t, const uint32_t *slots, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ref_table_unhold(t, ref_table_at(t, slots[i]));
}

bool ref_table_keep(struct ref_table *t, struct record *r)
{
    struct ref_extra *x = ref_table_extra(t, r);

    if (x != NULL)
        x->n_lineage++;
    return x != NULL;
}

void ref_table_unkeep(struct ref_table *t, struct record *r)
{
    ASSERT(n_lineage(r) > 0);
    r->extra->n_lineage--;
    if (may_end(r) && (r->flags & REF_DYING) == 0)
        free_record(t, r);
}

void ref_table_lose(struct ref_table *t, struct record *r)
{
    ASSERT(r->state == REF_EMPTY
           || (r->state == REF_READY && (r->flags & REF_STORED) != 0 && r->u.stored.n_views == 0));
    r->held++; /* letting go what it contained must not end it */
    let_inner_go(t, r);
    r->flags &= (uint16_t) ~(REF_STORED | REF_CAME | REF_LOST);
    r->state = REF_PENDING;
    r->u.task = (struct task){.spec = NULL};
    ref_table_unhold(t, r);
}

void ref_table_for_each_held(const struct ref_table *t,
                             const struct task *task,
                             ref_held_f f,
                             void *arg)
{
    const uint8_t *p = task->spec;
    uint32_t slot;

    for (unsigned i = 0; task->n_ref_args > 0 && i < task->n_args; i++) {
        struct wire_arg a;
        uint32_t n = 0;
        bool is_ref, has_refs;
        memcpy(&a, p, sizeof a);
        p += sizeof a;
        is_ref = a.size == REF_SPEC_IS_REF;
        has_refs = !is_ref && (a.meta & WIRE_VALUE_REFS) != 0;
        if (has_refs) {
            memcpy(&n, p, sizeof n);
            p += sizeof n;
        }
        for (n = is_ref ? 1 : n; n > 0; n--, p += sizeof slot) {
            memcpy(&slot, p, sizeof slot);
            f(arg, ref_table_at(t, slot), !is_ref);
        }
        p += is_ref ? 0 : a.size;
    }
}

/* The value is lost, the ref is not: it carries an error that fits in the record (INV-15). */
static void set_no_memory(struct ref_table *t, struct record *r)
{
    static const struct {
        struct wire_failure failure;
        char strings[16]; /* text, function, file, log */
    } value = {{.code = CORE_ENOMEM}, "no memory"};
    _Static_assert(sizeof value <= REF_INLINE_MAX, "needs no block");

    memcpy(r->u.bytes, &value, sizeof value);
    r->meta = WIRE_META_ERROR;
    r->size = sizeof value;
    t->value_bytes += sizeof value;
}

static void set_value(struct ref_table *t,
                      struct record *r,
                      uint8_t meta,
                      const void *bytes,
                      uint32_t size)
{
    r->meta = meta;
    if (size <= REF_INLINE_MAX) {
        if (size > 0)
            memcpy(r->u.bytes, bytes, size);
        r->size = size;
        t->value_bytes += size;
        return;
    }
    void *block = ref_table_alloc(t, size);
    if (block == NULL) {
        set_no_memory(t, r);
        return;
    }
    memcpy(block, bytes, size);
    r->u.block = block;
    r->size = size;
    t->value_bytes += size;
}

/* Pending no more; false: nobody wants the value. */
static bool make_ready(struct record *r)
{
    ASSERT(r->state == REF_PENDING);
    r->state = REF_READY;
    r->size = 0;
    r->next_return = 0;
    return r->count > 0 || r->held > 0;
}

bool ref_table_set(struct ref_table *t,
                   struct record *r,
                   uint8_t meta,
                   const void *bytes,
                   uint32_t size)
{
    if (!make_ready(r)) {
        free_record(t, r);
        return false;
    }
    set_value(t, r, meta, bytes, size);
    return true;
}

bool ref_table_set_stored(struct ref_table *t,
                          struct record *r,
                          uint8_t meta,
                          const struct ref_stored *stored)
{
    bool wanted = make_ready(r);

    r->meta = meta;
    r->u.stored = *stored;
    r->flags |= REF_STORED;
    if (!wanted)
        free_record(t, r);
    return wanted;
}

void ref_table_replace(struct ref_table *t,
                       struct record *r,
                       uint8_t meta,
                       const void *bytes,
                       uint32_t size)
{
    ASSERT(r->state == REF_READY);
    drop_value(t, r);
    r->flags &= (uint16_t)~REF_STORED;
    r->held++; /* letting go what it contains must not end it */
    let_inner_go(t, r);
    set_value(t, r, meta, bytes, size);
    ref_table_unhold(t, r);
}

const void *record_value(const struct record *r)
{
    return r->size > REF_INLINE_MAX ? r->u.block : r->u.bytes;
}

size_t ref_table_live(const struct ref_table *t)
{
    return t->n_live;
}

void ref_table_get_stats(const struct ref_table *t, struct ref_table_stats *out)
{
    out->n_live = t->n_live;
    out->value_bytes = t->value_bytes;
    out->block_bytes = t->block_bytes;
    out->reserved_bytes = t->n_chunks * (size_t)CHUNK_SIZE * sizeof(struct record) + t->slab_bytes;
}

void ref_table_selfcheck(const struct ref_table *t)
{
    size_t live = 0, n_free = 0, value_bytes = 0, blocks = 0;

    for (uint32_t s = 1; s < t->n_used; s++) {
        const struct record *r = ref_table_at(t, s);
        ASSERT(r->slot == s);
        if (r->state != REF_FREE)
            live++;
        if (r->state == REF_READY) {
            value_bytes += r->size;
            blocks += r->size > REF_INLINE_MAX ? block_size(r->size) : 0;
        }
        ASSERT(r->state != REF_READY || r->count + r->held + n_lineage(r) > 0);
        ASSERT(r->state != REF_EMPTY || (r->count + r->held == 0 && n_lineage(r) > 0));
    }
    for (uint32_t s = t->free_head; s != 0; s = ref_table_at(t, s)->next_return)
        n_free++;
    ASSERT(live == t->n_live);
    ASSERT(live + n_free == t->n_used - 1);
    ASSERT(value_bytes == t->value_bytes && blocks <= t->block_bytes);
}
