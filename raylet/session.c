/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/remove_tree.h"

#define BEING_MADE_S 10 /* a folder without a pid file this young may be half made */

static int lock_pid_file(struct session *s, const char *file, struct err *err)
{
    char path[300], text[32];

    snprintf(path, sizeof path, "%s/%s", s->dir, file);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd >= 0 && flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return err_set(err, ERR_EXISTS, "a raylet of the session %s is running", s->dir);
    if (s->lock_fd < 0 || ftruncate(s->lock_fd, 0) != 0)
        return err_sys(err, "lock (choose another folder by RAY_TMPDIR or temp_dir): %s", path);
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (write(s->lock_fd, text, (size_t)n) != n)
        return err_sys(
            err,
            "no room for a session (choose another folder by RAY_TMPDIR or temp_dir): %s",
            path);
    return 0;
}

/* logs and sockets in it, and the lock. */
static int furnish(struct session *s, const char *file, struct err *err)
{
    char path[300];

    snprintf(s->logs, sizeof s->logs, "%s/logs", s->dir);
    snprintf(path, sizeof path, "%s/sockets", s->dir);
    if ((mkdir(s->logs, 0700) != 0 && (s->is_ours || errno != EEXIST))
        || (mkdir(path, 0700) != 0 && (s->is_ours || errno != EEXIST)))
        return err_sys(
            err,
            "no room for a session (choose another folder by RAY_TMPDIR or temp_dir): %s",
            s->dir);
    return lock_pid_file(s, file, err);
}

static void point_latest(const char *temp, const char *dir)
{
    char path[300], link[300];

    snprintf(path, sizeof path, "%s/.session_latest_%d", temp, (int)getpid());
    snprintf(link, sizeof link, "%s/session_latest", temp);
    if (symlink(dir, path) == 0 && rename(path, link) != 0)
        unlink(path); /* another user's: theirs stays */
}

static int newer_first(const void *a, const void *b)
{
    return strcmp(((const struct session_folder *)b)->dir, ((const struct session_folder *)a)->dir);
}

struct session_folder *session_list(const char *temp, size_t *n)
{
    DIR *d = opendir(temp);
    const struct dirent *e;
    struct session_folder *found = NULL;

    *n = 0;
    while (d != NULL && (e = readdir(d)) != NULL) {
        struct session_folder f;
        struct stat st;
        if (strncmp(e->d_name, "session_2", 9) != 0
            || snprintf(f.dir, sizeof f.dir, "%s/%s", temp, e->d_name) >= (int)sizeof f.dir
            || lstat(f.dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
            continue;
        f.changed = st.st_mtime;
        found = xrealloc(found, (*n + 1) * sizeof *found);
        found[(*n)++] = f;
    }
    if (d != NULL)
        closedir(d);
    if (*n > 1)
        qsort(found, *n, sizeof *found, newer_first);
    return found;
}

/* The newest but dir. */
static void point_to_another(const char *temp, const char *dir)
{
    size_t n, i = 0;
    struct session_folder *all = session_list(temp, &n);

    while (i < n && strcmp(all[i].dir, dir) == 0)
        i++;
    if (i < n)
        point_latest(temp, all[i].dir);
    free(all);
}

int session_open(struct session *s, const char *dir, struct err *err)
{
    struct stat st;

    memset(s, 0, sizeof *s);
    s->lock_fd = -1;
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    const char *slash = memrchr(dir, '/', n);
    if (dir[0] != '/' || slash == dir || n >= sizeof s->dir
        || (size_t)(slash - dir) >= sizeof s->temp - 1)
        return err_set(
            err,
            ERR_INVALID,
            "--session-dir must be an absolute path of less than %zu bytes in a folder of "
            "less than %zu, not %s",
            sizeof s->dir,
            sizeof s->temp - 1,
            dir);
    snprintf(s->temp, sizeof s->temp, "%.*s", (int)(slash - dir), dir);
    snprintf(s->dir, sizeof s->dir, "%.*s", (int)n, dir);
    s->is_ours = mkdir(s->dir, 0700) == 0;
    if (!s->is_ours && errno != EEXIST) {
        err_sys(err, "make the session's folder %s", s->dir);
        s->dir[0] = '\0';
        return -1;
    }
    if (!s->is_ours
        && (lstat(s->dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()
            || (st.st_mode & 077) != 0)) {
        err_set(err,
                ERR_INVALID,
                "%s is no folder of this user alone: choose another, or chmod 700",
                s->dir);
        s->dir[0] = '\0';
        return -1;
    }
    if (furnish(s, SESSION_RAYLET, err) == 0) {
        if (s->is_ours)
            point_latest(s->temp, s->dir);
        return 0;
    }
    if (s->is_ours)
        session_remove(s);
    s->dir[0] = '\0';
    return -1;
}

int session_create(struct session *s, const char *temp, struct err *err)
{
    return session_create_locked(s, temp, SESSION_RAYLET, err);
}

int session_create_locked(struct session *s, const char *temp, const char *file, struct err *err)
{
    struct timespec t;
    struct tm tm;
    char stamp[32];

    memset(s, 0, sizeof *s);
    s->lock_fd = -1;
    if (temp == NULL)
        temp = getenv("RAY_TMPDIR");
    if (temp == NULL || temp[0] == '\0')
        temp = "/tmp/ray";
    if (strlen(temp) >= sizeof s->temp - 1)
        return err_set(
            err,
            ERR_INVALID,
            "the temp folder's path is longer than %zu bytes: choose another by RAY_TMPDIR or "
            "temp_dir",
            sizeof s->temp - 2);
    snprintf(s->temp, sizeof s->temp, "%s", temp);
    if (mkdir(temp, 01777) == 0)
        chmod(temp, strcmp(temp, "/tmp/ray") == 0 ? 01777 : 0700);
    else if (errno != EEXIST)
        return err_sys(err, "no temp folder (choose another by RAY_TMPDIR or temp_dir): %s", temp);
    clock_gettime(CLOCK_REALTIME, &t);
    localtime_r(&t.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%d_%H-%M-%S", &tm);
    snprintf(s->dir,
             sizeof s->dir,
             "%s/session_%s_%06ld_%d",
             temp,
             stamp,
             t.tv_nsec / 1000,
             (int)getpid());
    if (mkdir(s->dir, 0700) != 0)
        return err_sys(
            err,
            "no room for a session (choose another folder by RAY_TMPDIR or temp_dir): %s",
            s->dir);
    s->is_ours = true;
    if (furnish(s, file, err) != 0) {
        session_remove(s);
        return -1;
    }
    point_latest(s->temp, s->dir);
    return 0;
}

int session_open_to_programs(const struct session *s,
                             const char *gcs,
                             bool is_head,
                             struct err *err)
{
    char text[400] = "programs\n";

    if (gcs != NULL)
        snprintf(text, sizeof text, "programs\ngcs %.300s%s\n", gcs, is_head ? " head" : "");
    ssize_t size = (ssize_t)strlen(text);
    return write(s->lock_fd, text, (size_t)size) == size
               ? 0
               : err_sys(err, "no room for a session in %s", s->dir);
}

void session_remove_folder(const char *temp, const char *dir)
{
    char link[300];

    snprintf(link, sizeof link, "%s/session_latest", temp);
    if (remove_link_to(dir, link)) /* a node of longer standing is the newest again */
        point_to_another(temp, dir);
    remove_tree(dir);
}

void session_remove(struct session *s)
{
    char path[300];

    if (s->is_ours) {
        session_remove_folder(s->temp, s->dir);
    } else if (s->lock_fd >= 0) {
        snprintf(path, sizeof path, "%s/sockets/raylet", s->dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/raylet.pid", s->dir);
        unlink(path);
    }
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    s->lock_fd = -1;
}

int session_pid(const char *dir, const char *file)
{
    char path[512], text[32] = "";
    int pid = 0;

    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    /* the pid is written after the lock was taken: our look cannot be in its way */
    if (read(fd, text, sizeof text - 1) > 0 && flock(fd, LOCK_SH | LOCK_NB) != 0
        && errno == EWOULDBLOCK)
        pid = (int)strtol(text, NULL, 10);
    close(fd);
    return pid;
}

void session_sweep(const struct session *s)
{
    size_t n;
    struct session_folder *all = session_list(s->temp, &n);

    for (size_t i = 0; i < n; i++) {
        char path[SESSION_PATH + 32];
        snprintf(path, sizeof path, "%s/" SESSION_SUPERVISOR, all[i].dir);
        if (strcmp(all[i].dir, s->dir) == 0 || access(path, F_OK) == 0)
            continue;
        snprintf(path, sizeof path, "%s/" SESSION_RAYLET, all[i].dir);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 && time(NULL) - all[i].changed < BEING_MADE_S)
            continue;
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
            session_remove_folder(s->temp, all[i].dir);
        if (fd >= 0)
            close(fd);
    }
    free(all);
}
