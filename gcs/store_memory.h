/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_STORE_MEMORY_H
#define GCS_STORE_MEMORY_H
/*
 * A store in this process's memory: the GCS of a private cluster, which ends with its program.
 */
#include "gcs/store.h"

struct store *store_memory_create(void);
/* Complete what was called so far, and what those completions call: at the turn's end. */
void store_memory_run(struct store *s);

#endif /* GCS_STORE_MEMORY_H */
