/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/core/cluster.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/config.h"

#define PATH_SIZE 512
#define FATE_MS   200
#define FILES_MIN 64            /* descriptors of a raylet that runs a few workers */
#define SPACE_MIN (80ull << 20) /* of address space: a small program */
#define STORE_MIN (80ull << 20) /* the smallest object store that is made unasked */

/* For static programs, which have no libray.so beside which a raylet lies. */
static int find_in_path(char *path, struct err *err)
{
    const char *at = getenv("PATH");

    while (at != NULL && *at != '\0') {
        size_t n = strcspn(at, ":");
        if (n > 0 && snprintf(path, PATH_SIZE, "%.*s/raylet", (int)n, at) < PATH_SIZE
            && access(path, X_OK) == 0)
            return 0;
        at += n + (at[n] == ':');
    }
    return err_set(
        err,
        ERR_NOT_FOUND,
        "no raylet in the folders of PATH: add the one where Ray is installed (PREFIX/bin), "
        "or set RAY_RAYLET to the raylet's path");
}

/* The raylet of this very build: beside libray.so, in the build folder or installed. */
static int find_raylet(char *path, struct err *err)
{
    const char *set = getenv("RAY_RAYLET");
    Dl_info info;
    char folder[PATH_SIZE];

    if (set != NULL) {
        snprintf(path, PATH_SIZE, "%s", set);
        if (access(path, X_OK) == 0)
            return 0;
        return err_sys(err, "RAY_RAYLET=%s cannot be run", set);
    }
    if (dladdr((void *)find_raylet, &info) == 0 || info.dli_fname == NULL)
        return find_in_path(path, err);
    snprintf(folder, sizeof folder, "%s", info.dli_fname);
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        snprintf(folder, sizeof folder, ".");
    else
        *slash = '\0';
    static const char *const places[] = {"../bin/raylet", "../libexec/ray/raylet", "bin/raylet"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (snprintf(path, PATH_SIZE, "%s/%s", folder, places[i]) < PATH_SIZE
            && access(path, X_OK) == 0)
            return 0;
    }
    return err_set(err,
                   ERR_NOT_FOUND,
                   "no raylet beside %s (looked for ../bin/raylet): install the whole package, or "
                   "set RAY_RAYLET",
                   info.dli_fname);
}

struct arguments {
    char *v[10 + CORE_N_RESOURCES];
    char text[10 + CORE_N_RESOURCES][PATH_SIZE];
    int n;
};

__attribute__((format(printf, 2, 3))) static void add(struct arguments *a, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(a->text[a->n], sizeof a->text[0], fmt, ap);
    va_end(ap);
    a->v[a->n] = a->text[a->n];
    a->v[++a->n] = NULL;
}

static int spawn(const char *path,
                 const struct arguments *a,
                 int link_fd,
                 int exe_fd,
                 int *pidfd,
                 struct err *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    pid_t pid;
    int rc = posix_spawn_file_actions_init(&actions);

    if (rc == 0)
        rc = posix_spawnattr_init(&attr);
    if (rc != 0) {
        errno = rc;
        return err_sys(err, "start %s", path);
    }
    /* dup2 onto itself clears close-on-exec, in the child alone */
    posix_spawn_file_actions_adddup2(&actions, link_fd, link_fd);
    posix_spawn_file_actions_adddup2(&actions, exe_fd, exe_fd);
    /* the program's input is the program's alone, and a pipe's writer sees its end */
    if (link_fd != STDIN_FILENO && exe_fd != STDIN_FILENO)
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    /* a group of its own: ^C at the terminal reaches the program, which ends the cluster in order
     */
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
                                 | POSIX_SPAWN_SETPGROUP);
    rc = posix_spawn(&pid, path, &actions, &attr, (char *const *)a->v, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    if (rc != 0) {
        errno = rc;
        return err_sys(err, "start %s", path);
    }
    *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (*pidfd >= 0)
        return 0;
    err_sys(err, "watch the raylet");
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    return -1;
}

/* Below it each part of a cluster would fail at another place, and not all with words. */
static int check_limits(const struct core_config *config, struct err *err)
{
    struct rlimit files, space;
    uint64_t store = config->object_store_memory > 0 ? config->object_store_memory : STORE_MIN;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || getrlimit(RLIMIT_AS, &space) != 0)
        return err_sys(err, "read this process's limits");
    if (space.rlim_cur < SPACE_MIN + store)
        return err_set(
            err,
            ERR_FULL,
            "a process may have %llu MiB of memory here, a cluster with %llu MiB of objects "
            "needs %llu: raise the limit (ulimit -v)",
            (unsigned long long)space.rlim_cur >> 20,
            (unsigned long long)store >> 20,
            (unsigned long long)(SPACE_MIN + store) >> 20);
    if (files.rlim_cur >= FILES_MIN)
        return 0;
    return err_set(
        err,
        ERR_FULL,
        "a process may have %llu open files here, a cluster needs %d and 6 more a worker: "
        "raise the limit (ulimit -n 1024)",
        (unsigned long long)files.rlim_cur,
        FILES_MIN);
}

/* A raylet that joins has the cluster's resources, none of its own. */
static int add_cluster(struct arguments *a,
                       const struct core_config *config,
                       const char *gcs,
                       int *timeout_ms,
                       struct err *err)
{
    struct config settings;

    if (gcs != NULL) {
        if (config_load_one(&settings, CONFIG_CONNECT_TIMEOUT, err) != 0)
            return -1;
        *timeout_ms = (int)config_number(&settings, CONFIG_CONNECT_TIMEOUT, 0);
        add(a, "--gcs-address=%s", gcs);
        add(a, "--gcs-timeout-ms=%d", *timeout_ms);
        return 0;
    }
    if (config->num_cpus > 0)
        add(a, "--num-cpus=%d", config->num_cpus);
    for (unsigned i = 0; i < config->n_resources; i++)
        add(a,
            "--resource=%s:%lld",
            config->resources[i].name,
            (long long)config->resources[i].units);
    return 0;
}

int cluster_start(const struct core_config *config,
                  const char *gcs,
                  int *timeout_ms,
                  int *pidfd,
                  int *link_fd,
                  struct err *err)
{
    char path[PATH_SIZE];
    struct arguments a = {.n = 0};
    int pair[2], rc;

    if (find_raylet(path, err) != 0 || check_limits(config, err) != 0)
        return -1;
    int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (exe < 0)
        return err_sys(err, "open this program's executable (/proc/self/exe: is /proc mounted?)");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        err_sys(err, "make a socket for the raylet");
        close(exe);
        return -1;
    }
    add(&a, "%s", path);
    add(&a, "--driver-fd=%d", pair[1]);
    add(&a, "--executable-fd=%d", exe);
    add(&a, "--driver-pid=%d", (int)getpid());
    if (config->temp_dir != NULL)
        add(&a, "--temp-dir=%s", config->temp_dir);
    if (config->object_store_memory > 0)
        add(&a, "--object-store-memory=%llu", (unsigned long long)config->object_store_memory);
    if (config->no_log_to_driver)
        add(&a, "--no-log-to-driver");
    rc = add_cluster(&a, config, gcs, timeout_ms, err);
    if (rc == 0)
        rc = spawn(path, &a, pair[1], exe, pidfd, err);
    close(pair[1]);
    close(exe);
    if (rc != 0) {
        close(pair[0]);
        return -1;
    }
    *link_fd = pair[0];
    return 0;
}

/* 1 when it has ended, 0 after timeout_ms. */
static int await_end(int pidfd, int timeout_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int rc;

    do
        rc = poll(&p, 1, timeout_ms);
    while (rc < 0 && errno == EINTR);
    return rc;
}

void cluster_reap(int pidfd, int timeout_ms)
{
    siginfo_t info;

    if (await_end(pidfd, timeout_ms) == 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    /* ECHILD: the program reaps its children itself, and with them ours */
    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
        continue;
    close(pidfd);
}

void cluster_fate(int pidfd, char *out, size_t size)
{
    siginfo_t info = {.si_pid = 0};

    if (pidfd < 0) {
        snprintf(out, size, "closed the link");
        return;
    }
    await_end(pidfd, FATE_MS); /* its link may have ended a moment before itself */
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
        snprintf(out, size, "closed the link");
    else if (info.si_code == CLD_EXITED)
        snprintf(out, size, "exited with status %d", info.si_status);
    else
        snprintf(out,
                 size,
                 "was killed by signal %d (%s)",
                 info.si_status,
                 err_signal_name(info.si_status));
}
