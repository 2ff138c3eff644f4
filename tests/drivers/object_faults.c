/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies that misbehave with store memory: the object, the store and everybody else are as before.
 */
#include "tests/drivers/driver.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MIB    (1u << 20)
#define STORE  (96 * MIB)
#define SIZE   (20 * MIB)
#define ROUNDS 4

static void fill(uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 2654435761u >> 16 ^ seed);
}

static bool is_filled(const uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != (uint8_t)(i * 2654435761u >> 16 ^ seed))
            return false;
    return true;
}

static ray_ref put(size_t size, unsigned seed)
{
    ray_buffer b;

    CHECK_CODE(ray_create(size, &b), RAY_OK);
    fill(b.data, size, seed);
    return ray_seal(&b);
}

enum fault {
    WRITES_TO_VIEW,
    OVERRUNS,
    CLOSES_ALL,
    FORKS,
    EXECS,
    KILLS_READER,
    KILLS_WRITER,
    KILLS_CHILD_OF_READER,
    N_FAULTS
};

static int misbehaves(ray_call *call)
{
    int64_t fault;
    ray_view v;
    ray_buffer b;

    if (ray_arg(call, 0, &fault) != RAY_OK || ray_arg(call, 1, &v) != RAY_OK
        || ray_create(2 * MIB, &b) != RAY_OK)
        return -1;
    uint8_t *reader = (uint8_t *)(uintptr_t)v.data, *writer = b.data;
    pid_t pid;
    switch (fault) {
    case WRITES_TO_VIEW:
        reader[MIB] = 1;
        break;
    case OVERRUNS: /* into the rest of what was lent to this worker, or a neighbour's bytes */
        memset(writer, 0xee, 2 * MIB + 64 * 1024);
        return ray_return(call, 0, &b);
    case CLOSES_ALL:
        syscall(SYS_close_range, 3u, ~0u, 0u);
        return ray_return(call, 0, is_filled(v.data, v.size, 7));
    case FORKS:
    case KILLS_CHILD_OF_READER:
        pid = fork();
        if (pid == 0) {
            for (unsigned i = 0;; i++) /* reads until it is killed, or swept */
                if (!is_filled(v.data, v.size, 7) && i == 0)
                    _exit(1);
        }
        if (fault == KILLS_CHILD_OF_READER) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
        break;
    case EXECS:
        execl("/bin/sleep", "sleep", "1000", (char *)NULL);
        break;
    case KILLS_READER:
        raise(SIGKILL);
        break;
    case KILLS_WRITER:
        memset(writer, 1, MIB);
        raise(SIGKILL);
        break;
    }
    ray_abandon(&b);
    return ray_return(call, 0, is_filled(v.data, v.size, 7));
}
RAY_REMOTE(misbehaves, .max_retries = RAY_ZERO);

/* After any number of faults all memory comes back. */
static void faults(int argc, char **argv)
{
    static const ray_code expected[N_FAULTS] = {[WRITES_TO_VIEW] = RAY_ECRASH,
                                                [OVERRUNS] = RAY_OK,
                                                [CLOSES_ALL] = RAY_ECRASH,
                                                [FORKS] = RAY_OK,
                                                [EXECS] = RAY_ECRASH,
                                                [KILLS_READER] = RAY_ECRASH,
                                                [KILLS_WRITER] = RAY_ECRASH,
                                                [KILLS_CHILD_OF_READER] = RAY_OK};
    const int only = argc > 0 ? (int)strtol(argv[0], NULL, 10) : -1;

    CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = 2, .object_store_memory = STORE)), RAY_OK);
    for (int round = 0; round < ROUNDS; round++)
        for (int f = 0; f < N_FAULTS; f++) {
            if (only >= 0 && f != only)
                continue;
            ray_ref ref = put(SIZE, 7);
            ray_view v = {0};
            ray_box box;
            CHECK_CODE(ray_take(ray_remote(misbehaves, f, ref), &box, RAY_FOREVER),
                       (int)expected[f]);
            if (expected[f] == RAY_OK)
                ray_box_drop(&box);
            CHECK_CODE(ray_get(ref, &v, RAY_FOREVER), RAY_OK);
            if (f != OVERRUNS)
                CHECK(is_filled(v.data, v.size, 7));
            ray_drop(&v);
            CHECK_CODE(ray_release(ref), RAY_OK);
        }
    ray_ref all = put(STORE - 8 * MIB, 3); /* what workers were lent is recalled */
    CHECK_CODE(ray_release(all), RAY_OK);
    CHECK_CODE(ray_shutdown(), RAY_OK);
}

static const struct scenario scenarios[] = {
    {"faults", 0, NULL, faults},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
