"""Repair a store: damaged ranges go to STORE/quarantine, the segments are rewritten without them, and it opens again.

Invariants:
    1. Nothing is destroyed: what is taken out of a file lies in quarantine, synced, before the file is replaced, with
       a note that says where it stood. Only indexes and views are removed: they are rebuilt from the log.
    2. No offset is given to another record: where records are lost, an empty batch (as compaction leaves them) takes
       their offsets, so that every reader, Kafka's too, goes on behind it, and continuity still proves what is there.
    3. Good bytes stay as they are, but for a base offset or epoch that its neighbours prove wrong.
    4. A crash at any point leaves a store that opens or can be repaired again: the mark of the clean close goes first,
       files are replaced by rename, indexes are removed before the log that they belong to is.
    5. A sound store is not touched.

The journal holds bytes with their positions in the segments, so nothing is moved while it has any to redo: after a
crash the store is opened and closed first.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import blake3

from mqcore._native.crc32c import crc32c
from mqcore._native.io import Io
from mqcore._native.producer_state import Producers
from mqcore._native.segment import recover
from mqcore.errors import MQError
from mqcore.log import checkpoints, layout, metadata_salvage
from mqcore.log.check_report import Lost, RepairReport
from mqcore.log.checkpoints import SegmentState
from mqcore.log.layout import Layout
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.lock import StoreLock
from mqcore.log.partition_check import CheckedSegment, PartitionCheck
from mqcore.log.producer_state import PRODUCERS_MAX, Snapshots, walk
from mqcore.log.segment_check import BATCH_BYTES_MAX, BadRange, Bytes
from mqcore.log.topics import METADATA_TOPIC
from mqcore.log.verify import Progress, StoreChecker

_COPY_BYTES = 4 << 20
_OFFSET_DELTA_MAX = (1 << 31) - 1
_HEADER = struct.Struct(">qiibIhiqqqhii")  # see mqcore/include/mqcore/batch.h
_CRC_POSITION, _CRC_START = 17, 21
_INDEXES = (layout.INDEX, layout.TIME_INDEX)


def repair(path: str | os.PathLike[str], progress: Progress | None = None, *, io: Io | None = None) -> RepairReport:
    """Mend the store in a directory, as far as its files allow; return what was done, lost and left.

    Takes the writer's lock. Raises StoreLockedError, StoreFormatError (no store), DiskFullError, StorageError.
    """
    root = os.path.realpath(path)
    report = RepairReport(root)
    checker = _checked(root, progress)
    io = io or Io()
    if checker.report.problems and not checker.report.clean and _recover(root, report, io):
        checker = _checked(root, progress)
    if checker.report.ok:
        return report
    lock = StoreLock(Layout(root).path(layout.LOCK))
    try:
        checker = StoreChecker(root, progress, live=False)
        checker.run()
        _Repairer(checker, report, io).run()
        again = StoreChecker(root, live=False)
        report.problems = again.run().problems
    finally:
        lock.close()
    return report


def _checked(root: str, progress: Progress | None) -> StoreChecker:
    checker = StoreChecker(root, progress)
    if checker.report.live:
        StoreLock(Layout(root).path(layout.LOCK)).close()  # raises, with the holder's pid
    checker.run()
    return checker


def _recover(root: str, report: RepairReport, io: Io) -> bool:
    """Open and close the store, so that the journal is empty and torn tails are cut; False if it does not open."""
    from mqcore.log.manager import LogStore

    try:
        LogStore.open(root, io=io).close()
    except MQError as error:
        report.actions.append(f"a normal open failed: {error}")
        return False
    report.actions.append("recovered by a normal open")
    return True


class Fill(NamedTuple):
    """Offsets offset .. next_offset - 1 get an empty batch."""

    offset: int
    next_offset: int


class Copy(NamedTuple):
    """Bytes start .. end - 1 stay."""

    start: int
    end: int


@dataclass(slots=True)
class Plan:
    """How a segment is rewritten. out: what goes to quarantine."""

    pieces: list[Copy | Fill] = field(default_factory=list)
    out: list[BadRange] = field(default_factory=list)
    patches: dict[int, bytes] = field(default_factory=dict)  # position of a batch -> its right first 16 bytes' changes
    next_offset: int = 0


def plan_segment(segment: CheckedSegment, file_size: int, follows: int, gaps: bool) -> Plan | None:
    """Return how to rewrite a segment, None if its bytes are good. Pure.

    follows: the offset that must come after it (the next segment's base, or what is proven), -1 if nothing says.
    gaps: offsets may be missing (a compacted topic).
    """
    found, bad = segment.found, list(segment.found.bad)
    if segment.damage is not None:
        # What lies behind this damage was copied to the next segment by the open that found it.
        damage = segment.damage
        bad.append(BadRange(damage.position, file_size, damage.offset, damage.next_offset, "damaged"))
    end = max(found.next_offset, segment.damage.next_offset if segment.damage else 0)
    if follows > end and not gaps and not (bad and bad[-1].next_offset < 0):
        bad.append(BadRange(file_size, file_size, end, follows, "records are missing"))
    if not bad and not found.misnumbered:
        return None
    plan, position = Plan(next_offset=end), 0
    for one in sorted(bad):
        if one.position > position:
            plan.pieces.append(Copy(position, one.position))
        position = one.end
        following = one.next_offset if one.next_offset >= 0 else max(follows, one.offset)
        if one.end > one.position or following > one.offset:
            plan.out.append(one._replace(next_offset=following))
        if following > one.offset and not (gaps and one.next_offset >= 0):
            plan.pieces.append(Fill(one.offset, following))
            plan.next_offset = max(plan.next_offset, following)
    if position < file_size:
        plan.pieces.append(Copy(position, file_size))
    for wrong in found.misnumbered:
        plan.patches[wrong.position] = struct.pack(">q4xi", wrong.right_base_offset, wrong.right_leader_epoch)
    return plan


def empty_batches(base_offset: int, next_offset: int, leader_epoch: int) -> bytes:
    """Return batches without records that take these offsets (KIP-98's header, record count 0)."""
    out = bytearray()
    while base_offset < next_offset:
        count = min(next_offset - base_offset, _OFFSET_DELTA_MAX)
        batch = bytearray(
            _HEADER.pack(base_offset, _HEADER.size - 12, leader_epoch, 2, 0, 0, count - 1, -1, -1, -1, -1, -1, 0)
        )
        struct.pack_into(">I", batch, _CRC_POSITION, crc32c(memoryview(batch)[_CRC_START:]))
        out += batch
        base_offset += count
    return bytes(out)


class _Repairer:
    """One repair, with the store's lock held and the journal empty (or untouchable partitions left alone)."""

    def __init__(self, checker: StoreChecker, report: RepairReport, io: Io) -> None:
        self._checker, self._around, self._report, self._io = checker, checker.around, report, io
        self._layout = Layout(checker.report.path)

    def run(self) -> None:
        if self._is_other_version():
            self._report.actions.append("left alone: another version of mqcore wrote it, and knows its files")
            return
        clean = self._layout.path(layout.CLEAN_SHUTDOWN)
        self._meta()
        if layout.lstat_kind(clean) == "file":
            self._io.unlink(clean)
            self._io.sync_dir(self._layout.root)
        damaged_metadata = False
        for checked in self._checker.partitions:
            if checked.problems:
                self._partition(checked)
                damaged_metadata |= checked.expected.topic == METADATA_TOPIC.name
        if damaged_metadata or not self._around.registry_known:
            self._report.actions += metadata_salvage.salvage(self._io, self._layout, self._checker)
        if damaged_metadata or any(problem.kind == "view" for problem in self._checker.report.problems):
            self._drop_views()

    def _meta(self) -> None:
        """A damaged meta.json can be made anew where the journal, whose records carry the store id, is not needed."""
        path = self._layout.path(layout.META)
        if not self._around.store_id and self._around.clean is not None:
            try:
                checkpoints.read_meta(self._io, path)
            except MQError:
                checkpoints.write_meta(self._io, path, checkpoints.Meta(os.urandom(16)))
                self._report.actions.append("meta.json was made anew, with a new store id")

    def _is_other_version(self) -> bool:
        """What another format means by its files, this version cannot know: it must not mend them."""
        path = self._layout.path(layout.META)
        if layout.lstat_kind(path) != "file":
            return False
        with open(path, "rb") as file:
            try:
                return bool(json.loads(file.readline(1000))["format"] != layout.FORMAT_VERSION)
            except (ValueError, KeyError, TypeError, RecursionError):
                return False

    def _drop_views(self) -> None:
        from mqcore.log.view_tables import CLEAN, DATA

        directory = self._layout.path(layout.VIEWS)
        for name in (CLEAN, DATA):
            if layout.lstat_kind(os.path.join(directory, name)) == "file":
                self._io.unlink(os.path.join(directory, name))
        self._report.actions.append("views removed; the next open rebuilds them from their logs")

    # -- partitions -------------------------------------------------------------------------------------------------

    def _partition(self, checked: PartitionCheck) -> None:
        expected = checked.expected
        if self._journal_has_bytes(checked):
            self._report.actions.append(f"{checked.directory}: left alone, the journal has bytes to redo")
            return
        segments, repaired = checked.segments, False
        for i, segment in enumerate(segments):
            last = i + 1 == len(segments)
            follows = max(expected.log_end, expected.proven) if last else segments[i + 1].base_offset
            if follows < segment.found.next_offset and not last:
                continue  # overlapping segments: which of them is right cannot be told from here; the open decides
            repaired |= self._segment(checked, segment, follows)
        self._small_files(checked, repaired)

    def _journal_has_bytes(self, checked: PartitionCheck) -> bool:
        topic_id = checked.expected.topic_id
        proven = self._around.journal.get((topic_id, checked.expected.partition), 0) if topic_id is not None else 0
        point = self._around.recovery_points.get(
            checkpoints.PartitionKey(checked.expected.topic, checked.expected.partition), 0
        )
        return proven > point

    def _segment(self, checked: PartitionCheck, segment: CheckedSegment, follows: int) -> bool:
        """Mend one segment and its companions; return whether its log was rewritten."""
        size = os.stat(segment.path, follow_symlinks=False).st_size
        plan = plan_segment(segment, size, follows, checked.expected.compacted)
        if plan is not None and plan.next_offset - segment.base_offset > _OFFSET_DELTA_MAX:
            self._report.actions.append(f"{segment.path}: left alone, more offsets are missing than a segment can hold")
            return False
        if plan is not None:
            for one in plan.out:
                self._quarantine(checked, segment, one)
            self._rewrite(segment, plan)
        elif segment.digest:
            self._set_aside(checked, segment, layout.DIGEST)
        if plan is not None or segment.indexes:
            self._rebuild_indexes(checked, segment)
        return plan is not None

    def _quarantine(self, checked: PartitionCheck, segment: CheckedSegment, one: BadRange) -> None:
        """Copy a range to quarantine, synced, with its note; tell what is lost with it."""
        expected, report, target = checked.expected, self._report, ""
        if one.end > one.position:
            name = f"{segment.base_offset:020d}-{one.position}-{one.end - one.position}"
            target = os.path.join(self._quarantine_dir(checked), name + ".bin")
            hasher = blake3.blake3()
            for position, piece in _pieces(segment.path, one.position, one.end):
                self._io.write_at(target, piece, position - one.position)
                hasher.update(piece)
            self._io.sync_file(target)
            note = {
                "topic": expected.topic,
                "partition": expected.partition,
                "segment": os.path.basename(segment.path),
                "position": one.position,
                "size": one.end - one.position,
                "offset": one.offset,
                "next_offset": one.next_offset,
                "reason": one.what,
                "blake3": hasher.hexdigest(),
            }
            self._io.write_atomic(target.removesuffix(".bin") + ".json", json.dumps(note, indent=1).encode() + b"\n")
            report.bytes_quarantined += one.end - one.position
        if one.next_offset > one.offset:
            report.records_lost += one.next_offset - one.offset
            report.lost.append(Lost(expected.topic, expected.partition, one.offset, one.next_offset, target))

    def _quarantine_dir(self, checked: PartitionCheck) -> str:
        root = self._layout.path(layout.QUARANTINE)
        target = os.path.join(root, layout.partition_dir_name(checked.expected.topic, checked.expected.partition))
        for directory in (root, target):
            if not layout.require_kind(directory, "dir"):
                self._io.mkdir(directory)
                self._io.sync_dir(os.path.dirname(directory))
        return target

    def _rewrite(self, segment: CheckedSegment, plan: Plan) -> None:
        temporary = segment.path + layout.CLEANED
        if layout.require_kind(temporary, "file"):
            self._io.unlink(temporary)
        self._io.write_at(temporary, b"", 0)
        at, epoch = 0, max(segment.found.last_epoch, 0)
        for piece in plan.pieces:
            if isinstance(piece, Fill):
                data = empty_batches(piece.offset, piece.next_offset, epoch)
                self._io.write_at(temporary, data, at)
                at += len(data)
                continue
            for position, chunk in _pieces(segment.path, piece.start, piece.end):
                _patch(chunk, position, plan.patches)
                self._io.write_at(temporary, chunk, at)
                at += len(chunk)
        self._io.sync_file(temporary)
        directory = os.path.dirname(segment.path)
        for suffix in (*_INDEXES, layout.DIGEST):
            path = segment.path.removesuffix(layout.LOG) + suffix
            if layout.lstat_kind(path) == "file":
                self._io.unlink(path)
        self._io.sync_dir(directory)
        Snapshots(self._io, directory).drop_above(segment.base_offset)  # they know what is not there any more
        self._io.rename(temporary, segment.path)
        self._io.sync_dir(directory)
        self._report.segments_rewritten += 1
        self._report.batches_renumbered += len(plan.patches)

    def _set_aside(self, checked: PartitionCheck, segment: CheckedSegment, suffix: str) -> None:
        """Move a companion file to quarantine."""
        path = segment.path.removesuffix(layout.LOG) + suffix
        if layout.lstat_kind(path) == "file":
            target = os.path.join(self._quarantine_dir(checked), os.path.basename(path))
            self._io.rename(path, target)
            self._io.sync_dir(os.path.dirname(target))
            self._report.actions.append(f"{path}: {segment.digest}; moved to quarantine, to be made anew")

    def _rebuild_indexes(self, checked: PartitionCheck, segment: CheckedSegment) -> None:
        txn = segment.path.removesuffix(layout.LOG) + layout.TXN_INDEX
        if layout.TXN_INDEX in segment.indexes and layout.lstat_kind(txn) == "file":
            self._io.unlink(txn)
        producers = Producers(PRODUCERS_MAX)  # an abort's transaction may begin in an earlier segment
        for before in checked.segments:
            if before.base_offset < segment.base_offset:
                state = SegmentState(before.base_offset, before.found.size, before.found.next_offset, -1, -1)
                walk(self._io, checked.directory, producers, [state])
        recover(
            self._io,
            checked.directory,
            segment.base_offset,
            max_batch_bytes=BATCH_BYTES_MAX,
            allow_gaps=checked.expected.compacted,
            producers=producers,
        )
        self._report.indexes_rebuilt += 1

    def _small_files(self, checked: PartitionCheck, repaired: bool) -> None:
        directory, wrong, io = checked.directory, checked.wrong_files, self._io
        if layout.PARTITION_METADATA in wrong and checked.expected.topic_id is not None:
            checkpoints.write_topic_id(
                io, os.path.join(directory, layout.PARTITION_METADATA), checked.expected.topic_id
            )
            self._report.actions.append(f"{directory}: the topic id was written anew, from the directory's name")
        if layout.LEADER_EPOCHS in wrong:
            epochs = LeaderEpochs()
            for segment in checked.segments:
                for epoch, start in segment.found.epoch_starts:
                    epochs.assign(epoch, start)
            checkpoints.write_leader_epochs(io, os.path.join(directory, layout.LEADER_EPOCHS), epochs)
            self._report.actions.append(f"{directory}: the leader epochs were written anew, from the batches")
        damaged = os.path.join(directory, layout.DAMAGED)
        if layout.lstat_kind(damaged) == "file" and (
            layout.DAMAGED in wrong or any(segment.damage is not None for segment in checked.segments)
        ):
            io.unlink(damaged)
            io.sync_dir(directory)


def _pieces(path: str, start: int, end: int) -> Iterable[tuple[int, bytearray]]:
    """Yield (position, bytes) of a range; sectors that the disk refuses come as zeros."""
    with Bytes(path) as file:
        while start < end:
            piece = file.read(start, min(_COPY_BYTES, end - start))
            if not piece:
                return
            yield start, piece
            start += len(piece)


def _patch(chunk: bytearray, position: int, patches: dict[int, bytes]) -> None:
    """Write the right base offsets and epochs into a piece of a segment, wherever pieces were cut."""
    for at, fields in patches.items():
        for i in (*range(8), *range(12, 16)):
            if 0 <= at + i - position < len(chunk):
                chunk[at + i - position] = fields[i]
