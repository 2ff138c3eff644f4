/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_QUERY_H
#define CMD_RAY_QUERY_H
/*
 * What the subcommands of `ray` that ask the GCS share: flags, rows as JSON, tables.
 */
#include <jansson.h>

#include "gcs/query_codec.h"
#include "lib/base/flags.h"

/* Flags that all have. */
struct query_flags {
    const char *format, *timeout;
    bool is_json;
    int timeout_ms;
};
#define QUERY_FLAGS(q)                                                                             \
    FLAG_SETTING(ADDRESS), FLAG_SETTING(TEMP_DIR),                                                 \
        {.name = "format", .text = &(q).format, .unit = "table|json", .help = "(table)"},          \
    {                                                                                              \
        .name = "timeout", .text = &(q).timeout, .unit = "SECONDS", .help = "for an answer (5)"    \
    }
/* As flags_parse, with the settings of the environment. */
int query_parse(const struct flags *f,
                int argc,
                char **argv,
                struct config *c,
                struct query_flags *q);

/* A string; where it is no UTF-8, its foreign bytes become question marks. */
json_t *text_as_json(const char *text);
/* A value as tables show it, to be freed. Objects in one line: "CPU: 2, disk: 0.5". */
char *text_of_json(const json_t *v);
/* An array of objects with the keys that Ray's lists have. */
json_t *nodes_as_json(const struct node_row *rows, size_t n);
json_t *jobs_as_json(const struct query_job *rows, size_t n);
#define QUERY_COLUMNS_MAX 16
/* Rows, objects all, as a table with these columns (keys, the last NULL). */
void print_table(const json_t *rows, const char *const *columns);
/* One as a line, without what is empty. */
void print_row(const json_t *row, const char *const *columns);
/* A number as Ray prints it: without zeros behind the point. */
void format_amount(double amount, char *out, size_t size);
/* The same of a resource; of memory, in bytes: "16.50GiB". */
void format_resource(const char *name, double amount, char *out, size_t size);

#endif /* CMD_RAY_QUERY_H */
