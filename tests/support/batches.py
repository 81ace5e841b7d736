"""v2 record batches made the slow, plain way: what the readers are compared with. Independent of the core's encoder."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import google_crc32c
from hypothesis import strategies as st

from mqcore.codecs import compress

LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
HEADER_BYTES = 61


@dataclass(frozen=True)
class Plain:
    """One record as a test sees it. timestamp: ms; offset: -1 means one after the record before."""

    value: bytes | None = b""
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=tuple)
    timestamp: int = 1_700_000_000_000
    offset: int = -1


def varint(value: int) -> bytes:
    raw = ((value << 1) ^ (value >> 63)) & (1 << 64) - 1
    result = bytearray()
    while raw >= 0x80:
        result.append(raw & 0x7F | 0x80)
        raw >>= 7
    result.append(raw)
    return bytes(result)


def _blob(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def numbered(records: Sequence[Plain], base_offset: int) -> list[Plain]:
    """The same records with the offsets that `encode` gives them."""
    result, offset = [], base_offset
    for record in records:
        offset = record.offset if record.offset >= 0 else offset
        result.append(Plain(record.value, record.key, tuple(record.headers), record.timestamp, offset))
        offset += 1
    return result


def encode(
    records: Sequence[Plain],
    base_offset: int = 0,
    *,
    codec: int = 0,
    attributes: int = 0,
    max_timestamp: int | None = None,
    producer_id: int = -1,
    producer_epoch: int = 0,
    base_sequence: int = 0,
    leader_epoch: int = 0,
    last_offset: int | None = None,
) -> bytes:
    """One batch. max_timestamp: what a log-append-time batch shows for all of its records."""
    placed = numbered(records, base_offset)
    first = placed[0].timestamp if placed else 0
    body = bytearray()
    for record in placed:
        inner = b"\0" + varint(record.timestamp - first) + varint(record.offset - base_offset)
        inner += _blob(record.key) + _blob(record.value) + varint(len(record.headers))
        for name, value in record.headers:
            inner += _blob(name.encode("utf-8", "surrogateescape")) + _blob(value)
        body += varint(len(inner)) + inner
    payload = bytes(compress(codec, bytes(body))) if codec else bytes(body)
    last = last_offset if last_offset is not None else placed[-1].offset if placed else base_offset
    top = max_timestamp if max_timestamp is not None else max((r.timestamp for r in placed), default=-1)
    tail = struct.pack(">hiqq", attributes | codec, last - base_offset, first, top)
    tail += struct.pack(">qhii", producer_id, producer_epoch, base_sequence, len(placed)) + payload
    crc = google_crc32c.value(tail)
    return struct.pack(">qiibI", base_offset, len(tail) + 9, leader_epoch, 2, crc) + tail


def marker(base_offset: int, producer_id: int, *, commit: bool) -> bytes:
    """A control batch that ends a transaction (KIP-98)."""
    record = Plain(value=struct.pack(">hi", 0, 0), key=struct.pack(">hh", 0, int(commit)))
    return encode([record], base_offset, attributes=TRANSACTIONAL | CONTROL, producer_id=producer_id, base_sequence=-1)


def plain_records(max_size: int = 12, value_bytes_max: int = 300) -> st.SearchStrategy[list[Plain]]:
    """Lists of records: empty and long values, nulls, headers with odd names, any timestamps that differ by int64."""
    blobs = st.none() | st.binary(max_size=value_bytes_max)
    headers = st.lists(st.tuples(st.text(max_size=8), blobs), max_size=3).map(tuple)
    times = st.integers(-(1 << 61), 1 << 61) | st.integers(1_600_000_000_000, 1_800_000_000_000)
    return st.lists(st.builds(Plain, blobs, blobs, headers, times), min_size=1, max_size=max_size)
