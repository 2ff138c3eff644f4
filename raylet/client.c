/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/net/unix_link.h"

struct raylet_client {
    struct unix_link *link;
    struct wire_welcome welcome;
};

/* --- sessions --- */

int raylet_client_find(const char *temp,
                       char dir[RAYLET_CLIENT_PATH],
                       unsigned *n_live,
                       struct err *err)
{
    size_t n_all, newest = 0;
    struct session_folder *all = session_list(temp, &n_all);
    unsigned n = 0;

    for (size_t i = n_all; i-- > 0;)
        if (session_pid(all[i].dir, SESSION_RAYLET) != 0) {
            newest = i;
            n++;
        }
    if (n > 0)
        memcpy(dir, all[newest].dir, sizeof all[newest].dir);
    free(all);
    if (n_live != NULL)
        *n_live = n;
    if (n == 0)
        return err_set(err,
                       ERR_NOT_FOUND,
                       "no cluster of user %u runs in %s: start a program that uses Ray, or name "
                       "the folder by --temp-dir or RAY_TMPDIR",
                       (unsigned)geteuid(),
                       temp);
    return 0;
}

/* --- link --- */

static int explain(const char *dir, int number, struct err *err)
{
    int pid = session_pid(dir, SESSION_RAYLET);
    struct stat st;

    if (stat(dir, &st) != 0)
        return err_set(err, ERR_NOT_FOUND, "no session %s: %s", dir, strerror(errno));
    if (number == EACCES)
        return err_set(err,
                       ERR_INVALID,
                       "session %s belongs to user %u, who alone may ask it: you are user %u",
                       dir,
                       (unsigned)st.st_uid,
                       (unsigned)geteuid());
    if (pid == 0)
        return err_set(err, ERR_DIED, "the raylet of %s is gone: nothing runs there", dir);
    if (number == EAGAIN)
        return err_set(err, ERR_TIMEOUT, "the raylet (pid %d) does not take connections", pid);
    return err_set(
        err,
        ERR_SYSTEM,
        "the raylet (pid %d) cannot be reached at %s/sockets/raylet: %s; end its program "
        "and start it again",
        pid,
        dir,
        number == ENOENT         ? "the socket was removed"
        : number == ECONNREFUSED ? "it is not the raylet's socket any more"
                                 : strerror(number));
}

/* A socket's name is short, a folder's may be long: then by way of a descriptor of the folder. */
static int connect_to(const char *session_dir, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int folder = -1, fd, number = 0;

    if ((size_t)snprintf(a.sun_path, sizeof a.sun_path, "%s/sockets/raylet", session_dir)
        >= sizeof a.sun_path) {
        folder = open(session_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0) {
            explain(session_dir, errno, err);
            return -1;
        }
        snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/sockets/raylet", folder);
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
        number = errno;
    if (folder >= 0)
        close(folder);
    if (number == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    explain(session_dir, number, err);
    return -1;
}

static int say_hello(struct raylet_client *c, const char *dir, int timeout_ms, struct err *err)
{
    struct wire_hello h = {.protocol = WIRE_PROTOCOL, .kind = WIRE_COMMAND, .pid = getpid()};
    struct frame f;

    if (raylet_client_send(c, WIRE_HELLO, &h, sizeof h, err) != 0)
        return -1;
    int rc = raylet_client_next(c, timeout_ms, &f, err);
    if (rc == 0)
        return err_set(err,
                       ERR_TIMEOUT,
                       "the raylet (pid %d) of %s did not answer within %d ms",
                       session_pid(dir, SESSION_RAYLET),
                       dir,
                       timeout_ms);
    if (rc < 0)
        return -1;
    if (f.fd >= 0)
        close(f.fd);
    if (f.h.type != WIRE_WELCOME || f.body_size < sizeof c->welcome)
        return err_set(err, ERR_PROTOCOL, "what listens at %s/sockets/raylet is no raylet", dir);
    memcpy(&c->welcome, f.body, sizeof c->welcome);
    return 0;
}

struct raylet_client *raylet_client_open(const char *session_dir, int timeout_ms, struct err *err)
{
    int fd = connect_to(session_dir, err);

    if (fd < 0)
        return NULL;
    struct raylet_client *c = xcalloc(1, sizeof *c);
    c->link = unix_link_create(fd, 0);
    if (c->link == NULL) {
        close(fd);
        err_set(err, ERR_NO_MEMORY, "no memory for a link");
    } else if (say_hello(c, session_dir, timeout_ms, err) == 0) {
        return c;
    }
    raylet_client_close(c);
    return NULL;
}

void raylet_client_close(struct raylet_client *c)
{
    if (c == NULL)
        return;
    unix_link_destroy(c->link);
    free(c);
}

const struct wire_welcome *raylet_client_welcome(const struct raylet_client *c)
{
    return &c->welcome;
}

int raylet_client_send(struct raylet_client *c,
                       uint8_t type,
                       const void *body,
                       size_t size,
                       struct err *err)
{
    if (unix_link_send(c->link, wire_class(type), type, 0, body, size) == 0)
        return 0;
    return err_set(err, ERR_NO_MEMORY, "no memory for a question to the raylet");
}

/* 1: a frame; 0: none yet; -1. An ERROR is the end, and its sentence the reason. */
static int take(struct raylet_client *c, struct frame *f, struct err *err)
{
    int rc = unix_link_next(c->link, f, err);

    if (rc != 1 || f->h.type != WIRE_ERROR)
        return rc;
    struct wire_error w = {.code = ERR_PROTOCOL};
    memcpy(&w, f->body, f->body_size < sizeof w ? f->body_size : sizeof w);
    int n = f->body_size > sizeof w ? (int)(f->body_size - sizeof w) : 0;
    return err_set(err, w.code, "%.*s", n, (const char *)f->body + sizeof w);
}

int raylet_client_next(struct raylet_client *c, int timeout_ms, struct frame *f, struct err *err)
{
    uint64_t end_ns = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    int rc;

    while ((rc = take(c, f, err)) == 0) {
        struct pollfd p = {.fd = unix_link_fd(c->link), .events = POLLIN};
        uint64_t now = clock_now_ns();
        if (unix_link_flush(c->link, NULL) == 0)
            p.events |= POLLOUT;
        int left_ms = now < end_ns ? (int)((end_ns - now + 999999) / 1000000) : 0;
        int n = poll(&p, 1, left_ms);
        if (n == 0)
            return 0;
        if (n > 0 && (p.revents & ~POLLOUT) != 0 && unix_link_read(c->link, err) < 0) {
            rc = take(c, f, err); /* its last word may say why */
            if (rc == 0)
                rc = err_set(err, ERR_DIED, "the raylet has ended");
            break;
        }
    }
    return rc;
}
