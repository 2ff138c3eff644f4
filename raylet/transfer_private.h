/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_TRANSFER_PRIVATE_H
#define RAYLET_TRANSFER_PRIVATE_H
/*
 * What the files of the data port share. All on the loop thread.
 *
 *   transfer.c         start, end, time; completions and the thread's events
 *   transfer_conn.c    listens, dials, lets prove the token; nodes
 *   transfer_pull.c    what is brought here: who asks for it, what is next, its end
 *   transfer_memory.c  where its bytes go: its turn, memory for them, the seal
 *   transfer_read.c    which of its bytes are missing, and who is asked for them
 *   transfer_holder.c  whom it is brought from
 *   transfer_serve.c   what others read here, and who has copies of it
 *   transfer_file.c    files by hash: offered, hashed
 *   transfer_mover.c   the thread
 */
#include <netinet/in.h>
#include <stdbool.h>

#include "lib/base/list.h"
#include "objstore/word_map.h"
#include "raylet/transfer.h"
#include "raylet/transfer_mover.h"

#define TRANSFER_REMOVED   4096       /* dead nodes that are remembered */
#define TRANSFER_CHUNK     (4u << 20) /* of one READ */
#define TRANSFER_READS     4          /* at once, of one connection */
#define TRANSFER_UNPROVEN  64         /* connections */
#define TRANSFER_CONNS     4096
#define TRANSFER_BACKOFF   50 /* ms, the first one; doubled up to */
#define TRANSFER_BACKOFFS  2000
#define TRANSFER_CALL_MS   2000 /* until one that was called and has not come is called again */
#define TRANSFER_AGAIN_MS  50   /* until a holder that did not have it is asked once more */
#define TRANSFER_TRIES     3    /* of asking one holder */
#define TRANSFER_PARKED_MS 2000
#define TRANSFER_CHILDREN  2    /* nodes that read a large object here before others are sent on */
#define TRANSFER_REFER_MS  200  /* to reach a node that a holder has sent us to */
#define TRANSFER_GRACE_MS  2000 /* without connections until the thread ends */

struct loop_watch;
struct loop_timer;

enum conn_state { CONN_CONNECTING, CONN_HELLO, CONN_PROVEN };

/* A connection; proven, its fd is the mover's. Owned by transfer.conns. */
struct conn {
    unsigned magic;
    struct transfer *of;
    struct list node;
    uint64_t id; /* the mover's name for it */
    enum conn_state state;
    bool is_dialer; /* we dialled */
    bool is_called; /* who listens asks */
    bool cut;
    uint32_t number; /* of the other node */
    int fd;
    struct loop_watch *watch;
    uint64_t due_ms, used_ms;
    uint32_t n_reads, n_open; /* of READs; of all that is handed to the mover or not answered */
    uint8_t buf[sizeof(struct transfer_frame) + AUTH_TOKEN_MAX];
    size_t n_buf, n_need; /* read, or written while CONNECTING */
};
#define TRANSFER_CONN_MAGIC 0x54434f4eu

/* It is ours to ask: READs and ASKs go out, else they come in. */
static inline bool conn_asks(const struct conn *c)
{
    return c->is_dialer != c->is_called;
}

/* Another node. Owned by transfer.nodes; kept while there are holders that name it. */
struct peer {
    struct list node;
    uint32_t number;
    bool is_known; /* where it is */
    bool is_away;  /* nobody can dial it: it is called */
    struct sockaddr_storage address;
    socklen_t address_size;
    char name[64];
    struct conn *conn; /* that asks, dialled by us unless it is away; or NULL */
    uint32_t backoff_ms;
    uint64_t dial_ms;                          /* not before */
    char why[200];                             /* why it could not be reached; "" */
    struct list holders;                       /* that name it */
    struct list hungry[TRANSFER_ARGUMENT + 1]; /* holders with missing chunks */
};

enum holder_state { HOLDER_NEW, HOLDER_ASKED, HOLDER_HAS, HOLDER_GONE };

/* A node that may have what a pull wants. Owned by pull.holders. */
struct holder {
    struct list node, of_peer, hungry;
    struct pull *pull;
    struct peer *peer;
    enum holder_state state;
    bool is_better; /* another holder has sent us to it */
    int n_asked;
    uint64_t ask_ms; /* not before */
    struct request *ask;
    struct err err; /* why GONE */
};

enum pull_state {
    PULL_ASKING,   /* how large it is */
    PULL_ADMIT,    /* waits for its turn */
    PULL_LENDING,  /* waits for memory */
    PULL_MOVING,   /* bytes come */
    PULL_CHECKING, /* a file's bytes are being hashed */
    PULL_ENDING,   /* has failed, nobody asks for it any more; its memory is still in use */
};

/* Who asked: of a pull, or answered and waiting for its callback, or of a hash. */
struct asker {
    struct list node;
    uint64_t ticket;
    struct pull *pull; /* NULL: answered */
    enum transfer_priority priority;
    transfer_done_f done;
    transfer_fetched_f fetched;
    transfer_hashed_f hashed;
    void *arg;
    struct err err;
    struct transfer_object at;
    int fd;
    struct transfer_hash hash;
};

struct chunk {
    uint32_t got; /* bytes from its beginning */
    bool is_asked;
};

/* A READ of another node for what has not come yet. */
struct parked {
    struct list node;
    uint64_t conn, due_ms;
    struct transfer_frame frame;
};

/* Something on its way here. Owned by transfer.pulls. */
struct pull {
    unsigned magic;
    struct transfer *of;
    struct list node;  /* the oldest first */
    struct list wait;  /* ADMIT: transfer.admit */
    struct pull *next; /* of the same hash */
    struct transfer_what what;
    enum pull_state state;
    enum transfer_priority priority;
    bool is_admitted, was_cut;
    uint64_t ticket; /* of store_lend, or the hash's request; 0: none is open */
    struct list askers, holders;
    uint64_t length, size;
    uint32_t n_refs;
    uint8_t meta;
    uint8_t *bytes; /* from MOVING on */
    uint64_t place, offset;
    int fd; /* a file's */
    struct chunk *chunks;
    uint32_t n_chunks, n_whole, first_missing;
    uint32_t n_moving, n_sending; /* ranges of bytes that the mover has */
    struct list parked;
    uint64_t progress_ms;
    uint64_t better_ms; /* until then better holders are waited for */
};
#define TRANSFER_PULL_MAGIC 0x5450554cu

/* Offered. Owned by transfer.files; lives until nobody is sent of it. */
struct file {
    struct list node;
    struct transfer_hash hash;
    uint32_t n_offers, n_sending;
    uint8_t *bytes;
    uint64_t size;
};

/* What the mover has of ours, or a peer has not answered, by its id. */
enum request_kind { REQUEST_ASK, REQUEST_READ, REQUEST_SEND, REQUEST_HASH, REQUEST_CHECK };
struct request {
    enum request_kind kind;
    uint64_t id, conn;
    struct holder *holder; /* ASK; NULL: it is gone */
    struct pull *pull;     /* READ, CHECK; of SEND the one that is relayed, or NULL */
    struct asker *asker;   /* HASH; NULL: it is gone */
    struct file *file;     /* SEND of a file */
    uint64_t place;        /* SEND: held */
    uint32_t chunk;        /* READ */
};

/* Who has copies of an object that were read here. Owned by transfer.served. */
struct served {
    struct served *next; /* of the same hash */
    struct transfer_what what;
    uint64_t place; /* where it was here, 0: nowhere yet */
    uint32_t *nodes;
    uint32_t n, room;
};

struct transfer {
    unsigned magic;
    struct transfer_config config;
    struct auth_token token;
    struct store_share *share; /* ours in the store: empty */
    uint8_t *arena;            /* NULL: not mapped yet */
    int listen_fd, event_fd, spare_fd;
    uint16_t port;
    struct loop_watch *listen_watch, *event_watch;
    struct loop_timer *timer;
    uint64_t due_ms; /* of the timer; UINT64_MAX: it does not run */
    struct mover *mover;
    uint64_t last_id;  /* of everything */
    uint64_t quiet_ms; /* since then the mover has had nothing */
    struct list conns, peers, pulls, admit, files, answered;
    struct word_map by_id;              /* struct request */
    struct word_map by_ticket;          /* struct asker */
    struct word_map by_what;            /* hash -> struct pull */
    struct word_map by_lend;            /* ticket of store_lend -> struct pull */
    struct word_map served;             /* hash -> struct served */
    struct word_map by_place;           /* place -> struct served */
    uint32_t n_arguments;               /* pulls that count in argument_bytes */
    uint32_t removed[TRANSFER_REMOVED]; /* dead nodes, a ring: they are not waited for */
    uint64_t n_removed;
    bool is_destroying;
    bool is_in_events, wants_admit; /* what is put off is done at the end of our events */
    struct transfer_stats stats;
};
#define TRANSFER_MAGIC 0x5452414eu

/* --- transfer.c --- */
uint64_t transfer_next_id(struct transfer *t);
/* Look at what is due not later than then. */
void transfer_due(struct transfer *t, uint64_t at_ms);
/* There is a thread. -1 with err. */
int transfer_need_mover(struct transfer *t, struct err *err);
int transfer_need_arena(struct transfer *t, struct err *err);
struct asker *transfer_add_asker(struct transfer *t, struct pull *p, void *arg);
/* It has its answer: the callback is made in a later turn. at, fd: as in the callback. */
void transfer_answer(struct transfer *t,
                     struct asker *a,
                     const struct err *err,
                     const struct transfer_object *at,
                     int fd);
/* Somebody may be admitted, in a later turn or at the end of our events. */
void transfer_admit_later(struct transfer *t);
struct request *transfer_add_request(struct transfer *t, enum request_kind kind, struct conn *c);
/* One of ours in the store's books. */
void transfer_record(struct transfer *t, enum store_record_kind kind, uint64_t place);
/* Never 0; of equal ones the same. */
uint64_t transfer_hash_of(const struct transfer_what *what);
bool transfer_is_same(const struct transfer_what *a, const struct transfer_what *b);
struct transfer_what transfer_what_of(const struct transfer_key *key);
struct store_key transfer_key_of(const struct transfer_what *what);

/* --- transfer_conn.c --- */
int transfer_listen(struct transfer *t, struct err *err);
struct conn *transfer_find_conn(struct transfer *t, uint64_t id);
struct peer *transfer_find_peer(struct transfer *t, uint32_t number);
struct peer *transfer_have_peer(struct transfer *t, uint32_t number);
/* It was removed, and is waited for no more. */
bool transfer_is_dead(const struct transfer *t, const struct peer *p);
/* If nobody needs it. */
void transfer_drop_peer(struct peer *p);
/* The proven connection to it; NULL: there is none yet, it is dialled if that is possible now. */
struct conn *transfer_conn_to(struct transfer *t, struct peer *p);
/* End it, once what the mover has of it is back. */
void transfer_cut(struct conn *c);
/* The mover has done with it. */
void transfer_conn_ended(struct conn *c, int error, const char *why);
/* Forget it and its fd, at once. */
void transfer_free_conn(struct conn *c);
/* Cut off for what it said; told at powers of two. */
void transfer_misbehaved(struct conn *c, const char *why);
/* Deadlines of connections; returns the next. */
uint64_t transfer_conns_on_time(struct transfer *t, uint64_t now_ms);

/* --- transfer_holder.c --- */
struct holder *transfer_find_holder(const struct pull *p, uint32_t number);
/* A node that may have it; again: it is asked again if it had it not. */
struct holder *transfer_add_holder(struct pull *p, uint32_t number);
void transfer_drop_holder(struct holder *h);
/* Ask the next holder, if no answer is open; one of the better alone. */
void transfer_ask(struct pull *p, bool better);
/* The reason of the last holder, if all are gone. */
const struct err *transfer_why_hopeless(const struct pull *p);
void transfer_pull_on_conn(struct transfer *t, struct peer *peer);
/* It cannot be reached just now, or can be tried again; refused: why it will not serve us, or NULL.
 * The peer may be gone after. */
void transfer_pull_on_unreachable(struct transfer *t, struct peer *peer, const struct err *refused);
void transfer_pull_on_frame(struct transfer *t, struct conn *c, const struct transfer_frame *f);
/* No answer comes to what was asked on this connection. */
void transfer_pull_on_conn_lost(struct transfer *t, uint64_t conn);

/* --- transfer_pull.c --- */
/* Do what can be done for it now. It may be gone after. */
void transfer_pull_step(struct pull *p);
/* Something came, h: thanks to this one, or NULL. */
void transfer_pull_progress(struct pull *p, struct holder *h);
/* Its memory is not used by so many any more. Of ENDING: it is gone when nobody does. */
void transfer_pull_unuse(struct pull *p);
struct pull *transfer_find_pull(struct transfer *t, const struct transfer_what *what);
/* All who ask are told why, and it ends. */
void transfer_pull_fail(struct pull *p, enum err_code code, const char *why);
/* All who asked have been told: ENDING, and gone when nobody uses its memory. */
void transfer_pull_end(struct pull *p);
void transfer_pull_drop_asker(struct asker *a);
uint64_t transfer_pulls_on_time(struct transfer *t, uint64_t now_ms);
/* All fail; the mover is gone. */
void transfer_pull_end_all(struct transfer *t);

/* --- transfer_memory.c --- */
/* Its size is known: it waits for its turn. */
void transfer_pull_sized(struct pull *p, const struct transfer_frame *is);
/* Those who wait for their turn, and have it now: arguments in their order, and not too many
 * bytes. */
void transfer_pull_admit(struct transfer *t);
void transfer_leave_admission(struct pull *p);
void transfer_pull_on_store(struct transfer *t,
                            const struct store_action *action,
                            const char *refusal);
/* All its bytes are here: an object is sealed, a file is looked at. It may be gone after. */
void transfer_finish(struct pull *p);
void transfer_pull_on_hashed(struct request *r, const struct mover_event *e);
/* Of ENDING, once. */
void transfer_give_back(struct pull *p);

/* --- transfer_read.c --- */
/* Missing chunks are read wherever they can be. false: nowhere just now. */
bool transfer_read(struct pull *p);
/* Are these bytes of it here? */
bool transfer_pull_has(const struct pull *p, uint64_t offset, uint64_t length);
/* What was asked of this chunk does not come. */
void transfer_pull_read_again(struct pull *p, uint32_t chunk);
/* The connection to that node takes READs again. */
void transfer_pull_feed(struct transfer *t, uint32_t number);
void transfer_pull_on_moved(struct request *r, uint64_t n, bool is_whole);

/* --- transfer_serve.c --- */
void transfer_serve_on_frame(struct transfer *t, struct conn *c, const struct transfer_frame *f);
void transfer_serve_on_moved(struct request *r, uint64_t n, struct transfer *t);
/* Answer what waits for bytes of this pull, if they are here; at its end all. */
void transfer_serve_parked(struct pull *p, uint64_t now_ms, bool at_end);
/* Sealed at this place: whoever read it while it came is to hear when it is freed. */
void transfer_serve_sealed(struct transfer *t, const struct transfer_what *what, uint64_t place);
void transfer_serve_on_freed(struct transfer *t, uint64_t place);
/* Tell those who have copies, and forget them. */
void transfer_serve_free(struct transfer *t, const struct transfer_what *what);
void transfer_serve_owner_gone(struct transfer *t, uint32_t owner);
void transfer_serve_end(struct transfer *t);

/* --- transfer_file.c --- */
struct file *transfer_find_file(struct transfer *t, const uint8_t *hash);
void transfer_file_unuse(struct file *f);
void transfer_file_end(struct transfer *t);

#endif /* RAYLET_TRANSFER_PRIVATE_H */
