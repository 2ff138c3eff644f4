/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/reserve.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "objstore/layout.h"

#define RESERVE_MAGIC 0x52535256u
#define AHEAD_PART    64 /* of the arena */
#define AHEAD_MAX     (256ull << 20)
#define STEP          (256u << 10) /* less than a millisecond: meanwhile the loop maps nothing */
#define STACK_BYTES   (64u << 10)
#define NICE          10
#define TRIES         8

struct store_reserve {
    unsigned magic;
    int fd;
    uint64_t capacity, ahead;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    uint64_t wanted, done;
    bool stopping;
};

/* By a mapping of its own, which ends at once: pages that fallocate makes are cheaper, but not yet
 * cleared, and whoever maps them then pays for each by itself. */
static bool make_pages(int fd, uint64_t at, uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)at);

    if (p == MAP_FAILED)
        return false;
    bool ok = false;
    for (int i = 0; i < TRIES && !ok; i++) /* EAGAIN, EINTR, or a moment without memory */
        ok = madvise(p, size, MADV_POPULATE_READ) == 0;
    munmap(p, size);
    return ok;
}

static void *reserve_main(void *arg)
{
    struct store_reserve *r = arg;

    /* and it never takes a CPU from whoever runs there: it is woken while somebody puts */
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    pthread_mutex_lock(&r->lock);
    while (!r->stopping) {
        if (r->done >= r->wanted) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        uint64_t at = r->done, size = r->wanted - at < STEP ? r->wanted - at : STEP;
        pthread_mutex_unlock(&r->lock);
        bool ok = make_pages(r->fd, at, size);
        pthread_mutex_lock(&r->lock);
        r->done = ok ? at + size : r->capacity;
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct store_reserve *store_reserve_create(int arena_fd, uint64_t capacity)
{
    struct store_reserve *r = xcalloc(1, sizeof *r);
    uint64_t ahead = capacity / AHEAD_PART / STORE_BLOCK * STORE_BLOCK;

    r->magic = RESERVE_MAGIC;
    r->fd = arena_fd;
    r->capacity = capacity;
    r->ahead = ahead < AHEAD_MAX ? ahead : AHEAD_MAX;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    return r;
}

void store_reserve_destroy(struct store_reserve *r)
{
    if (r == NULL)
        return;
    CHECK_MAGIC(r, RESERVE_MAGIC);
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (r->has_thread)
        pthread_join(r->thread, NULL);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    r->magic = 0;
    free(r);
}

/* false: none can be had; the next demand tries again. */
static bool start(struct store_reserve *r)
{
    pthread_attr_t attr;
    sigset_t all, before;

    if (pthread_attr_init(&attr) != 0)
        return false;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all); /* they are for the loop */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(&r->thread, &attr, reserve_main, r) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return ok;
}

void store_reserve_until(struct store_reserve *r, uint64_t end)
{
    CHECK_MAGIC(r, RESERVE_MAGIC);
    ASSERT(end <= r->capacity);
    uint64_t wanted = r->capacity - end < r->ahead ? r->capacity : end + r->ahead;

    if (!r->has_thread)
        r->has_thread = start(r);
    pthread_mutex_lock(&r->lock);
    if (wanted > r->wanted) {
        r->wanted = wanted;
        pthread_cond_signal(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
}

uint64_t store_reserve_ahead(const struct store_reserve *r)
{
    return r->ahead;
}

uint64_t store_reserve_done(struct store_reserve *r)
{
    pthread_mutex_lock(&r->lock);
    uint64_t done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}
