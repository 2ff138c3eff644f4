/* SPDX-License-Identifier: Apache-2.0 */
/* value.h: values in and out by their C type; included by ray.h.
 *
 * ray_v(x)   makes a value: bool, any integer, float, double, a string (const char *, not NULL), a
 *            ray_ref, ray_bytes(p, n), ray_nil(), ray_list(...), ray_map(...), a ray_value, or, for
 *            ray_return alone, a ray_buffer *. In C before C2x true and false are ints: write
 *            (bool)true where it matters.
 * ray_to(&x) makes a place: of bool, any integer of 1, 2, 4 or 8 bytes (a number that does not fit
 *            is RAY_ETYPE), float and double (integers fit too), const char * or char * (a
 *            copy with a terminator), ray_view (bytes or a string, where they lie), ray_box (any
 *            value), ray_ref (a ref that travelled inside a value), or ray_into(buffer, n): bytes
 *            or a string of at most n bytes.
 *
 * Lists and maps of the macros live as long as the block around them in C, as long as the
 * expression around them in C++. */
#ifndef RAY_VALUE_H
#define RAY_VALUE_H
#pragma GCC system_header
enum ray_kind {
    RAY_NIL,
    RAY_BOOL,
    RAY_I64,
    RAY_U64,
    RAY_F64,
    RAY_STR,
    RAY_BIN,
    RAY_REF,
    RAY_LST,
    RAY_MAP,
    RAY_VIEW, /* of places: bytes that are not copied */
    RAY_BOX,  /* of places: any value */
    RAY_NONE, /* of ray_peek: no item is left */
    RAY_BUF   /* of returns: a ray_buffer, given away */
};

/* --- registering: macros are laid out as the code they make --- */
/* clang-format off */
#define RAY_REGISTER(f, body_, ...)                                                                \
    RAY_DECLARE(f);                                                                                \
    __extension__ ray_function ray_fn_##f = {                                                      \
        sizeof(ray_function), #f, __FILE__, body_, NULL,                                           \
        {.size = sizeof(ray_options), __VA_ARGS__}};                                               \
    __attribute__((constructor)) static void ray_reg_##f(void)                                     \
    {                                                                                              \
        ray_register(&ray_fn_##f);                                                                 \
    }                                                                                              \
    RAY_DECLARE(f)
#define RAY_REMOTE_(f, ...) RAY_REGISTER(f, f, __VA_ARGS__)
#ifdef __cplusplus
#define RAY_SAME(f, R, params)                                                                     \
    __attribute__((unused)) static R (*const ray_typed_##f) params = f;
#else
#define RAY_SAME(f, R, params)                                                                     \
    _Static_assert(__builtin_types_compatible_p(__typeof__(f), R params),                          \
                   "RAY_TASK of " #f ": these are not the types of its prototype");
#endif
#define RAY_WRAP(f, R, params, n, decl, fetch, call)                                               \
    RAY_SAME(f, R, params)                                                                         \
    static int ray_body_##f(ray_call *ray_c)                                                       \
    {                                                                                              \
        decl if (ray_n_args(ray_c) != (n)) return ray_fail(ray_c,                                  \
                                                           "takes %u arguments, not %u",           \
                                                           (unsigned)(n),                          \
                                                           ray_n_args(ray_c));                     \
        return (fetch) ? RAY_ETYPE : ray_return(ray_c, 0, call);                                   \
    }                                                                                              \
    RAY_REGISTER(f, ray_body_##f, )
#define RAY_TASK1(f, R) RAY_WRAP(f, R, (void), 0, , 0, f())
#define RAY_TASK2(f, R, A)                                                                         \
    RAY_WRAP(f, R, (A), 1, A ray_1;, ray_arg(ray_c, 0, &ray_1), f(ray_1))
#define RAY_TASK3(f, R, A, B)                                                                      \
    RAY_WRAP(f, R, (A, B), 2,                                                                      \
             A ray_1; B ray_2;,                                                                    \
             ray_arg(ray_c, 0, &ray_1) || ray_arg(ray_c, 1, &ray_2), f(ray_1, ray_2))
#define RAY_TASK4(f, R, A, B, C)                                                                   \
    RAY_WRAP(f, R, (A, B, C), 3,                                                                   \
             A ray_1; B ray_2; C ray_3;,                                                           \
             ray_arg(ray_c, 0, &ray_1) || ray_arg(ray_c, 1, &ray_2) || ray_arg(ray_c, 2, &ray_3),  \
             f(ray_1, ray_2, ray_3))
#define RAY_TASK5(f, R, A, B, C, D)                                                                \
    RAY_WRAP(f, R, (A, B, C, D), 4,                                                                \
             A ray_1; B ray_2; C ray_3; D ray_4;,                                                  \
             ray_arg(ray_c, 0, &ray_1) || ray_arg(ray_c, 1, &ray_2)                                \
             || ray_arg(ray_c, 2, &ray_3) || ray_arg(ray_c, 3, &ray_4),                            \
             f(ray_1, ray_2, ray_3, ray_4))
#define RAY_TASK6(f, R, A, B, C, D, E)                                                             \
    RAY_WRAP(f, R, (A, B, C, D, E), 5,                                                             \
             A ray_1; B ray_2; C ray_3; D ray_4; E ray_5;,                                         \
             ray_arg(ray_c, 0, &ray_1) || ray_arg(ray_c, 1, &ray_2)                                \
             || ray_arg(ray_c, 2, &ray_3) || ray_arg(ray_c, 3, &ray_4)                             \
             || ray_arg(ray_c, 4, &ray_5),                                                         \
             f(ray_1, ray_2, ray_3, ray_4, ray_5))
#define RAY_TASK7(f, R, A, B, C, D, E, F)                                                          \
    RAY_WRAP(f, R, (A, B, C, D, E, F), 6,                                                          \
             A ray_1; B ray_2; C ray_3; D ray_4; E ray_5; F ray_6;,                                \
             ray_arg(ray_c, 0, &ray_1) || ray_arg(ray_c, 1, &ray_2)                                \
             || ray_arg(ray_c, 2, &ray_3) || ray_arg(ray_c, 3, &ray_4)                             \
             || ray_arg(ray_c, 4, &ray_5) || ray_arg(ray_c, 5, &ray_6),                            \
             f(ray_1, ray_2, ray_3, ray_4, ray_5, ray_6))

/* --- submitting; the last argument is always empty: see ray.h --- */
#define ray_remote_(o, f, ...) ray_submit(&ray_fn_##f, o, RAY_ARGS_(__VA_ARGS__))
#define ray_remote_n_(o, out, n, f, ...)                                                           \
    ray_submit_n(out, n, &ray_fn_##f, o, RAY_ARGS_(__VA_ARGS__))
#define RAY_CAT(a, b)                    RAY_CAT_(a, b)
#define RAY_CAT_(a, b)                   a##b
#define RAY_COUNT(...)                                                                             \
    RAY_COUNT_(__VA_ARGS__, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define RAY_COUNT_(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r, n, ...) n
#define RAY_EACH(...)   __VA_OPT__(RAY_E1(__VA_ARGS__))
#define RAY_E1(x, ...)  ray_v(x), __VA_OPT__(RAY_E2(__VA_ARGS__))
#define RAY_E2(x, ...)  ray_v(x), __VA_OPT__(RAY_E3(__VA_ARGS__))
#define RAY_E3(x, ...)  ray_v(x), __VA_OPT__(RAY_E4(__VA_ARGS__))
#define RAY_E4(x, ...)  ray_v(x), __VA_OPT__(RAY_E5(__VA_ARGS__))
#define RAY_E5(x, ...)  ray_v(x), __VA_OPT__(RAY_E6(__VA_ARGS__))
#define RAY_E6(x, ...)  ray_v(x), __VA_OPT__(RAY_E7(__VA_ARGS__))
#define RAY_E7(x, ...)  ray_v(x), __VA_OPT__(RAY_E8(__VA_ARGS__))
#define RAY_E8(x, ...)  ray_v(x), __VA_OPT__(RAY_E9(__VA_ARGS__))
#define RAY_E9(x, ...)  ray_v(x), __VA_OPT__(RAY_E10(__VA_ARGS__))
#define RAY_E10(x, ...) ray_v(x), __VA_OPT__(RAY_E11(__VA_ARGS__))
#define RAY_E11(x, ...) ray_v(x), __VA_OPT__(RAY_E12(__VA_ARGS__))
#define RAY_E12(x, ...) ray_v(x), __VA_OPT__(RAY_E13(__VA_ARGS__))
#define RAY_E13(x, ...) ray_v(x), __VA_OPT__(RAY_E14(__VA_ARGS__))
#define RAY_E14(x, ...) ray_v(x), __VA_OPT__(RAY_E15(__VA_ARGS__))
#define RAY_E15(x, ...) ray_v(x), __VA_OPT__(RAY_E16(__VA_ARGS__))
#define RAY_E16(x, ...) ray_v(x), __VA_OPT__(more_than_16_values_use_ray_submit_or_ray_list_of)
/* clang-format on */

/* --- values and places --- */
#define RAY_V(name, T, K, m)                                                                       \
    static inline ray_value name(T x)                                                              \
    {                                                                                              \
        ray_value v = {K, 0, {0}, 0};                                                              \
        v.as.m = x;                                                                                \
        return v;                                                                                  \
    }
#define RAY_VW(name, T, K)                                                                         \
    static inline ray_value name(T x)                                                              \
    {                                                                                              \
        ray_value v = {K, 0, {0}, 0};                                                              \
        v.as.u = x.word;                                                                           \
        return v;                                                                                  \
    }
#define RAY_S(name, T, K)                                                                          \
    static inline ray_slot name(T *p)                                                              \
    {                                                                                              \
        ray_slot s = {K, (void *)p, sizeof *p};                                                    \
        return s;                                                                                  \
    }
static inline ray_value ray_bytes(const void *p, size_t n)
{
    ray_value v = {RAY_BIN, 0, {0}, n};
    v.as.p = p;
    return v;
}
static inline ray_value ray_nil(void)
{
    ray_value v = {RAY_NIL, 0, {0}, 0};
    return v;
}
static inline ray_value ray_list_of(const ray_value *items, size_t n)
{
    ray_value v = {RAY_LST, 0, {0}, n};
    v.as.v = items;
    return v;
}
/* key, value, key, value ...: n is even */
static inline ray_value ray_map_of(const ray_value *items, size_t n)
{
    ray_value v = {RAY_MAP, 0, {0}, n};
    v.as.v = items;
    return v;
}
static inline ray_value ray_v_buf(ray_buffer *b)
{
    ray_value v = {RAY_BUF, 0, {0}, 0};
    v.as.p = b;
    return v;
}
static inline ray_slot ray_into(void *p, size_t n)
{
    ray_slot s = {RAY_BIN, p, n};
    return s;
}
#ifndef __cplusplus
RAY_V(ray_v_i, int64_t, RAY_I64, i)
RAY_V(ray_v_u, uint64_t, RAY_U64, u)
RAY_V(ray_v_b, bool, RAY_BOOL, i)
RAY_V(ray_v_d, double, RAY_F64, d)
RAY_V(ray_v_s, const char *, RAY_STR, p)
RAY_VW(ray_v_r, ray_ref, RAY_REF)
static inline ray_value ray_v_v(ray_value v)
{
    return v;
}
#define ray_v(x)                                                                                   \
    _Generic((x),                                                                                  \
        bool: ray_v_b,                                                                             \
        char: ray_v_i,                                                                             \
        signed char: ray_v_i,                                                                      \
        short: ray_v_i,                                                                            \
        int: ray_v_i,                                                                              \
        long: ray_v_i,                                                                             \
        long long: ray_v_i,                                                                        \
        unsigned char: ray_v_u,                                                                    \
        unsigned short: ray_v_u,                                                                   \
        unsigned: ray_v_u,                                                                         \
        unsigned long: ray_v_u,                                                                    \
        unsigned long long: ray_v_u,                                                               \
        float: ray_v_d,                                                                            \
        double: ray_v_d,                                                                           \
        char *: ray_v_s,                                                                           \
        const char *: ray_v_s,                                                                     \
        ray_ref: ray_v_r,                                                                          \
        ray_buffer *: ray_v_buf,                                                                   \
        ray_value: ray_v_v)(x)
RAY_S(ray_to_b, bool, RAY_BOOL)
RAY_S(ray_to_i8, signed char, RAY_I64)
RAY_S(ray_to_i16, short, RAY_I64)
RAY_S(ray_to_i32, int, RAY_I64)
RAY_S(ray_to_i, long, RAY_I64)
RAY_S(ray_to_ll, long long, RAY_I64)
RAY_S(ray_to_u8, unsigned char, RAY_U64)
RAY_S(ray_to_u16, unsigned short, RAY_U64)
RAY_S(ray_to_u32, unsigned, RAY_U64)
RAY_S(ray_to_u, unsigned long, RAY_U64)
RAY_S(ray_to_ull, unsigned long long, RAY_U64)
RAY_S(ray_to_f, float, RAY_F64)
RAY_S(ray_to_d, double, RAY_F64)
RAY_S(ray_to_s, const char *, RAY_STR)
RAY_S(ray_to_cs, char *, RAY_STR)
RAY_S(ray_to_r, ray_ref, RAY_REF)
RAY_S(ray_to_v, ray_view, RAY_VIEW)
RAY_S(ray_to_box, ray_box, RAY_BOX)
static inline ray_slot ray_to_slot(ray_slot s)
{
    return s;
}
#define ray_to(p)                                                                                  \
    _Generic((p),                                                                                  \
        bool *: ray_to_b,                                                                          \
        signed char *: ray_to_i8,                                                                  \
        short *: ray_to_i16,                                                                       \
        int *: ray_to_i32,                                                                         \
        long *: ray_to_i,                                                                          \
        long long *: ray_to_ll,                                                                    \
        unsigned char *: ray_to_u8,                                                                \
        unsigned short *: ray_to_u16,                                                              \
        unsigned *: ray_to_u32,                                                                    \
        unsigned long *: ray_to_u,                                                                 \
        unsigned long long *: ray_to_ull,                                                          \
        float *: ray_to_f,                                                                         \
        double *: ray_to_d,                                                                        \
        const char **: ray_to_s,                                                                   \
        char **: ray_to_cs,                                                                        \
        ray_ref *: ray_to_r,                                                                       \
        ray_view *: ray_to_v,                                                                      \
        ray_box *: ray_to_box,                                                                     \
        ray_slot: ray_to_slot)(p)
#define RAY_OPTIONS(...) (&(const ray_options){.size = sizeof(ray_options), __VA_ARGS__})
#define RAY_CONFIG(...)  (&(const ray_config){.size = sizeof(ray_config), __VA_ARGS__})
#define RAY_ARGS_(...)   ((const ray_value[]){RAY_EACH(__VA_ARGS__){0}}), RAY_COUNT(__VA_ARGS__) - 1
#else
#include <initializer_list>
#define RAY_O(T, K, m) RAY_V(ray_v, T, K, m)
RAY_O(bool, RAY_BOOL, i)
RAY_O(int, RAY_I64, i)
RAY_O(long, RAY_I64, i)
RAY_O(long long, RAY_I64, i)
RAY_O(unsigned, RAY_U64, u)
RAY_O(unsigned long, RAY_U64, u)
RAY_O(unsigned long long, RAY_U64, u)
RAY_O(double, RAY_F64, d)
RAY_O(const char *, RAY_STR, p)
RAY_VW(ray_v, ray_ref, RAY_REF)
static inline ray_value ray_v(ray_buffer *b)
{
    return ray_v_buf(b);
}
static inline ray_value ray_v(ray_value v)
{
    return v;
}
RAY_S(ray_to, bool, RAY_BOOL)
RAY_S(ray_to, signed char, RAY_I64)
RAY_S(ray_to, short, RAY_I64)
RAY_S(ray_to, int, RAY_I64)
RAY_S(ray_to, long, RAY_I64)
RAY_S(ray_to, long long, RAY_I64)
RAY_S(ray_to, unsigned char, RAY_U64)
RAY_S(ray_to, unsigned short, RAY_U64)
RAY_S(ray_to, unsigned, RAY_U64)
RAY_S(ray_to, unsigned long, RAY_U64)
RAY_S(ray_to, unsigned long long, RAY_U64)
RAY_S(ray_to, float, RAY_F64)
RAY_S(ray_to, double, RAY_F64)
RAY_S(ray_to, const char *, RAY_STR)
RAY_S(ray_to, char *, RAY_STR)
RAY_S(ray_to, ray_ref, RAY_REF)
RAY_S(ray_to, ray_view, RAY_VIEW)
RAY_S(ray_to, ray_box, RAY_BOX)
static inline ray_slot ray_to(ray_slot s)
{
    return s;
}
static inline const ray_options *ray_options_at(const ray_options &o)
{
    return &o;
}
static inline const ray_config *ray_config_at(const ray_config &c)
{
    return &c;
}
/* __extension__: designators are allowed in C++17 too */
#define RAY_OPTIONS(...)                                                                           \
    ray_options_at(__extension__ ray_options{.size = sizeof(ray_options), __VA_ARGS__})
#define RAY_CONFIG(...)                                                                            \
    ray_config_at(__extension__ ray_config{.size = sizeof(ray_config), __VA_ARGS__})
struct ray_values {
    const ray_value *v;
    size_t n;
    ray_values(const std::initializer_list<ray_value> &l) : v(l.begin()), n(l.size())
    {
    }
};
static inline ray_ref ray_submit_at(const char *site,
                                    ray_function *f,
                                    const ray_options *o,
                                    const ray_values &l)
{
    return ray_submit_at(site, f, o, l.v, l.n);
}
static inline int ray_submit_n_at(const char *site,
                                  ray_ref *r,
                                  size_t k,
                                  ray_function *f,
                                  const ray_options *o,
                                  const ray_values &l)
{
    return ray_submit_n_at(site, r, k, f, o, l.v, l.n);
}
static inline ray_value ray_list_of(const ray_values &l)
{
    return ray_list_of(l.v, l.n);
}
static inline ray_value ray_map_of(const ray_values &l)
{
    return ray_map_of(l.v, l.n);
}
#define RAY_ARGS_(...) ray_values({RAY_EACH(__VA_ARGS__)})
#endif
/* RAY_ARGS(1, "a") for the last two arguments of ray_submit */
#define RAY_ARGS(...) RAY_ARGS_(__VA_ARGS__ __VA_OPT__(, ))
#define ray_list(...) ray_list_of(RAY_ARGS(__VA_ARGS__))
#define ray_map(...)  ray_map_of(RAY_ARGS(__VA_ARGS__))
#endif /* RAY_VALUE_H */
