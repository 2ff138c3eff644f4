/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SIM_MACHINES_MACHINES_H
#define TESTS_SIM_MACHINES_MACHINES_H
/*
 * A cluster on a virtual clock: machines, each with the raylet's deciding modules themselves
 * (lease, resources, cluster_view, spill), joined by sessions that keep order and may pause for
 * seconds; a GCS whose word on nodes is late and sometimes wrong; drivers with tasks, whose leases
 * may be on any machine; deaths of workers, drivers and machines, and machines that come late or
 * drain; requests that name the machine that they would rather have. What the rest of the raylet
 * does with the modules' actions is done here in the same order. The owner's side is a plain one: a
 * task at a time on a lease.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gcs/node_sync.h"
#include "gcs/node_view.h"
#include "gcs/sync_way.h"
#include "raylet/cluster_view.h"
#include "raylet/lease.h"
#include "raylet/spill.h"
#include "tests/sim/sim.h"

#define HEAD        2 /* the machine where the GCS is */
#define CLASSES     5
#define TICKETS_MAX 4096 /* of a driver */

/* Kinds of events, in the place of sim_kind. */
enum machines_kind {
    /* to a raylet, from its own processes */
    M_REQUEST,
    M_CANCEL,
    M_RETURN,
    M_ENDED,
    M_EXITED,
    /* to a raylet, from another one */
    M_SPILL,
    M_SPILL_CANCEL,
    M_SPILL_RETURN,
    M_REJECTED,
    M_OWNER_GONE,
    M_SYNC_ASK,
    M_SYNC_ANSWER,
    /* to an owner */
    M_GRANT,
    M_CANCELED,
    M_REFUSED,
    M_DEAD,
    M_NODE_LOST,
    M_DONE,
    M_BOUNCED,
    M_LEASE_ENDED,
    /* to a worker */
    M_BEGIN,
    M_REVOKE,
    M_PUSH,
    /* by themselves */
    M_READY,
    M_FAIL,
    M_FINISH,
    M_ASK,
    M_DUE,
    M_SYNC,
    M_REPORT,
    M_WAY,
    M_SYNC_HELD,
    M_JOIN,
    M_DRAIN,
    M_KILL,
    M_KILL_MACHINE,
    /* to the GCS; node: of whom */
    M_DECLARE_DEAD,
    M_GCS_TICK,
    M_OVERDUE,
    M_ALONE,
    M_CUT,
    M_LOOK,
};

/* In sim_event: node, slot: the machine and the process (0: the raylet) it is for; peer_serial,
 * peer: from whom; id: ticket or lease; place: class. */

struct ticket {
    uint32_t owed; /* units */
    unsigned class;
    bool canceled;
};

struct held {
    uint64_t lease;
    uint32_t worker, machine, task; /* 0: none; tasks are numbered from 1 */
    unsigned class;
};

struct owner {
    uint32_t number, machine;
    unsigned n_queued[CLASSES], n_owed[CLASSES], n_left; /* tasks; units */
    uint32_t queue[CLASSES][512];
    struct ticket tickets[TICKETS_MAX];
    uint32_t n_tickets;
    struct held *held;
    size_t n_held, held_room;
    uint8_t *talked; /* by machine */
    bool alive, asks;
    uint32_t makes_room;           /* the machine of the lease that was returned last, or 0 */
    uint8_t n_done[CLASSES * 512]; /* by task */
};

struct worker {
    uint32_t number, machine, job;
    uint64_t lease; /* 0: none */
    uint32_t owner, owner_machine, task;
    bool alive, revoked, has_run; /* anything on this lease */
};

struct machine {
    uint32_t number; /* from 1 */
    bool joined, alive, draining, spill_due;
    struct resources resources;
    struct lease_table *leases;
    struct lease_actions la;
    struct cluster_view *view;
    struct spill *spill;
    struct spill_actions sa;
    uint32_t *idle;
    size_t n_idle, idle_room;
    uint8_t *knows_dead;           /* by machine */
    uint64_t *not_before[CLASSES]; /* by machine: it has rejected such a unit; ms */
    uint64_t seen_version, due, told_ms;
    struct node_view told;
    struct sync_way way;
    uint64_t way_due, died_ms;
    int n_cuts; /* it does not reach the GCS */
    uint32_t good, turn;
};

struct cluster {
    struct machine *machines; /* by number; 0 is none */
    uint32_t n_machines;
    struct owner **owners;   /* by process number, or NULL */
    struct worker **workers; /* the same */
    uint64_t *last;          /* the last delivery to a process of its machine, by number */
    uint32_t n_processes, processes_room;
    uint32_t *owner_numbers;
    size_t n_owners;
    uint64_t *links;         /* last delivery from machine to machine */
    struct node_view *board; /* the GCS's, by machine */
    uint64_t version;
    struct node_sync *gcs;
    uint64_t waited_ms, stopped_ms; /* it could not know, until then */
    size_t n_silent;                /* deaths by silence */
    unsigned n_left;                /* tasks of owners that live */
    size_t n_tasks, n_moves, n_deaths, n_rejected;
    uint64_t done_ms;
};
extern struct cluster *cluster;

/* main.c */
__attribute__((format(printf, 1, 2))) void says(const char *format, ...);
uint64_t now_ms(void);
/* A number for a process; its slots are empty. */
uint32_t new_process(void);
/* From one process, or raylet, to another. */
void send_event(uint32_t from_machine, struct sim_event e);
void post_event(enum machines_kind kind,
                uint32_t machine,
                uint32_t process,
                uint64_t id,
                uint64_t in_ns);
/* Nothing arrives either way before that, ns. */
void pause_links(uint32_t a, uint32_t b, uint64_t until);

/* gcs.c */
void gcs_begin(void);
void gcs_add(const struct machine *m);
void gcs_hear(const struct machine *m);
void gcs_set_dead(uint32_t k);
/* false: not for it. */
bool gcs_on_event(const struct sim_event *e);
void way_begin(struct machine *m);
void way_on_answer(struct machine *m);
void way_on_time(struct machine *m, uint64_t due);
void way_on_ask(struct machine *m, uint32_t from);
void way_on_held(const struct machine *m, uint32_t from);
void way_on_passed(struct machine *m, uint32_t by);

/* raylet.c */
void machine_begin(uint32_t number);
void machine_end(struct machine *m);
void machine_join(struct machine *m);
void machine_die(struct machine *m);
void machine_on_event(struct machine *m, const struct sim_event *e);
/* A frame from another machine for a process of this one passes. false: it is nobody's. */
bool machine_passes(struct machine *m, const struct sim_event *e);
/* It calls the GCS, which answers. */
void machine_sync(struct machine *m);
/* The GCS hears of it what it says now. */
void machine_report(struct machine *m);
void machine_take_news(struct machine *m);
void machine_check_end(const struct machine *m);
void set_need(const struct machine *m, unsigned class, struct res_set *set);

/* owner.c */
void owner_begin(struct machine *m, unsigned n_tasks);
void owner_on_event(struct owner *o, const struct sim_event *e);
void owner_die(struct owner *o);
void owner_check_end(const struct owner *o);
void executor_on_event(struct worker *w, const struct sim_event *e);
void executor_die(struct worker *w);

#endif /* TESTS_SIM_MACHINES_MACHINES_H */
