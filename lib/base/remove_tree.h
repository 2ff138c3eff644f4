/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_REMOVE_TREE_H
#define LIB_BASE_REMOVE_TREE_H

/* Remove a folder with all in it, on its file system, following no links. What cannot be removed
 * stays. */
void remove_tree(const char *path);

#endif /* LIB_BASE_REMOVE_TREE_H */
