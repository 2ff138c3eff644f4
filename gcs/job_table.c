/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/job_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/job_codec.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"

#define TABLE   "JOB"
#define COUNTER "job"

struct adding {
    struct store *store;
    struct job_row row;
    uint32_t job;
    job_number_f done;
    void *arg;
};

struct getting {
    job_row_f done;
    void *arg;
    uint32_t job;
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

static void put(struct store *store,
                uint32_t job,
                const struct job_row *row,
                enum store_put how,
                store_done_f done,
                void *arg)
{
    char key[16];
    size_t size;
    void *bytes = job_row_pack(job, row, &size);

    key_of(job, key);
    store_put(store, TABLE, key, bytes, size, how, done, arg);
    free(bytes);
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

    if (code == ERR_NONE && before >= UINT32_MAX - 1)
        code = ERR_FULL;
    if (code != ERR_NONE) {
        added(a, code);
        return;
    }
    a->job = (uint32_t)before + 1;
    if (a->store != NULL)
        put(a->store, a->job, &a->row, STORE_PUT_NEW, added, a);
    else
        added(a, ERR_NONE);
}

void job_table_add(struct store *store, const struct job_row *row, job_number_f done, void *arg)
{
    struct adding *a = xcalloc(1, sizeof *a);

    *a = (struct adding){.store = store, .row = *row, .done = done, .arg = arg};
    store_count(store, COUNTER, 1, numbered, a);
}

void job_table_next(struct store *store, job_number_f done, void *arg)
{
    struct adding *a = xcalloc(1, sizeof *a);

    *a = (struct adding){.done = done, .arg = arg};
    store_count(store, COUNTER, 1, numbered, a);
}

void job_table_put(struct store *store,
                   uint32_t job,
                   const struct job_row *row,
                   store_done_f done,
                   void *arg)
{
    put(store, job, row, STORE_PUT_ANY, done, arg);
}

static void got(void *arg, enum err_code code, const void *value, size_t size)
{
    struct getting *g = arg;
    struct job_row row;
    uint32_t job = 0;

    if (code == ERR_NONE && (job_row_unpack(value, size, &job, &row) != 0 || job != g->job))
        code = ERR_PROTOCOL;
    g->done(g->arg, code, g->job, code == ERR_NONE ? &row : NULL);
    free(g);
}

void job_table_get(struct store *store, uint32_t job, job_row_f done, void *arg)
{
    struct getting *g = xmalloc(sizeof *g);
    char key[16];

    *g = (struct getting){.done = done, .arg = arg, .job = job};
    key_of(job, key);
    store_get(store, TABLE, key, got, g);
}

static void scanned(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct getting *g = arg;
    struct job_row row;
    uint32_t job;

    if (key == NULL) {
        g->done(g->arg, code, 0, NULL);
        free(g);
    } else if (job_row_unpack(value, size, &job, &row) != 0) {
        log_err("gcs", "foreign_row", "table=" TABLE " key=%.80s", key);
    } else {
        g->done(g->arg, ERR_NONE, job, &row);
    }
}

void job_table_scan(struct store *store, job_row_f row, void *arg)
{
    struct getting *g = xmalloc(sizeof *g);

    *g = (struct getting){.done = row, .arg = arg};
    store_scan(store, TABLE, "", scanned, g);
}

void job_table_end(struct store *store,
                   uint32_t job,
                   const struct job_row *row,
                   store_done_f done,
                   void *arg)
{
    put(store, job, row, STORE_PUT_ANY, done, arg);
}

static void processes_of(uint32_t job, char name[32])
{
    snprintf(name, 32, "processes-%08x", job);
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
    processes_of(job, name);
    store_count(store, name, n, taken, k);
}

struct looking {
    job_process_f done;
    void *arg;
};

/* Counters are decimal. */
static void looked(void *arg, enum err_code code, const void *value, size_t size)
{
    struct looking *l = arg;
    char text[24] = "";

    if (code == ERR_NONE && size < sizeof text)
        memcpy(text, value, size);
    if (code == ERR_NOT_FOUND)
        code = ERR_NONE;
    l->done(l->arg, code, (uint32_t)strtoul(text, NULL, 10));
    free(l);
}

void job_table_last_process(struct store *store, uint32_t job, job_process_f done, void *arg)
{
    struct looking *l = xmalloc(sizeof *l);
    char name[32];

    *l = (struct looking){.done = done, .arg = arg};
    processes_of(job, name);
    store_get(store, STORE_COUNTERS, name, looked, l);
}

struct holding {
    store_done_f done;
    void *arg;
    enum err_code code;
};

static void raised_processes(void *arg, enum err_code code)
{
    struct holding *h = arg;

    h->code = code;
}

/* Told behind the other. */
static void raised_job(void *arg, enum err_code code)
{
    struct holding *h = arg;

    if (h->done != NULL)
        h->done(h->arg, h->code != ERR_NONE ? h->code : code);
    free(h);
}

void job_table_hold(struct store *store,
                    uint32_t job,
                    uint32_t processes,
                    store_done_f done,
                    void *arg)
{
    struct holding *h = xmalloc(sizeof *h);
    char name[32];

    *h = (struct holding){.done = done, .arg = arg};
    processes_of(job, name);
    store_raise(store, name, processes, raised_processes, h);
    store_raise(store, COUNTER, job, raised_job, h);
}
