// SPDX-License-Identifier: Apache-2.0
// Objects and refs from C++, with the same header: its overloads, and lists that live as long as
// their expression.
#include <ray/ray.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            std::fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #x);                   \
            ray_report(stderr);                                                                    \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (0)

// Doubles all numbers of the block that its list names, into a buffer.
static int doubled(ray_call *call)
{
    ray_box list;
    ray_ref ref;
    ray_view view;
    ray_buffer out;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK
        || ray_take(ref, &view, RAY_FOREVER) != RAY_OK || ray_create(view.size, &out) != RAY_OK)
        return -1;
    auto from = static_cast<const double *>(view.data);
    auto to = static_cast<double *>(out.data);
    for (size_t i = 0; i < view.size / sizeof(double); i++)
        to[i] = 2 * from[i];
    ray_drop(&view);
    return ray_return(call, 0, &out);
}
RAY_REMOTE(doubled);

static int pair(ray_call *call)
{
    ray_ref large = ray_put(ray_bytes(std::vector<char>(200000, 'x').data(), 200000));
    int rc = ray_return(call, 0, large);

    if (rc == RAY_OK)
        rc = ray_return(call, 1, ray_map("large", large, "list", ray_list(1, large, "end")));
    ray_release(large);
    return rc;
}
RAY_REMOTE(pair, .num_returns = 2);

int main()
{
    const size_t n = 100000;
    ray_buffer buffer;
    ray_view view, text;
    ray_box box, list;
    ray_ref refs[2], inner, again;
    ray_object object;
    int one;

    CHECK(ray_init(RAY_CONFIG(.num_cpus = 2, .object_store_memory = 100u << 20)) == RAY_OK);
    CHECK(ray_create(n * sizeof(double), &buffer) == RAY_OK);
    auto numbers = static_cast<double *>(buffer.data);
    std::iota(numbers, numbers + n, 0.0);
    ray_ref block = ray_seal(&buffer);
    CHECK(buffer.data == nullptr);
    ray_ref twice = ray_remote(doubled, ray_list(block));
    CHECK(ray_get(twice, &view, RAY_FOREVER) == RAY_OK && view.size == n * sizeof(double));
    auto got = static_cast<const double *>(view.data);
    CHECK(std::accumulate(got, got + n, 0.0) == double(n) * double(n - 1));
    CHECK(ray_release(twice) == RAY_OK);
    CHECK(got[n - 1] == 2 * double(n - 1));
    ray_drop(&view);
    CHECK(ray_get_object(block, &object) == RAY_OK && object.in_store && object.is_owned);
    CHECK(ray_free_object(block) == RAY_OK);
    CHECK(ray_get(block, &view, RAY_FOREVER) == RAY_ELOST);
    CHECK(ray_release(block) == RAY_OK && ray_release(block) == RAY_ESTALE);

    CHECK(ray_remote_n(refs, 2, pair) == RAY_OK);
    CHECK(ray_take(refs[0], &inner, RAY_FOREVER) == RAY_OK);
    CHECK(ray_take(refs[1], &box, RAY_FOREVER) == RAY_OK);
    CHECK(ray_skip(&box) == RAY_OK && ray_next(&box, &again) == RAY_OK);
    CHECK(ray_next(&box, &text) == RAY_OK && ray_next(&box, &list) == RAY_OK);
    CHECK(text.size == 4 && std::memcmp(text.data, "list", 4) == 0);
    CHECK(ray_next(&list, &one) == RAY_OK && one == 1 && ray_peek(&list) == RAY_REF);
    ray_box_drop(&box);
    for (ray_ref ref : {inner, again}) {
        CHECK(ray_take(ref, &view, RAY_FOREVER) == RAY_OK && view.size == 200000);
        CHECK(static_cast<const char *>(view.data)[199999] == 'x');
        ray_drop(&view);
    }
    return ray_shutdown();
}
