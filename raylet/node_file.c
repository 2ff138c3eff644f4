/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/node_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/remove_tree.h"

/* --- node.json --- */

/* As a whole: a reader sees the former file or this one. */
static int replace_file(const char *dir,
                        const char *name,
                        const void *bytes,
                        size_t n,
                        struct err *err)
{
    char path[NODE_FILE_PATH + 32], fresh[NODE_FILE_PATH + 40];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, "write %s", fresh);
    bool ok = write(fd, bytes, n) == (ssize_t)n;
    if (!ok)
        err_sys(err, "write %s", fresh);
    close(fd);
    if (ok && rename(fresh, path) != 0) {
        err_sys(err, "write %s", path);
        ok = false;
    }
    if (!ok)
        unlink(fresh);
    return ok ? 0 : -1;
}

int node_file_write(const struct node_file *f, struct err *err)
{
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:b, s:b}",
                          "gcs_address",
                          f->gcs_address,
                          "cluster_id",
                          f->cluster_id,
                          "node_id",
                          f->node_id,
                          "node_name",
                          f->node_name,
                          "node_ip_address",
                          f->node_ip_address,
                          "session_dir",
                          f->session_dir,
                          "node_manager_port",
                          f->node_manager_port,
                          "object_manager_port",
                          f->object_manager_port,
                          "supervisor_pid",
                          f->supervisor_pid,
                          "is_head",
                          f->is_head,
                          "is_ready",
                          f->is_ready);
    char *text = j != NULL ? json_dumps(j, JSON_INDENT(2)) : NULL;
    int rc = text != NULL ? replace_file(f->session_dir, "node.json", text, strlen(text), err)
                          : err_set(err, ERR_INVALID, "a name of the node is no UTF-8");

    free(text);
    json_decref(j);
    return rc;
}

static void take_text(const json_t *j, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(j, key));

    snprintf(out, size, "%s", text != NULL ? text : "");
}

static int take_number(const json_t *j, const char *key)
{
    return (int)json_integer_value(json_object_get(j, key));
}

int node_file_read(const char *dir, struct node_file *out, struct err *err)
{
    char path[NODE_FILE_PATH + 16];
    json_error_t wrong;

    snprintf(path, sizeof path, "%s/node.json", dir);
    json_t *j = json_load_file(path, 0, &wrong);
    if (j == NULL)
        return err_set(err, ERR_NOT_FOUND, "%s: %s", path, wrong.text);
    memset(out, 0, sizeof *out);
    take_text(j, "gcs_address", out->gcs_address, sizeof out->gcs_address);
    take_text(j, "cluster_id", out->cluster_id, sizeof out->cluster_id);
    take_text(j, "node_id", out->node_id, sizeof out->node_id);
    take_text(j, "node_name", out->node_name, sizeof out->node_name);
    take_text(j, "node_ip_address", out->node_ip_address, sizeof out->node_ip_address);
    snprintf(out->session_dir, sizeof out->session_dir, "%s", dir);
    out->node_manager_port = take_number(j, "node_manager_port");
    out->object_manager_port = take_number(j, "object_manager_port");
    out->supervisor_pid = take_number(j, "supervisor_pid");
    out->is_head = json_is_true(json_object_get(j, "is_head"));
    out->is_ready = json_is_true(json_object_get(j, "is_ready"));
    json_decref(j);
    return 0;
}

/* --- ray_current_cluster --- */

static void current_path(const char *session_dir, char *out, size_t size)
{
    const char *slash = strrchr(session_dir, '/');

    snprintf(out, size, "%.*s/ray_current_cluster", (int)(slash - session_dir), session_dir);
}

void node_file_set_current(const struct node_file *f)
{
    char path[NODE_FILE_PATH + 32], fresh[NODE_FILE_PATH + 48];
    ssize_t n = (ssize_t)strlen(f->gcs_address);

    current_path(f->session_dir, path, sizeof path);
    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (write(fd, f->gcs_address, (size_t)n) != n || rename(fresh, path) != 0)
        unlink(fresh);
    close(fd);
}

static void clear_current(const char *dir)
{
    char path[NODE_FILE_PATH + 32], text[sizeof(((struct node_file *)0)->gcs_address)] = "";
    struct node_file f = {.is_head = false};

    if (node_file_read(dir, &f, NULL) != 0 || !f.is_head || f.gcs_address[0] == '\0')
        return;
    current_path(dir, path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, text, sizeof text - 1) > 0 && strcmp(text, f.gcs_address) == 0)
        unlink(path);
    close(fd);
}

/* --- token --- */

int node_file_save_token(const char *dir, const struct auth_token *t, struct err *err)
{
    return replace_file(dir, "auth_token", t->text, strlen(t->text), err);
}

int node_file_load_token(const char *dir, struct auth_token *t, struct err *err)
{
    char path[NODE_FILE_PATH + 16];

    snprintf(path, sizeof path, "%s/auth_token", dir);
    return auth_token_load_file(t, path, err);
}

/* --- folders --- */

#define BEING_MADE_S 10 /* the lock of a folder this young may be about to be taken */

/* Those that have a supervisor.pid. */
static struct session_folder *find_folders(const char *temp, size_t *n)
{
    size_t n_all;
    struct session_folder *all = session_list(temp, &n_all);

    *n = 0;
    for (size_t i = 0; i < n_all; i++) {
        char path[SESSION_PATH + 32];
        snprintf(path, sizeof path, "%s/" SESSION_SUPERVISOR, all[i].dir);
        if (access(path, F_OK) == 0)
            all[(*n)++] = all[i];
    }
    return all;
}

struct node_file *node_file_list(const char *temp, size_t *n)
{
    size_t n_folders;
    struct session_folder *folders = find_folders(temp, &n_folders);
    struct node_file *found = NULL;

    *n = 0;
    for (size_t i = 0; i < n_folders; i++) {
        int pid = session_pid(folders[i].dir, SESSION_SUPERVISOR);
        if (pid <= 0)
            continue;
        found = xrealloc(found, (*n + 1) * sizeof *found);
        if (node_file_read(folders[i].dir, &found[*n], NULL) != 0) {
            memset(&found[*n], 0, sizeof found[*n]);
            memcpy(found[*n].session_dir, folders[i].dir, sizeof folders[i].dir);
        }
        found[(*n)++].supervisor_pid = pid;
    }
    free(folders);
    return found;
}

void node_file_tidy(const char *dir)
{
    static const char *const left[] = {"sockets", "redis"};
    static const char *const files[] = {"auth_token",
                                        "redis.conf",
                                        "node.json",
                                        SESSION_RAYLET,
                                        "auth_token.new", /* of one that was killed as it wrote */
                                        "redis.conf.new",
                                        "node.json.new"};
    char path[NODE_FILE_PATH + 32];

    clear_current(dir);
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, left[i]);
        remove_tree(path);
    }
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
}

void node_file_sweep(const char *temp, size_t kept)
{
    size_t n, n_ended = 0;
    struct session_folder *folders = find_folders(temp, &n);

    for (size_t i = 0; i < n; i++) {
        char path[NODE_FILE_PATH + 32];
        struct stat st;
        snprintf(path, sizeof path, "%s/" SESSION_SUPERVISOR, folders[i].dir);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && fstat(fd, &st) == 0 && time(NULL) - st.st_mtime >= BEING_MADE_S
            && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            if (n_ended++ >= kept)
                session_remove_folder(temp, folders[i].dir);
            else
                node_file_tidy(folders[i].dir);
        }
        if (fd >= 0)
            close(fd);
    }
    free(folders);
}
