/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main of a fuzz target where libFuzzer is not: runs each file given, and each file of a folder
 * given. With -max_total_time=SECONDS it then runs mutations of them that long, from a seed that it
 * prints (or -seed=N); the last input of each run is in the file `last-input`, for the one that
 * ends it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/alloc.h"
#include "lib/base/clock.h"
#include "tests/fuzz/fuzz.h"

#define SIZE_BOUND 4096 /* of a mutated input */

struct file {
    uint8_t *bytes;
    size_t size;
};

static struct file *files;
static size_t n_files;
static uint64_t rng;
static uint8_t *last; /* size, then bytes */

static uint32_t draw(uint32_t below)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 20) % below);
}

static void run(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = xmalloc(size); /* so that a sanitizer sees a byte too many */

    if (size > 0)
        memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int load(const char *path)
{
    struct stat st;
    struct file f = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    if (S_ISDIR(st.st_mode)) {
        DIR *d = fdopendir(fd);
        const struct dirent *e;
        char inner[4096];
        while (d != NULL && (e = readdir(d)) != NULL)
            if (e->d_name[0] != '.') {
                snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
                if (load(inner) != 0)
                    return -1;
            }
        closedir(d);
        return 0;
    }
    f.size = (size_t)st.st_size;
    f.bytes = xmalloc(f.size);
    ssize_t n = read(fd, f.bytes, f.size);
    close(fd);
    if (n != (ssize_t)f.size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return -1;
    }
    files = xrealloc(files, (n_files + 1) * sizeof *files);
    files[n_files++] = f;
    return 0;
}

/* Put n bytes at `at`, in place of `gone` bytes there. */
static size_t replace(uint8_t *buf,
                      size_t size,
                      size_t at,
                      size_t gone,
                      const uint8_t *bytes,
                      size_t n)
{
    if (size - gone + n > SIZE_BOUND)
        return size;
    memmove(buf + at + n, buf + at + gone, size - at - gone);
    if (n > 0)
        memcpy(buf + at, bytes, n);
    return size - gone + n;
}

static size_t mutate(uint8_t *buf, size_t size)
{
    static const uint64_t numbers[] =
        {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, UINT64_MAX, 1ull << 63};
    const struct file *other = &files[draw((uint32_t)n_files)];
    size_t at = draw((uint32_t)size + 1), n = size - at < 8 ? size - at : 1u << draw(4);
    uint8_t bytes[16];
    uint64_t number = numbers[draw(sizeof numbers / sizeof numbers[0])];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)draw(256);
    switch (draw(6)) {
    case 0: /* a bit */
        if (at < size)
            buf[at] ^= (uint8_t)(1u << draw(8));
        return size;
    case 1: /* a number */
        memcpy(buf + at, &number, n < 8 ? n : 8);
        return size;
    case 2: /* random bytes in */
        return replace(buf, size, at, 0, bytes, 1 + draw(sizeof bytes));
    case 3: /* out */
        return replace(buf, size, at, draw((uint32_t)(size - at) + 1), NULL, 0);
    case 4: { /* a piece of another */
        size_t from = draw((uint32_t)other->size + 1), k = draw((uint32_t)(other->size - from) + 1);
        return replace(buf, size, at, 0, other->bytes + from, k);
    }
    default: { /* a piece twice */
        uint8_t copy[64];
        n = size - at < sizeof copy ? size - at : sizeof copy;
        memcpy(copy, buf + at, n);
        return replace(buf, size, at, 0, copy, n);
    }
    }
}

static void fuzz(uint64_t seconds)
{
    static uint8_t buf[SIZE_BOUND + 64];
    const uint8_t nothing[1] = {0};
    uint64_t end = clock_now_ns() + seconds * 1000000000u, n = 0;

    if (n_files == 0) {
        files = xcalloc(1, sizeof *files);
        files[n_files++] = (struct file){(uint8_t *)xstrdup((const char *)nothing), 0};
    }
    for (; clock_now_ns() < end; n++) {
        const struct file *f = &files[draw((uint32_t)n_files)];
        size_t size = f->size < SIZE_BOUND ? f->size : SIZE_BOUND;
        memcpy(buf, f->bytes, size);
        for (uint32_t k = 1 + draw(6); k > 0; k--)
            size = mutate(buf, size);
        memcpy(last, &size, sizeof size);
        memcpy(last + sizeof size, buf, size);
        run(buf, size);
    }
    printf("%llu runs\n", (unsigned long long)n);
}

int main(int argc, char **argv)
{
    unsigned long long seconds = 0, seed = clock_now_ns();

    for (int i = 1; i < argc; i++)
        if (sscanf(argv[i], "-max_total_time=%llu", &seconds) != 1
            && sscanf(argv[i], "-seed=%llu", &seed) != 1 && argv[i][0] != '-' && load(argv[i]) != 0)
            return 1;
    for (size_t i = 0; i < n_files; i++)
        run(files[i].bytes, files[i].size);
    if (seconds > 0) {
        int fd = open("last-input", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        size_t room = sizeof(size_t) + SIZE_BOUND;
        if (fd < 0 || ftruncate(fd, (off_t)room) != 0
            || (last = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
            return 1;
        close(fd);
        printf("-seed=%llu\n", seed);
        rng = seed | 1;
        fuzz(seconds);
        munmap(last, room);
    }
    for (size_t i = 0; i < n_files; i++)
        free(files[i].bytes);
    free(files);
    return 0;
}
