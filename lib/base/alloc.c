/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_ulong n_calls;
static atomic_ulong fail_at;

static void *or_abort(void *p, size_t size)
{
    atomic_fetch_add_explicit(&n_calls, 1, memory_order_relaxed);
    if (p == NULL) {
        fprintf(stderr, "ray: out of memory allocating %zu bytes\n", size);
        abort();
    }
    return p;
}

void *xmalloc(size_t size)
{
    return or_abort(malloc(size > 0 ? size : 1), size);
}

void *xcalloc(size_t n, size_t size)
{
    return or_abort(calloc(n > 0 ? n : 1, size > 0 ? size : 1), n * size);
}

void *xcalloc_sparse(size_t n, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) || bytes < 2 * page)
        return xcalloc(n, size);
    uint8_t *p = xmalloc(bytes);
    size_t head = (page - (uintptr_t)p % page) % page, whole = (bytes - head) / page * page;
    if (madvise(p + head, whole, MADV_DONTNEED) != 0)
        memset(p + head, 0, whole);
    memset(p, 0, head);
    memset(p + head + whole, 0, bytes - head - whole);
    return p;
}

void *xrealloc(void *p, size_t size)
{
    return or_abort(realloc(p, size > 0 ? size : 1), size);
}

char *xstrdup(const char *s)
{
    return or_abort(strdup(s), strlen(s) + 1);
}

void *try_alloc(void *p, size_t size)
{
    atomic_fetch_add_explicit(&n_calls, 1, memory_order_relaxed);
    unsigned long k = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (k > 0 && atomic_fetch_sub(&fail_at, 1) == 1)
        return NULL;
    return realloc(p, size > 0 ? size : 1);
}

unsigned long alloc_count(void)
{
    return atomic_load_explicit(&n_calls, memory_order_relaxed);
}

void alloc_test_fail_at(unsigned long k)
{
    atomic_store(&fail_at, k);
}
