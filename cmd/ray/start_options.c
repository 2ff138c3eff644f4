/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd/ray/start.h"
#include "lib/base/flags.h"
#include "lib/base/host_port.h"
#include "raylet/machine_memory.h"

#define RESOURCE_UNIT 10000
#define NO_DASHBOARD  "this release has no dashboard: leave it out"
#define REDIS_PORT    6379
#define ONE_PORT      "workers have no ports of their own: leave it out"
#define LATER         "this release does not have it: leave it out"
#define OWN_LOGS      "daemons log into files of the session folder: leave it out"
#define OWN_SOCKETS   "sockets are in the session folder: say --temp-dir to have it elsewhere"

static const struct flags *flags_of(struct start_options *o)
{
    static struct flags f;
    static struct flag table[] = {
        {.name = "head", .help = "start a new cluster, with this machine as its first node"},
        FLAG_SETTING(ADDRESS),
        FLAG_SETTING(PORT),
        FLAG_SETTING(NODE_IP_ADDRESS),
        FLAG_SETTING(NODE_NAME),
        FLAG_SETTING(NODE_MANAGER_PORT),
        FLAG_SETTING(OBJECT_MANAGER_PORT),
        FLAG_SETTING(NUM_CPUS),
        FLAG_SETTING(NUM_GPUS),
        FLAG_SETTING(MEMORY),
        FLAG_SETTING(OBJECT_STORE_MEMORY),
        FLAG_SETTING(RESOURCES),
        FLAG_SETTING(LABELS),
        FLAG_SETTING(REDIS_ADDRESS),
        FLAG_SETTING(REDIS_USERNAME),
        FLAG_SETTING(REDIS_PASSWORD),
        FLAG_SETTING(TEMP_DIR),
        {.name = "block", .help = "stay in the foreground until the node ends"},
        {.name = "verbose", .letter = 'v', .help = "say each step"},
        {.name = "dashboard-host", .refusal = NO_DASHBOARD},
        {.name = "dashboard-port", .refusal = NO_DASHBOARD},
        {.name = "include-dashboard", .refusal = NO_DASHBOARD},
        {.name = "dashboard-agent-listen-port", .refusal = NO_DASHBOARD},
        {.name = "dashboard-agent-grpc-port", .refusal = NO_DASHBOARD},
        {.name = "dashboard-grpc-port", .refusal = NO_DASHBOARD},
        {.name = "metrics-export-port", .refusal = NO_DASHBOARD},
        {.name = "proxy-server-url", .refusal = NO_DASHBOARD},
        {.name = "runtime-env-agent-port", .refusal = LATER},
        {.name = "min-worker-port", .refusal = ONE_PORT},
        {.name = "max-worker-port", .refusal = ONE_PORT},
        {.name = "worker-port-list", .refusal = ONE_PORT},
        {.name = "ray-client-server-port", .refusal = LATER},
        {.name = "gcs-server-port", .refusal = "say --port"},
        {.name = "redis-shard-ports", .refusal = LATER},
        {.name = "storage", .refusal = LATER},
        {.name = "labels-file", .refusal = LATER},
        {.name = "plasma-directory",
         .refusal = "objects lie in memory without files: leave it out"},
        {.name = "object-spilling-directory", .refusal = LATER},
        {.name = "plasma-store-socket-name", .refusal = OWN_SOCKETS},
        {.name = "raylet-socket-name", .refusal = OWN_SOCKETS},
        {.name = "autoscaling-config", .refusal = LATER},
        {.name = "no-monitor", .refusal = "there is no monitor: leave it out"},
        {.name = "enable-object-reconstruction",
         .refusal = "a cluster has no switch for it: leave it out"},
        {.name = "enable-resource-isolation", .refusal = LATER},
        {.name = "system-reserved-cpu", .refusal = LATER},
        {.name = "system-reserved-memory", .refusal = LATER},
        {.name = "cgroup-path", .refusal = LATER},
        {.name = "tracing-startup-hook", .refusal = LATER},
        {.name = "ray-debugger-external", .refusal = LATER},
        {.name = "no-redirect-output", .refusal = OWN_LOGS},
        {.name = "include-log-monitor", .refusal = OWN_LOGS},
        {.name = "log-style", .refusal = OWN_LOGS},
        {.name = "log-color", .refusal = OWN_LOGS},
        {.name = "system-config", .refusal = "say RAY_<name> instead; ray config lists them"},
        {.name = "disable-usage-stats", .refusal = "nothing is reported to anybody: leave it out"},
        {.name = NULL},
    };

    for (struct flag *g = table; g->name != NULL; g++) {
        if (strcmp(g->name, "head") == 0)
            g->on = &o->is_head;
        if (strcmp(g->name, "block") == 0)
            g->on = &o->block;
        if (strcmp(g->name, "verbose") == 0)
            g->on = &o->verbose;
    }
    f = (struct flags){
        .command = "ray start",
        .summary = "start a node of a cluster on this machine",
        .notes =
            "It returns when the node is ready; a supervisor stays, which `ray stop` ends.\n"
            "More settings, as variables: ray config. exit status: 0; 1 a step failed, 2 usage.",
        .table = table};
    return &f;
}

/* --- addresses --- */

/* The address that packets to the world outside would have; nothing is sent. */
static void find_own_ip(char *out, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)}, own;
    socklen_t n = sizeof own;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(out, size, "127.0.0.1");
    inet_pton(AF_INET, "8.8.8.8", &to.sin_addr);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0
        && getsockname(fd, (struct sockaddr *)&own, &n) == 0)
        inet_ntop(AF_INET, &own.sin_addr, out, (socklen_t)size);
    if (fd >= 0)
        close(fd);
}

/* Whether this machine has this address. */
static bool is_own_ip(const char *ip)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_own = fd >= 0 && inet_pton(AF_INET, ip, &at.sin_addr) == 1
                  && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;

    if (fd >= 0)
        close(fd);
    return is_own;
}

/* An address that was named is listened at, if this machine has it; else all are. */
static int set_ip(struct start_options *o, const struct flags *f)
{
    const char *ip = config_text(&o->config, CONFIG_NODE_IP_ADDRESS);
    struct in_addr a;

    if (ip[0] == '\0')
        find_own_ip(o->node_ip, sizeof o->node_ip);
    else if (inet_pton(AF_INET, ip, &a) != 1 || a.s_addr == INADDR_ANY)
        return flags_refuse(f,
                            "--node-ip-address must be an IPv4 address that others reach this "
                            "machine by, not %.60s",
                            ip);
    else
        snprintf(o->node_ip, sizeof o->node_ip, "%s", ip);
    snprintf(o->listen_ip,
             sizeof o->listen_ip,
             "%s",
             ip[0] != '\0' && is_own_ip(o->node_ip) ? o->node_ip : "0.0.0.0");
    return FLAGS_GO_ON;
}

/* gcs_server wants an address, since it asks nobody for names. */
static int set_redis(struct start_options *o, const struct flags *f)
{
    const char *text = config_text(&o->config, CONFIG_REDIS_ADDRESS);
    const struct addrinfo wanted = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    struct host_port at;
    struct err err;
    int rc;

    if (text[0] == '\0')
        return FLAGS_GO_ON;
    if (text[0] == '/' && strlen(text) < sizeof o->redis_address) {
        memcpy(o->redis_address, text, strlen(text) + 1);
        return FLAGS_GO_ON;
    }
    if (host_port_parse(text, REDIS_PORT, &at, &err) != 0)
        return flags_refuse(f,
                            "--redis-address: %s; the path of its socket begins with /",
                            err.text);
    if (strchr(at.host, ':') == NULL) { /* an IPv4 address or a name */
        rc = getaddrinfo(at.host, NULL, &wanted, &found);
        if (rc != 0)
            return flags_refuse(f, "--redis-address: %.60s: %s", at.host, gai_strerror(rc));
        inet_ntop(AF_INET,
                  &((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_addr,
                  at.host,
                  sizeof at.host);
        freeaddrinfo(found);
    }
    host_port_print(at.host, at.port, o->redis_address, sizeof o->redis_address);
    return FLAGS_GO_ON;
}

/* --- resources --- */

static int add_resource(struct start_options *o,
                        const struct flags *f,
                        const char *name,
                        double amount)
{
    if (o->n_resources == START_RESOURCES_MAX)
        return flags_refuse(f, "a node has at most %d resources", START_RESOURCES_MAX);
    if (name[0] == '\0' || strlen(name) >= sizeof o->resources[0].name)
        return flags_refuse(f,
                            "--resources: a name has 1 to %zu bytes, not %.60s",
                            sizeof o->resources[0].name - 1,
                            name);
    if (!(amount >= 0) || amount > 1e14)
        return flags_refuse(f, "--resources: %s must be 0 to 10^14", name);
    struct start_resource *r = &o->resources[o->n_resources++];
    snprintf(r->name, sizeof r->name, "%s", name);
    r->units = (int64_t)llround(amount * RESOURCE_UNIT);
    return FLAGS_GO_ON;
}

static int set_resources(struct start_options *o, const struct flags *f)
{
    static const char *const own[][2] = {{"CPU", "num-cpus"},
                                         {"GPU", "num-gpus"},
                                         {"memory", "memory"},
                                         {"object_store_memory", "object-store-memory"}};
    const char *text = config_text(&o->config, CONFIG_RESOURCES), *name;
    int64_t n_gpus = config_number(&o->config, CONFIG_NUM_GPUS, 0);
    int64_t memory = config_number(&o->config, CONFIG_MEMORY, 0);
    json_error_t wrong;
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &wrong), *amount;
    int rc = FLAGS_GO_ON;

    if (!json_is_object(j)) {
        json_decref(j);
        return flags_refuse(f,
                            "--resources must be JSON as '{\"disk\": 2}', not %.60s%s%s",
                            text,
                            j == NULL ? ": " : "",
                            j == NULL ? wrong.text : "");
    }
    json_object_foreach(j, name, amount)
    {
        for (size_t i = 0; i < sizeof own / sizeof own[0] && rc == FLAGS_GO_ON; i++)
            if (strcmp(name, own[i][0]) == 0)
                rc = flags_refuse(f, "--resources: of %s say --%s", name, own[i][1]);
        if (rc == FLAGS_GO_ON)
            rc = json_is_number(amount)
                     ? add_resource(o, f, name, json_number_value(amount))
                     : flags_refuse(f, "--resources: the amount of %.60s is no number", name);
        if (rc != FLAGS_GO_ON)
            break;
    }
    json_decref(j);
    if (rc == FLAGS_GO_ON && n_gpus > 0)
        rc = add_resource(o, f, "GPU", (double)n_gpus);
    if (!config_is_set(&o->config, CONFIG_MEMORY))
        memory = (int64_t)machine_memory_for_tasks(
            (uint64_t)config_number(&o->config, CONFIG_OBJECT_STORE_MEMORY, 0));
    if (rc == FLAGS_GO_ON && memory > 0)
        rc = add_resource(o, f, "memory", (double)memory);
    return rc;
}

/* --- labels --- */

/* As Kubernetes has them: letters and digits at the ends, -_. between, up to 63. */
static bool is_label_word(const char *word, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)word[i])
            && (i == 0 || i == n - 1 || strchr("-_.", word[i]) == NULL))
            return false;
    return n <= 63;
}

/* "prefix/name" or "name". */
static bool is_label_key(const char *key, size_t n)
{
    const char *slash = memchr(key, '/', n);
    size_t prefix = slash != NULL ? (size_t)(slash - key) : 0;

    if (slash != NULL && (prefix == 0 || !is_label_word(key, prefix)))
        return false;
    if (slash != NULL) {
        key = slash + 1;
        n -= prefix + 1;
    }
    return n > 0 && is_label_word(key, n);
}

static int check_labels(const struct start_options *o, const struct flags *f)
{
    const char *text = config_text(&o->config, CONFIG_LABELS), *at = text;

    if (strlen(text) > 511)
        return flags_refuse(f, "--labels has at most 511 bytes");
    while (*at != '\0') {
        size_t n = strcspn(at, ","), key = strcspn(at, "=,");
        if (at[key] != '=' || !is_label_key(at, key) || !is_label_word(at + key + 1, n - key - 1))
            return flags_refuse(f,
                                "--labels must be as region=eu,ray.io/accelerator-type=H100: "
                                "letters, digits and -_. up to 63, not %.*s",
                                n < 80 ? (int)n : 80,
                                at);
        at += n + (at[n] == ',');
    }
    return FLAGS_GO_ON;
}

/* --- what contradicts --- */

static bool has_flag(const struct start_options *o, enum config_setting s)
{
    return o->config.v[s].source == CONFIG_FLAG;
}

static int check_head(const struct start_options *o, const struct flags *f)
{
    if (has_flag(o, CONFIG_ADDRESS))
        return flags_refuse(f,
                            "--head starts a cluster, --address=%.60s joins one: say one of them, "
                            "or --redis-address for an external Redis",
                            config_text(&o->config, CONFIG_ADDRESS));
    if (config_text(&o->config, CONFIG_REDIS_ADDRESS)[0] == '\0') {
        if (has_flag(o, CONFIG_REDIS_PASSWORD))
            return flags_refuse(f,
                                "--redis-password is for an external Redis: say "
                                "--redis-address too, or leave it out");
        if (has_flag(o, CONFIG_REDIS_USERNAME))
            return flags_refuse(f,
                                "--redis-username is for an external Redis: say "
                                "--redis-address too, or leave it out");
    }
    return FLAGS_GO_ON;
}

static int check_join(const struct start_options *o, const struct flags *f)
{
    static const enum config_setting of_head[] = {CONFIG_PORT,
                                                  CONFIG_REDIS_ADDRESS,
                                                  CONFIG_REDIS_USERNAME,
                                                  CONFIG_REDIS_PASSWORD};
    const char *address = config_text(&o->config, CONFIG_ADDRESS);
    struct host_port at;
    struct err err;

    if (!has_flag(o, CONFIG_ADDRESS))
        return flags_refuse(f,
                            "say --head to start a cluster here, or --address=HOST:PORT to join "
                            "the one whose head is there");
    if (host_port_parse(address, 0, &at, &err) != 0)
        return flags_refuse(f,
                            "--address, as the head printed it, with port 6379 if it was not told "
                            "otherwise: %s",
                            err.text);
    for (size_t i = 0; i < sizeof of_head / sizeof of_head[0]; i++)
        if (has_flag(o, of_head[i]))
            return flags_refuse(f,
                                "--%s is the head's, with --address leave it out",
                                config_flag(of_head[i]));
    return FLAGS_GO_ON;
}

int start_options_parse(struct start_options *o, int argc, char **argv)
{
    const struct flags *f = flags_of(o);
    struct err err;
    int rc;

    if (config_load(&o->config, &err) != 0)
        return flags_refuse(f, "%s", err.text);
    rc = flags_parse(f, argc, argv, &o->config);
    if (rc == FLAGS_GO_ON)
        rc = o->is_head ? check_head(o, f) : check_join(o, f);
    if (rc == FLAGS_GO_ON && strlen(config_text(&o->config, CONFIG_NODE_NAME)) > 63)
        rc = flags_refuse(f, "--node-name has at most 63 bytes");
    if (rc == FLAGS_GO_ON && o->is_head)
        rc = set_redis(o, f);
    if (rc == FLAGS_GO_ON)
        rc = set_ip(o, f);
    if (rc == FLAGS_GO_ON)
        rc = set_resources(o, f);
    if (rc == FLAGS_GO_ON)
        rc = check_labels(o, f);
    if (rc == FLAGS_GO_ON && !o->is_head)
        snprintf(o->gcs_address,
                 sizeof o->gcs_address,
                 "%s",
                 config_text(&o->config, CONFIG_ADDRESS));
    return rc;
}
