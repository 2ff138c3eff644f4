/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the cluster's news cost: 200 nodes' clients of one gcs_server that all change what they have
 * all the time; bytes on their sockets, beside the packed views that all of them would need.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gcs/client.h"
#include "gcs/node_view_codec.h"
#include "lib/base/auth_token.h"
#include "lib/net/rpc_bridge.h"
#include "tests/bench/bench.h"

#define NODES     200
#define PARTS     5 /* of the nodes, in turn: each node changes twice a second */
#define CHANGE_MS 100

struct sync_node {
    struct gcs_client *client;
    unsigned n_changes;
    uint64_t n_news;
};

static struct sync_node nodes[NODES];
static struct loop *loop;
static unsigned n_registered, phase;
static uint64_t measure_ms, from_ms, bytes_before, news_before, cpu_before;
static size_t view_size;
static pid_t gcs;
static double bytes_per_s, news_per_s, cpu;

static void hold_nothing(void *arg, struct held *out)
{
    (void)arg;
    (void)out;
}

static void on_node(void *arg, const struct node_view *v)
{
    ((struct sync_node *)arg)->n_news++;
    if (from_ms > 0 && view_size == 0)
        free(node_view_pack(v, &view_size));
}

static void fill_self(void *arg, struct node_view *self)
{
    const struct sync_node *n = arg;

    self->n_resources = 3;
    self->resources[0] = (struct node_view_resource){"CPU", 640000, 10000 * (n->n_changes % 64)};
    self->resources[1] = (struct node_view_resource){"memory", 1ll << 40, 1ll << 39};
    self->resources[2] = (struct node_view_resource){"object_store_memory", 1ll << 39, 1ll << 38};
}

static void on_refused(void *arg, const struct err *err)
{
    (void)arg;
    fprintf(stderr, "bench: a node is refused: %s\n", err->text);
    abort();
}

static void on_registered(void *arg, enum err_code code, uint32_t number)
{
    (void)arg;
    (void)number;
    if (code != ERR_NONE)
        abort();
    n_registered++;
}

/* To and from the GCS so far, on this process's sockets. */
static uint64_t count_bytes(void)
{
    uint64_t sum = 0;

    for (int fd = 0; fd < 4096; fd++) {
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
            sum += info.tcpi_bytes_acked + info.tcpi_bytes_received;
    }
    return sum;
}

/* Ticks that the GCS has run. */
static uint64_t count_cpu(void)
{
    char path[40], line[600] = "";
    unsigned long long user = 0, system = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)gcs);
    FILE *f = fopen(path, "r");
    if (f == NULL || fgets(line, sizeof line, f) == NULL)
        abort();
    fclose(f);
    const char *at = strrchr(line, ')');
    if (at == NULL
        || sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system)
               != 2)
        abort();
    return user + system;
}

static uint64_t count_news(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < NODES; i++)
        sum += nodes[i].n_news;
    return sum;
}

static void on_change(void *arg)
{
    uint64_t now = loop_now_ms();

    (void)arg;
    phase++;
    for (unsigned i = phase % PARTS; i < NODES; i += PARTS) {
        nodes[i].n_changes++;
        gcs_client_changed(nodes[i].client);
    }
    if (n_registered == NODES && from_ms == 0 && count_news() >= NODES * (NODES - 1)) {
        from_ms = now;
        bytes_before = count_bytes();
        news_before = count_news();
        cpu_before = count_cpu();
    } else if (from_ms > 0 && now - from_ms >= measure_ms) {
        double s = (double)(now - from_ms) / 1e3;
        bytes_per_s = (double)(count_bytes() - bytes_before) / s;
        news_per_s = (double)(count_news() - news_before) / s;
        cpu = (double)(count_cpu() - cpu_before) / (double)sysconf(_SC_CLK_TCK) / s;
        loop_stop(loop);
    }
}

static void turn_end(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < NODES; i++)
        gcs_client_run(nodes[i].client);
}

/* Its port. */
static int start_gcs(const char *path)
{
    char text[100] = "";
    int pipe_fds[2], port = 0;

    if (pipe(pipe_fds) != 0 || (gcs = fork()) < 0)
        abort();
    if (gcs == 0) {
        char ready[32];
        snprintf(ready, sizeof ready, "--ready-fd=%d", pipe_fds[1]);
        execl(path, path, "--memory", "--address=127.0.0.1:0", ready, (char *)NULL);
        _exit(127);
    }
    close(pipe_fds[1]);
    if (read(pipe_fds[0], text, sizeof text - 1) <= 0 || sscanf(text, "ready %d", &port) != 1) {
        fprintf(stderr, "bench: %s is not ready\n", path);
        abort();
    }
    close(pipe_fds[0]);
    return port;
}

void bench_sync(bool quick)
{
    char path[600], address[40];
    struct auth_token token;
    struct err err;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 30);

    if (n < 0)
        abort();
    path[n] = '\0';
    for (int i = 0; i < 3; i++)
        *strrchr(path, '/') = '\0';
    snprintf(path + strlen(path), 20, "/bin/gcs_server");
    setenv("RAY_AUTH_TOKEN", "bench", 1);
    if (auth_token_load(&token, &err) != 0)
        abort();
    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", start_gcs(path));
    loop = loop_create(&err);
    struct rpc_bridge *bridge = loop != NULL ? rpc_bridge_create(loop, &err) : NULL;
    if (bridge == NULL) {
        fprintf(stderr, "bench: %s\n", err.text);
        abort();
    }
    measure_ms = quick ? 2000 : 10000;
    for (unsigned i = 0; i < NODES; i++) {
        struct node_row row = {.address = "127.0.0.1", .node_port = 1};
        if (unique_id_random(&row.id) != 0)
            abort();
        nodes[i].client = gcs_client_create(&(struct gcs_client_config){.loop = loop,
                                                                        .bridge = bridge,
                                                                        .address = address,
                                                                        .token = &token,
                                                                        .cluster = unique_id_nil(),
                                                                        .node = row.id,
                                                                        .incarnation = 1,
                                                                        .held = hold_nothing,
                                                                        .on_node = on_node,
                                                                        .fill_self = fill_self,
                                                                        .on_refused = on_refused,
                                                                        .arg = &nodes[i]});
        gcs_client_register_node(nodes[i].client, &row, on_registered, NULL);
    }
    struct loop_timer *tick = loop_every(loop, CHANGE_MS, on_change, NULL);
    loop_run(loop, turn_end, NULL);
    loop_timer_end(tick);
    for (unsigned i = 0; i < NODES; i++)
        gcs_client_destroy(nodes[i].client);
    rpc_bridge_destroy(bridge);
    loop_destroy(loop);
    kill(gcs, SIGKILL);
    waitpid(gcs, NULL, 0);
    bench_add((struct row){"view sync of 200 nodes in change, for each",
                           bytes_per_s / NODES / 1e3,
                           "kB/s",
                           news_per_s * (double)view_size / NODES / 1e3,
                           "the packed views alone",
                           0,
                           false});
    bench_add(
        (struct row){"view sync of 200 nodes in change, the GCS", cpu, "CPU", 0, "", 0, false});
}
