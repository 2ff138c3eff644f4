/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/list.h"

#include <check.h>

struct item {
    int number;
    struct list node;
};

static struct list head;
static struct item items[4];

static void setup(void)
{
    list_init(&head);
    for (int i = 0; i < 4; i++) {
        items[i].number = i;
        list_init(&items[i].node);
    }
}

/* The numbers on the list as digits, checked in both directions. */
static int digits(void)
{
    int forward = 0, n = 0;

    list_for_each(p, &head)
    {
        forward = forward * 10 + list_entry(p, struct item, node)->number;
        ck_assert_ptr_eq(p->next->prev, p);
        ck_assert_ptr_eq(p->prev->next, p);
        ck_assert_int_lt(n++, 10);
    }
    return forward;
}

START_TEST(order_is_kept)
{
    ck_assert(list_empty(&head));
    list_append(&head, &items[2].node);
    list_append(&head, &items[3].node);
    list_push(&head, &items[1].node);
    ck_assert(!list_empty(&head));
    ck_assert_int_eq(digits(), 123);
}
END_TEST

START_TEST(removing_twice_is_harmless)
{
    for (int i = 1; i < 4; i++)
        list_append(&head, &items[i].node);
    ck_assert(!list_empty(&items[2].node));
    list_remove(&items[2].node);
    list_remove(&items[2].node);
    ck_assert(list_empty(&items[2].node)); /* on no list */
    ck_assert_int_eq(digits(), 13);
    list_append(&head, &items[2].node);
    ck_assert_int_eq(digits(), 132);
}
END_TEST

START_TEST(safe_walk_may_remove)
{
    for (int i = 1; i < 4; i++)
        list_append(&head, &items[i].node);
    list_for_each_safe(p, &head)
    {
        if (list_entry(p, struct item, node)->number != 2)
            list_remove(p);
    }
    ck_assert_int_eq(digits(), 2);
    list_for_each_safe(p, &head)
    {
        list_remove(p);
    }
    ck_assert(list_empty(&head));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("list");
    TCase *t = tcase_create("list");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, order_is_kept);
    tcase_add_test(t, removing_twice_is_harmless);
    tcase_add_test(t, safe_walk_may_remove);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
