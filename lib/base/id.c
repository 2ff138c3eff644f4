/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/id.h"

#include <endian.h>
#include <string.h>
#include <sys/random.h>

int unique_id_random(struct unique_id *id)
{
    return getrandom(id->bytes, sizeof id->bytes, 0) == (ssize_t)sizeof id->bytes ? 0 : -1;
}

bool unique_id_eq(const struct unique_id *a, const struct unique_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

struct unique_id unique_id_nil(void)
{
    struct unique_id id;

    memset(id.bytes, 0xff, sizeof id.bytes);
    return id;
}

bool unique_id_is_nil(const struct unique_id *id)
{
    struct unique_id nil = unique_id_nil();

    return unique_id_eq(id, &nil);
}

static void put_le32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

struct task_id task_id_driver(struct job_id job)
{
    struct task_id id;

    memset(id.bytes, 0xff, sizeof id.bytes);
    put_le32(id.bytes + ID_TASK_SIZE - 4, job.number);
    return id;
}

struct task_id task_id_make(struct job_id job, uint32_t process, uint64_t counter)
{
    struct task_id id = task_id_driver(job);
    uint64_t v =
        ((uint64_t)process << ID_COUNTER_BITS) | (counter & ((1ull << ID_COUNTER_BITS) - 1));

    v = htobe64(v);
    memcpy(id.bytes, &v, sizeof v);
    return id;
}

struct object_id object_id_make(const struct task_id *task, uint32_t index)
{
    struct object_id id;

    memcpy(id.bytes, task->bytes, ID_TASK_SIZE);
    put_le32(id.bytes + ID_TASK_SIZE, index);
    return id;
}

struct job_id object_id_job(const struct object_id *id)
{
    struct job_id job = {0};

    for (int i = 0; i < 4; i++)
        job.number |= (uint32_t)id->bytes[ID_TASK_SIZE - 4 + i] << (8 * i);
    return job;
}

char *id_hex(const void *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = bytes;

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[b[i] >> 4];
        out[2 * i + 1] = digits[b[i] & 15];
    }
    out[2 * n] = '\0';
    return out;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

bool id_parse(const char *s, void *bytes, size_t n)
{
    uint8_t *b = bytes;

    if (strlen(s) != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (nibble(s[2 * i]) < 0 || nibble(s[2 * i + 1]) < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)(nibble(s[2 * i]) << 4 | nibble(s[2 * i + 1]));
    return true;
}
