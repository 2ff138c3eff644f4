/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "objstore/copy.h"

#define LAYOUT    2
#define BOOT_SIZE 64
#define N_TRIPS   600

static int by_value(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

/* The two first CPUs we may use; the same twice if there is only one. */
static unsigned two_cpus(int cpus[2])
{
    cpu_set_t set;
    unsigned n = 0;

    cpus[0] = cpus[1] = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &set)) {
            if (n < 2)
                cpus[n] = c;
            n++;
        }
    if (n == 1)
        cpus[1] = cpus[0];
    return n;
}

static void stay_on(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

struct echo {
    int fd, cpu;
};

static void *echo(void *arg)
{
    const struct echo *e = arg;
    char byte;

    stay_on(e->cpu);
    while (read(e->fd, &byte, 1) == 1 && write(e->fd, &byte, 1) == 1)
        continue;
    return NULL;
}

struct asker {
    int fd, cpu;
    uint64_t *ns;
    bool ok;
};

static void *ask(void *arg)
{
    struct asker *a = arg;
    char byte = 0;

    stay_on(a->cpu);
    a->ok = true;
    for (int i = 0; a->ok && i < N_TRIPS; i++) {
        uint64_t start = clock_now_ns();
        a->ok = write(a->fd, &byte, 1) == 1 && read(a->fd, &byte, 1) == 1;
        a->ns[i] = clock_now_ns() - start;
    }
    return NULL;
}

/* A lower quartile of round trips between two threads, each on its CPU (-1: where it likes). */
static uint64_t trip_ns(int asker_cpu, int echo_cpu)
{
    static uint64_t ns[N_TRIPS];
    int pair[2];
    pthread_t threads[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return 0;
    struct echo e = {.fd = pair[1], .cpu = echo_cpu};
    struct asker a = {.fd = pair[0], .cpu = asker_cpu, .ns = ns};
    bool has_echo = pthread_create(&threads[0], NULL, echo, &e) == 0;
    if (has_echo && pthread_create(&threads[1], NULL, ask, &a) == 0)
        pthread_join(threads[1], NULL);
    shutdown(pair[0], SHUT_RDWR);
    if (has_echo)
        pthread_join(threads[0], NULL);
    close(pair[0]);
    close(pair[1]);
    if (!a.ok)
        return 0;
    qsort(ns, N_TRIPS, sizeof ns[0], by_value);
    return ns[N_TRIPS / 4];
}

int machine_measure(struct machine *m, struct err *err)
{
    struct machine found = {0};
    struct store_copy_facts copy;
    int cpus[2];

    found.n_cpus = two_cpus(cpus);
    found.wake_ns = trip_ns(cpus[0], cpus[1]) / 2; /* a trip is two wakes */
    found.trip_ns = trip_ns(-1, -1);
    if (found.wake_ns == 0 || found.trip_ns == 0)
        return err_set(err, ERR_FULL, "no thread or socket left to measure this machine with");
    if (store_copy_measure(&copy, found.n_cpus, err) != 0)
        return -1;
    found.copy_mb_per_s = copy.mb_per_s[STORE_COPY_CLASSES - 1][STORE_COPY_PLAIN][0];
    found.copy_plan = copy.plan;
    *m = found;
    return 0;
}

static int read_boot(char *boot, size_t size)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, boot, size - 1) : -1;

    if (fd >= 0)
        close(fd);
    boot[n > 0 ? n : 0] = '\0';
    boot[strcspn(boot, "\n")] = '\0';
    return boot[0] != '\0' ? 0 : -1;
}

static int path_of(char *path, size_t size, const char *temp, struct err *err)
{
    char boot[BOOT_SIZE];

    if (read_boot(boot, sizeof boot) != 0)
        return err_set(err, ERR_SYSTEM, "this system tells no boot id: is /proc mounted?");
    if (snprintf(path, size, "%s/machine-%s-%u", temp, boot, (unsigned)geteuid()) >= (int)size)
        return err_set(err,
                       ERR_INVALID,
                       "the temp folder's path is too long: choose a shorter one");
    return 0;
}

int machine_load(struct machine *m, const char *temp, struct err *err)
{
    char path[512], text[256];
    struct machine found = {0};
    unsigned long long wake, trip, copy, plan;
    struct stat st;
    int layout;

    if (path_of(path, sizeof path, temp, err) != 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, ERR_NOT_FOUND, "not measured since the last boot");
    /* the folder may be anybody's */
    bool ours = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid();
    ssize_t n = ours ? read(fd, text, sizeof text - 1) : -1;
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text,
               "layout %d\nn_cpus %u\nwake_ns %llu\ntrip_ns %llu\ncopy_mb_per_s %llu\n"
               "copy_plan %llx\n",
               &layout,
               &found.n_cpus,
               &wake,
               &trip,
               &copy,
               &plan)
            != 6
        || layout != LAYOUT || wake == 0 || wake > 1000000000u)
        return err_set(err, ERR_NOT_FOUND, "%s is not readable as machine facts", path);
    found.wake_ns = wake;
    found.trip_ns = trip;
    found.copy_mb_per_s = copy;
    found.copy_plan = plan;
    *m = found;
    return 0;
}

int machine_store(const struct machine *m, const char *temp, struct err *err)
{
    char path[512], draft[560], text[256];

    if (path_of(path, sizeof path, temp, err) != 0)
        return -1;
    int size = snprintf(text,
                        sizeof text,
                        "layout %d\nn_cpus %u\nwake_ns %llu\ntrip_ns %llu\ncopy_mb_per_s %llu\n"
                        "copy_plan %llx\n",
                        LAYOUT,
                        m->n_cpus,
                        (unsigned long long)m->wake_ns,
                        (unsigned long long)m->trip_ns,
                        (unsigned long long)m->copy_mb_per_s,
                        (unsigned long long)m->copy_plan);
    snprintf(draft, sizeof draft, "%s.%d", path, (int)getpid());
    int fd = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, "keep machine facts in %s", draft);
    bool ok = write(fd, text, (size_t)size) == size;
    close(fd);
    if (ok && rename(draft, path) == 0)
        return 0;
    err_sys(err, "keep machine facts in %s", path);
    unlink(draft);
    return -1;
}

void machine_sweep(const char *temp)
{
    char boot[BOOT_SIZE];
    DIR *d = read_boot(boot, sizeof boot) == 0 ? opendir(temp) : NULL;
    const struct dirent *e;

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL) {
        char of[BOOT_SIZE] = "";
        struct stat st;
        unsigned uid;
        if (sscanf(e->d_name, "machine-%36[0-9a-f-]-%u", of, &uid) == 2
            && strlen(of) == strlen(boot) && strcmp(of, boot) != 0
            && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)
            && st.st_uid == geteuid())
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}
