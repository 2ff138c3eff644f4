/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/doctor.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cmd/ray/doctor_cluster.h"
#include "lib/base/flags.h"
#include "objstore/copy.h"
#include "raylet/machine.h"

#define FILES_WANTED     1024 /* a raylet needs about four a worker */
#define PROCESSES_WANTED 256
#define DISK_WANTED_MB   100

bool doctor_complain(const char *what, const char *fix)
{
    printf("  ! %s: %s\n", what, fix);
    return false;
}

/* The folder that sessions go to, made if it is not there, as a raylet does. */
static bool check_temp(const char *temp)
{
    struct statvfs fs;

    if (mkdir(temp, 01777) == 0)
        chmod(temp, strcmp(temp, "/tmp/ray") == 0 ? 01777 : 0700);
    else if (errno != EEXIST)
        return doctor_complain(strerror(errno),
                               "cannot make the temp folder; choose another by RAY_TMPDIR");
    if (access(temp, W_OK | X_OK) != 0)
        return doctor_complain(strerror(errno),
                               "cannot write to the temp folder; choose another by RAY_TMPDIR");
    if (statvfs(temp, &fs) != 0)
        return doctor_complain(strerror(errno), "cannot look at the temp folder's disk");
    unsigned long long mb = (unsigned long long)fs.f_bavail * fs.f_frsize >> 20;
    printf("temp folder       %s, %llu MB free\n", temp, mb);
    if (mb < DISK_WANTED_MB)
        return doctor_complain("the disk is nearly full",
                               "logs need room; choose another folder by RAY_TMPDIR");
    return true;
}

static bool check_limit(int which, const char *name, rlim_t wanted, const char *fix)
{
    struct rlimit l;

    if (getrlimit(which, &l) != 0)
        return doctor_complain(name, strerror(errno));
    if (l.rlim_cur == RLIM_INFINITY) {
        printf("%-18sno limit\n", name);
        return true;
    }
    printf("%-18s%llu\n", name, (unsigned long long)l.rlim_cur);
    return l.rlim_cur >= wanted || doctor_complain("low", fix);
}

static void print_facts(const struct machine *m)
{
    printf("CPUs              %u\n", m->n_cpus);
    printf("wake              %.1f us until a sleeping thread runs on another CPU\n",
           (double)m->wake_ns / 1e3);
    printf("round trip        %.1f us over a unix socket\n", (double)m->trip_ns / 1e3);
    printf("copy              %.1f GB/s\n", (double)m->copy_mb_per_s / 1e3);
    for (unsigned k = 0; k < STORE_COPY_CLASSES; k++) {
        size_t limit = store_copy_class_limit(k) >> 10;
        printf("%-18s%s, %u thread%s, ",
               k == 0 ? "copies by" : "",
               store_copy_routine_name(store_copy_routine_of(m->copy_plan, k)),
               store_copy_threads_of(m->copy_plan, k),
               store_copy_threads_of(m->copy_plan, k) == 1 ? "" : "s");
        printf(limit > 0 ? "up to %zu KiB\n" : "above that\n", limit);
    }
}

/* Kept facts, or new ones; the raylets started from now on use them too. */
static int get_facts(struct machine *m, const char *temp, bool again, struct err *err)
{
    struct err kept;

    if (!again && machine_load(m, temp, &kept) == 0)
        return 0;
    if (machine_measure(m, err) != 0)
        return -1;
    if (machine_store(m, temp, &kept) != 0)
        fprintf(stderr, "ray doctor: %s\n", kept.text);
    return 0;
}

int doctor_main(int argc, char **argv)
{
    bool again = false;
    const struct flag table[] = {FLAG_SETTING(ADDRESS),
                                 FLAG_SETTING(TEMP_DIR),
                                 {.name = "measure", .on = &again, .help = "measure again"},
                                 {.name = NULL}};
    const struct flags f = {
        .command = "ray doctor",
        .summary =
            "the facts of this machine and its cluster, and what would keep Ray from working",
        .notes = "A line with ! needs your hand, and the exit status is 1; a line with - may not.",
        .table = table};
    struct machine m;
    struct config c;
    struct err err;

    if (config_load(&c, &err) != 0)
        return flags_refuse(&f, "%s", err.text);
    int rc = flags_parse(&f, argc, argv, &c);
    if (rc != FLAGS_GO_ON)
        return rc;
    const char *temp = config_text(&c, CONFIG_TEMP_DIR);
    bool ok = check_temp(temp);
    if (get_facts(&m, temp, again, &err) == 0)
        print_facts(&m);
    else
        ok = doctor_complain("not measured", err.text);
    ok &= check_limit(RLIMIT_NOFILE, "open files", FILES_WANTED, "raise it with ulimit -n");
    ok &= check_limit(RLIMIT_NPROC, "processes", PROCESSES_WANTED, "raise it with ulimit -u");
    ok &= doctor_cluster(&c);
    return ok ? 0 : 1;
}
