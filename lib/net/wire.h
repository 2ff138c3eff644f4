/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_WIRE_H
#define LIB_NET_WIRE_H
/*
 * What frames say between the processes of one machine. Hot bodies are packed structs that grow
 * only at the end: a receiver takes the fields it knows and ignores what follows; one shorter than
 * its first version is malformed. Numbers are never reused. Who sends what (R raylet, O owner: a
 * driver or worker, W worker, Z zygote):
 *
 *   O,W -> R  HELLO        R -> O,W  WELCOME          first frames of every link
 *   O -> R    LEASE_REQUEST, LEASE_CANCEL, LEASE_RETURN
 *   R -> O    LEASE_GRANT, LEASE_CANCELED, LEASE_REFUSED, WORKER_DEAD
 *   R -> W    LEASE_BEGIN, LEASE_REVOKE, EXIT         W -> R  LEASE_ENDED, BLOCKED, UNBLOCKED
 *   O -> W    TEMPLATE, PUSH, TAKE_BACK               W -> O  DONE, RETURNED, BOUNCED,
 * OWNER_LEASE_ENDED R -> O    LOG          O -> R  LEAVE              O -> R  INFO   R -> O
 * INFO_REPLY R -> Z    SPAWN        Z -> R  SPAWNED, EXITED any       ERROR, GOODBYE, ROUTE
 *
 * Owner and worker talk on a direct channel (a socketpair made by the raylet, its ends in GRANT and
 * BEGIN), or, when the fd could not be delivered, over their raylet links on a route bound by
 * ROUTE; the bodies are the same.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"

#define WIRE_PROTOCOL 1

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_WELCOME = 2,
    WIRE_ERROR = 3,
    WIRE_GOODBYE = 4,
    WIRE_ROUTE = 5,

    WIRE_LEASE_REQUEST = 16,
    WIRE_LEASE_CANCEL = 17,
    WIRE_LEASE_RETURN = 18,
    WIRE_LEASE_GRANT = 19,
    WIRE_LEASE_CANCELED = 20,
    WIRE_LEASE_REFUSED = 21,
    WIRE_WORKER_DEAD = 22,
    WIRE_LEASE_BEGIN = 23,
    WIRE_LEASE_REVOKE = 24,
    WIRE_LEASE_ENDED = 25,
    WIRE_BLOCKED = 26,
    WIRE_UNBLOCKED = 27,
    WIRE_EXIT = 28,

    WIRE_TEMPLATE = 40,
    WIRE_PUSH = 41,
    WIRE_TAKE_BACK = 42,
    WIRE_DONE = 43,
    WIRE_RETURNED = 44,
    WIRE_BOUNCED = 45,
    WIRE_OWNER_LEASE_ENDED = 46,

    WIRE_LOG = 60,
    WIRE_LEAVE = 61,
    WIRE_INFO = 62,
    WIRE_INFO_REPLY = 63,

    WIRE_SPAWN = 80,
    WIRE_SPAWNED = 81,
    WIRE_EXITED = 82,
};

enum wire_kind {
    WIRE_DRIVER = 1,
    WIRE_WORKER = 2,
    WIRE_ZYGOTE = 3,
};

/* O,W -> R. A worker names the start-up token it was spawned with; a driver sends 0. */
struct wire_hello {
    uint32_t protocol;
    uint32_t kind;
    uint64_t token;
    int32_t pid;
    uint32_t spare;
    char build[32]; /* of libray; a worker of another build is refused with a sentence */
} __attribute__((packed));

/* R -> O,W; FRAME_HAS_FD to a driver: the board's memfd (workers have it from their zygote).
 * Followed by strings: session folder \0 node name \0 log path of this worker (without .out/.err)
 * \0. */
struct wire_welcome {
    uint32_t protocol;
    uint32_t job;
    uint32_t process; /* this process's number in the job (D14) */
    uint32_t n_cpus;  /* of the node, whole */
    uint64_t wake_ns; /* measured; 0: not yet */
    struct unique_id cluster, node, worker;
    char build[32];
    uint32_t slot; /* of this process on the board */
} __attribute__((packed));

/* any -> any: typed refusal; followed by the sentence (not terminated). The sender closes the link.
 */
struct wire_error {
    uint32_t code; /* enum err_code */
} __attribute__((packed));

/* R -> O and R -> W: from now on frames with this route on this link go to and come from that
 * process. O,W -> R with route 0: this process has no descriptor left for the channel of this
 * lease; the lease is given up with nothing started, and the pair's next one comes with a route. */
struct wire_route {
    uint32_t route;
    uint32_t peer_process;
    uint64_t lease;
    struct unique_id peer;
} __attribute__((packed));

/* O -> R: count leases of the class described behind it. A ticket is answered exactly once per
 * unit: GRANT, CANCELED or REFUSED. Followed by n_resources of wire_resource (CPU first if any),
 * then the class name (function, for logs and why; not terminated). Equal descriptions are one
 * scheduling class. */
struct wire_resource {
    char name[48]; /* "CPU" or custom; terminated */
    int64_t units; /* 1/10000 */
} __attribute__((packed));
struct wire_lease_request {
    uint64_t ticket;
    uint32_t count;
    uint32_t depth;
    uint32_t n_resources;
} __attribute__((packed));
struct wire_lease_cancel {
    uint64_t ticket;
} __attribute__((packed));
struct wire_lease_return {
    uint64_t lease;
} __attribute__((packed));

/* R -> O. One unit of the ticket; FRAME_HAS_FD: the owner's end of a new channel to that worker.
 * Without the flag the pair has a channel already (same worker id). */
struct wire_lease_grant {
    uint64_t ticket, lease;
    int32_t pid;
    uint32_t process;
    struct unique_id worker;
    uint32_t slot; /* of the worker on the machine's board */
} __attribute__((packed));
struct wire_lease_canceled {
    uint64_t ticket;
    uint32_t count; /* units that will not be granted */
} __attribute__((packed));
/* followed by the sentence */
struct wire_lease_refused {
    uint64_t ticket;
    uint32_t count, code;
} __attribute__((packed));

/* R -> O, after waitpid: the lease is over. started: the worker's mask (see control_block.h), valid
 * for this lease if mask_lease == lease. Followed by the sentence, which names how it died and its
 * log. */
struct wire_worker_dead {
    uint64_t lease, mask_lease, started;
    int32_t pid, wait_status;
} __attribute__((packed));

/* R -> W. FRAME_HAS_FD as in GRANT, for the worker's end. */
struct wire_lease_begin {
    uint64_t lease;
    uint32_t owner_process, owner_slot;
    int32_t owner_pid;
    struct unique_id owner;
} __attribute__((packed));
/* R -> W: end the lease as soon as it is idle; when grace_ms have passed, return what is not
 * started and end it after the body that runs. */
struct wire_lease_revoke {
    uint64_t lease;
    uint32_t grace_ms;
} __attribute__((packed));
/* W -> R, and to the owner as OWNER_LEASE_ENDED after all DONE and RETURNED of it. */
struct wire_lease_ended {
    uint64_t lease;
} __attribute__((packed));
/* W -> R: strict toggle per lease (INV-20). */
struct wire_blocked {
    uint64_t lease;
} __attribute__((packed));

/* O -> W, once per channel and template, before the first PUSH that names it. Followed by the
 * function's name \0 and the task's display name \0. */
struct wire_template {
    uint16_t template;
    uint16_t n_returns;
    uint32_t flags; /* WIRE_TEMPLATE_* */
} __attribute__((packed));
#define WIRE_TEMPLATE_NO_RETRY 1u /* write the result before the next task starts */

/* O -> W: template + refs + arguments. Followed by n_args of { u32 size; u8 kind; bytes }. */
struct wire_push {
    uint64_t lease;
    uint64_t counter; /* task number of the owner: TaskID = (owner's process, counter) */
    uint16_t template;
    uint8_t slot;  /* in the window, 0..63 */
    uint8_t phase; /* 0 or 1: value of the slot's started bit that means "this task" */
    uint16_t n_args;
    uint16_t attempt;
} __attribute__((packed));
struct wire_arg {
    uint32_t size;
    uint8_t meta; /* enum wire_meta */
} __attribute__((packed));
enum wire_meta {
    WIRE_META_XLANG = 0, /* msgpack */
    WIRE_META_RAW = 1,   /* bytes as they are */
    WIRE_META_ERROR = 2, /* struct wire_failure */
};

/* O -> W: give back up to count unclaimed tasks, last pushed first. */
struct wire_take_back {
    uint64_t lease;
    uint32_t count;
} __attribute__((packed));

/* W -> O. Followed by n_returns of { wire_arg; bytes }. */
struct wire_done {
    uint64_t lease;
    uint8_t slot;
    uint8_t failed; /* 1: each return is a WIRE_META_ERROR */
    uint16_t n_returns;
    uint32_t run_ns; /* of the body; saturates */
} __attribute__((packed));
/* W -> O: these slots were not started and will not be. Answers TAKE_BACK (mask may be 0), and
 * unasked when the worker blocks. */
struct wire_returned {
    uint64_t lease, mask;
    uint32_t asked; /* 1: answers a TAKE_BACK */
} __attribute__((packed));
struct wire_bounced {
    uint64_t lease;
    uint8_t slot, reason; /* enum wire_bounce */
} __attribute__((packed));
enum wire_bounce {
    WIRE_BOUNCE_OLD_LEASE = 1,
    WIRE_BOUNCE_TEMPLATE = 2, /* unknown: send it again with its template */
};

/* A failed task's value (WIRE_META_ERROR): followed by text \0 function \0 file \0 log \0. */
struct wire_failure {
    uint32_t code; /* enum core_code */
    int32_t pid, signal;
    struct unique_id node;
} __attribute__((packed));

/* R -> driver: whole lines of a worker's stdout (1) or stderr (2); followed by the task name \0 and
 * the text. */
struct wire_log {
    int32_t pid;
    uint32_t stream;
} __attribute__((packed));

/* R -> O, answer to an empty INFO; followed by n_resources of wire_info_resource. */
struct wire_info_reply {
    uint32_t n_nodes, n_workers, n_resources;
    uint64_t start_ms; /* job start, wall clock */
} __attribute__((packed));
struct wire_info_resource {
    char name[48];
    int64_t total, available;
} __attribute__((packed));

/* R -> Z. With three fds in this order on three frames: SPAWN carries the worker's link; two more
 * SPAWN frames of the same token, body size sizeof only, carry the fd of its stdout and stderr file
 * and of its control block. */
struct wire_spawn {
    uint64_t token;
    uint32_t part; /* 0 link, 1 stdout, 2 stderr, 3 control block; the fork happens at part 3 */
    uint32_t slot;
} __attribute__((packed));
/* FRAME_HAS_FD: a pidfd of the worker. */
struct wire_spawned {
    uint64_t token;
    int32_t pid; /* -1: fork failed, error holds errno */
    int32_t error;
} __attribute__((packed));
struct wire_exited {
    int32_t pid, status; /* of waitpid; its descendants are killed */
} __attribute__((packed));

#endif /* LIB_NET_WIRE_H */
