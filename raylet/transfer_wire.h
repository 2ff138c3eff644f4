/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_TRANSFER_WIRE_H
#define RAYLET_TRANSFER_WIRE_H
/*
 * What is said on the data port. Who wants something dials; both ends speak in frames of one size,
 * numbers little-endian. DATA is followed by its bytes, HELLO by the token.
 *
 *   dialer              listener
 *   HELLO, token   ─►   ◄─ WELCOME, or REFUSED and the end
 *   ASK what       ─►   ◄─ IS: so large, or GONE
 *   READ a range   ─►   ◄─ DATA, the bytes of that range, or GONE
 *
 * Each request has an id of the asker's, its answer names it; answers come in any order. The dialer
 * asks, unless its HELLO says that it was called: a node that nobody can dial dials who wants
 * something of it, and is asked.
 */
#include <stddef.h>
#include <stdint.h>

#include "lib/base/id.h"

#define TRANSFER_PROTOCOL    1
#define TRANSFER_WORD        0x52584644u /* begins each frame */
#define TRANSFER_READ_MAX    (8u << 20)  /* bytes of one READ */
#define TRANSFER_HOLDERS_MAX 4

enum transfer_frame_type {
    TRANSFER_HELLO = 1,
    TRANSFER_WELCOME,
    TRANSFER_REFUSED,
    TRANSFER_ASK,
    TRANSFER_IS,
    TRANSFER_GONE,
    TRANSFER_READ,
    TRANSFER_DATA,
};

enum transfer_kind { TRANSFER_OBJECT = 1, TRANSFER_FILE };

/* An object's key or a file's hash; unused bytes are 0, so that two can be compared as bytes. */
struct transfer_what {
    uint8_t kind;
    uint8_t spare;
    uint16_t attempt;
    uint32_t owner;
    union {
        struct {
            uint64_t counter;
            uint32_t index, spare2;
        };
        uint8_t hash[16];
    };
};
_Static_assert(sizeof(struct transfer_what) == 24, "wire layout");

struct transfer_frame {
    uint32_t word; /* TRANSFER_WORD */
    uint8_t type;
    uint8_t code;      /* REFUSED: enum err_code */
    uint8_t meta;      /* IS, of an object */
    uint8_t n_holders; /* IS */
    uint64_t id;
    union {
        struct {
            uint64_t offset; /* READ, DATA */
            uint64_t length; /* READ, DATA: of the range; IS: of all there is to read */
            uint64_t size;   /* IS: of the data alone; an object's refs are behind it */
            uint32_t n_refs; /* IS */
            uint32_t spare;
            struct transfer_what what;              /* ASK, READ */
            uint32_t holders[TRANSFER_HOLDERS_MAX]; /* IS: nodes that better be read from */
        };
        struct {
            uint32_t protocol, node, token_size;
            uint8_t cluster[ID_UNIQUE_SIZE];
            uint8_t is_called; /* HELLO: the listener is to ask */
        };                     /* HELLO, WELCOME */
        char text[112];        /* REFUSED */
    };
};
_Static_assert(sizeof(struct transfer_frame) == 128, "wire layout");
_Static_assert(offsetof(struct transfer_frame, what) == 48, "wire layout");
_Static_assert(offsetof(struct transfer_frame, cluster) == 28, "wire layout");

#endif /* RAYLET_TRANSFER_WIRE_H */
