/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H
/*
 * What fuzz targets share: an input is a script of small steps. One that is too short reads as
 * zeros, so each input means something. A target leaves nothing behind, so that runs do not depend
 * on each other.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* libFuzzer's entry, or run_corpus.c's. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t input_u8(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

/* At most max bytes, as many as a leading byte says; points into the input. */
static inline const uint8_t *input_bytes(struct input *in, size_t max, size_t *size)
{
    size_t n = input_u8(in);
    const uint8_t *p = in->at;

    n = n < max ? n : max;
    *size = n < in->left ? n : in->left;
    in->at += *size;
    in->left -= *size;
    return p;
}

#endif /* TESTS_FUZZ_FUZZ_H */
