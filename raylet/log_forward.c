/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "raylet/node_private.h"

#define TICK_MS     100
#define LOG_PENDING (256u << 10) /* a driver that does not read stops its logs, not the tasks */

static void send_lines(struct job *j,
                       int32_t pid,
                       uint32_t stream,
                       const char *name,
                       const char *text,
                       size_t size)
{
    static uint8_t buf[FRAME_SIZE_MAX + 256];
    struct wire_log w = {.pid = pid, .stream = stream};
    size_t n_name = strlen(name) + 1;

    if (j->driver != NULL && j->driver->is_guest)
        snprintf(w.ip, sizeof w.ip, "%s", cluster_run_ip(j->of));
    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, name, n_name);
    memcpy(buf + sizeof w + n_name, text, size);
    node_send(j->driver, WIRE_LOG, buf, sizeof w + n_name + size);
}

static void on_lines(void *arg, const struct worker_log *log, const char *text, size_t size)
{
    const struct process *p = arg;

    if (log->name[0] != '\0') /* before the first task: of no interest at the terminal */
        send_lines(p->job, p->pid, log->stream, log->name, text, size);
}

static bool driver_reads(const struct job *j)
{
    if (j->driver != NULL && j->driver->is_guest)
        return j->driver->at != NULL && peer_has_room(j->driver->at);
    return j->driver != NULL && j->driver->link != NULL
           && unix_link_pending(j->driver->link) < LOG_PENDING;
}

void log_forward_read(struct process *p, bool last)
{
    struct job *j = p->job;

    if (p->kind != WIRE_WORKER || !j->log_to_driver)
        return;
    for (int i = 0; i < 2; i++)
        while (driver_reads(j) && worker_log_read(&p->logs[i], last, on_lines, p))
            continue;
    if (!driver_reads(j))
        j->logs_stalled = true; /* of a worker that is gone the rest is in the file */
}

static void read_all(struct node *n)
{
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL)
            log_forward_read(n->processes[s], false);
}

static void on_inotify(void *arg, bool readable, bool writable)
{
    struct node *n = arg;
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(n->inotify_fd, buf, sizeof buf);

    (void)readable;
    (void)writable;
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *e = (const void *)(buf + at);
        at += (ssize_t)(sizeof *e + e->len);
        if ((e->mask & IN_Q_OVERFLOW) != 0)
            read_all(n);
        for (uint32_t s = 0; s < n->n_slots; s++) {
            struct process *p = n->processes[s];
            if (p != NULL && (p->log_wd[0] == e->wd || p->log_wd[1] == e->wd))
                log_forward_read(p, false);
        }
    }
}

static void on_tick(void *arg)
{
    read_all(arg);
}

void log_forward_init(struct node *n)
{
    n->inotify_fd = n->config.log_to_driver ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
    if (n->inotify_fd >= 0)
        n->inotify_watch = loop_watch_fd(n->loop, n->inotify_fd, on_inotify, n);
    else if (n->config.log_to_driver) {
        log_warn("log",
                 "no_inotify",
                 "errno=%d msg=\"%s; logs are read every %d ms (fs.inotify.max_user_instances)\"",
                 errno,
                 strerror(errno),
                 TICK_MS);
        n->log_tick = loop_every(n->loop, TICK_MS, on_tick, n);
    }
}

void log_forward_fini(struct node *n)
{
    loop_unwatch(n->inotify_watch);
    loop_timer_end(n->log_tick);
    if (n->inotify_fd >= 0)
        close(n->inotify_fd);
}

void log_forward_add(struct process *p)
{
    for (int i = 0; i < 2 && p->node->inotify_fd >= 0; i++)
        p->log_wd[i] = inotify_add_watch(p->node->inotify_fd, p->logs[i].path, IN_MODIFY);
}

void log_forward_remove(struct process *p)
{
    for (int i = 0; i < 2; i++)
        if (p->log_wd[i] >= 0)
            inotify_rm_watch(p->node->inotify_fd, p->log_wd[i]);
}

void log_forward_resume(const struct process *p)
{
    struct job *j = p->job;

    if (j == NULL || p != j->driver || !j->logs_stalled || !driver_reads(j))
        return;
    j->logs_stalled = false;
    for (uint32_t s = 0; s < j->of->n_slots; s++)
        if (j->of->processes[s] != NULL && j->of->processes[s]->job == j)
            log_forward_read(j->of->processes[s], false);
}

void log_forward_say(struct job *j, const char *text)
{
    if (j->log_to_driver && driver_reads(j))
        send_lines(j, getpid(), 2, "raylet", text, strlen(text));
}
