/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/remove_tree.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TRIES 10

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    remove(path);
    return 0;
}

void remove_tree(const char *path)
{
    /* a walk ends early when another process removes the same tree */
    for (int i = 0; i < TRIES; i++)
        if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0
            || access(path, F_OK) != 0)
            return;
}

bool remove_link_to(const char *path, const char *link)
{
    char to[512];
    ssize_t n = readlink(link, to, sizeof to - 1);

    to[n > 0 ? n : 0] = '\0';
    return n > 0 && strcmp(to, path) == 0 && unlink(link) == 0;
}
