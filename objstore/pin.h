/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_PIN_H
#define OBJSTORE_PIN_H
/*
 * The steps on words that processes and the raylet share without a lock: pins, rings, and who wakes
 * whom when an entry is freed. Both sides run these functions, in the order written here, and
 * tests/unit/pin_protocol_test.c runs the same text under every interleaving with store buffers:
 * it defines the PIN_ macros as steps of its machine before it includes this file.
 *
 * What they must uphold: memory is used again only when nobody reads it; whoever ends the last use
 * of an entry that is being freed rings, or the raylet sees that use gone by itself; a record is
 * seen whole, once and in order.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "objstore/layout.h"

/* Each full fence has its partner on the other side: its store is seen by them, or theirs by us. */
enum pin_fence {
    PIN_FENCE_PIN,    /* pin published | the word looked at */
    PIN_FENCE_UNPIN,  /* pin cleared | the word looked at for a waiter */
    PIN_FENCE_UNHOLD, /* UNHOLD posted | the same */
    PIN_FENCE_FREE,   /* raylet: words FREEING | pins and rings looked at */
};

#ifndef PIN_LOAD
#define PIN_LOAD(p)        atomic_load_explicit((p), memory_order_acquire)
#define PIN_STORE(p, v)    atomic_store_explicit((p), (v), memory_order_release)
#define PIN_FENCE(which)   pin_fence()
#define PIN_COPY(to, from) (*(to) = *(from))

static inline void pin_fence(void)
{
#ifdef __SANITIZE_THREAD__
    /* it knows no fences, but read-modify-writes, which are full fences on x86 too */
    static _Atomic int word;
    atomic_fetch_add(&word, 1);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}
#endif

static inline uint64_t pin_word(uint64_t place, enum store_state state)
{
    return (place & ~(uint64_t)UINT32_MAX) | state;
}

/* --- a process --- */

/* Is the raylet waiting for the uses of this place to end? Asked after one of them ended. */
static inline bool pin_is_awaited(const _Atomic uint64_t *word, uint64_t place)
{
    return PIN_LOAD(word) == pin_word(place, STORE_ENTRY_FREEING);
}

/* Clear a slot of ours. true: ring the doorbell. */
static inline bool pin_clear(_Atomic uint64_t *slot, const _Atomic uint64_t *word, uint64_t place)
{
    PIN_STORE(slot, 0);
    PIN_FENCE(PIN_FENCE_UNPIN);
    return pin_is_awaited(word, place);
}

/* Slots of ours below n may hold pins from now on: the raylet looks at no others. Never less than
 * before. */
static inline void pin_use_slots(struct store_ring *ring, uint32_t n)
{
    PIN_STORE(&ring->n_pins, n);
}

/* Publish a pin in a free slot of ours and see whether it was in time. The place is one that is or
 * was there: the word has had its generation. false: it was not in time, the slot is free again,
 * and *bell is set if the raylet may have seen it meanwhile and waits. */
static inline bool pin_set(_Atomic uint64_t *slot,
                           const _Atomic uint64_t *word,
                           uint64_t place,
                           bool *bell)
{
    *bell = false;
    PIN_STORE(slot, place);
    PIN_FENCE(PIN_FENCE_PIN);
    uint64_t now = PIN_LOAD(word);
    if (now == pin_word(place, STORE_ENTRY_SEALED) || now == pin_word(place, STORE_ENTRY_LENT))
        return true;
    PIN_STORE(slot, 0);
    *bell = now == pin_word(place, STORE_ENTRY_FREEING);
    return false;
}

/* Append a record to our ring; what we wrote before is seen by whoever reads it. false: full.
 * n_waiting (or NULL): records in the ring now. */
static inline bool ring_post(struct store_ring *ring,
                             const struct store_record *record,
                             uint64_t *n_waiting)
{
    uint64_t head = PIN_LOAD(&ring->head), n = head - PIN_LOAD(&ring->tail);

    if (n >= STORE_RING)
        return false;
    PIN_COPY(&ring->records[head % STORE_RING], record);
    PIN_STORE(&ring->head, head + 1);
    if (n_waiting != NULL)
        *n_waiting = n + 1;
    return true;
}

/* Move a pin to the raylet's hold table: the record is there before the slot is cleared. false: the
 * ring is full, still pinned. *bell: ring the doorbell. */
static inline bool pin_hold(_Atomic uint64_t *slot,
                            const _Atomic uint64_t *word,
                            struct store_ring *ring,
                            const struct store_record *record,
                            bool *bell)
{
    *bell = false;
    if (!ring_post(ring, record, NULL))
        return false;
    *bell = pin_clear(slot, word, record->place);
    return true;
}

/* End a hold. false: the ring is full, it still holds. *bell: ring the doorbell. */
static inline bool pin_unhold(const _Atomic uint64_t *word,
                              struct store_ring *ring,
                              const struct store_record *record,
                              bool *bell)
{
    *bell = false;
    if (!ring_post(ring, record, NULL))
        return false;
    PIN_FENCE(PIN_FENCE_UNHOLD);
    *bell = pin_is_awaited(word, record->place);
    return true;
}

/* --- the raylet: pin_begin_free for each entry of a batch, pin_end_batch once, then pin_is_set for
 * all slots of all processes, then ring_take for all rings until they are empty, then its hold
 * table. What is found in use is looked at again when a doorbell rings: slots first, then rings. */

static inline void pin_begin_free(_Atomic uint64_t *word, uint64_t place)
{
    PIN_STORE(word, pin_word(place, STORE_ENTRY_FREEING));
}

static inline void pin_end_batch(void)
{
    PIN_FENCE(PIN_FENCE_FREE);
}

/* How many slots of another process may hold pins; foreign input. */
static inline uint32_t pin_n_slots(struct store_ring *ring)
{
    uint32_t n = PIN_LOAD(&ring->n_pins);

    return n < STORE_PINS ? n : STORE_PINS;
}

/* 0 or the place in a slot of another process; foreign input. */
static inline uint64_t pin_look(_Atomic uint64_t *slot)
{
    return PIN_LOAD(slot);
}

/* The next record, at *tail, our own count (the process can write the shared one). The record is
 * foreign input, copied before it is checked. false: none (or a head that cannot be). */
static inline bool ring_take(struct store_ring *ring, uint64_t *tail, struct store_record *out)
{
    uint64_t n = PIN_LOAD(&ring->head) - *tail;

    if (n == 0 || n > STORE_RING)
        return false;
    PIN_COPY(out, &ring->records[*tail % STORE_RING]);
    *tail += 1;
    PIN_STORE(&ring->tail, *tail);
    return true;
}

#endif /* OBJSTORE_PIN_H */
