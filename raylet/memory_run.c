/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `ray memory` asks: the raylet's own books, in one piece, so that they are of one moment; and
 * the tables of refs of the processes, of which it passes pages on. Nothing is joined or kept here:
 * the command does that, in its own memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/log.h"
#include "lib/net/rpc_server.h"
#include "raylet/node_private.h"
#include "raylet/why_state.h"

#define ASKED_MAX 64 /* of a process that does not answer */

/* --- books --- */

/* Rows on their way to the memfd. */
struct sheet {
    int fd;
    bool failed;
    size_t n;
    uint8_t bytes[32768];
};

static void write_out(struct sheet *s)
{
    const uint8_t *at = s->bytes;

    while (!s->failed && s->n > 0) {
        ssize_t n = write(s->fd, at, s->n);
        if (n < 0 && errno == EINTR)
            continue;
        s->failed = n <= 0;
        at += n > 0 ? n : 0;
        s->n -= n > 0 ? (size_t)n : 0;
    }
    s->n = 0;
}

static void add_row(struct sheet *s, const void *row, size_t size)
{
    if (s->n + size > sizeof s->bytes)
        write_out(s);
    memcpy(s->bytes + s->n, row, size);
    s->n += size;
}

static void add_processes(const struct node *n, struct sheet *s, struct wire_books *w)
{
    for (uint32_t i = 0; i < n->n_slots; i++) {
        const struct process *p = n->processes[i];
        if (p == NULL || !p->welcomed)
            continue;
        struct wire_books_process row = {.process = p->number,
                                         .kind = p->kind,
                                         .pid = p->pid,
                                         .slot = i,
                                         .job = p->job->number};
        add_row(s, &row, sizeof row);
        w->n_processes++;
    }
}

static void add_elsewhere(struct sheet *s, struct wire_books *w, uint32_t number, int32_t pid)
{
    struct wire_books_process row = {.process = number, .pid = pid, .slot = WIRE_SLOT_NONE};

    add_row(s, &row, sizeof row);
    w->n_processes++;
}

/* Processes of other nodes, and this raylet, which brings their objects: what they say of their
 * refs is not to be had here. */
static void add_others(const struct node *n, struct sheet *s, struct wire_books *w)
{
    struct word_map seen = {0};
    struct store_use use;

    if (n->view == NULL)
        return;
    add_elsewhere(s, w, n->number, getpid());
    for (uint32_t i = 0; i < n->n_guests; i++)
        if (n->guests[i] != NULL)
            add_elsewhere(s, w, n->guests[i]->number, n->guests[i]->pid);
    for (uint32_t i = 0; (i = store_next(n->store, i, &use)) != 0;) {
        uint32_t owner = n->index[i].owner;
        if (use.n_blocks == 0 || owner == 0 || guest_run_find(n, owner) != NULL
            || word_map_get(&seen, owner) != 0)
            continue;
        add_elsewhere(s, w, owner, 0);
        word_map_set(&seen, owner, 1);
    }
    word_map_fini(&seen);
}

static void add_entries(const struct node *n, struct sheet *s, struct wire_books *w)
{
    struct store_use use;

    for (uint32_t i = 0; (i = store_next(n->store, i, &use)) != 0;) {
        const struct index_entry *x = &n->index[i];
        uint64_t word = atomic_load_explicit(&x->word, memory_order_relaxed);
        struct wire_books_entry row = {.place = store_place((uint32_t)(word >> 32), i),
                                       .n_blocks = use.n_blocks,
                                       .n_holds = use.n_holds,
                                       .state = (uint8_t)word,
                                       .is_allocated = use.is_allocated,
                                       .is_copy = use.is_copy};
        if (row.state == STORE_ENTRY_LENT) {
            const struct process *p = use.slot < BOARD_SLOTS ? n->processes[use.slot] : NULL;
            row.owner = use.slot == STORE_RUN_TRANSFER ? n->number : p != NULL ? p->number : 0;
        } else if (use.n_blocks > 0) {
            row.offset = x->offset;
            row.size = x->size;
            row.counter = x->counter;
            row.owner = x->owner;
            row.index = x->index;
            row.n_refs = x->n_refs;
            row.attempt = x->attempt;
        }
        add_row(s, &row, sizeof row);
        w->n_entries++;
    }
}

static void add_uses_of(const struct node *n,
                        uint32_t slot,
                        uint32_t number,
                        struct sheet *s,
                        struct wire_books *w)
{
    static const enum wire_use kinds[] = {[STORE_HOLDING_PIN] = WIRE_USE_PIN,
                                          [STORE_HOLDING_HOLD] = WIRE_USE_HOLD,
                                          [STORE_HOLDING_LENT] = WIRE_USE_LENT};
    struct store_holding h;

    for (uint64_t at = 0; store_next_holding(n->store, slot, &at, &h);) {
        struct wire_books_use row = {.process = number,
                                     .kind = kinds[h.kind],
                                     .place = h.place,
                                     .offset = h.offset,
                                     .size = h.size,
                                     .n = h.n,
                                     .is_allocated = h.is_allocated};
        add_row(s, &row, sizeof row);
        w->n_uses++;
    }
}

static void add_uses(const struct node *n, struct sheet *s, struct wire_books *w)
{
    for (uint32_t i = 0; i < n->n_slots; i++)
        if (n->processes[i] != NULL && n->processes[i]->in_store)
            add_uses_of(n, i, n->processes[i]->number, s, w);
    if (n->transfer != NULL)
        add_uses_of(n, STORE_RUN_TRANSFER, n->number, s, w);
}

static void on_books_ask(struct command *c)
{
    static struct sheet s;
    struct node *n = c->node;
    struct wire_books w = {0};
    struct store_stats stats;

    for (uint32_t i = 0; i < n->n_slots; i++)
        if (n->processes[i] != NULL)
            store_run_drain(n->processes[i]); /* what they have posted counts */
    s = (struct sheet){.fd = memfd_create("ray-books", MFD_CLOEXEC)};
    s.failed = s.fd < 0;
    store_get_stats(n->store, &stats);
    w.capacity = stats.capacity;
    w.used = stats.used;
    w.lent = stats.lent;
    w.buried = stats.buried;
    w.free = stats.free;
    w.largest_free = stats.largest_free;
    w.peak = stats.peak;
    w.n_waiting = stats.n_waiting;
    add_processes(n, &s, &w);
    add_others(n, &s, &w);
    add_entries(n, &s, &w);
    add_uses(n, &s, &w);
    write_out(&s);
    w.is_whole = !s.failed;
    if (s.failed) {
        log_warn("memory", "no_books", "n_entries=%u", w.n_entries);
        if (s.fd >= 0)
            close(s.fd);
        s.fd = -1;
    }
    command_run_send(c, WIRE_BOOKS, &w, sizeof w, s.fd);
}

/* --- refs --- */

static struct process *find(const struct node *n, uint32_t number)
{
    for (uint32_t i = 0; i < n->n_slots; i++) {
        struct process *p = n->processes[i];
        if (p != NULL && p->welcomed && p->number == number && p->link != NULL)
            return p;
    }
    return NULL;
}

/* A call of another machine's command, or a question of it, which waits for a page. Owned by
 * node.refs_calls. */
struct refs_call {
    struct list list; /* node.refs_calls */
    struct node *node;
    uint32_t number, process; /* number: as a command's */
    struct rpc_call *call;    /* NULL: it is a question */
    uint64_t question;
};

static void answer_call(struct refs_call *r, const void *page, size_t page_size)
{
    size_t size;
    void *bytes = why_refs_reply(page, page_size, &size);

    if (r->call != NULL)
        rpc_call_reply(r->call, bytes, size);
    else if (r->node->gcs != NULL)
        gcs_client_answer(r->node->gcs, r->question, bytes, size, NULL);
    free(bytes);
    list_remove(&r->list);
    free(r);
}

static void answer_status(struct refs_call *r, enum wire_refs_status status)
{
    struct wire_refs no = {.process = r->process, .status = status};

    answer_call(r, &no, sizeof no);
}

static void on_call_gone(void *arg, struct rpc_call *call)
{
    struct refs_call *r = arg;

    (void)call;
    answer_status(r, WIRE_REFS_BUSY); /* to nobody */
}

static const char malformed[] = "the request is no GetRefsRequest";

/* call NULL: the question. -1: malformed. */
static int begin(struct node *n,
                 const void *bytes,
                 size_t size,
                 struct rpc_call *call,
                 uint64_t question)
{
    struct wire_refs_ask ask = {.ticket = 0};
    uint32_t number;
    uint64_t from;

    if (why_refs_asked(bytes, size, &number, &from) != 0)
        return -1;
    struct process *p = find(n, number);
    struct refs_call *r = xmalloc(sizeof *r);
    *r = (struct refs_call){.node = n,
                            .number = ++n->last_command,
                            .process = number,
                            .call = call,
                            .question = question};
    list_append(&n->refs_calls, &r->list);
    if (p == NULL || p->n_asked >= ASKED_MAX) {
        answer_status(r, p == NULL ? WIRE_REFS_GONE : WIRE_REFS_BUSY);
        return 0;
    }
    if (call != NULL)
        rpc_call_on_gone(call, on_call_gone, r);
    ask.ticket = (uint64_t)r->number << 32;
    ask.from = from;
    ask.process = number;
    p->n_asked++;
    node_send(p, WIRE_REFS_ASK, &ask, sizeof ask);
    return 0;
}

void memory_run_on_call(struct node *n, struct rpc_call *call)
{
    size_t size;
    const uint8_t *bytes = rpc_call_request(call, &size);

    if (begin(n, bytes, size, call, 0) != 0)
        rpc_call_fail(call, ERR_INVALID, "%s", malformed);
}

void memory_run_on_question(struct node *n, const struct node_question *q)
{
    if (begin(n, q->request, q->size, NULL, q->number) != 0)
        gcs_client_answer(n->gcs, q->number, NULL, 0, malformed);
}

void memory_run_end_calls(struct node *n)
{
    list_for_each_safe(m, &n->refs_calls)
        answer_status(list_entry(m, struct refs_call, list), WIRE_REFS_GONE);
}

static struct refs_call *find_call(const struct node *n, uint32_t number)
{
    list_for_each(m, &n->refs_calls)
    {
        struct refs_call *r = list_entry(m, struct refs_call, list);
        if (r->number == number)
            return r;
    }
    return NULL;
}

/* ticket: the command's own, of 32 bits. */
static void on_refs_ask(struct command *c, const struct wire_refs_ask *ask)
{
    struct process *p = find(c->node, ask->process);
    struct wire_refs_ask w = *ask;

    if (p == NULL || p->n_asked >= ASKED_MAX) {
        struct wire_refs no = {.ticket = (uint32_t)ask->ticket,
                               .process = ask->process,
                               .status = p == NULL ? WIRE_REFS_GONE : WIRE_REFS_BUSY};
        command_run_send(c, WIRE_REFS, &no, sizeof no, -1);
        return;
    }
    w.ticket = (uint64_t)c->number << 32 | (uint32_t)ask->ticket;
    p->n_asked++;
    node_send(p, WIRE_REFS_ASK, &w, sizeof w);
}

bool memory_run_on_command(struct command *c, uint8_t type, const uint8_t *body, size_t size)
{
    struct wire_refs_ask ask;

    if (type == WIRE_BOOKS_ASK && c->n_books++ < COMMAND_BOOKS_MAX) {
        on_books_ask(c);
        return true;
    }
    if (type != WIRE_REFS_ASK || size < sizeof ask)
        return false;
    memcpy(&ask, body, sizeof ask);
    on_refs_ask(c, &ask);
    return true;
}

void memory_run_on_refs(struct process *p, const uint8_t *body, size_t size)
{
    struct wire_refs w;

    if (size < sizeof w || p->n_asked == 0)
        return;
    p->n_asked--;
    memcpy(&w, body, sizeof w);
    struct command *c = command_run_find(p->node, (uint32_t)(w.ticket >> 32));
    struct refs_call *r = find_call(p->node, (uint32_t)(w.ticket >> 32));
    void *copy = c != NULL || r != NULL ? try_alloc(NULL, size) : NULL;
    if (copy == NULL)
        return; /* it did not wait for this */
    w.ticket = (uint32_t)w.ticket;
    w.process = p->number; /* whatever it says */
    w.status = WIRE_REFS_OK;
    memcpy(copy, body, size);
    memcpy(copy, &w, sizeof w);
    if (c != NULL)
        command_run_send(c, WIRE_REFS, copy, size, -1);
    else if (r->process == p->number)
        answer_call(r, copy, size);
    free(copy);
}

void memory_run_on_gone(const struct process *p)
{
    struct wire_refs w = {.process = p->number, .status = WIRE_REFS_GONE};

    list_for_each(m, &p->node->commands)
    {
        struct command *c = list_entry(m, struct command, list);
        if (p->welcomed && c->registered && !c->cut)
            command_run_send(c, WIRE_REFS, &w, sizeof w, -1);
    }
    list_for_each_safe(m, &p->node->refs_calls)
    {
        struct refs_call *r = list_entry(m, struct refs_call, list);
        if (r->process == p->number)
            answer_status(r, WIRE_REFS_GONE);
    }
}
