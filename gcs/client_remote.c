/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each call is an asking: a message, whom to tell, and a pause that grows while the
 * GCS is away or full. gcs/link keeps it over restarts as long as its time lasts; then it is asked
 * again here, for ever. All that is asked may be asked twice: a job gets its number first, then its
 * row, so that an answer that was lost leaves no row behind.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gcs/client_codec.h"
#include "gcs/client_private.h"
#include "gcs/client_sync.h"
#include "gcs/link.h"
#include "gcs/query_codec.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/log.h"

#define CALL_MS      60000
#define SEND_FOR_MS  4000       /* a little longer than it is held */
#define ANSWER_MS    4000       /* nobody waits for longer */
#define ANSWER_MAX   (6u << 20) /* a message to the GCS has 8 MiB */
#define PAUSE_MS     50
#define PAUSE_MAX_MS 2000

struct remote {
    struct gcs_client client;
    unsigned magic;
    struct gcs_client_config config;
    struct gcs_link *link;
    struct client_sync *sync; /* NULL: not registered yet */
    struct node_row row;
    struct unique_id cluster;
    struct list askings;
    bool is_ending, is_refused;
};
#define REMOTE_MAGIC 0x47435243u

struct asking {
    struct list list;
    struct remote *remote;
    const char *path;
    void *bytes;
    size_t size;
    uint32_t pause_ms;
    struct loop_timer *again; /* NULL: it is with the link */
    unsigned n_failed;
    bool wants_row; /* of this node: while that is lost it waits */
    /* Exactly once; err NULL: the reply. */
    void (*reply)(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size);
    union {
        gcs_number_f number;
        store_done_f code;
        job_number_f job;
        job_block_f block;
        gcs_located_f located;
    } done;
    void *arg;
    uint32_t job;
    struct job_row row;
};

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size);

static struct remote *remote_of(struct gcs_client *c)
{
    struct remote *r = (struct remote *)c;

    CHECK_MAGIC(r, REMOTE_MAGIC);
    return r;
}

/* --- asking --- */

static void ask(struct asking *a)
{
    gcs_link_call(a->remote->link, a->path, a->bytes, a->size, CALL_MS, on_reply, a);
}

static void on_again(void *arg)
{
    struct asking *a = arg;

    loop_timer_end(a->again);
    a->again = NULL;
    ask(a);
}

/* What ends by itself: the GCS is away, or its Redis is and too much waits for it. */
static bool is_passing(const struct asking *a, enum err_code code)
{
    return code == ERR_AWAY || code == ERR_TIMEOUT || code == ERR_FULL
           || (code == ERR_NOT_FOUND && a->wants_row);
}

static void end_asking(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size)
{
    list_remove(&a->list);
    loop_timer_end(a->again);
    a->reply(a, err, bytes, size);
    free(a->bytes);
    free(a);
}

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct asking *a = arg;
    struct remote *r = a->remote;

    CHECK_MAGIC(r, REMOTE_MAGIC);
    if (err != NULL && is_passing(a, err->code) && !r->is_ending) {
        a->n_failed++;
        if ((a->n_failed & (a->n_failed - 1)) == 0)
            log_warn("gcs", "asked_again", "n=%u msg=\"%s\"", a->n_failed, err->text);
        a->again = loop_after(r->config.loop, a->pause_ms, on_again, a);
        a->pause_ms = a->pause_ms < PAUSE_MAX_MS / 2 ? 2 * a->pause_ms : PAUSE_MAX_MS;
        return;
    }
    if (err != NULL && err->code != ERR_CANCELED && !r->is_refused)
        log_warn("gcs", "refused", "msg=\"%s\"", err->text);
    end_asking(a, err, bytes, size);
}

/* bytes are taken; the caller fills done and arg before this turn ends. */
static struct asking *begin(
    struct gcs_client *c,
    const char *path,
    void *bytes,
    size_t size,
    void (*reply)(struct asking *, const struct err *, const uint8_t *, size_t))
{
    struct remote *r = remote_of(c);
    struct asking *a = xcalloc(1, sizeof *a);

    a->remote = r;
    a->path = path;
    a->bytes = bytes;
    a->size = size;
    a->pause_ms = PAUSE_MS;
    a->reply = reply;
    list_append(&r->askings, &a->list);
    ask(a);
    return a;
}

static enum err_code code_of(const struct err *err, int rc)
{
    return err != NULL ? err->code : rc != 0 ? ERR_PROTOCOL : ERR_NONE;
}

/* --- the node --- */

static void refuse(struct remote *r, const struct err *err)
{
    if (r->is_refused || r->is_ending)
        return;
    r->is_refused = true;
    if (r->sync != NULL)
        client_sync_stop(r->sync);
    r->config.on_refused(r->config.arg, err);
}

static void on_dead(void *arg, const char *why)
{
    struct err err;

    err_set(&err, ERR_DIED, "this node was declared dead: %s", why);
    refuse(arg, &err);
}

static void on_node(void *arg, const struct node_view *v)
{
    const struct remote *r = arg;

    r->config.on_node(r->config.arg, v);
}

static void on_current(void *arg)
{
    const struct remote *r = arg;

    if (r->config.on_current != NULL)
        r->config.on_current(r->config.arg);
}

static void fill_self(void *arg, struct node_view *self)
{
    const struct remote *r = arg;

    r->config.fill_self(r->config.arg, self);
}

static void pass_on(void *arg, const void *bytes, size_t size)
{
    const struct remote *r = arg;

    if (r->config.pass_on != NULL)
        r->config.pass_on(r->config.arg, bytes, size);
}

static void on_question(void *arg, const struct node_question *q)
{
    const struct remote *r = arg;

    if (r->config.on_question != NULL)
        r->config.on_question(r->config.arg, q);
}

static void on_registered_again(struct asking *a,
                                const struct err *err,
                                const uint8_t *bytes,
                                size_t size)
{
    struct remote *r = a->remote;
    uint32_t number = 0;
    int rc = err == NULL ? client_take_registered(bytes, size, &number) : 0;
    struct err why;

    if (code_of(err, rc) == ERR_CANCELED)
        return;
    if (err == NULL && (rc != 0 || number != r->row.number)) {
        err_set(&why, ERR_PROTOCOL, "the GCS gave this node another number");
        err = &why;
    }
    if (err != NULL)
        refuse(r, err);
    else
        client_sync_resume(r->sync);
}

/* Its row was lost with what Redis forgot: the same number is its again. */
static void on_unknown(void *arg)
{
    struct remote *r = arg;
    size_t size;

    log_warn("gcs", "row_lost", "number=%u", r->row.number);
    void *bytes = client_pack_register(&r->row, &size);
    begin(&r->client, "/ray.rpc.NodeInfoGcsService/RegisterNode", bytes, size, on_registered_again);
}

static void on_registered(struct asking *a,
                          const struct err *err,
                          const uint8_t *bytes,
                          size_t size)
{
    struct remote *r = a->remote;
    uint32_t number = 0;
    int rc = err == NULL ? client_take_registered(bytes, size, &number) : 0;
    enum err_code code = code_of(err, rc);

    if (code == ERR_NONE) {
        r->row.number = number;
        r->sync = client_sync_create(&(struct client_sync_config){.loop = r->config.loop,
                                                                  .link = r->link,
                                                                  .node = r->row.id,
                                                                  .number = number,
                                                                  .on_node = on_node,
                                                                  .on_current = on_current,
                                                                  .fill_self = fill_self,
                                                                  .on_question = on_question,
                                                                  .on_unknown = on_unknown,
                                                                  .on_dead = on_dead,
                                                                  .pass_on = pass_on,
                                                                  .arg = r});
    } else if (err != NULL && code != ERR_CANCELED) {
        refuse(r, err);
    }
    a->done.number(a->arg, code, number);
}

static void remote_register_node(struct gcs_client *c,
                                 const struct node_row *row,
                                 gcs_number_f done,
                                 void *arg)
{
    struct remote *r = remote_of(c);
    size_t size;

    r->row = *row;
    void *bytes = client_pack_register(row, &size);
    struct asking *a =
        begin(c, "/ray.rpc.NodeInfoGcsService/RegisterNode", bytes, size, on_registered);
    a->done.number = done;
    a->arg = arg;
}

static void on_code(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size)
{
    (void)bytes;
    (void)size;
    a->done.code(a->arg, code_of(err, 0));
}

static void remote_unregister_node(struct gcs_client *c, store_done_f done, void *arg)
{
    struct remote *r = remote_of(c);
    size_t size;

    if (r->sync != NULL)
        client_sync_stop(r->sync);
    void *bytes = query_unregister(&r->row.id, "", &size);
    struct asking *a = begin(c, QUERY_UNREGISTER, bytes, size, on_code);
    a->done.code = done;
    a->arg = arg;
}

/* --- jobs and processes --- */

static void on_job_added(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size)
{
    (void)bytes;
    (void)size;
    a->done.job(a->arg, code_of(err, 0), err == NULL ? a->job : 0);
}

static void on_job_numbered(struct asking *a,
                            const struct err *err,
                            const uint8_t *bytes,
                            size_t size)
{
    int rc = err == NULL ? client_take_next_job(bytes, size, &a->job) : 0;

    if (code_of(err, rc) != ERR_NONE) {
        a->done.job(a->arg, code_of(err, rc), 0);
        return;
    }
    a->row.node = a->remote->row.number;
    void *data = client_pack_add_job(a->job, &a->row, &size);
    struct asking *b =
        begin(&a->remote->client, "/ray.rpc.JobInfoGcsService/AddJob", data, size, on_job_added);
    b->done = a->done;
    b->arg = a->arg;
    b->job = a->job;
}

static void remote_add_job(struct gcs_client *c,
                           const struct job_row *row,
                           job_number_f done,
                           void *arg)
{
    struct asking *a =
        begin(c, "/ray.rpc.JobInfoGcsService/GetNextJobID", NULL, 0, on_job_numbered);

    a->row = *row;
    a->done.job = done;
    a->arg = arg;
}

static void remote_end_job(struct gcs_client *c,
                           uint32_t job,
                           const struct job_row *row,
                           store_done_f done,
                           void *arg)
{
    size_t size;
    void *bytes = client_pack_end_job(job, &size);
    struct asking *a = begin(c, "/ray.rpc.JobInfoGcsService/MarkJobFinished", bytes, size, on_code);

    (void)row; /* the GCS has it */
    a->done.code = done;
    a->arg = arg;
}

static void on_block(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size)
{
    uint32_t first = 0, n = 0;
    int rc = err == NULL ? client_take_processes(bytes, size, &first, &n) : 0;

    a->done.block(a->arg, code_of(err, rc), first, n);
}

static void remote_take_processes(struct gcs_client *c, uint32_t n, job_block_f done, void *arg)
{
    size_t size;
    void *bytes = client_pack_take_processes(&remote_of(c)->row.id, n, &size);
    struct asking *a = begin(c, "/ray.c.GcsLink/TakeProcesses", bytes, size, on_block);

    a->wants_row = true;
    a->done.block = done;
    a->arg = arg;
}

static void on_located(struct asking *a, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct unique_id node;
    uint32_t number = 0;
    bool is_dead = false;
    int rc = err == NULL ? client_take_located(bytes, size, &node, &number, &is_dead) : 0;
    enum err_code code = code_of(err, rc);

    a->done.located(a->arg,
                    code == ERR_NONE && is_dead ? ERR_DIED : code,
                    code == ERR_NONE ? &node : NULL,
                    number);
}

static void remote_locate(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg)
{
    size_t size;
    void *bytes = client_pack_locate(process, &size);
    struct asking *a = begin(c, "/ray.c.GcsLink/Locate", bytes, size, on_located);

    a->done.located = done;
    a->arg = arg;
}

/* --- the client --- */

static void remote_changed(struct gcs_client *c)
{
    struct remote *r = remote_of(c);

    if (r->sync != NULL && !r->is_refused)
        client_sync_changed(r->sync);
}

/* --- for other nodes --- */

struct sending {
    gcs_passed_f done;
    void *arg;
};

static void on_sent(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct sending *k = arg;

    k->done(k->arg, err == NULL ? bytes : NULL, err == NULL ? size : 0);
    free(k);
}

static int remote_send_for(struct gcs_client *c,
                           const void *bytes,
                           size_t size,
                           gcs_passed_f done,
                           void *arg)
{
    struct remote *r = remote_of(c);

    if (r->sync == NULL || r->is_refused || r->is_ending || !client_sync_is_answered(r->sync))
        return -1;
    struct sending *k = xmalloc(sizeof *k);
    *k = (struct sending){.done = done, .arg = arg};
    gcs_link_call(r->link, CLIENT_SYNC_METHOD, bytes, size, SEND_FOR_MS, on_sent, k);
    return 0;
}

static void remote_take_passed(struct gcs_client *c, const void *bytes, size_t size)
{
    struct remote *r = remote_of(c);

    if (r->sync != NULL && !r->is_ending)
        client_sync_take_passed(r->sync, bytes, size);
}

/* --- answers to commands --- */

static void on_answered(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    (void)arg;
    (void)err; /* the command's deadline ends it */
    (void)bytes;
    (void)size;
}

static void remote_answer(struct gcs_client *c,
                          uint64_t question,
                          const void *reply,
                          size_t reply_size,
                          const char *refusal)
{
    struct remote *r = remote_of(c);
    char text[80];
    size_t size;

    if (r->is_refused || r->is_ending)
        return;
    if (refusal == NULL && reply_size > ANSWER_MAX) {
        snprintf(text,
                 sizeof text,
                 "its answer has %zu bytes, more than the GCS takes",
                 reply_size);
        refusal = text;
    }
    void *bytes = client_pack_answer(&r->row.id, question, reply, reply_size, refusal, &size);
    gcs_link_call(r->link, "/ray.c.GcsLink/Answer", bytes, size, ANSWER_MS, on_answered, r);
    free(bytes);
}

static struct unique_id remote_cluster(const struct gcs_client *c)
{
    return ((const struct remote *)c)->cluster;
}

static void remote_run(struct gcs_client *c)
{
    (void)c; /* calls go out when they are made */
}

static void fill_held(void *arg, struct held *out)
{
    const struct remote *r = arg;

    r->config.held(r->config.arg, out);
}

static void on_greeted(void *arg, const struct hello_reply *reply)
{
    struct remote *r = arg;

    r->cluster = reply->cluster;
}

static void on_refused(void *arg, const struct err *err)
{
    refuse(arg, err);
}

static void remote_destroy(struct gcs_client *c)
{
    struct remote *r = remote_of(c);
    struct err canceled;

    r->is_ending = true;
    if (r->sync != NULL)
        client_sync_stop(r->sync);
    gcs_link_destroy(r->link);
    err_set(&canceled, ERR_CANCELED, "the raylet ends");
    while (!list_empty(&r->askings)) /* those that paused */
        end_asking(list_entry(r->askings.next, struct asking, list), &canceled, NULL, 0);
    client_sync_destroy(r->sync);
    r->magic = 0;
    free(r);
}

struct gcs_client *gcs_client_create(const struct gcs_client_config *config)
{
    static const struct gcs_client_ops ops = {.destroy = remote_destroy,
                                              .run = remote_run,
                                              .register_node = remote_register_node,
                                              .unregister_node = remote_unregister_node,
                                              .add_job = remote_add_job,
                                              .end_job = remote_end_job,
                                              .take_processes = remote_take_processes,
                                              .locate = remote_locate,
                                              .changed = remote_changed,
                                              .send_for = remote_send_for,
                                              .take_passed = remote_take_passed,
                                              .answer = remote_answer,
                                              .cluster = remote_cluster};
    struct remote *r = xcalloc(1, sizeof *r);

    r->client.ops = &ops;
    r->magic = REMOTE_MAGIC;
    r->config = *config;
    r->cluster = unique_id_nil();
    list_init(&r->askings);
    r->link = gcs_link_create(&(struct gcs_link_config){.loop = config->loop,
                                                        .bridge = config->bridge,
                                                        .address = config->address,
                                                        .token = config->token,
                                                        .cluster = config->cluster,
                                                        .node = config->node,
                                                        .incarnation = config->incarnation,
                                                        .held = fill_held,
                                                        .on_greeted = on_greeted,
                                                        .on_refused = on_refused,
                                                        .arg = r});
    return &r->client;
}
