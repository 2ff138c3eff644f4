/* SPDX-License-Identifier: Apache-2.0 */
/* The public header as a user of C++17 or C++20 compiles it, with -Wpedantic -Wextra. */
#include <ray/ray.h>

#include <cstdlib>

static double norm(double x, double y)
{
    return x * x + y * y;
}
RAY_TASK(norm, double, double, double);

static const char *six(const char *a, const char *b, int c, unsigned d, float e, bool f)
{
    return c > 0 && d > 0 && e > 0 && f ? a : b;
}
RAY_TASK(six, const char *, const char *, const char *, int, unsigned, float, bool);

static int square(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return ray_fail(call, "%s", ray_error()->text);
    return ray_return(call, 0, x * x);
}
RAY_REMOTE(square);

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
    static_cast<char *>(buffer.data)[0] = 'x';
    return ray_return(call, 0, &buffer);
}
RAY_REMOTE(blocks, .num_returns = 2);

static int pair(ray_call *call)
{
    ray_return(call, 0, ray_list(1, 2.0, "three", ray_list(4, ray_nil()), ray_map("five", true)));
    return ray_return(call, 1, ray_bytes("x", 1));
}
RAY_REMOTE(pair, .num_returns = 2, .max_retries = RAY_ZERO);
RAY_DECLARE(square);

int user();
int user()
{
    ray_ref refs[2], many[3];
    ray_view view;
    ray_box box;
    ray_value items[3];
    const char *s;
    char buffer[8];
    bool ready[2];
    int64_t x[3];
    uint64_t u;

    if (ray_init(RAY_CONFIG(.num_cpus = 2)) != RAY_OK)
        return ray_report(stderr);
    refs[0] = ray_remote(square, 3);
    refs[1] = ray_remote_with(RAY_OPTIONS(.num_cpus = 0.5, .name = "n"), norm, refs[0], 2.0f);
    ray_wait(refs, 2, 1, 0, ready);
    ray_remote_n(many, 2, pair);
    ray_remote_n_with(RAY_OPTIONS(.num_returns = 3), many, 3, pair, 1ull, 'a', "b", true);
    ray_get(refs[0], &x[0], RAY_FOREVER);
    ray_get(refs[0], &u, RAY_FOREVER);
    ray_get_many(many, 3, &x[0], 10);
    ray_take(many[0], &view, 10);
    ray_take(many[1], ray_into(buffer, sizeof buffer), 10);
    ray_drop(&view);
    if (ray_take(many[2], &box, 10) == RAY_OK) {
        while (ray_peek(&box) == RAY_STR && ray_next(&box, &s) == RAY_OK)
            ray_free(s);
        ray_box_drop(&box);
    }
    items[0] = items[1] = items[2] = ray_v(1);
    refs[0] = ray_put(ray_list_of(items, 3));
    refs[0] = ray_submit(ray_bind(ray_lookup("square"), RAY_OPTIONS(.num_cpus = RAY_ZERO)),
                         nullptr,
                         items,
                         3);
    ray_buffer made;
    ray_object object;
    if (ray_create(100, &made) == RAY_OK) {
        refs[0] = ray_seal(&made);
        refs[1] = ray_put(ray_list(refs[0], ray_map("r", refs[0]), ray_list_of(items, 3)));
        ray_remote_n(many, 2, blocks, ray_list(refs[0], ray_list(refs[1])), refs[0]);
        ray_get(many[1], &refs[1], RAY_FOREVER);
        ray_get_object(refs[1], &object);
        ray_free_object(refs[0]);
        ray_abandon(&made);
    }
    ray_release(refs[0]);
    return ray_shutdown();
}

static size_t count_of(const ray_values &values)
{
    return values.n;
}

int main()
{
    uint8_t u8;
    ray_buffer buffer;
    ray_ref ref = {7};
    const char *site = RAY_SITE;

    bool good = ray_v(1).kind == RAY_I64 && ray_v("a").kind == RAY_STR
                && ray_v(true).kind == RAY_BOOL && ray_v('a').kind == RAY_I64
                && ray_v(2.0f).kind == RAY_F64
                && ray_list(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16).size == 16
                && count_of(RAY_ARGS(1)) == 1 && count_of(RAY_ARGS(1, "a")) == 2
                && ray_to(&ref).kind == RAY_REF && ray_v(ref).as.u == 7
                && ray_v(&buffer).kind == RAY_BUF && site[0] != '\0' && ray_to(&u8).size == 1
                && ray_to(&u8).kind == RAY_U64 && ray_fn_pair.options.num_returns == 2;
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
