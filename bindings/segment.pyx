"""One segment of a partition log: <base offset, 20 digits>.log, its index files and its read mapping.

Invariants:
    1. The C handle lives as long as the Python object: close() only closes, so no running call loses its memory.
    2. A Segment keeps its Io, a Mapping its Io; a buffer keeps its Mapping, and only then is memory unmapped.
    3. A view of [0, end) is made only for end <= size: bytes past the data are mapped, and never exported.
"""
import errno as _errno
import os

cimport cython
from cpython.buffer cimport (PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer)
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from io_c cimport mq_io
from segment_c cimport *
from status cimport MQ_EIO, MQ_OK, mq_error, mq_status, raise_status

cdef extern from *:
    """
    #include "mqcore/alloc.h"
    #ifdef MQCORE_ALLOC_FAULT
    static int set_countdown(long long n) { mq_alloc_countdown = n; return 1; }
    #else
    static int set_countdown(long long n) { (void)n; return 0; }
    #endif
    """
    bint set_countdown(long long n)


def allocate_fail_at(long long n):
    return set_countdown(n)


def check_batches(batches, *, uint32_t max_batch_bytes, bint walk):
    cdef Py_buffer view
    cdef int64_t offsets = 0
    cdef mq_error err
    cdef mq_status status
    PyObject_GetBuffer(batches, &view, PyBUF_SIMPLE)
    with nogil:
        status = mq_batches_check(<const uint8_t *>view.buf, <size_t>view.len, max_batch_bytes, walk, &offsets, &err)
    PyBuffer_Release(&view)
    if status != MQ_OK:
        raise_status(status, &err)
    return offsets


cdef bytes _path(object path):
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a path holds a NUL byte")
    return encoded


cdef mq_io *_io_of(object io) except NULL:
    return <mq_io *>PyCapsule_GetPointer(io._handle(), "mqcore.io")


cdef int _raise(mq_status status, mq_error *err) except -1:
    """As raise_status; a name that is there already, or missing, is an OSError."""
    if status == MQ_EIO and err.sys_errno in (_errno.EEXIST, _errno.ENOENT):
        raise OSError(err.sys_errno, os.strerror(err.sys_errno), os.fsdecode(<bytes>err.path))
    return raise_status(status, err)


cdef class Mapping:
    """Read-only bytes of a segment; made by Segment.view."""

    cdef object _io
    cdef mq_io *_table
    cdef bytes _file
    cdef void *_address
    cdef size_t _length
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t exports
    cdef object __weakref__

    def __cinit__(self):
        self._address = NULL

    def __init__(self):
        raise TypeError("Segment.view makes mappings")

    def __dealloc__(self):
        if self._address != NULL:
            mq_unmap(self._address, self._length)

    @property
    def path(self):
        return os.fsdecode(self._file)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._address, self.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def populate(self, Py_ssize_t start, Py_ssize_t end):
        cdef mq_error err
        cdef mq_status status
        cdef const char *path = self._file
        if not 0 <= start <= end <= self.size:
            raise ValueError("a range outside the mapping")
        with nogil:
            status = mq_map_populate(self._table, self._address, self._length, <uint64_t>start, <uint64_t>end, path,
                                     &err)
        if status != MQ_OK:
            raise_status(status, &err)


cdef class Segment:
    """An open segment. One thread appends; any number read, flush and look up beside it."""

    cdef mq_segment *_segment
    cdef object _io
    cdef mq_io *_table
    cdef Mapping _mapping
    cdef object __weakref__

    def __init__(self):
        raise TypeError("Segment.create or Segment.open make segments")

    def __dealloc__(self):
        mq_segment_free(self._segment)

    @classmethod
    def create(cls, io, directory, int64_t base_offset, *, index_interval_bytes, index_max_bytes, segment_bytes,
               bint preallocate):
        cdef Segment self = Segment.__new__(Segment)
        cdef mq_segment_limits limits
        cdef bytes name = _path(directory)
        cdef const char *c_name = name
        cdef mq_error err
        cdef mq_status status
        _set_limits(&limits, index_interval_bytes, index_max_bytes, segment_bytes, preallocate)
        self._io = io
        self._table = _io_of(io)
        with nogil:
            status = mq_segment_create(self._table, c_name, base_offset, &limits, &self._segment, &err)
        if status != MQ_OK:
            _raise(status, &err)
        return self

    @classmethod
    def open(cls, io, directory, int64_t base_offset, *, size, int64_t next_offset, bint writable,
             index_interval_bytes, index_max_bytes, segment_bytes, bint preallocate):
        cdef Segment self = Segment.__new__(Segment)
        cdef mq_segment_limits limits
        cdef bytes name = _path(directory)
        cdef mq_error err
        cdef mq_status status
        _set_limits(&limits, index_interval_bytes, index_max_bytes, segment_bytes, preallocate)
        self._io = io
        self._table = _io_of(io)
        status = mq_segment_open(self._table, name, base_offset, &limits, size, next_offset, writable, &self._segment,
                                 &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        return f"<Segment {self.path} size={self.size} next_offset={self.next_offset}>"

    @property
    def path(self):
        return os.fsdecode(<bytes>mq_segment_path(self._segment))

    @property
    def base_offset(self):
        return mq_segment_base_offset(self._segment)

    @property
    def next_offset(self):
        return mq_segment_next_offset(self._segment)

    @property
    def size(self):
        return mq_segment_size(self._segment)

    @property
    def flushed_size(self):
        return mq_segment_flushed_size(self._segment)

    @property
    def failed(self):
        return mq_segment_failed(self._segment)

    @property
    def closed(self):
        return mq_segment_closed(self._segment)

    @property
    def index_full(self):
        return self._info().index_full

    @property
    def max_timestamp(self):
        return self._info().max_timestamp

    @property
    def first_timestamp(self):
        return self._info().first_timestamp

    cdef mq_segment_info _info(self) except *:
        cdef mq_segment_info info
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_get_info(self._segment, &info, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return info

    def roomy(self, uint64_t incoming, int64_t last_offset, int64_t timestamp, uint64_t segment_bytes, int64_t segment_ms):
        cdef mq_segment_info info = self._info()
        cdef uint64_t size = mq_segment_size(self._segment)
        return (0 < size <= size + incoming <= min(segment_bytes, <uint64_t>INT32_MAX) and not info.index_full
                and last_offset - mq_segment_base_offset(self._segment) <= INT32_MAX
                and 0 <= info.first_timestamp and 0 <= timestamp and timestamp - info.first_timestamp <= segment_ms)

    def append(self, batches, int64_t base_offset, int32_t leader_epoch, int64_t append_time=-1):
        cdef Py_buffer view
        cdef uint64_t position = 0
        cdef int64_t next_offset = 0
        cdef mq_error err
        cdef mq_status status
        PyObject_GetBuffer(batches, &view, PyBUF_WRITABLE)
        with nogil:
            status = mq_segment_append(self._segment, <uint8_t *>view.buf, <size_t>view.len, base_offset,
                                       leader_epoch, append_time, &position, &next_offset, &err)
        PyBuffer_Release(&view)
        if status != MQ_OK:
            raise_status(status, &err)
        return position, next_offset

    def flush(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_flush(self._segment, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def seal(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_seal(self._segment, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def trim(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_trim(self._segment, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def write_indexes(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_write_indexes(self._segment, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def lookup(self, int64_t offset):
        cdef uint64_t position = 0
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_lookup(self._segment, offset, &position, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return position

    def lookup_batch_ends(self, uint64_t start, uint64_t max_bytes, int64_t limit_offset):
        cdef uint64_t end = 0
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_lookup_ends(self._segment, start, max_bytes, limit_offset, &end, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return end

    def lookup_time(self, int64_t timestamp):
        cdef int64_t offset = -1
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_lookup_time(self._segment, timestamp, &offset, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return offset

    @cython.critical_section
    def view(self, uint64_t end):
        cdef Mapping mapping = self._mapping
        cdef mq_error err
        cdef mq_status status
        if mapping is None or end > mapping._length:
            mapping = Mapping.__new__(Mapping)
            mapping._io = self._io
            mapping._table = self._table
            mapping._file = <bytes>mq_segment_path(self._segment)
            status = mq_segment_map(self._segment, end, &mapping._address, &mapping._length, &err)
            if status != MQ_OK:
                mapping._address = NULL
                raise_status(status, &err)
            self._mapping = mapping
        elif end > mq_segment_size(self._segment):
            raise ValueError("a view must end inside the data")
        if <Py_ssize_t>end > mapping.size:
            mapping.size = <Py_ssize_t>end
        return mapping

    def tail(self, uint64_t start, uint64_t max_bytes, int64_t limit_offset):
        cdef uint64_t end = 0
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_tail(self._segment, start, max_bytes, limit_offset, &end, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        if end <= start:
            return None
        cdef Mapping mapping = self.view(end)
        mapping.populate(<Py_ssize_t>start, <Py_ssize_t>end)
        return mapping, end

    def append_txn(self, int64_t producer_id, int64_t first_offset, int64_t last_offset, int64_t last_stable_offset):
        cdef mq_txn_entry entry
        cdef mq_error err
        cdef mq_status status
        entry.producer_id = producer_id
        entry.first_offset = first_offset
        entry.last_offset = last_offset
        entry.last_stable_offset = last_stable_offset
        with nogil:
            status = mq_segment_append_txn(self._segment, &entry, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def aborted(self, int64_t from_offset, int64_t to_offset):
        cdef mq_txn_entry *entries = NULL
        cdef size_t count = 0, i
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_txns(self._segment, &entries, &count, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        try:
            return [
                (entries[i].producer_id, entries[i].first_offset, entries[i].last_offset,
                 entries[i].last_stable_offset)
                for i in range(count)
                if entries[i].last_offset >= from_offset and entries[i].first_offset < to_offset
            ]
        finally:
            mq_free(entries)

    def truncate_to(self, int64_t offset):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_truncate(self._segment, offset, &err)
        self._mapping = None  # it may show the file as it was before the cut
        if status != MQ_OK:
            raise_status(status, &err)

    def refresh(self, uint64_t size, int64_t next_offset):
        cdef mq_error err
        cdef mq_status status = mq_segment_refresh(self._segment, size, next_offset, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def release_fd(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_release_fd(self._segment, &err)
        if status != MQ_OK:
            raise_status(status, &err)

    def close(self):
        cdef mq_error err
        cdef mq_status status
        with nogil:
            status = mq_segment_close(self._segment, &err)
        self._mapping = None
        if status != MQ_OK:
            raise_status(status, &err)


cdef int _set_limits(mq_segment_limits *limits, object interval, object index_max, object segment,
                     bint preallocate) except -1:
    limits.index_interval_bytes, limits.index_max_bytes = interval, index_max
    limits.segment_bytes, limits.preallocate = segment, preallocate
    return 0


cdef class Recovered:
    """What recover found in a segment's .log file."""

    cdef readonly str kind, problem
    cdef readonly list markers
    cdef readonly object valid_size, next_offset, batches, records, max_timestamp, offset_of_max_timestamp
    cdef readonly object file_size, problem_position, valid_after, last_leader_epoch

    def __repr__(self):
        return (f"<Recovered {self.kind} valid_size={self.valid_size} next_offset={self.next_offset} "
                f"file_size={self.file_size} problem={self.problem!r} at {self.problem_position} "
                f"valid_after={self.valid_after}>")


def recover(io, directory, int64_t base_offset, *, from_position=0, int64_t from_offset=-1,
            int64_t end_offset=0, max_batch_bytes, bint allow_gaps, index_interval_bytes=4096,
            index_max_bytes=10 << 20, bint sync_indexes=True, bint write_indexes=True, producers=None,
            markers_from=None):
    cdef mq_recover_options options
    cdef mq_recovered found
    cdef bytes name = _path(directory)
    cdef const char *c_name = name
    cdef mq_io *table = _io_of(io)
    cdef mq_error err
    cdef mq_status status
    memset(&found, 0, sizeof(found))
    options.from_position = from_position
    options.from_offset = from_offset
    options.end_offset = end_offset
    options.max_batch_bytes = max_batch_bytes
    options.allow_gaps = allow_gaps
    options.index_interval_bytes = index_interval_bytes
    options.index_max_bytes = index_max_bytes
    options.write_indexes = write_indexes
    options.sync_indexes = sync_indexes
    options.markers_from = INT64_MAX if markers_from is None else markers_from
    options.producers = NULL
    if producers is not None:
        options.producers = <mq_producers *>PyCapsule_GetPointer(producers._handle(), "mqcore.producers")
    with nogil:
        status = mq_segment_recover(table, c_name, base_offset, &options, &found, &err)
    try:
        if status != MQ_OK:
            _raise(status, &err)
        return _recovered(&found)
    finally:
        mq_recovered_free(&found)


cdef Recovered _recovered(mq_recovered *found):
    cdef Recovered result = Recovered.__new__(Recovered)
    cdef size_t i
    result.markers = [
        (found.markers[i].offset, found.markers[i].producer_id, found.markers[i].producer_epoch, found.markers[i].kind)
        for i in range(found.marker_count)
    ]
    result.kind = ("clean", "torn", "zeros", "bad")[<int>found.end]
    result.problem = (<bytes>found.problem).decode("utf-8", "replace")
    result.valid_size = found.valid_bytes
    result.next_offset = found.next_offset
    result.batches = found.batches
    result.records = found.records
    result.max_timestamp = found.max_timestamp
    result.offset_of_max_timestamp = found.offset_of_max_timestamp
    result.file_size = found.file_bytes
    result.problem_position = found.problem_position
    result.valid_after = found.valid_after
    result.last_leader_epoch = found.last_leader_epoch
    return result
