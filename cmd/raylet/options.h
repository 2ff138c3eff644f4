/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAYLET_OPTIONS_H
#define CMD_RAYLET_OPTIONS_H
/*
 * The raylet's command line. c holds the defaults. 0: go on; -1: all was said (--help, --version);
 * else the exit status, a sentence is on stderr.
 */
#include <stdbool.h>

#include "raylet/node.h"

int options_parse(int argc, char **argv, struct node_config *c, bool *measuring);

#endif /* CMD_RAYLET_OPTIONS_H */
