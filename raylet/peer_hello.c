/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/peer_hello.h"

#include <string.h>

#define SIZE_MAX_HELLO 4096 /* no raylet will ever have so much to say */

int peer_hello_read(const void *bytes,
                    size_t size,
                    const struct unique_id *cluster,
                    const struct unique_id *node,
                    struct peer_hello *out,
                    struct err *err)
{
    char hex[ID_HEX_MAX];
    uint32_t magic;

    *out = (struct peer_hello){.from = unique_id_nil()};
    if (size < offsetof(struct peer_hello, cluster) || size > SIZE_MAX_HELLO)
        return err_set(err, ERR_PROTOCOL, "the first message is no hello of a raylet");
    memcpy(&magic, bytes, sizeof magic);
    if (magic != PEER_HELLO_MAGIC)
        return err_set(err, ERR_PROTOCOL, "the first message is no hello of a raylet");
    memcpy(out, bytes, size < sizeof *out ? size : sizeof *out);
    if (out->protocol != PEER_PROTOCOL)
        return err_set(err,
                       ERR_VERSION,
                       "raylets here speak protocol %d, this one %u: install the same version",
                       PEER_PROTOCOL,
                       out->protocol);
    if (size < PEER_HELLO_FIRST_SIZE)
        return err_set(err, ERR_PROTOCOL, "the hello is cut off");
    if (!unique_id_eq(&out->cluster, cluster))
        return err_set(err, ERR_DENIED, "this is another cluster than the caller's");
    if (!unique_id_eq(&out->to, node))
        return err_set(err,
                       ERR_INVALID,
                       "this is node %s, not the one that was meant",
                       id_hex(node->bytes, sizeof node->bytes, hex));
    return 0;
}
