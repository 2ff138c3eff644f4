/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/why_refs.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define SLOT(n) ((7ull << 32) | (n))

static uint8_t page[4096];
static size_t size;
static struct why_refs r;

static void put(const void *bytes, size_t n)
{
    ck_assert_uint_le(size + n, sizeof page);
    memcpy(page + size, bytes, n);
    size += n;
}

static void begin(uint32_t n_rows, uint64_t next)
{
    struct wire_refs w = {.n = n_rows, .next = next};

    size = 0;
    put(&w, sizeof w);
}

static void put_row(struct wire_refs_row row, uint32_t arg, const char *text)
{
    struct wire_refs_item items[] = {{WIRE_ITEM_BORROWER, 99}, {WIRE_ITEM_ARGUMENT, arg}};

    row.n_items = arg > 0 ? 2 : 1;
    row.site_size = 5;
    row.text_size = (uint16_t)strlen(text);
    put(&row, sizeof row);
    put(items, row.n_items * sizeof items[0]);
    put("a.c:1", 5);
    put(text, strlen(text));
}

static void setup(void)
{
    r = (struct why_refs){.n = 0};
}

static void teardown(void)
{
    why_refs_fini(&r);
}

/* A task of two returns with three arguments, in two pages; a borrowed ref with its counter; a pin.
 */
static void read_pages(void)
{
    struct wire_refs_row task = {.word = SLOT(5),
                                 .counter = 42,
                                 .index = 1,
                                 .flags = WIRE_ROW_TASK,
                                 .status = WIRE_ROW_ARGS};
    struct wire_refs_row second = {.word = SLOT(6),
                                   .counter = 42,
                                   .index = 2,
                                   .flags = WIRE_ROW_TASK};
    struct wire_refs_row borrowed = {.word = SLOT(3),
                                     .counter = 42,
                                     .index = 1,
                                     .owner = 8,
                                     .flags = WIRE_ROW_BORROWED};
    uint64_t next;

    begin(4, 77);
    put_row((struct wire_refs_row){.word = 0, .place = 5}, 0, "");
    put_row(borrowed, 0, "");
    put_row(second, 0, "sum");
    put_row(task, 3, "s\x01m");
    ck_assert_int_eq(why_refs_add_page(&r, page, size, &next), 0);
    ck_assert_uint_eq(next, 77);
    task.first_item = 2;
    begin(1, 0);
    put_row(task, 9, "");
    ck_assert_int_eq(why_refs_add_page(&r, page, size, &next), 0);
    ck_assert_uint_eq(next, 0);
}

START_TEST(rows_are_found_by_task_and_slot)
{
    read_pages();
    const struct why_row *row = why_refs_find(&r, 42, 1);
    ck_assert_ptr_nonnull(row);
    ck_assert(row->row.word == SLOT(5) && row->n_args == 2);
    ck_assert(row->args[0] == 3 && row->args[1] == 9);
    ck_assert_str_eq(row->text, "s?m");
    ck_assert_ptr_eq(why_refs_find(&r, 42, 0), row); /* of the task its first return */
    ck_assert_str_eq(why_refs_find(&r, 42, 2)->text, "sum");
    ck_assert_ptr_null(why_refs_find(&r, 42, 3));
    ck_assert_ptr_null(why_refs_find(&r, 41, 0));
    ck_assert_uint_eq(why_refs_at(&r, 3)->row.owner, 8);
    ck_assert_ptr_null(why_refs_at(&r, 0)); /* a pin is no record */
    ck_assert_ptr_null(why_refs_at(&r, 9));
}
END_TEST

START_TEST(a_page_that_is_cut_is_refused)
{
    uint64_t next;

    begin(2, 0);
    put_row((struct wire_refs_row){.word = SLOT(1)}, 4, "text");
    put_row((struct wire_refs_row){.word = SLOT(2)}, 4, "text");
    for (size_t n = 0; n < size; n++) {
        uint8_t *part = xmalloc(n + 1); /* of its own: a read behind its end is seen */
        memcpy(part, page, n);
        ck_assert_int_eq(why_refs_add_page(&r, part, n, &next), -1);
        free(part);
    }
    ck_assert_int_eq(why_refs_add_page(&r, page, size, &next), 0);
    struct wire_refs_row many = {.word = SLOT(1), .n_items = UINT32_MAX};
    begin(1, 0);
    put(&many, sizeof many);
    ck_assert_int_eq(why_refs_add_page(&r, page, size, &next), -1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("why_refs");
    TCase *t = tcase_create("why_refs");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, rows_are_found_by_task_and_slot);
    tcase_add_test(t, a_page_that_is_cut_is_refused);
    suite_add_tcase(s, t);
    SRunner *run = srunner_create(s);
    srunner_run_all(run, CK_ENV);
    int failed = srunner_ntests_failed(run);
    srunner_free(run);
    return failed > 0;
}
