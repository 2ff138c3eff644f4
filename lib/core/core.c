/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A program's first ray_init connects to a raylet, of another's cluster or of one
 * that is started for it, and the last ray_shutdown leaves: nothing of the cluster stays, but that
 * core.life counts. Workers connect once (worker.c). Between the two core.connected is set, and
 * whoever sleeps in a call is inside (core_enter), so that the end waits until all have left.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/config.h"
#include "lib/core/cluster.h"
#include "lib/core/core_private.h"

#define DEFAULT_WAKE_NS 20000u
#define CONNECT_MS      10000
#define SAY_MS          2000 /* before a program is told that it waits */
#define MIN_UNITS       10
#define SHUTDOWN_MS     2000
#define TIMEOUT_MAX_MS  (INT64_MAX / 2000000) /* 146 years: for ever */

struct core core = {.lock = PTHREAD_MUTEX_INITIALIZER,
                    .outside = PTHREAD_COND_INITIALIZER,
                    .epoll_fd = -1,
                    .event_fd = -1,
                    .helper_fd = -1,
                    .store_fds = {-1, -1},
                    .raylet_pidfd = -1,
                    .life_fd = -1};

__thread const char *core_call_site;

static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER; /* one begins or ends at a time */

static void child_after_fork(void)
{
    if (core.connected || core.worker)
        atomic_store(&core.forked, true);
}

__attribute__((constructor)) static void install(void)
{
    pthread_atfork(NULL, NULL, child_after_fork);
    list_init(&core.peers);
    list_init(&core.dirty);
    list_init(&core.sleepers);
    core.events_tail = &core.events;
}

bool core_is_forked(void)
{
    return atomic_load_explicit(&core.forked, memory_order_relaxed);
}

void core_set_face(const struct core_face *face)
{
    core.face = *face;
}

bool core_is_initialized(void)
{
    return core.connected;
}

bool core_in_worker(void)
{
    return core.worker;
}

void core_enter(void)
{
    core.n_inside++;
}

void core_leave(void)
{
    if (--core.n_inside == 0)
        pthread_cond_broadcast(&core.outside);
}

void core_have_news(void)
{
    if (core.bell || !list_empty(&core.dirty)
        || (core.borrow != NULL && borrow_has_news(core.borrow)))
        poller_need_helper();
}

uint64_t core_deadline(int64_t timeout_ms)
{
    if (timeout_ms < 0 || timeout_ms > TIMEOUT_MAX_MS)
        return UINT64_MAX;
    return clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
}

/* --- in --- */

static bool copy_string(char *out, size_t room, const char **at, const char *end)
{
    size_t n = strnlen(*at, (size_t)(end - *at));

    if (*at + n >= end)
        return false;
    snprintf(out, room, "%s", *at);
    *at += n + 1;
    return true;
}

/* Undo outside what a record was inside. */
static void end_record(void *arg, struct record *r)
{
    (void)arg;
    bool is_borrowed = (r->flags & REF_BORROWED) != 0;

    if ((r->flags & REF_STORED) != 0) {
        struct wire_stored s = refs_stored(r, NODE_UNKNOWN);
        objects_unpin(refs_place_here(&r->u.stored), &r->u.stored.pin);
        if (refs_is_elsewhere(&r->u.stored))
            pull_end_record(&s.key, record_word(r));
        if (!is_borrowed)
            objects_free(&s);
    }
    if (is_borrowed)
        borrow_end(core.borrow, r);
    if (r->extra != NULL && r->extra->lineage != NULL && r->extra->n_lineage == 0)
        lineage_remove(core.lineages, r);
}

void core_on_welcome(const uint8_t *body, size_t size, int fd)
{
    struct wire_welcome *w = &core.welcome;

    if (size < sizeof *w || core.connected) { /* a second one says nothing new */
        if (fd >= 0)
            close(fd);
        return;
    }
    memcpy(w, body, sizeof *w);
    const char *at = (const char *)body + sizeof *w, *end = (const char *)body + size;
    if (!copy_string(core.session_dir, sizeof core.session_dir, &at, end)
        || !copy_string(core.node_name, sizeof core.node_name, &at, end)
        || !copy_string(core.log_path, sizeof core.log_path, &at, end))
        core.log_path[0] = '\0';
    if (fd >= 0) {
        core.board =
            mmap(NULL, BOARD_SLOTS * sizeof *core.board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (core.board == MAP_FAILED)
            core.board = NULL;
        close(fd);
    }
    if (w->in_cluster)
        submit_set_linger(core.submit, SUBMIT_LINGER_NS);
    core.spin_ns = 2 * (w->wake_ns > 0 ? w->wake_ns : DEFAULT_WAKE_NS);
    core.borrow = borrow_create(core.refs, w->process);
    ref_table_on_end(core.refs, end_record, NULL);
    core.connected = true;
}

/* Takes the fd. */
static void send_with_fd(uint8_t type, const void *body, size_t size, int fd)
{
    void *out = peer_reserve(core.raylet, type, size);

    if (out == NULL) {
        close(fd);
        return;
    }
    memcpy(out, body, size);
    peer_commit_fd(core.raylet, size, fd);
}

/* A raylet that is not ours does not know us: what workers are made of, then HELLO. */
static void introduce(const struct wire_hello *hello, const int *made_of)
{
    for (uint32_t i = 0; i < WIRE_JOB_N_PARTS; i++) {
        struct wire_job_part w = {.part = i};
        send_with_fd(WIRE_JOB_PART, &w, sizeof w, made_of[i + 1]);
    }
    send_with_fd(WIRE_HELLO, hello, sizeof *hello, made_of[0]);
}

static void close_all(const int *fds)
{
    for (int i = 0; fds != NULL && i < 1 + WIRE_JOB_N_PARTS; i++)
        close(fds[i]);
}

int core_connect(int fd,
                 const struct wire_hello *who,
                 const int *made_of,
                 int more_ms,
                 struct err *err)
{
    struct wire_hello hello = *who;
    struct waiter w = {.n_missing = 1};
    int timeout_ms = CONNECT_MS + more_ms;
    uint64_t deadline = core_deadline(timeout_ms);

    struct config settings;
    bool is_set = config_load_one(&settings, CONFIG_MAX_LINEAGE, err) == 0;

    hello.protocol = WIRE_PROTOCOL;
    hello.pid = getpid();
    core_build(hello.build, sizeof hello.build);
    if (!is_set || poller_init(err) != 0) {
        close(fd);
        close_all(made_of);
        return -1;
    }
    list_init(&w.node);
    core_lock();
    core.lost = (struct err){.code = ERR_NONE};
    core.raylet = peer_create(fd, err);
    if (core.raylet == NULL) {
        core_unlock();
        poller_fini();
        close_all(made_of);
        return -1;
    }
    core.raylet->is_raylet = true;
    core.refs = ref_table_create();
    core.lineages =
        lineages_create(core.refs, (uint64_t)config_number(&settings, CONFIG_MAX_LINEAGE, 0));
    core.has_lost = false;
    core.submit = submit_create(MIN_UNITS);
    core.counters = (struct core_counters){0};
    core.borrow_actions.n = 0;
    if (made_of != NULL)
        introduce(&hello, made_of);
    else
        peer_send(core.raylet, WIRE_HELLO, &hello, sizeof hello);
    uint64_t say = hello.kind == WIRE_DRIVER ? core_deadline(SAY_MS) : UINT64_MAX;
    while (!core.connected && core.raylet->link != NULL && clock_now_ns() < deadline) {
        poller_wait(&w, say < deadline ? say : deadline, NULL, 0);
        if (!core.connected && clock_now_ns() >= say) {
            fprintf(stderr,
                    "ray: the raylet has not let this program in for %d s: it waits for its "
                    "cluster's GCS, or is stopped (`ray why` tells); at most %d s more\n",
                    SAY_MS / 1000,
                    (timeout_ms - SAY_MS) / 1000);
            say = UINT64_MAX;
        }
    }
    bool ok = core.connected && core.raylet->link != NULL;
    if (!ok && core.lost.code == ERR_DIED && hello.kind == WIRE_DRIVER) {
        char fate[96];
        cluster_fate(core.raylet_pidfd, fate, sizeof fate);
        err_set(
            err,
            ERR_DIED,
            "the raylet %s before it answered: is it of this build? run it by hand with --version",
            fate);
    } else if (!ok && core.lost.code != ERR_NONE)
        *err = core.lost;
    else if (!ok)
        err_set(err,
                ERR_TIMEOUT,
                "the raylet did not let this program in within %d s: it waits for its cluster's "
                "GCS, or is stopped (`ray why` tells)",
                timeout_ms / 1000);
    core_unlock();
    return ok ? 0 : -1;
}

/* --- out --- */

/* Forget everything of the cluster that has ended. */
static void clear(void)
{
    poller_fini();
    core_lock();
    if (core.submit != NULL && core.raylet != NULL && core.raylet->link != NULL)
        core.raylet->is_raylet = true;
    core.connected = false;
    list_for_each_safe(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->route == 0 && p->link != NULL)
            unix_link_destroy(p->link);
        p->link = NULL;
        peer_free(p);
    }
    core.raylet = core.pushed = core.lease_peer = NULL;
    submit_destroy(core.submit);
    core.submit = NULL;
    core.actions.n = 0;
    while (core.events != NULL) {
        struct ready_event *e = core.events;
        core.events = e->next;
    }
    core.events_tail = &core.events;
    want_forget();
    pull_forget();
    borrow_destroy(core.borrow);
    core.borrow = NULL;
    free(core.borrow_actions.v);
    core.borrow_actions = (struct borrow_actions){0};
    lineages_destroy(core.lineages);
    core.lineages = NULL;
    ref_table_destroy(core.refs);
    core.refs = NULL;
    put_forget_buffers();
    objects_close();
    core.life++;
    template_forget_all();
    free(core.actions.v);
    core.actions = (struct submit_actions){0};
    free(core.scratch);
    core.scratch = NULL;
    core.scratch_size = 0;
    if (core.board != NULL)
        munmap(core.board, BOARD_SLOTS * sizeof *core.board);
    core.board = NULL;
    core.n_pending = 0;
    if (core.life_fd >= 0) /* all is unmapped */
        close(core.life_fd);
    core.life_fd = -1;
    core_unlock();
}

/* --- of a program --- */

/* The raylet at the other end of fd, which is taken, is not ours. */
static int join(const struct core_config *config, int fd, struct err *err)
{
    struct wire_hello who = {.kind = WIRE_DRIVER,
                             .flags = config->no_log_to_driver ? WIRE_HELLO_NO_LOG : 0};
    int made_of[1 + WIRE_JOB_N_PARTS] = {-1, -1, -1};

    core.life_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (core.life_fd < 0 || cluster_describe(made_of, err) != 0) {
        if (core.life_fd < 0)
            err_sys(err, "keep the raylet's socket");
        else
            close(core.life_fd);
        core.life_fd = -1;
        close(fd);
        return -1;
    }
    if (core_connect(fd, &who, made_of, 0, err) == 0)
        return 0;
    clear();
    return -1;
}

static int begin(const struct core_config *config, struct err *err)
{
    struct wire_hello who = {.kind = WIRE_DRIVER};
    int fd, joined = -1, more_ms = 0;

    core.raylet_pidfd = -1;
    if (config->address != NULL || config->may_join)
        joined = cluster_join(config->address, config->temp_dir, &fd, err);
    if (joined == 0)
        return join(config, fd, err);
    if (config->address != NULL && joined < 0)
        return -1;
    /* one of our own: for this program alone, or for it in a cluster that has no node here */
    const char *gcs = config->address;
    if (cluster_start(config, gcs, &more_ms, &core.raylet_pidfd, &fd, err) != 0)
        return -1;
    if (core_connect(fd, &who, NULL, more_ms, err) == 0)
        return 0;
    clear();
    cluster_reap(core.raylet_pidfd, SHUTDOWN_MS);
    core.raylet_pidfd = -1;
    return -1;
}

int core_init(const struct core_config *config, struct err *err)
{
    struct core_config defaults = {0};
    int code = CORE_OK;

    if (core_is_forked()) {
        err_set(err,
                ERR_INVALID,
                "this process was forked from one that uses Ray: exec a new program, or fork "
                "before ray_init");
        return CORE_EFORKED;
    }
    if (core.worker)
        return CORE_OK;
    start_check();
    pthread_mutex_lock(&life);
    if (core.n_inits == 0 && begin(config != NULL ? config : &defaults, err) != 0) {
        code = CORE_ELINK;
    } else if (core.n_inits++ == 0) {
        core_lock();
        poller_need_helper(); /* answers others, whatever the program does */
        core_unlock();
    }
    pthread_mutex_unlock(&life);
    return code;
}

/* What the raylet said last is read, all that is pending fails, and everybody who sleeps in a call
 * finds out and leaves. Until deadline_ns it may end the link by itself. */
static void hear_it_out(uint64_t deadline_ns)
{
    struct waiter w = {.n_missing = 1};

    list_init(&w.node);
    core_lock();
    while (core.raylet->link != NULL && clock_now_ns() < deadline_ns)
        poller_wait(&w, deadline_ns, NULL, 0);
    if (core.raylet->link != NULL) /* a child that the program forked may hold the other end */
        shutdown(unix_link_fd(core.raylet->link), SHUT_RDWR);
    while (core.raylet->link != NULL)
        poller_wait(&w, UINT64_MAX, NULL, 0);
    poller_leave();
    while (core.n_inside > 0)
        pthread_cond_wait(&core.outside, &core.lock);
    core_unlock();
}

/* A raylet that is not ours says GOODBYE when all of the job has ended. */
static void end(void)
{
    bool is_ours = core.life_fd < 0;

    core_lock();
    core.connected = false; /* nobody begins anything any more */
    peer_send(core.raylet, WIRE_LEAVE, NULL, 0);
    peer_flush(core.raylet);
    core_unlock();
    if (is_ours)
        cluster_reap(core.raylet_pidfd, SHUTDOWN_MS);
    core.raylet_pidfd = -1;
    hear_it_out(is_ours ? 0 : core_deadline(SHUTDOWN_MS));
    clear();
}

int core_shutdown(struct err *err)
{
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    if (core.worker)
        return CORE_OK;
    pthread_mutex_lock(&life);
    if (core.n_inits == 0)
        code = CORE_EARG;
    else if (--core.n_inits == 0)
        end();
    pthread_mutex_unlock(&life);
    if (code != CORE_OK)
        err_set(err, ERR_INVALID, "ray_shutdown without ray_init");
    return code;
}

/* --- facts --- */

int core_get_facts(struct core_facts *out, struct err *err)
{
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    core_lock();
    if (!core.connected) {
        err_set(err, ERR_INVALID, "call ray_init first");
        code = CORE_EARG;
    } else if (core.raylet->link == NULL) {
        err_set(err, ERR_DIED, "the raylet is gone: %s", core.lost.text);
        code = CORE_ELINK;
    } else {
        *out = (struct core_facts){.cluster = core.welcome.cluster,
                                   .node = core.welcome.node,
                                   .worker = core.welcome.worker,
                                   .job = core.welcome.job,
                                   .process = core.welcome.process,
                                   .n_cpus = core.welcome.n_cpus};
        memcpy(out->session_dir, core.session_dir, sizeof out->session_dir);
    }
    core_unlock();
    return code;
}

int core_get_info(struct core_info *out, struct err *err)
{
    struct waiter w = {.n_missing = 1};
    uint64_t deadline = core_deadline(CONNECT_MS);
    int code = CORE_OK;

    if (core_is_forked())
        return CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    if (!core.connected) {
        core_unlock();
        err_set(err, ERR_INVALID, "call ray_init first");
        return CORE_EARG;
    }
    core_enter();
    core.info_ready = false;
    peer_send(core.raylet, WIRE_INFO, NULL, 0);
    peer_flush(core.raylet);
    while (!core.info_ready && core.raylet->link != NULL && clock_now_ns() < deadline)
        poller_wait(&w, deadline, NULL, 0);
    poller_leave();
    if (core.info_ready && core.raylet->link != NULL) {
        *out = core.info;
    } else {
        err_set(err, ERR_DIED, "the raylet is gone: %s", core.lost.text);
        code = CORE_ELINK;
    }
    core_leave();
    core_unlock();
    return code;
}

void core_get_counters(struct core_counters *out)
{
    core_lock();
    *out = core.counters;
    core_unlock();
    out->allocs = alloc_count();
}
