/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_CORE_CLUSTER_H
#define LIB_CORE_CLUSTER_H
/*
 * The cluster of this program. A private one: starts the raylet that hosts it and ends it; the
 * raylet is found beside libray.so. One that runs already: finds its socket (join.c), or, without a
 * node on this machine, starts a raylet that joins it for this program. Called without the core
 * lock, by the thread in core_init or core_shutdown.
 */
#include "lib/base/err.h"
#include "lib/core/core.h"

/* Spawn the raylet; gcs HOST:PORT: one that joins that cluster, and answers or says why not within
 * *timeout_ms (RAY_connect_timeout_ms). NULL: a private cluster. *pidfd is for the other two (its
 * number may be another's once a program that reaps all its children has reaped it); *link_fd is
 * the connected socket, the caller's. 0 or -1 (no raylet binary, no memory, fds or processes):
 * nothing remains. */
int cluster_start(const struct core_config *config,
                  const char *gcs,
                  int *timeout_ms,
                  int *pidfd,
                  int *link_fd,
                  struct err *err);

/* Connect to the raylet of a session of this user: at "auto" the newest that lives in temp_dir
 * (NULL: RAY_TMPDIR, else /tmp/ray); NULL: the newest that is a cluster's node; HOST:PORT: of that
 * cluster; else at that folder or socket. *link_fd as above. 1: HOST:PORT, of which no node is
 * here. */
int cluster_join(const char *address, const char *temp_dir, int *link_fd, struct err *err);
/* What our workers are made of: executable, folder and environment, at fds[0..2]; the caller's. */
int cluster_describe(int fds[3], struct err *err);

/* Wait until the raylet has ended, at most timeout_ms, then SIGKILL it. It removes its session
 * itself. Closes pidfd. */
void cluster_reap(int pidfd, int timeout_ms);

/* pidfd -1: "closed the link". Why it ended, for the error of whoever lost it: "exited with status
 * 1", "killed by SIGKILL", "is still running". */
void cluster_fate(int pidfd, char *out, size_t size);

#endif /* LIB_CORE_CLUSTER_H */
