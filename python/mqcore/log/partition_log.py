"""The one way in to a partition: append, read, and the offsets that both go by.

Invariants:
    1. Offsets are assigned under `_lock`, in the order in which chunks are written; nothing else writes the segments.
    2. A reader never sees an offset at or above the visible end: the durable mark under fsync (R11).
    3. A failed append changes nothing that a reader or the next append sees: producer state follows the log, it never
       leads it (R5).
    4. An offset that was ever acknowledged is never given to another record: after damage the log goes on behind it.
    5. The last stable offset is at most the first offset of each transaction that is open, or whose marker nobody sees yet.
    6. An abort is in the .txnindex before its marker can be seen.
Locks: `_lock` orders appends, rolls and removals and is held over their I/O. `_state_lock` guards the four numbers only
and is taken last, by the leader of a commit round too, which must not wait for an appender's I/O. Readers take none.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mqcore._native.producer_state import Producers, marker
from mqcore._native.segment import check_batches
from mqcore.config.topic import TopicConfig
from mqcore.errors import InvariantError, StorageError
from mqcore.log import layout, producer_state
from mqcore.log.aborted import AbortedTransactions
from mqcore.log.admission import Chunk, check_timestamps, survey
from mqcore.log.checkpoints import SegmentState
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.offsets import Offsets
from mqcore.log.partition_dir import PartitionDirectory
from mqcore.log.partition_ports import Appended, PartitionHost
from mqcore.log.producer_state import OpenTransaction, ProducerInfo, Snapshots
from mqcore.log.removable import RemovablePartition
from mqcore.log.segments import Exchange, SegmentEntry, SegmentSet

if TYPE_CHECKING:
    import uuid

    from _typeshed import WriteableBuffer

    from mqcore._native.segment import Segment
    from mqcore.log.group_commit import GroupCommit

NO_SLOT = -1
SEQUENCE_MAX = (1 << 31) - 1
UNSEALED_MAX = 16  # rolled segments of a partition that may wait for maintenance to seal them


@dataclass(slots=True)
class _Begun:
    """An append that is not accounted for. aborted: what the .txnindex gets with it, None: nothing. ordered: see
    GroupCommit.submit."""

    segment: Segment
    batches: memoryview
    position: int
    base_offset: int
    now_ms: int
    aborted: tuple[int, int, int, int] | None
    ordered: bool
    index_tried: bool = False


class PartitionLog(RemovablePartition):
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
        self._begun: _Begun | None = None
        self._producers = Producers(host.config.max_producers_per_partition)
        self._transactional = False  # whether the last stable offset may be below the high watermark
        self._snapshots = Snapshots(host.io, self.directory)
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

    def take_producers(self, producers: Producers) -> None:
        """What is known of producers at the log end. Once, before anybody else has the log."""
        producers.set_limit(self.host.config.max_producers_per_partition)
        self._producers, self._transactional = producers, producers.unstable
        log_start, _, mark, log_end = self._offsets
        stable = max(log_start, producers.stable_end(mark))
        self._offsets = Offsets(log_start, stable, mark, log_end).checked()

    # -- offsets ----------------------------------------------------------------------------------------------------

    def epoch_of(self, offset: int) -> int:
        """The leader epoch that the record at `offset` was written in; -1 for an offset below 0."""
        # A missing first entry means epoch 0 from the start on: see _begin_epoch.
        return max(0, self.epochs.epoch_of(offset)) if offset >= 0 else -1

    @property
    def group(self) -> GroupCommit | None:
        """The group commit whose rounds make this partition durable; None under os and memory."""
        return self._group

    # -- append -----------------------------------------------------------------------------------------------------

    def append(self, batches: WriteableBuffer, *, from_outside: bool = False) -> Appended:
        """Write a chunk of whole v2 batches; assign their offsets, consecutively.

        batches: patched in place (offsets, epoch, log-append time); must not change until wait_durable has returned
        for its next_offset. from_outside: CRC, records and timestamps are checked first; a builder of our own did so.
        Visible to readers, and durable, after wait_durable; under os and memory both at once on return.
        A batch with a producer id is checked against what is known of that producer: one that is stored already gives
        its offsets, and nothing is written.
        Raises RecordTooLargeError, InvalidRecordError, CorruptBatchError, OutOfOrderSequenceError (a gap),
        DuplicateSequenceError, InvalidProducerEpochError, InvalidTransactionStateError (nothing happened),
        DiskFullError, ConcurrentTransactionsError (nothing happened, retry), StorageError, StoreReadOnlyError,
        StoreClosedError.
        """
        self.host.check_writable()
        config, view = self.config, memoryview(batches).cast("B")
        chunk = survey(view, config.max_message_bytes)
        now_ms = self.host.clock.wall_ms()
        append_time = now_ms if config.message_timestamp_type == "LogAppendTime" else -1
        if from_outside:
            if append_time < 0:
                check_timestamps(chunk, config, now_ms)
            check_batches(view, max_batch_bytes=config.max_message_bytes, walk=True)
        with self._lock:
            self.check_there()
            self._settle()
            answer = self._producers.check(view)
            if answer is not None:
                return producer_state.stored(answer, append_time, self.topic, self.partition)
            return self._append(view, chunk, now_ms, append_time, None, ordered=self.topic == layout.TRANSACTION_TOPIC)

    def append_marker(
        self, producer_id: int, epoch: int, *, commit: bool, coordinator_epoch: int = 0
    ) -> Appended | None:
        """End the producer's transaction in this partition: a control batch. None: it has none open here (again, or
        never had); its epoch is noted all the same, so that late batches of the one before are refused.

        Visible, and durable, as after append. Raises as append does, InvalidProducerEpochError for an epoch that is over.
        """
        self.host.check_writable()
        now_ms = self.host.clock.wall_ms()
        batch = marker(producer_id, epoch, commit=commit, coordinator_epoch=coordinator_epoch, timestamp_ms=now_ms)
        append_time = now_ms if self.config.message_timestamp_type == "LogAppendTime" else -1
        with self._lock:
            self.check_there()
            log_end = self._settle()
            answer = self._producers.check(batch)
            if answer is not None:
                return producer_state.stored(answer, append_time, self.topic, self.partition)
            ended = self._producers.end_of(producer_id, log_end)
            if ended is None:
                self._producers.fence(producer_id, epoch, coordinator_epoch, now_ms)
                return None
            aborted, chunk = None if commit else ended, Chunk(1, now_ms, now_ms)
            return self._append(memoryview(batch), chunk, now_ms, append_time, aborted, ordered=True)

    def _append(
        self,
        view: memoryview,
        chunk: Chunk,
        now_ms: int,
        append_time: int,
        aborted: tuple[int, int, int, int] | None,
        *,
        ordered: bool,
    ) -> Appended:
        """Write what was checked. Under `_lock`, after _settle."""
        base_offset = self._offsets.log_end
        segment = self._segment_for(len(view), chunk, now_ms)
        self.host.open_segments.touch(segment)
        if self.slot == NO_SLOT:
            self.host.take_slot(self)
        self.written = True
        self._begun = _Begun(segment, view, segment.size, base_offset, now_ms, aborted, ordered)
        try:
            segment.append(view, base_offset, self.epoch, append_time)
        finally:  # an interrupt (Ctrl-C) comes out of the write, and what is written has its offsets all the same
            next_offset = self._settle()
        self.write_position = segment.size
        return Appended(base_offset, next_offset, append_time)

    def _settle(self) -> int:
        """Account for what the last append wrote; the log end. An interrupt may make it run twice, or not until the
        next call under `_lock`: each step can be repeated."""
        begun = self._begun
        if begun is not None:
            next_offset, group = begun.segment.next_offset, self._group
            if next_offset > begun.base_offset:
                self._index_abort(begun)
                self._transactional = self._producers.add(begun.batches, begun.now_ms)
                self._advance(next_offset, next_offset if group is None else None)
                if group is not None:
                    group.submit(
                        self,
                        begun.segment,
                        begun.batches,
                        begun.position,
                        begun.base_offset,
                        next_offset,
                        self.epoch,
                        ordered=begun.ordered,
                    )
            self._begun = None
        return self._offsets.log_end

    def _index_abort(self, begun: _Begun) -> None:
        """Have an abort in the .txnindex (invariant 6). On a full disk the log waits here until there is room."""
        entry = begun.aborted
        if entry is not None:
            again, begun.index_tried = begun.index_tried, True
            if not (again and entry in begun.segment.aborted(entry[1], entry[2] + 1)):
                begun.segment.append_txn(*entry)
            begun.aborted = None

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
                mark = max(offsets.high_watermark, visible)
                offsets = offsets.visible(mark, self._producers.stable_end(mark) if self._transactional else None)
            self._offsets = offsets
            # Under the lock: two publications must not overtake each other. Without a visible change nobody wakes.
            if visible is not None:
                self.host.publish(self, offsets)

    def _move_start(self, offset: int) -> None:
        """Move the log start, for everybody and durably."""
        with self._state_lock:
            self._offsets = self._offsets.start_moved(offset)
            self.host.publish(self, self._offsets)
        self.host.log_start_moved(self)

    # -- producers --------------------------------------------------------------------------------------------------

    def producers(self) -> list[ProducerInfo]:
        """The producers that are remembered; those with open transactions first."""
        return producer_state.producer_infos(self._producers)

    def next_sequence(self, producer_id: int, epoch: int) -> int:
        """The sequence that the producer's next batch must have, in this epoch; -1: nothing is known of it here."""
        with self._lock:
            self.check_there()
            self._settle()
            known = self._producers.get(producer_id)
        if known is None or epoch < known[1]:
            return -1
        return (known[2] + 1) & SEQUENCE_MAX if epoch == known[1] else 0

    def open_transactions(self) -> dict[int, OpenTransaction]:
        """The transactions without a marker here, by producer id, the oldest first."""
        return producer_state.open_transactions(self._producers)

    def last_offsets_of_producers(self) -> dict[int, int]:
        """Producer id -> last offset of its last batch; -1: none in its epoch."""
        return {facts[0]: facts[3] for facts in self._producers.entries()}

    def expire_producers(self, before_ms: int) -> int:
        """Forget producers without open transaction that were last heard of before; how many."""
        return self._producers.expire(before_ms)

    def _snapshot(self, offset: int) -> None:
        """Write down what is known of producers at the log end, or the base of a new segment."""
        self._snapshots.write(offset, self._producers, self.epoch_of(offset - 1), self._recovery_base())

    def _recovery_base(self) -> int:
        """The base offset of the segment that a recovery would scan first."""
        entries, point = self._segments.entries, self.recovery_point
        for entry, following in pairwise(entries):
            if following.base_offset >= point:
                return entry.base_offset
        return entries[-1].base_offset if entries else 0

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
        if last is not None:
            self._snapshot(base)
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
        # Under fsync no more than what readers see: a decision is proven only by its round (group_commit.py, invariant 5).
        target = active.next_offset if self._group is None else self._offsets.high_watermark
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

    # -- settings and the end ----------------------------------------------------------------------------------------

    def mark_deleted(self) -> None:
        """The topic is deleted: appends and reads are refused; views that readers hold stay valid."""
        with self._lock:
            self.deleted = True

    def reconfigure(self, config: TopicConfig) -> None:
        """Take changed settings; in force for the next append, limits of segments from the next roll on."""
        with self._lock:
            self.config = config
            self._group = self.host.group_for(config)

    def settle(self) -> None:
        """When the store closes: let the last append end, and account for it."""
        with self._lock:
            self._settle()

    def close(self, *, write_indexes: bool) -> None:
        """Close the segments' handles; views stay valid. write_indexes: for a clean close, after settle and flush."""
        log_end = self._offsets.log_end
        if write_indexes and self.on_disk and (self.written or log_end not in self._snapshots.offsets):
            self._snapshot(log_end)
        for entry in self._segments.entries:
            if entry.is_open:
                if write_indexes and not entry.sealed:
                    entry.segment().write_indexes()
                self.host.open_segments.forget(entry.segment())
                entry.close(keep_state=write_indexes)
