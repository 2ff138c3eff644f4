/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values <-> msgpack, Ray's cross-language encoding. A ref is msgpack's application type REF_TYPE
 * with four bytes, big endian: its place among the refs that travel beside the bytes. Bytes that
 * are a value of their own are not packed at all (WIRE_META_RAW).
 *
 * Packing goes through msgpack-c's packer, but for numbers, which a hot loop packs by the million.
 * A value is packed onto the stack; one that does not fit there is only measured by this, and then
 * packed into memory of exactly its size, in the object store itself when it is to live there.
 *
 * Unpacking reads in place, since views must point into the value and scalars must not allocate.
 * Bytes come from other processes: every length and every ref's place is checked before it is
 * believed, and reading never recurses.
 */
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"

#define DEPTH_MAX  64   /* of what is packed */
#define NUMBER_MAX 9    /* bytes of a packed number */
#define REF_TYPE   0x52 /* 'R' */
#define REF_SIZE   4
#define BOX_RAW    1u /* flags of a box: not msgpack, but one item of bytes */
#define BOX_OWNS   2u /* value is its own */

struct packer_block {
    struct packer_block *next;
    uint64_t refs[]; /* then bytes */
};

void packer_init(struct packer *p)
{
    p->used = p->n_refs = 0;
    p->blocks = NULL;
}

void packer_fini(struct packer *p)
{
    while (p->blocks != NULL) {
        struct packer_block *b = p->blocks;
        p->blocks = b->next;
        free(b);
    }
}

/* Where a value is written; what exceeds the room is only counted. */
struct writer {
    uint8_t *bytes;
    uint64_t *refs;
    size_t size, room, n_refs, refs_room;
};

static int append(void *arg, const char *bytes, size_t n)
{
    struct writer *w = arg;

    if (w->size <= w->room && n <= w->room - w->size)
        memcpy(w->bytes + w->size, bytes, n);
    w->size += n;
    return 0;
}

static int too_long(const char *what, size_t n)
{
    return api_error(RAY_EARG, "%s of %zu: at most 4294967295 fit inside a value", what, n);
}

static int pack_ref(msgpack_packer *mp, struct writer *w, uint64_t word)
{
    uint32_t place = __builtin_bswap32((uint32_t)w->n_refs);

    if (word == 0)
        return api_error(RAY_ESTALE, "a ref inside a value is none: its word is 0");
    if (w->n_refs == UINT32_MAX)
        return too_long("refs", w->n_refs);
    if (w->n_refs < w->refs_room)
        w->refs[w->n_refs] = word;
    w->n_refs++;
    msgpack_pack_ext(mp, REF_SIZE, REF_TYPE);
    msgpack_pack_ext_body(mp, &place, REF_SIZE);
    return RAY_OK;
}

static int pack(msgpack_packer *mp, struct writer *w, const ray_value *v, int depth)
{
    int rc = RAY_OK;

    if (depth > DEPTH_MAX)
        return api_error(RAY_EARG, "a value is nested deeper than %d", DEPTH_MAX);
    switch ((enum ray_kind)v->kind) {
    case RAY_NIL:
        msgpack_pack_nil(mp);
        return RAY_OK;
    case RAY_BOOL:
        if (v->as.i != 0)
            msgpack_pack_true(mp);
        else
            msgpack_pack_false(mp);
        return RAY_OK;
    case RAY_I64:
        msgpack_pack_int64(mp, v->as.i);
        return RAY_OK;
    case RAY_U64:
        msgpack_pack_uint64(mp, v->as.u);
        return RAY_OK;
    case RAY_F64:
        msgpack_pack_double(mp, v->as.d);
        return RAY_OK;
    case RAY_STR: {
        if (v->as.p == NULL)
            return api_error(RAY_EARG, "a string is NULL: use ray_nil() for no value");
        size_t n = strlen(v->as.p);
        if (n > UINT32_MAX)
            return too_long("a string", n);
        msgpack_pack_str(mp, n);
        msgpack_pack_str_body(mp, v->as.p, n);
        return RAY_OK;
    }
    case RAY_BIN:
        if (v->as.p == NULL && v->size > 0)
            return api_error(RAY_EARG, "%zu bytes at NULL", v->size);
        if (v->size > UINT32_MAX)
            return too_long("bytes", v->size);
        msgpack_pack_bin(mp, v->size);
        if (v->size > 0)
            msgpack_pack_bin_body(mp, v->as.p, v->size);
        return RAY_OK;
    case RAY_LST:
    case RAY_MAP:
        if (v->as.v == NULL && v->size > 0)
            return api_error(RAY_EARG, "a list or map of %zu items at NULL", v->size);
        if (v->kind == RAY_MAP && v->size % 2 != 0)
            return api_error(RAY_EARG, "a map needs a value for each key: %zu items", v->size);
        if (v->size > UINT32_MAX)
            return too_long("items", v->size);
        if (v->kind == RAY_LST)
            msgpack_pack_array(mp, v->size);
        else
            msgpack_pack_map(mp, v->size / 2);
        for (size_t i = 0; i < v->size && rc == RAY_OK; i++)
            rc = pack(mp, w, &v->as.v[i], depth + 1);
        return rc;
    case RAY_REF:
        return pack_ref(mp, w, v->as.u);
    case RAY_BUF:
        return api_error(RAY_EARG,
                         "a buffer travels by its ref: ray_seal gives it; only ray_return takes "
                         "the buffer itself");
    case RAY_VIEW:
    case RAY_BOX:
    case RAY_NONE:
        break;
    }
    return api_error(RAY_EARG, "not a value: kind %u", v->kind);
}

static int pack_into(struct writer *w, const ray_value *v)
{
    msgpack_packer mp;

    msgpack_packer_init(&mp, w, append);
    return pack(&mp, w, v, 0);
}

/* A number in its shortest form, as msgpack-c packs it; the bytes used, 0 for other kinds. */
static unsigned pack_number(uint8_t *out, const ray_value *v)
{
    uint64_t u = v->as.u;
    unsigned n = 8;
    uint8_t first = 0xcb;

    if (v->kind == RAY_I64 && v->as.i < 0) {
        if (v->as.i >= -32) {
            out[0] = (uint8_t)v->as.i;
            return 1;
        }
        n = v->as.i >= INT8_MIN ? 1 : v->as.i >= INT16_MIN ? 2 : v->as.i >= INT32_MIN ? 4 : 8;
        first = n == 1 ? 0xd0 : n == 2 ? 0xd1 : n == 4 ? 0xd2 : 0xd3;
    } else if (v->kind == RAY_I64 || v->kind == RAY_U64) {
        if (u < 128) {
            out[0] = (uint8_t)u;
            return 1;
        }
        n = u <= UINT8_MAX ? 1 : u <= UINT16_MAX ? 2 : u <= UINT32_MAX ? 4 : 8;
        first = n == 1 ? 0xcc : n == 2 ? 0xcd : n == 4 ? 0xce : 0xcf;
    } else if (v->kind != RAY_F64) {
        return 0;
    }
    u = __builtin_bswap64(u << (64 - 8 * n));
    out[0] = first;
    memcpy(out + 1, &u, n);
    return 1 + n;
}

/* A value that was only measured: pack it into memory of its size. */
static int pack_measured(struct packer *p,
                         struct writer *w,
                         const ray_value *v,
                         struct core_buffer *big)
{
    const size_t size = w->size, n_refs = w->n_refs;
    bool in_store = size > CORE_INLINE_MAX;
    struct err err = {0};
    struct packer_block *b = malloc(sizeof *b + n_refs * sizeof b->refs[0] + (in_store ? 0 : size));

    if (b == NULL)
        return api_error(RAY_ENOMEM, "no memory to pack a value of %zu bytes", size);
    b->next = p->blocks;
    p->blocks = b;
    if (in_store) {
        int code = core_create(size, (uint32_t)n_refs, big, &err);
        if (code != CORE_OK)
            return api_core_error(code, &err);
    }
    *w = (struct writer){.bytes = in_store ? big->data : (uint8_t *)(b->refs + n_refs),
                         .room = size,
                         .refs = b->refs,
                         .refs_room = n_refs};
    int rc = pack_into(w, v);
    if (rc == RAY_OK && (w->size != size || w->n_refs != n_refs))
        rc = api_error(RAY_EARG, "a value was changed by another thread while it was packed");
    if (rc != RAY_OK && in_store)
        core_abort(big);
    return rc;
}

int api_pack(struct packer *p, const ray_value *v, struct core_arg *out, struct core_buffer *big)
{
    struct writer w = {.bytes = p->stack + p->used,
                       .room = sizeof p->stack - p->used,
                       .refs = p->refs + p->n_refs,
                       .refs_room = PACKER_REFS - p->n_refs};

    big->data = NULL;
    if (w.room >= NUMBER_MAX && (w.size = pack_number(w.bytes, v)) > 0) {
        p->used += w.size;
        *out = (struct core_arg){.bytes = w.bytes, .size = w.size, .meta = WIRE_META_XLANG};
        return RAY_OK;
    }
    if (v->kind == RAY_BIN && (v->as.p != NULL || v->size == 0)) {
        *out = (struct core_arg){.bytes = v->as.p != NULL ? v->as.p : "",
                                 .size = v->size,
                                 .meta = WIRE_META_RAW};
        return RAY_OK;
    }
    int rc = pack_into(&w, v);
    if (rc == RAY_OK && (w.size > w.room || w.n_refs > w.refs_room)) {
        rc = pack_measured(p, &w, v, big);
    } else if (rc == RAY_OK) {
        p->used += w.size;
        p->n_refs += w.n_refs;
    }
    if (rc == RAY_OK)
        *out = (struct core_arg){.bytes = w.bytes,
                                 .size = w.size,
                                 .refs = w.refs,
                                 .n_refs = (uint32_t)w.n_refs,
                                 .meta = WIRE_META_XLANG};
    return rc;
}

/* One decoded head: a scalar, bytes, a ref's place (u), or a container's count. */
struct item {
    enum ray_kind kind;
    int64_t i;
    uint64_t u;
    double d;
    const uint8_t *bytes;
    size_t size; /* of bytes, or items (a map: keys and values) */
};

static uint64_t big_endian(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* Decode the head at *at; false: malformed or cut. *at moves behind it (behind the bytes of
 * strings). */
static bool head(const uint8_t **at, const uint8_t *end, struct item *it)
{
    const uint8_t *p = *at;

    if (p >= end)
        return false;
    uint8_t b = *p++;
    size_t left = (size_t)(end - p);
    unsigned n = 0;
    *it = (struct item){.kind = RAY_NIL};
    if (b <= 0x7f || b >= 0xe0) {
        it->kind = RAY_I64;
        it->i = (int8_t)b;
    } else if (b <= 0x8f) {
        it->kind = RAY_MAP;
        it->size = 2u * (b & 0x0f);
    } else if (b <= 0x9f) {
        it->kind = RAY_LST;
        it->size = b & 0x0f;
    } else if (b <= 0xbf) {
        it->kind = RAY_STR;
        it->size = b & 0x1f;
    } else {
        switch (b) {
        case 0xc0:
            break;
        case 0xc2:
        case 0xc3:
            it->kind = RAY_BOOL;
            it->i = b & 1;
            break;
        case 0xc4:
        case 0xc5:
        case 0xc6:
            n = 1u << (b - 0xc4);
            it->kind = RAY_BIN;
            break;
        case 0xca:
        case 0xcb:
            n = b == 0xca ? 4 : 8;
            it->kind = RAY_F64;
            break;
        case 0xcc:
        case 0xcd:
        case 0xce:
        case 0xcf:
            n = 1u << (b - 0xcc);
            it->kind = RAY_U64;
            break;
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3:
            n = 1u << (b - 0xd0);
            it->kind = RAY_I64;
            break;
        case 0xd9:
        case 0xda:
        case 0xdb:
            n = 1u << (b - 0xd9);
            it->kind = RAY_STR;
            break;
        case 0xd6:
            if (left < 1 + REF_SIZE || *p != REF_TYPE)
                return false;
            it->kind = RAY_REF;
            it->u = big_endian(p + 1, REF_SIZE);
            *at = p + 1 + REF_SIZE;
            return true;
        case 0xdc:
        case 0xdd:
            n = b == 0xdc ? 2 : 4;
            it->kind = RAY_LST;
            break;
        case 0xde:
        case 0xdf:
            n = b == 0xde ? 2 : 4;
            it->kind = RAY_MAP;
            break;
        default:
            return false; /* other extension types are not ours */
        }
    }
    if (n > left)
        return false;
    if (n > 0) {
        uint64_t v = big_endian(p, n);
        p += n;
        left -= n;
        if (it->kind == RAY_I64) {
            it->i = n == 1 ? (int8_t)v : n == 2 ? (int16_t)v : n == 4 ? (int32_t)v : (int64_t)v;
        } else if (it->kind == RAY_U64) {
            it->u = v;
            if (v <= INT64_MAX) {
                it->kind = RAY_I64;
                it->i = (int64_t)v;
            }
        } else if (it->kind == RAY_F64 && n == 8) {
            memcpy(&it->d, &v, sizeof it->d);
        } else if (it->kind == RAY_F64) {
            float f;
            uint32_t w = (uint32_t)v;
            memcpy(&f, &w, sizeof f);
            it->d = (double)f;
        } else {
            it->size = it->kind == RAY_MAP ? 2 * v : v;
        }
    }
    if (it->kind == RAY_STR || it->kind == RAY_BIN) {
        if (it->size > left)
            return false;
        it->bytes = p;
        p += it->size;
    } else if (it->size > left) {
        return false; /* an item is a byte at least */
    }
    *at = p;
    return true;
}

/* Move behind a whole value. */
static bool skip(const uint8_t **at, const uint8_t *end)
{
    struct item it;
    uint64_t left = 1;

    while (left > 0) {
        if (!head(at, end, &it))
            return false;
        left--;
        if (it.kind == RAY_LST || it.kind == RAY_MAP)
            left += it.size;
    }
    return true;
}

static const char *kind_name(enum ray_kind k)
{
    static const char *const names[] = {"nil",
                                        "a bool",
                                        "an integer",
                                        "an integer",
                                        "a double",
                                        "a string",
                                        "bytes",
                                        "a ref",
                                        "a list",
                                        "a map",
                                        "bytes",
                                        "any value",
                                        "nothing",
                                        "a buffer"};

    return names[k];
}

static int mismatch(enum ray_kind is, enum ray_kind wanted)
{
    return api_error(RAY_ETYPE, "the value is %s, not %s", kind_name(is), kind_name(wanted));
}

/* Into an integer of 1, 2, 4 or 8 bytes, if it fits. */
static int give_integer(const struct item *it, ray_slot slot)
{
    unsigned bits = 8 * (unsigned)slot.size;
    bool is_signed = slot.kind == RAY_I64, fits;

    if (it->kind != RAY_I64 && it->kind != RAY_U64)
        return mismatch(it->kind, slot.kind);
    if (is_signed)
        fits = it->kind == RAY_I64 && it->i >= INT64_MIN >> (64 - bits)
               && it->i <= INT64_MAX >> (64 - bits);
    else
        fits = it->kind == RAY_U64 ? bits == 64
                                   : it->i >= 0 && (uint64_t)it->i <= UINT64_MAX >> (64 - bits);
    if (!fits && it->kind == RAY_U64)
        return api_error(RAY_ETYPE,
                         "%llu does not fit %s integer of %u bits",
                         (unsigned long long)it->u,
                         is_signed ? "a signed" : "an unsigned",
                         bits);
    if (!fits)
        return api_error(RAY_ETYPE,
                         "%lld does not fit %s integer of %u bits",
                         (long long)it->i,
                         is_signed ? "a signed" : "an unsigned",
                         bits);
    memcpy(slot.p,
           it->kind == RAY_U64 ? (const void *)&it->u : (const void *)&it->i,
           slot.size); /* little endian */
    return RAY_OK;
}

/* Who knows the refs that bytes name by their place. */
struct home {
    const uint64_t *refs;           /* an argument's */
    const struct core_value *value; /* or a value got */
    uint32_t n_refs;
};

/* The place was read from foreign bytes. */
static int give_ref(const struct item *it, ray_slot slot, const struct home *home)
{
    uint64_t word;

    if (it->kind != RAY_REF)
        return mismatch(it->kind, slot.kind);
    if (it->u >= home->n_refs)
        return api_error(RAY_ETYPE,
                         "the value names ref %llu, but holds %u",
                         (unsigned long long)it->u,
                         home->n_refs);
    if (home->refs != NULL) {
        word = core_retain(home->refs[it->u]) == CORE_OK ? home->refs[it->u] : 0;
    } else {
        core_call_site = NULL;
        word = core_value_ref(home->value, (uint32_t)it->u);
    }
    if (word == 0)
        return api_error(RAY_ESTALE, "the ref inside the value is not good any more");
    ((ray_ref *)slot.p)->word = word;
    return RAY_OK;
}

static int give_bytes(const struct item *it, ray_slot slot)
{
    if (slot.kind == RAY_VIEW) {
        *(ray_view *)slot.p = (ray_view){.data = it->bytes, .size = it->size};
        return RAY_OK;
    }
    if (slot.kind == RAY_BIN) {
        if (it->size > slot.size)
            return api_error(RAY_ETYPE,
                             "the value has %zu bytes, the buffer %zu",
                             it->size,
                             slot.size);
        if (it->size > 0)
            memcpy(slot.p, it->bytes, it->size);
        return RAY_OK;
    }
    char *copy = malloc(it->size + 1);
    if (copy == NULL)
        return api_error(RAY_ENOMEM, "no memory for a string of %zu bytes", it->size);
    memcpy(copy, it->bytes, it->size);
    copy[it->size] = '\0';
    *(char **)slot.p = copy;
    return RAY_OK;
}

static void open_box(ray_box *box,
                     const uint8_t *at,
                     const uint8_t *end,
                     const struct item *it,
                     const struct home *home)
{
    bool is_container = it->kind == RAY_LST || it->kind == RAY_MAP;

    *box = (ray_box){.at = at,
                     .end = end,
                     .left = is_container ? it->size : 1,
                     .kind = it->kind,
                     .n_refs = home->n_refs,
                     .refs = home->refs,
                     .value = (void *)(uintptr_t)home->value};
}

/* An item into any slot but a box. */
static int give(const struct item *it, ray_slot slot, const struct home *home)
{
    switch ((enum ray_kind)slot.kind) {
    case RAY_BOOL:
        if (it->kind != RAY_BOOL)
            return mismatch(it->kind, slot.kind);
        *(bool *)slot.p = it->i != 0;
        return RAY_OK;
    case RAY_I64:
    case RAY_U64:
        return give_integer(it, slot);
    case RAY_F64: {
        if (it->kind != RAY_F64 && it->kind != RAY_I64 && it->kind != RAY_U64)
            return mismatch(it->kind, slot.kind);
        double d = it->kind == RAY_F64   ? it->d
                   : it->kind == RAY_I64 ? (double)it->i
                                         : (double)it->u;
        if (slot.size == sizeof(float))
            *(float *)slot.p = (float)d;
        else
            *(double *)slot.p = d;
        return RAY_OK;
    }
    case RAY_STR:
        return it->kind == RAY_STR ? give_bytes(it, slot) : mismatch(it->kind, slot.kind);
    case RAY_BIN:
    case RAY_VIEW:
        return it->kind == RAY_BIN || it->kind == RAY_STR ? give_bytes(it, slot)
                                                          : mismatch(it->kind, slot.kind);
    case RAY_REF:
        return give_ref(it, slot, home);
    case RAY_NIL:
    case RAY_LST:
    case RAY_MAP:
    case RAY_BOX:
    case RAY_NONE:
    case RAY_BUF:
        break;
    }
    return api_error(RAY_ETYPE, "not a place for a value: kind %u", slot.kind);
}

/* The value at *at into the slot; *at moves only on success. */
static int take(const uint8_t **at, const uint8_t *end, ray_slot slot, const struct home *home)
{
    const uint8_t *p = *at, *whole = *at;
    struct item it;
    int rc = RAY_OK;

    if (!head(&p, end, &it) || !skip(&whole, end))
        return api_error(RAY_ETYPE, "the value is not msgpack");
    if (slot.kind != RAY_BOX)
        rc = give(&it, slot, home);
    else
        open_box(slot.p, it.kind == RAY_LST || it.kind == RAY_MAP ? p : *at, whole, &it, home);
    if (rc == RAY_OK)
        *at = whole;
    return rc;
}

/* Bytes that are the whole value. */
static int take_raw(const uint8_t *bytes, size_t size, ray_slot slot, const struct home *home)
{
    struct item it = {.kind = RAY_BIN, .bytes = bytes, .size = size};

    if (slot.kind != RAY_BOX)
        return give(&it, slot, home);
    open_box(slot.p, bytes, bytes + size, &it, home);
    ((ray_box *)slot.p)->flags = BOX_RAW;
    return RAY_OK;
}

static int unpack(const void *bytes,
                  size_t size,
                  uint8_t meta,
                  ray_slot slot,
                  const struct home *home)
{
    const uint8_t *at = bytes;

    switch (meta) {
    case WIRE_META_XLANG:
        return take(&at, at + size, slot, home);
    case WIRE_META_RAW:
        return take_raw(at, size, slot, home);
    case WIRE_META_ERROR:
        return api_error_from_value(bytes, size);
    default:
        return api_error(RAY_ETYPE, "the value's encoding %u is unknown here", meta);
    }
}

int api_unpack_arg(const struct core_arg *arg, ray_slot slot)
{
    struct home home = {.refs = arg->refs, .n_refs = arg->n_refs};

    return unpack(arg->bytes, arg->size, arg->meta, slot, &home);
}

/* The view keeps what it points into: the value itself, or a copy of a small one. */
static int keep_in_view(struct core_value *v, ray_view *view)
{
    if (v->held != 0) {
        core_value_keep(v);
        view->pin[0] = v->held;
        v->held = 0;
        return RAY_OK;
    }
    void *copy = malloc(view->size > 0 ? view->size : 1);
    if (copy == NULL)
        return api_error(RAY_ENOMEM, "no memory for a view of %zu bytes", view->size);
    memcpy(copy, view->data, view->size);
    view->data = copy;
    view->pin[1] = (uintptr_t)copy;
    return RAY_OK;
}

/* Into a box that keeps the value, or a copy of a small one. */
static int unpack_box(struct core_value *v, ray_slot slot)
{
    struct core_value *kept = malloc(sizeof *kept + (v->held != 0 ? 0 : v->size));

    if (kept == NULL)
        return api_error(RAY_ENOMEM,
                         "no memory for a value of %llu bytes",
                         (unsigned long long)v->size);
    *kept = *v;
    if (v->held == 0)
        kept->bytes = memcpy(kept + 1, v->bytes, v->size);
    struct home home = {.value = kept, .n_refs = v->n_refs};
    int rc = unpack(kept->bytes, kept->size, kept->meta, slot, &home);
    if (rc != RAY_OK) {
        free(kept);
        return rc;
    }
    ((ray_box *)slot.p)->flags |= BOX_OWNS;
    core_value_keep(kept);
    v->held = 0;
    return RAY_OK;
}

int api_unpack_value(struct core_value *v, ray_slot slot)
{
    struct home home = {.value = v, .n_refs = v->n_refs};
    ray_view view;
    int rc;

    if (slot.kind == RAY_BOX) {
        rc = unpack_box(v, slot);
    } else if (slot.kind == RAY_VIEW) {
        rc = unpack(v->bytes, v->size, v->meta, (ray_slot){RAY_VIEW, &view, sizeof view}, &home);
        if (rc == RAY_OK)
            rc = keep_in_view(v, &view);
        if (rc == RAY_OK)
            *(ray_view *)slot.p = view;
    } else {
        rc = unpack(v->bytes, v->size, v->meta, slot, &home);
    }
    core_value_drop(v);
    return rc;
}

int ray_next_to(ray_box *box, ray_slot slot)
{
    struct home home = {.refs = box->refs, .value = box->value, .n_refs = box->n_refs};

    if (box->left == 0)
        return api_error(RAY_END, "no item is left");
    bool is_raw = (box->flags & BOX_RAW) != 0;
    int rc = is_raw ? take_raw(box->at, (size_t)(box->end - box->at), slot, &home)
                    : take(&box->at, box->end, slot, &home);
    if (rc != RAY_OK)
        return rc;
    if (is_raw)
        box->at = box->end;
    box->left--;
    return RAY_OK;
}

uint32_t ray_peek(const ray_box *box)
{
    const uint8_t *at = box->at;
    struct item it;

    if (box->left > 0 && (box->flags & BOX_RAW) != 0)
        return RAY_BIN;
    return box->left > 0 && head(&at, box->end, &it) ? (uint32_t)it.kind : (uint32_t)RAY_NONE;
}

int ray_skip(ray_box *box)
{
    const uint8_t *at = box->at;

    if (box->left == 0)
        return api_error(RAY_END, "no item is left");
    if ((box->flags & BOX_RAW) != 0)
        at = box->end;
    else if (!skip(&at, box->end))
        return api_error(RAY_ETYPE, "the value is not msgpack");
    box->at = at;
    box->left--;
    return RAY_OK;
}

void ray_box_drop(ray_box *box)
{
    if ((box->flags & BOX_OWNS) != 0) {
        core_value_drop(box->value);
        free(box->value);
    }
    *box = (ray_box){0};
}

void ray_drop(ray_view *view)
{
    struct core_value v = {.held = view->pin[0]};

    core_value_drop(&v);
    free((void *)(uintptr_t)view->pin[1]);
    *view = (ray_view){0};
}
