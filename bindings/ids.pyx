"""The message ids of records that were read. See ids.pyi."""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from borrow cimport Borrowed, borrow, give_back
from core_batch cimport mq_header, mq_header_count, mq_header_next

import numpy as np

from mqcore.errors import CorruptBatchError

HEADER = "mqcore.id"

cdef extern from "mqcore/wire.h" nogil:
    uint64_t mq_load_be64(const uint8_t *p)

cdef enum:
    HEAD = 12  # header count, length of the name, the name, length of the id: one byte each but for the name
    NAME = 9

cdef const uint8_t *HEAD_64 = <const uint8_t *>b"\x02\x12mqcore.id\x10"
cdef const uint8_t *HEAD_128 = <const uint8_t *>b"\x02\x12mqcore.id\x20"


cdef inline const uint8_t *slow_find(const uint8_t *at, const uint8_t *end, int32_t *width) except? NULL:
    """The id among a record's headers; width 0 if there is none."""
    cdef mq_header h
    cdef int32_t count = 0
    cdef bint fits = mq_header_count(&at, end, &count)
    width[0] = 0
    while fits and count > 0:
        fits = mq_header_next(&at, end, &h)
        if (fits and h.key_length == NAME and (h.value_length == 8 or h.value_length == 16)
                and memcmp(h.key, HEAD_64 + 2, NAME) == 0):
            width[0] = h.value_length
            return h.value
        count -= 1
    if not fits:
        raise CorruptBatchError("a batch changed while it was read")
    return at


def find(columns, *, Py_ssize_t width):
    cdef Borrowed data, starts, lengths
    cdef Py_buffer id_view, at_view
    cdef Py_ssize_t n = len(columns), i, found = 0
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef const uint8_t *wanted = HEAD_64 if width == 8 else HEAD_128
    cdef int32_t got
    cdef uint8_t *ids
    cdef int64_t *places_
    if width != 8 and width != 16:
        raise ValueError("an id has 8 or 16 bytes")
    id_array, at_array = np.empty(n * width // 8, np.uint64), np.empty(n, np.int64)
    borrow(columns.buffer, &data)
    borrow(columns.value_starts, &starts)
    borrow(columns.value_lengths, &lengths)
    PyObject_GetBuffer(id_array, &id_view, PyBUF_WRITABLE)
    PyObject_GetBuffer(at_array, &at_view, PyBUF_WRITABLE)
    ids, places_, end = <uint8_t *>id_view.buf, <int64_t *>at_view.buf, data.bytes + data.size
    try:
        for i in range(n):
            at = data.bytes + (<const int64_t *>starts.bytes)[i] + max((<const int32_t *>lengths.bytes)[i], 0)
            if end - at >= HEAD + width and memcmp(at, wanted, HEAD) == 0:
                at += HEAD
            elif at < end and at[0] == 0:  # no headers
                continue
            else:
                at = slow_find(at, end, &got)
                if got != width:
                    continue
            if width == 8:
                (<uint64_t *>ids)[found] = mq_load_be64(at)
            else:
                memcpy(ids + found * 16, at, 16)
            places_[found] = i
            found += 1
    finally:
        PyBuffer_Release(&id_view)
        PyBuffer_Release(&at_view)
        give_back(&data)
        give_back(&starts)
        give_back(&lengths)
    return id_array[: found * width // 8], at_array[:found]
