/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiplies two matrices of N x N blocks on all CPUs: matrix [N]
 *
 * The blocks are written into shared memory once; each task reads a row and a column of them where
 * they lie, and fills its block of the product in place too: nothing is copied. Numbers are whole,
 * so that sums of them are exact in a double, and the product is verified by Freivalds' check: for
 * a random vector r, A (B r) must be C r, which a wrong C passes once in a million.
 */
#include <ray/ray.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIDE   256 /* of a block */
#define BYTES  (sizeof(double) * SIDE * SIDE)
#define N_MAX  32
#define ENTRY  8         /* entries are -8 .. 8 */
#define RANDOM (1 << 20) /* of the vector: 0 .. 2^20 - 1 */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* c += a b, four rows at a time, so that b is read from the cache a quarter as often. */
static void multiply(double *restrict c, const double *restrict a, const double *restrict b)
{
    for (int i = 0; i < SIDE; i += 4, a += 4 * SIDE, c += 4 * SIDE)
        for (int k = 0; k < SIDE; k++) {
            const double *row = b + k * SIDE;
            double a0 = a[k], a1 = a[SIDE + k], a2 = a[2 * SIDE + k], a3 = a[3 * SIDE + k];
            for (int j = 0; j < SIDE; j++) {
                c[j] += a0 * row[j];
                c[SIDE + j] += a1 * row[j];
                c[2 * SIDE + j] += a2 * row[j];
                c[3 * SIDE + j] += a3 * row[j];
            }
        }
}

/* A block of C: its arguments are a row of A, then a column of B. */
static int product(ray_call *call)
{
    unsigned n = ray_n_args(call) / 2;
    ray_buffer c;
    ray_view a, b;

    if (ray_create(BYTES, &c) != RAY_OK)
        return -1;
    memset(c.data, 0, BYTES);
    for (unsigned k = 0; k < n; k++) {
        if (ray_arg(call, k, &a) != RAY_OK || ray_arg(call, n + k, &b) != RAY_OK) {
            ray_abandon(&c);
            return -1;
        }
        multiply(c.data, a.data, b.data);
    }
    return ray_return(call, 0, &c);
}
RAY_REMOTE(product);

/* A piece of a matrix times a vector: a row of blocks, as a list of refs, and the vector. */
static int row_times(ray_call *call)
{
    double y[SIDE] = {0};
    ray_box row;
    ray_view vector, block;
    ray_ref ref;

    if (ray_arg(call, 0, &row) != RAY_OK || ray_arg(call, 1, &vector) != RAY_OK)
        return -1;
    const double *x = vector.data;
    for (; row.left > 0; x += SIDE) {
        if (ray_next(&row, &ref) != RAY_OK || ray_take(ref, &block, RAY_FOREVER) != RAY_OK)
            return -1;
        const double *a = block.data;
        for (int i = 0; i < SIDE; i++)
            for (int k = 0; k < SIDE; k++)
                y[i] += a[i * SIDE + k] * x[k];
        ray_drop(&block);
    }
    return ray_return(call, 0, ray_bytes(y, sizeof y));
}
RAY_REMOTE(row_times);

static int n = 8;
typedef ray_ref matrix[N_MAX][N_MAX];

/* A block of random numbers, written where all will read it. */
static ray_ref random_block(unsigned short seed[3])
{
    ray_buffer block;

    if (ray_create(BYTES, &block) != RAY_OK)
        exit(ray_report(stderr));
    for (double *at = block.data, *end = at + SIDE * SIDE; at < end; at++)
        *at = (double)(nrand48(seed) % (2 * ENTRY + 1) - ENTRY);
    return ray_seal(&block);
}

/* y = m x, a task for each row of blocks. */
static int times(matrix m, const double *x, double *y)
{
    ray_value items[N_MAX];
    ray_ref parts[N_MAX], vector = ray_put(ray_bytes(x, sizeof *x * (size_t)n * SIDE));
    int rc = RAY_OK;

    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++)
            items[k] = ray_v(m[i][k]);
        parts[i] = ray_remote(row_times, ray_list_of(items, (size_t)n), vector);
    }
    for (int i = 0; i < n && rc == RAY_OK; i++)
        rc = ray_take(parts[i], ray_into(y + i * SIDE, sizeof *y * SIDE), RAY_FOREVER);
    ray_release(vector);
    return rc;
}

/* Freivalds' check: 1 correct, 0 wrong, -1 an error. */
static int check(matrix a, matrix b, matrix c, unsigned short seed[3])
{
    static double r[N_MAX * SIDE], br[N_MAX * SIDE], abr[N_MAX * SIDE], cr[N_MAX * SIDE];

    for (int i = 0; i < n * SIDE; i++)
        r[i] = (double)(nrand48(seed) % RANDOM);
    if (times(b, r, br) != RAY_OK || times(a, br, abr) != RAY_OK || times(c, r, cr) != RAY_OK)
        return -1;
    return memcmp(abr, cr, sizeof *cr * (size_t)n * SIDE) == 0;
}

/* Of one process: the seconds of a whole product, from those of one of its blocks. */
static double plain(matrix a, matrix b)
{
    double *c = calloc(1, BYTES), start = now();
    ray_view x, y;

    for (int k = 0; c != NULL && k < n; k++) {
        if (ray_get(a[0][k], &x, RAY_FOREVER) != RAY_OK
            || ray_get(b[k][0], &y, RAY_FOREVER) != RAY_OK)
            break;
        multiply(c, x.data, y.data);
        ray_drop(&x);
        ray_drop(&y);
    }
    free(c);
    return (now() - start) * n * n;
}

int main(int argc, char **argv)
{
    static matrix a, b, c;
    unsigned short seed[3] = {1, 2, 3};
    ray_value args[2 * N_MAX];
    ray_view block;

    if (argc > 1)
        n = (int)strtol(argv[1], NULL, 10);
    if (n < 1 || n > N_MAX) {
        fprintf(stderr, "matrix: N is 1 to %d blocks; usage: matrix [N]\n", N_MAX);
        return 1;
    }
    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++) {
            a[i][k] = random_block(seed);
            b[i][k] = random_block(seed);
        }
    double start = now();
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            for (int k = 0; k < n; k++) {
                args[k] = ray_v(a[i][k]);
                args[n + k] = ray_v(b[k][j]);
            }
            c[i][j] = ray_submit(&ray_fn_product, NULL, args, 2 * (size_t)n);
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            if (ray_get(c[i][j], &block, RAY_FOREVER) != RAY_OK)
                return ray_report(stderr);
            ray_drop(&block);
        }
    double seconds = now() - start;
    int verdict = check(a, b, c, seed);
    if (verdict < 0)
        return ray_report(stderr);

    double flops = 2.0 * SIDE * SIDE * SIDE * n * n * n, alone = plain(a, b),
           mib = BYTES / 1048576.0;
    printf("%d x %d doubles: %d blocks of %g MiB put once, %g MiB shared\n",
           n * SIDE,
           n * SIDE,
           2 * n * n,
           mib,
           mib * 2 * n * n);
    printf("%d tasks read %d blocks, %g MiB, where they lie: 0 bytes copied\n",
           n * n,
           2 * n * n * n,
           mib * 2 * n * n * n);
    printf("%.2f s: %.1f GFLOP/s; one process: %.1f GFLOP/s; speed-up %.2f\n",
           seconds,
           flops / seconds * 1e-9,
           flops / alone * 1e-9,
           alone / seconds);
    printf("A (B r) = C r for a random r: %s\n", verdict == 1 ? "correct" : "WRONG");
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++) {
            ray_release(a[i][k]);
            ray_release(b[i][k]);
            ray_release(c[i][k]);
        }
    return ray_shutdown() != RAY_OK || verdict != 1;
}
