"""Compaction's inner loops: the key map and the filter of batches. See compact.pyi.

The map and the filter are used by one thread, the cleaner's; `_lock` makes a second one wait instead of crash.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from borrow cimport Borrowed, borrow, give_back
from compact_core cimport *
from status cimport MQ_EFULL, MQ_OK, mq_error, mq_status, raise_status

import os
from threading import Lock

cdef enum:
    BATCH_BYTES_MAX = 256 << 20
    HEADER_BYTES = 61

DISCARD, KEEP, HORIZON, MAY_EMPTY = MQ_COMPACT_DISCARD, MQ_COMPACT_KEEP, MQ_COMPACT_HORIZON, MQ_COMPACT_MAY_EMPTY
_OUTCOMES = ("dropped", "copied", "rewritten", "emptied")


cdef class KeyMap:
    cdef mq_keymap *_m
    cdef object lock

    def __cinit__(self, *, size_t max_bytes=128 << 20):
        cdef mq_error err
        self.lock = Lock()
        self._m = mq_keymap_new(max_bytes, <uint64_t>int.from_bytes(os.urandom(8), "little"), &err)
        if self._m == NULL:
            raise_status(err.status, &err)

    def __dealloc__(self):
        mq_keymap_free(self._m)

    def put(self, key, int64_t offset, /) -> bool:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status
        if offset < 0:
            raise ValueError("offset is negative")
        borrow(key, &b)
        try:
            with self.lock:
                status = mq_keymap_put(self._m, b.bytes, b.size, offset, &err)
        finally:
            give_back(&b)
        if status != MQ_OK and status != MQ_EFULL:
            raise_status(status, &err)
        return status == MQ_OK

    def get(self, key, /) -> int:
        cdef Borrowed b
        cdef int64_t offset
        borrow(key, &b)
        try:
            with self.lock:
                offset = mq_keymap_get(self._m, b.bytes, b.size)
        finally:
            give_back(&b)
        return offset

    def __len__(self):
        with self.lock:
            return mq_keymap_count(self._m)

    @property
    def bytes_used(self) -> int:
        with self.lock:
            return mq_keymap_bytes(self._m)

    def index_run(self, buffer, size_t position, size_t end, int64_t start_offset, /) -> tuple:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status
        cdef int64_t next_offset = -1
        borrow(buffer, &b)
        try:
            check_range(&b, position, end)
            with self.lock, nogil:
                status = mq_compact_index_run(self._m, b.bytes, end, &position, start_offset, &next_offset, &err)
        finally:
            give_back(&b)
        if status != MQ_OK and status != MQ_EFULL:
            raise_status(status, &err)
        return position, next_offset, status == MQ_EFULL

    def index_batch(self, batch, int64_t start_offset, /) -> bool:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status
        borrow(batch, &b)
        try:
            with self.lock, nogil:
                status = mq_compact_index_batch(self._m, b.bytes, b.size, start_offset, &err)
        finally:
            give_back(&b)
        if status != MQ_OK and status != MQ_EFULL:
            raise_status(status, &err)
        return status == MQ_OK


cdef int check_range(Borrowed *b, size_t position, size_t end) except -1:
    if not position <= end <= b.size:
        raise ValueError("a range outside the buffer")
    return 0


cdef class Filter:
    cdef KeyMap _map
    cdef mq_compact_rules _rules
    cdef mq_compact_out _out
    cdef mq_compact_stats _stats
    cdef int64_t *_last_offsets

    def __cinit__(self, KeyMap map not None, *, int64_t end_offset, int64_t round_end, int64_t now_ms,
                  int64_t delete_retention_ms, last_offsets=()):
        if delete_retention_ms < 0 or now_ms < 0:
            raise ValueError("times must not be negative")
        offsets = sorted(last_offsets)
        self._last_offsets = <int64_t *>malloc((len(offsets) + 1) * sizeof(int64_t))
        if self._last_offsets == NULL:
            raise MemoryError()
        for i, offset in enumerate(offsets):
            self._last_offsets[i] = offset
        self._map = map
        self._rules.map = map._m
        self._rules.end_offset, self._rules.round_end = end_offset, round_end
        self._rules.now_ms, self._rules.delete_retention_ms = now_ms, delete_retention_ms
        self._rules.last_offsets, self._rules.last_count = self._last_offsets, <size_t>len(offsets)

    def __dealloc__(self):
        mq_compact_out_free(&self._out)
        free(self._last_offsets)

    def run(self, buffer, size_t position, size_t end, size_t out_bytes=1 << 20, /) -> int:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status
        borrow(buffer, &b)
        try:
            check_range(&b, position, end)
            with self._map.lock, nogil:
                status = mq_compact_run(&self._rules, b.bytes, end, &position, out_bytes, &self._out, &self._stats,
                                        &err)
        finally:
            give_back(&b)
        if status != MQ_OK:
            raise_status(status, &err)
        return position

    def batch(self, batch, unsigned flags, /) -> str:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status
        cdef mq_compact_outcome outcome
        borrow(batch, &b)
        try:
            with self._map.lock, nogil:
                status = mq_compact_batch(&self._rules, b.bytes, b.size, flags, &self._out, &self._stats, &outcome,
                                          &err)
        finally:
            give_back(&b)
        if status != MQ_OK:
            raise_status(status, &err)
        return _OUTCOMES[<int>outcome]

    def stays(self, int64_t last_offset, /) -> bool:
        return mq_compact_stays(&self._rules, last_offset)

    def take(self) -> bytes:
        with self._map.lock:
            taken = PyBytes_FromStringAndSize(<char *>self._out.bytes, <Py_ssize_t>self._out.size)
            self._out.size = 0
        return taken

    def __len__(self):
        return self._out.size

    @property
    def stats(self) -> dict:
        return {"batches_read": self._stats.batches_read, "batches_written": self._stats.batches_written,
                "records_read": self._stats.records_read, "records_written": self._stats.records_written}


def check_batch(buffer, size_t position, size_t end, /) -> int:
    cdef Borrowed b
    cdef mq_error err
    cdef mq_batch header
    cdef mq_status status
    borrow(buffer, &b)
    try:
        check_range(&b, position, end)
        with nogil:
            status = mq_batch_check(b.bytes + position, end - position, BATCH_BYTES_MAX, &header, &err)
    finally:
        give_back(&b)
    if status != MQ_OK:
        err.position += position
        raise_status(status, &err)
    return header.size


def control_type(batch, /) -> int:
    cdef Borrowed b
    cdef mq_error err
    cdef int32_t type
    borrow(batch, &b)
    cdef mq_status status = mq_compact_control_type(b.bytes, b.size, &type, &err)
    give_back(&b)
    if status != MQ_OK:
        raise_status(status, &err)
    return type


def compressed(batch, records, unsigned codec, /) -> bytes:
    cdef Borrowed b, r
    borrow(batch, &b)
    try:
        borrow(records, &r)
        try:
            if b.size < HEADER_BYTES or not 1 <= codec <= 7 or r.size > BATCH_BYTES_MAX:
                raise ValueError("not a batch, or no codec")
            made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(HEADER_BYTES + r.size))
            to = <uint8_t *><char *>made
            memcpy(to, b.bytes, HEADER_BYTES)
            memcpy(to + HEADER_BYTES, r.bytes, r.size)
            mq_store_be32(to + 8, <uint32_t>(HEADER_BYTES + r.size - 12))
            mq_store_be16(to + 21, <unsigned short>((mq_load_be16(to + 21) & ~7u) | codec))
            mq_batch_seal(to, HEADER_BYTES + r.size)
        finally:
            give_back(&r)
    finally:
        give_back(&b)
    return made
