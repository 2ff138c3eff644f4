/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_PUBSUB_H
#define GCS_PUBSUB_H
/*
 * Who wants to hear what, and what each has yet to hear. A subscriber names channels, or keys of a
 * channel, and polls: its poll is held until there is something, then answered with all of it, in
 * the order in which it was published, each message with a number that only grows. What was told
 * stays in the subscriber's queue until a later poll says that it came, so a lost answer loses
 * nothing. A queue that is full loses its oldest messages, and the answers say how many. Who has
 * not polled for too long is forgotten. Pure: memory only, the clock comes in. Loop thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/id.h"

#define PUBSUB_CHANNELS    16
#define PUBSUB_KEY_MAX     256
#define PUBSUB_MESSAGE_MAX (1u << 20)

struct pubsub;

struct pubsub_limits {
    size_t n_subscribers;
    size_t n_subscriptions; /* of all */
    size_t queue_bytes;     /* what one subscriber has yet to hear; one message always fits */
    size_t total_bytes;     /* what all have yet to hear */
    size_t reply_messages;  /* an answer has at most as many, and */
    size_t reply_bytes;     /* as many bytes, but one message always */
    uint64_t timeout_ms;    /* without a poll, then a subscriber is forgotten */
};

struct pubsub_message {
    unsigned channel;
    const void *key, *bytes;
    size_t key_size, size;
    uint64_t sequence;
};

struct pubsub_answer {
    const struct pubsub_message *messages;
    size_t n;
    uint64_t n_dropped; /* messages for this subscriber, since it came, that a bound took */
};

/* The end of a poll, exactly once; a NULL: pubsub_destroy. Borrowed for the call, which calls no
 * function of this file. */
typedef void (*pubsub_answer_f)(void *arg, void *poll, const struct pubsub_answer *a);

struct pubsub_poll {
    struct unique_id subscriber;
    const void *publisher; /* as an earlier answer named it; size 0: there was none */
    size_t publisher_size;
    int64_t heard; /* all messages up to this number came */
    void *poll;    /* for the answer */
};

struct pubsub_stats {
    size_t n_subscribers, n_subscriptions, n_polls;
    size_t total_bytes;
    uint64_t n_published; /* that somebody wanted */
    uint64_t n_dropped, n_forgotten;
};

/* publisher is another one each time: it tells subscribers that nothing is known of them. */
struct pubsub *pubsub_create(const struct pubsub_limits *limits,
                             const struct unique_id *publisher,
                             pubsub_answer_f answer,
                             void *arg);
void pubsub_destroy(struct pubsub *p); /* NULL is fine */

/* From the next message on: of the key, or of the whole channel if key_size is 0. Twice is fine.
 * ERR_FULL: too many, ERR_INVALID: the key is too long. */
int pubsub_subscribe(struct pubsub *p,
                     const struct unique_id *subscriber,
                     unsigned channel,
                     const void *key,
                     size_t key_size,
                     struct err *err);
/* What is queued may still come. Fine if there is no such subscription; a subscriber without any,
 * and without a poll, is forgotten. */
void pubsub_unsubscribe(struct pubsub *p,
                        const struct unique_id *subscriber,
                        unsigned channel,
                        const void *key,
                        size_t key_size);
/* Held until pubsub_flush has something for it. An earlier poll of the same subscriber is answered
 * now, with nothing. A poll that names another publisher acknowledges nothing and is not held.
 * -1, and never answered: ERR_NOT_FOUND, it was forgotten; ERR_INVALID, it says it has heard what
 * was never said; ERR_FULL, too many subscribers. */
int pubsub_poll(struct pubsub *p, const struct pubsub_poll *poll, struct err *err);
/* Who polled has hung up: the poll is answered, with nothing, if it is still held. */
void pubsub_hang_up(struct pubsub *p, const struct unique_id *subscriber, const void *poll);
/* Copies. ERR_INVALID: key or message are too long. */
int pubsub_publish(struct pubsub *p,
                   unsigned channel,
                   const void *key,
                   size_t key_size,
                   const void *bytes,
                   size_t size,
                   struct err *err);
/* Answer the polls for which there is something: once for all that was published. */
void pubsub_flush(struct pubsub *p);
/* The time, ever again; a call adds a tenth of timeout_ms at most, so that nobody is forgotten
 * because the caller slept. Polls held for timeout_ms are answered with nothing by the next flush.
 */
void pubsub_on_time(struct pubsub *p, uint64_t now_ms);

void pubsub_stats(const struct pubsub *p, struct pubsub_stats *out);
void pubsub_selfcheck(const struct pubsub *p);

#endif /* GCS_PUBSUB_H */
