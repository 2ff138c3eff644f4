/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/lineage.h"

#include <check.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/net/wire.h"

static struct ref_table *refs;
static struct lineages *ls;
static uint64_t counter;
static unsigned n_values; /* that ended in the store */

static void on_end(void *arg, struct record *r)
{
    (void)arg;
    n_values += (r->flags & REF_STORED) != 0;
    if (r->extra != NULL && r->extra->lineage != NULL && r->extra->n_lineage == 0)
        lineage_remove(ls, r);
}

static void setup_with(uint64_t max_bytes)
{
    refs = ref_table_create();
    ls = lineages_create(refs, max_bytes);
    ref_table_on_end(refs, on_end, NULL);
    counter = n_values = 0;
}

static void setup(void)
{
    setup_with(1 << 20);
}

static void teardown(void)
{
    lineages_selfcheck(ls);
    ref_table_selfcheck(refs);
    lineages_destroy(ls);
    ref_table_destroy(refs);
}

static struct record *inline_value(const void *bytes, uint32_t size)
{
    struct record *r = ref_table_new(refs);

    ref_table_set(refs, r, 0, bytes, size);
    return r;
}

static void store(struct record *r, uint16_t attempt)
{
    struct ref_stored s = {.size = 1 << 20, .pin = REF_NO_PIN, .attempt = attempt, .node = 2};

    ref_table_set_stored(refs, r, 0, &s);
}

/* A task with these arguments, n of them inside a value, the others by themselves. */
static struct task task_of(struct record *const *args, unsigned n, unsigned n_inside, int retries)
{
    uint8_t buf[512], *at = buf;
    struct task t = {.retries_left = retries, .n_ref_args = (uint16_t)(n > 0)};

    for (unsigned i = n_inside; i < n; i++) {
        struct wire_arg a = {.size = REF_SPEC_IS_REF};
        memcpy(at, &a, sizeof a);
        memcpy(at + sizeof a, &args[i]->slot, sizeof args[i]->slot);
        at += sizeof a + sizeof args[i]->slot;
        t.n_args++;
    }
    if (n_inside > 0) {
        struct wire_arg a = {.size = 3, .meta = WIRE_VALUE_REFS};
        memcpy(at, &a, sizeof a);
        memcpy(at + sizeof a, &n_inside, sizeof n_inside);
        at += sizeof a + sizeof n_inside;
        for (unsigned i = 0; i < n_inside; i++, at += sizeof args[i]->slot)
            memcpy(at, &args[i]->slot, sizeof args[i]->slot);
        memcpy(at, "abc", 3);
        at += 3;
        t.n_args++;
    }
    for (unsigned i = 0; i < n; i++)
        args[i]->held++;
    t.spec_size = (uint32_t)(at - buf);
    t.spec = ref_table_alloc(refs, t.spec_size > 0 ? t.spec_size : 1);
    memcpy(t.spec, buf, t.spec_size);
    return t;
}

/* Its n returns, all in a store; each has a handle. */
static struct lineage *done(const struct task *t, struct record **returns, uint16_t n)
{
    struct lineage_task of = {.task = *t, .counter = ++counter, .n_returns = n};
    struct lineage *l = NULL;

    for (unsigned i = 0; i < n; i++) {
        returns[i] = ref_table_new(refs);
        returns[i]->counter = counter;
        store(returns[i], t->attempt);
        ck_assert(lineage_add(ls, &l, &of, i, returns[i]));
    }
    lineage_keep(ls, l);
    lineages_selfcheck(ls);
    ref_table_selfcheck(refs);
    return l;
}

static size_t n_kept(void)
{
    struct lineage_stats s;

    lineages_get_stats(ls, &s);
    return s.n;
}

START_TEST(it_ends_with_the_last_of_its_returns)
{
    struct record *r[2];
    struct task t = task_of(NULL, 0, 0, 3);

    done(&t, r, 2);
    ref_table_drop(refs, r[0]);
    ck_assert_uint_eq(n_kept(), 1);
    ref_table_drop(refs, r[1]);
    ck_assert_uint_eq(n_kept(), 0);
    ck_assert_uint_eq(n_values, 2);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(the_value_of_an_argument_goes_and_its_record_stays)
{
    struct record *a, *inside, *r;
    struct task first = task_of(NULL, 0, 0, 3);

    done(&first, &a, 1);
    first = task_of(NULL, 0, 0, 3);
    done(&first, &inside, 1);
    struct task t = task_of((struct record *[]){inside, a}, 2, 1, 3);
    done(&t, &r, 1);
    ref_table_drop(refs, a);
    ref_table_drop(refs, inside);
    ck_assert_uint_eq(n_values, 2);
    ck_assert_int_eq(a->state, REF_EMPTY);
    ck_assert_int_eq(inside->state, REF_EMPTY);
    ck_assert_ptr_null(ref_table_find_shown(refs, record_word(a)));
    ck_assert_uint_eq(n_kept(), 3);
    ref_table_drop(refs, r);
    ck_assert_uint_eq(n_kept(), 0);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(a_small_argument_stays_with_its_value)
{
    struct record *a = inline_value("seven", 5), *r;
    struct task t = task_of(&a, 1, 0, 3);

    done(&t, &r, 1);
    ref_table_drop(refs, a);
    ck_assert_int_eq(a->state, REF_READY);
    ck_assert_int_eq(memcmp(record_value(a), "seven", 5), 0);
    ref_table_drop(refs, r);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(one_with_refs_inside_lets_them_go)
{
    struct record *inner = inline_value("x", 1), *a = ref_table_new(refs), *r;

    inner->held++;
    ck_assert(ref_table_set_inner(refs, a, &inner->slot, 1));
    ref_table_set(refs, a, 0, "list", 4);
    ref_table_drop(refs, inner);
    struct task t = task_of(&a, 1, 0, 3);
    done(&t, &r, 1);
    ck_assert_uint_eq(ref_table_live(refs), 3);
    ref_table_drop(refs, a);
    ck_assert_uint_eq(ref_table_live(refs), 2);
    ck_assert_int_eq(a->state, REF_EMPTY);
    ck_assert_int_eq(a->u.stored.origin, REF_LET_GO);
    ref_table_drop(refs, r);
}
END_TEST

START_TEST(a_run_is_the_next_attempt_and_costs_a_retry)
{
    struct record *a = inline_value("x", 1), *r[2];
    struct task t = task_of(&a, 1, 0, 2);

    t.attempt = 5;
    struct lineage *l = done(&t, r, 2);
    ref_table_lose(refs, r[1]);
    struct record *run = lineage_run(ls, l);
    lineages_selfcheck(ls);
    ck_assert_ptr_eq(lineage_of_run(run), l);
    ck_assert_uint_eq(run->u.task.attempt, 6);
    ck_assert_int_eq(run->u.task.retries_left, 1);
    ck_assert_uint_eq(a->held, 1);
    ref_table_drop(refs, r[0]); /* nobody wants that one any more */
    ck_assert_uint_eq(n_kept(), 1);
    store(r[1], 6);
    lineage_end_run(ls, run);
    ref_table_set(refs, run, 0, NULL, 0);
    lineages_selfcheck(ls);
    ck_assert_uint_eq(a->held, 0);
    ck_assert_int_eq(r[1]->u.stored.attempt, 6);
    ck_assert_uint_eq(n_kept(), 1);
    ref_table_drop(refs, r[1]);
    ref_table_drop(refs, a);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(the_last_retry_leaves_no_lineage)
{
    struct record *r;
    struct task t = task_of(NULL, 0, 0, 1);
    struct lineage *l = done(&t, &r, 1);

    ref_table_lose(refs, r);
    struct record *run = lineage_run(ls, l);
    store(r, 1);
    lineage_end_run(ls, run);
    ref_table_set(refs, run, 0, NULL, 0);
    ck_assert_uint_eq(n_kept(), 0);
    ck_assert_int_eq(r->u.stored.origin, REF_RETRIED);
    ck_assert_ptr_null(r->extra->lineage);
    ref_table_drop(refs, r);
}
END_TEST

START_TEST(retries_may_be_endless)
{
    struct record *r;
    struct task t = task_of(NULL, 0, 0, -1);
    struct lineage *l = done(&t, &r, 1);

    for (uint16_t i = 1; i < 100; i++) {
        ref_table_lose(refs, r);
        struct record *run = lineage_run(ls, l);
        store(r, i);
        lineage_end_run(ls, run);
        ref_table_set(refs, run, 0, NULL, 0);
    }
    ck_assert_uint_eq(n_kept(), 1);
    ref_table_drop(refs, r);
}
END_TEST

START_TEST(what_all_have_let_go_while_it_runs_ends_with_the_run)
{
    struct record *r;
    struct task t = task_of(NULL, 0, 0, 3);
    struct lineage *l = done(&t, &r, 1);

    ref_table_lose(refs, r);
    struct record *run = lineage_run(ls, l);
    ref_table_drop(refs, r);
    ck_assert_uint_eq(ref_table_live(refs), 2);
    store(r, 1);
    ck_assert_uint_eq(n_values, 1); /* nobody wanted it */
    lineage_end_run(ls, run);
    ref_table_set(refs, run, 0, NULL, 0);
    ck_assert_uint_eq(n_kept(), 0);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(over_the_bound_the_oldest_half_goes)
{
    struct record *r[100], *first;
    struct task t = task_of(NULL, 0, 0, 3);
    struct lineage_stats s;
    size_t one;

    done(&t, &first, 1);
    lineages_get_stats(ls, &s);
    one = s.bytes;
    ref_table_drop(refs, first);
    teardown();
    setup_with(50 * one);
    for (int i = 0; i < 51; i++) {
        t = task_of(NULL, 0, 0, 3);
        done(&t, &r[i], 1);
    }
    lineages_get_stats(ls, &s);
    ck_assert_uint_eq(s.n, 25);
    ck_assert_uint_eq(s.n_evicted, 26);
    ck_assert_int_eq(r[25]->u.stored.origin, REF_EVICTED);
    ck_assert_ptr_null(r[25]->extra->lineage);
    ck_assert_int_eq(r[26]->u.stored.origin, REF_FROM_TASK);
    for (int i = 0; i < 51; i++)
        ref_table_drop(refs, r[i]);
}
END_TEST

START_TEST(one_that_runs_is_not_evicted)
{
    struct record *r[2];
    struct task t = task_of(NULL, 0, 0, 3);
    struct lineage_stats s;

    done(&t, &r[0], 1);
    lineages_get_stats(ls, &s);
    ref_table_drop(refs, r[0]);
    teardown();
    setup_with(3 * s.bytes / 2);
    t = task_of(NULL, 0, 0, 3);
    struct lineage *l = done(&t, &r[0], 1);
    ref_table_lose(refs, r[0]);
    struct record *run = lineage_run(ls, l);
    t = task_of(NULL, 0, 0, 3);
    done(&t, &r[1], 1);
    ck_assert_int_eq(r[1]->u.stored.origin, REF_EVICTED);
    store(r[0], 1);
    lineage_end_run(ls, run);
    ref_table_set(refs, run, 0, NULL, 0);
    ck_assert_uint_eq(n_kept(), 1);
    ref_table_drop(refs, r[0]);
    ref_table_drop(refs, r[1]);
}
END_TEST

START_TEST(a_long_chain_ends_without_recursion)
{
    struct record *last, *next;

    teardown();
    setup_with(UINT64_MAX);
    struct task t = task_of(NULL, 0, 0, 3);
    done(&t, &last, 1);
    for (int i = 0; i < 200000; i++) {
        struct lineage_task of = {.task = task_of(&last, 1, 0, 3), .n_returns = 1};
        struct lineage *l = NULL;
        next = ref_table_new(refs);
        store(next, 0);
        ck_assert(lineage_add(ls, &l, &of, 0, next));
        lineage_keep(ls, l);
        ref_table_drop(refs, last);
        last = next;
    }
    ck_assert_uint_eq(n_kept(), 200001);
    ref_table_drop(refs, last);
    ck_assert_uint_eq(n_kept(), 0);
    ck_assert_uint_eq(ref_table_live(refs), 0);
}
END_TEST

START_TEST(warm_work_allocates_nothing)
{
    struct record *r;
    uint64_t allocs = 0;

    for (int i = 0; i < 1000; i++) {
        struct record *a = inline_value("x", 1);
        struct task t = task_of(&a, 1, 0, 3);
        done(&t, &r, 1);
        ref_table_drop(refs, a);
        ref_table_drop(refs, r);
        if (i == 10)
            allocs = alloc_count();
    }
    ck_assert_uint_eq(alloc_count(), allocs);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lineage");
    TCase *c = tcase_create("lineage");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, it_ends_with_the_last_of_its_returns);
    tcase_add_test(c, the_value_of_an_argument_goes_and_its_record_stays);
    tcase_add_test(c, a_small_argument_stays_with_its_value);
    tcase_add_test(c, one_with_refs_inside_lets_them_go);
    tcase_add_test(c, a_run_is_the_next_attempt_and_costs_a_retry);
    tcase_add_test(c, the_last_retry_leaves_no_lineage);
    tcase_add_test(c, retries_may_be_endless);
    tcase_add_test(c, what_all_have_let_go_while_it_runs_ends_with_the_run);
    tcase_add_test(c, over_the_bound_the_oldest_half_goes);
    tcase_add_test(c, one_that_runs_is_not_evicted);
    tcase_add_test(c, a_long_chain_ends_without_recursion);
    tcase_add_test(c, warm_work_allocates_nothing);
    suite_add_tcase(s, c);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
