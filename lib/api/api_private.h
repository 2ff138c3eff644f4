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
#define API_NO_BUFFER                                                                              \
    "not a buffer, or it was sealed, returned or given up before, or its size was raised or set "  \
    "to 0: ray_create makes one"
/* Nothing has failed in this thread. */
void api_clear(void);
int api_error(ray_code code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "A submission never fails at the call": a ref that carries the thread's error. 0: there is no
 * cluster to keep it; then the thread's error is an orphan, which a get of ref 0 reports. */
uint64_t api_carry_error(void);
bool api_has_orphan_error(void);
/* The sentence for a forked child. */
int api_error_forked(void);
/* A code of the core as the thread's error, err's sentence if it has one (NULL: none). RAY_OK for
 * CORE_OK. */
int api_core_error(int code, const struct err *err);
/* From a WIRE_META_ERROR value; returns its code. */
int api_error_from_value(const void *bytes, size_t size);

/* --- task.c --- */
/* A cluster has ended: numbers of templates start over. */
void api_new_epoch(void);
/* "name=amount,..." into at most CORE_N_RESOURCES. */
int api_parse_resources(const char *text, struct core_resource *out, unsigned *n);

/* --- api.c --- */
/* Starts a cluster if there is none, as Ray does. */
int api_start(void);
/* The buffer changes hands and becomes {0}. */
struct core_buffer api_take_buffer(ray_buffer *buffer);
/* What api_pack made becomes an object; the buffer is {0} afterwards. */
int api_put(const struct core_arg *packed, struct core_buffer *big, uint64_t *word);

/* --- value.c --- */
#define PACKER_REFS 16
/* What values are packed into: the first ones on the stack, more on the heap. */
struct packer {
    size_t used, n_refs; /* of stack, of refs */
    struct packer_block *blocks;
    uint64_t refs[PACKER_REFS];
    uint8_t stack[1024];
};
void packer_init(struct packer *p);
void packer_fini(struct packer *p);
/* The value as out's bytes, refs and meta; out->ref is 0. They are the packer's and good until
 * packer_fini, but bytes of their own stay where they are. A packed value above CORE_INLINE_MAX
 * lies in *big, the caller's to seal, return or abort; else big->data is NULL. A code with the
 * thread's error set, and nothing to abort. */
int api_pack(struct packer *p, const ray_value *v, struct core_arg *out, struct core_buffer *big);
/* Decode an argument of a call into the slot: views and boxes borrow from it, strings are the
 * caller's. */
int api_unpack_arg(const struct core_arg *arg, ray_slot slot);
/* Decode a value that was got into the slot: a view or box keeps it, otherwise it is dropped. */
int api_unpack_value(struct core_value *v, ray_slot slot);

#endif /* LIB_API_API_PRIVATE_H */
