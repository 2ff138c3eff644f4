/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes of a cluster on this machine: how soon they are ready, what their daemons take, tasks that
 * run at another node than the program's, and what moves for arguments that lie there.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ray/ray.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/remove_tree.h"
#include "tests/bench/bench.h"

#define RUNS  7
#define CROWD 64 /* nodes that come at once */

static char ray[600], folder[64];

/* A `ray` command that runs. */
static pid_t begin(const char *const *words)
{
    const char *argv[16] = {"ray"};
    size_t n = 1;

    for (; *words != NULL && n < 15; words++)
        argv[n++] = *words;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execv(ray, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

/* The time of a `ray` command, in milliseconds; -1: it failed. */
static double run(const char *const *words)
{
    int status;
    uint64_t t = clock_now_ns();
    pid_t pid = begin(words);

    if (waitpid(pid, &status, 0) != pid || status != 0)
        return -1;
    return (double)(clock_now_ns() - t) / 1e6;
}

/* A number behind this name in a file of /proc; 0: it is not there. */
static long number_in(const char *pid, const char *file, const char *name)
{
    char path[320], line[256];
    long number = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%s/%s", pid, file);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            number = strtol(line + strlen(name), NULL, 10);
    if (f != NULL)
        fclose(f);
    return number;
}

static void add_daemon(const char *pid)
{
    static const struct {
        const char *name, *pss, *threads; /* rows go to another process: literals */
        double budget_mb;
    } known[] = {{"ray::supervisor", "idle PSS of a supervisor", "threads of a supervisor", 2},
                 {"redis-server", "idle PSS of redis-server", "threads of redis-server", 0},
                 {"gcs_server", "idle PSS of gcs_server", "threads of gcs_server", 16},
                 {"raylet", "idle PSS of a head's raylet", "threads of a head's raylet", 16}};
    char path[300], name[32] = "";
    FILE *f;

    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    f = fopen(path, "r");
    if (f == NULL)
        return;
    if (fgets(name, sizeof name, f) != NULL)
        name[strcspn(name, "\n")] = '\0';
    fclose(f);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0) {
            bench_add((struct row){known[i].pss,
                                   (double)number_in(pid, "smaps_rollup", "Pss:") / 1024,
                                   "MiB",
                                   known[i].budget_mb,
                                   known[i].budget_mb > 0 ? "the budget itself" : "",
                                   known[i].budget_mb > 0 ? 1 : 0,
                                   false});
            bench_add((struct row){known[i].threads,
                                   (double)number_in(pid, "status", "Threads:"),
                                   "",
                                   0,
                                   "",
                                   0,
                                   false});
        }
}

/* The supervisor of the head in this folder: its pid file says. */
static void add_daemons(const char *temp)
{
    char path[200], supervisor[32] = "";
    const struct dirent *e;
    DIR *d;

    snprintf(path, sizeof path, "%s/session_latest/supervisor.pid", temp);
    FILE *f = fopen(path, "r");
    if (f == NULL || fgets(supervisor, sizeof supervisor, f) == NULL)
        abort();
    fclose(f);
    supervisor[strcspn(supervisor, "\n")] = '\0';
    add_daemon(supervisor);
    d = opendir("/proc");
    while (d != NULL && (e = readdir(d)) != NULL)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9'
            && number_in(e->d_name, "status", "PPid:") == strtol(supervisor, NULL, 10))
            add_daemon(e->d_name);
    if (d != NULL)
        closedir(d);
}

static void add_time(const char *name, double *v, double budget_ms)
{
    bench_add((struct row){name,
                           bench_quantile(v, RUNS, 0.5),
                           "ms",
                           budget_ms,
                           "the budget itself",
                           1,
                           false});
}

static int nothing(ray_call *call)
{
    return ray_return(call, 0, 1);
}
RAY_REMOTE(nothing, .resources = "there=0.0001");

/* n of them at once; per second. */
static double tasks_per_s(size_t n)
{
    ray_ref *refs = calloc(n, sizeof *refs);
    int64_t y;

    if (refs == NULL)
        abort();
    uint64_t t = clock_now_ns();
    for (size_t i = 0; i < n; i++)
        refs[i] = ray_remote(nothing);
    for (size_t i = 0; i < n; i++)
        if (ray_take(refs[i], &y, RAY_FOREVER) != RAY_OK)
            exit(ray_report(stderr));
    t = clock_now_ns() - t;
    free(refs);
    return (double)n / ((double)t / 1e9);
}

static double trip_us(int n, double q)
{
    double *us = calloc((size_t)n, sizeof *us);
    int64_t y;

    if (us == NULL)
        abort();
    for (int i = 0; i < n; i++) {
        uint64_t t = clock_now_ns();
        if (ray_take(ray_remote(nothing), &y, RAY_FOREVER) != RAY_OK)
            exit(ray_report(stderr));
        us[i] = (double)(clock_now_ns() - t) / 1e3;
    }
    double v = bench_quantile(us, (size_t)n, q);
    free(us);
    return v;
}

#define ARGUMENT (8u << 20)

static int make_there(ray_call *call)
{
    ray_buffer b;

    if (ray_create(ARGUMENT, &b) != RAY_OK)
        return -1;
    memset(b.data, 1, b.size);
    return ray_return(call, 0, &b);
}
RAY_REMOTE(make_there, .resources = "there=0.0001");

static int use(ray_call *call)
{
    ray_view v;

    if (ray_arg(call, 0, &v) != RAY_OK)
        return -1;
    return ray_return(call, 0, (int64_t)v.size);
}
RAY_REMOTE(use);

/* One after the other: made there, used anywhere. */
static void use_each(int n)
{
    int64_t size;

    for (int i = 0; i < n; i++) {
        ray_ref made = ray_remote(make_there);
        if (ray_take(ray_remote(use, made), &size, RAY_FOREVER) != RAY_OK || size != ARGUMENT)
            exit(ray_report(stderr));
        ray_release(made);
    }
}

static void arguments_there(int n)
{
    static const char lo[] = "    lo:"; /* what it has received; others' bytes as well */

    use_each(3);
    long before = number_in("self", "net/dev", lo);
    use_each(n);
    bench_add((struct row){"moved for a task with 8 MiB on another node (loopback)",
                           (double)(number_in("self", "net/dev", lo) - before) / n / 1048576,
                           "MiB",
                           (double)ARGUMENT / 1048576,
                           "the argument",
                           0.1,
                           false});
}

/* The program joins at the head; only the second node has what its tasks need. */
static void tasks_there(const char *address, const char *head, bool quick)
{
    if (ray_init(RAY_CONFIG(.address = address, .temp_dir = head)) != RAY_OK)
        exit(ray_report(stderr));
    tasks_per_s(20000);
    bench_add((struct row){"no-op tasks through two raylets (loopback)",
                           tasks_per_s(quick ? 200000 : 1000000),
                           "/s",
                           bench_stream_frames,
                           "frames of 64 B on a bare gRPC stream",
                           0.25,
                           true});
    bench_add((struct row){"task round trip through two raylets p50 (loopback)",
                           trip_us(quick ? 1000 : 5000, 0.5),
                           "us",
                           0,
                           "",
                           0,
                           false});
    arguments_there(quick ? 50 : 200);
    ray_shutdown();
}

/* Many nodes join at once: until the last of them is ready. */
static void crowd(const char *address, const char *temp)
{
    pid_t pids[CROWD];
    int status, n_failed = 0;
    uint64_t t = clock_now_ns();

    for (int i = 0; i < CROWD; i++)
        pids[i] = begin((const char *const[]){"start",
                                              address,
                                              "--node-ip-address=127.0.0.1",
                                              "--num-cpus=1",
                                              "--object-store-memory=4194304",
                                              temp,
                                              NULL});
    for (int i = 0; i < CROWD; i++)
        n_failed += waitpid(pids[i], &status, 0) != pids[i] || status != 0;
    t = clock_now_ns() - t;
    if (n_failed > 0)
        exit(1);
    bench_add((struct row){"64 nodes join a head at once", (double)t / 1e6, "ms", 0, "", 0, false});
}

static void measure(const char *head, const char *second, bool quick)
{
    char head_temp[100], second_temp[100], address[100], at[200], port[32] = "";
    const char *const ip = "--node-ip-address=127.0.0.1", *const store =
                                                              "--object-store-memory=16777216";
    double start[RUNS], join[RUNS], stop[RUNS];

    snprintf(head_temp, sizeof head_temp, "--temp-dir=%s", head);
    snprintf(second_temp, sizeof second_temp, "--temp-dir=%s", second);
    for (int i = 0; i < RUNS; i++) {
        start[i] =
            run((const char *const[]){"start", "--head", "--port=0", ip, store, head_temp, NULL});
        if (start[i] < 0)
            exit(1);
        snprintf(at, sizeof at, "%s/ray_current_cluster", head);
        FILE *f = fopen(at, "r");
        if (f == NULL || fgets(port, sizeof port, f) == NULL)
            abort();
        fclose(f);
        snprintf(address, sizeof address, "--address=%s", port);
        join[i] = run((const char *const[]){"start",
                                            address,
                                            ip,
                                            store,
                                            second_temp,
                                            "--resources={\"there\": 1000}",
                                            NULL});
        if (i == RUNS - 1) {
            add_daemons(head);
            tasks_there(port, head, quick);
            crowd(address, second_temp);
        }
        run((const char *const[]){"stop", second_temp, NULL});
        stop[i] = run((const char *const[]){"stop", head_temp, NULL});
    }
    add_time("ray start --head, until it is ready", start, 150);
    add_time("ray start --address, until it is ready", join, 150);
    bench_add(
        (struct row){"ray stop of a head", bench_quantile(stop, RUNS, 0.5), "ms", 0, "", 0, false});
}

void bench_nodes(bool quick)
{
    char head[80], second[80], *slash;
    ssize_t n = readlink("/proc/self/exe", ray, sizeof ray - 20);

    if (n < 0)
        abort();
    ray[n] = '\0';
    for (int i = 0; i < 3 && (slash = strrchr(ray, '/')) != NULL; i++)
        *slash = '\0';
    snprintf(ray + strlen(ray), 20, "/bin/ray");
    snprintf(folder, sizeof folder, "/tmp/ray-bench-XXXXXX");
    if (mkdtemp(folder) == NULL)
        abort();
    snprintf(head, sizeof head, "%s/head", folder);
    snprintf(second, sizeof second, "%s/second", folder);
    setenv("HOME", folder, 1);
    unsetenv("RAY_AUTH_TOKEN");
    measure(head, second, quick);
    remove_tree(folder);
}
