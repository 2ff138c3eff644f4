/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/query_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/job_codec.h"
#include "gcs/node_codec.h"
#include "lib/base/alloc.h"
#include "lib/base/utf8.h"
#include "proto/gcs.pb-c.h"
#include "proto/gcs_link.pb-c.h"

void *query_unregister(const struct unique_id *node, const char *death, size_t *size)
{
    struct unique_id id = *node;
    char text[160];
    Ray__Rpc__UnregisterNodeRequest m = RAY__RPC__UNREGISTER_NODE_REQUEST__INIT;

    snprintf(text, sizeof text, "%s", death);
    utf8_clean(text);
    m.node_id = (ProtobufCBinaryData){sizeof id.bytes, id.bytes};
    m.death = text;
    *size = ray__rpc__unregister_node_request__get_packed_size(&m);
    void *bytes = xmalloc(*size + 1);
    ray__rpc__unregister_node_request__pack(&m, bytes);
    return bytes;
}

void *query_ask_node(const struct unique_id *node,
                     const char *method,
                     const void *request,
                     size_t request_size,
                     size_t *size)
{
    struct unique_id id = *node;
    Ray__C__AskNodeRequest m = RAY__C__ASK_NODE_REQUEST__INIT;

    m.node_id = (ProtobufCBinaryData){sizeof id.bytes, id.bytes};
    m.method = (char *)(uintptr_t)method;
    m.request = (ProtobufCBinaryData){request_size, (uint8_t *)(uintptr_t)request};
    *size = ray__c__ask_node_request__get_packed_size(&m);
    void *bytes = xmalloc(*size + 1);
    ray__c__ask_node_request__pack(&m, bytes);
    return bytes;
}

static int check_status(const Ray__Rpc__GcsStatus *s, struct err *err)
{
    if (s == NULL || s->code == 0)
        return 0;
    return err_set(err,
                   ERR_AWAY,
                   "the GCS says: %s",
                   s->message != NULL && s->message[0] != '\0' ? s->message : "it failed");
}

static int no_reply(struct err *err)
{
    return err_set(err, ERR_PROTOCOL, "what answers there is no GCS of Ray");
}

int query_nodes_of(const void *bytes,
                   size_t size,
                   struct node_row **rows,
                   size_t *n,
                   struct err *err)
{
    Ray__Rpc__GetAllNodeInfoReply *m = ray__rpc__get_all_node_info_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return no_reply(err);
    int rc = check_status(m->status, err);
    if (rc == 0) {
        *rows = xcalloc(m->n_node_info_list + 1, sizeof **rows);
        *n = 0;
        for (size_t i = 0; i < m->n_node_info_list; i++)
            if (node_row_of_message(m->node_info_list[i], &(*rows)[*n]) == 0)
                (*n)++;
    }
    ray__rpc__get_all_node_info_reply__free_unpacked(m, NULL);
    return rc;
}

int query_jobs_of(const void *bytes,
                  size_t size,
                  struct query_job **rows,
                  size_t *n,
                  struct err *err)
{
    Ray__Rpc__GetAllJobInfoReply *m = ray__rpc__get_all_job_info_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return no_reply(err);
    int rc = check_status(m->status, err);
    if (rc == 0) {
        *rows = xcalloc(m->n_job_info_list + 1, sizeof **rows);
        *n = 0;
        for (size_t i = 0; i < m->n_job_info_list; i++)
            if (job_row_of_message(m->job_info_list[i], &(*rows)[*n].number, &(*rows)[*n].row) == 0)
                (*n)++;
    }
    ray__rpc__get_all_job_info_reply__free_unpacked(m, NULL);
    return rc;
}

static void take_available(const Ray__Rpc__AvailableResources *m, struct node_row *row)
{
    for (size_t k = 0; k < m->n_resources_available; k++)
        for (uint32_t i = 0; i < row->n_resources; i++)
            if (strcmp(m->resources_available[k]->key, row->resources[i].name) == 0)
                row->resources[i].amount = m->resources_available[k]->value;
}

int query_available_of(const void *bytes,
                       size_t size,
                       struct node_row *rows,
                       size_t n,
                       struct err *err)
{
    Ray__Rpc__GetAllAvailableResourcesReply *m =
        ray__rpc__get_all_available_resources_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return no_reply(err);
    int rc = check_status(m->status, err);
    for (size_t i = 0; rc == 0 && i < n; i++)
        for (uint32_t k = 0; k < rows[i].n_resources; k++)
            rows[i].resources[k].amount = 0;
    for (size_t k = 0; rc == 0 && k < m->n_resources_list; k++)
        for (size_t i = 0; i < n; i++)
            if (m->resources_list[k]->node_id.len == sizeof rows[i].id.bytes
                && memcmp(m->resources_list[k]->node_id.data,
                          rows[i].id.bytes,
                          sizeof rows[i].id.bytes)
                       == 0)
                take_available(m->resources_list[k], &rows[i]);
    ray__rpc__get_all_available_resources_reply__free_unpacked(m, NULL);
    return rc;
}

/* --- changes --- */

void *query_subscribe(const struct query_subscriber *s, enum query_channel channel, size_t *size)
{
    struct unique_id id = s->id;
    Ray__Rpc__GcsSubscriberCommandBatchRequest m =
        RAY__RPC__GCS_SUBSCRIBER_COMMAND_BATCH_REQUEST__INIT;
    Ray__Rpc__Command command = RAY__RPC__COMMAND__INIT, *commands[] = {&command};
    Ray__Rpc__SubMessage subscribe = RAY__RPC__SUB_MESSAGE__INIT;

    command.channel_type = (Ray__Rpc__ChannelType)channel;
    command.subscribe_message = &subscribe;
    m.subscriber_id = (ProtobufCBinaryData){sizeof id.bytes, id.bytes};
    m.n_commands = 1;
    m.commands = commands;
    void *bytes = xmalloc(ray__rpc__gcs_subscriber_command_batch_request__get_packed_size(&m) + 1);
    *size = ray__rpc__gcs_subscriber_command_batch_request__pack(&m, bytes);
    return bytes;
}

void *query_poll(const struct query_subscriber *s, size_t *size)
{
    struct query_subscriber from = *s;
    Ray__Rpc__GcsSubscriberPollRequest m = RAY__RPC__GCS_SUBSCRIBER_POLL_REQUEST__INIT;

    m.subscriber_id = (ProtobufCBinaryData){sizeof from.id.bytes, from.id.bytes};
    m.publisher_id = (ProtobufCBinaryData){sizeof from.publisher.bytes, from.publisher.bytes};
    m.max_processed_sequence_id = from.heard;
    void *bytes = xmalloc(ray__rpc__gcs_subscriber_poll_request__get_packed_size(&m) + 1);
    *size = ray__rpc__gcs_subscriber_poll_request__pack(&m, bytes);
    return bytes;
}

static void take_node(const ProtobufCBinaryData *from, struct node_row *rows, size_t *n)
{
    if (from->len > 0 && node_row_unpack(from->data, from->len, &rows[*n]) == 0)
        (*n)++;
}

static void take_job(const ProtobufCBinaryData *from, struct query_job *rows, size_t *n)
{
    if (from->len > 0
        && job_row_unpack(from->data, from->len, &rows[*n].number, &rows[*n].row) == 0)
        (*n)++;
}

int query_news_of(const void *bytes,
                  size_t size,
                  struct query_subscriber *s,
                  struct node_row **nodes,
                  size_t *n_nodes,
                  struct query_job **jobs,
                  size_t *n_jobs,
                  struct err *err)
{
    Ray__Rpc__GcsSubscriberPollReply *m =
        ray__rpc__gcs_subscriber_poll_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return no_reply(err);
    int rc = check_status(m->status, err);
    if (rc == 0 && m->publisher_id.len != sizeof s->publisher.bytes)
        rc = no_reply(err);
    if (rc == 0) {
        *nodes = xcalloc(m->n_pub_messages + 1, sizeof **nodes);
        *jobs = xcalloc(m->n_pub_messages + 1, sizeof **jobs);
        *n_nodes = *n_jobs = 0;
        if (memcmp(s->publisher.bytes, m->publisher_id.data, sizeof s->publisher.bytes) != 0)
            s->heard = 0;
        memcpy(s->publisher.bytes, m->publisher_id.data, sizeof s->publisher.bytes);
        s->n_dropped = m->dropped;
        for (size_t i = 0; i < m->n_pub_messages; i++) {
            const Ray__Rpc__PubMessage *one = m->pub_messages[i];
            if (one->sequence_id <= s->heard)
                continue;
            s->heard = one->sequence_id;
            take_node(&one->node_info_message, *nodes, n_nodes);
            take_job(&one->job_message, *jobs, n_jobs);
        }
    }
    ray__rpc__gcs_subscriber_poll_reply__free_unpacked(m, NULL);
    return rc;
}

int query_cluster_of(const void *bytes, size_t size, struct unique_id *out, struct err *err)
{
    Ray__Rpc__GetClusterIdReply *m = ray__rpc__get_cluster_id_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return no_reply(err);
    int rc = check_status(m->status, err);
    if (rc == 0 && m->cluster_id.len != sizeof out->bytes)
        rc = no_reply(err);
    if (rc == 0)
        memcpy(out->bytes, m->cluster_id.data, sizeof out->bytes);
    ray__rpc__get_cluster_id_reply__free_unpacked(m, NULL);
    return rc;
}
