# headers.pxd -- a record's headers, encoded once before the record is written.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t

from batch_build cimport (
    MQ_HEADERS_MAX, MQ_RECORD_BYTES_MAX, mq_header_put, mq_header_size, mq_put_varint, mq_varint_size,
)


cdef inline bytes encode_headers(object headers):
    """The count and the headers as they stand in a record. headers: pairs (str, bytes-like or None), or a dict.

    Raises TypeError for another shape, RecordTooLargeError for more or longer ones than a record may have.
    """
    from mqcore.errors import RecordTooLargeError
    cdef list pairs = []
    cdef size_t size
    cdef bytes name, value, room
    cdef uint8_t *p
    for item in headers.items() if isinstance(headers, dict) else headers:
        key, cell = item
        name = key.encode() if isinstance(key, str) else bytes(memoryview(key))
        pairs.append((name, cell if cell is None or type(cell) is bytes else bytes(memoryview(cell))))
    if len(pairs) > MQ_HEADERS_MAX:
        raise RecordTooLargeError("too many headers", count=len(pairs), limit=MQ_HEADERS_MAX)
    size = mq_varint_size(len(pairs))
    for name, value in pairs:
        if len(name) > MQ_RECORD_BYTES_MAX or (value is not None and len(value) > MQ_RECORD_BYTES_MAX):
            raise RecordTooLargeError("a header is over the limit of a record", limit=MQ_RECORD_BYTES_MAX)
        size += mq_header_size(<int32_t>len(name), -1 if value is None else <int32_t>len(value))
    if size > MQ_RECORD_BYTES_MAX:
        raise RecordTooLargeError("the headers are over the limit of a record", size=size, limit=MQ_RECORD_BYTES_MAX)
    room = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    p = mq_put_varint(<uint8_t *>PyBytes_AS_STRING(room), len(pairs))
    for name, value in pairs:
        p = mq_header_put(p, <const uint8_t *>PyBytes_AS_STRING(name), <int32_t>len(name),
                          NULL if value is None else <const uint8_t *>PyBytes_AS_STRING(value),
                          -1 if value is None else <int32_t>len(value))
    return room
