/* value.h: values in and out by their C type; included by ray.h.           SPDX-License-Identifier: Apache-2.0 */
#ifndef RAY_VALUE_H
#define RAY_VALUE_H
#pragma GCC system_header
enum ray_kind { RAY_NIL, RAY_BOOL, RAY_I32, RAY_I64, RAY_U64, RAY_F64, RAY_STR, RAY_BIN, RAY_REF, RAY_LST, RAY_MAP, RAY_VIEW, RAY_BOX };
#define RAY_REGISTER(f, body_, ...)                                                                                    \
    RAY_DECLARE(f);                                                                                                    \
    ray_function ray_fn_##f = {sizeof(ray_function), #f, __FILE__, body_, NULL, {.size = sizeof(ray_options), __VA_ARGS__}}; \
    __attribute__((constructor)) static void ray_reg_##f(void)                                                         \
    {                                                                                                                  \
        ray_register(&ray_fn_##f);                                                                                     \
    }                                                                                                                  \
    RAY_DECLARE(f)
#define RAY_REMOTE_(f, ...) RAY_REGISTER(f, f, __VA_ARGS__)
#define RAY_WRAP(f, decl, fetch, call)                                                                                 \
    static int ray_body_##f(ray_call *c)                                                                               \
    {                                                                                                                  \
        decl return (fetch) ? RAY_ETYPE : ray_return(c, 0, call);                                                      \
    }                                                                                                                  \
    RAY_REGISTER(f, ray_body_##f, )
#define RAY_TASK1(f, R)          RAY_WRAP(f, , 0, f())
#define RAY_TASK2(f, R, A)       RAY_WRAP(f, A a;, ray_arg(c, 0, &a), f(a))
#define RAY_TASK3(f, R, A, B)    RAY_WRAP(f, A a; B b;, ray_arg(c, 0, &a) || ray_arg(c, 1, &b), f(a, b))
#define RAY_TASK4(f, R, A, B, C) RAY_WRAP(f, A a; B b; C d;, ray_arg(c, 0, &a) || ray_arg(c, 1, &b) || ray_arg(c, 2, &d), f(a, b, d))
#define RAY_TASK5(f, R, A, B, C, D) RAY_WRAP(f, A a; B b; C d; D e;, ray_arg(c, 0, &a) || ray_arg(c, 1, &b) || ray_arg(c, 2, &d) || ray_arg(c, 3, &e), f(a, b, d, e))
#define ray_remote_(o, f, ...)           ray_submit(&ray_fn_##f, o, RAY_ARGS(__VA_ARGS__))
#define ray_remote_n_(out, n, f, ...)    ray_submit_n(out, n, &ray_fn_##f, NULL, RAY_ARGS(__VA_ARGS__))
#define RAY_CAT(a, b)  RAY_CAT_(a, b)
#define RAY_CAT_(a, b) a##b
#define RAY_COUNT(...) RAY_COUNT_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define RAY_COUNT_(a, b, c, d, e, f, g, h, n, ...) n
#define RAY_EACH(...)   __VA_OPT__(RAY_E1(__VA_ARGS__)) /* the last argument is always empty: see ray.h */
#define RAY_E1(x, ...)  ray_v(x), __VA_OPT__(RAY_E2(__VA_ARGS__))
#define RAY_E2(x, ...)  ray_v(x), __VA_OPT__(RAY_E3(__VA_ARGS__))
#define RAY_E3(x, ...)  ray_v(x), __VA_OPT__(RAY_E4(__VA_ARGS__))
#define RAY_E4(x, ...)  ray_v(x), __VA_OPT__(RAY_E5(__VA_ARGS__))
#define RAY_E5(x, ...)  ray_v(x), __VA_OPT__(RAY_E6(__VA_ARGS__))
#define RAY_E6(x, ...)  ray_v(x), __VA_OPT__(RAY_E7(__VA_ARGS__))
#define RAY_E7(x, ...)  ray_v(x), __VA_OPT__(RAY_E8(__VA_ARGS__))
#define RAY_E8(x, ...)  ray_v(x),
#define RAY_V(name, T, K, m)                                                                                           \
    static inline ray_value name(T x)                                                                                  \
    {                                                                                                                  \
        ray_value v = {K, 0, {0}, 0};                                                                                  \
        v.as.m = x;                                                                                                    \
        return v;                                                                                                      \
    }
#define RAY_VW(name, T, K)                                                                                             \
    static inline ray_value name(T x)                                                                                  \
    {                                                                                                                  \
        ray_value v = {K, 0, {0}, 0};                                                                                  \
        v.as.u = x.word;                                                                                               \
        return v;                                                                                                      \
    }
#define RAY_S(name, T, K)                                                                                              \
    static inline ray_slot name(T *p)                                                                                  \
    {                                                                                                                  \
        ray_slot s = {K, (void *)p, sizeof *p};                                                                        \
        return s;                                                                                                      \
    }
static inline ray_value ray_bytes(const void *p, size_t n)
{
    ray_value v = {RAY_BIN, 0, {0}, n};
    v.as.p = p;
    return v;
}
static inline ray_value ray_seq(uint32_t kind, const ray_value *items, size_t n)
{
    ray_value v = {kind, 0, {0}, n};
    v.as.v = items;
    return v;
}
static inline ray_value ray_nil(void)
{
    ray_value v = {RAY_NIL, 0, {0}, 0};
    return v;
}
/* Bytes into a buffer of n; longer ones are RAY_ETYPE. */
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
#define ray_v(x)                                                                                                       \
    _Generic((x), bool: ray_v_b, char: ray_v_i, signed char: ray_v_i, short: ray_v_i, int: ray_v_i, long: ray_v_i, long long: ray_v_i, \
        unsigned char: ray_v_u, unsigned short: ray_v_u, unsigned: ray_v_u, unsigned long: ray_v_u, unsigned long long: ray_v_u,       \
        float: ray_v_d, double: ray_v_d, char *: ray_v_s, const char *: ray_v_s, ray_ref: ray_v_r, ray_value: ray_v_v)(x)
RAY_S(ray_to_b, bool, RAY_BOOL)
RAY_S(ray_to_i32, int, RAY_I32)
RAY_S(ray_to_i, long, RAY_I64)
RAY_S(ray_to_ll, long long, RAY_I64)
RAY_S(ray_to_u, unsigned long, RAY_U64)
RAY_S(ray_to_d, double, RAY_F64)
RAY_S(ray_to_s, const char *, RAY_STR)
RAY_S(ray_to_cs, char *, RAY_STR)
RAY_S(ray_to_v, ray_view, RAY_VIEW)
RAY_S(ray_to_box, ray_box, RAY_BOX)
static inline ray_slot ray_to_slot(ray_slot s)
{
    return s;
}
#define ray_to(p)                                                                                                      \
    _Generic((p), bool *: ray_to_b, int *: ray_to_i32, long *: ray_to_i, long long *: ray_to_ll, unsigned long *: ray_to_u, \
        double *: ray_to_d, const char **: ray_to_s, char **: ray_to_cs, ray_view *: ray_to_v, ray_box *: ray_to_box,  \
        ray_slot: ray_to_slot)(p)
#define RAY_OPTIONS(...)   (&(const ray_options){.size = sizeof(ray_options), __VA_ARGS__})
#define RAY_CONFIG(...)    (&(const ray_config){.size = sizeof(ray_config), __VA_ARGS__})
#define RAY_LIST(...)      ((const ray_value[]){RAY_EACH(__VA_ARGS__){0}})
#define RAY_ARGS(...)      RAY_LIST(__VA_ARGS__), sizeof(RAY_LIST(__VA_ARGS__)) / sizeof(ray_value) - 1
#define ray_list(...)      ray_seq(RAY_LST, RAY_ARGS(__VA_ARGS__, ))
#define ray_map(...)       ray_seq(RAY_MAP, RAY_ARGS(__VA_ARGS__, ))
#else
#include <initializer_list>
#define RAY_O(T, K, m) RAY_V(ray_v, T, K, m)
RAY_O(bool, RAY_BOOL, i)
RAY_O(int, RAY_I64, i)
RAY_O(long, RAY_I64, i)
RAY_O(long long, RAY_I64, i)
RAY_O(unsigned, RAY_U64, u)
RAY_O(unsigned long, RAY_U64, u)
RAY_O(double, RAY_F64, d)
RAY_O(const char *, RAY_STR, p)
RAY_VW(ray_v, ray_ref, RAY_REF)
static inline ray_value ray_v(ray_value v)
{
    return v;
}
RAY_S(ray_to, bool, RAY_BOOL)
RAY_S(ray_to, int, RAY_I32)
RAY_S(ray_to, long, RAY_I64)
RAY_S(ray_to, long long, RAY_I64)
RAY_S(ray_to, unsigned long, RAY_U64)
RAY_S(ray_to, double, RAY_F64)
RAY_S(ray_to, const char *, RAY_STR)
RAY_S(ray_to, char *, RAY_STR)
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
#define RAY_OPTIONS(...) ray_options_at(ray_options{.size = sizeof(ray_options), __VA_ARGS__})
static inline const ray_config *ray_config_at(const ray_config &c)
{
    return &c;
}
#define RAY_CONFIG(...) ray_config_at(ray_config{.size = sizeof(ray_config), __VA_ARGS__})
struct ray_values {
    const ray_value *v;
    size_t n;
    ray_values(std::initializer_list<ray_value> l) : v(l.begin()), n(l.size())
    {
    }
};
static inline ray_ref ray_submit(ray_function *f, const ray_options *o, const ray_values &l)
{
    return ray_submit(f, o, l.v, l.n);
}
static inline int ray_submit_n(ray_ref *r, size_t k, ray_function *f, const ray_options *o, const ray_values &l)
{
    return ray_submit_n(r, k, f, o, l.v, l.n);
}
#define RAY_ARGS(...) ray_values({RAY_EACH(__VA_ARGS__)})
#endif
#endif
