/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_RESOURCES_H
#define RAYLET_RESOURCES_H
/*
 * The ledger of a node's resources in units of 1/10000 (Ray's granularity). A name becomes a small
 * index once; resource 0 is CPU; names[], total[] and available[] are read by index up to n. Pure.
 * INV-19: available + what was acquired = total, for each resource; CPU alone may go below zero, by
 * unblocked workers.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

#define RESOURCES_MAX      64
#define RESOURCE_NAME_MAX  48
#define RESOURCE_UNIT      10000
#define RESOURCE_UNITS_MAX (INT64_C(1) << 60)
#define RES_FOREIGN_MAX    16 /* resources in a set that the node lacks */
#define RES_AMOUNTS_MAX    (RESOURCES_MAX + RES_FOREIGN_MAX)

struct res_amount { /* a need by name, as another node understands it; name is borrowed */
    const char *name;
    int64_t units;
};

struct res_set { /* an amount of each resource; zeroed is empty */
    int64_t units[RESOURCES_MAX];
    unsigned n_foreign; /* of resources that this node does not have, in the order of their names */
    struct res_foreign {
        char name[RESOURCE_NAME_MAX];
        int64_t units;
    } foreign[RES_FOREIGN_MAX];
};

struct resources {
    unsigned n;
    char names[RESOURCES_MAX][RESOURCE_NAME_MAX];
    int64_t total[RESOURCES_MAX], available[RESOURCES_MAX];
};

void resources_init(struct resources *r, int64_t cpu_units);
/* -1: bad name or amount, no room, exists. */
int resources_add(struct resources *r, const char *name, int64_t units, struct err *err);
/* Add to the set; of a resource the node lacks too. -1: a negative or absurd amount, too many that
 * it lacks. */
int res_set_add(struct res_set *set,
                const struct resources *r,
                const char *name,
                int64_t units,
                struct err *err) __attribute__((warn_unused_result));
/* What is in it, by name, none twice; how many. Names are the set's and the ledger's. */
unsigned res_set_list(const struct res_set *set,
                      const struct resources *r,
                      struct res_amount out[RES_AMOUNTS_MAX]);
bool res_set_eq(const struct res_set *a, const struct res_set *b);
/* Could it ever fit? */
bool resources_is_feasible(const struct resources *r, const struct res_set *set);
/* Why it is not feasible, in words ("8 CPU, it has 2"); empty if it is. */
void resources_say_missing(const struct resources *r,
                           const struct res_set *set,
                           char *out,
                           size_t size);
/* All or nothing. What wants CPU gets nothing while CPU is below zero. */
bool resources_acquire(struct resources *r, const struct res_set *set)
    __attribute__((warn_unused_result));
void resources_release(struct resources *r, const struct res_set *set);
/* The CPU part alone, of a worker that blocks; taken again even below zero. */
void resources_release_cpu(struct resources *r, const struct res_set *set);
void resources_retake_cpu(struct resources *r, const struct res_set *set);
/* Bounds of what is available; lease_selfcheck adds up what was acquired. Asserts. */
void resources_selfcheck(const struct resources *r);

#endif /* RAYLET_RESOURCES_H */
