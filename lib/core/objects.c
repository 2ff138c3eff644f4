/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This process's use of the object store: memory for the objects it makes, pins of those it reads,
 * and what the raylet must be told. Most goes by the ring of the control block, without a system
 * call; frames carry what must be answered, and what the ring has no room for.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#define LOOK_AGAIN_NS 1000000u       /* for room in the ring */
#define FILL_PART     (32ull << 20)  /* of the largest class of copies (objstore/copy.h) */
#define MAP_PART      (256ull << 10) /* less than a millisecond, so that the helper is in time */

/* Where each pin slot's number is kept by whoever pinned. */
static int32_t *pin_homes[STORE_PINS];

int objects_open(int index_fd, int arena_fd, struct control_block *control, struct err *err)
{
    struct store_share *share = (void *)((char *)control + STORE_SHARE_OFFSET);

    core.store = store_client_create(index_fd, arena_fd, share, err);
    memset(pin_homes, 0, sizeof pin_homes);
    return core.store != NULL ? 0 : -1;
}

void objects_on_fd(uint32_t part, int fd)
{
    struct err err = {.code = ERR_PROTOCOL, .text = "the store's memory came without descriptors"};
    void *control;

    if (part < 2 && fd >= 0) {
        if (core.store_fds[part] >= 0)
            close(core.store_fds[part]);
        core.store_fds[part] = fd;
        return;
    }
    if (part == 2 && fd >= 0 && core.control == NULL && core.store_fds[0] >= 0
        && core.store_fds[1] >= 0) {
        control = mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (control == MAP_FAILED)
            err_sys(&err, "map the control block");
        else if (objects_open(core.store_fds[0], core.store_fds[1], control, &err) != 0)
            munmap(control, CONTROL_SIZE);
        else
            core.control = control;
    }
    for (int i = 0; i < 2; i++) {
        if (core.store_fds[i] >= 0)
            close(core.store_fds[i]);
        core.store_fds[i] = -1;
    }
    if (fd >= 0)
        close(fd);
    if (core.store == NULL)
        peer_end(core.raylet, &err);
}

void objects_close(void)
{
    store_client_destroy(core.store);
    core.store = NULL;
    if (core.control != NULL)
        munmap(core.control, CONTROL_SIZE);
    core.control = NULL;
    core.lend_ticket = 0;
    core.maps_ahead = false;
    core.bell = false;
}

/* --- telling the raylet --- */

static void send_record(const struct store_record *r)
{
    peer_send(core.raylet, WIRE_STORE_RECORD, r, sizeof *r);
}

/* false: it went by frame. */
static bool post(const struct store_record *r)
{
    bool half = false, is_posted = store_client_post(core.store, r, &half);

    if (!is_posted) {
        send_record(r);
        peer_flush(core.raylet);
    }
    core.bell |= half;
    return is_posted;
}

/* What was said to the raylet is out of our hands: we may die at any moment. It reads whatever
 * comes, so this is soon, and nobody else needs us more. */
static void write_out(void)
{
    const struct peer *p = core.raylet;

    while (p->link != NULL && p->wants_write && unix_link_flush(p->link, NULL) == 0)
        poll(&(struct pollfd){.fd = unix_link_fd(p->link), .events = POLLOUT}, 1, -1);
    peer_flush(core.raylet);
}

static void send_returns(void)
{
    struct store_record r;

    while (store_client_unsent(core.store, &r))
        send_record(&r);
}

void objects_flush(void)
{
    if (!core.bell)
        return;
    core.bell = false;
    peer_send(core.raylet, WIRE_STORE_DOORBELL, NULL, 0);
}

static void send_free_at(const struct wire_key *key, uint32_t node, bool is_abort)
{
    struct wire_store_free_at w = {.key = *key, .node = node, .is_abort = is_abort};

    peer_send(core.raylet, WIRE_STORE_FREE_AT, &w, sizeof w);
}

void objects_seal(const struct store_extent *e,
                  uint64_t size,
                  uint8_t meta,
                  uint32_t n_refs,
                  const struct object_name *name)
{
    uint64_t extra = n_refs > 0 ? refs_stored_size(size, n_refs) - size : 0;
    struct store_extent whole = *e;

    if (size + extra < whole.size) {
        store_client_trim(core.store, &whole, size + extra);
        send_returns();
    }
    if (!post(&(struct store_record){.kind = STORE_SEAL,
                                     .meta = meta,
                                     .attempt = name->attempt,
                                     .owner = name->owner,
                                     .place = e->place,
                                     .offset = e->offset,
                                     .size = size,
                                     .counter = name->counter,
                                     .index = name->index,
                                     .n_refs = n_refs,
                                     .extra = extra}))
        write_out(); /* before anybody hears of the object */
}

void objects_free(const struct wire_stored *s)
{
    if (s->node != core.welcome.node_number)
        send_free_at(&s->key, s->node, false);
    else if (core.store != NULL)
        post(&(struct store_record){.kind = STORE_FREE, .place = s->place});
}

void objects_disown(uint64_t counter, uint16_t attempt, uint32_t node)
{
    struct wire_key key = {.counter = counter, .owner = core.welcome.process, .attempt = attempt};

    if (node != core.welcome.node_number)
        send_free_at(&key, node, true);
    else if (core.store != NULL)
        post(&(struct store_record){.kind = STORE_ABORT,
                                    .owner = core.welcome.process,
                                    .counter = counter,
                                    .attempt = attempt});
}

bool objects_keep(uint64_t place)
{
    struct store_record r = {.kind = STORE_KEEP, .place = place};
    bool half = false, is_posted = core.store != NULL && store_client_post(core.store, &r, &half);

    core.bell |= half;
    return is_posted;
}

/* --- memory for objects --- */

static void request(uint64_t size)
{
    struct wire_store_lend w = {.ticket = ++core.lend_last};
    uint64_t need, want;
    uint32_t n_places;

    store_client_request(core.store, size, clock_now_ns() / 1000000u, &need, &want, &n_places);
    w.need = need;
    w.want = want;
    w.n_places = n_places;
    core.lend_ticket = w.ticket;
    core.lend_need = size > 0 ? size : need;
    core.lend_ahead = want > need || size == 0;
    peer_send(core.raylet, WIRE_STORE_LEND, &w, sizeof w);
}

/* At once, and the answer is looked for with each allocation: else who does nothing but put would
 * come to the end of its memory before anybody had sent or read anything. */
static void ask_ahead(void)
{
    if (core.lend_ticket == 0 && store_client_wants_more(core.store)) {
        request(0);
        peer_flush(core.raylet);
    } else if (core.lend_ticket != 0) {
        poller_poll();
    }
}

int objects_alloc(uint64_t data, uint32_t n_refs, struct store_extent *out, struct err *err)
{
    uint64_t size = refs_stored_size(data, n_refs);
    struct waiter w = {.n_missing = 1};
    uint64_t n_refused = core.n_refused;
    int code = CORE_OK;

    if (data > CORE_OBJECT_MAX) {
        err_set(err,
                ERR_FULL,
                "an object of %llu bytes is larger than any object store: make several parts",
                (unsigned long long)data);
        return CORE_EFULL;
    }
    list_init(&w.node);
    while (core.store != NULL && !store_client_alloc(core.store, size, out)) {
        if (core.raylet->link == NULL) {
            err_set(err, ERR_DIED, "the raylet is gone: %s", core.lost.text);
            code = CORE_ELINK;
            break;
        }
        if (core.n_refused != n_refused && size >= core.refused_need) {
            err_set(err, ERR_FULL, "%s", core.refused);
            code = CORE_EFULL;
            break;
        }
        n_refused = core.n_refused;
        if (core.lend_ticket == 0)
            request(size);
        worker_block();
        poller_wait(&w, UINT64_MAX, NULL, 0);
    }
    worker_unblock();
    poller_leave();
    if (core.store == NULL) {
        err_set(err, ERR_INVALID, "the cluster has ended");
        return CORE_ELINK;
    }
    if (code == CORE_OK)
        ask_ahead();
    /* the raylet may have measured meanwhile */
    store_client_set_copy_plan(
        atomic_load_explicit(&core.control->copy_plan, memory_order_relaxed));
    return code;
}

/* In parts, so that whoever makes pages ahead of us (objstore/reserve.h) can. */
int objects_fill(const struct store_extent *e, const void *bytes, uint64_t size, struct err *err)
{
    for (uint64_t at = 0; at < e->size; at += FILL_PART) {
        struct store_extent part = {.offset = e->offset + at,
                                    .size = e->size - at < FILL_PART ? e->size - at : FILL_PART};
        if (store_client_touch(core.store, &part, err) != 0)
            return CORE_ENOMEM;
        if (bytes != NULL && at < size)
            store_client_copy(store_client_write(core.store, &part),
                              (const uint8_t *)bytes + at,
                              size - at < part.size ? size - at : part.size);
    }
    return CORE_OK;
}

bool objects_map_ahead(void)
{
    struct store_client *store = core.store;
    struct store_extent e;
    struct err err;

    if (store == NULL || !core.maps_ahead || !store_client_untouched(store, MAP_PART, &e)) {
        core.maps_ahead = false;
        return false;
    }
    core_unlock();
    int rc = store_client_touch(store, &e, &err);
    core_lock();
    if (rc != 0)
        core.maps_ahead = false; /* whoever writes there will say so */
    return true;
}

void objects_abort(const struct store_extent *e)
{
    store_client_abort(core.store, e);
    send_returns();
}

static void on_lent(const uint8_t *body, size_t size)
{
    struct wire_store_lent w;
    uint64_t places[STORE_LENT_MAX];
    struct err err;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.n_places > STORE_LENT_MAX || size - sizeof w < w.n_places * sizeof places[0])
        return;
    memcpy(places, body + sizeof w, w.n_places * sizeof places[0]);
    if (w.ticket == core.lend_ticket)
        core.lend_ticket = 0;
    if (store_client_on_lent(core.store,
                             w.offset,
                             w.size,
                             places,
                             w.n_places,
                             core.read_ns / 1000000u,
                             &err)
        != 0) {
        peer_end(core.raylet, &err);
        return;
    }
    send_returns();
    poller_wake_all();
    if (core.lend_ahead) {
        core.maps_ahead = true;
        poller_hurry_helper();
    }
}

static void on_refused(const uint8_t *body, size_t size)
{
    struct wire_store_refused w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    if (w.ticket != core.lend_ticket)
        return;
    snprintf(core.refused,
             sizeof core.refused,
             "%.*s",
             (int)(size - sizeof w),
             (const char *)body + sizeof w);
    core.lend_ticket = 0;
    core.refused_need = core.lend_need;
    core.n_refused++;
    poller_wake_all();
}

void objects_on_frame(uint8_t type, const uint8_t *body, size_t size)
{
    if (core.store == NULL)
        return;
    switch (type) {
    case WIRE_STORE_LENT:
        on_lent(body, size);
        break;
    case WIRE_STORE_REFUSED:
        on_refused(body, size);
        break;
    case WIRE_STORE_RECALL:
        store_client_on_recall(core.store);
        send_returns();
        core.bell = true; /* they wait for what has gone to the ring */
        break;
    default:
        break;
    }
}

/* --- reading --- */

const void *objects_read(uint64_t offset, uint64_t size)
{
    return core.store != NULL ? store_client_read(core.store, offset, size) : NULL;
}

bool objects_pinned(int slot, uint64_t *place)
{
    if (core.store == NULL || pin_homes[slot] == NULL)
        return false;
    *place = store_client_pinned(core.store, slot);
    return true;
}

bool objects_is_ours(const struct wire_stored *s)
{
    return core.store != NULL
           && store_client_is_owned(core.store,
                                    s->place,
                                    s->offset,
                                    s->size,
                                    s->n_refs,
                                    core.welcome.process);
}

/* Move the pins there are to the raylet. false: its ring has no room for a single one. */
static bool hold_some(void)
{
    bool moved = false;

    for (int i = 0; i < STORE_PINS; i++) {
        bool bell = false;
        if (pin_homes[i] == NULL)
            continue;
        if (!store_client_hold(core.store, i, &bell))
            break;
        core.bell |= bell;
        *pin_homes[i] = REF_PIN_HELD;
        pin_homes[i] = NULL;
        moved = true;
    }
    return moved;
}

bool objects_pin(uint64_t place, int32_t *pin)
{
    struct waiter w = {.n_missing = 1};

    list_init(&w.node);
    *pin = REF_NO_PIN;
    while (core.store != NULL && *pin == REF_NO_PIN) { /* another thread may pin it meanwhile */
        bool bell = false;
        int i = store_client_pin(core.store, place, &bell);
        core.bell |= bell;
        if (i >= 0) {
            *pin = i;
            pin_homes[i] = pin;
            break;
        }
        if (i == -1)
            break;
        if (!hold_some()) {
            if (core.raylet->link == NULL)
                break;        /* nobody reads the ring any more */
            core.bell = true; /* the raylet reads the ring */
            objects_flush();
            peer_flush(core.raylet);
            poller_wait(&w, clock_now_ns() + LOOK_AGAIN_NS, NULL, 0);
            poller_leave();
        }
    }
    return *pin != REF_NO_PIN;
}

void objects_unpin(uint64_t place, int32_t *pin)
{
    bool bell = false;

    if (core.store == NULL || *pin == REF_NO_PIN)
        return;
    if (*pin == REF_PIN_HELD) {
        if (!store_client_unhold(core.store, place, &bell))
            send_record(&(struct store_record){.kind = STORE_UNHOLD, .place = place});
    } else {
        pin_homes[*pin] = NULL;
        bell = store_client_unpin(core.store, *pin);
    }
    *pin = REF_NO_PIN;
    core.bell |= bell;
}
