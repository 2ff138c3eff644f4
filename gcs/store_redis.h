/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_STORE_REDIS_H
#define GCS_STORE_REDIS_H
/*
 * A store in Redis (DESIGN D9, D10). All rows are in memory too, so Redis is read once. Changes go
 * out in rounds, one at a time: each is one transaction that also counts itself, so Redis holds the
 * rounds up to some number, whole, whenever anything is killed; what an unanswered round became is
 * read back by that number, and if Redis went back in time all rows are written again. A number of
 * the writer in the same place, watched by each transaction, shuts out a former one. Redis may be
 * slow, away, restarted, emptied, of another cluster: the state and a sentence say so, connecting
 * goes on for ever, and nothing is lost that was answered. Loop thread.
 *
 * Keys, with the namespace's name: RAY<ns>@META (schema, cluster, epoch, commit) and a hash
 * RAY<ns>@<TABLE> for each table. No other key is touched.
 */
#include "gcs/commit.h"
#include "gcs/store.h"
#include "lib/base/id.h"
#include "lib/net/loop.h"

#define STORE_REDIS_SCHEMA 1

enum store_redis_state {
    STORE_REDIS_LOADING, /* not yet; connecting, or reading the rows */
    STORE_REDIS_READY,
    STORE_REDIS_AWAY,    /* and may be back */
    STORE_REDIS_REFUSED, /* it is another's, or damaged: somebody must do something */
    STORE_REDIS_FENCED,  /* another GCS has taken over: for good */
};

struct store_redis_config {
    struct loop *loop;               /* borrowed */
    const char *address;             /* HOST:PORT or a path */
    const char *username, *password; /* NULL: none */
    const char *ns;                  /* letters, digits, '-', '_' */
    const char *const *tables;       /* all that will be used, NULL at the end; borrowed */
    struct commit_limits limits;
    uint32_t beat_ms;             /* how often Redis is asked for its number when idle */
    uint32_t slow_ms, give_up_ms; /* a round this old: reads go on; connect again */
    void (*on_state)(void *arg, enum store_redis_state state, const char *why); /* may be NULL */
    void *arg;
};

struct store_redis_info {
    enum store_redis_state state;
    struct unique_id cluster;                   /* nil before it is read */
    uint64_t epoch;                             /* of this writer */
    uint64_t commit;                            /* the last durable round */
    uint64_t n_connects, n_restores, n_skipped; /* rows that could not be read */
    struct commit_stats stats;
};

/* Copies the config but what is borrowed. NULL: the config can never work. */
struct store *store_redis_create(const struct store_redis_config *config, struct err *err);
/* At each turn's end: send what was called, tell what is due. */
void store_redis_run(struct store *s);
void store_redis_info(struct store *s, struct store_redis_info *out);

#endif /* GCS_STORE_REDIS_H */
