/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <errno.h>
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
#define MIN_UNITS       10
#define SHUTDOWN_MS     2000
#define FLUSH_TASKS     32
#define TEMPLATES_MAX   65535

struct core core = {.lock = PTHREAD_MUTEX_INITIALIZER,
                    .outside = PTHREAD_COND_INITIALIZER,
                    .epoll_fd = -1,
                    .event_fd = -1,
                    .store_fds = {-1, -1}};

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

static bool unusable(void)
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

/* Around what sleeps, with the lock held: records and peers stay until it has left. */
static void enter(void)
{
    core.n_inside++;
}

static void leave(void)
{
    if (--core.n_inside == 0)
        pthread_cond_broadcast(&core.outside);
}

/* What was let go may have to be told others, with nobody waiting. */
static void have_news(void)
{
    if (core.bell || !list_empty(&core.dirty)
        || (core.borrow != NULL && borrow_has_news(core.borrow)))
        poller_need_helper();
}

static uint64_t deadline_of(int64_t timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX : clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
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
    if ((r->flags & REF_BORROWED) != 0) {
        if ((r->flags & REF_STORED) != 0)
            objects_unpin(r->u.stored.place, &r->u.stored.pin);
        borrow_end(core.borrow, r);
    } else {
        objects_free(r->u.stored.place);
    }
}

void core_on_welcome(const uint8_t *body, size_t size, int fd)
{
    struct wire_welcome *w = &core.welcome;

    if (size < sizeof *w) {
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
    core.spin_ns = 2 * (w->wake_ns > 0 ? w->wake_ns : DEFAULT_WAKE_NS);
    core.borrow = borrow_create(core.refs, w->process);
    ref_table_on_end(core.refs, end_record, NULL);
    core.connected = true;
}

int core_connect(int fd, enum wire_kind kind, uint64_t token, struct err *err)
{
    struct wire_hello hello = {.protocol = WIRE_PROTOCOL,
                               .kind = kind,
                               .token = token,
                               .pid = getpid(),
                               .build = CORE_BUILD};
    struct waiter w = {.n_missing = 1};
    uint64_t deadline = deadline_of(CONNECT_MS);

    if (poller_init(err) != 0) {
        close(fd);
        return -1;
    }
    list_init(&w.node);
    core_lock();
    core.lost = (struct err){.code = ERR_NONE};
    core.raylet = peer_create(fd, err);
    if (core.raylet == NULL) {
        core_unlock();
        poller_fini();
        return -1;
    }
    core.raylet->is_raylet = true;
    core.refs = ref_table_create();
    core.submit = submit_create(MIN_UNITS);
    core.counters = (struct core_counters){0};
    core.borrow_actions.n = 0;
    peer_send(core.raylet, WIRE_HELLO, &hello, sizeof hello);
    while (!core.connected && core.raylet->link != NULL && clock_now_ns() < deadline)
        poller_wait(&w, deadline, NULL, 0);
    bool ok = core.connected && core.raylet->link != NULL;
    if (!ok && core.lost.code == ERR_DIED && kind == WIRE_DRIVER) {
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
        err_set(err, ERR_TIMEOUT, "the raylet did not answer within %d s", CONNECT_MS / 1000);
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
    borrow_destroy(core.borrow);
    core.borrow = NULL;
    free(core.borrow_actions.v);
    core.borrow_actions = (struct borrow_actions){0};
    ref_table_destroy(core.refs);
    core.refs = NULL;
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
    core_unlock();
}

int core_init(const struct core_config *config, struct err *err)
{
    struct core_config defaults = {0};
    int fd, code = CORE_OK;

    if (unusable()) {
        err_set(err,
                ERR_INVALID,
                "this process was forked from one that uses Ray: exec a new program, or fork "
                "before ray_init");
        return CORE_EFORKED;
    }
    if (core.worker)
        return CORE_OK;
    pthread_mutex_lock(&life);
    if (core.n_inits > 0) {
        core.n_inits++;
    } else if (cluster_start(config != NULL ? config : &defaults, &core.raylet_pidfd, &fd, err)
               != 0) {
        code = CORE_ELINK;
    } else if (core_connect(fd, WIRE_DRIVER, 0, err) != 0) {
        clear();
        cluster_reap(core.raylet_pidfd, SHUTDOWN_MS);
        code = CORE_ELINK;
    } else {
        core.n_inits = 1;
    }
    pthread_mutex_unlock(&life);
    return code;
}

/* The raylet has ended: what it said last is read, all that is pending fails, and everybody who
 * sleeps in a call finds out and leaves. */
static void hear_it_out(void)
{
    struct waiter w = {.n_missing = 1};

    list_init(&w.node);
    core_lock();
    if (core.raylet->link != NULL) /* a child that the program forked may hold the other end */
        shutdown(unix_link_fd(core.raylet->link), SHUT_RDWR);
    while (core.raylet->link != NULL)
        poller_wait(&w, UINT64_MAX, NULL, 0);
    poller_leave();
    while (core.n_inside > 0)
        pthread_cond_wait(&core.outside, &core.lock);
    core_unlock();
}

static void end(void)
{
    core_lock();
    core.connected = false; /* nobody begins anything any more */
    peer_send(core.raylet, WIRE_LEAVE, NULL, 0);
    peer_flush(core.raylet);
    core_unlock();
    cluster_reap(core.raylet_pidfd, SHUTDOWN_MS);
    hear_it_out();
    clear();
}

int core_shutdown(struct err *err)
{
    int code = CORE_OK;

    if (unusable())
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
    if (unusable())
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

static bool are_refs(const uint64_t *refs, uint32_t n)
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
            if (!are_refs(args[i].refs, args[i].n_refs))
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
    if (unusable())
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
            uint64_t now = submit_only_queues(core.submit, first->class) ? 0 : clock_now_ns();
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

/* --- putting --- */

/* The slots of these refs, held once more each, in a block from malloc; a code. */
static int hold_refs(const uint64_t *refs, uint32_t n, uint32_t **slots)
{
    *slots = NULL;
    if (n == 0)
        return CORE_OK;
    if (!are_refs(refs, n))
        return CORE_ESTALE;
    *slots = try_alloc(NULL, n * sizeof **slots);
    if (*slots == NULL)
        return CORE_ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        struct record *r = ref_table_find(core.refs, refs[i]);
        r->held++;
        (*slots)[i] = r->slot;
    }
    return CORE_OK;
}

static void let_refs_go(const uint32_t *slots, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ref_table_unhold(core.refs, ref_table_at(core.refs, slots[i]));
}

/* A ready object of ours, named and with one handle. bytes: inline; else it lies in e. Takes over
 * the slots' holds. NULL: no memory, nothing was taken. */
static struct record *make_object(uint8_t meta,
                                  const void *bytes,
                                  uint64_t size,
                                  const struct store_extent *e,
                                  const uint32_t *slots,
                                  uint32_t n_refs)
{
    struct record *r = ref_table_new(core.refs);

    if (r == NULL)
        return NULL;
    r->site = core_call_site;
    r->counter = ++core.task_counter;
    if (!ref_table_set_inner(core.refs, r, slots, n_refs)) {
        ref_table_set(core.refs, r, 0, NULL, 0);
        ref_table_drop(core.refs, r);
        return NULL;
    }
    if (bytes != NULL || e == NULL) {
        ref_table_set(core.refs, r, meta, bytes, (uint32_t)size);
        return r;
    }
    struct object_name name = {.owner = core.welcome.process, .counter = r->counter};
    struct ref_stored stored = {.place = e->place,
                                .offset = e->offset,
                                .size = size,
                                .n_refs = n_refs,
                                .pin = REF_NO_PIN};
    if (n_refs > 0)
        refs_put(slots, n_refs, (uint8_t *)store_client_write(core.store, e) + refs_trailer(size));
    objects_seal(e, size, meta, n_refs, &name);
    ref_table_set_stored(core.refs, r, meta, &stored);
    return r;
}

uint64_t core_put(uint8_t meta,
                  const void *bytes,
                  size_t size,
                  const uint64_t *refs,
                  uint32_t n_refs,
                  int *code,
                  struct err *err)
{
    struct store_extent e;
    struct record *r = NULL;
    uint32_t *slots;

    if (unusable()) {
        *code = CORE_EFORKED;
        return 0;
    }
    core_lock();
    enter();
    *code = core.connected ? hold_refs(refs, n_refs, &slots) : CORE_EARG;
    if (*code == CORE_OK) {
        if (size <= CORE_INLINE_MAX) {
            r = make_object(meta, size > 0 ? bytes : NULL, size, NULL, slots, n_refs);
        } else {
            uint64_t trailer = n_refs * sizeof(struct wire_ref);
            *code = objects_alloc(refs_trailer(size) + trailer, &e, err);
            if (*code == CORE_OK) {
                core_unlock();
                store_client_copy(store_client_write(core.store, &e), bytes, size);
                core_lock();
                r = make_object(meta, NULL, size, &e, slots, n_refs);
                if (r == NULL)
                    objects_abort(&e);
            }
        }
        if (r == NULL) {
            let_refs_go(slots, n_refs);
            if (*code == CORE_OK)
                *code = CORE_ENOMEM;
        }
        free(slots);
    }
    uint64_t word = r != NULL ? record_word(r) : 0;
    leave();
    core_unlock();
    return word;
}

uint64_t core_put_error(enum core_code code, const char *text)
{
    uint8_t value[1024];
    int rc;
    size_t n = owner_failure(value, sizeof value, code, 0, 0, text, "", "", "");

    return core_put(WIRE_META_ERROR, value, n, NULL, 0, &rc, &(struct err){0});
}

/* Of a buffer: block holds place, offset and life; all 0 of one in the heap. */
static bool is_of_this_life(const struct core_buffer *b)
{
    return b->block[2] == core.life + 1u;
}

static struct store_extent extent_of(const struct core_buffer *b)
{
    return (struct store_extent){.place = b->block[0], .offset = b->block[1], .size = b->size};
}

int core_create(uint64_t size, struct core_buffer *out, struct err *err)
{
    struct store_extent e;
    int code;

    *out = (struct core_buffer){0};
    if (unusable())
        return CORE_EFORKED;
    if (size <= CORE_INLINE_MAX) {
        out->data = try_alloc(NULL, size > 0 ? size : 1);
        out->size = size;
        return out->data != NULL ? CORE_OK : CORE_ENOMEM;
    }
    core_lock();
    if (!core.connected) {
        core_unlock();
        err_set(err, ERR_INVALID, "call ray_init first");
        return CORE_EARG;
    }
    enter();
    code = objects_alloc(size, &e, err);
    if (code == CORE_OK)
        *out = (struct core_buffer){.data = store_client_write(core.store, &e),
                                    .size = size,
                                    .block = {e.place, e.offset, core.life + 1u}};
    leave();
    core_unlock();
    return code;
}

uint64_t core_seal(struct core_buffer *buffer,
                   uint64_t size,
                   uint8_t meta,
                   const uint64_t *refs,
                   uint32_t n_refs,
                   int *code)
{
    struct core_buffer b = *buffer;
    struct record *r = NULL;
    uint32_t *slots;

    *buffer = (struct core_buffer){0};
    if (unusable() || b.data == NULL || size > b.size) {
        *code = unusable() ? CORE_EFORKED : CORE_EARG;
        core_abort(&b);
        return 0;
    }
    if (b.block[2] == 0) {
        struct err err;
        uint64_t word = core_put(meta, b.data, size, refs, n_refs, code, &err);
        free(b.data);
        return word;
    }
    core_lock();
    struct store_extent e = extent_of(&b);
    if (!core.connected || !is_of_this_life(&b))
        *code = CORE_EARG;
    else if (n_refs > 0 && refs_trailer(size) + n_refs * sizeof(struct wire_ref) > b.size)
        *code = CORE_EARG;
    else
        *code = hold_refs(refs, n_refs, &slots);
    if (*code == CORE_OK) {
        r = make_object(meta, NULL, size, &e, slots, n_refs);
        if (r == NULL) {
            let_refs_go(slots, n_refs);
            *code = CORE_ENOMEM;
        }
        free(slots);
    }
    if (r == NULL && core.connected && is_of_this_life(&b))
        objects_abort(&e);
    uint64_t word = r != NULL ? record_word(r) : 0;
    core_unlock();
    return word;
}

void core_abort(struct core_buffer *buffer)
{
    struct core_buffer b = *buffer;

    *buffer = (struct core_buffer){0};
    if (b.block[2] == 0) {
        free(b.data);
        return;
    }
    if (unusable())
        return;
    core_lock();
    if (core.connected && is_of_this_life(&b)) {
        struct store_extent e = extent_of(&b);
        objects_abort(&e);
    }
    core_unlock();
}

/* --- getting and waiting --- */

/* Who answers for this ref, and how long its body is expected to run. */
static struct peer *answerer(const struct record *r, uint64_t *run_ns)
{
    const struct record *first = ref_table_at(core.refs, r->first);

    *run_ns = UINT64_MAX;
    if (r->state != REF_PENDING || first->state != REF_PENDING || first->u.task.lease == NULL)
        return NULL;
    *run_ns = submit_run_ns(core.submit, first->class);
    return first->u.task.lease->peer;
}

/* Sleep one round towards deadline; false: it has passed. r (or NULL) is what the caller waits for
 * most. */
static bool wait_round(struct waiter *w, uint64_t deadline, const struct record *r)
{
    uint64_t run_ns = UINT64_MAX, now = clock_now_ns();
    struct peer *p = r != NULL ? answerer(r, &run_ns) : NULL;

    owner_settle();
    worker_block();
    uint64_t until = submit_next_deadline(core.submit), due = borrow_next_deadline(core.borrow);
    if (due < until)
        until = due;
    if (until <= now)
        until = now + 1000;
    poller_wait(w, until < deadline ? until : deadline, p, run_ns);
    return deadline == UINT64_MAX || clock_now_ns() < deadline;
}

/* held of a value: the record's slot, the cluster it belongs to, and whether the end waits for it.
 */
#define HELD_KEPT (1ull << 63)

static uint64_t held_of(const struct record *r)
{
    return (uint64_t)(core.life & INT32_MAX) << 32 | r->slot;
}

static void fill_error(struct core_value *out, enum core_code code, const char *text)
{
    size_t n = owner_failure(out->store, sizeof out->store, code, 0, 0, text, "", "", "");

    *out = (struct core_value){.size = n, .meta = WIRE_META_ERROR};
}

static void fill_stored(struct core_value *out, struct record *r)
{
    struct ref_stored *s = &r->u.stored;
    int32_t pin = REF_NO_PIN;

    s->n_views++; /* the pin may wait without the lock */
    if ((r->flags & REF_BORROWED) != 0 && s->pin == REF_NO_PIN) {
        bool ok = objects_pin(s->place, s->pin == REF_NO_PIN ? &s->pin : &pin);
        objects_unpin(s->place, &pin);
        if (!ok && s->pin == REF_NO_PIN) {
            s->n_views--;
            if (borrow_is_dead(core.borrow, r->extra->owner))
                fill_error(out, CORE_EOWNER, "its owner is gone");
            else
                fill_error(out, CORE_ELOST, "its owner freed it");
            return;
        }
    }
    out->bytes = objects_read(s->offset, s->size);
    out->size = s->size;
    out->held = held_of(r);
    r->held++;
    enter();
}

static void fill(struct core_value *out, struct record *r)
{
    out->meta = r->meta;
    out->held = 0;
    out->n_refs = r->extra != NULL ? r->extra->n_inner : 0;
    if ((r->flags & REF_FREED) != 0) {
        out->n_refs = 0;
        out->size = owner_freed(out->store, sizeof out->store);
        out->meta = WIRE_META_ERROR;
        out->bytes = out->store;
    } else if ((r->flags & REF_STORED) != 0) {
        fill_stored(out, r);
    } else if (r->size <= sizeof out->store && out->n_refs == 0) {
        memcpy(out->store, record_value(r), r->size);
        out->bytes = out->store;
        out->size = r->size;
    } else {
        out->bytes = record_value(r);
        out->size = r->size;
        out->held = held_of(r);
        r->held++;
        enter();
    }
}

static int get(uint64_t ref, int64_t timeout_ms, bool take, struct core_value *out)
{
    struct waiter w = {.n_missing = 1};
    struct ref_waiter rw = {.kind = REF_WAITER_THREAD, .u.thread = &w};
    int code = CORE_OK;

    if (unusable())
        return CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL) {
        core_unlock();
        return CORE_ESTALE;
    }
    enter();
    r->held++;
    if (r->state == REF_PENDING && timeout_ms == 0 && !core.polling) {
        refs_want(r);
        core.polling = true;
        poller_turn(0, NULL, 0);
        core.polling = false;
    }
    if (r->state == REF_PENDING && timeout_ms != 0) {
        uint64_t deadline = deadline_of(timeout_ms);
        owner_ref_add_waiter(r, &rw);
        while (w.n_missing > 0 && wait_round(&w, deadline, r))
            continue;
        owner_ref_remove_waiter(&rw);
        worker_unblock();
    }
    if (r->state != REF_READY)
        code = CORE_ETIMEOUT;
    else if (r->count == 0)
        code = CORE_ESTALE; /* another thread released it meanwhile */
    else
        fill(out, r);
    if (take && code == CORE_OK && r->count > 0)
        ref_table_drop(core.refs, r);
    ref_table_unhold(core.refs, r);
    poller_leave();
    leave();
    core_unlock();
    return code;
}

int core_get(uint64_t ref, int64_t timeout_ms, struct core_value *out)
{
    return get(ref, timeout_ms, false, out);
}

int core_take(uint64_t ref, int64_t timeout_ms, struct core_value *out)
{
    return get(ref, timeout_ms, true, out);
}

/* The record that a value holds; NULL: of a cluster that has ended. */
static struct record *holder_of(const struct core_value *value)
{
    uint64_t cluster = (value->held & ~HELD_KEPT) >> 32;

    if (core.refs == NULL || cluster != (core.life & INT32_MAX))
        return NULL;
    return ref_table_at(core.refs, (uint32_t)value->held);
}

void core_value_keep(struct core_value *value)
{
    if (value->held == 0 || (value->held & HELD_KEPT) != 0 || unusable())
        return;
    core_lock();
    value->held |= HELD_KEPT;
    leave();
    core_unlock();
}

/* The program freed it, and nobody reads it any more. */
static void end_freed(struct record *r)
{
    uint8_t value[128];
    size_t n = owner_freed(value, sizeof value);

    if ((r->flags & REF_STORED) != 0)
        objects_free(r->u.stored.place);
    r->flags &= (uint16_t)~REF_FREED;
    ref_table_replace(core.refs, r, WIRE_META_ERROR, value, (uint32_t)n);
}

static void end_view(struct record *r)
{
    struct ref_stored *s = &r->u.stored;

    if ((r->flags & REF_STORED) == 0 || --s->n_views > 0)
        return;
    objects_unpin(s->place, &s->pin);
    if ((r->flags & REF_FREED) != 0)
        end_freed(r);
}

void core_value_drop(struct core_value *value)
{
    if (value->held == 0 || unusable())
        return;
    core_lock();
    struct record *r = holder_of(value);
    if (r != NULL) {
        end_view(r);
        ref_table_unhold(core.refs, r);
        if ((value->held & HELD_KEPT) == 0)
            leave();
        have_news();
    }
    core_unlock();
    value->held = 0;
}

uint64_t core_value_ref(const struct core_value *value, uint32_t i)
{
    uint64_t word = 0;

    if (value->held == 0 || unusable())
        return 0;
    core_lock();
    const struct record *r = holder_of(value);
    if (r != NULL && r->extra != NULL && i < r->extra->n_inner) {
        struct record *inner = ref_table_at(core.refs, r->extra->inner[i]);
        inner->count++;
        word = record_word(inner);
    }
    core_unlock();
    return word;
}

int core_free(uint64_t ref)
{
    int code = CORE_OK;

    if (unusable())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL)
        code = CORE_ESTALE;
    else if ((r->flags & REF_BORROWED) != 0)
        code = CORE_EOWNER;
    else if (r->state != REF_READY)
        code = CORE_EARG;
    else if ((r->flags & REF_FREED) == 0 && r->meta != WIRE_META_ERROR) {
        bool is_read = (r->flags & REF_STORED) != 0 ? r->u.stored.n_views > 0 : r->held > 0;
        r->flags |= REF_FREED;
        if (!is_read)
            end_freed(r);
        have_news();
    }
    core_unlock();
    return code;
}

int core_get_object(uint64_t ref, struct core_object *out)
{
    if (unusable())
        return CORE_EFORKED;
    core_lock();
    const struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r != NULL) {
        bool is_borrowed = (r->flags & REF_BORROWED) != 0;
        uint32_t owner = is_borrowed ? r->extra->owner : core.welcome.process;
        *out = (struct core_object){
            .is_ready = r->state == REF_READY,
            .is_error = r->state == REF_READY
                        && (r->meta == WIRE_META_ERROR || (r->flags & REF_FREED) != 0),
            .is_owned = !is_borrowed,
            .in_store = r->state == REF_READY && (r->flags & REF_STORED) != 0,
            .n_refs = r->extra != NULL ? r->extra->n_inner : 0};
        if (out->is_ready)
            out->size = out->in_store ? r->u.stored.size : r->size;
        struct task_id task = task_id_make((struct job_id){core.welcome.job}, owner, r->counter);
        out->id = object_id_make(&task, record_index(r));
    }
    core_unlock();
    return r != NULL ? CORE_OK : CORE_ESTALE;
}

static int compare_words(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static bool has_duplicates(const uint64_t *refs, size_t n, uint64_t *sorted)
{
    memcpy(sorted, refs, n * sizeof *refs);
    qsort(sorted, n, sizeof *sorted, compare_words);
    for (size_t i = 1; i < n; i++)
        if (sorted[i] == sorted[i - 1])
            return true;
    return false;
}

int core_wait(const uint64_t *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready)
{
    struct waiter w = {0};
    int code = CORE_OK;
    size_t n_ready = 0, n_added = 0;

    if (unusable())
        return CORE_EFORKED;
    if (n == 0)
        return CORE_OK;
    if (num_returns == 0 || num_returns > n)
        return CORE_EARG;
    struct ref_waiter *rws =
        try_alloc(NULL, n * (sizeof *rws > sizeof(uint64_t) ? sizeof *rws : sizeof(uint64_t)));
    if (rws == NULL)
        return CORE_ENOMEM;
    if (has_duplicates(refs, n, (uint64_t *)(void *)rws)) {
        free(rws);
        return CORE_EARG;
    }
    list_init(&w.node);
    core_lock();
    enter();
    for (size_t i = 0; i < n && code == CORE_OK; i++) {
        struct record *r = core.connected ? ref_table_find(core.refs, refs[i]) : NULL;
        if (r == NULL)
            code = CORE_ESTALE;
        else
            n_ready += r->state == REF_READY;
    }
    uint64_t deadline = deadline_of(timeout_ms);
    if (code == CORE_OK && n_ready < num_returns) {
        struct record *last = NULL;
        w.n_missing = (unsigned)(num_returns - n_ready);
        for (; n_added < n; n_added++) {
            struct record *r = ref_table_find(core.refs, refs[n_added]);
            struct ref_waiter *rw = &rws[n_added];
            r->held++;
            rw->link = NULL;
            rw->kind = REF_WAITER_THREAD;
            rw->u.thread = &w;
            if (r->state != REF_PENDING)
                continue;
            owner_ref_add_waiter(r, rw);
            last = r;
        }
        if (timeout_ms == 0) {
            if (!core.polling) {
                core.polling = true;
                poller_turn(0, NULL, 0);
                core.polling = false;
            }
        } else {
            while (w.n_missing > 0 && wait_round(&w, deadline, last))
                continue;
        }
        worker_unblock();
    }
    for (size_t i = 0, k = 0; i < n && code == CORE_OK; i++) {
        const struct record *r = ref_table_at(core.refs, (uint32_t)refs[i]);
        ready[i] = k < num_returns && r->state == REF_READY;
        k += ready[i];
        n_ready = k;
    }
    for (size_t i = 0; i < n_added; i++) {
        owner_ref_remove_waiter(&rws[i]);
        ref_table_unhold(core.refs, ref_table_at(core.refs, (uint32_t)refs[i]));
    }
    poller_leave();
    leave();
    core_unlock();
    free(rws);
    if (code == CORE_OK && n_ready < num_returns)
        code = CORE_ETIMEOUT;
    return code;
}

int core_retain(uint64_t ref)
{
    if (unusable())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r != NULL)
        r->count++;
    core_unlock();
    return r != NULL ? CORE_OK : CORE_ESTALE;
}

int core_release(uint64_t ref)
{
    if (unusable())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r != NULL) {
        ref_table_drop(core.refs, r);
        have_news();
    }
    core_unlock();
    return r != NULL ? CORE_OK : CORE_ESTALE;
}

int core_watch(uint64_t ref, void *tag)
{
    if (unusable())
        return CORE_EFORKED;
    core_lock();
    struct record *r = core.connected ? ref_table_find(core.refs, ref) : NULL;
    if (r == NULL) {
        core_unlock();
        return CORE_ESTALE;
    }
    struct ref_waiter *w = ref_table_alloc(core.refs, sizeof *w);
    if (w == NULL) {
        core_unlock();
        return CORE_ENOMEM;
    }
    w->kind = REF_WAITER_WATCH;
    w->u.watch.tag = tag;
    w->u.watch.ref = ref;
    r->held++; /* until the event has been taken: its ref must not be another's by then */
    owner_ref_add_waiter(r, w);
    if (r->state == REF_READY)
        owner_tell(r);
    core_unlock();
    return CORE_OK;
}

int core_poll_fd(void)
{
    if (unusable())
        return -1;
    core_lock();
    int fd = core.connected ? core.event_fd : -1;
    core_unlock();
    return fd;
}

int core_poll(struct core_event *events, size_t max, int64_t timeout_ms)
{
    struct waiter w = {.n_missing = 1};
    uint64_t deadline = deadline_of(timeout_ms), count;
    size_t n = 0;

    if (unusable())
        return -CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    if (!core.connected) {
        core_unlock();
        return -CORE_EARG;
    }
    enter();
    if (core.events == NULL && timeout_ms == 0 && !core.polling) {
        core.polling = true;
        poller_turn(0, NULL, 0);
        core.polling = false;
    }
    while (core.events == NULL && timeout_ms != 0 && core.raylet->link != NULL
           && wait_round(&w, deadline, NULL))
        continue;
    bool is_over = core.events == NULL && core.raylet->link == NULL;
    worker_unblock();
    while (core.events != NULL && n < max) {
        struct ready_event *e = core.events;
        core.events = e->next;
        events[n++] = e->event;
        ref_table_unhold(core.refs, ref_table_at(core.refs, (uint32_t)e->event.ref));
        ref_table_free(core.refs, e, sizeof(struct ref_waiter));
    }
    if (core.events == NULL) {
        core.events_tail = &core.events;
        ssize_t r = read(core.event_fd, &count, sizeof count);
        (void)r;
    }
    poller_leave();
    leave();
    core_unlock();
    return is_over ? -CORE_ELINK : (int)n;
}

/* --- facts --- */

int core_get_facts(struct core_facts *out, struct err *err)
{
    int code = CORE_OK;

    if (unusable())
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
    uint64_t deadline = deadline_of(CONNECT_MS);
    int code = CORE_OK;

    if (unusable())
        return CORE_EFORKED;
    list_init(&w.node);
    core_lock();
    if (!core.connected) {
        core_unlock();
        err_set(err, ERR_INVALID, "call ray_init first");
        return CORE_EARG;
    }
    enter();
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
    leave();
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
