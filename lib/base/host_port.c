/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/host_port.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS  "0123456789"

/* 0: none of 1 to 65535. */
static int port_of(const char *text)
{
    int port = 0;

    if (text[strspn(text, DIGITS)] != '\0')
        return 0;
    for (; *text != '\0' && port <= 65535; text++)
        port = 10 * port + (*text - '0');
    return port <= 65535 ? port : 0;
}

/* NULL, or what is wrong. */
static const char *read_text(const char *text, int default_port, struct host_port *out)
{
    bool is_bracketed = text[0] == '[';
    const char *host = text + is_bracketed, *end = host + strcspn(host, is_bracketed ? "]" : ":");
    const char *colon = end + (is_bracketed && *end == ']');
    struct in6_addr ip;

    if (!is_bracketed && strchr(colon + (*colon == ':'), ':') != NULL)
        return "an IPv6 address has brackets, as in [::1]:6379";
    if (end == host)
        return "there is no host";
    if ((size_t)(end - host) >= sizeof out->host)
        return "a host has at most 253 bytes";
    memcpy(out->host, host, (size_t)(end - host));
    out->host[end - host] = '\0';
    if (is_bracketed && (*end != ']' || inet_pton(AF_INET6, out->host, &ip) != 1))
        return "in brackets there is an IPv6 address";
    if (!is_bracketed && out->host[strspn(out->host, LETTERS DIGITS ".-_")] != '\0')
        return "a host is a name or an address";
    if (*colon == '\0' && default_port == 0)
        return "there is no port";
    int port = *colon == '\0' ? default_port : *colon == ':' ? port_of(colon + 1) : 0;
    if (port == 0)
        return "a port is 1 to 65535";
    out->port = (uint16_t)port;
    return NULL;
}

int host_port_parse(const char *text, int default_port, struct host_port *out, struct err *err)
{
    struct host_port read;
    const char *wrong = read_text(text, default_port, &read);

    if (wrong != NULL)
        return err_set(err, ERR_INVALID, "HOST:PORT is wanted, not \"%.200s\": %s", text, wrong);
    *out = read;
    return 0;
}

void host_port_print(const char *host, int port, char *out, size_t size)
{
    snprintf(out, size, strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host, port);
}

bool host_port_eq(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}
