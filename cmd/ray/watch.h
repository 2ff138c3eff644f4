/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_WATCH_H
#define CMD_RAY_WATCH_H
/*
 * Rows of the GCS as they change: subscribed first, then read, so that none is missed. A row is
 * told once in each state, however often the GCS says it.
 */
#include "cmd/ray/ask.h"
#include "cmd/ray/query.h"

struct watch_kind {
    enum query_channel channel;
    json_t *(*ask)(struct ask *a, struct err *err); /* all rows, an array; NULL: why not */
    const char *id, *state;                         /* keys of a row */
    const char *last;                               /* the state that does not end */
    const char *const *columns;
    const char *changed[6]; /* columns of a change; the last NULL */
};

/* Print all rows, a table or with is_json an object a line, then each change as a line, for ever.
 * -1: the GCS does not answer any more, as ask_call says, or refuses; or stdout is full. */
int watch(struct ask *a, const struct watch_kind *k, bool is_json, struct err *err);

#endif /* CMD_RAY_WATCH_H */
