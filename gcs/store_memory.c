/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Rows stand in one array sorted by (table, key). A call is carried out at once,
 * and its completion, with a copy of what it answers, is put at the end of a list, which
 * store_memory_run goes through in order.
 */
#include "gcs/store_memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

struct row {
    char *table, *key;
    void *value;
    size_t size;
};

struct answer {
    struct list node;
    store_done_f done; /* one of the four */
    store_value_f value;
    store_row_f row;
    store_number_f number;
    void *arg;
    enum err_code code;
    char *key;
    void *bytes;
    size_t size;
    uint64_t before;
};

struct store_memory {
    struct store store;
    unsigned magic;
    struct row *rows;
    size_t n_rows, room;
    struct list answers;
    bool is_destroyed;
};
#define STORE_MEMORY_MAGIC 0x53544d45u

#define COUNTERS "counter"

static struct store_memory *self(struct store *s)
{
    struct store_memory *m = (struct store_memory *)s;

    CHECK_MAGIC(m, STORE_MEMORY_MAGIC);
    return m;
}

static void *copy(const void *bytes, size_t size)
{
    void *p = xmalloc(size + 1);

    if (size > 0)
        memcpy(p, bytes, size);
    return p;
}

static void tell_first(struct store_memory *m)
{
    struct answer *a = list_entry(m->answers.next, struct answer, node);

    list_remove(&a->node);
    if (m->is_destroyed && (a->row == NULL || a->key == NULL))
        a->code = ERR_CANCELED;
    bool ok = a->code == ERR_NONE;
    if (a->done != NULL)
        a->done(a->arg, a->code);
    if (a->value != NULL)
        a->value(a->arg, a->code, ok ? a->bytes : NULL, ok ? a->size : 0);
    if (a->row != NULL && (a->key == NULL || !m->is_destroyed))
        a->row(a->arg, a->code, a->key, a->bytes, a->size);
    if (a->number != NULL)
        a->number(a->arg, a->code, ok ? a->before : 0);
    free(a->key);
    free(a->bytes);
    free(a);
}

void store_memory_run(struct store *s)
{
    struct store_memory *m = self(s);

    while (!list_empty(&m->answers))
        tell_first(m);
}

/* Copies what it is given. */
static void answer(struct store_memory *m, const struct answer *given)
{
    struct answer *a = xmalloc(sizeof *a);

    *a = *given;
    if (given->key != NULL)
        a->key = xstrdup(given->key);
    if (given->bytes != NULL)
        a->bytes = copy(given->bytes, given->size);
    list_append(&m->answers, &a->node);
}

static int compare(const struct row *r, const char *table, const char *key)
{
    int c = strcmp(r->table, table);

    return c != 0 ? c : strcmp(r->key, key);
}

/* The place of the first row that is not before (table, key); whether it is that row. */
static size_t find(const struct store_memory *m, const char *table, const char *key, bool *is_there)
{
    size_t low = 0, high = m->n_rows;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare(&m->rows[mid], table, key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *is_there = low < m->n_rows && compare(&m->rows[low], table, key) == 0;
    return low;
}

static void set(struct store_memory *m,
                const char *table,
                const char *key,
                const void *value,
                size_t size)
{
    bool is_there;
    size_t at = find(m, table, key, &is_there);

    if (is_there) {
        free(m->rows[at].value);
    } else {
        if (m->n_rows == m->room) {
            m->room = 2 * m->room + 16;
            m->rows = xrealloc(m->rows, m->room * sizeof *m->rows);
        }
        memmove(&m->rows[at + 1], &m->rows[at], (m->n_rows - at) * sizeof *m->rows);
        m->n_rows++;
        m->rows[at] = (struct row){.table = xstrdup(table), .key = xstrdup(key)};
    }
    m->rows[at].value = copy(value, size);
    m->rows[at].size = size;
}

static void put(struct store *s,
                const char *table,
                const char *key,
                const void *value,
                size_t size,
                enum store_put how,
                store_done_f done,
                void *arg)
{
    struct store_memory *m = self(s);
    struct answer a = {.done = done, .arg = arg};
    bool is_there;

    find(m, table, key, &is_there);
    if (strlen(key) > STORE_KEY_MAX || size > STORE_VALUE_MAX)
        a.code = ERR_INVALID;
    else if (is_there && how == STORE_PUT_NEW)
        a.code = ERR_EXISTS;
    else
        set(m, table, key, value, size);
    answer(m, &a);
}

static void get(struct store *s, const char *table, const char *key, store_value_f done, void *arg)
{
    struct store_memory *m = self(s);
    bool is_there;
    size_t at = find(m, table, key, &is_there);
    struct answer a = {.value = done, .arg = arg, .code = is_there ? ERR_NONE : ERR_NOT_FOUND};

    if (is_there) {
        a.bytes = m->rows[at].value;
        a.size = m->rows[at].size;
    }
    answer(m, &a);
}

static void remove_row(struct store *s,
                       const char *table,
                       const char *key,
                       store_done_f done,
                       void *arg)
{
    struct store_memory *m = self(s);
    bool is_there;
    size_t at = find(m, table, key, &is_there);

    if (is_there) {
        free(m->rows[at].table);
        free(m->rows[at].key);
        free(m->rows[at].value);
        m->n_rows--;
        memmove(&m->rows[at], &m->rows[at + 1], (m->n_rows - at) * sizeof *m->rows);
    }
    answer(m,
           &(struct answer){.done = done, .arg = arg, .code = is_there ? ERR_NONE : ERR_NOT_FOUND});
}

static void scan(struct store *s, const char *table, store_row_f row, void *arg)
{
    struct store_memory *m = self(s);
    bool is_there;

    for (size_t i = find(m, table, "", &is_there);
         i < m->n_rows && strcmp(m->rows[i].table, table) == 0;
         i++)
        answer(m,
               &(struct answer){.row = row,
                                .arg = arg,
                                .key = m->rows[i].key,
                                .bytes = m->rows[i].value,
                                .size = m->rows[i].size});
    answer(m, &(struct answer){.row = row, .arg = arg});
}

static void count(struct store *s, const char *name, uint64_t n, store_number_f done, void *arg)
{
    struct store_memory *m = self(s);
    struct answer a = {.number = done, .arg = arg};
    uint64_t after;
    bool is_there;
    size_t at = find(m, COUNTERS, name, &is_there);

    if (is_there)
        memcpy(&a.before, m->rows[at].value, sizeof a.before);
    if (strlen(name) > STORE_KEY_MAX)
        a.code = ERR_INVALID;
    else if (__builtin_add_overflow(a.before, n, &after))
        a.code = ERR_FULL;
    else
        set(m, COUNTERS, name, &after, sizeof after);
    answer(m, &a);
}

static void destroy(struct store *s)
{
    struct store_memory *m = self(s);

    m->is_destroyed = true;
    while (!list_empty(&m->answers))
        tell_first(m);
    for (size_t i = 0; i < m->n_rows; i++) {
        free(m->rows[i].table);
        free(m->rows[i].key);
        free(m->rows[i].value);
    }
    free(m->rows);
    m->magic = 0;
    free(m);
}

struct store *store_memory_create(void)
{
    static const struct store_ops ops = {.put = put,
                                         .get = get,
                                         .remove = remove_row,
                                         .scan = scan,
                                         .count = count,
                                         .destroy = destroy};
    struct store_memory *m = xcalloc(1, sizeof *m);

    m->store.ops = &ops;
    m->magic = STORE_MEMORY_MAGIC;
    list_init(&m->answers);
    return &m->store;
}
