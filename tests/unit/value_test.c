/* SPDX-License-Identifier: Apache-2.0 */
/* Values through msgpack and back, and what a failed task's value says. */
#include <check.h>
#include <float.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "lib/api/api_private.h"

#define FUZZ_ROUNDS 20000
#define FUZZ_SIZE   48

/* Pack v; the caller frees the bytes, which are exactly as long as the value, for sanitizers to
 * see. */
static struct core_arg pack(ray_value v)
{
    struct core_buffer big;
    struct core_arg a;
    struct packer p;

    packer_init(&p);
    ck_assert_int_eq(api_pack(&p, &v, &a, &big), RAY_OK);
    ck_assert_ptr_null(big.data);
    uint8_t *exact = malloc(a.size > 0 ? a.size : 1);
    memcpy(exact, a.bytes, a.size);
    a.bytes = exact;
    packer_fini(&p);
    return a;
}

static int refused(ray_value v, const char *sentence)
{
    struct core_buffer big;
    struct core_arg a;
    struct packer p;

    packer_init(&p);
    int rc = api_pack(&p, &v, &a, &big);
    packer_fini(&p);
    ck_assert_ptr_nonnull(strstr(ray_error()->text, sentence));
    return rc;
}

static int unpack(const void *bytes, size_t n, uint8_t meta, ray_slot slot)
{
    struct core_value v = {.bytes = bytes, .size = n, .meta = meta};

    return api_unpack_value(&v, slot);
}

static int through(ray_value v, ray_slot slot)
{
    struct core_arg a = pack(v);
    int rc = unpack(a.bytes, a.size, a.meta, slot);

    free((void *)(uintptr_t)a.bytes);
    return rc;
}

static void ck_packed(ray_value v, const char *bytes, size_t n)
{
    struct core_arg a = pack(v);

    ck_assert_uint_eq(a.size, n);
    ck_assert_mem_eq(a.bytes, bytes, n);
    free((void *)(uintptr_t)a.bytes);
}

START_TEST(numbers_take_the_shortest_form)
{
    static const struct {
        int64_t i;
        const char *bytes;
        size_t n;
    } cases[] = {
        {0, "\x00", 1},
        {127, "\x7f", 1},
        {128, "\xcc\x80", 2},
        {255, "\xcc\xff", 2},
        {256, "\xcd\x01\x00", 3},
        {65536, "\xce\x00\x01\x00\x00", 5},
        {UINT32_MAX, "\xce\xff\xff\xff\xff", 5},
        {INT64_MAX, "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9},
        {-1, "\xff", 1},
        {-32, "\xe0", 1},
        {-33, "\xd0\xdf", 2},
        {-128, "\xd0\x80", 2},
        {-129, "\xd1\xff\x7f", 3},
        {-32769, "\xd2\xff\xff\x7f\xff", 5},
        {INT64_MIN, "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t back = 7;
        char in_list[10] = "\x91";
        ck_packed(ray_v(cases[i].i), cases[i].bytes, cases[i].n);
        /* in a list they take msgpack-c's packer: the same bytes */
        memcpy(in_list + 1, cases[i].bytes, cases[i].n);
        ck_packed(ray_list(cases[i].i), in_list, 1 + cases[i].n);
        ck_assert_int_eq(through(ray_v(cases[i].i), ray_to(&back)), RAY_OK);
        ck_assert_int_eq(back, cases[i].i);
    }
}
END_TEST

START_TEST(scalars_come_back)
{
    uint64_t u = 0;
    double d = 0;
    float f = 0;
    bool b = false;

    ck_assert_int_eq(through(ray_v(UINT64_MAX), ray_to(&u)), RAY_OK);
    ck_assert_uint_eq(u, UINT64_MAX);
    ck_assert_int_eq(through(ray_v(DBL_MIN), ray_to(&d)), RAY_OK);
    ck_assert(memcmp(&d, &(double){DBL_MIN}, sizeof d) == 0);
    ck_assert_int_eq(through(ray_v(-7), ray_to(&d)), RAY_OK);
    ck_assert(d < -6.9 && d > -7.1);
    ck_assert_int_eq(through(ray_v(0.5f), ray_to(&f)), RAY_OK);
    ck_assert(f > 0.49f && f < 0.51f);
    ck_assert_int_eq(through(ray_v((bool)1), ray_to(&b)), RAY_OK);
    ck_assert(b);
}
END_TEST

START_TEST(a_number_that_does_not_fit_is_refused_and_nothing_is_written)
{
    signed char i8 = 5;
    unsigned char u8 = 5;
    short i16 = 5;
    unsigned u32 = 5;
    int i = 5;
    int64_t l = 5;
    uint64_t u = 5;

    ck_assert_int_eq(through(ray_v(-128), ray_to(&i8)), RAY_OK);
    ck_assert_int_eq(i8, -128);
    ck_assert_int_eq(through(ray_v(255), ray_to(&u8)), RAY_OK);
    ck_assert_uint_eq(u8, 255);
    ck_assert_int_eq(through(ray_v(128), ray_to(&i8)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(256), ray_to(&u8)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(40000), ray_to(&i16)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(-1), ray_to(&u32)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(1L << 31), ray_to(&i)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(UINT64_MAX), ray_to(&l)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(-1), ray_to(&u)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v(1.0), ray_to(&l)), RAY_ETYPE);
    ck_assert_int_eq(through(ray_v("1"), ray_to(&l)), RAY_ETYPE);
    ck_assert_str_eq(ray_error()->text, "the value is a string, not an integer");
    ck_assert_int_eq(i8, -128);
    ck_assert_uint_eq(u8, 255);
    ck_assert(i16 == 5 && u32 == 5 && i == 5 && l == 5 && u == 5);
}
END_TEST

START_TEST(strings_and_bytes_are_copies)
{
    char *s = NULL, small[3] = "..";
    const char *c = NULL;
    ray_view v = {0};

    ck_assert_int_eq(through(ray_v("caf\xc3\xa9"), ray_to(&s)), RAY_OK);
    ck_assert_str_eq(s, "caf\xc3\xa9");
    ck_assert_int_eq(through(ray_v(""), ray_to(&c)), RAY_OK);
    ck_assert_str_eq(c, "");
    ck_assert_int_eq(through(ray_bytes("a\0b", 3), ray_to(&v)), RAY_OK);
    ck_assert_uint_eq(v.size, 3);
    ck_assert_mem_eq(v.data, "a\0b", 3);
    ck_assert_int_eq(through(ray_bytes("xyz", 3), ray_into(small, sizeof small)), RAY_OK);
    ck_assert_mem_eq(small, "xyz", 3);
    ck_assert_int_eq(through(ray_bytes("vwxy", 4), ray_into(small, sizeof small)), RAY_ETYPE);
    ck_assert_mem_eq(small, "xyz", 3);
    ck_assert_int_eq(through(ray_bytes(NULL, 0), ray_into(NULL, 0)), RAY_OK);
    ck_assert_int_eq(through(ray_bytes("b", 1), ray_to(&c)), RAY_ETYPE);
    ray_free(s);
    ray_free(c);
    ray_drop(&v);
    ck_assert_ptr_null(v.data);
    ray_drop(&v);
    ray_free(NULL);
}
END_TEST

START_TEST(bytes_of_their_own_are_not_packed)
{
    static const char text[] = "text";
    struct core_buffer big;
    struct core_arg a;
    struct packer p;
    ray_box box, again;
    ray_view v;
    char *s;
    long i;

    packer_init(&p);
    ck_assert_int_eq(api_pack(&p, &(ray_value){.kind = RAY_BIN, .as.p = text, .size = 4}, &a, &big),
                     RAY_OK);
    ck_assert_ptr_eq(a.bytes, text);
    ck_assert_uint_eq(a.size, 4);
    ck_assert_uint_eq(a.meta, WIRE_META_RAW);
    packer_fini(&p);
    /* coming out they are bytes, where they lie in a call */
    ck_assert_int_eq(api_unpack_arg(&a, ray_to(&v)), RAY_OK);
    ck_assert_ptr_eq(v.data, text);
    ck_assert_int_eq(api_unpack_arg(&a, ray_to(&s)), RAY_ETYPE);
    ck_assert_int_eq(api_unpack_arg(&a, ray_to(&i)), RAY_ETYPE);
    ck_assert_str_eq(ray_error()->text, "the value is bytes, not an integer");
    ck_assert_int_eq(unpack(text, 4, WIRE_META_RAW, ray_to(&box)), RAY_OK);
    ck_assert_uint_eq(box.kind, RAY_BIN);
    ck_assert_uint_eq(ray_peek(&box), RAY_BIN);
    again = box;
    ck_assert_int_eq(ray_skip(&again), RAY_OK);
    ck_assert_uint_eq(ray_peek(&again), RAY_NONE);
    ck_assert_int_eq(ray_next(&box, &i), RAY_ETYPE);
    ck_assert_int_eq(ray_next(&box, &again), RAY_OK);
    ck_assert_int_eq(ray_next(&again, &v), RAY_OK);
    ck_assert_uint_eq(v.size, 4);
    ck_assert_mem_eq(v.data, "text", 4);
    ck_assert_int_eq(ray_next(&again, &v), RAY_END);
    ray_box_drop(&again);
    ray_box_drop(&box);
}
END_TEST

START_TEST(values_longer_than_the_stack_are_packed_whole)
{
    size_t n = 90000;
    char *big = malloc(n);
    ray_box box;
    ray_view v;
    long number;

    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i * 7);
    ck_assert_int_eq(through(ray_list(1, ray_bytes(big, n), 2), ray_to(&box)), RAY_OK);
    ck_assert_int_eq(ray_next(&box, &number), RAY_OK);
    ck_assert_int_eq(ray_next(&box, &v), RAY_OK);
    ck_assert_uint_eq(v.size, n);
    ck_assert_mem_eq(v.data, big, n);
    ray_drop(&v); /* borrowed from the box */
    ck_assert_int_eq(ray_next(&box, &number), RAY_OK);
    ck_assert_int_eq(number, 2);
    ray_box_drop(&box);
    free(big);
}
END_TEST

START_TEST(refs_travel_beside_the_bytes_and_are_named_by_their_place)
{
    enum { N = 3 * PACKER_REFS };
    ray_ref a = {7}, b = {8};
    ray_value v = ray_list(a, ray_map("k", ray_list(b, 1, a))), refs[N];
    struct core_buffer big;
    struct core_arg out[3];
    struct packer p;

    packer_init(&p);
    ck_assert_int_eq(api_pack(&p, &v, &out[0], &big), RAY_OK);
    ck_assert_uint_eq(out[0].n_refs, 3);
    ck_assert(out[0].refs[0] == 7 && out[0].refs[1] == 8 && out[0].refs[2] == 7);
    ck_assert_uint_eq(out[0].size, 24);
    ck_assert_mem_eq(out[0].bytes,
                     "\x92\xd6R\0\0\0\0\x81\xa1k\x93\xd6R\0\0\0\1\1\xd6R\0\0\0\2",
                     24);
    /* each value counts from 0; more refs than fit on the stack are packed on the heap */
    for (unsigned i = 0; i < N; i++)
        refs[i] = ray_v((ray_ref){100 + i});
    ck_assert_int_eq(api_pack(&p, &(ray_value){RAY_LST, 0, {.v = refs}, N}, &out[1], &big), RAY_OK);
    ck_assert_ptr_null(big.data);
    ck_assert_uint_eq(out[1].n_refs, N);
    for (unsigned i = 0; i < N; i++)
        ck_assert_uint_eq(out[1].refs[i], 100 + i);
    ck_assert_mem_eq(out[1].bytes, "\xdc\0\x30\xd6R\0\0\0\0\xd6R\0\0\0\1", 15);
    ck_assert_int_eq(api_pack(&p, &(ray_value){RAY_REF, 0, {.u = 9}, 0}, &out[2], &big), RAY_OK);
    ck_assert_uint_eq(out[2].n_refs, 1);
    ck_assert_uint_eq(out[2].refs[0], 9);
    ck_assert_mem_eq(out[2].bytes, "\xd6R\0\0\0\0", 6);
    ck_assert_uint_eq(out[0].refs[1], 8); /* where it was */
    packer_fini(&p);
}
END_TEST

START_TEST(a_place_beyond_the_refs_is_refused)
{
    static const uint8_t list[] = "\x92\xd6R\0\0\0\1\5";
    struct core_arg none = {.bytes = list, .size = 8}, one = none;
    const uint64_t word = 1; /* of no ref here */
    ray_ref ref = {3};
    ray_box box;
    long number;

    ck_assert_int_eq(api_unpack_arg(&none, ray_to(&box)), RAY_OK);
    ck_assert_uint_eq(ray_peek(&box), RAY_REF);
    ck_assert_int_eq(ray_next(&box, &ref), RAY_ETYPE);
    ck_assert_str_eq(ray_error()->text, "the value names ref 1, but holds 0");
    one.refs = &word;
    one.n_refs = 1;
    ck_assert_int_eq(api_unpack_arg(&one, ray_to(&box)), RAY_OK);
    ck_assert_int_eq(ray_next(&box, &ref), RAY_ETYPE);
    ck_assert_int_eq(ray_next(&box, &number), RAY_ETYPE);
    ck_assert_str_eq(ray_error()->text, "the value is a ref, not an integer");
    ck_assert_int_eq(ray_skip(&box), RAY_OK);
    ck_assert_int_eq(ray_next(&box, &ref), RAY_ETYPE);
    ck_assert_str_eq(ray_error()->text, "the value is an integer, not a ref");
    ck_assert_int_eq(ray_next(&box, &number), RAY_OK);
    ck_assert_int_eq(number, 5);
    ck_assert_uint_eq(ref.word, 3);
}
END_TEST

START_TEST(lists_and_maps_are_walked)
{
    ray_box box, inner, map;
    const char *s;
    double d;
    bool b;
    long i;

    ck_assert_int_eq(through(ray_list(1,
                                      ray_list("a", ray_list(), 2.5),
                                      ray_nil(),
                                      ray_map("key", -3, 4, ray_list((bool)1)),
                                      "end"),
                             ray_to(&box)),
                     RAY_OK);
    ck_assert_uint_eq(box.kind, RAY_LST);
    ck_assert_uint_eq(box.left, 5);
    ck_assert_int_eq(ray_next(&box, &s), RAY_ETYPE); /* and 1 is still next */
    ck_assert_int_eq(ray_next(&box, &i), RAY_OK);
    ck_assert_int_eq(i, 1);

    ck_assert_uint_eq(ray_peek(&box), RAY_LST);
    ck_assert_int_eq(ray_next(&box, &inner), RAY_OK);
    ck_assert_int_eq(ray_next(&inner, &s), RAY_OK);
    ck_assert_str_eq(s, "a");
    ray_free(s);
    ck_assert_int_eq(ray_skip(&inner), RAY_OK);
    ck_assert_int_eq(ray_next(&inner, &d), RAY_OK);
    ck_assert(d > 2.4 && d < 2.6);
    ck_assert_uint_eq(ray_peek(&inner), RAY_NONE);
    ck_assert_int_eq(ray_next(&inner, &d), RAY_END);
    ck_assert_int_eq(ray_skip(&inner), RAY_END);
    ray_box_drop(&inner);

    ck_assert_uint_eq(ray_peek(&box), RAY_NIL);
    ck_assert_int_eq(ray_next(&box, &i), RAY_ETYPE);
    ck_assert_int_eq(ray_next(&box, &inner), RAY_OK); /* any value opens as a box */
    ck_assert_uint_eq(inner.kind, RAY_NIL);

    ck_assert_int_eq(ray_next(&box, &map), RAY_OK);
    ck_assert_uint_eq(map.kind, RAY_MAP);
    ck_assert_uint_eq(map.left, 4);
    ck_assert_int_eq(ray_skip(&map), RAY_OK);
    ck_assert_int_eq(ray_next(&map, &i), RAY_OK);
    ck_assert_int_eq(i, -3);
    ck_assert_int_eq(ray_next(&map, &i), RAY_OK);
    ck_assert_int_eq(ray_next(&map, &inner), RAY_OK);
    ck_assert_int_eq(ray_next(&inner, &b), RAY_OK);
    ck_assert(b);
    ck_assert_int_eq(ray_next(&box, &s), RAY_OK);
    ck_assert_str_eq(s, "end");
    ray_free(s);
    ray_box_drop(&box);
    ck_assert_int_eq(ray_next(&box, &i), RAY_END);
}
END_TEST

START_TEST(a_single_value_opens_as_a_box)
{
    ray_box box;
    long i;

    ck_assert_int_eq(through(ray_v(42), ray_to(&box)), RAY_OK);
    ck_assert_uint_eq(box.kind, RAY_I64);
    ck_assert_int_eq(ray_next(&box, &i), RAY_OK);
    ck_assert_int_eq(i, 42);
    ck_assert_int_eq(ray_next(&box, &i), RAY_END);
    ray_box_drop(&box);
}
END_TEST

START_TEST(long_lists_come_from_arrays)
{
    enum { N = 30000 };
    ray_value *items = malloc(N * sizeof *items);
    ray_box box;

    for (int i = 0; i < N; i++)
        items[i] = ray_v(i);
    ck_assert_int_eq(through(ray_list_of(items, N), ray_to(&box)), RAY_OK);
    ck_assert_uint_eq(box.left, N);
    for (int i = 0; i < N; i++) {
        int x;
        ck_assert_int_eq(ray_next(&box, &x), RAY_OK);
        ck_assert_int_eq(x, i);
    }
    ray_box_drop(&box);
    free(items);
}
END_TEST

START_TEST(what_cannot_travel_is_refused_with_a_sentence)
{
    ray_ref none = {0};
    ray_buffer buffer = {0};
    ray_value nested = ray_nil(), levels[70];
    ray_value odd[3] = {ray_nil(), ray_nil(), ray_nil()};

    ck_assert_int_eq(refused(ray_list(1, ray_map("r", none)), "its word is 0"), RAY_ESTALE);
    ck_assert_int_eq(refused(ray_list(ray_v(&buffer)), "ray_seal"), RAY_EARG);
    ck_assert_int_eq(refused(ray_v((const char *)NULL), "ray_nil()"), RAY_EARG);
    ck_assert_int_eq(refused(ray_map_of(odd, 3), "a value for each key"), RAY_EARG);
    ck_assert_int_eq(refused(ray_bytes(NULL, 4), "NULL"), RAY_EARG);
    ck_assert_int_eq(refused(ray_list_of(NULL, 4), "NULL"), RAY_EARG);
    ck_assert_int_eq(refused((ray_value){.kind = 99}, "kind 99"), RAY_EARG);
    for (int i = 0; i < 70; i++) {
        levels[i] = nested;
        nested = ray_list_of(&levels[i], 1);
    }
    ck_assert_int_eq(refused(nested, "nested deeper"), RAY_EARG);
}
END_TEST

/* Walk a foreign value as deep as it goes; the bytes are exactly n long. */
static void walk(ray_box *box, int depth)
{
    ray_box inner;
    uint64_t items = 0;

    while (ray_peek(box) != RAY_NONE && items++ < 1000) {
        if (ray_next(box, &inner) != RAY_OK)
            return;
        if (depth < 16 && (inner.kind == RAY_LST || inner.kind == RAY_MAP))
            walk(&inner, depth + 1);
    }
}

static int read_foreign(const uint8_t *bytes, size_t n)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    ray_box box;
    long i;

    if (n > 0)
        memcpy(exact, bytes, n);
    struct core_arg a = {.bytes = exact, .size = n, .meta = WIRE_META_XLANG};
    api_unpack_arg(&a, ray_to(&i));
    int rc = api_unpack_arg(&a, ray_to(&box));
    if (rc == RAY_OK)
        walk(&box, 0);
    free(exact);
    return rc;
}

START_TEST(a_cut_value_is_refused)
{
    ray_ref ref = {5};
    struct core_arg a =
        pack(ray_list(1000, "text", ray_bytes("b", 1), 2.0, ray_map("k", ray_nil()), ref));

    for (size_t i = 0; i < a.size; i++)
        ck_assert_int_eq(read_foreign(a.bytes, i), RAY_ETYPE);
    ck_assert_int_eq(read_foreign(a.bytes, a.size), RAY_OK);
    free((void *)(uintptr_t)a.bytes);
}
END_TEST

START_TEST(foreign_bytes_are_survived)
{
    static const char *const claims[] = {
        "\xdd\xff\xff\xff\xff", /* 4 Gi items in no bytes */
        "\xdf\xff\xff\xff\xff",
        "\xc6\xff\xff\xff\xff",
        "\xdb\xff\xff\xff\xff",
        "\xc1",
        "\xd4\x01x", /* an extension */
        "\xd6\x01xxxx",
        "\xd6Rxxx", /* a ref that is cut */
    };
    uint8_t bytes[FUZZ_SIZE];
    uint64_t x = 88172645463325252u;

    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++)
        ck_assert_int_eq(read_foreign((const uint8_t *)claims[i], strlen(claims[i])), RAY_ETYPE);
    for (int round = 0; round < FUZZ_ROUNDS; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            bytes[i] = (uint8_t)(i % 3 == 0 ? 0x80 | x >> 33 : x >> 40);
        }
        read_foreign(bytes, (size_t)round % sizeof bytes);
    }
    ck_assert_int_eq(unpack("", 1, 9, ray_to(&x)), RAY_ETYPE);
}
END_TEST

START_TEST(a_failure_names_its_place)
{
    static const char strings[] = "7 by zero\0divide\0ex1.c\0/s/logs/worker-1";
    struct wire_failure f = {.code = CORE_ETASK, .pid = 42, .signal = 6};
    uint8_t value[sizeof f + sizeof strings];
    char *line = NULL;
    size_t n;
    long i = 3;

    memset(&f.node, 0xab, sizeof f.node);
    memcpy(value, &f, sizeof f);
    memcpy(value + sizeof f, strings, sizeof strings);
    ck_assert_int_eq(unpack(value, sizeof value, WIRE_META_ERROR, ray_to(&i)), RAY_ETASK);
    ck_assert_int_eq(i, 3);
    const ray_failure *e = ray_error();
    ck_assert_int_eq(e->code, RAY_ETASK);
    ck_assert_str_eq(e->text, "7 by zero");
    ck_assert_str_eq(e->function, "divide");
    ck_assert_str_eq(e->file, "ex1.c");
    ck_assert_str_eq(e->log, "/s/logs/worker-1");
    ck_assert_int_eq(e->pid, 42);
    ck_assert_int_eq(e->signal, 6);
    ck_assert_uint_eq(strlen(e->node), 56);
    FILE *out = open_memstream(&line, &n);
    ck_assert_int_eq(ray_report(out), 1);
    fclose(out);
    ck_assert_str_eq(line,
                     "divide (ex1.c): 7 by zero; node abababab, pid 42, log /s/logs/worker-1\n");
    free(line);
    /* cut anywhere: never more than was sent */
    for (size_t cut = 0; cut < sizeof value; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, value, cut);
        ck_assert_int_ne(unpack(exact, cut, WIRE_META_ERROR, ray_to(&i)), RAY_OK);
        free(exact);
    }
    api_clear();
    ck_assert_int_eq(ray_error()->code, RAY_OK);
    ck_assert_str_eq(ray_error()->text, "");
}
END_TEST

START_TEST(resources_are_read_or_refused_with_a_sentence)
{
    static const char *const bad[] = {
        "gadget",
        "=1",
        "gadget=",
        "gadget=x",
        "gadget=nan",
        "gadget=-1",
        "gadget=inf",
        "gadget=1e300",
        "CPU=2",
        "a=1;b=2",
        "a=1,a234567890123456789012345678901234567890123456789=1",
    };
    struct core_resource r[CORE_N_RESOURCES];
    unsigned n = 7;

    ck_assert_int_eq(api_parse_resources(NULL, r, &n), RAY_OK);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(api_parse_resources("gadget=2,half=0.5,none=0", r, &n), RAY_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(r[0].name, "gadget");
    ck_assert_int_eq(r[0].units, 20000);
    ck_assert_int_eq(r[1].units, 5000);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        api_clear();
        ck_assert_msg(api_parse_resources(bad[i], r, &n) == RAY_EARG, "%s", bad[i]);
        ck_assert_uint_gt(strlen(ray_error()->text), 10);
    }
}
END_TEST

START_TEST(before_ray_init_calls_fail_with_a_sentence)
{
    ray_cluster cluster;
    ray_context context;
    ray_event event;
    ray_ref ref = {0};
    bool ready;
    long i;
    static const char *const none[] =
        {"ray://head:10001", "head:", "head:0", "head:65536", "head:63 79", ":6379", "a:b:6379"};

    ck_assert_int_eq(ray_get(ref, &i, 0), RAY_ESTALE);
    ck_assert_int_eq(ray_wait(&ref, 1, 1, 0, &ready), RAY_ESTALE);
    ck_assert_int_eq(ray_wait(&ref, 0, 0, 0, &ready), RAY_OK);
    ck_assert_int_eq(ray_release(ref), RAY_ESTALE);
    ck_assert_int_eq(ray_poll(&event, 1, 0), -1);
    ck_assert_int_eq(ray_poll_fd(), -1);
    ck_assert_int_eq(ray_get_cluster(&cluster), RAY_EARG);
    ck_assert_int_eq(ray_get_context(NULL, &context), RAY_EARG);
    ck_assert_int_eq(ray_shutdown(), RAY_EARG);
    ck_assert_ptr_null(ray_lookup("nobody"));
    ck_assert_int_eq(ray_init(&(ray_config){.num_cpus = 2}), RAY_EARG); /* its size is missing */
    ck_assert_ptr_nonnull(strstr(ray_error()->text, "RAY_CONFIG"));
    ck_assert_int_eq(ray_init(RAY_CONFIG(.address = "nowhere")), RAY_EARG);
    ck_assert_ptr_nonnull(strstr(ray_error()->text, "HOST:PORT"));
    for (size_t k = 0; k < sizeof none / sizeof none[0]; k++) {
        ck_assert_int_eq(ray_init(RAY_CONFIG(.address = none[k])), RAY_ELINK);
        ck_assert_msg(strstr(ray_error()->text, "HOST:PORT") != NULL, "%s", none[k]);
    }
    setenv("RAY_RAYLET", "/nowhere/raylet", 1); /* no node here: one is to be started */
    ck_assert_int_eq(ray_init(RAY_CONFIG(.address = "10.0.0.1:6379")), RAY_ELINK);
    ck_assert_ptr_nonnull(strstr(ray_error()->text, "/nowhere/raylet"));
    unsetenv("RAY_RAYLET");
    ck_assert_int_eq(ray_init(RAY_CONFIG(.num_cpus = -1)), RAY_EARG);
    ck_assert_int_eq(ray_init(RAY_CONFIG(.resources = "x")), RAY_EARG);

    /* nothing can carry why the put failed: the get of it says so all the same */
    setenv("RAY_ADDRESS", "nowhere", 1);
    ref = ray_put(1);
    ck_assert_uint_eq(ref.word, 0);
    ck_assert_int_eq(ray_get(ref, &i, RAY_FOREVER), RAY_EARG);
    ck_assert_ptr_nonnull(strstr(ray_error()->text, "nowhere"));
    ck_assert_int_eq(ray_release(ref), RAY_ESTALE);
    ck_assert_int_eq(ray_get(ref, &i, RAY_FOREVER), RAY_ESTALE);
    unsetenv("RAY_ADDRESS");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("value");
    TCase *t = tcase_create("value");
    SRunner *r;

    tcase_add_test(t, numbers_take_the_shortest_form);
    tcase_add_test(t, scalars_come_back);
    tcase_add_test(t, a_number_that_does_not_fit_is_refused_and_nothing_is_written);
    tcase_add_test(t, strings_and_bytes_are_copies);
    tcase_add_test(t, bytes_of_their_own_are_not_packed);
    tcase_add_test(t, values_longer_than_the_stack_are_packed_whole);
    tcase_add_test(t, refs_travel_beside_the_bytes_and_are_named_by_their_place);
    tcase_add_test(t, a_place_beyond_the_refs_is_refused);
    tcase_add_test(t, lists_and_maps_are_walked);
    tcase_add_test(t, a_single_value_opens_as_a_box);
    tcase_add_test(t, long_lists_come_from_arrays);
    tcase_add_test(t, what_cannot_travel_is_refused_with_a_sentence);
    tcase_add_test(t, a_cut_value_is_refused);
    tcase_add_test(t, foreign_bytes_are_survived);
    tcase_add_test(t, a_failure_names_its_place);
    tcase_add_test(t, resources_are_read_or_refused_with_a_sentence);
    tcase_add_test(t, before_ray_init_calls_fail_with_a_sentence);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
