/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Golden hellos of the sessions between raylets: each form that it ever had, byte by byte, oldest
 * first. Today's raylet reads all of them to the last field that they have, and writes the newest;
 * of a newer one, which is longer, it reads what it knows. A new field changes FIELDS and adds a
 * row; the rows there are stay as they are.
 */
#include "raylet/peer_hello.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint32_t protocol;
    size_t size;
    const char *hex; /* little endian, field by field */
} golden[] = {
    {1,
     152,
     "52415950" /* RAYP */
     "01000000"
     "101112131415161718191a1b1c1d1e1f202122232425262728292a2b" /* cluster */
     "404142434445464748494a4b4c4d4e4f505152535455565758595a5b" /* from */
     "707172737475767778797a7b7c7d7e7f808182838485868788898a8b" /* to */
     "04030201"                                                 /* number */
     "1817161514131211"                                         /* dial */
     "2827262524232221"                                         /* seen */
     "3837363534333231"                                         /* expects */
     "7261792d6320302e310000000000000000000000000000000000000000000000"},
};
#define N_GOLDEN (sizeof golden / sizeof golden[0])
#define NEWEST   golden[N_GOLDEN - 1]

static struct unique_id id_of(uint8_t first)
{
    struct unique_id id;

    for (size_t i = 0; i < sizeof id.bytes; i++)
        id.bytes[i] = (uint8_t)(first + i);
    return id;
}

/* Every field set, as in the newest row. */
static struct peer_hello filled(void)
{
    return (struct peer_hello){.magic = PEER_HELLO_MAGIC,
                               .protocol = PEER_PROTOCOL,
                               .cluster = id_of(0x10),
                               .from = id_of(0x40),
                               .to = id_of(0x70),
                               .number = 0x01020304,
                               .dial = 0x1112131415161718,
                               .seen = 0x2122232425262728,
                               .expects = 0x3132333435363738,
                               .build = "ray-c 0.1"};
}

static size_t read_hex(const char *hex, uint8_t *out)
{
    size_t n = strlen(hex) / 2;

    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2hhx", &out[i]), 1);
    return n;
}

static int read_one(const uint8_t *bytes, size_t size, struct peer_hello *h, struct err *err)
{
    struct unique_id cluster = id_of(0x10), node = id_of(0x70);

    return peer_hello_read(bytes, size, &cluster, &node, h, err);
}

START_TEST(each_form_is_read_to_its_last_field)
{
    struct peer_hello want = filled(), h;
    uint8_t bytes[512];
    struct err err;
    size_t n = read_hex(golden[_i].hex, bytes);

    ck_assert_uint_eq(n, golden[_i].size);
    ck_assert_msg(read_one(bytes, n, &h, &err) == 0, "row %d: %s", _i, err.text);
    memset((uint8_t *)&want + n, 0, sizeof want - n); /* it did not have those yet */
    ck_assert_mem_eq(&h, &want, sizeof h);
}
END_TEST

START_TEST(the_newest_form_is_what_is_written)
{
    struct peer_hello h = filled();
    uint8_t bytes[512];

    ck_assert_uint_eq(sizeof h, NEWEST.size);
    ck_assert_uint_eq(read_hex(NEWEST.hex, bytes), sizeof h);
    ck_assert_mem_eq(bytes, &h, sizeof h);
    ck_assert_uint_eq(golden[0].size, PEER_HELLO_FIRST_SIZE);
    for (size_t i = 1; i < N_GOLDEN; i++) /* rows of one protocol only grow */
        ck_assert_msg(golden[i].size > golden[i - 1].size
                          && strncmp(golden[i].hex, golden[i - 1].hex, 2 * golden[i - 1].size) == 0,
                      "row %zu is not the one before it with more at its end",
                      i);
}
END_TEST

START_TEST(what_a_newer_raylet_says_besides_is_passed_over)
{
    struct peer_hello want = filled(), h;
    uint8_t bytes[512];
    struct err err;
    size_t n = read_hex(NEWEST.hex, bytes);

    memset(bytes + n, 0xa5, sizeof bytes - n);
    ck_assert_int_eq(read_one(bytes, n + 1, &h, &err), 0);
    ck_assert_mem_eq(&h, &want, sizeof h);
    ck_assert_int_eq(read_one(bytes, sizeof bytes, &h, &err), 0);
    ck_assert_mem_eq(&h, &want, sizeof h);
}
END_TEST

START_TEST(what_is_none_is_refused)
{
    struct peer_hello h, f = filled();
    static uint8_t bytes[5000];
    struct err err;

    for (size_t n = 0; n < PEER_HELLO_FIRST_SIZE; n++) {
        ck_assert_int_eq(read_one((const uint8_t *)&f, n, &h, &err), -1);
        ck_assert_int_eq(err.code, ERR_PROTOCOL);
    }
    ck_assert_ptr_nonnull(strstr(err.text, "cut off"));
    memcpy(bytes, &f, sizeof f);
    ck_assert_int_eq(read_one(bytes, sizeof bytes, &h, &err), -1);
    ck_assert(unique_id_is_nil(&h.from));
    bytes[0] ^= 1;
    ck_assert_int_eq(read_one(bytes, sizeof f, &h, &err), -1);
    ck_assert(err.code == ERR_PROTOCOL && unique_id_is_nil(&h.from));
    f.protocol = PEER_PROTOCOL + 1;
    ck_assert_int_eq(read_one((const uint8_t *)&f, sizeof f, &h, &err), -1);
    ck_assert(err.code == ERR_VERSION && unique_id_eq(&h.from, &f.from));
    f = filled();
    f.cluster = id_of(0x11);
    ck_assert_int_eq(read_one((const uint8_t *)&f, sizeof f, &h, &err), -1);
    ck_assert_int_eq(err.code, ERR_DENIED);
    f = filled();
    f.to = id_of(0x71);
    ck_assert_int_eq(read_one((const uint8_t *)&f, sizeof f, &h, &err), -1);
    ck_assert(err.code == ERR_INVALID && strstr(err.text, "707172") != NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hello");
    TCase *t = tcase_create("golden");

    tcase_add_loop_test(t, each_form_is_read_to_its_last_field, 0, N_GOLDEN);
    tcase_add_test(t, the_newest_form_is_what_is_written);
    tcase_add_test(t, what_a_newer_raylet_says_besides_is_passed_over);
    tcase_add_test(t, what_is_none_is_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
