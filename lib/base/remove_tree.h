/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_REMOVE_TREE_H
#define LIB_BASE_REMOVE_TREE_H

#include <stdbool.h>

/* Remove a folder with all in it, on its file system, following no links. What cannot be removed
 * stays. */
void remove_tree(const char *path);
/* Remove the symbolic link if it points to this very path; whether it did. */
bool remove_link_to(const char *path, const char *link);

#endif /* LIB_BASE_REMOVE_TREE_H */
