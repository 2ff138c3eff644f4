/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/rpc_library.h"

#include <dlfcn.h>
#include <string.h>

#ifndef RPC_LIBRARY /* the Makefile says which one the headers are of */
#define RPC_LIBRARY "libgrpc_unsecure.so"
#endif

struct rpc_library grpc;

int rpc_library_open(struct err *err)
{
    if (grpc.init != NULL)
        return 0;
    void *library = dlopen(RPC_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return err_set(err,
                       ERR_NOT_FOUND,
                       "a cluster of several machines wants the library gRPC, which cannot be "
                       "opened (install libgrpc29): %s",
                       dlerror());
    struct rpc_library found;
    void *f;
#define FIND(here, there)                                                                          \
    f = dlsym(library, #there);                                                                    \
    if (f == NULL)                                                                                 \
        return err_set(err, ERR_VERSION, "the library %s has no %s", RPC_LIBRARY, #there);         \
    memcpy(&found.here, &f, sizeof f);
    RPC_LIBRARY_FUNCTIONS(FIND)
#undef FIND
    grpc = found;
    return 0;
}
