/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/message_codec.h"

#include <stdlib.h>

#include "lib/base/alloc.h"

void *message_of(struct rpc_call *call, const ProtobufCMessageDescriptor *kind)
{
    size_t size;
    const uint8_t *bytes = rpc_call_request(call, &size);
    void *m = protobuf_c_message_unpack(kind, NULL, size, bytes);

    if (m == NULL)
        rpc_call_fail(call, ERR_INVALID, "the request is no %s", kind->short_name);
    return m;
}

void message_reply(struct rpc_call *call, const ProtobufCMessage *reply)
{
    size_t size = protobuf_c_message_get_packed_size(reply);
    uint8_t *bytes = try_alloc(NULL, size + 1);

    if (bytes == NULL) {
        rpc_call_fail(call, ERR_NO_MEMORY, "no memory for a reply of %zu bytes", size);
        return;
    }
    rpc_call_reply(call, bytes, protobuf_c_message_pack(reply, bytes));
    free(bytes);
}
