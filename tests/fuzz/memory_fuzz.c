/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what processes and a raylet say to `ray memory`: rows of small numbers, which meet
 * often, and bytes as they are. Whatever they say is joined, checked and walked.
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "objstore/layout.h"
#include "raylet/memory_view.h"
#include "tests/fuzz/fuzz.h"

#define ROWS_MAX 8

static uint64_t small(struct input *in)
{
    uint8_t x = input_u8(in);

    return x < 250 ? x & 7 : UINT64_MAX >> (x & 3);
}

static size_t put(uint8_t *out, size_t at, const void *row, size_t size)
{
    memcpy(out + at, row, size);
    return at + size;
}

static struct memory_view *make_view(struct input *in)
{
    static uint8_t rows[4096];
    struct wire_books b = {.capacity = 1 << 20,
                           .used = small(in) * STORE_BLOCK,
                           .lent = small(in) * STORE_BLOCK,
                           .n_processes = input_u8(in) % ROWS_MAX,
                           .n_entries = input_u8(in) % ROWS_MAX,
                           .n_uses = input_u8(in) % ROWS_MAX};
    size_t size = 0;

    for (uint32_t i = 0; i < b.n_processes; i++) {
        struct wire_books_process w = {.process = (uint32_t)small(in), .kind = input_u8(in)};
        size = put(rows, size, &w, sizeof w);
    }
    for (uint32_t i = 0; i < b.n_entries; i++) {
        struct wire_books_entry w = {.place = small(in),
                                     .offset = small(in) * STORE_BLOCK,
                                     .size = small(in),
                                     .owner = (uint32_t)small(in),
                                     .n_blocks = (uint32_t)small(in),
                                     .n_holds = (uint32_t)small(in),
                                     .state = input_u8(in),
                                     .is_allocated = input_u8(in) & 1};
        size = put(rows, size, &w, sizeof w);
    }
    for (uint32_t i = 0; i < b.n_uses; i++) {
        struct wire_books_use w = {.process = (uint32_t)small(in),
                                   .kind = input_u8(in) & 3,
                                   .place = small(in),
                                   .offset = small(in) * STORE_BLOCK,
                                   .size = small(in) * STORE_BLOCK,
                                   .n = (uint32_t)small(in)};
        size = put(rows, size, &w, sizeof w);
    }
    struct memory_view *v = memory_view_create();
    ASSERT(memory_view_set_books(v, &b, rows, size + 1) == -1);
    ASSERT(memory_view_set_books(v, &b, rows, size) == 0);
    return v;
}

static void add_page(struct memory_view *v, struct memory_process *p, struct input *in)
{
    static uint8_t page[8192];
    struct wire_refs w = {.next = input_u8(in) & 1, .n = input_u8(in) % ROWS_MAX};
    size_t size = put(page, 0, &w, sizeof w), n;
    uint64_t next;

    for (uint32_t i = 0; i < w.n; i++) {
        struct wire_refs_row row = {.word = small(in),
                                    .counter = small(in),
                                    .size = small(in),
                                    .place = small(in),
                                    .offset = small(in) * STORE_BLOCK,
                                    .owner_word = small(in),
                                    .owner = (uint32_t)small(in),
                                    .count = (uint32_t)small(in),
                                    .held = (uint32_t)small(in),
                                    .n_views = (uint32_t)small(in),
                                    .n_items = input_u8(in) & 3,
                                    .pin = (int32_t)small(in) - 2,
                                    .flags = input_u8(in),
                                    .status = input_u8(in)};
        const uint8_t *site = input_bytes(in, 16, &n);
        row.site_size = (uint16_t)(n - n / 3);
        row.text_size = (uint16_t)(n / 3);
        size = put(page, size, &row, sizeof row);
        for (uint32_t k = 0; k < row.n_items; k++) {
            struct wire_refs_item item = {.kind = input_u8(in) & 7, .number = (uint32_t)small(in)};
            size = put(page, size, &item, sizeof item);
        }
        size = put(page, size, site, n);
    }
    ASSERT(memory_view_add_page(v, p, page, size, &next) == 0);
    ASSERT(next == w.next);
}

static void walk(const struct memory_view *v)
{
    for (size_t i = 0; i < memory_view_n_refs(v); i++) {
        const struct memory_ref *r = memory_view_ref(v, i);
        size_t at = 0, n = 0;
        ASSERT(r->kind < MEMORY_N_KINDS && r->status != NULL && strlen(r->site) <= 16);
        while (memory_view_next_borrower(v, r, &at) != 0)
            n++;
        ASSERT(n <= r->n_borrowers + r->n_leaving); /* number 0 ends the walk */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct memory_view *v = make_view(&in);
    struct memory_complaints c = {0}, again = {0};
    uint64_t next;

    while (in.left > 0 && memory_view_n_processes(v) > 0) {
        uint8_t op = input_u8(&in);
        struct memory_process *p = memory_view_process(v, op % memory_view_n_processes(v));
        if ((op >> 4 & 3) != 0) {
            add_page(v, p, &in);
        } else {
            size_t n;
            const uint8_t *bytes = input_bytes(&in, UINT8_MAX, &n);
            uint8_t *copy = malloc(n + 1); /* so that a read too far is seen */
            if (copy == NULL)
                break;
            memcpy(copy, bytes, n);
            (void)!memory_view_add_page(v, p, copy, n, &next);
            free(copy);
        }
    }
    memory_view_join(v);
    walk(v);
    memory_check(v, &c);
    memory_check(v, &again);
    size_t n = c.n;
    memory_complaints_keep(&c, &again);
    ASSERT(c.n == n); /* the same look says the same */
    memory_complaints_fini(&c);
    memory_complaints_fini(&again);
    memory_view_destroy(v);
    return 0;
}
