/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A peer has a session for life and at most one stream. Whoever has something to
 * send dials; the first message of each side, the hello, says who it is, whom it means and which
 * block of the session it expects next; then both resume. A stream that came in has no peer before
 * its hello was found right.
 *
 * Dials cross: each numbers its dials, and a hello says which dial of the other it has seen last.
 * One that has not seen the dial that we wait for, or that made the stream we have, crossed it:
 * then the smaller node's counts and the other is refused. Any other hello is from a node that knew
 * all of ours and dials since its stream broke: it takes the place of the stream we have. A hello
 * of a dial that is not newer than one we know of was given up by its sender. So a side takes
 * messages from one stream at a time, and what a hello expects is still true when it is taken.
 *
 * A node that nobody can dial (a driver's, behind whatever firewall) dials whom it talks to, or is
 * told to by peers_call, and again after each break, whether or not it has something to send; such
 * a stream is not idle for either side.
 */
#include "raylet/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/net/link_session.h"
#include "lib/net/rpc_client.h"
#include "lib/net/rpc_stream.h"
#include "raylet/peer_hello.h"

#define PATH           "/ray.c.Node/Session"
#define BACKOFF_MS     20 /* the first; each is twice the one before ... */
#define BACKOFF_MAX_MS 1000
#define CROSSED_MS     500 /* a dial of ours that takes longer is not waited for */
#define ACK_MS         20  /* until what arrived is acknowledged, or so many bytes: */
#define ACK_BYTES      (64u << 10)
#define IS_DEAD        "this node was declared dead" /* to who was */
#define N_BUCKETS      256
#define N_REMOVED      4096 /* dead nodes that are remembered */
#define N_STRANGERS    1024 /* streams without a hello */
#define N_CALLS        4096 /* of nodes that are not known yet */

enum peer_state {
    PEER_IDLE,     /* no stream; perhaps waiting to dial again */
    PEER_DIALING,  /* our hello is not answered */
    PEER_ATTACHED, /* the session has the stream */
};

struct peer {
    unsigned magic;
    struct peers *peers;
    struct list node, dirty, owing;
    struct peer *next; /* in its bucket */
    struct unique_id id;
    uint32_t number;
    char address[128]; /* as gRPC wants it; "": it is not dialled, or where it is is not known */
    bool is_kept;      /* of one that nobody dials: there is to be a stream */
    void *data;
    struct link_session *session;
    struct rpc_stream *stream;
    enum peer_state state;
    bool is_ours; /* the stream: we dialled it */
    uint64_t dial, seen;
    uint64_t dialled_ms, active_ms;
    uint32_t backoff_ms;
    struct loop_timer *redial;
    bool is_waiting, is_full, is_removed, ack_is_due;
    bool is_lost;  /* logged: it is away */
    unsigned n_in; /* callbacks that run */
    char refusal[200];
};
#define PEER_MAGIC 0x50454531u

/* A stream that came in, until its hello. */
struct stranger {
    unsigned magic;
    struct list node;
    struct peers *peers;
    struct rpc_stream *stream;
    uint64_t born_ms;
};
#define STRANGER_MAGIC 0x53545247u

struct peers {
    unsigned magic;
    struct peers_config config;
    struct auth_token token;
    char cluster_hex[ID_HEX_MAX], build[32];
    struct peer *buckets[N_BUCKETS]; /* by number */
    struct list all, dirty, owing, strangers;
    unsigned n_peers, n_strangers;
    struct unique_id removed[N_REMOVED]; /* a ring */
    uint64_t n_removed;
    uint32_t calls[N_CALLS]; /* a ring of numbers, 0: none */
    uint64_t n_calls;
    struct unique_id refused; /* the last one that is no peer, and why: */
    char refusal[200];
    struct loop_timer *tick, *ack;
    bool ack_is_set;
    uint64_t n_dials, n_breaks, n_refused;
};
#define PEERS_MAGIC 0x50525353u

static const struct rpc_stream_ops ops;
static const struct rpc_stream_ops stranger_ops;

/* --- who is there --- */

struct peer *peers_find(const struct peers *ps, uint32_t number)
{
    struct peer *p = ps->buckets[number % N_BUCKETS];

    while (p != NULL && p->number != number)
        p = p->next;
    return p;
}

static bool was_removed(const struct peers *ps, const struct unique_id *id)
{
    uint64_t n = ps->n_removed < N_REMOVED ? ps->n_removed : N_REMOVED;

    for (uint64_t i = 0; i < n; i++)
        if (unique_id_eq(&ps->removed[i], id))
            return true;
    return false;
}

static void on_message(void *arg, enum frame_class class, const uint8_t *bytes, size_t size)
{
    struct peer *p = arg;
    struct peer_header h;

    (void)class;
    CHECK_MAGIC(p, PEER_MAGIC);
    if (size < sizeof h) {
        log_warn("peer", "garbage", "number=%u size=%zu", p->number, size);
        return;
    }
    memcpy(&h, bytes, sizeof h);
    p->peers->config.on_message(p->peers->config.arg, p, &h, bytes + sizeof h, size - sizeof h);
}

static struct peer *create_peer(struct peers *ps, const struct unique_id *id, uint32_t number)
{
    struct peer *p = xcalloc(1, sizeof *p);

    p->magic = PEER_MAGIC;
    p->peers = ps;
    p->id = *id;
    p->number = number;
    p->backoff_ms = BACKOFF_MS;
    p->session = link_session_create(on_message, p);
    list_init(&p->dirty);
    list_init(&p->owing);
    list_append(&ps->all, &p->node);
    p->next = ps->buckets[number % N_BUCKETS];
    ps->buckets[number % N_BUCKETS] = p;
    ps->n_peers++;
    return p;
}

static void mark_dirty(struct peer *p)
{
    if (list_empty(&p->dirty))
        list_append(&p->peers->dirty, &p->dirty);
}

struct peer *peers_add(struct peers *ps,
                       const struct unique_id *node,
                       uint32_t number,
                       const char *address,
                       int port)
{
    struct peer *p = peers_find(ps, number);
    char at[sizeof p->address];

    CHECK_MAGIC(ps, PEERS_MAGIC);
    if (p != NULL ? !unique_id_eq(&p->id, node) : was_removed(ps, node))
        return NULL;
    if (p == NULL)
        p = create_peer(ps, node, number);
    at[0] = '\0';
    if (port != 0)
        rpc_target(address, port, at, sizeof at);
    for (uint32_t i = 0; i < N_CALLS && i < ps->n_calls; i++)
        if (ps->calls[i] == number) {
            ps->calls[i] = 0;
            p->is_kept = true;
        }
    if (strcmp(at, p->address) != 0) { /* dialled there at once */
        memcpy(p->address, at, strlen(at) + 1);
        p->is_waiting = false;
        p->backoff_ms = BACKOFF_MS;
    }
    mark_dirty(p);
    return p;
}

/* Nobody can dial this node: the other side may have something for it at any time. */
static void keep(struct peer *p)
{
    p->is_kept = p->peers->config.server == NULL;
}

void peers_call(struct peers *ps, uint32_t number)
{
    struct peer *p = peers_find(ps, number);

    if (ps->config.server != NULL)
        return;
    if (p == NULL) {
        ps->calls[ps->n_calls++ % N_CALLS] = number;
        return;
    }
    keep(p);
    mark_dirty(p);
}

bool peer_only_dials(const struct peer *p)
{
    return p->address[0] == '\0';
}

/* It was removed, and none of its callbacks runs. */
static void free_peer(struct peer *p)
{
    link_session_destroy(p->session);
    loop_timer_end(p->redial);
    p->magic = 0;
    free(p);
}

/* Around all that may run a callback. */
static void enter(struct peer *p)
{
    p->n_in++;
}

/* Whether it is still there. */
static bool leave(struct peer *p)
{
    if (--p->n_in > 0 || !p->is_removed)
        return !p->is_removed;
    free_peer(p);
    return false;
}

/* The stream is nobody's; the session waits for another. */
static void let_go(struct peer *p, enum err_code code, const char *text)
{
    rpc_stream_close(p->stream, code, text);
    p->stream = NULL;
    p->state = PEER_IDLE;
    link_session_break(p->session);
    list_remove(&p->owing);
    p->ack_is_due = false;
}

static void remove_peer(struct peer *p, enum err_code code, const char *text)
{
    struct peers *ps = p->peers;
    struct peer **at = &ps->buckets[p->number % N_BUCKETS];

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    ps->n_peers--;
    let_go(p, code, text);
    link_session_end(p->session);
    list_remove(&p->node);
    list_remove(&p->dirty);
    loop_timer_end(p->redial);
    p->redial = NULL;
    p->is_removed = true;
    if (p->n_in == 0)
        free_peer(p);
}

void peers_remove(struct peers *ps, struct peer *p)
{
    CHECK_MAGIC(p, PEER_MAGIC);
    ASSERT(!p->is_removed);
    ps->removed[ps->n_removed++ % N_REMOVED] = p->id;
    remove_peer(p, ERR_DIED, IS_DEAD);
}

/* --- refusals --- */

/* Logged and told, once for each reason in turn. */
static void tell_refusal(struct peers *ps,
                         struct peer *p,
                         const struct unique_id *id,
                         const char *from,
                         const struct err *why)
{
    char hex[ID_HEX_MAX], text[sizeof ps->refusal], *last = p != NULL ? p->refusal : ps->refusal;

    snprintf(text, sizeof text, "%.*s", (int)sizeof text - 1, why->text);
    if (strcmp(last, text) == 0 && (p != NULL || unique_id_eq(&ps->refused, id)))
        return;
    memcpy(last, text, sizeof text);
    if (p == NULL)
        ps->refused = *id;
    log_warn("peer",
             "refused",
             "node=%s from=%s msg=\"%s\"",
             id_hex(id->bytes, sizeof id->bytes, hex),
             from,
             why->text);
    if (ps->config.on_refused != NULL)
        ps->config.on_refused(ps->config.arg, id, why);
}

/* --- dialling --- */

static struct peer_hello make_hello(const struct peer *p)
{
    struct peer_hello h = {.magic = PEER_HELLO_MAGIC,
                           .protocol = PEER_PROTOCOL,
                           .cluster = p->peers->config.cluster,
                           .from = p->peers->config.node,
                           .to = p->id,
                           .number = p->peers->config.number,
                           .dial = p->dial,
                           .seen = p->seen,
                           .expects = link_session_expects(p->session)};

    memcpy(h.build, p->peers->build, sizeof h.build);
    return h;
}

static void write_hello(struct peer *p)
{
    struct peer_hello h = make_hello(p);
    const struct iovec piece = {.iov_base = &h, .iov_len = sizeof h};

    rpc_stream_write(p->stream, &piece, 1);
}

static void dial(struct peer *p)
{
    struct peers *ps = p->peers;

    p->dial++;
    ps->n_dials++;
    p->dialled_ms = loop_now_ms();
    p->state = PEER_DIALING;
    p->is_ours = true;
    p->stream = rpc_stream_dial(&(struct rpc_dial){.bridge = ps->config.bridge,
                                                   .address = p->address,
                                                   .path = PATH,
                                                   .token = &ps->token,
                                                   .cluster_hex = ps->cluster_hex,
                                                   .keepalive_ms = ps->config.keepalive_ms},
                                &ops,
                                p);
    write_hello(p);
}

static void on_redial(void *arg)
{
    struct peer *p = arg;

    CHECK_MAGIC(p, PEER_MAGIC);
    p->is_waiting = false;
    mark_dirty(p);
}

static void wait_to_dial(struct peer *p)
{
    p->is_waiting = true;
    if (p->redial == NULL)
        p->redial = loop_after(p->peers->config.loop, p->backoff_ms, on_redial, p);
    else
        loop_timer_again(p->redial, p->backoff_ms);
    p->backoff_ms = 2 * p->backoff_ms < BACKOFF_MAX_MS ? 2 * p->backoff_ms : BACKOFF_MAX_MS;
}

static bool is_for_good(enum err_code code)
{
    return code != ERR_NONE && code != ERR_AWAY && code != ERR_TIMEOUT && code != ERR_CANCELED
           && code != ERR_EXISTS && code != ERR_FULL && code != ERR_SYSTEM;
}

/* --- a stream ends --- */

static void on_end(void *arg, const struct err *why)
{
    struct peer *p = arg;
    struct peers *ps = p->peers;

    CHECK_MAGIC(p, PEER_MAGIC);
    /* Its first failure; that the other side closed an idle stream is none. */
    bool is_news = p->backoff_ms == BACKOFF_MS && why->code != ERR_NONE && why->code != ERR_EXISTS
                   && (p->is_ours || link_session_backlog(p->session) > 0);
    p->is_lost = p->is_lost || is_news;
    LOG_AT(is_news ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
           "peer",
           p->state == PEER_ATTACHED ? "break" : "away",
           "number=%u address=%s msg=\"%s\"",
           p->number,
           p->address,
           why->text);
    /* In mid-session gRPC says so itself. */
    bool is_refusal =
        is_for_good(why->code) && (p->state == PEER_DIALING || why->code != ERR_PROTOCOL);
    ps->n_breaks += p->state == PEER_ATTACHED && why->code != ERR_NONE;
    let_go(p, ERR_NONE, "");
    wait_to_dial(p);
    enter(p);
    if (is_refusal)
        tell_refusal(ps, p, &p->id, p->address, why);
    if (why->code == ERR_DIED && strcmp(why->text, IS_DEAD) == 0 && ps->config.on_dead != NULL)
        ps->config.on_dead(ps->config.arg, p);
    leave(p);
}

/* What it says cannot be: the stream is cut. */
static void cut(struct peer *p, const struct err *why)
{
    log_warn("peer", "cut", "number=%u msg=\"%s\"", p->number, why->text);
    p->peers->n_breaks += p->state == PEER_ATTACHED;
    let_go(p, why->code, why->text);
    p->backoff_ms = BACKOFF_MAX_MS; /* the next one may be no better */
    wait_to_dial(p);
}

/* --- a stream begins --- */

/* The session goes on with this stream, whose other end expects that. */
static int attach(struct peer *p, uint64_t expects, struct err *err)
{
    if (link_session_resume(p->session, expects, err) != 0)
        return err_prefix(err, "the session with node %u cannot go on", p->number);
    p->state = PEER_ATTACHED;
    keep(p);
    p->active_ms = loop_now_ms();
    p->backoff_ms = BACKOFF_MS;
    p->refusal[0] = '\0';
    LOG_AT(p->is_lost ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
           "peer",
           "attached",
           "number=%u by=%s dial=%" PRIu64 " backlog=%zu",
           p->number,
           p->is_ours ? "us" : "them",
           p->is_ours ? p->dial : p->seen,
           link_session_backlog(p->session));
    p->is_lost = false;
    mark_dirty(p);
    return 0;
}

/* The answer to ours. */
static void take_answer(struct peer *p, const uint8_t *bytes, size_t size)
{
    struct peer_hello h;
    struct err err;

    if (peer_hello_read(bytes, size, &p->peers->config.cluster, &p->peers->config.node, &h, &err)
        == 0) {
        if (!unique_id_eq(&h.from, &p->id) || h.number != p->number)
            err_set(&err, ERR_INVALID, "another node answers at %s", p->address);
        else if (attach(p, h.expects, &err) == 0) {
            p->seen = h.dial; /* what it had dialled before is none any more */
            return;
        }
    }
    let_go(p, err.code, err.text);
    wait_to_dial(p);
    tell_refusal(p->peers, p, &p->id, p->address, &err);
}

/* Whom a hello is from; NULL: it is refused. */
static struct peer *greet(struct peers *ps, const struct peer_hello *h, struct err *err)
{
    struct peer *p = peers_find(ps, h->number);

    if (unique_id_eq(&h->from, &ps->config.node) || h->number == ps->config.number
        || (p != NULL && !unique_id_eq(&p->id, &h->from))) {
        err_set(err, ERR_INVALID, "node number %u is another node's", h->number);
        return NULL;
    }
    if (p != NULL)
        return p;
    if (was_removed(ps, &h->from)) {
        err_set(err, ERR_DIED, IS_DEAD);
        return NULL;
    }
    p = create_peer(ps, &h->from, h->number);
    enter(p);
    if (ps->config.on_peer != NULL)
        ps->config.on_peer(ps->config.arg, p);
    if (leave(p))
        return p;
    err_set(err, ERR_DIED, IS_DEAD);
    return NULL;
}

/* Its dial has crossed ours, which counts. */
static bool is_crossed(const struct peer *p, const struct peer_hello *h)
{
    if (h->dial <= p->seen)
        return true; /* it knows better by now */
    return p->stream != NULL && p->is_ours && h->seen < p->dial
           && memcmp(&p->peers->config.node, &p->id, sizeof p->id) < 0
           && (p->state == PEER_ATTACHED || loop_now_ms() - p->dialled_ms < CROSSED_MS);
}

static struct rpc_stream *end_stranger(struct stranger *g)
{
    struct rpc_stream *stream = g->stream;

    list_remove(&g->node);
    g->peers->n_strangers--;
    g->magic = 0;
    free(g);
    return stream;
}

static void stranger_on_message(void *arg, const uint8_t *bytes, size_t size)
{
    struct stranger *g = arg;
    struct peers *ps = g->peers;
    struct peer *p = NULL;
    struct peer_hello h;
    char from[64];
    struct err err;

    CHECK_MAGIC(g, STRANGER_MAGIC);
    struct rpc_stream *stream = end_stranger(g);
    if (peer_hello_read(bytes, size, &ps->config.cluster, &ps->config.node, &h, &err) == 0)
        p = greet(ps, &h, &err);
    if (p != NULL && is_crossed(p, &h)) {
        rpc_stream_close(stream, ERR_EXISTS, "dials crossed");
        return;
    }
    if (p != NULL) {
        let_go(p, ERR_EXISTS, "another stream takes its place");
        p->seen = h.dial;
        p->is_ours = false;
        if (attach(p, h.expects, &err) == 0) {
            p->stream = stream;
            rpc_stream_use(stream, &ops, p);
            write_hello(p);
            return;
        }
    }
    ps->n_refused++;
    rpc_stream_peer(stream, from, sizeof from);
    rpc_stream_close(stream, err.code, err.text);
    tell_refusal(ps, p, &h.from, from, &err);
}

static void stranger_on_room(void *arg)
{
    (void)arg; /* nothing was written */
}

static void stranger_on_end(void *arg, const struct err *why)
{
    (void)why;
    rpc_stream_close(end_stranger(arg), ERR_NONE, "");
}

static const struct rpc_stream_ops stranger_ops = {stranger_on_message,
                                                   stranger_on_room,
                                                   stranger_on_end};

static void on_accept(void *arg, struct rpc_stream *stream)
{
    struct peers *ps = arg;
    struct stranger *g = xcalloc(1, sizeof *g);

    CHECK_MAGIC(ps, PEERS_MAGIC);
    *g = (struct stranger){.magic = STRANGER_MAGIC,
                           .peers = ps,
                           .stream = stream,
                           .born_ms = loop_now_ms()};
    list_append(&ps->strangers, &g->node);
    rpc_stream_use(stream, &stranger_ops, g);
    if (++ps->n_strangers > N_STRANGERS)
        rpc_stream_close(end_stranger(g), ERR_FULL, "too many raylets come at once");
}

/* --- messages --- */

static void on_ack(void *arg)
{
    struct peers *ps = arg;

    ps->ack_is_set = false;
    list_for_each(at, &ps->owing)
    {
        struct peer *p = list_entry(at, struct peer, owing);
        p->ack_is_due = true;
        mark_dirty(p);
    }
}

/* What came is to be acknowledged, some time. */
static void owe(struct peer *p)
{
    struct peers *ps = p->peers;

    if (link_session_owes(p->session) >= ACK_BYTES) {
        p->ack_is_due = true;
        mark_dirty(p);
    }
    if (list_empty(&p->owing))
        list_append(&ps->owing, &p->owing);
    if (ps->ack_is_set)
        return;
    ps->ack_is_set = true;
    if (ps->ack == NULL)
        ps->ack = loop_after(ps->config.loop, ACK_MS, on_ack, ps);
    else
        loop_timer_again(ps->ack, ACK_MS);
}

static void stream_on_message(void *arg, const uint8_t *bytes, size_t size)
{
    struct peer *p = arg;
    struct peers *ps = p->peers;
    struct err err;

    CHECK_MAGIC(p, PEER_MAGIC);
    enter(p);
    if (p->state == PEER_DIALING) {
        take_answer(p, bytes, size);
    } else {
        int rc = link_session_take(p->session, bytes, size, &err);
        if (!p->is_removed && rc != 0)
            cut(p, &err);
        if (!p->is_removed && rc == 0) {
            p->active_ms = loop_now_ms();
            if (link_session_owes(p->session) > 0)
                owe(p);
        }
        if (!p->is_removed && p->is_full && link_session_backlog(p->session) < PEER_BACKLOG_LOW) {
            p->is_full = false;
            if (ps->config.on_room != NULL)
                ps->config.on_room(ps->config.arg, p);
        }
    }
    leave(p);
}

static void stream_on_room(void *arg)
{
    struct peer *p = arg;

    CHECK_MAGIC(p, PEER_MAGIC);
    if (p->state == PEER_ATTACHED)
        mark_dirty(p);
}

static const struct rpc_stream_ops ops = {stream_on_message, stream_on_room, on_end};

void peers_send(struct peer *p,
                enum frame_class class,
                const struct peer_header *h,
                const void *body,
                size_t size)
{
    CHECK_MAGIC(p, PEER_MAGIC);
    link_session_send(p->session, class, h, sizeof *h, body, size);
    p->is_full = p->is_full || link_session_backlog(p->session) >= PEER_BACKLOG_HIGH;
    mark_dirty(p);
}

/* All that the stream takes now. */
static void flush(struct peer *p)
{
    struct iovec pieces[LINK_SESSION_PIECES_MAX];

    if (p->state == PEER_IDLE && !p->is_waiting && p->address[0] != '\0'
        && (p->is_kept || link_session_backlog(p->session) > 0))
        dial(p);
    while (p->state == PEER_ATTACHED && rpc_stream_has_room(p->stream)) {
        int n = link_session_gather(p->session, pieces, p->ack_is_due);
        p->ack_is_due = false;
        if (n == 0)
            return;
        rpc_stream_write(p->stream, pieces, n);
        list_remove(&p->owing);
        p->active_ms = loop_now_ms();
    }
}

void peers_flush(struct peers *ps)
{
    CHECK_MAGIC(ps, PEERS_MAGIC);
    while (!list_empty(&ps->dirty)) {
        struct peer *p = list_entry(ps->dirty.next, struct peer, dirty);
        list_remove(&p->dirty);
        flush(p);
    }
}

/* --- time --- */

static void look_at(struct peer *p, uint64_t now_ms)
{
    const struct err late = {ERR_TIMEOUT, "a hello is not answered"};

    if (p->state == PEER_DIALING && now_ms - p->dialled_ms >= p->peers->config.hello_ms) {
        on_end(p, &late);
    } else if (p->state == PEER_ATTACHED && link_session_backlog(p->session) == 0
               && link_session_owes(p->session) == 0 && rpc_stream_has_room(p->stream)
               && !p->is_kept && p->address[0] != '\0'
               && now_ms - p->active_ms >= p->peers->config.idle_ms) {
        log_debug("peer", "idle", "number=%u", p->number);
        let_go(p, ERR_NONE, "idle");
    }
}

static void on_tick(void *arg)
{
    struct peers *ps = arg;
    uint64_t now_ms = loop_now_ms();

    CHECK_MAGIC(ps, PEERS_MAGIC);
    list_for_each_safe(at, &ps->all) look_at(list_entry(at, struct peer, node), now_ms);
    list_for_each_safe(at, &ps->strangers)
    {
        struct stranger *g = list_entry(at, struct stranger, node);
        if (now_ms - g->born_ms >= ps->config.hello_ms)
            rpc_stream_close(end_stranger(g), ERR_TIMEOUT, "no hello came");
    }
}

/* --- */

struct peers *peers_create(const struct peers_config *config)
{
    struct peers *ps = xcalloc(1, sizeof *ps);

    ps->magic = PEERS_MAGIC;
    ps->config = *config;
    ps->token = *config->token;
    if (ps->config.idle_ms == 0)
        ps->config.idle_ms = 60000;
    if (ps->config.hello_ms == 0)
        ps->config.hello_ms = 5000;
    id_hex(config->cluster.bytes, sizeof config->cluster.bytes, ps->cluster_hex);
    snprintf(ps->build, sizeof ps->build, "%s", config->build != NULL ? config->build : "");
    list_init(&ps->all);
    list_init(&ps->dirty);
    list_init(&ps->owing);
    list_init(&ps->strangers);
    uint32_t shortest =
        ps->config.idle_ms < ps->config.hello_ms ? ps->config.idle_ms : ps->config.hello_ms;
    ps->tick = loop_every(config->loop, shortest / 4 < 1000 ? shortest / 4 + 1 : 1000, on_tick, ps);
    if (config->server != NULL)
        rpc_server_add_stream(config->server, PATH, on_accept, ps);
    return ps;
}

void peers_destroy(struct peers *ps)
{
    if (ps == NULL)
        return;
    CHECK_MAGIC(ps, PEERS_MAGIC);
    list_for_each_safe(at, &ps->all)
        remove_peer(list_entry(at, struct peer, node), ERR_AWAY, "this raylet ends");
    list_for_each_safe(at, &ps->strangers)
        rpc_stream_close(end_stranger(list_entry(at, struct stranger, node)),
                         ERR_AWAY,
                         "this raylet ends");
    loop_timer_end(ps->tick);
    loop_timer_end(ps->ack);
    ps->magic = 0;
    free(ps);
}

size_t peer_backlog(const struct peer *p)
{
    return link_session_backlog(p->session);
}

bool peer_has_room(const struct peer *p)
{
    return !p->is_full;
}

struct peer *peers_next(const struct peers *ps, const struct peer *p)
{
    const struct list *at = p != NULL ? p->node.next : ps->all.next;

    if (at == &ps->all) /* from the last to the first */
        at = at->next;
    return at != &ps->all ? list_entry(at, struct peer, node) : NULL;
}

uint32_t peer_number(const struct peer *p)
{
    return p->number;
}

const struct unique_id *peer_node(const struct peer *p)
{
    return &p->id;
}

void peer_set_data(struct peer *p, void *data)
{
    p->data = data;
}

void *peer_data(const struct peer *p)
{
    return p->data;
}

void peers_stats(const struct peers *ps, struct peers_stats *out)
{
    *out = (struct peers_stats){.n_peers = ps->n_peers,
                                .n_dials = ps->n_dials,
                                .n_breaks = ps->n_breaks,
                                .n_refused = ps->n_refused};
    list_for_each(at, &ps->all) out->n_attached +=
        list_entry(at, struct peer, node)->state == PEER_ATTACHED;
}
