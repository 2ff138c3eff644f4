/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    va_list ap;

    if (err == NULL)
        return -1;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return -1;
}

int err_sys(struct err *err, const char *fmt, ...)
{
    int e = errno;
    va_list ap;

    if (err == NULL)
        return -1;
    switch (e) {
    case EMFILE:
    case ENFILE:
    case ENOSPC:
    case EDQUOT:
    case EAGAIN:
    case ENOMEM:
        err->code = ERR_FULL;
        break;
    case ENOENT:
        err->code = ERR_NOT_FOUND;
        break;
    default:
        err->code = ERR_SYSTEM;
        break;
    }
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->text);
    char buf[96];
    snprintf(err->text + n, sizeof err->text - n, ": %s", strerror_r(e, buf, sizeof buf));
    return -1;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    char old[sizeof err->text];
    va_list ap;

    if (err == NULL)
        return -1;
    memcpy(old, err->text, sizeof old);
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->text);
    snprintf(err->text + n, sizeof err->text - n, ": %s", old);
    return -1;
}

const char *err_code_name(enum err_code code)
{
    static const char *const names[] = {
        "none",
        "invalid argument",
        "protocol error",
        "version mismatch",
        "not found",
        "exists",
        "full",
        "out of memory",
        "timed out",
        "canceled",
        "infeasible",
        "start failed",
        "died",
        "system error",
    };
    return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "unknown error";
}
