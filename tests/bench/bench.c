/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench [--quick] [--json]: each hot path beside its physical limit, measured in the same run. A
 * row is value, limit, their ratio and the budget for the ratio. Nothing is asserted: figures are
 * for people.
 */
#include "tests/bench/bench.h"

#include <dirent.h>
#include <ray/ray.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/core/core.h"

#define ROWS_MAX 64

static struct row rows[ROWS_MAX];
static size_t n_rows;

void bench_add(struct row row)
{
    if (n_rows < ROWS_MAX)
        rows[n_rows++] = row;
}

double bench_stream_frames;

static double limit_of(const char *name)
{
    for (size_t i = 0; i < n_rows; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i].limit;
    return 0;
}

/* Its rows, from a process of its own: memory is fresh there. Before ray_init. */
static void in_child(void (*measure)(bool quick), bool quick)
{
    int pipe_fd[2];
    struct row row;

    if (pipe(pipe_fd) != 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        close(pipe_fd[0]);
        n_rows = 0;
        measure(quick);
        _exit(write(pipe_fd[1], rows, n_rows * sizeof row) != (ssize_t)(n_rows * sizeof row));
    }
    close(pipe_fd[1]);
    while (read(pipe_fd[0], &row, sizeof row) == sizeof row)
        bench_add(row);
    close(pipe_fd[0]);
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        exit(1);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double bench_quantile(double *v, size_t n, double q)
{
    qsort(v, n, sizeof *v, compare);
    return v[(size_t)((double)(n - 1) * q)];
}

static int noop(ray_call *call)
{
    return ray_return(call, 0, 1);
}
RAY_REMOTE(noop);

static int barrier(ray_call *call)
{
    const char *path;

    if (ray_arg(call, 0, &path) != RAY_OK)
        return RAY_ETYPE;
    FILE *f = fopen(path, "r"); /* a fifo: opens when the driver does */
    if (f != NULL)
        fclose(f);
    return ray_return(call, 0, 0);
}
RAY_REMOTE(barrier);

static void die(void)
{
    exit(ray_report(stderr));
}

static void get_all(ray_ref *refs, size_t n)
{
    long y;

    for (size_t i = 0; i < n; i++)
        if (ray_take(refs[i], &y, RAY_FOREVER) != RAY_OK)
            die();
}

static void trips(const char *p50_name, const char *p99_name, size_t n, double limit50)
{
    double *v = malloc(n * sizeof *v);
    long y;

    if (v == NULL)
        abort();
    for (size_t i = 0; i < n; i++) {
        uint64_t t = clock_now_ns();
        if (ray_take(ray_remote(noop, (long)i), &y, RAY_FOREVER) != RAY_OK)
            die();
        v[i] = (double)(clock_now_ns() - t) / 1e3;
    }
    bench_add((struct row){p50_name,
                           bench_quantile(v, n, 0.5),
                           "us",
                           limit50,
                           "unix socket ping-pong, waiting rule, p50",
                           2.5,
                           false});
    bench_add((struct row){p99_name,
                           bench_quantile(v, n, 0.99),
                           "us",
                           limit50,
                           "unix socket ping-pong, waiting rule, p50",
                           15,
                           false});
    free(v);
}

static double throughput(size_t n)
{
    ray_ref *refs = malloc(n * sizeof *refs);
    uint64_t t = clock_now_ns();

    if (refs == NULL)
        abort();
    for (size_t i = 0; i < n; i++)
        refs[i] = ray_remote(noop, (long)i);
    get_all(refs, n);
    free(refs);
    return (double)n / ((double)(clock_now_ns() - t) / 1e9);
}

long bench_rss_kb(void)
{
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kb) == 1)
            break;
    if (f != NULL)
        fclose(f);
    return kb;
}

/* n tasks queued while every worker waits, then drained. */
static void queued(size_t n)
{
    char path[] = "/tmp/ray-bench-XXXXXX", fifo[64];
    ray_ref *refs = malloc(n * sizeof *refs), blocks[64];
    ray_cluster c;

    if (refs == NULL || mkdtemp(path) == NULL || ray_get_cluster(&c) != RAY_OK)
        abort();
    snprintf(fifo, sizeof fifo, "%s/fifo", path);
    char command[128];
    snprintf(command, sizeof command, "%s", fifo);
    if (mkfifo(command, 0600) != 0)
        abort();
    size_t n_blocks = (size_t)c.resources[0].total < 64 ? (size_t)c.resources[0].total : 64;
    for (size_t i = 0; i < n_blocks; i++)
        blocks[i] = ray_remote(barrier, fifo);
    long before = bench_rss_kb();
    uint64_t t = clock_now_ns();
    for (size_t i = 0; i < n; i++)
        refs[i] = ray_remote(noop, (long)i);
    long after = bench_rss_kb();
    FILE *f = fopen(fifo, "w");
    get_all(blocks, n_blocks);
    if (f != NULL)
        fclose(f);
    get_all(refs, n);
    double s = (double)(clock_now_ns() - t) / 1e9;
    unlink(fifo);
    rmdir(path);
    free(refs);
    bench_add((struct row){"queued behind a barrier and drained, per million",
                           s * 1e6 / (double)n,
                           "s",
                           3,
                           "the budget itself",
                           1,
                           false});
    bench_add((struct row){"memory of a queued task",
                           (double)(after - before) * 1024 / (double)n,
                           "B",
                           500,
                           "the budget itself",
                           1,
                           false});
}

/* A whole program: start, one task, end. */
static int program(void)
{
    long y;

    if (ray_init(NULL) != RAY_OK || ray_take(ray_remote(noop, 1), &y, RAY_FOREVER) != RAY_OK)
        return ray_report(stderr);
    return ray_shutdown();
}

static double program_ms(const char *self)
{
    double v[15];

    for (int i = 0; i < 15; i++) {
        uint64_t t = clock_now_ns();
        pid_t pid = fork();
        int status;
        if (pid == 0) {
            execl(self, self, "--program", (char *)NULL);
            _exit(127);
        }
        if (waitpid(pid, &status, 0) != pid || status != 0)
            abort();
        v[i] = (double)(clock_now_ns() - t) / 1e6;
    }
    return bench_quantile(v, 15, 0.5);
}

/* PSS and threads of the raylet this process started. */
static void raylet_idle(void)
{
    DIR *d = opendir("/proc");
    const struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        char path[300], line[512];
        int pid = (int)strtol(e->d_name, NULL, 10), ppid = 0;
        long pss = 0, threads = 0;
        bool is_raylet = false;
        if (pid <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/status", pid);
        FILE *f = fopen(path, "r");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            is_raylet |= strcmp(line, "Name:\traylet\n") == 0;
            sscanf(line, "PPid: %d", &ppid);
            sscanf(line, "Threads: %ld", &threads);
        }
        if (f != NULL)
            fclose(f);
        if (!is_raylet || ppid != getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
        f = fopen(path, "r");
        while (f != NULL && fgets(line, sizeof line, f) != NULL)
            if (sscanf(line, "Pss: %ld", &pss) == 1)
                break;
        if (f != NULL)
            fclose(f);
        bench_add((struct row){"raylet idle PSS",
                               (double)pss / 1024,
                               "MiB",
                               16,
                               "the budget itself",
                               1,
                               false});
        bench_add((struct row){"raylet threads", (double)threads, "", 0, "", 0, false});
    }
    if (d != NULL)
        closedir(d);
}

/* Lease to user code: each of n tasks that wait needs a new worker. */
static void worker_start(void)
{
    double v[9];
    long y;

    for (int i = 0; i < 9; i++) {
        if (ray_init(RAY_CONFIG(.num_cpus = 1)) != RAY_OK)
            die();
        if (ray_take(ray_remote(noop, 1), &y, RAY_FOREVER) != RAY_OK)
            die();
        /* another class: the warm worker's lease is taken back, or a new one is forked */
        uint64_t t = clock_now_ns();
        if (ray_take(ray_remote_with(RAY_OPTIONS(.num_cpus = RAY_ZERO), noop, 1), &y, RAY_FOREVER)
            != RAY_OK)
            die();
        v[i] = (double)(clock_now_ns() - t) / 1e6;
        ray_shutdown();
    }
    bench_add((struct row){"worker start: lease to user code",
                           bench_quantile(v, 9, 0.5),
                           "ms",
                           limit_fork_us() / 1e3,
                           "fork of a small process",
                           0,
                           false});
}

static void pool(size_t n)
{
    char command[256];
    double rate = 0;

    snprintf(command,
             sizeof command,
             "/usr/bin/python3 -c 'import multiprocessing as m,time\n"
             "p=m.Pool()\np.map(abs,range(100),chunksize=1)\n"
             "t=time.time();p.map(abs,range(%zu),chunksize=1);print(%zu/"
             "(time.time()-t));p.close();p.join()' 2>/dev/null",
             n,
             n);
    FILE *f = popen(command, "r");
    if (f != NULL && fscanf(f, "%lf", &rate) == 1)
        bench_add((
            struct row){"peer: multiprocessing.Pool map, chunksize 1", rate, "/s", 0, "", 0, true});
    if (f != NULL)
        pclose(f);
}

static void print_row(const struct row *r, bool json, bool last)
{
    double ratio = r->limit > 0 ? r->value / r->limit : 0;
    bool ok = r->budget == 0 || (r->higher_is_better ? ratio >= r->budget : ratio <= r->budget);

    if (json) {
        printf("  {\"name\": \"%s\", \"value\": %.4g, \"unit\": \"%s\", \"limit\": %.4g, "
               "\"limit_name\": \"%s\", \"ratio\": %.3g, \"budget\": %.3g, \"ok\": %s}%s\n",
               r->name,
               r->value,
               r->unit,
               r->limit,
               r->limit_name,
               ratio,
               r->budget,
               ok ? "true" : "false",
               last ? "" : ",");
        return;
    }
    printf("%-48s %12.4g %-4s", r->name, r->value, r->unit);
    if (r->limit > 0)
        printf(" limit %10.4g ratio %6.2f", r->limit, ratio);
    if (r->budget > 0)
        printf(" budget %s%.3g %s",
               r->higher_is_better ? ">=" : "<=",
               r->budget,
               ok ? "ok" : "SHORT");
    printf("  %s\n", r->limit_name);
}

int main(int argc, char **argv)
{
    bool quick = false, json = false;
    double p50, p99;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--program") == 0)
            return program();
        if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else {
            fprintf(stderr, "usage: bench [--quick] [--json]\n");
            return 2;
        }
    }
    size_t n = quick ? 300000 : 1000000;
    in_child(bench_objects, quick);
    in_child(bench_transfer, quick);
    in_child(bench_sessions, quick);
    bench_stream_frames = limit_of("messages of 64 B through a session (loopback)");
    in_child(bench_nodes, quick);
    in_child(bench_sync, quick);
    bench_view();
    limit_ping_pong(&p50, &p99);
    double frames = limit_frames_per_s(2, n);
    if (ray_init(NULL) != RAY_OK)
        die();
    queued(n); /* first: memory is what fresh tasks take */
    throughput(20000);
    trips("task round trip p50", "task round trip p99", quick ? 5000 : 20000, p50);
    bench_add((struct row){"no-op tasks, one driver",
                           throughput(n),
                           "/s",
                           frames,
                           "packed frames and answers, same carrier",
                           0.5,
                           true});
    raylet_idle();
    hogs_start(2);
    double busy50, busy99;
    limit_ping_pong(&busy50, &busy99);
    double busy_frames = limit_frames_per_s(2, n / 4);
    trips("task round trip p50, CPUs busy", "task round trip p99, CPUs busy", 2000, busy50);
    bench_add((struct row){"no-op tasks, CPUs busy",
                           throughput(n / 4),
                           "/s",
                           busy_frames,
                           "packed frames and answers, CPUs busy",
                           0.5,
                           true});
    hogs_stop();
    ray_shutdown();
    worker_start();
    bench_add((struct row){"a program with nothing running, all in all",
                           program_ms(argv[0]),
                           "ms",
                           150,
                           "the budget itself",
                           1,
                           false});
    bench_add((struct row){"posix_spawn of /bin/true", limit_spawn_ms(), "ms", 0, "", 0, false});
    pool(quick ? 20000 : 100000);
    if (json)
        puts("[");
    for (size_t i = 0; i < n_rows; i++)
        print_row(&rows[i], json, i + 1 == n_rows);
    if (json)
        puts("]");
    return 0;
}
