/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WHY_STATE_H
#define RAYLET_WHY_STATE_H
/*
 * What one node tells of what waits there, who has its resources and which processes it has: filled
 * by its raylet (why_run.c), as bytes on the way to the `ray` command (proto/node.proto), which
 * joins those of all nodes (why_view.h). Times are ages in ms when it was told. All arrays are the
 * state's.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/id.h"
#include "lib/net/wire.h"
#include "raylet/lease.h"
#include "raylet/transfer.h"

#define WHY_BYTES_MAX   (64u << 20)
#define WHY_CLASSES_MAX 10000 /* told of one node, those that wait first */

struct why_amount {
    char name[RESOURCE_NAME_MAX];
    int64_t units; /* needed, or in all */
    int64_t available;
};

/* A scheduling class. */
struct why_class {
    uint32_t job;
    char name[48];
    uint32_t n_need;
    struct why_amount *need;
};

/* See lease_use. */
struct why_use {
    struct why_class of;
    uint32_t n_queued, n_starting, n_leased, n_blocked;
    uint64_t queued_ms, starting_ms;
    enum lease_wait wait;
    char lacking[RESOURCE_NAME_MAX];
};

/* Units that another node was asked for, and has not answered. */
struct why_sent {
    struct why_class of;
    uint32_t node, n;
    uint64_t asked_ms, sent_ms;
};

/* A job that does not run there yet. */
struct why_job {
    uint32_t number;    /* 0: it waits for one */
    uint32_t home;      /* node of its driver; 0: this one */
    int32_t driver_pid; /* of a job of this node */
    uint32_t n_held;    /* units that wait for it */
    uint64_t held_ms;
    bool is_fetching; /* its executable; else its home was asked what it is made of */
};

enum why_process_state {
    WHY_PROCESS_STARTING = 1,
    WHY_PROCESS_IDLE = 2,
    WHY_PROCESS_LEASED = 3,  /* for tasks of the class `name` of process `owner` */
    WHY_PROCESS_BLOCKED = 4, /* the same; its body waits for objects */
    WHY_PROCESS_DRIVER = 5,
};
struct why_process {
    uint32_t number, job, owner;
    int32_t pid;
    struct unique_id id;
    enum wire_kind kind;
    enum why_process_state state;
    char name[48];
    uint64_t leased_ms;
    uint32_t running_slot; /* of the body that runs, in its lease's window, from 1; 0: none */
    uint64_t running_ms;
};
/* A worker that has ended. */
struct why_dead {
    uint32_t number, job;
    int32_t pid;
    struct unique_id id;
    char name[48]; /* of the function that it was leased for; "": none */
    char how[200]; /* "was killed by signal 9 (Killed)" */
    uint64_t ended_ms;
};

struct why_pull {
    enum transfer_stage stage;
    uint32_t node, n;
    uint64_t bytes, quiet_ms;
    char why[200];
    bool is_file;
};

struct why_state {
    struct unique_id node;
    uint32_t number;
    size_t n_resources, n_uses, n_sent, n_jobs, n_processes, n_pulls, n_dead;
    struct why_amount *resources;
    struct why_use *uses;
    struct why_sent *sent;
    struct why_job *jobs;
    struct why_process *processes;
    struct why_pull *pulls;
    struct why_dead *dead; /* the one that ended last comes last */
    uint64_t store_capacity, store_used;
    uint32_t store_waiting, n_more;
};

/* What it points to. */
void why_state_fini(struct why_state *s);
/* To be freed. */
void *why_state_pack(const struct why_state *s, size_t *size);
/* *out is good, for why_state_fini, if 0. -1: no such message. */
int why_state_unpack(const void *bytes, size_t size, struct why_state *out, struct err *err);

/* GetRefs: a page of a process's table, struct wire_refs and what follows. Bytes to be freed; -1:
 * no such message. *page is in memory of the caller's. */
void *why_refs_ask(uint32_t process, uint64_t from, size_t *size);
int why_refs_asked(const void *bytes, size_t size, uint32_t *process, uint64_t *from);
void *why_refs_reply(const void *page, size_t page_size, size_t *size);
int why_refs_replied(const void *bytes, size_t size, void **page, size_t *page_size);

#endif /* RAYLET_WHY_STATE_H */
