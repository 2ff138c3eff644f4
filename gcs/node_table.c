/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/node_table.h"

#include <stdlib.h>

#include "gcs/node_codec.h"
#include "lib/base/alloc.h"
#include "lib/base/log.h"

#define TABLE "NODE"

struct getting {
    node_row_f done;
    void *arg;
};

static void put(struct store *store,
                const struct node_row *row,
                enum store_put how,
                store_done_f done,
                void *arg)
{
    char key[ID_HEX_MAX];
    size_t size;
    void *bytes = node_row_pack(row, &size);

    id_hex(row->id.bytes, sizeof row->id.bytes, key);
    store_put(store, TABLE, key, bytes, size, how, done, arg);
    free(bytes);
}

void node_table_register(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg)
{
    put(store, row, STORE_PUT_NEW, done, arg);
}

void node_table_set_dead(struct store *store,
                         const struct node_row *row,
                         store_done_f done,
                         void *arg)
{
    struct node_row dead = *row;

    dead.state = NODE_DEAD;
    put(store, &dead, STORE_PUT_ANY, done, arg);
}

void node_table_remove(struct store *store,
                       const struct unique_id *id,
                       store_done_f done,
                       void *arg)
{
    char key[ID_HEX_MAX];

    id_hex(id->bytes, sizeof id->bytes, key);
    store_remove(store, TABLE, key, done, arg);
}

static void got(void *arg, enum err_code code, const void *value, size_t size)
{
    struct getting *g = arg;
    struct node_row row;

    if (code == ERR_NONE && node_row_unpack(value, size, &row) != 0)
        code = ERR_PROTOCOL;
    g->done(g->arg, code, code == ERR_NONE ? &row : NULL);
    free(g);
}

static struct getting *getting(node_row_f done, void *arg)
{
    struct getting *g = xmalloc(sizeof *g);

    *g = (struct getting){.done = done, .arg = arg};
    return g;
}

void node_table_get(struct store *store, const struct unique_id *id, node_row_f done, void *arg)
{
    char key[ID_HEX_MAX];

    id_hex(id->bytes, sizeof id->bytes, key);
    store_get(store, TABLE, key, got, getting(done, arg));
}

static void scanned(void *arg, enum err_code code, const char *key, const void *value, size_t size)
{
    struct getting *g = arg;
    struct node_row row;

    if (key == NULL) {
        g->done(g->arg, code, NULL);
        free(g);
    } else if (node_row_unpack(value, size, &row) != 0) {
        log_err("gcs", "foreign_row", "table=" TABLE " key=%.80s", key);
    } else {
        g->done(g->arg, ERR_NONE, &row);
    }
}

void node_table_scan(struct store *store, node_row_f row, void *arg)
{
    store_scan(store, TABLE, "", scanned, getting(row, arg));
}
