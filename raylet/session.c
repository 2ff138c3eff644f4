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

#include "lib/base/remove_tree.h"

#define BEING_MADE_S 10 /* a folder without a pid file this young may be half made */

static int lock_pid_file(struct session *s, struct err *err)
{
    char path[300], text[32];

    snprintf(path, sizeof path, "%s/raylet.pid", s->dir);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return err_sys(err, "lock %s", path);
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (write(s->lock_fd, text, (size_t)n) != n)
        return err_sys(
            err,
            "no room for a session (choose another folder by RAY_TMPDIR or temp_dir): %s",
            path);
    return 0;
}

int session_create(struct session *s, const char *temp, struct err *err)
{
    struct timespec t;
    struct tm tm;
    char stamp[32], path[300], link[300];

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
    snprintf(s->logs, sizeof s->logs, "%s/logs", s->dir);
    snprintf(path, sizeof path, "%s/sockets", s->dir);
    if (mkdir(s->logs, 0700) != 0 || mkdir(path, 0700) != 0) {
        err_sys(err,
                "no room for a session (choose another folder by RAY_TMPDIR or temp_dir): %s",
                s->dir);
        session_remove(s);
        return -1;
    }
    if (lock_pid_file(s, err) != 0) {
        session_remove(s);
        return -1;
    }
    snprintf(path, sizeof path, "%s/.session_latest_%d", temp, (int)getpid());
    snprintf(link, sizeof link, "%s/session_latest", temp);
    if (symlink(s->dir, path) == 0 && rename(path, link) != 0)
        unlink(path); /* another user's: theirs stays */
    return 0;
}

static void remove_session(const char *temp, const char *dir)
{
    char link[300];

    snprintf(link, sizeof link, "%s/session_latest", temp);
    remove_link_to(dir, link);
    remove_tree(dir);
}

void session_remove(struct session *s)
{
    remove_session(s->temp, s->dir);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    s->lock_fd = -1;
}

void session_sweep(const struct session *s)
{
    DIR *d = opendir(s->temp);
    const struct dirent *e;

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL) {
        char dir[512], path[600];
        struct stat st;
        snprintf(dir, sizeof dir, "%s/%s", s->temp, e->d_name);
        if (strncmp(e->d_name, "session_2", 9) != 0 || strcmp(dir, s->dir) == 0
            || lstat(dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
            continue;
        snprintf(path, sizeof path, "%s/raylet.pid", dir);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 && time(NULL) - st.st_mtime < BEING_MADE_S)
            continue;
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
            remove_session(s->temp, dir);
        if (fd >= 0)
            close(fd);
    }
    closedir(d);
}
