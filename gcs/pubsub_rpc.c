/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Publish and subscribe, Ray's two services: what the GCS tells of its rows, and what callers tell
 * each other (errors, logs). Each service has its own subscribers, queues and bounds, so that a
 * flood of logs takes no node's death away; a client may poll both under one id. Nothing here
 * outlives the process: the next GCS has another publisher id, and who sees that subscribes again,
 * then reads the tables.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/job_codec.h"
#include "gcs/message_codec.h"
#include "gcs/node_codec.h"
#include "gcs/pubsub.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "proto/gcs.pb-c.h"

#define N_SUBSCRIBERS   4096
#define N_SUBSCRIPTIONS (1u << 18)
#define TOTAL_BYTES     (256u << 20)
#define REPLY_MESSAGES  5000 /* Ray's */
#define REPLY_BYTES     (2u << 20)
#define QUEUE_BYTES     (16u << 20) /* and the time of a subscriber, if nobody says another */
#define TIMEOUT_MS      300000

struct hub {
    struct gcs_server *server;
    struct pubsub *pubsub;
    const char *service;
    uint64_t n_drops_logged, n_forgotten_logged;
};

struct gcs_pubsub {
    struct unique_id publisher;
    struct hub control, observability;
    struct loop_timer *tick;
    uint32_t *jobs; /* that run, as was told, by number */
    size_t n_jobs;
};

/* A poll that is held. */
struct held {
    struct hub *hub;
    struct rpc_call *call;
    struct unique_id subscriber;
};

/* --- channels --- */

static const struct channel {
    const char *name;
    const ProtobufCMessageDescriptor *kind; /* of what is published there; NULL: nothing is, yet */
    bool is_control;                        /* else of the other service, where callers publish */
} channels[PUBSUB_CHANNELS] = {
    [RAY__RPC__CHANNEL_TYPE__GCS_ACTOR_CHANNEL] = {"GCS_ACTOR_CHANNEL", NULL, true},
    [RAY__RPC__CHANNEL_TYPE__GCS_JOB_CHANNEL] = {"GCS_JOB_CHANNEL",
                                                 &ray__rpc__job_table_data__descriptor,
                                                 true},
    [RAY__RPC__CHANNEL_TYPE__GCS_NODE_INFO_CHANNEL] = {"GCS_NODE_INFO_CHANNEL",
                                                       &ray__rpc__gcs_node_info__descriptor,
                                                       true},
    [RAY__RPC__CHANNEL_TYPE__GCS_WORKER_DELTA_CHANNEL] = {"GCS_WORKER_DELTA_CHANNEL", NULL, true},
    [RAY__RPC__CHANNEL_TYPE__RAY_ERROR_INFO_CHANNEL] = {"RAY_ERROR_INFO_CHANNEL",
                                                        &ray__rpc__error_table_data__descriptor,
                                                        false},
    [RAY__RPC__CHANNEL_TYPE__RAY_LOG_CHANNEL] = {"RAY_LOG_CHANNEL",
                                                 &ray__rpc__log_batch__descriptor,
                                                 false},
    [RAY__RPC__CHANNEL_TYPE__RAY_NODE_RESOURCE_USAGE_CHANNEL] =
        {"RAY_NODE_RESOURCE_USAGE_CHANNEL", &ray__rpc__node_resource_usage__descriptor, false},
    [RAY__RPC__CHANNEL_TYPE__GCS_NODE_ADDRESS_AND_LIVENESS_CHANNEL] =
        {"GCS_NODE_ADDRESS_AND_LIVENESS_CHANNEL", NULL, true},
};

/* Where a message of the channel is in a publication. */
static ProtobufCBinaryData *body_of(Ray__Rpc__PubMessage *m)
{
    switch (m->channel_type) {
    case RAY__RPC__CHANNEL_TYPE__GCS_JOB_CHANNEL:
        return &m->job_message;
    case RAY__RPC__CHANNEL_TYPE__GCS_NODE_INFO_CHANNEL:
        return &m->node_info_message;
    case RAY__RPC__CHANNEL_TYPE__RAY_ERROR_INFO_CHANNEL:
        return &m->error_info_message;
    case RAY__RPC__CHANNEL_TYPE__RAY_LOG_CHANNEL:
        return &m->log_batch_message;
    default:
        return &m->node_resource_usage_message;
    }
}

/* NULL: the service has no such channel, the call failed. */
static const struct channel *channel_of(const struct hub *h, struct rpc_call *call, int number)
{
    const struct channel *c =
        number >= 0 && number < PUBSUB_CHANNELS ? &channels[number] : &channels[0];

    if (c->name == NULL)
        rpc_call_fail(call, ERR_INVALID, "the GCS has no channel %d", number);
    else if (c->kind == NULL)
        rpc_call_fail(call, ERR_INVALID, "nothing is published on %s yet", c->name);
    else if (c->is_control != (h == &h->server->pubsub->control))
        rpc_call_fail(call, ERR_INVALID, "%s is no channel of %s", c->name, h->service);
    else
        return c;
    return NULL;
}

/* --- publish --- */

static int check_message(const struct hub *h, struct rpc_call *call, Ray__Rpc__PubMessage *m)
{
    const struct channel *c = channel_of(h, call, (int)m->channel_type);

    if (c == NULL)
        return -1;
    const ProtobufCBinaryData *body = body_of(m);
    if (c->is_control)
        rpc_call_fail(call, ERR_INVALID, "only the GCS publishes on %s", c->name);
    else if (body->len > PUBSUB_MESSAGE_MAX || m->key_id.len > PUBSUB_KEY_MAX)
        rpc_call_fail(call,
                      ERR_INVALID,
                      "a message has at most %u bytes and its key %d, not %zu and %zu",
                      PUBSUB_MESSAGE_MAX,
                      PUBSUB_KEY_MAX,
                      body->len,
                      m->key_id.len);
    else if (!message_is_sound(c->kind, body->data, body->len))
        rpc_call_fail(call,
                      ERR_INVALID,
                      "what was published on %s is no %s, or its text no UTF-8",
                      c->name,
                      c->kind->short_name);
    else
        return 0;
    return -1;
}

/* All, or none if one of them cannot be. */
static void on_publish(void *arg, struct rpc_call *call)
{
    struct hub *h = arg;
    Ray__Rpc__GcsPublishRequest *m = message_of(call, &ray__rpc__gcs_publish_request__descriptor);
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GcsPublishReply reply = RAY__RPC__GCS_PUBLISH_REPLY__INIT;
    size_t n = 0;

    if (m == NULL)
        return;
    while (n < m->n_pub_messages && check_message(h, call, m->pub_messages[n]) == 0)
        n++;
    if (n == m->n_pub_messages) {
        for (size_t i = 0; i < n; i++) {
            Ray__Rpc__PubMessage *one = m->pub_messages[i];
            const ProtobufCBinaryData *body = body_of(one);
            pubsub_publish(h->pubsub,
                           (unsigned)one->channel_type,
                           one->key_id.data,
                           one->key_id.len,
                           body->data,
                           body->len,
                           NULL);
        }
        reply.status = &fine;
        message_reply(call, &reply.base);
    }
    ray__rpc__gcs_publish_request__free_unpacked(m, NULL);
}

/* A publication like another, under the job's id in hex. */
static void on_report_job_error(void *arg, struct rpc_call *call)
{
    struct hub *h = arg;
    Ray__Rpc__ReportJobErrorRequest *m =
        message_of(call, &ray__rpc__report_job_error_request__descriptor);
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__ReportJobErrorReply reply = RAY__RPC__REPORT_JOB_ERROR_REPLY__INIT;
    Ray__Rpc__PubMessage one = RAY__RPC__PUB_MESSAGE__INIT;
    char key[ID_HEX_MAX];
    uint32_t job;

    if (m == NULL)
        return;
    const Ray__Rpc__ErrorTableData *e = m->job_error;
    if (e == NULL || job_id_of_bytes(e->job_id.data, e->job_id.len, &job) != 0) {
        rpc_call_fail(call, ERR_INVALID, "a job's id has four bytes, not all 0 or 0xff");
    } else {
        size_t size = ray__rpc__error_table_data__get_packed_size(e);
        uint8_t *bytes = xmalloc(size + 1);
        one.channel_type = RAY__RPC__CHANNEL_TYPE__RAY_ERROR_INFO_CHANNEL;
        one.error_info_message =
            (ProtobufCBinaryData){ray__rpc__error_table_data__pack(e, bytes), bytes};
        id_hex(e->job_id.data, e->job_id.len, key);
        if (check_message(h, call, &one) == 0) {
            pubsub_publish(h->pubsub,
                           RAY__RPC__CHANNEL_TYPE__RAY_ERROR_INFO_CHANNEL,
                           key,
                           strlen(key),
                           bytes,
                           size,
                           NULL);
            reply.status = &fine;
            message_reply(call, &reply.base);
        }
        free(bytes);
    }
    ray__rpc__report_job_error_request__free_unpacked(m, NULL);
}

/* --- subscribe --- */

static int subscriber_of(struct rpc_call *call,
                         const ProtobufCBinaryData *id,
                         struct unique_id *out)
{
    if (id->len == sizeof out->bytes) {
        memcpy(out->bytes, id->data, sizeof out->bytes);
        return 0;
    }
    rpc_call_fail(call, ERR_INVALID, "a subscriber's id has %d bytes", ID_UNIQUE_SIZE);
    return -1;
}

static int check_command(const struct hub *h, struct rpc_call *call, const Ray__Rpc__Command *c)
{
    if (channel_of(h, call, (int)c->channel_type) == NULL)
        return -1;
    if ((c->subscribe_message != NULL) != (c->unsubscribe_message != NULL)
        && c->key_id.len <= PUBSUB_KEY_MAX)
        return 0;
    rpc_call_fail(call,
                  ERR_INVALID,
                  "a command is to subscribe or to unsubscribe, to a key of at most %d bytes",
                  PUBSUB_KEY_MAX);
    return -1;
}

static int obey(struct hub *h,
                const struct unique_id *subscriber,
                const Ray__Rpc__Command *c,
                struct err *err)
{
    unsigned channel = (unsigned)c->channel_type;

    if (c->subscribe_message != NULL)
        return pubsub_subscribe(h->pubsub, subscriber, channel, c->key_id.data, c->key_id.len, err);
    pubsub_unsubscribe(h->pubsub, subscriber, channel, c->key_id.data, c->key_id.len);
    return 0;
}

/* None if one of them cannot be; if there is no room for one, those before it. */
static void on_commands(void *arg, struct rpc_call *call)
{
    struct hub *h = arg;
    Ray__Rpc__GcsSubscriberCommandBatchRequest *m =
        message_of(call, &ray__rpc__gcs_subscriber_command_batch_request__descriptor);
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GcsSubscriberCommandBatchReply reply =
        RAY__RPC__GCS_SUBSCRIBER_COMMAND_BATCH_REPLY__INIT;
    struct unique_id subscriber;
    struct err err;
    size_t n = 0;

    if (m == NULL)
        return;
    if (subscriber_of(call, &m->subscriber_id, &subscriber) != 0)
        goto out;
    for (; n < m->n_commands; n++)
        if (check_command(h, call, m->commands[n]) != 0)
            goto out;
    for (n = 0; n < m->n_commands; n++)
        if (obey(h, &subscriber, m->commands[n], &err) != 0) {
            rpc_call_fail(call, err.code, "subscribe: %s", err.text);
            goto out;
        }
    reply.status = &fine;
    message_reply(call, &reply.base);
out:
    ray__rpc__gcs_subscriber_command_batch_request__free_unpacked(m, NULL);
}

/* --- poll --- */

static void reply_news(const struct held *w, const struct pubsub_answer *a)
{
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GcsSubscriberPollReply reply = RAY__RPC__GCS_SUBSCRIBER_POLL_REPLY__INIT;
    struct unique_id publisher = w->hub->server->pubsub->publisher;
    Ray__Rpc__PubMessage *messages = xcalloc(a->n + 1, sizeof *messages);
    Ray__Rpc__PubMessage **list = xcalloc(a->n + 1, sizeof(Ray__Rpc__PubMessage *));

    for (size_t i = 0; i < a->n; i++) {
        const struct pubsub_message *from = &a->messages[i];
        Ray__Rpc__PubMessage *m = list[i] = &messages[i];
        ray__rpc__pub_message__init(m);
        m->channel_type = (Ray__Rpc__ChannelType)from->channel;
        m->key_id = (ProtobufCBinaryData){from->key_size, (uint8_t *)(uintptr_t)from->key};
        *body_of(m) = (ProtobufCBinaryData){from->size, (uint8_t *)(uintptr_t)from->bytes};
        m->sequence_id = (int64_t)from->sequence;
    }
    reply.status = &fine;
    reply.n_pub_messages = a->n;
    reply.pub_messages = list;
    reply.publisher_id = (ProtobufCBinaryData){sizeof publisher.bytes, publisher.bytes};
    reply.dropped = a->n_dropped;
    message_reply(w->call, &reply.base);
    free(messages);
    free(list);
}

static void on_answer(void *arg, void *poll, const struct pubsub_answer *a)
{
    struct held *w = poll;

    (void)arg;
    if (a != NULL)
        reply_news(w, a);
    else
        rpc_call_fail(w->call, ERR_CANCELED, "the GCS ends");
    free(w);
}

static void on_gone(void *arg, struct rpc_call *call)
{
    struct held *w = arg;
    struct unique_id subscriber = w->subscriber;

    (void)call;
    pubsub_hang_up(w->hub->pubsub, &subscriber, w);
}

static void on_poll(void *arg, struct rpc_call *call)
{
    struct hub *h = arg;
    Ray__Rpc__GcsSubscriberPollRequest *m =
        message_of(call, &ray__rpc__gcs_subscriber_poll_request__descriptor);
    struct unique_id subscriber;
    struct err err;

    if (m == NULL)
        return;
    if (subscriber_of(call, &m->subscriber_id, &subscriber) == 0) {
        struct held *w = xmalloc(sizeof *w);
        *w = (struct held){.hub = h, .call = call, .subscriber = subscriber};
        struct pubsub_poll poll = {.subscriber = subscriber,
                                   .publisher = m->publisher_id.data,
                                   .publisher_size = m->publisher_id.len,
                                   .heard = m->max_processed_sequence_id,
                                   .poll = w};
        if (pubsub_poll(h->pubsub, &poll, &err) == 0) {
            rpc_call_on_gone(call, on_gone, w);
        } else {
            rpc_call_fail(call, err.code, "%s", err.text);
            free(w);
        }
    }
    ray__rpc__gcs_subscriber_poll_request__free_unpacked(m, NULL);
}

/* --- what the GCS tells --- */

static void tell(struct gcs_server *g,
                 unsigned channel,
                 const void *key,
                 size_t key_size,
                 void *bytes,
                 size_t size)
{
    struct err err;

    if (pubsub_publish(g->pubsub->control.pubsub, channel, key, key_size, bytes, size, &err) != 0)
        log_err("gcs", "not_told", "channel=%u why=\"%s\"", channel, err.text);
    free(bytes);
}

void gcs_pubsub_tell_node(struct gcs_server *g, const struct node_row *row)
{
    size_t size;
    void *bytes = node_row_pack(row, &size);

    tell(g,
         RAY__RPC__CHANNEL_TYPE__GCS_NODE_INFO_CHANNEL,
         row->id.bytes,
         sizeof row->id.bytes,
         bytes,
         size);
}

/* Where it is among the jobs, or would be. */
static size_t place_of(const struct gcs_pubsub *s, uint32_t job)
{
    size_t low = 0, high = s->n_jobs;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->jobs[middle] < job)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_known(const struct gcs_pubsub *s, uint32_t job)
{
    size_t at = place_of(s, job);

    return at < s->n_jobs && s->jobs[at] == job;
}

void gcs_pubsub_know_job(struct gcs_server *g, uint32_t job)
{
    struct gcs_pubsub *s = g->pubsub;
    size_t at = place_of(s, job);

    if (is_known(s, job))
        return;
    if ((s->n_jobs & (s->n_jobs - 1)) == 0)
        s->jobs = xrealloc(s->jobs, 2 * (s->n_jobs + 1) * sizeof *s->jobs);
    memmove(&s->jobs[at + 1], &s->jobs[at], (s->n_jobs++ - at) * sizeof *s->jobs);
    s->jobs[at] = job;
}

static void forget_job(struct gcs_pubsub *s, uint32_t job)
{
    size_t at = place_of(s, job);

    memmove(&s->jobs[at], &s->jobs[at + 1], (--s->n_jobs - at) * sizeof *s->jobs);
}

/* Its row may be written again: by a caller whose first answer was lost, or by two who end it. */
void gcs_pubsub_tell_job(struct gcs_server *g, uint32_t job, const struct job_row *row)
{
    struct gcs_pubsub *s = g->pubsub;
    size_t size;
    uint8_t key[4];

    if ((row->end_ms == 0) == is_known(s, job))
        return;
    if (row->end_ms == 0)
        gcs_pubsub_know_job(g, job);
    else
        forget_job(s, job);
    void *bytes = job_row_pack(job, row, &size);
    job_id_bytes(job, key);
    tell(g, RAY__RPC__CHANNEL_TYPE__GCS_JOB_CHANNEL, key, sizeof key, bytes, size);
}

/* --- the whole --- */

void gcs_pubsub_flush(struct gcs_server *g)
{
    pubsub_flush(g->pubsub->control.pubsub);
    pubsub_flush(g->pubsub->observability.pubsub);
}

static void pass_time(struct hub *h)
{
    struct pubsub_stats stats;

    pubsub_on_time(h->pubsub, loop_now_ms());
    pubsub_stats(h->pubsub, &stats);
    if (stats.n_forgotten > h->n_forgotten_logged)
        log_info("gcs",
                 "subscribers_forgotten",
                 "service=%s n=%" PRIu64,
                 h->service,
                 stats.n_forgotten - h->n_forgotten_logged);
    h->n_forgotten_logged = stats.n_forgotten;
    if (stats.n_dropped == h->n_drops_logged || stats.n_dropped < 2 * h->n_drops_logged)
        return;
    h->n_drops_logged = stats.n_dropped;
    log_warn("gcs",
             "news_dropped",
             "service=%s n=%" PRIu64 " bytes=%zu subscribers=%zu",
             h->service,
             stats.n_dropped,
             stats.total_bytes,
             stats.n_subscribers);
}

static void on_tick(void *arg)
{
    struct gcs_pubsub *s = arg;

    pass_time(&s->control);
    pass_time(&s->observability);
}

static const struct rpc_method control_methods[] = {
    {"/ray.rpc.ControlPlanePubSubGcsService/GcsPublish", on_publish},
    {"/ray.rpc.ControlPlanePubSubGcsService/GcsSubscriberPoll", on_poll},
    {"/ray.rpc.ControlPlanePubSubGcsService/GcsSubscriberCommandBatch", on_commands},
    {NULL, NULL},
};

static const struct rpc_method observability_methods[] = {
    {"/ray.rpc.ObservabilityPubSubService/GcsPublish", on_publish},
    {"/ray.rpc.ObservabilityPubSubService/ReportJobError", on_report_job_error},
    {"/ray.rpc.ObservabilityPubSubService/GcsSubscriberPoll", on_poll},
    {"/ray.rpc.ObservabilityPubSubService/GcsSubscriberCommandBatch", on_commands},
    {NULL, NULL},
};

static uint64_t timeout_of(const struct gcs_server *g)
{
    return g->config.subscriber_timeout_ms > 0 ? g->config.subscriber_timeout_ms : TIMEOUT_MS;
}

static void init_hub(struct hub *h,
                     struct gcs_server *g,
                     const char *service,
                     const struct rpc_method *methods)
{
    const struct gcs_server_config *k = &g->config;
    const struct pubsub_limits limits = {
        .n_subscribers = N_SUBSCRIBERS,
        .n_subscriptions = N_SUBSCRIPTIONS,
        .queue_bytes = k->subscriber_bytes > 0 ? k->subscriber_bytes : QUEUE_BYTES,
        .total_bytes = TOTAL_BYTES,
        .reply_messages = REPLY_MESSAGES,
        .reply_bytes = REPLY_BYTES,
        .timeout_ms = timeout_of(g)};

    h->server = g;
    h->service = service;
    h->pubsub = pubsub_create(&limits, &g->pubsub->publisher, on_answer, NULL);
    rpc_server_add(g->rpc, methods, h);
}

int gcs_pubsub_init(struct gcs_server *g, struct err *err)
{
    struct gcs_pubsub *s = g->pubsub = xcalloc(1, sizeof *s);

    if (unique_id_random(&s->publisher) != 0)
        return err_sys(err, "get random bytes for the publisher's id");
    init_hub(&s->control, g, "ControlPlanePubSubGcsService", control_methods);
    init_hub(&s->observability, g, "ObservabilityPubSubService", observability_methods);
    s->tick = loop_every(g->config.loop, (uint32_t)(timeout_of(g) / 30 + 1), on_tick, s);
    return 0;
}

void gcs_pubsub_fini(struct gcs_server *g)
{
    struct gcs_pubsub *s = g->pubsub;

    if (s == NULL)
        return;
    loop_timer_end(s->tick);
    pubsub_destroy(s->control.pubsub);
    pubsub_destroy(s->observability.pubsub);
    free(s->jobs);
    free(s);
    g->pubsub = NULL;
}
