# cython: boundscheck=False, wraparound=False, nonecheck=True
# nonecheck: `Columns.__new__(Columns)` from Python must be an error at its first use, never a crash.
"""Record batches as columns: offsets, timestamps, and where each value lies in the buffer that holds them.

Invariants:
    1. Values are not copied until they are asked for as bytes: a column is positions and lengths in the source buffer.
    2. Whatever is handed out (arrays, memoryviews, records, iterators) keeps the source buffer alive; none can write it.
    3. Positions and lengths were checked against the range when they were decoded and lie in memory of our own that
       nobody can write: so an access checks nothing again, and a writer that changes the bytes cannot make it stray.
    4. Keys and headers are found by a second look at the bytes, on demand, with every length checked again.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject_GenericGetAttr
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

import sys

import numpy as np

from core_batch cimport (
    mq_aborted, mq_arrow_size, mq_first_at_least, mq_columns, mq_header, mq_header_count, mq_header_next, mq_run, mq_run_columns,
    mq_run_free, mq_run_copy, mq_run_keys, mq_run_options, mq_run_plan,
)
from spare_memory cimport spare_give, spare_take
from value_bytes cimport PyObject, mq_bytes_forget, next_bytes
from status cimport MQ_ECORRUPT, MQ_OK, mq_error, mq_fail, mq_status, raise_status

cdef str VALUE = sys.intern("value")
_frombuffer = np.frombuffer
_INT64, _INT32, _UINT8 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8)


@cython.final
@cython.internal
cdef class Block:
    """Memory of our own, written once by the core and then read-only: what the arrays rest on."""

    cdef uint8_t *bytes
    cdef Py_ssize_t size
    cdef size_t capacity

    def __dealloc__(self):
        spare_give(self.bytes, self.capacity)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.bytes, self.size, 1, flags)


cdef Block new_block(Py_ssize_t size):
    cdef Block block = Block.__new__(Block)
    block.bytes = <uint8_t *>spare_take(size, &block.capacity)
    if block.bytes == NULL:
        raise MemoryError(f"{size} bytes for columns")
    block.size = size
    return block


# no_gc: the collector would clear view.obj without releasing the buffer. No cycle passes through here.
@cython.final
@cython.internal
@cython.no_gc
cdef class Run:
    """What several windows (Columns) share: the source buffer, the decoded block, the batches it came from."""

    cdef Py_buffer view
    cdef bint held
    cdef const uint8_t *bytes
    cdef Py_ssize_t end
    cdef mq_run run
    cdef Py_ssize_t room  # records planned: the stride of the block, even if damage cut the run short
    cdef Block block
    cdef Block key_block  # starts, then lengths; None until a key was asked for
    cdef object source    # a flat, read-only memoryview of the whole buffer

    def __dealloc__(self):
        mq_run_free(&self.run)
        if self.held:
            PyBuffer_Release(&self.view)

    cdef Block keys(self):
        """The key columns, made at the first call."""
        cdef Py_ssize_t count = <Py_ssize_t>self.run.records
        cdef mq_error err
        cdef mq_status status
        cdef Block block
        if self.key_block is None:
            block = new_block(count * 12)
            with nogil:
                status = mq_run_keys(self.bytes, &self.run, <int64_t *>block.bytes,
                                     <int32_t *>(block.bytes + count * 8), &err)
            if status != MQ_OK:
                raise_status(status, &err)
            self.key_block = block  # another thread may have made the same one: either is right
        return self.key_block

    cdef object memory(self):
        if self.source is None:
            source = memoryview(self.view.obj)
            self.source = (source if source.format == "B" and source.ndim == 1 else source.cast("B")).toreadonly()
        return self.source


@cython.final
cdef class Columns:
    """A window on decoded records; see columns.pyi."""

    cdef Run run
    cdef Py_ssize_t first, count
    cdef const uint8_t *bytes
    cdef const int64_t *offset_at
    cdef const int64_t *timestamp_at
    cdef const int64_t *start_at
    cdef const int32_t *length_at
    cdef object offset_array, timestamp_array, start_array, length_array
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly int64_t next_offset, expected_offset
    cdef readonly Py_ssize_t start_position, end_position
    cdef readonly bint compressed_next, transactional

    def __len__(self):
        return self.count

    cdef void point(self, Run run, Py_ssize_t first, Py_ssize_t count):
        """Aim at `count` records of the run from `first` on."""
        cdef Py_ssize_t total = run.room
        cdef const int64_t *words = <const int64_t *>run.block.bytes
        self.run, self.first, self.count, self.bytes = run, first, count, run.bytes
        self.offset_at = words + first
        self.timestamp_at = words + total + first
        self.start_at = words + 2 * total + first
        self.length_at = <const int32_t *>(words + 3 * total) + first

    cdef object array(self, Py_ssize_t column, object dtype, Py_ssize_t width):
        return _frombuffer(self.run.block, dtype, self.count, column * self.run.room * 8 + self.first * width)

    @property
    def offsets(self):
        if self.offset_array is None:
            self.offset_array = self.array(0, _INT64, 8)
        return self.offset_array

    @property
    def timestamps(self):
        if self.timestamp_array is None:
            self.timestamp_array = self.array(1, _INT64, 8)
        return self.timestamp_array

    @property
    def value_starts(self):
        if self.start_array is None:
            self.start_array = self.array(2, _INT64, 8)
        return self.start_array

    @property
    def value_lengths(self):
        if self.length_array is None:
            self.length_array = self.array(3, _INT32, 4)
        return self.length_array

    @property
    def buffer(self):
        return self.run.memory()

    @property
    def values(self):
        return make_values(self, self.start_at, self.length_at, self.run.block)

    @property
    def keys(self):
        cdef Block block = self.run.keys()
        return make_values(self, <const int64_t *>block.bytes + self.first,
                           <const int32_t *>(block.bytes + <Py_ssize_t>self.run.run.records * 8) + self.first, block)

    @property
    def first_offset(self):
        return self.offset_at[0] if self.count > 0 else self.next_offset

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        cdef Columns window = Columns.__new__(Columns)
        start = min(max(start, 0), self.count)
        stop = min(max(stop, start), self.count)
        window.point(self.run, self.first + start, stop - start)
        window.topic, window.partition = self.topic, self.partition
        window.start_position, window.end_position = self.start_position, self.end_position
        window.next_offset = self.offset_at[stop] if stop < self.count else self.next_offset
        window.expected_offset, window.compressed_next = -1, False
        return window

    def copy(self):
        cdef Columns result = self.slice(0, self.count)
        cdef Run source = self.run, run = Run.__new__(Run)
        cdef Py_ssize_t origin = self.start_position
        PyObject_GetBuffer(bytes(source.memory()[origin:source.end]), &run.view, PyBUF_SIMPLE)
        run.held, run.bytes, run.end, run.room = True, <const uint8_t *>run.view.buf, source.end - origin, source.room
        run.block = new_block(source.block.size)
        memcpy(run.block.bytes, source.block.bytes, source.block.size)
        if mq_run_copy(&source.run, origin, <int64_t *>run.block.bytes + 2 * run.room, &run.run) != MQ_OK:
            raise MemoryError("no memory for a copy of columns")
        result.point(run, self.first, self.count)
        result.start_position, result.end_position = 0, self.end_position - origin
        return result

    cdef Py_ssize_t at(self, Py_ssize_t index) except -1:
        """An index as Python gives it, as one of C's."""
        if index < 0:
            index += self.count
        if index < 0 or index >= self.count:
            raise IndexError("record index out of range")
        return index

    def record(self, Py_ssize_t index):
        return make_record(self, self.at(index))

    def headers(self, Py_ssize_t index):
        return self.headers_at(self.at(index))

    def iter_records(self):
        cdef RecordIterator it = RecordIterator.__new__(RecordIterator)
        it.load(self)
        return it

    def __iter__(self):
        return self.iter_records()

    cdef object value_at(self, Py_ssize_t i):
        return bytes_at(self.bytes, self.start_at[i], self.length_at[i])

    cdef object key_at(self, Py_ssize_t i):
        cdef Block block = self.run.keys()
        i += self.first
        return bytes_at(self.bytes, (<const int64_t *>block.bytes)[i],
                        (<const int32_t *>(block.bytes + <Py_ssize_t>self.run.run.records * 8))[i])

    cdef list headers_at(self, Py_ssize_t i):
        """Headers follow the value; its end is known, and the range's end bounds what they claim."""
        cdef const uint8_t *at = self.bytes + self.start_at[i] + max(self.length_at[i], 0)
        cdef const uint8_t *end = self.bytes + self.run.end
        cdef int32_t count = 0
        cdef mq_header header
        cdef mq_error err
        cdef list result = []
        cdef bint fits = mq_header_count(&at, end, &count)
        while fits and count > 0:
            fits = mq_header_next(&at, end, &header)
            if fits:
                name = (<const char *>header.key)[:header.key_length].decode("utf-8", "surrogateescape")
                result.append((name, bytes_at(header.value, 0, header.value_length)))
            count -= 1
        if not fits:
            mq_fail(&err, MQ_ECORRUPT, NULL, at - self.bytes, b"a batch changed while it was read")
            raise_status(MQ_ECORRUPT, &err)
        return result


cdef inline object bytes_at(const uint8_t *bytes, int64_t start, int32_t length):
    return None if length < 0 else PyBytes_FromStringAndSize(<const char *>bytes + start, length)


# No reference cycle passes through a record (it refers to columns, which refer to no record), so the collector need
# not know it; with the free list a record costs what its attributes cost.
@cython.final
@cython.no_gc
@cython.freelist(512)
cdef class Record:
    """One record, read when asked; see columns.pyi."""

    cdef Columns columns
    cdef Py_ssize_t index

    def __getattribute__(self, name):
        # The usual look-up through the type costs as much as making the bytes.
        if name is VALUE:
            return self.columns.value_at(self.index)
        return PyObject_GenericGetAttr(self, name)

    @property
    def value(self):
        return self.columns.value_at(self.index)

    @property
    def key(self):
        return self.columns.key_at(self.index)

    @property
    def offset(self):
        return self.columns.offset_at[self.index]

    @property
    def timestamp(self):
        return self.columns.timestamp_at[self.index]

    @property
    def headers(self):
        return self.columns.headers_at(self.index)

    @property
    def topic(self):
        return self.columns.topic

    @property
    def partition(self):
        return self.columns.partition

    def __repr__(self):
        return (f"Record(topic={self.topic!r}, partition={self.partition}, offset={self.offset}, "
                f"timestamp={self.timestamp}, key={self.key!r}, value={self.value!r})")


cdef inline Record make_record(Columns columns, Py_ssize_t index):
    cdef Record record = Record.__new__(Record)
    record.columns, record.index = columns, index
    return record


@cython.final
cdef class RecordIterator:
    """Records of one window after the other, in order; knows what it has handed out."""

    cdef Columns columns
    cdef Py_ssize_t index, count
    cdef object refill

    def __init__(self, refill=None):
        self.refill = refill

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i = self.index
        while i >= self.count:
            if self.refill is None or not self.refill(self):
                raise StopIteration
            i = self.index
        self.index = i + 1
        return make_record(self.columns, i)

    def load(self, Columns columns not None):
        self.columns, self.index, self.count = columns, 0, columns.count

    @property
    def next_offset(self):
        return self.columns.offset_at[self.index] if self.index < self.count else self.columns.next_offset

    def take_rest(self):
        cdef Py_ssize_t index = self.index
        self.index = self.count
        return self.columns.slice(index, self.count)


@cython.final
cdef class ValueIterator:
    """Bytes, or memoryviews, of one column."""

    cdef Columns columns
    cdef Block block
    cdef const uint8_t *bytes
    cdef const int64_t *starts
    cdef const int32_t *lengths
    cdef Py_ssize_t index, count
    cdef object source  # a memoryview to slice, or None for bytes
    cdef PyObject *spares[2]  # see value_bytes.pxd

    def __dealloc__(self):
        mq_bytes_forget(self.spares)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i = self.index
        if i >= self.count:
            raise StopIteration
        self.index = i + 1
        if self.source is None:
            return next_bytes(self.spares, i, self.bytes, self.starts[i], self.lengths[i])
        return None if self.lengths[i] < 0 else self.source[self.starts[i]:self.starts[i] + self.lengths[i]]


@cython.final
cdef class Values:
    """A column of byte ranges; see columns.pyi."""

    cdef Columns columns
    cdef Block block  # owns starts and lengths
    cdef const int64_t *starts
    cdef const int32_t *lengths

    def __len__(self):
        return self.columns.count

    def __getitem__(self, index):
        cdef Py_ssize_t i
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self.columns.count))]
        i = self.columns.at(index)
        if self.lengths[i] < 0:
            return None
        return self.columns.run.memory()[self.starts[i]:self.starts[i] + self.lengths[i]]

    cdef ValueIterator iterator(self, object source):
        cdef ValueIterator it = ValueIterator.__new__(ValueIterator)
        it.columns, it.block, it.bytes, it.source = self.columns, self.block, self.columns.bytes, source
        it.starts, it.lengths, it.count = self.starts, self.lengths, self.columns.count
        return it

    def __iter__(self):
        return self.iterator(self.columns.run.memory())

    def iter_bytes(self):
        return self.iterator(None)

    def to_list(self):
        cdef Py_ssize_t i
        return [bytes_at(self.columns.bytes, self.starts[i], self.lengths[i]) for i in range(self.columns.count)]

    def to_numpy(self):
        source = _frombuffer(self.columns.run.memory(), _UINT8)
        if self.starts == self.columns.start_at:
            return source, self.columns.value_starts, self.columns.value_lengths
        return (source,
                _frombuffer(self.block, _INT64, len(self), <const uint8_t *>self.starts - self.block.bytes),
                _frombuffer(self.block, _INT32, len(self), <const uint8_t *>self.lengths - self.block.bytes))

    @property
    def nbytes(self):
        return mq_arrow_size(self.lengths, self.columns.count)


cdef Values make_values(Columns columns, const int64_t *starts, const int32_t *lengths, Block block):
    cdef Values values = Values.__new__(Values)
    values.columns, values.block, values.starts, values.lengths = columns, block, starts, lengths
    return values


cdef Block aborted_block(object aborted, mq_run_options *options):
    """The core's list of aborted transactions: sorted, in memory of our own that outlives the call."""
    cdef list ranges = sorted(aborted)
    cdef Block block = new_block(len(ranges) * sizeof(mq_aborted))
    cdef mq_aborted *to = <mq_aborted *>block.bytes
    cdef Py_ssize_t i
    for i in range(len(ranges)):
        to[i].producer_id, to[i].first_offset, to[i].last_offset = ranges[i][:3]
    options.aborted, options.aborted_count = to, len(ranges)
    return block


cdef object window_of(Run run, int64_t min_offset, Py_ssize_t start, str topic, int partition):
    """The window on all that was decoded, without the records below min_offset, and where the next call starts."""
    cdef Columns columns = Columns.__new__(Columns)
    cdef Py_ssize_t count = <Py_ssize_t>run.run.records
    cdef Py_ssize_t cut = <Py_ssize_t>mq_first_at_least(<const int64_t *>run.block.bytes, count, min_offset)
    columns.point(run, cut, count - cut)
    columns.topic, columns.partition = topic, partition
    columns.start_position, columns.end_position = start, <Py_ssize_t>run.run.end
    columns.expected_offset = run.run.next_offset
    columns.next_offset = max(run.run.next_offset, min_offset)
    columns.compressed_next, columns.transactional = run.run.compressed_next, run.run.transactional
    return columns, columns.end_position


def decode(buffer, Py_ssize_t start=0, Py_ssize_t end=-1, *, int64_t min_offset=0, Py_ssize_t max_records=1 << 30,
           bint check_crc=True, int64_t first_offset=-1, bint contiguous=False, aborted=(), str topic="",
           int partition=-1):
    cdef Run run = Run.__new__(Run)
    cdef mq_run_options options
    cdef mq_columns columns
    cdef mq_error err
    cdef mq_status status
    cdef Block list_block
    cdef Py_ssize_t records
    PyObject_GetBuffer(buffer, &run.view, PyBUF_SIMPLE)
    run.held, run.bytes = True, <const uint8_t *>run.view.buf
    end = run.view.len if end == -1 else end
    if start < 0 or start > end or end > run.view.len:
        raise ValueError(f"range {start} .. {end} is not inside the buffer of {run.view.len} bytes")
    run.end = end
    options.start, options.end, options.min_offset, options.first_offset = start, end, min_offset, first_offset
    options.contiguous, options.max_records, options.check_crc = contiguous, max(max_records, 0), check_crc
    list_block = aborted_block(aborted, &options)
    with nogil:
        status = mq_run_plan(run.bytes, &options, &run.run, &err)
    if status != MQ_OK:
        raise_status(status, &err)
    records = <Py_ssize_t>run.run.records
    run.room, run.block = records, new_block(records * 28)
    columns.offsets = <int64_t *>run.block.bytes
    columns.timestamps = columns.offsets + records
    columns.value_starts = columns.timestamps + records
    columns.value_lengths = <int32_t *>(columns.value_starts + records)
    with nogil:
        status = mq_run_columns(run.bytes, &run.run, check_crc, &columns, &err)
    if status != MQ_OK:
        raise_status(status, &err)
    return window_of(run, min_offset, start, topic, partition)
