/* SPDX-License-Identifier: Apache-2.0 */
/* The service of what nodes have free: as each said last (INV-37). */
#include <stdlib.h>

#include "gcs/message_codec.h"
#include "gcs/node_sync.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "proto/gcs.pb-c.h"

typedef Ray__Rpc__AvailableResources available_node;
typedef Ray__Rpc__AvailableResources__ResourcesAvailableEntry available_entry;

struct available {
    available_node node;
    available_entry entries[NODE_RESOURCES_MAX];
    available_entry *pointers[NODE_RESOURCES_MAX];
};

/* Names are the view's. */
static void fill(struct available *a, struct node_sync_row *row)
{
    struct node_view *v = row->view;

    ray__rpc__available_resources__init(&a->node);
    a->node.node_id = (ProtobufCBinaryData){sizeof row->id.bytes, row->id.bytes};
    a->node.resources_available = a->pointers;
    for (uint32_t i = 0; i < v->n_resources; i++) {
        available_entry *e = &a->entries[i];
        ray__rpc__available_resources__resources_available_entry__init(e);
        e->key = v->resources[i].name;
        e->value = (double)v->resources[i].available / NODE_RESOURCE_UNIT;
        a->pointers[a->node.n_resources_available++] = e;
    }
}

static void on_get_all(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GetAllAvailableResourcesReply reply =
        RAY__RPC__GET_ALL_AVAILABLE_RESOURCES_REPLY__INIT;
    struct node_sync_row *row;
    size_t n = 0;

    for (row = node_sync_after(g->sync, 0); row != NULL; row = node_sync_next(g->sync, row))
        n += row->state != NODE_SYNC_DEAD;
    struct available *all = xcalloc(n + 1, sizeof *all);
    available_node **list = xcalloc(n + 1, sizeof *list);
    for (row = node_sync_after(g->sync, 0); row != NULL; row = node_sync_next(g->sync, row))
        if (row->state != NODE_SYNC_DEAD) {
            fill(&all[reply.n_resources_list], row);
            list[reply.n_resources_list] = &all[reply.n_resources_list].node;
            reply.n_resources_list++;
        }
    reply.status = &fine;
    reply.resources_list = list;
    message_reply(call, &reply.base);
    free(list);
    free(all);
}

const struct rpc_method gcs_resource_methods[] = {
    {"/ray.rpc.NodeResourceInfoGcsService/GetAllAvailableResources", on_get_all},
    {NULL, NULL},
};
