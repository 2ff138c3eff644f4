/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/node_view_codec.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "proto/gcs_link.pb-c.h"

#define COPY(to, from) snprintf(to, sizeof(to), "%s", (from) != NULL ? (from) : "")

/* A message and what it points to. */
struct packing {
    struct node_view view;
    Ray__C__NodeView m;
    Ray__C__NodeResource resources[NODE_RESOURCES_MAX], *list[NODE_RESOURCES_MAX];
};

static void fill(struct packing *p, const struct node_view *v)
{
    struct node_view *c = &p->view;
    Ray__C__NodeView *m = &p->m;

    *c = *v;
    ray__c__node_view__init(m);
    m->node_id = (ProtobufCBinaryData){sizeof c->id.bytes, c->id.bytes};
    m->number = c->number;
    m->version = c->version;
    m->is_dead = !c->is_alive;
    m->is_head = c->is_head;
    m->is_draining = c->is_draining;
    m->is_driver = c->is_driver;
    m->name = c->name;
    m->address = c->address;
    m->hostname = c->hostname;
    m->node_port = c->node_port;
    m->object_port = c->object_port;
    m->death = c->death;
    m->n_waiting = c->n_waiting;
    for (uint32_t i = 0; i < c->n_resources; i++) {
        ray__c__node_resource__init(&p->resources[i]);
        p->resources[i].name = c->resources[i].name;
        p->resources[i].total = c->resources[i].total;
        p->resources[i].available = c->resources[i].available;
        p->list[i] = &p->resources[i];
    }
    m->n_resources = c->n_resources;
    m->resources = p->list;
}

void *node_view_pack(const struct node_view *v, size_t *size)
{
    struct packing p;

    fill(&p, v);
    void *bytes = xmalloc(ray__c__node_view__get_packed_size(&p.m) + 1);
    *size = ray__c__node_view__pack(&p.m, bytes);
    return bytes;
}

int node_view_of_message(const struct Ray__C__NodeView *m, struct node_view *out)
{
    if (m->node_id.len != sizeof out->id.bytes)
        return -1;
    *out = (struct node_view){.number = m->number,
                              .version = m->version,
                              .is_alive = !m->is_dead,
                              .is_head = m->is_head,
                              .is_draining = m->is_draining,
                              .is_driver = m->is_driver,
                              .node_port = m->node_port,
                              .object_port = m->object_port,
                              .n_waiting = m->n_waiting};
    memcpy(out->id.bytes, m->node_id.data, sizeof out->id.bytes);
    COPY(out->name, m->name);
    COPY(out->address, m->address);
    COPY(out->hostname, m->hostname);
    COPY(out->death, m->death);
    for (size_t i = 0; i < m->n_resources && out->n_resources < NODE_RESOURCES_MAX; i++) {
        struct node_view_resource *r = &out->resources[out->n_resources++];
        COPY(r->name, m->resources[i]->name);
        r->total = m->resources[i]->total;
        r->available = m->resources[i]->available;
    }
    return 0;
}

int node_view_unpack(const void *bytes, size_t size, struct node_view *out)
{
    Ray__C__NodeView *m = ray__c__node_view__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    int rc = node_view_of_message(m, out);
    ray__c__node_view__free_unpacked(m, NULL);
    return rc;
}

void node_view_of_row(const struct node_row *row, struct node_view *out)
{
    *out = (struct node_view){.id = row->id,
                              .number = row->number,
                              .is_alive = row->state == NODE_ALIVE,
                              .is_head = row->is_head != 0,
                              .is_driver = row->is_driver != 0,
                              .node_port = row->node_port,
                              .object_port = row->object_port};
    COPY(out->name, row->name);
    COPY(out->address, row->address);
    COPY(out->hostname, row->hostname);
    COPY(out->death, row->death);
    for (uint32_t i = 0; i < row->n_resources; i++) {
        const struct node_resource *from = &row->resources[i];
        if (!(from->amount >= 0 && from->amount < 1e14)) /* nor NaN */
            continue;
        struct node_view_resource *r = &out->resources[out->n_resources++];
        COPY(r->name, from->name);
        r->total = r->available = (int64_t)(from->amount * NODE_RESOURCE_UNIT + 0.5);
    }
}

void *node_sync_ask(const struct node_view *self,
                    uint64_t report,
                    uint64_t incarnation,
                    uint64_t version,
                    bool at_once,
                    size_t *size)
{
    Ray__C__NodeSyncRequest m = RAY__C__NODE_SYNC_REQUEST__INIT;
    struct packing p;

    fill(&p, self);
    m.self = &p.m;
    m.report = report;
    m.incarnation = incarnation;
    m.version = version;
    m.at_once = at_once;
    void *bytes = xmalloc(ray__c__node_sync_request__get_packed_size(&m) + 1);
    *size = ray__c__node_sync_request__pack(&m, bytes);
    return bytes;
}

int node_sync_take(const void *bytes,
                   size_t size,
                   void (*view)(void *arg, const struct node_view *v),
                   void (*question)(void *arg, const struct node_question *q),
                   void *arg,
                   struct node_sync_answer *out)
{
    Ray__C__NodeSyncReply *m = ray__c__node_sync_reply__unpack(NULL, size, bytes);
    struct node_view v;
    int rc = 0;

    if (m == NULL)
        return -1;
    *out = (struct node_sync_answer){.incarnation = m->incarnation,
                                     .version = m->version,
                                     .has_more = m->has_more,
                                     .is_unknown = m->is_unknown};
    COPY(out->death, m->death);
    for (size_t i = 0; rc == 0 && i < m->n_nodes; i++) {
        rc = node_view_unpack(m->nodes[i].data, m->nodes[i].len, &v);
        if (rc == 0)
            view(arg, &v);
    }
    for (size_t i = 0; rc == 0 && i < m->n_questions; i++)
        question(arg,
                 &(struct node_question){.number = m->questions[i]->number,
                                         .method = m->questions[i]->method,
                                         .request = m->questions[i]->request.data,
                                         .size = m->questions[i]->request.len});
    ray__c__node_sync_reply__free_unpacked(m, NULL);
    return rc;
}
