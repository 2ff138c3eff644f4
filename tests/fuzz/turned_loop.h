/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_TURNED_LOOP_H
#define TESTS_FUZZ_TURNED_LOOP_H
/*
 * lib/net/loop.h for a fuzzer that runs a node: a loop that turns when told to, and a time that
 * stands still but for a step. Of one file of a program; POLLED_MAX descriptors are looked at.
 */
#include <poll.h>
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "raylet/node_private.h"

#define POLLED_MAX 40

struct loop_watch {
    struct list node;
    int fd;
    loop_fd_f cb;
    void *arg;
    bool wants_write;
};
struct loop_timer {
    struct list node;
    loop_f cb;
    void *arg;
    uint64_t at_ms; /* UINT64_MAX: it has fired */
    uint32_t every_ms;
};
struct loop {
    struct list watches, timers;
    bool stopped;
};
static uint64_t now_ms;

struct loop_watch *loop_watch_fd(struct loop *l, int fd, loop_fd_f cb, void *arg)
{
    struct loop_watch *w = xcalloc(1, sizeof *w);

    w->fd = fd;
    w->cb = cb;
    w->arg = arg;
    list_append(&l->watches, &w->node);
    return w;
}

struct loop_watch *loop_on_signal(struct loop *l, int signo, loop_fd_f cb, void *arg)
{
    (void)signo;
    return loop_watch_fd(l, -1, cb, arg);
}

void loop_want_read(struct loop_watch *w, bool want)
{
    (void)w;
    (void)want;
}

void loop_want_write(struct loop_watch *w, bool want)
{
    if (w != NULL)
        w->wants_write = want;
}

void loop_unwatch(struct loop_watch *w)
{
    if (w == NULL)
        return;
    list_remove(&w->node);
    free(w);
}

struct loop_timer *loop_after(struct loop *l, uint32_t ms, loop_f cb, void *arg)
{
    struct loop_timer *t = xcalloc(1, sizeof *t);

    t->cb = cb;
    t->arg = arg;
    list_append(&l->timers, &t->node);
    loop_timer_again(t, ms);
    return t;
}

struct loop_timer *loop_every(struct loop *l, uint32_t ms, loop_f cb, void *arg)
{
    struct loop_timer *t = loop_after(l, ms, cb, arg);

    t->every_ms = ms;
    return t;
}

void loop_timer_again(struct loop_timer *t, uint32_t ms)
{
    t->at_ms = now_ms + ms;
}

void loop_timer_end(struct loop_timer *t)
{
    if (t == NULL)
        return;
    list_remove(&t->node);
    free(t);
}

void loop_stop(struct loop *l)
{
    l->stopped = true;
}

uint64_t loop_now_ms(void)
{
    return now_ms;
}

static void fire(struct loop *l)
{
    list_for_each_safe(node, &l->timers)
    {
        struct loop_timer *t = list_entry(node, struct loop_timer, node);
        if (t->at_ms > now_ms)
            continue;
        t->at_ms = t->every_ms > 0 ? now_ms + t->every_ms : UINT64_MAX;
        t->cb(t->arg);
    }
}

/* Each fd that is ready, once. */
static void turn(struct loop *l, struct node *n)
{
    struct pollfd p[POLLED_MAX];
    nfds_t k = 0;

    list_for_each(node, &l->watches)
    {
        const struct loop_watch *w = list_entry(node, struct loop_watch, node);
        if (w->fd >= 0 && k < sizeof p / sizeof p[0])
            p[k++] =
                (struct pollfd){.fd = w->fd, .events = POLLIN | (w->wants_write ? POLLOUT : 0)};
    }
    poll(p, k, 0);
    for (nfds_t i = 0; i < k; i++) {
        if (p[i].revents == 0)
            continue;
        list_for_each(node, &l->watches)
        {
            const struct loop_watch *w = list_entry(node, struct loop_watch, node);
            if (w->fd != p[i].fd)
                continue;
            w->cb(w->arg,
                  (p[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0,
                  (p[i].revents & POLLOUT) != 0);
            break; /* it may be gone */
        }
    }
    node_turn_end(n);
}

#endif /* TESTS_FUZZ_TURNED_LOOP_H */
