/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_SERVER_PRIVATE_H
#define GCS_SERVER_PRIVATE_H
/*
 * What the services (*_rpc.c) share: for them and server.c only.
 */
#include "gcs/job_table.h"
#include "gcs/node_sync.h"
#include "gcs/node_table.h"
#include "gcs/server.h"
#include "lib/net/rpc_server.h"

struct gcs_server {
    unsigned magic;
    struct gcs_server_config config;
    struct rpc_bridge *bridge;
    struct rpc_server *rpc;
    struct store *store;
    bool is_ready, is_loading, is_redis;
    bool is_forgetting; /* node_death.c: a dead node's rows are being removed */
    struct unique_id cluster;
    uint64_t incarnation;
    /* node_sync_rpc.c */
    struct node_sync *sync;
    struct list held; /* NodeSync calls that wait for news, the oldest first */
    struct loop_timer *tick, *flush;
    uint64_t flushed_ms, next_flush_ms;
    struct gcs_pubsub *pubsub; /* pubsub_rpc.c */
    struct list questions;     /* question_rpc.c: not answered yet, the oldest first */
    uint64_t last_question;
    unsigned n_questions;
};

/* A call that waits for the store. */
struct asking {
    struct gcs_server *server;
    struct rpc_call *call;
};

extern const struct rpc_method gcs_node_methods[], gcs_job_methods[], gcs_kv_methods[],
    gcs_link_methods[], gcs_sync_methods[], gcs_resource_methods[], gcs_question_methods[];

struct asking *asking(struct gcs_server *g, struct rpc_call *call);
/* Fail the call as the store said, with its reason; what names the thing in the sentence. */
void gcs_fail(struct gcs_server *g, struct rpc_call *call, enum err_code code, const char *what);
uint64_t gcs_wall_ms(void);

/* --- node_sync_rpc.c --- */
void gcs_sync_init(struct gcs_server *g);
/* Held calls fail. After gcs_sync_init only. */
void gcs_sync_fini(struct gcs_server *g);
/* Of the id that a message has, any bytes; NULL: no such node is registered. */
struct node_sync_row *gcs_sync_find(const struct gcs_server *g, const void *id, size_t size);
/* A question waits for that node: its held call, if there is one, goes home with it. */
void gcs_sync_wake(struct gcs_server *g, struct node_sync_row *row);
/* From now on silence counts. */
void gcs_sync_start(struct gcs_server *g);
/* A node's row, durable: found at the start, or registered, which is news. */
void gcs_sync_add(struct gcs_server *g, const struct node_row *row);
/* Its death is durable: others are told, and it. False: they were. */
bool gcs_sync_set_dead(struct gcs_server *g, const struct unique_id *id, const char *why);

/* --- pubsub_rpc.c --- */
/* Its methods too. -1: no random bytes for the publisher's id. */
int gcs_pubsub_init(struct gcs_server *g, struct err *err);
/* Held polls fail. Fine without gcs_pubsub_init. */
void gcs_pubsub_fini(struct gcs_server *g);
/* At each turn's end: what was published in it is told. */
void gcs_pubsub_flush(struct gcs_server *g);
/* Rows that are durable (INV-36), each to be told once; a job's twice, as it begins and ends. */
void gcs_pubsub_tell_node(struct gcs_server *g, const struct node_row *row);
void gcs_pubsub_tell_job(struct gcs_server *g, uint32_t job, const struct job_row *row);
/* It runs, and that was told, by a former GCS. */
void gcs_pubsub_know_job(struct gcs_server *g, uint32_t job);

/* --- question_rpc.c --- */
struct Ray__C__Question;
void gcs_questions_init(struct gcs_server *g);
/* Whether there are some that the node has not been told. */
bool gcs_questions_wait(const struct gcs_server *g, const struct unique_id *node);
/* Up to max of those, which are told now; what they point to is good for this turn. How many. */
size_t gcs_questions_tell(struct gcs_server *g,
                          const struct unique_id *node,
                          struct Ray__C__Question *out,
                          size_t max);
/* The node does not answer any more, none does if NULL: those who asked are told why. */
void gcs_questions_end(struct gcs_server *g, const struct unique_id *node, const char *why);

/* --- node_death.c --- */
/* The node dies, for good: durable first, then told to the others, and jobs whose driver was there
 * end. One that is dead is fine; ERR_NOT_FOUND: there is none. */
void gcs_bury_node(struct gcs_server *g,
                   const struct unique_id *id,
                   const char *why,
                   store_done_f done,
                   void *arg);
/* Dead ones beyond config.dead_nodes are forgotten, the oldest first, one after the other. */
void gcs_forget_nodes(struct gcs_server *g);
/* A node without a row here may be one whose row is lost. */
bool gcs_may_return(const struct gcs_server *g);
/* Jobs that a former GCS did not come to end: their driver's node is dead. */
void gcs_end_jobs_of_dead(struct gcs_server *g);

#endif /* GCS_SERVER_PRIVATE_H */
