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
    if (r->n == RESOURCES_MAX)
        return err_set(err, ERR_FULL, "a node has at most %d custom resources", RESOURCES_MAX - 1);
    for (unsigned i = 0; i < r->n; i++)
        if (strcmp(r->names[i], name) == 0)
            return err_set(err, ERR_EXISTS, "resource %s is given twice", name);
    snprintf(r->names[r->n], RESOURCE_NAME_MAX, "%s", name);
    r->total[r->n] = r->available[r->n] = units;
    r->n++;
    return 0;
}

int res_set_add(struct res_set *set,
                const struct resources *r,
                const char *name,
                int64_t units,
                struct err *err)
{
    if (units < 0 || units > RESOURCE_UNITS_MAX)
        return err_set(err, ERR_INVALID, "resource %s: the amount must be 0 or more", name);
    for (unsigned i = 0; i < r->n; i++)
        if (strncmp(r->names[i], name, RESOURCE_NAME_MAX) == 0) {
            if (units > RESOURCE_UNITS_MAX - set->units[i])
                return err_set(err, ERR_INVALID, "resource %s: the amount is too large", name);
            set->units[i] += units;
            return 0;
        }
    if (units > 0)
        snprintf(set->missing, sizeof set->missing, "%s", name);
    return 0;
}

bool resources_is_feasible(const struct resources *r, const struct res_set *set)
{
    if (set->missing[0] != '\0')
        return false;
    for (unsigned i = 0; i < r->n; i++)
        if (set->units[i] > r->total[i])
            return false;
    return true;
}

bool resources_acquire(struct resources *r, const struct res_set *set)
{
    if (set->missing[0] != '\0')
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
