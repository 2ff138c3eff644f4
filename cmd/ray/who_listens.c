/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/who_listens.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LISTENING 0x0A

/* The inode of a socket that listens there; 0: none in this file. */
static unsigned long find_inode(const char *path, int port)
{
    char line[512];
    unsigned long found = 0;
    FILE *f = fopen(path, "re");

    while (f != NULL && found == 0 && fgets(line, sizeof line, f) != NULL) {
        char local[80];
        unsigned state, number;
        unsigned long inode;
        if (sscanf(line, " %*s %79s %*s %x %*s %*s %*s %*s %*s %lu", local, &state, &inode) == 3
            && state == LISTENING && strrchr(local, ':') != NULL
            && sscanf(strrchr(local, ':') + 1, "%x", &number) == 1 && (int)number == port)
            found = inode;
    }
    if (f != NULL)
        fclose(f);
    return found;
}

/* Whether one of its descriptors, as far as we may look, is that socket. */
static bool has_socket(const char *pid, const char *socket)
{
    char path[640], target[64];
    DIR *d;
    const struct dirent *e;
    bool has = false;

    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    d = opendir(path);
    while (d != NULL && !has && (e = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, e->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        has = n > 0 && (size_t)n == strlen(socket) && memcmp(target, socket, (size_t)n) == 0;
    }
    if (d != NULL)
        closedir(d);
    return has;
}

static void name_process(FILE *out, const char *pid, int port)
{
    char path[300], command[80] = "?";
    FILE *f;

    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    f = fopen(path, "re");
    if (f != NULL) {
        if (fgets(command, sizeof command, f) != NULL)
            command[strcspn(command, "\n")] = '\0';
        fclose(f);
    }
    fprintf(out, "port %d is taken by process %s (%s): ", port, pid, command);
    fputs(strcmp(command, "gcs_server") == 0
              ? "a cluster runs here already; join it by --address, end it by `ray stop`, or "
                "choose another port by --port\n"
              : "end it, or choose another port by --port\n",
          out);
}

void who_listens(FILE *out, int port)
{
    unsigned long inode = find_inode("/proc/net/tcp", port);
    char socket[64];
    const struct dirent *e;
    bool found = false;
    DIR *d;

    if (inode == 0)
        inode = find_inode("/proc/net/tcp6", port);
    if (inode == 0)
        return;
    snprintf(socket, sizeof socket, "socket:[%lu]", inode);
    d = opendir("/proc");
    while (d != NULL && !found && (e = readdir(d)) != NULL)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && has_socket(e->d_name, socket)) {
            name_process(out, e->d_name, port);
            found = true;
        }
    if (d != NULL)
        closedir(d);
    if (!found)
        fprintf(out,
                "port %d is taken, by a process of another user: choose another port by --port\n",
                port);
}
