/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_WIRE_H
#define LIB_NET_WIRE_H
/*
 * What frames say between the processes of one cluster; those of other machines come and go by way
 * of the raylets (docs/design/several-machines.md), as they are. Hot bodies are packed structs that
 * grow only at the end: a receiver takes the fields it knows and ignores what follows; one shorter
 * than its first version is malformed. Numbers are never reused. Who sends what (R raylet, O owner:
 * a driver or worker, W worker, Z zygote):
 *
 *   O,W -> R  HELLO        R -> O,W  WELCOME          first frames of every link
 *   O -> R    LEASE_REQUEST, LEASE_CANCEL, LEASE_RETURN
 *   R -> O    LEASE_GRANT, LEASE_CANCELED, LEASE_REFUSED, WORKER_DEAD, CHANNEL_END
 *   R -> W    LEASE_BEGIN, LEASE_REVOKE, EXIT         W -> R  LEASE_ENDED, BLOCKED, UNBLOCKED
 *   O -> W    TEMPLATE, PUSH, TAKE_BACK               W -> O  DONE, RETURNED, BOUNCED,
 * OWNER_LEASE_ENDED R -> O    LOG          O -> R  LEAVE              O -> R  INFO   R -> O
 * INFO_REPLY R -> Z    SPAWN        Z -> R  SPAWNED, EXITED any       ERROR, GOODBYE, ROUTE
 *   O,W -> R  STORE_LEND, STORE_RECORD, STORE_DOORBELL
 *   R -> O,W  STORE_FD, STORE_LENT, STORE_REFUSED, STORE_RECALL, PROCESS_DEAD
 *   O,W -> R  STORE_PULL, STORE_PULL_CANCEL, STORE_FREE_AT, STORE_SEEK
 *   R -> O,W  STORE_PULLED, STORE_PULL_FAILED, STORE_FOUND
 *   driver -> R  JOB_PART, HELLO, LEAVE     R -> driver  GOODBYE: all of its job has ended
 *   any process to any other: BORROW, BORROW_ACK, BORROW_DIGEST, BORROW_COMPARED, BORROW_LIST
 *   and also: SEEN, WANT, OBJECT, OBJECT_ACK; over routes CREDIT
 *   C -> R    HELLO, BOOKS_ASK, REFS_ASK, WHY_ASK     R -> C  WELCOME, BOOKS, REFS, WHY
 *   R -> O,W  REFS_ASK                                O,W -> R  REFS
 *             C: a `ray` command, over the session's socket (raylet/command_run.c)
 *
 * Owner and worker talk on a direct channel (a socketpair made by the raylet, its ends in GRANT and
 * BEGIN), or, when the fd could not be delivered, over their raylet links on a route bound by
 * ROUTE; the bodies are the same. Of a pair on two machines that route is WIRE_ROUTE_PROCESS with a
 * role and the other's process number: WIRE_ROUTE_OWNER at the lease's owner, WIRE_ROUTE_WORKER at
 * its worker. Any two processes may talk over the route WIRE_ROUTE_PROCESS +
 * process number, which needs no binding since process numbers are never used again: the raylet
 * puts the sender's number in its place, or answers PROCESS_DEAD. On a direct channel GOODBYE is
 * the last frame of each end: the owner's, after CHANNEL_END and the end of its leases there, and
 * the worker's answer to it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"
#include "lib/net/frame.h"

#define WIRE_PROTOCOL      8
#define WIRE_ROUTE_PROCESS 0x80000000u
#define WIRE_ROUTE_OWNER   0x40000000u /* the end that has this route owns the leases */
#define WIRE_ROUTE_WORKER  0x20000000u /* it is the worker */
#define WIRE_ROUTE_NUMBER  0x0fffffffu /* process numbers have 28 bits */
#define WIRE_SLOT_NONE     UINT32_MAX /* of a process of another machine: it is on no board of ours */

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
    WIRE_CHANNEL_END = 29,
    WIRE_STAYS = 30,

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
    WIRE_JOB_PART = 64,

    WIRE_SPAWN = 80,
    WIRE_SPAWNED = 81,
    WIRE_EXITED = 82,

    WIRE_STORE_FD = 96,
    WIRE_STORE_LEND = 97,
    WIRE_STORE_LENT = 98,
    WIRE_STORE_REFUSED = 99,
    WIRE_STORE_RECALL = 100,
    WIRE_STORE_RECORD = 101,
    WIRE_STORE_DOORBELL = 102,
    WIRE_PROCESS_DEAD = 103,
    WIRE_BOOKS_ASK = 104,
    WIRE_BOOKS = 105,
    WIRE_REFS_ASK = 106,
    WIRE_REFS = 107,
    WIRE_WHY_ASK = 108,
    WIRE_WHY = 109,

    WIRE_BORROW = 110,
    WIRE_BORROW_ACK = 111,
    WIRE_SEEN = 112,
    WIRE_WANT = 113,
    WIRE_OBJECT = 114,
    WIRE_OBJECT_ACK = 115,
    WIRE_BORROW_DIGEST = 116,
    WIRE_BORROW_COMPARED = 117,
    WIRE_BORROW_LIST = 118,

    WIRE_STORE_PULL = 119,
    WIRE_STORE_PULLED = 120,
    WIRE_STORE_PULL_FAILED = 121,
    WIRE_STORE_PULL_CANCEL = 122,
    WIRE_STORE_FREE_AT = 123,

    WIRE_CREDIT = 124,

    WIRE_STORE_SEEK = 125,
    WIRE_STORE_FOUND = 126,
};

/* One type always travels in one class, so that the parts of a long message never mix with others
 * of their type. */
static inline enum frame_class wire_class(uint8_t type)
{
    switch (type) {
    case WIRE_TEMPLATE: /* must stay ahead of the PUSH that names it */
    case WIRE_PUSH:
    case WIRE_DONE:
    case WIRE_OWNER_LEASE_ENDED: /* must stay behind the last DONE */
    case WIRE_BORROW:            /* and this ahead of the DONE that follows it */
    case WIRE_BORROW_ACK:
    case WIRE_BORROW_DIGEST:
    case WIRE_BORROW_COMPARED:
    case WIRE_BORROW_LIST:
    case WIRE_SEEN:
    case WIRE_WANT:
    case WIRE_OBJECT:
    case WIRE_OBJECT_ACK:
    case WIRE_PROCESS_DEAD: /* these two behind what the raylet passed on from it */
    case WIRE_WORKER_DEAD:
        return FRAME_CALLS;
    case WIRE_LOG:
    case WIRE_REFS:
    case WIRE_GOODBYE: /* behind all that was sent before */
        return FRAME_BODIES;
    default:
        return FRAME_CONTROL;
    }
}

/* Said by a raylet alone: from anybody else it is to be ignored. */
static inline bool wire_is_raylets(uint8_t type)
{
    switch (type) {
    case WIRE_WELCOME:
    case WIRE_ERROR:
    case WIRE_ROUTE:
    case WIRE_LEASE_GRANT:
    case WIRE_LEASE_CANCELED:
    case WIRE_LEASE_REFUSED:
    case WIRE_WORKER_DEAD:
    case WIRE_LEASE_BEGIN:
    case WIRE_LEASE_REVOKE:
    case WIRE_EXIT:
    case WIRE_CHANNEL_END:
    case WIRE_LOG:
    case WIRE_INFO_REPLY:
    case WIRE_STORE_FD:
    case WIRE_STORE_LENT:
    case WIRE_STORE_REFUSED:
    case WIRE_STORE_RECALL:
    case WIRE_PROCESS_DEAD:
    case WIRE_REFS_ASK:
    case WIRE_STORE_PULLED:
    case WIRE_STORE_PULL_FAILED:
    case WIRE_STORE_FOUND:
        return true;
    default:
        return false;
    }
}

enum wire_kind {
    WIRE_DRIVER = 1,
    WIRE_WORKER = 2,
    WIRE_ZYGOTE = 3,
    WIRE_COMMAND = 4, /* `ray ...`: no process of the job, it asks and goes */
};

/* O,W -> R. A worker names the start-up token it was spawned with; a driver sends 0. */
struct wire_hello {
    uint32_t protocol;
    uint32_t kind;
    uint64_t token;
    int32_t pid;
    uint32_t flags; /* WIRE_HELLO_* */
    char build[32]; /* of libray, terminated; a worker of another build is refused with a sentence,
                     * unless the driver told none */
} __attribute__((packed));
#define WIRE_HELLO_NO_LOG 1u /* a driver's: prints of its tasks stay in their files */

/* A driver that comes by the session's socket -> R, before its HELLO; FRAME_HAS_FD. Its HELLO has
 * FRAME_HAS_FD as well: its executable. */
enum wire_job_part_kind {
    WIRE_JOB_FOLDER = 0,      /* where its workers begin */
    WIRE_JOB_ENVIRONMENT = 1, /* a sealed memfd: strings, each with its end */
    WIRE_JOB_N_PARTS = 2,
};
struct wire_job_part {
    uint32_t part;
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
    uint32_t slot;        /* of this process on the board */
    uint32_t node_number; /* of this node in the cluster (D14) */
    uint8_t in_cluster;   /* 1: of several nodes, now or later */
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
    uint32_t node; /* number of the one that is to be asked first: most bytes of their tasks'
                    * arguments lie there; 0: none */
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
    uint32_t slot; /* of the worker on the machine's board, or WIRE_SLOT_NONE */
    uint32_t node; /* number of the worker's node */
} __attribute__((packed));
struct wire_lease_canceled {
    uint64_t ticket;
    uint32_t count; /* units that will not be granted */
} __attribute__((packed));
/* followed by the sentence */
struct wire_lease_refused {
    uint64_t ticket;
    uint32_t count, code;
    struct unique_id node; /* which refuses */
} __attribute__((packed));

/* R -> O, after waitpid: the lease is over. started: the worker's mask (see control_block.h), valid
 * for this lease if mask_lease == lease; of another lease, nothing of this one has started.
 * Followed by the sentence, which names how it died and its log. */
struct wire_worker_dead {
    uint64_t lease, mask_lease, started;
    int32_t pid, wait_status;
    struct unique_id node; /* where it was */
} __attribute__((packed));
/* mask_lease: its node is lost, and nobody can say: all that was pushed counts as started. */
#define WIRE_MASK_UNKNOWN UINT64_MAX

/* R -> W. FRAME_HAS_FD as in GRANT, for the worker's end. */
struct wire_lease_begin {
    uint64_t lease;
    uint32_t owner_process, owner_slot; /* slot: as GRANT's, of the owner */
    int32_t owner_pid;
    struct unique_id owner;
    uint32_t node; /* number of the owner's node */
} __attribute__((packed));
/* R -> W: end the lease as soon as it is idle; when grace_ms have passed, return what is not
 * started and end it after the body that runs. */
struct wire_lease_revoke {
    uint64_t lease;
    uint32_t grace_ms;
} __attribute__((packed));
/* R -> W: end; one that may stay answers STAYS, which has no body, if others need what it owns. */
struct wire_exit {
    uint8_t may_stay;
} __attribute__((packed));
/* W -> R, and to the owner as OWNER_LEASE_ENDED after all DONE and RETURNED of it. */
struct wire_lease_ended {
    uint64_t lease;
} __attribute__((packed));
/* R -> O: the direct channel to this worker makes room for others: end it by GOODBYE once there is
 * no lease on it. The raylet has none; the pair's next one comes with a channel or route. */
struct wire_channel_end {
    struct unique_id worker;
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
    uint8_t phase; /* 0 or 1: value of the slot's started bit that means "this task"; and flags */
    uint16_t n_args;
    uint16_t attempt;
} __attribute__((packed));
#define WIRE_PUSH_ELSEWHERE 2u /* phase: some arguments lie in the stores of other nodes */
struct wire_arg {
    uint32_t size;
    uint8_t meta; /* enum wire_meta, and the flags below */
} __attribute__((packed));
/* A value: an argument, a return, an object. Behind the header, if flagged, u32 n and n of
 * wire_ref, which size does not count; then size bytes: the value, or a wire_stored that says where
 * it is. The refs inside a stored value lie behind its data in the arena; of one that is not in the
 * store of the receiver's node, or may not be, they are in the frame as well. */
#define WIRE_VALUE_INNER  0x20 /* with STORED: its refs are here, too */
#define WIRE_VALUE_REFS   0x40
#define WIRE_VALUE_STORED 0x80
#define WIRE_VALUE_BY_REF 0xc0 /* of an argument: a wire_ref, whose value is wanted */
#define WIRE_META_MASK    0x1f
struct wire_ref {
    uint64_t word;         /* of the owner's own table */
    uint64_t counter;      /* ObjectID = (owner, counter, index) */
    uint32_t owner, index; /* process number */
} __attribute__((packed));
/* What an object is in any store: its owner's number for it, and the attempt that made it. */
struct wire_key {
    uint64_t counter;
    uint32_t owner, index; /* process number; of the return */
    uint16_t attempt;
} __attribute__((packed));
struct wire_stored {
    uint64_t place, offset, size; /* objstore/layout.h */
    uint32_t n_refs;
    uint32_t node; /* number of the one whose store that is */
    struct wire_key key;
    uint64_t copy; /* place of a copy in the store of the receiver's node that may be there; or 0 */
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

/* W -> O. Followed by n_returns of { wire_arg; bytes }; of one that was LOST, by n_returns of
 * wire_lost, and a sentence. */
struct wire_done {
    uint64_t lease;
    uint8_t slot;
    uint8_t failed; /* enum wire_done_failed */
    uint16_t n_returns;
    uint32_t run_ns; /* of the body; saturates */
} __attribute__((packed));
enum wire_done_failed {
    WIRE_DONE_FAILED = 1, /* each return is a WIRE_META_ERROR */
    WIRE_DONE_LOST = 2,   /* it did not run: nobody has the bytes of these arguments any more */
};
/* That attempt's value, which was on that node. */
struct wire_lost {
    uint16_t argument; /* its place, from 0 */
    uint16_t attempt;
    uint32_t node;
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
    char ip[46]; /* terminated: of the worker's node, if it is not the driver's */
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

/* R -> driver, before WELCOME, FRAME_HAS_FD: the store's memory and its control block (workers have
 * them from their zygote). */
struct wire_store_fd {
    uint32_t part; /* 0 index, 1 arena, 2 control block */
} __attribute__((packed));
/* O,W -> R: memory to put objects in (store_lend). Answered once, LENT or REFUSED. */
struct wire_store_lend {
    uint64_t ticket, need, want;
    uint32_t n_places;
} __attribute__((packed));
/* Followed by n_places of u64. */
struct wire_store_lent {
    uint64_t ticket, offset, size;
    uint32_t n_places;
} __attribute__((packed));
/* Followed by the sentence. */
struct wire_store_refused {
    uint64_t ticket;
} __attribute__((packed));
/* O,W -> R: bring this object of another node's store into ours. Answered once, PULLED or
 * PULL_FAILED; behind a PULL_CANCEL perhaps not at all. */
enum wire_pull {
    WIRE_PULL_GET = 0,      /* somebody waits for the bytes */
    WIRE_PULL_WAIT = 1,     /* somebody waits for it to be here */
    WIRE_PULL_ARGUMENT = 2, /* a task that is to run here needs it */
};
struct wire_store_pull {
    uint64_t ticket; /* of the sender; never 0, never used again */
    struct wire_key key;
    uint32_t node; /* that has it */
    uint64_t size;
    uint32_t n_refs;
    uint8_t priority; /* enum wire_pull */
} __attribute__((packed));
/* It is in this machine's store, to be pinned by its place; until somebody does, it may be gone
 * again. */
struct wire_store_pulled {
    uint64_t ticket, place, offset, size;
    uint32_t n_refs;
} __attribute__((packed));
/* Followed by the sentence, which names the node. */
struct wire_store_pull_failed {
    uint64_t ticket;
    uint32_t code; /* enum err_code: FULL: the store here; else it cannot be had */
} __attribute__((packed));
struct wire_store_pull_cancel {
    uint64_t ticket;
} __attribute__((packed));
/* O,W -> R: its owner, the sender, needs it no more; it was made in that node's store. As FREE and
 * ABORT of the ring, for other nodes. */
struct wire_store_free_at {
    struct wire_key key;
    uint32_t node;
    uint8_t is_abort; /* 1: all that this attempt of the task made, whatever the index: no word of
                       * it came */
} __attribute__((packed));
/* O,W -> R: nobody can reach the primary copy of this object of the sender's: is there another one
 * in the cluster? Answered once. */
struct wire_store_seek {
    uint64_t ticket; /* of the sender */
    struct wire_key key;
    uint32_t node; /* that had it, and may turn out to have it still */
} __attribute__((packed));
/* There is, in that node's store (0: there is none): it is the primary one from now on, which its
 * owner is to free. */
struct wire_store_found {
    uint64_t ticket, place, offset;
    uint32_t node;
} __attribute__((packed));
/* R -> O,W: that process is reaped; nothing of it comes after this. */
struct wire_process_dead {
    uint32_t process;
} __attribute__((packed));

/* Borrower -> owner: see lib/core/borrow.h. Followed by n words. */
struct wire_borrow {
    uint32_t sequence, n;
} __attribute__((packed));
/* Borrower -> owner: what it has after that number, of which it knows acked to be handled. */
struct wire_borrow_digest {
    uint32_t sequence, acked;
    uint64_t n, sum;
    uint8_t is_overdue; /* 1: an acknowledgement has been missing for long */
} __attribute__((packed));
/* Owner -> borrower: the answer to the digest of that sequence. */
struct wire_borrow_compared {
    uint32_t sequence;
    uint8_t differs; /* 1: send the list */
} __attribute__((packed));
/* Borrower -> owner: of these keys (slot << 32 | generation, ends included) it has the n words that
 * follow, ascending by key. Numbered as BORROW. */
struct wire_borrow_list {
    uint32_t sequence, n;
    uint64_t low, high;
    uint8_t is_first; /* 1: the numbers before need not come any more */
} __attribute__((packed));
/* Receiver of a reply -> its giver. */
struct wire_seen {
    uint64_t counter; /* of the task */
} __attribute__((packed));
/* Borrower -> owner: send the value when it is there. is_lost: not that attempt's on that node,
 * which nobody has any more. */
struct wire_want {
    uint64_t word;
    uint32_t node;
    uint16_t attempt;
    uint8_t is_lost;
} __attribute__((packed));
/* Owner -> borrower; followed by the value (wire_arg). */
struct wire_object {
    uint64_t word;
} __attribute__((packed));

/* Borrower -> owner: so much of what OBJECTs said was read. */
struct wire_object_ack {
    uint64_t bytes;
} __attribute__((packed));

/* Over a route: so many bytes more of what it sent me in calls and bodies were read, and so much of
 * them may be unread from now on (lib/core/credit.h). */
struct wire_credit {
    uint32_t bytes, allotment;
} __attribute__((packed));

/* R -> C, answers the empty WHY_ASK; FRAME_HAS_FD: a memfd with so many bytes, GetStateReply of
 * proto/node.proto. */
struct wire_why {
    uint64_t size;
    uint32_t is_whole; /* 0: no memory for them */
} __attribute__((packed));

/* --- what `ray memory` asks --- */

/* R -> C, answers the empty BOOKS_ASK; FRAME_HAS_FD: a memfd with n_processes of
 * wire_books_process, then n_entries of wire_books_entry, then n_uses of wire_books_use: all that
 * the raylet knows at one moment. Bytes as in struct store_stats. */
struct wire_books {
    uint64_t capacity, used, lent, buried, free, largest_free, peak;
    uint32_t n_processes, n_entries, n_uses, n_waiting;
    uint32_t is_whole; /* 0: no memory for the rows, there are none */
} __attribute__((packed));
struct wire_books_process {
    uint32_t process, kind; /* enum wire_kind; 0: of another node, or this raylet */
    int32_t pid;
    uint32_t slot, job;
} __attribute__((packed));
/* An entry of the index that is not free. Of one that is only lent owner is the creator, and only
 * place and state are good. */
struct wire_books_entry {
    uint64_t place, offset, size, counter;
    uint32_t owner, index, n_refs;
    uint32_t n_blocks, n_holds;
    uint16_t attempt;
    uint8_t state;        /* enum store_state */
    uint8_t is_allocated; /* the arena says so of its blocks */
    uint8_t is_copy;      /* of what another node keeps: its owner need not know of it */
} __attribute__((packed));
enum wire_use {
    WIRE_USE_PIN = 1,  /* place: n of the process's slots */
    WIRE_USE_HOLD = 2, /* place: n of its holds */
    WIRE_USE_LENT = 3, /* offset, size */
};
struct wire_books_use {
    uint32_t process, kind; /* enum wire_use */
    uint64_t place, offset, size;
    uint32_t n;
    uint32_t is_allocated; /* LENT */
} __attribute__((packed));

/* C -> R -> O,W: a page of the table of refs, from this cursor on (0 begins). The raylet puts the
 * number of the command above the ticket, and the process echoes what it got. */
struct wire_refs_ask {
    uint64_t ticket, from;
    uint32_t process;
} __attribute__((packed));
/* O,W -> R -> C. next: the cursor of what follows, 0: that was all. Followed by n rows, each
 * followed by n_items of wire_refs_item, its site (site_size bytes) and its text (text_size bytes):
 * of a task's its function, of an error what it says. */
enum wire_refs_status {
    WIRE_REFS_OK = 0,
    WIRE_REFS_GONE = 1, /* R: no such process (any more) */
    WIRE_REFS_BUSY = 2, /* R: it has not answered those who asked before */
};
struct wire_refs {
    uint64_t ticket, next;
    uint32_t process, status, n;
} __attribute__((packed));
/* A record. word 0: none, but what the process has besides: holds by items, or (place > 0) a pin in
 * slot `pin` or held, of which the records need not tell. A record with more items than fit is
 * told again, with the items from first_item on. */
struct wire_refs_row {
    uint64_t word, counter, size, place, offset;
    uint64_t owner_word;           /* BORROWED */
    uint32_t owner, index;         /* process number; of the return */
    uint32_t count, held, n_views; /* handles, holds, of those values being read in the store */
    uint32_t n_refs;               /* inside the value in the store */
    uint32_t first_item, n_items;
    int32_t pin; /* as struct ref_stored: slot, -2 at the raylet, or -1 */
    uint16_t flags, site_size;
    uint8_t status;
    uint8_t spare[3];
    uint32_t worker; /* PUSHED: process number of the worker; else 0 */
    uint16_t text_size;
    uint32_t waits_ms;    /* ARGS: since it was submitted; QUEUED, PUSHED: since it has them */
    uint32_t window_slot; /* PUSHED: see struct control_block */
} __attribute__((packed));
#define WIRE_ROW_BORROWED   1u
#define WIRE_ROW_STORED     2u
#define WIRE_ROW_HIDDEN     4u  /* of a task without returns: no ref */
#define WIRE_ROW_REGISTERED 8u  /* BORROWED: the owner was told */
#define WIRE_ROW_ARGUMENT   16u /* inside an argument of the body that runs there */
#define WIRE_ROW_TASK       32u /* a task makes or made it, else it was put */
#define WIRE_ROW_ELSEWHERE  64u /* in another store; with STORED: place is a copy here, pinned */
enum wire_row_status {
    WIRE_ROW_PENDING = 0, /* borrowed: not known here */
    WIRE_ROW_ARGS = 1,    /* its task waits for arguments */
    WIRE_ROW_QUEUED = 2,  /* for a worker */
    WIRE_ROW_PUSHED = 3,  /* it is with one */
    WIRE_ROW_READY = 4,
    WIRE_ROW_FAILED = 5, /* the value is an error */
    WIRE_ROW_FREED = 6,  /* by the program; still read */
};
enum wire_refs_item_kind {
    WIRE_ITEM_INSIDE = 1,   /* this value holds the record at slot `number` of the same process */
    WIRE_ITEM_ARGUMENT = 2, /* this pending task does */
    WIRE_ITEM_REPLY = 3,    /* what was returned, and its receiver has not confirmed */
    WIRE_ITEM_BODY = 4,     /* the body that runs, for its arguments and returns */
    WIRE_ITEM_BORROWER = 5, /* process `number` borrows this */
    WIRE_ITEM_LEAVING = 6,  /* the same; it has died, and keeps it for a grace */
};
struct wire_refs_item {
    uint32_t kind, number;
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
