/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/credit.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"

void credit_init(struct credit *c)
{
    *c = (struct credit){.allotment = CREDIT_LEAST, .told = CREDIT_LEAST};
}

void credit_fini(struct credit *c)
{
    while (c->first != NULL) {
        struct credit_message *m = c->first;
        c->first = m->next;
        free(m);
    }
    c->last = NULL;
    free(c->reserved);
    c->reserved = NULL;
}

void *credit_reserve(struct credit *c, void *to, uint8_t type, size_t size)
{
    free(c->reserved);
    c->reserved = try_alloc(NULL, sizeof *c->reserved + size);
    if (c->reserved == NULL)
        return NULL;
    *c->reserved = (struct credit_message){.to = to, .size = size, .type = type};
    return c->reserved->body;
}

void credit_keep(struct credit *c, size_t size)
{
    struct credit_message *m = c->reserved;

    ASSERT(m != NULL && size <= m->size);
    m->size = size;
    c->reserved = NULL;
    if (c->first == NULL)
        c->first = m;
    else
        c->last->next = m;
    c->last = m;
}

void credit_forget(struct credit *c, const void *to)
{
    struct credit_message **at = &c->first, *m;

    c->last = NULL;
    while ((m = *at) != NULL) {
        if (m->to != to) {
            c->last = m;
            at = &m->next;
            continue;
        }
        *at = m->next;
        free(m);
    }
}

static uint32_t clamp(uint32_t allotment)
{
    if (allotment < CREDIT_LEAST)
        return CREDIT_LEAST;
    return allotment < CREDIT_MOST ? allotment : CREDIT_MOST;
}

void credit_on_given(struct credit *c, uint32_t bytes, uint32_t allotment)
{
    c->unread -= bytes < c->unread ? bytes : c->unread;
    c->allotment = clamp(allotment);
}

const struct credit_message *credit_next(const struct credit *c)
{
    return c->unread < c->allotment ? c->first : NULL;
}

void credit_sent_next(struct credit *c)
{
    struct credit_message *m = c->first;

    credit_spend(c, m->size);
    c->first = m->next;
    if (c->first == NULL)
        c->last = NULL;
    free(m);
}

struct credit_given credit_give(struct credit *c, unsigned n_sources)
{
    uint32_t bytes = c->read < UINT32_MAX ? (uint32_t)c->read : UINT32_MAX;

    c->read -= bytes;
    c->told = clamp(n_sources > 0 ? CREDIT_SUM / n_sources : CREDIT_MOST);
    return (struct credit_given){.bytes = bytes, .allotment = c->told};
}
