/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/ray/commands.h"
#include "cmd/ray/demands.h"
#include "cmd/ray/nodes.h"
#include "cmd/ray/query.h"
#include "cmd/ray/why_id.h"

static json_t *wait_as_json(const struct why_wait *w)
{
    char id[ID_HEX_MAX];

    return json_pack("{s:s, s:s, s:o, s:o, s:I, s:I, s:f, s:s, s:o, s:o}",
                     "reason",
                     why_reason_name(w->reason),
                     "what",
                     w->of != NULL ? "class" : "other",
                     "name",
                     text_as_json(w->of != NULL ? w->of->name : w->what),
                     "resources",
                     w->of != NULL ? needs_as_json(w->of) : json_object(),
                     "job",
                     (json_int_t)(w->of != NULL ? w->of->job : 0),
                     "count",
                     (json_int_t)w->n,
                     "waiting_s",
                     (double)w->since_ms / 1000,
                     "node_id",
                     id_hex(w->at->id.bytes, sizeof w->at->id.bytes, id),
                     "node_name",
                     text_as_json(w->at->name),
                     "message",
                     text_as_json(w->text));
}

static void print_json(const struct nodes *all, const struct why_waits *waits)
{
    json_t *list = json_array(), *silent = json_array();

    for (size_t i = 0; i < waits->n; i++)
        json_array_append_new(list, wait_as_json(&waits->v[i]));
    for (size_t i = 0; i < all->n; i++)
        if (!all->v[i].has_answered)
            json_array_append_new(silent,
                                  json_pack("{s:o, s:o}",
                                            "node_name",
                                            text_as_json(all->v[i].name),
                                            "message",
                                            text_as_json(all->v[i].err.text)));
    json_t *j = json_pack("{s:s, s:b, s:o, s:o}",
                          "gcs_address",
                          all->address,
                          "gcs_answers",
                          all->gcs.code == ERR_NONE,
                          "silent_nodes",
                          silent,
                          "waits",
                          list);
    json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(j);
}

static void print_wait(const struct why_wait *w)
{
    char number[64];

    if (w->of == NULL) {
        printf("%s at %s: for %.1f s\n", w->what, w->at->name, (double)w->since_ms / 1000);
    } else {
        printf("%s of job %u, each with", w->of->name, w->of->job);
        for (uint32_t i = 0; i < w->of->n_need; i++) {
            format_amount((double)w->of->need[i].units / RESOURCE_UNIT, number, sizeof number);
            printf("%s %s %s", i > 0 ? "," : "", number, w->of->need[i].name);
        }
        printf("%s: %u worker%s wanted at %s, for up to %.1f s\n",
               w->of->n_need == 0 ? " nothing" : "",
               w->n,
               w->n == 1 ? " is" : "s are",
               w->at->name,
               (double)w->since_ms / 1000);
    }
    printf("    %s\n", w->text);
}

static void print(const struct nodes *all, const struct why_waits *waits)
{
    unsigned n_more = 0;

    for (size_t i = 0; i < waits->n; i++)
        print_wait(&waits->v[i]);
    for (size_t i = 0; i < all->n; i++)
        n_more += all->v[i].state.n_more;
    if (n_more > 0)
        printf("and %u more kinds of tasks\n", n_more);
    if (waits->n == 0)
        puts("nothing waits");
}

/* Whether it is known. */
static bool tell_one(struct nodes *all, const struct why_waits *waits, const char *id, bool as_json)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return false;
    bool is_known = why_id_explain(all, waits, id, out);
    fclose(out);
    if (as_json) {
        json_t *j = json_pack("{s:s, s:b, s:o}",
                              "id",
                              id,
                              "known",
                              is_known,
                              "message",
                              text_as_json(text));
        json_dumpf(j, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(j);
    } else {
        fputs(text, stdout);
    }
    free(text);
    return is_known;
}

/* The identity is the first word; flags may stand before and behind it. */
int why_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const struct flag table[] = {QUERY_FLAGS(q), {.name = NULL}};
    const struct flags f = {
        .command = "ray why",
        .summary = "what waits in the cluster, and for what; ray why ID: the same of one task,\n"
                   "object, worker or node, by its hex digits",
        .notes = "Tasks are told by their function and what they need, as workers that are wanted "
                 "for them: an owner\nof many tasks asks for some at a time. Nodes have 2 s for "
                 "their answers. One that does not answer is\nnamed, and the exit status is 1; so "
                 "it is if nobody knows the ID.",
        .table = table};
    const char *id = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
    struct why_waits waits;
    struct nodes all;
    struct config c;
    struct err err;
    bool is_known = true;
    int rc;

    if (id != NULL) {
        argv++;
        argc--;
    }
    rc = query_parse(&f, argc, argv, &c, &q);
    if (rc != FLAGS_GO_ON)
        return rc;
    if (id != NULL && why_id_parse(id) == WHY_ID_NONE)
        return flags_refuse(
            &f,
            "%.80s is no identity: a task has 48 hex digits (0-9, a-f), an object, a "
            "worker or a node 56",
            id);
    if (nodes_ask(&c, q.timeout_ms, &all, &err) != 0) {
        fprintf(stderr, "ray why: %s\n", err.text);
        return 1;
    }
    why_view_explain(all.v, all.n, all.address, &waits);
    if (id != NULL)
        is_known = tell_one(&all, &waits, id, q.is_json);
    else
        (q.is_json ? print_json : print)(&all, &waits);
    fflush(stdout);
    bool is_whole = nodes_report(&all, "ray why");
    why_waits_fini(&waits);
    nodes_fini(&all);
    return is_known && is_whole ? 0 : 1;
}
