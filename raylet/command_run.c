/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's socket, sockets/raylet in its folder, and those who come by it: `ray` commands of
 * the folder's owner, and of root, and drivers of the owner. The folder keeps others out, and if
 * its modes were changed they are refused with a sentence. A command says HELLO, asks, and goes;
 * what it sends is foreign input. It has few bytes waiting at most, and is cut off if it does not
 * read. A driver sends what its workers are made of, then HELLO, which makes it a process
 * (node_join.c); who it is the kernel says. HELLO has HELLO_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "raylet/node_private.h"

#define COMMANDS_MAX  64
#define COMMAND_OUT   (4u << 20) /* bytes waiting for one that does not read */
#define COMMAND_WAITS 128        /* of connections nobody has accepted yet */
#define HELLO_MS      5000

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

static void destroy(struct command *c)
{
    loop_unwatch(c->watch);
    unix_link_destroy(c->link);
    for (int i = 0; i < WIRE_JOB_N_PARTS; i++)
        if (c->parts[i] >= 0)
            close(c->parts[i]);
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
    void *out = unix_link_pending(c->link) + size <= COMMAND_OUT
                    ? unix_link_reserve(c->link, wire_class(type), type, 0, size)
                    : NULL;

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
                             .job = job_first(n),
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

/* --- drivers --- */

static void on_part(struct command *c, struct frame *f)
{
    struct wire_job_part w;

    if (f->body_size < sizeof w || f->fd < 0)
        return;
    memcpy(&w, f->body, sizeof w);
    if (w.part >= WIRE_JOB_N_PARTS)
        return; /* of a newer driver */
    if (c->parts[w.part] >= 0)
        close(c->parts[w.part]);
    c->parts[w.part] = f->fd;
    f->fd = -1;
}

static int open_pidfd(int fd, pid_t pid)
{
    int pidfd = -1;
    socklen_t size = sizeof pidfd;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
        return pidfd;
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int look_at_driver(const struct command *c,
                          const struct wire_hello *h,
                          struct node_join_parts *parts,
                          struct err *err)
{
    int fd = unix_link_fd(c->link);
    struct ucred who = {.pid = 0};
    socklen_t size = sizeof who;

    if (h->protocol != WIRE_PROTOCOL)
        return err_set(err, ERR_VERSION, NODE_OTHER_VERSION);
    if (node_is_private(c->node))
        return err_set(err,
                       ERR_INVALID,
                       "this cluster belongs to the program that started it, and serves no other");
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != geteuid())
        return err_set(
            err,
            ERR_INVALID,
            "this cluster belongs to another user (uid %u), whose programs alone it runs",
            (unsigned)geteuid());
    if (who.pid <= 0)
        return err_set(
            err,
            ERR_INVALID,
            "the raylet cannot see this process, which runs in another container: start a "
            "raylet in that one");
    parts->pid = who.pid;
    parts->pidfd = open_pidfd(fd, who.pid);
    return parts->pidfd >= 0 ? 0
                             : err_set(err,
                                       ERR_FULL,
                                       "the raylet cannot watch this process: it has ended, or the "
                                       "raylet has no descriptor left (ulimit -n)");
}

/* true: c is gone, its link is a process's. */
static bool become_driver(struct command *c, const struct wire_hello *h, struct frame *f)
{
    struct node *n = c->node;
    struct unix_link *link = c->link;
    struct node_join_parts parts = {.executable_fd = f->fd,
                                    .folder_fd = c->parts[WIRE_JOB_FOLDER],
                                    .environment_fd = c->parts[WIRE_JOB_ENVIRONMENT],
                                    .pidfd = -1};
    struct err err;

    loop_unwatch(c->watch); /* the process watches it */
    c->watch = NULL;
    bool ok =
        look_at_driver(c, h, &parts, &err) == 0 && node_join_driver(n, link, h, &parts, &err) == 0;
    f->fd = parts.executable_fd;
    c->parts[WIRE_JOB_FOLDER] = parts.folder_fd;
    c->parts[WIRE_JOB_ENVIRONMENT] = parts.environment_fd;
    if (parts.pidfd >= 0)
        close(parts.pidfd);
    if (ok) {
        if (f->fd >= 0)
            close(f->fd);
        c->link = NULL;
        destroy(c);
        return true;
    }
    log_err("command", "refused_hello", "pid=%d msg=\"%s\"", parts.pid, err.text);
    command_run_refuse(c, err.code, err.text);
    return false;
}

/* --- frames --- */

/* true: c is gone. */
static bool on_frame(struct command *c, struct frame *f)
{
    struct wire_hello h = {.kind = 0};

    if (f->body_size >= sizeof h)
        memcpy(&h, f->body, sizeof h);
    if (f->h.route != 0 || (f->h.flags & FRAME_MORE) != 0)
        command_run_refuse(c, ERR_PROTOCOL, "a command's frames are short, and for the raylet");
    else if (f->h.type == WIRE_HELLO && !c->registered && h.kind == WIRE_DRIVER)
        return become_driver(c, &h, f);
    else if (f->h.type == WIRE_HELLO && !c->registered)
        on_hello(c, f->body, f->body_size);
    else if (f->h.type == WIRE_JOB_PART && !c->registered)
        on_part(c, f);
    else if (!c->registered)
        command_run_refuse(c, ERR_PROTOCOL, "the first frame must be HELLO");
    else if (!memory_run_on_command(c, f->h.type, f->body, f->body_size)
             && !why_run_on_command(c, f->h.type))
        command_run_refuse(c, ERR_PROTOCOL, "a frame that no command sends");
    return false;
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
        if (on_frame(c, &f))
            return;
        if (f.fd >= 0)
            close(f.fd); /* nobody asked for it */
    }
    if (c->cut || got < 0 || rc < 0)
        destroy(c);
}

void command_run_on_time(struct node *n, uint64_t now_ms)
{
    list_for_each_safe(m, &n->commands)
    {
        struct command *c = list_entry(m, struct command, list);
        if (c->registered || now_ms < c->hello_due_ms)
            continue;
        command_run_refuse(c, ERR_TIMEOUT, "no HELLO came in time");
        destroy(c);
    }
}

uint64_t command_run_next_deadline(const struct node *n)
{
    uint64_t at = UINT64_MAX;

    list_for_each(m, &n->commands)
    {
        const struct command *c = list_entry(m, struct command, list);
        if (!c->registered && c->hello_due_ms < at)
            at = c->hello_due_ms;
    }
    return at;
}

/* May this user ask? */
static bool is_allowed(int fd, struct ucred *who)
{
    socklen_t size = sizeof *who;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, who, &size) == 0
           && (who->uid == geteuid() || who->uid == 0);
}

/* NULL: no memory. It may be refused already. */
static struct command *add(struct node *n, int fd)
{
    struct command *c = xcalloc(1, sizeof *c);
    struct ucred who = {0};
    char text[160];

    c->link = unix_link_create(fd, OUT_MAX);
    if (c->link == NULL) {
        close(fd);
        free(c);
        return NULL;
    }
    c->magic = COMMAND_MAGIC;
    c->node = n;
    c->number = ++n->last_command;
    c->hello_due_ms = loop_now_ms() + HELLO_MS;
    for (int i = 0; i < WIRE_JOB_N_PARTS; i++)
        c->parts[i] = -1;
    list_append(&n->commands, &c->list);
    n->n_commands++;
    c->watch = loop_watch_fd(n->loop, fd, on_command, c);
    if (c->watch == NULL) {
        destroy(c);
        return NULL;
    }
    if (!is_allowed(fd, &who)) {
        snprintf(text,
                 sizeof text,
                 "this cluster belongs to user %u, who alone may ask it: you are user %u",
                 (unsigned)geteuid(),
                 (unsigned)who.uid);
        command_run_refuse(c, ERR_INVALID, text);
    } else if (n->n_commands > COMMANDS_MAX) {
        command_run_refuse(c,
                           ERR_FULL,
                           "too many ray commands and new programs at once: try again");
    }
    return c;
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
    struct command *c = fd >= 0 ? add(n, fd) : NULL;
    if (c != NULL) { /* at once: its descriptor is the spare one's */
        command_run_refuse(c,
                           ERR_FULL,
                           "the raylet has no descriptor left: raise its limit (ulimit -n)");
        destroy(c);
    }
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
    unlink(a.sun_path); /* of a raylet that was killed: the session's lock is ours */
    if (n->command_fd < 0 || bind(n->command_fd, (struct sockaddr *)&a, sizeof a) != 0
        || chmod(a.sun_path, 0600) != 0 || listen(n->command_fd, COMMAND_WAITS) != 0)
        rc = err_sys(err, "listen on the session's socket");
    if (folder >= 0)
        close(folder);
    return rc;
}

int command_run_open(struct node *n, struct err *err)
{
    n->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    err_set(err, ERR_NO_MEMORY, "no memory for the session's socket");
    if (listen_at(n, err) == 0)
        n->command_watch = loop_watch_fd(n->loop, n->command_fd, on_knock, n);
    if (n->command_watch != NULL)
        return 0;
    log_warn("command", "no_socket", "msg=\"%s\"", err->text);
    return -1;
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
