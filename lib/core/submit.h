/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_SUBMIT_H
#define LIB_CORE_SUBMIT_H
/*
 * The owner's side of leases (DESIGN D4): queues of tasks by scheduling class, leases and their
 * windows, how many more to ask for, what to take back, and what a death costs. Pure: an event and
 * the time come in, actions are appended to a list that the caller carries out in order before the
 * next event. Under the caller's lock.
 *
 *   task:   queued -> in a window (slot, phase) -> done | returned, bounced -> queued | worker dead
 * -> queued, failed unit:   requested (ticket) -> granted | canceled | refused, exactly once
 * (INV-18)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/list.h"
#include "lib/core/ref_table.h"

#define SUBMIT_WINDOW       64
#define SUBMIT_WINDOW_BYTES (1u << 20) /* of arguments in flight to one worker; one task always */
#define SUBMIT_AHEAD_NS     1000000u   /* of work a window holds */
#define SUBMIT_STALL_NS     200000u    /* without an answer, unstarted tasks are taken back */
#define SUBMIT_PAUSE_NS                                                                            \
    50000000u /* before a refused request is made again; doubles to 64 times this */
#define SUBMIT_LINGER_NS 500000000u /* an idle lease is kept where others cannot see that it is */

/* One leased worker. Owned by the submit; pointers are good until submit_forget. */
struct submit_lease {
    struct list node;
    struct list open; /* of those that may have room; idle ones first */
    uint64_t id;
    void *peer; /* the caller's */
    uint32_t class;
    uint32_t at;     /* node; 0: it has no number */
    uint64_t busy;   /* slots in use */
    uint64_t phases; /* what the started bit of each slot will be for the next task in it */
    uint32_t n_in_window, bytes_in_window;
    uint64_t progress_ns; /* last answer, or first push into an empty window */
    bool taking_back, ending;
    bool blocked; /* its body waits: gets nothing until it has answered */
    struct record *window[SUBMIT_WINDOW];
};

enum submit_kind {
    SUBMIT_PUSH,      /* task to lease, in task->u.task.window_slot with phase count */
    SUBMIT_REQUEST,   /* count units of class as ticket; at node, if it can be (0: any) */
    SUBMIT_CANCEL,    /* ticket */
    SUBMIT_TAKE_BACK, /* count tasks from lease */
    SUBMIT_RETURN,    /* lease id: nobody needs it */
    SUBMIT_FAIL,      /* task, for code (enum core_code) */
    SUBMIT_END,       /* lease is over: drop what points to it, then submit_forget */
};

struct submit_action {
    enum submit_kind kind;
    uint32_t class, count, node;
    uint64_t ticket; /* or lease id of RETURN */
    struct submit_lease *lease;
    struct record *task;
    uint32_t
        cause; /* FAIL: slot of the argument whose error is the task's, 0: class says the code */
};

/* Embedded, zeroed is empty; the caller sets n = 0 after carrying them out. */
struct submit_actions {
    struct submit_action *v;
    size_t n, room;
};

struct submit_stats {
    uint64_t n_queued, n_in_windows, n_leases, n_units;
};

struct submit;

/* max_units bounds the unanswered units of a class. */
struct submit *submit_create(uint32_t max_units);
void submit_destroy(struct submit *s);
/* From now on a lease that has been idle so long is returned; before, one that nobody else wants is
 * kept. For a cluster of several nodes: the raylets of others do not know which leases are idle. */
void submit_set_linger(struct submit *s, uint64_t ns);
/* A new class; numbers count from 0. */
uint32_t submit_add_class(struct submit *s);

/* The task has its arguments; node says near which it is to run, if that is not all the same. It is
 * pushed if a lease has room, else queued; FAILs if one of its arguments was an error, or when the
 * raylet is lost. */
void submit_task(struct submit *s,
                 struct record *task,
                 uint64_t now_ns,
                 struct submit_actions *out);
/* Whether a task of the class that is near no node would only join the queue: then submit_task
 * needs no time (0), and the caller says in the record since when it waits. */
bool submit_only_queues(const struct submit *s, uint32_t class);
/* One of the task's n_deps arguments is ready; the last one does what submit_task does. An error
 * among them fails the task only then, since others may still point to it. */
void submit_on_argument(struct submit *s,
                        struct record *task,
                        const struct record *argument,
                        uint64_t now_ns,
                        struct submit_actions *out);
/* What only time or a change of mind brings: more requests, cancels, take-backs. Call it before
 * sleeping. */
void submit_settle(struct submit *s, uint64_t now_ns, struct submit_actions *out);
/* When submit_settle has something to do without an event; UINT64_MAX never. */
uint64_t submit_next_deadline(const struct submit *s);

/* The lease is at that node. NULL: an unknown ticket, RETURN was appended; or the lease has ended
 * before. */
struct submit_lease *submit_on_grant(struct submit *s,
                                     uint64_t ticket,
                                     uint64_t lease,
                                     void *peer,
                                     uint32_t node,
                                     uint64_t now_ns,
                                     struct submit_actions *out);
void submit_on_canceled(struct submit *s,
                        uint64_t ticket,
                        uint32_t count,
                        uint64_t now_ns,
                        struct submit_actions *out);
/* No worker can be had for the class (ERR_INVALID, ERR_START_FAILED, ERR_INFEASIBLE ...): with the
 * last unit refused its queued tasks FAIL, unless a lease is left to run them; then more are asked
 * for after a pause. Returns how many. */
size_t submit_on_refused(struct submit *s,
                         uint64_t ticket,
                         uint32_t count,
                         struct submit_actions *out);
/* No worker can be had just now (ERR_FULL, ERR_TIMEOUT): asked for again after a pause that
 * doubles. */
void submit_on_busy(struct submit *s,
                    uint64_t ticket,
                    uint32_t count,
                    uint64_t now_ns,
                    struct submit_actions *out);
/* After END: the lease's memory is the next one's. */
void submit_forget(struct submit *s, struct submit_lease *l);
struct submit_lease *submit_find(const struct submit *s, uint64_t lease);
/* Any lease of that peer; NULL: it has none. */
struct submit_lease *submit_find_of(const struct submit *s, const void *peer);
/* The task of that slot, out of the window now; NULL: no such. run_ns feeds the window's size. */
struct record *submit_on_done(struct submit *s,
                              struct submit_lease *l,
                              unsigned slot,
                              uint32_t run_ns,
                              uint64_t now_ns);
/* The task of that slot, out of the window though it has not run: it cannot be pushed, or, claimed,
 * its worker took it and could not begin. NULL: no such. */
struct record *submit_withdraw(struct submit *s,
                               struct submit_lease *l,
                               unsigned slot,
                               bool claimed,
                               uint64_t now_ns);
/* After the DONEs of one read: fills the windows again. */
void submit_refill(struct submit *s, uint32_t class, uint64_t now_ns, struct submit_actions *out);
void submit_on_returned(struct submit *s,
                        struct submit_lease *l,
                        uint64_t mask,
                        bool asked,
                        uint64_t now_ns,
                        struct submit_actions *out);
/* The push to that slot came back; over: because the lease is over at the worker, so nothing more
 * goes there. */
void submit_on_bounced(struct submit *s,
                       struct submit_lease *l,
                       unsigned slot,
                       bool over,
                       uint64_t now_ns,
                       struct submit_actions *out);
/* The worker ended the lease: what is still in its window was never started. */
void submit_on_lease_ended(struct submit *s,
                           struct submit_lease *l,
                           uint64_t now_ns,
                           struct submit_actions *out);
/* The worker ended a lease that is not known. If it has not been granted yet its end, which comes
 * over another link, was faster: it is over when the grant comes. */
void submit_on_unknown_lease_ended(struct submit *s, uint64_t lease);
/* The window slots whose tasks had started, by the dead worker's word. */
uint64_t submit_ran(const struct submit_lease *l, uint64_t started);
/* started is the worker's word if known (else pass the complement of l->phases: nothing started).
 */
void submit_on_worker_dead(struct submit *s,
                           struct submit_lease *l,
                           uint64_t started,
                           uint64_t now_ns,
                           struct submit_actions *out);
/* Nothing will ever run again: every task in queue or window FAILs, every lease ENDs. */
void submit_on_raylet_lost(struct submit *s, struct submit_actions *out);

/* Expected run time of tasks of the class; 0 unknown. */
uint64_t submit_run_ns(const struct submit *s, uint32_t class);
void submit_get_stats(const struct submit *s, struct submit_stats *out);
void submit_selfcheck(const struct submit *s);

#endif /* LIB_CORE_SUBMIT_H */
