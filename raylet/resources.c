/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/resources.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/assert.h"

void resources_init(struct resources *r, int64_t cpu_units)
{
    memset(r, 0, sizeof *r);
    r->n = 1;
    memcpy(r->names[0], "CPU", 4);
    r->total[0] = r->available[0] = cpu_units;
}

/* Its index, or r->n. */
static unsigned find(const struct resources *r, const char *name)
{
    unsigned i = 0;

    while (i < r->n && strcmp(r->names[i], name) != 0)
        i++;
    return i;
}

int resources_add(struct resources *r, const char *name, int64_t units, struct err *err)
{
    size_t n = strnlen(name, RESOURCE_NAME_MAX);

    if (n == 0 || n == RESOURCE_NAME_MAX)
        return err_set(err,
                       ERR_INVALID,
                       "a resource's name has 1 to %d bytes",
                       RESOURCE_NAME_MAX - 1);
    if (units < 0 || units > RESOURCE_UNITS_MAX)
        return err_set(err, ERR_INVALID, "resource %s: the amount must be 0 or more", name);
    if (find(r, name) < r->n)
        return err_set(err, ERR_EXISTS, "resource %s is given twice", name);
    if (r->n == RESOURCES_MAX)
        return err_set(err, ERR_FULL, "a node has at most %d custom resources", RESOURCES_MAX - 1);
    memcpy(r->names[r->n], name, n + 1);
    r->total[r->n] = r->available[r->n] = units;
    r->n++;
    return 0;
}

static int add_foreign(struct res_set *set, const char *name, int64_t units, struct err *err)
{
    struct res_foreign f = {.units = units};
    unsigned i = 0;

    memcpy(f.name, name, strnlen(name, sizeof f.name - 1));
    while (i < set->n_foreign && strcmp(set->foreign[i].name, f.name) < 0)
        i++;
    if (i < set->n_foreign && strcmp(set->foreign[i].name, f.name) == 0) {
        if (units > RESOURCE_UNITS_MAX - set->foreign[i].units)
            return err_set(err, ERR_INVALID, "resource %s: the amount is too large", f.name);
        set->foreign[i].units += units;
        return 0;
    }
    if (set->n_foreign == RES_FOREIGN_MAX)
        return err_set(err,
                       ERR_FULL,
                       "a task may want at most %d resources that its node lacks",
                       RES_FOREIGN_MAX);
    memmove(set->foreign + i + 1, set->foreign + i, (set->n_foreign - i) * sizeof f);
    set->foreign[i] = f;
    set->n_foreign++;
    return 0;
}

int res_set_add(struct res_set *set,
                const struct resources *r,
                const char *name,
                int64_t units,
                struct err *err)
{
    unsigned i = find(r, name);

    if (units < 0 || units > RESOURCE_UNITS_MAX)
        return err_set(err, ERR_INVALID, "resource %.47s: the amount must be 0 or more", name);
    if (i == r->n)
        return units > 0 ? add_foreign(set, name, units, err) : 0;
    if (units > RESOURCE_UNITS_MAX - set->units[i])
        return err_set(err, ERR_INVALID, "resource %s: the amount is too large", name);
    set->units[i] += units;
    return 0;
}

unsigned res_set_list(const struct res_set *set,
                      const struct resources *r,
                      struct res_amount out[RES_AMOUNTS_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->n; i++)
        if (set->units[i] > 0)
            out[n++] = (struct res_amount){r->names[i], set->units[i]};
    for (unsigned i = 0; i < set->n_foreign; i++)
        out[n++] = (struct res_amount){set->foreign[i].name, set->foreign[i].units};
    return n;
}

bool res_set_eq(const struct res_set *a, const struct res_set *b)
{
    return memcmp(a->units, b->units, sizeof a->units) == 0 && a->n_foreign == b->n_foreign
           && memcmp(a->foreign, b->foreign, a->n_foreign * sizeof a->foreign[0]) == 0;
}

bool resources_is_feasible(const struct resources *r, const struct res_set *set)
{
    if (set->n_foreign > 0)
        return false;
    for (unsigned i = 0; i < r->n; i++)
        if (set->units[i] > r->total[i])
            return false;
    return true;
}

void resources_say_missing(const struct resources *r,
                           const struct res_set *set,
                           char *out,
                           size_t size)
{
    out[0] = '\0';
    if (set->n_foreign > 0) {
        snprintf(out,
                 size,
                 "%.12g %s, this one has none",
                 (double)set->foreign[0].units / RESOURCE_UNIT,
                 set->foreign[0].name);
        return;
    }
    for (unsigned i = 0; i < r->n; i++)
        if (set->units[i] > r->total[i]) {
            snprintf(out,
                     size,
                     "%.12g %s, this one has %.12g",
                     (double)set->units[i] / RESOURCE_UNIT,
                     r->names[i],
                     (double)r->total[i] / RESOURCE_UNIT);
            return;
        }
}

bool resources_acquire(struct resources *r, const struct res_set *set)
{
    if (set->n_foreign > 0)
        return false;
    for (unsigned i = 0; i < r->n; i++)
        if (set->units[i] > 0 && set->units[i] > r->available[i])
            return false;
    for (unsigned i = 0; i < r->n; i++)
        r->available[i] -= set->units[i];
    return true;
}

void resources_release(struct resources *r, const struct res_set *set)
{
    for (unsigned i = 0; i < r->n; i++) {
        r->available[i] += set->units[i];
        ASSERT(r->available[i] <= r->total[i]);
    }
}

void resources_release_cpu(struct resources *r, const struct res_set *set)
{
    r->available[0] += set->units[0];
    ASSERT(r->available[0] <= r->total[0]);
}

void resources_retake_cpu(struct resources *r, const struct res_set *set)
{
    r->available[0] -= set->units[0];
}

void resources_selfcheck(const struct resources *r)
{
    ASSERT(r->n >= 1 && r->n <= RESOURCES_MAX);
    for (unsigned i = 0; i < r->n; i++) {
        ASSERT(r->total[i] >= 0 && r->available[i] <= r->total[i]);
        ASSERT(i == 0 || r->available[i] >= 0); /* INV-19 */
        ASSERT(find(r, r->names[i]) == i);
    }
}
