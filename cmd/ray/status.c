/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd/ray/ask.h"
#include "cmd/ray/commands.h"
#include "cmd/ray/query.h"
#include "gcs/query_codec.h"
#include "lib/base/flags.h"

#define TOTALS_MAX 64

struct total {
    char name[48];
    double amount;
};

static size_t add_totals(const struct node_row *rows, size_t n, struct total *totals, size_t room)
{
    size_t m = 0;

    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; rows[i].state == NODE_ALIVE && k < rows[i].n_resources; k++) {
            const struct node_resource *r = &rows[i].resources[k];
            size_t at = 0;
            while (at < m && strcmp(totals[at].name, r->name) != 0)
                at++;
            if (at == room)
                continue;
            if (at == m) {
                m++;
                totals[at].amount = 0;
                memcpy(totals[at].name, r->name, sizeof r->name);
            }
            totals[at].amount += r->amount;
        }
    return m;
}

static const char *role(const json_t *node)
{
    return json_is_true(json_object_get(node, "is_head_node")) ? "head" : "";
}

static void print(const char *address,
                  const struct node_row *rows,
                  size_t n,
                  const struct total *totals,
                  size_t n_totals)
{
    static const char *const columns[] =
        {"node_name", "node_ip", "role", "state", "resources_total", NULL};
    json_t *list = nodes_as_json(rows, n), *node;
    char now[32], amount[64];
    time_t t = time(NULL);
    struct tm tm;
    size_t i, n_alive = 0;

    strftime(now, sizeof now, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
    json_array_foreach(list, i, node)
    {
        n_alive += rows[i].state == NODE_ALIVE;
        json_object_set_new(node, "role", json_string(role(node)));
    }
    printf("Cluster %s at %s\n\nNodes: %zu alive, %zu dead\n", address, now, n_alive, n - n_alive);
    if (n > 0)
        print_table(list, columns);
    fputs("\nResources of those alive\n", stdout);
    for (i = 0; i < n_totals; i++) {
        format_amount(totals[i].amount, amount, sizeof amount);
        printf("  %s %s\n", amount, totals[i].name);
    }
    json_decref(list);
}

static void print_json(const char *address,
                       const struct node_row *rows,
                       size_t n,
                       const struct total *totals,
                       size_t n_totals)
{
    json_t *sums = json_object();

    for (size_t i = 0; i < n_totals; i++)
        json_object_set_new(sums, totals[i].name, json_real(totals[i].amount));
    json_t *all = json_pack("{s:s, s:o, s:o}",
                            "gcs_address",
                            address,
                            "nodes",
                            nodes_as_json(rows, n),
                            "resources_total",
                            sums);
    json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
}

static int show(struct ask *a, bool as_json, struct err *err)
{
    struct total totals[TOTALS_MAX];
    struct node_row *rows;
    void *reply;
    size_t size, n;

    if (ask_call(a, QUERY_NODES, NULL, 0, &reply, &size, err) != 0)
        return -1;
    int rc = query_nodes_of(reply, size, &rows, &n, err);
    free(reply);
    if (rc != 0)
        return -1;
    size_t n_totals = add_totals(rows, n, totals, TOTALS_MAX);
    (as_json ? print_json : print)(ask_address(a), rows, n, totals, n_totals);
    free(rows);
    return 0;
}

int status_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const struct flag table[] = {QUERY_FLAGS(q), {.name = NULL}};
    const struct flags f = {.command = "ray status",
                            .summary = "the nodes of a cluster, and what they have",
                            .table = table};
    struct config c;
    struct err err;
    int rc = query_parse(&f, argc, argv, &c, &q);

    if (rc != FLAGS_GO_ON)
        return rc;
    struct ask *a = ask_open(&c, q.timeout_ms, &err);
    rc = a != NULL ? show(a, q.is_json, &err) : -1;
    ask_close(a);
    if (rc != 0)
        fprintf(stderr, "ray status: %s\n", err.text);
    return rc != 0 ? 1 : 0;
}
