/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_LEASE_PRIVATE_H
#define RAYLET_LEASE_PRIVATE_H
/*
 * What lease.c (leases, from their grant to their end) and lease_queue.c (units that wait, and who
 * of them starts) share. For them only.
 */
#include "lib/base/list.h"
#include "raylet/lease.h"

#define CLASS_NAME_MAX 48

/* One that has asked for leases; the one served longest ago is first. Until lease_job_ended. */
struct job {
    struct list node;
    uint32_t id;
    struct list classes, owners;
};

/* Interned: as long as the job. */
struct task_class {
    struct list node;
    struct job *job;
    struct res_set need;
    char name[CLASS_NAME_MAX];
    bool feasible, warned;
    bool is_lost; /* no node could ever take it, since lost_ms */
    uint64_t lost_ms;
    uint32_t n_queued, n_promised; /* of its requests */
    uint64_t no_fit_pass;          /* it does not fit in this pass of serve() */
    char text[256];                /* what is missing */
    size_t use;                    /* in lease_list_uses: its row, from 1 */
};

/* One that has requests; in its job the one served longest ago is first. Freed with its last
 * request. */
struct owner {
    struct list node;
    struct job *job;
    struct list requests;
    uint32_t id;
};

/* The queued units of a lease_request. */
struct request {
    struct list node;
    struct owner *owner;
    struct task_class *class;
    uint64_t ticket;
    uint32_t n_queued, n_promised; /* promised ones are among the queued */
    bool is_now;                   /* of lease_request_now or _soon, which has not returned yet */
    uint64_t promised_ms;          /* the first of them */
    uint64_t asked_ms;
};

/* A unit that holds resources and waits for its worker. */
struct start {
    struct list node;
    struct task_class *class;
    uint32_t owner;
    uint64_t ticket, since_ms;
};

struct lease {
    struct list node;
    struct task_class *class;
    uint64_t id, granted_ms;
    uint32_t owner, worker;
    bool blocked, owner_gone;
    bool revoked; /* told to make way, with grace_ms */
    uint32_t grace_ms;
    uint64_t due_ms;   /* of revoked: grace is over */
    uint64_t asked_ms; /* told to end when idle, last at this time; 0: never */
    uint64_t kill_ms;  /* of owner_gone; UINT64_MAX: done */
};

struct lease_table {
    struct resources *resources;
    struct list jobs, starts;
    struct list leases; /* oldest first */
    uint64_t first_id, last_id, pass, quiet_since_ms;
    uint64_t surplus_ms; /* when leases were last asked to end for there being too many workers */
    uint64_t now_ms;     /* of the last event */
    unsigned n_waiting;  /* queued units that are feasible */
    bool is_closed;      /* none is */
    bool is_shared;      /* other nodes may take what is not */
    char failure[192];
};

/* --- lease.c --- */
void lease_add_action(struct lease_actions *out, struct lease_action a);
/* NULL: it has ended, or never was. */
struct lease *lease_find(const struct lease_table *t, uint64_t id);

/* --- lease_queue.c --- */
/* NULL: it has asked for nothing. */
struct job *lease_find_job(const struct lease_table *t, uint32_t id);
/* NULL: nothing it asked for waits. */
struct owner *lease_find_owner(const struct lease_table *t, uint32_t id);
/* k queued units leave the request, n_promised of them promised ones; it and its owner may go. */
void lease_leave_queue(struct lease_table *t, struct request *q, uint32_t k, uint32_t n_promised);
/* Its owner or worker is to end it, at once when grace_ms is over. */
void lease_revoke(const struct lease_table *t,
                  struct lease *l,
                  uint32_t grace_ms,
                  struct lease_actions *out);
/* The end of each event: what fits starts, and leases are revoked for what does not. */
void lease_pump(struct lease_table *t, uint64_t now_ms, struct lease_actions *out);

#endif /* RAYLET_LEASE_PRIVATE_H */
