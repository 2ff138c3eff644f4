/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How processes join: HELLO is checked, the job gets its number and each process its own from the
 * GCS, WELCOME tells them.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "raylet/node_private.h"

#define PROCESSES_BLOCK 256 /* process numbers taken at once */

static void on_processes(void *arg, enum err_code code, uint32_t first, uint32_t count);

static void welcome(struct process *p)
{
    struct node *n = p->node;
    uint8_t buf[sizeof(struct wire_welcome) + 1024];
    struct wire_welcome w = {.protocol = WIRE_PROTOCOL,
                             .job = n->job,
                             .n_cpus = (uint32_t)n->config.num_cpus,
                             .wake_ns = n->machine.wake_ns,
                             .cluster = n->cluster,
                             .node = n->id,
                             .worker = p->id,
                             .slot = p->slot};
    size_t size = sizeof w;
    const char *strings[] = {n->session.dir, "head", p->log_base};

    p->welcomed = true;
    w.process = p->number = n->next_process++;
    n->n_processes--;
    snprintf(w.build, sizeof w.build, NODE_BUILD);
    memcpy(buf, &w, sizeof w);
    for (int i = 0; i < 3; i++) {
        size_t k = strlen(strings[i]) + 1;
        memcpy(buf + size, strings[i], k);
        size += k;
    }
    node_send_fd(p, WIRE_WELCOME, buf, size, p->kind == WIRE_DRIVER ? dup(n->board_fd) : -1);
    store_run_add(p);
    if (p->kind == WIRE_WORKER) /* now it can take a task (INV-5) */
        worker_pool_on_registered(n->pool, p->token, loop_now_ms(), &n->pool_actions);
}

/* Each that said HELLO gets a number of its own, as soon as there are some. */
static void welcome_all(struct node *n)
{
    for (uint32_t s = 0; s < n->n_slots && n->n_processes > 0; s++) {
        struct process *p = n->processes[s];
        if (p != NULL && p->registered && !p->welcomed && p->link != NULL)
            welcome(p);
    }
    if (n->n_processes > 0 || n->job == 0 || n->asked_processes)
        return;
    n->asked_processes = true;
    gcs_client_take_processes(n->gcs, n->job, PROCESSES_BLOCK, on_processes, n);
}

static void on_processes(void *arg, enum err_code code, uint32_t first, uint32_t count)
{
    struct node *n = arg;

    n->asked_processes = false;
    if (code == ERR_CANCELED)
        return;
    if (code != ERR_NONE) {
        log_err("node", "no_process_numbers", "code=%s", err_code_name(code));
        n->asked_processes = true; /* for good: the job has used all it can have */
        return;
    }
    n->next_process = first;
    n->n_processes = count;
    welcome_all(n);
}

static void on_job(void *arg, enum err_code code, uint32_t job)
{
    struct node *n = arg;

    if (code != ERR_NONE) {
        if (code != ERR_CANCELED)
            log_err("node", "no_job_number", "code=%s", err_code_name(code));
        return;
    }
    n->job = job;
    welcome_all(n);
}

static void on_registered_node(void *arg, enum err_code code)
{
    const struct node *n = arg;

    if (code != ERR_NONE && code != ERR_CANCELED)
        log_err("node",
                "not_registered",
                "pid=%d code=%s",
                n->config.driver_pid,
                err_code_name(code));
}

static const char *check_hello(struct process *p, const struct wire_hello *h, enum err_code *code)
{
    const struct node *n = p->node;

    *code = ERR_PROTOCOL;
    if (p->registered)
        return "a second HELLO";
    if (h->kind != (uint32_t)p->kind)
        return "HELLO of another kind of process";
    if (p->kind == WIRE_WORKER && h->token != p->token)
        return "unknown start-up token";
    *code = ERR_VERSION;
    if (h->protocol != WIRE_PROTOCOL)
        return "libray and raylet are of different versions: install one of them again";
    if (p->kind == WIRE_WORKER && n->driver_build[0] != '\0'
        && strncmp(h->build, n->driver_build, sizeof h->build) != 0)
        return "libray was replaced while the program runs: start the program again";
    return NULL;
}

void node_join_on_hello(struct process *p, const uint8_t *body, size_t size)
{
    struct node *n = p->node;
    struct wire_hello h;
    enum err_code code = ERR_PROTOCOL;
    const char *wrong = "malformed HELLO";

    if (size >= sizeof h) {
        memcpy(&h, body, sizeof h);
        wrong = check_hello(p, &h, &code);
    }
    if (wrong != NULL) {
        log_err("node", "refused_hello", "pid=%d msg=\"%s\"", p->pid, wrong);
        p->refused = wrong;
        node_say_error(p, code, wrong);
        node_cut_off(p, wrong);
        return;
    }
    if (p->kind == WIRE_DRIVER) {
        p->pid = h.pid;
        memcpy(n->driver_build, h.build, sizeof n->driver_build);
    }
    p->registered = true;
    welcome_all(n);
}

void node_join_gcs(struct node *n)
{
    struct node_row node = {.id = n->id,
                            .state = NODE_ALIVE,
                            .pid = getpid(),
                            .start_ms = n->start_ms,
                            .n_cpus = (uint32_t)n->config.num_cpus,
                            .name = "head"};
    struct job_row job = {.start_ms = n->start_ms, .driver_pid = n->config.driver_pid};
    char path[40];

    snprintf(path, sizeof path, "/proc/%d/exe", n->config.driver_pid);
    if (readlink(path, job.entry, sizeof job.entry - 1) < 0)
        job.entry[0] = '\0';
    gcs_client_register_node(n->gcs, &node, on_registered_node, n);
    gcs_client_add_job(n->gcs, &job, on_job, n);
}
