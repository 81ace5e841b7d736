"""Records of transactions: the coordinator's in `__transaction_state`, and the markers that end a transaction in a partition.

Layouts (big-endian; string: int16 length, UTF-8), as Kafka has them, so that its tools print them:
    key     int16 version 0 | string transactional id
    value   int16 version 0 | int64 producer id | int16 producer epoch | int32 time-out ms | int8 status
            | int32 topics (-1: none) { string topic | int32 count | int32 partition ... } | int64 updated ms | int64 started ms
            version 1 is the same in compact form with tagged fields: read, never written; null: the id has expired
    marker  key int16 version | int16 kind (0 abort, 1 commit); value int16 version | int32 coordinator epoch

Invariants:
    1. `decode_value(encode_value(record)) == record`.
    2. Wrong bytes raise StoreFormatError: a decision is never guessed.
    3. `decides` never believes a marker that was written before its decision.
Source: Kafka's TransactionLogKey/TransactionLogValue/EndTxnMarker message definitions, KIP-98, KIP-890, KIP-915.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from mqcore.errors import StoreFormatError

ABORT, COMMIT = 0, 1  # kinds of marker

_KEY = struct.Struct(">hh")
_HEAD = struct.Struct(">hqhib")
_TAIL = struct.Struct(">qq")
_INT32 = struct.Struct(">i")
_ID_BYTES_MAX = 32767


class Status(IntEnum):
    """State of a transactional id, numbered as Kafka stores it."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def is_decided(self) -> bool:
        """Prepared and not complete: the decision stands, markers may be missing."""
        return self in (Status.PREPARE_COMMIT, Status.PREPARE_ABORT)


Partitions = tuple[tuple[str, tuple[int, ...]], ...]
"""((topic, (partition, …)), …), each ascending."""


class TransactionRecord(NamedTuple):
    """A value of `__transaction_state`. Times: wall clock, ms; started_ms -1: no transaction yet."""

    producer_id: int
    epoch: int
    timeout_ms: int
    status: Status
    partitions: Partitions
    updated_ms: int
    started_ms: int


class Decided(NamedTuple):
    """The last that the log of decisions says of one producer id."""

    epoch: int
    status: Status


def encode_key(transactional_id: str) -> bytes:
    """Raises ValueError: an id over 32,767 bytes."""
    raw = transactional_id.encode()
    if len(raw) > _ID_BYTES_MAX:
        raise ValueError("a transactional id is at most 32767 bytes")
    return _KEY.pack(0, len(raw)) + raw


def decode_key(key: bytes) -> str:
    """The transactional id. StoreFormatError."""
    try:
        version, size = _KEY.unpack_from(key)
        if version != 0 or size < 0 or len(key) != _KEY.size + size:
            raise StoreFormatError("a transaction's key has another version or length", version=version)
        return key[_KEY.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreFormatError("unreadable key of a transaction", reason=str(error)) from None


def grouped(partitions: Iterable[tuple[str, int]]) -> Partitions:
    """(topic, partition) pairs by topic, sorted."""
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return tuple((topic, tuple(numbers)) for topic, numbers in topics.items())


def encode_partitions(partitions: Partitions) -> bytes:
    """The part of a value that grows: the same transactions touch the same partitions, so callers may keep it."""
    out = [_INT32.pack(len(partitions))]
    for topic, numbers in partitions:
        name = topic.encode()
        out.append(struct.pack(f">h{len(name)}si{len(numbers)}i", len(name), name, len(numbers), *numbers))
    return b"".join(out)


def encode_value(record: TransactionRecord, partitions: bytes | None = None) -> bytes:
    """partitions: what encode_partitions gives for the record's, if known."""
    if partitions is None:
        partitions = encode_partitions(record.partitions)
    producer_id, epoch, timeout_ms, status, _, updated_ms, started_ms = record
    return _HEAD.pack(0, producer_id, epoch, timeout_ms, status) + partitions + _TAIL.pack(updated_ms, started_ms)


def decode_value(value: bytes) -> TransactionRecord:
    """Versions 0 and 1. StoreFormatError."""
    try:
        version, producer_id, epoch, timeout_ms, status = _HEAD.unpack_from(value)
        if version not in (0, 1):
            raise StoreFormatError(
                "a transaction's record has a version that this mqcore does not know", version=version
            )
        reader = _Reader(value, _HEAD.size, compact=version == 1)
        partitions = reader.partitions()
        updated_ms, started_ms = _TAIL.unpack_from(value, reader.at)
        if version == 0 and reader.at + _TAIL.size != len(value):
            raise StoreFormatError("bytes after a transaction's record", size=len(value))
        return TransactionRecord(producer_id, epoch, timeout_ms, Status(status), partitions, updated_ms, started_ms)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise StoreFormatError("unreadable record of a transaction", reason=str(error)) from None


def peek(value: bytes) -> tuple[int, Decided]:
    """(producer id, what it decides) of a value, without its partitions. StoreFormatError."""
    try:
        version, producer_id, epoch, _, status = _HEAD.unpack_from(value)
        if version not in (0, 1):
            raise StoreFormatError(
                "a transaction's record has a version that this mqcore does not know", version=version
            )
        return producer_id, Decided(epoch, Status(status))
    except (struct.error, ValueError) as error:
        raise StoreFormatError("unreadable record of a transaction", reason=str(error)) from None


class _Reader:
    """A cursor over a value's partitions; struct and slices bound every read."""

    def __init__(self, data: bytes, at: int, *, compact: bool) -> None:
        self._data, self.at, self._compact = data, at, compact

    def _length(self, code: str) -> int:
        if not self._compact:
            size: int = struct.unpack_from(code, self._data, self.at)[0]
            self.at += struct.calcsize(code)
            return size
        size = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                return size - 1
            shift += 7
            if shift > 28:
                raise ValueError("a length is too long")

    def _skip_tags(self) -> None:
        if self._compact and self._data[self.at] != 0:
            raise ValueError("unknown tagged field")
        self.at += self._compact

    def partitions(self) -> Partitions:
        topics = []
        for _ in range(self._length(">i")):
            size = self._length(">h")
            if size < 0 or self.at + size > len(self._data):
                raise ValueError("a topic's name passes the end")
            name = self._data[self.at : self.at + size].decode()
            self.at += size
            count = self._length(">i")
            if not 0 <= count <= (len(self._data) - self.at) // 4:
                raise ValueError("more partitions than bytes")
            topics.append((name, struct.unpack_from(f">{count}i", self._data, self.at)))
            self.at += 4 * count
            self._skip_tags()
        return tuple(topics)


def decode_marker(key: bytes, value: bytes) -> tuple[int, int]:
    """(kind, coordinator epoch) of a control record. StoreFormatError: it is no transaction's."""
    try:
        version, kind = struct.unpack_from(">hh", key)
        epoch: int = struct.unpack_from(">hi", value)[1]
    except struct.error as error:
        raise StoreFormatError("unreadable control record", reason=str(error)) from None
    if version < 0 or kind not in (ABORT, COMMIT):
        raise StoreFormatError("a control record of another kind", kind=kind, version=version)
    return kind, epoch


def decides(decided: Decided | None, epoch: int, kind: int) -> bool:
    """Whether a marker (its epoch and kind) follows from what the log of decisions says last of its producer.

    A transaction's end bumps the epoch: PREPARE, markers and COMPLETE carry the new one, which no other transaction's
    decision carries. A higher epoch in the log, or a state after the end, therefore proves that this one was decided.
    """
    if decided is None or decided.epoch < epoch:
        return False
    if decided.epoch > epoch:
        return True
    if decided.status in (Status.PREPARE_COMMIT, Status.COMPLETE_COMMIT):
        return kind == COMMIT
    if decided.status in (Status.PREPARE_ABORT, Status.COMPLETE_ABORT):
        return kind == ABORT
    return decided.status in (Status.EMPTY, Status.ONGOING)
