# borrow.pxd -- the bytes of any bytes-like argument, without a copy and, for bytes objects, without a buffer request.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

# A buffer that an object holds for as long as it lives. In a struct, because the collector sees (and clears) the obj of a
# plain Py_buffer: the exporter would then be cleared while its buffer is out, which kills the process in a memoryview.
ctypedef struct HeldView:
    Py_buffer buffer

ctypedef struct Borrowed:
    const uint8_t *bytes
    size_t size
    bint exported  # view is held
    Py_buffer view


cdef inline int borrow(object data, Borrowed *b) except -1:
    """Fill b; TypeError if data exports no contiguous buffer. give_back(b) must follow, also after an error later on."""
    if PyBytes_CheckExact(data):
        b.exported = False
        b.bytes = <const uint8_t *>PyBytes_AS_STRING(data)
        b.size = <size_t>PyBytes_GET_SIZE(data)
        return 0
    PyObject_GetBuffer(data, &b.view, PyBUF_SIMPLE)
    b.exported = True
    b.bytes = <const uint8_t *>b.view.buf
    b.size = <size_t>b.view.len
    return 0


cdef inline void give_back(Borrowed *b) noexcept:
    if b.exported:
        PyBuffer_Release(&b.view)
