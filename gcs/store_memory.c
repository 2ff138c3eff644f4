/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/store_memory.h"

#include <stdlib.h>

#include "gcs/commit.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"

struct store_memory {
    struct store store;
    unsigned magic;
    struct commit *commit;
};
#define STORE_MEMORY_MAGIC 0x53544d45u

static struct commit *commit_of(struct store *s)
{
    struct store_memory *m = (struct store_memory *)s;

    CHECK_MAGIC(m, STORE_MEMORY_MAGIC);
    return m->commit;
}

void store_memory_run(struct store *s)
{
    struct commit *c = commit_of(s);

    do {
        if (commit_begin_round(c))
            commit_end_round(c);
        commit_run(c);
    } while (commit_begin_round(c));
}

static void put(struct store *s,
                const char *table,
                const char *key,
                const void *value,
                size_t size,
                enum store_put how,
                store_done_f done,
                void *arg)
{
    commit_put(commit_of(s), table, key, value, size, how, done, arg);
}

static void get(struct store *s, const char *table, const char *key, store_value_f done, void *arg)
{
    commit_get(commit_of(s), table, key, done, arg);
}

static void remove_row(struct store *s,
                       const char *table,
                       const char *key,
                       store_done_f done,
                       void *arg)
{
    commit_remove(commit_of(s), table, key, done, arg);
}

static void scan(struct store *s, const char *table, const char *prefix, store_row_f row, void *arg)
{
    commit_scan(commit_of(s), table, prefix, row, arg);
}

static void count(struct store *s, const char *name, uint64_t n, store_number_f done, void *arg)
{
    commit_count(commit_of(s), name, n, done, arg);
}

static void raise_counter(struct store *s,
                          const char *name,
                          uint64_t to,
                          store_done_f done,
                          void *arg)
{
    commit_raise(commit_of(s), name, to, done, arg);
}

static const char *why(struct store *s)
{
    (void)s;
    return "";
}

static void destroy(struct store *s)
{
    struct store_memory *m = (struct store_memory *)s;

    commit_destroy(commit_of(s));
    m->magic = 0;
    free(m);
}

struct store *store_memory_create(void)
{
    static const struct store_ops ops = {.put = put,
                                         .get = get,
                                         .remove = remove_row,
                                         .scan = scan,
                                         .count = count,
                                         .raise = raise_counter,
                                         .why = why,
                                         .destroy = destroy};
    static const struct commit_limits limits = {.held_bytes = SIZE_MAX / 2,
                                                .total_bytes = SIZE_MAX / 2};
    struct store_memory *m = xcalloc(1, sizeof *m);

    m->store.ops = &ops;
    m->magic = STORE_MEMORY_MAGIC;
    m->commit = commit_create(&limits);
    commit_start(m->commit);
    return &m->store;
}
