/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cmd/ray/ask.h"
#include "cmd/ray/commands.h"
#include "cmd/ray/query.h"
#include "gcs/job_codec.h"
#include "gcs/query_codec.h"
#include "lib/base/flags.h"
#include "lib/base/id.h"
#include "raylet/client.h"
#include "raylet/node_file.h"

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
            json_pack("{s:s, s:o, s:i, s:i, s:b, s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:I}",
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

static json_t *list_nodes(const struct config *c, int timeout_ms, struct err *err)
{
    struct ask *a = ask_open(c, timeout_ms, err);
    struct node_row *rows;
    json_t *list = NULL;
    void *reply;
    size_t size, n;

    if (a != NULL && ask_call(a, QUERY_NODES, NULL, 0, &reply, &size, err) == 0) {
        if (query_nodes_of(reply, size, &rows, &n, err) == 0) {
            list = nodes_as_json(rows, n);
            free(rows);
        }
        free(reply);
    }
    ask_close(a);
    return list;
}

/* --- jobs --- */

static json_t *list_jobs(const struct config *c, int timeout_ms, struct err *err)
{
    struct ask *a = ask_open(c, timeout_ms, err);
    struct query_job *rows;
    json_t *list = NULL;
    void *reply;
    size_t size, n;

    if (a != NULL && ask_call(a, QUERY_JOBS, NULL, 0, &reply, &size, err) == 0) {
        if (query_jobs_of(reply, size, &rows, &n, err) == 0) {
            list = json_array();
            for (size_t i = 0; i < n; i++) {
                uint8_t bytes[4];
                char id[ID_HEX_MAX];
                job_id_bytes(rows[i].number, bytes);
                id_hex(bytes, sizeof bytes, id);
                json_array_append_new(list,
                                      json_pack("{s:s, s:s, s:o, s:o, s:i, s:I, s:I}",
                                                "job_id",
                                                id,
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
            free(rows);
        }
        free(reply);
    }
    ask_close(a);
    return list;
}

/* --- workers: of this machine's raylet --- */

static json_t *workers_of(struct raylet_client *link, int timeout_ms, struct err *err)
{
    struct wire_books books = {0};
    struct frame f;
    char node[ID_HEX_MAX];
    int rc;

    if (raylet_client_send(link, WIRE_BOOKS_ASK, NULL, 0, err) != 0)
        return NULL;
    while ((rc = raylet_client_next(link, timeout_ms, &f, err)) == 1 && f.h.type != WIRE_BOOKS)
        if (f.fd >= 0)
            close(f.fd);
    if (rc <= 0) {
        if (rc == 0)
            err_set(err, ERR_TIMEOUT, "the raylet did not answer within %d ms", timeout_ms);
        return NULL;
    }
    memcpy(&books, f.body, f.body_size < sizeof books ? f.body_size : sizeof books);
    size_t size = books.n_processes * sizeof(struct wire_books_process);
    if (f.fd < 0 || !books.is_whole || lseek(f.fd, 0, SEEK_END) < (off_t)size) {
        if (f.fd >= 0)
            close(f.fd);
        err_set(err,
                ERR_PROTOCOL,
                "the raylet's books are malformed, or it has no memory for them");
        return NULL;
    }
    json_t *list = json_array();
    const struct wire_books_process *p =
        size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, f.fd, 0) : NULL;
    close(f.fd);
    id_hex(raylet_client_welcome(link)->node.bytes, ID_UNIQUE_SIZE, node);
    for (uint32_t i = 0; i < books.n_processes && p != MAP_FAILED; i++)
        if (p[i].kind != 0) /* else it is of another node */
            json_array_append_new(list,
                                  json_pack("{s:i, s:i, s:s, s:s, s:b, s:i}",
                                            "process",
                                            (int)p[i].process,
                                            "pid",
                                            (int)p[i].pid,
                                            "worker_type",
                                            p[i].kind == WIRE_DRIVER ? "DRIVER" : "WORKER",
                                            "node_id",
                                            node,
                                            "is_alive",
                                            1,
                                            "job",
                                            (int)p[i].job));
    if (size > 0 && p != MAP_FAILED)
        munmap((void *)(uintptr_t)p, size);
    return list;
}

/* The newest session of this user here; with an address, that of a node of its cluster. */
static int find_session(const struct config *c, char dir[RAYLET_CLIENT_PATH], struct err *err)
{
    const char *address = config_text(c, CONFIG_ADDRESS), *temp = config_text(c, CONFIG_TEMP_DIR);
    size_t n, i = 0;

    if (strchr(address, ':') == NULL)
        return raylet_client_find(temp, dir, NULL, err);
    struct node_file *nodes = node_file_list(temp, &n);
    while (i < n && strcmp(nodes[i].gcs_address, address) != 0)
        i++;
    if (i < n)
        snprintf(dir, RAYLET_CLIENT_PATH, "%s", nodes[i].session_dir);
    free(nodes);
    if (i < n)
        return 0;
    return err_set(err,
                   ERR_NOT_FOUND,
                   "no node of yours of the cluster %.100s runs here (looked in %.100s): workers "
                   "are listed on their machine",
                   address,
                   temp);
}

static json_t *list_workers(const struct config *c, int timeout_ms, struct err *err)
{
    char dir[RAYLET_CLIENT_PATH];
    json_t *list = NULL;

    if (find_session(c, dir, err) != 0)
        return NULL;
    struct raylet_client *link = raylet_client_open(dir, timeout_ms, err);
    if (link != NULL)
        list = workers_of(link, timeout_ms, err);
    raylet_client_close(link);
    return list;
}

/* --- the command --- */

static const struct kind {
    const char *name;
    json_t *(*list)(const struct config *c, int timeout_ms, struct err *err);
    const char *columns[10];
} kinds[] = {
    {"nodes",
     list_nodes,
     {"node_id",
      "node_ip",
      "is_head_node",
      "state",
      "node_name",
      "resources_total",
      "labels",
      "state_message"}},
    {"workers", list_workers, {"process", "pid", "worker_type", "job", "node_id"}},
    {"jobs", list_jobs, {"job_id", "status", "entrypoint", "driver_ip", "driver_pid"}},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static int list(const struct kind *k, const struct config *c, const struct query_flags *q)
{
    struct err err;
    json_t *rows = k->list(c, q->timeout_ms, &err);

    if (rows == NULL) {
        fprintf(stderr, "ray list: %s\n", err.text);
        return 1;
    }
    if (q->is_json) {
        json_dumpf(rows, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_table(rows, k->columns);
    }
    json_decref(rows);
    return 0;
}

/* The kind is the first word; flags may stand before and behind it. */
int list_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const struct flag table[] = {QUERY_FLAGS(q), {.name = NULL}};
    const struct flags f = {.command = "ray list",
                            .summary = "ray list nodes | workers | jobs; workers are those of this "
                                       "machine's newest raylet of yours",
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
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(word, kinds[i].name) == 0)
            return list(&kinds[i], &c, &q);
    near = flags_nearest(word, (const char *const[]){"nodes", "workers", "jobs", NULL});
    if (near != NULL)
        return flags_refuse(&f, "%.60s cannot be listed; did you mean %s?", word, near);
    return flags_refuse(&f, "%.60s cannot be listed; nodes, workers and jobs can", word);
}
