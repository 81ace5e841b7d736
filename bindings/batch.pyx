# cython: boundscheck=False, wraparound=False
"""Headers of v2 record batches: list, check and stamp them. One native call for a range of batches, not for each.

Invariants:
    1. Nothing outside [start, end) of the buffer is read; a length in a header is checked before it is used.
    2. A buffer that is only read is never written, and none is kept after the call.
    3. Only `assign` writes, and only bytes outside the CRC (base offset, leader epoch).
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from core_batch cimport (
    MQ_ATTR_CODEC, MQ_BATCH_BYTES_MAX, MQ_BATCH_HEADER, MQ_BATCH_LOG_OVERHEAD, mq_batch, mq_batch_assign,
    mq_batch_check, mq_batch_last_offset, mq_batch_parse, mq_batch_walk, mq_load_be16, mq_scan, mq_scan_row,
    mq_store_be16, mq_store_be32,
)
from segment_c cimport mq_batches_facts, mq_batches_survey
from status cimport MQ_OK, mq_error, mq_status, mq_status_name, raise_status

from mqcore._native.columns import Columns, Record, Values, decode

__all__ = ["ROW", "BatchHeader", "Columns", "Problem", "Record", "Values", "assign", "check", "decode", "header",
           "inflated_header", "scan", "survey"]

# A call shorter than a few microseconds is cheaper with the GIL than without: 256 KiB of CRC is about five.
cdef enum:
    GIL_BYTES = 1 << 18
    SCAN_ROWS = 1024

ROW = np.dtype({
    "names": ["position", "base_offset", "last_offset", "base_timestamp", "max_timestamp", "producer_id", "size",
              "leader_epoch", "base_sequence", "record_count", "crc", "producer_epoch", "attributes"],
    "formats": ["i8", "i8", "i8", "i8", "i8", "i8", "i4", "i4", "i4", "i4", "u4", "i2", "u2"],
}, align=True)
assert ROW.itemsize == sizeof(mq_scan_row)

Problem = namedtuple("Problem", ["position", "status", "what"])
BatchHeader = namedtuple("BatchHeader", ["position", "size", "base_offset", "last_offset", "attributes",
                                         "record_count", "codec"])


cdef inline int _range(Py_buffer *view, Py_ssize_t start, Py_ssize_t *end) except -1:
    """Check start and end against the buffer; end -1 means all of it."""
    if end[0] == -1:
        end[0] = view.len
    if start < 0 or start > end[0] or end[0] > view.len:
        raise ValueError(f"range {start} .. {end[0]} is not inside the buffer of {view.len} bytes")
    return 0


cdef mq_status _check_all(const uint8_t *bytes, uint64_t *at, uint64_t end, uint32_t max_bytes, bint walk,
                          int64_t *offsets, mq_error *err) noexcept nogil:
    cdef mq_batch b
    cdef mq_status status
    while at[0] < end:
        status = mq_batch_check(bytes + at[0], end - at[0], max_bytes, &b, err)
        if status == MQ_OK and walk and (b.attributes & MQ_ATTR_CODEC) == 0:
            status = mq_batch_walk(bytes + at[0], &b, err)
        if status != MQ_OK:
            err.position += at[0]
            return status
        offsets[0] += <int64_t>b.last_offset_delta + 1
        at[0] += b.size
    return MQ_OK


def check(buffer, Py_ssize_t start=0, Py_ssize_t end=-1, *, uint32_t max_batch_bytes=MQ_BATCH_BYTES_MAX,
          bint walk=False):
    cdef Py_buffer view
    cdef mq_error err
    cdef mq_status status
    cdef int64_t offsets = 0
    cdef uint64_t at
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        _range(&view, start, &end)
        at = <uint64_t>start
        if end - start < GIL_BYTES:
            status = _check_all(<const uint8_t *>view.buf, &at, end, max_batch_bytes, walk, &offsets, &err)
        else:
            with nogil:
                status = _check_all(<const uint8_t *>view.buf, &at, end, max_batch_bytes, walk, &offsets, &err)
    finally:
        PyBuffer_Release(&view)
    if status != MQ_OK:
        raise_status(status, &err)
    return offsets


def assign(buffer, int64_t base_offset, int32_t leader_epoch):
    cdef Py_buffer view
    cdef mq_error err
    cdef mq_batch b
    cdef mq_status status = MQ_OK
    cdef uint64_t at = 0
    cdef uint8_t *bytes
    if base_offset < 0 or leader_epoch < -1:
        raise ValueError("base_offset must be 0 or more, leader_epoch -1 or more")
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        bytes = <uint8_t *>view.buf
        # All headers first: on an error no byte was changed.
        while at < <uint64_t>view.len and status == MQ_OK:
            status = mq_batch_parse(bytes + at, view.len - at, MQ_BATCH_BYTES_MAX, &b, &err)
            err.position = at
            at += b.size if status == MQ_OK else 0
        if status == MQ_OK:
            at = 0
            while at < <uint64_t>view.len:
                mq_batch_parse(bytes + at, view.len - at, MQ_BATCH_BYTES_MAX, &b, &err)
                mq_batch_assign(bytes + at, base_offset, leader_epoch)
                base_offset += <int64_t>b.last_offset_delta + 1
                at += b.size
    finally:
        PyBuffer_Release(&view)
    if status != MQ_OK:
        raise_status(status, &err)
    return base_offset


def header(buffer, Py_ssize_t position, Py_ssize_t end=-1):
    cdef Py_buffer view
    cdef mq_error err
    cdef mq_batch b
    cdef mq_status status
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        _range(&view, position, &end)
        status = mq_batch_parse(<const uint8_t *>view.buf + position, end - position, MQ_BATCH_BYTES_MAX, &b, &err)
    finally:
        PyBuffer_Release(&view)
    if status != MQ_OK:
        err.position = position
        raise_status(status, &err)
    return BatchHeader(position, b.size, b.base_offset, mq_batch_last_offset(&b), b.attributes, b.record_count,
                       b.attributes & MQ_ATTR_CODEC)


def inflated_header(buffer, Py_ssize_t position, Py_ssize_t records_bytes):
    cdef Py_buffer view
    cdef mq_error err
    cdef mq_batch b
    cdef mq_status status
    cdef bytes result
    cdef uint8_t *to
    if records_bytes < 0 or records_bytes > <Py_ssize_t>MQ_BATCH_BYTES_MAX - MQ_BATCH_HEADER:
        raise ValueError("records_bytes is out of range")
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        _range(&view, position, &view.len)
        status = mq_batch_parse(<const uint8_t *>view.buf + position, view.len - position, MQ_BATCH_BYTES_MAX, &b,
                                &err)
        if status == MQ_OK:
            result = PyBytes_FromStringAndSize(<const char *>view.buf + position, MQ_BATCH_HEADER)
    finally:
        PyBuffer_Release(&view)
    if status != MQ_OK:
        err.position = position
        raise_status(status, &err)
    to = <uint8_t *>PyBytes_AS_STRING(result)  # new and not shared yet
    mq_store_be32(to + 8, <uint32_t>(records_bytes + MQ_BATCH_HEADER - MQ_BATCH_LOG_OVERHEAD))
    mq_store_be16(to + 21, <uint16_t>(mq_load_be16(to + 21) & ~MQ_ATTR_CODEC))
    return result


def scan(buffer, Py_ssize_t start=0, Py_ssize_t end=-1, *, uint32_t max_batch_bytes=MQ_BATCH_BYTES_MAX,
         bint check_crc=True):
    cdef Py_buffer view
    cdef mq_error err
    cdef mq_status status = MQ_OK
    cdef uint64_t at
    cdef size_t count, used = 0, step
    cdef bytearray rows = bytearray()
    cdef mq_scan_row *room
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        _range(&view, start, &end)
        at = <uint64_t>start
        while status == MQ_OK and at < <uint64_t>end:
            step = used if used > <size_t>SCAN_ROWS else <size_t>SCAN_ROWS  # doubles: linear in all
            PyByteArray_Resize(rows, (used + step) * sizeof(mq_scan_row))
            room = <mq_scan_row *>PyByteArray_AS_STRING(rows) + used
            with nogil:
                status = mq_scan(<const uint8_t *>view.buf, &at, end, max_batch_bytes, check_crc, room, step, &count,
                                 &err)
            used += count
    finally:
        PyBuffer_Release(&view)
    PyByteArray_Resize(rows, used * sizeof(mq_scan_row))
    problem = None
    if status != MQ_OK:
        problem = Problem(err.position, (<bytes>mq_status_name(status)).decode(),
                          (<bytes>err.what).decode("utf-8", "replace"))
    return np.frombuffer(rows, dtype=ROW), problem


def survey(batches, uint32_t max_batch_bytes):
    cdef Py_buffer view
    cdef mq_batches_facts facts
    cdef bint whole
    PyObject_GetBuffer(batches, &view, PyBUF_SIMPLE)
    whole = mq_batches_survey(<const uint8_t *>view.buf, <size_t>view.len, max_batch_bytes, &facts)
    PyBuffer_Release(&view)
    return (facts.offsets, facts.base_timestamp, facts.max_timestamp) if whole else None
