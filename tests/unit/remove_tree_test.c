/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/remove_tree.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char top[] = "/tmp/remove_tree_XXXXXX";

static const char *at(const char *name)
{
    static char path[64];

    snprintf(path, sizeof path, "%s/%s", top, name);
    return path;
}

static void touch(const char *name)
{
    int fd = open(at(name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    close(fd);
}

START_TEST(all_goes_and_links_are_not_followed)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_ptr_nonnull(mkdtemp(top));
    ck_assert_int_eq(mkdir(at("kept"), 0700), 0);
    touch("kept/file");
    ck_assert_int_eq(mkdir(at("gone"), 0700), 0);
    ck_assert_int_eq(mkdir(at("gone/logs"), 0700), 0);
    ck_assert_int_eq(mkdir(at("gone/empty"), 0700), 0);
    touch("gone/file");
    touch("gone/logs/file");
    ck_assert_int_eq(symlink("../kept", at("gone/link")), 0);
    ck_assert_int_eq(symlink("nowhere", at("gone/dangling")), 0);
    ck_assert_int_eq(mkfifo(at("gone/fifo"), 0600), 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", at("gone/socket"));
    ck_assert_int_eq(bind(s, (struct sockaddr *)&address, sizeof address), 0);
    close(s);

    remove_tree(at("gone"));
    ck_assert_int_ne(access(at("gone"), F_OK), 0);
    ck_assert_int_eq(access(at("kept/file"), F_OK), 0);
    remove_tree(at("gone")); /* nothing there: nothing happens */
    remove_tree(top);
    ck_assert_int_ne(access(top, F_OK), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("remove_tree");
    TCase *t = tcase_create("remove_tree");

    tcase_add_test(t, all_goes_and_links_are_not_followed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
