/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_CLIENT_H
#define OBJSTORE_CLIENT_H
/*
 * A process's side of the object store: maps the machine's memory once for its whole life, carves
 * objects out of the regions it was lent, pins what it reads, and tells the raylet by its ring. No
 * sockets: what must go by frame is told by return values. Not thread safe: the caller's lock
 * guards it, except store_client_touch, store_client_copy and reads and writes of the memory
 * itself, which need none.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "objstore/layout.h"

struct store_client;

/* Memory for one object, in a lent region; the caller's from alloc to seal or abort. */
struct store_extent {
    uint64_t place, offset, size; /* size as asked; the memory is rounded up to blocks */
};

/* Maps the index read-only, the arena read-only and once more writable (MADV_DONTFORK,
 * MADV_DONTDUMP). The fds stay the caller's and may be closed after. share: the store's part of
 * this process's control block, mapped by the caller for as long as the client lives. NULL: err
 * says. */
struct store_client *store_client_create(int index_fd,
                                         int arena_fd,
                                         struct store_share *share,
                                         struct err *err);
/* Unmaps. Nothing is returned to the raylet: the process is about to end. */
void store_client_destroy(struct store_client *c);
uint64_t store_client_capacity(const struct store_client *c); /* bytes of the arena */

/* --- creating --- */
/* size > 0 bytes from what was lent. false: ask the raylet first (store_client_request). */
bool store_client_alloc(struct store_client *c, uint64_t size, struct store_extent *out);
/* An extent that will not be sealed, and whose place nobody was told, is free again. */
void store_client_abort(struct store_client *c, const struct store_extent *e);
/* Only its first size > 0 bytes will be sealed; the memory behind is free again. */
void store_client_trim(struct store_client *c, struct store_extent *e, uint64_t size);
/* What to ask the raylet for, so that an alloc of size (0: as the last one) will succeed: need,
 * want and n_places of store_lend. want doubles when regions are used up within a second, halves
 * when they last for ten or are recalled, and is at most 1/64 of the store (or need). */
void store_client_request(struct store_client *c,
                          uint64_t size,
                          uint64_t now_ms,
                          uint64_t *need,
                          uint64_t *want,
                          uint32_t *n_places);
/* True once what was lent is half used up: ask ahead for the next, without waiting. Cleared by the
 * call. */
bool store_client_wants_more(struct store_client *c);
/* The raylet's answer. What is left of the region before stays in use beside the new one; a rest
 * older than that is RETURNed. -1 with ERR_PROTOCOL: it cannot be, nothing is changed. */
int store_client_on_lent(struct store_client *c,
                         uint64_t offset,
                         uint64_t size,
                         const uint64_t *places,
                         uint32_t n_places,
                         uint64_t now_ms,
                         struct err *err);
/* The raylet wants back what is lent and not used: RETURNs all of it. */
void store_client_on_recall(struct store_client *c);
/* RETURNs for which the ring had no room: send each as a frame. Take all of them after each abort,
 * trim, on_lent and on_recall. false: none (left). */
bool store_client_unsent(struct store_client *c, struct store_record *out);

/* Where to write an extent's bytes. */
void *store_client_write(const struct store_client *c, const struct store_extent *e);
/* Before the first write: one call for all its pages that this process has not written before; a
 * fault for each costs a third more, and both cost ten times the copy. Any thread, no lock. -1 with
 * ERR_NO_MEMORY: the machine has no memory left for it; a write would end the process. */
int store_client_touch(struct store_client *c, const struct store_extent *e, struct err *err);
/* Some of what is lent, not carved and not touched yet, at most `most` bytes (whole blocks): to be
 * touched ahead. false: there is nothing left. */
bool store_client_untouched(const struct store_client *c, uint64_t most, struct store_extent *out);
/* Copy size bytes into the store: by the routine and the number of threads that were fastest for
 * this size on this machine, as the plan says that the raylet has measured (objstore/copy.h); plain
 * memcpy until set. Any thread, no lock. */
void store_client_copy(void *to, const void *from, size_t size);
void store_client_set_copy_plan(uint64_t plan);

/* --- the ring --- */
/* Append a SEAL, FREE or RETURN; everything the process wrote before is visible to the raylet with
 * it. false: the ring is full, nothing was appended: send the record as a frame instead (the raylet
 * drains the ring first, so order is kept). *half (or NULL): the ring is half full: ring the
 * doorbell with the next write. */
bool store_client_post(struct store_client *c, const struct store_record *record, bool *half);

/* --- reading --- */
/* Pin a place: a pin slot 0 .. STORE_PINS - 1, or -1: it is not there any more, or -2: all slots
 * are taken (hold some). *bell: ring the doorbell, the raylet may wait for us; after -1 too. */
int store_client_pin(struct store_client *c, uint64_t place, bool *bell);
/* true: the entry is being freed and waits for us: ring the doorbell. */
bool store_client_unpin(struct store_client *c, int slot);
/* Move a pin to the raylet's hold table, so that the slot is free. false: the ring is full, still
 * pinned; a HOLD never goes by frame, which could be read after a look at the slots: ring the
 * doorbell (the raylet drains) and go on without. *bell as in pin. */
bool store_client_hold(struct store_client *c, int slot, bool *bell);
/* End such a hold. false: the ring is full: send the UNHOLD as a frame. *bell as in pin. */
bool store_client_unhold(struct store_client *c, uint64_t place, bool *bell);
/* The place a slot of ours pins. */
uint64_t store_client_pinned(const struct store_client *c, int slot);
/* size bytes at offset of the arena; NULL: that is outside (a foreign word was wrong). */
const void *store_client_read(const struct store_client *c, uint64_t offset, uint64_t size);
/* Does this place still name a readable object? Not a promise for the next moment. */
bool store_client_is_there(const struct store_client *c, uint64_t place);

/* What the index says of a place that we have pinned; good until the unpin. NULL: it is no whole
 * object. */
const struct index_entry *store_client_entry(const struct store_client *c, uint64_t place);

/* Was that object, with so many refs inside, sealed there for this owner? Until the raylet has read
 * the SEAL nobody can know, and it is said to be. */
bool store_client_is_owned(const struct store_client *c,
                           uint64_t place,
                           uint64_t offset,
                           uint64_t size,
                           uint32_t n_refs,
                           uint32_t owner);

#endif /* OBJSTORE_CLIENT_H */
