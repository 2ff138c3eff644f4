/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the user's executable becomes a zygote without running the user's main (DESIGN D7). libray
 * exports
 * __libc_start_main; the executable's _start calls it with main, and when the raylet's mode
 * variable is set, libray's own main is put in its place. It runs after all constructors, so every
 * RAY_REMOTE is registered. A constructor of libray checks that our __libc_start_main is the one
 * _start will call; it is not when libc comes before libray in the link order, or when only another
 * library links libray: the user's main would run in a worker and start clusters of its own.
 *
 * A fully static program cannot interpose (compile with RAY_STATIC); its main calls ray_worker_main
 * first.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/core/core_private.h"

#define MODE_VARIABLE "RAY_WORKER_MODE"
#define EXIT_CANNOT   126 /* what a shell says of a file that cannot be executed */

#ifdef RAY_STATIC
#define REMEDY "a static program calls ray_worker_main(argc, argv) first in main"
#else
#define REMEDY "call it in main, not in a constructor"
#endif

typedef int (*main_f)(int, char **, char **);
typedef int (*start_main_f)(main_f, int, char **, main_f, void (*)(void), void (*)(void), void *);

int ray_worker_main(int argc, char **argv);

static bool asked;
static struct core_zygote_setup setup = {-1, -1, -1, -1, ""};

/* Once; before any code of the user's executable, so that no process it starts inherits the
 * variable. */
static void read_mode(void)
{
    static bool done;
    const char *mode = done ? NULL : getenv(MODE_VARIABLE);
    int at = 0;

    done = true;
    if (mode == NULL)
        return;
    if (sscanf(mode,
               "zygote:%d:%d:%d:%d:%n",
               &setup.link_fd,
               &setup.board_fd,
               &setup.index_fd,
               &setup.arena_fd,
               &at)
            != 4
        || at == 0 || fcntl(setup.link_fd, F_GETFD) < 0 || fcntl(setup.board_fd, F_GETFD) < 0
        || fcntl(setup.index_fd, F_GETFD) < 0 || fcntl(setup.arena_fd, F_GETFD) < 0) {
        fprintf(stderr,
                "ray: %s=%.80s is set by a raylet for its workers alone: unset it\n",
                MODE_VARIABLE,
                mode);
        _exit(EXIT_CANNOT);
    }
    snprintf(setup.session_dir, sizeof setup.session_dir, "%s", mode + at);
    asked = true;
    unsetenv(MODE_VARIABLE);
}

/* For programs that libray cannot reach before main. Returns -1 at once when this process is no
 * worker. */
int ray_worker_main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    read_mode();
    if (!asked)
        return -1;
    core_zygote_main(&setup);
}

void start_check(void)
{
    if (!asked)
        return;
    fprintf(stderr, "ray: ray_init runs in a worker's process before it could serve: " REMEDY "\n");
    _exit(EXIT_CANNOT);
}

#ifdef RAY_STATIC
__attribute__((constructor)) static void read_mode_at_load(void)
{
    read_mode();
}
#else
int __libc_start_main(main_f main,
                      int argc,
                      char **argv,
                      main_f init,
                      void (*fini)(void),
                      void (*rtld_fini)(void),
                      void *stack_end);

static int zygote_main(int argc, char **argv, char **envp)
{
    (void)envp;
    return ray_worker_main(argc, argv);
}

/* glibc's signature; init and fini are NULL in programs linked with glibc 2.34 or later. */
int __libc_start_main(main_f main,
                      int argc,
                      char **argv,
                      main_f init,
                      void (*fini)(void),
                      void (*rtld_fini)(void),
                      void *stack_end)
{
    start_main_f real = (start_main_f)dlsym(RTLD_NEXT, "__libc_start_main");

    read_mode();
    if (real == NULL) {
        fprintf(
            stderr,
            "ray: no libc behind libray: a static program links libray built with RAY_STATIC\n");
        _exit(EXIT_CANNOT);
    }
    return real(asked ? zygote_main : main, argc, argv, init, fini, rtld_fini, stack_end);
}

/* The loader may have added the base already. */
static const void *dynamic_at(const struct dl_phdr_info *info, ElfW(Addr) address)
{
    return (const void *)(address < info->dlpi_addr ? info->dlpi_addr + address : address);
}

/* Which __libc_start_main the executable's start-up code calls: the loader has filled its word. */
static int find_bound(struct dl_phdr_info *info, size_t size, void *arg)
{
    const ElfW(Dyn) *d = NULL;
    const ElfW(Sym) *symbols = NULL;
    const ElfW(Rela) *rela = NULL;
    const char *names = NULL;
    size_t n = 0;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            d = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    for (; d != NULL && d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_SYMTAB)
            symbols = dynamic_at(info, d->d_un.d_ptr);
        else if (d->d_tag == DT_STRTAB)
            names = dynamic_at(info, d->d_un.d_ptr);
        else if (d->d_tag == DT_RELA)
            rela = dynamic_at(info, d->d_un.d_ptr);
        else if (d->d_tag == DT_RELASZ)
            n = d->d_un.d_val / sizeof *rela;
    }
    for (size_t i = 0; rela != NULL && symbols != NULL && names != NULL && i < n; i++)
        if (strcmp(names + symbols[ELF64_R_SYM(rela[i].r_info)].st_name, "__libc_start_main") == 0)
            memcpy(arg, (const void *)(info->dlpi_addr + rela[i].r_offset), sizeof(void *));
    return 1; /* the first is the executable */
}

__attribute__((constructor)) static void check_binding(void)
{
    void *bound = NULL;

    read_mode();
    if (!asked)
        return;
    dl_iterate_phdr(find_bound, &bound);
    /* Bound at its first call: by the search order, as far as dlsym can tell without a version. */
    if (bound == NULL)
        bound = dlsym(RTLD_DEFAULT, "__libc_start_main");
    if (bound == (void *)__libc_start_main)
        return;
    fprintf(stderr,
            "ray: this program cannot be a worker: its start-up code is bound to libc and not to "
            "libray; "
            "link the executable itself with -lray, before any -lc\n");
    _exit(EXIT_CANNOT);
}
#endif
