/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_PEER_FRAMES_H
#define RAYLET_PEER_FRAMES_H
/*
 * What raylets say to each other beyond the frames that they pass on (docs/design/
 * several-machines.md). Packed, little endian, growing at the end only, as lib/net/wire.h.
 */
#include <stdint.h>

#include "lib/base/id.h"
#include "raylet/transfer.h"

enum peer_type {
    PEER_PROCESS_DEAD = 128, /* wire_process_dead: a process of the sender is reaped */
    PEER_SPILL = 129,        /* of an owner: units for which the sender has no room */
    PEER_REJECTED = 130,     /* some of them, back */
    PEER_JOB_ASK = 131,      /* to its home: what is it made of? */
    PEER_JOB = 132,
    PEER_JOB_END = 133,     /* its driver has ended */
    PEER_FREE = 134,        /* the owner of an object needs it no more */
    PEER_SYNC_ASK = 135,    /* a NodeSyncRequest of the sender, to be sent to the GCS for it ... */
    PEER_SYNC_ANSWER = 136, /* ... and its reply, if there was one */
    /* to a driver's node, which nobody can dial: */
    PEER_CALL = 137,      /* another node may have something for it: it is to dial that */
    PEER_DATA_CALL = 138, /* the sender wants bytes of it: it is to dial the data port */
    PEER_SEEK = 139,      /* has the receiver a copy of this object, whose primary one is gone? */
    PEER_FOUND = 140,     /* its answer */
};

/* Followed by the owner's LEASE_REQUEST: ticket, units, resources by name, class. */
struct peer_spill {
    uint32_t job, home; /* home: node number of its driver's raylet */
    int32_t pid;        /* of the owner */
    struct unique_id owner;
    uint8_t when; /* enum peer_when */
} __attribute__((packed));
enum peer_when {
    PEER_WAIT = 0, /* until it can start */
    PEER_NOW = 1,  /* reject what cannot start at this moment */
    PEER_SOON = 2, /* the same, but a lease that has been told to make way is worth waiting for */
};

/* Followed by n_resources of wire_info_resource: what the sender has just now. */
struct peer_rejected {
    uint32_t owner; /* process number */
    uint64_t ticket;
    uint32_t count, n_resources;
} __attribute__((packed));

struct peer_job_ask {
    uint32_t job;
} __attribute__((packed));

/* Followed by folder \0 and the environment, strings each with its end. */
struct peer_job {
    uint32_t job;
    uint32_t driver;  /* process number */
    uint8_t is_there; /* 0: it has ended, nothing else is good */
    uint8_t log_to_driver;
    struct transfer_hash hash; /* of the executable */
    char build[32];            /* of the driver's libray */
    uint32_t folder_size, environment_size;
} __attribute__((packed));

struct peer_job_end {
    uint32_t job;
} __attribute__((packed));

struct peer_call {
    uint32_t node; /* number */
} __attribute__((packed));

/* An attempt's object, or with is_abort all that this attempt made and nobody was told of. */
struct peer_free {
    uint64_t counter;
    uint32_t owner, index;
    uint16_t attempt;
    uint8_t is_abort;
} __attribute__((packed));

/* Of its owner, if it is to be kept: as the primary copy, from now on. Answered once. */
struct peer_seek {
    uint64_t id; /* of the sender */
    uint64_t counter;
    uint32_t owner, index;
    uint16_t attempt;
    uint8_t keep;
} __attribute__((packed));

/* place 0: it is not there. */
struct peer_found {
    uint64_t id;
    uint64_t place, offset;
    uint8_t keep; /* as asked */
} __attribute__((packed));

#endif /* RAYLET_PEER_FRAMES_H */
