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

/* What the user can do about it; of the others only the caller knows. */
static const char *remedy(int e)
{
    switch (e) {
    case EMFILE:
        return "; raise the limit of open files (ulimit -n)";
    case ENFILE:
        return "; raise the system's limit of open files (sysctl fs.file-max)";
    case EAGAIN:
        return "; raise the limit of processes (ulimit -u)";
    case EFBIG:
        return "; raise the limit of file sizes (ulimit -f), which counts shared memory too";
    case ENOMEM:
        return "; free memory or raise its limit (ulimit -v)";
    default:
        return "";
    }
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
    char buf[96], why[160];
    size_t n = strlen(err->text);
    size_t m =
        (size_t)snprintf(why, sizeof why, ": %.80s%s", strerror_r(e, buf, sizeof buf), remedy(e));
    if (n + m >= sizeof err->text) /* a long path rather than the reason is cut */
        n = sizeof err->text - m - 1;
    memcpy(err->text + n, why, m + 1);
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
        "away",
        "denied",
    };
    return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "unknown error";
}

const char *err_signal_name(int number)
{
    const char *name = sigdescr_np(number);

    return name != NULL ? name : "one without a name";
}

const char *err_errno_name(int number)
{
    const char *name = strerrordesc_np(number);

    return name != NULL ? name : "unknown error";
}
