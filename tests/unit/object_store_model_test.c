/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random processes against a plain model of what they may rely on: memory is lent to nobody while
 * another may read or write it, what is over and unused is free once all is told, and requests are
 * answered once, in time and in fair order. Some processes are hostile: what they write into their
 * share and their records is noise, and the others must not notice. A failure prints its seed:
 * SEED=n runs that one alone.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objstore/pin.h"
#include "objstore/store.h"

#define N_BLOCKS   256u
#define N_ENTRIES  100u
#define N_SLOTS    6u
#define N_OBJECTS  2000
#define N_TICKETS  512 /* waiting or just answered */
#define N_FRAMES   1000
#define N_USES     40
#define N_STEPS    4000
#define WAIT_MS    40
#define CAPACITY   ((uint64_t)N_BLOCKS * STORE_BLOCK)
#define NO_PIN     (-1)
#define N_ATTEMPTS 3

static uint64_t seed;

static uint32_t below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static bool one_in(uint32_t n)
{
    return below(n) == 0;
}

struct object {
    uint64_t place, counter;
    uint32_t first, n; /* blocks */
    uint32_t owner;
    uint16_t attempt;
    bool is_there;
    bool is_told; /* its owner knows its place */
    bool is_over; /* its owner has posted FREE or ABORT, or is dead; or its SEAL is lost */
    bool is_lost;
    uint32_t n_uses;
};

/* A read of process p that began in time. */
struct use {
    struct object *object;
    int pin; /* NO_PIN: a hold */
};

struct process {
    bool is_alive, is_hostile, is_recalled;
    uint32_t number;
    uint64_t places[N_ENTRIES]; /* lent to it and not used */
    uint32_t n_places;
    struct use uses[N_USES];
    uint32_t n_uses;
    struct store_record frames[N_FRAMES]; /* sent, not received */
    uint32_t n_frames;
    /* What it works on. */
    uint32_t task_owner;
    uint64_t task;
    uint16_t attempt;
    bool is_aborted; /* by the owner */
};

struct ticket {
    uint64_t ticket, need, n_places, passed, at_ms;
    uint32_t slot;
    bool waits;
};

static struct {
    struct store *s;
    struct store_actions out;
    struct index_entry index[N_ENTRIES];
    struct store_share shares[N_SLOTS];
    uint64_t now;
    struct process p[N_SLOTS];
    uint8_t lent_to[N_BLOCKS]; /* slot + 1, of those that are not hostile */
    struct object objects[N_OBJECTS];
    uint32_t n_objects;
    struct ticket tickets[N_TICKETS]; /* oldest first */
    uint32_t n_tickets;
    uint64_t last_ticket, last_task;
    uint32_t last_number;
    bool is_wild; /* hostile ones seal for anybody */
    bool bell;
    uint32_t n_lent, n_waited, n_refused, n_passes, n_pins, n_late, n_hostile, n_lost_frames;
} m;

/* --- what must hold --- */

/* Nobody else may touch these blocks. */
static void check_unused(uint32_t first, uint32_t n)
{
    for (uint32_t b = first; b < first + n; b++)
        ck_assert_msg(m.lent_to[b] == 0, "block %u is lent to slot %u", b, m.lent_to[b] - 1);
    for (uint32_t i = 0; i < m.n_objects; i++) {
        const struct object *o = &m.objects[i];
        if (!o->is_there || (o->is_over && o->n_uses == 0))
            continue;
        ck_assert_msg(first + n <= o->first || o->first + o->n <= first,
                      "%u+%u is lent while %u+%u is in use",
                      first,
                      n,
                      o->first,
                      o->n);
    }
}

static void answer(struct ticket *t)
{
    ck_assert(t->waits);
    t->waits = false;
}

static struct ticket *find_ticket(uint64_t ticket)
{
    for (uint32_t i = 0; i < m.n_tickets; i++)
        if (m.tickets[i].ticket == ticket)
            return &m.tickets[i];
    ck_abort_msg("an answer to nothing that was asked");
    return NULL;
}

static void on_lent(const struct store_action *a)
{
    struct process *p = &m.p[a->slot];
    struct ticket *t = find_ticket(a->ticket);
    uint32_t first = (uint32_t)(a->offset / STORE_BLOCK), n = (uint32_t)(a->size / STORE_BLOCK);

    answer(t);
    ck_assert(p->is_alive && t->slot == a->slot);
    ck_assert(a->offset % STORE_BLOCK == 0 && a->size % STORE_BLOCK == 0);
    ck_assert_uint_ge(a->size, t->need);
    ck_assert_uint_eq(a->n_places, t->n_places);
    ck_assert_uint_le(a->offset + a->size, CAPACITY);
    check_unused(first, n);
    for (struct ticket *o = m.tickets; o < t; o++) {
        if (!o->waits)
            continue;
        o->passed += a->size;
        m.n_passes++;
        ck_assert_uint_le(o->passed, (o->need + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK);
    }
    m.n_lent++;
    m.n_waited += t->at_ms != m.now;
    if (p->is_hostile)
        return;
    memset(&m.lent_to[first], (int)a->slot + 1, n);
    for (uint32_t i = 0; i < a->n_places; i++) {
        uint64_t w = atomic_load(&m.index[store_place_entry(a->places[i])].word);
        ck_assert_uint_eq(w, pin_word(a->places[i], STORE_ENTRY_LENT));
        p->places[p->n_places++] = a->places[i];
    }
}

static void take_actions(void)
{
    struct store_stats t;

    for (size_t i = 0; i < m.out.n; i++) {
        const struct store_action *a = &m.out.v[i];
        struct ticket *k;
        ck_assert(m.p[a->slot].is_alive);
        switch (a->kind) {
        case STORE_LENT:
            on_lent(a);
            break;
        case STORE_REFUSED:
            k = find_ticket(a->ticket);
            answer(k);
            ck_assert_int_eq(a->too_large, k->need > CAPACITY);
            ck_assert(a->too_large || m.now >= k->at_ms + WAIT_MS);
            m.n_refused++;
            break;
        case STORE_RECALL:
            m.p[a->slot].is_recalled = true;
            break;
        case STORE_FREED:
            ck_abort_msg("nobody watches");
            break;
        }
    }
    m.out.n = 0;
    store_selfcheck(m.s);
    store_get_stats(m.s, &t);
    uint32_t n_free = 0;
    for (uint32_t i = 1; i < N_ENTRIES; i++)
        n_free += (uint32_t)atomic_load(&m.index[i].word) == STORE_ENTRY_FREE;
    bool is_oldest = true;
    for (uint32_t i = 0; i < m.n_tickets; i++) {
        if (!m.tickets[i].waits)
            continue;
        ck_assert_msg(!is_oldest || t.largest_free < m.tickets[i].need
                          || n_free < m.tickets[i].n_places,
                      "the oldest waits for what is there");
        is_oldest = false;
    }
}

/* --- records --- */

static void deliver(uint32_t slot)
{
    struct process *p = &m.p[slot];
    struct store_record r = p->frames[0];

    memmove(&p->frames[0], &p->frames[1], --p->n_frames * sizeof p->frames[0]);
    store_on_record(m.s, slot, &r, m.now, &m.out);
    take_actions();
}

static void send(uint32_t slot, const struct store_record *r)
{
    struct process *p = &m.p[slot];

    if (!one_in(8) && ring_post(&m.shares[slot].ring, r, NULL))
        return;
    while (p->n_frames == N_FRAMES)
        deliver(slot);
    p->frames[p->n_frames++] = *r;
}

static void drain(uint32_t slot)
{
    store_drain(m.s, slot, m.now, &m.out);
    take_actions();
}

/* --- what processes do --- */

static uint32_t any_alive(void)
{
    for (uint32_t i = below(N_SLOTS), n = 0; n < N_SLOTS; n++, i = (i + 1) % N_SLOTS)
        if (m.p[i].is_alive)
            return i;
    return N_SLOTS;
}

static struct process *process_by_number(uint32_t number)
{
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (m.p[i].is_alive && m.p[i].number == number)
            return &m.p[i];
    return NULL;
}

static uint32_t slot_of(const struct process *p)
{
    return (uint32_t)(p - m.p);
}

/* Often one of the latest. */
static struct object *any_object(void)
{
    uint32_t n = one_in(2) && m.n_objects > 5 ? 5 : m.n_objects;

    return n == 0 ? NULL : &m.objects[m.n_objects - 1 - below(n)];
}

static void ask(struct process *p)
{
    uint64_t need = one_in(30)  ? CAPACITY + 1 - below(2)
                    : one_in(5) ? below((uint32_t)CAPACITY / 2)
                                : below(12 * STORE_BLOCK);
    uint64_t want = one_in(2) ? need : below(40 * STORE_BLOCK);
    uint32_t n_places = one_in(20) ? STORE_LENT_MAX : 1 + below(6);

    if (m.n_tickets == N_TICKETS) { /* forget the answered ones */
        uint32_t n = 0;
        for (uint32_t i = 0; i < m.n_tickets; i++)
            if (m.tickets[i].waits)
                m.tickets[n++] = m.tickets[i];
        m.n_tickets = n;
        if (n > N_TICKETS / 2)
            return;
    }
    m.tickets[m.n_tickets++] = (struct ticket){.ticket = ++m.last_ticket,
                                               .need = need == 0 ? 1 : need,
                                               .n_places = n_places,
                                               .at_ms = m.now,
                                               .slot = slot_of(p),
                                               .waits = true};
    store_lend(m.s, slot_of(p), m.last_ticket, need, want, n_places, m.now, &m.out);
    take_actions();
}

/* A range of what is lent to p, at random; 0: there is none. */
static uint32_t any_lent(const struct process *p, uint32_t *first)
{
    uint32_t n = 0, most = 1 + below(one_in(4) ? 30 : 4);

    *first = below(N_BLOCKS);
    for (uint32_t i = 0; i < N_BLOCKS && m.lent_to[*first] != slot_of(p) + 1; i++)
        *first = (*first + 1) % N_BLOCKS;
    while (*first + n < N_BLOCKS && m.lent_to[*first + n] == slot_of(p) + 1 && n < most)
        n++;
    return n;
}

static void seal(struct process *p)
{
    uint32_t first, n = any_lent(p, &first);

    if (n == 0 || p->n_places == 0 || m.n_objects == N_OBJECTS)
        return;
    const struct process *to = process_by_number(p->task_owner);
    bool is_result = to != NULL && to != p;
    struct object *o = &m.objects[m.n_objects++];
    *o = (struct object){.place = p->places[--p->n_places],
                         .first = first,
                         .n = n,
                         .owner = is_result ? p->task_owner : p->number,
                         .counter = is_result ? p->task : ++m.last_task,
                         .attempt = is_result ? p->attempt : 0,
                         .is_there = true,
                         .is_told = !is_result,
                         .is_over = is_result && p->is_aborted};
    m.n_late += o->is_over;
    struct store_record r = {.kind = STORE_SEAL,
                             .owner = o->owner,
                             .place = o->place,
                             .offset = (uint64_t)first * STORE_BLOCK,
                             .size = (uint64_t)n * STORE_BLOCK - below(STORE_BLOCK),
                             .counter = o->counter,
                             .attempt = o->attempt};
    memset(&m.lent_to[first], 0, n);
    send(slot_of(p), &r);
}

static void begin_task(struct process *p)
{
    uint32_t to = any_alive();

    if (m.p[to].is_hostile)
        return;
    p->task_owner = m.p[to].number;
    p->task = ++m.last_task;
    p->attempt = (uint16_t)below(N_ATTEMPTS);
    p->is_aborted = false;
}

static void end_task(struct process *p)
{
    for (uint32_t i = 0; i < m.n_objects; i++)
        if (m.objects[i].counter == p->task && m.objects[i].attempt == p->attempt)
            m.objects[i].is_told = true;
    begin_task(p);
}

static void abort_attempt(const struct object *o)
{
    struct store_record r = {.kind = STORE_ABORT,
                             .owner = o->owner,
                             .counter = o->counter,
                             .attempt = o->attempt};

    for (uint32_t i = 0; i < m.n_objects; i++)
        if (m.objects[i].counter == r.counter && m.objects[i].attempt == r.attempt)
            m.objects[i].is_over = true;
    for (uint32_t i = 0; i < N_SLOTS; i++)
        m.p[i].is_aborted |= m.p[i].task == r.counter && m.p[i].attempt == r.attempt;
    send(slot_of(process_by_number(r.owner)), &r);
}

/* As an owner does: FREE for what it knows, ABORT for what it never will. */
static void end_object(struct object *o, bool by_abort)
{
    struct process *owner = process_by_number(o->owner);

    if (!o->is_there || o->is_over || owner == NULL)
        return;
    if (!o->is_told) {
        if (by_abort)
            abort_attempt(o);
        return;
    }
    o->is_over = true;
    send(slot_of(owner), &(struct store_record){.kind = STORE_FREE, .place = o->place});
}

static void drop_use(struct process *p, uint32_t i)
{
    p->uses[i].object->n_uses--;
    p->uses[i] = p->uses[--p->n_uses];
}

static void pin(struct process *p)
{
    struct object *o = any_object();
    struct store_share *share = &m.shares[slot_of(p)];
    int at = one_in(2) ? (int)below(STORE_PINS) : (int)below(4);
    bool bell;

    if (o == NULL || !o->is_there || !o->is_told || p->n_uses == N_USES
        || atomic_load(&share->pins[at]) != 0)
        return;
    const struct index_entry *x = &m.index[store_place_entry(o->place)];
    if ((uint32_t)at >= atomic_load(&share->ring.n_pins))
        pin_use_slots(&share->ring, (uint32_t)at + 1);
    bool is_pinned = pin_set(&share->pins[at], &x->word, o->place, &bell);
    ck_assert_msg(is_pinned || o->is_over, "what is there could not be pinned");
    m.bell |= bell;
    if (!is_pinned)
        return;
    if ((uint32_t)atomic_load(&x->word) == STORE_ENTRY_SEALED)
        ck_assert_uint_eq(x->offset, (uint64_t)o->first * STORE_BLOCK);
    o->n_uses++;
    p->uses[p->n_uses++] = (struct use){o, at};
    m.n_pins++;
}

/* A pin becomes a hold, or either ends. */
static void change_use(struct process *p)
{
    struct store_share *share = &m.shares[slot_of(p)];
    bool bell = false;

    if (p->n_uses == 0)
        return;
    uint32_t i = below(p->n_uses);
    struct use *u = &p->uses[i];
    uint64_t place = u->object->place;
    const _Atomic uint64_t *word = &m.index[store_place_entry(place)].word;
    struct store_record hold = {.kind = STORE_HOLD, .place = place};
    struct store_record unhold = {.kind = STORE_UNHOLD, .place = place};
    if (u->pin == NO_PIN) {
        if (!pin_unhold(word, &share->ring, &unhold, &bell))
            send(slot_of(p), &unhold);
        drop_use(p, i);
    } else if (one_in(2)) {
        if (pin_hold(&share->pins[u->pin], word, &share->ring, &hold, &bell))
            u->pin = NO_PIN;
    } else {
        bell = pin_clear(&share->pins[u->pin], word, place);
        drop_use(p, i);
    }
    m.bell |= bell;
}

static void give_back(struct process *p, bool all)
{
    uint32_t first, n;

    while ((n = any_lent(p, &first)) > 0) {
        memset(&m.lent_to[first], 0, n);
        send(slot_of(p),
             &(struct store_record){.kind = STORE_RETURN,
                                    .offset = (uint64_t)first * STORE_BLOCK,
                                    .size = (uint64_t)n * STORE_BLOCK});
        if (!all)
            break;
    }
    while (p->n_places > 0) {
        send(slot_of(p),
             &(struct store_record){.kind = STORE_RETURN, .place = p->places[--p->n_places]});
        if (!all)
            break;
    }
    p->is_recalled &= !all;
}

/* --- what hostile ones do --- */

static uint64_t any_place(void)
{
    uint32_t entry = below(N_ENTRIES + 2);
    uint32_t g = entry < N_ENTRIES ? (uint32_t)(atomic_load(&m.index[entry].word) >> 32) : 0;

    return one_in(20)  ? (uint64_t)seed * 3
           : one_in(5) ? store_place(g + below(3) - 1, entry)
                       : store_place(g, entry);
}

static void do_harm(struct process *p)
{
    struct store_share *share = &m.shares[slot_of(p)];
    uint32_t other = m.p[any_alive()].number;
    struct store_record r = {
        .kind = (uint8_t)below(STORE_KEEP + 2),
        .attempt = (uint16_t)below(N_ATTEMPTS),
        .owner = one_in(3) ? other : p->number,
        .place = one_in(4) ? 0 : any_place(),
        .offset = one_in(20) ? seed : (uint64_t)below(N_BLOCKS + 1) * STORE_BLOCK,
        .size = one_in(20) ? seed : (uint64_t)below(6) * STORE_BLOCK + below(2) * below(99),
        .counter = one_in(20) ? seed : m.last_task - below(20),
        .n_refs = below(2),
        .extra = one_in(30) ? seed : below(2) * below(9000),
    };
    if (r.kind == STORE_SEAL && !m.is_wild)
        r.owner = p->number;
    if (one_in(3))
        atomic_store(&share->pins[below(STORE_PINS)], one_in(4) ? 0 : any_place());
    if (one_in(3))
        atomic_store(&share->ring.n_pins, one_in(4) ? (uint32_t)seed : STORE_PINS);
    if (one_in(300))
        atomic_store(&share->ring.head, seed);
    if (one_in(50))
        atomic_store(&share->ring.tail, one_in(2) ? seed : atomic_load(&share->ring.head));
    m.n_hostile++;
    send(slot_of(p), &r);
}

/* --- life and death --- */

static void join(void)
{
    uint32_t slot = below(N_SLOTS);

    if (m.p[slot].is_alive)
        return;
    memset(&m.shares[slot], 0, sizeof m.shares[slot]);
    m.p[slot] = (struct process){.is_alive = true,
                                 .is_hostile = one_in(4),
                                 .number = ++m.last_number,
                                 .attempt = UINT16_MAX};
    store_add_process(m.s, slot, m.last_number, &m.shares[slot]);
}

static void kill_process(struct process *p)
{
    for (bool all = one_in(2); all && p->n_frames > 0;)
        deliver(slot_of(p));
    for (uint32_t i = 0; i < m.n_objects; i++) {
        struct object *o = &m.objects[i];
        for (uint32_t k = 0; k < p->n_frames; k++)
            if (!p->is_hostile && p->frames[k].kind == STORE_SEAL && p->frames[k].place == o->place)
                o->is_lost = o->is_over = true;
    }
    m.n_lost_frames += p->n_frames;
    p->n_frames = 0;
    while (p->n_uses > 0)
        drop_use(p, 0);
    for (uint32_t b = 0; b < N_BLOCKS; b++)
        if (m.lent_to[b] == slot_of(p) + 1)
            m.lent_to[b] = 0;
    for (uint32_t i = 0; i < m.n_tickets; i++)
        m.tickets[i].waits &= m.tickets[i].slot != slot_of(p);
    for (uint32_t i = 0; i < m.n_objects; i++)
        m.objects[i].is_over |= m.objects[i].owner == p->number;
    p->is_alive = false;
    store_remove_process(m.s, slot_of(p), m.now, &m.out);
    take_actions();
}

/* Results whose maker is no more; a wait for it to tell is over. */
static void abort_what_nobody_will_tell(void)
{
    for (uint32_t i = 0; i < m.n_objects; i++) {
        struct object *o = &m.objects[i];
        bool is_worked_on = false;
        for (uint32_t k = 0; k < N_SLOTS; k++)
            is_worked_on |=
                m.p[k].is_alive && m.p[k].task == o->counter && m.p[k].attempt == o->attempt;
        if (!o->is_told && !is_worked_on)
            end_object(o, true);
    }
}

static void tell_all(void)
{
    abort_what_nobody_will_tell();
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        while (m.p[i].is_alive && m.p[i].n_frames > 0)
            deliver(i);
        if (m.p[i].is_alive)
            drain(i);
    }
    m.bell = false;
    store_on_doorbell(m.s, m.now, &m.out);
    take_actions();
}

/* All was told: the store knows exactly what the model does. */
static void check_all(void)
{
    struct store_stats t;
    uint64_t used = 0, lent = 0;
    uint32_t n_sealed = 0, n_freeing = 0, n_lent = 0, n_lost = 0, n = 0;

    tell_all();
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        if (m.p[i].is_alive && m.p[i].is_hostile)
            return; /* it may hold what is over */
        n_lent += m.p[i].is_alive ? m.p[i].n_places : 0;
    }
    for (uint32_t b = 0; b < N_BLOCKS; b++)
        lent += m.lent_to[b] != 0;
    for (uint32_t i = 0; i < m.n_objects; i++) {
        struct object *o = &m.objects[i];
        const struct index_entry *x = &m.index[store_place_entry(o->place)];
        uint64_t w = atomic_load(&x->word);
        if (!o->is_there)
            continue;
        if (!o->is_over) {
            ck_assert_uint_eq(w, pin_word(o->place, STORE_ENTRY_SEALED));
            ck_assert_uint_eq(x->offset, (uint64_t)o->first * STORE_BLOCK);
            n_sealed++;
        } else if (o->n_uses > 0) {
            ck_assert_uint_eq(w, pin_word(o->place, STORE_ENTRY_FREEING));
            n_freeing++;
            n_lost += o->is_lost;
        } else {
            ck_assert_uint_gt(w >> 32, store_place_generation(o->place));
            o->is_there = false;
        }
        used += o->is_there && !o->is_lost ? o->n : 0;
    }
    store_get_stats(m.s, &t);
    if (!m.is_wild) {
        ck_assert_uint_eq(t.used, used * STORE_BLOCK);
        ck_assert_uint_eq(t.n_sealed, n_sealed);
        ck_assert_uint_eq(t.n_freeing, n_freeing);
    }
    ck_assert(n_lost > 0 ? t.lent > lent * STORE_BLOCK : t.lent == lent * STORE_BLOCK);
    ck_assert_uint_eq(t.n_lent, n_lent);
    for (uint32_t i = 0; i < m.n_objects; i++) { /* uses point to objects */
        if (m.objects[i].is_there) {
            if (n != i) {
                m.objects[n] = m.objects[i];
                for (uint32_t k = 0; k < N_SLOTS; k++)
                    for (uint32_t u = 0; u < m.p[k].n_uses; u++)
                        if (m.p[k].uses[u].object == &m.objects[i])
                            m.p[k].uses[u].object = &m.objects[n];
            }
            n++;
        }
    }
    m.n_objects = n;
}

static void pass_time(void)
{
    m.now += one_in(50) ? WAIT_MS / 2 : below(3);
    store_on_time(m.s, m.now, &m.out);
    take_actions();
    for (uint32_t i = 0; i < m.n_tickets; i++)
        ck_assert(!m.tickets[i].waits || m.tickets[i].at_ms + WAIT_MS > m.now);
    ck_assert(store_next_deadline(m.s) > m.now);
}

static void step(void)
{
    uint32_t slot = any_alive(), what = below(100);
    struct process *p = &m.p[slot];
    struct object *o = any_object();

    if (slot == N_SLOTS || what < 2) {
        join();
    } else if (what < 3) {
        kill_process(p);
    } else if (what < 8) {
        pass_time();
    } else if (what < 14) {
        drain(slot);
    } else if (what < 18 && p->n_frames > 0) {
        deliver(slot);
    } else if (what < 20 && m.bell) {
        m.bell = false;
        store_on_doorbell(m.s, m.now, &m.out);
        take_actions();
    } else if (what < 28) {
        ask(p);
    } else if (p->is_hostile) {
        do_harm(p);
    } else if (what < 45) {
        seal(p);
    } else if (what < 50) {
        end_task(p);
    } else if (what < 65 && o != NULL) {
        end_object(o, one_in(3));
    } else if (what < 80) {
        pin(p);
    } else if (what < 95) {
        change_use(p);
    } else if (p->is_recalled || one_in(3)) {
        give_back(p, p->is_recalled);
    }
}

static void run(uint64_t s)
{
    memset(&m, 0, sizeof m);
    seed = s;
    printf("seed %lu\n", (unsigned long)s);
    fflush(stdout);
    m.is_wild = s % 3 == 0;
    m.now = 1000;
    m.s = store_create(&(struct store_config){.capacity = CAPACITY,
                                              .n_entries = N_ENTRIES,
                                              .index = m.index,
                                              .n_slots = N_SLOTS,
                                              .wait_ms = WAIT_MS});
    for (int i = 0; i < N_STEPS; i++) {
        step();
        store_selfcheck(m.s);
        if (i % 100 == 99)
            check_all();
    }
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (m.p[i].is_alive)
            kill_process(&m.p[i]);
    check_all();
    struct store_stats t;
    store_get_stats(m.s, &t);
    ck_assert_uint_eq(t.free, CAPACITY);
    ck_assert_uint_eq(store_next(m.s, 0, NULL), 0);
    ck_assert_uint_eq(store_next_deadline(m.s), UINT64_MAX);
    printf("%u lent, %u of them waited, %u refused, %u passed, %u pins, %u late seals, %u lost "
           "frames, %u hostile records\n",
           m.n_lent,
           m.n_waited,
           m.n_refused,
           m.n_passes,
           m.n_pins,
           m.n_late,
           m.n_lost_frames,
           m.n_hostile);
    store_destroy(m.s);
    free(m.out.v);
}

START_TEST(nobody_notices_the_others)
{
    const char *given = getenv("SEED"), *n = getenv("SEEDS");

    if (given != NULL) {
        run(strtoull(given, NULL, 0));
        return;
    }
    for (uint64_t i = 1, end = n != NULL ? strtoull(n, NULL, 0) : 25; i <= end; i++)
        run(i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("object_store_model");
    TCase *tc = tcase_create("object_store_model");

    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, nobody_notices_the_others);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
