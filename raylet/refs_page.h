/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_REFS_PAGE_H
#define RAYLET_REFS_PAGE_H
/* A page of a process's table of refs (REFS), read row by row; it is foreign input. Pure. */
#include <stddef.h>
#include <stdint.h>

#include "lib/net/wire.h"

struct refs_page {
    struct wire_refs head;
    const uint8_t *at, *end;
    uint32_t n_left;
};

/* A row, with what follows it in the page; borrowed. */
struct refs_page_row {
    struct wire_refs_row row;
    const uint8_t *items, *site, *text; /* row.n_items, site_size and text_size of them */
};

/* body is borrowed until the last row is read. -1: it is no page. */
int refs_page_open(struct refs_page *p, const void *body, size_t size);
/* 1: *out is the next row; 0: that was all; -1: it ends before its rows do. */
int refs_page_next(struct refs_page *p, struct refs_page_row *out);
/* k < row.n_items. */
struct wire_refs_item refs_page_item(const struct refs_page_row *r, uint32_t k);

#endif /* RAYLET_REFS_PAGE_H */
