/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what other raylets say to a node, what its own driver and workers ask of other
 * machines meanwhile, and which nodes die. What the node answers to owners elsewhere is counted
 * against what they asked for.
 */
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/remove_tree.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/turned_cluster.h"

#define N_TICKETS 4

/* What is known of each other node. */
static struct book {
    int64_t owed[N_GUESTS][N_TICKETS]; /* units that their owners asked for here */
    bool is_asked[256];                /* by the process here with that number */
} books[N_PEERS];

/* --- what the node says --- */

static void answered(const struct peer *p, uint32_t owner, uint64_t ticket, uint32_t count)
{
    if (owner - FIRST_GUEST >= N_GUESTS || ticket >= N_TICKETS)
        return;
    int64_t *owed = &books[p - others].owed[owner - FIRST_GUEST][ticket];
    *owed -= count;
    ASSERT(*owed >= 0); /* INV-18 */
}

void on_sent(const struct peer *p,
             enum frame_class class,
             const struct peer_header *h,
             const void *body,
             size_t size)
{
    struct book *book = &books[p - others];
    struct peer_rejected rejected;
    struct wire_lease_grant grant;
    struct wire_lease_canceled canceled;
    struct wire_process_dead dead;

    (void)class;
    if (h->type == PEER_REJECTED && h->to == 0) {
        ASSERT(size >= sizeof rejected);
        memcpy(&rejected, body, sizeof rejected);
        answered(p, rejected.owner, rejected.ticket, rejected.count);
    } else if (h->type == PEER_SPILL && h->from < 256) {
        book->is_asked[h->from] = true;
    } else if (h->type == PEER_PROCESS_DEAD) {
        ASSERT(size >= sizeof dead);
        memcpy(&dead, body, sizeof dead);
        if (dead.process < 256)
            book->is_asked[dead.process] = false;
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

void on_heard(const struct unix_link *link, const struct frame *f)
{
    (void)link;
    (void)f;
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
    m = {.w = {.job = any_job(n, b), .home = any_node(n, b >> 4), .pid = 7, .when = b >> 6},
         .q = make_request(in)};
    struct peer_header h = {.from = FIRST_GUEST + owner, .type = PEER_SPILL, .job = m.w.job};

    if (from->number > 0)
        books[from - others].owed[owner][m.q.w.ticket] += m.q.w.count;
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
    struct peer_header h = {.to = any_process(n, c), .job = b >> 6 == 2 ? 901 : job_first(n)};
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
        struct wire_store_seek seek = {.ticket = b, .key = {.counter = b / 16 % 4}};
        seek.key.owner =
            link == driver && n->processes[0] != NULL ? n->processes[0]->number : any_process(n, b);
        say(link, WIRE_STORE_PULL, 0, &pull, sizeof pull);
        if (b >= 64)
            say(link, WIRE_STORE_SEEK, 0, &seek, sizeof seek);
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
    struct peer_header h = {.job = (op & 0x70) == 0x70 ? 901 : job_first(n)};
    const uint8_t *bytes;
    size_t size;

    switch (op & 15) {
    case 0: /* any bytes */
        b = input_u8(in);
        h.type = b < 64 ? 128 + b % 11 : b;
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
            memset(books[from - others].owed[w.process - FIRST_GUEST], 0, sizeof books[0].owed[0]);
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
        const struct process *g = guest_run_find(n, h.from);
        if (g != NULL && g->job != NULL && b < 240)
            h.job = g->job->number;
        tell(n, from, &h, &number, sizeof number);
        break;
    }
    case 10:
        b = input_u8(in);
        finish_file(b % N_FILES, b < 192 ? ERR_NONE : ERR_DIED);
        break;
    case 11:
        if (input_u8(in) < 64) {
            lose(n, from);
            books[from - others] = (struct book){0};
        }
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
            ASSERT(!books[i].is_asked[k] || guest_run_find(n, k) != NULL);
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
    memset(books, 0, sizeof books);
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
