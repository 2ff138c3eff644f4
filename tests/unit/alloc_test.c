/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/alloc.h"

#include <check.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

START_TEST(each_call_is_counted)
{
    unsigned long before = alloc_count();
    char *p = xmalloc(10);
    int *q = xcalloc(10, sizeof *q);
    char *s = xstrdup("ray");
    char *t = try_alloc(NULL, 1);

    ck_assert_int_eq(q[9], 0);
    ck_assert_str_eq(s, "ray");
    p = xrealloc(p, 100000);
    t = try_alloc(t, 100000);
    ck_assert_uint_eq(alloc_count(), before + 6);
    free(p);
    free(q);
    free(s);
    free(t);
    ck_assert_uint_eq(alloc_count(), before + 6);
}
END_TEST

START_TEST(nothing_is_still_something)
{
    void *p[] = {xmalloc(0), xcalloc(0, 8), xcalloc(8, 0), try_alloc(NULL, 0), xrealloc(NULL, 0)};

    for (size_t i = 0; i < sizeof p / sizeof p[0]; i++) {
        ck_assert_ptr_nonnull(p[i]);
        free(p[i]);
    }
    char *q = try_alloc(NULL, 8);
    q = try_alloc(q, 0); /* not a free */
    ck_assert_ptr_nonnull(q);
    free(q);
}
END_TEST

START_TEST(a_sparse_table_is_zeroed_whatever_its_memory_was)
{
    for (size_t size = 1; size < 120000; size = 3 * size + 1000) {
        uint8_t *p;
        volatile uint8_t *used = malloc(size);
        char *behind = xstrdup("keeps it from the end of the heap");
        ck_assert(used != NULL);
        for (size_t i = 0; i < size; i++)
            used[i] = 0xff;
        free((void *)(uintptr_t)used);
        p = xcalloc_sparse(1, size);
        ck_assert(p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
        free(p);
        free(behind);
    }
}
END_TEST

START_TEST(kth_fails_once_and_leaves_the_old_block)
{
    for (unsigned long k = 1; k <= 5; k++) {
        alloc_test_fail_at(k);
        for (unsigned long i = 1; i <= 10; i++) {
            char *p = xmalloc(8); /* these neither fail nor count down */
            memcpy(p, "content", 8);
            char *q = try_alloc(p, 4096);
            if (i == k) {
                ck_assert_ptr_null(q);
                q = p;
            }
            ck_assert_ptr_nonnull(q);
            ck_assert_str_eq(q, "content");
            free(q);
        }
    }
}
END_TEST

START_TEST(failing_is_switched_off)
{
    alloc_test_fail_at(2);
    void *p = try_alloc(NULL, 1);
    alloc_test_fail_at(0);
    void *q = try_alloc(NULL, 1);
    ck_assert(p != NULL && q != NULL);
    free(p);
    free(q);
}
END_TEST

#ifndef __SANITIZE_ADDRESS__ /* which ends the process itself at such a size */
#ifndef __SANITIZE_THREAD__
START_TEST(foreign_size_that_cannot_be_had_is_null)
{
    volatile size_t size = SIZE_MAX / 4;
    char *p = xstrdup("kept");

    ck_assert_ptr_null(try_alloc(NULL, size));
    ck_assert_ptr_null(try_alloc(p, size));
    ck_assert_str_eq(p, "kept");
    free(p);
}
END_TEST

START_TEST(own_size_that_cannot_be_had_aborts)
{
    volatile size_t size = SIZE_MAX / 4;

    free(xmalloc(size));
}
END_TEST

START_TEST(product_that_overflows_aborts)
{
    volatile size_t n = SIZE_MAX / 2;

    free(xcalloc(n, 4));
}
END_TEST
#define WITH_HUGE_SIZES 1
#endif
#endif

int main(void)
{
    Suite *s = suite_create("alloc");
    TCase *t = tcase_create("alloc");

    tcase_add_test(t, each_call_is_counted);
    tcase_add_test(t, nothing_is_still_something);
    tcase_add_test(t, a_sparse_table_is_zeroed_whatever_its_memory_was);
    tcase_add_test(t, kth_fails_once_and_leaves_the_old_block);
    tcase_add_test(t, failing_is_switched_off);
#ifdef WITH_HUGE_SIZES
    tcase_add_test(t, foreign_size_that_cannot_be_had_is_null);
    tcase_add_test_raise_signal(t, own_size_that_cannot_be_had_aborts, SIGABRT);
    tcase_add_test_raise_signal(t, product_that_overflows_aborts, SIGABRT);
#endif
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
