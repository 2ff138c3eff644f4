/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/ray/ask.h"
#include "cmd/ray/commands.h"
#include "cmd/ray/nodes.h"
#include "cmd/ray/query.h"
#include "cmd/ray/select.h"
#include "cmd/ray/watch.h"
#include "gcs/job_codec.h"
#include "gcs/query_codec.h"
#include "lib/base/flags.h"
#include "lib/base/id.h"

/* --- nodes --- */

static json_t *label_value(const char *text, size_t n)
{
    char value[NODE_LABELS_MAX];

    snprintf(value, sizeof value, "%.*s", (int)n, text);
    return text_as_json(value);
}

static json_t *labels_as_json(const char *text)
{
    json_t *labels = json_object();

    while (*text != '\0') {
        size_t n = strcspn(text, ","), key = strcspn(text, "=,");
        char name[NODE_LABELS_MAX];
        if (text[key] == '=') {
            snprintf(name, sizeof name, "%.*s", (int)key, text);
            json_object_set_new(labels, name, label_value(text + key + 1, n - key - 1));
        }
        text += n + (text[n] == ',');
    }
    return labels;
}

json_t *nodes_as_json(const struct node_row *rows, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        const struct node_row *r = &rows[i];
        char id[ID_HEX_MAX];
        json_t *resources = json_object();
        id_hex(r->id.bytes, sizeof r->id.bytes, id);
        for (uint32_t k = 0; k < r->n_resources; k++)
            json_object_set_new(resources, r->resources[k].name, json_real(r->resources[k].amount));
        json_array_append_new(
            list,
            json_pack("{s:s, s:o, s:i, s:i, s:b, s:b, s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:I}",
                      "node_id",
                      id,
                      "node_ip",
                      text_as_json(r->address),
                      "node_manager_port",
                      (int)r->node_port,
                      "object_manager_port",
                      (int)r->object_port,
                      "is_head_node",
                      r->is_head != 0,
                      "is_driver_node",
                      r->is_driver != 0,
                      "state",
                      r->state == NODE_ALIVE ? "ALIVE" : "DEAD",
                      "state_message",
                      text_as_json(r->death),
                      "node_name",
                      text_as_json(r->name),
                      "hostname",
                      text_as_json(r->hostname),
                      "resources_total",
                      resources,
                      "labels",
                      labels_as_json(r->labels),
                      "start_time_ms",
                      (json_int_t)r->start_ms,
                      "end_time_ms",
                      (json_int_t)r->end_ms));
    }
    return list;
}

static json_t *read_nodes(struct ask *a, struct err *err)
{
    struct node_row *rows;
    json_t *list = NULL;
    void *reply;
    size_t size, n;

    if (ask_call(a, QUERY_NODES, NULL, 0, &reply, &size, err) != 0)
        return NULL;
    if (query_nodes_of(reply, size, &rows, &n, err) == 0) {
        list = nodes_as_json(rows, n);
        free(rows);
    }
    free(reply);
    return list;
}

static json_t *list_nodes(const struct config *c, int timeout_ms, bool *is_whole, struct err *err)
{
    struct ask *a = ask_open(c, timeout_ms, err);
    json_t *list = a != NULL ? read_nodes(a, err) : NULL;

    *is_whole = true; /* one answer has all */
    ask_close(a);
    return list;
}

/* --- jobs --- */

json_t *jobs_as_json(const struct query_job *rows, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        uint8_t bytes[4];
        char id[ID_HEX_MAX];
        job_id_bytes(rows[i].number, bytes);
        id_hex(bytes, sizeof bytes, id);
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:s, s:o, s:o, s:i, s:I, s:I}",
                                        "job_id",
                                        id,
                                        "job",
                                        (int)rows[i].number,
                                        "status",
                                        rows[i].row.end_ms != 0 ? "FINISHED" : "RUNNING",
                                        "entrypoint",
                                        text_as_json(rows[i].row.entry),
                                        "driver_ip",
                                        text_as_json(rows[i].row.driver_address),
                                        "driver_pid",
                                        (int)rows[i].row.driver_pid,
                                        "start_time_ms",
                                        (json_int_t)rows[i].row.start_ms,
                                        "end_time_ms",
                                        (json_int_t)rows[i].row.end_ms));
    }
    return list;
}

static json_t *read_jobs(struct ask *a, struct err *err)
{
    struct query_job *rows;
    json_t *list = NULL;
    void *reply;
    size_t size, n;

    if (ask_call(a, QUERY_JOBS, NULL, 0, &reply, &size, err) != 0)
        return NULL;
    if (query_jobs_of(reply, size, &rows, &n, err) == 0) {
        list = jobs_as_json(rows, n);
        free(rows);
    }
    free(reply);
    return list;
}

static json_t *list_jobs(const struct config *c, int timeout_ms, bool *is_whole, struct err *err)
{
    struct ask *a = ask_open(c, timeout_ms, err);
    json_t *list = a != NULL ? read_jobs(a, err) : NULL;

    *is_whole = true; /* one answer has all */
    ask_close(a);
    return list;
}

/* --- workers: of all nodes --- */

static const char *const states[] = {[WHY_PROCESS_STARTING] = "starting",
                                     [WHY_PROCESS_IDLE] = "idle",
                                     [WHY_PROCESS_LEASED] = "leased",
                                     [WHY_PROCESS_BLOCKED] = "blocked",
                                     [WHY_PROCESS_DRIVER] = "driver"};

static json_t *worker_as_json(const struct why_node *node, const struct why_process *p)
{
    char id[ID_HEX_MAX], node_id[ID_HEX_MAX];
    uint8_t bytes[4];
    char job[ID_HEX_MAX];

    job_id_bytes(p->job, bytes);
    return json_pack("{s:i, s:i, s:s, s:s, s:i, s:s, s:s, s:o, s:o, s:s, s:o, s:I, s:o, s:b, "
                     "s:s, s:o}",
                     "process",
                     (int)p->number,
                     "pid",
                     (int)p->pid,
                     "worker_id",
                     id_hex(p->id.bytes, sizeof p->id.bytes, id),
                     "worker_type",
                     p->kind == WIRE_DRIVER ? "DRIVER" : "WORKER",
                     "job",
                     (int)p->job,
                     "job_id",
                     id_hex(bytes, sizeof bytes, job),
                     "node_id",
                     id_hex(node->id.bytes, sizeof node->id.bytes, node_id),
                     "node_name",
                     text_as_json(node->name),
                     "ip",
                     text_as_json(node->address),
                     "state",
                     states[p->state],
                     "function",
                     text_as_json(p->name),
                     "leased_ms",
                     (json_int_t)p->leased_ms,
                     "running_ms",
                     p->running_slot > 0 ? json_integer((json_int_t)p->running_ms) : json_null(),
                     "is_alive",
                     1,
                     "exit_detail",
                     "",
                     "ended_ms",
                     json_null());
}

static json_t *dead_as_json(const struct why_node *node, const struct why_dead *d)
{
    struct why_process p = {.number = d->number,
                            .pid = d->pid,
                            .id = d->id,
                            .job = d->job,
                            .kind = WIRE_WORKER,
                            .state = WHY_PROCESS_DRIVER};
    json_t *row;

    memcpy(p.name, d->name, sizeof p.name);
    row = worker_as_json(node, &p);
    json_object_set_new(row, "state", json_string("dead"));
    json_object_set_new(row, "is_alive", json_false());
    json_object_set_new(row, "exit_detail", text_as_json(d->how));
    json_object_set_new(row, "ended_ms", json_integer((json_int_t)d->ended_ms));
    return row;
}

static json_t *list_workers(const struct config *c, int timeout_ms, bool *is_whole, struct err *err)
{
    json_t *list = NULL;
    struct nodes all;

    if (nodes_ask(c, timeout_ms, &all, err) != 0)
        return NULL;
    list = json_array();
    for (size_t i = 0; i < all.n; i++)
        for (size_t k = 0; k < all.v[i].state.n_processes; k++)
            json_array_append_new(list, worker_as_json(&all.v[i], &all.v[i].state.processes[k]));
    for (size_t i = 0; i < all.n; i++)
        for (size_t k = 0; k < all.v[i].state.n_dead; k++)
            json_array_append_new(list, dead_as_json(&all.v[i], &all.v[i].state.dead[k]));
    *is_whole = nodes_report(&all, "ray list");
    nodes_fini(&all);
    return list;
}

/* --- the command --- */

static const char *const node_columns[] = {"node_id",
                                           "node_ip",
                                           "is_head_node",
                                           "is_driver_node",
                                           "state",
                                           "node_name",
                                           "resources_total",
                                           "labels",
                                           "state_message",
                                           NULL};
static const char *const worker_columns[] = {"node_name",
                                             "pid",
                                             "worker_id",
                                             "worker_type",
                                             "job",
                                             "state",
                                             "function",
                                             "exit_detail",
                                             NULL};
static const char *const job_columns[] =
    {"job_id", "job", "status", "entrypoint", "driver_ip", "driver_pid", NULL};

static const struct watch_kind watched_nodes = {
    QUERY_CHANNEL_NODES,
    read_nodes,
    "node_id",
    "state",
    "DEAD",
    node_columns,
    {"node_id", "node_ip", "node_name", "state", "state_message"}};
static const struct watch_kind watched_jobs = {
    QUERY_CHANNEL_JOBS,
    read_jobs,
    "job_id",
    "status",
    "FINISHED",
    job_columns,
    {"job_id", "job", "status", "entrypoint", "driver_ip"}};

static const struct kind {
    const char *name;
    /* is_whole: nobody who was asked is silent; who is, is on stderr */
    json_t *(*list)(const struct config *c, int timeout_ms, bool *is_whole, struct err *err);
    const char *const *columns;
    const struct watch_kind *watched; /* NULL: it cannot be */
} kinds[] = {
    {"nodes", list_nodes, node_columns, &watched_nodes},
    {"workers", list_workers, worker_columns, NULL},
    {"jobs", list_jobs, job_columns, &watched_jobs},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static int watch_kind(const struct kind *k, const struct config *c, const struct query_flags *q)
{
    struct err err;
    struct ask *a = ask_open(c, q->timeout_ms, &err);

    if (a != NULL)
        watch(a, k->watched, q->is_json, &err);
    ask_close(a);
    fprintf(stderr, "ray list: %s\n", err.text);
    return 1;
}

/* Which rows, and how much of each. */
struct selection {
    struct flag_words filters;
    const char *limit;
    bool is_detailed, is_watched;
};

/* With all keys of a row as columns, if there is a row. */
static void print_detailed(const json_t *rows, const struct kind *k)
{
    const char *columns[QUERY_COLUMNS_MAX + 1], *key;
    size_t n = 0;
    json_t *value;

    json_object_foreach(json_array_get(rows, 0), key, value) if (n < QUERY_COLUMNS_MAX)
        columns[n++] = key;
    columns[n] = NULL;
    print_table(rows, n > 0 ? columns : k->columns);
}

static void print_rows(const json_t *rows,
                       const struct kind *k,
                       const struct query_flags *q,
                       bool is_detailed)
{
    if (q->is_json) {
        json_dumpf(rows, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        putchar('\n');
    } else if (is_detailed) {
        print_detailed(rows, k);
    } else {
        print_table(rows, k->columns);
    }
}

static int list(const struct flags *f,
                const struct kind *k,
                const struct config *c,
                const struct query_flags *q,
                const struct selection *s)
{
    struct err err;
    bool is_whole;
    char *end;
    int64_t limit = s->limit != NULL ? strtoll(s->limit, &end, 10) : SELECT_ALL;

    if (s->limit != NULL && (s->limit[0] < '0' || s->limit[0] > '9' || *end != '\0'))
        return flags_refuse(f, "--limit must be a number of rows, not %.40s", s->limit);
    json_t *rows = k->list(c, q->timeout_ms, &is_whole, &err);
    if (rows == NULL) {
        fprintf(stderr, "ray list: %s\n", err.text);
        return 1;
    }
    int64_t n_left_out = select_rows(rows, &s->filters, limit, &err);
    if (n_left_out >= 0)
        print_rows(rows, k, q, s->is_detailed);
    json_decref(rows);
    if (n_left_out < 0)
        return flags_refuse(f, "%s", err.text);
    if (n_left_out > 0)
        fprintf(stderr, "ray list: %lld more; see --limit\n", (long long)n_left_out);
    return is_whole ? 0 : 1;
}

/* The kind is the first word; flags may stand before and behind it. */
int list_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    struct selection s = {.limit = NULL};
    const struct flag table[] = {
        QUERY_FLAGS(q),
        {.name = "filter",
         .letter = 'f',
         .words = &s.filters,
         .unit = "KEY=VALUE",
         .help = "only rows of which it is true, or KEY!=VALUE; may be "
                 "given again, then all must be; keys as in json"},
        {.name = "limit", .text = &s.limit, .help = "so many rows (all)"},
        {.name = "detail", .on = &s.is_detailed, .help = "all columns, as json always has them"},
        {.name = "watch",
         .on = &s.is_watched,
         .help = "nodes or jobs, then each change as it comes, until it "
                 "is ended"},
        {.name = NULL}};
    const struct flags f = {.command = "ray list",
                            .summary = "nodes, workers or jobs of a cluster: ray list nodes",
                            .notes =
                                "Workers are told by their nodes, who have 2 s for it: one that "
                                "does not answer is named,\nand the exit status is 1.",
                            .table = table};
    const char *word = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL, *near;
    struct config c;
    int rc;

    if (word != NULL) {
        argv++;
        argc--;
    }
    rc = query_parse(&f, argc, argv, &c, &q);
    if (rc != FLAGS_GO_ON)
        return rc;
    if (word == NULL)
        return flags_refuse(&f, "say what: nodes, workers or jobs");
    for (size_t i = 0; i < N_KINDS; i++) {
        if (strcmp(word, kinds[i].name) != 0)
            continue;
        if (!s.is_watched)
            return list(&f, &kinds[i], &c, &q, &s);
        if (kinds[i].watched == NULL)
            return flags_refuse(&f, "%s cannot be watched; nodes and jobs can", word);
        if (s.filters.n > 0 || s.limit != NULL || s.is_detailed)
            return flags_refuse(&f, "--watch tells all: leave --filter, --limit and --detail out");
        return watch_kind(&kinds[i], &c, &q);
    }
    near = flags_nearest(word, (const char *const[]){"nodes", "workers", "jobs", NULL});
    if (near != NULL)
        return flags_refuse(&f, "%.60s cannot be listed; did you mean %s?", word, near);
    return flags_refuse(&f, "%.60s cannot be listed; nodes, workers and jobs can", word);
}
