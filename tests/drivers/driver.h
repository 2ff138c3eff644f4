/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_DRIVERS_DRIVER_H
#define TESTS_DRIVERS_DRIVER_H
/*
 * What the driver programs of the cluster tests share: a program is called with the name of a
 * scenario and its arguments, prints what failed with its place, and says so by its exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <ray/ray.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #x);                        \
            ray_report(stderr);                                                                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_CODE(x, code)                                                                        \
    do {                                                                                           \
        int code_ = (x);                                                                           \
        if (code_ != (code)) {                                                                     \
            fprintf(stderr, "%s:%d: %s is %d, not %s: ", __FILE__, __LINE__, #x, code_, #code);    \
            ray_report(stderr);                                                                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A scenario ends the process or returns; the cluster ends after it in order. */
struct scenario {
    const char *name;
    int num_cpus;
    const char *resources;
    void (*run)(int argc, char **argv);
};

static inline int run_scenario(const struct scenario *s, size_t n, int argc, char **argv)
{
    for (size_t i = 0; i < n && argc > 1; i++) {
        if (strcmp(s[i].name, argv[1]) != 0)
            continue;
        if (s[i].num_cpus > 0 && getenv("RAY_ADDRESS") == NULL)
            CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = s[i].num_cpus, .resources = s[i].resources)),
                       RAY_OK);
        else if (s[i].num_cpus > 0)
            CHECK_CODE(ray_init(NULL), RAY_OK);
        s[i].run(argc - 2, argv + 2);
        if (s[i].num_cpus > 0)
            CHECK_CODE(ray_shutdown(), RAY_OK);
        return 0;
    }
    fprintf(stderr, "usage: %s SCENARIO ...\n", argv[0]);
    for (size_t i = 0; i < n; i++)
        fprintf(stderr, "  %s\n", s[i].name);
    return 2;
}

/* Named pipes of the working directory are how tasks and programs wait for each other: opened for
 * both ways, so that opening never waits; a byte is one event. */
static inline int open_pipe(const char *name)
{
    mkfifo(name, 0600);
    return open(name, O_RDWR | O_CLOEXEC);
}

static inline void send_event(const char *name)
{
    int fd = open_pipe(name);

    if (fd < 0 || write(fd, "x", 1) != 1)
        _exit(99);
    /* closed by exec or exit: the bytes of a pipe nobody has open are lost */
}

static inline void await_events(const char *name, int n)
{
    int fd = open_pipe(name);
    char c;

    while (n-- > 0)
        if (fd < 0 || read(fd, &c, 1) != 1)
            _exit(99);
    close(fd);
}

/* Append one line at once. */
static inline void note(const char *file, const char *line)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, line, strlen(line)) < 0)
        _exit(99);
    close(fd);
}

/* The number of lines in a file; 0 if there is none. */
static inline int count_lines(const char *file)
{
    FILE *f = fopen(file, "re");
    int n = 0, c;

    if (f == NULL)
        return 0;
    while ((c = fgetc(f)) != EOF)
        n += c == '\n';
    fclose(f);
    return n;
}

#endif /* TESTS_DRIVERS_DRIVER_H */
