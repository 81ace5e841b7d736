/* io.h -- the one seam between the core and files: a table of write-family calls and reads.
 * Invariants:
 *   I1  data is written by these calls only, never through a writable mapping: so that a faulty table can tear,
 *       shorten, refuse or forget any of them, and a recorder sees them all.
 *   I2  `write_all`/`read_all` helpers below retry EINTR and short transfers; the table's own calls do not.
 *   I3  a failed fsync is final for its descriptor: Linux marks the failed pages clean, a second call proves nothing.
 *       The owner of the descriptor keeps a failed flag; this layer never retries an fsync.
 *   I4  every open has O_NOFOLLOW and O_CLOEXEC: a symlink in a store is refused, a child inherits nothing. */
#ifndef MQCORE_IO_H
#define MQCORE_IO_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "mqcore/status.h"

typedef struct mq_io mq_io;

struct mq_io {
    int (*open)(mq_io *io, const char *path, int flags, mode_t mode);
    int (*close)(mq_io *io, int fd);
    ssize_t (*pread)(mq_io *io, int fd, void *bytes, size_t size, off_t position);
    ssize_t (*pwritev)(mq_io *io, int fd, const struct iovec *parts, int count, off_t position);
    int (*fdatasync)(mq_io *io, int fd);
    int (*fsync)(mq_io *io, int fd);
    int (*syncfs)(mq_io *io, int fd); /* everything of the file system that fd lies in */
    int (*ftruncate)(mq_io *io, int fd, off_t size);
    int (*fallocate)(mq_io *io, int fd, off_t position, off_t size); /* KEEP_SIZE: i_size does not move */
    int (*rename)(mq_io *io, const char *from, const char *to);
    int (*link)(mq_io *io, const char *from, const char *to);
    int (*unlink)(mq_io *io, const char *path);
    int (*mkdir)(mq_io *io, const char *path, mode_t mode);
    int (*rmdir)(mq_io *io, const char *path);
};

/* The machine's own calls (io_posix.c): a constant table, shared by all; nobody writes to it. */
mq_io *mq_io_posix(void);

/* Open with I4; EINTR is retried. fd: out. MQ_EIO with errno and path. */
mq_status mq_io_open(mq_io *io, const char *path, int flags, mode_t mode, int *fd, mq_error *err);
/* Close; a failed close of a descriptor whose data was synced, or only read, proves nothing and is not reported. */
void mq_io_close(mq_io *io, int fd);

/* pwrite/pread everything: EINTR and short transfers are retried; MQ_EIO with errno and path otherwise.
 * On an error any prefix may have been written.  mq_io_read_all: MQ_ETRUNCATED at end of file. */
mq_status mq_io_write_all(mq_io *io, int fd, const void *bytes, size_t size, uint64_t position, const char *path,
                          mq_error *err);
mq_status mq_io_read_all(mq_io *io, int fd, void *bytes, size_t size, uint64_t position, const char *path,
                         mq_error *err);
/* pread until `size` bytes or the end of the file; `got`: out, how many there were. */
mq_status mq_io_read_some(mq_io *io, int fd, void *bytes, size_t size, uint64_t position, size_t *got, const char *path,
                          mq_error *err);

/* Size in bytes of an open file. */
mq_status mq_io_size(int fd, uint64_t *size, const char *path, mq_error *err);
/* Set the size of an open file; not durable until it is synced. */
mq_status mq_io_resize(mq_io *io, int fd, uint64_t size, const char *path, mq_error *err);

/* Open a directory, fsync it, close it: what makes a created, renamed or removed name durable. */
mq_status mq_io_sync_dir(mq_io *io, const char *path, mq_error *err);

/* Replace path as a whole: <path>.tmp is written and renamed over it; on an error path is as before and the
 * temporary file is gone, as far as the disk allows.  durable: the file is fsynced before the rename and its
 * directory after it (if that one fails, the new content is there and may not last); else the caller syncs (many
 * files at once: syncfs). */
mq_status mq_io_write_atomic(mq_io *io, const char *path, const void *bytes, size_t size, mode_t mode, bool durable,
                             mq_error *err);

/* A table that counts calls and fails, shortens or delays chosen ones: io_fault.h. */

#endif
