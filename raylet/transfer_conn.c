/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the data port: who comes and who is dialled, until the token is proven; then they
 * are the mover's. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/net/loop.h"
#include "raylet/transfer_private.h"

#define ALIVE_S      2    /* a silent connection is probed after, and each so many more */
#define ALIVE_PROBES 3    /* without an answer: it is broken */
#define UNHEARD_MS   8000 /* bytes that nobody acknowledges */
#define EMFILE_MS    100  /* until accepting is tried again */

static void on_conn(void *arg, bool readable, bool writable);
static void on_listen(void *arg, bool readable, bool writable);

/* --- addresses --- */

static int parse_address(const char *text,
                         uint16_t port,
                         bool passive,
                         struct sockaddr_storage *out,
                         socklen_t *size,
                         struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags =
                                 AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)},
                    *found = NULL;
    char service[8];

    *out = (struct sockaddr_storage){0};
    *size = 0;
    snprintf(service, sizeof service, "%u", port);
    int r = getaddrinfo(text, service, &hints, &found); /* numeric: it asks nobody */
    if (r != 0)
        return err_set(err,
                       ERR_INVALID,
                       "\"%.100s\" is no numeric address: %s",
                       text != NULL ? text : "",
                       gai_strerror(r));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    *size = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static void tune(int fd)
{
    int on = 1, idle = ALIVE_S, probes = ALIVE_PROBES, unheard = UNHEARD_MS;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard, sizeof unheard);
}

/* --- connections --- */

struct conn *transfer_find_conn(struct transfer *t, uint64_t id)
{
    list_for_each(n, &t->conns)
    {
        struct conn *c = list_entry(n, struct conn, node);
        if (c->id == id)
            return c;
    }
    return NULL;
}

/* NULL: no memory; the fd is closed. */
static struct conn *add_conn(struct transfer *t, int fd, bool is_dialer)
{
    struct conn *c = xcalloc(1, sizeof *c);

    c->magic = TRANSFER_CONN_MAGIC;
    c->of = t;
    c->id = transfer_next_id(t);
    c->is_dialer = is_dialer;
    c->fd = fd;
    c->state = is_dialer ? CONN_CONNECTING : CONN_HELLO;
    c->n_need = sizeof(struct transfer_frame);
    c->due_ms = loop_now_ms() + t->config.hello_ms;
    list_append(&t->conns, &c->node);
    c->watch = loop_watch_fd(t->config.loop, fd, on_conn, c);
    if (c->watch == NULL) {
        transfer_free_conn(c);
        return NULL;
    }
    transfer_due(t, c->due_ms);
    return c;
}

void transfer_free_conn(struct conn *c)
{
    struct transfer *t = c->of;

    list_remove(&c->node);
    loop_unwatch(c->watch);
    if (c->fd >= 0)
        close(c->fd);
    c->magic = 0;
    free(c);
    transfer_due(t, loop_now_ms() + TRANSFER_GRACE_MS); /* it may have been the last one */
}

/* How many ended for a fault of theirs; told at powers of two. */
static void count_refused(struct transfer *t, const char *from, const char *why)
{
    uint64_t n = ++t->stats.n_refused;

    if ((n & (n - 1)) == 0)
        log_warn("transfer",
                 "refused",
                 "n=%llu from=%s msg=\"%s\"",
                 (unsigned long long)n,
                 from,
                 why);
}

static void name_of(const struct sockaddr *a, socklen_t size, char *out, size_t room)
{
    char host[48] = "?", service[8] = "?";

    (void)getnameinfo(a,
                      size,
                      host,
                      sizeof host,
                      service,
                      sizeof service,
                      NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(out, room, strchr(host, ':') != NULL ? "[%s]:%s" : "%s:%s", host, service);
}

static void name_of_conn(const struct conn *c, char *out, size_t room)
{
    struct sockaddr_storage a;
    socklen_t size = sizeof a;

    if (getpeername(c->fd, (struct sockaddr *)&a, &size) == 0)
        name_of((struct sockaddr *)&a, size, out, room);
    else
        snprintf(out, room, "?");
}

static void give_to_mover(struct conn *c)
{
    struct transfer *t = c->of;
    struct err err;

    loop_unwatch(c->watch);
    c->watch = NULL;
    if (transfer_need_mover(t, &err) != 0) {
        log_warn("transfer", "no_thread", "msg=\"%s\"", err.text);
        transfer_free_conn(c);
        return;
    }
    c->state = CONN_PROVEN;
    c->used_ms = loop_now_ms();
    mover_add(t->mover, c->id, c->fd, conn_asks(c));
    c->fd = -1;
    if (conn_asks(c))
        transfer_due(t, c->used_ms + t->config.idle_ms);
}

/* Small and first on its connection: it fits. */
static bool say(const struct conn *c, const struct transfer_frame *f)
{
    return send(c->fd, f, sizeof *f, MSG_NOSIGNAL) == (ssize_t)sizeof *f;
}

/* A typed refusal, then the end. */
static void refuse(struct conn *c, enum err_code code, const char *why)
{
    struct transfer_frame f = {.word = TRANSFER_WORD,
                               .type = TRANSFER_REFUSED,
                               .code = (uint8_t)code};
    char from[64];

    snprintf(f.text, sizeof f.text, "%s", why);
    (void)say(c, &f);
    shutdown(c->fd, SHUT_WR);
    name_of_conn(c, from, sizeof from);
    count_refused(c->of, from, why);
    transfer_free_conn(c);
}

/* --- the listening side --- */

static void hello_came(struct conn *c)
{
    struct transfer *t = c->of;
    struct transfer_frame f;
    struct peer *caller = NULL;
    uint64_t id = c->id;

    memcpy(&f, c->buf, sizeof f);
    if (f.protocol != TRANSFER_PROTOCOL) {
        refuse(c, ERR_VERSION, "this data port speaks another version: update the older node");
        return;
    }
    if (!auth_token_is(&t->token, c->buf + sizeof f, f.token_size)) {
        refuse(c, ERR_DENIED, "wrong token: all nodes need the same one");
        return;
    }
    if (memcmp(f.cluster, t->config.cluster.bytes, sizeof f.cluster) != 0) {
        refuse(c, ERR_DENIED, "this node is of another cluster");
        return;
    }
    c->number = f.node;
    c->is_called = f.is_called != 0;
    if (c->is_called) {
        caller = transfer_find_peer(t, f.node);
        if (caller == NULL || !caller->is_known || !caller->is_away || caller->conn != NULL) {
            refuse(c, ERR_EXISTS, "this node has not called that one, or it has come already");
            return;
        }
    }
    struct transfer_frame welcome = {.word = TRANSFER_WORD, .type = TRANSFER_WELCOME};
    welcome.protocol = TRANSFER_PROTOCOL;
    welcome.node = t->config.node;
    if (!say(c, &welcome)) {
        transfer_free_conn(c);
        return;
    }
    give_to_mover(c);
    if (caller == NULL || transfer_find_conn(t, id) == NULL)
        return;
    caller->conn = c;
    caller->backoff_ms = 0;
    transfer_pull_on_conn(t, caller);
}

/* A head is there: is it one, and how long is all? */
static bool on_hello_head(struct conn *c)
{
    struct transfer_frame f;

    memcpy(&f, c->buf, sizeof f);
    if (f.word != TRANSFER_WORD || f.type != TRANSFER_HELLO || f.token_size > AUTH_TOKEN_MAX) {
        refuse(c, ERR_PROTOCOL, "garbage: this is the data port of a raylet");
        return false;
    }
    c->n_need = sizeof f + f.token_size;
    return true;
}

static unsigned n_unproven(const struct transfer *t)
{
    unsigned n = 0;

    list_for_each(m, &t->conns)
    {
        const struct conn *c = list_entry(m, struct conn, node);
        n += !c->is_dialer && c->state != CONN_PROVEN;
    }
    return n;
}

static unsigned n_conns(const struct transfer *t)
{
    unsigned n = 0;

    list_for_each(m, &t->conns) n++;
    return n;
}

/* Where descriptors are out, one is kept to take a connection with and end it: else it would wake
 * us for ever. */
static void shed(struct transfer *t)
{
    if (t->spare_fd >= 0)
        close(t->spare_fd);
    int fd = accept4(t->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        close(fd);
    t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    count_refused(t, "?", "no descriptor is left (ulimit -n)");
}

static void on_listen(void *arg, bool readable, bool writable)
{
    struct transfer *t = arg;

    CHECK_MAGIC(t, TRANSFER_MAGIC);
    (void)readable;
    (void)writable;
    for (int i = 0; i < 16; i++) {
        int fd = accept4(t->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
            shed(t);
            return;
        }
        if (fd < 0)
            return;
        tune(fd);
        struct conn *c = add_conn(t, fd, false);
        if (c == NULL)
            return;
        if (n_unproven(t) > TRANSFER_UNPROVEN || n_conns(t) > TRANSFER_CONNS)
            refuse(c, ERR_FULL, "too many connections here: try again");
    }
}

int transfer_listen(struct transfer *t, struct err *err)
{
    struct sockaddr_storage a;
    socklen_t size;
    int on = 1, off = 0;

    if (parse_address(t->config.address, t->config.port, true, &a, &size, err) != 0)
        return err_prefix(err, "listen for transfers");
    t->listen_fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (t->listen_fd < 0)
        return err_sys(err, "make the data port");
    setsockopt(t->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a.ss_family == AF_INET6)
        setsockopt(t->listen_fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(t->listen_fd, (struct sockaddr *)&a, size) != 0
        || listen(t->listen_fd, 2 * TRANSFER_UNPROVEN) != 0)
        return err_sys(err, "listen for transfers at port %u", t->config.port);
    size = sizeof a;
    if (getsockname(t->listen_fd, (struct sockaddr *)&a, &size) != 0)
        return err_sys(err, "learn the data port's number");
    t->port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                            : ((struct sockaddr_in *)&a)->sin_port);
    t->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    t->listen_watch = loop_watch_fd(t->config.loop, t->listen_fd, on_listen, t);
    return t->listen_watch != NULL ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for the data port");
}

/* --- the dialling side --- */

/* Not again before a while. */
static void put_off(struct peer *p, const char *why)
{
    p->backoff_ms = p->backoff_ms == 0 ? TRANSFER_BACKOFF : p->backoff_ms * 2;
    if (p->backoff_ms > TRANSFER_BACKOFFS)
        p->backoff_ms = TRANSFER_BACKOFFS;
    p->dial_ms = loop_now_ms() + p->backoff_ms;
    snprintf(p->why, sizeof p->why, "%s", why);
}

/* Ours, before it was proven. */
static void dial_failed(struct conn *c, const char *why, const struct err *refused)
{
    struct transfer *t = c->of;
    struct peer *p = transfer_find_peer(t, c->number);

    bool is_current = p != NULL && p->conn == c;
    transfer_free_conn(c);
    if (!is_current)
        return;
    p->conn = NULL;
    put_off(p, why);
    transfer_pull_on_unreachable(t, p, refused);
}

static void say_hello(struct conn *c)
{
    struct transfer *t = c->of;
    struct transfer_frame f = {.word = TRANSFER_WORD, .type = TRANSFER_HELLO};
    size_t n = strlen(t->token.text);

    f.protocol = TRANSFER_PROTOCOL;
    f.node = t->config.node;
    f.token_size = (uint32_t)n;
    f.is_called = c->is_called;
    memcpy(f.cluster, t->config.cluster.bytes, sizeof f.cluster);
    memcpy(c->buf, &f, sizeof f);
    memcpy(c->buf + sizeof f, t->token.text, n);
    n += sizeof f;
    ssize_t done = send(c->fd, c->buf, n, MSG_NOSIGNAL);
    memset(c->buf, 0, sizeof c->buf);
    if (done != (ssize_t)n) { /* it fits into an empty socket */
        dial_failed(c, done < 0 ? strerror(errno) : "it takes no bytes", NULL);
        return;
    }
    c->state = CONN_HELLO;
}

static void on_connected(struct conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    loop_want_write(c->watch, false);
    if (error != 0)
        dial_failed(c, strerror(error), NULL);
    else
        say_hello(c);
}

static void on_answer(struct conn *c)
{
    struct transfer *t = c->of;
    struct transfer_frame f;
    struct err err;

    memcpy(&f, c->buf, sizeof f);
    if (f.word == TRANSFER_WORD && f.type == TRANSFER_REFUSED) {
        bool is_full = f.code == ERR_FULL;
        f.text[sizeof f.text - 1] = '\0';
        for (char *s = f.text; *s != '\0'; s++)
            if (*s < ' ' || *s > '~' || *s == '"')
                *s = '?';
        err_set(&err, f.code == ERR_VERSION ? ERR_VERSION : ERR_DENIED, "%s", f.text);
        dial_failed(c, f.text, is_full ? NULL : &err);
        return;
    }
    if (f.word != TRANSFER_WORD || f.type != TRANSFER_WELCOME || f.protocol != TRANSFER_PROTOCOL) {
        err_set(&err, ERR_PROTOCOL, "what listens there is no data port");
        dial_failed(c, err.text, &err);
        return;
    }
    if (f.node != c->number) {
        dial_failed(c, "another node listens there now", NULL);
        return;
    }
    if (c->is_called) {
        give_to_mover(c);
        return;
    }
    struct peer *p = transfer_find_peer(t, c->number);
    uint64_t id = c->id;
    give_to_mover(c);
    if (transfer_find_conn(t, id) == NULL) {
        p->conn = NULL;
        put_off(p, "no thread for it");
        return;
    }
    transfer_pull_on_conn(t, p);
}

/* Handshakes of both sides. */
static void on_conn(void *arg, bool readable, bool writable)
{
    struct conn *c = arg;

    CHECK_MAGIC(c, TRANSFER_CONN_MAGIC);
    if (c->state == CONN_CONNECTING) {
        if (readable || writable)
            on_connected(c);
        return;
    }
    while (c->n_buf < c->n_need) {
        ssize_t n = recv(c->fd, c->buf + c->n_buf, c->n_need - c->n_buf, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 && c->is_dialer) {
            dial_failed(c, n < 0 ? strerror(errno) : "it ended the connection", NULL);
            return;
        }
        if (n <= 0) {
            char from[64];
            name_of_conn(c, from, sizeof from);
            count_refused(c->of, from, "it came and went without a token");
            transfer_free_conn(c);
            return;
        }
        c->n_buf += (size_t)n;
        if (!c->is_dialer && c->n_buf == sizeof(struct transfer_frame) && !on_hello_head(c))
            return;
    }
    if (c->is_dialer)
        on_answer(c);
    else
        hello_came(c);
}

/* NULL: it cannot, for now; errno says why. */
static struct conn *dial(struct transfer *t, const struct peer *p)
{
    int fd = socket(p->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return NULL;
    tune(fd);
    if (connect(fd, (const struct sockaddr *)&p->address, p->address_size) != 0
        && errno != EINPROGRESS) {
        int e = errno;
        close(fd);
        errno = e;
        return NULL;
    }
    struct conn *c = add_conn(t, fd, true);
    if (c == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    c->number = p->number;
    loop_want_write(c->watch, true);
    return c;
}

struct conn *transfer_conn_to(struct transfer *t, struct peer *p)
{
    uint64_t now_ms = loop_now_ms();

    if (p->conn != NULL)
        return p->conn->state == CONN_PROVEN && !p->conn->cut ? p->conn : NULL;
    if (!p->is_known)
        return NULL;
    if (now_ms < p->dial_ms) {
        transfer_due(t, p->dial_ms);
        return NULL;
    }
    if (p->is_away) {
        p->dial_ms = now_ms + TRANSFER_CALL_MS;
        transfer_due(t, p->dial_ms);
        t->config.send_call(t->config.arg, p->number);
        return NULL;
    }
    p->conn = dial(t, p);
    if (p->conn == NULL) {
        put_off(p, strerror(errno));
        transfer_due(t, p->dial_ms);
    }
    return NULL;
}

void transfer_call(struct transfer *t, uint32_t number)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    const struct peer *p = transfer_find_peer(t, number);

    if (!t->config.is_closed || p == NULL || !p->is_known || p->is_away
        || n_conns(t) > TRANSFER_CONNS)
        return; /* it calls again */
    list_for_each(n, &t->conns)
    {
        const struct conn *c = list_entry(n, struct conn, node);
        if (c->is_called && c->number == number && c->state != CONN_PROVEN)
            return;
    }
    struct conn *c = dial(t, p);
    if (c != NULL)
        c->is_called = true;
}

void transfer_cut(struct conn *c)
{
    c->cut = true;
    if (c->state == CONN_PROVEN)
        mover_cut(c->of->mover, c->id);
    else if (c->is_dialer)
        dial_failed(c, "it does not answer", NULL);
    else
        transfer_free_conn(c);
}

void transfer_misbehaved(struct conn *c, const char *why)
{
    char from[32];

    snprintf(from, sizeof from, "node-%u", c->number);
    count_refused(c->of, from, why);
    transfer_cut(c);
}

void transfer_conn_ended(struct conn *c, int error, const char *why)
{
    struct transfer *t = c->of;
    struct peer *p = conn_asks(c) ? transfer_find_peer(t, c->number) : NULL;
    bool was_cut = c->cut, is_current = p != NULL && p->conn == c;
    char from[32];

    snprintf(from, sizeof from, "node-%u", c->number);
    if (error == EPROTO)
        count_refused(t, from, why);
    transfer_pull_on_conn_lost(t, c->id);
    transfer_free_conn(c);
    if (!is_current)
        return;
    p->conn = NULL;
    if (!was_cut)
        put_off(p, error == EPROTO || error == 0 ? why : strerror(error));
    transfer_pull_on_unreachable(t, p, NULL);
}

static uint64_t conn_on_time(struct conn *c, uint64_t now_ms)
{
    struct transfer *t = c->of;
    uint64_t at_ms = UINT64_MAX;

    if (c->cut)
        return UINT64_MAX;
    if (c->state != CONN_PROVEN) {
        at_ms = c->due_ms;
    } else if (conn_asks(c)) {
        if (c->n_open > 0)
            c->used_ms = now_ms;
        at_ms = c->used_ms + t->config.idle_ms;
    }
    if (at_ms > now_ms)
        return at_ms;
    if (c->state != CONN_PROVEN && !c->is_dialer)
        refuse(c, ERR_TIMEOUT, "the token did not come in time");
    else
        transfer_cut(c);
    return UINT64_MAX;
}

uint64_t transfer_conns_on_time(struct transfer *t, uint64_t now_ms)
{
    uint64_t at_ms = UINT64_MAX;

    list_for_each_safe(n, &t->conns)
    {
        uint64_t due = conn_on_time(list_entry(n, struct conn, node), now_ms);
        at_ms = due < at_ms ? due : at_ms;
    }
    return at_ms;
}

/* --- nodes --- */

struct peer *transfer_find_peer(struct transfer *t, uint32_t number)
{
    list_for_each(n, &t->peers)
    {
        struct peer *p = list_entry(n, struct peer, node);
        if (p->number == number)
            return p;
    }
    return NULL;
}

struct peer *transfer_have_peer(struct transfer *t, uint32_t number)
{
    struct peer *p = transfer_find_peer(t, number);

    if (p != NULL)
        return p;
    p = xcalloc(1, sizeof *p);
    p->number = number;
    list_init(&p->holders);
    for (int i = 0; i <= TRANSFER_ARGUMENT; i++)
        list_init(&p->hungry[i]);
    list_append(&t->peers, &p->node);
    return p;
}

bool transfer_is_dead(const struct transfer *t, const struct peer *p)
{
    uint64_t n = t->n_removed < TRANSFER_REMOVED ? t->n_removed : TRANSFER_REMOVED;

    for (uint64_t i = 0; !p->is_known && i < n; i++)
        if (t->removed[i] == p->number)
            return true;
    return false;
}

void transfer_drop_peer(struct peer *p)
{
    if (p->is_known || !list_empty(&p->holders))
        return;
    if (p->conn != NULL && p->conn->state != CONN_PROVEN)
        transfer_free_conn(p->conn);
    list_remove(&p->node);
    free(p);
}

int transfer_add_node(struct transfer *t,
                      uint32_t number,
                      const char *address,
                      uint16_t port,
                      struct err *err)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct sockaddr_storage a;
    socklen_t size;

    if (parse_address(address, port, false, &a, &size, err) != 0)
        return err_prefix(err, "node %u", number);
    struct peer *p = transfer_have_peer(t, number);
    if (p->is_known && p->address_size == size && memcmp(&p->address, &a, size) == 0)
        return 0;
    p->address = a;
    p->address_size = size;
    name_of((struct sockaddr *)&a, size, p->name, sizeof p->name);
    p->is_known = true;
    p->is_away = port == 0;
    p->dial_ms = 0;
    p->backoff_ms = 0;
    if (p->conn != NULL)
        transfer_cut(p->conn);
    transfer_pull_on_unreachable(t, p, NULL); /* whoever waited for it may dial now */
    return 0;
}

void transfer_remove_node(struct transfer *t, uint32_t number)
{
    CHECK_MAGIC(t, TRANSFER_MAGIC);
    struct peer *p = transfer_find_peer(t, number);
    struct err err;

    t->removed[t->n_removed++ % TRANSFER_REMOVED] = number;
    list_for_each_safe(n, &t->conns)
    {
        struct conn *c = list_entry(n, struct conn, node);
        if (c->number == number && !c->cut && (p == NULL || c != p->conn))
            transfer_cut(c);
    }
    if (p == NULL)
        return;
    p->is_known = false;
    if (p->conn != NULL && p->conn->state == CONN_PROVEN) {
        if (!p->conn->cut)
            transfer_cut(p->conn);
    } else if (p->conn != NULL) {
        transfer_free_conn(p->conn);
        p->conn = NULL;
    }
    err_set(&err, ERR_DIED, "node %u is dead", number);
    transfer_pull_on_unreachable(t, p, &err);
    transfer_drop_peer(transfer_have_peer(t, number));
}
