/* ray.h: tasks and objects from C.                                        SPDX-License-Identifier: Apache-2.0
 *
 * Threads: any function from any thread; a ray_call belongs to the thread that runs its body.
 * Errors:  RAY_OK or a ray_code; ray_error() says more. A submission never fails at the call: its ref carries the error.
 * Refs:    one word, of this process, generation-checked: release once; a stale one is RAY_ESTALE, not a crash.
 * Time:    milliseconds; RAY_FOREVER waits, 0 polls.
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

/* Numbers are never reused. */
typedef enum ray_code {
    RAY_OK,
    RAY_END,
    RAY_ETIMEOUT,
    RAY_EARG,
    RAY_ETYPE,
    RAY_ESTALE,
    RAY_EFULL,
    RAY_ENOMEM,
    RAY_ETASK,
    RAY_ECRASH,
    RAY_EACTOR_DIED,
    RAY_EACTOR_AWAY,
    RAY_ELOST,
    RAY_EOWNER,
    RAY_ECANCELED,
    RAY_EAUTH,
    RAY_ELINK,
    RAY_EFORKED
} ray_code;
typedef struct {
    uint64_t word;
} ray_ref;                                 /* word 0: none */
typedef struct ray_call ray_call;          /* one running call */
typedef struct ray_function ray_function;  /* registered, or bound to options */
typedef int (*ray_body)(ray_call *call);   /* 0, or anything else: failed (see ray_fail) */
typedef struct {
    const void *data;
    size_t size;
} ray_view; /* bytes borrowed from the call or from a ray_box */
typedef struct {
    ray_ref ref;
    void *tag;
} ray_event;
typedef struct {
    ray_code code;
    const char *text;                      /* a sentence; never NULL */
    const char *function, *file, *node, *log; /* where it happened; "" when not known */
    int pid, signal;
} ray_failure;
/* A value going in; ray_v(x) makes it from x's type. Bytes are borrowed for the call. RAY_LST and RAY_MAP hold
 * size values (a map: key, value, key, value ...). */
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
typedef struct {
    uint32_t kind;
    void *p;
    size_t size;
} ray_slot; /* ray_to(p): where a value goes, by p's type */
/* RAY_OPTIONS(.field = x) sets size: the struct may grow. */
typedef struct {
    size_t size;
    double num_cpus;          /* 1; RAY_ZERO: none */
    const char *resources;    /* "name=amount,name=amount" */
    const char *name;         /* shown in logs; the function's name */
    int num_returns;          /* 1; RAY_ZERO: none */
    int max_retries;          /* after a crash: 3 (or RAY_TASK_MAX_RETRIES); RAY_ZERO: never; -1: for ever */
} ray_options;
/* RAY_CONFIG(.field = x) */
typedef struct {
    size_t size;
    int num_cpus;             /* tasks that run at once; this machine's CPUs */
    const char *resources;    /* of this node: "name=amount,..." */
    const char *temp_dir;     /* for session folders: RAY_TMPDIR, else /tmp/ray */
    bool no_log_to_driver;    /* prints of tasks stay in their log files */
} ray_config;

/* --- process --- */
/* Start a private cluster on this machine; it ends with ray_shutdown or the process. NULL: defaults. Calls nest. RAY_EARG: a
 * field of config, or RAY_ADDRESS is set (this release runs on one machine); RAY_ELINK: it cannot be started. */
int ray_init(const ray_config *config);
/* Undoes one ray_init. 0, fit to return from main. */
int ray_shutdown(void);
/* Prints ray_error() in one line; returns 1. */
int ray_report(FILE *out);
/* Of this thread's last failed call; good until its next call. */
const ray_failure *ray_error(void);
void ray_free(void *p); /* what ray_get gave for a string */

/* --- inside a call --- */
/* Argument i (0 is first) into *slot. RAY_EARG: no such argument; RAY_ETYPE. Strings and views last as long as the call. */
int ray_arg_to(ray_call *call, unsigned i, ray_slot slot);
unsigned ray_n_args(const ray_call *call);
/* Return value i, once each. RAY_EARG, RAY_EFULL (more than 100 KiB), RAY_ETYPE. */
int ray_return_value(ray_call *call, unsigned i, ray_value value);
/* The call fails with this sentence: what ray_get will report. Returns RAY_ETASK. */
int ray_fail(ray_call *call, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define ray_arg(call, i, out)  ray_arg_to(call, i, ray_to(out))
#define ray_return(call, i, x) ray_return_value(call, i, ray_v(x))

/* --- objects --- */
ray_ref ray_put_value(ray_value value); /* an error is carried by the ref */
/* The value, once it is there. RAY_OK; RAY_ETIMEOUT; RAY_ESTALE; RAY_ETYPE; or the failed task's code. A string or a
 * view's data is the caller's: ray_free it. */
int ray_get_to(ray_ref ref, ray_slot slot, int64_t timeout_ms);
/* Get, and release unless it timed out. */
int ray_take_to(ray_ref ref, ray_slot slot, int64_t timeout_ms);
/* Get of many: n refs of one type into out[n], in order; the first error ends it. One deadline for all. */
int ray_get_many_to(const ray_ref *refs, size_t n, ray_slot out, int64_t timeout_ms);
/* ready[i]: the first num_returns ready refs, in input order. RAY_OK; RAY_ETIMEOUT when fewer (ready is set all the
 * same); RAY_EARG: duplicates, or num_returns not in 1..n. n = 0 is RAY_OK. */
int ray_wait(const ray_ref *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready);
ray_ref ray_retain(ray_ref ref); /* one more release is owed */
int ray_release(ray_ref ref);    /* RAY_ESTALE: it was released before */
#define ray_put(x)                            ray_put_value(ray_v(x))
#define ray_get(ref, out, timeout_ms)         ray_get_to(ref, ray_to(out), timeout_ms)
#define ray_take(ref, out, timeout_ms)        ray_take_to(ref, ray_to(out), timeout_ms)
#define ray_get_many(refs, n, out, timeout_ms) ray_get_many_to(refs, n, ray_to(out), timeout_ms)

/* Lists and maps: ray_list(1, "two", 3.0) and ray_map("key", 1) go wherever a value goes. Coming out, a list or map (any
 * value) can be opened as a ray_box and walked. */
typedef struct {
    const uint8_t *at, *end; /* private */
    size_t left;             /* items not yet read; a map's key and value count as two */
    uint32_t kind;           /* RAY_LST, RAY_MAP, or the kind of a single value */
    void *owned;             /* private */
} ray_box;
int ray_next_to(ray_box *box, ray_slot slot); /* RAY_OK, RAY_END, RAY_ETYPE (and the item stays) */
uint32_t ray_peek(const ray_box *box);        /* enum ray_kind of the next item; RAY_NIL at the end */
void ray_box_drop(ray_box *box);              /* of ray_get; a call's needs none */
#define ray_next(box, out) ray_next_to(box, ray_to(out))

/* --- ready refs as events, for a program's own loop: no callback ever runs on a foreign thread --- */
int ray_watch(ray_ref ref, void *tag); /* one event when it has a value or an error */
int ray_poll(ray_event *events, size_t max, int64_t timeout_ms); /* number of events, or -1 */
int ray_poll_fd(void); /* readable while events wait; -1 before ray_init */

/* --- submitting: the ABI. The macros below are sugar over it; other languages call these. --- */
ray_ref ray_submit(ray_function *f, const ray_options *options, const ray_value *args, size_t n);
/* n_out returns into out. */
int ray_submit_n(ray_ref *out, size_t n_out, ray_function *f, const ray_options *options, const ray_value *args, size_t n);
/* Options checked once, for hot loops. Never NULL: errors are carried by the refs. Lives as long as the process. */
ray_function *ray_bind(ray_function *f, const ray_options *options);
ray_function *ray_lookup(const char *name); /* NULL: not registered */

/* --- facts --- */
typedef struct {
    char job[9], task[49], node[57], worker[57]; /* hex; task is the driver's own outside a call */
    unsigned attempt;                            /* 0: first */
    char session_dir[256];
} ray_context;
int ray_get_context(const ray_call *call, ray_context *out); /* call NULL: of the process */
typedef struct {
    unsigned n_nodes, n_workers, n_resources;
    struct {
        char name[48];
        double total, available;
    } resources[17];
} ray_cluster;
int ray_get_cluster(ray_cluster *out);

/* --- registering: by the loader, before main. Two functions of one name in a program fail at link time. --- */
struct ray_function {
    size_t size;
    const char *name, *file;
    ray_body body;
    void *bound;
    ray_options options;
};
void ray_register(ray_function *f);
#define RAY_DECLARE(f)  extern ray_function ray_fn_##f /* for callers in other files */
#define RAY_REMOTE(...) RAY_REMOTE_(__VA_ARGS__, )     /* f, default options: int f(ray_call *) */
/* A plain function as it stands: RAY_TASK(norm, double, double, double) for double norm(double, double). The
 * compiler checks the wrapper against the prototype; norm stays callable and testable like any function. */
#define RAY_TASK(f, ...)              RAY_CAT(RAY_TASK, RAY_COUNT(__VA_ARGS__))(f, __VA_ARGS__)
#define ray_remote(...)               ray_remote_(NULL, __VA_ARGS__, ) /* f, arguments */
#define ray_remote_with(options, ...) ray_remote_(options, __VA_ARGS__, )
#define ray_remote_n(out, n, ...)     ray_remote_n_(out, n, __VA_ARGS__, )
/* Only for programs that are linked statically: call it first in main; it does not return in a worker. */
int ray_worker_main(int argc, char **argv);
#ifdef __cplusplus
}
#endif
#include <ray/value.h> /* ray_v, ray_to: _Generic in C, overloads in C++; ray_bytes, ray_into; macro parts */
#endif                 /* RAY_RAY_H */
