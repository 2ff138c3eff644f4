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
#define QUERY_SUBSCRIBE   "/ray.rpc.ControlPlanePubSubGcsService/GcsSubscriberCommandBatch"
#define QUERY_POLL        "/ray.rpc.ControlPlanePubSubGcsService/GcsSubscriberPoll"

#define QUERY_ASK_NODE "/ray.c.GcsLink/AskNode"

/* All but the last four are asked with no bytes. */
/* To be freed. death: why the node ends, a sentence; "": it says good-bye itself. */
void *query_unregister(const struct unique_id *node, const char *death, size_t *size);

/* What the node's own port would answer to that method: so does the GCS. To be freed. */
void *query_ask_node(const struct unique_id *node,
                     const char *method,
                     const void *request,
                     size_t request_size,
                     size_t *size);

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

/* Who hears of changes, and what it has heard. Before it subscribes it polls, to know whom: nothing
 * that the GCS tells in between, or a GCS that starts in between, is missed then. */
enum query_channel { QUERY_CHANNEL_JOBS = 3, QUERY_CHANNEL_NODES = 4 };
struct query_subscriber {
    struct unique_id id;
    struct unique_id publisher; /* all 0: not known */
    int64_t heard;
    uint64_t n_dropped; /* what came too fast for it */
};
/* To be freed. */
void *query_subscribe(const struct query_subscriber *s, enum query_channel channel, size_t *size);
void *query_poll(const struct query_subscriber *s, size_t *size);
/* The nodes or jobs of an answer, one of the two; rows as above, and *s as it is then. */
int query_news_of(const void *bytes,
                  size_t size,
                  struct query_subscriber *s,
                  struct node_row **nodes,
                  size_t *n_nodes,
                  struct query_job **jobs,
                  size_t *n_jobs,
                  struct err *err);
int query_cluster_of(const void *bytes, size_t size, struct unique_id *out, struct err *err);

#endif /* GCS_QUERY_CODEC_H */
