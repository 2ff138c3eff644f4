/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"
#include "lib/base/clock.h"

/* Of a ray_config that says anything: a smaller size was left 0 by mistake. */
#define CONFIG_SIZE_MIN (offsetof(ray_config, num_cpus) + sizeof(int))

/* Of an object store, in bytes: the raylet's. */
#define STORE_MIN (1ull << 20)

static int stale_error(ray_ref ref)
{
    if (ref.word == 0 && api_has_orphan_error())
        return (int)ray_error()->code;
    return api_core_error(CORE_ESTALE, NULL);
}

/* Why the cluster could not be started when nobody had asked for it by ray_init. */
static struct {
    pthread_mutex_t lock;
    int code;
    char text[512];
} no_start = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_forked(void)
{
    return core_retain(0) == CORE_EFORKED;
}

static int start(const ray_config *config)
{
    struct core_config c = {0};
    struct err err = {0};
    const char *address = getenv("RAY_ADDRESS");
    ray_config given = {0};

    if (config != NULL && config->size < CONFIG_SIZE_MIN)
        return api_error(RAY_EARG,
                         "size of ray_config is %zu: fill it with RAY_CONFIG(.field = x)",
                         config->size);
    if (config != NULL)
        memcpy(&given, config, config->size < sizeof given ? config->size : sizeof given);
    if (given.address != NULL)
        address = given.address;
    if (address != NULL && address[0] == '\0')
        address = NULL;
    /* a program that says what its cluster should have wants one of its own */
    c.may_join = address == NULL && given.num_cpus == 0 && given.resources == NULL
                 && given.object_store_memory == 0;
    if (address != NULL && strcmp(address, "local") == 0)
        address = NULL;
    if (address != NULL && strcmp(address, "auto") != 0 && strpbrk(address, "/:") == NULL
        && !core_in_worker())
        return api_error(
            RAY_EARG,
            "the address is %.60s (ray_config or RAY_ADDRESS): say \"auto\", HOST:PORT "
            "of a cluster as `ray start` prints it, the path of a session folder, or "
            "\"local\" for a cluster of this program",
            address);
    if (address != NULL
        && (given.num_cpus > 0 || given.resources != NULL || given.object_store_memory > 0)
        && !core_in_worker())
        return api_error(RAY_EARG,
                         "num_cpus, resources and object_store_memory are the cluster's that runs "
                         "at %.60s: leave them out, or say \"local\" for a cluster of this program",
                         address);
    if (given.num_cpus < 0)
        return api_error(RAY_EARG, "num_cpus is %d: it must be 1 or more", given.num_cpus);
    if (given.object_store_memory != 0
        && (given.object_store_memory < STORE_MIN || given.object_store_memory > CORE_OBJECT_MAX))
        return api_error(RAY_EARG,
                         "object_store_memory is %llu: it must be %llu (1 MiB) to 2^46 bytes, or 0 "
                         "for 30 %% of what is available",
                         (unsigned long long)given.object_store_memory,
                         STORE_MIN);
    int rc = api_parse_resources(given.resources, c.resources, &c.n_resources);
    if (rc != RAY_OK)
        return rc;
    c.address = address;
    c.num_cpus = given.num_cpus;
    c.temp_dir = given.temp_dir;
    c.no_log_to_driver = given.no_log_to_driver;
    c.object_store_memory = given.object_store_memory;
    rc = core_init(&c, &err);
    return rc == CORE_OK ? RAY_OK : api_error((ray_code)rc, "%s", err.text);
}

int ray_init(const ray_config *config)
{
    if (is_forked())
        return api_error_forked();
    pthread_mutex_lock(&no_start.lock);
    no_start.code = RAY_OK;
    pthread_mutex_unlock(&no_start.lock);
    return start(config);
}

int ray_shutdown(void)
{
    struct err err = {0};
    int rc = core_shutdown(&err);

    if (rc == CORE_EFORKED)
        return api_error_forked();
    if (rc != CORE_OK)
        return api_error((ray_code)rc, "%s", err.text);
    if (!core_is_initialized())
        api_new_epoch();
    return RAY_OK;
}

void ray_free(const void *p)
{
    free((void *)(uintptr_t)p);
}

int api_start(void)
{
    if (core_is_initialized())
        return RAY_OK;
    if (is_forked())
        return api_error_forked(); /* and the lock may be anybody's */
    pthread_mutex_lock(&no_start.lock);
    int rc = no_start.code;
    if (rc != RAY_OK) {
        api_error((ray_code)rc, "%s", no_start.text);
    } else if (!core_is_initialized() && (rc = start(NULL)) != RAY_OK) {
        no_start.code = rc;
        snprintf(no_start.text, sizeof no_start.text, "%s", ray_error()->text);
    }
    pthread_mutex_unlock(&no_start.lock);
    return rc;
}

struct core_buffer api_take_buffer(ray_buffer *buffer)
{
    struct core_buffer b;

    _Static_assert(sizeof b == sizeof *buffer && sizeof b.block == sizeof buffer->block,
                   "one layout");
    memcpy(&b, buffer, sizeof b);
    *buffer = (ray_buffer){0};
    return b;
}

int api_put(const struct core_arg *packed, struct core_buffer *big, uint64_t *word)
{
    struct err err; /* large: a small put takes less time than to fill it */
    int code = CORE_OK;

    err.text[0] = '\0';
    if (big->data != NULL)
        *word = core_seal(big, packed->size, packed->meta, packed->refs, packed->n_refs, &code);
    else
        *word = core_put(packed->meta,
                         packed->bytes,
                         packed->size,
                         packed->refs,
                         packed->n_refs,
                         &code,
                         &err);
    if (code == CORE_ESTALE)
        return api_error(RAY_ESTALE,
                         "a ref inside the value was released, or is no ref of this "
                         "process");
    return api_core_error(code, &err);
}

ray_ref ray_put_at(const char *site, ray_value value)
{
    ray_ref ref = {0};
    struct packer p;
    struct core_arg packed;
    struct core_buffer big;

    core_call_site = site;
    packer_init(&p);
    int rc = api_start();
    if (rc == RAY_OK && value.kind == RAY_REF)
        rc = api_error(RAY_EARG, "a ref cannot be put: it is one already; ray_list(ref) can be");
    if (rc == RAY_OK)
        rc = api_pack(&p, &value, &packed, &big);
    if (rc == RAY_OK)
        rc = api_put(&packed, &big, &ref.word);
    if (rc != RAY_OK)
        ref.word = api_carry_error();
    packer_fini(&p);
    return ref;
}

int ray_create_at(const char *site, size_t size, ray_buffer *out)
{
    struct core_buffer buffer;
    struct err err = {0};

    core_call_site = site;
    if (size == 0)
        return api_error(RAY_EARG, "a buffer of 0 bytes: ask for 1 or more");
    int rc = api_start();
    if (rc != RAY_OK)
        return rc;
    rc = core_create(size, 0, &buffer, &err);
    if (rc != CORE_OK)
        return api_core_error(rc, &err);
    memcpy(out, &buffer, sizeof *out);
    return RAY_OK;
}

ray_ref ray_seal_at(const char *site, ray_buffer *buffer)
{
    ray_ref ref = {0};
    struct core_buffer b = api_take_buffer(buffer);
    int code = CORE_OK;

    core_call_site = site;
    if (b.data != NULL) {
        ref.word = core_seal(&b, b.size, WIRE_META_RAW, NULL, 0, &code);
    } else {
        code = CORE_EARG;
    }
    if (code == CORE_EARG)
        api_error(RAY_EARG, API_NO_BUFFER);
    else
        api_core_error(code, NULL);
    if (code != CORE_OK)
        ref.word = api_carry_error();
    return ref;
}

void ray_abandon(ray_buffer *buffer)
{
    struct core_buffer b = api_take_buffer(buffer);

    if (b.data != NULL)
        core_abort(&b);
}

int ray_free_object(ray_ref ref)
{
    int rc = core_free(ref.word);

    if (rc == CORE_EARG)
        return api_error(RAY_EARG,
                         "an object that is not ready cannot be freed: wait for it first, or "
                         "release the ref");
    if (rc == CORE_EOWNER)
        return api_error(RAY_EOWNER,
                         "only the process that owns an object can free it: release the ref");
    return api_core_error(rc, NULL);
}

int ray_get_object(ray_ref ref, ray_object *out)
{
    struct core_object o;
    int rc = core_get_object(ref.word, &o);

    if (rc != CORE_OK)
        return api_core_error(rc, NULL);
    *out = (ray_object){.is_ready = o.is_ready,
                        .is_error = o.is_error,
                        .is_owned = o.is_owned,
                        .in_store = o.in_store,
                        .size = o.size,
                        .n_refs = o.n_refs};
    id_hex(o.id.bytes, sizeof o.id.bytes, out->id);
    return RAY_OK;
}

/* A time that was computed and has passed must not wait for ever. */
static int check_timeout(int64_t timeout_ms)
{
    if (timeout_ms >= RAY_FOREVER)
        return RAY_OK;
    return api_error(RAY_EARG,
                     "timeout_ms is %lld: it must be 0 or more, or RAY_FOREVER",
                     (long long)timeout_ms);
}

static int get_to(ray_ref ref, ray_slot slot, int64_t timeout_ms, bool take)
{
    struct core_value v;
    int rc = check_timeout(timeout_ms);

    if (rc != RAY_OK)
        return rc;
    rc = take ? core_take(ref.word, timeout_ms, &v) : core_get(ref.word, timeout_ms, &v);

    if (rc == CORE_ESTALE)
        return stale_error(ref);
    if (rc != CORE_OK)
        return api_core_error(rc, NULL);
    return api_unpack_value(&v, slot);
}

int ray_get_to(ray_ref ref, ray_slot slot, int64_t timeout_ms)
{
    return get_to(ref, slot, timeout_ms, false);
}

int ray_take_to(ray_ref ref, ray_slot slot, int64_t timeout_ms)
{
    return get_to(ref, slot, timeout_ms, true);
}

/* What the first n items of a get that failed later were given. */
static void free_got(ray_slot out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *p = (char *)out.p + i * out.size;
        if (out.kind == RAY_STR) {
            ray_free(*(char **)p);
            *(char **)p = NULL;
        } else if (out.kind == RAY_VIEW) {
            ray_drop(p);
        } else if (out.kind == RAY_BOX) {
            ray_box_drop(p);
        } else if (out.kind == RAY_REF) {
            ray_release(*(ray_ref *)p);
            *(ray_ref *)p = (ray_ref){0};
        }
    }
}

/* Waits for all of them or the first error, then gets one by one within one deadline: what is there
 * when it passes is still taken. */
int ray_get_many_to(const ray_ref *refs, size_t n, ray_slot out, int64_t timeout_ms)
{
    uint64_t start = timeout_ms > 0 ? clock_now_ns() : 0;
    int64_t left = timeout_ms;
    int rc = check_timeout(timeout_ms);
    size_t done = 0, error = n;

    if (rc != RAY_OK)
        return rc;
    if (n > 1 && timeout_ms != 0
        && core_await_all((const uint64_t *)refs, n, timeout_ms, &error) == CORE_OK && error < n) {
        struct core_value v;
        rc = core_get(refs[error].word, 0, &v);
        if (rc == CORE_OK)
            return api_unpack_value(&v, (ray_slot){out.kind, out.p, out.size});
    }
    rc = RAY_OK;
    for (; done < n; done++) {
        ray_slot s = {out.kind, (char *)out.p + done * out.size, out.size};
        if (timeout_ms > 0) {
            left = timeout_ms - (int64_t)((clock_now_ns() - start) / 1000000u);
            left = left > 0 ? left : 0;
        }
        rc = ray_get_to(refs[done], s, left);
        if (rc != RAY_OK)
            break;
    }
    if (rc != RAY_OK)
        free_got(out, done);
    return rc;
}

int ray_wait(const ray_ref *refs, size_t n, size_t num_returns, int64_t timeout_ms, bool *ready)
{
    _Static_assert(sizeof(ray_ref) == sizeof(uint64_t), "a ref is a word");

    int rc = check_timeout(timeout_ms);
    if (rc != RAY_OK)
        return rc;
    if (n > 0 && !core_is_initialized())
        return api_core_error(CORE_ESTALE, NULL);
    rc = core_wait((const uint64_t *)refs, n, num_returns, timeout_ms, ready);

    if (rc == CORE_EARG)
        return api_error(RAY_EARG,
                         "wait wants different refs and num_returns of 1 to %zu, not %zu",
                         n,
                         num_returns);
    return api_core_error(rc, NULL);
}

ray_ref ray_retain(ray_ref ref)
{
    api_core_error(core_retain(ref.word), NULL);
    return ref;
}

int ray_release(ray_ref ref)
{
    return api_core_error(core_release(ref.word), NULL);
}

int ray_watch(ray_ref ref, void *tag)
{
    return api_core_error(core_watch(ref.word, tag), NULL);
}

int ray_poll(ray_event *events, size_t max, int64_t timeout_ms)
{
    _Static_assert(sizeof(ray_event) == sizeof(struct core_event), "one layout");

    if (check_timeout(timeout_ms) != RAY_OK)
        return -1;
    int n = core_poll((struct core_event *)events, max, timeout_ms);

    if (n < 0) {
        api_core_error(-n, NULL);
        return -1;
    }
    return n;
}

int ray_poll_fd(void)
{
    return core_poll_fd();
}

int ray_get_cluster(ray_cluster *out)
{
    struct core_info info;
    struct err err = {0};
    int rc = core_get_info(&info, &err);

    if (rc == CORE_EFORKED)
        return api_error_forked();
    if (rc != CORE_OK)
        return api_error((ray_code)rc, "%s", err.text);
    memset(out, 0, sizeof *out);
    out->n_nodes = info.n_nodes;
    out->n_workers = info.n_workers;
    out->n_resources = info.n_resources;
    for (unsigned i = 0; i < info.n_resources; i++) {
        memcpy(out->resources[i].name, info.resources[i].name, sizeof out->resources[i].name);
        out->resources[i].total = (double)info.resources[i].total / 10000;
        out->resources[i].available = (double)info.resources[i].available / 10000;
    }
    return RAY_OK;
}
