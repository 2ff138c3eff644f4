/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <string.h>

#include "lib/api/api_private.h"

#define TEXT_MAX 2200

/* The thread's last failure; strings point into text. */
static _Thread_local struct {
    ray_failure f;
    char text[TEXT_MAX];
    char node[ID_HEX_MAX];
    bool orphan; /* no ref could be made to carry it */
} last;

_Static_assert((int)RAY_EFORKED == (int)CORE_EFORKED && (int)RAY_ECRASH == (int)CORE_ECRASH,
               "one numbering");

static void clear(ray_code code)
{
    last.orphan = false;
    last.f = (ray_failure){.code = code,
                           .text = last.text,
                           .function = "",
                           .file = "",
                           .node = "",
                           .log = ""};
}

void api_clear(void)
{
    last.text[0] = '\0';
    clear(RAY_OK);
}

uint64_t api_carry_error(void)
{
    uint64_t word = core_put_error((enum core_code)ray_error()->code, ray_error()->text);

    last.orphan = word == 0;
    return word;
}

bool api_has_orphan_error(void)
{
    return last.orphan;
}

int api_error_forked(void)
{
    return api_error(RAY_EFORKED,
                     "this process was forked from one that uses Ray: exec a new program, or fork "
                     "before ray_init");
}

int api_error(ray_code code, const char *fmt, ...)
{
    va_list ap;

    clear(code);
    va_start(ap, fmt);
    vsnprintf(last.text, sizeof last.text, fmt, ap);
    va_end(ap);
    return (int)code;
}

int api_core_error(int code, const struct err *err)
{
    if (code == CORE_OK)
        return RAY_OK;
    if (code == CORE_EFORKED)
        return api_error_forked();
    if (err != NULL && err->text[0] != '\0')
        return api_error((ray_code)code, "%s", err->text);
    switch (code) {
    case CORE_ETIMEOUT:
        return api_error(RAY_ETIMEOUT, "not ready within the time given");
    case CORE_ESTALE:
        return api_error(RAY_ESTALE,
                         "not a ref of this process, or it was released: ray_retain keeps one");
    case CORE_EFULL:
        return api_error(RAY_EFULL,
                         "the object store has no room: release what is not needed, or start the "
                         "cluster with a larger object_store_memory");
    case CORE_ENOMEM:
        return api_error(RAY_ENOMEM, "no memory");
    default:
        return api_error((ray_code)code, "a wrong argument, or ray_init was not called");
    }
}

int api_error_from_value(const void *bytes, size_t size)
{
    struct wire_failure w;
    const char *s[4] = {"", "", "", ""};

    if (size < sizeof w)
        return api_error(RAY_ENOMEM, "the result was lost: no memory");
    memcpy(&w, bytes, sizeof w);
    clear(w.code > RAY_OK && w.code <= RAY_EFORKED ? (ray_code)w.code : RAY_ETASK);
    size_t n = size - sizeof w < sizeof last.text - 1 ? size - sizeof w : sizeof last.text - 1;
    memcpy(last.text, (const char *)bytes + sizeof w, n);
    last.text[n] = '\0';
    const char *at = last.text, *end = last.text + n;
    for (int i = 0; i < 4 && at < end; i++) {
        s[i] = at;
        at += strlen(at) + 1;
    }
    last.f.function = s[1];
    last.f.file = s[2];
    last.f.log = s[3];
    last.f.pid = w.pid;
    last.f.signal = w.signal;
    last.f.node = id_hex(w.node.bytes, sizeof w.node.bytes, last.node);
    return (int)last.f.code;
}

const ray_failure *ray_error(void)
{
    if (last.f.text == NULL)
        clear(RAY_OK);
    return &last.f;
}

int ray_report(FILE *out)
{
    const ray_failure *f = ray_error();

    if (f->function[0] != '\0')
        fprintf(out,
                "%s%s%s%s: ",
                f->function,
                f->file[0] != '\0' ? " (" : "",
                f->file,
                f->file[0] != '\0' ? ")" : "");
    fputs(f->text, out);
    if (f->pid != 0)
        fprintf(out, "; node %.8s, pid %d", f->node, f->pid);
    if (f->log[0] != '\0')
        fprintf(out, ", log %s", f->log);
    fputc('\n', out);
    return 1;
}
