"""Check a store: every invariant that its files can be asked about, every byte. Used by the CLI, `repair` and tests.

Invariants:
    1. Reads only: no file is made, changed or touched; a store that is in use stays in use, and is told from damage.
    2. Whatever lies in the directory is a finding in the report. Only a path that cannot be a store at all raises.
    3. Evidence flows from the log (R4): a view, index or checkpoint that disagrees with it is what is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mqcore._native.io import Io
from mqcore.errors import MQError, StoreFormatError
from mqcore.log import checkpoints, layout, view_tables
from mqcore.log.check_report import Problem, RepairReport, VerifyReport
from mqcore.log.checkpoints import PartitionKey, PartitionState
from mqcore.log.layout import Layout
from mqcore.log.partition_check import Expected, PartitionCheck, PartitionChecker
from mqcore.log.segment_check import Bytes
from mqcore.log.topics import (
    METADATA_TOPIC,
    PRODUCER_IDS_KEY,
    DeletedTopic,
    TopicInfo,
    parse_producer_ids,
    parse_record,
)
from mqcore.log.view_pairs import Damaged

Progress = Callable[[int, int], None]
"""Called now and then with (bytes checked, bytes in all)."""
_VIEW_WALK_BYTES = 1 << 30  # verify has time: it walks what an open would rather rebuild
_Read = TypeVar("_Read")


@dataclass(slots=True)
class Surroundings:
    """What the store's own files say, before the logs are read."""

    store_id: bytes = b""
    clean: dict[PartitionKey, PartitionState] | None = None
    recovery_points: dict[PartitionKey, int] = field(default_factory=dict)
    log_starts: dict[PartitionKey, int] = field(default_factory=dict)
    cleaned: dict[PartitionKey, int] = field(default_factory=dict)  # how far compaction came
    journal: dict[tuple[uuid.UUID, int], int] = field(default_factory=dict)  # (topic id, partition) -> proven offset
    topics: dict[str, TopicInfo] = field(default_factory=dict)
    deleted: dict[uuid.UUID, DeletedTopic] = field(default_factory=dict)
    metadata: dict[bytes, bytes] = field(default_factory=dict)  # the fold of `__metadata`
    metadata_records: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)
    registry_known: bool = False


def verify(path: str | os.PathLike[str], progress: Progress | None = None) -> VerifyReport:
    """Check the store in a directory and return what was found. Works on a closed store, a damaged one, one that a
    crash left, and beside a living writer (then without views and journal, and without judging what is being written).

    Raises StoreFormatError if there is no store at the path, or one of another format version.
    """
    return StoreChecker(os.path.realpath(path), progress).run()


class StoreChecker:
    """One check of a whole store."""

    def __init__(self, path: str, progress: Progress | None = None, *, live: bool | None = None) -> None:
        """live: whether a writer has the store open; None: look."""
        self._layout, self._progress, self._io = Layout(path), progress, Io()
        self.report = VerifyReport(path)
        self.around = Surroundings()
        self.partitions: list[PartitionCheck] = []
        self.report.live = writer_lives(self._layout.path(layout.LOCK)) if live is None else live
        self._done = self._total = 0

    def run(self) -> VerifyReport:
        """Check everything; `partitions` and `around` hold the details afterwards."""
        started = time.monotonic()
        self._look()
        self._total = _size_of_logs(self._layout.topics)
        self._journal()
        self._partition(METADATA_TOPIC.name, 0)
        self._registry()
        for name in self._names():
            self._directory(name)
        self._missing()
        self._views()
        self.report.topics = len(self.around.topics)
        self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    # -- the store's own files --------------------------------------------------------------------------------------

    def _look(self) -> None:
        if layout.lstat_kind(self._layout.root) != "dir":
            raise StoreFormatError("no such store", path=self._layout.root)
        path, io, around = self._layout.path(layout.META), self._io, self.around
        if not layout.lstat_kind(path) and not layout.lstat_kind(self._layout.topics):
            raise StoreFormatError("not a store: no meta.json", hint="Check the path", path=self._layout.root)
        meta = self._read(layout.META, lambda p: checkpoints.read_meta(io, p), missing="it is missing")
        if meta is not None:
            around.store_id, self.report.store_id = meta.store_id, meta.store_id.hex()
        around.clean = self._read(layout.CLEAN_SHUTDOWN, lambda p: checkpoints.read_clean_shutdown(io, p))
        self.report.clean = around.clean is not None and not self.report.live
        if self.report.live:
            around.clean = None
        self._read(layout.SESSION, lambda p: checkpoints.read_session(io, p))
        around.recovery_points = self._read(layout.RECOVERY_POINTS, lambda p: checkpoints.read_offsets(io, p)) or {}
        around.log_starts = self._read(layout.LOG_STARTS, lambda p: checkpoints.read_offsets(io, p)) or {}
        around.cleaned = self._read(layout.CLEANED_OFFSETS, lambda p: checkpoints.read_offsets(io, p)) or {}

    def _read(self, name: str, read: Callable[[str], _Read | None], missing: str = "") -> _Read | None:
        path = self._layout.path(name)
        try:
            value = read(path)
        except (MQError, OSError) as error:
            self._problem("file", path, _what(error))
            return None
        if value is None and missing:
            self._problem("file", path, missing)
        return value

    def _journal(self) -> None:
        """What the journal proves, and whether it can be read. Beside a living writer it changes: left alone."""
        path, around = self._layout.path(layout.JOURNAL), self.around
        if self.report.live or self.report.clean or len(around.store_id) != 16 or not layout.lstat_kind(path):
            return
        from mqcore.log.group_commit import GroupCommit

        try:
            layout.require_kind(path, "dir")
            journal = GroupCommit.open(self._io, path, around.store_id, read_only=True)
            try:
                for entry in journal.replay():
                    key = entry.topic_id, entry.partition
                    around.journal[key] = max(around.journal.get(key, 0), entry.next_offset)
                damage = journal.damage
            finally:
                journal.abandon()
            if damage:
                self._problem("journal", path, damage)
        except (MQError, OSError) as error:
            self._problem("journal", path, _what(error))

    # -- the registry -----------------------------------------------------------------------------------------------

    def _registry(self) -> None:
        """Fold `__metadata` as far as it is readable."""
        around, path = self.around, self._layout.partition_dir(METADATA_TOPIC.name, 0)
        checked = self.partitions[0] if self.partitions else None
        around.registry_known = checked is not None and not checked.problems
        for segment in checked.segments if checked is not None else []:
            try:
                for offset, key, value in read_records(
                    segment.path, segment.found.size, [b[:2] for b in segment.found.bad]
                ):
                    around.metadata_records.append((offset, key, value))
                    if value is None:
                        around.metadata.pop(key, None)
                    else:
                        around.metadata[key] = value
            except (MQError, OSError) as error:
                around.registry_known = False
                self._problem("registry", segment.path, _what(error))
        for key, value in around.metadata.items():
            try:
                if key == PRODUCER_IDS_KEY:
                    parse_producer_ids(value)
                    continue
                info, deleted = parse_record(key, value)
            except MQError as error:
                around.registry_known = False
                self._problem("registry", path, str(error))
                continue
            if deleted is not None:
                around.deleted[info.topic_id] = deleted
            elif info.name in around.topics:
                self._problem("registry", path, f"two topics are called {info.name!r}")
            else:
                around.topics[info.name] = info

    # -- partitions -------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._layout.topics))
        except OSError as error:
            self._problem("directory", self._layout.topics, _what(error))
            return []

    def _directory(self, name: str) -> None:
        path, parsed = os.path.join(self._layout.topics, name), layout.parse_partition_dir(name)
        if layout.is_deleted_dir(name):
            self.report.notes.append(f"{path}: of a deleted topic; on its way out")
        elif parsed is None or layout.lstat_kind(path) != "dir":
            if layout.lstat_kind(path):
                self._problem("directory", path, "not a partition directory")
        elif parsed[0] != METADATA_TOPIC.name:
            self._partition(*parsed)

    def _partition(self, topic: str, number: int) -> None:
        around, directory, key = self.around, self._layout.partition_dir(topic, number), PartitionKey(topic, number)
        if layout.lstat_kind(directory) != "dir":
            return
        info = METADATA_TOPIC if topic == METADATA_TOPIC.name else around.topics.get(topic)
        if (info is None or number >= info.partitions) and self._is_unknown(directory, topic):
            return
        state = around.clean.get(key) if around.clean is not None else None
        proven = max(around.recovery_points.get(key, 0), around.log_starts.get(key, 0))
        if info is not None:
            proven = max(proven, around.journal.get((info.topic_id, number), 0))
        expected = Expected(
            topic,
            number,
            topic_id=info.topic_id if info is not None else None,
            compacted=(info is not None and info.config.compacted) or key in around.cleaned,
            log_end=state.log_end if state is not None else -1,
            proven=proven,
            clean=state is not None,
            segments=tuple((one.base_offset, one.size) for one in state.segments) if state is not None else (),
            live=self.report.live,
        )
        checked = PartitionChecker(self._io, directory, expected, self._advance).run()
        self.partitions.append(checked)
        report = self.report
        report.partitions += 1
        report.segments += len(checked.segments)
        for segment in checked.segments:
            report.batches += segment.found.batches
            report.records += segment.found.records
            report.bytes += segment.found.size
            report.digests += segment.digest_ok
        report.problems += checked.problems
        report.notes += checked.notes

    def _is_unknown(self, directory: str, topic: str) -> bool:
        """Say what a directory of no known topic is; True if there is no use in checking it as that topic's."""
        if self.report.live:
            return True  # made or deleted just now
        with contextlib.suppress(MQError, OSError):
            topic_id = checkpoints.read_topic_id(self._io, os.path.join(directory, layout.PARTITION_METADATA))
            if topic_id in self.around.deleted:
                self.report.notes.append(f"{directory}: of a deleted topic; the next open removes it")
                return True
        self._problem(
            "directory", directory, "of no known topic or partition; the next open would quarantine it", topic
        )
        return False

    def _missing(self) -> None:
        """Partitions that held records and have no directory any more."""
        if self.report.live:
            return
        around = self.around
        there = {(checked.expected.topic, checked.expected.partition) for checked in self.partitions}
        wanted = {key: state.log_end - state.log_start for key, state in (around.clean or {}).items()}
        wanted |= {key: max(wanted.get(key, 0), point) for key, point in around.recovery_points.items()}
        for key, records in sorted(wanted.items()):
            known = key.topic in around.topics or key.topic == METADATA_TOPIC.name
            if records > 0 and known and key not in there:
                directory = self._layout.partition_dir(*key)
                self._problem("lost", directory, "the partition's directory is missing", key.topic, key.partition)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._done, self._total))

    # -- views ------------------------------------------------------------------------------------------------------

    def _views(self) -> None:
        """The tables of views against the logs. A writer would change them under us: left alone beside one."""
        path = self._layout.path(layout.VIEWS)
        if self.report.live or not layout.lstat_kind(path):
            return
        try:
            layout.require_kind(path, "dir")
            reason, vouched = view_tables.check_file(path, _VIEW_WALK_BYTES)
            if not reason:
                reason = self._compare_view(path)
        except (MQError, OSError) as error:
            reason, vouched = _what(error), True
        if reason and (self.report.clean or vouched):
            self._problem("view", path, reason)
        elif reason:
            self.report.notes.append(f"{path}: {reason}; the next open rebuilds the views")

    def _compare_view(self, path: str) -> str:
        """Compare the registry's view with the fold of its log up to the view's position."""
        try:
            stored = view_tables.read_view(path, "topics")
        except Damaged as damage:
            return str(damage)
        if stored is None:
            return ""
        position, pairs = stored
        end = self.partitions[0].log_end if self.partitions else 0
        owner = self.around.store_id
        if owner and position.source != view_tables.source_of(owner, METADATA_TOPIC.topic_id):
            return "the view of topics belongs to another topic, or to another store"
        if position.offset > end:
            return f"the view of topics is ahead of its log: {position.offset} > {end}"
        fold: dict[bytes, bytes] = {}
        for offset, key, value in self.around.metadata_records:
            if offset < position.offset:
                if value is None:
                    fold.pop(key, None)
                else:
                    fold[key] = value
        return "" if fold == pairs else "the view of topics differs from what its log folds into"

    def _problem(self, kind: str, path: str, what: str, topic: str = "", partition: int = -1) -> None:
        self.report.problems.append(Problem(kind, path, what, topic, partition))


def read_records(path: str, size: int, bad: list[tuple[int, int]]) -> list[tuple[int, bytes, bytes | None]]:
    """Return (offset, key, value) of the records with a key in a segment of a small internal topic, its bad ranges
    (position, end) left out. Raises MQError, OSError."""
    from mqcore._native.batch import decode

    with Bytes(path) as file:
        data = file.read(0, size)
    records, position = [], 0
    for start, end in [*sorted(bad), (len(data), len(data))]:
        while position < start:
            columns, position = decode(data, position, start)
            if columns.compressed_next:
                raise StoreFormatError("compressed batch in an internal topic", path=path, position=position)
            records += [(r.offset, r.key, r.value) for r in columns.iter_records() if r.key is not None]
        position = end
    return records


def writer_lives(lock_path: str) -> bool:
    """Return whether another open holds the store's lock. The test holds it shared for microseconds itself."""
    try:
        fd = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def _size_of_logs(directory: str) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError, MQError):
                if entry.is_dir(follow_symlinks=False):
                    for base in layout.list_segments(entry.path):
                        total += os.stat(os.path.join(entry.path, layout.segment_name(base))).st_size
    return total


def _what(error: Exception) -> str:
    return error.what if isinstance(error, MQError) else str(getattr(error, "strerror", None) or error)


def by_partition(report: VerifyReport) -> Mapping[tuple[str, int], list[Problem]]:
    """Return a report's problems by (topic, partition); those of the store itself under ("", -1)."""
    found: dict[tuple[str, int], list[Problem]] = {}
    for problem in report.problems:
        found.setdefault((problem.topic, problem.partition), []).append(problem)
    return found


def repair(path: str | os.PathLike[str], progress: Progress | None = None) -> RepairReport:
    """Mend the store in a directory: see mqcore.log.repair."""
    from mqcore.log.repair import repair as mend

    return mend(path, progress)
