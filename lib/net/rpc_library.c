/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/rpc_library.h"

#include <dlfcn.h>
#include <string.h>

#ifndef RPC_LIBRARY /* the Makefile says which one the headers are of */
#define RPC_LIBRARY "libgrpc_unsecure.so"
#endif

struct rpc_library grpc;

#ifdef __SANITIZE_ADDRESS__
const char *__lsan_default_options(void);
const char *__lsan_default_suppressions(void);

/*
 * A library that dlopen brings has its thread-local memory from malloc, whose size the leak checker
 * guesses from the words before it: wrongly with glibc 2.36, and it crashes or never ends.
 */
const char *__lsan_default_options(void)
{
    return "use_tls=0:print_suppressions=0";
}

/* c-ares 1.18 forgets a copy of the name each time that it resolves "localhost". */
const char *__lsan_default_suppressions(void)
{
    return "leak:libcares.so";
}
#endif

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
