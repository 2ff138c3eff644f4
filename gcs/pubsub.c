/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A topic is a channel, or a key of one, that somebody subscribed to; subscriptions link topics and
 * subscribers. A publication is one piece of memory that the queues of all who want it share. The
 * bytes that count for the bound of all are those of publications, once each, and REF_BYTES for
 * each place in a queue; for the bound of one queue, those of all publications in it. Subscribers
 * are on one of two lists, both in the order in which they were heard of last: `polling`, and
 * `quiet` ones, who have to poll again.
 */
#include "gcs/pubsub.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/list.h"

#define PUBSUB_MAGIC 0x50554253u
#define REF_BYTES    (2 * sizeof(void *)) /* a place in a queue, and the room behind it */

/* --- things by their bytes --- */

struct slot {
    struct slot *next;
    uint64_t hash;
    const uint8_t *key;
    size_t size;
};

struct map {
    struct slot **slots;
    size_t n_slots, n; /* n_slots: a power of two, or 0 */
};

static uint64_t hash_of(const uint8_t *key, size_t size)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

    for (size_t i = 0; i < size; i++)
        h = (h ^ key[i]) * 0x100000001b3u;
    return h;
}

static struct slot *map_find(const struct map *m, const void *key, size_t size)
{
    uint64_t hash = hash_of(key, size);
    struct slot *s = m->n_slots > 0 ? m->slots[hash & (m->n_slots - 1)] : NULL;

    while (s != NULL && (s->hash != hash || s->size != size || memcmp(s->key, key, size) != 0))
        s = s->next;
    return s;
}

static void map_grow(struct map *m)
{
    size_t n = m->n_slots > 0 ? 2 * m->n_slots : 64;
    struct slot **slots = xcalloc(n, sizeof *slots);

    for (size_t i = 0; i < m->n_slots; i++)
        for (struct slot *s = m->slots[i], *next; s != NULL; s = next) {
            next = s->next;
            s->next = slots[s->hash & (n - 1)];
            slots[s->hash & (n - 1)] = s;
        }
    free(m->slots);
    m->slots = slots;
    m->n_slots = n;
}

static void map_add(struct map *m, struct slot *s, const void *key, size_t size)
{
    if (m->n == m->n_slots)
        map_grow(m);
    s->key = key;
    s->size = size;
    s->hash = hash_of(key, size);
    s->next = m->slots[s->hash & (m->n_slots - 1)];
    m->slots[s->hash & (m->n_slots - 1)] = s;
    m->n++;
}

static void map_remove(struct map *m, struct slot *s)
{
    struct slot **at = &m->slots[s->hash & (m->n_slots - 1)];

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    m->n--;
}

/* --- what there is --- */

struct publication {
    unsigned n_refs, channel;
    uint64_t sequence;
    size_t key_size, size;
    uint8_t bytes[]; /* the key, then the message */
};

struct topic {
    struct slot slot;
    struct list subscriptions;
    size_t n;
    uint8_t key[]; /* the channel, then the key */
};

struct subscription {
    struct list of_topic, of_subscriber;
    struct topic *topic;
    struct subscriber *subscriber;
};

struct subscriber {
    struct slot slot;
    struct unique_id id;
    struct list list;  /* pubsub.polling or quiet */
    struct list ready; /* pubsub.ready: look at it in the next flush */
    struct list subscriptions;
    size_t n_subscriptions;
    struct publication **queue; /* from `at` on, n of them, in room places */
    size_t at, n, room, bytes;
    uint64_t n_dropped, seen_ms;
    void *poll;  /* NULL: quiet */
    bool is_due; /* answer it, whatever there is */
};

struct pubsub {
    unsigned magic;
    struct pubsub_limits limits;
    struct unique_id publisher;
    pubsub_answer_f answer;
    void *arg;
    struct map subscribers, topics;
    struct list polling, quiet, ready;
    uint64_t sequence;
    size_t n_subscriptions, n_polls, total_bytes;
    uint64_t n_published, n_dropped, n_forgotten;
    uint64_t now_ms, clock_ms; /* our time; the caller's when it was told last */
    bool has_clock;
};

/* --- queues --- */

static size_t size_of(const struct publication *b)
{
    return sizeof *b + b->key_size + b->size;
}

static struct publication **item(const struct subscriber *s, size_t i)
{
    return &s->queue[(s->at + i) & (s->room - 1)];
}

static void unref(struct pubsub *p, struct publication *b)
{
    if (--b->n_refs > 0)
        return;
    p->total_bytes -= size_of(b);
    free(b);
}

static void pop(struct pubsub *p, struct subscriber *s)
{
    struct publication *b = *item(s, 0);

    s->at++;
    s->n--;
    s->bytes -= size_of(b);
    p->total_bytes -= REF_BYTES;
    unref(p, b);
    if (s->n == 0 && s->room > 64) { /* it was slow once */
        free(s->queue);
        s->queue = NULL;
        s->room = 0;
    }
}

static void drop(struct pubsub *p, struct subscriber *s)
{
    pop(p, s);
    s->n_dropped++;
    p->n_dropped++;
}

static void push(struct pubsub *p, struct subscriber *s, struct publication *b)
{
    if (s->n > 0 && *item(s, s->n - 1) == b)
        return; /* both its key and its channel are wanted */
    while (s->n > 0 && s->bytes + size_of(b) > p->limits.queue_bytes)
        drop(p, s);
    if (s->n == s->room) {
        size_t room = s->room > 0 ? 2 * s->room : 8;
        struct publication **queue = xcalloc(room, sizeof(struct publication *));
        for (size_t i = 0; i < s->n; i++)
            queue[i] = *item(s, i);
        free(s->queue);
        s->queue = queue;
        s->room = room;
        s->at = 0;
    }
    s->n++;
    *item(s, s->n - 1) = b;
    b->n_refs++;
    s->bytes += size_of(b);
    p->total_bytes += REF_BYTES;
    if (s->poll != NULL && list_empty(&s->ready))
        list_append(&p->ready, &s->ready);
}

/* The memory of all is too much: who has most loses the older half of it. */
static bool drop_some(struct pubsub *p)
{
    struct subscriber *most = NULL;

    for (int i = 0; i < 2; i++) {
        struct list *head = i == 0 ? &p->quiet : &p->polling;
        list_for_each(at, head)
        {
            struct subscriber *s = list_entry(at, struct subscriber, list);
            if (s->n > 0 && (most == NULL || s->bytes > most->bytes))
                most = s;
        }
    }
    for (size_t n = most != NULL ? (most->n + 1) / 2 : 0; n > 0; n--)
        drop(p, most);
    return most != NULL;
}

/* --- subscribers --- */

static struct subscriber *find(const struct pubsub *p, const struct unique_id *id)
{
    struct slot *s = map_find(&p->subscribers, id->bytes, sizeof id->bytes);

    return s != NULL ? list_entry(s, struct subscriber, slot) : NULL;
}

static struct subscriber *add(struct pubsub *p, const struct unique_id *id, struct err *err)
{
    struct subscriber *s = find(p, id);

    if (s != NULL)
        return s;
    if (p->subscribers.n >= p->limits.n_subscribers) {
        err_set(err, ERR_FULL, "%zu subscribers are all there may be", p->subscribers.n);
        return NULL;
    }
    s = xcalloc(1, sizeof *s);
    s->id = *id;
    s->seen_ms = p->now_ms;
    list_init(&s->ready);
    list_init(&s->subscriptions);
    list_append(&p->quiet, &s->list);
    map_add(&p->subscribers, &s->slot, s->id.bytes, sizeof s->id.bytes);
    return s;
}

static void remove_subscription(struct pubsub *p, struct subscription *c)
{
    struct topic *t = c->topic;

    list_remove(&c->of_topic);
    list_remove(&c->of_subscriber);
    c->subscriber->n_subscriptions--;
    p->n_subscriptions--;
    if (--t->n == 0) {
        map_remove(&p->topics, &t->slot);
        free(t);
    }
    free(c);
}

/* It has no poll. */
static void forget(struct pubsub *p, struct subscriber *s)
{
    while (!list_empty(&s->subscriptions))
        remove_subscription(p,
                            list_entry(s->subscriptions.next, struct subscription, of_subscriber));
    while (s->n > 0)
        pop(p, s);
    list_remove(&s->list);
    list_remove(&s->ready);
    map_remove(&p->subscribers, &s->slot);
    free(s->queue);
    free(s);
}

/* Where one that was heard of just now belongs. */
static void set_poll(struct pubsub *p, struct subscriber *s, void *poll)
{
    p->n_polls += (poll != NULL) - (s->poll != NULL);
    s->poll = poll;
    s->is_due = false;
    s->seen_ms = p->now_ms;
    list_remove(&s->list);
    list_append(poll != NULL ? &p->polling : &p->quiet, &s->list);
}

static void answer(struct pubsub *p, struct subscriber *s, size_t max)
{
    struct pubsub_answer a = {.n_dropped = s->n_dropped};
    struct pubsub_message *messages;
    void *poll = s->poll;
    size_t bytes = 0;

    if (max > s->n)
        max = s->n;
    messages = xcalloc(max + 1, sizeof *messages);
    a.messages = messages;
    for (; a.n < max; a.n++) {
        const struct publication *b = *item(s, a.n);
        bytes += size_of(b);
        if (a.n > 0 && bytes > p->limits.reply_bytes)
            break;
        messages[a.n] = (struct pubsub_message){.channel = b->channel,
                                                .key = b->bytes,
                                                .key_size = b->key_size,
                                                .bytes = b->bytes + b->key_size,
                                                .size = b->size,
                                                .sequence = b->sequence};
    }
    list_remove(&s->ready);
    set_poll(p, s, NULL);
    p->answer(p->arg, poll, &a);
    free(messages);
}

/* --- subscriptions --- */

struct name {
    size_t size;
    uint8_t bytes[1 + PUBSUB_KEY_MAX];
};

static struct name name_of(unsigned channel, const void *key, size_t key_size)
{
    struct name n = {.size = 1 + key_size};

    ASSERT(channel < PUBSUB_CHANNELS && key_size <= PUBSUB_KEY_MAX);
    n.bytes[0] = (uint8_t)channel;
    if (key_size > 0)
        memcpy(n.bytes + 1, key, key_size);
    return n;
}

static struct topic *find_topic(const struct pubsub *p, const struct name *name)
{
    struct slot *s = map_find(&p->topics, name->bytes, name->size);

    return s != NULL ? list_entry(s, struct topic, slot) : NULL;
}

/* Along the shorter list. */
static struct subscription *find_subscription(const struct subscriber *s, const struct topic *t)
{
    if (t->n < s->n_subscriptions) {
        list_for_each(at, &t->subscriptions)
        {
            struct subscription *c = list_entry(at, struct subscription, of_topic);
            if (c->subscriber == s)
                return c;
        }
        return NULL;
    }
    list_for_each(at, &s->subscriptions)
    {
        struct subscription *c = list_entry(at, struct subscription, of_subscriber);
        if (c->topic == t)
            return c;
    }
    return NULL;
}

int pubsub_subscribe(struct pubsub *p,
                     const struct unique_id *subscriber,
                     unsigned channel,
                     const void *key,
                     size_t key_size,
                     struct err *err)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    if (key_size > PUBSUB_KEY_MAX)
        return err_set(err, ERR_INVALID, "a key has at most %d bytes", PUBSUB_KEY_MAX);
    struct name name = name_of(channel, key, key_size);
    struct topic *t = find_topic(p, &name);
    struct subscriber *s = add(p, subscriber, err);
    if (s == NULL)
        return -1;
    if (s->poll == NULL)
        set_poll(p, s, NULL);
    if (t != NULL && find_subscription(s, t) != NULL)
        return 0;
    if (p->n_subscriptions >= p->limits.n_subscriptions)
        return err_set(err, ERR_FULL, "%zu subscriptions are all there may be", p->n_subscriptions);
    if (t == NULL) {
        t = xcalloc(1, sizeof *t + name.size);
        list_init(&t->subscriptions);
        memcpy(t->key, name.bytes, name.size);
        map_add(&p->topics, &t->slot, t->key, name.size);
    }
    struct subscription *c = xcalloc(1, sizeof *c);
    c->topic = t;
    c->subscriber = s;
    list_append(&t->subscriptions, &c->of_topic);
    list_append(&s->subscriptions, &c->of_subscriber);
    t->n++;
    s->n_subscriptions++;
    p->n_subscriptions++;
    return 0;
}

void pubsub_unsubscribe(struct pubsub *p,
                        const struct unique_id *subscriber,
                        unsigned channel,
                        const void *key,
                        size_t key_size)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    struct subscriber *s = find(p, subscriber);
    if (s == NULL || key_size > PUBSUB_KEY_MAX)
        return;
    struct name name = name_of(channel, key, key_size);
    struct topic *t = find_topic(p, &name);
    struct subscription *c = t != NULL ? find_subscription(s, t) : NULL;
    if (c != NULL)
        remove_subscription(p, c);
    if (s->n_subscriptions == 0 && s->poll == NULL)
        forget(p, s);
}

/* --- polls --- */

int pubsub_poll(struct pubsub *p, const struct pubsub_poll *poll, struct err *err)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    struct subscriber *s = find(p, &poll->subscriber);
    bool is_ours = poll->publisher_size == sizeof p->publisher.bytes
                   && memcmp(poll->publisher, p->publisher.bytes, poll->publisher_size) == 0;

    if (s == NULL && is_ours)
        return err_set(err,
                       ERR_NOT_FOUND,
                       "this subscriber did not poll for %" PRIu64
                       " ms, or subscribed to nothing, and was forgotten: subscribe again",
                       p->limits.timeout_ms);
    if (is_ours && (poll->heard < 0 || (uint64_t)poll->heard > p->sequence))
        return err_set(err,
                       ERR_INVALID,
                       "message %" PRIi64 " was never published: there were %" PRIu64,
                       poll->heard,
                       p->sequence);
    s = add(p, &poll->subscriber, err);
    if (s == NULL)
        return -1;
    if (s->poll != NULL)
        answer(p, s, 0);
    while (is_ours && s->n > 0 && (*item(s, 0))->sequence <= (uint64_t)poll->heard)
        pop(p, s);
    set_poll(p, s, poll->poll);
    s->is_due = poll->publisher_size > 0 && !is_ours;
    if (s->is_due || s->n > 0)
        list_append(&p->ready, &s->ready);
    return 0;
}

void pubsub_hang_up(struct pubsub *p, const struct unique_id *subscriber, const void *poll)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    struct subscriber *s = find(p, subscriber);
    if (s != NULL && s->poll == poll)
        answer(p, s, 0);
}

static void offer(struct pubsub *p, const struct topic *t, struct publication *b)
{
    if (t == NULL)
        return;
    list_for_each(at, &t->subscriptions)
    {
        push(p, list_entry(at, struct subscription, of_topic)->subscriber, b);
    }
}

int pubsub_publish(struct pubsub *p,
                   unsigned channel,
                   const void *key,
                   size_t key_size,
                   const void *bytes,
                   size_t size,
                   struct err *err)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    if (key_size > PUBSUB_KEY_MAX)
        return err_set(err, ERR_INVALID, "a key has at most %d bytes", PUBSUB_KEY_MAX);
    if (size > PUBSUB_MESSAGE_MAX)
        return err_set(err, ERR_INVALID, "a message has at most %u bytes", PUBSUB_MESSAGE_MAX);
    struct name name = name_of(channel, key, key_size), whole = name_of(channel, NULL, 0);
    const struct topic *of_channel = find_topic(p, &whole);
    const struct topic *of_key = key_size > 0 ? find_topic(p, &name) : NULL;
    if (of_channel == NULL && of_key == NULL)
        return 0;
    struct publication *b = xmalloc(sizeof *b + key_size + size);
    *b = (struct publication){.n_refs = 1,
                              .channel = channel,
                              .sequence = ++p->sequence,
                              .key_size = key_size,
                              .size = size};
    memcpy(b->bytes, name.bytes + 1, key_size);
    if (size > 0)
        memcpy(b->bytes + key_size, bytes, size);
    p->n_published++;
    p->total_bytes += size_of(b);
    offer(p, of_channel, b);
    offer(p, of_key, b);
    unref(p, b);
    while (p->total_bytes > p->limits.total_bytes && drop_some(p))
        ;
    return 0;
}

void pubsub_flush(struct pubsub *p)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    while (!list_empty(&p->ready)) {
        struct subscriber *s = list_entry(p->ready.next, struct subscriber, ready);
        if (s->poll != NULL && (s->is_due || s->n > 0))
            answer(p, s, p->limits.reply_messages);
        else
            list_remove(&s->ready);
    }
}

/* --- time --- */

void pubsub_on_time(struct pubsub *p, uint64_t now_ms)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    uint64_t most = p->limits.timeout_ms / 10 + 1, passed = now_ms - p->clock_ms;
    if (p->has_clock && now_ms > p->clock_ms)
        p->now_ms += passed < most ? passed : most;
    p->has_clock = true;
    p->clock_ms = now_ms;
    list_for_each_safe(at, &p->quiet)
    {
        struct subscriber *s = list_entry(at, struct subscriber, list);
        if (p->now_ms - s->seen_ms < p->limits.timeout_ms)
            break;
        forget(p, s);
        p->n_forgotten++;
    }
    list_for_each(at, &p->polling)
    {
        struct subscriber *s = list_entry(at, struct subscriber, list);
        if (p->now_ms - s->seen_ms < p->limits.timeout_ms)
            break;
        s->is_due = true;
        if (list_empty(&s->ready))
            list_append(&p->ready, &s->ready);
    }
}

/* --- the whole --- */

struct pubsub *pubsub_create(const struct pubsub_limits *limits,
                             const struct unique_id *publisher,
                             pubsub_answer_f answer_f,
                             void *arg)
{
    struct pubsub *p = xcalloc(1, sizeof *p);

    p->magic = PUBSUB_MAGIC;
    p->limits = *limits;
    p->publisher = *publisher;
    p->answer = answer_f;
    p->arg = arg;
    list_init(&p->polling);
    list_init(&p->quiet);
    list_init(&p->ready);
    return p;
}

void pubsub_destroy(struct pubsub *p)
{
    if (p == NULL)
        return;
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    while (!list_empty(&p->polling)) {
        struct subscriber *s = list_entry(p->polling.next, struct subscriber, list);
        p->answer(p->arg, s->poll, NULL);
        set_poll(p, s, NULL);
    }
    while (!list_empty(&p->quiet))
        forget(p, list_entry(p->quiet.next, struct subscriber, list));
    free(p->subscribers.slots);
    free(p->topics.slots);
    p->magic = 0;
    free(p);
}

void pubsub_stats(const struct pubsub *p, struct pubsub_stats *out)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    *out = (struct pubsub_stats){.n_subscribers = p->subscribers.n,
                                 .n_subscriptions = p->n_subscriptions,
                                 .n_polls = p->n_polls,
                                 .total_bytes = p->total_bytes,
                                 .n_published = p->n_published,
                                 .n_dropped = p->n_dropped,
                                 .n_forgotten = p->n_forgotten};
}

/* --- a check of the books --- */

/* The bytes of a queue; those of a publication count by its share: times n_refs is whole. */
static size_t check_queue(const struct pubsub *p, const struct subscriber *s, double *shared)
{
    size_t bytes = 0;
    uint64_t sequence = 0;

    for (size_t i = 0; i < s->n; i++) {
        const struct publication *b = *item(s, i);
        ASSERT(b->n_refs > 0 && b->sequence > sequence && b->sequence <= p->sequence);
        sequence = b->sequence;
        bytes += size_of(b);
        *shared += (double)size_of(b) / b->n_refs;
    }
    ASSERT(s->bytes == bytes);
    ASSERT(s->n <= 1 || bytes <= p->limits.queue_bytes);
    return s->n * REF_BYTES;
}

void pubsub_selfcheck(const struct pubsub *p)
{
    CHECK_MAGIC(p, PUBSUB_MAGIC);
    size_t n = 0, n_subscriptions = 0, n_polls = 0, bytes = 0;
    double shared = 0;

    for (int i = 0; i < 2; i++) {
        const struct list *head = i == 0 ? &p->quiet : &p->polling;
        uint64_t seen = 0;
        for (const struct list *at = head->next; at != head; at = at->next) {
            const struct subscriber *s = list_entry(at, struct subscriber, list);
            size_t k = 0;
            ASSERT((s->poll != NULL) == (i == 1) && find(p, &s->id) == s && s->seen_ms >= seen);
            seen = s->seen_ms;
            list_for_each(c, &s->subscriptions)
            {
                k++;
            }
            ASSERT(s->n_subscriptions == k);
            n++;
            n_polls += s->poll != NULL;
            n_subscriptions += k;
            bytes += check_queue(p, s, &shared);
        }
    }
    ASSERT(n == p->subscribers.n && n_polls == p->n_polls);
    ASSERT(n_subscriptions == p->n_subscriptions);
    ASSERT(p->total_bytes == bytes + (size_t)(shared + 0.5));
    ASSERT(p->total_bytes <= p->limits.total_bytes);
}
