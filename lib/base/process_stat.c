/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/process_stat.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

pid_t process_parent(pid_t pid, char *state)
{
    char path[40], line[512], letter;
    int parent;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    if (n <= 0)
        return 0;
    line[n] = '\0';
    const char *end = strrchr(line, ')'); /* its name may hold anything, brackets too */
    if (end == NULL || sscanf(end + 1, " %c %d", &letter, &parent) != 2)
        return 0;
    if (state != NULL)
        *state = letter;
    return parent;
}
