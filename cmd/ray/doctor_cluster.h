/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_DOCTOR_CLUSTER_H
#define CMD_RAY_DOCTOR_CLUSTER_H
/*
 * What `ray doctor` looks at for a cluster of several machines: programs and versions, redis-server
 * and the head's port, memory, clock and token of this machine; and whether the head and the nodes
 * of the cluster that is named, or that this machine is part of, can be reached from here.
 */
#include <stdbool.h>

#include "lib/base/config.h"

/* Prints a line each, with the remedy. false: something needs the user's hand. */
bool doctor_cluster(const struct config *c);
/* "  ! what: fix"; false. */
bool doctor_complain(const char *what, const char *fix);

#endif /* CMD_RAY_DOCTOR_CLUSTER_H */
