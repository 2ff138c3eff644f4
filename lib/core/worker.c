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

struct given {
    uint32_t offset, size;
    uint8_t meta;
    bool is_given;
};

/* What the running body has returned so far; one body at a time. */
static struct {
    uint8_t *bytes;
    size_t size, room;
    struct given returns[CORE_RETURNS_MAX];
    bool failed;
    size_t failure_size;
    uint8_t failure[2048];
} reply;

static struct core_arg *args;
static unsigned args_room;

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

static void act_for(struct peer *p)
{
    struct inbox_actions *acts = &core.inbox_actions;

    for (size_t i = 0; i < acts->n; i++) {
        const struct inbox_action *a = &acts->v[i];
        switch (a->kind) {
        case INBOX_RETURNED:
            if (p != NULL)
                send_returned(p, a);
            break;
        case INBOX_BOUNCED:
            if (p != NULL) {
                struct wire_bounced w = {.lease = a->lease,
                                         .slot = (uint8_t)a->asked,
                                         .reason = WIRE_BOUNCE_OLD_LEASE};
                peer_send(p, WIRE_BOUNCED, &w, sizeof w);
            }
            break;
        case INBOX_ENDED: {
            struct wire_lease_ended w = {.lease = a->lease};
            if (core.lease_peer != NULL) {
                peer_send(core.lease_peer, WIRE_OWNER_LEASE_ENDED, &w, sizeof w);
                peer_flush(core.lease_peer); /* all its results are out before the raylet may lend
                                                us again */
                if (core.lease_peer->link == NULL && core.lease_peer->n_leases == 0)
                    peer_free(core.lease_peer);
                core.lease_peer = NULL;
            }
            peer_send(core.raylet, WIRE_LEASE_ENDED, &w, sizeof w);
            break;
        }
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
    else if (fd == -1)
        p = peer_find(&w.owner, false);
    if (p != NULL) {
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
        struct err err = {.code = ERR_PROTOCOL, .text = "malformed PUSH"};
        if (size >= sizeof w) {
            memcpy(&w, body, sizeof w);
            if (inbox_push(core.inbox,
                           w.lease,
                           w.slot,
                           w.phase,
                           body,
                           (uint32_t)size,
                           &core.inbox_actions)) {
                if (core.inbox_actions.n > 0)
                    act_for(p);
                break;
            }
        }
        peer_end(p, &err);
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
    case WIRE_EXIT:
        fflush(NULL);
        _exit(0);
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
}

void worker_on_owner_lost(struct peer *p)
{
    if (p == core.lease_peer && core.inbox != NULL)
        inbox_owner_gone(core.inbox); /* the raylet revokes the lease */
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

int core_call_return(struct core_call *call,
                     unsigned i,
                     uint8_t meta,
                     const void *bytes,
                     size_t size)
{
    if (i >= call->n_returns || reply.returns[i].is_given)
        return CORE_EARG;
    if (size > CORE_INLINE_MAX)
        return CORE_EFULL;
    if (reply.size + size > reply.room) {
        size_t room = 2 * (reply.size + size) + 4096;
        uint8_t *p = try_alloc(reply.bytes, room);
        if (p == NULL)
            return CORE_ENOMEM;
        reply.bytes = p;
        reply.room = room;
    }
    if (size > 0)
        memcpy(reply.bytes + reply.size, bytes, size);
    reply.returns[i] = (struct given){.offset = (uint32_t)reply.size,
                                      .size = (uint32_t)size,
                                      .meta = meta,
                                      .is_given = true};
    reply.size += size;
    return CORE_OK;
}

void core_call_fail(struct core_call *call, enum core_code code, const char *text, const char *file)
{
    char log[sizeof core.log_path + 8];

    snprintf(log, sizeof log, "%s.err", core.log_path);
    reply.failed = true;
    reply.failure_size = owner_failure(reply.failure,
                                       sizeof reply.failure,
                                       code,
                                       getpid(),
                                       0,
                                       text,
                                       call->name,
                                       file,
                                       log);
}

/* Fill args from a PUSH body; false: malformed. */
static bool parse_args(const uint8_t *p, size_t size, unsigned n)
{
    if (n > args_room) {
        args = xrealloc(args, n * sizeof *args);
        args_room = n;
    }
    for (unsigned i = 0; i < n; i++) {
        struct wire_arg a;
        if (size < sizeof a)
            return false;
        memcpy(&a, p, sizeof a);
        if (a.size > size - sizeof a)
            return false;
        args[i] = (struct core_arg){.bytes = p + sizeof a, .size = a.size, .meta = a.meta};
        p += sizeof a + a.size;
        size -= sizeof a + a.size;
    }
    return true;
}

/* Lines of a task are told apart by a marker in the log, written when the function changes (Ray's
 * way). */
static void mark_logs(const char *name)
{
    char line[80];

    if (strcmp(core.marked, name) == 0)
        return;
    snprintf(core.marked, sizeof core.marked, "%s", name);
    fflush(stdout);
    int n = snprintf(line, sizeof line, ":task_name:%s\n", name);
    for (int fd = 1; fd <= 2; fd++) {
        ssize_t r = write(fd, line, (size_t)n);
        (void)r;
    }
}

static void answer(const struct wire_push *w, const struct core_call *call, uint64_t run_ns)
{
    struct peer *p = core.lease_peer;
    struct wire_done d = {.lease = w->lease,
                          .slot = w->slot,
                          .failed = reply.failed,
                          .n_returns = (uint16_t)call->n_returns,
                          .run_ns = run_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)run_ns};
    size_t size = sizeof d;

    if (p == NULL || p->link == NULL)
        return;
    for (unsigned i = 0; i < call->n_returns; i++)
        size +=
            sizeof(struct wire_arg) + (reply.failed ? reply.failure_size : reply.returns[i].size);
    uint8_t *out = size <= FRAME_BODY_MAX ? peer_reserve(p, WIRE_DONE, size) : core_scratch(size);
    if (out == NULL) {
        peer_end(p, &(struct err){.code = ERR_FULL});
        return;
    }
    uint8_t *at = out + sizeof d;
    memcpy(out, &d, sizeof d);
    for (unsigned i = 0; i < call->n_returns; i++) {
        const struct given *g = &reply.returns[i];
        struct wire_arg a = {.size = g->size, .meta = g->meta};
        const uint8_t *bytes = g->size > 0 ? reply.bytes + g->offset : NULL;
        if (reply.failed) {
            a = (struct wire_arg){.size = (uint32_t)reply.failure_size, .meta = WIRE_META_ERROR};
            bytes = reply.failure;
        }
        memcpy(at, &a, sizeof a);
        if (a.size > 0)
            memcpy(at + sizeof a, bytes, a.size);
        at += sizeof a + a.size;
    }
    if (size <= FRAME_BODY_MAX)
        peer_commit(p, size);
    else
        peer_send(p, WIRE_DONE, out, size);
}

static void run(struct core_call *call, bool parsed, const struct known_template *k)
{
    char text[192];

    if (k == NULL || !parsed) {
        core_call_fail(call, CORE_EARG, "malformed task", "");
        return;
    }
    if (call->body == NULL) {
        snprintf(text,
                 sizeof text,
                 "function %s is not in the worker's executable: register it with RAY_REMOTE in "
                 "the program, or link its library",
                 call->function);
        core_call_fail(call, CORE_EARG, text, "");
        return;
    }
    core.face.execute(call);
    if (atomic_load(&core.forked))
        _exit(0); /* a child that the body forked and that came back here */
    if (__fpending(stdout) > 0)
        fflush(stdout); /* a line without an end: the process may be killed any time now */
    for (unsigned i = 0; !reply.failed && i < call->n_returns; i++)
        if (!reply.returns[i].is_given) {
            snprintf(text,
                     sizeof text,
                     "%s returned no value %u of %u",
                     call->function,
                     i,
                     call->n_returns);
            core_call_fail(call, CORE_ETASK, text, "");
        }
}

/* Run one claimed task; the lock is held on entry and on return. */
static uint64_t execute(const struct inbox_task *t, uint64_t start_ns)
{
    struct wire_push w;
    struct peer *p = core.lease_peer;
    const struct known_template *k = NULL;

    memcpy(&w, t->push, sizeof w);
    if (p != NULL && w.template <p->n_known)
        k = p->known[w.template];
    bool parsed = parse_args(t->push + sizeof w, t->size - sizeof w, w.n_args);
    struct core_call call = {
        .function = k != NULL ? k->function : "?",
        .name = k != NULL ? k->name : "?",
        .body = k != NULL ? k->body : NULL,
        .args = args,
        .n_args = parsed ? w.n_args : 0,
        .n_returns = k != NULL ? k->n_returns : 1,
        .task =
            task_id_make((struct job_id){core.welcome.job}, p != NULL ? p->process : 0, w.counter),
        .attempt = w.attempt};
    for (unsigned i = 0; i < call.n_returns; i++)
        reply.returns[i].is_given = false;
    reply.size = 0;
    reply.failed = false;
    core.in_body = true;
    core.counters.tasks_executed++;
    poller_need_helper();
    core_unlock();
    mark_logs(call.name);
    run(&call, parsed, k);
    core_lock();
    core.in_body = false;
    uint64_t now = clock_now_ns();
    answer(&w, &call, now - start_ns);
    if (core.oldest_reply_ns == 0)
        core.oldest_reply_ns = now;
    inbox_finish(core.inbox, now, &core.inbox_actions);
    if (k != NULL && (k->flags & WIRE_TEMPLATE_NO_RETRY) != 0 && core.lease_peer != NULL)
        peer_flush(core.lease_peer);
    worker_act();
    return now;
}

bool worker_run_one(uint64_t wake_ns, uint64_t *now_ns)
{
    uint64_t started;
    const struct inbox_task *t = inbox_claim(core.inbox, &started);

    if (t == NULL)
        return false;
    atomic_store_explicit(&core.control->started, started, memory_order_seq_cst);
    if (core.oldest_reply_ns != 0 && *now_ns - core.oldest_reply_ns > wake_ns)
        peer_flush_all();
    *now_ns = execute(t, *now_ns);
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
        worker_on_time();
        /* spin only right after work: a worker that has been idle sleeps */
        poller_wait(&w, inbox_next_deadline(core.inbox), worked ? core.lease_peer : NULL, 0);
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
        mmap(NULL, sizeof *core.control, PROT_READ | PROT_WRITE, MAP_SHARED, setup->control_fd, 0);
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
    close(setup->control_fd);
    close(setup->board_fd);
    if (core_connect(setup->link_fd, WIRE_WORKER, setup->token, &err) != 0) {
        fprintf(stderr, "ray: worker cannot join its raylet: %s\n", err.text);
        _exit(1);
    }
    core_lock();
    poller_need_helper();
    core_unlock();
    serve();
}
