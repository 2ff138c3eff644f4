/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_CLIENT_PRIVATE_H
#define GCS_CLIENT_PRIVATE_H
/*
 * What the two clients share: client.c has the tables in this process, client_remote.c asks
 * gcs_server.
 */
#include "gcs/client.h"

struct gcs_client_ops {
    void (*destroy)(struct gcs_client *c);
    void (*run)(struct gcs_client *c);
    void (*register_node)(struct gcs_client *c,
                          const struct node_row *row,
                          gcs_number_f done,
                          void *arg);
    void (*unregister_node)(struct gcs_client *c, store_done_f done, void *arg);
    void (*add_job)(struct gcs_client *c, const struct job_row *row, job_number_f done, void *arg);
    void (*end_job)(struct gcs_client *c,
                    uint32_t job,
                    const struct job_row *row,
                    store_done_f done,
                    void *arg);
    void (*take_processes)(struct gcs_client *c, uint32_t n, job_block_f done, void *arg);
    void (*locate)(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg);
    void (*changed)(struct gcs_client *c);
    int (*send_for)(struct gcs_client *c,
                    const void *bytes,
                    size_t size,
                    gcs_passed_f done,
                    void *arg); /* NULL: there is no other node */
    void (*take_passed)(struct gcs_client *c, const void *bytes, size_t size);
    void (*answer)(struct gcs_client *c,
                   uint64_t question,
                   const void *reply,
                   size_t size,
                   const char *refusal); /* NULL: nobody asks */
    struct unique_id (*cluster)(const struct gcs_client *c);
};

/* First member of each. */
struct gcs_client {
    const struct gcs_client_ops *ops;
};

#endif /* GCS_CLIENT_PRIVATE_H */
