/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/client.h"

#include <stdlib.h>

#include "gcs/store_memory.h"
#include "lib/base/alloc.h"

struct gcs_client {
    struct store *store;
};

struct gcs_client *gcs_client_create_private(void)
{
    struct gcs_client *c = xcalloc(1, sizeof *c);

    c->store = store_memory_create();
    return c;
}

void gcs_client_destroy(struct gcs_client *c)
{
    if (c == NULL)
        return;
    c->store->ops->destroy(c->store);
    free(c);
}

void gcs_client_run(struct gcs_client *c)
{
    store_memory_run(c->store);
}

void gcs_client_register_node(struct gcs_client *c,
                              const struct node_row *row,
                              store_done_f done,
                              void *arg)
{
    node_table_register(c->store, row, done, arg);
}

void gcs_client_add_job(struct gcs_client *c,
                        const struct job_row *row,
                        job_number_f done,
                        void *arg)
{
    job_table_add(c->store, row, done, arg);
}

void gcs_client_end_job(struct gcs_client *c,
                        uint32_t job,
                        const struct job_row *row,
                        store_done_f done,
                        void *arg)
{
    job_table_end(c->store, job, row, done, arg);
}

void gcs_client_take_processes(struct gcs_client *c,
                               uint32_t job,
                               uint32_t n,
                               job_block_f done,
                               void *arg)
{
    job_table_take_processes(c->store, job, n, done, arg);
}
