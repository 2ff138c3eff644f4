/* SPDX-License-Identifier: Apache-2.0 */
/* The service of the nodes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/message_codec.h"
#include "gcs/node_codec.h"
#include "gcs/process_table.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "proto/gcs.pb-c.h"

static void on_get_cluster_id(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GetClusterIdReply reply = RAY__RPC__GET_CLUSTER_ID_REPLY__INIT;

    reply.status = &fine;
    reply.cluster_id = (ProtobufCBinaryData){sizeof g->cluster.bytes, g->cluster.bytes};
    message_reply(call, &reply.base);
}

/* --- register --- */

/* A node that asks again, its first answer lost or its row, is the same (INV-30): look for its row,
 * else number it and write one. */
struct registering {
    struct asking asking;
    struct node_row row;
    bool is_again; /* the row came to be while its number was asked for */
};

static void reply_registered(struct rpc_call *call, uint32_t number)
{
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__RegisterNodeReply reply = RAY__RPC__REGISTER_NODE_REPLY__INIT;

    reply.status = &fine;
    reply.number = number;
    message_reply(call, &reply.base);
}

static void end_registering(struct registering *r, enum err_code code)
{
    char hex[ID_HEX_MAX];

    if (code != ERR_NONE) {
        gcs_fail(r->asking.server, r->asking.call, code, "register the node");
    } else {
        log_info("gcs",
                 "node_joined",
                 "node=%s number=%u address=%s:%d name=\"%s\"",
                 id_hex(r->row.id.bytes, sizeof r->row.id.bytes, hex),
                 r->row.number,
                 r->row.address,
                 r->row.node_port,
                 r->row.name);
        gcs_sync_add(r->asking.server, &r->row);
        gcs_pubsub_tell_node(r->asking.server, &r->row);
        reply_registered(r->asking.call, r->row.number);
    }
    free(r);
}

static void look_for_row(struct registering *r);

static void on_registered(void *arg, enum err_code code)
{
    struct registering *r = arg;

    if (code == ERR_EXISTS && !r->is_again && r->asking.server->store != NULL) {
        r->is_again = true;
        look_for_row(r);
    } else {
        end_registering(r, code);
    }
}

static void write_row(struct registering *r, enum err_code code)
{
    struct store *store = r->asking.server->store;

    if (code == ERR_NONE && store == NULL)
        code = ERR_CANCELED;
    if (code == ERR_NONE)
        node_table_register(store, &r->row, on_registered, r);
    else
        end_registering(r, code);
}

static void on_node_numbered(void *arg, enum err_code code, uint32_t first, uint32_t n)
{
    struct registering *r = arg;

    (void)n;
    r->row.number = first;
    write_row(r, code);
}

static void on_number_held(void *arg, enum err_code code)
{
    write_row(arg, code);
}

/* A new one; or its own, of a time that this GCS does not know any more. */
static void number_node(struct registering *r)
{
    struct gcs_server *g = r->asking.server;

    if (r->row.number == 0) {
        process_table_take(g->store, &r->row.id, 0, 1, on_node_numbered, r);
    } else if (!gcs_may_return(g)) {
        rpc_call_fail(r->asking.call,
                      ERR_EXISTS,
                      "the GCS does not know this node, or has forgotten it after its death: start "
                      "it again, as a new one");
        free(r);
    } else if (node_sync_find_number(g->sync, r->row.number) == NULL) {
        job_table_hold(g->store, 0, r->row.number, on_number_held, r);
    } else {
        rpc_call_fail(r->asking.call,
                      ERR_EXISTS,
                      "the number of this node was given to another: start it again, as a new one");
        free(r);
    }
}

static void on_looked(void *arg, enum err_code code, const struct node_row *row)
{
    struct registering *r = arg;

    if (code == ERR_NOT_FOUND && !r->is_again && r->asking.server->store != NULL) {
        number_node(r);
        return;
    }
    if (code != ERR_NONE) {
        end_registering(r, code);
        return;
    }
    if (row->state != NODE_ALIVE)
        rpc_call_fail(r->asking.call,
                      ERR_EXISTS,
                      "this node was declared dead (%s): start it again, as a new one",
                      row->death);
    else if (row->start_ms != r->row.start_ms || strcmp(row->address, r->row.address) != 0
             || row->pid != r->row.pid)
        rpc_call_fail(r->asking.call, ERR_EXISTS, "another node has this id");
    else
        reply_registered(r->asking.call, row->number);
    free(r);
}

static void look_for_row(struct registering *r)
{
    node_table_get(r->asking.server->store, &r->row.id, on_looked, r);
}

static void on_register(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__RegisterNodeRequest *m =
        message_of(call, &ray__rpc__register_node_request__descriptor);
    struct node_row row;

    if (m == NULL)
        return;
    if (m->node_info == NULL || node_row_of_message(m->node_info, &row) != 0
        || unique_id_is_nil(&row.id) || row.number >= JOB_PROCESSES_MAX) {
        rpc_call_fail(call, ERR_INVALID, "a node needs an id of %d bytes", ID_UNIQUE_SIZE);
    } else {
        struct registering *r = xmalloc(sizeof *r);
        row.state = NODE_ALIVE;
        row.end_ms = 0;
        *r = (struct registering){.asking = {.server = g, .call = call}, .row = row};
        look_for_row(r);
    }
    ray__rpc__register_node_request__free_unpacked(m, NULL);
}

/* --- unregister --- */

static void on_unregistered(void *arg, enum err_code code)
{
    struct asking *a = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__UnregisterNodeReply reply = RAY__RPC__UNREGISTER_NODE_REPLY__INIT;

    reply.status = &fine;
    if (code != ERR_NONE)
        gcs_fail(a->server, a->call, code, "unregister the node");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void on_unregister(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__UnregisterNodeRequest *m =
        message_of(call, &ray__rpc__unregister_node_request__descriptor);
    struct unique_id id;

    if (m == NULL)
        return;
    if (m->node_id.len != sizeof id.bytes) {
        rpc_call_fail(call, ERR_INVALID, "a node's id has %d bytes", ID_UNIQUE_SIZE);
    } else {
        memcpy(id.bytes, m->node_id.data, sizeof id.bytes);
        gcs_bury_node(g,
                      &id,
                      m->death[0] != '\0' ? m->death : "it said good-bye",
                      on_unregistered,
                      asking(g, call));
    }
    ray__rpc__unregister_node_request__free_unpacked(m, NULL);
}

/* --- lists --- */

struct listing {
    struct asking asking;
    Ray__Rpc__GcsNodeInfo **nodes;
    size_t n;
    Ray__Rpc__CheckAliveRequest *asked; /* of CheckAlive, else NULL */
    protobuf_c_boolean *alive;
};

static void reply_nodes(struct listing *l)
{
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GetAllNodeInfoReply reply = RAY__RPC__GET_ALL_NODE_INFO_REPLY__INIT;

    reply.status = &fine;
    reply.n_node_info_list = l->n;
    reply.node_info_list = l->nodes;
    reply.total = (int64_t)l->n;
    message_reply(l->asking.call, &reply.base);
}

static void on_listed(void *arg, enum err_code code, const struct node_row *row)
{
    struct listing *l = arg;

    if (row != NULL) {
        size_t size;
        void *bytes = node_row_pack(row, &size);
        if ((l->n & (l->n - 1)) == 0)
            l->nodes = xrealloc(l->nodes, 2 * (l->n + 1) * sizeof *l->nodes);
        l->nodes[l->n] = ray__rpc__gcs_node_info__unpack(NULL, size, bytes);
        l->n += l->nodes[l->n] != NULL;
        free(bytes);
        return;
    }
    if (code != ERR_NONE)
        gcs_fail(l->asking.server, l->asking.call, code, "list the nodes");
    else
        reply_nodes(l);
    for (size_t i = 0; i < l->n; i++)
        ray__rpc__gcs_node_info__free_unpacked(l->nodes[i], NULL);
    free(l->nodes);
    free(l);
}

static void on_get_all(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    struct listing *l = xcalloc(1, sizeof *l);

    l->asking = (struct asking){.server = g, .call = call};
    node_table_scan(g->store, on_listed, l);
}

static void mark_alive(struct listing *l, const struct node_row *row)
{
    char at[96];

    if (row->state != NODE_ALIVE)
        return;
    size_t n = (size_t)snprintf(at, sizeof at, "%s:%d", row->address, row->node_port);
    for (size_t i = 0; i < l->asked->n_raylets; i++) {
        const ProtobufCBinaryData *r = &l->asked->raylets[i];
        if ((r->len == sizeof row->id.bytes && memcmp(r->data, row->id.bytes, r->len) == 0)
            || (r->len == n && memcmp(r->data, at, n) == 0))
            l->alive[i] = 1;
    }
}

static void on_checked(void *arg, enum err_code code, const struct node_row *row)
{
    struct listing *l = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__CheckAliveReply reply = RAY__RPC__CHECK_ALIVE_REPLY__INIT;
    static char version[] = "2.60.0";

    if (row != NULL) {
        mark_alive(l, row);
        return;
    }
    reply.status = &fine;
    reply.ray_version = version;
    reply.n_raylet_alive = l->asked->n_raylets;
    reply.raylet_alive = l->alive;
    if (code != ERR_NONE)
        gcs_fail(l->asking.server, l->asking.call, code, "check the nodes");
    else
        message_reply(l->asking.call, &reply.base);
    ray__rpc__check_alive_request__free_unpacked(l->asked, NULL);
    free(l->alive);
    free(l);
}

static void on_check_alive(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__CheckAliveRequest *m = message_of(call, &ray__rpc__check_alive_request__descriptor);

    if (m == NULL)
        return;
    if (m->n_raylets > 10000) {
        rpc_call_fail(call, ERR_INVALID, "at most 10000 nodes at once");
        ray__rpc__check_alive_request__free_unpacked(m, NULL);
        return;
    }
    struct listing *l = xcalloc(1, sizeof *l);
    l->asking = (struct asking){.server = g, .call = call};
    l->asked = m;
    l->alive = xcalloc(m->n_raylets + 1, sizeof *l->alive);
    node_table_scan(g->store, on_checked, l);
}

const struct rpc_method gcs_node_methods[] = {
    {"/ray.rpc.NodeInfoGcsService/GetClusterId", on_get_cluster_id},
    {"/ray.rpc.NodeInfoGcsService/RegisterNode", on_register},
    {"/ray.rpc.NodeInfoGcsService/UnregisterNode", on_unregister},
    {"/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", on_get_all},
    {"/ray.rpc.NodeInfoGcsService/CheckAlive", on_check_alive},
    {NULL, NULL},
};
