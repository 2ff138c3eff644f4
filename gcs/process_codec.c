/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/process_codec.h"

#include <string.h>

#include "lib/base/alloc.h"
#include "proto/gcs_link.pb-c.h"

void *process_block_pack(const struct process_block *block, size_t *size)
{
    struct process_block b = *block; /* messages point to what they could change */
    Ray__C__ProcessBlock m = RAY__C__PROCESS_BLOCK__INIT;

    m.first = b.first;
    m.n = b.n;
    m.node_id = (ProtobufCBinaryData){sizeof b.node.bytes, b.node.bytes};
    m.node_number = b.node_number;
    void *bytes = xmalloc(ray__c__process_block__get_packed_size(&m) + 1);
    *size = ray__c__process_block__pack(&m, bytes);
    return bytes;
}

int process_block_unpack(const void *bytes, size_t size, struct process_block *out)
{
    Ray__C__ProcessBlock *m = ray__c__process_block__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    struct process_block b = {.first = m->first, .n = m->n, .node_number = m->node_number};
    int rc = b.n > 0 && m->node_id.len == sizeof b.node.bytes ? 0 : -1;
    if (rc == 0) {
        memcpy(b.node.bytes, m->node_id.data, sizeof b.node.bytes);
        *out = b;
    }
    ray__c__process_block__free_unpacked(m, NULL);
    return rc;
}
