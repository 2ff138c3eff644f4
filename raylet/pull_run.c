/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processes of this machine want of objects in the stores of others: to have them here, or
 * to be rid of them. transfer.c brings them; FREE goes to the node where an object was made, whose
 * raylet tells those that it served (docs/design/several-machines.md).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define PULLS_MAX 65536 /* of one process at once */

/* A STORE_PULL that was not answered yet. */
struct pull {
    struct list node; /* of its process */
    struct process *process;
    uint64_t ticket, transfer; /* of the process; of transfer.c */
};

struct transfer_key pull_run_key(const struct wire_key *k)
{
    return (struct transfer_key){.counter = k->counter,
                                 .owner = k->owner,
                                 .index = k->index,
                                 .attempt = k->attempt};
}

/* --- wanted here --- */

static void send_failed(struct process *p, uint64_t ticket, enum err_code code, const char *text)
{
    uint8_t buf[sizeof(struct wire_store_pull_failed) + 400];
    struct wire_store_pull_failed w = {.ticket = ticket, .code = code};
    char *sentence = (char *)buf + sizeof w;

    memcpy(buf, &w, sizeof w);
    snprintf(sentence, sizeof buf - sizeof w, "%s", text);
    node_send(p, WIRE_STORE_PULL_FAILED, buf, sizeof w + strlen(sentence));
}

static void drop(struct pull *pull)
{
    pull->process->n_pulls--;
    list_remove(&pull->node);
    free(pull);
}

static void on_done(void *arg, const struct err *err, const struct transfer_object *at)
{
    struct pull *pull = arg;

    if (err != NULL) {
        send_failed(pull->process, pull->ticket, err->code, err->text);
    } else {
        struct wire_store_pulled w = {.ticket = pull->ticket,
                                      .place = at->place,
                                      .offset = at->offset,
                                      .size = at->size,
                                      .n_refs = at->n_refs};
        node_send(pull->process, WIRE_STORE_PULLED, &w, sizeof w);
    }
    drop(pull);
}

static void on_pull(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_store_pull w;

    if (size < sizeof w) {
        node_refuse(p, "malformed STORE_PULL");
        return;
    }
    memcpy(&w, body, sizeof w);
    if (n->transfer == NULL || p->n_pulls == PULLS_MAX) {
        send_failed(p,
                    w.ticket,
                    n->transfer == NULL ? ERR_NOT_FOUND : ERR_FULL,
                    n->transfer == NULL ? "this raylet is alone: there is no other node"
                                        : "too many objects are asked for at once");
        return;
    }
    struct transfer_key key = pull_run_key(&w.key);
    struct pull *pull = xcalloc(1, sizeof *pull);
    pull->process = p;
    pull->ticket = w.ticket;
    list_append(&p->pulls, &pull->node);
    p->n_pulls++;
    pull->transfer = transfer_pull(
        n->transfer,
        &key,
        w.node,
        w.priority <= WIRE_PULL_ARGUMENT ? (enum transfer_priority)w.priority : TRANSFER_ARGUMENT,
        on_done,
        pull);
}

static void on_cancel(struct process *p, const uint8_t *body, size_t size)
{
    struct wire_store_pull_cancel w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    list_for_each(m, &p->pulls)
    {
        struct pull *pull = list_entry(m, struct pull, node);
        if (pull->ticket != w.ticket)
            continue;
        transfer_cancel(p->node->transfer, pull->transfer);
        drop(pull);
        return;
    }
}

void pull_run_on_gone(struct process *p)
{
    list_for_each_safe(m, &p->pulls)
    {
        struct pull *pull = list_entry(m, struct pull, node);
        transfer_cancel(p->node->transfer, pull->transfer);
        drop(pull);
    }
}

/* --- not wanted any more --- */

/* In this store, and where it was served from here. */
static void free_here(struct node *n, const struct transfer_key *key, bool is_abort)
{
    if (is_abort)
        store_abort(n->store,
                    key->owner,
                    key->counter,
                    key->attempt,
                    loop_now_ms(),
                    &n->store_actions);
    else if (n->transfer != NULL)
        transfer_free(n->transfer, key);
}

static void send_free(struct node *n, uint32_t node, const struct transfer_key *key, bool is_abort)
{
    struct peer *p = n->peers != NULL ? peers_find(n->peers, node) : NULL;
    struct peer_header h = {.type = PEER_FREE};
    struct peer_free w = {.counter = key->counter,
                          .owner = key->owner,
                          .index = key->index,
                          .attempt = key->attempt,
                          .is_abort = is_abort};

    if (p != NULL) /* else it is dead, and its store with it */
        peers_send(p, FRAME_CALLS, &h, &w, sizeof w);
}

void pull_run_send_free(void *arg, uint32_t node, const struct transfer_key *key)
{
    send_free(arg, node, key, false);
}

void pull_run_send_call(void *arg, uint32_t node)
{
    const struct node *n = arg;
    struct peer *p = peers_find(n->peers, node);
    struct peer_header h = {.type = PEER_DATA_CALL};

    if (p != NULL)
        peers_send(p, FRAME_CONTROL, &h, NULL, 0);
}

static void on_free_at(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_store_free_at w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct transfer_key key = pull_run_key(&w.key);
    if (key.owner != p->number)
        node_refuse(p, "STORE_FREE_AT for what another owns");
    else if (w.node == n->number)
        free_here(n, &key, w.is_abort != 0);
    else
        send_free(n, w.node, &key, w.is_abort != 0);
}

void pull_run_on_free(struct node *n, const uint8_t *body, size_t size)
{
    struct peer_free w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct transfer_key key = {.counter = w.counter,
                               .owner = w.owner,
                               .index = w.index,
                               .attempt = w.attempt};
    free_here(n, &key, w.is_abort != 0);
}

bool pull_run_on_frame(struct process *p, uint8_t type, const uint8_t *body, size_t size)
{
    switch (type) {
    case WIRE_STORE_PULL:
        on_pull(p, body, size);
        return true;
    case WIRE_STORE_PULL_CANCEL:
        on_cancel(p, body, size);
        return true;
    case WIRE_STORE_FREE_AT:
        on_free_at(p, body, size);
        return true;
    case WIRE_STORE_SEEK:
        seek_run_on_seek(p, body, size);
        return true;
    default:
        return false;
    }
}
