/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "cmd/ray/ask.h"
#include "cmd/ray/commands.h"
#include "cmd/ray/query.h"
#include "gcs/query_codec.h"
#include "lib/base/id.h"

/* A call that the GCS answers from its tables: so they are loaded. Says nothing when all is well.
 */
int health_check_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const struct flag table[] = {
        QUERY_FLAGS(q),
        {.name = "component", .refusal = "it is the GCS that is asked: leave it out"},
        {.name = "skip-version-check", .refusal = "versions are not compared: leave it out"},
        {.name = NULL}};
    const struct flags f = {.command = "ray health-check",
                            .summary = "exit status 0: the cluster's GCS answers; 1: it does not",
                            .table = table};
    struct config c;
    struct err err;
    void *reply;
    size_t size;
    int rc = query_parse(&f, argc, argv, &c, &q);

    if (rc != FLAGS_GO_ON)
        return rc;
    struct ask *a = ask_open(&c, q.timeout_ms, &err);
    rc = a != NULL ? ask_call(a, QUERY_CHECK_ALIVE, NULL, 0, &reply, &size, &err) : -1;
    ask_close(a);
    if (rc != 0) {
        fprintf(stderr, "ray health-check: %s\n", err.text);
        return 1;
    }
    free(reply);
    return 0;
}

int unregister_main(int argc, char **argv)
{
    struct query_flags q = {.timeout = "5"};
    const char *id = "", *death = "";
    const struct flag table[] = {QUERY_FLAGS(q),
                                 {.name = "node-id", .text = &id, .help = "in hex"},
                                 {.name = "death", .text = &death, .help = "why, a sentence"},
                                 {.name = NULL}};
    const struct flags f = {.command = "ray unregister",
                            .summary = "tell the GCS that a node has ended",
                            .table = table};
    struct unique_id node;
    struct config c;
    struct err err;
    void *reply, *request;
    size_t size;
    int rc = query_parse(&f, argc, argv, &c, &q);

    if (rc != FLAGS_GO_ON)
        return rc;
    if (!id_parse(id, node.bytes, sizeof node.bytes))
        return flags_refuse(&f, "--node-id must be %d hex digits", 2 * ID_UNIQUE_SIZE);
    request = query_unregister(&node, death, &size);
    struct ask *a = ask_open(&c, q.timeout_ms, &err);
    rc = a != NULL ? ask_call(a, QUERY_UNREGISTER, request, size, &reply, &size, &err) : -1;
    ask_close(a);
    free(request);
    if (rc != 0) {
        fprintf(stderr, "ray unregister: %s\n", err.text);
        return 1;
    }
    free(reply);
    return 0;
}
