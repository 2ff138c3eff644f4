/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/cluster.h"
#include "lib/core/core_private.h"

#define ARG_IS_REF      UINT32_MAX
#define DEFAULT_WAKE_NS 20000u
#define CONNECT_MS      10000
#define SAY_MS          2000 /* before a program is told that it waits */
#define MIN_UNITS       10
#define SHUTDOWN_MS     2000
#define FLUSH_TASKS     32
#define TEMPLATES_MAX   65535
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

/* Classes by their request's bytes; few, so a list is searched. */
static struct class_frame {
    uint8_t *frame;
    size_t size;
} * classes;
static unsigned n_classes;

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

    hello.protocol = WIRE_PROTOCOL;
    hello.pid = getpid();
    core_build(hello.build, sizeof hello.build);
    if (poller_init(err) != 0) {
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
    ref_table_destroy(core.refs);
    core.refs = NULL;
    put_forget_buffers();
    objects_close();
    core.life++;
    for (unsigned i = 0; i < core.n_templates; i++)
        free(core.templates[i]);
    free(core.templates);
    core.templates = NULL;
    core.n_templates = 0;
    for (unsigned i = 0; i < n_classes; i++)
        free(classes[i].frame);
    free(classes);
    classes = NULL;
    n_classes = 0;
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

/* --- templates --- */

static bool fits(const char *s, size_t room)
{
    return strnlen(s, room) < room;
}

static bool has_control(const char *s)
{
    for (; *s != '\0'; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return true;
    return false;
}

uint8_t *core_class_frame(uint32_t class, size_t *size)
{
    *size = classes[class].size;
    return classes[class].frame;
}

static int class_number(const struct core_template_spec *spec)
{
    uint8_t buf[sizeof(struct wire_lease_request)
                + (CORE_N_RESOURCES + 1) * sizeof(struct wire_resource) + 64];
    struct wire_lease_request w = {.depth = core.worker ? 1 : 0};
    uint8_t *at = buf + sizeof w;
    size_t n = strlen(spec->function);

    memset(buf, 0, sizeof buf);
    if (spec->cpu_units > 0) {
        struct wire_resource r = {.name = "CPU", .units = spec->cpu_units};
        memcpy(at, &r, sizeof r);
        at += sizeof r;
        w.n_resources++;
    }
    for (unsigned i = 0; i < spec->n_resources; i++) {
        struct wire_resource r = {.units = spec->resources[i].units};
        memcpy(r.name, spec->resources[i].name, sizeof r.name);
        memcpy(at, &r, sizeof r);
        at += sizeof r;
        w.n_resources++;
    }
    memcpy(at, spec->function, n);
    at += n;
    memcpy(buf, &w, sizeof w);
    size_t size = (size_t)(at - buf);
    for (unsigned i = 0; i < n_classes; i++)
        if (classes[i].size == size && memcmp(classes[i].frame + 12, buf + 12, size - 12) == 0)
            return (int)i;
    classes = xrealloc(classes, (n_classes + 1) * sizeof *classes);
    classes[n_classes].frame = xmalloc(size);
    memcpy(classes[n_classes].frame, buf, size);
    classes[n_classes++].size = size;
    return (int)submit_add_class(core.submit);
}

int core_template(const struct core_template_spec *spec, struct err *err)
{
    const char *name = spec->name != NULL ? spec->name : spec->function;

    if (spec->n_returns > CORE_RETURNS_MAX)
        return err_set(err,
                       ERR_INVALID,
                       "num_returns is %u, at most %d",
                       spec->n_returns,
                       CORE_RETURNS_MAX);
    if (spec->max_retries < -1)
        return err_set(err,
                       ERR_INVALID,
                       "max_retries is %d: use -1 (for ever), 0 or more",
                       spec->max_retries);
    if (!fits(spec->function, 48) || !fits(name, 48))
        return err_set(err, ERR_INVALID, "the name %.20s... is longer than 47 bytes", name);
    if (has_control(name))
        return err_set(err,
                       ERR_INVALID,
                       "the name of %s holds a control character, and is printed before each line",
                       spec->function);
    if (spec->cpu_units < 0 || spec->n_resources > CORE_N_RESOURCES)
        return err_set(err,
                       ERR_INVALID,
                       "resources of %s: amounts are 0 or more, at most %d kinds",
                       name,
                       CORE_N_RESOURCES);
    for (unsigned i = 0; i < spec->n_resources; i++)
        if (spec->resources[i].units <= 0 || !fits(spec->resources[i].name, 48)
            || spec->resources[i].name[0] == '\0')
            return err_set(err,
                           ERR_INVALID,
                           "resource %u of %s needs a name of 1 to 47 bytes and an amount above 0",
                           i,
                           name);
    if (core_is_forked())
        return err_set(err, ERR_INVALID, "this process was forked from one that uses Ray");
    core_lock();
    if (!core.connected) {
        core_unlock();
        return err_set(err, ERR_INVALID, "call ray_init first");
    }
    int class = class_number(spec);
    for (unsigned i = 0; i < core.n_templates; i++) {
        const struct template *t = core.templates[i];
        if (t->class == class && t->n_returns == spec->n_returns
            && t->max_retries == spec->max_retries && strcmp(t->function, spec->function) == 0
            && strcmp(t->name, name) == 0) {
            core_unlock();
            return (int)i;
        }
    }
    if (core.n_templates == TEMPLATES_MAX) {
        core_unlock();
        return err_set(err,
                       ERR_FULL,
                       "more than %d different option sets: bind options once with ray_bind",
                       TEMPLATES_MAX);
    }
    struct template *t = xcalloc(1, sizeof *t);
    snprintf(t->function, sizeof t->function, "%s", spec->function);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_returns = (uint16_t)spec->n_returns;
    t->max_retries = spec->max_retries;
    t->class = class;
    core.templates = xrealloc(core.templates, (core.n_templates + 1) * sizeof(struct template *));
    core.templates[core.n_templates] = t;
    int number = (int)core.n_templates++;
    core_unlock();
    return number;
}

/* --- submitting --- */

/* The records of task number core.task_counter, linked; NULL when memory is out. */
static struct record *make_returns(unsigned n, uint64_t *refs_out)
{
    struct record *first = NULL, *last = NULL;

    for (unsigned i = 0; i < (n > 0 ? n : 1); i++) {
        struct record *r = ref_table_new(core.refs);
        if (r != NULL)
            r->site = core_call_site;
        if (r == NULL) {
            for (uint32_t slot = first != NULL ? first->slot : 0; slot != 0;) {
                struct record *x = ref_table_at(core.refs, slot);
                slot = x->next_return;
                ref_table_set(core.refs, x, 0, NULL, 0);
                ref_table_drop(core.refs, x);
            }
            return NULL;
        }
        if (first == NULL)
            first = r;
        else
            last->next_return = r->slot;
        r->first = first->slot;
        r->counter = core.task_counter;
        r->n_returns = (uint16_t)(i + 1);
        last = r;
        if (n > 0)
            refs_out[i] = record_word(r);
    }
    if (n == 0) {
        first->flags |= REF_HIDDEN;
        first->count = 0;
    }
    first->n_returns = (uint16_t)n;
    return first;
}

bool core_are_refs(const uint64_t *refs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ref_table_find(core.refs, refs[i]) == NULL)
            return false;
    return true;
}

/* n, and the slots of the refs, each held once more: inside an argument they are not waited for. */
static uint8_t *pack_refs(uint8_t *at, const uint64_t *refs, uint32_t n)
{
    memcpy(at, &n, sizeof n);
    at += sizeof n;
    for (uint32_t i = 0; i < n; i++) {
        struct record *r = ref_table_find(core.refs, refs[i]);
        r->held++;
        memcpy(at, &r->slot, sizeof r->slot);
        at += sizeof r->slot;
    }
    return at;
}

/* Pack args into t's spec; counts the refs. A code. */
static int pack(struct task *t, struct record *task, const struct core_arg *args, unsigned n_args)
{
    size_t size = 0, inline_bytes = 0;

    for (unsigned i = 0; i < n_args; i++) {
        size += sizeof(struct wire_arg) + (args[i].ref != 0 ? sizeof(uint32_t) : args[i].size);
        if (args[i].ref != 0) {
            if (ref_table_find(core.refs, args[i].ref) == NULL)
                return CORE_ESTALE;
        } else if (args[i].n_refs > 0) {
            if (!core_are_refs(args[i].refs, args[i].n_refs))
                return CORE_ESTALE;
            size += sizeof args[i].n_refs + args[i].n_refs * sizeof(uint32_t);
            inline_bytes += args[i].size + args[i].n_refs * sizeof(struct wire_ref);
        } else {
            inline_bytes += args[i].size;
        }
    }
    if (inline_bytes > CORE_ARGS_MAX)
        return CORE_EFULL;
    uint8_t *spec = ref_table_alloc(core.refs, size > 0 ? size : 1);
    if (spec == NULL)
        return CORE_ENOMEM;
    uint8_t *at = spec;
    for (unsigned i = 0; i < n_args; i++) {
        struct wire_arg a = {.size = args[i].size, .meta = args[i].meta};
        if (args[i].ref != 0)
            a.size = ARG_IS_REF;
        else if (args[i].n_refs > 0)
            a.meta |= WIRE_VALUE_REFS;
        memcpy(at, &a, sizeof a);
        at += sizeof a;
        if (args[i].ref == 0) {
            if (args[i].n_refs > 0) {
                at = pack_refs(at, args[i].refs, args[i].n_refs);
                t->n_ref_args++;
            }
            if (a.size > 0)
                memcpy(at, args[i].bytes, a.size);
            at += a.size;
            continue;
        }
        struct record *r = ref_table_find(core.refs, args[i].ref);
        memcpy(at, &r->slot, sizeof r->slot);
        at += sizeof r->slot;
        r->held++; /* INV-8: before the caller can drop its own */
        t->n_ref_args++;
        if (r->state == REF_READY) {
            t->ref_bytes += r->size;
            if (r->meta == WIRE_META_ERROR && t->error == 0)
                t->error = r->slot;
        }
        if (r->state == REF_PENDING) {
            struct ref_waiter *w = ref_table_alloc(core.refs, sizeof *w);
            if (w == NULL)
                abort();
            w->kind = REF_WAITER_TASK;
            w->u.task = task;
            owner_ref_add_waiter(r, w);
            t->n_deps++;
        }
    }
    t->spec = spec;
    t->spec_size = (uint32_t)size;
    return CORE_OK;
}

int core_submit(int template, const struct core_arg *args, unsigned n_args, uint64_t *refs_out)
{
    if (core_is_forked())
        return CORE_EFORKED;
    if (n_args > UINT16_MAX)
        return CORE_EARG;
    core_lock();
    if (!core.connected || template <0 || (unsigned)template >= core.n_templates) {
        core_unlock();
        return CORE_EARG;
    }
    const struct template *t = core.templates[template];
    core.task_counter++;
    struct record *first = make_returns(t->n_returns, refs_out);
    int code = first != NULL ? CORE_OK : CORE_ENOMEM;
    if (code == CORE_OK) {
        struct task *task = &first->u.task;
        task->retries_left = t->max_retries;
        task->n_args = (uint16_t)n_args;
        first->template = (uint16_t) template;
        first->class = (uint32_t)t->class;
        code = pack(task, first, args, n_args);
        if (code != CORE_OK) {
            for (uint32_t slot = first->slot; slot != 0;) {
                struct record *r = ref_table_at(core.refs, slot);
                slot = r->next_return;
                if (ref_table_set(core.refs, r, 0, NULL, 0))
                    ref_table_drop(core.refs, r);
            }
        }
    }
    if (code == CORE_OK) {
        core.n_pending++;
        core.counters.tasks_submitted++;
        if (core.raylet->link == NULL) {
            submit_task(core.submit, first, 0, &core.actions);
            submit_on_raylet_lost(core.submit, &core.actions);
            owner_act();
        } else if (first->u.task.n_deps == 0) {
            core.pushed = NULL;
            owner_locate(&first->u.task);
            bool only_queues =
                first->u.task.node == 0 && submit_only_queues(core.submit, first->class);
            uint64_t now = only_queues ? 0 : clock_now_ns();
            submit_task(core.submit, first, now, &core.actions);
            owner_act();
            struct peer *p = core.pushed;
            /* Write at once when nothing else is in flight there, else in batches. */
            if (p != NULL && p->link != NULL && (p->in_flight == 1 || p->n_unsent >= FLUSH_TASKS))
                peer_flush(p);
            if (core.raylet->dirty)
                peer_flush(core.raylet);
        }
        poller_need_helper();
    }
    core_unlock();
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
