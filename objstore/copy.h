/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_COPY_H
#define OBJSTORE_COPY_H
/*
 * Copying an object's bytes into the store: by which routine and with how many threads is a fact of
 * the machine and of the size (DESIGN D13), so it is measured, never assumed. Any thread, no lock.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

enum store_copy_routine {
    STORE_COPY_PLAIN,  /* memcpy */
    STORE_COPY_STREAM, /* stores that bypass the caches */
    STORE_COPY_STRING, /* the processor's own loop */
    STORE_COPY_ROUTINES,
};

/* Size classes: up to 256 KiB, 1, 4, 16 MiB, and beyond. */
#define STORE_COPY_CLASSES     5
#define STORE_COPY_MAX_THREADS 8

/* One byte per size class: the low 4 bits are the threads (0: as for 1), the high 2 the routine. 0:
 * memcpy throughout. Any value is a valid plan. */
typedef uint64_t store_copy_plan;

unsigned store_copy_class(size_t size);
/* The largest size of a class; 0: the last one has none. */
size_t store_copy_class_limit(unsigned size_class);
enum store_copy_routine store_copy_routine_of(store_copy_plan plan, unsigned size_class);
unsigned store_copy_threads_of(store_copy_plan plan, unsigned size_class);
const char *store_copy_routine_name(enum store_copy_routine routine);

/* Copy; the ranges do not overlap. What is written is seen by whoever sees a later store of this
 * thread. A thread that cannot be started costs time only. */
void store_copy(store_copy_plan plan, void *to, const void *from, size_t size);

/* Speeds found, in MB/s; 0: not tried (no such routine, not as many CPUs). Column t is 2^t threads.
 */
#define STORE_COPY_COLUMNS 4
struct store_copy_facts {
    uint32_t mb_per_s[STORE_COPY_CLASSES][STORE_COPY_ROUTINES][STORE_COPY_COLUMNS];
    store_copy_plan plan; /* what follows from them */
};

/* Measure on n_cpus CPUs, in memory of the kind the store uses, into places that are not in the
 * caches: a few tenths of a second and 96 MiB. A routine is chosen if the time to copy an object
 * and to read it once is less by a tenth; more threads if they gain a quarter for each doubling. */
int store_copy_measure(struct store_copy_facts *facts, unsigned n_cpus, struct err *err);

#endif /* OBJSTORE_COPY_H */
