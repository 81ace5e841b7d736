"""Byte ranges of a buffer in Arrow's layouts: gathered into one buffer, or as views that share the buffer.

Invariants:
    1. Every range is checked against the buffer before its bytes are touched: the arrays may come from anywhere.
    2. The result is new memory; only views refer to the buffer given, by position.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t

import numpy as np

from core_batch cimport MQ_ARROW_VIEW, mq_arrow_gather, mq_arrow_size, mq_arrow_validity, mq_arrow_views


@cython.internal
@cython.final
@cython.no_gc  # the collector would clear a view's obj without releasing the buffer
cdef class Ranges:
    """The three buffers of a column, held and checked."""

    cdef Py_buffer data, start_view, length_view, target
    cdef int held
    cdef Py_ssize_t count
    cdef const uint8_t *bytes
    cdef const int64_t *starts
    cdef const int32_t *lengths

    def __dealloc__(self):
        if self.held > 3:
            PyBuffer_Release(&self.target)
        if self.held > 2:
            PyBuffer_Release(&self.length_view)
        if self.held > 1:
            PyBuffer_Release(&self.start_view)
        if self.held > 0:
            PyBuffer_Release(&self.data)

    cdef int hold(self, object buffer, object starts, object lengths) except -1:
        PyObject_GetBuffer(buffer, &self.data, PyBUF_SIMPLE)
        self.held = 1
        PyObject_GetBuffer(starts, &self.start_view, PyBUF_SIMPLE)
        self.held = 2
        PyObject_GetBuffer(lengths, &self.length_view, PyBUF_SIMPLE)
        self.held = 3
        self.count = self.length_view.len // 4
        if self.start_view.len != self.count * 8 or self.length_view.len != self.count * 4:
            raise ValueError("starts must be int64, lengths int32, and as many of both")
        self.bytes = <const uint8_t *>self.data.buf
        self.starts, self.lengths = <const int64_t *>self.start_view.buf, <const int32_t *>self.length_view.buf
        return 0

    cdef int inside(self, Py_ssize_t low, Py_ssize_t high) except -1:
        """Every range that is not null lies in [low, high) of the buffer."""
        cdef Py_ssize_t i
        cdef bint good = 0 <= low <= high <= self.data.len
        for i in range(self.count):
            good &= self.lengths[i] < 0 or low <= self.starts[i] <= high - self.lengths[i]
        if not good:
            raise ValueError("a range is not inside the buffer")
        return 0

    cdef uint8_t *into(self, object array) except NULL:
        PyObject_GetBuffer(array, &self.target, PyBUF_WRITABLE)
        self.held = 4
        return <uint8_t *>self.target.buf


def gather(buffer, starts, lengths):
    cdef Ranges r = Ranges.__new__(Ranges)
    cdef Py_buffer position_view
    cdef uint8_t *to
    r.hold(buffer, starts, lengths)
    r.inside(0, r.data.len)
    data = np.empty(mq_arrow_size(r.lengths, r.count) + 1, np.uint8)  # + 1: an empty array has no usable address
    positions = np.empty(r.count + 1, np.int64)
    to = r.into(data)
    PyObject_GetBuffer(positions, &position_view, PyBUF_WRITABLE)
    with nogil:
        mq_arrow_gather(r.bytes, r.starts, r.lengths, r.count, to, <int64_t *>position_view.buf)
    PyBuffer_Release(&position_view)
    return data[:-1], positions


def views(buffer, starts, lengths, Py_ssize_t low, Py_ssize_t high):
    cdef Ranges r = Ranges.__new__(Ranges)
    cdef uint8_t *to
    r.hold(buffer, starts, lengths)
    if high - low > 0x7fffffff:
        raise ValueError("a binary view reaches 2 GiB at most")
    r.inside(low, high)
    result = np.empty(r.count * MQ_ARROW_VIEW + 1, np.uint8)
    to = r.into(result)
    with nogil:
        mq_arrow_views(r.bytes, r.starts, r.lengths, r.count, low, to)
    return result[:-1]


def validity(lengths):
    cdef Ranges r = Ranges.__new__(Ranges)
    cdef size_t nulls
    r.hold(b"", np.empty(len(lengths), np.int64), lengths)
    bits = np.empty((r.count + 7) // 8 + 1, np.uint8)
    nulls = mq_arrow_validity(r.lengths, r.count, r.into(bits))
    return (None if nulls == 0 else bits[:-1]), nulls
