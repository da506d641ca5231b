/* A wall clock that steps: the time of day of a process, moved by what stands in a file.

   Preloaded into the daemon (LD_PRELOAD, Linux). SKEW_FILE names a file of eight bytes, nanoseconds
   as an int64, that is mapped: whoever writes there moves the clock of all processes that have it, at
   once. Clocks that cannot be set (CLOCK_MONOTONIC and the like) are left alone. Without SKEW_FILE
   nothing is done. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static const volatile int64_t *skew_ns;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SKEW_FILE");
  if (path == NULL || *path == 0) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) abort();
  void *page = mmap(NULL, sizeof *skew_ns, PROT_READ, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) abort();
  close(fd);
  skew_ns = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (real_clock_gettime == NULL) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real_clock_gettime(clock, now);
  if (failed || skew_ns == NULL) return failed;
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE && clock != CLOCK_TAI) return 0;
  int64_t ns = now->tv_sec * SECOND + now->tv_nsec + *skew_ns;
  now->tv_sec = ns / SECOND;
  now->tv_nsec = ns % SECOND;
  return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec at;
  if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
  now->tv_sec = at.tv_sec;
  now->tv_usec = at.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec at;
  if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
  if (into != NULL) *into = at.tv_sec;
  return at.tv_sec;
}
