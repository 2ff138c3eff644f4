/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A call stands in `waiting` until the GCS is greeted, then it is with the
 * rpc_client. One that comes back because the GCS went away waits again while it has time. A reply
 * that names an incarnation which was not greeted takes the greeting back: that reply and all of
 * calls from before are not believed, since who answered did not know yet what is held here (it
 * may have given a number that is in use); they are sent again behind the next greeting. A tick
 * looks after times and greetings while anything waits.
 */
#include "gcs/link.h"

#include <stdlib.h>
#include <string.h>

#include "gcs/server.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/log.h"

#define HELLO_MS 5000
#define TICK_MS  50

struct gcs_link {
    unsigned magic;
    struct gcs_link_config config;
    struct rpc_client *client;
    struct loop_timer *tick;
    struct list waiting;
    bool is_greeting, is_greeted, is_refused, is_ending;
    unsigned n_greeted;
    struct err refusal;
};
#define GCS_LINK_MAGIC 0x474c4e4bu

struct linked_call {
    struct list node;
    struct gcs_link *link;
    const char *path;
    void *bytes;
    size_t size;
    uint64_t deadline_ms;
    unsigned greeting; /* it was sent behind this one */
    rpc_reply_f reply;
    void *arg;
};

static void say_hello(struct gcs_link *l);

/* --- calls --- */

static void complete(struct linked_call *k,
                     const struct err *err,
                     const uint8_t *bytes,
                     size_t size)
{
    list_remove(&k->node);
    k->reply(k->arg, err, bytes, size);
    free(k->bytes);
    free(k);
}

/* A GCS that is told to end cancels; the next one will answer. */
static bool is_answered(const struct linked_call *k, const struct err *err)
{
    if (err != NULL && (err->code == ERR_AWAY || err->code == ERR_CANCELED))
        return false;
    return k->link->is_greeted && k->greeting == k->link->n_greeted;
}

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct linked_call *k = arg;
    struct gcs_link *l = k->link;

    if (is_answered(k, err) || (err != NULL && l->is_ending)) {
        complete(k, err, bytes, size);
        return;
    }
    list_append(&l->waiting, &k->node); /* serve knows whether its time is over */
    loop_timer_again(l->tick, l->is_refused ? 0 : TICK_MS);
}

static void send_call(struct linked_call *k)
{
    uint64_t now = loop_now_ms();

    list_remove(&k->node);
    k->greeting = k->link->n_greeted;
    rpc_client_call(k->link->client,
                    k->path,
                    k->bytes,
                    k->size,
                    k->deadline_ms > now ? (uint32_t)(k->deadline_ms - now) : 1,
                    true,
                    on_reply,
                    k);
}

/* What its state has for those who wait. */
static void serve(struct gcs_link *l)
{
    uint64_t now = loop_now_ms();
    struct err late;

    err_set(&late,
            ERR_TIMEOUT,
            "the GCS at %.200s was not to be reached in time",
            l->config.address);
    list_for_each_safe(at, &l->waiting)
    {
        struct linked_call *k = list_entry(at, struct linked_call, node);
        if (l->is_refused)
            complete(k, &l->refusal, NULL, 0);
        else if (k->deadline_ms <= now)
            complete(k, &late, NULL, 0);
        else if (l->is_greeted)
            send_call(k);
    }
}

static void on_tick(void *arg)
{
    struct gcs_link *l = arg;

    CHECK_MAGIC(l, GCS_LINK_MAGIC);
    serve(l);
    if (!l->is_greeted && !l->is_refused && !l->is_greeting)
        say_hello(l);
    if (!list_empty(&l->waiting) || (!l->is_greeted && !l->is_refused))
        loop_timer_again(l->tick, TICK_MS);
}

/* Completions come later: a refused link tells by its tick. */
void gcs_link_call(struct gcs_link *l,
                   const char *path,
                   const void *bytes,
                   size_t size,
                   uint32_t timeout_ms,
                   rpc_reply_f reply,
                   void *arg)
{
    struct linked_call *k = xmalloc(sizeof *k);

    CHECK_MAGIC(l, GCS_LINK_MAGIC);
    *k = (struct linked_call){.link = l,
                              .path = path,
                              .bytes = xmalloc(size + 1),
                              .size = size,
                              .deadline_ms = loop_now_ms() + timeout_ms,
                              .reply = reply,
                              .arg = arg};
    if (size > 0)
        memcpy(k->bytes, bytes, size);
    list_append(&l->waiting, &k->node);
    if (l->is_greeted)
        send_call(k);
    else
        loop_timer_again(l->tick, l->is_refused ? 0 : TICK_MS);
}

void gcs_link_redial(struct gcs_link *l)
{
    CHECK_MAGIC(l, GCS_LINK_MAGIC);
    rpc_client_redial(l->client);
}

/* --- greeting --- */

static int accept_reply(struct gcs_link *l,
                        const uint8_t *bytes,
                        size_t size,
                        struct hello_reply *reply,
                        struct err *err)
{
    char hex[ID_HEX_MAX];

    if (hello_reply_unpack(bytes, size, reply) != 0)
        return err_set(err, ERR_PROTOCOL, "%.200s is no GCS", l->config.address);
    if (reply->protocol != GCS_PROTOCOL)
        return err_set(err,
                       ERR_VERSION,
                       "the GCS at %.200s speaks protocol %u, this program %d",
                       l->config.address,
                       reply->protocol,
                       GCS_PROTOCOL);
    if (!unique_id_is_nil(&l->config.cluster) && !unique_id_eq(&l->config.cluster, &reply->cluster))
        return err_set(err, ERR_DENIED, "another cluster is at %.200s now", l->config.address);
    l->config.cluster = reply->cluster;
    rpc_client_set_cluster(l->client,
                           id_hex(reply->cluster.bytes, sizeof reply->cluster.bytes, hex));
    return 0;
}

/* Whether it may end by itself. */
static bool is_passing(enum err_code code)
{
    return code == ERR_AWAY || code == ERR_TIMEOUT || code == ERR_FULL || code == ERR_CANCELED;
}

static void on_hello(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct gcs_link *l = arg;
    struct hello_reply reply;
    struct err why;

    l->is_greeting = false;
    if (l->is_ending)
        return;
    if (err != NULL)
        why = *err;
    else if (accept_reply(l, bytes, size, &reply, &why) == 0) {
        l->is_greeted = true;
        l->n_greeted++;
        if (l->config.on_greeted != NULL)
            l->config.on_greeted(l->config.arg, &reply);
        serve(l);
        return;
    }
    if (is_passing(why.code)) {
        loop_timer_again(l->tick, TICK_MS);
        return;
    }
    l->is_refused = true;
    l->refusal = why;
    if (l->config.on_refused != NULL)
        l->config.on_refused(l->config.arg, &why);
    loop_timer_again(l->tick, 0);
}

static void say_hello(struct gcs_link *l)
{
    struct hello h = {.protocol = GCS_PROTOCOL,
                      .build = __DATE__ " " __TIME__,
                      .cluster = l->config.cluster,
                      .node = l->config.node,
                      .incarnation = l->config.incarnation};
    size_t size;

    if (l->config.held != NULL)
        l->config.held(l->config.arg, &h.held);
    void *bytes = hello_pack(&h, &size);
    l->is_greeting = true;
    rpc_client_call(l->client, "/ray.c.GcsLink/Hello", bytes, size, HELLO_MS, true, on_hello, l);
    free(bytes);
}

/* Another incarnation than that of the reply before. The one of a greeting is no news. */
static void on_incarnation(void *arg, const char *incarnation)
{
    struct gcs_link *l = arg;

    if (!l->is_greeted)
        return;
    log_info("gcs", "new_incarnation", "incarnation=%.40s", incarnation);
    l->is_greeted = false;
    loop_timer_again(l->tick, 0);
}

/* --- the link --- */

struct gcs_link *gcs_link_create(const struct gcs_link_config *config)
{
    struct gcs_link *l = xcalloc(1, sizeof *l);

    l->magic = GCS_LINK_MAGIC;
    l->config = *config;
    list_init(&l->waiting);
    l->client = rpc_client_create(&(struct rpc_client_config){.bridge = config->bridge,
                                                              .address = config->address,
                                                              .token = config->token,
                                                              .on_incarnation = on_incarnation,
                                                              .arg = l});
    l->tick = loop_after(config->loop, 0, on_tick, l);
    return l;
}

void gcs_link_destroy(struct gcs_link *l)
{
    struct err canceled;

    if (l == NULL)
        return;
    CHECK_MAGIC(l, GCS_LINK_MAGIC);
    l->is_ending = true;
    rpc_client_destroy(l->client);
    err_set(&canceled, ERR_CANCELED, "the link to the GCS ends");
    while (!list_empty(&l->waiting))
        complete(list_entry(l->waiting.next, struct linked_call, node), &canceled, NULL, 0);
    loop_timer_end(l->tick);
    l->magic = 0;
    free(l);
}
