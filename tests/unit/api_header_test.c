/* SPDX-License-Identifier: Apache-2.0 */
/* The public header as a user compiles it: every macro, in C11 to C2x with -Wpedantic -Wextra. The
 * kinds that ray_v and ray_to choose are checked when it runs. */
#include <ray/ray.h>

#include <stdlib.h>
#include <string.h>

static int none(void)
{
    return 1;
}
RAY_TASK(none, int);

static double one(float a)
{
    return (double)a;
}
RAY_TASK(one, double, float);

static double norm(double x, double y)
{
    return x * x + y * y;
}
RAY_TASK(norm, double, double, double);

static long three(int a, long b, short c)
{
    return a + b + c;
}
RAY_TASK(three, long, int, long, short);

static unsigned four(unsigned a, unsigned char b, unsigned short c, bool d)
{
    return a + b + c + (d ? 1u : 0u);
}
RAY_TASK(four, unsigned, unsigned, unsigned char, unsigned short, bool);

static bool five(int64_t a, uint64_t b, long long c, unsigned long long d, signed char e)
{
    return a != 0 && b != 0 && c != 0 && d != 0 && e != 0;
}
RAY_TASK(five, bool, int64_t, uint64_t, long long, unsigned long long, signed char);

static const char *six(const char *a, const char *b, int c, int d, int e, int f)
{
    return c + d + e + f > 0 ? a : b;
}
RAY_TASK(six, const char *, const char *, const char *, int, int, int, int);

static int square(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return ray_fail(call, "%s", ray_error()->text);
    return ray_return(call, 0, x * x);
}
RAY_REMOTE(square);

/* Refs inside values, and a buffer returned as it was filled. */
static int blocks(ray_call *call)
{
    ray_buffer buffer;
    ray_ref inner;
    ray_box box;
    ray_view view;

    if (ray_arg(call, 0, &box) != RAY_OK || ray_arg(call, 1, &view) != RAY_OK)
        return RAY_ETYPE;
    while (ray_peek(&box) == RAY_REF && ray_next(&box, &inner) == RAY_OK) {
        ray_return(call, 1, inner);
        ray_release(inner);
    }
    if (ray_create(view.size, &buffer) != RAY_OK)
        return -1;
    ((char *)buffer.data)[0] = 'x';
    return ray_return(call, 0, &buffer);
}
RAY_REMOTE(blocks, .num_returns = 2);

static int pair(ray_call *call)
{
    ray_return(call, 0, ray_list(1, 2.0, "three", ray_list(4, ray_nil()), ray_map("five", 6)));
    return ray_return(call, 1, ray_bytes("x", 1));
}
RAY_REMOTE(pair, .num_returns = 2, .max_retries = RAY_ZERO);

/* A function of another file may be declared too. */
RAY_DECLARE(square);

int user(void);
int user(void)
{
    ray_ref refs[2], many[3];
    ray_view view;
    ray_box box;
    ray_value items[3];
    ray_event events[4];
    ray_context context;
    ray_cluster cluster;
    char buffer[8];
    const char *s;
    bool ready[2];
    int x[3];

    if (ray_init(RAY_CONFIG(.num_cpus = 2, .resources = "gadget=1")) != RAY_OK)
        return ray_report(stderr);
    refs[0] = ray_remote(square, 3);
    ray_release(refs[0]);
    refs[0] = ray_remote(none);
    refs[1] = ray_remote_with(RAY_OPTIONS(.num_cpus = 0.5, .name = "n"), norm, refs[0], 2.0);
    ray_wait(refs, 2, 1, 0, ready);
    ray_remote_n(many, 2, pair);
    ray_remote_n_with(RAY_OPTIONS(.num_returns = 3), many, 3, pair, 1, "a");
    ray_get(refs[0], &x[0], RAY_FOREVER);
    ray_get_many(many, 3, &x[0], 10);
    ray_take(many[0], &view, 10);
    ray_take(many[1], ray_into(buffer, sizeof buffer), 10);
    ray_drop(&view);
    if (ray_take(many[2], &box, 10) == RAY_OK) {
        while (ray_peek(&box) == RAY_STR && ray_next(&box, &s) == RAY_OK)
            ray_free(s);
        ray_skip(&box);
        ray_box_drop(&box);
    }
    items[0] = items[1] = items[2] = ray_v(1);
    refs[0] = ray_put(ray_list_of(items, 3));
    refs[0] = ray_submit(ray_bind(ray_lookup("square"), RAY_OPTIONS(.num_cpus = RAY_ZERO)),
                         NULL,
                         items,
                         3);
    ray_buffer buffer2;
    ray_object object;
    if (ray_create(100, &buffer2) == RAY_OK) {
        refs[0] = ray_seal(&buffer2);
        refs[1] = ray_put(ray_list(refs[0], ray_map("r", refs[0]), ray_list_of(items, 3)));
        ray_remote_n(many, 2, blocks, ray_list(refs[0], ray_list(refs[1])), refs[0]);
        ray_get(many[1], &refs[1], RAY_FOREVER);
        ray_get_object(refs[1], &object);
        ray_free_object(refs[0]);
        ray_abandon(&buffer2);
    }
    ray_watch(ray_retain(refs[0]), &x);
    ray_poll(events, 4, ray_poll_fd() >= 0 ? 10 : 0);
    ray_get_context(NULL, &context);
    ray_get_cluster(&cluster);
    ray_remote(square, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    return ray_shutdown();
}

#define EXPECT(x)                                                                                  \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x);                        \
            return EXIT_FAILURE;                                                                   \
        }                                                                                          \
    } while (0)

static size_t count_of(const ray_value *values, size_t n)
{
    (void)values;
    return n;
}

int main(void)
{
    signed char i8;
    unsigned u32;
    float f;
    const char *s;
    ray_value list = ray_list(1, ray_list("a", 2.0), (bool)1);
    ray_buffer buffer;
    ray_ref ref = {7};
    const char *site = RAY_SITE;

    EXPECT(ray_v(1).kind == RAY_I64 && ray_v(1u).kind == RAY_U64 && ray_v(1.0f).kind == RAY_F64);
    EXPECT(ray_v("a").kind == RAY_STR && ray_v((bool)1).kind == RAY_BOOL);
    EXPECT(ray_v((short)-7).as.i == -7 && ray_v((unsigned char)200).as.u == 200);
    EXPECT(ray_to(&i8).kind == RAY_I64 && ray_to(&i8).size == 1);
    EXPECT(ray_to(&u32).kind == RAY_U64 && ray_to(&u32).size == 4);
    EXPECT(ray_to(&f).kind == RAY_F64 && ray_to(&f).size == sizeof f);
    EXPECT(ray_to(&s).kind == RAY_STR);
    EXPECT(ray_to(&ref).kind == RAY_REF && ray_v(ref).kind == RAY_REF && ray_v(ref).as.u == 7);
    EXPECT(ray_v(&buffer).kind == RAY_BUF && ray_v(&buffer).as.p == &buffer);
    EXPECT(strncmp(site, "api_header_test.c:", 18) == 0 && site[18] >= '1');
    EXPECT(list.kind == RAY_LST && list.size == 3 && list.as.v[1].kind == RAY_LST);
    EXPECT(list.as.v[1].size == 2 && list.as.v[1].as.v[1].as.d > 1.5);
    EXPECT(ray_list(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16).size == 16);
    EXPECT(ray_list(1).size == 1 && ray_map("k", 1, "l", ray_nil()).size == 4);
    EXPECT(ray_list().size == 0 && ray_map().size == 0);
    EXPECT(count_of(RAY_ARGS(1)) == 1 && count_of(RAY_ARGS()) == 0);
    EXPECT(count_of(RAY_ARGS("a", 2.0, ray_list(3, 4))) == 3);
    EXPECT(ray_fn_pair.options.num_returns == 2 && ray_fn_square.options.size > 0);
    return EXIT_SUCCESS;
}
