/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/loop.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"

struct loop {
    struct event_base *base;
    bool stop;
};

struct loop_watch {
    struct event *read, *write;
    loop_fd_f cb;
    void *arg;
    bool wants_write;
};

struct loop_timer {
    struct event *event;
    loop_f cb;
    void *arg;
};

uint64_t loop_now_ms(void)
{
    return clock_now_ns() / 1000000u;
}

uint64_t loop_now_ns(void)
{
    return clock_now_ns();
}

struct loop *loop_create(struct err *err)
{
    struct event_config *config = event_config_new();
    struct loop *l = xcalloc(1, sizeof *l);

    if (config != NULL) {
        event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
        event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
        l->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    if (l->base == NULL) {
        free(l);
        err_sys(err, "make an event loop");
        return NULL;
    }
    return l;
}

void loop_destroy(struct loop *l)
{
    if (l == NULL)
        return;
    event_base_free(l->base);
    free(l);
}

void loop_run(struct loop *l, loop_f turn_end, void *arg)
{
    while (!l->stop) {
        if (event_base_loop(l->base, EVLOOP_ONCE) < 0) {
            log_broken("loop", "no_turn", "msg=\"the event loop cannot wait\"");
            return;
        }
        turn_end(arg);
    }
    l->stop = false;
}

void loop_stop(struct loop *l)
{
    l->stop = true;
}

static void timed(uint64_t start_ns)
{
    uint64_t ms = (clock_now_ns() - start_ns) / 1000000u;

    if (ms >= LOOP_SLOW_MS)
        log_warn("loop", "slow_callback", "ms=%llu", (unsigned long long)ms);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct loop_watch *w = arg;
    uint64_t start = clock_now_ns();

    (void)fd;
    w->cb(w->arg, (what & (EV_READ | EV_SIGNAL)) != 0, (what & EV_WRITE) != 0);
    timed(start);
}

struct loop_watch *loop_watch_fd(struct loop *l, int fd, loop_fd_f cb, void *arg)
{
    struct loop_watch *w = xcalloc(1, sizeof *w);

    w->cb = cb;
    w->arg = arg;
    w->read = event_new(l->base, fd, EV_READ | EV_PERSIST, on_event, w);
    w->write = event_new(l->base, fd, EV_WRITE | EV_PERSIST, on_event, w);
    if (w->read == NULL || w->write == NULL || event_add(w->read, NULL) != 0) {
        loop_unwatch(w);
        return NULL;
    }
    return w;
}

void loop_want_write(struct loop_watch *w, bool want)
{
    if (w == NULL || want == w->wants_write)
        return;
    w->wants_write = want;
    if (want)
        event_add(w->write, NULL);
    else
        event_del(w->write);
}

void loop_want_read(struct loop_watch *w, bool want)
{
    if (w == NULL || w->read == NULL)
        return;
    if (want)
        event_add(w->read, NULL);
    else
        event_del(w->read);
}

void loop_unwatch(struct loop_watch *w)
{
    if (w == NULL)
        return;
    if (w->read != NULL)
        event_free(w->read);
    if (w->write != NULL)
        event_free(w->write);
    free(w);
}

struct loop_watch *loop_on_signal(struct loop *l, int signo, loop_fd_f cb, void *arg)
{
    struct loop_watch *w = xcalloc(1, sizeof *w);

    w->cb = cb;
    w->arg = arg;
    w->read = evsignal_new(l->base, signo, on_event, w);
    if (w->read == NULL || event_add(w->read, NULL) != 0) {
        loop_unwatch(w);
        return NULL;
    }
    return w;
}

void loop_block_signals(void)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct loop_timer *t = arg;
    uint64_t start = clock_now_ns();

    (void)fd;
    (void)what;
    t->cb(t->arg);
    timed(start);
}

static struct loop_timer *add_timer(struct loop *l, uint32_t ms, short flags, loop_f cb, void *arg)
{
    struct loop_timer *t = xcalloc(1, sizeof *t);
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000};

    t->cb = cb;
    t->arg = arg;
    t->event = event_new(l->base, -1, flags, on_timer, t);
    if (t->event == NULL || event_add(t->event, &tv) != 0) {
        loop_timer_end(t);
        return NULL;
    }
    return t;
}

struct loop_timer *loop_every(struct loop *l, uint32_t ms, loop_f cb, void *arg)
{
    return add_timer(l, ms, EV_PERSIST, cb, arg);
}

struct loop_timer *loop_after(struct loop *l, uint32_t ms, loop_f cb, void *arg)
{
    return add_timer(l, ms, 0, cb, arg);
}

void loop_timer_again(struct loop_timer *t, uint32_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000};

    event_add(t->event, &tv);
}

void loop_timer_end(struct loop_timer *t)
{
    if (t == NULL)
        return;
    if (t->event != NULL)
        event_free(t->event);
    free(t);
}
