/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd/ray/ask.h"
#include "cmd/ray/commands.h"
#include "cmd/ray/demands.h"
#include "cmd/ray/query.h"
#include "gcs/query_codec.h"
#include "lib/base/alloc.h"
#include "lib/base/flags.h"

#define TOTALS_MAX 64

struct total {
    char name[48];
    double amount, available;
};

/* What the cluster is said to be. */
struct state {
    const char *address;
    struct node_row *rows, *available; /* the amounts of the latter: what is free */
    size_t n, n_totals;
    struct total totals[TOTALS_MAX];
    json_t *demands;
};

static struct total *find_total(struct state *s, const char *name)
{
    size_t at = 0;

    while (at < s->n_totals && strcmp(s->totals[at].name, name) != 0)
        at++;
    if (at == TOTALS_MAX)
        return NULL;
    if (at == s->n_totals) {
        s->totals[s->n_totals++] = (struct total){.amount = 0};
        snprintf(s->totals[at].name, sizeof s->totals[at].name, "%s", name);
    }
    return &s->totals[at];
}

static void add_totals(struct state *s)
{
    for (size_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; s->rows[i].state == NODE_ALIVE && k < s->rows[i].n_resources; k++) {
            struct total *t = find_total(s, s->rows[i].resources[k].name);
            if (t == NULL)
                continue;
            t->amount += s->rows[i].resources[k].amount;
            t->available += s->available[i].resources[k].amount;
        }
}

/* "1/4 CPU": used and total. */
static json_t *usage_of(const struct node_row *row, const struct node_row *available)
{
    char text[NODE_RESOURCES_MAX * 80] = "", used[64], amount[64];
    size_t n = 0;

    for (uint32_t k = 0; row->state == NODE_ALIVE && k < row->n_resources; k++) {
        const struct node_resource *r = &row->resources[k];
        format_resource(r->name, r->amount - available->resources[k].amount, used, sizeof used);
        format_resource(r->name, r->amount, amount, sizeof amount);
        n += (size_t)snprintf(text + n,
                              sizeof text - n,
                              "%s%s/%s %.48s",
                              n > 0 ? ", " : "",
                              used,
                              amount,
                              r->name);
        if (n >= sizeof text)
            break;
    }
    return json_string(text);
}

static const char *role_of(const struct node_row *row)
{
    return row->is_head ? "head" : row->is_driver ? "driver" : "";
}

/* A driver on a machine without a node is none of the nodes that are counted, and nothing when it
 * has ended. */
static void print(const struct state *s)
{
    static const char *const columns[] = {"node_name", "node_ip", "role", "state", "usage", NULL};
    json_t *list = nodes_as_json(s->rows, s->n), *shown = json_array(), *node;
    char now[32], used[64], amount[64];
    time_t t = time(NULL);
    struct tm tm;
    size_t i, n_alive = 0, n_dead = 0, n_drivers = 0;

    strftime(now, sizeof now, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
    json_array_foreach(list, i, node)
    {
        bool is_alive = s->rows[i].state == NODE_ALIVE, is_driver = s->rows[i].is_driver != 0;
        n_alive += is_alive && !is_driver;
        n_dead += !is_alive && !is_driver;
        n_drivers += is_alive && is_driver;
        json_object_set_new(node, "role", json_string(role_of(&s->rows[i])));
        json_object_set_new(node, "usage", usage_of(&s->rows[i], &s->available[i]));
        if (is_alive || !is_driver)
            json_array_append(shown, node);
    }
    printf("Cluster %s at %s\n\nNodes: %zu alive, %zu dead", s->address, now, n_alive, n_dead);
    if (n_drivers > 0)
        printf("; drivers on machines without a node: %zu", n_drivers);
    fputs("\n", stdout);
    if (json_array_size(shown) > 0)
        print_table(shown, columns);
    fputs("\nUsage\n", stdout);
    for (i = 0; i < s->n_totals; i++) {
        const struct total *total = &s->totals[i];
        format_resource(total->name, total->amount - total->available, used, sizeof used);
        format_resource(total->name, total->amount, amount, sizeof amount);
        printf("  %s/%s %s\n", used, amount, total->name);
    }
    fputs("\nDemands\n", stdout);
    if (json_array_size(s->demands) == 0)
        puts("  (no resource demands)");
    json_array_foreach(s->demands, i, node)
    {
        char *needs = text_of_json(json_object_get(node, "resources"));
        printf("  {%s}: %lld+ pending tasks\n",
               needs,
               (long long)json_integer_value(json_object_get(node, "count")));
        free(needs);
    }
    json_decref(shown);
    json_decref(list);
}

static void print_json(const struct state *s)
{
    json_t *totals = json_object(), *available = json_object();

    for (size_t i = 0; i < s->n_totals; i++) {
        const struct total *t = &s->totals[i];
        json_object_set_new(totals, t->name, json_real(t->amount));
        json_object_set_new(available, t->name, json_real(t->available));
    }
    json_t *all = json_pack("{s:s, s:o, s:o, s:o, s:O}",
                            "gcs_address",
                            s->address,
                            "nodes",
                            nodes_as_json(s->rows, s->n),
                            "resources_total",
                            totals,
                            "resources_available",
                            available,
                            "demands",
                            s->demands);
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(all);
}

static int ask_state(struct ask *a, struct state *s, struct err *err)
{
    void *reply;
    size_t size;

    if (ask_call(a, QUERY_NODES, NULL, 0, &reply, &size, err) != 0)
        return -1;
    int rc = query_nodes_of(reply, size, &s->rows, &s->n, err);
    free(reply);
    if (rc != 0 || ask_call(a, QUERY_AVAILABLE, NULL, 0, &reply, &size, err) != 0)
        return -1;
    s->available = xcalloc(s->n + 1, sizeof *s->available);
    memcpy(s->available, s->rows, s->n * sizeof *s->rows);
    rc = query_available_of(reply, size, s->available, s->n, err);
    free(reply);
    return rc;
}

/* A node that does not answer is named; the rest is told. */
static json_t *ask_demands(const struct config *c, int timeout_ms)
{
    struct nodes all;
    struct err err;

    if (nodes_ask(c, timeout_ms, &all, &err) != 0) {
        fprintf(stderr, "ray status: what waits is not known: %s\n", err.text);
        return json_array();
    }
    json_t *demands = demands_as_json(&all);
    nodes_report(&all, "ray status");
    nodes_fini(&all);
    return demands;
}

static int show(struct ask *a, const struct config *c, const struct query_flags *q, struct err *err)
{
    struct state s = {.address = ask_address(a)};
    int rc = ask_state(a, &s, err);

    if (rc == 0) {
        add_totals(&s);
        s.demands = ask_demands(c, q->timeout_ms);
        (q->is_json ? print_json : print)(&s);
        json_decref(s.demands);
    }
    free(s.rows);
    free(s.available);
    return rc;
}

int status_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const struct flag table[] = {
        QUERY_FLAGS(q),
        {.name = "verbose", .letter = 'v', .refusal = "it tells of each node anyway: leave it out"},
        {.name = "watch", .refusal = "say ray list nodes --watch, or watch ray status"},
        {.name = NULL}};
    const struct flags f = {
        .command = "ray status",
        .summary = "the nodes of a cluster, what they have, and what is asked of them",
        .notes =
            "Demands: what waiting tasks need, and at least how many workers are wanted for such. "
            "A node that\ndoes not answer within 2 s is named.",
        .table = table};
    struct config c;
    struct err err;
    int rc = query_parse(&f, argc, argv, &c, &q);

    if (rc != FLAGS_GO_ON)
        return rc;
    struct ask *a = ask_open(&c, q.timeout_ms, &err);
    rc = a != NULL ? show(a, &c, &q, &err) : -1;
    ask_close(a);
    if (rc != 0)
        fprintf(stderr, "ray status: %s\n", err.text);
    return rc != 0 ? 1 : 0;
}
