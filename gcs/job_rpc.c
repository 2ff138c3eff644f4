/* SPDX-License-Identifier: Apache-2.0 */
/* The service of the jobs. */
#include <stdlib.h>
#include <string.h>

#include "gcs/job_codec.h"
#include "gcs/job_table.h"
#include "gcs/message_codec.h"
#include "gcs/server_private.h"
#include "lib/base/alloc.h"
#include "proto/gcs.pb-c.h"

/* A row that is on its way to the store. */
struct writing {
    struct asking asking;
    uint32_t job; /* 0: it is numbered by the store */
    struct job_row row;
};

static struct writing *writing(struct gcs_server *g,
                               struct rpc_call *call,
                               uint32_t job,
                               const struct job_row *row)
{
    struct writing *w = xmalloc(sizeof *w);

    *w = (struct writing){.asking = {.server = g, .call = call}, .job = job, .row = *row};
    return w;
}

static void reply_added(struct rpc_call *call, uint32_t job)
{
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__AddJobReply reply = RAY__RPC__ADD_JOB_REPLY__INIT;
    uint8_t id[4];

    job_id_bytes(job, id);
    reply.status = &fine;
    reply.job_id = (ProtobufCBinaryData){sizeof id, id};
    message_reply(call, &reply.base);
}

static void on_numbered(void *arg, enum err_code code, uint32_t job)
{
    struct writing *w = arg;

    if (code != ERR_NONE) {
        gcs_fail(w->asking.server, w->asking.call, code, "add the job");
    } else {
        gcs_pubsub_tell_job(w->asking.server, job, &w->row);
        reply_added(w->asking.call, job);
    }
    free(w);
}

static void on_put(void *arg, enum err_code code)
{
    const struct writing *w = arg;

    on_numbered(arg, code, w->job);
}

/* With a number it had from GetNextJobID, or without. */
static void on_add(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__AddJobRequest *m = message_of(call, &ray__rpc__add_job_request__descriptor);
    struct job_row row;
    uint32_t job;

    if (m == NULL)
        return;
    if (m->data == NULL || job_row_of_message(m->data, &job, &row) != 0) {
        rpc_call_fail(call, ERR_INVALID, "a job's id has four bytes, not all 0 or 0xff");
    } else {
        if (row.start_ms == 0)
            row.start_ms = gcs_wall_ms();
        if (job == 0) {
            job_table_add(g->store, &row, on_numbered, writing(g, call, 0, &row));
        } else {
            job_table_hold(g->store, job, 0, NULL, NULL);
            job_table_put(g->store, job, &row, on_put, writing(g, call, job, &row));
        }
    }
    ray__rpc__add_job_request__free_unpacked(m, NULL);
}

/* --- end --- */

static void on_finished(void *arg, enum err_code code)
{
    struct asking *a = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__MarkJobFinishedReply reply = RAY__RPC__MARK_JOB_FINISHED_REPLY__INIT;

    reply.status = &fine;
    if (code != ERR_NONE)
        gcs_fail(a->server, a->call, code, "finish the job");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void on_ended(void *arg, enum err_code code)
{
    struct writing *w = arg;
    struct asking *a = asking(w->asking.server, w->asking.call);

    if (code == ERR_NONE)
        gcs_pubsub_tell_job(a->server, w->job, &w->row);
    free(w);
    on_finished(a, code);
}

static void on_found(void *arg, enum err_code code, uint32_t job, const struct job_row *row)
{
    struct asking *a = arg;

    if (code != ERR_NONE || row->end_ms != 0) {
        on_finished(a, code);
    } else {
        struct writing *w = writing(a->server, a->call, job, row);
        w->row.end_ms = gcs_wall_ms();
        free(a);
        job_table_end(w->asking.server->store, job, &w->row, on_ended, w);
    }
}

static void on_finish(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    Ray__Rpc__MarkJobFinishedRequest *m =
        message_of(call, &ray__rpc__mark_job_finished_request__descriptor);
    uint32_t job;

    if (m == NULL)
        return;
    if (job_id_of_bytes(m->job_id.data, m->job_id.len, &job) != 0)
        rpc_call_fail(call, ERR_INVALID, "a job's id has four bytes, not all 0 or 0xff");
    else
        job_table_get(g->store, job, on_found, asking(g, call));
    ray__rpc__mark_job_finished_request__free_unpacked(m, NULL);
}

/* --- numbers and lists --- */

static void on_next_number(void *arg, enum err_code code, uint32_t job)
{
    struct asking *a = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GetNextJobIDReply reply = RAY__RPC__GET_NEXT_JOB_IDREPLY__INIT;

    reply.status = &fine;
    reply.job_id = (int32_t)job;
    if (code != ERR_NONE)
        gcs_fail(a->server, a->call, code, "number a job");
    else
        message_reply(a->call, &reply.base);
    free(a);
}

static void on_get_next(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;

    job_table_next(g->store, on_next_number, asking(g, call));
}

struct listing {
    struct asking asking;
    Ray__Rpc__JobTableData **jobs;
    size_t n;
};

static void on_listed(void *arg, enum err_code code, uint32_t job, const struct job_row *row)
{
    struct listing *l = arg;
    Ray__Rpc__GcsStatus fine = RAY__RPC__GCS_STATUS__INIT;
    Ray__Rpc__GetAllJobInfoReply reply = RAY__RPC__GET_ALL_JOB_INFO_REPLY__INIT;

    if (row != NULL) {
        size_t size;
        void *bytes = job_row_pack(job, row, &size);
        if ((l->n & (l->n - 1)) == 0)
            l->jobs = xrealloc(l->jobs, 2 * (l->n + 1) * sizeof *l->jobs);
        l->jobs[l->n] = ray__rpc__job_table_data__unpack(NULL, size, bytes);
        l->n += l->jobs[l->n] != NULL;
        free(bytes);
        return;
    }
    reply.status = &fine;
    reply.n_job_info_list = l->n;
    reply.job_info_list = l->jobs;
    if (code != ERR_NONE)
        gcs_fail(l->asking.server, l->asking.call, code, "list the jobs");
    else
        message_reply(l->asking.call, &reply.base);
    for (size_t i = 0; i < l->n; i++)
        ray__rpc__job_table_data__free_unpacked(l->jobs[i], NULL);
    free(l->jobs);
    free(l);
}

static void on_get_all(void *arg, struct rpc_call *call)
{
    struct gcs_server *g = arg;
    struct listing *l = xcalloc(1, sizeof *l);

    l->asking = (struct asking){.server = g, .call = call};
    job_table_scan(g->store, on_listed, l);
}

const struct rpc_method gcs_job_methods[] = {
    {"/ray.rpc.JobInfoGcsService/AddJob", on_add},
    {"/ray.rpc.JobInfoGcsService/MarkJobFinished", on_finish},
    {"/ray.rpc.JobInfoGcsService/GetAllJobInfo", on_get_all},
    {"/ray.rpc.JobInfoGcsService/GetNextJobID", on_get_next},
    {NULL, NULL},
};
