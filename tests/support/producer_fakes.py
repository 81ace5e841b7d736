"""Stand-ins for a store: logs that are lists of the chunks appended to them."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from mqcore.clock import Clock, SystemClock
from mqcore.config.topic import TopicConfig
from mqcore.errors import TimeoutExceededError, UnknownTopicError
from mqcore.log.producer_ids import ProducerIds

# aiokafka's reader of the same format is the oracle: it shares no code with ours.
DefaultRecordBatch = pytest.importorskip("aiokafka.record.default_records").DefaultRecordBatch


@dataclass
class FakeInfo:
    name: str
    partitions: int
    config: TopicConfig
    topic_id: uuid.UUID = field(default_factory=uuid.uuid4)


class FakeLog:
    """Keeps copies of chunks; fails or stalls on demand. `lazy`: durable only after wait_durable."""

    def __init__(self, topic: str = "t", partition: int = 0, lazy: bool = False) -> None:
        self.topic, self.partition, self.lazy = topic, partition, lazy
        self.chunks: list[bytes] = []
        self.next_offset = 0
        self.durable = 0
        self.append_time_ms = -1
        self.fail: list[BaseException] = []
        self.gate = threading.Event()
        self.gate.set()
        self.appending = 0
        self.on_append: Any = None
        self.write_position = 0
        self.kicks = 0

    @property
    def high_watermark(self) -> int:
        return self.durable if self.lazy else self.next_offset

    def append(self, batches: Any, *, from_outside: bool = False) -> tuple[int, int, int, bool]:
        assert self.appending == 0, "two appends of one partition at a time"
        self.appending += 1
        try:
            if self.on_append:
                self.on_append()
            self.gate.wait()
            if self.fail:
                raise self.fail.pop(0)
            with memoryview(batches) as view:
                assert not view.readonly
                self.chunks.append(bytes(view))
            base = self.next_offset
            self.next_offset += sum(batch_count(batch) for batch in split(self.chunks[-1]))
            return base, self.next_offset, self.append_time_ms, False
        finally:
            self.appending -= 1

    def wait_durable(self, next_offset: int, timeout_s: float | None = None) -> None:
        if not self.gate.wait(timeout_s):
            raise TimeoutExceededError("not durable in time")
        if self.fail:
            raise self.fail.pop(0)
        self.durable = max(self.durable, next_offset)

    def commit_soon(self) -> None:
        self.kicks += 1

    def next_sequence(self, producer_id: int, epoch: int) -> int:
        """After the batches that are here, whoever wrote them."""
        return self.next_offset

    def batches(self) -> list[Any]:
        found = [DefaultRecordBatch(raw) for chunk in self.chunks for raw in split(chunk)]
        assert all(batch.validate_crc() for batch in found)
        return found

    def records(self) -> list[Any]:
        return [record for batch in self.batches() for record in batch]

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records()]


def split(chunk: bytes) -> list[bytes]:
    """The batches of a chunk."""
    found, at = [], 0
    while at < len(chunk):
        size = int.from_bytes(chunk[at + 8 : at + 12], "big") + 12
        found.append(chunk[at : at + size])
        at += size
    assert at == len(chunk)
    return found


def batch_count(batch: bytes) -> int:
    return int.from_bytes(batch[57:61], "big")


class FakeStore:
    """Topics by name; logs by (topic, partition)."""

    def __init__(
        self, clock: Clock | None = None, lazy: bool = False, **topics: int | tuple[int, dict[str, str]]
    ) -> None:
        self.clock = clock or SystemClock()
        self.producer_ids = ProducerIds(lambda _: 0)
        self.lazy = lazy
        self.infos: dict[str, FakeInfo] = {}
        self.logs: dict[tuple[str, int], FakeLog] = {}
        for name, shape in topics.items():
            partitions, config = shape if isinstance(shape, tuple) else (shape, {})
            self.infos[name] = FakeInfo(name, partitions, TopicConfig.parse(config))

    def topic(self, name: str) -> FakeInfo:
        if name not in self.infos:
            raise UnknownTopicError("no such topic", topic=name)
        return self.infos[name]

    def partition(self, topic: str, partition: int) -> FakeLog:
        return self.logs.setdefault((topic, partition), FakeLog(topic, partition, self.lazy))

    def values(self, topic: str) -> list[bytes | None]:
        return [value for key, log in sorted(self.logs.items()) if key[0] == topic for value in log.values()]
