/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values <-> msgpack, Ray's cross-language encoding. Packing goes through msgpack-c's packer, but
 * for numbers, which a hot loop packs by the million; unpacking reads in place, since a call's
 * views must point into the frame and scalars must not allocate. Bytes come from other processes:
 * every length is checked before it is believed, and reading never recurses.
 */
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"

#define DEPTH_MAX  64 /* of what is packed */
#define NUMBER_MAX 9  /* bytes of a packed number */

void packer_init(struct packer *p)
{
    p->bytes = p->stack;
    p->size = 0;
    p->room = sizeof p->stack;
    p->on_heap = p->failed = false;
}

void packer_fini(struct packer *p)
{
    if (p->on_heap)
        free(p->bytes);
}

static int append(void *arg, const char *bytes, size_t n)
{
    struct packer *p = arg;

    if (n > p->room - p->size) {
        size_t room = 2 * (p->size + n);
        uint8_t *b = realloc(p->on_heap ? p->bytes : NULL, room);
        if (b == NULL) {
            p->failed = true;
            return -1;
        }
        if (!p->on_heap)
            memcpy(b, p->stack, p->size);
        p->bytes = b;
        p->room = room;
        p->on_heap = true;
    }
    memcpy(p->bytes + p->size, bytes, n);
    p->size += n;
    return 0;
}

static int pack(msgpack_packer *mp, const ray_value *v, int depth)
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
        msgpack_pack_str(mp, n);
        msgpack_pack_str_body(mp, v->as.p, n);
        return RAY_OK;
    }
    case RAY_BIN:
        if (v->as.p == NULL && v->size > 0)
            return api_error(RAY_EARG, "%zu bytes at NULL", v->size);
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
        if (v->kind == RAY_LST)
            msgpack_pack_array(mp, v->size);
        else
            msgpack_pack_map(mp, v->size / 2);
        for (size_t i = 0; i < v->size && rc == RAY_OK; i++)
            rc = pack(mp, &v->as.v[i], depth + 1);
        return rc;
    case RAY_REF:
        return api_error(RAY_EARG,
                         "a ref cannot travel inside a list, a map, a return or a put in this "
                         "release: pass it as an argument of its own");
    case RAY_VIEW:
    case RAY_BOX:
    case RAY_NONE:
        break;
    }
    return api_error(RAY_EARG, "not a value: kind %u", v->kind);
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

int api_pack(struct packer *p, const ray_value *v)
{
    msgpack_packer mp;

    if (p->room - p->size >= NUMBER_MAX) {
        unsigned n = pack_number(p->bytes + p->size, v);
        p->size += n;
        if (n > 0)
            return RAY_OK;
    }

    msgpack_packer_init(&mp, p, append);
    int rc = pack(&mp, v, 0);
    if (rc == RAY_OK && p->failed)
        rc = api_error(RAY_ENOMEM, "no memory to pack a value");
    return rc;
}

/* One decoded head: a scalar, bytes, or a container's count. */
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
            return false; /* extension types are not ours */
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
                                        "nothing"};

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

static int give_bytes(const struct item *it, ray_slot slot, bool own)
{
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
    char *copy = NULL;
    if (own || slot.kind == RAY_STR) {
        copy = malloc(it->size + 1);
        if (copy == NULL)
            return api_error(RAY_ENOMEM, "no memory for a string of %zu bytes", it->size);
        memcpy(copy, it->bytes, it->size);
        copy[it->size] = '\0';
    }
    if (slot.kind == RAY_STR)
        *(char **)slot.p = copy;
    else
        *(ray_view *)slot.p =
            (ray_view){.data = copy != NULL ? (const void *)copy : it->bytes, .size = it->size};
    return RAY_OK;
}

static int open_box(const uint8_t *at,
                    const uint8_t *end,
                    const struct item *it,
                    const uint8_t *start,
                    ray_box *box,
                    bool own)
{
    bool is_container = it->kind == RAY_LST || it->kind == RAY_MAP;
    const uint8_t *from = is_container ? at : start;
    uint8_t *copy = NULL;

    if (own) {
        copy = malloc((size_t)(end - from) + 1);
        if (copy == NULL)
            return api_error(RAY_ENOMEM,
                             "no memory for a value of %zu bytes",
                             (size_t)(end - from));
        memcpy(copy, from, (size_t)(end - from));
    }
    *box = (ray_box){.at = own ? copy : from,
                     .end = own ? copy + (end - from) : end,
                     .left = is_container ? it->size : 1,
                     .kind = it->kind,
                     .owned = copy};
    return RAY_OK;
}

/* The value at *at into the slot; *at moves only on success. */
static int take(const uint8_t **at, const uint8_t *end, ray_slot slot, bool own)
{
    const uint8_t *p = *at, *whole = *at;
    struct item it;
    int rc = RAY_OK;

    if (!head(&p, end, &it) || !skip(&whole, end))
        return api_error(RAY_ETYPE, "the value is not msgpack");
    switch ((enum ray_kind)slot.kind) {
    case RAY_BOOL:
        if (it.kind != RAY_BOOL)
            return mismatch(it.kind, slot.kind);
        *(bool *)slot.p = it.i != 0;
        break;
    case RAY_I64:
    case RAY_U64:
        rc = give_integer(&it, slot);
        break;
    case RAY_F64: {
        if (it.kind != RAY_F64 && it.kind != RAY_I64 && it.kind != RAY_U64)
            return mismatch(it.kind, slot.kind);
        double d = it.kind == RAY_F64 ? it.d : it.kind == RAY_I64 ? (double)it.i : (double)it.u;
        if (slot.size == sizeof(float))
            *(float *)slot.p = (float)d;
        else
            *(double *)slot.p = d;
        break;
    }
    case RAY_STR:
        if (it.kind != RAY_STR)
            return mismatch(it.kind, slot.kind);
        rc = give_bytes(&it, slot, own);
        break;
    case RAY_BIN:
    case RAY_VIEW:
        if (it.kind != RAY_BIN && it.kind != RAY_STR)
            return mismatch(it.kind, slot.kind);
        rc = give_bytes(&it, slot, own);
        break;
    case RAY_BOX:
        rc = open_box(p, whole, &it, *at, slot.p, own);
        break;
    case RAY_NIL:
    case RAY_REF:
    case RAY_LST:
    case RAY_MAP:
    case RAY_NONE:
        return api_error(RAY_ETYPE, "not a place for a value: kind %u", slot.kind);
    }
    if (rc == RAY_OK)
        *at = whole;
    return rc;
}

int api_unpack(const void *bytes, size_t size, uint8_t meta, ray_slot slot, bool own)
{
    const uint8_t *at = bytes;

    if (meta == WIRE_META_ERROR)
        return api_error_from_value(bytes, size);
    if (meta != WIRE_META_XLANG)
        return api_error(RAY_ETYPE, "the value's encoding %u is unknown here", meta);
    return take(&at, at + size, slot, own);
}

int ray_next_to(ray_box *box, ray_slot slot)
{
    if (box->left == 0)
        return api_error(RAY_END, "no item is left");
    int rc = take(&box->at, box->end, slot, slot.kind == RAY_STR);
    if (rc == RAY_OK)
        box->left--;
    return rc;
}

uint32_t ray_peek(const ray_box *box)
{
    const uint8_t *at = box->at;
    struct item it;

    return box->left > 0 && head(&at, box->end, &it) ? (uint32_t)it.kind : (uint32_t)RAY_NONE;
}

int ray_skip(ray_box *box)
{
    const uint8_t *at = box->at;

    if (box->left == 0)
        return api_error(RAY_END, "no item is left");
    if (!skip(&at, box->end))
        return api_error(RAY_ETYPE, "the value is not msgpack");
    box->at = at;
    box->left--;
    return RAY_OK;
}

void ray_box_drop(ray_box *box)
{
    free(box->owned);
    *box = (ray_box){0};
}
