/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cmd/ray/doctor.h"
#include "cmd/ray/memory.h"

#define VERSION "ray-c 0.1"

static void usage(FILE *out)
{
    fputs("ray: look after Ray on this machine\n"
          "  ray doctor     the facts of this machine, and what would keep Ray from working\n"
          "  ray memory     the object refs of a running cluster, who holds them, and why\n"
          "  ray --version\n"
          "  ray --help\n",
          out);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";

    if (strcmp(command, "doctor") == 0)
        return doctor_main(argc - 1, argv + 1);
    if (strcmp(command, "memory") == 0)
        return memory_main(argc - 1, argv + 1);
    if (strcmp(command, "--version") == 0 && argc == 2) {
        puts(VERSION);
        return 0;
    }
    if (strcmp(command, "--help") == 0 && argc == 2) {
        usage(stdout);
        return 0;
    }
    if (argc > 1)
        fprintf(stderr, "ray: unknown command %s\n", command);
    usage(stderr);
    return 2;
}
