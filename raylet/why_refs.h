/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WHY_REFS_H
#define RAYLET_WHY_REFS_H
/*
 * The table of refs of one process, of the pages that it tells (struct wire_refs), as far as `ray
 * why` needs it: what state an object or a task is in, and which arguments a task has. Pure; pages
 * are foreign input. It lives in the `ray` command.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/net/wire.h"

struct why_row {
    struct wire_refs_row row;
    char *text;             /* see wire_refs_row; "" if it has none */
    uint32_t *args, n_args; /* slots of the records that a pending task holds */
};

struct why_refs {
    enum wire_refs_status status; /* of the last page */
    struct why_row *v;
    size_t n, room;
};

/* The next page in order; *next: the cursor of what follows, 0: that was all. -1: malformed. */
int why_refs_add_page(struct why_refs *r, const void *body, size_t size, uint64_t *next);
void why_refs_fini(struct why_refs *r);

/* What the process itself owns; index 0: the first return of that task. NULL: it has none. */
const struct why_row *why_refs_find(const struct why_refs *r, uint64_t counter, uint32_t index);
/* Of a slot, borrowed ones too. */
const struct why_row *why_refs_at(const struct why_refs *r, uint32_t slot);

#endif /* RAYLET_WHY_REFS_H */
