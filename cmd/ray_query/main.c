/* SPDX-License-Identifier: Apache-2.0 */
/* The part of `ray` that asks the GCS, which alone is linked with gRPC; `ray` runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/ray_query/commands.h"

int query_parse(const struct flags *f,
                int argc,
                char **argv,
                struct config *c,
                struct query_flags *q)
{
    struct err err;
    char *end;

    if (config_load(c, &err) != 0)
        return flags_refuse(f, "%s", err.text);
    int rc = flags_parse(f, argc, argv, c);
    if (rc != FLAGS_GO_ON)
        return rc;
    q->is_json = q->format != NULL && strcmp(q->format, "json") == 0;
    if (q->format != NULL && !q->is_json && strcmp(q->format, "table") != 0)
        return flags_refuse(f, "--format is table or json, not %.40s", q->format);
    double seconds = strtod(q->timeout, &end);
    if (q->timeout[0] < '0' || q->timeout[0] > '9' || *end != '\0' || seconds > 3600)
        return flags_refuse(f, "--timeout must be 0 to 3600 seconds, not %.40s", q->timeout);
    q->timeout_ms = (int)(seconds * 1000) + (seconds < 0.001);
    return FLAGS_GO_ON;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {{"status", status_main},
                    {"list", list_main},
                    {"health-check", health_check_main},
                    {"unregister", unregister_main}};

    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fputs("ray_query: run by `ray status`, `ray list` and `ray health-check`\n", stderr);
    return 2;
}
