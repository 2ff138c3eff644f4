/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/spill.h"

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { A = 10, B = 11 };

static struct spill *s;
static struct spill_actions out;

static void setup(void)
{
    s = spill_create();
}

static void teardown(void)
{
    spill_selfcheck(s);
    spill_destroy(s);
    spill_actions_clear(&out);
    free(out.v);
    out = (struct spill_actions){0};
}

/* What came out since the last look, as text. */
static const char *seen(void)
{
    static const char *const words[] = {"back", "canceled", "cancel", "gone"};
    static char text[4096];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < out.n; i++) {
        const struct spill_action *a = &out.v[i];
        n += (size_t)snprintf(text + n,
                              sizeof text - n,
                              "%s%s %u/%d",
                              i == 0 ? "" : ", ",
                              words[a->kind],
                              a->owner,
                              (int)a->ticket);
        if (a->kind == SPILL_BACK || a->kind == SPILL_CANCELED)
            n += (size_t)snprintf(text + n, sizeof text - n, " x%u", a->count);
        else
            n += (size_t)snprintf(text + n, sizeof text - n, " at %u", a->node);
        if (a->kind == SPILL_BACK)
            n += (size_t)snprintf(text + n,
                                  sizeof text - n,
                                  " %.*s",
                                  (int)a->size,
                                  (const char *)a->request);
    }
    spill_actions_clear(&out);
    spill_selfcheck(s);
    return text;
}

static void send_at(uint32_t node, uint32_t owner, uint64_t ticket, uint32_t count, uint64_t ms)
{
    struct spill_units u = {.owner = owner,
                            .node = node,
                            .count = count,
                            .ticket = ticket,
                            .asked_ms = ms / 2,
                            .sent_ms = ms};

    spill_sent(s, &u, "as asked", 8);
}

static void send_to(uint32_t node, uint32_t owner, uint64_t ticket, uint32_t count)
{
    send_at(node, owner, ticket, count, 0);
}

static struct spill_units looked_at[4];
static unsigned n_seen;

static void see(void *arg, const struct spill_units *units, const void *request, size_t size)
{
    (void)arg;
    ck_assert_uint_eq(size, 8);
    ck_assert_mem_eq(request, "as asked", 8);
    ck_assert_uint_lt(n_seen, 4);
    looked_at[n_seen++] = *units;
}

START_TEST(what_is_out_can_be_looked_at)
{
    send_at(3, A, 1, 4, 100);
    send_at(3, A, 1, 1, 300); /* the oldest that asked, the newest that was sent */
    send_at(4, B, 9, 2, 50);
    spill_canceled(s, B, 9, &out);
    spill_each(s, see, NULL);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert(looked_at[0].owner == A && looked_at[0].node == 3 && looked_at[0].count == 5
              && looked_at[0].ticket == 1);
    ck_assert(looked_at[0].asked_ms == 50 && looked_at[0].sent_ms == 300);
    spill_actions_clear(&out);
    spill_rejected(s, A, 1, 3, 2, &out);
    ck_assert_uint_eq(out.v[0].asked_ms, 50);
}
END_TEST

START_TEST(inv_18_what_another_node_answers_is_counted_once)
{
    send_to(3, A, 1, 4);
    send_to(4, A, 1, 2);
    send_to(3, A, 1, 1);
    send_to(3, A, 1, 0);
    ck_assert_uint_eq(spill_count(s, 3), 5);
    ck_assert_uint_eq(spill_answered(s, A, 1, 3, 1), 1);
    ck_assert_uint_eq(spill_answered(s, A, 2, 3, 1), 0);
    ck_assert_uint_eq(spill_answered(s, B, 1, 3, 1), 0);
    ck_assert_uint_eq(spill_answered(s, A, 1, 3, 9), 4); /* more than it has */
    ck_assert_uint_eq(spill_answered(s, A, 1, 3, 1), 0);
    ck_assert_uint_eq(spill_count(s, 0), 2);
}
END_TEST

START_TEST(what_a_node_rejects_comes_back_with_its_request)
{
    send_to(3, A, 1, 4);
    spill_rejected(s, A, 1, 3, 3, &out);
    ck_assert_str_eq(seen(), "back 10/1 x3 as asked");
    send_to(4, A, 1, 3); /* on it goes */
    spill_rejected(s, A, 1, 3, 3, &out);
    ck_assert_str_eq(seen(), "back 10/1 x1 as asked");
    spill_rejected(s, A, 1, 3, 1, &out);
    ck_assert_str_eq(seen(), "");
    ck_assert_uint_eq(spill_count(s, 4), 3);
}
END_TEST

START_TEST(a_cancel_is_told_once_to_each_node_and_what_comes_back_is_answered)
{
    send_to(3, A, 1, 4);
    send_to(4, A, 1, 1);
    send_to(5, A, 2, 1);
    send_to(6, B, 1, 1);
    spill_canceled(s, A, 1, &out);
    ck_assert_str_eq(seen(), "cancel 10/1 at 3, cancel 10/1 at 4");
    spill_canceled(s, A, 1, &out);
    ck_assert_str_eq(seen(), "");
    ck_assert_uint_eq(spill_answered(s, A, 1, 3, 1), 1); /* granted on the way */
    spill_rejected(s, A, 1, 3, 2, &out);                 /* rejected on the way */
    ck_assert_str_eq(seen(), "canceled 10/1 x2");
    ck_assert_uint_eq(spill_answered(s, A, 1, 3, 1), 1); /* its CANCELED */
    spill_node_died(s, 4, &out);
    ck_assert_str_eq(seen(), "canceled 10/1 x1");
    ck_assert_uint_eq(spill_count(s, 0), 2);
}
END_TEST

START_TEST(what_is_asked_for_after_a_cancel_is_not_canceled)
{
    send_to(3, A, 1, 2);
    spill_canceled(s, A, 1, &out);
    send_to(3, A, 1, 3);
    ck_assert_str_eq(seen(), "cancel 10/1 at 3");
    for (uint64_t ticket = 2; ticket < 20; ticket++) /* the table grows */
        send_to(3, A, ticket, 1);
    spill_rejected(s, A, 1, 3, 3, &out); /* the older ones were */
    ck_assert_str_eq(seen(), "canceled 10/1 x2, back 10/1 x1 as asked");
    spill_canceled(s, A, 1, &out);
    ck_assert_str_eq(seen(), "cancel 10/1 at 3");
}
END_TEST

START_TEST(inv_12_an_owner_that_died_gets_no_answer_and_its_nodes_are_told)
{
    send_to(3, A, 1, 2);
    send_to(3, A, 2, 2);
    send_to(4, A, 1, 2);
    send_to(4, B, 1, 1);
    spill_owner_died(s, A, &out);
    ck_assert_uint_eq(out.n, 2);
    ck_assert_uint_eq(out.v[0].node + out.v[1].node, 7);
    ck_assert_int_eq(out.v[0].kind, SPILL_GONE);
    seen();
    spill_rejected(s, A, 1, 3, 1, &out);
    spill_node_died(s, 3, &out);
    ck_assert_str_eq(seen(), "");
    spill_node_died(s, 4, &out);
    ck_assert_str_eq(seen(), "back 11/1 x1 as asked");
}
END_TEST

/* --- several nodes, links with frames on their way, owners that cancel and die --- */

enum { NODES = 5, OWNERS = 8, TICKETS = 3000, FRAMES = 4000 };

struct frame {
    enum { REQUEST, CANCEL, DIED, GRANT, CANCELED, REFUSED, REJECTED } kind;
    uint32_t owner, count;
    uint64_t ticket;
};

struct link {
    struct frame v[FRAMES];
    size_t head, tail;
};

static struct world {
    unsigned seed, n_tickets, n_seen[SPILL_GONE + 1];
    struct link to[NODES], from[NODES];
    bool dead[NODES];
    unsigned waiting[NODES][TICKETS]; /* there */
    unsigned owed[TICKETS], here[TICKETS];
    bool canceled[TICKETS];
    uint32_t owner[TICKETS];
    uint32_t owners[OWNERS], last_owner;
} w;

static unsigned dice(unsigned n)
{
    return (unsigned)rand_r(&w.seed) % n;
}

static void put(struct link *l, struct frame f)
{
    ck_assert_uint_lt(l->tail - l->head, FRAMES);
    l->v[l->tail++ % FRAMES] = f;
}

static bool get(struct link *l, struct frame *f)
{
    if (l->head == l->tail)
        return false;
    *f = l->v[l->head++ % FRAMES];
    return true;
}

static void answer(uint64_t ticket, uint32_t count)
{
    ck_assert_uint_ge(w.owed[ticket], count); /* INV-18 */
    w.owed[ticket] -= count;
}

static void carry_out(void)
{
    for (size_t i = 0; i < out.n; i++) {
        const struct spill_action *a = &out.v[i];
        w.n_seen[a->kind]++;
        if (a->kind == SPILL_BACK) {
            ck_assert_mem_eq(a->request, &a->ticket, sizeof a->ticket);
            ck_assert(!w.canceled[a->ticket]);
            w.here[a->ticket] += a->count;
        } else if (a->kind == SPILL_CANCELED) {
            ck_assert(w.canceled[a->ticket]);
            answer(a->ticket, a->count);
        } else {
            put(&w.to[a->node - 1],
                (struct frame){a->kind == SPILL_CANCEL ? CANCEL : DIED, a->owner, 0, a->ticket});
        }
    }
    spill_actions_clear(&out);
    spill_selfcheck(s);
}

static void node_says(unsigned k, int kind, uint64_t ticket, uint32_t count)
{
    w.waiting[k][ticket] -= count;
    if (count > 0)
        put(&w.from[k], (struct frame){(unsigned)kind, w.owner[ticket], count, ticket});
}

static void node_hears(unsigned k)
{
    struct frame f;

    if (!get(&w.to[k], &f))
        return;
    if (f.kind == DIED) {
        for (unsigned t = 0; t < w.n_tickets; t++)
            if (w.owner[t] == f.owner)
                w.waiting[k][t] = 0;
        return;
    }
    if (f.kind == CANCEL) {
        node_says(k, CANCELED, f.ticket, w.waiting[k][f.ticket]);
        return;
    }
    w.waiting[k][f.ticket] += f.count;
    if (dice(2) == 0)
        node_says(k, REJECTED, f.ticket, 1 + dice(f.count));
}

/* Grants what waits, or refuses or rejects some of it. */
static void node_works(unsigned k)
{
    unsigned t = dice(w.n_tickets);

    for (unsigned i = 0; i < w.n_tickets && w.waiting[k][t] == 0; i++)
        t = (t + 1) % w.n_tickets;
    if (w.waiting[k][t] == 0)
        return;
    unsigned what = dice(10);
    if (what < 6)
        node_says(k, GRANT, t, 1);
    else
        node_says(k, what < 8 ? REFUSED : REJECTED, t, 1 + dice(w.waiting[k][t]));
}

static void here_hears(unsigned k)
{
    struct frame f;

    if (!get(&w.from[k], &f))
        return;
    if (f.kind == REJECTED)
        spill_rejected(s, f.owner, f.ticket, k + 1, f.count, &out);
    else
        answer(f.ticket, spill_answered(s, f.owner, f.ticket, k + 1, f.count));
}

static void node_dies(unsigned k)
{
    w.to[k].head = w.to[k].tail;
    w.from[k].head = w.from[k].tail;
    memset(w.waiting[k], 0, sizeof w.waiting[k]);
    spill_node_died(s, k + 1, &out);
    ck_assert_uint_eq(spill_count(s, k + 1), 0);
    w.dead[k] = true;
}

static void owner_cancels(uint64_t ticket)
{
    if (w.canceled[ticket])
        return;
    w.canceled[ticket] = true;
    answer(ticket, w.here[ticket]);
    w.here[ticket] = 0;
    spill_canceled(s, w.owner[ticket], ticket, &out);
}

static void owner_dies(unsigned i)
{
    for (unsigned t = 0; t < w.n_tickets; t++)
        if (w.owner[t] == w.owners[i])
            w.owed[t] = w.here[t] = 0;
    spill_owner_died(s, w.owners[i], &out);
    w.owners[i] = ++w.last_owner;
}

static void send_some(void)
{
    unsigned t = dice(w.n_tickets), k = dice(NODES);

    for (unsigned i = 0; i < w.n_tickets && w.here[t] == 0; i++)
        t = (t + 1) % w.n_tickets;
    if (w.here[t] == 0 || w.dead[k])
        return;
    uint32_t count = 1 + dice(w.here[t]);
    uint64_t ticket = t;
    w.here[t] -= count;
    spill_sent(
        s,
        &(struct spill_units){.owner = w.owner[t], .node = k + 1, .count = count, .ticket = t},
        &ticket,
        sizeof ticket);
    put(&w.to[k], (struct frame){REQUEST, w.owner[t], count, t});
}

static uint64_t count_if_alive(uint32_t owner, uint32_t count)
{
    for (unsigned i = 0; i < OWNERS; i++)
        if (w.owners[i] == owner)
            return count;
    return 0;
}

static uint64_t count_in(const struct link *l, bool to)
{
    uint64_t n = 0;

    for (size_t i = l->head; i < l->tail; i++) {
        const struct frame *f = &l->v[i % FRAMES];
        if (!to || f->kind == REQUEST)
            n += count_if_alive(f->owner, f->count);
    }
    return n;
}

static void check_counts(void)
{
    for (unsigned k = 0; k < NODES; k++) {
        uint64_t n = count_in(&w.to[k], true) + count_in(&w.from[k], false);
        for (unsigned t = 0; t < w.n_tickets; t++)
            n += count_if_alive(w.owner[t], w.waiting[k][t]);
        ck_assert_uint_eq(spill_count(s, k + 1), n);
    }
}

static void step(unsigned n_new)
{
    unsigned what = dice(100), k = dice(NODES);

    if (what < 8 && w.n_tickets < n_new) {
        w.owner[w.n_tickets] = w.owners[dice(OWNERS)];
        w.here[w.n_tickets] = w.owed[w.n_tickets] = 1 + dice(6);
        w.n_tickets++;
    } else if (what < 30) {
        send_some();
    } else if (what < 50) {
        node_hears(k);
    } else if (what < 70) {
        node_works(k);
    } else if (what < 90) {
        here_hears(k);
    } else if (what < 94) {
        owner_cancels(dice(w.n_tickets));
    }
    carry_out();
}

START_TEST(inv_18_each_unit_is_answered_once_whatever_happens)
{
    memset(&w, 0, sizeof w);
    w.seed = 777 + (unsigned)_i;
    printf("seed %u\n", w.seed);
    for (unsigned i = 0; i < OWNERS; i++)
        w.owners[i] = ++w.last_owner;
    w.owner[0] = w.owners[0];
    w.owed[0] = w.here[0] = 1;
    w.n_tickets = 1;
    for (int i = 0; i < 20000; i++) {
        step(TICKETS);
        unsigned rare = dice(1000);
        if (rare == 0) {
            owner_dies(dice(OWNERS));
            carry_out();
        } else if (rare == 1) {
            unsigned k = dice(NODES);
            if (!w.dead[k])
                node_dies(k);
            else
                w.dead[k] = false; /* another one has come */
            carry_out();
        }
        if (i % 16 == 0)
            check_counts();
    }
    for (int i = 0; i < 200000 && (spill_count(s, 0) > 0 || i < 1000); i++)
        step(0);
    for (unsigned t = 0; t < w.n_tickets; t++)
        owner_cancels(t);
    carry_out();
    for (int i = 0; i < 1000000 && spill_count(s, 0) > 0; i++)
        step(0);
    ck_assert_uint_eq(spill_count(s, 0), 0);
    for (unsigned t = 0; t < w.n_tickets; t++)
        ck_assert_uint_eq(w.owed[t], 0);
    for (int kind = 0; kind <= SPILL_GONE; kind++)
        ck_assert_msg(w.n_seen[kind] > 0, "action %d never came", kind);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spill");
    TCase *c = tcase_create("spill");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, what_is_out_can_be_looked_at);
    tcase_add_test(c, inv_18_what_another_node_answers_is_counted_once);
    tcase_add_test(c, what_a_node_rejects_comes_back_with_its_request);
    tcase_add_test(c, a_cancel_is_told_once_to_each_node_and_what_comes_back_is_answered);
    tcase_add_test(c, what_is_asked_for_after_a_cancel_is_not_canceled);
    tcase_add_test(c, inv_12_an_owner_that_died_gets_no_answer_and_its_nodes_are_told);
    tcase_add_loop_test(c, inv_18_each_unit_is_answered_once_whatever_happens, 0, 4);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
