/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_JOB_CODEC_H
#define GCS_JOB_CODEC_H
/*
 * A job's row as bytes and as a message of proto/gcs.proto. What is too long for the row is cut,
 * what is unknown is lost; nothing foreign trips it.
 */
#include "gcs/job_table.h"

struct Ray__Rpc__JobTableData;

/* The bytes, to be freed. */
void *job_row_pack(uint32_t job, const struct job_row *row, size_t *size);
/* -1: no row. */
int job_row_unpack(const void *bytes, size_t size, uint32_t *job, struct job_row *out);
/* *job is 0 if the message names none; -1: its id is no job's. */
int job_row_of_message(const struct Ray__Rpc__JobTableData *m, uint32_t *job, struct job_row *out);
/* The four bytes of a JobID. */
void job_id_bytes(uint32_t job, uint8_t out[4]);
/* -1: not four bytes, or nil. */
int job_id_of_bytes(const void *bytes, size_t size, uint32_t *job);

#endif /* GCS_JOB_CODEC_H */
