/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_NODE_VIEW_CODEC_H
#define GCS_NODE_VIEW_CODEC_H
/*
 * Views of nodes, and what raylet and GCS say in NodeSync, as messages of proto/gcs_link.proto.
 * What is too long is cut, what is unknown is lost; nothing foreign trips it.
 */
#include <stddef.h>

#include "gcs/node_table.h"
#include "gcs/node_view.h"

struct Ray__C__NodeView;

/* The bytes, to be freed. */
void *node_view_pack(const struct node_view *v, size_t *size);
/* -1: no view. */
int node_view_unpack(const void *bytes, size_t size, struct node_view *out);
/* -1: its id is none. */
int node_view_of_message(const struct Ray__C__NodeView *m, struct node_view *out);
/* Of a row: all that there is of each resource is available. */
void node_view_of_row(const struct node_row *row, struct node_view *out);

/* A request; the bytes, to be freed. */
void *node_sync_ask(const struct node_view *self,
                    uint64_t report,
                    uint64_t incarnation,
                    uint64_t version,
                    bool at_once,
                    size_t *size);

struct node_sync_answer {
    uint64_t incarnation, version;
    bool has_more, is_unknown;
    char death[160]; /* "": it lives */
};
/* Fills out, then gives its views, then its questions, one by one, before it returns. -1: no
 * answer; it may have begun. */
int node_sync_take(const void *bytes,
                   size_t size,
                   void (*view)(void *arg, const struct node_view *v),
                   void (*question)(void *arg, const struct node_question *q),
                   void *arg,
                   struct node_sync_answer *out);

#endif /* GCS_NODE_VIEW_CODEC_H */
