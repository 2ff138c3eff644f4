/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/client_codec.h"

#include <stdlib.h>
#include <string.h>

#include "gcs/job_codec.h"
#include "gcs/node_codec.h"
#include "lib/base/alloc.h"
#include "proto/gcs.pb-c.h"
#include "proto/gcs_link.pb-c.h"

static void *packed(const ProtobufCMessage *m, size_t *size)
{
    void *bytes = xmalloc(protobuf_c_message_get_packed_size(m) + 1);

    *size = protobuf_c_message_pack(m, bytes);
    return bytes;
}

void *client_pack_register(const struct node_row *row, size_t *size)
{
    Ray__Rpc__RegisterNodeRequest m = RAY__RPC__REGISTER_NODE_REQUEST__INIT;
    void *info = node_row_pack(row, size);

    m.node_info = ray__rpc__gcs_node_info__unpack(NULL, *size, info);
    free(info);
    void *bytes = packed(&m.base, size);
    ray__rpc__gcs_node_info__free_unpacked(m.node_info, NULL);
    return bytes;
}

int client_take_registered(const void *bytes, size_t size, uint32_t *number)
{
    Ray__Rpc__RegisterNodeReply *m = ray__rpc__register_node_reply__unpack(NULL, size, bytes);
    int rc = m != NULL && m->number > 0 && m->number < JOB_PROCESSES_MAX ? 0 : -1;

    if (rc == 0)
        *number = m->number;
    ray__rpc__register_node_reply__free_unpacked(m, NULL);
    return rc;
}

int client_take_next_job(const void *bytes, size_t size, uint32_t *job)
{
    Ray__Rpc__GetNextJobIDReply *m = ray__rpc__get_next_job_idreply__unpack(NULL, size, bytes);
    int rc = m != NULL && m->job_id != 0 && m->job_id != -1 ? 0 : -1;

    if (rc == 0)
        *job = (uint32_t)m->job_id;
    ray__rpc__get_next_job_idreply__free_unpacked(m, NULL);
    return rc;
}

void *client_pack_add_job(uint32_t job, const struct job_row *row, size_t *size)
{
    Ray__Rpc__AddJobRequest m = RAY__RPC__ADD_JOB_REQUEST__INIT;
    void *data = job_row_pack(job, row, size);

    m.data = ray__rpc__job_table_data__unpack(NULL, *size, data);
    free(data);
    void *bytes = packed(&m.base, size);
    ray__rpc__job_table_data__free_unpacked(m.data, NULL);
    return bytes;
}

void *client_pack_end_job(uint32_t job, size_t *size)
{
    Ray__Rpc__MarkJobFinishedRequest m = RAY__RPC__MARK_JOB_FINISHED_REQUEST__INIT;
    uint8_t id[4];

    job_id_bytes(job, id);
    m.job_id = (ProtobufCBinaryData){sizeof id, id};
    return packed(&m.base, size);
}

void *client_pack_take_processes(const struct unique_id *node, uint32_t n, size_t *size)
{
    struct unique_id id = *node; /* messages point to what they could change */
    Ray__C__TakeProcessesRequest m = RAY__C__TAKE_PROCESSES_REQUEST__INIT;

    m.n = n;
    m.node_id = (ProtobufCBinaryData){sizeof id.bytes, id.bytes};
    return packed(&m.base, size);
}

int client_take_processes(const void *bytes, size_t size, uint32_t *first, uint32_t *n)
{
    Ray__C__TakeProcessesReply *m = ray__c__take_processes_reply__unpack(NULL, size, bytes);
    int rc = m != NULL && m->first > 0 && m->n > 0 && m->first < JOB_PROCESSES_MAX
                     && m->n <= JOB_PROCESSES_MAX - m->first
                 ? 0
                 : -1;

    if (rc == 0) {
        *first = m->first;
        *n = m->n;
    }
    ray__c__take_processes_reply__free_unpacked(m, NULL);
    return rc;
}

void *client_pack_locate(uint32_t process, size_t *size)
{
    Ray__C__LocateRequest m = RAY__C__LOCATE_REQUEST__INIT;

    m.process = process;
    return packed(&m.base, size);
}

int client_take_located(const void *bytes,
                        size_t size,
                        struct unique_id *node,
                        uint32_t *number,
                        bool *is_dead)
{
    Ray__C__LocateReply *m = ray__c__locate_reply__unpack(NULL, size, bytes);
    int rc = m != NULL && m->node_id.len == sizeof node->bytes ? 0 : -1;

    if (rc == 0) {
        memcpy(node->bytes, m->node_id.data, sizeof node->bytes);
        *number = m->node_number;
        *is_dead = m->death[0] != '\0';
    }
    ray__c__locate_reply__free_unpacked(m, NULL);
    return rc;
}

void *client_pack_answer(const struct unique_id *node,
                         uint64_t question,
                         const void *reply,
                         size_t reply_size,
                         const char *refusal,
                         size_t *size)
{
    struct unique_id id = *node;
    Ray__C__AnswerRequest m = RAY__C__ANSWER_REQUEST__INIT;

    m.number = question;
    m.node_id = (ProtobufCBinaryData){sizeof id.bytes, id.bytes};
    if (refusal != NULL)
        m.refusal = (char *)(uintptr_t)refusal;
    else
        m.reply = (ProtobufCBinaryData){reply_size, (uint8_t *)(uintptr_t)reply};
    return packed(&m.base, size);
}
