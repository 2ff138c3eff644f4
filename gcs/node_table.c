/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/node_table.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/alloc.h"

#define TABLE "NODE"

struct getting {
    node_row_f done;
    void *arg;
};

void node_table_register(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg)
{
    char key[ID_HEX_MAX];

    id_hex(row->id.bytes, sizeof row->id.bytes, key);
    store->ops->put(store, TABLE, key, row, sizeof *row, STORE_PUT_NEW, done, arg);
}

void node_table_set_dead(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg)
{
    struct node_row dead = *row;
    char key[ID_HEX_MAX];

    dead.state = NODE_DEAD;
    id_hex(row->id.bytes, sizeof row->id.bytes, key);
    store->ops->put(store, TABLE, key, &dead, sizeof dead, STORE_PUT_ANY, done, arg);
}

static void got(void *arg, enum err_code code, const void *value, size_t size)
{
    struct getting *g = arg;
    struct node_row row = {.state = 0};

    if (code == ERR_NONE)
        memcpy(&row, value, size < sizeof row ? size : sizeof row);
    row.name[sizeof row.name - 1] = '\0';
    g->done(g->arg, code, code == ERR_NONE ? &row : NULL);
    free(g);
}

void node_table_get(struct store *store, const struct unique_id *id, node_row_f done, void *arg)
{
    struct getting *g = xmalloc(sizeof *g);
    char key[ID_HEX_MAX];

    *g = (struct getting){.done = done, .arg = arg};
    id_hex(id->bytes, sizeof id->bytes, key);
    store->ops->get(store, TABLE, key, got, g);
}
