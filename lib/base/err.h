/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_ERR_H
#define LIB_BASE_ERR_H
/*
 * The error a fallible function gives back: a code and a sentence that names cause and fix. Passed
 * as last argument, may be NULL. `return err_set(err, ...)` yields -1. Text gains context going up
 * and is logged once, at the place that gives up. Any thread; the struct belongs to the caller.
 */
#include <stdarg.h>

/* Numbers travel in frames: they are never reused. */
enum err_code {
    ERR_NONE = 0,
    ERR_INVALID = 1,   /* an argument, flag or value that can never work */
    ERR_PROTOCOL = 2,  /* a malformed or unexpected frame */
    ERR_VERSION = 3,   /* the peer speaks another protocol version */
    ERR_NOT_FOUND = 4, /* no such function, lease, process, file */
    ERR_EXISTS = 5,
    ERR_FULL = 6, /* a bound was reached: memory, fds, processes, disk */
    ERR_NO_MEMORY = 7,
    ERR_TIMEOUT = 8,
    ERR_CANCELED = 9,
    ERR_INFEASIBLE = 10,   /* no node can ever provide these resources */
    ERR_START_FAILED = 11, /* a worker process cannot be started */
    ERR_DIED = 12,         /* the process at the other end is gone */
    ERR_SYSTEM = 13,       /* a system call failed; the text holds errno's */
    ERR_AWAY = 14,         /* what it needs is away and may come back */
    ERR_DENIED = 15,       /* no token, or a wrong one */
};

struct err {
    enum err_code code;
    char text[400];
};

/* Fill err (unless NULL) and return -1. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with ": " and strerror(errno) appended, for limits the remedy too; call it in the line
 * after the system call.
 * The code is ERR_FULL for EMFILE, ENFILE, ENOSPC, EAGAIN of fork, ENOMEM; else ERR_SYSTEM. */
int err_sys(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "context: " in front of the text; keeps the code. Returns -1. */
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "invalid", "not found", ... for logs; never NULL. */
const char *err_code_name(enum err_code code);
/* What strsignal and strerror say, of any number, static: those allocate for one that has no name,
 * and have one text for a thread. */
const char *err_signal_name(int number);
const char *err_errno_name(int number);

#endif /* LIB_BASE_ERR_H */
