/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_WHY_ID_H
#define CMD_RAY_WHY_ID_H
/*
 * `ray why ID`: what a task, an object, a worker or a node waits for, or how it ended.
 */
#include <stdio.h>

#include "cmd/ray/nodes.h"

enum why_id_kind { WHY_ID_NONE, WHY_ID_TASK, WHY_ID_OBJECT, WHY_ID_UNIQUE };
/* NONE: it is no identity, by its length or digits. */
enum why_id_kind why_id_parse(const char *text);
/* Lines to out. Whether it is known. waits: of why_view_explain. */
bool why_id_explain(struct nodes *all, const struct why_waits *waits, const char *id, FILE *out);

#endif /* CMD_RAY_WHY_ID_H */
