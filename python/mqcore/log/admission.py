"""What a chunk of batches must be before it is appended: whole v2 batches within the topic's limits. Pure.

Only headers are looked at: CRC and records of batches from outside are checked by `check_batches`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from mqcore._native import batch as native
from mqcore.errors import CorruptBatchError, InvalidRecordError, RecordTooLargeError

if TYPE_CHECKING:
    from mqcore.config.topic import TopicConfig

# base_offset, batch_length, leader_epoch, magic, crc, attributes, last_offset_delta, base_timestamp, max_timestamp
_HEADER = struct.Struct(">qiibIHiqq")
_BATCH_HEADER_BYTES = 61
_BATCH_OVERHEAD = 12  # base offset and length: not counted in the length


class Chunk(NamedTuple):
    """What the headers of a chunk of batches say."""

    offsets: int  # how many it takes
    base_timestamp: int  # least base timestamp, -1 if none
    max_timestamp: int


def survey(view: memoryview, batch_bytes_max: int) -> Chunk:
    """Walk the headers of whole v2 batches back to back. RecordTooLargeError: a batch over batch_bytes_max bytes.
    CorruptBatchError: not whole v2 batches. The CRC is not computed."""
    facts = native.survey(view, batch_bytes_max)
    if facts is None:
        raise _refusal(view, batch_bytes_max)
    return Chunk(*facts)


def _refusal(view: memoryview, batch_bytes_max: int) -> Exception:
    """Why `survey` takes it not: the same walk, slowly."""
    size, at = len(view), 0
    while size - at >= _BATCH_HEADER_BYTES:
        _, length, _, magic, _, _, delta, _, _ = _HEADER.unpack_from(view, at)
        whole = length + _BATCH_OVERHEAD
        if magic != 2 or whole < _BATCH_HEADER_BYTES or whole > size - at or delta < 0:
            break
        if whole > batch_bytes_max:
            return RecordTooLargeError(
                "record batch over max.message.bytes", hint="Raise max.message.bytes", size=whole, limit=batch_bytes_max
            )
        at += whole
    if size == 0:
        return ValueError("batches is empty")
    if 0 < size - at < _BATCH_HEADER_BYTES:
        return CorruptBatchError("the chunk ends inside a batch header", position=at)
    return CorruptBatchError("the chunk is not made of whole v2 batches", position=at)


def check_timestamps(chunk: Chunk, config: TopicConfig, now_ms: int) -> None:
    """InvalidRecordError for create times outside the topic's bounds; -1 (no timestamp) passes. KIP-937."""
    if chunk.base_timestamp < -1:
        raise InvalidRecordError("negative timestamp", timestamp_ms=chunk.base_timestamp)
    if chunk.max_timestamp > now_ms + config.message_timestamp_after_max_ms:
        raise InvalidRecordError(
            "timestamp too far in the future",
            hint="message.timestamp.after.max.ms bounds it; use LogAppendTime if producers' clocks are wrong",
            timestamp_ms=chunk.max_timestamp,
            now_ms=now_ms,
        )
    if -1 < chunk.base_timestamp < now_ms - config.message_timestamp_before_max_ms:
        raise InvalidRecordError(
            "timestamp too far in the past",
            hint="message.timestamp.before.max.ms bounds it",
            timestamp_ms=chunk.base_timestamp,
            now_ms=now_ms,
        )
