/* SPDX-License-Identifier: Apache-2.0 */
/* The first message of each link, identities in blocks, and gRPC's health check. */
#include <stdlib.h>
#include <string.h>

#include "gcs/message_codec.h"
#include "gcs/process_table.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "proto/gcs_link.pb-c.h"
#include "proto/health.pb-c.h"

#define BUILD __DATE__ " " __TIME__

/* What is held: the reply waits for all of it. */
struct greeting {
    struct asking asking;
    size_t n_open;
    enum err_code code; /* the first that failed */
};

static void reply_hello(struct gcs_server *g, struct rpc_call *call)
{
    Ray__C__HelloReply reply = RAY__C__HELLO_REPLY__INIT;
    struct store_redis_info info = {.commit = 0};
    static char build[] = BUILD;

    if (g->is_redis)
        store_redis_info(g->store, &info);
    reply.protocol = GCS_PROTOCOL;
    reply.build = build;
    reply.cluster_id = (ProtobufCBinaryData){sizeof g->cluster.bytes, g->cluster.bytes};
    reply.incarnation = g->incarnation;
    reply.commit = info.commit;
    reply.store = (char *)(uintptr_t)g->store->ops->why(g->store);
    message_reply(call, &reply.base);
}

static void on_held(void *arg, enum err_code code)
{
    struct greeting *h = arg;

    if (h->code == ERR_NONE)
        h->code = code;
    if (--h->n_open > 0)
        return;
    if (h->code == ERR_EXISTS)
        rpc_call_fail(
            h->asking.call,
            ERR_EXISTS,
            "process numbers of this node were given to another when the GCS did not know "
            "of it: start it again, as a new one");
    else if (h->code != ERR_NONE)
        gcs_fail(h->asking.server, h->asking.call, h->code, "say hello");
    else
        reply_hello(h->asking.server, h->asking.call);
    free(h);
}

/* Its own cluster, or it does not know one. */
static bool is_ours(const struct gcs_server *g, const ProtobufCBinaryData *id)
{
    return id->len == 0
           || (id->len == sizeof g->cluster.bytes
               && memcmp(id->data, g->cluster.bytes, id->len) == 0);
}

/* Blocks that could be of this node. */
static bool are_blocks(const Ray__C__HelloRequest *m)
{
    if (m->n_blocks > 0 && m->node_id.len != ID_UNIQUE_SIZE)
        return false;
    for (size_t i = 0; i < m->n_blocks; i++)
        if (m->blocks[i]->first == 0 || m->blocks[i]->n == 0 || m->blocks[i]->n > PROCESS_BLOCK_MAX
            || m->blocks[i]->first >= JOB_PROCESSES_MAX
            || m->blocks[i]->n > JOB_PROCESSES_MAX - m->blocks[i]->first)
            return false;
    return true;
}

/* Rows that are lost are written again, unless the node is dead or was forgotten. */
static void hold(struct gcs_server *g, struct rpc_call *call, const Ray__C__HelloRequest *m)
{
    struct process_block b = {.n = 0};
    size_t n_blocks = m->n_blocks;

    if (n_blocks > 0) {
        memcpy(b.node.bytes, m->node_id.data, sizeof b.node.bytes);
        const struct node_sync_row *row = node_sync_find(g->sync, &b.node);
        if (row != NULL ? row->state == NODE_SYNC_DEAD : !gcs_may_return(g))
            n_blocks = 0;
    }
    if (m->n_held + n_blocks == 0) {
        reply_hello(g, call);
        return;
    }
    struct greeting *h = xmalloc(sizeof *h);
    *h = (struct greeting){.asking = {.server = g, .call = call}, .n_open = m->n_held + n_blocks};
    for (size_t i = 0; i < m->n_held; i++)
        job_table_hold(g->store, m->held[i]->job, m->held[i]->processes, on_held, h);
    for (size_t i = 0; i < n_blocks; i++) {
        b.first = m->blocks[i]->first;
        b.n = m->blocks[i]->n;
        b.node_number = m->blocks[i]->node_number;
        process_table_hold(g->store, &b, on_held, h);
    }
}

static void on_hello(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__HelloRequest *m = message_of(call, &ray__c__hello_request__descriptor);

    if (m == NULL)
        return;
    if (m->protocol != GCS_PROTOCOL)
        rpc_call_fail(
            call,
            ERR_VERSION,
            "the GCS speaks protocol %d, the caller (build %.60s) %u: install one version",
            GCS_PROTOCOL,
            m->build,
            m->protocol);
    else if (!is_ours(g, &m->cluster_id))
        rpc_call_fail(call, ERR_DENIED, "this is another cluster than the caller's");
    else if (!are_blocks(m))
        rpc_call_fail(call,
                      ERR_INVALID,
                      "a block is 1 to 65536 process numbers of 28 bits of a node");
    else
        hold(g, call, m);
    ray__c__hello_request__free_unpacked(m, NULL);
}

static void on_taken(void *arg, enum err_code code, uint32_t first, uint32_t n)
{
    struct asking *a = arg;
    Ray__C__TakeProcessesReply reply = RAY__C__TAKE_PROCESSES_REPLY__INIT;

    reply.first = first;
    reply.n = n;
    if (code != ERR_NONE)
        gcs_fail(a->server, a->call, code, "number processes");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void take_for_node(struct gcs_server *g,
                          struct rpc_call *call,
                          const Ray__C__TakeProcessesRequest *m)
{
    const struct node_sync_row *row = gcs_sync_find(g, m->node_id.data, m->node_id.len);

    if (row == NULL)
        rpc_call_fail(call, ERR_NOT_FOUND, "no such node is registered");
    else if (row->state == NODE_SYNC_DEAD)
        rpc_call_fail(call, ERR_EXISTS, "this node was declared dead (%s)", row->death);
    else
        process_table_take(g->store, &row->id, row->number, m->n, on_taken, asking(g, call));
}

static void on_take_processes(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__TakeProcessesRequest *m = message_of(call, &ray__c__take_processes_request__descriptor);

    if (m == NULL)
        return;
    if (m->n == 0 || m->n > PROCESS_BLOCK_MAX || (m->job == 0) != (m->node_id.len > 0))
        rpc_call_fail(call, ERR_INVALID, "1 to 65536 numbers of a job, or for a node, at once");
    else if (m->job > 0)
        job_table_take_processes(g->store, m->job, m->n, on_taken, asking(g, call));
    else
        take_for_node(g, call, m);
    ray__c__take_processes_request__free_unpacked(m, NULL);
}

/* That the loop answers is the health; Redis away is no reason to end it. */
static void on_health(void *arg, struct rpc_call *call)
{
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    (void)arg;
    reply.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    message_reply(call, &reply.base);
}

const struct rpc_method gcs_link_methods[] = {
    {"/ray.c.GcsLink/Hello", on_hello},
    {"/ray.c.GcsLink/TakeProcesses", on_take_processes},
    {"/grpc.health.v1.Health/Check", on_health},
    {NULL, NULL},
};
