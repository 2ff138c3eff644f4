/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/client.h"

#include <stdio.h>
#include <stdlib.h>

#include "gcs/client_private.h"
#include "gcs/process_table.h"
#include "gcs/store_memory.h"
#include "lib/base/alloc.h"

/* --- alone in its cluster --- */

struct alone {
    struct gcs_client client;
    struct store *store;
    struct node_row node;
    gcs_number_f registered;
    void *registered_arg;
};

static struct alone *alone_of(struct gcs_client *c)
{
    return (struct alone *)c;
}

static void alone_destroy(struct gcs_client *c)
{
    struct alone *a = alone_of(c);

    a->store->ops->destroy(a->store);
    free(a);
}

static void alone_run(struct gcs_client *c)
{
    store_memory_run(alone_of(c)->store);
}

static void on_registered(void *arg, enum err_code code)
{
    const struct alone *a = arg;

    a->registered(a->registered_arg, code, code == ERR_NONE ? a->node.number : 0);
}

static void on_numbered(void *arg, enum err_code code, uint32_t first, uint32_t n)
{
    struct alone *a = arg;

    (void)n;
    a->node.number = first;
    if (code == ERR_NONE)
        node_table_register(a->store, &a->node, on_registered, a);
    else
        on_registered(a, code);
}

static void alone_register_node(struct gcs_client *c,
                                const struct node_row *row,
                                gcs_number_f done,
                                void *arg)
{
    struct alone *a = alone_of(c);

    a->node = *row;
    a->registered = done;
    a->registered_arg = arg;
    process_table_take(a->store, &row->id, 0, 1, on_numbered, a);
}

static void alone_unregister_node(struct gcs_client *c, store_done_f done, void *arg)
{
    struct alone *a = alone_of(c);

    snprintf(a->node.death, sizeof a->node.death, "it said good-bye");
    node_table_set_dead(a->store, &a->node, done, arg);
}

static void alone_add_job(struct gcs_client *c,
                          const struct job_row *row,
                          job_number_f done,
                          void *arg)
{
    job_table_add(alone_of(c)->store, row, done, arg);
}

static void alone_end_job(struct gcs_client *c,
                          uint32_t job,
                          const struct job_row *row,
                          store_done_f done,
                          void *arg)
{
    job_table_end(alone_of(c)->store, job, row, done, arg);
}

static void alone_take_processes(struct gcs_client *c, uint32_t n, job_block_f done, void *arg)
{
    struct alone *a = alone_of(c);

    process_table_take(a->store, &a->node.id, a->node.number, n, done, arg);
}

struct locating {
    gcs_located_f done;
    void *arg;
};

static void on_located(void *arg, enum err_code code, const struct process_block *block)
{
    struct locating *l = arg;

    l->done(l->arg,
            code,
            block != NULL ? &block->node : NULL,
            block != NULL ? block->node_number : 0);
    free(l);
}

static void alone_locate(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg)
{
    struct locating *l = xmalloc(sizeof *l);

    *l = (struct locating){.done = done, .arg = arg};
    process_table_locate(alone_of(c)->store, process, on_located, l);
}

static void alone_changed(struct gcs_client *c)
{
    (void)c; /* nobody wants to know */
}

static struct unique_id alone_cluster(const struct gcs_client *c)
{
    (void)c;
    return unique_id_nil();
}

struct gcs_client *gcs_client_create_private(void)
{
    static const struct gcs_client_ops ops = {.destroy = alone_destroy,
                                              .run = alone_run,
                                              .register_node = alone_register_node,
                                              .unregister_node = alone_unregister_node,
                                              .add_job = alone_add_job,
                                              .end_job = alone_end_job,
                                              .take_processes = alone_take_processes,
                                              .locate = alone_locate,
                                              .changed = alone_changed,
                                              .cluster = alone_cluster};
    struct alone *a = xcalloc(1, sizeof *a);

    a->client.ops = &ops;
    a->store = store_memory_create();
    return &a->client;
}

/* --- either --- */

void gcs_client_destroy(struct gcs_client *c)
{
    if (c != NULL)
        c->ops->destroy(c);
}

void gcs_client_run(struct gcs_client *c)
{
    c->ops->run(c);
}

void gcs_client_register_node(struct gcs_client *c,
                              const struct node_row *row,
                              gcs_number_f done,
                              void *arg)
{
    c->ops->register_node(c, row, done, arg);
}

void gcs_client_unregister_node(struct gcs_client *c, store_done_f done, void *arg)
{
    c->ops->unregister_node(c, done, arg);
}

void gcs_client_add_job(struct gcs_client *c,
                        const struct job_row *row,
                        job_number_f done,
                        void *arg)
{
    c->ops->add_job(c, row, done, arg);
}

void gcs_client_end_job(struct gcs_client *c,
                        uint32_t job,
                        const struct job_row *row,
                        store_done_f done,
                        void *arg)
{
    c->ops->end_job(c, job, row, done, arg);
}

void gcs_client_take_processes(struct gcs_client *c, uint32_t n, job_block_f done, void *arg)
{
    c->ops->take_processes(c, n, done, arg);
}

void gcs_client_locate(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg)
{
    c->ops->locate(c, process, done, arg);
}

void gcs_client_changed(struct gcs_client *c)
{
    c->ops->changed(c);
}

int gcs_client_send_for(struct gcs_client *c,
                        const void *bytes,
                        size_t size,
                        gcs_passed_f done,
                        void *arg)
{
    return c->ops->send_for != NULL ? c->ops->send_for(c, bytes, size, done, arg) : -1;
}

void gcs_client_take_passed(struct gcs_client *c, const void *bytes, size_t size)
{
    if (c->ops->take_passed != NULL)
        c->ops->take_passed(c, bytes, size);
}

void gcs_client_answer(struct gcs_client *c,
                       uint64_t question,
                       const void *reply,
                       size_t size,
                       const char *refusal)
{
    if (c->ops->answer != NULL)
        c->ops->answer(c, question, reply, size, refusal);
}

struct unique_id gcs_client_cluster(const struct gcs_client *c)
{
    return c->ops->cluster(c);
}
