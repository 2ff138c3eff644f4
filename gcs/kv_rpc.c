/* SPDX-License-Identifier: Apache-2.0 */
/* The service of keys and values. */
#include <stdlib.h>
#include <string.h>

#include "gcs/kv.h"
#include "gcs/message_codec.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "proto/gcs.pb-c.h"

#define STATUS_NOT_FOUND 17 /* as Ray's tools know it */

static int make_key(struct rpc_call *call,
                    const ProtobufCBinaryData *ns,
                    const ProtobufCBinaryData *key,
                    struct kv_key *out)
{
    struct err err;

    if (kv_key_make(ns->data, ns->len, key->data, key->len, out, &err) == 0)
        return 0;
    rpc_call_fail(call, err.code, "%s", err.text);
    return -1;
}

/* --- get, exists --- */

static void on_got(void *arg, enum err_code code, const void *value, size_t size)
{
    struct asking *a = arg;
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVGetReply reply = RAY__RPC__INTERNAL_KVGET_REPLY__INIT;
    static char missing[] = "no such key";

    reply.status = &status;
    if (code == ERR_NOT_FOUND) {
        status.code = STATUS_NOT_FOUND;
        status.message = missing;
    } else if (code == ERR_NONE) {
        reply.value = (ProtobufCBinaryData){size, (uint8_t *)(uintptr_t)value};
    }
    if (code != ERR_NONE && code != ERR_NOT_FOUND)
        gcs_fail(a->server, a->call, code, "get a value");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void on_get(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVGetRequest *m =
        message_of(call, &ray__rpc__internal_kvget_request__descriptor);
    struct kv_key key;

    if (m == NULL)
        return;
    if (make_key(call, &m->namespace_, &m->key, &key) == 0)
        store_get(g->store, KV_TABLE, key.text, on_got, asking(g, call));
    ray__rpc__internal_kvget_request__free_unpacked(m, NULL);
}

static void on_existing(void *arg, enum err_code code, const void *value, size_t size)
{
    struct asking *a = arg;
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVExistsReply reply = RAY__RPC__INTERNAL_KVEXISTS_REPLY__INIT;

    (void)value;
    (void)size;
    reply.status = &status;
    reply.exists = code == ERR_NONE;
    if (code != ERR_NONE && code != ERR_NOT_FOUND)
        gcs_fail(a->server, a->call, code, "look for a key");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void on_exists(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVExistsRequest *m =
        message_of(call, &ray__rpc__internal_kvexists_request__descriptor);
    struct kv_key key;

    if (m == NULL)
        return;
    if (make_key(call, &m->namespace_, &m->key, &key) == 0)
        store_get(g->store, KV_TABLE, key.text, on_existing, asking(g, call));
    ray__rpc__internal_kvexists_request__free_unpacked(m, NULL);
}

/* --- get of many --- */

struct getting {
    struct asking asking;
    size_t n, n_open, at; /* at: the next to be told, in the order of the calls */
    enum err_code code;
    Ray__Rpc__InternalKVMultiGetRequest *request;
    Ray__Rpc__MapFieldEntry *entries, **found;
    size_t n_found;
};

static void free_getting(struct getting *w)
{
    for (size_t i = 0; i < w->n_found; i++)
        free(w->found[i]->value.data);
    ray__rpc__internal_kvmulti_get_request__free_unpacked(w->request, NULL);
    free(w->entries);
    free(w->found);
    free(w);
}

static void end_getting(struct getting *w)
{
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVMultiGetReply reply = RAY__RPC__INTERNAL_KVMULTI_GET_REPLY__INIT;

    reply.status = &status;
    reply.n_results = w->n_found;
    reply.results = w->found;
    if (w->code != ERR_NONE)
        gcs_fail(w->asking.server, w->asking.call, w->code, "get values");
    else
        message_reply(w->asking.call, &reply.base);
    free_getting(w);
}

static void on_got_one(void *arg, enum err_code code, const void *value, size_t size)
{
    struct getting *w = arg;
    Ray__Rpc__MapFieldEntry *e = &w->entries[w->n_found];

    if (code == ERR_NONE) {
        ray__rpc__map_field_entry__init(e);
        e->key = w->request->keys[w->at]; /* borrowed */
        e->value.len = size;
        e->value.data = xmalloc(size + 1);
        memcpy(e->value.data, value, size);
        w->found[w->n_found++] = e;
    } else if (code != ERR_NOT_FOUND && w->code == ERR_NONE) {
        w->code = code;
    }
    w->at++;
    if (--w->n_open == 0)
        end_getting(w);
}

static void on_multi_get(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVMultiGetRequest *m =
        message_of(call, &ray__rpc__internal_kvmulti_get_request__descriptor);
    struct kv_key key;

    if (m == NULL)
        return;
    if (m->n_keys > 10000) {
        rpc_call_fail(call, ERR_INVALID, "at most 10000 keys at once");
        ray__rpc__internal_kvmulti_get_request__free_unpacked(m, NULL);
        return;
    }
    for (size_t i = 0; i < m->n_keys; i++)
        if (make_key(call, &m->namespace_, &m->keys[i], &key) != 0) {
            ray__rpc__internal_kvmulti_get_request__free_unpacked(m, NULL);
            return;
        }
    struct getting *w = xcalloc(1, sizeof *w);
    w->asking = (struct asking){.server = g, .call = call};
    w->request = m;
    w->n = w->n_open = m->n_keys;
    w->entries = xcalloc(m->n_keys + 1, sizeof *w->entries);
    w->found = xcalloc(m->n_keys + 1, sizeof *w->found);
    if (w->n == 0) {
        end_getting(w);
        return;
    }
    for (size_t i = 0; i < w->n; i++) {
        kv_key_make(m->namespace_.data,
                    m->namespace_.len,
                    m->keys[i].data,
                    m->keys[i].len,
                    &key,
                    NULL);
        store_get(g->store, KV_TABLE, key.text, on_got_one, w);
    }
}

/* --- put --- */

struct putting {
    struct asking asking;
    bool was_there; /* before a put that replaces */
};

static void on_put_done(void *arg, enum err_code code)
{
    struct putting *p = arg;
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVPutReply reply = RAY__RPC__INTERNAL_KVPUT_REPLY__INIT;

    reply.status = &status;
    reply.added = code == ERR_NONE && !p->was_there;
    if (code == ERR_INVALID)
        rpc_call_fail(p->asking.call, code, "a value has at most %u bytes", STORE_VALUE_MAX);
    else if (code != ERR_NONE && code != ERR_EXISTS)
        gcs_fail(p->asking.server, p->asking.call, code, "put a value");
    else
        message_reply(p->asking.call, &reply.base);
    free(p);
}

static void on_looked(void *arg, enum err_code code, const void *value, size_t size)
{
    struct putting *p = arg;

    (void)value;
    (void)size;
    p->was_there = code == ERR_NONE;
}

static void on_put(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVPutRequest *m =
        message_of(call, &ray__rpc__internal_kvput_request__descriptor);
    struct kv_key key;

    if (m == NULL)
        return;
    if (make_key(call, &m->namespace_, &m->key, &key) == 0) {
        struct putting *p = xcalloc(1, sizeof *p);
        p->asking = (struct asking){.server = g, .call = call};
        if (m->overwrite) /* told before the put */
            store_get(g->store, KV_TABLE, key.text, on_looked, p);
        store_put(g->store,
                  KV_TABLE,
                  key.text,
                  m->value.data,
                  m->value.len,
                  m->overwrite ? STORE_PUT_ANY : STORE_PUT_NEW,
                  on_put_done,
                  p);
    }
    ray__rpc__internal_kvput_request__free_unpacked(m, NULL);
}

/* --- delete --- */

struct deleting {
    struct asking asking;
    size_t n_open, n_deleted;
    enum err_code code;
};

/* One less to wait for. */
static void deleted(struct deleting *d, enum err_code code)
{
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVDelReply reply = RAY__RPC__INTERNAL_KVDEL_REPLY__INIT;

    if (code != ERR_NONE && code != ERR_NOT_FOUND && d->code == ERR_NONE)
        d->code = code;
    if (--d->n_open > 0)
        return;
    reply.status = &status;
    reply.deleted_num = (int32_t)d->n_deleted;
    if (d->code != ERR_NONE)
        gcs_fail(d->asking.server, d->asking.call, d->code, "delete keys");
    else
        message_reply(d->asking.call, &reply.base);
    free(d);
}

static void on_deleted(void *arg, enum err_code code)
{
    struct deleting *d = arg;

    d->n_deleted += code == ERR_NONE;
    deleted(d, code);
}

static void on_found(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct deleting *d = arg;
    struct store *store = d->asking.server->store;

    (void)value;
    (void)size;
    if (key == NULL) {
        deleted(d, code);
    } else if (store != NULL) {
        d->n_open++;
        store_remove(store, KV_TABLE, key, on_deleted, d);
    }
}

static void on_delete(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVDelRequest *m =
        message_of(call, &ray__rpc__internal_kvdel_request__descriptor);
    struct kv_key key;

    if (m == NULL)
        return;
    if (make_key(call, &m->namespace_, &m->key, &key) == 0) {
        struct deleting *d = xcalloc(1, sizeof *d);
        d->asking = (struct asking){.server = g, .call = call};
        d->n_open = 1;
        if (m->del_by_prefix)
            store_scan(g->store, KV_TABLE, key.text, on_found, d);
        else
            store_remove(g->store, KV_TABLE, key.text, on_deleted, d);
    }
    ray__rpc__internal_kvdel_request__free_unpacked(m, NULL);
}

/* --- keys --- */

struct listing {
    struct asking asking;
    size_t ns_size, n;
    ProtobufCBinaryData *keys;
};

static void on_key(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct listing *l = arg;
    Ray__Rpc__GcsStatus status = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__InternalKVKeysReply reply = RAY__RPC__INTERNAL_KVKEYS_REPLY__INIT;
    uint8_t bytes[STORE_KEY_MAX];

    (void)value;
    (void)size;
    if (key != NULL) {
        size_t n = kv_key_bytes(key, l->ns_size, bytes);
        if ((l->n & (l->n - 1)) == 0)
            l->keys = xrealloc(l->keys, 2 * (l->n + 1) * sizeof *l->keys);
        l->keys[l->n] = (ProtobufCBinaryData){n, xmalloc(n + 1)};
        memcpy(l->keys[l->n++].data, bytes, n);
        return;
    }
    reply.status = &status;
    reply.n_results = l->n;
    reply.results = l->keys;
    if (code != ERR_NONE)
        gcs_fail(l->asking.server, l->asking.call, code, "list keys");
    else
        message_reply(l->asking.call, &reply.base);
    for (size_t i = 0; i < l->n; i++)
        free(l->keys[i].data);
    free(l->keys);
    free(l);
}

static void on_keys(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__InternalKVKeysRequest *m =
        message_of(call, &ray__rpc__internal_kvkeys_request__descriptor);
    struct kv_key prefix;

    if (m == NULL)
        return;
    if (make_key(call, &m->namespace_, &m->prefix, &prefix) == 0) {
        struct listing *l = xcalloc(1, sizeof *l);
        l->asking = (struct asking){.server = g, .call = call};
        l->ns_size = m->namespace_.len;
        store_scan(g->store, KV_TABLE, prefix.text, on_key, l);
    }
    ray__rpc__internal_kvkeys_request__free_unpacked(m, NULL);
}

const struct rpc_method gcs_kv_methods[] = {
    {"/ray.rpc.InternalKVGcsService/InternalKVGet", on_get},
    {"/ray.rpc.InternalKVGcsService/InternalKVMultiGet", on_multi_get},
    {"/ray.rpc.InternalKVGcsService/InternalKVPut", on_put},
    {"/ray.rpc.InternalKVGcsService/InternalKVDel", on_delete},
    {"/ray.rpc.InternalKVGcsService/InternalKVExists", on_exists},
    {"/ray.rpc.InternalKVGcsService/InternalKVKeys", on_keys},
    {NULL, NULL},
};
