/* SPDX-License-Identifier: Apache-2.0 */
#include "objstore/reserve.h"

#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CAPACITY (64ull << 20)

static int fd;
static struct store_reserve *r;

static void setup(void)
{
    fd = memfd_create("arena", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, CAPACITY), 0);
    r = store_reserve_create(fd, CAPACITY);
}

static void teardown(void)
{
    store_reserve_destroy(r);
    close(fd);
}

static uint64_t bytes_with_pages(void)
{
    struct stat st;

    ck_assert_int_eq(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Never more; a little less where the kernel has taken back pages that nobody wrote. */
static void has_pages(uint64_t bytes)
{
    uint64_t has = bytes_with_pages();

    ck_assert_uint_le(has, bytes);
    ck_assert_uint_ge(has, bytes - (512u << 10));
}

static void await(uint64_t done)
{
    while (store_reserve_done(r) < done)
        sched_yield();
}

START_TEST(nothing_is_touched_before_the_first_demand)
{
    ck_assert_uint_eq(store_reserve_ahead(r), CAPACITY / 64);
    ck_assert_uint_eq(bytes_with_pages(), 0);
}
END_TEST

START_TEST(what_was_lent_and_a_bit_more_has_pages_and_no_more_than_that)
{
    uint64_t ahead = store_reserve_ahead(r), done = 0;

    for (uint64_t end = 1 << 20; end <= 8 << 20; end += 1 << 20) {
        store_reserve_until(r, end);
        done = end + ahead;
        await(done);
        ck_assert_uint_eq(store_reserve_done(r), done);
        has_pages(done);
    }
    store_reserve_until(r, 4096); /* less than before: nothing to do */
    has_pages(done);
}
END_TEST

START_TEST(it_ends_where_the_arena_does)
{
    store_reserve_until(r, CAPACITY - 4096);
    await(CAPACITY);
    has_pages(CAPACITY);
    store_reserve_until(r, CAPACITY);
    ck_assert_uint_eq(store_reserve_done(r), CAPACITY);
}
END_TEST

START_TEST(what_was_written_stays_as_it_was)
{
    char c = 'x';

    ck_assert_int_eq(pwrite(fd, &c, 1, 12345), 1);
    store_reserve_until(r, 1 << 20);
    await(1 << 20);
    c = 0;
    ck_assert_int_eq(pread(fd, &c, 1, 12345), 1);
    ck_assert_int_eq(c, 'x');
    ck_assert_int_eq(pread(fd, &c, 1, 12346), 1);
    ck_assert_int_eq(c, 0);
}
END_TEST

START_TEST(no_memory_is_the_writers_to_find_out)
{
    store_reserve_destroy(r);
    int closed = dup(fd);
    r = store_reserve_create(closed, CAPACITY);
    close(closed); /* each attempt fails */
    store_reserve_until(r, 1 << 20);
    await(CAPACITY); /* given up */
    ck_assert_uint_eq(bytes_with_pages(), 0);
}
END_TEST

START_TEST(it_can_be_ended_in_the_middle)
{
    store_reserve_until(r, CAPACITY); /* teardown does */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reserve");
    TCase *t = tcase_create("reserve");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nothing_is_touched_before_the_first_demand);
    tcase_add_test(t, what_was_lent_and_a_bit_more_has_pages_and_no_more_than_that);
    tcase_add_test(t, it_ends_where_the_arena_does);
    tcase_add_test(t, what_was_written_stays_as_it_was);
    tcase_add_test(t, no_memory_is_the_writers_to_find_out);
    tcase_add_test(t, it_can_be_ended_in_the_middle);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
