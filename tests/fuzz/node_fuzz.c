/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input is what a driver and workers say to a node, what workers leave in their logs and
 * control blocks, and when they die. The node is the real one on a loop and zygotes that turn:
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
#include "tests/fuzz/turned_zygote.h"

static struct worker driver; /* no zygote's */

static void close_link(struct worker *w)
{
    unix_link_destroy(w->link);
    w->link = NULL;
}

/* What the node says must be well formed; it owes nobody more than that. */
void on_heard(const struct unix_link *link, const struct frame *f)
{
    (void)link;
    (void)f;
}

static void step(struct loop *l, struct node *n, struct input *in)
{
    uint8_t op = input_u8(in), which = op >> 4;
    struct worker *w = which % 4 == 0 || n_workers == 0 ? &driver : &workers[which % n_workers];
    size_t size;
    const uint8_t *bytes;
    uint8_t type, flags;
    int32_t pid;

    switch (op & 15) {
    case 0: /* any bytes */
        bytes = input_bytes(in, UINT8_MAX, &size);
        if (w->link != NULL)
            send(unix_link_fd(w->link), bytes, size, MSG_NOSIGNAL);
        break;
    case 1: /* a message on a route */
        type = input_u8(in);
        flags = input_u8(in);
        bytes = input_bytes(in, UINT8_MAX, &size);
        say(w->link, type, flags & 7, bytes, size);
        break;
    case 2: /* hello */
        say_hello(w->link, w == &driver ? WIRE_DRIVER : WIRE_WORKER, w->token, w->pid);
        break;
    case 3: /* fork: done, or failed */
        if (w->zygote == NULL || w->is_born)
            break;
        w->is_born = true;
        if ((in->left & 1) != 0 && which >= 8)
            w->pid = -1;
        w->zygote->ops->spawned(
            w->zygote->arg,
            &(struct wire_spawned){.token = w->token, .pid = w->pid, .error = 11},
            -1);
        if (w->pid < 0)
            close_link(w);
        break;
    case 4: /* death */
        if (w->zygote == NULL || !w->is_born || w->pid < 0)
            break;
        pid = w->pid;
        w->pid = -1;
        close_link(w);
        w->zygote->ops->exited(w->zygote->arg, pid, input_u8(in));
        break;
    case 5: /* its log */
        bytes = input_bytes(in, UINT8_MAX, &size);
        if (w->fds[1] > 0)
            (void)!write(w->fds[1 + (which & 1)], bytes, size);
        break;
    case 6: /* its control block */
        bytes = input_bytes(in, sizeof(struct control_block), &size);
        if (w->fds[3] > 0)
            (void)!pwrite(w->fds[3], bytes, size, 0);
        break;
    case 7: /* time */
        now_ms += input_u8(in) * 20u;
        fire(l);
        break;
    case 8: /* the link alone ends */
        if (w != &driver)
            close_link(w);
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
        say(w->link, WIRE_LEASE_REQUEST, 0, &m, sizeof m);
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
            say(w->link, type, 0, &route, sizeof route);
        else
            say(w->link, type, 0, &number, sizeof number);
        break;
    }
    }
    turn(l, n);
    listen_to_node(driver.link);
    for (unsigned i = 0; i < n_workers; i++)
        listen_to_node(workers[i].link);
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
    last_pid = FIRST_PID;
    list_init(&loop.watches);
    list_init(&loop.timers);
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    driver = (struct worker){.pid = FIRST_PID - 1};
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
    close_link(&driver);
    for (unsigned i = 0; i < n_workers; i++)
        ASSERT(workers[i].zygote == NULL);
    ASSERT(list_empty(&loop.watches) && list_empty(&loop.timers));
    return 0;
}
