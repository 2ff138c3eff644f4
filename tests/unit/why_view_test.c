/* SPDX-License-Identifier: Apache-2.0 */
/* States that went over the wire and came back are joined: one sentence for each reason. */
#include "raylet/why_view.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define N_NODES 3

static struct why_node nodes[N_NODES];
static struct why_waits waits;

static void *more(void *v, size_t *n, size_t size)
{
    v = xrealloc(v, (*n + 1) * size);
    memset((char *)v + *n * size, 0, size);
    ++*n;
    return v;
}

static void add_resource(unsigned k, const char *name, int total, int available)
{
    struct why_state *s = &nodes[k].state;

    s->resources = more(s->resources, &s->n_resources, sizeof *s->resources);
    struct why_amount *a = &s->resources[s->n_resources - 1];
    snprintf(a->name, sizeof a->name, "%s", name);
    a->units = (int64_t)total * RESOURCE_UNIT;
    a->available = (int64_t)available * RESOURCE_UNIT;
}

/* "f" of job 7 wants so many of each of two resources; NULL: of one. */
static struct why_class class_of(const char *name, const char *of, int n, const char *and, int m)
{
    struct why_class c = {.job = 7, .n_need = and != NULL ? 2 : 1};

    snprintf(c.name, sizeof c.name, "%s", name);
    c.need = xcalloc(2, sizeof *c.need);
    snprintf(c.need[0].name, sizeof c.need[0].name, "%s", of);
    c.need[0].units = (int64_t)n * RESOURCE_UNIT;
    if (and != NULL)
        snprintf(c.need[1].name, sizeof c.need[1].name, "%s", and);
    c.need[1].units = (int64_t)m * RESOURCE_UNIT;
    return c;
}

static struct why_use *add_use(unsigned k, struct why_class c)
{
    struct why_state *s = &nodes[k].state;

    s->uses = more(s->uses, &s->n_uses, sizeof *s->uses);
    s->uses[s->n_uses - 1].of = c;
    return &s->uses[s->n_uses - 1];
}

static void wait_at(unsigned k,
                    struct why_class c,
                    uint32_t n,
                    enum lease_wait wait,
                    const char *of)
{
    struct why_use *u = add_use(k, c);

    u->n_queued = n;
    u->queued_ms = 1500;
    u->wait = wait;
    snprintf(u->lacking, sizeof u->lacking, "%s", of);
}

static void lease_at(unsigned k, struct why_class c, uint32_t n, uint32_t n_blocked)
{
    struct why_use *u = add_use(k, c);

    u->n_leased = n;
    u->n_blocked = n_blocked;
}

static void send_to(unsigned k, uint32_t to, struct why_class c)
{
    struct why_state *s = &nodes[k].state;

    s->sent = more(s->sent, &s->n_sent, sizeof *s->sent);
    s->sent[s->n_sent - 1] =
        (struct why_sent){.of = c, .node = to, .n = 2, .asked_ms = 9000, .sent_ms = 3000};
}

static struct why_job *add_job(unsigned k, uint32_t number, uint32_t home)
{
    struct why_state *s = &nodes[k].state;

    s->jobs = more(s->jobs, &s->n_jobs, sizeof *s->jobs);
    struct why_job *j = &s->jobs[s->n_jobs - 1];
    *j = (struct why_job){.number = number, .home = home, .n_held = 3, .held_ms = 400};
    return j;
}

static struct why_pull *add_pull(unsigned k, enum transfer_stage stage, uint32_t from)
{
    struct why_state *s = &nodes[k].state;

    s->pulls = more(s->pulls, &s->n_pulls, sizeof *s->pulls);
    struct why_pull *p = &s->pulls[s->n_pulls - 1];
    *p = (struct why_pull){.stage = stage, .node = from, .n = 2, .quiet_ms = 5000};
    return p;
}

static void setup(void)
{
    for (unsigned k = 0; k < N_NODES; k++) {
        nodes[k] = (struct why_node){.number = 100 + k, .has_answered = true};
        memset(nodes[k].id.bytes, (int)k + 1, sizeof nodes[k].id.bytes);
        snprintf(nodes[k].name, sizeof nodes[k].name, "n%u", k);
        nodes[k].state.node = nodes[k].id;
        nodes[k].state.number = nodes[k].number;
        add_resource(k, "CPU", k == 2 ? 4 : 2, 0);
    }
    add_resource(1, "GPU", 1, 1);
}

static void teardown(void)
{
    why_waits_fini(&waits);
    for (unsigned k = 0; k < N_NODES; k++)
        why_state_fini(&nodes[k].state);
}

static void is_silent(unsigned k)
{
    nodes[k].has_answered = false;
    err_set(&nodes[k].err, ERR_TIMEOUT, "nothing came");
}

/* The states travel; then the only wait, or the i-th. */
static const struct why_wait *explain(size_t n, size_t i)
{
    for (unsigned k = 0; k < N_NODES; k++) {
        struct why_state back;
        struct err err;
        size_t size;
        void *bytes = why_state_pack(&nodes[k].state, &size);
        ck_assert_int_eq(why_state_unpack(bytes, size, &back, &err), 0);
        free(bytes);
        why_state_fini(&nodes[k].state);
        nodes[k].state = back;
    }
    why_waits_fini(&waits);
    why_view_explain(nodes, N_NODES, "10.0.0.1:6379", &waits);
    ck_assert_uint_eq(waits.n, n);
    return &waits.v[i];
}

static void says(enum why_reason reason, const char *text)
{
    const struct why_wait *w = explain(1, 0);

    ck_assert_str_eq(w->text, text);
    ck_assert_str_eq(why_reason_name(w->reason), why_reason_name(reason));
}

START_TEST(what_no_node_can_run)
{
    wait_at(0, class_of("f", "CPU", 8, "TPU", 1), 3, LEASE_WAIT_NEVER, "CPU");
    says(WHY_INFEASIBLE,
         "needs 8 CPU, the largest node, n2, has 4; needs 1 TPU, which no node has: no node can "
         "ever run it; add one that can (`ray start --address=10.0.0.1:6379`), or ask for less");
    ck_assert(waits.v[0].n == 3 && waits.v[0].since_ms == 1500 && waits.v[0].at == &nodes[0]);
    ck_assert(waits.v[0].of->job == 7 && strcmp(waits.v[0].of->name, "f") == 0);
    why_waits_fini(&waits);
    why_view_explain(nodes, 1, "", &waits); /* a program's own */
    ck_assert_ptr_nonnull(strstr(waits.v[0].text, "or start a cluster that has it"));
}
END_TEST

START_TEST(what_no_node_has_all_of)
{
    wait_at(0, class_of("f", "CPU", 4, "GPU", 1), 1, LEASE_WAIT_NEVER, "CPU");
    says(WHY_INFEASIBLE,
         "no node has all of 4 CPU, 1 GPU: no node can ever run it; add one that can "
         "(`ray start --address=10.0.0.1:6379`), or ask for less");
}
END_TEST

START_TEST(what_another_node_can_run)
{
    wait_at(0, class_of("f", "CPU", 3, NULL, 0), 1, LEASE_WAIT_NEVER, "CPU");
    says(WHY_GOES_ELSEWHERE, "cannot run on n0, but on n2, which is to be asked");
    is_silent(2);
    says(WHY_GOES_ELSEWHERE, "cannot run on n0, but on n2, which does not answer");
}
END_TEST

START_TEST(what_waits_at_a_drivers_node)
{
    nodes[0].is_driver = true;
    nodes[0].state.n_resources = 0;
    wait_at(0, class_of("f", "CPU", 8, NULL, 0), 1, LEASE_WAIT_NEVER, "");
    says(WHY_INFEASIBLE,
         "needs 8 CPU, the largest node, n2, has 4: no node can ever run it; add one that can "
         "(`ray start --address=10.0.0.1:6379`), or ask for less");
    ck_assert(waits.v[0].at == &nodes[0]);
    nodes[0].state.uses[0].of.n_need = 0; /* other nodes could, it could not */
    nodes[0].state.uses[0].wait = LEASE_WAIT_NEVER;
    is_silent(1);
    is_silent(2);
    says(WHY_GOES_ELSEWHERE, "cannot run on n0, but on n1, which does not answer");
    nodes[1].is_driver = nodes[2].is_driver = true;
    says(WHY_INFEASIBLE,
         "no node lives: no node can ever run it; add one that can "
         "(`ray start --address=10.0.0.1:6379`), or ask for less");
}
END_TEST

START_TEST(who_has_what_it_waits_for)
{
    lease_at(0, class_of("g", "CPU", 1, NULL, 0), 2, 0);
    lease_at(2, class_of("g", "CPU", 1, NULL, 0), 5, 2); /* two of them have lent theirs */
    lease_at(1, class_of("h", "CPU", 2, NULL, 0), 1, 0);
    wait_at(0, class_of("f", "CPU", 1, NULL, 0), 1, LEASE_WAIT_TAKEN, "CPU");
    says(WHY_RESOURCES,
         "waits for CPU: all 8 of the 3 nodes that could run it, used by g of job 7 (5), h of job "
         "7 (1)");
    nodes[2].state.resources[0].available = RESOURCE_UNIT;
    says(WHY_GOES_ELSEWHERE, "n2 has room for it and is to be asked");
}
END_TEST

START_TEST(a_large_one_that_finds_too_little)
{
    nodes[2].state.resources[0].available = RESOURCE_UNIT;
    lease_at(2, class_of("g", "CPU", 1, NULL, 0), 3, 0);
    wait_at(2, class_of("f", "CPU", 3, NULL, 0), 1, LEASE_WAIT_TAKEN, "CPU");
    says(WHY_RESOURCES,
         "needs 3 CPU, at most 1 is free on one node: of the 4 of n2, used by g of job 7 (3)");
}
END_TEST

START_TEST(what_is_kept_for_others)
{
    wait_at(0, class_of("large", "CPU", 2, NULL, 0), 1, LEASE_WAIT_TAKEN, "CPU");
    wait_at(0, class_of("f", "CPU", 1, NULL, 0), 1, LEASE_WAIT_PROMISED, "");
    nodes[0].state.uses[0].queued_ms = 2500;
    const struct why_wait *w = explain(2, 1); /* the oldest is first */
    ck_assert_int_eq(w->reason, WHY_KEPT);
    ck_assert_str_eq(w->text,
                     "what is free on n0 is kept for large of job 7, which needs more and has "
                     "waited for 2.5 s");
}
END_TEST

START_TEST(a_worker_that_starts)
{
    struct why_use *u = add_use(0, class_of("f", "CPU", 1, NULL, 0));
    struct why_state *s = &nodes[0].state;

    u->n_starting = 2;
    u->starting_ms = 700;
    s->processes = more(s->processes, &s->n_processes, sizeof *s->processes);
    s->processes[0] = (struct why_process){.job = 7, .state = WHY_PROCESS_STARTING};
    says(WHY_WORKER_STARTS,
         "has its resources and waits for a worker to start; 1 of job 7 are on their way");
    ck_assert(waits.v[0].n == 2 && waits.v[0].since_ms == 700);
}
END_TEST

START_TEST(units_at_another_node_are_told_once)
{
    send_to(0, 101, class_of("f", "CPU", 1, NULL, 0));
    says(WHY_NO_ANSWER, "n1 was asked 3.0 s ago and has not said yes or no yet");
    ck_assert_uint_eq(waits.v[0].since_ms, 9000);
    wait_at(1, class_of("f", "CPU", 1, NULL, 0), 2, LEASE_WAIT_TAKEN, "CPU");
    ck_assert_int_eq(explain(1, 0)->reason, WHY_RESOURCES);
    nodes[0].state.sent[0].node = 999;
    ck_assert_ptr_nonnull(strstr(explain(2, 0)->text, "node 999 was asked"));
}
END_TEST

START_TEST(units_at_a_node_that_is_silent)
{
    send_to(0, 101, class_of("f", "CPU", 1, NULL, 0));
    is_silent(1);
    says(WHY_NO_ANSWER,
         "n1 was asked 3.0 s ago and has not said yes or no yet; it does not answer this command "
         "either: nothing came");
}
END_TEST

START_TEST(a_job_on_its_way)
{
    struct why_job *j = add_job(1, 7, 100);

    says(WHY_JOB_COMES, "n1 has asked n0 what its job is made of, since 0.4 s");
    ck_assert_str_eq(waits.v[0].what, "job 7");
    ck_assert_uint_eq(waits.v[0].n, 3);
    j = &nodes[1].state.jobs[0];
    j->is_fetching = true;
    send_to(0, 101, class_of("f", "CPU", 1, NULL, 0)); /* told with what waits for it, and once */
    says(WHY_JOB_COMES, "its job's executable is being fetched by n1 from n0, since 0.4 s");
    ck_assert_str_eq(waits.v[0].of->name, "f");
}
END_TEST

START_TEST(a_program_without_a_number)
{
    add_job(0, 0, 0)->driver_pid = 4711;
    says(WHY_NO_JOB_NUMBER, "waits for its job number: the GCS has not answered yet");
    ck_assert_str_eq(waits.v[0].what, "program pid=4711");
}
END_TEST

START_TEST(objects_on_their_way)
{
    struct why_pull *p = add_pull(0, TRANSFER_ASKS, 101);

    snprintf(p->why, sizeof p->why, "Connection refused");
    says(WHY_HOLDER, "n1 was asked 5.0 s ago; it could not be reached: Connection refused");
    ck_assert_str_eq(waits.v[0].what, "2 objects from elsewhere");
    p = &nodes[0].state.pulls[0];
    p->stage = TRANSFER_MEMORY;
    nodes[0].state.store_capacity = 100000000;
    nodes[0].state.store_used = 99500000;
    nodes[0].state.store_waiting = 2; /* for these */
    says(WHY_STORE_FULL, "the store of n0 has no room: 99.5 of 100.0 MB are in use");
    nodes[0].state.store_waiting = 3;
    ck_assert_int_eq(explain(2, 1)->reason, WHY_STORE_FULL);
    ck_assert_str_eq(waits.v[1].what, "1 request for memory");
    nodes[0].state.store_waiting = 0;
    nodes[0].state.pulls[0].stage = TRANSFER_MOVES;
    says(WHY_BYTES,
         "nothing has come from n1 for 5.0 s; it could not be reached: Connection refused");
    nodes[0].state.pulls[0].quiet_ms = 10;
    explain(0, 0);
    nodes[0].state.pulls[0].stage = TRANSFER_TURN;
    ck_assert_int_eq(explain(1, 0)->reason, WHY_TURN);
}
END_TEST

START_TEST(bytes_that_are_no_state)
{
    struct why_state s;
    struct err err;
    uint8_t junk[64];

    memset(junk, 0xff, sizeof junk);
    ck_assert_int_eq(why_state_unpack(junk, sizeof junk, &s, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    ck_assert_int_eq(why_state_unpack(junk, 0, &s, &err), 0); /* all fields are of an older form */
    ck_assert(unique_id_is_nil(&s.node) && s.n_uses == 0);
    why_state_fini(&s);
}
END_TEST

START_TEST(each_prefix_of_a_state_is_one_or_none)
{
    struct why_state s;
    struct err err;
    size_t size, n_good = 0;

    lease_at(0, class_of("g", "CPU", 1, "GPU", 1), 2, 0);
    send_to(0, 101, class_of("f", "CPU", 1, NULL, 0));
    add_job(0, 7, 100);
    add_pull(0, TRANSFER_ASKS, 101);
    uint8_t *bytes = why_state_pack(&nodes[0].state, &size);
    for (size_t n = 0; n <= size; n++) {
        uint8_t *part = xmalloc(n + 1); /* of its own: a read behind its end is seen */
        memcpy(part, bytes, n);
        if (why_state_unpack(part, n, &s, &err) == 0) {
            n_good++;
            why_state_fini(&s);
        }
        free(part);
    }
    free(bytes);
    ck_assert(n_good > 1 && n_good < size);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("why_view");
    TCase *t = tcase_create("why_view");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_no_node_can_run);
    tcase_add_test(t, what_no_node_has_all_of);
    tcase_add_test(t, what_another_node_can_run);
    tcase_add_test(t, what_waits_at_a_drivers_node);
    tcase_add_test(t, who_has_what_it_waits_for);
    tcase_add_test(t, a_large_one_that_finds_too_little);
    tcase_add_test(t, what_is_kept_for_others);
    tcase_add_test(t, a_worker_that_starts);
    tcase_add_test(t, units_at_another_node_are_told_once);
    tcase_add_test(t, units_at_a_node_that_is_silent);
    tcase_add_test(t, a_job_on_its_way);
    tcase_add_test(t, a_program_without_a_number);
    tcase_add_test(t, objects_on_their_way);
    tcase_add_test(t, bytes_that_are_no_state);
    tcase_add_test(t, each_prefix_of_a_state_is_one_or_none);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
