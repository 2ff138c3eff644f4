/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RAYLET_WHY_VIEW_H
#define RAYLET_WHY_VIEW_H
/*
 * What the nodes of a cluster tell of their queues, joined: what waits, and for what. Pure: states
 * in, sentences out. It lives in the `ray` command.
 */
#include "raylet/why_state.h"

/* A node that lives. */
struct why_node {
    struct unique_id id;
    uint32_t number; /* 0: it is alone */
    char name[64], address[64];
    int port;
    bool is_driver; /* a driver's own: nothing runs there, and it has no port */
    bool has_answered;
    struct err err;         /* why not */
    struct why_state state; /* of one that has not: its resources at most */
};

enum why_reason {
    WHY_INFEASIBLE,     /* no node could ever */
    WHY_RESOURCES,      /* those who could have too little free */
    WHY_KEPT,           /* for others who have waited for longer */
    WHY_GOES_ELSEWHERE, /* another node could, and was not asked yet */
    WHY_WORKER_STARTS,  /* */
    WHY_JOB_COMES,      /* its executable is on its way to another node */
    WHY_NO_ANSWER,      /* another node was asked */
    WHY_NO_JOB_NUMBER,  /* of the GCS */
    WHY_HOLDER,         /* of an object was asked */
    WHY_TURN,           /* other objects come first */
    WHY_STORE_FULL,     /* of a node */
    WHY_BYTES,          /* of an object move slowly */
    WHY_N_REASONS,
};
/* "infeasible", for programs. */
const char *why_reason_name(enum why_reason reason);

/* Something that waits: units of a class, a program, objects. */
struct why_wait {
    const struct why_node *at;
    const struct why_class *of; /* NULL: see what */
    char what[80];              /* "program pid=7", "3 objects" */
    uint32_t n;                 /* how many */
    uint64_t since_ms;          /* ago, the oldest */
    enum why_reason reason;
    char *text;
};
struct why_waits {
    struct why_wait *v;
    size_t n;
};

/* address: of the cluster, HOST:PORT; "": it is one program's own. Borrows the nodes. Those that
 * wait for longest first. */
void why_view_explain(const struct why_node *nodes,
                      size_t n_nodes,
                      const char *address,
                      struct why_waits *out);
void why_waits_fini(struct why_waits *w);

/* Units of that class wait at that node, as it says itself. */
bool why_view_has_queued(const struct why_node *at, const struct why_class *of);
/* The one with that number; NULL: none. */
const struct why_node *why_view_find(const struct why_node *nodes, size_t n, uint32_t number);

#endif /* RAYLET_WHY_VIEW_H */
