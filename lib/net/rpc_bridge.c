/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. The thread sleeps in grpc_completion_queue_next, pushes each tag on a stack and
 * rings an eventfd if the stack was empty. The loop takes the whole stack, turns it round and calls
 * what each tag says. The queue's shutdown ends the thread; by then nobody has tags out.
 */
#include "lib/net/rpc_bridge.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/net/rpc_private.h"

struct rpc_bridge {
    unsigned magic;
    grpc_completion_queue *queue;
    pthread_t thread;
    int bell;
    struct loop_watch *watch;
    struct rpc_tag *_Atomic completed; /* a stack */
    unsigned n_held;                   /* by what ends by itself */
};
#define RPC_BRIDGE_MAGIC 0x52504342u

#ifdef __SANITIZE_THREAD__
const char *__tsan_default_options(void);

/* gRPC is not instrumented: what it orders is not seen, only what is_started does. */
const char *__tsan_default_options(void)
{
    return "ignore_noninstrumented_modules=1";
}
#endif

/* gRPC's own words: to our log, errors only. */
static void on_log(gpr_log_func_args *args)
{
    if (args->severity >= GPR_LOG_SEVERITY_ERROR)
        log_debug("grpc", "said", "msg=\"%.200s\"", args->message);
}

/* On any thread. */
static void hand_over(struct rpc_bridge *b, struct rpc_tag *tag, bool ok)
{
    const uint64_t one = 1;
    struct rpc_tag *top = atomic_load_explicit(&b->completed, memory_order_relaxed);

    ASSERT(atomic_load_explicit(&tag->is_started, memory_order_acquire));
    tag->ok = ok;
    do
        tag->next = top;
    while (!atomic_compare_exchange_weak_explicit(&b->completed,
                                                  &top,
                                                  tag,
                                                  memory_order_release,
                                                  memory_order_relaxed));
    if (top == NULL && write(b->bell, &one, sizeof one) < 0)
        ASSERT(errno == EAGAIN); /* it rings already */
}

static void *wait_for_completions(void *arg)
{
    struct rpc_bridge *b = arg;

    for (;;) {
        grpc_event e =
            grpc.completion_queue_next(b->queue, grpc.inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (e.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (e.type == GRPC_OP_COMPLETE)
            hand_over(b, e.tag, e.success != 0);
    }
}

/* On the loop thread. */
static void run_completed(struct rpc_bridge *b)
{
    struct rpc_tag *tag = atomic_exchange_explicit(&b->completed, NULL, memory_order_acquire);
    struct rpc_tag *first = NULL;

    while (tag != NULL) {
        struct rpc_tag *next = tag->next;
        tag->next = first;
        first = tag;
        tag = next;
    }
    while (first != NULL) {
        tag = first;
        first = tag->next;
        atomic_store_explicit(&tag->is_started, false, memory_order_relaxed);
        tag->done(tag, tag->ok);
    }
}

static void on_bell(void *arg, bool readable, bool writable)
{
    struct rpc_bridge *b = arg;
    uint64_t n;

    (void)readable;
    (void)writable;
    if (read(b->bell, &n, sizeof n) == sizeof n)
        run_completed(b);
}

void rpc_bridge_pump(struct rpc_bridge *b)
{
    struct pollfd p = {.fd = b->bell, .events = POLLIN};

    if (poll(&p, 1, -1) == 1)
        on_bell(b, true, false);
}

struct rpc_bridge *rpc_bridge_create(struct loop *loop, struct err *err)
{
    struct rpc_bridge *b;
    sigset_t all, before;

    if (rpc_library_open(err) != 0)
        return NULL;
    b = xcalloc(1, sizeof *b);
    b->magic = RPC_BRIDGE_MAGIC;
    grpc.set_log_function(on_log);
    grpc.set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop thread's */
    grpc.init();
    b->queue = grpc.completion_queue_create_for_next(NULL);
    b->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->bell < 0)
        err_sys(err, "make an eventfd");
    else
        b->watch = loop_watch_fd(loop, b->bell, on_bell, b);
    int rc = b->watch != NULL ? pthread_create(&b->thread, NULL, wait_for_completions, b) : -1;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc > 0) {
        errno = rc;
        err_sys(err, "start a thread for gRPC");
    }
    if (rc == 0)
        return b;
    loop_unwatch(b->watch);
    if (b->bell >= 0)
        close(b->bell);
    grpc.completion_queue_shutdown(b->queue);
    grpc.completion_queue_destroy(b->queue);
    grpc.shutdown_blocking();
    free(b);
    return NULL;
}

void rpc_bridge_destroy(struct rpc_bridge *b)
{
    if (b == NULL)
        return;
    CHECK_MAGIC(b, RPC_BRIDGE_MAGIC);
    while (b->n_held > 0)
        rpc_bridge_pump(b);
    grpc.completion_queue_shutdown(b->queue);
    pthread_join(b->thread, NULL);
    run_completed(b);
    loop_unwatch(b->watch);
    close(b->bell);
    grpc.completion_queue_destroy(b->queue);
    grpc.shutdown_blocking();
    b->magic = 0;
    free(b);
}

grpc_completion_queue *rpc_bridge_queue(struct rpc_bridge *b)
{
    CHECK_MAGIC(b, RPC_BRIDGE_MAGIC);
    return b->queue;
}

void rpc_bridge_hold(struct rpc_bridge *b, int n)
{
    CHECK_MAGIC(b, RPC_BRIDGE_MAGIC);
    b->n_held += (unsigned)n;
}

void *rpc_tag_start(struct rpc_tag *tag, rpc_tag_f done)
{
    ASSERT(!atomic_load_explicit(&tag->is_started, memory_order_relaxed));
    tag->done = done;
    atomic_store_explicit(&tag->is_started, true, memory_order_release);
    return tag;
}

void rpc_start(grpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *tag, rpc_tag_f done)
{
    grpc_call_error rc = grpc.call_start_batch(call, ops, n, rpc_tag_start(tag, done), NULL);

    ASSERT(rc == GRPC_CALL_OK);
}

bool rpc_start_now(struct rpc_bridge *b,
                   grpc_call *call,
                   const grpc_op *ops,
                   size_t n,
                   struct rpc_tag *tag,
                   rpc_tag_f done)
{
    void *ended;
    int ok;

    grpc.cache_init(b->queue); /* it keeps the first that ends on this thread */
    rpc_start(call, ops, n, tag, done);
    if (grpc.cache_flush(b->queue, &ended, &ok) == 0)
        return false;
    if (ended != tag || ok == 0) {
        hand_over(b, ended, ok != 0);
        return false;
    }
    atomic_store_explicit(&tag->is_started, false, memory_order_relaxed);
    return true;
}

/* --- codes --- */

static const struct {
    enum err_code code;
    grpc_status_code status;
} codes[] = {
    {ERR_NONE, GRPC_STATUS_OK},
    {ERR_INVALID, GRPC_STATUS_INVALID_ARGUMENT},
    {ERR_PROTOCOL, GRPC_STATUS_INTERNAL},
    {ERR_VERSION, GRPC_STATUS_FAILED_PRECONDITION},
    {ERR_NOT_FOUND, GRPC_STATUS_NOT_FOUND},
    {ERR_EXISTS, GRPC_STATUS_ALREADY_EXISTS},
    {ERR_FULL, GRPC_STATUS_RESOURCE_EXHAUSTED},
    {ERR_TIMEOUT, GRPC_STATUS_DEADLINE_EXCEEDED},
    {ERR_CANCELED, GRPC_STATUS_CANCELLED},
    {ERR_INFEASIBLE, GRPC_STATUS_OUT_OF_RANGE},
    {ERR_START_FAILED, GRPC_STATUS_ABORTED},
    {ERR_DIED, GRPC_STATUS_DATA_LOSS},
    {ERR_SYSTEM, GRPC_STATUS_UNKNOWN},
    {ERR_AWAY, GRPC_STATUS_UNAVAILABLE},
    {ERR_DENIED, GRPC_STATUS_UNAUTHENTICATED},
    /* others' that have none of their own; the first of each column counts */
    {ERR_NO_MEMORY, GRPC_STATUS_RESOURCE_EXHAUSTED},
    {ERR_DENIED, GRPC_STATUS_PERMISSION_DENIED},
    {ERR_NOT_FOUND, GRPC_STATUS_UNIMPLEMENTED},
};

grpc_status_code rpc_status_of(enum err_code code)
{
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].code == code)
            return codes[i].status;
    return GRPC_STATUS_UNKNOWN;
}

enum err_code rpc_code_of(grpc_status_code status)
{
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].status == status)
            return codes[i].code;
    return ERR_SYSTEM;
}

/* --- messages --- */

uint8_t *rpc_flatten(grpc_byte_buffer *buffer, size_t *size)
{
    size_t room = grpc.byte_buffer_length(buffer), n = 0;
    uint8_t *bytes = try_alloc(NULL, room + 1);
    grpc_byte_buffer_reader reader;
    grpc_slice slice;

    if (bytes == NULL || !grpc.byte_buffer_reader_init(&reader, buffer)) {
        free(bytes);
        return NULL;
    }
    while (grpc.byte_buffer_reader_next(&reader, &slice)) {
        size_t k = GRPC_SLICE_LENGTH(slice);
        if (k > room - n)
            k = room - n;
        memcpy(bytes + n, GRPC_SLICE_START_PTR(slice), k);
        n += k;
        grpc.slice_unref(slice);
    }
    grpc.byte_buffer_reader_destroy(&reader);
    *size = n;
    return bytes;
}

grpc_byte_buffer *rpc_message(const void *bytes, size_t size)
{
    grpc_slice slice = grpc.slice_from_copied_buffer(bytes, size);
    grpc_byte_buffer *buffer = grpc.raw_byte_buffer_create(&slice, 1);

    grpc.slice_unref(slice);
    return buffer;
}
