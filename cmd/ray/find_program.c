/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/find_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool find_beside(const char *name, char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    char *slash;

    if (n <= 0) {
        snprintf(path, size, "/proc/self/exe");
        return false;
    }
    path[n] = '\0';
    slash = strrchr(path, '/');
    if ((size_t)(slash - path) + strlen(name) + 2 > size)
        return false;
    memcpy(slash + 1, name, strlen(name) + 1);
    return access(path, X_OK) == 0;
}

bool find_in_path(const char *name, char *path, size_t size)
{
    const char *at = getenv("PATH");

    while (at != NULL && *at != '\0') {
        size_t n = strcspn(at, ":");
        if (at[0] == '/' && (size_t)snprintf(path, size, "%.*s/%s", (int)n, at, name) < size
            && access(path, X_OK) == 0)
            return true;
        at += n + (at[n] == ':');
    }
    return false;
}
