/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/frame.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

/* Byte by byte; bodies are in tests/contract/wire_test.c. */
static const uint8_t golden_header[] = {
    0x1b,
    0x00,
    0x00,
    0x00, /* length 27 */
    0x29, /* type */
    0x02, /* flags: more */
    0x00,
    0x00, /* spare */
    0x04,
    0x03,
    0x02,
    0x01, /* route */
    0xfe,
    0xff,
    0xff,
    0xff, /* sequence */
};
static const uint8_t sample[] = {
    0x30, 0x00, 0x00, 0x00,                         /* length 48 */
    0x29, 0x00, 0x00, 0x00,                         /* PUSH, no flags, spare */
    0x00, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, /* route 0, sequence 7 */
    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* lease */
    0x2a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* counter 42 */
    0x03, 0x01, 0x3f, 0x01,                         /* template 0x103, slot 63, phase 1 */
    0x01, 0x00, 0x02, 0x00,                         /* one argument, attempt 2 */
    0x03, 0x00, 0x00, 0x00, 0x01, 'a',  'b',  'c',  /* 3 bytes, raw */
};

START_TEST(header_has_its_golden_bytes)
{
    uint8_t out[FRAME_HEADER_SIZE];

    frame_write_header(out, 41, FRAME_MORE, 0x01020304, 0xfffffffe, 11);
    ck_assert_mem_eq(out, golden_header, sizeof golden_header);
}
END_TEST

START_TEST(each_prefix_asks_for_more)
{
    struct frame f;
    struct err err;

    for (size_t n = 0; n < sizeof sample; n++) {
        size_t need = 0;
        uint8_t *copy = xmalloc(n); /* exact, so that a sanitizer sees a byte too many */
        memcpy(copy, sample, n);
        ck_assert_int_eq(frame_parse(copy, n, &f, &need, &err), 0);
        ck_assert_uint_eq(need, n < FRAME_HEADER_SIZE ? FRAME_HEADER_SIZE : sizeof sample);
        free(copy);
    }
}
END_TEST

/* n bytes that begin with this header; the sentence must hold a word. */
static void refuse(uint32_t length, uint8_t type, uint8_t flags, const char *word)
{
    struct frame_header h = {.length = length, .type = type, .flags = flags};
    struct frame f = {.fd = 77};
    size_t need;
    struct err err = {0};

    ck_assert_int_eq(frame_parse(&h, sizeof h, &f, &need, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(err.text, word));
    ck_assert_int_eq(f.fd, 77);
    ck_assert_int_eq(frame_parse(&h, sizeof h, &f, &need, NULL), -1);
}

START_TEST(malformed_headers_are_refused_by_name)
{
    refuse(0, 1, 0, "length 0");
    refuse(FRAME_HEADER_SIZE - 1, 1, 0, "length 15");
    refuse(FRAME_SIZE_MAX + 1, 1, 0, "length 65537");
    refuse(UINT32_MAX, 1, 0, "length 4294967295");
    refuse(0x20544547, 0x2f, 0x20, "length"); /* "GET / " */
    refuse(FRAME_HEADER_SIZE, 0, 0, "type 0");
    refuse(FRAME_HEADER_SIZE, 1, 4, "flags 0x4");
    refuse(FRAME_HEADER_SIZE, 1, 0xff, "flags 0xff");
}
END_TEST

START_TEST(bounds_and_spare_are_accepted)
{
    uint8_t *bytes = xcalloc(1, FRAME_SIZE_MAX);
    struct frame_header h = {.length = FRAME_SIZE_MAX, .type = 255, .spare = 0xffff};
    struct frame f;
    size_t need = 0;
    struct err err;

    memcpy(bytes, &h, sizeof h);
    ck_assert_int_eq(frame_parse(bytes, FRAME_SIZE_MAX - 1, &f, &need, &err), 0);
    ck_assert_uint_eq(need, FRAME_SIZE_MAX);
    ck_assert_int_eq(frame_parse(bytes, FRAME_SIZE_MAX, &f, &need, &err), 1);
    ck_assert_uint_eq(f.body_size, FRAME_BODY_MAX);
    frame_write_header(bytes, 1, 0, 0, 0, 0);
    ck_assert_int_eq(frame_parse(bytes, FRAME_HEADER_SIZE, &f, &need, &err), 1);
    ck_assert_uint_eq(f.body_size, 0);
    free(bytes);
}
END_TEST

static struct frame part(uint8_t type, bool more, const void *body, size_t size)
{
    return (struct frame){.h = {.length = (uint32_t)(FRAME_HEADER_SIZE + size),
                                .type = type,
                                .flags = more ? FRAME_MORE : 0},
                          .body = body,
                          .body_size = (uint32_t)size,
                          .fd = -1};
}

START_TEST(single_part_is_joined_in_place)
{
    struct frame_join join = {0};
    struct frame f = part(9, false, "hello", 5);
    const uint8_t *body;
    size_t size;
    struct err err;
    unsigned long before = alloc_count();

    ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 1);
    ck_assert_ptr_eq(body, f.body);
    ck_assert_uint_eq(size, 5);
    ck_assert_uint_eq(alloc_count(), before);
    frame_join_fini(&join);
}
END_TEST

START_TEST(parts_are_joined_again_and_again)
{
    struct frame_join join = {0};
    const uint8_t *body;
    size_t size;
    struct err err;

    for (int round = 0; round < 3; round++) {
        unsigned long before = alloc_count();
        struct frame f = part(9, true, "ab", 2);
        ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 0);
        f = part(9, true, NULL, 0);
        ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 0);
        f = part(9, false, "c", 1);
        ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 1);
        ck_assert_uint_eq(size, 3);
        ck_assert_mem_eq(body, "abc", 3);
        if (round > 0)
            ck_assert_uint_eq(alloc_count(), before); /* the buffer is kept */
        f = part(10, false, "other", 5);              /* the message is over */
        ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 1);
        ck_assert_ptr_eq(body, f.body);
    }
    frame_join_fini(&join);
    ck_assert_ptr_null(join.bytes);
}
END_TEST

START_TEST(other_type_inside_a_message_is_refused)
{
    struct frame_join join = {0};
    struct frame a = part(9, true, "ab", 2), b = part(10, false, "x", 1);
    const uint8_t *body;
    size_t size;
    struct err err;

    ck_assert_int_eq(frame_join_feed(&join, &a, &body, &size, &err), 0);
    ck_assert_int_eq(frame_join_feed(&join, &b, &body, &size, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    ck_assert_int_eq(frame_join_feed(&join, &b, &body, &size, &err), 1); /* empty again */
    ck_assert_uint_eq(size, 1);
    frame_join_fini(&join);
}
END_TEST

START_TEST(message_bound_is_exact)
{
    static uint8_t bytes[FRAME_BODY_MAX];
    const size_t whole = FRAME_MESSAGE_MAX / FRAME_BODY_MAX;
    const size_t rest = FRAME_MESSAGE_MAX - whole * FRAME_BODY_MAX;

    for (size_t extra = 0; extra < 2; extra++) {
        struct frame_join join = {0};
        struct frame f = part(9, true, bytes, sizeof bytes);
        const uint8_t *body;
        size_t size;
        struct err err;
        for (size_t i = 0; i < whole; i++)
            ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), 0);
        f = part(9, false, bytes, rest + extra);
        ck_assert_int_eq(frame_join_feed(&join, &f, &body, &size, &err), extra > 0 ? -1 : 1);
        if (extra > 0)
            ck_assert_int_eq(err.code, ERR_PROTOCOL);
        else
            ck_assert_uint_eq(size, FRAME_MESSAGE_MAX);
        frame_join_fini(&join);
    }
}
END_TEST

START_TEST(join_without_memory_is_empty_again)
{
    static uint8_t bytes[1000];
    struct frame more = part(9, true, bytes, sizeof bytes), last = part(9, false, bytes, 1);

    for (unsigned long k = 1;; k++) {
        struct frame_join join = {0};
        const uint8_t *body;
        size_t size;
        struct err err = {0};
        int rc = 0;
        alloc_test_fail_at(k);
        for (int i = 0; i < 20 && rc == 0; i++)
            rc = frame_join_feed(&join, &more, &body, &size, &err);
        alloc_test_fail_at(0);
        if (rc == 0) {
            ck_assert_uint_gt(k, 3); /* it did grow more than once */
            frame_join_fini(&join);
            break;
        }
        ck_assert_int_eq(rc, -1);
        ck_assert_int_eq(err.code, ERR_NO_MEMORY);
        ck_assert_int_eq(frame_join_feed(&join, &more, &body, &size, &err), 0);
        ck_assert_int_eq(frame_join_feed(&join, &last, &body, &size, &err), 1);
        ck_assert_uint_eq(size, sizeof bytes + 1);
        frame_join_fini(&join);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("frame");
    TCase *t = tcase_create("frame");

    tcase_add_test(t, header_has_its_golden_bytes);
    tcase_add_test(t, each_prefix_asks_for_more);
    tcase_add_test(t, malformed_headers_are_refused_by_name);
    tcase_add_test(t, bounds_and_spare_are_accepted);
    tcase_add_test(t, single_part_is_joined_in_place);
    tcase_add_test(t, parts_are_joined_again_and_again);
    tcase_add_test(t, other_type_inside_a_message_is_refused);
    tcase_add_test(t, message_bound_is_exact);
    tcase_add_test(t, join_without_memory_is_empty_again);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
