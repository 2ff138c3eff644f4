/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/job_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/utf8.h"
#include "proto/gcs.pb-c.h"

#define COPY(to, from) snprintf(to, sizeof(to), "%s", (from) != NULL ? (from) : "")

void job_id_bytes(uint32_t job, uint8_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(job >> 8 * i);
}

int job_id_of_bytes(const void *bytes, size_t size, uint32_t *job)
{
    const uint8_t *b = bytes;

    if (size != 4)
        return -1;
    *job = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return *job == 0 || *job == UINT32_MAX ? -1 : 0;
}

int job_row_of_message(const struct Ray__Rpc__JobTableData *m, uint32_t *job, struct job_row *out)
{
    struct job_row row = {.start_ms = m->start_time,
                          .end_ms = m->end_time,
                          .driver_pid = (int32_t)m->driver_pid,
                          .node = m->node_number};

    *job = 0;
    if (m->job_id.len > 0 && job_id_of_bytes(m->job_id.data, m->job_id.len, job) != 0)
        return -1;
    if (m->is_dead && row.end_ms == 0)
        row.end_ms = row.start_ms;
    COPY(row.entry, m->entrypoint);
    COPY(row.driver_address, m->driver_ip_address);
    *out = row;
    return 0;
}

void *job_row_pack(uint32_t job, const struct job_row *row, size_t *size)
{
    struct job_row r = *row; /* messages point to what they could change */
    Ray__Rpc__JobTableData m = RAY__RPC__JOB_TABLE_DATA__INIT;
    uint8_t id[4];

    utf8_clean(r.entry);
    utf8_clean(r.driver_address);
    job_id_bytes(job, id);
    m.job_id = (ProtobufCBinaryData){sizeof id, id};
    m.is_dead = r.end_ms != 0;
    m.timestamp = (int64_t)(r.end_ms != 0 ? r.end_ms : r.start_ms) / 1000;
    m.driver_pid = r.driver_pid;
    m.node_number = r.node;
    m.start_time = r.start_ms;
    m.end_time = r.end_ms;
    m.entrypoint = r.entry;
    m.driver_ip_address = r.driver_address;
    void *bytes = xmalloc(ray__rpc__job_table_data__get_packed_size(&m) + 1);
    *size = ray__rpc__job_table_data__pack(&m, bytes);
    return bytes;
}

int job_row_unpack(const void *bytes, size_t size, uint32_t *job, struct job_row *out)
{
    Ray__Rpc__JobTableData *m = ray__rpc__job_table_data__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    int rc = job_row_of_message(m, job, out);
    ray__rpc__job_table_data__free_unpacked(m, NULL);
    return rc == 0 && *job != 0 ? 0 : -1;
}
