/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How this works. A call is under way at all times, held by the GCS until there is news. When this
 * node has changed, a second one goes out, and the GCS lets the first go home. Calls are PAUSE_MS
 * apart at least.
 *
 * While nothing is answered, sync_way says what is to be done besides: questions that are answered
 * at once, on fresh connections, and reports through other nodes. Their answers are answers like
 * any other; one that comes twice, or late, has no news.
 *
 * A GCS that was started again tells all rows again. One that went back in time may lack nodes that
 * live, which will register again, and nodes that died, which will not: those that it has not named
 * after UNNAMED_MS of its answering are dead.
 */
#include "gcs/client_sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/node_view_codec.h"
#include "gcs/sync_way.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"

#define PAUSE_MS     100
#define PAUSE_MAX_MS 1000 /* after failures */
#define CALL_MS      10000
#define ASK_MS       1000
#define OPEN_MAX     2
#define UNNAMED_MS   15000

/* A node that on_node was told of. */
struct known_node {
    uint32_t number;
    struct unique_id id;
    uint64_t incarnation; /* of the GCS that named it last */
};

struct client_sync {
    unsigned magic;
    struct client_sync_config config;
    struct loop_timer *due, *ask;
    struct sync_way way;
    unsigned n_open;
    bool is_stopped, is_current;
    bool wants; /* there is something to say */
    uint64_t sent_ms;
    uint32_t pause_ms;
    uint64_t report, incarnation, version;
    struct known_node *known; /* by number */
    size_t n_known, room;
    struct node_sync_answer answer;   /* the one at hand */
    uint64_t replied_ms, answered_ms; /* when; for how long this incarnation has answered */
};
#define CLIENT_SYNC_MAGIC 0x43534e43u

/* --- nodes --- */

/* Where it is, or would be. */
static size_t place_of(const struct client_sync *s, uint32_t number)
{
    size_t low = 0, high = s->n_known;

    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->known[mid].number < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void forget(struct client_sync *s, size_t at)
{
    s->n_known--;
    memmove(&s->known[at], &s->known[at + 1], (s->n_known - at) * sizeof s->known[0]);
}

static void remember(struct client_sync *s, size_t at, const struct node_view *v)
{
    if (s->n_known == s->room) {
        s->room = s->room > 0 ? 2 * s->room : 16;
        s->known = xrealloc(s->known, s->room * sizeof s->known[0]);
    }
    memmove(&s->known[at + 1], &s->known[at], (s->n_known - at) * sizeof s->known[0]);
    s->n_known++;
    s->known[at] = (struct known_node){.number = v->number, .id = v->id};
}

/* Of two calls under way the later may be answered first: its answer has all that is in the other.
 */
static bool is_late(const struct client_sync *s, uint64_t version)
{
    return s->answer.incarnation < s->incarnation
           || (s->answer.incarnation == s->incarnation && version <= s->version);
}

static void on_view(void *arg, const struct node_view *v)
{
    struct client_sync *s = arg;
    size_t at = place_of(s, v->number);
    bool is_known = at < s->n_known && s->known[at].number == v->number;

    if (v->number == 0 || v->number == s->config.number || is_late(s, v->version)
        || (!is_known && !v->is_alive))
        return;
    if (v->is_alive && !is_known)
        remember(s, at, v);
    if (v->is_alive)
        s->known[at].incarnation = s->answer.incarnation;
    else
        forget(s, at);
    s->config.on_node(s->config.arg, v);
}

static void on_question(void *arg, const struct node_question *q)
{
    const struct client_sync *s = arg;

    if (s->config.on_question != NULL)
        s->config.on_question(s->config.arg, q);
}

static void bury_unnamed(struct client_sync *s)
{
    for (size_t i = s->n_known; i-- > 0;) {
        if (s->known[i].incarnation == s->incarnation)
            continue;
        struct node_view v = {.id = s->known[i].id, .number = s->known[i].number};
        snprintf(v.death, sizeof v.death, "the GCS does not know it any more");
        forget(s, i);
        s->config.on_node(s->config.arg, &v);
    }
}

/* --- calls --- */

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size);

/* The bytes, to be freed. */
static void *make_report(struct client_sync *s, bool at_once, size_t *size)
{
    struct node_view self = {.id = s->config.node, .number = s->config.number, .is_alive = true};

    s->config.fill_self(s->config.arg, &self);
    return node_sync_ask(&self, ++s->report, s->incarnation, s->version, at_once, size);
}

static void send_report(struct client_sync *s)
{
    size_t size;
    void *bytes = make_report(s, false, &size);

    s->wants = false;
    s->n_open++;
    s->sent_ms = loop_now_ms();
    gcs_link_call(s->config.link, CLIENT_SYNC_METHOD, bytes, size, CALL_MS, on_reply, s);
    free(bytes);
}

static bool may_send(const struct client_sync *s)
{
    return !s->is_stopped && (s->n_open == 0 || (s->wants && s->n_open < OPEN_MAX));
}

static void arm(struct client_sync *s)
{
    uint64_t now = loop_now_ms(), at = s->sent_ms + s->pause_ms;

    if (may_send(s))
        loop_timer_again(s->due, at > now ? (uint32_t)(at - now) : 0);
}

static void on_due(void *arg)
{
    struct client_sync *s = arg;

    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    if (may_send(s))
        send_report(s);
}

static void on_answer(struct client_sync *s)
{
    const struct node_sync_answer *a = &s->answer;
    if (a->is_unknown || a->death[0] != '\0') {
        s->is_stopped = true;
        if (a->is_unknown)
            s->config.on_unknown(s->config.arg);
        else
            s->config.on_dead(s->config.arg, a->death);
        return;
    }
    if (is_late(s, a->version))
        return;
    if (a->incarnation != s->incarnation)
        s->answered_ms = 0;
    s->incarnation = a->incarnation;
    s->version = a->version;
}

/* Time in which the GCS answers. */
static void count_time(struct client_sync *s)
{
    uint64_t now = loop_now_ms(), step = now - s->replied_ms;
    bool was_due = s->answered_ms > UNNAMED_MS;

    s->replied_ms = now;
    s->answered_ms += step < PAUSE_MAX_MS ? step : PAUSE_MAX_MS;
    if (!was_due && s->answered_ms > UNNAMED_MS && !s->answer.has_more)
        bury_unnamed(s);
}

/* Whether it is an answer. */
static bool take(struct client_sync *s, const void *bytes, size_t size)
{
    if (node_sync_take(bytes, size, on_view, on_question, s, &s->answer) != 0)
        return false;
    s->pause_ms = PAUSE_MS;
    on_answer(s);
    count_time(s);
    return true;
}

static void arm_ask(struct client_sync *s)
{
    uint64_t now = loop_now_ms(), at = sync_way_due(&s->way, (unsigned)s->n_known);

    loop_timer_again(s->ask, at > now ? (uint32_t)(at - now) : 0);
}

static void set_open(struct client_sync *s)
{
    if (!sync_way_is_open(&s->way))
        LOG_AT(s->way.n_tried > 1 ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
               "gcs",
               "answers_again",
               "tries=%u passed=%u",
               s->way.n_tried,
               s->way.n_passed);
    sync_way_heard(&s->way, loop_now_ms());
    arm_ask(s);
}

static void on_reply(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct client_sync *s = arg;

    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    s->n_open--;
    if (s->is_stopped)
        return;
    if (err == NULL && take(s, bytes, size)) {
        set_open(s);
        if (!s->is_current && !s->is_stopped && !s->answer.has_more) {
            s->is_current = true;
            if (s->config.on_current != NULL)
                s->config.on_current(s->config.arg);
        }
    } else {
        if (err == NULL || (err->code != ERR_AWAY && err->code != ERR_TIMEOUT))
            log_warn("gcs",
                     "not_synced",
                     "msg=\"%s\"",
                     err != NULL ? err->text : "the reply is malformed");
        s->pause_ms = s->pause_ms < PAUSE_MAX_MS / 2 ? 2 * s->pause_ms : PAUSE_MAX_MS;
    }
    arm(s);
}

/* --- while nothing is answered --- */

static void on_asked(void *arg, const struct err *err, const uint8_t *bytes, size_t size)
{
    struct client_sync *s = arg;

    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    if (s->is_stopped || err != NULL || !take(s, bytes, size))
        return;
    set_open(s);
    arm(s);
}

static void on_ask(void *arg)
{
    struct client_sync *s = arg;
    size_t size;

    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    if (s->is_stopped)
        return;
    unsigned steps = sync_way_on_time(&s->way, loop_now_ms(), (unsigned)s->n_known);
    if (s->way.n_tried == 2 && (steps & SYNC_WAY_DIAL) != 0) /* it is not merely slow */
        log_warn("gcs", "does_not_answer", "msg=\"asked again, anew and through other nodes\"");
    if ((steps & SYNC_WAY_DIAL) != 0)
        gcs_link_redial(s->config.link);
    if ((steps & SYNC_WAY_ASK) != 0) {
        void *bytes = make_report(s, true, &size);
        gcs_link_call(s->config.link, CLIENT_SYNC_METHOD, bytes, size, ASK_MS, on_asked, s);
        free(bytes);
    }
    if ((steps & SYNC_WAY_OTHERS) != 0) {
        void *bytes = make_report(s, false, &size);
        s->config.pass_on(s->config.arg, bytes, size);
        free(bytes);
    }
    arm_ask(s);
}

void client_sync_take_passed(struct client_sync *s, const void *bytes, size_t size)
{
    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    if (s->is_stopped || !take(s, bytes, size))
        return;
    sync_way_heard_by_others(&s->way, loop_now_ms());
    arm_ask(s);
}

bool client_sync_is_answered(const struct client_sync *s)
{
    return !s->is_stopped && sync_way_is_open(&s->way);
}

/* --- the whole --- */

struct client_sync *client_sync_create(const struct client_sync_config *config)
{
    struct client_sync *s = xcalloc(1, sizeof *s);

    s->magic = CLIENT_SYNC_MAGIC;
    s->config = *config;
    s->pause_ms = PAUSE_MS;
    s->due = loop_after(config->loop, 0, on_due, s);
    sync_way_heard(&s->way, loop_now_ms());
    s->ask = loop_after(config->loop, SYNC_WAY_QUIET_MS, on_ask, s);
    return s;
}

void client_sync_destroy(struct client_sync *s)
{
    if (s == NULL)
        return;
    CHECK_MAGIC(s, CLIENT_SYNC_MAGIC);
    loop_timer_end(s->due);
    loop_timer_end(s->ask);
    free(s->known);
    s->magic = 0;
    free(s);
}

void client_sync_changed(struct client_sync *s)
{
    if (s->wants)
        return; /* its time is set, or will be with the next answer */
    s->wants = true;
    arm(s);
}

void client_sync_resume(struct client_sync *s)
{
    s->is_stopped = false;
    sync_way_heard(&s->way, loop_now_ms());
    arm_ask(s);
    arm(s);
}

void client_sync_stop(struct client_sync *s)
{
    s->is_stopped = true;
}
