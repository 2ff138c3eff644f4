/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/lease.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raylet/worker_pool.h"

enum { A = 10, B = 11, C = 12 }; /* owners */

static struct resources r;
static struct lease_table *t;
static struct lease_actions out;
static uint64_t now;
static char last_text[256];

static void make(int n_cpus)
{
    lease_table_destroy(t);
    resources_init(&r, (int64_t)n_cpus * RESOURCE_UNIT);
    ck_assert_int_eq(resources_add(&r, "GPU", RESOURCE_UNIT, NULL), 0);
    t = lease_table_create(&r);
}

static void setup(void)
{
    now = 100000;
    make(2);
}

static void teardown(void)
{
    lease_selfcheck(t);
    lease_table_destroy(t);
    t = NULL;
    free(out.v);
    out = (struct lease_actions){0};
}

/* What came out since the last look, as text. */
static const char *seen(void)
{
    static char text[8192];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < out.n; i++) {
        const struct lease_action *a = &out.v[i];
        const char *gap = i == 0 ? "" : ", ";
        char *to = text + n;
        size_t size = sizeof text - n;
        switch (a->kind) {
        case LEASE_START:
            n += (size_t)snprintf(to, size, "%sstart%s", gap, a->job == 2 ? " of 2" : "");
            break;
        case LEASE_UNSTART:
            n += (size_t)snprintf(to, size, "%sunstart%s", gap, a->job == 2 ? " of 2" : "");
            break;
        case LEASE_GRANT:
            n += (size_t)snprintf(to,
                                  size,
                                  "%sgrant %u/%d lease %d worker %u",
                                  gap,
                                  a->owner,
                                  (int)a->ticket,
                                  (int)a->lease,
                                  a->worker);
            break;
        case LEASE_CANCELED:
            n += (size_t)
                snprintf(to, size, "%scanceled %u/%d x%u", gap, a->owner, (int)a->ticket, a->count);
            break;
        case LEASE_REFUSED:
            n += (size_t)
                snprintf(to, size, "%srefused %u/%d x%u", gap, a->owner, (int)a->ticket, a->count);
            break;
        case LEASE_REJECTED:
            n += (size_t)
                snprintf(to, size, "%srejected %u/%d x%u", gap, a->owner, (int)a->ticket, a->count);
            break;
        case LEASE_REVOKE:
            n += (size_t)snprintf(to,
                                  size,
                                  "%srevoke %d worker %u in %d",
                                  gap,
                                  (int)a->lease,
                                  a->worker,
                                  (int)a->grace_ms);
            break;
        case LEASE_RELEASE:
            n += (size_t)snprintf(to, size, "%srelease %u", gap, a->worker);
            break;
        case LEASE_KILL:
            n += (size_t)snprintf(to, size, "%skill %u", gap, a->worker);
            break;
        case LEASE_DEAD:
            n += (size_t)snprintf(to,
                                  size,
                                  "%sdead %u lease %d worker %u",
                                  gap,
                                  a->owner,
                                  (int)a->lease,
                                  a->worker);
            break;
        case LEASE_WARN:
            n += (size_t)snprintf(to, size, "%swarn %u", gap, a->owner);
            break;
        }
        if (a->text != NULL)
            snprintf(last_text, sizeof last_text, "%s", a->text);
    }
    out.n = 0;
    lease_selfcheck(t);
    return text;
}

#define ASK(of, by, as, k, what, class)                                                            \
    &(struct lease_ask)                                                                            \
    {                                                                                              \
        .job = (of), .owner = (by), .ticket = (as), .count = (k), .need = (what), .name = (class)  \
    }

static struct res_set need_of(int64_t cpu, int64_t gpu)
{
    struct res_set s = {0};

    ck_assert_int_eq(res_set_add(&s, &r, "CPU", cpu * RESOURCE_UNIT, NULL), 0);
    ck_assert_int_eq(res_set_add(&s, &r, "GPU", gpu * RESOURCE_UNIT, NULL), 0);
    return s;
}

static void request_set(uint32_t owner,
                        uint64_t ticket,
                        uint32_t count,
                        const char *name,
                        struct res_set need)
{
    lease_request(t, ASK(1, owner, ticket, count, &need, name), now, &out);
}

static void request_of(uint32_t job, uint32_t owner, uint64_t ticket, uint32_t count, int64_t cpu)
{
    struct res_set need = need_of(cpu, 0);

    lease_request(t, ASK(job, owner, ticket, count, &need, "f"), now, &out);
}

static void ready_of(uint32_t job, uint32_t worker)
{
    lease_worker_ready(t, job, worker, now, &out);
}

/* count leases of one CPU. */
static void request(uint32_t owner, uint64_t ticket, uint32_t count, const char *name)
{
    request_set(owner, ticket, count, name, need_of(1, 0));
}

static void ready(uint32_t worker)
{
    lease_worker_ready(t, 1, worker, now, &out);
}

static void ended(uint32_t worker, uint64_t lease)
{
    lease_ended(t, worker, lease, now, &out);
}

static void pass(uint64_t ms)
{
    now += ms;
    lease_on_time(t, 2, 2, now, &out);
}

/* Up to k of the first class that has units to give, in max parts, as text. */
static const char *take(uint32_t k, size_t max)
{
    static char text[1024];
    struct lease_unit units[8];
    struct lease_class c;
    size_t n = 0, n_units = lease_first_waiting(t, &c) ? lease_take(t, &c, k, units, max) : 0;

    text[0] = '\0';
    for (size_t i = 0; i < n_units; i++)
        n += (size_t)snprintf(text + n,
                              sizeof text - n,
                              "%s%u/%d x%u",
                              i == 0 ? "" : ", ",
                              units[i].owner,
                              (int)units[i].ticket,
                              units[i].count);
    lease_selfcheck(t);
    return text;
}

/* Leases 1 and 2 of owner A, class f, on workers 1 and 2. */
static void have_two(void)
{
    request(A, 1, 2, "f");
    ready(1);
    ready(2);
    ck_assert_str_eq(seen(),
                     "start, start, grant 10/1 lease 1 worker 1, grant 10/1 lease 2 worker 2");
}

/* --- requests --- */

START_TEST(inv_16_resources_are_taken_before_a_worker_is_asked_for)
{
    request(A, 7, 3, "f");
    ck_assert_str_eq(seen(), "start, start");
    ck_assert_int_eq(r.available[0], 0);
    ready(1);
    ck_assert_str_eq(seen(), "grant 10/7 lease 1 worker 1");
    ck_assert_int_eq(r.available[0], 0);
}
END_TEST

START_TEST(inv_18_each_unit_of_a_ticket_is_answered_once)
{
    struct lease_stats stats;

    request(A, 7, 5, "f");
    ready(1);
    ck_assert_str_eq(seen(), "start, start, grant 10/7 lease 1 worker 1");
    lease_worker_failed(t,
                        1,
                        "no memory",
                        now,
                        &out); /* the second one; two more cannot start either */
    ck_assert_str_eq(seen(), "refused 10/7 x1, start");
    ck_assert_str_eq(last_text, "no memory");
    lease_cancel(t, A, 7, now, &out);
    ck_assert_str_eq(seen(), "unstart, canceled 10/7 x3");
    lease_cancel(t, A, 7, now, &out);
    ck_assert_str_eq(seen(), "");
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued + stats.n_starting, 0);
    ck_assert_uint_eq(stats.n_leased, 1);
}
END_TEST

START_TEST(inv_18_now_or_not_starts_what_fits_and_rejects_the_rest)
{
    struct res_set one = need_of(1, 0), much = need_of(9, 0);
    struct lease_stats stats;

    lease_request_now(t, ASK(1, A, 7, 5, &one, "f"), now, &out);
    ck_assert_str_eq(seen(), "start, start, rejected 10/7 x3");
    lease_request_now(t, ASK(1, B, 8, 1, &one, "f"), now, &out);
    lease_request_now(t,
                      ASK(1, B, 9, 1, &much, "g"),
                      now,
                      &out); /* no warning: it goes elsewhere */
    ck_assert_str_eq(seen(), "rejected 11/8 x1, rejected 11/9 x1");
    ready(1);
    ready(2);
    ck_assert_str_eq(seen(), "grant 10/7 lease 1 worker 1, grant 10/7 lease 2 worker 2");
    lease_request_now(t, ASK(1, B, 10, 1, &one, "f"), now, &out);
    ck_assert_str_eq(seen(), "rejected 11/10 x1"); /* nobody is revoked for it */
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued + stats.n_starting, 0);
}
END_TEST

START_TEST(inv_18_soon_or_not_waits_for_what_makes_way_and_rejects_the_rest)
{
    struct res_set one = need_of(1, 0);
    struct lease_stats stats;

    have_two();
    lease_request_soon(t, ASK(1, A, 2, 2, &one, "g"), now, &out);
    ck_assert_str_eq(seen(), "rejected 10/2 x2"); /* nobody is revoked for it */
    now += 10 * LEASE_TURN_MS;
    lease_return(t, A, 1, now, &out);
    lease_request_soon(t, ASK(1, A, 3, 2, &one, "g"), now, &out);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0, rejected 10/3 x1");
    lease_request_soon(t, ASK(1, B, 4, 1, &one, "g"), now, &out); /* that room is promised */
    lease_request_now(t, ASK(1, B, 5, 1, &one, "g"), now, &out);
    ck_assert_str_eq(seen(), "rejected 11/4 x1, rejected 11/5 x1");
    ck_assert_str_eq(take(9, 8), ""); /* it stays */
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1, start");
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued, 0);
    lease_return(t, A, 2, now, &out);
    request(B, 6, 1, "f"); /* waits for that room */
    lease_request_soon(t, ASK(1, A, 7, 1, &one, "g"), now, &out);
    lease_cancel(t, B, 6, now, &out);
    lease_request_soon(t, ASK(1, A, 8, 1, &one, "g"), now, &out);
    ck_assert_str_eq(seen(), "revoke 2 worker 2 in 0, rejected 10/7 x1, canceled 11/6 x1");
    lease_cancel(t, A, 8, now, &out);
    ck_assert_str_eq(seen(), "canceled 10/8 x1");
}
END_TEST

START_TEST(waiting_units_leave_in_the_order_of_turns_and_promised_ones_stay)
{
    struct lease_class c;
    struct lease_unit units[4];

    have_two();
    request(A, 2, 3, "f");
    request(B, 3, 2, "f"); /* has the two leases of A revoked, for two units */
    seen();
    request_set(A, 4, 1, "g", need_of(0, 2));
    seen();
    ck_assert(lease_first_waiting(t, &c));
    ck_assert_str_eq(c.name, "f");
    ck_assert_uint_eq(c.count, 3);
    ck_assert_uint_eq(lease_take(t, &c, 2, units, 4), 1);
    ck_assert_uint_eq(units[0].owner, A);
    ck_assert_uint_eq(units[0].ticket, 2);
    ck_assert_uint_eq(units[0].count, 2);
    lease_selfcheck(t);
    ck_assert_uint_eq(lease_take(t, &c, 2, units, 4), 1); /* there was one more */
    ck_assert_uint_eq(units[0].count, 1);
    ck_assert(lease_next_waiting(t, &c)); /* what this node can never run */
    ck_assert_str_eq(c.name, "g");
    ck_assert_uint_eq(c.n_need, 1);
    ck_assert_str_eq(c.need[0].name, "GPU");
    ck_assert_int_eq(c.need[0].units, 2 * RESOURCE_UNIT);
    ck_assert_uint_eq(lease_take(t, &c, 9, units, 4), 1);
    ck_assert(!lease_next_waiting(t, &c));
    lease_cancel(t, A, 2, now, &out);
    lease_cancel(t, A, 4, now, &out);
    ck_assert_str_eq(seen(), ""); /* they are another's to answer */
    ended(1, 1);
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 1, start, release 2, start");
}
END_TEST

START_TEST(what_is_kept_for_a_promise_is_not_for_what_is_to_start_now)
{
    struct res_set one = need_of(1, 0);
    int64_t room[RESOURCES_MAX];

    have_two();
    request_set(B, 1, 1, "whole", need_of(2, 0));
    ended(1, 1);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500, release 1");
    lease_get_room(t, now, room);
    ck_assert_int_eq(r.available[0], RESOURCE_UNIT);
    ck_assert_int_eq(room[0], 0);
    ck_assert_int_eq(room[1], RESOURCE_UNIT);
    lease_request_now(t, ASK(1, C, 1, 1, &one, "f"), now, &out);
    ck_assert_str_eq(seen(), "rejected 12/1 x1");
    now += LEASE_PROMISE_MS; /* the promise lapses, for as long */
    lease_get_room(t, now, room);
    ck_assert_int_eq(room[0], RESOURCE_UNIT);
    lease_request_now(t, ASK(1, C, 2, 1, &one, "f"), now, &out);
    ck_assert_str_eq(seen(), "start");
}
END_TEST

START_TEST(owners_share_what_goes_elsewhere_and_take_turns)
{
    request_set(A, 3, 4, "f", need_of(9, 0));
    request_set(A, 2, 6, "f", need_of(9, 0));
    request_set(B, 1, 2, "f", need_of(9, 0));
    request_set(C, 1, 9, "f", need_of(9, 0));
    out.n = 0;
    ck_assert_str_eq(take(1, 8), "10/3 x1");
    ck_assert_str_eq(take(4, 8), "11/1 x2, 12/1 x1, 10/3 x1");
    ck_assert_str_eq(take(9, 8), "12/1 x5, 10/3 x2, 10/2 x2");
    ck_assert_str_eq(take(9, 1), "12/1 x3"); /* room for no more parts */
    lease_cancel(t, A, 2, now, &out);
    ck_assert_str_eq(seen(), "canceled 10/2 x4");
    ck_assert_str_eq(take(9, 8), "");
    lease_cancel(t, C, 1, now, &out); /* all of it has gone */
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(what_is_put_back_comes_before_what_was_asked_for_later)
{
    struct res_set one = need_of(1, 0), much = need_of(9, 0);

    have_two();
    request(A, 2, 2, "f"); /* they wait: its own leases would come back to it */
    ck_assert_str_eq(take(2, 8), "10/2 x2");
    request(A, 3, 1, "f");
    lease_put_back(t, ASK(1, A, 2, 1, &one, "f"), now, &out);
    lease_put_back(t, ASK(1, A, 2, 0, &one, "f"), now, &out);
    ended(1, 1);
    ready(1);
    ck_assert_str_eq(seen(), "release 1, start, grant 10/2 lease 3 worker 1");
    lease_put_back(t, ASK(1, B, 9, 1, &one, "f"), now, &out); /* it never was here */
    ck_assert_str_eq(seen(), "revoke 2 worker 2 in 500");
    lease_put_back(t, ASK(1, C, 9, 1, &much, "f"), now, &out);
    ck_assert_str_eq(seen(), "warn 12");
}
END_TEST

/* Whether a node could ever take what is first in line. */
static void look(bool is_found)
{
    struct lease_class c;

    ck_assert(lease_first_waiting(t, &c));
    lease_looked(&c, is_found, now, &out);
}

/* Whatever it has: what wants nothing does not start there either. */
START_TEST(a_closed_table_starts_nothing_and_gives_all_away)
{
    lease_table_close(t);
    request_set(A, 1, 2, "f", need_of(0, 0));
    ck_assert_str_eq(seen(), "");
    pass(5000);
    ck_assert_str_eq(seen(), "");
    look(false);
    ck_assert_str_eq(seen(), "");
    now += LEASE_WARN_MS;
    look(false);
    look(false); /* once a class */
    ck_assert_str_eq(seen(), "warn 10");
    ck_assert_str_eq(take(1, 4), "10/1 x1");
    lease_cancel(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "canceled 10/1 x1");
}
END_TEST

START_TEST(classes_that_can_be_sent_are_shown_whole)
{
    struct lease_class c;
    struct res_set tpu = need_of(1, 0);
    unsigned n_classes = 0, n_units = 0;

    ck_assert(!lease_first_waiting(t, &c));
    ck_assert_int_eq(res_set_add(&tpu, &r, "TPU", 5, NULL), 0);
    request_of(1, A, 1, 3, 9);
    request_of(2, B, 2, 4, 9);
    request_of(2, B, 3, 1, 8);
    request_of(1, A, 4, 3, 1); /* two of these start */
    lease_request(t, ASK(3, C, 2, 1, &tpu, "odd"), now, &out);
    out.n = 0;
    for (bool more = lease_first_waiting(t, &c); more; more = lease_next_waiting(t, &c)) {
        struct lease_unit units[4];
        n_classes++;
        n_units += c.count;
        ck_assert_uint_eq(c.is_feasible, c.job == 1 && c.count == 1);
        if (c.job == 3) {
            ck_assert_uint_eq(c.n_need, 2);
            ck_assert_str_eq(c.need[1].name, "TPU");
            ck_assert_int_eq(c.need[1].units, 5);
        }
        ck_assert_uint_gt(lease_take(t, &c, c.count, units, 4), 0);
        lease_selfcheck(t);
    }
    ck_assert_uint_eq(n_classes, 5);
    ck_assert_uint_eq(n_units, 3 + 4 + 1 + 1 + 1);
    ck_assert(!lease_first_waiting(t, &c));
}
END_TEST

/* The class with that name, of all that lease_list_uses tells. */
static struct lease_use use_of(const char *name, size_t n)
{
    struct lease_use *uses, found = {0};

    ck_assert_uint_eq(lease_list_uses(t, &uses), n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(uses[i].name, name) == 0)
            found = uses[i];
    free(uses);
    ck_assert_ptr_nonnull(found.name);
    return found;
}

START_TEST(each_class_says_what_it_has_and_why_it_waits)
{
    struct res_set one = need_of(1, 0), two = need_of(2, 0), gpu = need_of(0, 1),
                   tpu = need_of(0, 0);
    struct lease_held held;

    have_two(); /* A's, of both CPUs */
    now += 10;
    lease_request(t, ASK(1, B, 1, 3, &one, "waits"), now, &out);
    now += 10;
    lease_request(t, ASK(1, C, 1, 2, &one, "waits"), now, &out);
    lease_request(t, ASK(1, A, 7, 1, &gpu, "starts"), now, &out);
    ck_assert_int_eq(res_set_add(&tpu, &r, "TPU", 5, NULL), 0);
    lease_request(t, ASK(2, 20, 1, 1, &tpu, "never"), now, &out);
    two.units[0]++;
    lease_request(t, ASK(2, 20, 1, 1, &two, "large"), now, &out);
    struct lease_use u = use_of("waits", 5);
    ck_assert(u.n_queued == 5 && u.n_starting == 0 && u.n_leased == 0 && u.job == 1);
    ck_assert_int_eq(u.wait, LEASE_WAIT_TAKEN);
    ck_assert_str_eq(u.lacking, "CPU");
    ck_assert_uint_eq(u.asked_ms, now - 10);
    ck_assert(u.n_need == 1 && u.need[0].units == RESOURCE_UNIT);
    u = use_of("f", 5);
    ck_assert(u.n_leased == 2 && u.n_blocked == 0 && u.wait == LEASE_WAIT_NOTHING);
    u = use_of("starts", 5);
    ck_assert(u.n_starting == 1 && u.start_ms == now && u.n_queued == 0);
    u = use_of("never", 5);
    ck_assert_int_eq(u.wait, LEASE_WAIT_NEVER);
    ck_assert_str_eq(u.lacking, "TPU");
    u = use_of("large", 5);
    ck_assert_int_eq(u.wait, LEASE_WAIT_NEVER);
    ck_assert_str_eq(u.lacking, "CPU");
    ck_assert(lease_look_at(t, 1, &held) && strcmp(held.name, "f") == 0 && held.owner == A);
    ck_assert(!held.is_blocked && !lease_look_at(t, 77, &held));
    lease_asked_at(t, C, 1, 50);
    lease_asked_at(t, C, 2, 10);
    ck_assert_uint_eq(use_of("waits", 5).asked_ms, 50);
    lease_blocked(t, 1, 1, now, &out);
    ck_assert_uint_eq(use_of("f", 5).n_blocked, 1);
    ck_assert(lease_look_at(t, 1, &held) && held.is_blocked);
}
END_TEST

START_TEST(what_is_kept_for_another_is_said)
{
    struct res_set one = need_of(1, 0), both = need_of(2, 0);

    have_two();
    lease_request(t, ASK(1, B, 1, 1, &both, "large"), now, &out); /* promised both CPUs */
    ended(1, 1);
    lease_request(t, ASK(1, C, 1, 1, &one, "small"), now, &out);
    struct lease_use u = use_of("small", 3);
    ck_assert_int_eq(u.wait, LEASE_WAIT_PROMISED);
    ck_assert_ptr_null(u.lacking);
    ck_assert_int_eq(use_of("large", 3).wait, LEASE_WAIT_TAKEN);
}
END_TEST

START_TEST(lease_numbers_begin_where_they_are_told_to)
{
    lease_table_number(t, 5ull << 36);
    request(A, 1, 1, "f");
    ready(1);
    ck_assert_uint_eq(out.v[1].lease, (5ull << 36) + 1);
    seen();
}
END_TEST

START_TEST(inv_16_resources_are_freed_on_each_way_out)
{
    request(A, 1, 2, "f");
    lease_worker_failed(t, 1, "it exits at load", now, &out);
    ck_assert_str_eq(seen(), "start, start, refused 10/1 x1, refused 10/1 x1");
    ck_assert_int_eq(r.available[0], r.total[0]);
    request(A, 2, 2, "f");
    lease_cancel(t, A, 2, now, &out);
    ck_assert_int_eq(r.available[0], r.total[0]);
    request(A, 3, 2, "f");
    lease_owner_died(t, A, now, &out);
    ck_assert_int_eq(r.available[0], r.total[0]);
    request(B, 4, 1, "f");
    ready(1);
    lease_worker_died(t, 1, now, &out);
    ck_assert_int_eq(r.available[0], r.total[0]);
    request(B, 5, 1, "f");
    ready(2);
    ended(2, 2);
    ck_assert_int_eq(r.available[0], r.total[0]);
}
END_TEST

START_TEST(a_cancel_of_a_ticket_that_is_granted_or_unknown_is_owed_nothing)
{
    have_two();
    lease_cancel(t, A, 1, now, &out);
    lease_cancel(t, A, 99, now, &out);
    lease_cancel(t, B, 1, now, &out);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(a_cancel_leaves_other_tickets_and_owners_alone)
{
    struct lease_stats stats;

    make(0);
    request_set(A, 1, 2, "f", need_of(0, 1)); /* one of them starts */
    request_set(A, 2, 3, "f", need_of(0, 1));
    request_set(B, 1, 4, "f", need_of(0, 1));
    ck_assert_str_eq(seen(), "start");
    lease_cancel(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "unstart, canceled 10/1 x2, start");
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued + stats.n_starting, 7);
}
END_TEST

START_TEST(a_worker_that_comes_after_the_cancel_goes_back_to_the_pool)
{
    request(A, 1, 1, "f");
    lease_cancel(t, A, 1, now, &out);
    ready(5);
    ck_assert_str_eq(seen(), "start, unstart, canceled 10/1 x1, release 5");
}
END_TEST

START_TEST(workers_go_to_the_units_in_the_order_they_were_asked_for)
{
    request(A, 1, 1, "f");
    request(B, 2, 1, "g");
    ready(8);
    ready(9);
    ck_assert_str_eq(seen(),
                     "start, start, grant 10/1 lease 1 worker 8, grant 11/2 lease 2 worker 9");
}
END_TEST

START_TEST(a_request_of_no_units_is_nothing)
{
    request(A, 1, 0, "f");
    ck_assert_str_eq(seen(), "");
    ck_assert_uint_eq(lease_next_deadline(t, 2, 2), UINT64_MAX);
}
END_TEST

/* --- what can never fit --- */

START_TEST(what_can_never_fit_stays_queued_with_one_warning_that_names_what_is_missing)
{
    struct lease_stats stats;

    request_set(A, 1, 3, "big", need_of(8, 0));
    ck_assert_str_eq(seen(), "warn 10");
    ck_assert_str_eq(
        last_text,
        "task big waits for a node with 8 CPU, this one has 2; it stays queued until one comes");
    request_set(A, 2, 1, "big", need_of(8, 0));
    pass(10000);
    ck_assert_str_eq(seen(), "");
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued, 4);
    request(A, 3, 1, "f"); /* it is passed over */
    ck_assert_str_eq(seen(), "start");
    lease_cancel(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "canceled 10/1 x3");
}
END_TEST

START_TEST(texts_of_several_warnings_stay_good_side_by_side)
{
    struct res_set tpu = {0};

    ck_assert_int_eq(res_set_add(&tpu, &r, "TPU", 1, NULL), 0);
    request_set(A, 1, 1, "big", need_of(8, 0));
    request_set(A, 2, 1, "odd", tpu);
    lease_cancel(t, A, 1, now, &out);
    ck_assert_uint_eq(out.n, 3);
    ck_assert_ptr_nonnull(strstr(out.v[0].text, "task big waits for a node with 8 CPU"));
    ck_assert_ptr_nonnull(
        strstr(out.v[1].text, "task odd waits for a node with 0.0001 TPU, this one has none"));
}
END_TEST

START_TEST(among_other_nodes_it_is_said_when_none_was_found_for_a_while)
{
    struct res_set eight = need_of(8, 0);

    lease_table_share(t);
    request_set(A, 1, 2, "big", eight);
    look(false);
    now += LEASE_WARN_MS - 1;
    look(false);
    look(true); /* one has come */
    now += LEASE_WARN_MS;
    look(false); /* and gone */
    ck_assert_str_eq(seen(), "");
    lease_cancel(t, A, 1, now, &out);
    now += LEASE_WARN_MS;
    lease_put_back(t, ASK(1, B, 2, 1, &eight, "big"), now, &out);
    look(false); /* nothing of it waited meanwhile */
    ck_assert_str_eq(seen(), "canceled 10/1 x2");
    request_set(A, 3, 1, "big", eight); /* no new wait */
    now += LEASE_WARN_MS;
    look(false);
    ck_assert_str_eq(seen(), "warn 11");
    ck_assert_str_eq(
        last_text,
        "task big waits for a node with 8 CPU, this one has 2; it stays queued until one comes");
    now += LEASE_WARN_MS;
    look(false);
    request_set(A, 4, 1, "big", eight);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(what_fits_here_is_never_said_to_fit_nowhere)
{
    lease_table_share(t);
    have_two();
    request(A, 2, 1, "f");
    look(false);
    now += LEASE_WARN_MS;
    look(false);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(what_can_never_fit_revokes_nobody)
{
    have_two();
    request_set(B, 1, 1, "big", need_of(3, 0));
    pass(5000);
    ck_assert_str_eq(seen(), "warn 11");
}
END_TEST

/* --- whose turn it is --- */

START_TEST(owners_take_turns_however_much_one_of_them_asks_for)
{
    make(4);
    request_set(C, 0, 1, "all", need_of(4, 0));
    ready(9);
    request(A, 1, 100, "f");
    request(B, 2, 100, "f");
    out.n = 0;
    ended(9, 1);
    ready(1);
    ready(2);
    ready(3);
    ready(4);
    const uint32_t order[] = {A, B, A, B};
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == LEASE_GRANT)
            ck_assert_uint_eq(out.v[i].owner, order[n++]);
    ck_assert_uint_eq(n, 4);
}
END_TEST

START_TEST(requests_of_one_owner_are_served_in_their_order_and_what_does_not_fit_is_passed_over)
{
    request_set(A, 1, 1, "one", need_of(1, 0));
    request_set(A, 2, 1, "two", need_of(2, 0)); /* does not fit beside it */
    request_set(A, 3, 1, "three", need_of(1, 0));
    ready(1);
    ready(2);
    ck_assert_str_eq(seen(),
                     "start, start, grant 10/1 lease 1 worker 1, grant 10/3 lease 2 worker 2, "
                     "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500");
}
END_TEST

START_TEST(a_unit_that_needs_the_whole_node_is_not_starved_by_small_ones)
{
    have_two();
    request_set(B, 1, 1, "whole", need_of(2, 0));
    request(A, 2, 10, "f"); /* more of the same is always waiting */
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500");
    now += 400;
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1"); /* kept for the promise */
    now += 50;
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 2, start");
    ck_assert_int_eq(r.available[0], 0);
    ready(2);
    ck_assert_str_eq(seen(), "grant 11/1 lease 3 worker 2, revoke 3 worker 2 in 500");
}
END_TEST

START_TEST(inv_21_a_promise_is_not_kept_against_others_for_ever)
{
    have_two();
    request_set(B, 1, 1, "whole", need_of(2, 0));
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500");
    ended(1, 1);
    /* the body on worker 2 polls for a child that it asks for now */
    request(2, 5, 1, "child");
    ck_assert_str_eq(seen(), "release 1");
    pass(LEASE_PROMISE_MS - 1);
    ck_assert_str_eq(seen(), "");
    pass(1);
    ck_assert_str_eq(seen(), "start");
    ready(1);
    ck_assert_str_eq(seen(), "grant 2/5 lease 3 worker 1");
    ended(1, 3);
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 1, release 2, start"); /* the whole node */
    ck_assert_int_eq(r.available[0], 0);
}
END_TEST

START_TEST(a_class_that_waits_gets_its_turn_though_another_of_the_owner_never_ends)
{
    have_two();
    request(A, 2, 10, "f");
    ck_assert_str_eq(seen(), ""); /* its own leases would come back to it */
    now += 200;
    request(A, 3, 1, "g");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 300");
    ended(1, 1);
    ready(1);
    ck_assert_str_eq(seen(),
                     "release 1, start, grant 10/3 lease 3 worker 1, revoke 3 worker 1 in 500");
}
END_TEST

/* --- revoking --- */

START_TEST(as_many_leases_as_needed_are_revoked_the_oldest_first_and_none_twice)
{
    make(4);
    request(A, 1, 4, "f");
    for (uint32_t w = 1; w <= 4; w++) {
        ready(w);
        now += 100;
    }
    out.n = 0;
    request(B, 2, 2, "f");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 100, revoke 2 worker 2 in 200");
    request(C, 3, 1, "f");
    ck_assert_str_eq(seen(), "revoke 3 worker 3 in 300");
    lease_cancel(t, C, 3, now, &out);
    request(C, 4, 1, "f");
    ck_assert_str_eq(seen(), "canceled 12/3 x1"); /* the third makes way already */
}
END_TEST

START_TEST(a_lease_that_has_had_its_turn_is_revoked_at_once)
{
    have_two();
    now += 600;
    request(B, 1, 1, "f");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0");
}
END_TEST

START_TEST(only_leases_that_hold_what_is_missing_make_way)
{
    request(A, 1, 1, "f");
    ready(1);
    request_set(A, 2, 1, "g", need_of(0, 1));
    ready(2);
    out.n = 0;
    request_set(B, 3, 1, "h", need_of(1, 1));
    ck_assert_str_eq(seen(), "revoke 2 worker 2 in 500");
}
END_TEST

START_TEST(nobody_is_revoked_when_it_would_not_help)
{
    request_set(A, 1, 1, "gpu", need_of(0, 1)); /* starting: cannot be revoked */
    request(B, 2, 2, "f");
    ck_assert_str_eq(seen(), "start, start, start");
    lease_cancel(t, B, 2, now, &out);
    request(B, 3, 2, "f");
    ck_assert_str_eq(seen(), "unstart, unstart, canceled 11/2 x2, start, start");
    ready(1);
    out.n = 0;
    request_set(C, 4, 1, "both", need_of(2, 1));
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(when_a_body_goes_on_past_its_grace_another_lease_is_revoked)
{
    have_two();
    request(B, 1, 1, "f");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500");
    pass(999);
    ck_assert_str_eq(seen(), "");
    pass(1);
    ck_assert_str_eq(seen(), "revoke 2 worker 2 in 0");
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 2, start");
}
END_TEST

START_TEST(a_return_revokes_at_once_and_only_the_owners_own_lease)
{
    have_two();
    lease_return(t, B, 1, now, &out);
    lease_return(t, A, 99, now, &out);
    ck_assert_str_eq(seen(), "");
    lease_return(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0");
    lease_return(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "");
    ended(1, 1);
    lease_return(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "release 1");
}
END_TEST

START_TEST(a_return_shortens_the_grace_of_a_revoked_lease)
{
    have_two();
    request(B, 1, 1, "f");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500");
    lease_return(t, A, 1, now, &out);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0");
}
END_TEST

/* --- ends --- */

START_TEST(inv_11_a_lease_ends_once_whatever_is_said_afterwards)
{
    have_two();
    ended(2, 1); /* not its lease */
    ended(1, 99);
    ck_assert_str_eq(seen(), "");
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1");
    ended(1, 1);
    lease_worker_died(t, 1, now, &out);
    ck_assert_str_eq(seen(), "");
    ck_assert_int_eq(r.available[0], RESOURCE_UNIT);
    lease_worker_died(t, 2, now, &out);
    ck_assert_str_eq(seen(), "dead 10 lease 2 worker 2");
    ended(2, 2);
    lease_worker_died(t, 2, now, &out);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(a_death_frees_what_the_worker_held_for_those_that_wait)
{
    have_two();
    request(A, 2, 1, "f");
    lease_worker_died(t, 2, now, &out);
    ck_assert_str_eq(seen(), "dead 10 lease 2 worker 2, start");
}
END_TEST

START_TEST(inv_12_requests_and_leases_of_a_dead_owner_are_dropped)
{
    have_two();
    request(A, 2, 5, "f");
    request(B, 3, 1, "g");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500");
    lease_owner_died(t, A, now, &out);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0, revoke 2 worker 2 in 0");
    ended(1, 1);
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 1, start, release 2");
    lease_cancel(t, A, 2, now, &out); /* a late frame of the dead */
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(inv_7_a_body_that_runs_for_a_dead_owner_is_killed_once_when_grace_is_over)
{
    have_two();
    lease_owner_died(t, A, now, &out);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0, revoke 2 worker 2 in 0");
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1");
    ck_assert_uint_eq(lease_next_deadline(t, 2, 2), now + LEASE_TURN_MS);
    pass(LEASE_TURN_MS - 1);
    ck_assert_str_eq(seen(), "");
    pass(1);
    ck_assert_str_eq(seen(), "kill 2");
    pass(1000);
    ck_assert_str_eq(seen(), "");
    lease_worker_died(t, 2, now, &out); /* there is nobody to tell */
    ck_assert_str_eq(seen(), "");
    ck_assert_int_eq(r.available[0], r.total[0]);
}
END_TEST

START_TEST(inv_12_units_that_start_for_an_owner_that_dies_give_their_worker_back)
{
    request(A, 1, 2, "f");
    lease_owner_died(t, A, now, &out);
    ready(1);
    ck_assert_str_eq(seen(), "start, start, unstart, unstart, release 1");
}
END_TEST

/* --- blocked workers --- */

START_TEST(inv_20_blocked_is_a_strict_toggle_of_the_lease)
{
    have_two();
    lease_blocked(t, 1, 2, now, &out); /* another worker's */
    lease_blocked(t, 1, 99, now, &out);
    lease_unblocked(t, 1, 1);
    ck_assert_int_eq(r.available[0], 0);
    lease_blocked(t, 1, 1, now, &out);
    lease_blocked(t, 1, 1, now, &out);
    ck_assert_int_eq(r.available[0], RESOURCE_UNIT);
    lease_unblocked(t, 2, 1);
    lease_unblocked(t, 1, 1);
    lease_unblocked(t, 1, 1);
    ck_assert_int_eq(r.available[0], 0);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(inv_20_a_blocked_lease_that_ends_or_dies_frees_its_cpu_once)
{
    have_two();
    lease_blocked(t, 1, 1, now, &out);
    lease_blocked(t, 2, 2, now, &out);
    ended(1, 1);
    ck_assert_int_eq(r.available[0], r.total[0]);
    lease_worker_died(t, 2, now, &out);
    ck_assert_int_eq(r.available[0], r.total[0]);
    lease_unblocked(t, 1, 1);
    ck_assert_int_eq(r.available[0], r.total[0]);
    ck_assert_str_eq(seen(), "release 1, dead 10 lease 2 worker 2");
}
END_TEST

START_TEST(a_blocked_lease_keeps_all_but_its_cpu)
{
    request_set(A, 1, 1, "f", need_of(1, 1));
    ready(1);
    lease_blocked(t, 1, 1, now, &out);
    out.n = 0;
    request_set(B, 2, 1, "g", need_of(0, 1));
    ck_assert_str_eq(seen(), "");
    request(B, 3, 2, "h");
    ck_assert_str_eq(seen(), "start, start");
}
END_TEST

START_TEST(inv_19_nothing_that_wants_cpu_starts_while_it_is_below_zero)
{
    have_two();
    lease_blocked(t, 1, 1, now, &out);
    request(1, 5, 1, "child");
    ready(3);
    lease_unblocked(t, 1, 1);
    ck_assert_int_eq(r.available[0], -RESOURCE_UNIT);
    out.n = 0;
    struct res_set tenth = {.units = {RESOURCE_UNIT / 10}};
    request_set(B, 6, 1, "tenth", tenth);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500");
    /* idle leases may hold the CPU for ever: nobody asks for it who needs none */
    request_set(B, 7, 1, "gpu", need_of(0, 1));
    ck_assert_str_eq(seen(), "start");
    ended(2, 2);
    ck_assert_int_eq(r.available[0], 0);
    ck_assert_str_eq(seen(), "release 2");
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1, start");
}
END_TEST

START_TEST(a_blocked_lease_is_not_asked_to_make_way)
{
    have_two();
    lease_blocked(t, 1, 1, now, &out);
    request(B, 1, 2, "f");
    ck_assert_str_eq(seen(), "start, revoke 2 worker 2 in 500");
}
END_TEST

START_TEST(inv_21_calls_nested_fifty_deep_finish_on_two_cpus)
{
    struct lease_stats stats;

    request(0, 1, 10, "f"); /* the driver has more to do, too */
    ready(1);
    ready(2);
    out.n = 0;
    lease_blocked(t, 2, 2, now, &out);
    /* each worker asks for one more and blocks; the units of the driver come in between */
    uint32_t next = 3, deepest = 1;
    uint64_t lease_of[1024] = {0, 1, 2};
    uint32_t owner_of[1024] = {0};
    uint32_t owner = 1;
    unsigned depth = 1;
    request(owner, 100, 1, "f");
    lease_blocked(t, 1, 1, now, &out);
    for (int step = 0; step < 2000 && depth < 50; step++) {
        struct lease_actions todo = out;
        out = (struct lease_actions){0};
        for (size_t i = 0; i < todo.n; i++) {
            struct lease_action *a = &todo.v[i];
            if (a->kind == LEASE_START) {
                ready(next++);
            } else if (a->kind == LEASE_GRANT) {
                lease_of[a->worker] = a->lease;
                owner_of[a->worker] = a->owner;
                if (a->owner == owner) { /* the child runs: one level deeper */
                    depth++;
                    owner = deepest = a->worker;
                    request(owner, 100 + depth, 1, "f");
                }
                lease_blocked(t, a->worker, a->lease, now, &out);
            }
            lease_selfcheck(t);
        }
        free(todo.v);
    }
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(depth, 50);
    ck_assert_uint_ge(stats.n_blocked, 50);
    /* back up: each child ends, its parent goes on and ends */
    for (uint32_t w = deepest; w != 0; w = owner_of[w]) {
        lease_unblocked(t, w, lease_of[w]);
        lease_owner_died(t, w, now, &out);
        ended(w, lease_of[w]);
        lease_selfcheck(t);
    }
}
END_TEST

/* --- surplus --- */

static void on_time(uint64_t ms, unsigned n_workers)
{
    now += ms;
    lease_on_time(t, n_workers, 2, now, &out);
}

START_TEST(a_surplus_of_workers_ends_as_many_leases_when_they_are_idle)
{
    make(4);
    request(A, 1, 4, "f");
    for (uint32_t w = 1; w <= 4; w++)
        ready(w);
    out.n = 0;
    on_time(999, 4);
    ck_assert_str_eq(seen(), ""); /* it has not been quiet for long enough */
    on_time(1, 2);
    ck_assert_str_eq(seen(), ""); /* no surplus */
    on_time(0, 4);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in -1, revoke 2 worker 2 in -1");
    on_time(100, 4);
    ck_assert_str_eq(seen(), ""); /* once a second */
    on_time(900, 4);
    ck_assert_str_eq(
        seen(),
        "revoke 3 worker 3 in -1, revoke 4 worker 4 in -1"); /* those two were busy: others */
    ended(3, 3);
    ended(4, 4);
    out.n = 0;
    on_time(1000, 2);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(one_that_was_asked_to_end_when_idle_can_still_be_made_to_make_way)
{
    have_two();
    on_time(1000, 4);
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in -1, revoke 2 worker 2 in -1");
    request(B, 1, 1, "f");
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 0");
}
END_TEST

START_TEST(there_is_no_surplus_while_something_waits_or_workers_are_blocked)
{
    have_two();
    request(A, 2, 1, "f");
    on_time(5000, 4);
    ck_assert_str_eq(seen(), "");
    lease_cancel(t, A, 2, now, &out);
    request_set(A, 3, 1, "big", need_of(9, 0));
    ck_assert_str_eq(seen(), "canceled 10/2 x1, warn 10");
    lease_blocked(t, 1, 1, now, &out);
    on_time(1000, 3); /* the third is worth the blocked one */
    ck_assert_str_eq(seen(), "");
    on_time(0, 4); /* what can never fit does not wait */
    ck_assert_str_eq(seen(), "revoke 2 worker 2 in -1");
}
END_TEST

START_TEST(the_next_deadline_lies_ahead_of_the_time_it_was_reached)
{
    ck_assert_uint_eq(lease_next_deadline(t, 3, 2), UINT64_MAX);
    have_two();
    now += LEASE_SURPLUS_MS;
    for (int i = 0; i < 10; i++) {
        lease_on_time(t, 3, 2, now, &out);
        uint64_t at = lease_next_deadline(t, 3, 2);
        ck_assert_uint_gt(at, now);
        ck_assert_uint_le(at, now + LEASE_SURPLUS_MS);
        now = at;
        if (i == 5)
            request(B, 1, 1, "f");
    }
    ck_assert_str_eq(seen(),
                     "revoke 1 worker 1 in -1, revoke 2 worker 2 in -1, revoke 1 worker 1 in -1, "
                     "revoke 2 worker 2 in -1, revoke 1 worker 1 in -1, revoke 2 worker 2 in -1, "
                     "revoke 1 worker 1 in 0, revoke 2 worker 2 in 0");
}
END_TEST

START_TEST(leases_that_nobody_else_wants_need_no_time)
{
    have_two();
    ck_assert_uint_eq(lease_next_deadline(t, 2, 2), UINT64_MAX);
    ck_assert_uint_lt(lease_next_deadline(t, 3, 2), UINT64_MAX);
    lease_blocked(t, 1, 1, now, &out); /* worth the third */
    ck_assert_uint_eq(lease_next_deadline(t, 3, 2), UINT64_MAX);
}
END_TEST

/* --- a world of owners and workers around the table and the pool, wired as the node wires them ---
 */

enum { TICKETS = 20000, PROCESSES = 20000, LEASES = 40000, AWAY = 50 };

struct world {
    struct worker_pool *pool;
    struct worker_pool_actions pool_out;
    unsigned seed;
    uint32_t n_tickets, n_processes;
    uint32_t ticket_owner[TICKETS];
    int64_t owed[TICKETS];
    bool infeasible[TICKETS];
    enum { NEVER, STARTING, ALIVE, DEAD } process[PROCESSES]; /* by token; 1..3 are drivers */
    uint64_t lease_of[PROCESSES];
    bool blocked[PROCESSES];
    uint32_t lease_owner[LEASES], lease_worker[LEASES];
    bool live[LEASES], killed[LEASES];
    unsigned n_seen[LEASE_WARN + 1]; /* actions by kind */
    bool nothing_starts;
    struct res_set need[TICKETS];
    struct lease_unit away[AWAY];
    unsigned n_away;
};

enum { DRIVERS = 3, TOKEN = 100 }; /* a worker is the process TOKEN + token */

static void answer(struct world *w, const struct lease_action *a, uint32_t count)
{
    ck_assert_uint_lt(a->ticket, w->n_tickets);
    ck_assert_uint_eq(w->ticket_owner[a->ticket], a->owner);
    ck_assert_int_eq(w->process[a->owner], ALIVE); /* INV-12 */
    w->owed[a->ticket] -= count;
    ck_assert_int_ge(w->owed[a->ticket], 0); /* INV-18 */
}

static void carry_out_lease(struct world *w, const struct lease_action *a)
{
    w->n_seen[a->kind]++;
    switch (a->kind) {
    case LEASE_START:
        worker_pool_request(w->pool, now, &w->pool_out);
        break;
    case LEASE_UNSTART:
        worker_pool_cancel(w->pool);
        break;
    case LEASE_GRANT:
        answer(w, a, 1);
        ck_assert_uint_eq(w->lease_of[a->worker], 0); /* INV-10 */
        ck_assert_int_eq(w->process[a->worker], ALIVE);
        ck_assert_uint_lt(a->lease, LEASES);
        w->lease_of[a->worker] = a->lease;
        w->blocked[a->worker] = false;
        w->live[a->lease] = true;
        w->lease_owner[a->lease] = a->owner;
        w->lease_worker[a->lease] = a->worker;
        break;
    case LEASE_CANCELED:
    case LEASE_REFUSED:
    case LEASE_REJECTED:
        answer(w, a, a->count);
        break;
    case LEASE_REVOKE:
        ck_assert(w->live[a->lease]);
        ck_assert_uint_eq(w->lease_worker[a->lease], a->worker);
        break;
    case LEASE_RELEASE:
        worker_pool_release(w->pool, a->worker - TOKEN, now, &w->pool_out);
        break;
    case LEASE_KILL:
        ck_assert(w->live[a->lease] && !w->killed[a->lease]);
        ck_assert_int_eq(w->process[w->lease_owner[a->lease]], DEAD);
        w->killed[a->lease] = true;
        break;
    case LEASE_DEAD:
        ck_assert(w->live[a->lease]); /* INV-11 */
        ck_assert_int_eq(w->process[a->owner], ALIVE);
        w->live[a->lease] = false;
        break;
    case LEASE_WARN:
        break;
    }
}

static void carry_out_pool(struct world *w, struct worker_pool_action a)
{
    uint32_t id = TOKEN + (uint32_t)a.token;

    switch (a.kind) {
    case WORKER_POOL_SPAWN:
        ck_assert_uint_lt(id, PROCESSES);
        w->process[id] = STARTING;
        w->n_processes = id + 1;
        break;
    case WORKER_POOL_GRANT:
        if (w->process[id] == ALIVE)
            lease_worker_ready(t, 1, id, now, &out);
        else
            worker_pool_request(w->pool, now, &w->pool_out);
        break;
    case WORKER_POOL_EXIT:
    case WORKER_POOL_KILL:
        break; /* it dies when the dice say so */
    case WORKER_POOL_FAIL:
        lease_worker_failed(t, 1, "they fail", now, &out);
        break;
    }
}

static void settle(struct world *w)
{
    while (out.n > 0 || w->pool_out.n > 0) {
        struct lease_actions l = out;
        struct worker_pool_actions p = w->pool_out;
        out = (struct lease_actions){0};
        w->pool_out = (struct worker_pool_actions){0};
        for (size_t i = 0; i < l.n; i++)
            carry_out_lease(w, &l.v[i]);
        for (size_t i = 0; i < p.n; i++)
            carry_out_pool(w, p.v[i]);
        free(l.v);
        free(p.v);
    }
    lease_selfcheck(t);
    worker_pool_selfcheck(w->pool);
}

static unsigned dice(struct world *w, unsigned n)
{
    return (unsigned)rand_r(&w->seed) % n;
}

static void process_dies(struct world *w, uint32_t id)
{
    if (id >= TOKEN) {
        uint64_t lease = w->lease_of[id];
        lease_worker_died(t, id, now, &out);
        for (size_t i = 0; i < out.n; i++) /* at once, as the node does */
            carry_out_lease(w, &out.v[i]);
        out.n = 0;
        ck_assert(!w->live[lease] || w->process[w->lease_owner[lease]] == DEAD);
        w->live[lease] = false;
        w->lease_of[id] = 0;
    }
    w->process[id] = DEAD;
    lease_owner_died(t, id, now, &out);
    for (uint32_t k = 0; k < w->n_tickets; k++)
        if (w->ticket_owner[k] == id)
            w->owed[k] = 0;
    for (unsigned i = 0; i < w->n_away;)
        if (w->away[i].owner == id)
            w->away[i] = w->away[--w->n_away];
        else
            i++;
    if (id >= TOKEN)
        worker_pool_on_exit(w->pool, id - TOKEN, now, &w->pool_out);
}

static void lease_ends(struct world *w, uint32_t id)
{
    uint64_t lease = w->lease_of[id];

    w->live[lease] = false;
    w->lease_of[id] = 0;
    w->blocked[id] = false;
    ended(id, lease);
}

static void ask(struct world *w, uint32_t owner)
{
    static const char *const names[] = {"f", "g"};
    uint32_t k = w->n_tickets++;
    int64_t cpu = dice(w, 20) == 0 ? 9 : dice(w, 5);

    ck_assert_uint_lt(k, TICKETS);
    w->ticket_owner[k] = owner;
    w->infeasible[k] = cpu > 4;
    w->owed[k] = 1 + dice(w, 4);
    struct res_set need = need_of(cpu, dice(w, 4) == 0);
    w->need[k] = need;
    unsigned how = dice(w, 6);
    if (how < 2)
        (how == 0 ? lease_request_now : lease_request_soon)(
            t,
            ASK(1, owner, k, (uint32_t)w->owed[k], &need, names[dice(w, 2)]),
            now,
            &out);
    else
        request_set(owner, k, (uint32_t)w->owed[k], names[dice(w, 2)], need);
}

/* Units go elsewhere, come back, or are answered from there. */
static void move_units(struct world *w)
{
    struct lease_class c;
    struct lease_unit units[2];

    if (dice(w, 2) == 0 && w->n_away + 2 < AWAY && lease_first_waiting(t, &c)) {
        while (dice(w, 3) > 0 && lease_next_waiting(t, &c))
            ;
        uint32_t k = 1 + dice(w, 4), got = 0;
        size_t n = lease_take(t, &c, k, units, 2);
        for (size_t i = 0; i < n; i++) {
            got += units[i].count;
            ck_assert_uint_gt(units[i].count, 0);
            ck_assert_uint_eq(w->ticket_owner[units[i].ticket], units[i].owner);
            w->away[w->n_away++] = units[i];
        }
        ck_assert_uint_gt(got, 0);
        ck_assert_uint_le(got, k);
        ck_assert_uint_le(got, c.count);
    } else if (w->n_away > 0) {
        unsigned i = dice(w, w->n_away);
        const struct lease_unit u = w->away[i];
        struct res_set need = w->need[u.ticket];
        w->away[i] = w->away[--w->n_away];
        if (dice(w, 3) == 0)
            w->owed[u.ticket] -= u.count;
        else
            lease_put_back(t, ASK(1, u.owner, u.ticket, u.count, &need, "f"), now, &out);
    }
}

static int64_t count_away(const struct world *w, uint64_t ticket)
{
    int64_t n = 0;

    for (unsigned i = 0; i < w->n_away; i++)
        n += w->away[i].ticket == ticket ? w->away[i].count : 0;
    return n;
}

/* What a process of this state could say or do next. */
static void one_process(struct world *w, uint32_t id)
{
    unsigned k = dice(w, 100);

    if (w->process[id] == STARTING) {
        if (k < 15 || w->nothing_starts) {
            process_dies(w, id);
        } else {
            w->process[id] = ALIVE;
            if (!worker_pool_on_registered(w->pool, id - TOKEN, now, &w->pool_out))
                process_dies(w, id);
        }
    } else if (w->process[id] == ALIVE && k < 5 && id >= TOKEN) {
        process_dies(w, id);
    } else if (w->process[id] == ALIVE && w->lease_of[id] != 0 && k < 30) {
        lease_ends(w, id);
    } else if (w->process[id] == ALIVE && w->lease_of[id] != 0 && k < 50) {
        w->blocked[id] = true;
        lease_blocked(t, id, w->lease_of[id], now, &out);
    } else if (w->process[id] == ALIVE && w->lease_of[id] != 0 && k < 70) {
        w->blocked[id] = false;
        lease_unblocked(t, id, w->lease_of[id]);
    } else if (w->process[id] == ALIVE && k < 80 && (id <= DRIVERS || w->lease_of[id] != 0)) {
        ask(w, id);
    } else if (k < 84) { /* foreign and stale words */
        ended(id, w->lease_of[id] + 1 + dice(w, 100));
        lease_unblocked(t, id, dice(w, 100) == 0 ? 0 : w->lease_of[id] + 1);
    }
}

START_TEST(ten_thousand_random_events_keep_each_promise)
{
    static struct world w;
    struct lease_stats stats;

    make(4);
    memset(&w, 0, sizeof w);
    w.seed = 31340 + (unsigned)_i;
    printf("seed %u\n", w.seed);
    w.pool =
        worker_pool_create(&(struct worker_pool_config){.start_limit = 3, .keep = 4, .max = 60});
    w.n_tickets = 1;
    w.n_processes = TOKEN;
    for (uint32_t d = 1; d <= DRIVERS; d++)
        w.process[d] = ALIVE;
    for (int step = 0; step < 10000; step++) {
        unsigned k = dice(&w, 100);
        uint32_t recent = w.n_processes - TOKEN < 80 ? w.n_processes - TOKEN : 80;
        now += dice(&w, 40);
        w.nothing_starts = step / 200 % 10 == 9;
        if (k < 10) {
            ask(&w, 1 + dice(&w, DRIVERS));
        } else if (k < 16) {
            uint32_t ticket = dice(&w, w.n_tickets);
            lease_cancel(t, w.ticket_owner[ticket], ticket, now, &out);
            for (size_t i = 0; i < out.n; i++)
                if (out.v[i].kind == LEASE_CANCELED)
                    ck_assert_int_eq(out.v[i].count, w.owed[ticket] - count_away(&w, ticket));
        } else if (k < 20) {
            lease_return(t, 1 + dice(&w, DRIVERS), dice(&w, 1000), now, &out);
        } else if (k < 30) {
            struct worker_pool_stats pool;
            worker_pool_get_stats(w.pool, &pool);
            lease_on_time(t, pool.n_idle + pool.n_leased, 4, now, &out);
            worker_pool_on_time(w.pool, now, &w.pool_out);
        } else if (k < 36) {
            move_units(&w);
        } else if (recent > 0) {
            one_process(&w, w.n_processes - 1 - dice(&w, recent));
        }
        settle(&w);
    }
    while (w.n_away > 0)
        move_units(&w);
    settle(&w);
    /* nothing is stuck: when nobody dies or asks any more, all that is feasible is answered */
    lease_get_stats(t, 0, &stats);
    for (int round = 0; round < 2000 && stats.n_leased + stats.n_starting > 0; round++) {
        now += 100;
        for (uint32_t id = TOKEN; id < w.n_processes; id++) {
            if (w.process[id] == DEAD || (w.process[id] == ALIVE && w.lease_of[id] == 0))
                continue;
            if (w.process[id] == STARTING) {
                w.process[id] = ALIVE;
                if (!worker_pool_on_registered(w.pool, id - TOKEN, now, &w.pool_out))
                    process_dies(&w, id);
            } else {
                lease_unblocked(t, id, w.lease_of[id]);
                lease_ends(&w, id);
            }
            settle(&w);
        }
        lease_on_time(t, 0, 4, now, &out);
        settle(&w);
        lease_get_stats(t, 0, &stats);
    }
    for (uint32_t k = 1; k < w.n_tickets; k++)
        if (!w.infeasible[k])
            ck_assert_int_eq(w.owed[k], 0);
    for (uint32_t k = 1; k < w.n_tickets; k++)
        lease_cancel(t, w.ticket_owner[k], k, now, &out);
    settle(&w);
    for (uint32_t k = 1; k < w.n_tickets; k++)
        ck_assert_int_eq(w.owed[k], 0);
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_queued + stats.n_starting + stats.n_leased, 0);
    for (unsigned i = 0; i < r.n; i++)
        ck_assert_int_eq(r.available[i], r.total[i]);
    for (int kind = LEASE_START; kind <= LEASE_WARN; kind++)
        ck_assert_msg(w.n_seen[kind] > 0, "action %d never came", kind);
    worker_pool_destroy(w.pool);
    free(w.pool_out.v);
}
END_TEST

/* --- several jobs --- */

START_TEST(a_worker_serves_its_own_job_alone)
{
    request_of(1, A, 1, 1, 1);
    request_of(2, B, 2, 1, 1);
    ck_assert_str_eq(seen(), "start, start of 2");
    ready_of(2, 20);
    ck_assert_str_eq(seen(), "grant 11/2 lease 1 worker 20");
    ready_of(2, 21);
    ck_assert_str_eq(seen(), "release 21"); /* though one of job 1 waits */
    ready_of(1, 10);
    ck_assert_str_eq(seen(), "grant 10/1 lease 2 worker 10");
}
END_TEST

START_TEST(jobs_take_turns_however_many_owners_one_of_them_has)
{
    make(1);
    for (uint32_t owner = 30; owner < 40; owner++)
        request_of(1, owner, 1, 5, 1);
    request_of(2, C, 2, 3, 1);
    ck_assert_str_eq(seen(), "start");
    ready_of(1, 1);
    ck_assert_str_eq(seen(), "grant 30/1 lease 1 worker 1, revoke 1 worker 1 in 500");
    for (uint64_t lease = 1; lease <= 5; lease++) {
        bool second = lease % 2 == 0;
        ended(second ? 2 : 1, lease);
        ck_assert_str_eq(seen(), second ? "release 2, start" : "release 1, start of 2");
        ready_of(second ? 1 : 2, second ? 1 : 2);
        seen();
    }
}
END_TEST

START_TEST(a_job_that_waits_has_leases_of_another_make_way)
{
    request_of(1, A, 1, 10, 1);
    ready_of(1, 1);
    ready_of(1, 2);
    seen();
    request_of(2, C, 2, 1, 2); /* the whole node */
    ck_assert_str_eq(seen(), "revoke 1 worker 1 in 500, revoke 2 worker 2 in 500");
    ended(1, 1);
    ck_assert_str_eq(seen(), "release 1"); /* kept for job 2, though job 1 could use it */
    ended(2, 2);
    ck_assert_str_eq(seen(), "release 2, start of 2");
}
END_TEST

START_TEST(inv_16_starts_that_fail_are_those_of_one_job)
{
    struct lease_stats stats;

    request_of(1, A, 1, 1, 1);
    request_of(2, B, 2, 3, 1);
    ck_assert_str_eq(seen(), "start, start of 2");
    lease_worker_failed(t, 2, "its program is broken", now, &out);
    ck_assert_str_eq(seen(), "refused 11/2 x1, start of 2");
    lease_get_stats(t, 1, &stats);
    ck_assert_uint_eq(stats.n_starting, 1);
    ck_assert_uint_eq(stats.n_queued, 0);
    lease_get_stats(t, 2, &stats);
    ck_assert_uint_eq(stats.n_starting, 1);
    ck_assert_uint_eq(stats.n_queued, 1);
    ready_of(1, 1);
    ck_assert_str_eq(seen(), "grant 10/1 lease 1 worker 1, revoke 1 worker 1 in 500");
    lease_get_stats(t, 0, &stats);
    ck_assert_uint_eq(stats.n_starting + stats.n_queued + stats.n_leased, 3);
    lease_get_stats(t, 2, &stats);
    ck_assert_uint_eq(stats.n_leased, 0);
}
END_TEST

START_TEST(inv_12_a_job_that_ends_leaves_nothing_and_the_next_one_is_told_anew)
{
    request_of(2, B, 1, 1, 99);
    ck_assert_str_eq(seen(), "warn 11");
    request_of(2, B, 2, 1, 99); /* the same class */
    request_of(1, A, 3, 1, 99); /* of another job it is another class */
    ck_assert_str_eq(seen(), "warn 10");
    request_of(2, B, 4, 3, 1);
    ready_of(2, 20);
    ck_assert_str_eq(seen(), "start of 2, start of 2, grant 11/4 lease 1 worker 20");
    lease_owner_died(t, B, now, &out);
    ck_assert_str_eq(seen(), "unstart of 2, revoke 1 worker 20 in 0");
    lease_worker_died(t, 20, now, &out);
    ck_assert_str_eq(seen(), "");
    lease_job_ended(t, 2);
    lease_job_ended(t, 2); /* and one that never asked */
    lease_selfcheck(t);
    ck_assert_int_eq(r.available[0], r.total[0]);
    request_of(2, B, 1, 1, 99);
    ck_assert_str_eq(seen(), "warn 11");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lease");
    TCase *c = tcase_create("lease");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, inv_16_resources_are_taken_before_a_worker_is_asked_for);
    tcase_add_test(c, inv_18_each_unit_of_a_ticket_is_answered_once);
    tcase_add_test(c, inv_18_now_or_not_starts_what_fits_and_rejects_the_rest);
    tcase_add_test(c, inv_18_soon_or_not_waits_for_what_makes_way_and_rejects_the_rest);
    tcase_add_test(c, waiting_units_leave_in_the_order_of_turns_and_promised_ones_stay);
    tcase_add_test(c, what_is_kept_for_a_promise_is_not_for_what_is_to_start_now);
    tcase_add_test(c, owners_share_what_goes_elsewhere_and_take_turns);
    tcase_add_test(c, what_is_put_back_comes_before_what_was_asked_for_later);
    tcase_add_test(c, a_closed_table_starts_nothing_and_gives_all_away);
    tcase_add_test(c, classes_that_can_be_sent_are_shown_whole);
    tcase_add_test(c, each_class_says_what_it_has_and_why_it_waits);
    tcase_add_test(c, what_is_kept_for_another_is_said);
    tcase_add_test(c, lease_numbers_begin_where_they_are_told_to);
    tcase_add_test(c, inv_16_resources_are_freed_on_each_way_out);
    tcase_add_test(c, a_cancel_of_a_ticket_that_is_granted_or_unknown_is_owed_nothing);
    tcase_add_test(c, a_cancel_leaves_other_tickets_and_owners_alone);
    tcase_add_test(c, a_worker_that_comes_after_the_cancel_goes_back_to_the_pool);
    tcase_add_test(c, workers_go_to_the_units_in_the_order_they_were_asked_for);
    tcase_add_test(c, a_request_of_no_units_is_nothing);
    tcase_add_test(c, what_can_never_fit_stays_queued_with_one_warning_that_names_what_is_missing);
    tcase_add_test(c, texts_of_several_warnings_stay_good_side_by_side);
    tcase_add_test(c, among_other_nodes_it_is_said_when_none_was_found_for_a_while);
    tcase_add_test(c, what_fits_here_is_never_said_to_fit_nowhere);
    tcase_add_test(c, what_can_never_fit_revokes_nobody);
    tcase_add_test(c, owners_take_turns_however_much_one_of_them_asks_for);
    tcase_add_test(
        c,
        requests_of_one_owner_are_served_in_their_order_and_what_does_not_fit_is_passed_over);
    tcase_add_test(c, a_unit_that_needs_the_whole_node_is_not_starved_by_small_ones);
    tcase_add_test(c, inv_21_a_promise_is_not_kept_against_others_for_ever);
    tcase_add_test(c, a_class_that_waits_gets_its_turn_though_another_of_the_owner_never_ends);
    tcase_add_test(c, as_many_leases_as_needed_are_revoked_the_oldest_first_and_none_twice);
    tcase_add_test(c, a_lease_that_has_had_its_turn_is_revoked_at_once);
    tcase_add_test(c, only_leases_that_hold_what_is_missing_make_way);
    tcase_add_test(c, nobody_is_revoked_when_it_would_not_help);
    tcase_add_test(c, when_a_body_goes_on_past_its_grace_another_lease_is_revoked);
    tcase_add_test(c, a_return_revokes_at_once_and_only_the_owners_own_lease);
    tcase_add_test(c, a_return_shortens_the_grace_of_a_revoked_lease);
    tcase_add_test(c, inv_11_a_lease_ends_once_whatever_is_said_afterwards);
    tcase_add_test(c, a_death_frees_what_the_worker_held_for_those_that_wait);
    tcase_add_test(c, inv_12_requests_and_leases_of_a_dead_owner_are_dropped);
    tcase_add_test(c, inv_7_a_body_that_runs_for_a_dead_owner_is_killed_once_when_grace_is_over);
    tcase_add_test(c, inv_12_units_that_start_for_an_owner_that_dies_give_their_worker_back);
    tcase_add_test(c, inv_20_blocked_is_a_strict_toggle_of_the_lease);
    tcase_add_test(c, inv_20_a_blocked_lease_that_ends_or_dies_frees_its_cpu_once);
    tcase_add_test(c, a_blocked_lease_keeps_all_but_its_cpu);
    tcase_add_test(c, inv_19_nothing_that_wants_cpu_starts_while_it_is_below_zero);
    tcase_add_test(c, a_blocked_lease_is_not_asked_to_make_way);
    tcase_add_test(c, inv_21_calls_nested_fifty_deep_finish_on_two_cpus);
    tcase_add_test(c, a_surplus_of_workers_ends_as_many_leases_when_they_are_idle);
    tcase_add_test(c, one_that_was_asked_to_end_when_idle_can_still_be_made_to_make_way);
    tcase_add_test(c, there_is_no_surplus_while_something_waits_or_workers_are_blocked);
    tcase_add_test(c, the_next_deadline_lies_ahead_of_the_time_it_was_reached);
    tcase_add_test(c, leases_that_nobody_else_wants_need_no_time);
    tcase_add_test(c, a_worker_serves_its_own_job_alone);
    tcase_add_test(c, jobs_take_turns_however_many_owners_one_of_them_has);
    tcase_add_test(c, a_job_that_waits_has_leases_of_another_make_way);
    tcase_add_test(c, inv_16_starts_that_fail_are_those_of_one_job);
    tcase_add_test(c, inv_12_a_job_that_ends_leaves_nothing_and_the_next_one_is_told_anew);
    tcase_add_loop_test(c, ten_thousand_random_events_keep_each_promise, 0, 4);
    suite_add_tcase(s, c);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
