/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/router.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/list.h"
#include "lib/net/wire.h"

struct route {
    struct list node;
    uint32_t number, owner, worker;
    /* parts of a long message, from the owner and from the worker: of one class they never mix */
    struct frame_join joins[2][FRAME_N_CLASSES];
};

/* Parts of a long message on their way from one process to another by number. */
struct parts {
    struct list node;
    uint32_t from, to;
    struct frame_join joins[FRAME_N_CLASSES];
};

struct router {
    router_send_f send;
    void *arg;
    struct list routes, parts;
    uint32_t last;
};

struct router *router_create(router_send_f send, void *arg)
{
    struct router *r = xcalloc(1, sizeof *r);

    r->send = send;
    r->arg = arg;
    list_init(&r->routes);
    list_init(&r->parts);
    return r;
}

static void drop(struct route *route)
{
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < FRAME_N_CLASSES; c++)
            frame_join_fini(&route->joins[i][c]);
    list_remove(&route->node);
    free(route);
}

static void drop_parts(struct parts *p)
{
    for (int c = 0; c < FRAME_N_CLASSES; c++)
        frame_join_fini(&p->joins[c]);
    list_remove(&p->node);
    free(p);
}

void router_destroy(struct router *r)
{
    if (r == NULL)
        return;
    list_for_each_safe(n, &r->parts) drop_parts(list_entry(n, struct parts, node));
    list_for_each_safe(n, &r->routes) drop(list_entry(n, struct route, node));
    free(r);
}

uint32_t router_find(const struct router *r, uint32_t owner, uint32_t worker)
{
    list_for_each(n, &r->routes)
    {
        const struct route *route = list_entry(n, struct route, node);
        if (route->owner == owner && route->worker == worker)
            return route->number;
    }
    return 0;
}

uint32_t router_bind(struct router *r, uint32_t owner, uint32_t worker)
{
    uint32_t number = router_find(r, owner, worker);

    if (number > 0)
        return number;
    struct route *route = xcalloc(1, sizeof *route);
    route->number = ++r->last;
    route->owner = owner;
    route->worker = worker;
    list_append(&r->routes, &route->node);
    return route->number;
}

int router_on_frame(struct router *r, uint32_t from, const struct frame *f, struct err *err)
{
    enum frame_class class = wire_class(f->h.type);
    const uint8_t *body;
    size_t size;

    list_for_each(n, &r->routes)
    {
        struct route *route = list_entry(n, struct route, node);
        bool by_owner = route->owner == from;
        if (route->number != f->h.route || (!by_owner && route->worker != from))
            continue;
        int rc = frame_join_feed(&route->joins[by_owner ? 0 : 1][class], f, &body, &size, err);
        if (rc < 0)
            return -1;
        if (rc == 1)
            r->send(r->arg,
                    by_owner ? route->worker : route->owner,
                    class,
                    f->h.type,
                    route->number,
                    body,
                    size);
        return 0;
    }
    return 0;
}

static struct parts *find_parts(struct router *r, uint32_t from, uint32_t to)
{
    list_for_each(n, &r->parts)
    {
        struct parts *p = list_entry(n, struct parts, node);
        if (p->from == from && p->to == to)
            return p;
    }
    return NULL;
}

int router_forward(struct router *r,
                   uint32_t from,
                   uint32_t to,
                   uint32_t route,
                   const struct frame *f,
                   struct err *err)
{
    enum frame_class class = wire_class(f->h.type);
    struct parts *p = list_empty(&r->parts) ? NULL : find_parts(r, from, to);
    const uint8_t *body = f->body;
    size_t size = f->body_size;
    int rc = 1;

    if (p == NULL && (f->h.flags & FRAME_MORE) != 0) {
        p = xcalloc(1, sizeof *p);
        p->from = from;
        p->to = to;
        list_append(&r->parts, &p->node);
    }
    if (p != NULL)
        rc = frame_join_feed(&p->joins[class], f, &body, &size, err);
    if (rc == 1)
        r->send(r->arg, to, class, f->h.type, route, body, size);
    return rc < 0 ? -1 : 0;
}

void router_unbind_process(struct router *r, uint32_t slot)
{
    list_for_each_safe(n, &r->parts)
    {
        struct parts *p = list_entry(n, struct parts, node);
        if (p->from == slot || p->to == slot)
            drop_parts(p);
    }
    list_for_each_safe(n, &r->routes)
    {
        struct route *route = list_entry(n, struct route, node);
        if (route->owner != slot && route->worker != slot)
            continue;
        r->send(r->arg,
                route->owner == slot ? route->worker : route->owner,
                FRAME_CALLS, /* behind what it sent last */
                WIRE_GOODBYE,
                route->number,
                NULL,
                0);
        drop(route);
    }
}
