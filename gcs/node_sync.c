/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/node_sync.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define BUCKETS 1024

struct node_sync {
    struct node_sync_row *buckets[BUCKETS];
    struct list by_version;
    struct list by_heard[2]; /* of living ones, the most silent first: nodes, drivers' nodes */
    uint64_t driver_ms;
    uint64_t version;
    uint64_t listened_ms, last_ms; /* time that counts; when it was measured, 0: never */
    uint64_t forgiven_ms;          /* silence before that does not count */
    uint64_t patience_ms, waited_ms;
    bool is_waiting;
    size_t n_dead;
};

/* From when on its silence counts. */
static uint64_t silent_since(const struct node_sync *s, const struct node_sync_row *row)
{
    return row->heard_ms > s->forgiven_ms ? row->heard_ms : s->forgiven_ms;
}

static unsigned bucket_of(const struct unique_id *id)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < sizeof id->bytes; i++)
        h = (h ^ id->bytes[i]) * 16777619u;
    return h % BUCKETS;
}

struct node_sync *node_sync_create(uint64_t driver_ms)
{
    struct node_sync *s = xcalloc(1, sizeof *s);

    list_init(&s->by_version);
    list_init(&s->by_heard[0]);
    list_init(&s->by_heard[1]);
    s->driver_ms = driver_ms > 0 ? driver_ms : NODE_SYNC_DRIVER_MS;
    return s;
}

static void free_row(struct node_sync_row *row)
{
    free(row->view);
    free(row->death);
    free(row->packed);
    free(row);
}

void node_sync_destroy(struct node_sync *s)
{
    if (s == NULL)
        return;
    list_for_each_safe(at, &s->by_version)
        free_row(list_entry(at, struct node_sync_row, by_version));
    free(s);
}

static void changed(struct node_sync *s, struct node_sync_row *row)
{
    row->version = ++s->version;
    if (row->view != NULL)
        row->view->version = row->version;
    list_remove(&row->by_version);
    list_append(&s->by_version, &row->by_version);
    free(row->packed);
    row->packed = NULL;
}

static void heard(struct node_sync *s, struct node_sync_row *row)
{
    row->heard_ms = s->listened_ms;
    list_remove(&row->by_heard);
    list_append(&s->by_heard[row->is_driver], &row->by_heard);
}

struct node_sync_row *node_sync_find(const struct node_sync *s, const struct unique_id *id)
{
    for (struct node_sync_row *row = s->buckets[bucket_of(id)]; row != NULL; row = row->next)
        if (unique_id_eq(&row->id, id))
            return row;
    return NULL;
}

struct node_sync_row *node_sync_find_number(const struct node_sync *s, uint32_t number)
{
    list_for_each(at, &s->by_version)
    {
        struct node_sync_row *row = list_entry(at, struct node_sync_row, by_version);
        if (row->number == number)
            return row;
    }
    return NULL;
}

struct node_sync_row *node_sync_add(struct node_sync *s, const struct node_view *v)
{
    struct node_sync_row *row = node_sync_find(s, &v->id);
    unsigned b = bucket_of(&v->id);

    if (row != NULL)
        return row;
    row = xcalloc(1, sizeof *row);
    row->id = v->id;
    row->number = v->number;
    row->is_driver = v->is_driver;
    row->view = xmalloc(sizeof *row->view);
    *row->view = *v;
    list_init(&row->by_version);
    list_init(&row->by_heard);
    row->next = s->buckets[b];
    s->buckets[b] = row;
    if (v->is_alive) {
        changed(s, row);
        heard(s, row);
    } else {
        node_sync_set_dead(s, row, v->death);
    }
    return row;
}

static bool says_the_same(const struct node_view *a, const struct node_view *b)
{
    if (a->is_draining != b->is_draining || a->n_waiting != b->n_waiting
        || a->n_resources != b->n_resources)
        return false;
    for (uint32_t i = 0; i < a->n_resources; i++)
        if (strcmp(a->resources[i].name, b->resources[i].name) != 0
            || a->resources[i].total != b->resources[i].total
            || a->resources[i].available != b->resources[i].available)
            return false;
    return true;
}

void node_sync_report(struct node_sync *s,
                      struct node_sync_row *row,
                      const struct node_view *said,
                      uint64_t report)
{
    struct node_view *v = row->view;

    if (row->state != NODE_SYNC_ALIVE)
        return;
    heard(s, row);
    if (report <= row->report)
        return;
    row->report = report;
    if (says_the_same(v, said))
        return;
    v->is_draining = said->is_draining;
    v->n_waiting = said->n_waiting;
    v->n_resources = said->n_resources;
    memcpy(v->resources, said->resources, said->n_resources * sizeof said->resources[0]);
    changed(s, row);
}

bool node_sync_set_dying(struct node_sync_row *row)
{
    if (row->state != NODE_SYNC_ALIVE)
        return false;
    row->state = NODE_SYNC_DYING;
    list_remove(&row->by_heard);
    return true;
}

void node_sync_revive(struct node_sync *s, struct node_sync_row *row)
{
    if (row->state != NODE_SYNC_DYING)
        return;
    row->state = NODE_SYNC_ALIVE;
    heard(s, row);
}

void node_sync_set_dead(struct node_sync *s, struct node_sync_row *row, const char *why)
{
    struct node_view *v = row->view;

    if (row->state == NODE_SYNC_DEAD)
        return;
    row->state = NODE_SYNC_DEAD;
    s->n_dead++;
    row->death = xstrdup(why);
    list_remove(&row->by_heard);
    v->is_alive = false;
    v->n_resources = v->n_waiting = 0;
    if (v->death != why) {
        size_t n = strnlen(why, sizeof v->death - 1);
        memcpy(v->death, why, n);
        v->death[n] = '\0';
    }
    changed(s, row);
}

void node_sync_shrink(struct node_sync_row *row)
{
    if (row->state != NODE_SYNC_DEAD || row->packed == NULL)
        return;
    free(row->view);
    row->view = NULL;
}

static bool is_known_to_all(const struct node_sync *s, uint64_t version)
{
    list_for_each(at, &s->by_version)
    {
        const struct node_sync_row *row = list_entry(at, struct node_sync_row, by_version);
        if (row->state != NODE_SYNC_DEAD && row->knows < version)
            return false;
    }
    return true;
}

struct node_sync_row *node_sync_find_surplus(const struct node_sync *s, size_t keep)
{
    struct node_sync_row *oldest = NULL;

    if (s->n_dead <= keep)
        return NULL;
    list_for_each(at, &s->by_version)
    {
        struct node_sync_row *row = list_entry(at, struct node_sync_row, by_version);
        if (row->state == NODE_SYNC_DEAD && (oldest == NULL || row->died_ms < oldest->died_ms))
            oldest = row;
    }
    return is_known_to_all(s, oldest->version) ? oldest : NULL;
}

void node_sync_forget(struct node_sync *s, struct node_sync_row *row)
{
    struct node_sync_row **at = &s->buckets[bucket_of(&row->id)];

    ASSERT(row->state == NODE_SYNC_DEAD && row->arg == NULL);
    while (*at != row)
        at = &(*at)->next;
    *at = row->next;
    s->n_dead--;
    list_remove(&row->by_version);
    free_row(row);
}

uint64_t node_sync_listened_ms(const struct node_sync *s)
{
    return s->listened_ms;
}

void node_sync_set_patience(struct node_sync *s, uint64_t ms)
{
    s->patience_ms = ms;
}

bool node_sync_is_waiting(const struct node_sync *s)
{
    return s->is_waiting;
}

/* The two nodes of other machines that were heard of last fell silent together, some time ago. */
static bool seems_cut_off(const struct node_sync *s)
{
    uint64_t last = UINT64_MAX;
    const struct list *nodes = &s->by_heard[0];

    for (const struct list *at = nodes->prev; at != nodes; at = at->prev) {
        const struct node_sync_row *row = list_entry(at, struct node_sync_row, by_heard);
        if (row->view->is_head)
            continue;
        if (last != UINT64_MAX)
            return last - silent_since(s, row) < NODE_SYNC_ALONE_MS;
        last = silent_since(s, row);
        if (s->listened_ms - last < NODE_SYNC_ALONE_MS)
            return false;
    }
    return false;
}

/* Whether this time counts as silence. */
static bool does_count(struct node_sync *s, uint64_t step)
{
    bool was_waiting = s->is_waiting, is_cut_off = seems_cut_off(s);

    s->is_waiting = is_cut_off && s->waited_ms < s->patience_ms;
    if (s->is_waiting)
        s->waited_ms += step;
    else if (!is_cut_off)
        s->waited_ms = 0;
    if (was_waiting && !is_cut_off)
        s->forgiven_ms = s->listened_ms; /* others may still be on their way */
    return !s->is_waiting;
}

void node_sync_on_time(struct node_sync *s, uint64_t now_ms)
{
    uint64_t step = s->last_ms != 0 && now_ms > s->last_ms ? now_ms - s->last_ms : 0;

    if (step > 2 * NODE_SYNC_TICK_MS)
        step = 2 * NODE_SYNC_TICK_MS;
    if (does_count(s, step))
        s->listened_ms += step;
    s->last_ms = now_ms;
}

uint64_t node_sync_silence_ms(const struct node_sync *s, const struct node_sync_row *row)
{
    return row->is_driver ? s->driver_ms : NODE_SYNC_SILENCE_MS;
}

struct node_sync_row *node_sync_find_silent(const struct node_sync *s)
{
    for (int i = 0; i < 2; i++) {
        if (list_empty(&s->by_heard[i]))
            continue;
        struct node_sync_row *row = list_entry(s->by_heard[i].next, struct node_sync_row, by_heard);
        if (s->listened_ms - silent_since(s, row) >= node_sync_silence_ms(s, row))
            return row;
    }
    return NULL;
}

uint64_t node_sync_version(const struct node_sync *s)
{
    return s->version;
}

struct node_sync_row *node_sync_after(const struct node_sync *s, uint64_t version)
{
    const struct list *at = &s->by_version;

    while (at->prev != &s->by_version
           && list_entry(at->prev, struct node_sync_row, by_version)->version > version)
        at = at->prev;
    return at != &s->by_version ? list_entry(at, struct node_sync_row, by_version) : NULL;
}

struct node_sync_row *node_sync_next(const struct node_sync *s, const struct node_sync_row *row)
{
    const struct list *at = row->by_version.next;

    return at != &s->by_version ? list_entry(at, struct node_sync_row, by_version) : NULL;
}
