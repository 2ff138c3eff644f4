/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_KV_H
#define GCS_KV_H
/*
 * Keys of bytes in namespaces, as text of the table KV: Ray's form "@namespace_NS:KEY", or KEY
 * alone, with all but printable characters written as %XX. The text of a prefix is a prefix.
 */
#include "gcs/store.h"

#define KV_TABLE "KV"

struct kv_key {
    char text[STORE_KEY_MAX + 1];
};

/* -1: it would be too long. */
int kv_key_make(const void *ns,
                size_t ns_size,
                const void *key,
                size_t key_size,
                struct kv_key *out,
                struct err *err);
/* The bytes of a key of this namespace into out, at most STORE_KEY_MAX; their number. */
size_t kv_key_bytes(const char *text, size_t ns_size, void *out);

#endif /* GCS_KV_H */
