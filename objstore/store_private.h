/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBJSTORE_STORE_PRIVATE_H
#define OBJSTORE_STORE_PRIVATE_H
/*
 * The books of the store, for the files that keep them.
 *
 *   store.c         processes; what each event ends with
 *   store_record.c  what processes say in their rings, checked
 *   store_entry.c   entries of the index and their owners: lent, sealed, freed
 *   store_lend.c    blocks that are lent, and requests that wait for some
 *   store_copy.c    objects that are looked up, and copies that can be evicted
 *   store_key.c     which sealed entry has which key
 *   store_check.c   what others ask of the books; only reads them
 */
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "objstore/arena.h"
#include "objstore/store.h"
#include "objstore/word_map.h"

#define STORE_MAGIC 0x53544f52u

struct entry {
    struct list node;
    uint32_t first, n_blocks; /* of the object; 0 blocks: it was never sealed */
    uint32_t slot;            /* LENT: to this process */
    uint32_t next_free;       /* FREE; 0: the last */
    uint32_t n_holds;
    uint32_t n_pins; /* as seen by look number `looked` */
    uint64_t looked;
    struct grave *grave; /* FREEING: of its dead creator, which left it unsealed; else NULL */
    bool is_result;      /* SEALED: by another process than its owner, */
    struct list same;    /* then on a ring with the others of that owner, counter and attempt */
    uint32_t next_key;   /* SEALED: the next entry whose key has this hash; 0: none */
    bool is_watched;     /* SEALED */
    bool is_copy;        /* SEALED: then on store.copies, */
    struct list copy;
    uint64_t used_ms; /* sorted by this */
};

struct extent {
    uint32_t first, n;
};

/* What a dead process was lent. */
struct grave {
    struct list node;
    uint32_t n_entries; /* its own that were LENT and are FREEING; the last one frees it */
    struct extent *lent;
    size_t n_lent;
};

struct process {
    struct store_share *share; /* borrowed; NULL: no process has this slot */
    uint64_t tail;             /* ours: the shared one can be written by the process */
    uint32_t number, live_at;
    uint32_t n_requests;
    bool is_deaf;        /* its ring's head was impossible */
    bool is_recallable;  /* was lent something since it was last recalled, */
    uint64_t lent_ms;    /* the last time then */
    struct extent *lent; /* sorted, neighbours joined */
    size_t n_lent, lent_room;
    struct list entries;   /* LENT to it */
    struct word_map holds; /* entry -> how often */
};

/* The last STORE_ABORTS words that were added at least, twice as many at most. */
struct recent {
    struct word_map latest, before; /* word -> 1 */
};

/* As long as there is anything to know. */
struct owner {
    struct list sealed;
    uint32_t number;
    struct word_map results; /* attempt_key() -> an entry on that ring */
    struct recent aborted;   /* attempt_key() */
    struct recent early;     /* places it has sent FREE for before the SEAL came */
};

struct request {
    struct list node;
    uint64_t ticket, deadline_ms;
    uint32_t slot, need, n_places; /* need in blocks */
    uint64_t passed;               /* blocks given to younger ones */
};

struct store {
    unsigned magic;
    struct store_config config;
    struct arena *arena;
    struct entry *entries;
    uint32_t free_entry, n_fresh; /* last freed; entries from n_fresh on were never used */
    uint32_t n_free_entries;      /* that can be lent */
    struct process *processes;
    uint32_t *live, n_live; /* slots */
    struct word_map owners; /* number + 1 -> struct owner */
    struct word_map gone;   /* number / 64 + 1 -> a bit for each number whose process is gone */
    struct list batch, used, queue, graves;
    struct list copies;   /* the least recently used first */
    struct word_map keys; /* hash of a sealed entry's key -> the first such entry */
    bool has_keys;        /* since the first look-up: before, nobody pays for them */
    uint64_t *freed;      /* places, to be told of at the event's end */
    size_t n_freed, freed_room;
    uint64_t n_looks;
    bool wants_drain; /* a SEAL that matters is in some ring */
    bool has_more;    /* to give, or to ask, since pump() looked */
    uint64_t now_ms, drained_ms;
    uint64_t used_blocks, lent_blocks, touched_blocks, peak_blocks;
    uint64_t data_bytes;
    uint32_t n_sealed, n_lent, n_freeing, n_waiting;
    uint64_t n_sealed_ever, n_freed_ever, n_bad, n_refused;
    uint32_t n_copies;
    uint64_t n_evicted_ever;
};

static inline uint32_t blocks(uint64_t size)
{
    return (uint32_t)((size + STORE_BLOCK - 1) / STORE_BLOCK);
}

static inline uint64_t word_of(const struct store *s, uint32_t entry)
{
    return atomic_load_explicit(&s->config.index[entry].word, memory_order_relaxed);
}

static inline enum store_state state_of(const struct store *s, uint32_t entry)
{
    return (enum store_state)(uint32_t)word_of(s, entry);
}

static inline uint32_t generation_of(const struct store *s, uint32_t entry)
{
    return (uint32_t)(word_of(s, entry) >> 32);
}

static inline uint32_t number_of(const struct store *s, const struct entry *e)
{
    return (uint32_t)(e - s->entries);
}

/* The entry a foreign place names, or 0: it names none that is there. */
static inline uint32_t entry_at(const struct store *s, uint64_t place)
{
    uint32_t entry = store_place_entry(place);

    if (entry == 0 || entry >= s->config.n_entries)
        return 0;
    if (store_place_generation(place) != generation_of(s, entry)
        || state_of(s, entry) == STORE_ENTRY_FREE)
        return 0;
    return entry;
}

static inline size_t recent_n(const struct recent *r)
{
    return r->latest.n + r->before.n;
}

static inline bool recent_has(const struct recent *r, uint64_t word)
{
    return word_map_get(&r->latest, word) != 0 || word_map_get(&r->before, word) != 0;
}

static inline bool is_gone(const struct store *s, uint32_t number)
{
    return (word_map_get(&s->gone, number / 64 + 1) >> number % 64 & 1) != 0;
}

/* 0: no owner counts as far. */
static inline uint64_t attempt_key(uint64_t counter, uint16_t attempt)
{
    return counter >> 47 != 0 ? 0 : (counter << 16 | attempt) + 1;
}

static inline struct process *process_of(struct store *s, uint32_t slot)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    ASSERT(slot < s->config.n_slots && s->processes[slot].share != NULL);
    return &s->processes[slot];
}

/* --- store.c --- */
void store_act(struct store_actions *out, const struct store_action *action);
/* Counts the pins of each entry, in n_pins of those that have any; look > 0 tells them from what
 * was seen before. */
void store_look_at_pins(const struct store *s, uint64_t look);
/* What each event ends with: frees, and requests that they serve. */
void store_finish(struct store *s, struct store_actions *out);

/* --- store_record.c --- */
/* One of the process in that slot; a bad one is counted. */
void store_read_record(struct store *s, uint32_t slot, const struct store_record *r);
/* What is in the ring now, not what is added meanwhile. */
void store_read_ring(struct store *s, uint32_t slot);
void store_read_rings(struct store *s);

/* --- store_entry.c --- */
/* The place of a free entry, which there is. */
uint64_t store_entry_lend(struct store *s, uint32_t slot);
/* A LENT one, as its process says, in blocks that were carved out of what it was lent. */
void store_entry_seal(struct store *s,
                      uint32_t entry,
                      const struct store_record *r,
                      uint32_t first,
                      uint32_t n);
/* A LENT one that its process does not use. */
void store_entry_give_up(struct store *s, uint32_t entry);
void store_entry_drop_holds(struct store *s, uint32_t entry, uint32_t n);
/* A SEALED one: into the batch. Its owner may be gone after. */
void store_entry_free(struct store *s, uint32_t entry);
/* One that is LENT, as soon as it is sealed. */
void store_entry_free_early(struct store *s, uint32_t number, uint64_t place);
/* All of an owner, who is gone. */
void store_entry_free_all(struct store *s, uint32_t number);
/* false: that counter is none. */
bool store_entry_abort(struct store *s, uint32_t owner, uint64_t counter, uint16_t attempt);
/* Takes over what was lent to p, which is dead. */
void store_entry_bury(struct store *s, struct process *p);
/* One of the batch that nobody uses. */
void store_entry_end_free(struct store *s, uint32_t entry);
/* Those that somebody used are in the batch again. */
void store_entry_look_at_used(struct store *s);
void store_entry_fini(struct store *s);

/* --- store_lend.c --- */
/* Take [first, first + n) out of what is lent to p. false: it is not in one extent of p's. */
bool store_carve(struct process *p, uint32_t first, uint32_t n);
/* Blocks that were lent are free. */
void store_take_back(struct store *s, uint32_t first, uint32_t n);
void store_drop_request(struct store *s, struct request *q);
/* Serve who fits, the oldest first. */
void store_pump(struct store *s, struct store_actions *out);
/* Those that have waited too long. */
void store_refuse_late(struct store *s, struct store_actions *out);
/* Ask for what is lent and not used, while requests wait. */
void store_recall(struct store *s, struct store_actions *out);

/* --- store_copy.c --- */
/* Copies begin to be freed, as many blocks as the oldest request needs. false: none can. */
bool store_evict(struct store *s);
/* It is not evicted any more, if it is one. */
void store_end_copy(struct store *s, uint32_t entry);

/* --- store_key.c --- */
void store_key_add(struct store *s, uint32_t entry);
void store_key_remove(struct store *s, uint32_t entry);
/* 0: none. The first look takes in all that is sealed. */
uint32_t store_key_find(struct store *s, const struct store_key *key);

#endif /* OBJSTORE_STORE_PRIVATE_H */
