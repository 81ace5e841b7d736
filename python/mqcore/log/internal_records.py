"""Records of the store's own topics: a handful at a time, made and read by the store itself, never by a user.

Invariants:
    1. What `encode` makes is one uncompressed v2 batch (KIP-98) without a producer: Kafka's tools print it.
    2. `read_records` yields each data record once, in offset order, CRC checked; a damaged range raises
       CorruptBatchError and is never skipped (R3).
    3. Users' records never pass here: this encoder costs microseconds a record, the native one nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from mqcore._native.crc32c import crc32c
from mqcore.errors import CorruptBatchError, UnsupportedFormatError
from mqcore.types import IsolationLevel

_HEADER = struct.Struct(">qiibIhiqqqhii")  # see mqcore/include/mqcore/batch.h
_CRC = struct.Struct(">I")
_CRC_POSITION, _CRC_START, _LOG_OVERHEAD = 17, 21, 12
_READ_BYTES = 1 << 20
_ONE_BYTE = [b"\1", *(bytes([2 * value]) for value in range(64))]  # the varints of -1 .. 63


class InternalRecord(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class RecordSource(Protocol):
    """What is needed of a partition to read its records (PartitionLog)."""

    def read(self, offset: int, *, max_bytes: int = ..., isolation: IsolationLevel = ...) -> Any:
        """A slice of whole batches from `offset` on, None at the visible end."""


def encode(records: Sequence[tuple[bytes | None, bytes | None]], timestamp_ms: int) -> bytearray:
    """Return one record batch of (key, value) pairs, offsets 0 up: the log assigns them. At least one record."""
    assert records, "a batch holds at least one record"
    body = bytearray()
    for delta, (key, value) in enumerate(records):
        record = b"\0\0" + _varint(delta) + _bytes(key) + _bytes(value) + b"\0"
        body += _varint(len(record)) + record
    size = _HEADER.size + len(body)
    count = len(records)
    batch = bytearray(
        _HEADER.pack(0, size - _LOG_OVERHEAD, -1, 2, 0, 0, count - 1, timestamp_ms, timestamp_ms, -1, -1, -1, count)
    )
    batch += body
    _CRC.pack_into(batch, _CRC_POSITION, crc32c(memoryview(batch)[_CRC_START:]))
    return batch


def _varint(value: int) -> bytes:
    """Zig-zag varint, as records have it."""
    if -1 <= value < 64:
        return _ONE_BYTE[value + 1]
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _bytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def read_records(log: RecordSource, offset: int) -> Iterator[InternalRecord]:
    """Yield the records from `offset` to the last stable offset as it is when the iterator gets there.

    For topics without transactions: the records of aborted ones are not left out (reader.latest_values does that).

    Raises OffsetOutOfRangeError (offset below the log start), CorruptBatchError, StorageError.
    """
    while True:
        part = log.read(offset, max_bytes=_READ_BYTES, isolation=IsolationLevel.READ_COMMITTED)
        if part is None:
            return
        end = offset
        for record, next_offset in _decode(part, offset):
            end = next_offset
            if record is not None:
                yield record
        if end <= offset:
            raise CorruptBatchError("a read gave no record past its offset", offset=offset)
        offset = end


def _decode(part: Any, offset: int) -> Iterator[tuple[InternalRecord | None, int]]:
    """Yield (record, offset after it), and after each run of batches (None, offset after it), for gaps and markers."""
    from mqcore._native.batch import decode  # here: reading records needs it, making them does not

    position = part.start
    while position < part.end:
        columns, position = decode(part.mapping, position, part.end, min_offset=offset)
        for record in columns.iter_records():
            yield InternalRecord(record.offset, record.timestamp, record.key, record.value), record.offset + 1
        yield None, columns.next_offset
        if columns.compressed_next:
            raise UnsupportedFormatError("compressed batch in an internal topic", offset=columns.next_offset)
