"""v2 record batches made by hand in Python: the oracle that the native code is compared with."""

from __future__ import annotations

import struct

from mqcore._native.crc32c import crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")


def varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag >= 0x80:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def record(delta: int, value: bytes, timestamp_delta: int = 0) -> bytes:
    body = b"\0" + varint(timestamp_delta) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(
    base_offset: int,
    values: list[bytes],
    *,
    timestamp: int = 1_000,
    attributes: int = 0,
    leader_epoch: int = 0,
    producer_id: int = -1,
) -> bytes:
    """One batch; every record has the same timestamp (ms)."""
    records = b"".join(record(delta, value) for delta, value in enumerate(values))
    count = len(values)
    head = HEADER.pack(
        base_offset, 49 + len(records), leader_epoch, 2, 0, attributes, count - 1, timestamp, timestamp, producer_id,
        0 if producer_id >= 0 else -1, 0 if producer_id >= 0 else -1, count,
    )  # fmt: skip
    crc = crc32c(head[21:] + records)
    return head[:17] + struct.pack(">I", crc) + head[21:] + records
