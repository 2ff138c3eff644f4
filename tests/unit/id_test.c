/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/id.h"

#include <check.h>
#include <string.h>

static const char *hex(const void *bytes, size_t n)
{
    static char out[ID_HEX_MAX];

    return id_hex(bytes, n, out);
}

START_TEST(task_id_has_its_golden_bytes)
{
    struct job_id job = {.number = 0x01020304};
    struct task_id id = task_id_make(job, 0x0abcdef, 0x123456789);

    ck_assert_str_eq(hex(id.bytes, sizeof id.bytes),
                     "0abcdef123456789"         /* 28 bits of process, 36 of counter */
                     "ffffffffffffffffffffffff" /* no actor */
                     "04030201");               /* job, little endian */
    id = task_id_driver(job);
    ck_assert_str_eq(hex(id.bytes, sizeof id.bytes),
                     "ffffffffffffffffffffffffffffffffffffffff04030201");
}
END_TEST

START_TEST(process_and_counter_do_not_run_into_each_other)
{
    struct job_id job = {.number = 1};
    const uint64_t last = (1ull << ID_COUNTER_BITS) - 1;
    struct task_id a = task_id_make(job, 1, last), b = task_id_make(job, 2, 0);

    ck_assert_str_eq(hex(a.bytes, 8), "0000001fffffffff");
    ck_assert_str_eq(hex(b.bytes, 8), "0000002000000000");
    a = task_id_make(job, (1u << ID_PROCESS_BITS) - 1, 5);
    ck_assert_str_eq(hex(a.bytes, 8), "fffffff000000005");
}
END_TEST

START_TEST(hex_of_task_ids_sorts_by_number)
{
    struct job_id job = {.number = 1};
    char before[ID_HEX_MAX], now[ID_HEX_MAX];
    struct task_id id = task_id_make(job, 7, 0);

    id_hex(id.bytes, sizeof id.bytes, before);
    for (uint64_t counter = 1; counter < 1ull << ID_COUNTER_BITS; counter = counter * 3 + 1) {
        id = task_id_make(job, 7, counter);
        id_hex(id.bytes, sizeof id.bytes, now);
        ck_assert_str_lt(before, now);
        memcpy(before, now, sizeof before);
    }
}
END_TEST

START_TEST(object_carries_task_index_and_job)
{
    struct job_id job = {.number = 0xa1b2c3d4};
    struct task_id task = task_id_make(job, 1, 2);
    struct object_id id = object_id_make(&task, 0x00010203);

    ck_assert_mem_eq(id.bytes, task.bytes, sizeof task.bytes);
    ck_assert_str_eq(hex(id.bytes + ID_TASK_SIZE, 4), "03020100");
    ck_assert_uint_eq(object_id_job(&id).number, job.number); /* INV-3 */
}
END_TEST

START_TEST(random_ids_differ_and_are_not_nil)
{
    struct unique_id a, b, nil = unique_id_nil();

    ck_assert_int_eq(unique_id_random(&a), 0);
    ck_assert_int_eq(unique_id_random(&b), 0);
    ck_assert(!unique_id_eq(&a, &b));
    ck_assert(unique_id_eq(&a, &a));
    ck_assert(!unique_id_is_nil(&a));
    ck_assert(unique_id_is_nil(&nil));
    nil.bytes[ID_UNIQUE_SIZE - 1] = 0xfe;
    ck_assert(!unique_id_is_nil(&nil));
}
END_TEST

START_TEST(hex_comes_back)
{
    struct unique_id a, b;
    char out[ID_HEX_MAX];

    ck_assert_int_eq(unique_id_random(&a), 0);
    ck_assert_ptr_eq(id_hex(a.bytes, sizeof a.bytes, out), out);
    ck_assert_uint_eq(strlen(out), 2 * sizeof a.bytes);
    ck_assert(id_parse(out, b.bytes, sizeof b.bytes));
    ck_assert(unique_id_eq(&a, &b));
    ck_assert_str_eq(id_hex("", 0, out), "");
}
END_TEST

START_TEST(what_is_not_hex_is_refused_and_writes_nothing)
{
    static const char *const bad[] =
        {"", "0", "012", "01234", "01 2", "0x12", "01g2", "-123", "012\n"};
    uint8_t bytes[2] = {0x55, 0xaa};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(!id_parse(bad[i], bytes, 2), "'%s' was taken", bad[i]);
    ck_assert_uint_eq(bytes[0], 0x55);
    ck_assert_uint_eq(bytes[1], 0xaa);
    ck_assert(id_parse("09af", bytes, 2));
    ck_assert_uint_eq(bytes[0], 0x09);
    ck_assert_uint_eq(bytes[1], 0xaf);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("id");
    TCase *t = tcase_create("id");

    tcase_add_test(t, task_id_has_its_golden_bytes);
    tcase_add_test(t, process_and_counter_do_not_run_into_each_other);
    tcase_add_test(t, hex_of_task_ids_sorts_by_number);
    tcase_add_test(t, object_carries_task_index_and_job);
    tcase_add_test(t, random_ids_differ_and_are_not_nil);
    tcase_add_test(t, hex_comes_back);
    tcase_add_test(t, what_is_not_hex_is_refused_and_writes_nothing);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
