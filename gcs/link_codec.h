/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_LINK_CODEC_H
#define GCS_LINK_CODEC_H
/*
 * The first message of a link to the GCS and its reply, of proto/gcs_link.proto.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"

/* A job that somebody has work of, and the highest process number of it that was seen. */
struct held_job {
    uint32_t job, processes;
};

/* Process numbers that were given to this node, and may be of living processes. */
struct held_block {
    uint32_t first, n;
};

/* What a daemon has, whatever the GCS forgot. Borrowed. */
struct held {
    const struct held_job *jobs;
    size_t n_jobs;
    const struct held_block *blocks;
    size_t n_blocks;
    uint32_t node_number; /* of the daemon's node, if there are blocks */
};

struct hello {
    uint32_t protocol;
    const char *build;
    struct unique_id cluster; /* nil: not known yet */
    struct unique_id node;
    uint64_t incarnation;
    struct held held;
};

struct hello_reply {
    uint32_t protocol;
    struct unique_id cluster;
    uint64_t incarnation, commit;
};

/* The bytes, to be freed. */
void *hello_pack(const struct hello *h, size_t *size);
/* -1: it is none. */
int hello_reply_unpack(const void *bytes, size_t size, struct hello_reply *out);

#endif /* GCS_LINK_CODEC_H */
