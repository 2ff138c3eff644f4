/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wall clock that can be moved, to be preloaded: it is ahead of the machine's by the seconds in
 * the file that CLOCK_JUMP names, an int64_t in its first bytes, which may change at any moment.
 * The monotonic clock is the machine's. Waits until a time of the wall clock end by the moved one,
 * as they do in the kernel: late if it is set back meanwhile.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS 50000000 /* of a wait; then the clock is looked at again */

static const volatile int64_t *ahead_s;
static long (*next_syscall)(long, ...);
static int (*next_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_file(void)
{
    const char *path = getenv("CLOCK_JUMP");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *p = fd >= 0 ? mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (fd >= 0)
        close(fd);
    *(void **)&next_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&next_syscall = dlsym(RTLD_NEXT, "syscall");
    if (p != MAP_FAILED)
        ahead_s = p;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    if (next_gettime == NULL)
        open_file();
    int rc = next_gettime(clock, t);
    if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && ahead_s != NULL)
        t->tv_sec += *ahead_s;
    return rc;
}

int gettimeofday(struct timeval *t, void *zone)
{
    struct timespec now;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

static long wait_until(const long a[6], const struct timespec *end)
{
    const int64_t second = 1000000000;

    for (;;) {
        struct timespec now, slice = {0};
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = (end->tv_sec - now.tv_sec) * second + end->tv_nsec - now.tv_nsec;
        bool is_last = left <= SLICE_NS;
        slice.tv_nsec = left < 0 ? 0 : is_last ? left : SLICE_NS;
        long rc = next_syscall(SYS_futex, a[0], FUTEX_WAIT_PRIVATE, a[2], &slice, NULL, 0);
        if (rc == 0 || errno != ETIMEDOUT || is_last)
            return rc;
    }
}

long syscall(long number, ...)
{
    const int waits = FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME;
    long a[6];
    va_list ap;

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (next_syscall == NULL)
        open_file();
    if (number == SYS_futex && (int)a[1] == waits && a[3] != 0)
        return wait_until(a, (const struct timespec *)a[3]);
    return next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
