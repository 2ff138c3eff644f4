/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Of a process's share nothing is trusted and nothing is read twice.
 */
#include "objstore/pin.h"
#include "objstore/store_private.h"

/* Foreign numbers: is [offset, offset + size) a range of the arena that begins with a block? */
static bool is_range(const struct store *s, uint64_t offset, uint64_t size)
{
    return size > 0 && size <= s->config.capacity && offset <= s->config.capacity - size
           && offset % STORE_BLOCK == 0;
}

static bool on_seal(struct store *s, uint32_t slot, const struct store_record *r)
{
    uint32_t entry = entry_at(s, r->place);

    if (entry == 0 || state_of(s, entry) != STORE_ENTRY_LENT || s->entries[entry].slot != slot)
        return false;
    if (r->size == 0 || r->size > s->config.capacity || r->extra > s->config.capacity
        || !is_range(s, r->offset, r->size + r->extra) || (r->n_refs > 0 && r->extra == 0))
        return false;
    uint32_t first = (uint32_t)(r->offset / STORE_BLOCK), n = blocks(r->size + r->extra);
    if (!store_carve(&s->processes[slot], first, n))
        return false;
    store_entry_seal(s, entry, r, first, n);
    return true;
}

static bool on_free(struct store *s, uint32_t slot, const struct store_record *r)
{
    uint32_t number = s->processes[slot].number, entry = entry_at(s, r->place);

    if (entry == 0)
        return false;
    switch (state_of(s, entry)) {
    case STORE_ENTRY_SEALED:
        if (s->config.index[entry].owner != number)
            return false;
        store_entry_free(s, entry);
        return true;
    case STORE_ENTRY_LENT: /* the SEAL is in its creator's ring, or a frame on its way */
        store_entry_free_early(s, number, r->place);
        s->wants_drain = true;
        return true;
    case STORE_ENTRY_FREEING:
    case STORE_ENTRY_FREE:
        return false;
    }
    return false;
}

static bool on_keep(struct store *s, uint32_t slot, const struct store_record *r)
{
    uint32_t entry = entry_at(s, r->place);

    if (entry == 0 || state_of(s, entry) != STORE_ENTRY_SEALED
        || s->config.index[entry].owner != s->processes[slot].number)
        return false;
    store_end_copy(s, entry);
    return true;
}

static bool on_hold(struct store *s, uint32_t slot, const struct store_record *r)
{
    struct process *p = &s->processes[slot];
    uint32_t entry = entry_at(s, r->place);

    if (entry == 0 || s->entries[entry].n_holds == UINT32_MAX)
        return false;
    word_map_set(&p->holds, entry, word_map_get(&p->holds, entry) + 1);
    s->entries[entry].n_holds++;
    return true;
}

static bool on_unhold(struct store *s, uint32_t slot, const struct store_record *r)
{
    struct process *p = &s->processes[slot];
    uint32_t entry = entry_at(s, r->place);
    uint64_t n = entry == 0 ? 0 : word_map_get(&p->holds, entry);

    if (n == 0)
        return false;
    word_map_set(&p->holds, entry, n - 1);
    store_entry_drop_holds(s, entry, 1);
    return true;
}

static bool on_return(struct store *s, uint32_t slot, const struct store_record *r)
{
    if (r->place != 0) {
        uint32_t entry = entry_at(s, r->place);
        if (entry == 0 || state_of(s, entry) != STORE_ENTRY_LENT || s->entries[entry].slot != slot)
            return false;
        store_entry_give_up(s, entry);
        return true;
    }
    if (!is_range(s, r->offset, r->size) || r->size % STORE_BLOCK != 0)
        return false;
    uint32_t first = (uint32_t)(r->offset / STORE_BLOCK), n = blocks(r->size);
    if (!store_carve(&s->processes[slot], first, n))
        return false;
    store_take_back(s, first, n);
    return true;
}

static bool on_abort(struct store *s, uint32_t slot, const struct store_record *r)
{
    return r->owner == s->processes[slot].number
           && store_entry_abort(s, r->owner, r->counter, r->attempt);
}

void store_read_record(struct store *s, uint32_t slot, const struct store_record *r)
{
    bool is_good = false;

    switch ((enum store_record_kind)r->kind) {
    case STORE_SEAL:
        is_good = on_seal(s, slot, r);
        break;
    case STORE_FREE:
        is_good = on_free(s, slot, r);
        break;
    case STORE_HOLD:
        is_good = on_hold(s, slot, r);
        break;
    case STORE_UNHOLD:
        is_good = on_unhold(s, slot, r);
        break;
    case STORE_RETURN:
        is_good = on_return(s, slot, r);
        break;
    case STORE_ABORT:
        is_good = on_abort(s, slot, r);
        break;
    case STORE_KEEP:
        is_good = on_keep(s, slot, r);
        break;
    }
    s->n_bad += !is_good;
}

void store_read_ring(struct store *s, uint32_t slot)
{
    struct process *p = &s->processes[slot];
    struct store_ring *ring = &p->share->ring;

    if (p->is_deaf)
        return;
    uint64_t n = PIN_LOAD(&ring->head) - p->tail;
    if (n > STORE_RING) {
        p->is_deaf = true;
        s->n_bad++;
        return;
    }
    struct store_record r;
    while (n-- > 0 && ring_take(ring, &p->tail, &r)) {
        atomic_signal_fence(memory_order_seq_cst); /* it is the copy that is checked and used */
        store_read_record(s, slot, &r);
    }
}

void store_read_rings(struct store *s)
{
    s->wants_drain = false;
    s->drained_ms = s->now_ms;
    for (uint32_t i = 0; i < s->n_live; i++)
        store_read_ring(s, s->live[i]);
}
