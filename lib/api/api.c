/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"
#include "lib/base/clock.h"

/* Of a ray_config that says anything: a smaller size was left 0 by mistake. */
#define CONFIG_SIZE_MIN (offsetof(ray_config, num_cpus) + sizeof(int))

static int core_error(int code)
{
    switch (code) {
    case CORE_OK:
        return RAY_OK;
    case CORE_ETIMEOUT:
        return api_error(RAY_ETIMEOUT, "not ready within the time given");
    case CORE_ESTALE:
        return api_error(RAY_ESTALE, "not a ref of this process, or it was released");
    case CORE_EFORKED:
        return api_error_forked();
    case CORE_ENOMEM:
        return api_error(RAY_ENOMEM, "no memory");
    default:
        return api_error((ray_code)code, "a wrong argument, or ray_init was not called");
    }
}

static int stale_error(ray_ref ref)
{
    if (ref.word == 0 && api_has_orphan_error())
        return (int)ray_error()->code;
    return core_error(CORE_ESTALE);
}

int ray_init(const ray_config *config)
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
    if (address != NULL && address[0] != '\0' && strcmp(address, "local") != 0 && !core_in_worker())
        return api_error(RAY_EARG,
                         "the address is %.60s (ray_config or RAY_ADDRESS), but this release runs "
                         "clusters of one program on one machine: leave it out, or say \"local\"",
                         address);
    if (given.num_cpus < 0)
        return api_error(RAY_EARG, "num_cpus is %d: it must be 1 or more", given.num_cpus);
    int rc = api_parse_resources(given.resources, c.resources, &c.n_resources);
    if (rc != RAY_OK)
        return rc;
    c.num_cpus = given.num_cpus;
    c.temp_dir = given.temp_dir;
    c.no_log_to_driver = given.no_log_to_driver;
    rc = core_init(&c, &err);
    return rc == CORE_OK ? RAY_OK : api_error((ray_code)rc, "%s", err.text);
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

ray_ref ray_put_value(ray_value value)
{
    ray_ref ref = {0};
    struct packer p;
    int code = RAY_OK;

    if (!core_is_initialized() && ray_init(NULL) != RAY_OK) {
        ref.word = api_carry_error();
        return ref;
    }
    packer_init(&p);
    if (value.kind == RAY_REF)
        code = api_error(RAY_ETYPE, "a ref cannot be put: it is a ref already");
    else
        code = api_pack(&p, &value);
    if (code == RAY_OK) {
        ref.word = core_put(WIRE_META_XLANG, p.bytes, p.size, &code);
        if (code == CORE_EFULL)
            api_error(RAY_EFULL,
                      "a value of %zu bytes is longer than the %u that stay with their owner",
                      p.size,
                      CORE_INLINE_MAX);
        else if (code != CORE_OK)
            core_error(code);
    }
    if (code != RAY_OK)
        ref.word = api_carry_error();
    packer_fini(&p);
    return ref;
}

static int get_to(ray_ref ref, ray_slot slot, int64_t timeout_ms, bool take)
{
    struct core_value v;
    int rc = take ? core_take(ref.word, timeout_ms, &v) : core_get(ref.word, timeout_ms, &v);

    if (rc == CORE_ESTALE)
        return stale_error(ref);
    if (rc != CORE_OK)
        return core_error(rc);
    rc = api_unpack(v.bytes, v.size, v.meta, slot, true);
    core_value_drop(&v);
    return rc;
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
            ray_free(((ray_view *)p)->data);
            *(ray_view *)p = (ray_view){0};
        } else if (out.kind == RAY_BOX) {
            ray_box_drop(p);
        }
    }
}

/* Gets one by one within one deadline: what is there when it passes is still taken. */
int ray_get_many_to(const ray_ref *refs, size_t n, ray_slot out, int64_t timeout_ms)
{
    uint64_t start = timeout_ms > 0 ? clock_now_ns() : 0;
    int64_t left = timeout_ms;
    int rc = RAY_OK;
    size_t done = 0;

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

    if (n > 0 && !core_is_initialized())
        return core_error(CORE_ESTALE);
    int rc = core_wait((const uint64_t *)refs, n, num_returns, timeout_ms, ready);

    if (rc == CORE_EARG)
        return api_error(RAY_EARG,
                         "wait wants different refs and num_returns of 1 to %zu, not %zu",
                         n,
                         num_returns);
    return core_error(rc);
}

ray_ref ray_retain(ray_ref ref)
{
    core_error(core_retain(ref.word));
    return ref;
}

int ray_release(ray_ref ref)
{
    return core_error(core_release(ref.word));
}

int ray_watch(ray_ref ref, void *tag)
{
    return core_error(core_watch(ref.word, tag));
}

int ray_poll(ray_event *events, size_t max, int64_t timeout_ms)
{
    _Static_assert(sizeof(ray_event) == sizeof(struct core_event), "one layout");
    int n = core_poll((struct core_event *)events, max, timeout_ms);

    if (n < 0) {
        core_error(-n);
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
