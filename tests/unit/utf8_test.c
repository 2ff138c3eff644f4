/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/utf8.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

START_TEST(test_characters)
{
    static const char *const fine[] = {"",
                                       "plain",
                                       "\xc3\xa9t\xc3\xa9",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x8e\x89",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc3",
                                      "\xc3(",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe2\x82",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x9f\x8e",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf8\x88\x80\x80\x80",
                                      "\xff"};
    char text[16];

    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        ck_assert_uint_eq(utf8_length(fine[i], strlen(fine[i])), strlen(fine[i]));
        snprintf(text, sizeof text, "%s", fine[i]);
        utf8_clean(text);
        ck_assert_str_eq(text, fine[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "ab%s", bad[i]);
        ck_assert_uint_eq(utf8_length(text, strlen(text)), 2);
        utf8_clean(text);
        ck_assert_uint_eq(utf8_length(text, strlen(text)), strlen(text));
        ck_assert_int_eq(text[2], '?');
    }
    ck_assert_uint_eq(utf8_length("a\0b", 3), 3);
}
END_TEST

START_TEST(test_what_is_cut_is_cleaned)
{
    char text[8];

    memcpy(text, "abcde\xe2\x82", sizeof text); /* what snprintf leaves of a Euro sign */
    utf8_clean(text);
    ck_assert_str_eq(text, "abcde??");
    snprintf(text, sizeof text, "%s", "\xff\xc3\xa9\xc3");
    utf8_clean(text);
    ck_assert_str_eq(text, "?\xc3\xa9?");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("utf8");
    TCase *t = tcase_create("utf8");

    tcase_add_test(t, test_characters);
    tcase_add_test(t, test_what_is_cut_is_cleaned);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
