/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_CLIENT_CODEC_H
#define GCS_CLIENT_CODEC_H
/*
 * What a raylet asks of gcs_server, as messages of proto/: requests are bytes to be freed, replies
 * are taken apart, -1 if they are none.
 */
#include "gcs/client.h"

void *client_pack_register(const struct node_row *row, size_t *size);
int client_take_registered(const void *bytes, size_t size, uint32_t *number);
int client_take_next_job(const void *bytes, size_t size, uint32_t *job);
void *client_pack_add_job(uint32_t job, const struct job_row *row, size_t *size);
void *client_pack_end_job(uint32_t job, size_t *size);
void *client_pack_take_processes(const struct unique_id *node, uint32_t n, size_t *size);
int client_take_processes(const void *bytes, size_t size, uint32_t *first, uint32_t *n);
void *client_pack_locate(uint32_t process, size_t *size);
int client_take_located(const void *bytes,
                        size_t size,
                        struct unique_id *node,
                        uint32_t *number,
                        bool *is_dead);
void *client_pack_answer(const struct unique_id *node,
                         uint64_t question,
                         const void *reply,
                         size_t reply_size,
                         const char *refusal,
                         size_t *size);

#endif /* GCS_CLIENT_CODEC_H */
