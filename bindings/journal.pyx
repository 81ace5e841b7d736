"""The journal's ring: records written, and replayed.

Invariants:
    1. One thread writes at a time: the leader of a round (commit.pyx). Figures may be read beside it.
    2. close() frees nothing under a running call: the last one to leave does.
"""
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from journal_c cimport *
from status cimport MQ_EFULL, MQ_ENOTFOUND, MQ_ETOOBIG, MQ_OK, mq_error, mq_status, raise_status

from mqcore.errors import StoreClosedError


cdef class Journal:
    """The ring in one directory. One writer at a time (the leader); stats may be read beside it."""

    cdef mq_journal *_journal
    cdef object _io
    cdef mq_journal_entry *_entries
    cdef size_t _capacity
    cdef int _calls
    cdef bint _closed

    def __cinit__(self, io, str directory, bytes store_id, *, uint32_t file_bytes, uint32_t file_limit,
                  uint32_t files_present=0, bint read_only=False):
        cdef mq_journal_options options
        cdef mq_error err
        cdef mq_status status
        cdef bytes name = os.fsencode(directory)
        cdef const char *c_name = name
        cdef mq_io *c_io = <mq_io *>PyCapsule_GetPointer(io._handle(), "mqcore.io")
        if len(store_id) != 16:
            raise ValueError("store_id is 16 bytes")
        self._io = io
        memset(&options, 0, sizeof(options))
        memcpy(&options.store_id[0], <const uint8_t *>store_id, 16)
        options.salt = <uint64_t>int.from_bytes(os.urandom(8), "big")
        options.file_bytes = file_bytes
        options.file_limit = file_limit
        options.files_present = files_present
        options.read_only = read_only
        with nogil:
            status = mq_journal_open(c_io, c_name, &options, &self._journal, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    cdef int _enter(self) except -1:
        if self._closed:
            raise StoreClosedError("the journal is closed")
        self._calls += 1
        return 0

    cdef void _leave(self) noexcept:
        self._calls -= 1
        if self._closed and self._calls == 0:
            self._free()

    cdef void _free(self) noexcept:
        mq_journal_close(self._journal)
        self._journal = NULL

    cdef mq_journal_stat _stat(self) except *:
        cdef mq_journal_stat stat
        self._enter()
        mq_journal_stats(self._journal, &stat)
        self._leave()
        return stat

    @property
    def sequence(self):
        return self._stat().sequence

    @property
    def recorded(self):
        return self._stat().recorded

    @property
    def files(self):
        return self._stat().files

    def pressure(self):
        cdef mq_journal_stat stat = self._stat()
        return stat.live_bytes, stat.wants_file

    @property
    def failed(self):
        return self._stat().failed

    def stats(self):
        return dict(self._stat())

    def write(self, list entries, list vouches):
        cdef Py_ssize_t count = len(entries) + len(vouches)
        cdef size_t used = 0
        cdef uint64_t sequence = 0
        cdef mq_error err
        cdef mq_status status
        cdef mq_journal_entry *grown
        cdef mq_journal_entry *entry
        cdef bint vouch
        self._enter()
        try:
            if <size_t>count > self._capacity:
                grown = <mq_journal_entry *>mq_realloc(self._entries, <size_t>count * sizeof(mq_journal_entry))
                if grown == NULL:
                    raise MemoryError("journal entries")
                self._entries = grown
                self._capacity = <size_t>count
            for vouch, submissions in ((True, vouches), (False, entries)):
                for submission in submissions:
                    if submission.target is None:
                        continue  # a mark
                    entry = <mq_journal_entry *>PyCapsule_GetPointer(submission._handle(), "mqcore.journal_entry")
                    self._entries[used] = entry[0]
                    if vouch:
                        self._entries[used].size = 0
                    used += 1
            with nogil:
                status = mq_journal_write(self._journal, self._entries, used, &sequence, &err)
        finally:
            self._leave()
        if status == MQ_EFULL:
            return 0
        if status == MQ_ETOOBIG:
            return -1
        if status != MQ_OK:
            raise_status(status, &err)
        return sequence

    def grow(self, bint beside_writer):
        cdef mq_error err
        cdef mq_status status
        self._enter()
        try:
            with nogil:
                status = mq_journal_grow(self._journal, beside_writer, &err)
        finally:
            self._leave()
        if status == MQ_EFULL:
            return False
        if status != MQ_OK:
            raise_status(status, &err)
        return True

    def set_checkpointed(self, uint64_t sequence):
        self._enter()
        mq_journal_set_checkpointed(self._journal, sequence)
        self._leave()

    def replay(self):
        return _Replay(self)

    def close(self):
        self._closed = True
        if self._calls == 0:
            self._free()

    def __dealloc__(self):
        self._free()
        mq_free(self._entries)


cdef class _Replay:
    cdef Journal _owner
    cdef mq_journal_cursor _cursor

    def __cinit__(self, Journal owner not None):
        self._owner = owner
        memset(&self._cursor, 0, sizeof(self._cursor))

    def __iter__(self):
        return self

    def __next__(self):
        cdef mq_journal_entry e
        cdef mq_error err
        cdef mq_status status
        self._owner._enter()
        try:
            with nogil:
                status = mq_journal_next(self._owner._journal, &self._cursor, &e, &err)
        finally:
            self._owner._leave()
        if status == MQ_ENOTFOUND:
            raise StopIteration
        if status != MQ_OK:
            raise_status(status, &err)
        return (PyBytes_FromStringAndSize(<char *>&e.topic_id[0], 16), e.partition, e.leader_epoch, e.segment_base,
                e.position, e.base_offset, e.next_offset,
                PyBytes_FromStringAndSize(<const char *>e.bytes, e.size) if e.size > 0 else None)

    def __dealloc__(self):
        mq_journal_cursor_free(&self._cursor)
