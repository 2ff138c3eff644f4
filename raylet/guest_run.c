/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A guest is a process of another machine that exchanges frames with one of ours:
 * a struct process without a link, on a slot behind the board's. What is sent to it goes into the
 * session of its node; what comes from it is handled as if it had come by a link. It begins with
 * the first frame that names it and ends with the word of its raylet, or with its node.
 *
 * Of a number that nobody has named yet the GCS says on which node it is; what is to go there
 * waits meanwhile. That may be a node whose news have not come here yet: then they are waited for,
 * and the GCS is asked again, which says when that node is dead.
 *
 * The classes of a session overtake each other, so what a process said last may come behind its
 * death. Numbers are never used again: those of the dead are remembered, and begin no guest.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define WAITING_MAX (4u << 20) /* bytes for a process whose node is not known yet */
#define ROUTE_FLAGS (WIRE_ROUTE_OWNER | WIRE_ROUTE_WORKER)
#define AGAIN_MS    1000 /* until the GCS is asked again about one on a node without news */
#define ASKED_MAX   20

/* A message to a guest that waits for its node. */
struct waiting {
    struct list node;
    struct peer_header h;
    enum frame_class class;
    size_t size;
    uint8_t body[];
};

/* Where is this guest? */
struct locating {
    struct process *guest;    /* NULL: nobody wants to know any more */
    struct loop_timer *again; /* of one that waits for news; NULL: the GCS is being asked */
    uint32_t node;            /* which those are about; 0: not known */
    unsigned n_asked;
};

/* --- which there are --- */

struct process *guest_run_find(const struct node *n, uint32_t number)
{
    uint64_t at = number > 0 ? word_map_get(&n->by_number, number) : 0;

    return at > 0 ? node_at(n, (uint32_t)at - 1) : NULL;
}

static void remember_dead(struct node *n, uint32_t number, const struct peer *at)
{
    n->dead[n->n_dead++ % GUESTS_DEAD] =
        (struct dead_guest){.number = number, .node = peer_number(at)};
}

/* Its raylet has said so. */
static bool is_dead(const struct node *n, uint32_t number, const struct peer *at)
{
    uint32_t count = n->n_dead < GUESTS_DEAD ? n->n_dead : GUESTS_DEAD, node = peer_number(at);

    for (uint32_t i = 0; i < count; i++)
        if (n->dead[i].number == number && n->dead[i].node == node)
            return true;
    return false;
}

/* The first that is free; GUESTS_MAX: none. */
static uint32_t find_slot(const struct node *n)
{
    for (uint32_t w = 0; w < GUESTS_MAX / 64; w++)
        if (n->guest_slots[w] != UINT64_MAX)
            return 64 * w + (uint32_t)__builtin_ctzll(~n->guest_slots[w]);
    return GUESTS_MAX;
}

static struct process *make(struct node *n, uint32_t number, struct peer *at)
{
    uint32_t i = find_slot(n);

    if (i == GUESTS_MAX || number == 0 || number > WIRE_ROUTE_NUMBER
        || (at != NULL && is_dead(n, number, at)))
        return NULL;
    if (i == n->guests_room) {
        uint32_t room = i > 0 ? 2 * i : 64;
        struct process **v = try_alloc(n->guests, room * sizeof *v);
        if (v == NULL)
            return NULL;
        n->guests = v;
        n->guests_room = room;
    }
    struct process *g = node_make_process(n, BOARD_SLOTS + i);
    g->number = number;
    g->is_guest = true;
    g->at = at;
    n->guests[i] = g;
    n->guest_slots[i / 64] |= 1ull << i % 64;
    if (i == n->n_guests)
        n->n_guests++;
    word_map_set(&n->by_number, number, g->slot + 1);
    return g;
}

static void drop_waiting(struct process *g)
{
    list_for_each_safe(m, &g->waiting) free(list_entry(m, struct waiting, node));
    list_init(&g->waiting);
    g->n_waiting_bytes = 0;
}

static void stop_locating(struct process *g)
{
    struct locating *l = g->locating;

    g->locating = NULL;
    if (l == NULL)
        return;
    l->guest = NULL;
    if (l->again == NULL)
        return; /* it ends with the answer */
    loop_timer_end(l->again);
    free(l);
}

void guest_run_end(struct process *g)
{
    struct node *n = g->node;
    struct wire_process_dead w = {.process = g->number};
    uint32_t i = g->slot - BOARD_SLOTS;

    ASSERT(g->is_guest);
    if (g->job != NULL) {
        lease_run(n, 0, NULL); /* what is decided for it must not reach the next one on its slot */
        lease_owner_died(n->leases, g->slot, loop_now_ms(), &n->lease_actions);
    }
    for (uint32_t s = 0; s < n->n_slots; s++)
        if (n->processes[s] != NULL && (g->talked[s / 64] >> s % 64 & 1) != 0)
            node_send(n->processes[s], WIRE_PROCESS_DEAD, &w, sizeof w);
    store_owner_gone(n->store, g->number, loop_now_ms(), &n->store_actions);
    if (n->transfer != NULL)
        transfer_owner_gone(n->transfer, g->number);
    router_unbind_process(n->router, g->slot);
    if (g->job != NULL && g->job->driver == g)
        g->job->driver = NULL;
    drop_waiting(g);
    stop_locating(g);
    word_map_set(&n->by_number, g->number, 0);
    n->guests[i] = NULL;
    n->guest_slots[i / 64] &= ~(1ull << i % 64);
    while (n->n_guests > 0 && n->guests[n->n_guests - 1] == NULL)
        n->n_guests--;
    g->magic = 0;
    free(g);
}

/* --- to a guest --- */

void guest_run_send(struct process *g,
                    enum frame_class class,
                    uint8_t type,
                    uint32_t route,
                    const void *body,
                    size_t size)
{
    uint32_t from = route & WIRE_ROUTE_NUMBER;
    const struct process *p = g->job == NULL && from > 0 ? guest_run_find(g->node, from) : g;
    struct peer_header h = {.to = g->number,
                            .from = from,
                            .type = type,
                            .route = route & ROUTE_FLAGS,
                            .job = p != NULL && p->job != NULL ? p->job->number : 0};

    if (g->at != NULL) {
        peers_send(g->at, class, &h, body, size);
        return;
    }
    struct waiting *w =
        g->n_waiting_bytes + size <= WAITING_MAX ? try_alloc(NULL, sizeof *w + size) : NULL;
    if (w == NULL) {
        log_warn("guest", "given_up", "process=%u msg=\"too much waits for its node\"", g->number);
        guest_run_end(g); /* to who sends it is dead: nothing is lost in silence */
        return;
    }
    *w = (struct waiting){.h = h, .class = class, .size = size};
    memcpy(w->body, body, size);
    list_append(&g->waiting, &w->node);
    g->n_waiting_bytes += size;
}

static void found(struct process *g, struct peer *at)
{
    stop_locating(g);
    g->at = at;
    list_for_each(m, &g->waiting)
    {
        const struct waiting *w = list_entry(m, struct waiting, node);
        peers_send(at, w->class, &w->h, w->body, w->size);
    }
    drop_waiting(g);
}

struct process *guest_run_get(struct node *n, struct peer *at, uint32_t number)
{
    struct process *g = guest_run_find(n, number);

    if (g == NULL)
        g = make(n, number, at);
    else if (!g->is_guest || (g->at != NULL && g->at != at))
        return NULL; /* ours, or of another node: that cannot be */
    if (g != NULL && g->at == NULL)
        found(g, at);
    return g;
}

/* --- where a guest is --- */

static void on_located(void *arg, enum err_code code, const struct unique_id *id, uint32_t number);

static void locate(struct locating *l)
{
    l->n_asked++;
    gcs_client_locate(l->guest->node->gcs, l->guest->number, on_located, l);
}

static void on_again(void *arg)
{
    struct locating *l = arg;

    loop_timer_end(l->again);
    l->again = NULL;
    locate(l);
}

/* So says the GCS. */
static void on_located(void *arg, enum err_code code, const struct unique_id *id, uint32_t number)
{
    struct locating *l = arg;
    struct process *g = l->guest;

    (void)id;
    if (g == NULL || code == ERR_CANCELED) {
        if (g != NULL)
            g->locating = NULL;
        free(l);
        return;
    }
    struct node *n = g->node;
    bool is_elsewhere = code == ERR_NONE && number != n->number;
    struct peer *at = is_elsewhere ? peers_find(n->peers, number) : NULL;
    if (at == NULL && is_elsewhere && l->n_asked < ASKED_MAX) {
        l->node = number;
        l->again = loop_after(n->loop, AGAIN_MS, on_again, l);
        return;
    }
    g->locating = NULL;
    free(l);
    if (at != NULL) {
        found(g, at);
        return;
    }
    log_info("guest",
             "not_found",
             "process=%u node=%u msg=\"%s\"",
             g->number,
             number,
             is_elsewhere       ? "no news came of its node"
             : code == ERR_NONE ? "it has ended"
                                : err_code_name(code));
    guest_run_end(g);
}

void guest_run_on_node(struct node *n, struct peer *at)
{
    for (uint32_t i = 0; i < n->n_guests; i++) {
        struct process *g = n->guests[i];
        if (g != NULL && g->locating != NULL && g->locating->node == peer_number(at))
            found(g, at);
    }
}

static struct process *make_unlocated(struct node *n, uint32_t number)
{
    struct process *g = make(n, number, NULL);

    if (g == NULL)
        return NULL;
    g->locating = xcalloc(1, sizeof *g->locating);
    g->locating->guest = g;
    locate(g->locating);
    return g;
}

int guest_run_forward(struct process *from, const struct frame *f, struct err *err)
{
    struct node *n = from->node;
    uint32_t number = f->h.route & WIRE_ROUTE_NUMBER;
    struct process *g = guest_run_find(n, number);

    if (g == NULL && n->peers != NULL)
        g = make_unlocated(n, number);
    if (g == NULL || (g->job != NULL && g->job != from->job)) {
        struct wire_process_dead dead = {.process = number};
        node_send(from, WIRE_PROCESS_DEAD, &dead, sizeof dead);
        return 0;
    }
    node_talk(from, g);
    struct peer *at = g->at; /* g may end with the frame */
    int rc = router_forward(n->router,
                            from->slot,
                            g->slot,
                            (f->h.route & ROUTE_FLAGS) | from->number,
                            f,
                            err);
    if (at != NULL && !peer_has_room(at)) {
        from->is_paused = true;
        loop_want_read(from->watch, false);
    }
    return rc;
}

void guest_run_on_room(struct node *n)
{
    for (uint32_t s = 0; s < n->n_slots; s++) {
        struct process *p = n->processes[s];
        if (p == NULL || !p->is_paused)
            continue;
        p->is_paused = false;
        if (p->link == NULL)
            continue;
        loop_want_read(p->watch, true);
        node_read_on(p); /* may pause it again */
    }
}

bool guest_run_will_tell(struct process *p, uint32_t node)
{
    for (uint32_t i = 0; i < p->n_asked_nodes; i++)
        if (p->asked[i] == node)
            return false;
    p->asked = xrealloc(p->asked, (p->n_asked_nodes + 1) * sizeof *p->asked);
    p->asked[p->n_asked_nodes++] = node;
    return true;
}

void guest_run_on_dead(const struct process *p)
{
    struct node *n = p->node;
    struct peer_header h = {.type = PEER_PROCESS_DEAD};
    struct wire_process_dead w = {.process = p->number};

    n->telling++;
    for (uint32_t i = 0; i < n->n_guests; i++) {
        struct process *g = n->guests[i];
        if (g == NULL || (g->talked[p->slot / 64] >> p->slot % 64 & 1) == 0)
            continue;
        g->talked[p->slot / 64] &= ~(1ull << p->slot % 64);
        if (g->at == NULL)
            continue;
        if ((uintptr_t)peer_data(g->at) != n->telling)
            peers_send(g->at, FRAME_CALLS, &h, &w, sizeof w);
        peer_set_data(g->at, (void *)(uintptr_t)n->telling); /* who was told last */
    }
    for (uint32_t i = 0; n->peers != NULL && i < p->n_asked_nodes; i++) {
        struct peer *at = peers_find(n->peers, p->asked[i]);
        if (at != NULL && (uintptr_t)peer_data(at) != n->telling) /* it has granted nothing */
            peers_send(at, FRAME_CONTROL, &h, &w, sizeof w);
    }
}

/* --- from a guest --- */

/* Is what a raylet says of this number its to say? */
static bool is_its_own(const struct node *n, const struct peer *from, uint32_t number)
{
    const struct process *p = guest_run_find(n, number);

    return p == NULL || (p->is_guest && (p->at == NULL || p->at == from));
}

/* To who has sent this. */
static void say_dead(struct peer *to, const struct peer_header *asked)
{
    struct peer_header h = {.to = asked->from, .type = WIRE_PROCESS_DEAD, .job = asked->job};
    struct wire_process_dead w = {.process = asked->to};

    peers_send(to, FRAME_CALLS, &h, &w, sizeof w);
}

static void on_process_dead(struct node *n,
                            const struct peer *from,
                            const uint8_t *body,
                            size_t size)
{
    struct wire_process_dead w;

    if (size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    struct process *g = guest_run_find(n, w.process);
    if (!is_dead(n, w.process, from))
        remember_dead(n, w.process, from);
    if (g != NULL && g->is_guest && g->at == from)
        guest_run_end(g);
}

/* A raylet's frame for a process of ours. */
static void on_from_raylet(struct process *p,
                           struct peer *from,
                           uint8_t type,
                           const uint8_t *body,
                           size_t size)
{
    struct wire_worker_dead dead;
    struct wire_route route;

    switch (type) {
    case WIRE_LEASE_GRANT:
        if (!spill_run_on_grant(p, from, body, size))
            return;
        break;
    case WIRE_LEASE_CANCELED:
    case WIRE_LEASE_REFUSED:
        spill_run_on_answer(p, from, type, body, size);
        return;
    case WIRE_PROCESS_DEAD:
        on_process_dead(p->node, from, body, size); /* which tells p, too */
        return;
    case WIRE_ROUTE:
        if (size < sizeof route)
            return;
        memcpy(&route, body, sizeof route);
        if (!is_its_own(p->node, from, route.route & WIRE_ROUTE_NUMBER))
            return;
        break;
    case WIRE_WORKER_DEAD:
        if (size < sizeof dead)
            return;
        memcpy(&dead, body, sizeof dead);
        if (dead.lease >> LEASE_NODE_SHIFT != peer_number(from))
            return;
        break;
    case WIRE_LOG: /* a driver that does not print loses lines, not its link: they are in the file
                    */
        if (p->kind != WIRE_DRIVER || unix_link_pending(p->link) >= OUT_MAX / 2)
            return;
        break;
    default:
        return;
    }
    node_send(p, type, body, size);
}

/* What is of one job is not for another. */
static void refuse_job(struct node *n, const struct peer *from, const struct peer_header *h)
{
    n->n_other_job++;
    if ((n->n_other_job & (n->n_other_job - 1)) == 0)
        log_warn("guest",
                 "other_job",
                 "n=%u node=%u job=%u type=%u from=%u to=%u msg=\"it is of another job\"",
                 n->n_other_job,
                 peer_number(from),
                 h->job,
                 h->type,
                 h->from,
                 h->to);
}

/* For this raylet. */
static void on_own(struct node *n,
                   struct peer *from,
                   const struct peer_header *h,
                   const uint8_t *body,
                   size_t size)
{
    struct process *g = guest_run_find(n, h->from);
    bool is_new = g == NULL;
    uint64_t lease = 0;

    if (size >= sizeof lease)
        memcpy(&lease, body, sizeof lease);
    if (h->type == PEER_SEEK) { /* which is answered in any case */
        seek_run_on_asked(n, from, h, body, size);
        return;
    }
    if (h->type == PEER_SPILL)
        g = guest_run_get(n, from, h->from); /* whoever asks for nothing needs no entry */
    if (h->from > 0 && (g == NULL || !g->is_guest || g->at != from))
        return;
    if (g != NULL && g->job != NULL && g->job->number != h->job && h->type != PEER_SPILL) {
        refuse_job(n, from, h); /* a SPILL is answered in any case */
        return;
    }
    switch (h->type) {
    case PEER_PROCESS_DEAD:
        on_process_dead(n, from, body, size);
        break;
    case PEER_SPILL:
        if (g != NULL)
            spill_run_on_spill(g, body, size);
        if (g != NULL && is_new && g->job == NULL)
            guest_run_end(g); /* it was rejected */
        break;
    case PEER_REJECTED:
        spill_run_on_rejected(n, from, body, size);
        break;
    case WIRE_LEASE_CANCEL:
        if (g != NULL && g->job != NULL) {
            job_elsewhere_cancel(g, lease);
            spill_run_on_cancel(g, lease);
        }
        break;
    case WIRE_LEASE_RETURN:
        if (g != NULL && g->job != NULL)
            lease_return(n->leases, g->slot, lease, loop_now_ms(), &n->lease_actions);
        break;
    case PEER_FREE:
        pull_run_on_free(n, body, size);
        break;
    case PEER_FOUND:
        seek_run_on_found(n, from, body, size);
        break;
    case PEER_CALL:
        spill_run_on_call(n, body, size);
        break;
    case PEER_DATA_CALL:
        transfer_call(n->transfer, peer_number(from));
        break;
    case PEER_JOB_ASK:
    case PEER_JOB:
    case PEER_JOB_END:
        job_elsewhere_on_message(n, from, h->type, body, size);
        break;
    case PEER_SYNC_ASK:
    case PEER_SYNC_ANSWER:
        gcs_relay_on_message(n, from, h->type, body, size);
        break;
    default: /* of a newer raylet */
        break;
    }
}

/* Who is the owner for one is the worker's route for the other. */
static uint32_t swap_roles(uint32_t route)
{
    uint32_t flags = 0;

    if ((route & WIRE_ROUTE_OWNER) != 0)
        flags |= WIRE_ROUTE_WORKER;
    if ((route & WIRE_ROUTE_WORKER) != 0)
        flags |= WIRE_ROUTE_OWNER;
    return flags;
}

void guest_run_on_message(struct node *n,
                          struct peer *from,
                          const struct peer_header *h,
                          const uint8_t *body,
                          size_t size)
{
    if (h->type == 0 || h->from > WIRE_ROUTE_NUMBER)
        return; /* no frame has that type, nobody such a number */
    if (h->to == 0) {
        on_own(n, from, h, body, size);
        return;
    }
    struct process *p = guest_run_find(n, h->to);
    bool is_there = p != NULL && !p->is_guest && p->welcomed && p->link != NULL;
    if (is_there && p->job->number != h->job) {
        refuse_job(n, from, h);
        is_there = false;
    }
    if (h->from == 0) {
        if (is_there)
            on_from_raylet(p, from, h->type, body, size);
        return;
    }
    struct process *g = is_there ? guest_run_get(n, from, h->from) : NULL;
    if (is_there && g == NULL)
        return;
    if (g != NULL && g->job == NULL)
        g->job = p->job;
    if (g == NULL || g->job != p->job) {
        say_dead(from, h);
        return;
    }
    /* those are between a process and its raylet, and nobody else's to say */
    if (wire_is_raylets(h->type))
        return;
    node_talk(p, g);
    node_send_routed(p,
                     wire_class(h->type),
                     h->type,
                     WIRE_ROUTE_PROCESS | g->number | swap_roles(h->route),
                     body,
                     size);
}

void guest_run_forget_job(struct job *j)
{
    struct node *n = j->of;

    if (j->driver != NULL && j->driver->is_guest)
        j->driver = NULL;
    for (uint32_t i = 0; i < n->n_guests; i++)
        if (n->guests[i] != NULL && n->guests[i]->job == j)
            guest_run_end(n->guests[i]);
}

void guest_run_end_all(struct node *n, const struct peer *at)
{
    for (uint32_t i = 0; i < n->n_guests; i++)
        if (n->guests[i] != NULL && (at == NULL || n->guests[i]->at == at))
            guest_run_end(n->guests[i]);
    if (at == NULL) {
        free(n->guests);
        n->guests = NULL;
        n->guests_room = 0;
    }
}
