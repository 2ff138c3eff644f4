/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_ROWS_H
#define GCS_ROWS_H
/*
 * The GCS's rows in memory, in the order of (table, key): a skip list. Each has what it will hold
 * once all that was asked is durable, and what is durable now. Pure; the caller keeps both.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that several may hold: count them. */
struct value {
    unsigned n_refs;
    size_t size;
    uint8_t bytes[];
};

struct row {
    const char *table, *key;
    struct value *latest, *durable; /* NULL: there is none */
    unsigned n_open;                /* changes that are not durable */
    unsigned n_levels;
    struct row *next[];
};

struct rows;

/* Copies; with one reference. */
struct value *value_create(const void *bytes, size_t size);
struct value *value_ref(struct value *v); /* NULL is fine */
void value_unref(struct value *v);        /* NULL is fine */

struct rows *rows_create(void);
void rows_destroy(struct rows *r); /* NULL is fine */
/* NULL if there is none. */
struct row *rows_find(const struct rows *r, const char *table, const char *key);
/* Found or made, without values. */
struct row *rows_add(struct rows *r, const char *table, const char *key);
/* The first of a table at or after a key, then the next of the same table; NULL: no more. */
struct row *rows_first(const struct rows *r, const char *table, const char *key);
struct row *rows_next(const struct row *row);
/* Free the row if it has neither values nor open changes. */
void rows_prune(struct rows *r, struct row *row);

#endif /* GCS_ROWS_H */
