/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between two raylets' sessions over loopback, beside a bare gRPC stream that carries the
 * same bytes in messages of the same size. Each end is a process with a loop and a bridge.
 */
#include "tests/bench/bench.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/net/link_session.h"
#include "lib/net/rpc_server.h"
#include "lib/net/rpc_stream.h"
#include "raylet/peer.h"

#define BODY     64
#define ON_WIRE  (4 + sizeof(struct peer_header) + BODY)
#define RAW_PATH "/bench.Bench/Raw"
#define ECHO     1 /* type of a message that comes back; others are counted */
#define LAST     2 /* comes back too */

static const struct auth_token token = {"bench"};
static char cluster_hex[ID_HEX_MAX];
static struct unique_id ids[2];

static struct end {
    struct loop *loop;
    struct rpc_bridge *bridge;
    struct rpc_server *server;
    struct peers *peers;
    struct peer *other;        /* the sender's */
    struct rpc_stream *stream; /* the bare one */
    size_t n_left;             /* to be sent */
    unsigned n_back;           /* came back */
} end;

/* --- the end that answers --- */

static void on_message(void *arg,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size)
{
    (void)arg;
    if (h->type == 0)
        return;
    if (end.other != NULL) /* ours came back */
        end.n_back++;
    else
        peers_send(from, FRAME_CALLS, h, body, size);
}

/* As many messages of n_left as there is room for; the last one is marked. */
static void write_raw(void *arg)
{
    static uint8_t bytes[LINK_SESSION_BATCH_MAX];
    struct iovec piece = {.iov_base = bytes, .iov_len = sizeof bytes / ON_WIRE * ON_WIRE};

    (void)arg;
    while (end.n_left > 0 && rpc_stream_has_room(end.stream)) {
        if (end.n_left * ON_WIRE < piece.iov_len)
            piece.iov_len = end.n_left * ON_WIRE;
        end.n_left -= piece.iov_len / ON_WIRE;
        bytes[0] = end.n_left == 0;
        rpc_stream_write(end.stream, &piece, 1);
    }
}

static void raw_on_message(void *arg, const uint8_t *bytes, size_t size)
{
    if (size < ON_WIRE || bytes[0] == 0)
        return;
    if (end.other != NULL) {
        end.n_back++;
        return;
    }
    end.n_left = 1;
    write_raw(arg);
}

static void raw_on_end(void *arg, const struct err *why)
{
    (void)arg;
    if (end.other != NULL)
        fprintf(stderr, "bench: %s\n", why->text);
    _exit(1);
}

static const struct rpc_stream_ops raw_ops = {raw_on_message, write_raw, raw_on_end};

static void on_accept(void *arg, struct rpc_stream *stream)
{
    (void)arg;
    end.stream = stream;
    rpc_stream_use(stream, &raw_ops, NULL);
}

static void open_end(unsigned i)
{
    struct err err;

    end.loop = loop_create(&err);
    end.bridge = rpc_bridge_create(end.loop, &err);
    end.server = end.bridge == NULL
                     ? NULL
                     : rpc_server_create(&(struct rpc_server_config){.bridge = end.bridge,
                                                                     .address = "ipv4:127.0.0.1:0",
                                                                     .token = &token},
                                         &err);
    if (end.server == NULL) {
        fprintf(stderr, "bench: %s\n", err.text);
        _exit(1);
    }
    end.peers = peers_create(&(struct peers_config){.loop = end.loop,
                                                    .bridge = end.bridge,
                                                    .server = end.server,
                                                    .token = &token,
                                                    .cluster = ids[0],
                                                    .node = ids[i],
                                                    .number = 1 + i,
                                                    .on_message = on_message});
    rpc_server_add_stream(end.server, RAW_PATH, on_accept, NULL);
    rpc_server_start(end.server, cluster_hex, "1");
}

static void flush(void *arg)
{
    (void)arg;
    peers_flush(end.peers);
}

/* Never returns. */
static void answer(int port_to)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_end(1);
    int port = rpc_server_port(end.server);
    if (write(port_to, &port, sizeof port) != sizeof port)
        _exit(1);
    loop_run(end.loop, flush, NULL);
    _exit(0);
}

/* --- the end that measures --- */

static void send_one(uint8_t type)
{
    static const uint8_t body[BODY];
    const struct peer_header h = {.type = type};

    peers_send(end.other, FRAME_CALLS, &h, body, sizeof body);
}

static void send_some(void *arg)
{
    (void)arg;
    do {
        for (int i = 0; i < 4096 && end.n_left > 0 && peer_has_room(end.other); i++)
            send_one(--end.n_left > 0 ? 0 : LAST);
        peers_flush(end.peers);
    } while (end.n_left > 0 && peer_has_room(end.other));
    if (end.n_back > 0)
        loop_stop(end.loop);
}

static void ping(void *arg)
{
    (void)arg;
    peers_flush(end.peers);
    if (end.n_back > 0)
        loop_stop(end.loop);
}

static void send_some_raw(void *arg)
{
    if (end.n_back > 0)
        loop_stop(end.loop);
    write_raw(arg);
}

static double per_s(loop_f turn, size_t n)
{
    uint64_t t = clock_now_ns();

    end.n_left = n;
    end.n_back = 0;
    turn(NULL);
    loop_run(end.loop, turn, NULL);
    return (double)n / ((double)(clock_now_ns() - t) / 1e9);
}

static double round_trip_us(bool raw, int n)
{
    double *v = malloc((size_t)n * sizeof *v);

    if (v == NULL)
        abort();
    for (int i = 0; i < n; i++) {
        uint64_t t = clock_now_ns();
        end.n_back = 0;
        if (raw) {
            end.n_left = 1;
            send_some_raw(NULL);
            loop_run(end.loop, send_some_raw, NULL);
        } else {
            send_one(ECHO);
            peers_flush(end.peers);
            loop_run(end.loop, ping, NULL);
        }
        v[i] = (double)(clock_now_ns() - t) / 1e3;
    }
    double p50 = bench_quantile(v, (size_t)n, 0.5);
    free(v);
    return p50;
}

static void measure(int port, bool quick)
{
    char address[64];
    const size_t n = quick ? 1000000 : 4000000;

    open_end(0);
    end.other = peers_add(end.peers, &ids[1], 2, "127.0.0.1", port);
    snprintf(address, sizeof address, "ipv4:127.0.0.1:%d", port);
    end.stream = rpc_stream_dial(&(struct rpc_dial){.bridge = end.bridge,
                                                    .address = address,
                                                    .path = RAW_PATH,
                                                    .token = &token,
                                                    .cluster_hex = cluster_hex},
                                 &raw_ops,
                                 NULL);
    per_s(send_some_raw, n / 10); /* both are open and warm */
    per_s(send_some, n / 10);
    double raw = per_s(send_some_raw, n);
    bench_add((struct row){"messages of 64 B through a session (loopback)",
                           per_s(send_some, n),
                           "/s",
                           raw,
                           "the same bytes on a bare gRPC stream",
                           0.4,
                           true});
    raw = round_trip_us(true, 2000);
    bench_add((struct row){"round trip through a session p50 (loopback)",
                           round_trip_us(false, 2000),
                           "us",
                           raw,
                           "a bare gRPC stream",
                           2,
                           false});
    rpc_stream_close(end.stream, ERR_NONE, "");
    peers_destroy(end.peers);
    rpc_server_destroy(end.server);
    rpc_bridge_destroy(end.bridge);
    loop_destroy(end.loop);
}

void bench_sessions(bool quick)
{
    int pipe_fd[2], port;

    if (pipe(pipe_fd) != 0 || unique_id_random(&ids[0]) != 0 || unique_id_random(&ids[1]) != 0)
        abort();
    id_hex(ids[0].bytes, sizeof ids[0].bytes, cluster_hex);
    pid_t pid = fork();
    if (pid == 0)
        answer(pipe_fd[1]);
    if (read(pipe_fd[0], &port, sizeof port) != sizeof port)
        abort();
    measure(port, quick);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}
