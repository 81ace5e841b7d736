"""A store that this process only reads: beside a living writer, or without one. Nothing is written, nothing locked.

Beside a writer the marks page says how far each partition may be read, and the files are looked at again when it moves.
Without one, what a clean close noted is served; after a crash, what is provably kept: valid, and under fsync below a
recovery point or named by the journal (recovery by the next writer may cut the rest).

Invariants:
    1. Nothing is served above the writer's durable mark, or above what is provably kept (R11).
    2. What was served once stays served: a writer that dies, and the next one, take nothing back.
    3. No file is opened for writing, no directory is made: a read-only file system will do.
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import TYPE_CHECKING

from mqcore._native.producer_state import Producers
from mqcore._native.segment import recover
from mqcore.errors import StoreFormatError, UnknownTopicError
from mqcore.log import layout, opening
from mqcore.log.checkpoints import PartitionKey, PartitionState, SegmentState, Session
from mqcore.log.followed import FollowedPartition
from mqcore.log.group_commit import GroupCommit
from mqcore.log.manager import LogStore, durability_of
from mqcore.log.marks import Marks, page_path
from mqcore.log.offsets import Offsets
from mqcore.log.open_report import Finding
from mqcore.log.producer_state import PRODUCERS_MAX
from mqcore.log.recovery import BATCH_BYTES_MAX
from mqcore.log.segments import UNKNOWN
from mqcore.log.topics import METADATA_TOPIC, TopicInfo, TopicRegistry
from mqcore.log.views import ViewEnvironment
from mqcore.types import Durability

if TYPE_CHECKING:
    from mqcore.config.topic import TopicConfig

ATTACH_INTERVAL_S = 0.05  # how often a reader without a living writer looks for a new one


class ReadOnlyStore(LogStore):
    """LogStore.open(read_only=True)."""

    def look(self) -> None:
        """Read how the store stands. Raises StoreFormatError, StorageError."""
        self.read_only = True
        if not layout.require_kind(self.path, "dir"):
            raise StoreFormatError("no store here", hint="Check the path", path=self.path)
        self.store_id = opening.prepare(self.io, self.layout, self.recovery, create=False).store_id
        self._followed: dict[PartitionKey, FollowedPartition] = {}
        self._attach_lock = threading.Lock()
        self._attached_at = self.clock.monotonic_s()
        self.generation = 0  # rises with each writer that we attach to: slots are its own
        self._page_path = page_path(self.store_id, self.path)
        self._page = Marks.open(self.store_id, self._page_path)
        # What waits while nobody writes: a page that never moves. (The wait on a dead page returns at once.)
        self._quiet = Marks.create(self.store_id, None)
        self._left: tuple[Session, dict[PartitionKey, PartitionState] | None] | None = None
        self._left_by: list[tuple[int, int]] = []  # the files of the session that `_left` and `_proven` are of
        self._proven: dict[tuple[uuid.UUID, int], int] | None = None
        self.cleaned = opening.read_points(self.io, self.layout.path(layout.CLEANED_OFFSETS), self.recovery)
        self.views = ViewEnvironment()
        self.registry = TopicRegistry(
            self._follow(METADATA_TOPIC, 0),
            self.views,
            defaults=self.config.topic_defaults,
            clock=self.clock,
            topics_max=self.config.max_topics,
            partitions_max=self.config.max_partitions,
            read_only=True,
        )
        self.registry.load()

    # -- topics and partitions ----------------------------------------------------------------------------------------

    def topics(self) -> dict[str, TopicInfo]:
        self.check_usable()
        self.registry.refresh()
        return self.registry.all()

    def topic(self, name: str) -> TopicInfo:
        self.check_usable()
        if name == METADATA_TOPIC.name:
            return METADATA_TOPIC
        if name not in self.registry:
            self.registry.refresh()
        return self.registry.get(name)

    def partition(self, topic: str, partition: int) -> FollowedPartition:
        info = self.topic(topic)
        if not 0 <= partition < info.partitions:
            self.registry.refresh()
            info = self.topic(topic)
        if not 0 <= partition < info.partitions:
            raise UnknownTopicError("unknown partition", topic=topic, partition=partition)
        return self._follow(info, partition)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        offsets = self.partition(topic, partition).offsets
        return offsets.log_start, offsets.high_watermark

    def _follow(self, info: TopicInfo, number: int) -> FollowedPartition:
        key = PartitionKey(info.name, number)
        with self._lock:
            log = self._followed.get(key)
            if log is None or log.topic_id != info.topic_id:
                log = self._followed[key] = FollowedPartition(self, info, number)
            return log

    # -- the writer ---------------------------------------------------------------------------------------------------

    @property
    def marks(self) -> Marks:
        """What to wait on: the living writer's marks, or a page that never moves."""
        return self.attached() or self._quiet

    @marks.setter
    def marks(self, _: Marks) -> None:
        raise AttributeError("a reader has its writer's marks")

    def attached(self) -> Marks | None:
        """The living writer's marks; None without one. A new writer is noticed here."""
        page = self._page
        if page is not None and page.living():
            return page
        now = self.clock.monotonic_s()
        with self._attach_lock:
            if now - self._attached_at >= ATTACH_INTERVAL_S:
                self._attached_at = now
                self._page = Marks.open(self.store_id, self._page_path)
                if self._page is not None:
                    self.generation += 1
                return self._page
        return None

    # -- without a writer ---------------------------------------------------------------------------------------------

    def state_of(self, log: FollowedPartition) -> tuple[list[SegmentState], Offsets, bool]:
        """(segments, offsets, open_ended) of a partition as its last writer left it. open_ended: the last segment's
        next offset is not exact; the offsets bound the reads."""
        while True:
            with self._attach_lock:
                session = self._session_files()
                if self._left is None or self._left_by != session:
                    self._proven = None
                    self._left = opening.read_left(self.io, self.layout, self.recovery)
                    self._left_by = session
                left = self._left
            found = self._state_left(log, *left)
            if self._session_files() == session:
                return found  # else a writer came: what was read may be half the old session's, half the new one's

    def _session_files(self) -> list[tuple[int, int]]:
        """Which session the store is in: its files are written anew by each writer that comes, and as it goes."""
        found = []
        for name in (layout.SESSION, layout.CLEAN_SHUTDOWN):
            try:
                file = os.stat(self.layout.path(name), follow_symlinks=False)
                found.append((file.st_ino, file.st_mtime_ns))
            except FileNotFoundError:
                found.append((0, 0))
        return found

    def _state_left(
        self, log: FollowedPartition, session: Session, clean: dict[PartitionKey, PartitionState] | None
    ) -> tuple[list[SegmentState], Offsets, bool]:
        key = PartitionKey(log.topic, log.partition)
        state = None if clean is None else clean.get(key)
        if clean is not None and state is None:
            return [], Offsets.at(0, 0), False
        if state is not None and state.topic_id == log.topic_id and opening.is_unchanged(log.directory, state):
            offsets = Offsets(state.log_start, state.stable_end, state.log_end, state.log_end)
            return state.segments, offsets.checked(), False
        return self._provable(log, key, durability_of(log.config, session.durability))

    def _provable(
        self, log: FollowedPartition, key: PartitionKey, durability: Durability
    ) -> tuple[list[SegmentState], Offsets, bool]:
        points = opening.read_points(self.io, self.layout.path(layout.RECOVERY_POINTS), self.recovery)
        starts = opening.read_points(self.io, self.layout.path(layout.LOG_STARTS), self.recovery)
        recovery_point = points.get(key, 0)
        producers = Producers(PRODUCERS_MAX)
        segments, end = self._valid_prefix(log, producers)
        if durability == Durability.FSYNC:
            end = min(end, max(recovery_point, self._journal().get((log.topic_id, log.partition), 0)))
        first = segments[0].base_offset if segments else end
        start = min(max(first, starts.get(key, 0)), max(end, first))
        end = max(end, start)
        return segments, Offsets(start, max(start, producers.stable_end(end)), end, end).checked(), True

    def _valid_prefix(self, log: FollowedPartition, producers: Producers) -> tuple[list[SegmentState], int]:
        """The segments up to the first problem, and the offset of that. producers: takes in what is in them."""
        segments: list[SegmentState] = []
        sizes = {
            base: os.path.getsize(f"{log.directory}/{layout.segment_name(base)}")
            for base in layout.list_segments(log.directory)
        }
        compacted = log.config.compacted or log.cleaned > 0
        for base, size in sizes.items():
            if segments and base < segments[-1].next_offset and not size:
                continue  # what a roll that failed left
            if segments and not compacted and base != segments[-1].next_offset:
                break
            following = next((other for other in sizes if other > base and sizes[other]), 0)
            found = recover(
                self.io,
                log.directory,
                base,
                from_offset=-1 if compacted else base,
                end_offset=following,
                max_batch_bytes=BATCH_BYTES_MAX,
                allow_gaps=compacted,
                write_indexes=False,
                producers=producers,
            )
            end = max(base, found.next_offset)
            segments.append(SegmentState(base, found.valid_size, end, UNKNOWN, UNKNOWN))
            if found.problem and end != following:  # else what a failed write left behind the segment's end
                break
        return segments, segments[-1].next_offset if segments else 0

    def _journal(self) -> dict[tuple[uuid.UUID, int], int]:
        """What the journal proves durable: {(topic id, partition): next offset}."""
        if self._proven is None:
            proven: dict[tuple[uuid.UUID, int], int] = {}
            path = self.layout.path(layout.JOURNAL)
            if layout.require_kind(path, "dir"):
                group = GroupCommit.open(self.io, path, self.store_id, read_only=True)
                for entry in group.replay():
                    key = (entry.topic_id, entry.partition)
                    proven[key] = max(proven.get(key, 0), entry.next_offset)
                if group.damage:  # what it proved is not served, though the next writer may find it in the segments
                    self.recovery.add(Finding("lost", path, group.damage))
                group.close()
            self._proven = proven
        return self._proven

    # -- no writer's work ---------------------------------------------------------------------------------------------

    def group_for(self, config: TopicConfig) -> None:
        return None

    def abandon(self) -> None:
        for log in list(getattr(self, "_followed", {}).values()):
            log.close(write_indexes=False)
        for page in (getattr(self, "_page", None), getattr(self, "_quiet", None)):
            if page is not None:
                page.close()
        super().abandon()
