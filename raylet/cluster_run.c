/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster around this node, if there may be others: the client of gcs_server, the port of the
 * node service, what is known of the other nodes, coming and leaving. The node registers once; it
 * is ready, and its port answers, when it has a number. It ends when the GCS says that it is dead.
 * A driver's node has no port: it dials, and ends if it cannot join in time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/assert.h"
#include "lib/base/auth_token.h"
#include "lib/base/host_port.h"
#include "lib/base/log.h"
#include "lib/net/rpc_bridge.h"
#include "lib/net/rpc_client.h"
#include "lib/net/rpc_server.h"
#include "raylet/node_private.h"

#define FIRST_WAIT_MS 2000 /* before it is said that the GCS does not answer; then each WAIT_MS */
#define WAIT_MS       10000
#define LEAVE_MS      1000
#define FENCE_MS      1000 /* for the GCS to say it too */
#define SPILL_LOOK_MS 500
#define LOOK_MS       100 /* at most so often it is looked what waits */
#define GET_STATE     "/ray.c.NodeService/GetState"
#define GET_REFS      "/ray.c.NodeService/GetRefs"

struct cluster_run {
    unsigned magic;
    struct node *node;
    struct auth_token token;
    struct rpc_bridge *bridge;
    struct rpc_server *server;
    struct host_port gcs_at;
    char gcs[320], ip[64]; /* as rpc_client has it; of this machine */
    struct loop_timer *wait, *leave, *fence;
    uint32_t fenced_by;      /* node number of who said first that this one is dead */
    struct loop_timer *look; /* what was debited may be free again, and nobody says so */
    bool has_said_wait, has_said_unregistered, is_leaving;
    bool is_current; /* all nodes are known that the GCS knew when this one came */
    struct held_job *held;
    struct resources told; /* what was reported last */
    unsigned told_waiting;
    uint64_t looked_ms;
};
#define CLUSTER_RUN_MAGIC 0x434c5255u

/* --- the other nodes --- */

static void lose(struct node *n, uint32_t number, const char *why)
{
    struct peer *p = n->peers != NULL ? peers_find(n->peers, number) : NULL;

    cluster_view_remove(n->view, number);
    if (p == NULL)
        return;
    log_info("cluster", "node_dead", "number=%u why=\"%s\"", number, why);
    spill_run_on_node_lost(n, number, why);
    seek_run_on_node_lost(n, number);
    job_elsewhere_on_node_lost(n, number);
    guest_run_end_all(n, p);
    transfer_remove_node(n->transfer, number);
    peers_remove(n->peers, p);
    guest_run_on_room(n); /* what waited for room there */
}

static void on_node(void *arg, const struct node_view *v)
{
    struct cluster_run *c = arg;
    struct node *n = c->node;
    struct err err;

    CHECK_MAGIC(c, CLUSTER_RUN_MAGIC);
    if (!v->is_alive) {
        lose(n, v->number, v->death);
        return;
    }
    if (peers_find(n->peers, v->number) == NULL)
        log_info("cluster", "node", "number=%u address=%s:%d", v->number, v->address, v->node_port);
    struct peer *p = peers_add(n->peers, &v->id, v->number, v->address, v->node_port);
    if (p == NULL)
        return; /* it was declared dead before */
    if (transfer_add_node(n->transfer, v->number, v->address, (uint16_t)v->object_port, &err) != 0)
        log_warn("cluster", "no_data_port", "number=%u msg=\"%s\"", v->number, err.text);
    if (!v->is_driver)
        cluster_view_set(n->view, v);
    guest_run_on_node(n, p);
    gcs_relay_on_node(n, v);
    n->spill_due = true;
}

static void on_current(void *arg)
{
    struct cluster_run *c = arg;

    c->is_current = true;
    node_join_welcome(c->node);
}

bool cluster_run_is_current(const struct node *n)
{
    return n->around->is_current;
}

static void on_look(void *arg)
{
    struct cluster_run *c = arg;

    c->node->spill_due = true;
}

unsigned cluster_run_sum(const struct node *n,
                         struct wire_info_resource *out,
                         unsigned room,
                         unsigned *n_nodes)
{
    const struct resources *r = &n->resources;
    unsigned k = 0;

    *n_nodes = 1;
    if (n->view == NULL) {
        for (unsigned i = 0; i < r->n && k < room; i++, k++) {
            out[k] =
                (struct wire_info_resource){.total = r->total[i],
                                            .available = r->available[i] > 0 ? r->available[i] : 0};
            memcpy(out[k].name, r->names[i], sizeof out[k].name);
        }
        return k;
    }
    const char *name;
    int64_t total, available;
    *n_nodes = cluster_view_count(n->view);
    if (!node_is_drivers(n)) /* which is none of those that are counted */
        cluster_view_set_self(n->view, r);
    for (unsigned i = 0; k < room && cluster_view_sum(n->view, i, &name, &total, &available); i++) {
        out[k] =
            (struct wire_info_resource){.total = total, .available = available > 0 ? available : 0};
        memcpy(out[k].name, name, strnlen(name, sizeof out[k].name - 1));
        k++;
    }
    return k;
}

/* --- this node --- */

_Static_assert(RESOURCES_MAX <= NODE_RESOURCES_MAX, "all resources of a node are told");
_Static_assert(RESOURCE_UNIT == NODE_RESOURCE_UNIT, "amounts mean the same");

static unsigned count_waiting(const struct node *n)
{
    struct lease_stats stats;

    lease_get_stats(n->leases, 0, &stats);
    return stats.n_queued;
}

static void fill_self(void *arg, struct node_view *self)
{
    struct cluster_run *c = arg;
    const struct resources *r = &c->node->resources;
    int64_t room[RESOURCES_MAX];

    c->told = *r;
    c->told_waiting = count_waiting(c->node);
    self->n_waiting = c->told_waiting;
    if (node_is_drivers(c->node))
        return;
    self->n_resources = r->n;
    lease_get_room(c->node->leases, loop_now_ms(), room);
    for (unsigned i = 0; i < r->n; i++) {
        struct node_view_resource *out = &self->resources[i];
        memcpy(out->name, r->names[i], sizeof out->name);
        out->total = r->total[i];
        out->available = room[i] > 0 ? room[i] : 0;
    }
}

void cluster_run_turn_end(struct node *n)
{
    struct cluster_run *c = n->around;
    const struct resources *r = &n->resources;
    uint64_t now = c != NULL ? loop_now_ms() : 0;
    bool changed;

    if (c == NULL || n->number == 0)
        return;
    peers_flush(n->peers);
    changed = memcmp(r->available, c->told.available, r->n * sizeof r->available[0]) != 0;
    if (!changed && now - c->looked_ms >= LOOK_MS) {
        c->looked_ms = now;
        changed = count_waiting(n) != c->told_waiting;
    }
    if (changed)
        gcs_client_changed(n->gcs);
}

static void pass_on(void *arg, const void *bytes, size_t size)
{
    const struct cluster_run *c = arg;

    gcs_relay_pass_on(c->node, bytes, size);
}

static void fill_held(void *arg, struct held *out)
{
    struct cluster_run *c = arg;
    const struct node *n = c->node;
    size_t k = 0, room = 1;

    list_for_each(m, &n->jobs) room++;
    c->held = xrealloc(c->held, room * sizeof c->held[0]);
    if (n->number > 0) /* numbers that are unique in all jobs */
        c->held[k++] =
            (struct held_job){.processes = n->last_process > 0 ? n->last_process : n->number};
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->number > 0)
            c->held[k++] = (struct held_job){.job = j->number};
    }
    *out = (struct held){.jobs = c->held,
                         .n_jobs = k,
                         .blocks = n->blocks,
                         .n_blocks = n->n_blocks,
                         .node_number = n->number};
}

void cluster_run_fill_row(const struct node *n, struct node_row *row)
{
    const struct cluster_run *c = n->around;
    const char *name = n->config.node_name;

    snprintf(row->name, sizeof row->name, "%s", name != NULL ? name : c->ip);
    snprintf(row->address, sizeof row->address, "%s", c->ip);
    if (gethostname(row->hostname, sizeof row->hostname - 1) != 0)
        row->hostname[0] = '\0';
    snprintf(row->socket, sizeof row->socket, "%.90s/sockets/raylet", n->session.dir);
    row->is_driver = node_is_drivers(n);
    if (row->is_driver)
        return;
    row->node_port = rpc_server_port(c->server);
    row->object_port = transfer_port(n->transfer);
    row->is_head = n->config.is_head;
    if (n->config.labels != NULL)
        snprintf(row->labels, sizeof row->labels, "%s", n->config.labels);
    row->n_resources = n->resources.n;
    for (unsigned i = 0; i < n->resources.n; i++) {
        memcpy(row->resources[i].name, n->resources.names[i], sizeof row->resources[i].name);
        row->resources[i].amount = (double)n->resources.total[i] / RESOURCE_UNIT;
    }
}

const char *cluster_run_ip(const struct node *n)
{
    const struct cluster_run *c = n->around;

    return c != NULL ? c->ip : "";
}

int cluster_run_describe(const struct node *n, char *out, size_t size)
{
    const struct cluster_run *c = n->around;
    char hex[ID_HEX_MAX];

    return snprintf(out,
                    size,
                    "node %s %u %d %d\n",
                    id_hex(n->id.bytes, sizeof n->id.bytes, hex),
                    n->number,
                    rpc_server_port(c->server),
                    transfer_port(n->transfer));
}

static void on_message(void *arg,
                       struct peer *from,
                       const struct peer_header *h,
                       const uint8_t *body,
                       size_t size)
{
    guest_run_on_message(arg, from, h, body, size);
}

static void on_room(void *arg, struct peer *to)
{
    struct node *n = arg;

    (void)to;
    guest_run_on_room(n);
    list_for_each(m, &n->jobs)
    {
        const struct job *j = list_entry(m, struct job, node);
        if (j->driver != NULL && j->driver->is_guest)
            log_forward_resume(j->driver);
    }
}

static void on_peer_refused(void *arg, const struct unique_id *node, const struct err *why)
{
    char hex[ID_HEX_MAX];

    (void)arg;
    log_err("cluster",
            "no_session",
            "node=%s msg=\"%s\"",
            id_hex(node->bytes, sizeof node->bytes, hex),
            why->text);
}

static void on_fence(void *arg)
{
    struct cluster_run *c = arg;
    char why[80];

    snprintf(why, sizeof why, "this node was declared dead, says node %u", c->fenced_by);
    if (!c->is_leaving)
        node_end(c->node, NODE_STATUS_DEAD, why);
}

/* Whom the GCS cannot tell hears it from other nodes; but it knows why. */
static void on_dead(void *arg, struct peer *by)
{
    const struct node *n = arg;
    struct cluster_run *c = n->around;

    if (c->fence != NULL)
        return;
    c->fenced_by = peer_number(by);
    c->fence = loop_after(n->loop, FENCE_MS, on_fence, c);
}

void cluster_run_on_registered(struct node *n)
{
    struct cluster_run *c = n->around;
    char cluster[ID_HEX_MAX], id[ID_HEX_MAX];

    loop_timer_end(c->wait);
    c->wait = NULL;
    n->cluster = gcs_client_cluster(n->gcs);
    lease_table_number(n->leases, (uint64_t)n->number << LEASE_NODE_SHIFT);
    n->view = cluster_view_create(n->number, n->start_ms);
    if (!node_is_drivers(n))
        cluster_view_set_self(n->view, &n->resources);
    transfer_set_self(n->transfer, &n->cluster, n->number);
    n->peers = peers_create(&(struct peers_config){.loop = n->loop,
                                                   .bridge = c->bridge,
                                                   .server = c->server,
                                                   .token = &c->token,
                                                   .cluster = n->cluster,
                                                   .node = n->id,
                                                   .number = n->number,
                                                   .build = NODE_BUILD,
                                                   .on_message = on_message,
                                                   .on_room = on_room,
                                                   .on_refused = on_peer_refused,
                                                   .on_dead = on_dead,
                                                   .arg = n});
    gcs_relay_init(n);
    spill_run_init(n);
    seek_run_init(n);
    c->look = loop_every(n->loop, SPILL_LOOK_MS, on_look, c);
    id_hex(n->cluster.bytes, sizeof n->cluster.bytes, cluster);
    id_hex(n->id.bytes, sizeof n->id.bytes, id);
    if (c->server != NULL)
        rpc_server_start(c->server, cluster, id);
    log_info("cluster",
             "registered",
             "number=%u node=%s cluster=%s address=%s:%d",
             n->number,
             id,
             cluster,
             c->ip,
             c->server != NULL ? rpc_server_port(c->server) : 0);
}

/* --- coming and leaving --- */

static void on_refused(void *arg, const struct err *err)
{
    struct cluster_run *c = arg;
    struct node *n = c->node;
    struct err why = *err;

    if (c->is_leaving)
        return;
    if (node_is_drivers(n) && n->number == 0) {
        char from[120];
        const char *text = strstr(err->text, ": "); /* behind the method's name */
        text = err->text[0] == '/' && text != NULL ? text + 2 : err->text;
        if (err->code == ERR_DENIED && auth_token_source(from, sizeof from) != NULL)
            err_set(&why, err->code, "%.220s; the token of here is from %s", text, from);
        else if (err->code == ERR_NOT_FOUND) /* the first call there is */
            err_set(&why, err->code, "another server is there, no GCS: give `ray start`'s address");
        err_prefix(&why, "join the cluster at %.60s", n->config.gcs_address);
    }
    n->end_code = why.code;
    node_end(n, n->number > 0 ? NODE_STATUS_DEAD : NODE_STATUS_FAILED, why.text);
}

/* As getaddrinfo. */
static int look_up(const struct host_port *at, int socktype, struct addrinfo **list)
{
    const struct addrinfo hints = {.ai_socktype = socktype, .ai_flags = AI_NUMERICSERV};
    char port[8];

    *list = NULL;
    snprintf(port, sizeof port, "%d", at->port);
    return getaddrinfo(at->host, port, &hints, list);
}

/* What is at that address: why nobody has answered. */
static void look_for_gcs(const struct host_port *at, char *out, size_t size)
{
    const struct timeval limit = {.tv_sec = 1};
    struct addrinfo *list;

    int rc = look_up(at, SOCK_STREAM, &list);
    if (rc != 0) {
        snprintf(out, size, "its name is not found (%s)", gai_strerror(rc));
        return;
    }
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) == 0)
        snprintf(out, size, "something listens there, but it does not answer as a GCS does");
    else if (errno == ECONNREFUSED)
        snprintf(out, size, "nothing listens there: is the head up, is that its address?");
    else
        snprintf(out,
                 size,
                 "that machine does not answer (%s): is there a firewall?",
                 strerror(errno == EINPROGRESS ? ETIMEDOUT : errno));
    if (fd >= 0)
        close(fd);
    freeaddrinfo(list);
}

static bool is_greeted(const struct cluster_run *c)
{
    const struct unique_id nil = unique_id_nil(), cluster = gcs_client_cluster(c->node->gcs);

    return !unique_id_eq(&cluster, &nil);
}

/* Why nobody has let this node in. */
static void find_why(const struct cluster_run *c, char *out, size_t size)
{
    if (is_greeted(c))
        snprintf(out,
                 size,
                 "it is there, but does not register this node: does its Redis take changes? "
                 "gcs_server.err, on the head, tells");
    else
        look_for_gcs(&c->gcs_at, out, size);
}

static void on_wait(void *arg)
{
    struct cluster_run *c = arg;
    const char *at = c->node->config.gcs_address;
    bool *has_said = is_greeted(c) ? &c->has_said_unregistered : &c->has_said_wait;
    char found[160];

    log_warn("cluster", "waits_for_gcs", "address=%s", at);
    if (!*has_said) { /* it may take a second; nobody could do anything meanwhile */
        *has_said = true;
        find_why(c, found, sizeof found);
        fprintf(stderr, "raylet: waits for the GCS at %s: %s\n", at, found);
    }
    loop_timer_again(c->wait, WAIT_MS);
}

/* A driver waits for its answer. */
static void on_late(void *arg)
{
    struct cluster_run *c = arg;
    struct node *n = c->node;
    char found[160];
    struct err err;

    find_why(c, found, sizeof found);
    err_set(&err,
            ERR_AWAY,
            "no GCS has answered at %.100s for %d ms: %s",
            n->config.gcs_address,
            n->config.gcs_timeout_ms,
            found);
    n->end_code = err.code;
    node_end(n, NODE_STATUS_FAILED, err.text);
}

static void on_left(void *arg, enum err_code code)
{
    struct cluster_run *c = arg;

    if (code != ERR_CANCELED)
        loop_stop(c->node->loop);
}

static void on_leave_time(void *arg)
{
    struct cluster_run *c = arg;

    log_warn("cluster", "left_unsaid", "msg=\"the GCS did not answer the good-bye\"");
    loop_stop(c->node->loop);
}

void cluster_run_leave(struct node *n)
{
    struct cluster_run *c = n->around;

    if (n->number == 0 || c->is_leaving) {
        loop_stop(n->loop);
        return;
    }
    c->is_leaving = true;
    c->leave = loop_after(n->loop, LEAVE_MS, on_leave_time, c);
    gcs_client_unregister_node(n->gcs, on_left, c);
}

/* The address of this machine on the way to that one. */
static int find_own_ip(const struct host_port *at, char *ip, size_t size, struct err *err)
{
    struct addrinfo *list;
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    bool found = false;

    int rc = look_up(at, SOCK_DGRAM, &list);
    for (const struct addrinfo *a = list; rc == 0 && a != NULL && !found; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        len = sizeof own;
        found = fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0
                && getsockname(fd, (struct sockaddr *)&own, &len) == 0
                && getnameinfo((struct sockaddr *)&own,
                               len,
                               ip,
                               (socklen_t)size,
                               NULL,
                               0,
                               NI_NUMERICHOST)
                       == 0;
        if (fd >= 0)
            close(fd);
    }
    if (list != NULL)
        freeaddrinfo(list);
    if (found)
        return 0;
    return err_set(err,
                   ERR_NOT_FOUND,
                   "no way to the GCS at %.200s:%d is known (%s): is that its address, is there a "
                   "network?",
                   at->host,
                   at->port,
                   rc != 0 ? gai_strerror(rc) : "no route");
}

static int find_addresses(struct cluster_run *c, char listen[HOST_PORT_TEXT], struct err *err)
{
    const struct node_config *k = &c->node->config;
    struct in6_addr a;

    if (host_port_parse(k->gcs_address, 0, &c->gcs_at, err) != 0)
        return err_prefix(err, "--gcs-address");
    if (k->node_ip != NULL)
        snprintf(c->ip, sizeof c->ip, "%s", k->node_ip);
    else if (find_own_ip(&c->gcs_at, c->ip, sizeof c->ip, err) != 0)
        return -1;
    if (inet_pton(AF_INET6, c->ip, &a) != 1 && inet_pton(AF_INET, c->ip, &a) != 1)
        return err_set(err, ERR_INVALID, "--node-ip-address must be an address, not %.60s", c->ip);
    rpc_target(c->gcs_at.host, c->gcs_at.port, c->gcs, sizeof c->gcs);
    host_port_print(c->ip, k->node_port, listen, HOST_PORT_TEXT);
    return 0;
}

/* That the loop answers is the health: grpc.health.v1's {status: SERVING}. */
static void on_health(void *arg, struct rpc_call *call)
{
    static const uint8_t serving[] = {0x08, 0x01};

    (void)arg;
    rpc_call_reply(call, serving, sizeof serving);
}

/* `ray why` of any machine. */
static void on_get_state(void *arg, struct rpc_call *call)
{
    const struct cluster_run *c = arg;
    size_t size;

    CHECK_MAGIC(c, CLUSTER_RUN_MAGIC);
    void *bytes = why_run_tell(c->node, &size);
    rpc_call_reply(call, bytes, size);
    free(bytes);
}

static void on_get_refs(void *arg, struct rpc_call *call)
{
    const struct cluster_run *c = arg;

    CHECK_MAGIC(c, CLUSTER_RUN_MAGIC);
    memory_run_on_call(c->node, call);
}

/* The same for a command that cannot dial this node. */
static void on_question(void *arg, const struct node_question *q)
{
    const struct cluster_run *c = arg;
    size_t size;

    CHECK_MAGIC(c, CLUSTER_RUN_MAGIC);
    if (strcmp(q->method, GET_REFS) == 0) {
        memory_run_on_question(c->node, q);
        return;
    }
    if (strcmp(q->method, GET_STATE) != 0) {
        gcs_client_answer(c->node->gcs, q->number, NULL, 0, "no such method of a node");
        return;
    }
    void *bytes = why_run_tell(c->node, &size);
    gcs_client_answer(c->node->gcs, q->number, bytes, size, NULL);
    free(bytes);
}

static const struct rpc_method methods[] = {
    {GET_REFS, on_get_refs},
    {GET_STATE, on_get_state},
    {"/grpc.health.v1.Health/Check", on_health},
    {NULL, NULL},
};

int cluster_run_open(struct node *n, struct err *err)
{
    struct cluster_run *c = xcalloc(1, sizeof *c);
    char listen[HOST_PORT_TEXT];

    c->magic = CLUSTER_RUN_MAGIC;
    c->node = n;
    n->around = c;
    if (auth_token_load(&c->token, err) != 0 || find_addresses(c, listen, err) != 0)
        return -1;
    c->bridge = rpc_bridge_create(n->loop, err);
    if (c->bridge == NULL)
        return -1;
    if (!node_is_drivers(n)) {
        c->server = rpc_server_create(
            &(struct rpc_server_config){.bridge = c->bridge, .address = listen, .token = &c->token},
            err);
        if (c->server == NULL)
            return err_prefix(err, "open the port for other nodes");
        rpc_server_add(c->server, methods, c);
    }
    n->gcs = gcs_client_create(&(struct gcs_client_config){.loop = n->loop,
                                                           .bridge = c->bridge,
                                                           .address = c->gcs,
                                                           .token = &c->token,
                                                           .cluster = unique_id_nil(),
                                                           .node = n->id,
                                                           .incarnation = n->start_ms,
                                                           .held = fill_held,
                                                           .on_node = on_node,
                                                           .on_current = on_current,
                                                           .fill_self = fill_self,
                                                           .pass_on = pass_on,
                                                           .on_question = on_question,
                                                           .on_refused = on_refused,
                                                           .arg = c});
    c->wait = node_is_drivers(n) && n->config.gcs_timeout_ms > 0
                  ? loop_after(n->loop, (uint32_t)n->config.gcs_timeout_ms, on_late, c)
                  : loop_after(n->loop, FIRST_WAIT_MS, on_wait, c);
    return 0;
}

int cluster_run_listen(struct node *n, struct err *err)
{
    struct cluster_run *c = n->around;

    if (c == NULL)
        return 0;
    n->transfer = transfer_create(&(struct transfer_config){.loop = n->loop,
                                                            .store = n->store,
                                                            .store_actions = &n->store_actions,
                                                            .slot = STORE_RUN_TRANSFER,
                                                            .arena_fd = n->arena_fd,
                                                            .capacity = store_run_capacity(n),
                                                            .token = &c->token,
                                                            .address = c->ip,
                                                            .is_closed = node_is_drivers(n),
                                                            .port = (uint16_t)n->config.object_port,
                                                            .send_free = pull_run_send_free,
                                                            .send_call = pull_run_send_call,
                                                            .arg = n},
                                  err);
    return n->transfer != NULL ? 0 : err_prefix(err, "open the data port");
}

void cluster_run_close(struct node *n)
{
    struct cluster_run *c = n->around;

    if (c == NULL)
        return;
    CHECK_MAGIC(c, CLUSTER_RUN_MAGIC);
    loop_timer_end(c->wait);
    loop_timer_end(c->leave);
    loop_timer_end(c->fence);
    loop_timer_end(c->look);
    transfer_destroy(n->transfer);
    n->transfer = NULL;
    spill_run_fini(n);
    seek_run_fini(n);
    guest_run_end_all(n, NULL);
    job_elsewhere_forget_kept(n);
    peers_destroy(n->peers);
    n->peers = NULL;
    gcs_relay_fini(n);
    cluster_view_destroy(n->view);
    n->view = NULL;
    memory_run_end_calls(n);
    rpc_server_destroy(c->server);
    rpc_bridge_destroy(c->bridge);
    free(c->held);
    c->magic = 0;
    n->around = NULL;
    free(c);
}
