/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refs [--seed N] [--nodes N] [--rounds N]: runs one seed twice and compares the digests of all
 * events, then more seeds; with --seed that seed once. Each seed makes a world without and one with
 * faults. A round runs the programs for a while, lets everything come to rest, and looks; after the
 * last all is dropped, and the tables must be empty.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "tests/sim/refs/refs.h"

#define SEEDS      4
#define NODES      16
#define ROUNDS     2
#define EVENTS_MAX 20000000
#define SLOW_NS    (300 * MS) /* ten of these in a row are shorter than what the dead are given */

struct world *world;

struct refs_process *world_find(uint32_t process)
{
    return process < world->n_processes ? world->processes[process] : NULL;
}

/* One that is not known to be dead. */
uint32_t world_random_process(uint32_t other_than)
{
    uint32_t k;

    do
        k = (uint32_t)sim_below(world->n_processes);
    while (k == other_than || world->knows_dead[other_than][k]
           || (world_find(k) == NULL && !sim_one_in(16)));
    return k;
}

/* One carrier in five, and not for long. */
static bool is_slow(const struct message *f)
{
    uint64_t when = sim.now / (256 * MS);

    return (f->from * 31 + f->to * 17 + f->carrier * 7 + when) % 5 == 0;
}

static uint64_t some_delay(void)
{
    uint64_t usual = sim_one_in(8) ? 10 * MS : 200000;

    return 1000 + sim_below(sim_one_in(40) ? SLOW_NS : usual);
}

/* --- frames --- */

static uint64_t digest_of(const struct message *f)
{
    uint64_t d = f->counter ^ f->word << 7 ^ f->local << 13 ^ (uint64_t)f->object << 29 ^ f->kind;

    for (uint32_t i = 0; i < f->n_refs; i++)
        d = (d ^ f->refs[i].word ^ (uint64_t)f->refs[i].owner << 40) * 1099511628211u;
    for (uint32_t i = 0; i < f->n_words; i++)
        d = (d ^ f->words[i]) * 1099511628211u;
    return d;
}

static bool is_about_borrows(const struct message *f)
{
    return f->kind == FRAME_OPS || f->kind == FRAME_ACK || f->kind == FRAME_DIGEST
           || f->kind == FRAME_COMPARED || f->kind == FRAME_LIST;
}

static bool may_lose(const struct message *f)
{
    uint32_t low = f->from < f->to ? f->from : f->to;
    uint64_t *at = &world->loss_at[low][f->from + f->to - low];

    if (sim.now < *at)
        return false;
    *at = sim.now + LOSS_NS;
    return true;
}

static uint64_t *copy(const uint64_t *words, uint32_t n, uint32_t times)
{
    uint64_t *v = xmalloc((size_t)n * times * sizeof *v + 1);

    for (uint32_t i = 0; i < n * times; i++)
        v[i] = words[i / times];
    return v;
}

/* True: the frame's place in its carrier does not bind it. */
static bool do_wrong(struct message *f)
{
    if (!is_about_borrows(f) || f->is_followed)
        return false;
    switch (sim_below(32)) {
    case 0:
        f->is_lost = may_lose(f);
        world->n_faults += f->is_lost;
        return false;
    case 1: {
        struct message again = *f;
        again.words = copy(f->words, f->n_words, 1);
        again.is_followed = true; /* enough */
        world->n_faults++;
        world_send(again);
        return false;
    }
    case 2:
        if (f->kind == FRAME_OPS) {
            uint64_t *words = f->words;
            f->words = copy(words, f->n_words, 2);
            f->n_words *= 2;
            free(words);
            world->n_faults++;
        }
        return false;
    case 3:
        world->n_faults++;
        return true;
    default:
        return false;
    }
}

void world_send(struct message f)
{
    bool is_free = world->has_faults && do_wrong(&f);
    size_t k = 0;

    while (k < world->n_messages && world->messages[k].is_used)
        k++;
    if (k == world->messages_room) {
        world->messages_room = k == 0 ? 64 : 2 * k;
        world->messages = xrealloc(world->messages, world->messages_room * sizeof f);
    }
    if (k == world->n_messages)
        world->n_messages++;
    f.carrier = world->processes[f.from]->carrier[f.to];
    uint64_t *last = &world->last[f.from][f.to][f.carrier];
    f.at = sim.now + (is_slow(&f) ? sim_below(SLOW_NS / 4) : some_delay());
    if (!is_free)
        f.at = *last = f.at > *last ? f.at : *last + 1;
    f.is_used = true;
    world->messages[k] = f;
    world->met[f.from][f.to] = world->met[f.to][f.from] = true;
    world->n_sent++;
    sim_post((struct sim_event){.kind = PUSH,
                                .at = f.at,
                                .slot = f.to,
                                .peer = f.from,
                                .id = k,
                                .mask = digest_of(&f)});
}

/* INV-6: after everything of it. */
static void announce(uint32_t dead, uint32_t to)
{
    uint64_t at = sim.now;

    if (world->knows_dead[to][dead])
        return;
    world->knows_dead[to][dead] = true;
    for (unsigned k = 0; k < 2; k++)
        if (world->last[dead][to][k] > at)
            at = world->last[dead][to][k];
    sim_post((struct sim_event){.kind = DEAD, .at = at + some_delay(), .slot = to, .peer = dead});
}

static void arrive(size_t k)
{
    struct message f = world->messages[k];
    struct refs_process *to = world_find(f.to);

    world->messages[k].is_used = false;
    if (to == NULL)
        announce(f.to, f.from);
    else if (!f.is_lost)
        process_on_frame(to, &f);
    free(f.words);
}

/* --- processes --- */

void world_post(const struct refs_process *p, enum sim_kind kind, uint64_t id, uint64_t in_ns)
{
    sim_post((struct sim_event){.kind = kind, .at = sim.now + in_ns, .slot = p->number, .id = id});
}

void world_spawn(void)
{
    uint32_t k = world->n_processes;

    if (k == PROCESSES)
        return;
    world->n_processes++;
    world->processes[k] = process_begin(k, k % 4 == 0);
}

/* Some of what it sent is lost with it, the last first; if it exits nothing is. */
void world_kill(struct refs_process *p, bool exits)
{
    uint64_t until[PROCESSES][2];

    if (world->phase != RUNNING || world->n_processes == PROCESSES)
        return;
    for (uint32_t k = 0; k < world->n_processes; k++)
        for (unsigned c = 0; c < 2; c++)
            until[k][c] = exits || sim_one_in(2) ? UINT64_MAX : sim.now + sim_below(MS);
    for (size_t k = 0; k < world->n_messages; k++) {
        struct message *f = &world->messages[k];
        if (f->is_used && f->from == p->number && f->at > until[f->to][f->carrier])
            f->is_lost = true;
    }
    world->processes[p->number] = NULL;
    world->n_deaths++;
    for (uint32_t k = 0; k < world->n_processes; k++)
        if (world_find(k) != NULL && world->met[p->number][k])
            announce(p->number, k);
    process_end(p);
    world_spawn();
}

/* --- running --- */

static void handle(const struct sim_event *e)
{
    struct refs_process *p = world_find(e->slot);

    if (e->kind == PUSH)
        arrive(e->id);
    else if (p != NULL && e->kind == DEAD)
        process_on_death(p, e->peer);
    else if (p != NULL)
        process_on_own_event(p, e->kind, e->id);
}

static void run_until_rest(uint64_t until)
{
    struct sim_event e;
    size_t n = 0;

    while (!sim.caught && sim_next(&e)) {
        if (sim.now > until && world->phase == RUNNING)
            world->phase = PAUSING;
        handle(&e);
        if (++n > EVENTS_MAX)
            oracle_says("stuck");
    }
}

static void wake_all(enum phase phase)
{
    world->phase = phase;
    for (uint32_t k = 0; k < world->n_processes; k++)
        if (world_find(k) != NULL) {
            world->processes[k]->steps = true;
            world_post(world->processes[k], STEP, 0, 1 + sim_below(MS));
        }
}

static bool run(uint64_t seed,
                uint32_t n_processes,
                unsigned n_rounds,
                bool has_faults,
                uint64_t *digest)
{
    static struct node nowhere;

    memset(&sim, 0, sizeof sim);
    memset(&nowhere, 0, sizeof nowhere);
    sim.nodes = &nowhere;
    world = xcalloc(1, sizeof *world);
    clock_begin(seed);
    oracle_new(0);
    world->pace_ns = MS;
    world->has_faults = has_faults;
    world->first_number = 0u - (uint32_t)(seed % 4); /* the numbers of a pair wrap soon */
    for (uint32_t k = 0; k < n_processes; k++)
        world_spawn();
    for (unsigned k = 0; k < n_rounds && !sim.caught; k++) {
        world->pace_ns = k % 2 == 0 ? MS : 6 * MS;
        if (k > 0)
            wake_all(RUNNING);
        run_until_rest(sim.now + (k % 2 == 0 ? 1500 * MS : 8000 * MS));
        if (!sim.caught)
            oracle_at_rest();
    }
    wake_all(CLOSING);
    run_until_rest(0);
    if (!sim.caught)
        oracle_at_rest();
    if (!sim.caught && has_faults && world->n_repairs == 0)
        oracle_says("nothing was repaired");
    *digest = sim_digest();
    printf("seed %llu, %u processes: %zu objects, %zu freed, %zu frames, %zu deaths, %zu lost, "
           "%zu digests, %zu faults, %zu repairs, %s after %llu ms, log %016llx%s%s\n",
           (unsigned long long)seed,
           world->n_processes,
           world->n_objects - 1,
           world->n_freed,
           world->n_sent,
           world->n_deaths,
           world->n_lost,
           world->n_digests,
           world->n_faults,
           world->n_repairs,
           sim.caught ? "caught" : "all held",
           (unsigned long long)(sim.now / MS),
           (unsigned long long)*digest,
           sim.caught ? ": " : "",
           sim.why);
    fflush(stdout);
    for (uint32_t k = 0; k < world->n_processes; k++)
        if (world_find(k) != NULL)
            process_end(world->processes[k]);
    for (size_t k = 0; k < world->n_messages; k++)
        if (world->messages[k].is_used)
            free(world->messages[k].words);
    free(world->messages);
    free(world->objects);
    free(world);
    clock_end();
    return !sim.caught;
}

int main(int argc, char **argv)
{
    uint64_t seed = 0, a, b;
    uint32_t n_processes = NODES;
    unsigned n_rounds = ROUNDS;

    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long v = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0)
            seed = v;
        else if (strcmp(argv[i], "--nodes") == 0)
            n_processes = v < 2 ? 2 : v > PROCESSES / 2 ? PROCESSES / 2 : (uint32_t)v;
        else if (strcmp(argv[i], "--rounds") == 0)
            n_rounds = (unsigned)v;
    }
    for (int faults = 0; faults < 2; faults++) {
        if (seed != 0) {
            if (!run(seed, n_processes, n_rounds, faults, &a))
                return 1;
            continue;
        }
        if (!run(1, n_processes, n_rounds, faults, &a)
            || !run(1, n_processes, n_rounds, faults, &b))
            return 1;
        if (a != b) {
            printf("the same seed, another log\n");
            return 1;
        }
        for (uint64_t k = 2; k <= SEEDS; k++)
            if (!run(k, n_processes, n_rounds, faults, &a))
                return 1;
    }
    return 0;
}
