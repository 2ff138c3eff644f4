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

static void write_row(struct store *store,
                      const struct process_block *block,
                      enum store_put how,
                      store_done_f done,
                      void *arg)
{
    char key[16];
    size_t size;
    void *bytes = process_block_pack(block, &size);

    snprintf(key, sizeof key, "%08x", block->first);
    store_put(store, TABLE, key, bytes, size, how, done, arg);
    free(bytes);
}

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

    (void)n;
    t->block.first = first;
    if (t->block.node_number == 0)
        t->block.node_number = first;
    if (code != ERR_NONE)
        put(t, code);
    else
        write_row(t->store, &t->block, STORE_PUT_ANY, put, t);
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

static void end_locating(struct locating *l, enum err_code code)
{
    l->done(l->arg, code, code == ERR_NONE ? &l->found : NULL);
    free(l);
}

/* A number without a row: was it ever given? */
static void on_last(void *arg, enum err_code code, uint32_t last)
{
    struct locating *l = arg;

    if (code == ERR_NONE)
        code = l->process <= last ? ERR_DIED : ERR_NOT_FOUND;
    end_locating(l, code);
}

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
        job_table_last_process(l->store, 0, on_last, l);
    else
        end_locating(l, code);
}

static void scan(struct locating *l, uint32_t high)
{
    char prefix[16];

    l->high = high;
    snprintf(prefix, sizeof prefix, "%04x", high);
    store_scan(l->store, TABLE, prefix, scanned, l);
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

/* --- hold --- */

struct holding {
    struct store *store;
    struct process_block block;
    bool is_first_free;
    store_done_f done;
    void *arg;
};

static void end_holding(void *arg, enum err_code code)
{
    struct holding *h = arg;

    if (h->done != NULL)
        h->done(h->arg, code);
    free(h);
}

/* Who has its first number, then its last. */
static void on_holder(void *arg, enum err_code code, const struct process_block *found)
{
    struct holding *h = arg;
    const struct process_block *b = &h->block;

    if (code == ERR_NONE)
        end_holding(h, unique_id_eq(&found->node, &b->node) ? ERR_NONE : ERR_EXISTS);
    else if (code != ERR_NOT_FOUND && code != ERR_DIED)
        end_holding(h, code);
    else if (h->is_first_free)
        write_row(h->store, b, STORE_PUT_NEW, end_holding, h);
    else {
        h->is_first_free = true;
        process_table_locate(h->store, b->first + b->n - 1, on_holder, h);
    }
}

void process_table_hold(struct store *store,
                        const struct process_block *block,
                        store_done_f done,
                        void *arg)
{
    struct holding *h = xmalloc(sizeof *h);

    *h = (struct holding){.store = store, .block = *block, .done = done, .arg = arg};
    process_table_locate(store, block->first, on_holder, h);
}

/* --- remove --- */

struct removing {
    struct store *store;
    struct unique_id node;
    size_t n_open; /* removals, and the scan */
    enum err_code code;
    store_done_f done;
    void *arg;
};

static void removed(void *arg, enum err_code code)
{
    struct removing *r = arg;

    if (code != ERR_NONE && code != ERR_NOT_FOUND)
        r->code = code;
    if (--r->n_open > 0)
        return;
    r->done(r->arg, r->code);
    free(r);
}

static void on_block(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct removing *r = arg;
    struct process_block b;

    if (key == NULL) {
        removed(r, code);
    } else if (process_block_unpack(value, size, &b) == 0 && unique_id_eq(&b.node, &r->node)) {
        r->n_open++;
        store_remove(r->store, TABLE, key, removed, r);
    }
}

void process_table_remove(struct store *store,
                          const struct unique_id *node,
                          store_done_f done,
                          void *arg)
{
    struct removing *r = xmalloc(sizeof *r);

    *r = (struct removing){.store = store, .node = *node, .n_open = 1, .done = done, .arg = arg};
    store_scan(store, TABLE, "", on_block, r);
}
