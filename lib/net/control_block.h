/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_CONTROL_BLOCK_H
#define LIB_NET_CONTROL_BLOCK_H
/*
 * Two shared pages (memfds made by the raylet). The board: one line per process of the machine, in
 * which each publishes the CPU it runs on, so that a peer knows whether a spin can pay (D13). The
 * control block: one per worker, shared with the raylet alone; before a body starts the worker sets
 * the task's bit in `started` to the phase its PUSH named, and the raylet's death notice carries
 * the word (D4). The raylet reads a worker's block as foreign input.
 *
 * Why a phase and not a plain bit: a slot is used again as soon as the owner has seen DONE, before
 * the worker can have cleared anything. The owner flips a slot's phase only when a task that
 * started there is done, so bit == phase holds exactly for a task that started. A lease begins with
 * started = 0 and phase 1.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define CONTROL_BLOCK_MAGIC  0x52415943u /* "RAYC" */
#define CONTROL_BLOCK_LAYOUT 1
#define BOARD_SLOTS          1024

struct control_block {
    uint32_t magic, layout;
    _Atomic uint64_t started;
    _Atomic uint64_t lease;     /* the one `started` speaks of */
    _Atomic uint64_t copy_plan; /* by the raylet: how to copy into the store (objstore/copy.h) */
    /* The body that runs: since when (CLOCK_MONOTONIC in ns), the lowest bits being its slot in the
     * window of its lease. 0: none. */
    _Atomic uint64_t running;
    uint8_t spare[24];
};
_Static_assert(sizeof(struct control_block) == 64, "shared layout");
_Static_assert(offsetof(struct control_block, copy_plan) == 24, "shared layout");
_Static_assert(offsetof(struct control_block, running) == 32, "shared layout");
#define CONTROL_BLOCK_SLOTS 64 /* of a window; `running` counts in as many ns */

struct board_line {
    _Atomic int32_t cpu; /* -1: asleep in the kernel or unknown */
    uint8_t spare[60];
};
_Static_assert(sizeof(struct board_line) == 64, "shared layout");

#endif /* LIB_NET_CONTROL_BLOCK_H */
