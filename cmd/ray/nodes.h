/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_NODES_H
#define CMD_RAY_NODES_H
/*
 * What all nodes of a cluster say of themselves (raylet/why_state.h), asked at once: of the nodes
 * that the GCS knows by their ports, or, a driver's that has none, through the GCS; if it does not
 * answer, or the cluster is one program's own, of this machine's raylet by its socket.
 */
#include "cmd/ray/ask.h"
#include "gcs/node_table.h"
#include "raylet/client.h"
#include "raylet/why_refs.h"
#include "raylet/why_view.h"

#define NODES_WAIT_MS 2000 /* for a node's answer */

struct nodes {
    char address[300];     /* of the cluster, HOST:PORT; "": it is one program's own */
    struct err gcs;        /* why the GCS did not answer; ERR_NONE: it did, or there is none */
    struct node_row *rows; /* what the GCS tells, dead ones too */
    size_t n_rows;
    struct why_node *v; /* those that live */
    size_t n, n_silent; /* silent: v[i].has_answered is false */
    struct ask *ask;    /* to more questions; NULL: only this machine's raylet, at session_dir */
    char session_dir[RAYLET_CLIENT_PATH];
};

/* -1: there is no cluster, or nobody of it can be asked; err says why. */
int nodes_ask(const struct config *c, int timeout_ms, struct nodes *out, struct err *err);
void nodes_fini(struct nodes *n);
/* The table of refs of a process of the node at; *out is good for why_refs_fini, in part if -1. */
int nodes_ask_refs(struct nodes *n,
                   const struct why_node *at,
                   uint32_t process,
                   struct why_refs *out,
                   struct err *err);
/* A line on stderr for each that did not answer, the GCS too. Returns whether all did. */
bool nodes_report(const struct nodes *n, const char *command);

#endif /* CMD_RAY_NODES_H */
