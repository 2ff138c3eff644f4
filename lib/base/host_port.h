/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_HOST_PORT_H
#define LIB_BASE_HOST_PORT_H
/*
 * A port of a machine as text names it: HOST:PORT, [IPV6]:PORT, or HOST alone where there is a
 * default. A host is a name, looked up by whoever connects, or an address. Pure.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

#define HOST_PORT_TEXT 264 /* with brackets, port and the 0 at the end */

struct host_port {
    char host[254]; /* without brackets */
    uint16_t port;  /* 1 to 65535 */
};

/* text: any bytes that end with 0. default_port: of a host alone; 0: there is none. -1: *out is as
 * it was, err (ERR_INVALID) quotes the text with what is wrong; name the setting in front of it. */
int host_port_parse(const char *text, int default_port, struct host_port *out, struct err *err);
/* What host_port_parse reads, port 0 apart: an IPv6 address gets its brackets. Cut to size. */
void host_port_print(const char *host, int port, char *out, size_t size);
bool host_port_eq(const struct host_port *a, const struct host_port *b);

#endif /* LIB_BASE_HOST_PORT_H */
