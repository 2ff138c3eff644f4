/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/demands.h"

#include <stdlib.h>

#include "lib/base/alloc.h"

json_t *needs_as_json(const struct why_class *of)
{
    json_t *needs = json_object();

    for (uint32_t i = 0; i < of->n_need; i++)
        json_object_set_new(needs,
                            of->need[i].name,
                            json_real((double)of->need[i].units / RESOURCE_UNIT));
    return needs;
}

static void add(json_t *sum, const struct why_class *of, uint32_t n)
{
    json_t *needs = needs_as_json(of), *found = NULL;
    size_t i;

    json_array_foreach(sum, i, found)
    {
        if (json_equal(json_object_get(found, "resources"), needs))
            break;
    }
    if (i == json_array_size(sum)) {
        found = json_pack("{s:O, s:i}", "resources", needs, "count", 0);
        json_array_append_new(sum, found);
    }
    json_t *count = json_object_get(found, "count");
    json_integer_set(count, json_integer_value(count) + n);
    json_decref(needs);
}

static int by_count(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "count"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "count"));

    return (x < y) - (x > y);
}

json_t *demands_as_json(const struct nodes *all)
{
    json_t *sum = json_array(), *sorted = json_array();

    for (size_t i = 0; i < all->n; i++) {
        const struct why_state *s = &all->v[i].state;
        for (size_t k = 0; k < s->n_uses; k++)
            if (s->uses[k].n_queued > 0)
                add(sum, &s->uses[k].of, s->uses[k].n_queued);
        for (size_t k = 0; k < s->n_sent; k++) {
            const struct why_node *to = why_view_find(all->v, all->n, s->sent[k].node);
            if (to == NULL || !why_view_has_queued(to, &s->sent[k].of))
                add(sum, &s->sent[k].of, s->sent[k].n); /* else that node tells of them */
        }
    }
    size_t n = json_array_size(sum);
    json_t **v = xcalloc(n + 1, sizeof(json_t *));
    for (size_t i = 0; i < n; i++)
        v[i] = json_array_get(sum, i);
    qsort(v, n, sizeof(json_t *), by_count);
    for (size_t i = 0; i < n; i++)
        json_array_append(sorted, v[i]);
    free(v);
    json_decref(sum);
    return sorted;
}
