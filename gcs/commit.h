/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_COMMIT_H
#define GCS_COMMIT_H
/*
 * What a call on a store means, apart from where its rows are kept: all rows in memory, the calls
 * in their order, and rounds of changes that somebody makes durable. A change is decided when it
 * is called, against all that was called before, and told when the round it is in is durable. A
 * read shows what was called before it, and is told after that is durable (INV-36); while the store
 * is away, it is told at once what is durable. Pure: no socket, no clock. Calls are those of
 * gcs/store.h.
 */
#include <stdbool.h>

#include "gcs/store.h"

struct commit;

/* A row to set, value NULL: to remove. */
struct commit_change {
    const char *table, *key;
    const void *value;
    size_t size;
};

struct commit_limits {
    size_t held_bytes;  /* changes that are not durable */
    size_t total_bytes; /* all rows */
};

struct commit_stats {
    size_t n_open;     /* calls not told */
    size_t held_bytes; /* of changes that are not durable */
    size_t total_bytes;
    uint64_t n_rounds; /* durable ones */
};

/* Without rows; calls fail with ERR_AWAY until commit_start. */
struct commit *commit_create(const struct commit_limits *limits);
/* Open calls complete with ERR_CANCELED, now. NULL is fine. */
void commit_destroy(struct commit *c);

/* A row as it was found in the store, before commit_start; of two with one key the last counts. */
void commit_load(struct commit *c,
                 const char *table,
                 const char *key,
                 const void *value,
                 size_t size);
/* Forget what was loaded. */
void commit_unload(struct commit *c);
/* All is loaded: from now on calls are served. */
void commit_start(struct commit *c);

void commit_put(struct commit *c,
                const char *table,
                const char *key,
                const void *value,
                size_t size,
                enum store_put how,
                store_done_f done,
                void *arg);
void commit_get(struct commit *c,
                const char *table,
                const char *key,
                store_value_f done,
                void *arg);
void commit_remove(struct commit *c,
                   const char *table,
                   const char *key,
                   store_done_f done,
                   void *arg);
void commit_scan(struct commit *c,
                 const char *table,
                 const char *prefix,
                 store_row_f row,
                 void *arg);
void commit_count(struct commit *c, const char *name, uint64_t n, store_number_f done, void *arg);
void commit_raise(struct commit *c, const char *name, uint64_t to, store_done_f done, void *arg);

/* Whether the store can make nothing durable just now. */
void commit_set_away(struct commit *c, bool is_away);
/* All changes called so far become the round, unless one is open already. False: there are none. */
bool commit_begin_round(struct commit *c);
bool commit_has_round(const struct commit *c);
/* The changes of the round in their order: *at starts as NULL. False: no more. */
bool commit_round_next(struct commit *c, const void **at, struct commit_change *out);
/* The round is durable, as a whole. */
void commit_end_round(struct commit *c);
/* What is durable, in order: *at starts as NULL. False: no more. */
bool commit_durable_next(const struct commit *c,
                         const char *table,
                         const void **at,
                         struct commit_change *out);

/* Tell what is due, and what those completions call; may be called from no completion. */
void commit_run(struct commit *c);
void commit_stats(const struct commit *c, struct commit_stats *out);

#endif /* GCS_COMMIT_H */
