/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A job is a driver and what serves it alone: a zygote of its executable, the
 * workers forked from that, and their pool; leases, resources, channels and objects are the node's.
 * Events (the pidfd fired, the link ended, LEAVE, the zygote died) set facts; job_pump alone, at
 * the turn's end, looks whether a job can go on to ENDED and whether it can be freed.
 *
 * The driver's memory (what it was lent, pins, what it owns) is in use as long as it, or a child
 * that it forked, has it mapped. The link is closed by exec and kept by fork as the mappings are,
 * and libray keeps a copy of it open until it has unmapped all. So the memory is free when the link
 * has ended and the driver is dead or said that it leaves (DESIGN D6). In the seldom other cases
 * (exec; a link that the raylet cut) it is kept until the driver's process ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"

#define END_MS      1000 /* for a zygote to end its workers */
#define WORKERS_MAX (BOARD_SLOTS - 1)

static uint64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

unsigned job_count(const struct node *n)
{
    unsigned k = 0;

    list_for_each(j, &n->jobs) k += list_entry(j, struct job, node)->state < JOB_ENDED;
    return k;
}

uint32_t job_first(const struct node *n)
{
    return list_empty(&n->jobs) ? 0 : list_entry(n->jobs.next, struct job, node)->number;
}

unsigned job_count_workers(const struct node *n)
{
    unsigned k = 0;

    list_for_each(j, &n->jobs)
    {
        struct worker_pool_stats stats;
        worker_pool_get_stats(list_entry(j, struct job, node)->pool, &stats);
        k += stats.n_leased + stats.n_idle;
    }
    return k;
}

/* As many idle workers as CPUs, of all jobs together; one of each at least. */
static void share_keep(const struct node *n)
{
    unsigned n_jobs = job_count(n), n_cpus = (unsigned)n->config.num_cpus;

    list_for_each(j, &n->jobs)
        worker_pool_set_keep(list_entry(j, struct job, node)->pool,
                             n_jobs > 0 ? (n_cpus + n_jobs - 1) / n_jobs : n_cpus);
}

/* --- beginning --- */

static void on_driver_dead(void *arg, bool readable, bool writable)
{
    struct job *j = arg;

    (void)readable;
    (void)writable;
    CHECK_MAGIC(j, JOB_MAGIC);
    loop_unwatch(j->pidfd_watch);
    j->pidfd_watch = NULL;
    j->driver_dead = j->of->jobs_changed = true;
    job_end(j, "the driver has ended");
}

static struct job *create(struct node *n)
{
    struct job *j = xcalloc(1, sizeof *j);
    unsigned n_cpus = (unsigned)n->config.num_cpus;

    j->magic = JOB_MAGIC;
    j->of = n;
    j->id = ++n->last_job;
    j->made_ms = loop_now_ms();
    j->pidfd = j->executable_fd = j->folder_fd = -1;
    list_init(&j->held);
    j->start_code = ERR_START_FAILED;
    j->pool =
        worker_pool_create(&(struct worker_pool_config){.start_limit = n_cpus < 2 ? 2 : n_cpus,
                                                        .keep = n_cpus,
                                                        .max = WORKERS_MAX});
    j->row.start_ms = wall_ms();
    list_append(&n->jobs, &j->node);
    share_keep(n);
    return j;
}

struct job *job_begin_elsewhere(struct node *n, uint32_t number, uint32_t home)
{
    struct job *j = create(n);

    j->number = number;
    j->home = home;
    return j;
}

struct job *job_begin(struct process *driver, int32_t pid, int pidfd, int executable_fd)
{
    struct node *n = driver->node;
    struct job *j = create(n);
    char path[40];

    j->driver = driver;
    j->driver_pid = pid;
    j->pidfd = pidfd;
    j->executable_fd = executable_fd;
    j->log_to_driver = n->config.log_to_driver;
    j->row.driver_pid = pid;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    if (readlink(path, j->row.entry, sizeof j->row.entry - 1) < 0)
        j->row.entry[0] = '\0';
    snprintf(j->row.driver_address, sizeof j->row.driver_address, "%s", cluster_run_ip(j->of));
    j->pidfd_watch = loop_watch_fd(n->loop, pidfd, on_driver_dead, j);
    driver->job = j;
    driver->pid = pid;
    return j;
}

/* The driver started this raylet just now: what it gave us is its own. */
int job_describe_own(struct job *j, struct err *err)
{
    char *at;

    for (char **e = environ; e != NULL && *e != NULL; e++)
        j->environment_size += strlen(*e) + 1;
    at = j->environment = xmalloc(j->environment_size + 1);
    for (char **e = environ; e != NULL && *e != NULL; e++)
        at = stpcpy(at, *e) + 1;
    j->folder_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (j->folder_fd < 0) /* it is not to be entered */
        j->folder_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return j->folder_fd >= 0 ? 0 : err_sys(err, "open the folder of the program");
}

static int open_zygote(struct job *j, struct err *err)
{
    struct node *n = j->of;
    char path[320];

    snprintf(path,
             sizeof path,
             "%s/zygote-%02x%02x%02x%02x.err",
             n->session.logs,
             j->number & 0xff,
             j->number >> 8 & 0xff,
             j->number >> 16 & 0xff,
             j->number >> 24);
    struct zygote_config config = {.executable_fd = j->executable_fd,
                                   .board_fd = n->board_fd,
                                   .index_fd = n->index_fd,
                                   .arena_fd = n->arena_fd,
                                   .folder_fd = j->folder_fd,
                                   .environment = j->environment,
                                   .environment_size = j->environment_size,
                                   .log_path = path,
                                   .session_dir = n->session.is_ours ? n->session.dir : ""};
    j->zygote = zygote_create(n->loop, &config, &pool_run_zygote_ops, j, err);
    if (j->zygote == NULL)
        return -1;
    /* a failure is told to the first task that needs a worker */
    zygote_start(j->zygote, NULL);
    return 0;
}

static void on_end_written(void *arg, enum err_code code)
{
    (void)arg;
    if (code != ERR_NONE && code != ERR_CANCELED)
        log_err("job", "end_not_written", "code=%s", err_code_name(code));
}

int job_start(struct job *j, struct err *err)
{
    if (!node_is_drivers(j->of) && open_zygote(j, err) != 0)
        return -1;
    j->state = JOB_RUNNING;
    log_info("job",
             "begins",
             "job=%u home=%u pid=%d entry=%s",
             j->number,
             j->home,
             j->driver_pid,
             j->row.entry);
    worker_pool_prestart(j->pool,
                         (unsigned)j->of->config.num_cpus,
                         loop_now_ms(),
                         &j->pool_actions);
    return 0;
}

static void on_number(void *arg, enum err_code code, uint32_t number)
{
    struct job *j = arg;
    struct node *n = j->of;
    struct err err;

    CHECK_MAGIC(j, JOB_MAGIC);
    j->asked_number = false;
    n->jobs_changed = true;
    if (code == ERR_CANCELED)
        return;
    j->number = number;
    if (j->state != JOB_NEW) { /* it has ended on the way */
        if (code == ERR_NONE)
            gcs_client_end_job(n->gcs, number, &j->row, on_end_written, NULL);
        return;
    }
    if (code != ERR_NONE)
        err_set(&err, code, "the GCS gives no job number (%s)", err_code_name(code));
    if (code != ERR_NONE || job_start(j, &err) != 0) {
        log_err("job", "not_started", "pid=%d msg=\"%s\"", j->driver_pid, err.text);
        node_say_error(j->driver, err.code, err.text);
        node_cut_off(j->driver, err.text);
        return;
    }
    node_join_welcome(n);
}

void job_register(struct job *j)
{
    j->asked_number = true;
    gcs_client_add_job(j->of->gcs, &j->row, on_number, j);
}

/* --- ending --- */

/* With its job the node ends; one that others know says good-bye. */
static void end_node(struct job *j)
{
    if (!node_is_joined(j->of)) {
        loop_stop(j->of->loop);
        return;
    }
    if (j->ends_node)
        return;
    j->ends_node = true;
    job_elsewhere_tell_end(j);
    cluster_run_leave(j->of);
}

void job_end(struct job *j, const char *why)
{
    struct node *n = j->of;
    uint64_t now = loop_now_ms();

    if (j->state >= JOB_ENDING)
        return;
    if (node_is_private(n)) {
        end_node(j);
        return;
    }
    log_info("job", "ending", "job=%u pid=%d why=\"%s\"", j->number, j->driver_pid, why);
    j->state = JOB_ENDING;
    n->jobs_changed = true;
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL && n->processes[s]->job == j)
            lease_owner_died(n->leases, s, now, &n->lease_actions);
    for (uint32_t i = 0; i < n->n_guests; i++)
        if (n->guests[i] != NULL && n->guests[i]->job == j)
            lease_owner_died(n->leases, n->guests[i]->slot, now, &n->lease_actions);
    lease_run(n, 0, NULL); /* takes back what it asked of the pool */
    worker_pool_drain(j->pool, now, &j->pool_actions);
    j->zygote_gone = j->zygote == NULL || !zygote_stop(j->zygote, END_MS);
    if (j->zygote_gone)
        pool_run_bury_all(j);
    j->row.end_ms = wall_ms();
    job_elsewhere_tell_end(j);
    if (j->number > 0 && j->home == 0)
        gcs_client_end_job(n->gcs, j->number, &j->row, on_end_written, NULL);
}

void job_on_link_lost(struct process *driver)
{
    struct job *j = driver->job;

    if (node_is_private(j->of)) {
        node_close_link(driver);
        end_node(j);
        return;
    }
    node_close_link(driver);
    j->of->jobs_changed = true;
    job_end(j, "the driver's link has ended");
}

void job_on_leave(struct process *driver)
{
    driver->job->has_left = true;
    job_end(driver->job, "the driver leaves");
}

/* Nothing of it runs any more. */
static void ended(struct job *j)
{
    struct node *n = j->of;

    j->state = JOB_ENDED;
    lease_run(n, 0, NULL);
    lease_job_ended(n->leases, j->id);
    zygote_destroy(j->zygote);
    j->zygote = NULL;
    if (j->driver != NULL && !j->driver->is_guest)
        node_send(j->driver, WIRE_GOODBYE, NULL, 0);
    guest_run_forget_job(j);
    log_info("job", "ended", "job=%u pid=%d", j->number, j->driver_pid);
    share_keep(n);
}

static bool has_workers(const struct job *j)
{
    for (uint32_t s = 0; s < j->of->n_slots; s++)
        if (j->of->processes[s] != NULL && j->of->processes[s]->job == j
            && j->of->processes[s] != j->driver)
            return true;
    return false;
}

void job_pump(struct node *n)
{
    n->jobs_changed = false;
    list_for_each_safe(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (j->state == JOB_ENDING && j->zygote_gone && !has_workers(j))
            ended(j);
        if (j->state < JOB_ENDING)
            continue;
        if (j->driver != NULL && j->driver->link == NULL && !j->driver->is_guest
            && (j->driver_dead || j->has_left || !j->driver->in_store)) {
            node_free_process(j->driver);
            j->driver = NULL;
        }
        if (j->state == JOB_ENDED && j->driver == NULL && !j->asked_number)
            job_destroy(j);
    }
}

void job_sweep(const struct node *n)
{
    int32_t spared[BOARD_SLOTS + 1];
    size_t k = 0;

    if (n->measuring_pidfd >= 0)
        spared[k++] = n->measuring;
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->zygote != NULL && zygote_pid(j->zygote) > 0 && k <= BOARD_SLOTS)
            spared[k++] = zygote_pid(j->zygote);
    }
    zygote_sweep(spared, k);
}

void job_end_all_now(struct node *n)
{
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->zygote != NULL)
            zygote_stop(j->zygote, END_MS); /* all at once */
    }
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->zygote != NULL && !zygote_end(j->zygote, END_MS))
            pool_run_kill_all(j, "its job has ended");
    }
    zygote_sweep(NULL, 0);
}

void job_destroy(struct job *j)
{
    if (j == NULL)
        return;
    CHECK_MAGIC(j, JOB_MAGIC);
    guest_run_forget_job(j); /* who wrote to its driver after its end */
    job_elsewhere_fini(j);
    zygote_destroy(j->zygote);
    worker_pool_destroy(j->pool);
    free(j->pool_actions.v);
    loop_unwatch(j->pidfd_watch);
    if (j->pidfd >= 0)
        close(j->pidfd);
    if (j->executable_fd >= 0)
        close(j->executable_fd);
    if (j->folder_fd >= 0)
        close(j->folder_fd);
    free(j->environment);
    list_remove(&j->node);
    j->magic = 0;
    free(j);
}
