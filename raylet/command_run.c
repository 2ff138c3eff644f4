/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's socket, sockets/raylet in its folder, and those who come by it: `ray` commands of
 * the folder's owner, and of root. The folder keeps others out, and if its modes were changed they
 * are refused with a sentence. A command says HELLO, asks, and goes; what it sends is foreign
 * input. It has few bytes waiting at most, and is cut off if it does not read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"

#define COMMANDS_MAX  16
#define COMMAND_OUT   (4u << 20) /* bytes waiting for one that does not read */
#define COMMAND_WAITS 8          /* of connections nobody has accepted yet */

static void destroy(struct command *c)
{
    loop_unwatch(c->watch);
    unix_link_destroy(c->link);
    list_remove(&c->list);
    c->node->n_commands--;
    c->magic = 0;
    free(c);
}

struct command *command_run_find(const struct node *n, uint32_t number)
{
    list_for_each(m, &n->commands)
    {
        struct command *c = list_entry(m, struct command, list);
        if (c->number == number && !c->cut)
            return c;
    }
    return NULL;
}

static void flush(struct command *c)
{
    int rc = unix_link_flush(c->link, NULL);

    loop_want_write(c->watch, rc == 0);
    if (rc < 0)
        c->cut = true;
}

/* Its end is seen by on_command, whoever found the reason. */
static void cut_off(struct command *c)
{
    c->cut = true;
    shutdown(unix_link_fd(c->link), SHUT_RDWR);
}

void command_run_send(struct command *c, uint8_t type, const void *body, size_t size, int fd)
{
    void *out = unix_link_reserve(c->link, wire_class(type), type, 0, size);

    if (out == NULL) {
        log_warn("command", "does_not_read", "pending=%zu", unix_link_pending(c->link));
        if (fd >= 0)
            close(fd);
        cut_off(c);
        return;
    }
    memcpy(out, body, size);
    unix_link_commit(c->link, size, fd);
    flush(c);
}

void command_run_refuse(struct command *c, enum err_code code, const char *text)
{
    uint8_t buf[sizeof(struct wire_error) + 256];
    struct wire_error w = {.code = code};
    size_t len = strnlen(text, 255);

    memcpy(buf, &w, sizeof w);
    memcpy(buf + sizeof w, text, len);
    command_run_send(c, WIRE_ERROR, buf, sizeof w + len, -1);
    cut_off(c);
}

static void on_hello(struct command *c, const uint8_t *body, size_t size)
{
    const struct node *n = c->node;
    uint8_t buf[sizeof(struct wire_welcome) + sizeof n->session.dir + 16];
    struct wire_hello h;
    struct wire_welcome w = {.protocol = WIRE_PROTOCOL,
                             .job = n->job,
                             .n_cpus = (uint32_t)n->config.num_cpus,
                             .cluster = n->cluster,
                             .node = n->id};

    if (size < sizeof h) {
        command_run_refuse(c, ERR_PROTOCOL, "malformed HELLO");
        return;
    }
    memcpy(&h, body, sizeof h);
    if (h.protocol != WIRE_PROTOCOL || h.kind != WIRE_COMMAND) {
        command_run_refuse(c,
                           ERR_VERSION,
                           "this cluster's raylet and the ray command are of different versions: "
                           "use the command that was installed with the program's libray");
        return;
    }
    c->registered = true;
    snprintf(w.build, sizeof w.build, NODE_BUILD);
    memcpy(buf, &w, sizeof w);
    size_t len = strlen(n->session.dir) + 1;
    memcpy(buf + sizeof w, n->session.dir, len);
    memcpy(buf + sizeof w + len, "head\0", 6);
    command_run_send(c, WIRE_WELCOME, buf, sizeof w + len + 6, -1);
}

static void on_frame(struct command *c, const struct frame *f)
{
    if (f->h.route != 0 || (f->h.flags & FRAME_MORE) != 0)
        command_run_refuse(c, ERR_PROTOCOL, "a command's frames are short, and for the raylet");
    else if (f->h.type == WIRE_HELLO && !c->registered)
        on_hello(c, f->body, f->body_size);
    else if (!c->registered)
        command_run_refuse(c, ERR_PROTOCOL, "the first frame must be HELLO");
    else if (!memory_run_on_command(c, f->h.type, f->body, f->body_size))
        command_run_refuse(c, ERR_PROTOCOL, "a frame that no command sends");
}

static void on_command(void *arg, bool readable, bool writable)
{
    struct command *c = arg;
    struct frame f;
    int rc = 0;

    CHECK_MAGIC(c, COMMAND_MAGIC);
    if (writable)
        flush(c);
    long got = readable ? unix_link_read(c->link, NULL) : 0;
    while (!c->cut && (rc = unix_link_next(c->link, &f, NULL)) == 1) {
        if (f.fd >= 0)
            close(f.fd); /* nobody sends us descriptors */
        on_frame(c, &f);
    }
    if (c->cut || got < 0 || rc < 0)
        destroy(c);
}

/* May this user ask? */
static bool is_allowed(int fd, struct ucred *who)
{
    socklen_t size = sizeof *who;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, who, &size) == 0
           && (who->uid == geteuid() || who->uid == 0);
}

static void add(struct node *n, int fd)
{
    struct command *c = xcalloc(1, sizeof *c);
    struct ucred who = {0};
    char text[160];

    c->link = unix_link_create(fd, COMMAND_OUT);
    if (c->link == NULL) {
        close(fd);
        free(c);
        return;
    }
    c->magic = COMMAND_MAGIC;
    c->node = n;
    c->number = ++n->last_command;
    list_append(&n->commands, &c->list);
    n->n_commands++;
    c->watch = loop_watch_fd(n->loop, fd, on_command, c);
    if (c->watch == NULL) {
        destroy(c);
    } else if (!is_allowed(fd, &who)) {
        snprintf(text,
                 sizeof text,
                 "this cluster belongs to user %u, who alone may ask it: you are user %u",
                 (unsigned)geteuid(),
                 (unsigned)who.uid);
        command_run_refuse(c, ERR_INVALID, text);
    } else if (n->n_commands > COMMANDS_MAX) {
        command_run_refuse(c, ERR_FULL, "too many ray commands at once: try again");
    }
}

static void on_knock(void *arg, bool readable, bool writable)
{
    struct node *n = arg;
    int fd = accept4(n->command_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)readable;
    (void)writable;
    if (fd >= 0) {
        add(n, fd);
        return;
    }
    if (errno != EMFILE && errno != ENFILE)
        return;
    /* who waits would keep us awake: turned away by the one descriptor that was kept for it */
    log_warn("command", "no_descriptor", "n_commands=%u", n->n_commands);
    if (n->spare_fd >= 0)
        close(n->spare_fd);
    fd = accept4(n->command_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    n->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (n->spare_fd < 0) {
        loop_unwatch(n->command_watch);
        n->command_watch = NULL;
    }
}

/* A socket's name is short, a folder's may be long: then by way of a descriptor of the folder. */
static int name_socket(const struct node *n, struct sockaddr_un *a, int *folder, struct err *err)
{
    char dir[sizeof n->session.dir + 16];

    snprintf(dir, sizeof dir, "%s/sockets", n->session.dir);
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    *folder = -1;
    if ((size_t)snprintf(a->sun_path, sizeof a->sun_path, "%s/raylet", dir) < sizeof a->sun_path)
        return 0;
    *folder = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*folder < 0)
        return err_sys(err, "open %s", dir);
    snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/raylet", *folder);
    return 0;
}

static int listen_at(struct node *n, struct err *err)
{
    struct sockaddr_un a;
    int folder, rc = 0;

    if (name_socket(n, &a, &folder, err) != 0)
        return -1;
    n->command_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n->command_fd < 0 || bind(n->command_fd, (struct sockaddr *)&a, sizeof a) != 0
        || chmod(a.sun_path, 0600) != 0 || listen(n->command_fd, COMMAND_WAITS) != 0)
        rc = err_sys(err, "listen on the session's socket");
    if (folder >= 0)
        close(folder);
    return rc;
}

void command_run_open(struct node *n)
{
    struct err err = {.text = "no memory"};

    n->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (listen_at(n, &err) == 0)
        n->command_watch = loop_watch_fd(n->loop, n->command_fd, on_knock, n);
    if (n->command_watch == NULL)
        log_warn("command", "no_socket", "msg=\"%s\"", err.text);
}

void command_run_close(struct node *n)
{
    list_for_each_safe(m, &n->commands) destroy(list_entry(m, struct command, list));
    loop_unwatch(n->command_watch);
    n->command_watch = NULL;
    if (n->command_fd >= 0)
        close(n->command_fd);
    if (n->spare_fd >= 0)
        close(n->spare_fd);
    n->command_fd = n->spare_fd = -1;
}
