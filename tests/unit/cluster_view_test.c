/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/cluster_view.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define U    RESOURCE_UNIT
#define SELF 10

static struct cluster_view *v;
static struct resources ledger;
static uint64_t now;

static void setup(void)
{
    now = 100000;
    v = cluster_view_create(SELF, 1);
    resources_init(&ledger, 4 * U);
    cluster_view_set_self(v, &ledger);
}

static void teardown(void)
{
    cluster_view_selfcheck(v);
    cluster_view_destroy(v);
}

static void give(struct node_view *n, const char *name, int64_t total, int64_t available)
{
    struct node_view_resource *r = &n->resources[n->n_resources++];

    snprintf(r->name, sizeof r->name, "%s", name);
    r->total = total;
    r->available = available;
}

/* A node with CPUs, and GPUs if it has any. */
static void tell(uint32_t number, int cpus, int free_cpus, int gpus, int free_gpus)
{
    struct node_view n = {.number = number, .is_alive = true};

    give(&n, "CPU", (int64_t)cpus * U, (int64_t)free_cpus * U);
    if (gpus > 0)
        give(&n, "GPU", (int64_t)gpus * U, (int64_t)free_gpus * U);
    cluster_view_set(v, &n);
}

static void use_self(int cpus)
{
    ledger.available[0] = ledger.total[0] - (int64_t)cpus * U;
    cluster_view_set_self(v, &ledger);
}

static const char *pick_of(const struct res_amount *need, unsigned n)
{
    static const char *const words[] = {"here", "there", "wait here", "wait there", "nowhere"};
    static char text[64];
    uint32_t number = 0;
    enum view_pick p = cluster_view_pick(v, need, n, now, &number);

    cluster_view_selfcheck(v);
    snprintf(text, sizeof text, "%s %u", words[p], number);
    return text;
}

static struct res_amount cpu(int n)
{
    return (struct res_amount){"CPU", (int64_t)n * U};
}

static const char *pick(int cpus)
{
    struct res_amount need = cpu(cpus);

    return pick_of(&need, 1);
}

static const char *pick_gpu(int cpus, int gpus)
{
    struct res_amount need[] = {cpu(cpus), {"GPU", (int64_t)gpus * U}};

    return pick_of(need, 2);
}

static void debit(uint32_t number, int cpus, uint32_t k)
{
    struct res_amount need = cpu(cpus);

    cluster_view_debit(v, number, &need, 1, k, now);
}

static void rejected(uint32_t number, int cpus, int has)
{
    struct res_amount need = cpu(cpus), said = cpu(has);

    cluster_view_rejected(v, number, &need, 1, &said, has >= 0, now);
}

START_TEST(below_half_this_node_is_preferred_then_the_least_used_is)
{
    tell(3, 4, 4, 0, 0);
    ck_assert_str_eq(pick(1), "here 10");
    use_self(1);
    ck_assert_str_eq(pick(1), "here 10");
    use_self(2); /* half of it */
    ck_assert_str_eq(pick(1), "there 3");
    tell(3, 4, 1, 0, 0);
    ck_assert_str_eq(pick(1), "here 10");
    use_self(3);
    ck_assert_str_eq(pick(1), "here 10"); /* both alike: this one */
    use_self(4);
    ck_assert_str_eq(pick(1), "there 3");
}
END_TEST

START_TEST(memory_counts_as_cpu_does_and_other_resources_do_not)
{
    struct node_view n = {.number = 3, .is_alive = true};

    give(&n, "memory", 100, 10);
    give(&n, "CPU", 4 * U, 4 * U);
    cluster_view_set(v, &n);
    use_self(3);
    ck_assert_str_eq(pick(1), "here 10");
    n.resources[0] = (struct node_view_resource){"disk", 100, 0};
    cluster_view_set(v, &n);
    ck_assert_str_eq(pick(1), "there 3");
}
END_TEST

START_TEST(what_is_busy_waits_and_what_can_never_be_is_told_apart)
{
    use_self(4);
    ck_assert_str_eq(pick(1), "wait here 10");
    ck_assert_str_eq(pick(5), "nowhere 10");
    ck_assert_str_eq(pick_gpu(1, 1), "nowhere 10");
    tell(3, 8, 0, 0, 0);
    ck_assert_str_eq(pick(1), "wait here 10");
    ck_assert_str_eq(pick(5), "wait there 3");
    ck_assert_str_eq(pick(9), "nowhere 10");
    tell(3, 8, 5, 0, 0);
    ck_assert_str_eq(pick(5), "there 3");
}
END_TEST

START_TEST(those_that_can_run_nowhere_else_wait_where_the_fewest_do)
{
    unsigned n_at[3] = {0};
    struct node_view n = {.is_alive = true};

    give(&n, "GPU", U, 0);
    for (n.number = 20; n.number < 23; n.number++) {
        n.n_waiting = n.number == 21 ? 4 : 1;
        cluster_view_set(v, &n);
    }
    for (int i = 0; i < 9; i++) {
        struct res_amount need = {"GPU", U};
        uint32_t number;
        ck_assert_int_eq(cluster_view_pick(v, &need, 1, now, &number), VIEW_WAIT_THERE);
        n_at[number - 20]++;
        cluster_view_add_waiting(v, number, 1, now);
    }
    ck_assert_uint_ge(n_at[1], 1);
    ck_assert_uint_le(n_at[1], 2); /* now five or so wait at each */
    ck_assert_uint_ge(n_at[0], 3);
    ck_assert_uint_ge(n_at[2], 3);
    now += VIEW_DEBIT_MS;
    ck_assert_str_ne(pick_gpu(0, 1), "wait there 21");
}
END_TEST

START_TEST(nodes_with_a_gpu_are_left_to_those_that_want_one)
{
    tell(3, 4, 4, 1, 1);
    use_self(3);
    ck_assert_str_eq(pick(1), "here 10"); /* though it is nearly full */
    ck_assert_str_eq(pick(2), "there 3");
    ck_assert_str_eq(pick_gpu(1, 1), "there 3");
    tell(4, 4, 0, 1, 1);
    ck_assert_str_eq(pick_gpu(0, 1), "there 3"); /* it is less used */
    ck_assert_str_eq(pick_gpu(0, 2), "nowhere 10");
}
END_TEST

START_TEST(what_was_sent_counts_as_taken_until_the_next_report_or_three_seconds)
{
    use_self(4);
    tell(3, 4, 4, 0, 0);
    debit(3, 1, 3);
    ck_assert_str_eq(pick(2), "wait here 10");
    ck_assert_str_eq(pick(1), "there 3");
    debit(3, 1, 1);
    ck_assert_str_eq(pick(1), "wait here 10");
    tell(3, 4, 2, 0, 0);
    ck_assert_str_eq(pick(2), "there 3");
    debit(3, 1, 9); /* never less than nothing */
    ck_assert_int_eq(cluster_view_available(v, 3, "CPU"), 0);
    now += VIEW_DEBIT_MS - 1;
    ck_assert_str_eq(pick(1), "wait here 10");
    now++;
    ck_assert_str_eq(pick(2), "there 3");
    debit(99, 1, 1);
    debit(3, 1, UINT32_MAX);
    ck_assert_str_eq(pick(1), "wait here 10");
}
END_TEST

START_TEST(debits_of_one_node_do_not_prolong_those_of_another)
{
    use_self(4);
    tell(3, 4, 4, 0, 0);
    tell(4, 8, 8, 0, 0);
    debit(3, 4, 1);
    now += 2000;
    debit(4, 8, 1);
    now += 1000;
    ck_assert_str_eq(pick(1), "there 3");
    ck_assert_str_eq(pick(8), "wait there 4");
    now += 2000;
    ck_assert_str_eq(pick(8), "there 4");
}
END_TEST

START_TEST(inv_37_a_node_that_rejects_knows_better_than_the_view)
{
    use_self(4);
    tell(3, 4, 4, 0, 0);
    rejected(3, 2, 1);
    ck_assert_str_eq(pick(2), "wait here 10");
    ck_assert_str_eq(pick(1), "there 3");
    rejected(3, 1, 1); /* though it has enough */
    ck_assert_str_eq(pick(1), "wait here 10");
    struct res_amount none = {"CPU", 0};
    ck_assert_str_eq(pick_of(&none, 1), "here 10");
    tell(3, 4, 1, 0, 0);
    ck_assert_str_eq(pick(1), "there 3");
    rejected(3, 1, -1); /* it does not say */
    ck_assert_str_eq(pick(1), "wait here 10");
    ck_assert_str_eq(pick(5), "nowhere 10");
    tell(3, 8, 8, 0, 0);
    rejected(3, 1, -1);
    ck_assert_str_eq(pick(5), "wait here 10"); /* not nowhere: it could, later */
    now += VIEW_DEBIT_MS;
    ck_assert_str_eq(pick(5), "there 3");
    rejected(3, 5, 4);
    ck_assert_str_eq(pick(5), "wait here 10"); /* nor there: it does not want it to wait */
    tell(4, 8, 0, 0, 0);
    ck_assert_str_eq(pick(5), "wait there 4");
    now += VIEW_DEBIT_MS;
    ck_assert_str_eq(pick(4), "there 3");
    rejected(99, 1, 1);
}
END_TEST

static bool may_ask(uint32_t number, int cpus)
{
    struct res_amount need = cpu(cpus);

    return cluster_view_may_ask(v, number, &need, 1, now);
}

START_TEST(a_node_is_asked_for_what_is_near_it_until_it_refuses)
{
    use_self(4);
    tell(3, 4, 0, 0, 0);
    ck_assert(may_ask(3, 1)); /* what is taken may be free by then */
    ck_assert(!may_ask(3, 5) && !may_ask(10, 1) && !may_ask(99, 1));
    struct res_amount odd = {"odd", U};
    ck_assert(!cluster_view_may_ask(v, 3, &odd, 1, now));
    rejected(3, 1, 0);
    ck_assert(!may_ask(3, 1));
    tell(3, 4, 0, 0, 0);
    ck_assert(may_ask(3, 1));
    rejected(3, 1, 0);
    now += VIEW_DEBIT_MS;
    ck_assert(may_ask(3, 1));
    cluster_view_selfcheck(v);
}
END_TEST

START_TEST(a_draining_node_takes_nothing_and_a_dead_one_is_forgotten)
{
    struct node_view n = {.number = 3, .is_alive = true, .is_draining = true};

    give(&n, "CPU", 8 * U, 8 * U);
    use_self(4);
    cluster_view_set(v, &n);
    ck_assert_str_eq(pick(1), "wait here 10");
    ck_assert_str_eq(pick(5), "nowhere 10");
    ck_assert_uint_eq(cluster_view_count(v), 2);
    tell(3, 8, 8, 0, 0);
    ck_assert_str_eq(pick(5), "there 3");
    struct node_view self = {.number = SELF, .is_alive = true, .is_draining = true};
    cluster_view_set(v, &self);
    use_self(0);
    ck_assert_str_eq(pick(1), "there 3");
    n.is_alive = false;
    cluster_view_set(v, &n);
    ck_assert_uint_eq(cluster_view_count(v), 1);
    ck_assert_str_eq(pick(1), "nowhere 10");
    cluster_view_remove(v, 3);
}
END_TEST

START_TEST(the_dice_choose_among_the_best_fifth_and_the_same_seed_throws_the_same)
{
    unsigned n_at[40] = {0};
    uint32_t first[200];

    use_self(4);
    for (int round = 0; round < 2; round++) {
        for (uint32_t k = 20; k < 40; k++)
            tell(k, 4, k % 4 == 3 ? 4 : 1, 0, 0); /* five good ones */
        for (int i = 0; i < 200; i++) {
            struct res_amount need = cpu(1);
            uint32_t number;
            ck_assert_int_eq(cluster_view_pick(v, &need, 1, now, &number), VIEW_THERE);
            n_at[number]++;
            if (round == 0)
                first[i] = number;
            else
                ck_assert_uint_eq(first[i], number);
        }
        cluster_view_destroy(v);
        setup();
        use_self(4);
    }
    /* of 21 nodes the best four, and of those that are alike the ones with lower numbers */
    for (uint32_t k = 20; k < 40; k++)
        if (k % 4 == 3 && k < 36)
            ck_assert_uint_gt(n_at[k], 50);
        else
            ck_assert_uint_eq(n_at[k], 0);
}
END_TEST

START_TEST(a_name_that_few_have_and_one_that_all_have_are_both_looked_at)
{
    struct res_amount need[] = {cpu(2), {"odd", 1}, {"even", 0}};

    for (uint32_t k = 20; k < 60; k++) {
        struct node_view n = {.number = k, .is_alive = true};
        char own[32];
        snprintf(own, sizeof own, "node:%u", k);
        give(&n, own, U, U);
        if (k % 2 == 1)
            give(&n, "odd", 5, 5);
        give(&n, "CPU", 4 * U, k == 37 ? 2 * U : U);
        cluster_view_set(v, &n);
    }
    ck_assert_str_eq(pick_of(need, 3), "there 37");
    struct res_amount own[] = {{"odd", 1}, cpu(1), {"node:37", U}};
    ck_assert_str_eq(pick_of(own, 3), "there 37");
    own[2].name = "node:38";
    ck_assert_str_eq(pick_of(own, 3), "nowhere 10");
    own[2].name = "node:39";
    own[1].units = 2 * U;
    ck_assert_str_eq(pick_of(own, 3), "wait there 39");
    const char *name;
    int64_t total, available;
    unsigned i = 0;
    while (cluster_view_sum(v, i, &name, &total, &available) && strcmp(name, "odd") != 0)
        i++;
    ck_assert_int_eq(total, 100);
    ck_assert_int_eq(available, 100);
    for (uint32_t k = 20; k < 60; k++)
        cluster_view_remove(v, k);
    ck_assert(!cluster_view_sum(v, 1, &name, &total, &available)); /* all but CPU are forgotten */
}
END_TEST

START_TEST(reports_from_outside_do_no_harm)
{
    struct node_view n = {.number = 3, .is_alive = true, .n_resources = 1000000};

    for (unsigned i = 0; i < NODE_RESOURCES_MAX; i++)
        snprintf(n.resources[i].name, sizeof n.resources[i].name, "r%u", i);
    for (unsigned i = 0; i < NODE_RESOURCES_MAX; i++)
        n.resources[i].total = n.resources[i].available = 1;
    cluster_view_set(v, &n);
    for (unsigned i = 0; i < NODE_RESOURCES_MAX; i++)
        snprintf(n.resources[i].name, sizeof n.resources[i].name, "other%u", i);
    cluster_view_set(v, &n); /* none of them as before */
    cluster_view_selfcheck(v);
    ck_assert_int_eq(cluster_view_available(v, 3, "other63"), 1);
    ck_assert_int_eq(cluster_view_available(v, 3, "r63"), 0);
    memset(n.resources[0].name, 'x', sizeof n.resources[0].name);
    n.resources[1] = n.resources[2];
    n.resources[2].available = 0; /* named twice: the first counts */
    n.resources[3].total = -1;
    n.resources[4].available = INT64_MAX;
    n.resources[5].available = INT64_MIN;
    cluster_view_set(v, &n);
    cluster_view_selfcheck(v);
    ck_assert_int_eq(cluster_view_available(v, 3, "other2"), 1);
    ck_assert_int_eq(cluster_view_available(v, 3, "other3"), 0);
    ck_assert_int_eq(cluster_view_available(v, 3, "other4"), 1);
    struct res_amount need = {"other5", 1}, said = {"other5", INT64_MIN};
    ck_assert_str_eq(pick_of(&need, 1), "wait there 3");
    cluster_view_rejected(v, 3, &need, 1, &said, 1, now);
    cluster_view_debit(v, 3, &need, 1, UINT32_MAX, now);
    ck_assert_str_eq(pick_of(&need, 1), "wait here 10");
    need.units = INT64_MAX;
    ck_assert_str_eq(pick_of(&need, 1), "nowhere 10");
}
END_TEST

/* --- beside a plain implementation --- */

enum { NODES = 200, NAMES = 6 }; /* more than the view counts at once */
static const char *const names[NAMES] =
    {"CPU", "GPU", "memory", "odd", "disk", "object_store_memory"};

struct plain {
    bool is_known, is_draining, is_held, has_rejected;
    int64_t total[NAMES], reported[NAMES], available[NAMES];
    unsigned n_waiting, n_sent;
    uint64_t due;
};

static struct plain plain[NODES];
static unsigned seed;

static unsigned dice(unsigned n)
{
    return (unsigned)rand_r(&seed) % n;
}

static void plain_expire(struct plain *p)
{
    if (p->due == 0 || now < p->due)
        return;
    memcpy(p->available, p->reported, sizeof p->available);
    p->is_held = p->has_rejected = false;
    p->n_sent = 0;
    p->due = 0;
}

static bool has(const int64_t *of, const int64_t *need)
{
    for (int i = 0; i < NAMES; i++)
        if (need[i] > 0 && of[i] < need[i])
            return false;
    return true;
}

static unsigned plain_rank(const struct plain *p, bool wants_gpu)
{
    unsigned used = 0;

    for (int i = 0; i < NAMES; i++) {
        if (p->total[i] == 0 || i == 1 || i == 3 || i == 4)
            continue;
        double share = 1 - (double)p->available[i] / (double)p->total[i];
        unsigned u = p->available[i] <= 0 ? 63
                     : share < 0.5        ? 0
                                          : 1 + (unsigned)((share - 0.5) * 124);
        used = u > used ? u : used;
    }
    return used + (!wants_gpu && p->total[1] > 0 ? 64 : 0);
}

/* How many are better than this one, by rank or, with the same, by number. */
static unsigned n_better(const int64_t *need, uint32_t than)
{
    unsigned n = 0, own = plain_rank(&plain[than], need[1] > 0);

    for (uint32_t k = 0; k < NODES; k++) {
        const struct plain *p = &plain[k];
        if (!p->is_known || p->is_draining || p->is_held || !has(p->available, need))
            continue;
        unsigned rank = plain_rank(p, need[1] > 0);
        n += rank < own || (rank == own && k < than);
    }
    return n;
}

static void check_pick(const int64_t *need, enum view_pick got, uint32_t number)
{
    unsigned n_known = 0, n_fit = 0, n_possible = 0, n_held = 0, fewest = UINT32_MAX;
    const struct plain *p = &plain[number], *self = &plain[SELF];

    for (uint32_t k = 0; k < NODES; k++) {
        const struct plain *q = &plain[k];
        n_known += q->is_known;
        if (!q->is_known || q->is_draining || !has(q->total, need))
            continue;
        n_held += q->is_held || q->has_rejected;
        n_fit += !q->is_held && has(q->available, need);
        if (q->is_held || q->has_rejected)
            continue;
        n_possible++;
        if (q->n_waiting + q->n_sent < fewest)
            fewest = q->n_waiting + q->n_sent;
    }
    bool here_ever = !self->is_draining && has(self->total, need);
    if (n_fit > 0) {
        bool gpu = need[1] > 0;
        bool here = here_ever && has(self->available, need);
        ck_assert(got == VIEW_HERE || got == VIEW_THERE);
        ck_assert(got == VIEW_HERE ? number == SELF : number != SELF);
        ck_assert(p->is_known && !p->is_draining && !p->is_held && has(p->available, need));
        unsigned best = UINT32_MAX;
        for (uint32_t k = 0; k < NODES; k++)
            if (plain[k].is_known && !plain[k].is_draining && !plain[k].is_held
                && has(plain[k].available, need) && plain_rank(&plain[k], gpu) < best)
                best = plain_rank(&plain[k], gpu);
        ck_assert_uint_eq(plain_rank(p, gpu) & 64, best & 64);
        if (here && plain_rank(self, gpu) == best)
            ck_assert_int_eq(got, VIEW_HERE);
        else
            ck_assert_uint_lt(n_better(need, number), n_known / 5 > 1 ? n_known / 5 : 1);
    } else if (here_ever) {
        ck_assert_int_eq(got, VIEW_WAIT_HERE);
    } else if (n_possible > 0) {
        ck_assert_int_eq(got, VIEW_WAIT_THERE);
        ck_assert(p->is_known && !p->is_draining && !p->is_held && !p->has_rejected);
        ck_assert(has(p->total, need));
        ck_assert_uint_eq(p->n_waiting + p->n_sent, fewest);
    } else {
        ck_assert_int_eq(got, n_held > 0 ? VIEW_WAIT_HERE : VIEW_NOWHERE);
    }
}

static void random_news(uint32_t k)
{
    struct node_view n = {.number = k,
                          .is_alive = dice(10) > 0,
                          .is_draining = dice(8) == 0,
                          .n_waiting = dice(5)};
    struct plain p = {.is_known = n.is_alive,
                      .is_draining = n.is_draining,
                      .n_waiting = n.n_waiting};

    for (unsigned i = 0, at = dice(NAMES); i < NAMES; i++, at = (at + 1) % NAMES) {
        if (at > 0 && dice(3) > 0)
            continue;
        p.total[at] = 1 + dice(8);
        p.reported[at] = (int64_t)dice((unsigned)p.total[at] + 2) - 1;
        p.available[at] = p.reported[at];
        give(&n, names[at], p.total[at], p.reported[at]);
    }
    plain[k] = p;
    cluster_view_set(v, &n);
}

static void random_self(void)
{
    struct plain *p = &plain[SELF];

    p->is_known = true;
    p->due = 0;
    memset(p->total, 0, sizeof p->total);
    resources_init(&ledger, p->total[0] = 1 + dice(6));
    for (int i = 1; i < NAMES; i++)
        if (dice(3) == 0) {
            p->total[i] = dice(5);
            ck_assert_int_eq(resources_add(&ledger, names[i], p->total[i], NULL), 0);
        }
    for (unsigned i = 0; i < ledger.n; i++)
        for (int j = 0; j < NAMES; j++)
            if (strcmp(ledger.names[i], names[j]) == 0)
                ledger.available[i] = (int64_t)dice((unsigned)ledger.total[i] + 1);
    memset(p->reported, 0, sizeof p->reported);
    for (unsigned i = 0; i < ledger.n; i++)
        for (int j = 0; j < NAMES; j++)
            if (strcmp(ledger.names[i], names[j]) == 0)
                p->reported[j] = ledger.available[i];
    memcpy(p->available, p->reported, sizeof p->available);
    p->n_sent = 0;
    cluster_view_set_self(v, &ledger);
}

static unsigned random_need(int64_t *units, struct res_amount *need)
{
    unsigned n = 0;

    memset(units, 0, NAMES * sizeof *units);
    for (int i = 0; i < NAMES; i++)
        if (dice(i == 0 ? 2 : 4) == 0) {
            units[i] = dice(4);
            need[n++] = (struct res_amount){names[i], units[i]};
        }
    return n;
}

START_TEST(twenty_thousand_random_events_agree_with_a_plain_implementation)
{
    unsigned n_seen[VIEW_NOWHERE + 1] = {0};

    memset(plain, 0, sizeof plain);
    seed = 4242 + (unsigned)_i;
    printf("seed %u\n", seed);
    random_self();
    for (int step = 0; step < 20000; step++) {
        unsigned kind = dice(100);
        uint32_t k = dice(step < 3000 ? 12 : NODES), number;
        int64_t units[NAMES];
        struct res_amount need[NAMES];
        unsigned n = random_need(units, need);
        struct plain *p = &plain[k];

        now += dice(300);
        for (uint32_t j = 0; j < NODES; j++)
            plain_expire(&plain[j]);
        if (kind < 20) {
            if (k != SELF)
                random_news(k);
            else
                random_self();
        } else if (kind < 40) {
            uint32_t times = dice(3);
            cluster_view_debit(v, k, need, n, times, now);
            for (int i = 0; p->is_known && i < NAMES; i++) {
                int64_t left = p->available[i] - units[i] * times;
                if (p->total[i] > 0 && p->available[i] > 0 && times > 0)
                    p->available[i] = left > 0 ? left : 0;
            }
            p->due = now + VIEW_DEBIT_MS;
        } else if (kind < 45) {
            cluster_view_add_waiting(v, k, 2, now);
            p->n_sent += 2;
            p->due = now + VIEW_DEBIT_MS;
        } else if (kind < 50 && k != SELF && p->is_known) {
            struct res_amount said[] = {{"CPU", dice(4)}, {"odd", dice(4)}};
            cluster_view_rejected(v, k, need, n, said, 2, now);
            for (int i = 0; i < NAMES; i += 3)
                if (p->total[i] > 0)
                    p->available[i] = p->reported[i] =
                        said[i / 3].units < p->total[i] ? said[i / 3].units : p->total[i];
            bool fits = true;
            for (int i = 0; i < NAMES; i++)
                fits &= p->total[i] == 0 || units[i] <= p->available[i] || units[i] == 0;
            p->is_held |= fits;
            p->has_rejected = true;
            p->due = now + VIEW_DEBIT_MS;
        } else {
            enum view_pick got = cluster_view_pick(v, need, n, now, &number);
            ck_assert_uint_lt(number, NODES);
            check_pick(units, got, number);
            n_seen[got]++;
        }
        cluster_view_selfcheck(v);
        for (int i = 0; p->is_known && i < NAMES; i++)
            ck_assert_int_eq(cluster_view_available(v, k, names[i]),
                             p->total[i] > 0 ? p->available[i] : 0);
    }
    for (int p = 0; p <= VIEW_NOWHERE; p++)
        ck_assert_msg(n_seen[p] > 20, "pick %d came %u times", p, n_seen[p]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cluster_view");
    TCase *c = tcase_create("cluster_view");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, below_half_this_node_is_preferred_then_the_least_used_is);
    tcase_add_test(c, memory_counts_as_cpu_does_and_other_resources_do_not);
    tcase_add_test(c, what_is_busy_waits_and_what_can_never_be_is_told_apart);
    tcase_add_test(c, those_that_can_run_nowhere_else_wait_where_the_fewest_do);
    tcase_add_test(c, nodes_with_a_gpu_are_left_to_those_that_want_one);
    tcase_add_test(c, what_was_sent_counts_as_taken_until_the_next_report_or_three_seconds);
    tcase_add_test(c, debits_of_one_node_do_not_prolong_those_of_another);
    tcase_add_test(c, inv_37_a_node_that_rejects_knows_better_than_the_view);
    tcase_add_test(c, a_node_is_asked_for_what_is_near_it_until_it_refuses);
    tcase_add_test(c, a_draining_node_takes_nothing_and_a_dead_one_is_forgotten);
    tcase_add_test(c, the_dice_choose_among_the_best_fifth_and_the_same_seed_throws_the_same);
    tcase_add_test(c, a_name_that_few_have_and_one_that_all_have_are_both_looked_at);
    tcase_add_test(c, reports_from_outside_do_no_harm);
    tcase_add_loop_test(c, twenty_thousand_random_events_agree_with_a_plain_implementation, 0, 4);
    suite_add_tcase(s, c);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
