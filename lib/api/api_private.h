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
int api_ok(void);
int api_error(ray_code code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* From a WIRE_META_ERROR value; returns its code. */
int api_error_from_value(const void *bytes, size_t size);

/* --- task.c --- */
/* A cluster has begun: numbers of templates start over. */
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
/* Decode into the slot. own: strings and views are copied to the heap for the caller. */
int api_unpack(const void *bytes, size_t size, uint8_t meta, ray_slot slot, bool own);

#endif /* LIB_API_API_PRIVATE_H */
