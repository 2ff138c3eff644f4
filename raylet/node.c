/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A process is a driver or worker with a link; its slot on the board is its handle
 * in lease.c and router.c, a worker's token its handle in worker_pool.c. Handlers feed one event to
 * a deciding module and leave its actions in the list; node_turn_end carries out all actions, then
 * flushes each link that has something to send, once.
 */
#include "raylet/node.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/machine_memory.h"
#include "raylet/node_private.h"

#define LAST_READS 64 /* of a dead process: more than its socket holds */

/* --- sending --- */

static void mark_dirty(struct process *p)
{
    if (list_empty(&p->dirty_node))
        list_append(&p->node->dirty, &p->dirty_node);
}

void node_cut_off(struct process *p, const char *why)
{
    if (!p->cut)
        snprintf(p->cut_why, sizeof p->cut_why, "%s", why);
    p->cut = true;
    mark_dirty(p);
}

void node_say_error(struct process *p, enum err_code code, const char *text)
{
    uint8_t buf[sizeof(struct wire_error) + sizeof((struct err *)0)->text];
    struct wire_error w = {.code = code};
    size_t len = strnlen(text, sizeof((struct err *)0)->text - 1);

    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, text, len);
    if (p->link != NULL
        && unix_link_send(p->link, FRAME_CONTROL, WIRE_ERROR, 0, buf, sizeof w + len) == 0)
        unix_link_flush(p->link, NULL);
}

void node_refuse(struct process *p, const char *why)
{
    node_say_error(p, ERR_PROTOCOL, why);
    node_cut_off(p, why);
}

static void does_not_read(struct process *p)
{
    if (!p->cut)
        log_err("node",
                "peer_does_not_read",
                "pid=%d pending=%zu",
                p->pid,
                unix_link_pending(p->link));
    node_cut_off(p, "it did not read what was sent to it");
}

/* Nearly all that the raylet itself says is control; calls and bodies are of other processes. */
static bool is_over(const struct process *p)
{
    return unix_link_pending_of(p->link, FRAME_CONTROL) > OUT_MAX;
}

void node_send_routed(struct process *p,
                      enum frame_class class,
                      uint8_t type,
                      uint32_t route,
                      const void *body,
                      size_t size)
{
    if (p != NULL && p->is_guest) {
        guest_run_send(p, class, type, route, body, size);
        return;
    }
    if (p == NULL || p->link == NULL)
        return;
    if (unix_link_send(p->link, class, type, route, body, size) != 0 || is_over(p))
        does_not_read(p);
    mark_dirty(p);
}

void node_send(struct process *p, uint8_t type, const void *body, size_t size)
{
    node_send_routed(p, wire_class(type), type, 0, body, size);
}

void node_send_fd(struct process *p, uint8_t type, const void *body, size_t size, int fd)
{
    void *out = p->link != NULL && !is_over(p)
                    ? unix_link_reserve(p->link, FRAME_CONTROL, type, 0, size)
                    : NULL;

    if (out == NULL) {
        if (fd >= 0)
            close(fd);
        if (p->link != NULL)
            does_not_read(p);
        return;
    }
    memcpy(out, body, size);
    unix_link_commit(p->link, size, fd);
    mark_dirty(p);
}

static void send_routed(void *arg,
                        uint32_t slot,
                        enum frame_class class,
                        uint8_t type,
                        uint32_t route,
                        const void *body,
                        size_t size)
{
    node_send_routed(node_at(arg, slot), class, type, route, body, size);
}

/* --- processes --- */

static void on_link(void *arg, bool readable, bool writable);

struct process *node_make_process(struct node *n, uint32_t slot)
{
    struct process *p = xcalloc(1, sizeof *p);

    p->magic = PROCESS_MAGIC;
    p->node = n;
    p->slot = slot;
    p->logs[0].fd = p->logs[1].fd = -1;
    p->log_wd[0] = p->log_wd[1] = p->pidfd = -1;
    list_init(&p->dirty_node);
    list_init(&p->pulls);
    list_init(&p->waiting);
    return p;
}

struct process *node_add_link(struct node *n, enum wire_kind kind, struct unix_link *link)
{
    uint32_t slot = 0;

    while (slot < BOARD_SLOTS && n->processes[slot] != NULL)
        slot++;
    if (slot == BOARD_SLOTS)
        return NULL;
    struct process *p = node_make_process(n, slot);
    p->kind = kind;
    if (unique_id_random(&p->id) == 0)
        p->watch = loop_watch_fd(n->loop, unix_link_fd(link), on_link, p);
    if (p->watch == NULL) {
        free(p);
        return NULL;
    }
    unix_link_set_max(link, OUT_ALL_MAX);
    p->link = link;
    n->processes[slot] = p;
    if (slot >= n->n_slots)
        n->n_slots = slot + 1;
    return p;
}

struct process *node_add_process(struct node *n, enum wire_kind kind, int fd)
{
    struct unix_link *link = unix_link_create(fd, 0);
    struct process *p = link != NULL ? node_add_link(n, kind, link) : NULL;

    if (p == NULL && link != NULL)
        unix_link_destroy(link);
    else if (p == NULL)
        close(fd);
    return p;
}

void node_close_link(struct process *p)
{
    loop_unwatch(p->watch);
    p->watch = NULL;
    unix_link_destroy(p->link);
    p->link = NULL;
}

/* To each process that exchanged frames with it. */
static void tell_of_death(const struct process *p)
{
    const struct node *n = p->node;
    struct wire_process_dead w = {.process = p->number};

    for (uint32_t s = 0; p->number > 0 && s < n->n_slots; s++) {
        struct process *q = n->processes[s];
        if (q != NULL && q != p && (q->talked[p->slot / 64] >> p->slot % 64 & 1) != 0)
            node_send(q, WIRE_PROCESS_DEAD, &w, sizeof w);
    }
    guest_run_on_dead(p);
}

/* The object store's frames that it sent before its end and nobody has read: an owner may have been
 * told of an object whose seal is among them. */
static void read_last_records(struct process *p)
{
    struct frame f;
    long got = 1;

    for (int i = 0; p->link != NULL && got > 0 && i < LAST_READS; i++) {
        got = unix_link_read(p->link, NULL);
        while (unix_link_next(p->link, &f, NULL) == 1) {
            if (f.fd >= 0)
                close(f.fd);
            if (f.h.type == WIRE_STORE_RECORD)
                store_run_on_frame(p, f.h.type, f.body, f.body_size);
        }
    }
}

void node_free_process(struct process *p)
{
    struct node *n = p->node;

    read_last_records(p);
    node_close_link(p);
    list_remove(&p->dirty_node);
    store_run_remove(p);
    memory_run_on_gone(p);
    pull_run_on_gone(p);
    seek_run_on_gone(p);
    spill_run_on_gone(p);
    tell_of_death(p);
    log_forward_remove(p);
    worker_log_close(&p->logs[0]);
    worker_log_close(&p->logs[1]);
    if (p->control != NULL)
        munmap(p->control, CONTROL_SIZE);
    if (p->pidfd >= 0)
        close(p->pidfd);
    n->processes[p->slot] = NULL;
    if (p->number > 0)
        word_map_set(&n->by_number, p->number, 0);
    if (p->job != NULL && p->job->driver == p)
        p->job->driver = NULL;
    router_unbind_process(n->router, p->slot);
    channel_table_remove(n->channels, p->slot);
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL)
            n->processes[s]->talked[p->slot / 64] &= ~(1ull << p->slot % 64);
    while (n->n_slots > 0 && n->processes[n->n_slots - 1] == NULL)
        n->n_slots--;
    p->magic = 0;
    free(p->asked);
    free(p);
}

/* Its memory is gone: a process lets go of it before its descriptors. */
static bool is_dying(int32_t pid)
{
    char path[32], to[8];

    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return readlink(path, to, sizeof to) < 0;
}

/* The link ended, or the peer broke its rules. */
static void link_lost(struct process *p)
{
    if (p->kind == WIRE_DRIVER) {
        job_on_link_lost(p);
        return;
    }
    /* EOF is no death yet (DESIGN D6): kill, and wait for the zygote's word. */
    node_close_link(p);
    pool_run_kill(p, p->cut ? p->cut_why : is_dying(p->pid) ? NULL : "it has closed its link");
}

/* --- frames --- */

static void on_info(struct process *p)
{
    struct node *n = p->node;
    struct {
        struct wire_info_reply head;
        struct wire_info_resource resources[RESOURCES_MAX];
    } __attribute__((packed))
    w = {.head = {.n_workers = job_count_workers(n), .start_ms = p->job->row.start_ms}};
    struct wire_info_resource resources[RESOURCES_MAX];
    unsigned n_nodes, k = cluster_run_sum(n, resources, RESOURCES_MAX, &n_nodes);

    w.head.n_nodes = n_nodes;
    w.head.n_resources = k;
    memcpy(w.resources, resources, k * sizeof resources[0]);
    node_send(p, WIRE_INFO_REPLY, &w, sizeof w.head + k * sizeof resources[0]);
}

static void handle(struct process *p, const struct frame *f)
{
    struct node *n = p->node;
    uint64_t now = loop_now_ms(), lease = 0;

    if (!p->registered && f->h.type != WIRE_HELLO) {
        node_refuse(p, "the first frame must be HELLO");
        return;
    }
    if (p->kind == WIRE_DRIVER && !p->welcomed && f->h.type != WIRE_HELLO
        && f->h.type != WIRE_LEAVE) { /* its job may have no number and no zygote yet */
        node_refuse(p, "a driver waits for its WELCOME before it asks for anything");
        return;
    }
    if (f->body_size >= sizeof lease)
        memcpy(&lease, f->body, sizeof lease);
    switch (f->h.type) {
    case WIRE_HELLO:
        node_join_on_hello(p, f->body, f->body_size);
        break;
    case WIRE_LEASE_REQUEST:
        lease_run_on_request(p, f->body, f->body_size);
        break;
    case WIRE_LEASE_CANCEL:
        spill_run_on_cancel(p, lease);
        break;
    case WIRE_LEASE_RETURN:
        spill_run_on_return(p, lease);
        break;
    case WIRE_LEASE_ENDED:
        lease_ended(n->leases, p->slot, lease, now, &n->lease_actions);
        break;
    case WIRE_BLOCKED:
        lease_blocked(n->leases, p->slot, lease, now, &n->lease_actions);
        break;
    case WIRE_UNBLOCKED:
        lease_unblocked(n->leases, p->slot, lease);
        break;
    case WIRE_STAYS:
        if (p->kind == WIRE_WORKER)
            worker_pool_on_stays(p->job->pool, p->token, now, &p->job->pool_actions);
        break;
    case WIRE_ROUTE:
        lease_run_on_channel_lost(p, f->body, f->body_size);
        break;
    case WIRE_REFS:
        memory_run_on_refs(p, f->body, f->body_size);
        break;
    case WIRE_INFO:
        on_info(p);
        break;
    case WIRE_LEAVE:
        if (p->kind == WIRE_DRIVER)
            job_on_leave(p);
        break;
    default:
        if (!pull_run_on_frame(p, f->h.type, f->body, f->body_size))
            store_run_on_frame(p, f->h.type, f->body, f->body_size); /* else of a newer peer */
        break;
    }
}

void node_talk(struct process *a, struct process *b)
{
    if (!b->is_guest)
        a->talked[b->slot / 64] |= 1ull << b->slot % 64;
    if (!a->is_guest)
        b->talked[a->slot / 64] |= 1ull << a->slot % 64;
}

/* To the process of its job with that number, whoever it is. */
static int forward(struct process *p, const struct frame *f, struct err *err)
{
    struct node *n = p->node;
    struct wire_process_dead dead = {.process = f->h.route & WIRE_ROUTE_NUMBER};
    struct process *to = guest_run_find(n, dead.process);

    if (to == NULL || to->is_guest)
        return guest_run_forward(p, f, err);
    if (to->job != p->job || to->link == NULL) {
        node_send(p, WIRE_PROCESS_DEAD, &dead, sizeof dead);
        return 0;
    }
    node_talk(p, to);
    return router_forward(n->router, p->slot, to->slot, WIRE_ROUTE_PROCESS | p->number, f, err);
}

static void on_frame(struct process *p, const struct frame *f)
{
    struct err err;

    if (f->h.route > 0 && p->welcomed) {
        if (((f->h.route & WIRE_ROUTE_PROCESS) != 0
                 ? forward(p, f, &err)
                 : router_on_frame(p->node->router, p->slot, f, &err))
            == 0)
            return;
        node_refuse(p, err.text);
    } else if ((f->h.flags & FRAME_MORE) != 0) {
        node_refuse(p, "no message to a raylet is longer than a frame");
    } else {
        handle(p, f);
    }
}

/* The driver is asked to be writable also for what its logs still hold. */
static void flush_link(struct process *p)
{
    bool more = unix_link_flush(p->link, NULL) == 0;

    loop_want_write(p->watch,
                    more || (p->kind == WIRE_DRIVER && p->job != NULL && p->job->logs_stalled));
}

/* got: what reading its link gave, -1 with err. */
static void take_frames(struct process *p, long got, struct err *err)
{
    struct frame f;
    int rc = 0;

    while (!p->cut && !p->is_paused && (rc = unix_link_next(p->link, &f, err)) == 1) {
        if (f.fd >= 0)
            close(f.fd); /* nobody sends us descriptors */
        on_frame(p, &f);
    }
    if (rc < 0) {
        log_warn("node", "malformed_frame", "pid=%d msg=\"%s\"", p->pid, err->text);
        node_say_error(p, ERR_PROTOCOL, err->text);
    }
    if (got < 0 || rc < 0)
        link_lost(p);
}

void node_read_on(struct process *p)
{
    struct err err = {0};

    take_frames(p, 0, &err);
}

void node_read_rest(struct process *p)
{
    struct err err = {0};
    long got = 1;

    p->is_paused = false;
    if (p->link != NULL)
        node_read_on(p);
    for (int i = 0; p->link != NULL && got > 0 && i < LAST_READS; i++) {
        got = unix_link_read(p->link, &err);
        store_run_drain(p);
        take_frames(p, got, &err);
    }
}

static void on_link(void *arg, bool readable, bool writable)
{
    struct process *p = arg;
    struct err err = {0};

    CHECK_MAGIC(p, PROCESS_MAGIC);
    if (writable) {
        flush_link(p);
        log_forward_resume(p);
    }
    if (!readable)
        return;
    long got = unix_link_read(p->link, &err);
    store_run_drain(p); /* before any frame: what a seal caused is handled after the seal */
    take_frames(p, got, &err);
}

/* --- turns --- */

static void flush(struct process *p)
{
    list_remove(&p->dirty_node);
    if (p->link == NULL)
        return;
    flush_link(p);
    if (p->cut)
        link_lost(p);
}

static bool has_pool_actions(const struct node *n)
{
    list_for_each(j, &n->jobs) if (list_entry(j, struct job, node)->pool_actions.n > 0) return true;
    return false;
}

void node_turn_end(void *arg)
{
    struct node *n = arg;

    gcs_client_run(n->gcs);
    do {
        if (n->jobs_changed)
            job_pump(n);
        spill_run(n);
        while (n->lease_actions.n > 0 || has_pool_actions(n)) {
            lease_run(n, 0, NULL);
            list_for_each(j, &n->jobs) pool_run(list_entry(j, struct job, node));
        }
        store_run(n);
        list_for_each(j, &n->jobs) if (list_entry(j, struct job, node)->zygote != NULL)
            zygote_flush(list_entry(j, struct job, node)->zygote);
        while (!list_empty(&n->dirty))
            flush(list_entry(n->dirty.next, struct process, dirty_node));
    } while (n->jobs_changed); /* by a link that ended */
    cluster_run_turn_end(n);
    node_time_arm(n);
}

/* --- start and end --- */

void node_end(struct node *n, int status, const char *why)
{
    if (status != 0 && n->status == 0) {
        n->status = status;
        snprintf(n->end_why, sizeof n->end_why, "%s", why);
        log_err("node", "ends", "status=%d msg=\"%s\"", status, why);
    }
    loop_stop(n->loop);
}

int node_status(const struct node *n, const char **why)
{
    *why = n->end_why;
    return n->status;
}

static void on_signal(void *arg, bool readable, bool writable)
{
    struct node *n = arg;

    (void)readable;
    (void)writable;
    if (node_is_joined(n))
        cluster_run_leave(n);
    else
        loop_stop(n->loop);
}

static int open_session(struct node *n, struct err *err)
{
    char path[320];

    if (n->config.session_dir != NULL ? session_open(&n->session, n->config.session_dir, err) != 0
                                      : session_create(&n->session, n->config.temp_dir, err) != 0)
        return -1;
    session_sweep(&n->session);
    machine_sweep(n->session.temp);
    snprintf(path, sizeof path, "%s/raylet.err", n->session.logs);
    log_open(path, n->config.log_max_bytes, n->config.log_backups, NULL); /* else to stderr */
    n->board_fd = memfd_create("ray-board", MFD_CLOEXEC);
    if (n->board_fd < 0 || ftruncate(n->board_fd, BOARD_SLOTS * sizeof(struct board_line)) != 0)
        return err_sys(err, "make the board");
    machine_run_init(n);
    return 0;
}

static int watch_signals(struct node *n, struct err *err)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    bool ok = true;

    for (int i = 0; i < 3; i++) {
        n->signals[i] = loop_on_signal(n->loop, signals[i], on_signal, n);
        ok = ok && n->signals[i] != NULL;
    }
    return ok ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to watch for signals");
}

/* The one job of a private cluster, or of a driver's node. */
static int begin_private(struct node *n, struct process *driver, struct err *err)
{
    int pidfd = (int)syscall(SYS_pidfd_open, n->config.driver_pid, 0);

    if (pidfd < 0)
        return err_sys(err, "watch the driver (pid %d)", n->config.driver_pid);
    struct job *j = job_begin(driver, n->config.driver_pid, pidfd, n->config.executable_fd);
    n->config.executable_fd = -1;
    if (store_run_greet_driver(driver, err) != 0)
        return -1;
    if (node_is_joined(n))
        return job_describe_own(j, err); /* it has a number when the node has one */
    job_register(j);
    return 0;
}

int node_begin_listening(struct node *n, struct err *err)
{
    char text[512];

    if (session_open_to_programs(&n->session, n->config.gcs_address, n->config.is_head, err) != 0)
        return -1;
    int size = snprintf(text, sizeof text, "%s\n", n->session.dir);
    if (node_is_joined(n))
        size += cluster_run_describe(n, text + size, sizeof text - (size_t)size);
    if (n->config.ready_fd >= 0 && write(n->config.ready_fd, text, (size_t)size) != size)
        return err_sys(err, "say that the raylet is ready");
    if (n->config.ready_fd >= 0)
        close(n->config.ready_fd);
    n->config.ready_fd = -1;
    return 0;
}

static void add_memory(struct node *n)
{
    uint64_t bytes = machine_memory_for_tasks(n->config.object_store_memory);
    struct err full; /* of resources of its program */

    resources_add(&n->resources, "memory", (int64_t)bytes * RESOURCE_UNIT, &full);
}

struct node *node_create(struct loop *loop, const struct node_config *config, struct err *err)
{
    struct node *n = xcalloc_sparse(1, sizeof *n);
    struct process *driver = NULL;
    struct timespec t;

    n->loop = loop;
    n->config = *config;
    n->board_fd = n->index_fd = n->arena_fd = n->inotify_fd = n->measuring_pidfd = n->command_fd =
        n->spare_fd = -1;
    n->session.lock_fd = -1;
    n->due_ms = UINT64_MAX;
    list_init(&n->dirty);
    list_init(&n->commands);
    list_init(&n->refs_calls);
    list_init(&n->jobs);
    list_init(&n->executables);
    clock_gettime(CLOCK_REALTIME, &t);
    n->start_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    n->resources = config->custom;
    n->resources.total[0] = n->resources.available[0] = (int64_t)config->num_cpus * RESOURCE_UNIT;
    if (config->gcs_address == NULL) /* else `ray start` has said it */
        add_memory(n);
    n->leases = lease_table_create(&n->resources);
    n->dead_workers = dead_workers_create(config->dead_workers);
    if (config->gcs_address != NULL)
        (node_is_private(n) ? lease_table_close : lease_table_share)(n->leases);
    n->router = router_create(send_routed, n);
    n->channels = channel_table_create(
        (unsigned)(config->max_channels > 0 ? config->max_channels : NODE_MAX_CHANNELS));
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (node_is_private(n)
        && (driver = node_add_process(n, WIRE_DRIVER, config->driver_fd)) == NULL) {
        err_set(err, ERR_NO_MEMORY, "no memory for the driver's link");
        goto fail;
    }
    if (unique_id_random(&n->cluster) != 0 || unique_id_random(&n->id) != 0) {
        err_sys(err, "read random bytes");
        goto fail;
    }
    if (config->gcs_address == NULL)
        n->gcs = gcs_client_create_private();
    else if (cluster_run_open(n, err) != 0)
        goto fail;
    if (open_session(n, err) != 0 || store_run_open(n, err) != 0 || watch_signals(n, err) != 0
        || cluster_run_listen(n, err) != 0)
        goto fail;
    log_forward_init(n);
    if (command_run_open(n, err) != 0 && !node_is_private(n))
        goto fail;
    node_join_gcs(n);
    if (driver != NULL && begin_private(n, driver, err) != 0)
        goto fail;
    if (driver == NULL && !node_is_joined(n) && node_begin_listening(n, err) != 0)
        goto fail; /* one of a cluster when it has joined */
    node_turn_end(n);
    return n;
fail:
    if (driver != NULL)
        node_say_error(driver, err->code, err->text);
    node_destroy(n);
    return NULL;
}

/* Zygotes, workers and all they left end; milliseconds, bounded. */
static void end_processes(struct node *n)
{
    job_end_all_now(n);
    /* what tasks printed last */
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL && n->processes[s]->kind == WIRE_WORKER)
            log_forward_read(n->processes[s], true);
    for (uint32_t s = 0; s < n->n_slots; s++) {
        struct process *p = n->processes[s];
        if (p == NULL || p->kind != WIRE_DRIVER || p->link == NULL)
            continue;
        if (n->status != 0)
            node_say_error(p, n->end_code != ERR_NONE ? n->end_code : ERR_DIED, n->end_why);
        else if (!node_is_private(n))
            node_say_error(p, ERR_DIED, "the cluster was stopped");
        unix_link_flush(p->link, NULL);
    }
}

void node_destroy(struct node *n)
{
    if (n == NULL)
        return;
    command_run_close(n);
    end_processes(n);
    gcs_client_destroy(n->gcs);
    n->gcs = NULL;
    cluster_run_close(n);
    log_close();
    if (n->session.dir[0] != '\0')
        session_remove(&n->session);
    for (uint32_t s = 0; s < BOARD_SLOTS; s++)
        if (n->processes[s] != NULL)
            node_free_process(n->processes[s]);
    router_destroy(n->router);
    channel_table_destroy(n->channels);
    list_for_each_safe(j, &n->jobs) job_destroy(list_entry(j, struct job, node));
    log_forward_fini(n);
    for (int i = 0; i < 3; i++)
        loop_unwatch(n->signals[i]);
    machine_run_fini(n);
    loop_timer_end(n->due);
    if (n->board_fd >= 0)
        close(n->board_fd);
    if (n->config.executable_fd >= 0)
        close(n->config.executable_fd);
    store_run_close(n);
    lease_table_destroy(n->leases);
    dead_workers_destroy(n->dead_workers);
    free(n->lease_actions.v);
    free(n->blocks);
    word_map_fini(&n->by_number);
    free(n);
}
