/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A job whose driver is on another machine comes with the first units of it that
 * are sent here. Its home, the driver's raylet, is asked what it is made of: environment, folder,
 * and the hash of the executable, which comes by the data port unless it is among those kept from
 * other jobs. Units wait until the job runs, up to a bound; others go back to the raylet of their
 * owner. The home remembers who asked, and tells them of the end; a home that died is an end too.
 *
 * Who sends units says where the home is, and only that node can know: it is asked, and what it
 * does not have ends here. Later ones must say the same.
 *
 *   NEW: asked ── JOB ──► executable kept? ── no: fetched and checked ──► RUNNING
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define KEPT_BYTES (256ull << 20) /* of executables whose jobs have ended */
#define ENV_MAX    (4u << 20)
#define FOLDER_MAX 4096
#define HELD_MAX   (4u << 20) /* bytes of units that wait for jobs to run, of all jobs */

/* A unit's SPILL that waits until the job runs. */
struct held_spill {
    struct list node;
    uint32_t owner;
    uint64_t since_ms;
    size_t size;
    uint8_t body[];
};

/* An executable, by the hash of its content; the one used last is first. */
struct kept {
    struct list node;
    struct transfer_hash hash;
    uint64_t size;
    int fd;
};

static void drop_held(struct job *j, struct held_spill *s)
{
    j->of->held_bytes -= s->size;
    list_remove(&s->node);
    free(s);
}

static void send_home(const struct job *j, uint8_t type, const void *body, size_t size)
{
    struct peer *home = peers_find(j->of->peers, j->home);
    struct peer_header h = {.type = type};

    if (home != NULL)
        peers_send(home, FRAME_CONTROL, &h, body, size);
}

/* NULL: none. */
static struct job *find(const struct node *n, uint32_t number)
{
    list_for_each(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (j->number == number)
            return j;
    }
    return NULL;
}

/* --- at the home --- */

static void remember(struct job *j, const struct peer *asker)
{
    uint32_t number = peer_number(asker);

    for (uint32_t i = 0; i < j->n_askers; i++)
        if (j->askers[i] == number)
            return;
    j->askers = xrealloc(j->askers, (j->n_askers + 1) * sizeof *j->askers);
    j->askers[j->n_askers++] = number;
}

/* j NULL: it is not there (any more). */
static void send_job(struct peer *to, const struct job *j, uint32_t number)
{
    struct peer_header h = {.type = PEER_JOB};
    struct peer_job w = {.job = number};
    char folder[FOLDER_MAX] = "/", path[40];

    if (j == NULL) {
        peers_send(to, FRAME_CONTROL, &h, &w, sizeof w);
        return;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", j->folder_fd);
    ssize_t len = j->folder_fd >= 0 ? readlink(path, folder, sizeof folder - 1) : 1;
    folder[len > 0 ? len : 1] = '\0';
    w.is_there = 1;
    w.driver = j->driver->number;
    w.log_to_driver = j->log_to_driver;
    w.hash = j->hash;
    memcpy(w.build, j->build, sizeof w.build);
    w.folder_size = (uint32_t)strlen(folder) + 1;
    w.environment_size = (uint32_t)j->environment_size;
    size_t total = sizeof w + w.folder_size + w.environment_size;
    uint8_t *buf = xmalloc(total);
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, folder, w.folder_size);
    if (j->environment != NULL)
        memcpy(buf + sizeof w + w.folder_size, j->environment, w.environment_size);
    peers_send(to, FRAME_CONTROL, &h, buf, total);
    free(buf);
}

static bool is_running_here(const struct job *j)
{
    return j != NULL && j->home == 0 && j->state == JOB_RUNNING && j->driver != NULL;
}

static void on_hashed(void *arg, const struct err *err, const struct transfer_hash *hash)
{
    struct job *j = arg;
    struct node *n = j->of;
    struct err own;

    CHECK_MAGIC(j, JOB_MAGIC);
    j->transfer_ticket = 0;
    if (err != NULL && err->code == ERR_CANCELED) /* the raylet ends */
        return;
    if (err == NULL) {
        j->hash = *hash;
        j->is_offered = transfer_offer_file(n->transfer, hash, j->executable_fd, &own) == 0;
        err = j->is_offered ? NULL : &own;
    }
    if (err != NULL)
        log_err("job", "not_offered", "job=%u msg=\"%s\"", j->number, err->text);
    for (uint32_t i = 0; i < j->n_askers; i++) {
        struct peer *p = peers_find(n->peers, j->askers[i]);
        if (p != NULL)
            send_job(p, j->is_offered && is_running_here(j) ? j : NULL, j->number);
    }
}

static void on_ask(struct node *n, struct peer *from, const uint8_t *body, size_t size)
{
    struct peer_job_ask a;

    if (size < sizeof a)
        return;
    memcpy(&a, body, sizeof a);
    struct job *j = find(n, a.job);
    if (!is_running_here(j)) {
        send_job(from, NULL, a.job);
        return;
    }
    remember(j, from);
    if (j->is_offered)
        send_job(from, j, a.job);
    else if (j->transfer_ticket == 0)
        j->transfer_ticket = transfer_hash_file(n->transfer, j->executable_fd, on_hashed, j);
}

void job_elsewhere_tell_end(const struct job *j)
{
    struct peer_header h = {.type = PEER_JOB_END};
    struct peer_job_end w = {.job = j->number};

    for (uint32_t i = 0; i < j->n_askers; i++) {
        struct peer *p = peers_find(j->of->peers, j->askers[i]);
        if (p != NULL)
            peers_send(p, FRAME_CONTROL, &h, &w, sizeof w);
    }
}

/* --- here --- */

void job_elsewhere_fini(struct job *j)
{
    if (j->transfer_ticket > 0)
        transfer_cancel(j->of->transfer, j->transfer_ticket);
    if (j->is_offered && j->of->transfer != NULL)
        transfer_withdraw_file(j->of->transfer, &j->hash);
    list_for_each_safe(m, &j->held) drop_held(j, list_entry(m, struct held_spill, node));
    free(j->askers);
}

/* It cannot be here: its units go back to where they came from. */
static void give_up(struct job *j, const char *why)
{
    log_err("job", "not_here", "job=%u home=%u msg=\"%s\"", j->number, j->home, why);
    list_for_each_safe(m, &j->held)
    {
        struct held_spill *s = list_entry(m, struct held_spill, node);
        struct process *owner = guest_run_find(j->of, s->owner);
        if (owner != NULL && owner->is_guest)
            spill_run_reject(owner,
                             s->body + sizeof(struct peer_spill),
                             s->size - sizeof(struct peer_spill));
        drop_held(j, s);
    }
    job_end(j, why);
}

struct job *job_elsewhere(struct node *n, uint32_t number, uint32_t home, const struct peer *from)
{
    struct job *j = number > 0 ? find(n, number) : NULL; /* 0: many here, for a moment */
    struct peer_job_ask ask = {.job = number};
    uint32_t known = j == NULL ? 0 : j->home > 0 ? j->home : n->number;

    if (j != NULL && known == home)
        return j;
    if (j == NULL && number > 0 && home != n->number && peers_find(n->peers, home) != NULL) {
        j = job_begin_elsewhere(n, number, home);
        send_home(j, PEER_JOB_ASK, &ask, sizeof ask);
        return j;
    }
    LOG_AT(known > 0 ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
           "job",
           "wrong_home",
           "job=%u node=%u home=%u known=%u msg=\"%s; its units go back\"",
           number,
           peer_number(from),
           home,
           known,
           known > 0           ? "its driver is on another node than that node says"
           : home == n->number ? "no such driver is here (any more)"
                               : "the node of its driver is not known here");
    return NULL;
}

bool job_elsewhere_hold(struct process *owner, const uint8_t *body, size_t size)
{
    struct job *j = owner->job;

    if (j->state != JOB_NEW)
        return false;
    struct held_spill *s =
        size <= HELD_MAX - j->of->held_bytes ? try_alloc(NULL, sizeof *s + size) : NULL;
    if (s == NULL) {
        LOG_AT(j->held_is_full ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN,
               "job",
               "held_full",
               "job=%u msg=\"too many units wait for jobs to begin here: they go back\"",
               j->number);
        j->held_is_full = true;
        spill_run_reject(owner, body + sizeof(struct peer_spill), size - sizeof(struct peer_spill));
        return true;
    }
    s->owner = owner->number;
    s->since_ms = loop_now_ms();
    s->size = size;
    memcpy(s->body, body, size);
    list_append(&j->held, &s->node);
    j->of->held_bytes += size;
    return true;
}

uint32_t job_elsewhere_count_held(const struct job *j, uint64_t *since_ms)
{
    uint32_t n = 0;

    list_for_each(m, &j->held)
    {
        const struct held_spill *s = list_entry(m, struct held_spill, node);
        struct wire_lease_request r;
        memcpy(&r, s->body + sizeof(struct peer_spill), sizeof r);
        n += r.count;
        *since_ms = s->since_ms < *since_ms ? s->since_ms : *since_ms;
    }
    return n;
}

void job_elsewhere_cancel(struct process *owner, uint64_t ticket)
{
    struct wire_lease_canceled w = {.ticket = ticket};

    list_for_each_safe(m, &owner->job->held)
    {
        struct held_spill *s = list_entry(m, struct held_spill, node);
        struct wire_lease_request r;
        memcpy(&r, s->body + sizeof(struct peer_spill), sizeof r);
        if (s->owner != owner->number || r.ticket != ticket)
            continue;
        w.count += r.count;
        drop_held(owner->job, s);
    }
    if (w.count > 0)
        node_send(owner, WIRE_LEASE_CANCELED, &w, sizeof w);
}

/* All is here. */
static void run(struct job *j)
{
    struct err err;

    if (job_start(j, &err) != 0) {
        give_up(j, err.text);
        return;
    }
    list_for_each_safe(m, &j->held)
    {
        struct held_spill *s = list_entry(m, struct held_spill, node);
        struct process *owner = guest_run_find(j->of, s->owner);
        if (owner != NULL && owner->is_guest && owner->job == j)
            spill_run_on_spill(owner, s->body, s->size);
        drop_held(j, s);
    }
}

/* --- executables --- */

static bool open_kept(struct job *j)
{
    struct node *n = j->of;

    list_for_each(m, &n->executables)
    {
        struct kept *k = list_entry(m, struct kept, node);
        if (memcmp(&k->hash, &j->hash, sizeof k->hash) != 0)
            continue;
        list_remove(&k->node);
        list_push(&n->executables, &k->node);
        j->executable_fd = dup(k->fd);
        return j->executable_fd >= 0;
    }
    return false;
}

static void drop(struct kept *k)
{
    close(k->fd);
    list_remove(&k->node);
    free(k);
}

static void keep(struct node *n, const struct transfer_hash *hash, int fd)
{
    struct kept *k = xcalloc(1, sizeof *k);
    struct stat st;
    uint64_t total = 0;

    k->hash = *hash;
    k->fd = fd;
    k->size = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    list_push(&n->executables, &k->node);
    list_for_each_safe(m, &n->executables)
    {
        struct kept *old = list_entry(m, struct kept, node);
        total += old->size;
        if (total > KEPT_BYTES && old != k)
            drop(old); /* a job that runs has a descriptor of its own */
    }
}

void job_elsewhere_forget_kept(struct node *n)
{
    list_for_each_safe(m, &n->executables) drop(list_entry(m, struct kept, node));
}

static void on_fetched(void *arg, const struct err *err, int fd)
{
    struct job *j = arg;

    CHECK_MAGIC(j, JOB_MAGIC);
    j->transfer_ticket = 0;
    if (err != NULL && err->code == ERR_CANCELED)
        return;
    if (err == NULL)
        keep(j->of, &j->hash, fd);
    if (j->state != JOB_NEW) /* it has ended in this turn */
        return;
    if (err != NULL)
        give_up(j, err->text);
    else if (open_kept(j))
        run(j);
    else
        give_up(j, "no descriptor left for its executable (ulimit -n)");
}

/* The driver's, and where its libray is not found by its path (it runs from memory here), ours,
 * which is checked to be of the same build. */
static void take_environment(struct job *j, const char *text, size_t size)
{
    static const char name[] = "LD_LIBRARY_PATH=";
    char own[PATH_MAX], *slash;
    const char *before = "";
    ssize_t len = readlink("/proc/self/exe", own, sizeof own - 1);

    own[len > 0 ? len : 0] = '\0';
    for (int i = 0; i < 2 && (slash = strrchr(own, '/')) != NULL; i++)
        *slash = '\0'; /* PREFIX of PREFIX/bin/raylet */
    size_t room = size + sizeof name + sizeof own + sizeof "/lib";
    char *out = j->environment = xmalloc(room), *end = out + room;
    for (const char *at = text; at < text + size; at += strlen(at) + 1) {
        if (strncmp(at, name, sizeof name - 1) == 0) {
            before = at + sizeof name - 1;
            continue;
        }
        out = stpcpy(out, at) + 1;
    }
    out += snprintf(out,
                    (size_t)(end - out),
                    "%s%s%s%s/lib",
                    name,
                    before,
                    before[0] != '\0' ? ":" : "",
                    own)
           + 1;
    j->environment_size = (size_t)(out - j->environment);
}

/* Its environment and folder; the executable may have to come. */
static int take(struct job *j, const struct peer_job *w, const char *text, struct err *err)
{
    const char *folder = text, *environment = text + w->folder_size;

    if (w->is_there == 0)
        return err_set(err, ERR_DIED, "its driver is not on node %u (any more)", j->home);
    if (w->environment_size > 0 && environment[w->environment_size - 1] != '\0')
        return err_set(err, ERR_PROTOCOL, "its environment has no end");
    j->log_to_driver = w->log_to_driver;
    memcpy(j->build, w->build, sizeof j->build);
    j->build[sizeof j->build - 1] = '\0';
    take_environment(j, environment, w->environment_size);
    j->folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (j->folder_fd < 0) {
        log_warn("job",
                 "no_folder",
                 "job=%u errno=%d msg=\"%s is not here (%s): its workers begin in /\"",
                 j->number,
                 errno,
                 folder,
                 strerror(errno));
        j->folder_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    struct process *driver = guest_run_get(j->of, peers_find(j->of->peers, j->home), w->driver);
    if (driver == NULL || (driver->job != NULL && driver->job != j))
        return err_set(err, ERR_PROTOCOL, "its driver cannot be where it says");
    j->driver = driver;
    driver->job = j;
    j->hash = w->hash;
    if (!open_kept(j))
        j->transfer_ticket = transfer_fetch_file(j->of->transfer, j->home, &j->hash, on_fetched, j);
    return 0;
}

static void on_job(struct node *n, const struct peer *from, const uint8_t *body, size_t size)
{
    struct peer_job w;
    struct err err;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct job *j = find(n, w.job);
    if (j == NULL || j->home != peer_number(from) || j->state != JOB_NEW || j->environment != NULL)
        return;
    const char *text = (const char *)body + sizeof w;
    bool is_whole =
        w.is_there == 0
        || (w.folder_size > 0 && w.folder_size <= FOLDER_MAX && w.environment_size <= ENV_MAX
            && size >= sizeof w + w.folder_size + w.environment_size
            && text[w.folder_size - 1] == '\0');
    if (!is_whole)
        give_up(j, "its home sent a malformed JOB");
    else if (take(j, &w, text, &err) != 0)
        give_up(j, err.text);
    else if (j->executable_fd >= 0)
        run(j);
}

static void on_end(struct node *n, const struct peer *from, const uint8_t *body, size_t size)
{
    struct peer_job_end w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct job *j = find(n, w.job);
    if (j != NULL && j->home == peer_number(from))
        job_end(j, "its driver has ended");
}

void job_elsewhere_on_message(struct node *n,
                              struct peer *from,
                              uint8_t type,
                              const uint8_t *body,
                              size_t size)
{
    switch (type) {
    case PEER_JOB_ASK:
        on_ask(n, from, body, size);
        break;
    case PEER_JOB:
        on_job(n, from, body, size);
        break;
    case PEER_JOB_END:
        on_end(n, from, body, size);
        break;
    default:
        break;
    }
}

void job_elsewhere_on_node_lost(struct node *n, uint32_t number)
{
    list_for_each(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (j->home == number)
            job_end(j, "the node of its driver is dead");
    }
}
