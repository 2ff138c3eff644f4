/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. I/O is a role, not a thread (DESIGN D16). Whoever must wait takes the role if it
 * is free and runs turns: flush, wait for input, handle it; everybody else who waits sleeps on a
 * futex of its own and is woken when what it waits for is there, or when the role has become free
 * and somebody must take it. So a synchronous trip has no thread hop, and many threads may wait at
 * once.
 *
 * Before a turn blocks it may spin (D13): only when the caller awaits one peer's answer, that peer
 * published another CPU than ours on the board, and the answer should come within the spin's budget
 * of two wake costs. The budget halves after a miss and doubles after a hit.
 *
 * The helper thread sees to it that no request waits more than two milliseconds behind user code:
 * it naps a millisecond at a time and runs a turn only if nobody has the role and no turn happened
 * for a millisecond; if somebody sleeps with the role, it sends what others said since. When no
 * work was outstanding for a while it goes to sleep until whoever starts work wakes it; in a driver
 * also until something comes or becomes due, since nobody else is there to answer those who borrow
 * from it. (Of a worker's threads one waits for input already.)
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define NAP_NS          1000000u
#define IDLE_NAPS       64
#define EVENTS_PER_TURN 64

static uint64_t spin_budget_ns;
static pthread_t poller_thread; /* has the role, or had it last */
static int kick_fd = -1;        /* ends its wait, when another thread has what it waits for */

/* Of the turn that runs; those still to be handled must not point to a peer that has ended. */
static struct epoll_event events[EVENTS_PER_TURN];
static int n_events;

static void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                         .tv_nsec = (long)(timeout_ns % 1000000000u)};

    syscall(SYS_futex,
            word,
            FUTEX_WAIT_PRIVATE,
            value,
            timeout_ns == UINT64_MAX ? NULL : &t,
            NULL,
            0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void core_lock(void)
{
    pthread_mutex_lock(&core.lock);
}

static void print_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        size -= (size_t)n;
    }
}

void core_unlock(void)
{
    char *text[2] = {NULL, NULL};
    size_t size[2] = {0, 0};

    if (core.log_size[0] + core.log_size[1] > 0) {
        for (int i = 0; i < 2; i++) {
            text[i] = core.log_text[i];
            size[i] = core.log_size[i];
            core.log_text[i] = NULL;
            core.log_size[i] = 0;
        }
    }
    pthread_mutex_unlock(&core.lock);
    for (int i = 0; i < 2; i++) {
        if (text[i] == NULL)
            continue;
        print_all(i == 0 ? STDOUT_FILENO : STDERR_FILENO, text[i], size[i]);
        free(text[i]);
    }
}

void poller_watch_fd(struct peer *peer)
{
    struct epoll_event e = {.events = EPOLLIN | (peer->wants_write ? EPOLLOUT : 0u),
                            .data.ptr = peer};
    int fd = unix_link_fd(peer->link);

    if (epoll_ctl(core.epoll_fd, EPOLL_CTL_MOD, fd, &e) != 0)
        epoll_ctl(core.epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

void poller_unwatch_fd(struct peer *peer)
{
    for (int i = 0; i < n_events; i++)
        if (events[i].data.ptr == peer)
            events[i].data.ptr = NULL;
    epoll_ctl(core.epoll_fd, EPOLL_CTL_DEL, unix_link_fd(peer->link), NULL);
}

static void publish_cpu(void)
{
    if (core.board != NULL && core.welcome.slot < BOARD_SLOTS)
        atomic_store_explicit(&core.board[core.welcome.slot].cpu,
                              sched_getcpu(),
                              memory_order_relaxed);
}

static bool peer_runs_elsewhere(const struct peer *p)
{
    if (core.board == NULL || p->board_slot >= BOARD_SLOTS)
        return false;
    int cpu = atomic_load_explicit(&core.board[p->board_slot].cpu, memory_order_relaxed);
    return cpu >= 0 && cpu != sched_getcpu();
}

/* Without the lock: true when the peer's socket has something (or is no socket any more). */
static bool spin(const struct peer *p, int fd)
{
    uint64_t end = clock_now_ns() + spin_budget_ns;
    char c;

    do {
        if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EINTR))
            return true;
        for (int i = 0; i < 4; i++)
            __builtin_ia32_pause();
    } while (peer_runs_elsewhere(p) && clock_now_ns() < end);
    return false;
}

/* Whoever has the role may sleep: what others have to say does not wait for it. */
static void send_all(void)
{
    refs_flush();
    peer_flush_all();
}

/* Do what has become due, and send what that leads to. */
static void serve_due(void)
{
    owner_settle();
    worker_on_time();
    send_all();
}

static void turn_over(void)
{
    serve_due();
    peer_sweep();
    core.last_turn_ns = clock_now_ns();
}

/* One blocking or polling epoll_wait; reads each ready peer once. */
static void wait_for_input(uint64_t timeout_ns)
{
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                         .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int n;

    core_unlock();
    if (timeout_ns == 0)
        n = epoll_wait(core.epoll_fd, events, EVENTS_PER_TURN, 0);
    else
        n = epoll_pwait2(core.epoll_fd,
                         events,
                         EVENTS_PER_TURN,
                         timeout_ns == UINT64_MAX ? NULL : &t,
                         NULL);
    core_lock();
    if (timeout_ns > 0)
        core.counters.blocks++;
    n_events = n;
    for (int i = 0; i < n; i++) {
        struct peer *p = events[i].data.ptr;
        if (p == NULL)
            continue; /* ended earlier in this turn; or a kick */
        /* Only a turn frees peers, and no other turn can run: the pointer is good. */
        CHECK_MAGIC(p, PEER_MAGIC);
        if ((events[i].events & EPOLLOUT) != 0 && p->link != NULL)
            p->dirty = true, peer_flush(p);
        if ((events[i].events & ~EPOLLOUT) != 0 && p->link != NULL)
            peer_read(p);
    }
    n_events = 0;
}

void poller_turn(uint64_t timeout_ns, struct peer *awaited, uint64_t expected_run_ns)
{
    send_all();
    if (awaited != NULL && awaited->route > 0)
        awaited = core.raylet;
    if (timeout_ns > 0 && awaited != NULL && awaited->link != NULL
        && expected_run_ns < core.spin_ns) {
        publish_cpu();
        if (spin_budget_ns == 0)
            spin_budget_ns = core.spin_ns;
        if (peer_runs_elsewhere(awaited)) {
            int fd = unix_link_fd(awaited->link);
            core.counters.spins++;
            core_unlock();
            bool hit = spin(awaited, fd);
            core_lock();
            if (hit && spin_budget_ns < core.spin_ns)
                spin_budget_ns *= 2;
            else if (!hit && spin_budget_ns > core.spin_ns / 16)
                spin_budget_ns /= 2;
            if (hit && awaited->link != NULL) {
                peer_read(awaited);
                turn_over();
                return;
            }
        }
    }
    publish_cpu();
    wait_for_input(timeout_ns);
    turn_over();
}

/* What becomes due in this process by itself, whoever waits and for whatever: a worker whose body
 * has left tasks behind is their owner while it has nothing to run. */
static uint64_t next_due(void)
{
    uint64_t at = core.submit != NULL ? submit_next_deadline(core.submit) : UINT64_MAX;
    uint64_t inbox = core.inbox != NULL ? inbox_next_deadline(core.inbox) : UINT64_MAX;
    uint64_t borrow = core.borrow != NULL ? borrow_next_deadline(core.borrow) : UINT64_MAX;

    at = inbox < at ? inbox : at;
    return borrow < at ? borrow : at;
}

void poller_wait(struct waiter *w,
                 uint64_t deadline_ns,
                 struct peer *awaited,
                 uint64_t expected_run_ns)
{
    uint64_t timeout = UINT64_MAX, due_ns = next_due();

    if (deadline_ns != UINT64_MAX || due_ns != UINT64_MAX) {
        uint64_t now = clock_now_ns();
        if (due_ns <= now)
            due_ns = now + 1000; /* a turn takes its time */
        if (due_ns < deadline_ns)
            deadline_ns = due_ns;
        timeout = deadline_ns > now ? deadline_ns - now : 0;
    }
    if (!core.polling) {
        core.polling = true;
        poller_thread = pthread_self();
        poller_turn(timeout, awaited, expected_run_ns);
        core.polling = false;
        return;
    }
    if (timeout == 0)
        return;
    atomic_store(&w->word, 0);
    list_append(&core.sleepers, &w->node);
    send_all(); /* may tell this waiter too */
    core_unlock();
    futex_wait(&w->word, 0, timeout);
    core_lock();
    list_remove(&w->node);
    if (due_ns != UINT64_MAX && clock_now_ns() >= due_ns)
        serve_due(); /* who has the role may have gone to sleep before that was to come */
}

void poller_poll(void)
{
    if (core.polling)
        return;
    core.polling = true;
    poller_thread = pthread_self();
    poller_turn(0, NULL, 0);
    core.polling = false;
}

void poller_leave(void)
{
    if (!core.polling && !list_empty(&core.sleepers)) {
        core.counters.thread_hops++;
        poller_wake(list_entry(core.sleepers.next, struct waiter, node));
    }
}

void poller_wake(struct waiter *w)
{
    const uint64_t one = 1;

    if (list_empty(&w->node)) { /* it has the role, or no reason to sleep any more */
        if (core.polling && !pthread_equal(poller_thread, pthread_self()))
            while (write(kick_fd, &one, sizeof one) < 0 && errno == EINTR)
                continue;
        return;
    }
    if (atomic_exchange(&w->word, 1) == 0)
        futex_wake(&w->word);
}

void poller_wake_all(void)
{
    list_for_each(s, &core.sleepers) poller_wake(list_entry(s, struct waiter, node));
}

static bool work_is_outstanding(void)
{
    return core.in_body || core.n_pending > 0 || !list_empty(&core.dirty);
}

/* Without the lock. What wakes it wakes it again until it is handled, here or by others. */
static void sleep_deep(uint64_t due_ns)
{
    struct pollfd fds[] = {{.fd = core.helper_fd, .events = POLLIN},
                           {.fd = core.epoll_fd, .events = POLLIN}};
    struct timespec t = {0};
    uint64_t now = clock_now_ns(), word;

    if (due_ns > now && due_ns != UINT64_MAX)
        t = (struct timespec){.tv_sec = (time_t)((due_ns - now) / 1000000000u),
                              .tv_nsec = (long)((due_ns - now) % 1000000000u)};
    ppoll(fds, core.worker ? 1 : 2, due_ns == UINT64_MAX ? NULL : &t, NULL);
    if ((fds[0].revents & POLLIN) != 0 && read(core.helper_fd, &word, sizeof word) < 0)
        return; /* another wake took it */
}

static void wake_helper(void)
{
    const uint64_t one = 1;

    futex_wake(&core.helper_word);
    while (write(core.helper_fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static void *helper_main(void *arg)
{
    unsigned idle = 0;

    (void)arg;
    core_lock();
    while (!core.stopping) {
        bool busy = work_is_outstanding();
        core.lately_ns = clock_now_ns();
        if (!core.polling && core.lately_ns - core.last_turn_ns >= NAP_NS) {
            poller_poll();
            core.counters.helper_turns++;
            poller_leave();
        } else if (core.polling) {
            send_all();
        }
        if (objects_map_ahead())
            continue;
        idle = busy ? 0 : idle + 1;
        bool deep = idle > IDLE_NAPS;
        uint64_t due_ns = deep ? next_due() : 0;
        atomic_store(&core.helper_word, deep);
        core_unlock();
        if (!deep) {
            futex_wait(&core.helper_word, 0, NAP_NS);
        } else {
            sleep_deep(due_ns);
            idle = 0;
        }
        core_lock();
    }
    core_unlock();
    return NULL;
}

void poller_need_helper(void)
{
    if (!core.has_helper) {
        sigset_t all, old;
        /* signals are the program's: none is delivered to our thread */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        core.has_helper = pthread_create(&core.helper, NULL, helper_main, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    } else if (atomic_load_explicit(&core.helper_word, memory_order_relaxed) == 1) {
        atomic_store(&core.helper_word, 0);
        wake_helper();
    }
}

void poller_hurry_helper(void)
{
    poller_need_helper();
    if (core.has_helper)
        futex_wake(&core.helper_word);
}

static void close_all(void)
{
    int *fds[] = {&core.epoll_fd, &core.event_fd, &core.helper_fd, &kick_fd};

    for (int i = 0; i < 4; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

int poller_init(struct err *err)
{
    list_init(&core.sleepers);
    core.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (core.epoll_fd < 0)
        return err_sys(err, "make an epoll descriptor");
    core.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    core.helper_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event kick = {.events = EPOLLIN | EPOLLET}; /* never read: each write counts */
    if (core.event_fd < 0 || core.helper_fd < 0 || kick_fd < 0
        || epoll_ctl(core.epoll_fd, EPOLL_CTL_ADD, kick_fd, &kick) != 0) {
        err_sys(err, "make an event descriptor");
        close_all();
        return -1;
    }
    core.last_turn_ns = clock_now_ns();
    spin_budget_ns = 0; /* the first turn takes it from what WELCOME told */
    return 0;
}

void poller_fini(void)
{
    core_lock();
    core.stopping = true;
    bool has = core.has_helper;
    atomic_store(&core.helper_word, 2);
    core_unlock();
    if (has) {
        wake_helper();
        pthread_join(core.helper, NULL);
    }
    core.has_helper = false;
    core.stopping = false;
    close_all();
}
