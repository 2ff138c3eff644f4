/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's facts, off the critical path: when nothing was measured since the last boot, a
 * process of this executable measures as soon as the machine has been idle for a while. Looked for
 * less and less often: a machine that is never idle is left alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "raylet/node_private.h"

#define LOOK_MS      1000 /* the first time; doubles up to LOOK_MAX_MS */
#define LOOK_MAX_MS  64000
#define IDLE_PERCENT 80 /* of the machine, to measure it */

/* Percent of the time since the last call in which no process ran, by /proc/stat. */
static unsigned idle_percent(struct node *n)
{
    unsigned long long v[8] = {0};
    uint64_t now[2] = {0, 0};
    char text[256] = "";
    int fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        text[0] = '\0';
    if (fd >= 0)
        close(fd);
    if (sscanf(text,
               "cpu %llu %llu %llu %llu %llu %llu %llu %llu",
               &v[0],
               &v[1],
               &v[2],
               &v[3],
               &v[4],
               &v[5],
               &v[6],
               &v[7])
        != 8)
        return 0;
    now[0] = v[3] + v[4];
    for (int i = 0; i < 8; i++)
        now[1] += v[i];
    uint64_t idle = now[0] - n->idle_total[0], all = now[1] - n->idle_total[1];
    memcpy(n->idle_total, now, sizeof now);
    return all == 0 ? 0 : (unsigned)(100 * idle / all);
}

static void stop_watching(struct node *n)
{
    loop_unwatch(n->measuring_watch);
    n->measuring_watch = NULL;
    if (n->measuring_pidfd >= 0)
        close(n->measuring_pidfd);
    n->measuring_pidfd = -1;
}

static void on_measured(void *arg, bool readable, bool writable)
{
    struct node *n = arg;
    struct err err;

    (void)readable;
    (void)writable;
    stop_watching(n);
    while (waitpid(n->measuring, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (machine_load(&n->machine, n->session.temp, &err) != 0)
        log_warn("machine", "not_measured", "msg=\"%s\"", err.text);
    store_run_on_measured(n);
}

static void measure(struct node *n)
{
    char temp[128];
    char *argv[] = {(char *)"raylet", (char *)"--measure", temp, NULL};

    snprintf(temp, sizeof temp, "--temp-dir=%s", n->session.temp);
    if (posix_spawn(&n->measuring, "/proc/self/exe", NULL, NULL, argv, environ) != 0)
        return; /* the next raylet may have more luck */
    n->measuring_pidfd = (int)syscall(SYS_pidfd_open, n->measuring, 0);
    if (n->measuring_pidfd >= 0) /* else it is reaped at the end */
        n->measuring_watch = loop_watch_fd(n->loop, n->measuring_pidfd, on_measured, n);
}

static void on_look(void *arg)
{
    struct node *n = arg;

    if (idle_percent(n) >= IDLE_PERCENT) {
        measure(n);
        return;
    }
    n->look_ms = n->look_ms < LOOK_MAX_MS ? 2 * n->look_ms : LOOK_MAX_MS;
    loop_timer_again(n->look, n->look_ms);
}

void machine_run_init(struct node *n)
{
    n->measuring_pidfd = -1;
    if (machine_load(&n->machine, n->session.temp, NULL) == 0)
        return;
    idle_percent(n); /* the start of what is looked at first */
    n->look_ms = LOOK_MS;
    n->look = loop_after(n->loop, n->look_ms, on_look, n);
}

void machine_run_fini(struct node *n)
{
    stop_watching(n); /* the process itself is swept with all others */
    loop_timer_end(n->look);
}
