/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/redis_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define READ_SIZE 65536

struct redis_link {
    unsigned magic;
    struct loop *loop;
    struct redis_address address;
    redis_reply_f reply;
    redis_end_f end;
    void *arg;
    int fd;
    struct loop_watch *watch;
    struct loop_timer *failed; /* tells why it could not begin */
    redisReader *reader;
    char *out;
    size_t out_size, out_room, out_done;
    uint64_t n_asked, n_answered, heard_ms;
    unsigned depth; /* of callbacks that run */
    bool is_connected, is_destroyed;
    struct err err;
};
#define REDIS_LINK_MAGIC 0x52454c4bu

int redis_address_parse(const char *text, struct redis_address *out, struct err *err)
{
    struct redis_address a = {.path = ""};

    if (text[0] == '/' || text[0] == '.') {
        if (strlen(text) >= sizeof a.path)
            return err_set(err,
                           ERR_INVALID,
                           "the path of Redis's socket is longer than %zu bytes: %.120s...",
                           sizeof a.path - 1,
                           text);
        memcpy(a.path, text, strlen(text) + 1);
        *out = a;
        return 0;
    }
    if (host_port_parse(text, 0, &a.at, err) != 0)
        return err_prefix(err, "Redis's address, if it is not the path of a socket");
    *out = a;
    return 0;
}

static void end_link(struct redis_link *l, const char *why)
{
    l->depth++;
    l->end(l->arg, why);
    l->depth--;
}

static void free_link(struct redis_link *l)
{
    loop_unwatch(l->watch);
    loop_timer_end(l->failed);
    if (l->fd >= 0)
        close(l->fd);
    if (l->reader != NULL)
        redisReaderFree(l->reader);
    free(l->out);
    l->magic = 0;
    free(l);
}

void redis_link_destroy(struct redis_link *l)
{
    if (l == NULL)
        return;
    CHECK_MAGIC(l, REDIS_LINK_MAGIC);
    l->is_destroyed = true;
    if (l->depth == 0)
        free_link(l);
}

/* After a callback: the link may have been destroyed in it. */
static bool is_over(struct redis_link *l)
{
    if (!l->is_destroyed || l->depth > 0)
        return l->is_destroyed;
    free_link(l);
    return true;
}

static void on_failed(void *arg)
{
    struct redis_link *l = arg;

    end_link(l, l->err.text);
    is_over(l);
}

static int open_socket(struct redis_link *l)
{
    struct sockaddr_storage to = {.ss_family = AF_UNIX};
    struct sockaddr_un *un = (struct sockaddr_un *)&to;
    struct sockaddr_in *in = (struct sockaddr_in *)&to;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&to;
    socklen_t size = sizeof *un;
    int on = 1;

    if (l->address.path[0] != '\0') {
        memcpy(un->sun_path, l->address.path, sizeof un->sun_path);
    } else if (inet_pton(AF_INET, l->address.at.host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(l->address.at.port);
        size = sizeof *in;
    } else if (inet_pton(AF_INET6, l->address.at.host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(l->address.at.port);
        size = sizeof *in6;
    } else {
        return err_set(&l->err,
                       ERR_INVALID,
                       "\"%s\" is not an IP address; name Redis's host by its address",
                       l->address.at.host);
    }
    l->fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return err_sys(&l->err, "make a socket for Redis");
    if (to.ss_family != AF_UNIX)
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(l->fd, (struct sockaddr *)&to, size) == 0 || errno == EINPROGRESS)
        return 0;
    return errno == EAGAIN ? err_set(&l->err, ERR_AWAY, "connect: too many wait for it")
                           : err_sys(&l->err, "connect");
}

void redis_link_command(struct redis_link *l,
                        size_t n,
                        const void *const parts[],
                        const size_t sizes[])
{
    size_t need = 16;

    for (size_t i = 0; i < n; i++)
        need += sizes[i] + 16;
    if (l->out_size + need > l->out_room) {
        l->out_room = 2 * (l->out_size + need);
        l->out = xrealloc(l->out, l->out_room);
    }
    char *at = l->out + l->out_size;
    at += snprintf(at, 16, "*%zu\r\n", n);
    for (size_t i = 0; i < n; i++) {
        at += snprintf(at, 16, "$%zu\r\n", sizes[i]);
        memcpy(at, parts[i], sizes[i]);
        at += sizes[i];
        *at++ = '\r';
        *at++ = '\n';
    }
    l->out_size = (size_t)(at - l->out);
    l->n_asked++;
}

/* What goes wrong here is read in the next turn. */
void redis_link_flush(struct redis_link *l)
{
    while (l->is_connected && l->out_done < l->out_size) {
        ssize_t n = send(l->fd, l->out + l->out_done, l->out_size - l->out_done, MSG_NOSIGNAL);
        if (n < 0)
            break;
        l->out_done += (size_t)n;
    }
    bool is_done = l->out_done == l->out_size;
    if (is_done) {
        l->out_size = l->out_done = 0;
        if (l->out_room > 1u << 20) {
            free(l->out);
            l->out = NULL;
            l->out_room = 0;
        }
    }
    loop_want_write(l->watch, !is_done || !l->is_connected);
}

static int take_bytes(struct redis_link *l, struct err *err)
{
    char buf[READ_SIZE];
    ssize_t n = recv(l->fd, buf, sizeof buf, 0);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : err_sys(err, "read");
    if (n == 0)
        return err_set(err, ERR_DIED, "it closed the connection");
    l->heard_ms = loop_now_ms();
    if (redisReaderFeed(l->reader, buf, (size_t)n) != REDIS_OK)
        return err_set(err, ERR_PROTOCOL, "it does not speak Redis: %s", l->reader->errstr);
    return 0;
}

/* 1: a reply was given out; 0: there is none; -1: err. */
static int give_reply(struct redis_link *l, struct err *err)
{
    void *reply = NULL;

    if (redisReaderGetReply(l->reader, &reply) != REDIS_OK)
        return err_set(err, ERR_PROTOCOL, "it does not speak Redis: %s", l->reader->errstr);
    if (reply == NULL)
        return 0;
    if (l->n_answered == l->n_asked) {
        const struct redisReply *r = reply;
        err_set(err,
                ERR_PROTOCOL,
                "it said what nobody asked: %.100s",
                r->type == REDIS_REPLY_ERROR ? r->str : "is it Redis?");
        freeReplyObject(reply);
        return -1;
    }
    l->n_answered++;
    l->depth++;
    l->reply(l->arg, reply);
    l->depth--;
    freeReplyObject(reply);
    return 1;
}

static void on_socket(void *arg, bool readable, bool writable)
{
    struct redis_link *l = arg;
    struct err err;
    int failed = 0, rc = 0;
    socklen_t size = sizeof failed;

    if (!l->is_connected) {
        getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &failed, &size);
        errno = failed;
        rc = failed != 0 ? err_sys(&err, "connect") : 0;
        l->is_connected = rc == 0;
    }
    if (rc == 0 && writable)
        redis_link_flush(l);
    if (rc == 0 && readable)
        rc = take_bytes(l, &err);
    while (rc == 0 && !l->is_destroyed) {
        int given = give_reply(l, &err);
        if (given == 0)
            break;
        rc = given < 0 ? -1 : 0;
    }
    if (rc != 0 && !l->is_destroyed)
        end_link(l, err.text);
    is_over(l);
}

struct redis_link *redis_link_create(struct loop *loop,
                                     const struct redis_address *address,
                                     redis_reply_f reply,
                                     redis_end_f end,
                                     void *arg)
{
    struct redis_link *l = xcalloc(1, sizeof *l);

    *l = (struct redis_link){.magic = REDIS_LINK_MAGIC,
                             .loop = loop,
                             .address = *address,
                             .reply = reply,
                             .end = end,
                             .arg = arg,
                             .fd = -1,
                             .heard_ms = loop_now_ms()};
    l->reader = redisReaderCreate();
    if (open_socket(l) == 0)
        l->watch = loop_watch_fd(loop, l->fd, on_socket, l);
    if (l->watch != NULL)
        loop_want_write(l->watch, true);
    else
        l->failed = loop_after(loop, 0, on_failed, l);
    return l;
}

uint64_t redis_link_heard_ms(const struct redis_link *l)
{
    return l->heard_ms;
}
