/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_NODE_CODEC_H
#define GCS_NODE_CODEC_H
/*
 * A node's row as bytes and as a message of proto/gcs.proto. What is too long for the row is cut,
 * what is unknown is lost; nothing foreign trips it.
 */
#include "gcs/node_table.h"

struct Ray__Rpc__GcsNodeInfo;

/* The bytes, to be freed. */
void *node_row_pack(const struct node_row *row, size_t *size);
/* -1: no row. */
int node_row_unpack(const void *bytes, size_t size, struct node_row *out);
/* -1: its id is none. */
int node_row_of_message(const struct Ray__Rpc__GcsNodeInfo *m, struct node_row *out);

#endif /* GCS_NODE_CODEC_H */
