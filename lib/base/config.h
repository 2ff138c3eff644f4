/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_CONFIG_H
#define LIB_BASE_CONFIG_H
/*
 * The settings of Ray's commands: one table with name, environment variable, kind, default, bounds
 * and help of each. A value comes from the first that is set: flag, environment, default. The page
 * docs/configuration.md and `ray config` are made of the table. One thread.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/err.h"

enum config_kind {
    CONFIG_TEXT,
    CONFIG_SECRET, /* text that no dump shows */
    CONFIG_NUMBER, /* a whole one within bounds */
};
enum config_source { CONFIG_DEFAULT, CONFIG_ENVIRONMENT, CONFIG_FLAG };

#define CONFIG_BYTES_MAX (INT64_C(1) << 46)

/* id, flag without dashes ("": none), variable, kind, default, least, most, unit, help. An empty
 * default of a number: not set, and then what the help says. */
/* clang-format off */
#define CONFIG_SETTINGS(X)                                                                         \
    X(ADDRESS, "address", "RAY_ADDRESS", TEXT, "", 0, 0, "HOST:PORT",                              \
      "the cluster, by its head's address; without it commands ask this user's newest "            \
      "node here, and `ray stop` ends all; `ray start` wants the flag")                            \
    X(PORT, "port", "RAY_port", NUMBER, "6379", 0, 65535, "",                                      \
      "of a head's GCS; 0: any")                                                                   \
    X(NODE_IP_ADDRESS, "node-ip-address", "RAY_node_ip_address", TEXT, "", 0, 0, "IP",             \
      "this node's address for others (default: that of the way out of this machine)")             \
    X(NODE_MANAGER_PORT, "node-manager-port", "RAY_node_manager_port", NUMBER, "0", 0, 65535, "",  \
      "of the raylet's node service; 0: any")                                                      \
    X(OBJECT_MANAGER_PORT, "object-manager-port", "RAY_object_manager_port",                       \
      NUMBER, "0", 0, 65535, "",                                                                   \
      "of the raylet's data port; 0: any")                                                         \
    X(NODE_NAME, "node-name", "RAY_node_name", TEXT, "", 0, 0, "NAME",                             \
      "what lists call this node (default: its address)")                                          \
    X(NUM_CPUS, "num-cpus", "RAY_num_cpus", NUMBER, "", 0, 100000, "",                             \
      "CPUs to lend (default: this machine's); 0: a head that runs no tasks which need one")       \
    X(NUM_GPUS, "num-gpus", "RAY_num_gpus", NUMBER, "0", 0, 100000, "",                            \
      "GPUs that lists tell of: no task of this release can ask for one")                                                                              \
    X(MEMORY, "memory", "RAY_memory", NUMBER, "", 0, CONFIG_BYTES_MAX, "bytes",                    \
      "the resource memory, which tasks may ask for (default: what is free and not for objects)")                     \
    X(OBJECT_STORE_MEMORY, "object-store-memory", "RAY_object_store_memory",                       \
      NUMBER, "", 1 << 20, CONFIG_BYTES_MAX, "bytes",                                              \
      "shared memory for objects (default: 30 % of what is free)")                                 \
    X(RESOURCES, "resources", "RAY_resources", TEXT, "{}", 0, 0, "JSON",                           \
      "custom resources, as {\"disk\": 2, \"license\": 0.5}")                                      \
    X(LABELS, "labels", "RAY_labels", TEXT, "", 0, 0, "KEY=VALUE,...",                             \
      "what lists tell of this node, as region=eu,ray.io/accelerator-type=H100")                   \
    X(REDIS_ADDRESS, "redis-address", "RAY_REDIS_ADDRESS", TEXT, "", 0, 0, "HOST:PORT or PATH",    \
      "an external Redis for a head's tables (default: a private one)")                            \
    X(REDIS_USERNAME, "redis-username", "RAY_REDIS_USERNAME", TEXT, "", 0, 0, "NAME",              \
      "there")                                                                                     \
    X(REDIS_PASSWORD, "redis-password", "RAY_REDIS_PASSWORD", SECRET, "", 0, 0, "TEXT",            \
      "there; better by the variable: a command line is seen by all users of a machine")           \
    X(NAMESPACE, "", "RAY_external_storage_namespace", TEXT, "default", 0, 0, "NAME",              \
      "the cluster's part of an external Redis: each cluster has its own")                         \
    X(HELD_BYTES, "", "RAY_gcs_held_bytes",                                                        \
      NUMBER, "67108864", 1 << 20, CONFIG_BYTES_MAX, "bytes",                                      \
      "changes that may wait in the GCS for a Redis that is away")                                 \
    X(PATIENCE, "", "RAY_gcs_patience_ms", NUMBER, "60000", 0, 86400000, "ms",                     \
      "when the GCS hears of no other machine, it declares nodes dead so much later, for a head")  \
    X(SUBSCRIBER_BYTES, "", "RAY_gcs_subscriber_bytes",                                            \
      NUMBER, "16777216", 1 << 10, CONFIG_BYTES_MAX, "bytes",                                      \
      "news that may wait in the GCS for one subscriber; then the oldest go")                      \
    X(SUBSCRIBER_TIMEOUT, "", "RAY_subscriber_timeout_ms", NUMBER, "300000", 100, 86400000, "ms",  \
      "a subscriber that has not polled the GCS for so long is forgotten")                         \
    X(DEAD_NODES, "", "RAY_maximum_gcs_dead_node_cached_count", NUMBER, "1000", 0, 1000000, "",    \
      "so many dead nodes are remembered, for a head; older ones are forgotten")                   \
    X(DEAD_WORKERS, "", "RAY_maximum_gcs_dead_worker_cached_count",                                \
      NUMBER, "1000", 0, 1000000, "",                                                              \
      "so many workers that have ended are remembered by each node; older ones are forgotten")     \
    X(DRIVER_SILENCE, "", "RAY_driver_silence_ms", NUMBER, "30000", 1000, 86400000, "ms",          \
      "a driver on a machine without a node that is cut off for so long has ended, for a head")    \
    X(CONNECT_TIMEOUT, "", "RAY_connect_timeout_ms", NUMBER, "10000", 100, 3600000, "ms",          \
      "how long a driver on a machine without a node tries to reach its cluster")                  \
    X(MAX_LINEAGE, "", "RAY_max_lineage_bytes",                                                    \
      NUMBER, "1073741824", 0, CONFIG_BYTES_MAX, "bytes",                                          \
      "what a process keeps to make lost results again; beyond, the oldest half goes")             \
    X(TEMP_DIR, "temp-dir", "RAY_TMPDIR", TEXT, "/tmp/ray", 0, 0, "DIR",                           \
      "session folders are made here")                                                             \
    X(START_TIMEOUT, "", "RAY_start_timeout_ms", NUMBER, "30000", 100, 3600000, "ms",              \
      "how long `ray start` waits for each part of a node")                                        \
    X(GRACE_PERIOD, "", "RAY_grace_period_ms", NUMBER, "16000", 0, 3600000, "ms",                  \
      "how long a part of a node may take to end before it is killed")                             \
    X(RESTART_DELAY, "", "RAY_restart_delay_ms", NUMBER, "20", 1, 60000, "ms",                     \
      "before gcs_server or redis-server is started again; doubles with each failure")             \
    X(RESTART_DELAY_MAX, "", "RAY_restart_delay_max_ms", NUMBER, "5000", 1, 3600000, "ms",         \
      "up to here")                                                                                \
    X(ROTATION_MAX_BYTES, "", "RAY_ROTATION_MAX_BYTES",                                            \
      NUMBER, "536870912", 0, CONFIG_BYTES_MAX, "bytes",                                           \
      "a log of a daemon that has grown to this is set aside as FILE.1; 0: never")                 \
    X(ROTATION_BACKUPS, "", "RAY_ROTATION_BACKUP_COUNT", NUMBER, "5", 0, 1000, "",                 \
      "so many logs that were set aside are kept, FILE.1 being the newest")                        \
    X(KEPT_SESSIONS, "", "RAY_kept_sessions", NUMBER, "5", 0, 100000, "",                          \
      "logs of as many ended nodes of this user are kept")
/* clang-format on */

enum config_setting {
#define CONFIG_ID(id, ...) CONFIG_##id,
    CONFIG_SETTINGS(CONFIG_ID)
#undef CONFIG_ID
        CONFIG_N_SETTINGS
};

struct config {
    struct {
        const char *text; /* borrowed: of the environment, a flag or the table */
        enum config_source source;
    } v[CONFIG_N_SETTINGS];
};

/* What the environment says, else the defaults; an empty variable is not set. -1: a value that
 * cannot be, the sentence names the variable. */
int config_load(struct config *c, struct err *err);
/* This one alone; the others are as they were. */
int config_load_one(struct config *c, enum config_setting s, struct err *err);
/* From a flag; text is borrowed. -1: cannot be, *c as it was. */
int config_set(struct config *c, enum config_setting s, const char *text, struct err *err);

bool config_is_set(const struct config *c, enum config_setting s); /* not by the default */
const char *config_text(const struct config *c, enum config_setting s);
/* Of a number that is not set and has no default: otherwise. */
int64_t config_number(const struct config *c, enum config_setting s, int64_t otherwise);

/* Of the table. flag "" has none. */
const char *config_flag(enum config_setting s);
const char *config_variable(enum config_setting s);
const char *config_help(enum config_setting s);
const char *config_unit(enum config_setting s);
const char *config_default(enum config_setting s);
enum config_kind config_kind(enum config_setting s);

/* Each value and where it came from; of a secret, only whether there is one. */
void config_dump(const struct config *c, FILE *out);
/* The table as a page. */
void config_markdown(FILE *out);

#endif /* LIB_BASE_CONFIG_H */
