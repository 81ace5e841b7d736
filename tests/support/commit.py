"""Partitions and segments in memory, for a real group commit."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

from mqcore._native.io import Io
from mqcore.log.group_commit import GroupCommit

STORE_ID = bytes(range(16))


class FakeSegment:
    """A segment in memory: `data` is the page cache, `synced` the disk."""

    def __init__(self, base_offset: int = 0) -> None:
        self.base_offset, self.flushed_size, self.flushes = base_offset, 0, 0
        self.data, self.synced = bytearray(), b""
        self.before_flush = lambda: None

    def flush(self) -> None:
        self.before_flush()
        size = len(self.data)
        self.synced = bytes(self.data[:size])
        self.flushed_size = size
        self.flushes += 1


class FakePartition:
    """One record an append: offset = number of appends so far."""

    def __init__(self, number: int) -> None:
        self.topic_id, self.partition = uuid.UUID(int=number + 1), number
        self.segment, self.next_offset, self.durable = FakeSegment(), 0, 0
        self.lock = threading.Lock()
        self.appended: list[bytes] = []

    def append(self, committer: GroupCommit, data: bytes, *, ordered: bool = False) -> int:
        with self.lock:
            position = len(self.segment.data)
            self.segment.data += data
            self.appended.append(data)
            self.next_offset += 1
            committer.submit(self, self.segment, data, position, self.next_offset - 1, self.next_offset, 7, ordered)
            return self.next_offset

    def advance_durable(self, next_offset: int) -> None:
        assert next_offset >= self.durable, "durable marks move in offset order"
        self.durable = next_offset


def open_committer(directory: Path, io: Io | None = None, **options: int) -> GroupCommit:
    return GroupCommit.open(io or Io(), str(directory / "journal"), STORE_ID, **options)  # type: ignore[arg-type]
