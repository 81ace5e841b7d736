"""The changelog of a state: an internal, compacted topic of one partition, `__state.<name>`, with a record a change.

Invariants:
    1. Key and value of a record are the pair's own; a null value takes the key away.
    2. A batch stays below the topic's max.message.bytes, whatever the pairs are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mqcore.errors import InvalidRecordError, RecordTooLargeError
from mqcore.log.view_pairs import KEY_BYTES_MAX

PREFIX = "__state."
CONFIG: dict[str, str | int] = {
    "cleanup.policy": "compact",
    "compression.type": "uncompressed",
    "segment.bytes": 64 << 20,  # small, so that the sealed part, which alone is compacted, is most of it
}
RECORD_OVERHEAD = 32  # bytes of a record beside key and value, at most
_BATCH_OVERHEAD = 128


def topic_of(name: str) -> str:
    return PREFIX + name


def check_key(key: Any) -> bytes:
    """The key as bytes. TypeError; RecordTooLargeError: longer than LMDB orders."""
    taken = key if isinstance(key, bytes) else _as_bytes(key, "key")
    if len(taken) > KEY_BYTES_MAX:
        raise RecordTooLargeError("a state's key is too long", size=len(taken), limit=KEY_BYTES_MAX)
    return taken


def check_value(value: Any) -> bytes:
    """The value as bytes. TypeError."""
    return value if isinstance(value, bytes) else _as_bytes(value, "value")


def _as_bytes(data: Any, what: str) -> bytes:
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a state's {what} is bytes, not {type(data).__name__}")


def room_for(max_message_bytes: int) -> int:
    """Bytes of key and value together that one record may have. InvalidRecordError: the topic takes none."""
    room = max_message_bytes - _BATCH_OVERHEAD - RECORD_OVERHEAD
    if room <= 0:
        raise InvalidRecordError("the changelog's max.message.bytes is too small", limit=max_message_bytes)
    return room


def size_of(changes: Mapping[bytes, bytes | None]) -> int:
    """Bytes of all keys and values."""
    return sum(map(len, changes)) + sum(map(len, filter(None, changes.values())))


def batches(
    changes: Mapping[bytes, bytes | None], size: int, max_message_bytes: int
) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
    """(keys, values) of the batches that the changes take. size: what `size_of` says of them."""
    room = room_for(max_message_bytes)
    if size + RECORD_OVERHEAD * len(changes) <= room:
        yield list(changes), list(changes.values())
        return
    keys: list[bytes] = []
    values: list[bytes | None] = []
    used = 0
    for key, value in changes.items():
        more = len(key) + len(value or b"") + RECORD_OVERHEAD
        if keys and used + more > room:
            yield keys, values
            keys, values, used = [], [], 0
        keys.append(key)
        values.append(value)
        used += more
    yield keys, values
