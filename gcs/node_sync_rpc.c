/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NodeSync, and who has a process number. A node's call is its heartbeat and report; it is held
 * until there is news for it or HELD_MS have passed, and a newer one of the same node sends it
 * home. News go out in flushes, FLUSH_MS apart and of about FLUSH_BYTES at most, to those first who
 * have waited longest: a cluster in uproar costs the GCS and each node a bounded number of bytes a
 * second. Who has to wait for the flush after next, and so on, is held for longer, so that its turn
 * comes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/message_codec.h"
#include "gcs/node_view_codec.h"
#include "gcs/process_table.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "proto/gcs_link.pb-c.h"

#define HELD_MS 1000
#define HELD_MAX_MS                                                                                \
    3000 /* with news for it that are not its turn; half of the silence of the dead */
#define FLUSH_MS       100
#define REPLY_BYTES    (64u << 10)
#define FLUSH_BYTES    (4u << 20)
#define REPLY_ROWS_MAX 1024
#define QUESTIONS_MAX  64 /* in one answer */

struct held_call {
    struct list list; /* gcs_server.held */
    struct node_sync_row *row;
    struct rpc_call *call;
    uint64_t since, since_ms; /* version; when it came */
    bool knows_nobody;        /* so it wants to hear of no dead node */
};

/* --- answers --- */

static bool is_for(const struct held_call *h, const struct node_sync_row *row)
{
    return row != h->row && !(h->knows_nobody && row->state == NODE_SYNC_DEAD);
}

static bool has_news(const struct gcs_server *g, const struct held_call *h)
{
    struct node_sync_row *row = node_sync_after(g->sync, h->since);

    while (row != NULL && !is_for(h, row))
        row = node_sync_next(g->sync, row);
    return row != NULL;
}

static void pack(struct node_sync_row *row)
{
    if (row->packed == NULL)
        row->packed = node_view_pack(row->view, &row->packed_size);
    node_sync_shrink(row);
}

static void reply_died(struct rpc_call *call, const char *why)
{
    Ray__C__NodeSyncReply reply = RAY__C__NODE_SYNC_REPLY__INIT;
    char text[160];

    snprintf(text, sizeof text, "%s", why);
    reply.death = text;
    message_reply(call, &reply.base);
}

/* It is answered, with room bytes of news and what commands ask; how many bytes the news took. */
static size_t reply(struct gcs_server *g, const struct held_call *h, size_t room)
{
    Ray__C__NodeSyncReply m = RAY__C__NODE_SYNC_REPLY__INIT;
    ProtobufCBinaryData nodes[REPLY_ROWS_MAX];
    Ray__C__Question questions[QUESTIONS_MAX], *list[QUESTIONS_MAX];
    struct node_sync_row *row = node_sync_after(g->sync, h->since);
    size_t size = 0;

    m.incarnation = g->incarnation;
    m.version = h->since;
    m.nodes = nodes;
    for (; row != NULL; row = node_sync_next(g->sync, row)) {
        if (is_for(h, row)) {
            pack(row);
            if (size + row->packed_size > room || m.n_nodes == REPLY_ROWS_MAX)
                break;
            nodes[m.n_nodes++] = (ProtobufCBinaryData){row->packed_size, row->packed};
            size += row->packed_size;
        }
        m.version = row->version;
    }
    m.has_more = row != NULL;
    m.n_questions = gcs_questions_tell(g, &h->row->id, questions, QUESTIONS_MAX);
    for (size_t i = 0; i < m.n_questions; i++)
        list[i] = &questions[i];
    m.questions = list;
    message_reply(h->call, &m.base);
    return size;
}

/* The same, and it is freed. */
static size_t reply_news(struct gcs_server *g, struct held_call *h, size_t room)
{
    size_t size = reply(g, h, room);

    h->row->arg = NULL;
    list_remove(&h->list);
    free(h);
    return size;
}

/* --- time --- */

/* When somebody is to be answered next. */
static void arm(struct gcs_server *g, bool is_news)
{
    uint64_t now = loop_now_ms(), at;

    if (list_empty(&g->held))
        return;
    at = list_entry(g->held.next, struct held_call, list)->since_ms + HELD_MS;
    if (at <= now || (is_news && g->next_flush_ms < at))
        at = g->next_flush_ms;
    loop_timer_again(g->flush, at > now ? (uint32_t)(at - now) : 0);
}

static void on_flush(void *arg)
{
    struct gcs_server *g = arg;
    uint64_t now = loop_now_ms();
    size_t left = now >= g->next_flush_ms ? FLUSH_BYTES : 0;
    bool is_news = false;

    if (left > 0)
        g->next_flush_ms = now + FLUSH_MS;
    list_for_each_safe(at, &g->held)
    {
        struct held_call *h = list_entry(at, struct held_call, list);
        bool news = has_news(g, h);
        if (news && left >= REPLY_BYTES)
            left -= reply_news(g, h, REPLY_BYTES);
        else if (now - h->since_ms >= (news ? HELD_MAX_MS : HELD_MS))
            reply_news(g, h, 0);
        else
            is_news |= news;
    }
    arm(g, is_news);
}

/* --- silence --- */

struct silent {
    struct gcs_server *server;
    struct unique_id id;
};

static void on_written(void *arg, enum err_code code)
{
    struct silent *d = arg;
    struct node_sync_row *row = node_sync_find(d->server->sync, &d->id);

    if (code != ERR_NONE) {
        if (code != ERR_CANCELED)
            log_err("gcs", "death_not_written", "code=%s", err_code_name(code));
        node_sync_revive(d->server->sync, row); /* looked at again when it is silent as long */
    }
    free(d);
}

static void on_tick(void *arg)
{
    struct gcs_server *g = arg;
    struct node_sync_row *row;
    char why[80];

    bool was_waiting = node_sync_is_waiting(g->sync);
    node_sync_on_time(g->sync, loop_now_ms());
    if (!was_waiting && node_sync_is_waiting(g->sync))
        log_warn("gcs",
                 "cut_off",
                 "msg=\"no other machine is heard of: no node is declared dead\"");
    else if (was_waiting && !node_sync_is_waiting(g->sync))
        log_warn("gcs", "cut_off_ended", "msg=\"silence counts again\"");
    while ((row = node_sync_find_silent(g->sync)) != NULL && node_sync_set_dying(row)) {
        struct silent *d = xmalloc(sizeof *d);
        *d = (struct silent){.server = g, .id = row->id};
        snprintf(why,
                 sizeof why,
                 "it said nothing for %u s",
                 (unsigned)(node_sync_silence_ms(g->sync, row) / 1000));
        gcs_bury_node(g, &row->id, why, on_written, d);
    }
    gcs_forget_nodes(g);
}

/* --- what others tell --- */

void gcs_sync_add(struct gcs_server *g, const struct node_row *row)
{
    struct node_view v;

    node_view_of_row(row, &v);
    node_sync_add(g->sync, &v)->died_ms = row->end_ms;
    arm(g, true);
}

bool gcs_sync_set_dead(struct gcs_server *g, const struct unique_id *id, const char *why)
{
    struct node_sync_row *row = node_sync_find(g->sync, id);
    struct held_call *h = row != NULL ? row->arg : NULL;

    if (row == NULL || row->state == NODE_SYNC_DEAD)
        return false;
    node_sync_set_dead(g->sync, row, why);
    row->died_ms = gcs_wall_ms();
    if (h != NULL) {
        reply_died(h->call, why);
        row->arg = NULL;
        list_remove(&h->list);
        free(h);
    }
    gcs_questions_end(g, id, why);
    arm(g, true);
    return true;
}

struct node_sync_row *gcs_sync_find(const struct gcs_server *g, const void *id, size_t size)
{
    struct unique_id node;

    if (size != sizeof node.bytes)
        return NULL;
    memcpy(node.bytes, id, size);
    return node_sync_find(g->sync, &node);
}

/* Out of turn, so with no more news than another. */
void gcs_sync_wake(struct gcs_server *g, struct node_sync_row *row)
{
    if (row->arg != NULL)
        reply_news(g, row->arg, REPLY_BYTES);
}

void gcs_sync_start(struct gcs_server *g)
{
    node_sync_on_time(g->sync, loop_now_ms());
    g->tick = loop_every(g->config.loop, NODE_SYNC_TICK_MS, on_tick, g);
}

void gcs_sync_init(struct gcs_server *g)
{
    g->sync = node_sync_create(g->config.driver_silence_ms);
    node_sync_set_patience(g->sync, g->config.patience_ms);
    list_init(&g->held);
    g->flush = loop_after(g->config.loop, 0, on_flush, g);
}

void gcs_sync_fini(struct gcs_server *g)
{
    list_for_each_safe(at, &g->held)
    {
        struct held_call *h = list_entry(at, struct held_call, list);
        rpc_call_fail(h->call, ERR_CANCELED, "the GCS ends");
        free(h);
    }
    loop_timer_end(g->tick);
    loop_timer_end(g->flush);
    node_sync_destroy(g->sync);
    g->sync = NULL;
}

/* --- calls --- */

static void hold(struct gcs_server *g,
                 struct rpc_call *call,
                 struct node_sync_row *row,
                 const Ray__C__NodeSyncRequest *m)
{
    bool is_known = m->incarnation == g->incarnation && m->version <= node_sync_version(g->sync);
    struct held_call *h, asked = {.row = row,
                                  .call = call,
                                  .since = is_known ? m->version : 0,
                                  .since_ms = loop_now_ms(),
                                  .knows_nobody = m->incarnation == 0};

    if (m->at_once) { /* beside the one that is held, which keeps its turn */
        reply(g, &asked, 0);
        return;
    }
    if (row->arg != NULL)
        reply_news(g, row->arg, 0);
    h = xmalloc(sizeof *h);
    *h = asked;
    row->knows = h->since;
    row->arg = h;
    list_append(&g->held, &h->list);
    if (gcs_questions_wait(g, &row->id))
        gcs_sync_wake(g, row);
}

static void on_sync(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__NodeSyncRequest *m = message_of(call, &ray__c__node_sync_request__descriptor);
    Ray__C__NodeSyncReply unknown = RAY__C__NODE_SYNC_REPLY__INIT;
    struct node_view said;

    if (m == NULL)
        return;
    if (m->self == NULL || node_view_of_message(m->self, &said) != 0) {
        rpc_call_fail(call, ERR_INVALID, "a node's id has %d bytes", ID_UNIQUE_SIZE);
        ray__c__node_sync_request__free_unpacked(m, NULL);
        return;
    }
    struct node_sync_row *row = node_sync_find(g->sync, &said.id);
    if (row == NULL) {
        unknown.is_unknown = 1;
        message_reply(call, &unknown.base);
    } else if (row->state == NODE_SYNC_DEAD) {
        reply_died(call, row->death);
    } else {
        node_sync_report(g->sync, row, &said, m->report);
        hold(g, call, row, m);
        arm(g, true);
    }
    ray__c__node_sync_request__free_unpacked(m, NULL);
}

static void on_located(void *arg, enum err_code code, const struct process_block *block)
{
    static char died[] = "its node is dead, and was forgotten";
    struct unique_id nil = unique_id_nil();
    struct asking *a = arg;
    Ray__C__LocateReply reply = RAY__C__LOCATE_REPLY__INIT;

    if ((code == ERR_NOT_FOUND || code == ERR_DIED) && gcs_may_return(a->server)) {
        rpc_call_fail(a->call,
                      ERR_AWAY,
                      "find the process: not each node has said yet which ones it has");
    } else if (code == ERR_DIED) {
        reply.node_id = (ProtobufCBinaryData){sizeof nil.bytes, nil.bytes};
        reply.death = died;
        message_reply(a->call, &reply.base);
    } else if (code != ERR_NONE) {
        gcs_fail(a->server, a->call, code, "find the process");
    } else {
        struct process_block b = *block;
        const struct node_sync_row *row = node_sync_find(a->server->sync, &b.node);
        reply.node_id = (ProtobufCBinaryData){sizeof b.node.bytes, b.node.bytes};
        reply.node_number = b.node_number;
        if (row != NULL && row->death != NULL)
            reply.death = row->death;
        message_reply(a->call, &reply.base);
    }
    free(a);
}

static void on_locate(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__LocateRequest *m = message_of(call, &ray__c__locate_request__descriptor);

    if (m == NULL)
        return;
    if (m->process == 0 || m->process >= JOB_PROCESSES_MAX)
        rpc_call_fail(call, ERR_INVALID, "a process number has 28 bits and is not 0");
    else
        process_table_locate(g->store, m->process, on_located, asking(g, call));
    ray__c__locate_request__free_unpacked(m, NULL);
}

const struct rpc_method gcs_sync_methods[] = {
    {"/ray.c.GcsLink/NodeSync", on_sync},
    {"/ray.c.GcsLink/Locate", on_locate},
    {NULL, NULL},
};
