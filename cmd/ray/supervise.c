/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of a node are started one after the other, each when the one before is ready, and end
 * in the reverse order, each when the one after has ended:
 *
 *   redis-server -> gcs_server -> raylet            (a node that joins: the raylet alone)
 *
 * STARTING: a part that ends, or is not ready in time, ends the node; the report names it and shows
 * the end of its log. RUNNING: of the first two each is started again when it ends, after a delay
 * that doubles; they find what they kept, and others find them where they were. The raylet's end is
 * the node's, unless the GCS had declared it dead: then the machine joins again, as a new node; of
 * one that was killed the GCS is told. ENDING: SIGTERM to the last part that runs, SIGKILL after
 * the grace period.
 *
 * Each part has a death signal: if this process is killed they all end at once, by SIGTERM.
 */
#include "cmd/ray/supervise.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/ray/supervise_private.h"
#include "lib/base/log.h"

#define STEADY_MS 10000 /* who ran so long did not fail */
#define SLOW_MS   2000  /* then a part that is not ready is named */

#define GCS_REPLACED 3 /* exit status of a gcs_server: another head has this cluster */
#define RAYLET_DEAD  3 /* of a raylet: the GCS declared it dead */

const char *const part_names[] = {"redis-server", "gcs_server", "raylet"};

/* --- the end --- */

static void on_grace_over(void *arg)
{
    struct supervisor *s = arg;

    for (int i = RAYLET; i >= 0; i--)
        if (s->parts[i].daemon != NULL && daemon_is_running(s->parts[i].daemon)) {
            log_warn("supervisor", "kill", "part=%s msg=\"it does not end\"", part_names[i]);
            daemon_signal(s->parts[i].daemon, SIGKILL);
            return;
        }
}

/* The last part that runs is asked to end; when none is there, so is this. */
static void end_next(struct supervisor *s)
{
    loop_timer_end(s->grace);
    s->grace = NULL;
    if (s->teller != NULL && daemon_is_running(s->teller))
        return;
    for (int i = RAYLET; i >= 0; i--) {
        struct daemon *d = s->parts[i].daemon;
        if (d == NULL || !daemon_is_running(d))
            continue;
        daemon_signal(d, SIGTERM);
        s->grace = loop_after(s->loop,
                              (uint32_t)config_number(&s->o->config, CONFIG_GRACE_PERIOD, 0),
                              on_grace_over,
                              s);
        return;
    }
    loop_stop(s->loop);
}

static void end_timers(struct supervisor *s)
{
    loop_timer_end(s->slow);
    loop_timer_end(s->timeout);
    s->slow = s->timeout = NULL;
}

static void begin_end(struct supervisor *s, int status, const char *why)
{
    if (s->phase == ENDING)
        return;
    log_info("supervisor", "end", "status=%d msg=\"%s\"", status, why);
    if (!s->has_reported)
        supervisor_end_report(s, false, "the node was told to end before it was ready");
    s->phase = ENDING;
    s->status = status;
    end_timers(s);
    for (int i = 0; i < N_PARTS; i++) {
        loop_timer_end(s->parts[i].again);
        s->parts[i].again = NULL;
    }
    end_next(s);
}

/* The start has failed at this part. */
static void fail(struct supervisor *s, enum part_id id, const char *what)
{
    char *text = supervisor_describe(s, id, what);

    supervisor_end_report(s, false, text != NULL ? text : what);
    free(text);
    begin_end(s, 1, what);
}

/* --- ready --- */

static void write_file(struct supervisor *s)
{
    struct err err;

    if (node_file_write(&s->file, &err) != 0)
        log_warn("supervisor", "node_file", "msg=\"%s\"", err.text);
}

static void node_is_ready(struct supervisor *s)
{
    end_timers(s);
    s->phase = RUNNING;
    s->file.is_ready = true;
    write_file(s);
    if (s->o->is_head)
        node_file_set_current(&s->file);
    log_info("supervisor",
             "ready",
             "address=%s ms=%llu",
             s->file.gcs_address,
             (unsigned long long)(loop_now_ms() - s->began_ms));
    supervisor_say_ready(s);
}

static void on_slow(void *arg);
static void on_timeout(void *arg);

/* The next part that this node has, when the one before is ready. */
static void start_next(struct supervisor *s, int after)
{
    struct err err;
    int i = after + 1;

    while (i < N_PARTS && s->parts[i].daemon == NULL)
        i++;
    if (i == N_PARTS) {
        node_is_ready(s);
        return;
    }
    report_step(s->report, "starting %s", part_names[i]);
    end_timers(s);
    s->slow = loop_after(s->loop, SLOW_MS, on_slow, s);
    s->timeout = loop_after(s->loop,
                            (uint32_t)config_number(&s->o->config, CONFIG_START_TIMEOUT, 0),
                            on_timeout,
                            s);
    if (supervisor_start_part(&s->parts[i], &err) != 0) {
        char what[500];
        snprintf(what, sizeof what, "cannot be started: %s", err.text);
        fail(s, i, what);
    }
}

static void part_is_ready(struct part *p)
{
    struct supervisor *s = p->s;

    p->is_ready = true;
    log_info("supervisor",
             "part_ready",
             "part=%s ms=%llu",
             part_names[p->id],
             (unsigned long long)(loop_now_ms() - p->started_ms));
    if (s->phase == STARTING)
        start_next(s, p->id);
}

static int awaited(const struct supervisor *s)
{
    int i = 0;

    while (i < RAYLET && (s->parts[i].daemon == NULL || s->parts[i].is_ready))
        i++;
    return i;
}

static void on_slow(void *arg)
{
    struct supervisor *s = arg;
    char what[120];

    snprintf(what,
             sizeof what,
             "is not ready yet; it is waited for up to %s ms (RAY_start_timeout_ms)",
             config_text(&s->o->config, CONFIG_START_TIMEOUT));
    char *text = supervisor_describe(s, awaited(s), what);
    report_wait(s->report, text != NULL ? text : what);
    free(text);
}

static void on_timeout(void *arg)
{
    struct supervisor *s = arg;
    char what[80];

    snprintf(what,
             sizeof what,
             "was not ready within %s ms (RAY_start_timeout_ms)",
             config_text(&s->o->config, CONFIG_START_TIMEOUT));
    fail(s, awaited(s), what);
}

/* "ready PORT CLUSTER INCARNATION". */
static void on_gcs_line(struct part *p, const char *line)
{
    struct supervisor *s = p->s;
    char cluster[64];
    int port;

    if (sscanf(line, "ready %d %63s", &port, cluster) != 2)
        return;
    s->gcs_port = port;
    snprintf(s->file.cluster_id, sizeof s->file.cluster_id, "%s", cluster);
    snprintf(s->file.gcs_address, sizeof s->file.gcs_address, "%s:%d", s->o->node_ip, port);
    part_is_ready(p);
}

/* Its folder, then "node ID NUMBER PORT PORT". */
static void on_raylet_line(struct part *p, const char *line)
{
    struct node_file *f = &p->s->file;
    char id[64];
    int node_port, object_port;

    if (sscanf(line, "node %63s %*u %d %d", id, &node_port, &object_port) != 3)
        return;
    memcpy(f->node_id, id, sizeof id);
    f->node_manager_port = node_port;
    f->object_manager_port = object_port;
    part_is_ready(p);
    if (p->s->phase == RUNNING)
        write_file(p->s); /* it joined again, as a new node */
}

static void on_line(void *arg, const char *line)
{
    struct part *p = arg;

    if (p->id == GCS)
        on_gcs_line(p, line);
    else
        on_raylet_line(p, line);
}

/* A socket is made before it is listened at: gcs_server may have to try twice. */
static void on_redis_there(void *arg)
{
    struct supervisor *s = arg;

    if (!s->parts[REDIS].is_ready)
        part_is_ready(&s->parts[REDIS]);
}

/* --- ends of parts --- */

static void on_again(void *arg)
{
    struct part *p = arg;
    struct err err;

    loop_timer_end(p->again);
    p->again = NULL;
    if (supervisor_start_part(p, &err) == 0)
        return;
    log_err("supervisor", "start_again", "part=%s msg=\"%s\"", part_names[p->id], err.text);
    p->again = loop_after(p->s->loop, p->delay_ms, on_again, p);
}

static void start_again(struct part *p)
{
    const struct config *c = &p->s->o->config;
    uint32_t first = (uint32_t)config_number(c, CONFIG_RESTART_DELAY, 0);
    uint32_t most = (uint32_t)config_number(c, CONFIG_RESTART_DELAY_MAX, 0);

    if (p->delay_ms == 0 || loop_now_ms() - p->started_ms >= STEADY_MS)
        p->delay_ms = first;
    else
        p->delay_ms = 2 * p->delay_ms < most ? 2 * p->delay_ms : most;
    p->again = loop_after(p->s->loop, p->delay_ms, on_again, p);
}

static void on_told(void *arg, int status)
{
    struct supervisor *s = arg;

    if (status != 0)
        log_warn("supervisor", "tell", "msg=\"the GCS was not told: it will notice\"");
    end_next(s);
}

/* A raylet that was killed could not say good-bye; silence would tell the GCS later. */
static void tell_gcs(struct supervisor *s, const char *what)
{
    struct err err;

    s->teller = daemon_create(&(struct daemon_config){.loop = s->loop,
                                                      .name = "unregister",
                                                      .dir = s->session.dir,
                                                      .on_end = on_told,
                                                      .arg = s});
    if (supervisor_start_teller(s, what, &err) != 0)
        log_warn("supervisor", "tell", "msg=\"%s\"", err.text);
}

static void on_end_of_raylet(struct part *p, int status, const char *what)
{
    struct supervisor *s = p->s;

    if (WIFEXITED(status) && WEXITSTATUS(status) == RAYLET_DEAD) {
        start_again(p);
        return;
    }
    if (WIFSIGNALED(status) && s->file.node_id[0] != '\0')
        tell_gcs(s, what);
    begin_end(s, 1, "the raylet has ended");
}

static void on_end(void *arg, int status)
{
    struct part *p = arg;
    struct supervisor *s = p->s;
    char what[80];

    daemon_say_status(status, what, sizeof what);
    if (s->phase == ENDING) {
        log_info("supervisor", "ended", "part=%s msg=\"it %s\"", part_names[p->id], what);
        end_next(s);
        return;
    }
    log_warn("supervisor", "ended", "part=%s msg=\"it %s\"", part_names[p->id], what);
    if (s->phase == STARTING)
        fail(s, p->id, what);
    else if (p->id == RAYLET)
        on_end_of_raylet(p, status, what);
    else if (p->id == GCS && WIFEXITED(status) && WEXITSTATUS(status) == GCS_REPLACED)
        begin_end(s, 1, "another head has taken this cluster over");
    else
        start_again(p);
}

static void on_term(void *arg, bool readable, bool writable)
{
    struct supervisor *s = arg;

    (void)readable;
    (void)writable;
    begin_end(s, s->phase == STARTING ? 1 : 0, "a signal");
}

/* Who waited for the report has gone. */
static void on_listener_gone(void *arg, bool readable, bool writable)
{
    struct supervisor *s = arg;

    (void)readable;
    (void)writable;
    loop_unwatch(s->listener);
    s->listener = NULL;
    if (s->phase == STARTING)
        begin_end(s, 1, "ray start was ended before the node was ready");
}

/* --- life --- */

static int begin(struct supervisor *s, struct err *err)
{
    const struct start_options *o = s->o;

    s->term = loop_on_signal(s->loop, SIGTERM, on_term, s);
    s->interrupt = loop_on_signal(s->loop, SIGINT, on_term, s);
    s->hangup = loop_on_signal(s->loop, SIGHUP, on_term, s);
    if (s->report->fd >= 0 && !s->report->is_direct)
        s->listener = loop_watch_fd(s->loop, s->report->fd, on_listener_gone, s);
    if (node_file_save_token(s->session.dir, &o->token, err) != 0)
        return -1;
    s->file.supervisor_pid = (int)getpid();
    s->file.is_head = o->is_head;
    snprintf(s->file.session_dir, sizeof s->file.session_dir, "%s", s->session.dir);
    snprintf(s->file.node_ip_address, sizeof s->file.node_ip_address, "%s", o->node_ip);
    snprintf(s->file.node_name,
             sizeof s->file.node_name,
             "%s",
             config_is_set(&o->config, CONFIG_NODE_NAME) ? config_text(&o->config, CONFIG_NODE_NAME)
                                                         : o->node_ip);
    if (o->is_head)
        s->gcs_port = (int)config_number(&o->config, CONFIG_PORT, 0);
    else
        snprintf(s->file.gcs_address, sizeof s->file.gcs_address, "%s", o->gcs_address);
    if (node_file_write(&s->file, err) != 0)
        return -1;
    for (int i = 0; i < N_PARTS; i++) {
        struct part *p = &s->parts[i];
        *p = (struct part){.s = s, .id = i};
        if ((i != RAYLET && !o->is_head) || (i == REDIS && o->redis_server[0] == '\0'))
            continue;
        p->daemon = daemon_create(&(struct daemon_config){.loop = s->loop,
                                                          .name = part_names[i],
                                                          .dir = s->session.dir,
                                                          .has_ready_fd = i != REDIS,
                                                          .on_line = on_line,
                                                          .on_end = on_end,
                                                          .arg = p});
    }
    if (s->parts[REDIS].daemon == NULL)
        return 0;
    if (redis_configure(s->session.dir, s->redis_password, err) != 0)
        return -1;
    s->redis = redis_watch_create(s->loop, s->session.dir, on_redis_there, s, err);
    return s->redis != NULL ? 0 : -1;
}

/* No signal ends this half way: its handlers go, and `ray stop` may come late. */
static void finish(struct supervisor *s)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    for (int i = 0; i < N_PARTS; i++)
        daemon_destroy(s->parts[i].daemon);
    daemon_destroy(s->teller);
    redis_watch_destroy(s->redis);
    loop_unwatch(s->term);
    loop_unwatch(s->interrupt);
    loop_unwatch(s->hangup);
    loop_unwatch(s->listener);
    node_file_tidy(s->session.dir);
    close(s->session.lock_fd);
    loop_destroy(s->loop);
}

static void turn_end(void *arg)
{
    (void)arg;
}

int supervise(const struct start_options *o, struct report *r)
{
    struct supervisor s = {.o = o, .report = r, .began_ms = loop_now_ms()};
    const struct config *c = &o->config;
    char log[256];
    struct err err;

    signal(SIGPIPE, SIG_IGN);
    if (session_create_locked(&s.session, config_text(c, CONFIG_TEMP_DIR), SESSION_SUPERVISOR, &err)
        != 0) {
        report_end(r, false, err.text);
        return 1;
    }
    snprintf(log, sizeof log, "%s/supervisor.err", s.session.logs);
    log_open(log, /* else to stderr */
             (uint64_t)config_number(c, CONFIG_ROTATION_MAX_BYTES, 0),
             (unsigned)config_number(c, CONFIG_ROTATION_BACKUPS, 0),
             NULL);
    node_file_sweep(s.session.temp, (size_t)config_number(c, CONFIG_KEPT_SESSIONS, 0));
    s.loop = loop_create(&err);
    if (s.loop == NULL || begin(&s, &err) != 0) {
        char *text = supervisor_explain(&s, err.text);
        supervisor_end_report(&s, false, text != NULL ? text : err.text);
        free(text);
        s.status = 1;
    } else {
        start_next(&s, -1);
        loop_run(s.loop, turn_end, &s);
    }
    finish(&s);
    return s.status;
}
