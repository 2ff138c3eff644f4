/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that put, read, pass on, hold and free objects through the real client over real
 * memfds are killed at random instants, by a parent that plays the raylet with the real store. Each
 * reader checks the bytes it has pinned: memory that was lent again too early shows. The parent
 * checks the store's books after each death and now and then asks all to let go of what they have:
 * then everything must be free while they live, what the dead left too.
 *
 * KILLS=10000 kills so many; without it as many as a few seconds hold.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "objstore/client.h"
#include "objstore/store.h"

#define N_SLOTS    6u
#define N_ENTRIES  600u
#define CAPACITY   (3ull << 20)
#define WAIT_MS    30
#define SECONDS    4   /* without KILLS */
#define ROUND      200 /* kills between two times that all let go */
#define N_OWNED    120 /* objects of a process, */
#define N_KEPT     100 /* reads in progress, */
#define N_TASKS    64  /* tasks it has given out and not heard of, */
#define N_RESULTS  3
#define N_UNSAID   64   /* and results it could not tell of yet */
#define STRIDE     1024 /* one word of so many bytes is written and checked */
#define FAILED     99   /* exit status of a process that saw what may not be */
#define NOT_PINNED (-1)

static uint64_t seed;

static uint32_t below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static bool one_in(uint32_t n)
{
    return below(n) == 0;
}

static uint64_t now_ms(void)
{
    return clock_now_ns() / 1000000u;
}

/* --- what parent and processes say to each other --- */

/* Frames on the socket between a process and the parent. */
struct frame {
    enum { LEND, RECORD, DOORBELL, LET_GO, GO_ON, HAVE_LET_GO, LENT, REFUSED, RECALL } kind;
    uint32_t n_places;
    uint64_t ticket, need, want, offset, size;
    struct store_record record;
    uint64_t places[STORE_LENT_MAX];
};

struct object {
    uint64_t place, offset, size;
};

/* Between processes; a write of one is atomic. */
struct note {
    enum { LOOK, WORK, DONE } kind;
    uint32_t to, from; /* numbers */
    uint32_t from_slot;
    uint64_t counter;
    uint32_t attempt, n;
    struct object objects[N_RESULTS];
};

static struct {
    int index_fd, arena_fd;
    int inbox[N_SLOTS][2]; /* pipes: they outlive their readers */
    struct shared {
        _Atomic uint32_t numbers[N_SLOTS]; /* 0: dead, and reaped */
        char text[400];                    /* what a process says that fails */
        _Atomic uint64_t n_puts, n_gets, n_holds, n_frees, n_results, n_aborts, n_refused, n_nested;
    } * shared;
} world;

/* --- a process --- */

struct kept {
    struct object object;
    int pin; /* NOT_PINNED: held */
};

struct task {
    uint64_t counter;
    uint32_t attempt, slot, number; /* of who does it, */
    bool is_lost;                   /* and is dead */
};

static struct {
    uint32_t slot, number;
    int sock;
    struct store_client *c;
    bool bell, asked, lets_go, has_let_go;
    uint64_t last_ticket, last_counter;
    struct object owned[N_OWNED];
    uint32_t n_owned;
    struct kept kept[N_KEPT];
    uint32_t n_kept;
    struct task tasks[N_TASKS];
    uint32_t n_tasks;
    struct note unsaid[N_UNSAID];
    uint32_t n_unsaid;
} me;

__attribute__((format(printf, 1, 2))) _Noreturn static void give_up(const char *fmt, ...)
{
    va_list ap;
    char text[sizeof world.shared->text];

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(world.shared->text, text, sizeof text);
    _exit(FAILED);
}

static void say(const struct frame *f)
{
    while (send(me.sock, f, sizeof *f, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            _exit(0); /* the parent has gone */
}

static void ring_if_asked(void)
{
    if (me.bell)
        say(&(struct frame){.kind = DOORBELL});
    me.bell = false;
}

static void post_frame(const struct store_record *r)
{
    say(&(struct frame){.kind = RECORD, .record = *r});
}

/* Now and then as if the ring were full. */
static void post(const struct store_record *r)
{
    bool half = false;

    if (one_in(20) || !store_client_post(me.c, r, &half))
        post_frame(r);
    me.bell |= half;
}

static void post_unsent(void)
{
    struct store_record r;

    while (store_client_unsent(me.c, &r))
        post_frame(&r);
}

static void ask(uint64_t size)
{
    struct frame f = {.kind = LEND, .ticket = ++me.last_ticket};

    store_client_request(me.c, size, now_ms(), &f.need, &f.want, &f.n_places);
    me.asked = true;
    say(&f);
}

/* One frame; wait: until there is one. The kind, or -1: none. */
static int hear(bool wait)
{
    struct frame f;
    struct err err;
    ssize_t n;

    while ((n = recv(me.sock, &f, sizeof f, wait ? 0 : MSG_DONTWAIT)) < 0 && errno == EINTR)
        ;
    if (n < 0 && errno == EAGAIN)
        return -1;
    if (n != sizeof f)
        _exit(0);
    switch (f.kind) {
    case LENT:
        me.asked = false;
        if (store_client_on_lent(me.c, f.offset, f.size, f.places, f.n_places, now_ms(), &err) != 0)
            give_up("%s", err.text);
        post_unsent();
        break;
    case REFUSED:
        me.asked = false;
        world.shared->n_refused++;
        break;
    case RECALL:
        store_client_on_recall(me.c);
        post_unsent();
        break;
    case LET_GO:
        me.lets_go = true;
        me.has_let_go = false;
        break;
    case GO_ON:
        me.lets_go = false;
        break;
    case LEND:
    case RECORD:
    case DOORBELL:
    case HAVE_LET_GO:
        give_up("frame of kind %d", f.kind);
    }
    return (int)f.kind;
}

/* What the word at that offset of an object must be. */
static uint64_t mark(uint64_t place, uint64_t offset)
{
    return (place * 0x9e3779b97f4a7c15u) ^ (offset + 1);
}

static void check_bytes(const struct object *o, const char *how)
{
    const char *bytes = store_client_read(me.c, o->offset, o->size);

    if (bytes == NULL)
        give_up("%lx is outside", (unsigned long)o->place);
    for (uint64_t i = 0; i + 8 <= o->size; i += STRIDE) {
        uint64_t w;
        memcpy(&w, bytes + i, sizeof w);
        if (w != mark(o->place, i))
            give_up("process %u: %s object %lx at %lx + %lx is overwritten by %lx",
                    me.number,
                    how,
                    (unsigned long)o->place,
                    (unsigned long)o->offset,
                    (unsigned long)i,
                    (unsigned long)w);
    }
}

static void let_go_of(uint32_t i)
{
    struct kept *k = &me.kept[i];
    struct store_record r = {.kind = STORE_UNHOLD, .place = k->object.place};
    bool bell = false;

    check_bytes(&k->object, k->pin == NOT_PINNED ? "held" : "pinned");
    if (k->pin != NOT_PINNED)
        bell = store_client_unpin(me.c, k->pin);
    else if (!store_client_unhold(me.c, k->object.place, &bell))
        post_frame(&r);
    me.bell |= bell;
    me.kept[i] = me.kept[--me.n_kept];
}

static void free_owned(uint32_t i)
{
    check_bytes(&me.owned[i], "own");
    post(&(struct store_record){.kind = STORE_FREE, .place = me.owned[i].place});
    me.owned[i] = me.owned[--me.n_owned];
    world.shared->n_frees++;
}

static void free_some(uint32_t n)
{
    while (n-- > 0) {
        if (me.n_owned > 0)
            free_owned(below(me.n_owned));
        if (me.n_kept > 0)
            let_go_of(below(me.n_kept));
    }
}

static bool pass_note(uint32_t slot, const struct note *n)
{
    return write(world.inbox[slot][1], n, sizeof *n) == sizeof *n;
}

/* Makes an object for owner, whose bytes from the second word on name others of ours. false: no
 * memory now. */
static bool make_object(uint32_t owner, uint64_t counter, uint32_t attempt, struct object *out)
{
    uint64_t size = one_in(40)  ? 100000 + below(1000000)
                    : one_in(4) ? 8 + below(60000)
                                : 8 + below(5000);
    struct store_extent e;

    while (!store_client_alloc(me.c, size, &e)) {
        if (!me.asked)
            ask(size);
        ring_if_asked();
        if (hear(true) == REFUSED) {
            free_some(10);
            return false;
        }
    }
    char *bytes = store_client_write(me.c, &e);
    for (uint64_t i = 0; i + 8 <= size; i += STRIDE) {
        uint64_t w = mark(e.place, i);
        memcpy(bytes + i, &w, sizeof w);
    }
    if (one_in(20)) {
        store_client_abort(me.c, &e);
        post_unsent();
        return false;
    }
    uint64_t n_inner = 0; /* refs inside: behind the first word */
    struct object inner[4];
    if (size >= 8 + 8 + sizeof inner)
        for (; n_inner < 4 && n_inner < me.n_owned; n_inner++)
            inner[n_inner] = me.owned[below(me.n_owned)];
    if (size >= 8 + 8 + sizeof inner) {
        memcpy(bytes + 8, &n_inner, sizeof n_inner);
        memcpy(bytes + 16, inner, n_inner * sizeof *inner);
    }
    post(&(struct store_record){.kind = STORE_SEAL,
                                .owner = owner,
                                .place = e.place,
                                .offset = e.offset,
                                .size = size,
                                .counter = counter,
                                .attempt = (uint16_t)attempt});
    *out = (struct object){e.place, e.offset, size};
    if (store_client_wants_more(me.c) && !me.asked && !me.lets_go)
        ask(0);
    world.shared->n_puts++;
    return true;
}

static void put(void)
{
    struct object o;

    if (me.n_owned == N_OWNED || !make_object(me.number, ++me.last_counter, 0, &o))
        return;
    me.owned[me.n_owned++] = o;
    check_bytes(&me.owned[below(me.n_owned)], "own");
}

/* Reads what somebody told of; depth: of refs inside it. */
static void get(const struct object *o, int depth)
{
    bool bell = false;
    int pin = me.n_kept == N_KEPT ? -1 : store_client_pin(me.c, o->place, &bell);

    me.bell |= bell;
    if (pin < 0)
        return;
    world.shared->n_gets++;
    world.shared->n_nested += depth > 0;
    check_bytes(o, "just pinned");
    uint64_t n_inner = 0;
    struct object inner[4];
    if (o->size >= 8 + 8 + sizeof inner && depth < 3) {
        const char *bytes = store_client_read(me.c, o->offset, o->size);
        memcpy(&n_inner, bytes + 8, sizeof n_inner);
        memcpy(inner, bytes + 16, sizeof inner);
        if (n_inner > 4)
            give_up("%lu refs inside", (unsigned long)n_inner);
    }
    me.kept[me.n_kept++] = (struct kept){*o, pin};
    for (uint64_t i = 0; i < n_inner; i++)
        get(&inner[i], depth + 1);
}

static void hold(void)
{
    struct kept *k = &me.kept[below(me.n_kept)];
    bool bell = false;

    if (k->pin == NOT_PINNED)
        return;
    if (store_client_hold(me.c, k->pin, &bell)) {
        k->pin = NOT_PINNED;
        world.shared->n_holds++;
    } else {
        bell = true; /* the ring is full */
    }
    me.bell |= bell;
}

static void show(void)
{
    uint32_t slot = below(N_SLOTS);
    struct note n = {.kind = LOOK, .n = 1, .objects = {me.owned[below(me.n_owned)]}};

    pass_note(slot, &n);
}

/* --- tasks: their results belong to who gave them out --- */

static void give_task(void)
{
    uint32_t slot = below(N_SLOTS), number = world.shared->numbers[slot];
    struct note n = {.kind = WORK,
                     .to = number,
                     .from = me.number,
                     .from_slot = me.slot,
                     .counter = ++me.last_counter,
                     .attempt = below(3)};

    if (me.n_tasks == N_TASKS || number == 0 || slot == me.slot || !pass_note(slot, &n))
        return;
    me.tasks[me.n_tasks++] =
        (struct task){.counter = n.counter, .attempt = n.attempt, .slot = slot, .number = number};
}

static bool is_alive(uint32_t slot, uint32_t number)
{
    return world.shared->numbers[slot] == number;
}

static void tell_results(void)
{
    for (uint32_t i = 0; i < me.n_unsaid;) {
        struct note *n = &me.unsaid[i];
        if (!is_alive(n->from_slot, n->to) || pass_note(n->from_slot, n))
            *n = me.unsaid[--me.n_unsaid];
        else
            i++;
    }
}

static void work(const struct note *n)
{
    struct note done = {.kind = DONE,
                        .to = n->from,
                        .from_slot = n->from_slot,
                        .counter = n->counter,
                        .attempt = n->attempt};

    while (done.n < N_RESULTS && is_alive(n->from_slot, n->from))
        done.n += make_object(n->from, n->counter, n->attempt, &done.objects[done.n]);
    if (me.lets_go) {
        store_client_on_recall(me.c);
        post_unsent();
    }
    me.unsaid[me.n_unsaid++] = done;
    world.shared->n_results++;
}

static void abort_task(uint32_t i)
{
    post(&(struct store_record){.kind = STORE_ABORT,
                                .owner = me.number,
                                .counter = me.tasks[i].counter,
                                .attempt = (uint16_t)me.tasks[i].attempt});
    me.tasks[i] = me.tasks[--me.n_tasks];
    world.shared->n_aborts++;
}

/* Its results are ours from now on. */
static void take_results(const struct note *n)
{
    uint32_t i = 0;

    while (i < me.n_tasks && me.tasks[i].counter != n->counter)
        i++;
    if (i == me.n_tasks)
        give_up("results of something we have not given out");
    me.tasks[i] = me.tasks[--me.n_tasks];
    for (uint32_t k = 0; k < n->n; k++) {
        if (me.n_owned == N_OWNED)
            free_owned(below(N_OWNED));
        me.owned[me.n_owned++] = n->objects[k];
        check_bytes(&n->objects[k], "our result");
    }
}

static void read_inbox(void)
{
    struct note n;

    while (me.n_unsaid < N_UNSAID
           && read(world.inbox[me.slot][0], &n, sizeof n) == (ssize_t)sizeof n) {
        switch (n.kind) {
        case LOOK:
            if (!me.lets_go)
                get(&n.objects[0], 0);
            break;
        case WORK:
            if (n.to == me.number) /* else for who had this slot before */
                work(&n);
            break;
        case DONE:
            if (n.to == me.number)
                take_results(&n);
            break;
        }
    }
}

/* What the dead have told lies in the inbox; the rest of theirs is aborted. */
static void look_after_tasks(void)
{
    for (uint32_t i = 0; i < me.n_tasks; i++)
        me.tasks[i].is_lost = !is_alive(me.tasks[i].slot, me.tasks[i].number);
    read_inbox();
    for (uint32_t i = 0; me.n_unsaid < N_UNSAID && i < me.n_tasks;)
        if (me.tasks[i].is_lost)
            abort_task(i);
        else
            i++;
    tell_results();
}

static void let_go_of_all(void)
{
    while (me.n_owned > 0)
        free_owned(0);
    while (me.n_kept > 0)
        let_go_of(0);
    store_client_on_recall(me.c);
    post_unsent();
    if (me.has_let_go || me.asked || me.n_tasks + me.n_unsaid > 0)
        return;
    ring_if_asked();
    say(&(struct frame){.kind = HAVE_LET_GO});
    me.has_let_go = true;
}

static void do_something(void)
{
    uint32_t what = below(100);

    if (what < 25)
        put();
    else if (what < 45 && me.n_owned > 0)
        free_owned(below(me.n_owned));
    else if (what < 60 && me.n_owned > 0)
        show();
    else if (what < 65)
        give_task();
    else if (what < 80 && me.n_kept > 0)
        let_go_of(below(me.n_kept));
    else if (what < 90 && me.n_kept > 0)
        hold();
    else if (what < 92 && me.n_owned > 0)
        get(&me.owned[below(me.n_owned)], 0);
}

_Noreturn static void live(uint32_t slot, uint32_t number, int sock, int control_fd)
{
    struct err err;
    struct store_share *share =
        mmap(NULL, sizeof *share, PROT_READ | PROT_WRITE, MAP_SHARED, control_fd, 0);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (share == MAP_FAILED)
        give_up("control block: %s", strerror(errno));
    me.slot = slot;
    me.number = number;
    me.sock = sock;
    seed += number;
    me.c = store_client_create(world.index_fd, world.arena_fd, share, &err);
    if (me.c == NULL)
        give_up("%s", err.text);
    for (;;) {
        struct pollfd fds[2] = {{sock, POLLIN, 0}, {world.inbox[slot][0], POLLIN, 0}};
        if (me.lets_go)
            poll(fds, 2, 1); /* a death is seen on a page */
        if (me.lets_go || one_in(8)) {
            while (hear(false) >= 0)
                ;
            look_after_tasks();
        }
        if (me.lets_go)
            let_go_of_all();
        else
            do_something();
        ring_if_asked();
    }
}

/* --- the parent --- */

static struct {
    struct store *s;
    struct store_actions out;
    struct index_entry *index;
    struct process {
        pid_t pid; /* 0: none */
        uint32_t number;
        int sock;
        struct store_share *share;
        bool has_let_go, is_stopped;
    } p[N_SLOTS];
    uint32_t last_number;
    uint64_t n_killed, n_frames, n_let_go;
} raylet;

static void *make_memory(int *fd, const char *name, size_t size)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    ck_assert_int_ge(*fd, 0);
    ck_assert_int_eq(ftruncate(*fd, (off_t)size), 0);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    ck_assert(p != MAP_FAILED);
    ck_assert_int_eq(madvise(p, size, MADV_DONTFORK), 0);
    return p;
}

static void send_frame(uint32_t slot, const struct frame *f)
{
    ssize_t n = send(raylet.p[slot].sock, f, sizeof *f, MSG_DONTWAIT | MSG_NOSIGNAL);

    ck_assert_msg(n == sizeof *f || errno == EPIPE || errno == ECONNRESET,
                  "a process does not read: %s",
                  strerror(errno));
}

static void carry_out(void)
{
    for (size_t i = 0; i < raylet.out.n; i++) {
        const struct store_action *a = &raylet.out.v[i];
        struct frame f = {.kind = a->kind == STORE_LENT      ? LENT
                                  : a->kind == STORE_REFUSED ? REFUSED
                                                             : RECALL,
                          .ticket = a->ticket,
                          .offset = a->offset,
                          .size = a->size,
                          .n_places = a->n_places};
        memcpy(f.places, a->places, a->n_places * sizeof a->places[0]);
        send_frame(a->slot, &f);
    }
    raylet.out.n = 0;
}

static void start(uint32_t slot)
{
    struct process *p = &raylet.p[slot];
    int sv[2], control_fd;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
    *p = (struct process){.number = ++raylet.last_number, .sock = sv[0]};
    p->share = make_memory(&control_fd, "control", sizeof *p->share);
    store_add_process(raylet.s, slot, p->number, p->share);
    world.shared->numbers[slot] = p->number;
    fflush(stdout);
    p->pid = fork();
    if (p->pid == 0) /* before any check, which would write into the runner's messages */
        live(slot, p->number, sv[1], control_fd);
    ck_assert_int_ge(p->pid, 0);
    close(sv[1]);
    close(control_fd);
}

static void on_frame(uint32_t slot, const struct frame *f)
{
    raylet.n_frames++;
    store_drain(raylet.s, slot, now_ms(), &raylet.out);
    switch (f->kind) {
    case LEND:
        store_lend(raylet.s, slot, f->ticket, f->need, f->want, f->n_places, now_ms(), &raylet.out);
        break;
    case RECORD:
        store_on_record(raylet.s, slot, &f->record, now_ms(), &raylet.out);
        break;
    case DOORBELL:
        store_on_doorbell(raylet.s, now_ms(), &raylet.out);
        break;
    case HAVE_LET_GO:
        raylet.p[slot].has_let_go = true;
        break;
    case LENT:
    case REFUSED:
    case RECALL:
    case LET_GO:
    case GO_ON:
        ck_abort_msg("frame of kind %d", f->kind);
    }
    carry_out();
}

/* A frame of that process; false: there is none. */
static bool read_frame(uint32_t slot, struct frame *f)
{
    ssize_t n = recv(raylet.p[slot].sock, f, sizeof *f, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    return n == sizeof *f;
}

static void reap(uint32_t slot)
{
    struct process *p = &raylet.p[slot];
    struct frame f;
    int status;

    ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
    ck_assert_msg(!WIFEXITED(status) || WEXITSTATUS(status) != FAILED, "%s", world.shared->text);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
    while (read_frame(slot, &f))
        on_frame(slot, &f);
    store_remove_process(raylet.s, slot, now_ms(), &raylet.out);
    carry_out();
    world.shared->numbers[slot] = 0;
    close(p->sock);
    munmap(p->share, sizeof *p->share);
    p->pid = 0;
    store_selfcheck(raylet.s);
}

/* What has come from all, and what time it is. */
static void turn(int timeout_ms)
{
    struct pollfd fds[N_SLOTS];
    struct frame f;

    for (uint32_t i = 0; i < N_SLOTS; i++)
        fds[i] = (struct pollfd){raylet.p[i].pid > 0 ? raylet.p[i].sock : -1, POLLIN, 0};
    poll(fds, N_SLOTS, timeout_ms);
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        for (int n = 0; (fds[i].revents & POLLIN) != 0 && n < 32 && read_frame(i, &f); n++)
            on_frame(i, &f);
        if ((fds[i].revents & POLLHUP) != 0)
            reap(i); /* nobody has killed it: says why */
    }
    if (now_ms() >= store_next_deadline(raylet.s))
        store_on_time(raylet.s, now_ms(), &raylet.out);
    carry_out();
}

/* At no instant in particular. */
static void kill_one(void)
{
    uint32_t slot = below(N_SLOTS);
    struct process *p = &raylet.p[slot];
    uint64_t until = clock_now_ns() + below(60000);

    if (p->pid == 0)
        return;
    while (clock_now_ns() < until)
        ;
    kill(p->pid, SIGKILL);
    raylet.n_killed++;
    reap(slot);
}

static void stop_or_go_on(void)
{
    struct process *p = &raylet.p[below(N_SLOTS)];

    if (p->pid == 0)
        return;
    kill(p->pid, p->is_stopped ? SIGCONT : SIGSTOP);
    p->is_stopped = !p->is_stopped;
}

static bool have_all_let_go(void)
{
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (raylet.p[i].pid > 0 && !raylet.p[i].has_let_go)
            return false;
    return true;
}

static void check_free(void)
{
    struct store_stats t;

    store_selfcheck(raylet.s);
    store_get_stats(raylet.s, &t);
    ck_assert_msg(t.free == t.capacity && t.n_sealed + t.n_lent + t.n_freeing == 0,
                  "%lu bytes used, %lu lent, %u sealed, %u lent, %u freeing",
                  (unsigned long)t.used,
                  (unsigned long)t.lent,
                  t.n_sealed,
                  t.n_lent,
                  t.n_freeing);
    ck_assert_uint_eq(store_next(raylet.s, 0, NULL), 0);
    ck_assert_uint_eq(t.n_bad_records, 0);
}

/* Some die on the way. */
static void all_let_go(void)
{
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        struct process *p = &raylet.p[i];
        if (p->pid == 0)
            continue;
        if (p->is_stopped)
            kill(p->pid, SIGCONT);
        p->is_stopped = p->has_let_go = false;
        send_frame(i, &(struct frame){.kind = LET_GO});
    }
    while (!have_all_let_go()) {
        turn(1);
        if (one_in(40))
            kill_one();
    }
    for (uint64_t n = 0; n != raylet.n_frames;) { /* said before the last word, but by another */
        n = raylet.n_frames;
        turn(0);
    }
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (raylet.p[i].pid > 0)
            store_drain(raylet.s, i, now_ms(), &raylet.out);
    carry_out();
    check_free();
    raylet.n_let_go++;
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        if (raylet.p[i].pid > 0)
            send_frame(i, &(struct frame){.kind = GO_ON});
        else
            start(i);
    }
}

static void create_all(void)
{
    int fd;

    raylet.index = make_memory(&world.index_fd, "index", N_ENTRIES * sizeof *raylet.index);
    void *arena = make_memory(&world.arena_fd, "arena", CAPACITY);
    munmap(arena, CAPACITY); /* the raylet does not look into objects */
    world.shared = make_memory(&fd, "shared", sizeof *world.shared);
    madvise(world.shared, sizeof *world.shared, MADV_DOFORK);
    close(fd);
    for (uint32_t i = 0; i < N_SLOTS; i++)
        ck_assert_int_eq(pipe2(world.inbox[i], O_NONBLOCK), 0);
    raylet.s = store_create(&(struct store_config){.capacity = CAPACITY,
                                                   .n_entries = N_ENTRIES,
                                                   .index = raylet.index,
                                                   .n_slots = N_SLOTS,
                                                   .wait_ms = WAIT_MS});
    ck_assert_ptr_nonnull(raylet.s);
}

START_TEST(nobody_who_is_killed_leaves_anything_or_spoils_it_for_others)
{
    const char *given = getenv("KILLS"), *from = getenv("SEED");
    uint64_t n_kills = given != NULL ? strtoull(given, NULL, 0) : UINT64_MAX, last = 0;
    uint64_t end_ns = given != NULL ? UINT64_MAX : clock_now_ns() + SECONDS * 1000000000ull;
    const struct shared *n;

    seed = from != NULL ? strtoull(from, NULL, 0) : clock_now_ns();
    printf("SEED=%lu\n", (unsigned long)seed);
    create_all();
    for (uint32_t i = 0; i < N_SLOTS; i++)
        start(i);
    while (raylet.n_killed < n_kills && clock_now_ns() < end_ns) {
        turn(one_in(2));
        if (one_in(3))
            kill_one();
        else if (one_in(10))
            stop_or_go_on();
        for (uint32_t i = 0; i < N_SLOTS; i++)
            if (raylet.p[i].pid == 0 && one_in(2))
                start(i);
        if (raylet.n_killed >= last + ROUND) {
            all_let_go();
            last = raylet.n_killed;
        }
    }
    all_let_go();
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (raylet.p[i].pid > 0) {
            kill(raylet.p[i].pid, SIGKILL);
            reap(i);
        }
    check_free();
    n = world.shared;
    printf("%lu killed, %lu times all let go; %lu puts, %lu gets, %lu of them inside others, "
           "%lu holds, %lu frees, %lu tasks done, %lu aborted, %lu requests refused, "
           "%lu frames\n",
           (unsigned long)raylet.n_killed,
           (unsigned long)raylet.n_let_go,
           (unsigned long)n->n_puts,
           (unsigned long)n->n_gets,
           (unsigned long)n->n_nested,
           (unsigned long)n->n_holds,
           (unsigned long)n->n_frees,
           (unsigned long)n->n_results,
           (unsigned long)n->n_aborts,
           (unsigned long)n->n_refused,
           (unsigned long)raylet.n_frames);
    store_destroy(raylet.s);
    free(raylet.out.v);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("object_store_kill");
    TCase *tc = tcase_create("object_store_kill");

    tcase_set_timeout(tc, 0); /* the runner of all tests has one */
    tcase_add_test(tc, nobody_who_is_killed_leaves_anything_or_spoils_it_for_others);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
