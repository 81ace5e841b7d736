"""Batches whose records carry message ids in a header. See id_batches.pyi."""
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from batch_build cimport *
from borrow cimport Borrowed, borrow, give_back
from cells cimport Cells, cells_from
from hash cimport mq_consistent_partition, mq_kafka_partition
from status cimport MQ_ETOOBIG, MQ_OK, mq_status

import numpy as np

from mqcore.errors import InvalidRecordError, RecordTooLargeError

cdef enum:
    HEAD = 12  # header count, length of the name, the name, length of the id: one byte each but for the name

cdef const uint8_t *HEAD_64 = <const uint8_t *>b"\x02\x12mqcore.id\x10"
cdef const uint8_t *HEAD_128 = <const uint8_t *>b"\x02\x12mqcore.id\x20"


cdef inline int cell(mq_column *c, const uint8_t **bytes, int32_t *size) except -1:
    """The first cell of a column."""
    cdef int64_t wide
    if c.kind == MQ_COLUMN_NULL or (c.valid != NULL and not c.valid[c.valid_start >> 3] >> (c.valid_start & 7) & 1):
        bytes[0], size[0] = NULL, -1
    elif c.kind == MQ_COLUMN_POINTERS:
        bytes[0], size[0] = c.pointers[0], c.sizes[0]
    elif c.kind == MQ_COLUMN_ROWS:
        bytes[0], size[0] = c.base, c.width
    elif c.kind == MQ_COLUMN_RANGES:
        bytes[0], size[0] = c.base + c.offsets64[0], c.sizes[0]
    elif c.kind == MQ_COLUMN_OFFSETS32:
        bytes[0], size[0] = c.base + c.offsets32[0], c.offsets32[1] - c.offsets32[0]
    else:
        wide = c.offsets64[1] - c.offsets64[0]
        bytes[0], size[0] = c.base + c.offsets64[0], <int32_t>min(wide, <int64_t>INT32_MAX)
    return 0


cdef inline int cell_of(Cells *cells, object column, Py_ssize_t row, const uint8_t **bytes, int32_t *size) except -1:
    """A cell of a Column; of a list too."""
    cdef const uint8_t *pointer
    cdef int32_t length
    cdef mq_column c
    if not cells_from(cells, row, 1, &pointer, &length, &c):
        column._plain()
        if not cells_from(cells, row, 1, &pointer, &length, &c):
            raise ValueError("a list was changed while it was sent")
    return cell(&c, bytes, size)


def places(keys not None, int32_t partitions, bint consistent):
    """The partition of each key: an int32 array of shape (n,), -1 for a null key. partitions: at least 1."""
    cdef Cells *k = <Cells *>PyCapsule_GetPointer(keys._handle(), b"mqcore.cells")
    cdef Py_buffer view
    cdef Py_ssize_t i
    cdef const uint8_t *bytes = NULL
    cdef int32_t size = 0
    if partitions < 1:
        raise ValueError("a topic has at least one partition")
    found = np.empty(k.count, np.int32)
    PyObject_GetBuffer(found, &view, PyBUF_WRITABLE)
    try:
        for i in range(k.count):
            cell_of(k, keys, i, &bytes, &size)
            if size < 0:
                (<int32_t *>view.buf)[i] = -1
            elif consistent:
                (<int32_t *>view.buf)[i] = mq_consistent_partition(bytes, <size_t>size, partitions)
            else:
                (<int32_t *>view.buf)[i] = mq_kafka_partition(bytes, <size_t>size, partitions)
    finally:
        PyBuffer_Release(&view)
    return found


cdef class _Room:
    """A growing chunk."""
    cdef bytearray bytes
    cdef mq_chunk c

    def __cinit__(self, size_t batch_bytes, size_t batch_max):
        self.bytes = bytearray(64 << 10)
        mq_chunk_init(&self.c, <uint8_t *>PyByteArray_AS_STRING(self.bytes), 64 << 10, batch_bytes, batch_max)

    cdef mq_status put(self, mq_record *r) except *:
        # A new batch may begin with this record: its header, and what a first record's deltas may take less.
        cdef size_t need = mq_record_room(r) + 2 * MQ_BATCH_HEADER
        if self.c.capacity - self.c.size < need:
            PyByteArray_Resize(self.bytes, <Py_ssize_t>(2 * self.c.capacity + need))
            self.c.bytes = <uint8_t *>PyByteArray_AS_STRING(self.bytes)
            self.c.capacity = <size_t>len(self.bytes)
        return mq_chunk_put(&self.c, r)

    cdef bytearray done(self):
        mq_chunk_seal(&self.c)
        PyByteArray_Resize(self.bytes, <Py_ssize_t>self.c.size)
        return self.bytes


def build(values not None, keys, ids, Py_ssize_t width, rows, times, int64_t timestamp, *, size_t batch_bytes,
          size_t batch_max, identity=None):
    cdef Cells *v = <Cells *>PyCapsule_GetPointer(values._handle(), b"mqcore.cells")
    cdef Cells *k = NULL
    cdef Borrowed id_bytes, row_bytes, time_bytes
    cdef uint8_t head[HEAD + 16]
    cdef mq_record r
    cdef mq_status status
    cdef const int64_t *row_at
    cdef Py_ssize_t i, row, count
    cdef _Room room = _Room(batch_bytes, batch_max)
    if identity is not None:
        room.c.producer_id, room.c.producer_epoch, room.c.base_sequence = identity
        room.c.attributes = MQ_ATTR_TRANSACTIONAL
    if keys is not None:
        k = <Cells *>PyCapsule_GetPointer(keys._handle(), b"mqcore.cells")
        if k.count != v.count:
            raise ValueError(f"{v.count} values and {k.count} keys")
    if width != 8 and width != 16:
        raise ValueError("an id has 8 or 16 bytes")
    memcpy(head, HEAD_64 if width == 8 else HEAD_128, HEAD)
    r.headers, r.headers_size = head, <uint32_t>(HEAD + width)
    r.key, r.key_size, r.timestamp = NULL, -1, timestamp
    borrow(ids, &id_bytes)
    borrow(rows, &row_bytes)
    borrow(b"" if times is None else times, &time_bytes)
    try:
        if <Py_ssize_t>id_bytes.size != v.count * width or (times is not None and
                                                            <Py_ssize_t>time_bytes.size != v.count * 8):
            raise ValueError("values, ids and timestamps must be as many")
        row_at, count = <const int64_t *>row_bytes.bytes, <Py_ssize_t>row_bytes.size // 8
        for i in range(count):
            row = <Py_ssize_t>row_at[i]
            if not 0 <= row < v.count:
                raise IndexError(row)
            memcpy(head + HEAD, id_bytes.bytes + row * width, width)
            cell_of(v, values, row, &r.value, &r.value_size)
            if k != NULL:
                cell_of(k, keys, row, &r.key, &r.key_size)
            if times is not None:
                r.timestamp = (<const int64_t *>time_bytes.bytes)[row]
            if mq_record_room(&r) + MQ_BATCH_HEADER > batch_max:
                raise RecordTooLargeError("a record is over the topic's limit", size=mq_record_room(&r),
                                          limit=batch_max, index=row)
            status = room.put(&r)
            if status == MQ_ETOOBIG:
                raise RecordTooLargeError("a record is over the topic's limit", size=mq_record_room(&r),
                                          limit=batch_max, index=row)
            if status != MQ_OK:
                raise InvalidRecordError("a timestamp is negative", timestamp=r.timestamp, index=row)
    finally:
        give_back(&id_bytes)
        give_back(&row_bytes)
        give_back(&time_bytes)
    return room.done()
