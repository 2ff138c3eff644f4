/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/refs_page.h"

#include <string.h>

int refs_page_open(struct refs_page *p, const void *body, size_t size)
{
    if (size < sizeof p->head)
        return -1;
    memcpy(&p->head, body, sizeof p->head);
    p->at = (const uint8_t *)body + sizeof p->head;
    p->end = (const uint8_t *)body + size;
    p->n_left = p->head.n;
    return 0;
}

int refs_page_next(struct refs_page *p, struct refs_page_row *out)
{
    if (p->n_left == 0)
        return 0;
    if ((size_t)(p->end - p->at) < sizeof out->row)
        return -1;
    memcpy(&out->row, p->at, sizeof out->row);
    p->at += sizeof out->row;
    uint64_t items = (uint64_t)out->row.n_items * sizeof(struct wire_refs_item);
    if ((uint64_t)(p->end - p->at) < items + out->row.site_size + out->row.text_size)
        return -1;
    out->items = p->at;
    out->site = out->items + items;
    out->text = out->site + out->row.site_size;
    p->at = out->text + out->row.text_size;
    p->n_left--;
    return 1;
}

struct wire_refs_item refs_page_item(const struct refs_page_row *r, uint32_t k)
{
    struct wire_refs_item item;

    memcpy(&item, r->items + (size_t)k * sizeof item, sizeof item);
    return item;
}
