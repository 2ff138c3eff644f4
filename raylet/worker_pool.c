/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_pool.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

struct pooled {
    struct list node; /* of its state's list, the one longest there last */
    uint64_t token, since_ms;
    enum worker_state state;
    bool may_stay; /* EXITING: if it says so */
};

struct worker_pool {
    struct worker_pool_config config;
    struct list all[WORKER_EXITING + 1];
    unsigned n[WORKER_EXITING + 1];
    unsigned n_wanted, n_prestart, n_failed; /* failed starts in a row */
    uint64_t last_token;
    bool draining;
};

static void add(struct worker_pool_actions *out, enum worker_pool_kind kind, uint64_t token)
{
    if (out->n == out->room) {
        out->room = out->room == 0 ? 32 : 2 * out->room;
        out->v = xrealloc(out->v, out->room * sizeof *out->v);
    }
    out->v[out->n++] = (struct worker_pool_action){.kind = kind, .token = token};
}

struct worker_pool *worker_pool_create(const struct worker_pool_config *config)
{
    struct worker_pool *p = xcalloc(1, sizeof *p);

    p->config = *config;
    for (int s = 0; s <= WORKER_EXITING; s++)
        list_init(&p->all[s]);
    return p;
}

void worker_pool_destroy(struct worker_pool *p)
{
    if (p == NULL)
        return;
    for (int s = 0; s <= WORKER_EXITING; s++)
        list_for_each_safe(n, &p->all[s]) free(list_entry(n, struct pooled, node));
    free(p);
}

static struct pooled *find(const struct worker_pool *p, uint64_t token)
{
    for (int s = 0; s <= WORKER_EXITING; s++)
        list_for_each(n, &p->all[s])
        {
            struct pooled *w = list_entry(n, struct pooled, node);
            if (w->token == token)
                return w;
        }
    return NULL;
}

static void set_state(struct worker_pool *p,
                      struct pooled *w,
                      enum worker_state to,
                      uint64_t now_ms)
{
    static const bool legal[WORKER_EXITING + 1][WORKER_EXITING + 1] = {
        [WORKER_STARTING] = {[WORKER_IDLE] = true, [WORKER_EXITING] = true},
        [WORKER_IDLE] = {[WORKER_LEASED] = true, [WORKER_EXITING] = true},
        [WORKER_LEASED] = {[WORKER_IDLE] = true},
        [WORKER_EXITING] = {[WORKER_IDLE] = true},
    };

    ASSERT(legal[w->state][to]); /* INV-10 */
    list_remove(&w->node);
    p->n[w->state]--;
    w->state = to;
    w->since_ms = now_ms;
    p->n[to]++;
    list_push(&p->all[to], &w->node);
}

static struct worker_view view(const struct worker_pool *p)
{
    return (struct worker_view){.n_starting = p->n[WORKER_STARTING],
                                .n_idle = p->n[WORKER_IDLE],
                                .n_leased = p->n[WORKER_LEASED],
                                .n_exiting = p->n[WORKER_EXITING],
                                .n_wanted = p->n_wanted,
                                .n_prestart = p->n_prestart};
}

static struct pooled *longest_in(const struct worker_pool *p, enum worker_state s)
{
    return p->n[s] > 0 ? list_entry(p->all[s].prev, struct pooled, node) : NULL;
}

static void fail_requests(struct worker_pool *p, struct worker_pool_actions *out)
{
    p->n_wanted = p->n_prestart = p->n_failed = 0;
    add(out, WORKER_POOL_FAIL, 0);
}

static void spawn(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out)
{
    struct pooled *w = xcalloc(1, sizeof *w);

    w->token = ++p->last_token;
    w->since_ms = now_ms;
    w->state = WORKER_STARTING;
    p->n[WORKER_STARTING]++;
    list_push(&p->all[WORKER_STARTING], &w->node);
    add(out, WORKER_POOL_SPAWN, w->token);
}

static void tell_to_end(struct worker_pool *p,
                        struct pooled *w,
                        uint64_t now_ms,
                        struct worker_pool_actions *out)
{
    enum worker_pool_kind how = w->state == WORKER_STARTING ? WORKER_POOL_KILL : WORKER_POOL_EXIT;

    set_state(p, w, WORKER_EXITING, now_ms);
    w->may_stay = false;
    add(out, how, w->token);
}

/* The only place that matches requests to idle workers and starts new ones. */
static void pump(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out)
{
    if (p->draining) {
        if (p->n_wanted > 0)
            fail_requests(p, out);
        for (struct pooled *w; (w = longest_in(p, WORKER_IDLE)) != NULL;)
            tell_to_end(p, w, now_ms, out);
        return;
    }
    if (worker_policy_gives_up(p->n_failed))
        fail_requests(p, out);
    while (p->n_wanted > 0 && p->n[WORKER_IDLE] > 0) {
        struct pooled *w = list_entry(p->all[WORKER_IDLE].next, struct pooled, node);
        set_state(p, w, WORKER_LEASED, now_ms);
        p->n_wanted--;
        add(out, WORKER_POOL_GRANT, w->token);
    }
    struct worker_view v = view(p);
    for (unsigned k = worker_policy_n_to_start(&p->config, &v); k > 0; k--)
        spawn(p, now_ms, out);
}

void worker_pool_request(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out)
{
    p->n_wanted++;
    pump(p, now_ms, out);
}

void worker_pool_cancel(struct worker_pool *p)
{
    if (p->n_wanted > 0)
        p->n_wanted--;
}

void worker_pool_prestart(struct worker_pool *p,
                          unsigned n,
                          uint64_t now_ms,
                          struct worker_pool_actions *out)
{
    p->n_prestart = n;
    pump(p, now_ms, out);
}

bool worker_pool_on_registered(struct worker_pool *p,
                               uint64_t token,
                               uint64_t now_ms,
                               struct worker_pool_actions *out)
{
    struct pooled *w = find(p, token);

    if (w == NULL || w->state != WORKER_STARTING)
        return false;
    p->n_failed = 0;
    if (p->n_prestart > 0)
        p->n_prestart--;
    set_state(p, w, WORKER_IDLE, now_ms);
    pump(p, now_ms, out);
    return true;
}

void worker_pool_on_exit(struct worker_pool *p,
                         uint64_t token,
                         uint64_t now_ms,
                         struct worker_pool_actions *out)
{
    struct pooled *w = find(p, token);

    if (w == NULL)
        return;
    if (w->state == WORKER_STARTING)
        p->n_failed++;
    p->n[w->state]--;
    list_remove(&w->node);
    free(w);
    pump(p, now_ms, out);
}

void worker_pool_release(struct worker_pool *p,
                         uint64_t token,
                         uint64_t now_ms,
                         struct worker_pool_actions *out)
{
    struct pooled *w = find(p, token);

    if (w == NULL || w->state != WORKER_LEASED)
        return;
    set_state(p, w, WORKER_IDLE, now_ms);
    pump(p, now_ms, out);
}

void worker_pool_on_stays(struct worker_pool *p,
                          uint64_t token,
                          uint64_t now_ms,
                          struct worker_pool_actions *out)
{
    struct pooled *w = find(p, token);

    if (w == NULL || w->state != WORKER_EXITING || !w->may_stay)
        return;
    set_state(p, w, WORKER_IDLE, now_ms);
    pump(p, now_ms, out);
}

static uint64_t exit_limit_ms(const struct worker_pool *p, const struct pooled *w)
{
    return w->may_stay && !p->draining ? WORKER_POOL_ANSWER_MS : WORKER_POOL_EXIT_MS;
}

void worker_pool_on_time(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out)
{
    struct worker_view v = view(p);
    unsigned surplus = worker_policy_n_surplus(&p->config, &v);

    list_for_each(n, &p->all[WORKER_EXITING])
    {
        struct pooled *w = list_entry(n, struct pooled, node);
        if (!worker_policy_is_over(w->since_ms, now_ms, exit_limit_ms(p, w)))
            continue;
        w->since_ms = now_ms;
        w->may_stay = false;
        add(out, WORKER_POOL_KILL, w->token);
    }
    for (struct pooled *w; (w = longest_in(p, WORKER_STARTING)) != NULL;) {
        if (!worker_policy_is_over(w->since_ms, now_ms, WORKER_POOL_REGISTER_MS))
            break;
        p->n_failed++;
        tell_to_end(p, w, now_ms, out);
    }
    for (struct pooled *w; surplus > 0 && (w = longest_in(p, WORKER_IDLE)) != NULL; surplus--) {
        if (!worker_policy_is_over(w->since_ms, now_ms, WORKER_POOL_IDLE_MS))
            break;
        tell_to_end(p, w, now_ms, out);
        w->may_stay = out->v[out->n - 1].may_stay = true;
    }
    pump(p, now_ms, out);
}

void worker_pool_drain(struct worker_pool *p, uint64_t now_ms, struct worker_pool_actions *out)
{
    p->draining = true;
    p->n_prestart = 0;
    for (struct pooled *w; (w = longest_in(p, WORKER_STARTING)) != NULL;)
        tell_to_end(p, w, now_ms, out);
    pump(p, now_ms, out);
}

void worker_pool_set_keep(struct worker_pool *p, unsigned keep)
{
    p->config.keep = keep;
}

uint64_t worker_pool_next_deadline(const struct worker_pool *p)
{
    struct worker_view v = view(p);
    const struct pooled *w;
    uint64_t at = UINT64_MAX;

    if ((w = longest_in(p, WORKER_STARTING)) != NULL)
        at = w->since_ms + WORKER_POOL_REGISTER_MS;
    if (worker_policy_n_surplus(&p->config, &v) > 0 && (w = longest_in(p, WORKER_IDLE)) != NULL
        && w->since_ms + WORKER_POOL_IDLE_MS < at)
        at = w->since_ms + WORKER_POOL_IDLE_MS;
    list_for_each(n, &p->all[WORKER_EXITING])
    {
        w = list_entry(n, struct pooled, node);
        if (w->since_ms + exit_limit_ms(p, w) < at)
            at = w->since_ms + exit_limit_ms(p, w);
    }
    return at;
}

void worker_pool_get_stats(const struct worker_pool *p, struct worker_pool_stats *out)
{
    *out = (struct worker_pool_stats){.n_starting = p->n[WORKER_STARTING],
                                      .n_idle = p->n[WORKER_IDLE],
                                      .n_leased = p->n[WORKER_LEASED],
                                      .n_exiting = p->n[WORKER_EXITING],
                                      .n_wanted = p->n_wanted};
}

void worker_pool_selfcheck(const struct worker_pool *p)
{
    for (int s = 0; s <= WORKER_EXITING; s++) {
        unsigned k = 0;
        list_for_each(n, &p->all[s])
        {
            const struct pooled *w = list_entry(n, struct pooled, node);
            ASSERT(w->state == (enum worker_state)s && w->token <= p->last_token
                   && find(p, w->token) == w);
            ASSERT(n->next == &p->all[s]
                   || w->since_ms >= list_entry(n->next, struct pooled, node)->since_ms
                   || s == WORKER_EXITING);
            k++;
        }
        ASSERT(k == p->n[s]);
    }
    ASSERT(p->n_wanted == 0
           || p->n[WORKER_IDLE] == 0); /* INV-5: a worker the pool can see can take a task */
}
