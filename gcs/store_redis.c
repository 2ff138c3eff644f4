/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Redis is spoken to in exchanges, one at a time: some commands at once, then their
 * replies. A connection goes
 *
 *     CHECK (whose is it, where is it) -> TAKE (our epoch) -> SCAN (all rows) -> rounds and beats
 *     CHECK -> rounds                      the second time, if Redis is where it was
 *     CHECK -> RESTORE -> rounds           if it is behind
 *
 * Any error ends the connection with a reason; after a pause the next begins with CHECK, which
 * finds out by the commit number what became of a round whose reply was lost. TAKE, RESTORE and
 * rounds end with EXEC, WATCH META, HMGET META, so that the next transaction runs only if nobody
 * else wrote META since it was last seen to be ours.
 */
#include "gcs/store_redis.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/redis_link.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"

#define TABLES_MAX   32
#define NS_MAX       64
#define KEY_SIZE     (NS_MAX + 64)
#define RETRY_MIN_MS 20
#define RETRY_MAX_MS 1000

enum exchange {
    EXCHANGE_NONE,
    EXCHANGE_CHECK,
    EXCHANGE_TAKE,
    EXCHANGE_SCAN,
    EXCHANGE_RESTORE,
    EXCHANGE_ROUND,
    EXCHANGE_BEAT,
};

/* What META says. */
struct meta {
    bool is_there;
    uint64_t schema, epoch, commit;
    struct unique_id cluster;
};

struct store_redis {
    struct store store;
    unsigned magic;
    struct store_redis_config config;
    struct redis_address address;
    char *name, *username, *password, ns[NS_MAX + 1]; /* name: the address in sentences */
    struct redis_link *link;
    struct loop_timer *beat, *retry;
    enum store_redis_state state;
    char why[400];
    bool is_loaded, must_restore, is_slow;
    bool is_stuck; /* Redis is there, and has refused the last round */
    uint32_t retry_ms;
    struct unique_id cluster;
    uint64_t epoch, number; /* number: the last round that is known to be durable */
    uint64_t n_connects, n_restores, n_skipped;
    /* the exchange */
    enum exchange exchange;
    uint64_t begun_ms;
    size_t n_sent, n_replies, n_tables;
    struct meta meta;  /* as last read */
    bool tables_there; /* CHECK: a table of ours has rows */
    char trouble[300]; /* the first error */
    bool is_refused;   /* trouble that goes not away by itself */
    bool has_lost;     /* EXEC said that META was changed */
    size_t table;      /* SCAN */
    char cursor[24];
};
#define STORE_REDIS_MAGIC 0x53525231u

static void connect_again(struct store_redis *r, bool is_refused, const char *why);

static struct store_redis *self(struct store *s)
{
    struct store_redis *r = (struct store_redis *)s;

    CHECK_MAGIC(r, STORE_REDIS_MAGIC);
    return r;
}

/* --- state --- */

static void set_state(struct store_redis *r, enum store_redis_state state, const char *why)
{
    bool is_news = state != r->state || strcmp(why, r->why) != 0;

    r->state = state;
    snprintf(r->why, sizeof r->why, "%s", why);
    commit_set_away(r->store.commit, state != STORE_REDIS_READY || r->is_slow);
    if (!is_news)
        return;
    if (state == STORE_REDIS_READY)
        log_info("store", "ready", "redis=%s commit=%" PRIu64, r->name, r->number);
    else if (why[0] != '\0')
        log_warn("store", "away", "redis=%s msg=\"%s\"", r->name, why);
    if (r->config.on_state != NULL)
        r->config.on_state(r->config.arg, state, why);
}

/* The exchange goes on, but fails at its end; the first reason counts. */
__attribute__((format(printf, 3, 4))) static void fail(struct store_redis *r,
                                                       bool is_refused,
                                                       const char *fmt,
                                                       ...)
{
    va_list ap;

    if (r->trouble[0] != '\0')
        return;
    r->is_refused = is_refused;
    va_start(ap, fmt);
    vsnprintf(r->trouble, sizeof r->trouble, fmt, ap);
    va_end(ap);
}

/* --- commands --- */

static void key_of(const struct store_redis *r, const char *table, char key[KEY_SIZE])
{
    snprintf(key, KEY_SIZE, "RAY%s@%s", r->ns, table);
}

static void begin(struct store_redis *r, enum exchange exchange)
{
    ASSERT(r->exchange == EXCHANGE_NONE);
    r->exchange = exchange;
    r->begun_ms = loop_now_ms();
    r->n_sent = r->n_replies = 0;
    r->trouble[0] = '\0';
    r->is_refused = r->has_lost = false;
}

static void command(struct store_redis *r,
                    size_t n,
                    const void *const parts[],
                    const size_t sizes[])
{
    redis_link_command(r->link, n, parts, sizes);
    r->n_sent++;
}

/* Words, NULL at the end. */
__attribute__((sentinel)) static void say(struct store_redis *r, ...)
{
    const void *parts[12];
    size_t sizes[12], n = 0;
    const char *word;
    va_list ap;

    va_start(ap, r);
    while ((word = va_arg(ap, const char *)) != NULL) {
        parts[n] = word;
        sizes[n++] = strlen(word);
    }
    va_end(ap);
    command(r, n, parts, sizes);
}

static void say_change(struct store_redis *r, const struct commit_change *c)
{
    char key[KEY_SIZE];
    const void *parts[4] = {c->value != NULL ? "HSET" : "HDEL", key, c->key, c->value};

    key_of(r, c->table, key);
    size_t sizes[4] = {4, strlen(key), strlen(c->key), c->size};
    command(r, c->value != NULL ? 4 : 3, parts, sizes);
}

/* The end of each transaction: META, and that it is ours still. */
static void say_end(struct store_redis *r, uint64_t number)
{
    char key[KEY_SIZE], schema[24], epoch[24], commit[24], cluster[ID_HEX_MAX];

    key_of(r, "META", key);
    snprintf(schema, sizeof schema, "%d", STORE_REDIS_SCHEMA);
    snprintf(epoch, sizeof epoch, "%" PRIu64, r->epoch);
    snprintf(commit, sizeof commit, "%" PRIu64, number);
    id_hex(r->cluster.bytes, sizeof r->cluster.bytes, cluster);
    say(r,
        "HSET",
        key,
        "schema",
        schema,
        "cluster",
        cluster,
        "epoch",
        epoch,
        "commit",
        commit,
        NULL);
    say(r, "EXEC", NULL);
    say(r, "WATCH", key, NULL);
    say(r, "HMGET", key, "schema", "cluster", "epoch", "commit", NULL);
    redis_link_flush(r->link);
}

static void begin_check(struct store_redis *r)
{
    char key[KEY_SIZE];

    begin(r, EXCHANGE_CHECK);
    r->tables_there = false;
    if (r->password != NULL && r->username != NULL)
        say(r, "AUTH", r->username, r->password, NULL);
    else if (r->password != NULL)
        say(r, "AUTH", r->password, NULL);
    for (size_t i = 0; i < r->n_tables; i++) {
        key_of(r, r->config.tables[i], key);
        say(r, "TYPE", key, NULL);
    }
    key_of(r, "META", key);
    say(r, "WATCH", key, NULL);
    say(r, "HMGET", key, "schema", "cluster", "epoch", "commit", NULL);
    redis_link_flush(r->link);
}

static void begin_take(struct store_redis *r)
{
    begin(r, EXCHANGE_TAKE);
    say(r, "MULTI", NULL);
    say_end(r, r->number);
}

static void begin_restore(struct store_redis *r)
{
    struct commit_change row;
    char key[KEY_SIZE];

    log_warn("store",
             "restore",
             "redis=%s from=%" PRIu64 " to=%" PRIu64,
             r->name,
             r->meta.commit,
             r->number);
    r->n_restores++;
    begin(r, EXCHANGE_RESTORE);
    say(r, "MULTI", NULL);
    for (size_t i = 0; i < r->n_tables; i++) {
        const void *at = NULL;
        key_of(r, r->config.tables[i], key);
        say(r, "DEL", key, NULL);
        while (commit_durable_next(r->store.commit, r->config.tables[i], &at, &row))
            say_change(r, &row);
    }
    say_end(r, r->number);
}

/* What was called so far, or the round whose fate is open. */
static bool begin_round(struct store_redis *r)
{
    struct commit_change change;
    const void *at = NULL;

    if (!commit_begin_round(r->store.commit))
        return false;
    begin(r, EXCHANGE_ROUND);
    say(r, "MULTI", NULL);
    while (commit_round_next(r->store.commit, &at, &change))
        say_change(r, &change);
    say_end(r, r->number + 1);
    return true;
}

static void begin_scan(struct store_redis *r)
{
    char key[KEY_SIZE];

    begin(r, EXCHANGE_SCAN);
    key_of(r, r->config.tables[r->table], key);
    say(r, "HSCAN", key, r->cursor, "COUNT", "1000", NULL);
    redis_link_flush(r->link);
}

/* --- replies --- */

static bool is_text(const redisReply *p)
{
    return p->type == REDIS_REPLY_STRING || p->type == REDIS_REPLY_STATUS;
}

/* A number as we write them: digits only. */
static bool parse_number(const redisReply *p, uint64_t *out)
{
    uint64_t n = 0;

    if (!is_text(p) || p->len == 0 || p->len > 20)
        return false;
    for (size_t i = 0; i < (size_t)p->len; i++) {
        unsigned digit = (unsigned char)p->str[i] - (unsigned)'0';
        if (digit > 9 || __builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, digit, &n))
            return false;
    }
    *out = n;
    return true;
}

static void read_meta(struct store_redis *r, const redisReply *p)
{
    static const char *const names[] = {"schema", "cluster", "epoch", "commit"};
    struct meta *m = &r->meta;
    uint64_t *numbers[] = {&m->schema, NULL, &m->epoch, &m->commit};
    size_t n_nil = 0;

    *m = (struct meta){.is_there = false};
    if (p->type != REDIS_REPLY_ARRAY || p->elements != 4) {
        fail(r, false, "it does not speak Redis: HMGET gave no array of four");
        return;
    }
    for (size_t i = 0; i < 4; i++)
        n_nil += p->element[i]->type == REDIS_REPLY_NIL;
    if (n_nil == 4)
        return;
    m->is_there = true;
    for (size_t i = 0; i < 4; i++) {
        const redisReply *e = p->element[i];
        bool ok = numbers[i] != NULL ? parse_number(e, numbers[i])
                                     : is_text(e) && e->len == 2 * ID_UNIQUE_SIZE
                                           && id_parse(e->str, m->cluster.bytes, ID_UNIQUE_SIZE);
        if (!ok)
            fail(r, true, "field %s of RAY%s@META is damaged or not ours", names[i], r->ns);
    }
}

static void read_type(struct store_redis *r, size_t table, const redisReply *p)
{
    if (is_text(p) && strcmp(p->str, "none") == 0)
        return;
    r->tables_there = true;
    if (!is_text(p) || strcmp(p->str, "hash") != 0)
        fail(r,
             true,
             "key RAY%s@%s is no table of ours (a %.20s): choose another namespace, or remove it",
             r->ns,
             r->config.tables[table],
             is_text(p) ? p->str : "?");
}

static void load_row(struct store_redis *r, const redisReply *key, const redisReply *value)
{
    const char *table = r->config.tables[r->table];
    uint64_t number;

    if (!is_text(key) || !is_text(value) || key->len > STORE_KEY_MAX
        || strlen(key->str) != (size_t)key->len || value->len > (long)STORE_VALUE_MAX) {
        if (r->n_skipped++ == 0)
            log_err("store",
                    "foreign_row",
                    "table=%s msg=\"skipped: too long, or no text\"",
                    table);
        return;
    }
    if (strcmp(table, STORE_COUNTERS) == 0 && !parse_number(value, &number)) {
        fail(r,
             true,
             "counter %.60s in RAY%s@%s is no number: put right what it held, or remove it",
             key->str,
             r->ns,
             table);
        return;
    }
    commit_load(r->store.commit, table, key->str, value->str, (size_t)value->len);
}

static void read_scan(struct store_redis *r, const redisReply *p)
{
    if (p->type != REDIS_REPLY_ARRAY || p->elements != 2 || !is_text(p->element[0])
        || (size_t)p->element[0]->len >= sizeof r->cursor
        || p->element[1]->type != REDIS_REPLY_ARRAY || p->element[1]->elements % 2 != 0) {
        fail(r, false, "it does not speak Redis: HSCAN gave no cursor and rows");
        return;
    }
    snprintf(r->cursor, sizeof r->cursor, "%s", p->element[0]->str);
    for (size_t i = 0; i < p->element[1]->elements; i += 2)
        load_row(r, p->element[1]->element[i], p->element[1]->element[i + 1]);
}

/* A transaction's EXEC. */
static void read_exec(struct store_redis *r, const redisReply *p)
{
    if (p->type == REDIS_REPLY_NIL) {
        r->has_lost = true;
        fail(r, false, "another wrote RAY%s@META", r->ns);
        return;
    }
    if (p->type != REDIS_REPLY_ARRAY) {
        fail(r, false, "it does not speak Redis: EXEC gave no array");
        return;
    }
    for (size_t i = 0; i < p->elements; i++)
        if (p->element[i]->type == REDIS_REPLY_ERROR) {
            r->must_restore = true; /* the rest of the round was done */
            fail(r, true, "a table of ours was damaged: %.200s", p->element[i]->str);
        }
}

/* Errors that only a person can end. */
static bool is_lasting(const char *error)
{
    static const char *const words[] = {"WRONGTYPE", "NOAUTH", "WRONGPASS", "NOPERM", "ERR"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strncmp(error, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

/* The i-th of n replies. */
static void read_reply(struct store_redis *r, size_t i, size_t n, const redisReply *p)
{
    if (p->type == REDIS_REPLY_ERROR) {
        fail(r, is_lasting(p->str), "%.250s", p->str);
        return;
    }
    switch (r->exchange) {
    case EXCHANGE_CHECK: {
        size_t first = n - 2 - r->n_tables;
        if (i >= first && i < n - 2)
            read_type(r, i - first, p);
        else if (i == n - 1)
            read_meta(r, p);
        return;
    }
    case EXCHANGE_TAKE:
    case EXCHANGE_RESTORE:
    case EXCHANGE_ROUND:
        if (i == n - 3)
            read_exec(r, p);
        else if (i == n - 1)
            read_meta(r, p);
        return;
    case EXCHANGE_BEAT:
        read_meta(r, p);
        return;
    case EXCHANGE_SCAN:
        read_scan(r, p);
        return;
    case EXCHANGE_NONE:
        return;
    }
}

/* --- what follows from them --- */

/* But a round that was refused is tried before that is said: it may be refused for hours. */
static void become_ready(struct store_redis *r)
{
    if (r->is_stuck && begin_round(r))
        return;
    r->is_stuck = false;
    r->retry_ms = RETRY_MIN_MS;
    r->is_slow = false;
    set_state(r, STORE_REDIS_READY, "");
}

/* META is ours, of this epoch and this number. */
static bool is_where_we_are(const struct store_redis *r, uint64_t number)
{
    return r->meta.is_there && unique_id_eq(&r->meta.cluster, &r->cluster)
           && r->meta.epoch == r->epoch && r->meta.commit == number;
}

static void first_checked(struct store_redis *r)
{
    if (!r->meta.is_there) {
        if (unique_id_random(&r->cluster) != 0) {
            connect_again(r, false, "no random number for the cluster's id");
            return;
        }
        r->number = 0;
        r->epoch = 1;
    } else {
        r->cluster = r->meta.cluster;
        r->number = r->meta.commit;
        r->epoch = r->meta.epoch + 1;
    }
    begin_take(r);
}

static void fenced(struct store_redis *r)
{
    redis_link_destroy(r->link);
    r->link = NULL;
    set_state(r, STORE_REDIS_FENCED, "another GCS has taken this cluster over");
}

static void checked(struct store_redis *r)
{
    if (r->meta.is_there && r->meta.schema != STORE_REDIS_SCHEMA) {
        char why[120];
        snprintf(why,
                 sizeof why,
                 "its rows have schema %" PRIu64 ", this program knows %d: use a matching version",
                 r->meta.schema,
                 STORE_REDIS_SCHEMA);
        connect_again(r, true, why);
    } else if (!r->meta.is_there && r->tables_there) {
        connect_again(r,
                      true,
                      "it holds tables without a META of ours: another program's; choose another "
                      "namespace");
    } else if (!r->is_loaded) {
        first_checked(r);
    } else if (r->meta.is_there && !unique_id_eq(&r->meta.cluster, &r->cluster)) {
        connect_again(r, true, "it holds another cluster now");
    } else if (r->meta.is_there && r->meta.epoch > r->epoch) {
        fenced(r);
    } else if (!r->must_restore && commit_has_round(r->store.commit)
               && is_where_we_are(r, r->number + 1)) {
        r->number++; /* the reply was lost, the round was not */
        commit_end_round(r->store.commit);
        become_ready(r);
    } else if (!r->must_restore && is_where_we_are(r, r->number)) {
        become_ready(r);
    } else {
        begin_restore(r);
    }
}

static void scanned(struct store_redis *r)
{
    if (strcmp(r->cursor, "0") != 0) {
        begin_scan(r);
        return;
    }
    if (++r->table < r->n_tables) {
        begin_scan(r);
        return;
    }
    r->is_loaded = true;
    commit_start(r->store.commit);
    become_ready(r);
}

static void exchange_done(struct store_redis *r)
{
    enum exchange e = r->exchange;

    r->exchange = EXCHANGE_NONE;
    if (r->trouble[0] != '\0') {
        r->is_stuck = r->is_stuck || e == EXCHANGE_ROUND;
        connect_again(r, r->is_refused, r->trouble);
        return;
    }
    if (e == EXCHANGE_ROUND) {
        r->is_stuck = false;
        r->number++;
        commit_end_round(r->store.commit);
    }
    if (e != EXCHANGE_CHECK && e != EXCHANGE_SCAN && !is_where_we_are(r, r->number)) {
        connect_again(r, false, "it is not where this GCS left it");
        return;
    }
    switch (e) {
    case EXCHANGE_CHECK:
        checked(r);
        return;
    case EXCHANGE_TAKE:
        commit_unload(r->store.commit);
        r->table = r->n_skipped = 0;
        snprintf(r->cursor, sizeof r->cursor, "0");
        begin_scan(r);
        return;
    case EXCHANGE_SCAN:
        scanned(r);
        return;
    case EXCHANGE_RESTORE:
        r->must_restore = false;
        become_ready(r);
        return;
    case EXCHANGE_ROUND:
    case EXCHANGE_BEAT:
        become_ready(r);
        return;
    case EXCHANGE_NONE:
        return;
    }
}

static void on_reply(void *arg, const redisReply *p)
{
    struct store_redis *r = arg;

    read_reply(r, r->n_replies, r->n_sent, p);
    if (++r->n_replies == r->n_sent)
        exchange_done(r);
}

/* --- the connection --- */

static void on_end(void *arg, const char *why)
{
    connect_again(arg, false, why);
}

static void connect_now(void *arg)
{
    struct store_redis *r = arg;

    r->n_connects++;
    r->link = redis_link_create(r->config.loop, &r->address, on_reply, on_end, r);
    begin_check(r);
}

static void connect_again(struct store_redis *r, bool is_refused, const char *why)
{
    char sentence[380];

    redis_link_destroy(r->link);
    r->link = NULL;
    r->exchange = EXCHANGE_NONE;
    snprintf(sentence, sizeof sentence, "Redis at %.100s: %.260s", r->name, why);
    set_state(r,
              is_refused     ? STORE_REDIS_REFUSED
              : r->is_loaded ? STORE_REDIS_AWAY
                             : STORE_REDIS_LOADING,
              sentence);
    loop_timer_again(r->retry, r->retry_ms);
    r->retry_ms = r->retry_ms * 2 < RETRY_MAX_MS ? r->retry_ms * 2 : RETRY_MAX_MS;
}

/* The beat: look after an exchange that is old, else ask where Redis is. */
static void on_beat(void *arg)
{
    struct store_redis *r = arg;
    char key[KEY_SIZE];

    if (r->link == NULL)
        return;
    if (r->exchange == EXCHANGE_NONE) {
        key_of(r, "META", key);
        begin(r, EXCHANGE_BEAT);
        say(r, "HMGET", key, "schema", "cluster", "epoch", "commit", NULL);
        redis_link_flush(r->link);
        return;
    }
    uint64_t heard = redis_link_heard_ms(r->link);
    uint64_t age = loop_now_ms() - (heard > r->begun_ms ? heard : r->begun_ms);
    if (age >= r->config.give_up_ms) {
        connect_again(r, false, "it does not answer");
    } else if (age >= r->config.slow_ms && !r->is_slow && r->state == STORE_REDIS_READY) {
        r->is_slow = true;
        log_warn("store", "slow", "redis=%s ms=%" PRIu64, r->name, age);
        commit_set_away(r->store.commit, true);
    }
}

void store_redis_run(struct store *s)
{
    struct store_redis *r = self(s);

    do
        commit_run(r->store.commit);
    while (r->state == STORE_REDIS_READY && r->exchange == EXCHANGE_NONE && begin_round(r));
}

/* --- the store --- */

static const char *why(struct store *s)
{
    struct store_redis *r = self(s);

    if (r->state == STORE_REDIS_READY && r->is_slow)
        snprintf(r->why, sizeof r->why, "Redis at %s is slow", r->name);
    return r->why;
}

static void destroy(struct store *s)
{
    struct store_redis *r = self(s);

    redis_link_destroy(r->link);
    loop_timer_end(r->beat);
    loop_timer_end(r->retry);
    commit_destroy(r->store.commit);
    free(r->name);
    free(r->username);
    free(r->password);
    r->magic = 0;
    free(r);
}

struct store *store_redis_create(const struct store_redis_config *config, struct err *err)
{
    static const struct store_ops ops = {.why = why, .destroy = destroy};
    struct redis_address address;
    size_t n = 0;

    if (strlen(config->ns) > NS_MAX
        || config->ns[strspn(config->ns,
                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")]
               != '\0') {
        err_set(err,
                ERR_INVALID,
                "a namespace of at most %d letters, digits, - and _, not \"%.80s\"",
                NS_MAX,
                config->ns);
        return NULL;
    }
    if (redis_address_parse(config->address, &address, err) != 0)
        return NULL;
    while (config->tables[n] != NULL)
        n++;
    ASSERT(n <= TABLES_MAX);
    struct store_redis *r = xcalloc(1, sizeof *r);
    r->store.ops = &ops;
    r->magic = STORE_REDIS_MAGIC;
    r->config = *config;
    r->address = address;
    r->name = xstrdup(config->address);
    r->username = config->username != NULL ? xstrdup(config->username) : NULL;
    r->password = config->password != NULL ? xstrdup(config->password) : NULL;
    snprintf(r->ns, sizeof r->ns, "%s", config->ns);
    r->n_tables = n;
    r->cluster = unique_id_nil();
    r->retry_ms = RETRY_MIN_MS;
    r->store.commit = commit_create(&config->limits);
    commit_set_away(r->store.commit, true);
    r->beat = loop_every(config->loop, config->beat_ms, on_beat, r);
    r->retry = loop_after(config->loop, 0, connect_now, r);
    return &r->store;
}

void store_redis_info(struct store *s, struct store_redis_info *out)
{
    struct store_redis *r = self(s);

    *out = (struct store_redis_info){.state = r->state,
                                     .cluster = r->cluster,
                                     .epoch = r->epoch,
                                     .commit = r->number,
                                     .n_connects = r->n_connects,
                                     .n_restores = r->n_restores,
                                     .n_skipped = r->n_skipped};
    commit_stats(r->store.commit, &out->stats);
}
