/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gcs/query_codec.h"
#include "lib/base/alloc.h"
#include "raylet/node_file.h"

#define GET_STATE "/ray.c.NodeService/GetState"
#define GET_REFS  "/ray.c.NodeService/GetRefs"

/* --- of this machine --- */

/* The newest session of this user here; with an address, that of a node of its cluster. */
static int find_session(const struct config *c,
                        const char *address,
                        char dir[RAYLET_CLIENT_PATH],
                        struct err *err)
{
    const char *temp = config_text(c, CONFIG_TEMP_DIR);
    size_t n, i = 0;

    if (address[0] == '\0')
        return raylet_client_find(temp, dir, NULL, err);
    struct node_file *nodes = node_file_list(temp, &n);
    while (i < n && strcmp(nodes[i].gcs_address, address) != 0)
        i++;
    if (i < n)
        snprintf(dir, RAYLET_CLIENT_PATH, "%s", nodes[i].session_dir);
    free(nodes);
    return i < n ? 0
                 : err_set(err,
                           ERR_NOT_FOUND,
                           "no node of yours of the cluster %.100s runs here (looked in %.100s)",
                           address,
                           temp);
}

static int read_state(const struct frame *f, struct why_state *out, struct err *err)
{
    struct wire_why w = {0};
    int rc = -1;

    memcpy(&w, f->body, f->body_size < sizeof w ? f->body_size : sizeof w);
    void *bytes = w.is_whole != 0 && w.size <= WHY_BYTES_MAX ? try_alloc(NULL, w.size + 1) : NULL;
    if (bytes != NULL && pread(f->fd, bytes, w.size, 0) == (ssize_t)w.size)
        rc = why_state_unpack(bytes, w.size, out, err);
    else
        err_set(err, ERR_PROTOCOL, "the raylet's answer is malformed, or it has no memory for it");
    free(bytes);
    return rc;
}

static int ask_socket(const char *dir, int timeout_ms, struct why_node *out, struct err *err)
{
    struct raylet_client *link = raylet_client_open(dir, timeout_ms, err);
    struct frame f = {.fd = -1};
    int rc = -1;

    if (link == NULL || raylet_client_send(link, WIRE_WHY_ASK, NULL, 0, err) != 0) {
        raylet_client_close(link);
        return -1;
    }
    while ((rc = raylet_client_next(link, timeout_ms, &f, err)) == 1 && f.h.type != WIRE_WHY)
        if (f.fd >= 0)
            close(f.fd);
    if (rc == 0)
        err_set(err, ERR_TIMEOUT, "the raylet of %s did not answer within %d ms", dir, timeout_ms);
    rc = rc == 1 ? read_state(&f, &out->state, err) : -1;
    if (f.fd >= 0)
        close(f.fd);
    raylet_client_close(link);
    if (rc != 0)
        return -1;
    out->has_answered = true;
    out->id = out->state.node;
    out->number = out->state.number;
    snprintf(out->name, sizeof out->name, "this machine's node");
    return 0;
}

/* Its raylet alone. */
static int ask_here(const struct config *c, struct nodes *out, struct err *err)
{
    char dir[RAYLET_CLIENT_PATH];

    if (find_session(c, out->address, dir, err) != 0)
        return -1;
    memcpy(out->session_dir, dir, sizeof dir);
    out->v = xcalloc(1, sizeof *out->v);
    if (ask_socket(dir, NODES_WAIT_MS, &out->v[0], err) != 0)
        return -1;
    out->n = 1;
    return 0;
}

/* --- of all --- */

static int ask_rows(struct ask *a, struct nodes *out, struct err *err)
{
    void *reply;
    size_t size;

    if (ask_call(a, QUERY_NODES, NULL, 0, &reply, &size, err) != 0)
        return -1;
    int rc = query_nodes_of(reply, size, &out->rows, &out->n_rows, err);
    free(reply);
    return rc;
}

/* Of one that does not answer what it has in all is known. */
static void take_row(const struct node_row *row, struct why_node *out)
{
    *out = (struct why_node){.id = row->id,
                             .number = row->number,
                             .is_driver = row->is_driver != 0,
                             .port = row->node_port};
    memcpy(out->name, row->name, sizeof out->name);
    memcpy(out->address, row->address, sizeof out->address);
    out->state.n_resources = row->n_resources;
    out->state.resources = xcalloc(row->n_resources + 1, sizeof *out->state.resources);
    for (uint32_t i = 0; i < row->n_resources; i++) {
        memcpy(out->state.resources[i].name,
               row->resources[i].name,
               sizeof out->state.resources[i].name);
        out->state.resources[i].units = (int64_t)(row->resources[i].amount * RESOURCE_UNIT + 0.5);
    }
}

static void take_reply(const struct ask_reply *reply, struct why_node *node)
{
    struct why_state state;

    node->err = reply->err;
    if (reply->err.code != ERR_NONE
        || why_state_unpack(reply->bytes, reply->size, &state, &node->err) != 0)
        return;
    if (!unique_id_eq(&state.node, &node->id)) {
        err_set(&node->err, ERR_PROTOCOL, "another node answers there");
        why_state_fini(&state);
        return;
    }
    why_state_fini(&node->state);
    node->state = state;
    node->has_answered = true;
}

/* A driver's node has no port. request, which may be NULL, is taken: the target's bytes are to be
 * freed by free_bytes. */
static struct ask_target target_of(const struct why_node *node,
                                   const char *method,
                                   void *request,
                                   size_t size)
{
    struct ask_target t = {.host = node->address,
                           .port = node->port,
                           .path = method,
                           .bytes = request,
                           .size = size};

    if (!node->is_driver)
        return t;
    t = (struct ask_target){.path = QUERY_ASK_NODE};
    t.bytes = query_ask_node(&node->id, method, request, size, &t.size);
    free(request);
    return t;
}

static void free_bytes(struct ask_target *t)
{
    free((void *)(uintptr_t)t->bytes);
    t->bytes = NULL;
}

static void ask_all(struct ask *a, struct nodes *out)
{
    struct ask_target *targets = xcalloc(out->n_rows + 1, sizeof *targets);
    struct ask_reply *replies = xcalloc(out->n_rows + 1, sizeof *replies);

    out->v = xcalloc(out->n_rows + 1, sizeof *out->v);
    for (size_t i = 0; i < out->n_rows; i++) {
        if (out->rows[i].state != NODE_ALIVE)
            continue;
        struct why_node *node = &out->v[out->n];
        take_row(&out->rows[i], node);
        targets[out->n++] = target_of(node, GET_STATE, NULL, 0);
    }
    ask_nodes(a, targets, out->n, NODES_WAIT_MS, replies);
    for (size_t i = 0; i < out->n; i++) {
        free_bytes(&targets[i]);
        take_reply(&replies[i], &out->v[i]);
        out->n_silent += !out->v[i].has_answered;
        free(replies[i].bytes);
    }
    free(targets);
    free(replies);
}

int nodes_ask(const struct config *c, int timeout_ms, struct nodes *out, struct err *err)
{
    const char *named = config_text(c, CONFIG_ADDRESS);
    struct err own;
    int rc;

    *out = (struct nodes){.n = 0};
    struct ask *a = ask_open(c, timeout_ms, err);
    if (a == NULL && err->code == ERR_NOT_FOUND && strchr(named, ':') == NULL) {
        rc = ask_here(c, out, &own); /* one that a program has made for itself */
        if (rc != 0)
            nodes_fini(out); /* what ask_open says is to be done */
        return rc;
    }
    if (a == NULL)
        return -1;
    snprintf(out->address, sizeof out->address, "%s", ask_address(a));
    rc = ask_rows(a, out, err);
    if (rc == 0) {
        ask_all(a, out);
    } else {
        out->gcs = *err;
        rc = ask_here(c, out, &own);
    }
    if (rc == 0 && out->gcs.code == ERR_NONE)
        out->ask = a;
    else
        ask_close(a);
    if (rc != 0)
        nodes_fini(out);
    return rc;
}

void nodes_fini(struct nodes *n)
{
    for (size_t i = 0; i < n->n; i++)
        why_state_fini(&n->v[i].state);
    ask_close(n->ask);
    free(n->v);
    free(n->rows);
    *n = (struct nodes){.n = 0};
}

/* --- refs --- */

/* *page to be freed. */
static int ask_page(struct nodes *n,
                    const struct why_node *at,
                    uint32_t process,
                    uint64_t from,
                    void **page,
                    size_t *size,
                    struct err *err)
{
    struct ask_reply reply;
    void *bytes = why_refs_ask(process, from, size);
    struct ask_target target = target_of(at, GET_REFS, bytes, *size);

    ask_nodes(n->ask, &target, 1, NODES_WAIT_MS, &reply);
    free_bytes(&target);
    if (reply.err.code != ERR_NONE) {
        *err = reply.err;
        return -1;
    }
    int rc = why_refs_replied(reply.bytes, reply.size, page, size);
    free(reply.bytes);
    return rc == 0 ? 0 : err_set(err, ERR_PROTOCOL, "what answers there is no raylet of Ray");
}

/* The same by the session's socket. */
static int read_page(struct raylet_client *link,
                     uint32_t process,
                     uint64_t from,
                     void **page,
                     size_t *size,
                     struct err *err)
{
    struct wire_refs_ask w = {.from = from, .process = process};
    struct frame f;
    int rc;

    if (raylet_client_send(link, WIRE_REFS_ASK, &w, sizeof w, err) != 0)
        return -1;
    while ((rc = raylet_client_next(link, NODES_WAIT_MS, &f, err)) == 1 && f.h.type != WIRE_REFS)
        if (f.fd >= 0)
            close(f.fd);
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(err, ERR_TIMEOUT, "nothing came within %d ms", NODES_WAIT_MS);
    *size = f.body_size;
    *page = xmalloc(f.body_size + 1);
    memcpy(*page, f.body, f.body_size);
    return 0;
}

int nodes_ask_refs(struct nodes *n,
                   const struct why_node *at,
                   uint32_t process,
                   struct why_refs *out,
                   struct err *err)
{
    struct raylet_client *link = NULL;
    uint64_t from = 0, before;
    void *page = NULL;
    size_t size = 0;
    int rc;

    *out = (struct why_refs){.n = 0};
    if (n->ask == NULL) {
        link = raylet_client_open(n->session_dir, NODES_WAIT_MS, err);
        if (link == NULL)
            return -1;
    }
    do {
        before = from;
        rc = link != NULL ? read_page(link, process, from, &page, &size, err)
                          : ask_page(n, at, process, from, &page, &size, err);
        if (rc != 0)
            break;
        rc = why_refs_add_page(out, page, size, &from);
        free(page);
        if (rc != 0)
            err_set(err, ERR_PROTOCOL, "its answer is malformed");
        else if (out->status != WIRE_REFS_OK)
            rc = err_set(err,
                         ERR_DIED,
                         out->status == WIRE_REFS_GONE ? "it has ended"
                                                       : "it has not answered those who asked "
                                                         "before: it is stopped, or very busy");
    } while (rc == 0 && from > before); /* else its cursor goes in a circle */
    raylet_client_close(link);
    return rc;
}

bool nodes_report(const struct nodes *n, const char *command)
{
    if (n->gcs.code != ERR_NONE)
        fprintf(stderr,
                "%s: %s; of the nodes this machine's alone was asked\n",
                command,
                n->gcs.text);
    for (size_t i = 0; i < n->n; i++)
        if (!n->v[i].has_answered && n->v[i].is_driver)
            fprintf(stderr,
                    "%s: the node of a driver at %s does not answer: %s\n",
                    command,
                    n->v[i].name,
                    n->v[i].err.text);
        else if (!n->v[i].has_answered)
            fprintf(stderr,
                    "%s: node %s (%s:%d) does not answer: %s\n",
                    command,
                    n->v[i].name,
                    n->v[i].address,
                    n->v[i].port,
                    n->v[i].err.text);
    return n->gcs.code == ERR_NONE && n->n_silent == 0;
}
