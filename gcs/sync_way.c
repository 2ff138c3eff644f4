/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/sync_way.h"

#define TRY_MS        350  /* between fresh connections, and up to SPREAD_MS more ... */
#define TRY_LATE_MS   2000 /* ... after EARLY of them: it is not the cable's flapping */
#define EARLY         10
#define LATE_EACH     5 /* then one of so many is dialled for: what is not connected dials anyway */
#define PASS_MS       1000 /* until more nodes are asked to pass it on */
#define PASS_LATE_MS  2000 /* nobody could for EARLY times: the GCS itself may be away */
#define PASS_AGAIN_MS 200  /* after an answer: it has been held by the GCS for about a second */
#define SPREAD_MS     400

void sync_way_heard(struct sync_way *w, uint64_t now_ms)
{
    *w = (struct sync_way){.heard_ms = now_ms};
}

void sync_way_heard_by_others(struct sync_way *w, uint64_t now_ms)
{
    w->back_ms = now_ms;
    w->n_unanswered = 0;
}

/* When the next question goes out. Not in step with what flaps. */
static uint64_t try_at(const struct sync_way *w, unsigned n_nodes)
{
    uint64_t pause = w->n_tried > EARLY ? TRY_LATE_MS : TRY_MS;

    if (w->n_tried == 0)
        return w->heard_ms + SYNC_WAY_QUIET_MS;
    return w->tried_ms + pause + n_nodes + w->n_tried * 70 % SPREAD_MS;
}

static uint64_t pass_at(const struct sync_way *w)
{
    if (w->n_tried < 2)
        return UINT64_MAX;
    if (w->n_passed == 0)
        return w->tried_ms;
    if (w->back_ms >= w->passed_ms)
        return w->back_ms + PASS_AGAIN_MS;
    return w->passed_ms + (w->n_unanswered > EARLY ? PASS_LATE_MS : PASS_MS);
}

uint64_t sync_way_due(const struct sync_way *w, unsigned n_nodes)
{
    uint64_t at = try_at(w, n_nodes), pass = pass_at(w);

    return pass < at ? pass : at;
}

unsigned sync_way_on_time(struct sync_way *w, uint64_t now_ms, unsigned n_nodes)
{
    unsigned steps = 0;

    if (now_ms >= try_at(w, n_nodes)) {
        steps |= SYNC_WAY_ASK;
        if (w->n_tried > 0 && (w->n_tried <= EARLY || w->n_tried % LATE_EACH == 0))
            steps |= SYNC_WAY_DIAL;
        w->tried_ms = now_ms;
        w->n_tried++;
    }
    if (now_ms >= pass_at(w)) {
        steps |= SYNC_WAY_OTHERS;
        w->passed_ms = now_ms;
        w->n_passed++;
        w->n_unanswered++;
    }
    return steps;
}

bool sync_way_is_open(const struct sync_way *w)
{
    return w->n_tried == 0;
}
