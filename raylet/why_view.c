/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each class that has queued units at a node gets the first reason that holds: no
 * node is large enough; another node is and this one is not; what it lacks is in use, by whom; it
 * is kept. Units sent to another node are that node's to explain if it lists them; else it says why
 * the job is not there yet, or has not answered. States are of slightly different moments, so what
 * two of them say of the same unit need not fit; then the one that has it in its queue counts.
 */
#include "raylet/why_view.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define HOLDERS_TOLD 5
#define QUIET_MS     1000 /* bytes that move are worth a word if nothing has come for so long */

static const char *const reason_names[WHY_N_REASONS] = {
    [WHY_INFEASIBLE] = "infeasible",
    [WHY_RESOURCES] = "resources",
    [WHY_KEPT] = "kept",
    [WHY_GOES_ELSEWHERE] = "goes_elsewhere",
    [WHY_WORKER_STARTS] = "worker_starts",
    [WHY_JOB_COMES] = "job_comes",
    [WHY_NO_ANSWER] = "no_answer",
    [WHY_NO_JOB_NUMBER] = "no_job_number",
    [WHY_HOLDER] = "holder",
    [WHY_TURN] = "turn",
    [WHY_STORE_FULL] = "store_full",
    [WHY_BYTES] = "bytes",
};

const char *why_reason_name(enum why_reason reason)
{
    return reason < WHY_N_REASONS ? reason_names[reason] : "unknown";
}

struct joining {
    const struct why_node *nodes;
    size_t n_nodes;
    const char *address;
    struct why_waits *out;
};

/* The sentence of a wait, as it grows. */
struct sentence {
    char *text;
    size_t size;
    FILE *f;
};

static void begin(struct sentence *s)
{
    *s = (struct sentence){.text = NULL};
    s->f = open_memstream(&s->text, &s->size);
    ASSERT(s->f != NULL); /* no memory */
}

static void add(struct joining *j, struct why_wait w, struct sentence *s)
{
    struct why_waits *out = j->out;

    fclose(s->f);
    w.text = s->text;
    if ((out->n & (out->n - 1)) == 0)
        out->v = xrealloc(out->v, (out->n == 0 ? 1 : 2 * out->n) * sizeof *out->v);
    out->v[out->n++] = w;
}

const struct why_node *why_view_find(const struct why_node *nodes, size_t n, uint32_t number)
{
    for (size_t i = 0; i < n; i++)
        if (nodes[i].number == number)
            return &nodes[i];
    return NULL;
}

static double amount(int64_t units)
{
    return (double)units / RESOURCE_UNIT;
}

static double seconds(uint64_t ms)
{
    return (double)ms / 1000;
}

/* --- who could --- */

/* Of a node's; NULL: it has none. */
static const struct why_amount *find_amount(const struct why_node *node, const char *name)
{
    for (size_t i = 0; i < node->state.n_resources; i++)
        if (strcmp(node->state.resources[i].name, name) == 0)
            return &node->state.resources[i];
    return NULL;
}

static bool could_run(const struct why_node *node, const struct why_class *c)
{
    if (node->is_driver)
        return false;
    for (uint32_t i = 0; i < c->n_need; i++) {
        const struct why_amount *a = find_amount(node, c->need[i].name);
        if (a == NULL || a->units < c->need[i].units)
            return false;
    }
    return true;
}

static bool has_room(const struct why_node *node, const struct why_class *c)
{
    for (uint32_t i = 0; i < c->n_need; i++) {
        const struct why_amount *a = find_amount(node, c->need[i].name);
        if (a == NULL || a->available < c->need[i].units)
            return false;
    }
    return true;
}

static int64_t need_of(const struct why_class *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_need; i++)
        if (strcmp(c->need[i].name, name) == 0)
            return c->need[i].units;
    return 0;
}

/* --- no node could --- */

static void say_too_large(const struct joining *j, const struct why_class *c, FILE *f)
{
    bool any = false;

    for (uint32_t i = 0; i < c->n_need; i++) {
        const struct why_node *largest = NULL;
        int64_t most = 0;
        for (size_t k = 0; k < j->n_nodes; k++) {
            const struct why_amount *a = find_amount(&j->nodes[k], c->need[i].name);
            if (a != NULL && a->units > most) {
                most = a->units;
                largest = &j->nodes[k];
            }
        }
        if (most >= c->need[i].units)
            continue;
        fprintf(f,
                "%sneeds %.12g %s, ",
                any ? "; " : "",
                amount(c->need[i].units),
                c->need[i].name);
        any = true;
        if (largest == NULL)
            fputs("which no node has", f);
        else
            fprintf(f, "the largest node, %s, has %.12g", largest->name, amount(most));
    }
    if (c->n_need == 0) {
        fputs("no node lives", f);
    } else if (!any) {
        fputs("no node has all of", f);
        for (uint32_t i = 0; i < c->n_need; i++)
            fprintf(f, "%s %.12g %s", i > 0 ? "," : "", amount(c->need[i].units), c->need[i].name);
    }
    fputs(": no node can ever run it; ", f);
    if (j->address[0] != '\0')
        fprintf(f, "add one that can (`ray start --address=%s`), or ask for less", j->address);
    else
        fputs("ask for less, or start a cluster that has it (`ray start --head`)", f);
}

/* --- those who could have too little free --- */

/* What a class has of a resource, on those nodes that could run another. */
struct holder {
    const struct why_class *of;
    int64_t units;
    uint32_t n; /* leases and starts */
};

static bool is_same_class(const struct why_class *a, const struct why_class *b)
{
    if (a->job != b->job || a->n_need != b->n_need || strcmp(a->name, b->name) != 0)
        return false;
    for (uint32_t i = 0; i < a->n_need; i++)
        if (need_of(b, a->need[i].name) != a->need[i].units)
            return false;
    return true;
}

static int compare_holders(const void *a, const void *b)
{
    const struct holder *x = a, *y = b;

    return x->units > y->units ? -1 : x->units < y->units;
}

static struct holder *find_holders(const struct joining *j,
                                   const struct why_class *c,
                                   const char *lacking,
                                   size_t *n)
{
    struct holder *v = NULL;
    size_t room = 0;

    *n = 0;
    for (size_t k = 0; k < j->n_nodes; k++) {
        const struct why_state *s = &j->nodes[k].state;
        for (size_t i = 0; could_run(&j->nodes[k], c) && i < s->n_uses; i++) {
            const struct why_use *u = &s->uses[i];
            bool is_cpu = strcmp(lacking, "CPU") == 0; /* who is blocked has lent it */
            uint32_t count = u->n_starting + u->n_leased - (is_cpu ? u->n_blocked : 0);
            int64_t units = need_of(&u->of, lacking) * count;
            size_t at = 0;
            if (units <= 0)
                continue;
            while (at < *n && !is_same_class(v[at].of, &u->of))
                at++;
            if (at == room) {
                room = room == 0 ? 8 : 2 * room;
                v = xrealloc(v, room * sizeof *v);
            }
            if (at == *n)
                v[(*n)++] = (struct holder){.of = &u->of};
            v[at].units += units;
            v[at].n += count;
        }
    }
    if (*n > 1)
        qsort(v, *n, sizeof *v, compare_holders);
    return v;
}

static void say_holders(const struct joining *j,
                        const struct why_class *c,
                        const char *lacking,
                        FILE *f)
{
    size_t n, i;
    struct holder *v = find_holders(j, c, lacking, &n);

    for (i = 0; i < n && i < HOLDERS_TOLD; i++)
        fprintf(f,
                "%s%s of job %u (%u)",
                i == 0 ? ", used by " : ", ",
                v[i].of->name,
                v[i].of->job,
                v[i].n);
    if (i < n)
        fprintf(f, " and %zu others", n - i);
    free(v);
}

static void say_taken(const struct joining *j,
                      const struct why_class *c,
                      const char *lacking,
                      FILE *f)
{
    const struct why_node *one = NULL;
    int64_t total = 0, most_free = 0;
    unsigned n_could = 0, n_silent = 0;

    for (size_t k = 0; k < j->n_nodes; k++) {
        const struct why_node *node = &j->nodes[k];
        const struct why_amount *a = find_amount(node, lacking);
        if (a == NULL || !could_run(node, c))
            continue;
        n_could++;
        n_silent += !node->has_answered;
        one = node;
        total += a->units;
        most_free = node->has_answered && a->available > most_free ? a->available : most_free;
    }
    if (most_free == 0)
        fprintf(f, "waits for %s: all %.12g", lacking, amount(total));
    else
        fprintf(f,
                "needs %.12g %s, at most %.12g is free on one node: of the %.12g",
                amount(need_of(c, lacking)),
                lacking,
                amount(most_free),
                amount(total));
    if (n_could == 1)
        fprintf(f, " of %s", one->name);
    else
        fprintf(f, " of the %u nodes that could run it", n_could);
    say_holders(j, c, lacking, f);
    if (n_silent > 0)
        fprintf(f, "; %u of them do not answer", n_silent);
}

/* --- queued units --- */

static void say_kept(const struct why_node *at, const struct why_use *u, FILE *f)
{
    const struct why_use *for_whom = NULL;

    for (size_t i = 0; i < at->state.n_uses; i++) {
        const struct why_use *o = &at->state.uses[i];
        if (o != u && o->n_queued > 0 && o->wait == LEASE_WAIT_TAKEN
            && (for_whom == NULL || o->queued_ms > for_whom->queued_ms))
            for_whom = o;
    }
    if (for_whom != NULL)
        fprintf(f,
                "what is free on %s is kept for %s of job %u, which needs more and has waited "
                "for %.1f s",
                at->name,
                for_whom->of.name,
                for_whom->of.job,
                seconds(for_whom->queued_ms));
    else
        fprintf(f, "what is free on %s is kept for others that have waited for longer", at->name);
}

static void explain_queued(struct joining *j, const struct why_node *at, const struct why_use *u)
{
    const struct why_node *could = NULL, *room = NULL;
    struct why_wait w = {.at = at, .of = &u->of, .n = u->n_queued, .since_ms = u->queued_ms};
    struct sentence s;

    for (size_t k = 0; k < j->n_nodes; k++) {
        const struct why_node *node = &j->nodes[k];
        if (node == at || !could_run(node, &u->of))
            continue;
        could = could == NULL || node->has_answered ? node : could;
        if (node->has_answered && has_room(node, &u->of))
            room = node;
    }
    begin(&s);
    if (u->wait == LEASE_WAIT_NEVER && could == NULL) {
        w.reason = WHY_INFEASIBLE;
        say_too_large(j, &u->of, s.f);
    } else if (u->wait == LEASE_WAIT_NEVER) {
        w.reason = WHY_GOES_ELSEWHERE;
        fprintf(s.f, "cannot run on %s, but on %s", at->name, could->name);
        fputs(could->has_answered ? ", which is to be asked" : ", which does not answer", s.f);
    } else if (room != NULL) {
        w.reason = WHY_GOES_ELSEWHERE;
        fprintf(s.f, "%s has room for it and is to be asked", room->name);
    } else if (u->wait == LEASE_WAIT_TAKEN) {
        w.reason = WHY_RESOURCES;
        say_taken(j, &u->of, u->lacking, s.f);
    } else {
        w.reason = WHY_KEPT;
        say_kept(at, u, s.f);
    }
    add(j, w, &s);
}

static void explain_starting(struct joining *j, const struct why_node *at, const struct why_use *u)
{
    struct why_wait w = {.at = at,
                         .of = &u->of,
                         .n = u->n_starting,
                         .since_ms = u->starting_ms,
                         .reason = WHY_WORKER_STARTS};
    struct sentence s;
    unsigned n = 0;

    for (size_t i = 0; i < at->state.n_processes; i++)
        n += at->state.processes[i].job == u->of.job
             && at->state.processes[i].state == WHY_PROCESS_STARTING;
    begin(&s);
    fprintf(s.f,
            "has its resources and waits for a worker to start; %u of job %u are on their way",
            n,
            u->of.job);
    add(j, w, &s);
}

/* --- units at other nodes --- */

static const struct why_job *find_job(const struct why_state *s, uint32_t number)
{
    for (size_t i = 0; i < s->n_jobs; i++)
        if (s->jobs[i].number == number && number > 0)
            return &s->jobs[i];
    return NULL;
}

bool why_view_has_queued(const struct why_node *at, const struct why_class *of)
{
    const struct why_state *s = &at->state;

    for (size_t i = 0; i < s->n_uses; i++)
        if (s->uses[i].n_queued + s->uses[i].n_starting > 0 && is_same_class(&s->uses[i].of, of))
            return true;
    return false;
}

static void say_job_comes(const struct joining *j,
                          const struct why_node *to,
                          const struct why_job *job,
                          FILE *f)
{
    const struct why_node *home = why_view_find(j->nodes, j->n_nodes, job->home);
    const char *name = home != NULL ? home->name : "the node of its driver";

    if (job->is_fetching)
        fprintf(f, "its job's executable is being fetched by %s from %s", to->name, name);
    else
        fprintf(f, "%s has asked %s what its job is made of", to->name, name);
    fprintf(f, ", since %.1f s", seconds(job->held_ms));
    if (home != NULL && !home->has_answered)
        fprintf(f, "; %s does not answer", name);
}

static void explain_sent(struct joining *j, const struct why_node *at, const struct why_sent *sent)
{
    const struct why_node *to = why_view_find(j->nodes, j->n_nodes, sent->node);
    const struct why_job *job =
        to != NULL && to->has_answered ? find_job(&to->state, sent->of.job) : NULL;
    struct why_wait w = {.at = at,
                         .of = &sent->of,
                         .n = sent->n,
                         .since_ms = sent->asked_ms,
                         .reason = job != NULL ? WHY_JOB_COMES : WHY_NO_ANSWER};
    struct sentence s;

    if (to != NULL && why_view_has_queued(to, &sent->of))
        return; /* it says why */
    begin(&s);
    if (job != NULL) {
        say_job_comes(j, to, job, s.f);
    } else {
        if (to != NULL)
            fprintf(s.f, "%s was asked", to->name);
        else
            fprintf(s.f, "node %u was asked", sent->node);
        fprintf(s.f, " %.1f s ago and has not said yes or no yet", seconds(sent->sent_ms));
        if (to != NULL && !to->has_answered)
            fprintf(s.f, "; it does not answer this command either: %s", to->err.text);
    }
    add(j, w, &s);
}

/* --- programs, objects --- */

static void explain_job(struct joining *j, const struct why_node *at, const struct why_job *job)
{
    struct why_wait w = {.at = at,
                         .n = job->home > 0 ? job->n_held : 1,
                         .since_ms = job->held_ms,
                         .reason = job->home > 0 ? WHY_JOB_COMES : WHY_NO_JOB_NUMBER};
    struct sentence s;

    for (size_t k = 0; job->home > 0 && k < j->n_nodes; k++)
        for (size_t i = 0; i < j->nodes[k].state.n_sent; i++)
            if (j->nodes[k].state.sent[i].node == at->number
                && j->nodes[k].state.sent[i].of.job == job->number)
                return; /* told with what waits for it */
    begin(&s);
    if (job->home > 0) {
        snprintf(w.what, sizeof w.what, "job %u", job->number);
        say_job_comes(j, at, job, s.f);
    } else {
        snprintf(w.what, sizeof w.what, "program pid=%d", job->driver_pid);
        fputs("waits for its job number: the GCS has not answered yet", s.f);
    }
    add(j, w, &s);
}

static void say_store(const struct why_node *at, FILE *f)
{
    fprintf(f,
            "the store of %s has no room: %.1f of %.1f MB are in use",
            at->name,
            (double)at->state.store_used / 1e6,
            (double)at->state.store_capacity / 1e6);
}

static void explain_pull(struct joining *j, const struct why_node *at, const struct why_pull *p)
{
    const struct why_node *from = why_view_find(j->nodes, j->n_nodes, p->node);
    struct why_wait w = {.at = at, .n = p->n, .since_ms = p->quiet_ms};
    char name[80];
    struct sentence s;

    if (p->stage == TRANSFER_MOVES && p->quiet_ms < QUIET_MS)
        return; /* all is well */
    if (from != NULL)
        snprintf(name, sizeof name, "%s", from->name);
    else
        snprintf(name, sizeof name, "node %u", p->node);
    snprintf(w.what,
             sizeof w.what,
             "%u %s%s from elsewhere",
             p->n,
             p->is_file ? "executable" : "object",
             p->n == 1 ? "" : "s");
    begin(&s);
    switch (p->stage) {
    case TRANSFER_ASKS:
        w.reason = WHY_HOLDER;
        fprintf(s.f, "%s was asked %.1f s ago", name, seconds(p->quiet_ms));
        break;
    case TRANSFER_TURN:
        w.reason = WHY_TURN;
        fputs("other objects come first: arguments of tasks may take 0.7 of the store at once",
              s.f);
        break;
    case TRANSFER_MEMORY:
        w.reason = WHY_STORE_FULL;
        say_store(at, s.f);
        break;
    case TRANSFER_MOVES:
    case TRANSFER_N_STAGES:
        w.reason = WHY_BYTES;
        fprintf(s.f, "nothing has come from %s for %.1f s", name, seconds(p->quiet_ms));
        break;
    }
    if (p->why[0] != '\0' && (p->stage == TRANSFER_ASKS || p->stage == TRANSFER_MOVES))
        fprintf(s.f, "; it could not be reached: %s", p->why);
    add(j, w, &s);
}

static void explain_store(struct joining *j, const struct why_node *at)
{
    struct why_wait w = {.at = at, .n = at->state.store_waiting, .reason = WHY_STORE_FULL};
    uint32_t n_pulls = 0;
    struct sentence s;

    for (size_t i = 0; i < at->state.n_pulls; i++)
        n_pulls += at->state.pulls[i].stage == TRANSFER_MEMORY ? at->state.pulls[i].n : 0;
    if (at->state.store_waiting <= n_pulls)
        return; /* nobody else */
    w.n -= n_pulls;
    snprintf(w.what, sizeof w.what, "%u request%s for memory", w.n, w.n == 1 ? "" : "s");
    begin(&s);
    say_store(at, s.f);
    fputs("; `ray memory` there says by whom", s.f);
    add(j, w, &s);
}

/* --- all --- */

static int compare_waits(const void *a, const void *b)
{
    const struct why_wait *x = a, *y = b;

    if (x->since_ms != y->since_ms)
        return x->since_ms > y->since_ms ? -1 : 1;
    return x->text < y->text ? -1 : 1; /* any order, but one */
}

void why_view_explain(const struct why_node *nodes,
                      size_t n_nodes,
                      const char *address,
                      struct why_waits *out)
{
    struct joining j = {.nodes = nodes, .n_nodes = n_nodes, .address = address, .out = out};

    *out = (struct why_waits){.n = 0};
    for (size_t k = 0; k < n_nodes; k++) {
        const struct why_node *at = &nodes[k];
        const struct why_state *s = &at->state;
        for (size_t i = 0; i < s->n_uses; i++) {
            if (s->uses[i].n_queued > 0)
                explain_queued(&j, at, &s->uses[i]);
            if (s->uses[i].n_starting > 0)
                explain_starting(&j, at, &s->uses[i]);
        }
        for (size_t i = 0; i < s->n_sent; i++)
            explain_sent(&j, at, &s->sent[i]);
        for (size_t i = 0; i < s->n_jobs; i++)
            explain_job(&j, at, &s->jobs[i]);
        for (size_t i = 0; i < s->n_pulls; i++)
            explain_pull(&j, at, &s->pulls[i]);
        if (at->has_answered)
            explain_store(&j, at);
    }
    if (out->n > 1)
        qsort(out->v, out->n, sizeof *out->v, compare_waits);
}

void why_waits_fini(struct why_waits *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->v[i].text);
    free(w->v);
    *w = (struct why_waits){.n = 0};
}
