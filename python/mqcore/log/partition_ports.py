"""What a partition needs of its store, and what it hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from mqcore._native.io import Io
    from mqcore._native.segment import Mapping, Segment
    from mqcore.clock import Clock
    from mqcore.config.store import StoreConfig
    from mqcore.config.topic import TopicConfig
    from mqcore.log.checkpoints import PartitionKey
    from mqcore.log.group_commit import GroupCommit
    from mqcore.log.layout import Layout
    from mqcore.log.offsets import Offsets
    from mqcore.log.open_segments import OpenSegments
    from mqcore.log.partition_log import PartitionLog
    from mqcore.log.topics import TopicInfo


class Appended(NamedTuple):
    """What an append did: the offsets base_offset .. next_offset - 1. append_time_ms: -1 under create time. duplicate:
    nothing was written; the producer's batches were stored before, at these offsets."""

    base_offset: int
    next_offset: int
    append_time_ms: int
    duplicate: bool = False


class Slice(NamedTuple):
    """Whole batches of one segment: mapping[start:end]. Valid for as long as somebody holds the mapping or a view of
    it, whatever becomes of the segment (R13). compacted: offsets may have gaps."""

    mapping: Mapping
    start: int
    end: int
    compacted: bool
    segment: Segment | None = None  # where a reader that comes to the end goes on: see ReadablePartition.tail


class PartitionHost(Protocol):
    """What a partition needs of its store."""

    io: Io
    clock: Clock
    config: StoreConfig
    layout: Layout
    open_segments: OpenSegments
    cleaned: dict[PartitionKey, int]  # up to where compaction came

    def check_usable(self) -> None:
        """StoreClosedError, ForkedStoreError."""

    def check_current(self, info: TopicInfo) -> None:
        """UnknownTopicError: the topic was deleted, if its name is there it is another one's."""

    def check_writable(self) -> None:
        """check_usable, and StoreReadOnlyError."""

    def group_for(self, config: TopicConfig) -> GroupCommit | None:
        """The group commit of a topic under fsync; None under os and memory."""

    def syncs(self, config: TopicConfig) -> bool:
        """Whether names in directories must be durable at once."""

    def take_slot(self, log: PartitionLog) -> None:
        """Have a place for `log` on the marks page, before its first record is written. DiskFullError."""

    def publish(self, log: PartitionLog, offsets: Offsets) -> None:
        """Tell readers, in this and other processes."""

    def seal_later(self, log: PartitionLog) -> None:
        """A segment of `log` was rolled."""

    def save_recovery_points(self) -> None:
        """Write down up to where each partition is synced."""

    def log_start_moved(self, log: PartitionLog) -> None:
        """Make the new log start durable: files below it go next."""
