/* SPDX-License-Identifier: Apache-2.0 */
/* ray.h: tasks and objects from C.
 *
 * Threads: any function from any thread; a ray_call belongs to the thread that runs its body.
 * Errors:  RAY_OK or a ray_code; ray_error() says more. A submission never fails at the call: its
 *          ref carries the error, and the first get of it reports it.
 * Refs:    one word, of this process, generation-checked: release once; a stale one is RAY_ESTALE,
 *          not a crash.
 * Time:    milliseconds; RAY_FOREVER waits, 0 polls, other negative ones are RAY_EARG.
 * Sizes:   a value (an argument, a return, a put) of more than 100 KiB lies in the object store,
 *          which all processes of a machine read in place; a smaller one stays with its owner.
 * Refs inside values keep what they name alive as long as somebody can reach the value.
 * Main:    never runs in a worker: there libray puts its own main in place, after all constructors.
 * Fork:    in a forked child every function is RAY_EFORKED. */
#ifndef RAY_RAY_H
#define RAY_RAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#pragma GCC system_header /* users compile with -Wpedantic, our macros use GNU C */
#ifdef __cplusplus
extern "C" {
#endif
#define RAY_FOREVER ((int64_t)-1)
#define RAY_ZERO    (-2147483647 - 1) /* in an option: zero; a field left out is Ray's default */

/* Numbers are never reused; those of parts that this release does not have keep their place. */
typedef enum ray_code {
    RAY_OK,
    RAY_END,      /* no item is left */
    RAY_ETIMEOUT, /* not ready in the time given */
    RAY_EARG,     /* an argument or option that can never work */
    RAY_ETYPE,    /* the value has another type than the place for it */
    RAY_ESTALE,   /* not a ref of this process, or it was released */
    RAY_EFULL,    /* larger than a bound, or the object store has no room */
    RAY_ENOMEM,
    RAY_ETASK,  /* the task's body failed: ray_error() has its sentence and place */
    RAY_ECRASH, /* the worker died in the body, as often as max_retries allows */
    RAY_EACTOR_DIED,
    RAY_EACTOR_AWAY,
    RAY_ELOST,  /* the value was freed, or its last copy is gone */
    RAY_EOWNER, /* the process that owns the object is gone, or is not this one */
    RAY_ECANCELED,
    RAY_EAUTH,
    RAY_ELINK,  /* the cluster cannot be started, or is gone */
    RAY_EFORKED /* this process was forked from one that uses Ray */
} ray_code;
typedef struct {
    uint64_t word; /* 0: none */
} ray_ref;
typedef struct ray_call ray_call;         /* one running call */
typedef struct ray_function ray_function; /* registered, or bound to options */
typedef int (*ray_body)(ray_call *call);  /* returns 0; anything else: the call failed */
/* Bytes where they lie, not to be written; what ray_get fills stays good until ray_drop, even if
 * the ref is released. Those that are a value of their own begin at a multiple of 16, those inside
 * a list or map anywhere. */
typedef struct {
    const void *data;
    size_t size;
    uint64_t pin[2]; /* private */
} ray_view;
/* Store memory that is being filled: any thread may write data until it is sealed, returned or
 * abandoned; then it is {0}, and a copy of it is RAY_EARG. If its size was lowered before, the rest
 * is given back. */
typedef struct {
    void *data;
    size_t size;
    uint64_t block[3]; /* private */
} ray_buffer;
typedef struct {
    ray_ref ref;
    void *tag;
} ray_event;
typedef struct {
    ray_code code;
    const char *text;                         /* a sentence; never NULL */
    const char *function, *file, *node, *log; /* where it happened; "" when not known */
    int pid, signal;                          /* of the worker; 0 when not known */
} ray_failure;
/* A value going in; ray_v(x) makes it from x's type. Bytes and items are borrowed for the call.
 * RAY_LST and RAY_MAP hold size values (a map: key, value, key, value ...). */
typedef struct ray_value {
    uint32_t kind, flags;
    union {
        int64_t i;
        uint64_t u;
        double d;
        const void *p;
        const struct ray_value *v;
    } as;
    size_t size;
} ray_value;
/* Where a value goes; ray_to(p) makes it from p's type. */
typedef struct {
    uint32_t kind;
    void *p;
    size_t size;
} ray_slot;
/* Of a function or of one call. RAY_OPTIONS(.field = x) sets size: the struct may grow. */
typedef struct {
    size_t size;
    double num_cpus;       /* 1; fractions down to 1/10000; RAY_ZERO: none */
    const char *resources; /* custom ones: "name=amount,name=amount" */
    const char *name;      /* shown in logs and errors; the function's name */
    int num_returns;       /* 1; at most 1000; RAY_ZERO: none */
    int max_retries;       /* after a crash: 3, or RAY_TASK_MAX_RETRIES; RAY_ZERO: none; -1: ever */
    int64_t memory;        /* bytes that its node sets aside for it; 0: none. Not a limit */
} ray_options;
/* Of a cluster. RAY_CONFIG(.field = x) sets size. */
typedef struct {
    size_t size;
    int num_cpus;          /* tasks of one CPU that run at once; this machine's CPUs */
    const char *resources; /* of this node: "name=amount,name=amount" */
    const char *temp_dir;  /* for session folders: RAY_TMPDIR, else /tmp/ray */
    bool no_log_to_driver; /* prints of tasks stay in their log files */
    const char *address;   /* RAY_ADDRESS; HOST:PORT of a cluster, with a node here or not; "auto":
                            * the newest of this user here; or a session folder; "local": a
                            * private one in any case */
    uint64_t object_store_memory; /* bytes, 1 MiB or more; 30 % of the memory that is available */
} ray_config;

/* --- process --- */
/* Joins the cluster at the address, or without one that of the newest node that `ray start` made
 * for this user here, and it stays; else, or if CPUs, resources or a store are given, starts a
 * private cluster, which ends with ray_shutdown or with the process. NULL: defaults. Calls nest: a
 * second one only counts. In a worker: RAY_OK, it is in a cluster already. Not called at all, the
 * first submission or put calls it; if that fails, those after it fail alike until ray_init is
 * called. RAY_EARG: a field of config, one that is the cluster's (num_cpus, resources,
 * object_store_memory) with an address, or an address that is none; RAY_ELINK: the cluster cannot
 * be started, or has no node here; nothing of it remains. */
int ray_init(const ray_config *config);
/* Undoes one ray_init; the last one ends the private cluster or leaves the other, and every ref,
 * view and box ends with it. 0, fit to return from main, or RAY_EARG: there is nothing to undo. */
int ray_shutdown(void);
/* Prints ray_error() in one line: "divide (ex1.c): 7 by zero; node .., pid .., log ..". Returns 1,
 * fit to return from main. */
int ray_report(FILE *out);
/* Of this thread's last call that failed. Never NULL; good until the thread's next failure. */
const ray_failure *ray_error(void);
/* A string that the caller owns. NULL is fine. */
void ray_free(const void *p);

/* --- inside a call --- */
/* Argument i (0 is the first) into slot. Strings, views and boxes last as long as the call and are
 * not the caller's; a ref is, to be released once. A view of what lies in the object store is
 * zero-copy. RAY_EARG: no such argument; RAY_ETYPE; RAY_ENOMEM. */
int ray_arg_to(ray_call *call, unsigned i, ray_slot slot);
unsigned ray_n_args(const ray_call *call);
/* Return value i (copied), once each, in any order; one that is not given when the body ends fails
 * the call. Refs may be inside, or be the value; they stay the body's to release. A ray_buffer *
 * gives the buffer as it was filled, without a copy; it is {0} afterwards, whatever the code.
 * RAY_EARG: no such return, or given before; RAY_ESTALE: a ref inside; RAY_EFULL: the object store
 * has no room; RAY_ENOMEM. */
int ray_return_value(ray_call *call, unsigned i, ray_value value);
/* The call fails with this sentence (cut at 1 KiB), whatever it returned: what ray_get reports,
 * with function, file, node, pid and log. Not retried. Returns RAY_ETASK, fit to return from the
 * body. */
int ray_fail(ray_call *call, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define ray_arg(call, i, out)  ray_arg_to(call, i, ray_to(out))
#define ray_return(call, i, x) ray_return_value(call, i, ray_v(x))

/* --- objects --- */
/* ray_put(x): a ref to a copy of the value, to be released once. Above 100 KiB packed it waits
 * while the object store is full. An error is carried by the ref: RAY_EARG, a bare ref (it is one
 * already) or not a value; RAY_ESTALE, a ref inside; RAY_EFULL; RAY_ENOMEM. */
ray_ref ray_put_at(const char *site, ray_value value);
/* ray_create(size, &buffer): size > 0 bytes of the object store to be filled in place, 64-byte
 * aligned, of any content; waits while the store is full. RAY_OK; RAY_EARG: size 0; RAY_EFULL;
 * RAY_ENOMEM. */
int ray_create_at(const char *site, size_t size, ray_buffer *out);
/* ray_seal(&buffer): ends writing. The bytes are an object, as if put with ray_bytes but not
 * copied; the buffer becomes {0}. To be released once; an error is carried by the ref (RAY_EARG:
 * not a buffer, or sealed before). */
ray_ref ray_seal_at(const char *site, ray_buffer *buffer);
/* Gives up a buffer that is not sealed; it becomes {0}. One that is {0} is fine. */
void ray_abandon(ray_buffer *buffer);
/* The value, once it is there. A string is the caller's (ray_free), as are a view (ray_drop), a box
 * (ray_box_drop) and a ref (ray_release). A view of bytes or of a string is zero-copy: it points
 * into the object store or at the owner's copy, and keeps that until ray_drop; only a value of a
 * few bytes is copied. RAY_OK; RAY_ETIMEOUT; RAY_ESTALE; RAY_ETYPE, and the ref is as good as
 * before; or the code that the task or put failed with. slot is untouched on failure. */
int ray_get_to(ray_ref ref, ray_slot slot, int64_t timeout_ms);
/* Get, and release unless it timed out. */
int ray_take_to(ray_ref ref, ray_slot slot, int64_t timeout_ms);
/* Get of many: n refs of one type into the array that out's first item begins, in order, within one
 * deadline. An error ends it as soon as one of them carries it: items before it may be filled, but
 * strings, views, boxes and refs are freed and zeroed. The refs stay the caller's. */
int ray_get_many_to(const ray_ref *refs, size_t n, ray_slot out, int64_t timeout_ms);
/* Ends a view of ray_get; it becomes {0}. One of a call or a box needs none, and it does no harm
 * there. */
void ray_drop(ray_view *view);
/* ready[i] becomes true for the first num_returns ready refs in input order, false for the others.
 * Ready is a value on this machine (Ray's fetch_local): what is elsewhere is brought here, also
 * when the wait has ended. One that cannot be is ready, too: ray_get says why.
 * A ref that carries an error is ready. RAY_OK; RAY_ETIMEOUT when fewer are ready (ready is set all
 * the same); RAY_EARG: duplicates, or num_returns not in 1..n; RAY_ESTALE. n = 0 is RAY_OK. */
int ray_wait(const ray_ref *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready);
/* One more release is owed. Returns ref. */
ray_ref ray_retain(ray_ref ref);
/* Drops the ref; its task runs on all the same. RAY_ESTALE: it was released before. */
int ray_release(ray_ref ref);
/* Frees the value now, whoever may still want it: later gets are RAY_ELOST; views that exist stay
 * good. The ref is still to be released. RAY_OK; RAY_EARG: not ready; RAY_EOWNER: this process has
 * only borrowed it; RAY_ESTALE. */
int ray_free_object(ray_ref ref);
typedef struct {
    bool is_ready; /* has a value, or an error: */
    bool is_error;
    bool is_owned;   /* by this process */
    bool in_store;   /* in an object store, this node's or another's; else inline with its owner */
    size_t size;     /* when ready: bytes, packed */
    unsigned n_refs; /* inside, when ready */
    char id[57];     /* hex */
} ray_object;
/* What is known of an object here and now: neither waits nor fetches. RAY_OK or RAY_ESTALE. */
int ray_get_object(ray_ref ref, ray_object *out);
#define ray_put(x)                             ray_put_at(RAY_SITE, ray_v(x))
#define ray_create(size, buffer)               ray_create_at(RAY_SITE, size, buffer)
#define ray_seal(buffer)                       ray_seal_at(RAY_SITE, buffer)
#define ray_get(ref, out, timeout_ms)          ray_get_to(ref, ray_to(out), timeout_ms)
#define ray_take(ref, out, timeout_ms)         ray_take_to(ref, ray_to(out), timeout_ms)
#define ray_get_many(refs, n, out, timeout_ms) ray_get_many_to(refs, n, ray_to(out), timeout_ms)

/* Lists and maps: ray_list(1, "two", 3.0) and ray_map("key", 1) of up to 16 values go wherever a
 * value goes, nested too; ray_list_of and ray_map_of take an array of any length. A ref inside
 * them travels as a ref (as an argument of its own its value does) and keeps its object alive.
 * Coming out, any value can be opened as a box and walked; a ref read from one is to be released:
 *
 *     ray_box list;
 *     ray_get(ref, &list, RAY_FOREVER);
 *     while (ray_peek(&list) == RAY_REF && ray_next(&list, &inner) == RAY_OK)
 *         ... ray_release(inner);
 *     ray_box_drop(&list); */
typedef struct {
    const uint8_t *at, *end; /* private */
    size_t left;             /* items not yet read; a map's key and value count as two */
    uint32_t kind;           /* RAY_LST, RAY_MAP, or the kind of a single value: one item */
    uint32_t flags, n_refs;  /* private */
    const uint64_t *refs;    /* private */
    void *value;             /* private */
} ray_box;
/* The next item into slot. A string is the caller's (ray_free), and a ref (ray_release), in a call
 * too; a view or an inner box borrows from the box. RAY_OK; RAY_END; RAY_ETYPE, RAY_ENOMEM or
 * RAY_ESTALE (a ref that is not good any more), and the item stays the next. */
int ray_next_to(ray_box *box, ray_slot slot);
/* Leave the next item out, whatever it is. RAY_OK or RAY_END. */
int ray_skip(ray_box *box);
/* enum ray_kind of the next item; RAY_NONE at the end. RAY_U64 only for what exceeds INT64_MAX. */
uint32_t ray_peek(const ray_box *box);
/* Ends what ray_get made; a call's and an inner box need none, and it does no harm there. */
void ray_box_drop(ray_box *box);
#define ray_next(box, out) ray_next_to(box, ray_to(out))

/* --- ready refs as events, for a program's own loop: no callback runs on a foreign thread --- */
/* One event with this tag when the ref has a value or an error, at once if it has. The event
 * comes even if the ref is released before. RAY_ESTALE, RAY_ENOMEM. */
int ray_watch(ray_ref ref, void *tag);
/* Up to max events; waits for the first. The number of them, 0 when none came in time, or -1
 * (RAY_ELINK: the cluster is gone, and none will come). */
int ray_poll(ray_event *events, size_t max, int64_t timeout_ms);
/* Readable while events wait, for poll and epoll; -1 before ray_init. Not to be read or closed. */
int ray_poll_fd(void);

/* --- submitting: the ABI; the macros at the end are sugar over it --- */
/* ray_submit(f, options, args, n): runs f with n arguments, each a value or a ref (its value is
 * there before the body starts; if it carries an error, so does the result, and no body runs). A
 * value above 100 KiB, or behind 10 MiB of others, is put first and goes by its ref. The ref is to
 * be released once; {0} if the function has no returns. options NULL: the function's own; fields
 * given override them. Errors are carried by the ref: RAY_EFULL when the object store has no room;
 * RAY_ESTALE; RAY_EARG; RAY_ENOMEM. */
ray_ref ray_submit_at(const char *site,
                      ray_function *f,
                      const ray_options *options,
                      const ray_value *args,
                      size_t n);
/* ray_submit_n(out, n_out, f, options, args, n): the same with n_out returns into out; without
 * options n_out is num_returns. RAY_OK, or the code that each of out carries. */
int ray_submit_n_at(const char *site,
                    ray_ref *out,
                    size_t n_out,
                    ray_function *f,
                    const ray_options *options,
                    const ray_value *args,
                    size_t n);
#define ray_submit(...)   ray_submit_at(RAY_SITE, __VA_ARGS__)
#define ray_submit_n(...) ray_submit_n_at(RAY_SITE, __VA_ARGS__)
/* Where a ref is made, for `ray memory`: "file.c:12". Functions that make refs end in _at and take
 * it first, a string that lives as long as the process, or NULL; the macros fill it in. */
#ifdef __FILE_NAME__
#define RAY_SITE __FILE_NAME__ ":" RAY_TEXT(__LINE__)
#else
#define RAY_SITE __FILE__ ":" RAY_TEXT(__LINE__)
#endif
#define RAY_TEXT(x)  RAY_TEXT_(x)
#define RAY_TEXT_(x) #x
/* f with options, checked once, for hot loops. Strings are copied. Never NULL: errors are carried
 * by the refs. Lives as long as the process. */
ray_function *ray_bind(ray_function *f, const ray_options *options);
/* The registered function of this name; NULL and RAY_EARG if there is none. */
ray_function *ray_lookup(const char *name);

/* --- facts --- */
typedef struct {
    char job[9], task[49], node[57], worker[57]; /* hex; task: the driver's own outside a call */
    unsigned attempt;                            /* 0: the first; a retry after a crash is 1, ... */
    char session_dir[256];                       /* holds logs/ */
} ray_context;
/* Where this call, or with NULL this process, runs. RAY_EARG: before ray_init; RAY_ELINK. */
int ray_get_context(const ray_call *call, ray_context *out);
typedef struct {
    unsigned n_nodes, n_workers, n_resources;
    struct {
        char name[48]; /* "CPU" or a custom one */
        double total, available;
    } resources[17];
} ray_cluster;
/* The cluster as its raylet sees it now. RAY_EARG: before ray_init; RAY_ELINK. */
int ray_get_cluster(ray_cluster *out);

/* --- registering: by the loader, before main; two functions of one name fail at link time --- */
struct ray_function {
    size_t size;
    const char *name, *file;
    ray_body body;
    void *bound; /* libray's */
    ray_options options;
};
void ray_register(ray_function *f);
/* For callers in other files than the one with RAY_REMOTE. */
#define RAY_DECLARE(f) extern ray_function ray_fn_##f
/* RAY_REMOTE(f); or RAY_REMOTE(f, .num_returns = 2); for int f(ray_call *call). */
#define RAY_REMOTE(...) RAY_REMOTE_(__VA_ARGS__, )
/* A plain function as it stands: RAY_TASK(norm, double, double, double) for double norm(double,
 * double), up to six arguments of types that ray_v and ray_to know. Other types than the
 * prototype's do not compile; norm stays callable and testable like any function. */
#define RAY_TASK(f, ...) RAY_CAT(RAY_TASK, RAY_COUNT(__VA_ARGS__))(f, __VA_ARGS__)
/* ray_remote(f, arguments): up to 16, each of a type that ray_v knows. Returns its ref. */
#define ray_remote(...) ray_remote_(NULL, __VA_ARGS__, )
/* ray_remote_with(RAY_OPTIONS(.num_cpus = 0.5), f, arguments) */
#define ray_remote_with(options, ...) ray_remote_(options, __VA_ARGS__, )
/* ray_remote_n(refs, n, f, arguments) for functions of several returns. RAY_OK or a code. */
#define ray_remote_n(out, n, ...)               ray_remote_n_(NULL, out, n, __VA_ARGS__, )
#define ray_remote_n_with(options, out, n, ...) ray_remote_n_(options, out, n, __VA_ARGS__, )
/* Only for programs linked statically (cc -static, pkg-config --static): call it first in main; it
 * does not return in a worker, and returns -1 elsewhere. */
int ray_worker_main(int argc, char **argv);
#ifdef __cplusplus
}
#endif
#include <ray/value.h> /* ray_v, ray_to, ray_bytes, ray_into, ray_list, ray_map */
#endif                 /* RAY_RAY_H */
