# cython: freethreading_compatible=True
"""Dedup windows: sets of 64-bit (Snowflake) and of 128-bit message ids. See dedup.pyi.

Threads: short calls run under the GIL (a critical section on free-threaded builds). A batch of more than GIL_IDS ids
runs without it: then `busy` is set and every other call waits at `gate`. `busy` is only changed while `gate` is held,
and a call that found it unset cannot be overtaken before it returns.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from borrow cimport Borrowed, borrow, give_back
from dedup_core cimport *
from dedup_inputs cimport *
from status cimport MQ_OK, mq_error, mq_status, raise_status

import os
from threading import Lock

import numpy as np

cdef enum:
    GIL_IDS = 8192
    UNSEEN = -2

cdef object empty = np.empty
cdef object bool_type = np.dtype(np.bool_)
cdef object int64_type = np.dtype(np.int64)
_STATES = ("new", "duplicate", "pending")


cdef object answers_for(size_t count, uint8_t **bytes):
    """A numpy bool array and where its bytes lie: they stay there as long as the array lives."""
    return array_for(count, bool_type, bytes)


cdef object offsets_for(size_t count, uint8_t **bytes):
    """Likewise an int64 array."""
    return array_for(count, int64_type, bytes)


cdef object array_for(size_t count, object dtype, uint8_t **bytes):
    cdef Py_buffer view
    answers = empty(count, dtype)
    PyObject_GetBuffer(answers, &view, PyBUF_WRITABLE)
    bytes[0] = <uint8_t *>view.buf
    PyBuffer_Release(&view)
    return answers


cdef class _Gate:
    """The lock that batches without the GIL hold, and the flag that says so."""
    cdef object gate
    cdef bint busy

    def __cinit__(self):
        self.gate = Lock()

    cdef int wait(self) except -1:
        while self.busy:
            with self.gate:
                pass
        return 0


cdef class Dedup(_Gate):
    cdef mq_dedup *_d
    cdef size_t _max_bytes

    def __cinit__(self, *, int64_t epoch_ms=1577836800000, uint32_t bucket_ms=256, size_t max_bytes=64 << 20):
        cdef mq_error err
        cdef mq_dedup_config config
        config.epoch_ms, config.bucket_ms, config.max_bytes = epoch_ms, bucket_ms, max_bytes
        self._d = mq_dedup_new(&config, &err)
        if self._d == NULL:
            raise_status(err.status, &err)
        self._max_bytes = max_bytes

    def __dealloc__(self):
        mq_dedup_free(self._d)

    cdef int enter(self) except -1:
        if self.busy:
            self.wait()
        return 0

    @cython.critical_section
    def test_and_set(self, uint64_t id, int64_t offset=-1, /) -> bool:
        cdef mq_error err
        cdef mq_seen seen
        self.enter()
        cdef mq_status status = mq_dedup_test_and_set(self._d, id, offset, &seen, &err)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return seen != MQ_SEEN_NEW

    cdef mq_status many(self, const uint64_t *ids, size_t count, int64_t offset, uint8_t *seen, size_t *done,
                        size_t *duplicates, mq_error *err) except *:
        cdef mq_status status
        if count <= GIL_IDS:
            return mq_dedup_test_and_set_many(self._d, ids, count, offset, seen, done, duplicates, err)
        with self.gate:
            self.busy = True
            with nogil:
                status = mq_dedup_test_and_set_many(self._d, ids, count, offset, seen, done, duplicates, err)
            self.busy = False
        return status

    @cython.critical_section
    def test_and_set_many(self, ids, int64_t base_offset=-1, /):
        cdef Py_buffer view
        cdef mq_error err
        cdef mq_status status = MQ_OK
        cdef uint8_t *seen = NULL
        cdef size_t done = 0, duplicates = 0, i
        self.enter()
        borrow_ids(ids, &view)
        try:
            answers = answers_for(view.len // 8, &seen)
            status = self.many(<const uint64_t *>view.buf, <size_t>view.len // 8, base_offset, seen, &done,
                               &duplicates, &err)
        finally:
            PyBuffer_Release(&view)
        if status != MQ_OK:
            raise_full(status, &err, done, self._max_bytes)
        if duplicates != 0:
            for i in range(done):
                seen[i] = seen[i] != 0  # pending is 2: a bool holds 0 or 1
        return answers

    @cython.critical_section
    def contains(self, uint64_t id, /) -> bool:
        self.enter()
        return mq_dedup_find(self._d, id, NULL, NULL) != MQ_SEEN_NEW

    def __contains__(self, uint64_t id):
        return self.contains(id)

    @cython.critical_section
    def contains_many(self, ids, /):
        cdef Py_buffer view
        cdef uint8_t *seen = NULL
        cdef size_t i, count
        self.enter()
        borrow_ids(ids, &view)
        try:
            count = <size_t>view.len // 8
            answers = answers_for(count, &seen)
            mq_dedup_find_many(self._d, <const uint64_t *>view.buf, count, seen)
        finally:
            PyBuffer_Release(&view)
        for i in range(count):
            seen[i] = seen[i] != 0
        return answers

    @cython.critical_section
    def find(self, uint64_t id, /) -> tuple:
        cdef int64_t low, high
        self.enter()
        cdef mq_seen seen = mq_dedup_find(self._d, id, &low, &high)
        return _STATES[<int>seen], low, high

    @cython.critical_section
    def find_many(self, ids, /) -> tuple:
        cdef Py_buffer view
        cdef uint8_t *low = NULL
        cdef uint8_t *high = NULL
        cdef size_t i
        self.enter()
        borrow_ids(ids, &view)
        try:
            lows, highs = offsets_for(view.len // 8, &low), offsets_for(view.len // 8, &high)
            for i in range(<size_t>view.len // 8):
                if mq_dedup_find(self._d, (<const uint64_t *>view.buf)[i], <int64_t *>low + i,
                                 <int64_t *>high + i) == MQ_SEEN_NEW:
                    (<int64_t *>low)[i] = (<int64_t *>high)[i] = UNSEEN
        finally:
            PyBuffer_Release(&view)
        return lows, highs

    @cython.critical_section
    def add_pending(self, uint64_t tag, uint64_t id, int64_t offset=-1, /) -> bool:
        cdef mq_error err
        cdef mq_seen seen
        self.enter()
        cdef mq_status status = mq_dedup_add_pending(self._d, tag, id, offset, &seen, &err)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return seen != MQ_SEEN_NEW

    @cython.critical_section
    def add_pending_many(self, uint64_t tag, ids, int64_t base_offset, /) -> None:
        cdef Py_buffer view
        cdef mq_error err
        cdef mq_seen seen
        cdef mq_status status = MQ_OK
        cdef size_t i = 0
        self.enter()
        borrow_ids(ids, &view)
        while status == MQ_OK and i < <size_t>view.len // 8:
            status = mq_dedup_add_pending(self._d, tag, (<const uint64_t *>view.buf)[i], base_offset + <int64_t>i,
                                          &seen, &err)
            i += status == MQ_OK
        PyBuffer_Release(&view)
        if status != MQ_OK:
            raise_full(status, &err, i, self._max_bytes)

    @cython.critical_section
    def pending_many(self, ids, /):
        cdef Py_buffer view
        cdef uint8_t *at = NULL
        cdef size_t i
        self.enter()
        borrow_ids(ids, &view)
        try:
            offsets = offsets_for(view.len // 8, &at)
            for i in range(<size_t>view.len // 8):
                if mq_dedup_find(self._d, (<const uint64_t *>view.buf)[i], <int64_t *>at + i, NULL) != MQ_SEEN_PENDING:
                    (<int64_t *>at)[i] = UNSEEN
        finally:
            PyBuffer_Release(&view)
        return offsets

    @cython.critical_section
    def confirm(self, uint64_t tag, /) -> int:
        cdef mq_error err
        cdef size_t confirmed
        self.enter()
        cdef mq_status status = mq_dedup_confirm(self._d, tag, &confirmed, &err)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return confirmed

    @cython.critical_section
    def abort(self, uint64_t tag, /) -> int:
        self.enter()
        return mq_dedup_abort(self._d, tag)

    @cython.critical_section
    def expire(self, int64_t before_ms, /) -> int:
        self.enter()
        return mq_dedup_expire(self._d, before_ms)

    @cython.critical_section
    def pack(self, int64_t before_ms=INT64_MAX, /) -> None:
        cdef mq_error err
        self.enter()
        cdef mq_status status = mq_dedup_pack(self._d, before_ms, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    @cython.critical_section
    def stats(self) -> dict:
        cdef mq_dedup_stats s
        self.enter()
        mq_dedup_get_stats(self._d, &s)
        return {"ids": s.ids, "pending": s.pending, "bytes_used": s.bytes_used, "max_bytes": self._max_bytes,
                "buckets": s.buckets, "buckets_open": s.buckets_open,
                "oldest_ms": s.oldest_ms, "newest_ms": s.newest_ms}

    def __len__(self):
        return self.stats()["ids"]

    @property
    def bytes_used(self) -> int:
        return self.stats()["bytes_used"]

    @cython.critical_section
    def serialize(self) -> bytes:
        cdef mq_error err
        cdef uint8_t *bytes
        cdef size_t size
        self.enter()
        cdef mq_status status = mq_dedup_serialize(self._d, &bytes, &size, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return taken(bytes, size)

    @classmethod
    def deserialize(cls, snapshot, *, size_t max_bytes=64 << 20) -> Dedup:
        cdef mq_error err
        cdef Borrowed b
        cdef Dedup made = cls.__new__(cls)
        borrow(snapshot, &b)
        mq_dedup_free(made._d)
        made._d = mq_dedup_deserialize(b.bytes, b.size, max_bytes, &err)
        give_back(&b)
        if made._d == NULL:
            raise_full(err.status, &err, 0, max_bytes)
        made._max_bytes = max_bytes
        return made


cdef class Dedup128(_Gate):
    cdef mq_dedup128 *_d
    cdef size_t _max_bytes

    def __cinit__(self, *, size_t max_bytes=64 << 20):
        cdef mq_error err
        self._d = mq_dedup128_new(max_bytes, <uint64_t>int.from_bytes(os.urandom(8), "little"), &err)
        if self._d == NULL:
            raise_status(err.status, &err)
        self._max_bytes = max_bytes

    def __dealloc__(self):
        mq_dedup128_free(self._d)

    cdef int enter(self) except -1:
        if self.busy:
            self.wait()
        return 0

    cdef mq_status many(self, const uint8_t *ids, size_t count, int64_t now_ms, int64_t offset, uint8_t *seen,
                        size_t *done, size_t *duplicates, mq_error *err) except *:
        cdef mq_status status
        if count <= GIL_IDS:
            return mq_dedup128_test_and_set_many(self._d, ids, count, now_ms, offset, seen, done, duplicates, err)
        with self.gate:
            self.busy = True
            with nogil:
                status = mq_dedup128_test_and_set_many(self._d, ids, count, now_ms, offset, seen, done, duplicates, err)
            self.busy = False
        return status

    @cython.critical_section
    def test_and_set_many(self, ids, int64_t now_ms, int64_t base_offset=-1, /):
        cdef Borrowed b
        cdef mq_error err
        cdef mq_status status = MQ_OK
        cdef uint8_t *seen = NULL
        cdef size_t done = 0, duplicates = 0, i
        self.enter()
        borrow_many(ids, &b)
        try:
            answers = answers_for(b.size // 16, &seen)
            status = self.many(b.bytes, b.size // 16, now_ms, base_offset, seen, &done, &duplicates, &err)
        finally:
            give_back(&b)
        if status != MQ_OK:
            raise_full(status, &err, done, self._max_bytes)
        for i in range(done):
            seen[i] = seen[i] != 0
        return answers

    @cython.critical_section
    def test_and_set(self, id, int64_t now_ms, int64_t offset=-1, /) -> bool:
        cdef Borrowed b
        cdef mq_error err
        cdef uint8_t seen = 0
        cdef size_t done, duplicates
        cdef mq_status status = MQ_OK
        self.enter()
        borrow_id(id, &b)
        status = mq_dedup128_test_and_set_many(self._d, b.bytes, 1, now_ms, offset, &seen, &done, &duplicates, &err)
        give_back(&b)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return seen != 0

    @cython.critical_section
    def find(self, id, /) -> tuple:
        cdef Borrowed b
        cdef int64_t offset
        self.enter()
        borrow_id(id, &b)
        cdef mq_seen seen = mq_dedup128_find(self._d, b.bytes, &offset)
        give_back(&b)
        return _STATES[<int>seen], offset

    @cython.critical_section
    def find_many(self, ids, /):
        cdef Borrowed b
        cdef uint8_t *at = NULL
        cdef size_t i
        self.enter()
        borrow_many(ids, &b)
        try:
            offsets = offsets_for(b.size // 16, &at)
            for i in range(b.size // 16):
                if mq_dedup128_find(self._d, b.bytes + 16 * i, <int64_t *>at + i) == MQ_SEEN_NEW:
                    (<int64_t *>at)[i] = UNSEEN
        finally:
            give_back(&b)
        return offsets

    def __contains__(self, id):
        return self.find(id)[0] != "new"

    @cython.critical_section
    def add_pending(self, uint64_t tag, id, int64_t offset=-1, /) -> bool:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_seen seen
        self.enter()
        borrow_id(id, &b)
        cdef mq_status status = mq_dedup128_add_pending(self._d, tag, b.bytes, offset, &seen, &err)
        give_back(&b)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return seen != MQ_SEEN_NEW

    @cython.critical_section
    def add_pending_many(self, uint64_t tag, ids, int64_t base_offset, /) -> None:
        cdef Borrowed b
        cdef mq_error err
        cdef mq_seen seen
        cdef mq_status status = MQ_OK
        cdef size_t i = 0
        self.enter()
        borrow_many(ids, &b)
        while status == MQ_OK and i < b.size // 16:
            status = mq_dedup128_add_pending(self._d, tag, b.bytes + 16 * i, base_offset + <int64_t>i, &seen, &err)
            i += status == MQ_OK
        give_back(&b)
        if status != MQ_OK:
            raise_full(status, &err, i, self._max_bytes)

    @cython.critical_section
    def pending_many(self, ids, /):
        cdef Borrowed b
        cdef uint8_t *at = NULL
        cdef size_t i
        self.enter()
        borrow_many(ids, &b)
        try:
            offsets = offsets_for(b.size // 16, &at)
            for i in range(b.size // 16):
                if mq_dedup128_find(self._d, b.bytes + 16 * i, <int64_t *>at + i) != MQ_SEEN_PENDING:
                    (<int64_t *>at)[i] = UNSEEN
        finally:
            give_back(&b)
        return offsets

    @cython.critical_section
    def confirm(self, uint64_t tag, int64_t now_ms, /) -> int:
        cdef mq_error err
        cdef size_t confirmed
        self.enter()
        cdef mq_status status = mq_dedup128_confirm(self._d, tag, now_ms, &confirmed, &err)
        if status != MQ_OK:
            raise_full(status, &err, 0, self._max_bytes)
        return confirmed

    @cython.critical_section
    def abort(self, uint64_t tag, /) -> int:
        self.enter()
        return mq_dedup128_abort(self._d, tag)

    @cython.critical_section
    def expire(self, int64_t before_ms, /) -> int:
        self.enter()
        return mq_dedup128_expire(self._d, before_ms)

    @cython.critical_section
    def stats(self) -> dict:
        self.enter()
        return {"ids": mq_dedup128_ids(self._d), "pending": mq_dedup128_pending(self._d),
                "bytes_used": mq_dedup128_bytes_used(self._d), "max_bytes": self._max_bytes}

    def __len__(self):
        return self.stats()["ids"]

    @property
    def bytes_used(self) -> int:
        return self.stats()["bytes_used"]

    @cython.critical_section
    def serialize(self) -> bytes:
        cdef mq_error err
        cdef uint8_t *bytes
        cdef size_t size
        self.enter()
        cdef mq_status status = mq_dedup128_serialize(self._d, &bytes, &size, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return taken(bytes, size)

    @classmethod
    def deserialize(cls, snapshot, *, size_t max_bytes=64 << 20) -> Dedup128:
        cdef mq_error err
        cdef Borrowed b
        cdef uint64_t seed = <uint64_t>int.from_bytes(os.urandom(8), "little")
        cdef Dedup128 made = cls.__new__(cls)
        borrow(snapshot, &b)
        mq_dedup128_free(made._d)
        made._d = mq_dedup128_deserialize(b.bytes, b.size, max_bytes, seed, &err)
        give_back(&b)
        if made._d == NULL:
            raise_full(err.status, &err, 0, max_bytes)
        made._max_bytes = max_bytes
        return made
