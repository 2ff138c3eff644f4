/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CMD_RAY_FIND_PROGRAM_H
#define CMD_RAY_FIND_PROGRAM_H
/* Where the programs are that a node is made of. */
#include <stdbool.h>
#include <stddef.h>

/* The one beside `ray` itself; path is where it should be, also if false. */
bool find_beside(const char *name, char *path, size_t size);
/* The first in PATH that can be run. */
bool find_in_path(const char *name, char *path, size_t size);

#endif /* CMD_RAY_FIND_PROGRAM_H */
