/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"

#define SPIN_NS    40000u
#define TRIPS      20000
#define FRAME      48
#define ANSWER     32
#define WINDOW     64
#define MAX_HOGS   16
#define MAX_WORKER 8

extern char **environ;

static void write_all(int fd, const void *p, size_t n)
{
    while (n > 0) {
        ssize_t r = write(fd, p, n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            _exit(0);
        p = (const char *)p + r;
        n -= (size_t)r;
    }
}

/* Wait for up to n bytes: spin while the peer runs on another CPU, then block. */
static size_t read_some(int fd, void *p, size_t n, _Atomic int *cpus, int me)
{
    int cpu = sched_getcpu();
    uint64_t end = clock_now_ns() + SPIN_NS;

    atomic_store_explicit(&cpus[me * 16], cpu, memory_order_relaxed);
    while (atomic_load_explicit(&cpus[!me * 16], memory_order_relaxed) != cpu) {
        ssize_t r = recv(fd, p, n, MSG_DONTWAIT);
        if (r > 0)
            return (size_t)r;
        if (r == 0)
            _exit(0);
        if (clock_now_ns() > end)
            break;
        for (int i = 0; i < 4; i++)
            __builtin_ia32_pause();
    }
    ssize_t r = read(fd, p, n);
    if (r <= 0)
        _exit(0);
    return (size_t)r;
}

void limit_ping_pong(double *p50_us, double *p99_us)
{
    int pair[2];
    char buf[64] = {0};
    _Atomic int *cpus = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *v = malloc(TRIPS * sizeof *v);

    if (cpus == MAP_FAILED || v == NULL || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        for (;;) {
            size_t n = read_some(pair[1], buf, sizeof buf, cpus, 1);
            write_all(pair[1], buf, n);
        }
    }
    close(pair[1]);
    for (int i = 0; i < TRIPS; i++) {
        uint64_t t = clock_now_ns();
        write_all(pair[0], buf, sizeof buf);
        for (size_t have = 0; have < sizeof buf;)
            have += read_some(pair[0], buf, sizeof buf - have, cpus, 0);
        v[i] = (double)(clock_now_ns() - t) / 1e3;
    }
    close(pair[0]);
    waitpid(pid, NULL, 0);
    *p50_us = bench_quantile(v, TRIPS, 0.5);
    *p99_us = bench_quantile(v, TRIPS, 0.99);
    free(v);
    munmap(cpus, 4096);
}

static void echo_frames(int fd)
{
    static char in[1 << 16], out[1 << 16];
    size_t have = 0;

    for (;;) {
        ssize_t r = read(fd, in + have, sizeof in - have);
        if (r <= 0)
            _exit(0);
        have += (size_t)r;
        size_t n = have / FRAME;
        memset(out, 1, n * ANSWER);
        if (n > 0)
            write_all(fd, out, n * ANSWER);
        memmove(in, in + n * FRAME, have - n * FRAME);
        have -= n * FRAME;
    }
}

double limit_frames_per_s(int n_workers, size_t n_frames)
{
    static char out[WINDOW * FRAME], in[1 << 16];
    struct pollfd p[MAX_WORKER];
    pid_t pids[MAX_WORKER];
    size_t in_flight[MAX_WORKER] = {0}, part[MAX_WORKER] = {0}, sent = 0, done = 0;

    if (n_workers > MAX_WORKER)
        n_workers = MAX_WORKER;
    for (int i = 0; i < n_workers; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
            abort();
        pids[i] = fork();
        if (pids[i] == 0) {
            for (int k = 0; k < i; k++)
                close(p[k].fd);
            close(pair[0]);
            echo_frames(pair[1]);
        }
        close(pair[1]);
        p[i] = (struct pollfd){.fd = pair[0], .events = POLLIN};
    }
    uint64_t t = clock_now_ns();
    while (done < n_frames) {
        for (int i = 0; i < n_workers; i++) {
            size_t n = WINDOW - in_flight[i];
            if (n > n_frames - sent)
                n = n_frames - sent;
            if (n == 0)
                continue;
            for (size_t k = 0; k < n; k++)
                memcpy(out + k * FRAME, &sent, sizeof sent);
            write_all(p[i].fd, out, n * FRAME);
            in_flight[i] += n;
            sent += n;
        }
        if (poll(p, (nfds_t)n_workers, -1) < 0)
            abort();
        for (int i = 0; i < n_workers; i++) {
            if ((p[i].revents & POLLIN) == 0)
                continue;
            ssize_t r = read(p[i].fd, in, sizeof in);
            if (r <= 0)
                abort();
            part[i] += (size_t)r;
            size_t n = part[i] / ANSWER;
            part[i] -= n * ANSWER;
            in_flight[i] -= n;
            done += n;
        }
    }
    double rate = (double)n_frames / ((double)(clock_now_ns() - t) / 1e9);
    for (int i = 0; i < n_workers; i++) {
        close(p[i].fd);
        waitpid(pids[i], NULL, 0);
    }
    return rate;
}

double limit_fork_us(void)
{
    double v[200];
    int pipe_fd[2];

    if (pipe(pipe_fd) != 0)
        abort();
    for (int i = 0; i < 200; i++) {
        char c = 0;
        uint64_t t = clock_now_ns();
        pid_t pid = fork();
        if (pid == 0) {
            write_all(pipe_fd[1], &c, 1);
            _exit(0);
        }
        if (read(pipe_fd[0], &c, 1) != 1)
            abort();
        v[i] = (double)(clock_now_ns() - t) / 1e3;
        waitpid(pid, NULL, 0);
    }
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    return bench_quantile(v, 200, 0.5);
}

double limit_spawn_ms(void)
{
    char *const argv[] = {(char *)"true", NULL};
    double v[50];

    for (int i = 0; i < 50; i++) {
        pid_t pid;
        uint64_t t = clock_now_ns();
        if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) != 0)
            abort();
        waitpid(pid, NULL, 0);
        v[i] = (double)(clock_now_ns() - t) / 1e6;
    }
    return bench_quantile(v, 50, 0.5);
}

static pid_t hogs[MAX_HOGS];
static int n_hogs;

void hogs_start(int n)
{
    for (n_hogs = 0; n_hogs < n && n_hogs < MAX_HOGS; n_hogs++) {
        hogs[n_hogs] = fork();
        if (hogs[n_hogs] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            setpriority(PRIO_PROCESS, 0, 10);
            for (volatile uint64_t x = 0;; x++)
                continue;
        }
    }
}

void hogs_stop(void)
{
    for (int i = 0; i < n_hogs; i++) {
        kill(hogs[i], SIGKILL);
        waitpid(hogs[i], NULL, 0);
    }
    n_hogs = 0;
}
