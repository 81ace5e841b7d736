"""The one way in to a partition: append, read, and the offsets that both go by.

Invariants:
    1. Offsets are assigned under `_lock`, in the order in which chunks are written; nothing else writes the segments.
    2. A reader never sees an offset at or above the visible end: the durable mark under fsync (R11).
    3. A failed append changes nothing that a reader or the next append sees.
    4. An offset that was ever acknowledged is never given to another record: after damage the log goes on behind it.
Locks: `_lock` orders appends, rolls and removals and is held over their I/O. `_state_lock` guards the four numbers only
and is taken last, by the leader of a commit round too, which must not wait for an appender's I/O. Readers take none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mqcore.config.topic import TopicConfig
from mqcore.errors import InvariantError, StorageError
from mqcore.log import read_errors
from mqcore.log.aborted import AbortedTransactions
from mqcore.log.admission import Chunk, check_timestamps, survey
from mqcore.log.checkpoints import SegmentState
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.offsets import Offsets
from mqcore.log.partition_dir import PartitionDirectory
from mqcore.log.partition_ports import Appended, PartitionHost
from mqcore.log.readable import ReadablePartition
from mqcore.log.segments import Exchange, SegmentEntry, SegmentSet

if TYPE_CHECKING:
    import uuid

    from _typeshed import WriteableBuffer

    from mqcore._native.segment import Segment

NO_SLOT = -1
UNSEALED_MAX = 16  # rolled segments of a partition that may wait for maintenance to seal them


class PartitionLog(ReadablePartition):
    """One partition of an open store. Made by LogStore only; any number of threads may use it."""

    def __init__(
        self,
        host: PartitionHost,
        topic: str,
        topic_id: uuid.UUID,
        partition: int,
        config: TopicConfig,
        *,
        log_start: int = 0,
        log_end: int = 0,
        epochs: LeaderEpochs | None = None,
        epoch: int = 0,
        on_disk: bool = False,
    ) -> None:
        """log_start, log_end: as recovery or a clean close left them, all durable. epoch: the leader epoch of new
        batches. on_disk: the directory is there. take_segments comes next."""
        self.host, self.topic, self.topic_id, self.partition, self.config = host, topic, topic_id, partition, config
        self.directory = host.layout.partition_dir(topic, partition)
        self._dir = PartitionDirectory(host.io, self.directory, topic_id, there=on_disk)
        self.slot = NO_SLOT
        self.cleaned = 0  # compaction came up to here: a view that is not as far may have missed tombstones
        self.recovery_point = log_end  # everything below is synced
        self.epochs = epochs if epochs is not None else LeaderEpochs()
        self.epoch = max(epoch, self.epochs.latest)
        self.deleted = False
        self.written = False  # since the open
        self.write_position = 0  # bytes: the end of the last append, a hint
        self._group = host.group_for(config)
        self._segments = SegmentSet([])
        self._offsets = Offsets.at(log_start, log_end)
        self._exchange: Exchange | None = None
        self._begun: tuple[Segment, memoryview, int, int] | None = None  # an append: segment, bytes, position, offset
        self._lock = threading.Lock()
        self.compaction_lock = threading.Lock()  # held for a round; before _lock
        # One seals at a time (maintenance, checkpoints, an appender whose seals are behind). After _lock, never before.
        self._seal_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._aborted = AbortedTransactions(self.directory, host.clock)

    @property
    def on_disk(self) -> bool:
        """Whether its directory is there."""
        return self._dir.there

    def __repr__(self) -> str:
        return f"<PartitionLog {self.topic}-{self.partition} {tuple(self._offsets)}>"

    def take_segments(self, entries: Sequence[SegmentEntry]) -> None:
        """The segments that are there. Once, before anybody else has the log."""
        self._segments.replace(tuple(entries))

    # -- offsets ----------------------------------------------------------------------------------------------------

    def epoch_of(self, offset: int) -> int:
        """The leader epoch that the record at `offset` was written in; -1 for an offset below 0."""
        # A missing first entry means epoch 0 from the start on: see _begin_epoch.
        return max(0, self.epochs.epoch_of(offset)) if offset >= 0 else -1

    # -- append -----------------------------------------------------------------------------------------------------

    def append(self, batches: WriteableBuffer, *, from_outside: bool = False) -> Appended:
        """Write a chunk of whole v2 batches; assign their offsets, consecutively.

        batches: patched in place (offsets, epoch, log-append time); must not change until wait_durable has returned
        for its next_offset. from_outside: CRC, records and timestamps are checked first; a builder of our own did so.
        Visible to readers, and durable, after wait_durable; under os and memory both at once on return.
        Raises RecordTooLargeError, InvalidRecordError, CorruptBatchError (nothing happened), DiskFullError (nothing
        happened, retry), StorageError, StoreReadOnlyError, StoreClosedError.
        """
        self.host.check_writable()
        config, view = self.config, memoryview(batches).cast("B")
        chunk = survey(view, config.max_message_bytes)
        now_ms = self.host.clock.wall_ms()
        append_time = now_ms if config.message_timestamp_type == "LogAppendTime" else -1
        if append_time < 0 and from_outside:
            check_timestamps(chunk, config, now_ms)
        with self._lock:
            self.check_there()
            base_offset = self._settle()
            segment = self._segment_for(len(view), chunk, now_ms)
            if from_outside:
                segment.check_append(view, max_batch_bytes=config.max_message_bytes, walk=True)
            self.host.open_segments.touch(segment)
            if self.slot == NO_SLOT:
                self.host.take_slot(self)
            self.written = True
            self._begun = segment, view, segment.size, base_offset
            try:
                segment.append(view, base_offset, self.epoch, append_time)
            finally:  # an interrupt (Ctrl-C) comes out of the write, and what is written has its offsets all the same
                next_offset = self._settle()
            self.write_position = segment.size
        return Appended(base_offset, next_offset, append_time)

    def _settle(self) -> int:
        """Account for what the last append wrote; the log end. An interrupt may make it run twice, or not until the
        next call under `_lock`: each step can be repeated."""
        if self._begun is not None:
            segment, view, position, base_offset = self._begun
            next_offset, group = segment.next_offset, self._group
            if next_offset > base_offset:
                self._advance(next_offset, next_offset if group is None else None)
                if group is not None:
                    group.submit(self, segment, view, position, base_offset, next_offset, self.epoch)
            self._begun = None
        return self._offsets.log_end

    def wait_durable(self, next_offset: int, timeout_s: float | None = None) -> None:
        """Return once everything below next_offset is durable, as the topic's durability has it: at once under os and
        memory. TimeoutExceededError: not yet; it may still become so. StorageError: the disk failed (R2)."""
        group = self._group
        if group is not None and self._offsets.high_watermark < next_offset:
            try:
                group.wait(self, next_offset, timeout_s)
            except InvariantError:  # of a deleted topic nothing is known there
                self.check_there()
                raise

    def commit_soon(self) -> None:
        """Have what was appended made durable by the store's flusher, though nobody waits for it; never blocks."""
        if self._group is not None:
            self._group.kick()

    def advance_durable(self, next_offset: int) -> None:
        """Everything below next_offset is durable now: readers may see it. Called by the commit round's leader."""
        self._advance(None, next_offset)

    def _advance(self, log_end: int | None, visible: int | None) -> None:
        with self._state_lock:
            offsets = self._offsets
            if log_end is not None:
                offsets = offsets.appended(log_end)
            if visible is not None:
                offsets = offsets.visible(visible)
            self._offsets = offsets
            # Under the lock: two publications must not overtake each other. Without a visible change nobody wakes.
            if visible is not None:
                self.host.publish(self, offsets)

    # -- segments ---------------------------------------------------------------------------------------------------

    def _segment_for(self, incoming: int, chunk: Chunk, now_ms: int) -> Segment:
        """The segment that takes the next `incoming` bytes: the active one, or a new one after a roll."""
        entry, config = self._segments.last, self.config
        base = self._offsets.log_end
        self._dir.clear(entry.base_offset if entry is not None else -1)
        fits = entry is not None and not entry.sealed and entry.damage is None
        if entry is not None and fits:
            fits = not entry.full_for(incoming, base + chunk.offsets - 1, chunk.max_timestamp, config, now_ms)
        self._begin_epoch(base)
        return entry.segment() if entry is not None and fits else self._roll(base, now_ms)

    def _begin_epoch(self, base: int) -> None:
        """Note the leader epoch before its first batch is written."""
        if self.epoch > self.epochs.latest:
            self._dir.make(sync=self.host.syncs(self.config))
            epochs = LeaderEpochs(list(self.epochs.entries))
            epochs.assign(self.epoch, base)
            self._dir.write_epochs(epochs)
            self.epochs = epochs

    def _roll(self, base: int, now_ms: int) -> Segment:
        """Make the segment that begins at `base` the active one; the one before is sealed later."""
        last = self._segments.last
        if last is not None and last.base_offset == base:
            return last.segment()  # empty: a roll that was never written to
        if last is not None and last.is_open:
            last.segment().trim()  # else its leavings would have the offsets of the new one
        sync = self.host.syncs(self.config)
        self._dir.make(sync=sync)
        self._dir.clear(last.base_offset if last is not None else -1)
        segment = self._dir.create(base, self.config, sync=sync)
        entry = SegmentEntry(
            SegmentState(base, 0, base, -1, -1), self.open_segment, sealed=False, segment=segment, created_ms=now_ms
        )
        self._segments.add(entry)
        if last is not None and not last.sealed:
            self.host.seal_later(self)
            if self._seals_are_behind():
                self.seal_rolled()
        return segment

    def open_segment(self, state: SegmentState) -> Segment:
        """The native handle of a segment that is there."""
        return self._dir.open(state, self.config, writable=True)

    def _seals_are_behind(self) -> bool:
        """Whether maintenance cannot keep up: then the appender pays, or files and memory would grow without bound."""
        entries = self._segments.entries
        return len(entries) > UNSEALED_MAX and not entries[-UNSEALED_MAX].sealed

    def roll(self) -> None:
        """Begin a new segment, if the active one holds anything."""
        self.host.check_writable()
        with self._lock:
            self.check_there()
            base, last = self._settle(), self._segments.last
            if last is not None and last.size:
                self._begin_epoch(base)
                self._roll(base, self.host.clock.wall_ms())

    def seal_rolled(self) -> int:
        """Seal the segments that were rolled: sync, trim, final index entries. How many there were. Runs beside
        appends and reads. Raises StorageError; the segment is final then (R2)."""
        sealed = 0
        with self._seal_lock:
            for entry in self._segments.entries[:-1]:
                if not entry.sealed and entry.damage is None:
                    segment = entry.segment()
                    self.host.open_segments.touch(segment)
                    segment.seal()
                    entry.sealed = True
                    self.host.open_segments.forget(segment)
                    segment.release_fd()
                    sealed += 1
        return sealed

    def flush(self, *, synced: bool = False) -> int:
        """Sync everything that is written; the offset below which all is durable now. Runs beside appends.

        synced: nobody appends any more, and the caller synced the whole file system since: only seals are left.
        """
        entries = self._segments.entries
        self.seal_rolled()
        if not entries:
            return self.recovery_point
        active = entries[-1]
        # What is appended after this line may or may not be covered: only what came before is claimed.
        target = active.next_offset
        if synced:
            if active.is_open and active.segment().failed:
                raise StorageError("a sync failed before, and a later one proves nothing", path=self.directory)
        else:
            if active.is_open and not active.sealed:
                self.host.open_segments.touch(active.segment())
                active.segment().flush()
            self._dir.sync()
        self.recovery_point = max(self.recovery_point, target)
        return self.recovery_point

    def checkpointed(self, next_offset: int) -> None:
        """The group commit synced everything below next_offset in the segments. Rolled ones are sealed first: below a
        recovery point their indexes are believed without a scan."""
        self.seal_rolled()
        self.recovery_point = max(self.recovery_point, next_offset)

    # -- removal ----------------------------------------------------------------------------------------------------

    def delete_before(self, offset: int) -> None:
        """Move the log start to `offset` and remove the segments that lie wholly below it. Views that readers hold
        stay valid. OffsetOutOfRangeError: `offset` is past the last stable offset."""
        self.host.check_writable()
        with self._lock:
            self.check_there()  # its name may be another topic's by now, and log starts go by name
            self._settle()
            offsets = self._offsets
            if not 0 <= offset <= offsets.last_stable:
                raise read_errors.out_of_range("cannot delete past the last stable offset", self, offset, offsets)
            if offset <= offsets.log_start:
                return
            last = self._segments.last
            if last is not None and last.next_offset <= offset and last.size:
                # The log end lives in the last segment's name: never remove the last one.
                self._begin_epoch(offsets.log_end)
                self._roll(offsets.log_end, self.host.clock.wall_ms())
            with self._state_lock:
                self._offsets = self._offsets.start_moved(offset)
                self.host.publish(self, self._offsets)
            self.host.log_start_moved(self)
            self._drop_below(offset)

    def _drop_below(self, offset: int) -> None:
        entries = self._segments.entries
        keep = 0
        while keep + 1 < len(entries) and entries[keep + 1].base_offset <= offset:
            keep += 1
        if keep == 0:
            return
        self._segments.replace(entries[keep:])
        for entry in entries[:keep]:
            if entry.is_open:
                self.host.open_segments.forget(entry.segment())
            # Not closed: a reader may be in it. The handle goes with its last holder.
            self._dir.remove(entry.base_offset)

    def mark_deleted(self) -> None:
        """The topic is deleted: appends and reads are refused; views that readers hold stay valid."""
        with self._lock:
            self.deleted = True

    def reconfigure(self, config: TopicConfig) -> None:
        """Take changed settings; in force for the next append, limits of segments from the next roll on."""
        with self._lock:
            self.config = config
            self._group = self.host.group_for(config)

    def exchange(self, old: Sequence[SegmentEntry], new: SegmentState, swap: Callable[[], None]) -> bool:
        """Put one segment in the place of neighbours. swap: does it to the files, once their handles are closed (mappings
        stay); may be called again after an error. False: `old` are not all there any more."""
        with self._lock:
            if self.deleted or not self._segments.holds(old):
                return False
            self._exchange = Exchange(self._segments, old, SegmentEntry(new, self.open_segment, sealed=True), swap)
            for entry in old:
                if entry.is_open:
                    self.host.open_segments.forget(entry.segment())
                entry.retire()
            self._exchange.finish()
            self._exchange = None
        return True

    def finish_exchange(self) -> None:
        """Go on with an exchange that an error interrupted. None: nothing."""
        with self._lock:
            if self._exchange is not None:
                self._exchange.finish()
                self._exchange = None

    def settle(self) -> None:
        """When the store closes: let the last append end, and account for it."""
        with self._lock:
            self._settle()

    def close(self, *, write_indexes: bool) -> None:
        """Close the segments' handles; views stay valid. write_indexes: for a clean close, after settle and flush."""
        for entry in self._segments.entries:
            if entry.is_open:
                if write_indexes and not entry.sealed:
                    entry.segment().write_indexes()
                self.host.open_segments.forget(entry.segment())
                entry.close(keep_state=write_indexes)
