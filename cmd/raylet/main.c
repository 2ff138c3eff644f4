/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "cmd/raylet/options.h"
#include "lib/base/config.h"
#include "raylet/machine.h"
#include "raylet/node.h"

/* At the lowest priority: nobody waits for it. */
static int measure(const struct node_config *c)
{
    struct machine m;
    struct err err;

    if (nice(19) == -1)
        fputs("raylet: measuring at normal priority\n", stderr);
    if (c->temp_dir != NULL && machine_measure(&m, &err) == 0
        && machine_store(&m, c->temp_dir, &err) == 0)
        return 0;
    fprintf(stderr, "raylet: --measure: %s\n", c->temp_dir != NULL ? err.text : "needs --temp-dir");
    return 2;
}

/* What the environment says; `ray start` has looked at it before. */
static int read_settings(struct node_config *c, struct err *err)
{
    struct config settings = {0};

    if (config_load_one(&settings, CONFIG_DEAD_WORKERS, err) != 0
        || config_load_one(&settings, CONFIG_ROTATION_MAX_BYTES, err) != 0
        || config_load_one(&settings, CONFIG_ROTATION_BACKUPS, err) != 0)
        return -1;
    c->log_max_bytes = (uint64_t)config_number(&settings, CONFIG_ROTATION_MAX_BYTES, 0);
    c->log_backups = (unsigned)config_number(&settings, CONFIG_ROTATION_BACKUPS, 0);
    c->dead_workers = (size_t)config_number(&settings, CONFIG_DEAD_WORKERS, 0);
    return 0;
}

int main(int argc, char **argv)
{
    struct node_config config = {.driver_fd = -1,
                                 .executable_fd = -1,
                                 .ready_fd = -1,
                                 .log_to_driver = true};
    bool measuring = false;
    struct err err;

    resources_init(&config.custom, 0);
    config.num_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int rc = options_parse(argc, argv, &config, &measuring);
    if (rc != 0)
        return rc < 0 ? 0 : rc;
    if (measuring)
        return measure(&config);
    if (read_settings(&config, &err) != 0) {
        fprintf(stderr, "raylet: %s\n", err.text);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* at a limit of file sizes: an error, and a sentence */
    if (config.executable_fd >= 0)
        fcntl(config.executable_fd, F_SETFD, FD_CLOEXEC);
    if (config.ready_fd >= 0)
        fcntl(config.ready_fd, F_SETFD, FD_CLOEXEC);
    struct loop *loop = loop_create(&err);
    struct node *node = loop != NULL ? node_create(loop, &config, &err) : NULL;
    if (node == NULL) {
        if (loop == NULL || config.driver_fd < 0) /* else its driver was told */
            fprintf(stderr, "raylet: %s\n", err.text);
        loop_destroy(loop);
        return 1;
    }
    loop_run(loop, node_turn_end, node);
    loop_block_signals();
    const char *why;
    int status = node_status(node, &why);
    if (status != 0 && config.driver_fd < 0) /* else its driver was told */
        fprintf(stderr, "raylet: %s\n", why);
    node_destroy(node);
    loop_destroy(loop);
    return status;
}
