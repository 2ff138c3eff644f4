/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_LEASE_H
#define RAYLET_LEASE_H
/*
 * Requests for leases and the leases themselves on one node. Pure: events with the time come in,
 * actions are appended. A request's units are answered once each (INV-18); resources are taken
 * before a worker is asked for and freed on every way out (INV-16); only the worker's word or its
 * death ends a lease (INV-11).
 *
 *   unit:  QUEUED -> STARTING (holds resources, a worker is asked for) -> lease, or an answer
 *   lease: LEASED <-> BLOCKED (holds no CPU) -> ended
 *
 * Jobs take turns, and in a job its owners; an owner's requests are served in their order, those
 * that do not fit are passed over. Equal (job, name, resources) are one class. A unit that waits
 * and would fit if leases of other owners or classes ended has as many of them revoked as it needs,
 * the oldest first; what they free is promised to it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "raylet/resources.h"

#define LEASE_TURN_MS    500  /* after this a busy lease makes way for others that wait */
#define LEASE_PROMISE_MS 2000 /* resources are kept for a promise; then, as long, they are not */
#define LEASE_SURPLUS_MS 1000
#define LEASE_WARN_MS    1000       /* what is known of other nodes may be as old */
#define LEASE_WHEN_IDLE  UINT32_MAX /* as grace_ms: end it once it is idle */

struct lease_table;

enum lease_kind {
    LEASE_START,    /* job: ask its pool for a worker */
    LEASE_UNSTART,  /* job: one less */
    LEASE_GRANT,    /* owner, ticket, lease, worker */
    LEASE_CANCELED, /* owner, ticket, count */
    LEASE_REFUSED,  /* owner, ticket, count, text: ERR_START_FAILED */
    LEASE_REJECTED, /* owner, ticket, count: of lease_request_now or _soon, what could not start */
    LEASE_REVOKE,   /* worker, lease, grace_ms */
    LEASE_RELEASE,  /* worker: back to the pool */
    LEASE_KILL,     /* worker, lease: runs for an owner that is gone (INV-7) */
    LEASE_DEAD,     /* owner, lease, worker: its worker died */
    LEASE_WARN,     /* owner, text: infeasible; it stays queued, as in Ray. Once a class */
};

struct lease_action {
    enum lease_kind kind;
    uint32_t job, owner, worker, count, grace_ms;
    uint64_t ticket, lease;
    /* of WARN: as long as the job; of REFUSED: until the next lease_worker_failed */
    const char *text;
};

struct lease_actions { /* the caller's: it frees v and sets n = 0 when it has carried them out */
    struct lease_action *v;
    size_t n, room;
};

struct lease_stats {
    unsigned n_queued, n_starting, n_leased, n_blocked; /* a blocked one is a leased one */
};

/* resources is borrowed: the ledger this table alone changes. */
struct lease_table *lease_table_create(struct resources *resources);
/* Lease numbers begin above this; before the first. */
void lease_table_number(struct lease_table *t, uint64_t first);
/* Other nodes may take what this one never could: nobody is warned but by lease_looked. Before the
 * first request. */
void lease_table_share(struct lease_table *t);
/* The same, and nothing starts here, whatever it needs. */
void lease_table_close(struct lease_table *t);
void lease_table_destroy(struct lease_table *t);

/* Units that an owner asks for. An owner is of one job. */
struct lease_ask {
    uint32_t job, owner, count;
    uint64_t ticket;
    const struct res_set *need; /* borrowed for the call, and so name */
    const char *name;           /* of the class */
};
/* Units are added to what the ticket already asks for. */
void lease_request(struct lease_table *t,
                   const struct lease_ask *a,
                   uint64_t now_ms,
                   struct lease_actions *out);
/* The same, but units that do not start in this event are answered by one REJECTED: of an owner on
 * another node, whose raylet looks further. */
void lease_request_now(struct lease_table *t,
                       const struct lease_ask *a,
                       uint64_t now_ms,
                       struct lease_actions *out);

/* The same, for an owner that would rather have them here than anywhere: units for which leases
 * that were told to make way leave room wait for these, promised. */
void lease_request_soon(struct lease_table *t,
                        const struct lease_ask *a,
                        uint64_t now_ms,
                        struct lease_actions *out);

/* Units that wait, by class, for who may know of room elsewhere. Promised ones do not count. */
struct lease_class {
    struct task_class *class; /* the table's */
    uint32_t job, count;
    bool is_feasible; /* here, some time */
    const char *name;
    unsigned n_need;
    struct res_amount need[RES_AMOUNTS_MAX];
};
/* The first one, and the next one; false: there is none any more. Nothing but lease_take may come
 * between. */
bool lease_first_waiting(const struct lease_table *t, struct lease_class *c);
bool lease_next_waiting(const struct lease_table *t, struct lease_class *c);
/* It was looked whether a node could ever take it. WARN, once a class, if none was found by any
 * look for LEASE_WARN_MS while units of it waited: one may be new. */
void lease_looked(const struct lease_class *c,
                  bool is_found,
                  uint64_t now_ms,
                  struct lease_actions *out);
/* Up to k waiting units of the class leave the table, which owes them no answer any more: at most
 * max parts of requests. Owners share, and then it is others' turn; an owner's oldest go first.
 * Returns how many parts. */
struct lease_unit {
    uint32_t owner, count;
    uint64_t ticket, asked_ms; /* the oldest of them */
};
size_t lease_take(struct lease_table *t,
                  const struct lease_class *c,
                  uint32_t k,
                  struct lease_unit *out,
                  size_t max);
/* Units that were taken, or sent elsewhere as they came, wait here again: before what their owner
 * asked for since. Else as lease_request. */
void lease_put_back(struct lease_table *t,
                    const struct lease_ask *a,
                    uint64_t now_ms,
                    struct lease_actions *out);
/* Units of this ticket that wait here have waited since then, elsewhere. */
void lease_asked_at(struct lease_table *t, uint32_t owner, uint64_t ticket, uint64_t asked_ms);
/* What a request that comes now could take, by the ledger's indices: what is available less what is
 * kept for promises. May be below zero. To be told to others, who else send what is rejected. */
void lease_get_room(const struct lease_table *t, uint64_t now_ms, int64_t room[RESOURCES_MAX]);

/* Answered by one CANCELED for all units that are not granted; by nothing if all are. */
void lease_cancel(struct lease_table *t,
                  uint32_t owner,
                  uint64_t ticket,
                  uint64_t now_ms,
                  struct lease_actions *out);
/* The owner needs it no more. Someone else's or an ended lease is ignored. */
void lease_return(struct lease_table *t,
                  uint32_t owner,
                  uint64_t lease,
                  uint64_t now_ms,
                  struct lease_actions *out);
/* Answers a LEASE_START of this job. */
void lease_worker_ready(struct lease_table *t,
                        uint32_t job,
                        uint32_t worker,
                        uint64_t now_ms,
                        struct lease_actions *out);
/* No worker of this job can be started: everything in it that asked for one is refused with the
 * sentence (copied). */
void lease_worker_failed(struct lease_table *t,
                         uint32_t job,
                         const char *text,
                         uint64_t now_ms,
                         struct lease_actions *out);
/* The next three are the worker's word on its own lease; about any other, or twice, they are
 * ignored (INV-20). */
void lease_ended(struct lease_table *t,
                 uint32_t worker,
                 uint64_t lease,
                 uint64_t now_ms,
                 struct lease_actions *out);
void lease_blocked(struct lease_table *t,
                   uint32_t worker,
                   uint64_t lease,
                   uint64_t now_ms,
                   struct lease_actions *out);
void lease_unblocked(struct lease_table *t, uint32_t worker, uint64_t lease);
void lease_worker_died(struct lease_table *t,
                       uint32_t worker,
                       uint64_t now_ms,
                       struct lease_actions *out);
/* Nothing is said to it any more; its leases end (INV-12). A worker that died is an owner that
 * died, too. */
void lease_owner_died(struct lease_table *t,
                      uint32_t owner,
                      uint64_t now_ms,
                      struct lease_actions *out);
/* All its owners and workers have died: what is known of the job is forgotten. */
void lease_job_ended(struct lease_table *t, uint32_t job);
/* n_workers beyond n_cpus and beyond the blocked ones are a surplus when nothing has waited for
 * LEASE_SURPLUS_MS: as many leases are asked to end when idle, each at most once in that time. */
void lease_on_time(struct lease_table *t,
                   unsigned n_workers,
                   unsigned n_cpus,
                   uint64_t now_ms,
                   struct lease_actions *out);

/* When to call lease_on_time next, by the same numbers; it may be past when a kill or a surplus is
 * overdue, and is ahead once lease_on_time has run. UINT64_MAX: after an event. */
uint64_t lease_next_deadline(const struct lease_table *t, unsigned n_workers, unsigned n_cpus);
/* Of one job; 0: of all. */
void lease_get_stats(const struct lease_table *t, uint32_t job, struct lease_stats *out);

/* Why the units of a class that are queued do not start, as of the last event. */
enum lease_wait {
    LEASE_WAIT_NOTHING,  /* none is queued */
    LEASE_WAIT_NEVER,    /* this node has less of one resource than a unit needs, or none */
    LEASE_WAIT_TAKEN,    /* too little of one resource is free */
    LEASE_WAIT_PROMISED, /* it is free, and kept for those who have waited for long */
};
/* What a class wants and has. Names are the table's. */
struct lease_use {
    uint32_t job;
    const char *name;
    uint32_t n_queued, n_starting, n_leased, n_blocked; /* units; a blocked one is a leased one */
    uint64_t asked_ms, start_ms; /* of the oldest that is queued, that waits for its worker */
    enum lease_wait wait;
    const char *lacking; /* of NEVER and TAKEN: which resource */
    unsigned n_need;
    struct res_amount need[RES_AMOUNTS_MAX];
};
/* All classes that have units or leases, to be freed; how many. */
size_t lease_list_uses(struct lease_table *t, struct lease_use **out);
/* The lease that this worker has; name: its class's, the table's. false: none. */
struct lease_held {
    const char *name;
    uint32_t owner;
    bool is_blocked;
    uint64_t granted_ms;
};
bool lease_look_at(const struct lease_table *t, uint32_t worker, struct lease_held *out);
/* Ledger against units and leases; one lease a worker; asserts. */
void lease_selfcheck(const struct lease_table *t);

#endif /* RAYLET_LEASE_H */
