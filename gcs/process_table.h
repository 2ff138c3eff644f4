/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_PROCESS_TABLE_H
#define GCS_PROCESS_TABLE_H
/*
 * Process numbers that are unique in all jobs: given to nodes in blocks, each with a row that says
 * to whom. Completions as in store.h.
 */
#include "gcs/job_table.h"
#include "lib/base/id.h"

#define PROCESS_BLOCK_MAX (1u << 16)

struct process_block {
    uint32_t first, n;
    struct unique_id node;
    uint32_t node_number; /* 0: the block's first */
};

typedef void (*process_block_f)(void *arg, enum err_code code, const struct process_block *block);

/* n numbers, at most PROCESS_BLOCK_MAX, for this node. ERR_FULL: all 2^28 - 1 were given. */
void process_table_take(struct store *store,
                        const struct unique_id *node,
                        uint32_t node_number,
                        uint32_t n,
                        job_block_f done,
                        void *arg);
/* The node has this block, and its row may be lost: it is there again. ERR_EXISTS: some of it was
 * given to another node. */
void process_table_hold(struct store *store,
                        const struct process_block *block,
                        store_done_f done,
                        void *arg);
/* All blocks of this node, which is dead. */
void process_table_remove(struct store *store,
                          const struct unique_id *node,
                          store_done_f done,
                          void *arg);
/* The block that has this number; ERR_NOT_FOUND: it was given to nobody; ERR_DIED: to a node whose
 * blocks were removed. block NULL unless ERR_NONE. */
void process_table_locate(struct store *store, uint32_t process, process_block_f done, void *arg);

#endif /* GCS_PROCESS_TABLE_H */
