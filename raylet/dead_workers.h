/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_DEAD_WORKERS_H
#define RAYLET_DEAD_WORKERS_H
/*
 * The workers of this node that have ended: the newest, at most as many as it is made for. Pure.
 */
#include "raylet/why_state.h"

struct dead_workers;

/* max 0: none is remembered. Memory is taken as they come. */
struct dead_workers *dead_workers_create(size_t max);
void dead_workers_destroy(struct dead_workers *d);
/* Copied; ended_ms is the caller's to mean. The oldest goes if there are max already. */
void dead_workers_add(struct dead_workers *d, const struct why_dead *w);
size_t dead_workers_count(const struct dead_workers *d);
/* i < count; 0 is the oldest. Good until the next is added. */
const struct why_dead *dead_workers_at(const struct dead_workers *d, size_t i);

#endif /* RAYLET_DEAD_WORKERS_H */
