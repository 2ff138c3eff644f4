/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/inbox.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

static struct inbox *b;
static struct inbox_actions out;

static void setup(void)
{
    b = inbox_create();
    memset(&out, 0, sizeof out);
}

static void teardown(void)
{
    inbox_selfcheck(b);
    inbox_destroy(b);
    free(out.v);
}

static bool push(uint64_t lease, uint8_t slot)
{
    char body[32];
    int n = snprintf(body, sizeof body, "task %u", slot);

    bool ok = inbox_push(b, lease, slot, 1, body, (uint32_t)n, &out);
    inbox_selfcheck(b);
    return ok;
}

/* The slot of the next task claimed, or -1. */
static int claim_but(uint64_t waiting)
{
    uint64_t started;
    const struct inbox_task *t = inbox_claim(b, waiting, &started);

    inbox_selfcheck(b);
    return t != NULL ? t->slot : -1;
}

static int claim(void)
{
    return claim_but(0);
}

/* The only action since the last call. */
static struct inbox_action action(void)
{
    ck_assert_uint_eq(out.n, 1);
    out.n = 0;
    return out.v[0];
}

static void expect(enum inbox_kind kind, uint64_t lease, uint64_t mask, uint32_t asked)
{
    struct inbox_action a = action();

    ck_assert_int_eq(a.kind, kind);
    ck_assert_uint_eq(a.lease, lease);
    ck_assert_uint_eq(a.mask, mask);
    ck_assert_uint_eq(a.asked, asked);
}

START_TEST(tasks_are_claimed_in_the_order_they_were_pushed)
{
    uint64_t started;

    ck_assert(inbox_lease_begin(b, 7));
    push(7, 3);
    push(7, 1);
    push(7, 2);
    const struct inbox_task *t = inbox_claim(b, 0, &started);
    ck_assert_int_eq(memcmp(t->push, "task 3", t->size), 0);
    ck_assert_int_eq(claim(), -1); /* one body at a time */
    inbox_finish(b, 0, &out);
    ck_assert_int_eq(claim(), 1);
    inbox_finish(b, 0, &out);
    ck_assert_int_eq(claim(), 2);
    inbox_finish(b, 0, &out);
    ck_assert(inbox_is_empty(b));
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(tasks_that_wait_are_passed_over_while_there_are_others)
{
    ck_assert(inbox_lease_begin(b, 7));
    for (uint8_t slot = 0; slot < 5; slot++)
        push(7, slot);
    push(8, 6); /* held: no other task */
    const uint64_t waiting = 1u << 0 | 1u << 1 | 1u << 3 | 1u << 6;
    static const int order[] = {2, 4, 0, 1, 3};
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(claim_but(i < 3 ? waiting : 0), order[i]);
        inbox_finish(b, 0, &out);
    }
    ck_assert_int_eq(claim_but(waiting), -1);
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(a_claim_sets_the_started_bit_to_the_phase_of_its_push)
{
    uint64_t started;

    inbox_lease_begin(b, 1);
    for (int i = 0; i < 4; i++) { /* a slot used again flips */
        inbox_push(b, 1, 5, (uint8_t)(1 - i % 2), "", 0, &out);
        inbox_claim(b, 0, &started);
        ck_assert_uint_eq(started, i % 2 == 0 ? 1ull << 5 : 0);
        inbox_finish(b, 0, &out);
    }
    inbox_push(b, 1, 63, 1, "", 0, &out);
    inbox_claim(b, 0, &started);
    ck_assert_uint_eq(started, 1ull << 63);
    inbox_finish(b, 0, &out);
}
END_TEST

START_TEST(a_new_lease_begins_with_nothing_started)
{
    uint64_t started;

    inbox_lease_begin(b, 1);
    push(1, 0);
    claim();
    inbox_finish(b, 0, &out);
    inbox_revoke(b, 1, 0, 0, &out);
    inbox_lease_begin(b, 2);
    push(2, 1);
    inbox_claim(b, 0, &started);
    ck_assert_uint_eq(started, 2);
}
END_TEST

START_TEST(a_push_of_an_older_lease_is_bounced)
{
    inbox_lease_begin(b, 7);
    push(6, 3);
    expect(INBOX_BOUNCED, 6, 0, 3);
    ck_assert(inbox_is_empty(b));
}
END_TEST

START_TEST(a_push_of_a_lease_that_ended_is_bounced)
{
    inbox_lease_begin(b, 7);
    inbox_revoke(b, 7, 0, 0, &out);
    expect(INBOX_ENDED, 7, 0, 0);
    push(7, 9);
    expect(INBOX_BOUNCED, 7, 0, 9);
}
END_TEST

START_TEST(a_push_of_a_newer_lease_is_held_until_it_begins)
{
    push(4, 0);
    push(4, 1);
    ck_assert_int_eq(claim(), -1);
    ck_assert(inbox_is_empty(b));
    inbox_lease_begin(b, 4);
    ck_assert_int_eq(claim(), 0);
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(held_pushes_are_left_alone_by_all_that_concerns_the_lease)
{
    inbox_lease_begin(b, 1);
    push(1, 0);
    push(2, 0);
    push(1, 1);
    push(2, 1);
    claim();
    inbox_take_back(b, 1, 64, &out);
    expect(INBOX_RETURNED, 1, 2, 1);
    push(1, 2);
    inbox_block(b, &out);
    expect(INBOX_RETURNED, 1, 4, 0);
    inbox_owner_gone(b);
    inbox_revoke(b, 1, 0, 0, &out);
    inbox_finish(b, 0, &out);
    expect(INBOX_ENDED, 1, 0, 0);
    inbox_lease_begin(b, 2);
    inbox_selfcheck(b);
    ck_assert_int_eq(claim(), 0);
    inbox_finish(b, 0, &out);
    ck_assert_int_eq(claim(), 1);
}
END_TEST

START_TEST(a_lease_that_comes_early_begins_when_the_old_one_has_ended)
{
    inbox_lease_begin(b, 1);
    push(1, 0);
    push(2, 5);
    claim();
    ck_assert(!inbox_lease_begin(b, 2));
    ck_assert_uint_eq(inbox_lease(b), 1);
    inbox_revoke(b, 1, 100, 0, &out);
    ck_assert_uint_eq(out.n, 0);
    inbox_finish(b, 10, &out);
    expect(INBOX_ENDED, 1, 0, 0);
    ck_assert_uint_eq(inbox_lease(b), 2);
    ck_assert_int_eq(claim(), 5);
}
END_TEST

START_TEST(held_pushes_of_a_lease_that_never_begins_are_bounced)
{
    push(3, 1);
    push(5, 2);
    push(4, 3);
    inbox_lease_begin(b, 5);
    inbox_selfcheck(b);
    inbox_on_time(b, 0, &out);
    ck_assert_uint_eq(out.n, 2);
    ck_assert_int_eq(out.v[0].kind, INBOX_BOUNCED);
    ck_assert_uint_eq(out.v[0].lease, 3);
    ck_assert_uint_eq(out.v[1].lease, 4);
    out.n = 0;
    ck_assert_int_eq(claim(), 2);
}
END_TEST

START_TEST(a_lease_number_never_begins_twice)
{
    ck_assert(inbox_lease_begin(b, 5));
    inbox_revoke(b, 5, 0, 0, &out);
    ck_assert(!inbox_lease_begin(b, 5));
    ck_assert(!inbox_lease_begin(b, 4));
    ck_assert(!inbox_lease_begin(b, 0));
    ck_assert_uint_eq(inbox_lease(b), 0);
}
END_TEST

START_TEST(take_back_gives_the_last_pushed_and_never_the_claimed_one)
{
    inbox_lease_begin(b, 7);
    for (uint8_t i = 0; i < 5; i++)
        push(7, i);
    claim();
    inbox_take_back(b, 7, 2, &out);
    expect(INBOX_RETURNED, 7, 1ull << 3 | 1ull << 4, 1);
    inbox_take_back(b, 7, 64, &out);
    expect(INBOX_RETURNED, 7, 1ull << 1 | 1ull << 2, 1);
    inbox_take_back(b, 7, 1, &out);
    expect(INBOX_RETURNED, 7, 0, 1);
}
END_TEST

START_TEST(inv_18_a_take_back_of_another_lease_is_answered_with_nothing)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    inbox_take_back(b, 6, 1, &out);
    expect(INBOX_RETURNED, 6, 0, 1);
    ck_assert_int_eq(claim(), 0);
}
END_TEST

START_TEST(a_worker_that_blocks_gives_back_what_is_unclaimed_and_what_arrives)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    push(7, 1);
    claim();
    inbox_block(b, &out);
    expect(INBOX_RETURNED, 7, 2, 0);
    push(7, 2);
    expect(INBOX_RETURNED, 7, 4, 0);
    inbox_unblock(b);
    push(7, 3);
    ck_assert_uint_eq(out.n, 0);
    inbox_finish(b, 0, &out);
    ck_assert_int_eq(claim(), 3);
}
END_TEST

START_TEST(a_revoked_idle_lease_ends_at_once)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    claim();
    inbox_finish(b, 0, &out);
    inbox_revoke(b, 7, 1000, 0, &out);
    expect(INBOX_ENDED, 7, 0, 0);
    ck_assert_uint_eq(inbox_lease(b), 0);
    inbox_revoke(b, 7, 1000, 0, &out); /* said again: nothing more */
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(a_revoked_lease_waits_for_its_first_push_and_no_longer_than_5_ms)
{
    uint64_t grace = 500000000;

    inbox_lease_begin(b, 7);
    inbox_revoke(b, 7, 100 + grace, 100, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 100 + INBOX_FIRST_NS);
    inbox_on_time(b, 99 + INBOX_FIRST_NS, &out);
    inbox_revoke(b, 7, 99 + INBOX_FIRST_NS + grace, 99 + INBOX_FIRST_NS, &out);
    ck_assert_uint_eq(out.n, 0); /* said again: no longer for that */
    push(7, 0);
    ck_assert_uint_eq(inbox_next_deadline(b), 100 + grace);
    inbox_on_time(b, 100 + INBOX_FIRST_NS, &out);
    claim();
    ck_assert_uint_eq(out.n, 0);
    inbox_finish(b, 101 + INBOX_FIRST_NS, &out);
    expect(INBOX_ENDED, 7, 0, 0);

    inbox_lease_begin(b, 8); /* its first does not come */
    inbox_revoke(b, 8, grace, 0, &out);
    inbox_on_time(b, INBOX_FIRST_NS, &out);
    expect(INBOX_ENDED, 8, 0, 0);

    push(9, 1); /* its first came before the raylet's word */
    inbox_lease_begin(b, 9);
    claim();
    inbox_finish(b, 0, &out);
    inbox_revoke(b, 9, grace, 0, &out);
    expect(INBOX_ENDED, 9, 0, 0);
}
END_TEST

START_TEST(a_revoked_lease_waits_for_its_first_push_no_longer_than_its_grace)
{
    inbox_lease_begin(b, 7);
    inbox_revoke(b, 7, 1000, 0, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 1000);
    inbox_revoke(b, 7, 500, 200, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 500);
    inbox_on_time(b, 499, &out);
    ck_assert_uint_eq(out.n, 0);
    inbox_on_time(b, 500, &out);
    expect(INBOX_ENDED, 7, 0, 0);
    inbox_lease_begin(b, 8);
    inbox_revoke(b, 8, 500, 500, &out); /* without grace: at once */
    expect(INBOX_ENDED, 8, 0, 0);
}
END_TEST

START_TEST(a_revoked_lease_works_on_within_its_grace_and_ends_when_idle)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    push(7, 1);
    claim();
    inbox_revoke(b, 7, 1000, 0, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 1000);
    inbox_finish(b, 10, &out);
    ck_assert_uint_eq(out.n, 0);
    ck_assert_int_eq(claim(), 1);
    inbox_finish(b, 20, &out);
    expect(INBOX_ENDED, 7, 0, 0);
    ck_assert_uint_eq(inbox_next_deadline(b), UINT64_MAX);
}
END_TEST

START_TEST(after_its_grace_a_revoked_lease_returns_the_rest_and_ends_after_the_body)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    push(7, 1);
    claim();
    inbox_revoke(b, 7, 1000, 0, &out);
    inbox_on_time(b, 999, &out);
    ck_assert_uint_eq(out.n, 0);
    inbox_on_time(b, 1000, &out);
    expect(INBOX_RETURNED, 7, 2, 0);
    ck_assert_uint_eq(inbox_next_deadline(b), UINT64_MAX);
    push(7, 2); /* was on its way */
    expect(INBOX_RETURNED, 7, 4, 0);
    inbox_unblock(b);
    push(7, 2);
    expect(INBOX_RETURNED, 7, 4, 0);
    inbox_finish(b, 5000, &out);
    expect(INBOX_ENDED, 7, 0, 0);
}
END_TEST

START_TEST(a_second_revocation_can_only_shorten_the_grace)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    claim();
    inbox_revoke(b, 7, 1000, 0, &out);
    inbox_revoke(b, 7, 2000, 0, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 1000);
    inbox_revoke(b, 7, 500, 0, &out);
    ck_assert_uint_eq(inbox_next_deadline(b), 500);
    inbox_revoke(b, 8, 0, 0, &out); /* another lease: not ours */
    ck_assert_uint_eq(inbox_next_deadline(b), 500);
    ck_assert_uint_eq(out.n, 0);
}
END_TEST

START_TEST(inv_7_tasks_of_an_owner_that_is_gone_do_not_start)
{
    inbox_lease_begin(b, 7);
    push(7, 0);
    push(7, 1);
    claim();
    inbox_owner_gone(b);
    inbox_finish(b, 0, &out);
    ck_assert_int_eq(claim(), -1);
    inbox_revoke(b, 7, 0, 0, &out);
    expect(INBOX_ENDED, 7, 0, 0);
}
END_TEST

START_TEST(malformed_pushes_are_refused_without_harm)
{
    inbox_lease_begin(b, 7);
    ck_assert(!push(7, 64));
    ck_assert(!push(7, 255));
    ck_assert(push(7, 0));
    ck_assert(!push(7, 0)); /* taken */
    claim();
    ck_assert(!push(7, 0)); /* claimed */
    ck_assert(push(9, 1));
    ck_assert(!push(9, 1)); /* taken by a held one */
    for (uint8_t i = 1; i < 64; i++)
        ck_assert(push(7, i));
    unsigned n = 0; /* of leases that do not exist: bounded */
    for (uint64_t lease = 100; push(lease, 3); lease++)
        n++;
    ck_assert_uint_le(n, 64);
}
END_TEST

START_TEST(no_memory_for_a_long_push_is_refused_without_harm)
{
    static uint8_t body[100000];

    inbox_lease_begin(b, 7);
    alloc_test_fail_at(1);
    ck_assert(!inbox_push(b, 7, 0, 1, body, sizeof body, &out));
    alloc_test_fail_at(0);
    inbox_selfcheck(b);
    ck_assert_int_eq(claim(), -1);
    ck_assert(inbox_push(b, 7, 0, 1, body, sizeof body, &out));
    ck_assert_int_eq(claim(), 0);
}
END_TEST

START_TEST(warm_work_allocates_nothing)
{
    static const char body[200];
    uint64_t started;

    inbox_lease_begin(b, 7);
    for (int round = 0; round < 2; round++) {
        unsigned long before = alloc_count();
        for (int i = 0; i < 10000; i++) {
            inbox_push(b, 7, (uint8_t)(i % 64), 1, body, (uint32_t)i % 200, &out);
            if (i % 3 == 0)
                inbox_take_back(b, 7, 1, &out);
            else if (inbox_claim(b, 0, &started) != NULL)
                inbox_finish(b, 0, &out);
            out.n = 0;
        }
        if (round == 1)
            ck_assert_uint_eq(alloc_count(), before);
    }
}
END_TEST

/* The owner's view: what each slot must be. Every push ends exactly once, as run, returned or
 * bounced. */
static struct {
    uint64_t lease; /* owner's: 0 none */
    uint64_t pushed, claimed;
    uint64_t phases, started;
    uint64_t order[64]; /* serial of the push in the slot */
    uint64_t n_pushed, n_done, n_returned, n_bounced;
    bool begun, ended, revoked;
} m;

static void carry_out(void)
{
    for (size_t i = 0; i < out.n; i++) {
        const struct inbox_action *a = &out.v[i];
        ck_assert_uint_eq(a->lease, m.lease);
        switch (a->kind) {
        case INBOX_RETURNED:
            ck_assert(!m.ended);
            ck_assert_uint_eq(a->mask & ~(m.pushed & ~m.claimed), 0);
            m.pushed &= ~a->mask;
            m.n_returned += (uint64_t)__builtin_popcountll(a->mask);
            break;
        case INBOX_BOUNCED:
            ck_assert(m.ended);
            ck_assert(m.pushed & 1ull << a->asked);
            m.pushed &= ~(1ull << a->asked);
            m.n_bounced++;
            break;
        case INBOX_ENDED:
            ck_assert(m.begun && m.revoked && !m.ended);
            ck_assert_uint_eq(m.pushed, 0);
            m.ended = true;
            break;
        }
    }
    out.n = 0;
}

START_TEST(ten_thousand_random_steps_agree_with_the_owners_view)
{
    const char *given = getenv("SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 0) : 20251121;
    uint64_t now = 0, next_lease = 1, serial = 0, last_claim = 0, started;
    static uint8_t body[300000];

    printf("inbox_test: SEED=%u\n", seed);
    srandom(seed);
    memset(&m, 0, sizeof m);
    for (int step = 0; step < 10000; step++) {
        now += (uint64_t)random() % 20;
        int what = (int)(random() % 20);
        if (what < 8 && m.lease != 0) {
            unsigned slot = (unsigned)random() % 64;
            if (m.pushed >> slot & 1)
                continue;
            uint32_t size = (uint32_t)random() % (random() % 50 == 0 ? 300000 : 200) + 8;
            m.order[slot] = ++serial;
            memcpy(body, &serial, sizeof serial);
            m.pushed |= 1ull << slot;
            m.n_pushed++;
            ck_assert(
                inbox_push(b, m.lease, (uint8_t)slot, m.phases >> slot & 1, body, size, &out));
        } else if (what < 12) {
            const struct inbox_task *t = inbox_claim(b, 0, &started);
            if (t != NULL) {
                uint64_t bit = 1ull << t->slot, got;
                memcpy(&got, t->push, sizeof got);
                ck_assert(m.begun && !m.ended && m.claimed == 0);
                ck_assert_uint_eq(got, m.order[t->slot]);
                ck_assert_uint_gt(got, last_claim);
                last_claim = got;
                m.claimed = bit;
                m.started = (m.started & ~bit) | (m.phases & bit);
                ck_assert_uint_eq(started, m.started);
                /* the rule the owner reads the mask by: of its tasks exactly those that started */
                ck_assert_uint_eq(~(started ^ m.phases) & m.pushed, bit);
            }
        } else if (what < 16) {
            if (m.claimed != 0) {
                m.pushed &= ~m.claimed;
                m.phases ^= m.claimed;
                m.claimed = 0;
                m.n_done++;
                inbox_finish(b, now, &out);
            }
        } else if (what == 16) {
            if (m.begun && !m.ended)
                inbox_take_back(b, m.lease, (uint32_t)random() % 8, &out);
        } else if (what == 17) {
            if (m.claimed != 0 && random() % 2)
                inbox_block(b, &out);
            else
                inbox_unblock(b);
        } else if (what == 18) {
            if (m.begun && !m.ended && random() % 4 == 0) {
                m.revoked = true;
                inbox_revoke(b, m.lease, now + (uint64_t)random() % 200, now, &out);
            }
            inbox_on_time(b, now, &out);
        } else if (m.lease == 0 || m.ended) { /* grant */
            if (m.pushed != 0)
                continue;
            m.lease = next_lease++;
            m.phases = UINT64_MAX;
            m.started = m.claimed = 0;
            m.begun = m.ended = m.revoked = false;
        } else if (!m.begun) {
            m.begun = true;
            ck_assert(inbox_lease_begin(b, m.lease));
        }
        carry_out();
        inbox_selfcheck(b);
        ck_assert_uint_eq(m.n_pushed,
                          m.n_done + m.n_returned + m.n_bounced
                              + (uint64_t)__builtin_popcountll(m.pushed));
    }
    ck_assert(m.n_done > 100 && m.n_returned > 100 && m.n_bounced > 0 && next_lease > 10);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("inbox");
    TCase *c = tcase_create("inbox");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, tasks_are_claimed_in_the_order_they_were_pushed);
    tcase_add_test(c, tasks_that_wait_are_passed_over_while_there_are_others);
    tcase_add_test(c, a_claim_sets_the_started_bit_to_the_phase_of_its_push);
    tcase_add_test(c, a_new_lease_begins_with_nothing_started);
    tcase_add_test(c, a_push_of_an_older_lease_is_bounced);
    tcase_add_test(c, a_push_of_a_lease_that_ended_is_bounced);
    tcase_add_test(c, a_push_of_a_newer_lease_is_held_until_it_begins);
    tcase_add_test(c, held_pushes_are_left_alone_by_all_that_concerns_the_lease);
    tcase_add_test(c, a_lease_that_comes_early_begins_when_the_old_one_has_ended);
    tcase_add_test(c, held_pushes_of_a_lease_that_never_begins_are_bounced);
    tcase_add_test(c, a_lease_number_never_begins_twice);
    tcase_add_test(c, take_back_gives_the_last_pushed_and_never_the_claimed_one);
    tcase_add_test(c, inv_18_a_take_back_of_another_lease_is_answered_with_nothing);
    tcase_add_test(c, a_worker_that_blocks_gives_back_what_is_unclaimed_and_what_arrives);
    tcase_add_test(c, a_revoked_idle_lease_ends_at_once);
    tcase_add_test(c, a_revoked_lease_waits_for_its_first_push_and_no_longer_than_5_ms);
    tcase_add_test(c, a_revoked_lease_waits_for_its_first_push_no_longer_than_its_grace);
    tcase_add_test(c, a_revoked_lease_works_on_within_its_grace_and_ends_when_idle);
    tcase_add_test(c, after_its_grace_a_revoked_lease_returns_the_rest_and_ends_after_the_body);
    tcase_add_test(c, a_second_revocation_can_only_shorten_the_grace);
    tcase_add_test(c, inv_7_tasks_of_an_owner_that_is_gone_do_not_start);
    tcase_add_test(c, malformed_pushes_are_refused_without_harm);
    tcase_add_test(c, no_memory_for_a_long_push_is_refused_without_harm);
    tcase_add_test(c, warm_work_allocates_nothing);
    tcase_add_test(c, ten_thousand_random_steps_agree_with_the_owners_view);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
