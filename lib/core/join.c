/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raylet that runs already: sessions are folders <temp>/session_<time>_<pid> of this user. Each
 * has a socket, sockets/raylet, which refuses when its raylet was killed; in one that takes
 * programs, and is no program's own, the second line of raylet.pid says so, and the third the
 * cluster whose node it is: "gcs HOST:PORT", and " head" of the one where that is.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/host_port.h"
#include "lib/core/cluster.h"

#define SOCKET    "sockets/raylet"
#define CONNECT_S 10 /* a raylet that was stopped has a queue, which may be full */

/* The connected socket; -1 and errno. A socket's path is short, a folder's need not be: it is named
 * by a descriptor. */
static int connect_in(int folder_fd, const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", folder_fd, name);

    if (n < 0 || (size_t)n >= sizeof a.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    struct timeval limit = {.tv_sec = CONNECT_S};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* Our executable and environment are for nobody else. */
static int check_owner(int fd, struct err *err)
{
    struct ucred who = {.pid = 0};
    socklen_t size = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0)
        return err_sys(err, "ask who the raylet is");
    if (who.uid == geteuid())
        return 0;
    return err_set(err,
                   ERR_INVALID,
                   "that cluster belongs to another user (uid %u): start one of your own",
                   (unsigned)who.uid);
}

static int finish(int fd, int *link_fd, struct err *err)
{
    if (check_owner(fd, err) != 0) {
        close(fd);
        return -1;
    }
    *link_fd = fd;
    return 0;
}

/* --- a path --- */

static int join_path(const char *path, int *link_fd, struct err *err)
{
    char folder[512];
    const char *name = SOCKET;
    struct stat st;
    size_t n = strlen(path);

    if (n >= sizeof folder)
        return err_set(err, ERR_INVALID, "the address is longer than %zu bytes", sizeof folder - 1);
    memcpy(folder, path, n + 1);
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(folder, '/');
        name = path + (slash - folder) + 1;
        slash[slash == folder] = '\0';
    }
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = dir >= 0 ? connect_in(dir, name) : -1;
    int e = errno;
    if (dir >= 0)
        close(dir);
    if (fd >= 0)
        return finish(fd, link_fd, err);
    errno = e;
    if (e == ECONNREFUSED || e == ENOENT || e == ENOTDIR)
        return err_set(
            err,
            ERR_NOT_FOUND,
            "no raylet takes programs at %s (%s): it has ended, or was started by a program "
            "for itself; give the session folder of one that runs, or say \"auto\"",
            path,
            strerror(e));
    return err_sys(err, "connect to the raylet at %s", path);
}

/* --- the newest --- */

static int is_session(const struct dirent *e)
{
    return strncmp(e->d_name, "session_2", 9) == 0;
}

/* Their names begin with the time of their start. */
static int newest_first(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*b)->d_name, (*a)->d_name);
}

/* At the head localhost is the cluster's, too. */
static bool is_same_gcs(const struct host_port *asked, const char *gcs, bool is_head)
{
    static const char *const here[] = {"localhost", "127.0.0.1", "::1"};
    struct host_port at;

    if (host_port_parse(gcs, 0, &at, NULL) != 0)
        return false;
    for (size_t i = 0; is_head && i < sizeof here / sizeof here[0]; i++)
        if (asked->port == at.port && strcmp(asked->host, here[i]) == 0)
            return true;
    return host_port_eq(asked, &at);
}

/* Which sessions will do: any that takes programs; nodes of a cluster; those of this cluster. */
struct wanted {
    bool is_node;
    const struct host_port *gcs; /* NULL: any */
};

static bool takes_programs(int session_fd, const struct wanted *w)
{
    char text[500] = "", *gcs, *end;
    int fd = openat(session_fd, "raylet.pid", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;

    if (fd >= 0)
        close(fd);
    if (n <= 0 || strstr(text, "\nprograms\n") == NULL)
        return false;
    gcs = strstr(text, "\ngcs ");
    if (gcs == NULL || (end = strchr(gcs + 1, '\n')) == NULL)
        return !w->is_node;
    *end = '\0';
    gcs += strlen("\ngcs ");
    char *head = strstr(gcs, " head");
    if (head != NULL)
        *head = '\0';
    return w->gcs == NULL || is_same_gcs(w->gcs, gcs, head != NULL);
}

static int try_session(int temp_fd, const char *name, const struct wanted *w)
{
    struct stat st;
    int fd = -1, dir = openat(temp_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (dir >= 0 && fstat(dir, &st) == 0 && st.st_uid == geteuid() && takes_programs(dir, w))
        fd = connect_in(dir, SOCKET);
    if (dir >= 0)
        close(dir);
    return fd;
}

static int join_newest(const char *temp, const struct wanted *w, int *link_fd, struct err *err)
{
    struct dirent **found = NULL;
    int fd = -1, dir = open(temp, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int n = dir >= 0 ? scandir(temp, &found, is_session, newest_first) : 0;

    for (int i = 0; i < n; i++) {
        if (fd < 0)
            fd = try_session(dir, found[i]->d_name, w);
        free(found[i]);
    }
    free(found);
    if (dir >= 0)
        close(dir);
    if (fd >= 0)
        return finish(fd, link_fd, err);
    if (w->gcs != NULL)
        return 1;
    return err_set(
        err,
        ERR_NOT_FOUND,
        "the address is \"auto\", but no cluster of this user runs in %s (%d session "
        "folder%s there): start one, name its folder by RAY_TMPDIR or temp_dir, or leave "
        "the address out for a cluster of this program alone",
        temp,
        n > 0 ? n : 0,
        n == 1 ? "" : "s");
}

int cluster_join(const char *address, const char *temp_dir, int *link_fd, struct err *err)
{
    const char *temp = temp_dir != NULL ? temp_dir : getenv("RAY_TMPDIR");
    struct wanted w = {.is_node = address == NULL};
    struct host_port at;

    if (temp == NULL || temp[0] == '\0')
        temp = "/tmp/ray";
    if (address != NULL && strstr(address, "://") != NULL)
        return err_set(err,
                       ERR_INVALID,
                       "the address %.100s is an URL: say HOST:PORT, as `ray start` prints it",
                       address);
    if (address != NULL && strchr(address, '/') != NULL)
        return join_path(address, link_fd, err);
    if (address != NULL && strcmp(address, "auto") != 0) {
        if (host_port_parse(address, 0, &at, err) != 0)
            return err_prefix(err,
                              "the address is as `ray start` prints it, \"auto\", or a session's "
                              "folder");
        w = (struct wanted){.is_node = true, .gcs = &at};
    }
    return join_newest(temp, &w, link_fd, err);
}

/* --- what workers are made of --- */

static int write_all(int fd, const char *at, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int copy_environment(struct err *err)
{
    int fd = memfd_create("ray-environment", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int rc = fd >= 0 ? 0 : -1;

    for (char **e = environ; rc == 0 && e != NULL && *e != NULL; e++)
        rc = write_all(fd, *e, strlen(*e) + 1);
    if (rc == 0
        && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0)
        return fd;
    err_sys(err, "copy this program's environment for its workers");
    if (fd >= 0)
        close(fd);
    return -1;
}

int cluster_describe(int fds[3], struct err *err)
{
    fds[0] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fds[0] < 0)
        return err_sys(err, "open this program's executable (/proc/self/exe)");
    fds[1] = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fds[1] < 0) /* it is not to be entered: nobody could begin there */
        fds[1] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fds[1] < 0)
        err_sys(err, "open the folder of this program");
    else
        fds[2] = copy_environment(err);
    if (fds[1] >= 0 && fds[2] >= 0)
        return 0;
    close(fds[0]);
    if (fds[1] >= 0)
        close(fds[1]);
    return -1;
}
