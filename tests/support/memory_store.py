"""A partition, a marks page and a store in memory: what readers and consumers need, without files."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import NamedTuple

from mqcore._native.batch import scan
from mqcore.errors import OffsetOutOfRangeError, UnknownTopicError
from mqcore.log.reader import first_at_or_after
from mqcore.types import IsolationLevel
from tests.support.batches import Plain, encode


class FakeMapping(bytearray):
    path = "fake/00000000000000000000.log"


class FakeSlice(NamedTuple):
    mapping: FakeMapping
    start: int
    end: int
    compacted: bool


class FakeMarks:
    """One word; waits are woken by `publish`."""

    def __init__(self) -> None:
        self._changed, self._word, self.waits = threading.Condition(), 0, 0

    def sequence(self, slot: int = -1) -> int:
        return self._word

    def wait(self, seen: int, timeout_s: float | None, slot: int = -1) -> bool:
        with self._changed:
            self.waits += 1
            return self._changed.wait_for(lambda: self._word != seen, timeout_s)

    def closed(self) -> bool:
        return False

    def publish(self) -> None:
        with self._changed:
            self._word += 1
            self._changed.notify_all()


@dataclass
class FakeLog:
    """Batches back to back in one 'segment'; a test may damage `data`; `rows` are as it was added.

    stable: the last stable offset, if below the end.
    """

    topic: str = "t"
    partition: int = 0
    marks: FakeMarks = field(default_factory=FakeMarks)
    topic_id: uuid.UUID = field(default_factory=uuid.uuid4)
    deleted: bool = False
    compacted: bool = False
    log_start_offset: int = 0
    stable: int = -1
    aborted_transactions: list[tuple[int, int, int, int]] = field(default_factory=list)
    data: bytes = b""
    rows: list[tuple[int, int, int]] = field(default_factory=list)  # base offset, last offset, end position
    end_offset: int = 0

    def add(self, batches: bytes) -> None:
        base = len(self.data)
        for row in scan(batches)[0]:
            self.rows.append(
                (int(row["base_offset"]), int(row["last_offset"]), base + int(row["position"] + row["size"]))
            )
        self.data += batches
        self.end_offset = self.rows[-1][1] + 1
        self.marks.publish()

    def append(self, *values: bytes | None, codec: int = 0, timestamp: int = 1_700_000_000_000) -> None:
        self.add(encode([Plain(v, timestamp=timestamp) for v in values], self.end_offset, codec=codec))

    def visible_end(self, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED) -> int:
        stable = self.stable if self.stable >= 0 else self.end_offset
        return stable if isolation == IsolationLevel.READ_COMMITTED else self.end_offset

    def aborted(self, from_offset: int, to_offset: int) -> list[tuple[int, int, int, int]]:
        return self.aborted_transactions

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | None:
        return first_at_or_after(self, self.log_start_offset, timestamp_ms)

    def read(
        self, offset: int, *, max_bytes: int = 1 << 20, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> FakeSlice | None:
        end = self.visible_end(isolation)
        if not self.log_start_offset <= offset <= self.end_offset:
            raise OffsetOutOfRangeError("offset out of range", offset=offset)
        if offset >= end:
            return None
        start = stop = -1
        position = 0
        for _, last, row_end in self.rows:
            if last >= offset and last < end:
                start = position if start < 0 else start
                if stop >= 0 and row_end - start > max_bytes:
                    break
                stop = row_end
            position = row_end
        return FakeSlice(FakeMapping(self.data), start, stop, self.compacted) if start >= 0 else None


class FakeInfo(NamedTuple):
    name: str
    topic_id: uuid.UUID
    partitions: int


class FakeStore:
    """Topics of FakeLogs on one FakeMarks."""

    def __init__(self, **topics: int) -> None:
        self.marks = FakeMarks()
        self.logs: dict[str, list[FakeLog]] = {}
        for name, partitions in topics.items():
            self.create_topic(name, partitions)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        topic_id = uuid.uuid4()
        self.logs[name] = [FakeLog(name, number, self.marks, topic_id) for number in range(partitions)]

    def delete_topic(self, name: str) -> None:
        for log in self.logs.pop(name):
            log.deleted = True

    def topics(self) -> dict[str, FakeInfo]:
        return {name: FakeInfo(name, logs[0].topic_id, len(logs)) for name, logs in sorted(self.logs.items())}

    def topic(self, name: str) -> FakeInfo:
        if name not in self.logs:
            raise UnknownTopicError("no such topic", topic=name)
        return self.topics()[name]

    def partition(self, topic: str, partition: int) -> FakeLog:
        try:
            return self.logs[topic][partition]
        except (KeyError, IndexError):
            raise UnknownTopicError("no such partition", topic=topic, partition=partition) from None
