/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/rows.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define LEVELS 20

struct rows {
    struct row *head; /* before the first row; its key is never looked at */
    uint64_t random;
};

struct value *value_create(const void *bytes, size_t size)
{
    struct value *v = xmalloc(sizeof *v + size);

    v->n_refs = 1;
    v->size = size;
    if (size > 0)
        memcpy(v->bytes, bytes, size);
    return v;
}

struct value *value_ref(struct value *v)
{
    if (v != NULL)
        v->n_refs++;
    return v;
}

void value_unref(struct value *v)
{
    if (v != NULL && --v->n_refs == 0)
        free(v);
}

static struct row *row_create(const char *table, const char *key, unsigned n_levels)
{
    size_t links = n_levels * sizeof(struct row *), n = strlen(table) + 1, m = strlen(key) + 1;
    struct row *row = xcalloc(1, sizeof *row + links + n + m);
    char *text = (char *)row + sizeof *row + links;

    memcpy(text, table, n);
    memcpy(text + n, key, m);
    row->table = text;
    row->key = text + n;
    row->n_levels = n_levels;
    return row;
}

struct rows *rows_create(void)
{
    struct rows *r = xcalloc(1, sizeof *r);

    r->head = row_create("", "", LEVELS);
    r->random = 0x9e3779b97f4a7c15u;
    return r;
}

void rows_destroy(struct rows *r)
{
    if (r == NULL)
        return;
    for (struct row *row = r->head, *next; row != NULL; row = next) {
        next = row->next[0];
        value_unref(row->latest);
        value_unref(row->durable);
        free(row);
    }
    free(r);
}

static int compare(const struct row *row, const char *table, const char *key)
{
    int c = strcmp(row->table, table);

    return c != 0 ? c : strcmp(row->key, key);
}

/* The last row before (table, key) on each level. */
static void find_before(const struct rows *r,
                        const char *table,
                        const char *key,
                        struct row *before[LEVELS])
{
    struct row *at = r->head;

    for (int level = LEVELS - 1; level >= 0; level--) {
        while (at->next[level] != NULL && compare(at->next[level], table, key) < 0)
            at = at->next[level];
        before[level] = at;
    }
}

struct row *rows_first(const struct rows *r, const char *table, const char *key)
{
    struct row *before[LEVELS];

    find_before(r, table, key, before);
    struct row *row = before[0]->next[0];
    return row != NULL && strcmp(row->table, table) == 0 ? row : NULL;
}

struct row *rows_next(const struct row *row)
{
    struct row *next = row->next[0];

    return next != NULL && strcmp(next->table, row->table) == 0 ? next : NULL;
}

struct row *rows_find(const struct rows *r, const char *table, const char *key)
{
    struct row *row = rows_first(r, table, key);

    return row != NULL && strcmp(row->key, key) == 0 ? row : NULL;
}

/* One level, and with each further one chance in four. */
static unsigned levels(struct rows *r)
{
    unsigned n = 1;

    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    for (uint64_t bits = r->random; n < LEVELS && (bits & 3) == 0; bits >>= 2)
        n++;
    return n;
}

struct row *rows_add(struct rows *r, const char *table, const char *key)
{
    struct row *before[LEVELS];

    find_before(r, table, key, before);
    struct row *row = before[0]->next[0];
    if (row != NULL && compare(row, table, key) == 0)
        return row;
    row = row_create(table, key, levels(r));
    for (unsigned i = 0; i < row->n_levels; i++) {
        row->next[i] = before[i]->next[i];
        before[i]->next[i] = row;
    }
    return row;
}

void rows_prune(struct rows *r, struct row *row)
{
    struct row *before[LEVELS];

    if (row->latest != NULL || row->durable != NULL || row->n_open > 0)
        return;
    find_before(r, row->table, row->key, before);
    for (unsigned i = 0; i < row->n_levels; i++)
        before[i]->next[i] = row->next[i];
    free(row);
}
