/* SPDX-License-Identifier: Apache-2.0 */
/* The input is a value's meta, the slots it is taken into, and its bytes. */
#include <stdlib.h>

#include "lib/api/api_private.h"
#include "lib/base/assert.h"
#include "tests/fuzz/fuzz.h"

#define DEPTH_MAX 20

static uint64_t sink; /* so that what was given is really read */

static void read_bytes(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink += ((const uint8_t *)p)[i];
}

/* The bytes as an argument of a call, or as a value that was got, into the slot. */
static int unpack(const uint8_t *bytes, size_t size, uint8_t meta, ray_slot slot, bool is_arg)
{
    static const uint64_t words[2] = {1, 2}; /* of no refs here */
    struct core_arg arg = {.bytes = bytes, .size = size, .meta = meta, .refs = words, .n_refs = 2};
    struct core_value value = {.bytes = bytes, .size = size, .meta = meta};

    return is_arg ? api_unpack_arg(&arg, slot) : api_unpack_value(&value, slot);
}

/* One value by way of one kind of slot: from a box, or, with box NULL, from the bytes. */
static int take(ray_box *box, const uint8_t *bytes, size_t size, unsigned kind, bool is_arg)
{
    signed char i8;
    short i16;
    int i32;
    long i64;
    unsigned char u8;
    unsigned u32;
    unsigned long u64;
    float f;
    double d;
    bool b;
    char *s = NULL, into[7];
    ray_view view = {0};
    ray_ref ref;
    const ray_slot slots[] = {
        ray_to(&i8),
        ray_to(&i16),
        ray_to(&i32),
        ray_to(&i64),
        ray_to(&u8),
        ray_to(&u32),
        ray_to(&u64),
        ray_to(&f),
        ray_to(&d),
        ray_to(&b),
        ray_to(&s),
        ray_to(&view),
        ray_into(into, sizeof into),
        ray_to(&ref),
    };
    ray_slot slot = slots[kind % (sizeof slots / sizeof slots[0])];
    int rc =
        box != NULL ? ray_next_to(box, slot) : unpack(bytes, size, WIRE_META_XLANG, slot, is_arg);

    ASSERT(rc != RAY_OK || slot.kind != RAY_REF); /* none is good */
    if (rc != RAY_OK) {
        ASSERT(ray_error()->text[0] != '\0' && s == NULL && view.data == NULL);
        return rc;
    }
    if (s != NULL)
        sink += strlen(s);
    free(s);
    read_bytes(view.data, view.size);
    ray_drop(&view); /* one of a box or an argument needs none, but may have it */
    return RAY_OK;
}

static void walk(ray_box *box, struct input *how, int depth)
{
    while (box->left > 0 && how->left > 0) {
        size_t left = box->left;
        uint8_t step = input_u8(how);
        uint32_t kind = ray_peek(box);
        ray_box inner = {0};
        int rc;
        if ((step & 3) == 0)
            rc = ray_skip(box);
        else if ((step & 3) == 1 && depth < DEPTH_MAX)
            rc = ray_next_to(box, ray_to(&inner));
        else
            rc = take(box, NULL, 0, step >> 2, false);
        ASSERT(box->left == left - (rc == RAY_OK) && box->at <= box->end);
        ASSERT(rc != RAY_OK || kind != RAY_NONE);
        if (inner.at != NULL) {
            ASSERT(rc == RAY_OK && inner.end <= box->at && inner.kind == kind);
            walk(&inner, how, depth + 1);
        }
        if (rc != RAY_OK && ray_skip(box) != RAY_OK)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t op = input_u8(&in);
    size_t n;
    struct input how;
    ray_box box = {0};

    how.at = input_bytes(&in, 64, &n);
    how.left = n;
    uint8_t *bytes = malloc(in.left); /* exact: a sanitizer sees a byte too many */
    ASSERT(bytes != NULL || in.left == 0);
    if (in.left > 0)
        memcpy(bytes, in.at, in.left);
    switch (op & 3) {
    case 0:
        take(NULL, bytes, in.left, op >> 3, (op & 4) != 0);
        break;
    case 1:
    case 2:
        if (unpack(bytes, in.left, WIRE_META_XLANG, ray_to(&box), (op & 4) != 0) == RAY_OK)
            walk(&box, &how, 0);
        ray_box_drop(&box);
        break;
    case 3:
        if (unpack(bytes, in.left, op >> 2 & 7, ray_to(&box), (op >> 5 & 1) != 0) == RAY_OK) {
            ASSERT((op >> 2 & 7) == WIRE_META_XLANG || (op >> 2 & 7) == WIRE_META_RAW);
            walk(&box, &how, 0);
        }
        ray_box_drop(&box);
        break;
    }
    free(bytes);
    return 0;
}
