/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_MACHINE_H
#define RAYLET_MACHINE_H
/*
 * Facts of this machine that waiting and copying depend on (DESIGN D13): measured once per boot,
 * never built into the source, kept in <temp>/machine-<boot id>-<uid>. Any thread.
 */
#include <stdint.h>

#include "lib/base/err.h"

struct machine {
    uint32_t n_cpus;        /* that this process may use */
    uint64_t wake_ns;       /* a sleeping thread runs on another CPU (one CPU: on the same) */
    uint64_t trip_ns;       /* one byte there and back over a unix socket, both sides asleep */
    uint64_t copy_mb_per_s; /* memcpy of memory beyond the caches */
    uint64_t copy_plan;     /* how to copy into the object store (objstore/copy.h) */
};

/* Takes about half a second; a sample that other work disturbed does not count. */
int machine_measure(struct machine *m, struct err *err);
/* What was measured since the last boot. -1 with ERR_NOT_FOUND: nothing yet. */
int machine_load(struct machine *m, const char *temp, struct err *err);
int machine_store(const struct machine *m, const char *temp, struct err *err);
/* Remove this user's facts of earlier boots. */
void machine_sweep(const char *temp);

#endif /* RAYLET_MACHINE_H */
