/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes are found by their locked pid files and waited for by pidfds, never by the names of
 * processes. A pidfd that was opened while the lock was held is the supervisor's.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cmd/ray/commands.h"
#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "lib/base/flags.h"
#include "lib/base/process_stat.h"
#include "raylet/node_file.h"
#include "raylet/session.h"

#define DEAD_MS 5000 /* until what was killed is gone */

struct watched {
    int pid, pidfd;
};

struct stopping {
    struct node_file node;
    int pidfd;
    struct watched *below; /* its descendants, of --force */
    size_t n_below;
};

/* -1: it has ended meanwhile. */
static int open_supervisor(const struct node_file *n)
{
    int fd = (int)syscall(SYS_pidfd_open, n->supervisor_pid, 0);

    if (fd >= 0 && session_pid(n->session_dir, SESSION_SUPERVISOR) != n->supervisor_pid) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool wait_end(int pidfd, int timeout_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    uint64_t end_ns = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    int rc;

    do {
        uint64_t now = clock_now_ns();
        rc = poll(&p, 1, now < end_ns ? (int)((end_ns - now) / 1000000) + 1 : 0);
    } while (rc < 0 && errno == EINTR);
    return rc > 0;
}

/* --- force --- */

static bool is_below(const struct stopping *s, int pid)
{
    for (size_t i = 0; i < s->n_below; i++)
        if (s->below[i].pid == pid)
            return true;
    return pid == s->node.supervisor_pid;
}

/* Whoever has one of them as parent, until there is nobody new. Its parent is looked at again with
 * the pidfd in hand: so it is that process and no later one with its number. */
static void find_below(struct stopping *s)
{
    bool found = true;

    while (found) {
        DIR *d = opendir("/proc");
        const struct dirent *e;
        found = false;
        while (d != NULL && (e = readdir(d)) != NULL) {
            int pid = (int)strtol(e->d_name, NULL, 10);
            if (pid <= 0 || is_below(s, pid) || !is_below(s, process_parent(pid, NULL)))
                continue;
            int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
            if (pidfd < 0)
                continue;
            if (!is_below(s, process_parent(pid, NULL))) {
                close(pidfd);
                continue;
            }
            s->below = xrealloc(s->below, (s->n_below + 1) * sizeof *s->below);
            s->below[s->n_below++] = (struct watched){pid, pidfd};
            found = true;
        }
        if (d != NULL)
            closedir(d);
    }
}

/* A stopped supervisor starts nothing: its parts are killed with it, and what they leave is waited
 * for, since zygotes end their workers themselves. */
static void kill_node(struct stopping *s)
{
    syscall(SYS_pidfd_send_signal, s->pidfd, SIGSTOP, NULL, 0);
    find_below(s);
    for (size_t i = 0; i < s->n_below; i++)
        if (process_parent(s->below[i].pid, NULL) == s->node.supervisor_pid)
            syscall(SYS_pidfd_send_signal, s->below[i].pidfd, SIGKILL, NULL, 0);
    syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
}

static bool wait_killed(struct stopping *s)
{
    bool all = wait_end(s->pidfd, DEAD_MS);

    for (size_t i = 0; i < s->n_below; i++) {
        if (!wait_end(s->below[i].pidfd, DEAD_MS)) {
            syscall(SYS_pidfd_send_signal, s->below[i].pidfd, SIGKILL, NULL, 0);
            all = wait_end(s->below[i].pidfd, DEAD_MS) && all;
        }
        close(s->below[i].pidfd);
    }
    free(s->below);
    node_file_tidy(s->node.session_dir);
    return all;
}

/* --- all --- */

/* Asked or killed before; who does not end within the grace period is killed. */
static bool stop_one(struct stopping *s, bool force, uint64_t grace_end_ns)
{
    uint64_t now = clock_now_ns();
    int grace_ms = now < grace_end_ns ? (int)((grace_end_ns - now) / 1000000) + 1 : 0;

    bool ended = !force && wait_end(s->pidfd, grace_ms);
    if (!ended && !force)
        kill_node(s);
    if (!ended)
        ended = wait_killed(s);
    if (!ended)
        fprintf(stderr,
                "ray stop: something of the node in %s (supervisor %d) does not end, not even "
                "killed\n",
                s->node.session_dir,
                s->node.supervisor_pid);
    close(s->pidfd);
    return ended;
}

static int stop_all(const char *temp, const char *address, bool force, int grace_ms)
{
    size_t n;
    struct node_file *nodes = node_file_list(temp, &n);
    struct stopping *all = xcalloc(n + 1, sizeof *all);
    uint64_t grace_end_ns = clock_now_ns() + (uint64_t)grace_ms * 1000000u;
    size_t m = 0, n_ended = 0;

    for (size_t i = 0; i < n; i++) {
        if (address[0] != '\0' && strcmp(nodes[i].gcs_address, address) != 0)
            continue;
        all[m] = (struct stopping){.node = nodes[i], .pidfd = open_supervisor(&nodes[i])};
        if (all[m].pidfd < 0)
            continue;
        if (force)
            kill_node(&all[m]);
        else
            syscall(SYS_pidfd_send_signal, all[m].pidfd, SIGTERM, NULL, 0);
        m++;
    }
    for (size_t i = 0; i < m; i++)
        n_ended += stop_one(&all[i], force, grace_end_ns);
    free(all);
    free(nodes);
    if (m == 0)
        printf("No node of yours%s%s runs here (looked in %s).\n",
               address[0] != '\0' ? " at " : "",
               address,
               temp);
    else
        printf("Stopped %zu of %zu node%s.\n", n_ended, m, m == 1 ? "" : "s");
    return n_ended == m ? 0 : 1;
}

int stop_main(int argc, char **argv)
{
    bool force = false;
    const char *grace = "16";
    const struct flag table[] = {
        {.name = "force", .letter = 'f', .on = &force, .help = "kill them"},
        {.name = "grace-period",
         .letter = 'g',
         .text = &grace,
         .unit = "SECONDS",
         .help = "until who has not ended is killed (16)"},
        FLAG_SETTING(ADDRESS),
        FLAG_SETTING(TEMP_DIR),
        {.name = NULL},
    };
    const struct flags f = {.command = "ray stop",
                            .summary = "end the nodes of this user on this machine; --address: "
                                       "those of one cluster",
                            .table = table};
    struct config c;
    struct err err;
    char *end;

    if (config_load(&c, &err) != 0)
        return flags_refuse(&f, "%s", err.text);
    int rc = flags_parse(&f, argc, argv, &c);
    if (rc != FLAGS_GO_ON)
        return rc;
    long seconds = strtol(grace, &end, 10);
    if (grace[0] < '0' || grace[0] > '9' || *end != '\0' || seconds > 3600)
        return flags_refuse(&f, "--grace-period must be 0 to 3600 seconds, not %.40s", grace);
    const char *address =
        c.v[CONFIG_ADDRESS].source == CONFIG_FLAG ? config_text(&c, CONFIG_ADDRESS) : "";
    return stop_all(config_text(&c, CONFIG_TEMP_DIR), address, force, (int)seconds * 1000);
}
