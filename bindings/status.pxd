# status.pxd -- a core status becomes an exception, in one function. Inline: no module is imported for it.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "mqcore/status.h" nogil:
    ctypedef enum mq_status:
        MQ_OK
        MQ_EINVAL
        MQ_ENOMEM
        MQ_EIO
        MQ_EFULL
        MQ_ETOOBIG
        MQ_ETRUNCATED
        MQ_ECRC
        MQ_ECORRUPT
        MQ_EUNSUPPORTED
        MQ_ENOTFOUND
        MQ_ESTATE
    ctypedef struct mq_error:
        mq_status status
        int sys_errno
        uint64_t position
        int64_t offset
        char[120] what
        char[400] path
    const char *mq_status_name(mq_status status)
    mq_status mq_fail(mq_error *err, mq_status status, const char *path, uint64_t position, const char *what)


cdef inline int raise_status(mq_status status, mq_error *err) except -1:
    """Raise the exception of mqcore.errors for a status other than MQ_OK; err must be filled (mq_fail)."""
    from mqcore._native._errors import error_of
    raise error_of((<bytes>mq_status_name(status)).decode(), err.sys_errno, err.position, err.offset,
                   (<bytes>err.what).decode("utf-8", "replace"), (<bytes>err.path).decode("utf-8", "surrogateescape"))
