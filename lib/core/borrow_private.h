/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_BORROW_PRIVATE_H
#define LIB_CORE_BORROW_PRIVATE_H
/* What borrow.c, which counts, and borrow_digest.c, which compares the counts, share. */
#include "lib/base/list.h"
#include "lib/core/borrow.h"

struct words {
    uint64_t *v;
    uint32_t n, room;
};

struct guardian {
    enum borrow_guardian kind;
    uint32_t process, slot, n_waits;
    uint64_t counter;
};

struct waiting {
    struct list node; /* other.waiting, by number */
    uint32_t sequence;
    struct guardian *guardian;
};

struct early {
    struct list node; /* other.early */
    uint32_t sequence, n;
    bool is_list;
    struct borrow_range list;
    uint64_t words[];
};

struct reply {
    struct list node; /* other.replies */
    uint64_t counter;
    uint32_t n, slots[];
};

/* To that process, beside ops and acknowledgements. */
enum say {
    SAY_DIGEST = 1,
    SAY_LIST = 2,
    SAY_COMPARED = 4,
    SAY_REPAIR = 8, /* to the log */
};

struct other {
    struct list node; /* borrow.others */
    uint32_t process;
    bool is_dead;
    uint64_t release_ns; /* dead: when its borrows end, and this with them */
    /* we borrow from it */
    struct words ops; /* not yet sent; they will be number sent + 1 */
    uint32_t sent, acked;
    struct list waiting;
    /* and compare with it now and then */
    uint64_t n_counted, sum; /* what it was told of and has not answered as gone */
    uint64_t digest_ns;      /* when the next digest is due */
    uint32_t watched;        /* is overdue if it is not acknowledged by then */
    uint32_t digest_number;  /* of the last one */
    uint8_t n_tries;         /* digests since one was found right */
    bool exchanged;          /* ops went out after the last digest */
    bool unanswered;         /* it */
    /* it borrows from us */
    uint32_t received, n_early_words;
    bool owes_ack;
    uint64_t n_borrows;
    struct words gone;
    struct list early, replies;
    uint64_t borrow_sum;
    bool gone_unseen, has_digest, differs;
    uint32_t gone_number;        /* what answers something as gone; it may not know yet */
    uint32_t compared_number;    /* to be answered, with differs */
    struct borrow_digest digest; /* came before what it was taken after */
    struct borrow_repair repair; /* by the list that is coming */
    uint8_t says;                /* enum say */
};

struct borrow {
    struct ref_table *refs;
    uint32_t process, first_number;
    struct list others;
    uint32_t *buckets; /* slots */
    uint32_t n_buckets, n_borrowed;
    uint64_t n_borrowers, n_replies, n_guardians;
    unsigned n_news;   /* others with something to send */
    struct words lost; /* local words of records learned after their owner's death */
    uint32_t *dead;    /* processes whose `other` is gone, ascending */
    size_t n_dead, dead_room;
};

/* A set of words is compared by how many they are and by the sum of these. */
static inline uint64_t borrow_mix(uint64_t word)
{
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

/* --- borrow.c --- */
struct borrow_action *borrow_add_action(struct borrow_actions *out, enum borrow_kind kind);
void borrow_add_word(struct words *w, uint64_t word);
/* Call it before o gets something to say. */
void borrow_will_say(struct borrow *b, const struct other *o);
struct other *borrow_find_other(struct borrow *b, uint32_t process);
/* Made if it is new; NULL: it is long dead. */
struct other *borrow_get_other(struct borrow *b, uint32_t process);
/* NULL: it does not borrow that. */
struct ref_borrower *borrow_find_borrower(const struct ref_extra *x, uint32_t process);
/* Once; false: no memory. */
bool borrow_add_borrower(struct borrow *b, struct record *r, struct other *o);
void borrow_remove_borrower(struct borrow *b, struct record *r, struct other *o);
/* Of what is handled now, that word names nothing. */
void borrow_is_gone(struct other *o, uint64_t word);
/* Ops, or a part of a list, in their order. false: malformed. */
bool borrow_take(struct borrow *b,
                 uint32_t from,
                 uint32_t sequence,
                 const struct borrow_range *list,
                 const uint64_t *words,
                 uint32_t n);

/* --- borrow_digest.c --- */
/* The owner is told of x; it ends, or is gone. o may be NULL, or dead. */
void borrow_count(struct other *o, const struct ref_extra *x);
void borrow_uncount(struct other *o, const struct ref_extra *x);
/* Ops went out: a digest will be due. */
void borrow_digest_arm(struct other *o, uint64_t now_ns);
/* All that o->says, behind its ops. */
void borrow_digest_flush(struct borrow *b,
                         struct other *o,
                         uint64_t now_ns,
                         struct borrow_actions *out);
void borrow_digest_on_time(struct borrow *b, uint64_t now_ns);
/* o->received has grown. */
void borrow_digest_on_received(struct borrow *b, struct other *o);
void borrow_apply_list(struct borrow *b,
                       struct other *o,
                       const struct borrow_range *list,
                       const uint64_t *words,
                       uint32_t n);
void borrow_digest_selfcheck(const struct borrow *b, const struct other *o);

#endif /* LIB_CORE_BORROW_PRIVATE_H */
