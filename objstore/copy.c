/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/copy.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "lib/base/clock.h"
#include "objstore/layout.h"

#define FIRST_LIMIT (256u << 10) /* each class ends at four times the one before */
#define STREAM_MIN  (32u << 10)  /* for shorter ones the interleaving has nothing to interleave */
#define STREAM_BIT  0x80u
#define STACK_BYTES (128u << 10)
#define LINE        64u
#define FROM_BYTES  (32u << 20)
#define TO_BYTES    (64u << 20)
#define ROUND_BYTES (8u << 20) /* copied for one sample, at least */
#define N_ROUNDS    2          /* the best counts: other work disturbs only in one direction */

unsigned store_copy_class(size_t size)
{
    unsigned size_class = 0;

    while (size_class < STORE_COPY_CLASSES - 1 && size > store_copy_class_limit(size_class))
        size_class++;
    return size_class;
}

size_t store_copy_class_limit(unsigned size_class)
{
    return size_class < STORE_COPY_CLASSES - 1 ? (size_t)FIRST_LIMIT << (2 * size_class) : 0;
}

enum store_copy_routine store_copy_routine_of(store_copy_plan plan, unsigned size_class)
{
    return plan >> (8 * size_class) & STREAM_BIT ? STORE_COPY_STREAM : STORE_COPY_PLAIN;
}

unsigned store_copy_threads_of(store_copy_plan plan, unsigned size_class)
{
    unsigned n = plan >> (8 * size_class) & 0xf;

    return n == 0 ? 1 : n > STORE_COPY_MAX_THREADS ? STORE_COPY_MAX_THREADS : n;
}

#ifdef __SSE2__
/* Copies 128 bytes, to is at a multiple of 16. */
static inline void stream_128(uint8_t *to, const uint8_t *from)
{
    __m128i x[8];

    for (int i = 0; i < 8; i++)
        x[i] = _mm_loadu_si128((const __m128i *)(from + 16 * i));
    for (int i = 0; i < 8; i++)
        _mm_stream_si128((__m128i *)(to + 16 * i), x[i]);
}

/* Four pages are walked at once: four streams keep more of the memory's banks and of the
 * prefetchers busy than one. */
static void copy_stream(uint8_t *to, const uint8_t *from, size_t size)
{
    size_t head = -(uintptr_t)to & 15;

    if (size < STREAM_MIN) {
        memcpy(to, from, size);
        return;
    }
    memcpy(to, from, head);
    size_t at = head;
    for (; at + 4 * STORE_BLOCK <= size; at += 4 * STORE_BLOCK)
        for (size_t o = 0; o < STORE_BLOCK; o += 128)
            for (size_t page = 0; page < 4; page++) {
                const uint8_t *f = from + at + page * STORE_BLOCK + o;
                stream_128(to + at + page * STORE_BLOCK + o, f);
                _mm_prefetch((const char *)f + 256, _MM_HINT_T0);
            }
    memcpy(to + at, from + at, size - at);
    _mm_sfence(); /* such stores are in no order: a record that speaks of them must not pass them */
}
#else
static void copy_stream(uint8_t *to, const uint8_t *from, size_t size)
{
    memcpy(to, from, size);
}
#endif

struct part {
    uint8_t *to;
    const uint8_t *from;
    size_t size;
    enum store_copy_routine routine;
};

static void copy_part(const struct part *p)
{
    if (p->routine == STORE_COPY_STREAM)
        copy_stream(p->to, p->from, p->size);
    else
        memcpy(p->to, p->from, p->size);
}

static void *part_main(void *arg)
{
    copy_part(arg);
    return NULL;
}

/* A thread of ours gets none of the program's signals. */
static bool start(pthread_t *thread, struct part *p)
{
    pthread_attr_t attr;
    sigset_t all, before;

    if (pthread_attr_init(&attr) != 0)
        return false;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(thread, &attr, part_main, p) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return ok;
}

static void copy_by(enum store_copy_routine routine,
                    unsigned n_threads,
                    uint8_t *to,
                    const uint8_t *from,
                    size_t size)
{
    struct part parts[STORE_COPY_MAX_THREADS];
    pthread_t threads[STORE_COPY_MAX_THREADS];
    bool started[STORE_COPY_MAX_THREADS] = {false};
    size_t each = (size / (n_threads * STORE_BLOCK) + 1) * STORE_BLOCK;

    if (n_threads == 1) { /* most copies */
        copy_part(&(struct part){.to = to, .from = from, .size = size, .routine = routine});
        return;
    }
    for (unsigned i = 0; i < n_threads; i++) {
        size_t at = i * each < size ? i * each : size;
        parts[i] = (struct part){.to = to + at,
                                 .from = from + at,
                                 .size = size - at < each ? size - at : each,
                                 .routine = routine};
        started[i] = i > 0 && start(&threads[i], &parts[i]);
    }
    for (unsigned i = 0; i < n_threads; i++)
        if (!started[i])
            copy_part(&parts[i]);
    for (unsigned i = 1; i < n_threads; i++)
        if (started[i])
            pthread_join(threads[i], NULL);
}

void store_copy(store_copy_plan plan, void *to, const void *from, size_t size)
{
    unsigned size_class = store_copy_class(size);

    if (size > 0)
        copy_by(store_copy_routine_of(plan, size_class),
                store_copy_threads_of(plan, size_class),
                to,
                from,
                size);
}

/* --- measuring --- */

struct memory {
    uint8_t *from, *to; /* FROM_BYTES, TO_BYTES; touched */
    size_t at;          /* the place whose turn it is */
};

struct sample {
    uint64_t copy_ns, read_ns; /* of a round */
};

static size_t round_bytes(size_t size)
{
    return size > ROUND_BYTES ? size : ROUND_BYTES;
}

static uint64_t read_once(const uint8_t *p, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < size; i += LINE)
        sum += p[i];
    return sum;
}

/* Objects of `size`, each to the next place; the reader comes right after its writer. */
static struct sample take_sample(struct memory *m,
                                 enum store_copy_routine routine,
                                 unsigned n_threads,
                                 size_t size)
{
    struct sample best = {.copy_ns = UINT64_MAX};

    for (int round = 0; round < N_ROUNDS; round++) {
        struct sample now = {0};
        for (size_t done = 0; done < round_bytes(size); done += size) {
            uint64_t start = clock_now_ns();
            copy_by(routine, n_threads, m->to + m->at, m->from + m->at % FROM_BYTES, size);
            uint64_t copied = clock_now_ns();
            uint64_t sum = read_once(m->to + m->at, size);
            __asm__ volatile("" : : "r"(sum) : "memory");
            now.copy_ns += copied - start;
            now.read_ns += clock_now_ns() - copied;
            m->at = (m->at + size) % TO_BYTES;
        }
        if (best.copy_ns == UINT64_MAX || now.copy_ns + now.read_ns < best.copy_ns + best.read_ns)
            best = now;
    }
    return best;
}

static void measure_class(struct memory *m,
                          struct store_copy_facts *facts,
                          unsigned size_class,
                          unsigned n_cpus)
{
    size_t size = (size_t)FIRST_LIMIT / 2
                  << (2 * size_class); /* the middle; divides all the above */
    struct sample found[STORE_COPY_ROUTINES][STORE_COPY_COLUMNS];
    unsigned n_columns = 0, routine = STORE_COPY_PLAIN, column = 0;
#ifdef __SSE2__
    unsigned n_routines = STORE_COPY_ROUTINES;
#else
    unsigned n_routines = 1;
#endif

    while (n_columns < STORE_COPY_COLUMNS && 1u << n_columns <= n_cpus)
        n_columns++;
    for (unsigned r = 0; r < n_routines; r++)
        for (unsigned t = 0; t < n_columns; t++) {
            found[r][t] = take_sample(m, r, 1u << t, size);
            facts->mb_per_s[size_class][r][t] =
                (uint32_t)((uint64_t)round_bytes(size) * 1000 / (found[r][t].copy_ns + 1));
        }
    for (unsigned r = 1; r < n_routines; r++)
        if (found[r][0].copy_ns + found[r][0].read_ns
            < found[routine][0].copy_ns + found[routine][0].read_ns)
            routine = r;
    /* threads take CPUs from others: a doubling has to gain a quarter */
    for (unsigned t = 1; t < n_columns; t++)
        if (found[routine][t].copy_ns * (4 + (t - column)) / 4 < found[routine][column].copy_ns)
            column = t;
    facts->plan |= (uint64_t)(1u << column | (routine == STORE_COPY_STREAM ? STREAM_BIT : 0))
                   << (8 * size_class);
}

int store_copy_measure(struct store_copy_facts *facts, unsigned n_cpus, struct err *err)
{
    struct store_copy_facts found = {0};
    struct memory m = {0};
    int fd = memfd_create("copy-measure", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, TO_BYTES) != 0) {
        err_sys(err, "memory to measure copies with");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    m.to = mmap(NULL, TO_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    m.from = mmap(NULL, FROM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    close(fd);
    bool ok = m.to != MAP_FAILED && m.from != MAP_FAILED;
    if (ok) { /* touched: a page fault is another fact */
        memset(m.from, 1, FROM_BYTES);
        memset(m.to, 1, TO_BYTES);
        for (unsigned size_class = 0; size_class < STORE_COPY_CLASSES; size_class++)
            measure_class(&m, &found, size_class, n_cpus);
        *facts = found;
    }
    if (m.to != MAP_FAILED)
        munmap(m.to, TO_BYTES);
    if (m.from != MAP_FAILED)
        munmap(m.from, FROM_BYTES);
    return ok ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to measure copies with");
}
