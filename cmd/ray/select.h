/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_SELECT_H
#define CMD_RAY_SELECT_H
/*
 * Which rows of a list are told: --filter, --limit.
 */
#include <jansson.h>

#include "lib/base/err.h"
#include "lib/base/flags.h"

#define SELECT_ALL INT64_MAX

/* Remove from rows, an array of objects with the same keys, what is not wanted: where one of the
 * filters, KEY=VALUE or KEY!=VALUE, is not true of the value as a table shows it, upper and lower
 * case alike; and what comes after the first limit of the rest. Returns how many were left out for
 * the limit, or -1: a filter cannot be, or the rows have no such key; they are as they were. */
int64_t select_rows(json_t *rows, const struct flag_words *filters, int64_t limit, struct err *err);

#endif /* CMD_RAY_SELECT_H */
