/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_INBOX_H
#define LIB_CORE_INBOX_H
/*
 * The worker's side of its lease (DESIGN D4): tasks pushed, which of them has started, and when the
 * lease ends. The worker is the arbiter: a task is claimed before its body runs, so exactly the
 * unclaimed ones can be given back. Pure, under the caller's lock.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INBOX_SLOTS    64
#define INBOX_FIRST_NS 5000000u /* how long a revoked lease waits for its first PUSH */

struct inbox_task {
    uint8_t
        *push; /* the PUSH body, owned by the inbox until the next claim of this slot's successor */
    uint32_t size, room;
    uint64_t lease;
    uint8_t slot, phase;
};

enum inbox_kind {
    INBOX_RETURNED, /* mask, asked */
    INBOX_BOUNCED,  /* slot of lease */
    INBOX_ENDED,    /* lease */
};

struct inbox_action {
    enum inbox_kind kind;
    uint64_t lease, mask;
    uint32_t asked; /* or the slot */
};

struct inbox_actions {
    struct inbox_action *v;
    size_t n, room;
};

struct inbox;

struct inbox *inbox_create(void);
void inbox_destroy(struct inbox *b);

/* The raylet's word: from now on this lease, or, while the old one has not ended, as soon as it has
 * (then false). Held pushes of leases in between are bounced by the next call that gives actions.
 */
bool inbox_lease_begin(struct inbox *b, uint64_t lease);
/* A PUSH body, copied. Older lease: BOUNCED. Newer than known: held until it begins. While blocked,
 * or after a revocation's deadline: RETURNED. false: no memory, or the slot is taken (a malformed
 * stream). */
bool inbox_push(struct inbox *b,
                uint64_t lease,
                uint8_t slot,
                uint8_t phase,
                const void *body,
                uint32_t size,
                struct inbox_actions *out);
/* The oldest unclaimed task of the lease whose slot is not in waiting, claimed; if all of them are,
 * the oldest; NULL: there is none. *started: the word to publish before its body runs. The task
 * stays good until inbox_finish. */
const struct inbox_task *inbox_claim(struct inbox *b, uint64_t waiting, uint64_t *started);
void inbox_finish(struct inbox *b, uint64_t now_ns, struct inbox_actions *out);
void inbox_take_back(struct inbox *b, uint64_t lease, uint32_t count, struct inbox_actions *out);
/* The body waits: everything unclaimed goes back, and what arrives until inbox_unblock. */
void inbox_block(struct inbox *b, struct inbox_actions *out);
void inbox_unblock(struct inbox *b);
/* End the lease when it is idle, or at deadline_ns after the body that runs. One that had no PUSH
 * yet is not idle: its first may be on the way, and is waited for until the deadline, but no longer
 * than INBOX_FIRST_NS. */
void inbox_revoke(struct inbox *b,
                  uint64_t lease,
                  uint64_t deadline_ns,
                  uint64_t now_ns,
                  struct inbox_actions *out);
/* The owner is gone: its unclaimed tasks are dropped. */
void inbox_owner_gone(struct inbox *b);
/* Ends a revoked lease whose time has come. */
void inbox_on_time(struct inbox *b, uint64_t now_ns, struct inbox_actions *out);

/* When inbox_on_time has something to do; UINT64_MAX never. */
uint64_t inbox_next_deadline(const struct inbox *b);

uint64_t inbox_lease(const struct inbox *b); /* 0: none */
bool inbox_is_empty(const struct inbox *b);  /* nothing to claim */
void inbox_selfcheck(const struct inbox *b);

#endif /* LIB_CORE_INBOX_H */
