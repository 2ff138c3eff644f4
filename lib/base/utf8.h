/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_UTF8_H
#define LIB_BASE_UTF8_H
/*
 * Whether bytes are UTF-8, which readers of protobuf want all strings to be. Pure.
 */
#include <stddef.h>

/* How many of the n bytes, from the first on, are whole characters. */
size_t utf8_length(const char *text, size_t n);
/* Bytes of text, which ends with 0, that belong to no character become question marks; what was
 * cut within its last one, too. */
void utf8_clean(char *text);

#endif /* LIB_BASE_UTF8_H */
