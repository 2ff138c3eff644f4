/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_LAYOUT_H
#define OBJSTORE_LAYOUT_H
/*
 * What the processes of a machine share of its object store (DESIGN D6): four kinds of memfd, made
 * by the raylet.
 *
 *   index          an array of entries, one cache line each, written by the raylet alone (sealed
 *                  against growing, shrinking and other writable mappings)
 *   arena          the objects' bytes, in blocks of 4 KiB
 *   board          one line per process (lib/net/control_block.h)
 *   control block  per process: its pins and its ring, shared with the raylet alone; what the
 *                  raylet reads there is foreign input
 *
 * A *place* is the word generation << 32 | entry and names one stay of one object on this machine;
 * it is never used again, so a stale one is found out by one load. Entries are lent together with
 * memory: a creator knows the place of its object before anybody else has heard of it, and whoever
 * it tells may pin it at once.
 *
 * Pin (any process):            Free (raylet):
 *   pins[i] = place               entry->word: SEALED -> FREEING (same generation)
 *   full fence                    full fence
 *   entry->word is of this        scan all pins, then drain all rings (a pin moves to the raylet's
 *   generation and LENT or          own hold table by a HOLD record before its slot is cleared)
 *   SEALED: pinned; else          found: wait for a doorbell; none: the memory is free, the
 *   pins[i] = 0                     generation goes up
 * Unpin: pins[i] = 0; full fence; if the entry is FREEING: doorbell.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_BLOCK    4096u /* the arena's unit: every extent starts at and has a multiple of it */
#define STORE_PINS     256
#define STORE_RING     256 /* records; a power of two */
#define STORE_LENT_MAX 64  /* entries lent with one region */

enum store_state {
    STORE_ENTRY_FREE,
    STORE_ENTRY_LENT, /* to a creator, with memory; its bytes may be being written */
    STORE_ENTRY_SEALED,
    STORE_ENTRY_FREEING, /* nobody can pin it any more; waits for the pins there are */
};

struct index_entry {
    _Atomic uint64_t word; /* generation << 32 | enum store_state */
    uint64_t offset, size; /* of the data in the arena; good while SEALED */
    uint32_t owner;        /* process number */
    uint32_t index;        /* ObjectID = (owner's task counter, index) */
    uint64_t counter;
    uint32_t n_refs; /* wire_ref records behind the data, at the next multiple of 8 */
    uint16_t attempt;
    uint8_t meta;
    uint8_t spare[17];
};
_Static_assert(sizeof(struct index_entry) == 64, "one cache line");

static inline uint64_t store_place(uint32_t generation, uint32_t entry)
{
    return (uint64_t)generation << 32 | entry;
}
static inline uint32_t store_place_entry(uint64_t place)
{
    return (uint32_t)place;
}
static inline uint32_t store_place_generation(uint64_t place)
{
    return (uint32_t)(place >> 32);
}

/* What a process tells the raylet, in this order, without a wake. The raylet drains a process's
 * ring before it handles any frame read from it. */
enum store_record_kind {
    STORE_SEAL = 1, /* place, offset, size and what names the object: it is in the lent region */
    STORE_FREE,     /* place: its owner needs it no more */
    STORE_HOLD,     /* place: pinned here; the slot will be cleared */
    STORE_UNHOLD,   /* place */
    STORE_RETURN,   /* offset, size: part of a lent region that stays unused; or place: an entry */
    STORE_ABORT,    /* owner (the poster), counter, attempt: of what others sealed or will seal for
                       this, it will never be told */
    STORE_KEEP,     /* place: a copy of what the poster owns; it is the one that matters now */
};
struct store_record {
    uint8_t kind, meta;
    uint16_t attempt;
    uint32_t owner;
    uint64_t place, offset, size, counter;
    uint32_t index, n_refs;
    uint64_t
        extra; /* of SEAL: bytes behind the data that are the object's too (its refs); 0: none */
    uint8_t spare[8];
};
_Static_assert(sizeof(struct store_record) == 64, "one cache line");

struct store_ring {
    _Atomic uint64_t head;   /* records ever written: by the process */
    _Atomic uint32_t n_pins; /* pin slots it has ever used are below; written before such a pin */
    uint8_t spare0[52];
    _Atomic uint64_t tail; /* records ever read: by the raylet */
    uint8_t spare1[56];
    struct store_record records[STORE_RING];
};

/* The store's part of a control block: behind its first 64 bytes (lib/net/control_block.h). */
#define STORE_SHARE_OFFSET 64
struct store_share {
    _Atomic uint64_t pins[STORE_PINS]; /* places that are being read; 0: none */
    struct store_ring ring;
};
_Static_assert(offsetof(struct store_share, ring) == 2048, "shared layout");
_Static_assert(sizeof(struct store_share) == 2048 + 128 + 64 * STORE_RING, "shared layout");
#define CONTROL_SIZE (STORE_SHARE_OFFSET + sizeof(struct store_share)) /* of a control block */

#endif /* OBJSTORE_LAYOUT_H */
