/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_ID_H
#define LIB_BASE_ID_H
/*
 * Ray's IDs: sizes and derivations where they are visible. The eight unique bytes of a task are a
 * 28-bit process number, unique in the job, and a 36-bit counter (big endian, so that hex sorts):
 * never random, never continued after a fork. Nil is all 0xff.
 *
 *   JobID 4 (little endian)   TaskID 24 = unique 8 | actor 12 (0xff) | JobID   ObjectID 28 = TaskID
 * | index 4 (LE)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_UNIQUE_SIZE 28
#define ID_TASK_SIZE   24
#define ID_OBJECT_SIZE 28
#define ID_HEX_MAX     (2 * 28 + 1)

#define ID_PROCESS_BITS 28
#define ID_COUNTER_BITS 36

struct unique_id { /* node, worker, cluster */
    uint8_t bytes[ID_UNIQUE_SIZE];
};
struct job_id {
    uint32_t number;
};
struct task_id {
    uint8_t bytes[ID_TASK_SIZE];
};
struct object_id {
    uint8_t bytes[ID_OBJECT_SIZE];
};

/* Random from the kernel; 0 or -1 with errno. */
int unique_id_random(struct unique_id *id);
bool unique_id_eq(const struct unique_id *a, const struct unique_id *b);
bool unique_id_is_nil(const struct unique_id *id);
struct unique_id unique_id_nil(void);

/* The task with this number of this process. */
struct task_id task_id_make(struct job_id job, uint32_t process, uint64_t counter);
/* The driver's own task: 8 + 12 bytes 0xff and the job. */
struct task_id task_id_driver(struct job_id job);
struct object_id object_id_make(const struct task_id *task, uint32_t index);
/* The job an object, and so its task, belongs to (INV-3). */
struct job_id object_id_job(const struct object_id *id);

/* Lower-case hex of n bytes into out (2n+1 bytes); returns out. */
char *id_hex(const void *bytes, size_t n, char *out);
/* Parse exactly 2n hex digits; false if s is anything else. */
bool id_parse(const char *s, void *bytes, size_t n);

#endif /* LIB_BASE_ID_H */
