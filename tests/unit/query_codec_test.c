/* SPDX-License-Identifier: Apache-2.0 */
/* What commands read of the GCS's replies. */
#include "gcs/query_codec.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gcs/node_codec.h"
#include "lib/base/alloc.h"

static struct err err;

/* A reply with these bytes as its field 2, n times. */
static uint8_t *reply_of(const void *row, size_t row_size, unsigned n, size_t *size)
{
    uint8_t *out = xmalloc(n * (row_size + 8) + 1), *at = out;

    for (unsigned i = 0; i < n; i++) {
        *at++ = 2 << 3 | 2;
        *at++ = (uint8_t)(row_size | 0x80);
        *at++ = (uint8_t)(row_size >> 7);
        memcpy(at, row, row_size);
        at += row_size;
    }
    *size = (size_t)(at - out);
    return out;
}

START_TEST(test_a_node_s_row_comes_through_with_its_labels)
{
    struct node_row row = {.id.bytes = {7},
                           .state = NODE_ALIVE,
                           .node_port = 5,
                           .name = "a",
                           .labels = "x=1,y/z=,w=v"};
    struct node_row *rows;
    size_t size, n, row_size;
    void *packed = node_row_pack(&row, &row_size);
    uint8_t *reply = reply_of(packed, row_size, 2, &size);

    ck_assert_msg(query_nodes_of(reply, size, &rows, &n, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(rows[1].labels, "x=1,y/z=,w=v");
    ck_assert_int_eq(rows[1].node_port, 5);
    free(rows);
    free(reply);
    free(packed);
}
END_TEST

START_TEST(test_labels_that_are_none_or_too_many_are_left_out)
{
    struct node_row row = {.id.bytes = {7}, .state = NODE_ALIVE}, out;
    size_t size;
    void *packed;

    snprintf(row.labels, sizeof row.labels, "a,b=1,=2,,c=3");
    packed = node_row_pack(&row, &size);
    ck_assert_int_eq(node_row_unpack(packed, size, &out), 0);
    ck_assert_str_eq(out.labels, "b=1,c=3");
    free(packed);
    memset(row.labels, 0, sizeof row.labels);
    for (size_t i = 0; i + 4 < sizeof row.labels; i += 4)
        memcpy(row.labels + i, "k=v,", 4);
    packed = node_row_pack(&row, &size);
    ck_assert_int_eq(node_row_unpack(packed, size, &out), 0);
    ck_assert_uint_eq(strlen(out.labels), 64 * 4 - 1);
    free(packed);
}
END_TEST

START_TEST(test_any_bytes_are_a_reply_or_an_error)
{
    static const uint8_t failed[] = {0x0a, 0x04, 0x08, 0x05, 0x12, 0x00};
    unsigned seed = 1;
    struct node_row *rows;
    struct query_job *jobs;
    struct unique_id id;
    size_t n;

    ck_assert_int_eq(query_nodes_of(failed, sizeof failed, &rows, &n, &err), -1);
    ck_assert_int_eq(query_cluster_of(NULL, 0, &id, &err), -1);
    ck_assert_int_eq(err.code, ERR_PROTOCOL);
    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[64];
        size_t size = (size_t)(rand_r(&seed) % (int)sizeof bytes);
        for (size_t k = 0; k < size; k++)
            bytes[k] = (uint8_t)(rand_r(&seed) % (k % 2 == 0 ? 32 : 256));
        if (query_nodes_of(bytes, size, &rows, &n, &err) == 0) {
            query_available_of(bytes, size, rows, n, &err);
            free(rows);
        }
        if (query_jobs_of(bytes, size, &jobs, &n, &err) == 0)
            free(jobs);
        query_cluster_of(bytes, size, &id, &err);
    }
}
END_TEST

/* --- changes --- */

static uint8_t *put_bytes(uint8_t *at, unsigned field, const void *bytes, size_t size)
{
    for (unsigned tag = field << 3 | 2; tag != 0; tag >>= 7)
        *at++ = (uint8_t)((tag & 0x7f) | (tag > 0x7f ? 0x80 : 0));
    *at++ = (uint8_t)(size | 0x80);
    *at++ = (uint8_t)(size >> 7);
    memcpy(at, bytes, size);
    return at + size;
}

/* An answer of publisher p with n news of a node, numbered from first on. */
static size_t answer_of(char p, uint8_t first, unsigned n, uint8_t *out)
{
    struct node_row row = {.id.bytes = {7}, .state = NODE_ALIVE, .name = "a"};
    struct unique_id publisher = {{(uint8_t)p}};
    uint8_t one[512], *at = out;
    size_t size;
    void *packed = node_row_pack(&row, &size);

    for (unsigned i = 0; i < n; i++) {
        uint8_t *end = put_bytes(one, 8, packed, size);
        *end++ = 14 << 3;
        *end++ = (uint8_t)(first + i);
        at = put_bytes(at, 1, one, (size_t)(end - one));
    }
    at = put_bytes(at, 2, publisher.bytes, sizeof publisher.bytes);
    free(packed);
    return (size_t)(at - out);
}

static size_t n_nodes, n_jobs;

static int news_of(const void *bytes, size_t size, struct query_subscriber *s)
{
    struct node_row *nodes;
    struct query_job *jobs;
    int rc = query_news_of(bytes, size, s, &nodes, &n_nodes, &jobs, &n_jobs, &err);

    if (rc == 0) {
        free(nodes);
        free(jobs);
    }
    return rc;
}

START_TEST(test_news_are_heard_once)
{
    struct query_subscriber s = {.id.bytes = {1}};
    uint8_t bytes[4096];

    ck_assert_int_eq(news_of(bytes, answer_of('p', 5, 2, bytes), &s), 0);
    ck_assert_uint_eq(n_nodes, 2);
    ck_assert_uint_eq(n_jobs, 0);
    ck_assert_int_eq(s.heard, 6);
    ck_assert_int_eq(s.publisher.bytes[0], 'p');
    ck_assert_int_eq(news_of(bytes, answer_of('p', 5, 3, bytes), &s), 0); /* two again */
    ck_assert_uint_eq(n_nodes, 1);
    ck_assert_int_eq(news_of(bytes, answer_of('q', 1, 2, bytes), &s),
                     0); /* another GCS counts anew */
    ck_assert_uint_eq(n_nodes, 2);
    ck_assert_int_eq(s.heard, 2);
}
END_TEST

START_TEST(test_answers_that_are_none)
{
    struct query_subscriber s = {.id.bytes = {1}}, before = s;
    uint8_t bytes[4096];
    size_t size = answer_of('p', 5, 2, bytes);
    unsigned seed = 5;

    for (size_t n = 0; n < size; n++) /* cut: its publisher comes last */
        ck_assert_int_eq(news_of(bytes, n, &s), -1);
    ck_assert_mem_eq(&s, &before, sizeof s);
    for (int i = 0; i < 20000; i++) {
        answer_of('p', 5, 2, bytes);
        for (int k = 0; k < 3; k++)
            bytes[(size_t)rand_r(&seed) % size] = (uint8_t)rand_r(&seed);
        news_of(bytes, size, &s);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("query_codec");
    TCase *t = tcase_create("query_codec");

    tcase_add_test(t, test_a_node_s_row_comes_through_with_its_labels);
    tcase_add_test(t, test_labels_that_are_none_or_too_many_are_left_out);
    tcase_add_test(t, test_any_bytes_are_a_reply_or_an_error);
    tcase_add_test(t, test_news_are_heard_once);
    tcase_add_test(t, test_answers_that_are_none);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
