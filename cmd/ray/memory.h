/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_MEMORY_H
#define CMD_RAY_MEMORY_H
/*
 * `ray memory`: the refs of a running cluster, who holds them and why; with --check, whether all
 * that is said of them agrees. memory.c asks, memory_print.c prints.
 */
#include <stdbool.h>
#include <stddef.h>

#include "raylet/memory_view.h"

enum memory_group { MEMORY_BY_NODE, MEMORY_BY_SITE };
enum memory_sort { MEMORY_SORT_SIZE, MEMORY_SORT_PID, MEMORY_SORT_KIND };

struct memory_options {
    enum memory_group group;
    enum memory_sort sort;
    unsigned unit;    /* 0 B, 1 KB, 2 MB, 3 GB */
    size_t n_entries; /* of each group; SIZE_MAX: all */
    bool no_format, stats_only, json, check;
    int timeout_ms; /* for each answer */
    const char *session_dir, *temp_dir;
};

/* The exit status: 0; 1: no cluster, or something disagrees; 2: usage; 3: all that was said agrees,
 * and some process did not answer. */
int memory_main(int argc, char **argv);

/* node: the node's id in hex. */
void memory_print(const struct memory_options *o,
                  const struct memory_view *v,
                  const char *session_dir,
                  const char *node);
void memory_print_check(const struct memory_options *o,
                        const struct memory_view *v,
                        const char *session_dir,
                        const struct memory_complaints *complaints);

#endif /* CMD_RAY_MEMORY_H */
