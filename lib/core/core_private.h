/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_CORE_PRIVATE_H
#define LIB_CORE_CORE_PRIVATE_H
/*
 * What the files of lib/core share: the one core of this process and its peers. All fields are
 * guarded by core.lock unless a comment says otherwise.
 *
 *   core.c     the process's membership: how it begins and ends, and facts of it
 *   template.c functions with their options, and which of them can share leases
 *   task.c     a task that is submitted: its records, its packed arguments
 *   put.c      objects that this process makes
 *   get.c      what a program does with its refs
 *   poller.c   who does I/O: the lock, the poller role, spinning, sleeping, the helper thread
 *   peer.c     links, routes, frames in (dispatch) and out, as credit.c allows
 *   owner.c    carries out what submit.c decides; DONE, RETURNED, deaths
 *   build.c    which build of libray this is
 *   worker.c   carries out what inbox.c decides
 *   call.c     one call: arguments, body, returns
 *   want.c     values of borrowed refs, asked for and answered
 *   refs.c     refs and values on the wire; carries out what borrow.c decides
 *   objects.c  this process's use of the object store
 *   pull.c     values in the stores of other nodes, brought here
 *   remake.c   values that are lost, made again
 *   ref_report.c  what refs there are, for `ray memory`
 */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/base/list.h"
#include "lib/core/borrow.h"
#include "lib/core/core.h"
#include "lib/core/credit.h"
#include "lib/core/inbox.h"
#include "lib/core/lineage.h"
#include "lib/core/ref_table.h"
#include "lib/core/submit.h"
#include "lib/net/control_block.h"
#include "lib/net/frame.h"
#include "lib/net/unix_link.h"
#include "objstore/client.h"

#define CORE_ANY_FAILURE 256 /* bytes of a failure's sentence */

#define NODE_UNKNOWN UINT32_MAX /* of a peer: no node has this number */

/* A template as its worker knows it. */
struct known_template {
    void *body; /* NULL: this executable has no such function */
    uint16_t n_returns;
    uint32_t flags;
    char function[48], name[48];
};

/* A process that frames are exchanged with: the raylet, or the other end of leases. Owned by
 * core.peers; freed when its link has ended and nothing of it is in use. */
struct peer {
    unsigned magic;
    struct list node;
    struct unix_link *link; /* its own, or the raylet's when route > 0; NULL when it ended */
    uint32_t route;
    bool is_raylet, wants_write, dirty, as_owner;
    bool leaving; /* ends when no lease of ours is on it */
    bool said_goodbye, heard_goodbye;
    struct unique_id id;
    int32_t pid;
    uint32_t process, board_slot;
    uint32_t node_number;          /* of its node, or NODE_UNKNOWN */
    unsigned n_leases;             /* of ours on it */
    unsigned in_flight;            /* pushes not yet answered */
    unsigned n_unsent;             /* pushes since the last flush */
    struct submit_lease *lease;    /* the one last heard of: saves a search */
    struct known_template **known; /* [number]: theirs, as worker */
    unsigned n_known;
    uint8_t *templates; /* [number]: sent on this channel */
    unsigned n_templates;
    struct credit *credit; /* of a route: that of all to its process; NULL when it has ended */
    bool reserved_counts, reserved_waits; /* of what was reserved last, by credit */
    struct frame_join join[128];          /* by type */
    struct list dirty_node;
};
#define PEER_MAGIC 0x50454552u

/* A thread asleep in get or wait, on its own stack. */
struct waiter {
    struct list node; /* core.sleepers while asleep */
    _Atomic uint32_t word;
    unsigned n_missing; /* refs it waits for that are not ready */
    bool ends_at_error; /* one of them that carries an error is enough */
};

/* Whom to tell when a ref is ready; on record->waiters. */
enum ref_waiter_kind {
    REF_WAITER_THREAD,
    REF_WAITER_WATCH,
    REF_WAITER_TASK,
    REF_WAITER_PEER,
};
struct ref_waiter {
    struct ref_waiter *next, **link; /* link: what points here; NULL when told */
    enum ref_waiter_kind kind;
    union {
        struct waiter *thread;
        struct record *task; /* one dependency less */
        struct {
            uint32_t process;
        } peer; /* a borrower that wants the value */
        struct {
            void *tag;
            uint64_t ref;
        } watch;
    } u;
};
struct ready_event {
    struct ready_event *next;
    struct core_event event;
};

struct template
{
    char function[48], name[48];
    uint16_t n_returns;
    int max_retries;
    int class;
    unsigned sent_flags;
};

struct core {
    pthread_mutex_t lock;
    /* life */
    unsigned n_inits;
    _Atomic bool connected; /* changes under the lock */
    bool worker, stopping;
    unsigned n_inside; /* calls that may sleep, and values being read: the end waits for them */
    pthread_cond_t outside;
    int raylet_pidfd;    /* of a private cluster; -1: the cluster is not ours */
    int life_fd;         /* of another: its raylet's socket, open as long as its memory is mapped */
    _Atomic bool forked; /* set in a forked child: the library is inert there */
    struct peer *raylet;
    struct list peers;
    unsigned n_credits; /* processes that routes lead to */
    bool peers_ended;   /* some have no link and may be freed */
    struct list dirty;  /* peers with unsent frames */
    struct wire_welcome welcome;
    char session_dir[256], node_name[64], log_path[320];
    struct core_face face;
    /* owner */
    struct ref_table *refs;
    struct lineages *lineages;
    struct submit *submit;
    struct submit_actions actions;
    struct template **templates;
    unsigned n_templates;
    uint64_t task_counter;
    uint64_t n_pending;     /* tasks that have no result yet */
    bool has_lost;          /* values that were ready are pending, or were */
    struct peer *pushed;    /* last one a task went to */
    const char *death_text; /* while a death is carried out */
    int death_pid, death_signal;
    const struct unique_id *death_node; /* NULL: this one */
    char death_log[320];
    uint8_t *scratch;
    size_t scratch_size;
    /* worker */
    struct inbox *inbox;
    struct inbox_actions inbox_actions;
    struct peer *lease_peer;
    struct peer
        *late_peer; /* owner of a lease that has ended, but not all of whose results are out */
    uint64_t lease, late_lease;
    bool in_body, blocked;
    pthread_t body_thread;
    struct control_block *control;
    uint64_t oldest_reply_ns; /* of an unsent DONE; 0: none */
    char marked[48];          /* function whose marker stands in the logs */
    /* poller */
    bool polling;
    struct list sleepers;
    int epoll_fd;
    struct board_line *board;
    uint64_t spin_ns; /* how long a spin may last: two wake costs */
    uint64_t last_turn_ns;
    uint64_t lately_ns; /* a look at the clock; while work is outstanding a nap ago at most */
    uint64_t
        read_ns; /* when what is being handled was read: one look at the clock serves a batch */
    pthread_t helper;
    bool has_helper;
    _Atomic uint32_t helper_word; /* 1: sleeps long, wake it when work begins */
    /* events for a program's own loop */
    struct ready_event *events, **events_tail;
    int helper_fd; /* wakes the helper from its long sleep */
    int event_fd;
    /* text of tasks for the terminal, printed without the lock */
    char *log_text[2];
    size_t log_size[2];
    /* refs.c */
    struct borrow *borrow;
    struct borrow_actions borrow_actions;
    uint32_t *slots; /* of the refs inside the results that are being read, held */
    size_t n_slots;
    bool task_free; /* what the last body keeps is registered: DONE may be sent */
    /* objects.c; NULL without a store */
    struct store_client *store;
    int store_fds[2];
    bool bell;                       /* tell the raylet to look, with the next write */
    uint64_t lend_ticket, lend_last; /* the one unanswered request, or 0; the last number used */
    uint64_t lend_need;              /* bytes of it */
    bool lend_ahead;                 /* it asks for more than its caller needs */
    bool maps_ahead;                 /* the helper has to: objects_map_ahead() */
    uint64_t refused_need;           /* of the last one refused, and the raylet's sentence */
    uint64_t n_refused;
    char refused[sizeof((struct err *)0)->text];
    uint32_t life; /* clusters that this process has left: what outlives one does no harm */
    /* facts asked of the raylet */
    bool info_pending, info_ready;
    struct core_info info;
    struct core_counters counters;
    struct err lost; /* why the raylet is gone */
    bool gave_up;    /* it is not: a frame was lost here */
};

extern struct core core;

/* --- core.c --- */
void core_on_welcome(const uint8_t *body, size_t size, int fd);
/* Connect to the raylet at the other end of fd: HELLO with kind, token and flags, and wait for
 * WELCOME, more_ms longer than a raylet of this machine alone may take. made_of: NULL, or what
 * cluster_describe gave, for a raylet that is not ours. Takes all descriptors. */
int core_connect(int fd,
                 const struct wire_hello *who,
                 const int *made_of,
                 int more_ms,
                 struct err *err);

/* In a forked child the library is inert. */
bool core_is_forked(void);
/* Around what sleeps, with the lock held: records and peers stay until it has left. */
void core_enter(void);
void core_leave(void);
/* What was let go may have to be told others, with nobody waiting. */
void core_have_news(void);
uint64_t core_deadline(int64_t timeout_ms); /* ns; UINT64_MAX for ever */

/* --- template.c --- */
/* The body of a LEASE_REQUEST for this class, kept ready: ticket and count are to be filled in. */
uint8_t *core_class_frame(uint32_t class, size_t *size);
void template_forget_all(void);

/* --- task.c --- */
/* Are all of them refs of this process? */
bool core_are_refs(const uint64_t *refs, uint32_t n);
/* r is an argument of this task, by reference: counted if it is here, else the task waits for it.
 */
void core_await_argument(struct record *task, struct record *r);

/* --- put.c --- */
/* A buffer that is neither sealed, returned nor aborted; data of the heap if place is 0. */
struct open_buffer {
    void *data;
    uint64_t size, place, offset;
    uint32_t n_refs; /* room for so many */
    uint32_t generation, next;
};
/* It is the caller's now, and no copy of the buffer is good any more. false: it was taken before,
 * or is of a cluster that has ended. */
bool put_take_buffer(struct core_buffer *buffer, struct open_buffer *out);
/* Can it be a value of size bytes with n refs inside? */
bool put_fits(const struct open_buffer *b, uint64_t size, uint32_t n_refs);
struct store_extent put_extent_of(const struct open_buffer *b);
void put_abort(const struct open_buffer *b);
void put_forget_buffers(void);

/* --- start.c --- */
/* Ends this process with a sentence if it was started to become a zygote and runs the program
 * instead: its ray_init would start a cluster whose zygote starts a cluster. */
void start_check(void);

/* --- build.c --- */
/* "ray-c 0.1 3a80c83641fb636b0bf1": terminated; 32 bytes hold all of it. */
void core_build(char *out, size_t size);

/* --- poller.c --- */
void core_lock(void);
void core_unlock(void);
/* With the lock held: flush, wait for input at most timeout_ns (0 polls, UINT64_MAX for ever),
 * handle it. awaited (or NULL) is the peer whose answer the caller needs: spun for when that can
 * pay. The caller has the poller role. */
void poller_turn(uint64_t timeout_ns, struct peer *awaited, uint64_t expected_run_ns);
/* With the lock held, release and sleep until woken, the role is free, something in this process
 * becomes due, or the deadline (ns, UINT64_MAX none) is past. One round: the caller checks its
 * condition and calls again. */
void poller_wait(struct waiter *w,
                 uint64_t deadline_ns,
                 struct peer *awaited,
                 uint64_t expected_run_ns);
/* After the last round: hands the role on if others sleep. */
void poller_leave(void);
void poller_wake(struct waiter *w);
/* Each thread that sleeps looks at its condition again. */
void poller_wake_all(void);
/* Handle what has come, without waiting; whoever has the role does it anyway. */
void poller_poll(void);
void poller_watch_fd(struct peer *peer);
void poller_unwatch_fd(struct peer *peer);
/* Make the helper thread, or wake it from a long nap: work is outstanding. */
void poller_need_helper(void);
/* The same, and end a short nap too. */
void poller_hurry_helper(void);
int poller_init(struct err *err);
void poller_fini(void);

/* --- peer.c --- */
struct peer *peer_create(int fd, struct err *err);
struct peer *peer_create_routed(uint32_t route);
/* The one on this route of a process number, made if there is none. */
struct peer *peer_on_route(uint32_t route);
/* The newest of this process that is not leaving, if there is one of this role. */
struct peer *peer_find(const struct unique_id *id, bool as_owner);
/* As owner: end the channel by GOODBYE, at once or, called again, when its last lease has ended. */
void peer_leave(struct peer *peer);
/* At a turn's end: free those whose link has ended and that nothing points to. */
void peer_sweep(void);
void peer_end(struct peer *peer, const struct err *why);
void peer_free(struct peer *peer);
/* Read what is there, at most one buffer, and handle it. false: nothing was there. */
bool peer_read(struct peer *peer);
void *peer_reserve(struct peer *peer, uint8_t type, size_t size);
void peer_commit(struct peer *peer, size_t size);
/* The same with a descriptor, which is taken. */
void peer_commit_fd(struct peer *peer, size_t size, int fd);
int peer_send(struct peer *peer, uint8_t type, const void *body, size_t size);
void peer_flush(struct peer *peer);
void peer_flush_all(void);

/* --- owner.c --- */
void owner_on_frame(struct peer *peer, uint8_t type, const uint8_t *body, size_t size, int fd);
/* why: ERR_DIED if it was the other end that closed it. */
void owner_on_channel_lost(struct peer *peer, const struct err *why);
void owner_on_raylet_lost(void);
/* Carry out core.actions. */
void owner_act(void);
/* The same, and what only time brings: more requests, take-backs. */
void owner_settle(void);
void owner_ref_add_waiter(struct record *r, struct ref_waiter *w);
void owner_ref_remove_waiter(struct ref_waiter *w);
/* Tell everybody who waits for this ready ref. */
void owner_tell(struct record *r);
/* At least size bytes that stay until the next call. NULL: no memory. */
uint8_t *core_scratch(size_t size);
/* All its arguments are ready: node and near_log2. */
void owner_locate(struct task *t);
/* Build a WIRE_META_ERROR value; returns its size. */
size_t owner_failure(void *out,
                     size_t max,
                     enum core_code code,
                     int pid,
                     int sig,
                     const char *text,
                     const char *function,
                     const char *file,
                     const char *log);
/* The same for a value that the program has freed. */
size_t owner_freed(void *out, size_t max);

/* --- refs.c --- */
/* A value as it came: bytes (or where they are) and the refs inside, both foreign input. */
struct wire_value {
    const uint8_t *bytes;
    uint32_t size;
    uint8_t meta; /* enum wire_meta */
    bool is_stored, is_by_ref;
    bool is_elsewhere; /* stored, on another node */
    bool has_inner;    /* stored, and its refs came in the frame */
    uint32_t n_refs;
    struct wire_stored stored;
    const uint8_t *refs; /* packed wire_ref; of a stored value in the arena, unless has_inner */
};
/* Takes the value at *at. false: malformed. */
bool refs_parse(const uint8_t **at, const uint8_t *end, struct wire_value *out);
/* A ready record's value as it goes out to a process on that node; returns its size, out NULL asks
 * for that alone. */
size_t refs_put_value(const struct record *r, uint32_t node, uint8_t *out);
/* Of a ready record with REF_STORED, for that node. */
struct wire_stored refs_stored(const struct record *r, uint32_t node);
static inline bool refs_is_elsewhere(const struct ref_stored *s)
{
    return s->node != core.welcome.node_number;
}
/* Where it is read, once pinned. */
static inline uint64_t refs_place_here(const struct ref_stored *s)
{
    return refs_is_elsewhere(s) ? s->copy : s->place;
}
/* n refs as they go out. */
void refs_put(const uint32_t *slots, uint32_t n, uint8_t *out);
/* Where the refs of a stored value of this size begin, behind its data. */
static inline uint64_t refs_trailer(uint64_t size)
{
    return (size + 7) & ~7ull;
}
/* What a stored value needs, its refs included. */
static inline uint64_t refs_stored_size(uint64_t size, uint32_t n_refs)
{
    return refs_trailer(size) + n_refs * sizeof(struct wire_ref);
}
/* The records of n packed wire_refs, each held once more; one that cannot be had carries an error.
 * false: no memory, nothing is held. */
bool refs_learn(const uint8_t *refs, uint32_t n, uint32_t *slots);
/* A pending record becomes ready with this value, and everybody who waits is told. slots: those of
 * the refs inside, whose holds become the record's. */
void refs_set_value(struct record *r, const struct wire_value *v, const uint32_t *slots);
/* The process with that number: its channel, else a route through the raylet. NULL: nothing leads
 * there. */
struct peer *refs_peer(uint32_t process);
void refs_on_frame(struct peer *p, uint8_t type, const uint8_t *body, size_t size);
/* Carry out core.borrow_actions. */
void refs_act(void);
/* Say what has gathered, release what is due. At the end of a turn, and before DONE. */
void refs_flush(void);
/* The raylet is gone: what is borrowed and pending stays so for ever. */
void refs_on_raylet_lost(void);

/* To that process, whichever way leads there. */
void refs_send(uint32_t process, uint8_t type, const void *body, size_t size);
/* A new record, held once, with the error that the ref it stands for is gone. NULL: no memory. */
struct record *refs_learn_lost(void);
/* A pending record becomes this error: CORE_EOWNER, CORE_ELOST, CORE_ELINK, CORE_ENOMEM. */
void refs_set_lost(uint32_t slot, int code);

/* --- want.c --- */
/* Ask a borrowed, pending ref's owner for the value. */
void refs_want(struct record *r);
/* A borrower that waited for this ready ref gets its value. */
void want_tell_peer(struct record *r, uint32_t process);
/* false: malformed. */
bool want_on_frame(uint32_t from, uint8_t type, const uint8_t *body, size_t size);
void want_on_process_dead(uint32_t process);
void want_forget(void);

/* --- objects.c --- */
/* The store's memory as the raylet hands it to a driver, part by part; takes fd. */
void objects_on_fd(uint32_t part, int fd);
/* control: this process's control block, mapped for CONTROL_SIZE. The fds stay the caller's. */
int objects_open(int index_fd, int arena_fd, struct control_block *control, struct err *err);
void objects_close(void);
void objects_on_frame(uint8_t type, const uint8_t *body, size_t size);
/* Memory for a value of data bytes (> 0) and the refs inside it; waits, without the lock, while the
 * store is full. CORE_OK, CORE_EFULL or CORE_ELINK with err. */
int objects_alloc(uint64_t data, uint32_t n_refs, struct store_extent *out, struct err *err);
void objects_abort(const struct store_extent *e);
/* Write size bytes to its start (bytes NULL: nothing), having got its memory. Without the lock.
 * CORE_OK, or CORE_ENOMEM with err: the machine has none. */
int objects_fill(const struct store_extent *e, const void *bytes, uint64_t size, struct err *err);
/* The helper's: map some of the memory that was lent and is not used yet, meanwhile without the
 * lock. false: all of it is. */
bool objects_map_ahead(void);
/* Tell the raylet that an extent is whole: size bytes, n_refs refs behind them. What it has beyond
 * is given back. */
struct object_name {
    uint32_t owner, index; /* process number; of the return */
    uint64_t counter;
    uint16_t attempt;
};
void objects_seal(const struct store_extent *e,
                  uint64_t size,
                  uint8_t meta,
                  uint32_t n_refs,
                  const struct object_name *name);
/* A copy in our store of what we own, which is pinned, is not to be evicted from now on. false: the
 * raylet cannot be told just now. */
bool objects_keep(uint64_t place);
/* We, its owner, need it no more. */
void objects_free(const struct wire_stored *s);
/* The worker of that task of ours, on that node, is dead: results it sealed and could not tell us
 * of are freed. */
void objects_disown(uint64_t counter, uint16_t attempt, uint32_t node);
/* Keep a place readable until objects_unpin. *pin is where the pin will be looked for, and changes
 * when it moves to the raylet. May wait without the lock; who asks for the same *pin then shares
 * it. false: the object is not there, or the raylet is gone. */
bool objects_pin(uint64_t place, int32_t *pin);
void objects_unpin(uint64_t place, int32_t *pin);
/* Can a result of ours be there? Its owner reads it without a pin. */
bool objects_is_ours(const struct wire_stored *s);
/* NULL: not in the store. */
const void *objects_read(uint64_t offset, uint64_t size);
/* Is that slot pinned, and what? */
bool objects_pinned(int slot, uint64_t *place);
/* Rings the bell if asked for; before frames are written. */
void objects_flush(void);

/* --- pull.c --- */
/* A value that is elsewhere becomes readable here: *copy is its place, pinned, and *bytes where it
 * lies. *copy on entry: where it may be, or 0; *pin as objects_pin, both stay where they are until
 * the unpin. word: of the record that is to have the copy, though nobody waits for it any more; 0:
 * none. deadline 0 looks once. Waits without the lock, a body's thread blocked unless for an
 * ARGUMENT; who calls ends that by worker_unblock and poller_leave. CORE_OK; CORE_ETIMEOUT; else
 * *why: CORE_ELOST, CORE_EFULL, CORE_ENOMEM, CORE_ELINK. */
int pull_bring(const struct wire_stored *s,
               uint64_t word,
               enum wire_pull priority,
               uint64_t *copy,
               int32_t *pin,
               uint64_t deadline,
               const void **bytes,
               struct err *why);
/* What lies at this place, which is pinned, if it is that value; else NULL. */
const struct index_entry *pull_look(const struct wire_stored *s, uint64_t place);
/* Those of these refs that are elsewhere will be read, one after the other: ask for the first of
 * them at once, as much as a part of the store. */
void pull_ahead(const uint64_t *refs, size_t n);
/* Nobody need wait for this ready value any more: it is on this machine, or a get will say why it
 * cannot be. */
bool pull_is_here(const struct record *r);
/* Those of these refs that are ready and not here are waited for: as many are asked for as a part
 * of the store holds, one always; owner_tell is called for each that comes, or cannot. It stays
 * wanted when the wait is over. false: not all are asked for yet. */
bool pull_for_wait(const uint64_t *refs, size_t n);
/* This record does not want it any more. */
void pull_end_record(const struct wire_key *key, uint64_t word);
/* A task has come, with these arguments: those that are elsewhere are asked for. */
void pull_on_push(uint64_t lease, uint8_t slot, const uint8_t *at, size_t size, unsigned n_args);
/* The tasks of this lease whose arguments are on their way, by slot: others may run before them. */
uint64_t pull_waiting(uint64_t lease);
/* Tasks of this lease have their arguments, or do not run here. mask: by slot. */
void pull_end_tasks(uint64_t lease, uint64_t mask);
void pull_on_frame(uint8_t type, const uint8_t *body, size_t size);
void pull_forget(void);

/* --- remake.c --- */
/* Does this refusal of a pull say that nobody has the bytes any more? */
bool remake_is_loss(const struct err *why);
/* Nobody has that attempt's bytes, which were on that node, says who wanted them. If they are what
 * this record stands for, it is pending until its task has run again, its owner has answered, or,
 * with an error, at once; or a copy that is here takes their place. false: what is known here says
 * otherwise, and who asks again will fail again. */
bool remake_lost(struct record *r, uint16_t attempt, uint32_t node);
/* STORE_FOUND: another node has them, or nobody. */
void remake_on_found(const uint8_t *body, size_t size);
/* Nobody will say it any more. */
void remake_on_raylet_lost(void);
/* A LOST one has no views any more. */
void remake_end_lost(struct record *r);
/* The task's record that a pending value of ours waits for. */
struct record *remake_task_of(const struct record *r);
/* Must that task, whose arguments were all there, wait for some of them again? */
bool remake_must_wait(const struct task *t);
/* Then, out of queue and windows: it is submitted as soon as they are there. */
void remake_await_arguments(struct record *task);
/* A run has ended: in an error for those of its returns that wait; or they are set. */
void remake_fail_run(struct record *run, uint8_t meta, const void *bytes, uint32_t size);
void remake_end_run(struct record *run);

/* --- get.c --- */
/* One view less of a value in a store; the last one ends what waits for that. */
void get_end_view(struct record *r);

/* --- call.c --- */
/* Run one claimed task that was claimed at start_ns and answer it; when its body ended. The lock is
 * held on entry and on return. */
uint64_t call_run(const struct inbox_task *t, uint64_t start_ns);
void call_on_process_dead(uint32_t process);
/* Each record that the running body holds, by its arguments and what it has returned so far. */
void call_for_each_hold(void (*f)(void *arg, uint32_t slot), void *arg);
/* Argument i of the running body that is in the store, and where its pin is. false: no more. */
bool call_next_pin(unsigned i, uint64_t *place, int32_t *pin);

/* --- ref_report.c --- */
/* A page of the table of refs, to the raylet. */
void ref_report_on_ask(const uint8_t *body, size_t size);

/* --- worker.c --- */
void worker_on_frame(struct peer *peer, uint8_t type, const uint8_t *body, size_t size, int fd);
void worker_on_owner_lost(struct peer *peer);
/* The lease that has ended, if all its results are out now. */
void worker_end_late_lease(void);
/* Around a wait of the body's thread: gives the CPU back. */
void worker_block(void);
void worker_unblock(void);
void worker_act(void);
/* Ends a revoked lease whose time has come, or returns what it has not started. */
void worker_on_time(void);
/* Claim and run the oldest task; false: there is none. An answer older than wake_ns is written
 * first. *now_ns: the time, and that of the body's end. The caller holds the lock, but for the
 * body. */
bool worker_run_one(uint64_t wake_ns, uint64_t *now_ns);

#endif /* LIB_CORE_CORE_PRIVATE_H */
