/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_ASSERT_H
#define LIB_BASE_ASSERT_H
/*
 * ASSERT stays in release builds and is for our own bugs only: a frame, a file, a worker or a
 * size that comes from outside can never trip one. It prints place and expression and aborts.
 */

_Noreturn void assert_fail(const char *file, int line, const char *expression);

#define ASSERT(x)                                                                                  \
    do {                                                                                           \
        if (__builtin_expect(!(x), 0))                                                             \
            assert_fail(__FILE__, __LINE__, #x);                                                   \
    } while (0)

/* A void * becomes a type again: crash at once on a stale or foreign pointer. */
#define CHECK_MAGIC(p, m) ASSERT((p) != NULL && (p)->magic == (m))

#endif /* LIB_BASE_ASSERT_H */
