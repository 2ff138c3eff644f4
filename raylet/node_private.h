/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_NODE_PRIVATE_H
#define RAYLET_NODE_PRIVATE_H
/*
 * What the files of the node share. All on the loop thread.
 *
 *   node.c             links and frames, start and end
 *   node_join.c        HELLO, numbers and WELCOME
 *   node_time.c        the timer of what is due
 *   job_run.c          jobs: a driver, its zygote, workers and pool; their beginning and end
 *   lease_run.c        grants, channels and notices: what lease.c and lease_queue.c decide
 *   worker_pool_run.c  processes of workers: what worker_pool.c decides, their life and death
 *   store_run.c        the object store's memory and rings: what objstore/store.c decides
 *   pull_run.c         objects that come from other machines, or go there
 *   seek_run.c         another copy of an object whose primary one is gone
 *   command_run.c      the session's socket, for `ray` commands and drivers
 *   memory_run.c       what `ray memory` asks of it
 *   why_run.c          and `ray why`, of this machine or another
 *   guest_run.c        processes of other machines
 *   spill_run.c        leases for owners elsewhere, and from elsewhere
 *   job_elsewhere.c    jobs whose driver is on another machine
 *   log_forward.c      prints of tasks on their way to the driver's terminal
 *   cluster_run.c      the cluster around this node: the GCS, other nodes, coming and leaving
 *   machine_run.c      measures the machine when it is idle
 */
#include <stdbool.h>
#include <stdint.h>

#include "gcs/client.h"
#include "lib/base/id.h"
#include "lib/base/list.h"
#include "lib/net/control_block.h"
#include "lib/net/unix_link.h"
#include "lib/net/wire.h"
#include "objstore/store.h"
#include "objstore/word_map.h"
#include "raylet/channel_table.h"
#include "raylet/cluster_view.h"
#include "raylet/dead_workers.h"
#include "raylet/lease.h"
#include "raylet/machine.h"
#include "raylet/node.h"
#include "raylet/peer.h"
#include "raylet/router.h"
#include "raylet/seek.h"
#include "raylet/session.h"
#include "raylet/spill.h"
#include "raylet/transfer.h"
#include "raylet/worker_log.h"
#include "raylet/worker_pool.h"
#include "raylet/zygote.h"

#define NODE_BUILD         "ray-c 0.1"
#define NODE_OTHER_VERSION "libray and raylet are of different versions: install one of them again"
/* A process that does not read is cut off beyond this: of what the raylet itself tells it, and of
 * what others do, who are bound by their allotments (lib/core/credit.h), in all. */
#define OUT_MAX     (16u << 20)
#define OUT_ALL_MAX (256u << 20)

/*  NEW -> RUNNING -> ENDING -> ENDED        docs/design/jobs.md */
enum job_state {
    JOB_NEW,     /* waits for its number */
    JOB_RUNNING, /* has a zygote */
    JOB_ENDING,  /* its driver is gone: the zygote ends its processes */
    JOB_ENDED,   /* nothing of it runs; the driver's memory may still be in use */
};

/* A driver and all that serves it alone. Owned by node.jobs. */
struct job {
    unsigned magic;
    struct node *of;
    struct list node;
    uint32_t id;     /* its handle in lease.c; never used again */
    uint32_t number; /* by the GCS; 0: not yet */
    enum job_state state;
    bool asked_number;      /* a completion that names this job is on its way */
    uint64_t made_ms;       /* since when it is known here */
    struct process *driver; /* NULL: gone with its memory */
    int32_t driver_pid;
    int pidfd; /* of the driver */
    struct loop_watch *pidfd_watch;
    bool driver_dead, has_left; /* its pidfd fired; it said LEAVE */
    bool ends_node;             /* of a driver's node: it is leaving the cluster */
    int executable_fd, folder_fd;
    char *environment; /* strings, each with its end; NULL: the raylet's own */
    size_t environment_size;
    bool log_to_driver,
        logs_stalled; /* stalled: the driver does not read; on it goes when it does */
    char build[32];   /* of the driver's libray */
    struct worker_pool *pool;
    struct worker_pool_actions pool_actions;
    struct zygote *zygote;
    bool zygote_gone;         /* of ENDING: with all it made */
    char why[400];            /* why the last worker could not start */
    enum err_code start_code; /* what a refusal for that reason says */
    struct job_row row;
    uint32_t *askers, n_askers; /* nodes that have work of it */
    struct transfer_hash hash;  /* of the executable, once others ask for it */
    bool is_offered;            /* to them */
    uint64_t transfer_ticket;   /* it is being hashed, or is on its way here; 0: neither */
    /* of a job whose driver, a guest, is elsewhere */
    uint32_t home;     /* node number; 0: here */
    struct list held;  /* units that wait until it runs */
    bool held_is_full; /* logged: some went back */
};
#define JOB_MAGIC 0x4a4f4253u

#define GUESTS_MAX         65536
#define GUESTS_DEAD        4096
#define LEASE_NODE_SHIFT   36          /* of a lease's number: above it is its node's */
#define STORE_RUN_TRANSFER BOARD_SLOTS /* transfer.c's slot in the store */

/* A driver or worker with a link. Its slot on the board is its handle in lease.c and router.c;
 * owned by node.processes. */
struct process {
    unsigned magic;
    struct node *node;
    struct list dirty_node; /* node.dirty: something is to be sent, or it is to be cut off */
    uint32_t slot;
    enum wire_kind kind;
    struct job *job;
    bool registered; /* said HELLO */
    bool welcomed;
    bool cut; /* link_lost at the turn's end */
    char cut_why[128];
    bool is_paused;         /* not read: what it sends to another node finds no room at all */
    const char *refused;    /* why its HELLO was; NULL: it was not */
    const char *killed_for; /* why this raylet has killed it; NULL: it has not */
    bool is_to_exit;        /* it was asked to */
    int32_t pid;            /* of a worker: 0 until SPAWNED */
    int pidfd;       /* of a worker: what is killed is this process, not who has its number now */
    uint32_t number; /* in all jobs of the cluster (D14) */
    uint64_t token;
    uint64_t lease; /* last one of this worker */
    uint32_t lease_owner;
    struct unique_id id;
    struct unix_link *link;
    struct loop_watch *watch;
    struct control_block *control;
    struct worker_log logs[2];
    int log_wd[2];
    uint64_t talked[BOARD_SLOTS / 64]; /* those here it exchanged frames with, or may have */
    bool in_store;                     /* the object store knows it */
    uint32_t n_asked;                  /* REFS_ASKs it has not answered */
    struct list pulls;                 /* STORE_PULLs that were not answered */
    uint32_t n_pulls;
    uint32_t *asked, n_asked_nodes; /* nodes that are told of its death in any case */
    char log_base[300];
    /* of another machine; its slot is BOARD_SLOTS or more */
    bool is_guest;
    struct peer *at;     /* its raylet; NULL: the GCS is asked where it is */
    struct list waiting; /* for that */
    size_t n_waiting_bytes;
    struct locating *locating; /* the question; NULL if it is answered */
};
#define PROCESS_MAGIC 0x50524f43u

/* Of another machine: its raylet, of that node number, has said that it is dead. */
struct dead_guest {
    uint32_t number, node;
};

#define COMMAND_BOOKS_MAX 32 /* BOOKS and WHYs of one command: each takes a descriptor */

/* The link of a `ray` command, or of a driver until its HELLO. Owned by node.commands. */
struct command {
    unsigned magic;
    struct node *node;
    struct list list;
    uint32_t number;             /* never used again */
    bool registered;             /* said HELLO */
    bool cut;                    /* ends when this turn of its link is over */
    uint64_t hello_due_ms;       /* until it has said HELLO */
    int parts[WIRE_JOB_N_PARTS]; /* of a driver; -1 */
    uint32_t n_books;            /* asked for: each takes a descriptor until it has read it */
    struct unix_link *link;
    struct loop_watch *watch;
};
#define COMMAND_MAGIC 0x434f4d44u

struct node {
    struct loop *loop;
    struct node_config config;
    struct resources resources;
    struct session session;
    struct lease_table *leases;
    struct lease_actions lease_actions;
    struct list jobs;
    bool jobs_changed; /* one may go on */
    uint32_t last_job; /* id */
    struct router *router;
    struct channel_table *channels;
    unsigned n_channels_ended, n_routes;
    struct gcs_client *gcs;
    struct store *store;
    struct store_reserve *reserve; /* of the arena */
    struct store_actions store_actions;
    struct index_entry *index; /* index_size bytes */
    size_t index_size;
    struct process *processes[BOARD_SLOTS];
    uint32_t n_slots; /* beyond them all are NULL */
    struct process **guests;
    uint32_t n_guests, guests_room;        /* beyond n_guests there are none */
    uint64_t guest_slots[GUESTS_MAX / 64]; /* bits of those in use */
    struct dead_guest dead[GUESTS_DEAD];   /* a ring: those whose death was told last */
    uint32_t n_dead;                       /* that were told in all */
    struct word_map by_number;             /* process number -> slot + 1, of processes and guests */
    struct transfer *transfer;             /* NULL if peers is */
    struct list executables;               /* of jobs elsewhere, for the next */
    size_t held_bytes;                     /* of units that wait for such jobs to run */
    struct cluster_view *view;             /* NULL if peers is */
    struct spill *spill;                   /* units that are at other nodes; NULL if peers is */
    struct spill_actions spill_actions;
    struct seeks *seeks; /* NULL if peers is */
    struct seek_actions seek_actions;
    bool spill_due;          /* some may go elsewhere now */
    struct peers *peers;     /* NULL: this raylet is alone */
    uint32_t telling;        /* of which death each peer was told last */
    unsigned n_other_job;    /* frames from elsewhere that were of another job than their process */
    struct gcs_relay *relay; /* NULL if peers is */
    struct list dirty;
    struct unique_id cluster, id;
    uint32_t number;            /* of the node, by the GCS; 0: not registered yet */
    struct cluster_run *around; /* NULL: the node is alone */
    int status;
    enum err_code end_code; /* ERR_NONE: ERR_DIED */
    char end_why[sizeof((struct err *)0)->text];
    uint32_t next_process, n_processes; /* numbers left of the block */
    uint32_t spare_process, n_spare;    /* the next block */
    uint32_t last_process;              /* the highest that was given to this node */
    struct held_block *blocks;          /* those given, but for ones of which all have ended */
    size_t n_blocks;
    bool asked_processes;
    int board_fd, index_fd, arena_fd, inotify_fd;
    struct loop_watch *inotify_watch, *signals[3];
    struct loop_timer *due; /* fires at due_ms, UINT64_MAX: does not */
    uint64_t due_ms;
    struct loop_timer *log_tick; /* of logs without inotify */
    uint64_t start_ms;
    struct list commands;
    uint32_t n_commands, last_command;
    struct list refs_calls;            /* of memory_run.c */
    struct dead_workers *dead_workers; /* ended_ms: by the loop's time */
    int command_fd, spare_fd;
    struct loop_watch *command_watch;
    /* the machine's facts */
    struct machine machine;  /* zero until known */
    struct loop_timer *look; /* is the machine idle? every look_ms */
    uint32_t look_ms;
    uint64_t idle_total[2]; /* /proc/stat at the last look: idle, all */
    int32_t measuring;      /* pid of `raylet --measure` */
    int measuring_pidfd;
    struct loop_watch *measuring_watch;
};

static inline bool node_is_private(const struct node *n)
{
    return n->config.driver_fd >= 0;
}

/* Other nodes may join its cluster. */
static inline bool node_is_joined(const struct node *n)
{
    return n->around != NULL;
}

/* Both: it is there for one driver, on a machine without a node of the cluster. */
static inline bool node_is_drivers(const struct node *n)
{
    return node_is_private(n) && node_is_joined(n);
}

/* --- node.c --- */
/* From here on programs may come, and who started the raylet is told. */
int node_begin_listening(struct node *n, struct err *err);
/* The raylet ends with this turn. */
void node_end(struct node *n, int status, const char *why);
/* Of that slot, with nothing yet; known nowhere. */
struct process *node_make_process(struct node *n, uint32_t slot);
/* Takes the fd. NULL: no memory, no slot. */
struct process *node_add_process(struct node *n, enum wire_kind kind, int fd);
/* The same for a link that nobody watches, which stays the caller's if NULL. It may hold frames:
 * see node_read_on. */
struct process *node_add_link(struct node *n, enum wire_kind kind, struct unix_link *link);
/* What its link has read already. */
void node_read_on(struct process *p);
/* It is reaped: what it sent before counts. */
void node_read_rest(struct process *p);
/* Of a driver: nothing of it is read any more. */
void node_close_link(struct process *p);
void node_free_process(struct process *p);
/* Queued; sent at the turn's end. A NULL process and one without a link are fine. */
void node_send(struct process *p, uint8_t type, const void *body, size_t size);
/* The same with a descriptor (-1: none), which is closed in any case. */
void node_send_fd(struct process *p, uint8_t type, const void *body, size_t size, int fd);

/* The same over a route. */
void node_send_routed(struct process *p,
                      enum frame_class class,
                      uint8_t type,
                      uint32_t route,
                      const void *body,
                      size_t size);

/* These two may exchange frames from now on: each is told of the other's death. */
void node_talk(struct process *a, struct process *b);

/* Of this slot, guest or not. NULL: none. */
static inline struct process *node_at(const struct node *n, uint32_t slot)
{
    if (slot < BOARD_SLOTS)
        return n->processes[slot];
    return slot - BOARD_SLOTS < n->n_guests ? n->guests[slot - BOARD_SLOTS] : NULL;
}

/* Its last frame: then say why not and cut it off, at the turn's end. */
void node_say_error(struct process *p, enum err_code code, const char *text);
/* Its link ends with this turn, and it with its link; why goes into the sentence of its death. */
void node_cut_off(struct process *p, const char *why);
/* The same for what it said, and tells it. */
void node_refuse(struct process *p, const char *why);

/* --- node_join.c --- */
void node_join_on_hello(struct process *p, const uint8_t *body, size_t size);
/* What makes a job, as it came by the socket; each descriptor that is taken becomes -1. */
struct node_join_parts {
    int executable_fd, folder_fd, environment_fd, pidfd;
    int32_t pid;
};
/* A driver that came by the socket has said HELLO over this link. 0: it is a process with a job,
 * and the link is its. */
int node_join_driver(struct node *n,
                     struct unix_link *link,
                     const struct wire_hello *hello,
                     struct node_join_parts *parts,
                     struct err *err);
/* Tell the GCS of this node; jobs that came earlier begin when it has a number. */
void node_join_gcs(struct node *n);
/* Whoever said HELLO is welcome once its job and it have numbers. */
void node_join_welcome(struct node *n);

/* --- job_run.c --- */
/* The driver's job, NEW; it is the process's now. pidfd is taken. */
struct job *job_begin(struct process *driver, int32_t pid, int pidfd, int executable_fd);
/* Environment and folder, which workers elsewhere are to have: those of this raylet. */
int job_describe_own(struct job *j, struct err *err);
/* It becomes RUNNING as soon as it has a number. */
void job_register(struct job *j);
/* The driver's link has ended, by whomever. */
void job_on_link_lost(struct process *driver);
void job_on_leave(struct process *driver);
/* Its workers are to end, and what it waits for; a private raylet ends. Again is fine. */
void job_end(struct job *j, const char *why);
/* When jobs_changed: what can go on does, and what has ended is freed. */
void job_pump(struct node *n);
/* All zygotes, workers and what they left, now; at most END_MS and the sweep's time. */
void job_end_all_now(struct node *n);
void job_destroy(struct job *j);
/* SIGKILL for what dead processes left behind and came to us. */
void job_sweep(const struct node *n);
unsigned job_count(const struct node *n);
/* The number of the oldest; 0: there is none. */
uint32_t job_first(const struct node *n);
/* Workers that are there, of all jobs. */
unsigned job_count_workers(const struct node *n);

/* A job whose driver is on that node, NEW. */
struct job *job_begin_elsewhere(struct node *n, uint32_t number, uint32_t home);
/* It has all it needs: RUNNING. */
int job_start(struct job *j, struct err *err);

/* --- job_elsewhere.c --- */
/* The job with this number, begun if it is not here; from says that its driver is on node home.
 * NULL: that cannot be, which is logged. */
struct job *job_elsewhere(struct node *n, uint32_t number, uint32_t home, const struct peer *from);
/* It does not run yet: what this guest sent is kept until it does, or rejected if too much waits.
 * false: it does. */
bool job_elsewhere_hold(struct process *owner, const uint8_t *body, size_t size);
/* Its units of this ticket that wait for the job are answered CANCELED. */
void job_elsewhere_cancel(struct process *owner, uint64_t ticket);
void job_elsewhere_on_message(struct node *n,
                              struct peer *from,
                              uint8_t type,
                              const uint8_t *body,
                              size_t size);
/* Its driver, here, has ended: tell all nodes that have work of it. */
void job_elsewhere_tell_end(const struct job *j);
void job_elsewhere_on_node_lost(struct node *n, uint32_t number);
void job_elsewhere_fini(struct job *j);
/* Units that wait for the job to run; the oldest since *since_ms, which stays if there are none. */
uint32_t job_elsewhere_count_held(const struct job *j, uint64_t *since_ms);
/* Executables that are kept for other jobs. */
void job_elsewhere_forget_kept(struct node *n);

/* --- node_time.c --- */
/* At each turn's end: what changed may be due earlier. */
void node_time_arm(struct node *n);

/* --- cluster_run.c --- */
/* With --gcs-address: n->gcs asks that, and the port for other nodes is bound, but answers nothing
 * yet. */
int cluster_run_open(struct node *n, struct err *err);
/* The data port; the store is there. */
int cluster_run_listen(struct node *n, struct err *err);
void cluster_run_close(struct node *n); /* NULL around is fine */
/* What other nodes are told of this one. */
void cluster_run_fill_row(const struct node *n, struct node_row *row);
/* Where other nodes reach this one; "" if n is alone. */
const char *cluster_run_ip(const struct node *n);
/* All other nodes are known that there were. n is joined. */
bool cluster_run_is_current(const struct node *n);
/* This node has its number: its port answers. */
void cluster_run_on_registered(struct node *n);
/* "node ID NUMBER NODE_PORT OBJECT_PORT\n", for who started the raylet. */
int cluster_run_describe(const struct node *n, char *out, size_t size);
/* At each turn's end: what has changed is reported. */
void cluster_run_turn_end(struct node *n);
/* Good-bye to the GCS, then the raylet ends; at most a second. Again: now. */
void cluster_run_leave(struct node *n);
/* Sums over all live nodes, this one too, of at most room resources; returns how many. n may be
 * alone. */
unsigned cluster_run_sum(const struct node *n,
                         struct wire_info_resource *out,
                         unsigned room,
                         unsigned *n_nodes);

/* --- gcs_relay.c --- */
void gcs_relay_init(struct node *n);
void gcs_relay_fini(struct node *n); /* after the client of the GCS */
void gcs_relay_on_node(struct node *n, const struct node_view *v);
/* The GCS does not answer: a NodeSync request for other nodes to send. */
void gcs_relay_pass_on(struct node *n, const void *bytes, size_t size);
/* Another raylet says PEER_SYNC_ASK or PEER_SYNC_ANSWER; any body. */
void gcs_relay_on_message(struct node *n,
                          const struct peer *from,
                          uint8_t type,
                          const uint8_t *body,
                          size_t size);

/* --- machine_run.c --- */
void machine_run_init(struct node *n);
void machine_run_fini(struct node *n);

/* --- lease_run.c --- */
/* Carry out what lease.c decided. dead, status: the worker whose death is carried out, or NULL. */
void lease_run(struct node *n, int status, const struct process *dead);
/* A LEASE_REQUEST of this process, which may be a guest. when: enum peer_when. */
void lease_run_ask(struct process *p, const uint8_t *request, size_t size, unsigned when);
/* Units that come back from another node: before what their owner asked for since then. */
void lease_run_ask_again(struct process *p, const uint8_t *request, size_t size, uint64_t asked_ms);
/* The same of a process of ours: units for which another node is better go there. */
void lease_run_on_request(struct process *p, const uint8_t *body, size_t size);
/* One end of a lease's channel was lost at that process's limit of descriptors (ROUTE without a
 * route). From now on the pair talks over a route; the lease ends with nothing started, since
 * nothing was ever read. */
void lease_run_on_channel_lost(struct process *p, const uint8_t *body, size_t size);

/* --- worker_pool_run.c --- */
extern const struct zygote_ops pool_run_zygote_ops; /* arg: the job */
/* Carry out what worker_pool.c decided. */
void pool_run(struct job *j);
/* "worker pid=7 was killed by signal 9 (Killed)" \0 its log \0; returns the size of both. */
size_t pool_run_describe_death(const struct process *p, int status, char *out, size_t size);
/* SIGKILL; nothing if it is dead or has no process yet. why: good as long as it is, the first
 * counts; NULL: to be sure of its end, which has begun. */
void pool_run_kill(struct process *p, const char *why);
/* All of this job that live. */
void pool_run_kill_all(const struct job *j, const char *why);
/* Those that have not told of their end by themselves, their zygote is gone: wait for them. */
void pool_run_bury_all(struct job *j);

/* --- guest_run.c --- */
/* With that process number, here or elsewhere. NULL: nobody knows it. */
struct process *guest_run_find(const struct node *n, uint32_t number);
/* The guest with that number on that node, a new one if there is none. NULL: it cannot be there, or
 * there are too many. */
struct process *guest_run_get(struct node *n, struct peer *at, uint32_t number);
/* It has ended: those it talked to are told, what it owned here is freed. */
void guest_run_end(struct process *g);
/* All of this node; at NULL: all, and what they took. */
void guest_run_end_all(struct node *n, const struct peer *at);
/* route: who it is from, and the role. */
void guest_run_send(struct process *g,
                    enum frame_class class,
                    uint8_t type,
                    uint32_t route,
                    const void *body,
                    size_t size);
/* All of this job, which has ended. */
void guest_run_forget_job(struct job *j);
/* A frame of a process of ours to a number that is not here. */
int guest_run_forward(struct process *from, const struct frame *f, struct err *err);
/* There is news of a node, which is a peer now: those that wait for it go on. */
void guest_run_on_node(struct node *n, struct peer *at);
/* There is room in the sessions again. */
void guest_run_on_room(struct node *n);
/* When this process of ours is dead, that node is told, whatever it has answered. false: that was
 * said before. */
bool guest_run_will_tell(struct process *p, uint32_t node);
/* A process of ours is reaped: tell the nodes it talked to. */
void guest_run_on_dead(const struct process *p);
void guest_run_on_message(struct node *n,
                          struct peer *from,
                          const struct peer_header *h,
                          const uint8_t *body,
                          size_t size);

/* --- spill_run.c --- */
/* A guest asks for leases here. */
void spill_run_on_spill(struct process *owner, const uint8_t *body, size_t size);
/* They cannot be had here: back to the raylet of its owner. */
void spill_run_reject(struct process *owner, const uint8_t *request, size_t size);
void spill_run_reject_units(struct process *owner, uint64_t ticket, uint32_t count);
/* Of a request of ours go elsewhere what should; the others, counted, are asked for here. */
uint32_t spill_run_divide(struct process *owner, const uint8_t *request, size_t size);
/* At each turn: units that wait here while there is room elsewhere. */
void spill_run(struct node *n);
void spill_run_init(struct node *n);
void spill_run_fini(struct node *n);
void spill_run_on_return(struct process *owner, uint64_t lease);
/* A PEER_CALL: another node has work of the job of here. */
void spill_run_on_call(struct node *n, const uint8_t *body, size_t size);
/* This owner has ended: nodes that it asked are told. */
void spill_run_on_gone(const struct process *owner);
/* What was asked of that node is asked for again, what it granted is lost. */
void spill_run_on_node_lost(struct node *n, uint32_t at, const char *why);
void spill_run_on_rejected(struct node *n, struct peer *from, const uint8_t *body, size_t size);
/* An owner, ours or a guest, does not want what it asked for any more. */
void spill_run_on_cancel(struct process *owner, uint64_t ticket);
/* Another raylet grants one to an owner of ours. false: it is not its to grant, or names who cannot
 * be there; it goes back, and the owner is not told. */
bool spill_run_on_grant(struct process *owner, struct peer *from, const uint8_t *body, size_t size);
/* It will not, CANCELED or REFUSED: the owner is told of as many as it had. */
void spill_run_on_answer(struct process *owner,
                         struct peer *from,
                         uint8_t type,
                         const uint8_t *body,
                         size_t size);

/* --- store_run.c --- */
/* Make the object store and its memory. */
int store_run_open(struct node *n, struct err *err);
void store_run_close(struct node *n);
uint64_t store_run_capacity(const struct node *n); /* bytes of the arena */
/* The machine's facts are known now: tell the processes how to copy. */
void store_run_on_measured(struct node *n);
/* A process's control block, mapped at p->control; *fd is the caller's. */
int store_run_make_control(struct process *p, int *fd, struct err *err);
/* Hand a driver what workers have from their zygote. */
int store_run_greet_driver(struct process *p, struct err *err);
/* It has its number; it is reaped. */
void store_run_add(struct process *p);
void store_run_remove(struct process *p);
/* Read its ring. */
void store_run_drain(struct process *p);
/* false: not a frame of the object store. */
bool store_run_on_frame(struct process *p, uint8_t type, const uint8_t *body, size_t size);
/* Carry out what store.c decided. */
void store_run(struct node *n);

/* --- pull_run.c --- */
struct transfer_key pull_run_key(const struct wire_key *k);
/* false: not a frame of this. */
bool pull_run_on_frame(struct process *p, uint8_t type, const uint8_t *body, size_t size);
/* It has ended: nobody is to be answered. */
void pull_run_on_gone(struct process *p);
/* Another raylet says PEER_FREE. */
void pull_run_on_free(struct node *n, const uint8_t *body, size_t size);
/* As transfer_config has it; arg: the node. */
void pull_run_send_free(void *arg, uint32_t node, const struct transfer_key *key);
void pull_run_send_call(void *arg, uint32_t node);

/* --- seek_run.c --- */
void seek_run_init(struct node *n);
void seek_run_fini(struct node *n);
/* STORE_SEEK. */
void seek_run_on_seek(struct process *p, const uint8_t *body, size_t size);
/* It has ended: nobody is to be answered. */
void seek_run_on_gone(const struct process *p);
/* While it is still a peer. */
void seek_run_on_node_lost(struct node *n, uint32_t node);
void seek_run_on_time(struct node *n, uint64_t now_ms);
uint64_t seek_run_next_deadline(const struct node *n);
/* Another raylet says PEER_SEEK, PEER_FOUND. */
void seek_run_on_asked(struct node *n,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size);
void seek_run_on_found(struct node *n, const struct peer *from, const uint8_t *body, size_t size);

/* --- command_run.c --- */
/* Listen on the session's socket. -1 with err: a private cluster goes on without. */
int command_run_open(struct node *n, struct err *err);
void command_run_close(struct node *n);
/* The command with that number; NULL: it has gone. */
struct command *command_run_find(const struct node *n, uint32_t number);
/* Sent at once. fd: -1, or passed along; closed in any case. */
void command_run_send(struct command *c, uint8_t type, const void *body, size_t size, int fd);
/* Its last frame: why not. */
void command_run_refuse(struct command *c, enum err_code code, const char *text);
/* Those that have not said HELLO in time are refused; when to look again. */
void command_run_on_time(struct node *n, uint64_t now_ms);
uint64_t command_run_next_deadline(const struct node *n);

/* --- memory_run.c --- */
/* false: not a frame of `ray memory`, or a malformed one. */
bool memory_run_on_command(struct command *c, uint8_t type, const uint8_t *body, size_t size);
/* A process answers: on to who asked. */
void memory_run_on_refs(struct process *p, const uint8_t *body, size_t size);
/* GetRefs of the node service: the same for a command of another machine. */
void memory_run_on_call(struct node *n, struct rpc_call *call);
/* The same for one that asks by the GCS. */
void memory_run_on_question(struct node *n, const struct node_question *q);
/* All that are open are answered: the port closes. */
void memory_run_end_calls(struct node *n);
/* It will not answer any more. */
void memory_run_on_gone(const struct process *p);

/* --- why_run.c --- */
/* What waits here and why, as why_state.h has it, in bytes to be freed. */
void *why_run_tell(struct node *n, size_t *size);
/* false: not a frame of `ray why`. */
bool why_run_on_command(struct command *c, uint8_t type);

/* --- log_forward.c --- */
/* Watch the logs, by inotify if the user has an instance left, else by a tick. */
void log_forward_init(struct node *n);
void log_forward_fini(struct node *n);
void log_forward_add(struct process *p);
void log_forward_remove(struct process *p);
/* New lines of a process's logs; last: a line without an end too. */
void log_forward_read(struct process *p, bool last);
/* p may be the driver, and reads again. */
void log_forward_resume(const struct process *p);
/* A line of the raylet's own for the terminal. */
void log_forward_say(struct job *j, const char *text);

#endif /* RAYLET_NODE_PRIVATE_H */
