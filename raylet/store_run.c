/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The object store's hands: makes its memory, reads the processes' rings, carries out what
 * objstore/store.c decides.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "objstore/reserve.h"
#include "raylet/machine_memory.h"
#include "raylet/node_private.h"

#define ENTRY_BYTES  65536 /* of the arena for one entry: objects are larger than 100 KiB */
#define ENTRIES_MORE (BOARD_SLOTS * STORE_LENT_MAX)
#define WAIT_MS      2000 /* Ray's grace before "the store is full" */

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static uint64_t default_capacity(void)
{
    uint64_t n_free = machine_memory_free();
    struct rlimit space; /* each process maps all of it */

    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur < n_free)
        n_free = space.rlim_cur;
    return machine_memory_for_objects(n_free);
}

/* Sparse: no page is touched. The seals keep it from being cut under its readers. */
static int make_memory(const char *name, uint64_t size, int seals, struct err *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0
        && (seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0))
        return fd;
    err_sys(err, "make %llu bytes of memory for %s", (unsigned long long)size, name);
    if (fd >= 0)
        close(fd);
    return -1;
}

int store_run_open(struct node *n, struct err *err)
{
    uint64_t capacity =
        n->config.object_store_memory > 0 ? n->config.object_store_memory : default_capacity();
    struct store_config config = {.capacity = capacity / STORE_BLOCK * STORE_BLOCK,
                                  .n_slots = BOARD_SLOTS + 1, /* the last is transfer.c's */
                                  .wait_ms = WAIT_MS};

    config.n_entries = (uint32_t)(config.capacity / ENTRY_BYTES) + ENTRIES_MORE;
    n->index_size = config.n_entries * sizeof(struct index_entry);
    n->index_fd = make_memory("ray-index", n->index_size, 0, err);
    if (n->index_fd < 0)
        return -1;
    void *index = mmap(NULL, n->index_size, PROT_READ | PROT_WRITE, MAP_SHARED, n->index_fd, 0);
    if (index == MAP_FAILED)
        return err_sys(err, "map the object store's index (a smaller object_store_memory?)");
    n->index = config.index = index;
    /* from here on nobody else can map it writable */
    if (fcntl(n->index_fd,
              F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)
        != 0)
        return err_sys(err, "seal the object store's index (Linux 5.1 or later is needed)");
    n->arena_fd =
        make_memory("ray-arena", config.capacity, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, err);
    if (n->arena_fd < 0)
        return -1;
    n->reserve = store_reserve_create(n->arena_fd, config.capacity);
    n->store = store_create(&config);
    return n->store != NULL ? 0
                            : err_set(err,
                                      ERR_NO_MEMORY,
                                      "no memory for the object store's books: set a smaller "
                                      "object_store_memory, or raise the limit (ulimit -v)");
}

uint64_t store_run_capacity(const struct node *n)
{
    struct store_stats s;

    store_get_stats(n->store, &s);
    return s.capacity;
}

void store_run_close(struct node *n)
{
    store_reserve_destroy(n->reserve);
    n->reserve = NULL;
    store_destroy(n->store);
    n->store = NULL;
    free(n->store_actions.v);
    if (n->index != NULL)
        munmap(n->index, n->index_size);
    if (n->index_fd >= 0)
        close(n->index_fd);
    if (n->arena_fd >= 0)
        close(n->arena_fd);
}

int store_run_make_control(struct process *p, int *fd, struct err *err)
{
    void *map = MAP_FAILED;

    *fd = make_memory("ray-control", CONTROL_SIZE, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, err);
    if (*fd < 0)
        return -1;
    map = mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (map == MAP_FAILED)
        return err_sys(err, "map a process's control block");
    p->control = map;
    atomic_store_explicit(&p->control->copy_plan, p->node->machine.copy_plan, memory_order_relaxed);
    return 0;
}

void store_run_on_measured(struct node *n)
{
    for (uint32_t i = 0; i < n->n_slots; i++)
        if (n->processes[i] != NULL && n->processes[i]->control != NULL)
            atomic_store_explicit(&n->processes[i]->control->copy_plan,
                                  n->machine.copy_plan,
                                  memory_order_relaxed);
}

int store_run_greet_driver(struct process *p, struct err *err)
{
    int fds[3] = {-1, -1, -1};

    if (store_run_make_control(p, &fds[2], err) != 0)
        return -1;
    fds[0] = dup(p->node->index_fd);
    fds[1] = dup(p->node->arena_fd);
    if (fds[0] < 0 || fds[1] < 0)
        err_sys(err, "hand the program the object store (ulimit -n)");
    for (uint32_t part = 0; part < 3; part++) {
        struct wire_store_fd w = {.part = part};
        node_send_fd(p, WIRE_STORE_FD, &w, sizeof w, fds[part]);
    }
    return fds[0] < 0 || fds[1] < 0 ? -1 : 0;
}

static struct store_share *share_of(const struct process *p)
{
    return (struct store_share *)(void *)((char *)p->control + STORE_SHARE_OFFSET);
}

void store_run_add(struct process *p)
{
    store_add_process(p->node->store, p->slot, p->number, share_of(p));
    p->in_store = true;
}

void store_run_remove(struct process *p)
{
    if (p->in_store)
        store_remove_process(p->node->store, p->slot, loop_now_ms(), &p->node->store_actions);
    p->in_store = false;
}

void store_run_drain(struct process *p)
{
    if (p->in_store)
        store_drain(p->node->store, p->slot, loop_now_ms(), &p->node->store_actions);
}

static void on_lend(struct process *p, const uint8_t *body, size_t size)
{
    struct wire_store_lend w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.need == 0 || w.want < w.need || w.n_places == 0 || w.n_places > STORE_LENT_MAX) {
        node_refuse(p, "malformed STORE_LEND");
        return;
    }
    store_lend(p->node->store,
               p->slot,
               w.ticket,
               w.need,
               w.want,
               w.n_places,
               loop_now_ms(),
               &p->node->store_actions);
}

bool store_run_on_frame(struct process *p, uint8_t type, const uint8_t *body, size_t size)
{
    struct node *n = p->node;

    if (!p->in_store)
        return type >= WIRE_STORE_FD && type <= WIRE_STORE_DOORBELL;
    switch (type) {
    case WIRE_STORE_LEND:
        on_lend(p, body, size);
        return true;
    case WIRE_STORE_RECORD: {
        struct store_record r;
        if (size < sizeof r)
            return true;
        memcpy(&r, body, sizeof r);
        store_on_record(n->store, p->slot, &r, loop_now_ms(), &n->store_actions);
        return true;
    }
    case WIRE_STORE_DOORBELL:
        store_on_doorbell(n->store, loop_now_ms(), &n->store_actions);
        return true;
    default:
        return false;
    }
}

static void send_lent(struct node *n, const struct store_action *a)
{
    uint8_t buf[sizeof(struct wire_store_lent) + sizeof a->places];
    struct wire_store_lent w = {.ticket = a->ticket,
                                .offset = a->offset,
                                .size = a->size,
                                .n_places = a->n_places};
    size_t size = sizeof w + a->n_places * sizeof a->places[0];

    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, a->places, size - sizeof w);
    node_send(n->processes[a->slot], WIRE_STORE_LENT, buf, size);
}

static void say_full(const struct node *n, const struct store_action *a, char *out, size_t size)
{
    struct store_stats s;

    store_get_stats(n->store, &s);
    if (a->too_large)
        snprintf(out,
                 size,
                 "an object of %llu bytes is larger than the object store, which has %llu: "
                 "raise object_store_memory, or make several parts",
                 (unsigned long long)a->size,
                 (unsigned long long)s.capacity);
    else
        snprintf(out,
                 size,
                 "the object store is full: %llu bytes were wanted for %d s, %llu of %llu "
                 "are in use by %u objects, the longest free piece has %llu: release refs "
                 "(`ray memory` lists who holds what) or raise object_store_memory",
                 (unsigned long long)a->size,
                 WAIT_MS / 1000,
                 (unsigned long long)s.used,
                 (unsigned long long)s.capacity,
                 s.n_sealed,
                 (unsigned long long)s.largest_free);
}

static void send_refused(struct node *n, const struct store_action *a)
{
    uint8_t buf[sizeof(struct wire_store_refused) + 400];
    struct wire_store_refused w = {.ticket = a->ticket};
    char *text = (char *)buf + sizeof w;

    memcpy(buf, &w, sizeof w);
    say_full(n, a, text, sizeof buf - sizeof w);
    log_warn("store", "refused", "msg=\"%s\"", text);
    node_send(n->processes[a->slot], WIRE_STORE_REFUSED, buf, sizeof w + strlen(text));
}

/* What is transfer.c's; it may add actions. */
static void give_transfer(struct node *n, size_t i)
{
    struct store_action a = n->store_actions.v[i];
    char text[400];

    if (n->transfer == NULL)
        return;
    say_full(n, &a, text, sizeof text);
    transfer_on_store(n->transfer, &a, a.kind == STORE_REFUSED ? text : NULL);
    if (a.kind == STORE_LENT)
        store_reserve_until(n->reserve, a.offset + a.size);
}

void store_run(struct node *n)
{
    for (size_t i = 0; i < n->store_actions.n; i++) {
        const struct store_action *a = &n->store_actions.v[i];
        if (a->kind == STORE_FREED || a->slot == STORE_RUN_TRANSFER) {
            give_transfer(n, i);
            continue;
        }
        switch (a->kind) {
        case STORE_LENT:
            send_lent(n, a);
            store_reserve_until(n->reserve, a->offset + a->size);
            break;
        case STORE_REFUSED:
            send_refused(n, a);
            break;
        case STORE_RECALL:
            node_send(n->processes[a->slot], WIRE_STORE_RECALL, NULL, 0);
            break;
        case STORE_FREED:
            break;
        }
    }
    n->store_actions.n = 0;
}
