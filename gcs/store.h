/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_STORE_H
#define GCS_STORE_H
/*
 * Where the GCS keeps its tables: rows of bytes by (table, key), and counters that only grow.
 * Asynchronous: each call completes exactly once, never before it returns, in the order of the
 * calls; what it says is durable then, a read's too. Only while the store can make nothing durable
 * (it is away) reads and refusals overtake: they are told at once what is durable, and changes are
 * held until it is back, up to a bound, then refused with ERR_FULL. Before the rows are loaded all
 * fails with ERR_AWAY; destroy completes what is open with ERR_CANCELED. Loop thread. Arguments are
 * borrowed for the call, what a callback is given for the callback. A callback may be NULL. Table
 * names and keys are text; a key of at most STORE_KEY_MAX and a value of at most STORE_VALUE_MAX
 * bytes, else ERR_INVALID.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

#define STORE_KEY_MAX   1024
#define STORE_VALUE_MAX (1u << 20)
#define STORE_COUNTERS  "COUNTER" /* the table of the counters */

struct commit;
struct store;

/* ERR_NONE, or why not. */
typedef void (*store_done_f)(void *arg, enum err_code code);
/* value is NULL unless ERR_NONE. */
typedef void (*store_value_f)(void *arg, enum err_code code, const void *value, size_t size);
/* One row of a scan; key NULL: the end of it, with its code. */
typedef void (
    *store_row_f)(void *arg, enum err_code code, const char *key, const void *value, size_t size);
typedef void (*store_number_f)(void *arg, enum err_code code, uint64_t before);

enum store_put {
    STORE_PUT_ANY, /* replaces */
    STORE_PUT_NEW, /* ERR_EXISTS if the row is there, which stays as it is */
};

/* What each implementation has of its own. */
struct store_ops {
    /* Why calls wait or are refused just now, a sentence; "" if they do not. Until the next call.
     */
    const char *(*why)(struct store *s);
    void (*destroy)(struct store *s);
};

/* First member of each implementation. */
struct store {
    const struct store_ops *ops;
    struct commit *commit; /* the implementation's own, which makes its changes durable */
};

void store_put(struct store *s,
               const char *table,
               const char *key,
               const void *value,
               size_t size,
               enum store_put how,
               store_done_f done,
               void *arg);
void store_get(struct store *s, const char *table, const char *key, store_value_f done, void *arg);
/* ERR_NOT_FOUND if there is none. */
void store_remove(struct store *s,
                  const char *table,
                  const char *key,
                  store_done_f done,
                  void *arg);
/* Each row of the table whose key begins with prefix, by key, then the end. */
void store_scan(struct store *s, const char *table, const char *prefix, store_row_f row, void *arg);
/* Add n to a counter (0 at first) and tell what it was; ERR_FULL at 2^64. Never goes back. */
void store_count(struct store *s, const char *name, uint64_t n, store_number_f done, void *arg);
/* A counter that was below `to` is `to`. */
void store_raise(struct store *s, const char *name, uint64_t to, store_done_f done, void *arg);

#endif /* GCS_STORE_H */
