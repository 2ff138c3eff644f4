/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_PEER_HELLO_H
#define RAYLET_PEER_HELLO_H
/*
 * The hello: what each side of a stream between two raylets says first, and who may go on after it.
 * Packed, little endian. It grows at its end only, so that a raylet reads those of older ones,
 * whose missing fields are zero, and of newer ones, whose further fields it passes over
 * (tests/contract/hello_test.c has each form). Pure.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/id.h"

#define PEER_PROTOCOL         1
#define PEER_HELLO_MAGIC      0x50594152u /* "RAYP" */
#define PEER_HELLO_FIRST_SIZE 152         /* of the form that protocol 1 began with */

struct peer_hello {
    uint32_t magic, protocol;
    struct unique_id cluster, from, to; /* from, to: each names one incarnation of a raylet */
    uint32_t number;                    /* of from */
    uint64_t dial;                      /* the dialling one's: its number of this dial */
    uint64_t seen;                      /* the last dial of the other that was accepted */
    uint64_t expects;                   /* the next block of the session */
    char build[32];
} __attribute__((packed));
_Static_assert(sizeof(struct peer_hello) >= PEER_HELLO_FIRST_SIZE, "it grows only");

/* The first message of a stream, any bytes. 0: *out is all of it. -1: it may not go on, *out is
 * what could be read of it (of no hello at all: `from` is nil), and err says why: ERR_PROTOCOL no
 * hello, ERR_VERSION another protocol, ERR_DENIED another cluster, ERR_INVALID another node than
 * this one is meant. */
int peer_hello_read(const void *bytes,
                    size_t size,
                    const struct unique_id *cluster,
                    const struct unique_id *node,
                    struct peer_hello *out,
                    struct err *err);

#endif /* RAYLET_PEER_HELLO_H */
