/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/redis.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/auth_token.h"

int redis_configure(const char *dir, char password[REDIS_PASSWORD_SIZE], struct err *err)
{
    struct auth_token random;
    char path[300], text[1024];

    if (auth_token_make(&random, err) != 0)
        return -1;
    snprintf(password, REDIS_PASSWORD_SIZE, "%.64s", random.text);
    snprintf(path, sizeof path, "%s/redis", dir);
    if (mkdir(path, 0700) != 0)
        return err_sys(err, "make %s", path);
    int n = snprintf(text,
                     sizeof text,
                     "port 0\n"
                     "unixsocket ../sockets/redis\n"
                     "unixsocketperm 700\n"
                     "requirepass %s\n"
                     "dir redis\n"
                     "save \"\"\n"
                     "appendonly yes\n"
                     "appendfsync always\n"
                     "maxmemory-policy noeviction\n"
                     "daemonize no\n",
                     password);
    snprintf(path, sizeof path, "%s/redis.conf", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, "write %s", path);
    int rc = write(fd, text, (size_t)n) == n ? 0 : err_sys(err, "write %s", path);
    close(fd);
    return rc;
}

struct redis_watch {
    int fd;
    struct loop_watch *watch;
    loop_f on_there;
    void *arg;
};

static void on_news(void *arg, bool readable, bool writable)
{
    struct redis_watch *w = arg;
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    bool is_there = false;
    ssize_t n = read(w->fd, buffer, sizeof buffer);

    (void)readable;
    (void)writable;
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
        const struct inotify_event *e = (const void *)(buffer + at);
        is_there = is_there || (e->len > 0 && strcmp(e->name, "redis") == 0);
        at += (ssize_t)(sizeof *e + e->len);
    }
    if (is_there)
        w->on_there(w->arg);
}

struct redis_watch *redis_watch_create(struct loop *loop,
                                       const char *dir,
                                       loop_f on_there,
                                       void *arg,
                                       struct err *err)
{
    struct redis_watch *w = xcalloc(1, sizeof *w);
    char path[300];

    snprintf(path, sizeof path, "%s/sockets", dir);
    w->on_there = on_there;
    w->arg = arg;
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->fd < 0 || inotify_add_watch(w->fd, path, IN_CREATE) < 0)
        err_sys(err, "watch %s", path);
    else if ((w->watch = loop_watch_fd(loop, w->fd, on_news, w)) == NULL)
        err_set(err, ERR_NO_MEMORY, "no memory to watch %s", path);
    else
        return w;
    redis_watch_destroy(w);
    return NULL;
}

void redis_watch_destroy(struct redis_watch *w)
{
    if (w == NULL)
        return;
    loop_unwatch(w->watch);
    if (w->fd >= 0)
        close(w->fd);
    free(w);
}
