"""Bring one partition directory back after a crash: journal, scan, then cut or keep as damage.

The rule (R7), for a bad batch at offset `o`, with `proven` = what journal and recovery points prove durable:
    the next segment begins at o    nobody's: what a failed write left, cut, though it be good batches; the log goes
                                    on with that segment, which was written to later
    o < proven                      damage: kept, an error when read, the log goes on behind it
    else, written under fsync       nobody was told: the log ends here; it and all behind it is cut
    else (os, memory)               a valid successor: damage; none: a torn tail, cut
`written under` is what the session recorded, not how the store is opened today.
Under fsync a decision of a transaction may reach the disk before what it decides about (group_commit.py, invariant 5):
    __transaction_state       ends at what is proven, whatever valid bytes follow
    elsewhere                 ends at the first marker past `proven` that the recovered decisions do not bear out

Invariants:
    1. Each step is idempotent: a crash in the middle of recovery is recovered like any other.
    2. Nothing below `proven` is ever cut, and no offset below it is ever given out again.
    3. What is kept is synced before the partition is handed out (R11: a reader must not see what a crash takes back).
    4. Indexes are rebuilt for every segment that is not wholly below the recovery point: evidence flows from the log
       only (R4). So is producer state, from the newest snapshot before them on: transactions span segments, and the
       .txnindex of the later one tells where they began.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mqcore._native.producer_state import Producers
from mqcore.errors import StoreFormatError
from mqcore.log import checkpoints, layout, producer_state, segment_swap
from mqcore.log.checkpoints import Damage, SegmentState
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.open_report import Finding, OpenReport
from mqcore.log.producer_state import Snapshots
from mqcore.log.segments import UNKNOWN
from mqcore.types import Durability

if TYPE_CHECKING:
    import uuid

    from mqcore._native.io import Io
    from mqcore._native.segment import Recovered

BATCH_BYTES_MAX = 256 << 20  # the core's bound: a topic's own limit may have been larger when the batch was taken in
_COPY_BYTES = 4 << 20
BearsOut = Callable[[int, int, int], bool]
"""(producer id, epoch, kind) of a marker: whether the recovered decisions say so."""
_BASE_OFFSET = struct.Struct(">q")
_TEMPORARY = ".tmp"
_GO_ON, _LOG_ENDS = -1, -2


class JournalEntry(NamedTuple):
    """What the journal proves durable of one partition. data None: it lies synced in the segment already."""

    segment_base: int
    position: int
    base_offset: int
    next_offset: int
    leader_epoch: int
    data: bytes | None


@dataclass(slots=True)
class Loaded:
    """A partition as it can be served now."""

    segments: list[SegmentState] = field(default_factory=list)
    sealed: set[int] = field(default_factory=set)  # base offsets of segments that are final
    damage: list[Damage] = field(default_factory=list)
    log_start: int = 0
    log_end: int = 0
    epochs: LeaderEpochs = field(default_factory=LeaderEpochs)
    producers: Producers = field(default_factory=lambda: Producers(producer_state.PRODUCERS_MAX))  # at the log end
    touched: list[str] = field(default_factory=list)  # files to sync before anybody reads


class PartitionRecovery:
    """Recovery of one partition directory. Its steps in order: redo, scan."""

    def __init__(
        self,
        io: Io,
        directory: str,
        topic: str,
        partition: int,
        report: OpenReport,
        *,
        recovery_point: int,
        log_start: int,
        durability: Durability,
        compacted: bool,
        index_interval_bytes: int,
        index_max_bytes: int,
        report_lock: threading.Lock | None = None,
        only_proven: bool = False,
        bears_out: BearsOut | None = None,
    ) -> None:
        """only_proven: the partition holds decisions. bears_out: of a partition that holds data: what was decided.
        recovery_point: everything below is synced. log_start: as checkpointed, 0 if it was not. durability: under
        which the data was written last."""
        self.io, self.directory, self.topic, self.partition = io, directory, topic, partition
        self.report, self.durability, self.compacted = report, durability, compacted
        self.recovery_point, self.log_start = recovery_point, log_start
        # A log start was moved over records that were there: their offsets are taken, whatever became of the files.
        self.proven = max(recovery_point, log_start)
        self._known: dict[int, Damage] = {}
        self._index_limits = (index_interval_bytes, index_max_bytes)
        fsync = durability == Durability.FSYNC  # else what a killed process wrote is there in its order
        self._only_proven, self._bears_out = only_proven and fsync, bears_out if fsync else None
        self._lock = report_lock or threading.Lock()
        self._loaded = Loaded()
        self._snapshots = Snapshots(io, directory)
        self._carried = False  # producer state has come to the segment that is scanned next

    # -- journal ----------------------------------------------------------------------------------------------------

    def redo(self, entry: JournalEntry, topic_id: uuid.UUID) -> None:
        """Write what one entry of the journal proves durable, if the segment lacks it. Oldest entries first."""
        with self._lock:
            self.report.journal_entries += 1
        path = self._path(entry.segment_base)
        synced = entry.next_offset <= self.recovery_point  # its segment may have been compacted or removed since
        if synced or (entry.next_offset <= self.log_start and not layout.require_kind(path, "file")):
            return  # where the segment is there, it needs what lies below the log start: a hole would be damage
        self.proven = max(self.proven, entry.next_offset)
        if entry.data is None:
            return
        self._make_directory(topic_id)
        if layout.require_kind(path, "file") and read_at(path, entry.position, len(entry.data)) == entry.data:
            return
        self.io.write_at(path, entry.data, entry.position)
        with self._lock:
            self.report.redone_bytes += len(entry.data)

    def _make_directory(self, topic_id: uuid.UUID) -> None:
        path = os.path.join(self.directory, layout.PARTITION_METADATA)
        if not layout.require_kind(self.directory, "dir"):
            self.io.mkdir(self.directory)
        if not layout.require_kind(path, "file"):
            checkpoints.write_topic_id(self.io, path, topic_id)

    # -- scan -------------------------------------------------------------------------------------------------------

    def run(self) -> Loaded:
        """Scan what is not known to be good; cut or note damage. The files in `.touched` are still to be synced."""
        self._finish_swaps()
        self._tidy()
        self._load_epochs()
        self._known = {damage.base_offset: damage for damage in self._load_damage()}
        pending = self._without_litter(layout.list_segments(self.directory))
        while pending:
            base = pending.pop(0)
            expected = self._expected()
            if base < expected:
                self._set_aside(base, f"overlaps the segment before it, which ends at offset {expected}")
            elif (
                self._loaded.segments and base > expected and not self.compacted and not self._keep_gap(expected, base)
            ):
                pending.insert(0, base)
                break
            else:
                outcome = self._segment(base, pending[0] if pending else None)
                if outcome == _LOG_ENDS:
                    break
                if outcome != _GO_ON:
                    pending.insert(0, outcome)
        for base in pending:
            self._set_aside(base, "behind the end of what was acknowledged")
        self._finish()
        return self._loaded

    def _without_litter(self, bases: list[int]) -> list[int]:
        """The segments, but for empty ones that others follow: a roll that failed leaves one, and the segment before
        it went on past its base. Only the last may be empty: it says where the log ends."""
        kept = [base for base in bases[:-1] if self._holds_data(base)] + bases[-1:]
        for base in set(bases) - set(kept):
            self._unlink(base)
        return kept

    def _expected(self) -> int:
        """The offset that the next segment begins at, unless offsets are missing."""
        loaded = self._loaded
        if not loaded.segments:
            return 0
        last = loaded.segments[-1]
        if loaded.damage and loaded.damage[-1].base_offset == last.base_offset:
            return loaded.damage[-1].next_offset
        return last.next_offset

    def _segment(self, base: int, following: int | None) -> int:
        """Take in one segment. _GO_ON with the next one; _LOG_ENDS in this one; or the base offset of a segment that
        was split off behind damage and is to be taken in next."""
        path, loaded, known = self._path(base), self._loaded, self._known.get(base)
        # Below it, not at it: a checkpoint at the end of an active segment that was rolled later says nothing of its seal.
        believed = following is not None and following < self.recovery_point and self._has_indexes(base)
        # An empty successor proves nothing: it may be what a failed roll left, and this one may have gone on past it.
        if following is not None and believed and self._holds_data(following):
            # Synced and sealed, and so is all up to its successor: believed without a scan. (`log verify` reads all.)
            if known is None:
                size = os.stat(path, follow_symlinks=False).st_size
                loaded.segments.append(SegmentState(base, size, following, UNKNOWN, UNKNOWN))
            else:
                loaded.segments.append(SegmentState(base, known.position, known.offset, UNKNOWN, UNKNOWN))
                loaded.damage.append(known)
            loaded.sealed.add(base)
            return _GO_ON
        end = following if following is not None and self._holds_data(following) else 0
        found, emptied = self._scan(base, end)
        offset = max(base, found.next_offset)
        loaded.segments.append(SegmentState(base, found.valid_size, offset, found.max_timestamp, UNKNOWN))
        loaded.touched.append(path)
        # The epoch file may be behind the log (damaged, lost): the batches know better. Where the epoch began is not
        # known exactly then; this segment's base is the latest start that is safe.
        loaded.epochs.assign(found.last_leader_epoch, base)
        if not found.problem:
            return _LOG_ENDS if emptied else _GO_ON
        if known is not None and known.position == found.valid_size:
            loaded.damage.append(known)  # met by an earlier recovery, and not repaired yet
            loaded.sealed.add(base)
            return _GO_ON
        # What is bad here never had an offset.
        complete = offset == following and (found.valid_after < 0 or end > 0)
        if not complete and self._is_damage(found, offset, following):
            return self._keep_damage(base, found, offset, following)
        size = found.file_size - found.valid_size
        if size:
            self.io.truncate(path, found.valid_size)
        self._note("cut", path, found.problem, found.valid_size, size, offset)
        return _GO_ON if complete else _LOG_ENDS

    def _scan(self, base: int, end: int) -> tuple[Recovered, bool]:
        """Recover a segment, no further than decisions are borne out (see the top). True: nothing of it was."""
        limit: int | None = self.proven
        if not self._only_proven:
            found = self._recover(base, end)
            limit = self._first_unfounded(found)
            if limit is None:
                return found, False
            # The scan that is thrown away has carried them past the limit.
            self._carried, self._loaded.producers = False, Producers(producer_state.PRODUCERS_MAX)
        assert limit is not None
        if limit > base:
            return self._recover(base, min(end, limit) if end else limit), False
        path = self._path(base)
        if (size := os.stat(path, follow_symlinks=False).st_size) > 0:
            self.io.truncate(path, 0)
            self._note("cut", path, "a decision that nothing proves", 0, size, base)
        return self._recover(base, 0), True

    def _first_unfounded(self, found: Recovered) -> int | None:
        """Offset of the first unproven marker whose transaction was not decided so."""
        if self._bears_out is None:
            return None
        return next((offset for offset, *marker in found.markers if not self._bears_out(*marker)), None)

    def _is_damage(self, found: Recovered, offset: int, following: int | None) -> bool:
        """The rule at the top."""
        if offset < self.proven:
            return True
        if self.durability == Durability.FSYNC:
            return False
        return found.valid_after >= 0 or (following is not None and self._holds_data(following))

    def _keep_damage(self, base: int, found: Recovered, offset: int, following: int | None) -> int:
        path, end, outcome = self._path(base), found.file_size, _GO_ON
        # Where nothing valid follows: on with the next segment, or with the first offset that nobody was told of.
        next_offset = following if following is not None else max(self.proven, offset + 1)
        if found.valid_after >= 0:
            successor: int = _BASE_OFFSET.unpack(read_at(path, found.valid_after, 8))[0]
            # A successor that repeats offsets, or those of the next segment, is no successor; the latter is also what
            # a crash in the middle of this leaves.
            if max(offset, base + 1) <= successor and (following is None or successor < following):
                outcome = next_offset = self._split(base, found.valid_after, successor)
                end = found.valid_after
        self._loaded.damage.append(Damage(base, found.valid_size, end, offset, next_offset))
        self._loaded.sealed.add(base)
        self._note("damaged", path, found.problem, found.valid_size, end - found.valid_size, offset, next_offset)
        return outcome

    def _keep_gap(self, expected: int, base: int) -> bool:
        """Offsets expected .. base - 1 are missing between two segments. True: damage, what follows is kept. False:
        the log ends before the gap."""
        if expected >= self.proven and self.durability == Durability.FSYNC:
            return False
        last = self._loaded.segments[-1]
        self._loaded.damage.append(Damage(last.base_offset, last.size, last.size, expected, base))
        self._loaded.sealed.add(last.base_offset)
        self._note("damaged", self._path(last.base_offset), "records are missing", last.size, 0, expected, base)
        return True

    def _split(self, base: int, position: int, next_offset: int) -> int:
        """Copy what lies behind damage to a segment of its own; return its base offset. The damaged file stays as it
        is: as evidence, and because another process may have it mapped."""
        path, target = self._path(base), self._path(next_offset)
        temporary = target + layout.CLEANED
        if layout.require_kind(temporary, "file"):
            self.io.unlink(temporary)
        at, size = position, os.stat(path, follow_symlinks=False).st_size
        while at < size:
            part = read_at(path, at, min(_COPY_BYTES, size - at))
            self.io.write_at(temporary, part, at - position)
            at += len(part)
        self.io.sync_file(temporary)
        self.io.rename(temporary, target)
        self.io.sync_dir(self.directory)
        return next_offset

    def _finish(self) -> None:
        loaded = self._loaded
        loaded.log_end = self._expected()
        if loaded.log_end < self.proven:
            self._lost(loaded.log_end)
        first = loaded.segments[0].base_offset if loaded.segments else loaded.log_end
        loaded.log_start = min(max(first, self.log_start), loaded.log_end)
        if loaded.damage != list(self._known.values()):
            checkpoints.write_damage(self.io, os.path.join(self.directory, layout.DAMAGED), loaded.damage)
        self._snapshots.drop_above(loaded.log_end)
        loaded.producers.moved(loaded.log_end)
        if loaded.epochs.truncate_end(loaded.log_end) and layout.lstat_kind(self._epochs_path()):
            checkpoints.write_leader_epochs(self.io, self._epochs_path(), loaded.epochs)

    def _lost(self, log_end: int) -> None:
        """The log is valid but ends below what is proven: files were cut or removed from outside. The offsets are not
        given out again (invariant 2)."""
        loaded = self._loaded
        if loaded.segments:
            last = loaded.segments[-1]
            loaded.damage.append(Damage(last.base_offset, last.size, last.size, log_end, self.proven))
            loaded.sealed.add(last.base_offset)
        self._note("lost", self.directory, "acknowledged records are missing", -1, 0, log_end, self.proven)
        loaded.log_end = self.proven

    # -- files ------------------------------------------------------------------------------------------------------

    def _finish_swaps(self) -> None:
        """Go on with compaction's swaps that a crash interrupted."""
        if layout.require_kind(self.directory, "dir"):
            for base in segment_swap.recover(self.io, self.directory, self._set_swap_aside):
                self._note("rebuilt", self._path(base), "an interrupted compaction was finished")

    def _set_swap_aside(self, path: str, reason: str) -> None:
        target = self._quarantine()
        self.io.rename(path, unused(os.path.join(target, os.path.basename(path))))
        self._note("quarantined", path, reason)

    def _tidy(self) -> None:
        """Remove what a crash left half-made or half-removed."""
        names = set(os.listdir(self.directory)) if layout.require_kind(self.directory, "dir") else set()
        for name in sorted(names):
            path = os.path.join(self.directory, name)
            parsed = layout.parse_segment_file(name)
            half = name.endswith(_TEMPORARY) or (
                parsed is not None and parsed.state in (layout.CLEANED, layout.DELETED)
            )
            orphan = (
                parsed is not None
                and not parsed.state
                and parsed.suffix in (layout.INDEX, layout.TIME_INDEX, layout.TXN_INDEX, layout.DIGEST)
                and layout.segment_name(parsed.base_offset) not in names
                and layout.segment_name(parsed.base_offset) + layout.SWAP not in names
            )
            if (half or orphan) and layout.lstat_kind(path) == "file":
                self.io.unlink(path)

    def _load_epochs(self) -> None:
        try:
            self._loaded.epochs = checkpoints.read_leader_epochs(self.io, self._epochs_path())
        except StoreFormatError as error:
            self._note("rebuilt", self._epochs_path(), error.what)
            self.io.unlink(self._epochs_path())

    def _load_damage(self) -> list[Damage]:
        path = os.path.join(self.directory, layout.DAMAGED)
        try:
            return checkpoints.read_damage(self.io, path)
        except StoreFormatError as error:
            self._note("rebuilt", path, error.what)
            self.io.unlink(path)
            return []

    def _recover(self, base: int, end: int) -> Recovered:
        from mqcore._native.segment import recover

        found = recover(
            self.io,
            self.directory,
            base,
            from_position=0,
            from_offset=-1 if self.compacted else base,
            end_offset=end,
            max_batch_bytes=BATCH_BYTES_MAX,
            allow_gaps=self.compacted,
            index_interval_bytes=self._index_limits[0],
            index_max_bytes=self._index_limits[1],
            sync_indexes=False,
            producers=self._producers_before(base),
            markers_from=None if self._bears_out is None else self.proven,
        )
        with self._lock:
            self.report.segments_scanned += 1
            self.report.bytes_scanned += found.file_size
            self.report.records_scanned += found.records
        return found

    def _producers_before(self, base: int) -> Producers:
        """Producer state as of the segment at `base`: the first to be scanned, or the next. What lies before the first
        was believed, and is walked from the newest snapshot on."""
        loaded = self._loaded
        if not self._carried:
            self._carried = True
            found = self._snapshots.newest(base, self._epoch_of, producer_state.PRODUCERS_MAX)
            if found is not None:
                loaded.producers = found
            producer_state.walk(self.io, self.directory, loaded.producers, loaded.segments)
        return loaded.producers

    def _epoch_of(self, offset: int) -> int:
        return max(0, self._loaded.epochs.epoch_of(offset))

    def _set_aside(self, base: int, reason: str) -> None:
        """Take a segment out of the log, into the store's quarantine: never deleted (R10)."""
        if not self._holds_data(base):
            self._unlink(base)
            return
        target = self._quarantine()
        size = os.stat(self._path(base), follow_symlinks=False).st_size
        for suffix in layout.SEGMENT_SUFFIXES:
            path = self._path(base, suffix)
            if layout.lstat_kind(path) == "file":
                if suffix == layout.LOG:
                    self.io.rename(path, unused(os.path.join(target, os.path.basename(path))))
                else:
                    self.io.unlink(path)
        self._note("cut", self._path(base), reason, 0, size, base)

    def _unlink(self, base: int) -> None:
        """Remove the files of an empty segment."""
        for suffix in layout.SEGMENT_SUFFIXES:
            if layout.lstat_kind(self._path(base, suffix)) == "file":
                self.io.unlink(self._path(base, suffix))

    def _quarantine(self) -> str:
        """This partition's directory in the store's quarantine."""
        root = os.path.dirname(os.path.dirname(self.directory))
        target = os.path.join(root, layout.QUARANTINE, os.path.basename(self.directory))
        for directory in (os.path.dirname(target), target):
            if not layout.require_kind(directory, "dir"):
                self.io.mkdir(directory)
        return target

    def _holds_data(self, base: int) -> bool:
        return os.stat(self._path(base), follow_symlinks=False).st_size > 0

    def _has_indexes(self, base: int) -> bool:
        return all(
            layout.lstat_kind(self._path(base, suffix)) == "file" for suffix in (layout.INDEX, layout.TIME_INDEX)
        )

    def _path(self, base: int, suffix: str = layout.LOG) -> str:
        return os.path.join(self.directory, layout.segment_name(base, suffix))

    def _epochs_path(self) -> str:
        return os.path.join(self.directory, layout.LEADER_EPOCHS)

    def _note(
        self,
        what: str,
        path: str,
        reason: str,
        position: int = -1,
        size: int = 0,
        offset: int = -1,
        next_offset: int = -1,
    ) -> None:
        finding = Finding(what, path, reason, self.topic, self.partition, position, size, offset, next_offset)
        with self._lock:
            self.report.add(finding)


def unused(path: str) -> str:
    """`path`, or `path.1`, `path.2`, … : the first that is free."""
    number, free = 0, path
    while layout.lstat_kind(free):
        number += 1
        free = f"{path}.{number}"
    return free


def read_at(path: str, position: int, size: int) -> bytes:
    """Up to `size` bytes at `position`; fewer at the end of the file. A link is not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return os.pread(fd, size, position)
    finally:
        os.close(fd)
