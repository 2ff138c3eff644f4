/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/job_table.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/base/alloc.h"

#define TABLE "JOB"

struct adding {
    struct store *store;
    struct job_row row;
    uint32_t job;
    job_number_f done;
    void *arg;
};

struct taking {
    uint32_t n;
    job_block_f done;
    void *arg;
};

static void key_of(uint32_t job, char key[16])
{
    snprintf(key, 16, "%08x", job);
}

static void added(void *arg, enum err_code code)
{
    struct adding *a = arg;

    a->done(a->arg, code, code == ERR_NONE ? a->job : 0);
    free(a);
}

static void numbered(void *arg, enum err_code code, uint64_t before)
{
    struct adding *a = arg;
    char key[16];

    if (code == ERR_NONE && before >= UINT32_MAX - 1)
        code = ERR_FULL;
    if (code != ERR_NONE) {
        added(a, code);
        return;
    }
    a->job = (uint32_t)before + 1;
    key_of(a->job, key);
    a->store->ops->put(a->store, TABLE, key, &a->row, sizeof a->row, STORE_PUT_NEW, added, a);
}

void job_table_add(struct store *store, const struct job_row *row, job_number_f done, void *arg)
{
    struct adding *a = xcalloc(1, sizeof *a);

    *a = (struct adding){.store = store, .row = *row, .done = done, .arg = arg};
    store->ops->count(store, "job", 1, numbered, a);
}

void job_table_end(struct store *store,
                   uint32_t job,
                   const struct job_row *row,
                   store_done_f done,
                   void *arg)
{
    char key[16];

    key_of(job, key);
    store->ops->put(store, TABLE, key, row, sizeof *row, STORE_PUT_ANY, done, arg);
}

static void taken(void *arg, enum err_code code, uint64_t before)
{
    struct taking *t = arg;

    if (code == ERR_NONE && before + t->n >= JOB_PROCESSES_MAX)
        code = ERR_FULL;
    t->done(t->arg, code, code == ERR_NONE ? (uint32_t)before + 1 : 0, code == ERR_NONE ? t->n : 0);
    free(t);
}

void job_table_take_processes(struct store *store,
                              uint32_t job,
                              uint32_t n,
                              job_block_f done,
                              void *arg)
{
    struct taking *k = xcalloc(1, sizeof *k);
    char name[32];

    *k = (struct taking){.n = n, .done = done, .arg = arg};
    snprintf(name, sizeof name, "processes-%08x", job);
    store->ops->count(store, name, n, taken, k);
}
