/* What a process does to the files below one directory, written down so that a power loss can be made.

   Preloaded into the daemon (LD_PRELOAD, Linux). Each operation goes on to the real file; then a record
   of it is appended to a journal, with a copy of what was written. `power.py` replays the journal after
   SIGKILL: what no fsync covered may be forgotten. An fsync here takes a while and touches no disk: the
   journal is what says that it happened. Now and then, a write finds the disk full.

   A record is made after its operation and before the caller hears of it: an operation that is cut off
   between the two counts as one that never reached the disk. What this cannot see (a shared mapping, a
   second name of a file) ends the process with a word, so that nothing passes by in silence.

   POWER_LOSS_ROOT: the directory. POWER_LOSS_JOURNAL: the file. POWER_LOSS_DISK:
   "LEAST MOST FULL DEATH SEED": an fsync's microseconds; one write of so many finds no space (0: none
   does); the process dies before its so many-th record is made (0: it does not).
   Without POWER_LOSS_ROOT nothing is done: the template's copies carry this library, too. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 65536

/* `struct.Struct("<cxxxIqQQ")` of power.py; `size` bytes follow. */
struct entry {
  char what; /* open, made, write, cut, begin and end of a sync, rename, unlink, new directory */
  char pad[3];
  uint32_t size;
  int64_t number; /* offset, length, or which sync */
  uint64_t file;  /* inode */
  uint64_t other; /* of a rename: how long the first name is */
};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static ino_t inodes[FILES_MAX]; /* of the descriptors that are followed; 0: this one is not */
static int journal = -1;
static char root[PATH_MAX];
static size_t root_size;
static unsigned least_us, most_us, full_every, death_at, dice;
static int64_t sync_count;

#define REAL(name, result, ...)                                   \
  static result (*real)(__VA_ARGS__);                             \
  if (real == NULL) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void give_up(const char *text) {
  static const char head[] = "power.c: ";
  struct iovec parts[] = {{(void *)head, sizeof head - 1}, {(void *)text, strlen(text)}, {"\n", 1}};
  if (writev(2, parts, 3) < 0) { /* nobody to tell */
  }
  abort();
}

static int real_close(int fd) {
  REAL("close", int, int);
  return real(fd);
}

/* Under `guard`. Whether anything is followed in this process. */
static int is_on(void) {
  if (journal >= 0) return 1;
  const char *given = getenv("POWER_LOSS_ROOT"), *path = getenv("POWER_LOSS_JOURNAL");
  const char *disk = getenv("POWER_LOSS_DISK");
  if (given == NULL || *given == 0) return 0;
  if (path == NULL || disk == NULL || strlen(given) >= sizeof root) give_up("its variables are not set");
  if (sscanf(disk, "%u %u %u %u %u", &least_us, &most_us, &full_every, &death_at, &dice) != 5)
    give_up("POWER_LOSS_DISK is not five numbers");
  REAL("open64", int, const char *, int, ...);
  journal = real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (journal < 0) give_up("the journal cannot be opened");
  int high = fcntl(journal, F_DUPFD_CLOEXEC, 1000); /* out of the way of who closes what he did not open */
  if (high >= 0) {
    real_close(journal);
    journal = high;
  }
  strcpy(root, given);
  root_size = strlen(root);
  return 1;
}

/* Under `guard`. The name below the root ("": the root itself), or NULL for a path that is not there. */
static const char *below(const char *path) {
  static char whole[PATH_MAX * 2];
  if (path == NULL || !is_on()) return NULL;
  if (*path != '/') {
    if (getcwd(whole, PATH_MAX) == NULL) return NULL;
    strcat(whole, "/");
    strncat(whole, path, PATH_MAX - 2);
    path = whole;
  }
  if (strncmp(path, root, root_size) != 0) return NULL;
  if (path[root_size] == 0) return path + root_size;
  return path[root_size] == '/' ? path + root_size + 1 : NULL;
}

/* SQLite's index lives in shared memory and means nothing after a power loss. */
static int is_index(const char *name) {
  size_t size = strlen(name);
  return size >= 4 && strcmp(name + size - 4, "-shm") == 0;
}

/* Under `guard`. */
static void note(char what, uint64_t file, int64_t number, uint64_t other, const void *data, size_t size) {
  if (death_at && --death_at == 0) kill(getpid(), SIGKILL);
  struct entry entry = {.what = what, .size = size, .number = number, .file = file, .other = other};
  struct iovec parts[] = {{&entry, sizeof entry}, {(void *)data, size}};
  REAL("writev", ssize_t, int, const struct iovec *, int);
  if (real(journal, parts, 2) != (ssize_t)(sizeof entry + size)) give_up("the journal cannot be written");
}

static void note_name(char what, uint64_t file, const char *name) {
  note(what, file, 0, 0, name, strlen(name));
}

static unsigned roll(unsigned sides) { return sides ? rand_r(&dice) % sides : 0; }

/* The inode that a descriptor is followed by, or 0. */
static ino_t followed(int fd) {
  return fd >= 0 && fd < FILES_MAX ? inodes[fd] : 0;
}

/* Under `guard`. Notes what stands in a file there now. */
static void note_written(int fd, off_t at, size_t size) {
  char data[1 << 16];
  while (size > 0) {
    ssize_t count = pread(fd, data, size < sizeof data ? size : sizeof data, at);
    if (count <= 0) give_up("what was written cannot be read");
    note('w', inodes[fd], at, 0, data, count);
    at += count;
    size -= count;
  }
}

/* A start needs some dozens, and a daemon may refuse to start on a full disk. */
enum { WRITES_OF_A_START = 300 };
static int is_full(void) {
  static unsigned writes;
  if (writes < WRITES_OF_A_START) {
    writes++;
    return 0;
  }
  return full_every && roll(full_every) == 0;
}

/* Opening */

static int opened(const char *path, int flags, mode_t mode, int directory) {
  REAL("openat64", int, int, const char *, int, ...);
  pthread_mutex_lock(&guard);
  const char *name = below(path);
  if (name == NULL || is_index(name)) {
    pthread_mutex_unlock(&guard);
    int fd = real(directory, path, flags, mode);
    if (fd >= 0 && fd < FILES_MAX) inodes[fd] = 0;
    return fd;
  }
  struct stat status;
  int was_there = lstat(path, &status) == 0;
  /* What is noted is read back, so a file is never open for writing alone. */
  if ((flags & O_ACCMODE) == O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR;
  int fd = real(directory, path, flags, mode);
  int error = errno;
  if (fd >= 0) {
    if (fd >= FILES_MAX || fstat(fd, &status) != 0) give_up("too many files");
    inodes[fd] = status.st_ino;
    note_name(was_there ? 'o' : 'm', status.st_ino, name);
    if (was_there && (flags & O_TRUNC)) note('c', status.st_ino, 0, 0, NULL, 0);
  }
  pthread_mutex_unlock(&guard);
  errno = error;
  return fd;
}

#define MODE_OF(flags)                              \
  mode_t mode = 0;                                  \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {          \
    va_list rest;                                   \
    va_start(rest, flags);                          \
    mode = va_arg(rest, mode_t);                    \
    va_end(rest);                                   \
  }

int open(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(path, flags, mode, AT_FDCWD);
}
int open64(const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(path, flags, mode, AT_FDCWD);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(path, flags, mode, directory);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE_OF(flags)
  return opened(path, flags, mode, directory);
}
int __open_2(const char *path, int flags) { return opened(path, flags, 0, AT_FDCWD); }
int __open64_2(const char *path, int flags) { return opened(path, flags, 0, AT_FDCWD); }

int close(int fd) {
  if (followed(fd)) inodes[fd] = 0;
  if (fd >= 0 && fd == journal) return 0; /* by one who closes all that is open */
  return real_close(fd);
}

/* Writing */

#define WRITES(at, call)                        \
  if (!followed(fd)) return call;               \
  pthread_mutex_lock(&guard);                   \
  off_t offset = (at);                          \
  ssize_t count = -1;                           \
  int error = ENOSPC;                           \
  if (!is_full()) {                             \
    count = call;                               \
    error = errno;                              \
    if (count > 0) note_written(fd, offset, count); \
  }                                             \
  pthread_mutex_unlock(&guard);                 \
  errno = error;                                \
  return count;

/* Where `write` writes. */
static off_t position(int fd) {
  struct stat status;
  if (!(fcntl(fd, F_GETFL) & O_APPEND)) return lseek(fd, 0, SEEK_CUR);
  return fstat(fd, &status) == 0 ? status.st_size : 0;
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL("write", ssize_t, int, const void *, size_t);
  WRITES(position(fd), real(fd, data, size))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL("pwrite", ssize_t, int, const void *, size_t, off_t);
  WRITES(at, real(fd, data, size, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t);
  WRITES(at, real(fd, data, size, at))
}
ssize_t writev(int fd, const struct iovec *parts, int part_count) {
  REAL("writev", ssize_t, int, const struct iovec *, int);
  WRITES(position(fd), real(fd, parts, part_count))
}
ssize_t pwritev(int fd, const struct iovec *parts, int part_count, off_t at) {
  REAL("pwritev", ssize_t, int, const struct iovec *, int, off_t);
  WRITES(at, real(fd, parts, part_count, at))
}
ssize_t pwritev64(int fd, const struct iovec *parts, int part_count, off64_t at) {
  REAL("pwritev64", ssize_t, int, const struct iovec *, int, off64_t);
  WRITES(at, real(fd, parts, part_count, at))
}
ssize_t sendfile(int fd, int from, off_t *at, size_t size) {
  REAL("sendfile", ssize_t, int, int, off_t *, size_t);
  WRITES(position(fd), real(fd, from, at, size))
}
ssize_t sendfile64(int fd, int from, off64_t *at, size_t size) {
  REAL("sendfile64", ssize_t, int, int, off64_t *, size_t);
  WRITES(position(fd), real(fd, from, at, size))
}
ssize_t copy_file_range(int from, off64_t *from_at, int fd, off64_t *at, size_t size, unsigned flags) {
  REAL("copy_file_range", ssize_t, int, off64_t *, int, off64_t *, size_t, unsigned);
  WRITES(at ? *at : position(fd), real(from, from_at, fd, at, size, flags))
}

#define CUTS(length, call)                                             \
  if (!followed(fd)) return call;                                      \
  pthread_mutex_lock(&guard);                                          \
  int result = call, error = errno;                                    \
  if (result == 0) note('c', inodes[fd], length, 0, NULL, 0);          \
  pthread_mutex_unlock(&guard);                                        \
  errno = error;                                                       \
  return result;

int ftruncate(int fd, off_t length) {
  REAL("ftruncate", int, int, off_t);
  CUTS(length, real(fd, length))
}
int ftruncate64(int fd, off64_t length) {
  REAL("ftruncate64", int, int, off64_t);
  CUTS(length, real(fd, length))
}

/* Space that is set aside makes a file longer, and changes nothing else. */
#define LENGTHENS(call)                                                        \
  if (!followed(fd)) return call;                                              \
  pthread_mutex_lock(&guard);                                                  \
  int result = call, error = errno;                                            \
  struct stat status;                                                          \
  if (result == 0 && fstat(fd, &status) == 0) note('c', inodes[fd], status.st_size, 0, NULL, 0); \
  pthread_mutex_unlock(&guard);                                                \
  errno = error;                                                               \
  return result;

int posix_fallocate(int fd, off_t at, off_t size) {
  REAL("posix_fallocate", int, int, off_t, off_t);
  LENGTHENS(real(fd, at, size))
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
  REAL("posix_fallocate64", int, int, off64_t, off64_t);
  LENGTHENS(real(fd, at, size))
}
int fallocate(int fd, int mode, off_t at, off_t size) {
  REAL("fallocate", int, int, int, off_t, off_t);
  if (followed(fd) && mode) give_up("holes in files are not followed");
  LENGTHENS(real(fd, mode, at, size))
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
  REAL("fallocate64", int, int, int, off64_t, off64_t);
  if (followed(fd) && mode) give_up("holes in files are not followed");
  LENGTHENS(real(fd, mode, at, size))
}

/* Syncing: covers what was done before it began, once it has ended. */

static int synced(int fd) {
  pthread_mutex_lock(&guard);
  int64_t number = ++sync_count;
  ino_t inode = inodes[fd];
  note('b', inode, number, 0, NULL, 0);
  unsigned us = least_us + roll(most_us - least_us + 1);
  pthread_mutex_unlock(&guard);
  struct timespec left = {us / 1000000, us % 1000000 * 1000L};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
  pthread_mutex_lock(&guard);
  note('s', inode, number, 0, NULL, 0);
  pthread_mutex_unlock(&guard);
  return 0;
}

int fsync(int fd) {
  REAL("fsync", int, int);
  return followed(fd) ? synced(fd) : real(fd);
}
int fdatasync(int fd) {
  REAL("fdatasync", int, int);
  return followed(fd) ? synced(fd) : real(fd);
}

/* Names */

static int renamed(const char *from, const char *to, int (*real)(const char *, const char *)) {
  pthread_mutex_lock(&guard);
  const char *first = below(from);
  char names[PATH_MAX * 2];
  size_t first_size = 0;
  if (first != NULL) {
    first_size = strlen(first);
    memcpy(names, first, first_size);
  }
  const char *second = below(to);
  struct stat status;
  if ((first == NULL) != (second == NULL)) give_up("a file is renamed across the root");
  int is_ours = first != NULL && lstat(from, &status) == 0;
  int result = real(from, to), error = errno;
  if (is_ours && result == 0) {
    strcpy(names + first_size, second);
    note('r', status.st_ino, 0, first_size, names, strlen(second) + first_size);
  }
  pthread_mutex_unlock(&guard);
  errno = error;
  return result;
}

int rename(const char *from, const char *to) {
  REAL("rename", int, const char *, const char *);
  return renamed(from, to, real);
}

int unlink(const char *path) {
  REAL("unlink", int, const char *);
  pthread_mutex_lock(&guard);
  const char *name = below(path);
  int result = real(path), error = errno;
  if (name != NULL && result == 0) note_name('u', 0, name);
  pthread_mutex_unlock(&guard);
  errno = error;
  return result;
}

int mkdir(const char *path, mode_t mode) {
  REAL("mkdir", int, const char *, mode_t);
  pthread_mutex_lock(&guard);
  const char *name = below(path);
  int result = real(path, mode), error = errno;
  struct stat status;
  if (name != NULL && result == 0 && lstat(path, &status) == 0) note_name('d', status.st_ino, name);
  pthread_mutex_unlock(&guard);
  errno = error;
  return result;
}

/* What is not followed */

#define NOT_BELOW(path, text)              \
  pthread_mutex_lock(&guard);              \
  if (below(path) != NULL) give_up(text);  \
  pthread_mutex_unlock(&guard);

int link(const char *from, const char *to) {
  REAL("link", int, const char *, const char *);
  NOT_BELOW(to, "a second name of a file is not followed")
  return real(from, to);
}
int rmdir(const char *path) {
  REAL("rmdir", int, const char *);
  NOT_BELOW(path, "a directory that goes is not followed")
  return real(path);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
  REAL("renameat", int, int, const char *, int, const char *);
  NOT_BELOW(to, "renameat is not followed")
  return real(from_at, from, to_at, to);
}
int truncate(const char *path, off_t length) {
  REAL("truncate", int, const char *, off_t);
  NOT_BELOW(path, "truncate by name is not followed")
  return real(path, length);
}
int truncate64(const char *path, off64_t length) {
  REAL("truncate64", int, const char *, off64_t);
  NOT_BELOW(path, "truncate by name is not followed")
  return real(path, length);
}

#define IS_SEEN                                                              \
  if (followed(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE))     \
    give_up("a mapping is not followed");

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t at) {
  REAL("mmap", void *, void *, size_t, int, int, int, off_t);
  IS_SEEN
  return real(address, size, protection, flags, fd, at);
}
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t at) {
  REAL("mmap64", void *, void *, size_t, int, int, int, off64_t);
  IS_SEEN
  return real(address, size, protection, flags, fd, at);
}
