/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/host_port.h"
#include "lib/net/loop.h"
#include "lib/net/rpc_client.h"
#include "raylet/node_file.h"

struct ask {
    struct loop *loop;
    struct rpc_bridge *bridge;
    struct rpc_client *client;
    struct auth_token token;
    char address[300];
    int timeout_ms;
    size_t n_open;           /* calls of ask_nodes */
    struct rpc_client *kept; /* the one to the node that was asked last, or NULL */
    char kept_target[320];
    /* the call under way */
    bool is_done;
    struct err err;
    void *reply;
    size_t size;
};

/* --- which cluster --- */

static int find_local(const struct config *c,
                      char *address,
                      size_t size,
                      struct auth_token *token,
                      struct err *err)
{
    const char *temp = config_text(c, CONFIG_TEMP_DIR);
    size_t n, i = 0;
    struct node_file *nodes = node_file_list(temp, &n);

    while (i < n && nodes[i].gcs_address[0] == '\0')
        i++;
    if (i == n) {
        free(nodes);
        return err_set(err,
                       ERR_NOT_FOUND,
                       "no node of yours runs on this machine (looked in %.100s): name the cluster "
                       "by --address=HOST:PORT or RAY_ADDRESS, or start one by `ray start --head`",
                       temp);
    }
    snprintf(address, size, "%s", nodes[i].gcs_address);
    int rc = getenv("RAY_AUTH_TOKEN") != NULL
                 ? auth_token_load(token, err)
                 : node_file_load_token(nodes[i].session_dir, token, err);
    free(nodes);
    return rc;
}

/* As gRPC names it. */
static int target_of(const char *address, char *out, size_t size, struct err *err)
{
    struct host_port at;

    if (host_port_parse(address, 0, &at, err) != 0)
        return err_prefix(err, "the cluster's address, as `ray start --head` printed it");
    rpc_target(at.host, at.port, out, size);
    return 0;
}

struct ask *ask_open(const struct config *c, int timeout_ms, struct err *err)
{
    struct ask *a = xcalloc(1, sizeof *a);
    const char *named = config_text(c, CONFIG_ADDRESS);
    char target[320];
    int rc;

    a->timeout_ms = timeout_ms;
    if (named[0] == '\0' || strcmp(named, "auto") == 0 || named[0] == '/') {
        rc = find_local(c, a->address, sizeof a->address, &a->token, err);
    } else {
        snprintf(a->address, sizeof a->address, "%s", named);
        rc = auth_token_load(&a->token, err);
        if (rc != 0 && err->code == ERR_NOT_FOUND)
            err_prefix(err, "`ray get-auth-token` prints it on the head's machine");
    }
    if (rc != 0 || target_of(a->address, target, sizeof target, err) != 0)
        goto fail;
    a->loop = loop_create(err);
    a->bridge = a->loop != NULL ? rpc_bridge_create(a->loop, err) : NULL;
    if (a->bridge == NULL)
        goto fail;
    a->client = rpc_client_create(
        &(struct rpc_client_config){.bridge = a->bridge, .address = target, .token = &a->token});
    return a;
fail:
    ask_close(a);
    return NULL;
}

void ask_close(struct ask *a)
{
    if (a == NULL)
        return;
    rpc_client_destroy(a->kept);
    rpc_client_destroy(a->client);
    rpc_bridge_destroy(a->bridge);
    loop_destroy(a->loop);
    free(a);
}

const char *ask_address(const struct ask *a)
{
    return a->address;
}

int ask_timeout(const struct ask *a)
{
    return a->timeout_ms;
}

/* --- a call --- */

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct ask *a = arg;

    a->is_done = true;
    a->err = (struct err){.code = ERR_NONE};
    if (err != NULL) {
        a->err = *err;
    } else {
        a->reply = xmalloc(size + 1);
        a->size = size;
        if (size > 0)
            memcpy(a->reply, bytes, size);
    }
    loop_stop(a->loop);
}

static void turn_end(void *arg)
{
    (void)arg;
}

int ask_call_within(struct ask *a,
                    int ms,
                    const char *path,
                    const void *bytes,
                    size_t size,
                    void **reply,
                    size_t *reply_size,
                    struct err *err)
{
    a->is_done = false;
    rpc_client_call(a->client, path, size > 0 ? bytes : "", size, (uint32_t)ms, true, on_reply, a);
    while (!a->is_done)
        loop_run(a->loop, turn_end, NULL);
    if (a->err.code == ERR_NONE) {
        *reply = a->reply;
        *reply_size = a->size;
        return 0;
    }
    if (a->err.code == ERR_TIMEOUT || a->err.code == ERR_AWAY)
        return err_set(err,
                       a->err.code,
                       "no GCS answers at %s within %d ms: does the cluster run, and is this its "
                       "head's address?",
                       a->address,
                       ms);
    return err_set(err, a->err.code, "%s: %s", a->address, a->err.text);
}

int ask_call(struct ask *a,
             const char *path,
             const void *bytes,
             size_t size,
             void **reply,
             size_t *reply_size,
             struct err *err)
{
    return ask_call_within(a, a->timeout_ms, path, bytes, size, reply, reply_size, err);
}

/* --- calls to nodes --- */

struct node_call {
    struct ask *ask;
    struct rpc_client *client;
    struct ask_reply *reply;
    int timeout_ms;
    bool is_dialled; /* else the GCS asks it */
};

static void on_node_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct node_call *c = arg;
    struct ask_reply *r = c->reply;

    if (err != NULL && err->code == ERR_TIMEOUT) {
        err_set(&r->err,
                ERR_TIMEOUT,
                "nothing came within %d ms: it is stopped, has just died, or %s",
                c->timeout_ms,
                c->is_dialled ? "cannot be reached from here" : "is cut off from the head");
    } else if (err != NULL) {
        r->err = *err;
    } else {
        r->bytes = xmalloc(size + 1);
        r->size = size;
        if (size > 0)
            memcpy(r->bytes, bytes, size);
    }
    if (--c->ask->n_open == 0)
        loop_stop(c->ask->loop);
}

/* The one that is kept, if it goes there; else a new one. */
static struct rpc_client *connect_to(struct ask *a, const struct ask_target *t, char target[320])
{
    rpc_target(t->host, t->port, target, 320);
    if (a->kept != NULL && strcmp(target, a->kept_target) == 0) {
        struct rpc_client *kept = a->kept;
        a->kept = NULL;
        return kept;
    }
    return rpc_client_create(
        &(struct rpc_client_config){.bridge = a->bridge, .address = target, .token = &a->token});
}

void ask_nodes(struct ask *a,
               const struct ask_target *targets,
               size_t n,
               int timeout_ms,
               struct ask_reply *replies)
{
    struct node_call *calls = xcalloc(n + 1, sizeof *calls);
    struct rpc_client *last = NULL;
    char target[320] = "";

    a->n_open = n;
    for (size_t i = 0; i < n; i++) {
        replies[i] = (struct ask_reply){.bytes = NULL};
        calls[i] = (struct node_call){.ask = a,
                                      .reply = &replies[i],
                                      .timeout_ms = timeout_ms,
                                      .is_dialled = targets[i].host != NULL};
        calls[i].client = calls[i].is_dialled ? connect_to(a, &targets[i], target) : a->client;
        last = calls[i].is_dialled ? calls[i].client : last;
        rpc_client_call(calls[i].client,
                        targets[i].path,
                        targets[i].size > 0 ? targets[i].bytes : "",
                        targets[i].size,
                        (uint32_t)timeout_ms,
                        true,
                        on_node_reply,
                        &calls[i]);
    }
    while (a->n_open > 0)
        loop_run(a->loop, turn_end, NULL);
    for (size_t i = 0; i < n; i++)
        if (calls[i].is_dialled && calls[i].client != last)
            rpc_client_destroy(calls[i].client);
    if (last != NULL) { /* who asks one node page by page dials it once */
        rpc_client_destroy(a->kept);
        a->kept = last;
        memcpy(a->kept_target, target, sizeof target);
    }
    free(calls);
}
