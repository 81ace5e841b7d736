"""One record batch from a few records, for internal topics, tools and tests. See encode.pyi."""
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

from batch_build cimport *
from borrow cimport Borrowed, borrow, give_back
from headers cimport encode_headers
from status cimport MQ_ETOOBIG, MQ_OK, mq_status

from mqcore.errors import InvalidRecordError, RecordTooLargeError


cdef int put(mq_chunk *c, bytearray room, object key, object value, object headers, int64_t timestamp) except -1:
    cdef Borrowed k, v
    cdef bytes h = encode_headers(headers) if headers else b""
    cdef mq_record r
    cdef mq_status status
    borrow(b"" if key is None else key, &k)
    try:
        borrow(b"" if value is None else value, &v)
        try:
            if k.size > MQ_RECORD_BYTES_MAX or v.size > MQ_RECORD_BYTES_MAX:
                raise RecordTooLargeError("a record is over the limit", size=k.size + v.size, limit=MQ_RECORD_BYTES_MAX)
            r.key, r.key_size = k.bytes, -1 if key is None else <int32_t>k.size
            r.value, r.value_size = v.bytes, -1 if value is None else <int32_t>v.size
            r.headers, r.headers_size, r.timestamp = <const uint8_t *>h, <uint32_t>len(h), timestamp
            if c.capacity - c.size < mq_record_room(&r) + 16:  # 16: deltas may take more than a first record's
                PyByteArray_Resize(room, <Py_ssize_t>(2 * c.capacity + mq_record_room(&r)))
                c.bytes, c.capacity = <uint8_t *>PyByteArray_AS_STRING(room), <size_t>len(room)
            status = mq_chunk_put(c, &r)
        finally:
            give_back(&v)
    finally:
        give_back(&k)
    if status == MQ_ETOOBIG:
        raise RecordTooLargeError("a batch is over the limit", limit=MQ_BATCH_BYTES_MAX)
    if status != MQ_OK:
        raise InvalidRecordError("a timestamp is negative", timestamp=timestamp)
    return 0


def build_batch(records, *, int64_t producer_id=-1, int16_t producer_epoch=-1, int32_t base_sequence=-1,
                uint16_t attributes=0):
    cdef bytearray room = bytearray(1024)
    cdef mq_chunk c
    mq_chunk_init(&c, <uint8_t *>PyByteArray_AS_STRING(room), 1024, MQ_BATCH_BYTES_MAX, MQ_BATCH_BYTES_MAX)
    c.producer_id, c.producer_epoch, c.base_sequence = producer_id, producer_epoch, base_sequence
    c.attributes = attributes
    for key, value, headers, timestamp in records:
        put(&c, room, key, value, headers, timestamp)
    mq_chunk_seal(&c)
    if c.records == 0:
        raise ValueError("a batch needs at least one record")
    PyByteArray_Resize(room, <Py_ssize_t>c.size)
    return room
