/* SPDX-License-Identifier: Apache-2.0 */
#include "gcs/kv.h"

#include <stdbool.h>
#include <string.h>

static const char word[] = "@namespace_";

struct writer {
    char *at, *end; /* end: where the 0 stands at the latest */
    bool is_full;
};

static void write_char(struct writer *w, char c)
{
    if (w->at == w->end)
        w->is_full = true;
    else
        *w->at++ = c;
}

static void write_bytes(struct writer *w, const void *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *b = bytes;

    for (size_t i = 0; i < size && !w->is_full; i++) {
        if (b[i] > ' ' && b[i] <= '~' && b[i] != '%') {
            write_char(w, (char)b[i]);
            continue;
        }
        write_char(w, '%');
        write_char(w, digits[b[i] >> 4]);
        write_char(w, digits[b[i] & 15]);
    }
}

int kv_key_make(const void *ns,
                size_t ns_size,
                const void *key,
                size_t key_size,
                struct kv_key *out,
                struct err *err)
{
    struct writer w = {.at = out->text, .end = out->text + STORE_KEY_MAX};

    if (ns_size > 0) {
        for (const char *c = word; *c != '\0'; c++)
            write_char(&w, *c);
        write_bytes(&w, ns, ns_size);
        write_char(&w, ':');
    }
    write_bytes(&w, key, key_size);
    if (w.is_full)
        return err_set(err,
                       ERR_INVALID,
                       "namespace and key are longer than %d bytes together",
                       STORE_KEY_MAX);
    *w.at = '\0';
    return 0;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t kv_key_bytes(const char *text, size_t ns_size, void *out)
{
    unsigned char *b = out;
    size_t n = 0;

    if (ns_size > 0) { /* its colons are no end of it: count its bytes */
        text += strlen(text) < sizeof word - 1 ? strlen(text) : sizeof word - 1;
        for (size_t i = 0; i < ns_size && *text != '\0'; i++)
            text += *text == '%' && strlen(text) >= 3 ? 3 : 1;
        text += *text == ':';
    }
    for (; *text != '\0'; text++) {
        if (text[0] == '%' && digit(text[1]) >= 0 && digit(text[2]) >= 0) {
            b[n++] = (unsigned char)(digit(text[1]) << 4 | digit(text[2]));
            text += 2;
        } else {
            b[n++] = (unsigned char)*text;
        }
    }
    return n;
}
