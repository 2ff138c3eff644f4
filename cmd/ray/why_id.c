/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. The identity of a task or object names its owner's process number; the nodes have
 * told which processes they have. The owner's table of refs says in what state it is. What a task
 * waits for is looked at in the same way, also with other owners; for a worker its class waits, as
 * the nodes have told. An object that waits waits for the task that makes it.
 */
#include "cmd/ray/why_id.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define DEPTH_MAX  8  /* of tasks that wait for each other's results */
#define ARGS_TOLD  5  /* of one task */
#define NAME_TOLD  47 /* of a function's name, as classes have it */
#define ACTOR_SIZE 12
#define NO_PROCESS ((UINT32_C(1) << ID_PROCESS_BITS) - 1)

struct owner_refs {
    uint32_t process;
    struct why_refs refs;
    struct err err; /* ERR_NONE: refs are whole */
};

struct telling {
    struct nodes *all;
    const struct why_waits *waits;
    FILE *out;
    struct owner_refs *owners;
    size_t n_owners;
};

/* A task (index 0) or object. */
struct what {
    uint32_t owner, job, index;
    uint64_t counter;
};

/* --- identities --- */

static uint32_t read_job(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16
           | (uint32_t)bytes[3] << 24;
}

/* false: no task has such an identity. */
static bool read_what(const uint8_t *bytes, bool is_object, struct what *w)
{
    uint64_t unique = 0;

    for (int i = 0; i < 8; i++)
        unique = unique << 8 | bytes[i];
    for (int i = 8; i < 8 + ACTOR_SIZE; i++)
        if (bytes[i] != 0xff)
            return false;
    *w = (struct what){.owner = (uint32_t)(unique >> ID_COUNTER_BITS),
                       .counter = unique & ((UINT64_C(1) << ID_COUNTER_BITS) - 1),
                       .job = read_job(bytes + 8 + ACTOR_SIZE),
                       .index = is_object ? read_job(bytes + ID_TASK_SIZE) : 0};
    return true;
}

enum why_id_kind why_id_parse(const char *text)
{
    uint8_t bytes[ID_OBJECT_SIZE];
    struct what w;

    if (id_parse(text, bytes, ID_TASK_SIZE))
        return WHY_ID_TASK;
    if (!id_parse(text, bytes, ID_OBJECT_SIZE))
        return WHY_ID_NONE;
    return read_what(bytes, true, &w) ? WHY_ID_OBJECT : WHY_ID_UNIQUE;
}

static const char *format(const struct what *w, char hex[ID_HEX_MAX])
{
    struct task_id task = task_id_make((struct job_id){w->job}, w->owner, w->counter);
    struct object_id object = object_id_make(&task, w->index);

    return w->index > 0 ? id_hex(object.bytes, sizeof object.bytes, hex)
                        : id_hex(task.bytes, sizeof task.bytes, hex);
}

/* --- processes --- */

static const struct why_process *find_process(const struct nodes *all,
                                              uint32_t number,
                                              const struct why_node **at)
{
    for (size_t i = 0; i < all->n; i++)
        for (size_t k = 0; k < all->v[i].state.n_processes; k++)
            if (all->v[i].state.processes[k].number == number) {
                *at = &all->v[i];
                return &all->v[i].state.processes[k];
            }
    return NULL;
}

static void print_silent(const struct nodes *all, FILE *out)
{
    const char *sep = ", or it is at a node that does not answer: ";

    if (all->gcs.code != ERR_NONE)
        fputs(", or it is at another node: the GCS does not answer", out);
    for (size_t i = 0; i < all->n; i++)
        if (!all->v[i].has_answered) {
            fprintf(out, "%s%s", sep, all->v[i].name);
            sep = ", ";
        }
    fputc('\n', out);
}

static const struct owner_refs *ask_owner(struct telling *t,
                                          const struct why_node *at,
                                          uint32_t process)
{
    for (size_t i = 0; i < t->n_owners; i++)
        if (t->owners[i].process == process)
            return &t->owners[i];
    t->owners = xrealloc(t->owners, (t->n_owners + 1) * sizeof *t->owners);
    struct owner_refs *o = &t->owners[t->n_owners++];
    *o = (struct owner_refs){.process = process};
    if (nodes_ask_refs(t->all, at, process, &o->refs, &o->err) == 0)
        o->err.code = ERR_NONE;
    return o;
}

static const char *kind_of(const struct why_process *p)
{
    return p->kind == WIRE_DRIVER ? "driver" : "worker";
}

/* NULL: it lives, or nobody remembers it. */
static const struct why_dead *find_dead(const struct nodes *all,
                                        uint32_t number,
                                        const struct unique_id *id,
                                        const struct why_node **at)
{
    for (size_t i = 0; i < all->n; i++)
        for (size_t k = 0; k < all->v[i].state.n_dead; k++) {
            const struct why_dead *d = &all->v[i].state.dead[k];
            if (id != NULL ? unique_id_eq(&d->id, id) : d->number == number) {
                *at = &all->v[i];
                return d;
            }
        }
    return NULL;
}

static void print_end(const struct why_dead *d, FILE *out)
{
    fprintf(out, "%s, %.1f s ago", d->how, (double)d->ended_ms / 1000);
    if (d->name[0] != '\0')
        fprintf(out, "; it served %s of job %u", d->name, d->job);
    fputc('\n', out);
}

static void print_doing(const struct telling *t, const struct why_process *p)
{
    switch (p->state) {
    case WHY_PROCESS_STARTING:
        fputs("starts", t->out);
        break;
    case WHY_PROCESS_IDLE:
        fputs("is idle", t->out);
        break;
    case WHY_PROCESS_LEASED:
    case WHY_PROCESS_BLOCKED:
        fprintf(t->out,
                "serves %s of job %u, for %.1f s",
                p->name,
                p->job,
                (double)p->leased_ms / 1000);
        if (p->running_slot > 0)
            fprintf(t->out, "; a body has run for %.1f s", (double)p->running_ms / 1000);
        if (p->state == WHY_PROCESS_BLOCKED)
            fputs(p->running_slot > 0 ? " and waits for an object"
                                      : "; its body waits for an object",
                  t->out);
        break;
    case WHY_PROCESS_DRIVER:
        fprintf(t->out, "is the program of job %u", p->job);
        break;
    }
}

/* --- tasks and objects --- */

static void explain(struct telling *t, const struct what *w, int depth);

static void indent(const struct telling *t, int depth)
{
    fprintf(t->out, "%*s", 4 * depth, "");
}

/* Refs among its arguments that are not there yet. */
static void explain_args(struct telling *t,
                         const struct owner_refs *o,
                         const struct why_row *row,
                         uint32_t job,
                         int depth)
{
    uint32_t n = 0;
    size_t i = (size_t)(o - t->owners); /* they may move */

    fprintf(t->out, "waits for arguments, for %.1f s\n", (double)row->row.waits_ms / 1000);
    for (uint32_t k = 0; k < row->n_args; k++) {
        const struct why_row *arg = why_refs_at(&t->owners[i].refs, row->args[k]);
        struct what w;
        if (arg == NULL || arg->row.status >= WIRE_ROW_READY)
            continue;
        if (n++ == ARGS_TOLD) {
            indent(t, depth + 1);
            fputs("and others\n", t->out);
            return;
        }
        w = (struct what){.owner = arg->row.owner,
                          .job = job,
                          .counter = arg->row.counter,
                          .index = arg->row.index};
        explain(t, &w, depth + 1);
    }
    if (n == 0) {
        indent(t, depth + 1);
        fputs("which have come meanwhile\n", t->out);
    }
}

static void explain_queued(struct telling *t, const struct why_row *row, uint32_t job, int depth)
{
    unsigned n = 0, n_leased = 0;

    fprintf(t->out, "waits for a worker, for %.1f s\n", (double)row->row.waits_ms / 1000);
    for (size_t i = 0; i < t->waits->n; i++) {
        const struct why_wait *w = &t->waits->v[i];
        if (w->of == NULL || w->of->job != job || strncmp(w->of->name, row->text, NAME_TOLD) != 0)
            continue;
        n++;
        indent(t, depth + 1);
        fprintf(t->out,
                "%u wanted at %s for up to %.1f s: %s\n",
                w->n,
                w->at->name,
                (double)w->since_ms / 1000,
                w->text);
    }
    for (size_t i = 0; n == 0 && i < t->all->n; i++)
        for (size_t k = 0; k < t->all->v[i].state.n_uses; k++) {
            const struct why_use *u = &t->all->v[i].state.uses[k];
            if (u->of.job == job && strncmp(u->of.name, row->text, NAME_TOLD) == 0)
                n_leased += u->n_leased;
        }
    if (n > 0)
        return;
    indent(t, depth + 1);
    fprintf(t->out, "its owner has %u workers for it: it is the turn of other tasks\n", n_leased);
}

static void explain_pushed(const struct telling *t, const struct why_row *row)
{
    const struct why_node *at;
    const struct why_process *p = find_process(t->all, row->row.worker, &at);
    const struct why_dead *d = p == NULL ? find_dead(t->all, row->row.worker, NULL, &at) : NULL;
    double waits = (double)row->row.waits_ms / 1000;

    if (d != NULL) {
        fprintf(t->out, "was with worker pid=%d at %s, which ", d->pid, at->name);
        print_end(d, t->out);
    } else if (p == NULL) {
        fprintf(t->out, "is with worker %u, which has just ended", row->row.worker);
        print_silent(t->all, t->out);
    } else if (p->owner == row->row.owner && p->running_slot == row->row.window_slot + 1) {
        fprintf(t->out,
                "runs on worker pid=%d at %s, for %.1f s%s\n",
                p->pid,
                at->name,
                (double)p->running_ms / 1000,
                p->state == WHY_PROCESS_BLOCKED ? "; its body waits for an object" : "");
    } else {
        fprintf(t->out,
                "waits, for %.1f s, for its turn on worker pid=%d at %s, which ",
                waits,
                p->pid,
                at->name);
        print_doing(t, p);
        fputc('\n', t->out);
    }
}

static void explain_row(struct telling *t,
                        const struct owner_refs *o,
                        const struct why_row *row,
                        uint32_t job,
                        int depth)
{
    switch ((enum wire_row_status)row->row.status) {
    case WIRE_ROW_ARGS:
        explain_args(t, o, row, job, depth);
        return;
    case WIRE_ROW_QUEUED:
        explain_queued(t, row, job, depth);
        return;
    case WIRE_ROW_PUSHED:
        explain_pushed(t, row);
        return;
    case WIRE_ROW_READY:
        fprintf(t->out,
                "is ready: %llu bytes in %s\n",
                (unsigned long long)row->row.size,
                (row->row.flags & WIRE_ROW_ELSEWHERE) != 0 ? "the object store of another node"
                : (row->row.flags & WIRE_ROW_STORED) != 0  ? "the object store of its owner's node"
                                                           : "its owner's memory");
        return;
    case WIRE_ROW_FAILED:
        fprintf(t->out, "has failed: %s\n", row->text[0] != '\0' ? row->text : "ray_get says why");
        return;
    case WIRE_ROW_FREED:
        fputs("was freed by the program\n", t->out);
        return;
    case WIRE_ROW_PENDING:
        break;
    }
    fputs("is not there yet\n", t->out);
}

static void explain(struct telling *t, const struct what *w, int depth)
{
    const struct why_node *at = NULL;
    const struct why_process *p = find_process(t->all, w->owner, &at);
    const struct why_dead *d = p == NULL ? find_dead(t->all, w->owner, NULL, &at) : NULL;
    const struct owner_refs *o = p != NULL ? ask_owner(t, at, w->owner) : NULL;
    const struct why_row *row = o != NULL ? why_refs_find(&o->refs, w->counter, w->index) : NULL;
    char hex[ID_HEX_MAX];

    indent(t, depth);
    fprintf(t->out, "%s %s", w->index > 0 ? "object" : "task", format(w, hex));
    if (row != NULL && (row->row.flags & WIRE_ROW_TASK) != 0 && row->row.status < WIRE_ROW_READY)
        fprintf(t->out, "%s %s", w->index > 0 ? ", by" : " of", row->text);
    if (d != NULL) {
        fprintf(t->out, ": its owner, worker pid=%d at %s, ", d->pid, at->name);
        print_end(d, t->out);
    } else if (p == NULL) {
        fprintf(t->out, ": its owner, process %u, has ended", w->owner);
        print_silent(t->all, t->out);
    } else if (row == NULL) {
        fprintf(t->out, ": its owner, %s pid=%d at %s, ", kind_of(p), p->pid, at->name);
        if (o->err.code != ERR_NONE)
            fprintf(t->out, "cannot be asked: %s\n", o->err.text);
        else
            fputs("knows nothing of it any more: nobody refers to it\n", t->out);
    } else {
        fprintf(t->out, ", owned by %s pid=%d at %s: ", kind_of(p), p->pid, at->name);
        if (depth < DEPTH_MAX)
            explain_row(t, o, row, w->job, depth);
        else
            fputs("...\n", t->out);
    }
}

/* What runs in a program outside of any task has an identity, too, and no owner. */
static bool explain_program(const struct telling *t, uint32_t job)
{
    for (size_t i = 0; i < t->all->n; i++)
        for (size_t k = 0; k < t->all->v[i].state.n_processes; k++) {
            const struct why_process *p = &t->all->v[i].state.processes[k];
            if (p->kind != WIRE_DRIVER || p->job != job)
                continue;
            fprintf(t->out,
                    "the program of job %u itself: pid=%d at %s\n",
                    job,
                    p->pid,
                    t->all->v[i].name);
            return true;
        }
    fprintf(t->out, "the program of job %u, which has ended", job);
    print_silent(t->all, t->out);
    return false;
}

static bool explain_what(struct telling *t, const struct what *w)
{
    const struct why_node *at;

    if (w->owner == NO_PROCESS)
        return explain_program(t, w->job);
    explain(t, w, 0);
    const struct why_process *p = find_process(t->all, w->owner, &at);
    bool is_known =
        p != NULL && why_refs_find(&ask_owner(t, at, w->owner)->refs, w->counter, w->index) != NULL;
    for (size_t i = 0; i < t->n_owners; i++)
        why_refs_fini(&t->owners[i].refs);
    free(t->owners);
    return is_known;
}

/* --- workers and nodes --- */

static const struct node_row *find_row(const struct nodes *all, const struct unique_id *id)
{
    for (size_t i = 0; i < all->n_rows; i++)
        if (unique_id_eq(&all->rows[i].id, id))
            return &all->rows[i];
    return NULL;
}

static bool explain_unique(const struct telling *t, const struct unique_id *id)
{
    const struct nodes *all = t->all;
    const struct node_row *row = find_row(all, id);
    const struct why_node *at = NULL;
    const struct why_dead *d = find_dead(all, 0, id, &at);

    for (size_t i = 0; i < all->n; i++) {
        if (unique_id_eq(&all->v[i].id, id)) {
            if (all->v[i].has_answered)
                fprintf(t->out, "node %s lives and answers\n", all->v[i].name);
            else
                fprintf(t->out,
                        "node %s has not been declared dead, but does not answer: %s\n",
                        all->v[i].name,
                        all->v[i].err.text);
            return true;
        }
        for (size_t k = 0; k < all->v[i].state.n_processes; k++) {
            const struct why_process *p = &all->v[i].state.processes[k];
            if (!unique_id_eq(&p->id, id))
                continue;
            fprintf(t->out, "%s pid=%d at %s ", kind_of(p), p->pid, all->v[i].name);
            print_doing(t, p);
            fputc('\n', t->out);
            return true;
        }
    }
    if (d != NULL) {
        fprintf(t->out, "worker pid=%d at %s ", d->pid, at->name);
        print_end(d, t->out);
        return true;
    }
    if (row != NULL) {
        fprintf(t->out, "node %s is dead: %s\n", row->name, row->death);
        return true;
    }
    fputs("no node of the cluster had that identity, and no worker that lives or is remembered has "
          "it",
          t->out);
    print_silent(all, t->out);
    return false;
}

bool why_id_explain(struct nodes *all, const struct why_waits *waits, const char *id, FILE *out)
{
    struct telling t = {.all = all, .waits = waits, .out = out};
    uint8_t bytes[ID_OBJECT_SIZE];
    struct unique_id unique;
    struct what w;

    switch (why_id_parse(id)) {
    case WHY_ID_TASK:
        if (id_parse(id, bytes, ID_TASK_SIZE) && read_what(bytes, false, &w))
            return explain_what(&t, &w);
        break;
    case WHY_ID_OBJECT:
        if (id_parse(id, bytes, ID_OBJECT_SIZE) && read_what(bytes, true, &w))
            return explain_what(&t, &w);
        break;
    case WHY_ID_UNIQUE:
        if (id_parse(id, unique.bytes, sizeof unique.bytes))
            return explain_unique(&t, &unique);
        break;
    case WHY_ID_NONE:
        break;
    }
    fputs("no task has that identity\n", out);
    return false;
}
