/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_ALLOC_H
#define LIB_BASE_ALLOC_H
/*
 * Memory. x* abort with a sentence when memory is out: for sizes that our own code fixes. A size
 * that comes from outside goes through try_alloc, which counts and can be made to fail by a test.
 */
#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
/* The same for a table of which little is used: pages that nobody touches take no memory, while
 * calloc writes to what its heap had at hand. For daemons, whose malloc is the C library's. */
void *xcalloc_sparse(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);

/* NULL when memory is out. p NULL: new; else like realloc, and p stays valid on failure. */
void *try_alloc(void *p, size_t size);

/* Every call of the functions above in this process so far. */
unsigned long alloc_count(void);

/* The k-th try_alloc from now fails once; 0 switches that off. */
void alloc_test_fail_at(unsigned long k);

#endif /* LIB_BASE_ALLOC_H */
