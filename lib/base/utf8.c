/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/utf8.h"

#include <string.h>

/* Bytes of the character that text, of n bytes, begins with; 0: it is none. */
static size_t character(const unsigned char *text, size_t n)
{
    static const struct {
        unsigned char mask, head;
        unsigned least;
    } forms[] = {{0x80, 0, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    size_t size = 1;

    while (size <= 4 && (text[0] & forms[size - 1].mask) != forms[size - 1].head)
        size++;
    if (size > 4 || size > n)
        return 0;
    unsigned c = text[0] & (unsigned char)~forms[size - 1].mask;
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (text[i] & 0x3f);
    }
    if (c < forms[size - 1].least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    return size;
}

size_t utf8_length(const char *text, size_t n)
{
    size_t at = 0, size;

    while (at < n && (size = character((const unsigned char *)text + at, n - at)) > 0)
        at += size;
    return at;
}

void utf8_clean(char *text)
{
    size_t n = strlen(text), at = 0;

    while ((at += utf8_length(text + at, n - at)) < n)
        text[at] = '?';
}
