/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cmd/ray/commands.h"
#include "cmd/ray/doctor.h"
#include "cmd/ray/memory.h"
#include "lib/base/flags.h"

static const struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"start",
     "start a node: of a new cluster (--head), or of one that is there (--address)",
     start_main},
    {"stop", "end this user's nodes on this machine", stop_main},
    {"status", "the nodes of a cluster, and what they have", status_main},
    {"list", "nodes, workers or jobs", list_main},
    {"why", "what waits in the cluster, or one task or object, and for what", why_main},
    {"health-check", "does the cluster answer? by the exit status", health_check_main},
    {"memory", "the object refs of this machine's cluster, who holds them, and why", memory_main},
    {"get-auth-token", "print the cluster's token", get_auth_token_main},
    {"config", "settings, and where each comes from", config_main},
    {"doctor",
     "the facts of this machine and its cluster, and what would keep Ray from working",
     doctor_main},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* Ray's, and what there is instead. */
static const struct {
    const char *name, *instead;
} missing[] = {
    {"attach", NULL},
    {"check-open-ports", "ray doctor tries the ports of all nodes"},
    {"cluster-dump", NULL},
    {"cpp", NULL},
    {"dashboard", NULL},
    {"debug", NULL},
    {"disable-usage-stats", "nothing is reported to anybody"},
    {"down", "ray stop, on each machine, ends a cluster"},
    {"drain-node", NULL},
    {"enable-usage-stats", "nothing is reported to anybody"},
    {"exec", NULL},
    {"get", "ray list --filter KEY=VALUE --detail shows one row"},
    {"get-head-ip", NULL},
    {"get-worker-ips", "ray list nodes has them"},
    {"global-gc", "what nobody refers to is freed at once"},
    {"job", "ray list jobs shows them; a job is a program that you run"},
    {"kill-actor", NULL},
    {"kill-random-node", NULL},
    {"kuberay-autoscaler", NULL},
    {"local-dump", NULL},
    {"logs", "they are in logs/ of the session folders below /tmp/ray, on each machine"},
    {"metrics", NULL},
    {"microbenchmark", "make bench, in the sources, measures each hot path"},
    {"monitor", NULL},
    {"rsync-down", NULL},
    {"rsync-up", NULL},
    {"serve", NULL},
    {"stack", NULL},
    {"submit", "a job is a program that you run, with RAY_ADDRESS=HOST:PORT"},
    {"summary", "ray why tells what waits, ray memory what refs there are"},
    {"symmetric-run", NULL},
    {"timeline", NULL},
    {"up", "ray start, on each machine, makes a cluster"},
};

static void usage(FILE *out)
{
    fputs("ray: clusters, and programs on them\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  ray %-16s %s\n", commands[i].name, commands[i].help);
    fputs("  ray COMMAND --help\n"
          "  ray --version\n"
          "  ray --help\n",
          out);
}

static int refuse(const char *word)
{
    const char *names[N_COMMANDS + 1], *near;

    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
        if (strcmp(word, missing[i].name) == 0) {
            fprintf(stderr,
                    "ray: this release has no %s%s%s; see ray --help\n",
                    word,
                    missing[i].instead != NULL ? ": " : "",
                    missing[i].instead != NULL ? missing[i].instead : "");
            return 2;
        }
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    names[N_COMMANDS] = NULL;
    near = flags_nearest(word, names);
    fprintf(stderr, "ray: there is no command %.100s", word);
    if (near != NULL)
        fprintf(stderr, "; did you mean ray %s?\n", near);
    else
        fputs("; see ray --help\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";

    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(word, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (strcmp(word, "unregister") == 0)
        return unregister_main(argc - 1, argv + 1);
    if (strcmp(word, "--version") == 0 && argc == 2) {
        puts(COMMAND_VERSION);
        return 0;
    }
    if (strcmp(word, "--help") == 0 && argc == 2) {
        usage(stdout);
        return 0;
    }
    if (argc > 1)
        return refuse(word);
    usage(stderr);
    return 2;
}
