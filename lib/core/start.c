/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the user's executable becomes a zygote without running the user's main (DESIGN D7). libray exports
 * __libc_start_main; the executable's _start calls it with main, and when the raylet's mode variable is set, libray's own main is
 * put in its place. It runs after all constructors, so every RAY_REMOTE is registered. A constructor of libray checks that
 * our __libc_start_main is the one _start will call; it is not when libc comes before libray in the link order,
 * or when only another library links libray.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/core/core.h"

#define MODE_VARIABLE "RAY_WORKER_MODE"

typedef int (*main_f)(int, char **, char **);
typedef int (*start_main_f)(main_f, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

int ray_worker_main(int argc, char **argv);
int __libc_start_main(main_f main, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void *stack_end);

static bool asked, bound;
static int link_fd = -1, board_fd = -1;

static void read_mode(void)
{
    static bool done;
    const char *mode = done ? NULL : getenv(MODE_VARIABLE);

    done = true;
    if (mode == NULL)
        return;
    asked = sscanf(mode, "zygote:%d:%d", &link_fd, &board_fd) == 2;
    if (!asked) {
        fprintf(stderr, "ray: %s=%s is not for users: unset it\n", MODE_VARIABLE, mode);
        _exit(126);
    }
    unsetenv(MODE_VARIABLE);
}

static int zygote_main(int argc, char **argv, char **envp)
{
    (void)argc;
    (void)argv;
    (void)envp;
    core_zygote_main(link_fd, board_fd);
}

int ray_worker_main(int argc, char **argv)
{
    read_mode();
    if (!asked)
        return -1;
    return zygote_main(argc, argv, NULL);
}

/* _start is in the executable: whatever it was bound to has run before any constructor of the executable, and before main. */
int __libc_start_main(main_f main, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    start_main_f real = (start_main_f)dlsym(RTLD_NEXT, "__libc_start_main");

    bound = true;
    read_mode();
    return real(asked ? zygote_main : main, argc, argv, init, fini, rtld_fini, stack_end);
}

__attribute__((constructor)) static void check_binding(void)
{
    /* The loader resolves the executable's reference in search order; the first definition must be ours. */
    void *first = dlsym(RTLD_DEFAULT, "__libc_start_main");

    read_mode();
    if (!asked || bound || first == (void *)__libc_start_main)
        return;
    fprintf(stderr,
            "ray: this program cannot be a worker: its start-up code is bound to libc, not to libray. "
            "Link the executable itself with -lray, before -lc, or call ray_worker_main(argc, argv) first in main\n");
    _exit(126);
}
