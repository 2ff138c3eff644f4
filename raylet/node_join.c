/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How processes join: HELLO is checked, the job gets its number and each process its own from the
 * GCS, WELCOME tells them. A driver that comes by the socket brings what its workers are made of.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"

#define PROCESSES_BLOCK 256        /* process numbers taken at once; for a driver alone one */
#define ENVIRONMENT_MAX (4u << 20) /* bytes; exec takes no more in all */

static void on_processes(void *arg, enum err_code code, uint32_t first, uint32_t count);

static uint32_t take_number(struct node *n)
{
    if (n->n_processes == 0) {
        n->next_process = n->spare_process;
        n->n_processes = n->n_spare;
        n->n_spare = 0;
    }
    n->n_processes--;
    return n->next_process++;
}

static void welcome(struct process *p)
{
    struct node *n = p->node;
    uint8_t buf[sizeof(struct wire_welcome) + 1024];
    struct wire_welcome w = {.protocol = WIRE_PROTOCOL,
                             .job = p->job->number,
                             .n_cpus = (uint32_t)n->config.num_cpus,
                             .wake_ns = n->machine.wake_ns,
                             .cluster = n->cluster,
                             .node = n->id,
                             .worker = p->id,
                             .slot = p->slot,
                             .node_number = n->number,
                             .in_cluster = n->peers != NULL};
    size_t size = sizeof w;
    const char *strings[] = {n->session.dir,
                             n->config.node_name != NULL ? n->config.node_name : "head",
                             p->log_base};

    p->welcomed = true;
    w.process = p->number = take_number(n);
    struct process *guess = guest_run_find(n, p->number);
    if (guess != NULL) /* somebody wrote to a number that nobody had */
        guest_run_end(guess);
    word_map_set(&n->by_number, p->number, p->slot + 1);
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
        worker_pool_on_registered(p->job->pool, p->token, loop_now_ms(), &p->job->pool_actions);
}

static bool is_waiting(const struct process *p)
{
    return p != NULL && p->registered && !p->welcomed && p->link != NULL
           && p->job->state == JOB_RUNNING;
}

void node_join_welcome(struct node *n)
{
    bool is_short = false;
    uint32_t block = node_is_drivers(n) ? 1 : PROCESSES_BLOCK;
    /* who has nothing but the others is to find them */
    bool may_begin = !node_is_drivers(n) || cluster_run_is_current(n);

    if (n->number == 0)
        return; /* the cluster's name is not known either */
    for (uint32_t s = 0; s < n->n_slots; s++) {
        if (is_waiting(n->processes[s]) && n->n_processes + n->n_spare > 0 && may_begin)
            welcome(n->processes[s]);
        is_short |= is_waiting(n->processes[s]);
    }
    /* the next block in time: workers start while the GCS is away, too */
    if (n->asked_processes || n->n_spare > 0 || (!is_short && n->n_processes >= block / 2))
        return;
    n->asked_processes = true;
    gcs_client_take_processes(n->gcs, block, on_processes, n);
}

/* Some of these numbers are, or will be, of a living process. */
static bool is_in_use(const struct node *n, const struct held_block *b)
{
    if (n->number - b->first < b->n || (n->n_processes > 0 && n->next_process - b->first < b->n))
        return true;
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL && n->processes[s]->number - b->first < b->n)
            return true;
    return false;
}

static void add_block(struct node *n, uint32_t first, uint32_t count)
{
    size_t kept = 0;

    for (size_t i = 0; i < n->n_blocks; i++)
        if (is_in_use(n, &n->blocks[i]))
            n->blocks[kept++] = n->blocks[i];
    n->blocks = xrealloc(n->blocks, (kept + 1) * sizeof *n->blocks);
    n->blocks[kept] = (struct held_block){.first = first, .n = count};
    n->n_blocks = kept + 1;
}

static void on_processes(void *arg, enum err_code code, uint32_t first, uint32_t count)
{
    struct node *n = arg;

    n->asked_processes = false;
    if (code == ERR_CANCELED)
        return;
    if (code != ERR_NONE) {
        log_err("node", "no_process_numbers", "code=%s", err_code_name(code));
        n->asked_processes = true; /* for good: all that there are have been used */
        return;
    }
    n->spare_process = first;
    n->n_spare = count;
    n->last_process = first + count - 1;
    add_block(n, first, count);
    node_join_welcome(n);
}

static void on_registered_node(void *arg, enum err_code code, uint32_t number)
{
    struct node *n = arg;
    struct err err;

    if (code == ERR_CANCELED)
        return;
    if (code != ERR_NONE) {
        snprintf(err.text,
                 sizeof err.text,
                 "the GCS does not register this node (%s)",
                 err_code_name(code));
        node_end(n, NODE_STATUS_FAILED, err.text);
        return;
    }
    n->number = number;
    add_block(n, number, 1);
    if (node_is_joined(n)) {
        cluster_run_on_registered(n);
        if (!node_is_private(n) && node_begin_listening(n, &err) != 0)
            node_end(n, NODE_STATUS_FAILED, err.text);
    }
    list_for_each(m, &n->jobs)
    {
        struct job *j = list_entry(m, struct job, node);
        if (j->state == JOB_NEW && j->driver->registered && !j->asked_number)
            job_register(j);
    }
    node_join_welcome(n);
}

static const char *check_hello(const struct process *p,
                               const struct wire_hello *h,
                               enum err_code *code)
{
    *code = ERR_PROTOCOL;
    if (p->registered)
        return "a second HELLO";
    if (h->kind != (uint32_t)p->kind)
        return "HELLO of another kind of process";
    if (p->kind == WIRE_WORKER && h->token != p->token)
        return "unknown start-up token";
    *code = ERR_VERSION;
    if (h->protocol != WIRE_PROTOCOL)
        return NODE_OTHER_VERSION;
    if (p->kind == WIRE_WORKER && p->job->build[0] != '\0'
        && strncmp(h->build, p->job->build, sizeof h->build) != 0)
        return "libray was replaced while the program runs: start the program again";
    return NULL;
}

/* --- drivers that come by the socket --- */

/* It cannot change any more, and a read of it cannot hang. */
static int read_environment(int fd, char **out, size_t *size, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & F_SEAL_WRITE) == 0 || (seals & F_SEAL_SHRINK) == 0
        || fstat(fd, &st) != 0)
        return err_set(err, ERR_PROTOCOL, "the environment came in no sealed memory");
    if (st.st_size > ENVIRONMENT_MAX)
        return err_set(err,
                       ERR_FULL,
                       "the program's environment has %lld bytes, at most %u: unset what is large",
                       (long long)st.st_size,
                       ENVIRONMENT_MAX);
    char *text = try_alloc(NULL, (size_t)st.st_size + 1);
    if (text == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the program's environment");
    text[st.st_size] = '\0';
    if (pread(fd, text, (size_t)st.st_size, 0) != st.st_size) {
        err_sys(err, "read the program's environment");
        free(text);
        return -1;
    }
    *out = text;
    *size = (size_t)st.st_size;
    return 0;
}

static int check_parts(const struct node_join_parts *parts, struct err *err)
{
    struct stat st;

    if (parts->executable_fd < 0 || parts->folder_fd < 0 || parts->environment_fd < 0)
        return err_set(err,
                       ERR_PROTOCOL,
                       "the executable, its folder or its environment is missing: the raylet may "
                       "have no descriptor left (ulimit -n)");
    if (fstat(parts->executable_fd, &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(err, ERR_PROTOCOL, "the executable is no regular file");
    if (fstat(parts->folder_fd, &st) != 0 || !S_ISDIR(st.st_mode))
        return err_set(err, ERR_PROTOCOL, "the folder is none");
    return 0;
}

int node_join_driver(struct node *n,
                     struct unix_link *link,
                     const struct wire_hello *hello,
                     struct node_join_parts *parts,
                     struct err *err)
{
    char *environment = NULL;
    size_t size = 0;
    struct process *p = NULL;

    if (check_parts(parts, err) != 0
        || read_environment(parts->environment_fd, &environment, &size, err) != 0)
        return -1;
    p = node_add_link(n, WIRE_DRIVER, link);
    if (p == NULL) {
        free(environment);
        return err_set(err,
                       ERR_FULL,
                       "the raylet serves as many processes as it can (%d): try again later",
                       BOARD_SLOTS);
    }
    struct job *j = job_begin(p, parts->pid, parts->pidfd, parts->executable_fd);
    j->folder_fd = parts->folder_fd;
    j->environment = environment;
    j->environment_size = size;
    j->log_to_driver = n->config.log_to_driver && (hello->flags & WIRE_HELLO_NO_LOG) == 0;
    parts->pidfd = parts->executable_fd = parts->folder_fd = -1;
    struct err own;
    if (store_run_greet_driver(p, &own) != 0) {
        node_say_error(p, own.code, own.text);
        node_cut_off(p, own.text);
        return 0;
    }
    node_join_on_hello(p, (const uint8_t *)hello, sizeof *hello);
    node_read_on(p);
    return 0;
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
    if (p->kind == WIRE_DRIVER)
        memcpy(p->job->build, h.build, sizeof p->job->build);
    p->registered = true;
    if (p->kind == WIRE_DRIVER && (!node_is_private(n) || node_is_joined(n)) && n->number > 0)
        job_register(p->job);
    node_join_welcome(n);
}

void node_join_gcs(struct node *n)
{
    struct node_row node = {.id = n->id,
                            .state = NODE_ALIVE,
                            .pid = getpid(),
                            .start_ms = n->start_ms,
                            .n_cpus = (uint32_t)n->config.num_cpus,
                            .name = "head"};

    if (node_is_joined(n))
        cluster_run_fill_row(n, &node);
    gcs_client_register_node(n->gcs, &node, on_registered_node, n);
}
