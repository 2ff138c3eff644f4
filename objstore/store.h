/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_STORE_H
#define OBJSTORE_STORE_H
/*
 * The raylet's side of the object store: who has which memory. It owns the arena's allocator, the
 * index, and per process what it was lent, holds and owns. Pure: events and the time come in,
 * actions are appended to a list that the caller carries out before the next event; shared memory
 * is given by the caller, never mapped here. On the loop thread.
 *
 *   region:  free -> lent -> carved into objects by SEALs; the rest RETURNed, or reclaimed when its
 *            process has been reaped
 *   entry:   FREE -> LENT -> SEALED -> FREEING -> FREE, generation + 1
 *
 * A process is named by its slot on the board, an owner by its process number, never used again.
 * Everything read from a process's share is checked: a record that does not fit what was lent to it
 * is counted and ignored; a ring whose head cannot be is counted once and never read again.
 *
 * A HOLD guards an entry only if it went by the ring: until it is there, the pin must stay. A FREE
 * may come before the SEAL (which may travel by frame); it is remembered.
 *
 * Each sealed entry has an owner who will FREE it. It may never hear of one: a result whose creator
 * died before it could tell. So when an attempt has failed, the owner posts ABORT for it; results
 * of that attempt that come late are freed too (the last STORE_ABORTS are remembered).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "objstore/layout.h"

#define STORE_REQUESTS_MAX 256  /* that wait, of one process; more are refused */
#define STORE_ABORTS       1024 /* remembered of each owner: so many at least, twice at most */
#define STORE_POLL_MS      1    /* while requests wait all rings are read so often */
#define STORE_SETTLE_MS    5    /* what was just lent is not recalled */
#define STORE_COPY_MS      500  /* a copy that was used so lately is not evicted */

struct store_config {
    uint64_t capacity;         /* bytes of the arena, a multiple of STORE_BLOCK, > 0 */
    uint32_t n_entries;        /* of the index, > 1; entry 0 is never used */
    struct index_entry *index; /* zeroed, writable */
    uint32_t n_slots;          /* processes: slots 0 .. n_slots - 1 */
    uint64_t wait_ms;          /* a request that cannot be served for so long is refused */
};

enum store_kind {
    STORE_LENT,    /* to slot, for ticket: region offset, size and places[n_places] */
    STORE_REFUSED, /* to slot, for ticket: too_large, or no memory within wait_ms */
    STORE_RECALL,  /* to slot: return what you were lent and do not use, others wait for it */
    STORE_FREED,   /* of nobody's slot: the watched object at places[0] was freed for good */
};
struct store_action {
    enum store_kind kind;
    uint32_t slot;
    uint64_t ticket, offset, size; /* bytes lent, or that were needed */
    bool too_large;                /* larger than the whole store */
    uint32_t n_places;
    uint64_t places[STORE_LENT_MAX];
};
/* Embedded, zeroed is empty; the caller sets n = 0 after carrying them out. */
struct store_actions {
    struct store_action *v;
    size_t n, room;
};

struct store;

/* NULL: no memory for the books. */
struct store *store_create(const struct store_config *config);
void store_destroy(struct store *s);

/* A process joins: number is its process number, share its control block's part (read as foreign
 * input). */
void store_add_process(struct store *s, uint32_t slot, uint32_t number, struct store_share *share);
/* It has been reaped (waitpid, not EOF) and cannot write any more: its ring is drained a last time,
 * its pins and holds drop, what it was lent and did not seal is free, what it owned is freed, its
 * requests are forgotten. The share may be unmapped after. Handle the records first that can still
 * be read from its link: an owner may have been told of a SEAL among them. */
void store_remove_process(struct store *s,
                          uint32_t slot,
                          uint64_t now_ms,
                          struct store_actions *out);
/* That process number will never FREE anything again (its process died elsewhere, or before it
 * joined). Objects it owns are freed, those sealed for it later too. */
void store_owner_gone(struct store *s, uint32_t number, uint64_t now_ms, struct store_actions *out);

/* At least `need` bytes in one extent, better `want` (>= need), and n_places (1 ..
 * STORE_LENT_MAX) entries; what is out of range is taken for the nearest that is not. Answered
 * exactly once (INV-18), at once if memory is there. Else it waits: all rings are drained, idle
 * regions recalled, and whoever fits is served with what it needs, oldest first; one that fits may
 * pass an older one that does not, which is passed by at most as many bytes as it asks for (PIT-25
 * without starving it). */
void store_lend(struct store *s,
                uint32_t slot,
                uint64_t ticket,
                uint64_t need,
                uint64_t want,
                uint32_t n_places,
                uint64_t now_ms,
                struct store_actions *out);
/* Read the process's ring; called before any frame of it is handled. */
void store_drain(struct store *s, uint32_t slot, uint64_t now_ms, struct store_actions *out);
/* One record that found the ring full and came by frame: behind what is in the ring. */
void store_on_record(struct store *s,
                     uint32_t slot,
                     const struct store_record *record,
                     uint64_t now_ms,
                     struct store_actions *out);
/* A reader has unpinned an entry that is FREEING: look again. */
void store_on_doorbell(struct store *s, uint64_t now_ms, struct store_actions *out);
/* Reads all rings if requests wait (memory that is free need not ring), goes on with frees that
 * were left over, and refuses what has waited too long. */
void store_on_time(struct store *s, uint64_t now_ms, struct store_actions *out);
/* When store_on_time has something to do; UINT64_MAX never. */
uint64_t store_next_deadline(const struct store *s);

/* --- objects of other machines ---
 *
 * What brings them here is a process of the store like any other, which seals them as their
 * owner's. Such a copy is evicted when memory is wanted and nobody pins or holds it, the least
 * recently used first: a later pin fails, and it is brought again. */

/* What names an object in the cluster. */
struct store_key {
    uint64_t counter;
    uint32_t owner, index;
    uint16_t attempt;
};
struct store_object {
    uint64_t place, offset, size;
    uint64_t room; /* bytes from offset to the end of its blocks */
    uint32_t n_refs;
    uint8_t meta;
};
/* The sealed object of that name, of equal ones the first that was sealed. All rings are drained
 * before it counts as absent: false. Of a copy this is a use. */
bool store_find(struct store *s,
                const struct store_key *key,
                struct store_object *object,
                uint64_t now_ms,
                struct store_actions *out);
/* The sealed object at place is a copy, it was just used. false: there is none any more. */
bool store_set_copy(struct store *s, uint64_t place, uint64_t now_ms);
/* It is no copy any more, if it was one: it stays until its owner frees it. false: there is none
 * any more. */
bool store_keep(struct store *s, uint64_t place);
/* When the sealed object at place is freed by its owner, or with it, say STORE_FREED once; nothing
 * if it is evicted. false: there is none any more. */
bool store_watch(struct store *s, uint64_t place);
/* Its owner, elsewhere, has freed it. false: there is none any more. */
bool store_free(struct store *s, uint64_t place, uint64_t now_ms, struct store_actions *out);
/* As ABORT of a ring, by an owner elsewhere. */
void store_abort(struct store *s,
                 uint32_t owner,
                 uint64_t counter,
                 uint16_t attempt,
                 uint64_t now_ms,
                 struct store_actions *out);

struct store_stats {
    uint64_t capacity;
    uint64_t used; /* of sealed objects, rounded up to blocks, those being freed too */
    uint64_t lent; /* of regions, what is not sealed yet */
    uint64_t
        buried; /* part of lent: of dead processes, until nobody uses what they left unsealed */
    uint64_t free, largest_free;
    uint64_t data_bytes; /* of sealed objects as their creators gave them */
    uint64_t peak;       /* of used + lent */
    uint64_t touched;    /* arena[0 .. touched) has been lent at least once */
    uint32_t n_sealed, n_lent, n_freeing, n_waiting;
    uint64_t n_sealed_ever, n_freed_ever, n_bad_records, n_refused;
    uint64_t n_copies; /* of n_sealed */
    uint64_t n_evicted_ever;
};
void store_get_stats(const struct store *s, struct store_stats *out);
/* Pins and holds of an entry, by all processes, and its blocks (none before it is sealed). */
struct store_use {
    uint32_t n_pins, n_holds;
    uint32_t n_blocks;
    uint32_t slot;     /* LENT: to this process */
    bool is_allocated; /* the arena says so of its blocks, or it has none */
    bool is_copy;      /* of what another node keeps */
};
/* The next entry after `entry` (0 begins) that is not free; 0: none is left. Pins are counted when
 * the walk begins. use may be NULL. */
uint32_t store_next(const struct store *s, uint32_t entry, struct store_use *use);
/* What a process has of the store: a pin in one of its slots, its holds of an entry, an extent that
 * is lent to it. */
enum store_holding_kind { STORE_HOLDING_PIN, STORE_HOLDING_HOLD, STORE_HOLDING_LENT };
struct store_holding {
    enum store_holding_kind kind;
    uint32_t n;            /* HOLD */
    uint64_t place;        /* PIN (foreign input), HOLD */
    uint64_t offset, size; /* LENT */
    bool is_allocated;     /* LENT: the arena says so */
};
/* The next one at or after *at (0 begins), which moves on. false: none is left. */
bool store_next_holding(const struct store *s,
                        uint32_t slot,
                        uint64_t *at,
                        struct store_holding *out);
/* Arena, index, lists, counts and holds agree; asserts. */
void store_selfcheck(const struct store *s);

#endif /* OBJSTORE_STORE_H */
