/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A pick walks the shortest column that the request names, marks in a byte for each
 * of its cells whether the row has enough of it and of the others, and how used it is, and chooses
 * among the bytes. A column that all rows are in is read by row; else two columns are walked side
 * by side. It divides nothing: ranks are there.
 */
#include <string.h>

#include "raylet/cluster_view_private.h"

#define TOP_SHARE 5 /* the dice choose among one in so many nodes */

static uint64_t below(struct cluster_view *v, uint64_t n)
{
    v->random ^= v->random << 13;
    v->random ^= v->random >> 7;
    v->random ^= v->random << 17;
    return (v->random >> 16) % n;
}

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
        const struct column *c = view_find_column(v, need[i].name);
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

static bool is_dense(const struct cluster_view *v, const struct column *c)
{
    return c->n == v->n_rows;
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
        return view_find_cell(w->column[0], row);
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
    unsigned n = make_keys(v, w, true), self = cell_of(w, n, view_find_row(v, v->self)), best = n;
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

    view_expire(v, now_ms);
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
    unsigned cell = cell_of(&w, n, view_find_row(v, v->self));
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
    uint32_t row = view_find_row(v, number);
    struct wanted w;

    view_expire(v, now_ms);
    if (number == v->self || row == v->n_rows || !resolve(v, need, n, &w))
        return false;
    const struct row *r = &v->rows[row];
    for (unsigned k = 0; k < w.n; k++) {
        unsigned i = view_find_cell(w.column[k], row);
        if (i == w.column[k]->n || w.column[k]->total[i] < w.units[k])
            return false;
    }
    return !r->is_draining && !r->is_held && !r->has_rejected;
}
