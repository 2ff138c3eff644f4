/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_PROCESS_CODEC_H
#define GCS_PROCESS_CODEC_H
/*
 * The row of a block of process numbers as bytes of proto/gcs_link.proto.
 */
#include "gcs/process_table.h"

/* The bytes, to be freed. */
void *process_block_pack(const struct process_block *block, size_t *size);
/* -1: no row. */
int process_block_unpack(const void *bytes, size_t size, struct process_block *out);

#endif /* GCS_PROCESS_CODEC_H */
