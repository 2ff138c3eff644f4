/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_BORROW_H
#define LIB_CORE_BORROW_H
/*
 * Who borrows what this process owns, and whose refs this process borrows (DESIGN §7). Pure: an
 * event and the time come in, actions are appended to a list that the caller carries out in order
 * before the next event. Under the caller's lock.
 *
 * A borrowed record tells its owner ADD when it must outlive what brought it, and DROP when it
 * ends. What brought it, its *guardian*, is kept until the owner has acknowledged the ADD, so the
 * object is in somebody's count at any moment (INV-28):
 *
 *   brought by                        kept meanwhile                      by
 *   an argument of a running task     the caller's hold on the argument   DONE after the ack
 *   a result (DONE)                   the executor's hold on the reply    SEEN after the ack
 *   a value that was got              the record of that value            a hold of ours
 *
 * ADDs and DROPs to one owner are numbered; the owner handles them in that order whatever carrier
 * brings them, and acknowledges by number. Borrows of a process that died, and what is held for it,
 * are released five seconds later: what it handed on may still be travelling. Adding or dropping
 * twice does nothing (INV-30).
 *
 * Two seconds after it has told an owner something, a borrower sends it a *digest* of all that it
 * borrows there: how many and a sum, as after a certain number. The owner compares at that number;
 * if the two differ, or if that number cannot be reached because something before it never came,
 * the borrower sends a list instead. The list has numbers of its own, stands for all before it, and
 * is right by definition. So what a lost frame or a bug has spoiled is repaired, and a pair that
 * has nothing new to say is silent.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/core/ref_table.h"

#define BORROW_GRACE_NS  5000000000u
#define BORROW_DIGEST_NS 2000000000u /* doubled for each digest that does not agree */
#define BORROW_TRIES_MAX 6           /* such digests in a row, if nothing else is said */
#define BORROW_DROP      0x80000000u /* in a word's slot: DROP, else ADD */
#define BORROW_WORDS_MAX 8000u       /* in one action: they fit a frame */

enum borrow_kind {
    BORROW_SEND_OPS,    /* to process: words[n], numbered sequence */
    BORROW_SEND_ACK,    /* to process: all up to sequence is done; words[n] are gone */
    BORROW_SEND_SEEN,   /* to process: reply `counter` need not be held any more */
    BORROW_TASK_FREE,   /* the borrows of task `counter` of process are registered: send DONE */
    BORROW_LOST,        /* record at slot will get no value: code (CORE_EOWNER, CORE_ELOST). counter
                         * is its word: if it has another, an action before this one ended it */
    BORROW_SEND_DIGEST, /* to process: u.digest */
    BORROW_SEND_COMPARED, /* to process: its digest of that sequence agrees, or not (code 1) */
    BORROW_SEND_LIST,     /* to process: words[n] and no others of u.range, numbered sequence */
    BORROW_REPAIRED,      /* what was counted for process, by its list: u.repair. Log it */
};
/* What a borrower has of an owner's after number sequence, and the last number that was
 * acknowledged to it. is_overdue: it has waited long for an acknowledgement. */
struct borrow_digest {
    uint32_t sequence, acked;
    uint64_t n, sum;
    bool is_overdue;
};
/* Keys, ends included; the key of a word is its slot << 32 | generation. is_first: with the parts
 * that follow it says all that was said by numbers before. */
struct borrow_range {
    uint64_t low, high;
    bool is_first;
};
struct borrow_repair {
    uint64_t n_added, n_dropped; /* borrowers of an object */
    uint32_t n_missed;           /* frames that never came */
};
struct borrow_action {
    enum borrow_kind kind;
    uint32_t process, sequence, slot;
    int code;
    uint64_t counter;
    uint64_t *words; /* from malloc: the caller frees it, or hands it on */
    uint32_t n;
    union {
        struct borrow_digest digest;
        struct borrow_range range;
        struct borrow_repair repair;
    } u;
};
/* Embedded, zeroed is empty; the caller sets n = 0 after carrying them out. */
struct borrow_actions {
    struct borrow_action *v;
    size_t n, room;
};

enum borrow_guardian {
    BORROW_GUARD_TASK,  /* the task that runs here */
    BORROW_GUARD_REPLY, /* reply `counter` of process */
    BORROW_GUARD_VALUE, /* the record at slot; held until then */
};

struct borrow;

/* process: our own number. */
struct borrow *borrow_create(struct ref_table *refs, uint32_t process);
void borrow_destroy(struct borrow *b);

/* --- refs that come in --- */
/* The record of that ref, made if it is new here, with one more hold, the caller's. NULL: it is our
 * own and does not live any more, or no ref at all, or memory is out. If its owner is dead the next
 * borrow_flush says that it is LOST. */
struct record *borrow_learn(struct borrow *b, uint32_t owner, uint64_t word);
/* The record of that borrowed ref; NULL: there is none (any more). */
struct record *borrow_find(const struct borrow *b, uint32_t owner, uint64_t word);
bool borrow_is_dead(struct borrow *b, uint32_t process);
/* These records (our own are skipped) must outlive what brought them: register those that are not.
 * The guardian is released, by an action or by dropping its hold, once all are acknowledged; at
 * once if none needs it. process and counter name a reply or a TASK; of a TASK process is its
 * caller, to which DONE will be sent in the turn of TASK_FREE, behind borrow_flush and on its
 * carrier; slot is the record of a VALUE. */
void borrow_guard(struct borrow *b,
                  enum borrow_guardian kind,
                  uint32_t process,
                  uint64_t counter,
                  uint32_t slot,
                  const uint32_t *slots,
                  uint32_t n,
                  struct borrow_actions *out);
/* A borrowed record ends: from ref_table_on_end. */
void borrow_end(struct borrow *b, struct record *r);
/* Send what has gathered; call it at the end of a turn and before DONE. */
void borrow_flush(struct borrow *b, uint64_t now_ns, struct borrow_actions *out);
/* Does borrow_flush have anything to send? */
bool borrow_has_news(const struct borrow *b);

/* --- as owner, or as giver --- */
/* These records go out in a reply to process: holds (one each, taken over) are kept until it has
 * SEEN it, or is dead for as long as its borrows live. So too the arguments of a task that failed
 * because its executor died: hand them over here, with a counter that it will not see. */
void borrow_hold_reply(struct borrow *b,
                       uint32_t process,
                       uint64_t counter,
                       const uint32_t *slots,
                       uint32_t n);

/* --- frames --- */
/* Foreign input: words that name nothing are answered as gone; false: malformed (a sequence far
 * ahead), the sender is broken. */
bool borrow_on_ops(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *words,
                   uint32_t n);
void borrow_on_ack(struct borrow *b,
                   uint32_t from,
                   uint32_t sequence,
                   const uint64_t *gone,
                   uint32_t n,
                   struct borrow_actions *out);
void borrow_on_seen(struct borrow *b, uint32_t from, uint64_t counter);
void borrow_on_digest(struct borrow *b, uint32_t from, const struct borrow_digest *digest);
void borrow_on_compared(struct borrow *b,
                        uint32_t from,
                        uint32_t sequence,
                        bool differs,
                        struct borrow_actions *out);
/* false: malformed, as of ops. */
bool borrow_on_list(struct borrow *b,
                    uint32_t from,
                    uint32_t sequence,
                    const struct borrow_range *range,
                    const uint64_t *words,
                    uint32_t n);
/* Death is final: nothing of it comes after this. Ours that it owned are LOST. */
void borrow_on_process_dead(struct borrow *b,
                            uint32_t process,
                            uint64_t now_ns,
                            struct borrow_actions *out);
/* Releases borrows of the dead whose time has come; lets borrow_flush send digests that are due. */
void borrow_on_time(struct borrow *b, uint64_t now_ns);
/* UINT64_MAX: never. */
uint64_t borrow_next_deadline(const struct borrow *b);

/* --- queries --- */
/* Is it dead, and are its borrows still kept? */
bool borrow_is_kept_for_dead(const struct borrow *b, uint32_t process);
/* What is held for replies not yet SEEN, and for the dead. The slots are good for the call. */
typedef void (*borrow_reply_f)(void *arg, uint32_t process, const uint32_t *slots, uint32_t n);
void borrow_for_each_reply(const struct borrow *b, borrow_reply_f f, void *arg);

struct borrow_stats {
    uint64_t n_borrowed;  /* records of others' objects here */
    uint64_t n_borrowers; /* (object, process) pairs of ours */
    uint64_t n_replies;   /* not yet SEEN */
    uint64_t n_waiting;   /* guardians */
};
void borrow_get_stats(const struct borrow *b, struct borrow_stats *out);
void borrow_selfcheck(const struct borrow *b);
/* Before anything else: numbers begin after this one, in both directions. */
void borrow_test_start(struct borrow *b, uint32_t number);

#endif /* LIB_CORE_BORROW_H */
