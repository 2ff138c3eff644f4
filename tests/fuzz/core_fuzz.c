/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what a raylet and the peers of leases say to a driver with pending tasks (first byte
 * even) or to a worker (odd). The core is the real one, over sockets; the raylet and the peers are
 * here, and answer rightly, wrongly or not at all, as the input says.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/played_raylet.h"

#define PEERS_MAX 6
#define REFS_MAX  16

/* The far end of a link of the core: 0 is the raylet's. */
static struct far {
    struct unix_link *link; /* NULL: none, or closed */
    struct wire_push push;  /* last one heard */
} far[PEERS_MAX];
static unsigned n_far;
static uint64_t ticket; /* last one asked for */
static struct unique_id ids[PEERS_MAX];
static uint64_t refs[REFS_MAX];
static unsigned n_refs;

/* --- the face --- */

static void *lookup(const char *function)
{
    return function[0] == 'f' ? (void *)far : NULL;
}

/* A body that reads all its arguments and returns them as far as it can. */
static void execute(struct core_call *call)
{
    struct err err;

    for (unsigned i = 0; i < call->n_args || i < call->n_returns; i++) {
        uint8_t sum = 0;
        for (uint32_t k = 0; i < call->n_args && k < call->args[i].size; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)call->args[i].bytes)[k]);
        if (i < call->n_args)
            core_call_return(call,
                             i,
                             WIRE_META_RAW,
                             call->args[i].bytes,
                             call->args[i].size,
                             call->args[i].refs,
                             call->args[i].n_refs,
                             &err);
        else if (sum != 7)
            core_call_return(call, i, WIRE_META_RAW, &sum, 1, NULL, 0, &err);
    }
}

/* --- what the far ends do --- */

/* The core's turn: everything that was said is handled. */
static void turn(void)
{
    core_lock();
    if (!core.polling) {
        core.polling = true;
        poller_turn(0, NULL, 0);
        core.polling = false;
    }
    if (!core.worker)
        submit_selfcheck(core.submit);
    else
        inbox_selfcheck(core.inbox);
    ref_table_selfcheck(core.refs);
    core_unlock();
}

/* What the core says must be well formed. */
static void listen_to_core(struct far *p)
{
    struct frame f;
    struct err err;
    int rc;
    long n;

    do {
        n = p->link != NULL ? unix_link_read(p->link, &err) : 0;
        while (p->link != NULL && (rc = unix_link_next(p->link, &f, &err)) != 0) {
            ASSERT(rc == 1 && f.fd == -1);
            if (f.h.type == WIRE_LEASE_REQUEST)
                memcpy(&ticket, f.body, sizeof ticket);
            if (f.h.type == WIRE_PUSH && f.body_size >= sizeof p->push)
                memcpy(&p->push, f.body, sizeof p->push);
        }
    } while (n > 0);
}

static void say(struct far *p, uint8_t type, uint32_t route, const void *body, size_t size, bool fd)
{
    int fds[2] = {-1, -1};
    /* with EXIT or the raylet's end a worker ends by _exit: nothing is left to see */
    bool is_end = type == WIRE_GOODBYE || type == WIRE_ERROR || type == WIRE_PUSH;
    bool ends = type == WIRE_EXIT || (p == far && (type == 0 || (route == 0 && is_end)));

    if (p->link == NULL || (core.worker && ends))
        return;
    void *out = unix_link_reserve(p->link, FRAME_CONTROL, type, route, size);
    if (out == NULL)
        return;
    if (size > 0)
        memcpy(out, body, size);
    if (fd && n_far < PEERS_MAX && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0)
        far[n_far++] = (struct far){.link = unix_link_create(fds[1], 0)};
    unix_link_commit(p->link, size, fds[0]);
    unix_link_flush(p->link, NULL);
}

static void close_far(struct far *p)
{
    unix_link_destroy(p->link);
    p->link = NULL;
}

/* As a raylet and a worker that do their part. */
static void say_to_owner(struct far *p, uint8_t what, struct input *in)
{
    uint8_t number = input_u8(in);
    uint8_t body[sizeof(struct wire_done) + UINT8_MAX];
    size_t n;
    const uint8_t *tail;

    switch (what % 8) {
    case 0: {
        struct wire_lease_grant g = {.ticket = ticket,
                                     .lease = number,
                                     .pid = 1000000,
                                     .process = 2,
                                     .worker = ids[number % PEERS_MAX],
                                     .slot = number};
        say(&far[0], WIRE_LEASE_GRANT, 0, &g, sizeof g, (number & 1) == 0);
        break;
    }
    case 1:
    case 2: {
        struct wire_done d = {.lease = p->push.lease,
                              .slot = p->push.slot,
                              .failed = number & 1,
                              .n_returns = number >> 4,
                              .run_ns = number * 1000u};
        memcpy(body, &d, sizeof d);
        tail = input_bytes(in, UINT8_MAX, &n);
        memcpy(body + sizeof d, tail, n);
        say(p, WIRE_DONE, 0, body, sizeof d + n, false);
        break;
    }
    case 3: {
        struct wire_worker_dead d = {.lease = number,
                                     .mask_lease = number,
                                     .started = in->left,
                                     .pid = 1000000,
                                     .wait_status = 9};
        memcpy(body, &d, sizeof d);
        tail = input_bytes(in, 100, &n);
        memcpy(body + sizeof d, tail, n);
        say(&far[0], WIRE_WORKER_DEAD, 0, body, sizeof d + n, false);
        break;
    }
    case 4: {
        struct wire_returned r = {.lease = p->push.lease,
                                  .mask = 1ull << (number & 63),
                                  .asked = number >> 7};
        say(p, WIRE_RETURNED, 0, &r, sizeof r, false);
        break;
    }
    case 5: {
        struct wire_bounced b = {.lease = p->push.lease,
                                 .slot = number & 63,
                                 .reason = number >> 6};
        say(p, WIRE_BOUNCED, 0, &b, sizeof b, false);
        break;
    }
    case 6: {
        struct wire_lease_ended e = {.lease = number < 128 ? p->push.lease : number & 127u};
        say(p, WIRE_OWNER_LEASE_ENDED, 0, &e, sizeof e, false);
        break;
    }
    case 7: {
        struct wire_lease_canceled c = {.ticket = ticket, .count = number & 15};
        struct wire_lease_refused r = {.ticket = ticket,
                                       .count = number & 15,
                                       .code = in->left & 15};
        if (number < 128)
            say(&far[0], WIRE_LEASE_CANCELED, 0, &c, sizeof c, false);
        else
            say(&far[0], WIRE_LEASE_REFUSED, 0, &r, sizeof r, false);
        break;
    }
    }
}

/* As a raylet and an owner that do their part. */
static void say_to_worker(struct far *p, uint8_t what, struct input *in)
{
    uint8_t number = input_u8(in);
    uint8_t body[sizeof(struct wire_push) + UINT8_MAX];
    size_t n;
    const uint8_t *tail;

    switch (what % 8) {
    case 0: {
        struct wire_lease_begin b = {.lease = number,
                                     .owner_process = 1,
                                     .owner_pid = 1000000,
                                     .owner = ids[number % PEERS_MAX]};
        say(&far[0], WIRE_LEASE_BEGIN, 0, &b, sizeof b, (number & 1) == 0);
        break;
    }
    case 1: {
        struct wire_template t = {.template = number & 3,
                                  .n_returns = number >> 4,
                                  .flags = number >> 3 & 1};
        memcpy(body, &t, sizeof t);
        memcpy(body + sizeof t, "f\0name", 7);
        say(p, WIRE_TEMPLATE, 0, body, sizeof t + 7, false);
        break;
    }
    case 2:
    case 3: {
        struct wire_push w = {.lease = number & 7,
                              .template = number >> 6,
                              .slot = in->left & 63,
                              .phase = 1,
                              .n_args = number >> 3 & 7};
        memcpy(body, &w, sizeof w);
        tail = input_bytes(in, UINT8_MAX, &n);
        memcpy(body + sizeof w, tail, n);
        say(p, WIRE_PUSH, 0, body, sizeof w + n, false);
        break;
    }
    case 4: {
        struct wire_take_back t = {.lease = number & 7, .count = number >> 3};
        say(p, WIRE_TAKE_BACK, 0, &t, sizeof t, false);
        break;
    }
    case 5: {
        struct wire_lease_revoke r = {.lease = number & 7, .grace_ms = number >> 3};
        say(&far[0], WIRE_LEASE_REVOKE, 0, &r, sizeof r, false);
        break;
    }
    default: {
        uint64_t now = clock_now_ns();
        core_lock();
        worker_run_one(number * 1000u, &now);
        core_unlock();
        break;
    }
    }
}

/* --- what the program does --- */

static void submit_one(uint8_t how)
{
    static const struct core_template_spec specs[] = {
        {.function = "f", .n_returns = 1, .max_retries = 3, .cpu_units = 10000},
        {.function = "f", .n_returns = 2, .max_retries = 0, .cpu_units = 10000},
        {.function = "g", .n_returns = 0, .max_retries = -1},
    };
    struct core_arg args[2] = {{.bytes = "abc", .size = 3, .meta = WIRE_META_RAW},
                               {.bytes = "de", .size = 2, .meta = WIRE_META_RAW}};
    int template = core_template(&specs[how % 3], NULL);

    if (template <0 || n_refs + 2 > REFS_MAX)
        return;
    if (n_refs > 0 && (how & 16) != 0)
        args[1] = (struct core_arg){.ref = refs[how % n_refs]};
    if (core_submit(template, args, 2, refs + n_refs) == CORE_OK)
        n_refs += specs[how % 3].n_returns;
}

static void look_at_refs(void)
{
    for (unsigned i = 0; i < n_refs; i++) {
        struct core_value v;
        uint8_t sum = 0;
        if (core_get(refs[i], 0, &v) != CORE_OK)
            continue;
        for (uint32_t k = 0; k < v.size; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)v.bytes)[k]);
        ((volatile uint8_t *)&v.meta)[0] = sum;
        core_value_drop(&v);
    }
}

/* One of each kind: none, bound, of a process, of that as owner, worker, or nonsense. */
static uint32_t route_of(uint8_t byte)
{
    return (byte & 3u) | (uint32_t)(byte >> 2 & 15u) << 28;
}

static void step(struct input *in)
{
    uint8_t op = input_u8(in), which = op >> 4;
    struct far *p = &far[which % n_far];
    size_t n;
    const uint8_t *bytes;

    switch (op & 7) {
    case 0:
    case 1: { /* a frame of any type */
        uint8_t type = input_u8(in), route = input_u8(in);
        bytes = input_bytes(in, UINT8_MAX, &n);
        say(p, type, route_of(route), bytes, n, (route & 128) != 0);
        break;
    }
    case 2: /* any bytes */
        bytes = input_bytes(in, UINT8_MAX, &n);
        if (p->link != NULL && !(core.worker && p == far))
            send(unix_link_fd(p->link), bytes, n, MSG_NOSIGNAL);
        break;
    case 3:
        if (p != far)
            close_far(p);
        break;
    case 4:
        if (!core.worker)
            submit_one(input_u8(in));
        break;
    default:
        if (core.worker)
            say_to_worker(p, which >> 1 ^ op, in);
        else
            say_to_owner(p, which >> 1 ^ op, in);
        break;
    }
    turn();
    for (unsigned i = 0; i < n_far; i++)
        listen_to_core(&far[i]);
}

static void start(bool worker)
{
    static const struct core_face face = {.lookup = lookup, .execute = execute};
    struct wire_hello who = {.kind = WIRE_WORKER, .token = 7};
    struct err err;
    int pid, fd;

    core_set_face(&face);
    n_far = 1;
    n_refs = 0;
    ticket = 0;
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        memset(&far[i].push, 0, sizeof far[i].push);
        memset(ids[i].bytes, (int)i + 1, sizeof ids[i].bytes);
    }
    core.lost = (struct err){.code = ERR_NONE};
    core.task_counter = 0;
    core.has_helper = true; /* none is made: turns are ours alone */
    atomic_store(&core.helper_word, 0);
    if (worker) {
        core.worker = true;
        core.inbox = inbox_create();
        core.control =
            mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT(core.control != MAP_FAILED); /* the core's now, which unmaps it */
        core.body_thread = pthread_self();
        cluster_start(NULL, NULL, NULL, &pid, &fd, &err);
        ASSERT(core_connect(fd, &who, NULL, 0, &err) == 0);
        core.n_inits = 1;
    } else {
        ASSERT(core_init(NULL, &err) == CORE_OK);
    }
    far[0].link = raylet;
    for (uint8_t i = 0; i < 6 && !worker; i++)
        submit_one((uint8_t)(i + 16 * (i & 1)));
}

static void stop(void)
{
    for (unsigned i = 0; i < n_refs; i++)
        core_release(refs[i]);
    core.has_helper = false;
    core.worker = core.blocked = core.in_body = false;
    for (unsigned i = 1; i < n_far; i++)
        close_far(&far[i]);
    ASSERT(core_shutdown(NULL) == CORE_OK);
    close_far(&far[0]);
    inbox_destroy(core.inbox);
    core.inbox = NULL;
    free(core.inbox_actions.v);
    core.inbox_actions = (struct inbox_actions){0};
    core.lease = core.oldest_reply_ns = 0;
    core.lease_peer = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};

    start((input_u8(&in) & 1) != 0);
    turn();
    listen_to_core(&far[0]);
    for (unsigned i = 0; i < 500 && in.left > 0; i++)
        step(&in);
    look_at_refs();
    stop();
    return 0;
}
