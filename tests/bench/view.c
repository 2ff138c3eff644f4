/* SPDX-License-Identifier: Apache-2.0 */
/* The raylet's decision where a unit of a request goes, beside one walk over what must be looked at
 * for it. */
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/clock.h"
#include "raylet/cluster_view.h"
#include "tests/bench/bench.h"

#define NODES  1000
#define ROUNDS 2000 /* of each sample */

static struct cluster_view *make_view(void)
{
    struct cluster_view *v = cluster_view_create(1, 1);
    struct resources self;

    for (uint32_t k = 2; k <= NODES; k++) {
        struct node_view n = {.number = k,
                              .is_alive = true,
                              .n_resources = 3,
                              .resources = {{"CPU", 640000, k % 3 == 0 ? 400000 : 200000},
                                            {"memory", 1 << 30, (1 << 30) / (1 + k % 7)}}};
        snprintf(n.resources[2].name, sizeof n.resources[2].name, "node:%u", k);
        n.resources[2].total = n.resources[2].available = RESOURCE_UNIT;
        cluster_view_set(v, &n);
    }
    resources_init(&self, 4 * RESOURCE_UNIT);
    if (resources_add(&self, "memory", 1 << 30, NULL) != 0)
        abort();
    self.available[0] = 0; /* it has to go elsewhere */
    cluster_view_set_self(v, &self);
    return v;
}

void bench_view(void)
{
    static const struct res_amount need[] = {{"CPU", RESOURCE_UNIT}, {"memory", 1 << 20}};
    struct cluster_view *v = make_view();
    int64_t *has = malloc(2 * NODES * sizeof *has);
    double decision[9], walk[9];
    volatile int64_t sum = 0;

    if (has == NULL)
        abort();
    for (size_t i = 0; i < (size_t)2 * NODES; i++)
        has[i] = (int64_t)i;
    for (int s = 0; s < 9; s++) {
        uint64_t t = clock_now_ns();
        for (int i = 0; i < ROUNDS; i++) {
            uint32_t number;
            sum += cluster_view_pick(v, need, 2, 1, &number);
            cluster_view_debit(v, number, need, 2, 1, 1);
        }
        decision[s] = (double)(clock_now_ns() - t) / 1e3 / ROUNDS;
        t = clock_now_ns();
        for (int i = 0; i < ROUNDS; i++) {
            int64_t fits = 0, least = sum;
            for (size_t k = 0; k < NODES; k++)
                fits += has[k] >= least && has[NODES + k] >= least;
            sum += fits;
        }
        walk[s] = (double)(clock_now_ns() - t) / 1e3 / ROUNDS;
    }
    bench_add((struct row){"lease decision at 1,000 nodes, 2 resources",
                           bench_quantile(decision, 9, 0.5),
                           "us",
                           bench_quantile(walk, 9, 0.5),
                           "one walk over as many amounts",
                           4,
                           false});
    free(has);
    cluster_view_destroy(v);
}
