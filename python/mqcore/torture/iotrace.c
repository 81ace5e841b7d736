/* iotrace.c -- an LD_PRELOAD library that records every write-family call below one directory, kills the process at the
 * n-th of them, or fails it.  It sees what the process really asks of the kernel: the engine's calls, LMDB's and Python's.
 *
 * Environment: MQTRACE_ROOT   absolute directory; calls on other paths are passed through unseen
 *              MQTRACE_FILE   where the trace goes (made new; must lie outside the root)
 *              MQTRACE_MARK   a path; bytes written to it become MARK records (acknowledgements) in the same order
 *              MQTRACE_KILL   n: SIGKILL at the n-th recorded call; even n before the call, odd n after it,
 *                             and every third write is cut in half first
 * Invariants:
 *   I1  a call is recorded after it returned 0 or more, so a recorded call has happened; failed calls are not recorded
 *   I2  a sync record carries the number of records that stood when it began: only those are covered by it
 *   I3  one lock orders the records; the order of two overlapping calls is one of the two that are possible
 * Record: u32 op, u32 flags, u64 a, u64 b, u32 path length, u32 other-path length, u64 data length, bytes of the three. */
#define _GNU_SOURCE
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OPEN = 1, WRITE, TRUNCATE, ALLOCATE, RENAME, LINK, UNLINK, MKDIR, RMDIR, SYNC, SYNCFS, MARK };
enum { FLAG_CREATED = 1, FLAG_DIRECTORY = 2, FLAG_DSYNC = 4, FLAG_TRUNCATED = 8, FLAG_KEEP_SIZE = 16 };
#define FDS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], mark[PATH_MAX];
static size_t root_length;
static int trace_fd = -1;
static uint64_t records, kill_at;
static char *fd_path[FDS]; /* guarded by lock; NULL: not below the root */
static uint8_t fd_dsync[FDS];

/* Faults: the armed_at-th call from mqtrace_arm on fails with armed_error, in the way of armed_mode. */
enum mode { FAIL_ONCE, FAIL_ALWAYS, SHORT_WRITE, SLOW };
enum kind { ON_OPEN = 1, ON_READ = 2, ON_WRITE = 4, ON_SYNC = 8, ON_NAMES = 16, ON_SIZE = 32, ON_CREATE = 64, ON_REMOVE = 128, ON_GROW = 256 };
static int armed_kinds; /* only these calls count */
static long armed_at, fault_calls, fault_fired;
static int armed_error;
static enum mode armed_mode;

__attribute__((visibility("default"))) void mqtrace_arm(long at, int error, int mode, int kinds)
{
    armed_error = error;
    armed_kinds = kinds;
    armed_mode = (enum mode)mode;
    __atomic_store_n(&fault_calls, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fault_fired, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&armed_at, at, __ATOMIC_SEQ_CST);
}

/* Disarm; return how often the fault fired. */
__attribute__((visibility("default"))) long mqtrace_disarm(void)
{
    __atomic_store_n(&armed_at, 0, __ATOMIC_SEQ_CST);
    return fault_fired;
}

__attribute__((visibility("default"))) long mqtrace_calls(void)
{
    return fault_calls;
}

/* Whether this call is the one: counts it, and sleeps in SLOW mode (which then lets it through). */
static int faulty(enum kind kind)
{
    const long at = __atomic_load_n(&armed_at, __ATOMIC_SEQ_CST);
    if (at == 0 || !(armed_kinds & kind))
        return 0;
    const long n = __atomic_add_fetch(&fault_calls, 1, __ATOMIC_SEQ_CST);
    if (n != at && !(armed_mode == FAIL_ALWAYS && n > at))
        return 0;
    __atomic_add_fetch(&fault_fired, 1, __ATOMIC_SEQ_CST);
    if (armed_mode == SLOW) {
        usleep(20000);
        return 0;
    }
    return 1;
}

static int refuse(void)
{
    errno = armed_error;
    return -1;
}

__attribute__((constructor)) static void start(void)
{
    const char *r = getenv("MQTRACE_ROOT"), *f = getenv("MQTRACE_FILE"), *m = getenv("MQTRACE_MARK"),
               *k = getenv("MQTRACE_KILL");
    if (r == NULL)
        return;
    snprintf(root, sizeof root, "%s", r);
    root_length = strlen(root);
    if (m != NULL)
        snprintf(mark, sizeof mark, "%s", m);
    if (k != NULL)
        kill_at = strtoull(k, NULL, 10);
    if (f != NULL)
        trace_fd = (int)syscall(SYS_openat, AT_FDCWD, f, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
}

/* In a process that is already running (a forked worker): die at the n-th call from now on files below `where`. */
static uint64_t calls; /* write-family calls so far */
__attribute__((visibility("default"))) void mqtrace_kill(const char *where, uint64_t n)
{
    snprintf(root, sizeof root, "%s", where);
    root_length = strlen(root);
    kill_at = n > 0 ? calls + n : 0;
}

static void put(const void *bytes, size_t size)
{
    const char *p = bytes;
    while (size > 0) {
        const ssize_t n = syscall(SYS_write, trace_fd, p, size);
        if (n <= 0)
            abort();
        p += n;
        size -= (size_t)n;
    }
}

/* Absolute path of a name, without resolving links; NULL when it is not below the root and is not the mark. */
static char *below(int dir, const char *name)
{
    char path[PATH_MAX * 2];
    if (root_length == 0 || name == NULL)
        return NULL;
    if (name[0] == '/') {
        snprintf(path, sizeof path, "%s", name);
    } else if (dir == AT_FDCWD) {
        char here[PATH_MAX];
        if (getcwd(here, sizeof here) == NULL)
            return NULL;
        snprintf(path, sizeof path, "%s/%s", here, name);
    } else {
        if (dir < 0 || dir >= FDS || fd_path[dir] == NULL)
            return NULL;
        snprintf(path, sizeof path, "%s/%s", fd_path[dir], name);
    }
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = '\0';
    if (mark[0] != '\0' && strcmp(path, mark) == 0)
        return strdup(path);
    if (strncmp(path, root, root_length) != 0 || (path[root_length] != '/' && path[root_length] != '\0'))
        return NULL;
    return strdup(path);
}

static void record(enum op op, uint32_t flags, uint64_t a, uint64_t b, const char *path, const char *other,
                   const struct iovec *parts, int count, size_t size)
{
    struct {
        uint32_t op, flags;
        uint64_t a, b;
        uint32_t path, other;
        uint64_t data;
    } head = {op, flags, a, b, (uint32_t)strlen(path), other != NULL ? (uint32_t)strlen(other) : 0, size};
    const int saved = errno;
    if (trace_fd < 0)
        return;
    pthread_mutex_lock(&lock);
    put(&head, sizeof head);
    put(path, head.path);
    if (other != NULL)
        put(other, head.other);
    for (int i = 0; i < count && size > 0; i++) {
        const size_t n = parts[i].iov_len < size ? parts[i].iov_len : size;
        put(parts[i].iov_base, n);
        size -= n;
    }
    records++;
    pthread_mutex_unlock(&lock);
    errno = saved;
}

/* Records so far. */
static uint64_t stand(void)
{
    pthread_mutex_lock(&lock);
    const uint64_t n = records;
    pthread_mutex_unlock(&lock);
    return n;
}


/* Called before (after == 0) and after each call: dies at the n-th. */
static uint64_t count_call(void)
{
    return kill_at > 0 ? __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) : 0;
}

static void die(uint64_t n, int after)
{
    if (kill_at > 0 && n == kill_at && (int)(n & 1) == after)
        syscall(SYS_kill, getpid(), SIGKILL);
}

static void remember(int fd, char *path, int flags)
{
    if (fd < 0 || fd >= FDS) {
        free(path);
        return;
    }
    pthread_mutex_lock(&lock);
    free(fd_path[fd]);
    fd_path[fd] = path;
    fd_dsync[fd] = (flags & O_DSYNC) != 0;
    pthread_mutex_unlock(&lock);
}

static int traced_open(int dir, const char *name, int flags, mode_t mode)
{
    char *path = below(dir, name);
    if (path == NULL) {
        const int fd = (int)syscall(SYS_openat, dir, name, flags, mode);
        if (fd >= 0 && root_length > 0)
            remember(fd, NULL, 0);
        return fd;
    }
    struct stat st;
    const int existed = stat(path, &st) == 0;
    if (faulty((flags & O_CREAT) && !existed ? ON_CREATE : ON_OPEN)) {
        free(path);
        return refuse();
    }
    const int changes = (flags & (O_CREAT | O_TRUNC)) != 0;
    const uint64_t n = changes ? count_call() : 0;
    die(n, 0);
    const int fd = (int)syscall(SYS_openat, dir, name, flags, mode);
    if (fd < 0) {
        free(path);
        return fd;
    }
    if (strcmp(path, mark) != 0 && changes && (!existed || (flags & O_TRUNC)))
        record(OPEN, (existed ? 0u : FLAG_CREATED) | ((flags & O_TRUNC) ? FLAG_TRUNCATED : 0u), mode, 0, path, NULL,
               NULL, 0, 0);
    remember(fd, path, flags);
    die(n, 1);
    return fd;
}

#define MODE(last)                                                                                                     \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list list;                                                                                                  \
        va_start(list, last);                                                                                          \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }
int open(const char *name, int flags, ...) { MODE(flags) return traced_open(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return traced_open(AT_FDCWD, name, flags, mode); }
int openat(int dir, const char *name, int flags, ...) { MODE(flags) return traced_open(dir, name, flags, mode); }
int openat64(int dir, const char *name, int flags, ...) { MODE(flags) return traced_open(dir, name, flags, mode); }

int close(int fd)
{
    if (root_length > 0 && fd >= 0 && fd < FDS)
        remember(fd, NULL, 0);
    return (int)syscall(SYS_close, fd);
}

static char *path_of(int fd)
{
    if (root_length == 0 || fd < 0 || fd >= FDS)
        return NULL;
    pthread_mutex_lock(&lock);
    char *path = fd_path[fd] != NULL ? strdup(fd_path[fd]) : NULL;
    pthread_mutex_unlock(&lock);
    return path;
}

/* Whether a write needs room: one inside the file has its blocks. */
static int grows(int fd, const struct iovec *parts, int count, off_t position)
{
    struct stat st;
    for (int i = 0; i < count; i++)
        position += (off_t)parts[i].iov_len;
    return fstat(fd, &st) != 0 || position > st.st_size;
}

/* position < 0: at the file position. */
static ssize_t traced_write(int fd, const struct iovec *parts, int count, off_t position)
{
    char *path = path_of(fd);
    if (path == NULL || strcmp(path, mark) == 0) {
        const ssize_t n = position < 0 ? syscall(SYS_writev, fd, parts, count)
                                       : syscall(SYS_pwritev, fd, parts, count, position, 0);
        if (path != NULL && n > 0)
            record(MARK, 0, 0, 0, path, NULL, parts, count, (size_t)n);
        free(path);
        return n;
    }
    const uint64_t call = count_call();
    die(call, 0);
    if (position < 0)
        position = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    if (faulty(grows(fd, parts, count, position) ? ON_GROW : ON_WRITE)) {
        free(path);
        return armed_mode == SHORT_WRITE ? syscall(SYS_pwrite64, fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2, position)
                                         : refuse();
    }
    if (kill_at > 0 && call == kill_at && call % 3 == 0 && parts[0].iov_len > 1) { /* cut in half, then die */
        syscall(SYS_pwrite64, fd, parts[0].iov_base, parts[0].iov_len / 2, position);
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    const ssize_t n = syscall(SYS_pwritev, fd, parts, count, position, 0);
    if (n > 0)
        record(WRITE, fd_dsync[fd] ? FLAG_DSYNC : 0u, (uint64_t)position, 0, path, NULL, parts, count, (size_t)n);
    free(path);
    die(call, 1);
    return n;
}

static ssize_t at_position(int fd, const struct iovec *parts, int count)
{
    char *path = path_of(fd);
    const int below_root = path != NULL && strcmp(path, mark) != 0;
    free(path);
    const ssize_t n = traced_write(fd, parts, count, -1);
    if (below_root && n > 0 && !(fcntl(fd, F_GETFL) & O_APPEND))
        lseek(fd, n, SEEK_CUR); /* traced_write used pwritev, which does not move it */
    return n;
}

static ssize_t traced_read(int fd, const struct iovec *parts, int count, off_t position)
{
    char *path = path_of(fd);
    const int refused = path != NULL && faulty(ON_READ);
    free(path);
    return refused ? refuse() : syscall(SYS_preadv, fd, parts, count, position, 0);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t position)
{
    const struct iovec part = {bytes, size};
    return traced_read(fd, &part, 1, position);
}
ssize_t pread64(int fd, void *bytes, size_t size, off64_t position) { return pread(fd, bytes, size, position); }

ssize_t write(int fd, const void *bytes, size_t size)
{
    const struct iovec part = {(void *)bytes, size};
    return at_position(fd, &part, 1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return at_position(fd, parts, count); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t position)
{
    const struct iovec part = {(void *)bytes, size};
    return traced_write(fd, &part, 1, position);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t position) { return pwrite(fd, bytes, size, position); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t position)
{
    return traced_write(fd, parts, count, position);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t position)
{
    return traced_write(fd, parts, count, position);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t position, int flags)
{
    (void)flags; /* RWF_DSYNC would have to be recorded: nothing here uses it */
    return traced_write(fd, parts, count, position);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t position, int flags)
{
    return pwritev2(fd, parts, count, position, flags);
}

/* A call on a descriptor that yields 0: recorded with op, flags, a, b when the path is below the root. */
static int on_fd(int fd, enum op op, uint32_t flags, uint64_t a, uint64_t b, long number, long x, long y, long z)
{
    char *path = path_of(fd);
    if (path != NULL && faulty(op == SYNC || op == SYNCFS ? ON_SYNC : ON_SIZE)) {
        free(path);
        return refuse();
    }
    const uint64_t call = path != NULL ? count_call() : 0;
    die(call, 0);
    const uint64_t began = stand();
    const int result = (int)syscall(number, (long)fd, x, y, z);
    if (result == 0 && path != NULL)
        record(op, flags, op == SYNC || op == SYNCFS ? began : a, b, path, NULL, NULL, 0, 0);
    free(path);
    die(call, 1);
    return result;
}

int ftruncate(int fd, off_t size) { return on_fd(fd, TRUNCATE, 0, (uint64_t)size, 0, SYS_ftruncate, size, 0, 0); }
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
int fallocate(int fd, int mode, off_t position, off_t size)
{
    return on_fd(fd, ALLOCATE, (mode & FALLOC_FL_KEEP_SIZE) ? FLAG_KEEP_SIZE : 0u, (uint64_t)position, (uint64_t)size,
                 SYS_fallocate, mode, position, size);
}
int fallocate64(int fd, int mode, off64_t position, off64_t size) { return fallocate(fd, mode, position, size); }
int posix_fallocate(int fd, off_t position, off_t size) { return fallocate(fd, 0, position, size) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t position, off64_t size) { return posix_fallocate(fd, position, size); }

static uint32_t directory_flag(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? FLAG_DIRECTORY : 0u;
}
int fsync(int fd) { return on_fd(fd, SYNC, directory_flag(fd), 0, 0, SYS_fsync, 0, 0, 0); }
int fdatasync(int fd) { return on_fd(fd, SYNC, directory_flag(fd), 0, 0, SYS_fdatasync, 0, 0, 0); }
int syncfs(int fd) { return on_fd(fd, SYNCFS, 0, 0, 0, SYS_syncfs, 0, 0, 0); }

/* Descriptors of a renamed file, and of files in a renamed directory, go by their new names. */
static void follow_rename(const char *from, const char *to)
{
    const size_t n = strlen(from);
    pthread_mutex_lock(&lock);
    for (int fd = 0; fd < FDS; fd++) {
        char *old = fd_path[fd], moved[PATH_MAX * 2];
        if (old == NULL || strncmp(old, from, n) != 0 || (old[n] != '\0' && old[n] != '/'))
            continue;
        snprintf(moved, sizeof moved, "%s%s", to, old + n);
        fd_path[fd] = strdup(moved);
        free(old);
    }
    pthread_mutex_unlock(&lock);
}

/* A call on one or two names. */
static int on_names(enum op op, int dir, const char *name, int other_dir, const char *other, uint64_t a, long number,
                    long v, long w, long x, long y, long z)
{
    char *path = below(dir, name), *second = other != NULL ? below(other_dir, other) : NULL;
    if ((path != NULL || second != NULL) && faulty(op == UNLINK || op == RMDIR ? ON_REMOVE : ON_NAMES)) {
        free(path);
        free(second);
        return refuse();
    }
    const uint64_t call = path != NULL || second != NULL ? count_call() : 0;
    die(call, 0);
    const int result = (int)syscall(number, v, w, x, y, z);
    if (result == 0 && path != NULL) {
        record(op, 0, a, 0, path, second, NULL, 0, 0);
        if (op == RENAME && second != NULL)
            follow_rename(path, second);
    }
    free(path);
    free(second);
    die(call, 1);
    return result;
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    return on_names(RENAME, a, from, b, to, 0, SYS_renameat2, a, (long)from, b, (long)to, flags);
}
int renameat(int a, const char *from, int b, const char *to) { return renameat2(a, from, b, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags)
{
    return on_names(LINK, a, from, b, to, 0, SYS_linkat, a, (long)from, b, (long)to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlinkat(int dir, const char *name, int flags)
{
    return on_names(flags & AT_REMOVEDIR ? RMDIR : UNLINK, dir, name, 0, NULL, 0, SYS_unlinkat, dir, (long)name, flags,
                    0, 0);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int mkdirat(int dir, const char *name, mode_t mode)
{
    return on_names(MKDIR, dir, name, 0, NULL, mode, SYS_mkdirat, dir, (long)name, mode, 0, 0);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
