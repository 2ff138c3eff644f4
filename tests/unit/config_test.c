/* SPDX-License-Identifier: Apache-2.0 */
/* Settings and the flags that set them. */
#include "lib/base/config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/flags.h"

static struct config c;
static struct err err;
static bool is_on;
static const char *word;
static const struct flag table[] = {
    FLAG_SETTING(PORT),
    FLAG_SETTING(NUM_CPUS),
    FLAG_SETTING(REDIS_PASSWORD),
    {.name = "head", .letter = 'h', .on = &is_on, .help = "x"},
    {.name = "word", .text = &word, .help = "x"},
    {.name = "gone", .refusal = "write --head"},
    {.name = NULL},
};
static const struct flags flags = {.command = "test", .summary = "x", .table = table};

static void setup(void)
{
    for (int s = 0; s < CONFIG_N_SETTINGS; s++)
        unsetenv(config_variable(s));
    is_on = false;
    word = NULL;
    ck_assert_int_eq(config_load(&c, &err), 0);
}

static int parse(char *a, char *b, char *d)
{
    char *argv[] = {(char *)"test", a, b, d, NULL};

    return flags_parse(&flags, 1 + (a != NULL) + (b != NULL) + (d != NULL), argv, &c);
}

START_TEST(test_flag_wins_over_variable_over_default)
{
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 6379);
    ck_assert(!config_is_set(&c, CONFIG_PORT));
    setenv("RAY_port", "7000", 1);
    ck_assert_int_eq(config_load(&c, &err), 0);
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 7000);
    ck_assert_int_eq(config_set(&c, CONFIG_PORT, "8000", &err), 0);
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 8000);
    ck_assert_int_eq(c.v[CONFIG_PORT].source, CONFIG_FLAG);
    ck_assert_int_eq(config_number(&c, CONFIG_NUM_CPUS, -1), -1);
}
END_TEST

START_TEST(test_an_empty_variable_is_not_set)
{
    setenv("RAY_port", "", 1);
    ck_assert_int_eq(config_load(&c, &err), 0);
    ck_assert_int_eq(c.v[CONFIG_PORT].source, CONFIG_DEFAULT);
}
END_TEST

START_TEST(test_what_cannot_be_is_named_and_changes_nothing)
{
    static const char *const bad[] =
        {"", "x", "1x", "-1", "65536", " 1", "99999999999999999999", "0x10"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(config_set(&c, CONFIG_PORT, bad[i], &err), -1);
        ck_assert_ptr_nonnull(strstr(err.text, "--port"));
        ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 6379);
    }
    setenv("RAY_num_cpus", "-1", 1);
    ck_assert_int_eq(config_load(&c, &err), -1);
    ck_assert_ptr_nonnull(strstr(err.text, "RAY_num_cpus"));
    ck_assert_ptr_nonnull(strstr(err.text, "from 0 to"));
}
END_TEST

START_TEST(test_defaults_are_within_their_bounds_and_names_are_unique)
{
    for (int s = 0; s < CONFIG_N_SETTINGS; s++) {
        const char *text = config_default(s);
        if (text[0] != '\0' && config_kind(s) == CONFIG_NUMBER)
            ck_assert_msg(config_set(&c, s, text, &err) == 0, "%s", err.text);
        ck_assert_int_eq(strncmp(config_variable(s), "RAY_", 4), 0);
        for (int o = 0; o < s; o++) {
            ck_assert_str_ne(config_variable(s), config_variable(o));
            ck_assert(config_flag(s)[0] == '\0' || strcmp(config_flag(s), config_flag(o)) != 0);
        }
    }
}
END_TEST

START_TEST(test_a_dump_names_sources_and_hides_secrets)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    setenv("RAY_REDIS_PASSWORD", "very-secret", 1);
    setenv("RAY_TMPDIR", "/some/where", 1);
    ck_assert_int_eq(config_load(&c, &err), 0);
    ck_assert_int_eq(config_set(&c, CONFIG_PORT, "1", &err), 0);
    config_dump(&c, out);
    fclose(out);
    ck_assert_ptr_null(strstr(text, "very-secret"));
    ck_assert_ptr_nonnull(strstr(text, "(secret)"));
    ck_assert_ptr_nonnull(strstr(text, "environment  /some/where"));
    ck_assert_ptr_nonnull(strstr(text, "flag         1"));
    ck_assert_ptr_nonnull(strstr(text, "default      67108864"));
    free(text);
}
END_TEST

START_TEST(test_both_ways_to_write_a_value)
{
    char one[] = "--port=1", two[] = "--port", value[] = "2", head[] = "--head", letter[] = "-h";

    ck_assert_int_eq(parse(one, NULL, NULL), FLAGS_GO_ON);
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 1);
    ck_assert_int_eq(parse(two, value, head), FLAGS_GO_ON);
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 2);
    ck_assert(is_on);
    is_on = false;
    ck_assert_int_eq(parse(letter, NULL, NULL), FLAGS_GO_ON);
    ck_assert(is_on);
}
END_TEST

START_TEST(test_what_is_no_flag_is_refused)
{
    static const char *const bad[] = {"--prot=1",
                                      "--head=1",
                                      "--word",
                                      "--gone",
                                      "-x",
                                      "word",
                                      "--",
                                      "-",
                                      "---",
                                      "--=1",
                                      "--port=x"};
    char *huge = malloc(70000);

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char copy[32];
        snprintf(copy, sizeof copy, "%s", bad[i]);
        ck_assert_int_eq(parse(copy, NULL, NULL), 2);
    }
    memset(huge, 'x', 70000);
    huge[0] = huge[1] = '-';
    huge[69999] = '\0';
    ck_assert_int_eq(parse(huge, NULL, NULL), 2);
    memcpy(huge, "--port=", 7);
    ck_assert_int_eq(parse(huge, NULL, NULL), 2);
    ck_assert_int_eq(config_number(&c, CONFIG_PORT, -1), 6379);
    free(huge);
}
END_TEST

START_TEST(test_the_nearest_name)
{
    static const char *const names[] = {"num-cpus", "num-gpus", "head", "port", NULL};

    ck_assert_str_eq(flags_nearest("num-cpu", names), "num-cpus");
    ck_assert_str_eq(flags_nearest("nmu-gpus", names), "num-gpus");
    ck_assert_str_eq(flags_nearest("haed", names), "head");
    ck_assert_ptr_null(flags_nearest("dashboard", names));
}
END_TEST

START_TEST(test_a_secret_is_wiped_from_the_command_line)
{
    char secret[] = "--redis-password=hunter2";

    ck_assert_int_eq(parse(secret, NULL, NULL), FLAGS_GO_ON);
    ck_assert_str_eq(config_text(&c, CONFIG_REDIS_PASSWORD), "hunter2");
    ck_assert_ptr_null(strstr(secret, "hunter2"));
    free((char *)(uintptr_t)config_text(&c, CONFIG_REDIS_PASSWORD));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *t = tcase_create("config");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, test_flag_wins_over_variable_over_default);
    tcase_add_test(t, test_an_empty_variable_is_not_set);
    tcase_add_test(t, test_what_cannot_be_is_named_and_changes_nothing);
    tcase_add_test(t, test_defaults_are_within_their_bounds_and_names_are_unique);
    tcase_add_test(t, test_a_dump_names_sources_and_hides_secrets);
    tcase_add_test(t, test_both_ways_to_write_a_value);
    tcase_add_test(t, test_what_is_no_flag_is_refused);
    tcase_add_test(t, test_the_nearest_name);
    tcase_add_test(t, test_a_secret_is_wiped_from_the_command_line);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
