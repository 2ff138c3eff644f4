/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NodeSync through other nodes. Which of them reaches a GCS that this one does not is not known: it
 * is tried with the head's, which is on the same machine, and some in turn; who was the last to
 * bring an answer is asked alone. Nobody passes on what was passed on to him, nor for longer than
 * the GCS holds a call: what it hears is no older than that.
 */
#include <stdlib.h>

#include "lib/base/alloc.h"
#include "raylet/node_private.h"
#include "raylet/peer_frames.h"

#define N_IN_TURN   2
#define BACKLOG_MAX (256u << 10) /* of a session: that node is not reached either */
#define ASK_MAX     (64u << 10)  /* a report has 64 resources at most */
#define PASSING_MAX 1024         /* of others, here */
#define ANSWERS_MS  10000        /* an answer that comes later was not asked for */

struct gcs_relay {
    struct node *node;
    uint32_t head, last; /* node numbers; 0: not known */
    uint32_t good;       /* who answered last, 0: nobody since it was asked */
    uint64_t asked_ms;   /* 0: never */
    unsigned n_passing;
};

/* A call for another node. */
struct passing {
    struct node *node;
    struct unique_id id;
    uint32_t number;
};

/* --- this node's word, to others --- */

/* A driver's node may be far away. */
static bool can_be_asked(const struct peer *p)
{
    return !peer_only_dials(p) && peer_backlog(p) < BACKLOG_MAX;
}

static void ask(const struct gcs_relay *r, uint32_t number, const void *bytes, size_t size)
{
    const struct peer_header h = {.type = PEER_SYNC_ASK};
    struct peer *p = number > 0 ? peers_find(r->node->peers, number) : NULL;

    if (p != NULL && can_be_asked(p))
        peers_send(p, FRAME_CONTROL, &h, bytes, size);
}

/* The next one in turn; 0: there is none. The first is another one for each node. */
static uint32_t take_turn(struct gcs_relay *r)
{
    const struct peers *peers = r->node->peers;
    const struct peer *p = r->last > 0 ? peers_find(peers, r->last) : NULL;
    struct peers_stats stats;
    uint32_t steps = 1;

    peers_stats(peers, &stats);
    if (stats.n_peers == 0)
        return 0;
    if (r->last == 0)
        steps += r->node->number % stats.n_peers;
    while (steps-- > 0)
        p = peers_next(peers, p);
    for (uint32_t more = stats.n_peers; more > 1 && !can_be_asked(p); more--)
        p = peers_next(peers, p);
    r->last = peer_number(p);
    return r->last;
}

void gcs_relay_pass_on(struct node *n, const void *bytes, size_t size)
{
    struct gcs_relay *r = n->relay;
    uint32_t first;

    if (r == NULL)
        return;
    r->asked_ms = loop_now_ms();
    if (r->good > 0 && peers_find(n->peers, r->good) != NULL) {
        ask(r, r->good, bytes, size);
        r->good = 0;
        return;
    }
    ask(r, r->head, bytes, size);
    first = take_turn(r);
    for (uint32_t i = 0, at = first; i < N_IN_TURN && at > 0; i++) {
        if (at != r->head)
            ask(r, at, bytes, size);
        if (i + 1 < N_IN_TURN && (at = take_turn(r)) == first)
            break; /* there is no other */
    }
}

static void on_answer(struct gcs_relay *r, const struct peer *from, const void *body, size_t size)
{
    if (r->asked_ms == 0 || loop_now_ms() - r->asked_ms > ANSWERS_MS)
        return;
    r->good = peer_number(from);
    gcs_client_take_passed(r->node->gcs, body, size); /* it may remove who it is from */
}

/* --- that of others --- */

static void on_passed(void *arg, const void *bytes, size_t size)
{
    struct passing *k = arg;
    struct node *n = k->node;
    const struct peer_header h = {.type = PEER_SYNC_ANSWER};
    struct peer *p = n->peers != NULL ? peers_find(n->peers, k->number) : NULL;

    n->relay->n_passing--;
    if (bytes != NULL && p != NULL && unique_id_eq(peer_node(p), &k->id)
        && size <= FRAME_MESSAGE_MAX)
        peers_send(p, FRAME_CONTROL, &h, bytes, size);
    free(k);
}

static void on_ask(struct gcs_relay *r, const struct peer *from, const void *body, size_t size)
{
    struct passing *k;

    if (size > ASK_MAX || r->n_passing >= PASSING_MAX)
        return;
    k = xmalloc(sizeof *k);
    *k = (struct passing){.node = r->node, .id = *peer_node(from), .number = peer_number(from)};
    if (gcs_client_send_for(r->node->gcs, body, size, on_passed, k) == 0)
        r->n_passing++;
    else
        free(k); /* it does not answer here either; who asks tries others */
}

/* --- the whole --- */

void gcs_relay_on_message(struct node *n,
                          const struct peer *from,
                          uint8_t type,
                          const uint8_t *body,
                          size_t size)
{
    if (n->relay == NULL)
        return;
    if (type == PEER_SYNC_ASK)
        on_ask(n->relay, from, body, size);
    else
        on_answer(n->relay, from, body, size);
}

void gcs_relay_on_node(struct node *n, const struct node_view *v)
{
    if (v->is_head)
        n->relay->head = v->number;
}

void gcs_relay_init(struct node *n)
{
    n->relay = xcalloc(1, sizeof *n->relay);
    n->relay->node = n;
}

void gcs_relay_fini(struct node *n)
{
    free(n->relay);
    n->relay = NULL;
}
