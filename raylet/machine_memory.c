/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/machine_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECTS_MIN  (75ull << 20)
#define OBJECTS_MAX  (200ull << 30)
#define OBJECTS_PART 3 /* tenths */

/* The number behind that word at the start of a line; 0: there is none. */
static uint64_t read_number(const char *path, const char *word)
{
    uint64_t v = 0;
    char line[128];
    FILE *f = fopen(path, "re");

    while (f != NULL && v == 0 && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, word, strlen(word)) == 0)
            v = strtoull(line + strlen(word), NULL, 10);
    if (f != NULL)
        fclose(f);
    return v;
}

uint64_t machine_memory_free(void)
{
    uint64_t n_free = read_number("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", "");
    uint64_t used = read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", "");

    if (limit == 0) {
        limit = read_number("/sys/fs/cgroup/memory.max", "");
        used = read_number("/sys/fs/cgroup/memory.current", "");
    }
    return limit > used && limit - used < n_free ? limit - used : n_free;
}

uint64_t machine_memory_for_objects(uint64_t n_free)
{
    uint64_t n = n_free / 10 * OBJECTS_PART;

    return n < OBJECTS_MIN ? OBJECTS_MIN : n > OBJECTS_MAX ? OBJECTS_MAX : n;
}

uint64_t machine_memory_for_tasks(uint64_t n_objects)
{
    uint64_t n_free = machine_memory_free();

    if (n_objects == 0)
        n_objects = machine_memory_for_objects(n_free);
    return n_free > n_objects ? n_free - n_objects : 0;
}
