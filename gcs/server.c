/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/server_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gcs/kv.h"
#include "gcs/store_memory.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"

#define GCS_SERVER_MAGIC 0x47435353u
#define TOTAL_BYTES      (1u << 30) /* of all rows */
#define MESSAGE_MAX      (8u << 20)
#define CALLS_MAX        16384 /* half of them may be held polls of subscribers */

static const char *const tables[] = {"NODE", "JOB", "PROCESS", KV_TABLE, STORE_COUNTERS, NULL};

uint64_t gcs_wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct asking *asking(struct gcs_server *g, struct rpc_call *call)
{
    struct asking *a = xmalloc(sizeof *a);

    *a = (struct asking){.server = g, .call = call};
    return a;
}

void gcs_fail(struct gcs_server *g, struct rpc_call *call, enum err_code code, const char *what)
{
    const char *why = g->store != NULL ? g->store->ops->why(g->store) : "";

    if (code == ERR_FULL && why[0] != '\0')
        rpc_call_fail(call, code, "%s: too many changes wait already: %s", what, why);
    else if (code == ERR_FULL)
        rpc_call_fail(call, code, "%s: the GCS's tables, or its numbers, are used up", what);
    else
        rpc_call_fail(call,
                      code,
                      "%s: %s%s%s",
                      what,
                      err_code_name(code),
                      why[0] != '\0' ? ": " : "",
                      why);
}

static void open_port(struct gcs_server *g)
{
    char cluster[ID_HEX_MAX], incarnation[24];

    g->is_ready = true;
    id_hex(g->cluster.bytes, sizeof g->cluster.bytes, cluster);
    snprintf(incarnation, sizeof incarnation, "%" PRIu64, g->incarnation);
    gcs_end_jobs_of_dead(g);
    gcs_sync_start(g);
    rpc_server_start(g->rpc, cluster, incarnation);
    log_info("gcs",
             "ready",
             "port=%d cluster=%s incarnation=%s",
             rpc_server_port(g->rpc),
             cluster,
             incarnation);
    g->config.on_ready(g->config.arg, rpc_server_port(g->rpc), cluster, g->incarnation);
}

/* The nodes that there are, before anybody is answered. */
static void on_node(void *arg, enum err_code code, const struct node_row *row)
{
    struct gcs_server *g = arg;

    if (row != NULL)
        gcs_sync_add(g, row);
    else if (code == ERR_NONE)
        open_port(g);
    if (row == NULL)
        g->is_loading = false;
}

static void on_state(void *arg, enum store_redis_state state, const char *why)
{
    struct gcs_server *g = arg;
    struct store_redis_info info;

    switch (state) {
    case STORE_REDIS_READY:
        store_redis_info(g->store, &info);
        g->cluster = info.cluster;
        g->incarnation = info.epoch;
        if (!g->is_ready && !g->is_loading) {
            g->is_loading = true;
            node_table_scan(g->store, on_node, g);
        }
        return;
    case STORE_REDIS_REFUSED:
        if (!g->is_ready)
            g->config.on_end(g->config.arg, why);
        return;
    case STORE_REDIS_FENCED:
        g->config.on_end(g->config.arg, why);
        return;
    case STORE_REDIS_LOADING:
    case STORE_REDIS_AWAY:
        return;
    }
}

static struct store *create_store(struct gcs_server *g, struct err *err)
{
    const struct gcs_server_config *k = &g->config;

    if (k->redis == NULL)
        return store_memory_create();
    g->is_redis = true;
    return store_redis_create(&(struct store_redis_config){.loop = k->loop,
                                                           .address = k->redis,
                                                           .username = k->redis_username,
                                                           .password = k->redis_password,
                                                           .ns = k->ns,
                                                           .tables = tables,
                                                           .limits = {k->held_bytes, TOTAL_BYTES},
                                                           .beat_ms = 1000,
                                                           .slow_ms = 1000,
                                                           .give_up_ms = 10000,
                                                           .on_state = on_state,
                                                           .arg = g},
                              err);
}

struct gcs_server *gcs_server_create(const struct gcs_server_config *config, struct err *err)
{
    struct gcs_server *g = xcalloc(1, sizeof *g);

    g->magic = GCS_SERVER_MAGIC;
    g->config = *config;
    gcs_sync_init(g);
    gcs_questions_init(g);
    g->bridge = rpc_bridge_create(config->loop, err);
    if (g->bridge == NULL)
        goto fail;
    g->rpc = rpc_server_create(&(struct rpc_server_config){.bridge = g->bridge,
                                                           .address = config->address,
                                                           .token = config->token,
                                                           .max_message_bytes = MESSAGE_MAX,
                                                           .max_calls = CALLS_MAX},
                               err);
    if (g->rpc == NULL)
        goto fail;
    rpc_server_add(g->rpc, gcs_node_methods, g);
    rpc_server_add(g->rpc, gcs_job_methods, g);
    rpc_server_add(g->rpc, gcs_kv_methods, g);
    rpc_server_add(g->rpc, gcs_link_methods, g);
    rpc_server_add(g->rpc, gcs_sync_methods, g);
    rpc_server_add(g->rpc, gcs_resource_methods, g);
    rpc_server_add(g->rpc, gcs_question_methods, g);
    if (gcs_pubsub_init(g, err) != 0)
        goto fail;
    g->store = create_store(g, err);
    if (g->store == NULL)
        goto fail;
    if (!g->is_redis) {
        if (unique_id_random(&g->cluster) != 0) {
            err_sys(err, "get random bytes for the cluster's id");
            goto fail;
        }
        g->incarnation = gcs_wall_ms();
        open_port(g);
    }
    return g;
fail:
    gcs_server_destroy(g);
    return NULL;
}

void gcs_server_run(struct gcs_server *g)
{
    CHECK_MAGIC(g, GCS_SERVER_MAGIC);
    if (g->is_redis)
        store_redis_run(g->store);
    else
        store_memory_run(g->store);
    gcs_pubsub_flush(g);
}

/* The store first: what waits for it is answered by that. */
void gcs_server_destroy(struct gcs_server *g)
{
    struct store *store;

    if (g == NULL)
        return;
    store = g->store;
    g->store = NULL;
    if (store != NULL)
        store->ops->destroy(store);
    gcs_questions_end(g, NULL, "the GCS ends");
    gcs_sync_fini(g);
    gcs_pubsub_fini(g);
    rpc_server_destroy(g->rpc);
    rpc_bridge_destroy(g->bridge);
    g->magic = 0;
    free(g);
}
