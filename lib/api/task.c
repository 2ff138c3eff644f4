/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions, options and calls. A function with its default options keeps its template's number, so
 * a warm ray_remote is: pack the arguments on the stack, core_submit. In a worker the core hands a
 * call to execute(), which runs the registered body.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"

#define UNITS         10000.0
#define UNITS_MAX     1e14
#define ARGS_ON_STACK 16
#define ALIGN_OWNED   16

/* Numbers of templates are good for one cluster. */
static unsigned epoch;

struct bound {
    unsigned epoch;
    int template;
    unsigned n_returns;
    const ray_function *of; /* what ray_bind was given; NULL: itself */
};

struct owned {
    struct owned *next;
};

struct ray_call {
    struct core_call *core;
    const ray_function *function;
    struct owned *owned; /* strings given out, freed when the call ends */
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
    int rc = f->body(&call);

    if (rc != 0 && !call.failed) {
        const ray_failure *e = ray_error();
        if (e->code != RAY_OK)
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

int ray_arg_to(ray_call *call, unsigned i, ray_slot slot)
{
    if (i >= call->core->n_args)
        return api_error(RAY_EARG,
                         "argument %u of %s is missing: it was called with %u",
                         i,
                         call->function->name,
                         call->core->n_args);
    const struct core_arg *a = &call->core->args[i];
    if (slot.kind != RAY_STR)
        return api_unpack(a->bytes, a->size, a->meta, slot, false);
    char *s;
    int rc = api_unpack(a->bytes, a->size, a->meta, (ray_slot){RAY_STR, &s, sizeof s}, true);
    if (rc != RAY_OK)
        return rc;
    size_t n = strlen(s) + 1;
    struct owned *o = malloc(ALIGN_OWNED + n);
    if (o == NULL) {
        free(s);
        return api_error(RAY_ENOMEM, "no memory for a string of %zu bytes", n);
    }
    memcpy((char *)o + ALIGN_OWNED, s, n);
    free(s);
    o->next = call->owned;
    call->owned = o;
    *(const char **)slot.p = (char *)o + ALIGN_OWNED;
    return RAY_OK;
}

int ray_return_value(ray_call *call, unsigned i, ray_value value)
{
    struct packer p;

    packer_init(&p);
    int rc = api_pack(&p, &value);
    if (rc == RAY_OK) {
        rc = core_call_return(call->core, i, WIRE_META_XLANG, p.bytes, p.size);
        if (rc == CORE_EARG)
            api_error(RAY_EARG,
                      "%s returns %u values: value %u was given already, or is one too many",
                      call->function->name,
                      call->core->n_returns,
                      i);
        else if (rc == CORE_EFULL)
            api_error(RAY_EFULL,
                      "a value of %zu bytes is longer than the %u that travel inline: return "
                      "several parts",
                      p.size,
                      CORE_INLINE_MAX);
        else if (rc != CORE_OK)
            api_error((ray_code)rc, "no memory for a value of %zu bytes", p.size);
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
        if (strcmp(r->name, "CPU") == 0 || strcmp(r->name, "GPU") == 0
            || strcmp(r->name, "memory") == 0)
            return api_error(RAY_EARG, "resources may not contain %s: use its own option", r->name);
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

    return s != NULL ? (int)strtol(s, NULL, 10) : 3;
}

/* o is checked by size: a program built with an older header has fewer fields. */
static int make_template(const ray_function *f, const ray_options *o, struct bound *out)
{
    ray_options m = f->options, given = {0};
    struct core_template_spec spec = {.function = f->name};
    struct err err = {0};

    if (o != NULL) {
        memcpy(&given, o, o->size < sizeof given ? o->size : sizeof given);
        m.num_cpus = given.num_cpus != 0 ? given.num_cpus : m.num_cpus;
        m.resources = given.resources != NULL ? given.resources : m.resources;
        m.name = given.name != NULL ? given.name : m.name;
        m.num_returns = given.num_returns != 0 ? given.num_returns : m.num_returns;
        m.max_retries = given.max_retries != 0 ? given.max_retries : m.max_retries;
    }
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
    if (rc != RAY_OK)
        return rc;
    spec.name = m.name;
    spec.n_returns = (unsigned)n_returns;
    spec.max_retries = m.max_retries == 0 ? default_retries() : int_option(m.max_retries, 0);
    spec.cpu_units = llround(cpus * UNITS);
    int number = core_template(&spec, &err);
    if (number < 0)
        return api_error(RAY_EARG, "%s", err.text);
    *out = (struct bound){.epoch = epoch, .template = number, .n_returns = spec.n_returns};
    return RAY_OK;
}

static int find_template(ray_function *f, const ray_options *options, struct bound *out)
{
    struct bound *b = __atomic_load_n((struct bound **)&f->bound, __ATOMIC_ACQUIRE);

    if (options == NULL && b != NULL && b->epoch == epoch) {
        *out = *b;
        return RAY_OK;
    }
    if (!core_is_initialized()) {
        int rc = ray_init(NULL); /* as in Ray: the first submission starts what is needed */
        if (rc != RAY_OK)
            return rc;
    }
    int rc = make_template(f, options, out);
    if (rc != RAY_OK || options != NULL)
        return rc;
    struct bound *fresh =
        malloc(sizeof *fresh); /* an old one may be in use by another thread: kept */
    if (fresh != NULL) {
        *fresh = *out;
        __atomic_store_n((struct bound **)&f->bound, fresh, __ATOMIC_RELEASE);
    }
    return RAY_OK;
}

void api_new_epoch(void)
{
    epoch++;
}

ray_function *ray_bind(ray_function *f, const ray_options *options)
{
    ray_function *b = malloc(sizeof *b);

    if (b == NULL) {
        api_error(RAY_ENOMEM, "no memory to bind options");
        return f;
    }
    *b = *f;
    b->bound = NULL;
    if (options != NULL) {
        ray_options given = {0};
        memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
        if (given.num_cpus != 0)
            b->options.num_cpus = given.num_cpus;
        if (given.resources != NULL)
            b->options.resources = strdup(given.resources);
        if (given.name != NULL)
            b->options.name = strdup(given.name);
        if (given.num_returns != 0)
            b->options.num_returns = given.num_returns;
        if (given.max_retries != 0)
            b->options.max_retries = given.max_retries;
    }
    return b;
}

/* --- submitting --- */

static int submit(const struct bound *b, const ray_value *args, size_t n, uint64_t *words)
{
    struct core_arg on_stack[ARGS_ON_STACK], *v = on_stack;
    struct packer p;
    int rc = RAY_OK;

    if (n > UINT16_MAX)
        return api_error(RAY_EARG, "%zu arguments: at most %d", n, UINT16_MAX);
    if (n > ARGS_ON_STACK && (v = malloc(n * sizeof *v)) == NULL)
        return api_error(RAY_ENOMEM, "no memory for %zu arguments", n);
    packer_init(&p);
    for (size_t i = 0; i < n && rc == RAY_OK; i++) {
        v[i] = (struct core_arg){.meta = WIRE_META_XLANG};
        if (args[i].kind == RAY_REF) {
            v[i].ref = args[i].as.u;
            if (v[i].ref == 0)
                rc = api_error(RAY_ESTALE, "argument %zu is a ref of no task", i);
            continue;
        }
        size_t from = p.size;
        rc = api_pack(&p, &args[i]);
        v[i].size = (uint32_t)(p.size - from);
    }
    const uint8_t *at = p.bytes;
    for (size_t i = 0; i < n && rc == RAY_OK; i++) {
        v[i].bytes = at;
        at += v[i].size;
        if (v[i].ref == 0 && v[i].size > CORE_INLINE_MAX)
            rc = api_error(RAY_EFULL,
                           "argument %zu has %u bytes, more than the %u that travel inline: pass "
                           "several parts",
                           i,
                           v[i].size,
                           CORE_INLINE_MAX);
    }
    if (rc == RAY_OK) {
        rc = core_submit(b->template, v, (unsigned)n, words);
        if (rc == CORE_ESTALE)
            api_error(RAY_ESTALE,
                      "an argument is a ref that was released, or is of another process");
        else if (rc == CORE_EFORKED)
            api_error(RAY_EFORKED,
                      "this process was forked from one that uses Ray: exec a new program, or fork "
                      "before ray_init");
        else if (rc != CORE_OK)
            api_error((ray_code)rc,
                      rc == CORE_EFULL ? "the arguments have more than 10 MiB"
                                       : "the task cannot be submitted: no memory, or no cluster");
    }
    packer_fini(&p);
    if (v != on_stack)
        free(v);
    return rc;
}

/* "A submission never fails at the call": every ref carries the thread's error. */
static void carry_error(ray_ref *out, size_t n)
{
    const ray_failure *e = ray_error();

    for (size_t i = 0; i < n; i++)
        out[i].word = core_put_error((enum core_code)e->code, e->text);
}

int ray_submit_n(ray_ref *out,
                 size_t n_out,
                 ray_function *f,
                 const ray_options *options,
                 const ray_value *args,
                 size_t n)
{
    struct bound b;
    uint64_t on_stack[ARGS_ON_STACK], *words = on_stack;
    int rc = find_template(f, options, &b);

    if (rc == RAY_OK && b.n_returns != n_out && options == NULL && n_out > 0) {
        ray_options o = {.size = sizeof o, .num_returns = (int)n_out};
        rc = make_template(f, &o, &b);
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
    if (rc != RAY_OK)
        carry_error(out, n_out);
    if (words != on_stack)
        free(words);
    return rc;
}

ray_ref ray_submit(ray_function *f, const ray_options *options, const ray_value *args, size_t n)
{
    struct bound b;
    ray_ref ref = {0};
    uint64_t word = 0;
    int rc = find_template(f, options, &b);

    if (rc == RAY_OK && b.n_returns > 1)
        rc = api_error(RAY_EARG, "%s returns %u values: use ray_remote_n", f->name, b.n_returns);
    if (rc == RAY_OK)
        rc = submit(&b, args, n, &word);
    ref.word = word;
    if (rc != RAY_OK)
        carry_error(&ref, 1);
    return ref;
}

/* --- facts of a call --- */

int ray_get_context(const ray_call *call, ray_context *out)
{
    struct core_info info;
    struct err err = {0};
    struct task_id task;
    int rc = core_get_info(&info, &err);

    if (rc != CORE_OK)
        return api_error((ray_code)rc, "%s", err.text);
    memset(out, 0, sizeof *out);
    uint32_t job = info.job;
    task = call != NULL ? call->core->task : task_id_driver((struct job_id){job});
    id_hex(&job, sizeof job, out->job);
    id_hex(task.bytes, sizeof task.bytes, out->task);
    id_hex(info.node.bytes, sizeof info.node.bytes, out->node);
    id_hex(info.worker.bytes, sizeof info.worker.bytes, out->worker);
    out->attempt = call != NULL ? call->core->attempt : 0;
    snprintf(out->session_dir, sizeof out->session_dir, "%s", info.session_dir);
    return RAY_OK;
}
