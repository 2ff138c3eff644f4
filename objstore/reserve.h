/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_RESERVE_H
#define OBJSTORE_RESERVE_H
/*
 * Keeps memory of the arena warm ahead of demand (DESIGN D6): the first use of a page costs many
 * times what a copy into it does, so a thread of its own has the kernel make pages a bounded
 * distance in front of what was ever lent. The thread is as nice as workers, begins with the first
 * demand, and sleeps when nothing is to be done.
 */
#include <stdint.h>

struct store_reserve;

/* Of the arena in arena_fd, borrowed, whose size is capacity. Never NULL. */
struct store_reserve *store_reserve_create(int arena_fd, uint64_t capacity);
/* Stops at the next MiB, and joins the thread. */
void store_reserve_destroy(struct store_reserve *r);
/* [0, end) has been lent: that and a bit more is to have pages soon. From one thread, at any rate.
 * Where memory is out nothing more is done: whoever writes there is told. */
void store_reserve_until(struct store_reserve *r, uint64_t end);
/* How much more. */
uint64_t store_reserve_ahead(const struct store_reserve *r);
/* [0, this) has been seen to; any thread. */
uint64_t store_reserve_done(struct store_reserve *r);

#endif /* OBJSTORE_RESERVE_H */
