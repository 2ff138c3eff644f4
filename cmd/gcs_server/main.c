/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gcs/server.h"
#include "lib/base/config.h"
#include "lib/base/log.h"

#define VERSION         "gcs_server 0.1"
#define STATUS_REPLACED 3 /* another GCS serves this cluster now: do not start this again */

struct context {
    struct loop *loop;
    struct gcs_server *server;
    int ready_fd;
    int status;
    bool is_serving;
    const char *log_file; /* NULL: standard error */
};

static void usage(FILE *out)
{
    fputs("gcs_server: the tables of a cluster, on gRPC; `ray start --head` starts it\n"
          "  --address=IP:PORT     where it listens; port 0: any (127.0.0.1:6379)\n"
          "  --redis=ADDRESS       HOST:PORT or the path of a socket, where its rows are kept\n"
          "  --redis-username=NAME with RAY_REDIS_PASSWORD in the environment\n"
          "  --namespace=NAME      the cluster's part of that Redis (default)\n"
          "  --memory              rows end with the process; instead of --redis\n"
          "  --held-bytes=N        changes that may wait for a Redis that is away (67108864)\n"
          "  --patience-ms=N       when no other machine is heard of, nodes are declared dead so "
          "much\n"
          "                        later: it may be this one that is cut off (60000)\n"
          "  --subscriber-bytes=N  news that may wait for one subscriber, then the oldest go "
          "(16777216)\n"
          "  --subscriber-timeout-ms=N  without a poll a subscriber is forgotten (300000)\n"
          "  --dead-nodes=N        so many are remembered, older ones are forgotten (1000)\n"
          "  --driver-silence-ms=N  a driver on a machine without a node is dead after (30000)\n"
          "  --log-file=FILE       where lines go (standard error), rotated by "
          "RAY_ROTATION_MAX_BYTES\n"
          "                        and RAY_ROTATION_BACKUP_COUNT\n"
          "  --ready-fd=N          say there when it serves: \"ready PORT CLUSTER INCARNATION\"\n"
          "  --version, --help\n"
          "The token is RAY_AUTH_TOKEN, or in the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.\n",
          out);
}

/* 0: go on; -1: all was said; else the exit status. */
static int parse(int argc, char **argv, struct gcs_server_config *c, struct context *x)
{
    static const struct option options[] = {
        {"address", required_argument, NULL, 'a'},
        {"redis", required_argument, NULL, 'r'},
        {"redis-username", required_argument, NULL, 'u'},
        {"namespace", required_argument, NULL, 'n'},
        {"memory", no_argument, NULL, 'm'},
        {"held-bytes", required_argument, NULL, 'b'},
        {"patience-ms", required_argument, NULL, 'p'},
        {"subscriber-bytes", required_argument, NULL, 's'},
        {"subscriber-timeout-ms", required_argument, NULL, 't'},
        {"dead-nodes", required_argument, NULL, 'd'},
        {"driver-silence-ms", required_argument, NULL, 'D'},
        {"log-file", required_argument, NULL, 'l'},
        {"ready-fd", required_argument, NULL, 'f'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool in_memory = false;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end = NULL;
        switch (o) {
        case 'a':
            c->address = optarg;
            break;
        case 'r':
            c->redis = optarg;
            break;
        case 'u':
            c->redis_username = optarg;
            break;
        case 'n':
            c->ns = optarg;
            break;
        case 'm':
            in_memory = true;
            break;
        case 'b':
            c->held_bytes = strtoull(optarg, &end, 10);
            break;
        case 'p':
            c->patience_ms = strtoull(optarg, &end, 10);
            break;
        case 's':
            c->subscriber_bytes = strtoull(optarg, &end, 10);
            break;
        case 't':
            c->subscriber_timeout_ms = strtoul(optarg, &end, 10);
            break;
        case 'd':
            c->dead_nodes = strtoull(optarg, &end, 10);
            break;
        case 'D':
            c->driver_silence_ms = strtoull(optarg, &end, 10);
            break;
        case 'l':
            x->log_file = optarg;
            break;
        case 'f':
            x->ready_fd = (int)strtol(optarg, &end, 10);
            break;
        case 'v':
            puts(VERSION);
            return -1;
        case 'h':
            usage(stdout);
            return -1;
        default:
            usage(stderr);
            return 2;
        }
        if (end != NULL && (end == optarg || *end != '\0')) {
            fprintf(stderr, "gcs_server: a number is wanted, not \"%s\"\n", optarg);
            return 2;
        }
    }
    if (c->subscriber_bytes == 0 || c->subscriber_timeout_ms < 100
        || c->subscriber_timeout_ms > 86400000) {
        fprintf(stderr,
                "gcs_server: --subscriber-bytes is at least 1, --subscriber-timeout-ms 100 to "
                "86400000\n");
        return 2;
    }
    if (optind < argc || in_memory == (c->redis != NULL)) {
        fprintf(stderr, "gcs_server: say either --redis=ADDRESS or --memory; see --help\n");
        return 2;
    }
    return 0;
}

/* Limits as the environment says; `ray start` has looked at it before. */
static int open_log(const char *path, struct err *err)
{
    struct config c = {0};

    if (config_load_one(&c, CONFIG_ROTATION_MAX_BYTES, err) != 0
        || config_load_one(&c, CONFIG_ROTATION_BACKUPS, err) != 0)
        return -1;
    return log_open(path,
                    (uint64_t)config_number(&c, CONFIG_ROTATION_MAX_BYTES, 0),
                    (unsigned)config_number(&c, CONFIG_ROTATION_BACKUPS, 0),
                    err);
}

static void on_ready(void *arg, int port, const char *cluster, uint64_t incarnation)
{
    struct context *x = arg;

    x->is_serving = true;
    if (x->ready_fd < 0)
        return;
    dprintf(x->ready_fd, "ready %d %s %" PRIu64 "\n", port, cluster, incarnation);
    close(x->ready_fd);
    x->ready_fd = -1;
}

static void on_end(void *arg, const char *why)
{
    struct context *x = arg;

    fprintf(stderr, "gcs_server: %s\n", why);
    x->status = x->is_serving ? STATUS_REPLACED : 1;
    loop_stop(x->loop);
}

static void on_signal(void *arg, bool readable, bool writable)
{
    struct context *x = arg;

    (void)readable;
    (void)writable;
    loop_stop(x->loop);
}

static void turn_end(void *arg)
{
    struct context *x = arg;

    gcs_server_run(x->server);
}

int main(int argc, char **argv)
{
    struct context x = {.ready_fd = -1};
    struct gcs_server_config config = {.address = "127.0.0.1:6379",
                                       .ns = "default",
                                       .held_bytes = 64u << 20,
                                       .patience_ms = 60000,
                                       .subscriber_bytes = 16u << 20,
                                       .subscriber_timeout_ms = 300000,
                                       .dead_nodes = 1000,
                                       .redis_password = getenv("RAY_REDIS_PASSWORD"),
                                       .on_ready = on_ready,
                                       .on_end = on_end,
                                       .arg = &x};
    struct auth_token token;
    struct err err;

    int rc = parse(argc, argv, &config, &x);
    if (rc != 0)
        return rc < 0 ? 0 : rc;
    signal(SIGPIPE, SIG_IGN);
    config.token = &token;
    if (auth_token_load(&token, &err) != 0
        || (x.log_file != NULL && open_log(x.log_file, &err) != 0)) {
        fprintf(stderr, "gcs_server: %s\n", err.text);
        return 2;
    }
    config.loop = x.loop = loop_create(&err);
    x.server = x.loop != NULL ? gcs_server_create(&config, &err) : NULL;
    if (x.server == NULL) {
        fprintf(stderr, "gcs_server: %s\n", err.text);
        loop_destroy(x.loop);
        return 1;
    }
    struct loop_watch *term = loop_on_signal(x.loop, SIGTERM, on_signal, &x);
    struct loop_watch *interrupt = loop_on_signal(x.loop, SIGINT, on_signal, &x);
    loop_run(x.loop, turn_end, &x);
    loop_block_signals();
    log_info("gcs", "end", "status=%d", x.status);
    loop_unwatch(term);
    loop_unwatch(interrupt);
    gcs_server_destroy(x.server);
    loop_destroy(x.loop);
    return x.status;
}
