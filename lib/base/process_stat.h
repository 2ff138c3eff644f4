/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_PROCESS_STAT_H
#define LIB_BASE_PROCESS_STAT_H
/*
 * What the kernel says of a process in /proc/PID/stat. Any thread; no memory is taken.
 */
#include <sys/types.h>

/* The parent of a process, 0 if the process is gone or has none. state, unless NULL: its letter
 * ('Z': dead, of several threads the first one); as it was if the process is gone. */
pid_t process_parent(pid_t pid, char *state);

#endif /* LIB_BASE_PROCESS_STAT_H */
