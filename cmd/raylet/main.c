/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "raylet/node.h"

#define VERSION "ray-c 0.1"

static void usage(FILE *out)
{
    fputs("raylet: one machine's part of Ray; a program that calls ray_init starts it\n"
          "  --driver-fd=N         socket to the driver\n"
          "  --executable-fd=N     the driver's executable, run as workers\n"
          "  --driver-pid=N        the raylet ends with this process\n"
          "  --num-cpus=N          CPUs to lend (default: this machine's)\n"
          "  --resource=NAME:N     a custom resource, in 1/10000\n"
          "  --temp-dir=DIR        session folders go here (default: RAY_TMPDIR, else /tmp/ray)\n"
          "  --no-log-to-driver    prints of tasks stay in their files\n"
          "  --version, --help\n",
          out);
}

static int bad(const char *what, const char *value)
{
    fprintf(stderr, "raylet: %s %s; see raylet --help\n", what, value);
    return 2;
}

static bool number(const char *s, long min, long max, int *out)
{
    char *end;
    long v = strtol(s, &end, 10);

    if (*s == '\0' || *end != '\0' || v < min || v > max)
        return false;
    *out = (int)v;
    return true;
}

static int add_resource(struct node_config *c, char *arg)
{
    char *colon = strrchr(arg, ':'), *end;
    struct err err;

    if (colon == NULL)
        return bad("--resource needs NAME:AMOUNT, not", arg);
    *colon = '\0';
    long long units = strtoll(colon + 1, &end, 10);
    if (colon[1] == '\0' || *end != '\0')
        return bad("--resource: not a number:", colon + 1);
    return resources_add(&c->custom, arg, units, &err) == 0 ? 0 : bad("--resource:", err.text);
}

static int parse(int argc, char **argv, struct node_config *c)
{
    static const struct option options[] = {{"driver-fd", 1, NULL, 'd'},
                                            {"executable-fd", 1, NULL, 'e'},
                                            {"driver-pid", 1, NULL, 'p'},
                                            {"num-cpus", 1, NULL, 'c'},
                                            {"resource", 1, NULL, 'r'},
                                            {"temp-dir", 1, NULL, 't'},
                                            {"no-log-to-driver", 0, NULL, 'n'},
                                            {"version", 0, NULL, 'v'},
                                            {"help", 0, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int o, rc;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 'd':
            if (!number(optarg, 0, 1 << 20, &c->driver_fd))
                return bad("--driver-fd: not a descriptor:", optarg);
            break;
        case 'e':
            if (!number(optarg, 0, 1 << 20, &c->executable_fd))
                return bad("--executable-fd: not a descriptor:", optarg);
            break;
        case 'p':
            if (!number(optarg, 1, INT32_MAX, &c->driver_pid))
                return bad("--driver-pid: not a process:", optarg);
            break;
        case 'c':
            if (!number(optarg, 1, 100000, &c->num_cpus))
                return bad("--num-cpus must be 1 or more, not", optarg);
            break;
        case 'r':
            rc = add_resource(c, optarg);
            if (rc != 0)
                return rc;
            break;
        case 't':
            c->temp_dir = optarg;
            break;
        case 'n':
            c->log_to_driver = false;
            break;
        case 'v':
            puts(VERSION);
            return -1;
        case 'h':
            usage(stdout);
            return -1;
        default:
            return 2;
        }
    }
    if (optind < argc)
        return bad("unexpected argument", argv[optind]);
    if (c->driver_fd < 0 || c->executable_fd < 0 || c->driver_pid <= 0)
        return bad("--driver-fd, --executable-fd and --driver-pid are needed:",
                   "a program's ray_init gives them");
    return 0;
}

int main(int argc, char **argv)
{
    struct node_config config = {.driver_fd = -1, .executable_fd = -1, .log_to_driver = true};
    struct err err;

    resources_init(&config.custom, 0);
    config.num_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int rc = parse(argc, argv, &config);
    if (rc != 0)
        return rc < 0 ? 0 : rc;
    signal(SIGPIPE, SIG_IGN);
    fcntl(config.executable_fd, F_SETFD, FD_CLOEXEC);
    struct loop *loop = loop_create(&err);
    struct node *node = loop != NULL ? node_create(loop, &config, &err) : NULL;
    if (node == NULL) {
        fprintf(stderr, "raylet: %s\n", err.text);
        loop_destroy(loop);
        return 1;
    }
    loop_run(loop, node_turn_end, node);
    node_destroy(node);
    loop_destroy(loop);
    return 0;
}
