/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_LOOP_H
#define LIB_NET_LOOP_H
/*
 * The one loop of a daemon, a thin fence around libevent (DESIGN D9). A turn is: wait, callbacks,
 * the turn's end, where all that was put off is done. Callbacks run on the loop thread; one that
 * takes longer than LOOP_SLOW_MS is logged. Nothing here is thread safe.
 */
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"

#define LOOP_SLOW_MS 50

struct loop;
struct loop_watch;
struct loop_timer;

typedef void (*loop_fd_f)(void *arg, bool readable, bool writable);
typedef void (*loop_f)(void *arg);

struct loop *loop_create(struct err *err);
/* After all its watches and timers. NULL is fine. */
void loop_destroy(struct loop *l);
/* Until loop_stop. turn_end runs last in each turn. */
void loop_run(struct loop *l, loop_f turn_end, void *arg);
/* This turn is finished, then loop_run returns; before loop_run: it returns at once. */
void loop_stop(struct loop *l);

/* Read interest for as long as the watch lives; write interest on demand. NULL: no memory. */
struct loop_watch *loop_watch_fd(struct loop *l, int fd, loop_fd_f cb, void *arg);
/* Ask for it only after EAGAIN. NULL is fine. */
void loop_want_write(struct loop_watch *w, bool want);
/* At first it is wanted. */
void loop_want_read(struct loop_watch *w, bool want);
void loop_unwatch(struct loop_watch *w); /* NULL is fine; also from its own callback */
struct loop_timer *loop_every(struct loop *l, uint32_t ms, loop_f cb, void *arg);
/* Once; end it also after it has fired. */
struct loop_timer *loop_after(struct loop *l, uint32_t ms, loop_f cb, void *arg);
/* The timer of loop_after fires ms from now, and not when it would have. */
void loop_timer_again(struct loop_timer *t, uint32_t ms);
void loop_timer_end(struct loop_timer *t); /* NULL is fine; also from its own callback */
/* The signal becomes an event; one callback a signal. */
struct loop_watch *loop_on_signal(struct loop *l, int signo, loop_fd_f cb, void *arg);
/* When the last loop has run: what would end the process waits until it has ended in its order. */
void loop_block_signals(void);

uint64_t loop_now_ms(void);
uint64_t loop_now_ns(void);

#endif /* LIB_NET_LOOP_H */
