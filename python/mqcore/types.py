"""Small frozen values that every layer hands around. Offsets are record numbers, positions are bytes, times are
milliseconds since 1970-01-01T00:00:00Z unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Durability(StrEnum):
    """What an acknowledgement survives."""

    FSYNC = "fsync"  # power loss: group commit through the store's journal
    OS = "os"  # the death of the process: the bytes are in the page cache
    MEMORY = "memory"  # nothing: tests, `mqcore.open(":memory:")`


class IsolationLevel(StrEnum):
    READ_COMMITTED = "read_committed"
    READ_UNCOMMITTED = "read_uncommitted"


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class RecordMetadata:
    """Where an acknowledged record lies. timestamp_ms: as stored (create time or log-append time)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class OffsetRange(NamedTuple):
    """Consecutive records of one partition: offsets base_offset .. base_offset + count - 1."""

    partition: int
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks an offset range for
