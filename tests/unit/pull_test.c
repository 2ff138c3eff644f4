/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process some of whose owners, workers and values are on other nodes: the real core as a driver
 * and as a worker on node 1, with its raylet played here, frame by frame, and the store's memory
 * here too.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"
#include "objstore/pin.h"
#include "tests/fuzz/played_raylet.h"

#define N_ENTRIES 64u
#define CAPACITY  (256u * STORE_BLOCK)
#define HERE      1u /* node numbers */
#define THERE     2u
#define ME        5u /* process numbers */
#define OTHER     9u
#define LEASE     (7ull | (uint64_t)THERE << 36)
#define SIZE      (CORE_INLINE_MAX + 1)
#define TO_WORKER (WIRE_ROUTE_PROCESS | WIRE_ROUTE_OWNER | OTHER) /* we own the lease */
#define TO_OWNER  (WIRE_ROUTE_PROCESS | WIRE_ROUTE_WORKER | OTHER)

static struct index_entry *entries;
static struct store_share *share;
static uint8_t *arena;

/* What it heard, in order. */
static struct heard {
    uint32_t route;
    uint8_t type;
    size_t size;
    uint8_t body[400];
} heard[256];
static unsigned n_heard;

/* --- the face: a body that returns its first argument, and the refs inside --- */

static uint64_t read_by_body; /* a ref, or 0 */

static void *lookup(const char *function)
{
    (void)function;
    return heard;
}

static void execute(struct core_call *call)
{
    const struct core_arg *a = &call->args[0];
    struct core_value v;
    struct err err;

    if (read_by_body != 0) {
        ck_assert_int_eq(core_get(read_by_body, -1, &v), CORE_OK);
        core_value_drop(&v);
    }

    ck_assert_int_eq(
        core_call_return(call, 0, a->meta, a->bytes, a->size, a->refs, a->n_refs, &err),
        CORE_OK);
}

/* --- the raylet --- */

static void turn(void)
{
    core_lock();
    core.polling = true;
    poller_turn(0, NULL, 0);
    core.polling = false;
    core_unlock();
}

static void say_on(uint32_t route, uint8_t type, const void *body, size_t size)
{
    ck_assert_int_eq(unix_link_send(raylet, wire_class(type), type, route, body, size), 0);
    ck_assert_int_eq(unix_link_flush(raylet, NULL), 1);
}

static bool nobody_has_it = true; /* SEEK is answered so, at once */

/* Has it said something to what it heard? */
static bool listen_to_core(void)
{
    struct frame f;
    struct err err;
    bool has_said = false;

    while (unix_link_read(raylet, &err) > 0)
        while (unix_link_next(raylet, &f, &err) == 1) {
            ck_assert_uint_lt(n_heard, sizeof heard / sizeof heard[0]);
            struct heard *h = &heard[n_heard++];
            h->route = f.h.route;
            h->type = f.h.type;
            h->size = f.body_size;
            memcpy(h->body, f.body, f.body_size < sizeof h->body ? f.body_size : sizeof h->body);
            if (f.h.type != WIRE_STORE_SEEK || !nobody_has_it)
                continue;
            struct wire_store_found w = {0};
            memcpy(&w.ticket, h->body, sizeof w.ticket);
            say_on(0, WIRE_STORE_FOUND, &w, sizeof w);
            has_said = true;
        }
    return has_said;
}

static void turns(void)
{
    do {
        turn();
        turn();
    } while (listen_to_core());
}

/* It says that, the core handles it, and what it says then is heard. */
static void tell_on(uint32_t route, uint8_t type, const void *body, size_t size)
{
    say_on(route, type, body, size);
    turns();
}

static void tell(uint8_t type, const void *body, size_t size)
{
    tell_on(0, type, body, size);
}

static unsigned count(uint8_t type)
{
    unsigned n = 0;

    for (unsigned i = 0; i < n_heard; i++)
        n += heard[i].type == type;
    return n;
}

/* The n-th of this type, from 0. */
static const struct heard *nth(uint8_t type, unsigned n)
{
    for (unsigned i = 0; i < n_heard; i++)
        if (heard[i].type == type && n-- == 0)
            return &heard[i];
    ck_abort_msg("frame of type %d was not said", type);
}

/* Until the core, which is in a call of another thread, has said n of them. */
static void await(uint8_t type, unsigned n)
{
    struct pollfd fd = {.fd = unix_link_fd(raylet), .events = POLLIN};

    for (listen_to_core(); count(type) < n; listen_to_core())
        ck_assert_int_eq(poll(&fd, 1, -1), 1);
}

static unsigned n_peers(void)
{
    unsigned n = 0;

    list_for_each(p, &core.peers) n++;
    return n;
}

static struct wire_store_pull nth_pull(unsigned n)
{
    struct wire_store_pull w;

    memcpy(&w, nth(WIRE_STORE_PULL, n)->body, sizeof w);
    return w;
}

static struct wire_store_free_at nth_free_at(unsigned n)
{
    struct wire_store_free_at w;

    memcpy(&w, nth(WIRE_STORE_FREE_AT, n)->body, sizeof w);
    return w;
}

/* --- the store --- */

static uint64_t place_of(uint32_t entry)
{
    return store_place(1, entry);
}

static void set_state(uint32_t entry, enum store_state state)
{
    atomic_store(&entries[entry].word, pin_word(place_of(entry), state));
}

static struct wire_key key_of(uint32_t owner, uint64_t counter)
{
    return (struct wire_key){.counter = counter, .owner = owner, .index = 1};
}

/* A whole object in our store. */
static void fill_entry(uint32_t entry, const struct wire_key *key, uint64_t size)
{
    struct index_entry *e = &entries[entry];

    e->owner = key->owner;
    e->counter = key->counter;
    e->index = key->index;
    e->attempt = key->attempt;
    e->offset = (entry % 8) * 30ull * STORE_BLOCK;
    e->size = size;
    e->n_refs = 0;
    arena[e->offset] = (uint8_t)entry;
    set_state(entry, STORE_ENTRY_SEALED);
}

static unsigned n_pins_of(uint32_t entry)
{
    unsigned n = 0;

    for (int i = 0; i < STORE_PINS; i++)
        n += atomic_load(&share->pins[i]) == place_of(entry);
    return n;
}

static struct wire_store_pulled pulled(uint64_t ticket, uint32_t entry)
{
    return (struct wire_store_pulled){.ticket = ticket,
                                      .place = place_of(entry),
                                      .offset = entries[entry].offset,
                                      .size = entries[entry].size};
}

static void join_as(bool worker)
{
    static const struct core_face face = {.lookup = lookup, .execute = execute};
    int index = memfd_create("index", MFD_CLOEXEC), memory = memfd_create("arena", MFD_CLOEXEC);
    struct wire_hello who = {.kind = WIRE_WORKER, .token = 7};
    struct err err;
    int pid, fd;

    welcome.in_cluster = 1;
    welcome.process = ME;
    welcome.node_number = HERE;
    core_set_face(&face);
    core.has_helper = true; /* none is made: turns are ours alone */
    atomic_store(&core.helper_word, 0);
    ck_assert_int_eq(ftruncate(index, N_ENTRIES * sizeof *entries), 0);
    ck_assert_int_eq(ftruncate(memory, CAPACITY), 0);
    entries = mmap(NULL, N_ENTRIES * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, index, 0);
    ck_assert(entries != MAP_FAILED);
    arena = mmap(NULL, CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    ck_assert(arena != MAP_FAILED);
    core.control =
        mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(core.control != MAP_FAILED);
    share = (void *)((char *)core.control + STORE_SHARE_OFFSET);
    ck_assert_int_eq(objects_open(index, memory, core.control, &err), 0);
    if (worker) {
        core.worker = true;
        core.inbox = inbox_create();
        core.body_thread = pthread_self();
        cluster_start(NULL, NULL, NULL, &pid, &fd, &err);
        ck_assert_int_eq(core_connect(fd, &who, NULL, 0, &err), 0);
    } else {
        ck_assert_int_eq(core_init(NULL, &err), CORE_OK);
    }
    snprintf(core.marked, sizeof core.marked, "f");
    listen_to_core();
    n_heard = 0;
}

/* --- values that a program reads --- */

#define COUNTER 42u

/* A ref of ours to a value that was made there. */
static struct record *make_numbered(uint64_t counter)
{
    const struct ref_stored s = {.place = store_place(3, 4),
                                 .offset = 8 * STORE_BLOCK,
                                 .size = SIZE,
                                 .pin = REF_NO_PIN,
                                 .node = THERE,
                                 .attempt = 2};

    core_lock();
    struct record *r = ref_table_new(core.refs);
    r->counter = counter;
    ref_table_set_stored(core.refs, r, WIRE_META_RAW, &s);
    core_unlock();
    return r;
}

static struct record *make_elsewhere(void)
{
    return make_numbered(COUNTER);
}

static struct wire_key key_of_ours(void)
{
    struct wire_key key = key_of(ME, COUNTER);

    key.attempt = 2;
    return key;
}

static struct getter {
    pthread_t thread;
    uint64_t ref;
    struct core_value v;
    int code;
} getters[2];

static void *get_it(void *arg)
{
    struct getter *g = arg;

    g->code = core_get(g->ref, -1, &g->v);
    return NULL;
}

static void start_get(struct getter *g, const struct record *r)
{
    g->ref = record_word(r);
    ck_assert_int_eq(pthread_create(&g->thread, NULL, get_it, g), 0);
}

static void end_get(struct getter *g)
{
    pthread_join(g->thread, NULL);
    ck_assert_int_eq(g->code, CORE_OK);
}

static void check_failure(const struct core_value *v, enum core_code code, const char *text)
{
    struct wire_failure f;

    ck_assert_uint_eq(v->meta, WIRE_META_ERROR);
    ck_assert_uint_gt(v->size, sizeof f);
    memcpy(&f, v->bytes, sizeof f);
    ck_assert_uint_eq(f.code, code);
    ck_assert_ptr_nonnull(strstr((const char *)v->bytes + sizeof f, text));
}

static void say_pulled(unsigned nth_one, uint32_t entry)
{
    struct wire_store_pulled w = pulled(nth_pull(nth_one).ticket, entry);

    say_on(0, WIRE_STORE_PULLED, &w, sizeof w);
}

static void say_failed(unsigned nth_one, enum err_code code, const char *text)
{
    uint8_t body[sizeof(struct wire_store_pull_failed) + 200];
    struct wire_store_pull_failed w = {.ticket = nth_pull(nth_one).ticket, .code = code};

    memcpy(body, &w, sizeof w);
    memcpy(body + sizeof w, text, strlen(text));
    say_on(0, WIRE_STORE_PULL_FAILED, body, sizeof w + strlen(text));
}

static bool is_first_freed(void)
{
    return atomic_load(&share->ring.head) > 0 && share->ring.records[0].kind == STORE_FREE;
}

START_TEST(a_value_elsewhere_is_brought_once_for_all_who_read_it)
{
    const struct wire_key key = key_of_ours();

    join_as(false);
    struct record *r = make_elsewhere();
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    start_get(&getters[1], r);
    for (unsigned n = 0; n < 2;) { /* both are in their calls */
        core_lock();
        n = r->u.stored.n_views;
        core_unlock();
    }
    struct wire_store_pull w = nth_pull(0);
    ck_assert_mem_eq(&w.key, &key, sizeof key);
    ck_assert_uint_eq(w.node, THERE);
    ck_assert_uint_eq(w.size, SIZE);
    ck_assert_uint_eq(w.n_refs, 0);
    ck_assert_uint_eq(w.priority, WIRE_PULL_GET);
    fill_entry(3, &key, SIZE);
    say_pulled(0, 3);
    end_get(&getters[0]);
    end_get(&getters[1]);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_eq(getters[i].v.meta, WIRE_META_RAW);
        ck_assert_uint_eq(getters[i].v.size, SIZE);
        ck_assert_uint_eq(*(const uint8_t *)getters[i].v.bytes, 3);
    }
    ck_assert_uint_eq(n_pins_of(3), 1); /* the owner's too: it is but a copy */
    core_value_drop(&getters[0].v);
    ck_assert_uint_eq(n_pins_of(3), 1);
    core_value_drop(&getters[1].v);
    ck_assert_uint_eq(n_pins_of(3), 0);
    /* again: it is still there */
    ck_assert_int_eq(core_get(record_word(r), 0, &getters[0].v), CORE_OK);
    core_value_drop(&getters[0].v);
    /* and gone, there and here */
    ck_assert_int_eq(core_release(record_word(r)), CORE_OK);
    turn();
    listen_to_core();
    struct wire_store_free_at f = nth_free_at(0);
    ck_assert_mem_eq(&f.key, &key, sizeof key);
    ck_assert_uint_eq(f.node, THERE);
    ck_assert_uint_eq(f.is_abort, 0);
    ck_assert(!is_first_freed());
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 0);
}
END_TEST

static struct waiting {
    pthread_t thread;
    uint64_t refs[3];
    size_t num_returns;
    bool ready[3];
    int code;
} waiting;

static void *wait_for_them(void *arg)
{
    struct waiting *w = arg;

    w->code = core_wait(w->refs, 3, w->num_returns, -1, w->ready);
    return NULL;
}

static void start_wait(size_t num_returns, struct record **r)
{
    for (int i = 0; i < 3; i++)
        waiting.refs[i] = record_word(r[i]);
    waiting.num_returns = num_returns;
    ck_assert_int_eq(pthread_create(&waiting.thread, NULL, wait_for_them, &waiting), 0);
}

START_TEST(what_is_waited_for_is_brought)
{
    struct wire_key keys[3];
    struct record *r[3];
    struct core_value v;
    bool ready;

    join_as(false);
    for (int i = 0; i < 3; i++) {
        r[i] = make_numbered(COUNTER + (uint64_t)i);
        keys[i] = key_of_ours();
        keys[i].counter += (uint64_t)i;
    }
    /* who does not wait has asked for it */
    uint64_t word = record_word(r[0]);
    ck_assert_int_eq(core_wait(&word, 1, 1, 0, &ready), CORE_ETIMEOUT);
    ck_assert(!ready);
    start_wait(2, r);
    await(WIRE_STORE_PULL, 1);                /* an eighth of the store has no room for two */
    say_failed(0, ERR_TIMEOUT, "it is slow"); /* what a get says */
    await(WIRE_STORE_PULL, 2);
    fill_entry(3, &keys[1], SIZE);
    say_pulled(1, 3);
    pthread_join(waiting.thread, NULL);
    ck_assert_int_eq(waiting.code, CORE_OK);
    ck_assert(waiting.ready[0] && waiting.ready[1] && !waiting.ready[2]);
    ck_assert_int_eq(core_get(record_word(r[1]), 0, &v), CORE_OK);
    ck_assert_uint_eq(v.meta, WIRE_META_RAW);
    core_value_drop(&v);
    await(WIRE_STORE_PULL, 3); /* though two were enough */
    for (unsigned i = 0; i < 3; i++) {
        struct wire_store_pull w = nth_pull(i);
        ck_assert_mem_eq(&w.key, &keys[i], sizeof keys[i]);
        ck_assert_uint_eq(w.priority, WIRE_PULL_WAIT);
    }
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 0); /* it still comes */
    fill_entry(4, &keys[2], SIZE);
    say_pulled(2, 4);
    turn();
    start_wait(3, r); /* the failed one is tried again */
    await(WIRE_STORE_PULL, 4);
    unix_link_destroy(raylet);
    pthread_join(waiting.thread, NULL);
    ck_assert_int_eq(waiting.code, CORE_OK);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(r[i]->held, 0);
}
END_TEST

START_TEST(who_reads_what_cannot_be_brought_is_told_why)
{
    static const char slow[] = "node 2 has sent nothing of an object of 102401 bytes for 30000 ms";

    join_as(false);
    struct record *r = make_elsewhere();
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    say_failed(0, ERR_TIMEOUT, slow);
    end_get(&getters[0]);
    check_failure(&getters[0].v, CORE_ELOST, slow);
    core_value_drop(&getters[0].v);
    start_get(&getters[0], r); /* asks again */
    await(WIRE_STORE_PULL, 2);
    say_failed(1, ERR_FULL, "the object store is full");
    end_get(&getters[0]);
    check_failure(&getters[0].v, CORE_EFULL, "the object store is full");
    core_value_drop(&getters[0].v);
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 3);
    unix_link_destroy(raylet);
    end_get(&getters[0]);
    check_failure(&getters[0].v, CORE_ELINK, "the raylet is gone");
    core_value_drop(&getters[0].v);
    ck_assert_uint_eq(r->held, 0);
    ck_assert_uint_eq(r->u.stored.n_views, 0);
}
END_TEST

START_TEST(a_copy_that_is_gone_is_brought_again)
{
    const struct wire_key key = key_of_ours();

    join_as(false);
    struct record *r = make_elsewhere();
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    fill_entry(3, &key, SIZE);
    set_state(3, STORE_ENTRY_FREEING); /* evicted before anybody could pin it */
    say_pulled(0, 3);
    await(WIRE_STORE_PULL, 2);
    struct wire_key others[] = {key, key, key, key, key};
    others[0].counter++;
    others[1].owner++;
    others[2].index++;
    others[3].attempt++;
    for (unsigned i = 0; i < 5; i++) { /* not what was asked for */
        fill_entry(4, &others[i], SIZE + (i == 4));
        say_pulled(1 + i, 4);
        await(WIRE_STORE_PULL, 3 + i);
        ck_assert_uint_eq(n_pins_of(4), 0);
    }
    fill_entry(5, &key, SIZE);
    say_pulled(6, 5);
    end_get(&getters[0]);
    ck_assert_uint_eq(*(const uint8_t *)getters[0].v.bytes, 5);
    core_value_drop(&getters[0].v);

    set_state(5, STORE_ENTRY_FREE); /* between two gets */
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 8);
    fill_entry(6, &key, SIZE);
    say_pulled(7, 6);
    end_get(&getters[0]);
    ck_assert_uint_eq(*(const uint8_t *)getters[0].v.bytes, 6);
    core_value_drop(&getters[0].v);

    set_state(6, STORE_ENTRY_FREE); /* and again and again */
    start_get(&getters[0], r);
    for (unsigned i = 8; i < 16; i++) {
        await(WIRE_STORE_PULL, i + 1);
        say_pulled(i, 6);
    }
    end_get(&getters[0]);
    check_failure(&getters[0].v, CORE_ELOST, "evicted");
    core_value_drop(&getters[0].v);
}
END_TEST

START_TEST(who_does_not_wait_finds_it_later)
{
    const struct wire_key key = key_of_ours();
    struct core_value v;

    join_as(false);
    struct record *r = make_elsewhere();
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_ETIMEOUT);
        listen_to_core();
        ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
    }
    ck_assert_int_eq(core_get(record_word(r), 1, &v), CORE_ETIMEOUT);
    fill_entry(3, &key, SIZE);
    say_pulled(0, 3);
    turn();
    ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_OK);
    ck_assert_uint_eq(*(const uint8_t *)v.bytes, 3);
    core_value_drop(&v);
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);

    set_state(3, STORE_ENTRY_FREE);
    ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_ETIMEOUT);
    ck_assert_int_eq(core_release(record_word(r)), CORE_OK); /* nobody wants it any more */
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 1);
    struct wire_store_pull_cancel c;
    memcpy(&c, nth(WIRE_STORE_PULL_CANCEL, 0)->body, sizeof c);
    ck_assert_uint_eq(c.ticket, nth_pull(1).ticket);
    fill_entry(4, &key, SIZE);
    say_pulled(1, 4); /* it was under way */
    turn();
    ck_assert_uint_eq(n_pins_of(4), 0);
}
END_TEST

START_TEST(many_that_are_read_are_asked_for_together)
{
    const struct wire_key key = key_of_ours();
    uint64_t refs[4];
    struct core_value v;
    size_t error;

    join_as(false);
    for (unsigned i = 0; i < 4; i++)
        refs[i] = record_word(make_numbered(COUNTER + i));
    fill_entry(3, &key, SIZE);
    core_lock();
    ref_table_find(core.refs, refs[0])->u.stored.copy = place_of(3); /* it has been here before */
    core_unlock();
    ck_assert_int_eq(core_await_all(refs, 4, -1, &error), CORE_OK);
    ck_assert_uint_eq(error, 4);
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1); /* an eighth of the store has no room for two */
    ck_assert_uint_eq(nth_pull(0).key.counter, COUNTER + 1);
    ck_assert_uint_eq(nth_pull(0).priority, WIRE_PULL_GET);
    ck_assert_int_eq(core_get(refs[0], 0, &v), CORE_OK);
    core_value_drop(&v);
    struct wire_key second = key;
    second.counter++;
    fill_entry(4, &second, SIZE);
    say_pulled(0, 4);
    turn();
    ck_assert_int_eq(core_get(refs[1], 0, &v), CORE_OK);
    core_value_drop(&v);
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
}
END_TEST

START_TEST(a_value_that_is_freed_is_not_waited_for)
{
    const struct wire_key key = key_of_ours();

    join_as(false);
    struct record *r = make_elsewhere();
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    ck_assert_int_eq(core_free(record_word(r)), CORE_OK);
    fill_entry(3, &key, SIZE);
    say_pulled(0, 3);
    end_get(&getters[0]);
    check_failure(&getters[0].v, CORE_ELOST, "freed by ray_free_object");
    ck_assert_uint_eq(n_pins_of(3), 0);
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 1);
    ck_assert_int_eq(core_get(record_word(r), 0, &getters[0].v), CORE_OK);
    check_failure(&getters[0].v, CORE_ELOST, "freed by ray_free_object");
}
END_TEST

START_TEST(a_borrowed_value_elsewhere_is_brought_by_its_owners_key)
{
    const uint64_t word = 3ull << 32 | 8;
    uint8_t body[sizeof(struct wire_object) + sizeof(struct wire_arg) + 4 + sizeof(struct wire_ref)
                 + sizeof(struct wire_stored)];
    const struct wire_ref ref = {.word = word, .counter = 77, .owner = OTHER, .index = 1};
    const struct wire_ref inner = {.word = 4ull << 32 | 9, .counter = 78, .owner = 12, .index = 1};
    const struct wire_object o = {.word = word};
    const struct wire_arg a = {.size = sizeof(struct wire_stored),
                               .meta = WIRE_META_RAW | WIRE_VALUE_STORED | WIRE_VALUE_INNER};
    const struct wire_stored s = {.place = store_place(3, 4),
                                  .offset = 1, /* of another's arena: not ours to judge */
                                  .size = SIZE,
                                  .n_refs = 1,
                                  .node = THERE,
                                  .key = key_of(OTHER, 77)};
    uint8_t *at = body;
    const uint32_t n = 1;
    uint32_t slot;

    join_as(false);
    core_lock();
    ck_assert(refs_learn((const uint8_t *)&ref, 1, &slot));
    struct record *r = ref_table_at(core.refs, slot);
    r->count++;
    refs_want(r);
    core_unlock();
    memcpy(at, &o, sizeof o), at += sizeof o;
    memcpy(at, &a, sizeof a), at += sizeof a;
    memcpy(at, &n, sizeof n), at += sizeof n;
    memcpy(at, &inner, sizeof inner), at += sizeof inner;
    memcpy(at, &s, sizeof s), at += sizeof s;
    tell_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_OBJECT, body, (size_t)(at - body));
    ck_assert_uint_eq(r->state, REF_READY);
    ck_assert_uint_eq(r->extra->n_inner, 1);
    ck_assert_uint_eq(ref_table_at(core.refs, r->extra->inner[0])->counter, 78);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 0); /* its refs came with the frame */
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    struct wire_store_pull w = nth_pull(0);
    ck_assert_mem_eq(&w.key, &s.key, sizeof s.key);
    ck_assert_uint_eq(w.n_refs, 1);
    fill_entry(3, &s.key, SIZE);
    entries[3].n_refs = 1;
    say_pulled(0, 3);
    end_get(&getters[0]);
    ck_assert_uint_eq(getters[0].v.n_refs, 1);
    core_value_drop(&getters[0].v);
    ck_assert_uint_eq(n_pins_of(3), 0);
}
END_TEST

/* A value here with a ref inside, wanted by a process of which nobody knows where it is. */
START_TEST(refs_inside_go_with_a_value_to_who_may_be_elsewhere)
{
    const struct ref_stored s = {.place = place_of(3),
                                 .offset = 8 * STORE_BLOCK,
                                 .size = SIZE,
                                 .n_refs = 1,
                                 .pin = REF_NO_PIN,
                                 .node = HERE};
    struct wire_want w = {.word = 0};
    struct wire_value v = {0};
    struct wire_ref ref;

    join_as(false);
    core_lock();
    struct record *inner = ref_table_new(core.refs), *r = ref_table_new(core.refs);
    inner->counter = 7;
    inner->held++;
    r->counter = COUNTER;
    r->flags |= REF_SHOWN;
    ck_assert(ref_table_set_inner(core.refs, r, &inner->slot, 1));
    ref_table_set_stored(core.refs, r, WIRE_META_RAW, &s);
    w.word = record_word(r);
    core_unlock();
    tell_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_WANT, &w, sizeof w);
    const struct heard *h = nth(WIRE_OBJECT, 0);
    const uint8_t *at = h->body + sizeof(struct wire_object);
    ck_assert(refs_parse(&at, h->body + h->size, &v));
    ck_assert(v.is_stored && v.has_inner && !v.is_elsewhere);
    ck_assert_uint_eq(v.stored.key.counter, COUNTER);
    ck_assert_uint_eq(v.stored.key.owner, ME);
    ck_assert_uint_eq(v.stored.key.index, 1);
    ck_assert_uint_eq(v.n_refs, 1);
    memcpy(&ref, v.refs, sizeof ref);
    ck_assert_uint_eq(ref.counter, 7);
    ck_assert_uint_eq(ref.word, record_word(inner));
}
END_TEST

/* --- an owner of leases elsewhere --- */

static uint64_t submit(int max_retries, const struct core_arg *arg)
{
    const struct core_template_spec spec = {.function = "f",
                                            .n_returns = 1,
                                            .max_retries = max_retries,
                                            .cpu_units = 10000};
    uint64_t ref;

    ck_assert_int_eq(core_submit(core_template(&spec, NULL), arg, 1, &ref), CORE_OK);
    turn();
    listen_to_core();
    return ref;
}

static struct unique_id id_of(uint8_t byte)
{
    struct unique_id id;

    memset(id.bytes, byte, sizeof id.bytes);
    return id;
}

/* Of the n-th request. */
static void grant(unsigned n, uint64_t lease, uint32_t process, uint32_t node)
{
    struct wire_lease_grant g = {.lease = lease,
                                 .pid = 1000000,
                                 .process = process,
                                 .worker = id_of((uint8_t)process),
                                 .slot = node == HERE ? 3 : WIRE_SLOT_NONE,
                                 .node = node};
    struct wire_lease_request r;

    memcpy(&r, nth(WIRE_LEASE_REQUEST, n)->body, sizeof r);
    g.ticket = r.ticket;
    tell(WIRE_LEASE_GRANT, &g, sizeof g);
}

static struct wire_push nth_push(unsigned n)
{
    struct wire_push w;

    memcpy(&w, nth(WIRE_PUSH, n)->body, sizeof w);
    return w;
}

/* What its one argument is. */
static struct wire_stored stored_of_push(unsigned n, uint8_t *meta)
{
    const uint8_t *at = nth(WIRE_PUSH, n)->body + sizeof(struct wire_push);
    struct wire_arg a;
    struct wire_stored s;

    memcpy(&a, at, sizeof a);
    memcpy(&s, at + sizeof a, sizeof s);
    ck_assert_uint_eq(a.size, sizeof s);
    *meta = a.meta;
    return s;
}

static void say_done(const struct wire_push *w, const struct wire_stored *s, uint8_t meta)
{
    uint8_t body[sizeof(struct wire_done) + sizeof(struct wire_arg) + sizeof *s];
    struct wire_done d = {.lease = w->lease, .slot = w->slot, .n_returns = 1};
    struct wire_arg a = {.size = sizeof *s, .meta = meta};

    memcpy(body, &d, sizeof d);
    memcpy(body + sizeof d, &a, sizeof a);
    memcpy(body + sizeof d + sizeof a, s, sizeof *s);
    tell_on(TO_WORKER, WIRE_DONE, body, sizeof body);
}

static struct wire_stored result_of(const struct wire_push *w)
{
    struct wire_stored s = {.place = store_place(3, 4),
                            .size = SIZE,
                            .node = THERE,
                            .key = key_of(ME, w->counter)};

    s.key.attempt = w->attempt;
    return s;
}

/* The n-th task returns nothing but a value of no bytes. */
static void say_empty_done(uint32_t route, unsigned n)
{
    struct wire_push w = nth_push(n);
    struct wire_done d = {.lease = w.lease, .slot = w.slot, .n_returns = 1};
    uint8_t body[sizeof d + sizeof(struct wire_arg)] = {0};

    memcpy(body, &d, sizeof d);
    tell_on(route, WIRE_DONE, body, sizeof body);
}

static const struct core_arg small = {.bytes = "abc", .size = 3, .meta = WIRE_META_RAW};

/* With or without a word of its raylet's before. */
START_TEST(a_worker_elsewhere_is_reached_by_the_route_of_its_number)
{
    struct wire_route route = {.route = TO_WORKER, .peer_process = OTHER, .peer = id_of(OTHER)};
    bool is_announced = _i != 0;
    struct core_value v;

    join_as(false);
    uint64_t ref = submit(3, &small);
    if (is_announced)
        tell(WIRE_ROUTE, &route, sizeof route);
    grant(0, LEASE, OTHER, THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 1);
    ck_assert_uint_eq(nth(WIRE_PUSH, 0)->route, TO_WORKER);
    ck_assert_uint_eq(nth(WIRE_TEMPLATE, 0)->route, TO_WORKER);
    ck_assert_uint_eq(nth_push(0).phase & WIRE_PUSH_ELSEWHERE, 0);
    say_empty_done(TO_OWNER, 0); /* who says that is not our worker */
    say_empty_done(WIRE_ROUTE_PROCESS | OTHER, 0);
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_ETIMEOUT);
    say_empty_done(TO_WORKER, 0);
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_OK);
    /* the next lease of the pair has the same route */
    unsigned n = n_peers();
    struct wire_lease_ended e = {.lease = LEASE};
    tell_on(TO_WORKER, WIRE_OWNER_LEASE_ENDED, &e, sizeof e);
    submit(3, &small);
    if (is_announced)
        tell(WIRE_ROUTE, &route, sizeof route);
    grant(count(WIRE_LEASE_REQUEST) - 1, LEASE + 1, OTHER, THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 2);
    ck_assert_uint_eq(count(WIRE_TEMPLATE), 1);
    ck_assert_uint_eq(n_peers(), n);
    /* its death ends the route, the lease's notice the lease */
    struct wire_process_dead dead = {.process = OTHER};
    tell(WIRE_PROCESS_DEAD, &dead, sizeof dead);
    struct wire_worker_dead wd = {.lease = LEASE + 1, .mask_lease = WIRE_MASK_UNKNOWN};
    tell(WIRE_WORKER_DEAD, &wd, sizeof wd);
    ck_assert_uint_eq(n_peers(), 1); /* the raylet */
}
END_TEST

START_TEST(a_result_elsewhere_is_named_where_it_is)
{
    const struct wire_key key = key_of_ours();
    uint8_t meta;

    join_as(false);
    uint64_t ref = submit(3, &small);
    grant(0, LEASE, OTHER, THERE);
    struct wire_push w = nth_push(0);
    struct wire_stored s = result_of(&w);
    say_done(&w, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
    core_lock();
    struct record *r = ref_table_find(core.refs, ref);
    ck_assert_uint_eq(r->state, REF_READY);
    ck_assert_uint_eq(r->meta, WIRE_META_RAW);
    ck_assert_uint_eq(r->u.stored.node, THERE);
    core_unlock();

    /* to a worker on that node: there it is */
    submit(3, &(struct core_arg){.ref = ref});
    ck_assert_uint_eq(nth_push(1).phase & WIRE_PUSH_ELSEWHERE, 0);
    struct wire_stored sent = stored_of_push(1, &meta);
    ck_assert_mem_eq(&sent, &s, sizeof s);

    /* to one here, when a copy is here */
    fill_entry(3, &key, SIZE);
    core_lock();
    r->u.stored.copy = place_of(3);
    core_unlock();
    const struct core_template_spec spec = {.function = "g",
                                            .n_returns = 1,
                                            .max_retries = 3,
                                            .cpu_units = 5000};
    uint64_t other;
    ck_assert_int_eq(
        core_submit(core_template(&spec, NULL), &(struct core_arg){.ref = ref}, 1, &other),
        CORE_OK);
    turn();
    listen_to_core();
    struct wire_route route = {.route = 5, .peer_process = 3, .peer = id_of(3)};
    tell(WIRE_ROUTE, &route, sizeof route);
    grant(count(WIRE_LEASE_REQUEST) - 1, 8, 3, HERE);
    ck_assert_uint_eq(nth(WIRE_PUSH, 2)->route, 5);
    ck_assert_uint_eq(nth_push(2).phase & WIRE_PUSH_ELSEWHERE, WIRE_PUSH_ELSEWHERE);
    sent = stored_of_push(2, &meta);
    ck_assert_uint_eq(sent.copy, place_of(3));
    sent.copy = 0;
    ck_assert_mem_eq(&sent, &s, sizeof s);
}
END_TEST

START_TEST(a_result_elsewhere_has_the_name_of_its_task)
{
    struct core_value v;
    struct wire_stored s;

    join_as(false);
    for (int i = 0; i < 5; i++) {
        uint64_t ref = submit(0, &small);
        if (i == 0)
            grant(0, LEASE, OTHER, THERE);
        struct wire_push w = nth_push((unsigned)i);
        s = result_of(&w);
        s.key.counter += i == 0;
        s.key.owner += i == 1;
        s.key.index += i == 2;
        s.key.attempt = (uint16_t)(s.key.attempt + (i == 3));
        s.n_refs = i == 4; /* and its refs would have come with it */
        say_done(&w, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
        ck_assert_int_eq(core_get(ref, 0, &v), CORE_OK);
        check_failure(&v, CORE_ELOST, "malformed answer");
        core_value_drop(&v);
    }
}
END_TEST

/* --- what nobody has any more --- */

/* The worker of that push could not have attempt k of its one argument. */
static void say_lost(const struct wire_push *w, uint16_t attempt, uint32_t node)
{
    struct wire_done d = {.lease = w->lease,
                          .slot = w->slot,
                          .failed = WIRE_DONE_LOST,
                          .n_returns = 1};
    struct wire_lost lost = {.attempt = attempt, .node = node};
    uint8_t body[sizeof d + sizeof lost + 14];

    memcpy(body, &d, sizeof d);
    memcpy(body + sizeof d, &lost, sizeof lost);
    memcpy(body + sizeof d + sizeof lost, "node 2 is dead", 14);
    tell_on(TO_WORKER, WIRE_DONE, body, sizeof body);
}

/* A task of ours whose result is there; pushes are those so far. */
static uint64_t submit_stored(int max_retries, unsigned n_pushes)
{
    uint64_t ref = submit(max_retries, &small);

    if (n_pushes == 0)
        grant(0, LEASE, OTHER, THERE);
    struct wire_push w = nth_push(n_pushes);
    struct wire_stored s = result_of(&w);
    say_done(&w, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
    return ref;
}

START_TEST(a_lost_argument_is_made_again_while_its_task_waits)
{
    struct lineage_stats stats;
    uint8_t meta;

    join_as(false);
    uint64_t made = submit_stored(3, 0);
    uint64_t user = submit(3, &(struct core_arg){.ref = made});
    core_release(made);
    struct wire_push first = nth_push(0), waits = nth_push(1);
    say_lost(&waits, 0, THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 3);
    struct wire_push again = nth_push(2);
    ck_assert_uint_eq(again.counter, first.counter);
    ck_assert_uint_eq(again.attempt, 1);
    ck_assert_uint_eq(nth_free_at(0).key.counter, first.counter);
    struct wire_stored s = result_of(&again);
    say_done(&again, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
    ck_assert_uint_eq(count(WIRE_PUSH), 4);
    ck_assert_uint_eq(nth_push(3).counter, waits.counter);
    ck_assert_uint_eq(nth_push(3).attempt, 0); /* it had not run */
    struct wire_stored sent = stored_of_push(3, &meta);
    ck_assert_mem_eq(&sent, &s, sizeof s);
    /* who speaks of the first attempt is told of the second */
    waits = nth_push(3);
    say_lost(&waits, 0, THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 5);
    sent = stored_of_push(4, &meta);
    ck_assert_mem_eq(&sent, &s, sizeof s);
    say_empty_done(TO_WORKER, 4);
    lineages_get_stats(core.lineages, &stats);
    ck_assert_uint_eq(stats.n, 0); /* nobody has it any more */
    ck_assert_uint_eq(core.n_pending, 0);
    core_release(user);
    ck_assert_uint_eq(ref_table_live(core.refs), 0);
}
END_TEST

START_TEST(it_is_made_as_often_as_its_task_may_be_retried)
{
    struct core_value v;

    join_as(false);
    uint64_t made = submit_stored(1, 0);
    uint64_t user = submit(3, &(struct core_arg){.ref = made});
    grant(count(WIRE_LEASE_REQUEST) - 1, LEASE + 1, OTHER, THERE);
    struct wire_push waits = nth_push(1);
    say_lost(&waits, 0, THERE);
    struct wire_push again = nth_push(2);
    struct wire_stored s = result_of(&again);
    say_done(&again, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
    waits = nth_push(3);
    say_lost(&waits, 1, THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 4);
    ck_assert_int_eq(core_get(user, 0, &v), CORE_OK);
    check_failure(&v, CORE_ELOST, "on node 2, is gone, and its task has used up its max_retries");
    core_value_drop(&v);
    ck_assert_int_eq(core_get(made, 0, &v), CORE_OK);
    check_failure(&v, CORE_ELOST, "used up");
    core_value_drop(&v);
    ck_assert_uint_eq(core.n_pending, 0);
}
END_TEST

START_TEST(what_a_lost_value_was_made_of_is_made_first)
{
    uint8_t meta;

    join_as(false);
    uint64_t a = submit_stored(3, 0);
    uint64_t b = submit(3, &(struct core_arg){.ref = a});
    struct wire_push w = nth_push(1);
    struct wire_stored s = result_of(&w);
    say_done(&w, &s, WIRE_META_RAW | WIRE_VALUE_STORED);
    core_release(a);
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 0);
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 1); /* the value goes */
    start_get(&getters[0], ref_table_find(core.refs, b));
    await(WIRE_STORE_PULL, 1);
    say_failed(0, ERR_DIED, "node 2 is dead");
    await(WIRE_PUSH, 3);
    struct wire_push first = nth_push(2);
    ck_assert_uint_eq(first.counter, nth_push(0).counter);
    ck_assert_uint_eq(first.attempt, 1);
    s = result_of(&first);
    uint8_t done[sizeof(struct wire_done) + sizeof(struct wire_arg) + sizeof s];
    struct wire_done d = {.lease = first.lease, .slot = first.slot, .n_returns = 1};
    struct wire_arg arg = {.size = sizeof s, .meta = WIRE_META_RAW | WIRE_VALUE_STORED};
    memcpy(done, &d, sizeof d);
    memcpy(done + sizeof d, &arg, sizeof arg);
    memcpy(done + sizeof d + sizeof arg, &s, sizeof s);
    say_on(TO_WORKER, WIRE_DONE, done, sizeof done);
    await(WIRE_PUSH, 4);
    struct wire_push second = nth_push(3);
    ck_assert_uint_eq(second.counter, w.counter);
    ck_assert_uint_eq(second.attempt, 1);
    struct wire_stored sent = stored_of_push(3, &meta);
    ck_assert_mem_eq(&sent, &s, sizeof s);
    struct wire_done last = {.lease = second.lease, .slot = second.slot, .n_returns = 1};
    uint8_t body[sizeof last + sizeof(struct wire_arg)] = {0}; /* inline this time */
    memcpy(body, &last, sizeof last);
    say_on(TO_WORKER, WIRE_DONE, body, sizeof body);
    end_get(&getters[0]);
    ck_assert_uint_eq(getters[0].v.size, 0);
    core_release(b);
    ck_assert_uint_eq(ref_table_live(core.refs), 0);
}
END_TEST

START_TEST(what_was_put_is_lost)
{
    join_as(false);
    struct record *r = make_elsewhere();
    start_get(&getters[0], r);
    await(WIRE_STORE_PULL, 1);
    start_get(&getters[1], r);
    for (unsigned n = 0; n < 2;) {
        core_lock();
        n = r->u.stored.n_views;
        core_unlock();
    }
    say_failed(0, ERR_DIED, "node 2 is dead");
    await(WIRE_STORE_SEEK, 1);
    for (int i = 0; i < 2; i++) {
        end_get(&getters[i]);
        check_failure(&getters[i].v,
                      CORE_ELOST,
                      "its only copy, on node 2, is gone, and it was put");
        core_value_drop(&getters[i].v);
    }
    ck_assert_uint_eq(r->held, 0);
}
END_TEST

START_TEST(a_copy_that_is_here_takes_its_place)
{
    const struct wire_key key = key_of_ours();
    struct core_value v;

    join_as(false);
    struct record *r = make_elsewhere();
    fill_entry(3, &key, SIZE);
    core_lock();
    r->u.stored.copy = place_of(3);
    ck_assert(remake_lost(r, 1, THERE) && remake_lost(r, 2, HERE)); /* not what it is */
    ck_assert_uint_eq(r->u.stored.node, THERE);
    ck_assert(remake_lost(r, 2, THERE));
    ck_assert_uint_eq(r->u.stored.node, HERE);
    ck_assert_uint_eq(r->u.stored.place, place_of(3));
    core_unlock();
    ck_assert_uint_eq(share->ring.records[0].kind, STORE_KEEP);
    ck_assert_uint_eq(share->ring.records[0].place, place_of(3));
    ck_assert_uint_eq(n_pins_of(3), 0);
    ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_OK);
    ck_assert_uint_eq(v.size, SIZE);
    core_value_drop(&v);
    core_release(record_word(r));
    ck_assert_uint_eq(share->ring.records[1].kind, STORE_FREE);
    ck_assert_uint_eq(share->ring.records[1].place, place_of(3));
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 0);
}
END_TEST

static void await_views(const struct record *r, unsigned n)
{
    for (unsigned now = 0; now < n;) {
        core_lock();
        now = r->u.stored.n_views;
        core_unlock();
    }
}

static struct wire_store_found found_at(uint32_t node, uint64_t place)
{
    struct wire_store_found w = {.place = place, .node = node};

    memcpy(&w.ticket, nth(WIRE_STORE_SEEK, count(WIRE_STORE_SEEK) - 1)->body, sizeof w.ticket);
    return w;
}

/* Two threads and two borrowers find out at once. */
START_TEST(another_nodes_copy_takes_its_place)
{
    const struct wire_key key = key_of_ours();
    struct wire_stored s;

    nobody_has_it = false;
    join_as(false);
    struct record *r = make_elsewhere();
    r->flags |= REF_SHOWN;
    for (unsigned i = 0; i < 2; i++) {
        start_get(&getters[i], r);
        await(WIRE_STORE_PULL, 1);
        await_views(r, i + 1);
    }
    say_failed(0, ERR_DIED, "node 2 is dead");
    await(WIRE_STORE_SEEK, 1);
    struct wire_store_seek asked;
    memcpy(&asked, nth(WIRE_STORE_SEEK, 0)->body, sizeof asked);
    ck_assert_mem_eq(&asked.key, &key, sizeof key);
    ck_assert_uint_eq(asked.node, THERE);
    struct wire_want want = {.word = record_word(r), .node = THERE, .attempt = 2, .is_lost = 1};
    for (uint32_t i = 0; i < 2; i++)
        say_on(WIRE_ROUTE_PROCESS | (OTHER + i), WIRE_WANT, &want, sizeof want);
    struct wire_store_found w = found_at(THERE + 1, store_place(7, 8));
    w.ticket += 1ull << 32; /* nothing that was asked */
    say_on(0, WIRE_STORE_FOUND, &w, sizeof w);
    w.ticket = N_ENTRIES * 100000ull;
    say_on(0, WIRE_STORE_FOUND, &w, sizeof w);
    w = found_at(THERE + 1, store_place(7, 8));
    say_on(0, WIRE_STORE_FOUND, &w, sizeof w);
    await(WIRE_STORE_PULL, 2);
    ck_assert_uint_eq(nth_pull(1).node, THERE + 1);
    await(WIRE_OBJECT, 2);
    memcpy(&s,
           nth(WIRE_OBJECT, 1)->body + sizeof(struct wire_object) + sizeof(struct wire_arg),
           sizeof s);
    ck_assert_uint_eq(s.node, THERE + 1);
    ck_assert_uint_eq(s.place, store_place(7, 8));
    ck_assert_mem_eq(&s.key, &key, sizeof key);
    fill_entry(3, &key, SIZE);
    say_pulled(1, 3);
    for (int i = 0; i < 2; i++) {
        end_get(&getters[i]);
        ck_assert_uint_eq(getters[i].v.size, SIZE);
        core_value_drop(&getters[i].v);
    }
    ck_assert_uint_eq(count(WIRE_STORE_SEEK), 1);
    /* that one's node dies, too */
    core_lock();
    r->u.stored.copy = 0;
    ck_assert(remake_lost(r, 2, THERE + 1));
    core_unlock();
    turns();
    ck_assert_uint_eq(count(WIRE_STORE_SEEK), 2);
    w = found_at(THERE + 2, store_place(7, 8));
    tell(WIRE_STORE_FOUND, &w, sizeof w);
    core_release(record_word(r));
    turns();
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 1);
    ck_assert_uint_eq(nth_free_at(0).node, THERE + 2);
    ck_assert_uint_eq(ref_table_live(core.refs), 0);
}
END_TEST

/* Of those that are not wanted any more nothing stays, and nothing is made again. */
START_TEST(what_is_freed_while_it_is_sought_goes_where_it_is_found)
{
    bool is_found = _i % 2 == 1, is_released = _i / 2 == 1;
    struct core_value v;

    nobody_has_it = false;
    join_as(false);
    uint64_t ref = submit_stored(3, 0);
    core_lock();
    ck_assert(remake_lost(ref_table_find(core.refs, ref), 0, THERE));
    core_unlock();
    turns();
    ck_assert_uint_eq(count(WIRE_STORE_SEEK), 1);
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_ETIMEOUT);
    ck_assert_int_eq(is_released ? core_release(ref) : core_free(ref), CORE_OK);
    turns();
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 0);
    struct wire_store_found w = found_at(is_found ? THERE + 1 : 0, is_found);
    tell(WIRE_STORE_FOUND, &w, sizeof w);
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 1);
    ck_assert_uint_eq(nth_free_at(0).node, is_found ? THERE + 1 : THERE);
    ck_assert_uint_eq(count(WIRE_PUSH), 1);
    if (!is_released) {
        ck_assert_int_eq(core_get(ref, 0, &v), CORE_OK);
        check_failure(&v, CORE_ELOST, "freed by");
        core_value_drop(&v);
        core_release(ref);
    }
    ck_assert_uint_eq(ref_table_live(core.refs), 0);
}
END_TEST

START_TEST(a_copy_here_that_its_owner_did_not_know_takes_its_place)
{
    const struct wire_key key = key_of_ours();
    struct core_value v;

    nobody_has_it = false;
    join_as(false);
    struct record *r = make_elsewhere();
    core_lock();
    ck_assert(remake_lost(r, 2, THERE));
    core_unlock();
    turns();
    fill_entry(3, &key, SIZE);
    struct wire_store_found w = found_at(HERE, place_of(3));
    tell(WIRE_STORE_FOUND, &w, sizeof w);
    ck_assert_uint_eq(share->ring.records[0].kind, STORE_KEEP);
    ck_assert_uint_eq(n_pins_of(3), 0);
    ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_OK);
    ck_assert_uint_eq(v.size, SIZE);
    core_value_drop(&v);
    core_release(record_word(r));
    ck_assert_uint_eq(share->ring.records[1].kind, STORE_FREE);
    ck_assert_uint_eq(share->ring.records[1].place, place_of(3));
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 0);
}
END_TEST

START_TEST(a_raylet_that_ends_answers_nobody)
{
    struct core_value v;

    nobody_has_it = false;
    join_as(false);
    struct record *r = make_elsewhere();
    core_lock();
    ck_assert(remake_lost(r, 2, THERE));
    core_unlock();
    turns();
    ck_assert_uint_eq(count(WIRE_STORE_SEEK), 1);
    unix_link_destroy(raylet);
    raylet = NULL;
    turn();
    turn();
    ck_assert_int_eq(core_get(record_word(r), 0, &v), CORE_OK);
    check_failure(&v, CORE_ELOST, "it was put");
    core_value_drop(&v);
}
END_TEST

/* Its owner says where it is now. */
START_TEST(a_borrower_asks_its_owner_for_another_one)
{
    const uint64_t word = 3ull << 32 | 8;
    const struct wire_ref ref = {.word = word, .counter = 77, .owner = OTHER, .index = 1};
    const struct wire_object o = {.word = word};
    const struct wire_arg a = {.size = sizeof(struct wire_stored),
                               .meta = WIRE_META_RAW | WIRE_VALUE_STORED};
    struct wire_stored s = {.place = store_place(3, 4),
                            .size = SIZE,
                            .node = THERE,
                            .key = key_of(OTHER, 77)};
    uint8_t body[sizeof o + sizeof a + sizeof s];
    struct wire_want w;
    uint32_t slot;

    join_as(false);
    core_lock();
    ck_assert(refs_learn((const uint8_t *)&ref, 1, &slot));
    struct record *r = ref_table_at(core.refs, slot);
    r->count++;
    core_unlock();
    start_get(&getters[0], r);
    await(WIRE_WANT, 1);
    memcpy(&w, nth(WIRE_WANT, 0)->body, sizeof w);
    ck_assert_uint_eq(w.is_lost, 0);
    memcpy(body, &o, sizeof o);
    memcpy(body + sizeof o, &a, sizeof a);
    memcpy(body + sizeof o + sizeof a, &s, sizeof s);
    say_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_OBJECT, body, sizeof body);
    await(WIRE_STORE_PULL, 1);
    say_failed(0, ERR_NOT_FOUND, "node 2 does not have it");
    await(WIRE_WANT, 2);
    memcpy(&w, nth(WIRE_WANT, 1)->body, sizeof w);
    ck_assert_uint_eq(w.word, word);
    ck_assert_uint_eq(w.is_lost, 1);
    ck_assert_uint_eq(w.node, THERE);
    ck_assert_uint_eq(w.attempt, 0);
    s.key.attempt = 1;
    s.node = THERE + 1;
    memcpy(body + sizeof o + sizeof a, &s, sizeof s);
    say_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_OBJECT, body, sizeof body);
    await(WIRE_STORE_PULL, 2);
    ck_assert_uint_eq(nth_pull(1).node, THERE + 1);
    ck_assert_uint_eq(nth_pull(1).key.attempt, 1);
    fill_entry(3, &s.key, SIZE);
    say_pulled(1, 3);
    end_get(&getters[0]);
    ck_assert_uint_eq(getters[0].v.meta, WIRE_META_RAW);
    core_value_drop(&getters[0].v);
}
END_TEST

START_TEST(an_owner_that_is_asked_again_makes_it_or_says_why_not)
{
    struct wire_arg a;

    join_as(false);
    uint64_t made = submit_stored(3, 0);
    struct record *put = make_numbered(99);
    core_lock();
    struct record *r = ref_table_find(core.refs, made);
    r->flags |= REF_SHOWN;
    put->flags |= REF_SHOWN;
    core_unlock();
    struct wire_want w = {.word = made, .node = THERE, .attempt = 7, .is_lost = 1};
    tell_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_WANT, &w, sizeof w);
    ck_assert_uint_eq(count(WIRE_OBJECT), 1); /* who asked is behind */
    w.attempt = 0;
    tell_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_WANT, &w, sizeof w);
    ck_assert_uint_eq(count(WIRE_OBJECT), 1);
    ck_assert_uint_eq(count(WIRE_PUSH), 2);
    say_empty_done(TO_WORKER, 1);
    ck_assert_uint_eq(count(WIRE_OBJECT), 2);
    w = (struct wire_want){.word = record_word(put), .node = THERE, .attempt = 2, .is_lost = 1};
    tell_on(WIRE_ROUTE_PROCESS | OTHER, WIRE_WANT, &w, sizeof w);
    memcpy(&a, nth(WIRE_OBJECT, 2)->body + sizeof(struct wire_object), sizeof a);
    ck_assert_uint_eq(a.meta, WIRE_META_ERROR);
}
END_TEST

/* A run is a task like others: who runs it dies. */
START_TEST(a_run_whose_worker_dies_is_retried_or_fails)
{
    struct wire_worker_dead d = {.lease = LEASE, .mask_lease = WIRE_MASK_UNKNOWN, .pid = 1};
    struct core_value v;

    join_as(false);
    uint64_t made = submit_stored(2, 0);
    core_lock();
    struct record *r = ref_table_find(core.refs, made);
    ck_assert(remake_lost(r, 0, THERE));
    owner_act();
    core_unlock();
    turns();
    ck_assert_uint_eq(nth_push(1).attempt, 1);
    tell(WIRE_WORKER_DEAD, &d, sizeof d);
    grant(count(WIRE_LEASE_REQUEST) - 1, LEASE + 1, OTHER + 1, THERE);
    ck_assert_uint_eq(nth_push(2).attempt, 2);
    d.lease = LEASE + 1;
    tell(WIRE_WORKER_DEAD, &d, sizeof d);
    ck_assert_int_eq(core_get(made, 0, &v), CORE_OK);
    check_failure(&v, CORE_ECRASH, "");
    core_value_drop(&v);
    ck_assert_uint_eq(core.n_pending, 0);
    core_release(made);
    ck_assert_uint_eq(ref_table_live(core.refs), 0);
}
END_TEST

/* Its node is lost: any of them may have started. */
START_TEST(nobody_knows_what_a_lost_node_had_started)
{
    struct core_value v;
    struct wire_worker_dead d = {.lease = LEASE, .mask_lease = WIRE_MASK_UNKNOWN, .pid = 1};

    join_as(false);
    submit(0, &small);
    grant(0, LEASE, OTHER, THERE);
    say_empty_done(TO_WORKER, 0); /* now the lease has a window */
    uint64_t once = submit(0, &small), again = submit(1, &small);
    ck_assert_uint_eq(count(WIRE_PUSH), 3);
    tell(WIRE_WORKER_DEAD, &d, sizeof d);
    ck_assert_uint_eq(count(WIRE_STORE_FREE_AT), 2);
    for (unsigned i = 0; i < 2; i++) {
        struct wire_store_free_at f = nth_free_at(i);
        ck_assert_uint_eq(f.is_abort, 1);
        ck_assert_uint_eq(f.node, THERE);
        ck_assert_uint_eq(f.key.owner, ME);
        ck_assert_uint_eq(f.key.counter, nth_push(1 + i).counter);
        ck_assert_uint_eq(f.key.attempt, 0);
    }
    ck_assert_int_eq(core_get(once, 0, &v), CORE_OK);
    check_failure(&v, CORE_ECRASH, "");
    core_value_drop(&v);
    ck_assert_int_eq(core_get(again, 0, &v), CORE_ETIMEOUT);
    grant(count(WIRE_LEASE_REQUEST) - 1, LEASE + 1, OTHER + 1, THERE);
    ck_assert_uint_eq(nth_push(3).attempt, 1);
}
END_TEST

/* On a route nothing more is to be read of it: what the raylet says next is the raylet's. */
START_TEST(what_follows_a_death_on_a_route_is_heard)
{
    const struct core_template_spec spec = {.function = "g",
                                            .n_returns = 1,
                                            .max_retries = 3,
                                            .cpu_units = 5000};
    struct wire_worker_dead d = {.lease = LEASE, .mask_lease = LEASE, .pid = 1};
    uint64_t ref;

    join_as(false);
    submit(3, &small);
    grant(0, LEASE, OTHER, THERE);
    ck_assert_int_eq(core_submit(core_template(&spec, NULL), &small, 1, &ref), CORE_OK);
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_LEASE_REQUEST), 2);
    say_on(0, WIRE_WORKER_DEAD, &d, sizeof d);
    grant(1, LEASE + 1, OTHER + 1, THERE); /* they are read together */
    ck_assert_uint_eq(count(WIRE_PUSH), 2);
    ck_assert_uint_eq(nth(WIRE_PUSH, 1)->route, TO_WORKER + 1);
}
END_TEST

/* --- a worker --- */

static void begin_lease(uint64_t lease)
{
    struct wire_lease_begin b = {.lease = lease,
                                 .owner_process = OTHER,
                                 .owner_slot = WIRE_SLOT_NONE,
                                 .owner = id_of(OTHER),
                                 .node = THERE};

    tell(WIRE_LEASE_BEGIN, &b, sizeof b);
}

static void say_template(void)
{
    uint8_t body[sizeof(struct wire_template) + 4];
    struct wire_template w = {.n_returns = 1};

    memcpy(body, &w, sizeof w);
    memcpy(body + sizeof w, "f\0f", 4);
    tell_on(TO_OWNER, WIRE_TEMPLATE, body, sizeof body);
}

/* The ref inside each argument that has one. */
static const struct wire_ref inside = {.word = 3ull << 32 | 8,
                                       .counter = 77,
                                       .owner = OTHER,
                                       .index = 1};

/* A task whose argument is that object, in the other node's store. */
static void push(uint8_t slot, const struct wire_stored *s)
{
    uint8_t
        body[sizeof(struct wire_push) + sizeof(struct wire_arg) + 4 + sizeof inside + sizeof *s];
    uint8_t *at = body;
    struct wire_push w = {.lease = LEASE,
                          .counter = slot + 100u,
                          .slot = slot,
                          .phase = 1 | WIRE_PUSH_ELSEWHERE,
                          .n_args = 1,
                          .attempt = 4};
    struct wire_arg a = {.size = sizeof *s, .meta = WIRE_META_RAW | WIRE_VALUE_STORED};

    a.meta |= s->n_refs > 0 ? WIRE_VALUE_INNER : 0;
    memcpy(at, &w, sizeof w), at += sizeof w;
    memcpy(at, &a, sizeof a), at += sizeof a;
    if (s->n_refs > 0) {
        memcpy(at, &s->n_refs, sizeof s->n_refs), at += sizeof s->n_refs;
        memcpy(at, &inside, sizeof inside), at += sizeof inside;
    }
    memcpy(at, s, sizeof *s), at += sizeof *s;
    tell_on(TO_OWNER, WIRE_PUSH, body, (size_t)(at - body));
}

static struct wire_stored argument(uint64_t counter, uint64_t size)
{
    return (struct wire_stored){.place = store_place(3, 4),
                                .size = size,
                                .node = THERE,
                                .key = key_of(OTHER, counter)};
}

static void *run_one(void *arg)
{
    uint64_t now = clock_now_ns();

    core_lock();
    core.body_thread = pthread_self();
    *(bool *)arg = worker_run_one(UINT64_MAX, &now);
    peer_flush_all();
    core_unlock();
    return NULL;
}

static void run_now(void)
{
    bool ran = false;

    run_one(&ran);
    ck_assert(ran);
    listen_to_core();
}

static struct wire_done nth_done(unsigned n)
{
    struct wire_done d;

    ck_assert_uint_eq(nth(WIRE_DONE, n)->route, TO_OWNER);
    memcpy(&d, nth(WIRE_DONE, n)->body, sizeof d);
    return d;
}

START_TEST(arguments_elsewhere_are_asked_for_when_their_task_comes)
{
    const struct wire_stored a = argument(1, 500), b = argument(2, 600);

    join_as(true);
    begin_lease(LEASE);
    say_template();
    push(0, &a);
    push(1, &a); /* the same object */
    push(2, &b);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 2);
    ck_assert_uint_eq(nth_pull(0).priority, WIRE_PULL_ARGUMENT);
    ck_assert_mem_eq(&nth(WIRE_STORE_PULL, 0)->body[8], &a.key, sizeof a.key);
    ck_assert_mem_eq(&nth(WIRE_STORE_PULL, 1)->body[8], &b.key, sizeof b.key);
    fill_entry(3, &a.key, 500);
    say_pulled(0, 3);
    turn();
    ck_assert_uint_eq(n_pins_of(3), 0); /* it may still be evicted */
    run_now();
    run_now();
    ck_assert_uint_eq(count(WIRE_DONE), 2);
    ck_assert_uint_eq(nth_done(0).failed, 0);
    ck_assert_uint_eq(nth_done(1).failed, 0);
    ck_assert_uint_eq(nth(WIRE_DONE, 0)->body[sizeof(struct wire_done) + 5], 3);
    ck_assert_uint_eq(n_pins_of(3), 0);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 2);
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 0);
}
END_TEST

START_TEST(a_task_waits_for_its_argument)
{
    const struct wire_stored a = argument(1, 500);
    bool ran = false;
    pthread_t t;

    join_as(true);
    begin_lease(LEASE);
    say_template();
    push(0, &a);
    fill_entry(3, &a.key, 500);
    set_state(3, STORE_ENTRY_FREE); /* gone before the task starts */
    say_pulled(0, 3);
    turn();
    ck_assert_int_eq(pthread_create(&t, NULL, run_one, &ran), 0);
    await(WIRE_STORE_PULL, 2);
    fill_entry(4, &a.key, 500);
    say_pulled(1, 4);
    await(WIRE_DONE, 1);
    pthread_join(t, NULL);
    ck_assert(ran);
    ck_assert_uint_eq(nth_done(0).failed, 0);
    ck_assert_uint_eq(nth(WIRE_DONE, 0)->body[sizeof(struct wire_done) + 5], 4);

    push(1, &a); /* and for one that cannot be had */
    say_failed(2, ERR_TIMEOUT, "node 2 is slow");
    turn();
    ck_assert_int_eq(pthread_create(&t, NULL, run_one, &ran), 0);
    await(WIRE_STORE_PULL, 4); /* that came too early for it: it asks itself */
    say_failed(3, ERR_TIMEOUT, "node 2 is slow");
    await(WIRE_DONE, 2);
    pthread_join(t, NULL);
    ck_assert_uint_eq(nth_done(1).failed, WIRE_DONE_FAILED);
    const struct heard *h = nth(WIRE_DONE, 1);
    struct core_value v = {.bytes = h->body + sizeof(struct wire_done) + sizeof(struct wire_arg),
                           .size = h->size,
                           .meta = WIRE_META_ERROR};
    check_failure(&v, CORE_ELOST, "argument 0 cannot be read here: node 2 is slow");

    push(0, &a); /* and for one that is lost: its caller is to know */
    ck_assert_int_eq(pthread_create(&t, NULL, run_one, &ran), 0);
    await(WIRE_STORE_PULL, 5);
    say_failed(4, ERR_DIED, "node 2 is dead");
    await(WIRE_DONE, 3);
    pthread_join(t, NULL);
    ck_assert_uint_eq(nth_done(2).failed, WIRE_DONE_LOST);
    ck_assert_uint_eq(nth_done(2).n_returns, 1);
    struct wire_lost lost = {.attempt = a.key.attempt, .node = THERE};
    h = nth(WIRE_DONE, 2);
    ck_assert_mem_eq(h->body + sizeof(struct wire_done), &lost, sizeof lost);
    ck_assert_mem_eq(h->body + sizeof(struct wire_done) + sizeof lost, "node 2 is dead", 14);
}
END_TEST

START_TEST(a_task_whose_argument_is_here_runs_before_one_that_waits)
{
    const struct wire_stored far = argument(1, 500), near = argument(2, 500);
    bool ran = false;
    pthread_t t;

    join_as(true);
    begin_lease(LEASE);
    say_template();
    push(0, &far);
    push(1, &near);
    push(2, &far);
    fill_entry(4, &near.key, 500);
    say_pulled(1, 4);
    turn();
    run_now();
    ck_assert_uint_eq(nth_done(0).slot, 1);
    ck_assert_int_eq(pthread_create(&t, NULL, run_one, &ran), 0); /* no other: the oldest waits */
    fill_entry(3, &far.key, 500);
    say_pulled(0, 3);
    await(WIRE_DONE, 2);
    pthread_join(t, NULL);
    ck_assert(ran);
    ck_assert_uint_eq(nth_done(1).slot, 0);
    run_now();
    ck_assert_uint_eq(nth_done(2).slot, 2);
}
END_TEST

START_TEST(a_body_that_reads_from_elsewhere_gives_its_cpu_back)
{
    const struct wire_stored a = argument(1, 500);
    const struct wire_key key = key_of_ours();
    bool ran = false;
    pthread_t t;

    join_as(true);
    read_by_body = record_word(make_elsewhere());
    begin_lease(LEASE);
    say_template();
    push(0, &a);
    fill_entry(3, &a.key, 500);
    say_pulled(0, 3);
    turn();
    ck_assert_int_eq(pthread_create(&t, NULL, run_one, &ran), 0);
    await(WIRE_STORE_PULL, 2);
    await(WIRE_BLOCKED, 1);
    fill_entry(4, &key, SIZE);
    say_pulled(1, 4);
    await(WIRE_DONE, 1);
    pthread_join(t, NULL);
    ck_assert_uint_eq(nth_done(0).failed, 0);
    ck_assert_uint_eq(count(WIRE_UNBLOCKED), 1);
    ck_assert_uint_eq(count(WIRE_BLOCKED), 1);
}
END_TEST

START_TEST(what_a_task_that_goes_back_would_have_read_is_canceled)
{
    const struct wire_stored a = argument(1, 500), b = argument(2, 600);
    struct wire_take_back t = {.lease = LEASE, .count = 1};
    struct wire_store_pull_cancel c;

    join_as(true);
    begin_lease(LEASE);
    say_template();
    push(0, &a);
    push(1, &a);
    push(2, &b);
    tell_on(TO_OWNER, WIRE_TAKE_BACK, &t, sizeof t); /* the last */
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 1);
    memcpy(&c, nth(WIRE_STORE_PULL_CANCEL, 0)->body, sizeof c);
    ck_assert_uint_eq(c.ticket, nth_pull(1).ticket);
    tell_on(TO_OWNER, WIRE_TAKE_BACK, &t, sizeof t); /* one of two that want it */
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 1);
    struct wire_process_dead dead = {.process = OTHER};
    tell(WIRE_PROCESS_DEAD, &dead, sizeof dead);
    ck_assert_uint_eq(count(WIRE_STORE_PULL_CANCEL), 2);
    struct wire_lease_revoke r = {.lease = LEASE};
    tell(WIRE_LEASE_REVOKE, &r, sizeof r);
    ck_assert_uint_eq(count(WIRE_LEASE_ENDED), 1);
    ck_assert_uint_eq(n_peers(), 1);
}
END_TEST

/* The window may hold more than the store. */
START_TEST(no_more_is_asked_for_ahead_than_a_part_of_the_store)
{
    struct wire_stored a = argument(1, CAPACITY / 8), b = argument(2, CAPACITY / 2);

    a.n_refs = 1;
    join_as(true);
    begin_lease(LEASE);
    say_template();
    push(0, &a);
    push(1, &b);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
    fill_entry(8, &a.key, a.size);
    entries[8].n_refs = 1;
    say_pulled(0, 8);
    turn();
    listen_to_core();
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
    struct wire_store_lent lent = {.ticket = 1,
                                   .offset = 64 * STORE_BLOCK,
                                   .size = 64 * STORE_BLOCK,
                                   .n_places = 2};
    uint64_t places[] = {place_of(20), place_of(21)};
    uint8_t body[sizeof lent + sizeof places];
    memcpy(body, &lent, sizeof lent);
    memcpy(body + sizeof lent, places, sizeof places);
    say_on(0, WIRE_STORE_LENT, body, sizeof body); /* for what the body returns */
    run_now();
    ck_assert_uint_eq(count(WIRE_DONE), 1);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 2); /* the first has started */

    /* its own result, large, has its name and stays here; the ref inside goes to its owner */
    const struct heard *h = nth(WIRE_DONE, 0);
    const uint8_t *at = h->body + sizeof(struct wire_done);
    struct wire_value v = {0};
    struct wire_ref ref;
    ck_assert(refs_parse(&at, h->body + h->size, &v));
    struct wire_key key = key_of(OTHER, 100);
    key.attempt = 4;
    ck_assert_mem_eq(&v.stored.key, &key, sizeof key);
    ck_assert_uint_eq(v.stored.node, HERE);
    ck_assert_uint_eq(v.stored.copy, 0);
    ck_assert(v.has_inner);
    ck_assert_uint_eq(v.n_refs, 1);
    memcpy(&ref, v.refs, sizeof ref);
    ck_assert_mem_eq(&ref, &inside, sizeof ref);
}
END_TEST

/* A process may own leases on the one that owns leases on it. */
START_TEST(a_pair_has_a_route_for_each_role)
{
    const struct wire_stored a = argument(1, 500);
    struct wire_route route = {.route = TO_OWNER, .peer_process = OTHER, .peer = id_of(OTHER)};

    join_as(true);
    say_template(); /* ahead of any word of its raylet's */
    push(0, &a);
    ck_assert_uint_eq(count(WIRE_STORE_PULL), 1);
    tell(WIRE_ROUTE, &route, sizeof route);
    uint64_t ref = submit(3, &small);
    grant(0, LEASE + 5, OTHER, THERE);
    ck_assert_uint_eq(nth(WIRE_PUSH, 0)->route, TO_WORKER);
    begin_lease(LEASE);
    fill_entry(3, &a.key, 500);
    say_pulled(0, 3);
    turn();
    run_now();
    ck_assert_uint_eq(nth_done(0).failed, 0);
    say_empty_done(TO_WORKER, 0);
    struct core_value v;
    ck_assert_int_eq(core_get(ref, 0, &v), CORE_OK);
    /* a worker does not push to its owner */
    bool ran = false;
    uint8_t push_body[sizeof(struct wire_push)];
    struct wire_push bad = {.lease = LEASE, .counter = 1, .slot = 9, .phase = 1};
    memcpy(push_body, &bad, sizeof bad);
    tell_on(TO_WORKER, WIRE_PUSH, push_body, sizeof push_body);
    run_one(&ran);
    ck_assert(!ran);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pull");
    TCase *t = tcase_create("pull");

    tcase_add_test(t, a_value_elsewhere_is_brought_once_for_all_who_read_it);
    tcase_add_test(t, what_is_waited_for_is_brought);
    tcase_add_test(t, who_reads_what_cannot_be_brought_is_told_why);
    tcase_add_test(t, a_copy_that_is_gone_is_brought_again);
    tcase_add_test(t, who_does_not_wait_finds_it_later);
    tcase_add_test(t, many_that_are_read_are_asked_for_together);
    tcase_add_test(t, a_value_that_is_freed_is_not_waited_for);
    tcase_add_test(t, a_borrowed_value_elsewhere_is_brought_by_its_owners_key);
    tcase_add_test(t, a_lost_argument_is_made_again_while_its_task_waits);
    tcase_add_test(t, it_is_made_as_often_as_its_task_may_be_retried);
    tcase_add_test(t, what_a_lost_value_was_made_of_is_made_first);
    tcase_add_test(t, what_was_put_is_lost);
    tcase_add_test(t, a_copy_that_is_here_takes_its_place);
    tcase_add_test(t, another_nodes_copy_takes_its_place);
    tcase_add_loop_test(t, what_is_freed_while_it_is_sought_goes_where_it_is_found, 0, 4);
    tcase_add_test(t, a_copy_here_that_its_owner_did_not_know_takes_its_place);
    tcase_add_test(t, a_raylet_that_ends_answers_nobody);
    tcase_add_test(t, a_borrower_asks_its_owner_for_another_one);
    tcase_add_test(t, an_owner_that_is_asked_again_makes_it_or_says_why_not);
    tcase_add_test(t, a_run_whose_worker_dies_is_retried_or_fails);
    tcase_add_test(t, refs_inside_go_with_a_value_to_who_may_be_elsewhere);
    tcase_add_loop_test(t, a_worker_elsewhere_is_reached_by_the_route_of_its_number, 0, 2);
    tcase_add_test(t, a_result_elsewhere_is_named_where_it_is);
    tcase_add_test(t, a_result_elsewhere_has_the_name_of_its_task);
    tcase_add_test(t, nobody_knows_what_a_lost_node_had_started);
    tcase_add_test(t, what_follows_a_death_on_a_route_is_heard);
    tcase_add_test(t, arguments_elsewhere_are_asked_for_when_their_task_comes);
    tcase_add_test(t, a_task_waits_for_its_argument);
    tcase_add_test(t, a_task_whose_argument_is_here_runs_before_one_that_waits);
    tcase_add_test(t, a_body_that_reads_from_elsewhere_gives_its_cpu_back);
    tcase_add_test(t, what_a_task_that_goes_back_would_have_read_is_canceled);
    tcase_add_test(t, no_more_is_asked_for_ahead_than_a_part_of_the_store);
    tcase_add_test(t, a_pair_has_a_route_for_each_role);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
