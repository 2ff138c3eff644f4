/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/dead_workers.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

struct dead_workers {
    struct why_dead *v; /* a ring once there are max */
    size_t n, room, max, oldest;
};

struct dead_workers *dead_workers_create(size_t max)
{
    struct dead_workers *d = xcalloc(1, sizeof *d);

    d->max = max;
    return d;
}

void dead_workers_destroy(struct dead_workers *d)
{
    if (d == NULL)
        return;
    free(d->v);
    free(d);
}

void dead_workers_add(struct dead_workers *d, const struct why_dead *w)
{
    if (d->max == 0)
        return;
    if (d->n == d->max) {
        d->v[d->oldest] = *w;
        d->oldest = (d->oldest + 1) % d->max;
        return;
    }
    if (d->n == d->room) {
        d->room = d->room == 0 ? 16 : 2 * d->room;
        d->room = d->room < d->max ? d->room : d->max;
        d->v = xrealloc(d->v, d->room * sizeof *d->v);
    }
    d->v[d->n++] = *w;
}

size_t dead_workers_count(const struct dead_workers *d)
{
    return d->n;
}

const struct why_dead *dead_workers_at(const struct dead_workers *d, size_t i)
{
    ASSERT(i < d->n);
    return &d->v[(d->oldest + i) % d->n];
}
