/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/ray/doctor_cluster.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/ray/commands.h"
#include "cmd/ray/find_program.h"
#include "cmd/ray/nodes.h"
#include "cmd/ray/who_listens.h"
#include "gcs/query_codec.h"
#include "lib/base/auth_token.h"
#include "lib/base/clock.h"
#include "lib/base/host_port.h"
#include "raylet/machine_memory.h"

#define HEAD_MS       2000
#define CONNECT_MS    1000
#define TRIPS         5
#define UNREACHED_MAX 3 /* nodes whose data port is tried in vain */

/* Nothing is wrong unless somebody wants it. */
static void note(const char *what, const char *fix)
{
    printf("  - %s: %s\n", what, fix);
}

/* --- programs --- */

/* The last word that `path --version` says. */
static bool read_version(const char *path, char *out, size_t size)
{
    int pipes[2], status;
    size_t n = 0;
    ssize_t got;

    if (pipe(pipes) != 0)
        return false;
    pid_t pid = fork(); /* before gRPC's threads are there */
    if (pid == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        execl(path, path, "--version", (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    while (pid > 0 && n + 1 < size && (got = read(pipes[0], out + n, size - 1 - n)) > 0)
        n += (size_t)got;
    close(pipes[0]);
    out[n] = '\0';
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        return false;
    out[strcspn(out, "\n")] = '\0';
    const char *word = strrchr(out, ' ');
    if (word != NULL)
        memmove(out, word + 1, strlen(word));
    return true;
}

static bool check_program(const char *name)
{
    char path[4200], version[64], what[4400];
    const char *own = strrchr(COMMAND_VERSION, ' ') + 1;

    if (!find_beside(name, path, sizeof path)) {
        snprintf(what, sizeof what, "there is no %s beside `ray`, at %.4100s", name, path);
        return doctor_complain(what, "install the whole of Ray (make install)");
    }
    if (!read_version(path, version, sizeof version)) {
        snprintf(what, sizeof what, "%.4100s cannot be run", path);
        return doctor_complain(what, "install it again (make install)");
    }
    printf("%-18s%s, version %s\n", name, path, version);
    if (strcmp(version, own) == 0)
        return true;
    snprintf(what, sizeof what, "`ray` is of version %s", own);
    return doctor_complain(what, "install all of Ray from one build");
}

/* --- for a head --- */

static void look_at_redis(const struct config *c)
{
    const char *named = config_text(c, CONFIG_REDIS_ADDRESS);
    char path[512];

    if (named[0] != '\0')
        printf("redis-server      %s (RAY_REDIS_ADDRESS)\n", named);
    else if (find_in_path("redis-server", path, sizeof path))
        printf("redis-server      %s\n", path);
    else
        note("no redis-server in PATH",
             "a head needs one (apt install redis-server), or a running one by --redis-address; "
             "other nodes do not");
}

/* own: the address of a cluster of this user's, or "". */
static void look_at_port(const struct config *c, const char *own)
{
    int port = (int)config_number(c, CONFIG_PORT, 6379);
    struct host_port at;
    char *who = NULL, what[80];
    size_t size;

    if (host_port_parse(own, 0, &at, NULL) == 0 && at.port == port) {
        printf("port %-13dof the cluster %s\n", port, own);
        return;
    }
    FILE *f = open_memstream(&who, &size);
    if (f == NULL)
        return;
    who_listens(f, port);
    fclose(f);
    if (size == 0) {
        printf("port %-13dfree, for a head\n", port);
    } else {
        snprintf(what, sizeof what, "port %d is taken", port);
        note(what, "a head needs another one: `ray start --head --port=N`, 0 for any");
        fputs(who, stdout);
    }
    free(who);
}

/* --- this machine --- */

static bool check_memory(const struct config *c)
{
    uint64_t n_free = machine_memory_free(), free_mb = n_free >> 20;
    uint64_t store_mb = (uint64_t)config_number(c, CONFIG_OBJECT_STORE_MEMORY, 0) >> 20;
    bool is_set = store_mb > 0;
    char what[128];

    if (!is_set)
        store_mb = machine_memory_for_objects(n_free) >> 20;
    printf("object store      %llu MB of shared memory%s, %llu MB are free\n",
           (unsigned long long)store_mb,
           is_set ? " (RAY_object_store_memory)" : " for a node that starts now",
           (unsigned long long)free_mb);
    if (!is_set || free_mb == 0 || store_mb <= free_mb)
        return true;
    snprintf(what, sizeof what, "the object store is larger than what is free");
    return doctor_complain(what, "lower RAY_object_store_memory or --object-store-memory");
}

static void look_at_clock(void)
{
    struct timex t = {.modes = 0};

    if (adjtimex(&t) != TIME_ERROR && (t.status & STA_UNSYNC) == 0)
        puts("clock             synchronized");
    else
        note("the clock is not synchronized",
             "nothing in Ray waits for it, but times in logs of several machines will not compare: "
             "run chrony or systemd-timesyncd");
}

/* needs: a cluster is named, so there must be one. */
static bool check_token(bool needs)
{
    char path[512], what[128], fix[540];
    struct auth_token t;
    struct stat st;
    struct err err;

    if (auth_token_load(&t, &err) != 0) {
        if (err.code != ERR_NOT_FOUND || needs)
            return doctor_complain(err.text,
                                   "`ray get-auth-token` prints it on the head's machine");
        note("no token yet", "`ray start --head` makes one; who joins needs that one");
        return true;
    }
    if (auth_token_path(path, sizeof path) == NULL) {
        puts("token             of RAY_AUTH_TOKEN");
        return true;
    }
    printf("token             in %s\n", path);
    if (stat(path, &st) != 0 || (st.st_mode & 077) == 0)
        return true;
    snprintf(what,
             sizeof what,
             "others may read it (mode %04o), and who has it has the cluster",
             (unsigned)st.st_mode & 07777);
    snprintf(fix, sizeof fix, "chmod 600 %.500s", path);
    return doctor_complain(what, fix);
}

/* --- the cluster --- */

static bool can_connect(const char *host, int port)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char service[8];
    bool ok = false;

    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &list);
    for (const struct addrinfo *a = list; rc == 0 && a != NULL && !ok; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t size = sizeof error;
        if (fd < 0)
            continue;
        ok = (connect(fd, a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS)
             && poll(&p, 1, CONNECT_MS) == 1
             && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
        close(fd);
    }
    if (list != NULL)
        freeaddrinfo(list);
    return ok;
}

static bool check_head(struct ask *a)
{
    uint64_t best_ns = UINT64_MAX;
    void *reply;
    size_t size;
    struct err err;

    for (int i = 0; i < TRIPS; i++) {
        uint64_t begin = clock_now_ns();
        if (ask_call(a, QUERY_CHECK_ALIVE, NULL, 0, &reply, &size, &err) != 0) {
            printf("head              %s\n", ask_address(a));
            return doctor_complain(err.text,
                                   "is the head running (`ray status` there), and is its port open "
                                   "in the firewalls between?");
        }
        free(reply);
        uint64_t ns = clock_now_ns() - begin;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    printf("head              %s answers in %.2f ms\n", ask_address(a), (double)best_ns / 1e6);
    return true;
}

static bool check_nodes(const struct config *c)
{
    char what[300];
    struct nodes all;
    struct err err;
    unsigned n_unreached = 0, n_nodes = 0, n_answer = 0;
    bool ok = true;

    if (nodes_ask(c, HEAD_MS, &all, &err) != 0)
        return doctor_complain("the nodes cannot be asked", err.text);
    for (size_t i = 0; i < all.n; i++) { /* nobody need reach a driver's */
        n_nodes += !all.v[i].is_driver;
        n_answer += !all.v[i].is_driver && all.v[i].has_answered;
    }
    printf("nodes             %u of %u answer from here\n", n_answer, n_nodes);
    for (size_t i = 0; i < all.n; i++) {
        const struct why_node *node = &all.v[i];
        if (node->has_answered || node->is_driver)
            continue;
        snprintf(what,
                 sizeof what,
                 "node %s at %s:%d does not answer",
                 node->name,
                 node->address,
                 node->port);
        ok = doctor_complain(what,
                             "look at its machine, or open that port in the firewalls between "
                             "(--node-manager-port makes it a fixed one)");
    }
    for (size_t i = 0; i < all.n_rows && n_unreached < UNREACHED_MAX; i++) {
        const struct node_row *row = &all.rows[i];
        if (row->state != NODE_ALIVE || row->is_driver
            || can_connect(row->address, row->object_port))
            continue;
        n_unreached++;
        snprintf(what,
                 sizeof what,
                 "objects of node %s cannot come: nothing takes connections at %s:%d",
                 row->name,
                 row->address,
                 row->object_port);
        ok = doctor_complain(what,
                             "open that port in the firewalls between (--object-manager-port makes "
                             "it a fixed one)");
    }
    nodes_fini(&all);
    return ok;
}

bool doctor_cluster(const struct config *c)
{
    const char *named = config_text(c, CONFIG_ADDRESS);
    bool is_named = strchr(named, ':') != NULL;
    struct err err;
    bool ok = check_program("raylet");

    ok &= check_program("gcs_server");
    ok &= check_memory(c);
    look_at_clock();
    ok &= check_token(is_named);
    struct ask *a = ask_open(c, HEAD_MS, &err);
    if (!is_named)
        look_at_redis(c);
    if (!is_named)
        look_at_port(c, a != NULL ? ask_address(a) : "");
    if (a == NULL && (is_named || err.code != ERR_NOT_FOUND)) {
        if (err.code != ERR_NOT_FOUND) /* that there is no token was said */
            doctor_complain("the cluster cannot be asked", err.text);
        return false;
    }
    if (a == NULL) {
        note("no cluster is named, and none of yours runs here",
             "--address=HOST:PORT or RAY_ADDRESS, and its head and nodes are looked at from here");
        return ok;
    }
    bool is_there = check_head(a);
    ask_close(a);
    return is_there && check_nodes(c) && ok;
}
