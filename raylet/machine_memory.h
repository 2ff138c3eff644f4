/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_MACHINE_MEMORY_H
#define RAYLET_MACHINE_MEMORY_H
/*
 * How much memory this machine, or the container that this process runs in, has, and what a node
 * takes of it when nobody says so: for objects and as the resource "memory", as Ray does.
 */
#include <stdint.h>

/* Bytes; 0: it is not known. */
uint64_t machine_memory_free(void);
/* 30 % of that, at least 75 MiB and at most 200 GiB. */
uint64_t machine_memory_for_objects(uint64_t n_free);
/* What is free and not for objects: the resource "memory". n_objects: bytes for objects; 0: the
 * above. */
uint64_t machine_memory_for_tasks(uint64_t n_objects);

#endif /* RAYLET_MACHINE_MEMORY_H */
