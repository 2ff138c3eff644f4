/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what a driver and workers say to a node, what workers leave in their logs and
 * control blocks, and when they die. The node is the real one on a loop and a zygote of this file:
 * no process is started or killed, and time stands still but for a step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/remove_tree.h"
#include "raylet/node_private.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/turned_loop.h"

#define WORKERS_MAX 8
#define FIRST_PID   0x7f000000 /* above all that there can be */

int kill(pid_t pid, int signal); /* ours: see below */

/* --- a zygote whose forks are entries of a table --- */

struct peer {
    struct unix_link *link; /* its end; NULL: closed, or never there */
    uint64_t token;
    int32_t pid;
    int fds[ZYGOTE_PARTS];
    enum { UNBORN, LIVES, KILLED, DEAD } state;
};

struct zygote {
    const struct zygote_ops *ops;
    void *arg;
};
static struct zygote the_zygote;
static struct peer driver, workers[WORKERS_MAX];
static unsigned n_workers;

struct zygote *zygote_create(struct loop *loop,
                             const struct zygote_config *config,
                             const struct zygote_ops *ops,
                             void *arg,
                             struct err *err)
{
    (void)loop;
    (void)config;
    (void)err;
    the_zygote = (struct zygote){.ops = ops, .arg = arg};
    return &the_zygote;
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
    (void)z;
    (void)slot;
    if (n_workers == WORKERS_MAX) {
        for (int i = 0; i < ZYGOTE_PARTS; i++)
            close(fds[i]);
        return err_set(err, ERR_FULL, "no more");
    }
    struct peer *w = &workers[n_workers];
    *w = (struct peer){.token = token, .pid = FIRST_PID + (int)n_workers};
    n_workers++;
    memcpy(w->fds, fds, sizeof w->fds);
    w->link = unix_link_create(fds[0], 0);
    return 0;
}

void zygote_flush(struct zygote *z)
{
    (void)z;
}

bool zygote_end(struct zygote *z, int end_ms)
{
    (void)z;
    (void)end_ms;
    return true;
}

void zygote_destroy(struct zygote *z)
{
    (void)z;
}

const char *zygote_why(const struct zygote *z)
{
    (void)z;
    return "";
}

bool zygote_stop(struct zygote *z, uint32_t end_ms)
{
    (void)z;
    (void)end_ms;
    return true;
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
    return pid >= FIRST_PID;
}

/* --- the machine, which is not input --- */

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
    (void)signal;
    for (unsigned i = 0; i < n_workers; i++)
        if (workers[i].pid == pid && workers[i].state == LIVES)
            workers[i].state = KILLED;
    return 0;
}

static void close_peer(struct peer *p)
{
    unix_link_destroy(p->link);
    p->link = NULL;
}

static void exited(struct peer *w, int status)
{
    close_peer(w);
    w->state = DEAD;
    the_zygote.ops->exited(the_zygote.arg, w->pid, status);
}

/* --- what they say --- */

static void say(struct peer *p, uint8_t type, uint32_t route, const void *body, size_t size)
{
    if (p->link == NULL || unix_link_send(p->link, FRAME_CONTROL, type, route, body, size) != 0)
        return;
    unix_link_flush(p->link, NULL);
}

static void say_hello(struct peer *p, enum wire_kind kind)
{
    struct wire_hello h = {.protocol = WIRE_PROTOCOL,
                           .kind = kind,
                           .token = p->token,
                           .pid = p->pid,
                           .build = NODE_BUILD};

    say(p, WIRE_HELLO, 0, &h, sizeof h);
}

/* What the node says must be well formed; it owes the driver nothing more than that. */
static void listen_to_node(struct peer *p)
{
    struct frame f;
    struct err err;
    int rc;
    long n;

    do {
        n = p->link != NULL ? unix_link_read(p->link, &err) : 0;
        while (p->link != NULL && (rc = unix_link_next(p->link, &f, &err)) != 0) {
            ASSERT(rc == 1);
            if (f.fd >= 0)
                close(f.fd);
        }
    } while (n > 0);
}

static void step(struct loop *l, struct node *n, struct input *in)
{
    uint8_t op = input_u8(in), which = op >> 4;
    struct peer *p = which % 4 == 0 || n_workers == 0 ? &driver : &workers[which % n_workers];
    size_t size;
    const uint8_t *bytes;
    uint8_t type, flags;

    switch (op & 15) {
    case 0: /* any bytes */
        bytes = input_bytes(in, UINT8_MAX, &size);
        if (p->link != NULL)
            send(unix_link_fd(p->link), bytes, size, MSG_NOSIGNAL);
        break;
    case 1: /* a message on a route */
        type = input_u8(in);
        flags = input_u8(in);
        bytes = input_bytes(in, UINT8_MAX, &size);
        say(p, type, flags & 7, bytes, size);
        break;
    case 2: /* hello */
        say_hello(p, p == &driver ? WIRE_DRIVER : WIRE_WORKER);
        break;
    case 3: /* fork: done, or failed */
        if (p == &driver || p->state != UNBORN)
            break;
        p->state = (in->left & 1) == 0 || which < 8 ? LIVES : DEAD;
        {
            struct wire_spawned w = {.token = p->token,
                                     .pid = p->state == LIVES ? p->pid : -1,
                                     .error = 11};
            the_zygote.ops->spawned(the_zygote.arg, &w, -1);
        }
        if (p->state == DEAD)
            close_peer(p);
        break;
    case 4: /* death */
        if (p != &driver && (p->state == LIVES || p->state == KILLED))
            exited(p, input_u8(in));
        break;
    case 5: /* its log */
        bytes = input_bytes(in, UINT8_MAX, &size);
        if (p != &driver && p->fds[1] > 0)
            (void)!write(p->fds[1 + (which & 1)], bytes, size);
        break;
    case 6: /* its control block */
        bytes = input_bytes(in, sizeof(struct control_block), &size);
        if (p != &driver && p->fds[3] > 0)
            (void)!pwrite(p->fds[3], bytes, size, 0);
        break;
    case 7: /* time */
        now_ms += input_u8(in) * 20u;
        fire(l);
        break;
    case 8: /* the link alone ends */
        if (p != &driver)
            close_peer(p);
        break;
    case 9: /* a request that is right but for its size */
    {
        struct {
            struct wire_lease_request w;
            struct wire_resource r;
            char name[4];
        } __attribute__((packed)) m = {.w = {.ticket = in->left, .count = which, .n_resources = 1},
                                       .r = {.name = "CPU"},
                                       .name = "work"};
        m.r.units = input_u8(in) * 500;
        say(p, WIRE_LEASE_REQUEST, 0, &m, sizeof m);
        break;
    }
    default: /* a frame about a lease or ticket with a small number */
    {
        static const uint8_t types[] = {WIRE_LEASE_CANCEL,
                                        WIRE_LEASE_RETURN,
                                        WIRE_LEASE_ENDED,
                                        WIRE_BLOCKED,
                                        WIRE_UNBLOCKED,
                                        WIRE_ROUTE};
        uint64_t number = input_u8(in);
        struct wire_route route = {.lease = number};
        type = types[(op & 15) - 10];
        if (type == WIRE_ROUTE)
            say(p, type, 0, &route, sizeof route);
        else
            say(p, type, 0, &number, sizeof number);
        break;
    }
    }
    turn(l, n);
    listen_to_node(&driver);
    for (unsigned i = 0; i < n_workers; i++)
        listen_to_node(&workers[i]);
    lease_selfcheck(n->leases);
    worker_pool_selfcheck(list_entry(n->jobs.next, struct job, node)->pool);
    resources_selfcheck(&n->resources);
}

static char temp[] = "/tmp/node_fuzz_XXXXXX";

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
                                 .temp_dir = temp};
    struct err err;
    int fds[2];

    if (!has_temp) {
        has_temp = mkdtemp(temp) != NULL;
        ASSERT(has_temp);
        atexit(remove_temp);
        log_threshold = LOG_LEVEL_BROKEN;
    }
    now_ms = 1000;
    n_workers = 0;
    list_init(&loop.watches);
    list_init(&loop.timers);
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    driver = (struct peer){.pid = FIRST_PID - 1};
    driver.link = unix_link_create(fds[1], 0);
    config.driver_fd = fds[0];
    config.executable_fd = dup(0);
    config.driver_pid = getpid();
    resources_init(&config.custom, 0);
    struct node *n = node_create(&loop, &config, &err);
    ASSERT(n != NULL);
    for (unsigned i = 0; i < 1000 && in.left > 0 && !loop.stopped; i++)
        step(&loop, n, &in);
    node_destroy(n);
    close_peer(&driver);
    for (unsigned i = 0; i < n_workers; i++) {
        close_peer(&workers[i]);
        for (int k = 1; k < ZYGOTE_PARTS; k++)
            close(workers[i].fds[k]);
    }
    ASSERT(list_empty(&loop.watches) && list_empty(&loop.timers));
    return 0;
}
