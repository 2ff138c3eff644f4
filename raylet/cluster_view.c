/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows: what was told of a node, what was debited since, and its rank, which is kept up to date by
 * what changes the row (cluster_view_private.h says how rows and columns lie).
 */
#include "raylet/cluster_view.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "raylet/cluster_view_private.h"

#define HALF 62 /* ranks of a node that is used for more than a half, less one */

struct cluster_view *cluster_view_create(uint32_t self, uint64_t seed)
{
    struct cluster_view *v = xcalloc(1, sizeof *v);

    v->self = self;
    v->random = seed * 2654435761u + 88172645463325252u;
    v->next_due_ms = UINT64_MAX;
    v->n_buckets = 64;
    v->buckets = xcalloc(v->n_buckets, sizeof(struct column *));
    v->keys = xcalloc(1, BLOCK);
    return v;
}

void cluster_view_destroy(struct cluster_view *v)
{
    if (v == NULL)
        return;
    for (unsigned i = 0; i < v->n_columns; i++)
        view_free_column(v->columns[i]);
    for (unsigned i = 0; i < v->n_rows; i++)
        free(v->rows[i].has);
    free(v->columns);
    free(v->buckets);
    free(v->rows);
    free(v->rank);
    free(v->keys);
    free(v);
}

/* --- rows --- */

/* The first row of this number or a later one. */
static uint32_t row_at(const struct cluster_view *v, uint32_t number)
{
    uint32_t low = 0, high = v->n_rows;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (v->rows[mid].number < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

uint32_t view_find_row(const struct cluster_view *v, uint32_t number)
{
    uint32_t i = row_at(v, number);

    return i < v->n_rows && v->rows[i].number == number ? i : v->n_rows;
}

/* All cells of this row and later ones are by that many rows further on. */
static void renumber(const struct cluster_view *v, uint32_t row, uint32_t by)
{
    for (unsigned k = 0; k < v->n_columns; k++) {
        const struct column *c = v->columns[k];
        for (unsigned i = view_cell_at(c, row); i < c->n; i++)
            c->row[i] += by;
    }
}

static uint32_t insert_row(struct cluster_view *v, uint32_t number)
{
    uint32_t i = row_at(v, number);

    if (v->n_rows == v->room) {
        v->room = 2 * v->room + 16;
        v->rows = xrealloc(v->rows, v->room * sizeof *v->rows);
        v->rank = xrealloc(v->rank, v->room);
        v->keys = xrealloc(v->keys, v->room + BLOCK);
    }
    renumber(v, i, 1);
    memmove(v->rows + i + 1, v->rows + i, (v->n_rows - i) * sizeof *v->rows);
    memmove(v->rank + i + 1, v->rank + i, v->n_rows - i);
    v->rows[i] =
        (struct row){.number = number, .has = xcalloc(NODE_RESOURCES_MAX, sizeof(struct column *))};
    v->rank[i] = 0;
    v->n_rows++;
    return i;
}

static uint8_t rank_of(const struct cluster_view *v, uint32_t row)
{
    static const char *const critical[] = {"CPU", "memory", "object_store_memory"};
    const struct row *r = &v->rows[row];
    unsigned rank = 0;

    if (r->is_draining)
        return NONE;
    if (r->is_held)
        return HELD;
    for (unsigned k = 0; k < r->n_has; k++) {
        const struct column *c = r->has[k];
        if (strcmp(c->name, "GPU") == 0)
            rank |= GPU;
        for (size_t j = 0; j < sizeof critical / sizeof critical[0]; j++) {
            if (strcmp(c->name, critical[j]) != 0)
                continue;
            unsigned i = view_find_cell(c, row), used = HALF + 1;
            if (c->available[i] > 0) {
                double share = 1 - (double)c->available[i] / (double)c->total[i];
                used = share < 0.5 ? 0 : 1 + (unsigned)((share - 0.5) * 2 * HALF);
            }
            if (used > (rank & (GPU - 1)))
                rank = (rank & GPU) | used;
        }
    }
    return (uint8_t)rank;
}

static void set_due(struct cluster_view *v, struct row *r, uint64_t at_ms)
{
    r->due_ms = at_ms;
    if (at_ms < v->next_due_ms)
        v->next_due_ms = at_ms;
}

/* What was debited of the row since its last report is there again. */
static void end_debits(struct cluster_view *v, uint32_t row)
{
    struct row *r = &v->rows[row];

    for (unsigned k = 0; k < r->n_has; k++) {
        unsigned i = view_find_cell(r->has[k], row);
        r->has[k]->available[i] = r->has[k]->reported[i];
    }
    r->n_sent = 0;
    r->is_held = r->has_rejected = false;
    r->due_ms = 0;
    v->rank[row] = rank_of(v, row);
}

void view_expire(struct cluster_view *v, uint64_t now_ms)
{
    if (now_ms < v->next_due_ms)
        return;
    v->next_due_ms = UINT64_MAX;
    for (uint32_t i = 0; i < v->n_rows; i++) {
        if (v->rows[i].due_ms == 0)
            continue;
        if (now_ms >= v->rows[i].due_ms)
            end_debits(v, i);
        else
            set_due(v, &v->rows[i], v->rows[i].due_ms);
    }
}

static void remove_has(struct cluster_view *v, uint32_t row, unsigned k)
{
    struct row *r = &v->rows[row];

    view_remove_cell(v, r->has[k], view_find_cell(r->has[k], row));
    r->has[k] = r->has[--r->n_has];
}

/* As another node says: any number. */
static void say_available(struct column *c, unsigned i, int64_t available)
{
    if (available < -RESOURCE_UNITS_MAX)
        available = -RESOURCE_UNITS_MAX;
    c->reported[i] = c->available[i] = available < c->total[i] ? available : c->total[i];
}

/* A column is where the row was told of that name before, or at k: reports name what they name in
 * one order. */
static void set_cell(struct cluster_view *v,
                     uint32_t row,
                     unsigned k,
                     const char *name,
                     int64_t total,
                     int64_t available)
{
    struct row *r = &v->rows[row];
    unsigned i, at = k;

    if (at >= r->n_has || strcmp(r->has[at]->name, name) != 0)
        for (at = k; at < r->n_has && strcmp(r->has[at]->name, name) != 0;)
            at++;
    if (at < r->n_has) {
        i = view_find_cell(r->has[at], row);
    } else {
        if (r->n_has == NODE_RESOURCES_MAX) /* it lost at least one */
            remove_has(v, row, r->n_has - 1);
        struct column *c = view_find_column(v, name);
        if (c == NULL)
            c = view_make_column(v, name);
        i = view_insert_cell(c, row);
        at = r->n_has++;
        r->has[at] = c;
    }
    struct column *c = r->has[at];
    r->has[at] = r->has[k];
    r->has[k] = c;
    c->total[i] = total < RESOURCE_UNITS_MAX ? total : RESOURCE_UNITS_MAX;
    say_available(c, i, available);
}

/* --- news --- */

void cluster_view_set(struct cluster_view *v, const struct node_view *n)
{
    uint32_t row = view_find_row(v, n->number);
    unsigned k = 0;

    if (!n->is_alive) {
        cluster_view_remove(v, n->number);
        return;
    }
    if (row == v->n_rows)
        row = insert_row(v, n->number);
    struct row *r = &v->rows[row];
    r->is_draining = n->is_draining;
    if (n->number == v->self) {
        v->rank[row] = rank_of(v, row);
        return;
    }
    r->n_waiting = n->n_waiting;
    for (uint32_t i = 0; i < n->n_resources && i < NODE_RESOURCES_MAX; i++) {
        const struct node_view_resource *from = &n->resources[i];
        unsigned twice = 0;
        if (from->total <= 0 || memchr(from->name, '\0', sizeof from->name) == NULL)
            continue;
        while (twice < k && strcmp(r->has[twice]->name, from->name) != 0)
            twice++;
        if (twice == k)
            set_cell(v, row, k++, from->name, from->total, from->available);
    }
    while (r->n_has > k)
        remove_has(v, row, r->n_has - 1);
    end_debits(v, row);
}

void cluster_view_set_self(struct cluster_view *v, const struct resources *from)
{
    uint32_t row = view_find_row(v, v->self);
    unsigned k = 0;

    if (row == v->n_rows)
        row = insert_row(v, v->self);
    struct row *r = &v->rows[row];
    for (unsigned i = 0; i < from->n; i++)
        if (from->total[i] > 0)
            set_cell(v, row, k++, from->names[i], from->total[i], from->available[i]);
    while (r->n_has > k)
        remove_has(v, row, r->n_has - 1);
    end_debits(v, row);
}

void cluster_view_remove(struct cluster_view *v, uint32_t number)
{
    uint32_t row = view_find_row(v, number);

    if (row == v->n_rows)
        return;
    while (v->rows[row].n_has > 0)
        remove_has(v, row, v->rows[row].n_has - 1);
    free(v->rows[row].has);
    v->n_rows--;
    memmove(v->rows + row, v->rows + row + 1, (v->n_rows - row) * sizeof *v->rows);
    memmove(v->rank + row, v->rank + row + 1, v->n_rows - row);
    renumber(v, row + 1, UINT32_MAX); /* one less */
}

/* --- what was sent, and what came back --- */

void cluster_view_debit(struct cluster_view *v,
                        uint32_t number,
                        const struct res_amount *need,
                        unsigned n,
                        uint32_t k,
                        uint64_t now_ms)
{
    uint32_t row = view_find_row(v, number);

    if (row == v->n_rows)
        return;
    view_expire(v, now_ms);
    struct row *r = &v->rows[row];
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < r->n_has; j++)
            if (strcmp(r->has[j]->name, need[i].name) == 0) {
                int64_t *has = &r->has[j]->available[view_find_cell(r->has[j], row)], taken;
                if (__builtin_mul_overflow(need[i].units, (int64_t)k, &taken) || taken > *has)
                    taken = *has > 0 ? *has : 0;
                *has -= taken;
            }
    set_due(v, r, now_ms + VIEW_DEBIT_MS);
    v->rank[row] = rank_of(v, row);
}

void cluster_view_add_waiting(struct cluster_view *v, uint32_t number, uint32_t k, uint64_t now_ms)
{
    uint32_t row = view_find_row(v, number);

    if (row == v->n_rows)
        return;
    view_expire(v, now_ms);
    v->rows[row].n_sent += k;
    set_due(v, &v->rows[row], now_ms + VIEW_DEBIT_MS);
}

void cluster_view_rejected(struct cluster_view *v,
                           uint32_t number,
                           const struct res_amount *need,
                           unsigned n,
                           const struct res_amount *said,
                           unsigned n_said,
                           uint64_t now_ms)
{
    uint32_t row = view_find_row(v, number);
    bool fits = true;

    if (row == v->n_rows)
        return;
    view_expire(v, now_ms);
    struct row *r = &v->rows[row];
    for (unsigned j = 0; j < r->n_has; j++) {
        struct column *c = r->has[j];
        unsigned at = view_find_cell(c, row);
        for (unsigned i = 0; i < n_said; i++)
            if (strcmp(c->name, said[i].name) == 0)
                say_available(c, at, said[i].units);
        for (unsigned i = 0; i < n; i++)
            if (strcmp(c->name, need[i].name) == 0 && need[i].units > 0
                && need[i].units > c->available[at])
                fits = false;
    }
    r->is_held |= fits;
    r->has_rejected = true;
    set_due(v, r, now_ms + VIEW_DEBIT_MS);
    v->rank[row] = rank_of(v, row);
}

/* --- queries --- */

unsigned cluster_view_count(const struct cluster_view *v)
{
    return v->n_rows;
}

int64_t cluster_view_available(const struct cluster_view *v, uint32_t number, const char *name)
{
    const struct column *c = view_find_column(v, name);
    uint32_t row = view_find_row(v, number);

    if (c == NULL || row == v->n_rows)
        return 0;
    unsigned i = view_find_cell(c, row);
    return i < c->n ? c->available[i] : 0;
}

bool cluster_view_sum(const struct cluster_view *v,
                      unsigned i,
                      const char **name,
                      int64_t *total,
                      int64_t *available)
{
    if (i >= v->n_columns)
        return false;
    const struct column *c = v->columns[i];
    *name = c->name;
    *total = *available = 0;
    for (unsigned k = 0; k < c->n; k++) {
        *total += c->total[k];
        *available += c->available[k] > 0 ? c->available[k] : 0;
    }
    return true;
}

void cluster_view_selfcheck(const struct cluster_view *v)
{
    unsigned n_cells = 0;

    for (unsigned k = 0; k < v->n_columns; k++) {
        const struct column *c = v->columns[k];
        ASSERT(c->n > 0 && c->at == k && view_find_column(v, c->name) == c);
        for (unsigned i = 0; i < c->n; i++) {
            ASSERT(c->row[i] < v->n_rows && (i == 0 || c->row[i - 1] < c->row[i]));
            ASSERT(c->total[i] > 0 && c->available[i] <= c->reported[i]
                   && c->reported[i] <= c->total[i]);
            if (c->available[i] != c->reported[i])
                ASSERT(v->rows[c->row[i]].due_ms != 0);
        }
        n_cells += c->n;
    }
    for (uint32_t i = 0; i < v->n_rows; i++) {
        const struct row *r = &v->rows[i];
        ASSERT(i == 0 || v->rows[i - 1].number < r->number);
        for (unsigned k = 0; k < r->n_has; k++)
            ASSERT(view_find_cell(r->has[k], i) < r->has[k]->n);
        ASSERT(v->rank[i] == rank_of(v, i));
        ASSERT(r->due_ms == 0 || r->due_ms >= v->next_due_ms);
        ASSERT(r->due_ms != 0 || (!r->is_held && !r->has_rejected && r->n_sent == 0));
        n_cells -= r->n_has;
    }
    ASSERT(n_cells == 0);
}
