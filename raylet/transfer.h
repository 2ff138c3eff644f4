/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_TRANSFER_H
#define RAYLET_TRANSFER_H
/*
 * The data port (docs/design/several-machines.md): brings objects from the stores of other machines
 * into ours, and files by the hash of their content, and serves ours to them. Bytes go between
 * sockets and the arena by a thread of its own, which is there while there are connections; all
 * books are of the loop thread, where every function here is called and every callback is made.
 *
 * It is a process of our own store, in a slot that no process has: it is lent memory, seals what it
 * brought as the owner's, and holds what it sends. What store.c decides for that slot the caller
 * hands to transfer_on_store.
 *
 * No callback is made before the call that asked for it returns. Everything from a peer is foreign
 * input.
 */
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/auth_token.h"
#include "lib/base/err.h"
#include "lib/base/id.h"
#include "objstore/store.h"

struct loop;
struct transfer;

#define TRANSFER_FILE_MAX (4ull << 30) /* bytes of one file */

/* One stay of an object in the cluster, whatever the machine. */
struct transfer_key {
    uint64_t counter;
    uint32_t owner, index;
    uint16_t attempt;
};

enum transfer_priority {
    TRANSFER_GET,  /* somebody waits for the bytes */
    TRANSFER_WAIT, /* somebody waits for it to be here */
    TRANSFER_ARGUMENT,
};

/* xxh128 of a file's bytes. */
struct transfer_hash {
    uint8_t bytes[16];
};

struct transfer_config {
    struct loop *loop;
    struct store *store;
    struct store_actions *store_actions; /* the caller carries them out at each turn's end */
    uint32_t slot;                       /* of the store, below its n_slots: free for us */
    int arena_fd;                        /* borrowed; mapped when first needed */
    uint64_t capacity;                   /* of the arena */
    const struct auth_token *token;      /* copied */
    struct unique_id cluster;
    uint32_t node;           /* our number */
    const char *address;     /* to listen at, numeric; NULL: all */
    uint16_t port;           /* 0: any */
    bool is_closed;          /* listens nowhere: it dials, also to serve (send_call) */
    uint32_t hello_ms;       /* for a peer to prove the token; 0: 5000 */
    uint32_t give_up_ms;     /* without progress, of one pull or fetch; 0: 30000 */
    uint32_t idle_ms;        /* a connection without requests ends; 0: 30000 */
    uint32_t argument_tenth; /* of the arena that pulls for arguments take at once; 0: 7 */
    /* The owner has freed an object of which that node got a copy from us: hand this on to its
     * transfer_free, once, whenever it can be reached. */
    void (*send_free)(void *arg, uint32_t node, const struct transfer_key *key);
    /* That node is not to be dialled, but we want something of it: hand this on to its
     * transfer_call. Again while it does not come. */
    void (*send_call)(void *arg, uint32_t node);
    void *arg;
};

/* Listens. The store has its slot from here on. NULL with err. */
struct transfer *transfer_create(const struct transfer_config *config, struct err *err);
/* What was not known when it was created; before transfer_add_node. */
void transfer_set_self(struct transfer *t, const struct unique_id *cluster, uint32_t node);
/* Ends what is on its way: done is called with ERR_CANCELED before this returns. The store must
 * still be there; it has its slot no more. NULL is fine. */
void transfer_destroy(struct transfer *t);
uint16_t transfer_port(const struct transfer *t);

/* An action of our slot, or STORE_FREED. refusal: of STORE_REFUSED, the sentence a process would
 * get; else NULL. */
void transfer_on_store(struct transfer *t, const struct store_action *action, const char *refusal);

/* Where another node's data port is; again: from now on there. Port 0: it has none, and dials us
 * when it is called. -1 with err: the address is not a numeric one. */
int transfer_add_node(struct transfer *t,
                      uint32_t number,
                      const char *address,
                      uint16_t port,
                      struct err *err);
/* That node wants something of us, who have no port: it is dialled, and may ask. */
void transfer_call(struct transfer *t, uint32_t number);
/* It is dead: what is pulled from it goes on from another holder, or fails (ERR_DIED). */
void transfer_remove_node(struct transfer *t, uint32_t number);

/* Where it is here. */
struct transfer_object {
    uint64_t place, offset, size;
    uint32_t n_refs; /* wire_ref records behind the data, at the next multiple of 8 */
    uint8_t meta;
};
/* err NULL: it is here, sealed as key.owner's; a copy may be evicted some time after, until
 * somebody pins it. Else at is NULL: ERR_NOT_FOUND no holder has it (any more), ERR_DIED they are
 * gone, or nobody has told us of them for give_up_ms, ERR_TIMEOUT unreachable, ERR_FULL with the
 * store's own sentence, ERR_CANCELED. */
typedef void (*transfer_done_f)(void *arg, const struct err *err, const struct transfer_object *at);
/* Bring it here from that node. done once. All who ask for one object share a pull, each node they
 * name is a holder that may serve it. A node that we do not know (yet) is waited for. Returns a
 * ticket, never 0. */
uint64_t transfer_pull(struct transfer *t,
                       const struct transfer_key *key,
                       uint32_t node,
                       enum transfer_priority priority,
                       transfer_done_f done,
                       void *arg);
/* Of transfer_pull, _fetch_file or _hash_file: done will not be called. A ticket that was answered
 * is fine. */
void transfer_cancel(struct transfer *t, uint64_t ticket);

/* Could it be served from here? keep: as its primary copy from now on, which stays until its owner
 * frees it. */
bool transfer_find(struct transfer *t,
                   const struct transfer_key *key,
                   bool keep,
                   struct transfer_object *at);
/* Its owner freed it: gone here, its pull fails with ERR_NOT_FOUND, and those whom this node served
 * are told. An object of this store that its owner frees by its ring needs no call. */
void transfer_free(struct transfer *t, const struct transfer_key *key);
/* After store_owner_gone: its pulls fail (ERR_DIED), nobody is told. */
void transfer_owner_gone(struct transfer *t, uint32_t owner);

/* --- files --- */

/* hash is NULL with err, else err is. */
typedef void (*transfer_hashed_f)(void *arg,
                                  const struct err *err,
                                  const struct transfer_hash *hash);
/* Of the file's bytes from its beginning. The fd is borrowed for the call only. Returns a ticket.
 */
uint64_t transfer_hash_file(struct transfer *t, int fd, transfer_hashed_f done, void *arg);
/* From now on served to who asks; the fd is borrowed for the call only. Again: counted. -1 with
 * err. */
int transfer_offer_file(struct transfer *t,
                        const struct transfer_hash *hash,
                        int fd,
                        struct err *err);
/* As often as offered. */
void transfer_withdraw_file(struct transfer *t, const struct transfer_hash *hash);
/* fd: a sealed memfd, the callback's to close; -1 with err: as of transfer_done_f, ERR_PROTOCOL:
 * what came has another hash. */
typedef void (*transfer_fetched_f)(void *arg, const struct err *err, int fd);
/* The file with that hash from that node. Returns a ticket. */
uint64_t transfer_fetch_file(struct transfer *t,
                             uint32_t node,
                             const struct transfer_hash *hash,
                             transfer_fetched_f done,
                             void *arg);

/* What is on its way here and what it waits for. */
enum transfer_stage {
    TRANSFER_ASKS,   /* a holder was asked for it, or cannot be reached */
    TRANSFER_TURN,   /* that others before it are here: arguments may take a part of the store */
    TRANSFER_MEMORY, /* of the store */
    TRANSFER_MOVES,  /* its bytes */
    TRANSFER_N_STAGES,
};
struct transfer_wait {
    enum transfer_stage stage;
    bool is_file;
    uint32_t node, n;  /* they come from there; how many */
    uint64_t bytes;    /* of those whose size is known */
    uint64_t since_ms; /* nothing has happened since to one of them */
    char why[200];     /* why the node could not be reached last; "" */
};
/* Of all pulls and fetches, those that wait for the same together; at most max rows are written,
 * and returned how many. */
size_t transfer_list_waits(const struct transfer *t, struct transfer_wait *out, size_t max);

struct transfer_stats {
    uint32_t n_links, n_unproven, n_pulls, n_fetches;
    uint32_t n_parked;            /* ranges that others asked for and that have not come here yet */
    uint64_t bytes_in, bytes_out; /* of objects and files */
    uint64_t n_refused;           /* connections: no token, garbage, too many */
    uint64_t n_resumed; /* ranges asked for again, since a connection broke or a holder let go */
    uint64_t argument_bytes; /* of pulls for arguments that are admitted */
    uint64_t n_served;       /* objects of which others have copies from us */
};
void transfer_get_stats(const struct transfer *t, struct transfer_stats *out);

#endif /* RAYLET_TRANSFER_H */
