/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/process_table.h"

#include <stdio.h>
#include <stdlib.h>

#include "gcs/process_codec.h"
#include "lib/base/alloc.h"

#define TABLE "PROCESS"

/* --- take --- */

struct taking {
    struct store *store;
    struct process_block block;
    job_block_f done;
    void *arg;
};

static void put(void *arg, enum err_code code)
{
    struct taking *t = arg;
    bool ok = code == ERR_NONE;

    t->done(t->arg, code, ok ? t->block.first : 0, ok ? t->block.n : 0);
    free(t);
}

static void counted(void *arg, enum err_code code, uint32_t first, uint32_t n)
{
    struct taking *t = arg;
    char key[16];
    size_t size;

    (void)n;
    t->block.first = first;
    if (t->block.node_number == 0)
        t->block.node_number = first;
    if (code != ERR_NONE) {
        put(t, code);
        return;
    }
    void *bytes = process_block_pack(&t->block, &size);
    snprintf(key, sizeof key, "%08x", first);
    t->store->ops->put(t->store, TABLE, key, bytes, size, STORE_PUT_ANY, put, t);
    free(bytes);
}

void process_table_take(struct store *store,
                        const struct unique_id *node,
                        uint32_t node_number,
                        uint32_t n,
                        job_block_f done,
                        void *arg)
{
    struct taking *t = xmalloc(sizeof *t);

    *t = (struct taking){.store = store,
                         .block = {.n = n, .node = *node, .node_number = node_number},
                         .done = done,
                         .arg = arg};
    job_table_take_processes(store, 0, n, counted, t);
}

/* --- locate --- */

/* A block is not longer than what the last four digits of a key count: it begins under the number's
 * own first digits or those before them. */
struct locating {
    struct store *store;
    uint32_t process, high; /* of the scan under way */
    struct process_block found;
    process_block_f done;
    void *arg;
};

static void scan(struct locating *l, uint32_t high);

static void scanned(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct locating *l = arg;
    struct process_block b;

    if (key != NULL) {
        if (process_block_unpack(value, size, &b) == 0 && b.first <= l->process
            && l->process - b.first < b.n)
            l->found = b;
        return;
    }
    if (code == ERR_NONE && l->found.n == 0 && l->high == l->process >> 16 && l->high > 0) {
        scan(l, l->high - 1);
        return;
    }
    if (code == ERR_NONE && l->found.n == 0)
        code = ERR_NOT_FOUND;
    l->done(l->arg, code, code == ERR_NONE ? &l->found : NULL);
    free(l);
}

static void scan(struct locating *l, uint32_t high)
{
    char prefix[16];

    l->high = high;
    snprintf(prefix, sizeof prefix, "%04x", high);
    l->store->ops->scan(l->store, TABLE, prefix, scanned, l);
}

void process_table_locate(struct store *store, uint32_t process, process_block_f done, void *arg)
{
    struct locating *l = xcalloc(1, sizeof *l);

    l->store = store;
    l->process = process;
    l->done = done;
    l->arg = arg;
    scan(l, process >> 16);
}
