# io_c.pxd -- io.h, io_fault.h: declarations only. (A file io.pxd would belong to io.pyx and be imported at run time.)
from libc.stdint cimport uint8_t, uint64_t
from status cimport mq_error, mq_status

cdef extern from "<sys/types.h>" nogil:
    ctypedef unsigned int mode_t
    ctypedef long long off_t

cdef extern from "mqcore/io.h" nogil:
    ctypedef struct mq_io:
        int (*fdatasync)(mq_io *, int) noexcept nogil
        int (*fsync)(mq_io *, int) noexcept nogil
        int (*syncfs)(mq_io *, int) noexcept nogil
        int (*rename)(mq_io *, const char *, const char *) noexcept nogil
        int (*link)(mq_io *, const char *, const char *) noexcept nogil
        int (*unlink)(mq_io *, const char *) noexcept nogil
        int (*mkdir)(mq_io *, const char *, mode_t) noexcept nogil
        int (*rmdir)(mq_io *, const char *) noexcept nogil
    mq_io *mq_io_posix()
    mq_status mq_io_open(mq_io *io, const char *path, int flags, mode_t mode, int *fd, mq_error *err)
    void mq_io_close(mq_io *io, int fd)
    mq_status mq_io_read_some(mq_io *io, int fd, void *data, size_t size, uint64_t position, size_t *got,
                              const char *path, mq_error *err)
    mq_status mq_io_write_all(mq_io *io, int fd, const void *data, size_t size, uint64_t position, const char *path,
                              mq_error *err)
    mq_status mq_io_size(int fd, uint64_t *size, const char *path, mq_error *err)
    mq_status mq_io_resize(mq_io *io, int fd, uint64_t size, const char *path, mq_error *err)
    mq_status mq_io_sync_dir(mq_io *io, const char *path, mq_error *err)
    mq_status mq_io_write_atomic(mq_io *io, const char *path, const void *data, size_t size, mode_t mode,
                                 bint durable, mq_error *err)

cdef extern from "mqcore/io_fault.h" nogil:
    ctypedef struct mq_io_fault:
        mq_io io
        long long fired
    void mq_io_fault_init(mq_io_fault *fault, mq_io *base)
    void mq_io_fault_arm(mq_io_fault *fault, long long at, int error, long long short_bytes, bint sticky,
                         unsigned only, unsigned delay_us)
    void mq_io_fault_disarm(mq_io_fault *fault)
    long long mq_io_fault_calls(const mq_io_fault *fault)
    const char *mq_io_fault_name(int call)
