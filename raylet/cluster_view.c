/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Nodes are rows, in the order of their numbers; what they have of one resource is
 * a column: arrays by cell, of those rows that have any of it, in their order. A pick walks the
 * shortest column that the request names, marks in a byte for each of its cells whether the row has
 * enough of it and of the others, and how used it is, and chooses among the bytes. A column that
 * all rows are in is read by row; else two columns are walked side by side. How used a row is, its
 * rank, is kept up to date by what changes a row, so that a pick divides nothing.
 *
 * rank: 0 while less than half of its critical resource is used, else 1 + the 62nds of the other
 * half; + GPU if it has one. HELD or NONE: it is to take nothing.
 */
#include "raylet/cluster_view.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define HALF      62 /* ranks of a node that is used for more than a half, less one */
#define GPU       64
#define HELD      128 /* for the moment: it has refused what it should have taken */
#define NONE      255 /* it is draining; as a key: has too little */
#define TOP_SHARE 5   /* the dice choose among one in so many nodes */
#define BLOCK     128 /* keys that are counted at once: as many as a byte can count */

_Static_assert(sizeof((struct node_view_resource){0}.name) == RESOURCE_NAME_MAX, "names");

struct column {
    char name[RESOURCE_NAME_MAX];
    struct column *next; /* of the same hash */
    unsigned at;         /* in columns */
    unsigned n, room;    /* cells */
    uint32_t *row;
    int64_t *total, *available; /* available: reported less what was debited since */
    int64_t *reported;
};

struct row {
    uint32_t number;
    bool is_draining;
    bool is_held, has_rejected; /* rejected: nothing is to wait there */
    uint64_t due_ms;            /* then debits and hold end; 0: there are none */
    uint32_t n_waiting, n_sent;
    struct column **has; /* NODE_RESOURCES_MAX of them; apart, for a walk over the rows */
    unsigned n_has;
};

struct cluster_view {
    uint32_t self;
    uint64_t random;
    struct row *rows;
    uint8_t *rank; /* by row */
    uint8_t *keys; /* by cell, of one pick; then NONE up to a whole block */
    unsigned n_rows, room;
    uint64_t next_due_ms; /* the first of the rows' */
    struct column **columns, **buckets;
    unsigned n_columns, columns_room, n_buckets; /* buckets: a power of two */
};

struct cluster_view *cluster_view_create(uint32_t self, uint64_t seed)
{
    struct cluster_view *v = xcalloc(1, sizeof *v);

    v->self = self;
    v->random = seed * 2654435761u + 88172645463325252u;
    v->next_due_ms = UINT64_MAX;
    v->n_buckets = 64;
    v->buckets = xcalloc(v->n_buckets, sizeof(struct column *));
    v->keys = xcalloc(1, BLOCK);
    return v;
}

static void free_column(struct column *c)
{
    free(c->row);
    free(c->total);
    free(c->available);
    free(c->reported);
    free(c);
}

void cluster_view_destroy(struct cluster_view *v)
{
    if (v == NULL)
        return;
    for (unsigned i = 0; i < v->n_columns; i++)
        free_column(v->columns[i]);
    for (unsigned i = 0; i < v->n_rows; i++)
        free(v->rows[i].has);
    free(v->columns);
    free(v->buckets);
    free(v->rows);
    free(v->rank);
    free(v->keys);
    free(v);
}

static uint64_t below(struct cluster_view *v, uint64_t n)
{
    v->random ^= v->random << 13;
    v->random ^= v->random >> 7;
    v->random ^= v->random << 17;
    return (v->random >> 16) % n;
}

/* --- columns --- */

static struct column **bucket_of(const struct cluster_view *v, const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return &v->buckets[(hash ^ hash >> 15) & (v->n_buckets - 1)];
}

static struct column *find_column(const struct cluster_view *v, const char *name)
{
    struct column *c = *bucket_of(v, name);

    while (c != NULL && strcmp(c->name, name) != 0)
        c = c->next;
    return c;
}

static void chain(struct cluster_view *v, struct column *c)
{
    struct column **b = bucket_of(v, c->name);

    c->next = *b;
    *b = c;
}

static struct column *make_column(struct cluster_view *v, const char *name)
{
    struct column *c = xcalloc(1, sizeof *c);

    memcpy(c->name, name, strnlen(name, sizeof c->name - 1));
    if (v->n_columns == v->columns_room) {
        v->columns_room = 2 * v->columns_room + 16;
        v->columns = xrealloc(v->columns, v->columns_room * sizeof(struct column *));
    }
    if (v->n_columns == v->n_buckets) {
        free(v->buckets);
        v->n_buckets *= 2;
        v->buckets = xcalloc(v->n_buckets, sizeof(struct column *));
        for (unsigned i = 0; i < v->n_columns; i++)
            chain(v, v->columns[i]);
    }
    c->at = v->n_columns;
    v->columns[v->n_columns++] = c;
    chain(v, c);
    return c;
}

static void drop_column(struct cluster_view *v, struct column *c)
{
    struct column **p = bucket_of(v, c->name);

    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    v->columns[c->at] = v->columns[--v->n_columns];
    v->columns[c->at]->at = c->at;
    free_column(c);
}

static bool is_dense(const struct cluster_view *v, const struct column *c)
{
    return c->n == v->n_rows;
}

/* The first cell of this row or a later one. */
static unsigned cell_at(const struct column *c, uint32_t row)
{
    unsigned low = 0, high = c->n;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (c->row[mid] < row)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The row's cell, or c->n. */
static unsigned find_cell(const struct column *c, uint32_t row)
{
    unsigned i = cell_at(c, row);

    return i < c->n && c->row[i] == row ? i : c->n;
}

static void shift(int64_t *v, unsigned to, unsigned from, unsigned n)
{
    memmove(v + to, v + from, n * sizeof *v);
}

static unsigned insert_cell(struct column *c, uint32_t row)
{
    unsigned i = cell_at(c, row);

    if (c->n == c->room) {
        c->room = 2 * c->room + 4;
        c->row = xrealloc(c->row, c->room * sizeof *c->row);
        c->total = xrealloc(c->total, c->room * sizeof *c->total);
        c->available = xrealloc(c->available, c->room * sizeof *c->available);
        c->reported = xrealloc(c->reported, c->room * sizeof *c->reported);
    }
    memmove(c->row + i + 1, c->row + i, (c->n - i) * sizeof *c->row);
    shift(c->total, i + 1, i, c->n - i);
    shift(c->available, i + 1, i, c->n - i);
    shift(c->reported, i + 1, i, c->n - i);
    c->row[i] = row;
    c->n++;
    return i;
}

static void remove_cell(struct cluster_view *v, struct column *c, unsigned i)
{
    c->n--;
    memmove(c->row + i, c->row + i + 1, (c->n - i) * sizeof *c->row);
    shift(c->total, i, i + 1, c->n - i);
    shift(c->available, i, i + 1, c->n - i);
    shift(c->reported, i, i + 1, c->n - i);
    if (c->n == 0)
        drop_column(v, c);
}

/* --- rows --- */

/* The first row of this number or a later one. */
static uint32_t row_at(const struct cluster_view *v, uint32_t number)
{
    uint32_t low = 0, high = v->n_rows;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (v->rows[mid].number < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The node's row, or v->n_rows. */
static uint32_t find_row(const struct cluster_view *v, uint32_t number)
{
    uint32_t i = row_at(v, number);

    return i < v->n_rows && v->rows[i].number == number ? i : v->n_rows;
}

/* All cells of this row and later ones are by that many rows further on. */
static void renumber(const struct cluster_view *v, uint32_t row, uint32_t by)
{
    for (unsigned k = 0; k < v->n_columns; k++) {
        const struct column *c = v->columns[k];
        for (unsigned i = cell_at(c, row); i < c->n; i++)
            c->row[i] += by;
    }
}

static uint32_t insert_row(struct cluster_view *v, uint32_t number)
{
    uint32_t i = row_at(v, number);

    if (v->n_rows == v->room) {
        v->room = 2 * v->room + 16;
        v->rows = xrealloc(v->rows, v->room * sizeof *v->rows);
        v->rank = xrealloc(v->rank, v->room);
        v->keys = xrealloc(v->keys, v->room + BLOCK);
    }
    renumber(v, i, 1);
    memmove(v->rows + i + 1, v->rows + i, (v->n_rows - i) * sizeof *v->rows);
    memmove(v->rank + i + 1, v->rank + i, v->n_rows - i);
    v->rows[i] =
        (struct row){.number = number, .has = xcalloc(NODE_RESOURCES_MAX, sizeof(struct column *))};
    v->rank[i] = 0;
    v->n_rows++;
    return i;
}

static uint8_t rank_of(const struct cluster_view *v, uint32_t row)
{
    static const char *const critical[] = {"CPU", "memory", "object_store_memory"};
    const struct row *r = &v->rows[row];
    unsigned rank = 0;

    if (r->is_draining)
        return NONE;
    if (r->is_held)
        return HELD;
    for (unsigned k = 0; k < r->n_has; k++) {
        const struct column *c = r->has[k];
        if (strcmp(c->name, "GPU") == 0)
            rank |= GPU;
        for (size_t j = 0; j < sizeof critical / sizeof critical[0]; j++) {
            if (strcmp(c->name, critical[j]) != 0)
                continue;
            unsigned i = find_cell(c, row), used = HALF + 1;
            if (c->available[i] > 0) {
                double share = 1 - (double)c->available[i] / (double)c->total[i];
                used = share < 0.5 ? 0 : 1 + (unsigned)((share - 0.5) * 2 * HALF);
            }
            if (used > (rank & (GPU - 1)))
                rank = (rank & GPU) | used;
        }
    }
    return (uint8_t)rank;
}

static void set_due(struct cluster_view *v, struct row *r, uint64_t at_ms)
{
    r->due_ms = at_ms;
    if (at_ms < v->next_due_ms)
        v->next_due_ms = at_ms;
}

/* What was debited of the row since its last report is there again. */
static void end_debits(struct cluster_view *v, uint32_t row)
{
    struct row *r = &v->rows[row];

    for (unsigned k = 0; k < r->n_has; k++) {
        unsigned i = find_cell(r->has[k], row);
        r->has[k]->available[i] = r->has[k]->reported[i];
    }
    r->n_sent = 0;
    r->is_held = r->has_rejected = false;
    r->due_ms = 0;
    v->rank[row] = rank_of(v, row);
}

static void expire(struct cluster_view *v, uint64_t now_ms)
{
    if (now_ms < v->next_due_ms)
        return;
    v->next_due_ms = UINT64_MAX;
    for (uint32_t i = 0; i < v->n_rows; i++) {
        if (v->rows[i].due_ms == 0)
            continue;
        if (now_ms >= v->rows[i].due_ms)
            end_debits(v, i);
        else
            set_due(v, &v->rows[i], v->rows[i].due_ms);
    }
}

static void remove_has(struct cluster_view *v, uint32_t row, unsigned k)
{
    struct row *r = &v->rows[row];

    remove_cell(v, r->has[k], find_cell(r->has[k], row));
    r->has[k] = r->has[--r->n_has];
}

/* As another node says: any number. */
static void say_available(struct column *c, unsigned i, int64_t available)
{
    if (available < -RESOURCE_UNITS_MAX)
        available = -RESOURCE_UNITS_MAX;
    c->reported[i] = c->available[i] = available < c->total[i] ? available : c->total[i];
}

/* A column is where the row was told of that name before, or at k: reports name what they name in
 * one order. */
static void set_cell(struct cluster_view *v,
                     uint32_t row,
                     unsigned k,
                     const char *name,
                     int64_t total,
                     int64_t available)
{
    struct row *r = &v->rows[row];
    unsigned i, at = k;

    if (at >= r->n_has || strcmp(r->has[at]->name, name) != 0)
        for (at = k; at < r->n_has && strcmp(r->has[at]->name, name) != 0;)
            at++;
    if (at < r->n_has) {
        i = find_cell(r->has[at], row);
    } else {
        if (r->n_has == NODE_RESOURCES_MAX) /* it lost at least one */
            remove_has(v, row, r->n_has - 1);
        struct column *c = find_column(v, name);
        if (c == NULL)
            c = make_column(v, name);
        i = insert_cell(c, row);
        at = r->n_has++;
        r->has[at] = c;
    }
    struct column *c = r->has[at];
    r->has[at] = r->has[k];
    r->has[k] = c;
    c->total[i] = total < RESOURCE_UNITS_MAX ? total : RESOURCE_UNITS_MAX;
    say_available(c, i, available);
}

void cluster_view_set(struct cluster_view *v, const struct node_view *n)
{
    uint32_t row = find_row(v, n->number);
    unsigned k = 0;

    if (!n->is_alive) {
        cluster_view_remove(v, n->number);
        return;
    }
    if (row == v->n_rows)
        row = insert_row(v, n->number);
    struct row *r = &v->rows[row];
    r->is_draining = n->is_draining;
    if (n->number == v->self) {
        v->rank[row] = rank_of(v, row);
        return;
    }
    r->n_waiting = n->n_waiting;
    for (uint32_t i = 0; i < n->n_resources && i < NODE_RESOURCES_MAX; i++) {
        const struct node_view_resource *from = &n->resources[i];
        unsigned twice = 0;
        if (from->total <= 0 || memchr(from->name, '\0', sizeof from->name) == NULL)
            continue;
        while (twice < k && strcmp(r->has[twice]->name, from->name) != 0)
            twice++;
        if (twice == k)
            set_cell(v, row, k++, from->name, from->total, from->available);
    }
    while (r->n_has > k)
        remove_has(v, row, r->n_has - 1);
    end_debits(v, row);
}

void cluster_view_set_self(struct cluster_view *v, const struct resources *from)
{
    uint32_t row = find_row(v, v->self);
    unsigned k = 0;

    if (row == v->n_rows)
        row = insert_row(v, v->self);
    struct row *r = &v->rows[row];
    for (unsigned i = 0; i < from->n; i++)
        if (from->total[i] > 0)
            set_cell(v, row, k++, from->names[i], from->total[i], from->available[i]);
    while (r->n_has > k)
        remove_has(v, row, r->n_has - 1);
    end_debits(v, row);
}

void cluster_view_remove(struct cluster_view *v, uint32_t number)
{
    uint32_t row = find_row(v, number);

    if (row == v->n_rows)
        return;
    while (v->rows[row].n_has > 0)
        remove_has(v, row, v->rows[row].n_has - 1);
    free(v->rows[row].has);
    v->n_rows--;
    memmove(v->rows + row, v->rows + row + 1, (v->n_rows - row) * sizeof *v->rows);
    memmove(v->rank + row, v->rank + row + 1, v->n_rows - row);
    renumber(v, row + 1, UINT32_MAX); /* one less */
}

/* --- the pick --- */

/* What a request names: the shortest column first. */
struct wanted {
    unsigned n;
    const struct column *column[RESOURCES_MAX];
    int64_t units[RESOURCES_MAX];
};

/* false: nobody has some of it. */
static bool resolve(const struct cluster_view *v,
                    const struct res_amount *need,
                    unsigned n,
                    struct wanted *w)
{
    w->n = 0;
    for (unsigned i = 0; i < n; i++) {
        if (need[i].units <= 0)
            continue;
        const struct column *c = find_column(v, need[i].name);
        if (c == NULL || w->n == RESOURCES_MAX || need[i].units > RESOURCE_UNITS_MAX)
            return false;
        w->column[w->n] = c;
        w->units[w->n] = need[i].units;
        if (c->n < w->column[0]->n) {
            w->column[w->n] = w->column[0];
            w->units[w->n] = w->units[0];
            w->column[0] = c;
            w->units[0] = need[i].units;
        }
        w->n++;
    }
    return true;
}

/* 0 or 1, without a branch and in a way that compilers do to several at once. */
static uint8_t lacks(int64_t has, int64_t units)
{
    return (uint8_t)((uint64_t)(has - units) >> 63);
}

/* Keys of cells whose row has too little of the column become NONE. */
static void sieve(const struct cluster_view *v,
                  const struct column *first,
                  const struct column *c,
                  const int64_t *has,
                  int64_t units)
{
    uint8_t *restrict keys = v->keys;
    const uint32_t *row = first->row, *its = c->row;
    unsigned n = first->n, n_its = c->n, j = 0;

    if (c == first || is_dense(v, first)) { /* c is no shorter */
        for (unsigned i = 0; i < n; i++)
            keys[i] |= (uint8_t)-lacks(has[i], units);
    } else if (is_dense(v, c)) {
        for (unsigned i = 0; i < n; i++)
            keys[i] |= (uint8_t)-lacks(has[row[i]], units);
    } else {
        for (unsigned i = 0; i < n; i++) {
            while (j < n_its && its[j] < row[i])
                j++;
            if (j == n_its || its[j] != row[i] || has[j] < units)
                keys[i] = NONE;
        }
    }
}

/* Fills the keys: a cell's rank, HELD too, or NONE. Returns how many there are. */
static unsigned make_keys(const struct cluster_view *v, const struct wanted *w, bool of_total)
{
    unsigned n = w->n == 0 ? v->n_rows : w->column[0]->n;

    if (n == v->n_rows)
        memcpy(v->keys, v->rank, n);
    else
        for (unsigned i = 0; i < n; i++)
            v->keys[i] = v->rank[w->column[0]->row[i]];
    for (unsigned k = 0; k < w->n; k++)
        sieve(v,
              w->column[0],
              w->column[k],
              of_total ? w->column[k]->total : w->column[k]->available,
              w->units[k]);
    memset(v->keys + n, NONE, BLOCK);
    return n;
}

static uint32_t row_of(const struct wanted *w, unsigned cell)
{
    return w->n == 0 ? cell : w->column[0]->row[cell];
}

/* The cell of this row, or n. */
static unsigned cell_of(const struct wanted *w, unsigned n, uint32_t row)
{
    if (w->n > 0)
        return find_cell(w->column[0], row);
    return row < n ? row : n;
}

/* How many of a block are below this key. */
static unsigned count_block(const uint8_t *keys, uint8_t key)
{
    uint8_t n_below = 0;

    for (int i = 0; i < BLOCK; i++)
        n_below += keys[i] < key;
    return n_below;
}

/* Of these keys and what is behind them up to a whole block. */
static unsigned count_below(const uint8_t *keys, unsigned n, uint8_t key)
{
    unsigned n_below = 0;

    for (unsigned i = 0; i < n; i += BLOCK)
        n_below += count_block(keys + i, key);
    return n_below;
}

/* Of the cells with this key the k-th; there is one. */
static unsigned kth(const uint8_t *keys, uint8_t key, unsigned k)
{
    unsigned i = 0, n_here;

    for (;; i += BLOCK) {
        n_here = count_block(keys + i, (uint8_t)(key + 1)) - count_block(keys + i, key);
        if (n_here > k)
            break;
        k -= n_here;
    }
    while (keys[i] != key || k-- > 0)
        i++;
    return i;
}

/* One of the best few by key, then by row; the best key is best, and all are below end. */
static unsigned throw_dice(struct cluster_view *v, unsigned n, uint8_t best, uint8_t end)
{
    unsigned top = v->n_rows / TOP_SHARE, n_all = count_below(v->keys, n, end);

    if (top > n_all)
        top = n_all;
    unsigned k = top > 1 ? (unsigned)below(v, top) : 0, low = best, high = end - 1;
    while (low < high) { /* the least key that more than k are not above */
        unsigned mid = (low + high) / 2;
        if (count_below(v->keys, n, (uint8_t)(mid + 1)) > k)
            high = mid;
        else
            low = mid + 1;
    }
    return kth(v->keys, (uint8_t)low, k - count_below(v->keys, n, (uint8_t)low));
}

/* This row if it could ever take it; else of those that could the one with the fewest that wait, of
 * several any. */
static enum view_pick pick_queue(struct cluster_view *v, const struct wanted *w, uint32_t *number)
{
    unsigned n = make_keys(v, w, true), self = cell_of(w, n, find_row(v, v->self)), best = n;
    uint64_t fewest = UINT64_MAX;
    bool is_held = false;

    if (self < n && v->keys[self] < HELD)
        return VIEW_WAIT_HERE;
    unsigned start = n > 0 ? (unsigned)below(v, n) : 0;
    for (unsigned k = 0; k < n; k++) {
        unsigned i = k + start < n ? k + start : k + start - n;
        const struct row *r = &v->rows[row_of(w, i)];
        uint64_t n_waiting = (uint64_t)r->n_waiting + r->n_sent;
        is_held |= v->keys[i] == HELD || (v->keys[i] < HELD && r->has_rejected);
        if (v->keys[i] < HELD && !r->has_rejected && n_waiting < fewest) {
            fewest = n_waiting;
            best = i;
        }
    }
    if (best == n)
        return is_held ? VIEW_WAIT_HERE : VIEW_NOWHERE;
    *number = v->rows[row_of(w, best)].number;
    return VIEW_WAIT_THERE;
}

enum view_pick cluster_view_pick(struct cluster_view *v,
                                 const struct res_amount *need,
                                 unsigned n_need,
                                 uint64_t now_ms,
                                 uint32_t *number)
{
    struct wanted w;
    bool wants_gpu = false;
    uint8_t best = NONE;

    expire(v, now_ms);
    *number = v->self;
    if (!resolve(v, need, n_need, &w))
        return VIEW_NOWHERE;
    for (unsigned k = 0; k < w.n; k++)
        wants_gpu |= strcmp(w.column[k]->name, "GPU") == 0;
    unsigned n = make_keys(v, &w, false);
    if (wants_gpu)
        for (unsigned i = 0; i < n; i++)
            v->keys[i] &= v->keys[i] < HELD ? GPU - 1 : NONE;
    for (unsigned i = 0; i < n; i++)
        best = v->keys[i] < best ? v->keys[i] : best;
    if (best >= HELD)
        return pick_queue(v, &w, number);
    unsigned cell = cell_of(&w, n, find_row(v, v->self));
    if (cell == n || v->keys[cell] != best)
        cell = throw_dice(v, n, best, best < GPU ? GPU : 2 * GPU);
    *number = v->rows[row_of(&w, cell)].number;
    return *number == v->self ? VIEW_HERE : VIEW_THERE;
}

bool cluster_view_may_ask(struct cluster_view *v,
                          uint32_t number,
                          const struct res_amount *need,
                          unsigned n,
                          uint64_t now_ms)
{
    uint32_t row = find_row(v, number);
    struct wanted w;

    expire(v, now_ms);
    if (number == v->self || row == v->n_rows || !resolve(v, need, n, &w))
        return false;
    const struct row *r = &v->rows[row];
    for (unsigned k = 0; k < w.n; k++) {
        unsigned i = find_cell(w.column[k], row);
        if (i == w.column[k]->n || w.column[k]->total[i] < w.units[k])
            return false;
    }
    return !r->is_draining && !r->is_held && !r->has_rejected;
}

/* --- what was sent, and what came back --- */

void cluster_view_debit(struct cluster_view *v,
                        uint32_t number,
                        const struct res_amount *need,
                        unsigned n,
                        uint32_t k,
                        uint64_t now_ms)
{
    uint32_t row = find_row(v, number);

    if (row == v->n_rows)
        return;
    expire(v, now_ms);
    struct row *r = &v->rows[row];
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < r->n_has; j++)
            if (strcmp(r->has[j]->name, need[i].name) == 0) {
                int64_t *has = &r->has[j]->available[find_cell(r->has[j], row)], taken;
                if (__builtin_mul_overflow(need[i].units, (int64_t)k, &taken) || taken > *has)
                    taken = *has > 0 ? *has : 0;
                *has -= taken;
            }
    set_due(v, r, now_ms + VIEW_DEBIT_MS);
    v->rank[row] = rank_of(v, row);
}

void cluster_view_add_waiting(struct cluster_view *v, uint32_t number, uint32_t k, uint64_t now_ms)
{
    uint32_t row = find_row(v, number);

    if (row == v->n_rows)
        return;
    expire(v, now_ms);
    v->rows[row].n_sent += k;
    set_due(v, &v->rows[row], now_ms + VIEW_DEBIT_MS);
}

void cluster_view_rejected(struct cluster_view *v,
                           uint32_t number,
                           const struct res_amount *need,
                           unsigned n,
                           const struct res_amount *said,
                           unsigned n_said,
                           uint64_t now_ms)
{
    uint32_t row = find_row(v, number);
    bool fits = true;

    if (row == v->n_rows)
        return;
    expire(v, now_ms);
    struct row *r = &v->rows[row];
    for (unsigned j = 0; j < r->n_has; j++) {
        struct column *c = r->has[j];
        unsigned at = find_cell(c, row);
        for (unsigned i = 0; i < n_said; i++)
            if (strcmp(c->name, said[i].name) == 0)
                say_available(c, at, said[i].units);
        for (unsigned i = 0; i < n; i++)
            if (strcmp(c->name, need[i].name) == 0 && need[i].units > 0
                && need[i].units > c->available[at])
                fits = false;
    }
    r->is_held |= fits;
    r->has_rejected = true;
    set_due(v, r, now_ms + VIEW_DEBIT_MS);
    v->rank[row] = rank_of(v, row);
}

/* --- queries --- */

unsigned cluster_view_count(const struct cluster_view *v)
{
    return v->n_rows;
}

int64_t cluster_view_available(const struct cluster_view *v, uint32_t number, const char *name)
{
    const struct column *c = find_column(v, name);
    uint32_t row = find_row(v, number);

    if (c == NULL || row == v->n_rows)
        return 0;
    unsigned i = find_cell(c, row);
    return i < c->n ? c->available[i] : 0;
}

bool cluster_view_sum(const struct cluster_view *v,
                      unsigned i,
                      const char **name,
                      int64_t *total,
                      int64_t *available)
{
    if (i >= v->n_columns)
        return false;
    const struct column *c = v->columns[i];
    *name = c->name;
    *total = *available = 0;
    for (unsigned k = 0; k < c->n; k++) {
        *total += c->total[k];
        *available += c->available[k] > 0 ? c->available[k] : 0;
    }
    return true;
}

void cluster_view_selfcheck(const struct cluster_view *v)
{
    unsigned n_cells = 0;

    for (unsigned k = 0; k < v->n_columns; k++) {
        const struct column *c = v->columns[k];
        ASSERT(c->n > 0 && c->at == k && find_column(v, c->name) == c);
        for (unsigned i = 0; i < c->n; i++) {
            ASSERT(c->row[i] < v->n_rows && (i == 0 || c->row[i - 1] < c->row[i]));
            ASSERT(c->total[i] > 0 && c->available[i] <= c->reported[i]
                   && c->reported[i] <= c->total[i]);
            if (c->available[i] != c->reported[i])
                ASSERT(v->rows[c->row[i]].due_ms != 0);
        }
        n_cells += c->n;
    }
    for (uint32_t i = 0; i < v->n_rows; i++) {
        const struct row *r = &v->rows[i];
        ASSERT(i == 0 || v->rows[i - 1].number < r->number);
        for (unsigned k = 0; k < r->n_has; k++)
            ASSERT(find_cell(r->has[k], i) < r->has[k]->n);
        ASSERT(v->rank[i] == rank_of(v, i));
        ASSERT(r->due_ms == 0 || r->due_ms >= v->next_due_ms);
        ASSERT(r->due_ms != 0 || (!r->is_held && !r->has_rejected && r->n_sent == 0));
        n_cells -= r->n_has;
    }
    ASSERT(n_cells == 0);
}
