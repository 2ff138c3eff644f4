/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "proto/node.pb-c.h"
#include "raylet/why_state.h"

#define COPY(to, from) snprintf(to, sizeof(to), "%s", (from) != NULL ? (from) : "")

static void free_class(struct why_class *c)
{
    free(c->need);
}

void why_state_fini(struct why_state *s)
{
    for (size_t i = 0; i < s->n_uses; i++)
        free_class(&s->uses[i].of);
    for (size_t i = 0; i < s->n_sent; i++)
        free_class(&s->sent[i].of);
    free(s->resources);
    free(s->uses);
    free(s->sent);
    free(s->jobs);
    free(s->processes);
    free(s->pulls);
    free(s->dead);
    *s = (struct why_state){.number = 0};
}

/* --- as bytes --- */

/* `count` messages in reply->field, made by init, each set by body, which sees it as `to` and the
 * element of `rows` as `from`. */
#define FILL(reply, field, init, count, rows, body)                                                \
    do {                                                                                           \
        (reply)->n_##field = (count);                                                              \
        (reply)->field = xcalloc((count) + 1, sizeof *(reply)->field);                             \
        for (size_t i_ = 0; i_ < (count); i_++) {                                                  \
            __typeof__(*(reply)->field) to = xmalloc(sizeof *to);                                  \
            const __typeof__(*(rows)) *from = &(rows)[i_];                                         \
            (reply)->field[i_] = to;                                                               \
            init(to);                                                                              \
            body                                                                                   \
        }                                                                                          \
    } while (0)

static Ray__C__TaskClass *make_class(const struct why_class *c)
{
    Ray__C__TaskClass *m = xmalloc(sizeof *m);

    ray__c__task_class__init(m);
    m->job = c->job;
    m->name = xstrdup(c->name);
    FILL(m, need, ray__c__amount__init, c->n_need, c->need, {
        to->name = xstrdup(from->name);
        to->units = from->units;
    });
    return m;
}

static ProtobufCBinaryData make_id(const struct unique_id *id)
{
    ProtobufCBinaryData d = {.len = sizeof id->bytes, .data = xmalloc(sizeof id->bytes)};

    memcpy(d.data, id->bytes, sizeof id->bytes);
    return d;
}

static void make_lists(Ray__C__GetStateReply *m, const struct why_state *s)
{
    FILL(m, resources, ray__c__node_amount__init, s->n_resources, s->resources, {
        to->name = xstrdup(from->name);
        to->total = from->units;
        to->available = from->available;
    });
    FILL(m, classes, ray__c__class_state__init, s->n_uses, s->uses, {
        to->of = make_class(&from->of);
        to->n_queued = from->n_queued;
        to->n_starting = from->n_starting;
        to->n_leased = from->n_leased;
        to->n_blocked = from->n_blocked;
        to->queued_ms = from->queued_ms;
        to->starting_ms = from->starting_ms;
        to->wait = from->wait;
        to->lacking = xstrdup(from->lacking);
    });
    FILL(m, sent, ray__c__sent_state__init, s->n_sent, s->sent, {
        to->of = make_class(&from->of);
        to->node = from->node;
        to->n = from->n;
        to->asked_ms = from->asked_ms;
        to->sent_ms = from->sent_ms;
    });
    FILL(m, jobs, ray__c__job_state__init, s->n_jobs, s->jobs, {
        to->job = from->number;
        to->home = from->home;
        to->driver_pid = from->driver_pid;
        to->n_held = from->n_held;
        to->held_ms = from->held_ms;
        to->is_fetching = from->is_fetching;
    });
    FILL(m, processes, ray__c__process_state__init, s->n_processes, s->processes, {
        to->number = from->number;
        to->pid = from->pid;
        to->id = make_id(&from->id);
        to->job = from->job;
        to->kind = from->kind;
        to->state = from->state;
        to->name = xstrdup(from->name);
        to->owner = from->owner;
        to->leased_ms = from->leased_ms;
        to->running_slot = from->running_slot;
        to->running_ms = from->running_ms;
    });
    FILL(m, dead, ray__c__dead_worker_state__init, s->n_dead, s->dead, {
        to->number = from->number;
        to->pid = from->pid;
        to->id = make_id(&from->id);
        to->job = from->job;
        to->name = xstrdup(from->name);
        to->how = xstrdup(from->how);
        to->ended_ms = from->ended_ms;
    });
    FILL(m, pulls, ray__c__pull_state__init, s->n_pulls, s->pulls, {
        to->stage = from->stage;
        to->node = from->node;
        to->n = from->n;
        to->bytes = from->bytes;
        to->quiet_ms = from->quiet_ms;
        to->why = xstrdup(from->why);
        to->is_file = from->is_file;
    });
}

void *why_state_pack(const struct why_state *s, size_t *size)
{
    Ray__C__GetStateReply *m = xmalloc(sizeof *m);

    ray__c__get_state_reply__init(m);
    m->node_id = make_id(&s->node);
    m->number = s->number;
    m->store_capacity = s->store_capacity;
    m->store_used = s->store_used;
    m->store_waiting = s->store_waiting;
    m->n_more = s->n_more;
    make_lists(m, s);
    void *bytes = xmalloc(ray__c__get_state_reply__get_packed_size(m) + 1);
    *size = ray__c__get_state_reply__pack(m, bytes);
    ray__c__get_state_reply__free_unpacked(m, NULL);
    return bytes;
}

/* --- of bytes --- */

static void take_id(const ProtobufCBinaryData *d, struct unique_id *out)
{
    *out = unique_id_nil();
    if (d->len == sizeof out->bytes)
        memcpy(out->bytes, d->data, sizeof out->bytes);
}

static void take_class(const Ray__C__TaskClass *m, struct why_class *out)
{
    if (m == NULL) /* of a newer node */
        return;
    out->job = m->job;
    COPY(out->name, m->name);
    out->need = xcalloc(m->n_need + 1, sizeof *out->need);
    out->n_need = (uint32_t)m->n_need;
    for (size_t i = 0; i < m->n_need; i++) {
        COPY(out->need[i].name, m->need[i]->name);
        out->need[i].units = m->need[i]->units;
    }
}

static void take_use(const Ray__C__ClassState *m, struct why_use *out)
{
    take_class(m->of, &out->of);
    out->n_queued = m->n_queued;
    out->n_starting = m->n_starting;
    out->n_leased = m->n_leased;
    out->n_blocked = m->n_blocked;
    out->queued_ms = m->queued_ms;
    out->starting_ms = m->starting_ms;
    out->wait = m->wait <= LEASE_WAIT_PROMISED ? (enum lease_wait)m->wait : LEASE_WAIT_NOTHING;
    COPY(out->lacking, m->lacking);
}

static void take_process(const Ray__C__ProcessState *m, struct why_process *out)
{
    out->number = m->number;
    out->pid = m->pid;
    take_id(&m->id, &out->id);
    out->job = m->job;
    out->kind = m->kind == WIRE_DRIVER ? WIRE_DRIVER : WIRE_WORKER;
    out->state = m->state >= WHY_PROCESS_STARTING && m->state <= WHY_PROCESS_DRIVER
                     ? (enum why_process_state)m->state
                     : WHY_PROCESS_IDLE;
    COPY(out->name, m->name);
    out->owner = m->owner;
    out->leased_ms = m->leased_ms;
    out->running_slot = m->running_slot;
    out->running_ms = m->running_ms;
}

static void take_dead(const Ray__C__DeadWorkerState *m, struct why_dead *out)
{
    *out = (struct why_dead){.number = m->number,
                             .pid = m->pid,
                             .job = m->job,
                             .ended_ms = m->ended_ms};
    take_id(&m->id, &out->id);
    COPY(out->name, m->name);
    COPY(out->how, m->how);
}

static void take_lists(const Ray__C__GetStateReply *m, struct why_state *out)
{
    out->n_resources = m->n_resources;
    out->resources = xcalloc(m->n_resources + 1, sizeof *out->resources);
    for (size_t i = 0; i < m->n_resources; i++) {
        COPY(out->resources[i].name, m->resources[i]->name);
        out->resources[i].units = m->resources[i]->total;
        out->resources[i].available = m->resources[i]->available;
    }
    out->n_uses = m->n_classes;
    out->uses = xcalloc(m->n_classes + 1, sizeof *out->uses);
    for (size_t i = 0; i < m->n_classes; i++)
        take_use(m->classes[i], &out->uses[i]);
    out->n_sent = m->n_sent;
    out->sent = xcalloc(m->n_sent + 1, sizeof *out->sent);
    for (size_t i = 0; i < m->n_sent; i++) {
        take_class(m->sent[i]->of, &out->sent[i].of);
        out->sent[i].node = m->sent[i]->node;
        out->sent[i].n = m->sent[i]->n;
        out->sent[i].asked_ms = m->sent[i]->asked_ms;
        out->sent[i].sent_ms = m->sent[i]->sent_ms;
    }
    out->n_jobs = m->n_jobs;
    out->jobs = xcalloc(m->n_jobs + 1, sizeof *out->jobs);
    for (size_t i = 0; i < m->n_jobs; i++)
        out->jobs[i] = (struct why_job){.number = m->jobs[i]->job,
                                        .home = m->jobs[i]->home,
                                        .driver_pid = m->jobs[i]->driver_pid,
                                        .n_held = m->jobs[i]->n_held,
                                        .held_ms = m->jobs[i]->held_ms,
                                        .is_fetching = m->jobs[i]->is_fetching};
    out->n_processes = m->n_processes;
    out->processes = xcalloc(m->n_processes + 1, sizeof *out->processes);
    for (size_t i = 0; i < m->n_processes; i++)
        take_process(m->processes[i], &out->processes[i]);
    out->n_dead = m->n_dead;
    out->dead = xcalloc(m->n_dead + 1, sizeof *out->dead);
    for (size_t i = 0; i < m->n_dead; i++)
        take_dead(m->dead[i], &out->dead[i]);
    out->pulls = xcalloc(m->n_pulls + 1, sizeof *out->pulls);
    for (size_t i = 0; i < m->n_pulls; i++) {
        struct why_pull *p = &out->pulls[out->n_pulls];
        const Ray__C__PullState *from = m->pulls[i];
        if (from->stage >= TRANSFER_N_STAGES)
            continue; /* of a newer node */
        *p = (struct why_pull){.stage = (enum transfer_stage)from->stage,
                               .node = from->node,
                               .n = from->n,
                               .bytes = from->bytes,
                               .quiet_ms = from->quiet_ms,
                               .is_file = from->is_file};
        COPY(p->why, from->why);
        out->n_pulls++;
    }
}

int why_state_unpack(const void *bytes, size_t size, struct why_state *out, struct err *err)
{
    Ray__C__GetStateReply *m = ray__c__get_state_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return err_set(err, ERR_PROTOCOL, "what answers there is no raylet of Ray");
    *out = (struct why_state){.number = m->number,
                              .store_capacity = m->store_capacity,
                              .store_used = m->store_used,
                              .store_waiting = m->store_waiting,
                              .n_more = m->n_more};
    take_id(&m->node_id, &out->node);
    take_lists(m, out);
    ray__c__get_state_reply__free_unpacked(m, NULL);
    return 0;
}

/* --- pages of refs --- */

void *why_refs_ask(uint32_t process, uint64_t from, size_t *size)
{
    Ray__C__GetRefsRequest m = RAY__C__GET_REFS_REQUEST__INIT;

    m.process = process;
    m.from = from;
    void *bytes = xmalloc(ray__c__get_refs_request__get_packed_size(&m) + 1);
    *size = ray__c__get_refs_request__pack(&m, bytes);
    return bytes;
}

int why_refs_asked(const void *bytes, size_t size, uint32_t *process, uint64_t *from)
{
    Ray__C__GetRefsRequest *m = ray__c__get_refs_request__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    *process = m->process;
    *from = m->from;
    ray__c__get_refs_request__free_unpacked(m, NULL);
    return 0;
}

void *why_refs_reply(const void *page, size_t page_size, size_t *size)
{
    Ray__C__GetRefsReply m = RAY__C__GET_REFS_REPLY__INIT;

    m.refs = (ProtobufCBinaryData){page_size, (uint8_t *)(uintptr_t)page};
    void *bytes = xmalloc(ray__c__get_refs_reply__get_packed_size(&m) + 1);
    *size = ray__c__get_refs_reply__pack(&m, bytes);
    return bytes;
}

int why_refs_replied(const void *bytes, size_t size, void **page, size_t *page_size)
{
    Ray__C__GetRefsReply *m = ray__c__get_refs_reply__unpack(NULL, size, bytes);

    if (m == NULL)
        return -1;
    *page_size = m->refs.len;
    *page = xmalloc(m->refs.len + 1);
    if (m->refs.len > 0)
        memcpy(*page, m->refs.data, m->refs.len);
    ray__c__get_refs_reply__free_unpacked(m, NULL);
    return 0;
}
