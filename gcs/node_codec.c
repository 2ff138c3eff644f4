/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/node_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/utf8.h"
#include "proto/gcs.pb-c.h"

#define LABELS_MAX     64
#define COPY(to, from) snprintf(to, sizeof(to), "%s", (from) != NULL ? (from) : "")

/* Those that fit and are labels. */
static void take_labels(const struct Ray__Rpc__GcsNodeInfo *m, char *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < m->n_labels && i < LABELS_MAX; i++) {
        const char *key = m->labels[i]->key, *value = m->labels[i]->value;
        size_t more = strlen(key) + strlen(value) + 2;
        if (key[0] == '\0' || strpbrk(key, "=,") != NULL || strchr(value, ',') != NULL
            || n + more > size)
            continue;
        n += (size_t)snprintf(out + n, size - n, "%s%s=%s", n > 0 ? "," : "", key, value);
    }
}

int node_row_of_message(const struct Ray__Rpc__GcsNodeInfo *m, struct node_row *out)
{
    struct node_row row = {.state = m->state == RAY__RPC__GCS_NODE_INFO__GCS_NODE_STATE__ALIVE
                                        ? NODE_ALIVE
                                        : NODE_DEAD,
                           .number = m->number,
                           .pid = m->pid,
                           .start_ms = m->start_time_ms,
                           .end_ms = m->end_time_ms,
                           .node_port = m->node_manager_port,
                           .object_port = m->object_manager_port,
                           .is_head = m->is_head_node ? 1 : 0,
                           .is_driver = m->is_driver ? 1 : 0};

    if (m->node_id.len != sizeof row.id.bytes)
        return -1;
    memcpy(row.id.bytes, m->node_id.data, sizeof row.id.bytes);
    COPY(row.name, m->node_name);
    COPY(row.address, m->node_manager_address);
    COPY(row.hostname, m->node_manager_hostname);
    COPY(row.socket, m->raylet_socket_name);
    COPY(row.death, m->death);
    for (size_t i = 0; i < m->n_resources_total && row.n_resources < NODE_RESOURCES_MAX; i++) {
        const Ray__Rpc__GcsNodeInfo__ResourcesTotalEntry *e = m->resources_total[i];
        struct node_resource *r = &row.resources[row.n_resources++];
        COPY(r->name, e->key);
        r->amount = e->value;
        if (strcmp(r->name, "CPU") == 0 && e->value >= 0 && e->value < 1e6)
            row.n_cpus = (uint32_t)e->value;
    }
    take_labels(m, row.labels, sizeof row.labels);
    *out = row;
    return 0;
}

typedef Ray__Rpc__GcsNodeInfo__LabelsEntry label_entry;

/* Takes the text apart. */
static size_t list_labels(char *text, label_entry *entries, label_entry **list)
{
    size_t n = 0;
    char *rest = NULL;

    for (char *w = strtok_r(text, ",", &rest); w != NULL; w = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(w, '=');
        if (value == NULL || n == LABELS_MAX)
            continue;
        *value++ = '\0';
        ray__rpc__gcs_node_info__labels_entry__init(&entries[n]);
        entries[n].key = w;
        entries[n].value = value;
        list[n] = &entries[n];
        n++;
    }
    return n;
}

void *node_row_pack(const struct node_row *row, size_t *size)
{
    struct node_row r = *row; /* messages point to what they could change */
    Ray__Rpc__GcsNodeInfo m = RAY__RPC__GCS_NODE_INFO__INIT;
    Ray__Rpc__GcsNodeInfo__ResourcesTotalEntry entries[NODE_RESOURCES_MAX + 1];
    Ray__Rpc__GcsNodeInfo__ResourcesTotalEntry *list[NODE_RESOURCES_MAX + 1];
    label_entry labels[LABELS_MAX], *label_list[LABELS_MAX];
    static char cpu[] = "CPU";
    bool has_cpu = false;

    char *const texts[] = {r.name, r.address, r.hostname, r.socket, r.death, r.labels};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        utf8_clean(texts[i]);
    for (uint32_t i = 0; i < r.n_resources; i++)
        utf8_clean(r.resources[i].name);
    m.node_id = (ProtobufCBinaryData){sizeof r.id.bytes, r.id.bytes};
    m.state = r.state == NODE_ALIVE ? RAY__RPC__GCS_NODE_INFO__GCS_NODE_STATE__ALIVE
                                    : RAY__RPC__GCS_NODE_INFO__GCS_NODE_STATE__DEAD;
    m.number = r.number;
    m.pid = r.pid;
    m.start_time_ms = r.start_ms;
    m.end_time_ms = r.end_ms;
    m.node_name = r.name;
    m.node_manager_address = r.address;
    m.node_manager_hostname = r.hostname;
    m.raylet_socket_name = r.socket;
    m.node_manager_port = r.node_port;
    m.object_manager_port = r.object_port;
    m.is_head_node = r.is_head != 0;
    m.is_driver = r.is_driver != 0;
    m.death = r.death;
    m.resources_total = list;
    for (uint32_t i = 0; i < r.n_resources; i++) {
        ray__rpc__gcs_node_info__resources_total_entry__init(&entries[i]);
        entries[i].key = r.resources[i].name;
        entries[i].value = r.resources[i].amount;
        list[m.n_resources_total++] = &entries[i];
        has_cpu = has_cpu || strcmp(r.resources[i].name, cpu) == 0;
    }
    if (!has_cpu && r.n_cpus > 0) {
        size_t i = m.n_resources_total;
        ray__rpc__gcs_node_info__resources_total_entry__init(&entries[i]);
        entries[i].key = cpu;
        entries[i].value = r.n_cpus;
        list[m.n_resources_total++] = &entries[i];
    }
    m.n_labels = list_labels(r.labels, labels, label_list);
    m.labels = label_list;
    void *bytes = xmalloc(ray__rpc__gcs_node_info__get_packed_size(&m) + 1);
    *size = ray__rpc__gcs_node_info__pack(&m, bytes);
    return bytes;
}

int node_row_unpack(const void *bytes, size_t size, struct node_row *out)
{
    Ray__Rpc__GcsNodeInfo *m = ray__rpc__gcs_node_info__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    int rc = node_row_of_message(m, out);
    ray__rpc__gcs_node_info__free_unpacked(m, NULL);
    return rc;
}
