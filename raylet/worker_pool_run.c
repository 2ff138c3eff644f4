/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's life: spawn asks the zygote for a fork, SPAWNED gives its pid and its logs their
 * names, HELLO on its link registers it (node.c), EXITED comes when the zygote has reaped it and
 * killed what it left behind. Each way out goes through gone().
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"

/* The worker at this slot; NULL: none, or another job's. */
static struct process *worker_at(const struct job *j, uint32_t slot)
{
    struct process *p = j->of->processes[slot];

    return p != NULL && p->kind == WIRE_WORKER && p->job == j ? p : NULL;
}

static struct process *by_token(const struct job *j, uint64_t token)
{
    for (uint32_t s = 0; s < j->of->n_slots; s++)
        if (worker_at(j, s) != NULL && worker_at(j, s)->token == token)
            return worker_at(j, s);
    return NULL;
}

static struct process *by_pid(const struct job *j, int32_t pid)
{
    for (uint32_t s = 0; s < j->of->n_slots; s++)
        if (worker_at(j, s) != NULL && worker_at(j, s)->pid == pid)
            return worker_at(j, s);
    return NULL;
}

/* --- birth --- */

static int make_logs(struct process *p, struct err *err)
{
    static const char *const ends[] = {"out", "err"};
    char path[320];

    for (int i = 0; i < 2; i++) {
        snprintf(path,
                 sizeof path,
                 "%s/.starting-%u-%llu.%s",
                 p->node->session.logs,
                 p->job->id,
                 (unsigned long long)p->token,
                 ends[i]);
        if (worker_log_create(&p->logs[i], path, (uint32_t)i + 1, err) != 0)
            return -1;
    }
    return 0;
}

static int spawn(struct job *j, uint64_t token, struct err *err)
{
    int pair[2], fds[ZYGOTE_PARTS] = {-1, -1, -1, -1};

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, "make a socket for a worker");
    fds[0] = pair[1];
    struct process *p = node_add_process(j->of, WIRE_WORKER, pair[0]);
    if (p == NULL) {
        close(pair[1]);
        return err_set(err, ERR_FULL, "a node has at most %d processes", BOARD_SLOTS);
    }
    p->job = j;
    p->token = token;
    if (make_logs(p, err) != 0 || store_run_make_control(p, &fds[3], err) != 0)
        goto fail;
    for (int i = 0; i < 2; i++)
        if ((fds[i + 1] = dup(p->logs[i].fd)) < 0) {
            err_sys(err, "hand a worker its log");
            goto fail;
        }
    if (zygote_spawn(j->zygote, token, p->slot, fds, err) == 0)
        return 0;
    node_free_process(p);
    return -1;
fail:
    for (int i = 0; i < ZYGOTE_PARTS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    node_free_process(p);
    return -1;
}

/* --- death --- */

size_t pool_run_describe_death(const struct process *p, int status, char *out, size_t size)
{
    int n;

    if (WIFSIGNALED(status))
        n = snprintf(out,
                     size,
                     "worker pid=%d was killed by signal %d (%s)",
                     p->pid,
                     WTERMSIG(status),
                     err_signal_name(WTERMSIG(status)));
    else
        n = snprintf(out, size, "worker pid=%d exited with status %d", p->pid, WEXITSTATUS(status));
    if (p->cut && n > 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, ": the raylet ended it, %s", p->cut_why);
    if (n < 0 || (size_t)n + 2 >= size)
        return strlen(out);
    int k = snprintf(out + n + 1, size - (size_t)n - 1, "%s.err", p->log_base);
    return (size_t)n + 1 + strnlen(out + n + 1, k > 0 ? (size_t)k : 0);
}

static void say_end(const struct process *p, int status, char *out, size_t size)
{
    bool is_over = p->job->state >= JOB_ENDING;

    if (!WIFSIGNALED(status) && WEXITSTATUS(status) == 0 && p->is_to_exit)
        snprintf(out, size, "ended when it was asked to: nothing was left for it to do");
    else if (!WIFSIGNALED(status))
        snprintf(out, size, "exited with status %d", WEXITSTATUS(status));
    else if (WTERMSIG(status) == SIGKILL && (p->killed_for != NULL || is_over))
        snprintf(out,
                 size,
                 "was killed by its raylet: %s",
                 p->killed_for != NULL ? p->killed_for : "its job has ended");
    else
        snprintf(out,
                 size,
                 "was killed by signal %d (%s), not by its raylet%s",
                 WTERMSIG(status),
                 err_signal_name(WTERMSIG(status)),
                 WTERMSIG(status) == SIGKILL ? ": by a user, or by the kernel, out of memory" : "");
}

/* Before its lease is forgotten. */
static void remember(const struct process *p, int status)
{
    struct node *n = p->node;
    struct why_dead w = {.number = p->number,
                         .pid = p->pid,
                         .job = p->job->number,
                         .id = p->id,
                         .ended_ms = loop_now_ms()};
    struct lease_held held;

    if (p->pid <= 0) /* it never was */
        return;
    if (lease_look_at(n->leases, p->slot, &held))
        memcpy(w.name, held.name, strnlen(held.name, sizeof w.name - 1));
    say_end(p, status, w.how, sizeof w.how);
    dead_workers_add(n->dead_workers, &w);
}

/* A process that never said HELLO tells by its last words why not. */
static void explain_start(struct process *p, int status)
{
    char last[160], how[400];

    if (p->refused != NULL) { /* it is cut off: its own words may be missing */
        snprintf(p->job->why, sizeof p->job->why, "%s", p->refused);
        return;
    }
    if (p->registered || p->pid <= 0)
        return;
    worker_log_tail(&p->logs[1], last, sizeof last);
    pool_run_describe_death(p, status, how, sizeof how);
    snprintf(p->job->why,
             sizeof p->job->why,
             "%.120s before it could serve%s%s",
             how,
             last[0] != '\0' ? ", saying: " : "",
             last);
}

/* A node lives long and its workers do not: those that ended as they should, without a word, leave
 * no files. The files of one that died are named where its death is told. */
static void tidy_logs(const struct process *p, int status)
{
    bool is_told = p->pid > 0 && status != 0 && !p->is_to_exit && p->job->state < JOB_ENDING;

    for (int i = 0; i < 2 && !is_told; i++)
        worker_log_remove_empty(&p->logs[i]);
}

/* Its process is reaped or was never made: tell owners, forget it. */
static void gone(struct process *p, int status)
{
    struct node *n = p->node;
    struct job *j = p->job;
    uint64_t now = loop_now_ms(), token = p->token;

    node_read_rest(p);
    log_forward_read(p, true);
    explain_start(p, status);
    remember(p, status);
    tidy_logs(p, status);
    log_info("node", "worker_exited", "pid=%d status=0x%x", p->pid, status);
    lease_worker_died(n->leases, p->slot, now, &n->lease_actions);
    lease_run(n, status, p); /* the notices need the control block */
    lease_owner_died(n->leases, p->slot, now, &n->lease_actions);
    node_free_process(p);
    worker_pool_on_exit(j->pool, token, now, &j->pool_actions);
}

/* --- the zygote's word --- */

static void on_spawned(void *arg, const struct wire_spawned *w, int pidfd)
{
    struct job *j = arg;
    struct process *p = by_token(j, w->token);
    char id[ID_HEX_MAX], path[320];

    if (p == NULL || p->pid > 0) {
        if (pidfd >= 0)
            close(pidfd);
        return;
    }
    p->pidfd = pidfd;
    if (w->pid <= 0) {
        snprintf(j->why,
                 sizeof j->why,
                 "cannot fork a worker: %s; raise the limits of processes (ulimit -u), open files "
                 "(ulimit -n) or memory",
                 err_errno_name(w->error));
        log_err("node", "fork_failed", "errno=%d msg=\"%s\"", w->error, err_errno_name(w->error));
        gone(p, 0);
        return;
    }
    p->pid = w->pid;
    id_hex(p->id.bytes, sizeof p->id.bytes, id);
    snprintf(p->log_base,
             sizeof p->log_base,
             "%s/worker-%s-%02x%02x%02x%02x-%d",
             j->of->session.logs,
             id,
             j->number & 0xff,
             j->number >> 8 & 0xff,
             j->number >> 16 & 0xff,
             j->number >> 24,
             w->pid);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s.%s", p->log_base, i == 0 ? "out" : "err");
        worker_log_rename(&p->logs[i], path);
    }
    log_forward_add(p);
    if (p->link == NULL)
        pool_run_kill(p, NULL); /* it closed its link before we knew its pid */
}

static void on_exited(void *arg, int32_t pid, int status)
{
    struct job *j = arg;
    struct process *p = pid > 0 ? by_pid(j, pid) : NULL;

    if (p != NULL)
        gone(p, status);
}

/* Its workers die with it by their parent-death signal, and are ours to reap. */
void pool_run_bury_all(struct job *j)
{
    pool_run_kill_all(j,
                      j->state >= JOB_ENDING ? "its job has ended" : "its job's zygote has died");
    for (uint32_t s = 0; s < j->of->n_slots; s++) {
        struct process *p = worker_at(j, s);
        int status = SIGKILL;
        if (p == NULL)
            continue;
        if (p->pid > 0 && waitpid(p->pid, &status, 0) != p->pid)
            status = SIGKILL;
        gone(p, status);
    }
    job_sweep(j->of);
}

static void on_zygote_died(void *arg)
{
    struct job *j = arg;

    pool_run_bury_all(j);
    j->zygote_gone = j->of->jobs_changed = true;
    snprintf(j->why, sizeof j->why, "%s", zygote_why(j->zygote));
}

const struct zygote_ops pool_run_zygote_ops = {
    .spawned = on_spawned,
    .exited = on_exited,
    .died = on_zygote_died,
};

/* Without a pidfd, at the limit of descriptors: the number is its own as long as its parent has not
 * reaped it, and its parent is the zygote or, when that has died, this process. */
void pool_run_kill(struct process *p, const char *why)
{
    if (p->pid <= 0)
        return;
    if (p->killed_for == NULL)
        p->killed_for = why;
    if (p->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
    else if (zygote_is_parent(p->job->zygote, p->pid))
        kill(p->pid, SIGKILL);
}

void pool_run_kill_all(const struct job *j, const char *why)
{
    for (uint32_t s = 0; s < j->of->n_slots; s++)
        if (worker_at(j, s) != NULL)
            pool_run_kill(worker_at(j, s), why);
}

/* --- what the pool decides --- */

static void fail_starts(struct job *j)
{
    struct node *n = j->of;
    struct worker_pool_stats stats;
    struct lease_stats leases;
    char text[480];

    worker_pool_get_stats(j->pool, &stats);
    lease_get_stats(n->leases, j->id, &leases);
    snprintf(text,
             sizeof text,
             "no worker can be started: %s",
             j->why[0] != '\0' ? j->why : "the program ends before it can serve as a worker");
    log_err("node",
            "workers_do_not_start",
            "n_workers=%u msg=\"%s\"",
            stats.n_idle + stats.n_leased,
            text);
    /* while others get on it is a shortage: owners ask again; those that wait for what needs this
     * worker never would */
    j->start_code = stats.n_idle + stats.n_leased > leases.n_blocked ? ERR_FULL : ERR_START_FAILED;
    lease_worker_failed(n->leases, j->id, text, loop_now_ms(), &n->lease_actions);
    lease_run(n, 0, NULL);
}

static void run(struct job *j, const struct worker_pool_action *a)
{
    struct node *n = j->of;
    struct process *p = by_token(j, a->token);
    uint64_t now = loop_now_ms();
    struct err err;

    switch (a->kind) {
    case WORKER_POOL_SPAWN:
        if (spawn(j, a->token, &err) == 0)
            break;
        log_err("node", "spawn_failed", "msg=\"%s\"", err.text);
        snprintf(j->why, sizeof j->why, "%s", err.text);
        worker_pool_on_exit(j->pool, a->token, now, &j->pool_actions);
        break;
    case WORKER_POOL_GRANT:
        if (p != NULL)
            lease_worker_ready(n->leases, j->id, p->slot, now, &n->lease_actions);
        else /* it died meanwhile */
            worker_pool_request(j->pool, now, &j->pool_actions);
        break;
    case WORKER_POOL_EXIT: {
        struct wire_exit w = {.may_stay = a->may_stay};
        if (p != NULL)
            p->is_to_exit = true;
        node_send(p, WIRE_EXIT, &w, sizeof w);
        break;
    }
    case WORKER_POOL_KILL:
        if (p != NULL)
            pool_run_kill(p,
                          p->is_to_exit ? "it did not end when it was asked to"
                                        : "it did not start in time");
        break;
    case WORKER_POOL_FAIL:
        fail_starts(j);
        break;
    }
}

void pool_run(struct job *j)
{
    for (size_t i = 0; i < j->pool_actions.n; i++) { /* grows meanwhile */
        struct worker_pool_action a = j->pool_actions.v[i];
        run(j, &a);
    }
    j->pool_actions.n = 0;
}
