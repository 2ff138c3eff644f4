/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_CLIENT_H
#define GCS_CLIENT_H
/*
 * What a raylet asks of the GCS. In a private cluster the tables are in this process, on a store in
 * memory; else they are gcs_server's, and a call that fails because that is away is made again,
 * with a growing pause, for ever. Each call completes once, not before it returns, on the loop
 * thread.
 */
#include "gcs/job_table.h"
#include "gcs/link_codec.h"
#include "gcs/node_table.h"
#include "gcs/node_view.h"
#include "lib/base/auth_token.h"
#include "lib/net/loop.h"

struct gcs_client;
struct rpc_bridge;

struct gcs_client_config {
    struct loop *loop;              /* borrowed */
    struct rpc_bridge *bridge;      /* borrowed */
    const char *address;            /* of the GCS, as rpc_client has it; borrowed */
    const struct auth_token *token; /* copied */
    struct unique_id cluster;       /* nil: the first that answers */
    struct unique_id node;
    uint64_t incarnation; /* of this raylet */
    /* The jobs and process numbers held now, borrowed until the next call; *out is zero. */
    void (*held)(void *arg, struct held *out);
    /* News of another node: as it is now, a dead one once. Comes when this node is registered. */
    void (*on_node)(void *arg, const struct node_view *v);
    /* All nodes that the GCS knew were told, once. May be NULL. */
    void (*on_current)(void *arg);
    /* Amounts, n_waiting and is_draining of this node, asked before each report. */
    void (*fill_self)(void *arg, struct node_view *self);
    /* The GCS does not answer: other nodes are to give these bytes to gcs_client_send_for, and what
     * they are told comes back by gcs_client_take_passed. May be NULL. */
    void (*pass_on)(void *arg, const void *bytes, size_t size);
    /* To be answered by gcs_client_answer, now or later. May be NULL: nobody is answered. */
    void (*on_question)(void *arg, const struct node_question *q);
    /* The cluster does not want this raylet, or not any more: ERR_DIED it was declared dead; else a
     * wrong token, another cluster or version. Once, a sentence; the raylet is to end. */
    void (*on_refused)(void *arg, const struct err *err);
    void *arg;
};

/* number: the node's, a process number of its own. */
typedef void (*gcs_number_f)(void *arg, enum err_code code, uint32_t number);
/* Of a process: its node's. ERR_NOT_FOUND: nobody was given this number. ERR_DIED: its node is
 * dead; node and number are set, or nil and 0 if it was forgotten. */
typedef void (*gcs_located_f)(void *arg,
                              enum err_code code,
                              const struct unique_id *node,
                              uint32_t node_number);

/* bytes: what the GCS said, until it returns; NULL: nothing. */
typedef void (*gcs_passed_f)(void *arg, const void *bytes, size_t size);

struct gcs_client *gcs_client_create_private(void);
struct gcs_client *gcs_client_create(const struct gcs_client_config *config);
/* What is open completes with ERR_CANCELED. NULL is fine. */
void gcs_client_destroy(struct gcs_client *c);
/* At each turn's end. */
void gcs_client_run(struct gcs_client *c);

/* Once, before what follows. ERR_EXISTS: this id is a dead node's, or another's. Reports and news
 * begin when it is done. row.number is given. */
void gcs_client_register_node(struct gcs_client *c,
                              const struct node_row *row,
                              gcs_number_f done,
                              void *arg);
/* This node leaves, for good; the others are told at once. No report follows. */
void gcs_client_unregister_node(struct gcs_client *c, store_done_f done, void *arg);
void gcs_client_add_job(struct gcs_client *c,
                        const struct job_row *row,
                        job_number_f done,
                        void *arg);
void gcs_client_end_job(struct gcs_client *c,
                        uint32_t job,
                        const struct job_row *row,
                        store_done_f done,
                        void *arg);
/* n numbers that are unique in all jobs, for processes of this node. */
void gcs_client_take_processes(struct gcs_client *c, uint32_t n, job_block_f done, void *arg);
void gcs_client_locate(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg);
/* What fill_self says is not what it said last: it is reported soon, at most each 100 ms. */
void gcs_client_changed(struct gcs_client *c);
/* Sends another node's report, any bytes, once and as they are. -1: the GCS does not answer here
 * either, done is not called. */
int gcs_client_send_for(struct gcs_client *c,
                        const void *bytes,
                        size_t size,
                        gcs_passed_f done,
                        void *arg);
/* What it said to a report of pass_on; any bytes. */
void gcs_client_take_passed(struct gcs_client *c, const void *bytes, size_t size);
/* What this node says to a question, once: the reply, or, if refusal is not NULL, why there is
 * none. Nobody is told whether somebody still waits for it. */
void gcs_client_answer(struct gcs_client *c,
                       uint64_t question,
                       const void *reply,
                       size_t size,
                       const char *refusal);
/* Nil: not known yet, or private. */
struct unique_id gcs_client_cluster(const struct gcs_client *c);

#endif /* GCS_CLIENT_H */
