"""Producer state of one partition: mqcore/producer_state.h. Public names and their contracts: producer_state.pyi.

Invariants:
    1. Calls are short and keep the GIL (free-threaded builds: a critical section), so each is one step to other threads.
       `walk` alone, which reads a file, gives the GIL away: nobody else has the object then.
    2. The C handle lives as long as the Python object.
"""
import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from io_c cimport mq_io
from producer_c cimport *
from segment_c cimport mq_txn_entry
from status cimport MQ_EFULL, MQ_OK, mq_error, mq_status, raise_status

from mqcore.errors import ConcurrentTransactionsError

VERDICTS = ("none", "new", "duplicate", "old", "gap", "stale", "in_transaction", "too_many")


def marker(int64_t producer_id, int16_t epoch, *, bint commit, int32_t coordinator_epoch, int64_t timestamp_ms):
    cdef bytearray batch = bytearray(MQ_MARKER_BYTES)
    mq_marker_build(<uint8_t *>PyByteArray_AS_STRING(batch), producer_id, epoch, commit, coordinator_epoch,
                    timestamp_ms)
    return batch


@cython.final
cdef class Producers:
    """What one partition knows of its producers. See producer_state.pyi."""

    cdef mq_producers *_state
    cdef object __weakref__

    def __init__(self, uint32_t limit):
        if self._state == NULL:
            self._state = mq_producers_new(limit)
            if self._state == NULL:
                raise MemoryError()

    def __dealloc__(self):
        mq_producers_free(self._state)

    def __len__(self):
        return mq_producers_count(self._state)

    def __repr__(self):
        return f"<Producers {len(self)} next_offset={self.next_offset}>"

    def _handle(self):
        return PyCapsule_New(self._state, "mqcore.producers", NULL)

    @property
    def next_offset(self):
        return mq_producers_next_offset(self._state)

    def set_limit(self, uint32_t limit):
        mq_producers_set_limit(self._state, limit)

    @property
    def bytes_used(self):
        return mq_producers_bytes(self._state)

    @property
    def unstable(self):
        return mq_producers_unstable(self._state)

    @cython.critical_section
    def check(self, batches):
        cdef Py_buffer view
        cdef mq_sequence_answer answer
        cdef mq_error err
        cdef mq_status status
        PyObject_GetBuffer(batches, &view, PyBUF_SIMPLE)
        status = mq_producers_check(self._state, <const uint8_t *>view.buf, <size_t>view.len, &answer, &err)
        PyBuffer_Release(&view)
        if status == MQ_EFULL:
            raise ConcurrentTransactionsError((<bytes>err.what).decode())
        if status != MQ_OK:
            raise_status(status, &err)
        if answer.verdict <= MQ_SEQUENCE_NEW:
            return None
        return (VERDICTS[<int>answer.verdict], answer.producer_id, answer.epoch, answer.known_epoch, answer.sequence,
                answer.expected, answer.base_offset, answer.next_offset, answer.timestamp)

    @cython.critical_section
    def add(self, batches, int64_t now_ms):
        cdef Py_buffer view
        cdef mq_error err
        cdef mq_status status
        PyObject_GetBuffer(batches, &view, PyBUF_SIMPLE)
        status = mq_producers_add(self._state, <const uint8_t *>view.buf, <size_t>view.len, now_ms, &err)
        PyBuffer_Release(&view)
        if status != MQ_OK:
            raise_status(status, &err)
        return mq_producers_unstable(self._state)

    @cython.critical_section
    def end_of(self, int64_t producer_id, int64_t offset):
        cdef mq_txn_entry ended
        if not mq_producers_end_of(self._state, producer_id, offset, &ended):
            return None
        return ended.producer_id, ended.first_offset, ended.last_offset, ended.last_stable_offset

    @cython.critical_section
    def fence(self, int64_t producer_id, int16_t epoch, int32_t coordinator_epoch, int64_t now_ms):
        cdef mq_error err
        cdef mq_status status = mq_producers_fence(self._state, producer_id, epoch, coordinator_epoch, now_ms, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def walk(self, io, path, uint64_t position, uint64_t end):
        cdef mq_io *table = <mq_io *>PyCapsule_GetPointer(io._handle(), "mqcore.io")
        cdef bytes name = os.fsencode(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_producers_walk(self._state, table, c_name, position, end, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    @cython.critical_section
    def stable_end(self, int64_t mark):
        return mq_producers_stable_end(self._state, mark)

    @cython.critical_section
    def expire(self, int64_t before_ms):
        return mq_producers_expire(self._state, before_ms)

    @cython.critical_section
    def moved(self, int64_t next_offset):
        mq_producers_moved(self._state, next_offset)

    @cython.critical_section
    def get(self, int64_t producer_id):
        cdef const mq_producer *p = mq_producers_find(self._state, producer_id)
        return None if p == NULL else _facts(p)

    @cython.critical_section
    def batches(self, int64_t producer_id):
        cdef const mq_producer *p = mq_producers_find(self._state, producer_id)
        return [] if p == NULL else [
            (p.batches[i].last_sequence, p.batches[i].last_offset, p.batches[i].offset_delta, p.batches[i].timestamp)
            for i in range(p.batch_count)
        ]

    @cython.critical_section
    def entries(self, *, bint open_only=False):
        cdef list found = []
        cdef const mq_producer *p = mq_producers_each(self._state, NULL)
        while p != NULL and not (open_only and p.txn_first_offset < 0):
            found.append(_facts(p))
            p = mq_producers_each(self._state, p)
        return found

    @cython.critical_section
    def encode(self, int32_t leader_epoch):
        cdef uint8_t *data = NULL
        cdef size_t size = 0
        cdef mq_error err
        cdef mq_status status = mq_producers_encode(self._state, leader_epoch, &data, &size, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        try:
            return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size)
        finally:
            mq_free(data)

    @classmethod
    def decode(cls, data, int64_t offset, uint32_t limit):
        cdef Producers self = Producers.__new__(Producers)
        cdef Py_buffer view
        cdef int32_t leader_epoch = -1
        cdef mq_error err
        cdef mq_status status
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        status = mq_producers_decode(<const uint8_t *>view.buf, <size_t>view.len, offset, limit, &self._state,
                                     &leader_epoch, &err)
        PyBuffer_Release(&view)
        if status != MQ_OK:
            raise_status(status, &err)
        return self, leader_epoch


cdef tuple _facts(const mq_producer *p):
    cdef int32_t sequence = -1
    cdef int64_t offset = -1
    if p.batch_count > 0:
        sequence, offset = p.batches[p.batch_count - 1].last_sequence, p.batches[p.batch_count - 1].last_offset
    return (p.producer_id, p.epoch, sequence, offset, p.last_timestamp, p.coordinator_epoch, p.txn_first_offset)
