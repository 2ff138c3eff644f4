/* SPDX-License-Identifier: Apache-2.0 */
/* What a raylet asks of the GCS: of tables in its process, and of a gcs_server over loopback. */
#include "gcs/client.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/server.h"
#include "lib/base/log.h"
#include "lib/net/rpc_bridge.h"

static const struct auth_token token = {"right-token"};
static struct loop *loop;
static struct loop_timer *step;
static struct rpc_bridge *bridge;
static struct gcs_server *gcs;
static struct gcs_client *clients[2]; /* the second is of gcs_server only */
static char address[80];

static unsigned n_done;
static enum err_code code;
static uint32_t numbers[2]; /* what came */
static struct unique_id where;
static struct node_view others[2]; /* what each heard last */
static enum err_code refusal;
static int64_t cpus;

/* --- waiting --- */

static bool (*condition)(void);

static void turn_end(void *arg)
{
    (void)arg;
    if (gcs != NULL)
        gcs_server_run(gcs);
    for (int i = 0; i < 2; i++)
        if (clients[i] != NULL)
            gcs_client_run(clients[i]);
    if (condition())
        loop_stop(loop);
}

static void on_step(void *arg)
{
    (void)arg;
}

/* check's time limit ends a wait for nothing. */
static void wait_until(bool (*c)(void))
{
    condition = c;
    if (!c())
        loop_run(loop, turn_end, NULL);
}

static bool is_done(void)
{
    return n_done > 0;
}
static bool each_hears_of_the_other(void)
{
    return others[0].is_alive && others[1].is_alive;
}
static bool has_three(void)
{
    return others[0].resources[0].available == 3;
}
static bool has_died(void)
{
    return !others[0].is_alive;
}
static bool is_refused(void)
{
    return refusal != ERR_NONE;
}

/* For the one call that is open. */
static void wait_for_it(void)
{
    ck_assert_uint_eq(n_done, 0); /* not before it returned */
    wait_until(is_done);
    ck_assert_uint_eq(n_done, 1);
    n_done = 0;
}

/* --- completions --- */

static void on_number(void *arg, enum err_code c, uint32_t number)
{
    (void)arg;
    n_done++;
    code = c;
    numbers[0] = number;
}

static void on_code(void *arg, enum err_code c)
{
    (void)arg;
    n_done++;
    code = c;
}

static void on_block(void *arg, enum err_code c, uint32_t first, uint32_t n)
{
    (void)arg;
    n_done++;
    code = c;
    numbers[0] = first;
    numbers[1] = n;
}

static void on_located(void *arg, enum err_code c, const struct unique_id *node, uint32_t number)
{
    (void)arg;
    n_done++;
    code = c;
    numbers[0] = number;
    if (node != NULL)
        where = *node;
}

static void held(void *arg, struct held *out)
{
    (void)arg;
    (void)out;
}

static void on_node(void *arg, const struct node_view *v)
{
    *(struct node_view *)arg = *v;
}

static void fill_self(void *arg, struct node_view *self)
{
    (void)arg;
    self->n_resources = 1;
    snprintf(self->resources[0].name, sizeof self->resources[0].name, "CPU");
    self->resources[0].total = 8;
    self->resources[0].available = cpus;
}

static void on_refused(void *arg, const struct err *err)
{
    (void)arg;
    refusal = err->code;
}

/* --- the two --- */

static void on_ready(void *arg, int port, const char *cluster, uint64_t incarnation)
{
    (void)arg;
    (void)cluster;
    (void)incarnation;
    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", port);
}

static struct gcs_client *open_client(unsigned i, uint8_t mark)
{
    return gcs_client_create(&(struct gcs_client_config){.loop = loop,
                                                         .bridge = bridge,
                                                         .address = address,
                                                         .token = &token,
                                                         .cluster = unique_id_nil(),
                                                         .node = {.bytes = {mark}},
                                                         .incarnation = 1,
                                                         .held = held,
                                                         .on_node = on_node,
                                                         .fill_self = fill_self,
                                                         .on_refused = on_refused,
                                                         .arg = &others[i]});
}

static void setup(void)
{
    struct err err;

    log_threshold = LOG_LEVEL_BROKEN;
    loop = loop_create(&err);
    step = loop_every(loop, 1, on_step, NULL); /* what is private needs turns, too */
}

static void setup_private(void)
{
    setup();
    clients[0] = gcs_client_create_private();
}

static void setup_remote(void)
{
    struct err err;

    setup();
    bridge = rpc_bridge_create(loop, &err);
    gcs = gcs_server_create(&(struct gcs_server_config){.loop = loop,
                                                        .address = "127.0.0.1:0",
                                                        .ns = "x",
                                                        .token = &token,
                                                        .dead_nodes = 10,
                                                        .on_ready = on_ready},
                            &err);
    ck_assert_msg(gcs != NULL, "%s", err.text);
    clients[0] = open_client(0, 1);
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++)
        gcs_client_destroy(clients[i]);
    gcs_server_destroy(gcs);
    rpc_bridge_destroy(bridge);
    loop_timer_end(step);
    loop_destroy(loop);
}

static uint32_t register_node(unsigned i)
{
    const struct node_row row = {.id = {.bytes = {(uint8_t)(i + 1)}},
                                 .state = NODE_ALIVE,
                                 .start_ms = 5,
                                 .address = "10.0.0.1",
                                 .node_port = 7};

    gcs_client_register_node(clients[i], &row, on_number, NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_NONE);
    return numbers[0];
}

static void locate(unsigned i, uint32_t process)
{
    gcs_client_locate(clients[i], process, on_located, NULL);
    wait_for_it();
}

/* --- of either --- */

START_TEST(test_numbers_of_a_node_and_its_processes)
{
    uint32_t node = register_node(0), end = 0;

    ck_assert_uint_gt(node, 0);
    for (int i = 0; i < 2; i++) {
        gcs_client_take_processes(clients[0], 256, on_block, NULL);
        wait_for_it();
        ck_assert_int_eq(code, ERR_NONE);
        ck_assert_uint_eq(numbers[1], 256);
        ck_assert_uint_gt(numbers[0], node);
        ck_assert_uint_ge(numbers[0], end);
        end = numbers[0] + 256;
    }
    for (int i = 0; i < 3; i++) {
        locate(0, i == 0 ? node : i == 1 ? end - 1 : end - 256);
        ck_assert_int_eq(code, ERR_NONE);
        ck_assert_uint_eq(numbers[0], node);
        ck_assert_uint_eq(where.bytes[0], 1);
    }
    locate(0, end);
    ck_assert_int_eq(code, ERR_NOT_FOUND);
}
END_TEST

START_TEST(test_jobs_begin_and_end)
{
    const struct job_row row = {.start_ms = 3, .entry = "x"};

    register_node(0);
    for (uint32_t i = 1; i <= 2; i++) {
        gcs_client_add_job(clients[0], &row, on_number, NULL);
        wait_for_it();
        ck_assert_int_eq(code, ERR_NONE);
        ck_assert_uint_eq(numbers[0], i);
    }
    gcs_client_end_job(clients[0], 1, &row, on_code, NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_NONE);
}
END_TEST

START_TEST(test_what_is_open_is_canceled)
{
    const struct job_row row = {.start_ms = 3};

    register_node(0);
    gcs_client_add_job(clients[0], &row, on_number, NULL);
    gcs_client_take_processes(clients[0], 1, on_block, NULL);
    gcs_client_locate(clients[0], 1, on_located, NULL);
    gcs_client_unregister_node(clients[0], on_code, NULL);
    gcs_client_destroy(clients[0]);
    clients[0] = NULL;
    ck_assert_uint_eq(n_done, 4);
    ck_assert_int_eq(code, ERR_CANCELED);
    n_done = 0;
}
END_TEST

/* --- of gcs_server --- */

START_TEST(test_two_nodes)
{
    cpus = 8;
    uint32_t a = register_node(0);
    clients[1] = open_client(1, 2);
    uint32_t b = register_node(1);
    wait_until(each_hears_of_the_other);
    cpus = 3;
    gcs_client_changed(clients[1]);
    wait_until(has_three);
    ck_assert_uint_eq(others[1].number, a);
    ck_assert_uint_eq(others[0].number, b);
    ck_assert_str_eq(others[0].address, "10.0.0.1");
    ck_assert_int_eq(others[0].node_port, 7);
    locate(1, a);
    ck_assert_uint_eq(numbers[0], a);
    gcs_client_unregister_node(clients[1], on_code, NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_NONE);
    wait_until(has_died);
    ck_assert_uint_eq(others[0].number, b);
    locate(0, b);
    ck_assert_int_eq(code, ERR_DIED);
    ck_assert_uint_eq(numbers[0], b);
    ck_assert_uint_eq(where.bytes[0], 2);
    ck_assert_int_eq(refusal, ERR_NONE);
    /* the id of a dead node is nobody's */
    gcs_client_destroy(clients[1]);
    clients[1] = open_client(1, 2);
    gcs_client_register_node(
        clients[1],
        &(struct node_row){.id = {.bytes = {2}}, .state = NODE_ALIVE, .start_ms = 6},
        on_number,
        NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_EXISTS);
    ck_assert_int_eq(refusal, ERR_EXISTS);
}
END_TEST

START_TEST(test_a_dead_node_is_told)
{
    const struct node_row row = {.id = {.bytes = {1}},
                                 .state = NODE_ALIVE,
                                 .start_ms = 5,
                                 .address = "10.0.0.1"};

    uint32_t number = register_node(0);
    clients[1] = open_client(1, 1); /* somebody says good-bye for it */
    gcs_client_register_node(clients[1], &row, on_number, NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_NONE);
    ck_assert_uint_eq(numbers[0], number);
    gcs_client_unregister_node(clients[1], on_code, NULL);
    wait_for_it();
    ck_assert_int_eq(code, ERR_NONE);
    wait_until(is_refused);
    ck_assert_int_eq(refusal, ERR_DIED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gcs_client");
    TCase *cases[] = {tcase_create("private"), tcase_create("remote")};

    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        tcase_set_timeout(cases[i], 60);
        tcase_add_checked_fixture(cases[i], i == 0 ? setup_private : setup_remote, teardown);
        tcase_add_test(cases[i], test_numbers_of_a_node_and_its_processes);
        tcase_add_test(cases[i], test_jobs_begin_and_end);
        tcase_add_test(cases[i], test_what_is_open_is_canceled);
        suite_add_tcase(suite, cases[i]);
    }
    tcase_add_test(cases[1], test_two_nodes);
    tcase_add_test(cases[1], test_a_dead_node_is_told);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
