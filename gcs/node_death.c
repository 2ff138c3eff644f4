/* SPDX-License-Identifier: Apache-2.0 */
/* How a node dies: its row first, then the news, then the jobs whose driver was there. */
#include <stdio.h>
#include <stdlib.h>

#include "gcs/job_table.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"

struct burial {
    struct gcs_server *server;
    struct node_row row;
    store_done_f done;
    void *arg;
};

static void end_burial(struct burial *b, enum err_code code)
{
    b->done(b->arg, code);
    free(b);
}

static void on_dead(void *arg, enum err_code code)
{
    struct burial *b = arg;
    char hex[ID_HEX_MAX];

    if (code == ERR_NONE) {
        log_info("gcs",
                 "node_dead",
                 "node=%s number=%u why=\"%s\"",
                 id_hex(b->row.id.bytes, sizeof b->row.id.bytes, hex),
                 b->row.number,
                 b->row.death);
        if (gcs_sync_set_dead(b->server, &b->row.id, b->row.death))
            gcs_pubsub_tell_node(b->server, &b->row);
        gcs_end_jobs_of_dead(b->server);
    }
    end_burial(b, code);
}

static void on_found(void *arg, enum err_code code, const struct node_row *row)
{
    struct burial *b = arg;
    struct store *store = b->server->store;

    if (code == ERR_NONE && row->state == NODE_DEAD)
        gcs_sync_set_dead(b->server, &row->id, row->death);
    if (code == ERR_NONE && row->state != NODE_DEAD && store == NULL)
        code = ERR_CANCELED;
    if (code != ERR_NONE || row->state == NODE_DEAD) {
        end_burial(b, code);
        return;
    }
    char why[sizeof row->death];
    snprintf(why, sizeof why, "%s", b->row.death);
    b->row = *row;
    b->row.state = NODE_DEAD;
    b->row.end_ms = gcs_wall_ms();
    snprintf(b->row.death, sizeof b->row.death, "%s", why);
    node_table_set_dead(store, &b->row, on_dead, b);
}

void gcs_bury_node(struct gcs_server *g,
                   const struct unique_id *id,
                   const char *why,
                   store_done_f done,
                   void *arg)
{
    struct burial *b = xcalloc(1, sizeof *b);

    b->server = g;
    b->done = done;
    b->arg = arg;
    snprintf(b->row.death, sizeof b->row.death, "%s", why);
    node_table_get(g->store, id, on_found, b);
}

/* --- jobs --- */

struct job_end {
    struct gcs_server *server;
    uint32_t job;
    struct job_row row;
};

static void on_job_ended(void *arg, enum err_code code)
{
    struct job_end *e = arg;

    if (code == ERR_NONE)
        gcs_pubsub_tell_job(e->server, e->job, &e->row);
    else if (code != ERR_CANCELED)
        log_err("gcs", "job_not_ended", "code=%s", err_code_name(code));
    free(e);
}

static void on_job(void *arg, enum err_code code, uint32_t job, const struct job_row *row)
{
    struct gcs_server *g = arg;

    (void)code;
    if (row == NULL || row->end_ms != 0 || g->store == NULL)
        return;
    gcs_pubsub_know_job(g, job);
    if (row->node == 0)
        return;
    const struct node_sync_row *node = node_sync_find_number(g->sync, row->node);
    if (node == NULL || node->state != NODE_SYNC_DEAD)
        return;
    struct job_end *e = xmalloc(sizeof *e);
    *e = (struct job_end){.server = g, .job = job, .row = *row};
    e->row.end_ms = gcs_wall_ms();
    job_table_end(g->store, job, &e->row, on_job_ended, e);
}

void gcs_end_jobs_of_dead(struct gcs_server *g)
{
    if (g->store != NULL)
        job_table_scan(g->store, on_job, g);
}
