/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
