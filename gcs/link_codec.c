/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/link_codec.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "proto/gcs_link.pb-c.h"

void *hello_pack(const struct hello *h, size_t *size)
{
    struct unique_id cluster = h->cluster,
                     node = h->node; /* messages point to what they could change */
    Ray__C__HelloRequest m = RAY__C__HELLO_REQUEST__INIT;
    const struct held *held = &h->held;
    Ray__C__HeldJob *jobs = xcalloc(held->n_jobs + 1, sizeof *jobs);
    Ray__C__HeldJob **list = xcalloc(held->n_jobs + 1, sizeof *list);
    Ray__C__ProcessBlock *blocks = xcalloc(held->n_blocks + 1, sizeof *blocks);
    Ray__C__ProcessBlock **block_list = xcalloc(held->n_blocks + 1, sizeof *block_list);

    m.protocol = h->protocol;
    m.build = (char *)(uintptr_t)h->build;
    if (!unique_id_is_nil(&cluster))
        m.cluster_id = (ProtobufCBinaryData){sizeof cluster.bytes, cluster.bytes};
    m.node_id = (ProtobufCBinaryData){sizeof node.bytes, node.bytes};
    m.incarnation = h->incarnation;
    for (size_t i = 0; i < held->n_jobs; i++) {
        ray__c__held_job__init(&jobs[i]);
        jobs[i].job = held->jobs[i].job;
        jobs[i].processes = held->jobs[i].processes;
        list[i] = &jobs[i];
    }
    m.n_held = held->n_jobs;
    m.held = list;
    for (size_t i = 0; i < held->n_blocks; i++) {
        ray__c__process_block__init(&blocks[i]);
        blocks[i].first = held->blocks[i].first;
        blocks[i].n = held->blocks[i].n;
        blocks[i].node_number = held->node_number;
        block_list[i] = &blocks[i];
    }
    m.n_blocks = held->n_blocks;
    m.blocks = block_list;
    void *bytes = xmalloc(ray__c__hello_request__get_packed_size(&m) + 1);
    *size = ray__c__hello_request__pack(&m, bytes);
    free(block_list);
    free(blocks);
    free(list);
    free(jobs);
    return bytes;
}

int hello_reply_unpack(const void *bytes, size_t size, struct hello_reply *out)
{
    Ray__C__HelloReply *m = ray__c__hello_reply__unpack(NULL, size, bytes);
    struct hello_reply reply;

    if (m == NULL)
        return -1;
    reply = (struct hello_reply){.protocol = m->protocol,
                                 .incarnation = m->incarnation,
                                 .commit = m->commit};
    int rc = m->cluster_id.len == sizeof reply.cluster.bytes ? 0 : -1;
    if (rc == 0) {
        memcpy(reply.cluster.bytes, m->cluster_id.data, sizeof reply.cluster.bytes);
        *out = reply;
    }
    ray__c__hello_reply__free_unpacked(m, NULL);
    return rc;
}
