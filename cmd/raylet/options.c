/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/raylet/options.h"

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION    "ray-c 0.1"
#define MEMORY_MIN (1ull << 20)
#define MEMORY_MAX (1ull << 46)

static void usage(FILE *out)
{
    fputs(
        "raylet: one machine's part of Ray; a program that calls ray_init starts its own, or\n"
        "  --standalone          serves all programs of this user that say RAY_ADDRESS=auto\n"
        "  --session-dir=DIR     the same, in this session folder\n"
        "  --gcs-address=HOST:PORT  the same, as a node of that gcs_server's cluster, with\n"
        "  --node-ip-address=IP, --node-name=NAME  this machine's (default: as the GCS reaches "
        "it)\n"
        "  --node-manager-port=N, --object-manager-port=N  for other nodes (default: any)\n"
        "  --labels=KEY=VALUE,... of this node, for lists\n"
        "  --head                it is the cluster's head\n"
        "  --ready-fd=N          its folder and a newline are written here when programs may come\n"
        "  --driver-fd=N         socket to the driver\n"
        "  --executable-fd=N     the driver's executable, run as workers\n"
        "  --driver-pid=N        the raylet ends with this process; these three with "
        "--gcs-address:\n"
        "                        a driver's node, which runs no task and which nobody dials, and\n"
        "  --gcs-timeout-ms=N    it ends unless it has joined by then (10000)\n"
        "  --num-cpus=N          CPUs to lend (default: this machine's)\n"
        "  --resource=NAME:N     a custom resource, in 1/10000\n"
        "  --object-store-memory=BYTES  shared memory for objects (default: 30 % of what is free)\n"
        "  --temp-dir=DIR        session folders go here (default: RAY_TMPDIR, else /tmp/ray)\n"
        "  --no-log-to-driver    prints of tasks stay in their files\n"
        "  --developer           allows the options for tests:\n"
        "  --dev-max-channels=N  direct channels of one process (default: 128)\n"
        "  --measure             measure this machine for all raylets, and end\n"
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

/* What the driver must say: name, smallest, largest, where it goes. */
static int set_number(struct node_config *c, int option, const char *value)
{
    const struct {
        char option;
        const char *what;
        long min, max;
        int *to;
    } numbers[] = {{'d', "--driver-fd: not a descriptor:", 0, 1 << 20, &c->driver_fd},
                   {'e', "--executable-fd: not a descriptor:", 0, 1 << 20, &c->executable_fd},
                   {'p', "--driver-pid: not a process:", 1, INT32_MAX, &c->driver_pid},
                   {'R', "--ready-fd: not a descriptor:", 0, 1 << 20, &c->ready_fd},
                   {'c', "--num-cpus must be 0 or more, not", 0, 100000, &c->num_cpus},
                   {'T', "--gcs-timeout-ms: not a time:", 1, 3600000, &c->gcs_timeout_ms},
                   {'P', "--node-manager-port: not a port:", 0, 65535, &c->node_port},
                   {'O', "--object-manager-port: not a port:", 0, 65535, &c->object_port},
                   {'x', "--dev-max-channels must be 1 or more, not", 1, 1024, &c->max_channels}};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i].option == option
            && !number(value, numbers[i].min, numbers[i].max, numbers[i].to))
            return bad(numbers[i].what, value);
    return 0;
}

static int set_bytes(struct node_config *c, const char *value)
{
    char *end;
    unsigned long long v = strtoull(value, &end, 10);

    if (*value < '0' || *value > '9' || *end != '\0' || v < MEMORY_MIN || v > MEMORY_MAX)
        return bad("--object-store-memory must be 1048576 (1 MiB) to 2^46 bytes, not", value);
    c->object_store_memory = v;
    return 0;
}

int options_parse(int argc, char **argv, struct node_config *c, bool *measuring)
{
    static const struct option options[] = {{"driver-fd", 1, NULL, 'd'},
                                            {"executable-fd", 1, NULL, 'e'},
                                            {"driver-pid", 1, NULL, 'p'},
                                            {"standalone", 0, NULL, 's'},
                                            {"session-dir", 1, NULL, 'S'},
                                            {"gcs-address", 1, NULL, 'g'},
                                            {"gcs-timeout-ms", 1, NULL, 'T'},
                                            {"node-ip-address", 1, NULL, 'i'},
                                            {"node-name", 1, NULL, 'N'},
                                            {"node-manager-port", 1, NULL, 'P'},
                                            {"object-manager-port", 1, NULL, 'O'},
                                            {"labels", 1, NULL, 'L'},
                                            {"head", 0, NULL, 'H'},
                                            {"ready-fd", 1, NULL, 'R'},
                                            {"num-cpus", 1, NULL, 'c'},
                                            {"resource", 1, NULL, 'r'},
                                            {"object-store-memory", 1, NULL, 'o'},
                                            {"temp-dir", 1, NULL, 't'},
                                            {"no-log-to-driver", 0, NULL, 'n'},
                                            {"developer", 0, NULL, 'D'},
                                            {"dev-max-channels", 1, NULL, 'x'},
                                            {"measure", 0, NULL, 'm'},
                                            {"version", 0, NULL, 'v'},
                                            {"help", 0, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    bool developer = false, standalone = false;
    int o, rc = 0;

    while (rc == 0 && (o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == '?')
            return 2;
        if (o == 'h')
            usage(stdout);
        if (o == 'v')
            puts(VERSION);
        if (o == 'h' || o == 'v')
            return -1;
        if (o == 'S')
            c->session_dir = optarg;
        if (o == 'g')
            c->gcs_address = optarg;
        if (o == 't')
            c->temp_dir = optarg;
        else if (o == 'i')
            c->node_ip = optarg;
        else if (o == 'N')
            c->node_name = optarg;
        else if (o == 'L')
            c->labels = optarg;
        else if (o == 'H')
            c->is_head = true;
        else if (o == 'o')
            rc = set_bytes(c, optarg);
        else if (o == 'n')
            c->log_to_driver = false;
        else if (o == 'D')
            developer = true;
        else if (o == 's' || o == 'S')
            standalone = true;
        else if (o == 'g')
            continue;
        else if (o == 'm')
            *measuring = true;
        else
            rc = o == 'r' ? add_resource(c, optarg) : set_number(c, o, optarg);
    }
    if (rc != 0 || *measuring)
        return rc;
    if (optind < argc)
        return bad("unexpected argument", argv[optind]);
    if (c->max_channels > 0 && !developer)
        return bad("--dev-max-channels needs", "--developer");
    bool is_for_driver = c->driver_fd >= 0 || c->executable_fd >= 0 || c->driver_pid > 0;
    if (standalone && is_for_driver)
        return bad("--standalone and --session-dir mean no driver, but there is",
                   "--driver-fd, --executable-fd or --driver-pid");
    if (is_for_driver && c->gcs_address != NULL
        && (c->is_head || c->labels != NULL || c->node_port > 0 || c->object_port > 0))
        return bad("a driver's node has no ports, labels or head:", "leave them out");
    if (c->gcs_timeout_ms > 0 && !(is_for_driver && c->gcs_address != NULL))
        return bad("--gcs-timeout-ms is of a driver's node, which needs",
                   "--gcs-address and --driver-fd");
    if (c->gcs_address == NULL
        && (c->node_ip != NULL || c->node_name != NULL || c->labels != NULL || c->is_head
            || c->node_port > 0 || c->object_port > 0))
        return bad("what other nodes see of this one needs", "--gcs-address");
    if (c->session_dir != NULL && c->temp_dir != NULL)
        return bad("--session-dir says where, leave out", "--temp-dir");
    if (standalone || (c->gcs_address != NULL && !is_for_driver))
        return 0;
    if (c->gcs_address != NULL) {
        c->num_cpus = 0;
        c->gcs_timeout_ms = c->gcs_timeout_ms > 0 ? c->gcs_timeout_ms : 10000;
    }
    if (c->driver_fd < 0 || c->executable_fd < 0 || c->driver_pid <= 0)
        return bad("--driver-fd, --executable-fd and --driver-pid are needed:",
                   "a program's ray_init gives them");
    return 0;
}
