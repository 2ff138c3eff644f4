/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/select.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cmd/ray/query.h"

struct filter {
    char key[48];
    const char *value;
    bool is_not;
};

static int parse(const char *word, struct filter *out, struct err *err)
{
    const char *sign = strchr(word, '=');
    size_t n = sign != NULL ? (size_t)(sign - word) : 0;

    out->is_not = n > 0 && word[n - 1] == '!';
    n -= out->is_not;
    if (n == 0 || n >= sizeof out->key) {
        err_set(err,
                ERR_INVALID,
                "--filter must be KEY=VALUE or KEY!=VALUE, as state=ALIVE, not %.60s",
                word);
        return -1;
    }
    snprintf(out->key, sizeof out->key, "%.*s", (int)n, word);
    out->value = sign + 1;
    return 0;
}

static int check_key(const json_t *row, const char *wanted, struct err *err)
{
    char keys[400] = "";
    size_t at = 0;
    const char *key;
    json_t *value;

    if (json_object_get(row, wanted) != NULL)
        return 0;
    json_object_foreach((json_t *)(uintptr_t)row, key, value) if (at < sizeof keys) at +=
        (size_t)snprintf(keys + at, sizeof keys - at, "%s%s", at > 0 ? ", " : "", key);
    return err_set(err, ERR_INVALID, "--filter: there is no %s; there are %s", wanted, keys);
}

static bool holds(const json_t *row, const struct filter *f)
{
    char *text = text_of_json(json_object_get(row, f->key));
    bool is_equal = strcasecmp(text, f->value) == 0;

    free(text);
    return is_equal != f->is_not;
}

int64_t select_rows(json_t *rows, const struct flag_words *filters, int64_t limit, struct err *err)
{
    struct filter f[FLAG_WORDS_MAX];
    const json_t *first = json_array_get(rows, 0);
    int64_t n_left_out = 0;
    size_t i = 0, n = filters->n;

    for (size_t k = 0; k < n; k++)
        if (parse(filters->v[k], &f[k], err) != 0
            || (first != NULL && check_key(first, f[k].key, err) != 0))
            return -1;
    while (i < json_array_size(rows)) {
        bool is_wanted = true;
        for (size_t k = 0; k < n && is_wanted; k++)
            is_wanted = holds(json_array_get(rows, i), &f[k]);
        n_left_out += is_wanted && (int64_t)i >= limit;
        if (is_wanted && (int64_t)i < limit)
            i++;
        else
            json_array_remove(rows, i);
    }
    return n_left_out;
}
