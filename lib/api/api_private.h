/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_API_API_PRIVATE_H
#define LIB_API_API_PRIVATE_H
/*
 * What the files of lib/api share: error.c keeps the thread's last failure, value.c turns values
 * into msgpack and back, task.c submits and runs, api.c is the rest of ray.h.
 */
#include <ray/ray.h>

#include "lib/core/core.h"

/* --- error.c --- */
/* Nothing has failed in this thread. */
void api_clear(void);
int api_error(ray_code code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "A submission never fails at the call": a ref that carries the thread's error. 0: there is no
 * cluster to keep it; then the thread's error is an orphan, which a get of ref 0 reports. */
uint64_t api_carry_error(void);
bool api_has_orphan_error(void);
/* The sentence for a forked child. */
int api_error_forked(void);
/* From a WIRE_META_ERROR value; returns its code. */
int api_error_from_value(const void *bytes, size_t size);

/* --- task.c --- */
/* A cluster has ended: numbers of templates start over. */
void api_new_epoch(void);
/* "name=amount,..." into at most CORE_N_RESOURCES. */
int api_parse_resources(const char *text, struct core_resource *out, unsigned *n);

/* --- value.c --- */
/* Bytes being packed: starts on the stack, grows on the heap. */
struct packer {
    uint8_t *bytes;
    size_t size, room;
    bool on_heap, failed;
    uint8_t stack[1024];
};
void packer_init(struct packer *p);
void packer_fini(struct packer *p);
/* Append the value in msgpack. A code (with the thread's error set): refs inside containers,
 * unknown kinds, no memory. */
int api_pack(struct packer *p, const ray_value *v);
/* Decode into the slot. own: views and boxes are copied to the heap for the caller; strings always
 * are. */
int api_unpack(const void *bytes, size_t size, uint8_t meta, ray_slot slot, bool own);

#endif /* LIB_API_API_PRIVATE_H */
