/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/kv.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct kv_key key;
static struct err err;

static const char *make(const char *ns, const char *k)
{
    ck_assert_int_eq(kv_key_make(ns, strlen(ns), k, strlen(k), &key, &err), 0);
    return key.text;
}

START_TEST(test_the_form_is_rays)
{
    ck_assert_str_eq(make("", "CLUSTER_METADATA"), "CLUSTER_METADATA");
    ck_assert_str_eq(make("fun", "a:b"), "@namespace_fun:a:b");
    ck_assert_str_eq(make("", "a b%\xff"), "a%20b%25%ff");
    ck_assert_str_eq(make("", ""), "");
}
END_TEST

START_TEST(test_bytes_come_back)
{
    unsigned char bytes[64], ns[16], back[STORE_KEY_MAX];
    unsigned seed = 3;

    for (int i = 0; i < 5000; i++) {
        size_t n = (size_t)rand_r(&seed) % sizeof bytes, m = (size_t)rand_r(&seed) % sizeof ns;
        for (size_t k = 0; k < n; k++)
            bytes[k] = (unsigned char)rand_r(&seed);
        for (size_t k = 0; k < m; k++)
            ns[k] = (unsigned char)(rand_r(&seed) % 2 == 0 ? ':' : rand_r(&seed));
        ck_assert_int_eq(kv_key_make(ns, m, bytes, n, &key, &err), 0);
        ck_assert_uint_eq(kv_key_bytes(key.text, m, back), n);
        ck_assert_mem_eq(back, bytes, n);
        size_t whole = strlen(key.text); /* a prefix's text is a prefix */
        char text[sizeof key.text];
        memcpy(text, key.text, whole);
        ck_assert_int_eq(kv_key_make(ns, m, bytes, n / 2, &key, &err), 0);
        ck_assert_int_eq(strncmp(text, key.text, strlen(key.text)), 0);
    }
}
END_TEST

START_TEST(test_text_of_others_is_read_without_harm)
{
    static const char *const texts[] =
        {"", "%", "%4", "%zz", "@", "@namespace_", "@namespace_a", "%%%"};
    unsigned char back[STORE_KEY_MAX];

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        for (size_t ns = 0; ns < 20; ns++)
            ck_assert_uint_le(kv_key_bytes(texts[i], ns, back), strlen(texts[i]));
}
END_TEST

START_TEST(test_keys_are_bounded)
{
    char big[STORE_KEY_MAX + 2];

    memset(big, 'x', sizeof big);
    ck_assert_int_eq(kv_key_make("", 0, big, STORE_KEY_MAX, &key, &err), 0);
    ck_assert_int_eq(kv_key_make("", 0, big, STORE_KEY_MAX + 1, &key, &err), -1);
    ck_assert_int_eq(err.code, ERR_INVALID);
    memset(big, 0, sizeof big);
    ck_assert_int_eq(kv_key_make("", 0, big, STORE_KEY_MAX / 3, &key, &err), 0);
    ck_assert_int_eq(kv_key_make("", 0, big, STORE_KEY_MAX / 3 + 1, &key, &err), -1);
    ck_assert_int_eq(kv_key_make("n", 1, big, STORE_KEY_MAX / 3, &key, &err), -1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kv");
    TCase *t = tcase_create("kv");

    tcase_add_test(t, test_the_form_is_rays);
    tcase_add_test(t, test_bytes_come_back);
    tcase_add_test(t, test_text_of_others_is_read_without_harm);
    tcase_add_test(t, test_keys_are_bounded);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
