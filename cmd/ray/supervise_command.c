/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/ray/supervise_private.h"
#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"

#define WORDS_MAX (START_RESOURCES_MAX + 24)
#define TELL_S    "2"

struct words {
    char *v[WORDS_MAX + 1];
    unsigned n;
};

__attribute__((format(printf, 2, 3))) static void words_add(struct words *w, const char *fmt, ...)
{
    va_list ap;

    ASSERT(w->n < WORDS_MAX);
    va_start(ap, fmt);
    if (vasprintf(&w->v[w->n], fmt, ap) < 0)
        abort();
    va_end(ap);
    w->v[++w->n] = NULL;
}

static void words_free(struct words *w)
{
    while (w->n > 0)
        free(w->v[--w->n]);
}

/* The environment of this process without secrets, and the way to the token; to be freed, the last
 * two strings too. */
static char **make_environment(const struct supervisor *s, enum part_id id)
{
    static const char *const hidden[] = {"RAY_AUTH_TOKEN=",
                                         "RAY_AUTH_TOKEN_PATH=",
                                         "RAY_REDIS_PASSWORD="};
    size_t n = 0, m = 0;

    while (environ[n] != NULL)
        n++;
    char **v = xcalloc(n + 3, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        bool is_hidden = false;
        for (size_t k = 0; k < sizeof hidden / sizeof hidden[0]; k++)
            is_hidden = is_hidden || strncmp(environ[i], hidden[k], strlen(hidden[k])) == 0;
        if (!is_hidden)
            v[m++] = environ[i];
    }
    const char *password = s->o->redis_server[0] != '\0'
                               ? s->redis_password
                               : config_text(&s->o->config, CONFIG_REDIS_PASSWORD);
    if (id != REDIS && asprintf(&v[m++], "RAY_AUTH_TOKEN_PATH=%s/auth_token", s->session.dir) < 0)
        abort();
    if (id == GCS && password[0] != '\0'
        && asprintf(&v[m++], "RAY_REDIS_PASSWORD=%s", password) < 0)
        abort();
    return v;
}

static void free_environment(char **v)
{
    for (size_t i = 0; v[i] != NULL; i++)
        if (strncmp(v[i], "RAY_AUTH_TOKEN_PATH=", 20) == 0
            || strncmp(v[i], "RAY_REDIS_PASSWORD=", 19) == 0)
            free(v[i]);
    free(v);
}

static void add_gcs_words(const struct supervisor *s, struct words *w)
{
    const struct config *c = &s->o->config;
    bool is_private = s->o->redis_server[0] != '\0';
    const char *user = config_text(c, CONFIG_REDIS_USERNAME);

    words_add(w, "--address=%s:%d", s->o->listen_ip, s->gcs_port);
    words_add(w, "--redis=%s", is_private ? REDIS_SOCKET : s->o->redis_address);
    if (!is_private && user[0] != '\0')
        words_add(w, "--redis-username=%s", user);
    if (!is_private)
        words_add(w, "--namespace=%s", config_text(c, CONFIG_NAMESPACE));
    words_add(w, "--held-bytes=%s", config_text(c, CONFIG_HELD_BYTES));
    words_add(w, "--patience-ms=%s", config_text(c, CONFIG_PATIENCE));
    words_add(w, "--subscriber-bytes=%s", config_text(c, CONFIG_SUBSCRIBER_BYTES));
    words_add(w, "--subscriber-timeout-ms=%s", config_text(c, CONFIG_SUBSCRIBER_TIMEOUT));
    words_add(w, "--dead-nodes=%s", config_text(c, CONFIG_DEAD_NODES));
    words_add(w, "--log-file=%s/%s.err", s->session.logs, part_names[GCS]);
    words_add(w, "--driver-silence-ms=%s", config_text(c, CONFIG_DRIVER_SILENCE));
    words_add(w, "--ready-fd=%d", DAEMON_READY_FD);
}

static void add_raylet_words(const struct supervisor *s, struct words *w)
{
    const struct config *c = &s->o->config;

    words_add(w, "--session-dir=%s", s->session.dir);
    words_add(w, "--gcs-address=%s", s->file.gcs_address);
    words_add(w, "--node-ip-address=%s", s->o->node_ip);
    words_add(w, "--node-name=%s", s->file.node_name);
    words_add(w, "--node-manager-port=%s", config_text(c, CONFIG_NODE_MANAGER_PORT));
    words_add(w, "--object-manager-port=%s", config_text(c, CONFIG_OBJECT_MANAGER_PORT));
    if (config_text(c, CONFIG_LABELS)[0] != '\0')
        words_add(w, "--labels=%s", config_text(c, CONFIG_LABELS));
    if (s->o->is_head)
        words_add(w, "--head");
    words_add(w, "--ready-fd=%d", DAEMON_READY_FD);
    if (config_is_set(c, CONFIG_NUM_CPUS))
        words_add(w, "--num-cpus=%s", config_text(c, CONFIG_NUM_CPUS));
    if (config_is_set(c, CONFIG_OBJECT_STORE_MEMORY))
        words_add(w, "--object-store-memory=%s", config_text(c, CONFIG_OBJECT_STORE_MEMORY));
    for (unsigned i = 0; i < s->o->n_resources; i++)
        words_add(w,
                  "--resource=%s:%lld",
                  s->o->resources[i].name,
                  (long long)s->o->resources[i].units);
}

static const char *path_of(const struct supervisor *s, enum part_id id)
{
    return id == REDIS ? s->o->redis_server : id == GCS ? s->o->gcs_server : s->o->raylet;
}

int supervisor_start_part(struct part *p, struct err *err)
{
    struct supervisor *s = p->s;
    struct words w = {.n = 0};
    char **environment = make_environment(s, p->id);

    words_add(&w, "%s", path_of(s, p->id));
    if (p->id == REDIS)
        words_add(&w, "redis.conf");
    else if (p->id == GCS)
        add_gcs_words(s, &w);
    else
        add_raylet_words(s, &w);
    p->is_ready = false;
    p->started_ms = loop_now_ms();
    int rc = daemon_start(p->daemon, path_of(s, p->id), w.v, environment, err);
    words_free(&w);
    free_environment(environment);
    if (rc == 0)
        log_info("supervisor",
                 "start",
                 "part=%s pid=%d",
                 part_names[p->id],
                 (int)daemon_pid(p->daemon));
    return rc;
}

int supervisor_start_teller(struct supervisor *s, const char *what, struct err *err)
{
    struct words w = {.n = 0};
    char **environment = make_environment(s, RAYLET);

    words_add(&w, "ray");
    words_add(&w, "unregister");
    words_add(&w, "--address=%s", s->file.gcs_address);
    words_add(&w, "--node-id=%s", s->file.node_id);
    words_add(&w, "--death=its raylet %s", what);
    words_add(&w, "--timeout=" TELL_S);
    int rc = daemon_start(s->teller, "/proc/self/exe", w.v, environment, err);
    words_free(&w);
    free_environment(environment);
    return rc;
}
