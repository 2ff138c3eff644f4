/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_CLIENT_SYNC_H
#define GCS_CLIENT_SYNC_H
/*
 * A raylet's NodeSync: one call after the other over the link, each a report that brings news;
 * while the GCS does not answer, by fresh connections and through other nodes. A part of
 * client_remote.c.
 */
#include "gcs/client.h"
#include "gcs/link.h"

#define CLIENT_SYNC_METHOD "/ray.c.GcsLink/NodeSync"

struct client_sync;

struct client_sync_config {
    struct loop *loop;     /* borrowed */
    struct gcs_link *link; /* borrowed; it is destroyed first */
    struct unique_id node;
    uint32_t number;
    void (*on_node)(void *arg, const struct node_view *v);
    void (*on_current)(void *arg); /* all that there was is told, once; may be NULL */
    void (*fill_self)(void *arg, struct node_view *self);
    void (*on_question)(void *arg, const struct node_question *q); /* may be NULL */
    /* The GCS has no row of this node: nothing is sent until client_sync_resume. */
    void (*on_unknown)(void *arg);
    /* This node was declared dead; nothing is sent any more. */
    void (*on_dead)(void *arg, const char *why);
    /* The GCS does not answer: other nodes are asked to send these bytes, and what they are
     * answered comes back by client_sync_take_passed. */
    void (*pass_on)(void *arg, const void *bytes, size_t size);
    void *arg;
};

struct client_sync *client_sync_create(const struct client_sync_config *config);
void client_sync_destroy(struct client_sync *s); /* NULL is fine */
/* It is to report soon. */
void client_sync_changed(struct client_sync *s);
/* Any bytes; a reply to a call of pass_on. */
void client_sync_take_passed(struct client_sync *s, const void *bytes, size_t size);
/* It answers here, so that others may be helped. */
bool client_sync_is_answered(const struct client_sync *s);
void client_sync_resume(struct client_sync *s);
/* No call from now on. */
void client_sync_stop(struct client_sync *s);

#endif /* GCS_CLIENT_SYNC_H */
