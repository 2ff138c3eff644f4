/* SPDX-License-Identifier: Apache-2.0 */
/* What a call means is commit.h's, wherever the rows are kept. */
#include "gcs/store.h"

#include "gcs/commit.h"

void store_put(struct store *s,
               const char *table,
               const char *key,
               const void *value,
               size_t size,
               enum store_put how,
               store_done_f done,
               void *arg)
{
    commit_put(s->commit, table, key, value, size, how, done, arg);
}

void store_get(struct store *s, const char *table, const char *key, store_value_f done, void *arg)
{
    commit_get(s->commit, table, key, done, arg);
}

void store_remove(struct store *s, const char *table, const char *key, store_done_f done, void *arg)
{
    commit_remove(s->commit, table, key, done, arg);
}

void store_scan(struct store *s, const char *table, const char *prefix, store_row_f row, void *arg)
{
    commit_scan(s->commit, table, prefix, row, arg);
}

void store_count(struct store *s, const char *name, uint64_t n, store_number_f done, void *arg)
{
    commit_count(s->commit, name, n, done, arg);
}

void store_raise(struct store *s, const char *name, uint64_t to, store_done_f done, void *arg)
{
    commit_raise(s->commit, name, to, done, arg);
}
