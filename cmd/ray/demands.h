/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_DEMANDS_H
#define CMD_RAY_DEMANDS_H
/*
 * What the tasks need that wait for workers, summed over the nodes that have answered.
 */
#include <jansson.h>

#include "cmd/ray/nodes.h"

/* {"CPU": 1.0}: what one worker for such tasks needs. */
json_t *needs_as_json(const struct why_class *of);
/* An array of {"resources": needs, "count": workers wanted}, the most wanted first. An owner of
 * many tasks asks for some workers at a time, so there may be more to come. */
json_t *demands_as_json(const struct nodes *all);

#endif /* CMD_RAY_DEMANDS_H */
