# dedup_inputs.pxd -- what both kinds of dedup windows take and raise.
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport free

from borrow cimport Borrowed, borrow, give_back
from status cimport MQ_EFULL, mq_error, mq_status, raise_status


cdef inline int raise_full(mq_status status, mq_error *err, size_t done, size_t max_bytes) except -1:
    if status == MQ_EFULL:
        from mqcore.errors import WindowFullError
        raise WindowFullError((<bytes>err.what).decode(), hint="Expire ids, or give the window more memory",
                              done=done, max_bytes=max_bytes)
    raise_status(status, err)


cdef inline object taken(uint8_t *bytes, size_t size):
    """A bytes object of malloc'd bytes, which are freed."""
    try:
        return PyBytes_FromStringAndSize(<char *>bytes, <Py_ssize_t>size)
    finally:
        free(bytes)


cdef inline int borrow_ids(object ids, Py_buffer *view) except -1:
    """A contiguous buffer of 8-byte integers; PyBuffer_Release(view) must follow."""
    PyObject_GetBuffer(ids, view, PyBUF_CONTIG_RO | PyBUF_FORMAT)
    cdef const char *format = view.format
    if format != NULL and (format[0] == c"<" or format[0] == c"="):
        format += 1
    if view.itemsize != 8 or format == NULL or format[0] not in b"QLql":
        PyBuffer_Release(view)
        raise TypeError("ids must be a contiguous buffer of 64-bit integers, such as a numpy uint64 array")
    return 0


cdef inline int borrow_id(object id, Borrowed *b) except -1:
    borrow(id, b)
    if b.size != 16:
        give_back(b)
        raise ValueError("a 128-bit id is 16 bytes")
    return 0


cdef inline int borrow_many(object ids, Borrowed *b) except -1:
    borrow(ids, b)
    if b.size % 16 != 0:
        give_back(b)
        raise ValueError("ids must be a multiple of 16 bytes")
    return 0
