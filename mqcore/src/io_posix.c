#include "mqcore/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mqcore/limits.h"

/* One pread or pwrite moves at most 0x7ffff000 bytes on Linux; staying below keeps the loop's steps aligned. */
#define STEP_BYTES_MAX ((size_t)1 << 30)

static int posix_open(mq_io *io, const char *path, int flags, mode_t mode)
{
    (void)io;
    return open(path, flags | O_NOFOLLOW | O_CLOEXEC, mode);
}

static int posix_close(mq_io *io, int fd)
{
    (void)io;
    return close(fd);
}

static ssize_t posix_pread(mq_io *io, int fd, void *bytes, size_t size, off_t position)
{
    (void)io;
    return pread(fd, bytes, size, position);
}

static ssize_t posix_pwritev(mq_io *io, int fd, const struct iovec *parts, int count, off_t position)
{
    (void)io;
    if (count == 1)
        return pwrite(fd, parts[0].iov_base, parts[0].iov_len, position);
    return pwritev(fd, parts, count, position);
}

static int posix_fdatasync(mq_io *io, int fd)
{
    (void)io;
    return fdatasync(fd);
}

static int posix_fsync(mq_io *io, int fd)
{
    (void)io;
    return fsync(fd);
}

static int posix_syncfs(mq_io *io, int fd)
{
    (void)io;
    return syncfs(fd);
}

static int posix_ftruncate(mq_io *io, int fd, off_t size)
{
    (void)io;
    return ftruncate(fd, size);
}

static int posix_fallocate_keep(mq_io *io, int fd, off_t position, off_t size)
{
    (void)io;
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, position, size);
}

static int posix_rename(mq_io *io, const char *from, const char *to)
{
    (void)io;
    return rename(from, to);
}

static int posix_link(mq_io *io, const char *from, const char *to)
{
    (void)io;
    return link(from, to);
}

static int posix_unlink(mq_io *io, const char *path)
{
    (void)io;
    return unlink(path);
}

static int posix_mkdir(mq_io *io, const char *path, mode_t mode)
{
    (void)io;
    return mkdir(path, mode);
}

static int posix_rmdir(mq_io *io, const char *path)
{
    (void)io;
    return rmdir(path);
}

static const mq_io posix_table = {
    .open = posix_open,
    .close = posix_close,
    .pread = posix_pread,
    .pwritev = posix_pwritev,
    .fdatasync = posix_fdatasync,
    .fsync = posix_fsync,
    .syncfs = posix_syncfs,
    .ftruncate = posix_ftruncate,
    .fallocate = posix_fallocate_keep,
    .rename = posix_rename,
    .link = posix_link,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .rmdir = posix_rmdir,
};

mq_io *mq_io_posix(void)
{
    return (mq_io *)&posix_table; /* callers take mq_io *: other tables have state; this one is never written */
}

mq_status mq_io_open(mq_io *io, const char *path, int flags, mode_t mode, int *fd, mq_error *err)
{
    do
        *fd = io->open(io, path, flags, mode);
    while (*fd < 0 && errno == EINTR);
    if (*fd >= 0)
        return MQ_OK;
    return mq_fail(err, MQ_EIO, path, 0, errno == ELOOP ? "open: a symbolic link is refused" : "open");
}

void mq_io_close(mq_io *io, int fd)
{
    const int saved = errno; /* callers close on their way out of an error */
    if (fd >= 0)
        (void)io->close(io, fd);
    errno = saved;
}

mq_status mq_io_write_all(mq_io *io, int fd, const void *bytes, size_t size, uint64_t position, const char *path,
                          mq_error *err)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        const struct iovec part = {(void *)at, size < STEP_BYTES_MAX ? size : STEP_BYTES_MAX};
        const ssize_t wrote = io->pwritev(io, fd, &part, 1, (off_t)position);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote == 0)
            errno = EIO; /* a disk that takes nothing and says nothing: an endless loop otherwise */
        if (wrote <= 0)
            return mq_fail(err, MQ_EIO, path, position, "write");
        at += wrote;
        size -= (size_t)wrote;
        position += (uint64_t)wrote;
    }
    return MQ_OK;
}

mq_status mq_io_read_some(mq_io *io, int fd, void *bytes, size_t size, uint64_t position, size_t *got, const char *path,
                          mq_error *err)
{
    uint8_t *at = bytes;
    *got = 0;
    while (*got < size) {
        const size_t left = size - *got;
        const ssize_t read =
            io->pread(io, fd, at + *got, left < STEP_BYTES_MAX ? left : STEP_BYTES_MAX, (off_t)(position + *got));
        if (read < 0 && errno == EINTR)
            continue;
        if (read < 0)
            return mq_fail(err, MQ_EIO, path, position + *got, "read");
        if (read == 0)
            break;
        *got += (size_t)read;
    }
    return MQ_OK;
}

mq_status mq_io_read_all(mq_io *io, int fd, void *bytes, size_t size, uint64_t position, const char *path,
                         mq_error *err)
{
    size_t got = 0;
    const mq_status status = mq_io_read_some(io, fd, bytes, size, position, &got, path, err);
    if (status == MQ_OK && got < size)
        return mq_fail(err, MQ_ETRUNCATED, path, position + got, "the file ends early");
    return status;
}

mq_status mq_io_size(int fd, uint64_t *size, const char *path, mq_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return mq_fail(err, MQ_EIO, path, 0, "fstat");
    *size = (uint64_t)st.st_size;
    return MQ_OK;
}

mq_status mq_io_resize(mq_io *io, int fd, uint64_t size, const char *path, mq_error *err)
{
    int result;
    do
        result = io->ftruncate(io, fd, (off_t)size);
    while (result != 0 && errno == EINTR);
    return result == 0 ? MQ_OK : mq_fail(err, MQ_EIO, path, size, "ftruncate");
}

mq_status mq_io_sync_dir(mq_io *io, const char *path, mq_error *err)
{
    int fd;
    mq_status status = mq_io_open(io, path, O_RDONLY | O_DIRECTORY, 0, &fd, err);
    if (status != MQ_OK)
        return status;
    if (io->fsync(io, fd) != 0)
        status = mq_fail(err, MQ_EIO, path, 0, "fsync of a directory");
    mq_io_close(io, fd);
    return status;
}

/* The directory of path, "." where it has none; false if it does not fit. */
static bool parent_of(const char *path, char *parent, size_t size)
{
    const char *slash = strrchr(path, '/');
    const int written = slash == NULL   ? snprintf(parent, size, ".")
                        : slash == path ? snprintf(parent, size, "/")
                                        : snprintf(parent, size, "%.*s", (int)(slash - path), path);
    return written >= 0 && (size_t)written < size;
}

mq_status mq_io_write_atomic(mq_io *io, const char *path, const void *bytes, size_t size, mode_t mode, bool durable,
                             mq_error *err)
{
    char temporary[MQ_PATH_MAX];
    char parent[MQ_PATH_MAX];
    const int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (length < 0 || (size_t)length >= sizeof temporary || !parent_of(path, parent, sizeof parent))
        return mq_fail(err, MQ_EINVAL, path, 0, "the path is too long");
    int fd;
    mq_status status = mq_io_open(io, temporary, O_WRONLY | O_CREAT | O_TRUNC, mode, &fd, err);
    if (status != MQ_OK)
        return status;
    status = mq_io_write_all(io, fd, bytes, size, 0, temporary, err);
    if (status == MQ_OK && durable && io->fsync(io, fd) != 0)
        status = mq_fail(err, MQ_EIO, temporary, 0, "fsync");
    mq_io_close(io, fd);
    if (status == MQ_OK && io->rename(io, temporary, path) != 0)
        status = mq_fail(err, MQ_EIO, path, 0, "rename");
    if (status != MQ_OK) {
        (void)io->unlink(io, temporary); /* err has the first cause; a leftover is overwritten by the next call */
        return status;
    }
    return durable ? mq_io_sync_dir(io, parent, err) : MQ_OK;
}
