/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_TURNED_CLUSTER_H
#define TESTS_FUZZ_TURNED_CLUSTER_H
/*
 * A cluster around a node that is the real one: the sessions with its N_PEERS other nodes, its data
 * port, loop and zygotes are here, and time stands still but for a step. Of one file of a program,
 * which defines on_sent and on_heard.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/remove_tree.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"
#include "tests/fuzz/turned_loop.h"
#include "tests/fuzz/turned_zygote.h"

#define N_PEERS     2
#define FIRST_GUEST 70000 /* their processes' numbers */
#define N_GUESTS    8
#define N_FILES     32

/* --- the other nodes --- */

struct peer {
    uint32_t number; /* 0: dead */
    struct unique_id id;
    void *data;
    bool is_full;
};
static struct peer others[N_PEERS];

/* The file that includes this sees what the node says to them. */
void on_sent(const struct peer *p,
             enum frame_class class,
             const struct peer_header *h,
             const void *body,
             size_t size);

struct peer *peers_find(const struct peers *ps, uint32_t number)
{
    (void)ps;
    for (int i = 0; i < N_PEERS; i++)
        if (number > 0 && others[i].number == number)
            return &others[i];
    return NULL;
}

void peers_send(struct peer *p,
                enum frame_class class,
                const struct peer_header *h,
                const void *body,
                size_t size)
{
    ASSERT(p->number > 0);
    ASSERT(h->from <= WIRE_ROUTE_NUMBER && h->to <= WIRE_ROUTE_NUMBER);
    on_sent(p, class, h, body, size);
}

uint32_t peer_number(const struct peer *p)
{
    ASSERT(p->number > 0);
    return p->number;
}

const struct unique_id *peer_node(const struct peer *p)
{
    return &p->id;
}

bool peer_has_room(const struct peer *p)
{
    return !p->is_full;
}

bool peer_only_dials(const struct peer *p)
{
    return p->number % 2 == 1;
}

void peers_call(struct peers *ps, uint32_t number)
{
    (void)ps;
    ASSERT(number > 0);
}

void peer_set_data(struct peer *p, void *data)
{
    p->data = data;
}

void *peer_data(const struct peer *p)
{
    return p->data;
}

size_t peer_backlog(const struct peer *p)
{
    return p->is_full ? PEER_BACKLOG_HIGH : 0;
}

struct peer *peers_next(const struct peers *ps, const struct peer *p)
{
    (void)ps;
    for (size_t i = p != NULL ? (size_t)(p - others) + 1 : 0, k = 0; k < N_PEERS; i++, k++)
        if (others[i % N_PEERS].number > 0)
            return &others[i % N_PEERS];
    return NULL;
}

/* What is called when the GCS does not answer; here it is the raylet's own. */

void peers_stats(const struct peers *ps, struct peers_stats *out)
{
    (void)ps;
    *out = (struct peers_stats){.n_peers = 0};
}

/* What cluster_run.c alone calls; there is no cluster_run here. */
struct peers *peers_create(const struct peers_config *config)
{
    (void)config;
    return NULL;
}

void peers_destroy(struct peers *ps)
{
    (void)ps;
}

struct peer *peers_add(struct peers *ps,
                       const struct unique_id *node,
                       uint32_t number,
                       const char *address,
                       int port)
{
    (void)ps;
    (void)node;
    (void)number;
    (void)address;
    (void)port;
    return NULL;
}

void peers_remove(struct peers *ps, struct peer *p)
{
    (void)ps;
    p->number = 0;
}

void peers_flush(struct peers *ps)
{
    (void)ps;
}

/* --- the data port: what was asked of it is answered by a step --- */

struct transfer {
    int unused;
};
static struct transfer the_port;
static struct {
    uint64_t ticket; /* 0: free */
    void *arg;
    transfer_hashed_f hashed;
    transfer_fetched_f fetched;
    transfer_done_f done;
} files[N_FILES];
static uint64_t last_ticket;

static uint64_t add_file(transfer_hashed_f hashed,
                         transfer_fetched_f fetched,
                         transfer_done_f done,
                         void *arg)
{
    for (int i = 0; i < N_FILES; i++)
        if (files[i].ticket == 0) {
            files[i].ticket = ++last_ticket;
            files[i].arg = arg;
            files[i].hashed = hashed;
            files[i].fetched = fetched;
            files[i].done = done;
            break;
        }
    return last_ticket;
}

uint64_t transfer_hash_file(struct transfer *t, int fd, transfer_hashed_f done, void *arg)
{
    ASSERT(t == &the_port && fd >= 0);
    return add_file(done, NULL, NULL, arg);
}

uint64_t transfer_fetch_file(struct transfer *t,
                             uint32_t node,
                             const struct transfer_hash *hash,
                             transfer_fetched_f done,
                             void *arg)
{
    ASSERT(t == &the_port && node > 0 && hash != NULL);
    return add_file(NULL, done, NULL, arg);
}

uint64_t transfer_pull(struct transfer *t,
                       const struct transfer_key *key,
                       uint32_t node,
                       enum transfer_priority priority,
                       transfer_done_f done,
                       void *arg)
{
    (void)key;
    (void)node;
    (void)priority;
    ASSERT(t == &the_port);
    return add_file(NULL, NULL, done, arg);
}

static void finish_file(int i, enum err_code code)
{
    const struct err err = {.code = code, .text = "no"};
    const struct transfer_hash hash = {{(uint8_t)i}};
    const struct transfer_object at = {.size = 1};
    const struct err *why = code != ERR_NONE ? &err : NULL;

    if (files[i].ticket == 0)
        return;
    files[i].ticket = 0;
    if (files[i].hashed != NULL)
        files[i].hashed(files[i].arg, why, code == ERR_NONE ? &hash : NULL);
    else if (files[i].fetched != NULL)
        files[i].fetched(files[i].arg,
                         why,
                         code == ERR_NONE ? memfd_create("fetched", MFD_CLOEXEC) : -1);
    else
        files[i].done(files[i].arg, why, code == ERR_NONE ? &at : NULL);
}

void transfer_cancel(struct transfer *t, uint64_t ticket)
{
    ASSERT(t == &the_port);
    for (int i = 0; i < N_FILES; i++)
        if (files[i].ticket == ticket)
            files[i].ticket = 0;
}

int transfer_offer_file(struct transfer *t,
                        const struct transfer_hash *hash,
                        int fd,
                        struct err *err)
{
    (void)err;
    ASSERT(t == &the_port && hash != NULL && fd >= 0);
    return 0;
}

void transfer_withdraw_file(struct transfer *t, const struct transfer_hash *hash)
{
    ASSERT(t == &the_port && hash != NULL);
}

bool transfer_find(struct transfer *t,
                   const struct transfer_key *key,
                   bool keep,
                   struct transfer_object *at)
{
    ASSERT(t == &the_port);
    (void)keep;
    *at = (struct transfer_object){.place = key->counter};
    return key->counter % 2 == 1;
}

void transfer_free(struct transfer *t, const struct transfer_key *key)
{
    ASSERT(t == &the_port && key != NULL);
}

void transfer_call(struct transfer *t, uint32_t number)
{
    ASSERT(t == &the_port && number > 0);
}

void transfer_owner_gone(struct transfer *t, uint32_t owner)
{
    ASSERT(t == &the_port && owner > 0);
}

void transfer_on_store(struct transfer *t, const struct store_action *action, const char *refusal)
{
    (void)t;
    (void)action;
    (void)refusal;
}

struct transfer *transfer_create(const struct transfer_config *config, struct err *err)
{
    (void)config;
    (void)err;
    return NULL;
}

void transfer_destroy(struct transfer *t)
{
    (void)t;
}

uint16_t transfer_port(const struct transfer *t)
{
    (void)t;
    return 0;
}

void transfer_set_self(struct transfer *t, const struct unique_id *cluster, uint32_t node)
{
    (void)t;
    (void)cluster;
    (void)node;
}

int transfer_add_node(struct transfer *t,
                      uint32_t number,
                      const char *address,
                      uint16_t port,
                      struct err *err)
{
    (void)t;
    (void)number;
    (void)address;
    (void)port;
    (void)err;
    return 0;
}

void transfer_remove_node(struct transfer *t, uint32_t number)
{
    (void)t;
    (void)number;
}

size_t transfer_list_waits(const struct transfer *t, struct transfer_wait *out, size_t max)
{
    (void)t;
    (void)out;
    (void)max;
    return 0;
}

static struct unix_link *driver; /* NULL: it has left */

/* Forks that were asked for are done at once. */
static void settle(struct loop *l, struct node *n)
{
    turn(l, n);
    for (int i = 0; i < WORKERS_MAX; i++) {
        struct worker *w = &workers[i];
        if (w->zygote == NULL || w->is_born)
            continue;
        struct wire_spawned s = {.token = w->token, .pid = w->pid};
        w->is_born = true;
        w->zygote->ops->spawned(w->zygote->arg, &s, -1);
        say_hello(w->link, WIRE_WORKER, w->token, w->pid);
    }
    turn(l, n);
    listen_to_node(driver);
    for (int i = 0; i < WORKERS_MAX; i++)
        listen_to_node(workers[i].link);
}

/* --- the whole --- */

/* As cluster_run.c does it; another one comes instead. */
static void lose(struct node *n, struct peer *p)
{
    static uint32_t last = 2000;
    uint32_t number = p->number;
    struct node_view v = {.number = ++last, .is_alive = true, .n_resources = 1};

    if (number > 0) {
        cluster_view_remove(n->view, number);
        spill_run_on_node_lost(n, number, "it is dead");
        seek_run_on_node_lost(n, number);
        job_elsewhere_on_node_lost(n, number);
        guest_run_end_all(n, p);
        for (uint32_t i = 0; i < n->n_guests; i++)
            ASSERT(n->guests[i] == NULL || n->guests[i]->at != p);
    }
    *p = (struct peer){.number = last, .id = {{(uint8_t)last}}};
    snprintf(v.resources[0].name, sizeof v.resources[0].name, "CPU");
    v.resources[0].total = v.resources[0].available = 80000;
    cluster_view_set(n->view, &v);
    guest_run_on_node(n, p);
}

/* A driver, and a cluster around the node. */
static void begin(struct loop *l, struct node *n)
{
    struct err err;
    int fds[2];

    ASSERT(n->number > 0);
    lease_table_number(n->leases, (uint64_t)n->number << LEASE_NODE_SHIFT);
    n->view = cluster_view_create(n->number, 1);
    cluster_view_set_self(n->view, &n->resources);
    n->peers = (struct peers *)(void *)others; /* not NULL; nobody looks into it */
    n->transfer = &the_port;
    gcs_relay_init(n);
    spill_run_init(n);
    seek_run_init(n);
    for (int i = 0; i < N_PEERS; i++) {
        others[i].number = 0;
        lose(n, &others[i]);
    }
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    driver = unix_link_create(fds[1], 0);
    struct process *p = node_add_process(n, WIRE_DRIVER, fds[0]);
    job_begin(p, getpid(), (int)syscall(SYS_pidfd_open, getpid(), 0), dup(0));
    ASSERT(store_run_greet_driver(p, &err) == 0);
    say_hello(driver, WIRE_DRIVER, 0, getpid());
    settle(l, n);
    settle(l, n);
    ASSERT(p->welcomed);
}

/* As cluster_run.c does it. */
static void end(struct node *n)
{
    for (int i = 0; i < N_FILES; i++)
        finish_file(i, ERR_CANCELED);
    n->transfer = NULL;
    spill_run_fini(n);
    seek_run_fini(n);
    guest_run_end_all(n, NULL);
    job_elsewhere_forget_kept(n);
    n->peers = NULL;
    gcs_relay_fini(n);
    cluster_view_destroy(n->view);
    n->view = NULL;
    node_destroy(n);
    unix_link_destroy(driver);
    driver = NULL;
}

#endif /* TESTS_FUZZ_TURNED_CLUSTER_H */
