/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs for `ray memory` to look at: objects in every state that a ref can be in, and books that
 * are made to disagree. Each prints its objects as "NAME ID", then "ready", and stays until a line
 * comes.
 */
#include "tests/drivers/driver.h"

#include <signal.h>
#include <time.h>

#include "objstore/pin.h"

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

/* While the store is full something small. */
static ray_ref put_if_fits(size_t size)
{
    ray_buffer b;

    if (ray_create(size, &b) != RAY_OK)
        return ray_put(1);
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

/* --- kills --- */

static int who(ray_call *call)
{
    return ray_return(call, 0, (int64_t)getpid());
}
RAY_REMOTE(who);

/* Reads what its list names, keeps one of it in place of what it kept before, and returns that, an
 * object of its own, and another inside a third one. */
static int mixes(ray_call *call)
{
    static ray_ref keeps_one;
    ray_ref refs[3] = {{0}}, large = put_if_fits(150 * KIB), nested = ray_put(ray_list(large, 1));
    ray_box list, value;

    if (ray_arg(call, 0, &list) != RAY_OK)
        return -1;
    for (int i = 0; i < 3 && ray_next(&list, &refs[i]) == RAY_OK; i++)
        if (ray_get(refs[i], &value, 20) == RAY_OK)
            ray_box_drop(&value);
    if (keeps_one.word != 0)
        ray_release(keeps_one);
    keeps_one = refs[0];
    int rc = ray_return(call, 0, ray_list(keeps_one, large, nested));
    ray_release(refs[1]);
    ray_release(refs[2]);
    ray_release(large);
    ray_release(nested);
    return rc;
}
RAY_REMOTE(mixes);

#define POOL 40

static unsigned dice(unsigned n)
{
    static uint64_t x = 88172645463325252u;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)(x >> 33) % n;
}

static ray_ref make_one(const ray_ref *pool)
{
    ray_ref a = pool[dice(POOL)], b = pool[dice(POOL)], c = pool[dice(POOL)];

    switch (dice(4)) {
    case 0:
        return ray_put((int64_t)dice(1000));
    case 1:
        return put_if_fits(120 * KIB + dice(200) * KIB);
    case 2:
        return ray_put(ray_list(a, b, c));
    default:
        return ray_remote(mixes, ray_list(a, b, c), b);
    }
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Puts, gets, nests and lends for so many seconds while its workers are killed. */
static void kills(int argc, char **argv)
{
    double end_s = now_s() + (argc > 0 ? strtod(argv[0], NULL) : 1);
    ray_ref pool[POOL];
    int n_kills = 0, n_rounds = 0;
    int64_t pid;
    ray_box value;

    begin(3);
    for (int i = 0; i < POOL; i++)
        pool[i] = ray_put((int64_t)i);
    printf("begins\n");
    fflush(stdout);
    for (; now_s() < end_s; n_rounds++) {
        for (int i = 0; n_rounds % 400 == 399 && i < POOL; i++) { /* chains grow */
            ray_release(pool[i]);
            pool[i] = ray_put((int64_t)i);
        }
        ray_ref *r = &pool[dice(POOL)], made = make_one(pool);
        ray_release(*r);
        *r = made;
        if (dice(3) == 0 && ray_get(pool[dice(POOL)], &value, 5) == RAY_OK)
            ray_box_drop(&value);
        if (dice(60) == 0 && ray_take(ray_remote(who), &pid, RAY_FOREVER) == RAY_OK
            && kill((pid_t)pid, SIGKILL) == 0)
            n_kills++;
    }
    printf("rounds %d\nkills %d\n", n_rounds, n_kills);
    for (int i = 0; i < POOL; i++)
        release(pool[i]);
    end();
}

/* --- books that disagree: what the raylet is told by others' memory is foreign input --- */

/* Where this process has that memfd, for reading at least. */
static void *mapping_of(const char *memfd)
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned long start = 0;
    char line[512];

    while (f != NULL && start == 0 && fgets(line, sizeof line, f) != NULL)
        if (strstr(line, memfd) != NULL)
            start = strtoul(line, NULL, 16);
    if (f != NULL)
        fclose(f);
    CHECK(start != 0);
    return (void *)start;
}

/* The first entry in that state, of an object of this size if it is sealed. */
static uint64_t place_of(enum store_state state, uint64_t size, uint64_t *offset)
{
    const struct index_entry *index = mapping_of("/memfd:ray-index");

    for (uint32_t i = 1; i < 1000; i++) {
        uint64_t word = atomic_load(&index[i].word);
        if ((uint32_t)word != state || (state == STORE_ENTRY_SEALED && index[i].size != size))
            continue;
        *offset = index[i].offset;
        return store_place((uint32_t)(word >> 32), i);
    }
    return 0;
}

static void planted(int argc, char **argv)
{
    const char *what = argc > 0 ? argv[0] : "";
    uint64_t offset = 0, unused, place = 0;

    begin(1);
    ray_ref ref = name("object", put(300 * KIB));
    struct store_share *share =
        (void *)((char *)mapping_of("/memfd:ray-control") + STORE_SHARE_OFFSET);
    struct store_record r = {.owner = 1, .counter = 4711, .index = 1, .size = 4096};
    bool done; /* until the raylet has read the ring */
    CHECK_CODE(ray_wait(&ref, 1, 1, RAY_FOREVER, &done), RAY_OK);
    while (place == 0) {
        ray_cluster any;
        CHECK_CODE(ray_get_cluster(&any), RAY_OK);
        place = place_of(STORE_ENTRY_SEALED, 300 * KIB, &offset);
    }
    r.place = place;
    if (strcmp(what, "pin") == 0) {
        atomic_store(&share->pins[0], place);
        atomic_store(&share->ring.n_pins, 1);
        end();
        return;
    }
    r.kind = strcmp(what, "hold") == 0 ? STORE_HOLD : strcmp(what, "free") == 0 ? STORE_FREE : 0;
    if (r.kind == 0) { /* an object that nobody knows, in memory that is lent to us */
        r.kind = STORE_SEAL;
        r.place = place_of(STORE_ENTRY_LENT, 0, &unused);
        r.offset = offset + 600 * KIB;
        r.owner = strcmp(what, "stranger") == 0 ? 7777 : 2; /* 1 is the node */
    }
    CHECK(ring_post(&share->ring, &r, NULL));
    end();
}

static const struct scenario scenarios[] = {
    {"own", 0, NULL, own},
    {"pending", 0, NULL, pending},
    {"borrowed", 0, NULL, borrowed},
    {"many", 0, NULL, many},
    {"kills", 0, NULL, kills},
    {"planted", 0, NULL, planted},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
