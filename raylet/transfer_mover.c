/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Two queues under one lock: commands to the thread, events to the loop; each side
 * takes all of its queue at once and works on it without the lock. An eventfd is written only when
 * its queue was empty. Links are the thread's alone; a command for one that has ended is answered
 * as if it had broken before anything moved, so each memory that was handed over comes back once.
 *
 * A link is read until EAGAIN, or a budget, so that others have their turn: a frame's bytes first,
 * then, for DATA, the bytes right to where its READ wanted them. What a dialer asked is counted: an
 * answer without a question ends the link, and a dialer with too many open questions is not read.
 */
#include "raylet/transfer_mover.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

#define MOVER_MAGIC 0x4d4f5652u
#define STACK_BYTES (256u << 10)
#define IO_BYTES    (1u << 20) /* of one system call */
#define TURN_BYTES  (4u << 20) /* of one link, then the next one */
#define HASH_BYTES  (256u << 10)
#define HASH_TURN   16 /* pieces of HASH_BYTES */
#define EVENTS      16

enum command_kind { ADD, SEND, READ, CUT, HASH };
struct command {
    enum command_kind kind;
    bool asks;
    int fd;
    uint64_t link, ticket, max;
    void *bytes; /* of SEND only read */
    struct transfer_frame frame;
};

/* Something to be sent. */
struct out {
    struct list node;
    struct transfer_frame frame;
    const uint8_t *bytes;
    uint64_t ticket, n, done; /* of frame and bytes */
};

/* A READ without an answer. */
struct want {
    struct list node;
    uint64_t id, length;
    uint8_t *bytes;
};

struct link {
    struct list node;
    uint64_t id;
    int fd;
    uint32_t interest; /* of epoll */
    bool asks;
    uint32_t n_open; /* questions that were asked and are not answered */
    struct list outs, wants;
    struct transfer_frame frame;
    size_t n_frame;
    struct want *body; /* what comes now belongs to; off wants */
    uint64_t n_body;
};

struct hashing {
    struct list node;
    uint64_t ticket, at, max;
    int fd;
    XXH3_state_t *state;
};

struct mover {
    unsigned magic;
    int event_fd, wake_fd, epoll_fd;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, up to: the loop's */
    bool stopping;
    struct command *commands;
    size_t n_commands, commands_room;
    struct mover_event *events;
    size_t n_events, events_room;
    /* the loop's */
    struct mover_event *taken;
    size_t n_taken, taken_at, taken_room;
    /* the thread's */
    struct list links, hashings;
    uint8_t *buf;
};

static void wake(int fd)
{
    (void)!write(fd, &(uint64_t){1}, sizeof(uint64_t)); /* it counts: full is awake too */
}

/* --- the thread --- */

static void tell(struct mover *m, const struct mover_event *event)
{
    pthread_mutex_lock(&m->lock);
    if (m->n_events == m->events_room) {
        m->events_room = m->events_room == 0 ? 32 : m->events_room * 2;
        m->events = xrealloc(m->events, m->events_room * sizeof *m->events);
    }
    m->events[m->n_events++] = *event;
    bool was_empty = m->n_events == 1;
    pthread_mutex_unlock(&m->lock);
    if (was_empty)
        wake(m->event_fd);
}

static void tell_moved(struct mover *m, uint64_t link, uint64_t ticket, uint64_t n, bool is_whole)
{
    tell(m,
         &(struct mover_event){.kind = MOVER_MOVED,
                               .link = link,
                               .ticket = ticket,
                               .n = n,
                               .is_whole = is_whole});
}

static struct link *find_link(const struct mover *m, uint64_t id)
{
    list_for_each(n, &m->links)
    {
        struct link *k = list_entry(n, struct link, node);
        if (k->id == id)
            return k;
    }
    return NULL;
}

static void end_out(struct mover *m, const struct link *k, struct out *o)
{
    uint64_t n = o->done > sizeof o->frame ? o->done - sizeof o->frame : 0;

    list_remove(&o->node);
    if (o->bytes != NULL)
        tell_moved(m, k->id, o->ticket, n, n == o->n);
    free(o);
}

static void end_link(struct mover *m, struct link *k, int error, const char *why)
{
    list_remove(&k->node);
    /* close() alone ends the watch of a description's last descriptor only: a process that is
     * being spawned has another until it executes */
    epoll_ctl(m->epoll_fd, EPOLL_CTL_DEL, k->fd, NULL);
    close(k->fd);
    while (!list_empty(&k->outs))
        end_out(m, k, list_entry(k->outs.next, struct out, node));
    if (k->body != NULL) {
        tell_moved(m, k->id, k->body->id, k->n_body, false);
        free(k->body);
    }
    list_for_each_safe(n, &k->wants)
    {
        struct want *w = list_entry(n, struct want, node);
        tell_moved(m, k->id, w->id, 0, false);
        free(w);
    }
    tell(m, &(struct mover_event){.kind = MOVER_ENDED, .link = k->id, .error = error, .why = why});
    free(k);
}

static void set_interest(struct mover *m, struct link *k)
{
    bool is_full = !k->asks && k->n_open >= MOVER_REQUESTS_MAX;
    uint32_t want = (is_full ? 0 : EPOLLIN) | (list_empty(&k->outs) ? 0 : EPOLLOUT);

    if (want == k->interest)
        return;
    k->interest = want;
    epoll_ctl(m->epoll_fd,
              EPOLL_CTL_MOD,
              k->fd,
              &(struct epoll_event){.events = want, .data.ptr = k});
}

/* false: the link has ended. */
static bool write_some(struct mover *m, struct link *k)
{
    for (uint64_t budget = TURN_BYTES; budget > 0 && !list_empty(&k->outs);) {
        struct out *o = list_entry(k->outs.next, struct out, node);
        uint64_t head = o->done < sizeof o->frame ? sizeof o->frame - o->done : 0;
        uint64_t at = head > 0 ? 0 : o->done - sizeof o->frame;
        uint64_t n = o->n - at < IO_BYTES ? o->n - at : IO_BYTES;
        struct iovec v[2] = {{(uint8_t *)&o->frame + sizeof o->frame - head, head},
                             {n > 0 ? (void *)(uintptr_t)(o->bytes + at) : NULL, n}};
        ssize_t done = writev(k->fd, head > 0 ? v : v + 1, head > 0 ? 1 + (n > 0) : 1);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EAGAIN)
            return true;
        if (done <= 0) {
            end_link(m, k, errno, "write");
            return false;
        }
        o->done += (uint64_t)done;
        budget -= (uint64_t)done < budget ? (uint64_t)done : budget;
        if (o->done == sizeof o->frame + o->n) {
            if (!k->asks)
                k->n_open--;
            end_out(m, k, o);
        }
    }
    return true;
}

static struct want *find_want(const struct link *k, uint64_t id)
{
    list_for_each(n, &k->wants)
    {
        struct want *w = list_entry(n, struct want, node);
        if (w->id == id)
            return w;
    }
    return NULL;
}

/* A whole frame is there. NULL, or why the link must end. */
static const char *on_frame(struct mover *m, struct link *k)
{
    const struct transfer_frame *f = &k->frame;
    struct want *w;

    if (f->word != TRANSFER_WORD)
        return "garbage";
    if (!k->asks) {
        if (f->type != TRANSFER_ASK && f->type != TRANSFER_READ)
            return "a frame that is no request";
        k->n_open++;
    } else {
        if (k->n_open == 0)
            return "an answer that nobody asked for";
        k->n_open--;
        w = find_want(k, f->id);
        switch (f->type) {
        case TRANSFER_DATA:
            if (w == NULL || f->length != w->length)
                return "bytes that nobody asked for";
            list_remove(&w->node);
            k->body = w;
            k->n_body = 0;
            return NULL;
        case TRANSFER_GONE:
            if (w != NULL)
                list_remove(&w->node);
            free(w);
            break;
        case TRANSFER_IS:
            if (w != NULL)
                return "a size instead of bytes";
            break;
        default:
            return "a frame that is no answer";
        }
    }
    tell(m, &(struct mover_event){.kind = MOVER_FRAME, .link = k->id, .frame = *f});
    return NULL;
}

/* false: the link has ended. */
static bool read_some(struct mover *m, struct link *k)
{
    for (uint64_t budget = TURN_BYTES; budget > 0;) {
        uint8_t *to = (uint8_t *)&k->frame + k->n_frame;
        size_t n = sizeof k->frame - k->n_frame;
        if (k->body != NULL) {
            uint64_t left = k->body->length - k->n_body;
            to = k->body->bytes + k->n_body;
            n = left < IO_BYTES ? (size_t)left : IO_BYTES;
        }
        ssize_t done = read(k->fd, to, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EAGAIN)
            return true;
        if (done <= 0) {
            end_link(m, k, done < 0 ? errno : 0, done < 0 ? "read" : "closed");
            return false;
        }
        budget -= (uint64_t)done < budget ? (uint64_t)done : budget;
        if (k->body == NULL) {
            k->n_frame += (size_t)done;
            if (k->n_frame < sizeof k->frame)
                continue;
            k->n_frame = 0;
            const char *why = on_frame(m, k);
            if (why != NULL) {
                end_link(m, k, EPROTO, why);
                return false;
            }
            if (!k->asks && k->n_open >= MOVER_REQUESTS_MAX)
                return true;
            continue;
        }
        k->n_body += (uint64_t)done;
        if (k->n_body < k->body->length)
            continue;
        tell_moved(m, k->id, k->body->id, k->n_body, true);
        free(k->body);
        k->body = NULL;
    }
    return true;
}

static void add_link(struct mover *m, const struct command *c)
{
    struct link *k = xcalloc(1, sizeof *k);

    k->id = c->link;
    k->fd = c->fd;
    k->asks = c->asks;
    k->interest = EPOLLIN;
    list_init(&k->outs);
    list_init(&k->wants);
    list_append(&m->links, &k->node);
    struct epoll_event e = {.events = k->interest, .data.ptr = k};
    if (epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, k->fd, &e) != 0)
        end_link(m, k, errno, "watch");
}

static void add_out(struct mover *m, struct link *k, const struct command *c)
{
    struct out *o = xcalloc(1, sizeof *o);
    bool was_idle = list_empty(&k->outs);

    o->frame = c->frame;
    if (c->kind == SEND && c->bytes != NULL) {
        o->bytes = c->bytes;
        o->n = c->frame.length;
        o->ticket = c->ticket;
    }
    list_append(&k->outs, &o->node);
    if (k->asks)
        k->n_open++;
    if (!was_idle || write_some(m, k))
        set_interest(m, k);
}

static void add_want(struct link *k, const struct command *c)
{
    struct want *w = xcalloc(1, sizeof *w);

    w->id = c->frame.id;
    w->length = c->frame.length;
    w->bytes = c->bytes;
    list_append(&k->wants, &w->node);
}

static void add_hashing(struct mover *m, const struct command *c)
{
    struct hashing *h = xcalloc(1, sizeof *h);

    h->ticket = c->ticket;
    h->fd = c->fd;
    h->max = c->max;
    h->state = XXH3_createState();
    ASSERT(h->state != NULL);
    XXH3_128bits_reset(h->state);
    list_append(&m->hashings, &h->node);
}

static void do_command(struct mover *m, const struct command *c)
{
    struct link *k = find_link(m, c->link);

    switch (c->kind) {
    case ADD:
        add_link(m, c);
        break;
    case SEND:
        if (k != NULL)
            add_out(m, k, c);
        else if (c->bytes != NULL)
            tell_moved(m, c->link, c->ticket, 0, false);
        break;
    case READ:
        if (k == NULL) {
            tell_moved(m, c->link, c->frame.id, 0, false);
            break;
        }
        add_want(k, c);
        add_out(m, k, c);
        break;
    case CUT:
        if (k != NULL)
            end_link(m, k, 0, "");
        break;
    case HASH:
        add_hashing(m, c);
        break;
    }
}

static void end_hashing(struct mover *m, struct hashing *h, bool is_whole, int error)
{
    struct mover_event event = {.kind = MOVER_HASHED,
                                .ticket = h->ticket,
                                .is_whole = is_whole,
                                .error = error,
                                .n = h->at};
    XXH128_canonical_t hash;

    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(h->state));
    memcpy(event.hash, hash.digest, sizeof event.hash);
    tell(m, &event);
    list_remove(&h->node);
    XXH3_freeState(h->state);
    close(h->fd);
    free(h);
}

/* A part of the oldest. */
static void hash_some(struct mover *m)
{
    struct hashing *h = list_entry(m->hashings.next, struct hashing, node);

    if (m->buf == NULL)
        m->buf = xmalloc(HASH_BYTES);
    for (int i = 0; i < HASH_TURN; i++) {
        ssize_t n = pread(h->fd, m->buf, HASH_BYTES, (off_t)h->at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            end_hashing(m, h, n == 0, n < 0 ? errno : 0);
            return;
        }
        XXH3_128bits_update(h->state, m->buf, (size_t)n);
        h->at += (uint64_t)n;
        if (h->at > h->max) {
            end_hashing(m, h, false, EFBIG);
            return;
        }
    }
}

static void do_commands(struct mover *m, struct command **v, size_t *room)
{
    pthread_mutex_lock(&m->lock);
    struct command *todo = m->commands;
    size_t n = m->n_commands, todo_room = m->commands_room;
    m->commands = *v;
    m->commands_room = *room;
    m->n_commands = 0;
    pthread_mutex_unlock(&m->lock);
    for (size_t i = 0; i < n; i++)
        do_command(m, &todo[i]);
    *v = todo;
    *room = todo_room;
}

static bool is_stopping(struct mover *m)
{
    pthread_mutex_lock(&m->lock);
    bool stopping = m->stopping;
    pthread_mutex_unlock(&m->lock);
    return stopping;
}

static void *mover_main(void *arg)
{
    struct mover *m = arg;
    struct epoll_event events[EVENTS];
    struct command *spare = NULL;
    size_t room = 0;

    pthread_setname_np(pthread_self(), "transfer");
    while (!is_stopping(m)) {
        int n = epoll_wait(m->epoll_fd, events, EVENTS, list_empty(&m->hashings) ? -1 : 0);
        bool has_commands = false;
        for (int i = 0; i < n; i++) {
            struct link *k = events[i].data.ptr; /* one event a link, and it ends only itself */
            if (k == NULL) {
                has_commands = true;
                (void)!read(m->wake_fd, &(uint64_t){0}, sizeof(uint64_t));
                continue;
            }
            if ((events[i].events & EPOLLOUT) != 0 && !write_some(m, k))
                continue;
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !read_some(m, k))
                continue;
            set_interest(m, k);
        }
        if (has_commands)
            do_commands(m, &spare, &room);
        if (!list_empty(&m->hashings))
            hash_some(m);
    }
    free(spare);
    return NULL;
}

/* --- the loop's side --- */

static int start(struct mover *m)
{
    pthread_attr_t attr;
    sigset_t all, before;

    if (pthread_attr_init(&attr) != 0)
        return -1;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all); /* they are for the loop */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&m->thread, &attr, mover_main, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r;
}

static void free_all(struct mover *m)
{
    if (m->epoll_fd >= 0)
        close(m->epoll_fd);
    if (m->wake_fd >= 0)
        close(m->wake_fd);
    pthread_mutex_destroy(&m->lock);
    free(m->commands);
    free(m->events);
    free(m->taken);
    free(m->buf);
    m->magic = 0;
    free(m);
}

struct mover *mover_create(int event_fd, struct err *err)
{
    struct mover *m = xcalloc(1, sizeof *m);

    m->magic = MOVER_MAGIC;
    m->event_fd = event_fd;
    list_init(&m->links);
    list_init(&m->hashings);
    pthread_mutex_init(&m->lock, NULL);
    m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN};
    if (m->wake_fd < 0 || m->epoll_fd < 0
        || epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, m->wake_fd, &e) != 0) {
        err_sys(err, "watch the data port's connections");
        free_all(m);
        return NULL;
    }
    errno = start(m);
    if (errno != 0) {
        err_sys(err, "start the data port's thread");
        free_all(m);
        return NULL;
    }
    return m;
}

void mover_destroy(struct mover *m)
{
    if (m == NULL)
        return;
    CHECK_MAGIC(m, MOVER_MAGIC);
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    pthread_mutex_unlock(&m->lock);
    wake(m->wake_fd);
    pthread_join(m->thread, NULL);
    for (size_t i = 0; i < m->n_commands; i++)
        if (m->commands[i].kind == ADD || m->commands[i].kind == HASH)
            close(m->commands[i].fd);
    while (!list_empty(&m->links))
        end_link(m, list_entry(m->links.next, struct link, node), 0, "");
    while (!list_empty(&m->hashings))
        end_hashing(m, list_entry(m->hashings.next, struct hashing, node), false, ECANCELED);
    free_all(m);
}

bool mover_next(struct mover *m, struct mover_event *out)
{
    CHECK_MAGIC(m, MOVER_MAGIC);
    if (m->taken_at == m->n_taken) {
        struct mover_event *v = m->taken;
        size_t room = m->taken_room;
        pthread_mutex_lock(&m->lock);
        m->taken = m->events;
        m->taken_room = m->events_room;
        m->n_taken = m->n_events;
        m->events = v;
        m->events_room = room;
        m->n_events = 0;
        pthread_mutex_unlock(&m->lock);
        m->taken_at = 0;
    }
    if (m->taken_at == m->n_taken)
        return false;
    *out = m->taken[m->taken_at++];
    return true;
}

static void post(struct mover *m, const struct command *command)
{
    CHECK_MAGIC(m, MOVER_MAGIC);
    pthread_mutex_lock(&m->lock);
    if (m->n_commands == m->commands_room) {
        m->commands_room = m->commands_room == 0 ? 32 : m->commands_room * 2;
        m->commands = xrealloc(m->commands, m->commands_room * sizeof *m->commands);
    }
    m->commands[m->n_commands++] = *command;
    bool was_empty = m->n_commands == 1;
    pthread_mutex_unlock(&m->lock);
    if (was_empty)
        wake(m->wake_fd);
}

void mover_add(struct mover *m, uint64_t link, int fd, bool asks)
{
    post(m, &(struct command){.kind = ADD, .link = link, .fd = fd, .asks = asks});
}

void mover_send(struct mover *m,
                uint64_t link,
                const struct transfer_frame *frame,
                const void *bytes,
                uint64_t ticket)
{
    post(m,
         &(struct command){.kind = SEND,
                           .link = link,
                           .ticket = ticket,
                           .bytes = (void *)(uintptr_t)bytes,
                           .frame = *frame});
}

void mover_read(struct mover *m, uint64_t link, const struct transfer_frame *frame, void *bytes)
{
    post(m, &(struct command){.kind = READ, .link = link, .bytes = bytes, .frame = *frame});
}

void mover_cut(struct mover *m, uint64_t link)
{
    post(m, &(struct command){.kind = CUT, .link = link});
}

void mover_hash(struct mover *m, uint64_t ticket, int fd, uint64_t max)
{
    post(m, &(struct command){.kind = HASH, .ticket = ticket, .fd = fd, .max = max});
}
