"""A partition log as a Python list: what views and the registry need of one, with power cuts and lost tails."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

from mqcore.log.internal_records import InternalRecord
from mqcore.types import IsolationLevel


@dataclass
class FakeLog:
    """records: (leader epoch, record). durable: offset below which records survive `crash`; -1: all are."""

    topic_id: uuid.UUID = field(default_factory=uuid.uuid4)
    records: list[tuple[int, InternalRecord]] = field(default_factory=list)
    durable: int = -1
    leader_epoch: int = 0
    log_start_offset: int = 0
    reads: int = 0

    def put(self, key: bytes | None, value: bytes | None) -> int:
        self.records.append((self.leader_epoch, InternalRecord(len(self.records), 0, key, value)))
        return len(self.records)

    def visible_end(self, isolation: IsolationLevel) -> int:
        assert isolation is IsolationLevel.READ_COMMITTED
        return len(self.records) if self.durable < 0 else self.durable

    def epoch_of(self, offset: int) -> int:
        return self.records[offset][0] if 0 <= offset < len(self.records) else -1

    def lose_tail(self, end: int) -> None:
        """An unclean open that found records only below `end`."""
        del self.records[end:]
        self.leader_epoch += 1

    def iterate(self, _: object, offset: int) -> Iterator[InternalRecord]:
        self.reads += 1
        for _epoch, record in self.records[offset : self.visible_end(IsolationLevel.READ_COMMITTED)]:
            yield record

    def read(self, offset: int, **_: object) -> list[InternalRecord] | None:
        """A slice, as far as `decode_slice` understands it."""
        return list(self.iterate(None, offset)) or None

    # What the registry writes: batches of internal_records.encode, taken apart again.

    def append(self, batches: bytearray) -> SimpleNamespace:
        for record in decode(bytes(batches), len(self.records)):
            self.records.append((self.leader_epoch, record))
        return SimpleNamespace(next_offset=len(self.records))

    def wait_durable(self, next_offset: int, timeout_s: float | None = None) -> None:
        assert next_offset <= len(self.records)
        if self.durable >= 0:
            self.durable = max(self.durable, next_offset)

    def fold(self) -> dict[bytes, bytes]:
        """What a plain dict makes of the durable records."""
        state: dict[bytes, bytes] = {}
        for _, record in self.records[: self.visible_end(IsolationLevel.READ_COMMITTED)]:
            if record.key is None:
                continue
            if record.value is None:
                state.pop(record.key, None)
            else:
                state[record.key] = record.value
        return state


def decode_slice(part: list[InternalRecord], _: int) -> Iterator[tuple[InternalRecord, int]]:
    """Stands in for internal_records._decode over a FakeLog."""
    return ((record, record.offset + 1) for record in part)


def decode(batch: bytes, base_offset: int) -> list[InternalRecord]:
    """Records of one uncompressed batch: a second reading of the format, for tests only."""
    (count,) = struct.unpack_from(">i", batch, 57)
    (base_timestamp,) = struct.unpack_from(">q", batch, 27)
    position, records = 61, []

    def varint() -> int:
        nonlocal position
        shift = value = 0
        while True:
            byte = batch[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    def data() -> bytes | None:
        nonlocal position
        size = varint()
        if size < 0:
            return None
        position += size
        return batch[position - size : position]

    for _ in range(count):
        end = varint() + position
        assert batch[position] == 0
        position += 1
        timestamp, delta = base_timestamp + varint(), varint()
        records.append(InternalRecord(base_offset + delta, timestamp, data(), data()))
        assert varint() == 0
        assert position == end
    assert position == len(batch)
    return records
