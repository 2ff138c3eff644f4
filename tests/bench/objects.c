/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of objects: puts and gets of all sizes beside the best copy of the same bytes, many
 * small objects, arguments by ref, refs inside values. What is compared takes turns, since a shared
 * machine changes from second to second.
 */
#include <fcntl.h>
#include <ray/ray.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "objstore/copy.h"
#include "tests/bench/bench.h"

#define MIB       ((size_t)1 << 20)
#define N_SMALL   100000
#define N_INNER   10000
#define N_WAITED  1000
#define ROTATING  (64 * MIB) /* copies go to another place each time */
#define WRITE_MIB 4
#define N_KEPT    8 /* objects that a writer keeps */
#define NICE_USER 10

static void die(void)
{
    exit(ray_report(stderr));
}

static void release_all(const ray_ref *refs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ray_release(refs[i]);
}

static double us_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e3;
}

/* --- many small ones --- */

static void small_objects(void)
{
    ray_ref *refs = malloc(N_SMALL * sizeof *refs);
    void **blocks = malloc(N_SMALL * sizeof *blocks);
    double put[N_SMALL / 1000], get[N_SMALL / 1000], release, limit;
    long y;

    if (refs == NULL || blocks == NULL)
        abort();
    memset(refs, 1, N_SMALL * sizeof *refs);
    ray_release(ray_put(1L));
    long before = bench_rss_kb();
    for (size_t i = 0; i < N_SMALL; i += 1000) {
        uint64_t t = clock_now_ns();
        for (size_t k = 0; k < 1000; k++)
            refs[i + k] = ray_put((long)(i + k));
        put[i / 1000] = us_since(t) / 1000;
    }
    long after = bench_rss_kb();
    for (size_t i = 0; i < N_SMALL; i += 1000) {
        uint64_t t = clock_now_ns();
        for (size_t k = 0; k < 1000; k++)
            if (ray_get(refs[(i + k) * 7919 % N_SMALL], &y, RAY_FOREVER) != RAY_OK)
                die();
        get[i / 1000] = us_since(t) / 1000;
    }
    uint64_t t = clock_now_ns();
    release_all(refs, N_SMALL);
    release = us_since(t) / N_SMALL;
    t = clock_now_ns();
    for (size_t i = 0; i < N_SMALL; i++) {
        blocks[i] = malloc(128);
        if (blocks[i] == NULL)
            abort();
        memset(blocks[i], 1, 128);
    }
    for (size_t i = 0; i < N_SMALL; i++)
        free(blocks[i]);
    limit = us_since(t) / N_SMALL;
    free(refs);
    free(blocks);
    double put50 = bench_quantile(put, N_SMALL / 1000, 0.5);
    double get50 = bench_quantile(get, N_SMALL / 1000, 0.5);
    bench_add((struct row){"put 8 B", put50, "us", 2, "the budget itself", 1, false});
    bench_add((struct row){"get of a ready small object, one of 100,000",
                           get50,
                           "us",
                           0.5,
                           "the budget itself",
                           1,
                           false});
    bench_add((struct row){"100,000 live objects: put and release, each",
                           put50 + release,
                           "us",
                           limit,
                           "malloc, touch and free of 128 B",
                           0,
                           false});
    bench_add((struct row){"memory of a live ref to 8 B",
                           (double)(after - before) * 1024 / N_SMALL,
                           "B",
                           200,
                           "the budget itself",
                           1,
                           false});
}

/* --- copies --- */

static uint8_t *random_bytes(size_t size)
{
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t x = 0x9e3779b97f4a7c15u, y;

    if (p == MAP_FAILED)
        abort();
    for (size_t i = 0; i + sizeof y <= size; i += sizeof y) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        y = x * 0x2545f4914f6cdd1du;
        memcpy(p + i, &y, sizeof y);
    }
    return p;
}

/* Memory of the kind that the store has, touched. */
static uint8_t *shared_bytes(size_t size)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        abort();
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        abort();
    memset(p, 1, size);
    return p;
}

/* Every way to copy that there is: routine w / COLUMNS with 1 << w % COLUMNS threads. */
#define COLUMNS 2
#define N_WAYS  (STORE_COPY_ROUTINES * COLUMNS)

static void copy_in_way(unsigned way, void *to, const void *from, size_t size)
{
    uint64_t plan = 0;

    for (unsigned c = 0; c < STORE_COPY_CLASSES; c++)
        plan |= (uint64_t)((way / COLUMNS) << 6 | 1u << way % COLUMNS) << (8 * c);
    store_copy(plan, to, from, size);
}

struct copying {
    uint8_t *from, *to;
    size_t size, from_bytes, to_bytes;
    size_t n, from_at, to_at;
    double *us[N_WAYS];
};

static void copying_init(struct copying *c, size_t size, size_t n)
{
    *c = (struct copying){.size = size, .from_bytes = size, .to_bytes = size};
    if (size < ROTATING) {
        c->from_bytes = ROTATING / 2;
        c->to_bytes = ROTATING;
    }
    c->from = random_bytes(c->from_bytes);
    c->to = shared_bytes(c->to_bytes);
    for (unsigned w = 0; w < N_WAYS; w++)
        if ((c->us[w] = malloc(n * sizeof *c->us[w])) == NULL)
            abort();
}

static void copying_fini(struct copying *c)
{
    munmap(c->from, c->from_bytes);
    munmap(c->to, c->to_bytes);
    for (unsigned w = 0; w < N_WAYS; w++)
        free(c->us[w]);
}

/* The next source: none is in the caches because it was just read. */
static const uint8_t *copying_next(struct copying *c)
{
    c->from_at = (c->from_at + c->size) % c->from_bytes;
    return c->from + c->from_at;
}

/* One more of each way. */
static void copying_sample(struct copying *c)
{
    for (unsigned w = 0; w < N_WAYS; w++) {
        const uint8_t *from = copying_next(c);
        uint64_t t = clock_now_ns();
        copy_in_way(w, c->to + c->to_at, from, c->size);
        c->us[w][c->n] = us_since(t);
        c->to_at = (c->to_at + c->size) % c->to_bytes;
    }
    c->n++;
}

/* The least of all ways' quantiles. */
static double copying_best(struct copying *c, double q)
{
    double best = 0;

    for (unsigned w = 0; w < N_WAYS; w++) {
        double us = bench_quantile(c->us[w], c->n, q);
        if (w == 0 || us < best)
            best = us;
    }
    return best;
}

/* The first n puts go to memory that nobody has used, the others to what those gave back. */
static void put_rows(size_t size,
                     size_t n,
                     double budget,
                     const char *first_name,
                     const char *again_name)
{
    ray_ref *refs = malloc(n * sizeof *refs);
    double *us = malloc(n * sizeof *us);
    struct copying c;

    if (refs == NULL || us == NULL)
        abort();
    copying_init(&c, size, n);
    for (int round = 0; round < 2; round++) {
        c.n = 0;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *from = copying_next(&c);
            uint64_t t = clock_now_ns();
            refs[i] = ray_put(ray_bytes(from, size));
            us[i] = us_since(t);
            copying_sample(&c);
        }
        ray_view v;
        if (ray_get(refs[n - 1], &v, RAY_FOREVER) != RAY_OK || v.size != size)
            die();
        ray_drop(&v);
        release_all(refs, n);
        double best = copying_best(&c, 0.5);
        bench_add((struct row){round == 0 ? first_name : again_name,
                               bench_quantile(us, n, 0.5),
                               "us",
                               best,
                               "best copy into touched memory",
                               budget,
                               false});
    }
    copying_fini(&c);
    free(refs);
    free(us);
}

/* 1 GiB, or what this machine can spare: a source, a copy, the store's. */
static size_t large_size(void)
{
    ray_cluster c;
    char line[128];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/meminfo", "r");

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "MemAvailable: %llu", &kb) == 1)
            break;
    if (f != NULL)
        fclose(f);
    if (ray_get_cluster(&c) != RAY_OK)
        die();
    size_t size = (size_t)kb * 1024 / 8 / MIB * MIB;
    return size < 1024 * MIB ? size : 1024 * MIB;
}

#define FRESH_PART 8 /* of an object: measured in front of its put, and behind it */

/* Into memory that has no pages yet, by a system call, which need not clear them first; it is kept,
 * since what was free a moment ago is cheaper than other memory. */
static double fresh_us(const uint8_t *from, size_t size, int *fd)
{
    *fd = memfd_create("bench", MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, (off_t)size) != 0)
        abort();
    uint64_t t = clock_now_ns();
    for (size_t at = 0; at < size;) {
        ssize_t n = pwrite(*fd, from + at, size - at < MIB ? size - at : MIB, (off_t)at);
        if (n <= 0)
            abort();
        at += (size_t)n;
    }
    return us_since(t);
}

static double put_us(const uint8_t *from, size_t size)
{
    uint64_t t = clock_now_ns();
    ray_ref ref = ray_put(ray_bytes(from, size));
    double us = us_since(t);
    ray_view v;

    if (ray_get(ref, &v, RAY_FOREVER) != RAY_OK || v.size != size)
        die();
    ray_drop(&v);
    ray_release(ref);
    return us;
}

/* The least of several: what disturbs a second of work disturbs most of them. */
static void large_puts(void)
{
    enum { AGAIN = 4 };
    size_t size = large_size();
    bool is_full = size == 1024 * MIB;
    double us[AGAIN];
    struct copying c;
    int fds[2];

    copying_init(&c, size, AGAIN);
    double fresh = fresh_us(c.from, size / FRESH_PART, &fds[0]), first = put_us(c.from, size);
    fresh = (fresh + fresh_us(c.from, size / FRESH_PART, &fds[1])) * FRESH_PART / 2;
    close(fds[0]);
    close(fds[1]);
    bench_add((struct row){is_full ? "put 1 GiB, first time" : "put of what fits, first time",
                           first,
                           "us",
                           fresh,
                           "best copy into memory without pages",
                           1.2,
                           false});
    for (int i = 0; i < AGAIN; i++) {
        us[i] = put_us(c.from, size);
        copying_sample(&c);
    }
    bench_add((struct row){is_full ? "put 1 GiB, second time" : "put of what fits, second time",
                           bench_quantile(us, AGAIN, 0),
                           "us",
                           copying_best(&c, 0),
                           "best copy into touched memory",
                           1.2,
                           false});
    copying_fini(&c);
}

static void large_get(void)
{
    uint8_t *bytes = random_bytes(8 * MIB);
    ray_ref ref = ray_put(ray_bytes(bytes, 8 * MIB));
    double us[100];
    ray_view v;

    for (int i = 0; i < 100; i++) {
        uint64_t t = clock_now_ns();
        for (int k = 0; k < 1000; k++) {
            if (ray_get(ref, &v, RAY_FOREVER) != RAY_OK)
                die();
            ray_drop(&v);
        }
        us[i] = us_since(t) / 1000;
    }
    ray_release(ref);
    munmap(bytes, 8 * MIB);
    bench_add((struct row){"get of a large object: a view, and its end",
                           bench_quantile(us, 100, 0.5),
                           "us",
                           0.5,
                           "the budget itself",
                           1,
                           false});
}

/* --- two writers at once --- */

#define PREPARE_NS 200000000 /* until both begin */
#define LATE_NS    20000000  /* of some 200 ms */
#define LATE       (-1)

/* false: it came too late to be one of two at once. */
static bool await(long start_ns)
{
    while ((long)clock_now_ns() < start_ns)
        __builtin_ia32_pause();
    return (long)clock_now_ns() - start_ns < LATE_NS;
}

/* (when to begin, objects): microseconds for all of them, or LATE */
static int writer(ray_call *call)
{
    const size_t size = WRITE_MIB * MIB;
    ray_ref kept[N_KEPT] = {0};
    long start_ns, n;

    if (ray_arg(call, 0, &start_ns) != RAY_OK || ray_arg(call, 1, &n) != RAY_OK)
        return RAY_ETYPE;
    uint8_t *from = random_bytes(size);
    bool on_time = await(start_ns);
    uint64_t t = clock_now_ns();
    for (long i = 0; i < n; i++) {
        ray_release(kept[i % N_KEPT]);
        kept[i % N_KEPT] = ray_put(ray_bytes(from, size));
    }
    long us = (long)us_since(t);
    release_all(kept, N_KEPT);
    munmap(from, size);
    return ray_return(call, 0, on_time ? us : LATE);
}
RAY_REMOTE(writer);

/* false: they were not at it at once. */
static bool write_at_once(long n, double *us)
{
    long start_ns = (long)clock_now_ns() + PREPARE_NS, each[2];
    ray_ref refs[2];

    for (int i = 0; i < 2; i++)
        refs[i] = ray_remote(writer, start_ns, n);
    for (int i = 0; i < 2; i++)
        if (ray_take(refs[i], &each[i], RAY_FOREVER) != RAY_OK)
            die();
    *us = (double)(each[0] + each[1]) / 2 / (double)n;
    return each[0] != LATE && each[1] != LATE;
}

/* Two processes as nice as workers, each with memory of its own. */
static bool copy_at_once(unsigned way, long n, double *us)
{
    const size_t size = WRITE_MIB * MIB;
    long each[2], start_ns = (long)clock_now_ns() + PREPARE_NS;
    int pipe_fd[2];
    pid_t pids[2];

    if (pipe(pipe_fd) != 0)
        abort();
    for (int i = 0; i < 2; i++) {
        if ((pids[i] = fork()) != 0)
            continue;
        setpriority(PRIO_PROCESS, 0, NICE_USER);
        uint8_t *from = random_bytes(size), *to = shared_bytes(N_KEPT * size);
        bool on_time = await(start_ns);
        uint64_t t = clock_now_ns();
        for (long k = 0; k < n; k++)
            copy_in_way(way, to + (size_t)k % N_KEPT * size, from, size);
        each[0] = on_time ? (long)us_since(t) : LATE;
        _exit(write(pipe_fd[1], each, sizeof each[0]) != sizeof each[0]);
    }
    for (int i = 0; i < 2; i++) {
        if (read(pipe_fd[0], &each[i], sizeof each[i]) != sizeof each[i])
            abort();
        waitpid(pids[i], NULL, 0);
    }
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    *us = (double)(each[0] + each[1]) / 2 / (double)n;
    return each[0] != LATE && each[1] != LATE;
}

static void two_writers(long n)
{
    enum { ROUNDS = 5, TRIES = 12 };
    double us[ROUNDS], limits[STORE_COPY_ROUTINES][ROUNDS], limit = 0;
    int round = 0;

    for (int i = 0; i < TRIES && round < ROUNDS; i++) {
        bool ok = write_at_once(n, &us[round]);
        for (unsigned r = 0; r < STORE_COPY_ROUTINES; r++)
            ok = ok && copy_at_once(r * COLUMNS, n, &limits[r][round]);
        round += ok && i > 0; /* the first one warms */
    }
    if (round == 0)
        return; /* nobody gets two CPUs here */
    for (unsigned r = 0; r < STORE_COPY_ROUTINES; r++) {
        double median = bench_quantile(limits[r], (size_t)round, 0.5);
        if (r == 0 || median < limit)
            limit = median;
    }
    bench_add((struct row){"put 4 MiB by two tasks at once, each",
                           bench_quantile(us, (size_t)round, 0.5),
                           "us",
                           limit,
                           "two processes that copy at once",
                           1.3,
                           false});
}

/* --- by-ref arguments --- */

static int size_of(ray_call *call)
{
    ray_view v;

    if (ray_arg(call, 0, &v) != RAY_OK)
        return RAY_ETYPE;
    return ray_return(call, 0, (long)v.size);
}
RAY_REMOTE(size_of);

static double trip_us(ray_ref argument)
{
    uint64_t t = clock_now_ns();
    long y;

    if (ray_take(ray_remote(size_of, argument), &y, RAY_FOREVER) != RAY_OK)
        die();
    return us_since(t);
}

static double batch_us(ray_ref argument, size_t n, ray_ref *refs)
{
    uint64_t t = clock_now_ns();
    long y;

    for (size_t i = 0; i < n; i++)
        refs[i] = ray_remote(size_of, argument);
    for (size_t i = 0; i < n; i++)
        if (ray_take(refs[i], &y, RAY_FOREVER) != RAY_OK)
            die();
    return us_since(t) / (double)n;
}

static void by_ref(size_t n)
{
    uint8_t *bytes = random_bytes(MIB);
    ray_ref args[2] = {ray_put(ray_bytes(bytes, 8)), ray_put(ray_bytes(bytes, MIB))};
    ray_ref *refs = malloc(n * sizeof *refs);
    double *us[2] = {malloc(n * sizeof *us[0]), malloc(n * sizeof *us[0])}, batch[2][9];

    if (refs == NULL || us[0] == NULL || us[1] == NULL)
        abort();
    batch_us(args[0], n, refs);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            us[k][i] = trip_us(args[k]);
    for (int i = 0; i < 9; i++)
        for (int k = 0; k < 2; k++)
            batch[k][i] = batch_us(args[k], n, refs);
    bench_add((struct row){"task with a 1 MiB argument by ref, round trip p50",
                           bench_quantile(us[1], n, 0.5),
                           "us",
                           bench_quantile(us[0], n, 0.5),
                           "the same task with 8 B",
                           1.5,
                           false});
    bench_add((struct row){"tasks with a 1 MiB argument by ref, each",
                           bench_quantile(batch[1], 9, 0.5),
                           "us",
                           bench_quantile(batch[0], 9, 0.5),
                           "the same tasks with 8 B",
                           1.5,
                           false});
    release_all(args, 2);
    free(refs);
    free(us[0]);
    free(us[1]);
    munmap(bytes, MIB);
}

/* --- refs inside values, waiting for many --- */

static int make_refs(ray_call *call)
{
    ray_ref *refs;
    ray_value *values;
    long n;

    if (ray_arg(call, 0, &n) != RAY_OK)
        return RAY_ETYPE;
    refs = malloc((size_t)n * sizeof *refs);
    values = malloc((size_t)n * sizeof *values);
    if (refs == NULL || values == NULL)
        abort();
    for (long i = 0; i < n; i++) {
        refs[i] = ray_put(i);
        values[i] = ray_v(refs[i]);
    }
    int rc = ray_return(call, 0, ray_list_of(values, (size_t)n));
    release_all(refs, (size_t)n);
    free(refs);
    free(values);
    return rc;
}
RAY_REMOTE(make_refs);

static double get_inner_us(ray_ref ref)
{
    uint64_t t = clock_now_ns();
    ray_ref inner[N_INNER];
    ray_box box;
    size_t n = 0;

    if (ray_get(ref, &box, RAY_FOREVER) != RAY_OK)
        die();
    while (n < N_INNER && ray_next(&box, &inner[n]) == RAY_OK)
        n++;
    ray_box_drop(&box);
    if (n != N_INNER)
        abort();
    release_all(inner, n);
    return us_since(t);
}

static void many_refs(int n)
{
    double *us = malloc((size_t)n * sizeof *us), first;
    long before = bench_rss_kb();
    uint64_t t = clock_now_ns();

    if (us == NULL)
        abort();
    ray_ref ref = ray_remote(make_refs, (long)N_INNER);
    get_inner_us(ref);
    first = us_since(t);
    long after = bench_rss_kb();
    for (int i = 0; i < n; i++)
        us[i] = get_inner_us(ref);
    ray_release(ref);
    bench_add((struct row){"task that makes an object holding 10,000 refs, and its get",
                           first / 1e3,
                           "ms",
                           0,
                           "",
                           0,
                           false});
    bench_add((struct row){"memory of a borrowed ref",
                           (double)(after - before) * 1024 / N_INNER,
                           "B",
                           200,
                           "the budget itself",
                           1,
                           false});
    bench_add((struct row){"get of an object holding 10,000 refs",
                           1e6 / bench_quantile(us, (size_t)n, 0.5),
                           "/s",
                           15.6,
                           "Ray 2.60 on such a machine",
                           100,
                           true});
    free(us);
}

static int one(ray_call *call)
{
    return ray_return(call, 0, 1);
}
RAY_REMOTE(one);

/* As Ray's own benchmark: wait for one of those not yet ready until all are. */
static double wait_all_us(void)
{
    ray_ref refs[N_WAITED], all[N_WAITED];
    bool ready[N_WAITED];
    uint64_t t = clock_now_ns();

    for (int i = 0; i < N_WAITED; i++)
        all[i] = refs[i] = ray_remote(one);
    for (size_t n = N_WAITED; n > 0;) {
        if (ray_wait(refs, n, 1, RAY_FOREVER, ready) != RAY_OK)
            die();
        size_t left = 0;
        for (size_t i = 0; i < n; i++)
            if (!ready[i])
                refs[left++] = refs[i];
        n = left;
    }
    double us = us_since(t);
    release_all(all, N_WAITED);
    return us;
}

static void many_waits(int n)
{
    double us[100];

    for (int i = 0; i < n; i++)
        us[i] = wait_all_us();
    bench_add((struct row){"wait on 1,000 refs, one by one",
                           1e6 / bench_quantile(us, (size_t)n, 0.5),
                           "/s",
                           1.7,
                           "Ray 2.60 on such a machine",
                           100,
                           true});
}

void bench_objects(bool quick)
{
    if (ray_init(NULL) != RAY_OK)
        die();
    small_objects(); /* first: memory is what fresh refs take */
    many_refs(quick ? 50 : 200);
    many_waits(quick ? 20 : 100);
    by_ref(quick ? 2000 : 10000);
    put_rows(MIB, quick ? 100 : 400, 1.3, "put 1 MiB, first time", "put 1 MiB, second time");
    large_get();
    two_writers(quick ? 200 : 800);
    large_puts();
    ray_shutdown();
}
