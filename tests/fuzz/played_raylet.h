/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_PLAYED_RAYLET_H
#define TESTS_FUZZ_PLAYED_RAYLET_H
/*
 * lib/core/cluster.h for a program that plays the raylet of its own core: to start a cluster is to
 * make a link and say WELCOME. Of one file of a program.
 */
#include <string.h>
#include <sys/socket.h>

#include "lib/base/assert.h"
#include "lib/core/cluster.h"
#include "lib/core/core_private.h"

static struct unix_link *raylet; /* its end of the link that was made last */
static struct wire_welcome welcome = {.protocol = WIRE_PROTOCOL,
                                      .job = 1,
                                      .process = 1,
                                      .n_cpus = 2};

int cluster_start(const struct core_config *config,
                  const char *gcs,
                  int *timeout_ms,
                  int *pidfd,
                  int *link_fd,
                  struct err *err)
{
    static const char strings[] = "/nowhere\0head\0/nowhere/log";
    uint8_t body[sizeof welcome + sizeof strings];
    int fds[2];

    (void)config;
    (void)gcs;
    (void)timeout_ms;
    (void)err;
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    raylet = unix_link_create(fds[1], 0);
    memcpy(body, &welcome, sizeof welcome);
    memcpy(body + sizeof welcome, strings, sizeof strings);
    ASSERT(unix_link_send(raylet, FRAME_CONTROL, WIRE_WELCOME, 0, body, sizeof body) == 0);
    ASSERT(unix_link_flush(raylet, NULL) == 1);
    *pidfd = -1;
    *link_fd = fds[0];
    return 0;
}

void cluster_reap(int pidfd, int timeout_ms)
{
    (void)pidfd;
    (void)timeout_ms;
}

void cluster_fate(int pidfd, char *out, size_t size)
{
    (void)pidfd;
    out[size > 0 ? 0 : size] = '\0';
}

#endif /* TESTS_FUZZ_PLAYED_RAYLET_H */
