/* A clock that a test can step, for one program (LD_PRELOAD): what the program reads as the time of
 * day is the kernel's and an offset, and whether that is synchronised is the test's to say. The
 * monotonic clock, sleeps and time-outs stay as they are. (libfaketime 0.9.10 makes Python's sleep
 * fail with EINVAL, and knows nothing of adjtimex.)
 *
 * $CLOCK_SHIM names a file of two 64-bit integers, mapped into memory: nanoseconds to add, and
 * whether the clock counts as synchronised. tests/rig/stepped_clock.py writes it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *shared;

__attribute__((constructor)) static void map_the_file(void)
{
    const char *path = getenv("CLOCK_SHIM");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, 2 * sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        shared = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || shared == NULL || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    long long sum = now->tv_sec * 1000000000LL + now->tv_nsec + shared[0];
    now->tv_sec = sum / 1000000000LL;
    now->tv_nsec = sum % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out != NULL)
        *out = exact.tv_sec;
    return exact.tv_sec;
}

int adjtimex(struct timex *state)
{
    if (shared == NULL || state->modes != 0)
        return (int)syscall(SYS_adjtimex, state);
    return shared[1] ? TIME_OK : TIME_ERROR;
}
