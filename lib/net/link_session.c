/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. Each class has a queue of blocks, the last of which is still being filled; from
 * there they move, numbered, to one list of what was sent, whose head goes when it is acknowledged.
 * `next` is the first of that list which this stream has not carried yet: after a resumption it
 * starts at the head again. A batch arrives whole or not at all, so blocks are what is counted. One
 * that arrives is checked to its end, and the memory for joining its parts is taken, before any of
 * it is delivered: a stream is never cut in the middle of a block, and nothing comes twice.
 */
#include "lib/net/link_session.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

#define PART_MORE   0x80000000u
#define PART_HEADER 4u
#define BLOCK_FIRST 512          /* the smallest block */
#define JOIN_KEEP   (256u << 10) /* memory for joining that is not given back */

struct block_header {
    uint32_t size;
    uint8_t class, spare[3];
    uint64_t number;
};
#define BLOCK_HEADER sizeof(struct block_header)
_Static_assert(sizeof(struct block_header) == 16, "wire layout");

struct block {
    struct block *next;
    uint32_t used, capacity; /* of bytes */
    uint8_t bytes[];         /* a block_header first */
};

struct join {
    uint8_t *bytes;
    size_t size, capacity;
};

struct link_session {
    unsigned magic;
    link_session_message_f on_message;
    void *arg;
    struct {
        struct block *first, *last;
    } queues[FRAME_N_CLASSES], sent;
    struct block *next;            /* of sent */
    uint64_t number, acknowledged; /* of the next block; all below it the other end has */
    size_t backlog;
    unsigned turn; /* the class whose block goes next */
    bool has_stream, is_ended;
    uint64_t expects, told;
    size_t owes;
    struct join joins[FRAME_N_CLASSES];
};
#define LINK_SESSION_MAGIC 0x53455353u

struct link_session *link_session_create(link_session_message_f on_message, void *arg)
{
    struct link_session *s = xcalloc(1, sizeof *s);

    s->magic = LINK_SESSION_MAGIC;
    s->on_message = on_message;
    s->arg = arg;
    return s;
}

static void free_blocks(struct block *b)
{
    while (b != NULL) {
        struct block *next = b->next;
        free(b);
        b = next;
    }
}

void link_session_destroy(struct link_session *s)
{
    if (s == NULL)
        return;
    CHECK_MAGIC(s, LINK_SESSION_MAGIC);
    for (int c = 0; c < FRAME_N_CLASSES; c++) {
        free_blocks(s->queues[c].first);
        free(s->joins[c].bytes);
    }
    free_blocks(s->sent.first);
    s->magic = 0;
    free(s);
}

void link_session_end(struct link_session *s)
{
    s->is_ended = true;
    s->has_stream = false;
}

/* --- what is sent --- */

/* The block of this class that has room for a part of at least one byte, or is made for `wanted`
 * bytes more; each is twice the one before it, if that still waits. */
static struct block *open_block(struct link_session *s, enum frame_class class, size_t wanted)
{
    struct block *last = s->queues[class].last;

    if (last != NULL && last->capacity - last->used > PART_HEADER
        && (last->capacity - last->used >= PART_HEADER + wanted
            || last->capacity == LINK_SESSION_BLOCK_MAX))
        return last;
    size_t capacity = last != NULL ? 2 * (size_t)last->capacity : BLOCK_FIRST;
    if (capacity < BLOCK_HEADER + PART_HEADER + wanted)
        capacity = BLOCK_HEADER + PART_HEADER + wanted;
    if (capacity > LINK_SESSION_BLOCK_MAX)
        capacity = LINK_SESSION_BLOCK_MAX;
    struct block *b = xmalloc(sizeof *b + capacity);
    *b = (struct block){.used = BLOCK_HEADER, .capacity = (uint32_t)capacity};
    if (last != NULL)
        last->next = b;
    else
        s->queues[class].first = b;
    s->queues[class].last = b;
    s->backlog += BLOCK_HEADER;
    return b;
}

static void append(struct block *b, const void *bytes, size_t size)
{
    if (size > 0)
        memcpy(b->bytes + b->used, bytes, size);
    b->used += (uint32_t)size;
}

void link_session_send(struct link_session *s,
                       enum frame_class class,
                       const void *head,
                       size_t head_size,
                       const void *body,
                       size_t body_size)
{
    CHECK_MAGIC(s, LINK_SESSION_MAGIC);
    ASSERT(head_size <= LINK_SESSION_MESSAGE_MAX
           && body_size <= LINK_SESSION_MESSAGE_MAX - head_size);
    do {
        struct block *b = open_block(s, class, head_size + body_size);
        size_t room = b->capacity - b->used - PART_HEADER;
        size_t n = head_size < room ? head_size : room;
        size_t k = body_size < room - n ? body_size : room - n;
        uint32_t part = (uint32_t)(n + k) | (n + k < head_size + body_size ? PART_MORE : 0);
        append(b, &part, sizeof part);
        append(b, head, n);
        append(b, body, k);
        s->backlog += PART_HEADER + n + k;
        head = (const uint8_t *)head + n;
        head_size -= n;
        body = k > 0 ? (const uint8_t *)body + k : body;
        body_size -= k;
    } while (head_size + body_size > 0);
}

size_t link_session_backlog(const struct link_session *s)
{
    return s->backlog;
}

/* The next class in turn that has a block; FRAME_N_CLASSES: none. */
static unsigned next_class(const struct link_session *s)
{
    for (unsigned i = 0; i < FRAME_N_CLASSES; i++)
        if (s->queues[(s->turn + i) % FRAME_N_CLASSES].first != NULL)
            return (s->turn + i) % FRAME_N_CLASSES;
    return FRAME_N_CLASSES;
}

/* The next block leaves its queue and gets its number. */
static void number_block(struct link_session *s, unsigned class)
{
    struct block *b = s->queues[class].first;
    struct block_header h = {.size = b->used - (uint32_t)BLOCK_HEADER,
                             .class = (uint8_t) class,
                             .number = s->number++};

    memcpy(b->bytes, &h, sizeof h);
    s->queues[class].first = b->next;
    if (b->next == NULL)
        s->queues[class].last = NULL;
    b->next = NULL;
    if (s->sent.last != NULL)
        s->sent.last->next = b;
    else
        s->sent.first = b;
    s->sent.last = s->next = b;
    s->turn = (class + 1) % FRAME_N_CLASSES;
}

static size_t next_size(const struct link_session *s)
{
    unsigned class = next_class(s);

    if (s->next != NULL)
        return s->next->used;
    return class < FRAME_N_CLASSES ? s->queues[class].first->used : 0;
}

bool link_session_has_news(const struct link_session *s)
{
    return s->has_stream && next_size(s) > 0;
}

int link_session_gather(struct link_session *s,
                        struct iovec pieces[LINK_SESSION_PIECES_MAX],
                        bool acknowledge)
{
    size_t size = sizeof s->told, next;
    int n = 1;

    CHECK_MAGIC(s, LINK_SESSION_MAGIC);
    if (!s->has_stream)
        return 0;
    while (n < LINK_SESSION_PIECES_MAX && (next = next_size(s)) > 0
           && size + next <= LINK_SESSION_BATCH_MAX) {
        if (s->next == NULL)
            number_block(s, next_class(s));
        pieces[n++] = (struct iovec){.iov_base = s->next->bytes, .iov_len = next};
        s->next = s->next->next;
        size += next;
    }
    if (n == 1 && !(acknowledge && s->told != s->expects))
        return 0;
    s->told = s->expects;
    s->owes = 0;
    pieces[0] = (struct iovec){.iov_base = &s->told, .iov_len = sizeof s->told};
    return n;
}

/* --- what was acknowledged --- */

static int acknowledge_below(struct link_session *s, uint64_t number, struct err *err)
{
    if (number < s->acknowledged || number > s->number)
        return err_set(err,
                       ERR_PROTOCOL,
                       "block %llu is expected there: not one of %llu to %llu",
                       (unsigned long long)number,
                       (unsigned long long)s->acknowledged,
                       (unsigned long long)s->number);
    for (; s->acknowledged < number; s->acknowledged++) {
        struct block *b = s->sent.first;
        if (b == s->next)
            return err_set(err, ERR_PROTOCOL, "a block has arrived before it was sent");
        s->backlog -= b->used;
        s->sent.first = b->next;
        if (b->next == NULL)
            s->sent.last = NULL;
        free(b);
    }
    return 0;
}

uint64_t link_session_expects(const struct link_session *s)
{
    return s->expects;
}

int link_session_resume(struct link_session *s, uint64_t expects, struct err *err)
{
    CHECK_MAGIC(s, LINK_SESSION_MAGIC);
    s->next = NULL; /* another stream carried them */
    if (acknowledge_below(s, expects, err) != 0)
        return -1;
    s->next = s->sent.first;
    s->told = s->expects;
    s->owes = 0;
    s->has_stream = true;
    return 0;
}

void link_session_break(struct link_session *s)
{
    s->has_stream = false;
}

size_t link_session_owes(const struct link_session *s)
{
    return s->owes;
}

/* --- what arrives --- */

/* Walks the parts of a block that was checked, or is. */
struct part {
    const uint8_t *bytes;
    uint32_t size;
    bool has_more;
};

static bool next_part(const uint8_t **at, const uint8_t *end, struct part *p)
{
    uint32_t word;

    if ((size_t)(end - *at) < PART_HEADER)
        return false;
    memcpy(&word, *at, sizeof word);
    p->size = word & ~PART_MORE;
    p->has_more = (word & PART_MORE) != 0;
    p->bytes = *at + PART_HEADER;
    if (p->size > (size_t)(end - p->bytes))
        return false;
    *at = p->bytes + p->size;
    return true;
}

/* All of it can be delivered: it is well formed, and there is memory for the parts to be joined. */
static int check_block(struct join *j, const uint8_t *at, const uint8_t *end, struct err *err)
{
    size_t size = j->size, wanted = 0;
    struct part p;

    while (at < end) {
        if (!next_part(&at, end, &p) || (p.has_more && p.size == 0))
            return err_set(err, ERR_PROTOCOL, "a part is cut off or empty");
        size += p.size;
        if (size > LINK_SESSION_MESSAGE_MAX)
            return err_set(err,
                           ERR_PROTOCOL,
                           "a message has more than %u bytes",
                           FRAME_MESSAGE_MAX);
        if ((p.has_more || size != p.size) && size > wanted)
            wanted = size;
        if (!p.has_more)
            size = 0;
    }
    if (wanted <= j->capacity)
        return 0;
    if (wanted < 2 * j->capacity)
        wanted =
            2 * j->capacity < LINK_SESSION_MESSAGE_MAX ? 2 * j->capacity : LINK_SESSION_MESSAGE_MAX;
    uint8_t *bytes = try_alloc(j->bytes, wanted);
    if (bytes == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a message of %zu bytes", wanted);
    j->bytes = bytes;
    j->capacity = wanted;
    return 0;
}

static void deliver_block(struct link_session *s,
                          enum frame_class class,
                          const uint8_t *at,
                          const uint8_t *end)
{
    struct join *j = &s->joins[class];
    struct part p;

    while (!s->is_ended && at < end && next_part(&at, end, &p)) {
        if (p.has_more || j->size > 0) {
            memcpy(j->bytes + j->size, p.bytes, p.size);
            j->size += p.size;
        }
        if (p.has_more)
            continue;
        s->on_message(s->arg,
                      class,
                      j->size > 0 ? j->bytes : p.bytes,
                      j->size > 0 ? j->size : p.size);
        j->size = 0;
    }
    if (j->size == 0 && j->capacity > JOIN_KEEP) {
        free(j->bytes);
        *j = (struct join){0};
    }
}

static int take_block(struct link_session *s,
                      const uint8_t **at,
                      const uint8_t *end,
                      struct err *err)
{
    struct block_header h;

    if ((size_t)(end - *at) < sizeof h)
        return err_set(err, ERR_PROTOCOL, "a block is cut off");
    memcpy(&h, *at, sizeof h);
    const uint8_t *first = *at + sizeof h;
    if (h.size > (size_t)(end - first) || h.size == 0 || h.class >= FRAME_N_CLASSES)
        return err_set(err, ERR_PROTOCOL, "a block is cut off, empty or of no known class");
    if (h.number != s->expects)
        return err_set(err,
                       ERR_PROTOCOL,
                       "block %llu came instead of %llu",
                       (unsigned long long)h.number,
                       (unsigned long long)s->expects);
    if (check_block(&s->joins[h.class], first, first + h.size, err) != 0)
        return -1;
    s->expects++;
    s->owes += sizeof h + h.size;
    *at = first + h.size;
    deliver_block(s, (enum frame_class)h.class, first, first + h.size);
    return 0;
}

int link_session_take(struct link_session *s, const uint8_t *bytes, size_t size, struct err *err)
{
    const uint8_t *at = bytes + sizeof s->told, *end = bytes + size;
    uint64_t expects;

    CHECK_MAGIC(s, LINK_SESSION_MAGIC);
    if (size < sizeof expects)
        return err_set(err, ERR_PROTOCOL, "a batch is cut off");
    memcpy(&expects, bytes, sizeof expects);
    if (acknowledge_below(s, expects, err) != 0)
        return -1;
    while (at < end && !s->is_ended)
        if (take_block(s, &at, end, err) != 0)
            return -1;
    return 0;
}
