/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One of several programs of one cluster: does what the lines of its standard input say, answers
 * each with a line. Its add_one is not hold's: a worker of the wrong program would be noticed.
 */
#include "tests/drivers/driver.h"

#include <signal.h>

#define N_REFS 20000
#define MIB    (1u << 20)

static ray_ref refs[N_REFS];
static int n_refs;

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1001);
}
RAY_REMOTE(add_one);

/* Prints what a worker has from its driver. */
static int tell(ray_call *call)
{
    char folder[512];
    const char *tag = getenv("JOBS_TAG"), *late = getenv("JOBS_LATE_TAG");

    printf("tag %s late %s folder %s\n",
           tag != NULL ? tag : "none",
           late != NULL ? late : "none",
           getcwd(folder, sizeof folder));
    return ray_return(call, 0, (int64_t)getpid());
}
RAY_REMOTE(tell);

_Noreturn static void pause_for_ever(void)
{
    for (;;)
        pause();
}

/* Until it is killed, with a child that is hard to find. */
static int sleep_for_ever(ray_call *call)
{
    (void)call;
    if (fork() == 0) {
        setsid();
        pause_for_ever();
    }
    send_event("asleep");
    pause_for_ever();
}
RAY_REMOTE(sleep_for_ever);

/* A worker that owns MiB it made, and sleeps. */
static int own(ray_call *call)
{
    ray_buffer b;
    int64_t n;

    if (ray_arg(call, 0, &n) != RAY_OK || ray_create((size_t)n * MIB, &b) != RAY_OK)
        return -1;
    memset(b.data, 7, b.size);
    if (ray_seal(&b).word == 0)
        return -1;
    send_event("asleep");
    pause_for_ever();
}
RAY_REMOTE(own);

static void answer(int code, int64_t value)
{
    if (code == RAY_OK)
        printf("ok %ld\n", (long)value);
    else
        printf("error %d %s\n", code, ray_error()->text);
    fflush(stdout);
}

static void keep(ray_ref ref)
{
    CHECK(n_refs < N_REFS);
    refs[n_refs++] = ref;
}

/* All at once; the number of right results. */
static void run_tasks(int n)
{
    ray_ref *all = calloc((size_t)n, sizeof *all);
    int64_t y, n_right = 0;
    int code = RAY_OK;

    CHECK(all != NULL);
    for (int i = 0; i < n; i++)
        all[i] = ray_remote(add_one, i);
    for (int i = 0; i < n && code == RAY_OK; i++) {
        code = ray_take(all[i], &y, RAY_FOREVER);
        n_right += code == RAY_OK && y == i + 1001;
    }
    free(all);
    answer(code, n_right);
}

/* Nodes, and CPUs of all. */
static void tell_cluster(void)
{
    ray_cluster c;

    CHECK_CODE(ray_get_cluster(&c), RAY_OK);
    for (unsigned i = 0; i < c.n_resources; i++)
        if (strcmp(c.resources[i].name, "CPU") == 0)
            printf("cluster nodes %u cpus %g free %g\n",
                   c.n_nodes,
                   c.resources[i].total,
                   c.resources[i].available);
    fflush(stdout);
}

static void facts(void)
{
    ray_context c;

    CHECK_CODE(ray_get_context(NULL, &c), RAY_OK);
    printf("facts job %s worker %s session %s\n", c.job, c.worker, c.session_dir);
    fflush(stdout);
}

static void put(int mib)
{
    ray_buffer b;
    int code = ray_create((size_t)mib * MIB, &b);

    if (code == RAY_OK) {
        memset(b.data, 1, b.size);
        keep(ray_seal(&b));
    }
    answer(code, mib);
}

static void obey(const char *line)
{
    char what[32] = "";
    int n = 0;
    int64_t x = 0;

    if (sscanf(line, "%31s %d", what, &n) < 1)
        return;
    if (strcmp(what, "init") == 0) {
        int code = ray_init(NULL);
        answer(code, getpid());
    } else if (strcmp(what, "late") == 0) {
        setenv("JOBS_LATE_TAG", "yes", 1);
    } else if (strcmp(what, "task") == 0) {
        int code = ray_take(ray_remote(add_one, 41), &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "tasks") == 0) {
        run_tasks(n);
    } else if (strcmp(what, "tell") == 0) {
        int code = ray_take(ray_remote(tell), &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "sleep") == 0) {
        for (int i = 0; i < n; i++)
            keep(ray_remote(sleep_for_ever));
        await_events("asleep", n);
        answer(RAY_OK, n);
    } else if (strcmp(what, "own") == 0) {
        keep(ray_remote(own, n));
        await_events("asleep", 1);
        answer(RAY_OK, n);
    } else if (strcmp(what, "get") == 0) {
        int code = ray_get(refs[n], &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "put") == 0) {
        put(n);
    } else if (strcmp(what, "facts") == 0) {
        facts();
    } else if (strcmp(what, "cluster") == 0) {
        tell_cluster();
    } else if (strcmp(what, "fork") == 0) { /* a child that has what we have open and mapped */
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            pause_for_ever();
        answer(RAY_OK, child);
    } else if (strcmp(what, "exec") == 0) {
        execl("/bin/sleep", "sleep", "60", NULL);
    } else if (strcmp(what, "shutdown") == 0) {
        answer(ray_shutdown(), 0);
    } else if (strcmp(what, "exit") == 0) {
        exit(n);
    } else {
        printf("what is %s?\n", what);
        fflush(stdout);
    }
}

int main(void)
{
    char line[256];

    while (fgets(line, sizeof line, stdin) != NULL)
        obey(line);
    return 0;
}
