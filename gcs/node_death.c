/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a node dies: its row first, then the news, then the jobs whose driver was there. How it is
 * forgotten: blocks of its process numbers first, then its row, then what is in memory; a GCS that
 * ends in between leaves a dead node, which the next one forgets. Numbers are never given again, so
 * one that was given and has no row is of a dead node.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gcs/job_table.h"
#include "gcs/process_table.h"
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

/* --- forgetting --- */

struct oblivion {
    struct gcs_server *server;
    struct unique_id id;
};

static void end_oblivion(struct oblivion *o, enum err_code code)
{
    struct gcs_server *g = o->server;
    struct node_sync_row *row = code == ERR_NONE ? node_sync_find(g->sync, &o->id) : NULL;

    g->is_forgetting = false;
    if (row != NULL) {
        log_info("gcs", "node_forgotten", "number=%u why=\"%s\"", row->number, row->death);
        node_sync_forget(g->sync, row);
        gcs_forget_nodes(g);
    } else if (code != ERR_CANCELED) { /* the next tick tries again */
        log_debug("gcs", "not_forgotten", "code=%s", err_code_name(code));
    }
    free(o);
}

static void on_row_removed(void *arg, enum err_code code)
{
    end_oblivion(arg, code == ERR_NOT_FOUND ? ERR_NONE : code);
}

static void on_blocks_removed(void *arg, enum err_code code)
{
    struct oblivion *o = arg;

    if (code == ERR_NONE && o->server->store == NULL)
        code = ERR_CANCELED;
    if (code == ERR_NONE)
        node_table_remove(o->server->store, &o->id, on_row_removed, o);
    else
        end_oblivion(o, code);
}

void gcs_forget_nodes(struct gcs_server *g)
{
    const struct node_sync_row *row = g->is_forgetting || g->store == NULL
                                          ? NULL
                                          : node_sync_find_surplus(g->sync, g->config.dead_nodes);

    if (row == NULL)
        return;
    struct oblivion *o = xmalloc(sizeof *o);
    *o = (struct oblivion){.server = g, .id = row->id};
    g->is_forgetting = true;
    process_table_remove(g->store, &row->id, on_blocks_removed, o);
}

/* A first GCS has lost nothing. */
bool gcs_may_return(const struct gcs_server *g)
{
    return g->is_redis && g->incarnation > 1
           && node_sync_listened_ms(g->sync) <= NODE_SYNC_RETURN_MS;
}
