"""Check one partition directory: every segment with its indexes and digest, and how the segments follow each other.

Invariants:
    1. Reads only. Whatever lies in the directory is a finding; nothing in it raises.
    2. Each byte of each segment is read once, for batches, indexes and digest together.
    3. A finding at the very end of the last segment is a problem only below `proven`, or after a clean close: what lies
       behind it was promised to nobody, and the next open cuts it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mqcore._native.producer_state import Producers
from mqcore.errors import MQError, StorageError
from mqcore.log import checkpoints, layout, seal
from mqcore.log.check_report import Problem
from mqcore.log.checkpoints import Damage
from mqcore.log.index_check import SegmentIndexes
from mqcore.log.leader_epochs import LeaderEpochs
from mqcore.log.producer_state import PRODUCERS_MAX
from mqcore.log.segment_check import NO_BOUND, BadRange, Bytes, SegmentCheck, SegmentChecker

if TYPE_CHECKING:
    from mqcore._native.io import Io

_LIVE_TRIES = 5
_Read = TypeVar("_Read")
_KNOWN = frozenset({layout.LEADER_EPOCHS, layout.PARTITION_METADATA, layout.DAMAGED})


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rest of the store says of a partition; None and -1 where it says nothing.

    log_end: as a clean close noted it. proven: below it all is durable (recovery point, log start, journal).
    segments: (base offset, size) of each as a clean close noted them. live: a writer has the store open.
    """

    topic: str
    partition: int
    topic_id: uuid.UUID | None = None
    compacted: bool = False
    log_end: int = -1
    proven: int = 0
    clean: bool = False
    segments: tuple[tuple[int, int], ...] = ()
    live: bool = False


@dataclass(slots=True)
class CheckedSegment:
    """One segment: its contents, and which of its companions are wrong. damage: what recovery noted before."""

    base_offset: int
    path: str
    found: SegmentCheck
    damage: Damage | None = None
    indexes: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # what is wrong with it
    digest_ok: bool = False


@dataclass(slots=True)
class PartitionCheck:
    expected: Expected
    directory: str
    segments: list[CheckedSegment] = field(default_factory=list)
    wrong_files: list[str] = field(default_factory=list)  # names of small files that cannot be read
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def log_end(self) -> int:
        """The offset after the last readable or known-lost record."""
        if not self.segments:
            return 0
        last = self.segments[-1]
        return max(last.found.next_offset, last.damage.next_offset if last.damage else 0)


class PartitionChecker:
    """One pass over one directory."""

    def __init__(
        self, io: Io, directory: str, expected: Expected, progress: Callable[[int], None] | None = None
    ) -> None:
        """progress: called with the number of bytes just read."""
        self._io, self._directory, self._expected, self._progress = io, directory, expected, progress
        self._check = PartitionCheck(expected, directory)
        self._epochs: LeaderEpochs | None = None
        self._chain = ""

    def run(self) -> PartitionCheck:
        """Check everything and return what was found."""
        names = self._list()
        self._small_files()
        bases = sorted(
            parsed.base_offset
            for parsed in map(layout.parse_segment_file, names)
            if parsed is not None and parsed.suffix == layout.LOG and not parsed.state
        )
        self._check_noted(bases)
        known = {damage.base_offset: damage for damage in self._small(layout.DAMAGED, checkpoints.read_damage) or []}
        for i, base in enumerate(bases):
            following = bases[i + 1] if i + 1 < len(bases) else None
            self._follow(base)
            try:
                self._segment(base, following, known.get(base))
            except FileNotFoundError:
                if not self._expected.live:
                    self._problem("file", self._path(base), "it vanished while it was read")
            except OSError as error:
                self._problem("file", self._path(base), f"unreadable: {error.strerror}")
        self._end()
        return self._check

    # -- directory --------------------------------------------------------------------------------------------------

    def _list(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except OSError as error:
            self._problem("directory", self._directory, f"unreadable: {error.strerror}")
            return []
        logs = {name for name in names if name.endswith(layout.LOG)}
        kept = []
        for name in names:
            path, parsed = os.path.join(self._directory, name), layout.parse_segment_file(name)
            if layout.lstat_kind(path) != "file":
                if layout.lstat_kind(path) or not self._expected.live:
                    self._problem("file", path, "not a plain file")
            elif parsed is None and name not in _KNOWN:
                self._check.notes.append(f"{path}: not a file of a partition")
            elif parsed is not None and parsed.state:
                self._check.notes.append(f"{path}: left by a crash; the next open deals with it")
            elif parsed is not None and parsed.suffix == layout.SNAPSHOT:
                self._snapshot(path, parsed.base_offset)
            elif parsed is not None and layout.segment_name(parsed.base_offset) not in logs and not self._expected.live:
                self._check.notes.append(f"{path}: belongs to no segment")
            else:
                kept.append(name)
        return kept

    def _snapshot(self, path: str, offset: int) -> None:
        try:
            Producers.decode(self._io.read_file(path), offset, PRODUCERS_MAX)
        except FileNotFoundError:
            pass  # a living writer keeps two
        except (MQError, OSError) as error:
            self._check.notes.append(f"{path}: {_reason(error)}; the next open looks into the batches instead")

    def _small_files(self) -> None:
        path = os.path.join(self._directory, layout.PARTITION_METADATA)
        topic_id = self._small(layout.PARTITION_METADATA, checkpoints.read_topic_id)
        if topic_id is None and layout.PARTITION_METADATA not in self._check.wrong_files:
            self._check.wrong_files.append(layout.PARTITION_METADATA)
            self._problem("file", path, "the topic id is missing")
        elif topic_id is not None and self._expected.topic_id not in (None, topic_id):
            self._problem("directory", self._directory, f"holds topic id {topic_id}, not {self._expected.topic_id}")
        self._epochs = self._small(layout.LEADER_EPOCHS, checkpoints.read_leader_epochs)

    def _small(self, name: str, read: Callable[[Io, str], _Read | None]) -> _Read | None:
        """Read a small file; None, and a problem, if that cannot be done."""
        path = os.path.join(self._directory, name)
        try:
            return read(self._io, path)
        except (MQError, OSError) as error:
            self._check.wrong_files.append(name)
            self._problem("file", path, _reason(error))
            return None

    def _check_noted(self, bases: list[int]) -> None:
        """Compare the segments with those that a clean close noted; what lies between two others is found as a gap."""
        noted = [base for base, _ in self._expected.segments]
        for base, size in self._expected.segments:
            if base not in bases and size and (not bases or base < bases[0]):
                following = next((b for b in [*bases, *noted] if b > base), -1)
                self._problem("lost", self._path(base), "the segment is missing", offset=base, next_offset=following)

    # -- segments ---------------------------------------------------------------------------------------------------

    def _follow(self, base: int) -> None:
        """Check that a segment begins where the one before ended."""
        segments = self._check.segments
        if not segments or base == self._check.log_end or (self._expected.compacted and base > self._check.log_end):
            return
        if base < self._check.log_end:
            self._problem(
                "gap", self._path(base), f"overlaps the segment before it, which ends at {self._check.log_end}"
            )
        elif not segments[-1].found.bad or segments[-1].found.bad[-1].next_offset >= 0:
            self._problem("gap", segments[-1].path, "records are missing", offset=self._check.log_end, next_offset=base)

    def _segment(self, base: int, following: int | None, damage: Damage | None) -> None:
        path, expected = self._path(base), self._expected
        below = following if following is not None else expected.log_end if expected.log_end >= 0 else NO_BOUND
        checked = CheckedSegment(base, path, SegmentCheck(base), damage)
        # What recovery noted as damaged breaks the digest; it is reported once.
        digest = self._read_digest(checked) if damage is None else None
        indexes = SegmentIndexes(self._directory, base)
        hasher = seal.ALGORITHMS[digest.algorithm]() if digest is not None else None
        # The active segment is never compacted: a gap in it is a base offset that flipped (no checksum covers that).
        compacted = expected.compacted and (following is not None or expected.live)
        gaps = compacted or (digest is not None and digest.gaps)

        def read(piece: memoryview, _: int) -> None:
            if hasher is not None:
                hasher.update(piece)
            if self._progress is not None:
                self._progress(len(piece))

        # A damaged range that recovery noted: what follows it was copied to the next segment.
        limit = damage.position if damage is not None else -1
        for attempt in range(_LIVE_TRIES):
            with Bytes(path) as file:
                checker = SegmentChecker(
                    file,
                    base,
                    size=limit,
                    allow_gaps=gaps,
                    below=below,
                    epoch_of=self._epoch_of if self._epochs is not None else None,
                    on_rows=indexes.rows if attempt == 0 else None,
                    on_bytes=read if attempt == 0 else None,
                )
                found = checker.run()
            # A living writer may be in the middle of a write; then the next look finds the end elsewhere.
            if not (expected.live and following is None and found.bad and found.bad[-1].next_offset < 0):
                break
        checked.found = found
        if hasher is not None and digest is not None:
            self._compare(checked, digest, hasher.hexdigest())
        sealed = following is not None and damage is None
        if not (expected.live and following is None):
            checked.indexes = indexes.finish(found, sealed=sealed)
        self._check.segments.append(checked)
        self._report(checked, last=following is None)

    def _epoch_of(self, offset: int) -> int:
        # No file means that epoch 0 began with the first record; an offset below the first entry is not known.
        epochs = self._epochs
        return epochs.epoch_of(offset) if epochs is not None and epochs.entries else 0

    def _read_digest(self, checked: CheckedSegment) -> seal.Digest | None:
        path = os.path.join(self._directory, layout.segment_name(checked.base_offset, layout.DIGEST))
        try:
            digest = seal.read_digest(path)
        except (MQError, OSError) as error:
            checked.digest = _reason(error)
            self._chain = ""
            return None
        if digest is not None and digest.base_offset != checked.base_offset:
            checked.digest = f"it is of segment {digest.base_offset}"
            return None
        return digest

    def _compare(self, checked: CheckedSegment, digest: seal.Digest, computed: str) -> None:
        if digest.size != checked.found.size:
            checked.digest = f"it covers {digest.size} bytes, the segment has {checked.found.size}"
        elif digest.digest != computed:
            checked.digest = "the segment's bytes have another digest"
        elif digest.previous and self._chain and digest.previous != self._chain:
            checked.digest = "its chain does not go on from the segment before"
        else:
            checked.digest_ok = True
        self._chain = digest.chain

    # -- telling ----------------------------------------------------------------------------------------------------

    def _report(self, checked: CheckedSegment, last: bool) -> None:
        if checked.damage is not None:
            self._bad(checked, checked.damage, "noted as damaged by an earlier open")
        for bad in checked.found.bad:
            if last and bad.next_offset < 0 and bad.end == checked.found.size and self._is_tail(bad):
                self._check.notes.append(
                    f"{checked.path}: {bad.what} at byte {bad.position}; the next open cuts it off"
                )
            else:
                self._bad(checked, bad, bad.what)
        for wrong in checked.found.misnumbered:
            self._problem(
                "number",
                checked.path,
                f"offset {wrong.base_offset} epoch {wrong.leader_epoch} must be "
                f"{wrong.right_base_offset} epoch {wrong.right_leader_epoch}",
                position=wrong.position,
                offset=wrong.right_base_offset,
            )
        for suffix, what in checked.indexes.items():
            path = checked.path.removesuffix(layout.LOG) + suffix
            if not self._expected.clean and checked.found.next_offset >= self._expected.proven:
                self._check.notes.append(f"{path}: {what}; the next open rebuilds it")
            else:
                self._problem("index", path, what)
        if checked.digest:
            self._problem("digest", checked.path.removesuffix(layout.LOG) + layout.DIGEST, checked.digest)

    def _is_tail(self, bad: BadRange) -> bool:
        """Whether damage at the end is nobody's loss (invariant 3). A living writer may be writing it just now."""
        return self._expected.live or (not self._expected.clean and bad.offset >= self._expected.proven)

    def _bad(self, checked: CheckedSegment, bad: BadRange | Damage, what: str) -> None:
        self._problem(
            "batch" if bad.end > bad.position else "gap",
            checked.path,
            what,
            position=bad.position,
            size=bad.end - bad.position,
            offset=bad.offset,
            next_offset=bad.next_offset,
        )

    def _end(self) -> None:
        expected, check = self._expected, self._check
        if expected.live:
            return
        wanted = max(expected.log_end, expected.proven)
        # A bad range at the end says the same already.
        told = bool(
            check.segments and check.segments[-1].found.bad and check.segments[-1].found.bad[-1].next_offset < 0
        )
        if check.log_end < wanted and not told:
            self._problem(
                "lost", self._directory, "acknowledged records are missing", offset=check.log_end, next_offset=wanted
            )
        elif expected.clean and 0 <= expected.log_end < check.log_end:
            self._problem(
                "file", self._directory, f"the log ends at {check.log_end}, the clean close said {expected.log_end}"
            )

    def _path(self, base: int) -> str:
        return os.path.join(self._directory, layout.segment_name(base))

    def _problem(
        self,
        kind: str,
        path: str,
        what: str,
        *,
        position: int = -1,
        size: int = 0,
        offset: int = -1,
        next_offset: int = -1,
    ) -> None:
        expected = self._expected
        self._check.problems.append(
            Problem(kind, path, what, expected.topic, expected.partition, position, size, offset, next_offset)
        )


def _reason(error: Exception) -> str:
    if isinstance(error, StorageError) and error.where.get("errno") is not None:
        return f"unreadable: {os.strerror(error.where['errno'])}"
    return error.what if isinstance(error, MQError) else str(error)
