/* io.h -- the one seam between the core and files: a table of write-family calls and reads.
 * Invariants:
 *   I1  data is written by these calls only, never through a writable mapping: so that a faulty table can tear,
 *       shorten, refuse or forget any of them, and a recorder sees them all.
 *   I2  `write_all`/`read_all` helpers below retry EINTR and short transfers; the table's own calls do not.
 *   I3  a failed fsync is final for its descriptor: Linux marks the failed pages clean, a second call proves nothing.
 *       The owner of the descriptor keeps a failed flag; this layer never retries an fsync. */
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
    int (*ftruncate)(mq_io *io, int fd, off_t size);
    int (*fallocate)(mq_io *io, int fd, off_t position, off_t size); /* KEEP_SIZE: i_size does not move */
    int (*rename)(mq_io *io, const char *from, const char *to);
    int (*link)(mq_io *io, const char *from, const char *to);
    int (*unlink)(mq_io *io, const char *path);
    int (*mkdir)(mq_io *io, const char *path, mode_t mode);
    int (*rmdir)(mq_io *io, const char *path);
};

/* The machine's own calls (io_posix.c): a constant table, shared by all. */
const mq_io *mq_io_posix(void);

/* pwrite/pread everything: EINTR and short transfers are retried; MQ_EIO with errno and path otherwise.
 * On an error any prefix may have been written.  mq_io_read_all: MQ_ETRUNCATED at end of file. */
mq_status mq_io_write_all(mq_io *io, int fd, const void *bytes, size_t size, uint64_t position, const char *path,
                          mq_error *err);
mq_status mq_io_read_all(mq_io *io, int fd, void *bytes, size_t size, uint64_t position, const char *path,
                         mq_error *err);
/* Open a directory, fsync it, close it: what makes a created, renamed or removed name durable. */
mq_status mq_io_sync_dir(mq_io *io, const char *path, mq_error *err);

/* A table that counts write-family calls and fails chosen ones (io_fault.c). See io_fault.h. */

#endif
