/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process: its program, the tasks it submitted, the jobs it runs, and what lib/core does with the
 * actions of borrow. A turn handles one event, carries out all actions, and flushes now or a little
 * later; a DONE leaves in the turn in which its task is free, behind the flush.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/core/core.h"
#include "tests/sim/refs/refs.h"

#define FATAL     150        /* one frame with refs in so many */
#define ORPHAN_NS (500 * MS) /* the raylet kills a worker whose owner is dead */

#define add(array, n, ...)                                                                         \
    ((array) = xrealloc((array), ((n) + 1) * sizeof *(array)), (array)[(n)++] = __VA_ARGS__)
#define remove_at(array, n, i)                                                                     \
    memmove((array) + (i), (array) + (i) + 1, (--(n) - (i)) * sizeof *(array))

/* --- refs --- */

static void on_end(void *arg, struct record *r)
{
    struct refs_process *p = arg;

    if ((r->flags & REF_BORROWED) != 0) {
        world->objects[r->counter].n_records--;
        borrow_end(p->borrow, r);
    } else {
        oracle_freed(r->counter);
    }
}

static struct record *at(const struct refs_process *p, uint32_t slot)
{
    return ref_table_at(p->refs, slot);
}

/* NULL: it ended. */
static struct record *find(const struct refs_process *p, uint64_t word)
{
    struct record *r = at(p, (uint32_t)word);

    return record_word(r) == word && r->state != REF_FREE ? r : NULL;
}

/* As it goes out. */
static struct ref show(const struct refs_process *p, uint32_t slot)
{
    struct record *r = at(p, slot);

    if ((r->flags & REF_BORROWED) != 0)
        return (struct ref){r->extra->owner, r->extra->owner_word, r->counter};
    r->flags |= REF_SHOWN;
    return (struct ref){p->number, record_word(r), r->counter};
}

/* A hold on each; what cannot be learned is left out. Whoever has learned may hand on, and die. */
static uint32_t learn(struct refs_process *p, const struct message *f, uint32_t *slots)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->n_refs; i++) {
        struct record *r = borrow_learn(p->borrow, f->refs[i].owner, f->refs[i].word);
        if (r == NULL) {
            oracle_says("object %zu came home to %u and is gone", f->refs[i].object, p->number);
            continue;
        }
        if (r->counter == 0) {
            r->counter = f->refs[i].object;
            world->objects[r->counter].n_records++;
        }
        if (r->counter != f->refs[i].object)
            oracle_says("one word for objects %zu and %zu", (size_t)r->counter, f->refs[i].object);
        slots[n++] = r->slot;
    }
    if (n > 0 && sim_one_in(FATAL))
        world_post(p, KILL, 0, sim_below(4 * MS));
    return n;
}

static void hold_reply(struct refs_process *p,
                       uint32_t process,
                       uint64_t counter,
                       const uint32_t *slots,
                       uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        at(p, slots[i])->held++;
    borrow_hold_reply(p->borrow, process, counter, slots, n);
}

static void take_handle(struct refs_process *p, uint32_t slot)
{
    if (p->n_handles == HANDLES)
        return;
    at(p, slot)->count++;
    p->handles[p->n_handles++] = slot;
}

static void drop_handle(struct refs_process *p, uint32_t i)
{
    uint32_t slot = p->handles[i];

    p->handles[i] = p->handles[--p->n_handles];
    ref_table_drop(p->refs, at(p, slot));
}

/* A handle on something in that value instead of one on the value. */
static void unpack(struct refs_process *p, uint32_t slot)
{
    const struct ref_extra *x = at(p, slot)->extra;

    take_handle(p, x->inner[sim_below(x->n_inner)]);
    for (uint32_t i = 0; i < p->n_handles; i++)
        if (p->handles[i] == slot) {
            drop_handle(p, i);
            return;
        }
}

/* Most programs do not keep what they have put into something else. */
static void give_away(struct refs_process *p, const uint32_t *slots, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = p->n_handles; i-- > 0 && !sim_one_in(4);)
            if (p->handles[i] == slots[k])
                drop_handle(p, i);
}

/* Up to REFS handles, the latest among them, that do not contain the object themselves. */
static uint32_t choose(const struct refs_process *p, size_t object, uint32_t *slots)
{
    uint32_t n = 0;

    for (uint64_t k = sim_below(REFS + 1); k > 0 && p->n_handles > 0; k--) {
        uint32_t slot = p->handles[n == 0 ? p->n_handles - 1 : sim_below(p->n_handles)];
        if (object == 0 || !oracle_reaches(at(p, slot)->counter, object))
            slots[n++] = slot;
    }
    return n;
}

static void set_contents(const struct refs_process *p,
                         size_t object,
                         const uint32_t *slots,
                         uint32_t n)
{
    struct object *o = &world->objects[object];

    o->n_inner = n;
    for (uint32_t i = 0; i < n; i++)
        o->inner[i] = at(p, slots[i])->counter;
}

static void send(const struct refs_process *p, uint32_t to, struct message f)
{
    f.from = p->number;
    f.to = to;
    f.is_followed = to == p->done_to;
    world_send(f);
}

/* --- values --- */

static void want(const struct refs_process *p, const struct record *r)
{
    struct ref_extra *x = r->extra;

    if (r->state != REF_PENDING || (r->flags & REF_BORROWED) == 0 || x->wanted)
        return;
    x->wanted = 1;
    send(p,
         x->owner,
         (struct message){.kind = FRAME_GET, .word = x->owner_word, .local = record_word(r)});
}

static void answer(const struct refs_process *p, const struct asker *a)
{
    const struct record *r = ref_table_find_shown(p->refs, a->word);
    struct message f = {.kind = FRAME_VALUE, .word = a->word, .local = a->local};

    if (r != NULL && (r->flags & REF_BORROWED) == 0) {
        f.object = r->counter;
        for (uint32_t i = 0; r->extra != NULL && i < r->extra->n_inner; i++)
            f.refs[f.n_refs++] = show(p, r->extra->inner[i]);
    }
    send(p, a->process, f);
}

/* A result of ours is there; the slots' holds are the value's. */
static void set_result(struct refs_process *p,
                       struct record *r,
                       uint8_t meta,
                       const uint32_t *slots,
                       uint32_t n)
{
    const struct ref_stored stored = {.place = r->counter, .pin = REF_NO_PIN};
    uint64_t word = record_word(r);

    ASSERT(ref_table_set_inner(p->refs, r, slots, n));
    ref_table_set_stored(p->refs, r, meta, &stored);
    for (size_t i = 0; i < p->n_askers;) {
        struct asker a = p->askers[i];
        if (a.word != word) {
            i++;
            continue;
        }
        remove_at(p->askers, p->n_askers, i);
        answer(p, &a);
    }
}

static void on_get(struct refs_process *p, const struct message *f)
{
    const struct record *r = ref_table_find_shown(p->refs, f->word);
    const struct asker a = {f->word, f->local, f->from};

    if (r != NULL && r->state == REF_PENDING)
        add(p->askers, p->n_askers, a);
    else
        answer(p, &a);
}

static void on_value(struct refs_process *p, const struct message *f)
{
    struct record *r = find(p, f->local);
    uint32_t slots[REFS];

    if (r == NULL || r->state != REF_PENDING)
        return;
    if (f->object != r->counter)
        oracle_says("process %u asked for object %zu and got %zu",
                    p->number,
                    (size_t)r->counter,
                    f->object);
    uint32_t n = learn(p, f, slots);
    ASSERT(ref_table_set_inner(p->refs, r, slots, n));
    ref_table_set(p->refs, r, WIRE_META_RAW, &f->object, sizeof f->object);
    borrow_guard(p->borrow, BORROW_GUARD_VALUE, 0, 0, r->slot, slots, n, &p->out);
    if (n > 0 && sim_one_in(2))
        unpack(p, r->slot);
}

static void on_lost(struct refs_process *p, const struct borrow_action *a)
{
    struct record *r = find(p, a->counter);

    if (r == NULL || r->state != REF_PENDING)
        return;
    world->n_lost++;
    if (a->code != CORE_EOWNER)
        oracle_says("object %zu is gone from under %u", (size_t)r->counter, p->number);
    else if (world_find(r->extra->owner) != NULL)
        oracle_says("process %u takes live %u for dead", p->number, r->extra->owner);
    ref_table_set(p->refs, r, WIRE_META_ERROR, "", 1);
}

/* --- tasks of ours --- */

static void push(struct refs_process *p, struct call *t)
{
    struct message f = {.kind = FRAME_PUSH, .counter = ++world->counter};

    t->executor = world_random_process(p->number);
    t->counter = f.counter;
    f.object = at(p, t->result)->counter;
    for (uint32_t i = 0; i < t->n_args; i++)
        f.refs[f.n_refs++] = show(p, t->args[i]);
    send(p, t->executor, f);
}

static void submit(struct refs_process *p)
{
    struct call t = {0};

    if (p->n_handles == HANDLES)
        return;
    t.n_args = choose(p, 0, t.args);
    for (uint32_t i = 0; i < t.n_args; i++)
        at(p, t.args[i])->held++; /* INV-8 */
    struct record *r = ref_table_new(p->refs);
    r->counter = oracle_new(p->number);
    t.result = r->slot;
    p->handles[p->n_handles++] = r->slot;
    push(p, &t);
    add(p->tasks, p->n_tasks, t);
    give_away(p, t.args, t.n_args);
}

static void let_arguments_go(struct refs_process *p, const struct call *t)
{
    for (uint32_t i = 0; i < t->n_args; i++)
        ref_table_unhold(p->refs, at(p, t->args[i]));
}

static void on_done(struct refs_process *p, const struct message *f)
{
    size_t i = 0;
    uint32_t slots[REFS], n = 0;

    while (i < p->n_tasks && p->tasks[i].counter != f->counter)
        i++;
    if (i == p->n_tasks) {
        oracle_says("process %u got a result twice", p->number);
        return;
    }
    struct call t = p->tasks[i];
    struct record *r = at(p, t.result);
    remove_at(p->tasks, p->n_tasks, i);
    if (r->count + r->held > 0)
        n = learn(p, f, slots);
    borrow_guard(p->borrow, BORROW_GUARD_REPLY, f->from, f->counter, 0, slots, n, &p->out);
    set_result(p, r, WIRE_META_RAW, slots, n);
    let_arguments_go(p, &t);
    if (n > 0 && sim_one_in(2)) {
        unpack(p, t.result);
        submit(p);
    }
}

static void executor_died(struct refs_process *p, uint32_t dead)
{
    for (size_t i = 0; i < p->n_tasks;) {
        struct call t = p->tasks[i];
        if (t.executor != dead) {
            i++;
            continue;
        }
        hold_reply(p, dead, t.counter, t.args, t.n_args);
        if (t.attempt++ < 2) {
            push(p, &t);
            p->tasks[i++] = t;
            continue;
        }
        remove_at(p->tasks, p->n_tasks, i);
        set_contents(p, at(p, t.result)->counter, NULL, 0);
        set_result(p, at(p, t.result), WIRE_META_ERROR, NULL, 0);
        let_arguments_go(p, &t);
    }
}

/* --- jobs of others --- */

static void step_later(struct refs_process *p)
{
    if (!p->steps && (p->is_driver || p->n_jobs > 0))
        world_post(p,
                   STEP,
                   0,
                   1000 + sim_below(sim_one_in(16) ? 20 * world->pace_ns : world->pace_ns));
    p->steps = p->steps || p->is_driver || p->n_jobs > 0;
}

static void on_push(struct refs_process *p, const struct message *f)
{
    struct job j = {.caller = f->from, .counter = f->counter, .result = f->object};
    uint32_t slots[REFS];

    j.n_args = learn(p, f, slots);
    for (uint32_t i = 0; i < j.n_args; i++)
        j.args[i] = record_word(at(p, slots[i]));
    add(p->jobs, p->n_jobs, j);
    step_later(p);
}

static void start(struct refs_process *p, struct job *j)
{
    j->runs = true;
    j->n_steps = 1 + (unsigned)sim_below(12);
    for (uint32_t i = 0; i < j->n_args; i++) {
        take_handle(p, (uint32_t)j->args[i]);
        if (sim_one_in(2))
            want(p, at(p, (uint32_t)j->args[i]));
    }
}

/* Its arguments that still live, and must be registered. */
static uint32_t survivors(const struct refs_process *p, const struct job *j, uint32_t *slots)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < j->n_args; i++)
        if (find(p, j->args[i]) != NULL)
            slots[n++] = (uint32_t)j->args[i];
    return n;
}

static void end_job(struct refs_process *p)
{
    struct job j = p->jobs[0];
    struct done d = {.frame = {.kind = FRAME_DONE, .counter = j.counter, .to = j.caller}};
    uint32_t slots[REFS], n = 0;

    remove_at(p->jobs, p->n_jobs, 0);
    if (!j.is_orphan) {
        n = world->phase == RUNNING ? choose(p, j.result, slots) : 0;
        set_contents(p, j.result, slots, n);
        for (uint32_t i = 0; i < n; i++)
            d.frame.refs[d.frame.n_refs++] = show(p, slots[i]);
        hold_reply(p, j.caller, j.counter, slots, n);
        add(p->dones, p->n_dones, d);
    }
    for (uint32_t i = p->n_handles; i-- > 0;)
        if (!p->is_driver && !sim_one_in(3))
            drop_handle(p, i);
    for (uint32_t i = 0; i < j.n_args; i++)
        ref_table_unhold(p->refs, at(p, (uint32_t)j.args[i]));
    n = survivors(p, &j, slots);
    borrow_guard(p->borrow, BORROW_GUARD_TASK, j.caller, j.counter, 0, slots, n, &p->out);
}

static void task_is_free(struct refs_process *p, uint64_t counter)
{
    for (size_t i = 0; i < p->n_dones; i++)
        if (p->dones[i].frame.counter == counter)
            p->dones[i].is_free = true;
}

static void caller_died(struct refs_process *p, uint32_t dead)
{
    uint32_t slots[REFS];

    for (size_t i = p->n_dones; i-- > 0;)
        if (p->dones[i].frame.to == dead)
            remove_at(p->dones, p->n_dones, i);
    for (size_t i = p->n_jobs; i-- > 0;) {
        struct job *j = &p->jobs[i];
        if (j->caller != dead)
            continue;
        if (j->runs) {
            j->is_orphan = true;
            uint32_t n = survivors(p, j, slots);
            borrow_guard(p->borrow, BORROW_GUARD_TASK, dead, j->counter, 0, slots, n, &p->out);
            if (!p->is_driver)
                world_post(p, KILL, j->counter, ORPHAN_NS);
            continue;
        }
        for (uint32_t k = 0; k < j->n_args; k++)
            ref_table_unhold(p->refs, at(p, (uint32_t)j->args[k]));
        remove_at(p->jobs, p->n_jobs, i);
    }
}

/* --- the program --- */

static void put(struct refs_process *p)
{
    uint32_t slots[REFS], n = choose(p, 0, slots);

    if (p->n_handles == HANDLES)
        return;
    struct record *r = ref_table_new(p->refs);
    r->counter = oracle_new(p->number);
    p->handles[p->n_handles++] = r->slot;
    for (uint32_t i = 0; i < n; i++)
        at(p, slots[i])->held++;
    set_contents(p, r->counter, slots, n);
    set_result(p, r, WIRE_META_RAW, slots, n);
    give_away(p, slots, n);
}

/* Asks for a value, or unpacks it. */
static void get(struct refs_process *p)
{
    if (p->n_handles == 0)
        return;
    const struct record *r = at(p, p->handles[sim_below(p->n_handles)]);
    want(p, r);
    if (r->state == REF_READY && r->extra != NULL && r->extra->n_inner > 0)
        unpack(p, r->slot);
}

static void step(struct refs_process *p)
{
    p->steps = false;
    if (p->n_jobs > 0 && !p->jobs[0].runs)
        start(p, &p->jobs[0]);
    for (uint64_t k = world->phase == RUNNING ? 1 + sim_below(3) : 0; k > 0; k--)
        switch (sim_below(8)) {
        case 0:
            put(p);
            break;
        case 1:
        case 2:
            submit(p);
            break;
        case 3:
        case 4:
            if (p->n_handles > 0)
                drop_handle(p, (uint32_t)sim_below(p->n_handles));
            break;
        default:
            get(p);
        }
    if (p->n_jobs > 0 && (--p->jobs[0].n_steps == 0 || world->phase != RUNNING))
        end_job(p);
    while (world->phase == CLOSING && p->n_handles > 0)
        drop_handle(p, 0);
    if (world->phase == RUNNING || p->n_jobs > 0)
        step_later(p);
}

/* --- turns --- */

static void carry_out(struct refs_process *p)
{
    for (size_t i = 0; i < p->out.n; i++) {
        const struct borrow_action a = p->out.v[i];
        struct message f = {.counter = a.kind == BORROW_SEND_SEEN ? a.counter : a.sequence,
                            .words = a.words,
                            .n_words = a.n};
        switch (a.kind) {
        case BORROW_SEND_OPS:
            f.kind = FRAME_OPS;
            send(p, a.process, f);
            break;
        case BORROW_SEND_ACK:
            f.kind = FRAME_ACK;
            send(p, a.process, f);
            break;
        case BORROW_SEND_SEEN:
            f.kind = FRAME_SEEN;
            send(p, a.process, f);
            break;
        case BORROW_TASK_FREE:
            task_is_free(p, a.counter);
            break;
        case BORROW_LOST:
            on_lost(p, &a);
            break;
        case BORROW_SEND_DIGEST:
            f.kind = FRAME_DIGEST;
            f.digest = a.u.digest;
            world->n_digests++;
            send(p, a.process, f);
            break;
        case BORROW_SEND_COMPARED:
            f.kind = FRAME_COMPARED;
            f.differs = a.code != 0;
            if (f.differs && !world->has_faults)
                oracle_says("process %u misses something of %u", p->number, a.process);
            send(p, a.process, f);
            break;
        case BORROW_SEND_LIST:
            f.kind = FRAME_LIST;
            f.range = a.u.range;
            send(p, a.process, f);
            break;
        case BORROW_REPAIRED:
            world->n_repairs++;
            break;
        }
    }
    p->out.n = 0;
}

static void flush(struct refs_process *p)
{
    borrow_flush(p->borrow, sim.now, &p->out);
    carry_out(p);
}

static void end_turn(struct refs_process *p)
{
    carry_out(p);
    for (size_t i = 0; i < p->n_dones;) {
        if (!p->dones[i].is_free) {
            i++;
            continue;
        }
        p->done_to = p->dones[i].frame.to;
        flush(p);
        p->done_to = UINT32_MAX;
        send(p, p->dones[i].frame.to, p->dones[i].frame);
        remove_at(p->dones, p->n_dones, i);
    }
    if (borrow_has_news(p->borrow) && !p->flushes) {
        p->flushes = true;
        world_post(p, GO_ON, 0, sim_one_in(2) ? 1000 : sim_below(2 * MS));
    }
    uint64_t due = borrow_next_deadline(p->borrow);
    if (due < p->timer_at) {
        p->timer_at = due;
        world_post(p, TIMER, 0, due > sim.now ? due - sim.now : 0);
    }
}

void process_on_frame(struct refs_process *p, const struct message *f)
{
    switch (f->kind) {
    case FRAME_PUSH:
        on_push(p, f);
        break;
    case FRAME_DONE:
        on_done(p, f);
        break;
    case FRAME_GET:
        on_get(p, f);
        break;
    case FRAME_VALUE:
        on_value(p, f);
        break;
    case FRAME_OPS:
        if (!borrow_on_ops(p->borrow, f->from, (uint32_t)f->counter, f->words, f->n_words))
            oracle_says("process %u refuses ops of %u", p->number, f->from);
        break;
    case FRAME_ACK:
        borrow_on_ack(p->borrow, f->from, (uint32_t)f->counter, f->words, f->n_words, &p->out);
        break;
    case FRAME_SEEN:
        borrow_on_seen(p->borrow, f->from, f->counter);
        break;
    case FRAME_DIGEST:
        borrow_on_digest(p->borrow, f->from, &f->digest);
        break;
    case FRAME_COMPARED:
        borrow_on_compared(p->borrow, f->from, (uint32_t)f->counter, f->differs, &p->out);
        break;
    case FRAME_LIST:
        if (!borrow_on_list(p->borrow,
                            f->from,
                            (uint32_t)f->counter,
                            &f->range,
                            f->words,
                            f->n_words))
            oracle_says("process %u refuses a list of %u", p->number, f->from);
        break;
    }
    end_turn(p);
    p->carrier[f->from] ^= sim_one_in(4);
}

void process_on_death(struct refs_process *p, uint32_t dead)
{
    borrow_on_process_dead(p->borrow, dead, sim.now, &p->out);
    executor_died(p, dead);
    caller_died(p, dead);
    end_turn(p);
}

void process_on_own_event(struct refs_process *p, enum sim_kind kind, uint64_t id)
{
    if (kind == KILL) { /* of an orphan that still runs, or of anybody */
        if (id == 0 || (p->n_jobs > 0 && p->jobs[0].counter == id))
            world_kill(p, id == 0 && sim_one_in(3));
        return;
    }
    if (kind == TIMER) {
        p->timer_at = UINT64_MAX;
        borrow_on_time(p->borrow, sim.now);
    } else if (kind == GO_ON) {
        p->flushes = false;
        flush(p);
    } else {
        step(p);
    }
    end_turn(p);
}

struct refs_process *process_begin(uint32_t number, bool is_driver)
{
    struct refs_process *p = xcalloc(1, sizeof *p);

    p->number = number;
    p->is_alive = true;
    p->is_driver = is_driver;
    p->timer_at = UINT64_MAX;
    p->done_to = UINT32_MAX;
    p->refs = ref_table_create();
    p->borrow = borrow_create(p->refs, number);
    borrow_test_start(p->borrow, world->first_number);
    ref_table_on_end(p->refs, on_end, p);
    step_later(p);
    return p;
}

void process_end(struct refs_process *p)
{
    for (uint32_t slot = 1; slot < ref_table_end(p->refs); slot++) {
        const struct record *r = at(p, slot);
        if (r->state != REF_FREE && (r->flags & REF_BORROWED) != 0)
            world->objects[r->counter].n_records--;
    }
    borrow_destroy(p->borrow);
    ref_table_destroy(p->refs);
    free(p->out.v);
    free(p->tasks);
    free(p->jobs);
    free(p->dones);
    free(p->askers);
    free(p);
}
