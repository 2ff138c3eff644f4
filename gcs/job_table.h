/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_JOB_TABLE_H
#define GCS_JOB_TABLE_H
/*
 * Jobs and the numbers that make identities in them (DESIGN D14): a job number is never given
 * twice, and process numbers are given in blocks, each once in its job. Completions as in store.h.
 */
#include "gcs/store.h"

#define JOB_PROCESSES_MAX (1u << 28) /* a process number has 28 bits; 0 is none */

struct job_row {
    uint64_t start_ms, end_ms; /* wall clock; end 0: runs */
    int32_t driver_pid;
    uint32_t node;           /* number of the driver's; 0: nobody knows */
    char entry[128];         /* name of the driver's program */
    char driver_address[64]; /* of its machine */
};

typedef void (*job_number_f)(void *arg, enum err_code code, uint32_t job);
typedef void (*job_block_f)(void *arg, enum err_code code, uint32_t first, uint32_t n);
typedef void (*job_row_f)(void *arg, enum err_code code, uint32_t job, const struct job_row *row);

/* A number for a new job and its row. ERR_FULL: 2^32 - 2 were given. */
void job_table_add(struct store *store, const struct job_row *row, job_number_f done, void *arg);
/* A number alone. */
void job_table_next(struct store *store, job_number_f done, void *arg);
/* The row of a job that has its number; replaces. */
void job_table_put(struct store *store,
                   uint32_t job,
                   const struct job_row *row,
                   store_done_f done,
                   void *arg);
/* row NULL unless ERR_NONE. ERR_PROTOCOL: what stands there is no row of ours. */
void job_table_get(struct store *store, uint32_t job, job_row_f done, void *arg);
/* Each that can be read, by number, then row NULL with the code of the end. */
void job_table_scan(struct store *store, job_row_f row, void *arg);
void job_table_end(struct store *store,
                   uint32_t job,
                   const struct job_row *row,
                   store_done_f done,
                   void *arg);
/* n process numbers of the job. ERR_FULL: all 2^28 - 1 were given. */
void job_table_take_processes(struct store *store,
                              uint32_t job,
                              uint32_t n,
                              job_block_f done,
                              void *arg);
/* The highest that was given, as last is told; 0: none. */
typedef void (*job_process_f)(void *arg, enum err_code code, uint32_t last);
void job_table_last_process(struct store *store, uint32_t job, job_process_f done, void *arg);
/* Somebody holds this job, and processes of it up to a number: neither is given again. */
void job_table_hold(struct store *store,
                    uint32_t job,
                    uint32_t processes,
                    store_done_f done,
                    void *arg);

#endif /* GCS_JOB_TABLE_H */
