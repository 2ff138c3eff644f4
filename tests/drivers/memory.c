/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs for `ray memory` to look at: objects in every state that a ref can be in, and books that
 * are made to disagree. Each prints its objects as "NAME ID", then "ready", and stays until a line
 * comes.
 */
#include "tests/drivers/driver.h"

#include <signal.h>

#define KIB   1024u
#define MIB   (KIB * KIB)
#define STORE (96 * MIB)

static void begin(int num_cpus)
{
    CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = num_cpus, .object_store_memory = STORE)), RAY_OK);
}

static void end(void)
{
    char line[16];

    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
    CHECK_CODE(ray_shutdown(), RAY_OK);
}

static void release(ray_ref ref)
{
    CHECK_CODE(ray_release(ref), RAY_OK);
}

static ray_ref put(size_t size)
{
    ray_buffer b;

    CHECK_CODE(ray_create(size, &b), RAY_OK);
    memset(b.data, 1, size);
    return ray_seal(&b);
}

static ray_ref name(const char *what, ray_ref ref)
{
    ray_object o;

    CHECK_CODE(ray_get_object(ref, &o), RAY_OK);
    printf("%s %s\n", what, o.id);
    fflush(stdout);
    return ref;
}

/* --- tasks --- */

static int wait_for_end(ray_call *call)
{
    send_event("runs");
    while (pause() < 0)
        continue;
    return ray_return(call, 0, 1);
}
RAY_REMOTE(wait_for_end);

static int fails(ray_call *call)
{
    return ray_fail(call, "as it should");
}
RAY_REMOTE(fails);

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

static ray_ref kept; /* by the worker, for its life */
static ray_view kept_view;

/* Keeps the ref in its list, and a view of it if told so. */
static int keeps(ray_call *call)
{
    ray_box list;
    int64_t with_view;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &kept) != RAY_OK
        || ray_arg(call, 1, &with_view) != RAY_OK)
        return -1;
    if (with_view && ray_get(kept, &kept_view, RAY_FOREVER) != RAY_OK)
        return -1;
    return ray_return(call, 0, (int64_t)getpid());
}
RAY_REMOTE(keeps);

/* Its own object in a list. */
static int gives_own(ray_call *call)
{
    ray_ref large = put(300 * KIB);
    int rc = ray_return(call, 0, ray_list(large, (int64_t)getpid()));

    ray_release(large);
    return rc;
}
RAY_REMOTE(gives_own);

/* --- scenarios --- */

/* What a program has itself. */
static void own(int argc, char **argv)
{
    ray_view view, of_released;
    char small[] = "a small value", *large = calloc(1, 200 * KIB);

    (void)argc;
    (void)argv;
    begin(1);
    name("small", ray_put(small));
    name("large", put(300 * KIB));
    ray_ref inner = name("inner", put(400 * KIB)), inner_small = name("inner_small", ray_put(7));
    name("outer", ray_put(ray_list(inner, inner_small, ray_bytes(large, 200 * KIB))));
    release(inner);
    release(inner_small);
    ray_ref viewed = name("viewed", put(500 * KIB));
    CHECK_CODE(ray_get(viewed, &view, RAY_FOREVER), RAY_OK);
    ray_ref gone = name("view_only", put(600 * KIB));
    CHECK_CODE(ray_get(gone, &of_released, RAY_FOREVER), RAY_OK);
    release(gone);
    ray_ref freed = name("freed", put(700 * KIB));
    CHECK_CODE(ray_get(freed, &of_released, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_free_object(freed), RAY_OK);
    ray_ref twice = name("twice", put(800 * KIB));
    ray_retain(twice);
    ray_ref done = name("done", ray_remote(add_one, 1)), failed = name("failed", ray_remote(fails));
    bool ready[2];
    CHECK_CODE(ray_wait((ray_ref[]){done, failed}, 2, 2, RAY_FOREVER, ready), RAY_OK);
    free(large);
    end();
}

/* What tasks hold: one runs, the others wait for it. */
static void pending(int argc, char **argv)
{
    ray_ref by_ref, in_list, both;

    (void)argc;
    (void)argv;
    begin(1);
    by_ref = name("by_ref", put(300 * KIB));
    in_list = name("in_list", put(400 * KIB));
    both = name("both", ray_put(1));
    ray_ref running = name("running", ray_remote(wait_for_end, by_ref, ray_list(in_list)));
    await_events("runs", 1);
    name("queued", ray_remote(add_one, both));
    name("waits", ray_remote(add_one, running));
    release(by_ref);
    release(in_list);
    end();
}

/* What a worker has of ours, and we of a worker that is dead. */
static void borrowed(int argc, char **argv)
{
    int64_t pid;
    ray_box box;
    ray_ref lent, viewed, own_of_worker;

    (void)argc;
    (void)argv;
    begin(3);
    lent = name("lent", put(300 * KIB));
    viewed = name("viewed", put(400 * KIB));
    ray_ref one = ray_remote(keeps, ray_list(lent), 0), two;
    CHECK_CODE(ray_get(one, &pid, RAY_FOREVER), RAY_OK);
    printf("keeps_lent %ld\n", (long)pid);
    ray_ref busy = ray_remote(wait_for_end); /* or it gets the next one too */
    await_events("runs", 1);
    two = ray_remote(keeps, ray_list(viewed), 1);
    CHECK_CODE(ray_get(two, &pid, RAY_FOREVER), RAY_OK);
    printf("keeps_viewed %ld\n", (long)pid);
    release(lent);
    release(viewed);
    ray_ref third = ray_remote(gives_own);
    CHECK_CODE(ray_get(third, &box, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_next(&box, &own_of_worker), RAY_OK);
    CHECK_CODE(ray_next(&box, &pid), RAY_OK);
    ray_box_drop(&box);
    name("of_worker", own_of_worker);
    printf("owner %ld\n", (long)pid);
    (void)busy;
    end();
}

/* Many refs, in one list too. */
static void many(int argc, char **argv)
{
    int n = argc > 0 ? (int)strtol(argv[0], NULL, 10) : 1000;
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    ray_value *items = calloc((size_t)n, sizeof *items);

    begin(1);
    for (int i = 0; i < n; i++) {
        refs[i] = ray_put(i);
        items[i] = ray_v(refs[i]);
    }
    name("list", ray_put(ray_list_of(items, (size_t)n)));
    for (int i = 0; i < n; i += 2)
        release(refs[i]);
    end();
    free(refs);
    free(items);
}

static const struct scenario scenarios[] = {
    {"own", 0, NULL, own},
    {"pending", 0, NULL, pending},
    {"borrowed", 0, NULL, borrowed},
    {"many", 0, NULL, many},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
