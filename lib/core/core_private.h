/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_CORE_PRIVATE_H
#define LIB_CORE_CORE_PRIVATE_H
/*
 * What the files of lib/core share: the one core of this process and its peers. All fields are
 * guarded by core.lock unless a comment says otherwise.
 *
 *   core.c     life of the process's membership, and the calls of core.h
 *   poller.c   who does I/O: the lock, the poller role, spinning, sleeping, the helper thread
 *   peer.c     links, routes, frames in (dispatch) and out
 *   owner.c    carries out what submit.c decides; DONE, RETURNED, deaths
 *   worker.c   carries out what inbox.c decides; runs bodies
 */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/base/list.h"
#include "lib/core/core.h"
#include "lib/core/inbox.h"
#include "lib/core/ref_table.h"
#include "lib/core/submit.h"
#include "lib/net/control_block.h"
#include "lib/net/frame.h"
#include "lib/net/unix_link.h"

#define CORE_BUILD       "ray-c 0.1"
#define CORE_ANY_FAILURE 256 /* bytes of a failure's sentence */

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
    struct unique_id id;
    int32_t pid;
    uint32_t process, board_slot;
    unsigned n_leases;             /* of ours on it */
    unsigned in_flight;            /* pushes not yet answered */
    unsigned n_unsent;             /* pushes since the last flush */
    struct submit_lease *lease;    /* the one last heard of: saves a search */
    struct known_template **known; /* [number]: theirs, as worker */
    unsigned n_known;
    uint8_t *templates; /* [number]: sent on this channel */
    unsigned n_templates;
    struct frame_join join[128]; /* by type */
    struct list dirty_node;
};
#define PEER_MAGIC 0x50454552u

/* A thread asleep in get or wait, on its own stack. */
struct waiter {
    struct list node; /* core.sleepers while asleep */
    _Atomic uint32_t word;
    unsigned n_missing; /* refs it waits for that are not ready */
};

/* Whom to tell when a ref is ready; on record->waiters. */
enum ref_waiter_kind {
    REF_WAITER_THREAD,
    REF_WAITER_WATCH,
    REF_WAITER_TASK,
};
struct ref_waiter {
    struct ref_waiter *next, **link; /* link: what points here; NULL when told */
    enum ref_waiter_kind kind;
    union {
        struct waiter *thread;
        struct record *task; /* one dependency less */
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
    int raylet_pidfd;
    _Atomic bool forked; /* set in a forked child: the library is inert there */
    struct peer *raylet;
    struct list peers;
    struct list dirty; /* peers with unsent frames */
    struct wire_welcome welcome;
    char session_dir[256], node_name[64], log_path[320];
    struct core_face face;
    /* owner */
    struct ref_table *refs;
    struct submit *submit;
    struct submit_actions actions;
    struct template **templates;
    unsigned n_templates;
    uint64_t task_counter;
    uint64_t n_pending;     /* tasks that have no result yet */
    struct peer *pushed;    /* last one a task went to */
    const char *death_text; /* while a death is carried out */
    int death_pid, death_signal;
    char death_log[320];
    uint8_t *scratch;
    size_t scratch_size;
    /* worker */
    struct inbox *inbox;
    struct inbox_actions inbox_actions;
    struct peer *lease_peer;
    uint64_t lease;
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
    uint64_t
        read_ns; /* when what is being handled was read: one look at the clock serves a batch */
    pthread_t helper;
    bool has_helper;
    _Atomic uint32_t helper_word; /* 1: naps long, wake it when work begins */
    /* events for a program's own loop */
    struct ready_event *events, **events_tail;
    int event_fd;
    /* text of tasks for the terminal, printed without the lock */
    char *log_text[2];
    size_t log_size[2];
    /* facts asked of the raylet */
    bool info_pending, info_ready;
    struct core_info info;
    struct core_counters counters;
    struct err lost; /* why the raylet is gone */
};

extern struct core core;

/* --- core.c --- */
/* The body of a LEASE_REQUEST for this class, kept ready: ticket and count are to be filled in. */
uint8_t *core_class_frame(uint32_t class, size_t *size);
void core_on_welcome(const uint8_t *body, size_t size, int fd);
/* Connect to the raylet at the other end of fd: HELLO, and wait for WELCOME. Takes fd. */
int core_connect(int fd, enum wire_kind kind, uint64_t token, struct err *err);

/* --- poller.c --- */
void core_lock(void);
void core_unlock(void);
/* With the lock held: flush, wait for input at most timeout_ns (0 polls, UINT64_MAX for ever),
 * handle it. awaited (or NULL) is the peer whose answer the caller needs: spun for when that can
 * pay. The caller has the poller role. */
void poller_turn(uint64_t timeout_ns, struct peer *awaited, uint64_t expected_run_ns);
/* With the lock held, release and sleep until woken, the role is free, or the deadline (ns,
 * UINT64_MAX none) is past. One round: the caller checks its condition and calls again. */
void poller_wait(struct waiter *w,
                 uint64_t deadline_ns,
                 struct peer *awaited,
                 uint64_t expected_run_ns);
/* After the last round: hands the role on if others sleep. */
void poller_leave(void);
void poller_wake(struct waiter *w);
void poller_watch_fd(struct peer *peer);
void poller_unwatch_fd(struct peer *peer);
/* Make the helper thread, or wake it from a long nap: work is outstanding. */
void poller_need_helper(void);
int poller_init(struct err *err);
void poller_fini(void);

/* --- peer.c --- */
struct peer *peer_create(int fd, struct err *err);
struct peer *peer_create_routed(uint32_t route);
struct peer *peer_find(const struct unique_id *id, bool as_owner);
void peer_end(struct peer *peer, const struct err *why);
void peer_free(struct peer *peer);
/* Read what is there, at most one buffer, and handle it. false: nothing was there. */
bool peer_read(struct peer *peer);
void *peer_reserve(struct peer *peer, uint8_t type, size_t size);
void peer_commit(struct peer *peer, size_t size);
int peer_send(struct peer *peer, uint8_t type, const void *body, size_t size);
void peer_flush(struct peer *peer);
void peer_flush_all(void);

/* --- owner.c --- */
void owner_on_frame(struct peer *peer, uint8_t type, const uint8_t *body, size_t size, int fd);
void owner_on_channel_lost(struct peer *peer);
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

/* --- worker.c --- */
void worker_on_frame(struct peer *peer, uint8_t type, const uint8_t *body, size_t size, int fd);
void worker_on_owner_lost(struct peer *peer);
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
