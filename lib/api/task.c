/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions, options and calls. A function with its default options keeps its template's number, so
 * a warm ray_remote is: pack the arguments on the stack, core_submit. In a worker the core hands a
 * call to execute(), which runs the registered body.
 */
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"

#define UNITS         10000.0
#define UNITS_MAX     1e14
#define ARGS_ON_STACK 16
#define VIEW_ALIGN    16 /* of bytes that are a value of their own; ray.h */
/* Of ray_options that say anything: a smaller size was left 0 by mistake. */
#define OPTIONS_SIZE_MIN (offsetof(ray_options, num_cpus) + sizeof(double))
#define BOUND_MAX        8 /* option sets of a function that are remembered */

/* Numbers of templates are good for one cluster; even after it has ended nobody frees a bound,
 * another thread may be reading it. */
static atomic_uint epoch;

/* What a function was called with before: its own options (is_default), or others. */
struct bound {
    struct bound *next;
    unsigned epoch;
    int template;
    unsigned n_returns;
    bool is_default;
    ray_options options; /* strings point behind the struct */
};

struct owned {
    struct owned *next;
};

struct ray_call {
    struct core_call *core;
    const ray_function *function;
    struct owned *owned; /* copies given out, freed when the call ends */
    bool failed;
};

static ray_function **functions;
static size_t n_functions;

void ray_register(ray_function *f)
{
    ray_function **v = realloc(functions, (n_functions + 1) * sizeof *v);

    if (v == NULL) {
        fputs("ray: no memory to register a function\n", stderr);
        abort();
    }
    functions = v;
    functions[n_functions++] = f;
}

ray_function *ray_lookup(const char *name)
{
    for (size_t i = 0; i < n_functions; i++)
        if (strcmp(functions[i]->name, name) == 0)
            return functions[i];
    api_error(RAY_EARG, "no function %s is registered in this program", name);
    return NULL;
}

static void *lookup(const char *name)
{
    for (size_t i = 0; i < n_functions; i++)
        if (strcmp(functions[i]->name, name) == 0)
            return functions[i];
    return NULL;
}

/* --- running --- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

static void execute(struct core_call *core)
{
    const ray_function *f = core->body;
    struct ray_call call = {.core = core, .function = f};

    api_clear(); /* an earlier call's error is not this one's */
    int rc = f->body(&call);

    if (rc != 0 && !call.failed) {
        const ray_failure *e = ray_error();
        if (e->code != RAY_OK && e->function[0] != '\0') /* of a task that this one asked for */
            ray_fail(&call,
                     "%s, from %s%s%s%s",
                     e->text,
                     e->function,
                     e->file[0] != '\0' ? " (" : "",
                     e->file,
                     e->file[0] != '\0' ? ")" : "");
        else if (e->code != RAY_OK)
            ray_fail(&call, "%s", e->text);
        else
            ray_fail(&call, "returned %d", rc);
    }
    while (call.owned != NULL) {
        struct owned *o = call.owned;
        call.owned = o->next;
        free(o);
    }
}

__attribute__((constructor(101))) static void install_face(void)
{
    static const struct core_face face = {.lookup = lookup, .execute = execute};

    core_set_face(&face);
}

int ray_fail(ray_call *call, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    call->failed = true;
    core_call_fail(call->core, CORE_ETASK, text, base_name(call->function->file));
    return RAY_ETASK;
}

unsigned ray_n_args(const ray_call *call)
{
    return call->core->n_args;
}

/* A copy of n bytes that lives as long as the call; NULL and the error. */
static void *own(ray_call *call, const void *p, size_t n)
{
    struct owned *o = malloc(VIEW_ALIGN + n);

    if (o == NULL) {
        api_error(RAY_ENOMEM, "no memory for an argument of %zu bytes", n);
        return NULL;
    }
    o->next = call->owned;
    call->owned = o;
    return memcpy((char *)o + VIEW_ALIGN, p, n);
}

/* rc; an error of its type says which argument it is. */
static int name_arg(int rc, unsigned i)
{
    char text[256];

    if (rc != RAY_ETYPE)
        return rc;
    snprintf(text, sizeof text, "%s", ray_error()->text);
    return api_error(RAY_ETYPE, "argument %u: %s", i, text);
}

int ray_arg_to(ray_call *call, unsigned i, ray_slot slot)
{
    if (i >= call->core->n_args)
        return api_error(RAY_EARG,
                         "argument %u of %s is missing: it was called with %u",
                         i,
                         call->function->name,
                         call->core->n_args);
    struct core_arg a = call->core->args[i];
    if (slot.kind == RAY_STR) {
        char *s;
        int rc = api_unpack_arg(&a, (ray_slot){RAY_STR, &s, sizeof s});
        if (rc != RAY_OK)
            return name_arg(rc, i);
        const char *copy = own(call, s, strlen(s) + 1);
        free(s);
        if (copy != NULL)
            *(const char **)slot.p = copy;
        return copy != NULL ? RAY_OK : RAY_ENOMEM;
    }
    /* one that came inline lies anywhere */
    if (a.meta == WIRE_META_RAW && (slot.kind == RAY_VIEW || slot.kind == RAY_BOX)
        && (uintptr_t)a.bytes % VIEW_ALIGN != 0 && (a.bytes = own(call, a.bytes, a.size)) == NULL)
        return RAY_ENOMEM;
    return name_arg(api_unpack_arg(&a, slot), i);
}

int ray_return_value(ray_call *call, unsigned i, ray_value value)
{
    struct packer p;
    struct core_arg a = {.meta = WIRE_META_RAW};
    struct core_buffer big;
    struct err err; /* large: not filled in a call that is made a million times a second */
    int rc = RAY_OK;

    err.text[0] = '\0';
    packer_init(&p);
    if (value.kind == RAY_BUF)
        big = api_take_buffer((void *)(uintptr_t)value.as.p);
    else
        rc = api_pack(&p, &value, &a, &big);
    if (rc == RAY_OK && value.kind == RAY_BUF && big.data == NULL)
        rc = api_error(RAY_EARG, API_NO_BUFFER);
    if (rc == RAY_OK) {
        rc = big.data != NULL
                 ? core_call_return_buffer(call->core, i, a.meta, &big, a.refs, a.n_refs, &err)
                 : core_call_return(call->core, i, a.meta, a.bytes, a.size, a.refs, a.n_refs, &err);
        if (rc == CORE_EARG && err.text[0] == '\0')
            api_error(RAY_EARG,
                      "%s returns %u values: value %u was given already, or is one too many",
                      call->function->name,
                      call->core->n_returns,
                      i);
        else
            api_core_error(rc, &err);
    }
    packer_fini(&p);
    return rc;
}

/* --- options --- */

int api_parse_resources(const char *text, struct core_resource *out, unsigned *n)
{
    *n = 0;
    while (text != NULL && *text != '\0') {
        size_t name = strcspn(text, "=,");
        char *end;
        if (text[name] != '=' || name == 0 || name >= sizeof out->name)
            return api_error(
                RAY_EARG,
                "resources=\"%.60s\": write name=amount,name=amount; names have 1 to 47 bytes",
                text);
        if (*n == CORE_N_RESOURCES)
            return api_error(RAY_EARG, "more than %d custom resources", CORE_N_RESOURCES);
        double amount = strtod(text + name + 1, &end);
        if (end == text + name + 1 || (*end != ',' && *end != '\0') || !(amount >= 0)
            || amount > UNITS_MAX)
            return api_error(RAY_EARG,
                             "resource %.*s: the amount must be a number of 0 or more",
                             (int)name,
                             text);
        struct core_resource *r = &out[*n];
        memset(r, 0, sizeof *r);
        memcpy(r->name, text, name);
        if (strcmp(r->name, "CPU") == 0)
            return api_error(RAY_EARG, "resources may not contain CPU: use num_cpus");
        if (strcmp(r->name, "memory") == 0)
            return api_error(RAY_EARG, "resources may not contain memory: use a task's memory");
        if (strcmp(r->name, "GPU") == 0 || strcmp(r->name, "object_store_memory") == 0)
            return api_error(RAY_EARG,
                             "resources may not contain %s: it is not a custom resource, and this "
                             "release has no option for it; choose another name",
                             r->name);
        r->units = llround(amount * UNITS);
        if (r->units > 0)
            ++*n;
        text = *end == ',' ? end + 1 : end;
    }
    return RAY_OK;
}

static int int_option(int given, int fallback)
{
    return given == RAY_ZERO ? 0 : given != 0 ? given : fallback;
}

static int default_retries(void)
{
    const char *s = getenv("RAY_TASK_MAX_RETRIES");
    char *end;
    long n = s != NULL ? strtol(s, &end, 10) : 0;

    return s != NULL && end != s && *end == '\0' && n >= -1 && n <= INT_MAX ? (int)n : 3;
}

/* o over m. A program built with an older header has fewer fields: size says so. 0: left out by
 * mistake. */
static int merge_options(ray_options *m, const ray_options *o)
{
    ray_options given = {0};

    if (o->size < OPTIONS_SIZE_MIN)
        return api_error(RAY_EARG,
                         "size of ray_options is %zu: fill it with RAY_OPTIONS(.field = x)",
                         o->size);
    memcpy(&given, o, o->size < sizeof given ? o->size : sizeof given);
    m->num_cpus = given.num_cpus != 0 ? given.num_cpus : m->num_cpus;
    m->resources = given.resources != NULL ? given.resources : m->resources;
    m->name = given.name != NULL ? given.name : m->name;
    m->num_returns = given.num_returns != 0 ? given.num_returns : m->num_returns;
    m->max_retries = given.max_retries != 0 ? given.max_retries : m->max_retries;
    m->memory = given.memory != 0 ? given.memory : m->memory;
    return RAY_OK;
}

static int add_memory(const ray_function *f, int64_t bytes, struct core_template_spec *spec)
{
    struct core_resource *r = &spec->resources[spec->n_resources];

    if (bytes == 0)
        return RAY_OK;
    if (bytes < 0 || (double)bytes > UNITS_MAX)
        return api_error(RAY_EARG,
                         "memory of %.47s is %lld: it is in bytes, 0 to 10^14",
                         f->name,
                         (long long)bytes);
    if (spec->n_resources == CORE_N_RESOURCES)
        return api_error(RAY_EARG, "memory and %d custom resources are too many", CORE_N_RESOURCES);
    *r = (struct core_resource){.name = "memory", .units = bytes * (int64_t)UNITS};
    spec->n_resources++;
    return RAY_OK;
}

/* m: all options, merged. */
static int make_template(const ray_function *f, const ray_options *merged, struct bound *out)
{
    ray_options m = *merged;
    struct core_template_spec spec = {.function = f->name};
    struct err err = {0};

    double cpus = m.num_cpus == 0 ? 1 : m.num_cpus == (double)RAY_ZERO ? 0 : m.num_cpus;
    if (!(cpus >= 0) || cpus > UNITS_MAX)
        return api_error(RAY_EARG,
                         "num_cpus of %.47s is %g: it must be a number of 0 or more",
                         f->name,
                         cpus);
    int n_returns = int_option(m.num_returns, 1);
    if (n_returns < 0)
        return api_error(RAY_EARG,
                         "num_returns of %.47s is %d: it must be 0 or more",
                         f->name,
                         n_returns);
    int rc = api_parse_resources(m.resources, spec.resources, &spec.n_resources);
    if (rc == RAY_OK)
        rc = add_memory(f, m.memory, &spec);
    if (rc != RAY_OK)
        return rc;
    spec.name = m.name;
    spec.n_returns = (unsigned)n_returns;
    spec.max_retries = m.max_retries == 0 ? default_retries() : int_option(m.max_retries, 0);
    spec.cpu_units = llround(cpus * UNITS);
    int number = core_template(&spec, &err);
    if (number < 0 && core_retain(0) == CORE_EFORKED)
        return api_error_forked();
    if (number < 0)
        return api_error(RAY_EARG, "%s", err.text);
    out->template = number;
    out->n_returns = spec.n_returns;
    return RAY_OK;
}

static bool same_string(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_options(const ray_options *a, const ray_options *b)
{
    return memcmp(&a->num_cpus, &b->num_cpus, sizeof a->num_cpus) == 0
           && a->num_returns == b->num_returns && a->max_retries == b->max_retries
           && a->memory == b->memory && same_string(a->name, b->name)
           && same_string(a->resources, b->resources);
}

static const char *copy_string(char **at, const char *s)
{
    char *copy = *at;

    if (s == NULL)
        return NULL;
    *at = stpcpy(copy, s) + 1;
    return copy;
}

static size_t string_size(const char *s)
{
    return s != NULL ? strlen(s) + 1 : 0;
}

/* Put what was found first in f's list, unless it is long; without memory it is found again. */
static void remember(ray_function *f, const ray_options *merged, struct bound *found)
{
    struct bound **head = (struct bound **)&f->bound,
                 *first = __atomic_load_n(head, __ATOMIC_ACQUIRE);
    unsigned n = 0;

    for (const struct bound *b = first; b != NULL && b->epoch == found->epoch; b = b->next)
        n++;
    if (n >= BOUND_MAX)
        return;
    size_t size = sizeof *found + string_size(merged->name) + string_size(merged->resources);
    struct bound *b = malloc(size);
    if (b == NULL)
        return;
    char *strings = (char *)(b + 1);
    *b = *found;
    b->options = *merged;
    b->options.name = copy_string(&strings, merged->name);
    b->options.resources = copy_string(&strings, merged->resources);
    b->next = first;
    while (
        !__atomic_compare_exchange_n(head, &b->next, b, false, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        continue;
}

static int find_template(ray_function *f, const ray_options *options, struct bound *out)
{
    unsigned now = atomic_load_explicit(&epoch, memory_order_acquire);
    const struct bound *b = __atomic_load_n((struct bound **)&f->bound, __ATOMIC_ACQUIRE);
    ray_options merged = {0};

    int rc = options != NULL ? merge_options(&merged, &f->options) : RAY_OK;
    if (rc == RAY_OK && options != NULL)
        rc = merge_options(&merged, options);
    if (rc != RAY_OK)
        return rc;
    for (; b != NULL && b->epoch == now; b = b->next)
        if (options == NULL ? b->is_default : same_options(&b->options, &merged)) {
            out->template = b->template;
            out->n_returns = b->n_returns;
            return RAY_OK;
        }
    rc = api_start(); /* as in Ray: the first submission starts what is needed */
    if (rc != RAY_OK)
        return rc;
    *out = (struct bound){.epoch = now, .is_default = options == NULL};
    if (options == NULL)
        rc = merge_options(&merged, &f->options);
    if (rc == RAY_OK)
        rc = make_template(f, &merged, out);
    if (rc == RAY_OK)
        remember(f, &merged, out);
    return rc;
}

void api_new_epoch(void)
{
    atomic_fetch_add(&epoch, 1);
}

/* Bound functions are never freed; the list keeps them reachable for leak checkers. */
struct kept {
    struct kept *next;
    ray_function f;
};
static struct kept *_Atomic all_bound;

ray_function *ray_bind(ray_function *f, const ray_options *options)
{
    ray_options m = {0};
    int rc = merge_options(&m, &f->options);

    if (rc == RAY_OK && options != NULL)
        rc = merge_options(&m, options);
    struct kept *k = malloc(sizeof *k + string_size(m.resources) + string_size(m.name));
    if (k == NULL) {
        api_error(RAY_ENOMEM, "no memory to bind options");
        return f;
    }
    char *strings = (char *)(k + 1);
    k->f = (ray_function){.size = sizeof k->f,
                          .name = f->name,
                          .file = f->file,
                          .body = f->body,
                          .options = m};
    k->f.options.size = rc == RAY_OK ? sizeof m : 0; /* 0: each submission fails and says so */
    k->f.options.resources = copy_string(&strings, m.resources);
    k->f.options.name = copy_string(&strings, m.name);
    k->next = atomic_load(&all_bound);
    while (!atomic_compare_exchange_weak(&all_bound, &k->next, k))
        continue;
    return &k->f;
}

/* --- submitting --- */

/* An argument above CORE_INLINE_MAX, or for which the *bytes before it leave no room, is put first
 * and then goes by its ref. */
static int make_arg(struct packer *p,
                    const ray_value *value,
                    size_t i,
                    struct core_arg *out,
                    size_t *bytes)
{
    struct core_buffer big;

    if (value->kind == RAY_REF) {
        *out = (struct core_arg){.ref = value->as.u};
        return out->ref != 0 ? RAY_OK
                             : api_error(RAY_ESTALE, "argument %zu is no ref: its word is 0", i);
    }
    int rc = api_pack(p, value, out, &big);
    size_t size = rc == RAY_OK ? out->size + out->n_refs * sizeof(struct wire_ref) : 0;
    if (rc == RAY_OK && (out->size > CORE_INLINE_MAX || *bytes + size > CORE_ARGS_MAX)) {
        struct core_arg packed = *out;
        *out = (struct core_arg){0};
        return api_put(&packed, &big, &out->ref);
    }
    *bytes += size;
    return rc;
}

static int submit(const struct bound *b, const ray_value *args, size_t n, uint64_t *words)
{
    struct core_arg on_stack[ARGS_ON_STACK], *v = on_stack;
    struct packer p;
    size_t made = 0, bytes = 0;
    int rc = RAY_OK;

    if (n > UINT16_MAX)
        return api_error(RAY_EARG, "%zu arguments: at most %d", n, UINT16_MAX);
    if (n > ARGS_ON_STACK && (v = malloc(n * sizeof *v)) == NULL)
        return api_error(RAY_ENOMEM, "no memory for %zu arguments", n);
    packer_init(&p);
    for (; made < n && rc == RAY_OK; made++) {
        v[made].ref = 0;
        rc = make_arg(&p, &args[made], made, &v[made], &bytes);
    }
    if (rc == RAY_OK) {
        rc = core_submit(b->template, v, (unsigned)n, words);
        if (rc == CORE_ESTALE)
            api_error(RAY_ESTALE,
                      "an argument is, or holds, a ref that was released, or is of another "
                      "process");
        else if (rc == CORE_EFORKED)
            api_error_forked();
        else if (rc != CORE_OK)
            api_error((ray_code)rc,
                      rc == CORE_ENOMEM
                          ? "no memory for one more task: get and release results before more are "
                            "submitted, or raise the limit (ulimit -v)"
                          : "the task cannot be submitted: no cluster: call ray_init first");
    }
    for (size_t i = 0; i < made; i++)
        if (v[i].ref != 0 && args[i].kind != RAY_REF)
            core_release(v[i].ref); /* the task has its own count */
    packer_fini(&p);
    if (v != on_stack)
        free(v);
    return rc;
}

int ray_submit_n_at(const char *site,
                    ray_ref *out,
                    size_t n_out,
                    ray_function *f,
                    const ray_options *options,
                    const ray_value *args,
                    size_t n)
{
    struct bound b;
    uint64_t on_stack[ARGS_ON_STACK], *words = on_stack;

    core_call_site = site;
    int rc = find_template(f, options, &b);

    if (rc == RAY_OK && b.n_returns != n_out && options == NULL && n_out > 0) {
        ray_options o = {.size = sizeof o, .num_returns = n_out <= INT_MAX ? (int)n_out : INT_MAX};
        rc = find_template(f, &o, &b);
    }
    if (rc == RAY_OK && b.n_returns != n_out)
        rc = api_error(RAY_EARG,
                       "%s returns %u values, not %zu: set .num_returns",
                       f->name,
                       b.n_returns,
                       n_out);
    if (rc == RAY_OK && n_out > ARGS_ON_STACK && (words = malloc(n_out * sizeof *words)) == NULL)
        rc = api_error(RAY_ENOMEM, "no memory for %zu refs", n_out);
    if (rc == RAY_OK)
        rc = submit(&b, args, n, words);
    for (size_t i = 0; rc == RAY_OK && i < n_out; i++)
        out[i].word = words[i];
    for (size_t i = 0; rc != RAY_OK && i < n_out; i++)
        out[i].word = api_carry_error();
    if (words != on_stack)
        free(words);
    return rc;
}

ray_ref ray_submit_at(const char *site,
                      ray_function *f,
                      const ray_options *options,
                      const ray_value *args,
                      size_t n)
{
    struct bound b;
    ray_ref ref = {0};
    uint64_t word = 0;

    core_call_site = site;
    int rc = find_template(f, options, &b);

    if (rc == RAY_OK && b.n_returns > 1)
        rc = api_error(RAY_EARG, "%s returns %u values: use ray_remote_n", f->name, b.n_returns);
    if (rc == RAY_OK)
        rc = submit(&b, args, n, &word);
    ref.word = word;
    if (rc != RAY_OK)
        ref.word = api_carry_error();
    return ref;
}

/* --- facts of a call --- */

int ray_get_context(const ray_call *call, ray_context *out)
{
    struct core_facts facts;
    struct err err = {0};
    struct task_id task;
    int rc = core_get_facts(&facts, &err);

    if (rc == CORE_EFORKED)
        return api_error_forked();
    if (rc != CORE_OK)
        return api_error((ray_code)rc, "%s", err.text);
    memset(out, 0, sizeof *out);
    uint32_t job = facts.job;
    task = call != NULL ? core_call_task(call->core) : task_id_driver((struct job_id){job});
    id_hex(&job, sizeof job, out->job);
    id_hex(task.bytes, sizeof task.bytes, out->task);
    id_hex(facts.node.bytes, sizeof facts.node.bytes, out->node);
    id_hex(facts.worker.bytes, sizeof facts.worker.bytes, out->worker);
    out->attempt = call != NULL ? call->core->attempt : 0;
    snprintf(out->session_dir, sizeof out->session_dir, "%s", facts.session_dir);
    return RAY_OK;
}
