/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/store_memory.h"

#include <stdlib.h>

#include "gcs/commit.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"

struct store_memory {
    struct store store;
    unsigned magic;
};
#define STORE_MEMORY_MAGIC 0x53544d45u

void store_memory_run(struct store *s)
{
    struct commit *c = s->commit;

    CHECK_MAGIC((struct store_memory *)s, STORE_MEMORY_MAGIC);
    do {
        if (commit_begin_round(c))
            commit_end_round(c);
        commit_run(c);
    } while (commit_begin_round(c));
}

static const char *why(struct store *s)
{
    (void)s;
    return "";
}

static void destroy(struct store *s)
{
    struct store_memory *m = (struct store_memory *)s;

    CHECK_MAGIC(m, STORE_MEMORY_MAGIC);
    commit_destroy(s->commit);
    m->magic = 0;
    free(m);
}

struct store *store_memory_create(void)
{
    static const struct store_ops ops = {.why = why, .destroy = destroy};
    static const struct commit_limits limits = {.held_bytes = SIZE_MAX / 2,
                                                .total_bytes = SIZE_MAX / 2};
    struct store_memory *m = xcalloc(1, sizeof *m);

    m->store.ops = &ops;
    m->magic = STORE_MEMORY_MAGIC;
    m->store.commit = commit_create(&limits);
    commit_start(m->store.commit);
    return &m->store;
}
