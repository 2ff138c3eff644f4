/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_NET_RPC_LIBRARY_H
#define LIB_NET_RPC_LIBRARY_H
/*
 * gRPC's C library, opened with the first bridge: no binary links it, so that a raylet of a private
 * cluster does not pay for it (3.6 ms of start-up, 51 libraries, 4.4 MiB PSS before its threads).
 * Its function grpc_x is grpc.x here. For lib/net/rpc_* only.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#include "lib/base/err.h"

/* X(its name here, its name there) */
#define RPC_LIBRARY_FUNCTIONS(X)                                                                   \
    X(byte_buffer_destroy, grpc_byte_buffer_destroy)                                               \
    X(byte_buffer_length, grpc_byte_buffer_length)                                                 \
    X(byte_buffer_reader_destroy, grpc_byte_buffer_reader_destroy)                                 \
    X(byte_buffer_reader_init, grpc_byte_buffer_reader_init)                                       \
    X(byte_buffer_reader_next, grpc_byte_buffer_reader_next)                                       \
    X(cache_flush, grpc_completion_queue_thread_local_cache_flush)                                 \
    X(cache_init, grpc_completion_queue_thread_local_cache_init)                                   \
    X(call_cancel, grpc_call_cancel)                                                               \
    X(call_details_destroy, grpc_call_details_destroy)                                             \
    X(call_details_init, grpc_call_details_init)                                                   \
    X(call_get_peer, grpc_call_get_peer)                                                           \
    X(call_start_batch, grpc_call_start_batch)                                                     \
    X(call_unref, grpc_call_unref)                                                                 \
    X(channel_create, grpc_channel_create)                                                         \
    X(channel_create_call, grpc_channel_create_call)                                               \
    X(channel_credentials_release, grpc_channel_credentials_release)                               \
    X(channel_destroy, grpc_channel_destroy)                                                       \
    X(completion_queue_create_for_next, grpc_completion_queue_create_for_next)                     \
    X(completion_queue_destroy, grpc_completion_queue_destroy)                                     \
    X(completion_queue_next, grpc_completion_queue_next)                                           \
    X(completion_queue_shutdown, grpc_completion_queue_shutdown)                                   \
    X(empty_slice, grpc_empty_slice)                                                               \
    X(free, gpr_free)                                                                              \
    X(inf_future, gpr_inf_future)                                                                  \
    X(init, grpc_init)                                                                             \
    X(insecure_credentials_create, grpc_insecure_credentials_create)                               \
    X(insecure_server_credentials_create, grpc_insecure_server_credentials_create)                 \
    X(metadata_array_destroy, grpc_metadata_array_destroy)                                         \
    X(metadata_array_init, grpc_metadata_array_init)                                               \
    X(now, gpr_now)                                                                                \
    X(raw_byte_buffer_create, grpc_raw_byte_buffer_create)                                         \
    X(resource_quota_arg_vtable, grpc_resource_quota_arg_vtable)                                   \
    X(resource_quota_create, grpc_resource_quota_create)                                           \
    X(resource_quota_resize, grpc_resource_quota_resize)                                           \
    X(resource_quota_unref, grpc_resource_quota_unref)                                             \
    X(server_add_http2_port, grpc_server_add_http2_port)                                           \
    X(server_cancel_all_calls, grpc_server_cancel_all_calls)                                       \
    X(server_create, grpc_server_create)                                                           \
    X(server_credentials_release, grpc_server_credentials_release)                                 \
    X(server_destroy, grpc_server_destroy)                                                         \
    X(server_register_completion_queue, grpc_server_register_completion_queue)                     \
    X(server_request_call, grpc_server_request_call)                                               \
    X(server_shutdown_and_notify, grpc_server_shutdown_and_notify)                                 \
    X(server_start, grpc_server_start)                                                             \
    X(set_log_function, gpr_set_log_function)                                                      \
    X(set_log_verbosity, gpr_set_log_verbosity)                                                    \
    X(shutdown_blocking, grpc_shutdown_blocking)                                                   \
    X(slice_from_copied_buffer, grpc_slice_from_copied_buffer)                                     \
    X(slice_from_copied_string, grpc_slice_from_copied_string)                                     \
    X(slice_from_static_string, grpc_slice_from_static_string)                                     \
    X(slice_malloc, grpc_slice_malloc)                                                             \
    X(slice_str_cmp, grpc_slice_str_cmp)                                                           \
    X(slice_unref, grpc_slice_unref)                                                               \
    X(time_add, gpr_time_add)                                                                      \
    X(time_from_millis, gpr_time_from_millis)

#define RPC_LIBRARY_MEMBER(here, there) __typeof__(there) *here;
struct rpc_library {
    RPC_LIBRARY_FUNCTIONS(RPC_LIBRARY_MEMBER)
};

extern struct rpc_library grpc;

/* Open it; again: nothing. It stays open. -1: it is not installed, or lacks a function. */
int rpc_library_open(struct err *err);

#endif /* LIB_NET_RPC_LIBRARY_H */
