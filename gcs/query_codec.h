/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_QUERY_CODEC_H
#define GCS_QUERY_CODEC_H
/*
 * What commands ask the GCS: requests made, replies taken apart. Nothing foreign trips it.
 */
#include <stdbool.h>

#include "gcs/job_table.h"
#include "gcs/node_table.h"

#define QUERY_NODES       "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
#define QUERY_JOBS        "/ray.rpc.JobInfoGcsService/GetAllJobInfo"
#define QUERY_CHECK_ALIVE "/ray.rpc.NodeInfoGcsService/CheckAlive"
#define QUERY_CLUSTER     "/ray.rpc.NodeInfoGcsService/GetClusterId"
#define QUERY_AVAILABLE   "/ray.rpc.NodeResourceInfoGcsService/GetAllAvailableResources"
#define QUERY_UNREGISTER  "/ray.rpc.NodeInfoGcsService/UnregisterNode"

/* All but the last are asked with no bytes. */
void *query_unregister(const struct unique_id *node, size_t *size); /* to be freed */

struct query_job {
    uint32_t number;
    struct job_row row;
};

/* Rows in memory of the caller's; -1: no such reply, or it says a failure. */
int query_nodes_of(const void *bytes,
                   size_t size,
                   struct node_row **rows,
                   size_t *n,
                   struct err *err);
int query_jobs_of(const void *bytes,
                  size_t size,
                  struct query_job **rows,
                  size_t *n,
                  struct err *err);
/* The amounts of a row's resources become what is free of them; of nodes that are not told, none.
 */
int query_available_of(const void *bytes,
                       size_t size,
                       struct node_row *rows,
                       size_t n,
                       struct err *err);
int query_cluster_of(const void *bytes, size_t size, struct unique_id *out, struct err *err);

#endif /* GCS_QUERY_CODEC_H */
