/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Golden messages: of each message of proto/ one with every field set, for each form that it ever
 * had. Today's code must read the earlier ones to the last field and write them as they were; the
 * newest is what it writes itself. A new field adds a row and leaves the others:
 * `message_test --rows` prints those of today.
 */
#include <check.h>
#include <glob.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/gcs.pb-c.h"
#include "proto/gcs_link.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/node.pb-c.h"

struct row {
    const char *symbol;
    const ProtobufCMessageDescriptor *of;
    const char *hex;
};
#define ROW(symbol, hex) {#symbol, &symbol##__descriptor, hex},
static const struct row golden[] = {
#include "tests/contract/golden_messages.inc"
};
#define N_GOLDEN     (sizeof golden / sizeof golden[0])
#define SIZE_MAX_ROW 1024

/* --- a message with every field set --- */

static ProtobufCMessage *filled(const ProtobufCMessageDescriptor *d);

/* Outside of tests as well. */
static void must(bool is_so, const char *else_what)
{
    if (is_so)
        return;
    fprintf(stderr, "%s\n", else_what);
    abort();
}

static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
        return sizeof(uint64_t);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(uint32_t);
    default:
        must(false, "size_of and set do not know the type of a field");
        return 0;
    }
}

/* Values that no neighbour has: the field's number is in each. */
static void set(const ProtobufCFieldDescriptor *f, void *at)
{
    char text[40];
    int n = snprintf(text, sizeof text, "%s %u", f->name, f->id);

    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = strdup(text);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(ProtobufCMessage **)at = filled(f->descriptor);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)at = (ProtobufCBinaryData){(size_t)n, (uint8_t *)strdup(text)};
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        *(double *)at = f->id + 0.5;
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
        *(uint64_t *)at = (1ull << 40) + f->id;
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = 1;
        break;
    case PROTOBUF_C_TYPE_ENUM:
        *(uint32_t *)at = 1;
        break;
    default:
        *(uint32_t *)at = 1000 + f->id;
        break;
    }
}

static ProtobufCMessage *filled(const ProtobufCMessageDescriptor *d)
{
    ProtobufCMessage *m = malloc(d->sizeof_message);

    must(m != NULL, "no memory");
    protobuf_c_message_init(d, m);
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        void *at = (char *)m + f->offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            void *one = calloc(1, size_of(f->type));
            must(one != NULL, "no memory");
            set(f, one);
            *(size_t *)((char *)m + f->quantifier_offset) = 1;
            *(void **)at = one;
        } else {
            set(f, at);
        }
    }
    return m;
}

/* --- */

static size_t write_hex(const ProtobufCMessage *m, char *out)
{
    uint8_t bytes[SIZE_MAX_ROW];
    size_t n = protobuf_c_message_get_packed_size(m);

    must(n <= sizeof bytes, "SIZE_MAX_ROW is too small");
    protobuf_c_message_pack(m, bytes);
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    out[2 * n] = '\0';
    return n;
}

static size_t read_hex(const char *hex, uint8_t *out)
{
    size_t n = strlen(hex) / 2;

    ck_assert_uint_le(n, SIZE_MAX_ROW);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2hhx", &out[i]), 1);
    return n;
}

static unsigned count_unknown(const ProtobufCMessage *m)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    unsigned n = m->n_unknown_fields;

    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const void *at = (const char *)m + f->offset;
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        bool is_list = f->label == PROTOBUF_C_LABEL_REPEATED;
        size_t k = is_list ? *(const size_t *)((const char *)m + f->quantifier_offset) : 1;
        ProtobufCMessage *const *v = is_list ? *(ProtobufCMessage *const *const *)at : at;
        for (size_t j = 0; j < k; j++)
            n += v[j] != NULL ? count_unknown(v[j]) : 0;
    }
    return n;
}

START_TEST(earlier_messages_are_read_to_the_last_field)
{
    const struct row *r = &golden[_i];
    uint8_t bytes[SIZE_MAX_ROW];
    char again[2 * SIZE_MAX_ROW + 1];
    size_t n = read_hex(r->hex, bytes);

    ProtobufCMessage *m = protobuf_c_message_unpack(r->of, NULL, n, bytes);
    ck_assert_msg(m != NULL, "%s of an earlier form is not read", r->symbol);
    ck_assert_msg(count_unknown(m) == 0, "%s: a field that it had is unknown", r->symbol);
    write_hex(m, again);
    ck_assert_msg(strcmp(again, r->hex) == 0,
                  "%s is read as something else\n  was %s\n  now %s",
                  r->symbol,
                  r->hex,
                  again);
    protobuf_c_message_free_unpacked(m, NULL);
}
END_TEST

START_TEST(the_newest_form_is_what_is_written)
{
    const struct row *r = &golden[_i];
    char hex[2 * SIZE_MAX_ROW + 1];

    if (_i + 1 < (int)N_GOLDEN && r[1].of == r->of)
        return; /* an earlier one */
    ProtobufCMessage *m = filled(r->of);
    write_hex(m, hex);
    protobuf_c_message_free_unpacked(m, NULL);
    ck_assert_msg(strcmp(hex, r->hex) == 0,
                  "%s has a new form: leave its row, and add behind it\nROW(%s, \"%s\")",
                  r->symbol,
                  r->symbol,
                  hex);
}
END_TEST

static bool has_row(const char *name)
{
    for (size_t i = 0; i < N_GOLDEN; i++)
        if (strcmp(golden[i].of->short_name, name) == 0)
            return true;
    return false;
}

START_TEST(each_message_has_a_row)
{
    glob_t found;
    char line[200], name[100];
    unsigned n = 0;

    ck_assert_int_eq(glob("proto/*.proto", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *f = fopen(found.gl_pathv[i], "r");
        ck_assert_ptr_nonnull(f);
        while (fgets(line, sizeof line, f) != NULL)
            if (sscanf(line, "message %99[A-Za-z0-9]", name) == 1) {
                n++;
                ck_assert_msg(has_row(name), "%s of %s has no row", name, found.gl_pathv[i]);
            }
        fclose(f);
    }
    globfree(&found);
    ck_assert_uint_gt(n, 40);
}
END_TEST

static int print_rows(void)
{
    char hex[2 * SIZE_MAX_ROW + 1];

    for (size_t i = 0; i < N_GOLDEN; i++)
        if (i + 1 == N_GOLDEN || golden[i + 1].of != golden[i].of) {
            ProtobufCMessage *m = filled(golden[i].of);
            write_hex(m, hex);
            protobuf_c_message_free_unpacked(m, NULL);
            printf("ROW(%s, \"%s\")\n", golden[i].symbol, hex);
        }
    return 0;
}

int main(int argc, char **argv)
{
    Suite *s = suite_create("messages");
    TCase *t = tcase_create("golden");

    if (argc > 1 && strcmp(argv[1], "--rows") == 0)
        return print_rows();
    tcase_add_loop_test(t, earlier_messages_are_read_to_the_last_field, 0, N_GOLDEN);
    tcase_add_loop_test(t, the_newest_form_is_what_is_written, 0, N_GOLDEN);
    tcase_add_test(t, each_message_has_a_row);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
