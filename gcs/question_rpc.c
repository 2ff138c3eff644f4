/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What commands ask nodes whose port nobody can dial: of a driver on a laptop. The question goes to
 * the node with the answer to its NodeSync, at once if one is held, and comes back by a call of the
 * node's own. Each is told once: if that answer is lost, or the node is away, the caller's deadline
 * ends it. Nothing is kept for a caller that has gone.
 */
#include <stdlib.h>
#include <string.h>

#include "gcs/message_codec.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "proto/gcs_link.pb-c.h"

#define QUESTION_MAX 1024 /* bytes of method and request */
#define OPEN_MAX     512  /* each answer to a NodeSync looks at all */

struct question {
    struct list list; /* gcs_server.questions */
    struct gcs_server *server;
    uint64_t number;
    struct unique_id node;
    Ray__C__AskNodeRequest *asked; /* owned */
    struct rpc_call *call;
    bool is_told;
};

static void end(struct question *q)
{
    list_remove(&q->list);
    q->server->n_questions--;
    ray__c__ask_node_request__free_unpacked(q->asked, NULL);
    free(q);
}

bool gcs_questions_wait(const struct gcs_server *g, const struct unique_id *node)
{
    list_for_each(at, &g->questions)
    {
        const struct question *q = list_entry(at, struct question, list);
        if (!q->is_told && unique_id_eq(&q->node, node))
            return true;
    }
    return false;
}

size_t gcs_questions_tell(struct gcs_server *g,
                          const struct unique_id *node,
                          Ray__C__Question *out,
                          size_t max)
{
    size_t n = 0;

    list_for_each(at, &g->questions)
    {
        struct question *q = list_entry(at, struct question, list);
        if (n == max || q->is_told || !unique_id_eq(&q->node, node))
            continue;
        q->is_told = true;
        ray__c__question__init(&out[n]);
        out[n].number = q->number;
        out[n].method = q->asked->method;
        out[n++].request = q->asked->request;
    }
    return n;
}

void gcs_questions_end(struct gcs_server *g, const struct unique_id *node, const char *why)
{
    list_for_each_safe(at, &g->questions)
    {
        struct question *q = list_entry(at, struct question, list);
        if (node != NULL && !unique_id_eq(&q->node, node))
            continue;
        rpc_call_fail(q->call, node != NULL ? ERR_DIED : ERR_CANCELED, "%s", why);
        end(q);
    }
}

void gcs_questions_init(struct gcs_server *g)
{
    list_init(&g->questions);
}

/* --- calls --- */

static void on_gone(void *arg, struct rpc_call *call)
{
    rpc_call_fail(call, ERR_CANCELED, "the caller has gone");
    end(arg);
}

/* Takes m. */
static void ask(struct gcs_server *g,
                struct rpc_call *call,
                struct node_sync_row *row,
                Ray__C__AskNodeRequest *m)
{
    struct question *q = xcalloc(1, sizeof *q);

    /* Never that of another incarnation, whose answer may be on its way. */
    q->number = (g->incarnation << 32) + ++g->last_question;
    q->server = g;
    q->node = row->id;
    q->asked = m;
    q->call = call;
    list_append(&g->questions, &q->list);
    g->n_questions++;
    rpc_call_on_gone(call, on_gone, q);
    gcs_sync_wake(g, row);
}

static void on_ask_node(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__AskNodeRequest *m = message_of(call, &ray__c__ask_node_request__descriptor);

    if (m == NULL)
        return;
    struct node_sync_row *row = gcs_sync_find(g, m->node_id.data, m->node_id.len);
    if (row == NULL)
        rpc_call_fail(call, ERR_NOT_FOUND, "no such node is registered");
    else if (row->state == NODE_SYNC_DEAD)
        rpc_call_fail(call, ERR_DIED, "the node is dead: %s", row->death);
    else if (strlen(m->method) + m->request.len > QUESTION_MAX)
        rpc_call_fail(call,
                      ERR_INVALID,
                      "a question has at most %d bytes, this one %zu",
                      QUESTION_MAX,
                      strlen(m->method) + m->request.len);
    else if (g->n_questions >= OPEN_MAX)
        rpc_call_fail(call,
                      ERR_FULL,
                      "%u questions to nodes are open already: ask again when they have ended",
                      g->n_questions);
    else {
        ask(g, call, row, m);
        return;
    }
    ray__c__ask_node_request__free_unpacked(m, NULL);
}

/* NULL: who asked has gone, or another node was asked. */
static struct question *find_question(const struct gcs_server *g, const Ray__C__AnswerRequest *m)
{
    list_for_each(at, &g->questions)
    {
        struct question *q = list_entry(at, struct question, list);
        if (q->number == m->number && m->node_id.len == sizeof q->node.bytes
            && memcmp(q->node.bytes, m->node_id.data, sizeof q->node.bytes) == 0)
            return q;
    }
    return NULL;
}

static void on_answer(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__C__AnswerRequest *m = message_of(call, &ray__c__answer_request__descriptor);
    Ray__C__AnswerReply reply = RAY__C__ANSWER_REPLY__INIT;

    if (m == NULL)
        return;
    struct question *q = find_question(g, m);
    if (q != NULL && m->refusal[0] != '\0')
        rpc_call_fail(q->call, ERR_INVALID, "%s", m->refusal);
    else if (q != NULL)
        rpc_call_reply(q->call, m->reply.data, m->reply.len);
    if (q != NULL)
        end(q);
    message_reply(call, &reply.base);
    ray__c__answer_request__free_unpacked(m, NULL);
}

const struct rpc_method gcs_question_methods[] = {
    {"/ray.c.GcsLink/AskNode", on_ask_node},
    {"/ray.c.GcsLink/Answer", on_answer},
    {NULL, NULL},
};
