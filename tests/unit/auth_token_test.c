/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/auth_token.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/remove_tree.h"

static char home[64], path[128];
static struct auth_token t;
static struct err err;

static void setup(void)
{
    snprintf(home, sizeof home, "/tmp/ray-token-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(home));
    snprintf(path, sizeof path, "%s/named", home);
    setenv("HOME", home, 1);
    unsetenv("RAY_AUTH_TOKEN");
    unsetenv("RAY_AUTH_TOKEN_PATH");
    memset(&t, 0, sizeof t);
}

static void teardown(void)
{
    remove_tree(home);
}

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");

    fputs(text, f);
    fclose(f);
}

START_TEST(test_the_first_source_that_is_set_wins)
{
    struct auth_token made;

    ck_assert_int_eq(auth_token_load(&t, &err), -1);
    ck_assert_int_eq(err.code, ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "RAY_AUTH_TOKEN"));
    ck_assert_int_eq(auth_token_make(&made, &err), 0);
    ck_assert_uint_eq(strlen(made.text), 64);
    ck_assert_int_eq(auth_token_save(&made, &err), 0);
    ck_assert_int_eq(auth_token_load(&t, &err), 0);
    ck_assert_str_eq(t.text, made.text);
    write_file(" named \n");
    setenv("RAY_AUTH_TOKEN_PATH", path, 1);
    ck_assert_int_eq(auth_token_load(&t, &err), 0);
    ck_assert_str_eq(t.text, "named");
    setenv("RAY_AUTH_TOKEN", "said", 1);
    ck_assert_int_eq(auth_token_load(&t, &err), 0);
    ck_assert_str_eq(t.text, "said");
}
END_TEST

START_TEST(test_a_named_source_that_is_no_token_is_an_error)
{
    char long_text[AUTH_TOKEN_MAX + 2];

    setenv("RAY_AUTH_TOKEN_PATH", path, 1);
    ck_assert_int_eq(auth_token_load(&t, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    write_file(" \n");
    ck_assert_int_eq(auth_token_load(&t, &err), -1);
    write_file("two words");
    ck_assert_int_eq(auth_token_load(&t, &err), -1);
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    write_file(long_text);
    ck_assert_int_eq(auth_token_load(&t, &err), -1);
    long_text[AUTH_TOKEN_MAX] = '\0';
    write_file(long_text);
    ck_assert_int_eq(auth_token_load(&t, &err), 0);
    ck_assert_str_eq(t.text, long_text);
    setenv("RAY_AUTH_TOKEN", "caf\xc3\xa9", 1);
    ck_assert_int_eq(auth_token_load(&t, &err), -1);
}
END_TEST

START_TEST(test_a_saved_token_is_private_and_replaces_none)
{
    struct stat s;

    ck_assert_int_eq(auth_token_make(&t, &err), 0);
    umask(0);
    ck_assert_int_eq(auth_token_save(&t, &err), 0);
    snprintf(path, sizeof path, "%s/.ray/auth_token", home);
    ck_assert_int_eq(stat(path, &s), 0);
    ck_assert_uint_eq(s.st_mode & 0777, 0600);
    ck_assert_int_eq(auth_token_save(&t, &err), -1);
}
END_TEST

START_TEST(test_comparison)
{
    snprintf(t.text, sizeof t.text, "abcabc");
    ck_assert(auth_token_is(&t, "abcabc", 6));
    ck_assert(!auth_token_is(&t, "abcabd", 6));
    ck_assert(!auth_token_is(&t, "Xbcabc", 6));
    ck_assert(!auth_token_is(&t, "abc", 3)); /* its period */
    ck_assert(!auth_token_is(&t, "abcabcabc", 9));
    ck_assert(!auth_token_is(&t, "", 0));
    t.text[0] = '\0'; /* no token: nobody has it */
    ck_assert(!auth_token_is(&t, "", 0));
    ck_assert(!auth_token_is(&t, "a", 1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("auth_token");
    TCase *c = tcase_create("auth_token");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_the_first_source_that_is_set_wins);
    tcase_add_test(c, test_a_named_source_that_is_no_token_is_an_error);
    tcase_add_test(c, test_a_saved_token_is_private_and_replaces_none);
    tcase_add_test(c, test_comparison);
    suite_add_tcase(suite, c);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
