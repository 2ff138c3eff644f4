/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POLL_MS 60000 /* a poll without news ends, and begins again */

struct watching {
    struct ask *ask;
    const struct watch_kind *kind;
    bool is_json, has_begun;
    struct query_subscriber self;
    json_t *known; /* id: state */
};

/* --- rows --- */

/* Whether it is new, or in a new state; a state that does not end is never left. */
static bool take(struct watching *w, const json_t *row)
{
    const char *id = json_string_value(json_object_get(row, w->kind->id));
    const char *state = json_string_value(json_object_get(row, w->kind->state));
    const char *before = json_string_value(json_object_get(w->known, id));

    if (before != NULL && (strcmp(before, w->kind->last) == 0 || strcmp(before, state) == 0))
        return false;
    json_object_set_new(w->known, id, json_string(state));
    return true;
}

static void print_change(const struct watching *w, const json_t *row)
{
    json_int_t start = json_integer_value(json_object_get(row, "start_time_ms"));
    json_int_t end = json_integer_value(json_object_get(row, "end_time_ms"));
    time_t t = (time_t)((end != 0 ? end : start) / 1000);
    char text[32];
    struct tm tm;

    if (w->is_json) {
        json_dumpf(row, stdout, JSON_COMPACT);
        putchar('\n');
        return;
    }
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
    printf("%s  ", text);
    print_row(row, w->kind->changed);
}

/* What is new of the rows, which are freed. */
static void print_news(struct watching *w, json_t *rows, bool is_table)
{
    const json_t *row;
    size_t i;

    if (is_table)
        print_table(rows, w->kind->columns);
    json_array_foreach(rows, i, row)
    {
        if (take(w, row) && !is_table)
            print_change(w, row);
    }
    json_decref(rows);
    fflush(stdout);
}

/* --- what the GCS is asked --- */

/* Waits for news if the GCS knows us, up to ms. */
static int poll_news(struct watching *w, int ms, struct err *err)
{
    struct node_row *nodes;
    struct query_job *jobs;
    size_t size, n_nodes, n_jobs;
    void *reply, *request = query_poll(&w->self, &size);
    int rc = ask_call_within(w->ask, ms, QUERY_POLL, request, size, &reply, &size, err);

    free(request);
    if (rc != 0)
        return -1;
    rc = query_news_of(reply, size, &w->self, &nodes, &n_nodes, &jobs, &n_jobs, err);
    free(reply);
    if (rc != 0)
        return -1;
    if (w->has_begun)
        print_news(w,
                   w->kind->channel == QUERY_CHANNEL_NODES ? nodes_as_json(nodes, n_nodes)
                                                           : jobs_as_json(jobs, n_jobs),
                   false);
    free(nodes);
    free(jobs);
    return 0;
}

static int subscribe(struct watching *w, struct err *err)
{
    size_t size;
    void *reply, *request = query_subscribe(&w->self, w->kind->channel, &size);
    int rc = ask_call(w->ask, QUERY_SUBSCRIBE, request, size, &reply, &size, err);

    free(request);
    if (rc == 0)
        free(reply);
    return rc;
}

static int read_anew(struct watching *w, struct err *err)
{
    json_t *rows;

    memset(&w->self.publisher, 0, sizeof w->self.publisher);
    if (poll_news(w, ask_timeout(w->ask), err) != 0 || subscribe(w, err) != 0
        || (rows = w->kind->ask(w->ask, err)) == NULL)
        return -1;
    print_news(w, rows, !w->is_json && !w->has_begun);
    w->has_begun = true;
    return 0;
}

/* At first, and whenever something may have been missed. A call waits for a GCS that is away, but
 * one that goes while it is asked ends it. */
static int begin(struct watching *w, struct err *err)
{
    int rc = -1;

    for (int i = 0; i < 3 && rc != 0; i++)
        if ((rc = read_anew(w, err)) != 0 && err->code != ERR_AWAY)
            break;
    return rc;
}

static int go_on(struct watching *w, struct err *err)
{
    struct unique_id publisher = w->self.publisher;
    uint64_t n_dropped = w->self.n_dropped;

    if (poll_news(w, POLL_MS, err) != 0) {
        if (err->code == ERR_TIMEOUT)
            return 0;
        if (err->code != ERR_AWAY && err->code != ERR_NOT_FOUND)
            return -1;
    } else if (unique_id_eq(&publisher, &w->self.publisher) && n_dropped == w->self.n_dropped) {
        return 0;
    }
    return begin(w, err);
}

int watch(struct ask *a, const struct watch_kind *k, bool is_json, struct err *err)
{
    struct watching w = {.ask = a, .kind = k, .is_json = is_json, .known = json_object()};
    int rc = -1;

    if (unique_id_random(&w.self.id) != 0)
        err_sys(err, "get random bytes for a subscriber's id");
    else
        rc = begin(&w, err);
    while (rc == 0 && !ferror(stdout))
        rc = go_on(&w, err);
    if (rc == 0)
        rc = err_set(err, ERR_SYSTEM, "what it prints is not taken any more");
    json_decref(w.known);
    return rc;
}
