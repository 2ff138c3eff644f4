/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/why_refs.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "raylet/refs_page.h"

static char no_text[] = ""; /* of the many rows that have none */

static void take_text(struct why_row *w, const uint8_t *at, size_t n)
{
    if (n == 0 || w->text != no_text)
        return;
    w->text = xcalloc(1, n + 1);
    for (size_t i = 0; i < n; i++)
        w->text[i] = at[i] >= ' ' && at[i] < 127 ? (char)at[i] : '?';
}

/* The row that this one begins or goes on with. */
static struct why_row *add_row(struct why_refs *r, const struct wire_refs_row *row)
{
    struct why_row *last = r->n > 0 ? &r->v[r->n - 1] : NULL;

    if (row->first_item > 0 && last != NULL && last->row.word == row->word)
        return last;
    if (r->n == r->room) {
        r->room = r->room == 0 ? 64 : 2 * r->room;
        r->v = xrealloc(r->v, r->room * sizeof *r->v);
    }
    r->v[r->n] = (struct why_row){.row = *row, .text = no_text};
    return &r->v[r->n++];
}

int why_refs_add_page(struct why_refs *r, const void *body, size_t size, uint64_t *next)
{
    struct refs_page page;
    struct refs_page_row from;
    int more;

    if (refs_page_open(&page, body, size) != 0)
        return -1;
    r->status = (enum wire_refs_status)page.head.status;
    while ((more = refs_page_next(&page, &from)) == 1) {
        struct why_row *to = add_row(r, &from.row);
        for (uint32_t k = 0; k < from.row.n_items; k++) {
            struct wire_refs_item item = refs_page_item(&from, k);
            if (item.kind != WIRE_ITEM_ARGUMENT)
                continue;
            to->args = xrealloc(to->args, (to->n_args + 1) * sizeof *to->args);
            to->args[to->n_args++] = item.number;
        }
        take_text(to, from.text, from.row.text_size);
    }
    if (more != 0)
        return -1;
    *next = page.head.next;
    return 0;
}

void why_refs_fini(struct why_refs *r)
{
    for (size_t i = 0; i < r->n; i++) {
        free(r->v[i].args);
        if (r->v[i].text != no_text)
            free(r->v[i].text);
    }
    free(r->v);
    *r = (struct why_refs){.n = 0};
}

const struct why_row *why_refs_find(const struct why_refs *r, uint64_t counter, uint32_t index)
{
    const struct why_row *found = NULL;

    for (size_t i = 0; i < r->n; i++) {
        const struct wire_refs_row *row = &r->v[i].row;
        if (row->word == 0 || row->counter != counter || (row->flags & WIRE_ROW_BORROWED) != 0
            || (index > 0 ? row->index != index : (row->flags & WIRE_ROW_TASK) == 0))
            continue;
        if (found == NULL || row->index < found->row.index)
            found = &r->v[i];
    }
    return found;
}

const struct why_row *why_refs_at(const struct why_refs *r, uint32_t slot)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->v[i].row.word != 0 && (uint32_t)r->v[i].row.word == slot)
            return &r->v[i];
    return NULL;
}
