/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_CORE_H
#define LIB_CORE_CORE_H
/*
 * The language-neutral runtime of a driver or worker process: what a face (lib/api, later Python)
 * stands on. Values are bytes with a meta that names their encoding (enum wire_meta). Refs are
 * words: (generation << 32 | slot), 0 is never valid; a stale word is CORE_ESTALE. Any thread; one
 * core lock inside, never held in user code, in poll, or in a system call that may block (DESIGN
 * D16).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/id.h"
#include "lib/net/wire.h"

/* The same numbers as ray_code in ray.h (asserted there). */
enum core_code {
    CORE_OK,
    CORE_END,
    CORE_ETIMEOUT,
    CORE_EARG,
    CORE_ETYPE,
    CORE_ESTALE,
    CORE_EFULL,
    CORE_ENOMEM,
    CORE_ETASK,
    CORE_ECRASH,
    CORE_EACTOR_DIED,
    CORE_EACTOR_AWAY,
    CORE_ELOST,
    CORE_EOWNER,
    CORE_ECANCELED,
    CORE_EAUTH,
    CORE_ELINK,
    CORE_EFORKED,
};

#define CORE_OBJECT_MAX  (1ull << 46) /* bytes of a store: no object is larger */
#define CORE_INLINE_MAX  (100u << 10) /* a value longer than this needs the object store */
#define CORE_ARGS_MAX    (10u << 20)  /* inline bytes of one task */
#define CORE_RETURNS_MAX 1000
#define CORE_N_RESOURCES 16

struct core_resource {
    char name[48];
    int64_t units; /* 1/10000 */
};

struct core_config {
    int num_cpus;                                     /* 0: this machine's */
    struct core_resource resources[CORE_N_RESOURCES]; /* custom ones of the node */
    unsigned n_resources;
    const char *temp_dir;         /* NULL: RAY_TMPDIR, else /tmp/ray */
    bool no_log_to_driver;        /* prints of tasks stay in their files */
    uint64_t object_store_memory; /* bytes; 0: Ray's default, 30 % of what is available */
    /* NULL: a cluster of its own; "auto", a cluster's HOST:PORT, or a session's folder or socket:
     * the one that runs there, and of the rest only temp_dir and no_log count */
    const char *address;
    bool may_join; /* NULL: a node that `ray start` made, if one runs here */
};

/* A bound function: interned, so that equal specs give the same number. */
struct core_template_spec {
    const char *function; /* the name that the worker looks up */
    const char *name;     /* display name; NULL: function */
    unsigned n_returns;   /* 0..CORE_RETURNS_MAX */
    int max_retries;      /* -1 for ever */
    int64_t cpu_units;    /* 1/10000 */
    struct core_resource resources[CORE_N_RESOURCES];
    unsigned n_resources;
};

/* An argument: of core_submit, or of a call that is executed (there ref = 0 always, and bytes and
 * refs are good for the call; core_retain keeps a ref longer). */
struct core_arg {
    uint64_t ref; /* nonzero: the value of this ref; else inline: */
    const void *bytes;
    uint64_t size;
    const uint64_t *refs; /* inside the bytes, which name them by their place in this array */
    uint32_t n_refs;
    uint8_t meta;
};

/* A value got. Small ones without refs are copied into store; others stay held, and readable where
 * they are, until core_value_drop. */
struct core_value {
    const void *bytes;
    uint64_t size;
    uint32_t n_refs; /* inside: see core_value_ref */
    uint8_t meta;
    uint64_t held; /* 0: nothing to drop */
    uint8_t store[80];
};

/* Store memory that is being filled. Zeroed is none. */
struct core_buffer {
    void *data;
    uint64_t size;
    uint64_t block[3]; /* core's */
};

struct core_event {
    uint64_t ref;
    void *tag;
};

/* --- process --- */
/* Start a private cluster, or join the one at the address. CORE_OK or a code with err filled;
 * nothing remains on failure. A second call while connected is CORE_OK and counts; core_shutdown
 * undoes one. In a worker it is CORE_OK. */
int core_init(const struct core_config *config, struct err *err);
/* Leave; ends the private cluster, or this program's job, and waits until nothing of it remains: <=
 * 2 s, then a private cluster is killed. */
int core_shutdown(struct err *err);
bool core_is_initialized(void);
bool core_in_worker(void);

/* --- the face's side of executing; installed before main by lib/api's constructor --- */
struct core_call {
    const char *function, *name;
    void *body;                  /* what lookup gave */
    const struct core_arg *args; /* ref = 0 in each; bytes good for the call */
    unsigned n_args, n_returns;
    uint64_t counter; /* the task's, of */
    uint32_t owner;   /* this process */
    unsigned attempt;
    void *reply; /* core's */
};
struct task_id core_call_task(const struct core_call *call);
struct core_face {
    void *(*lookup)(const char *function); /* NULL: this executable has no such function */
    void (*execute)(
        struct core_call *call); /* gives each return, or fails; a return not given is an error */
};
void core_set_face(const struct core_face *face);
/* Give return i (copied; the refs inside are counted until the caller has them). One above
 * CORE_INLINE_MAX goes to the object store. CORE_EARG: i out of range or given twice; CORE_ESTALE;
 * CORE_EFORKED; CORE_EFULL: the store has no room, err says; CORE_ENOMEM. */
int core_call_return(struct core_call *call,
                     unsigned i,
                     uint8_t meta,
                     const void *bytes,
                     size_t size,
                     const uint64_t *refs,
                     uint32_t n_refs,
                     struct err *err);
/* Return i is what was written to this buffer, which becomes {0}: nothing is copied. Its size may
 * have been lowered. CORE_EARG has err filled when it is the buffer that is wrong. */
int core_call_return_buffer(struct core_call *call,
                            unsigned i,
                            uint8_t meta,
                            struct core_buffer *buffer,
                            const uint64_t *refs,
                            uint32_t n_refs,
                            struct err *err);
/* The task fails: overrides returns given. text, file are copied. */
void core_call_fail(struct core_call *call,
                    enum core_code code,
                    const char *text,
                    const char *file);

/* --- submitting --- */
/* 0.. or -1 (EARG: NaN, negative or unknown amounts, too many returns; names > 47 bytes; err says).
 */
int core_template(const struct core_template_spec *spec, struct err *err);
/* Never fails for reasons of the cluster: the refs carry the error. refs_out has n_returns slots.
 * The args are copied, their refs counted before return (INV-8). CORE_ESTALE, CORE_EFULL (inline
 * bytes), CORE_ENOMEM, CORE_EFORKED, CORE_EARG. */
int core_submit(int template, const struct core_arg *args, unsigned n_args, uint64_t *refs_out);
/* A ref that is ready with this error: how a face keeps "a submission never fails at the call". 0
 * if no memory. */
uint64_t core_put_error(enum core_code code, const char *text);

/* --- objects --- */
/* "file.c:12" of the call of this thread that makes the next refs, a string that lives on; or NULL.
 * `ray memory` prints it. */
extern __thread const char *core_call_site;
/* A ref to a copy; the refs inside are counted as long as it lives. Above CORE_INLINE_MAX it lives
 * in the object store: waits while that is full, then CORE_EFULL with err filled. 0 and *code. */
uint64_t core_put(uint8_t meta,
                  const void *bytes,
                  size_t size,
                  const uint64_t *refs,
                  uint32_t n_refs,
                  int *code,
                  struct err *err);
/* size bytes of store memory (heap up to CORE_INLINE_MAX) with room for n_refs refs, to be filled
 * in place by any thread, then sealed, returned or aborted. CORE_EFULL as core_put; CORE_EARG not
 * connected; CORE_ENOMEM. */
int core_create(uint64_t size, uint32_t n_refs, struct core_buffer *out, struct err *err);
/* The buffer becomes {0} and its first size bytes (<= its own) an object. 0 and *code (CORE_ESTALE:
 * a ref inside; CORE_EARG: not open, size 0, or no room for so much or so many refs; the buffer is
 * aborted). */
uint64_t core_seal(struct core_buffer *buffer,
                   uint64_t size,
                   uint8_t meta,
                   const uint64_t *refs,
                   uint32_t n_refs,
                   int *code);
void core_abort(struct core_buffer *buffer);
/* CORE_OK and *out; CORE_ETIMEOUT; CORE_ESTALE. A failed task is CORE_OK with meta WIRE_META_ERROR.
 * timeout_ms -1 waits, 0 polls. */
int core_get(uint64_t ref, int64_t timeout_ms, struct core_value *out);
/* The same; with CORE_OK the handle is released too: one lock instead of two. */
int core_take(uint64_t ref, int64_t timeout_ms, struct core_value *out);
void core_value_drop(struct core_value *value);
/* For one that the program keeps: core_shutdown does not wait for its drop, which then does nothing
 * and may come at any time; its bytes end with the cluster. */
void core_value_keep(struct core_value *value);
/* A ref of the value's i-th inner ref, the caller's to release; 0: no such. Before the drop. */
uint64_t core_value_ref(const struct core_value *value, uint32_t i);
/* Free the value now, whoever may still want it: later gets are CORE_ELOST ("was freed"); views
 * that exist stay good. CORE_EOWNER: the ref is borrowed, only its owner may; CORE_EARG: not ready
 * yet. */
int core_free(uint64_t ref);
struct core_object {
    bool is_ready, is_error, is_owned;
    bool in_store;   /* in an object store, this node's or another's; else inline with its owner */
    uint64_t size;   /* when ready */
    uint32_t n_refs; /* inside */
    struct object_id id;
};
/* Does not wait and does not fetch. CORE_OK or CORE_ESTALE. */
int core_get_object(uint64_t ref, struct core_object *out);
/* Until all are ready, the time is over, or one carries an error: the first such one, n if none
 * does. What is in other nodes' stores is asked for then, since it is to be read. CORE_OK, whatever
 * ended it; CORE_ESTALE; CORE_ENOMEM: it did not wait. */
int core_await_all(const uint64_t *refs, size_t n, int64_t timeout_ms, size_t *error);
/* ready[i] for the first num_returns refs in input order that are ready and on this machine: those
 * elsewhere are asked for, all of them, and go on coming when it returns. CORE_OK, CORE_ETIMEOUT
 * when fewer (flags are set all the same), CORE_EARG (0, too many, duplicates), CORE_ESTALE. */
int core_wait(const uint64_t *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready);
int core_retain(uint64_t ref);
int core_release(uint64_t ref);
/* One event when it is ready. */
int core_watch(uint64_t ref, void *tag);
int core_poll(struct core_event *events, size_t max, int64_t timeout_ms); /* number; -code */
int core_poll_fd(void); /* readable while events wait; -1 */

/* --- facts --- */
struct core_facts { /* as WELCOME told them: they stay until the cluster ends */
    struct unique_id cluster, node, worker;
    uint32_t job, process;
    uint32_t n_cpus;
    char session_dir[256];
};
/* Asks nobody. CORE_EARG: not connected. CORE_ELINK: the raylet is known to be gone. */
int core_get_facts(struct core_facts *out, struct err *err);
struct core_info {
    uint32_t n_nodes, n_workers;
    unsigned n_resources;
    struct {
        char name[48];
        int64_t total, available;
    } resources[CORE_N_RESOURCES + 1];
};
int core_get_info(struct core_info *out, struct err *err); /* asks the raylet */
struct core_counters {
    uint64_t allocs, writes, reads, thread_hops, spins, blocks, tasks_submitted, tasks_executed,
        helper_turns, digests, repairs; /* lib/core/borrow.h */
};
void core_get_counters(struct core_counters *out);

/* --- processes that libray becomes (called by lib/core/start.c) --- */
struct core_worker_setup {
    int link_fd, control_fd, board_fd, index_fd, arena_fd;
    uint64_t token;
    uint32_t slot; /* on the board */
};
_Noreturn void core_worker_main(const struct core_worker_setup *setup);
struct core_zygote_setup {
    int link_fd, board_fd, index_fd, arena_fd;
    char session_dir[256]; /* removed when the raylet dies without doing so */
};
_Noreturn void core_zygote_main(const struct core_zygote_setup *setup);

#endif /* LIB_CORE_CORE_H */
