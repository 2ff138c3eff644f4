/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's life after the fork: say HELLO, then claim, run, answer. The thread that runs bodies
 * is the main thread; while a body runs, the helper thread answers the owner and the raylet
 * (poller.c). Answers are written when the inbox is empty, before a body when the oldest is older
 * than a wake, before blocking, and at once for tasks that must not run twice.
 */
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define DEFAULT_WAKE_NS 20000u
_Static_assert(CONTROL_BLOCK_SLOTS == SUBMIT_WINDOW, "a slot fits below the time");

static void on_template(struct peer *p, const uint8_t *body, size_t size)
{
    struct wire_template w;

    if (size < sizeof w + 2 || body[size - 1] != '\0')
        return;
    memcpy(&w, body, sizeof w);
    const char *function = (const char *)body + sizeof w;
    const char *name = function + strlen(function) + 1;
    if (name >= (const char *)body + size)
        return;
    if (w.template >= p->n_known) {
        unsigned n = w.template + 32u;
        p->known = xrealloc(p->known, n * sizeof *p->known);
        memset(p->known + p->n_known, 0, (n - p->n_known) * sizeof *p->known);
        p->n_known = n;
    }
    struct known_template *k = p->known[w.template];
    if (k == NULL)
        k = p->known[w.template] = xcalloc(1, sizeof *k);
    k->n_returns = w.n_returns > CORE_RETURNS_MAX ? CORE_RETURNS_MAX : w.n_returns;
    k->flags = w.flags;
    snprintf(k->function, sizeof k->function, "%s", function);
    snprintf(k->name, sizeof k->name, "%s", name);
    k->body = core.face.lookup != NULL ? core.face.lookup(k->function) : NULL;
}

static void send_returned(struct peer *p, const struct inbox_action *a)
{
    struct wire_returned w = {.lease = a->lease, .mask = a->mask, .asked = a->asked};

    peer_send(p, WIRE_RETURNED, &w, sizeof w);
}

/* It lacks results: for want of credit, or of room in the socket. */
static bool is_behind(const struct peer *p)
{
    return p->link != NULL && (p->wants_write || (p->credit != NULL && p->credit->first != NULL));
}

static void say_ended(uint64_t lease)
{
    struct wire_lease_ended w = {.lease = lease};

    peer_send(core.raylet, WIRE_LEASE_ENDED, &w, sizeof w);
}

/* All its results are out before the raylet may lend us again: if we died then, nobody could say
 * that these tasks had started. While the owner does not read them, others may have the CPU. */
static void end_lease(uint64_t lease)
{
    struct wire_lease_ended w = {.lease = lease};
    struct wire_blocked blocked = {.lease = lease};
    struct peer *p = core.lease_peer;

    core.lease_peer = NULL;
    if (p != NULL) {
        peer_send(p, WIRE_OWNER_LEASE_ENDED, &w, sizeof w);
        peer_flush(p);
        core.peers_ended |= p->link == NULL;
    }
    if (p == NULL || !is_behind(p)) {
        say_ended(lease);
        return;
    }
    core.late_peer = p;
    core.late_lease = lease;
    peer_send(core.raylet, WIRE_BLOCKED, &blocked, sizeof blocked);
}

void worker_end_late_lease(void)
{
    if (core.late_peer == NULL || is_behind(core.late_peer))
        return;
    core.late_peer = NULL;
    say_ended(core.late_lease);
    peer_flush(core.raylet);
}

static void act_for(struct peer *p)
{
    struct inbox_actions *acts = &core.inbox_actions;

    for (size_t i = 0; i < acts->n; i++) {
        const struct inbox_action *a = &acts->v[i];
        switch (a->kind) {
        case INBOX_RETURNED:
            pull_end_tasks(a->lease, a->mask);
            if (p != NULL)
                send_returned(p, a);
            break;
        case INBOX_BOUNCED:
            pull_end_tasks(a->lease, 1ull << a->asked);
            if (p != NULL) {
                struct wire_bounced w = {.lease = a->lease,
                                         .slot = (uint8_t)a->asked,
                                         .reason = WIRE_BOUNCE_OLD_LEASE};
                peer_send(p, WIRE_BOUNCED, &w, sizeof w);
            }
            break;
        case INBOX_ENDED:
            pull_end_tasks(a->lease, UINT64_MAX);
            end_lease(a->lease);
            break;
        }
    }
    acts->n = 0;
}

void worker_act(void)
{
    if (core.inbox_actions.n > 0)
        act_for(core.lease_peer);
}

void worker_on_time(void)
{
    if (core.inbox == NULL)
        return;
    inbox_on_time(core.inbox, clock_now_ns(), &core.inbox_actions);
    worker_act();
}

static void on_begin(const uint8_t *body, size_t size, int fd)
{
    struct wire_lease_begin w;
    struct err err;
    struct peer *p = NULL;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (fd >= 0)
        p = peer_create(fd, &err);
    else if (w.node != core.welcome.node_number)
        p = peer_on_route(WIRE_ROUTE_PROCESS | WIRE_ROUTE_WORKER | w.owner_process);
    else if (fd == -1)
        p = peer_find(&w.owner, false);
    if (p != NULL) {
        p->node_number = w.node;
        p->id = w.owner;
        p->pid = w.owner_pid;
        p->process = w.owner_process;
        p->board_slot = w.owner_slot;
    }
    core.lease_peer = p;
    atomic_store(&core.control->started, 0);
    atomic_store(&core.control->lease, w.lease);
    inbox_lease_begin(core.inbox, w.lease);
    if (p == NULL) { /* no descriptor left: the next lease of this owner comes with a route */
        struct wire_route lost = {.lease = w.lease};
        peer_send(core.raylet, WIRE_ROUTE, &lost, sizeof lost);
        inbox_revoke(core.inbox, w.lease, 0, clock_now_ns(), &core.inbox_actions);
        worker_act();
    }
}

/* Would others lose what this process owns, or the tasks it still waits for? */
static bool is_needed(void)
{
    struct borrow_stats s;

    borrow_get_stats(core.borrow, &s);
    return s.n_borrowers > 0 || s.n_replies > 0 || core.n_pending > 0;
}

/* Apart: a struct err is half a KiB to fill, for each PUSH if it stood where they are handled. */
static __attribute__((noinline, cold)) void end_malformed(struct peer *p)
{
    peer_end(p, &(struct err){.code = ERR_PROTOCOL, .text = "malformed PUSH"});
}

void worker_on_frame(struct peer *p, uint8_t type, const uint8_t *body, size_t size, int fd)
{
    if (!core.worker) {
        if (fd >= 0)
            close(fd);
        return;
    }
    switch (type) {
    case WIRE_LEASE_BEGIN:
        on_begin(body, size, fd);
        return;
    case WIRE_TEMPLATE:
        on_template(p, body, size);
        break;
    case WIRE_PUSH: {
        struct wire_push w;
        if (size >= sizeof w) {
            memcpy(&w, body, sizeof w);
            if (inbox_push(core.inbox,
                           w.lease,
                           w.slot,
                           w.phase,
                           body,
                           (uint32_t)size,
                           &core.inbox_actions)) {
                if ((w.phase & WIRE_PUSH_ELSEWHERE) != 0)
                    pull_on_push(w.lease, w.slot, body + sizeof w, size - sizeof w, w.n_args);
                if (core.inbox_actions.n > 0)
                    act_for(p);
                break;
            }
        }
        end_malformed(p);
        break;
    }
    case WIRE_TAKE_BACK: {
        struct wire_take_back w;
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        inbox_take_back(core.inbox, w.lease, w.count, &core.inbox_actions);
        act_for(p);
        break;
    }
    case WIRE_LEASE_REVOKE: {
        struct wire_lease_revoke w;
        uint64_t now = clock_now_ns();
        if (size < sizeof w)
            break;
        memcpy(&w, body, sizeof w);
        inbox_revoke(core.inbox, w.lease, now + w.grace_ms * 1000000ull, now, &core.inbox_actions);
        worker_act();
        break;
    }
    case WIRE_EXIT: {
        struct wire_exit w = {0};
        memcpy(&w, body, size < sizeof w ? size : sizeof w);
        if (w.may_stay && is_needed()) {
            peer_send(core.raylet, WIRE_STAYS, NULL, 0);
            break;
        }
        fflush(NULL);
        _exit(0);
    }
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
}

void worker_on_owner_lost(struct peer *p)
{
    worker_end_late_lease();
    if (p != core.lease_peer || core.inbox == NULL)
        return;
    inbox_owner_gone(core.inbox); /* the raylet revokes the lease */
    pull_end_tasks(inbox_lease(core.inbox), UINT64_MAX);
}

void worker_block(void)
{
    if (!core.in_body || core.blocked || !pthread_equal(core.body_thread, pthread_self()))
        return;
    struct wire_blocked w = {.lease = inbox_lease(core.inbox)};
    core.blocked = true;
    inbox_block(core.inbox, &core.inbox_actions);
    worker_act();
    peer_send(core.raylet, WIRE_BLOCKED, &w, sizeof w);
}

void worker_unblock(void)
{
    if (!core.blocked || !pthread_equal(core.body_thread, pthread_self()))
        return;
    struct wire_blocked w = {.lease = inbox_lease(core.inbox)};
    core.blocked = false;
    inbox_unblock(core.inbox);
    peer_send(core.raylet, WIRE_UNBLOCKED, &w, sizeof w);
    peer_flush(core.raylet);
}

bool worker_run_one(uint64_t wake_ns, uint64_t *now_ns)
{
    uint64_t started;
    const struct inbox_task *t =
        inbox_claim(core.inbox, pull_waiting(inbox_lease(core.inbox)), &started);

    if (t == NULL)
        return false;
    atomic_store_explicit(&core.control->started, started, memory_order_seq_cst);
    atomic_store_explicit(&core.control->running,
                          (*now_ns & ~(uint64_t)(CONTROL_BLOCK_SLOTS - 1)) | t->slot,
                          memory_order_relaxed);
    if (core.oldest_reply_ns != 0 && *now_ns - core.oldest_reply_ns > wake_ns)
        peer_flush_all();
    *now_ns = call_run(t, *now_ns);
    return true;
}

_Noreturn static void serve(void)
{
    struct waiter w = {.n_missing = 1};
    uint64_t wake_ns = core.welcome.wake_ns > 0 ? core.welcome.wake_ns : DEFAULT_WAKE_NS;

    list_init(&w.node);
    core.body_thread = pthread_self();
    core_lock();
    uint64_t now = clock_now_ns();
    for (bool worked = false;;) {
        if (worker_run_one(wake_ns, &now)) {
            worked = true;
            continue;
        }
        atomic_store_explicit(&core.control->running, 0, memory_order_relaxed);
        worker_on_time();
        /* spin only right after work: a worker that has been idle sleeps */
        poller_wait(&w, UINT64_MAX, worked ? core.lease_peer : NULL, 0);
        poller_leave();
        worked = false;
        now = clock_now_ns();
    }
}

_Noreturn void core_worker_main(const struct core_worker_setup *setup)
{
    struct err err = {0};

    core.worker = true;
    core.inbox = inbox_create();
    core.control =
        mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, setup->control_fd, 0);
    core.board = mmap(NULL,
                      BOARD_SLOTS * sizeof *core.board,
                      PROT_READ | PROT_WRITE,
                      MAP_SHARED,
                      setup->board_fd,
                      0);
    if (core.board == MAP_FAILED)
        core.board = NULL;
    if (core.control == MAP_FAILED) {
        fprintf(stderr, "ray: worker cannot map its control block\n");
        _exit(1);
    }
    core.control->magic = CONTROL_BLOCK_MAGIC;
    core.control->layout = CONTROL_BLOCK_LAYOUT;
    if (objects_open(setup->index_fd, setup->arena_fd, core.control, &err) != 0) {
        fprintf(stderr, "ray: worker cannot map the object store: %s\n", err.text);
        _exit(1);
    }
    close(setup->control_fd);
    close(setup->board_fd);
    close(setup->index_fd);
    close(setup->arena_fd);
    struct wire_hello who = {.kind = WIRE_WORKER, .token = setup->token};
    if (core_connect(setup->link_fd, &who, NULL, 0, &err) != 0) {
        fprintf(stderr, "ray: worker cannot join its raylet: %s\n", err.text);
        _exit(1);
    }
    core_lock();
    poller_need_helper();
    core_unlock();
    serve();
}
