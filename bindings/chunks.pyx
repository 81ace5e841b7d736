"""What goes from a producer to a log, and what comes back: chunks of batches, their sinks, topics and deliveries.

Public names and their contracts: chunks.pyi. builder.pyx fills chunks; mqcore/client/dispatch.py takes them to the logs.
Invariants:
    1. A chunk is open -> closed -> appending -> appended -> done, or failed; never back.
    2. Its buffer goes back to its accumulator only when it is done or failed, and only if nobody holds a view of it.
       Deliveries keep the chunk, not the buffer.
    3. A chunk's error is raised by each result() of its records, as one and the same exception.
    4. With a producer id, the chunks that a log takes have consecutive sequences, though any of them may fail: a chunk is
       numbered when it is opened, as if those before it went well, and again at its append if one did not.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport free

from batch_build cimport *
from borrow cimport Borrowed, borrow, give_back
from hash cimport mq_consistent_partition, mq_kafka_partition
from status cimport MQ_ETOOBIG, mq_status

cdef extern from "mqcore/alloc.h":
    void *mq_alloc_zeroed(size_t size)

import threading
from collections import deque
from operator import index

from mqcore.errors import FatalError, InvalidRecordError, RecordTooLargeError, UnknownTopicError
from mqcore.types import RecordMetadata


@cython.final
cdef class Chunk:
    """Whole v2 batches in one writable buffer, on their way to a log, which patches them in place."""

    def __dealloc__(self):
        free(self.pages)

    def __len__(self):
        return self.c.batch_start

    @property
    def records(self):
        return self.count

    @property
    def state(self):
        return STATES[self.stage]

    @property
    def producer_id(self):
        return self.c.producer_id

    @property
    def producer_epoch(self):
        return self.c.producer_epoch

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.c.bytes == NULL:
            raise BufferError("this chunk is finished: its buffer was given back")
        PyBuffer_FillInfo(view, self, self.c.bytes, <Py_ssize_t>self.c.batch_start, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1
        if self.exports == 0 and self.stage >= DONE:  # the last view of a buffer that could not go back: see take_back
            free(self.pages)
            self.pages = self.c.bytes = NULL

    def begin(self):
        """closed or appending (its append was interrupted) -> appending; False if it is in another state."""
        if self.stage != CLOSED and self.stage != APPENDING:
            return False
        if self.stage == CLOSED and self.c.producer_id >= 0 and mq_batches_sequence(self.c.bytes) != self.sink.stored:
            self.renumber()
        self.stage = APPENDING
        return True

    cdef int renumber(self) except -1:
        """A chunk before it failed: this one takes the sequences of that, those behind it the ones after."""
        cdef Sink sink = self.sink
        cdef Chunk other
        cdef int64_t sequence = sink.stored
        mq_batches_restamp(self.c.bytes, self.c.batch_start, sink.stored, self.c.seal_later)
        for other in list(sink.queue):  # this one is the first; what is open still follows when it is closed
            sequence += other.count
        sink.sequence = <int32_t>(sequence & INT32_MAX)
        return 0

    def appended(self, int64_t base_offset, int64_t next_offset, int64_t append_time_ms, bint duplicate=False):
        """appending -> appended: the log took it (duplicate: before)."""
        self.base_offset, self.next_offset, self.append_time_ms = base_offset, next_offset, append_time_ms
        self.sink.stored = (self.sink.stored + self.count) & INT32_MAX
        self.stage = APPENDED

    def finish(self, error=None):
        """-> done, or failed with the error: the buffer goes back. Returns the callbacks, once."""
        cdef list callbacks = self.callbacks
        if self.stage >= DONE:
            return []
        self.error = error
        self.stage = DONE if error is None else FAILED
        self.callbacks = None
        if self.owner is not None:
            self.owner.take_back(self)
            self.owner = None
        return callbacks or []

    def repack(self, compress):
        """Compress each batch: compress(codec, records, level) -> bytes-like. Without a codec: nothing to do."""
        cdef size_t read = 0, write = 0, size
        cdef Borrowed packed
        if not self.c.seal_later:
            return
        if self.packing:  # some batches are, some are not, and none can be told from the other
            raise FatalError("the compression of these records was interrupted: none of them is stored")
        self.packing = True
        cdef object view = memoryview(self)
        while read < self.c.batch_start:
            size = mq_load_be32(self.c.bytes + read + 8) + MQ_BATCH_LOG_OVERHEAD
            smaller = compress(self.codec, view[read + MQ_BATCH_HEADER:read + size], self.level)
            borrow(smaller, &packed)
            write += mq_batch_repack(self.c.bytes + write, self.c.bytes + read, size, packed.bytes, packed.size,
                                     <unsigned>self.codec)
            give_back(&packed)
            read += size
        view.release()
        self.c.size = self.c.batch_start = write
        self.c.seal_later = False


STATES = ("open", "closed", "appending", "appended", "done", "failed")


@cython.final
cdef class Sink:
    """One partition as a producer sees it. lock guards its appends; owner is the thread that holds it (0: none)."""


@cython.final
cdef class Topic:
    """What a producer must know of a topic to take a record: see chunks.pyi."""

    def __init__(self, str name not None, int32_t sticky=0):
        self.name, self.sticky, self.sinks = name, sticky, []

    def configure(self, info, int32_t partitions, *, size_t max_message_bytes=1048588, bint needs_key=False,
                  partitioner="default", int codec=0, level=None, int64_t before_max_ms=-1, int64_t after_max_ms=-1):
        if partitions < 1 or partitions < self.partitions:
            raise ValueError(f"partitions must be at least {max(1, self.partitions)}, not {partitions}")
        self.grow(partitions)
        self.info, self.needs_key, self.codec, self.level = info, needs_key, codec, level
        self.partitioner = None if isinstance(partitioner, str) else partitioner
        self.consistent = partitioner == "consistent"
        # Compressed, a batch may shrink below the limit: then the log measures it.
        self.batch_max = MQ_BATCH_BYTES_MAX if codec else max_message_bytes
        self.before_max_ms, self.after_max_ms = before_max_ms, after_max_ms
        self.sticky %= partitions
        self.partitions = partitions

    cdef int grow(self, int32_t partitions) except -1:
        cdef mq_chunk **open = <mq_chunk **>mq_alloc_zeroed(<size_t>partitions * sizeof(mq_chunk *))
        cdef int32_t *before = <int32_t *>mq_alloc_zeroed(<size_t>partitions * sizeof(int32_t))
        cdef int32_t i
        if open == NULL or before == NULL:
            free(open)
            free(before)
            raise MemoryError()
        self.sinks.extend([None] * (partitions - len(self.sinks)))
        for i in range(self.partitions):
            open[i] = self.open[i]
        free(self.open)
        free(self.before)
        self.open, self.before = open, before
        return 0

    def __dealloc__(self):
        free(self.open)
        free(self.before)

    cpdef Sink sink(self, int32_t partition):
        cdef Sink sink = <Sink>PyList_GET_ITEM(self.sinks, partition)
        if sink is None:
            sink = Sink.__new__(Sink)
            sink.topic, sink.partition, sink.lock, sink.queue = self, partition, threading.Lock(), deque()
            if self.sinks[partition] is not None:  # making it may have let another thread in
                return self.sinks[partition]
            self.sinks[partition] = sink
        return sink

    def made_sinks(self):
        """The sinks of partitions that were written to."""
        return [sink for sink in self.sinks if sink is not None]

    def check(self, first, last, int64_t now):
        """Check the bounds of many timestamps (ms)."""
        self.check_times(self.time_of(first), self.time_of(last), now)

    cdef int32_t place(self, const uint8_t *key, int32_t size, object partition) except -2:
        """The partition for a record; -1: any (the sticky one)."""
        cdef int32_t chosen
        if partition is None:
            if size < 0:
                if self.needs_key:
                    raise InvalidRecordError("a compacted topic needs a key in each record", topic=self.name)
                return -1
            if self.partitioner is None:
                if self.consistent:
                    return mq_consistent_partition(key, <size_t>size, self.partitions)
                return mq_kafka_partition(key, <size_t>size, self.partitions)
            partition = self.partitioner(key[:size], self.partitions)
        elif size < 0 and self.needs_key:
            raise InvalidRecordError("a compacted topic needs a key in each record", topic=self.name)
        try:
            chosen = index(partition)
        except OverflowError:
            chosen = -1
        if not 0 <= chosen < self.partitions:
            raise UnknownTopicError("no such partition", topic=self.name, partition=partition, partitions=self.partitions)
        return chosen

    cdef int64_t time_of(self, timestamp) except? -1:
        """A timestamp from outside as 64 bits."""
        try:
            return index(timestamp)  # C would cut a float short: time.time() would be a day in 1970
        except OverflowError:
            raise InvalidRecordError("a timestamp does not fit 64 bits", topic=self.name, timestamp=timestamp) from None

    cdef int check_times(self, int64_t first, int64_t last, int64_t now) except -1:
        if first < 0:
            raise InvalidRecordError("a timestamp is negative", topic=self.name, timestamp=first)
        if self.before_max_ms >= 0 and first < now - self.before_max_ms:
            raise InvalidRecordError("a timestamp is too far in the past (message.timestamp.before.max.ms)",
                                     topic=self.name, timestamp=first, limit=now - self.before_max_ms)
        if self.after_max_ms >= 0 and last - now > self.after_max_ms:
            raise InvalidRecordError("a timestamp is too far in the future (message.timestamp.after.max.ms)",
                                     topic=self.name, timestamp=last, limit=now + self.after_max_ms)
        return 0

    cdef object refusal(self, mq_status status, size_t size, dict where):
        if status == MQ_ETOOBIG:
            return RecordTooLargeError("a record is over the topic's max.message.bytes", topic=self.name,
                                       size=size, limit=self.batch_max, **where)
        return InvalidRecordError("a negative timestamp, or array offsets that fall", topic=self.name, **where)


@cython.final
@cython.no_gc  # no cycle outlives its chunk: callbacks, the way to one, are dropped when it is done
@cython.freelist(512)
cdef class Delivery:
    """The outcome of one send."""

    def done(self):
        return is_done(self.chunk)

    def result(self, timeout=None):
        cdef Chunk chunk = self.chunk
        wait(chunk, timeout)
        return RecordMetadata(
            chunk.sink.topic.name, chunk.sink.partition, chunk.base_offset + self.index,
            chunk.append_time_ms if chunk.append_time_ms >= 0 else self.timestamp)

    def span(self):
        """(chunk, index of the record in it, 1): see BulkDelivery."""
        return self.chunk, self.index, 1

    def exception(self, timeout=None):
        try:
            wait(self.chunk, timeout)
        except Exception as error:
            if self.chunk is None or self.chunk.stage != FAILED:
                raise
            return error
        return None

    def add_done_callback(self, fn):
        add_callback(self.chunk, fn, self)


cpdef bint is_done(Chunk chunk) except -1:
    """Whether the chunk is done or failed; looks at its log first."""
    if chunk is None:
        raise TypeError("this delivery was not made by a producer")
    if chunk.stage == APPENDED:
        chunk.owner._look(chunk)
    return chunk.stage >= DONE


cpdef int wait(Chunk chunk, object timeout) except -1:
    """Return when the chunk is done; raise its error if it failed."""
    if not is_done(chunk):
        chunk.owner._wait(chunk, timeout)
    if chunk.stage == FAILED:
        chunk.reported = True
        raise chunk.error
    return 0


cpdef int add_callback(Chunk chunk, object fn, object delivery) except -1:
    """Have fn(delivery) called when the chunk is done or failed; at once if it is."""
    if is_done(chunk):
        fn(delivery)
        return 0
    if chunk.callbacks is None:
        chunk.callbacks = []
    chunk.callbacks.append((fn, delivery))
    chunk.owner._arm()  # somebody must see the end of it, though nobody waits
    return 0


