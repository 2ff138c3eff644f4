/* SPDX-License-Identifier: Apache-2.0 */
/* Values in shared memory: sizes, views, buffers, what is known of an object, a full store. */
#include "tests/drivers/driver.h"

#include <pthread.h>
#include <signal.h>

#define KIB        1024u
#define MIB        (KIB * KIB)
#define INLINE_MAX (100 * KIB)
#define STORE      (96 * MIB)

static void begin(int num_cpus)
{
    CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = num_cpus, .object_store_memory = STORE)), RAY_OK);
}

static void end(void)
{
    CHECK_CODE(ray_shutdown(), RAY_OK);
}

/* Bytes that tell their place and the object they belong to. */
/* Without a period: a part in another's place is found out. */
static uint8_t byte_at(size_t i, uint32_t seed)
{
    return (uint8_t)((i * 0x9e3779b97f4a7c15u >> 56) ^ (i >> 3) ^ seed * 31);
}

static void fill(void *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = byte_at(i, seed);
}

static bool is_filled(const void *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)p)[i] != byte_at(i, seed))
            return false;
    return true;
}

static void *filled(size_t n, uint32_t seed)
{
    void *p = malloc(n > 0 ? n : 1);

    CHECK(p != NULL);
    fill(p, n, seed);
    return p;
}

/* A ref to size bytes of seed. */
static ray_ref put(size_t size, uint32_t seed)
{
    ray_buffer b;

    CHECK_CODE(ray_create(size, &b), RAY_OK);
    fill(b.data, size, seed);
    ray_ref ref = ray_seal(&b);
    CHECK(ref.word != 0 && b.data == NULL && b.size == 0);
    return ref;
}

static void check_value(ray_ref ref, size_t size, uint32_t seed)
{
    ray_view v;

    CHECK_CODE(ray_get(ref, &v, RAY_FOREVER), RAY_OK);
    CHECK(v.size == size && is_filled(v.data, size, seed) && (uintptr_t)v.data % 16 == 0);
    ray_drop(&v);
    CHECK(v.data == NULL && v.size == 0);
}

static void check_object(ray_ref ref, size_t size)
{
    ray_object o;

    CHECK_CODE(ray_get_object(ref, &o), RAY_OK);
    CHECK(o.is_ready && !o.is_error && o.is_owned && o.n_refs == 0);
    CHECK(o.size == size && o.in_store == (size > INLINE_MAX));
}

enum how { COPIED, IN_PLACE, IN_A_LIST };

/* size bytes of seed, returned one way or the other. */
static int make(ray_call *call)
{
    size_t size;
    unsigned seed, how;
    ray_buffer b;

    if (ray_arg(call, 0, &size) != RAY_OK || ray_arg(call, 1, &seed) != RAY_OK
        || ray_arg(call, 2, &how) != RAY_OK)
        return -1;
    if (how == IN_PLACE) {
        if (ray_create(size, &b) != RAY_OK)
            return -1;
        fill(b.data, size, seed);
        int rc = ray_return(call, 0, &b);
        return b.data == NULL && b.size == 0 ? rc : ray_fail(call, "the buffer is still there");
    }
    void *p = filled(size, seed);
    ray_value bytes = ray_bytes(p, size);
    int rc =
        how == COPIED ? ray_return(call, 0, bytes) : ray_return(call, 0, ray_list(seed, bytes));
    free(p);
    return rc;
}
RAY_REMOTE(make);

/* Is the argument so many bytes of seed? */
static int is_right(ray_call *call)
{
    size_t size;
    unsigned seed;
    ray_view v;

    if (ray_arg(call, 0, &v) != RAY_OK || ray_arg(call, 1, &size) != RAY_OK
        || ray_arg(call, 2, &seed) != RAY_OK)
        return -1;
    bool is = v.size == size && is_filled(v.data, size, seed) && (uintptr_t)v.data % 16 == 0;
    return ray_return(call, 0, is);
}
RAY_REMOTE(is_right);

static void check_right(ray_ref answer)
{
    bool is;

    CHECK_CODE(ray_take(answer, &is, RAY_FOREVER), RAY_OK);
    CHECK(is);
}

static void check_list(ray_ref ref, size_t size, uint32_t seed)
{
    unsigned number;
    ray_box box;
    ray_view v;

    CHECK_CODE(ray_take(ref, &box, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_next(&box, &number), RAY_OK);
    CHECK_CODE(ray_next(&box, &v), RAY_OK);
    CHECK(number == seed && v.size == size && is_filled(v.data, size, seed));
    ray_box_drop(&box);
}

/* Puts, arguments and returns of all sizes, those around the inline bound above all. */
static void sizes(int argc, char **argv)
{
    const size_t n[] = {
        0,
        1,
        47,
        48,
        49,
        79,
        80,
        81,
        1023,
        1024,
        1025,
        4096,
        64 * KIB,
        102390,
        102391,
        102392,
        102393,
        102394,
        102395,
        102396,
        102397,
        102398,
        INLINE_MAX - 1,
        INLINE_MAX,
        102401,
        MIB - 1,
        MIB + 1,
        9 * MIB + 5,
        33 * MIB + 4097, /* in more than one part */
    };

    (void)argc;
    (void)argv;
    begin(2);
    for (uint32_t i = 0; i < sizeof n / sizeof n[0]; i++) {
        void *p = filled(n[i], i);
        ray_value bytes = ray_bytes(p, n[i]);
        ray_ref ref = ray_put(bytes), list = ray_put(ray_list(i, bytes));
        check_value(ref, n[i], i);
        check_object(ref, n[i]);
        size_t head = n[i] < 256 ? 2 : n[i] < 65536 ? 3 : 5; /* and one for the list, one for i */
        check_object(list, n[i] + head + 2);
        check_list(list, n[i], i);
        check_right(ray_remote(is_right, bytes, n[i], i));
        check_right(ray_remote(is_right, ref, n[i], i));
        CHECK_CODE(ray_release(ref), RAY_OK);
        ref = ray_remote(make, n[i], i, COPIED);
        check_value(ref, n[i], i);
        check_object(ref, n[i]);
        CHECK_CODE(ray_release(ref), RAY_OK);
        check_list(ray_remote(make, n[i], i, IN_A_LIST), n[i], i);
        if (n[i] > 0) {
            ref = ray_remote(make, n[i], i, IN_PLACE);
            check_value(ref, n[i], i);
            check_object(ref, n[i]);
            check_right(ray_remote(is_right, ref, n[i], i));
            CHECK_CODE(ray_release(ref), RAY_OK);
            ref = put(n[i], i);
            check_value(ref, n[i], i);
            check_object(ref, n[i]);
            CHECK_CODE(ray_release(ref), RAY_OK);
        }
        free(p);
    }
    end();
}

/* A view stays what it is after the release, while its neighbours' memory is used again. */
static void views(int argc, char **argv)
{
    enum { N = 6 };
    ray_view v[N], again, small;
    ray_ref refs[N];
    ray_box box;

    (void)argc;
    (void)argv;
    begin(2);
    for (uint32_t i = 0; i < N; i++)
        refs[i] = put(4 * MIB + i, i);
    for (uint32_t i = 0; i < N; i++)
        CHECK_CODE(ray_get(refs[i], &v[i], RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_get(refs[0], &again, RAY_FOREVER), RAY_OK);
    CHECK(again.data == v[0].data); /* nothing is copied */
    for (uint32_t i = 0; i < N; i++) {
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
        if (i % 2 == 1)
            ray_drop(&v[i]);
    }
    CHECK_CODE(ray_take(ray_put(ray_list(1, ray_bytes("bytes", 5), 2)), &box, 0), RAY_OK);
    CHECK_CODE(ray_take(ray_put("a string"), &small, 0), RAY_OK);
    for (uint32_t round = 0; round < 40; round++) { /* what is freed is written over */
        ray_ref ref = put(4 * MIB, 100 + round);
        check_right(ray_remote(is_right, ref, 4 * MIB, 100 + round));
        CHECK_CODE(ray_release(ref), RAY_OK);
    }
    for (uint32_t i = 0; i < N; i += 2) {
        CHECK(is_filled(v[i].data, 4 * MIB + i, i));
        ray_drop(&v[i]);
    }
    CHECK(is_filled(again.data, 4 * MIB, 0));
    ray_drop(&again);
    ray_drop(&again); /* {0} by now */
    CHECK(small.size == 8 && memcmp(small.data, "a string", 8) == 0);
    ray_drop(&small);
    CHECK_CODE(ray_skip(&box), RAY_OK);
    CHECK_CODE(ray_next(&box, &small), RAY_OK);
    CHECK(small.size == 5 && memcmp(small.data, "bytes", 5) == 0);
    ray_box_drop(&box);
    ray_box_drop(&box);
    end();
}

struct part {
    uint8_t *data;
    size_t from, to;
};
static void *fill_part(void *arg)
{
    const struct part *part = arg;

    for (size_t i = part->from; i < part->to; i++)
        part->data[i] = byte_at(i, 9);
    return NULL;
}

/* Returns buffers in ways that cannot work; gives the codes. */
static int misuses(ray_call *call)
{
    ray_buffer b, copy, none = {0};
    int codes[5];

    if (ray_create(MIB, &b) != RAY_OK)
        return -1;
    b.size++;
    if (ray_return(call, 0, &b) != RAY_EARG || strstr(ray_error()->text, "1048577") == NULL)
        return ray_fail(call, "a raised size is taken");
    if (ray_create(MIB, &b) != RAY_OK)
        return -1;
    copy = b;
    ray_abandon(&b);
    if (ray_return(call, 0, &copy) != RAY_EARG || strstr(ray_error()->text, "given up") == NULL)
        return ray_fail(call, "a buffer is taken that was given up");
    if (ray_create(MIB, &b) != RAY_OK)
        return -1;
    memset(b.data, 1, MIB);
    codes[0] = ray_return(call, 7, &b); /* no such return: the buffer is given up */
    codes[1] = b.data == NULL ? RAY_OK : RAY_EARG;
    codes[2] = ray_return(call, 0, &none);
    codes[3] = ray_return(call, 0, ray_list(codes[0], codes[1], codes[2]));
    if (ray_create(MIB, &b) != RAY_OK)
        return -1;
    codes[4] = ray_return(call, 0, &b); /* given before */
    return codes[3] == RAY_OK && codes[4] == RAY_EARG ? 0 : ray_fail(call, "codes are wrong");
}
RAY_REMOTE(misuses);

static void check_error(ray_ref ref, ray_code code, const char *sentence)
{
    int64_t x;

    CHECK_CODE(ray_take(ref, &x, RAY_FOREVER), (int)code);
    CHECK(strstr(ray_error()->text, sentence) != NULL);
}

static void buffers(int argc, char **argv)
{
    const size_t size = 10 * MIB + 3;
    pthread_t threads[4];
    struct part parts[4];
    ray_buffer b, copy, none = {0};
    ray_ref ref;
    ray_box box;
    int code;

    (void)argc;
    (void)argv;
    begin(2);
    CHECK_CODE(ray_create(size, &b), RAY_OK);
    CHECK(b.size == size && (uintptr_t)b.data % 64 == 0);
    for (size_t i = 0; i < 4; i++) {
        parts[i] = (struct part){b.data, size * i / 4, size * (i + 1) / 4};
        CHECK(pthread_create(&threads[i], NULL, fill_part, &parts[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    copy = b;
    ref = ray_seal(&b);
    check_error(ray_seal(&b), RAY_EARG, "sealed");
    check_error(ray_seal(&copy), RAY_EARG, "sealed"); /* a copy of what is sealed */
    check_value(ref, size, 9);
    CHECK_CODE(ray_release(ref), RAY_OK);
    CHECK_CODE(ray_create(1, &b), RAY_OK);
    CHECK((uintptr_t)b.data % 64 == 0);
    *(char *)b.data = 'x';
    copy = b;
    ref = ray_seal(&b);
    check_error(ray_seal(&copy), RAY_EARG, "sealed");
    CHECK_CODE(ray_release(ref), RAY_OK);

    CHECK_CODE(ray_create(0, &b), RAY_EARG);
    CHECK_CODE(ray_create(SIZE_MAX, &b), RAY_EFULL);
    CHECK_CODE(ray_create(SIZE_MAX - 4095, &b), RAY_EFULL);
    CHECK_CODE(ray_create(SIZE_MAX / 2, &b), RAY_EFULL);
    check_error(ray_put(ray_bytes("x", SIZE_MAX)), RAY_EFULL, "18446744073709551615 bytes");
    check_error(ray_put(ray_list(1, &none)), RAY_EARG, "ray_seal");
    check_error(ray_put(&none), RAY_EARG, "ray_seal");
    ray_abandon(&none);
    for (int i = 0; i < 60; i++) { /* what is given up is room again */
        CHECK_CODE(ray_create(i % 2 == 0 ? 24 * MIB : 100, &b), RAY_OK);
        memset(b.data, i, b.size);
        copy = b;
        ray_abandon(&b);
        CHECK(b.data == NULL && b.size == 0);
        ray_abandon(&b);
        if (i < 4)
            ray_abandon(&copy); /* a copy of what is given up: no harm */
    }
    for (int i = 0; i < 120; i++) {
        CHECK_CODE(ray_take(ray_remote(misuses), &box, RAY_FOREVER), RAY_OK);
        CHECK(ray_next(&box, &code) == RAY_OK && code == RAY_EARG);
        CHECK(ray_next(&box, &code) == RAY_OK && code == RAY_OK);
        CHECK(ray_next(&box, &code) == RAY_OK && code == RAY_EARG);
        ray_box_drop(&box);
    }
    for (int i = 0; i < 40; i++) { /* of what was not used nothing is kept */
        ray_ref some[2] = {{0}, {0}};
        for (int k = 0; k < 2; k++) {
            CHECK_CODE(ray_create(k == 0 ? 80 * MIB : 90 * KIB, &b), RAY_OK);
            fill(b.data, 80 * KIB, 8);
            b.size = k == 0 ? 15 * MIB : 80 * KIB;
            some[k] = ray_seal(&b);
        }
        CHECK_CODE(ray_create(64 * MIB, &b), RAY_OK);
        ray_abandon(&b);
        for (int k = 0; k < 2; k++) {
            ray_view v;
            CHECK_CODE(ray_take(some[k], &v, RAY_FOREVER), RAY_OK);
            CHECK(v.size == (k == 0 ? 15 * MIB : 80 * KIB) && is_filled(v.data, 80 * KIB, 8));
            ray_drop(&v);
        }
    }
    for (int of_store = 0; of_store < 2; of_store++)
        for (int k = 0; k < 2; k++) {
            CHECK_CODE(ray_create(of_store ? MIB : 100, &b), RAY_OK);
            b.size = k == 0 ? 0 : b.size + 1;
            check_error(ray_seal(&b), RAY_EARG, "raised");
        }
    ref = put(64 * MIB, 3); /* there is as much room as before */
    check_value(ref, 64 * MIB, 3);
    CHECK_CODE(ray_release(ref), RAY_OK);
    CHECK_CODE(ray_create(24 * MIB, &b), RAY_OK);
    copy = b;
    end();
    ray_abandon(&copy); /* of a cluster that has ended: no harm */
}

/* Waits until it is told to go on. */
static int waits(ray_call *call)
{
    await_events("go", 1);
    return ray_return(call, 0, ray_list(1, "two"));
}
RAY_REMOTE(waits);

static int fails(ray_call *call)
{
    return ray_fail(call, "as told");
}
RAY_REMOTE(fails);

/* What a borrower sees of the ref in a list; then it tries to free it. */
static int looks(ray_call *call)
{
    ray_object o;
    ray_view v;
    ray_box list;
    ray_ref ref;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK
        || ray_get(ref, &v, RAY_FOREVER) != RAY_OK || ray_get_object(ref, &o) != RAY_OK)
        return -1;
    int code = ray_free_object(ref), right = is_filled(v.data, v.size, 5);
    ray_drop(&v);
    ray_release(ref);
    return ray_return(call, 0, ray_list(code, o.is_owned, o.in_store, o.size, o.id, right));
}
RAY_REMOTE(looks);

static void check_looks(ray_ref ref, size_t size)
{
    int64_t code, right;
    ray_object o;
    uint64_t seen;
    bool in_store, owned;
    char *id;
    ray_box box;

    CHECK_CODE(ray_get_object(ref, &o), RAY_OK);
    CHECK_CODE(ray_take(ray_remote(looks, ray_list(ref)), &box, RAY_FOREVER), RAY_OK);
    CHECK(ray_next(&box, &code) == RAY_OK && code == RAY_EOWNER);
    CHECK(ray_next(&box, &owned) == RAY_OK && !owned);
    CHECK(ray_next(&box, &in_store) == RAY_OK && in_store == (size > INLINE_MAX));
    CHECK(ray_next(&box, &seen) == RAY_OK && seen == size);
    CHECK(ray_next(&box, &id) == RAY_OK && strcmp(id, o.id) == 0);
    CHECK(ray_next(&box, &right) == RAY_OK && right == 1);
    ray_free(id);
    ray_box_drop(&box);
}

static void facts(int argc, char **argv)
{
    ray_ref pending, other, small, large, error, list;
    ray_object o, o2;
    char *text;
    ray_box box;

    (void)argc;
    (void)argv;
    begin(2);
    pending = ray_remote(waits);
    other = ray_remote(waits);
    CHECK_CODE(ray_get_object(pending, &o), RAY_OK);
    CHECK(!o.is_ready && !o.is_error && o.is_owned && !o.in_store);
    CHECK(strlen(o.id) == 56 && strspn(o.id, "0123456789abcdef") == 56);
    CHECK_CODE(ray_get_object(other, &o2), RAY_OK);
    CHECK(strcmp(o.id, o2.id) != 0);
    CHECK_CODE(ray_free_object(pending), RAY_EARG); /* not ready */
    CHECK(strstr(ray_error()->text, "not ready") != NULL);
    send_event("go");
    send_event("go");
    CHECK_CODE(ray_get(pending, &box, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_skip(&box), RAY_OK);
    CHECK_CODE(ray_next(&box, &text), RAY_OK);
    CHECK(strcmp(text, "two") == 0);
    ray_free(text);
    ray_box_drop(&box);
    CHECK_CODE(ray_get_object(pending, &o2), RAY_OK);
    CHECK(o2.is_ready && !o2.is_error && o2.size == 6 && !o2.in_store && strcmp(o.id, o2.id) == 0);

    small = put(3000, 5);
    large = put(300 * KIB, 5);
    check_object(small, 3000);
    check_object(large, 300 * KIB);
    check_looks(small, 3000);
    check_looks(large, 300 * KIB);
    list = ray_put(ray_list(small, ray_map("large", large), small));
    CHECK_CODE(ray_get_object(list, &o), RAY_OK);
    CHECK(o.is_ready && o.n_refs == 3 && !o.in_store && o.is_owned);
    error = ray_remote(fails);
    CHECK_CODE(ray_get(error, &text, RAY_FOREVER), RAY_ETASK);
    CHECK_CODE(ray_get_object(error, &o), RAY_OK);
    CHECK(o.is_ready && o.is_error && o.is_owned && o.n_refs == 0);
    ray_ref all[] = {pending, other, small, large, list, error};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        CHECK_CODE(ray_release(all[i]), RAY_OK);
    CHECK_CODE(ray_get_object(small, &o), RAY_ESTALE);
    CHECK_CODE(ray_free_object(small), RAY_ESTALE);
    end();
}

static void frees(int argc, char **argv)
{
    ray_ref refs[8], inner, outer, small;
    ray_box box;
    ray_view v;
    int64_t x;

    (void)argc;
    (void)argv;
    begin(2);
    for (uint32_t i = 0; i < 8; i++) { /* together more than the store holds */
        refs[i] = put(40 * MIB, i);
        check_value(refs[i], 40 * MIB, i);
        CHECK_CODE(ray_free_object(refs[i]), RAY_OK);
    }
    for (int i = 0; i < 8; i++) {
        CHECK_CODE(ray_get(refs[i], &v, RAY_FOREVER), RAY_ELOST);
        CHECK(strstr(ray_error()->text, "freed") != NULL);
        CHECK_CODE(ray_free_object(refs[i]), RAY_OK); /* again: no harm */
    }
    check_error(ray_remote(is_right, refs[0], 1, 0), RAY_ELOST, "freed");
    for (int i = 0; i < 8; i++)
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
    /* a view outlives it */
    inner = put(8 * MIB, 6);
    CHECK_CODE(ray_get(inner, &v, RAY_FOREVER), RAY_OK);
    outer = ray_put(ray_list(inner));
    CHECK_CODE(ray_free_object(inner), RAY_OK);
    for (uint32_t i = 0; i < 20; i++)
        CHECK_CODE(ray_release(put(8 * MIB, 10 + i)), RAY_OK);
    CHECK(is_filled(v.data, 8 * MIB, 6));
    ray_drop(&v);
    CHECK_CODE(ray_release(inner), RAY_OK);
    /* a ref that comes out of a value names what was freed */
    CHECK_CODE(ray_get(outer, &box, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_next(&box, &inner), RAY_OK);
    CHECK_CODE(ray_get(inner, &v, RAY_FOREVER), RAY_ELOST);
    CHECK_CODE(ray_release(inner), RAY_OK);
    ray_box_drop(&box);
    CHECK_CODE(ray_release(outer), RAY_OK);
    /* inline values and results too */
    small = ray_put(5);
    CHECK_CODE(ray_free_object(small), RAY_OK);
    check_error(small, RAY_ELOST, "freed");
    small = ray_remote(make, MIB, 1, IN_PLACE);
    check_value(small, MIB, 1);
    CHECK_CODE(ray_free_object(small), RAY_OK);
    check_error(small, RAY_ELOST, "freed");
    CHECK_CODE(ray_get(small, &x, 0), RAY_ESTALE);
    end();
}

static void full(int argc, char **argv)
{
    ray_ref held, refs[24], copy;
    ray_buffer b;
    size_t left = 24;
    void *p = calloc(1, 40 * MIB);

    (void)argc;
    (void)argv;
    const uint64_t bad[] = {1, MIB - 1, (1ull << 46) + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_CODE(ray_init(RAY_CONFIG(.object_store_memory = bad[i])), RAY_EARG);
        CHECK(strstr(ray_error()->text, "object_store_memory") != NULL);
    }
    begin(2);
    /* larger than the store: no wait can help */
    check_error(ray_remote(make, STORE + MIB, 1, COPIED), RAY_ETASK, "store");
    CHECK_CODE(ray_create(STORE + MIB, &b), RAY_EFULL);
    CHECK(strstr(ray_error()->text, "object_store_memory") != NULL);
    held = put(72 * MIB, 4);
    refs[0] = ray_remote(make, 40 * MIB, 1, IN_PLACE); /* waits while we do */
    CHECK_CODE(ray_create(40 * MIB, &b), RAY_EFULL);
    CHECK(strstr(ray_error()->text, "object store") != NULL);
    CHECK(strstr(ray_error()->text, "object_store_memory") != NULL);
    check_error(ray_put(ray_bytes(p, 40 * MIB)), RAY_EFULL, "object store");
    check_error(ray_remote(is_right, ray_bytes(p, 40 * MIB), 1, 0), RAY_EFULL, "store");
    check_error(refs[0], RAY_ETASK, "object store is full");
    check_value(held, 72 * MIB, 4);
    CHECK_CODE(ray_release(held), RAY_OK);
    copy = ray_put(ray_bytes(p, 40 * MIB));
    CHECK_CODE(ray_release(copy), RAY_OK);
    free(p);
    /* results that have no room together wait until others are released */
    for (uint32_t i = 0; i < 24; i++)
        refs[i] = ray_remote(make, 16 * MIB, 7, i % 2);
    while (left > 0) {
        bool ready[24];
        CHECK_CODE(ray_wait(refs, left, 1, RAY_FOREVER, ready), RAY_OK);
        for (size_t i = 0; i < left; i++)
            if (ready[i]) {
                check_value(refs[i], 16 * MIB, 7);
                CHECK_CODE(ray_release(refs[i]), RAY_OK);
                refs[i] = refs[--left];
                break;
            }
    }
    end();
}

/* Threads that put, read and release. */
static void *churn(void *arg)
{
    uint32_t base = (uint32_t)(uintptr_t)arg;

    for (uint32_t i = 0; i < 60; i++) {
        size_t size = i % 3 == 0 ? 100 : i % 3 == 1 ? 150 * KIB : 2 * MIB;
        ray_ref ref = put(size, base + i), list = ray_put(ray_list(ref));
        ray_box box;
        CHECK_CODE(ray_release(ref), RAY_OK);
        CHECK_CODE(ray_take(list, &box, RAY_FOREVER), RAY_OK);
        CHECK_CODE(ray_next(&box, &ref), RAY_OK);
        ray_box_drop(&box);
        ray_ref answer = ray_remote(is_right, ref, size, base + i);
        check_value(ref, size, base + i);
        CHECK_CODE(ray_release(ref), RAY_OK);
        check_right(answer);
    }
    return NULL;
}

static void threads(int argc, char **argv)
{
    pthread_t t[4];

    (void)argc;
    (void)argv;
    begin(2);
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&t[i], NULL, churn, (void *)(i * 1000)) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    end();
}

/* Views, boxes and buffers of a cluster that has ended may still be dropped. */
static void after_the_end(int argc, char **argv)
{
    ray_ref large, small;
    ray_view v, w;
    ray_box box;
    int64_t x;

    (void)argc;
    (void)argv;
    begin(2);
    large = put(MIB, 1);
    small = ray_put(ray_list(large));
    CHECK_CODE(ray_get(large, &v, 0), RAY_OK);
    CHECK_CODE(ray_get(small, &box, 0), RAY_OK);
    CHECK_CODE(ray_take(ray_put(ray_bytes("abc", 3)), &w, 0), RAY_OK);
    end();
    CHECK_CODE(ray_get(small, &x, 0), RAY_ESTALE);
    CHECK_CODE(ray_release(large), RAY_ESTALE);
    ray_drop(&v);
    ray_drop(&w);
    ray_box_drop(&box);
    begin(2);
    CHECK_CODE(ray_get(large, &x, 0), RAY_ESTALE);
    large = put(MIB, 2);
    check_value(large, MIB, 2);
    CHECK_CODE(ray_release(large), RAY_OK);
    end();
}

/* Values that are small each and far too large for one message together. */
#define N_TOGETHER   400
#define LEN_TOGETHER (90 * KIB)

static int gives_many(ray_call *call)
{
    static uint8_t bytes[LEN_TOGETHER];

    for (unsigned i = 0; i < N_TOGETHER; i++) {
        memset(bytes, (int)i, sizeof bytes);
        if (ray_return(call, i, ray_bytes(bytes, sizeof bytes)) != RAY_OK)
            return -1;
    }
    return 0;
}
RAY_REMOTE(gives_many, .num_returns = N_TOGETHER);

/* The number of its arguments that are as gives_many makes them. */
static int counts_right(ray_call *call)
{
    int64_t n = 0;
    ray_view v;

    for (unsigned i = 0; i < ray_n_args(call); i++)
        if (ray_arg(call, i, &v) == RAY_OK && v.size == LEN_TOGETHER
            && ((const uint8_t *)v.data)[0] == (uint8_t)i
            && ((const uint8_t *)v.data)[LEN_TOGETHER - 1] == (uint8_t)i)
            n++;
    return ray_return(call, 0, n);
}
RAY_REMOTE(counts_right);

/* The same with a list that borrows the refs, so that the caller does not own them. */
static int passes_on(ray_call *call)
{
    ray_value v[N_TOGETHER];
    ray_box list;
    int64_t n;

    if (ray_arg(call, 0, &list) != RAY_OK)
        return -1;
    for (unsigned i = 0; i < N_TOGETHER; i++) {
        ray_ref ref;
        if (ray_next(&list, &ref) != RAY_OK)
            return -1;
        v[i] = ray_v(ref);
    }
    int rc = ray_take(ray_submit(&ray_fn_counts_right, NULL, v, N_TOGETHER), &n, RAY_FOREVER);
    for (unsigned i = 0; i < N_TOGETHER; i++)
        ray_release((ray_ref){v[i].as.u});
    return rc == RAY_OK ? ray_return(call, 0, n) : ray_fail(call, "%s", ray_error()->text);
}
RAY_REMOTE(passes_on);

#define N_REDONE    200
#define REDONE_SIZE (101 * KIB)

/* REDONE_SIZE bytes of i; the process of every fiftieth task dies the first time. */
static int makes_or_dies(ray_call *call)
{
    char name[32];
    ray_buffer b;
    int i;

    if (ray_arg(call, 0, &i) != RAY_OK)
        return -1;
    snprintf(name, sizeof name, "died.%d", i);
    if (i % 50 == 25 && access(name, F_OK) != 0) {
        note(name, "once\n");
        raise(SIGKILL);
    }
    if (ray_create(REDONE_SIZE, &b) != RAY_OK)
        return -1;
    memset(b.data, i, b.size);
    return ray_return(call, 0, &b);
}
RAY_REMOTE(makes_or_dies);

static int is_all(ray_call *call)
{
    ray_view v;
    int i;

    if (ray_arg(call, 0, &v) != RAY_OK || ray_arg(call, 1, &i) != RAY_OK)
        return -1;
    const char *p = v.data;
    bool is = v.size == REDONE_SIZE && p[0] == (char)i && memcmp(p, p + 1, v.size - 1) == 0;
    return ray_return(call, 0, is);
}
RAY_REMOTE(is_all);

/* Tasks that waited in the window of a worker that died run elsewhere, and their results stay. */
static void redone(int argc, char **argv)
{
    static ray_ref refs[N_REDONE];

    (void)argc;
    (void)argv;
    begin(1);
    for (int i = 0; i < N_REDONE; i++)
        refs[i] = ray_remote(makes_or_dies, i);
    for (int i = 0; i < N_REDONE; i++) {
        check_right(ray_remote(is_all, refs[i], i));
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
    }
    CHECK(count_lines("died.25") == 1 && count_lines("died.175") == 1);
    end();
}

static void together(int argc, char **argv)
{
    static uint8_t bytes[N_TOGETHER][LEN_TOGETHER];
    static ray_ref refs[N_TOGETHER];
    static ray_value v[N_TOGETHER];
    int64_t n;

    (void)argc;
    (void)argv;
    begin(2);
    CHECK_CODE(ray_remote_n(refs, N_TOGETHER, gives_many), RAY_OK);
    for (size_t i = 0; i < N_TOGETHER; i++)
        v[i] = ray_v(refs[i]); /* not there yet */
    CHECK_CODE(ray_take(ray_submit(&ray_fn_counts_right, NULL, v, N_TOGETHER), &n, RAY_FOREVER),
               RAY_OK);
    CHECK(n == N_TOGETHER);
    ray_ref list = ray_put(ray_list_of(v, N_TOGETHER));
    for (size_t i = 0; i < N_TOGETHER; i++) {
        memset(bytes[i], (int)i, LEN_TOGETHER);
        v[i] = ray_bytes(bytes[i], LEN_TOGETHER);
    }
    CHECK_CODE(ray_take(ray_submit(&ray_fn_counts_right, NULL, v, N_TOGETHER), &n, RAY_FOREVER),
               RAY_OK);
    CHECK(n == N_TOGETHER);
    for (size_t i = 0; i < N_TOGETHER; i++) {
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
        refs[i] = ray_put(v[i]); /* owned here, inline */
        v[i] = ray_v(refs[i]);
    }
    CHECK_CODE(ray_take(ray_submit(&ray_fn_counts_right, NULL, v, N_TOGETHER), &n, RAY_FOREVER),
               RAY_OK);
    CHECK(n == N_TOGETHER);
    CHECK_CODE(ray_take(ray_remote(passes_on, list), &n, RAY_FOREVER), RAY_OK);
    CHECK(n == N_TOGETHER);
    CHECK_CODE(ray_release(list), RAY_OK);
    list = ray_put(ray_list_of(v, N_TOGETHER));
    CHECK_CODE(ray_take(ray_remote(passes_on, list), &n, RAY_FOREVER), RAY_OK);
    CHECK(n == N_TOGETHER);
    CHECK_CODE(ray_release(list), RAY_OK);
    ray_ref late = ray_submit(&ray_fn_counts_right, NULL, v, N_TOGETHER);
    CHECK_CODE(ray_free_object(refs[N_TOGETHER - 1]), RAY_OK); /* what its body asks for is gone */
    check_error(late, RAY_ELOST, "freed by ray_free_object");
    for (size_t i = 0; i < N_TOGETHER; i++)
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
    end();
}

static const struct scenario scenarios[] = {
    {"sizes", 0, NULL, sizes},
    {"views", 0, NULL, views},
    {"buffers", 0, NULL, buffers},
    {"facts", 0, NULL, facts},
    {"frees", 0, NULL, frees},
    {"full", 0, NULL, full},
    {"threads", 0, NULL, threads},
    {"redone", 0, NULL, redone},
    {"together", 0, NULL, together},
    {"after_the_end", 0, NULL, after_the_end},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
