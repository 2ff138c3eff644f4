/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_CHANNEL_TABLE_H
#define RAYLET_CHANNEL_TABLE_H
/*
 * How the processes of this machine talk: which pairs of owner and worker have a direct channel, at
 * most so many a process (DESIGN D2), and which a route. A channel is in use while its worker has a
 * lease of its owner; one that is not may be ended to make room for another. A process is named by
 * its slot on the board. Pure; loop thread.
 */
#include <stdbool.h>
#include <stdint.h>

struct channel_table;

struct channel_pair {
    uint32_t owner, worker;
};

enum channel_way {
    CHANNEL_KNOWN, /* the pair has a channel, or was told of a route */
    CHANNEL_NEW,   /* it gets a channel */
    CHANNEL_ROUTE, /* it is to be told of a route, and keeps to that */
};

/* max >= 1: channels of one process. */
struct channel_table *channel_table_create(unsigned max);
void channel_table_destroy(struct channel_table *table);

/* A lease begins. A pair without a channel gets one; at a process that has its number of them the
 * one unused for longest ends: ended[0..*n_ended) are none of the table's any more, and their ends
 * are to be closed. If all of one process are in use, the pair gets a route. */
enum channel_way channel_table_begin(struct channel_table *table,
                                     uint32_t owner,
                                     uint32_t worker,
                                     struct channel_pair ended[2],
                                     unsigned *n_ended);
/* The worker has no lease any more. */
void channel_table_idle(struct channel_table *table, uint32_t worker);
/* The channel could not be made, or one end was lost on the way: the next lease of the pair gets a
 * route. */
void channel_table_lost(struct channel_table *table, uint32_t owner, uint32_t worker);
/* This process is gone. */
void channel_table_remove(struct channel_table *table, uint32_t slot);

/* Channels of this process, without routes. */
unsigned channel_table_count(const struct channel_table *table, uint32_t slot);

#endif /* RAYLET_CHANNEL_TABLE_H */
