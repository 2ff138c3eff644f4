/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/node_file.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "lib/base/remove_tree.h"
#include "raylet/session.h"

static char temp[64];
static struct err err;

static void setup(void)
{
    snprintf(temp, sizeof temp, "/tmp/ray-node-file-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(temp));
}

static void teardown(void)
{
    remove_tree(temp);
}

static struct session begin(const char *address)
{
    struct session s;
    struct node_file f = {.supervisor_pid = (int)getpid(), .is_head = true};

    ck_assert_msg(session_create_locked(&s, temp, SESSION_SUPERVISOR, &err) == 0, "%s", err.text);
    snprintf(f.session_dir, sizeof f.session_dir, "%s", s.dir);
    snprintf(f.gcs_address, sizeof f.gcs_address, "%s", address);
    ck_assert_int_eq(node_file_write(&f, &err), 0);
    return s;
}

/* Its supervisor ended, long ago. */
static void end(struct session *s)
{
    char path[300];
    struct timeval then[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

    close(s->lock_fd);
    snprintf(path, sizeof path, "%s/" SESSION_SUPERVISOR, s->dir);
    ck_assert_int_eq(utimes(path, then), 0);
}

static bool is_there(const struct session *s, const char *name)
{
    char path[300];

    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    return access(path, F_OK) == 0;
}

START_TEST(test_a_file_is_read_as_it_was_written)
{
    struct session s = begin("10.0.0.1:6379");
    struct node_file f, g;

    memset(&f, 0, sizeof f);
    f.node_manager_port = 7;
    f.object_manager_port = 9;
    f.is_ready = true;
    snprintf(f.session_dir, sizeof f.session_dir, "%s", s.dir);
    snprintf(f.node_name, sizeof f.node_name, "a \"name\"");
    snprintf(f.cluster_id, sizeof f.cluster_id, "abc");
    ck_assert_int_eq(node_file_write(&f, &err), 0);
    ck_assert_int_eq(node_file_read(s.dir, &g, &err), 0);
    ck_assert_int_eq(memcmp(&f, &g, sizeof f), 0);
    snprintf(f.node_name, sizeof f.node_name, "\xff\xfe");
    ck_assert_int_eq(node_file_write(&f, &err), -1);
    ck_assert_int_eq(node_file_read(s.dir, &g, &err), 0); /* the former one */
    close(s.lock_fd);
}
END_TEST

START_TEST(test_a_damaged_file_is_an_error)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{\"node_name\": 7, \"is_head\": \"x\"}",
                                      "\xff"};
    struct session s = begin("x:1");
    char path[300];
    struct node_file g;

    snprintf(path, sizeof path, "%s/node.json", s.dir);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        FILE *f = fopen(path, "w");
        fputs(bad[i], f);
        fclose(f);
        if (node_file_read(s.dir, &g, &err) == 0)
            ck_assert(g.node_name[0] == '\0' && !g.is_head && g.supervisor_pid == 0);
    }
    unlink(path);
    ck_assert_int_eq(node_file_read(s.dir, &g, &err), -1);
    close(s.lock_fd);
}
END_TEST

START_TEST(test_only_those_whose_supervisor_lives_are_listed)
{
    size_t n;
    struct session a = begin("a:1"), b = begin("b:2");
    struct node_file *all = node_file_list(temp, &n);

    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(all[0].gcs_address, "b:2"); /* the newest first */
    ck_assert_int_eq(all[0].supervisor_pid, getpid());
    free(all);
    end(&b);
    all = node_file_list(temp, &n);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(all[0].gcs_address, "a:1");
    free(all);
    end(&a);
    all = node_file_list(temp, &n);
    ck_assert_uint_eq(n, 0);
    free(all);
    free(node_file_list("/no/such/folder", &n));
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(test_sweep_keeps_the_newest_logs_and_who_lives)
{
    struct session s[4];
    struct auth_token token = {"t"};

    for (int i = 0; i < 4; i++) {
        s[i] = begin("x:1");
        ck_assert_int_eq(node_file_save_token(s[i].dir, &token, &err), 0);
    }
    end(&s[0]);
    end(&s[1]);
    end(&s[2]);
    node_file_sweep(temp, 2);
    ck_assert(!is_there(&s[0], "logs"));
    for (int i = 1; i < 3; i++) {
        ck_assert(is_there(&s[i], "logs"));
        ck_assert(!is_there(&s[i], "auth_token"));
        ck_assert(!is_there(&s[i], "sockets"));
        ck_assert(!is_there(&s[i], "node.json"));
    }
    ck_assert(is_there(&s[3], "auth_token"));
    ck_assert(is_there(&s[3], "sockets"));
    session_sweep(&s[3]); /* a raylet's, that knows nothing of those */
    ck_assert(is_there(&s[1], "logs"));
    close(s[3].lock_fd);
}
END_TEST

START_TEST(test_a_lock_that_is_about_to_be_taken_is_left_alone)
{
    struct session s = begin("x:1");

    close(s.lock_fd); /* free, and young */
    node_file_sweep(temp, 0);
    ck_assert(is_there(&s, "logs"));
    end(&s);
    node_file_sweep(temp, 0);
    ck_assert(!is_there(&s, "logs"));
}
END_TEST

START_TEST(test_the_token_is_private)
{
    struct session s = begin("x:1");
    struct auth_token token = {"a-token"}, found;
    char path[300];
    struct stat st;

    ck_assert_int_eq(node_file_load_token(s.dir, &found, &err), -1);
    ck_assert_int_eq(node_file_save_token(s.dir, &token, &err), 0);
    ck_assert_int_eq(node_file_load_token(s.dir, &found, &err), 0);
    ck_assert_str_eq(found.text, "a-token");
    snprintf(path, sizeof path, "%s/auth_token", s.dir);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    close(s.lock_fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("node_file");
    TCase *t = tcase_create("node_file");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_a_file_is_read_as_it_was_written);
    tcase_add_test(t, test_a_damaged_file_is_an_error);
    tcase_add_test(t, test_only_those_whose_supervisor_lives_are_listed);
    tcase_add_test(t, test_sweep_keeps_the_newest_logs_and_who_lives);
    tcase_add_test(t, test_a_lock_that_is_about_to_be_taken_is_left_alone);
    tcase_add_test(t, test_the_token_is_private);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
