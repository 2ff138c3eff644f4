/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/transfer_mover.h"

#include <check.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int event_fd;
static struct mover *mover;

static void setup(void)
{
    struct err err;

    event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mover = mover_create(event_fd, &err);
    ck_assert_ptr_nonnull(mover);
}

static void teardown(void)
{
    mover_destroy(mover);
    close(event_fd);
}

/* A link that is ended by the other side: its number, from whom it comes. */
static uint64_t end_of_a_link(uint64_t number, int *copy)
{
    struct pollfd p = {.fd = event_fd, .events = POLLIN};
    struct mover_event e;
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    if (copy != NULL)
        *copy = dup(pair[0]);
    mover_add(mover, number, pair[0], true);
    close(pair[1]);
    while (!mover_next(mover, &e)) {
        ck_assert_int_ge(poll(&p, 1, -1), 0);
        (void)!read(event_fd, &(uint64_t){0}, sizeof(uint64_t));
    }
    ck_assert_int_eq(e.kind, MOVER_ENDED);
    return e.link;
}

/* As while a process is spawned, which has all descriptors until it executes. */
START_TEST(test_a_link_ends_once_though_its_descriptor_has_a_copy)
{
    int copy;

    ck_assert_uint_eq(end_of_a_link(1, &copy), 1);
    for (uint64_t i = 2; i < 20; i++)
        ck_assert_uint_eq(end_of_a_link(i, NULL), i);
    close(copy);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("transfer_mover");
    TCase *c = tcase_create("links");
    SRunner *r = srunner_create(s);

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_a_link_ends_once_though_its_descriptor_has_a_copy);
    suite_add_tcase(s, c);
    srunner_run_all(r, CK_ENV);
    int n_failed = srunner_ntests_failed(r);
    srunner_free(r);
    return n_failed != 0;
}
