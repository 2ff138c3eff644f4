/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each call stands in one list until it is told. A change that does something also
 * stands in a second one, `waiting`, then in `round`; when the round ends, its rows' durable values
 * follow and its call is settled. commit_run tells the calls at the head of the list as far as they
 * are settled. A read is settled from the start, with references to the values it shows, and so is
 * told behind the changes before it. While the store is away, what stands in `alone` overtakes
 * what waits: reads, which are told what is durable instead, and refusals that no open change is
 * the cause of.
 */
#include "gcs/commit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/rows.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

#define CALL_OVERHEAD 160 /* bytes of a held change beside its key and value */
#define ROW_OVERHEAD  96

struct shown {
    char *key;
    struct value *value;
};

struct call {
    struct list node, change; /* of all; of waiting, round or alone */
    store_done_f done;        /* one of the four */
    store_value_f value;
    store_row_f row;
    store_number_f number;
    void *arg;
    enum err_code code;
    bool is_settled;
    struct row *changes;   /* borrowed from rows, counted in its n_open */
    struct value *becomes; /* the row's value; NULL: removed */
    uint64_t before;
    char *table, *key; /* of a read, to read again; key is a scan's prefix */
    struct shown *shown;
    size_t n_shown, held;
};

struct commit {
    unsigned magic;
    struct commit_limits limits;
    struct rows *rows;
    struct list calls, waiting, round;
    struct list alone; /* settled calls that may overtake while the store is away */
    size_t n_calls, held_bytes, total_bytes;
    uint64_t n_rounds;
    bool is_started, is_away, is_destroyed;
};
#define COMMIT_MAGIC 0x434f4d4du

struct commit *commit_create(const struct commit_limits *limits)
{
    struct commit *c = xcalloc(1, sizeof *c);

    c->magic = COMMIT_MAGIC;
    c->limits = *limits;
    c->rows = rows_create();
    list_init(&c->calls);
    list_init(&c->waiting);
    list_init(&c->round);
    list_init(&c->alone);
    return c;
}

/* --- calls --- */

static struct call *call_create(struct commit *c, void *arg)
{
    struct call *k = xcalloc(1, sizeof *k);

    CHECK_MAGIC(c, COMMIT_MAGIC);
    k->arg = arg;
    list_init(&k->change);
    list_append(&c->calls, &k->node);
    c->n_calls++;
    return k;
}

/* Settled without a change; alone: no open change is a cause of the code. */
static void refuse(struct commit *c, struct call *k, enum err_code code, bool alone)
{
    k->code = code;
    k->is_settled = true;
    if (alone)
        list_append(&c->alone, &k->change);
}

/* False: refused, as ready told or as key and size say. */
static bool accept(struct commit *c, struct call *k, const char *key, size_t size)
{
    if (!c->is_started)
        refuse(c, k, ERR_AWAY, true);
    else if (strlen(key) > STORE_KEY_MAX || size > STORE_VALUE_MAX)
        refuse(c, k, ERR_INVALID, true);
    return !k->is_settled;
}

static size_t weight(const struct row *row, const struct value *v)
{
    return v == NULL ? 0 : strlen(row->key) + v->size + ROW_OVERHEAD;
}

/* The row becomes this value once the round it comes into is durable; takes the value. */
static void change(struct commit *c, struct call *k, struct row *row, struct value *becomes)
{
    size_t held = strlen(row->key) + (becomes != NULL ? becomes->size : 0) + CALL_OVERHEAD;
    size_t total = c->total_bytes - weight(row, row->latest) + weight(row, becomes);

    if (c->held_bytes + held > c->limits.held_bytes
        || (total > c->limits.total_bytes && total > c->total_bytes)) {
        value_unref(becomes);
        refuse(c, k, ERR_FULL, true);
        rows_prune(c->rows, row);
        return;
    }
    k->held = held;
    c->held_bytes += held;
    c->total_bytes = total;
    k->changes = row;
    k->becomes = becomes;
    row->n_open++;
    value_unref(row->latest);
    row->latest = value_ref(becomes);
    list_append(&c->waiting, &k->change);
}

void commit_put(struct commit *c,
                const char *table,
                const char *key,
                const void *value,
                size_t size,
                enum store_put how,
                store_done_f done,
                void *arg)
{
    struct call *k = call_create(c, arg);

    k->done = done;
    if (!accept(c, k, key, size))
        return;
    struct row *row = rows_add(c->rows, table, key);
    if (how == STORE_PUT_NEW && row->latest != NULL)
        refuse(c, k, ERR_EXISTS, row->n_open == 0);
    else
        change(c, k, row, value_create(value, size));
}

void commit_remove(struct commit *c,
                   const char *table,
                   const char *key,
                   store_done_f done,
                   void *arg)
{
    struct call *k = call_create(c, arg);

    k->done = done;
    if (!accept(c, k, key, 0))
        return;
    struct row *row = rows_find(c->rows, table, key);
    if (row == NULL || row->latest == NULL)
        refuse(c, k, ERR_NOT_FOUND, row == NULL || row->n_open == 0);
    else
        change(c, k, row, NULL);
}

static uint64_t counter_value(const struct row *row)
{
    char text[24] = "0";

    if (row->latest != NULL && row->latest->size < sizeof text)
        snprintf(text, sizeof text, "%.*s", (int)row->latest->size, row->latest->bytes);
    return strtoull(text, NULL, 10);
}

static void set_counter(struct commit *c, struct call *k, struct row *row, uint64_t number)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu64, number);

    change(c, k, row, value_create(text, (size_t)n));
}

void commit_count(struct commit *c, const char *name, uint64_t n, store_number_f done, void *arg)
{
    struct call *k = call_create(c, arg);
    uint64_t after;

    k->number = done;
    if (!accept(c, k, name, 0))
        return;
    struct row *row = rows_add(c->rows, STORE_COUNTERS, name);
    k->before = counter_value(row);
    if (__builtin_add_overflow(k->before, n, &after))
        refuse(c, k, ERR_FULL, row->n_open == 0);
    else
        set_counter(c, k, row, after);
}

void commit_raise(struct commit *c, const char *name, uint64_t to, store_done_f done, void *arg)
{
    struct call *k = call_create(c, arg);

    k->done = done;
    if (!accept(c, k, name, 0))
        return;
    struct row *row = rows_add(c->rows, STORE_COUNTERS, name);
    uint64_t now = counter_value(row);
    set_counter(c, k, row, now > to ? now : to);
}

/* --- reads --- */

static void show(struct call *k, const char *key, struct value *v)
{
    if ((k->n_shown & (k->n_shown - 1)) == 0) /* a power of two, or none */
        k->shown = xrealloc(k->shown, 2 * (k->n_shown + 1) * sizeof *k->shown);
    k->shown[k->n_shown++] =
        (struct shown){.key = key != NULL ? xstrdup(key) : NULL, .value = value_ref(v)};
}

static void unshow(struct call *k)
{
    for (size_t i = 0; i < k->n_shown; i++) {
        free(k->shown[i].key);
        value_unref(k->shown[i].value);
    }
    free(k->shown);
    k->shown = NULL;
    k->n_shown = 0;
}

/* What the read shows: the latest, or what is durable. */
static void look(struct commit *c, struct call *k, bool durable)
{
    size_t n = strlen(k->key);

    unshow(k);
    if (k->value != NULL) {
        struct row *row = rows_find(c->rows, k->table, k->key);
        struct value *v = row == NULL ? NULL : durable ? row->durable : row->latest;
        k->code = v != NULL ? ERR_NONE : ERR_NOT_FOUND;
        if (v != NULL)
            show(k, NULL, v);
        return;
    }
    for (struct row *row = rows_first(c->rows, k->table, k->key);
         row != NULL && strncmp(row->key, k->key, n) == 0;
         row = rows_next(row)) {
        struct value *v = durable ? row->durable : row->latest;
        if (v != NULL)
            show(k, row->key, v);
    }
}

static void read_rows(struct commit *c, struct call *k, const char *table, const char *key)
{
    if (!accept(c, k, key, 0))
        return;
    k->table = xstrdup(table);
    k->key = xstrdup(key);
    k->is_settled = true;
    list_append(&c->alone, &k->change);
    look(c, k, false);
}

void commit_get(struct commit *c, const char *table, const char *key, store_value_f done, void *arg)
{
    struct call *k = call_create(c, arg);

    k->value = done;
    read_rows(c, k, table, key);
}

void commit_scan(struct commit *c,
                 const char *table,
                 const char *prefix,
                 store_row_f row,
                 void *arg)
{
    struct call *k = call_create(c, arg);

    k->row = row;
    read_rows(c, k, table, prefix);
}

/* --- loading --- */

void commit_load(struct commit *c,
                 const char *table,
                 const char *key,
                 const void *value,
                 size_t size)
{
    struct row *row = rows_add(c->rows, table, key);

    ASSERT(!c->is_started);
    c->total_bytes -= weight(row, row->latest);
    value_unref(row->latest);
    value_unref(row->durable);
    row->latest = value_create(value, size);
    row->durable = value_ref(row->latest);
    c->total_bytes += weight(row, row->latest);
}

void commit_unload(struct commit *c)
{
    ASSERT(!c->is_started);
    rows_destroy(c->rows);
    c->rows = rows_create();
    c->total_bytes = 0;
}

void commit_start(struct commit *c)
{
    c->is_started = true;
}

/* --- rounds --- */

void commit_set_away(struct commit *c, bool is_away)
{
    c->is_away = is_away;
}

bool commit_has_round(const struct commit *c)
{
    return !list_empty(&c->round);
}

bool commit_begin_round(struct commit *c)
{
    if (list_empty(&c->round) && !list_empty(&c->waiting)) {
        list_insert_after(&c->waiting, &c->round); /* the whole ring gets the other head */
        list_remove(&c->waiting);
    }
    return !list_empty(&c->round);
}

bool commit_round_next(struct commit *c, const void **at, struct commit_change *out)
{
    const struct list *next = *at == NULL ? c->round.next : ((const struct list *)*at)->next;

    if (next == &c->round)
        return false;
    const struct call *k = list_entry(next, struct call, change);
    const struct value *v = k->becomes;
    *at = next;
    *out = (struct commit_change){.table = k->changes->table,
                                  .key = k->changes->key,
                                  .value = v != NULL ? v->bytes : NULL,
                                  .size = v != NULL ? v->size : 0};
    return true;
}

/* The call's change is over, durable or not. */
static void close_change(struct commit *c, struct call *k)
{
    list_remove(&k->change);
    c->held_bytes -= k->held;
    k->changes->n_open--;
    rows_prune(c->rows, k->changes);
    k->changes = NULL;
}

void commit_end_round(struct commit *c)
{
    if (list_empty(&c->round))
        return;
    c->n_rounds++;
    list_for_each_safe(at, &c->round)
    {
        struct call *k = list_entry(at, struct call, change);
        value_unref(k->changes->durable);
        k->changes->durable = value_ref(k->becomes);
        k->is_settled = true;
        close_change(c, k);
    }
}

bool commit_durable_next(const struct commit *c,
                         const char *table,
                         const void **at,
                         struct commit_change *out)
{
    const struct row *row =
        *at == NULL ? rows_first(c->rows, table, "") : rows_next((const struct row *)*at);

    while (row != NULL && row->durable == NULL)
        row = rows_next(row);
    if (row == NULL)
        return false;
    *at = row;
    *out = (struct commit_change){.table = row->table,
                                  .key = row->key,
                                  .value = row->durable->bytes,
                                  .size = row->durable->size};
    return true;
}

/* --- telling --- */

/* Off the lists, so that the completion may call, and even destroy nothing but itself. */
static void tell(struct commit *c, struct call *k)
{
    list_remove(&k->node);
    c->n_calls--;
    if (k->changes != NULL)
        close_change(c, k);
    list_remove(&k->change);
    if (c->is_destroyed) {
        k->code = ERR_CANCELED;
        unshow(k);
    }
    bool ok = k->code == ERR_NONE;
    if (k->done != NULL)
        k->done(k->arg, k->code);
    if (k->number != NULL)
        k->number(k->arg, k->code, ok ? k->before : 0);
    if (k->value != NULL)
        k->value(k->arg,
                 k->code,
                 ok ? k->shown[0].value->bytes : NULL,
                 ok ? k->shown[0].value->size : 0);
    if (k->row != NULL) {
        for (size_t i = 0; i < k->n_shown; i++)
            k->row(k->arg,
                   ERR_NONE,
                   k->shown[i].key,
                   k->shown[i].value->bytes,
                   k->shown[i].value->size);
        k->row(k->arg, k->code, NULL, NULL, 0);
    }
    unshow(k);
    value_unref(k->becomes);
    free(k->table);
    free(k->key);
    free(k);
}

void commit_run(struct commit *c)
{
    CHECK_MAGIC(c, COMMIT_MAGIC);
    for (;;) {
        struct call *k =
            list_empty(&c->calls) ? NULL : list_entry(c->calls.next, struct call, node);
        if (k != NULL && !k->is_settled) {
            k = c->is_away && !list_empty(&c->alone)
                    ? list_entry(c->alone.next, struct call, change)
                    : NULL;
            if (k != NULL && k->table != NULL)
                look(c, k, true);
        }
        if (k == NULL)
            return;
        tell(c, k);
    }
}

void commit_destroy(struct commit *c)
{
    if (c == NULL)
        return;
    c->is_destroyed = true;
    while (!list_empty(&c->calls))
        tell(c, list_entry(c->calls.next, struct call, node));
    rows_destroy(c->rows);
    c->magic = 0;
    free(c);
}

void commit_stats(const struct commit *c, struct commit_stats *out)
{
    *out = (struct commit_stats){.n_open = c->n_calls,
                                 .held_bytes = c->held_bytes,
                                 .total_bytes = c->total_bytes,
                                 .n_rounds = c->n_rounds};
}
