/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of a cluster of several machines: does what the lines of its standard input say,
 * answers each with a line. Nodes are named by the first 8 digits of their id.
 */
#include "tests/drivers/driver.h"

#include <signal.h>
#include <time.h>

#define MIB     (1u << 20)
#define N_NODES 64
#define N_REFS  4096

static ray_ref kept[N_REFS];
static int n_kept;

static uint64_t sum_of(const uint8_t *p, size_t size)
{
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < size; i += 997)
        h = (h ^ p[i]) * 1099511628211u;
    return h ^ size;
}

static void fill(uint8_t *p, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)(i * 31 + i / 4096 + seed);
}

static int return_node(ray_call *call)
{
    ray_context c;

    if (ray_get_context(call, &c) != RAY_OK)
        return -1;
    c.node[8] = '\0';
    return ray_return(call, 0, c.node);
}

static void work(int64_t us)
{
    struct timespec begin, now;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begin.tv_sec) * 1000000 + (now.tv_nsec - begin.tv_nsec) / 1000 < us);
}

/* What it is given, back. */
static int echo(ray_call *call)
{
    ray_view v;

    if (ray_arg(call, 0, &v) != RAY_OK)
        return -1;
    return ray_return(call, 0, ray_bytes(v.data, v.size));
}
RAY_REMOTE(echo);

/* So many bytes, in the frame of the answer. */
static int grow(ray_call *call)
{
    static uint8_t bytes[100000];
    int64_t size;

    if (ray_arg(call, 0, &size) != RAY_OK || size > (int64_t)sizeof bytes)
        return -1;
    return ray_return(call, 0, ray_bytes(bytes, (size_t)size));
}
RAY_REMOTE(grow);

/* Where it ran, after so many microseconds of work. */
static int where(ray_call *call)
{
    int64_t us;

    if (ray_arg(call, 0, &us) != RAY_OK)
        return -1;
    work(us);
    return return_node(call);
}
RAY_REMOTE(where);

/* Ends when all n run: each tells each. */
static int meet(ray_call *call)
{
    char name[32];
    int64_t i, n;

    if (ray_arg(call, 0, &i) != RAY_OK || ray_arg(call, 1, &n) != RAY_OK)
        return -1;
    for (int64_t k = 0; k < n; k++) {
        snprintf(name, sizeof name, "met-%ld", (long)k);
        send_event(name);
    }
    snprintf(name, sizeof name, "met-%ld", (long)i);
    await_events(name, (int)n);
    return return_node(call);
}
RAY_REMOTE(meet, .max_retries = RAY_ZERO);

static int hold(ray_call *call)
{
    ray_context c;

    if (ray_get_context(call, &c) != RAY_OK)
        return -1;
    printf("held %d %.8s\n", getpid(), c.node);
    fflush(stdout);
    for (;;)
        pause();
}
RAY_REMOTE(hold, .max_retries = RAY_ZERO);

static int make(ray_call *call)
{
    int64_t size, seed;
    ray_buffer b;

    if (ray_arg(call, 0, &size) != RAY_OK || ray_arg(call, 1, &seed) != RAY_OK
        || ray_create((size_t)size, &b) != RAY_OK)
        return -1;
    fill(b.data, b.size, (unsigned)seed);
    return ray_return(call, 0, &b);
}
RAY_REMOTE(make);

/* The same; notes in that file that it ran. */
static int make_noted(ray_call *call)
{
    char *path;

    if (ray_arg(call, 2, &path) != RAY_OK)
        return -1;
    note(path, "ran\n");
    return make(call);
}
RAY_REMOTE(make_noted);

/* What make() would have made, of what it made with another seed. */
static int derive(ray_call *call)
{
    int64_t by;
    ray_view v;
    ray_buffer b;

    if (ray_arg(call, 0, &v) != RAY_OK || ray_arg(call, 1, &by) != RAY_OK
        || ray_create(v.size, &b) != RAY_OK)
        return -1;
    const uint8_t *from = v.data;
    uint8_t *to = b.data;
    for (size_t i = 0; i < v.size; i++)
        to[i] = (uint8_t)(from[i] + by);
    return ray_return(call, 0, &b);
}
RAY_REMOTE(derive);

/* Two at once: with this seed and the next. */
static int make_two(ray_call *call)
{
    int64_t size, seed;

    if (ray_arg(call, 0, &size) != RAY_OK || ray_arg(call, 1, &seed) != RAY_OK)
        return -1;
    for (unsigned i = 0; i < 2; i++) {
        ray_buffer b;
        if (ray_create((size_t)size, &b) != RAY_OK)
            return -1;
        fill(b.data, b.size, (unsigned)seed + i);
        if (ray_return(call, i, &b) != 0)
            return -1;
    }
    return 0;
}
RAY_REMOTE(make_two, .num_returns = 2);

static int check_sum(ray_call *call)
{
    ray_view v;
    char text[64];
    ray_context c;

    if (ray_arg(call, 0, &v) != RAY_OK || ray_get_context(call, &c) != RAY_OK)
        return -1;
    snprintf(text, sizeof text, "%.8s %llu", c.node, (unsigned long long)sum_of(v.data, v.size));
    return ray_return(call, 0, text);
}
RAY_REMOTE(check_sum);

/* Its argument is a list with a ref: gets it itself. */
static int sum_inside(ray_call *call)
{
    ray_box list;
    ray_ref ref;
    ray_view v;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK)
        return -1;
    if (ray_get(ref, &v, RAY_FOREVER) != RAY_OK)
        return -1;
    int64_t sum = (int64_t)(sum_of(v.data, v.size) >> 1);
    ray_drop(&v);
    ray_release(ref);
    return ray_return(call, 0, sum);
}
RAY_REMOTE(sum_inside);

/* Hands the ref of its list on to a task at those resources, whose answer is its own. */
static int relay(ray_call *call)
{
    ray_box list;
    ray_ref ref;
    char *resources, *text;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK
        || ray_arg(call, 1, &resources) != RAY_OK)
        return -1;
    ray_ref sum = ray_submit(&ray_fn_check_sum,
                             RAY_OPTIONS(.resources = resources),
                             (ray_value[]){ray_v(ref)},
                             1);
    ray_release(ref);
    if (ray_take(sum, &text, RAY_FOREVER) != RAY_OK)
        return -1;
    int rc = ray_return(call, 0, text);
    ray_free(text);
    return rc;
}
RAY_REMOTE(relay);

RAY_DECLARE(fib);
static int fib(ray_call *call)
{
    int64_t n, a = 0, b = 0;

    if (ray_arg(call, 0, &n) != RAY_OK)
        return -1;
    if (n < 2)
        return ray_return(call, 0, n);
    ray_ref left = ray_remote(fib, n - 1), right = ray_remote(fib, n - 2);
    if (ray_take(left, &a, RAY_FOREVER) != RAY_OK || ray_take(right, &b, RAY_FOREVER) != RAY_OK)
        return -1;
    return ray_return(call, 0, a + b);
}
RAY_REMOTE(fib);

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

/* Appends its number, the second argument, to a file, the first: who ran how often. */
static int append_number(ray_call *call, int64_t *i)
{
    char *path;

    if (ray_arg(call, 0, &path) != RAY_OK || ray_arg(call, 1, i) != RAY_OK)
        return -1;
    FILE *f = fopen(path, "a");
    if (f == NULL)
        return ray_fail(call, "cannot open %s", path);
    fprintf(f, "%ld\n", (long)*i);
    fclose(f);
    return 0;
}

static int once(ray_call *call)
{
    int64_t i;

    return append_number(call, &i) != 0 ? -1 : ray_return(call, 0, i);
}
RAY_REMOTE(once, .max_retries = RAY_ZERO);

/* Appends its number and its node to a file, then works for so many microseconds. */
static int mark(ray_call *call)
{
    char *path, line[48];
    int64_t i, us;
    ray_context c;

    if (ray_arg(call, 0, &path) != RAY_OK || ray_arg(call, 1, &i) != RAY_OK
        || ray_arg(call, 2, &us) != RAY_OK || ray_get_context(call, &c) != RAY_OK)
        return -1;
    snprintf(line, sizeof line, "%ld %.8s\n", (long)i, c.node);
    note(path, line);
    work(us);
    return ray_return(call, 0, i);
}
RAY_REMOTE(mark);

static void failed(void)
{
    printf("error %d %s; node %.8s\n", ray_error()->code, ray_error()->text, ray_error()->node);
}

/* "node=count ..." of these refs, which are released. */
static void count_nodes(ray_ref *refs, int n)
{
    char names[N_NODES][9];
    int counts[N_NODES] = {0}, n_names = 0;
    bool ok = true;

    for (int i = 0; i < n; i++) {
        char *node;
        int k = 0;
        if (!ok || ray_take(refs[i], &node, RAY_FOREVER) != RAY_OK) {
            if (ok)
                failed();
            else
                ray_release(refs[i]);
            ok = false;
            continue;
        }
        while (k < n_names && strcmp(names[k], node) != 0)
            k++;
        if (k == n_names && n_names < N_NODES)
            snprintf(names[n_names++], sizeof names[0], "%s", node);
        counts[k]++;
        ray_free(node);
    }
    if (!ok)
        return;
    printf("nodes");
    for (int k = 0; k < n_names; k++)
        printf(" %s=%d", names[k], counts[k]);
    printf("\n");
}

static void many(const char *what, int n, int64_t x, const char *text)
{
    ray_ref *refs = calloc((size_t)n, sizeof *refs);

    CHECK(refs != NULL);
    for (int i = 0; i < n; i++) {
        if (strcmp(what, "where") == 0)
            refs[i] = ray_remote(where, x);
        else if (strcmp(what, "meet") == 0)
            refs[i] = ray_remote(meet, i, n);
        else
            refs[i] = ray_submit(&ray_fn_where,
                                 RAY_OPTIONS(.resources = text, .num_cpus = RAY_ZERO),
                                 (ray_value[]){ray_v(x)},
                                 1);
    }
    count_nodes(refs, n);
    free(refs);
}

static void add(int n)
{
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    int64_t y, n_right = 0;
    int code = RAY_OK;

    CHECK(refs != NULL);
    for (int i = 0; i < n; i++)
        refs[i] = ray_remote(add_one, i);
    for (int i = 0; i < n; i++) {
        int rc = ray_take(refs[i], &y, RAY_FOREVER);
        if (rc != RAY_OK && code == RAY_OK)
            failed();
        code = rc != RAY_OK ? rc : code;
        n_right += rc == RAY_OK && y == i + 1;
    }
    free(refs);
    if (code == RAY_OK)
        printf("ok %ld\n", (long)n_right);
}

/* With a result of many bytes that travels in a frame. */
static int once_at_length(ray_call *call)
{
    static uint8_t bytes[90000];
    int64_t i;

    return append_number(call, &i) != 0 ? -1 : ray_return(call, 0, ray_bytes(bytes, sizeof bytes));
}
RAY_REMOTE(once_at_length, .max_retries = RAY_ZERO);

static void run_once(int n, const char *path)
{
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    int64_t y, n_right = 0;

    CHECK(refs != NULL);
    for (int i = 0; i < n; i++)
        refs[i] = ray_remote(once, path, i);
    for (int i = 0; i < n; i++)
        n_right += ray_take(refs[i], &y, RAY_FOREVER) == RAY_OK && y == i;
    free(refs);
    printf("ok %ld\n", (long)n_right);
}

/* Says how many were right, and why the first was not. */
static void run_marks(int n, int64_t us, const char *path, int32_t max_retries)
{
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    int64_t y, n_right = 0;
    int code = RAY_OK;

    CHECK(refs != NULL);
    for (int64_t i = 0; i < n; i++)
        refs[i] = ray_submit(&ray_fn_mark,
                             RAY_OPTIONS(.max_retries = max_retries),
                             (ray_value[]){ray_v(path), ray_v(i), ray_v(us)},
                             3);
    for (int i = 0; i < n; i++) {
        int rc = ray_take(refs[i], &y, RAY_FOREVER);
        if (rc != RAY_OK && code == RAY_OK)
            failed();
        code = rc != RAY_OK ? rc : code;
        n_right += rc == RAY_OK && y == i;
    }
    free(refs);
    if (code == RAY_OK)
        printf("ok %ld\n", (long)n_right);
}

static void print_int(ray_ref ref)
{
    int64_t y;

    if (ray_take(ref, &y, RAY_FOREVER) == RAY_OK)
        printf("ok %ld\n", (long)y);
    else
        failed();
}

static ray_ref make_on(const char *resources, int64_t size, int64_t seed, int32_t max_retries)
{
    return ray_submit(&ray_fn_make,
                      RAY_OPTIONS(.resources = resources, .max_retries = max_retries),
                      (ray_value[]){ray_v(size), ray_v(seed)},
                      2);
}

/* n tasks with results of so many bytes each, which travel in the frames, and so do their arguments
 * if they echo; of one CPU, or those resources alone. */
static void echo_many(bool echoes, int n, size_t size, const char *resources)
{
    uint8_t *bytes = malloc(size);
    bool is_cpu = strcmp(resources, "CPU") == 0;

    CHECK(bytes != NULL && n_kept + n <= N_REFS);
    fill(bytes, size, (unsigned)n_kept);
    for (int i = 0; i < n; i++)
        kept[n_kept++] = ray_submit(
            echoes ? &ray_fn_echo : &ray_fn_grow,
            RAY_OPTIONS(.resources = is_cpu ? NULL : resources, .num_cpus = is_cpu ? 1 : RAY_ZERO),
            (ray_value[]){echoes ? ray_bytes(bytes, size) : ray_v((int64_t)size)},
            1);
    free(bytes);
    printf("ok %d\n", n_kept - 1);
}

/* Of the last n refs: how many have their value, and how many failed since a worker died. */
static void tally(int n)
{
    int n_right = 0, n_crashed = 0;

    for (; n > 0; n--) {
        ray_view v;
        int rc = ray_take(kept[--n_kept], &v, RAY_FOREVER);
        n_crashed += rc == RAY_ECRASH;
        if (rc == RAY_OK) {
            n_right++;
            ray_drop(&v);
        }
    }
    printf("tally %d %d\n", n_right, n_crashed);
}

/* The last n refs; how many bytes they hold. */
static void collect(int n)
{
    long long size = 0;

    for (; n > 0; n--) {
        ray_view v;
        if (ray_take(kept[--n_kept], &v, RAY_FOREVER) != RAY_OK) {
            failed();
            return;
        }
        size += (long long)v.size;
        ray_drop(&v);
    }
    printf("ok %lld\n", size);
}

/* The sum of what a ref holds, got here. */
static void print_sum(ray_ref ref)
{
    ray_view v;

    if (ray_get(ref, &v, RAY_FOREVER) != RAY_OK) {
        failed();
        return;
    }
    printf("sum %llu\n", (unsigned long long)sum_of(v.data, v.size));
    ray_drop(&v);
}

static void print_text(ray_ref ref)
{
    char *text;

    if (ray_take(ref, &text, RAY_FOREVER) != RAY_OK) {
        failed();
        return;
    }
    printf("sum %s\n", text);
    ray_free(text);
}

/* n tasks at once that read it; what each says, if all say the same. */
static void share(ray_ref ref, int n, const char *resources)
{
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    char *first = NULL, *text;
    int n_equal = 0;

    CHECK(refs != NULL);
    for (int i = 0; i < n; i++)
        refs[i] = ray_submit(&ray_fn_check_sum,
                             RAY_OPTIONS(.resources = resources),
                             (ray_value[]){ray_v(ref)},
                             1);
    for (int i = 0; i < n; i++) {
        if (ray_take(refs[i], &text, RAY_FOREVER) != RAY_OK) {
            failed();
            continue;
        }
        n_equal += first == NULL || strcmp(text, first) == 0;
        if (first == NULL)
            first = text;
        else
            ray_free(text);
    }
    if (n_equal == n)
        printf("sum %s\n", first);
    if (first != NULL)
        ray_free(first);
    free(refs);
}

static ray_ref put(int64_t size, int64_t seed)
{
    ray_buffer b;

    CHECK_CODE(ray_create((size_t)size, &b), RAY_OK);
    fill(b.data, b.size, (unsigned)seed);
    return ray_seal(&b);
}

static void obey(const char *line)
{
    char what[32] = "", text[256] = "";
    long a = 0, b = 0;

    if (sscanf(line, "%31s %ld %ld %255s", what, &a, &b, text) < 1)
        return;
    if (strcmp(what, "init") == 0) {
        int code = ray_init(NULL);
        if (code == RAY_OK)
            printf("ok %d\n", getpid());
        else
            failed();
    } else if (strcmp(what, "where") == 0 || strcmp(what, "meet") == 0
               || strcmp(what, "needing") == 0) {
        many(what, (int)a, b, text);
    } else if (strcmp(what, "add") == 0) {
        add((int)a);
    } else if (strcmp(what, "once") == 0) {
        run_once((int)a, text);
    } else if (strcmp(what, "mark") == 0) {
        run_marks((int)a, b, text, RAY_ZERO);
    } else if (strcmp(what, "retry") == 0) { /* the same, again if they are lost */
        run_marks((int)a, b, text, 3);
    } else if (strcmp(what, "fib") == 0) {
        print_int(ray_remote(fib, a));
    } else if (strcmp(what, "make") == 0) { /* a: bytes, b: seed, text: resources */
        CHECK(n_kept < N_REFS);
        kept[n_kept++] = make_on(text, a, b, 3);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "noted") == 0) { /* at b, text: the file */
        CHECK(n_kept < N_REFS);
        kept[n_kept++] =
            ray_submit(&ray_fn_make_noted,
                       RAY_OPTIONS(.resources = "b=1"),
                       (ray_value[]){ray_v((int64_t)a), ray_v((int64_t)b), ray_v(text)},
                       3);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "once_only") == 0) { /* the same, and not again */
        kept[n_kept++] = make_on(text, a, b, RAY_ZERO);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "once_more") == 0) { /* and not a third time */
        kept[n_kept++] = make_on(text, a, b, 1);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "two") == 0) {
        CHECK_CODE(ray_submit_n(&kept[n_kept],
                                2,
                                &ray_fn_make_two,
                                RAY_OPTIONS(.num_returns = 2, .resources = text),
                                (ray_value[]){ray_v((int64_t)a), ray_v((int64_t)b)},
                                2),
                   RAY_OK);
        n_kept += 2;
        printf("ok %d\n", n_kept - 2);
    } else if (strcmp(what, "derive") == 0) { /* of a, by b */
        kept[n_kept++] = ray_submit(&ray_fn_derive,
                                    RAY_OPTIONS(.resources = text),
                                    (ray_value[]){ray_v(kept[a]), ray_v((int64_t)b)},
                                    2);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "ready") == 0) { /* wherever it is */
        ray_event e;
        CHECK_CODE(ray_watch(kept[a], NULL), RAY_OK);
        printf("ok %d\n", ray_poll(&e, 1, RAY_FOREVER));
    } else if (strcmp(what, "put") == 0) {
        CHECK(n_kept < N_REFS);
        kept[n_kept++] = put(a, b);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "get") == 0) {
        print_sum(kept[a]);
    } else if (strcmp(what, "bring") == 0) {
        bool ready;
        printf("ok %d\n", ray_wait(&kept[a], 1, 1, RAY_FOREVER, &ready) == RAY_OK && ready);
    } else if (strcmp(what, "pass") == 0) { /* as an argument to where text is */
        print_text(ray_submit(&ray_fn_check_sum,
                              RAY_OPTIONS(.resources = text),
                              (ray_value[]){ray_v(kept[a])},
                              1));
    } else if (strcmp(what, "share") == 0) {
        share(kept[a], (int)b, text);
    } else if (strcmp(what, "inside") == 0) {
        print_int(ray_submit(&ray_fn_sum_inside,
                             RAY_OPTIONS(.resources = text),
                             (ray_value[]){ray_list(kept[a])},
                             1));
    } else if (strcmp(what, "relay") == 0) { /* from a task at resource a to one where text is */
        print_text(ray_submit(&ray_fn_relay,
                              RAY_OPTIONS(.resources = "a=1"),
                              (ray_value[]){ray_list(kept[a]), ray_v(text)},
                              2));
    } else if (strcmp(what, "free") == 0) {
        CHECK_CODE(ray_free_object(kept[a]), RAY_OK);
        printf("ok %ld\n", a);
    } else if (strcmp(what, "drop") == 0) {
        CHECK_CODE(ray_release(kept[a]), RAY_OK);
        printf("ok %ld\n", a);
    } else if (strcmp(what, "hold") == 0) {
        for (int i = 0; i < a; i++)
            kept[n_kept++] = ray_submit(&ray_fn_hold, RAY_OPTIONS(.resources = text), NULL, 0);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "after") == 0) { /* as "pass", but nobody waits for it */
        kept[n_kept++] = ray_submit(&ray_fn_check_sum,
                                    RAY_OPTIONS(.resources = text),
                                    (ray_value[]){ray_v(kept[a])},
                                    1);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "echo") == 0 || strcmp(what, "grow") == 0) {
        echo_many(strcmp(what, "echo") == 0, (int)a, (size_t)b, text); /* text: resources */
    } else if (strcmp(what, "once_at_length") == 0) {
        for (int64_t i = 0; i < a; i++)
            kept[n_kept++] = ray_remote(once_at_length, text, i);
        printf("ok %d\n", n_kept - 1);
    } else if (strcmp(what, "tally") == 0) {
        tally((int)a);
    } else if (strcmp(what, "stop") == 0) { /* as by Ctrl-Z */
        raise(SIGSTOP);
    } else if (strcmp(what, "collect") == 0) {
        collect((int)a);
    } else if (strcmp(what, "id") == 0) {
        ray_object o;
        CHECK_CODE(ray_get_object(kept[a], &o), RAY_OK);
        printf("id %s\n", o.id);
    } else if (strcmp(what, "await") == 0) {
        print_int(ray_retain(kept[a]));
    } else if (strcmp(what, "cluster") == 0) {
        ray_cluster c;
        CHECK_CODE(ray_get_cluster(&c), RAY_OK);
        printf("cluster %u %g\n", c.n_nodes, c.resources[0].total);
    } else if (strcmp(what, "shutdown") == 0) {
        printf("ok %d\n", ray_shutdown());
    } else if (strcmp(what, "exit") == 0) {
        exit((int)a);
    } else {
        printf("what is %s?\n", what);
    }
    fflush(stdout);
}

int main(void)
{
    char line[512];

    while (fgets(line, sizeof line, stdin) != NULL)
        obey(line);
    return 0;
}
