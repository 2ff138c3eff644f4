/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GCS_MESSAGE_CODEC_H
#define GCS_MESSAGE_CODEC_H
/*
 * Calls as messages of proto/: a request taken apart, a reply packed.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "lib/net/rpc_server.h"

/* To be freed by protobuf_c_message_free_unpacked. NULL: it is no such message, the call failed. */
void *message_of(struct rpc_call *call, const ProtobufCMessageDescriptor *kind);
void message_reply(struct rpc_call *call, const ProtobufCMessage *reply);
/* Bytes that are a message of this kind, whose own strings are UTF-8: other readers want that. */
bool message_is_sound(const ProtobufCMessageDescriptor *kind, const void *bytes, size_t size);

#endif /* GCS_MESSAGE_CODEC_H */
