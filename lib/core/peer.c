/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/clock.h"
#include "lib/core/core_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct peer *add(struct unix_link *link, uint32_t route)
{
    struct peer *p = xcalloc(1, sizeof *p);

    p->magic = PEER_MAGIC;
    p->link = link;
    p->route = route;
    p->id = unique_id_nil();
    p->board_slot = BOARD_SLOTS;
    p->node_number = core.welcome.node_number;
    list_init(&p->dirty_node);
    list_append(&core.peers, &p->node);
    return p;
}

struct peer *peer_create(int fd, struct err *err)
{
    struct unix_link *link = unix_link_create(fd, 0);

    if (link == NULL) {
        err_set(err, ERR_NO_MEMORY, "no memory for a link");
        close(fd);
        return NULL;
    }
    struct peer *p = add(link, 0);
    poller_watch_fd(p);
    return p;
}

/* Of all routes to that process number. */
static struct credit *find_credit(uint32_t process)
{
    list_for_each(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if ((p->route & WIRE_ROUTE_PROCESS) != 0 && p->process == process && p->credit != NULL)
            return p->credit;
    }
    return NULL;
}

/* What waits for this peer is dropped. */
static void leave_credit(struct peer *p)
{
    struct credit *c = p->credit;

    p->credit = NULL;
    if (c == NULL)
        return;
    credit_forget(c, p);
    if (--c->n_users > 0)
        return;
    credit_fini(c);
    free(c);
    core.n_credits--;
}

struct peer *peer_create_routed(uint32_t route)
{
    struct credit *c = NULL;

    if ((route & WIRE_ROUTE_PROCESS) != 0)
        c = find_credit(route & WIRE_ROUTE_NUMBER);
    if (c == NULL) {
        c = xmalloc(sizeof *c);
        credit_init(c);
        core.n_credits++;
    }
    struct peer *p = add(core.raylet->link, route);
    p->credit = c;
    c->n_users++;
    if ((route & WIRE_ROUTE_PROCESS) != 0) {
        p->process = route & WIRE_ROUTE_NUMBER;
        p->as_owner = (route & WIRE_ROUTE_OWNER) != 0;
        p->node_number = NODE_UNKNOWN;
    }
    return p;
}

struct peer *peer_on_route(uint32_t route)
{
    list_for_each(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->route == route && p->link != NULL)
            return p;
    }
    return peer_create_routed(route);
}

struct peer *peer_find(const struct unique_id *id, bool as_owner)
{
    uint32_t role = as_owner ? WIRE_ROUTE_OWNER : WIRE_ROUTE_WORKER;
    struct peer *found = NULL;

    list_for_each(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->is_raylet || p->link == NULL || p->leaving || !unique_id_eq(&p->id, id)
            || ((p->route & WIRE_ROUTE_PROCESS) != 0 && (p->route & role) == 0))
            continue;
        if (found == NULL || p->as_owner == as_owner || found->as_owner != as_owner)
            found = p;
    }
    return found;
}

static void say_goodbye(struct peer *p)
{
    if (peer_send(p, WIRE_GOODBYE, NULL, 0) == 0)
        p->said_goodbye = true;
    else if (p->link != NULL)
        peer_end(p, &(struct err){.code = ERR_FULL, .text = "no memory to say goodbye"});
}

void peer_leave(struct peer *p)
{
    p->leaving = true;
    if (p->n_leases == 0 && p->link != NULL && !p->said_goodbye)
        say_goodbye(p);
}

/* On a route: that process is gone. On a direct channel: nothing comes after it; the owner's is
 * answered. */
static void on_goodbye(struct peer *p)
{
    p->heard_goodbye = p->leaving = true;
    if (p->said_goodbye || p->route > 0 || p->is_raylet || p->n_leases > 0 || p == core.lease_peer)
        peer_end(p, &(struct err){.code = ERR_DIED, .text = "the peer said goodbye"});
    else
        say_goodbye(p); /* and ends when that is out */
}

void peer_free(struct peer *p)
{
    if (p == NULL)
        return;
    CHECK_MAGIC(p, PEER_MAGIC);
    if (p->link != NULL && p->route == 0) {
        poller_unwatch_fd(p);
        unix_link_destroy(p->link);
    }
    leave_credit(p);
    for (size_t i = 0; i < sizeof p->join / sizeof p->join[0]; i++)
        frame_join_fini(&p->join[i]);
    list_remove(&p->dirty_node);
    list_remove(&p->node);
    for (unsigned i = 0; i < p->n_known; i++)
        free(p->known[i]);
    free(p->known);
    free(p->templates);
    p->magic = 0;
    free(p);
}

void peer_sweep(void)
{
    if (!core.peers_ended)
        return;
    core.peers_ended = false;
    list_for_each_safe(n, &core.peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->link == NULL && !p->is_raylet && p->n_leases == 0 && p != core.lease_peer)
            peer_free(p);
    }
}

/* The link has ended. The peer stays while leases and pushes point to it. */
void peer_end(struct peer *p, const struct err *why)
{
    if (p->link == NULL)
        return;
    list_remove(&p->dirty_node);
    p->dirty = false;
    if (p->route == 0) {
        poller_unwatch_fd(p);
        unix_link_destroy(p->link);
    }
    p->link = NULL;
    leave_credit(p);
    core.peers_ended = true;
    if (!p->is_raylet) {
        owner_on_channel_lost(p, why);
        worker_on_owner_lost(p);
        return;
    }
    core.lost = *why;
    if (why->code == ERR_DIED && core.connected)
        err_set(&core.lost,
                ERR_DIED,
                "its link ended, so it died or was killed; begin anew with ray_shutdown and "
                "ray_init");
    if (core.gave_up)
        err_set(&core.lost,
                ERR_NO_MEMORY,
                "no memory for a message of this program: submit less at once, or raise the limit "
                "(ulimit -v)");
    core.gave_up = false;
    list_for_each(n, &core.peers)
    {
        struct peer *q = list_entry(n, struct peer, node);
        if (q->route > 0)
            q->link = NULL;
    }
    if (core.worker && core.lost.code == ERR_NO_MEMORY) {
        fprintf(stderr, "ray: %s\n", core.lost.text);
        _exit(1);
    }
    if (core.worker)
        _exit(0); /* the node is gone and with it the job (INV-7) */
    owner_on_raylet_lost();
}

/* On a route of a process number, only a lease's owner says what owners say, and its worker what
 * workers do. */
static bool is_of_role(const struct peer *p, uint8_t type)
{
    if ((p->route & WIRE_ROUTE_PROCESS) == 0 || type < WIRE_TEMPLATE
        || type > WIRE_OWNER_LEASE_ENDED)
        return true;
    return (p->route & (type <= WIRE_TAKE_BACK ? WIRE_ROUTE_WORKER : WIRE_ROUTE_OWNER)) != 0;
}

static void mark_dirty(struct peer *p)
{
    if (p->route > 0)
        p = core.raylet;
    if (!p->dirty) {
        p->dirty = true;
        list_append(&core.dirty, &p->dirty_node);
    }
}

/* A frame is lost, and who waits for what it says would wait for ever: this process leaves the
 * cluster, as if the raylet had died, when its link is read next. */
static void give_up(void)
{
    if (core.raylet->link == NULL)
        return;
    core.gave_up = true;
    shutdown(unix_link_fd(core.raylet->link), SHUT_RDWR);
}

/* Whatever its allotment. */
static int send_now(struct peer *p, uint8_t type, const void *body, size_t size)
{
    if (unix_link_send(p->link, wire_class(type), type, p->route, body, size) != 0) {
        give_up();
        return -1;
    }
    mark_dirty(p);
    return 0;
}

/* Does a message of this type to or from that peer take of an allotment? */
static bool counts(const struct peer *p, uint8_t type)
{
    return p->credit != NULL && wire_class(type) != FRAME_CONTROL;
}

/* A frame of this route was read. */
static void count_read(struct peer *p, const struct frame *f)
{
    if (!credit_on_read(p->credit, f->body_size, (f->h.flags & FRAME_MORE) == 0) || p->link == NULL
        || p->said_goodbye || p->heard_goodbye)
        return;
    struct credit_given given = credit_give(p->credit, core.n_credits);
    struct wire_credit w = {.bytes = given.bytes, .allotment = given.allotment};
    peer_send(p, WIRE_CREDIT, &w, sizeof w);
}

static void on_credit(struct peer *p, const uint8_t *body, size_t size)
{
    const struct credit_message *m;
    struct credit *c = p->credit;
    struct wire_credit w;

    if (c == NULL || size < sizeof w)
        return;
    memcpy(&w, body, sizeof w);
    credit_on_given(c, w.bytes, w.allotment);
    while ((m = credit_next(c)) != NULL) {
        struct peer *to = m->to;
        if (to->link == NULL || send_now(to, m->type, m->body, m->size) != 0)
            return; /* this process leaves the cluster */
        credit_sent_next(c);
    }
}

static void handle(struct peer *p, struct frame *f)
{
    const uint8_t *body;
    size_t size;
    struct err err;
    uint8_t type = f->h.type;

    if (p->is_raylet && f->h.route > 0) {
        struct peer *target = NULL;
        list_for_each(n, &core.peers)
        {
            struct peer *q = list_entry(n, struct peer, node);
            if (q->route == f->h.route)
                target = q;
        }
        if (target == NULL && (f->h.route & WIRE_ROUTE_PROCESS) != 0)
            target = peer_create_routed(f->h.route);
        if (target == NULL) { /* bound to a process that is gone */
            if (f->fd >= 0)
                close(f->fd);
            return;
        }
        p = target;
        if (counts(p, type))
            count_read(p, f);
    }
    /* a type that we never asked for; after the last word; not the peer's to say */
    if (type >= sizeof p->join / sizeof p->join[0] || p->heard_goodbye
        || (wire_is_raylets(type) && !p->is_raylet) || !is_of_role(p, type)) {
        if (f->fd >= 0)
            close(f->fd);
        return;
    }
    int rc = frame_join_feed(&p->join[type], f, &body, &size, &err);
    if (rc == 1) {
        int fd = f->fd >= 0                         ? f->fd
                 : (f->h.flags & FRAME_HAS_FD) != 0 ? -2
                                                    : -1; /* -2: lost at the fd limit */
        if (type == WIRE_GOODBYE)
            on_goodbye(p);
        else if (type == WIRE_CREDIT)
            on_credit(p, body, size);
        else if ((type >= WIRE_TEMPLATE && type <= WIRE_TAKE_BACK) || type == WIRE_LEASE_BEGIN
                 || type == WIRE_LEASE_REVOKE || type == WIRE_EXIT)
            worker_on_frame(p, type, body, size, fd);
        else
            owner_on_frame(p, type, body, size, fd);
    } else if (rc < 0) {
        peer_end(p, &err);
    }
}

bool peer_read(struct peer *p)
{
    struct frame f;
    struct err err = {0};
    struct unix_link *link = p->link;
    long n = unix_link_read(link, &err);
    int rc = 0;

    core.counters.reads++;
    core.read_ns = clock_now_ns();
    while (p->link == link && (rc = unix_link_next(link, &f, &err)) == 1)
        handle(p, &f);
    if (p->link == link && (n < 0 || rc < 0))
        peer_end(p, &err);
    return n > 0;
}

void *peer_reserve(struct peer *p, uint8_t type, size_t size)
{
    p->reserved_counts = counts(p, type);
    p->reserved_waits = p->reserved_counts && credit_waits(p->credit);
    void *body = p->reserved_waits
                     ? credit_reserve(p->credit, p, type, size)
                     : unix_link_reserve(p->link, wire_class(type), type, p->route, size);

    if (body == NULL)
        give_up();
    return body;
}

void peer_commit(struct peer *p, size_t size)
{
    peer_commit_fd(p, size, -1);
}

void peer_commit_fd(struct peer *p, size_t size, int fd)
{
    if (p->reserved_waits) {
        ASSERT(fd < 0); /* none goes over a route */
        credit_keep(p->credit, size);
        return;
    }
    if (p->reserved_counts)
        credit_spend(p->credit, size);
    unix_link_commit(p->link, size, fd);
    mark_dirty(p);
}

int peer_send(struct peer *p, uint8_t type, const void *body, size_t size)
{
    if (p->link == NULL)
        return -1;
    ASSERT(!p->said_goodbye);
    if (!counts(p, type))
        return send_now(p, type, body, size);
    if (!credit_waits(p->credit)) {
        credit_spend(p->credit, size);
        return send_now(p, type, body, size);
    }
    void *room = credit_reserve(p->credit, p, type, size);
    if (room == NULL) {
        give_up();
        return -1;
    }
    if (size > 0)
        memcpy(room, body, size);
    credit_keep(p->credit, size);
    return 0;
}

void peer_flush(struct peer *p)
{
    struct err err = {0};

    if (p->route > 0)
        p = core.raylet;
    if (p->link == NULL || !p->dirty)
        return;
    core.counters.writes++;
    int rc = unix_link_flush(p->link, &err);
    p->n_unsent = 0;
    if (rc < 0) {
        /* What the peer sent before it went is still to be read; reading finds the end. */
        p->dirty = false;
        list_remove(&p->dirty_node);
        return;
    }
    bool wants = rc == 0;
    if (!wants) {
        p->dirty = false;
        list_remove(&p->dirty_node);
    }
    if (wants != p->wants_write) {
        p->wants_write = wants;
        poller_watch_fd(p);
    }
    if (!wants && p->said_goodbye && p->heard_goodbye)
        peer_end(p, &(struct err){.code = ERR_DIED, .text = "we said goodbye"});
}

void peer_flush_all(void)
{
    objects_flush();
    list_for_each_safe(n, &core.dirty) peer_flush(list_entry(n, struct peer, dirty_node));
    worker_end_late_lease();
    core.oldest_reply_ns = 0;
}
