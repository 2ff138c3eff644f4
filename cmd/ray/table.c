/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/ray/query.h"
#include "lib/base/alloc.h"

void format_amount(double amount, char *out, size_t size)
{
    snprintf(out, size, "%.4f", amount);
    size_t n = strlen(out);
    while (n > 0 && out[n - 1] == '0')
        out[--n] = '\0';
    if (n > 0 && out[n - 1] == '.')
        out[n - 1] = '\0';
}

void format_resource(const char *name, double amount, char *out, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    size_t unit = 0;

    if (strcmp(name, "memory") != 0) {
        format_amount(amount, out, size);
        return;
    }
    for (; amount >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        amount /= 1024;
    snprintf(out, size, unit == 0 ? "%.0f%s" : "%.2f%s", amount, units[unit]);
}

json_t *text_as_json(const char *text)
{
    json_t *j = json_string(text);

    if (j != NULL)
        return j;
    char *copy = xstrdup(text);
    for (char *c = copy; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    j = json_string(copy);
    free(copy);
    return j;
}

char *text_of_json(const json_t *v)
{
    char *text = NULL, amount[64];
    size_t size;
    const char *key;
    json_t *item;
    FILE *out;
    bool first = true;

    if (json_is_string(v))
        return xstrdup(json_string_value(v));
    if (json_is_number(v)) {
        format_amount(json_number_value(v), amount, sizeof amount);
        return xstrdup(amount);
    }
    if (json_is_boolean(v))
        return xstrdup(json_is_true(v) ? "true" : "false");
    if (!json_is_object(v) || (out = open_memstream(&text, &size)) == NULL)
        return xstrdup("-");
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        char *one = text_of_json(item);
        fprintf(out, "%s%s: %s", first ? "" : ", ", key, one);
        first = false;
        free(one);
    }
    fclose(out);
    return text;
}

void print_table(const json_t *rows, const char *const *columns)
{
    size_t width[QUERY_COLUMNS_MAX], n = 0, i;
    const json_t *row;

    for (; columns[n] != NULL && n < QUERY_COLUMNS_MAX; n++) {
        width[n] = strlen(columns[n]);
        json_array_foreach((json_t *)(uintptr_t)rows, i, row)
        {
            char *text = text_of_json(json_object_get(row, columns[n]));
            width[n] = strlen(text) > width[n] ? strlen(text) : width[n];
            free(text);
        }
    }
    for (size_t k = 0; k < n; k++) {
        char head[40];
        snprintf(head, sizeof head, "%s", columns[k]);
        for (char *c = head; *c != '\0'; c++)
            *c = (char)toupper((unsigned char)*c);
        printf("%-*s%s", k + 1 < n ? (int)width[k] : 0, head, k + 1 < n ? "  " : "\n");
    }
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        for (size_t k = 0; k < n; k++) {
            char *text = text_of_json(json_object_get(row, columns[k]));
            printf("%-*s%s",
                   k + 1 < n ? (int)width[k] : 0,
                   text[0] != '\0' ? text : "-",
                   k + 1 < n ? "  " : "\n");
            free(text);
        }
    }
}

void print_row(const json_t *row, const char *const *columns)
{
    bool first = true;

    for (; *columns != NULL; columns++) {
        char *text = text_of_json(json_object_get(row, *columns));
        if (text[0] != '\0')
            printf("%s%s", first ? "" : "  ", text);
        first = first && text[0] == '\0';
        free(text);
    }
    putchar('\n');
}
