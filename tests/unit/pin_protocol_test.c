/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of objstore/pin.h under every interleaving of an x86 machine with store buffers.
 *
 * Its macros are redefined here as steps of a machine, so that the very text that processes and the
 * raylet run is tried out. A thread is a plain function of what it has loaded so far: to find its
 * next step it is run again from the start with those values, up to the first step it has not done.
 * So a state of the machine is its memory plus, per thread, the values loaded, the number of steps
 * done and the store buffer; all states that can be reached are visited once.
 *
 * A store goes into the thread's buffer, from which it leaves in order at any time; a load sees the
 * thread's own youngest store, else memory; a fence waits until the buffer is empty. Putting into
 * the buffer concerns nobody else, so it is done at once: choices are only what loads and what
 * leaves a buffer next.
 */
#include <check.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objstore/layout.h"

/* Few states: a ring of two records, and of a record the two words that are used here. */
#undef STORE_RING
#define STORE_RING   2
#define RECORD_WORDS 2

static uint64_t do_load(const void *p, const char *name);
static void do_store(void *p, uint64_t value, const char *name);
static void do_fence(int which);
static void do_copy(void *to, const void *from);

#define PIN_LOAD(p)        do_load((p), #p)
#define PIN_STORE(p, v)    do_store((p), (v), #p)
#define PIN_FENCE(which)   do_fence(which)
#define PIN_COPY(to, from) do_copy((to), (from))
#include "objstore/pin.h"

#define READS_ANOTHER "reads memory that is used again"
#define WAITS         "waits for ever"
#define OVERFLOW      "more records than the ring has room for"
#define SPOILT        "a record is torn, lost or twice there"
#define ALL_FENCES                                                                                 \
    (1u << PIN_FENCE_PIN | 1u << PIN_FENCE_UNPIN | 1u << PIN_FENCE_UNHOLD | 1u << PIN_FENCE_FREE)
#define N_ENTRIES   3
#define N_PROCESSES 2
#define N_FRAMES    8

/* What the threads share. Only its addresses are used, the values are the machine's. */
static struct {
    _Atomic uint64_t words[N_ENTRIES], data[N_ENTRIES]; /* data: the place whose object it is */
    struct {
        _Atomic uint64_t pin;
        struct store_ring ring;
        _Atomic uint64_t frames[N_FRAMES], n_frames; /* its link to the raylet */
    } processes[N_PROCESSES];
} shared;

/* --- the machine --- */

#define MAX_THREADS 3
#define MAX_CELLS   40
#define MAX_LOADS   120
#define MAX_BUFFER  32
#define MAX_TRACE   400

enum op_kind { OP_LOAD, OP_AWAIT, OP_STORE, OP_FENCE, OP_END, OP_WRONG };
struct op {
    enum op_kind kind;
    uint8_t cell, other; /* other: of AWAIT, 0: none */
    uint64_t value;      /* of STORE; AWAIT: goes on once it is not this any more */
    const char *name;    /* of the cell; WRONG: what is */
};
struct thread {
    struct op next;
    unsigned n_done, n_loads, n_buffer;
    uint64_t loads[MAX_LOADS], loads_hash;
    struct {
        uint8_t cell;
        uint64_t value;
    } buffer[MAX_BUFFER]; /* the oldest first */
};
struct state {
    uint64_t cells[MAX_CELLS];
    struct thread threads[MAX_THREADS];
};

typedef void (*thread_f)(unsigned process);
struct scenario {
    const char *name;
    thread_f threads[MAX_THREADS]; /* each is given its index */
};

static struct {
    const struct scenario *scenario;
    unsigned fences; /* bits: the ones there are */
    const void *cell_at[MAX_CELLS];
    unsigned n_cells;
    const char *sought; /* go on when something else is wrong; NULL: end at anything */
    const char *wrong;  /* NULL: nothing was found */
    struct {
        unsigned thread;
        const char *what, *name;
        uint64_t value;
    } trace[MAX_TRACE];
    unsigned n_trace;
} machine;

/* The thread that is being run. */
static struct {
    const struct thread *thread;
    unsigned at, at_load;
    const void *other;
    struct op next;
    jmp_buf stop;
} run;

static uint8_t cell_of(const void *p)
{
    ck_assert((const char *)p >= (const char *)&shared
              && (const char *)p < (const char *)(&shared + 1));
    for (unsigned i = 0; i < machine.n_cells; i++)
        if (machine.cell_at[i] == p)
            return (uint8_t)i;
    ck_assert_uint_lt(machine.n_cells, MAX_CELLS);
    machine.cell_at[machine.n_cells] = p;
    return (uint8_t)machine.n_cells++;
}

/* Done before: what came of it. New: it is the thread's next step. */
static uint64_t step(enum op_kind kind, const void *p, uint64_t value, const char *name)
{
    if (run.at++ < run.thread->n_done)
        return kind == OP_LOAD || kind == OP_AWAIT ? run.thread->loads[run.at_load++] : 0;
    run.next = (struct op){.kind = kind,
                           .cell = p != NULL ? cell_of(p) : 0,
                           .other = kind == OP_AWAIT && run.other != NULL ? cell_of(run.other) : 0,
                           .value = value,
                           .name = name};
    longjmp(run.stop, 1);
}

static uint64_t do_load(const void *p, const char *name)
{
    return step(OP_LOAD, p, 0, name);
}

static void do_store(void *p, uint64_t value, const char *name)
{
    step(OP_STORE, p, value, name);
}

static void do_fence(int which)
{
    if (machine.fences & 1u << which)
        step(OP_FENCE, NULL, 0, "");
}

/* One of the two is shared. */
static void do_copy(void *to, const void *from)
{
    bool is_store = (char *)to >= (char *)&shared && (char *)to < (char *)(&shared + 1);

    for (size_t i = 0; i < RECORD_WORDS; i++) {
        uint64_t word, *t = (uint64_t *)to + i;
        const uint64_t *f = (const uint64_t *)from + i;
        if (is_store) {
            memcpy(&word, f, sizeof word);
            step(OP_STORE, t, word, "record");
        } else {
            word = step(OP_LOAD, f, 0, "record");
            memcpy(t, &word, sizeof word);
        }
    }
}

/* Wait until it is not `value` any more. */
static uint64_t await(const void *p, uint64_t value, const char *name)
{
    run.other = NULL;
    return step(OP_AWAIT, p, value, name);
}

/* The same of *p | *other << 32. */
static uint64_t await_either(const void *p, const void *other, uint64_t value, const char *name)
{
    run.other = other;
    return step(OP_AWAIT, p, value, name);
}

static void wrong(const char *what)
{
    step(OP_WRONG, NULL, 0, what);
}

static void on_wrong(const char *what)
{
    if (machine.wrong == NULL && (machine.sought == NULL || strcmp(what, machine.sought) == 0))
        machine.wrong = what;
}

static void find_next(struct state *s, unsigned t)
{
    run.thread = &s->threads[t];
    run.at = run.at_load = 0;
    if (setjmp(run.stop) == 0) {
        machine.scenario->threads[t](t);
        run.next = (struct op){.kind = OP_END};
    }
    s->threads[t].next = run.next;
    if (run.next.kind == OP_WRONG)
        on_wrong(run.next.name);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t seen_by(const struct state *s, unsigned t, uint8_t cell)
{
    const struct thread *th = &s->threads[t];

    for (unsigned i = th->n_buffer; i-- > 0;)
        if (th->buffer[i].cell == cell)
            return th->buffer[i].value;
    return s->cells[cell];
}

static void note(unsigned t, const char *what, const char *name, uint64_t value)
{
    ck_assert_uint_lt(machine.n_trace, MAX_TRACE);
    machine.trace[machine.n_trace].thread = t;
    machine.trace[machine.n_trace].what = what;
    machine.trace[machine.n_trace].name = name;
    machine.trace[machine.n_trace++].value = value;
}

/* Threads go on over steps that concern nobody else. */
static void settle(struct state *s)
{
    for (unsigned t = 0; t < MAX_THREADS; t++) {
        struct thread *th = &s->threads[t];
        while (th->next.kind == OP_STORE || (th->next.kind == OP_FENCE && th->n_buffer == 0)) {
            if (th->next.kind == OP_STORE) {
                ck_assert_uint_lt(th->n_buffer, MAX_BUFFER);
                th->buffer[th->n_buffer].cell = th->next.cell;
                th->buffer[th->n_buffer++].value = th->next.value;
            }
            note(t, th->next.kind == OP_STORE ? "stores" : "fence", th->next.name, th->next.value);
            th->n_done++;
            find_next(s, t);
        }
    }
}

static bool load(struct state *s, unsigned t)
{
    struct thread *th = &s->threads[t];

    if (th->next.kind != OP_LOAD && th->next.kind != OP_AWAIT)
        return false;
    uint64_t value = seen_by(s, t, th->next.cell);
    if (th->next.kind == OP_AWAIT && th->next.other != 0)
        value |= seen_by(s, t, th->next.other) << 32;
    if (th->next.kind == OP_AWAIT && value == th->next.value)
        return false;
    ck_assert_uint_lt(th->n_loads, MAX_LOADS);
    note(t, "loads", th->next.name, value);
    th->loads[th->n_loads++] = value;
    th->loads_hash = mix(th->loads_hash, value);
    th->n_done++;
    find_next(s, t);
    return true;
}

static bool drain_one(struct state *s, unsigned t)
{
    struct thread *th = &s->threads[t];

    if (th->n_buffer == 0)
        return false;
    note(t, "store is seen", "", th->buffer[0].value);
    s->cells[th->buffer[0].cell] = th->buffer[0].value;
    memmove(&th->buffer[0], &th->buffer[1], --th->n_buffer * sizeof th->buffer[0]);
    return true;
}

/* --- all its states --- */

struct key {
    uint64_t a, b; /* two hashes: 2^-80 or so that two of a few million are alike */
};
static struct key *visited;
static size_t n_visited, visited_room;

static struct key key_of(const struct state *s)
{
    struct key k = {1, 2};

    for (unsigned i = 0; i < machine.n_cells; i++)
        k = (struct key){mix(k.a, s->cells[i]), mix(k.b, ~s->cells[i])};
    for (unsigned t = 0; t < MAX_THREADS; t++) {
        const struct thread *th = &s->threads[t];
        uint64_t done = (uint64_t)th->n_done << 32 | th->n_buffer;
        k = (struct key){mix(mix(k.a, th->loads_hash), done), mix(mix(k.b, ~done), th->loads_hash)};
        for (unsigned i = 0; i < th->n_buffer; i++) {
            uint64_t cell = th->buffer[i].cell, value = th->buffer[i].value;
            k = (struct key){mix(mix(k.a, cell), value), mix(mix(k.b, value), cell)};
        }
    }
    return k;
}

static bool put(struct key k)
{
    size_t i = k.a & (visited_room - 1);

    for (; visited[i].a != 0 || visited[i].b != 0; i = (i + 1) & (visited_room - 1))
        if (visited[i].a == k.a && visited[i].b == k.b)
            return false;
    visited[i] = k;
    n_visited++;
    return true;
}

static bool is_new(const struct state *s)
{
    if (2 * n_visited >= visited_room) {
        struct key *old = visited;
        size_t n = visited_room;
        visited_room = n == 0 ? 1u << 12 : 2 * n;
        visited = calloc(visited_room, sizeof *visited);
        ck_assert_ptr_nonnull(visited);
        n_visited = 0;
        for (size_t i = 0; i < n; i++)
            if (old[i].a != 0 || old[i].b != 0)
                put(old[i]);
        free(old);
    }
    return put(key_of(s));
}

static void explore(struct state *s)
{
    unsigned trace = machine.n_trace;
    bool moved = false, waits = false;

    settle(s);
    if (machine.wrong != NULL || !is_new(s)) {
        machine.n_trace = machine.wrong != NULL ? machine.n_trace : trace;
        return;
    }
    for (unsigned t = 0; t < MAX_THREADS; t++) {
        for (int how = 0; how < 2 && machine.wrong == NULL; how++) {
            unsigned before = machine.n_trace;
            struct state next = *s;
            if (how == 0 ? !load(&next, t) : !drain_one(&next, t))
                continue;
            moved = true;
            explore(&next);
            if (machine.wrong == NULL)
                machine.n_trace = before;
        }
        waits |= s->threads[t].next.kind == OP_AWAIT;
    }
    if (!moved && waits)
        on_wrong(WAITS);
    if (machine.wrong == NULL)
        machine.n_trace = trace;
}

/* What goes wrong in some run with these fences; NULL: nothing (or not what is sought) in any. */
static const char *find_wrong(const struct scenario *scenario, unsigned fences, const char *sought)
{
    static struct state s;

    free(visited);
    visited = NULL;
    n_visited = visited_room = 0;
    s = (struct state){0};
    machine.scenario = scenario;
    machine.fences = fences;
    machine.sought = sought;
    machine.n_cells = machine.n_trace = 0;
    machine.wrong = NULL;
    for (uint32_t e = 1; e < N_ENTRIES; e++) {
        uint64_t place = store_place(1, e);
        s.cells[cell_of(&shared.words[e])] = pin_word(place, STORE_ENTRY_SEALED);
        s.cells[cell_of(&shared.data[e])] = place;
    }
    for (unsigned t = 0; t < MAX_THREADS; t++)
        find_next(&s, t);
    explore(&s);
    return machine.wrong;
}

static void print_trace(void)
{
    for (unsigned i = 0; i < machine.n_trace; i++)
        printf("  %*s%s %s %llx\n",
               (int)machine.trace[i].thread * 30,
               "",
               machine.trace[i].what,
               machine.trace[i].name,
               (unsigned long long)machine.trace[i].value);
    fflush(stdout); /* a failed check ends the process at once */
}

static void check_right(const struct scenario *scenario)
{
    const char *what = find_wrong(scenario, ALL_FENCES, NULL);

    printf("%s: %zu states\n", scenario->name, n_visited);
    if (what != NULL)
        print_trace();
    ck_assert_msg(what == NULL, "%s: %s", scenario->name, what);
    ck_assert_uint_gt(n_visited, 100);
}

/* --- processes --- */

static void idle(unsigned i)
{
    (void)i;
}

/* A frame to the raylet: 0 is a doorbell, else an UNHOLD of the place. */
static void send_frame(unsigned i, unsigned *n_sent, uint64_t frame)
{
    ck_assert_uint_lt(*n_sent, N_FRAMES);
    PIN_STORE(&shared.processes[i].frames[*n_sent], frame);
    PIN_STORE(&shared.processes[i].n_frames, ++*n_sent);
}

static void read_data(uint64_t place)
{
    if (PIN_LOAD(&shared.data[store_place_entry(place)]) != place)
        wrong(READS_ANOTHER);
}

/* Into the only slot there is. */
static bool use_and_set(unsigned i, uint64_t place, bool *bell)
{
    pin_use_slots(&shared.processes[i].ring, 1);
    return pin_set(&shared.processes[i].pin, &shared.words[store_place_entry(place)], place, bell);
}

static void pin_and_read(unsigned i, unsigned *n_sent, uint64_t place)
{
    _Atomic uint64_t *pin = &shared.processes[i].pin,
                     *word = &shared.words[store_place_entry(place)];
    bool bell;

    if (use_and_set(i, place, &bell)) {
        read_data(place);
        bell = pin_clear(pin, word, place);
    }
    if (bell)
        send_frame(i, n_sent, 0);
}

static void reader(unsigned i)
{
    unsigned n_sent = 0;

    pin_and_read(i, &n_sent, store_place(1, 1));
}

/* Says too late that its slot may hold a pin. */
static void late_reader(unsigned i)
{
    uint64_t place = store_place(1, 1);
    bool bell;

    if (pin_set(&shared.processes[i].pin, &shared.words[1], place, &bell)) {
        pin_use_slots(&shared.processes[i].ring, 1);
        read_data(place);
    }
}

static void reader_of_another(unsigned i)
{
    unsigned n_sent = 0;

    pin_and_read(i, &n_sent, store_place(1, 2));
}

static void reader_of_two_generations(unsigned i)
{
    unsigned n_sent = 0;

    pin_and_read(i, &n_sent, store_place(1, 1));
    /* nobody hears of a place before it is there */
    uint64_t now = PIN_LOAD(&shared.words[1]);
    while (store_place_generation(now) == 1)
        now = await(&shared.words[1], now, "word");
    pin_and_read(i, &n_sent, store_place(2, 1));
}

static void hold_and_read(unsigned i, unsigned *n_sent, uint64_t place)
{
    _Atomic uint64_t *pin = &shared.processes[i].pin,
                     *word = &shared.words[store_place_entry(place)];
    struct store_ring *ring = &shared.processes[i].ring;
    struct store_record hold = {.kind = STORE_HOLD, .place = place};
    struct store_record unhold = {.kind = STORE_UNHOLD, .place = place};
    bool bell;

    if (use_and_set(i, place, &bell)) {
        bool held = pin_hold(pin, word, ring, &hold, &bell);
        if (bell)
            send_frame(i, n_sent, 0);
        read_data(place);
        if (!held)
            bell = pin_clear(pin, word, place);
        else if (!pin_unhold(word, ring, &unhold, &bell))
            send_frame(i, n_sent, place);
    }
    if (bell)
        send_frame(i, n_sent, 0);
}

static void holder(unsigned i)
{
    unsigned n_sent = 0;

    hold_and_read(i, &n_sent, store_place(1, 1));
}

/* Its second HOLD or UNHOLD finds the ring full, unless it was drained. */
static void holder_with_full_ring(unsigned i)
{
    struct store_record other = {.kind = STORE_FREE};
    unsigned n_sent = 0;

    ring_post(&shared.processes[i].ring, &other, NULL);
    hold_and_read(i, &n_sent, store_place(1, 1));
}

/* --- the raylet --- */

struct raylet {
    uint64_t tails[N_PROCESSES], n_read[N_PROCESSES];
    unsigned n_holds[N_ENTRIES];
};

static void drain_ring(struct raylet *r, unsigned i)
{
    struct store_record record = {0};

    while (ring_take(&shared.processes[i].ring, &r->tails[i], &record)) {
        if (record.kind == STORE_HOLD)
            r->n_holds[store_place_entry(record.place)]++;
        else if (record.kind == STORE_UNHOLD && r->n_holds[store_place_entry(record.place)]-- == 0)
            wrong("an UNHOLD before its HOLD");
    }
}

static void on_frame(struct raylet *r, unsigned i, uint64_t frame)
{
    drain_ring(r, i);
    if (frame != 0 && r->n_holds[store_place_entry(frame)]-- == 0)
        wrong("an UNHOLD before its HOLD");
}

/* Blocks until there is one. */
static void read_frames(struct raylet *r)
{
    uint64_t n = await_either(&shared.processes[0].n_frames,
                              &shared.processes[1].n_frames,
                              r->n_read[0] | r->n_read[1] << 32,
                              "n_frames");
    uint64_t n_sent[N_PROCESSES] = {(uint32_t)n, n >> 32};

    for (unsigned i = 0; i < N_PROCESSES; i++)
        for (; r->n_read[i] < n_sent[i]; r->n_read[i]++)
            on_frame(r, i, PIN_LOAD(&shared.processes[i].frames[r->n_read[i]]));
}

static void drain_rings(struct raylet *r)
{
    for (unsigned i = 0; i < N_PROCESSES; i++)
        drain_ring(r, i);
}

/* One batch; afterwards the places' memory is that of the next generation, which is sealed. */
static void free_places(struct raylet *r, const uint64_t *places, unsigned n, bool rings_first)
{
    bool is_free[N_ENTRIES] = {false};
    unsigned n_left = n;

    for (unsigned k = 0; k < n; k++)
        pin_begin_free(&shared.words[store_place_entry(places[k])], places[k]);
    pin_end_batch();
    for (;;) {
        bool is_pinned[N_ENTRIES] = {false};
        if (rings_first)
            drain_rings(r);
        for (unsigned i = 0; i < N_PROCESSES; i++) {
            if (pin_n_slots(&shared.processes[i].ring) == 0)
                continue;
            uint64_t place = pin_look(&shared.processes[i].pin);
            for (unsigned k = 0; k < n; k++)
                is_pinned[k] |= place == places[k];
        }
        if (!rings_first)
            drain_rings(r);
        for (unsigned k = 0; k < n; k++) {
            uint32_t e = store_place_entry(places[k]);
            if (is_free[k] || is_pinned[k] || r->n_holds[e] > 0)
                continue;
            uint64_t next = store_place(store_place_generation(places[k]) + 1, e);
            is_free[k] = true;
            n_left--;
            PIN_STORE(&shared.data[e], next);
            PIN_STORE(&shared.words[e], pin_word(next, STORE_ENTRY_SEALED));
        }
        if (n_left == 0)
            return;
        read_frames(r);
    }
}

static void frees_one(unsigned i)
{
    struct raylet r = {0};

    (void)i;
    free_places(&r, &(uint64_t){store_place(1, 1)}, 1, false);
}

static void frees_one_rings_first(unsigned i)
{
    struct raylet r = {0};

    (void)i;
    free_places(&r, &(uint64_t){store_place(1, 1)}, 1, true);
}

static void frees_two_at_once(unsigned i)
{
    struct raylet r = {0};

    (void)i;
    free_places(&r, (uint64_t[]){store_place(1, 1), store_place(1, 2)}, 2, false);
}

static void frees_two_generations(unsigned i)
{
    struct raylet r = {0};

    (void)i;
    for (uint32_t generation = 1; generation <= 2; generation++)
        free_places(&r, &(uint64_t){store_place(generation, 1)}, 1, false);
}

/* --- the ring alone --- */

#define N_POSTS 4

static struct store_record numbered(uint64_t k)
{
    return (struct store_record){.kind = STORE_FREE, .owner = (uint32_t)k, .place = k};
}

static void await_room(struct store_ring *ring, uint64_t k)
{
    await(&ring->tail, k - STORE_RING, "&ring->tail");
}

static void poster(unsigned i)
{
    struct store_ring *ring = &shared.processes[i].ring;

    for (uint64_t k = 0; k < N_POSTS; k++) {
        struct store_record record = numbered(k + 1);
        while (!ring_post(ring, &record, NULL))
            await_room(ring, k);
    }
}

/* As ring_post, but says that there is a record before there is. */
static void hasty_poster(unsigned i)
{
    struct store_ring *ring = &shared.processes[i].ring;

    for (uint64_t k = 0; k < N_POSTS; k++) {
        struct store_record record = numbered(k + 1);
        while (k - PIN_LOAD(&ring->tail) >= STORE_RING)
            await_room(ring, k);
        PIN_STORE(&ring->head, k + 1);
        PIN_COPY(&ring->records[k % STORE_RING], &record);
    }
}

/* As ring_post, but takes the ring for one longer than it is. */
static void greedy_poster(unsigned i)
{
    struct store_ring *ring = &shared.processes[i].ring;

    for (uint64_t k = 0; k < N_POSTS; k++) {
        struct store_record record = numbered(k + 1);
        while (k - PIN_LOAD(&ring->tail) > STORE_RING)
            await(&ring->tail, k - STORE_RING - 1, "&ring->tail");
        PIN_COPY(&ring->records[k % STORE_RING], &record);
        PIN_STORE(&ring->head, k + 1);
    }
}

static void taker(unsigned i)
{
    struct store_ring *ring = &shared.processes[0].ring;
    struct store_record record = {0};
    uint64_t tail = 0;

    (void)i;
    for (uint64_t k = 0; k < N_POSTS; k++) {
        struct store_record want = numbered(k + 1);
        while (!ring_take(ring, &tail, &record))
            if (await(&ring->head, tail, "&ring->head") - tail > STORE_RING)
                wrong(OVERFLOW);
        if (memcmp(&record, &want, RECORD_WORDS * sizeof(uint64_t)) != 0)
            wrong(SPOILT);
    }
}

/* --- tests --- */

static const struct scenario scenarios[] = {
    {"two readers", {reader, reader, frees_one}},
    {"a reader each of two", {reader, reader_of_another, frees_two_at_once}},
    {"two generations", {reader_of_two_generations, idle, frees_two_generations}},
    {"a hold", {holder, idle, frees_one}},
    {"a hold and a reader", {holder, reader, frees_one}},
    {"a full ring", {holder_with_full_ring, idle, frees_one}},
    {"a ring", {poster, idle, taker}},
};
#define N_SCENARIOS (sizeof scenarios / sizeof scenarios[0])

START_TEST(test_the_protocol_holds)
{
    check_right(&scenarios[_i]);
}
END_TEST

static const struct {
    enum pin_fence fence;
    const char *wrong;
} needs[] = {{PIN_FENCE_PIN, READS_ANOTHER},
             {PIN_FENCE_UNPIN, WAITS},
             {PIN_FENCE_UNHOLD, WAITS},
             {PIN_FENCE_FREE, READS_ANOTHER},
             {PIN_FENCE_FREE, WAITS}};

/* Without it this goes wrong in some run of some scenario. */
START_TEST(test_each_fence_is_needed)
{
    const char *found = NULL;

    for (size_t k = 0; k < N_SCENARIOS && found == NULL; k++)
        found = find_wrong(&scenarios[k], ALL_FENCES & ~(1u << needs[_i].fence), needs[_i].wrong);
    ck_assert_msg(found != NULL, "without fence %d nothing %s", needs[_i].fence, needs[_i].wrong);
}
END_TEST

START_TEST(test_slots_are_looked_at_before_rings)
{
    const struct scenario s = {"rings first", {holder, idle, frees_one_rings_first}};
    const char *found = find_wrong(&s, ALL_FENCES, NULL);

    ck_assert_ptr_nonnull(found);
    ck_assert_str_eq(found, READS_ANOTHER);
}
END_TEST

START_TEST(test_a_slot_is_announced_before_it_is_used)
{
    const struct scenario s = {"late", {late_reader, idle, frees_one}};

    ck_assert_ptr_nonnull(find_wrong(&s, ALL_FENCES, READS_ANOTHER));
}
END_TEST

START_TEST(test_a_wrong_ring_is_found_out)
{
    const struct scenario hasty = {"hasty", {hasty_poster, idle, taker}};
    const struct scenario greedy = {"greedy", {greedy_poster, idle, taker}};

    ck_assert_ptr_nonnull(find_wrong(&hasty, ALL_FENCES, SPOILT));
    ck_assert_ptr_nonnull(find_wrong(&greedy, ALL_FENCES, OVERFLOW));
    ck_assert_ptr_nonnull(find_wrong(&greedy, ALL_FENCES, SPOILT));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pin_protocol");
    TCase *t = tcase_create("pin_protocol");
    SRunner *r = srunner_create(s);

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_the_protocol_holds, 0, N_SCENARIOS);
    tcase_add_loop_test(t, test_each_fence_is_needed, 0, sizeof needs / sizeof needs[0]);
    tcase_add_test(t, test_slots_are_looked_at_before_rings);
    tcase_add_test(t, test_a_slot_is_announced_before_it_is_used);
    tcase_add_test(t, test_a_wrong_ring_is_found_out);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
