/* SPDX-License-Identifier: Apache-2.0 */
/* Refs inside values: lists, maps, arguments, returns and puts, released in any order. */
#include "tests/drivers/driver.h"

#include <signal.h>

#define KIB   1024u
#define MIB   (KIB * KIB)
#define STORE (96 * MIB)
#define MANY  10000
#define VIEWS 600 /* at once: more than a process has slots to pin them by itself */

static void begin(int num_cpus)
{
    if (getenv("RAY_ADDRESS") != NULL)
        CHECK_CODE(ray_init(NULL), RAY_OK);
    else
        CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = num_cpus, .object_store_memory = STORE)),
                   RAY_OK);
}

static void end(void)
{
    CHECK_CODE(ray_shutdown(), RAY_OK);
}

/* size bytes, all of them mark. */
static ray_ref put(size_t size, int mark)
{
    ray_buffer b;

    CHECK_CODE(ray_create(size, &b), RAY_OK);
    memset(b.data, mark, size);
    return ray_seal(&b);
}

static bool is_marked(const ray_view *v, size_t size, int mark)
{
    const uint8_t *p = v->data;

    return v->size == size && p[0] == mark && memcmp(p, p + 1, size - 1) == 0;
}

static void check_value(ray_ref ref, size_t size, int mark)
{
    ray_view v;

    CHECK_CODE(ray_get(ref, &v, RAY_FOREVER), RAY_OK);
    CHECK(is_marked(&v, size, mark));
    ray_drop(&v);
}

static ray_box open_box(ray_ref ref)
{
    ray_box box;

    CHECK_CODE(ray_get(ref, &box, RAY_FOREVER), RAY_OK);
    return box;
}

static ray_ref next_ref(ray_box *box)
{
    ray_ref ref;

    CHECK(ray_peek(box) == RAY_REF);
    CHECK_CODE(ray_next(box, &ref), RAY_OK);
    return ref;
}

static void release(ray_ref ref)
{
    CHECK_CODE(ray_release(ref), RAY_OK);
}

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

/* The numbers and the sizes of the bytes in a value, each times the depth it lies at; what refs
 * name is one deeper. -1: an error. */
static int64_t weigh(ray_box *box, int64_t depth)
{
    int64_t sum = 0, x;

    while (box->left > 0) {
        ray_box inner;
        ray_view v;
        ray_ref ref;
        int rc;
        switch (ray_peek(box)) {
        case RAY_REF:
            if (ray_next(box, &ref) != RAY_OK)
                return -1;
            rc = ray_take(ref, &inner, RAY_FOREVER);
            x = rc == RAY_OK ? weigh(&inner, depth + 1) : -1;
            if (rc == RAY_OK)
                ray_box_drop(&inner);
            break;
        case RAY_LST:
        case RAY_MAP:
            x = ray_next(box, &inner) == RAY_OK ? weigh(&inner, depth + 1) : -1;
            break;
        case RAY_I64:
            x = ray_next(box, &x) == RAY_OK ? x * depth : -1;
            break;
        default: /* bytes, or a map's key */
            x = ray_next(box, &v) == RAY_OK ? (int64_t)v.size * depth : -1;
        }
        if (x < 0)
            return -1;
        sum += x;
    }
    return sum;
}

static int weight(ray_call *call)
{
    ray_box box;

    if (ray_arg(call, 0, &box) != RAY_OK)
        return -1;
    int64_t w = weigh(&box, 1);
    return w < 0 ? RAY_ETASK : ray_return(call, 0, w);
}
RAY_REMOTE(weight);

RAY_DECLARE(weight_by_tasks);
/* The same, by another task of its own for each depth. */
static int weight_by_tasks(ray_call *call)
{
    int64_t sum = 0, depth, x;
    ray_box box;
    ray_ref ref;

    if (ray_arg(call, 0, &box) != RAY_OK || ray_arg(call, 1, &depth) != RAY_OK)
        return -1;
    while (box.left > 0) {
        if (ray_peek(&box) == RAY_REF) {
            if (ray_next(&box, &ref) != RAY_OK
                || ray_take(ray_remote(weight_by_tasks, ref, depth + 1), &x, RAY_FOREVER) != RAY_OK)
                return -1;
            ray_release(ref);
        } else {
            ray_view v;
            if (ray_next(&box, &v) != RAY_OK)
                return -1;
            x = (int64_t)v.size * depth;
        }
        sum += x;
    }
    return ray_return(call, 0, sum);
}
RAY_REMOTE(weight_by_tasks);

/* Three deep: refs in a map in a list in what a ref in a list names. */
static void nested(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    begin(2);
    ray_ref large = put(300 * KIB, 1), small = ray_put(5), later = ray_remote(add_one, 6);
    ray_ref inner = ray_put(ray_map("l", large, "s", small));
    ray_ref middle = ray_put(ray_list(inner, later, ray_list(inner, 100), 1));
    ray_ref outer = ray_put(ray_list(middle, ray_map("m", middle)));
    const ray_ref parts[] = {large, small, later, inner, middle};
    for (size_t i = 0; i < 5; i++)
        release(parts[i]);
    /* inner at depth d: the two keys, the bytes and the number one deeper */
    int64_t at_2 = 2 * 2 + 300 * KIB * 3 + 5 * 3, per_depth = 2 + 300 * KIB + 5;
    /* middle at depth 1: inner, later, inner in a list with 100, 1 */
    int64_t middle_1 = at_2 + 7 * 2 + (at_2 + per_depth) + 100 * 2 + 1,
            middle_per = 2 * per_depth + 7 + 100 + 1;
    int64_t outer_1 = (middle_1 + middle_per) + 1 * 2 + (middle_1 + 2 * middle_per);
    ray_box box = open_box(outer);
    CHECK(weigh(&box, 1) == outer_1);
    ray_box_drop(&box);
    for (int i = 0; i < 3; i++) { /* the value, and a ref to it in a list, one deeper */
        CHECK_CODE(ray_take(ray_remote(weight, outer), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == outer_1);
        CHECK_CODE(ray_take(ray_remote(weight, ray_list(outer)), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == outer_1 + 2 * middle_per + 1);
    }
    release(outer);
    /* and through a chain of tasks, each of which borrows */
    ray_ref chain = put(200 * KIB, 2);
    for (int i = 0; i < 5; i++) {
        ray_ref next = ray_put(ray_list(chain));
        release(chain);
        chain = next;
    }
    CHECK_CODE(ray_take(ray_remote(weight_by_tasks, chain, 1), &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 200 * KIB * 6);
    release(chain);
    end();
}

/* Its own puts and task, inside a list. */
static int gives_own(ray_call *call)
{
    ray_ref small = ray_put(41), large = put(500 * KIB, 3), task = ray_remote(add_one, 42);
    int rc = ray_return(call, 0, ray_list(small, large, ray_map("t", task), (int)getpid()));

    ray_release(small);
    ray_release(large);
    ray_release(task);
    return rc;
}
RAY_REMOTE(gives_own);

/* A ref as the value itself. */
static int gives_ref(ray_call *call)
{
    ray_ref large = put(400 * KIB, 4);
    int rc = ray_return(call, 0, large);

    ray_release(large);
    return rc;
}
RAY_REMOTE(gives_ref);

/* The refs of its list, the other way round. */
static int turns(ray_call *call)
{
    ray_ref refs[10];
    ray_value items[10];
    size_t n = 0;
    ray_box list;

    if (ray_arg(call, 0, &list) != RAY_OK)
        return -1;
    while (n < 10 && ray_next(&list, &refs[n]) == RAY_OK)
        n++;
    for (size_t i = 0; i < n; i++)
        items[i] = ray_v(refs[n - 1 - i]);
    int rc = ray_return(call, 0, ray_list_of(items, n));
    for (size_t i = 0; i < n; i++)
        ray_release(refs[i]);
    return rc;
}
RAY_REMOTE(turns);

static bool same_object(ray_ref a, ray_ref b)
{
    ray_object x, y;

    CHECK_CODE(ray_get_object(a, &x), RAY_OK);
    CHECK_CODE(ray_get_object(b, &y), RAY_OK);
    return strcmp(x.id, y.id) == 0;
}

static void returned(int argc, char **argv)
{
    ray_ref small, large, task, ref, inner, refs[3];
    ray_object o;
    ray_box box, map;
    ray_view key;
    int64_t x;

    (void)argc;
    (void)argv;
    begin(2);
    for (int round = 0; round < 30; round++) {
        ref = ray_remote(gives_own);
        box = open_box(ref);
        small = next_ref(&box);
        large = next_ref(&box);
        CHECK_CODE(ray_next(&box, &map), RAY_OK);
        CHECK_CODE(ray_next(&map, &key), RAY_OK);
        task = next_ref(&map);
        if (round % 2 == 0) { /* what was taken out outlives the list */
            ray_box_drop(&box);
            release(ref);
        }
        CHECK_CODE(ray_get_object(large, &o), RAY_OK);
        CHECK(!o.is_owned);
        CHECK_CODE(ray_free_object(large), RAY_EOWNER);
        CHECK_CODE(ray_get(small, &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 41);
        CHECK_CODE(ray_get(task, &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 43);
        check_value(large, 500 * KIB, 3);
        CHECK_CODE(ray_take(ray_remote(weight, ray_list(large, small)), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 500 * KIB * 2 + 41 * 2);
        CHECK_CODE(ray_take(ray_remote(weight, large), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 500 * KIB);
        release(small);
        release(large);
        release(task);
        if (round % 2 != 0) {
            ray_box_drop(&box);
            release(ref);
        }
        /* a ref that is the value */
        CHECK_CODE(ray_take(ray_remote(gives_ref), &inner, RAY_FOREVER), RAY_OK);
        check_value(inner, 400 * KIB, 4);
        release(inner);
        /* never looked into */
        release(ray_remote(gives_own));
        ref = ray_remote(gives_ref);
        bool ready;
        CHECK_CODE(ray_wait(&ref, 1, 1, RAY_FOREVER, &ready), RAY_OK);
        release(ref);
    }
    /* ours, there and back: the same objects, still ours */
    ray_ref ours[] = {put(200 * KIB, 5), ray_put(6), ray_remote(add_one, 6)};
    ref = ray_remote(turns, ray_list(ours[0], ours[1], ours[2]));
    box = open_box(ref);
    for (int i = 0; i < 3; i++)
        refs[i] = next_ref(&box);
    ray_box_drop(&box);
    release(ref);
    for (int i = 0; i < 3; i++) {
        CHECK(same_object(ours[i], refs[2 - i]));
        CHECK_CODE(ray_get_object(refs[i], &o), RAY_OK);
        CHECK(o.is_owned);
        release(ours[i]);
    }
    CHECK_CODE(ray_get(refs[0], &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 7);
    CHECK_CODE(ray_get(refs[1], &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 6);
    check_value(refs[2], 200 * KIB, 5);
    for (int i = 0; i < 3; i++)
        release(refs[i]);
    /* a borrowed ref, passed on after its list is gone */
    CHECK_CODE(ray_take(ray_remote(gives_ref), &inner, RAY_FOREVER), RAY_OK);
    ref = ray_remote(turns, ray_list(inner, inner));
    release(inner);
    box = open_box(ref);
    release(ref);
    inner = next_ref(&box);
    ray_box_drop(&box);
    check_value(inner, 400 * KIB, 4);
    release(inner);
    end();
}

/* What it was given, between its own ref and its own bytes: more than fits inline. */
static int wraps(ray_call *call)
{
    ray_ref own = put(150 * KIB, 8), given, gone = ray_put(1);
    ray_box list;
    ray_view bytes;

    ray_release(gone);
    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &bytes) != RAY_OK
        || ray_next(&list, &given) != RAY_OK)
        return -1;
    int stale = ray_return(call, 0, ray_list(own, ray_bytes(bytes.data, bytes.size), gone));
    int rc = ray_return(call, 0, ray_list(own, ray_bytes(bytes.data, bytes.size), given));
    ray_release(own);
    ray_release(given);
    return stale == RAY_ESTALE ? rc : ray_fail(call, "a stale ref is returned");
}
RAY_REMOTE(wraps);

/* Values that lie in the store and have refs inside, each way that a value can go. */
static void large(int argc, char **argv)
{
    char *bytes = calloc(1, MIB + 1);
    ray_view v;
    int64_t x;

    (void)argc;
    (void)argv;
    begin(2);
    for (size_t size = 102380; size <= MIB + 1; size += size < 102420 ? 1 : 310 * KIB + 1) {
        ray_ref leaf = put(120 * KIB, 9);
        ray_value list = ray_list(ray_bytes(bytes, size), leaf);
        ray_ref kept = ray_put(list), wrapped = ray_remote(wraps, list);
        CHECK_CODE(ray_take(ray_remote(weight, list), &x, RAY_FOREVER), RAY_OK);
        release(leaf);
        CHECK(x == (int64_t)size + 2 * 120 * KIB);
        CHECK_CODE(ray_take(ray_remote(weight, kept), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == (int64_t)size + 2 * 120 * KIB);
        ray_box box = open_box(wrapped);
        release(wrapped);
        ray_ref own = next_ref(&box);
        CHECK_CODE(ray_next(&box, &v), RAY_OK);
        CHECK(is_marked(&v, size, 0));
        leaf = next_ref(&box);
        ray_box_drop(&box);
        check_value(own, 150 * KIB, 8);
        check_value(leaf, 120 * KIB, 9);
        release(own);
        release(leaf);
        release(kept);
    }
    free(bytes);
    end();
}

static int when_told(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    await_events("go", 1);
    return ray_return(call, 0, x);
}
RAY_REMOTE(when_told, .num_cpus = RAY_ZERO);

/* Refs to tasks of its own that wait. */
static int starts(ray_call *call)
{
    ray_ref refs[3];

    for (int i = 0; i < 3; i++)
        refs[i] = ray_remote(when_told, i + 10);
    int rc = ray_return(call, 0, ray_list(refs[0], refs[1], refs[2]));
    for (int i = 0; i < 3; i++)
        ray_release(refs[i]);
    return rc;
}
RAY_REMOTE(starts);

/* Borrowed refs that have no value yet can be waited for, watched and passed on. */
static void pending(int argc, char **argv)
{
    ray_event event;
    ray_object o;
    ray_ref refs[3];
    bool ready[3];
    int64_t x, sum = 0;
    int tag;

    (void)argc;
    (void)argv;
    begin(2);
    ray_ref list = ray_remote(starts);
    ray_box box = open_box(list);
    release(list);
    for (int i = 0; i < 3; i++)
        refs[i] = next_ref(&box);
    ray_box_drop(&box);
    CHECK_CODE(ray_wait(refs, 3, 1, 0, ready), RAY_ETIMEOUT);
    CHECK_CODE(ray_get(refs[0], &x, 20), RAY_ETIMEOUT);
    CHECK_CODE(ray_get_object(refs[0], &o), RAY_OK);
    CHECK(!o.is_ready && !o.is_owned);
    CHECK_CODE(ray_watch(refs[1], &tag), RAY_OK);
    ray_ref by_value = ray_remote(weight, refs[0]), by_ref = ray_remote(weight, ray_list(refs[2]));
    for (int i = 0; i < 3; i++)
        send_event("go");
    CHECK_CODE(ray_wait(refs, 3, 3, RAY_FOREVER, ready), RAY_OK);
    CHECK(ready[0] && ready[1] && ready[2]);
    CHECK(ray_poll(&event, 1, RAY_FOREVER) == 1);
    CHECK(event.tag == &tag && event.ref.word == refs[1].word);
    CHECK_CODE(ray_take(by_value, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 10);
    CHECK_CODE(ray_take(by_ref, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 2 * 12);
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(ray_take(refs[i], &x, 0), RAY_OK);
        sum += x;
    }
    CHECK(sum == 10 + 11 + 12);
    end();
}

enum handle { OUTER, INNER, BORROWED, VIEW, BOX, HANDLES };

/* One object inside another, both of 3 MiB, and five handles to them, dropped in the order that
 * the number says. An object that stayed would fill the store. */
static bool drop_in_order(unsigned order)
{
    ray_ref inner = put(3 * MIB, 7), borrowed;
    char *bytes = calloc(1, 3 * MIB);
    ray_ref outer = ray_put(ray_list(inner, ray_bytes(bytes, 3 * MIB)));
    unsigned left[HANDLES] = {OUTER, INNER, BORROWED, VIEW, BOX};
    ray_view view, in_box;
    ray_box box;
    bool good = true;

    free(bytes);
    good = ray_get(outer, &box, RAY_FOREVER) == RAY_OK && ray_next(&box, &borrowed) == RAY_OK
           && ray_next(&box, &in_box) == RAY_OK && ray_get(inner, &view, RAY_FOREVER) == RAY_OK;
    bool has_view = true, has_box = true;
    for (unsigned n = HANDLES; good && n > 0; n--) {
        unsigned pick = order % n;
        order /= n;
        switch ((enum handle)left[pick]) {
        case OUTER:
            good = ray_release(outer) == RAY_OK;
            break;
        case INNER:
            good = ray_release(inner) == RAY_OK;
            break;
        case BORROWED:
            good = ray_release(borrowed) == RAY_OK;
            break;
        case VIEW:
            ray_drop(&view);
            has_view = false;
            break;
        case BOX:
            ray_box_drop(&box);
            has_box = false;
            break;
        case HANDLES:
            break;
        }
        left[pick] = left[n - 1];
        good = good && (!has_view || is_marked(&view, 3 * MIB, 7))
               && (!has_box || is_marked(&in_box, 3 * MIB, 0));
    }
    return good;
}

static int drops_in_order(ray_call *call)
{
    unsigned order;

    if (ray_arg(call, 0, &order) != RAY_OK)
        return -1;
    return ray_return(call, 0, drop_in_order(order));
}
RAY_REMOTE(drops_in_order);

static void orders(int argc, char **argv)
{
    bool good;

    (void)argc;
    (void)argv;
    begin(1);
    for (unsigned order = 0; order < 5 * 4 * 3 * 2; order++)
        CHECK(drop_in_order(order));
    for (unsigned order = 0; order < 5 * 4 * 3 * 2; order++) {
        CHECK_CODE(ray_take(ray_remote(drops_in_order, order), &good, RAY_FOREVER), RAY_OK);
        CHECK(good);
    }
    ray_ref all = put(64 * MIB, 1); /* there is room again */
    release(all);
    end();
}

/* Objects that only a task, a result, or another object holds; each kind more than the store has
 * room for together. */
static void held_by_others(int argc, char **argv)
{
    int64_t x;
    ray_ref r;

    (void)argc;
    (void)argv;
    begin(2);
    for (int i = 0; i < 40; i++) {
        r = put(8 * MIB, i);
        ray_ref by_ref = ray_remote(weight, r), in_list = ray_remote(weight, ray_list(r, r));
        release(r); /* INV-8: the tasks have counted it */
        CHECK_CODE(ray_take(by_ref, &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 8 * MIB);
        CHECK_CODE(ray_take(in_list, &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 2 * 2 * 8 * MIB);
    }
    char *bytes = calloc(1, 8 * MIB); /* by value they are put, for the task alone */
    for (int i = 0; i < 40; i++) {
        CHECK_CODE(ray_take(ray_remote(weight, ray_bytes(bytes, 8 * MIB)), &x, RAY_FOREVER),
                   RAY_OK);
        CHECK(x == 8 * MIB);
    }
    free(bytes);
    for (int i = 0; i < 40; i++) {
        r = put(8 * MIB, i);
        ray_ref held = ray_put(ray_map("r", r)), result = ray_remote(turns, ray_list(r));
        release(r);
        ray_box box = open_box(i % 2 == 0 ? held : result);
        if (i % 2 == 0)
            CHECK_CODE(ray_skip(&box), RAY_OK);
        r = next_ref(&box);
        ray_box_drop(&box);
        release(held);
        release(result);
        check_value(r, 8 * MIB, i);
        release(r);
    }
    end();
}

static void many(int argc, char **argv)
{
    ray_ref *refs = calloc(MANY, sizeof *refs), list;
    ray_value *items = calloc(MANY, sizeof *items);
    ray_object o;
    ray_box box;
    int64_t x, sum = 0;

    (void)argc;
    (void)argv;
    begin(2);
    for (int i = 0; i < MANY; i++) {
        refs[i] = ray_put(i);
        items[i] = ray_v(refs[i]);
    }
    list = ray_put(ray_list_of(items, MANY));
    CHECK_CODE(ray_get_object(list, &o), RAY_OK);
    CHECK(o.n_refs == MANY);
    for (int i = 0; i < MANY; i++)
        release(refs[i]);
    CHECK_CODE(ray_take(ray_remote(weight, list), &x, RAY_FOREVER), RAY_OK);
    CHECK(x == (int64_t)MANY * (MANY - 1)); /* twice the sum: one deeper */
    box = open_box(list);
    release(list);
    for (int i = 0; i < MANY; i++) {
        ray_ref ref = next_ref(&box);
        CHECK_CODE(ray_take(ref, &x, RAY_FOREVER), RAY_OK);
        sum += x;
    }
    ray_box_drop(&box);
    CHECK(sum == (int64_t)MANY * (MANY - 1) / 2);
    free(refs);
    free(items);
    end();
}

/* Lets go of what it got from its list once more than it got it. */
static int releases_twice(ray_call *call)
{
    ray_box list;
    ray_ref ref, again;
    int64_t x;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK
        || ray_next(&list, &again) != RAY_OK)
        return -1;
    if (ray_release(ref) != RAY_OK || ray_take(again, &x, RAY_FOREVER) != RAY_OK)
        return -1;
    if (ray_release(ref) != RAY_ESTALE || ray_take(again, &x, RAY_FOREVER) != RAY_ESTALE
        || ray_release(again) != RAY_ESTALE)
        return ray_fail(call, "a release too many is taken");
    return ray_return(call, 0, x);
}
RAY_REMOTE(releases_twice, .max_retries = RAY_ZERO);

/* Views of all refs of its list at once, dropped from both ends. */
static int views_all(ray_call *call)
{
    static ray_view v[VIEWS];
    ray_ref ref;
    ray_box list;
    int n = 0;

    if (ray_arg(call, 0, &list) != RAY_OK)
        return -1;
    for (; n < VIEWS && list.left > 0; n++)
        if (ray_next(&list, &ref) != RAY_OK || ray_take(ref, &v[n], RAY_FOREVER) != RAY_OK)
            return -1;
    for (int i = 0; i < n; i++)
        if (!is_marked(&v[i], 101 * KIB, i % 251))
            return ray_fail(call, "value %d is wrong", i);
    for (int i = 0; i < n / 2; i++) {
        ray_drop(&v[i]);
        ray_drop(&v[n - 1 - i]);
        if (i + 1 < n / 2 && !is_marked(&v[i + 1], 101 * KIB, (i + 1) % 251))
            return ray_fail(call, "value %d is wrong after drops", i + 1);
    }
    return ray_return(call, 0, n);
}
RAY_REMOTE(views_all);

/* Buffers as many returns. */
static int gives_many(ray_call *call)
{
    ray_buffer b;

    for (int i = 0; i < VIEWS; i++) {
        if (ray_create(101 * KIB, &b) != RAY_OK)
            return -1;
        memset(b.data, i % 251, b.size);
        if (ray_return(call, (unsigned)i, &b) != RAY_OK)
            return -1;
    }
    return 0;
}
RAY_REMOTE(gives_many, .num_returns = VIEWS);

static void many_views(int argc, char **argv)
{
    static ray_ref refs[VIEWS];
    static ray_value items[VIEWS];
    static ray_view v[VIEWS];
    int n;

    (void)argc;
    (void)argv;
    begin(2);
    CHECK_CODE(ray_remote_n(refs, VIEWS, gives_many), RAY_OK);
    for (int i = 0; i < VIEWS; i++)
        items[i] = ray_v(refs[i]);
    ray_value list = ray_list_of(items, VIEWS);
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(ray_take(ray_remote(views_all, list), &n, RAY_FOREVER), RAY_OK);
        CHECK(n == VIEWS);
    }
    CHECK_CODE(ray_get_many(refs, VIEWS, &v[0], RAY_FOREVER), RAY_OK);
    for (int i = 0; i < VIEWS; i++) {
        CHECK(is_marked(&v[i], 101 * KIB, i % 251));
        ray_drop(&v[i]);
    }
    /* a get of many that ends in an error keeps none of them */
    CHECK_CODE(ray_free_object(refs[VIEWS - 1]), RAY_OK);
    CHECK_CODE(ray_get_many(refs, VIEWS, &v[0], RAY_FOREVER), RAY_ELOST);
    for (int i = 0; i < VIEWS; i++) {
        CHECK(v[i].data == NULL);
        release(refs[i]);
    }
    release(put(88 * MIB, 1)); /* all are gone */
    end();
}

/* Reads what it borrowed, and again once the owner has freed it. */
static int reads_what_was_freed(ray_call *call)
{
    ray_box box;
    ray_ref ref;
    ray_view v;
    int code;

    if (ray_arg(call, 0, &box) != RAY_OK || ray_next(&box, &ref) != RAY_OK
        || ray_get(ref, &v, RAY_FOREVER) != RAY_OK)
        return -1;
    ray_drop(&v);
    send_event("read");
    await_events("freed", 1);
    code = ray_get(ref, &v, RAY_FOREVER);
    if (strcmp(ray_error()->text, "the object was freed by its owner") != 0)
        return -1;
    release(ref);
    return ray_return(call, 0, code);
}
RAY_REMOTE(reads_what_was_freed);

static void freed_elsewhere(int argc, char **argv)
{
    int keep = open_pipe("freed"), keep_too = open_pipe("read"), code;
    ray_ref large = put(MIB, 3), list = ray_put(ray_list(large));

    (void)argc;
    (void)argv;
    ray_ref reader = ray_remote(reads_what_was_freed, list);
    await_events("read", 1);
    ray_cluster cluster;
    CHECK_CODE(ray_free_object(large), RAY_OK);
    CHECK_CODE(ray_get_cluster(&cluster), RAY_OK); /* now the raylet knows */
    send_event("freed");
    CHECK_CODE(ray_take(reader, &code, RAY_FOREVER), RAY_OK);
    CHECK(code == RAY_ELOST);
    release(large);
    release(list);
    close(keep);
    close(keep_too);
}

static void misuse(int argc, char **argv)
{
    ray_ref gone = ray_put(1), none = {0}, good = ray_put(2), list, inner;
    int64_t x;
    ray_box box;

    (void)argc;
    (void)argv;
    release(gone);
    CHECK_CODE(ray_take(ray_put(ray_list(1, gone)), &x, RAY_FOREVER), RAY_ESTALE);
    CHECK(strstr(ray_error()->text, "inside") != NULL);
    CHECK_CODE(ray_take(ray_put(ray_list(good, none)), &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_take(ray_remote(weight, ray_list(good, gone)), &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_take(ray_remote(weight, none), &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_take(ray_put(good), &x, RAY_FOREVER), RAY_EARG);
    char *large = calloc(1, 200 * KIB); /* a stale ref in what goes to the store */
    CHECK_CODE(ray_take(ray_put(ray_list(ray_bytes(large, 200 * KIB), gone)), &x, RAY_FOREVER),
               RAY_ESTALE);
    CHECK_CODE(
        ray_take(ray_remote(weight, ray_list(gone, ray_bytes(large, 200 * KIB))), &x, RAY_FOREVER),
        RAY_ESTALE);
    free(large);
    /* a place of another type leaves the item and the ref as they were */
    list = ray_put(ray_list(good, 3));
    box = open_box(list);
    CHECK_CODE(ray_next(&box, &x), RAY_ETYPE);
    inner = next_ref(&box);
    CHECK_CODE(ray_next(&box, &none), RAY_ETYPE);
    CHECK(none.word == 0);
    CHECK_CODE(ray_next(&box, &x), RAY_OK);
    CHECK_CODE(ray_next(&box, &x), RAY_END);
    CHECK_CODE(ray_get(good, &none, RAY_FOREVER), RAY_ETYPE);
    ray_box_drop(&box);
    CHECK_CODE(ray_next(&box, &x), RAY_END); /* it is {0} */
    /* one release of each that was given, not one more */
    CHECK_CODE(ray_take(ray_remote(releases_twice, ray_list(good, good)), &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 2);
    release(inner);
    release(good);
    CHECK_CODE(ray_release(inner), RAY_ESTALE);
    CHECK_CODE(ray_release(good), RAY_ESTALE);
    release(list);
    CHECK_CODE(ray_release(list), RAY_ESTALE);
}

/* A borrower is told when the owner dies, for values in the store too. */
static void owner_dies(int argc, char **argv)
{
    ray_ref ref, small, large, task;
    ray_box box, map;
    int64_t x, pid;
    int rc;

    (void)argc;
    (void)argv;
    begin(2);
    ref = ray_remote(gives_own);
    box = open_box(ref);
    small = next_ref(&box);
    large = next_ref(&box);
    CHECK_CODE(ray_next(&box, &map), RAY_OK);
    CHECK_CODE(ray_skip(&map), RAY_OK);
    task = next_ref(&map);
    CHECK_CODE(ray_next(&box, &pid), RAY_OK);
    ray_box_drop(&box);
    box = open_box(large); /* known here before its owner dies: it is read where it lies */
    ray_box_drop(&box);
    CHECK(kill((pid_t)pid, SIGKILL) == 0);
    ray_ref refs[] = {small, large, task};
    for (int i = 0; i < 3; i++) {
        do { /* until the news is here it may still be read */
            ray_box any;
            rc = ray_get(refs[i], &any, RAY_FOREVER);
            if (rc == RAY_OK)
                ray_box_drop(&any);
        } while (rc == RAY_OK);
        CHECK_CODE(rc, RAY_EOWNER);
        CHECK(strstr(ray_error()->text, "owner") != NULL);
        CHECK_CODE(ray_take(ray_remote(weight, ray_list(refs[i])), &x, RAY_FOREVER), RAY_ETASK);
        CHECK_CODE(ray_take(ray_remote(weight, refs[i]), &x, RAY_FOREVER), RAY_EOWNER);
        release(refs[i]);
    }
    release(ref);
    CHECK_CODE(ray_take(ray_remote(add_one, 1), &x, RAY_FOREVER), RAY_OK);
    end();
}

static const struct scenario scenarios[] = {
    {"nested", 0, NULL, nested},
    {"returned", 0, NULL, returned},
    {"large", 0, NULL, large},
    {"pending", 0, NULL, pending},
    {"orders", 0, NULL, orders},
    {"held_by_others", 0, NULL, held_by_others},
    {"many", 0, NULL, many},
    {"many_views", 0, NULL, many_views},
    {"freed_elsewhere", 2, NULL, freed_elsewhere},
    {"misuse", 2, NULL, misuse},
    {"owner_dies", 0, NULL, owner_dies},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
