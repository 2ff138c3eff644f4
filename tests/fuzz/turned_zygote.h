/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_TURNED_ZYGOTE_H
#define TESTS_FUZZ_TURNED_ZYGOTE_H
/*
 * The processes of a node that is the real one: forks are entries of a table, and nothing of this
 * machine is started, killed or measured. Of one file of a program, which defines on_heard.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "raylet/node_private.h"

#define WORKERS_MAX 32
#define FIRST_PID   0x7f000000 /* above all that there can be */

struct zygote {
    const struct zygote_ops *ops;
    void *arg;
};

static struct worker {
    struct unix_link *link; /* its end; NULL: closed */
    struct zygote *zygote;  /* NULL: the entry is free */
    uint64_t token;
    int32_t pid;           /* -1: it has died */
    int fds[ZYGOTE_PARTS]; /* the link's, which is closed, and the others of a spawn */
    bool is_born;
} workers[WORKERS_MAX];
static unsigned n_workers; /* entries from here on were never used */
static int32_t last_pid;

struct zygote *zygote_create(struct loop *loop,
                             const struct zygote_config *config,
                             const struct zygote_ops *ops,
                             void *arg,
                             struct err *err)
{
    struct zygote *z = xcalloc(1, sizeof *z);

    (void)loop;
    (void)err;
    ASSERT(config->executable_fd >= 0);
    z->ops = ops;
    z->arg = arg;
    return z;
}

static void forget(struct worker *w)
{
    unix_link_destroy(w->link);
    for (int k = 1; k < ZYGOTE_PARTS; k++)
        close(w->fds[k]);
    *w = (struct worker){0};
}

void zygote_destroy(struct zygote *z)
{
    for (int i = 0; z != NULL && i < WORKERS_MAX; i++)
        if (workers[i].zygote == z)
            forget(&workers[i]);
    free(z);
}

int zygote_start(struct zygote *z, struct err *err)
{
    (void)z;
    (void)err;
    return 0;
}

int zygote_spawn(struct zygote *z,
                 uint64_t token,
                 uint32_t slot,
                 const int fds[ZYGOTE_PARTS],
                 struct err *err)
{
    unsigned i = 0;

    (void)slot;
    while (i < WORKERS_MAX && workers[i].zygote != NULL)
        i++;
    if (i == WORKERS_MAX) {
        for (int k = 0; k < ZYGOTE_PARTS; k++)
            close(fds[k]);
        return err_set(err, ERR_FULL, "no more");
    }
    workers[i] = (struct worker){.zygote = z, .token = token, .pid = ++last_pid};
    memcpy(workers[i].fds, fds, sizeof workers[i].fds);
    workers[i].link = unix_link_create(fds[0], 0);
    n_workers += i == n_workers;
    return 0;
}

void zygote_flush(struct zygote *z)
{
    (void)z;
}

bool zygote_stop(struct zygote *z, uint32_t end_ms)
{
    (void)z;
    (void)end_ms;
    return false;
}

bool zygote_end(struct zygote *z, int end_ms)
{
    (void)z;
    (void)end_ms;
    return true;
}

const char *zygote_why(const struct zygote *z)
{
    (void)z;
    return "";
}

int32_t zygote_pid(const struct zygote *z)
{
    (void)z;
    return 0;
}

void zygote_sweep(const int32_t *spared, size_t n_spared)
{
    (void)spared;
    (void)n_spared;
}

bool zygote_is_parent(const struct zygote *z, int32_t pid)
{
    (void)z;
    return pid > FIRST_PID;
}

void machine_run_init(struct node *n)
{
    (void)n;
}

void machine_run_fini(struct node *n)
{
    (void)n;
}

/* Instead of libc's. */
int kill(pid_t pid, int signal);
int kill(pid_t pid, int signal)
{
    (void)pid;
    (void)signal;
    return 0;
}

/* --- what processes say, and hear --- */

static void say(struct unix_link *link, uint8_t type, uint32_t route, const void *body, size_t size)
{
    if (link != NULL && unix_link_send(link, FRAME_CONTROL, type, route, body, size) == 0)
        unix_link_flush(link, NULL);
}

static void say_hello(struct unix_link *link, enum wire_kind kind, uint64_t token, int32_t pid)
{
    struct wire_hello h = {.protocol = WIRE_PROTOCOL,
                           .kind = kind,
                           .token = token,
                           .pid = pid,
                           .build = NODE_BUILD};

    say(link, WIRE_HELLO, 0, &h, sizeof h);
}

/* The file that includes this sees what the node says to one. */
void on_heard(const struct unix_link *link, const struct frame *f);

static void listen_to_node(struct unix_link *link)
{
    struct frame f;
    struct err err;
    int rc;
    long n;

    do {
        n = link != NULL ? unix_link_read(link, &err) : 0;
        while (link != NULL && (rc = unix_link_next(link, &f, &err)) != 0) {
            ASSERT(rc == 1);
            on_heard(link, &f);
            if (f.fd >= 0)
                close(f.fd);
        }
    } while (n > 0);
}

#endif /* TESTS_FUZZ_TURNED_ZYGOTE_H */
