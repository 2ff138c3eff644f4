/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/submit.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core.h"

#define US        1000ull
#define MS        1000000ull
#define MAX_UNITS 10

static struct ref_table *refs;
static struct submit *s;
static struct submit_actions out;
static uint64_t counter, now;
static uint32_t class;

static void setup(void)
{
    refs = ref_table_create();
    s = submit_create(MAX_UNITS);
    memset(&out, 0, sizeof out);
    counter = 0;
    now = 1000 * MS;
    class = submit_add_class(s);
}

/* Forget the actions; leases that ended go. */
static void clear(void)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == SUBMIT_END)
            submit_forget(s, out.v[i].lease);
    out.n = 0;
}

static void teardown(void)
{
    submit_selfcheck(s);
    clear();
    submit_destroy(s);
    free(out.v);
    ref_table_destroy(refs);
}

static struct record *task_of(uint32_t in_class, int retries, uint32_t bytes)
{
    struct record *r = ref_table_new(refs);

    r->class = in_class;
    r->counter = ++counter;
    r->u.task.retries_left = retries;
    r->u.task.spec = ref_table_alloc(refs, bytes);
    r->u.task.spec_size = bytes;
    return r;
}

static struct record *submit_one(void)
{
    struct record *r = task_of(class, 3, 32);

    submit_task(s, r, now, &out);
    submit_selfcheck(s);
    return r;
}

static void settle(void)
{
    submit_settle(s, now, &out);
    submit_selfcheck(s);
}

/* How many actions of the kind wait; *last is the last of them. */
static unsigned count(enum submit_kind kind, struct submit_action *last)
{
    unsigned n = 0;

    if (last != NULL)
        memset(last, 0, sizeof *last);
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == kind) {
            n++;
            if (last != NULL)
                *last = out.v[i];
        }
    return n;
}

static struct submit_lease *grant(uint64_t ticket, uint64_t lease)
{
    struct submit_lease *l = submit_on_grant(s, ticket, lease, NULL, 0, now, &out);

    submit_selfcheck(s);
    return l;
}

static void done(struct submit_lease *l, const struct record *task, uint64_t run_ns)
{
    ck_assert_ptr_eq(submit_on_done(s, l, task->u.task.window_slot, (uint32_t)run_ns, now), task);
    submit_refill(s, l->class, now, &out);
    submit_selfcheck(s);
}

/* A lease, idle, of a class whose tasks take run_ns. */
static struct submit_lease *idle_lease(uint64_t lease, uint64_t run_ns)
{
    struct submit_action a;
    struct record *r = submit_one();

    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    struct submit_lease *l = grant(a.ticket, lease);
    done(l, r, run_ns);
    clear();
    return l;
}

/* A second one beside busy tasks that fill the first, which are done afterwards. */
static struct submit_lease *second_idle_lease(struct submit_lease *first, uint64_t lease)
{
    struct record *v[2] = {submit_one(), submit_one()};
    struct submit_action a;

    settle();
    ck_assert_uint_ge(count(SUBMIT_REQUEST, &a), 1);
    struct submit_lease *l = grant(a.ticket, lease);
    for (int i = 0; i < 2; i++)
        if (v[i]->u.task.lease == NULL || v[i]->u.task.lease == first)
            done(first, v[i], submit_run_ns(s, class));
        else
            done(l, v[i], submit_run_ns(s, class));
    clear();
    return l;
}

START_TEST(a_first_task_asks_for_one_lease_and_is_pushed_when_it_comes)
{
    struct submit_action a;
    struct record *r = submit_one();

    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    ck_assert_uint_eq(a.count, 1);
    ck_assert_uint_eq(a.class, class);
    clear();
    settle();
    ck_assert_uint_eq(out.n, 0);
    struct submit_lease *l = grant(a.ticket, 77);
    ck_assert_uint_eq(count(SUBMIT_PUSH, &a), 1);
    ck_assert_ptr_eq(a.task, r);
    ck_assert_ptr_eq(a.lease, l);
    ck_assert_uint_eq(a.count, 1); /* phase of a fresh slot */
    ck_assert_ptr_eq(submit_find(s, 77), l);
}
END_TEST

START_TEST(a_synchronous_task_on_an_idle_lease_costs_no_lease_traffic)
{
    struct submit_lease *l = idle_lease(1, 5 * US);

    for (int i = 0; i < 100; i++) {
        struct record *r = submit_one();
        settle();
        ck_assert_uint_eq(out.n, 1);
        ck_assert_int_eq(out.v[0].kind, SUBMIT_PUSH);
        clear();
        done(l, r, 5 * US);
        settle();
        ck_assert_uint_eq(out.n, 0);
        now += 10 * MS;
    }
}
END_TEST

START_TEST(a_slot_used_again_has_the_other_phase)
{
    struct submit_lease *l = idle_lease(1, US);
    struct submit_action a;

    for (unsigned i = 0; i < 4; i++) {
        struct record *r = submit_one();
        count(SUBMIT_PUSH, &a);
        ck_assert_uint_eq(a.count, i % 2);
        clear();
        done(l, r, US);
    }
    /* a task that came back had not started: no flip */
    struct record *r = submit_one();
    count(SUBMIT_PUSH, &a);
    unsigned phase = a.count;
    clear();
    submit_on_bounced(s, l, r->u.task.window_slot, false, now, &out);
    ck_assert_uint_eq(count(SUBMIT_PUSH, &a), 1);
    ck_assert_uint_eq(a.count, phase);
}
END_TEST

START_TEST(units_asked_for_follow_demand_up_to_the_bound)
{
    unsigned asked = 0;

    for (int i = 0; i < 4; i++)
        submit_one();
    settle();
    for (size_t i = 0; i < out.n; i++)
        asked += out.v[i].kind == SUBMIT_REQUEST ? out.v[i].count : 0;
    ck_assert_uint_eq(asked, 4);
    for (int i = 0; i < 100; i++)
        submit_one();
    settle();
    asked = 0;
    for (size_t i = 0; i < out.n; i++)
        asked += out.v[i].kind == SUBMIT_REQUEST ? out.v[i].count : 0;
    ck_assert_uint_eq(asked, MAX_UNITS);
}
END_TEST

START_TEST(one_task_goes_ahead_while_nothing_is_known)
{
    struct submit_action a;

    for (int i = 0; i < 10; i++)
        submit_one();
    count(SUBMIT_REQUEST, &a);
    clear();
    struct submit_lease *l = grant(a.ticket, 1);
    ck_assert_uint_eq(l->n_in_window, 1);
}
END_TEST

START_TEST(a_window_holds_about_a_millisecond_of_work)
{
    static const struct {
        uint64_t run_ns;
        unsigned window;
    } cases[] = {{100, 64}, {10 * US, 64}, {100 * US, 11}, {400 * US, 3}, {2 * MS, 1}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        class = submit_add_class(s);
        struct submit_lease *l = idle_lease(100 + i, cases[i].run_ns);
        for (int k = 0; k < 100; k++)
            submit_one();
        ck_assert_uint_eq(l->n_in_window, cases[i].window);
        clear();
    }
}
END_TEST

START_TEST(a_window_holds_a_mebibyte_of_arguments_or_one_task)
{
    struct submit_lease *l = idle_lease(1, 100);

    for (int k = 0; k < 10; k++)
        submit_task(s, task_of(class, 0, 300 << 10), now, &out);
    ck_assert_uint_eq(l->n_in_window, 3);
    submit_selfcheck(s);
    class = submit_add_class(s);
    l = (clear(), idle_lease(2, 100));
    submit_task(s, task_of(class, 0, 5 << 20), now, &out);
    ck_assert_uint_eq(l->n_in_window, 1);
    submit_one();
    ck_assert_uint_eq(l->n_in_window, 1);
    submit_selfcheck(s);
}
END_TEST

START_TEST(values_of_ref_arguments_count_in_the_window)
{
    static uint8_t value[300 << 10];
    struct submit_lease *l = idle_lease(1, 100);
    struct record *arg = ref_table_new(refs);

    ref_table_set(refs, arg, WIRE_META_RAW, value, sizeof value);
    for (int i = 0; i < 10; i++) {
        struct record *r = task_of(class, 0, 16);
        r->u.task.n_deps = 1;
        submit_on_argument(s, r, arg, now, &out);
    }
    ck_assert_uint_eq(l->n_in_window, 3);
    submit_selfcheck(s);
}
END_TEST

START_TEST(long_tasks_shrink_the_window_at_once)
{
    struct submit_lease *l = idle_lease(1, 100);
    struct record *r = submit_one();

    done(l, r, 100 * MS);
    clear();
    for (int i = 0; i < 5; i++)
        submit_one();
    ck_assert_uint_eq(l->n_in_window, 1);
}
END_TEST

START_TEST(tasks_go_to_idle_workers_first_and_then_in_equal_shares)
{
    struct submit_lease *a = idle_lease(1, US), *b = second_idle_lease(a, 2);

    for (int i = 0; i < 20; i++) {
        submit_one();
        unsigned x = a->n_in_window, y = b->n_in_window;
        ck_assert_uint_le(x > y ? x - y : y - x, 1);
    }
}
END_TEST

START_TEST(tickets_are_canceled_only_when_the_class_has_no_task)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *v[20];

    for (int burst = 0; burst < 5; burst++) {
        for (int i = 0; i < 20; i++)
            v[i] = submit_one();
        settle();
        ck_assert_uint_le(count(SUBMIT_REQUEST, NULL), burst == 0 ? 2 : 0);
        for (int i = 0; i < 19; i++) {
            done(l, v[i], US);
            settle();
        }
        ck_assert_uint_eq(count(SUBMIT_CANCEL, NULL), 0);
        clear();
        if (burst < 4)
            done(l, v[19], US); /* the next burst begins before anybody sleeps */
    }
    done(l, v[19], US);
    settle();
    ck_assert_uint_ge(count(SUBMIT_CANCEL, NULL), 1);
    clear();
    settle();
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(new_work_after_a_cancel_asks_again_once_the_cancel_is_answered)
{
    struct submit_action a, again;
    struct submit_lease *l = idle_lease(1, US);
    struct record *x = submit_one(), *y = submit_one();

    count(SUBMIT_REQUEST, &a);
    clear();
    done(l, x, US);
    done(l, y, US);
    settle();
    ck_assert_uint_eq(count(SUBMIT_CANCEL, &again), 1);
    ck_assert_uint_eq(again.ticket, a.ticket);
    clear();
    submit_one();
    submit_one();
    settle();
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 0);
    submit_on_canceled(s, a.ticket, 1, now, &out);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &again), 1);
    ck_assert_uint_ne(again.ticket, a.ticket);
}
END_TEST

START_TEST(inv_11_a_grant_nobody_needs_is_returned_and_ends_by_its_worker)
{
    struct submit_action a;
    struct submit_lease *l = idle_lease(1, US);
    struct record *x = submit_one(), *y = submit_one();

    count(SUBMIT_REQUEST, &a);
    clear();
    done(l, x, US);
    done(l, y, US);
    settle();
    clear();
    struct submit_lease *late = grant(a.ticket, 2); /* crossed the cancel */
    ck_assert_uint_eq(count(SUBMIT_RETURN, &a), 1);
    ck_assert_uint_eq(a.ticket, 2);
    clear();
    submit_one();
    ck_assert_ptr_eq(out.v[0].lease, l); /* not to the one given back */
    clear();
    submit_on_lease_ended(s, late, now, &out);
    ck_assert_uint_eq(count(SUBMIT_END, NULL), 1);
    clear();
    ck_assert_ptr_null(submit_find(s, 2));
}
END_TEST

START_TEST(an_idle_lease_lingers_and_goes_back)
{
    struct submit_action a;

    submit_set_linger(s, 500 * MS);
    struct submit_lease *l = idle_lease(1, 10 * MS);
    uint64_t idle_at = now;
    settle();
    ck_assert_uint_eq(submit_next_deadline(s), idle_at + 500 * MS);
    now += 400 * MS; /* used meanwhile: it lingers from then on */
    struct record *r = submit_one();
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 1);
    now += 50 * MS;
    done(l, r, 10 * MS);
    now = idle_at + 500 * MS;
    settle();
    ck_assert_uint_eq(count(SUBMIT_RETURN, NULL), 0);
    ck_assert_uint_eq(submit_next_deadline(s), idle_at + 950 * MS);
    now = idle_at + 950 * MS;
    settle();
    ck_assert_uint_eq(count(SUBMIT_RETURN, &a), 1);
    ck_assert_uint_eq(a.ticket, 1);
    settle();
    ck_assert_uint_eq(submit_next_deadline(s), UINT64_MAX);
    clear();
    submit_one(); /* nothing more goes there */
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 0);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 1);
    submit_on_lease_ended(s, l, now, &out);
    submit_selfcheck(s);
}
END_TEST

/* --- near their arguments --- */

static struct record *submit_near(uint32_t node, uint8_t log2)
{
    struct record *r = task_of(class, 3, 32);

    r->u.task.node = node;
    r->u.task.near_log2 = log2;
    submit_task(s, r, now, &out);
    submit_selfcheck(s);
    return r;
}

static struct submit_lease *grant_at(uint32_t node, uint64_t ticket, uint64_t lease)
{
    struct submit_lease *l = submit_on_grant(s, ticket, lease, NULL, node, now, &out);

    submit_selfcheck(s);
    return l;
}

/* The task that was pushed last, or NULL; the actions are forgotten. */
static const struct record *pushed(void)
{
    struct submit_action a;
    const struct record *r = count(SUBMIT_PUSH, &a) > 0 ? a.task : NULL;

    clear();
    return r;
}

START_TEST(leases_are_asked_for_where_the_arguments_lie)
{
    struct submit_action a;

    submit_near(7, 23);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    ck_assert_uint_eq(a.node, 7);
    clear();
    submit_near(7, 23);
    submit_near(8, 23);
    submit_near(8, 23);
    submit_one();
    settle();
    unsigned n_near[9] = {0};
    for (size_t i = 0; i < out.n; i++)
        if (out.v[i].kind == SUBMIT_REQUEST)
            n_near[out.v[i].node] += out.v[i].count;
    ck_assert_uint_eq(n_near[7], 1);
    ck_assert_uint_eq(n_near[8], 2);
    ck_assert_uint_eq(n_near[0], 1);
    clear();
    settle(); /* for all of them */
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 0);
}
END_TEST

START_TEST(a_lease_takes_what_is_near_it_first)
{
    struct submit_action a;

    submit_one();
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    struct record *near = submit_near(7, 23);
    clear();
    ck_assert_ptr_nonnull(grant_at(7, a.ticket, 1));
    ck_assert_ptr_eq(pushed(), near);
}
END_TEST

START_TEST(those_near_one_node_do_not_keep_others_waiting_for_ever)
{
    struct submit_action a;
    struct record *old = submit_one();
    unsigned n = 0;

    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    for (int i = 0; i < 30; i++)
        submit_near(7, 23);
    clear();
    struct submit_lease *l = grant_at(7, a.ticket, 1);
    for (const struct record *r = pushed(); r != old; r = pushed(), n++) {
        ck_assert_uint_lt(n, 30);
        done(l, r, 10 * MS);
    }
    ck_assert_uint_gt(n, 2);
}
END_TEST

START_TEST(an_idle_worker_elsewhere_gets_it_when_its_bytes_could_have_come)
{
    struct submit_action a;
    struct record *near = submit_near(7, 23);

    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    clear();
    ck_assert_ptr_nonnull(grant_at(1, a.ticket, 1));
    ck_assert_ptr_null(pushed());
    ck_assert_uint_eq(submit_next_deadline(s), now + (1u << 23));
    now += (1u << 23) - 1;
    settle();
    ck_assert_ptr_null(pushed());
    now++;
    settle();
    ck_assert_ptr_eq(pushed(), near);
}
END_TEST

START_TEST(what_waits_long_enough_without_a_worker_near_passes_younger_ones)
{
    struct submit_action a;
    struct record *near = submit_near(7, 10);

    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    now += MS;
    submit_one();
    clear();
    ck_assert_ptr_nonnull(grant_at(1, a.ticket, 1));
    ck_assert_ptr_eq(pushed(), near);
}
END_TEST

START_TEST(idle_leases_of_other_classes_make_room_near)
{
    struct submit_action a, back;
    uint32_t first = class;

    submit_set_linger(s, 500 * MS);
    for (uint64_t i = 1; i <= 3; i++) { /* two at node 7, one at 8 */
        struct record *r = submit_one();
        ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
        clear();
        struct submit_lease *l = grant_at(i < 3 ? 7 : 8, a.ticket, i);
        if (i < 3)
            continue;
        clear();
        done(l, r, 10 * MS);
    }
    class = submit_add_class(s);
    clear();
    submit_near(8, 23);
    ck_assert_uint_eq(count(SUBMIT_RETURN, &back), 1);
    ck_assert_uint_eq(back.ticket, 3);
    ck_assert_int_eq(out.v[0].kind, SUBMIT_RETURN); /* before what it is for */
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    clear();
    submit_near(7, 23); /* those there are busy */
    ck_assert_uint_eq(count(SUBMIT_RETURN, NULL), 0);
    class = first;
}
END_TEST

START_TEST(idle_leases_go_back_sooner_while_another_class_waits)
{
    struct submit_action a;

    submit_set_linger(s, 500 * MS);
    struct submit_lease *l = idle_lease(1, 10 * MS);
    class = submit_add_class(s);
    submit_one();
    clear();
    ck_assert_uint_lt(submit_next_deadline(s), now + 10 * MS);
    now += 10 * MS;
    settle();
    ck_assert_uint_eq(count(SUBMIT_RETURN, &a), 1);
    ck_assert_uint_eq(a.ticket, l->id);
}
END_TEST

START_TEST(a_task_behind_others_only_queues)
{
    struct submit_action a;

    ck_assert(!submit_only_queues(s, class));
    submit_one();
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    clear();
    ck_assert(submit_only_queues(s, class));
    submit_one();
    ck_assert_uint_eq(out.n, 0);
    grant(a.ticket, 1); /* one goes there, the other waits, but no unit is asked for */
    ck_assert(!submit_only_queues(s, class));
    clear();
    settle();
    ck_assert(submit_only_queues(s, class));
    clear();
    submit_one();
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(leases_that_come_and_go_allocate_nothing)
{
    submit_on_lease_ended(s, idle_lease(1, US), now, &out);
    clear();
    unsigned long before = alloc_count();
    for (uint64_t i = 2; i < 100; i++) {
        struct submit_lease *l = idle_lease(i, US);
        ck_assert_uint_eq(l->phases, UINT64_MAX - 1); /* as of a new one: slot 0 was used once */
        submit_on_lease_ended(s, l, now, &out);
        clear();
    }
    ck_assert_uint_eq(alloc_count(), before);
}
END_TEST

START_TEST(inv_18_answers_to_unknown_tickets_change_nothing)
{
    struct submit_action a;

    ck_assert_ptr_null(grant(12345, 9));
    ck_assert_uint_eq(count(SUBMIT_RETURN, &a), 1);
    ck_assert_uint_eq(a.ticket, 9);
    clear();
    submit_on_canceled(s, 12345, 1, now, &out);
    ck_assert_uint_eq(submit_on_refused(s, 12345, 1, &out), 0);
    submit_on_busy(s, 12345, 1, now, &out);
    submit_one();
    count(SUBMIT_REQUEST, &a);
    clear();
    submit_on_canceled(s, a.ticket, 1000, now, &out); /* more than were asked for */
    submit_selfcheck(s);
    ck_assert_ptr_null(submit_on_grant(s, a.ticket, 10, NULL, 0, now, &out));
}
END_TEST

START_TEST(inv_11_a_lease_that_ended_before_its_grant_came_is_not_kept)
{
    struct submit_action a, again;
    struct submit_stats st;

    submit_one();
    submit_one();
    settle();
    ck_assert_uint_ge(count(SUBMIT_REQUEST, &a), 1);
    clear();
    submit_on_unknown_lease_ended(s, 12);
    submit_on_unknown_lease_ended(s, 11);
    ck_assert_ptr_null(grant(a.ticket, 11));
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 0);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &again), 1); /* the tasks still wait */
    clear();
    ck_assert_ptr_null(grant(again.ticket, 12));
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &again), 1);
    clear();
    struct submit_lease *l = grant(again.ticket, 13);
    ck_assert_ptr_nonnull(l);
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 1);
    submit_on_unknown_lease_ended(s, 12); /* long over */
    submit_get_stats(s, &st);
    ck_assert_uint_eq(st.n_leases, 1);
}
END_TEST

START_TEST(a_class_that_can_have_no_worker_fails_what_is_queued)
{
    struct submit_action a;

    for (int i = 0; i < 3; i++)
        submit_one();
    settle();
    for (size_t i = 0, n = out.n; i < n; i++)
        if (out.v[i].kind == SUBMIT_REQUEST)
            submit_on_refused(s, out.v[i].ticket, out.v[i].count, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_FAIL, &a), 3);
    ck_assert_uint_eq(a.class, CORE_ECRASH);
    clear();
    settle();
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(inv_24_one_refused_unit_does_not_fail_tasks_that_another_may_run)
{
    struct submit_action a;

    submit_one();
    count(SUBMIT_REQUEST, &a);
    uint64_t first = a.ticket;
    submit_one();
    submit_one();
    clear();
    settle();
    ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
    clear();
    ck_assert_uint_eq(submit_on_refused(s, first, 1, &out), 0);
    settle();
    ck_assert_uint_eq(out.n, 0); /* waits for the others, asks for no more */
    grant(a.ticket, 5);
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 1);
    ck_assert_uint_eq(count(SUBMIT_FAIL, NULL), 0);
}
END_TEST

START_TEST(a_refusal_beside_a_working_lease_is_asked_again_after_a_pause)
{
    struct submit_action a;
    struct submit_lease *l = idle_lease(1, 2 * MS);

    ck_assert_ptr_nonnull(l);
    submit_one();
    submit_one();
    count(SUBMIT_REQUEST, &a);
    clear();
    ck_assert_uint_eq(submit_on_refused(s, a.ticket, a.count, &out), 0);
    for (int i = 0; i < 10; i++)
        settle();
    ck_assert_uint_eq(out.n, 0);
    now = submit_next_deadline(s);
    ck_assert_uint_lt(now, 2000 * MS);
    settle();
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 1);
}
END_TEST

START_TEST(a_busy_raylet_is_asked_again_after_pauses_that_double)
{
    struct submit_action a;
    uint64_t last = 0;

    submit_one();
    for (int i = 0; i < 5; i++) {
        ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
        clear();
        submit_on_busy(s, a.ticket, 1, now, &out);
        ck_assert_uint_eq(out.n, 0);
        uint64_t at = submit_next_deadline(s);
        ck_assert_uint_ge(at - now, last == 0 ? SUBMIT_PAUSE_NS : 2 * last);
        last = at - now;
        now = at - 1;
        settle();
        ck_assert_uint_eq(out.n, 0);
        now = at;
        settle();
    }
    ck_assert_uint_eq(submit_next_deadline(s), UINT64_MAX);
}
END_TEST

START_TEST(an_idle_worker_gets_what_waits_behind_a_silent_one)
{
    struct submit_action a;
    struct submit_lease *x = idle_lease(1, 10 * US), *y = second_idle_lease(x, 2);
    struct record *v[6];

    for (int i = 0; i < 6; i++)
        v[i] = submit_one();
    clear();
    for (int i = 0; i < 6; i++)
        if (v[i]->u.task.lease == y)
            done(y, v[i], 10 * US);
    settle();
    ck_assert_uint_eq(count(SUBMIT_TAKE_BACK, NULL), 0); /* it may answer any moment */
    uint64_t at = submit_next_deadline(s);
    ck_assert_uint_eq(at, now + SUBMIT_STALL_NS);
    now = at;
    settle();
    ck_assert_uint_eq(count(SUBMIT_TAKE_BACK, &a), 1);
    ck_assert_ptr_eq(a.lease, x);
    ck_assert_uint_eq(a.count, 1);
    clear();
    now += MS;
    settle();
    ck_assert_uint_eq(count(SUBMIT_TAKE_BACK, NULL), 0); /* never two unanswered */
    const struct record *last = x->window[63 - __builtin_clzll(x->busy)];
    submit_on_returned(s, x, 1ull << last->u.task.window_slot, true, now, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_PUSH, &a), 1);
    ck_assert_ptr_eq(a.task, last);
    ck_assert_ptr_eq(a.lease, y);
}
END_TEST

START_TEST(four_tasks_that_wait_for_each_other_get_four_workers)
{
    struct submit_action a;
    struct submit_lease *l = idle_lease(1, US); /* so far all were short: windows are long */
    struct record *v[4];

    for (int i = 0; i < 4; i++)
        v[i] = submit_one();
    settle();
    ck_assert_uint_eq(l->n_in_window, 4);
    unsigned asked = 0;
    uint64_t tickets[8];
    for (size_t i = 0; i < out.n; i++)
        for (unsigned k = 0; out.v[i].kind == SUBMIT_REQUEST && k < out.v[i].count; k++)
            tickets[asked++] = out.v[i].ticket;
    ck_assert_uint_eq(asked, 3);
    clear();
    for (uint64_t i = 0; i < 3; i++)
        grant(tickets[i], 2 + i);
    clear();
    now += MS;
    settle();
    ck_assert_uint_eq(count(SUBMIT_TAKE_BACK, &a), 1);
    ck_assert_uint_eq(a.count, 3);
    submit_on_returned(s, l, l->busy & ~(1ull << v[0]->u.task.window_slot), true, now, &out);
    submit_selfcheck(s);
    for (uint64_t id = 1; id <= 4; id++)
        ck_assert_uint_eq(submit_find(s, id)->n_in_window, 1);
}
END_TEST

START_TEST(a_take_back_that_brings_nothing_is_not_repeated_at_once)
{
    struct submit_lease *x = idle_lease(1, 10 * US), *y = second_idle_lease(x, 2);
    struct record *v[6];

    for (int i = 0; i < 6; i++)
        v[i] = submit_one();
    for (int i = 0; i < 6; i++)
        if (v[i]->u.task.lease == y)
            done(y, v[i], 10 * US);
    now += MS;
    settle();
    clear();
    submit_on_returned(s, x, 0, true, now, &out);
    settle();
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(what_comes_back_goes_in_front_in_the_order_of_submission)
{
    struct submit_lease *l = idle_lease(1, US);
    struct submit_action a;

    for (int i = 0; i < 100; i++)
        submit_one();
    clear();
    uint64_t first = 2;                                          /* idle_lease took number 1 */
    submit_on_returned(s, l, l->busy & ~1ull, false, now, &out); /* it blocks */
    submit_selfcheck(s);
    ck_assert_uint_eq(l->n_in_window, 1);
    struct record *running = l->window[0];
    first = running->counter;
    clear();
    done(l, running, US);
    uint64_t next = 0;
    for (size_t i = 0; i < out.n; i++) {
        a = out.v[i];
        if (a.kind != SUBMIT_PUSH)
            continue;
        ck_assert_uint_gt(a.task->counter, next);
        next = a.task->counter;
        ck_assert_uint_ne(next, first);
    }
    ck_assert_uint_eq(next, 66);
}
END_TEST

START_TEST(a_blocked_worker_gets_nothing_until_it_answers)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *r = submit_one();

    clear();
    submit_on_returned(s, l, 0, false, now, &out);
    submit_one();
    settle();
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 0);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 1); /* a nested task needs a worker of its own */
    clear();
    done(l, r, US);
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 1);
}
END_TEST

START_TEST(what_is_in_the_window_of_an_ended_lease_costs_no_attempt)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *v[3] = {submit_one(), submit_one(), submit_one()};
    struct submit_action a;

    clear();
    submit_on_lease_ended(s, l, now, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_END, &a), 1);
    ck_assert_ptr_eq(a.lease, l);
    clear();
    settle();
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(v[i]->u.task.retries_left, 3);
        ck_assert_uint_eq(v[i]->u.task.attempt, 0);
        ck_assert_ptr_null(v[i]->u.task.lease);
    }
}
END_TEST

START_TEST(exactly_the_started_tasks_of_a_dead_worker_spend_an_attempt)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *v[5];
    uint64_t started = 0; /* slot 0 ran once: its bit is 1 and its phase now 0 */

    started |= 1;
    for (int i = 0; i < 5; i++) {
        v[i] = task_of(class, i == 1 ? 0 : i == 2 ? -1 : 3, 32);
        submit_task(s, v[i], now, &out);
    }
    clear();
    for (int i = 0; i < 3; i++) { /* the worker starts three */
        uint64_t bit = 1ull << v[i]->u.task.window_slot;
        started = (started & ~bit) | (l->phases & bit);
    }
    struct submit_action a;
    submit_on_worker_dead(s, l, started, now, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_FAIL, &a), 1);
    ck_assert_ptr_eq(a.task, v[1]);
    ck_assert_uint_eq(a.class, CORE_ECRASH);
    ck_assert_int_eq(v[0]->u.task.retries_left, 2);
    ck_assert_uint_eq(v[0]->u.task.attempt, 1);
    ck_assert_int_eq(v[2]->u.task.retries_left, -1);
    ck_assert_uint_eq(v[2]->u.task.attempt, 1);
    for (int i = 3; i < 5; i++) {
        ck_assert_int_eq(v[i]->u.task.retries_left, 3);
        ck_assert_uint_eq(v[i]->u.task.attempt, 0);
    }
    struct submit_stats st;
    submit_get_stats(s, &st);
    ck_assert_uint_eq(st.n_queued, 4);
    ck_assert_uint_eq(st.n_leases, 0);
    ck_assert_uint_ge(st.n_units, 1);
}
END_TEST

START_TEST(inv_24_a_death_whose_mask_is_unknown_costs_no_attempt)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *r = task_of(class, 0, 32);

    submit_task(s, r, now, &out);
    clear();
    submit_on_worker_dead(s, l, ~l->phases, now, &out);
    ck_assert_uint_eq(count(SUBMIT_FAIL, NULL), 0);
    ck_assert_uint_eq(r->u.task.attempt, 0);
}
END_TEST

START_TEST(a_task_that_kills_its_workers_fails_after_its_retries)
{
    struct record *r = submit_one();
    struct submit_action a;
    int deaths = 0;

    for (;; deaths++) {
        if (count(SUBMIT_FAIL, &a) > 0)
            break;
        ck_assert_uint_eq(count(SUBMIT_REQUEST, &a), 1);
        clear();
        struct submit_lease *l = grant(a.ticket, 10 + (uint64_t)deaths);
        ck_assert_uint_eq(r->u.task.attempt, deaths);
        clear();
        submit_on_worker_dead(s, l, l->phases, now, &out);
    }
    ck_assert_int_eq(deaths, 4);
    ck_assert_ptr_eq(a.task, r);
}
END_TEST

START_TEST(bounced_tasks_go_elsewhere_and_nothing_more_to_a_lease_that_is_over)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *r = submit_one();

    clear();
    submit_on_bounced(s, l, r->u.task.window_slot, true, now, &out);
    submit_on_bounced(s, l, 64, true, now, &out);
    submit_on_bounced(s, l, 7, true, now, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 0);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 1);
    ck_assert_uint_eq(r->u.task.attempt, 0);
}
END_TEST

START_TEST(malformed_answers_of_a_worker_change_nothing)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *r = submit_one();

    clear();
    ck_assert_ptr_null(submit_on_done(s, l, 64, 1, now));
    ck_assert_ptr_null(submit_on_done(s, l, 255, 1, now));
    ck_assert_ptr_null(submit_on_done(s, l, (r->u.task.window_slot + 1u) % 64, 1, now));
    submit_on_returned(s, l, ~(1ull << r->u.task.window_slot), true, now, &out);
    submit_selfcheck(s);
    ck_assert_ptr_eq(r->u.task.lease, l);
    done(l, r, US);
    ck_assert_ptr_null(submit_on_done(s, l, 0, 1, now)); /* twice */
}
END_TEST

START_TEST(inv_17_a_task_waits_for_all_its_arguments)
{
    struct submit_lease *l = idle_lease(1, US);
    struct record *x = ref_table_new(refs), *y = ref_table_new(refs), *r = task_of(class, 3, 32);

    r->u.task.n_deps = 2;
    ref_table_set(refs, x, WIRE_META_RAW, "x", 1);
    submit_on_argument(s, r, x, now, &out);
    ck_assert_uint_eq(out.n, 0);
    ref_table_set(refs, y, WIRE_META_RAW, "y", 1);
    submit_on_argument(s, r, y, now, &out);
    ck_assert_uint_eq(count(SUBMIT_PUSH, NULL), 1);
    ck_assert_ptr_eq(r->u.task.lease, l);
}
END_TEST

START_TEST(inv_15_an_argument_that_is_an_error_fails_the_task_without_running)
{
    struct submit_action a;
    struct record *x = ref_table_new(refs), *y = ref_table_new(refs), *r = task_of(class, 3, 32);

    r->u.task.n_deps = 2;
    ref_table_set(refs, x, WIRE_META_ERROR, "x", 1);
    submit_on_argument(s, r, x, now, &out);
    ck_assert_uint_eq(out.n, 0); /* y may still point to the task */
    ref_table_set(refs, y, WIRE_META_ERROR, "y", 1);
    submit_on_argument(s, r, y, now, &out);
    ck_assert_uint_eq(out.n, 1);
    ck_assert_uint_eq(count(SUBMIT_FAIL, &a), 1);
    ck_assert_uint_eq(a.cause, x->slot);
}
END_TEST

START_TEST(inv_33_a_lost_raylet_fails_everything_pending_and_all_that_comes)
{
    struct submit_lease *l = idle_lease(1, 10 * MS);
    struct submit_action a;

    ck_assert_ptr_nonnull(l);
    for (int i = 0; i < 50; i++)
        submit_one();
    class = submit_add_class(s);
    submit_one();
    clear();
    submit_on_raylet_lost(s, &out);
    submit_selfcheck(s);
    ck_assert_uint_eq(count(SUBMIT_FAIL, &a), 51);
    ck_assert_uint_eq(a.class, CORE_ELINK);
    ck_assert_uint_eq(count(SUBMIT_END, NULL), 1); /* INV-12 */
    clear();
    submit_one();
    ck_assert_uint_eq(count(SUBMIT_FAIL, &a), 1);
    ck_assert_uint_eq(a.class, CORE_ELINK);
    clear();
    settle();
    submit_on_raylet_lost(s, &out);
    ck_assert_uint_eq(out.n, 0);
    ck_assert_uint_eq(submit_next_deadline(s), UINT64_MAX);
}
END_TEST

START_TEST(classes_do_not_share_leases)
{
    struct submit_lease *l = idle_lease(1, US);

    class = submit_add_class(s);
    submit_one();
    ck_assert_uint_eq(l->n_in_window, 0);
    ck_assert_uint_eq(count(SUBMIT_REQUEST, NULL), 1);
}
END_TEST

START_TEST(warm_work_allocates_nothing)
{
    struct submit_lease *l = idle_lease(1, US);
    unsigned long before = 0;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 10000; i++) {
            struct record *r = submit_one();
            uint8_t *spec = r->u.task.spec;
            ck_assert_ptr_eq(submit_on_done(s, l, r->u.task.window_slot, 500, now), r);
            submit_refill(s, class, now, &out);
            out.n = 0;
            ck_assert(ref_table_set(refs, r, WIRE_META_RAW, "v", 1));
            ref_table_free(refs, spec, 32);
            ref_table_drop(refs, r);
        }
        if (round == 2)
            ck_assert_uint_eq(alloc_count(), before);
        before = alloc_count();
    }
}
END_TEST

/* --- a small world of one raylet and its workers --- */

#define N_TASKS  400
#define N_LEASES 8

struct world_task {
    struct record *r;
    enum { OUT, WAITING, SENT, RUNNING, FINISHED } state;
    int starts, retries;
};
struct world_lease {
    struct submit_lease *l;
    uint64_t started, order[64], serial, slots, running;
    unsigned to_give_back;
    bool asked_back, blocked, returned;
};
static struct {
    struct world_task t[N_TASKS + 1]; /* by counter */
    struct world_lease w[N_LEASES];
    struct {
        uint64_t ticket;
        uint32_t class, count;
        bool cancel;
    } tickets[64];
    uint64_t asked, answered, granted, ended, next_lease;
} w;

static struct world_lease *world_lease_of(const struct submit_lease *l)
{
    for (int i = 0; i < N_LEASES; i++)
        if (w.w[i].l == l)
            return &w.w[i];
    ck_abort_msg("an action names a lease that is over");
}

static struct world_task *world_task_of(const struct record *r)
{
    return &w.t[r->counter];
}

static void carry_out(void)
{
    for (size_t i = 0; i < out.n; i++) {
        struct submit_action a = out.v[i];
        switch (a.kind) {
        case SUBMIT_PUSH: {
            struct world_lease *x = world_lease_of(a.lease);
            unsigned slot = a.task->u.task.window_slot;
            ck_assert_int_eq(world_task_of(a.task)->state, WAITING);
            ck_assert(!x->returned);
            ck_assert((x->slots >> slot & 1) == 0);
            ck_assert_uint_ne(x->started >> slot & 1,
                              a.count); /* not yet started, by the mask's rule */
            world_task_of(a.task)->state = SENT;
            x->slots |= 1ull << slot;
            x->order[slot] = ++x->serial;
            break;
        }
        case SUBMIT_REQUEST: {
            int k = 0;
            while (w.tickets[k].count > 0)
                ck_assert_int_lt(++k, 64);
            w.tickets[k].ticket = a.ticket;
            w.tickets[k].class = a.class;
            w.tickets[k].count = a.count;
            w.tickets[k].cancel = false;
            w.asked += a.count;
            break;
        }
        case SUBMIT_CANCEL: {
            int k = 0;
            while (w.tickets[k].count == 0 || w.tickets[k].ticket != a.ticket)
                ck_assert_int_lt(++k, 64);
            ck_assert(!w.tickets[k].cancel);
            w.tickets[k].cancel = true;
            break;
        }
        case SUBMIT_TAKE_BACK: {
            struct world_lease *x = world_lease_of(a.lease);
            ck_assert(!x->asked_back);
            x->asked_back = true;
            x->to_give_back = a.count;
            break;
        }
        case SUBMIT_RETURN:
            for (int k = 0; k < N_LEASES; k++)
                if (w.w[k].l != NULL && w.w[k].l->id == a.ticket)
                    w.w[k].returned = true;
            break;
        case SUBMIT_FAIL: {
            struct world_task *t = world_task_of(a.task);
            ck_assert(t->state == WAITING || t->state == RUNNING);
            /* INV-24: never fail what was never sent, but for a class without workers */
            if (a.class == CORE_ECRASH && t->state == RUNNING)
                ck_assert_int_eq(t->starts, t->retries + 1);
            t->state = FINISHED;
            break;
        }
        case SUBMIT_END:
            world_lease_of(a.lease)->l = NULL;
            w.ended++;
            submit_forget(s, a.lease);
            break;
        }
    }
    out.n = 0;
}

/* Unclaimed slots of x, last pushed first, at most n. */
static uint64_t last_pushed(const struct world_lease *x, unsigned n)
{
    uint64_t mask = 0;

    while (n-- > 0) {
        int best = -1;
        for (int i = 0; i < 64; i++)
            if ((x->slots & ~x->running & ~mask) >> i & 1
                && (best < 0 || x->order[i] > x->order[best]))
                best = i;
        if (best < 0)
            break;
        mask |= 1ull << best;
    }
    return mask;
}

static void give_back(struct world_lease *x, uint64_t mask, bool asked)
{
    for (uint64_t m = mask; m != 0; m &= m - 1)
        world_task_of(x->l->window[__builtin_ctzll(m)])->state = WAITING;
    x->slots &= ~mask;
    submit_on_returned(s, x->l, mask, asked, now, &out);
}

static void worker_start(struct world_lease *x)
{
    int first = -1;

    for (int i = 0; i < 64; i++)
        if (x->slots >> i & 1 && (first < 0 || x->order[i] < x->order[first]))
            first = i;
    if (first < 0 || x->running != 0)
        return;
    struct world_task *t = world_task_of(x->l->window[first]);
    ck_assert_int_eq(t->state, SENT);
    t->state = RUNNING;
    t->starts++;
    ck_assert(t->retries < 0 || t->starts <= t->retries + 1);
    x->running = 1ull << first;
    x->started = (x->started & ~x->running) | (x->l->phases & x->running);
}

static void worker_done(struct world_lease *x, uint32_t run_ns)
{
    if (x->running == 0)
        return;
    struct submit_lease *l = x->l;
    unsigned slot = (unsigned)__builtin_ctzll(x->running);
    struct record *r = submit_on_done(s, l, slot, run_ns, now);
    ck_assert_ptr_nonnull(r);
    world_task_of(r)->state = FINISHED;
    x->slots &= ~x->running;
    x->running = 0;
    submit_refill(s, l->class, now, &out);
}

static void worker_dies(struct world_lease *x)
{
    for (uint64_t m = x->slots & ~x->running; m != 0; m &= m - 1)
        world_task_of(x->l->window[__builtin_ctzll(m)])->state = WAITING;
    if (x->running != 0) {
        struct world_task *t = world_task_of(x->l->window[__builtin_ctzll(x->running)]);
        if (t->retries < 0 || t->starts <= t->retries)
            t->state = WAITING;
    }
    submit_on_worker_dead(s, x->l, x->started, now, &out);
}

static void worker_ends(struct world_lease *x)
{
    if (x->running != 0)
        return;
    for (uint64_t m = x->slots; m != 0; m &= m - 1)
        world_task_of(x->l->window[__builtin_ctzll(m)])->state = WAITING;
    submit_on_lease_ended(s, x->l, now, &out);
}

static void raylet_answers(int how)
{
    int k = (int)(random() % 64), free_lease = 0;

    for (int i = 0; i < 64 && w.tickets[k].count == 0; i++)
        k = (k + 1) % 64;
    if (w.tickets[k].count == 0)
        return;
    uint64_t ticket = w.tickets[k].ticket;
    while (free_lease < N_LEASES && w.w[free_lease].l != NULL)
        free_lease++;
    if (w.tickets[k].cancel && random() % 4 != 0) {
        uint32_t n = w.tickets[k].count;
        w.answered += n;
        w.tickets[k].count = 0;
        submit_on_canceled(s, ticket, n, now, &out);
        return;
    }
    if (how > 0 && free_lease == N_LEASES)
        return;
    w.tickets[k].count--;
    w.answered++;
    if (how == 0) {
        submit_on_busy(s, ticket, 1, now, &out);
        return;
    }
    struct world_lease *x = &w.w[free_lease];
    memset(x, 0, sizeof *x);
    /* the pushes come with the grant: the world must know the lease before it carries them out */
    w.granted++;
    uint32_t node = random() % 3 == 0 ? (uint32_t)random() % 20 : 1 + (uint32_t)random() % 3;
    x->l = submit_on_grant(s, ticket, ++w.next_lease, NULL, node, now, &out);
    ck_assert_ptr_nonnull(x->l);
}

START_TEST(ten_thousand_random_steps_lose_nothing_and_answer_everything_once)
{
    const char *given = getenv("SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 0) : 20251121;
    uint64_t submitted = 0;
    int step;

    printf("submit_test: SEED=%u\n", seed);
    srandom(seed);
    memset(&w, 0, sizeof w);
    submit_add_class(s);
    submit_add_class(s);
    submit_set_linger(s, 20 * MS);
    for (step = 0; step < 10000; step++) {
        bool winding_down = step > 8000;
        struct world_lease *x = &w.w[random() % N_LEASES];
        now += (uint64_t)random() % (100 * US);
        int what = (int)(random() % 32);
        if (what < 6 && !winding_down && submitted < N_TASKS && random() % 4 == 0) {
            for (int n = 1 + (int)(random() % 3); n > 0 && submitted < N_TASKS; n--) {
                int retries = (int)(random() % 4) - 1;
                struct record *r =
                    task_of((uint32_t)random() % 3,
                            retries,
                            8 + (uint32_t)random() % (random() % 9 == 0 ? 600000 : 99));
                if (r->class == 2 && random() % 4 != 0) {
                    r->u.task.node = 1 + (uint32_t)random() % 20; /* more than are told apart */
                    r->u.task.near_log2 = (uint8_t)(random() % 24);
                }
                submitted = r->counter;
                w.t[submitted] = (struct world_task){.r = r, .state = WAITING, .retries = retries};
                submit_task(s, r, now, &out);
            }
        } else if (what < 9) {
            raylet_answers(what == 8 && random() % 4 == 0 ? 0 : 1);
        } else if (what < 12) {
            submit_settle(s, now, &out);
        } else if (x->l == NULL) {
            continue;
        } else if (what < 18) {
            worker_start(x);
        } else if (what < 24) {
            worker_done(x, (uint32_t)random() % (random() % 8 == 0 ? 5000000 : 20000));
        } else if (what < 27) {
            if (x->asked_back) {
                x->asked_back = false;
                give_back(x, last_pushed(x, x->to_give_back), true);
            }
        } else if (what == 27) {
            if (x->running != 0)
                give_back(x, last_pushed(x, 64), false);
        } else if (what == 28) {
            if (!winding_down && random() % 8 == 0)
                worker_dies(x);
        } else if (what == 29) {
            if (x->returned || random() % 16 == 0)
                worker_ends(x);
        } else if (what == 30 && (x->slots & ~x->running) != 0) {
            uint64_t mask = last_pushed(x, 1);
            unsigned slot = (unsigned)__builtin_ctzll(mask);
            world_task_of(x->l->window[slot])->state = WAITING;
            x->slots &= ~mask;
            submit_on_bounced(s, x->l, slot, false, now, &out);
        }
        carry_out();
        submit_selfcheck(s);
        uint64_t units = 0;
        struct submit_stats st;
        submit_get_stats(s, &st);
        for (int k = 0; k < 64; k++)
            units += w.tickets[k].count;
        ck_assert_uint_eq(st.n_units, units); /* INV-18 */
        ck_assert_uint_eq(w.asked, w.answered + units);
        ck_assert_uint_eq(w.granted, w.ended + st.n_leases); /* INV-11 */
    }
    /* a fair world from here on: everything ends */
    for (step = 0; step < 5000; step++) {
        now += MS;
        submit_settle(s, now, &out);
        carry_out();
        raylet_answers(1);
        carry_out();
        for (int i = 0; i < N_LEASES; i++) {
            struct world_lease *x = &w.w[i];
            if (x->l != NULL && x->asked_back) {
                x->asked_back = false;
                give_back(x, last_pushed(x, x->to_give_back), true);
                carry_out();
            }
            if (x->l != NULL) {
                worker_start(x);
                worker_done(x, 1000);
                carry_out();
            }
            if (x->l != NULL && (x->returned || x->l->n_in_window == 0)) {
                worker_ends(x); /* others wait for its resources */
                carry_out();
            }
        }
        submit_selfcheck(s);
    }
    struct submit_stats st;
    submit_get_stats(s, &st);
    for (uint64_t i = 1; i <= submitted; i++)
        ck_assert_int_eq(w.t[i].state, FINISHED); /* INV-15 */
    ck_assert_uint_eq(st.n_queued + st.n_in_windows + st.n_units, 0);
    ck_assert_uint_eq(w.asked, w.answered);
    ck_assert(submitted > N_TASKS / 2 && w.granted > 10);
}
END_TEST

/* VERBOSE=1: what a task costs here, submit to done, in windows of 64 on two leases. Not asserted.
 */
START_TEST(timing)
{
    enum { N = 2000000 };
    struct submit_lease *l = idle_lease(1, 100);
    struct submit_lease *l2 = second_idle_lease(l, 2);
    static uint8_t spec[40];
    uint64_t start = clock_now_ns(), n_done = 0;

    for (int i = 0; i < N; i++) {
        struct record *r = task_of(class, 3, 40);
        memcpy(r->u.task.spec, spec, sizeof spec);
        submit_task(s, r, now, &out);
        out.n = 0;
        struct submit_lease *from = i % 2 ? l : l2;
        if (from->n_in_window < 50)
            continue;
        for (unsigned k = 0; k < 32; k++) {
            r = submit_on_done(s, from, (unsigned)__builtin_ctzll(from->busy), 100, now);
            uint8_t *block = r->u.task.spec;
            submit_refill(s, class, now, &out);
            out.n = 0;
            ref_table_set(refs, r, WIRE_META_RAW, spec, 9);
            ref_table_free(refs, block, 40);
            ref_table_drop(refs, ref_table_find(refs, record_word(r)));
            n_done++;
        }
    }
    printf("submit_test: %.0f ns a task (record, spec, submit, push, done, value, release)\n",
           (double)(clock_now_ns() - start) / (double)n_done);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("submit");
    TCase *c = tcase_create("submit");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_first_task_asks_for_one_lease_and_is_pushed_when_it_comes);
    tcase_add_test(c, a_synchronous_task_on_an_idle_lease_costs_no_lease_traffic);
    tcase_add_test(c, a_slot_used_again_has_the_other_phase);
    tcase_add_test(c, units_asked_for_follow_demand_up_to_the_bound);
    tcase_add_test(c, one_task_goes_ahead_while_nothing_is_known);
    tcase_add_test(c, a_window_holds_about_a_millisecond_of_work);
    tcase_add_test(c, a_window_holds_a_mebibyte_of_arguments_or_one_task);
    tcase_add_test(c, values_of_ref_arguments_count_in_the_window);
    tcase_add_test(c, long_tasks_shrink_the_window_at_once);
    tcase_add_test(c, tasks_go_to_idle_workers_first_and_then_in_equal_shares);
    tcase_add_test(c, tickets_are_canceled_only_when_the_class_has_no_task);
    tcase_add_test(c, new_work_after_a_cancel_asks_again_once_the_cancel_is_answered);
    tcase_add_test(c, inv_11_a_grant_nobody_needs_is_returned_and_ends_by_its_worker);
    tcase_add_test(c, an_idle_lease_lingers_and_goes_back);
    tcase_add_test(c, leases_are_asked_for_where_the_arguments_lie);
    tcase_add_test(c, a_lease_takes_what_is_near_it_first);
    tcase_add_test(c, those_near_one_node_do_not_keep_others_waiting_for_ever);
    tcase_add_test(c, an_idle_worker_elsewhere_gets_it_when_its_bytes_could_have_come);
    tcase_add_test(c, what_waits_long_enough_without_a_worker_near_passes_younger_ones);
    tcase_add_test(c, idle_leases_of_other_classes_make_room_near);
    tcase_add_test(c, idle_leases_go_back_sooner_while_another_class_waits);
    tcase_add_test(c, a_task_behind_others_only_queues);
    tcase_add_test(c, leases_that_come_and_go_allocate_nothing);
    tcase_add_test(c, inv_18_answers_to_unknown_tickets_change_nothing);
    tcase_add_test(c, inv_11_a_lease_that_ended_before_its_grant_came_is_not_kept);
    tcase_add_test(c, a_class_that_can_have_no_worker_fails_what_is_queued);
    tcase_add_test(c, inv_24_one_refused_unit_does_not_fail_tasks_that_another_may_run);
    tcase_add_test(c, a_refusal_beside_a_working_lease_is_asked_again_after_a_pause);
    tcase_add_test(c, a_busy_raylet_is_asked_again_after_pauses_that_double);
    tcase_add_test(c, an_idle_worker_gets_what_waits_behind_a_silent_one);
    tcase_add_test(c, four_tasks_that_wait_for_each_other_get_four_workers);
    tcase_add_test(c, a_take_back_that_brings_nothing_is_not_repeated_at_once);
    tcase_add_test(c, what_comes_back_goes_in_front_in_the_order_of_submission);
    tcase_add_test(c, a_blocked_worker_gets_nothing_until_it_answers);
    tcase_add_test(c, what_is_in_the_window_of_an_ended_lease_costs_no_attempt);
    tcase_add_test(c, exactly_the_started_tasks_of_a_dead_worker_spend_an_attempt);
    tcase_add_test(c, inv_24_a_death_whose_mask_is_unknown_costs_no_attempt);
    tcase_add_test(c, a_task_that_kills_its_workers_fails_after_its_retries);
    tcase_add_test(c, bounced_tasks_go_elsewhere_and_nothing_more_to_a_lease_that_is_over);
    tcase_add_test(c, malformed_answers_of_a_worker_change_nothing);
    tcase_add_test(c, inv_17_a_task_waits_for_all_its_arguments);
    tcase_add_test(c, inv_15_an_argument_that_is_an_error_fails_the_task_without_running);
    tcase_add_test(c, inv_33_a_lost_raylet_fails_everything_pending_and_all_that_comes);
    tcase_add_test(c, classes_do_not_share_leases);
    tcase_add_test(c, warm_work_allocates_nothing);
    tcase_add_test(c, ten_thousand_random_steps_lose_nothing_and_answer_everything_once);
    if (getenv("VERBOSE") != NULL)
        tcase_add_test(c, timing);
    suite_add_tcase(suite, c);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
