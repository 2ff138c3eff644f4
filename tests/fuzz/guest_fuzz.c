/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what other raylets say to a node, what its own driver and workers ask of other
 * machines meanwhile, and which nodes die. The node is the real one with a cluster of this file
 * around it: its sessions, data port, loop and zygotes are here, and time stands still but for a
 * step. What the node answers to owners elsewhere is counted against what they asked for.
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
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/turned_loop.h"

#define WORKERS_MAX 32
#define FIRST_PID   0x7f000000 /* above all that there can be */
#define N_PEERS     2
#define FIRST_GUEST 70000 /* their processes' numbers */
#define N_GUESTS    8
#define N_TICKETS   4
#define N_FILES     32

int kill(pid_t pid, int signal); /* ours: see below */

/* --- the other nodes --- */

struct peer {
    uint32_t number; /* 0: dead */
    void *data;
    bool is_full;
    int64_t owed[N_GUESTS][N_TICKETS]; /* units that their owners asked for here */
    bool is_asked[256];                /* by the process here with that number */
};
static struct peer others[N_PEERS];

struct peer *peers_find(const struct peers *ps, uint32_t number)
{
    (void)ps;
    for (int i = 0; i < N_PEERS; i++)
        if (number > 0 && others[i].number == number)
            return &others[i];
    return NULL;
}

static void answered(struct peer *p, uint32_t owner, uint64_t ticket, uint32_t count)
{
    if (owner - FIRST_GUEST >= N_GUESTS || ticket >= N_TICKETS)
        return;
    p->owed[owner - FIRST_GUEST][ticket] -= count;
    ASSERT(p->owed[owner - FIRST_GUEST][ticket] >= 0); /* INV-18 */
}

void peers_send(struct peer *p,
                enum frame_class class,
                const struct peer_header *h,
                const void *body,
                size_t size)
{
    struct peer_rejected rejected;
    struct wire_lease_grant grant;
    struct wire_lease_canceled canceled;
    struct wire_process_dead dead;

    (void)class;
    ASSERT(p->number > 0);
    ASSERT(h->from <= WIRE_ROUTE_NUMBER && h->to <= WIRE_ROUTE_NUMBER);
    if (h->type == PEER_REJECTED && h->to == 0) {
        ASSERT(size >= sizeof rejected);
        memcpy(&rejected, body, sizeof rejected);
        answered(p, rejected.owner, rejected.ticket, rejected.count);
    } else if (h->type == PEER_SPILL && h->from < 256) {
        p->is_asked[h->from] = true;
    } else if (h->type == PEER_PROCESS_DEAD) {
        ASSERT(size >= sizeof dead);
        memcpy(&dead, body, sizeof dead);
        if (dead.process < 256)
            p->is_asked[dead.process] = false;
    } else if (h->from == 0 && h->type == WIRE_LEASE_GRANT) {
        ASSERT(size >= sizeof grant);
        memcpy(&grant, body, sizeof grant);
        answered(p, h->to, grant.ticket, 1);
    } else if (h->from == 0 && (h->type == WIRE_LEASE_CANCELED || h->type == WIRE_LEASE_REFUSED)) {
        ASSERT(size >= sizeof canceled);
        memcpy(&canceled, body, sizeof canceled);
        answered(p, h->to, canceled.ticket, canceled.count);
    }
}

uint32_t peer_number(const struct peer *p)
{
    ASSERT(p->number > 0);
    return p->number;
}

bool peer_has_room(const struct peer *p)
{
    return !p->is_full;
}

void peer_set_data(struct peer *p, void *data)
{
    p->data = data;
}

void *peer_data(const struct peer *p)
{
    return p->data;
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

void transfer_free(struct transfer *t, const struct transfer_key *key)
{
    ASSERT(t == &the_port && key != NULL);
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

/* --- zygotes whose forks are entries of a table --- */

struct zygote {
    const struct zygote_ops *ops;
    void *arg;
};

static struct worker {
    struct unix_link *link; /* its end; NULL: closed */
    struct zygote *zygote;  /* NULL: the entry is free */
    uint64_t token;
    int32_t pid;
    bool is_born;
} workers[WORKERS_MAX];
static int32_t last_pid;

struct zygote *zygote_create(struct loop *loop,
                             const struct zygote_config *config,
                             const struct zygote_ops *ops,
                             void *arg,
                             struct err *err)
{
    struct zygote *z = xcalloc(1, sizeof *z);

    (void)loop;
    (void)err;
    ASSERT(config->executable_fd >= 0);
    z->ops = ops;
    z->arg = arg;
    return z;
}

static void forget(struct worker *w)
{
    unix_link_destroy(w->link);
    *w = (struct worker){0};
}

void zygote_destroy(struct zygote *z)
{
    for (int i = 0; z != NULL && i < WORKERS_MAX; i++)
        if (workers[i].zygote == z)
            forget(&workers[i]);
    free(z);
}

int zygote_start(struct zygote *z, struct err *err)
{
    (void)z;
    (void)err;
    return 0;
}

int zygote_spawn(struct zygote *z,
                 uint64_t token,
                 uint32_t slot,
                 const int fds[ZYGOTE_PARTS],
                 struct err *err)
{
    int i = 0;

    (void)slot;
    for (int k = 1; k < ZYGOTE_PARTS; k++)
        close(fds[k]);
    while (i < WORKERS_MAX && workers[i].zygote != NULL)
        i++;
    if (i == WORKERS_MAX) {
        close(fds[0]);
        return err_set(err, ERR_FULL, "no more");
    }
    workers[i] = (struct worker){.zygote = z, .token = token, .pid = ++last_pid};
    workers[i].link = unix_link_create(fds[0], 0);
    return 0;
}

void zygote_flush(struct zygote *z)
{
    (void)z;
}

bool zygote_stop(struct zygote *z, uint32_t end_ms)
{
    (void)z;
    (void)end_ms;
    return false;
}

bool zygote_end(struct zygote *z, int end_ms)
{
    (void)z;
    (void)end_ms;
    return true;
}

const char *zygote_why(const struct zygote *z)
{
    (void)z;
    return "";
}

int32_t zygote_pid(const struct zygote *z)
{
    (void)z;
    return 0;
}

void zygote_sweep(const int32_t *spared, size_t n_spared)
{
    (void)spared;
    (void)n_spared;
}

bool zygote_is_parent(const struct zygote *z, int32_t pid)
{
    (void)z;
    return pid > FIRST_PID;
}

void machine_run_init(struct node *n)
{
    (void)n;
}

void machine_run_fini(struct node *n)
{
    (void)n;
}

/* Instead of libc's: nothing of this process's machine is ever killed. */
int kill(pid_t pid, int signal)
{
    (void)pid;
    (void)signal;
    return 0;
}

/* --- what the processes here say --- */

static struct unix_link *driver; /* NULL: it has left */

static void say(struct unix_link *link, uint8_t type, uint32_t route, const void *body, size_t size)
{
    if (link != NULL && unix_link_send(link, FRAME_CONTROL, type, route, body, size) == 0)
        unix_link_flush(link, NULL);
}

static void say_hello(struct unix_link *link, enum wire_kind kind, uint64_t token, int32_t pid)
{
    struct wire_hello h = {.protocol = WIRE_PROTOCOL,
                           .kind = kind,
                           .token = token,
                           .pid = pid,
                           .build = NODE_BUILD};

    say(link, WIRE_HELLO, 0, &h, sizeof h);
}

static void listen_to_node(struct unix_link *link)
{
    struct frame f;
    struct err err;
    int rc;
    long n;

    do {
        n = link != NULL ? unix_link_read(link, &err) : 0;
        while (link != NULL && (rc = unix_link_next(link, &f, &err)) != 0) {
            ASSERT(rc == 1);
            if (f.fd >= 0)
                close(f.fd);
        }
    } while (n > 0);
}

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

/* --- steps --- */

struct request {
    struct wire_lease_request w;
    struct wire_resource r;
    char name[4];
} __attribute__((packed));

static struct request make_request(struct input *in)
{
    uint8_t b = input_u8(in);
    struct request q = {.w = {.ticket = b % N_TICKETS, .count = 1 + (b >> 2) % 4, .n_resources = 1},
                        .r = {.name = "CPU", .units = input_u8(in) * 500},
                        .name = "work"};

    return q;
}

/* A process somewhere: theirs, the driver here, a worker here, no one. */
static uint32_t any_process(const struct node *n, uint8_t b)
{
    const struct process *p = n->processes[b / 8 % 4];

    if (b % 8 < 4)
        return FIRST_GUEST + b / 8 % N_GUESTS;
    if (b % 8 < 7)
        return p != NULL ? p->number : 0;
    return b == 255 ? UINT32_MAX : b / 8u;
}

static uint32_t any_node(const struct node *n, uint8_t b)
{
    return b % 4 < N_PEERS ? others[b % 4].number : n->number;
}

static uint32_t any_job(const struct node *n, uint8_t b)
{
    return b % 4 == 0 ? b / 4 % 2 * job_first(n) : 900u + b % 4;
}

static void tell(struct node *n,
                 struct peer *from,
                 const struct peer_header *h,
                 const void *body,
                 size_t size)
{
    if (from->number > 0)
        guest_run_on_message(n, from, h, body, size);
}

static void say_spill(struct node *n, struct peer *from, struct input *in)
{
    uint8_t b = input_u8(in);
    uint32_t owner = input_u8(in) % N_GUESTS;
    struct {
        struct peer_spill w;
        struct request q;
    } __attribute__((packed))
    m = {.w = {.job = any_job(n, b), .home = any_node(n, b >> 4), .pid = 7, .now = b >> 7},
         .q = make_request(in)};
    struct peer_header h = {.from = FIRST_GUEST + owner, .type = PEER_SPILL};

    if (from->number > 0)
        from->owed[owner][m.q.w.ticket] += m.q.w.count;
    tell(n, from, &h, &m, sizeof m);
}

static void say_job(struct node *n, struct peer *from, struct input *in)
{
    uint8_t b = input_u8(in);
    struct {
        struct peer_job w;
        char text[12];
    } __attribute__((packed))
    m = {.w = {.job = any_job(n, b),
               .driver = any_process(n, input_u8(in)),
               .is_there = b % 8 != 7,
               .log_to_driver = 1,
               .build = NODE_BUILD,
               .folder_size = 2,
               .environment_size = b >> 6 == 3 ? (uint32_t)input_u8(in) << 16 : 4u},
         .text = "/\0A=1"};
    struct peer_header h = {.type = PEER_JOB};

    m.w.hash.bytes[0] = b >> 4;
    tell(n, from, &h, &m, sizeof m);
}

/* What a raylet says to a process of ours about a lease. */
static void say_answer(struct node *n, struct peer *from, struct input *in)
{
    uint8_t b = input_u8(in), c = input_u8(in);
    struct peer_header h = {.to = any_process(n, c)};
    uint64_t lease = (uint64_t)any_node(n, b >> 4) << LEASE_NODE_SHIFT | c % 8;

    if (b % 4 == 0) {
        struct wire_lease_canceled w = {.ticket = c % N_TICKETS, .count = b >> 2};
        h.type = (b & 4) != 0 ? WIRE_LEASE_CANCELED : WIRE_LEASE_REFUSED;
        tell(n, from, &h, &w, sizeof w);
    } else if (b % 4 == 1) {
        struct wire_worker_dead w = {.lease = lease};
        h.type = WIRE_WORKER_DEAD;
        tell(n, from, &h, &w, sizeof w);
    } else {
        struct wire_lease_grant w = {.ticket = c % N_TICKETS,
                                     .lease = lease,
                                     .process = any_process(n, input_u8(in)),
                                     .slot = WIRE_SLOT_NONE,
                                     .node = from->number};
        h.type = WIRE_LEASE_GRANT;
        tell(n, from, &h, &w, sizeof w);
    }
}

/* As cluster_run.c does it; another one comes instead. */
static void lose(struct node *n, struct peer *p)
{
    static uint32_t last = 2000;
    uint32_t number = p->number;
    struct node_view v = {.number = ++last, .is_alive = true, .n_resources = 1};

    if (number > 0) {
        cluster_view_remove(n->view, number);
        spill_run_on_node_lost(n, number, "it is dead");
        job_elsewhere_on_node_lost(n, number);
        guest_run_end_all(n, p);
        for (uint32_t i = 0; i < n->n_guests; i++)
            ASSERT(n->guests[i] == NULL || n->guests[i]->at != p);
    }
    *p = (struct peer){.number = last};
    snprintf(v.resources[0].name, sizeof v.resources[0].name, "CPU");
    v.resources[0].total = v.resources[0].available = 80000;
    cluster_view_set(n->view, &v);
}

static void local_step(struct node *n, uint8_t op, struct input *in)
{
    uint8_t b = input_u8(in);
    struct worker *w = &workers[b % 8];
    struct unix_link *link = (op & 16) != 0 || w->zygote == NULL ? driver : w->link;
    uint64_t lease = (uint64_t)any_node(n, b >> 6) << LEASE_NODE_SHIFT | b >> 3;
    static const uint8_t types[] = {WIRE_LEASE_CANCEL,
                                    WIRE_LEASE_RETURN,
                                    WIRE_LEASE_ENDED,
                                    WIRE_BLOCKED};

    switch (op & 7) {
    case 0:
    case 1: {
        struct request q = make_request(in);
        say(link, WIRE_LEASE_REQUEST, 0, &q, sizeof q);
        break;
    }
    case 2: {
        uint8_t type = types[b % 4];
        if (type == WIRE_LEASE_CANCEL)
            lease = b >> 2;
        say(link, type, 0, &lease, sizeof lease);
        break;
    }
    case 3: /* to a process somewhere */
        say(link,
            WIRE_PUSH,
            WIRE_ROUTE_PROCESS | (any_process(n, b) & WIRE_ROUTE_NUMBER),
            &lease,
            sizeof lease);
        break;
    case 4:
        if (w->zygote != NULL && w->is_born) {
            struct zygote *z = w->zygote;
            int32_t pid = w->pid;
            forget(w);
            z->ops->exited(z->arg, pid, 9);
        }
        break;
    case 5: {
        struct wire_store_pull pull = {.ticket = b, .node = any_node(n, b), .size = 8};
        struct wire_store_pull_cancel cancel = {.ticket = b};
        say(link, WIRE_STORE_PULL, 0, &pull, sizeof pull);
        if (b % 2 == 0)
            say(link, WIRE_STORE_PULL_CANCEL, 0, &cancel, sizeof cancel);
        break;
    }
    case 6:
        if (b < 32)
            say(driver, WIRE_LEAVE, 0, NULL, 0);
        if (b < 16) {
            unix_link_destroy(driver);
            driver = NULL;
        }
        break;
    default:
        now_ms += b * 10u;
        break;
    }
}

static void step(struct loop *l, struct node *n, struct input *in)
{
    uint8_t op = input_u8(in), b;
    struct peer *from = &others[op >> 6 & 1];
    struct peer_header h = {0};
    const uint8_t *bytes;
    size_t size;

    switch (op & 15) {
    case 0: /* any bytes */
        b = input_u8(in);
        h.type = b < 64 ? 128 + b % 8 : b;
        h.to = b % 2 == 0 ? 0 : any_process(n, input_u8(in));
        h.from = any_process(n, input_u8(in));
        h.route = (uint32_t)input_u8(in) << 24;
        bytes = input_bytes(in, UINT8_MAX, &size);
        tell(n, from, &h, bytes, size);
        break;
    case 1:
    case 2:
        say_spill(n, from, in);
        break;
    case 3:
        say_job(n, from, in);
        break;
    case 4: {
        b = input_u8(in);
        struct peer_job_ask w = {.job = any_job(n, b)};
        h.type = b >> 7 ? PEER_JOB_ASK : PEER_JOB_END;
        tell(n, from, &h, &w, sizeof w);
        break;
    }
    case 5:
        say_answer(n, from, in);
        break;
    case 6: {
        b = input_u8(in);
        struct peer_rejected w = {.owner = any_process(n, input_u8(in)),
                                  .ticket = b % N_TICKETS,
                                  .count = b >> 2};
        h.type = PEER_REJECTED;
        tell(n, from, &h, &w, sizeof w);
        break;
    }
    case 7: { /* the death of one of theirs: its units are nobody's any more */
        struct wire_process_dead w = {.process = any_process(n, input_u8(in))};
        h.type = PEER_PROCESS_DEAD;
        tell(n, from, &h, &w, sizeof w);
        if (w.process - FIRST_GUEST < N_GUESTS)
            memset(from->owed[w.process - FIRST_GUEST], 0, sizeof from->owed[0]);
        break;
    }
    case 8: /* between processes */
        h.from = any_process(n, input_u8(in));
        h.to = any_process(n, input_u8(in));
        h.type = input_u8(in);
        h.route = (uint32_t)input_u8(in) << 24;
        tell(n, from, &h, "12345678", 8);
        break;
    case 9: { /* an owner about a ticket or lease */
        b = input_u8(in);
        uint64_t number =
            b % 2 == 0 ? b / 8 % N_TICKETS : (uint64_t)n->number << LEASE_NODE_SHIFT | (b / 8 + 1);
        h.type = b % 2 == 0 ? WIRE_LEASE_CANCEL : WIRE_LEASE_RETURN;
        h.from = any_process(n, input_u8(in));
        tell(n, from, &h, &number, sizeof number);
        break;
    }
    case 10:
        b = input_u8(in);
        finish_file(b % N_FILES, b < 192 ? ERR_NONE : ERR_DIED);
        break;
    case 11:
        if (input_u8(in) < 64)
            lose(n, from);
        break;
    default:
        local_step(n, input_u8(in), in);
        break;
    }
    if ((op & 32) != 0)
        return; /* more in this turn */
    settle(l, n);
    fire(l);
    lease_selfcheck(n->leases);
    resources_selfcheck(&n->resources);
    spill_selfcheck(n->spill);
    cluster_view_selfcheck(n->view);
    for (uint32_t i = 0; i < n->n_guests; i++) {
        const struct process *g = n->guests[i];
        ASSERT(g == NULL || (g->magic == PROCESS_MAGIC && guest_run_find(n, g->number) == g));
        ASSERT(g == NULL || g->job == NULL || g->job->magic == JOB_MAGIC);
    }
    for (int i = 0; i < N_PEERS; i++)
        for (uint32_t k = 1; k < 256; k++) /* it lives, or that node was told */
            ASSERT(!others[i].is_asked[k] || guest_run_find(n, k) != NULL);
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        ASSERT(j->driver == NULL || j->driver->magic == PROCESS_MAGIC);
        ASSERT(j->state != JOB_RUNNING || !j->zygote_gone);
        worker_pool_selfcheck(j->pool);
    }
}

static char temp[] = "/tmp/guest_fuzz_XXXXXX";

static void remove_temp(void)
{
    remove_tree(temp);
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
    spill_run_init(n);
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
    guest_run_end_all(n, NULL);
    job_elsewhere_forget_kept(n);
    n->peers = NULL;
    cluster_view_destroy(n->view);
    n->view = NULL;
    node_destroy(n);
    unix_link_destroy(driver);
    driver = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool has_temp;
    struct input in = {data, size};
    struct loop loop = {.stopped = false};
    struct node_config config = {.num_cpus = 2,
                                 .max_channels = 2,
                                 .log_to_driver = true,
                                 .driver_fd = -1,
                                 .executable_fd = -1,
                                 .ready_fd = -1,
                                 .temp_dir = temp};
    struct err err;

    if (!has_temp) {
        has_temp = mkdtemp(temp) != NULL;
        ASSERT(has_temp);
        atexit(remove_temp);
        log_threshold = LOG_LEVEL_BROKEN;
    }
    now_ms = 1000;
    last_pid = FIRST_PID;
    memset(others, 0, sizeof others);
    list_init(&loop.watches);
    list_init(&loop.timers);
    resources_init(&config.custom, 0);
    struct node *n = node_create(&loop, &config, &err);
    ASSERT(n != NULL);
    begin(&loop, n);
    for (unsigned i = 0; i < 1000 && in.left > 0 && !loop.stopped; i++)
        step(&loop, n, &in);
    end(n);
    for (int i = 0; i < WORKERS_MAX; i++)
        ASSERT(workers[i].zygote == NULL);
    ASSERT(list_empty(&loop.watches) && list_empty(&loop.timers));
    return 0;
}
