/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes tell `ray why`, and what it asks of them: the first byte says which message. */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "raylet/why_refs.h"
#include "raylet/why_view.h"
#include "tests/fuzz/fuzz.h"

#define N_NODES 3

/* One state, told by all nodes, so that each has units at the others. */
static void explain(const uint8_t *data, size_t size)
{
    struct why_node nodes[N_NODES] = {{.number = 0}};
    struct why_waits waits;
    struct err err = {.code = ERR_NONE};

    for (uint32_t i = 0; i < N_NODES; i++) {
        nodes[i].number = i + 1;
        nodes[i].has_answered = why_state_unpack(data, size, &nodes[i].state, &err) == 0;
        if (!nodes[i].has_answered) {
            ASSERT(err.code == ERR_PROTOCOL);
            nodes[i].state = (struct why_state){.number = 0};
        }
    }
    size_t again_size;
    void *again = why_state_pack(&nodes[0].state, &again_size);
    struct why_state same;
    ASSERT(why_state_unpack(again, again_size, &same, &err) == 0);
    ASSERT(same.n_uses == nodes[0].state.n_uses && same.n_pulls == nodes[0].state.n_pulls);
    why_state_fini(&same);
    free(again);
    nodes[2].has_answered = false;
    why_view_explain(nodes, N_NODES, "", &waits);
    for (size_t i = 0; i < waits.n; i++)
        ASSERT(waits.v[i].text[0] != '\0' && waits.v[i].reason < WHY_N_REASONS);
    why_waits_fini(&waits);
    for (int i = 0; i < N_NODES; i++)
        why_state_fini(&nodes[i].state);
}

static void read_refs(const uint8_t *data, size_t size)
{
    struct why_refs r = {.n = 0};
    uint64_t next;

    for (int i = 0; i < 2 && why_refs_add_page(&r, data, size, &next) == 0; i++)
        continue;
    for (size_t i = 0; i < r.n; i++) {
        const struct why_row *row = why_refs_find(&r, r.v[i].row.counter, r.v[i].row.index);
        ASSERT(row == NULL || row->row.counter == r.v[i].row.counter);
        for (uint32_t k = 0; k < r.v[i].n_args; k++)
            why_refs_at(&r, r.v[i].args[k]);
    }
    why_refs_fini(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t process;
    uint64_t from;
    void *page;
    size_t n;

    if (size == 0)
        return 0;
    switch (data[0] & 3) {
    case 0:
        explain(data + 1, size - 1);
        break;
    case 1:
        read_refs(data + 1, size - 1);
        break;
    case 2:
        why_refs_asked(data + 1, size - 1, &process, &from);
        break;
    default:
        if (why_refs_replied(data + 1, size - 1, &page, &n) == 0) {
            read_refs(page, n);
            free(page);
        }
        break;
    }
    return 0;
}
