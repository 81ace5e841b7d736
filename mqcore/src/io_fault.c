#include "mqcore/io_fault.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

typedef enum verdict { PASS, FAIL, SHORTEN } verdict;

static const char *const names[MQ_CALL_COUNT] = {
    "open",      "open_read", "pread",  "pwritev", "fdatasync", "fsync", "syncfs",
    "ftruncate", "fallocate", "rename", "link",    "unlink",    "mkdir", "rmdir",
};

const char *mq_io_fault_name(int call)
{
    return call >= 0 && call < MQ_CALL_COUNT ? names[call] : NULL;
}

static mq_io_fault *of(mq_io *io)
{
    return (mq_io_fault *)(void *)io;
}

static void pause_us(unsigned us)
{
    const struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* Count a call, and say what happens to it. FAIL and SHORTEN leave errno set. */
static verdict judge(mq_io_fault *fault, mq_io_call call)
{
    atomic_fetch_add(&fault->calls[call], 1);
    if (fault->only != 0 && (fault->only & (1u << call)) == 0)
        return PASS;
    long long left = atomic_load(&fault->countdown);
    do {
        if (left == 0)
            return PASS;
        if (left < 0)
            break; /* sticky */
    } while (!atomic_compare_exchange_weak(&fault->countdown, &left, left > 1 ? left - 1 : (fault->sticky ? -1 : 0)));
    if (left > 1)
        return PASS;
    atomic_fetch_add(&fault->fired, 1);
    if (fault->delay_us > 0)
        pause_us(fault->delay_us);
    errno = fault->error;
    if (fault->short_bytes >= 0 && (call == MQ_CALL_PWRITEV || call == MQ_CALL_PREAD))
        return SHORTEN;
    return fault->error != 0 ? FAIL : PASS;
}

static int fault_open(mq_io *io, const char *path, int flags, mode_t mode)
{
    mq_io_fault *fault = of(io);
    const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
    if (judge(fault, writes ? MQ_CALL_OPEN : MQ_CALL_OPEN_READ) == FAIL)
        return -1;
    return fault->base->open(fault->base, path, flags, mode);
}

static int fault_close(mq_io *io, int fd)
{
    return of(io)->base->close(of(io)->base, fd);
}

static ssize_t fault_pread(mq_io *io, int fd, void *bytes, size_t size, off_t position)
{
    mq_io_fault *fault = of(io);
    const verdict v = judge(fault, MQ_CALL_PREAD);
    if (v == FAIL)
        return -1;
    if (v == PASS)
        return fault->base->pread(fault->base, fd, bytes, size, position);
    if (fault->error != 0)
        return -1;
    const size_t first = (size_t)fault->short_bytes < size ? (size_t)fault->short_bytes : size;
    return fault->base->pread(fault->base, fd, bytes, first, position);
}

static bool syncs(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC) != 0;
}

static ssize_t fault_pwritev(mq_io *io, int fd, const struct iovec *parts, int count, off_t position)
{
    mq_io_fault *fault = of(io);
    const verdict v = judge(fault, MQ_CALL_PWRITEV);
    if (v == FAIL || (v == PASS && syncs(fd) && judge(fault, MQ_CALL_FDATASYNC) == FAIL))
        return -1;
    if (v == PASS)
        return fault->base->pwritev(fault->base, fd, parts, count, position);
    /* A torn write: some bytes reach the file, and then the call fails or, with error 0, returns short. */
    const int error = fault->error;
    size_t left = (size_t)fault->short_bytes;
    ssize_t total = 0;
    for (int i = 0; i < count && left > 0; i++) {
        const struct iovec part = {parts[i].iov_base, parts[i].iov_len < left ? parts[i].iov_len : left};
        const ssize_t wrote = fault->base->pwritev(fault->base, fd, &part, 1, position + total);
        if (wrote < 0)
            return -1;
        total += wrote;
        left -= (size_t)wrote;
        if ((size_t)wrote < part.iov_len)
            break;
    }
    errno = error;
    return error != 0 ? -1 : total;
}

static int fault_fdatasync(mq_io *io, int fd)
{
    return judge(of(io), MQ_CALL_FDATASYNC) == FAIL ? -1 : of(io)->base->fdatasync(of(io)->base, fd);
}

static int fault_fsync(mq_io *io, int fd)
{
    return judge(of(io), MQ_CALL_FSYNC) == FAIL ? -1 : of(io)->base->fsync(of(io)->base, fd);
}

static int fault_syncfs(mq_io *io, int fd)
{
    return judge(of(io), MQ_CALL_SYNCFS) == FAIL ? -1 : of(io)->base->syncfs(of(io)->base, fd);
}

static int fault_ftruncate(mq_io *io, int fd, off_t size)
{
    return judge(of(io), MQ_CALL_FTRUNCATE) == FAIL ? -1 : of(io)->base->ftruncate(of(io)->base, fd, size);
}

static int fault_fallocate(mq_io *io, int fd, off_t position, off_t size)
{
    return judge(of(io), MQ_CALL_FALLOCATE) == FAIL ? -1 : of(io)->base->fallocate(of(io)->base, fd, position, size);
}

static int fault_rename(mq_io *io, const char *from, const char *to)
{
    return judge(of(io), MQ_CALL_RENAME) == FAIL ? -1 : of(io)->base->rename(of(io)->base, from, to);
}

static int fault_link(mq_io *io, const char *from, const char *to)
{
    return judge(of(io), MQ_CALL_LINK) == FAIL ? -1 : of(io)->base->link(of(io)->base, from, to);
}

static int fault_unlink(mq_io *io, const char *path)
{
    return judge(of(io), MQ_CALL_UNLINK) == FAIL ? -1 : of(io)->base->unlink(of(io)->base, path);
}

static int fault_mkdir(mq_io *io, const char *path, mode_t mode)
{
    return judge(of(io), MQ_CALL_MKDIR) == FAIL ? -1 : of(io)->base->mkdir(of(io)->base, path, mode);
}

static int fault_rmdir(mq_io *io, const char *path)
{
    return judge(of(io), MQ_CALL_RMDIR) == FAIL ? -1 : of(io)->base->rmdir(of(io)->base, path);
}

void mq_io_fault_init(mq_io_fault *fault, mq_io *base)
{
    fault->io = (mq_io){
        .open = fault_open,
        .close = fault_close,
        .pread = fault_pread,
        .pwritev = fault_pwritev,
        .fdatasync = fault_fdatasync,
        .fsync = fault_fsync,
        .syncfs = fault_syncfs,
        .ftruncate = fault_ftruncate,
        .fallocate = fault_fallocate,
        .rename = fault_rename,
        .link = fault_link,
        .unlink = fault_unlink,
        .mkdir = fault_mkdir,
        .rmdir = fault_rmdir,
    };
    fault->base = base;
    for (int i = 0; i < MQ_CALL_COUNT; i++)
        atomic_init(&fault->calls[i], 0);
    atomic_init(&fault->fired, 0);
    atomic_init(&fault->countdown, 0);
    mq_io_fault_disarm(fault);
}

void mq_io_fault_arm(mq_io_fault *fault, long long at, int error, long long short_bytes, bool sticky, unsigned only,
                     unsigned delay_us)
{
    fault->error = error;
    fault->short_bytes = short_bytes;
    fault->sticky = sticky;
    fault->only = only;
    fault->delay_us = delay_us;
    atomic_store(&fault->countdown, at > 0 ? at : 0); /* last: seq_cst publishes the rest */
}

void mq_io_fault_disarm(mq_io_fault *fault)
{
    mq_io_fault_arm(fault, 0, 0, -1, false, 0, 0);
}

long long mq_io_fault_calls(const mq_io_fault *fault)
{
    long long total = 0;
    for (int i = 0; i < MQ_CALL_COUNT; i++)
        total += atomic_load(&fault->calls[i]);
    return total;
}
