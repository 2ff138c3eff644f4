/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SIM_REFS_REFS_H
#define TESTS_SIM_REFS_REFS_H
/*
 * A world of references: processes, each with the real ref_table and borrow, whose programs put,
 * submit, get, keep and drop at random. Refs travel in arguments, results and values. A pair of
 * processes has two carriers, each in order, and changes between them. Processes are killed, with
 * what they had not yet got rid of, or exit. What lib/core does with the modules' actions is done
 * here in the same order.
 *
 * A world may have faults that the real one must not have: frames about borrows get lost, come
 * twice or out of their carrier's order, and say everything twice. Digests must repair what comes
 * of it. Two losses between the same processes are LOSS_NS apart, so that one is repaired while the
 * dead still hold what they handed on; and ops that a DONE follows, which does not wait for their
 * acknowledgement, stay ahead of it, since nothing could repair that.
 *
 * The rules for a process, beside those in borrow.h:
 *   - when an executor dies, its tasks' arguments are held for it, retried or not, as in a reply;
 *   - when the caller of the task that runs here dies, its arguments are registered at once.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/core/borrow.h"
#include "tests/sim/sim.h"

#define PROCESSES 512 /* ever, in one world */
#define REFS      4   /* in a frame */
#define HANDLES   16  /* of a program */
#define LOSS_NS   (15000 * MS)

struct ref {
    uint32_t owner;
    uint64_t word;
    size_t object; /* as the world counts; the real ones do not carry it */
};

enum frame_kind {
    FRAME_PUSH,
    FRAME_DONE,
    FRAME_GET,
    FRAME_VALUE,
    FRAME_OPS,
    FRAME_ACK,
    FRAME_SEEN,
    FRAME_DIGEST,
    FRAME_COMPARED,
    FRAME_LIST,
};

struct message {
    enum frame_kind kind;
    uint32_t from, to;
    bool is_used, is_lost, is_followed; /* by a DONE */
    unsigned carrier;
    uint64_t at;
    uint64_t counter; /* of the push; or the sequence of ops */
    uint64_t word;    /* of what is asked for */
    uint64_t local;   /* the asker's own word for it */
    size_t object;    /* the value's; 0: gone */
    uint32_t n_refs, n_words;
    struct ref refs[REFS];
    uint64_t *words;
    struct borrow_digest digest;
    struct borrow_range range;
    bool differs;
};

/* As the world knows it; number 0 is none. */
struct object {
    uint32_t owner;
    bool is_freed;
    unsigned n_records; /* of borrowers that live */
    uint32_t n_inner;
    size_t inner[REFS];
    unsigned visit;
};

struct call {
    uint64_t counter;
    uint32_t result, executor, n_args; /* slots */
    uint32_t args[REFS];
    unsigned attempt;
};

struct job {
    uint32_t caller, n_args;
    uint64_t counter;
    size_t result;
    uint64_t args[REFS]; /* local words, a hold each */
    unsigned n_steps;
    bool runs, is_orphan;
};

struct done {
    struct message frame;
    bool is_free;
};

struct asker {
    uint64_t word, local;
    uint32_t process;
};

struct refs_process {
    uint32_t number;
    bool is_alive, is_driver, steps, flushes, carrier[PROCESSES];
    uint64_t timer_at;
    uint32_t done_to; /* what is flushed now has a DONE to that process behind it */
    struct ref_table *refs;
    struct borrow *borrow;
    struct borrow_actions out;
    uint32_t handles[HANDLES], n_handles;
    struct call *tasks;
    struct job *jobs;
    struct done *dones;
    struct asker *askers;
    size_t n_tasks, n_jobs, n_dones, n_askers;
};

enum phase {
    RUNNING,
    PAUSING, /* tasks end, programs keep what they have */
    CLOSING, /* and drop it */
};

struct world {
    enum phase phase;
    uint64_t pace_ns; /* usual time between steps of a program */
    struct refs_process *processes[PROCESSES];
    uint32_t n_processes;
    struct message *messages;
    size_t n_messages, messages_room;
    struct object *objects;
    size_t n_objects, objects_room;
    unsigned visit;
    uint64_t counter;
    size_t n_sent, n_freed, n_deaths, n_lost;
    bool has_faults;
    uint32_t first_number; /* of ops */
    size_t n_faults, n_digests, n_repairs;
    uint64_t loss_at[PROCESSES][PROCESSES];
    uint64_t last[PROCESSES][PROCESSES][2];
    bool met[PROCESSES][PROCESSES], knows_dead[PROCESSES][PROCESSES];
};
extern struct world *world;

/* main.c: the space between the processes */
struct refs_process *world_find(uint32_t process); /* NULL: dead */
uint32_t world_random_process(uint32_t other_than);
void world_send(struct message f); /* words are taken over */
void world_post(const struct refs_process *p, enum sim_kind kind, uint64_t id, uint64_t in_ns);
void world_spawn(void);
void world_kill(struct refs_process *p, bool exits);

/* process.c */
struct refs_process *process_begin(uint32_t number, bool is_driver);
void process_end(struct refs_process *p);
void process_on_frame(struct refs_process *p, const struct message *f);
void process_on_death(struct refs_process *p, uint32_t dead);
void process_on_own_event(struct refs_process *p, enum sim_kind kind, uint64_t id);

/* oracle.c */
__attribute__((format(printf, 1, 2))) void oracle_says(const char *format, ...);
size_t oracle_new(uint32_t owner);
/* Would a value of that object that contains the other make a circle? */
bool oracle_reaches(size_t from, size_t to);
void oracle_freed(size_t object);
void oracle_at_rest(void);

#endif /* TESTS_SIM_REFS_REFS_H */
