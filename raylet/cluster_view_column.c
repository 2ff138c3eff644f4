/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "raylet/cluster_view_private.h"

_Static_assert(sizeof((struct node_view_resource){0}.name) == RESOURCE_NAME_MAX, "names");

void view_free_column(struct column *c)
{
    free(c->row);
    free(c->total);
    free(c->available);
    free(c->reported);
    free(c);
}

static struct column **bucket_of(const struct cluster_view *v, const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return &v->buckets[(hash ^ hash >> 15) & (v->n_buckets - 1)];
}

struct column *view_find_column(const struct cluster_view *v, const char *name)
{
    struct column *c = *bucket_of(v, name);

    while (c != NULL && strcmp(c->name, name) != 0)
        c = c->next;
    return c;
}

static void chain(struct cluster_view *v, struct column *c)
{
    struct column **b = bucket_of(v, c->name);

    c->next = *b;
    *b = c;
}

struct column *view_make_column(struct cluster_view *v, const char *name)
{
    struct column *c = xcalloc(1, sizeof *c);

    memcpy(c->name, name, strnlen(name, sizeof c->name - 1));
    if (v->n_columns == v->columns_room) {
        v->columns_room = 2 * v->columns_room + 16;
        v->columns = xrealloc(v->columns, v->columns_room * sizeof(struct column *));
    }
    if (v->n_columns == v->n_buckets) {
        free(v->buckets);
        v->n_buckets *= 2;
        v->buckets = xcalloc(v->n_buckets, sizeof(struct column *));
        for (unsigned i = 0; i < v->n_columns; i++)
            chain(v, v->columns[i]);
    }
    c->at = v->n_columns;
    v->columns[v->n_columns++] = c;
    chain(v, c);
    return c;
}

static void drop_column(struct cluster_view *v, struct column *c)
{
    struct column **p = bucket_of(v, c->name);

    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    v->columns[c->at] = v->columns[--v->n_columns];
    v->columns[c->at]->at = c->at;
    view_free_column(c);
}

unsigned view_cell_at(const struct column *c, uint32_t row)
{
    unsigned low = 0, high = c->n;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (c->row[mid] < row)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

unsigned view_find_cell(const struct column *c, uint32_t row)
{
    unsigned i = view_cell_at(c, row);

    return i < c->n && c->row[i] == row ? i : c->n;
}

static void shift(int64_t *v, unsigned to, unsigned from, unsigned n)
{
    memmove(v + to, v + from, n * sizeof *v);
}

unsigned view_insert_cell(struct column *c, uint32_t row)
{
    unsigned i = view_cell_at(c, row);

    if (c->n == c->room) {
        c->room = 2 * c->room + 4;
        c->row = xrealloc(c->row, c->room * sizeof *c->row);
        c->total = xrealloc(c->total, c->room * sizeof *c->total);
        c->available = xrealloc(c->available, c->room * sizeof *c->available);
        c->reported = xrealloc(c->reported, c->room * sizeof *c->reported);
    }
    memmove(c->row + i + 1, c->row + i, (c->n - i) * sizeof *c->row);
    shift(c->total, i + 1, i, c->n - i);
    shift(c->available, i + 1, i, c->n - i);
    shift(c->reported, i + 1, i, c->n - i);
    c->row[i] = row;
    c->n++;
    return i;
}

void view_remove_cell(struct cluster_view *v, struct column *c, unsigned i)
{
    c->n--;
    memmove(c->row + i, c->row + i + 1, (c->n - i) * sizeof *c->row);
    shift(c->total, i, i + 1, c->n - i);
    shift(c->available, i, i + 1, c->n - i);
    shift(c->reported, i, i + 1, c->n - i);
    if (c->n == 0)
        drop_column(v, c);
}
