/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node and the processes of other machines, with a cluster of this program around it
 * (turned_cluster.h). What the node says to other nodes and to its driver is kept as text; where a
 * process is says the test, instead of the GCS.
 */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/client_private.h"
#include "tests/fuzz/turned_cluster.h"

#define SELF_TICKET 1

static struct loop loop;
static struct node *n;
static char temp[] = "/tmp/guest_test_XXXXXX";

/* --- what is said --- */

static char said[1024];         /* "to 70001 push; own spill", since the last look */
static uint64_t n_rejected;     /* units */
static unsigned n_asked_job;    /* JOB_ASKs */
static uint32_t asked_node;     /* of the last */
static uint32_t told_job;       /* of the last frame */
static struct peer_found found; /* the last */
static char heard[256];         /* by the driver: types */

void on_sent(const struct peer *p,
             enum frame_class class,
             const struct peer_header *h,
             const void *body,
             size_t size)
{
    struct peer_rejected r;
    size_t len = strlen(said);

    (void)class;
    if (h->type == PEER_REJECTED) {
        ck_assert_uint_ge(size, sizeof r);
        memcpy(&r, body, sizeof r);
        n_rejected += r.count;
        return;
    }
    if (h->type == PEER_JOB_ASK) {
        n_asked_job++;
        asked_node = p->number;
    }
    if (h->type == PEER_FOUND)
        memcpy(&found, body, sizeof found);
    told_job = h->job;
    snprintf(said + len,
             sizeof said - len,
             "%s%u: %u to %u",
             len > 0 ? ", " : "",
             p->number,
             h->type,
             h->to);
}

void on_heard(const struct unix_link *link, const struct frame *f)
{
    size_t len = strlen(heard);

    if (link == driver)
        snprintf(heard + len, sizeof heard - len, "%s%u", len > 0 ? " " : "", f->h.type);
}

static void go(void)
{
    settle(&loop, n);
    fire(&loop);
    settle(&loop, n);
}

static const char *driver_heard(void)
{
    static char text[sizeof heard];

    go();
    memcpy(text, heard, sizeof text);
    heard[0] = '\0';
    return text;
}

static const char *nodes_heard(void)
{
    static char text[sizeof said];

    go();
    memcpy(text, said, sizeof text);
    said[0] = '\0';
    return text;
}

/* --- where processes are --- */

static struct gcs_client_ops ops;
static unsigned n_located;
static gcs_located_f located;
static void *located_arg;

static void on_locate(struct gcs_client *c, uint32_t process, gcs_located_f done, void *arg)
{
    (void)c;
    (void)process;
    ck_assert_ptr_null(located_arg);
    n_located++;
    located = done;
    located_arg = arg;
}

static void answer(enum err_code code, uint32_t node)
{
    void *arg = located_arg;
    static const struct unique_id id;

    ck_assert_ptr_nonnull(arg);
    located_arg = NULL;
    located(arg, code, &id, node);
}

/* --- the node --- */

static void setup(void)
{
    struct node_config config = {.num_cpus = 2,
                                 .max_channels = 2,
                                 .driver_fd = -1,
                                 .executable_fd = -1,
                                 .ready_fd = -1,
                                 .temp_dir = temp};
    struct err err;

    now_ms = 1000;
    last_pid = FIRST_PID;
    memset(others, 0, sizeof others);
    loop = (struct loop){.stopped = false};
    list_init(&loop.watches);
    list_init(&loop.timers);
    resources_init(&config.custom, 0);
    n = node_create(&loop, &config, &err);
    ck_assert_ptr_nonnull(n);
    begin(&loop, n);
    ops = *n->gcs->ops;
    ops.locate = on_locate;
    n->gcs->ops = &ops;
    driver_heard();
    nodes_heard();
    n_located = n_asked_job = 0;
    n_rejected = 0;
}

static void teardown(void)
{
    for (uint32_t i = 0; i < n->n_guests; i++)
        ck_assert(n->guests[i] == NULL || guest_run_find(n, n->guests[i]->number) == n->guests[i]);
    if (located_arg != NULL)
        answer(ERR_CANCELED, 0);
    end(n);
    ck_assert(list_empty(&loop.watches) && list_empty(&loop.timers));
}

static const struct process *the_driver(void)
{
    return n->processes[0];
}

static void from_node(int i, const struct peer_header *h, const void *body, size_t size)
{
    guest_run_on_message(n, &others[i], h, body, size);
}

/* A frame between processes. */
static void from_process_of(int i, uint32_t from, uint32_t job, uint8_t type)
{
    struct peer_header h = {.to = the_driver()->number,
                            .from = from,
                            .type = type,
                            .route = WIRE_ROUTE_OWNER,
                            .job = job};

    from_node(i, &h, "12345678", 8);
}

static void from_process(int i, uint32_t from, uint8_t type)
{
    from_process_of(i, from, job_first(n), type);
}

static void push_to(uint32_t number)
{
    uint64_t body = 0;

    say(driver, WIRE_PUSH, WIRE_ROUTE_PROCESS | WIRE_ROUTE_OWNER | number, &body, sizeof body);
    go();
}

static void spill(int i, uint32_t owner, uint32_t job, uint32_t home)
{
    struct {
        struct peer_spill w;
        struct wire_lease_request r;
        struct wire_resource cpu;
        char name[4];
    } __attribute__((packed)) m = {.w = {.job = job, .home = home, .pid = 7},
                                   .r = {.ticket = SELF_TICKET, .count = 1, .n_resources = 1},
                                   .cpu = {.name = "CPU", .units = 10000},
                                   .name = "work"};
    struct peer_header h = {.from = owner, .type = PEER_SPILL};

    from_node(i, &h, &m, sizeof m);
}

static const char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

static const char *text(const char *format, ...)
{
    static char out[200];
    va_list args;

    va_start(args, format);
    vsnprintf(out, sizeof out, format, args);
    va_end(args);
    return out;
}

/* --- a node without news --- */

START_TEST(test_a_guest_waits_for_the_news_of_its_node)
{
    uint32_t next = others[1].number + 1;

    push_to(FIRST_GUEST);
    ck_assert_uint_eq(n_located, 1);
    answer(ERR_NONE, next);
    ck_assert_str_eq(driver_heard(), "");
    lose(n, &others[0]); /* another one comes */
    ck_assert_uint_eq(others[0].number, next);
    ck_assert_str_eq(nodes_heard(), text("%u: %d to %d", next, WIRE_PUSH, FIRST_GUEST));
    push_to(FIRST_GUEST);
    ck_assert_str_eq(nodes_heard(), text("%u: %d to %d", next, WIRE_PUSH, FIRST_GUEST));
    ck_assert_str_eq(driver_heard(), "");
}
END_TEST

START_TEST(test_a_node_that_dies_before_its_news)
{
    push_to(FIRST_GUEST);
    answer(ERR_NONE, others[1].number + 1);
    now_ms += 1000;
    ck_assert_str_eq(driver_heard(), "");
    ck_assert_uint_eq(n_located, 2);
    answer(ERR_DIED, others[1].number + 1);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PROCESS_DEAD));
}
END_TEST

START_TEST(test_news_that_never_come)
{
    push_to(FIRST_GUEST);
    for (unsigned i = 0; i < 19; i++) {
        answer(ERR_NONE, others[1].number + 1);
        ck_assert_str_eq(driver_heard(), "");
        now_ms += 1000;
        go();
    }
    answer(ERR_NONE, others[1].number + 1);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PROCESS_DEAD));
    ck_assert_uint_eq(n->n_guests, 0);
}
END_TEST

START_TEST(test_one_that_speaks_while_it_is_looked_for)
{
    push_to(FIRST_GUEST);
    from_process(0, FIRST_GUEST, WIRE_PUSH);
    ck_assert_str_eq(nodes_heard(), text("%u: %d to %d", others[0].number, WIRE_PUSH, FIRST_GUEST));
    answer(ERR_NOT_FOUND, 0);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
    push_to(FIRST_GUEST + 1);
    answer(ERR_NONE, others[1].number + 1);
    from_process(0, FIRST_GUEST + 1, WIRE_PUSH);
    now_ms += 5000;
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
    ck_assert_uint_eq(n_located, 2); /* nobody asks any more */
}
END_TEST

/* --- frames behind a death --- */

START_TEST(test_the_dead_say_nothing_more)
{
    struct wire_process_dead dead = {.process = FIRST_GUEST};
    struct peer_header h = {.type = PEER_PROCESS_DEAD};

    from_process(0, FIRST_GUEST, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
    from_node(0, &h, &dead, sizeof dead);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PROCESS_DEAD));
    from_process(0, FIRST_GUEST, WIRE_GOODBYE); /* of a class that was overtaken */
    ck_assert_str_eq(driver_heard(), "");
    ck_assert_ptr_null(guest_run_find(n, FIRST_GUEST));
    ck_assert_str_eq(nodes_heard(), "");
}
END_TEST

START_TEST(test_only_its_own_raylet_says_that_one_is_dead)
{
    struct wire_process_dead dead = {.process = FIRST_GUEST};
    struct peer_header h = {.type = PEER_PROCESS_DEAD};

    from_node(1, &h, &dead, sizeof dead);
    from_process(0, FIRST_GUEST, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
    from_node(1, &h, &dead, sizeof dead);
    ck_assert_str_eq(driver_heard(), "");
    ck_assert_ptr_nonnull(guest_run_find(n, FIRST_GUEST));
}
END_TEST

START_TEST(test_as_many_dead_are_remembered_as_there_is_room)
{
    struct wire_process_dead dead = {.process = FIRST_GUEST};
    struct peer_header h = {.type = PEER_PROCESS_DEAD};

    for (uint32_t i = 0; i < GUESTS_DEAD; i++, dead.process++)
        from_node(0, &h, &dead, sizeof dead);
    from_process(0, FIRST_GUEST, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), "");
    from_node(0, &h, &dead, sizeof dead);
    from_process(0, FIRST_GUEST + 1, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), "");
    from_process(0, FIRST_GUEST, WIRE_PUSH); /* forgotten for the last one */
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
}
END_TEST

/* --- two jobs --- */

START_TEST(test_a_frame_of_another_job_is_not_delivered)
{
    from_process_of(0, FIRST_GUEST, job_first(n) + 1, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), "");
    ck_assert_ptr_null(guest_run_find(n, FIRST_GUEST));
    ck_assert_str_eq(nodes_heard(),
                     text("%u: %d to %d", others[0].number, WIRE_PROCESS_DEAD, FIRST_GUEST));
    ck_assert_uint_eq(told_job, job_first(n) + 1); /* or it would be refused there, too */
    from_process(0, FIRST_GUEST, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_PUSH));
    from_process_of(0, FIRST_GUEST, 0, WIRE_PUSH);
    ck_assert_str_eq(driver_heard(), "");
}
END_TEST

START_TEST(test_what_a_raylet_says_is_of_the_job_too)
{
    struct wire_worker_dead w = {.lease = (uint64_t)others[0].number << LEASE_NODE_SHIFT | 1};
    struct peer_header h = {.to = the_driver()->number,
                            .type = WIRE_WORKER_DEAD,
                            .job = job_first(n) + 1};

    from_node(0, &h, &w, sizeof w);
    ck_assert_str_eq(driver_heard(), "");
    h.job = job_first(n);
    from_node(0, &h, &w, sizeof w);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_WORKER_DEAD));
}
END_TEST

START_TEST(test_what_is_sent_names_its_job)
{
    push_to(FIRST_GUEST);
    answer(ERR_NONE, others[0].number);
    nodes_heard();
    ck_assert_uint_eq(told_job, job_first(n));
    told_job = 0;
    push_to(FIRST_GUEST);
    ck_assert_uint_eq(told_job, job_first(n));
}
END_TEST

START_TEST(test_an_owner_of_another_job_ends_no_request)
{
    struct wire_lease_cancel w = {.ticket = SELF_TICKET};
    struct peer_header h = {.from = FIRST_GUEST, .type = WIRE_LEASE_CANCEL, .job = 901};

    spill(0, FIRST_GUEST, 900, others[0].number);
    nodes_heard();
    from_node(0, &h, &w, sizeof w);
    ck_assert_str_eq(nodes_heard(), "");
    h.job = 900;
    from_node(0, &h, &w, sizeof w);
    ck_assert_str_eq(nodes_heard(),
                     text("%u: %d to %d", others[0].number, WIRE_LEASE_CANCELED, FIRST_GUEST));
}
END_TEST

/* --- slots --- */

START_TEST(test_slots_are_used_again)
{
    struct wire_process_dead dead = {.process = FIRST_GUEST + 70};
    struct peer_header h = {.type = PEER_PROCESS_DEAD};

    for (uint32_t i = 0; i < 200; i++)
        from_process(0, FIRST_GUEST + i, WIRE_PUSH);
    ck_assert_uint_eq(n->n_guests, 200);
    from_node(0, &h, &dead, sizeof dead);
    ck_assert_uint_eq(n->n_guests, 200);
    from_process(0, FIRST_GUEST + 200, WIRE_PUSH);
    ck_assert_uint_eq(guest_run_find(n, FIRST_GUEST + 200)->slot, BOARD_SLOTS + 70);
    from_process(0, FIRST_GUEST + 201, WIRE_PUSH);
    ck_assert_uint_eq(n->n_guests, 201);
}
END_TEST

/* --- jobs elsewhere --- */

START_TEST(test_the_home_of_a_job_is_asked)
{
    struct peer_job w = {.job = 900, .is_there = 0};
    struct peer_header h = {.type = PEER_JOB};

    spill(0, FIRST_GUEST, 900, others[1].number);
    ck_assert_uint_eq(n_asked_job, 1);
    ck_assert_uint_eq(asked_node, others[1].number);
    from_node(0, &h, &w, sizeof w); /* not its to say */
    ck_assert_uint_eq(n_rejected, 0);
    from_node(1, &h, &w, sizeof w);
    ck_assert_uint_eq(n_rejected, 1);
}
END_TEST

START_TEST(test_another_home_than_the_one_that_is_known_is_refused)
{
    spill(0, FIRST_GUEST, 900, others[0].number);
    ck_assert_uint_eq(n_asked_job, 1);
    spill(1, FIRST_GUEST + 1, 900, others[1].number);
    ck_assert_uint_eq(n_rejected, 1);
    spill(1, FIRST_GUEST + 1, 900, n->number);
    ck_assert_uint_eq(n_rejected, 2);
    spill(0, FIRST_GUEST, 900, others[1].number); /* nor by an owner that was here before */
    ck_assert_uint_eq(n_rejected, 3);
    spill(1, FIRST_GUEST + 1, 900, others[0].number);
    ck_assert_uint_eq(n_rejected, 3);
    spill(1, FIRST_GUEST + 2, job_first(n), others[1].number); /* its driver is here */
    ck_assert_uint_eq(n_rejected, 4);
    ck_assert_uint_eq(n_asked_job, 1);
}
END_TEST

START_TEST(test_what_waits_for_a_job_to_begin_is_bounded)
{
    struct peer_job_end w = {.job = 900};
    struct peer_header h = {.type = PEER_JOB_END};
    uint64_t asked = 0;

    while (n_rejected == 0) {
        spill(0, FIRST_GUEST, 900, others[0].number);
        ck_assert_uint_lt(++asked, 100000);
    }
    ck_assert_uint_eq(n_rejected, 1);
    ck_assert_uint_le(n->held_bytes, 4u << 20);
    ck_assert_uint_gt(n->held_bytes, (4u << 20) - 200);
    from_node(0, &h, &w, sizeof w);
    go();
    ck_assert_uint_eq(n->held_bytes, 0);
}
END_TEST

/* --- copies of objects --- */

/* The driver wants a copy of that object of its own; here is one if its number is odd. */
static void seek(uint64_t counter, uint32_t owner)
{
    struct wire_store_seek w = {.ticket = 77, .key = {.counter = counter, .owner = owner}};

    say(driver, WIRE_STORE_SEEK, 0, &w, sizeof w);
    go();
}

static void say_found(int i, bool keep, uint64_t place)
{
    struct peer_found w = {.id = 1, .place = place, .keep = keep};
    struct peer_header h = {.type = PEER_FOUND};

    from_node(i, &h, &w, sizeof w);
}

/* That node asks for a copy here. */
static void ask_for_copy(int i, uint64_t counter, uint32_t owner, bool keep, uint32_t from)
{
    struct peer_seek w = {.id = 5, .counter = counter, .owner = owner, .keep = keep};
    struct peer_header h = {.from = from, .type = PEER_SEEK};

    found = (struct peer_found){0};
    from_node(i, &h, &w, sizeof w);
    ck_assert_uint_eq(found.id, 5);
    ck_assert_uint_eq(found.keep, keep);
}

START_TEST(test_all_nodes_that_can_be_dialled_are_asked_for_a_copy)
{
    const struct process *p = the_driver();
    int i = peer_only_dials(&others[0]) ? 1 : 0;
    uint32_t number = others[i].number;

    seek(2, p->number);
    ck_assert_str_eq(nodes_heard(), text("%u: %d to 0", number, PEER_SEEK));
    ck_assert_uint_eq(told_job, 0);
    say_found(1 - i, false, 9); /* who was not asked */
    ck_assert_str_eq(nodes_heard(), "");
    say_found(i, false, 9);
    ck_assert_str_eq(nodes_heard(), text("%u: %d to 0", number, PEER_SEEK));
    ck_assert_uint_eq(told_job, job_first(n)); /* it is told in the owner's name ... */
    ck_assert_uint_eq(p->n_asked_nodes, 1);    /* ... and will be told of its death */
    ck_assert_uint_eq(p->asked[0], number);
    ck_assert_str_eq(driver_heard(), "");
    say_found(i, true, 9);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_STORE_FOUND));
    seek(2, p->number);
    ck_assert_str_eq(driver_heard(), "");
    now_ms += SEEK_MS; /* nobody says anything */
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_STORE_FOUND));
    seek(2, p->number);
    ck_assert_str_eq(driver_heard(), "");
    lose(n, &others[i]);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_STORE_FOUND));
}
END_TEST

START_TEST(test_a_copy_here_is_found_at_once)
{
    seek(1, the_driver()->number);
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_STORE_FOUND));
    ck_assert_str_eq(nodes_heard(), "");
    seek(1, the_driver()->number + 1); /* not its own */
    ck_assert_str_eq(driver_heard(), text("%d", WIRE_ERROR));
}
END_TEST

START_TEST(test_a_copy_is_kept_for_an_owner_whose_death_will_be_told)
{
    struct wire_process_dead dead = {.process = FIRST_GUEST};
    struct peer_header h = {.type = PEER_PROCESS_DEAD};

    ask_for_copy(0, 1, FIRST_GUEST, false, 0);
    ck_assert_uint_eq(found.place, 1);
    ck_assert_ptr_null(guest_run_find(n, FIRST_GUEST));
    ask_for_copy(0, 2, FIRST_GUEST, false, 0);
    ck_assert_uint_eq(found.place, 0);
    ask_for_copy(0, 1, FIRST_GUEST, true, 0); /* whose? */
    ck_assert_uint_eq(found.place, 0);
    ask_for_copy(0, 1, FIRST_GUEST, true, FIRST_GUEST + 1); /* another's */
    ck_assert_uint_eq(found.place, 0);
    ask_for_copy(0, 1, FIRST_GUEST, true, FIRST_GUEST);
    ck_assert_uint_eq(found.place, 1);
    ck_assert_ptr_nonnull(guest_run_find(n, FIRST_GUEST));
    ask_for_copy(1, 1, FIRST_GUEST, true, FIRST_GUEST); /* it is of the other node */
    ck_assert_uint_eq(found.place, 0);
    from_node(0, &h, &dead, sizeof dead);
    ask_for_copy(0, 1, FIRST_GUEST, true, FIRST_GUEST); /* that was overtaken */
    ck_assert_uint_eq(found.place, 0);
}
END_TEST

static void remove_temp(void)
{
    remove_tree(temp);
}

int main(void)
{
    Suite *s = suite_create("guest");
    TCase *tc = tcase_create("guest");

    log_threshold = LOG_LEVEL_BROKEN;
    if (mkdtemp(temp) == NULL)
        return 1;
    atexit(remove_temp);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_a_guest_waits_for_the_news_of_its_node);
    tcase_add_test(tc, test_a_node_that_dies_before_its_news);
    tcase_add_test(tc, test_news_that_never_come);
    tcase_add_test(tc, test_one_that_speaks_while_it_is_looked_for);
    tcase_add_test(tc, test_the_dead_say_nothing_more);
    tcase_add_test(tc, test_only_its_own_raylet_says_that_one_is_dead);
    tcase_add_test(tc, test_as_many_dead_are_remembered_as_there_is_room);
    tcase_add_test(tc, test_a_frame_of_another_job_is_not_delivered);
    tcase_add_test(tc, test_what_a_raylet_says_is_of_the_job_too);
    tcase_add_test(tc, test_what_is_sent_names_its_job);
    tcase_add_test(tc, test_an_owner_of_another_job_ends_no_request);
    tcase_add_test(tc, test_slots_are_used_again);
    tcase_add_test(tc, test_the_home_of_a_job_is_asked);
    tcase_add_test(tc, test_another_home_than_the_one_that_is_known_is_refused);
    tcase_add_test(tc, test_what_waits_for_a_job_to_begin_is_bounded);
    tcase_add_test(tc, test_all_nodes_that_can_be_dialled_are_asked_for_a_copy);
    tcase_add_test(tc, test_a_copy_here_is_found_at_once);
    tcase_add_test(tc, test_a_copy_is_kept_for_an_owner_whose_death_will_be_told);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_set_fork_status(sr, CK_NOFORK); /* kill is not libc's here */
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
