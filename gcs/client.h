/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_CLIENT_H
#define GCS_CLIENT_H
/*
 * What a raylet asks of the GCS. In a private cluster the tables are in this process, on a store in
 * memory. Asynchronous, as in store.h: each call completes once, at the turn's end at the earliest.
 */
#include "gcs/job_table.h"
#include "gcs/node_table.h"

struct gcs_client;

struct gcs_client *gcs_client_create_private(void);
/* What is open completes with ERR_CANCELED. NULL is fine. */
void gcs_client_destroy(struct gcs_client *c);
/* At each turn's end. */
void gcs_client_run(struct gcs_client *c);

void gcs_client_register_node(struct gcs_client *c,
                              const struct node_row *row,
                              store_done_f done,
                              void *arg);
void gcs_client_add_job(struct gcs_client *c,
                        const struct job_row *row,
                        job_number_f done,
                        void *arg);
void gcs_client_end_job(struct gcs_client *c,
                        uint32_t job,
                        const struct job_row *row,
                        store_done_f done,
                        void *arg);
/* job 0: numbers that are unique in all jobs. */
void gcs_client_take_processes(struct gcs_client *c,
                               uint32_t job,
                               uint32_t n,
                               job_block_f done,
                               void *arg);

#endif /* GCS_CLIENT_H */
