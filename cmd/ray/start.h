/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_START_H
#define CMD_RAY_START_H
/*
 * `ray start`: what was asked for, checked (start_options.c), and how it goes on: as a supervisor
 * in the background whose report is awaited, or in the foreground (start.c).
 */
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/auth_token.h"
#include "lib/base/config.h"

#define START_RESOURCES_MAX 60

struct start_resource {
    char name[48];
    int64_t units; /* of 1/10000 */
};

struct start_options {
    struct config config;
    bool is_head, block, verbose;
    char node_ip[64];
    char listen_ip[64];      /* of a head's GCS: node_ip, or all */
    char gcs_address[300];   /* to join; of a head empty until its port is known */
    char redis_address[300]; /* of an external one: IP:PORT or a path; else empty */
    struct start_resource resources[START_RESOURCES_MAX];
    unsigned n_resources;
    struct auth_token token;
    bool made_token; /* now, and saved in token_path */
    char token_path[512];
    char raylet[512], gcs_server[512],
        redis_server[512]; /* what to run; redis: empty if external */
};

/* LIB_BASE_FLAGS's FLAGS_GO_ON, or the exit status. */
int start_options_parse(struct start_options *o, int argc, char **argv);

#endif /* CMD_RAY_START_H */
