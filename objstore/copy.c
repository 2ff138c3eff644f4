/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/copy.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

#include "lib/base/clock.h"
#include "objstore/layout.h"

#define FIRST_LIMIT (256u << 10) /* each class ends at four times the one before */
#define AHEAD       512u         /* bytes: no routine was slower for it, most were faster */
#define STACK_BYTES (128u << 10)
#define LINE        64u
#define FROM_BYTES  (32u << 20)
#define TO_BYTES    (64u << 20)
#define ROUND_BYTES (4u << 20) /* copied at a time, at least */
#define N_ROUNDS    5

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
    unsigned routine = plan >> (8 * size_class + 6) & 3;

    return routine < STORE_COPY_ROUTINES ? (enum store_copy_routine)routine : STORE_COPY_PLAIN;
}

unsigned store_copy_threads_of(store_copy_plan plan, unsigned size_class)
{
    unsigned n = plan >> (8 * size_class) & 0xf;

    return n == 0 ? 1 : n > STORE_COPY_MAX_THREADS ? STORE_COPY_MAX_THREADS : n;
}

const char *store_copy_routine_name(enum store_copy_routine routine)
{
    switch (routine) {
    case STORE_COPY_STREAM:
        return "stream";
    case STORE_COPY_STRING:
        return "string";
    case STORE_COPY_PLAIN:
    case STORE_COPY_ROUTINES:
        break;
    }
    return "memcpy";
}

#ifdef __x86_64__
#define N_ROUTINES STORE_COPY_ROUTINES

/* One walk from front to back: several pages at a time, as some do it, keep fewer stores together
 * and were slower by a third. */
static void copy_stream(uint8_t *to, const uint8_t *from, size_t size)
{
    size_t at = -(uintptr_t)to % LINE;

    at = at < size ? at : size;
    memcpy(to, from, at);
    for (; at + LINE <= size; at += LINE) {
        __m128i x[LINE / 16];
        _mm_prefetch((const char *)from + at + AHEAD, _MM_HINT_T0); /* beyond the end: no harm */
        for (size_t i = 0; i < LINE / 16; i++)
            x[i] = _mm_loadu_si128((const __m128i *)(from + at) + i);
        for (size_t i = 0; i < LINE / 16; i++)
            _mm_stream_si128((__m128i *)(to + at) + i, x[i]);
    }
    memcpy(to + at, from + at, size - at);
    _mm_sfence(); /* such stores are in no order: a record that speaks of them must not pass them */
}

static void copy_string(uint8_t *to, const uint8_t *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}
#else
#define N_ROUTINES  1
#define copy_stream memcpy
#define copy_string memcpy
#endif

struct part {
    uint8_t *to;
    const uint8_t *from;
    size_t size;
    enum store_copy_routine routine;
};

static void copy_part(const struct part *p)
{
    switch (p->routine) {
    case STORE_COPY_STREAM:
        copy_stream(p->to, p->from, p->size);
        return;
    case STORE_COPY_STRING:
        copy_string(p->to, p->from, p->size);
        return;
    case STORE_COPY_PLAIN:
    case STORE_COPY_ROUTINES:
        break;
    }
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

/* Of an object, the best: other work disturbs in one direction only, and seldom all of them. */
struct sample {
    uint64_t copy_ns, read_ns;
};

static uint64_t sum_ns(const struct sample *s)
{
    return s->copy_ns + s->read_ns;
}

static uint64_t read_once(const uint8_t *p, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < size; i += LINE)
        sum += p[i];
    return sum;
}

static void keep_less(uint64_t *best, uint64_t ns)
{
    if (*best == 0 || ns < *best)
        *best = ns;
}

/* Objects of `size`, each to the next place. The reader comes when the caches nearest to the writer
 * have other things in them, as from another process. */
static void take_samples(struct memory *m,
                         enum store_copy_routine routine,
                         unsigned n_threads,
                         size_t size,
                         struct sample *best)
{
    size_t bytes = size > ROUND_BYTES ? size : ROUND_BYTES, from = m->at % FROM_BYTES;
    uint64_t start = clock_now_ns();

    for (size_t o = 0; o < bytes; o += size) {
        copy_by(routine, n_threads, m->to + m->at + o, m->from + from + o, size);
        uint64_t copied = clock_now_ns();
        keep_less(&best->copy_ns, copied - start);
        start = copied;
    }
    uint64_t sum = read_once(m->to + m->at, bytes);
    __asm__ volatile("" : : "r"(sum) : "memory");
    keep_less(&best->read_ns, (clock_now_ns() - start) / (bytes / size));
    m->at = (m->at + bytes) % TO_BYTES;
}

static void measure_class(struct memory *m,
                          struct store_copy_facts *facts,
                          unsigned size_class,
                          unsigned n_cpus)
{
    /* the class's largest, where a wrong choice costs most; it divides all the sizes above, so that
     * no place is cut */
    size_t limit = store_copy_class_limit(size_class), size = limit > 0 ? limit : FROM_BYTES;
    struct sample found[STORE_COPY_ROUTINES][STORE_COPY_COLUMNS] = {0};
    unsigned n_columns = 1, routine = STORE_COPY_PLAIN, column = 0;

    m->at = 0;
    while (n_columns < STORE_COPY_COLUMNS && 1u << n_columns <= n_cpus)
        n_columns++;
    for (int round = 0; round < N_ROUNDS; round++) /* by turns: what disturbs, disturbs all */
        for (unsigned r = 0; r < N_ROUTINES; r++)
            for (unsigned t = 0; t < n_columns; t++)
                take_samples(m, r, 1u << t, size, &found[r][t]);
    for (unsigned r = 0; r < N_ROUTINES; r++)
        for (unsigned t = 0; t < n_columns; t++)
            facts->mb_per_s[size_class][r][t] = (uint32_t)(size * 1000 / (found[r][t].copy_ns + 1));
    for (unsigned r = 1; r < N_ROUTINES; r++) /* less than a tenth is chance */
        if (sum_ns(&found[r][0]) * 11 / 10 < sum_ns(&found[routine][0]))
            routine = r;
    /* threads take CPUs from others: a doubling has to gain a quarter */
    for (unsigned t = 1; t < n_columns; t++)
        if (found[routine][t].copy_ns * (4 + (t - column)) / 4 < found[routine][column].copy_ns)
            column = t;
    facts->plan |= (uint64_t)(1u << column | routine << 6) << (8 * size_class);
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
