/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a direct channel ends while its processes live, how two compare what one borrows from the
 * other, and what a broken peer cannot do: the real core as owner and as worker, with a raylet and
 * the other ends played here, frame by frame.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/core/core_private.h"
#include "tests/fuzz/played_raylet.h"

#define FAR_MAX    4
#define BIG        60000u /* bytes: a few such answers fill a socket */
#define N_BIG      30u
#define LEASE      7u
#define PEER_ID    3
#define BEYOND_ALL ((size_t)1 << 30)

/* The far end of a link of the core: 0 is the raylet's. What it heard, by type, in order. */
static struct far {
    struct unix_link *link;
    uint8_t heard[256];
    unsigned n_heard;
    uint8_t body[64];  /* of the last one, if it fits */
    uint8_t slots[64]; /* of PUSH frames */
    unsigned n_slots;
    bool ended;
} far[FAR_MAX];
static unsigned n_far;
static uint64_t ticket; /* last one asked for */

/* --- the face: a body that returns its argument --- */

static void *lookup(const char *function)
{
    (void)function;
    return far;
}

static void execute(struct core_call *call)
{
    struct err err;

    ck_assert_int_eq(core_call_return(call,
                                      0,
                                      WIRE_META_RAW,
                                      call->args[0].bytes,
                                      call->args[0].size,
                                      NULL,
                                      0,
                                      &err),
                     CORE_OK);
}

/* --- the others --- */

static struct unique_id peer_id(void)
{
    struct unique_id id;

    memset(id.bytes, PEER_ID, sizeof id.bytes);
    return id;
}

/* The core's turn: everything that was said is handled. */
static void turn(void)
{
    core_lock();
    core.polling = true;
    poller_turn(0, NULL, 0);
    core.polling = false;
    core_unlock();
}

/* What was said to this end so far, at most max bytes' worth of reads. */
static void listen_to_core(struct far *p, size_t max)
{
    struct frame f;
    struct err err;
    size_t read = 0;
    long n;

    do {
        n = unix_link_read(p->link, &err);
        p->ended |= n < 0;
        while (unix_link_next(p->link, &f, &err) == 1) {
            ck_assert_uint_lt(p->n_heard, sizeof p->heard);
            p->heard[p->n_heard++] = f.h.type;
            if (f.body_size <= sizeof p->body)
                memcpy(p->body, f.body, f.body_size);
            if (f.h.type == WIRE_LEASE_REQUEST)
                memcpy(&ticket, f.body, sizeof ticket);
            if (f.h.type == WIRE_PUSH) {
                struct wire_push w;
                memcpy(&w, f.body, sizeof w);
                p->slots[p->n_slots++ % sizeof p->slots] = w.slot;
            }
        }
        read += n > 0 ? (size_t)n : 0;
    } while (n > 0 && read < max);
}

/* with: the far end of a new channel goes to the core in the frame. */
static void say(struct far *p, uint8_t type, const void *body, size_t size, bool with)
{
    int fds[2] = {-1, -1};
    void *out = unix_link_reserve(p->link, FRAME_CALLS, type, 0, size);

    ck_assert_ptr_nonnull(out);
    if (size > 0)
        memcpy(out, body, size);
    if (with) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        far[n_far++].link = unix_link_create(fds[1], 0);
    }
    unix_link_commit(p->link, size, fds[0]);
}

/* All that was said arrives, in as many turns as it takes. */
static void arrive(struct far *p)
{
    while (unix_link_flush(p->link, NULL) == 0)
        turn();
    turn();
}

static unsigned count(const struct far *p, uint8_t type)
{
    unsigned n = 0;

    for (unsigned i = 0; i < p->n_heard; i++)
        n += p->heard[i] == type;
    return n;
}

static unsigned n_peers(void)
{
    unsigned n = 0;

    list_for_each(p, &core.peers) n++;
    return n;
}

static void join_as(bool worker)
{
    static struct control_block control;
    static const struct core_face face = {.lookup = lookup, .execute = execute};
    struct wire_hello who = {.kind = WIRE_WORKER, .token = 7};
    struct err err;
    int pid, fd;

    core_set_face(&face);
    core.has_helper = true; /* none is made: turns are ours alone */
    atomic_store(&core.helper_word, 0);
    if (worker) {
        core.worker = true;
        core.inbox = inbox_create();
        core.control = &control;
        core.body_thread = pthread_self();
        cluster_start(NULL, NULL, NULL, &pid, &fd, &err);
        ck_assert_int_eq(core_connect(fd, &who, NULL, 0, &err), 0);
    } else {
        ck_assert_int_eq(core_init(NULL, &err), CORE_OK);
    }
    far[0].link = raylet;
    n_far = 1;
    snprintf(core.marked, sizeof core.marked, "f");
}

/* --- a worker --- */

static void begin_lease(uint64_t lease, bool with_channel)
{
    struct wire_lease_begin b = {.lease = lease, .owner_process = 2, .owner = peer_id()};

    say(&far[0], WIRE_LEASE_BEGIN, &b, sizeof b, with_channel);
    arrive(&far[0]);
}

static void push(struct far *owner, uint64_t lease, uint8_t slot, uint32_t size)
{
    static uint8_t body[sizeof(struct wire_push) + sizeof(struct wire_arg) + BIG];
    struct wire_push w = {.lease = lease, .counter = slot, .slot = slot, .phase = 1, .n_args = 1};
    struct wire_arg a = {.size = size, .meta = WIRE_META_RAW};

    memcpy(body, &w, sizeof w);
    memcpy(body + sizeof w, &a, sizeof a);
    say(owner, WIRE_PUSH, body, sizeof w + sizeof a + size, false);
    arrive(owner);
}

static void template(struct far *owner)
{
    uint8_t body[sizeof(struct wire_template) + 4];
    struct wire_template w = {.n_returns = 1};

    memcpy(body, &w, sizeof w);
    memcpy(body + sizeof w, "f\0f", 4);
    say(owner, WIRE_TEMPLATE, body, sizeof body, false);
}

static void run_all(void)
{
    uint64_t now = clock_now_ns();

    core_lock();
    while (worker_run_one(UINT64_MAX, &now))
        continue;
    core_unlock();
}

/* The lease of this worker is over with answers that its owner has not read: it is not lent again
 * before they are written. */
static void end_lease_unread(void)
{
    struct wire_lease_revoke r = {.lease = LEASE};

    join_as(true);
    begin_lease(LEASE, true);
    template(&far[1]);
    for (uint8_t i = 0; i < N_BIG; i++)
        push(&far[1], LEASE, i, BIG);
    run_all();
    say(&far[0], WIRE_LEASE_REVOKE, &r, sizeof r, false);
    arrive(&far[0]);
    turn();
    listen_to_core(&far[0], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[0], WIRE_BLOCKED), 1);
    ck_assert_uint_eq(count(&far[0], WIRE_LEASE_ENDED), 0);
}

START_TEST(a_worker_answers_behind_all_it_had_to_say)
{
    end_lease_unread();
    push(&far[1], LEASE, 0, 1); /* sent before the owner knew: it bounces */
    say(&far[1], WIRE_GOODBYE, NULL, 0, false);
    arrive(&far[1]);
    ck_assert_uint_eq(n_peers(), 2); /* much is still to be written */
    while (!far[1].ended) {
        unsigned before = far[1].n_heard;
        listen_to_core(&far[1], 100000);
        turn();
        ck_assert(far[1].ended || far[1].n_heard > before || unix_link_pending(far[1].link) == 0);
    }
    ck_assert_uint_eq(count(&far[1], WIRE_DONE), N_BIG);
    ck_assert_uint_eq(count(&far[1], WIRE_OWNER_LEASE_ENDED), 1);
    ck_assert_uint_eq(count(&far[1], WIRE_BOUNCED), 1);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 1);
    ck_assert_uint_eq(far[1].heard[far[1].n_heard - 1], WIRE_GOODBYE);
    ck_assert_uint_eq(n_peers(), 1); /* the raylet */
    listen_to_core(&far[0], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[0], WIRE_LEASE_ENDED), 1);
}
END_TEST

START_TEST(the_next_lease_of_the_pair_has_the_new_channel)
{
    end_lease_unread();
    while (count(&far[0], WIRE_LEASE_ENDED) == 0) {
        listen_to_core(&far[1], 100000);
        turn();
        listen_to_core(&far[0], BEYOND_ALL);
    }
    begin_lease(LEASE + 1, true); /* before the owner's goodbye on the old one */
    template(&far[2]);
    push(&far[2], LEASE + 1, 0, 1);
    run_all();
    struct wire_lease_revoke r = {.lease = LEASE + 1};
    say(&far[0], WIRE_LEASE_REVOKE, &r, sizeof r, false);
    arrive(&far[0]);
    begin_lease(LEASE + 2, false); /* the pair has a channel: which? */
    push(&far[2], LEASE + 2, 0, 1);
    run_all();
    turn();
    listen_to_core(&far[2], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[2], WIRE_DONE), 2);
    say(&far[1], WIRE_GOODBYE, NULL, 0, false);
    arrive(&far[1]);
    while (!far[1].ended) {
        listen_to_core(&far[1], 100000);
        turn();
    }
    ck_assert_uint_eq(count(&far[1], WIRE_DONE), N_BIG);
    listen_to_core(&far[2], BEYOND_ALL);
    ck_assert(!far[2].ended);
}
END_TEST

START_TEST(goodbye_in_mid_lease_is_the_owners_end)
{
    join_as(true);
    begin_lease(LEASE, true);
    template(&far[1]);
    push(&far[1], LEASE, 0, 1);
    say(&far[1], WIRE_GOODBYE, NULL, 0, false);
    arrive(&far[1]);
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert(far[1].ended);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 0);
    run_all(); /* nothing: its tasks are dropped */
    ck_assert_uint_eq(core.counters.tasks_executed, 0);
}
END_TEST

/* --- an owner --- */

/* The last one's ref. */
static uint64_t submit(unsigned n)
{
    static const struct core_template_spec spec = {.function = "f",
                                                   .n_returns = 1,
                                                   .cpu_units = 10000};
    struct core_arg arg = {.bytes = "abc", .size = 3, .meta = WIRE_META_RAW};
    uint64_t ref = 0;

    for (unsigned i = 0; i < n; i++)
        ck_assert_int_eq(core_submit(core_template(&spec, NULL), &arg, 1, &ref), CORE_OK);
    turn();
    listen_to_core(&far[0], BEYOND_ALL);
    return ref;
}

static void grant(uint64_t lease, bool with_channel)
{
    struct wire_lease_grant g = {.ticket = ticket,
                                 .lease = lease,
                                 .pid = 1000000,
                                 .process = 2,
                                 .worker = peer_id()};

    say(&far[0], WIRE_LEASE_GRANT, &g, sizeof g, with_channel);
    arrive(&far[0]);
}

static void end_channel(void)
{
    struct wire_channel_end w = {.worker = peer_id()};

    say(&far[0], WIRE_CHANNEL_END, &w, sizeof w, false);
    arrive(&far[0]);
}

static void end_lease(struct far *worker, uint64_t lease)
{
    struct wire_lease_ended w = {.lease = lease};

    say(worker, WIRE_OWNER_LEASE_ENDED, &w, sizeof w, false);
    arrive(worker);
}

START_TEST(an_owner_says_goodbye_after_its_last_lease)
{
    join_as(false);
    submit(1);
    grant(LEASE, true);
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_PUSH), 1);
    end_channel();
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 0);
    struct wire_done d = {.lease = LEASE, .slot = far[1].slots[0], .failed = 1};
    say(&far[1], WIRE_DONE, &d, sizeof d, false);
    arrive(&far[1]);
    submit(1); /* the lease is the class's still: the worker has not said that it ended */
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_PUSH), 2);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 0);
    end_lease(&far[1], LEASE);
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 1);
    ck_assert_uint_eq(far[1].heard[far[1].n_heard - 1], WIRE_GOODBYE);

    listen_to_core(&far[0], BEYOND_ALL);
    grant(LEASE + 1, true); /* while the old one is open */
    listen_to_core(&far[2], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[2], WIRE_PUSH), 1); /* the task that had not started */
    ck_assert_uint_eq(n_peers(), 3);
    end_channel(); /* of the new one: the old one is leaving */
    struct wire_bounced b = {.lease = LEASE, .slot = far[1].slots[1], .reason = 1};
    say(&far[1], WIRE_BOUNCED, &b, sizeof b, false); /* what it had still to say is heard */
    say(&far[1], WIRE_GOODBYE, NULL, 0, false);
    arrive(&far[1]);
    ck_assert_uint_eq(n_peers(), 2);
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert(far[1].ended);
    ck_assert_uint_eq(far[1].heard[far[1].n_heard - 1], WIRE_GOODBYE);
    end_lease(&far[2], LEASE + 1);
    listen_to_core(&far[2], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[2], WIRE_GOODBYE), 1);
}
END_TEST

START_TEST(a_pair_goes_on_over_a_route)
{
    struct wire_route w = {.route = 5, .peer_process = 2, .peer = peer_id()};

    join_as(false);
    submit(1);
    grant(LEASE, true);
    end_channel();
    end_lease(&far[1], LEASE);
    listen_to_core(&far[0], BEYOND_ALL);
    say(&far[0], WIRE_ROUTE, &w, sizeof w, false);
    grant(LEASE + 1, false); /* before the worker's goodbye */
    listen_to_core(&far[1], BEYOND_ALL);
    listen_to_core(&far[0], BEYOND_ALL);
    ck_assert_uint_eq(far[1].heard[far[1].n_heard - 1], WIRE_GOODBYE);
    ck_assert_uint_eq(count(&far[0], WIRE_PUSH), 1);
}
END_TEST

START_TEST(a_worker_that_dies_needs_no_goodbye)
{
    join_as(false);
    submit(1);
    grant(LEASE, true);
    end_lease(&far[1], LEASE);
    end_channel();
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_GOODBYE), 1);
    ck_assert_uint_eq(n_peers(), 2);
    unix_link_destroy(far[1].link);
    turn();
    turn();
    ck_assert_uint_eq(n_peers(), 1);
}
END_TEST

START_TEST(what_refs_say_goes_elsewhere_after_goodbye)
{
    join_as(false);
    submit(1);
    grant(LEASE, true);
    core_lock();
    struct peer *direct = refs_peer(2);
    core_unlock();
    ck_assert_uint_eq(direct->route, 0);
    end_lease(&far[1], LEASE);
    end_channel();
    core_lock();
    ck_assert(direct->said_goodbye);
    ck_assert_uint_eq(refs_peer(2)->route, WIRE_ROUTE_PROCESS | 2);
    core_unlock();
}
END_TEST

/* --- the counts of borrows --- */

/* The last thing that is said to that end, once it is of this type. (A driver's helper may have
 * taken the turn.) */
static const void *last(struct far *p, uint8_t type)
{
    do {
        turn();
        listen_to_core(p, BEYOND_ALL);
    } while (p->n_heard == 0 || p->heard[p->n_heard - 1] != type);
    return p->body;
}

START_TEST(a_borrower_says_what_it_has_and_lists_it)
{
    const uint64_t word = 3ull << 32 | 5;
    struct wire_borrow ack = {.sequence = 1};
    struct wire_borrow_compared differs = {.sequence = 1, .differs = 1};
    struct wire_borrow_digest d;
    struct wire_borrow_list l;

    join_as(false);
    submit(1);
    grant(LEASE, true);
    core_lock();
    const struct record *r = borrow_learn(core.borrow, 2, word);
    borrow_guard(core.borrow, BORROW_GUARD_REPLY, 2, 1, 0, &r->slot, 1, &core.borrow_actions);
    core_unlock();
    last(&far[1], WIRE_BORROW);
    ck_assert_uint_eq(core.counters.digests, 0);
    core_lock();
    borrow_on_time(core.borrow, UINT64_MAX - 1);
    core_unlock();
    memcpy(&d, last(&far[1], WIRE_BORROW_DIGEST), sizeof d);
    ck_assert(d.sequence == 1 && d.acked == 0 && d.n == 1 && d.sum != 0 && d.is_overdue == 1);
    ck_assert_uint_eq(core.counters.digests, 1);
    say(&far[1], WIRE_BORROW_ACK, &ack, sizeof ack, false);
    say(&far[1], WIRE_BORROW_COMPARED, &differs, sizeof differs, false);
    arrive(&far[1]);
    const uint8_t *body = last(&far[1], WIRE_BORROW_LIST);
    memcpy(&l, body, sizeof l);
    ck_assert(l.sequence == 2 && l.n == 1 && l.low == 0 && l.high == UINT64_MAX && l.is_first == 1);
    ck_assert_mem_eq(body + sizeof l, &word, sizeof word);
}
END_TEST

START_TEST(an_owner_compares_and_is_corrected)
{
    struct wire_borrow add = {.sequence = 1, .n = 1};
    struct wire_borrow_list l = {.sequence = 3, .n = 1, .high = UINT64_MAX, .is_first = 1};
    uint64_t word;
    const uint64_t gone = 7ull << 32 | 77;
    struct wire_borrow_digest d = {.sequence = 1, .acked = 1};
    struct wire_borrow_compared c;
    uint8_t body[sizeof add + sizeof word], list[sizeof l + sizeof gone];
    FILE *log = tmpfile();
    char line[512] = "";

    join_as(false);
    word = submit(1);
    grant(LEASE, true);
    core_lock();
    struct record *r = ref_table_find(core.refs, word);
    r->flags |= REF_SHOWN;
    uint32_t held = r->held;
    core_unlock();
    memcpy(body, &add, sizeof add);
    memcpy(body + sizeof add, &word, sizeof word);
    say(&far[1], WIRE_BORROW, body, sizeof body, false);
    arrive(&far[1]);
    last(&far[1], WIRE_BORROW_ACK);
    ck_assert_uint_eq(r->held, held + 1);
    say(&far[1], WIRE_BORROW_DIGEST, &d, sizeof d, false);
    arrive(&far[1]);
    memcpy(&c, last(&far[1], WIRE_BORROW_COMPARED), sizeof c);
    ck_assert(c.sequence == 1 && c.differs == 1);

    log_set_fd(fileno(log));
    memcpy(list, &l, sizeof l);
    memcpy(list + sizeof l, &gone, sizeof gone);
    say(&far[1], WIRE_BORROW_LIST, list, sizeof list, false);
    arrive(&far[1]);
    do
        memcpy(&add, last(&far[1], WIRE_BORROW_ACK), sizeof add);
    while (add.sequence != 3);
    log_set_fd(-1);
    ck_assert_uint_eq(add.n, 1); /* what is not there */
    ck_assert_uint_eq(r->held, held);
    ck_assert_uint_eq(core.counters.repairs, 1);
    rewind(log);
    ck_assert_ptr_nonnull(fgets(line, sizeof line, log));
    ck_assert_ptr_nonnull(strstr(line,
                                 "level=broken component=core event=borrows_repaired process=1 "
                                 "borrower=2 added=0 dropped=1 missed_frames=1 "));
    ck_assert_ptr_null(fgets(line, sizeof line, log)); /* once */
    fclose(log);
    d = (struct wire_borrow_digest){.sequence = 3, .acked = 3}; /* and that was heard */
    say(&far[1], WIRE_BORROW_DIGEST, &d, sizeof d, false);
    arrive(&far[1]);
    memcpy(&c, last(&far[1], WIRE_BORROW_COMPARED), sizeof c);
    ck_assert(c.sequence == 3 && c.differs == 0);
}
END_TEST

START_TEST(malformed_frames_about_borrows_end_the_channel)
{
    struct wire_borrow_list l = {.sequence = 1, .n = 2, .high = UINT64_MAX, .is_first = 1};
    uint8_t body[sizeof l + 2 * sizeof(uint64_t)] = {0};
    const struct {
        uint8_t type;
        size_t size;
    } malformed[] = {
        {WIRE_BORROW_DIGEST, sizeof(struct wire_borrow_digest) - 1},
        {WIRE_BORROW_COMPARED, sizeof(struct wire_borrow_compared) - 1},
        {WIRE_BORROW_LIST, sizeof l - 1},
        {WIRE_BORROW_LIST, sizeof body - 1}, /* fewer words than it says */
        {WIRE_BORROW_LIST, sizeof body},     /* one twice */
    };

    memcpy(body, &l, sizeof l);
    join_as(false);
    submit(1);
    grant(LEASE, true);
    say(&far[1], malformed[_i].type, body, malformed[_i].size, false);
    arrive(&far[1]);
    while (!far[1].ended) {
        turn();
        listen_to_core(&far[1], BEYOND_ALL);
    }
}
END_TEST

/* --- peers that say what is not theirs to say, or what means nothing --- */

START_TEST(only_the_raylet_says_who_died_and_who_lends)
{
    const struct wire_worker_dead dead = {.lease = LEASE, .mask_lease = LEASE, .wait_status = 9};
    const struct wire_lease_grant g = {.ticket = ticket, .lease = LEASE + 1, .process = 3};
    const struct wire_process_dead gone = {.process = 2};
    const struct wire_lease_canceled canceled = {.ticket = ticket, .count = 1};
    const struct wire_channel_end end = {.worker = peer_id()};
    const struct wire_route route = {.route = 5, .peer_process = 3};
    const struct wire_lease_begin begin = {.lease = LEASE, .owner = peer_id()};

    join_as(false);
    uint64_t ref = submit(1);
    grant(LEASE, true);
    say(&far[1], WIRE_WORKER_DEAD, &dead, sizeof dead, false);
    say(&far[1], WIRE_LEASE_GRANT, &g, sizeof g, true);
    say(&far[1], WIRE_LEASE_CANCELED, &canceled, sizeof canceled, false);
    say(&far[1], WIRE_PROCESS_DEAD, &gone, sizeof gone, false);
    say(&far[1], WIRE_CHANNEL_END, &end, sizeof end, false);
    say(&far[1], WIRE_ROUTE, &route, sizeof route, false);
    say(&far[1], WIRE_ERROR, "code of the error", 17, false);
    say(&far[1], WIRE_LEASE_BEGIN, &begin, sizeof begin, true);
    arrive(&far[1]);
    struct core_value v;
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_ETIMEOUT);
    ck_assert_uint_eq(n_peers(), 2);
    ck_assert_int_eq(core.lost.code, ERR_NONE);
    core_lock();
    ck_assert(!borrow_is_dead(core.borrow, 2));
    core_unlock();
    listen_to_core(&far[2], BEYOND_ALL);
    listen_to_core(&far[3], BEYOND_ALL);
    ck_assert(far[2].ended && far[3].ended); /* nobody kept what came with the frames */
}
END_TEST

/* The node of the failure. */
static struct unique_id check_error(uint64_t ref, enum core_code code)
{
    struct wire_failure f;
    struct core_value v;

    ck_assert_int_eq(core_get(ref, 0, &v), CORE_OK);
    ck_assert_uint_eq(v.meta, WIRE_META_ERROR);
    memcpy(&f, v.bytes, sizeof f);
    ck_assert_uint_eq(f.code, code);
    core_value_drop(&v);
    return f.node;
}

START_TEST(a_failure_names_the_node_where_it_was)
{
    struct wire_worker_dead dead = {.lease = LEASE,
                                    .mask_lease = LEASE,
                                    .started = 1,
                                    .node = {{'d'}}};
    struct wire_lease_refused refused = {.count = 1, .code = ERR_START_FAILED, .node = {{'r'}}};
    struct unique_id node;

    join_as(false);
    uint64_t ref = submit(1);
    grant(LEASE, true);
    say(&far[0], WIRE_WORKER_DEAD, &dead, sizeof dead, false);
    arrive(&far[0]);
    node = check_error(ref, CORE_ECRASH);
    ck_assert(unique_id_eq(&node, &dead.node));
    ref = submit(1);
    refused.ticket = ticket;
    say(&far[0], WIRE_LEASE_REFUSED, &refused, sizeof refused, false);
    arrive(&far[0]);
    node = check_error(ref, CORE_ECRASH);
    ck_assert(unique_id_eq(&node, &refused.node));
}
END_TEST

/* The worker may hold refs for what it tried to say (INV-9): it is told that nobody needs them. */
START_TEST(a_malformed_answer_is_an_error_and_seen)
{
    static const uint8_t malformed[][12] = {
        {0},                              /* no return */
        {9, 0, 0, 0, WIRE_META_RAW},      /* longer than the frame */
        {1, 0, 0, 0, WIRE_VALUE_REFS, 9}, /* its number of refs is cut off */
        {1, 0, 0, 0, WIRE_VALUE_REFS, 9, 0, 0, 0, 1},
        {1, 0, 0, 0, WIRE_VALUE_STORED, 1}, /* no place */
        {1, 0, 0, 0, WIRE_VALUE_BY_REF, 1},
    };
    static const size_t sizes[] = {0, 7, 6, 10, 6, 6};

    join_as(false);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t ref = submit(1);
        if (i == 0)
            grant(LEASE, true);
        listen_to_core(&far[1], BEYOND_ALL);
        uint8_t body[sizeof(struct wire_done) + sizeof malformed[0]];
        struct wire_done d = {.lease = LEASE,
                              .slot = far[1].slots[(far[1].n_slots - 1) % sizeof far[1].slots],
                              .n_returns = i > 0};
        memcpy(body, &d, sizeof d);
        memcpy(body + sizeof d, malformed[i], sizes[i]);
        say(&far[1], WIRE_DONE, body, sizeof d + sizes[i], false);
        arrive(&far[1]);
        check_error(ref, CORE_ELOST);
        listen_to_core(&far[1], BEYOND_ALL);
        ck_assert_uint_eq(count(&far[1], WIRE_SEEN), i + 1);
    }
}
END_TEST

/* INV-33: who waits for a value is told that it will not come. */
START_TEST(a_malformed_value_is_lost)
{
    const uint64_t word = 1ull << 32 | 5;
    struct core_value v;

    join_as(false);
    submit(1);
    grant(LEASE, true);
    core_lock();
    struct record *r = borrow_learn(core.borrow, 2, word);
    r->count++;
    uint64_t ref = record_word(r);
    core_unlock();
    core.polling = true; /* another thread sleeps: who only looks must ask all the same */
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_ETIMEOUT);
    core.polling = false;
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[1], WIRE_WANT), 1);
    uint8_t body[sizeof(struct wire_object) + sizeof(struct wire_arg)];
    struct wire_object w = {.word = word};
    struct wire_arg a = {.size = 9, .meta = WIRE_META_RAW};
    memcpy(body, &w, sizeof w);
    memcpy(body + sizeof w, &a, sizeof a);
    say(&far[1], WIRE_OBJECT, body, sizeof body, false);
    arrive(&far[1]);
    check_error(ref, CORE_ELOST);
}
END_TEST

/* INV-33: its worker lives, so no notice of a death will come for the tasks there. */
START_TEST(who_breaks_the_protocol_loses_its_leases)
{
    join_as(false);
    uint64_t ref = submit(1);
    grant(LEASE, true);
    uint64_t next = submit(1);
    say(&far[1], WIRE_BORROW, "short", 5, false);
    arrive(&far[1]);
    listen_to_core(&far[1], BEYOND_ALL);
    ck_assert(far[1].ended);
    check_error(ref, CORE_ECRASH);
    listen_to_core(&far[0], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[0], WIRE_LEASE_RETURN), 1);
    grant(LEASE + 1, true);
    listen_to_core(&far[2], BEYOND_ALL);
    ck_assert_uint_eq(count(&far[2], WIRE_PUSH), 1); /* it had not been sent there */
    ck_assert_uint_eq(n_peers(), 2);
    struct core_value v;
    ck_assert_int_eq(core_get(next, 0, &v), CORE_ETIMEOUT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("peer");
    TCase *t = tcase_create("peer");

    tcase_add_test(t, a_worker_answers_behind_all_it_had_to_say);
    tcase_add_test(t, the_next_lease_of_the_pair_has_the_new_channel);
    tcase_add_test(t, goodbye_in_mid_lease_is_the_owners_end);
    tcase_add_test(t, an_owner_says_goodbye_after_its_last_lease);
    tcase_add_test(t, a_pair_goes_on_over_a_route);
    tcase_add_test(t, a_worker_that_dies_needs_no_goodbye);
    tcase_add_test(t, what_refs_say_goes_elsewhere_after_goodbye);
    tcase_add_test(t, a_borrower_says_what_it_has_and_lists_it);
    tcase_add_test(t, an_owner_compares_and_is_corrected);
    tcase_add_loop_test(t, malformed_frames_about_borrows_end_the_channel, 0, 5);
    tcase_add_test(t, only_the_raylet_says_who_died_and_who_lends);
    tcase_add_test(t, a_failure_names_the_node_where_it_was);
    tcase_add_test(t, a_malformed_answer_is_an_error_and_seen);
    tcase_add_test(t, a_malformed_value_is_lost);
    tcase_add_test(t, who_breaks_the_protocol_loses_its_leases);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
