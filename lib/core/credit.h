/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_CREDIT_H
#define LIB_CORE_CREDIT_H
/*
 * Flow control between this process and another (DESIGN D3) over the routes that lead there: this
 * end's part of both directions. A process gives each of its sources an allotment: so many bytes it
 * may have sent that were not read yet. What a source has to say beyond that waits here, in its own
 * memory, while all it says to others goes on; and the raylets on the way never hold more of it for
 * one that does not read.
 *
 *   source  sends while less than the allotment is unread, so that one message may go beyond it
 *   reader  says CREDIT when half of what it allotted was read: the bytes, and the allotment from
 *           now on, which is its share of a sum for all sources
 *
 * Messages of class control are not counted and never wait. Pure; under the core lock.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CREDIT_LEAST                                                                               \
    (64u << 10)                  /* bytes: any allotment, and the one that nobody has to be told   \
                                  */
#define CREDIT_MOST (256u << 10) /* of one source */
#define CREDIT_SUM  (8u << 20) /* of all sources of a process, unless it is less than LEAST each */
#define CREDIT_COST 32         /* of a message, besides its body */

struct credit_message {
    struct credit_message *next;
    void *to; /* the caller's: by which route */
    size_t size;
    uint8_t type;
    uint8_t body[];
};

/* One for all routes to a process, so that they keep their order. */
struct credit {
    unsigned n_users; /* the caller's */
    uint64_t unread;  /* bytes sent that the other end has not said to have read */
    uint32_t allotment;
    uint32_t told; /* what the other end knows to be its allotment ... */
    uint64_t read; /* ... and bytes of it that were read since it was last told */
    struct credit_message *first, *last, *reserved; /* what waits, oldest first */
};

void credit_init(struct credit *c);
/* What waits is dropped. */
void credit_fini(struct credit *c);

/* --- the source --- */
/* What is to be said now waits, behind what does already. */
static inline bool credit_waits(const struct credit *c)
{
    return c->first != NULL || c->unread >= c->allotment;
}
/* A message with a body of size bytes was sent. */
static inline void credit_spend(struct credit *c, size_t size)
{
    c->unread += size + CREDIT_COST;
}
/* Room for the body of a message that waits; it replaces one that was not kept. NULL: no memory. */
void *credit_reserve(struct credit *c, void *to, uint8_t type, size_t size);
/* The reserved message waits, its body cut to size. */
void credit_keep(struct credit *c, size_t size);
/* What waits for this route is dropped. */
void credit_forget(struct credit *c, const void *to);
/* The other end has read so many bytes more, and allots this from now on. Any numbers: an allotment
 * that cannot be is taken for the nearest that can. */
void credit_on_given(struct credit *c, uint32_t bytes, uint32_t allotment);
/* The oldest message that waits and may be sent; NULL: none. */
const struct credit_message *credit_next(const struct credit *c);
/* It was sent, and is freed. */
void credit_sent_next(struct credit *c);

/* --- the reader --- */
/* A frame of the other end was read: so many bytes of a body, and whether it is the last of its
 * message. true: it is to be told, see credit_give. */
static inline bool credit_on_read(struct credit *c, size_t size, bool is_last)
{
    c->read += size + (is_last ? CREDIT_COST : 0);
    return c->read >= c->told / 2;
}
/* What to tell, by one of n_sources: the bytes read, which are told with that, and its allotment.
 */
struct credit_given {
    uint32_t bytes, allotment;
};
struct credit_given credit_give(struct credit *c, unsigned n_sources);

#endif /* LIB_CORE_CREDIT_H */
