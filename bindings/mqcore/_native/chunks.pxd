# chunks.pxd -- the classes of mqcore._native.chunks, for the one other module that fills them (builder.pyx).
# It lies in a folder of the installed package's name on purpose: `from mqcore._native.chunks cimport Chunk` then looks
# for the class where it is at run time, which a pxd beside chunks.pyx would not.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from batch_build cimport mq_chunk
from status cimport mq_status

cdef enum State:
    OPEN, CLOSED, APPENDING, APPENDED, DONE, FAILED

cdef class Chunk:
    cdef mq_chunk c
    cdef uint8_t *pages  # the buffer; c.bytes lies in it
    cdef size_t room  # bytes of the buffer
    cdef Py_ssize_t exports
    cdef State stage
    cdef int32_t count
    cdef readonly int codec
    cdef readonly object level
    cdef readonly int64_t base_offset, next_offset
    cdef int64_t append_time_ms
    cdef readonly double opened_at
    cdef readonly Sink sink
    cdef readonly object owner  # the Accumulator, until it is done
    cdef readonly object error
    cdef readonly list callbacks
    cdef public bint reported
    cdef bint packing
    cdef int renumber(self) except -1

cdef class Sink:
    cdef readonly Topic topic
    cdef readonly int32_t partition
    cdef readonly Chunk chunk
    cdef bint leased
    cdef public uint32_t skew
    cdef public unsigned long owner
    cdef int32_t sequence  # of the next chunk that is opened, unless one before it fails
    cdef public int32_t stored  # the sequence after the last chunk that its log took
    cdef public bint unsure  # an append failed: the log must say what is stored
    cdef public object log
    cdef readonly object lock, queue

cdef class Topic:
    cdef readonly str name
    cdef readonly object info
    cdef list sinks
    cdef mq_chunk **open  # of each partition: its sink's chunk, NULL if there is none or it is leased
    cdef int32_t *before  # room for a count of each partition
    cdef readonly int32_t partitions
    cdef int32_t sticky
    cdef bint needs_key, consistent
    cdef object partitioner, level
    cdef size_t batch_max
    cdef int codec
    cdef int64_t before_max_ms, after_max_ms
    cdef int grow(self, int32_t partitions) except -1
    cpdef Sink sink(self, int32_t partition)
    cdef int32_t place(self, const uint8_t *key, int32_t size, object partition) except -2
    cdef int64_t time_of(self, timestamp) except? -1
    cdef int check_times(self, int64_t first, int64_t last, int64_t now) except -1
    cdef object refusal(self, mq_status status, size_t size, dict where)

cdef class Delivery:
    cdef Chunk chunk
    cdef int32_t index
    cdef int64_t timestamp
