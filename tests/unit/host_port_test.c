/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/host_port.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(test_what_is_read)
{
    static const struct {
        const char *text, *host;
        int default_port, port;
    } table[] = {{"head:6379", "head", 0, 6379},
                 {"10.0.0.1:1", "10.0.0.1", 0, 1},
                 {"a-b_c.example.:65535", "a-b_c.example.", 0, 65535},
                 {"[::1]:6379", "::1", 0, 6379},
                 {"[fe80::1:2]:00080", "fe80::1:2", 0, 80},
                 {"head", "head", 6379, 6379},
                 {"[::1]", "::1", 6379, 6379},
                 {"head:7", "head", 6379, 7}};
    struct host_port got, again;
    char text[HOST_PORT_TEXT];

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        ck_assert_int_eq(host_port_parse(table[i].text, table[i].default_port, &got, NULL), 0);
        ck_assert_str_eq(got.host, table[i].host);
        ck_assert_int_eq(got.port, table[i].port);
        host_port_print(got.host, got.port, text, sizeof text);
        ck_assert_int_eq(host_port_parse(text, 0, &again, NULL), 0);
        ck_assert(host_port_eq(&got, &again));
        again.port ^= 1;
        ck_assert(!host_port_eq(&got, &again));
    }
}
END_TEST

START_TEST(test_what_is_refused_says_why)
{
    static const struct {
        const char *text;
        int default_port;
        const char *why;
    } table[] = {{"head", 0, "no port"},
                 {"", 6379, "no host"},
                 {":6379", 0, "no host"},
                 {"[]:6379", 0, "no host"},
                 {"head:", 6379, "1 to 65535"},
                 {"head:0", 0, "1 to 65535"},
                 {"head:65536", 0, "1 to 65535"},
                 {"head:18446744073709551617", 0, "1 to 65535"},
                 {"head:-1", 0, "1 to 65535"},
                 {"head:+1", 0, "1 to 65535"},
                 {"head:63 79", 0, "1 to 65535"},
                 {"head:6379x", 0, "1 to 65535"},
                 {"[::1]x6379", 0, "1 to 65535"},
                 {"::1", 6379, "brackets"},
                 {"::1:6379", 0, "brackets"},
                 {"fe80::1:6379", 0, "brackets"},
                 {"a:b:6379", 0, "brackets"},
                 {"[::1:6379", 0, "IPv6"},
                 {"[head]:6379", 0, "IPv6"},
                 {"[10.0.0.1]:6379", 0, "IPv6"},
                 {"ray/head:1", 0, "a name or an address"},
                 {"he ad:1", 0, "a name or an address"},
                 {"me@head:1", 0, "a name or an address"}};
    struct host_port got = {.host = "as it was", .port = 7};
    struct err err;
    char longest[300];

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        ck_assert_int_eq(host_port_parse(table[i].text, table[i].default_port, &got, &err), -1);
        ck_assert_int_eq(err.code, ERR_INVALID);
        ck_assert_msg(strstr(err.text, "HOST:PORT") != NULL, "%s", err.text);
        ck_assert_msg(strstr(err.text, table[i].why) != NULL, "%s", err.text);
    }
    memset(longest, 'a', sizeof longest);
    memcpy(longest + 253, ":1", 3);
    ck_assert_int_eq(host_port_parse(longest, 0, &(struct host_port){.port = 0}, NULL), 0);
    memcpy(longest + 253, "a:1", 4);
    ck_assert_int_eq(host_port_parse(longest, 0, &got, NULL), -1);
    ck_assert_str_eq(got.host, "as it was");
    ck_assert_int_eq(got.port, 7);
}
END_TEST

/* Any bytes: what is taken reads the same when it was printed, what is not gets a sentence. */
START_TEST(test_any_text)
{
    static const char letters[] = "::::[]]1106553a.-f/ \xff";
    struct host_port got, again;
    char text[16], printed[HOST_PORT_TEXT], small[4];
    int n_taken = 0;
    struct err err;

    srand(1);
    for (int i = 0; i < 5000; i++) {
        size_t n = (size_t)rand() % sizeof text;
        for (size_t k = 0; k < n; k++)
            text[k] = letters[(size_t)rand() % (sizeof letters - 1)];
        text[n] = '\0';
        err.text[0] = '\0';
        if (host_port_parse(text, i % 2 == 0 ? 6379 : 0, &got, &err) != 0) {
            if (err.text[0] == '\0')
                ck_abort_msg("%s is refused without a sentence", text);
            continue;
        }
        n_taken++;
        host_port_print(got.host, got.port, printed, sizeof printed);
        ck_assert_msg(host_port_parse(printed, 0, &again, &err) == 0, "%s: %s", text, err.text);
        ck_assert_msg(host_port_eq(&got, &again), "%s", text);
        host_port_print(got.host, got.port, small, sizeof small);
        ck_assert_uint_eq(strlen(small), 3);
    }
    ck_assert_int_gt(n_taken, 50);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("host_port");
    TCase *tc = tcase_create("host_port");

    tcase_add_test(tc, test_what_is_read);
    tcase_add_test(tc, test_what_is_refused_says_why);
    tcase_add_test(tc, test_any_text);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
