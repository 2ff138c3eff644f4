/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/message_codec.h"

#include <stdlib.h>

#include "lib/base/alloc.h"
#include "lib/base/utf8.h"

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

static size_t take_varint(const uint8_t *bytes, size_t *at)
{
    size_t n = 0;
    unsigned shift = 0;

    do {
        n |= shift < 64 ? (size_t)(bytes[*at] & 0x7f) << shift : 0;
        shift += 7;
    } while ((bytes[(*at)++] & 0x80) != 0);
    return n;
}

/* protobuf-c ends a string at its first 0, so the bytes are read once more; it took them for a
 * message, so no length and no number leads beyond their end. */
static bool has_only_text(const ProtobufCMessageDescriptor *kind, const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t tag = take_varint(bytes, &at), n = 0;
        const ProtobufCFieldDescriptor *f =
            protobuf_c_message_descriptor_get_field(kind, (unsigned)(tag >> 3));
        switch (tag & 7) {
        case PROTOBUF_C_WIRE_TYPE_VARINT:
            take_varint(bytes, &at);
            break;
        case PROTOBUF_C_WIRE_TYPE_64BIT:
            n = 8;
            break;
        case PROTOBUF_C_WIRE_TYPE_32BIT:
            n = 4;
            break;
        default:
            n = take_varint(bytes, &at);
            if (f != NULL && f->type == PROTOBUF_C_TYPE_STRING
                && utf8_length((const char *)bytes + at, n) < n)
                return false;
        }
        at += n;
    }
    return true;
}

bool message_is_sound(const ProtobufCMessageDescriptor *kind, const void *bytes, size_t size)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(kind, NULL, size, size > 0 ? bytes : "");

    if (m == NULL)
        return false;
    protobuf_c_message_free_unpacked(m, NULL);
    return has_only_text(kind, bytes, size);
}
