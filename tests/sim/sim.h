/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H
/*
 * Many nodes, each a driver, a raylet and its workers, on a virtual clock, made of the deciding
 * modules themselves: submit, inbox and ref_table in every process, lease, resources and
 * worker_pool in every raylet. What the rest of lib/core and raylet does with their actions is
 * done here in the same order. Frames of a pair arrive in order after seeded delays.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/core/inbox.h"
#include "lib/core/ref_table.h"
#include "lib/core/submit.h"
#include "raylet/lease.h"
#include "raylet/worker_pool.h"

#define SIM_CPUS   4 /* of a node, at most */
#define SIM_ACCELS 2
#define SIM_SLOTS  128 /* processes of a node at a time */
#define SIM_DRIVER 0   /* its slot */
#define SIM_WORDS  64  /* refs that a program keeps at a time */
#define SIM_ARGS   3
#define MS         1000000ull
#define NOBODY     UINT32_MAX

enum sim_class {
    CLASS_SHORT,  /* 1 CPU, microseconds */
    CLASS_HALF,   /* 0.5 CPU */
    CLASS_WIDE,   /* 2 CPU, milliseconds */
    CLASS_ACCEL,  /* a custom resource, no CPU */
    CLASS_NESTED, /* 1 CPU; submits tasks of its own and waits for them */
    N_CLASSES
};

/* What the world between the modules does wrong on purpose; each must be caught. */
enum sim_fault {
    FAULT_NONE,
    FAULT_DEATH_OVERTAKES, /* the death notice arrives before what the worker wrote */
    FAULT_NO_STARTED_BIT,  /* a body starts without it */
    FAULT_END_LOST,        /* a lease's end does not reach the raylet */
    FAULT_RESULT_LOST,     /* nor a result its owner */
    N_FAULTS
};

enum sim_kind {
    /* to the raylet */
    REQUEST,
    CANCEL,
    RETURN,
    HELLO,
    ENDED,
    BLOCKED,
    UNBLOCKED,
    EXITED,
    DUE,
    TICK, /* is the node over? */
    RAYLET_STOP,
    RAYLET_GO_ON,
    /* to an owner */
    GRANT,
    CANCELED,
    REFUSED,
    DEAD,
    DONE,
    RETURNED,
    BOUNCED,
    OWNER_ENDED,
    /* to a worker */
    BEGIN,
    REVOKE,
    EXIT,
    PUSH,
    TAKE_BACK,
    OWNER_GONE,
    /* to itself */
    STEP, /* of its program */
    TIMER,
    STOP,
    GO_ON,
    KILL,
};

struct sim_event {
    uint64_t at, order;
    enum sim_kind kind;
    uint32_t node;
    uint32_t slot;   /* the process it is for, or, at the raylet, from; */
    uint64_t serial; /* of that process: if another has the slot it is dropped */
    uint32_t peer;   /* the other process */
    uint64_t peer_serial;
    uint64_t id, mask, task; /* lease or ticket */
    uint32_t count;
    uint8_t place, phase; /* in the window; of DEAD phase: the mask counts, of REFUSED: busy */
};

/* A task of the node as the simulator knows it. */
struct sim_task {
    uint32_t owner;
    uint64_t owner_serial;
    enum sim_class class;
    unsigned depth, n_args;
    uint32_t args[SIM_ARGS]; /* tasks */
    unsigned n_started, n_ended;
    unsigned attempt; /* when it ended */
    unsigned meeting; /* its body goes on until all of that meeting have started; 0: none */
    bool always_dies, failed, by_argument, by_refusal, result_is_out;
};

/* What runs in a process: a driver's main or a task's body. */
struct program {
    bool running, blocked;
    uint64_t task; /* of a body */
    uint8_t place;
    unsigned n_to_submit, depth;
    uint64_t started_at;
    uint64_t words[SIM_WORDS];
    uint64_t tasks[SIM_WORDS]; /* what the words stand for */
    unsigned n_words;
    uint64_t awaited; /* word that a get waits for, 0 none */
};

struct process {
    struct node *node;
    uint32_t slot;
    uint64_t serial; /* the pool's token; never used again in the node */
    bool alive, stopped, refused;
    struct sim_event *deferred; /* while stopped */
    size_t n_deferred, deferred_room;
    uint64_t timer_at;

    struct ref_table *refs;
    struct submit *submit;
    unsigned n_pending;
    uint32_t *owed; /* unanswered units by ticket */
    size_t n_owed;

    struct inbox *inbox;
    uint32_t lease_owner; /* NOBODY */
    uint64_t lease_owner_serial;
    uint64_t mask_lease, started; /* the control block */
    uint64_t pushed_lease;        /* of the last push that came */
    uint64_t not_before;          /* a lease without a push that was revoked may not end */
    struct sim_event unsent[INBOX_SLOTS];
    unsigned n_unsent;

    struct program program;
    /* last delivery on each link */
    uint64_t from_raylet, to_raylet, to[SIM_SLOTS];
};

/* Nodes differ: what happens in a node makes other things rare in it. One in 0 is never. */
struct temper {
    unsigned n_cpus;
    unsigned kill_one; /* a body in so many brings a kill to its worker, now or a little later */
    unsigned stop_one;
    unsigned raylet_stop_one; /* ticks */
    unsigned nested_one;      /* of the tasks that could be nested */
    unsigned max_depth, max_children;
};

struct node {
    uint32_t number;
    struct temper temper;
    struct resources resources;
    struct lease_table *leases;
    struct worker_pool *pool;
    struct lease_actions la;
    struct worker_pool_actions pa;
    struct process *processes[SIM_SLOTS];
    uint64_t lease_of[SIM_SLOTS]; /* the raylet's word */
    struct sim_task *tasks;
    size_t n_tasks, tasks_room;
    unsigned n_frames;           /* on their way, and steps to come */
    unsigned meeting, n_missing; /* one at a time; of it, who has not started */
    uint64_t meeting_of;         /* serial of its owner */
    uint64_t bad_until;          /* no start succeeds */
    uint64_t due;                /* when the raylet wakes by itself */
    bool stopped;                /* the raylet */
    struct sim_event *deferred;
    size_t n_deferred, deferred_room;
    unsigned n_ticks_leaving;
    bool leaving, over;
};

struct sim {
    uint64_t now;
    enum sim_fault fault;
    struct node *nodes;
    uint32_t n_nodes;
    bool caught;
    char why[160];
};

extern struct sim sim;

/* clock.c */
void clock_begin(uint64_t seed);
void clock_end(void);
uint64_t sim_random(void);
uint64_t sim_below(uint64_t n);
bool sim_one_in(unsigned n);
void sim_post(struct sim_event e);
/* On a link: in order, after a delay of 1 us to 8 ms. */
void sim_send(uint64_t *link, struct sim_event e);
bool sim_next(struct sim_event *e); /* and advance the clock */
uint64_t sim_digest(void);          /* of all events so far */
void sim_caught(const struct node *n, const char *why);

/* process.c: what every process has; its owner's side */
struct process *process_create(struct node *n, uint32_t slot, uint64_t serial);
void process_destroy(struct process *p);
struct process *process_find(const struct node *n, uint32_t slot, uint64_t serial);
/* The program's call; 0: no memory. */
uint64_t process_submit(struct process *p,
                        enum sim_class class,
                        unsigned depth,
                        const uint64_t *args,
                        unsigned n_args);
void process_drop(struct process *p, uint64_t word);
/* Is it ready? If not, the program goes on when it is. */
bool process_get(struct process *p, uint64_t word, uint64_t task);
/* The task has started, or never will: its meeting, if that is going on, misses one less. */
void process_met(struct node *n, const struct sim_task *t);
void process_on_event(struct process *p, const struct sim_event *e);
/* Stops at once and for ever; the raylet hears of it later. */
void process_die(struct process *p);

/* worker.c: the executing side, and programs */
void worker_on_event(struct process *p, const struct sim_event *e);
void worker_turn(struct process *p);
void program_begin(struct process *p, uint64_t task, unsigned n_to_submit, unsigned depth);
void program_step(struct process *p);
void program_wake(struct process *p); /* what it waits for is there */

/* raylet.c */
void raylet_begin(struct node *n);
void raylet_on_event(struct node *n, const struct sim_event *e);
void raylet_end(struct node *n);

#endif /* TESTS_SIM_SIM_H */
